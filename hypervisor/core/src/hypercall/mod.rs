//! Hypercalls: number to function, arguments copied in once, results copied out once (xen-arm.md 3).
//!
//! A call that would take long stops at a step, writes its progress back into its own arguments and registers, and
//! returns [`Outcome::Preempted`]: the same `hvc` is executed again.

use alloc::sync::Arc;

use crate::domain::{Domain, ShutdownReason, Vcpu};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::GuestMemory;

/// The registers of a hypercall (arm32: number r12, arguments r0–r4, result r0).
pub trait HypercallRegs {
    /// Returns the call's number.
    fn number(&self) -> u32;
    /// Returns argument `n` (0–4).
    fn argument(&self, n: usize) -> u64;
    /// Changes argument `n` for the call's next execution.
    fn set_argument(&mut self, n: usize, value: u64);
    /// Sets the result.
    fn set_result(&mut self, value: i64);
}

/// What a call acts on.
pub struct Cx<'a, H: Hal, M: GuestMemory> {
    /// Everything shared.
    pub hv: &'a Hypervisor<H>,
    /// The caller.
    pub domain: &'a Arc<Domain<H>>,
    /// The calling vCPU.
    pub vcpu: &'a Vcpu<H>,
    /// The caller's memory.
    pub memory: &'a M,
    /// What is to be done when all locks are dropped.
    pub effects: &'a mut Effects,
}

/// What a call asks the run loop to do afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Let others run; the caller stays runnable.
    pub reschedule: bool,
    /// The calling vCPU waits (`is_blocked` is set, unless something woke it meanwhile).
    pub block: bool,
    /// The calling domain shut down.
    pub shutdown: Option<ShutdownReason>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result is in the registers.
    Done,
    /// Execute the same instruction again; the arguments hold the progress.
    Preempted,
}

/// What a handler returns: a value, or an error for the caller. `Errno::Restart` means preempted.
pub type CallResult = Result<i64, Errno>;
