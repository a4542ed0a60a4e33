//! The torture guest: up to eight vCPUs take locks, send each other interrupts and events, wait, sleep and go off and on,
//! for as long as they are told, and every one of these is accounted for.
//!
//! A send carries a sequence number in memory; the handler notes the number that it sees, and the sender waits for it. So
//! a lost interrupt is one whose number is never noted, and a lost wake-up is a wait that only the watchdog timer ends.
//! What is wrong is printed as `torture: FAIL: ...`; a good run ends with `torture: OK: ...`.
//!
//! Command line: `seconds=N` of each mixed phase (virtual time), `balls=N` rounds of ping-pong, `cycles=N` of hot-plug,
//! `seed=N`, `fifo` for the FIFO event channels.
#![no_std]
#![no_main]

mod events;
mod mix;
mod phases;
mod shared;

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use guest_lib::{Start, cpu, exceptions, gic, println, secondary};

use shared::{MAX, SHARED};

guest_lib::main!(torture);

/// What the command line asks for.
#[derive(Clone, Copy)]
struct Options {
    seconds: u32,
    balls: u32,
    cycles: u32,
    seed: u32,
    fifo: bool,
}

fn options(line: &str) -> Options {
    let mut options = Options {
        seconds: 3,
        balls: 500,
        cycles: 40,
        seed: 1,
        fifo: false,
    };
    for word in line.split(' ') {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = value.parse().unwrap_or(0);
        match name {
            "seconds" => options.seconds = number,
            "balls" => options.balls = number,
            "cycles" => options.cycles = number,
            "seed" => options.seed = number,
            "fifo" => options.fifo = true,
            _ => {}
        }
    }
    options
}

fn torture(start: &Start) {
    let platform = &start.platform;
    let options = options(platform.bootargs);
    let cpus = platform.cpus.clamp(1, MAX as u32);
    println!(
        "\ntorture: guest-torture on {}: {cpus} vCPUs, {} s, {} balls, {} cycles, seed {}, {} events",
        platform.hypervisor,
        options.seconds,
        options.balls,
        options.cycles,
        options.seed,
        if options.fifo { "FIFO" } else { "2-level" }
    );
    SHARED.cpus.store(cpus, Relaxed);
    SHARED.seed.store(options.seed, Relaxed);
    SHARED.timer_irq.store(platform.timers[2], Relaxed);
    SHARED.event_irq.store(platform.event_irq, Relaxed);
    SHARED.balls.store(options.balls, Relaxed);
    SHARED.cycles.store(options.cycles, Relaxed);
    SHARED.seconds.store(options.seconds, Relaxed);
    events::init(cpus, options.fifo);
    exceptions::set_irq_hook(shared::on_irq);
    secondary::set_main(vcpu);
    for number in 1..cpus {
        let answer = secondary::start(number);
        assert!(answer == 0, "CPU_ON of vCPU {number}: {answer}");
    }
    vcpu(0);
    report(cpus);
}

/// What each vCPU does; one that comes back in the hot-plug phase goes on there.
fn vcpu(me: u32) {
    cpu::enable_fp();
    gic::enable(SHARED.timer_irq.load(Relaxed));
    gic::enable(SHARED.event_irq.load(Relaxed));
    for id in 0..=shared::NOISE_SGI {
        gic::enable(id);
    }
    let me = me as usize;
    let mut random = shared::Random::new(me);
    cpu::enable_irq();
    if SHARED.is_hotplugging.load(SeqCst) {
        // Here again.
        SHARED.vcpus[me].lives.fetch_add(1, SeqCst);
    } else {
        phases::barrier();
        phases::mixed(me, &mut random);
        phases::barrier();
        phases::balls(me);
        phases::barrier();
    }
    phases::hotplug(me, &mut random);
    phases::barrier();
    phases::mixed(me, &mut random);
    phases::barrier();
    cpu::disable_irq();
}

fn report(cpus: u32) {
    let sum = |f: fn(&shared::PerVcpu) -> u32| -> u32 { SHARED.all().map(f).sum() };
    for (number, vcpu) in SHARED.all().enumerate() {
        println!(
            "torture: vCPU {number}: {} SGIs, {} events, {} ticks, at most {} us late, {} polls, {} suspends, {} VFP checks, {} lives",
            vcpu.sgis.load(Relaxed),
            vcpu.events.load(Relaxed),
            vcpu.ticks.load(Relaxed),
            vcpu.late_us.load(Relaxed),
            vcpu.polls.load(Relaxed),
            vcpu.suspends.load(Relaxed),
            vcpu.vfp.load(Relaxed),
            1 + vcpu.lives.load(Relaxed)
        );
    }
    // Each return from CPU_SUSPEND takes an interrupt: one that does not wait returns far more often.
    let suspends = sum(|vcpu| vcpu.suspends.load(Relaxed));
    let interrupts =
        sum(|vcpu| vcpu.sgis.load(Relaxed) + vcpu.events.load(Relaxed) + vcpu.ticks.load(Relaxed));
    if suspends == 0 || suspends > interrupts {
        shared::fail!("CPU_SUSPEND returned {suspends} times, for {interrupts} interrupts");
    }
    for lock in &SHARED.locks {
        let (a, b) = lock.counters();
        let expected: u32 = lock.taken();
        if a != expected || b != expected {
            shared::fail!("a lock that was taken {expected} times counted {a} and {b}");
        }
    }
    println!(
        "torture: OK: {cpus} vCPUs, {} locks, {} SGIs, {} events, {} ticks, {} balls, {} cycles",
        SHARED.locks.iter().map(|lock| lock.taken()).sum::<u32>(),
        sum(|vcpu| vcpu.sgis.load(Relaxed)),
        sum(|vcpu| vcpu.events.load(Relaxed)),
        sum(|vcpu| vcpu.ticks.load(Relaxed)),
        sum(|vcpu| vcpu.balls.load(Relaxed)),
        sum(|vcpu| vcpu.lives.load(Relaxed)),
    );
}
