//! vuart_op: a UART whose far end is a daemon in dom0, which is played here.

use std::sync::atomic::Ordering::SeqCst;

use xen_abi::control::*;
use xen_abi::event_channel::*;

use super::NO_DOMAIN;
use super::domctl::{domctl, simple};
use super::errno::*;
use super::events::{bind, is_pending, on_port, open_ports, send, status};
use crate::addr::DomId;
use crate::evtchn::Port;
use crate::fakes::{RAM, World};
use crate::frames::Owner;
use crate::vgic::Width;
use crate::vpl011::reg;

/// The page of the rings.
const GFN: u32 = RAM + 9;
const IN_CONS: usize = 768;
const IN_PROD: usize = 769;
const OUT_CONS: usize = 770;
const OUT_PROD: usize = 771;

fn make(world: &World, domain: u16, change: impl FnOnce(&mut DomctlVuartOp)) -> (i64, u32) {
    let mut wanted = DomctlVuartOp {
        cmd: XEN_DOMCTL_VUART_OP_INIT,
        kind: XEN_DOMCTL_VUART_TYPE_VPL011,
        gfn: GFN.into(),
        console_domid: 0,
        pad: [0; 2],
        evtchn: 0,
    };
    change(&mut wanted);
    let (result, _, wanted) = domctl(&world.dom0, XEN_DOMCTL_VUART_OP, domain, wanted);
    (result, wanted.evtchn)
}

/// dom1 with a UART: its port, and dom0's.
fn world() -> (World, u32, u32) {
    let world = World::new();
    let (result, near) = make(&world, 1, |_| ());
    assert_eq!(result, 0);
    let (result, far) = bind(&world.dom0, 1, near);
    assert_eq!(result, 0);
    clear(&world, far);
    (world, near, far)
}

/// dom0 takes its event.
fn clear(world: &World, far: u32) {
    let mask = !(1u32 << far);
    let words = world.dom0.domain.shared_info_words();
    words[12].fetch_and(mask, SeqCst);
    assert!(!is_pending(&world.dom0, far));
}

fn access(world: &World, register: u32, write: Option<u32>) -> u32 {
    let domain = &world.dom1.domain;
    let at = crate::vuart::BASE.checked_add(register.into()).unwrap();
    let register = domain.vuart_at(at).unwrap();
    domain.access_vuart(&world.dom1.hv, register, Width::Word, write, &mut |_, _| {
        panic!("not on the console")
    })
}

fn page(world: &World) -> std::sync::Arc<[std::sync::atomic::AtomicU32; 1024]> {
    let mapping = world.dom1.mapping(GFN).unwrap();
    world.dom1.hv.hal.words(mapping.mfn)
}

#[test]
fn what_is_sent_reaches_the_daemon_and_back() {
    let (world, _, far) = world();
    let page = page(&world);
    access(&world, reg::DR, Some(u32::from(b'h')));
    assert!(is_pending(&world.dom0, far));
    clear(&world, far);
    access(&world, reg::DR, Some(u32::from(b'i')));
    assert!(is_pending(&world.dom0, far));
    clear(&world, far);
    assert_eq!(page[OUT_PROD].load(SeqCst), 2);
    assert_eq!(page[256].load(SeqCst) & 0xffff, 0x6968);
    // Reading registers is no news.
    assert_eq!(access(&world, reg::FR, None) & 0xf8, 0x90);
    assert!(!is_pending(&world.dom0, far));

    page[0].store(u32::from_le_bytes(*b"abcd"), SeqCst);
    page[IN_PROD].store(3, SeqCst);
    assert_eq!(access(&world, reg::IMSC, Some(1 << 4 | 1 << 6)), 0);
    // Without being told it is seen at the next access, and the daemon hears that there is room.
    assert!(is_pending(&world.dom0, far));
    clear(&world, far);
    page[IN_PROD].store(4, SeqCst);
    assert_eq!(send(&world.dom0, far), 0);
    assert_eq!(page[IN_CONS].load(SeqCst), 4);
    let got: Vec<_> = (0..4)
        .map(|_| access(&world, reg::DR, None) as u8)
        .collect();
    assert_eq!(got, b"abcd");
    assert_eq!(access(&world, reg::FR, None) & 0x10, 0x10, "empty");
}

/// The guest waits while the daemon does not read, and loses nothing.
#[test]
fn a_full_ring_stops_the_guest() {
    let (world, _, far) = world();
    let page = page(&world);
    access(&world, reg::IMSC, Some(1 << 5));
    let mut sent = 0u32;
    while access(&world, reg::FR, None) & 0x20 == 0 {
        access(&world, reg::DR, Some(sent & 0xff));
        sent += 1;
    }
    assert_eq!((sent, page[OUT_PROD].load(SeqCst)), (2048, 2048));
    assert_eq!(access(&world, reg::RIS, None) & 0x20, 0, "no room");
    // What it sends all the same is lost, and spoils nothing.
    access(&world, reg::DR, Some(0x55));
    assert_eq!(page[OUT_PROD].load(SeqCst), 2048);
    assert_eq!(page[256].load(SeqCst), 0x0302_0100);
    page[OUT_CONS].store(5, SeqCst);
    assert_eq!(send(&world.dom0, far), 0);
    assert_eq!(access(&world, reg::MIS, None), 0x20, "room again");
    access(&world, reg::DR, Some(0xee));
    assert_eq!(page[256].load(SeqCst), 0x0302_01ee);
}

/// More typed than the device holds: the rest comes up as the guest reads, and the daemon is told.
#[test]
fn a_long_line_is_whole() {
    let (world, _, far) = world();
    let page = page(&world);
    for n in 0..256 {
        page[n].store(u32::from_le_bytes([n as u8; 4]), SeqCst);
    }
    page[IN_PROD].store(1024, SeqCst);
    assert_eq!(send(&world.dom0, far), 0);
    assert!(page[IN_CONS].load(SeqCst) < 1024);
    for n in 0..1024 {
        assert_eq!(access(&world, reg::DR, None), n / 4);
        assert_eq!(is_pending(&world.dom0, far), n < 1024 - 256, "{n}");
        if n < 1024 - 256 {
            clear(&world, far);
        }
    }
    assert_eq!(page[IN_CONS].load(SeqCst), 1024);
}

/// The page is the guest's own: who fills it as fast as it is emptied, with the receiver off, does not keep the hypervisor.
#[test]
fn a_producer_that_never_stops() {
    let (world, ..) = world();
    let page = page(&world);
    access(&world, reg::CR, Some(0));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (words, stopped) = (page.clone(), stop.clone());
    let producer = std::thread::spawn(move || {
        while !stopped.load(SeqCst) {
            words[IN_PROD].store(words[IN_CONS].load(SeqCst).wrapping_add(1024), SeqCst);
        }
    });
    let mut taken = 0;
    while taken < if cfg!(miri) { 2000 } else { 200_000 } {
        let before = page[IN_CONS].load(SeqCst);
        access(&world, reg::FR, None);
        let now = page[IN_CONS].load(SeqCst).wrapping_sub(before);
        assert!(now <= 1024);
        taken += now;
    }
    stop.store(true, SeqCst);
    producer.join().unwrap();
}

#[test]
fn the_port_is_the_hypervisors() {
    let (world, near, far) = world();
    let dom1 = &world.dom1;
    assert_eq!(on_port(dom1, EVTCHNOP_CLOSE, near), EINVAL);
    assert_eq!(send(dom1, near), EINVAL);
    let op = EvtchnBindVcpu {
        port: near,
        vcpu: 1,
    };
    let result = dom1.op(super::HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VCPU, op);
    assert_eq!(result.0, EINVAL);
    let reset = EvtchnReset { dom: super::SELF };
    let result = dom1.op(super::HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_RESET, reset);
    assert_eq!((result.0, open_ports(dom1)), (0, 1));
    assert_eq!(send(&world.dom0, far), 0);
    assert!(!is_pending(dom1, near), "the guest hears nothing");
    // The daemon goes and comes again.
    assert_eq!(on_port(&world.dom0, EVTCHNOP_CLOSE, far), 0);
    access(&world, reg::DR, Some(0x41));
    assert_eq!(status(&world.dom0, 1, near).1.status, 1);
    let (result, again) = bind(&world.dom0, 1, near);
    assert_eq!(result, 0);
    clear(&world, again);
    access(&world, reg::DR, Some(0x42));
    assert!(is_pending(&world.dom0, again));
}

#[test]
fn what_is_refused() {
    let world = World::new();
    assert_eq!(make(&world, NO_DOMAIN, |_| ()).0, ESRCH);
    assert_eq!(make(&world, 1, |op| op.kind = 1).0, EOPNOTSUPP);
    assert_eq!(make(&world, 1, |op| op.cmd = 1).0, EINVAL);
    assert_eq!(make(&world, 1, |op| op.pad = [1, 0]).0, EINVAL);
    for gfn in [0x9000, u64::MAX, 1 << 32] {
        assert_eq!(make(&world, 1, |op| op.gfn = gfn).0, EINVAL);
    }
    assert_eq!(open_ports(&world.dom1), 0);
    assert_eq!(make(&world, 1, |_| ()).0, 0);
    assert_eq!(make(&world, 1, |_| ()).0, EINVAL, "there is one");
    assert_eq!(open_ports(&world.dom1), 1);
}

/// The page goes with the domain.
#[test]
fn nothing_stays_behind() {
    let (world, _, far) = world();
    let hv = world.dom0.hv.clone();
    let mfn = world.dom1.mapping(GFN).unwrap().mfn;
    assert_eq!(hv.frames.references(mfn), 2);
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, 1), 0);
    assert_ne!(hv.frames.owner(mfn), Some(Owner::Domain(DomId::new(1))));
    let events = world.dom0.domain.events.lock();
    let status = events.status(Port::new(far)).unwrap().state.number();
    drop(events);
    assert_eq!(status, 1, "unbound again");
}
