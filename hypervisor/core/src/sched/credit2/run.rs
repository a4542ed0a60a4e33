//! Who runs where: paying, placing, tickling, deciding, balancing.

use super::{
    BALANCE_PERIOD, CREDIT_INIT, CpuSet, Credit2, Decision, MAX_TIMER, MIGRATE_RESISTANCE,
    MIN_TIMER, RunQueue, State, Unit, UnitId, Wanted,
};
use crate::addr::CpuId;

impl RunQueue {
    /// Returns the pCPUs that idle and were not told to schedule.
    fn available(&self) -> CpuSet {
        self.idle.without(&self.tickled)
    }

    /// Returns whether this queue has less to do for each pCPU than `other`.
    fn is_less_loaded(&self, other: &Self) -> bool {
        // Loads are below 2^32: 2^16 units of weights below 2^16.
        self.load.wrapping_mul(u64::from(other.cpus.len()))
            < other.load.wrapping_mul(u64::from(self.cpus.len()))
    }
}

impl Credit2 {
    /// Returns what a unit pays for `time` (ns), and what the division leaves over.
    #[inline(never)]
    fn price(&self, unit: &Unit, time: u64) -> (i64, u64) {
        let weight = self.weight(unit);
        // The usual case needs no division.
        if weight == self.max_weight {
            return (i64::try_from(time).unwrap_or(i64::MAX), 0);
        }
        let value = time
            .saturating_mul(self.max_weight)
            .saturating_add(unit.residual);
        // Weights are at least 1.
        let price = value / weight.max(1);
        (
            i64::try_from(price).unwrap_or(i64::MAX),
            value % weight.max(1),
        )
    }

    /// Lets a running unit pay until now.
    #[inline(never)]
    fn pay(&mut self, id: UnitId, now: u64) {
        let Some(unit) = self.unit(id).filter(|unit| unit.state == State::Running) else {
            return;
        };
        let Some(queue) = unit.queue else { return };
        let time = now.saturating_sub(unit.paid_until);
        if time == 0 {
            return;
        }
        let (price, residual) = self.price(unit, time);
        let credit = self.credit(unit).saturating_sub(price);
        self.set_credit(id, queue, credit);
        if let Some(unit) = self.unit_mut(id) {
            unit.residual = residual;
            unit.paid_until = now;
            if let Some(grant) = &mut unit.grant {
                *grant = grant.saturating_sub_unsigned(time);
            }
        }
    }

    #[inline(never)]
    fn add_load(&mut self, id: UnitId) {
        let Some(unit) = self.unit(id) else { return };
        let (weight, queue) = (self.weight(unit), unit.queue);
        if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(queue)) {
            queue.load += weight;
        }
    }

    #[inline(never)]
    fn remove_load(&mut self, id: UnitId) {
        let Some(unit) = self.unit(id) else { return };
        let (weight, queue) = (self.weight(unit), unit.queue);
        if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(queue)) {
            queue.load = queue.load.saturating_sub(weight);
        }
    }

    /// The weight of a domain changes.
    pub(super) fn change_load(&mut self, domain: usize, old: u64, new: u64) {
        let units = self.units.iter().flatten();
        for unit in units.filter(|unit| {
            unit.domain == domain && matches!(unit.state, State::Waiting | State::Running)
        }) {
            if let Some(queue) = unit.queue.and_then(|queue| self.queues.get_mut(queue)) {
                queue.load = (queue.load + new).saturating_sub(old);
            }
        }
    }

    /// A running unit stops: it pays and gives back its grant. Its state and its pCPU are the caller's.
    pub(super) fn stop(&mut self, id: UnitId, now: u64) {
        self.pay(id, now);
        self.return_grant(id);
        self.remove_load(id);
    }

    /// Takes a waiting unit out of its run queue.
    pub(super) fn dequeue(&mut self, id: UnitId) {
        self.remove_load(id);
        self.take_out(id);
    }

    #[inline(never)]
    fn take_out(&mut self, id: UnitId) {
        let queue = self.unit(id).and_then(|unit| unit.queue);
        if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(queue)) {
            self.waiting.remove(&mut queue.waiting, id.raw());
        }
    }

    /// Moves a unit, which is in no run queue, to another run queue with its credit.
    fn join_queue(&mut self, id: UnitId, queue: usize) {
        if let Some(unit) = self.unit(id) {
            let credit = self.credit(unit);
            self.set_credit(id, queue, credit);
        }
    }

    /// Lets a runnable unit that is nowhere wait where it should, and tells a pCPU about it.
    pub(super) fn place(&mut self, id: UnitId, now: u64, kick: &mut CpuSet) {
        if self.is_out_of_budget(id) {
            self.park(id);
            return;
        }
        let Some(unit) = self.unit(id) else { return };
        let may = self.may_run(unit);
        let soft = may.and(&unit.affinity.soft);
        let queue = self.choose_queue(unit, &may, &soft);
        let Some(cpus) = self.queues.get(queue).map(|queue| queue.cpus) else {
            return;
        };
        let mut cpu = unit.cpu;
        if !may.and(&cpus).contains(cpu) {
            let preferred = soft.and(&cpus).first();
            cpu = preferred.or(may.and(&cpus).first()).unwrap_or(cpu);
        }
        // Also brings its credit up to date, by which it is sorted.
        self.join_queue(id, queue);
        self.add_load(id);
        let Some(unit) = self.units.get_mut(id.index()).and_then(Option::as_mut) else {
            return;
        };
        unit.state = State::Waiting;
        unit.cpu = cpu;
        if let Some(queue) = self.queues.get_mut(queue) {
            let key = unit.credit;
            self.waiting
                .insert(&mut queue.waiting, id.raw(), key, may, cpu);
        }
        self.tickle(id, queue, &may, &soft, now, kick);
    }

    /// Returns the run queue for a unit: its own, unless only another has an idle pCPU for it.
    #[inline(never)]
    fn choose_queue(&self, unit: &Unit, may: &CpuSet, soft: &CpuSet) -> usize {
        let own = unit.queue.unwrap_or(0);
        if self.queues.len() <= 1 {
            return own;
        }
        let reaches = |queue: usize, set: &CpuSet| {
            self.queues
                .get(queue)
                .is_some_and(|queue| !queue.available().and(set).is_empty())
        };
        for set in [soft, may] {
            if reaches(own, set) {
                return own;
            }
            if let Some(other) = (0..self.queues.len()).find(|&queue| reaches(queue, set)) {
                return other;
            }
        }
        let is_allowed = |queue: &&RunQueue| -> bool { !queue.cpus.and(may).is_empty() };
        if unit.queue.is_some() && self.queues.get(own).as_ref().is_some_and(is_allowed) {
            return own;
        }
        let mut best: Option<(usize, &RunQueue)> = None;
        for (index, queue) in self.queues.iter().enumerate() {
            if is_allowed(&queue) && best.is_none_or(|(_, best)| queue.is_less_loaded(best)) {
                best = Some((index, queue));
            }
        }
        best.map_or(own, |(index, _)| index)
    }

    /// Tells a pCPU to schedule.
    #[inline(never)]
    pub(super) fn tickle_cpu(&mut self, cpu: CpuId, kick: &mut CpuSet) {
        let Some(queue) = self.cpu(cpu).map(|cpu| cpu.queue) else {
            return;
        };
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.tickled.insert(cpu);
        }
        kick.insert(cpu);
    }

    /// Finds a pCPU for a unit that began to wait: an idle one, or the one that runs the least deserving unit.
    #[inline(never)]
    fn tickle(
        &mut self,
        id: UnitId,
        queue: usize,
        may: &CpuSet,
        soft: &CpuSet,
        now: u64,
        kick: &mut CpuSet,
    ) {
        let (Some(unit), Some(run_queue)) = (self.unit(id), self.queues.get(queue)) else {
            return;
        };
        for set in [soft, may] {
            let idle = run_queue.available().and(set);
            let own = Some(unit.cpu).filter(|cpu| idle.contains(*cpu));
            if let Some(cpu) = own.or(idle.first()) {
                self.tickle_cpu(cpu, kick);
                return;
            }
        }
        // Its pCPU has nothing and is about to look.
        if run_queue.tickled.contains(unit.cpu)
            && self.cpu(unit.cpu).is_some_and(|cpu| cpu.current.is_none())
        {
            return;
        }
        let credit = self.credit(unit);
        let busy = run_queue
            .cpus
            .and(may)
            .without(&run_queue.idle)
            .without(&run_queue.tickled);
        let mut best: Option<(i64, CpuId)> = None;
        for cpu in busy.iter() {
            let Some(current) = self
                .cpu(cpu)
                .and_then(|cpu| cpu.current)
                .and_then(|current| self.unit(current))
            else {
                continue;
            };
            let (price, _) = self.price(current, now.saturating_sub(current.paid_until));
            let mut score = credit.saturating_sub(self.credit(current).saturating_sub(price));
            if cpu != unit.cpu {
                score = score.saturating_sub(MIGRATE_RESISTANCE);
            }
            if score <= 0 {
                continue;
            }
            // A place that it likes, or that the other does not.
            if soft.contains(cpu) {
                score = score.saturating_add(CREDIT_INIT);
            }
            if !current.affinity.soft.contains(cpu) {
                score = score.saturating_add(CREDIT_INIT);
            }
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, cpu));
            }
        }
        // Should it have run too short a time to be preempted, it gets a deadline.
        if let Some((_, cpu)) = best {
            self.tickle_cpu(cpu, kick);
        }
    }

    /// Gives credit to all units of a run queue, so that `next` has some.
    #[inline(never)]
    pub(super) fn reset(&mut self, queue: usize, next: i64, now: u64) {
        let Some(cpus) = self.queues.get(queue).map(|queue| queue.cpus) else {
            return;
        };
        // Those that run pay before, or the limit would take credit from them that they have spent.
        for cpu in cpus.iter() {
            if let Some(current) = self.cpu(cpu).and_then(|cpu| cpu.current) {
                self.pay(current, now);
            }
        }
        if let Some(queue) = self.queues.get_mut(queue) {
            let times = 1 + next.min(0).unsigned_abs() / CREDIT_INIT.unsigned_abs();
            let credit = (times as i64).saturating_mul(CREDIT_INIT);
            queue.given = queue.given.wrapping_add(credit);
            queue.resets += 1;
        }
    }

    /// Implements `schedule`.
    pub(super) fn decide(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Decision {
        let Some(&super::Cpu { queue, current, .. }) = self.cpu(cpu) else {
            return Decision {
                unit: None,
                until: u64::MAX,
            };
        };
        if let Some(run_queue) = self.queues.get_mut(queue) {
            run_queue.tickled.remove(cpu);
            run_queue.idle.remove(cpu);
        }
        self.balance(queue, now);
        let (current, leaving) = match current {
            Some(id) if self.goes_on(id, cpu, now) => (Some(id), None),
            leaving => (None, leaving),
        };
        let next = if current.is_some_and(|id| self.is_ratelimited(id, now)) {
            current
        } else {
            self.better(cpu, queue, current)
                .or(current)
                .or_else(|| self.steal(cpu, queue))
        };
        if let Some(slot) = self.cpus.get_mut(cpu.index()) {
            slot.current = next;
        }
        if let Some(next) = next.filter(|_| next != current) {
            self.begin(next, cpu, now);
        }
        // Only now, or this pCPU would take it again. It has paid, and given back its grant.
        if let Some(old) = leaving.or(current.filter(|_| next != current)) {
            self.remove_load(old);
            self.place(old, now, kick);
        }
        let until = match next {
            Some(next) => {
                let credit = self.unit(next).map_or(0, |unit| self.credit(unit));
                if credit <= 0 {
                    self.reset(queue, credit, now);
                }
                let limit = self.take_grant(next, cpu, now);
                now.saturating_add(self.time_slice(next, cpu, queue, now, limit))
            }
            None => {
                if let Some(run_queue) = self.queues.get_mut(queue) {
                    run_queue.idle.insert(cpu);
                }
                u64::MAX
            }
        };
        if let Some(unit) = next.and_then(|next| self.unit_mut(next)) {
            unit.yields = false;
        }
        self.wake_idle(kick);
        Decision { unit: next, until }
    }

    /// Returns whether the unit that ran on `cpu` may go on, once it has paid.
    #[inline(never)]
    fn goes_on(&mut self, id: UnitId, cpu: CpuId, now: u64) -> bool {
        self.pay(id, now);
        self.return_grant(id);
        let Some(unit) = self.unit(id) else {
            return false;
        };
        let may = self.may_run(unit);
        let soft = may.and(&unit.affinity.soft);
        let is_better_off = !soft.contains(cpu)
            && self
                .queues
                .iter()
                .any(|queue| !queue.available().and(&soft).is_empty());
        may.contains(cpu) && !is_better_off && !self.is_out_of_budget(id)
    }

    fn is_ratelimited(&self, id: UnitId, now: u64) -> bool {
        self.unit(id).is_some_and(|unit| {
            let ran = now.saturating_sub(unit.running_since);
            !unit.yields && ran < u64::from(self.ratelimit_us) * 1000
        })
    }

    /// Takes the unit out of the run queue that `cpu` should run instead of `current`, if there is one.
    #[inline(never)]
    fn better(&mut self, cpu: CpuId, queue: usize, current: Option<UnitId>) -> Option<UnitId> {
        loop {
            let id = self.find_better(cpu, queue, current)?;
            if !self.is_out_of_budget(id) {
                self.take_out(id);
                return Some(id);
            }
            // Once for each unit and filling.
            self.dequeue(id);
            self.park(id);
        }
    }

    #[inline(never)]
    fn find_better(&self, cpu: CpuId, queue: usize, current: Option<UnitId>) -> Option<UnitId> {
        let queue = &self.queues.get(queue)?.waiting;
        let find = |wanted| self.waiting.first_of(queue, wanted).map(UnitId::new);
        let first = find(Wanted::May(CpuSet::single(cpu)))?;
        let Some(current) = current
            .and_then(|current| self.unit(current))
            .filter(|current| !current.yields)
        else {
            return Some(first);
        };
        let credit = self.credit(current);
        let lead = |id: UnitId| self.unit(id).map_or(i64::MIN, |unit| self.credit(unit)) - credit;
        let is_near = self.unit(first).is_some_and(|unit| unit.cpu == cpu);
        if lead(first) > if is_near { 0 } else { MIGRATE_RESISTANCE } {
            return Some(first);
        }
        find(Wanted::Last(cpu)).filter(|&near| lead(near) > 0)
    }

    /// Takes a unit from another run queue for a pCPU that would idle.
    #[inline(never)]
    fn steal(&mut self, cpu: CpuId, queue: usize) -> Option<UnitId> {
        let count = self.queues.len();
        for other in (1..count).map(|distance| (queue + distance) % count) {
            if let Some(id) = self.better(cpu, other, None) {
                self.remove_load(id);
                self.join_queue(id, queue);
                self.add_load(id);
                return Some(id);
            }
        }
        None
    }

    /// The unit, which is in no run queue, runs from now on.
    #[inline(never)]
    fn begin(&mut self, id: UnitId, cpu: CpuId, now: u64) {
        if let Some(unit) = self.unit_mut(id) {
            unit.state = State::Running;
            unit.cpu = cpu;
            unit.running_since = now;
            unit.paid_until = now;
        }
    }

    /// Returns for how many ns the unit runs: until the next one has more credit.
    #[inline(never)]
    fn time_slice(
        &self,
        id: UnitId,
        cpu: CpuId,
        queue: usize,
        now: u64,
        limit: Option<u64>,
    ) -> u64 {
        let (Some(unit), Some(queue)) = (self.unit(id), self.queues.get(queue)) else {
            return MAX_TIMER;
        };
        let ran = now.saturating_sub(unit.running_since);
        let protected = (u64::from(self.ratelimit_us) * 1000).saturating_sub(ran);
        // At the end of its protection another may have waited for long.
        let shortest = match protected {
            0 => MIN_TIMER,
            _ if ran > 0 => protected,
            _ => MIN_TIMER.max(protected),
        };
        let wanted = Wanted::May(CpuSet::single(cpu));
        let time = match self.waiting.first_of(&queue.waiting, wanted) {
            None => MAX_TIMER,
            Some(other) => {
                let other = self
                    .unit(UnitId::new(other))
                    .map_or(0, |other| self.credit(other));
                let lead = self.credit(unit).saturating_sub(other.max(0));
                let lead = u64::try_from(lead).unwrap_or(0);
                // At most CREDIT_MAX times 65535.
                lead.wrapping_mul(self.weight(unit)) / self.max_weight.max(1)
            }
        };
        let time = time.min(MAX_TIMER).max(shortest);
        limit.map_or(time, |limit| time.min(limit))
    }

    /// Tells one idle pCPU to schedule if a unit waits that may run there: it was meant for a pCPU that took another.
    #[inline(never)]
    fn wake_idle(&mut self, kick: &mut CpuSet) {
        let (mut available, mut coming, mut waiting) = (CpuSet::EMPTY, 0, 0);
        for queue in &self.queues {
            available = available.or(&queue.available());
            coming += queue.idle.and(&queue.tickled).len() as usize;
            waiting += queue.waiting.len();
        }
        // Those that were told already come first; each that finds nothing looks here again.
        if available.is_empty() || waiting <= coming {
            return;
        }
        for queue in &self.queues {
            let wanted = Wanted::May(available);
            let first = self.waiting.first_of(&queue.waiting, wanted);
            let unit = first.and_then(|id| self.unit(UnitId::new(id)));
            let cpu = unit.and_then(|unit| self.may_run(unit).and(&available).first());
            if let Some(cpu) = cpu {
                self.tickle_cpu(cpu, kick);
                return;
            }
        }
    }

    /// Takes a waiting unit from the run queue with the most to do, if that makes the two more equal.
    #[inline(never)]
    fn balance(&mut self, queue: usize, now: u64) {
        if self.queues.len() <= 1 {
            return;
        }
        let Some(own) = self.queues.get_mut(queue) else {
            return;
        };
        if now < own.next_balance {
            return;
        }
        own.next_balance = now.saturating_add(BALANCE_PERIOD);
        let (own, cpus) = (&self.queues[queue], self.queues[queue].cpus);
        let mut busiest = queue;
        for (index, other) in self.queues.iter().enumerate() {
            if self.queues[busiest].is_less_loaded(other) {
                busiest = index;
            }
        }
        let other = &self.queues[busiest];
        let Some(id) = self
            .waiting
            .first_of(&other.waiting, Wanted::May(cpus))
            .map(UnitId::new)
        else {
            return;
        };
        let weight = self.unit(id).map_or(0, |unit| self.weight(unit));
        let (there, here) = (u64::from(other.cpus.len()), u64::from(cpus.len()));
        // Even without it there is more to do there than here with it.
        if other.load.saturating_sub(weight).wrapping_mul(here)
            < own.load.wrapping_add(weight).wrapping_mul(there)
        {
            return;
        }
        let Some(unit) = self.unit(id) else { return };
        let may = self.may_run(unit);
        self.dequeue(id);
        self.join_queue(id, queue);
        self.add_load(id);
        let cpu = may.and(&cpus).first();
        if let (Some(unit), Some(cpu), Some(queue)) = (
            self.units.get_mut(id.index()).and_then(Option::as_mut),
            cpu,
            self.queues.get_mut(queue),
        ) {
            unit.cpu = cpu;
            let key = unit.credit;
            self.waiting
                .insert(&mut queue.waiting, id.raw(), key, may, cpu);
        }
    }
}
