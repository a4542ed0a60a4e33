//! A small machine: pCPUs that do as the policy tells them, and units that run, block and wake.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::super::*;
use crate::addr::VcpuId;
use crate::trace::{self, Event, TraceRing};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

pub(super) fn cpu(number: u16) -> CpuId {
    CpuId::new(number)
}

pub(super) fn unit(number: u16) -> UnitId {
    UnitId::new(number)
}

pub(super) fn pinned(cpus: &[u16]) -> Affinity {
    let mut hard = CpuSet::EMPTY;
    cpus.iter().for_each(|&number| hard.insert(cpu(number)));
    Affinity {
        hard,
        soft: CpuSet::ALL,
    }
}

pub(super) fn preferring(cpus: &[u16]) -> Affinity {
    Affinity {
        hard: CpuSet::ALL,
        soft: pinned(cpus).hard,
    }
}

/// A random number generator (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

/// How a unit behaves: it runs for a while, then sleeps for a while (0: never), each up to twice the mean.
#[derive(Clone, Copy, Default)]
pub(super) struct Habit {
    pub(super) runs: u64,
    pub(super) sleeps: u64,
}

pub(super) const BUSY: Habit = Habit { runs: 0, sleeps: 0 };

/// What the machine knows of a unit.
pub(super) struct Subject {
    pub(super) who: trace::Subject,
    pub(super) habit: Habit,
    pub(super) is_runnable: bool,
    pub(super) on: Option<CpuId>,
    /// When it wakes or, while it runs, blocks.
    pub(super) event: u64,
    pub(super) work_left: u64,
    pub(super) runnable_since: u64,
    pub(super) ran: u64,
    pub(super) longest_wait: u64,
    pub(super) affinity: Affinity,
}

#[derive(Default, Clone, Copy)]
pub(super) struct Place {
    pub(super) unit: Option<UnitId>,
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) idle_since: u64,
    pub(super) decisions: u64,
}

pub(super) struct Machine {
    pub(super) policy: Credit2,
    pub(super) now: u64,
    pub(super) cpus: BTreeMap<CpuId, Place>,
    pub(super) units: BTreeMap<UnitId, Subject>,
    pub(super) kick: CpuSet,
    pub(super) random: Random,
    /// What happened, if it is recorded.
    pub(super) rings: BTreeMap<CpuId, TraceRing>,
    /// How much later than asked for pCPUs decide, in ns.
    pub(super) lateness: u64,
}

impl Machine {
    pub(super) fn new(cpus: u16) -> Self {
        let mut machine = Self {
            policy: Credit2::default(),
            now: 5 * SECOND,
            cpus: BTreeMap::new(),
            units: BTreeMap::new(),
            kick: CpuSet::EMPTY,
            random: Random(1),
            rings: BTreeMap::new(),
            lateness: 0,
        };
        for number in 0..cpus {
            machine.add_cpu(cpu(number));
        }
        machine
    }

    pub(super) fn add_cpu(&mut self, cpu: CpuId) {
        self.policy.add_cpu(cpu, self.now, &mut self.kick).unwrap();
        self.cpus.insert(cpu, Place::default());
        self.kick.insert(cpu);
    }

    pub(super) fn domain(&mut self, id: u16, weight: u16, cap: u16) {
        self.policy.add_domain(DomId::new(id)).unwrap();
        let share = DomainShare { weight, cap };
        self.policy.set_share(DomId::new(id), share).unwrap();
    }

    pub(super) fn unit(&mut self, number: u16, domain: u16, affinity: Affinity, habit: Habit) {
        let id = unit(number);
        self.policy
            .add_unit(id, DomId::new(domain), affinity, self.now)
            .unwrap();
        let vcpus = self
            .units
            .values()
            .filter(|other| other.who.packed() >> 16 == u32::from(domain));
        let vcpu = VcpuId::new(vcpus.count() as u16);
        let subject = Subject {
            who: trace::Subject::vcpu(DomId::new(domain), vcpu),
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

    /// Begins to record.
    pub(super) fn trace(&mut self, records: usize) {
        let cpus = self.cpus.keys();
        self.rings = cpus
            .map(|&cpu| (cpu, TraceRing::allocate(cpu, records).unwrap()))
            .collect();
    }

    fn record(&mut self, cpu: CpuId, event: Event, who: trace::Subject, arguments: [u32; 2]) {
        let now = self.now;
        if let Some(ring) = self.rings.get_mut(&cpu) {
            ring.write(now, event, who, arguments);
        }
    }

    /// What ran on a pCPU is accounted until now.
    pub(super) fn account(&mut self, cpu: CpuId) {
        let place = self.cpus.get_mut(&cpu).unwrap();
        let time = self.now - core::mem::replace(&mut place.since, self.now);
        if let Some(subject) = place.unit.and_then(|id| self.units.get_mut(&id)) {
            subject.ran += time;
            subject.work_left = subject.work_left.saturating_sub(time);
        }
    }

    pub(super) fn schedule(&mut self, cpu: CpuId) {
        self.account(cpu);
        let before = self.cpus[&cpu].unit;
        if let Some(old) = before {
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
        if before != decision.unit {
            let who =
                |id: Option<UnitId>| id.map_or(trace::Subject::IDLE, |id| self.units[&id].who);
            let (old, new) = (who(before), who(decision.unit));
            if before.is_some() {
                self.record(cpu, Event::Runstate, old, [1, 0]);
            }
            self.record(cpu, Event::Switch, new, [old.packed(), 0]);
            if decision.unit.is_some() {
                self.record(cpu, Event::Runstate, new, [0, 1]);
            }
        }
    }

    pub(super) fn wake(&mut self, id: UnitId) {
        let work = self.draw(self.units[&id].habit.runs);
        let subject = self.units.get_mut(&id).unwrap();
        (subject.is_runnable, subject.event) = (true, u64::MAX);
        (subject.work_left, subject.runnable_since) = (work, self.now);
        let who = subject.who;
        // A device of the first pCPU woke it.
        if let Some(first) = self.cpus.keys().next().copied() {
            self.record(first, Event::Wake, who, [0; 2]);
            self.record(first, Event::Runstate, who, [1, 2]);
        }
        self.policy.wake(id, self.now, &mut self.kick);
    }

    pub(super) fn block(&mut self, id: UnitId) {
        let pause = self.draw(self.units[&id].habit.sleeps);
        if let Some(cpu) = self.units[&id].on {
            self.account(cpu);
            self.cpus.get_mut(&cpu).unwrap().unit = None;
            let who = self.units[&id].who;
            self.record(cpu, Event::Runstate, who, [2, 0]);
            self.record(cpu, Event::Switch, trace::Subject::IDLE, [who.packed(), 0]);
        }
        let subject = self.units.get_mut(&id).unwrap();
        (subject.is_runnable, subject.on) = (false, None);
        subject.event = self.now.saturating_add(pause);
        self.policy.sleep(id, self.now, &mut self.kick);
    }

    /// Everybody who was told to schedule does so.
    pub(super) fn settle(&mut self) {
        let mut rounds = 0;
        while let Some(cpu) = self.kick.first() {
            self.kick.remove(cpu);
            self.schedule(cpu);
            rounds += 1;
            assert!(rounds < 10_000, "pCPUs kick each other without end");
        }
    }

    pub(super) fn run(&mut self, time: u64) {
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
    pub(super) fn check(&self) {
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

    pub(super) fn share(&self, number: u16, since: u64) -> f64 {
        self.units[&unit(number)].ran as f64 / (self.now - since) as f64
    }

    pub(super) fn reset_figures(&mut self) -> u64 {
        for subject in self.units.values_mut() {
            (subject.ran, subject.longest_wait) = (0, 0);
        }
        self.now
    }
}
