//! Performance monitors of vCPUs: not given to guests on AArch64 yet.

/// Nothing: no vCPU has them.
#[derive(Clone)]
pub enum PmuState {}

/// Returns whether a domain can have performance monitors.
pub fn exists() -> bool {
    false
}

impl PmuState {
    /// Returns the state after reset, where there are performance monitors.
    pub fn reset() -> Option<Self> {
        None
    }

    /// Saves the live registers.
    pub fn save(&mut self) {
        match *self {}
    }

    /// Makes this the live state.
    pub fn restore(&self) {
        match *self {}
    }
}
