//! The `null` policy (id 9): each unit has a pCPU for itself, for the lowest latency.
//!
//! A unit gets a free pCPU when it first wakes and keeps it, asleep or awake, until its vCPU is turned off, it leaves the
//! pool or its affinity forbids the pCPU. Units beyond the number of pCPUs wait, first come first served, and do not run. There are no slices,
//! no timers, no weights and no parameters. A decision takes constant time; only a change of the pool, of an affinity or a
//! unit that leaves searches the units.

use alloc::vec::Vec;
use core::fmt::Write;

use super::{Affinity, CpuSet, Decision, DomainShare, MAX_CPUS, Policy, PolicyParameters, UnitId};
use crate::addr::{CpuId, DomId};
use crate::errno::Errno;

/// XEN_SCHEDULER_NULL.
const SCHEDULER_ID: u32 = 9;

/// A pCPU.
#[derive(Clone, Copy, Default)]
struct Cpu {
    /// Whose pCPU this is.
    owner: Option<UnitId>,
    /// What runs here: the owner, or the one before until this pCPU schedules again.
    running: Option<UnitId>,
}

/// A unit.
struct Unit {
    domain: DomId,
    affinity: Affinity,
    is_awake: bool,
    /// The pCPU that is its own.
    home: Option<CpuId>,
    /// The pCPU that it runs on.
    runs_on: Option<CpuId>,
    /// Its number in the order of those that wait for a pCPU; `None` before it first woke, and while it is off.
    turn: Option<u64>,
}

/// The policy.
#[derive(Default)]
pub struct Null {
    cpus: Vec<Cpu>,
    online: CpuSet,
    /// Those of `online` without an owner.
    free: CpuSet,
    units: Vec<Option<Unit>>,
    domains: Vec<DomId>,
    next_turn: u64,
}

impl Null {
    fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(id.index())?.as_ref()
    }

    fn unit_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.units.get_mut(id.index())?.as_mut()
    }

    /// Returns where a unit may run: its hard affinity, or anywhere if no pCPU of that is in the pool.
    fn may_run(&self, affinity: &Affinity) -> CpuSet {
        let hard = affinity.hard.and(&self.online);
        if hard.is_empty() { self.online } else { hard }
    }

    /// Gives a free pCPU to a unit without one, if any suits it.
    fn assign(&mut self, id: UnitId, kick: &mut CpuSet) {
        let Some(unit) = self.unit(id) else { return };
        if unit.home.is_some() || unit.turn.is_none() {
            return;
        }
        let suits = self.may_run(&unit.affinity).and(&self.free);
        let Some(cpu) = suits.and(&unit.affinity.soft).first().or(suits.first()) else {
            return;
        };
        if let Some(unit) = self.unit_mut(id) {
            unit.home = Some(cpu);
        }
        if let Some(slot) = self.cpus.get_mut(cpu.index()) {
            slot.owner = Some(id);
        }
        self.free.remove(cpu);
        kick.insert(cpu);
    }

    /// Takes a unit's pCPU away.
    fn release(&mut self, id: UnitId) {
        let Some(cpu) = self.unit_mut(id).and_then(|unit| unit.home.take()) else {
            return;
        };
        if let Some(slot) = self.cpus.get_mut(cpu.index()) {
            slot.owner = None;
        }
        if self.online.contains(cpu) {
            self.free.insert(cpu);
        }
    }

    /// Gives free pCPUs to the units that wait for one, in their order.
    fn assign_all(&mut self, kick: &mut CpuSet) {
        let mut after = None;
        while !self.free.is_empty() {
            let waiting = self.units.iter().enumerate().filter_map(|(index, unit)| {
                let unit = unit.as_ref().filter(|unit| unit.home.is_none())?;
                let turn = unit.turn.filter(|turn| Some(*turn) > after)?;
                Some((turn, index))
            });
            let Some((turn, index)) = waiting.min() else {
                return;
            };
            after = Some(turn);
            self.assign(UnitId::new(index as u16), kick);
        }
    }

    /// Moves units away from pCPUs that their affinity forbids, after the pool changed.
    fn check_homes(&mut self, kick: &mut CpuSet) {
        for index in 0..self.units.len() {
            let id = UnitId::new(index as u16);
            let Some(unit) = self.unit(id) else { continue };
            let Some(home) = unit.home else { continue };
            if !self.may_run(&unit.affinity).contains(home) {
                self.release(id);
                kick.insert(home);
            }
        }
        self.assign_all(kick);
    }

    /// The unit does not run any more; its own pCPU may be waiting for that.
    fn stop(&mut self, id: UnitId, kick: &mut CpuSet) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        let Some(cpu) = unit.runs_on.take() else {
            return;
        };
        if let Some(home) = unit.home.filter(|home| *home != cpu && unit.is_awake) {
            kick.insert(home);
        }
        if let Some(slot) = self.cpus.get_mut(cpu.index()) {
            slot.running = None;
        }
    }
}

impl Policy for Null {
    fn id(&self) -> u32 {
        SCHEDULER_ID
    }

    fn name(&self) -> &'static str {
        "null"
    }

    fn description(&self) -> &'static str {
        "null Scheduler"
    }

    fn add_cpu(&mut self, cpu: CpuId, _now: u64, kick: &mut CpuSet) -> Result<(), Errno> {
        if cpu.index() >= MAX_CPUS {
            return Err(Errno::Inval);
        }
        if self.online.contains(cpu) {
            return Err(Errno::Exist);
        }
        let missing = (cpu.index() + 1).saturating_sub(self.cpus.len());
        self.cpus.try_reserve(missing).map_err(|_| Errno::NoMem)?;
        self.cpus.resize(self.cpus.len() + missing, Cpu::default());
        self.online.insert(cpu);
        self.free.insert(cpu);
        self.check_homes(kick);
        Ok(())
    }

    fn remove_cpu(&mut self, cpu: CpuId, _now: u64, kick: &mut CpuSet) {
        if !self.online.contains(cpu) {
            return;
        }
        self.online.remove(cpu);
        self.free.remove(cpu);
        if let Some(&Cpu { owner, running }) = self.cpus.get(cpu.index()) {
            if let Some(id) = owner {
                self.release(id);
            }
            if let Some(id) = running {
                self.stop(id, kick);
            }
        }
        self.check_homes(kick);
        kick.remove(cpu);
    }

    fn add_domain(&mut self, domain: DomId) -> Result<(), Errno> {
        if self.domains.contains(&domain) {
            return Err(Errno::Exist);
        }
        self.domains.try_reserve(1).map_err(|_| Errno::NoMem)?;
        self.domains.push(domain);
        Ok(())
    }

    fn remove_domain(&mut self, domain: DomId) {
        self.domains.retain(|known| *known != domain);
    }

    fn add_unit(
        &mut self,
        unit: UnitId,
        domain: DomId,
        affinity: Affinity,
        _now: u64,
    ) -> Result<(), Errno> {
        if !self.domains.contains(&domain) {
            return Err(Errno::NoEnt);
        }
        if self.unit(unit).is_some() {
            return Err(Errno::Exist);
        }
        let missing = (unit.index() + 1).saturating_sub(self.units.len());
        self.units.try_reserve(missing).map_err(|_| Errno::NoMem)?;
        self.units.resize_with(self.units.len() + missing, || None);
        if let Some(slot) = self.units.get_mut(unit.index()) {
            *slot = Some(Unit {
                domain,
                affinity,
                is_awake: false,
                home: None,
                runs_on: None,
                turn: None,
            });
        }
        Ok(())
    }

    fn remove_unit(&mut self, unit: UnitId, _now: u64, kick: &mut CpuSet) {
        self.stop(unit, kick);
        self.release(unit);
        if let Some(slot) = self.units.get_mut(unit.index()) {
            *slot = None;
        }
        self.assign_all(kick);
    }

    fn set_affinity(&mut self, unit: UnitId, affinity: Affinity, _now: u64, kick: &mut CpuSet) {
        let allowed = self.may_run(&affinity);
        let Some(slot) = self.unit_mut(unit) else {
            return;
        };
        slot.affinity = affinity;
        let home = slot.home;
        if let Some(home) = home.filter(|home| !allowed.contains(*home)) {
            self.release(unit);
            kick.insert(home);
            // It moves to a free pCPU before others take its old one.
            self.assign(unit, kick);
        }
        self.assign_all(kick);
    }

    fn wake(&mut self, unit: UnitId, _now: u64, kick: &mut CpuSet) {
        let turn = self.next_turn;
        let Some(slot) = self.unit_mut(unit) else {
            return;
        };
        if slot.is_awake {
            return;
        }
        slot.is_awake = true;
        if let Some(home) = slot.home {
            kick.insert(home);
            return;
        }
        if slot.turn.is_none() {
            slot.turn = Some(turn);
            self.next_turn += 1;
        }
        self.assign(unit, kick);
    }

    fn sleep(&mut self, unit: UnitId, _now: u64, kick: &mut CpuSet) {
        let Some(slot) = self.unit_mut(unit) else {
            return;
        };
        slot.is_awake = false;
        if let Some(cpu) = slot.runs_on {
            kick.insert(cpu);
            self.stop(unit, kick);
        }
    }

    fn turn_off(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        self.sleep(unit, now, kick);
        let Some(slot) = self.unit_mut(unit) else {
            return;
        };
        slot.turn = None;
        self.release(unit);
        self.assign_all(kick);
    }

    fn yield_unit(&mut self, _unit: UnitId) {}

    fn schedule(&mut self, cpu: CpuId, _now: u64, kick: &mut CpuSet) -> Decision {
        let mut decision = Decision {
            unit: None,
            until: u64::MAX,
        };
        kick.remove(cpu);
        let Some(&Cpu { owner, running }) = self.cpus.get(cpu.index()) else {
            return decision;
        };
        if let Some(id) = running.filter(|id| owner != Some(*id)) {
            self.stop(id, kick);
        }
        let Some(id) = owner else { return decision };
        let Some(unit) = self.unit_mut(id) else {
            return decision;
        };
        // The pCPU that it is leaving tells this one when it has left.
        if unit.is_awake && unit.runs_on.is_none_or(|from| from == cpu) {
            unit.runs_on = Some(cpu);
            decision.unit = Some(id);
            if let Some(slot) = self.cpus.get_mut(cpu.index()) {
                slot.running = Some(id);
            }
        }
        decision
    }

    fn next_timer(&self, _cpu: CpuId) -> u64 {
        u64::MAX
    }

    fn timer(&mut self, _cpu: CpuId, _now: u64, _kick: &mut CpuSet) {}

    fn share(&self, _domain: DomId) -> Option<DomainShare> {
        None
    }

    fn set_share(&mut self, domain: DomId, _share: DomainShare) -> Result<(), Errno> {
        Err(if self.domains.contains(&domain) {
            Errno::OpNotSupp
        } else {
            Errno::NoEnt
        })
    }

    fn parameters(&self) -> PolicyParameters {
        PolicyParameters {
            timeslice_ms: 0,
            ratelimit_us: 0,
            migration_delay_us: 0,
        }
    }

    fn set_parameters(&mut self, _parameters: PolicyParameters) -> Result<(), Errno> {
        Err(Errno::OpNotSupp)
    }

    fn dump(&self, out: &mut dyn Write) -> core::fmt::Result {
        for cpu in self.online.iter() {
            write!(out, "pcpu {}: ", cpu.index())?;
            match self.cpus.get(cpu.index()).and_then(|cpu| cpu.owner) {
                Some(id) => self.dump_unit(id, out)?,
                None => writeln!(out, "free")?,
            }
        }
        for (index, unit) in self.units.iter().enumerate() {
            if unit
                .as_ref()
                .is_some_and(|unit| unit.home.is_none() && unit.is_awake)
            {
                write!(out, "no pcpu: ")?;
                self.dump_unit(UnitId::new(index as u16), out)?;
            }
        }
        Ok(())
    }
}

impl Null {
    fn dump_unit(&self, id: UnitId, out: &mut dyn Write) -> core::fmt::Result {
        let Some(unit) = self.unit(id) else {
            return Ok(());
        };
        let state = match (unit.is_awake, unit.runs_on) {
            (_, Some(_)) => "runs",
            (true, None) => "waits",
            (false, None) => "sleeps",
        };
        writeln!(out, "{} unit {} {state}", unit.domain, id.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(number: u16) -> CpuId {
        CpuId::new(number)
    }

    fn unit(number: u16) -> UnitId {
        UnitId::new(number)
    }

    fn on(cpus: &[u16]) -> Affinity {
        let mut hard = CpuSet::EMPTY;
        cpus.iter().for_each(|&number| hard.insert(cpu(number)));
        Affinity {
            hard,
            soft: CpuSet::ALL,
        }
    }

    /// pCPUs, and units of one domain that were just woken.
    fn machine(cpus: u16, units: &[Affinity]) -> (Null, CpuSet) {
        let mut null = Null::default();
        for number in 0..cpus {
            null.add_cpu(cpu(number), 0, &mut CpuSet::default())
                .unwrap();
        }
        null.add_domain(DomId::DOM0).unwrap();
        let mut kick = CpuSet::EMPTY;
        for (number, affinity) in (0..).zip(units) {
            null.add_unit(unit(number), DomId::DOM0, *affinity, 0)
                .unwrap();
            null.wake(unit(number), 0, &mut kick);
        }
        (null, kick)
    }

    fn runs(null: &mut Null, number: u16) -> Option<u16> {
        let decision = null.schedule(cpu(number), 0, &mut CpuSet::default());
        assert_eq!(decision.until, u64::MAX);
        decision.unit.map(UnitId::raw)
    }

    #[test]
    fn a_unit_keeps_its_own_pcpu() {
        let (mut null, kick) = machine(3, &[Affinity::default(); 2]);
        assert_eq!(kick.len(), 2);
        let homes = [0, 1, 2].map(|number| runs(&mut null, number));
        assert_eq!(homes, [Some(0), Some(1), None]);
        let mut kick = CpuSet::EMPTY;
        null.sleep(unit(1), 0, &mut kick);
        assert_eq!(kick, CpuSet::single(cpu(1)));
        assert_eq!(runs(&mut null, 1), None);
        // Its pCPU stays its own while it sleeps: a third unit gets the free one.
        null.add_unit(unit(7), DomId::DOM0, on(&[1, 2]), 0).unwrap();
        let mut kick = CpuSet::EMPTY;
        null.wake(unit(7), 0, &mut kick);
        null.wake(unit(1), 0, &mut kick);
        assert_eq!(kick.len(), 2);
        assert_eq!(runs(&mut null, 1), Some(1));
        assert_eq!(runs(&mut null, 2), Some(7));
    }

    #[test]
    fn units_beyond_the_pcpus_wait_in_their_order() {
        let (mut null, _) = machine(1, &[Affinity::default(); 3]);
        assert_eq!(runs(&mut null, 0), Some(0));
        null.sleep(unit(0), 0, &mut CpuSet::default());
        assert_eq!(runs(&mut null, 0), None, "pCPU 0 is not lent");
        let mut kick = CpuSet::EMPTY;
        null.remove_unit(unit(0), 0, &mut kick);
        assert_eq!(kick, CpuSet::single(cpu(0)), "it has a new owner");
        assert_eq!(runs(&mut null, 0), Some(1));
        null.sleep(unit(1), 0, &mut CpuSet::default());
        null.add_cpu(cpu(1), 0, &mut CpuSet::default()).unwrap();
        assert_eq!(runs(&mut null, 1), Some(2));
    }

    #[test]
    fn a_vcpu_that_is_turned_off_gives_its_pcpu_to_who_waits() {
        let (mut null, _) = machine(1, &[Affinity::default(); 2]);
        assert_eq!(runs(&mut null, 0), Some(0));
        let mut kick = CpuSet::EMPTY;
        null.turn_off(unit(0), 0, &mut kick);
        assert_eq!(kick, CpuSet::single(cpu(0)));
        assert_eq!(runs(&mut null, 0), Some(1));
        // Turned on again, it waits behind the other.
        null.wake(unit(0), 0, &mut CpuSet::default());
        assert_eq!(runs(&mut null, 0), Some(1));
        null.turn_off(unit(1), 0, &mut CpuSet::default());
        assert_eq!(runs(&mut null, 0), Some(0));
    }

    #[test]
    fn a_change_of_affinity_moves_the_unit_once_its_pcpu_left_it() {
        let (mut null, _) = machine(2, &[on(&[0])]);
        assert_eq!(runs(&mut null, 0), Some(0));
        let mut kick = CpuSet::EMPTY;
        null.set_affinity(unit(0), on(&[1]), 0, &mut kick);
        assert_eq!(kick.len(), 2);
        assert_eq!(runs(&mut null, 1), None, "it still runs on pCPU 0");
        let mut kick = CpuSet::EMPTY;
        assert_eq!(null.schedule(cpu(0), 0, &mut kick).unit, None);
        assert_eq!(kick, CpuSet::single(cpu(1)));
        assert_eq!(runs(&mut null, 1), Some(0));
    }

    #[test]
    fn pcpus_come_and_go() {
        let (mut null, _) = machine(2, &[on(&[1]), on(&[5])]);
        assert_eq!(runs(&mut null, 1), Some(0));
        // No pCPU of its affinity is there, so it may run anywhere, until one is.
        assert_eq!(runs(&mut null, 0), Some(1));
        let mut kick = CpuSet::EMPTY;
        null.add_cpu(cpu(5), 0, &mut kick).unwrap();
        assert!(kick.contains(cpu(0)), "its unit has to move");
        assert_eq!(runs(&mut null, 5), None);
        assert_eq!(runs(&mut null, 0), None);
        assert_eq!(runs(&mut null, 5), Some(1));
        let mut kick = CpuSet::EMPTY;
        null.remove_cpu(cpu(1), 0, &mut kick);
        assert_eq!(kick, CpuSet::single(cpu(0)));
        assert_eq!(runs(&mut null, 0), Some(0));
        assert_eq!(runs(&mut null, 1), None);
    }

    #[test]
    fn errors_are_those_of_the_contract() {
        let (mut null, _) = machine(1, &[Affinity::default()]);
        let any = Affinity::default();
        assert_eq!(
            null.add_cpu(cpu(0), 0, &mut CpuSet::default()),
            Err(Errno::Exist)
        );
        assert_eq!(
            null.add_cpu(cpu(128), 0, &mut CpuSet::default()),
            Err(Errno::Inval)
        );
        assert_eq!(null.add_domain(DomId::DOM0), Err(Errno::Exist));
        let add = null.add_unit(unit(0), DomId::DOM0, any, 0);
        assert_eq!(add, Err(Errno::Exist));
        let add = null.add_unit(unit(1), DomId::new(1), any, 0);
        assert_eq!(add, Err(Errno::NoEnt));
        let add = fail_alloc::after(0, || null.add_unit(unit(999), DomId::DOM0, any, 0));
        assert_eq!(add, Err(Errno::NoMem));
        let share = DomainShare {
            weight: 256,
            cap: 0,
        };
        assert_eq!(null.set_share(DomId::DOM0, share), Err(Errno::OpNotSupp));
        assert_eq!(null.set_share(DomId::new(1), share), Err(Errno::NoEnt));
        let parameters = PolicyParameters::default();
        assert_eq!(null.set_parameters(parameters), Err(Errno::OpNotSupp));
        let mut text = std::string::String::new();
        null.dump(&mut text).unwrap();
        assert_eq!(text, "pcpu 0: d0 unit 0 waits\n");
    }
}
