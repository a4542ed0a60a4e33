//! Flaws that Xen had, in calls of ours; `docs/security.md` has the list.

use std::sync::atomic::Ordering;

use xen_abi::control::*;
use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::*;
use xen_abi::memory::*;
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use zerocopy::{FromZeros, IntoBytes};

use super::domctl::{domctl, simple};
use super::errno::*;
use super::grants::grant;
use super::life::{create, creation};
use super::{NO_DOMAIN, SELF};
use crate::addr::{Gfn, Mfn};
use crate::fakes::{ARG, DOMU_PAGES, Guest, LIST, NOWHERE, RAM, World, page};
use crate::frames::Owner;

const MEMORY: u32 = HYPERVISOR_MEMORY_OP;
/// Numbers that a count or an order must not be.
const HUGE: [u32; 8] = [10, 19, 20, 31, 32, 63, 64, u32::MAX];

fn reservation(domid: u16, nr_extents: u64, extent_order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: LIST,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid,
        _pad: [0; 6],
    }
}

/// Free frames, and references to frames of domain 1.
fn balance(world: &World) -> (u32, u32) {
    let guest = &world.dom1;
    let mapped = (0..DOMU_PAGES).filter_map(|n| guest.mapping(RAM + n));
    let references = mapped.map(|mapping| world.hv.frames.references(mapping.mfn));
    (world.hv.allocator.lock().free_frames(), references.sum())
}

#[test]
fn xsa_20_any_timeout_can_be_asked_for() {
    let world = World::new();
    let guest = &world.dom1;
    for timeout in [0, 1, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX] {
        let poll = SchedPoll {
            ports: LIST,
            nr_ports: 0,
            _pad: 0,
            timeout,
        };
        let (result, _) = guest.op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, poll);
        assert_eq!(result, 0, "{timeout:#x}");
        guest.domain.end_poll(guest.vcpu);
    }
}

#[test]
fn xsa_29_31_158_159_212_extents_are_checked_before_use() {
    let world = World::new();
    let before = balance(&world);
    for guest in [&world.dom0, &world.dom1] {
        for order in HUGE {
            for count in [1, 2, 1 << 26, u64::from(u32::MAX), 1 << 32, u64::MAX] {
                for command in [
                    XENMEM_INCREASE_RESERVATION,
                    XENMEM_DECREASE_RESERVATION,
                    XENMEM_POPULATE_PHYSMAP,
                ] {
                    let result = guest.op(MEMORY, command, reservation(SELF, count, order)).0;
                    assert_eq!(result, 0, "{command} {count:#x} {order}");
                }
                let mut exchange = MemoryExchange::new_zeroed();
                exchange.in_ = reservation(SELF, count, order);
                exchange.out = reservation(SELF, u64::MAX - count, order);
                exchange.nr_exchanged = count;
                assert!(guest.op(MEMORY, XENMEM_EXCHANGE, exchange).0 < 0);
            }
        }
    }
    // Pages that are not the caller's RAM end the call.
    for gfn in [0, 1 << 28, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        world.dom1.put(LIST, &gfn);
        let op = reservation(SELF, 1, 0);
        let (result, _) = world.dom1.op(MEMORY, XENMEM_DECREASE_RESERVATION, op);
        assert_eq!(result, 0, "{gfn:#x}");
    }
    assert_eq!(balance(&world), before);
    world.check();
}

#[test]
fn xsa_77_492_499_only_a_toolstack_controls() {
    let world = World::new();
    // Nothing that a domain without the right can call gets as far as a lock.
    for command in 0..100 {
        for target in [0, 1, 2, NO_DOMAIN, SELF] {
            let result = simple(&world.dom1, command, target);
            assert!([EPERM, ESRCH].contains(&result), "{command}: {result}");
        }
    }
    for number in [HYPERVISOR_SYSCTL, HYPERVISOR_PLATFORM_OP] {
        assert!(world.dom1.result(number, &[ARG]) < 0, "{number}");
    }
    // A domain cannot stop itself in a way that only others could undo.
    for command in [XEN_DOMCTL_PAUSEDOMAIN, XEN_DOMCTL_DESTROYDOMAIN] {
        assert_eq!(simple(&world.dom0, command, 0), EINVAL);
    }
}

#[test]
fn xsa_122_nothing_but_the_answer_is_written() {
    let world = World::new();
    for guest in [&world.dom0, &world.dom1] {
        for command in 0..16 {
            let answers: Vec<(i64, [u8; 2048])> = [0x5a, 0xa5]
                .map(|stale| {
                    guest.put(LIST, &[stale; 2048][..]);
                    // The index of the features.
                    if command == 6 {
                        guest.put(LIST, &0u32);
                    }
                    let result = guest.result(HYPERVISOR_XEN_VERSION, &[command, LIST]);
                    (result, guest.get(LIST))
                })
                .to_vec();
            assert_eq!(answers[0].0, answers[1].0);
            let bytes = answers[0].1.iter().zip(&answers[1].1).enumerate();
            for (at, (one, other)) in bytes {
                let is_stale = *one == 0x5a && *other == 0xa5;
                assert!(
                    is_stale || one == other,
                    "{command}: byte {at} is no answer"
                );
            }
        }
    }
}

/// A domain that comes, with memory for so many allocations, and goes, interrupted after each step.
#[test]
fn xsa_147_149_151_181_207_a_domain_leaves_nothing_behind() {
    let world = World::new();
    let dom0 = &world.dom0;
    let before = world.hv.allocator.lock().free_frames();
    for allocations in (0..60).chain([u32::MAX]) {
        let short = Guest {
            allocations,
            ..dom0.clone()
        };
        let (result, id, _) = create(&short, 0);
        world.check();
        if result != 0 {
            assert_eq!(result, ENOMEM, "{allocations}");
            assert_eq!(world.hv.allocator.lock().free_frames(), before);
            continue;
        }
        let limit = DomctlMaxMem { max_memkb: 256 };
        assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, id, limit).0, 0);
        dom0.put(LIST, &[0x4_0000u64, 0x4_0001, 0x8_0000][..]);
        let op = reservation(id, 3, 0);
        assert_eq!(dom0.op(MEMORY, XENMEM_POPULATE_PHYSMAP, op).0, 3);
        world.hv.hal.interrupt_every.store(1, Ordering::SeqCst);
        assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
        world
            .hv
            .hal
            .interrupt_every
            .store(u32::MAX, Ordering::SeqCst);
        world.check();
        assert_eq!(world.hv.allocator.lock().free_frames(), before);
    }
    // Too many vCPUs, or none.
    for max_vcpus in [0, 9, 128, u32::MAX] {
        let wanted = DomctlCreatedomain {
            max_vcpus,
            ..creation()
        };
        assert_eq!(domctl(dom0, XEN_DOMCTL_CREATEDOMAIN, 0, wanted).0, EINVAL);
    }
    assert_eq!(world.hv.allocator.lock().free_frames(), before);
}

#[test]
fn xsa_235_334_failed_mappings_leave_no_lock_and_no_reference() {
    let world = World::new();
    let before = balance(&world);
    // Device memory that it may not have is no error.
    for space in (0..8).filter(|space| *space != XENMAPSPACE_DEV_MMIO) {
        for (idx, gpfn) in [
            (u64::MAX, 0x9_0000),
            (4, 0x9_0000),
            (0, 1 << 28),
            (0, u64::MAX),
            (1 << 31, 0x9_0000),
        ] {
            for domid in [SELF, 2, NO_DOMAIN] {
                let op = AddToPhysmap {
                    domid,
                    size: 3,
                    space,
                    idx,
                    gpfn,
                };
                let result = world.dom1.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, op).0;
                assert!(result < 0, "{space} {idx:#x} {gpfn:#x} {domid}: {result}");
                world.check();
            }
        }
    }
    // The second frame has no place.
    world.dom0.put(LIST, &[0x9_0000, u64::MAX][..]);
    for frame in [0, 3, u64::MAX] {
        let op = MemAcquireResource {
            domid: 1,
            type_: XENMEM_RESOURCE_GRANT_TABLE as u16,
            id: 0,
            nr_frames: 2,
            _pad: 0,
            frame,
            frame_list: LIST,
        };
        assert!(world.dom0.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, op).0 < 0);
        world.check();
    }
    let op = RemoveFromPhysmap {
        domid: SELF,
        _pad: [0; 6],
        gpfn: 0x9_0000,
    };
    let _ = world.dom0.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, op);
    // Tables of dom1 may have come, its pages are held by nobody.
    assert_eq!(balance(&world).1, before.1);
    world.check();
}

#[test]
fn xsa_284_287_a_transfer_moves_no_count() {
    let world = World::new();
    let before = balance(&world);
    for domid in [0, 1, 2, SELF, NO_DOMAIN] {
        for gfn in [RAM + 20, RAM + 21, 0x9_0000, u32::MAX] {
            let mut op = GnttabTransfer::new_zeroed();
            op.mfn = u64::from(gfn);
            op.domid = domid;
            op.ref_ = 9;
            let (result, _) = world
                .dom1
                .op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_TRANSFER, op);
            // It is for guests without stage 2.
            assert_eq!(result, EOPNOTSUPP, "{domid} {gfn:#x}");
            world.check();
        }
    }
    assert_eq!(balance(&world), before);
}

#[test]
fn xsa_296_vcpu_operations_take_any_number() {
    let world = World::new();
    for command in 0..40u64 {
        for vcpu in [2, 8, 127, 128, 1 << 16, 1 << 31, u64::from(u32::MAX)] {
            for at in [ARG, NOWHERE, 0, u64::from(u32::MAX)] {
                let result = world.dom1.result(HYPERVISOR_VCPU_OP, &[command, vcpu, at]);
                assert!(result < 0, "{command} {vcpu:#x}: {result}");
            }
        }
    }
    world.check();
}

#[test]
fn xsa_318_a_preempted_copy_goes_on_where_it_was() {
    let world = World::new();
    let dom1 = &world.dom1;
    let copy = |n: u16| {
        let mut op = GnttabCopy::new_zeroed();
        op.source.u = u64::from(RAM + 20);
        op.dest.u = u64::from(RAM + 21);
        op.source.domid = SELF;
        op.dest.domid = SELF;
        op.source.offset = 8 * n;
        op.dest.offset = 16 * n;
        op.len = if n == 3 { 5000 } else { 8 };
        op.status = 1;
        op
    };
    for n in 0..8u64 {
        dom1.put(page(20) + 8 * n, &(n + 1));
    }
    let list: Vec<GnttabCopy> = (0..8).map(copy).collect();
    dom1.put(LIST, list.as_bytes());
    world.hv.hal.interrupt_every.store(1, Ordering::SeqCst);
    let called = dom1.call(HYPERVISOR_GRANT_TABLE_OP, &[GNTTABOP_COPY.into(), LIST, 8]);
    assert_eq!((called.result, called.preempted), (0, 7));
    for n in 0..8u64 {
        let done: GnttabCopy = dom1.get(LIST + n * size_of::<GnttabCopy>() as u64);
        assert_eq!(done.status == GNTST_OKAY, n != 3, "{n}");
        let expected = if n == 3 { 0 } else { n + 1 };
        assert_eq!(dom1.get::<u64>(page(21) + 16 * n), expected);
    }
    world.check();
}

#[test]
fn xsa_383_385_nobody_exceeds_its_limit() {
    let world = World::new();
    let dom1 = &world.dom1;
    let account = &dom1.domain.account;
    dom1.put(LIST, &[0x9_0000u64, 0x9_0001, 0x9_0002, 0x9_0003][..]);
    assert_eq!(account.pages(), account.limit());
    let populate = || {
        dom1.op(MEMORY, XENMEM_POPULATE_PHYSMAP, reservation(SELF, 4, 0))
            .0
    };
    assert_eq!(populate(), 0);
    account.set_limit(account.pages() + 2);
    assert_eq!(populate(), 2);
    // A page that somebody still has mapped counts until it is really free.
    grant(dom1, 9, 0, 0x9_0000, GTF_PERMIT_ACCESS);
    let mut map = GnttabMapGrantRef::new_zeroed();
    map.host_addr = 0xa_0000 << 12;
    map.flags = GNTMAP_HOST_MAP;
    map.ref_ = 9;
    map.dom = 1;
    let (_, map) = world
        .dom0
        .op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF, map);
    assert_eq!(map.status, GNTST_OKAY);
    dom1.put(LIST, &[0x9_0000u64][..]);
    let give_up = dom1.op(MEMORY, XENMEM_DECREASE_RESERVATION, reservation(SELF, 1, 0));
    assert_eq!(give_up.0, 1);
    assert_eq!(account.pages(), account.limit());
    assert_eq!(populate(), 0);
    // A limit below what it has, and sums that do not fit.
    account.set_limit(0);
    assert!(!account.try_add(1) && !account.try_add(u32::MAX));
    account.set_limit(u32::MAX);
    assert!(!account.try_add(u32::MAX));
    world.check();
}

#[test]
fn xsa_496_a_failed_bind_leaves_the_virq_free() {
    let world = World::new();
    let guest = &world.dom1;
    let bind = |virq, vcpu, allocations| {
        let short = Guest {
            allocations,
            ..guest.clone()
        };
        let op = EvtchnBindVirq {
            virq,
            vcpu,
            port: 0,
        };
        short
            .op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ, op)
            .0
    };
    for virq in 0..NR_VIRQS {
        assert!(bind(virq, 2, u32::MAX) < 0);
        assert!(bind(virq, u32::MAX, u32::MAX) < 0);
    }
    assert!(bind(NR_VIRQS, 0, u32::MAX) < 0 && bind(u32::MAX, 0, u32::MAX) < 0);
    // No memory for ports, and again with some: nothing says that it is bound.
    let mut seen = Vec::new();
    for allocations in 0..4 {
        seen.push(bind(VIRQ_TIMER, 0, allocations));
        if seen.last() == Some(&0) {
            break;
        }
        assert_eq!(seen.last(), Some(&ENOMEM));
    }
    assert_eq!(seen.last(), Some(&0), "{seen:?}");
    assert_eq!(bind(VIRQ_TIMER, 0, u32::MAX), EEXIST);
    world.check();
}

/// Memory of one domain comes to another, through every way that there is, as zeroes.
#[test]
fn xsa_100_364_511_a_new_owner_sees_zeroes() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let secret = [0x5ec2_e7aau32; 1024];
    // All that is free was somebody's.
    let free = RAM..RAM + world.hv.frames.total_frames();
    for mfn in free
        .map(Mfn::new)
        .filter(|&mfn| world.hv.frames.owner(mfn).is_none())
    {
        for (word, value) in world.hv.hal.words(mfn).iter().zip(secret) {
            word.store(value, Ordering::Relaxed);
        }
    }
    for n in 20..40 {
        dom1.put(page(n), &secret[..]);
    }
    let gfns: Vec<u64> = (20..40).map(|n| u64::from(RAM + n)).collect();
    dom1.put(LIST, &gfns[..]);
    let op = reservation(SELF, 20, 0);
    assert_eq!(dom1.op(MEMORY, XENMEM_DECREASE_RESERVATION, op).0, 20);

    let (result, id, _) = create(dom0, 0);
    assert_eq!(result, 0);
    let limit = DomctlMaxMem {
        max_memkb: 4 * 1500,
    };
    assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, id, limit).0, 0);
    let (mut populated, mut base) = (0, 0x4_0000u64);
    for order in [9, 9, 4, 0, 0, 0] {
        dom0.put(LIST, &base);
        let op = reservation(id, 1, order);
        populated += dom0.op(MEMORY, XENMEM_POPULATE_PHYSMAP, op).0 << order;
        base += 1 << order;
    }
    assert!(populated >= 512, "{populated}");
    let new = super::life::guest(&world, id);
    let memory = crate::hal::Hal::p2m_memory(&world.hv.hal, new.domain.vttbr);
    let zero = |mfn: Mfn| {
        let words = world.hv.hal.words(mfn);
        assert!(
            words.iter().all(|word| word.load(Ordering::Relaxed) == 0),
            "{mfn:x}"
        );
    };
    for gfn in 0x4_0000..base as u32 {
        if let Some(mapping) = new.domain.p2m.lock().lookup(&memory, Gfn::new(gfn)) {
            zero(mapping.mfn);
        }
    }
    // And what the hypervisor shares with it.
    let frames = RAM..RAM + world.hv.frames.total_frames();
    for mfn in frames.map(Mfn::new) {
        if world.hv.frames.is_xenheap_of(mfn, new.domain.facts.id)
            && mfn != crate::machine::SharedPage::mfn(&new.domain.shared_info)
        {
            zero(mfn);
        }
        assert_ne!(
            world.hv.frames.owner(mfn),
            Some(Owner::Domain(crate::addr::DomId::new(NO_DOMAIN)))
        );
    }
}

/// vCPU areas that a guest names anywhere.
#[test]
fn xsa_327_areas_are_where_they_may_be() {
    let world = World::new();
    for (mfn, offset) in [
        (u64::from(RAM + 20), 4096),
        (u64::from(RAM + 20), u32::MAX),
        (u64::from(RAM + 20), 4090),
        (u64::from(RAM + 20), 3),
        (u64::MAX, 0),
        (1 << 28, 0),
        (0x9_0000, 0),
    ] {
        let op = VcpuRegisterVcpuInfo {
            mfn,
            offset,
            _rsvd: 0,
        };
        world.dom1.put(ARG, &op);
        let args = [u64::from(VCPUOP_REGISTER_VCPU_INFO), 0, ARG];
        assert!(
            world.dom1.result(HYPERVISOR_VCPU_OP, &args) < 0,
            "{mfn:#x} {offset:#x}"
        );
        world.check();
    }
}
