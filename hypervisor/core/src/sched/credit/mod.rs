//! The `credit` policy (id 5): fair by weight, with caps, and quick for units that mostly wait.
//!
//! A unit pays for its time with credit (the public interface's unit is 100 us; here it is ns). Every time slice (30 ms) the
//! accounting ([`account`]) hands out what the pCPUs can give, to the active domains by weight. A unit with credit is in
//! class `Under`, one without in class `Over`; one with credit that wakes is in class `Boost` until the next tick
//! (10 ms). Each pCPU has a run queue: the best class first, in the order of arrival within a class ([`queue`]). A pCPU that has
//! nothing better than `Over` looks in the run queues of others ([`run`]). A unit of a domain with a cap that has used more
//! than that is parked until it has paid.
//!
//! Where it differs from Xen's, to be fairer and quicker:
//! - Credit is counted in ns, is burned and handed out exactly, and what a domain cannot take goes to the others in the same
//!   accounting. Only a unit that sleeps long enough to have all the credit it can have leaves the active ones.
//! - A unit that waits for a pCPU all the time is owed what it misses, up to 8 time slices and not one, and one that has more
//!   than its share owes up to 4: with few units on many pCPUs a share takes that long to come true. A unit that sleeps
//!   keeps one time slice of credit. One that owes more than a turn makes room for units of class `Over` elsewhere too.
//! - When more than [`SLICES_PER_ROUND`] units share a pCPU, or all pCPUs on average, their slices are shorter, so that each
//!   gets its turn within that many whole slices; with fewer a slice is the time slice of the parameters.
//! - A unit is parked at the moment when it has used its cap, not at the next accounting.
//! - A unit that wakes goes at once to an idle pCPU, or to one that runs a worse class, if its own is busy.
//!
//! Cost: constant in the units, whatever they do, for everything but the accounting, which walks the active units. A pCPU
//! that looks for work visits the pCPUs that have some. Memory is allocated when pCPUs, domains and units join; that, and a
//! pCPU that leaves, may look at all units.

mod account;
mod queue;
mod run;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt::Write;

use super::{Affinity, CpuSet, Decision, DomainShare, MAX_CPUS, Policy, PolicyParameters, UnitId};
use crate::addr::{CpuId, DomId};
use crate::errno::Errno;
use queue::{Kind, Links, List, RunQueue};

/// XEN_SCHEDULER_CREDIT.
const SCHEDULER_ID: u32 = 5;
const DEFAULT_WEIGHT: u16 = 256;
/// Length of a tick, if the time slice is a multiple of it, in ms.
const TICK_MS: u32 = 10;
/// Whole slices in which each unit that waits for a pCPU has its turn, if they are not too many.
const SLICES_PER_ROUND: u32 = 2;
/// Shortest slice, in us, unless the time slice itself is shorter.
const MIN_SLICE_US: u32 = 1000;
/// Shortest time for which a unit with a cap is worth a switch, in ns.
const MIN_CAPPED_RUN: i64 = 500_000;

/// How urgent a unit is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Boost,
    Under,
    Over,
}

const CLASSES: [Class; 3] = [Class::Boost, Class::Under, Class::Over];

/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Asleep, parked, or there is no pCPU.
    Nowhere,
    /// In the run queue of its pCPU.
    Waits(Class, Kind),
    /// On its pCPU.
    Runs,
}

/// A pCPU.
#[derive(Clone, Copy)]
struct Cpu {
    running: Option<UnitId>,
    /// Since when it runs that without a break.
    since: u64,
    slice_end: u64,
    /// Until when the running unit has paid.
    paid_until: u64,
    tick_at: u64,
    timer_at: u64,
    /// The running unit would rather be elsewhere.
    moves: bool,
    queue: RunQueue,
}

impl Cpu {
    const ABSENT: Self = Self {
        running: None,
        since: 0,
        slice_end: 0,
        paid_until: 0,
        tick_at: 0,
        timer_at: u64::MAX,
        moves: false,
        queue: RunQueue::EMPTY,
    };
}

/// A unit.
#[derive(Clone, Copy)]
struct Unit {
    is_present: bool,
    /// Index of the domain.
    domain: u16,
    affinity: Affinity,
    /// Where it may run: its hard affinity, or anywhere if no pCPU of that is in the pool.
    may: CpuSet,
    kind: Kind,
    is_awake: bool,
    /// Whether it slept since the last accounting.
    has_slept: bool,
    is_parked: bool,
    /// Whether it is handed credit.
    is_active: bool,
    /// Lets others go first at the next decision.
    yields: bool,
    class: Class,
    place: Place,
    /// Where it waits, runs, or ran last.
    cpu: Option<CpuId>,
    /// In ns.
    credit: i64,
    /// When it ran last.
    stopped_at: u64,
    /// Rises with each time that a unit is queued.
    order: u64,
}

impl Unit {
    const ABSENT: Self = Self {
        is_present: false,
        domain: 0,
        affinity: Affinity {
            hard: CpuSet::ALL,
            soft: CpuSet::ALL,
        },
        may: CpuSet::EMPTY,
        kind: Kind::Movable,
        is_awake: false,
        has_slept: true,
        is_parked: false,
        is_active: false,
        yields: false,
        class: Class::Under,
        place: Place::Nowhere,
        cpu: None,
        credit: 0,
        stopped_at: 0,
        order: 0,
    };

    fn set_pool(&mut self, online: &CpuSet) {
        let hard = self.affinity.hard.and(online);
        self.may = if hard.is_empty() { *online } else { hard };
        self.kind = match self.may.len() {
            1 => Kind::Pinned,
            _ => Kind::Movable,
        };
    }
}

/// A domain.
#[derive(Clone, Copy)]
struct Domain {
    /// `None` in a place that is free.
    id: Option<DomId>,
    share: DomainShare,
    unit_count: u32,
    /// Its active units.
    active: List,
    active_count: u32,
    /// With a cap: how far below 0 the credit of a unit may go, in ns.
    debt_limit: i64,
    /// What the accounting gives to its units, in ns.
    grant: u64,
    /// The most that it can take, while the accounting has not settled on a grant.
    peak: Option<u64>,
}

/// The policy. Units and domains that others name are looked up with care; indexes found in the policy's own lists are right
/// because nothing leaves a table while it is in a list.
pub struct Credit {
    parameters: PolicyParameters,
    cpus: Vec<Cpu>,
    online: CpuSet,
    /// How many those are.
    online_count: u32,
    /// pCPUs that run nothing and have nobody waiting.
    idle: CpuSet,
    /// pCPUs whose running unit is in a class.
    runs: [CpuSet; CLASSES.len()],
    /// pCPUs where units of a class wait.
    waiting: [CpuSet; CLASSES.len()],
    units: Vec<Unit>,
    /// Links of waiting units.
    run_links: Links,
    /// Links of active units.
    active_links: Links,
    domains: Vec<Domain>,
    /// Links of domains with active units.
    domain_links: Links,
    active_domains: List,
    parked_count: u32,
    /// Waiting units that are not bound to their pCPU.
    movable_count: u32,
    /// Credit that units lost as they became inactive, in ns: the next accounting hands it out again.
    returned: u64,
    /// When the next accounting is due, and when the last one was.
    accounting_at: u64,
    accounted_at: u64,
    next_order: u64,
    /// Where the next unit that never ran goes, so that they spread.
    next_home: CpuId,
}

impl Default for Credit {
    fn default() -> Self {
        Self {
            parameters: PolicyParameters::default(),
            cpus: Vec::new(),
            online: CpuSet::EMPTY,
            online_count: 0,
            idle: CpuSet::EMPTY,
            runs: [CpuSet::EMPTY; CLASSES.len()],
            waiting: [CpuSet::EMPTY; CLASSES.len()],
            units: Vec::new(),
            run_links: Links::default(),
            active_links: Links::default(),
            domains: Vec::new(),
            domain_links: Links::default(),
            active_domains: List::EMPTY,
            parked_count: 0,
            movable_count: 0,
            returned: 0,
            accounting_at: 0,
            accounted_at: 0,
            next_order: 0,
            next_home: CpuId::new(0),
        }
    }
}

fn put(set: &mut CpuSet, cpu: CpuId, is_in: bool) {
    if is_in {
        set.insert(cpu);
    } else {
        set.remove(cpu);
    }
}

/// Makes `list` so long that it has `index`.
fn grow<T: Copy>(list: &mut Vec<T>, index: usize, empty: T) -> Result<(), Errno> {
    let missing = (index + 1).saturating_sub(list.len());
    list.try_reserve(missing).map_err(|_| Errno::NoMem)?;
    list.resize(list.len() + missing, empty);
    Ok(())
}

impl Credit {
    fn has_unit(&self, id: UnitId) -> bool {
        self.units
            .get(id.index())
            .is_some_and(|unit| unit.is_present)
    }

    fn unit(&self, id: UnitId) -> &Unit {
        &self.units[id.index()]
    }

    fn unit_mut(&mut self, id: UnitId) -> &mut Unit {
        &mut self.units[id.index()]
    }

    fn cpu(&self, cpu: CpuId) -> &Cpu {
        &self.cpus[cpu.index()]
    }

    fn cpu_mut(&mut self, cpu: CpuId) -> &mut Cpu {
        &mut self.cpus[cpu.index()]
    }

    fn domain_index(&self, id: DomId) -> Option<usize> {
        self.domains.iter().position(|domain| domain.id == Some(id))
    }

    /// Length of the time slice, in ns.
    fn timeslice(&self) -> u64 {
        u64::from(self.parameters.timeslice_ms) * 1_000_000
    }

    /// Length of a tick, in ns.
    fn tick(&self) -> u64 {
        let ticks = (self.parameters.timeslice_ms / TICK_MS).max(1);
        u64::from(self.parameters.timeslice_ms * 1000 / ticks) * 1000
    }

    fn present_units(&self) -> impl Iterator<Item = UnitId> + use<> {
        // A number is 16 bits wide (`Links::grow`).
        (0..self.units.len()).map(|index| UnitId::new(index as u16))
    }

    /// Looks anew at where all units may run.
    fn pool_changed(&mut self, now: u64, kick: &mut CpuSet) {
        for id in self.present_units() {
            let online = self.online;
            let unit = self.unit_mut(id);
            if !unit.is_present {
                continue;
            }
            unit.set_pool(&online);
            let (place, may, cpu) = (unit.place, unit.may, unit.cpu);
            match (place, cpu) {
                (Place::Waits(..), Some(cpu)) => {
                    self.dequeue(id);
                    if may.contains(cpu) {
                        self.enqueue(id, cpu);
                    } else {
                        self.place(id, now, kick);
                    }
                }
                (Place::Runs, Some(cpu)) if !may.contains(cpu) => kick.insert(cpu),
                (Place::Nowhere, _) if self.can_run(id) => self.place(id, now, kick),
                _ => {}
            }
        }
    }
}

impl Policy for Credit {
    fn id(&self) -> u32 {
        SCHEDULER_ID
    }

    fn name(&self) -> &'static str {
        "credit"
    }

    fn description(&self) -> &'static str {
        "SMP Credit Scheduler"
    }

    fn add_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Result<(), Errno> {
        if cpu.index() >= MAX_CPUS {
            return Err(Errno::Inval);
        }
        if self.online.contains(cpu) {
            return Err(Errno::Exist);
        }
        grow(&mut self.cpus, cpu.index(), Cpu::ABSENT)?;
        if self.online.is_empty() {
            self.accounted_at = now;
            self.accounting_at = now.saturating_add(self.timeslice());
        }
        self.online.insert(cpu);
        self.online_count = self.online.len();
        self.refresh(cpu);
        self.pool_changed(now, kick);
        Ok(())
    }

    fn remove_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        if !self.online.contains(cpu) {
            return;
        }
        if self.cpu(cpu).running.is_some() {
            self.stop(cpu, now);
        }
        self.online.remove(cpu);
        self.online_count = self.online.len();
        self.pool_changed(now, kick);
        self.refresh(cpu);
        self.cpu_mut(cpu).timer_at = u64::MAX;
        self.watch_parked(kick);
        kick.remove(cpu);
    }

    fn add_domain(&mut self, domain: DomId) -> Result<(), Errno> {
        if self.domain_index(domain).is_some() {
            return Err(Errno::Exist);
        }
        let free = self.domains.iter().position(|domain| domain.id.is_none());
        let index = free.unwrap_or(self.domains.len());
        self.domain_links.grow(index)?;
        let empty = Domain {
            id: None,
            share: DomainShare {
                weight: DEFAULT_WEIGHT,
                cap: 0,
            },
            unit_count: 0,
            active: List::EMPTY,
            active_count: 0,
            debt_limit: 0,
            grant: 0,
            peak: None,
        };
        grow(&mut self.domains, index, empty)?;
        self.domains[index] = Domain {
            id: Some(domain),
            ..empty
        };
        Ok(())
    }

    fn remove_domain(&mut self, domain: DomId) {
        if let Some(index) = self.domain_index(domain)
            && self.domains[index].unit_count == 0
        {
            self.domains[index].id = None;
        }
    }

    fn add_unit(
        &mut self,
        unit: UnitId,
        domain: DomId,
        affinity: Affinity,
        now: u64,
    ) -> Result<(), Errno> {
        let domain = self.domain_index(domain).ok_or(Errno::NoEnt)?;
        if self.has_unit(unit) {
            return Err(Errno::Exist);
        }
        self.run_links.grow(unit.index())?;
        self.active_links.grow(unit.index())?;
        grow(&mut self.units, unit.index(), Unit::ABSENT)?;
        let mut new = Unit {
            is_present: true,
            // The number of links is bounded to 16 bits.
            domain: domain as u16,
            affinity,
            stopped_at: now,
            ..Unit::ABSENT
        };
        new.set_pool(&self.online);
        *self.unit_mut(unit) = new;
        self.domains[domain].unit_count += 1;
        Ok(())
    }

    fn remove_unit(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if !self.has_unit(unit) {
            return;
        }
        self.sleep(unit, now, kick);
        self.deactivate(unit);
        if self.unit(unit).is_parked {
            self.parked_count -= 1;
        }
        let domain = usize::from(self.unit(unit).domain);
        self.domains[domain].unit_count -= 1;
        *self.unit_mut(unit) = Unit::ABSENT;
    }

    fn set_affinity(&mut self, unit: UnitId, affinity: Affinity, now: u64, kick: &mut CpuSet) {
        if !self.has_unit(unit) {
            return;
        }
        if matches!(self.unit(unit).place, Place::Waits(..)) {
            self.dequeue(unit);
        }
        let online = self.online;
        let changed = self.unit_mut(unit);
        changed.affinity = affinity;
        changed.set_pool(&online);
        let (place, may, cpu) = (changed.place, changed.may, changed.cpu);
        match (place, cpu) {
            (Place::Runs, Some(cpu)) if !may.contains(cpu) => kick.insert(cpu),
            (Place::Nowhere, _) if self.can_run(unit) => self.place(unit, now, kick),
            _ => {}
        }
    }

    fn wake(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if !self.has_unit(unit) || self.unit(unit).is_awake {
            return;
        }
        self.activate(unit);
        self.park_if_capped(unit);
        let woken = self.unit_mut(unit);
        woken.is_awake = true;
        if woken.class == Class::Under {
            woken.class = Class::Boost;
        }
        if self.can_run(unit) {
            self.place(unit, now, kick);
        } else {
            self.watch_parked(kick);
        }
    }

    fn sleep(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if !self.has_unit(unit) || !self.unit(unit).is_awake {
            return;
        }
        let most = self.timeslice() as i64;
        let sleeper = self.unit_mut(unit);
        sleeper.is_awake = false;
        sleeper.has_slept = true;
        sleeper.yields = false;
        let excess = (sleeper.credit - most).max(0);
        sleeper.credit -= excess;
        match (sleeper.place, sleeper.cpu) {
            (Place::Waits(..), _) => self.dequeue(unit),
            (Place::Runs, Some(cpu)) => {
                self.stop(cpu, now);
                self.refresh(cpu);
                kick.insert(cpu);
            }
            _ => {}
        }
        self.returned += excess as u64;
    }

    fn yield_unit(&mut self, unit: UnitId) {
        if self.has_unit(unit) && self.unit(unit).place == Place::Runs {
            self.unit_mut(unit).yields = true;
        }
    }

    fn schedule(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Decision {
        if !self.online.contains(cpu) {
            return Decision {
                unit: None,
                until: u64::MAX,
            };
        }
        let decision = self.decide(cpu, now, kick);
        kick.remove(cpu);
        decision
    }

    fn next_timer(&self, cpu: CpuId) -> u64 {
        self.cpus
            .get(cpu.index())
            .map_or(u64::MAX, |cpu| cpu.timer_at)
    }

    fn timer(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        if self.online.contains(cpu) {
            self.do_timer(cpu, now, kick);
        }
    }

    fn share(&self, domain: DomId) -> Option<DomainShare> {
        let index = self.domain_index(domain)?;
        Some(self.domains[index].share)
    }

    fn set_share(&mut self, domain: DomId, share: DomainShare) -> Result<(), Errno> {
        let index = self.domain_index(domain).ok_or(Errno::NoEnt)?;
        let units = self.domains[index].unit_count;
        // A toolstack may set the cap before there are units.
        if share.weight == 0 || units > 0 && u32::from(share.cap) > units.saturating_mul(100) {
            return Err(Errno::Inval);
        }
        self.domains[index].share = share;
        self.update_debt_limit(index);
        Ok(())
    }

    fn parameters(&self) -> PolicyParameters {
        self.parameters
    }

    fn set_parameters(&mut self, parameters: PolicyParameters) -> Result<(), Errno> {
        let PolicyParameters {
            timeslice_ms,
            ratelimit_us,
            migration_delay_us,
        } = parameters;
        if !(1..=1000).contains(&timeslice_ms)
            || !(ratelimit_us == 0 || (100..=500_000).contains(&ratelimit_us))
            || ratelimit_us > timeslice_ms * 1000
            || migration_delay_us > 100_000
        {
            return Err(Errno::Inval);
        }
        self.parameters = parameters;
        let next = self.accounted_at.saturating_add(self.timeslice());
        self.accounting_at = self.accounting_at.min(next);
        for index in 0..self.domains.len() {
            self.update_debt_limit(index);
        }
        Ok(())
    }

    fn dump(&self, out: &mut dyn Write) -> core::fmt::Result {
        let parameters = &self.parameters;
        writeln!(
            out,
            "tslice {} ms, ratelimit {} us, migration delay {} us, {} parked",
            parameters.timeslice_ms,
            parameters.ratelimit_us,
            parameters.migration_delay_us,
            self.parked_count
        )?;
        for cpu in self.online.iter() {
            write!(out, "pcpu {}: ", cpu.index())?;
            match self.cpu(cpu).running {
                Some(id) => self.dump_unit(id, out)?,
                None => writeln!(out, "idle")?,
            }
            for class in CLASSES {
                for kind in [Kind::Movable, Kind::Pinned] {
                    let list = self.cpu(cpu).queue.class(class).list(kind);
                    let mut member = list.first();
                    while let Some(raw) = member {
                        write!(out, "  ")?;
                        self.dump_unit(UnitId::new(raw), out)?;
                        member = self.run_links.next(raw);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Credit {
    fn dump_unit(&self, id: UnitId, out: &mut dyn Write) -> core::fmt::Result {
        let unit = self.unit(id);
        if let Some(domain) = self.domains[usize::from(unit.domain)].id {
            write!(out, "{domain} ")?;
        }
        // In the units of the public interface.
        let (id, class, credit) = (id.raw(), unit.class, unit.credit / 100_000);
        writeln!(out, "unit {id} {class:?} credit {credit}")
    }
}
