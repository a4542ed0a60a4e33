//! The performance monitors, with `demo=pmu:N` in several domains on one CPU: domains 1 to N have them, each with other values
//! in its registers, and the others have not.

use guest_lib::{Start, cpu, hypercall, println};
use xen_abi::hypercall as nr;
use xen_abi::sched::SCHEDOP_YIELD;

use crate::arch::pmu::*;

/// How often the others get their turn.
const TURNS: u32 = 400;

fn turn() {
    hypercall::op(nr::HYPERVISOR_SCHED_OP, SCHEDOP_YIELD, &mut ());
    // Its own work, so that time passes.
    let end = cpu::cntvct() + 500;
    while cpu::cntvct() < end {}
}

/// Without them: all is zero, and stays so whatever the others do.
fn none() -> bool {
    set_pmcr(1);
    enable(1 << 31);
    (0..TURNS).all(|_| {
        turn();
        pmcr() | pmccntr() | pmcntenset() | pmselr() | pmuserenr() == 0
    })
}

/// With them: the cycles count, and what was written stays.
fn own(seed: u32) -> bool {
    // Event counters that stand still keep a value; the cycle counter runs.
    let events = pmcr() >> 11 & 0x1f;
    if events == 0 || pmuserenr() != 0 || pmcntenset() != 0 {
        println!("demo: pmu: {events} counters, not as after a reset");
        return false;
    }
    for n in 0..events {
        select(n);
        set_counter(seed + n);
    }
    set_cycles(0);
    enable(1 << 31);
    set_pmcr(1);
    set_user(1);
    let mut before = 0;
    for turns in 0..TURNS {
        turn();
        let now = pmccntr();
        let kept = (0..events).all(|n| {
            select(n);
            counter() == seed + n
        });
        if now <= before || !kept || pmcntenset() != 1 << 31 || pmuserenr() != 1 || pmcr() & 1 == 0
        {
            println!("demo: pmu: after {turns} turns: cycles {before} -> {now}, kept {kept}");
            return false;
        }
        before = now;
    }
    println!("demo: pmu: {events} event counters, {before} cycles");
    true
}

/// Returns the number behind a word of the command line.
fn number(arguments: &str, word: &str) -> Option<u32> {
    let rest = arguments.split(word).nth(1)?;
    rest.split(' ').next()?.parse().ok()
}

/// Runs if the command line says so; returns whether it did.
pub fn run(start: &Start) -> bool {
    let arguments = start.platform.bootargs;
    let (Some(with), Some(own_number)) = (
        number(arguments, "demo=pmu:"),
        number(arguments, "domain=domU"),
    ) else {
        return false;
    };
    let (what, is_right) = if own_number <= with {
        ("with", own(own_number << 16))
    } else {
        ("without", none())
    };
    println!("demo: {what} pmu: {}", if is_right { "ok" } else { "FAIL" });
    true
}
