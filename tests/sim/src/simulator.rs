//! The machine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use xenith_core::addr::{CpuId, DomId, VcpuId};
use xenith_core::errno::Errno;
use xenith_core::sched::{
    Affinity, CpuSet, DomainShare, MAX_CPUS, Policy, PolicyParameters, UnitId,
};

use crate::behaviour::Next;
use crate::state::{Cpu, Unit};
use crate::{Behaviour, Happening, MS, Observer, Random, RunState, Times, US, Who};

/// Longest time that an interrupt between pCPUs takes, in ns.
const IPI_TIME: u64 = 4 * US;
/// Most that the clocks of pCPUs differ, in ns.
const CLOCKS_DIFFER: u64 = 300;
/// After a change of the pool a unit may run where it may not any more until the next tick at the latest, in ns.
const POOL_DELAY: u64 = 11 * MS;
/// Time between two checks of work conservation, in ns.
const CHECK_PERIOD: u64 = 2 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An interrupt tells a pCPU to schedule.
    Kick(CpuId),
    /// A decision ends.
    Until(CpuId, u64),
    Timer(CpuId, u64),
    /// A unit has computed for its time.
    Work(UnitId, u64),
    Wake(UnitId),
    /// A unit has had the time to go where it may run.
    Affinity(UnitId, u64),
    /// No pCPU idles while work waits.
    Conservation,
}

/// The machine.
pub struct Simulator {
    policy: Box<dyn Policy>,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    event_count: u64,
    cpus: Vec<Cpu>,
    online: CpuSet,
    units: Vec<Unit>,
    domains: Vec<(DomId, u16)>,
    random: Random,
    observer: Option<Box<dyn Observer>>,
    longest_idle: Option<u64>,
    decisions: u64,
}

impl Simulator {
    /// Makes a machine with `cpus` pCPUs. The seed decides all that is random.
    pub fn new(policy: Box<dyn Policy>, cpus: u16, seed: u64) -> Self {
        let absent = Cpu {
            is_online: false,
            running: None,
            since: 0,
            ahead: 0,
            is_kicked: false,
            decision: 0,
            timer: 0,
            timer_at: u64::MAX,
        };
        let mut simulator = Self {
            policy,
            // Time does not begin with the machine.
            now: 5 * MS,
            events: BinaryHeap::new(),
            event_count: 0,
            cpus: vec![absent; MAX_CPUS],
            online: CpuSet::EMPTY,
            units: Vec::new(),
            domains: Vec::new(),
            random: Random::new(seed),
            observer: None,
            longest_idle: None,
            decisions: 0,
        };
        (0..cpus).for_each(|cpu| simulator.add_cpu(CpuId::new(cpu)));
        simulator
    }

    /// Tells an observer what happens from now on.
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// From now on, no pCPU may idle for longer than `limit` ns while a unit waits for as long that may run there, and whose
    /// domain has no cap, or one that its units cannot reach.
    pub fn check_work_conservation(&mut self, limit: u64) {
        self.longest_idle = Some(limit);
        self.push(self.now + CHECK_PERIOD, Event::Conservation);
    }

    /// Returns the time, in ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Returns how many decisions there were.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Returns the random numbers.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Returns the policy.
    pub fn policy(&mut self) -> &mut dyn Policy {
        &mut *self.policy
    }

    /// Changes the policy's parameters.
    ///
    /// # Errors
    /// Those of the policy.
    pub fn set_parameters(&mut self, parameters: PolicyParameters) -> Result<(), Errno> {
        self.policy.set_parameters(parameters)
    }

    /// Adds a pCPU.
    pub fn add_cpu(&mut self, cpu: CpuId) {
        let ahead = self.random.below(CLOCKS_DIFFER);
        let now = self.now;
        let state = &mut self.cpus[cpu.index()];
        state.is_online = true;
        state.since = now;
        state.ahead = ahead;
        self.online.insert(cpu);
        self.pool_changed();
        self.with_policy(cpu, |policy, now, kick| policy.add_cpu(cpu, now, kick))
            .unwrap();
        self.schedule(cpu);
    }

    /// Takes a pCPU away: it idles first, or is taken from under what runs there.
    pub fn remove_cpu(&mut self, cpu: CpuId) {
        let idles_first = self.random.below(2) == 0;
        let running = self.cpus[cpu.index()].running.filter(|_| idles_first);
        if let Some(unit) = running {
            self.with_policy(cpu, |policy, now, kick| policy.sleep(unit, now, kick));
        }
        self.halt(cpu, RunState::Runnable);
        self.online.remove(cpu);
        let state = &mut self.cpus[cpu.index()];
        state.is_online = false;
        state.decision += 1;
        state.timer += 1;
        self.with_policy(cpu, |policy, now, kick| policy.remove_cpu(cpu, now, kick));
        if let Some(unit) = running {
            self.with_policy(cpu, |policy, now, kick| policy.wake(unit, now, kick));
        }
        self.pool_changed();
    }

    fn pool_changed(&mut self) {
        for index in 0..self.units.len() {
            self.expect_affinity(index, POOL_DELAY);
        }
    }

    /// Adds a domain with a weight and a cap.
    pub fn add_domain(&mut self, weight: u16, cap: u16) -> DomId {
        let domain = DomId::new(self.domains.len() as u16);
        self.policy.add_domain(domain).unwrap();
        self.domains.push((domain, 0));
        let share = DomainShare { weight, cap };
        if self
            .policy
            .share(domain)
            .is_some_and(|default| default != share)
        {
            self.policy.set_share(domain, share).unwrap();
        }
        domain
    }

    /// Adds a unit, which wakes within a few microseconds.
    pub fn add_unit(&mut self, domain: DomId, affinity: Affinity, behaviour: Behaviour) -> UnitId {
        let id = UnitId::new(self.units.len() as u16);
        self.policy
            .add_unit(id, domain, affinity, self.now)
            .unwrap();
        let (_, vcpus) = &mut self.domains[usize::from(domain.raw())];
        let vcpu = VcpuId::new(*vcpus);
        *vcpus += 1;
        self.units.push(Unit {
            id,
            who: Who { domain, vcpu },
            affinity,
            behaviour,
            state: RunState::Blocked,
            since: self.now,
            is_ready: false,
            is_paused: false,
            just_woke: false,
            work: 0,
            cpu: None,
            work_number: 0,
            affinity_number: 0,
            times: Times::default(),
        });
        let start = self.random.below(10 * US);
        self.push(self.now + start, Event::Wake(id));
        id
    }

    /// Adds units that may run anywhere.
    pub fn add_units(&mut self, domain: DomId, count: u16, behaviour: Behaviour) {
        for _ in 0..count {
            self.add_unit(domain, Affinity::default(), behaviour);
        }
    }

    /// Changes where a unit may run.
    pub fn set_affinity(&mut self, id: UnitId, affinity: Affinity) {
        self.units[id.index()].affinity = affinity;
        let cpu = self.any_cpu();
        self.with_policy(cpu, |policy, now, kick| {
            policy.set_affinity(id, affinity, now, kick);
        });
        self.expect_affinity(id.index(), IPI_TIME + US);
    }

    fn expect_affinity(&mut self, index: usize, delay: u64) {
        let unit = &mut self.units[index];
        unit.affinity_number += 1;
        let event = Event::Affinity(unit.id, unit.affinity_number);
        self.push(self.now + delay, event);
    }

    /// Pauses a unit, or lets it go on.
    pub fn set_paused(&mut self, id: UnitId, is_paused: bool) {
        self.units[id.index()].is_paused = is_paused;
        self.settle(id);
    }

    /// Returns the life of a unit until now.
    pub fn times(&self, id: UnitId) -> Times {
        let unit = &self.units[id.index()];
        let mut times = unit.times;
        let passed = self.now - unit.since;
        times.states[unit.state as usize] += passed;
        if unit.state == RunState::Runnable {
            times.longest_wait = times.longest_wait.max(passed);
        }
        times
    }

    /// Returns the domain of a unit.
    pub fn domain_of(&self, id: UnitId) -> DomId {
        self.units[id.index()].who.domain
    }

    /// Returns all units.
    pub fn units(&self) -> impl Iterator<Item = UnitId> + use<> {
        (0..self.units.len()).map(|index| UnitId::new(index as u16))
    }

    /// Returns how long the units of a domain ran, in ns.
    pub fn ran(&self, domain: DomId) -> u64 {
        let units = self.units().filter(|id| self.domain_of(*id) == domain);
        units.map(|id| self.times(id).states[0]).sum()
    }

    /// Returns what runs on a pCPU.
    pub fn running(&self, cpu: CpuId) -> Option<UnitId> {
        self.cpus[cpu.index()].running
    }

    /// Lets `duration` ns pass.
    pub fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        while let Some(&Reverse((time, _, event))) = self.events.peek()
            && time <= end
        {
            self.events.pop();
            self.now = time;
            self.happen(event);
        }
        self.now = end;
    }

    fn push(&mut self, time: u64, event: Event) {
        self.event_count += 1;
        self.events
            .push(Reverse((time.max(self.now), self.event_count, event)));
    }

    fn tell(&mut self, cpu: CpuId, what: Happening) {
        if let Some(observer) = &mut self.observer {
            observer.event(self.now, cpu, what);
        }
    }

    fn any_cpu(&mut self) -> CpuId {
        let count = u64::from(self.online.len());
        let nth = self.random.below(count.max(1)) as usize;
        self.online.iter().nth(nth).unwrap_or(CpuId::new(0))
    }

    /// Calls the policy on `cpu`, by its clock, and tells the pCPUs that have to schedule.
    fn with_policy<R>(
        &mut self,
        cpu: CpuId,
        call: impl FnOnce(&mut dyn Policy, u64, &mut CpuSet) -> R,
    ) -> R {
        let mut kick = CpuSet::EMPTY;
        let clock = self.now + self.cpus[cpu.index()].ahead;
        let result = call(&mut *self.policy, clock, &mut kick);
        for target in kick.iter() {
            let state = &mut self.cpus[target.index()];
            if state.is_online && !state.is_kicked {
                state.is_kicked = true;
                let delay = self.random.between(IPI_TIME / 4, IPI_TIME);
                self.push(self.now + delay, Event::Kick(target));
                self.tell(cpu, Happening::Ipi(target));
            }
        }
        result
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Kick(cpu) => {
                self.cpus[cpu.index()].is_kicked = false;
                self.schedule(cpu);
            }
            Event::Until(cpu, number) if self.cpus[cpu.index()].decision == number => {
                self.schedule(cpu);
            }
            Event::Timer(cpu, number) if self.cpus[cpu.index()].timer == number => {
                self.timer(cpu);
            }
            Event::Work(id, number) if self.units[id.index()].work_number == number => {
                self.work_done(id);
            }
            Event::Wake(id) => {
                let work = self.units[id.index()].behaviour.work(&mut self.random);
                let unit = &mut self.units[id.index()];
                unit.work = work;
                unit.is_ready = true;
                self.settle(id);
            }
            Event::Affinity(id, number) => {
                let unit = &self.units[id.index()];
                if unit.affinity_number == number
                    && unit.state == RunState::Running
                    && let Some(cpu) = unit.cpu
                {
                    let may = self.may_run(id);
                    assert!(
                        may.contains(cpu),
                        "{id:?} still runs on {cpu:?}, not {may:?}"
                    );
                }
            }
            Event::Conservation => {
                self.check_idle();
                self.push(self.now + CHECK_PERIOD, Event::Conservation);
            }
            Event::Until(..) | Event::Timer(..) | Event::Work(..) => {}
        }
    }

    fn units_of(&self, domain: DomId) -> u32 {
        let units = self.units.iter();
        units.filter(|unit| unit.who.domain == domain).count() as u32
    }

    fn may_run(&self, id: UnitId) -> CpuSet {
        let hard = self.units[id.index()].affinity.hard.and(&self.online);
        if hard.is_empty() { self.online } else { hard }
    }

    fn set_state(&mut self, id: UnitId, to: RunState) {
        let now = self.now;
        let unit = &mut self.units[id.index()];
        let (from, who, cpu) = (unit.state, unit.who, unit.cpu);
        let passed = now - unit.since;
        unit.times.states[from as usize] += passed;
        if from == RunState::Runnable {
            unit.times.longest_wait = unit.times.longest_wait.max(passed);
            if unit.just_woke && to == RunState::Running {
                unit.times.longest_latency = unit.times.longest_latency.max(passed);
            }
        }
        if to != RunState::Runnable {
            unit.just_woke = false;
        }
        if from != to {
            unit.state = to;
            unit.since = now;
            let cpu = cpu.unwrap_or(CpuId::new(0));
            self.tell(cpu, Happening::RunState { who, from, to });
        } else {
            unit.since = now;
        }
    }

    /// Tells the policy whether a unit can run, after that changed.
    fn settle(&mut self, id: UnitId) {
        let unit = &self.units[id.index()];
        let can_run = unit.is_ready && !unit.is_paused;
        let could_run = matches!(unit.state, RunState::Running | RunState::Runnable);
        let (who, cpu) = (unit.who, unit.cpu);
        let resting = if unit.is_paused {
            RunState::Offline
        } else {
            RunState::Blocked
        };
        let here = self.any_cpu();
        if can_run && !could_run {
            self.set_state(id, RunState::Runnable);
            let unit = &mut self.units[id.index()];
            unit.just_woke = true;
            unit.times.wakes += 1;
            self.tell(here, Happening::Wake(who));
            self.with_policy(here, |policy, now, kick| policy.wake(id, now, kick));
        } else if !can_run && could_run {
            let was_running = self.units[id.index()].state == RunState::Running;
            let cpu = cpu.filter(|_| was_running);
            // It stops at once, which the pCPU learns a little later.
            match cpu {
                Some(cpu) => self.halt(cpu, resting),
                None => self.set_state(id, resting),
            }
            let here = cpu.unwrap_or(here);
            self.with_policy(here, |policy, now, kick| policy.sleep(id, now, kick));
            if let Some(cpu) = cpu {
                assert!(
                    self.cpus[cpu.index()].is_kicked,
                    "{cpu:?} is not told that {id:?} sleeps"
                );
            }
        } else if !can_run {
            self.set_state(id, resting);
        }
    }

    /// What runs on a pCPU runs no more.
    fn halt(&mut self, cpu: CpuId, to: RunState) {
        let now = self.now;
        let state = &mut self.cpus[cpu.index()];
        let Some(id) = state.running.take() else {
            return;
        };
        let ran = now - state.since;
        state.since = now;
        let unit = &mut self.units[id.index()];
        if unit.work != u64::MAX {
            unit.work = unit.work.saturating_sub(ran);
        }
        unit.work_number += 1;
        self.set_state(id, to);
    }

    fn schedule(&mut self, cpu: CpuId) {
        if !self.cpus[cpu.index()].is_online {
            return;
        }
        self.decisions += 1;
        let ahead = self.cpus[cpu.index()].ahead;
        let clock = self.now + ahead;
        let decision = self.with_policy(cpu, |policy, now, kick| policy.schedule(cpu, now, kick));
        assert!(
            decision.until > clock,
            "a decision of no time: {decision:?}"
        );
        let old = self.cpus[cpu.index()].running;
        if decision.unit != old {
            let who = |id: Option<UnitId>| id.map(|id| self.units[id.index()].who);
            let (from, to) = (who(old), who(decision.unit));
            self.halt(cpu, RunState::Runnable);
            if let Some(id) = decision.unit {
                self.start(cpu, id);
            }
            self.tell(cpu, Happening::Switch { from, to });
        }
        let state = &mut self.cpus[cpu.index()];
        state.decision += 1;
        let event = Event::Until(cpu, state.decision);
        if decision.until != u64::MAX {
            self.push(decision.until - ahead, event);
        }
        self.arm_timer(cpu);
    }

    fn start(&mut self, cpu: CpuId, id: UnitId) {
        let may = self.may_run(id);
        assert!(may.contains(cpu), "{id:?} on {cpu:?}, not {may:?}");
        let unit = &self.units[id.index()];
        assert_eq!(
            unit.state,
            RunState::Runnable,
            "{id:?} on {cpu:?}; was on {:?}",
            unit.cpu
        );
        let moved_from = unit.cpu.filter(|last| *last != cpu);
        let who = unit.who;
        if let Some(from) = moved_from {
            self.tell(cpu, Happening::Migrate { who, from });
        }
        self.units[id.index()].cpu = Some(cpu);
        self.set_state(id, RunState::Running);
        let unit = &mut self.units[id.index()];
        unit.times.starts += 1;
        unit.times.migrations += u64::from(moved_from.is_some());
        let (work, event) = (unit.work, Event::Work(id, unit.work_number));
        let state = &mut self.cpus[cpu.index()];
        state.running = Some(id);
        state.since = self.now;
        if work != u64::MAX {
            self.push(self.now + work, event);
        }
    }

    fn arm_timer(&mut self, cpu: CpuId) {
        let at = self.policy.next_timer(cpu);
        let state = &mut self.cpus[cpu.index()];
        let at = at.saturating_sub(if at == u64::MAX { 0 } else { state.ahead });
        if state.timer_at == at {
            return;
        }
        state.timer_at = at;
        state.timer += 1;
        let event = Event::Timer(cpu, state.timer);
        if at != u64::MAX {
            self.push(at, event);
        }
    }

    fn timer(&mut self, cpu: CpuId) {
        if !self.cpus[cpu.index()].is_online {
            return;
        }
        self.cpus[cpu.index()].timer_at = u64::MAX;
        self.tell(cpu, Happening::Timer);
        self.with_policy(cpu, |policy, now, kick| policy.timer(cpu, now, kick));
        let clock = self.now + self.cpus[cpu.index()].ahead;
        let next = self.policy.next_timer(cpu);
        assert!(next > clock, "the timer of {cpu:?} stays due");
        self.arm_timer(cpu);
    }

    fn work_done(&mut self, id: UnitId) {
        let unit = &self.units[id.index()];
        let (RunState::Running, Some(cpu)) = (unit.state, unit.cpu) else {
            return;
        };
        match unit.behaviour.next(self.now, &mut self.random) {
            Next::Block { until } => {
                self.units[id.index()].is_ready = false;
                self.push(until, Event::Wake(id));
                self.settle(id);
            }
            Next::Yield => {
                self.policy.yield_unit(id);
                // From here on it computes anew.
                let ran = self.now - self.cpus[cpu.index()].since;
                let work = self.units[id.index()].behaviour.work(&mut self.random);
                let unit = &mut self.units[id.index()];
                unit.work = work.saturating_add(ran);
                unit.work_number += 1;
                let event = Event::Work(id, unit.work_number);
                if work != u64::MAX {
                    self.push(self.now + work, event);
                }
            }
        }
        self.schedule(cpu);
    }

    fn check_idle(&self) {
        let Some(limit) = self.longest_idle else {
            return;
        };
        let Some(before) = self.now.checked_sub(limit) else {
            return;
        };
        let mut idle = CpuSet::EMPTY;
        for cpu in self.online.iter() {
            let state = &self.cpus[cpu.index()];
            if state.running.is_none() && state.since < before {
                idle.insert(cpu);
            }
        }
        if idle.is_empty() {
            return;
        }
        for unit in &self.units {
            if unit.state == RunState::Runnable && unit.since < before {
                let may = self.may_run(unit.id).and(&idle);
                let share = self.policy.share(unit.who.domain);
                let has_cap = share.is_some_and(|share| {
                    share.cap != 0 && u32::from(share.cap) < 100 * self.units_of(unit.who.domain)
                });
                assert!(
                    may.is_empty() || has_cap,
                    "{:?} waits since {} and {may:?} idle at {}",
                    unit.id,
                    unit.since,
                    self.now
                );
            }
        }
    }
}
