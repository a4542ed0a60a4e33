//! The generic timer: virtual (the guest's own) and physical (which hypervisors emulate).

use core::arch::asm;

crate::read_register!(
    /// CNTP_CTL.
    physical_control, "mrc p15, 0, {0}, c14, c2, 1");
crate::read_register!(
    /// CNTV_CTL.
    virtual_control, "mrc p15, 0, {0}, c14, c3, 1");

/// Writes CNTV_CTL: bit 0 enables, bit 1 masks.
#[inline(always)]
pub fn set_virtual_control(value: u32) {
    // SAFETY: the guest's own timer.
    unsafe {
        asm!("mcr p15, 0, {0}, c14, c3, 1", "isb", in(reg) value, options(nostack, preserves_flags))
    };
}

/// Writes CNTV_CVAL: fires when CNTVCT reaches it.
#[inline(always)]
pub fn set_virtual_compare(ticks: u64) {
    // SAFETY: the guest's own timer.
    unsafe {
        asm!("mcrr p15, 3, {0}, {1}, c14", in(reg) ticks as u32, in(reg) (ticks >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Writes CNTP_CTL.
#[inline(always)]
pub fn set_physical_control(value: u32) {
    // SAFETY: the guest's own (emulated) timer.
    unsafe {
        asm!("mcr p15, 0, {0}, c14, c2, 1", "isb", in(reg) value, options(nostack, preserves_flags))
    };
}

/// Writes CNTP_CVAL: fires when CNTPCT reaches it.
#[inline(always)]
pub fn set_physical_compare(ticks: u64) {
    // SAFETY: the guest's own (emulated) timer.
    unsafe {
        asm!("mcrr p15, 2, {0}, {1}, c14", in(reg) ticks as u32, in(reg) (ticks >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
