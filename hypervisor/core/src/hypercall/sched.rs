//! sched_op (29): giving up the CPU, polling events, shutting down (xen-arm.md 3.6).

use core::sync::atomic::Ordering;

use xen_abi::sched::{self as abi};

use super::{CallResult, Cx, OK};
use crate::domain::ShutdownReason;
use crate::errno::Errno;
use crate::evtchn::{Poll, Port};
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Ports that one poll may name (Xen's limit).
const MAX_POLL_PORTS: usize = 128;

pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    pointer: u64,
) -> CallResult {
    match command {
        abi::SCHEDOP_YIELD => cx.effects.reschedule = true,
        abi::SCHEDOP_BLOCK => {
            cx.vcpu.is_blocked.store(true, Ordering::Release);
            cx.effects.block = true;
        }
        abi::SCHEDOP_SHUTDOWN => {
            let op: abi::SchedShutdown = cx.read(pointer)?;
            let reason = ShutdownReason::from_code(op.reason).ok_or(Errno::Inval)?;
            cx.effects.shutdown = Some(reason);
        }
        abi::SCHEDOP_SHUTDOWN_CODE => {
            // The code counts when the domain shuts down; a domain that names one is on its way.
            let op: abi::SchedShutdown = cx.read(pointer)?;
            let reason = ShutdownReason::from_code(op.reason).ok_or(Errno::Inval)?;
            cx.domain.set_shutdown_code(reason);
        }
        abi::SCHEDOP_REMOTE_SHUTDOWN => {
            let op: abi::SchedRemoteShutdown = cx.read(pointer)?;
            let reason = ShutdownReason::from_code(op.reason).ok_or(Errno::Inval)?;
            if cx.is_self(op.domain_id) {
                return Err(Errno::Perm);
            }
            let target = cx.domain_by_id(op.domain_id)?;
            target.set_shutdown(reason);
            for vcpu in &target.vcpus {
                vcpu.is_offline.store(true, Ordering::Release);
            }
        }
        abi::SCHEDOP_POLL => return poll(cx, pointer),
        // Watchdogs and pinning are not built: they say so.
        _ => return Err(Errno::NoSys),
    }
    OK
}

fn poll<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, pointer: u64) -> CallResult {
    let op: abi::SchedPoll = cx.read(pointer)?;
    let count = op.nr_ports as usize;
    if count > MAX_POLL_PORTS {
        return Err(Errno::Inval);
    }
    let mut ports = [Port::new(0); MAX_POLL_PORTS];
    let wanted = ports.get_mut(..count).ok_or(Errno::Inval)?;
    for (port, i) in wanted.iter_mut().zip(0u64..) {
        let at = op.ports.checked_add(i * 4).ok_or(Errno::Fault)?;
        *port = Port::new(cx.read(at)?);
    }
    // Marked as waiting before the ports are looked at: an event that comes in between ends the wait.
    let (vcpu, domain) = (cx.vcpu, cx.domain);
    vcpu.is_blocked.store(true, Ordering::Release);
    let deadline = match op.timeout {
        0 => u64::MAX,
        ns => cx.hv.boot_ticks.saturating_add(cx.hv.scale.to_ticks(ns)),
    };
    vcpu.poll_deadline.store(deadline, Ordering::Release);
    let polled = domain.events.lock().poll(vcpu.id, wanted);
    match polled {
        Ok(Poll::Wait) if deadline > cx.hv.hal.now() => {
            cx.effects.block = true;
            OK
        }
        other => {
            domain.events.lock().end_poll(vcpu.id);
            domain.end_poll(vcpu.id);
            other.map(|_| 0)
        }
    }
}
