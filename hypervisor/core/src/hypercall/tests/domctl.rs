//! domctl on domains that exist: who may, what it says, pausing.

use std::sync::atomic::Ordering::SeqCst;

use xen_abi::control::*;
use xen_abi::event_channel::*;
use xen_abi::hypercall::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::errno::*;
use super::{NO_DOMAIN, SELF};
use crate::fakes::{ARG, DOMU_PAGES, Guest, NOWHERE, World};

/// Executes a domctl; returns the result, the domain in the structure, and the operation's part of it.
/// Executes a domctl of 4.17's interface: the result, the domain that came back, and the part.
pub(crate) fn domctl<T: IntoBytes + FromBytes + Immutable>(
    guest: &Guest,
    command: u32,
    domain: u16,
    part: T,
) -> (i64, u16, T) {
    domctl_as(XEN_DOMCTL_INTERFACE_VERSION, guest, command, domain, part)
}

/// The same of any version's.
pub(crate) fn domctl_as<T: IntoBytes + FromBytes + Immutable>(
    version: u32,
    guest: &Guest,
    command: u32,
    domain: u16,
    part: T,
) -> (i64, u16, T) {
    let mut op = Domctl {
        cmd: command,
        interface_version: version,
        domain,
        _pad: [0; 3],
        u: [0; 128],
    };
    part.write_to_prefix(&mut op.u).unwrap();
    guest.put(ARG, &op);
    let result = guest.result(HYPERVISOR_DOMCTL, &[ARG]);
    let op: Domctl = guest.get(ARG);
    (result, op.domain, T::read_from_prefix(&op.u).unwrap().0)
}

/// Executes a domctl that has no argument beside the domain.
pub(crate) fn simple(guest: &Guest, command: u32, domain: u16) -> i64 {
    domctl(guest, command, domain, [0u8; 0]).0
}

pub(crate) fn info(guest: &Guest, domain: u16) -> (i64, DomctlGetdomaininfo) {
    let nothing = DomctlGetdomaininfo::new_zeroed();
    let (result, echoed, info) = domctl(guest, XEN_DOMCTL_GETDOMAININFO, domain, nothing);
    if result == 0 {
        assert_eq!(echoed, info.domain);
    }
    (result, info)
}

#[test]
fn only_the_right_caller_version_and_domain() {
    let world = World::new();
    let pause = XEN_DOMCTL_PAUSEDOMAIN;
    assert_eq!(simple(&world.dom1, pause, 2), EPERM);
    assert_eq!(simple(&world.dom1, pause, NO_DOMAIN), ESRCH);
    assert_eq!(simple(&world.dom0, pause, NO_DOMAIN), ESRCH);
    assert_eq!(simple(&world.dom0, pause, SELF), ESRCH);
    assert_eq!(simple(&world.dom0, pause, 0), EINVAL);
    assert_eq!(simple(&world.dom0, 999, 1), ENOSYS);
    let op = Domctl {
        cmd: pause,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION + 1,
        domain: 1,
        _pad: [0; 3],
        u: [0; 128],
    };
    world.dom0.put(ARG, &op);
    assert_eq!(world.dom0.result(HYPERVISOR_DOMCTL, &[ARG]), EACCES);
    assert_eq!(world.dom0.result(HYPERVISOR_DOMCTL, &[NOWHERE]), EFAULT);
    assert!(world.dom1.domain.vcpus[0].is_runnable());
}

#[test]
fn pauses_are_counted() {
    let world = World::new();
    let vcpu = &world.dom1.domain.vcpus[0];
    let paused = || info(&world.dom0, 1).1.flags & XEN_DOMINF_PAUSED != 0;
    assert!(vcpu.is_runnable() && !paused());
    for _ in 0..255 {
        assert_eq!(simple(&world.dom0, XEN_DOMCTL_PAUSEDOMAIN, 1), 0);
    }
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_PAUSEDOMAIN, 1), EOVERFLOW);
    for _ in 0..255 {
        assert!(!vcpu.is_runnable() && paused());
        assert_eq!(simple(&world.dom0, XEN_DOMCTL_UNPAUSEDOMAIN, 1), 0);
    }
    assert!(vcpu.is_runnable() && !paused());
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_UNPAUSEDOMAIN, 1), EINVAL);
    // What never ran does not begin to.
    assert!(!world.dom1.domain.vcpus[1].is_runnable());
}

#[test]
fn what_a_toolstack_hears() {
    let world = World::new();
    let (result, info1) = info(&world.dom0, 1);
    assert_eq!(result, 0);
    let quiet = XEN_DOMINF_HVM_GUEST | XEN_DOMINF_HAP | 0xffff_0000;
    assert_eq!(info1.flags, quiet);
    assert_eq!(info1.tot_pages, u64::from(DOMU_PAGES));
    assert_eq!(info1.max_pages, u64::from(DOMU_PAGES));
    assert_eq!(info1.shared_info_frame, u64::MAX);
    assert_eq!((info1.nr_online_vcpus, info1.max_vcpu_id), (1, 1));
    assert_eq!(info1.gpaddr_bits, 40);
    // The next one, for who goes through them.
    let domain = world.dom1.domain.facts.id.raw();
    assert_eq!(domain, 1);
    assert_eq!(info(&world.dom0, 3).0, ESRCH);
    assert_eq!(info(&world.dom0, SELF).0, EINVAL);

    let handle = std::array::from_fn(|n| n as u8);
    let (result, ..) = domctl(
        &world.dom0,
        XEN_DOMCTL_SETDOMAINHANDLE,
        1,
        DomctlSetdomainhandle { handle },
    );
    assert_eq!(result, 0);
    let (result, ..) = domctl(
        &world.dom0,
        XEN_DOMCTL_MAX_MEM,
        1,
        DomctlMaxMem { max_memkb: 1023 },
    );
    assert_eq!(result, 0);
    let info1 = info(&world.dom0, 1).1;
    assert_eq!((info1.handle, info1.max_pages), (handle, 255));
    for (size, expected) in [(32, 0), (64, EINVAL), (0, EINVAL)] {
        let size = DomctlAddressSize { size };
        let (result, ..) = domctl(&world.dom0, XEN_DOMCTL_SET_ADDRESS_SIZE, 1, size);
        assert_eq!(result, expected);
    }
}

/// A global VIRQ goes to whom the toolstack names, and back to dom0 when that domain dies.
#[test]
fn another_domain_handles_a_virq() {
    let world = World::new();
    let set = |domain, virq| {
        let wanted = DomctlSetVirqHandler { virq };
        domctl(&world.dom0, XEN_DOMCTL_SET_VIRQ_HANDLER, domain, wanted).0
    };
    let bind = |guest: &Guest| {
        let op = EvtchnBindVirq {
            virq: VIRQ_DOM_EXC,
            vcpu: 0,
            port: 0,
        };
        let (result, op) = guest.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ, op);
        assert_eq!(result, 0);
        op.port
    };
    let (own, others) = (bind(&world.dom0), bind(&world.dom1));
    let heard = |guest: &Guest, port: u32| {
        let before = guest.domain.shared_info_words()[12].fetch_and(!(1 << port), SeqCst);
        before & 1 << port != 0
    };
    world.hv.tell_domain_changed();
    assert_eq!(
        (heard(&world.dom0, own), heard(&world.dom1, others)),
        (true, false)
    );
    assert_eq!(set(NO_DOMAIN, VIRQ_DOM_EXC), ESRCH);
    assert_eq!((set(1, VIRQ_TIMER), set(1, 24)), (EINVAL, EINVAL));
    assert_eq!(set(1, VIRQ_DOM_EXC), 0);
    world.hv.tell_domain_changed();
    assert_eq!(
        (heard(&world.dom0, own), heard(&world.dom1, others)),
        (false, true)
    );
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, 1), 0);
    assert!(heard(&world.dom0, own), "that dom1 has gone");
}

#[test]
fn a_debugger_is_shown() {
    let world = World::new();
    let set = |domain, enable| {
        let wanted = DomctlSetdebugging { enable };
        domctl(&world.dom0, XEN_DOMCTL_SETDEBUGGING, domain, wanted).0
    };
    let shown = || info(&world.dom0, 1).1.flags & XEN_DOMINF_DEBUGGED != 0;
    assert!(!shown());
    assert_eq!((set(0, 1), set(1, 1)), (EINVAL, 0));
    assert!(shown());
    assert_eq!(set(1, 0), 0);
    assert!(!shown());
}
