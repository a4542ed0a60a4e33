//! Event channels through hypercalls.

use std::sync::atomic::Ordering;

use xen_abi::event_channel::*;
use xen_abi::hypercall::*;

use super::errno::*;
use super::{NO_DOMAIN, SELF};
use crate::addr::CpuId;
use crate::evtchn::{Abi, Port};
use crate::fakes::{ARG, Guest, NOWHERE, RAM, World, page};
use crate::sched::CpuSet;

const EVENT: u32 = HYPERVISOR_EVENT_CHANNEL_OP;

pub(super) fn alloc_unbound(guest: &Guest, dom: u16, remote_dom: u16) -> (i64, u32) {
    let op = EvtchnAllocUnbound {
        dom,
        remote_dom,
        port: 0xffff,
    };
    let (result, op) = guest.op(EVENT, EVTCHNOP_ALLOC_UNBOUND, op);
    (result, op.port)
}

pub(super) fn bind(guest: &Guest, remote_dom: u16, remote_port: u32) -> (i64, u32) {
    let op = EvtchnBindInterdomain {
        remote_dom,
        _pad: 0,
        remote_port,
        local_port: 0xffff,
    };
    let (result, op) = guest.op(EVENT, EVTCHNOP_BIND_INTERDOMAIN, op);
    (result, op.local_port)
}

fn bind_virq(guest: &Guest, virq: u32, vcpu: u32) -> (i64, u32) {
    let op = EvtchnBindVirq {
        virq,
        vcpu,
        port: 0xffff,
    };
    let (result, op) = guest.op(EVENT, EVTCHNOP_BIND_VIRQ, op);
    (result, op.port)
}

fn bind_ipi(guest: &Guest, vcpu: u32) -> (i64, u32) {
    let (result, op) = guest.op(
        EVENT,
        EVTCHNOP_BIND_IPI,
        EvtchnBindIpi { vcpu, port: 0xffff },
    );
    (result, op.port)
}

pub(super) fn on_port(guest: &Guest, command: u32, port: u32) -> i64 {
    guest.op(EVENT, command, EvtchnSend { port }).0
}

pub(super) fn send(guest: &Guest, port: u32) -> i64 {
    on_port(guest, EVTCHNOP_SEND, port)
}

pub(super) fn status(guest: &Guest, dom: u16, port: u32) -> (i64, EvtchnStatus) {
    let op = EvtchnStatus {
        dom,
        _pad: 0,
        port,
        status: 9,
        vcpu: 9,
        u0: 9,
        u1: 9,
    };
    guest.op(EVENT, EVTCHNOP_STATUS, op)
}

pub(super) fn is_pending(guest: &Guest, port: u32) -> bool {
    guest.domain.events.lock().is_pending(Port::new(port))
}

pub(super) fn open_ports(guest: &Guest) -> usize {
    let events = guest.domain.events.lock();
    (1..64)
        .filter(|&port| {
            events
                .status(Port::new(port))
                .is_ok_and(|s| s.state.number() != 0)
        })
        .count()
}

#[test]
fn own_ports_from_open_to_close() {
    let world = World::new();
    let dom1 = &world.dom1;
    let (result, ipi) = bind_ipi(dom1, 1);
    assert_eq!(result, 0);
    assert_eq!(bind_ipi(dom1, 2), (ENOENT, 0xffff));
    let (result, virq) = bind_virq(dom1, VIRQ_TIMER, 1);
    assert_eq!(result, 0);
    assert_eq!(bind_virq(dom1, VIRQ_TIMER, 1), (EEXIST, 0xffff));
    assert_eq!(bind_virq(dom1, VIRQ_CONSOLE, 1), (EINVAL, 0xffff));
    assert_eq!(bind_virq(dom1, 24, 0), (EINVAL, 0xffff));
    assert_eq!(bind_virq(dom1, VIRQ_TIMER, 2), (ENOENT, 0xffff));
    let (_, status_of_virq) = status(dom1, SELF, virq);
    assert_eq!(
        (
            status_of_virq.status,
            status_of_virq.vcpu,
            status_of_virq.u0
        ),
        (4, 1, 0)
    );
    assert_eq!(status(dom1, 1, ipi).1.status, EVTCHNSTAT_IPI);
    assert_eq!(status(dom1, SELF, 63).1.status, EVTCHNSTAT_CLOSED);
    assert_eq!(status(dom1, SELF, 1 << 20).0, EINVAL);

    let (_, unbound) = alloc_unbound(dom1, SELF, SELF);
    let (_, waits) = status(dom1, SELF, unbound);
    assert_eq!((waits.status, waits.u0), (EVTCHNSTAT_UNBOUND, 1));
    assert_eq!(send(dom1, unbound), 0, "lost, but no error");
    let (result, other) = bind(dom1, SELF, unbound);
    assert_eq!(result, 0);
    let (_, connected) = status(dom1, SELF, unbound);
    assert_eq!(
        (connected.status, connected.u0, connected.u1),
        (2, 1, other)
    );
    assert!(is_pending(dom1, other), "binding makes it pending once");
    assert_eq!(send(dom1, other), 0);
    assert!(is_pending(dom1, unbound));
    assert_eq!(send(dom1, virq), EINVAL);
    assert_eq!(send(dom1, 60), EINVAL);
    assert_eq!(send(dom1, u32::MAX), EINVAL);
    assert_eq!(bind(dom1, SELF, unbound), (EINVAL, 0xffff), "bound already");

    let bind_vcpu = |port, vcpu| {
        dom1.op(EVENT, EVTCHNOP_BIND_VCPU, EvtchnBindVcpu { port, vcpu })
            .0
    };
    assert_eq!(bind_vcpu(other, 1), 0);
    assert_eq!(bind_vcpu(other, 2), ENOENT);
    assert_eq!(bind_vcpu(ipi, 0), EINVAL);
    assert_eq!(on_port(dom1, EVTCHNOP_UNMASK, other), 0);
    assert_eq!(on_port(dom1, EVTCHNOP_UNMASK, 1 << 20), EINVAL);
    for port in [ipi, virq, unbound, other] {
        assert_eq!(on_port(dom1, EVTCHNOP_CLOSE, port), 0);
        assert_eq!(on_port(dom1, EVTCHNOP_CLOSE, port), EINVAL);
    }
    assert_eq!(open_ports(dom1), 0);
    let pirq = EvtchnBindPirq {
        pirq: 0,
        flags: 0,
        port: 0,
    };
    assert_eq!(dom1.op(EVENT, EVTCHNOP_BIND_PIRQ, pirq).0, EINVAL);
    assert_eq!(dom1.result(EVENT, &[15, ARG]), ENOSYS);
    for command in 0..=14 {
        assert_eq!(dom1.result(EVENT, &[command, NOWHERE]), EFAULT, "{command}");
        assert_eq!(
            dom1.result(EVENT, &[command, u64::MAX]),
            EFAULT,
            "{command}"
        );
    }
}

#[test]
fn a_sent_event_raises_the_upcall_and_wakes() {
    let world = World::new();
    let dom1 = &world.dom1;
    let (_, port) = bind_ipi(dom1, 0);
    let vcpu = &dom1.domain.vcpus[0];
    vcpu.is_blocked.store(true, Ordering::SeqCst);
    dom1.domain.scheduler.settle(vcpu);
    *world.cpus.rescheduled.lock().unwrap() = CpuSet::EMPTY;
    assert_eq!(send(dom1, port), 0);
    assert!(!vcpu.is_blocked.load(Ordering::SeqCst));
    assert_eq!(dom1.shared_info(0) & 0xff, 1);
    assert!(!world.cpus.rescheduled.lock().unwrap().is_empty());
    assert!(world.cpus.looked.lock().unwrap().is_empty());
}

#[test]
fn a_sent_event_reaches_a_vcpu_that_runs_elsewhere() {
    let world = World::new();
    let dom1 = &world.dom1;
    let (_, port) = bind_ipi(dom1, 0);
    let elsewhere = CpuId::new(1);
    dom1.domain.vcpus[0].load_on(elsewhere);
    assert_eq!(send(dom1, port), 0);
    assert!(world.cpus.looked.lock().unwrap().contains(elsewhere));
}

#[test]
fn two_domains() {
    let world = World::new();
    let (dom0, dom1, dom2) = (&world.dom0, &world.dom1, &world.dom2);
    // dom0 opens a port of dom1's for itself, as xl does; dom1 may not do the like.
    let (result, for_dom0) = alloc_unbound(dom0, 1, 0);
    assert_eq!(result, 0);
    assert_eq!(alloc_unbound(dom1, 2, 0).0, EPERM);
    assert_eq!(alloc_unbound(dom1, SELF, 2).0, EPERM, "SILO");
    assert_eq!(alloc_unbound(dom1, SELF, NO_DOMAIN).0, ESRCH);
    // A toolstack opens it for two others, who then may not use it.
    let (result, for_dom2) = alloc_unbound(dom0, 1, 2);
    assert_eq!(result, 0);
    assert_eq!(bind(dom2, 1, for_dom2).0, EPERM, "SILO");
    assert_eq!(on_port(dom1, EVTCHNOP_CLOSE, for_dom2), 0);
    assert_eq!(alloc_unbound(dom0, NO_DOMAIN, 0).0, ESRCH);
    assert_eq!(bind(dom2, 1, for_dom0).0, EPERM, "SILO");
    assert_eq!(bind(dom0, NO_DOMAIN, 1).0, ESRCH);
    assert_eq!(bind(dom0, 1, 50).0, EINVAL);
    let (result, at_dom0) = bind(dom0, 1, for_dom0);
    assert_eq!(result, 0);
    let vcpu = &dom1.domain.vcpus[0];
    vcpu.is_blocked.store(true, Ordering::SeqCst);
    assert_eq!(send(dom0, at_dom0), 0);
    assert!(is_pending(dom1, for_dom0) && !vcpu.is_blocked.load(Ordering::SeqCst));
    assert_eq!(send(dom1, for_dom0), 0);
    assert!(is_pending(dom0, at_dom0));
    assert_eq!(status(dom0, 1, for_dom0).1.u1, at_dom0);
    assert_eq!(status(dom1, 0, at_dom0).0, EPERM);
    assert_eq!(status(dom0, NO_DOMAIN, 1).0, ESRCH);
    // The other end waits again when one is closed.
    assert_eq!(on_port(dom1, EVTCHNOP_CLOSE, for_dom0), 0);
    let (_, again) = status(dom0, SELF, at_dom0);
    assert_eq!((again.status, again.u0), (EVTCHNSTAT_UNBOUND, 1));
    assert_eq!(bind(dom1, 0, at_dom0).0, 0);
    assert_eq!(on_port(dom0, EVTCHNOP_CLOSE, at_dom0), 0);
}

#[test]
fn fifo_pages_hold_their_references() {
    let world = World::new();
    let dom1 = &world.dom1;
    let init = |vcpu, control_gfn, offset| {
        let op = EvtchnInitControl {
            control_gfn,
            offset,
            vcpu,
            link_bits: 0,
            _pad: [0; 7],
        };
        let (result, op) = dom1.op(EVENT, EVTCHNOP_INIT_CONTROL, op);
        (result, op.link_bits)
    };
    let expand = |array_gfn| {
        dom1.op(
            EVENT,
            EVTCHNOP_EXPAND_ARRAY,
            EvtchnExpandArray { array_gfn },
        )
        .0
    };
    let priority = |port, priority| {
        dom1.op(
            EVENT,
            EVTCHNOP_SET_PRIORITY,
            EvtchnSetPriority { port, priority },
        )
        .0
    };
    let references = |n| {
        world
            .hv
            .frames
            .references(dom1.mapping(RAM + n).unwrap().mfn)
    };
    let mapped = world.hv.hal.mapped.load(Ordering::SeqCst);
    let gfn = |n: u32| u64::from(RAM + n);
    let (_, port) = bind_ipi(dom1, 0);
    assert_eq!(priority(port, 1), ENOSYS);
    assert_eq!(expand(gfn(31)), EOPNOTSUPP);
    assert_eq!(init(2, gfn(30), 0).0, ENOENT);
    for offset in [4, 4025, 4032, u32::MAX] {
        assert_eq!(init(0, gfn(30), offset).0, EINVAL);
    }
    for bad in [0, gfn(64), u64::MAX] {
        assert_eq!(init(0, bad, 0).0, EINVAL);
    }
    assert_eq!(send(dom1, port), 0);
    assert_eq!(init(0, gfn(30), 8), (0, 17));
    assert_eq!(init(0, gfn(30), 8).0, EINVAL, "once only");
    assert_eq!(init(1, gfn(30), 512), (0, 17));
    assert_eq!(references(30), 3);
    for bad in [0, gfn(64), u64::MAX] {
        assert_eq!(expand(bad), EINVAL);
    }
    dom1.domain.vcpus[0]
        .is_blocked
        .store(true, Ordering::SeqCst);
    assert_eq!(expand(gfn(31)), 0);
    assert_eq!(references(31), 2);
    // What was pending before is linked now.
    assert_eq!(dom1.get::<u32>(page(31) + 4 * u64::from(port)) >> 29 & 5, 5);
    assert_eq!(priority(port, 15), 0);
    assert_eq!(priority(port, 16), EINVAL);
    assert_eq!(priority(1 << 20, 1), EINVAL);
    assert_eq!(priority(50, 1), EACCES);
    for n in 0..127 {
        assert_eq!(expand(gfn(31)), 0, "{n}");
    }
    assert_eq!(expand(gfn(31)), -28, "no more than 128");
    assert_eq!(references(31), 129);
    // A reset gives all pages back, however often it is interrupted.
    world.hv.hal.interrupt_every.store(1, Ordering::SeqCst);
    for _ in 0..300 {
        assert_eq!(bind_ipi(dom1, 0).0, 0);
    }
    dom1.put(ARG, &SELF);
    let called = dom1.call(EVENT, &[EVTCHNOP_RESET.into(), ARG]);
    assert_eq!(called.result, 0);
    assert!(called.preempted > 2);
    assert_eq!((references(30), references(31)), (1, 1));
    assert_eq!(dom1.domain.events.lock().abi(), Abi::TwoLevel);
    assert_eq!(open_ports(dom1), 0);
    assert_eq!(world.hv.hal.mapped.load(Ordering::SeqCst), mapped);
}

#[test]
fn reset_of_ports_that_lead_to_another_domain() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let mut ends = Vec::new();
    for _ in 0..5 {
        let (_, port) = alloc_unbound(dom1, SELF, 0);
        ends.push(bind(dom0, 1, port).1);
    }
    dom0.put(ARG, &NO_DOMAIN);
    assert_eq!(dom0.result(EVENT, &[10, ARG]), ESRCH);
    dom1.put(ARG, &0u16);
    assert_eq!(dom1.result(EVENT, &[10, ARG]), EPERM);
    dom1.put(ARG, &1u16);
    assert_eq!(dom1.result(EVENT, &[14, ARG]), EBUSY, "nothing to continue");
    dom0.put(ARG, &1u16);
    assert_eq!(dom0.result(EVENT, &[10, ARG]), 0);
    assert_eq!(open_ports(dom1), 0);
    for end in ends {
        assert_eq!(status(dom0, SELF, end).1.status, EVTCHNSTAT_UNBOUND);
    }
}
