//! Fakes for the tests of event channels, and the tests of single calls. `model` and `hostile` hold the random ones.

mod hostile;
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::guest::{FIFO_BUSY, FIFO_LINK, FIFO_LINKED, FIFO_MASKED, FIFO_PENDING};
use super::*;
use crate::addr::Mfn;

/// A page that the test, as the guest, keeps a handle to.
#[derive(Clone)]
pub(super) struct FakePage(Arc<[AtomicU32; 1024]>);

impl FakePage {
    pub(super) fn new() -> Self {
        Self(Arc::new([const { AtomicU32::new(0) }; 1024]))
    }
    pub(super) fn filled(value: u32) -> Self {
        let page = Self::new();
        for word in page.0.iter() {
            word.store(value, SeqCst);
        }
        page
    }
    pub(super) fn word(&self, index: usize) -> &AtomicU32 {
        &self.0[index]
    }
    pub(super) fn get(&self, index: usize) -> u32 {
        self.0[index].load(SeqCst)
    }
    pub(super) fn set(&self, index: usize, value: u32) {
        self.0[index].store(value, SeqCst);
    }
}

impl SharedPage for FakePage {
    fn words(&self) -> &[AtomicU32; 1024] {
        &self.0
    }
    fn mfn(&self) -> Mfn {
        Mfn::new(0)
    }
}

/// xorshift64*.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        (self.next() >> 32) as u32 % limit
    }
}

pub(super) type Channels = EventChannels<FakePage>;

pub(super) const V0: VcpuId = VcpuId::new(0);
pub(super) const V1: VcpuId = VcpuId::new(1);
const D1: DomId = DomId::new(1);
const D2: DomId = DomId::new(2);

/// Returns the channels of dom0 with this many vCPUs, and its shared_info.
pub(super) fn dom0(vcpus: u16) -> (Channels, FakePage) {
    domain(DomId::DOM0, vcpus)
}

fn domain(id: DomId, vcpus: u16) -> (Channels, FakePage) {
    let shared = FakePage::new();
    let channels = Channels::new(id, vcpus, NO_PORT_LIMIT, shared.clone()).unwrap();
    (channels, shared)
}

/// Returns dom0 with FIFO on: its channels, the control block page of vCPU 0, the first page of the array.
fn fifo_dom0() -> (Channels, FakePage, FakePage) {
    let (mut channels, _) = dom0(2);
    let (control, array) = (FakePage::new(), FakePage::new());
    channels.init_control(0, control.clone(), 0).unwrap();
    assert!(channels.expand_array(array.clone()).unwrap().is_empty());
    (channels, control, array)
}

pub(super) fn local(sent: Result<Sent, Errno>) -> Notify {
    match sent.unwrap() {
        Sent::Local(notify) => notify,
        Sent::Remote { .. } => panic!("not local"),
    }
}

#[test]
fn offsets_are_those_of_the_public_headers() {
    let (mut c, shared) = dom0(1);
    for _ in 1..70 {
        c.bind_ipi(0).unwrap();
    }
    assert_eq!(local(c.send(Port::new(69))), Notify::Kick(V0));
    // Bit 5 of the 64-bit word 1 of evtchn_pending (48 + 8).
    assert_eq!(shared.get((48 + 8) / 4), 1 << 5);
    assert_eq!(shared.get(0), 1);
    assert_eq!((shared.get(2), shared.get(3)), (1 << 1, 0));
    // The high half of word 0 of evtchn_mask at 560.
    shared.set((560 + 4) / 4, 1 << 3);
    assert!(c.is_masked(Port::new(35)));
    assert_eq!(local(c.send(Port::new(35))), Notify::None);
    assert_eq!(shared.get((48 + 4) / 4), 1 << 3);
    assert_eq!(c.unmask(Port::new(35)), Ok(Notify::None), "upcall already");
    assert_eq!(shared.get(2), 0b11);
}

#[test]
fn a_channel_stays_small() {
    assert_eq!(size_of::<table::Channel>(), 16);
    assert_eq!(size_of::<Notify>(), 4);
}

#[test]
fn ports_begin_at_one_and_the_lowest_free_is_taken() {
    let (mut c, _) = dom0(1);
    let ports: Vec<u32> = (0..200).map(|_| c.bind_ipi(0).unwrap().raw()).collect();
    assert_eq!(ports, (1..=200).collect::<Vec<_>>());
    for port in [7, 150, 64] {
        assert_eq!(c.close(Port::new(port)), Ok(Closed::Done));
    }
    let again: Vec<u32> = (0..4).map(|_| c.bind_ipi(0).unwrap().raw()).collect();
    assert_eq!(again, [7, 64, 150, 201]);
}

#[test]
fn port_limits_are_enforced() {
    let mut c = Channels::new(D1, 1, 1023, FakePage::new()).unwrap();
    for port in 1..=1023 {
        assert_eq!(c.alloc_unbound(D2), Ok(Port::new(port)));
    }
    assert_eq!(c.alloc_unbound(D2), Err(Errno::NoSpc));
    let (mut c, _) = dom0(1);
    for _ in 1..4096 {
        c.bind_ipi(0).unwrap();
    }
    assert_eq!(c.bind_ipi(0), Err(Errno::NoSpc), "2-level ends at 4095");
    c.init_control(0, FakePage::new(), 0).unwrap();
    let last = if cfg!(miri) { 4200 } else { 131_072 };
    for port in 4096..last {
        assert_eq!(c.bind_ipi(0), Ok(Port::new(port)));
    }
    if last == 131_072 {
        assert_eq!(c.bind_ipi(0), Err(Errno::NoSpc), "FIFO ends at 131071");
    }
}

#[test]
fn xsa_317_and_342_bad_ports_are_refused_everywhere() {
    let (mut c, _) = dom0(1);
    for raw in [
        0,
        1,
        63,
        64,
        4095,
        4096,
        131_071,
        131_072,
        1 << 31,
        u32::MAX,
    ] {
        let port = Port::new(raw);
        assert_eq!(c.send(port), Err(Errno::Inval));
        assert_eq!(c.close(port), Err(Errno::Inval));
        assert_eq!(c.bind_vcpu(port, 0), Err(Errno::Inval));
        assert_eq!(c.bind_interdomain_self(port), Err(Errno::Inval));
        assert_eq!(c.set_pending(port), Notify::None);
        assert!(!c.is_pending(port));
        let beyond = raw >= 64;
        assert_eq!(c.status(port).is_err(), beyond);
        assert_eq!(c.unmask(port).is_err(), beyond);
        assert_eq!(c.poll(V0, &[port]).is_err(), beyond);
        c.end_poll(V0);
    }
}

#[test]
fn self_binding_connects_two_ports_of_one_domain() {
    let (mut c, _) = dom0(2);
    let a = c.alloc_unbound(DomId::DOM0).unwrap();
    assert_eq!(local(c.send(a)), Notify::None, "unbound: dropped");
    assert!(!c.is_pending(a));
    let (b, notify) = c.bind_interdomain_self(a).unwrap();
    assert_eq!(notify, Notify::Kick(V0), "events sent before were lost");
    assert!(c.is_pending(b));
    let status = c.status(a).unwrap();
    let expected = PortState::Interdomain {
        domain: DomId::DOM0,
        port: b,
    };
    assert_eq!((status.state, status.state.number()), (expected, 2));
    assert_eq!(local(c.send(b)), Notify::None, "upcall already pending");
    assert!(c.is_pending(a));
    assert_eq!(c.bind_interdomain_self(a), Err(Errno::Inval), "bound");
    assert_eq!(c.close(b), Ok(Closed::Done));
    assert!(!c.is_pending(b));
    let expected = PortState::Unbound {
        domain: DomId::DOM0,
    };
    assert_eq!(c.status(a).unwrap().state, expected);
    assert_eq!(c.status(b).unwrap().state.number(), 0);
}

#[test]
fn two_domains_bind_send_and_close() {
    let ((mut a, _), (mut b, _)) = (domain(D1, 1), domain(D2, 1));
    let offered = b.alloc_unbound(D1).unwrap();
    let strange = b.alloc_unbound(DomId::new(3)).unwrap();
    assert_eq!(
        Channels::bind_interdomain(&mut a, &mut b, strange),
        Err(Errno::Inval)
    );
    b.bind_ipi(0).unwrap();
    let (mine, notify) = Channels::bind_interdomain(&mut a, &mut b, offered).unwrap();
    assert_eq!(notify, Notify::Kick(V0));
    let sent = a.send(mine).unwrap();
    let expected = Sent::Remote {
        domain: D2,
        port: offered,
    };
    assert_eq!(sent, expected);
    assert_eq!(b.set_pending_from(offered, D1, mine), Notify::Kick(V0));
    assert!(b.is_pending(offered));
    // Somebody else's port, or a connection that is gone.
    assert_eq!(b.set_pending_from(strange, D1, mine), Notify::None);
    assert!(!b.is_pending(strange));
    assert_eq!(a.close(mine), Ok(Closed::NeedsPeer(D2)));
    assert_eq!(a.status(mine).unwrap().state.number(), 2, "not touched");
    assert_eq!(Channels::close_pair(&mut a, &mut b, mine), Ok(Closed::Done));
    assert_eq!(
        b.status(offered).unwrap().state,
        PortState::Unbound { domain: D1 }
    );
    assert_eq!(
        Channels::close_pair(&mut a, &mut b, mine),
        Err(Errno::Inval)
    );
    // The connection changed between the two locks: the caller is told whom to lock now.
    let (mut third, _) = domain(DomId::new(3), 1);
    let offered = third.alloc_unbound(D1).unwrap();
    let (mine, _) = Channels::bind_interdomain(&mut a, &mut third, offered).unwrap();
    assert_eq!(
        Channels::close_pair(&mut a, &mut b, mine),
        Ok(Closed::NeedsPeer(DomId::new(3)))
    );
}

#[test]
fn given_ports_are_connected() {
    let (mut a, page_a) = domain(DomId::new(1), 1);
    let (mut b, page_b) = domain(DomId::new(2), 1);
    let port = Port::new;
    let notify = Channels::connect(&mut a, port(0x110), &mut b, port(3)).unwrap();
    let none = |page: &FakePage| (0..1024).all(|word| page.get(word) == 0);
    assert!(none(&page_a) && !none(&page_b), "an event for the second");
    assert_eq!(notify, Notify::Kick(VcpuId::new(0)));
    assert!(b.is_pending(port(3)));
    for word in 0..1024 {
        page_b.set(word, 0);
    }
    let sent = a.send(port(0x110)).unwrap();
    assert!(
        matches!(sent, Sent::Remote { domain, port: peer } if domain == DomId::new(2) && peer == port(3))
    );
    assert_ne!(
        b.set_pending_from(port(3), DomId::new(1), port(0x110)),
        Notify::None
    );
    // Taken is taken, at either end, and nothing is changed then.
    let mut refuse = |one, other| {
        let before = (a.table.open_count(), b.table.open_count());
        let error = Channels::connect(&mut a, port(one), &mut b, port(other)).unwrap_err();
        assert_eq!((a.table.open_count(), b.table.open_count()), before);
        error
    };
    assert_eq!(refuse(0x110, 4), Errno::Exist);
    assert_eq!(refuse(5, 3), Errno::Exist);
    assert_eq!(refuse(0, 4), Errno::Inval);
    assert_eq!(refuse(5, 4096), Errno::Inval);
    assert_eq!(refuse(u32::MAX, 4), Errno::Inval);
    // Others go round it: 1, 2, 4.
    let next: Vec<u32> = (0..3)
        .map(|_| b.alloc_unbound(DomId::DOM0).unwrap().raw())
        .collect();
    assert_eq!(next, [1, 2, 4]);
    // It closes as any other.
    assert!(matches!(a.close(port(0x110)), Ok(Closed::NeedsPeer(_))));
    let _ = Channels::close_pair(&mut a, &mut b, port(0x110)).unwrap();
    assert!(matches!(
        b.status(port(3)).unwrap().state,
        PortState::Unbound { .. }
    ));
    let _ = b.connect_self(port(8), port(9)).unwrap();
    assert!(b.is_pending(port(9)) && !b.is_pending(port(8)));
    assert_eq!(b.connect_self(port(10), port(10)), Err(Errno::Exist));
    assert!(matches!(b.send(port(8)), Ok(Sent::Local(_))));
}

#[test]
fn virqs_bind_once_and_raise() {
    let (mut c, _) = dom0(2);
    assert_eq!(c.bind_virq(24, 0), Err(Errno::Inval));
    assert_eq!(c.bind_virq(u32::MAX, 0), Err(Errno::Inval));
    assert_eq!(c.bind_virq(0, 2), Err(Errno::NoEnt));
    assert_eq!(c.bind_virq(0, 65_536), Err(Errno::NoEnt), "no truncation");
    assert_eq!(c.bind_virq(3, 1), Err(Errno::Inval), "global: vCPU 0 only");
    let timer = c.bind_virq(0, 1).unwrap();
    assert_eq!(c.bind_virq(0, 1), Err(Errno::Exist));
    let exc = c.bind_virq(3, 0).unwrap();
    assert_eq!(c.send(exc), Err(Errno::Inval), "a guest cannot raise it");
    assert_eq!(c.raise_virq(V0, Virq::TIMER), Notify::None, "not bound");
    c.register_vcpu_info(V1, FakePage::new(), 0).ok();
    assert_eq!(c.raise_virq(V1, Virq::TIMER), Notify::None, "upcall is up");
    assert!(c.is_pending(timer));
    assert_eq!(c.raise_virq(V1, Virq::DOM_EXC), Notify::Kick(V0));
    assert_eq!(c.bind_vcpu(timer, 0), Err(Errno::Inval), "per-vCPU");
    assert_eq!(c.bind_vcpu(exc, 2), Err(Errno::NoEnt));
    assert_eq!(c.bind_vcpu(exc, 1), Ok(()));
    assert_eq!(c.status(exc).unwrap().vcpu, V1);
    assert_eq!(c.close(timer), Ok(Closed::Done));
    assert_eq!(c.bind_virq(0, 1), Ok(timer));
    assert_eq!(c.status(timer).unwrap().state.number(), 4);
    let ipi = c.bind_ipi(1).unwrap();
    assert_eq!(c.bind_vcpu(ipi, 0), Err(Errno::Inval));
}

#[test]
fn xsa_221_a_closed_port_can_be_unmasked_and_polled() {
    for fifo in [false, true] {
        let (mut c, _) = dom0(1);
        if fifo {
            c.init_control(0, FakePage::new(), 0).unwrap();
        }
        let port = c.bind_ipi(0).unwrap();
        assert_eq!(c.close(port), Ok(Closed::Done));
        assert_eq!(c.unmask(port), Ok(Notify::None));
        assert_eq!(c.poll(V0, &[port]), Ok(Poll::Wait));
    }
}

#[test]
fn closing_takes_the_pending_state_back() {
    let (mut c, shared) = dom0(1);
    let port = c.bind_ipi(0).unwrap();
    let _ = c.send(port).unwrap();
    assert_eq!(c.close(port), Ok(Closed::Done));
    assert_eq!(shared.get(12), 0);
    let (mut c, _, array) = fifo_dom0();
    let port = c.bind_ipi(0).unwrap();
    let _ = c.send(port).unwrap();
    assert_eq!(c.close(port), Ok(Closed::Done));
    assert_eq!(array.get(port.index()), FIFO_LINKED);
    assert_ne!(c.bind_ipi(0).unwrap(), port, "still on a queue: busy");
    array.set(port.index(), 0);
    assert_eq!(c.bind_ipi(0).unwrap(), port);
}

#[test]
fn xsa_327_vcpu_info_is_aligned_and_moves_without_loss() {
    let (mut c, shared) = dom0(2);
    let page = FakePage::filled(0x55);
    for offset in [4, 4, 4056, 4092, 4096, u32::MAX, u32::MAX - 7] {
        assert_eq!(
            c.register_vcpu_info(V0, page.clone(), offset),
            Err(RegisterError::Misplaced)
        );
    }
    assert_eq!(
        c.register_vcpu_info(VcpuId::new(2), page.clone(), 0),
        Err(RegisterError::NoVcpu)
    );
    let port = c.bind_ipi(1).unwrap();
    assert_eq!(local(c.send(port)), Notify::None, "vCPU 1 has none yet");
    assert!(!c.upcall_pending(V1));
    assert_eq!(
        c.register_vcpu_info(V1, page.clone(), 4048),
        Ok(Notify::Kick(V1))
    );
    assert!(c.upcall_pending(V1));
    assert_eq!(page.get(1012), 1);
    assert_eq!((page.get(1014), page.get(1015)), (u32::MAX, u32::MAX));
    assert_eq!(page.get(1016), 0, "the rest is zero");
    assert_eq!(page.get(1011), 0x55);
    assert_eq!(
        c.register_vcpu_info(V1, page.clone(), 0),
        Err(RegisterError::Registered)
    );
    // vCPU 0's goes along with its contents.
    shared.set(5, 0xabcd);
    let page = FakePage::new();
    assert_eq!(
        c.register_vcpu_info(V0, page.clone(), 64),
        Ok(Notify::Kick(V0))
    );
    assert_eq!(page.get(16 + 5), 0xabcd);
    assert_eq!(shared.get(0), 0);
    assert!(c.unregister_vcpu_info(V0).is_some());
    assert!(!c.upcall_pending(V0));
    assert!(c.unregister_vcpu_info(V0).is_none());
}

#[test]
fn pollers_are_woken_by_their_port() {
    let (mut c, shared) = dom0(3);
    let (a, b) = (c.bind_ipi(0).unwrap(), c.bind_ipi(0).unwrap());
    shared.set(560 / 4, u32::MAX);
    assert_eq!(c.poll(V0, &[a]), Ok(Poll::Wait));
    assert_eq!(c.poll(V1, &[a, b]), Ok(Poll::Wait));
    assert_eq!(local(c.send(b)), Notify::Pollers(None));
    assert_eq!(c.take_woken().collect::<Vec<_>>(), [V1]);
    assert_eq!(c.poll(V1, &[a, b]), Ok(Poll::Ready));
    assert_eq!(local(c.send(b)), Notify::None, "pending: nothing new");
    shared.set(560 / 4, 0);
    assert_eq!(local(c.send(a)), Notify::Pollers(Some(V0)));
    assert_eq!(c.take_woken().collect::<Vec<_>>(), [V0]);
    assert!(c.take_woken().is_empty());
    c.end_poll(V0);
    assert_eq!(c.poll(VcpuId::new(9), &[]), Err(Errno::Inval));
    assert_eq!(c.poll(V0, &[]), Ok(Poll::Wait));
    c.end_poll(V0);
    c.end_poll(V0);
    assert_eq!(c.polling_count, 0);
}

#[test]
fn reset_closes_everything_and_leaves_fifo() {
    let (mut c, _, array) = fifo_dom0();
    for _ in 0..300 {
        c.bind_ipi(0).unwrap();
    }
    let virq = c.bind_virq(1, 0).unwrap();
    let offered = c.alloc_unbound(DomId::DOM0).unwrap();
    let _ = c.bind_interdomain_self(offered).unwrap();
    assert_eq!(c.reset(ResetCall::Continue, 64), Err(Errno::Busy));
    let mut calls = 1;
    let mut step = c.reset(ResetCall::Begin, 64).unwrap();
    assert_eq!(c.reset(ResetCall::Begin, 64), Err(Errno::Busy));
    while step == Reset::More {
        step = c.reset(ResetCall::Continue, 64).unwrap();
        calls += 1;
    }
    assert_eq!((step, calls), (Reset::Done, 5));
    assert_eq!(c.abi(), Abi::TwoLevel);
    assert_eq!(Arc::strong_count(&array.0), 1, "pages are given back");
    assert_eq!(c.status(virq).unwrap().state, PortState::Closed);
    assert_eq!(c.expand_array(array), Err(Errno::OpNotSupp));
    assert_eq!(c.bind_virq(1, 0), Ok(Port::new(1)));
    // XSA-344: ports opened behind a reset do not make it endless.
    for _ in 0..100 {
        c.bind_ipi(0).unwrap();
    }
    assert_eq!(c.reset(ResetCall::Begin, 64), Ok(Reset::More));
    c.bind_ipi(0).unwrap();
    let step = loop {
        match c.reset(ResetCall::Continue, 64) {
            Ok(Reset::More) => {}
            step => break step,
        }
    };
    assert_eq!(step, Err(Errno::Again));
}

#[test]
fn reset_stops_at_a_port_of_another_domain() {
    let ((mut a, _), (mut b, _)) = (domain(D1, 1), domain(D2, 1));
    let offered = b.alloc_unbound(D1).unwrap();
    let (mine, _) = Channels::bind_interdomain(&mut a, &mut b, offered).unwrap();
    a.set_dying();
    assert_eq!(a.bind_ipi(0), Err(Errno::Inval));
    assert_eq!(
        a.reset(ResetCall::Begin, 1024),
        Ok(Reset::NeedsPeer(D2, mine))
    );
    assert_eq!(Channels::close_pair(&mut a, &mut b, mine), Ok(Closed::Done));
    assert_eq!(a.reset(ResetCall::Continue, 1024), Ok(Reset::Done));
}

/// A toolstack's reset that was interrupted goes on while the domain is destroyed: neither keeps the other from its end.
#[test]
fn a_dying_domain_is_reset_by_two() {
    let (mut c, _) = dom0(1);
    for _ in 0..300 {
        c.bind_ipi(0).unwrap();
    }
    assert_eq!(c.reset(ResetCall::Begin, 64), Ok(Reset::More));
    c.set_dying();
    assert_eq!(c.reset(ResetCall::Begin, 64), Ok(Reset::More));
    assert_eq!(c.reset(ResetCall::Continue, 1024), Ok(Reset::Done));
    assert_eq!(c.reset(ResetCall::Continue, 1024), Ok(Reset::Done));
}

#[test]
fn fifo_calls_check_their_arguments() {
    let (mut c, _) = dom0(2);
    let page = FakePage::new();
    assert_eq!(Channels::LINK_BITS, 17);
    assert_eq!(c.expand_array(page.clone()), Err(Errno::OpNotSupp));
    let port = c.bind_ipi(0).unwrap();
    assert_eq!(c.set_priority(port, 3), Err(Errno::NoSys));
    assert_eq!(c.check_init_control(2, 0), Err(Errno::NoEnt));
    for offset in [4, 1, 4028, 4032, 4096, u32::MAX] {
        assert_eq!(c.init_control(0, page.clone(), offset), Err(Errno::Inval));
    }
    assert_eq!(c.abi(), Abi::TwoLevel);
    assert_eq!(c.init_control(0, page.clone(), 4024), Ok(()));
    assert_eq!(c.init_control(0, page.clone(), 0), Err(Errno::Inval));
    assert_eq!(c.init_control(1, page.clone(), 0), Ok(()));
    assert_eq!(c.set_priority(port, 15), Ok(()));
    assert_eq!(c.set_priority(port, 16), Err(Errno::Inval));
    assert_eq!(c.set_priority(port, 256), Err(Errno::Inval));
    assert_eq!(c.set_priority(Port::new(5), 3), Err(Errno::Access));
    assert_eq!(c.set_priority(Port::new(1 << 20), 3), Err(Errno::Inval));
    for _ in 0..128 {
        assert!(c.expand_array(page.clone()).unwrap().is_empty());
    }
    assert_eq!(c.expand_array(page.clone()), Err(Errno::NoSpc));
}

#[test]
fn two_level_events_go_over_to_fifo() {
    let (mut c, shared) = dom0(1);
    let (a, b) = (c.bind_ipi(0).unwrap(), c.bind_ipi(0).unwrap());
    let _ = c.send(b).unwrap();
    shared.set(0, 0);
    let (control, array) = (FakePage::new(), FakePage::new());
    c.init_control(0, control.clone(), 8).unwrap();
    assert!(c.is_pending(b) && !c.is_pending(a));
    assert_eq!(local(c.send(a)), Notify::None, "no page yet: kept");
    array.set(b.index(), FIFO_MASKED);
    let kicks: Vec<_> = c.expand_array(array.clone()).unwrap().collect();
    assert_eq!(kicks, [V0]);
    assert_eq!(array.get(a.index()), FIFO_PENDING | FIFO_LINKED);
    assert_eq!(array.get(b.index()), FIFO_PENDING | FIFO_MASKED);
    assert_eq!(control.get(2), 1 << 7, "ready: default priority");
    assert_eq!(control.get(2 + 2 + 7), a.raw());
    array.word(a.index()).fetch_and(!FIFO_PENDING, SeqCst);
    assert!(!c.is_pending(a), "kept no longer");
    assert_eq!(c.unmask(b), Ok(Notify::None), "linked behind a");
    assert_eq!(array.get(a.index()), FIFO_LINKED | b.raw());
}

#[test]
fn fifo_links_through_priorities_and_vcpus() {
    let (mut c, control, array) = fifo_dom0();
    let ports: Vec<Port> = (0..4)
        .map(|_| c.alloc_unbound(DomId::DOM0).unwrap())
        .collect();
    c.set_priority(ports[3], 0).unwrap();
    assert_eq!(c.set_pending(ports[0]), Notify::Kick(V0));
    assert_eq!(c.set_pending(ports[1]), Notify::None);
    assert_eq!(c.set_pending(ports[3]), Notify::None, "upcall is up");
    assert_eq!(control.get(0), 1 << 7 | 1);
    assert_eq!(control.get(2), ports[3].raw());
    assert_eq!(array.get(1) & FIFO_LINK, 2);
    // vCPU 1 has no control block: pending, not linked, nobody told.
    c.bind_vcpu(ports[2], 1).unwrap();
    assert_eq!(c.set_pending(ports[2]), Notify::None);
    assert_eq!(array.get(3), FIFO_PENDING);
    let second = FakePage::new();
    c.init_control(1, second.clone(), 0).unwrap();
    let _ = c.register_vcpu_info(V1, FakePage::new(), 0).unwrap();
    assert_eq!(c.unmask(ports[2]), Ok(Notify::None), "asserted before");
    assert_eq!(second.get(2 + 7), 3);
    // The tail of vCPU 0's queue is consumed and moves to vCPU 1: nothing may be linked behind it there.
    array.set(1, 0);
    array.set(2, 0);
    control.set(2 + 7, 0);
    c.bind_vcpu(ports[1], 1).unwrap();
    let _ = c.set_pending(ports[1]);
    assert_eq!(array.get(3) & FIFO_LINK, 2);
    let _ = c.set_pending(ports[0]);
    assert_eq!(array.get(2) & FIFO_LINK, 0);
    assert_eq!(control.get(2 + 7), 1, "a new head");
}

#[test]
fn xsa_107_and_188_control_blocks_cannot_be_replaced_or_outlive_a_reset() {
    let (mut c, control, _) = fifo_dom0();
    assert_eq!(c.init_control(0, FakePage::new(), 0), Err(Errno::Inval));
    assert_eq!(c.reset(ResetCall::Begin, u32::MAX), Ok(Reset::Done));
    assert_eq!(Arc::strong_count(&control.0), 1);
    // Again, with no trace of the former queues.
    c.init_control(0, control.clone(), 0).unwrap();
    let array = FakePage::new();
    assert!(c.expand_array(array.clone()).unwrap().is_empty());
    let port = c.bind_ipi(0).unwrap();
    assert_eq!(local(c.send(port)), Notify::Kick(V0));
    assert_eq!(control.get(2 + 7), port.raw());
}

#[test]
fn a_tail_that_is_busy_is_linked_and_cleaned() {
    let (mut c, _, array) = fifo_dom0();
    let (a, b) = (c.bind_ipi(0).unwrap(), c.bind_ipi(0).unwrap());
    let _ = c.send(a).unwrap();
    array.word(a.index()).fetch_or(FIFO_BUSY, SeqCst);
    let _ = c.send(b).unwrap();
    assert_eq!(array.get(a.index()), FIFO_PENDING | FIFO_LINKED | b.raw());
}

#[test]
fn the_dump_names_every_open_port() {
    let (mut c, _, _) = fifo_dom0();
    let a = c.alloc_unbound(D2).unwrap();
    c.bind_virq(1, 1).unwrap();
    let _ = c.set_pending(a);
    let mut text = String::new();
    c.dump(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[2], "       1 [1/0/  0   ]: s=2 n=0 x=0 d=2");
    assert_eq!(lines[3], "       2 [0/0/  -   ]: s=5 n=1 x=0 v=1");
}
