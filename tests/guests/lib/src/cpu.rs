//! Registers and instructions of the processor, as far as the guests need them: those of the architecture, and what is
//! written the same in both.

use core::arch::asm;

pub use crate::arch::cpu::*;

/// Waits for an interrupt, also a masked one.
#[inline(always)]
pub fn wfi() {
    // SAFETY: a hint.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Completes all memory accesses.
#[inline(always)]
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Makes changes of registers visible to the following instructions.
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
