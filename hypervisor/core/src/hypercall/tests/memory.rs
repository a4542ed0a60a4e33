//! Memory operations through hypercalls.

use std::sync::atomic::Ordering;

use xen_abi::hypercall::*;
use xen_abi::memory::*;

use super::errno::*;
use super::{NO_DOMAIN, SELF};
use crate::addr::{Gfn, Mfn};
use crate::fakes::{ARG, DOM0_PAGES, DOMU_PAGES, FRAMES, Guest, LIST, NOWHERE, RAM, World, page};
use crate::hal::Hal;
use crate::hypervisor::RamOf;
use crate::machine::{HoldRam, SharedPage};
use crate::stage2::PageType;

const MEMORY: u32 = HYPERVISOR_MEMORY_OP;

fn reservation(
    domid: u16,
    extent_start: u64,
    nr_extents: u64,
    extent_order: u32,
) -> MemoryReservation {
    MemoryReservation {
        extent_start,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid,
        _pad: [0; 6],
    }
}

fn change(guest: &Guest, command: u32, domid: u16, gfns: &[u64], order: u32) -> i64 {
    guest.put(LIST, gfns);
    guest
        .op(
            MEMORY,
            command,
            reservation(domid, LIST, gfns.len() as u64, order),
        )
        .0
}

fn of_domain(guest: &Guest, command: u32, domid: u16) -> i64 {
    guest.op(MEMORY, command, MemoryDomain { domid }).0
}

fn add(guest: &Guest, domid: u16, space: u32, idx: u64, gpfn: u64) -> i64 {
    let op = AddToPhysmap {
        domid,
        size: 0,
        space,
        idx,
        gpfn,
    };
    guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, op).0
}

fn remove(guest: &Guest, domid: u16, gpfn: u64) -> i64 {
    let op = RemoveFromPhysmap {
        domid,
        _pad: [0; 6],
        gpfn,
    };
    guest.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, op).0
}

fn gfns(range: std::ops::Range<u32>) -> Vec<u64> {
    range.map(|n| u64::from(RAM + n)).collect()
}

#[test]
fn numbers_about_memory() {
    let world = World::new();
    let dom0 = &world.dom0;
    assert_eq!(dom0.result(MEMORY, &[2, NOWHERE]), i64::from(RAM + FRAMES));
    for (domid, pages, top) in [(0, DOM0_PAGES, RAM + 255), (1, DOMU_PAGES, RAM + 63)] {
        assert_eq!(
            of_domain(dom0, XENMEM_CURRENT_RESERVATION, domid),
            pages.into()
        );
        assert_eq!(
            of_domain(dom0, XENMEM_MAXIMUM_RESERVATION, domid),
            pages.into()
        );
        assert_eq!(of_domain(dom0, XENMEM_MAXIMUM_GPFN, domid), top.into());
    }
    assert_eq!(of_domain(&world.dom1, 3, SELF), DOMU_PAGES.into());
    assert_eq!(of_domain(&world.dom1, 3, 2), EPERM);
    assert_eq!(of_domain(dom0, 3, NO_DOMAIN), ESRCH);
    assert_eq!(
        (dom0.result(MEMORY, &[18, 0]), dom0.result(MEMORY, &[19, 0])),
        (0, 0)
    );
    for command in [3u64, 4, 7, 11, 14, 15, 23, 24, 26, 27, 28] {
        assert_eq!(
            dom0.result(MEMORY, &[command, NOWHERE]),
            EFAULT,
            "{command}"
        );
        assert_eq!(
            dom0.result(MEMORY, &[command, u64::MAX]),
            EFAULT,
            "{command}"
        );
    }
    for command in [2u64, 3, 4, 7, 11, 14, 15, 24, 26, 27] {
        assert_eq!(
            dom0.result(MEMORY, &[command | 64, ARG]),
            EINVAL,
            "{command}"
        );
    }
    for command in [5u64, 8, 9, 10, 12, 13, 16, 17, 20, 21, 22, 25, 29, 63] {
        assert_eq!(dom0.result(MEMORY, &[command, ARG]), ENOSYS, "{command}");
    }
}

#[test]
fn balloon_down_and_up() {
    let world = World::new();
    let dom1 = &world.dom1;
    for every in [u32::MAX, 5, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        let free = world.hv.allocator.lock().free_frames();
        let list = gfns(20..60);
        assert_eq!(
            change(dom1, XENMEM_DECREASE_RESERVATION, SELF, &list, 0),
            40
        );
        assert_eq!(of_domain(dom1, 3, SELF), i64::from(DOMU_PAGES) - 40);
        assert_eq!(world.hv.allocator.lock().free_frames(), free + 40);
        assert_eq!(dom1.mapping(RAM + 20), None);
        assert_eq!(change(dom1, XENMEM_DECREASE_RESERVATION, SELF, &list, 0), 0);
        assert_eq!(change(dom1, XENMEM_POPULATE_PHYSMAP, 1, &list, 0), 40);
        assert_eq!(world.hv.allocator.lock().free_frames(), free);
        assert_eq!(dom1.get::<u64>(page(33)), 0, "zeroed");
        dom1.put(page(33), &u64::MAX);
        world.check();
    }
    // Beyond the limit, what fits is done.
    assert_eq!(
        change(dom1, XENMEM_DECREASE_RESERVATION, SELF, &gfns(60..63), 0),
        3
    );
    assert_eq!(
        change(dom1, XENMEM_POPULATE_PHYSMAP, SELF, &gfns(100..110), 0),
        3
    );
    world.check();
}

/// What is taken away is given up before the next look at interrupts, for a few pages at a time.
#[test]
fn a_decrease_is_bounded() {
    let world = World::new();
    let flushes = &world.hv.hal.tlb_flushes;
    let list = gfns(20..220);
    for every in [u32::MAX, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        let before = flushes.load(Ordering::SeqCst);
        let done = change(&world.dom0, XENMEM_DECREASE_RESERVATION, SELF, &list, 0);
        assert_eq!(done, 200);
        let flushed = flushes.load(Ordering::SeqCst) - before;
        assert_eq!(flushed, if every == 1 { 200 } else { 4 });
        let back = change(&world.dom0, XENMEM_POPULATE_PHYSMAP, SELF, &list, 0);
        assert_eq!(back, 200);
    }
    world.check();
}

#[test]
fn a_direct_mapped_domain_gets_its_own_frames_back() {
    let world = World::new();
    let dom0 = &world.dom0;
    let list = gfns(100..200);
    assert_eq!(
        change(dom0, XENMEM_DECREASE_RESERVATION, SELF, &list, 0),
        100
    );
    assert_eq!(dom0.mapping(RAM + 150), None);
    assert_eq!(change(dom0, XENMEM_POPULATE_PHYSMAP, SELF, &list, 0), 100);
    assert_eq!(dom0.mapping(RAM + 150).unwrap().mfn.raw(), RAM + 150);
    // Not its own.
    assert_eq!(
        change(
            dom0,
            XENMEM_POPULATE_PHYSMAP,
            SELF,
            &[u64::from(RAM + 300)],
            0
        ),
        0
    );
    world.check();
}

#[test]
fn reservations_stop_at_the_first_bad_extent() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let decrease = XENMEM_DECREASE_RESERVATION;
    let mut list = gfns(20..25);
    list[3] = u64::MAX;
    assert_eq!(change(dom1, decrease, SELF, &list, 0), 3);
    assert_eq!(change(dom1, decrease, SELF, &gfns(30..31), 10), 0, "order");
    assert_eq!(
        change(dom1, decrease, SELF, &gfns(30..31), u32::MAX),
        0,
        "order"
    );
    assert_eq!(
        change(dom1, decrease, 2, &gfns(30..31), 0),
        0,
        "not its to control"
    );
    assert_eq!(change(dom1, decrease, NO_DOMAIN, &gfns(30..31), 0), 0);
    assert_eq!(change(dom0, decrease, 1, &gfns(30..32), 0), 2, "dom0 may");
    let op = |nr, at| dom1.op(MEMORY, decrease, reservation(SELF, at, nr, 0)).0;
    assert_eq!(op(1 << 26, LIST), 0, "too many to continue");
    assert_eq!(op(u64::MAX, LIST), 0);
    assert_eq!(op(5, NOWHERE), 0);
    assert_eq!(op(5, u64::MAX - 3), 0);
    assert_eq!(op(0, LIST), 0);
    // The list's second page is missing: what can be read counts.
    let end = page(DOMU_PAGES) - 16;
    dom1.put(end, &gfns(40..42)[..]);
    assert_eq!(op(50, end), 2);
    assert_eq!(
        dom1.result(MEMORY, &[u64::from(decrease | 7 << 6), NOWHERE]),
        7
    );
    let mut narrow = reservation(SELF, LIST, 1, 0);
    narrow.mem_flags = 11;
    assert_eq!(dom1.op(MEMORY, decrease, narrow).0, EINVAL);
    world.check();
}

#[test]
fn increase_gives_ram_without_an_address() {
    let world = World::new();
    let dom1 = &world.dom1;
    let increase = |nr, order| {
        dom1.op(
            MEMORY,
            XENMEM_INCREASE_RESERVATION,
            reservation(SELF, 0, nr, order),
        )
        .0
    };
    assert_eq!(increase(1, 0), 0, "at its limit");
    assert_eq!(
        change(dom1, XENMEM_DECREASE_RESERVATION, SELF, &gfns(20..25), 0),
        5
    );
    assert_eq!(increase(3, 1), 2);
    world.check();
}

#[test]
fn shared_info_has_one_place() {
    let world = World::new();
    let dom1 = &world.dom1;
    let (a, b) = (u64::from(RAM + 100), u64::from(RAM + 101));
    assert_eq!(add(dom1, SELF, 0, 1, a), EINVAL);
    assert_eq!(add(dom1, SELF, 0, 0, a), 0);
    let mapping = dom1.mapping(RAM + 100).unwrap();
    assert_eq!(
        (mapping.mfn, mapping.ty),
        (dom1.domain.shared_info.mfn(), PageType::Xenheap)
    );
    assert_eq!(add(dom1, SELF, 0, 0, b), EBUSY);
    assert_eq!(add(dom1, SELF, 0, 0, a), EBUSY);
    assert_eq!(remove(dom1, SELF, a), 0);
    assert_eq!(remove(dom1, SELF, a), ENOENT);
    assert_eq!(add(dom1, SELF, 0, 0, b), 0);
    // Ballooning it out is a way to remove it, too.
    assert_eq!(change(dom1, XENMEM_DECREASE_RESERVATION, SELF, &[b], 0), 1);
    assert_eq!(add(dom1, SELF, 0, 0, a), 0);
    assert_eq!(world.hv.frames.references(mapping.mfn), 2);
    for gpfn in [1 << 28, 1 << 32 | a, u64::MAX] {
        assert_eq!(remove(dom1, SELF, a), 0);
        assert_eq!(add(dom1, SELF, 0, 0, gpfn), EINVAL, "{gpfn:#x}");
        assert_eq!(remove(dom1, SELF, gpfn), ENOENT);
        assert_eq!(add(dom1, SELF, 0, 0, a), 0);
    }
    for space in [2, 3, 4, 6, u32::MAX] {
        assert_eq!(add(dom1, SELF, space, 0, b), ENOSYS, "{space}");
    }
    assert_eq!(add(dom1, 2, 0, 0, b), EPERM);
    assert_eq!(add(&world.dom0, NO_DOMAIN, 0, 0, b), ESRCH);
    // Over RAM of its own, which it then has no more.
    assert_eq!(remove(dom1, SELF, a), 0);
    assert_eq!(add(dom1, SELF, 0, 0, u64::from(RAM + 50)), 0);
    assert_eq!(of_domain(dom1, 3, SELF), i64::from(DOMU_PAGES) - 1);
    world.check();
}

#[test]
fn foreign_pages_by_batch() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let batch = |guest: &Guest, foreign_domid, idxs: &[u64], gpfns: &[u64]| {
        guest.put(LIST, idxs);
        guest.put(LIST + 0x800, gpfns);
        guest.put(page(12), &[1i32; 64][..]);
        let op = AddToPhysmapBatch {
            domid: SELF,
            space: 4,
            size: idxs.len() as u16,
            foreign_domid,
            idxs: LIST,
            gpfns: LIST + 0x800,
            errs: page(12),
        };
        let result = guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP_BATCH, op).0;
        let errors: [i32; 64] = guest.get(page(12));
        (result, errors[..idxs.len()].to_vec())
    };
    let high: Vec<u64> = (0..5).map(|n| 0x8_0000 + n).collect();
    let mut from = gfns(40..45);
    from[2] = u64::from(RAM + 64);
    from[3] = u64::MAX;
    dom1.put(page(41) + 8, &0x1234_5678u32);
    for every in [u32::MAX, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        assert_eq!(batch(dom0, 1, &from, &high), (0, vec![0, 0, -22, -22, 0]));
        let mapping = dom0.mapping(0x8_0001).unwrap();
        assert_eq!(mapping.ty, PageType::ForeignRw);
        assert_eq!(world.hv.frames.references(mapping.mfn), 2);
        assert_eq!(
            world.hv.hal.words(mapping.mfn)[2].load(Ordering::SeqCst),
            0x1234_5678
        );
    }
    // The page outlives its owner's giving it up, and counts as its owner's until then.
    assert_eq!(
        change(dom1, XENMEM_DECREASE_RESERVATION, SELF, &gfns(41..42), 0),
        1
    );
    assert_eq!(of_domain(dom1, 3, SELF), i64::from(DOMU_PAGES));
    assert_eq!(remove(dom0, SELF, high[1]), 0);
    assert_eq!(of_domain(dom1, 3, SELF), i64::from(DOMU_PAGES) - 1);
    world.check();
    assert_eq!(batch(dom0, NO_DOMAIN, &from[..1], &high), (0, vec![-3]));
    assert_eq!(batch(dom0, 0, &from[..1], &high), (0, vec![-22]), "its own");
    assert_eq!(batch(dom1, 2, &from[..1], &high), (0, vec![-1]));
    assert_eq!(batch(dom0, 1, &from[..1], &[u64::MAX]), (0, vec![-22]));
    assert_eq!(batch(dom0, 1, &[], &[]).0, 0);
    assert_eq!(dom0.result(MEMORY, &[23 | 5 << 6, ARG]), EINVAL);
    world.check();
}

#[test]
fn device_memory_is_mapped_for_who_may_have_it() {
    let world = World::new();
    let dom1 = &world.dom1;
    let (device, gfn) = (0x9010, 0x9_0000);
    assert_eq!(add(dom1, SELF, XENMAPSPACE_DEV_MMIO, device, gfn), 0);
    assert_eq!(dom1.mapping(gfn as u32), None, "and nothing is said");
    let first = Mfn::new(device as u32);
    let mut devices = dom1.domain.devices.lock();
    devices.permit_memory(first, 1).unwrap();
    drop(devices);
    assert_eq!(add(dom1, SELF, XENMAPSPACE_DEV_MMIO, device, gfn), 0);
    let mapping = dom1.mapping(gfn as u32).unwrap();
    // Not cacheable: a translation table there must not be walked (HCR.PTW).
    let expected = (first, PageType::MmioDirectDev);
    assert_eq!((mapping.mfn, mapping.ty), expected);
    assert_eq!(
        add(dom1, SELF, XENMAPSPACE_DEV_MMIO, device + 1, gfn + 1),
        0
    );
    assert_eq!(dom1.mapping(gfn as u32 + 1), None);
    assert_eq!(add(dom1, SELF, XENMAPSPACE_DEV_MMIO, 1 << 32, gfn), EINVAL);
    assert_eq!(
        add(&world.dom2, 1, XENMAPSPACE_DEV_MMIO, device, gfn),
        EPERM
    );
    let dom0 = &world.dom0;
    let mut devices = dom0.domain.devices.lock();
    devices.permit_memory(first, 1).unwrap();
    drop(devices);
    assert_eq!(add(dom0, SELF, XENMAPSPACE_DEV_MMIO, device, gfn), 0);
    let mapping = dom0.mapping(gfn as u32).unwrap();
    assert_eq!(mapping.ty, PageType::MmioDirectC, "as Xen: ACPI tables");
    world.check();
}

#[test]
fn grant_frames_move_and_are_acquired() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let (a, b) = (u64::from(RAM + 100), u64::from(RAM + 101));
    assert_eq!(add(dom1, SELF, 1, 0, a), 0);
    assert_eq!(add(dom1, SELF, 1, 0, b), 0, "moves");
    assert_eq!(dom1.mapping(RAM + 100), None);
    assert_eq!(add(dom1, SELF, 1, 3, a), 0, "grows the table");
    for index in [4, 1 << 31, 1 << 32, u64::MAX] {
        assert_eq!(add(dom1, SELF, 1, index, a), EINVAL, "{index:#x}");
    }
    let acquire = |guest: &Guest, domid, type_, id, frame, nr_frames, frame_list| {
        let op = MemAcquireResource {
            domid,
            type_,
            id,
            nr_frames,
            _pad: 0,
            frame,
            frame_list,
        };
        let (result, op) = guest.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, op);
        (result, op.nr_frames)
    };
    dom0.put(LIST, &[0x9_0000u64, 0x9_0001, 0x9_0002]);
    assert_eq!(acquire(dom0, 1, 1, 0, 0, 0, 0), (0, 4));
    for every in [u32::MAX, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        assert_eq!(acquire(dom0, 1, 1, 0, 1, 3, LIST).0, 0);
        let frame = dom1
            .domain
            .grants
            .lock()
            .shared_frame(2, &mut || None)
            .unwrap();
        assert_eq!(dom0.mapping(0x9_0001).unwrap().mfn, frame);
    }
    // dom0 has it where dom1 has it, and gives it up: dom1 still has it there, and nowhere else.
    dom0.put(LIST, &[b]);
    assert_eq!(remove(dom0, SELF, b), 0);
    assert_eq!(acquire(dom0, 1, 1, 0, 0, 1, LIST).0, 0);
    assert_eq!(remove(dom0, SELF, b), 0);
    assert_eq!(add(dom1, SELF, 1, 0, u64::from(RAM + 102)), 0);
    assert_eq!(dom1.mapping(RAM + 101), None, "moved");
    dom0.put(LIST, &[0x9_0000u64, 0x9_0001, 0x9_0002]);
    assert_eq!(
        acquire(dom0, 1, 1, 0, 3, 2, LIST).0,
        EINVAL,
        "beyond the table"
    );
    assert_eq!(acquire(dom0, 1, 1, 0, u64::MAX, 2, LIST).0, EINVAL);
    assert_eq!(acquire(dom0, 1, 1, 0, 0, u32::MAX, LIST).0, EINVAL);
    assert_eq!(acquire(dom0, 1, 1, 0, 0, 2, NOWHERE).0, EFAULT);
    assert_eq!(
        acquire(dom0, 1, 1, 1, 0, 1, LIST).0,
        EINVAL,
        "status frames"
    );
    assert_eq!(acquire(dom0, 1, 0, 0, 0, 1, LIST).0, EINVAL, "IOREQ");
    assert_eq!(acquire(dom0, SELF, 1, 0, 0, 1, LIST).0, EPERM);
    assert_eq!(acquire(dom0, NO_DOMAIN, 1, 0, 0, 1, LIST).0, ESRCH);
    assert_eq!(acquire(dom1, 2, 1, 0, 0, 1, LIST).0, EPERM);
    world.check();
}

#[test]
fn what_is_refused() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let exchange = MemoryExchange {
        in_: reservation(SELF, LIST, 1, 0),
        out: reservation(SELF, LIST, 1, 0),
        nr_exchanged: 0,
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_EXCHANGE, exchange).0, EINVAL);
    assert_eq!(dom1.op(MEMORY, XENMEM_EXCHANGE, exchange).0, EINVAL);
    let claim =
        |guest: &Guest, domid, start| guest.op(MEMORY, 24, reservation(domid, start, 1, 0)).0;
    assert_eq!(claim(dom0, 1, 0), EINVAL, "it has all it may");
    assert_eq!(claim(dom1, 1, 0), EPERM);
    assert_eq!(claim(dom0, 1, LIST), EINVAL);
    assert_eq!(claim(dom0, NO_DOMAIN, 0), EINVAL);
    dom0.put(ARG, &[0u8; 64]);
    assert_eq!(dom0.result(MEMORY, &[26, ARG]), EOPNOTSUPP);
    assert_eq!(dom0.result(MEMORY, &[27, ARG]), EOPNOTSUPP);
}

#[test]
fn a_page_that_is_copied_to_is_not_freed() {
    let world = World::new();
    let (hv, dom1) = (&*world.hv, &world.dom1);
    let page = |guest: &Guest| {
        let memory = hv.hal.p2m_memory(guest.domain.vttbr);
        let mapping = guest.domain.p2m.lock().lookup(&memory, Gfn::new(RAM + 5));
        mapping.expect("RAM").mfn
    };
    let mfn = page(dom1);
    let ram = RamOf::new(hv, &dom1.domain);
    assert!(!RamOf::new(hv, &world.dom2.domain).hold(mfn), "another's");
    assert!(ram.hold(mfn));
    // Another vCPU gives the page up meanwhile.
    let mut memory = hv.hal.p2m_memory(dom1.domain.vttbr);
    let free = hv.allocator.lock().free_frames();
    {
        let mut p2m = dom1.domain.p2m.lock();
        p2m.decrease(&mut memory, Gfn::new(RAM + 5), 0).unwrap();
        p2m.sync(&mut memory);
    }
    assert_eq!(hv.frames.references(mfn), 1);
    assert_eq!(hv.allocator.lock().free_frames(), free);
    assert!(!ram.hold(mfn), "it is not its RAM any more");
    assert_eq!(hv.frames.references(mfn), 1);
    ram.release(mfn);
    assert_eq!(hv.allocator.lock().free_frames(), free + 1);
    // dom0's are its own for ever.
    let mfn = page(&world.dom0);
    let ram = RamOf::new(hv, &world.dom0.domain);
    assert!(ram.hold(mfn));
    assert_eq!(hv.frames.references(mfn), 1);
    ram.release(mfn);
}
