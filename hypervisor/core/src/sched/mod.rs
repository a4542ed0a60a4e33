//! Who runs next: the contract between the run loop and a scheduling policy.
//!
//! A policy knows units (a vCPU is one), domains and pCPUs by number, and time in nanoseconds since boot. It knows no
//! hardware, sends no interrupt and takes no lock: its owner ([`Scheduler`], for all pools) holds one lock around every call, acts on the
//! [`CpuSet`] of pCPUs that the call adds to, and never calls it with another lock held that ranks further right
//! ([`crate::sync`]). The same code runs under the discrete-event simulator of the host tests.
//!
//! How the run loop uses it, on pCPU `cpu`:
//! - something made a unit runnable: [`Policy::wake`]; every pCPU in `kick` (perhaps `cpu` itself) calls `schedule` soon;
//! - a unit stopped being runnable: [`Policy::sleep`] (it blocked, was paused) or [`Policy::turn_off`]; if it was running,
//!   its pCPU calls `schedule` soon;
//! - [`Policy::schedule`] chooses; until it is called again on this pCPU, or the unit sleeps, that unit is running there;
//! - at [`Policy::next_timer`] the pCPU calls [`Policy::timer`].
//!
//! A unit runs on one pCPU at a time. The context of a unit that one pCPU leaves may still be being saved when another
//! pCPU is told to run it: the other waits for the context's lock, which is short, and asks for it where the first one idles
//! with the vCPU still loaded.

mod credit;
mod credit2;
mod null;
mod pools;
mod scheduler;
mod timers;

use alloc::boxed::Box;

use crate::addr::{CpuId, DomId};
use crate::errno::Errno;

pub use credit::Credit;
pub use credit2::Credit2;
pub use null::Null;
pub use pools::{FIRST_POOL, PoolInfo, Pools};
pub use scheduler::{Kicker, Plan, Scheduler, UnitTable};
pub use timers::TimerQueue;

/// Number of pCPUs that a [`CpuSet`] can hold.
pub const MAX_CPUS: usize = 128;

/// A set of pCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No pCPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);
    /// Every pCPU, present or not: an affinity that says nothing.
    pub const ALL: Self = Self([u64::MAX; MAX_CPUS / 64]);

    /// Returns the set of one pCPU.
    pub fn single(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }

    /// Adds a pCPU; a number beyond [`MAX_CPUS`] is ignored.
    pub fn insert(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word |= 1 << (cpu.index() % 64);
        }
    }

    /// Removes a pCPU.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word &= !(1 << (cpu.index() % 64));
        }
    }

    /// Returns whether the pCPU is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0
            .get(cpu.index() / 64)
            .is_some_and(|word| word & (1 << (cpu.index() % 64)) != 0)
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_CPUS / 64]
    }

    /// Returns how many pCPUs are in the set.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Returns the pCPUs in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Returns the pCPUs in either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Returns the pCPUs of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Returns the lowest pCPU of the set.
    pub fn first(&self) -> Option<CpuId> {
        self.iter().next()
    }

    /// Returns the pCPUs in rising order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + use<> {
        let mut words = self.0;
        core::iter::from_fn(move || {
            let (i, word) = words.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
            let bit = word.trailing_zeros();
            *word &= *word - 1;
            Some(CpuId::new((i * 64) as u16 + bit as u16))
        })
    }
}

/// A schedulable unit: one vCPU, by its number in the machine-wide table of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(u16);

impl UnitId {
    /// Wraps a raw number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// Returns the raw number.
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// Returns the number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a unit may and would like to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// pCPUs outside of this set never run the unit (as far as any of them is in the pool).
    pub hard: CpuSet,
    /// pCPUs that are preferred.
    pub soft: CpuSet,
}

impl Default for Affinity {
    fn default() -> Self {
        Self {
            hard: CpuSet::ALL,
            soft: CpuSet::ALL,
        }
    }
}

/// What a pCPU runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The unit, or `None` to idle.
    pub unit: Option<UnitId>,
    /// When the pCPU asks again at the latest, in nanoseconds; `u64::MAX` for never.
    pub until: u64,
}

/// Weight and cap of a domain (xen_domctl_sched_credit, _credit2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainShare {
    /// Share of the machine in relation to others (1–65535).
    pub weight: u16,
    /// Most that it may use, in percent of one pCPU; 0 for no limit.
    pub cap: u16,
}

/// Parameters of a policy as a whole, in the units of the public interface. A policy uses those that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyParameters {
    /// Time slice in milliseconds (credit: 1–1000).
    pub timeslice_ms: u32,
    /// A unit that has run less than this is not preempted, in microseconds (0: off; else 100–500000).
    pub ratelimit_us: u32,
    /// A unit that ran more recently than this is not migrated, in microseconds (credit: 0–100000).
    pub migration_delay_us: u32,
}

impl Default for PolicyParameters {
    fn default() -> Self {
        Self {
            timeslice_ms: 30,
            ratelimit_us: 1000,
            migration_delay_us: 0,
        }
    }
}

/// A scheduling policy. All times are nanoseconds since boot and never run backwards on one pCPU; between pCPUs they may
/// differ by a little.
pub trait Policy: Send {
    /// Returns the id of the public interface (XEN_SCHEDULER_*): credit 5, credit2 6, null 9.
    fn id(&self) -> u32;
    /// Returns what `xl info` and the boot messages call it.
    fn description(&self) -> &'static str;
    /// Returns the name that the command line and `xl` use: "credit", "credit2", "null".
    fn name(&self) -> &'static str;

    /// A pCPU joins. Others may have to leave units to it; it schedules by itself.
    ///
    /// # Errors
    /// `ENOMEM`; `EEXIST`; `EINVAL` for a number that is too large.
    fn add_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Result<(), Errno>;
    /// A pCPU leaves: what waits there moves on, and so does what runs there, which another pCPU may be told to run before
    /// this one has left it.
    fn remove_cpu(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet);

    /// A domain joins with the default share.
    ///
    /// # Errors
    /// `ENOMEM`; `EEXIST`.
    fn add_domain(&mut self, domain: DomId) -> Result<(), Errno>;
    /// A domain without units leaves.
    fn remove_domain(&mut self, domain: DomId);

    /// A unit joins, asleep.
    ///
    /// # Errors
    /// `ENOMEM`; `EEXIST`; `ENOENT` for a domain that has not joined.
    fn add_unit(
        &mut self,
        unit: UnitId,
        domain: DomId,
        affinity: Affinity,
        now: u64,
    ) -> Result<(), Errno>;
    /// A sleeping unit leaves. What it occupied may be another's now.
    fn remove_unit(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet);
    /// Changes where a unit may run. Where it waits or runs outside of that, it moves.
    fn set_affinity(&mut self, unit: UnitId, affinity: Affinity, now: u64, kick: &mut CpuSet);

    /// The unit can run. Does nothing for one that could already.
    fn wake(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet);
    /// The unit cannot run any more. If it runs, its pCPU is added to `kick`.
    fn sleep(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet);
    /// The unit's vCPU is off, for longer than a wait: as [`Self::sleep`], and what was kept for it may be given away.
    fn turn_off(&mut self, unit: UnitId, now: u64, kick: &mut CpuSet) {
        self.sleep(unit, now, kick);
    }
    /// The running unit lets others go first, once: it is not chosen by the next `schedule` while others wait that may run
    /// there.
    fn yield_unit(&mut self, unit: UnitId);

    /// Chooses what `cpu` runs from `now` on. What ran there until now goes back to the waiting units if it is runnable.
    fn schedule(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet) -> Decision;

    /// Returns when [`Self::timer`] wants to be called on `cpu`; `u64::MAX` for never.
    fn next_timer(&self, cpu: CpuId) -> u64;
    /// Does the periodic work of `cpu` that is due.
    fn timer(&mut self, cpu: CpuId, now: u64, kick: &mut CpuSet);

    /// Returns the share of a domain.
    fn share(&self, domain: DomId) -> Option<DomainShare>;
    /// Changes the share of a domain.
    ///
    /// # Errors
    /// `EINVAL` for values that the policy does not allow; `ENOENT`; `EOPNOTSUPP` where there are no shares.
    fn set_share(&mut self, domain: DomId, share: DomainShare) -> Result<(), Errno>;
    /// Returns the parameters.
    fn parameters(&self) -> PolicyParameters;
    /// Changes the parameters.
    ///
    /// # Errors
    /// `EINVAL` for values out of range; `EOPNOTSUPP` where there are none.
    fn set_parameters(&mut self, parameters: PolicyParameters) -> Result<(), Errno>;

    /// Writes the run queues for the debug key `r`.
    ///
    /// # Errors
    /// Those of `out`.
    fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}

/// Makes the policy that holds when the command line names none.
pub fn default_policy() -> Box<dyn Policy> {
    Box::new(Credit::default())
}

/// Makes the policy that `sched=` names, or `None` for an unknown name.
pub fn policy(name: &str) -> Option<Box<dyn Policy>> {
    match name {
        "credit2" => Some(Box::new(Credit2::default())),
        "credit" => Some(Box::new(Credit::default())),
        "null" => Some(Box::new(Null::default())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::CpuSet;
    use crate::addr::CpuId;

    #[test]
    fn cpu_sets_are_sets() {
        let mut set = CpuSet::EMPTY;
        assert!(set.is_empty() && set.first().is_none());
        for cpu in [3, 64, 127, 128, 500] {
            set.insert(CpuId::new(cpu));
        }
        assert_eq!(set.len(), 3);
        assert!(set.contains(CpuId::new(64)) && !set.contains(CpuId::new(128)));
        assert!(set.iter().eq([3, 64, 127].map(CpuId::new)));
        assert_eq!(set.and(&CpuSet::single(CpuId::new(64))).len(), 1);
        assert_eq!(CpuSet::ALL.without(&set).len(), 125);
        set.remove(CpuId::new(3));
        assert_eq!(set.first(), Some(CpuId::new(64)));
        assert_eq!(set.or(&CpuSet::single(CpuId::new(3))).len(), 3);
    }
}
