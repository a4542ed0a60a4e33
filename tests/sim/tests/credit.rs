//! The credit policy in the simulator. The figures in the assertions are the promises of `docs/`; what is measured is printed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use sched_sim::scenarios::{self, hard, make};
use sched_sim::{Behaviour, Happening, MS, Observer, RunState, SECOND, Simulator, US, Who};
use xenith_core::addr::CpuId;
use xenith_core::sched::{Affinity, CpuSet, DomainShare, PolicyParameters};

const NAME: &str = "credit";

/// pCPUs, cap, units that wait now and then, uncapped hogs beside.
const WAITERS: [(u16, u16, u16, u16); 6] = [
    (1, 50, 1, 0),
    (1, 20, 2, 1),
    (2, 60, 1, 3),
    (4, 150, 4, 0),
    (4, 150, 4, 8),
    (4, 50, 4, 8),
];

fn machine(cpus: u16) -> Simulator {
    Simulator::new(make(NAME), cpus, 11)
}

fn pattern(weights: &[u16], count: usize) -> Vec<u16> {
    weights.iter().copied().cycle().take(count).collect()
}

fn with(change: impl FnOnce(&mut PolicyParameters)) -> PolicyParameters {
    let mut parameters = PolicyParameters::default();
    change(&mut parameters);
    parameters
}

#[test]
fn fairness_to_weights_within_2_percent() {
    let mut worst: f64 = 0.0;
    for cpus in [1, 2, 3, 4, 8] {
        for count in [2, 3, 4, 5, 8, 16, 32, 64] {
            for weights in [&[256][..], &[256, 512], &[128, 256, 512]] {
                let error = scenarios::unfairness(NAME, cpus, &pattern(weights, count));
                assert!(
                    error < 0.02,
                    "{cpus} pCPUs, {count} domains of {weights:?}: {error}"
                );
                worst = worst.max(error);
            }
        }
    }
    println!("largest error: {:.2} %", worst * 100.0);
}

#[test]
fn fairness_between_domains_of_one_unit() {
    for weights in [&[256][..], &[256, 512], &[128, 256, 512]] {
        let mut worst: f64 = 0.0;
        for cpus in [1, 2, 3, 4, 6, 8] {
            for count in (2..=20).chain((21..=64).step_by(4)) {
                // All have a pCPU of their own.
                if count <= usize::from(cpus) {
                    continue;
                }
                let weights = pattern(weights, count);
                let error = scenarios::unfairness_of_single_units(NAME, cpus, &weights);
                worst = worst.max(error);
                assert!(
                    error < 0.02,
                    "{cpus} pCPUs, {count} domains, weights {weights:?}: {error}"
                );
            }
        }
        println!("weights {weights:?}: largest error {:.2} %", worst * 100.0);
    }
}

#[test]
fn fairness_is_kept_beside_units_that_wake_often() {
    let mut worst: f64 = 0.0;
    for cpus in [1, 4, 8] {
        for count in [2, 3, 8, 32, 64] {
            let weights = pattern(&[128, 256, 512], count);
            let error = scenarios::unfairness_beside_wakers(NAME, cpus, &weights);
            assert!(error < 0.02, "{cpus} pCPUs, {count} domains: {error}");
            worst = worst.max(error);
        }
    }
    println!("largest error: {:.2} %", worst * 100.0);
}

#[test]
fn caps_are_held_within_2_percent() {
    // pCPUs, cap, units, uncapped hogs beside.
    let cases = [
        (1, 10, 1, 0),
        (1, 50, 1, 1),
        (2, 99, 1, 4),
        (4, 1, 1, 4),
        (4, 5, 4, 4),
        (4, 50, 1, 8),
        (4, 100, 4, 0),
        (4, 150, 4, 0),
        (4, 150, 4, 8),
        (4, 300, 4, 16),
        (8, 25, 1, 0),
        (8, 33, 3, 9),
        (128, 1600, 64, 200),
    ];
    for (cpus, cap, units, others) in cases {
        let error = scenarios::cap_error(NAME, cpus, cap, units, others);
        println!(
            "{cpus} pCPUs, cap {cap}, {units} units, {others} others: {:.2} %",
            error * 100.0
        );
        assert!(
            error.abs() < 0.02,
            "{cpus} pCPUs, cap {cap}, {units} units: {error}"
        );
    }
}

#[test]
fn caps_are_used_by_units_that_wait_now_and_then() {
    for (cpus, cap, units, others) in WAITERS {
        let error = scenarios::cap_error_of_waiters(NAME, cpus, cap, units, others);
        println!(
            "{cpus} pCPUs, cap {cap}, {units} units, {others} others: {:.2} %",
            error * 100.0
        );
        assert!(error.abs() < 0.02, "{cpus} {cap} {units} {others}: {error}");
    }
}

#[test]
fn caps_hold_for_random_patterns() {
    scenarios::caps_hold_for_random_patterns(NAME, 25);
}

#[test]
fn a_cap_and_a_weight_can_change_while_units_run() {
    let mut machine = machine(2);
    let first = machine.add_domain(256, 0);
    let second = machine.add_domain(256, 0);
    for domain in [first, second] {
        machine.add_units(domain, 2, Behaviour::Hog);
    }
    let mut before = 0;
    let mut share_of_first = |machine: &mut Simulator, weight, cap| {
        let share = DomainShare { weight, cap };
        machine.policy().set_share(first, share).unwrap();
        machine.run(SECOND);
        before = machine.ran(first);
        machine.run(5 * SECOND);
        (machine.ran(first) - before) as f64 / (10 * SECOND) as f64
    };
    assert!((share_of_first(&mut machine, 256, 0) - 0.5).abs() < 0.01);
    assert!((share_of_first(&mut machine, 768, 0) - 0.75).abs() < 0.015);
    assert!((share_of_first(&mut machine, 768, 20) - 0.1).abs() < 0.002);
    assert!((share_of_first(&mut machine, 256, 0) - 0.5).abs() < 0.01);
}

#[test]
fn nobody_starves() {
    let worst = scenarios::longest_wait(NAME, 70);
    println!("longest wait: {worst:.2} fair turns");
    assert!(worst < 4.0, "{worst}");
}

#[test]
fn a_small_weight_does_not_starve() {
    // 64 of 4160 is one slice of 30 ms in 2 s.
    let wait = scenarios::longest_wait_of_a_small_weight(NAME);
    println!("longest wait: {} ms", wait / MS);
    assert!(wait < 2 * SECOND, "{wait}");
}

#[test]
fn a_boosted_unit_runs_at_once() {
    for cpus in [1, 2, 4, 8] {
        for hogs in [1, 2, 4] {
            // At the latest when the ratelimit of what runs is over, and the interrupt has arrived.
            let latency = scenarios::wake_latency(&mut machine(cpus), cpus, hogs * cpus);
            println!("{cpus} pCPUs, {hogs} hogs on each: {} us", latency / US);
            assert!(
                latency <= MS + 10 * US,
                "{cpus} pCPUs, {hogs} hogs: {latency}"
            );
        }
    }
}

#[test]
fn ratelimit_delays_a_boosted_unit_no_longer_than_it_says() {
    for ratelimit_us in [0, 100, 1000, 5000, 30_000] {
        let mut machine = machine(1);
        let parameters = with(|parameters| parameters.ratelimit_us = ratelimit_us);
        machine.set_parameters(parameters).unwrap();
        let latency = scenarios::wake_latency(&mut machine, 1, 4);
        println!("ratelimit {ratelimit_us} us: latency {} us", latency / US);
        let limit = u64::from(ratelimit_us) * US;
        assert!(latency <= limit + 10 * US, "{ratelimit_us} us: {latency}");
        if ratelimit_us >= 5000 {
            assert!(latency > limit / 2, "{ratelimit_us} us: {latency}");
        }
    }
}

#[test]
fn the_time_slice_is_that_of_the_parameters() {
    for timeslice_ms in [1, 5, 30, 100, 1000] {
        let mut machine = machine(1);
        let parameters = with(|parameters| {
            parameters.timeslice_ms = timeslice_ms;
            parameters.ratelimit_us = 0;
        });
        machine.set_parameters(parameters).unwrap();
        let domain = machine.add_domain(256, 0);
        machine.add_units(domain, 2, Behaviour::Hog);
        machine.run(20 * SECOND);
        let starts: u64 = machine.units().map(|id| machine.times(id).starts).sum();
        let slice = 20_000.0 / starts as f64;
        println!("time slice {timeslice_ms} ms: {slice:.2} ms");
        let ratio = slice / f64::from(timeslice_ms);
        assert!((0.6..1.2).contains(&ratio), "{timeslice_ms} ms: {slice} ms");
    }
}

#[test]
fn migration_delay_keeps_units_where_they_ran() {
    let migrations = [0, 5_000, 100_000].map(|migration_delay_us| {
        let mut machine = machine(4);
        let parameters = with(|parameters| parameters.migration_delay_us = migration_delay_us);
        machine.set_parameters(parameters).unwrap();
        let domain = machine.add_domain(256, 0);
        let behaviour = Behaviour::Random {
            run: 2 * MS,
            block: 2 * MS,
        };
        machine.add_units(domain, 10, behaviour);
        machine.run(5 * SECOND);
        let times = machine.units().map(|id| machine.times(id));
        times.map(|times| times.migrations).sum::<u64>()
    });
    println!("migrations without, with 5 ms, with 100 ms: {migrations:?}");
    assert!(migrations[0] > 2 * migrations[1], "{migrations:?}");
    assert!(migrations[1] > 2 * migrations[2], "{migrations:?}");
}

#[test]
fn work_is_conserved() {
    scenarios::work_is_conserved(NAME, 100);
}

#[test]
fn affinity_holds_while_affinities_and_pcpus_change() {
    scenarios::affinity_holds_while_things_change(NAME, 60, 1000);
}

#[test]
fn soft_affinity_is_followed_while_there_is_room() {
    let mut machine = machine(4);
    let domain = machine.add_domain(256, 0);
    let soft = Affinity {
        hard: CpuSet::ALL,
        soft: hard([2, 3]).hard,
    };
    let behaviours = [Behaviour::Hog, Behaviour::Random { run: MS, block: MS }];
    let units = behaviours.map(|behaviour| machine.add_unit(domain, soft, behaviour));
    // Elsewhere there is as much room.
    for _ in 0..200 {
        machine.run(10 * MS);
        for cpu in [0, 1] {
            let running = machine.running(CpuId::new(cpu));
            assert_eq!(running, None, "at {}", machine.now());
        }
    }
    // Units that may run there only come first; the others go elsewhere.
    for cpu in [2, 3] {
        machine.add_unit(domain, hard([cpu]), Behaviour::Hog);
    }
    machine.check_work_conservation(10 * MS);
    machine.run(SECOND);
    assert!(machine.times(units[0]).states[0] > 2 * SECOND + SECOND * 9 / 10);
}

#[test]
fn a_yielding_unit_lets_others_run() {
    let part = scenarios::time_beside_a_yielder(NAME);
    println!("the hog has {:.1} %", part * 100.0);
    assert!(part > 0.45, "{part}");
}

#[test]
fn a_yielding_unit_makes_room_even_for_one_without_credit() {
    let mut machine = machine(1);
    let poor = machine.add_domain(1, 0);
    let hog = machine.add_unit(poor, Affinity::default(), Behaviour::Hog);
    let rich = machine.add_domain(65535, 0);
    machine.add_units(rich, 1, Behaviour::Yielder { run: 5 * MS });
    machine.run(10 * SECOND);
    // By its weight it would have 150 us.
    let part = machine.times(hog).states[0] as f64 / (10 * SECOND) as f64;
    println!("the hog has {:.1} %", part * 100.0);
    assert!(part > 0.3, "{part}");
}

#[test]
fn an_idle_machine_is_quiet() {
    scenarios::an_idle_machine_is_quiet(NAME);
}

#[test]
fn a_large_machine_works() {
    let decisions = scenarios::large_machine(NAME, 128, 6000, SECOND);
    println!("{decisions} decisions");
}

/// Adds up the time of each unit on pCPUs from the events.
#[derive(Default)]
struct Clock {
    since: HashMap<CpuId, u64>,
    ran: Rc<RefCell<HashMap<(u16, u16), u64>>>,
    running: usize,
}

impl Observer for Clock {
    fn event(&mut self, time: u64, cpu: CpuId, what: Happening) {
        match what {
            Happening::Switch { from, .. } => {
                let since = self.since.insert(cpu, time);
                if let (Some(Who { domain, vcpu }), Some(since)) = (from, since) {
                    let mut ran = self.ran.borrow_mut();
                    *ran.entry((domain.raw(), vcpu.raw())).or_default() += time - since;
                }
            }
            Happening::RunState { from, to, .. } => {
                self.running += usize::from(to == RunState::Running);
                self.running -= usize::from(from == RunState::Running);
                assert!(self.running <= 3);
            }
            _ => {}
        }
    }
}

#[test]
fn an_observer_sees_all_that_happens() {
    let mut machine = machine(3);
    let clock = Clock::default();
    let ran = clock.ran.clone();
    machine.observe(Box::new(clock));
    let domain = machine.add_domain(256, 0);
    machine.add_units(domain, 5, Behaviour::Hog);
    machine.run(10 * SECOND);
    for unit in machine.units() {
        let seen = ran.borrow()[&(domain.raw(), unit.raw())];
        let real = machine.times(unit).states[0];
        // But for the last slices.
        assert!(seen <= real && seen + 100 * MS >= real, "{seen} of {real}");
    }
}
