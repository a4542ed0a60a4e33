//! One step of the mixed phases: whatever the dice say.

use core::sync::atomic::Ordering::SeqCst;

use guest_lib::{cpu, secondary};
use xen_abi::smccc::PSCI_SUCCESS;

use crate::events;
use crate::shared::{self, NOISE_SGI, Numbers, Random, SHARED, check, deadline, fail, send_sgi};

/// Does one thing.
pub fn step(me: usize, random: &mut Random) {
    match random.below(16) {
        0..=4 => locks(me, random),
        5 => all_sgis(me, random),
        6 | 7 => one(me, random, &SHARED.sgis, "an SGI", |from, to| {
            send_sgi(from as u32, 1 << to);
        }),
        8 | 9 => one(me, random, &SHARED.events, "an event", events::send),
        10 => sleep(me),
        11 | 12 => poll(me),
        13 => {
            for _ in 0..=random.below(4) {
                events::yield_cpu();
            }
        }
        14 => send_sgi(NOISE_SGI, random.below(1 << SHARED.count())),
        _ => vfp(me, random),
    }
}

/// Passes time while something is awaited: spinning, giving the pCPU away, or sleeping until the next interrupt.
fn pass(how: u32) {
    match how {
        0 => core::hint::spin_loop(),
        1 => events::yield_cpu(),
        _ => cpu::wfi(),
    }
}

fn locks(me: usize, random: &mut Random) {
    let which = random.below(4) as usize;
    let how = random.below(2);
    for _ in 0..=random.below(10) {
        let hold = random.below(300);
        SHARED.locks[which].round(me, which < 2, hold, &mut || pass(how));
    }
}

/// Keeps a vCPU from going off while something is on its way to it; false if it is going.
fn hold(to: usize) -> bool {
    let vcpu = &SHARED.vcpus[to];
    vcpu.in_flight.fetch_add(1, SeqCst);
    if vcpu.is_active.load(SeqCst) {
        return true;
    }
    vcpu.in_flight.fetch_sub(1, SeqCst);
    false
}

fn release(to: usize) {
    SHARED.vcpus[to].in_flight.fetch_sub(1, SeqCst);
}

fn wait_for(me: usize, to: usize, numbers: &Numbers, number: u32, how: u32, what: &str) {
    let limit = deadline();
    while numbers.seen(me, to) != number {
        if cpu::cntvct() > limit {
            fail!(
                "{what} from vCPU {me} to {to} is lost: number {number}, seen {}",
                numbers.seen(me, to)
            );
        }
        pass(how);
    }
}

fn one(me: usize, random: &mut Random, numbers: &Numbers, what: &str, send: fn(usize, usize)) {
    let to = random.below(SHARED.count() as u32) as usize;
    if !hold(to) {
        return;
    }
    let number = numbers.next(me, to);
    send(me, to);
    wait_for(me, to, numbers, number, random.below(3), what);
    release(to);
}

/// One write makes the SGI pending at several vCPUs.
fn all_sgis(me: usize, random: &mut Random) {
    let mut mask = 0;
    let mut numbers = [0; shared::MAX];
    for (to, number) in numbers.iter_mut().enumerate().take(SHARED.count()) {
        if hold(to) {
            mask |= 1 << to;
            *number = SHARED.sgis.next(me, to);
        }
    }
    send_sgi(me as u32, mask);
    let how = random.below(3);
    for (to, number) in numbers.into_iter().enumerate() {
        if mask & 1 << to != 0 {
            wait_for(me, to, &SHARED.sgis, number, how, "an SGI to many");
            release(to);
        }
    }
}

/// Sleeps until the next interrupt, by WFI or CPU_SUSPEND.
pub fn doze(me: usize, by_suspend: bool) {
    if !by_suspend {
        cpu::wfi();
        return;
    }
    let answer = secondary::suspend();
    if answer != PSCI_SUCCESS {
        fail!("CPU_SUSPEND returned {answer}");
    }
    SHARED.vcpus[me].suspends.fetch_add(1, SeqCst);
}

/// Sleeps until the timer's next interrupt.
fn sleep(me: usize) {
    let ticks = &SHARED.vcpus[me].ticks;
    let before = ticks.load(SeqCst);
    let limit = deadline();
    while ticks.load(SeqCst) == before {
        check(limit, me, "its timer");
        // An interrupt between the look and the sleep stays pending, as they are masked: it ends the sleep at once.
        cpu::disable_irq();
        if ticks.load(SeqCst) == before {
            doze(me, before.is_multiple_of(2));
        }
        cpu::enable_irq();
        cpu::isb();
    }
}

/// Polls until the neighbour's timer handler has sent a kick.
fn poll(me: usize) {
    let neighbour = (me + SHARED.count() - 1) % SHARED.count();
    if !hold(neighbour) {
        return;
    }
    let vcpu = &SHARED.vcpus[me];
    let limit = deadline();
    vcpu.polling.store(true, SeqCst);
    while !events::take_kick(me) {
        check(limit, me, "the kick that ends its poll");
        events::poll(me);
    }
    vcpu.polling.store(false, SeqCst);
    vcpu.polls.fetch_add(1, SeqCst);
    release(neighbour);
}

/// The floating-point registers stay what they are, whoever else ran here.
fn vfp(me: usize, random: &mut Random) {
    let seed = random.below(1 << 24) << 4 | me as u32;
    let mut registers: [u32; cpu::FP_WORDS] =
        core::array::from_fn(|i| seed.wrapping_mul(2 * i as u32 + 1));
    cpu::load_fp(&registers);
    for _ in 0..=random.below(3) {
        if random.below(2) == 0 {
            events::yield_cpu();
        } else {
            sleep(me);
        }
    }
    registers.fill(0);
    cpu::store_fp(&mut registers);
    for (i, found) in registers.iter().enumerate() {
        let expected = seed.wrapping_mul(2 * i as u32 + 1);
        if *found != expected {
            fail!("word {i} of the floating-point registers is {found:#x}, not {expected:#x}");
        }
    }
    SHARED.vcpus[me].vfp.fetch_add(1, SeqCst);
}
