//! The phases, which all vCPUs enter and leave together.

use core::sync::atomic::Ordering::SeqCst;

use guest_lib::{cpu, println, secondary};
use xen_abi::smccc::{PSCI_AFFINITY_OFF, PSCI_ALREADY_ON, PSCI_ON_PENDING, PSCI_SUCCESS};

use crate::events;
use crate::mix;
use crate::shared::{self, NOISE_SGI, Random, SHARED, check, deadline, fail, send_sgi};

/// Waits, asleep, until all vCPUs are here; the last one wakes the others.
pub fn barrier() {
    let round = SHARED.round.load(SeqCst);
    if SHARED.arrived.fetch_add(1, SeqCst) + 1 == SHARED.count() as u32 {
        SHARED.arrived.store(0, SeqCst);
        SHARED.round.fetch_add(1, SeqCst);
        send_sgi(NOISE_SGI, (1 << SHARED.count()) - 1);
        return;
    }
    let me = (cpu::mpidr() & 0xff) as usize;
    shared::start_watchdog(me, BARRIER_LIMITS);
    sleep_until(me, "the others at a barrier", || {
        SHARED.round.load(SeqCst) != round
    });
}

/// A phase may take so many times what a single wait may.
const BARRIER_LIMITS: u64 = 8;

/// Sleeps until an interrupt makes `is_over` true, and stops the watchdog.
fn sleep_until(me: usize, what: &str, is_over: impl Fn() -> bool) {
    while !is_over() {
        cpu::disable_irq();
        if !is_over() {
            mix::doze(me, SHARED.vcpus[me].balls.load(SeqCst) % 4 < 2);
        }
        cpu::enable_irq();
        cpu::isb();
        if SHARED.vcpus[me].barked.load(SeqCst) {
            fail!("only the watchdog ended the wait for {what}");
        }
    }
    shared::stop_timer();
}

fn join(me: usize) {
    shared::start_ticks(me);
    SHARED.vcpus[me].is_active.store(true, SeqCst);
}

/// Nothing is on its way to this vCPU afterwards.
fn leave(me: usize) {
    let vcpu = &SHARED.vcpus[me];
    vcpu.is_active.store(false, SeqCst);
    let limit = deadline();
    while vcpu.in_flight.load(SeqCst) != 0 {
        check(limit, me, "what is on its way to it");
        events::yield_cpu();
    }
    // A timer interrupt that is due comes.
    let limit = deadline();
    while vcpu.next.load(SeqCst) < cpu::cntvct() {
        check(limit, me, "a timer interrupt that is overdue");
    }
    shared::stop_timer();
}

/// Everything at once, for the time that the command line says.
pub fn mixed(me: usize, random: &mut Random) {
    let second = u64::from(cpu::cntfrq());
    let begin = cpu::cntvct();
    let seconds = u64::from(SHARED.seconds.load(SeqCst));
    let mut said = 0;
    join(me);
    loop {
        let passed = (cpu::cntvct() - begin) / second;
        if passed >= seconds {
            break;
        }
        if me == 0 && passed > said {
            said = passed;
            progress(said);
        }
        mix::step(me, random);
    }
    leave(me);
}

fn progress(seconds: u64) {
    let sum = |f: fn(&shared::PerVcpu) -> u32| -> u32 { SHARED.all().map(f).sum() };
    println!(
        "torture: {seconds} s: {} locks, {} SGIs, {} events, {} ticks",
        SHARED.locks.iter().map(|lock| lock.taken()).sum::<u32>(),
        sum(|vcpu| vcpu.sgis.load(SeqCst)),
        sum(|vcpu| vcpu.events.load(SeqCst)),
        sum(|vcpu| vcpu.ticks.load(SeqCst)),
    );
}

/// Pairs of vCPUs wake each other from WFI, with nothing else that could: a lost wake-up ends in the watchdog.
pub fn balls(me: usize) {
    let other = me ^ 1;
    // Nothing is under way between the phases.
    let before = [SHARED.sgis.seen(other, me), SHARED.events.seen(other, me)];
    barrier();
    if other >= SHARED.count() {
        return;
    }
    for round in 0..SHARED.balls.load(SeqCst) {
        let is_event = round % 2 != 0;
        let numbers = if is_event {
            &SHARED.events
        } else {
            &SHARED.sgis
        };
        let wanted = before[usize::from(is_event)] + round / 2 + 1;
        let throw = || {
            numbers.next(me, other);
            if is_event {
                events::send(me, other);
            } else {
                send_sgi(me as u32, 1 << other);
            }
        };
        if me < other {
            throw();
        }
        shared::start_watchdog(me, 1);
        // Every third comes to a vCPU that runs: only a kick makes it take the interrupt.
        while round % 3 == 0 && numbers.seen(other, me) != wanted {
            if SHARED.vcpus[me].barked.load(SeqCst) {
                fail!("ball {round} did not come to a vCPU that runs");
            }
        }
        sleep_until(me, "a ball", || numbers.seen(other, me) == wanted);
        if me > other {
            throw();
        }
        SHARED.vcpus[me].balls.fetch_add(1, SeqCst);
    }
}

/// vCPUs go off and are started again, by two at the same time where there are three: one of them is told so.
pub fn hotplug(me: usize, random: &mut Random) {
    SHARED.is_hotplugging.store(true, SeqCst);
    join(me);
    match me {
        0 => {
            conduct(random);
            SHARED.is_done.store(true, SeqCst);
        }
        1 if SHARED.count() > 2 => compete(random),
        _ => {
            while !SHARED.is_done.load(SeqCst) {
                if SHARED.victim.load(SeqCst) == me as u32 + 1 {
                    leave(me);
                    SHARED.victim.store(0, SeqCst);
                    let answer = secondary::stop();
                    fail!("CPU_OFF returned {answer}");
                }
                mix::step(me, random);
            }
        }
    }
    leave(me);
}

fn conduct(random: &mut Random) {
    let count = SHARED.count() as u32;
    if count < 2 {
        return;
    }
    let first = if count > 2 { 2 } else { 1 };
    for cycle in 0..SHARED.cycles.load(SeqCst) {
        let victim = first + cycle % (count - first);
        let lives = &SHARED.vcpus[victim as usize].lives;
        let before = lives.load(SeqCst);
        SHARED.victim.store(victim + 1, SeqCst);
        let limit = deadline();
        while secondary::state(victim) != PSCI_AFFINITY_OFF as i32 {
            check(limit, 0, "a vCPU to go off");
            mix::step(0, random);
        }
        let (mine, other) = if count > 2 {
            SHARED.race.store(cycle + 1, SeqCst);
            let mine = secondary::start(victim);
            let limit = deadline();
            while SHARED.race_done.load(SeqCst) != cycle + 1 {
                check(limit, 0, "the other's CPU_ON");
            }
            (mine, SHARED.answer.load(SeqCst) as i32)
        } else {
            (secondary::start(victim), PSCI_ALREADY_ON)
        };
        let lost = |answer| answer == PSCI_ALREADY_ON || answer == PSCI_ON_PENDING;
        if !(mine == PSCI_SUCCESS && lost(other) || other == PSCI_SUCCESS && lost(mine)) {
            fail!("two CPU_ON of vCPU {victim} were answered {mine} and {other}");
        }
        let limit = deadline();
        while lives.load(SeqCst) == before {
            check(limit, 0, "a vCPU that was started");
            mix::step(0, random);
        }
        if lives.load(SeqCst) != before + 1 {
            fail!("vCPU {victim} was started twice");
        }
    }
}

/// Starts the victim as soon as vCPU 0 does.
fn compete(random: &mut Random) {
    let mut done = 0;
    while !SHARED.is_done.load(SeqCst) {
        let race = SHARED.race.load(SeqCst);
        if race != done {
            let count = SHARED.count() as u32;
            let answer = secondary::start(2 + (race - 1) % (count - 2));
            SHARED.answer.store(answer as u32, SeqCst);
            SHARED.race_done.store(race, SeqCst);
            done = race;
        } else if random.below(4) == 0 {
            mix::step(1, random);
        }
    }
}
