//! Tests of the policy under a small machine: pCPUs that do as they are told, and units that run, block and wake.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::sched::policy;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn cpu(number: u16) -> CpuId {
    CpuId::new(number)
}

fn unit(number: u16) -> UnitId {
    UnitId::new(number)
}

fn pinned(cpus: &[u16]) -> Affinity {
    let mut hard = CpuSet::EMPTY;
    cpus.iter().for_each(|&number| hard.insert(cpu(number)));
    Affinity {
        hard,
        soft: CpuSet::ALL,
    }
}

fn preferring(cpus: &[u16]) -> Affinity {
    Affinity {
        hard: CpuSet::ALL,
        soft: pinned(cpus).hard,
    }
}

/// A random number generator (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

/// How a unit behaves: it runs for a while, then sleeps for a while (0: never), each up to twice the mean.
#[derive(Clone, Copy, Default)]
struct Habit {
    runs: u64,
    sleeps: u64,
}

const BUSY: Habit = Habit { runs: 0, sleeps: 0 };

/// What the machine knows of a unit.
struct Subject {
    habit: Habit,
    is_runnable: bool,
    on: Option<CpuId>,
    /// When it wakes or, while it runs, blocks.
    event: u64,
    work_left: u64,
    runnable_since: u64,
    ran: u64,
    longest_wait: u64,
    affinity: Affinity,
}

#[derive(Default, Clone, Copy)]
struct Place {
    unit: Option<UnitId>,
    since: u64,
    until: u64,
    idle_since: u64,
    decisions: u64,
}

struct Machine {
    policy: Credit2,
    now: u64,
    cpus: BTreeMap<CpuId, Place>,
    units: BTreeMap<UnitId, Subject>,
    kick: CpuSet,
    random: Random,
    /// How much later than asked for pCPUs decide, in ns.
    lateness: u64,
}

impl Machine {
    fn new(cpus: u16) -> Self {
        let mut machine = Self {
            policy: Credit2::default(),
            now: 5 * SECOND,
            cpus: BTreeMap::new(),
            units: BTreeMap::new(),
            kick: CpuSet::EMPTY,
            random: Random(1),
            lateness: 0,
        };
        for number in 0..cpus {
            machine.add_cpu(cpu(number));
        }
        machine
    }

    fn add_cpu(&mut self, cpu: CpuId) {
        self.policy.add_cpu(cpu, self.now).unwrap();
        self.cpus.insert(cpu, Place::default());
        self.kick.insert(cpu);
    }

    fn domain(&mut self, id: u16, weight: u16, cap: u16) {
        self.policy.add_domain(DomId::new(id)).unwrap();
        let share = DomainShare { weight, cap };
        self.policy.set_share(DomId::new(id), share).unwrap();
    }

    fn unit(&mut self, number: u16, domain: u16, affinity: Affinity, habit: Habit) {
        let id = unit(number);
        self.policy
            .add_unit(id, DomId::new(domain), affinity, self.now)
            .unwrap();
        let subject = Subject {
            habit,
            is_runnable: false,
            on: None,
            event: self.now + self.random.below(MS),
            work_left: 0,
            runnable_since: 0,
            ran: 0,
            longest_wait: 0,
            affinity,
        };
        self.units.insert(id, subject);
    }

    fn draw(&mut self, mean: u64) -> u64 {
        if mean == 0 {
            u64::MAX
        } else {
            1 + self.random.below(2 * mean)
        }
    }

    /// What ran on a pCPU is accounted until now.
    fn account(&mut self, cpu: CpuId) {
        let place = self.cpus.get_mut(&cpu).unwrap();
        let time = self.now - core::mem::replace(&mut place.since, self.now);
        if let Some(subject) = place.unit.and_then(|id| self.units.get_mut(&id)) {
            subject.ran += time;
            subject.work_left = subject.work_left.saturating_sub(time);
        }
    }

    fn schedule(&mut self, cpu: CpuId) {
        self.account(cpu);
        if let Some(old) = self.cpus[&cpu].unit {
            let subject = self.units.get_mut(&old).unwrap();
            if subject.on == Some(cpu) {
                subject.on = None;
                subject.runnable_since = self.now;
            }
        }
        let decision = self.policy.schedule(cpu, self.now, &mut self.kick);
        assert!(decision.until > self.now, "a slice of no time");
        let place = self.cpus.get_mut(&cpu).unwrap();
        if decision.unit.is_none() && place.unit.is_some() {
            place.idle_since = self.now;
        }
        place.decisions += 1;
        place.unit = decision.unit;
        place.until = decision.until.saturating_add(self.lateness);
        if let Some(id) = decision.unit {
            let subject = self.units.get_mut(&id).unwrap();
            assert!(subject.is_runnable, "{id:?} sleeps and is run");
            assert_eq!(subject.on, None, "{id:?} runs twice");
            assert!(subject.affinity.hard.contains(cpu), "{id:?} on {cpu:?}");
            subject.on = Some(cpu);
            subject.longest_wait = subject.longest_wait.max(self.now - subject.runnable_since);
        }
    }

    fn wake(&mut self, id: UnitId) {
        let work = self.draw(self.units[&id].habit.runs);
        let subject = self.units.get_mut(&id).unwrap();
        (subject.is_runnable, subject.event) = (true, u64::MAX);
        (subject.work_left, subject.runnable_since) = (work, self.now);
        self.policy.wake(id, self.now, &mut self.kick);
    }

    fn block(&mut self, id: UnitId) {
        let pause = self.draw(self.units[&id].habit.sleeps);
        if let Some(cpu) = self.units[&id].on {
            self.account(cpu);
            self.cpus.get_mut(&cpu).unwrap().unit = None;
        }
        let subject = self.units.get_mut(&id).unwrap();
        (subject.is_runnable, subject.on) = (false, None);
        subject.event = self.now.saturating_add(pause);
        self.policy.sleep(id, self.now, &mut self.kick);
    }

    /// Everybody who was told to schedule does so.
    fn settle(&mut self) {
        let mut rounds = 0;
        while let Some(cpu) = self.kick.first() {
            self.kick.remove(cpu);
            self.schedule(cpu);
            rounds += 1;
            assert!(rounds < 10_000, "pCPUs kick each other without end");
        }
    }

    fn run(&mut self, time: u64) {
        let end = self.now + time;
        self.settle();
        while self.now < end {
            let mut next = end;
            for (&cpu, place) in &self.cpus {
                next = next.min(place.until).min(self.policy.next_timer(cpu));
            }
            for subject in self.units.values() {
                let done = match subject.on {
                    Some(cpu) => self.cpus[&cpu].since.saturating_add(subject.work_left),
                    None => u64::MAX,
                };
                next = next.min(subject.event).min(done);
            }
            self.now = next.max(self.now);
            let cpus: Vec<CpuId> = self.cpus.keys().copied().collect();
            for &cpu in &cpus {
                self.account(cpu);
            }
            let units: Vec<UnitId> = self.units.keys().copied().collect();
            for id in units {
                let subject = &self.units[&id];
                if subject.event <= self.now {
                    self.wake(id);
                } else if subject.on.is_some() && subject.work_left == 0 {
                    self.block(id);
                }
            }
            for &cpu in &cpus {
                if self.policy.next_timer(cpu) <= self.now {
                    self.policy.timer(cpu, self.now, &mut self.kick);
                    assert!(self.policy.next_timer(cpu) > self.now);
                }
                if self.cpus[&cpu].until <= self.now {
                    self.kick.insert(cpu);
                }
            }
            self.settle();
            self.check();
        }
    }

    /// What holds whenever everybody has done as told.
    fn check(&self) {
        for (&idle, _) in self.cpus.iter().filter(|(_, place)| place.unit.is_none()) {
            for (id, subject) in &self.units {
                let is_parked = self.policy.unit(*id).unwrap().state == State::Parked;
                let waits = subject.is_runnable && subject.on.is_none() && !is_parked;
                assert!(
                    !(waits && subject.affinity.hard.contains(idle)),
                    "{id:?} waits and {idle:?} idles at {}",
                    self.now
                );
            }
        }
    }

    fn share(&self, number: u16, since: u64) -> f64 {
        self.units[&unit(number)].ran as f64 / (self.now - since) as f64
    }

    fn reset_figures(&mut self) -> u64 {
        for subject in self.units.values_mut() {
            (subject.ran, subject.longest_wait) = (0, 0);
        }
        self.now
    }
}

fn near(value: f64, expected: f64, tolerance: f64) -> bool {
    (value - expected).abs() <= expected * tolerance
}

#[test]
fn the_policy_is_found_by_name() {
    let found = policy("credit2").unwrap();
    assert_eq!((found.id(), found.name()), (6, "credit2"));
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
fn a_yield_lets_another_go_first_once() {
    let mut policy = Credit2::default();
    policy.add_cpu(cpu(0), 0).unwrap();
    policy.add_domain(DomId::DOM0).unwrap();
    let mut kick = CpuSet::EMPTY;
    for i in 0..2 {
        policy
            .add_unit(unit(i), DomId::DOM0, Affinity::default(), 0)
            .unwrap();
        policy.wake(unit(i), 0, &mut kick);
    }
    let first = policy.schedule(cpu(0), 0, &mut kick).unit.unwrap();
    // Within the rate limit nothing changes, except by a yield.
    assert_eq!(policy.schedule(cpu(0), 1000, &mut kick).unit, Some(first));
    policy.yield_unit(first);
    let second = policy.schedule(cpu(0), 2000, &mut kick).unit.unwrap();
    assert_ne!(first, second);
    assert_eq!(policy.schedule(cpu(0), 3000, &mut kick).unit, Some(second));
    // Alone, a unit that yields goes on.
    policy.sleep(first, 4000, &mut kick);
    policy.yield_unit(second);
    assert_eq!(policy.schedule(cpu(0), 5000, &mut kick).unit, Some(second));
}

#[test]
fn idle_pcpus_are_found_by_preference() {
    let mut policy = Credit2::default();
    policy.add_domain(DomId::DOM0).unwrap();
    let mut kick = CpuSet::EMPTY;
    for c in 0..4 {
        policy.add_cpu(cpu(c), 0).unwrap();
        assert_eq!(policy.schedule(cpu(c), 0, &mut kick).unit, None);
    }
    let affinities = [
        pinned(&[3]),
        preferring(&[2]),
        preferring(&[2]),
        Affinity::default(),
    ];
    let mut woken = Vec::new();
    for (i, affinity) in affinities.into_iter().enumerate() {
        let id = unit(i as u16);
        policy.add_unit(id, DomId::DOM0, affinity, 0).unwrap();
        kick = CpuSet::EMPTY;
        policy.wake(id, 0, &mut kick);
        assert_eq!(kick.len(), 1);
        woken.push(kick.first().unwrap().index());
    }
    assert_eq!(woken, [3, 2, 0, 1]);
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
fn an_affinity_outside_of_the_pool_says_nothing_until_its_pcpu_joins() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_domain(DomId::DOM0).unwrap();
    policy
        .add_unit(unit(0), DomId::DOM0, pinned(&[9]), 0)
        .unwrap();
    policy.add_cpu(cpu(0), 0).unwrap();
    policy.wake(unit(0), 0, &mut kick);
    assert_eq!(policy.schedule(cpu(0), 0, &mut kick).unit, Some(unit(0)));
    policy.add_cpu(cpu(9), 5 * MS).unwrap();
    assert_eq!(policy.schedule(cpu(0), 5 * MS, &mut kick).unit, None);
    assert_eq!(
        policy.schedule(cpu(9), 5 * MS, &mut kick).unit,
        Some(unit(0))
    );
    policy.remove_cpu(cpu(9), 6 * MS, &mut kick);
    assert!(kick.contains(cpu(0)));
    assert_eq!(
        policy.schedule(cpu(0), 6 * MS, &mut kick).unit,
        Some(unit(0))
    );
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
fn a_unit_wakes_where_it_ran() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_domain(DomId::DOM0).unwrap();
    policy
        .add_unit(unit(0), DomId::DOM0, pinned(&[18]), 0)
        .unwrap();
    for c in 0..20 {
        policy.add_cpu(cpu(c), 0).unwrap();
        policy.schedule(cpu(c), 0, &mut kick);
    }
    policy.wake(unit(0), 0, &mut kick);
    assert_eq!(policy.schedule(cpu(18), 0, &mut kick).unit, Some(unit(0)));
    policy.set_affinity(unit(0), Affinity::default(), MS, &mut kick);
    policy.sleep(unit(0), MS, &mut kick);
    policy.schedule(cpu(18), MS, &mut kick);
    kick = CpuSet::EMPTY;
    policy.wake(unit(0), 2 * MS, &mut kick);
    assert_eq!(kick, CpuSet::single(cpu(18)));
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

#[test]
fn the_least_deserving_is_preempted_with_regard_to_places() {
    // The credits of those that run on pCPUs 0 and 1, what the third likes, and whom it interrupts; it ran on 1 before.
    for (credits, soft, expected) in [
        ([5 * MS, 8 * MS], &[0, 1][..], Some(0)),
        ([5 * MS, 5 * MS + 400_000], &[0, 1], Some(1)),
        ([5 * MS, 5 * MS + 600_000], &[0, 1], Some(0)),
        ([5 * MS, 8 * MS], &[1], Some(1)),
        ([8 * MS, 5 * MS], &[0], Some(0)),
        ([9 * MS + 600_000, 11 * MS], &[0, 1], None),
        ([11 * MS, 9 * MS + 600_000], &[0, 1], Some(1)),
    ] {
        let mut policy = Credit2::default();
        let mut kick = CpuSet::EMPTY;
        policy.add_domain(DomId::DOM0).unwrap();
        for c in 0..2 {
            policy.add_cpu(cpu(c), 0).unwrap();
            let id = unit(c);
            policy
                .add_unit(id, DomId::DOM0, Affinity::default(), 0)
                .unwrap();
            policy.wake(id, 0, &mut kick);
            assert_eq!(policy.schedule(cpu(c), 0, &mut kick).unit, Some(id));
        }
        for c in 0..2 {
            policy.set_credit(unit(c), 0, credits[usize::from(c)] as i64);
        }
        policy
            .add_unit(unit(2), DomId::DOM0, preferring(soft), 0)
            .unwrap();
        policy.set_credit(unit(2), 0, CREDIT_INIT);
        policy.unit_mut(unit(2)).unwrap().cpu = cpu(1);
        kick = CpuSet::EMPTY;
        policy.wake(unit(2), 0, &mut kick);
        assert_eq!(kick.first(), expected.map(cpu), "{credits:?} {soft:?}");
    }
}

#[test]
fn the_rate_limit_ends_when_it_says() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_cpu(cpu(0), 0).unwrap();
    policy.add_domain(DomId::DOM0).unwrap();
    for i in 0..2 {
        policy
            .add_unit(unit(i), DomId::DOM0, Affinity::default(), 0)
            .unwrap();
    }
    policy.wake(unit(0), 0, &mut kick);
    let alone = policy.schedule(cpu(0), 0, &mut kick);
    assert_eq!((alone.unit, alone.until), (Some(unit(0)), MAX_TIMER));
    kick = CpuSet::EMPTY;
    policy.wake(unit(1), 800_000, &mut kick);
    assert!(kick.contains(cpu(0)));
    let decision = policy.schedule(cpu(0), 800_000, &mut kick);
    assert_eq!((decision.unit, decision.until), (Some(unit(0)), MS));
    let decision = policy.schedule(cpu(0), MS, &mut kick);
    assert_eq!(decision.unit, Some(unit(1)));
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

#[test]
fn credit_given_while_asleep_is_what_it_would_have_been_awake() {
    let mut policy = Credit2::default();
    policy.add_cpu(cpu(0), 0).unwrap();
    policy.add_domain(DomId::DOM0).unwrap();
    for i in 0..2 {
        policy
            .add_unit(unit(i), DomId::DOM0, Affinity::default(), 0)
            .unwrap();
    }
    let set = |policy: &mut Credit2, credit| policy.set_credit(unit(0), 0, credit);
    let credit = |policy: &Credit2| policy.credit(policy.unit(unit(0)).unwrap());
    // Added and limited at each reset, which is the same as once.
    for start in [
        CREDIT_INIT,
        0,
        -1,
        -CREDIT_INIT,
        -35_000_000,
        -1_000_000_000_000,
    ] {
        set(&mut policy, start);
        let mut plain = start;
        for next in [0, -5, -CREDIT_INIT, -70_000_000, -1, 0, 0] {
            policy.reset(0, next, 0);
            let times = 1 + (-next) / CREDIT_INIT;
            plain = (plain + times * CREDIT_INIT).min(CREDIT_MAX);
            assert_eq!(credit(&policy), plain, "from {start}");
        }
    }
    // The count wraps without anybody noticing, however long one sleeps.
    for sleep in [1u64 << 19, 1 << 20, 1 << 40] {
        set(&mut policy, -CREDIT_INIT);
        let queue = &mut policy.queues[0];
        queue.given = queue.given.wrapping_add(i64::MAX / 2 + 12345);
        queue.resets += sleep;
        assert_eq!(credit(&policy), CREDIT_MAX);
    }
}

#[test]
fn nothing_is_lost_in_payments() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_cpu(cpu(0), 0).unwrap();
    for (i, weight) in [(0, 256), (1, 255)] {
        policy.add_domain(DomId::new(i)).unwrap();
        let share = DomainShare { weight, cap: 0 };
        policy.set_share(DomId::new(i), share).unwrap();
        policy
            .add_unit(unit(i), DomId::new(i), Affinity::default(), 0)
            .unwrap();
    }
    policy.wake(unit(1), 0, &mut kick);
    let mut credit = |policy: &mut Credit2, now| {
        policy.schedule(cpu(0), now, &mut kick);
        policy.credit(policy.unit(unit(1)).unwrap())
    };
    let start = credit(&mut policy, 0);
    // One ns at a time: each costs one and a bit.
    let end = (1..=2550)
        .map(|now| credit(&mut policy, now))
        .last()
        .unwrap();
    assert_eq!(start - end, 2560);
    // A reset takes nothing that was not paid for yet.
    policy.set_credit(unit(1), 0, CREDIT_MAX);
    policy.reset(0, 0, 2550 + 255_000);
    assert_eq!(credit(&mut policy, 2550 + 255_000), CREDIT_MAX);
}

#[test]
fn cost_is_flat_in_sleepers_and_logarithmic_in_waiters() {
    let visits = |waiting: u16, asleep: u16| -> f64 {
        let mut policy = Credit2::default();
        let mut kick = CpuSet::EMPTY;
        for c in 0..4 {
            policy.add_cpu(cpu(c), 0).unwrap();
        }
        policy.add_domain(DomId::DOM0).unwrap();
        for i in 0..waiting + asleep {
            // All but a few are pinned elsewhere than the pCPU that is asked.
            let affinity = if i % 100 == 0 {
                pinned(&[0])
            } else {
                pinned(&[1, 2, 3])
            };
            policy.add_unit(unit(i), DomId::DOM0, affinity, 0).unwrap();
        }
        for i in 0..waiting {
            policy.wake(unit(i), 0, &mut kick);
        }
        let (mut now, mut decisions) = (0, 0);
        policy.waiting.visits.set(0);
        for _ in 0..500 {
            now += 2 * MS;
            for c in 0..4 {
                policy.schedule(cpu(c), now, &mut kick);
                decisions += 1;
            }
        }
        policy.waiting.visits.get() as f64 / f64::from(decisions)
    };
    let (few, many, huge) = (visits(30, 0), visits(300, 0), visits(3000, 0));
    std::println!("nodes per decision: 30: {few:.1}, 300: {many:.1}, 3000: {huge:.1}");
    assert!(many < 2.5 * few && huge < 4.0 * few, "{few} {many} {huge}");
    let slept = visits(300, 3000);
    assert!((slept - many).abs() < 0.01, "{many} {slept}");
}

#[test]
fn errors_are_those_of_the_contract() {
    let mut policy = Credit2::default();
    let dom1 = DomId::new(1);
    assert_eq!(policy.add_cpu(cpu(128), 0), Err(Errno::Inval));
    assert_eq!(policy.add_cpu(cpu(0), 0), Ok(()));
    assert_eq!(policy.add_cpu(cpu(0), 0), Err(Errno::Exist));
    assert_eq!(
        policy.add_unit(unit(0), dom1, Affinity::default(), 0),
        Err(Errno::NoEnt)
    );
    assert_eq!(policy.add_domain(dom1), Ok(()));
    assert_eq!(policy.add_domain(dom1), Err(Errno::Exist));
    assert_eq!(
        policy.add_unit(unit(0), dom1, Affinity::default(), 0),
        Ok(())
    );
    assert_eq!(
        policy.add_unit(unit(0), dom1, Affinity::default(), 0),
        Err(Errno::Exist)
    );
    assert_eq!(
        policy.add_unit(unit(65535), dom1, Affinity::default(), 0),
        Err(Errno::Inval)
    );
    let share = |weight, cap| DomainShare { weight, cap };
    assert_eq!(policy.share(dom1), Some(share(256, 0)));
    assert_eq!(policy.set_share(dom1, share(0, 0)), Err(Errno::Inval));
    assert_eq!(
        policy.set_share(DomId::DOM0, share(1, 0)),
        Err(Errno::NoEnt)
    );
    assert_eq!(policy.set_share(dom1, share(65535, 400)), Ok(()));
    assert_eq!(policy.share(dom1), Some(share(65535, 400)));
    policy.remove_unit(unit(0), 0);
    policy.remove_domain(dom1);
    assert_eq!((policy.share(dom1), policy.max_weight), (None, 256));
    // What nobody knows does nothing.
    let mut kick = CpuSet::EMPTY;
    policy.wake(unit(7), 0, &mut kick);
    policy.sleep(unit(7), 0, &mut kick);
    policy.yield_unit(unit(7));
    policy.set_affinity(unit(7), Affinity::default(), 0, &mut kick);
    policy.remove_unit(unit(7), 0);
    policy.remove_domain(dom1);
    policy.remove_cpu(cpu(9), 0, &mut kick);
    assert_eq!(policy.schedule(cpu(9), 0, &mut kick).unit, None);
    assert!(kick.is_empty());
}
