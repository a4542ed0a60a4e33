//! The simplest policy that is fair: round robin with a time slice, on one pCPU. The credit schedulers take its place.

use alloc::sync::Arc;

use crate::addr::{DomId, VcpuId};
use crate::domain::{Domain, DomainTable, Vcpu};
use crate::hal::Hal;
use crate::time::TickScale;

/// Length of a time slice, in milliseconds.
const SLICE_MS: u64 = 10;

/// Whether a vCPU may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Continues,
    /// Another has its turn.
    Over,
}

/// The round-robin policy of one pCPU.
pub struct RoundRobin<H: Hal> {
    last: (DomId, VcpuId),
    slice_end: u64,
    machine: core::marker::PhantomData<fn() -> H>,
}

impl<H: Hal> Default for RoundRobin<H> {
    fn default() -> Self {
        Self {
            last: (DomId::DOM0, VcpuId::new(0)),
            slice_end: 0,
            machine: core::marker::PhantomData,
        }
    }
}

impl<H: Hal> RoundRobin<H> {
    /// Returns the next runnable vCPU after the one that ran last, in order of domain and vCPU number.
    pub fn pick(&mut self, domains: &DomainTable<H>) -> Option<(Arc<Domain<H>>, VcpuId)> {
        let last = self.last;
        let picked = domains.next_runnable(last)?;
        self.last = (picked.0.facts.id, picked.1);
        Some(picked)
    }

    /// A vCPU was put on the CPU at `now` (ticks).
    pub fn begin_slice(&mut self, now: u64, scale: &TickScale) {
        self.slice_end = now.saturating_add(scale.to_ticks(SLICE_MS * 1_000_000));
    }

    /// Returns when the slice of the running vCPU ends, in ticks.
    pub fn slice_end(&self) -> u64 {
        self.slice_end
    }

    /// Returns whether a vCPU other than `vcpu` could run now.
    pub fn others_runnable(
        &self,
        domains: &DomainTable<H>,
        domain: &Domain<H>,
        vcpu: &Vcpu<H>,
    ) -> bool {
        domains.is_another_runnable(domain.facts.id, vcpu.id)
    }

    /// Returns whether the running vCPU may go on at `now`.
    pub fn turn(
        &self,
        domains: &DomainTable<H>,
        domain: &Domain<H>,
        vcpu: &Vcpu<H>,
        now: u64,
    ) -> Turn {
        if now >= self.slice_end && self.others_runnable(domains, domain, vcpu) {
            Turn::Over
        } else {
            Turn::Continues
        }
    }
}
