//! Domains that a toolstack makes and ends.

use std::sync::atomic::Ordering;

use xen_abi::control::*;
use xen_abi::event_channel::*;
use xen_abi::hypercall::*;
use xen_abi::memory::*;
use xen_abi::sched::*;
use xen_abi::vcpu::{VGCF_ONLINE, VcpuGuestContext};
use zerocopy::FromZeros;

use super::domctl::{domctl, info, simple};
use super::errno::*;
use crate::addr::{DomId, VcpuId};
use crate::domain::{ShutdownReason, Stage};
use crate::fakes::{Guest, LIST, RAM, World, page};

pub(crate) fn creation() -> DomctlCreatedomain {
    DomctlCreatedomain {
        ssidref: 0,
        handle: [7; 16],
        flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
        iommu_opts: 0,
        max_vcpus: 2,
        max_evtchn_port: 1023,
        max_grant_frames: 4,
        max_maptrack_frames: 2,
        grant_opts: 1,
        vmtrace_size: 0,
        cpupool_id: 0,
        arch: ArchDomainconfig::default(),
    }
}

pub(crate) fn create(guest: &Guest, wanted: u16) -> (i64, u16, DomctlCreatedomain) {
    domctl(guest, XEN_DOMCTL_CREATEDOMAIN, wanted, creation())
}

fn populate(guest: &Guest, domid: u16, gfns: &[u64]) -> i64 {
    guest.put(LIST, gfns);
    let op = MemoryReservation {
        extent_start: LIST,
        nr_extents: gfns.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid,
        _pad: [0; 6],
    };
    guest
        .op(HYPERVISOR_MEMORY_OP, XENMEM_POPULATE_PHYSMAP, op)
        .0
}

/// What must be as before when domains have come and gone: free frames, mapped pages.
fn balance(world: &World) -> (u32, u32) {
    (
        world.hv.allocator.lock().free_frames(),
        world.hv.hal.mapped.load(Ordering::SeqCst),
    )
}

/// The new domain as a caller of hypercalls.
pub(crate) fn guest(world: &World, id: u16) -> Guest {
    Guest {
        hv: world.hv.clone(),
        domain: world.hv.domains.get(DomId::new(id)).unwrap(),
        vcpu: VcpuId::new(0),
        allocations: u32::MAX,
    }
}

#[test]
fn a_domain_comes_and_goes() {
    let world = World::new();
    let dom0 = &world.dom0;
    let before = balance(&world);
    let (result, id, made) = create(dom0, 0);
    assert_eq!((result, id), (0, 3));
    assert_eq!(made.arch.gic_version, XEN_DOMCTL_CONFIG_GIC_V2);
    let flags = info(dom0, id).1.flags;
    assert_ne!(flags & XEN_DOMINF_PAUSED, 0);
    assert_eq!(info(dom0, id).1.handle, [7; 16]);
    assert_eq!(info(dom0, id).1.nr_online_vcpus, 0);

    for (max, expected) in [(2, 0), (1, EINVAL), (3, EINVAL)] {
        let max = DomctlMaxVcpus { max };
        assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_VCPUS, id, max).0, expected);
    }
    let limit = DomctlMaxMem { max_memkb: 64 };
    assert_eq!(populate(dom0, id, &[0x4_0000]), 0, "none allowed yet");
    assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, id, limit).0, 0);
    let gfns: Vec<u64> = (0x4_0000..0x4_0020).collect();
    assert_eq!(populate(dom0, id, &gfns), 16);
    assert_eq!(info(dom0, id).1.tot_pages, 16);

    let mut registers = VcpuGuestContext::new_zeroed();
    registers.flags = VGCF_ONLINE;
    registers.user_regs.cpsr = 0x1d3;
    let at = page(40);
    dom0.put(at, &registers);
    let context = DomctlVcpucontext {
        vcpu: 0,
        _pad: 0,
        ctxt: at,
    };
    assert_eq!(
        domctl(dom0, XEN_DOMCTL_GETVCPUCONTEXT, id, context).0,
        ENODATA
    );
    assert_eq!(domctl(dom0, XEN_DOMCTL_SETVCPUCONTEXT, id, context).0, 0);
    dom0.put(at, &VcpuGuestContext::new_zeroed());
    assert_eq!(domctl(dom0, XEN_DOMCTL_GETVCPUCONTEXT, id, context).0, 0);
    assert_eq!(dom0.get::<VcpuGuestContext>(at), registers);
    assert_eq!(info(dom0, id).1.nr_online_vcpus, 1);
    let domain = guest(&world, id).domain;
    assert!(!domain.vcpus[0].is_runnable());
    assert_eq!(simple(dom0, XEN_DOMCTL_UNPAUSEDOMAIN, id), 0);
    assert!(domain.vcpus[0].is_runnable());
    let vmid = domain.vttbr >> 48;
    drop(domain);

    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
    assert_eq!(info(dom0, id).0, ESRCH);
    assert_eq!(balance(&world), before);
    // Another number each time, but the same VMID.
    assert_eq!(create(dom0, 0).1, 4);
    assert_eq!(guest(&world, 4).domain.vttbr >> 48, vmid);
}

/// A guest adds its own time to the wall clock that it is shown.
#[test]
fn the_wall_clock_of_a_domain_begins_with_it() {
    use xen_abi::shared_info::SHARED_INFO_WC_SEC;
    let world = World::new();
    *world.hv.wallclock.lock() = (1_000_000, 5);
    // 90.5 s after boot.
    let ticks = 1000 + 90 * 62_500_000 + 31_250_000;
    world.hv.hal.ticks.store(ticks, Ordering::SeqCst);
    let id = create(&world.dom0, 0).1;
    assert_eq!(guest(&world, id).shared_info(SHARED_INFO_WC_SEC), 1_000_090);
}

#[test]
fn numbers() {
    let world = World::new();
    let dom0 = &world.dom0;
    assert_eq!(create(dom0, 1).0, EEXIST);
    assert_eq!(create(dom0, 77).1, 77);
    assert_eq!(create(dom0, 77).0, EEXIST);
    assert_eq!(create(dom0, 0).1, 3);
    assert_eq!(create(dom0, DOMID_FIRST_RESERVED).1, 4);
    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, 77), 0);
    assert_eq!(create(dom0, 77).1, 77);
    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, 0), EINVAL);
    assert_eq!(simple(&world.dom1, XEN_DOMCTL_DESTROYDOMAIN, 2), EPERM);
}

#[test]
fn performance_monitors_for_who_asks() {
    let world = World::new();
    let good = creation();
    for flag in [0, XEN_DOMCTL_CDF_VPMU] {
        let flags = good.flags | flag;
        let wanted = DomctlCreatedomain { flags, ..good };
        let (result, id, _) = domctl(&world.dom0, XEN_DOMCTL_CREATEDOMAIN, 0, wanted);
        assert_eq!(result, 0);
        let domain = world.hv.domains.get(DomId::new(id)).unwrap();
        assert_eq!(domain.facts.has_pmu, flag != 0);
    }
}

#[test]
fn what_cannot_be_made() {
    let world = World::new();
    let before = balance(&world);
    let good = creation();
    let arch = good.arch;
    let bad = [
        DomctlCreatedomain { flags: 1, ..good },
        DomctlCreatedomain {
            flags: good.flags | XEN_DOMCTL_CDF_IOMMU,
            ..good
        },
        DomctlCreatedomain {
            flags: good.flags | 1 << 20,
            ..good
        },
        DomctlCreatedomain {
            iommu_opts: 1,
            ..good
        },
        DomctlCreatedomain {
            max_vcpus: 0,
            ..good
        },
        DomctlCreatedomain {
            max_vcpus: 9,
            ..good
        },
        DomctlCreatedomain {
            max_grant_frames: 0,
            ..good
        },
        DomctlCreatedomain {
            grant_opts: 0,
            ..good
        },
        DomctlCreatedomain {
            grant_opts: 0x11,
            ..good
        },
        DomctlCreatedomain {
            vmtrace_size: 1,
            ..good
        },
        DomctlCreatedomain {
            arch: ArchDomainconfig {
                gic_version: XEN_DOMCTL_CONFIG_GIC_V3,
                ..arch
            },
            ..good
        },
        DomctlCreatedomain {
            arch: ArchDomainconfig {
                tee_type: 1,
                ..arch
            },
            ..good
        },
        DomctlCreatedomain {
            arch: ArchDomainconfig {
                nr_spis: 961,
                ..arch
            },
            ..good
        },
    ];
    for wanted in bad {
        let (result, ..) = domctl(&world.dom0, XEN_DOMCTL_CREATEDOMAIN, 0, wanted);
        assert_eq!(result, EINVAL, "{wanted:?}");
    }
    let pool = DomctlCreatedomain {
        cpupool_id: 1,
        ..good
    };
    let (result, ..) = domctl(&world.dom0, XEN_DOMCTL_CREATEDOMAIN, 0, pool);
    assert_eq!(result, ENODEV);
    assert_eq!(balance(&world), before);
}

/// However little memory there is, it is ENOMEM and nothing stays behind; with enough, it works.
#[test]
fn creation_without_memory() {
    let world = World::new();
    let before = balance(&world);
    // What the fakes keep for ever is there.
    assert_eq!(create(&world.dom0, 50).0, 0);
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, 50), 0);
    for allocations in 0..200 {
        let poor = Guest {
            allocations,
            ..world.dom0.clone()
        };
        let (result, id, _) = create(&poor, 0);
        if result == 0 {
            assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
            assert_eq!(balance(&world), before);
            assert!(allocations > 10, "{allocations}");
            return;
        }
        assert_eq!(result, ENOMEM, "with {allocations} allocations");
        assert_eq!(balance(&world), before, "with {allocations} allocations");
    }
    panic!("no amount of memory is enough");
}

#[test]
fn creation_without_frames() {
    let world = World::new();
    let before = balance(&world);
    assert_eq!(create(&world.dom0, 50).0, 0);
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, 50), 0);
    // Leave fewer and fewer frames.
    let mut hoard = Vec::new();
    let mut refused = 0;
    while let Some(mfn) = take_frame(&world) {
        hoard.push(mfn);
        let free = world.hv.allocator.lock().free_frames();
        if free > 20 {
            continue;
        }
        let (result, id, _) = create(&world.dom0, 0);
        if result == 0 {
            assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
        } else {
            assert_eq!(result, ENOMEM);
            refused += 1;
        }
        assert_eq!(world.hv.allocator.lock().free_frames(), free);
    }
    assert!(refused > 2, "{refused}");
    for mfn in hoard {
        world.hv.put_frame(mfn);
    }
    assert_eq!(balance(&world), before);
}

fn take_frame(world: &World) -> Option<crate::addr::Mfn> {
    use crate::frames::{AllocRequest, Owner};
    let request = AllocRequest::new(0, Owner::Xen);
    let got = world.hv.allocator.lock().alloc(&world.hv.frames, &request);
    got.ok().map(|got| got.mfn)
}

/// There are fewer VMIDs than domains could be: that is said, and each that a domain gives back was flushed.
#[test]
fn all_vmids() {
    let world = World::new();
    let before = balance(&world);
    let taken: Vec<u16> = (0..230).map(|_| world.hv.vmids.take().unwrap()).collect();
    let mut made = Vec::new();
    let refusal = loop {
        let (result, id, _) = create(&world.dom0, 0);
        if result != 0 {
            break result;
        }
        made.push(id);
    };
    // Of 255, three are those of this world's domains.
    assert_eq!((refusal, made.len()), (EBUSY, 255 - 3 - 230));
    let flushes = || world.hv.hal.tlb_flushes.load(Ordering::SeqCst);
    let first = made.pop().unwrap();
    let vmid = guest(&world, first).domain.vttbr >> 48;
    let flushed = flushes();
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, first), 0);
    assert!(flushes() > flushed);
    // It is the next domain's, and the last.
    let (result, next, _) = create(&world.dom0, 0);
    assert_eq!((result, guest(&world, next).domain.vttbr >> 48), (0, vmid));
    assert_eq!(create(&world.dom0, 0).0, EBUSY);
    for id in made.into_iter().chain([next]) {
        let flushed = flushes();
        assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
        assert!(flushes() > flushed);
    }
    for vmid in taken {
        world.hv.vmids.give_back(vmid);
    }
    assert_eq!(balance(&world), before);
}

/// What others hold of a dead domain keeps it there, and nothing but that.
#[test]
fn others_hold_a_dead_domain() {
    let world = World::new();
    let dom0 = &world.dom0;
    let before = balance(&world);
    let id = create(dom0, 0).1;
    let limit = DomctlMaxMem { max_memkb: 64 };
    assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, id, limit).0, 0);
    assert_eq!(populate(dom0, id, &[0x4_0000, 0x4_0001]), 2);
    // dom0 maps one page of it, and a frame of its grant table.
    let hole = 0x9_0000u64;
    dom0.put(LIST, &[0x4_0000u64]);
    dom0.put(LIST + 8, &[hole]);
    let op = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GMFN_FOREIGN as u16,
        size: 1,
        foreign_domid: id,
        idxs: LIST,
        gpfns: LIST + 8,
        errs: LIST + 16,
    };
    let (result, _) = dom0.op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP_BATCH, op);
    assert_eq!((result, dom0.get::<i32>(LIST + 16)), (0, 0));
    dom0.put(LIST, &[hole + 1]);
    let op = MemAcquireResource {
        domid: id,
        type_: XENMEM_RESOURCE_GRANT_TABLE as u16,
        id: XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
        nr_frames: 1,
        _pad: 0,
        frame: 0,
        frame_list: LIST,
    };
    let (result, _) = dom0.op(HYPERVISOR_MEMORY_OP, XENMEM_ACQUIRE_RESOURCE, op);
    assert_eq!(result, 0);
    // And listens to it.
    let op = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: id,
        port: 0,
    };
    let (_, unbound) = dom0.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, op);
    let op = EvtchnBindVirq {
        virq: 3,
        vcpu: 0,
        port: 0,
    };
    let (result, _) = dom0.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ, op);
    assert_eq!(result, 0);

    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
    let (result, dead) = info(dom0, id);
    assert_eq!((result, dead.flags & XEN_DOMINF_DYING), (0, 1));
    assert_eq!(dead.tot_pages, 1);
    assert_eq!(guest(&world, id).domain.stage(), Stage::Dead);
    // Again is nothing new, and nothing new can be had of it.
    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
    assert_eq!(populate(dom0, id, &[0x4_0005]), 0);
    let op = EvtchnAllocUnbound {
        dom: id,
        remote_dom: 0,
        port: 0,
    };
    let (result, _) = dom0.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, op);
    assert_eq!(result, EINVAL);
    // Its number is not another's.
    assert_eq!(create(dom0, id).0, EEXIST);

    let unmap = |gpfn| {
        let op = RemoveFromPhysmap {
            domid: DOMID_SELF,
            _pad: [0; 6],
            gpfn,
        };
        assert_eq!(
            dom0.op(HYPERVISOR_MEMORY_OP, XENMEM_REMOVE_FROM_PHYSMAP, op)
                .0,
            0
        );
    };
    unmap(hole);
    let (result, dead) = info(dom0, id);
    assert_eq!((result, dead.tot_pages), (0, 0));
    unmap(hole + 1);
    assert_eq!(info(dom0, id).0, ESRCH);
    assert_eq!(create(dom0, id).0, 0);
    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
    assert_ne!(unbound.port, 0);
    let tables = 2;
    let _ = (RAM, tables);
    assert_eq!(balance(&world).1, before.1);
}

#[test]
fn watchdogs() {
    let world = World::new();
    let set = |guest: &Guest, id, timeout| {
        let op = SchedWatchdog { id, timeout };
        guest.op(HYPERVISOR_SCHED_OP, SCHEDOP_WATCHDOG, op).0
    };
    let second = 62_500_000;
    let at = |seconds: u64| 1000 + seconds * second;
    let bitten = |now: u64| {
        world.hv.hal.ticks.store(now, Ordering::SeqCst);
        let mut who = Vec::new();
        world.hv.expire_watchdogs(now, |domain| {
            domain.set_shutdown(ShutdownReason::Watchdog);
            who.push(domain.facts.id.raw());
        });
        who
    };
    assert_eq!(world.hv.watchdog_deadline(), u64::MAX);
    for id in [1, 2, 3, u32::MAX] {
        assert_eq!(set(&world.dom1, id, 5), EINVAL);
    }
    let op = SchedWatchdog { id: 0, timeout: 5 };
    world.dom1.put(crate::fakes::ARG, &op);
    let call = world.dom1.call(
        HYPERVISOR_SCHED_OP,
        &[u64::from(SCHEDOP_WATCHDOG), crate::fakes::ARG],
    );
    assert!(call.result == 1 && call.effects.deadline_changed);
    assert_eq!(world.hv.watchdog_deadline(), at(5));
    assert_eq!(set(&world.dom1, 0, 9), 2);
    assert_eq!(set(&world.dom1, 0, 9), EEXIST);
    assert_eq!(set(&world.dom2, 0, 7), 1);
    // Set anew in time, then stopped.
    assert!(bitten(at(4)).is_empty());
    assert_eq!(set(&world.dom1, 1, 5), 0);
    assert!(bitten(at(6)).is_empty());
    assert_eq!(world.hv.watchdog_deadline(), at(7));
    assert_eq!(set(&world.dom2, 1, 0), 0);
    assert!(bitten(at(8)).is_empty());
    assert_eq!(set(&world.dom2, 1, 1), EINVAL, "not in use any more");
    // Once, whatever else is set.
    assert_eq!(bitten(at(20)), [1]);
    assert_eq!(world.dom1.domain.shutdown(), Some(ShutdownReason::Watchdog));
    assert!(bitten(at(40)).is_empty());
    assert_eq!(world.hv.watchdog_deadline(), u64::MAX);
    // For ever is not soon.
    assert_eq!(set(&world.dom2, 0, u32::MAX), 1);
    assert!(bitten(at(100)).is_empty());
}

/// However large a toolstack wants a grant table.
#[test]
fn a_grant_table_has_a_limit() {
    use xen_abi::grant_table::{GNTTABOP_QUERY_SIZE, GnttabQuerySize};
    let world = World::new();
    let mut wanted = creation();
    wanted.max_grant_frames = i32::MAX;
    let (result, id, _) = domctl(&world.dom0, XEN_DOMCTL_CREATEDOMAIN, 0, wanted);
    let op = GnttabQuerySize {
        dom: id,
        _pad0: 0,
        nr_frames: 0,
        max_nr_frames: 0,
        status: 9,
        _pad1: 0,
    };
    let (done, op) = world
        .dom0
        .op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_QUERY_SIZE, op);
    assert_eq!((result, done, op.status), (0, 0, 0));
    assert_eq!(op.max_nr_frames, crate::gnttab::MOST_FRAMES);
}

#[test]
fn claims() {
    let world = World::new();
    let dom0 = &world.dom0;
    let free = || world.hv.free_memory().free;
    let id = create(dom0, 0).1;
    let claim = |pages: u64| {
        let op = MemoryReservation {
            extent_start: 0,
            nr_extents: pages,
            extent_order: 0,
            mem_flags: 0,
            domid: id,
            _pad: [0; 6],
        };
        dom0.op(HYPERVISOR_MEMORY_OP, XENMEM_CLAIM_PAGES, op).0
    };
    assert_eq!(claim(10), EINVAL, "more than it may have");
    let limit = DomctlMaxMem { max_memkb: 1 << 20 };
    assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, id, limit).0, 0);
    // Its tables, which are not claimed, are there.
    assert_eq!(populate(dom0, id, &[0x8_0040]), 1);
    assert_eq!(claim(1), EINVAL, "it has it");
    assert_eq!(claim(u64::from(free()) + 2), ENOMEM);
    assert_eq!(claim(u64::from(free()) - 9), 0);
    assert_eq!(claim(20), EINVAL, "once");
    // Ten frames are left for all others: dom0's tables, dom1.
    assert_eq!(info(dom0, id).1.outstanding_pages, u64::from(free()) - 10);
    let limit = DomctlMaxMem { max_memkb: 4 << 10 };
    assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, 1, limit).0, 0);
    let gfns: Vec<u64> = (0x8_0000..0x8_0020).collect();
    let got = populate(dom0, 1, &gfns);
    assert!((1..=10).contains(&got), "{got}");
    assert!(take_frame(&world).is_none());
    // It gets its own.
    assert_eq!(populate(dom0, id, &gfns), 32);
    assert_eq!(claim(0), 0);
    assert_eq!(info(dom0, id).1.outstanding_pages, 0);
    let frame = take_frame(&world).expect("not promised any more");
    world.hv.put_frame(frame);
    // A domain that ends gives its claim up.
    assert_eq!(claim(u64::from(free())), 0);
    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
    assert_eq!(world.hv.allocator.lock().frames_aside(), 0);
}

#[test]
fn pools_of_tables() {
    let world = World::new();
    let dom0 = &world.dom0;
    let before = balance(&world);
    let free = || world.hv.free_memory().free;
    let id = create(dom0, 0).1;
    let pool = |command, size| {
        let (result, _, pool) = domctl(dom0, command, id, DomctlPagingMempool { size });
        (result, pool.size)
    };
    let (get, set) = (
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE,
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
    );
    assert_eq!(pool(get, 0), (0, 16 << 12));
    let with_16 = free();
    for (size, expected) in [
        (1 << 40, ENOMEM),
        (u64::MAX, EINVAL),
        (0x5001, EINVAL),
        (u64::from(with_16 + 17) << 12, ENOMEM),
        // It has some already.
        (0, ENOMEM),
        (40 << 12, 0),
    ] {
        assert_eq!(pool(set, size).0, expected, "{size:#x}");
    }
    assert_eq!(pool(get, 0), (0, 40 << 12));
    assert_eq!(free(), with_16 - 24);
    // All other memory is gone, and a page still finds its tables.
    let limit = DomctlMaxMem { max_memkb: 64 };
    assert_eq!(domctl(dom0, XEN_DOMCTL_MAX_MEM, id, limit).0, 0);
    let mut hoard: Vec<_> = std::iter::from_fn(|| take_frame(&world)).collect();
    assert_eq!(free(), 0);
    world.hv.put_frame(hoard.pop().unwrap());
    assert_eq!(populate(dom0, id, &[0x4_0000]), 1);
    assert_eq!(free(), 0);
    for mfn in hoard {
        world.hv.put_frame(mfn);
    }
    assert_eq!(simple(dom0, XEN_DOMCTL_DESTROYDOMAIN, id), 0);
    assert_eq!(balance(&world), before);
    assert_eq!(world.hv.allocator.lock().frames_aside(), 0);
}
