//! `multicall` (public/xen.h; xen-arm.md 3.14): several calls in one trap.

use core::mem::offset_of;

use xen_abi::hypercall as abi;
use xen_abi::hypercall::MulticallEntry;

use super::guest::element;
use super::{Args, CallResult, Cx, execute};
use crate::addr::GuestVirt;
use crate::domain::ShutdownReason;
use crate::emulate::Execution;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// How many arguments a call takes: those of an entry that must be clean.
fn argument_count(number: u64) -> usize {
    match u32::try_from(number).unwrap_or(abi::NR_HYPERCALLS) {
        abi::HYPERVISOR_PLATFORM_OP
        | abi::HYPERVISOR_XSM_OP
        | abi::HYPERVISOR_SYSCTL
        | abi::HYPERVISOR_DOMCTL => 1,
        abi::HYPERVISOR_MEMORY_OP
        | abi::HYPERVISOR_MULTICALL
        | abi::HYPERVISOR_XEN_VERSION
        | abi::HYPERVISOR_VM_ASSIST
        | abi::HYPERVISOR_SCHED_OP
        | abi::HYPERVISOR_EVENT_CHANNEL_OP
        | abi::HYPERVISOR_PHYSDEV_OP
        | abi::HYPERVISOR_HVM_OP => 2,
        abi::HYPERVISOR_CONSOLE_IO
        | abi::HYPERVISOR_GRANT_TABLE_OP
        | abi::HYPERVISOR_VCPU_OP
        | abi::HYPERVISOR_DM_OP => 3,
        abi::HYPERVISOR_ARGO_OP | abi::HYPERVISOR_HYPFS_OP => 5,
        _ => 0,
    }
}

/// Returns whether a 32-bit guest could have made this call by registers.
fn is_clean(entry: &MulticallEntry) -> bool {
    let count = argument_count(entry.op);
    entry.op <= u64::from(u32::MAX)
        && entry
            .args
            .iter()
            .take(count)
            .all(|&value| value <= u64::from(u32::MAX))
}

/// Arguments: list, count. Between two entries, and inside one that stops itself, it can be preempted.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let is_32_bit = cx.domain.execution() == Execution::AArch32;
    let mut left = args[1] as u32;
    let mut at = GuestVirt::new(args[0]);
    let mut is_first = true;
    while left != 0 {
        if !is_first && cx.must_yield() {
            return preempt(args, at, left);
        }
        is_first = false;
        let mut entry: MulticallEntry = cx.read(at)?;
        if is_32_bit && !is_clean(&entry) {
            log::warn!(
                "{}: a multicall's entry does not fit 32 bits, the domain crashes",
                cx.domain.facts.id
            );
            cx.effects.shutdown = Some(ShutdownReason::Crash);
            return Ok(0);
        }
        let [a, b, c, d, e, _] = entry.args;
        let mut inner = [a, b, c, d, e];
        let result = match entry.op as u32 {
            // A list in a list could go on for ever.
            abi::HYPERVISOR_MULTICALL => Err(Errno::Inval),
            number => execute(cx, number, &mut inner),
        };
        let value = match result {
            Ok(value) => value,
            Err(Errno::Restart) => {
                for (to, from) in entry.args.iter_mut().zip(inner) {
                    *to = from;
                }
                cx.write_field(at, offset_of!(MulticallEntry, args), &entry.args)?;
                return preempt(args, at, left);
            }
            Err(error) => i64::from(error.to_return()),
        };
        // A register's worth.
        let result = if is_32_bit {
            u64::from(value as u32)
        } else {
            value as u64
        };
        cx.write_field(at, offset_of!(MulticallEntry, result), &result)?;
        left -= 1;
        if cx.effects.shutdown.is_some() {
            break;
        }
        if left != 0 {
            at = element::<MulticallEntry>(at, 1)?;
        }
    }
    Ok(0)
}

fn preempt(args: &mut Args, at: GuestVirt, left: u32) -> CallResult {
    args[0] = at.raw();
    args[1] = u64::from(left);
    Err(Errno::Restart)
}
