//! Secure state is never ours: firmware has it, or there is none.

use xenith_core::addr::HostPhys;

/// What would answer our SMCs if the boot loader had left Secure state to us. There is no such thing here.
#[derive(Clone, Copy)]
pub enum Monitor {}

impl Monitor {
    /// Returns none.
    ///
    /// # Safety
    /// None is needed; on arm32 it is.
    pub(crate) unsafe fn of_entry(_was_secure: usize) -> Option<Self> {
        None
    }

    /// See arm32.
    pub fn set_frequency(self, _hz: u64) {
        match self {}
    }

    /// See arm32.
    pub fn release_spis(self, _gicd: HostPhys, _words: u32) {
        match self {}
    }

    /// See arm32.
    pub fn release_cpu(self, _gicd: HostPhys, _gicc: HostPhys) {
        match self {}
    }

    /// See arm32.
    pub fn send_secure_sgi(self, _gicd: HostPhys, _id: u8, _targets: u8) {
        match self {}
    }
}
