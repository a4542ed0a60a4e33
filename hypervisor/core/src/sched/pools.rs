//! Pools of pCPUs, each with a policy of its own. A domain is in one pool; its vCPUs run on that pool's pCPUs only. A pCPU
//! that is in no pool idles.
//!
//! All pools are behind the scheduler's one lock: a decision is short, and moving a pCPU or a domain is then one step.

use alloc::boxed::Box;
use alloc::vec::Vec;

use xen_abi::control as abi;

use super::{
    Affinity, CpuSet, Credit, Credit2, Decision, DomainShare, MAX_CPUS, Null, Policy,
    PolicyParameters, UnitId,
};
use crate::addr::{CpuId, DomId};
use crate::errno::Errno;

/// The number of the pool that exists from the beginning.
pub const FIRST_POOL: u32 = 0;
/// How many pools there can be.
const MAX_POOLS: usize = 64;
/// In no pool.
const NOWHERE: u8 = u8::MAX;

/// The policy of a pool. In place, since a box cannot be made so that it can fail.
#[allow(clippy::large_enum_variant, reason = "a pool is seldom made")]
enum Made {
    Given(Box<dyn Policy>),
    Credit(Credit),
    Credit2(Credit2),
    Null(Null),
}

struct Pool {
    id: u32,
    made: Made,
    cpus: CpuSet,
}

impl Pool {
    #[inline]
    fn policy(&mut self) -> &mut dyn Policy {
        match &mut self.made {
            Made::Given(policy) => &mut **policy,
            Made::Credit(policy) => policy,
            Made::Credit2(policy) => policy,
            Made::Null(policy) => policy,
        }
    }

    fn policy_ref(&self) -> &dyn Policy {
        match &self.made {
            Made::Given(policy) => &**policy,
            Made::Credit(policy) => policy,
            Made::Credit2(policy) => policy,
            Made::Null(policy) => policy,
        }
    }
}

/// What a toolstack hears of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Its number.
    pub id: u32,
    /// Its policy: `XEN_SCHEDULER_*`.
    pub policy: u32,
    /// Its pCPUs.
    pub cpus: CpuSet,
    /// How many domains are in it.
    pub domains: u32,
}

/// The pools. Slots of pools do not move.
pub struct Pools {
    pools: Vec<Option<Pool>>,
    /// The slot of the pool that each pCPU is in.
    cpus: [u8; MAX_CPUS],
    /// The slot of the pool that each unit is in, by the unit's number.
    units: Vec<u8>,
    /// The domains, and the slot of each one's pool.
    domains: Vec<(DomId, u8)>,
    /// The pCPUs in no pool that were in one.
    free: CpuSet,
}

impl Pools {
    /// Makes the first pool of a policy, without pCPUs. Once, at boot.
    pub fn new(policy: Box<dyn Policy>) -> Self {
        Self {
            pools: alloc::vec![Some(Pool {
                id: FIRST_POOL,
                made: Made::Given(policy),
                cpus: CpuSet::EMPTY,
            })],
            cpus: [NOWHERE; MAX_CPUS],
            units: Vec::new(),
            domains: Vec::new(),
            free: CpuSet::EMPTY,
        }
    }

    fn at(&mut self, slot: u8) -> Option<&mut Pool> {
        self.pools.get_mut(usize::from(slot))?.as_mut()
    }

    #[inline]
    fn of_unit(&mut self, unit: UnitId) -> Option<&mut dyn Policy> {
        let slot = *self.units.get(unit.index())?;
        Some(self.at(slot)?.policy())
    }

    #[inline]
    fn of_cpu(&mut self, cpu: CpuId) -> Option<&mut dyn Policy> {
        let slot = *self.cpus.get(cpu.index())?;
        Some(self.at(slot)?.policy())
    }

    fn slot_of_domain(&self, domain: DomId) -> Option<u8> {
        self.domains
            .iter()
            .find(|(id, _)| *id == domain)
            .map(|(_, slot)| *slot)
    }

    fn slot_of_pool(&self, id: u32) -> Option<u8> {
        let is_it = |pool: &Option<Pool>| pool.as_ref().is_some_and(|pool| pool.id == id);
        // Fewer than 256 slots.
        self.pools.iter().position(is_it).map(|slot| slot as u8)
    }

    /// Returns the number of a domain's pool, or `None` for a domain that is not scheduled.
    pub fn pool_of(&self, domain: DomId) -> Option<u32> {
        let slot = self.slot_of_domain(domain)?;
        Some(self.pools.get(usize::from(slot))?.as_ref()?.id)
    }

    /// Returns the policy of a domain's pool.
    pub fn policy_of(&mut self, domain: DomId) -> Option<&mut dyn Policy> {
        let slot = self.slot_of_domain(domain)?;
        Some(self.at(slot)?.policy())
    }

    /// Returns the policy of a pool.
    pub fn policy(&mut self, pool: u32) -> Option<&mut dyn Policy> {
        let slot = self.slot_of_pool(pool)?;
        Some(self.at(slot)?.policy())
    }

    /// Returns the pCPUs of a domain's pool.
    pub fn cpus_of(&mut self, domain: DomId) -> CpuSet {
        self.slot_of_domain(domain)
            .and_then(|slot| self.at(slot))
            .map_or(CpuSet::EMPTY, |pool| pool.cpus)
    }

    /// Returns the pCPUs that are in no pool.
    pub fn free(&self) -> CpuSet {
        self.free
    }

    /// Tells about the pool with the lowest number from `id` on.
    pub fn info(&self, id: u32) -> Option<PoolInfo> {
        let (slot, pool) = self
            .pools
            .iter()
            .enumerate()
            .filter_map(|(slot, pool)| Some((slot, pool.as_ref()?)))
            .filter(|(_, pool)| pool.id >= id)
            .min_by_key(|(_, pool)| pool.id)?;
        let domains = self
            .domains
            .iter()
            .filter(|(_, at)| usize::from(*at) == slot);
        Some(PoolInfo {
            id: pool.id,
            policy: pool.policy_ref().id(),
            cpus: pool.cpus,
            domains: domains.count() as u32,
        })
    }

    /// Makes a pool without pCPUs: with the number `id`, or any. Returns its number.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT`: no such policy; `ENOMEM`, also for too many.
    pub fn create(&mut self, id: Option<u32>, policy: u32) -> Result<u32, Errno> {
        let id = match id {
            Some(id) if self.slot_of_pool(id).is_some() => return Err(Errno::Exist),
            Some(id) => id,
            None => (0..=MAX_POOLS as u32)
                .find(|id| self.slot_of_pool(*id).is_none())
                .ok_or(Errno::NoMem)?,
        };
        let made = match policy {
            abi::XEN_SCHEDULER_CREDIT => Made::Credit(Credit::default()),
            abi::XEN_SCHEDULER_CREDIT2 => Made::Credit2(Credit2::default()),
            abi::XEN_SCHEDULER_NULL => Made::Null(Null::default()),
            _ => return Err(Errno::NoEnt),
        };
        let pool = Pool {
            id,
            made,
            cpus: CpuSet::EMPTY,
        };
        if let Some(slot) = self.pools.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(pool);
            return Ok(id);
        }
        if self.pools.len() >= MAX_POOLS {
            return Err(Errno::NoMem);
        }
        self.pools.try_reserve(1).map_err(|_| Errno::NoMem)?;
        self.pools.push(Some(pool));
        Ok(id)
    }

    /// Ends a pool without pCPUs and domains.
    ///
    /// # Errors
    /// `ENOENT`, `EBUSY`.
    pub fn destroy(&mut self, id: u32) -> Result<(), Errno> {
        let slot = self.slot_of_pool(id).ok_or(Errno::NoEnt)?;
        let is_used = self.domains.iter().any(|(_, at)| *at == slot);
        if is_used || !self.at(slot).is_some_and(|pool| pool.cpus.is_empty()) {
            return Err(Errno::Busy);
        }
        if let Some(pool) = self.pools.get_mut(usize::from(slot)) {
            *pool = None;
        }
        Ok(())
    }

    /// Gives a pCPU to a pool: one that is in none, `None` for the lowest of those.
    ///
    /// # Errors
    /// `EINVAL`: there is no such pCPU; `EBUSY`: it is in a pool; `ENOENT`: no such pool; `ENOMEM`.
    pub fn assign(
        &mut self,
        pool: u32,
        cpu: Option<CpuId>,
        now: u64,
        kick: &mut CpuSet,
    ) -> Result<(), Errno> {
        let cpu = cpu.or(self.free.first()).ok_or(Errno::Inval)?;
        if !self.free.contains(cpu) {
            let is_used = self.cpus.get(cpu.index()).is_some_and(|at| *at != NOWHERE);
            return Err(if is_used { Errno::Busy } else { Errno::Inval });
        }
        let slot = self.slot_of_pool(pool).ok_or(Errno::NoEnt)?;
        let found = self.at(slot).ok_or(Errno::NoEnt)?;
        found.policy().add_cpu(cpu, now, kick)?;
        found.cpus.insert(cpu);
        self.free.remove(cpu);
        if let Some(at) = self.cpus.get_mut(cpu.index()) {
            *at = slot;
        }
        kick.insert(cpu);
        Ok(())
    }

    /// Takes a pCPU out of a pool: `None` for the highest.
    ///
    /// # Errors
    /// `ENOENT`: no such pool; `EINVAL`: it is not there; `EBUSY`: it is the last and there are domains.
    pub fn unassign(
        &mut self,
        pool: u32,
        cpu: Option<CpuId>,
        now: u64,
        kick: &mut CpuSet,
    ) -> Result<(), Errno> {
        let slot = self.slot_of_pool(pool).ok_or(Errno::NoEnt)?;
        let has_domains = self.domains.iter().any(|(_, at)| *at == slot);
        let found = self.at(slot).ok_or(Errno::NoEnt)?;
        let cpu = cpu.or(found.cpus.iter().last()).ok_or(Errno::Inval)?;
        if !found.cpus.contains(cpu) {
            return Err(Errno::Inval);
        }
        if has_domains && found.cpus.len() == 1 {
            return Err(Errno::Busy);
        }
        found.policy().remove_cpu(cpu, now, kick);
        found.cpus.remove(cpu);
        self.free.insert(cpu);
        if let Some(at) = self.cpus.get_mut(cpu.index()) {
            *at = NOWHERE;
        }
        // It leaves what it runs.
        kick.insert(cpu);
        Ok(())
    }

    /// Moves a pCPU of the first pool, which keeps one, to another.
    ///
    /// # Errors
    /// `EBUSY`: it is the first pool's last; `ENOENT`: no such pool; `EINVAL`: the first pool does not have it; `ENOMEM`. Then
    /// it is where it was.
    pub fn take_from_first(
        &mut self,
        cpu: CpuId,
        pool: u32,
        now: u64,
        kick: &mut CpuSet,
    ) -> Result<(), Errno> {
        self.slot_of_pool(pool).ok_or(Errno::NoEnt)?;
        if self
            .info(FIRST_POOL)
            .is_some_and(|first| first.cpus.len() == 1)
        {
            return Err(Errno::Busy);
        }
        self.unassign(FIRST_POOL, Some(cpu), now, kick)?;
        let assigned = self.assign(pool, Some(cpu), now, kick);
        if assigned.is_err() {
            // Where it was a moment ago there is room for it.
            self.assign(FIRST_POOL, Some(cpu), now, kick)?;
        }
        assigned
    }

    /// Moves a domain, whose units are those of `units` and all asleep and off their pCPUs, to a pool. They may run anywhere
    /// there.
    ///
    /// # Errors
    /// `ENOENT`: no such pool; `EBUSY`: it has no pCPUs; `ESRCH`: no such domain; `ENOMEM`. Then nothing changed.
    pub fn move_domain(
        &mut self,
        domain: DomId,
        units: &mut dyn Iterator<Item = UnitId>,
        to: u32,
        now: u64,
        kick: &mut CpuSet,
    ) -> Result<(), Errno> {
        let from_slot = self.slot_of_domain(domain).ok_or(Errno::Srch)?;
        let to_slot = self.slot_of_pool(to).ok_or(Errno::NoEnt)?;
        if from_slot == to_slot {
            return Ok(());
        }
        let target = self.at(to_slot).ok_or(Errno::NoEnt)?;
        if target.cpus.is_empty() {
            return Err(Errno::Busy);
        }
        target.policy().add_domain(domain)?;
        // In both until it is sure that all fit.
        let mut moved: Vec<UnitId> = Vec::new();
        let mut failed = None;
        for unit in units {
            let added = match moved.try_reserve(1) {
                Ok(()) => target
                    .policy()
                    .add_unit(unit, domain, Affinity::default(), now),
                Err(_) => Err(Errno::NoMem),
            };
            if let Err(error) = added {
                failed = Some(error);
                break;
            }
            moved.push(unit);
        }
        let (leave, slot) = if failed.is_some() {
            (to_slot, from_slot)
        } else {
            (from_slot, to_slot)
        };
        for &unit in &moved {
            if let Some(pool) = self.at(leave) {
                pool.policy().remove_unit(unit, now, kick);
            }
            if let Some(at) = self.units.get_mut(unit.index()) {
                *at = slot;
            }
        }
        if let Some(pool) = self.at(leave) {
            pool.policy().remove_domain(domain);
        }
        if let Some((_, at)) = self.domains.iter_mut().find(|(id, _)| *id == domain) {
            *at = slot;
        }
        failed.map_or(Ok(()), Err)
    }

    /// A pCPU comes into service: it is the first pool's.
    ///
    /// # Errors
    /// Those of the policy.
    pub fn add_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Result<(), Errno> {
        let pool = self.at(0).ok_or(Errno::NoEnt)?;
        pool.policy().add_cpu(cpu, now, kick)?;
        pool.cpus.insert(cpu);
        if let Some(at) = self.cpus.get_mut(cpu.index()) {
            *at = 0;
        }
        Ok(())
    }

    /// A pCPU goes out of service.
    pub fn remove_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        if let Some(at) = self.cpus.get_mut(cpu.index()) {
            let slot = core::mem::replace(at, NOWHERE);
            if let Some(pool) = self.at(slot) {
                pool.policy().remove_cpu(cpu, now, kick);
                pool.cpus.remove(cpu);
            }
        }
        self.free.remove(cpu);
    }

    /// A domain joins a pool.
    ///
    /// # Errors
    /// `ENOENT`: no such pool; those of the policy.
    pub fn add_domain(&mut self, domain: DomId, pool: u32) -> Result<(), Errno> {
        self.domains.try_reserve(1).map_err(|_| Errno::NoMem)?;
        let slot = self.slot_of_pool(pool).ok_or(Errno::NoEnt)?;
        self.at(slot)
            .ok_or(Errno::NoEnt)?
            .policy()
            .add_domain(domain)?;
        self.domains.push((domain, slot));
        Ok(())
    }

    /// A domain without units leaves.
    pub fn remove_domain(&mut self, domain: DomId) {
        if let Some(policy) = self.policy_of(domain) {
            policy.remove_domain(domain);
        }
        self.domains.retain(|(id, _)| *id != domain);
    }

    /// See [`Policy::add_unit`].
    ///
    /// # Errors
    /// As there.
    pub fn add_unit(
        &mut self,
        unit: UnitId,
        domain: DomId,
        affinity: Affinity,
        now: u64,
    ) -> Result<(), Errno> {
        let slot = self.slot_of_domain(domain).ok_or(Errno::NoEnt)?;
        let missing = (unit.index() + 1).saturating_sub(self.units.len());
        self.units.try_reserve(missing).map_err(|_| Errno::NoMem)?;
        for _ in 0..missing {
            self.units.push(NOWHERE);
        }
        let pool = self.at(slot).ok_or(Errno::NoEnt)?;
        pool.policy().add_unit(unit, domain, affinity, now)?;
        if let Some(at) = self.units.get_mut(unit.index()) {
            *at = slot;
        }
        Ok(())
    }

    /// See [`Policy::remove_unit`].
    pub fn remove_unit(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if let Some(policy) = self.of_unit(unit) {
            policy.remove_unit(unit, now, kick);
        }
        if let Some(at) = self.units.get_mut(unit.index()) {
            *at = NOWHERE;
        }
    }

    /// See [`Policy::set_affinity`].
    pub fn set_affinity(&mut self, unit: UnitId, affinity: Affinity, now: u64, kick: &mut CpuSet) {
        if let Some(policy) = self.of_unit(unit) {
            policy.set_affinity(unit, affinity, now, kick);
        }
    }

    /// See [`Policy::wake`].
    #[inline]
    pub fn wake(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if let Some(policy) = self.of_unit(unit) {
            policy.wake(unit, now, kick);
        }
    }

    /// See [`Policy::sleep`].
    #[inline]
    pub fn sleep(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if let Some(policy) = self.of_unit(unit) {
            policy.sleep(unit, now, kick);
        }
    }

    /// See [`Policy::turn_off`].
    pub fn turn_off(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        if let Some(policy) = self.of_unit(unit) {
            policy.turn_off(unit, now, kick);
        }
    }

    /// See [`Policy::yield_unit`].
    #[inline]
    pub fn yield_unit(&mut self, unit: UnitId) {
        if let Some(policy) = self.of_unit(unit) {
            policy.yield_unit(unit);
        }
    }

    /// See [`Policy::schedule`].
    #[inline]
    pub fn schedule(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Decision {
        match self.of_cpu(cpu) {
            Some(policy) => policy.schedule(cpu, now, kick),
            None => Decision {
                unit: None,
                until: u64::MAX,
            },
        }
    }

    /// See [`Policy::next_timer`].
    #[inline]
    pub fn next_timer(&mut self, cpu: CpuId) -> u64 {
        self.of_cpu(cpu)
            .map_or(u64::MAX, |policy| policy.next_timer(cpu))
    }

    /// See [`Policy::timer`].
    pub fn timer(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) {
        if let Some(policy) = self.of_cpu(cpu) {
            policy.timer(cpu, now, kick);
        }
    }

    /// Returns the share of a domain in its pool.
    pub fn share(&mut self, domain: DomId) -> Option<DomainShare> {
        self.policy_of(domain)?.share(domain)
    }

    /// Returns the parameters of a pool's policy.
    pub fn parameters(&mut self, pool: u32) -> Option<PolicyParameters> {
        Some(self.policy(pool)?.parameters())
    }

    /// Writes the run queues of all pools for the debug key `r`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        for pool in self.pools.iter().flatten() {
            if self.pools.len() > 1 {
                writeln!(out, "Cpupool {}:", pool.id)?;
            }
            write!(out, "Cpus:")?;
            for cpu in pool.cpus.iter() {
                write!(out, " {}", cpu.index())?;
            }
            writeln!(out)?;
            let policy = pool.policy_ref();
            writeln!(out, "Scheduler: {} ({})", policy.name(), policy.id())?;
            policy.dump(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
