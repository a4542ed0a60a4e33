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

mod console_io;
mod event_channel;
mod grant_table;
mod hvm;
mod memory;
mod multicall;
mod platform;
mod sched;
mod vcpu;
mod version;

use xen_abi::hypercall as nr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::addr::{DomId, GuestVirt};

/// A result that only says that it worked.
const OK: CallResult = Ok(0);

impl<H: Hal, M: GuestMemory> Cx<'_, H, M> {
    /// Copies a structure in, once.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.memory.read(GuestVirt::new(at), value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure out.
    ///
    /// # Errors
    /// `EFAULT`.
    fn write<T: IntoBytes + Immutable + ?Sized>(&self, at: u64, value: &T) -> Result<(), Errno> {
        Ok(self.memory.write(GuestVirt::new(at), value.as_bytes())?)
    }

    /// Returns the domain that a number in a call names: `DOMID_SELF`, the caller's own, or another's for a privileged
    /// caller.
    ///
    /// # Errors
    /// `ESRCH` when there is none, `EPERM` when the caller may not act for it.
    fn domain_by_id(&self, raw: u16) -> Result<Arc<Domain<H>>, Errno> {
        if self.is_self(raw) {
            return Ok(self.domain.clone());
        }
        let domain = self.hv.domains.get(DomId::new(raw)).ok_or(Errno::Srch)?;
        if self.domain.facts.is_privileged {
            Ok(domain)
        } else {
            Err(Errno::Perm)
        }
    }

    /// Returns whether a number in a call names the caller.
    fn is_self(&self, raw: u16) -> bool {
        raw == nr::DOMID_SELF || raw == self.domain.facts.id.raw()
    }

    /// Returns whether long work should stop here and be executed again.
    fn should_yield(&self) -> bool {
        self.hv.hal.has_pending_interrupt()
    }
}

/// Executes the hypercall that the registers describe.
#[inline]
pub fn dispatch<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
) -> Outcome {
    let result = match regs.number() {
        nr::HYPERVISOR_MULTICALL => multicall::call(cx, regs),
        _ => single(cx, regs),
    };
    finish(regs, result)
}

fn finish(regs: &mut impl HypercallRegs, result: CallResult) -> Outcome {
    match result {
        Ok(value) => regs.set_result(value),
        Err(Errno::Restart) => return Outcome::Preempted,
        Err(error) => regs.set_result(i64::from(error.to_return())),
    }
    Outcome::Done
}

/// Executes any call but multicall.
fn single<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
) -> CallResult {
    let command = regs.argument(0) as u32;
    let pointer = regs.argument(1);
    match regs.number() {
        nr::HYPERVISOR_XEN_VERSION => version::call(cx, command, pointer),
        nr::HYPERVISOR_EVENT_CHANNEL_OP => event_channel::call(cx, command, pointer, regs),
        nr::HYPERVISOR_SCHED_OP => sched::call(cx, command, pointer),
        nr::HYPERVISOR_CONSOLE_IO => console_io::call(cx, command, regs),
        nr::HYPERVISOR_MEMORY_OP => memory::call(cx, command, pointer, regs),
        nr::HYPERVISOR_GRANT_TABLE_OP => grant_table::call(cx, command, regs),
        nr::HYPERVISOR_VCPU_OP => vcpu::call(cx, command, pointer as u32, regs.argument(2)),
        nr::HYPERVISOR_HVM_OP => hvm::call(cx, command, pointer),
        nr::HYPERVISOR_PLATFORM_OP => platform::call(cx, regs.argument(0)),
        nr::HYPERVISOR_VM_ASSIST => vcpu::vm_assist(cx, command, pointer as u32),
        // PCI belongs to dom0 (no driver here); the XSM policy has nothing to ask; the rest is not built.
        _ => Err(Errno::NoSys),
    }
}
