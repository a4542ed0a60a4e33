//! The first-level table that start.S filled.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::cpu;

unsafe extern "C" {
    static __level1: [AtomicU32; 4096];
}

/// Makes physical memory below 4 GiB normal cacheable memory at the same virtual address, by whole MiB.
///
/// # Safety
/// There is memory, and no device whose registers are in use.
pub unsafe fn map_normal(start: u64, size: u64) {
    let first = start >> 20;
    let last = (start.saturating_add(size).saturating_sub(1) >> 20).min(4095);
    for section in first..=last {
        // The image's own window stays.
        if section != 2 && section != 3 {
            // SAFETY: the linker script defines the table; `section` is below 4096.
            unsafe {
                __level1[section as usize].store((section as u32) << 20 | 0x0001_1c0e, Relaxed)
            };
        }
    }
    cpu::dsb();
    // SAFETY: TLBIALL and BPIALL only drop cached translations.
    unsafe {
        core::arch::asm!("mcr p15, 0, {0}, c8, c7, 0", "mcr p15, 0, {0}, c7, c5, 6", "dsb", "isb", in(reg) 0,
            options(nostack, preserves_flags));
    }
}
