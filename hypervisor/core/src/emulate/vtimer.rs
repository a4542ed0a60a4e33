//! The emulated physical timer of a vCPU (CNTP_CTL, CNTP_CVAL, CNTP_TVAL; ARM DDI 0406C.d B8.1.5).
//!
//! The virtual timer is real hardware while its vCPU runs; the physical one is the hypervisor's, so guests get this.
//! Times are ticks of the counter as the guest reads it (CNTPCT). The interrupt is a level: the caller asks
//! [`PhysicalTimer::line`] after each operation and when the deadline passed, and drives the vGIC with it.

/// CNTP_CTL.ENABLE.
const ENABLE: u32 = 1 << 0;
/// CNTP_CTL.IMASK.
const IMASK: u32 = 1 << 1;
/// CNTP_CTL.ISTATUS, read-only.
const ISTATUS: u32 = 1 << 2;

/// A 32-bit timer register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerRegister {
    /// CNTP_CTL.
    Control,
    /// CNTP_TVAL.
    TimerValue,
}

/// The physical timer of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalTimer {
    control: u32,
    compare: u64,
}

impl PhysicalTimer {
    /// Creates the timer as after reset: disabled.
    pub const fn new() -> Self {
        Self {
            control: 0,
            compare: 0,
        }
    }

    /// Returns true when the timer condition is met: the count reached the compare value, as unsigned 64-bit numbers.
    #[inline]
    const fn is_expired(&self, now: u64) -> bool {
        now >= self.compare
    }

    /// Reads a 32-bit register.
    #[inline]
    pub const fn read(&self, register: TimerRegister, now: u64) -> u32 {
        match register {
            TimerRegister::Control => {
                // ISTATUS is UNKNOWN while disabled; 0 is what hardware and software expect.
                if self.control & ENABLE != 0 && self.is_expired(now) {
                    self.control | ISTATUS
                } else {
                    self.control
                }
            }
            TimerRegister::TimerValue => self.compare.wrapping_sub(now) as u32,
        }
    }

    /// Writes a 32-bit register.
    #[inline]
    pub const fn write(&mut self, register: TimerRegister, value: u32, now: u64) {
        match register {
            TimerRegister::Control => self.control = value & (ENABLE | IMASK),
            // TVAL is signed: a negative value lies in the past.
            TimerRegister::TimerValue => {
                self.compare = now.wrapping_add(value as i32 as i64 as u64)
            }
        }
    }

    /// Returns CNTP_CVAL.
    #[inline]
    pub const fn compare(&self) -> u64 {
        self.compare
    }

    /// Writes CNTP_CVAL.
    #[inline]
    pub const fn set_compare(&mut self, value: u64) {
        self.compare = value;
    }

    /// Returns true while the timer could raise its line, now or later.
    #[inline]
    pub const fn is_armed(&self) -> bool {
        self.control & (ENABLE | IMASK) == ENABLE
    }

    /// Returns the level of the interrupt output: enabled, not masked, condition met.
    #[inline]
    pub const fn line(&self, now: u64) -> bool {
        self.control & (ENABLE | IMASK) == ENABLE && self.is_expired(now)
    }

    /// Returns the tick at which the line will rise, or `None` if it is up already or will not rise by itself.
    #[inline]
    pub const fn deadline(&self, now: u64) -> Option<u64> {
        if self.control & (ENABLE | IMASK) == ENABLE && !self.is_expired(now) {
            Some(self.compare)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
