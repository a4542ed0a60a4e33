//! Ticks of the counter and nanoseconds.

/// Nanoseconds in a second.
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Converts between ticks of a counter and nanoseconds without dividing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickScale {
    frequency: u64,
    /// Nanoseconds of a tick, as a 32.32 fixed-point number.
    ns_per_tick: u64,
    /// Ticks of a nanosecond, as a 0.64 fixed-point number (a counter is slower than 1 GHz), or saturated.
    ticks_per_ns: u64,
}

impl TickScale {
    /// Makes the scale of a counter of `frequency` Hz; 0 is taken as 1 Hz.
    pub const fn new(frequency: u32) -> Self {
        let frequency = if frequency == 0 { 1 } else { frequency as u64 };
        let ticks_per_ns = ((frequency as u128) << 64) / NS_PER_SECOND as u128;
        Self {
            frequency,
            ns_per_tick: (NS_PER_SECOND << 32) / frequency,
            ticks_per_ns: if ticks_per_ns > u64::MAX as u128 {
                u64::MAX
            } else {
                ticks_per_ns as u64
            },
        }
    }

    /// Returns the frequency in Hz.
    pub const fn frequency(&self) -> u64 {
        self.frequency
    }

    /// Converts ticks to nanoseconds (rounded down; wraps beyond 584 years).
    pub const fn to_ns(&self, ticks: u64) -> u64 {
        ((ticks as u128 * self.ns_per_tick as u128) >> 32) as u64
    }

    /// Converts nanoseconds to ticks (rounded up, so that a deadline is never early).
    pub const fn to_ticks(&self, ns: u64) -> u64 {
        let product = ns as u128 * self.ticks_per_ns as u128;
        ((product >> 64) as u64).saturating_add(if product as u64 != 0 { 1 } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::TickScale;

    #[test]
    fn qemu_frequency_is_exact() {
        let scale = TickScale::new(62_500_000);
        assert_eq!(scale.to_ns(1), 16);
        assert_eq!(scale.to_ns(62_500_000), 1_000_000_000);
        assert_eq!(scale.to_ns(u64::MAX / 64), (u64::MAX / 64) * 16);
        assert_eq!(scale.to_ticks(16), 1);
        assert_eq!(scale.to_ticks(17), 2);
    }

    #[test]
    fn allwinner_frequency_drifts_less_than_a_millisecond_a_day() {
        let scale = TickScale::new(24_000_000);
        let day = 24_000_000u64 * 86_400;
        let exact = 86_400u64 * 1_000_000_000;
        assert!(scale.to_ns(day).abs_diff(exact) < 1_000_000);
        assert!(scale.to_ticks(exact).abs_diff(day) < 24_000);
    }

    #[test]
    fn no_frequency_is_no_crash() {
        assert_eq!(TickScale::new(0).to_ns(1), 1_000_000_000);
        let _ = TickScale::new(u32::MAX).to_ticks(u64::MAX);
    }
}
