//! The `credit2` policy (id 6): fair by weight, with caps, and good to units that sleep much.
//!
//! Up to [`CPUS_PER_QUEUE`] pCPUs share a run queue, which is ordered by credit. Who runs pays its time as credit, the more
//! the smaller its weight; a pCPU runs the first unit of the queue that may run there. When even that one has no credit left, all
//! units of the run queue get [`CREDIT_INIT`] and nobody keeps more than that, so a unit that slept comes to the front, but
//! cannot hoard. A unit that wakes interrupts an idle pCPU, or the one with the least credit.
//!
//! That all get credit does not touch all: a run queue counts what it gave ([`RunQueue::given`]), a unit remembers its
//! credit less that count, and the rest is done when the unit is looked at. The order in the queue does not change by it.
//!
//! A domain with a cap has a budget that is filled every 10 ms. A unit takes a part of it when it is chosen (its grant) and
//! gives back what is left; without budget it is parked until the next filling. Overruns are debts, so the cap is held in
//! the long run exactly.
//!
//! Cost: a decision is logarithmic in the units that wait for the run queue (`tree`), and linear in its pCPUs; units that
//! sleep cost nothing. Memory is allocated when pCPUs, domains and units join.

mod budget;
mod run;
#[cfg(test)]
mod tests;
mod tree;

use alloc::vec::Vec;
use core::fmt::Write;

use super::{Affinity, CpuSet, Decision, DomainShare, MAX_CPUS, Policy, PolicyParameters, UnitId};
use crate::addr::{CpuId, DomId};
use crate::errno::Errno;
use tree::{Nodes, Queue, Wanted};

/// XEN_SCHEDULER_CREDIT2.
const SCHEDULER_ID: u32 = 6;
/// Credit that units begin with and get at a reset: ns of running at the largest weight.
const CREDIT_INIT: i64 = 10_000_000;
/// The most credit that a unit can have. Xen's limit is [`CREDIT_INIT`] itself; but with several pCPUs units may have much
/// left when another one needs a reset, and to cut that off takes from the heavier ones (12 % with 16 pCPUs).
const CREDIT_MAX: i64 = 3 * CREDIT_INIT;
/// Shortest time that is worth a switch, in ns.
const MIN_TIMER: u64 = 500_000;
/// Longest time between two decisions, in ns.
const MAX_TIMER: u64 = 10_000_000;
/// How much more credit a unit needs to be taken from the pCPU where it ran last.
const MIGRATE_RESISTANCE: i64 = 500_000;
/// Time after which a budget is filled, in ns.
const REPLENISH_PERIOD: u64 = 10_000_000;
/// Smallest part of a budget that a unit runs on, in ns: a rest of a few ns is not worth a switch.
const MIN_GRANT: i64 = 50_000;
/// pCPUs of a run queue.
const CPUS_PER_QUEUE: u32 = 16;
/// Time between two balancings of a run queue with the others, in ns.
const BALANCE_PERIOD: u64 = 10_000_000;
/// After so many resets a unit has all the credit it can have, however deep its debt was.
const FORGIVEN_AFTER: u64 = 1 << 20;
const DEFAULT_WEIGHT: u16 = 256;

/// A pCPU.
#[derive(Clone, Copy)]
struct Cpu {
    is_present: bool,
    /// Index of its run queue.
    queue: usize,
    current: Option<UnitId>,
    /// Domains whose budget this pCPU fills, by when; the key is the negative time.
    budgets: Queue,
}

/// pCPUs, and the units that wait for them.
struct RunQueue {
    cpus: CpuSet,
    /// Those that idle.
    idle: CpuSet,
    /// Those that were told to schedule and have not done so.
    tickled: CpuSet,
    waiting: Queue,
    /// Credit given to every unit since the start; wraps.
    given: i64,
    /// How many times credit was given.
    resets: u64,
    /// Sum of the weights of the units that wait here or run here.
    load: u64,
    /// When it compares itself with the others next.
    next_balance: u64,
}

impl RunQueue {
    fn empty() -> Self {
        Self {
            cpus: CpuSet::EMPTY,
            idle: CpuSet::EMPTY,
            tickled: CpuSet::EMPTY,
            waiting: Queue::EMPTY,
            given: 0,
            resets: 0,
            load: 0,
            next_balance: 0,
        }
    }
}

/// What a unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asleep,
    /// In the run queue.
    Waiting,
    Running,
    /// Waits for its domain's budget.
    Parked,
}

/// A unit.
struct Unit {
    /// Index of the domain.
    domain: usize,
    affinity: Affinity,
    state: State,
    /// Where it runs or ran last.
    cpu: CpuId,
    /// Index of the run queue whose credit it has; `None` before it first could run.
    queue: Option<usize>,
    /// Credit less what the run queue had given; wraps.
    credit: i64,
    /// [`RunQueue::resets`] when the credit was right.
    resets: u64,
    /// Until when its time was paid.
    paid_until: u64,
    /// What a division left over.
    residual: u64,
    /// Since when it runs without a break.
    running_since: u64,
    /// Lets others go first at the next decision.
    yields: bool,
    /// Its part of the domain's budget in ns, while it runs in a domain with a cap.
    grant: Option<i64>,
    /// Neighbours among the parked units of the domain.
    parked: [Option<UnitId>; 2],
}

/// A domain.
struct Domain {
    id: DomId,
    share: DomainShare,
    unit_count: u32,
    /// Units that are not asleep.
    active_count: u32,
    /// What is left to its units until the next filling, in ns; less than 0 after an overrun.
    budget: i64,
    /// When it is filled next.
    next_filling: u64,
    /// The pCPU that fills it; `None` while it is full and nobody runs.
    filled_by: Option<CpuId>,
    /// The first parked unit.
    parked: Option<UnitId>,
}

/// The policy.
pub struct Credit2 {
    cpus: Vec<Cpu>,
    online: CpuSet,
    queues: Vec<RunQueue>,
    units: Vec<Option<Unit>>,
    domains: Vec<Option<Domain>>,
    /// Links of the units that wait.
    waiting: Nodes,
    /// Links of the domains with a budget to fill.
    budgets: Nodes,
    /// The largest weight of a domain with units: what a unit of this weight pays for its time is the time.
    max_weight: u64,
    ratelimit_us: u32,
}

impl Default for Credit2 {
    fn default() -> Self {
        Self {
            cpus: Vec::new(),
            online: CpuSet::EMPTY,
            queues: Vec::new(),
            units: Vec::new(),
            domains: Vec::new(),
            waiting: Nodes::default(),
            budgets: Nodes::default(),
            max_weight: u64::from(DEFAULT_WEIGHT),
            ratelimit_us: PolicyParameters::default().ratelimit_us,
        }
    }
}

/// Makes `list` so long that it has `index`.
fn grow<T>(list: &mut Vec<T>, index: usize, empty: impl FnMut() -> T) -> Result<(), Errno> {
    let missing = (index + 1).saturating_sub(list.len());
    list.try_reserve(missing).map_err(|_| Errno::NoMem)?;
    list.resize_with(list.len() + missing, empty);
    Ok(())
}

impl Credit2 {
    fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(id.index())?.as_ref()
    }

    fn unit_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.units.get_mut(id.index())?.as_mut()
    }

    fn cpu(&self, id: CpuId) -> Option<&Cpu> {
        self.cpus.get(id.index()).filter(|cpu| cpu.is_present)
    }

    fn domain_of(&self, unit: &Unit) -> Option<&Domain> {
        self.domains.get(unit.domain)?.as_ref()
    }

    fn domain_index(&self, id: DomId) -> Option<usize> {
        self.domains
            .iter()
            .position(|domain| domain.as_ref().is_some_and(|domain| domain.id == id))
    }

    fn weight(&self, unit: &Unit) -> u64 {
        self.domain_of(unit)
            .map_or(u64::from(DEFAULT_WEIGHT), |domain| {
                u64::from(domain.share.weight)
            })
    }

    /// Returns where a unit may run: its hard affinity, or anywhere if no pCPU of that is in the pool.
    fn may_run(&self, unit: &Unit) -> CpuSet {
        let hard = unit.affinity.hard.and(&self.online);
        if hard.is_empty() { self.online } else { hard }
    }

    /// Returns a unit's credit.
    fn credit(&self, unit: &Unit) -> i64 {
        let Some(queue) = unit.queue.and_then(|queue| self.queues.get(queue)) else {
            return unit.credit;
        };
        if queue.resets.wrapping_sub(unit.resets) >= FORGIVEN_AFTER {
            return CREDIT_MAX;
        }
        unit.credit.wrapping_add(queue.given).min(CREDIT_MAX)
    }

    /// Sets a unit's credit, in the currency of a run queue.
    fn set_credit(&mut self, id: UnitId, queue: usize, credit: i64) {
        let Some((given, resets)) = self.queues.get(queue).map(|q| (q.given, q.resets)) else {
            return;
        };
        if let Some(unit) = self.unit_mut(id) {
            unit.queue = Some(queue);
            unit.credit = credit.wrapping_sub(given);
            unit.resets = resets;
        }
    }

    /// Looks again for the largest weight, after a change.
    fn update_max_weight(&mut self) {
        let weights = self.domains.iter().flatten().filter(|d| d.unit_count > 0);
        self.max_weight = weights
            .map(|domain| u64::from(domain.share.weight))
            .max()
            .unwrap_or(u64::from(DEFAULT_WEIGHT));
    }

    /// Puts the waiting units where they belong, after the pool changed.
    fn place_all(&mut self, now: u64, kick: &mut CpuSet) {
        for index in 0..self.units.len() {
            let id = UnitId::new(index as u16);
            if self
                .unit(id)
                .is_some_and(|unit| unit.state == State::Waiting)
            {
                self.dequeue(id);
                self.place(id, now, kick);
            }
        }
    }
}

impl Policy for Credit2 {
    fn id(&self) -> u32 {
        SCHEDULER_ID
    }

    fn description(&self) -> &'static str {
        "SMP Credit Scheduler rev2"
    }
    fn name(&self) -> &'static str {
        "credit2"
    }

    fn add_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Result<(), Errno> {
        if cpu.index() >= MAX_CPUS {
            return Err(Errno::Inval);
        }
        if self.cpu(cpu).is_some() {
            return Err(Errno::Exist);
        }
        grow(&mut self.cpus, cpu.index(), || Cpu {
            is_present: false,
            queue: 0,
            current: None,
            budgets: Queue::EMPTY,
        })?;
        let has_room = |queue: &RunQueue| queue.cpus.len() < CPUS_PER_QUEUE;
        let queue = self
            .queues
            .iter()
            .position(has_room)
            .unwrap_or(self.queues.len());
        grow(&mut self.queues, queue, RunQueue::empty)?;
        if let (Some(slot), Some(run_queue)) =
            (self.cpus.get_mut(cpu.index()), self.queues.get_mut(queue))
        {
            *slot = Cpu {
                is_present: true,
                queue,
                current: None,
                budgets: Queue::EMPTY,
            };
            run_queue.cpus.insert(cpu);
            // It is about to schedule for the first time.
            run_queue.tickled.insert(cpu);
        }
        self.online.insert(cpu);
        // Who had nowhere to go may have now; the new pCPU looks by itself.
        self.place_all(now, kick);
        self.adopt_budgets(cpu, now);
        Ok(())
    }

    fn remove_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        let Some(&Cpu { queue, current, .. }) = self.cpu(cpu) else {
            return;
        };
        if let Some(unit) = current {
            self.stop(unit, now);
        }
        if let Some(slot) = self.cpus.get_mut(cpu.index()) {
            slot.is_present = false;
            slot.current = None;
        }
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.cpus.remove(cpu);
            queue.idle.remove(cpu);
            queue.tickled.remove(cpu);
        }
        self.online.remove(cpu);
        if let Some(unit) = current {
            self.place(unit, now, kick);
        }
        self.place_all(now, kick);
        self.hand_over_budgets(cpu, kick);
        kick.remove(cpu);
    }

    fn add_domain(&mut self, domain: DomId) -> Result<(), Errno> {
        if self.domain_index(domain).is_some() {
            return Err(Errno::Exist);
        }
        let index = self
            .domains
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.domains.len());
        self.budgets.grow(index)?;
        grow(&mut self.domains, index, || None)?;
        if let Some(slot) = self.domains.get_mut(index) {
            *slot = Some(Domain {
                id: domain,
                share: DomainShare {
                    weight: DEFAULT_WEIGHT,
                    cap: 0,
                },
                unit_count: 0,
                active_count: 0,
                budget: 0,
                next_filling: 0,
                filled_by: None,
                parked: None,
            });
        }
        Ok(())
    }

    fn remove_domain(&mut self, domain: DomId) {
        let Some(index) = self.domain_index(domain) else {
            return;
        };
        self.stop_filling(index);
        if let Some(slot) = self.domains.get_mut(index) {
            *slot = None;
        }
        self.update_max_weight();
    }

    fn add_unit(
        &mut self,
        unit: UnitId,
        domain: DomId,
        affinity: Affinity,
        now: u64,
    ) -> Result<(), Errno> {
        let domain = self.domain_index(domain).ok_or(Errno::NoEnt)?;
        if self.unit(unit).is_some() {
            return Err(Errno::Exist);
        }
        self.waiting.grow(unit.index())?;
        // It may have to wait before there is a pCPU.
        grow(&mut self.queues, 0, RunQueue::empty)?;
        grow(&mut self.units, unit.index(), || None)?;
        if let Some(slot) = self.units.get_mut(unit.index()) {
            *slot = Some(Unit {
                domain,
                affinity,
                state: State::Asleep,
                cpu: CpuId::new(0),
                queue: None,
                credit: CREDIT_INIT,
                resets: 0,
                paid_until: now,
                residual: 0,
                running_since: now,
                yields: false,
                grant: None,
                parked: [None; 2],
            });
        }
        if let Some(domain) = self.domains.get_mut(domain).and_then(Option::as_mut) {
            domain.unit_count += 1;
        }
        self.update_max_weight();
        Ok(())
    }

    fn remove_unit(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        // It sleeps, says the contract; one that does not must not stay in a queue.
        self.sleep(unit, now, kick);
        let Some(removed) = self.units.get_mut(unit.index()).and_then(Option::take) else {
            return;
        };
        if let Some(domain) = self
            .domains
            .get_mut(removed.domain)
            .and_then(Option::as_mut)
        {
            domain.unit_count -= 1;
        }
        self.update_max_weight();
    }

    fn set_affinity(&mut self, id: UnitId, affinity: Affinity, now: u64, kick: &mut CpuSet) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.affinity = affinity;
        let (state, cpu) = (unit.state, unit.cpu);
        match state {
            State::Waiting => {
                self.dequeue(id);
                self.place(id, now, kick);
            }
            // Its pCPU moves it, if it must.
            State::Running => self.tickle_cpu(cpu, kick),
            State::Asleep | State::Parked => {}
        }
    }

    fn wake(&mut self, id: UnitId, now: u64, kick: &mut CpuSet) {
        let Some(unit) = self.unit_mut(id).filter(|unit| unit.state == State::Asleep) else {
            return;
        };
        let domain = unit.domain;
        if let Some(domain) = self.domains.get_mut(domain).and_then(Option::as_mut) {
            domain.active_count += 1;
        }
        self.place(id, now, kick);
    }

    fn sleep(&mut self, id: UnitId, now: u64, kick: &mut CpuSet) {
        let Some(&Unit {
            state, cpu, domain, ..
        }) = self.unit(id)
        else {
            return;
        };
        match state {
            State::Asleep => return,
            State::Waiting => self.dequeue(id),
            State::Parked => self.unpark(id),
            State::Running => {
                self.stop(id, now);
                if let Some(slot) = self.cpus.get_mut(cpu.index()) {
                    slot.current = None;
                }
                self.tickle_cpu(cpu, kick);
            }
        }
        if let Some(unit) = self.unit_mut(id) {
            unit.state = State::Asleep;
            unit.yields = false;
        }
        if let Some(domain) = self.domains.get_mut(domain).and_then(Option::as_mut) {
            domain.active_count -= 1;
        }
    }

    fn yield_unit(&mut self, id: UnitId) {
        if let Some(unit) = self
            .unit_mut(id)
            .filter(|unit| unit.state == State::Running)
        {
            unit.yields = true;
        }
    }

    fn schedule(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Decision {
        self.decide(cpu, now, kick)
    }

    fn next_timer(&self, cpu: CpuId) -> u64 {
        self.cpu(cpu).map_or(u64::MAX, |cpu| self.next_filling(cpu))
    }

    fn timer(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        self.fill_budgets(cpu, now, kick);
    }

    fn share(&self, domain: DomId) -> Option<DomainShare> {
        let domain = self.domains.get(self.domain_index(domain)?)?.as_ref()?;
        Some(domain.share)
    }

    fn set_share(&mut self, domain: DomId, share: DomainShare) -> Result<(), Errno> {
        if share.weight == 0 {
            return Err(Errno::Inval);
        }
        let index = self.domain_index(domain).ok_or(Errno::NoEnt)?;
        if let Some(domain) = self.domains.get_mut(index).and_then(Option::as_mut) {
            let new = budget::per_period(share.cap);
            // A domain that had no cap starts with a full budget; else what is left must not exceed the new one.
            domain.budget = if domain.share.cap == 0 {
                new
            } else {
                domain.budget.min(new)
            };
            let old = u64::from(core::mem::replace(&mut domain.share, share).weight);
            self.change_load(index, old, u64::from(share.weight));
        }
        self.update_max_weight();
        Ok(())
    }

    fn parameters(&self) -> PolicyParameters {
        PolicyParameters {
            ratelimit_us: self.ratelimit_us,
            ..PolicyParameters::default()
        }
    }

    fn set_parameters(&mut self, parameters: PolicyParameters) -> Result<(), Errno> {
        if !matches!(parameters.ratelimit_us, 0 | 100..=500_000) {
            return Err(Errno::Inval);
        }
        self.ratelimit_us = parameters.ratelimit_us;
        Ok(())
    }

    fn dump(&self, out: &mut dyn Write) -> core::fmt::Result {
        writeln!(
            out,
            "sched: credit2, ratelimit {} us, largest weight {}",
            self.ratelimit_us, self.max_weight
        )?;
        for (index, queue) in self.queues.iter().enumerate() {
            writeln!(
                out,
                "run queue {index}: {} pCPUs, {} idle, {} waiting, load {}, {} resets",
                queue.cpus.len(),
                queue.idle.len(),
                queue.waiting.len(),
                queue.load,
                queue.resets
            )?;
            for cpu in queue.cpus.iter() {
                if let Some(unit) = self.cpu(cpu).and_then(|cpu| cpu.current) {
                    write!(out, "  pCPU{} runs", cpu.index())?;
                    self.dump_unit(unit, out)?;
                }
            }
            let mut next = self.waiting.first(&queue.waiting);
            while let Some(unit) = next {
                write!(out, "  waits")?;
                self.dump_unit(UnitId::new(unit), out)?;
                next = self.waiting.next(unit);
            }
        }
        for domain in self.domains.iter().flatten().filter(|d| d.share.cap != 0) {
            writeln!(
                out,
                "  {}: cap {} %, budget {} us{}",
                domain.id,
                domain.share.cap,
                domain.budget / 1000,
                if domain.parked.is_some() {
                    ", parked"
                } else {
                    ""
                }
            )?;
        }
        Ok(())
    }
}

impl Credit2 {
    fn dump_unit(&self, id: UnitId, out: &mut dyn Write) -> core::fmt::Result {
        let Some(unit) = self.unit(id) else {
            return Ok(());
        };
        let domain = self.domain_of(unit).map_or(DomId::DOM0, |domain| domain.id);
        writeln!(
            out,
            " unit {} of {domain}: credit {} us, weight {}",
            id.raw(),
            self.credit(unit) / 1000,
            self.weight(unit)
        )
    }
}
