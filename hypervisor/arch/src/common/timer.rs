//! The generic timer: time, the hypervisor's own deadline, and the guest's virtual timer while it is live.

use crate::imp::sysreg;

/// Timer control bits (CNTx_CTL).
pub const CTL_ENABLE: u32 = 1;
/// The interrupt is masked at the timer.
pub const CTL_MASK: u32 = 2;
/// The condition is met.
pub const CTL_STATUS: u32 = 4;

/// Returns the physical counter, in ticks of [`frequency`].
#[inline(always)]
pub fn now() -> u64 {
    sysreg::isb();
    sysreg::cntpct::read()
}

/// Returns the counter's frequency in Hz as firmware set it; 0 where it did not.
pub fn frequency() -> u32 {
    sysreg::cntfrq::read()
}

/// Arms the hypervisor's timer for `deadline` (ticks), or switches it off.
pub fn set_deadline(deadline: Option<u64>) {
    // SAFETY: The hypervisor's own timer.
    unsafe {
        match deadline {
            Some(at) => {
                sysreg::cnthp_cval::write(at);
                sysreg::cnthp_ctl::write(CTL_ENABLE);
            }
            None => sysreg::cnthp_ctl::write(0),
        }
    }
    sysreg::isb();
}

/// A vCPU's virtual timer while the vCPU does not run.
#[derive(Clone, Copy, Default)]
pub struct VirtualTimer {
    /// CNTV_CTL (enable and mask bits).
    pub ctl: u32,
    /// CNTV_CVAL.
    pub cval: u64,
}

impl VirtualTimer {
    /// Takes the live timer off the CPU.
    pub fn save() -> Self {
        let this = Self {
            ctl: sysreg::cntv_ctl::read() & (CTL_ENABLE | CTL_MASK),
            cval: sysreg::cntv_cval::read(),
        };
        // SAFETY: The vCPU does not run any more.
        unsafe { sysreg::cntv_ctl::write(0) };
        sysreg::isb();
        this
    }

    /// Makes the timer live with the domain's counter offset.
    pub fn restore(self, offset: u64) {
        // SAFETY: State of the vCPU that is entered next.
        unsafe {
            sysreg::cntvoff::write(offset);
            sysreg::cntv_cval::write(self.cval);
            sysreg::cntv_ctl::write(self.ctl);
        }
        sysreg::isb();
    }

    /// Returns when the timer fires, in ticks of the physical counter; `u64::MAX` for never.
    pub fn deadline(self, offset: u64) -> u64 {
        if self.ctl & (CTL_ENABLE | CTL_MASK) == CTL_ENABLE {
            self.cval.saturating_add(offset)
        } else {
            u64::MAX
        }
    }
}

/// Returns true while the live virtual timer asserts its interrupt.
#[inline(always)]
pub fn virtual_timer_asserted() -> bool {
    sysreg::cntv_ctl::read() & (CTL_ENABLE | CTL_MASK | CTL_STATUS) == CTL_ENABLE | CTL_STATUS
}
