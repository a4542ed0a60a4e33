//! Credit: who pays, who gets how much, who is parked.

use super::{Class, Credit, MIN_CAPPED_RUN, Place};
use crate::addr::CpuId;
use crate::sched::{CpuSet, UnitId};

/// Slices after which a late accounting hands out no more: everybody has all the credit that can be kept.
const MAX_LATE: u64 = 64;
/// How many times the usual credit is handed out at most, when sleepers keep much of it.
const MOST_GIVEN: u64 = 4;
/// Time slices of credit that a unit may have which never slept while it gathered them: it waited for them, and another has
/// had them. More is not owed; its affinity does not let it have what its weight says.
const MOST_OWED: i64 = 8;
/// Time slices that a unit may have had too many. More is forgiven: nobody else could use them.
const MOST_DEBT: i64 = 4;
/// Passes over the domains, or the units of one, to hand out what others could not take.
const PASSES: u32 = 8;

impl Credit {
    /// The running unit of a pCPU pays for its time until `now`.
    pub(super) fn burn(&mut self, cpu: CpuId, now: u64) {
        let state = self.cpu_mut(cpu);
        let Some(id) = state.running else {
            state.paid_until = state.paid_until.max(now);
            return;
        };
        let ran = now.saturating_sub(state.paid_until);
        state.paid_until = state.paid_until.max(now);
        let unit = self.unit_mut(id);
        unit.credit = unit
            .credit
            .saturating_sub_unsigned(ran)
            .max(-i64::from(u32::MAX));
        self.activate(id);
    }

    /// Adds a unit to those that are handed credit.
    pub(super) fn activate(&mut self, id: UnitId) {
        let unit = self.unit_mut(id);
        if unit.is_active {
            return;
        }
        unit.is_active = true;
        let index = unit.domain;
        let domain = &mut self.domains[usize::from(index)];
        if domain.active_count == 0 {
            self.domain_links.push(&mut self.active_domains, index);
        }
        domain.active_count += 1;
        self.active_links.push(&mut domain.active, id.raw());
        self.update_debt_limit(usize::from(index));
    }

    /// Removes a unit from those that are handed credit.
    pub(super) fn deactivate(&mut self, id: UnitId) {
        let unit = self.unit_mut(id);
        if !unit.is_active {
            return;
        }
        unit.is_active = false;
        let index = unit.domain;
        let domain = &mut self.domains[usize::from(index)];
        domain.active_count -= 1;
        self.active_links.remove(&mut domain.active, id.raw());
        if domain.active_count == 0 {
            self.domain_links.remove(&mut self.active_domains, index);
        }
        self.update_debt_limit(usize::from(index));
    }

    /// Looks anew at how far below 0 the units of a domain with a cap may go: what the cap gives each in a time slice.
    pub(super) fn update_debt_limit(&mut self, index: usize) {
        let timeslice = self.timeslice();
        let domain = &mut self.domains[index];
        if domain.share.cap == 0 {
            return;
        }
        let all = timeslice / 100 * u64::from(domain.share.cap);
        let each = all / u64::from(domain.active_count.max(1));
        // A time slice is 1 s at most.
        domain.debt_limit = (each.min(timeslice) as i64).max(MIN_CAPPED_RUN);
    }

    /// Returns how far below 0 a unit may go, where a cap says that. One that the units of a domain cannot reach says
    /// nothing: nobody is parked for it.
    fn debt_limit(&self, id: UnitId) -> Option<i64> {
        let domain = &self.domains[usize::from(self.unit(id).domain)];
        let cap = u32::from(domain.share.cap);
        (cap != 0 && cap < domain.unit_count.saturating_mul(100)).then_some(domain.debt_limit)
    }

    /// Parks a unit that used more than its domain's cap allows; it waits nowhere.
    pub(super) fn park_if_capped(&mut self, id: UnitId) {
        let Some(limit) = self.debt_limit(id) else {
            return;
        };
        let unit = self.unit_mut(id);
        if unit.credit <= -limit && !unit.is_parked {
            unit.is_parked = true;
            self.parked_count += 1;
        }
    }

    /// Returns when a running unit has used its cap.
    pub(super) fn cap_end(&self, id: UnitId, now: u64) -> u64 {
        let Some(limit) = self.debt_limit(id) else {
            return u64::MAX;
        };
        // Not so soon that switching costs more; the overrun is a debt.
        let left = (self.unit(id).credit + limit).max(MIN_CAPPED_RUN / 4);
        now.saturating_add_signed(left)
    }

    /// Returns when an idle pCPU wants its timer: only parked units need the accounting then.
    pub(super) fn idle_timer(&self) -> u64 {
        match self.parked_count {
            0 => u64::MAX,
            _ => self.accounting_at,
        }
    }

    /// Has a pCPU set its timer if all sleep without one and somebody is parked: only the accounting ends that.
    pub(super) fn watch_parked(&self, kick: &mut CpuSet) {
        let has_timer = |cpu| self.cpu(cpu).timer_at != u64::MAX;
        if self.parked_count != 0
            && !self.online.iter().any(has_timer)
            && let Some(cpu) = self.online.first()
        {
            kick.insert(cpu);
        }
    }

    pub(super) fn do_timer(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        if now >= self.accounting_at {
            self.account(now, kick);
        }
        if self.cpu(cpu).running.is_none() {
            self.cpu_mut(cpu).timer_at = self.idle_timer();
            return;
        }
        if now >= self.cpu(cpu).tick_at {
            self.do_tick(cpu, now, kick);
        }
        self.cpu_mut(cpu).timer_at = self.cpu(cpu).tick_at;
    }

    fn do_tick(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        self.run_links.step();
        let tick = self.tick();
        let state = self.cpu_mut(cpu);
        state.tick_at = state.tick_at.saturating_add(tick);
        if state.tick_at <= now {
            state.tick_at = now.saturating_add(tick);
        }
        self.burn(cpu, now);
        let Some(id) = self.cpu(cpu).running else {
            return;
        };
        let unit = self.unit_mut(id);
        if unit.class == Class::Boost {
            unit.class = Class::Under;
        }
        let unit = *unit;
        self.refresh(cpu);
        let is_idle_preferred = !self.idle.and(&unit.may).and(&unit.affinity.soft).is_empty();
        if !unit.affinity.soft.contains(cpu) && is_idle_preferred {
            self.cpu_mut(cpu).moves = true;
        }
        let is_beaten = self.best_class(cpu).is_some_and(|best| best < unit.class);
        if self.cpu(cpu).moves || is_beaten || !unit.may.contains(cpu) {
            kick.insert(cpu);
        }
        // What was too hot to be taken when the idle pCPU looked may be so no more.
        if self.parameters.migration_delay_us > 0
            && self.cpu(cpu).queue.count > 0
            && let Some(idle) = self.idle.first()
        {
            kick.insert(idle);
        }
    }

    /// Hands out the credit of the time since the last accounting.
    fn account(&mut self, now: u64, kick: &mut CpuSet) {
        let timeslice = self.timeslice();
        let late = timeslice.saturating_mul(MAX_LATE);
        let elapsed = now.saturating_sub(self.accounted_at).min(late);
        self.accounted_at = now;
        self.accounting_at = self.accounting_at.saturating_add(timeslice);
        if self.accounting_at <= now {
            self.accounting_at = now.saturating_add(timeslice);
        }
        for cpu in self.online.iter() {
            self.burn(cpu, now);
        }
        self.share_out(elapsed);
        let mut next = self.active_domains.first();
        while let Some(index) = next {
            // A domain leaves the list with its last active unit.
            next = self.domain_links.next(index);
            self.hand_out(usize::from(index));
            self.judge(usize::from(index), now, kick);
        }
    }

    /// Splits what the pCPUs can give in `elapsed` ns into grants: by weight, and what one cannot take to the others.
    fn share_out(&mut self, elapsed: u64) {
        let usual = elapsed * u64::from(self.online_count);
        let mut weights = 0;
        // The credit of those that can run, and what they shall have.
        let (mut held, mut target) = (0, 0);
        let mut next = self.active_domains.first();
        while let Some(index) = next {
            next = self.domain_links.next(index);
            let index = usize::from(index);
            let peak = self.peak(index, elapsed, &mut held, &mut target);
            let domain = &mut self.domains[index];
            domain.peak = Some(peak);
            weights += u64::from(domain.share.weight);
        }
        // Those that want to run now have paid for `elapsed`, and shall have credit for as long again. Sleepers keep some of
        // what was given, so that may take more than is usual.
        let wanted = u64::try_from(target.min(usual as i64) - held).unwrap_or(0);
        let returned = core::mem::take(&mut self.returned);
        let mut left = wanted.max(usual + returned).min(usual * MOST_GIVEN);
        for pass in 1..=PASSES {
            let (mut taken, mut settled) = (0, 0);
            let mut next = self.active_domains.first();
            while let Some(index) = next {
                next = self.domain_links.next(index);
                let domain = &mut self.domains[usize::from(index)];
                let Some(peak) = domain.peak else { continue };
                let weight = u64::from(domain.share.weight);
                let fair = left * weight / weights;
                domain.grant = fair.min(peak);
                if fair >= peak {
                    domain.peak = None;
                    taken += peak;
                    settled += weight;
                }
            }
            if settled == 0 || settled == weights || pass == PASSES {
                break;
            }
            left = left.saturating_sub(taken);
            weights -= settled;
        }
    }

    /// Returns the most that a domain can take: its cap, no more time than passed, and no more than units may keep.
    /// Adds to `held` the credit of those that can run.
    fn peak(&self, index: usize, elapsed: u64, held: &mut i64, target: &mut i64) -> u64 {
        let domain = &self.domains[index];
        let mut room = 0;
        let mut next = domain.active.first();
        while let Some(raw) = next {
            next = self.active_links.next(raw);
            let id = UnitId::new(raw);
            room += self.room(id);
            if self.can_run(id) {
                *held += self.unit(id).credit;
                *target += self.timeslice() as i64 / 16;
            }
        }
        let most = match domain.share.cap {
            0 => elapsed * u64::from(domain.active_count),
            cap => elapsed * u64::from(cap) / 100,
        };
        room.min(most)
    }

    /// Returns how much credit a unit can take, in ns.
    fn room(&self, id: UnitId) -> u64 {
        let unit = self.unit(id);
        let waits = unit.is_awake && !unit.has_slept && self.debt_limit(id).is_none();
        let slices = if waits { MOST_OWED } else { 1 };
        let most = self.timeslice() as i64 * slices;
        u64::try_from(most - unit.credit).unwrap_or(0)
    }

    /// Gives a domain's grant to its active units, in equal parts as far as they can take them.
    fn hand_out(&mut self, index: usize) {
        let domain = self.domains[index];
        let mut left = domain.grant;
        for _ in 0..PASSES {
            let mut units = u64::from(domain.active_count);
            let before = left;
            let mut next = domain.active.first();
            while let Some(raw) = next {
                next = self.active_links.next(raw);
                let id = UnitId::new(raw);
                let part = (left / units.max(1)).min(self.room(id));
                // Both are less than 2^63: a grant is at most the room of the units.
                self.unit_mut(id).credit += part as i64;
                left -= part;
                units = units.saturating_sub(1);
            }
            if left == 0 || left == before {
                break;
            }
        }
    }

    /// Finds the classes of a domain's active units, parks and frees them, and lets those go that have all they can have.
    fn judge(&mut self, index: usize, now: u64, kick: &mut CpuSet) {
        let most = self.timeslice() as i64;
        let mut next = self.domains[index].active.first();
        while let Some(raw) = next {
            next = self.active_links.next(raw);
            let id = UnitId::new(raw);
            let unit = self.unit_mut(id);
            if unit.credit < 0 {
                unit.credit = unit.credit.max(-most * MOST_DEBT);
                self.park_if_capped(id);
                self.set_class(id, Class::Over);
                if self.unit(id).is_parked {
                    match (self.unit(id).place, self.unit(id).cpu) {
                        (Place::Waits(..), _) => self.dequeue(id),
                        (Place::Runs, Some(cpu)) => kick.insert(cpu),
                        _ => {}
                    }
                }
                if self.debt_limit(id).is_some() {
                    continue;
                }
            } else if unit.class == Class::Over {
                self.set_class(id, Class::Under);
            }
            self.free(id, now, kick);
            let unit = self.unit_mut(id);
            unit.has_slept = !unit.is_awake;
            if unit.credit >= most && !unit.is_awake {
                let lost = unit.credit / 2;
                unit.credit -= lost;
                self.returned += lost as u64;
                self.deactivate(id);
            }
        }
    }

    /// A parked unit may run again.
    fn free(&mut self, id: UnitId, now: u64, kick: &mut CpuSet) {
        if !self.unit(id).is_parked {
            return;
        }
        self.unit_mut(id).is_parked = false;
        self.parked_count -= 1;
        if self.can_run(id) && self.unit(id).place == Place::Nowhere {
            self.place(id, now, kick);
        }
    }

    fn set_class(&mut self, id: UnitId, class: Class) {
        let unit = self.unit_mut(id);
        unit.class = class;
        match (unit.place, unit.cpu) {
            (Place::Waits(queued, _), Some(cpu)) if queued != class => {
                self.dequeue(id);
                self.enqueue(id, cpu);
            }
            (Place::Runs, Some(cpu)) => self.refresh(cpu),
            _ => {}
        }
    }
}
