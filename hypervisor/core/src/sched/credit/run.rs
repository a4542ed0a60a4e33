//! Who runs where: waking, placing, choosing and taking units from other pCPUs.

use super::queue::Kind;
use super::{CLASSES, Class, Credit, MIN_SLICE_US, Place, SLICES_PER_ROUND, put};
use crate::addr::CpuId;
use crate::sched::{CpuSet, Decision, UnitId};

/// Waiting units of a peer that a pCPU with a unit of its own looks at.
const GLANCE: u32 = 8;
/// How far below 0 the credit of a unit may be that goes to sleep without losing its class before the accounting, in ns.
const OVERDRAFT: i64 = 1_000_000;

/// Returns the first pCPU of the set from `start` on, around the end.
fn next_from(set: &CpuSet, start: CpuId) -> Option<CpuId> {
    let after = set.iter().find(|cpu| cpu.index() >= start.index());
    after.or(set.first())
}

impl Credit {
    /// Returns whether a unit is awake and not parked.
    pub(super) fn can_run(&self, id: UnitId) -> bool {
        let unit = self.unit(id);
        unit.is_present && unit.is_awake && !unit.is_parked
    }

    /// Brings the sets that know about a pCPU up to date.
    pub(super) fn refresh(&mut self, cpu: CpuId) {
        let state = *self.cpu(cpu);
        let is_online = self.online.contains(cpu);
        let is_idle = state.running.is_none() && state.queue.count == 0;
        put(&mut self.idle, cpu, is_online && is_idle);
        let running = state.running.map(|id| self.unit(id).class);
        for class in CLASSES {
            let waits = !state.queue.class(class).is_empty();
            put(&mut self.waiting[class as usize], cpu, waits);
            put(&mut self.runs[class as usize], cpu, running == Some(class));
        }
    }

    /// Adds a unit to a run queue, behind those of its class.
    pub(super) fn enqueue(&mut self, id: UnitId, cpu: CpuId) {
        let class = self.unit(id).class;
        self.enqueue_as(id, cpu, class);
    }

    fn enqueue_as(&mut self, id: UnitId, cpu: CpuId, class: Class) {
        let order = self.next_order;
        self.next_order += 1;
        let unit = self.unit_mut(id);
        let (kind, may) = (unit.kind, unit.may);
        unit.order = order;
        unit.cpu = Some(cpu);
        unit.place = Place::Waits(class, kind);
        let queue = &mut self.cpus[cpu.index()].queue;
        queue.count += 1;
        let waiting = queue.class_mut(class);
        if kind == Kind::Movable {
            waiting.reach = waiting.reach.or(&may);
            self.movable_count += 1;
        }
        self.run_links.push(waiting.list_mut(kind), id.raw());
        self.refresh(cpu);
    }

    /// Takes a waiting unit out of its run queue.
    pub(super) fn dequeue(&mut self, id: UnitId) {
        let unit = self.unit_mut(id);
        let (Place::Waits(class, kind), Some(cpu)) = (unit.place, unit.cpu) else {
            return;
        };
        unit.place = Place::Nowhere;
        let queue = &mut self.cpus[cpu.index()].queue;
        queue.count -= 1;
        let waiting = queue.class_mut(class);
        if kind == Kind::Movable {
            self.movable_count -= 1;
        }
        self.run_links.remove(waiting.list_mut(kind), id.raw());
        if waiting.list(Kind::Movable).is_empty() {
            waiting.reach = CpuSet::EMPTY;
        }
        self.refresh(cpu);
    }

    /// Returns the best class of those that wait for a pCPU.
    pub(super) fn best_class(&self, cpu: CpuId) -> Option<Class> {
        CLASSES
            .into_iter()
            .find(|class| self.waiting[*class as usize].contains(cpu))
    }

    /// Returns the first unit of a class that waits for a pCPU.
    fn first_of(&self, cpu: CpuId, class: Class) -> Option<UnitId> {
        let waiting = self.cpu(cpu).queue.class(class);
        let heads = [Kind::Movable, Kind::Pinned].map(|kind| waiting.list(kind).first());
        let heads = heads.into_iter().flatten().map(UnitId::new);
        heads.min_by_key(|id| self.unit(*id).order)
    }

    /// Queues a unit that can run where it runs soonest, and tells that pCPU if it has to look.
    pub(super) fn place(&mut self, id: UnitId, now: u64, kick: &mut CpuSet) {
        self.run_links.step();
        let Some(target) = self.target(id, now) else {
            return;
        };
        let is_idle = self.idle.contains(target);
        self.enqueue(id, target);
        let class = self.unit(id).class;
        let is_better = match self.cpu(target).running {
            Some(running) => class < self.unit(running).class,
            None => is_idle,
        };
        if is_better {
            kick.insert(target);
        }
    }

    fn target(&mut self, id: UnitId, now: u64) -> Option<CpuId> {
        let unit = *self.unit(id);
        let preferred = unit.may.and(&unit.affinity.soft);
        let home = unit.cpu.filter(|cpu| unit.may.contains(*cpu));
        if let Some(home) = home {
            let is_preferred = preferred.is_empty() || preferred.contains(home);
            if is_preferred && self.idle.contains(home) || self.is_hot(id, now) {
                return Some(home);
            }
        }
        // A unit that never ran starts the search where the last one of those ended.
        let start = unit.cpu.unwrap_or(self.next_home);
        let idle = next_from(&self.idle.and(&preferred), start)
            .or(home.filter(|home| self.idle.contains(*home)))
            .or_else(|| next_from(&self.idle.and(&unit.may), start));
        let target = idle
            .or_else(|| {
                // Those where nobody as urgent waits already, home first, then those that run the least urgent.
                let classes = CLASSES.into_iter();
                let urgent = classes.filter(|class| *class <= unit.class);
                let taken = urgent
                    .map(|class| self.waiting[class as usize])
                    .fold(CpuSet::EMPTY, |all, some| all.or(&some));
                let weaker = CLASSES.into_iter().filter(|class| *class > unit.class);
                let mut weaker = weaker
                    .rev()
                    .map(|class| self.runs[class as usize].without(&taken));
                if weaker
                    .clone()
                    .any(|cpus| home.is_some_and(|home| cpus.contains(home)))
                {
                    return home;
                }
                weaker.find_map(|cpus| {
                    next_from(&cpus.and(&preferred), start)
                        .or_else(|| next_from(&cpus.and(&unit.may), start))
                })
            })
            .or(home)
            .or_else(|| next_from(&preferred, start))
            .or_else(|| next_from(&unit.may, start))?;
        if unit.cpu.is_none() {
            self.next_home = CpuId::new(target.index() as u16 + 1);
        }
        Some(target)
    }

    /// Returns whether a unit ran so recently that it stays where it is.
    fn is_hot(&self, id: UnitId, now: u64) -> bool {
        let delay = u64::from(self.parameters.migration_delay_us) * 1000;
        delay > 0 && now < self.unit(id).stopped_at.saturating_add(delay)
    }

    /// The running unit of a pCPU has paid and runs no more. The sets are left as they are: see [`Self::refresh`].
    pub(super) fn stop(&mut self, cpu: CpuId, now: u64) {
        self.burn(cpu, now);
        let Some(id) = self.cpu_mut(cpu).running.take() else {
            return;
        };
        let unit = self.unit_mut(id);
        unit.place = Place::Nowhere;
        unit.stopped_at = now;
        let allowed = if unit.is_awake { 0 } else { OVERDRAFT };
        if unit.credit < -allowed {
            unit.class = Class::Over;
        }
        self.park_if_capped(id);
    }

    pub(super) fn decide(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Decision {
        self.run_links.step();
        let previous = self.cpu(cpu).running;
        let mut yielded = None;
        if let Some(id) = previous {
            let since = self.cpu(cpu).since;
            self.burn(cpu, now);
            self.park_if_capped(id);
            let unit = *self.unit(id);
            let stays = !unit.is_parked && unit.may.contains(cpu) && !self.cpu(cpu).moves;
            let ratelimit = u64::from(self.parameters.ratelimit_us) * 1000;
            let slice_end = self.cpu(cpu).slice_end;
            if stays && !unit.yields && self.cpu(cpu).queue.count == 0 && !self.could_steal(cpu, id)
            {
                return self.run(cpu, id, now, now.saturating_add(self.slice(cpu, id)));
            }
            if stays && !unit.yields && now < since.saturating_add(ratelimit) && now < slice_end {
                let end = slice_end.min(since.saturating_add(ratelimit));
                return self.run(cpu, id, now, end);
            }
            self.cpu_mut(cpu).moves = false;
            self.stop(cpu, now);
            if stays && unit.yields {
                self.let_one_by(cpu, self.unit(id).class);
                yielded = Some(id);
            }
            if stays {
                self.enqueue(id, cpu);
            } else if !unit.is_parked {
                self.place(id, now, kick);
            }
        }
        let Some(id) = self.choose(cpu, yielded, now) else {
            self.refresh(cpu);
            self.cpu_mut(cpu).timer_at = self.idle_timer();
            return Decision {
                unit: None,
                until: u64::MAX,
            };
        };
        self.dequeue(id);
        let slice = self.slice(cpu, id);
        let tick = self.tick();
        let state = self.cpu_mut(cpu);
        state.running = Some(id);
        if previous != Some(id) {
            state.since = now;
        }
        if previous.is_none() && state.tick_at <= now {
            state.tick_at = now.saturating_add(tick);
        }
        state.paid_until = state.paid_until.max(now);
        let unit = self.unit_mut(id);
        unit.place = Place::Runs;
        unit.cpu = Some(cpu);
        let decision = self.run(cpu, id, now, now.saturating_add(slice));
        if let Some(previous) = previous.filter(|previous| *previous != id) {
            self.offer(previous, cpu, now, kick);
        }
        decision
    }

    /// The running unit goes on, or begins, until its slice ends.
    fn run(&mut self, cpu: CpuId, id: UnitId, now: u64, slice_end: u64) -> Decision {
        self.unit_mut(id).yields = false;
        self.refresh(cpu);
        // While all pCPUs idled there was no accounting.
        let is_late = self.accounting_at <= now;
        let state = self.cpu_mut(cpu);
        state.slice_end = slice_end;
        state.timer_at = if is_late { now } else { state.tick_at };
        let until = slice_end.min(self.cap_end(id, now));
        Decision {
            unit: Some(id),
            until,
        }
    }

    /// Returns how long a unit may run now, in ns: the whole time slice if at most [`SLICES_PER_ROUND`] share a pCPU. Of
    /// more, each has its turn within that many whole slices, and one with little credit does not go far below 0.
    fn slice(&self, cpu: CpuId, id: UnitId) -> u64 {
        let whole = self.parameters.timeslice_ms * 1000;
        let shortest = self.parameters.ratelimit_us.max(MIN_SLICE_US).min(whole);
        let sharers = (self.cpu(cpu).queue.count + 1).max(self.crowd());
        if sharers <= SLICES_PER_ROUND {
            return u64::from(whole) * 1000;
        }
        let shortest = u64::from(shortest) * 1000;
        let fair = u64::from(SLICES_PER_ROUND * whole / sharers) * 1000;
        let credit = u64::try_from(self.unit(id).credit).unwrap_or(0);
        (fair / 2 + credit).min(fair).max(shortest)
    }

    /// Returns whether others have something better than the running unit of `cpu`.
    fn could_steal(&self, cpu: CpuId, running: UnitId) -> bool {
        let unit = self.unit(running);
        let is_over = unit.class == Class::Over || unit.credit < 0;
        let mut better =
            self.waiting[Class::Boost as usize].or(&self.waiting[Class::Under as usize]);
        if self.is_deep_in_debt(running) {
            better = better.or(&self.waiting[Class::Over as usize]);
        }
        is_over && !better.is_empty()
            // The running unit's own pCPU has no queue, so what waits is elsewhere.
            && !better.without(&CpuSet::single(cpu)).is_empty()
    }

    /// Returns how many units share a pCPU on average.
    fn crowd(&self) -> u32 {
        // Divides by a subroutine, which is seldom needed so.
        match (self.movable_count, self.online_count) {
            (units, pcpus) if units < pcpus => 1,
            (units, pcpus) if units - pcpus < pcpus => 2,
            (units, pcpus) => units / pcpus.max(1) + 1,
        }
    }

    /// Returns how far apart the credits of units may be, in ns: what one has in its turn.
    fn tolerance(&self) -> i64 {
        let turn = match self.crowd().div_ceil(SLICES_PER_ROUND) {
            0 | 1 => self.timeslice(),
            rounds => self.timeslice() / u64::from(rounds),
        };
        turn as i64
    }

    /// Returns whether a unit has had clearly more than its share.
    fn is_deep_in_debt(&self, id: UnitId) -> bool {
        let credit = self.unit(id).credit;
        credit < 0 && credit < -self.tolerance()
    }

    /// One unit of the next class below goes to the end of `class`, ahead of the one that yields.
    fn let_one_by(&mut self, cpu: CpuId, class: Class) {
        let lower = CLASSES.into_iter().filter(|lower| *lower > class);
        let first = lower.filter_map(|lower| self.first_of(cpu, lower)).next();
        if let Some(id) = first {
            self.dequeue(id);
            self.enqueue_as(id, cpu, class);
        }
    }

    /// Chooses what a pCPU runs, here or elsewhere. It is still in a queue.
    fn choose(&mut self, cpu: CpuId, yielded: Option<UnitId>, now: u64) -> Option<UnitId> {
        let own = self
            .best_class(cpu)
            .and_then(|class| Some((class, self.first_of(cpu, class)?)));
        let wanted = match own {
            // Nothing, or only the unit that does not want to go first.
            None => &CLASSES[..],
            Some((_, id)) if yielded == Some(id) || self.is_deep_in_debt(id) => &CLASSES[..],
            Some((Class::Over, _)) => &CLASSES[..2],
            Some(_) => return own.map(|(_, id)| id),
        };
        let limit = if own.is_none() { u32::MAX } else { GLANCE };
        // Of the units that have had too much, one that has had clearly less is better.
        let least = match own {
            Some((Class::Over, id)) if yielded != Some(id) => {
                self.unit(id).credit.saturating_add(self.tolerance())
            }
            _ => i64::MIN,
        };
        let found = wanted
            .iter()
            .find_map(|class| self.find_elsewhere(cpu, *class, least, limit, now));
        found.or(own.map(|(_, id)| id))
    }

    /// Returns a unit that waits elsewhere and may run on `thief`; one that prefers to, if there is any. Looks at `limit`
    /// units of each peer. One in class `Over` must have `least` credit.
    fn find_elsewhere(
        &mut self,
        thief: CpuId,
        class: Class,
        least: i64,
        limit: u32,
        now: u64,
    ) -> Option<UnitId> {
        let mut peers = self.waiting[class as usize];
        peers.remove(thief);
        let mut fallback = None;
        let mut at = thief;
        while let Some(peer) = next_from(&peers, at) {
            self.run_links.step();
            peers.remove(peer);
            at = peer;
            let state = self.cpu(peer);
            let queue = &state.queue;
            let waiting = queue.class(class);
            // Its only one is what it is about to run.
            if state.running.is_none() && queue.count <= 1 || !waiting.reach.contains(thief) {
                continue;
            }
            let mut member = waiting.list(Kind::Movable).first();
            let mut left = limit;
            let mut suits_any = false;
            while let Some(raw) = member.filter(|_| left > 0) {
                let id = UnitId::new(raw);
                let unit = self.unit(id);
                if unit.may.contains(thief) {
                    suits_any = true;
                    if (class < Class::Over || unit.credit >= least) && !self.is_hot(id, now) {
                        if unit.affinity.soft.contains(thief) {
                            return Some(id);
                        }
                        fallback = fallback.or(Some(id));
                    }
                }
                left -= 1;
                member = self.run_links.next(raw);
            }
            if member.is_none() && !suits_any {
                // Nobody there may run here, and that stays so until another comes.
                let queue = &mut self.cpu_mut(peer).queue;
                queue.class_mut(class).reach.remove(thief);
            }
        }
        fallback
    }

    /// A unit that had to make room goes to an idle pCPU, if there is one for it.
    fn offer(&mut self, id: UnitId, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        let unit = self.unit(id);
        if matches!(unit.place, Place::Waits(..))
            && unit.cpu == Some(cpu)
            && !self.idle.and(&unit.may).is_empty()
            && !self.is_hot(id, now)
        {
            self.dequeue(id);
            self.place(id, now, kick);
        }
    }
}
