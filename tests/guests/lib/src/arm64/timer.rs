//! The generic timer: virtual (the guest's own) and physical (which hypervisors emulate).

use core::arch::asm;

crate::read_register!(
    /// CNTP_CTL_EL0.
    physical_control, "mrs {0}, cntp_ctl_el0");
crate::read_register!(
    /// CNTV_CTL_EL0.
    virtual_control, "mrs {0}, cntv_ctl_el0");

macro_rules! write {
    ($(#[$doc:meta])* $name:ident, $value:ident: $type:ty, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($value: $type) {
            // SAFETY: the guest's own timer, real or emulated.
            unsafe {
                asm!($instruction, "isb", in(reg) u64::from($value), options(nostack, preserves_flags))
            };
        }
    };
}

write!(
    /// Writes CNTV_CTL_EL0: bit 0 enables, bit 1 masks.
    set_virtual_control, value: u32, "msr cntv_ctl_el0, {0}");
write!(
    /// Writes CNTV_CVAL_EL0: fires when CNTVCT reaches it.
    set_virtual_compare, ticks: u64, "msr cntv_cval_el0, {0}");
write!(
    /// Writes CNTP_CTL_EL0.
    set_physical_control, value: u32, "msr cntp_ctl_el0, {0}");
write!(
    /// Writes CNTP_CVAL_EL0: fires when CNTPCT reaches it.
    set_physical_compare, ticks: u64, "msr cntp_cval_el0, {0}");
