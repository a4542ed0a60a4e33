//! Memory-mapped devices, and tables that the boot code mapped.

use core::sync::atomic::AtomicU64;

/// Returns words of zeroed memory that the boot code mapped for a table.
///
/// # Safety
/// `at` is 8-byte aligned; `words` 64-bit words there are mapped read-write, and belong to the caller for ever.
pub unsafe fn mapped_table(at: usize, words: usize) -> &'static [AtomicU64] {
    // SAFETY: By the contract.
    unsafe {
        core::ptr::write_bytes(at as *mut u64, 0, words);
        core::slice::from_raw_parts(at as *const AtomicU64, words)
    }
}

/// Volatile access to a device's registers, for the drivers of `xenith-platforms`.
pub struct DeviceRegisters {
    base: usize,
    len: usize,
}

impl DeviceRegisters {
    /// Wraps `len` bytes of device registers at `base`.
    ///
    /// # Safety
    /// The range is mapped as device memory for ever and used by no other driver.
    pub unsafe fn new(base: usize, len: usize) -> Self {
        Self { base, len }
    }

    /// Reads the 32-bit register at `offset`; out of range reads as 0.
    pub fn read32(&self, offset: usize) -> u32 {
        if !offset.is_multiple_of(4) || offset + 4 > self.len {
            return 0;
        }
        // SAFETY: In the range of `new`'s contract.
        unsafe { ((self.base + offset) as *const u32).read_volatile() }
    }

    /// Writes the 32-bit register at `offset`; out of range does nothing.
    pub fn write32(&self, offset: usize, value: u32) {
        if offset.is_multiple_of(4) && offset + 4 <= self.len {
            // SAFETY: In the range of `new`'s contract.
            unsafe { ((self.base + offset) as *mut u32).write_volatile(value) }
        }
    }

    /// Reads the byte register at `offset`; out of range reads as 0.
    pub fn read8(&self, offset: usize) -> u8 {
        if offset >= self.len {
            return 0;
        }
        // SAFETY: In the range of `new`'s contract.
        unsafe { ((self.base + offset) as *const u8).read_volatile() }
    }

    /// Writes the byte register at `offset`; out of range does nothing.
    pub fn write8(&self, offset: usize, value: u8) {
        if offset < self.len {
            // SAFETY: In the range of `new`'s contract.
            unsafe { ((self.base + offset) as *mut u8).write_volatile(value) }
        }
    }
}
