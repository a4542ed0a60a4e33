//! `sched_op` (public/sched.h; xen-arm.md 3.6).

use core::sync::atomic::Ordering;

use xen_abi::sched as abi;

use super::guest::element;
use super::{CallResult, Cx};
use crate::addr::{DomId, GuestVirt};
use crate::domain::{NOT_POLLING, POLL_FOREVER, ShutdownReason};
use crate::errno::Errno;
use crate::evtchn::{Poll, Port};
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Ports of one SCHEDOP_poll, at most.
const MAX_POLL_PORTS: usize = 128;

/// Returns the reason with this number. A domain that gives another wants to end all the same.
fn reason(code: u32) -> ShutdownReason {
    ShutdownReason::from_code(code).unwrap_or(ShutdownReason::Crash)
}

#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    at: GuestVirt,
) -> CallResult {
    match command {
        abi::SCHEDOP_YIELD => {
            cx.effects.reschedule = true;
            Ok(0)
        }
        abi::SCHEDOP_BLOCK => {
            block(cx);
            Ok(0)
        }
        abi::SCHEDOP_SHUTDOWN => {
            let op: abi::SchedShutdown = cx.read(at)?;
            cx.effects.shutdown = Some(cx.domain.announced_shutdown(reason(op.reason)));
            Ok(0)
        }
        abi::SCHEDOP_POLL => poll(cx, at),
        abi::SCHEDOP_REMOTE_SHUTDOWN => remote_shutdown(cx, at),
        abi::SCHEDOP_SHUTDOWN_CODE => {
            let op: abi::SchedShutdown = cx.read(at)?;
            cx.domain.announce_shutdown(reason(op.reason));
            Ok(0)
        }
        abi::SCHEDOP_WATCHDOG => {
            let op: abi::SchedWatchdog = cx.read(at)?;
            let number = cx.hv.set_watchdog(cx.domain, op.id, op.timeout)?;
            cx.effects.deadline_changed = true;
            Ok(i64::from(number))
        }
        abi::SCHEDOP_PIN_OVERRIDE if !cx.domain.facts.is_privileged => Err(Errno::Perm),
        // Pinning for a moment is x86's.
        _ => Err(Errno::NoSys),
    }
}

/// The vCPU waits, unless an event waits for it. It is marked first: who makes an event pending after the look wakes it.
fn block<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>) {
    cx.vcpu.is_blocked.store(true, Ordering::SeqCst);
    let is_pending = cx.domain.events.lock().upcall_pending(cx.vcpu.id);
    if is_pending {
        cx.vcpu.is_blocked.store(false, Ordering::SeqCst);
    } else {
        cx.effects.block = true;
    }
}

#[inline(never)]
fn poll<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::SchedPoll = cx.read(at)?;
    let mut ports = [Port::new(0); MAX_POLL_PORTS];
    let ports = usize::try_from(op.nr_ports)
        .ok()
        .and_then(|count| ports.get_mut(..count))
        .ok_or(Errno::Inval)?;
    for (port, index) in ports.iter_mut().zip(0..) {
        let raw: u32 = cx.read(element::<u32>(GuestVirt::new(op.ports), index)?)?;
        *port = Port::new(raw);
    }
    let deadline = match op.timeout {
        0 => POLL_FOREVER,
        ns => cx
            .hv
            .boot_ticks
            .saturating_add(cx.hv.scale.to_ticks(ns))
            .min(POLL_FOREVER),
    };
    // The mark and the deadline come first: who makes an event pending after the look ends the poll and wakes the vCPU. The
    // mark before the deadline: who still ends the poll before this one either takes the mark, so that the vCPU runs, or
    // its end of the deadline came before ours.
    let vcpu = cx.vcpu;
    vcpu.is_blocked.store(true, Ordering::SeqCst);
    vcpu.poll_deadline.store(deadline, Ordering::SeqCst);
    let polled = {
        let mut events = cx.domain.events.lock();
        if events.upcall_pending(vcpu.id) {
            Ok(Poll::Ready)
        } else {
            let polled = events.poll(vcpu.id, ports);
            // An interrupt that woke the vCPU before it was registered found nothing to undo.
            if !vcpu.is_blocked.load(Ordering::SeqCst) {
                events.end_poll(vcpu.id);
                vcpu.poll_deadline.store(NOT_POLLING, Ordering::SeqCst);
            }
            polled
        }
    };
    match polled {
        Ok(Poll::Wait) => {
            cx.effects.block = true;
            Ok(0)
        }
        other => {
            vcpu.poll_deadline.store(NOT_POLLING, Ordering::SeqCst);
            vcpu.is_blocked.store(false, Ordering::SeqCst);
            other.map(|_| 0)
        }
    }
}

fn remote_shutdown<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::SchedRemoteShutdown = cx.read(at)?;
    let target = cx.find(DomId::new(op.domain_id))?;
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    let reason = target.announced_shutdown(reason(op.reason));
    if target.is_own() {
        cx.effects.shutdown = Some(reason);
        return Ok(0);
    }
    target.set_shutdown(reason);
    // The toolstack hears of it by an event (xenstored's @releaseDomain).
    cx.hv.tell_domain_changed();
    Ok(0)
}
