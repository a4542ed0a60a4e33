//! Tests of the rules, call by call, and of the cost. What takes time is tested in the simulator (`tests/sim`).

use std::string::String;
use std::vec::Vec;

use super::*;

const MS: u64 = 1_000_000;

fn cpu(number: u16) -> CpuId {
    CpuId::new(number)
}

fn unit(number: u16) -> UnitId {
    UnitId::new(number)
}

fn dom(number: u16) -> DomId {
    DomId::new(number)
}

fn on(cpus: &[u16]) -> Affinity {
    let mut hard = CpuSet::EMPTY;
    cpus.iter().for_each(|&number| hard.insert(cpu(number)));
    Affinity {
        hard,
        soft: CpuSet::ALL,
    }
}

fn kicked() -> CpuSet {
    CpuSet::EMPTY
}

/// pCPUs, and units, each in a domain of its own.
fn machine(cpus: u16, units: u16) -> Credit {
    let mut credit = Credit::default();
    for number in 0..cpus {
        credit
            .add_cpu(cpu(number), 0, &mut CpuSet::default())
            .unwrap();
    }
    for number in 0..units {
        credit.add_domain(dom(number)).unwrap();
        credit
            .add_unit(unit(number), dom(number), Affinity::default(), 0)
            .unwrap();
    }
    credit
}

fn wake(credit: &mut Credit, number: u16, now: u64) -> CpuSet {
    let mut kick = kicked();
    credit.wake(unit(number), now, &mut kick);
    kick
}

fn sleep(credit: &mut Credit, number: u16, now: u64) -> CpuSet {
    let mut kick = kicked();
    credit.sleep(unit(number), now, &mut kick);
    kick
}

fn runs(credit: &mut Credit, on: u16, now: u64) -> Option<u16> {
    let decision = credit.schedule(cpu(on), now, &mut kicked());
    decision.unit.map(UnitId::raw)
}

fn class(credit: &Credit, number: u16) -> Class {
    credit.unit(unit(number)).class
}

#[test]
fn parameters_have_ranges() {
    let mut credit = machine(1, 0);
    let default = PolicyParameters::default();
    assert_eq!(credit.parameters(), default);
    assert_eq!(default.timeslice_ms, 30);
    let mut set = |timeslice_ms, ratelimit_us, migration_delay_us| {
        let wanted = PolicyParameters {
            timeslice_ms,
            ratelimit_us,
            migration_delay_us,
        };
        let before = credit.parameters();
        let result = credit.set_parameters(wanted);
        let expected = if result.is_ok() { wanted } else { before };
        assert_eq!(credit.parameters(), expected);
        result
    };
    for good in [
        (1, 0, 0),
        (1, 1000, 0),
        (1000, 500_000, 100_000),
        (30, 100, 1),
        (30, 30_000, 0),
    ] {
        assert_eq!(set(good.0, good.1, good.2), Ok(()), "{good:?}");
    }
    for bad in [
        (0, 0, 0),
        (1001, 1000, 0),
        (u32::MAX, 1000, 0),
        (30, 99, 0),
        (30, 30_001, 0),
        (1000, 500_001, 0),
        (30, u32::MAX, 0),
        (30, 1000, 100_001),
    ] {
        assert_eq!(set(bad.0, bad.1, bad.2), Err(Errno::Inval), "{bad:?}");
    }
}

#[test]
fn shares_have_ranges() {
    let mut credit = machine(2, 1);
    let share = |weight, cap| DomainShare { weight, cap };
    assert_eq!(credit.share(dom(0)), Some(share(256, 0)));
    assert_eq!(credit.share(dom(1)), None);
    assert_eq!(credit.set_share(dom(1), share(1, 0)), Err(Errno::NoEnt));
    for (wanted, result) in [
        (share(1, 0), Ok(())),
        (share(65535, 100), Ok(())),
        (share(0, 50), Err(Errno::Inval)),
        (share(256, 101), Err(Errno::Inval)),
    ] {
        assert_eq!(credit.set_share(dom(0), wanted), result, "{wanted:?}");
    }
    assert_eq!(credit.share(dom(0)), Some(share(65535, 100)));
    // Before there are units any cap may be set.
    credit.add_domain(dom(1)).unwrap();
    assert_eq!(credit.set_share(dom(1), share(256, 400)), Ok(()));
}

#[test]
fn errors_are_those_of_the_contract() {
    let mut credit = machine(1, 1);
    let any = Affinity::default();
    assert_eq!(
        credit.add_cpu(cpu(0), 0, &mut CpuSet::default()),
        Err(Errno::Exist)
    );
    assert_eq!(
        credit.add_cpu(cpu(128), 0, &mut CpuSet::default()),
        Err(Errno::Inval)
    );
    assert_eq!(credit.add_domain(dom(0)), Err(Errno::Exist));
    let add =
        |credit: &mut Credit, number, domain| credit.add_unit(unit(number), dom(domain), any, 0);
    assert_eq!(add(&mut credit, 0, 0), Err(Errno::Exist));
    assert_eq!(add(&mut credit, 1, 9), Err(Errno::NoEnt));
    assert_eq!(add(&mut credit, u16::MAX, 0), Err(Errno::Inval));
    // Each of its tables grows in turn.
    for allocations in [0, 1, 1] {
        let added = fail_alloc::after(allocations, || add(&mut credit, 500, 0));
        assert_eq!(added, Err(Errno::NoMem), "{allocations}");
    }
    assert_eq!(add(&mut credit, 500, 0), Ok(()));
    assert_eq!(
        fail_alloc::after(0, || credit.add_cpu(cpu(100), 0, &mut CpuSet::default())),
        Err(Errno::NoMem)
    );
    // What is not there is ignored.
    assert!(wake(&mut credit, 400, 0).is_empty());
    assert!(sleep(&mut credit, 400, 0).is_empty());
    credit.yield_unit(unit(400));
    credit.set_affinity(unit(400), any, 0, &mut kicked());
    credit.remove_unit(unit(400), 0, &mut CpuSet::default());
    assert_eq!(runs(&mut credit, 77, 0), None);
    credit.timer(cpu(77), 0, &mut kicked());
    credit.remove_cpu(cpu(77), 0, &mut kicked());
}

#[test]
fn nothing_is_allocated_while_units_run() {
    let mut credit = machine(2, 6);
    fail_alloc::after(0, || {
        for now in (0..500 * MS).step_by(MS as usize) {
            let number = (now / MS) as u16;
            let mut kick = kicked();
            credit.wake(unit(number % 6), now, &mut kick);
            credit.schedule(cpu(number % 2), now, &mut kick);
            credit.timer(cpu(number % 2), now, &mut kick);
            credit.sleep(unit(number % 7), now, &mut kick);
        }
    });
}

#[test]
fn a_unit_that_wakes_is_boosted_until_the_tick() {
    let mut credit = machine(1, 2);
    assert_eq!(wake(&mut credit, 0, 0), CpuSet::single(cpu(0)));
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    assert_eq!(class(&credit, 0), Class::Boost);
    // Nobody interrupts a boosted unit.
    assert!(wake(&mut credit, 1, MS).is_empty());
    assert_eq!(class(&credit, 1), Class::Boost);
    let mut kick = kicked();
    assert_eq!(credit.next_timer(cpu(0)), 10 * MS);
    credit.timer(cpu(0), 10 * MS, &mut kick);
    assert_eq!(class(&credit, 0), Class::Under);
    assert_eq!(kick, CpuSet::single(cpu(0)));
    assert_eq!(runs(&mut credit, 0, 10 * MS), Some(1));
    assert_eq!(class(&credit, 0), Class::Over, "it has used 10 ms");
    // Without credit there is no boost.
    sleep(&mut credit, 0, 12 * MS);
    assert!(wake(&mut credit, 0, 13 * MS).is_empty());
    assert_eq!(class(&credit, 0), Class::Over);
}

#[test]
fn a_unit_is_not_preempted_before_the_ratelimit() {
    let mut credit = machine(1, 2);
    wake(&mut credit, 0, 0);
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    credit.timer(cpu(0), 10 * MS, &mut kicked());
    sleep(&mut credit, 0, 10 * MS);
    // It begins anew, without credit.
    wake(&mut credit, 0, 11 * MS);
    assert_eq!(runs(&mut credit, 0, 11 * MS), Some(0));
    assert_eq!(wake(&mut credit, 1, 11 * MS + 1), CpuSet::single(cpu(0)));
    let decision = credit.schedule(cpu(0), 11 * MS + 2, &mut kicked());
    assert_eq!(decision.unit, Some(unit(0)));
    assert_eq!(decision.until, 12 * MS);
    assert_eq!(runs(&mut credit, 0, 12 * MS), Some(1));
}

#[test]
fn a_unit_that_yields_goes_behind_its_class_and_one_below() {
    let mut credit = machine(1, 5);
    for number in 0..5 {
        wake(&mut credit, number, 0);
    }
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    // 1 and 2 are in its class, 3 and 4 below.
    for number in 1..5 {
        let class = if number < 3 {
            Class::Boost
        } else {
            Class::Over
        };
        credit.dequeue(unit(number));
        credit.unit_mut(unit(number)).class = class;
        credit.enqueue(unit(number), cpu(0));
    }
    credit.unit_mut(unit(0)).credit = 20 * MS as i64;
    credit.yield_unit(unit(0));
    let mut order = Vec::new();
    // The ratelimit does not hold for one that yields; the others sleep at once.
    while let Some(next) = runs(&mut credit, 0, 10) {
        order.push(next);
        sleep(&mut credit, next, 10);
    }
    assert_eq!(order, [1, 2, 3, 0, 4]);
}

#[test]
fn a_pcpu_without_credit_of_its_own_takes_from_others() {
    let mut credit = machine(2, 3);
    for (number, home) in [(0, 0), (1, 0), (2, 1)] {
        credit.set_affinity(unit(number), on(&[home]), 0, &mut kicked());
        wake(&mut credit, number, 0);
    }
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    assert_eq!(runs(&mut credit, 1, 0), Some(2));
    credit.set_affinity(unit(1), Affinity::default(), 0, &mut kicked());
    credit.set_affinity(unit(2), Affinity::default(), 0, &mut kicked());
    assert_eq!(credit.unit(unit(1)).cpu, Some(cpu(0)));
    // Unit 2 has used its credit, unit 1 has not.
    assert_eq!(runs(&mut credit, 1, 29 * MS), Some(1));
    assert_eq!(credit.unit(unit(2)).cpu, Some(cpu(1)));
}

#[test]
fn a_unit_that_makes_room_goes_to_an_idle_pcpu() {
    let mut credit = machine(2, 2);
    wake(&mut credit, 0, 0);
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    credit.timer(cpu(0), 10 * MS, &mut kicked());
    credit.set_affinity(unit(1), on(&[0]), 11 * MS, &mut kicked());
    assert_eq!(wake(&mut credit, 1, 11 * MS), CpuSet::single(cpu(0)));
    let mut kick = kicked();
    let decision = credit.schedule(cpu(0), 12 * MS, &mut kick);
    assert_eq!(decision.unit, Some(unit(1)));
    assert_eq!(kick, CpuSet::single(cpu(1)));
    assert_eq!(runs(&mut credit, 1, 12 * MS), Some(0));
}

#[test]
fn a_parked_unit_waits_for_the_accounting() {
    let mut credit = machine(1, 1);
    let share = DomainShare {
        weight: 256,
        cap: 10,
    };
    credit.set_share(dom(0), share).unwrap();
    wake(&mut credit, 0, 0);
    let decision = credit.schedule(cpu(0), 0, &mut kicked());
    assert_eq!((decision.unit, decision.until), (Some(unit(0)), 3 * MS));
    assert_eq!(runs(&mut credit, 0, 3 * MS), None);
    // Waking it does not help, and the idle pCPU has the accounting to do.
    sleep(&mut credit, 0, 4 * MS);
    assert!(wake(&mut credit, 0, 5 * MS).is_empty());
    assert_eq!(runs(&mut credit, 0, 6 * MS), None);
    assert_eq!(credit.next_timer(cpu(0)), 30 * MS);
    let mut kick = kicked();
    credit.timer(cpu(0), 30 * MS, &mut kick);
    assert_eq!(kick, CpuSet::single(cpu(0)));
    assert_eq!(runs(&mut credit, 0, 30 * MS), Some(0));
    assert_eq!(credit.parked_count, 0);
    // A unit that leaves while it is parked leaves nothing behind.
    assert_eq!(runs(&mut credit, 0, 33 * MS), None);
    assert_eq!(credit.parked_count, 1);
    credit.remove_unit(unit(0), 34 * MS, &mut CpuSet::default());
    credit.remove_domain(dom(0));
    assert_eq!(credit.parked_count, 0);
    assert!(credit.active_domains.is_empty());
}

#[test]
fn the_dump_shows_who_runs_and_who_waits() {
    let mut credit = machine(2, 2);
    let mut text = String::new();
    for number in 0..2 {
        credit.set_affinity(unit(number), on(&[0]), 0, &mut kicked());
        wake(&mut credit, number, 0);
    }
    runs(&mut credit, 0, 0);
    credit.dump(&mut text).unwrap();
    assert_eq!(
        text,
        "tslice 30 ms, ratelimit 1000 us, migration delay 0 us, 0 parked\n\
         pcpu 0: d0 unit 0 Boost credit 0\n  d1 unit 1 Boost credit 0\npcpu 1: idle\n"
    );
}

/// The largest number of steps of each call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cost {
    wake: u64,
    sleep: u64,
    schedule: u64,
    tick: u64,
    accounting: u64,
}

fn steps(credit: &mut Credit, call: impl FnOnce(&mut Credit)) -> u64 {
    let count = |credit: &Credit| {
        let links = [
            &credit.run_links,
            &credit.active_links,
            &credit.domain_links,
        ];
        links.map(|links| links.steps.get()).iter().sum::<u64>()
    };
    let before = count(credit);
    call(credit);
    count(credit) - before
}

/// Runs `runnable` hogs and a unit that wakes and sleeps on 4 pCPUs, beside `blocked` units that woke once.
fn cost(runnable: u16, blocked: u16) -> Cost {
    let mut credit = machine(4, 1 + runnable + blocked);
    for number in 0..1 + runnable + blocked {
        wake(&mut credit, number, 0);
        if number > runnable {
            sleep(&mut credit, number, 0);
        }
    }
    let mut cost = Cost::default();
    let mut until = [0; 4];
    // The units that sleep have all their credit after some time, and are not looked at any more: they share 4 pCPUs' worth.
    let start = (1000 + 9 * u64::from(blocked)) * MS;
    for now in (MS..start + 2000 * MS).step_by(MS as usize) {
        let is_measured = now > start;
        let mut measure = |credit: &mut Credit, most: fn(&mut Cost) -> &mut u64, steps: u64| {
            let _ = credit;
            if is_measured {
                *most(&mut cost) = (*most(&mut cost)).max(steps);
            }
        };
        let mut kick = kicked();
        if now.is_multiple_of(5 * MS) {
            let count = steps(&mut credit, |credit| credit.wake(unit(0), now, &mut kick));
            measure(&mut credit, |cost| &mut cost.wake, count);
        } else if now % (5 * MS) == 2 * MS {
            let count = steps(&mut credit, |credit| credit.sleep(unit(0), now, &mut kick));
            measure(&mut credit, |cost| &mut cost.sleep, count);
        }
        for number in 0..4 {
            if now >= credit.next_timer(cpu(number)) {
                let is_due = now >= credit.accounting_at;
                let timer = |credit: &mut Credit| credit.timer(cpu(number), now, &mut kick);
                let count = steps(&mut credit, timer);
                if is_due {
                    measure(&mut credit, |cost| &mut cost.accounting, count);
                } else {
                    measure(&mut credit, |cost| &mut cost.tick, count);
                }
            }
        }
        for number in 0..4 {
            if kick.contains(cpu(number)) || now >= until[usize::from(number)] {
                let mut again = kicked();
                let count = steps(&mut credit, |credit| {
                    let decision = credit.schedule(cpu(number), now, &mut again);
                    until[usize::from(number)] = decision.until;
                });
                measure(&mut credit, |cost| &mut cost.schedule, count);
                kick = kick.or(&again);
            }
        }
    }
    cost
}

#[test]
fn cost_per_decision_is_flat_in_runnable_and_blocked_units() {
    std::println!("largest steps for runnable, blocked: wake, sleep, schedule, tick, accounting");
    let report = |runnable, blocked| {
        let cost = cost(runnable, blocked);
        std::println!("{runnable:>6} {blocked:>6}: {cost:?}");
        cost
    };
    let few = report(10, 0);
    for blocked in [10, 100, 1000, 5000] {
        let cost = report(10, blocked);
        let pairs = [
            (cost.wake, few.wake),
            (cost.sleep, few.sleep),
            (cost.tick, few.tick),
            (cost.accounting, few.accounting),
        ];
        for (cost, few) in pairs {
            assert!(cost <= few + few / 10 + 4, "{blocked} blocked units");
        }
        // Now and then a pCPU looks at the first few that wait for each of the three others.
        assert!(cost.schedule <= 40, "{blocked} blocked units: {cost:?}");
    }
    for runnable in [10, 100, 1000, 5000] {
        let cost = report(runnable, 0);
        let most = cost.wake.max(cost.sleep).max(cost.schedule).max(cost.tick);
        assert!(most <= 40, "{runnable} runnable units: {cost:?}");
        // The accounting looks at each active unit a few times.
        let each = cost.accounting / u64::from(runnable);
        assert!(each < 40, "{runnable} runnable units: {cost:?}");
    }
}

#[test]
fn an_accounting_looks_a_few_times_at_each_unit_that_has_just_slept() {
    for blocked in [10, 100, 1000, 5000] {
        let mut credit = machine(4, 1 + blocked);
        for number in 0..=blocked {
            wake(&mut credit, number, 0);
            if number > 0 {
                sleep(&mut credit, number, 0);
            }
        }
        runs(&mut credit, 0, 0);
        assert_eq!(credit.accounting_at, 30 * MS);
        let count = steps(&mut credit, |credit| {
            credit.timer(cpu(0), 30 * MS, &mut kicked());
        });
        std::println!("{blocked}: {count}");
        assert!(
            count > u64::from(blocked) && count < 40 * (u64::from(blocked) + 10),
            "{count}"
        );
    }
}

#[test]
fn looking_for_work_does_not_search_the_same_units_again() {
    // 1000 units that may run on two of four pCPUs wait there, and the other two have nothing to do.
    let mut credit = machine(4, 1001);
    for number in 0..1000 {
        credit.set_affinity(unit(number), on(&[0, 1]), 0, &mut kicked());
        wake(&mut credit, number, 0);
    }
    for number in [0, 1] {
        runs(&mut credit, number, 0);
    }
    let look = |credit: &mut Credit, now| {
        steps(credit, |credit| {
            assert_eq!(runs(credit, 2, now), None);
        })
    };
    assert!(look(&mut credit, 1) < 10);
    // One that might have gone there waits for a moment, so the next look is in vain.
    credit.set_affinity(unit(1000), on(&[0, 1, 2]), 2, &mut kicked());
    credit.unit_mut(unit(1000)).class = Class::Boost;
    credit.enqueue(unit(1000), cpu(0));
    credit.dequeue(unit(1000));
    let searched = look(&mut credit, 3);
    assert!(searched > 400, "{searched}");
    assert!(look(&mut credit, 4) < 10);
    wake(&mut credit, 1000, 5);
    assert_eq!(runs(&mut credit, 2, 6), Some(1000));
}

/// Returns whether the accounting that ends parking will come: a pCPU has a timer, or is told to look.
fn accounting_comes(credit: &Credit, cpus: u16, kick: &CpuSet) -> bool {
    !kick.is_empty() || (0..cpus).any(|n| credit.next_timer(cpu(n)) != u64::MAX)
}

/// Two idle pCPUs, and a domain with units that may have `cap` per cent of one.
fn capped(units: u16, cap: u16) -> Credit {
    let mut credit = machine(2, 1);
    for n in 1..units {
        credit
            .add_unit(unit(n), dom(0), Affinity::default(), 0)
            .unwrap();
    }
    set_cap(&mut credit, cap);
    for n in 0..2 {
        runs(&mut credit, n, 0);
    }
    credit
}

fn set_cap(credit: &mut Credit, cap: u16) {
    let share = DomainShare { weight: 256, cap };
    credit.set_share(dom(0), share).unwrap();
}

#[test]
fn a_unit_parked_as_it_wakes_is_watched() {
    let mut credit = capped(1, 100);
    wake(&mut credit, 0, 0);
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    sleep(&mut credit, 0, 20 * MS);
    assert_eq!(runs(&mut credit, 0, 20 * MS), None);
    set_cap(&mut credit, 10);
    let kick = wake(&mut credit, 0, 21 * MS);
    assert!(accounting_comes(&credit, 2, &kick));
}

#[test]
fn a_unit_parked_since_another_woke_is_watched() {
    let mut credit = capped(2, 50);
    wake(&mut credit, 0, 0);
    assert_eq!(runs(&mut credit, 0, 0), Some(0));
    credit.timer(cpu(0), 10 * MS, &mut kicked());
    sleep(&mut credit, 0, 14 * MS);
    assert_eq!(runs(&mut credit, 0, 14 * MS), None);
    let kick = wake(&mut credit, 1, 15 * MS);
    let on = kick.first().unwrap().index() as u16;
    assert_eq!(runs(&mut credit, on, 15 * MS), Some(1));
    sleep(&mut credit, 1, 16 * MS);
    assert_eq!(runs(&mut credit, on, 16 * MS), None);
    let kick = wake(&mut credit, 0, 17 * MS);
    assert!(accounting_comes(&credit, 2, &kick));
}

#[test]
fn parked_units_are_watched_when_a_pcpu_leaves() {
    // The one that has the timer, and the one that runs the unit.
    for parks_before in [true, false] {
        let mut credit = capped(1, 10);
        let kick = wake(&mut credit, 0, 0);
        let on = kick.first().unwrap().index() as u16;
        assert_eq!(runs(&mut credit, on, 0), Some(0));
        if parks_before {
            assert_eq!(runs(&mut credit, on, 4 * MS), None);
        }
        let mut kick = kicked();
        credit.remove_cpu(cpu(on), 5 * MS, &mut kick);
        let left = 1 - on;
        if kick.contains(cpu(left)) {
            runs(&mut credit, left, 5 * MS);
        }
        assert!(accounting_comes(&credit, 2, &kicked()));
    }
}
