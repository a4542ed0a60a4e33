//! Hypercalls: number to function, arguments copied in once, results copied out once (xen-arm.md 3).
//!
//! A call that would take long stops at a step, writes its progress back into its own arguments and registers, and
//! returns [`Outcome::Preempted`]: the same `hvc` is executed again.
//!
//! [`dispatch`] decodes the few calls that are hot by themselves; everything else, and every call of a multicall, goes
//! through [`execute`], where arguments are an array and progress is written into it.
//!
//! # Locks
//! Nothing is held on entry. Each handler takes what it needs in the order of [`crate::sync`] and drops it before it
//! touches guest memory, delivers events or asks for effects. Two domains' event channels are locked lower number
//! first. A grant table is locked before the p2m (the grant table calls into it).

mod bitmap;
mod console_io;
mod domctl;
mod event_channel;
mod grant_memory;
mod grant_table;
mod guest;
mod hvm;
mod hypfs;
mod memory;
mod misc;
mod multicall;
mod physmap;
mod platform;
mod reservation;
mod sched;
mod sysctl;
#[cfg(test)]
mod tests;
mod vcpu;
mod version;

use alloc::sync::Arc;
use core::ops::Deref;

use xen_abi::hypercall as abi;
use xen_abi::hypercall::DOMID_SELF;

use crate::addr::{DomId, GuestVirt};
use crate::domain::{Domain, ShutdownReason, Vcpu};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypervisor::{Hypervisor, Policy};
use crate::machine::GuestMemory;

pub(crate) use event_channel::{close_with, notify_from_xen};
pub(crate) use grant_memory::Reach;
pub use platform::publish_wallclock;

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
    /// A deadline changed that pCPUs set their timers by.
    pub deadline_changed: bool,
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
    /// `ENOMEM`, which is not in the registers yet: execute the same instruction again if the heap has grown since.
    NoMemory,
}

/// What a handler returns: a value, or an error for the caller. `Errno::Restart` means preempted.
pub type CallResult = Result<i64, Errno>;

/// Arguments of a call: registers, or a multicall's entry.
type Args = [u64; 5];

/// The domain that a call names.
enum Target<'a, H: Hal> {
    /// The caller itself.
    Own(&'a Arc<Domain<H>>),
    /// Another.
    Other(Arc<Domain<H>>),
}

impl<H: Hal> Deref for Target<'_, H> {
    type Target = Arc<Domain<H>>;

    fn deref(&self) -> &Arc<Domain<H>> {
        match self {
            Self::Own(domain) => domain,
            Self::Other(domain) => domain,
        }
    }
}

impl<H: Hal> Target<'_, H> {
    fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

impl<'a, H: Hal, M: GuestMemory> Cx<'a, H, M> {
    /// Finds a domain by number, whatever the caller may do with it.
    ///
    /// # Errors
    /// `ESRCH`: there is none.
    fn find(&self, id: DomId) -> Result<Target<'a, H>, Errno> {
        if id == self.domain.facts.id {
            return Ok(Target::Own(self.domain));
        }
        self.hv
            .domains
            .get(id)
            .map(Target::Other)
            .ok_or(Errno::Srch)
    }

    /// Finds a domain by number, where `DOMID_SELF` is the caller.
    ///
    /// # Errors
    /// `ESRCH`: there is none.
    fn find_any(&self, id: u16) -> Result<Target<'a, H>, Errno> {
        if id == DOMID_SELF {
            return Ok(Target::Own(self.domain));
        }
        self.find(DomId::new(id))
    }

    /// Finds a domain that the caller may control: itself, or any if it is privileged.
    ///
    /// # Errors
    /// `ESRCH`: there is none; `EPERM`: not the caller's to control.
    fn find_controlled(&self, id: u16) -> Result<Target<'a, H>, Errno> {
        let target = self.find_any(id)?;
        if target.is_own() || self.domain.facts.is_privileged {
            Ok(target)
        } else {
            Err(Errno::Perm)
        }
    }

    /// Returns true when long work has to stop at its next step.
    #[inline]
    fn must_yield(&self) -> bool {
        self.hv.hal.has_pending_interrupt()
    }
}

/// Whether two domains may have to do with each other (grants, event channels).
fn may_communicate<H: Hal>(hv: &Hypervisor<H>, a: &Domain<H>, b: &Domain<H>) -> bool {
    a.facts.id == b.facts.id
        || a.facts.is_privileged
        || b.facts.is_privileged
        || hv.policy == Policy::Dummy
}

/// Executes the hypercall in the registers.
#[inline]
pub fn dispatch<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
) -> Outcome {
    let number = regs.number();
    let command = regs.argument(0) as u32;
    let result = match number {
        abi::HYPERVISOR_XEN_VERSION if command == xen_abi::version::XENVER_VERSION => {
            Ok(version::number(cx.hv))
        }
        abi::HYPERVISOR_EVENT_CHANNEL_OP if command == xen_abi::event_channel::EVTCHNOP_SEND => {
            event_channel::send(cx, GuestVirt::new(regs.argument(1)))
        }
        number if number >= abi::NR_HYPERCALLS => Err(Errno::NoSys),
        _ => return dispatch_any(cx, regs),
    };
    regs.set_result(match result {
        Ok(value) => value,
        Err(error) => i64::from(error.to_return()),
    });
    Outcome::Done
}

#[inline(never)]
fn dispatch_any<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
) -> Outcome {
    let mut args: Args = core::array::from_fn(|n| regs.argument(n));
    match execute(cx, regs.number(), &mut args) {
        Ok(value) => regs.set_result(value),
        Err(Errno::Restart) => {
            for (n, &value) in args.iter().enumerate() {
                regs.set_argument(n, value);
            }
            return Outcome::Preempted;
        }
        Err(Errno::NoMem) => return Outcome::NoMemory,
        Err(error) => regs.set_result(i64::from(error.to_return())),
    }
    Outcome::Done
}

/// Executes a call. `Errno::Restart` says that it is to be executed again with the arguments as they are now.
fn execute<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    number: u32,
    args: &mut Args,
) -> CallResult {
    let command = args[0] as u32;
    let at = GuestVirt::new(args[1]);
    match number {
        abi::HYPERVISOR_XEN_VERSION => version::call(cx, command, at),
        abi::HYPERVISOR_EVENT_CHANNEL_OP => event_channel::call(cx, args),
        abi::HYPERVISOR_SCHED_OP => sched::call(cx, command, at),
        abi::HYPERVISOR_MEMORY_OP => memory::call(cx, args),
        abi::HYPERVISOR_GRANT_TABLE_OP => grant_table::call(cx, args),
        abi::HYPERVISOR_CONSOLE_IO => console_io::call(cx, args),
        abi::HYPERVISOR_MULTICALL => multicall::call(cx, args),
        abi::HYPERVISOR_VCPU_OP => vcpu::call(cx, command, args[1] as u32, GuestVirt::new(args[2])),
        abi::HYPERVISOR_HVM_OP => hvm::call(cx, command, at),
        abi::HYPERVISOR_VM_ASSIST => misc::vm_assist(cx, command, args[1] as u32),
        abi::HYPERVISOR_PLATFORM_OP => platform::call(cx, GuestVirt::new(args[0])),
        abi::HYPERVISOR_PHYSDEV_OP => misc::physdev_op(command),
        abi::HYPERVISOR_XSM_OP => misc::xsm_op(),
        abi::HYPERVISOR_DOMCTL => domctl::call(cx, args),
        abi::HYPERVISOR_SYSCTL => sysctl::call(cx, args),
        abi::HYPERVISOR_HYPFS_OP => hypfs::call(cx, args),
        // Argo and dm_op are not configured on Debian either; the others never were on Arm.
        _ => Err(Errno::NoSys),
    }
}
