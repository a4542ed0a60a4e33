//! Caps: budgets, grants and parked units.

use super::{Cpu, CpuSet, Credit2, MIN_GRANT, MIN_TIMER, Queue, REPLENISH_PERIOD, State, UnitId};
use crate::addr::CpuId;

/// Returns the budget that a cap (in percent of a pCPU) gives each period, in ns.
pub(super) fn per_period(cap: u16) -> i64 {
    i64::from(cap) * (REPLENISH_PERIOD / 100) as i64
}

impl Credit2 {
    /// Returns whether the domain of a unit has used its budget up.
    pub(super) fn is_out_of_budget(&self, id: UnitId) -> bool {
        self.unit(id)
            .and_then(|unit| self.domain_of(unit))
            .is_some_and(|domain| domain.share.cap != 0 && domain.budget <= 0)
    }

    /// Gives a unit that is about to run on `cpu` its part of the budget. Returns how long it may run, if that is limited.
    pub(super) fn take_grant(&mut self, id: UnitId, cpu: CpuId, now: u64) -> Option<u64> {
        let index = self.unit(id)?.domain;
        let domain = self.domains.get_mut(index)?.as_mut()?;
        if domain.share.cap == 0 {
            return None;
        }
        let part = per_period(domain.share.cap) / i64::from(domain.unit_count.max(1));
        let grant = domain.budget.min(part.max(MIN_TIMER as i64));
        domain.budget -= grant;
        let must_start = domain.filled_by.is_none();
        if let Some(unit) = self.unit_mut(id) {
            unit.grant = Some(grant);
        }
        if must_start {
            self.start_filling(index, cpu, now);
        }
        Some(grant.max(MIN_GRANT) as u64)
    }

    /// Takes back what a unit left of its grant, or what it owes.
    pub(super) fn return_grant(&mut self, id: UnitId) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        let (domain, grant) = (unit.domain, unit.grant.take());
        if let (Some(domain), Some(grant)) =
            (self.domains.get_mut(domain).and_then(Option::as_mut), grant)
        {
            domain.budget = domain.budget.saturating_add(grant);
        }
    }

    /// Sets a runnable unit aside until there is budget.
    pub(super) fn park(&mut self, id: UnitId) {
        let Some(domain) = self.unit(id).map(|unit| unit.domain) else {
            return;
        };
        let Some(domain) = self.domains.get_mut(domain).and_then(Option::as_mut) else {
            return;
        };
        let first = domain.parked.replace(id);
        if let Some(unit) = self.unit_mut(id) {
            unit.state = State::Parked;
            unit.parked = [None, first];
        }
        if let Some(second) = first.and_then(|second| self.unit_mut(second)) {
            second.parked[0] = Some(id);
        }
    }

    /// Takes a unit out of the parked ones.
    pub(super) fn unpark(&mut self, id: UnitId) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        let ([before, behind], domain) = (core::mem::take(&mut unit.parked), unit.domain);
        match before.and_then(|before| self.unit_mut(before)) {
            Some(before) => before.parked[1] = behind,
            None => {
                if let Some(domain) = self.domains.get_mut(domain).and_then(Option::as_mut) {
                    domain.parked = behind;
                }
            }
        }
        if let Some(behind) = behind.and_then(|behind| self.unit_mut(behind)) {
            behind.parked[0] = before;
        }
    }

    /// Returns when a pCPU must fill a budget next.
    pub(super) fn next_filling(&self, cpu: &Cpu) -> u64 {
        self.budgets
            .first(&cpu.budgets)
            .map_or(u64::MAX, |domain| self.filling_time(usize::from(domain)))
    }

    fn filling_time(&self, domain: usize) -> u64 {
        self.domains
            .get(domain)
            .and_then(Option::as_ref)
            .map_or(u64::MAX, |domain| domain.next_filling)
    }

    fn start_filling(&mut self, index: usize, cpu: CpuId, now: u64) {
        if let Some(domain) = self.domains.get_mut(index).and_then(Option::as_mut) {
            domain.next_filling = now.saturating_add(REPLENISH_PERIOD);
        }
        self.fill_later(index, cpu);
    }

    /// Lets `cpu` fill a budget at its time.
    fn fill_later(&mut self, index: usize, cpu: CpuId) {
        let (Some(domain), Some(slot)) = (
            self.domains.get_mut(index).and_then(Option::as_mut),
            self.cpus.get_mut(cpu.index()),
        ) else {
            return;
        };
        domain.filled_by = Some(cpu);
        // The earliest has the largest key. Bounded by the number of domains, which is below 2^16.
        let key = 0i64.wrapping_sub_unsigned(domain.next_filling);
        self.budgets
            .insert(&mut slot.budgets, index as u16, key, CpuSet::EMPTY, cpu);
    }

    /// Nobody fills the budget any more. Does nothing if nobody did.
    pub(super) fn stop_filling(&mut self, index: usize) {
        let cpu = self
            .domains
            .get_mut(index)
            .and_then(Option::as_mut)
            .and_then(|domain| domain.filled_by.take());
        if let Some(slot) = cpu.and_then(|cpu| self.cpus.get_mut(cpu.index())) {
            self.budgets.remove(&mut slot.budgets, index as u16);
        }
    }

    /// Fills the budgets that `cpu` has to fill by now, and lets their units run.
    pub(super) fn fill_budgets(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        while let Some(index) = self
            .cpu(cpu)
            .and_then(|cpu| self.budgets.first(&cpu.budgets))
            .map(usize::from)
            .filter(|&index| self.filling_time(index) <= now)
        {
            self.stop_filling(index);
            let Some(domain) = self.domains.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            let full = per_period(domain.share.cap);
            let late = now.saturating_sub(domain.next_filling);
            // Behind by more than one period only if the pCPU was held up.
            let periods = late / REPLENISH_PERIOD + 1;
            let filled = i64::try_from(periods)
                .unwrap_or(i64::MAX)
                .saturating_mul(full);
            domain.budget = domain.budget.saturating_add(filled).min(full);
            domain.next_filling = domain
                .next_filling
                .saturating_add(periods.saturating_mul(REPLENISH_PERIOD));
            let has_budget = domain.share.cap == 0 || domain.budget > 0;
            let must_go_on =
                domain.share.cap != 0 && (domain.active_count > 0 || domain.budget < full);
            if must_go_on {
                self.fill_later(index, cpu);
            }
            // Each leaves the list, so this ends.
            while has_budget
                && let Some(unit) = self
                    .domains
                    .get(index)
                    .and_then(Option::as_ref)
                    .and_then(|domain| domain.parked)
            {
                self.unpark(unit);
                self.place(unit, now, kick);
            }
        }
    }

    /// A pCPU that joins fills the budgets for which there was none.
    pub(super) fn adopt_budgets(&mut self, cpu: CpuId, now: u64) {
        for index in 0..self.domains.len() {
            let domain = self.domains.get(index).and_then(Option::as_ref);
            if domain.is_some_and(|domain| domain.parked.is_some() && domain.filled_by.is_none()) {
                self.start_filling(index, cpu, now);
            }
        }
    }

    /// Another pCPU fills the budgets that one which leaves had to fill.
    pub(super) fn hand_over_budgets(&mut self, leaving: CpuId, kick: &mut CpuSet) {
        let heir = self.online.first();
        while let Some(index) = self
            .cpus
            .get(leaving.index())
            .and_then(|cpu| self.budgets.first(&cpu.budgets))
            .map(usize::from)
        {
            self.stop_filling(index);
            if let Some(heir) = heir {
                self.fill_later(index, heir);
                // It looks at its timer again.
                self.tickle_cpu(heir, kick);
            }
        }
        if let Some(slot) = self.cpus.get_mut(leaving.index()) {
            slot.budgets = Queue::EMPTY;
        }
    }
}
