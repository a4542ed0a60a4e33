//! Counting instructions with the virtual counter.
//!
//! Under QEMU's `-icount shift=0` an instruction takes 1 ns of virtual time, whoever executes it. The counter runs at
//! 62.5 MHz, so a tick is 16 instructions. Two ways lead to single instructions:
//! * [`looped`]: many calls between two readings, less the same loop with a `nop` in the place of the trapping
//!   instruction. What remains is what the hypervisor executed.
//! * [`sampled`]: one call between two readings, repeated at varying phases of the tick. Each time is one of two
//!   neighbouring numbers of ticks; their mean is the time. Runs that differ from the median by more than that (the
//!   hypervisor's own timers came in between) are left out.

use core::cell::UnsafeCell;

use guest_lib::{cpu, println};

use crate::arch;

/// Sampled runs of one measurement.
pub const SAMPLES: usize = 512;
/// Batches of a loop; the cheapest counts.
const BATCHES: u32 = 8;

/// Memory for the samples; only used by the (one) processor outside of interrupts.
struct Samples(UnsafeCell<[u32; SAMPLES]>);

// SAFETY: see `Samples`.
unsafe impl Sync for Samples {}

static TIMES: Samples = Samples(UnsafeCell::new([0; SAMPLES]));

/// Instructions in a tick.
pub fn instructions_per_tick() -> u32 {
    1_000_000_000 / cpu::cntfrq()
}

/// Prints a result: undisturbed runs, and the mean of all runs.
pub fn report_mean(name: &str, (value, mean): (u32, u32)) {
    println!("bench: {name}: {value} mean {mean}");
}

fn batches<R>(count: u32, f: impl Fn() -> R) -> (u64, u64) {
    let (mut least, mut sum) = (u64::MAX, 0);
    for _ in 0..BATCHES {
        let start = cpu::cntvct();
        for _ in 0..count {
            f();
        }
        let time = cpu::cntvct() - start;
        least = least.min(time);
        sum += time;
    }
    (least, sum)
}

/// Instructions of `real` (undisturbed, mean) more than those of `dummy`, which differs only by a `nop`, with `count`
/// calls in a batch.
pub fn loop_cost<R>(count: u32, real: impl Fn() -> R, dummy: impl Fn() -> R) -> (u32, u32) {
    let (least, sum) = batches(count, real);
    let (empty, _) = batches(count, dummy);
    let each = |time: u64, calls: u32| {
        ((time * u64::from(instructions_per_tick()) + u64::from(calls / 2)) / u64::from(calls))
            as u32
    };
    let own = each(empty, count);
    (
        each(least, count).saturating_sub(own),
        each(sum, count * BATCHES).saturating_sub(own),
    )
}

/// Measures and prints [`loop_cost`].
pub fn looped<R>(name: &str, count: u32, real: impl Fn() -> R, dummy: impl Fn() -> R) {
    report_mean(name, loop_cost(count, real, dummy));
}

/// A small generator of numbers (xorshift); always the same ones, so that a run repeats exactly.
pub struct Phase(u32);

impl Phase {
    /// Starts over.
    pub const fn new() -> Self {
        Self(0x2545_f491)
    }

    /// Executes 0 to 15 instructions more than the last time.
    #[inline(never)]
    pub fn next(&mut self) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        let skip = self.0 >> 13 & 15;
        arch::skip(skip);
    }
}

/// Instructions per run without and with the disturbed ones, from times in ticks at varying phases. Sorts.
fn statistics(times: &mut [u32]) -> (u32, u32) {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or(0);
    let (mut sum, mut count, mut all) = (0u64, 0u64, 0u64);
    for time in times.iter().copied() {
        all += u64::from(time);
        if time.abs_diff(median) <= 1 {
            sum += u64::from(time);
            count += 1;
        }
    }
    let tick = u64::from(instructions_per_tick());
    let mean =
        |sum: u64, count: u64| (sum * tick + count / 2).checked_div(count).unwrap_or(0) as u32;
    (mean(sum, count), mean(all, times.len() as u64))
}

/// Calls `run` with the number of the sample; it gives a time in ticks. Of the mean, `own` are the guest's own
/// instructions.
pub fn sampled(name: &str, own: u32, mut run: impl FnMut(usize) -> u32) {
    // SAFETY: measurements do not nest.
    let times = unsafe { &mut *TIMES.0.get() };
    let mut phase = Phase::new();
    for (i, time) in times.iter_mut().enumerate() {
        phase.next();
        *time = run(i);
    }
    let (value, mean) = statistics(times);
    report_mean(name, (value.saturating_sub(own), mean.saturating_sub(own)));
}

/// As [`sampled`], for two times per run: (first, second).
pub fn sampled_pair(names: [&str; 2], own: u32, mut run: impl FnMut(usize) -> (u32, u32)) {
    // SAFETY: measurements do not nest.
    let times = unsafe { &mut *TIMES.0.get() };
    let (first, second) = times.split_at_mut(SAMPLES / 2);
    let mut phase = Phase::new();
    for (i, (a, b)) in first.iter_mut().zip(second.iter_mut()).enumerate() {
        phase.next();
        (*a, *b) = run(i);
    }
    for (name, times) in names.into_iter().zip([first, second]) {
        let (value, mean) = statistics(times);
        report_mean(name, (value.saturating_sub(own), mean.saturating_sub(own)));
    }
}

/// For a start that lies on a tick, such as a timer's deadline: `run` gets a delay of 0 to 15 instructions that it adds
/// before it reads the end, and gives a time in ticks. The mean over all delays is exact: the delays cancel with what
/// reading in whole ticks loses. Of each delay, the median of the runs counts.
pub fn delayed(name: &str, own: u32, mut run: impl FnMut(u32) -> u32) {
    let (mut sum, mut all) = (0, 0);
    let mut phase = Phase::new();
    for delay in 0..16 {
        let mut times = [0; 9];
        for time in &mut times {
            phase.next();
            *time = run(delay);
        }
        times.sort_unstable();
        sum += times[4];
        all += times.iter().sum::<u32>();
    }
    let mean = |sum: u32, runs: u32| sum * instructions_per_tick() / runs;
    report_mean(
        name,
        (
            mean(sum, 16).saturating_sub(own),
            mean(all, 144).saturating_sub(own),
        ),
    );
}

/// Both counters of a timed section: what `f` takes, with one reading's instruction in it.
#[inline(always)]
pub fn ticks(f: impl FnOnce()) -> u32 {
    let start = cpu::cntvct();
    f();
    (cpu::cntvct() - start) as u32
}
