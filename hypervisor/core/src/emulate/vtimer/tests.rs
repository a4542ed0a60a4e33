use super::TimerRegister::{Control, TimerValue};
use super::*;

#[test]
fn a_timer_runs_once() {
    let mut t = PhysicalTimer::new();
    assert_eq!(
        (t.read(Control, 5), t.line(5), t.deadline(5)),
        (0, false, None)
    );
    t.write(TimerValue, 100, 1000);
    assert_eq!((t.compare(), t.deadline(1000)), (1100, None), "disabled");
    t.write(Control, !IMASK, 1000);
    assert_eq!(t.read(Control, 1099), ENABLE, "ISTATUS is not writable");
    assert_eq!((t.deadline(1099), t.line(1099)), (Some(1100), false));
    assert_eq!(t.read(TimerValue, 1090), 10);
    assert_eq!((t.deadline(1100), t.line(1100)), (None, true));
    assert_eq!(t.read(Control, 1100), ENABLE | ISTATUS);
    assert_eq!(t.read(TimerValue, 1101), u32::MAX);
    // Masked: the status stays, the line falls.
    t.write(Control, ENABLE | IMASK, 1100);
    assert_eq!((t.line(1100), t.deadline(0)), (false, None));
    assert_eq!(t.read(Control, 1100), ENABLE | IMASK | ISTATUS);
    // Disabled: nothing.
    t.write(Control, 0, 1100);
    assert_eq!((t.read(Control, 1100), t.line(1100)), (0, false));
}

#[test]
fn xsa_20_hostile_values() {
    let mut t = PhysicalTimer::new();
    t.write(Control, ENABLE, 0);
    t.write(TimerValue, 0x8000_0000, 10);
    // Before the beginning of time: wraps to the far future, as the hardware's 64-bit comparison does.
    assert_eq!(t.compare(), 10u64.wrapping_sub(1 << 31));
    assert!(!t.line(10));
    t.write(TimerValue, u32::MAX, 1000);
    assert!(t.line(1000));
    t.set_compare(u64::MAX);
    assert_eq!(
        (t.line(u64::MAX - 1), t.deadline(0)),
        (false, Some(u64::MAX))
    );
    t.write(TimerValue, 0x7fff_ffff, u64::MAX);
    assert_eq!(t.read(TimerValue, u64::MAX), 0x7fff_ffff);
}

#[test]
fn the_line_rises_exactly_at_the_deadline() {
    let seed = 0xfeed_beefu64;
    let mut state = seed;
    let mut t = PhysicalTimer::new();
    for step in 0..20_000u64 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let now = step * 50;
        match state % 4 {
            0 => t.write(Control, (state >> 8) as u32, now),
            1 => t.write(TimerValue, (state >> 8) as u32 % 300, now),
            2 => t.set_compare(now + state % 200),
            _ => {}
        }
        if let Some(at) = t.deadline(now) {
            assert!(
                at > now && !t.line(now) && !t.line(at - 1) && t.line(at),
                "seed {seed:#x} step {step}"
            );
        } else if !t.line(now) {
            assert!(
                !t.line(now + 1_000_000),
                "seed {seed:#x} step {step}: rises without a deadline"
            );
        }
        let status = t.read(Control, now);
        assert_eq!(t.line(now), status & 7 == 5, "seed {seed:#x} step {step}");
    }
}
