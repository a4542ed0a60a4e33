//! Tests of the policy: `machine` runs it, `rules` asks it directly.

mod machine;
mod rules;

use std::string::String;
use std::vec::Vec;

use super::*;
use crate::trace::dump::write_binary;
use crate::trace::{Event, Header};
use machine::*;

fn near(value: f64, expected: f64, tolerance: f64) -> bool {
    (value - expected).abs() <= expected * tolerance
}

#[test]
fn time_is_shared_by_weight() {
    // pCPUs, units, and the weights in turn. Nobody's part is more than a whole pCPU.
    for (cpus, count, weights) in [
        (1, 2, &[128, 256][..]),
        (1, 3, &[256, 300, 100]),
        (1, 64, &[128, 256, 384, 512]),
        (2, 5, &[256]),
        (3, 7, &[256, 266, 276, 286]),
        (4, 12, &[256, 512]),
        (8, 16, &[128, 256, 384, 512]),
        (16, 64, &[1000, 100, 50, 400, 256]),
    ] {
        let mut machine = Machine::new(cpus);
        let weight = |i: u16| weights[usize::from(i) % weights.len()];
        for i in 0..count {
            machine.domain(i, weight(i), 0);
            machine.unit(i, i, Affinity::default(), BUSY);
        }
        machine.run(SECOND);
        let since = machine.reset_figures();
        machine.run(10 * SECOND);
        let total: u32 = (0..count).map(|i| u32::from(weight(i))).sum();
        let mut worst: f64 = 0.0;
        for i in 0..count {
            let expected = f64::from(cpus) * f64::from(weight(i)) / f64::from(total);
            let share = machine.share(i, since);
            worst = worst.max((share / expected - 1.0).abs());
        }
        std::println!(
            "{cpus} pCPUs, {count} units, {weights:?}: {:.2} % off",
            worst * 100.0
        );
        assert!(
            worst < 0.02,
            "{cpus} pCPUs, {count} units, {weights:?}: {worst}"
        );
    }
}

#[test]
fn extreme_weights_hold_and_nobody_starves() {
    let mut machine = Machine::new(1);
    machine.domain(0, 65535, 0);
    machine.domain(1, 256, 0);
    machine.unit(0, 0, Affinity::default(), BUSY);
    machine.unit(1, 1, Affinity::default(), BUSY);
    machine.run(20 * SECOND);
    let share = machine.share(1, 5 * SECOND);
    assert!(near(share, 256.0 / 65791.0, 0.1), "{share}");
}

#[test]
fn caps_hold_and_are_used_up() {
    for (cap, units) in [
        (1, 1),
        (10, 1),
        (25, 2),
        (50, 1),
        (75, 3),
        (150, 3),
        (200, 4),
    ] {
        let mut machine = Machine::new(4);
        machine.domain(0, 256, cap);
        machine.domain(1, 256, 0);
        for i in 0..units {
            machine.unit(i, 0, Affinity::default(), BUSY);
        }
        machine.unit(
            9,
            1,
            Affinity::default(),
            Habit {
                runs: MS,
                sleeps: MS,
            },
        );
        machine.run(SECOND);
        let since = machine.reset_figures();
        machine.run(10 * SECOND);
        let used: f64 = (0..units).map(|i| machine.share(i, since)).sum();
        assert!(
            near(used, f64::from(cap) / 100.0, 0.02),
            "cap {cap}: {used}"
        );
        for i in 0..units {
            let share = machine.share(i, since);
            assert!(
                near(share, used / f64::from(units), 0.1),
                "cap {cap}: {i} has {share}"
            );
        }
    }
}

#[test]
fn what_a_domain_ran_too_long_is_taken_from_its_next_budget() {
    let mut machine = Machine::new(2);
    machine.lateness = 300_000;
    for (domain, cap) in [(0, 10), (1, 3)] {
        machine.domain(domain, 256, cap);
        machine.unit(domain, domain, Affinity::default(), BUSY);
    }
    machine.run(10 * SECOND);
    let (ten, three) = (machine.share(0, 5 * SECOND), machine.share(1, 5 * SECOND));
    assert!(
        near(ten, 0.1, 0.02) && near(three, 0.03, 0.02),
        "{ten} {three}"
    );
}

#[test]
fn a_budget_is_not_saved_up() {
    let mut machine = Machine::new(1);
    machine.domain(0, 256, 50);
    machine.unit(
        0,
        0,
        Affinity::default(),
        Habit {
            runs: MS,
            sleeps: 9 * MS,
        },
    );
    machine.run(SECOND);
    machine.units.get_mut(&unit(0)).unwrap().habit = BUSY;
    // Until it wakes the last time, and then a while.
    machine.run(20 * MS);
    let since = machine.reset_figures();
    machine.run(50 * MS);
    let share = machine.share(0, since);
    assert!(share <= 0.6, "{share}");
}

#[test]
fn caps_come_change_and_go_while_units_run() {
    let mut machine = Machine::new(2);
    machine.domain(0, 256, 0);
    machine.unit(0, 0, Affinity::default(), BUSY);
    machine.unit(1, 0, Affinity::default(), BUSY);
    let used = |machine: &mut Machine, cap| {
        let share = DomainShare { weight: 256, cap };
        machine.policy.set_share(DomId::new(0), share).unwrap();
        machine.run(SECOND);
        let since = machine.reset_figures();
        machine.run(2 * SECOND);
        machine.share(0, since) + machine.share(1, since)
    };
    for (cap, expected) in [(0, 2.0), (40, 0.4), (120, 1.2), (5, 0.05), (0, 2.0)] {
        let found = used(&mut machine, cap);
        assert!(near(found, expected, 0.02), "cap {cap}: {found}");
    }
    // While nobody runs, no pCPU is disturbed to fill a budget.
    used(&mut machine, 50);
    machine.block(unit(0));
    machine.block(unit(1));
    machine.run(SECOND);
    assert!((0..2).all(|c| machine.policy.next_timer(cpu(c)) == u64::MAX));
}

#[test]
fn a_unit_that_wakes_runs_at_once_or_after_the_rate_limit() {
    let mut machine = Machine::new(2);
    machine.domain(0, 256, 0);
    for i in 0..6 {
        machine.unit(i, 0, Affinity::default(), BUSY);
    }
    machine.unit(
        6,
        0,
        Affinity::default(),
        Habit {
            runs: 50_000,
            sleeps: 5 * MS,
        },
    );
    // All begin with equal credit; soon it has more than the others.
    machine.run(SECOND);
    machine.reset_figures();
    machine.run(10 * SECOND);
    let light = &machine.units[&unit(6)];
    std::println!("longest wait {} us", light.longest_wait / 1000);
    assert!(light.longest_wait <= MS, "waited {} ns", light.longest_wait);
    machine.policy.ratelimit_us = 0;
    machine.reset_figures();
    machine.run(10 * SECOND);
    let light = &machine.units[&unit(6)];
    std::println!("longest wait {} us", light.longest_wait / 1000);
    assert!(
        light.longest_wait <= 10_000,
        "waited {} ns",
        light.longest_wait
    );
}

#[test]
fn nobody_is_preempted_within_the_rate_limit() {
    let mut machine = Machine::new(1);
    machine.domain(0, 256, 0);
    for i in 0..3 {
        machine.unit(i, 0, Affinity::default(), BUSY);
    }
    machine.policy.ratelimit_us = 20_000;
    machine.run(SECOND);
    let decisions = machine.cpus[&cpu(0)].decisions;
    assert!(decisions < 60, "{decisions} decisions in 1 s");
    assert!(
        machine
            .policy
            .set_parameters(PolicyParameters {
                ratelimit_us: 99,
                ..Default::default()
            })
            .is_err()
    );
    assert!(
        machine
            .policy
            .set_parameters(PolicyParameters {
                ratelimit_us: 500_001,
                ..Default::default()
            })
            .is_err()
    );
    let off = PolicyParameters {
        ratelimit_us: 0,
        ..Default::default()
    };
    assert_eq!(machine.policy.set_parameters(off), Ok(()));
    assert_eq!(machine.policy.parameters().ratelimit_us, 0);
}

#[test]
fn a_unit_moves_to_a_pcpu_that_it_prefers_when_that_idles() {
    let mut machine = Machine::new(2);
    machine.domain(0, 256, 0);
    machine.unit(
        0,
        0,
        pinned(&[1]),
        Habit {
            runs: 20 * MS,
            sleeps: 20 * MS,
        },
    );
    machine.unit(1, 0, preferring(&[1]), BUSY);
    machine.run(SECOND);
    // It runs always, on one or the other.
    let share = machine.share(1, 5 * SECOND);
    assert!(share > 0.98, "{share}");
    machine.block(unit(0));
    machine.units.get_mut(&unit(0)).unwrap().event = u64::MAX;
    machine.run(50 * MS);
    assert_eq!(machine.units[&unit(1)].on, Some(cpu(1)));
}

#[test]
fn a_new_affinity_moves_units_at_once() {
    let mut machine = Machine::new(3);
    machine.domain(0, 256, 0);
    for i in 0..5 {
        machine.unit(i, 0, Affinity::default(), BUSY);
    }
    for step in 0..60u16 {
        machine.run(3 * MS);
        let id = unit(step % 5);
        let affinity = pinned(&[step % 3, (step / 7) % 3]);
        machine.units.get_mut(&id).unwrap().affinity = affinity;
        let now = machine.now;
        machine
            .policy
            .set_affinity(id, affinity, now, &mut machine.kick);
        // It leaves a pCPU where it must not be before anything else happens.
        machine.settle();
        let subject = &machine.units[&id];
        assert!(
            subject
                .on
                .is_none_or(|cpu| subject.affinity.hard.contains(cpu))
        );
    }
}

#[test]
fn pcpus_come_and_go() {
    let mut machine = Machine::new(4);
    machine.domain(0, 256, 0);
    machine.domain(1, 256, 60);
    for i in 0..6 {
        machine.unit(i, i % 2, Affinity::default(), BUSY);
    }
    machine.run(SECOND);
    // The one that fills budgets is among those that leave.
    for leaving in [0, 3, 1] {
        let now = machine.now;
        machine.account(cpu(leaving));
        if let Some(id) = machine.cpus[&cpu(leaving)].unit {
            machine.units.get_mut(&id).unwrap().on = None;
        }
        machine.cpus.remove(&cpu(leaving));
        machine
            .policy
            .remove_cpu(cpu(leaving), now, &mut machine.kick);
        machine.run(SECOND);
    }
    let since = machine.reset_figures();
    machine.run(10 * SECOND);
    let all: f64 = (0..6).map(|i| machine.share(i, since)).sum();
    assert!(near(all, 1.0, 0.001), "{all}");
    machine.add_cpu(cpu(3));
    let since = machine.reset_figures();
    machine.run(10 * SECOND);
    let all: f64 = (0..6).map(|i| machine.share(i, since)).sum();
    let capped: f64 = [1, 3, 5].map(|i| machine.share(i, since)).iter().sum();
    assert!(
        near(all, 2.0, 0.001) && near(capped, 0.6, 0.02),
        "{all} {capped}"
    );
}

#[test]
fn units_wait_for_the_first_pcpu_and_for_the_last_one_to_come_back() {
    let mut machine = Machine::new(0);
    machine.domain(0, 256, 50);
    machine.unit(0, 0, Affinity::default(), BUSY);
    machine.unit(1, 0, Affinity::default(), BUSY);
    machine.run(10 * MS);
    machine.add_cpu(cpu(5));
    machine.run(SECOND);
    assert!(machine.share(0, 5 * SECOND) > 0.2);
    // When both wait for their budget, its pCPU goes.
    while machine.cpus[&cpu(5)].unit.is_some() {
        machine.run(500_000);
    }
    let now = machine.now;
    machine.policy.remove_cpu(cpu(5), now, &mut machine.kick);
    machine.cpus.clear();
    machine.kick = CpuSet::EMPTY;
    machine.run(10 * MS);
    machine.add_cpu(cpu(2));
    let since = machine.reset_figures();
    machine.run(SECOND);
    assert!(near(machine.share(0, since), 0.25, 0.02));
}

#[test]
fn many_pcpus_have_several_queues_that_balance() {
    let mut machine = Machine::new(40);
    machine.domain(0, 256, 0);
    for i in 0..120 {
        machine.unit(i, 0, Affinity::default(), BUSY);
    }
    machine.run(SECOND);
    assert_eq!(machine.policy.queues.len(), 3);
    let since = machine.reset_figures();
    machine.run(3 * SECOND);
    for i in 0..120 {
        let share = machine.share(i, since);
        assert!(near(share, 1.0 / 3.0, 0.1), "{i}: {share}");
    }
}

#[test]
fn a_queue_with_less_to_do_takes_units_from_another() {
    let mut machine = Machine::new(32);
    machine.domain(0, 256, 0);
    for i in 0..128 {
        machine.unit(i, 0, Affinity::default(), BUSY);
    }
    machine.run(100 * MS);
    let is_first =
        |machine: &Machine, i: u16| machine.policy.unit(unit(i)).unwrap().queue == Some(0);
    let first: Vec<u16> = (0..128).filter(|&i| is_first(&machine, i)).collect();
    assert_eq!(first.len(), 64);
    // No pCPU idles, but those that stay in the first queue would have twice as much.
    for &i in &first[..32] {
        machine.block(unit(i));
    }
    machine.run(SECOND);
    let since = machine.reset_figures();
    machine.run(2 * SECOND);
    for i in (0..128).filter(|i| !first[..32].contains(i)) {
        let share = machine.share(i, since);
        assert!(near(share, 1.0 / 3.0, 0.05), "{i}: {share}");
    }
}

#[test]
fn who_slept_long_does_not_keep_the_others_waiting_for_long() {
    let mut machine = Machine::new(1);
    for i in 0..3 {
        machine.domain(i, 256, 0);
        machine.unit(i, i, Affinity::default(), BUSY);
    }
    machine.run(MS);
    machine.block(unit(2));
    machine.run(10 * SECOND);
    let since = machine.reset_figures();
    machine.wake(unit(2));
    machine.run(300 * MS);
    let (share, others) = (machine.share(2, since), machine.share(0, since));
    // A third, and what it may save.
    assert!(
        share < (100.0 + 31.0) / 300.0 && others > 0.25,
        "{share} {others}"
    );
    let wait = machine.units[&unit(0)].longest_wait;
    assert!(wait <= 40 * MS, "waited {wait} ns");
}

/// Random patterns, with every check of the machine; returns it for the figures.
fn random_machine(seed: u64) -> Machine {
    let mut random = Random(seed);
    let cpus = 1 + random.below(if seed.is_multiple_of(5) { 40 } else { 6 });
    let mut machine = Machine::new(cpus as u16);
    machine.random = Random(seed ^ 0x5555);
    let domains = 1 + random.below(6) as u16;
    for id in 0..domains {
        let cap = if random.below(3) == 0 {
            5 + random.below(150)
        } else {
            0
        };
        machine.domain(id, (1 + random.below(1024)) as u16, cap as u16);
    }
    for i in 0..1 + random.below(3 * cpus + 4) {
        let mut affinity = Affinity::default();
        for set in [&mut affinity.hard, &mut affinity.soft] {
            if random.below(3) == 0 {
                *set = CpuSet::EMPTY;
                for _ in 0..1 + random.below(3) {
                    set.insert(cpu(random.below(cpus) as u16));
                }
            }
        }
        let scale = [0, 10_000, MS, 30 * MS][random.below(4) as usize];
        let habit = Habit {
            runs: scale * random.below(3),
            sleeps: (1 + random.below(3)) * [10_000, MS, 30 * MS][random.below(3) as usize],
        };
        machine.unit(
            i as u16,
            random.below(u64::from(domains)) as u16,
            affinity,
            habit,
        );
    }
    machine.run(400 * MS);
    machine
}

#[test]
fn nothing_breaks_under_random_patterns() {
    for seed in 0..60 {
        let machine = random_machine(seed);
        let mut text = String::new();
        machine.policy.dump(&mut text).unwrap();
        assert!(text.contains("credit2"));
        // What the policy believes is what the machine did.
        for (id, subject) in &machine.units {
            let state = machine.policy.unit(*id).unwrap().state;
            let expected = match (subject.is_runnable, subject.on) {
                (false, _) => state == State::Asleep,
                (true, Some(_)) => state == State::Running,
                (true, None) => matches!(state, State::Waiting | State::Parked),
            };
            assert!(expected, "seed {seed}: {id:?} is {state:?}");
        }
        for (index, queue) in machine.policy.queues.iter().enumerate() {
            let units = machine.policy.units.iter().flatten().filter(|unit| {
                unit.queue == Some(index) && matches!(unit.state, State::Waiting | State::Running)
            });
            let load: u64 = units.map(|unit| machine.policy.weight(unit)).sum();
            assert_eq!(queue.load, load, "seed {seed}");
        }
        for domain in machine.policy.domains.iter().flatten() {
            let active = machine.units.iter().filter(|(id, subject)| {
                let unit = machine.policy.unit(**id).unwrap();
                subject.is_runnable && machine.policy.domain_of(unit).unwrap().id == domain.id
            });
            assert_eq!(active.count(), domain.active_count as usize, "seed {seed}");
        }
    }
}

#[test]
fn waits_are_bounded() {
    // N equal units on one pCPU: each waits for the others' slices, at most 10 ms each.
    for (count, sleepers) in [(4u16, 0u16), (4, 8), (16, 0), (16, 30)] {
        let mut machine = Machine::new(1);
        machine.domain(0, 256, 0);
        for i in 0..count {
            machine.unit(i, 0, Affinity::default(), BUSY);
        }
        for i in count..count + sleepers {
            machine.unit(
                i,
                0,
                Affinity::default(),
                Habit {
                    runs: 100_000,
                    sleeps: 9 * MS,
                },
            );
        }
        machine.run(10 * SECOND);
        let longest = machine
            .units
            .values()
            .map(|s| s.longest_wait)
            .max()
            .unwrap();
        let bound = u64::from(count + sleepers) * MAX_TIMER;
        assert!(longest <= bound, "{count}+{sleepers}: {longest} ns");
    }
}

/// The same events as the hypervisor's. With XENITH_TRACE=FILE it is written there, for `scripts/trace2json`.
#[test]
fn the_trace_tells_what_happened() {
    let mut machine = Machine::new(2);
    for (domain, weight, cap) in [(0, 256, 0), (1, 512, 0), (2, 256, 40)] {
        machine.domain(domain, weight, cap);
    }
    machine.unit(
        0,
        0,
        Affinity::default(),
        Habit {
            runs: 300_000,
            sleeps: 2 * MS,
        },
    );
    machine.unit(1, 1, Affinity::default(), BUSY);
    machine.unit(2, 1, Affinity::default(), BUSY);
    machine.unit(3, 2, Affinity::default(), BUSY);
    machine.run(SECOND);
    machine.trace(4096);
    let since = machine.reset_figures();
    machine.run(50 * MS);
    let mut records: Vec<_> = machine
        .rings
        .values()
        .flat_map(|ring| ring.iter())
        .collect();
    records.sort_by_key(|record| record.time);
    assert!(machine.rings.values().all(|ring| ring.first() == 0));
    for subject in machine.units.values() {
        let own = records.iter().filter(|record| {
            record.code == Event::Runstate as u16
                && u32::from(record.domain) << 16 | u32::from(record.vcpu) == subject.who.packed()
        });
        let (mut ran, mut last) = (0, (since, None));
        for record in own {
            let [new, old] = record.arguments;
            assert!(
                last.1.is_none_or(|state| state == old),
                "a state is missing"
            );
            if old == 0 {
                ran += record.time - last.0;
            }
            last = (record.time, Some(new));
        }
        if last.1.map_or(subject.on.is_some(), |state| state == 0) {
            ran += machine.now - last.0;
        }
        assert_eq!(ran, subject.ran);
    }
    if let Some(path) = std::env::var_os("XENITH_TRACE") {
        let mut file = Vec::new();
        let header = Header::new(1_000_000_000, 2, 5 * SECOND);
        write_binary(&header, machine.rings.values(), |bytes| {
            file.extend_from_slice(bytes)
        });
        std::fs::write(path, file).unwrap();
    }
}
