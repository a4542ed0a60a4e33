//! `domctl`: how a toolstack makes, watches, changes and ends domains (public/domctl.h; xen-arm.md 3.18).
//!
//! [`call`] copies the structure in once, finds the domain that it names and checks the caller's right; the
//! sub-operations are in the other files by what they act on. What depends on the version of the interface is in
//! `layout` alone. There is no lock around domctl as a whole: each operation locks what it changes, and those that a
//! second caller could disturb say how they notice.

mod create;
mod devices;
mod info;
pub(super) mod layout;
mod life;
mod memory;
mod placement;
mod vcpu;

use alloc::sync::Arc;

use xen_abi::control as abi;
use xen_abi::hypercall::{DOMID_INVALID, DOMID_SELF};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::layout::Interface;
use super::{Args, CallResult, Cx};
use crate::addr::{DomId, GuestVirt};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// What is to be copied back to the caller when an operation succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// Nothing.
    None,
    /// The whole structure.
    Whole,
}

/// How an operation ended. `Errno::Restart`: it is to be executed again with the structure as it is now.
type Done = Result<Reply, Errno>;

/// Reads the part of the structure that belongs to the operation.
fn part<T: FromBytes>(op: &abi::Domctl) -> Result<T, Errno> {
    T::read_from_prefix(&op.u)
        .map(|(value, _)| value)
        .map_err(|_| Errno::Inval)
}

/// Writes the part of the structure that belongs to the operation.
fn set_part<T: IntoBytes + Immutable>(op: &mut abi::Domctl, value: &T) {
    let written = value.write_to_prefix(&mut op.u);
    debug_assert!(written.is_ok(), "longer than the union");
}

/// Argument: the structure.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let at = GuestVirt::new(args[0]);
    let mut op: abi::Domctl = cx.read(at)?;
    let interface = Interface::of(cx.hv.identity.version);
    if op.interface_version != interface.number() {
        return Err(Errno::Access);
    }
    cx.hv.reap();
    let target = target(cx, interface, &op)?;
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    let done = match &target {
        Some(target) => of_domain(cx, interface, &mut op, target),
        None => of_none(cx, interface, &mut op),
    };
    drop(target);
    cx.hv.reap();
    match done {
        Ok(Reply::None) => Ok(0),
        Ok(Reply::Whole) => {
            cx.write(at, &op)?;
            Ok(0)
        }
        Err(Errno::Restart) => {
            // The progress is in the structure.
            cx.write(at, &op)?;
            Err(Errno::Restart)
        }
        Err(error) => Err(error),
    }
}

/// Finds the domain that an operation names.
///
/// # Errors
/// `ESRCH` when there is none, but for the operations that need none.
fn target<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    interface: Interface,
    op: &abi::Domctl,
) -> Result<Option<Arc<Domain<H>>>, Errno> {
    match op.cmd {
        abi::XEN_DOMCTL_CREATEDOMAIN => return Ok(None),
        abi::XEN_DOMCTL_TEST_ASSIGN_DEVICE | abi::XEN_DOMCTL_VM_EVENT_OP
            if op.domain == DOMID_INVALID =>
        {
            return Ok(None);
        }
        _ => {}
    }
    // DOMID_SELF names nobody here.
    let found = if op.domain == DOMID_SELF {
        None
    } else {
        cx.hv.domains.get(DomId::new(op.domain))
    };
    let may_be_none = op.cmd == abi::XEN_DOMCTL_GETDOMAININFO && interface.has_next_domain();
    if found.is_none() && !may_be_none {
        return Err(Errno::Srch);
    }
    Ok(found)
}

/// Operations without a domain, or on one that does not exist.
fn of_none<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    interface: Interface,
    op: &mut abi::Domctl,
) -> Done {
    match op.cmd {
        abi::XEN_DOMCTL_CREATEDOMAIN => create::create(cx, interface, op),
        abi::XEN_DOMCTL_GETDOMAININFO => info::get_next(cx, op),
        abi::XEN_DOMCTL_TEST_ASSIGN_DEVICE => Err(Errno::OpNotSupp),
        _ => Err(Errno::NoSys),
    }
}

/// Operations on a domain.
fn of_domain<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    interface: Interface,
    op: &mut abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    match op.cmd {
        // There is no cache colouring: libxl asks with every domain, and goes on when it hears so.
        abi::XEN_DOMCTL_SET_LLC_COLORS if interface == Interface::V0x17 => Err(Errno::OpNotSupp),
        abi::XEN_DOMCTL_DESTROYDOMAIN => life::destroy(cx, target),
        abi::XEN_DOMCTL_PAUSEDOMAIN => life::pause(cx, target),
        abi::XEN_DOMCTL_UNPAUSEDOMAIN => life::unpause(target),
        abi::XEN_DOMCTL_GETDOMAININFO => info::get(cx, op, target),
        abi::XEN_DOMCTL_MAX_VCPUS => create::max_vcpus(op, target),
        abi::XEN_DOMCTL_SETVCPUCONTEXT => vcpu::set_context(cx, op, target),
        abi::XEN_DOMCTL_GETVCPUCONTEXT => vcpu::get_context(cx, op, target),
        abi::XEN_DOMCTL_MAX_MEM => life::max_mem(op, target),
        abi::XEN_DOMCTL_SETDOMAINHANDLE => life::set_handle(op, target),
        abi::XEN_DOMCTL_SETDEBUGGING => life::set_debugging(cx, op, target),
        abi::XEN_DOMCTL_SET_VIRQ_HANDLER => life::set_virq_handler(cx, op, target),
        abi::XEN_DOMCTL_SET_ADDRESS_SIZE => life::address_size(cx, op, target),
        abi::XEN_DOMCTL_RESUMEDOMAIN => life::resume(cx, target),
        abi::XEN_DOMCTL_CACHEFLUSH => memory::cache_flush(cx, op, target),
        abi::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE => memory::pool_size(op, target),
        abi::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE => memory::set_pool_size(cx, op, target),
        abi::XEN_DOMCTL_SETVCPUAFFINITY => placement::set_affinity(cx, op, target),
        abi::XEN_DOMCTL_GETVCPUAFFINITY => placement::affinity(cx, op, target),
        abi::XEN_DOMCTL_SETNODEAFFINITY => placement::set_nodes(cx, op),
        abi::XEN_DOMCTL_GETNODEAFFINITY => placement::nodes(cx, op),
        abi::XEN_DOMCTL_GETVCPUINFO => placement::vcpu_info(cx, op, target),
        abi::XEN_DOMCTL_SCHEDULER_OP => placement::share(cx, op, target),
        abi::XEN_DOMCTL_SETTIMEOFFSET => life::set_time_offset(cx, op, target),
        abi::XEN_DOMCTL_IOMEM_PERMISSION => devices::permit_memory(cx, op, target),
        abi::XEN_DOMCTL_IRQ_PERMISSION => devices::permit_interrupt(cx, op, target),
        abi::XEN_DOMCTL_MEMORY_MAPPING => devices::map_memory(cx, op, target),
        abi::XEN_DOMCTL_BIND_PT_IRQ => devices::bind_interrupt(cx, op, target),
        abi::XEN_DOMCTL_UNBIND_PT_IRQ => devices::unbind_interrupt(cx, op, target),
        abi::XEN_DOMCTL_VUART_OP => devices::make_uart(cx, op, target),
        // There is no IOMMU.
        abi::XEN_DOMCTL_ASSIGN_DEVICE
        | abi::XEN_DOMCTL_TEST_ASSIGN_DEVICE
        | abi::XEN_DOMCTL_DEASSIGN_DEVICE
        | abi::XEN_DOMCTL_GET_DEVICE_GROUP => Err(Errno::OpNotSupp),
        _ => Err(Errno::NoSys),
    }
}
