//! A policy at work: its lock, the pCPUs that it has to tell, and the table that says which vCPU a unit is.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Affinity, CpuSet, Decision, Policy, Pools, UnitId};
use crate::addr::{CpuId, DomId, VcpuId};
use crate::domain::{Domain, Vcpu};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::sync::{Once, SpinLock};
use crate::time::TickScale;

/// The other pCPUs, as the scheduler sees them.
pub trait Kicker: Send + Sync {
    /// Makes each of these pCPUs call [`Scheduler::schedule`] soon.
    fn reschedule(&self, cpus: &CpuSet);
    /// Makes a pCPU that runs a guest look at what waits for it.
    fn look(&self, cpu: CpuId);
    /// Returns the counter, in ticks.
    fn ticks(&self) -> u64;
    /// A vCPU's wait ended: for the trace.
    fn note_wake(&self, _domain: DomId, _vcpu: VcpuId) {}
}

/// What a pCPU is to do, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What it runs; `None` to idle.
    pub unit: Option<UnitId>,
    /// When it asks again; `u64::MAX` for never.
    pub until: u64,
    /// When it calls [`Scheduler::timer`]; `u64::MAX` for never.
    pub timer: u64,
}

/// The policies behind their lock (a leaf but for heap and console: see [`crate::sync`]).
pub struct Scheduler {
    pools: SpinLock<Pools>,
    kicker: Box<dyn Kicker>,
    scale: TickScale,
    boot_ticks: u64,
}

impl Scheduler {
    /// Puts a policy to work, that of the first pool. It has no pCPUs yet.
    pub fn new(
        policy: Box<dyn Policy>,
        kicker: Box<dyn Kicker>,
        scale: TickScale,
        boot_ticks: u64,
    ) -> Self {
        Self {
            pools: SpinLock::new(Pools::new(policy)),
            kicker,
            scale,
            boot_ticks,
        }
    }

    /// Returns the pCPUs.
    pub fn kicker(&self) -> &dyn Kicker {
        &*self.kicker
    }

    fn now(&self) -> u64 {
        let ticks = self.kicker.ticks();
        self.scale.to_ns(ticks.saturating_sub(self.boot_ticks))
    }

    fn to_ticks(&self, ns: u64) -> u64 {
        if ns == u64::MAX {
            return u64::MAX;
        }
        self.scale.to_ticks(ns).saturating_add(self.boot_ticks)
    }

    /// Runs `f` on the pools with the time, then tells the pCPUs that have to schedule.
    pub fn with<R>(&self, f: impl FnOnce(&mut Pools, u64, &mut CpuSet) -> R) -> R {
        let mut kick = CpuSet::EMPTY;
        let result = f(&mut self.pools.lock(), self.now(), &mut kick);
        if !kick.is_empty() {
            self.kicker.reschedule(&kick);
        }
        result
    }

    /// Tells the policy whether a vCPU can run. Whoever changes that calls this afterwards; the last caller finds it as it
    /// is, so a wake-up that crosses a wait is not lost.
    pub fn settle<H: Hal>(&self, vcpu: &Vcpu<H>) {
        let Some(unit) = vcpu.unit() else { return };
        self.with(|policy, now, kick| {
            if vcpu.is_runnable() {
                policy.wake(unit, now, kick);
            } else if vcpu.is_offline.load(Ordering::Acquire) {
                policy.turn_off(unit, now, kick);
            } else {
                policy.sleep(unit, now, kick);
            }
        });
    }

    /// Chooses what `cpu` runs from now on.
    pub fn schedule(&self, cpu: CpuId) -> Plan {
        let (Decision { unit, until }, timer) = self.with(|policy, now, kick| {
            let decision = policy.schedule(cpu, now, kick);
            (decision, policy.next_timer(cpu))
        });
        Plan {
            unit,
            until: self.to_ticks(until),
            timer: self.to_ticks(timer),
        }
    }

    /// Does the policy's periodic work of `cpu`; returns when it is due again, in ticks.
    pub fn timer(&self, cpu: CpuId) -> u64 {
        let next = self.with(|policy, now, kick| {
            policy.timer(cpu, now, kick);
            policy.next_timer(cpu)
        });
        self.to_ticks(next)
    }
}

/// Units in a piece of the table.
const CHUNK: usize = 64;
/// Pieces of the table.
const CHUNKS: usize = 64;

type Slot<H> = SpinLock<Option<(Arc<Domain<H>>, VcpuId)>>;

/// Which vCPU a unit is. Looking one up locks its slot only.
pub struct UnitTable<H: Hal> {
    chunks: [Once<Box<[Slot<H>]>>; CHUNKS],
}

impl<H: Hal> Default for UnitTable<H> {
    fn default() -> Self {
        Self {
            chunks: [const { Once::new() }; CHUNKS],
        }
    }
}

impl<H: Hal> UnitTable<H> {
    fn slot(&self, unit: UnitId) -> Option<&Slot<H>> {
        let chunk = self.chunks.get(unit.index() / CHUNK)?.get()?;
        chunk.get(unit.index() % CHUNK)
    }

    /// Returns the vCPU behind a unit.
    pub fn get(&self, unit: UnitId) -> Option<(Arc<Domain<H>>, VcpuId)> {
        self.slot(unit)?.lock().clone()
    }

    /// Gives a vCPU a number.
    ///
    /// # Errors
    /// `ENOMEM`; `ENOSPC` when all numbers are taken.
    fn insert(&self, domain: &Arc<Domain<H>>, vcpu: VcpuId) -> Result<UnitId, Errno> {
        for (chunk, base) in self.chunks.iter().zip((0..).step_by(CHUNK)) {
            let slots = chunk.try_call_once(|| {
                let mut slots = Vec::new();
                slots.try_reserve_exact(CHUNK).map_err(|_| Errno::NoMem)?;
                slots.resize_with(CHUNK, || SpinLock::new(None));
                Ok::<_, Errno>(slots.into_boxed_slice())
            })?;
            for (slot, id) in slots.iter().zip(base..) {
                let mut slot = slot.lock();
                if slot.is_none() {
                    *slot = Some((domain.clone(), vcpu));
                    return Ok(UnitId::new(id));
                }
            }
        }
        Err(Errno::NoSpc)
    }

    /// Gives every vCPU of a domain a number and tells the policy of a pool of them, asleep. `affinity` says where each may
    /// run.
    ///
    /// # Errors
    /// Those of the policy; `ENOMEM`. Nothing stays behind.
    pub fn add_domain(
        &self,
        scheduler: &Scheduler,
        domain: &Arc<Domain<H>>,
        pool: u32,
        affinity: impl Fn(VcpuId) -> Affinity,
    ) -> Result<(), Errno> {
        let id = domain.facts.id;
        scheduler.with(|policy, _, _| policy.add_domain(id, pool))?;
        for vcpu in &domain.vcpus {
            *vcpu.affinity.lock() = affinity(vcpu.id);
            let added = self.insert(domain, vcpu.id).and_then(|unit| {
                vcpu.set_unit(Some(unit));
                scheduler
                    .with(|policy, now, _| policy.add_unit(unit, id, affinity(vcpu.id), now))
                    .inspect_err(|_| {
                        self.forget(unit);
                        vcpu.set_unit(None);
                    })
            });
            if let Err(error) = added {
                self.remove_domain(scheduler, domain);
                return Err(error);
            }
        }
        Ok(())
    }

    fn forget(&self, unit: UnitId) {
        // The domain may be dropped with its last reference: outside of the lock.
        let gone = self.slot(unit).and_then(|slot| slot.lock().take());
        drop(gone);
    }

    /// Takes a domain's vCPUs, which do not run and are not runnable, out again.
    pub fn remove_domain(&self, scheduler: &Scheduler, domain: &Arc<Domain<H>>) {
        let id: DomId = domain.facts.id;
        for vcpu in &domain.vcpus {
            if let Some(unit) = vcpu.unit() {
                scheduler.with(|policy, now, kick| policy.remove_unit(unit, now, kick));
                vcpu.set_unit(None);
                self.forget(unit);
            }
        }
        scheduler.with(|policy, _, _| policy.remove_domain(id));
    }
}
