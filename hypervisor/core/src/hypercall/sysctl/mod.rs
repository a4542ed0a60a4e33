//! `sysctl`: what a toolstack asks of and does to the machine as a whole (public/sysctl.h; xen-arm.md 3.17).
//!
//! [`call`] copies the structure in once and checks the caller's right. The layouts do not differ between the versions that
//! we speak, but for that of a domain's information (`domctl::layout`).

mod console;
mod machine;
mod pools;

use xen_abi::control as abi;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::domctl::layout;
use super::{Args, CallResult, Cx};
use crate::addr::{DomId, GuestVirt};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::guest::element;
use crate::machine::GuestMemory;

/// How an operation ended: true if the structure is to be copied back. `Errno::Restart`: it is copied back and executed
/// again.
type Done = Result<bool, Errno>;

/// Reads the part of the structure that belongs to the operation.
fn part<T: FromBytes>(op: &abi::Sysctl) -> Result<T, Errno> {
    T::read_from_prefix(&op.u)
        .map(|(value, _)| value)
        .map_err(|_| Errno::Inval)
}

/// Writes the part of the structure that belongs to the operation.
fn set_part<T: IntoBytes + Immutable>(op: &mut abi::Sysctl, value: &T) {
    let written = value.write_to_prefix(&mut op.u);
    debug_assert!(written.is_ok(), "longer than the union");
}

/// Argument: the structure.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let at = GuestVirt::new(args[0]);
    let mut op: abi::Sysctl = cx.read(at)?;
    if op.interface_version != abi::XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::Access);
    }
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    let done = match op.cmd {
        abi::XEN_SYSCTL_READCONSOLE => console::read(cx, &mut op),
        abi::XEN_SYSCTL_DEBUG_KEYS => console::press_keys(cx, &mut op),
        abi::XEN_SYSCTL_PHYSINFO => machine::physinfo(cx, &mut op),
        abi::XEN_SYSCTL_GETCPUINFO => machine::cpus(cx, &mut op),
        abi::XEN_SYSCTL_AVAILHEAP => machine::free_memory(cx, &mut op),
        abi::XEN_SYSCTL_CPUTOPOINFO => machine::topology(cx, &mut op),
        abi::XEN_SYSCTL_NUMAINFO => machine::nodes(cx, &mut op),
        abi::XEN_SYSCTL_GETDOMAININFOLIST => domains(cx, &mut op),
        abi::XEN_SYSCTL_SCHED_ID => pools::policy_id(cx, &mut op),
        abi::XEN_SYSCTL_SCHEDULER_OP => pools::parameters(cx, &mut op),
        abi::XEN_SYSCTL_CPUPOOL_OP => pools::call(cx, &mut op),
        // As a Xen without them.
        abi::XEN_SYSCTL_COVERAGE_OP => Err(Errno::OpNotSupp),
        // Trace buffers of Xen's form, profiles, live patches and power management are not built; the rest is x86's.
        _ => Err(Errno::NoSys),
    };
    match done {
        Ok(false) => Ok(0),
        Ok(true) => {
            cx.write(at, &op)?;
            Ok(0)
        }
        Err(Errno::Restart) => {
            cx.write(at, &op)?;
            Err(Errno::Restart)
        }
        Err(error) => Err(error),
    }
}

/// getdomaininfolist.
fn domains<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut list: abi::SysctlGetdomaininfolist = part(op)?;
    cx.hv.reap();
    let mut count = 0;
    let first = DomId::new(list.first_domain);
    // There are fewer domains than VMIDs.
    for domain in cx.hv.domains.from(first).take(list.max_domains as usize) {
        let info = layout::domain_info(&domain.info(cx.hv));
        let to = element::<layout::Getdomaininfo>(GuestVirt::new(list.buffer), count)?;
        cx.write(to, &info)?;
        count += 1;
    }
    list.num_domains = count as u32;
    set_part(op, &list);
    Ok(true)
}
