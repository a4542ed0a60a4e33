//! The tables that start.S filled.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu;

/// Blocks of 2 MiB below 4 GiB.
const BLOCKS: usize = 2048;
/// A block of normal memory that may be read and written, and executed: accessed, inner shareable, attribute 1 of start.S.
const NORMAL: u64 = 0x705;

unsafe extern "C" {
    static __level2: [AtomicU64; BLOCKS];
}

/// Makes physical memory below 4 GiB normal cacheable memory at the same virtual address, by whole 2 MiB.
///
/// # Safety
/// There is memory, and no device whose registers are in use.
pub unsafe fn map_normal(start: u64, size: u64) {
    let first = start >> 21;
    let last = (start.saturating_add(size).saturating_sub(1) >> 21).min(BLOCKS as u64 - 1);
    for block in first..=last {
        // The image's own window stays.
        if block != 1 {
            // SAFETY: the linker script defines the tables, four pages in a row; `block` is below their length.
            unsafe { __level2[block as usize].store(block << 21 | NORMAL, Relaxed) };
        }
    }
    cpu::dsb();
    // SAFETY: only cached translations are dropped.
    unsafe {
        core::arch::asm!(
            "tlbi vmalle1",
            "dsb sy",
            "isb",
            options(nostack, preserves_flags)
        )
    };
}
