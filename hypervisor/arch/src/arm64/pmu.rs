//! Performance monitors of vCPUs: not given to guests on AArch64 yet.

/// Nothing: no vCPU has them.
#[derive(Clone)]
pub enum PmuState {}

impl Default for PmuState {
    fn default() -> Self {
        unreachable!("no vCPU has performance monitors: see `exists`")
    }
}

/// Returns whether a domain can have performance monitors.
pub fn exists() -> bool {
    false
}

impl PmuState {
    /// Saves the live registers.
    pub fn save(&mut self) {
        match *self {}
    }

    /// Makes this the live state.
    pub fn restore(&self) {
        match *self {}
    }
}
