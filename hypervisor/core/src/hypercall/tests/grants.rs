//! Grant tables through hypercalls.

use std::sync::atomic::Ordering;

use xen_abi::grant_table::*;
use xen_abi::hypercall::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::errno::*;
use super::{NO_DOMAIN, SELF};
use crate::fakes::{ARG, DOMU_PAGES, Guest, LIST, NOWHERE, RAM, World, page};
use crate::stage2::PageType;

const GRANT: u32 = HYPERVISOR_GRANT_TABLE_OP;

/// The guest writes an entry of its first frame.
pub(super) fn grant(guest: &Guest, reference: u32, to: u16, gfn: u32, flags: u16) {
    let mfn = guest
        .domain
        .grants
        .lock()
        .shared_frame(0, &mut || None)
        .unwrap();
    let words = guest.hv.hal.words(mfn);
    words[reference as usize * 2 + 1].store(gfn, Ordering::SeqCst);
    words[reference as usize * 2].store(u32::from(to) << 16 | u32::from(flags), Ordering::SeqCst);
}

pub(super) fn list<T: FromBytes + IntoBytes + Immutable + Copy, const N: usize>(
    guest: &Guest,
    command: u32,
    ops: [T; N],
) -> (i64, u32, [T; N]) {
    guest.put(LIST, &ops);
    let called = guest.call(GRANT, &[command.into(), LIST, N as u64]);
    (called.result, called.preempted, guest.get(LIST))
}

pub(super) fn map_op(dom: u16, ref_: u32, gfn: u32, flags: u32) -> GnttabMapGrantRef {
    let host_addr = u64::from(gfn) << 12;
    GnttabMapGrantRef {
        host_addr,
        flags,
        ref_,
        dom,
        status: 99,
        handle: 0,
        dev_bus_addr: 0,
    }
}

pub(super) fn unmap_op(gfn: u32, handle: u32) -> GnttabUnmapGrantRef {
    let host_addr = u64::from(gfn) << 12;
    GnttabUnmapGrantRef {
        host_addr,
        dev_bus_addr: 0,
        handle,
        status: 99,
        _pad: 0,
    }
}

#[test]
fn size_version_and_setup() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let size = |guest: &Guest, dom| {
        let op = GnttabQuerySize {
            dom,
            _pad0: 0,
            nr_frames: 9,
            max_nr_frames: 9,
            status: 9,
            _pad1: 0,
        };
        let (result, op) = guest.op(GRANT, GNTTABOP_QUERY_SIZE, op);
        (result, op.status, op.nr_frames, op.max_nr_frames)
    };
    assert_eq!(size(dom1, SELF), (0, 0, 1, 4));
    assert_eq!(size(dom0, 1), (0, 0, 1, 4));
    assert_eq!(size(dom1, 2), (0, GNTST_PERMISSION_DENIED, 9, 9));
    assert_eq!(size(dom0, NO_DOMAIN), (0, GNTST_BAD_DOMAIN, 9, 9));
    let version = |version| dom1.op(GRANT, GNTTABOP_SET_VERSION, GnttabSetVersion { version });
    assert_eq!(version(1), (0, GnttabSetVersion { version: 1 }));
    assert_eq!(version(2), (ENOSYS, GnttabSetVersion { version: 1 }));
    assert_eq!(version(3), (EINVAL, GnttabSetVersion { version: 1 }));
    let get = |guest: &Guest, dom| {
        let (result, op) = guest.op(
            GRANT,
            GNTTABOP_GET_VERSION,
            GnttabGetVersion {
                dom,
                _pad: 0,
                version: 9,
            },
        );
        (result, op.version)
    };
    assert_eq!(get(dom1, SELF), (0, 1));
    assert_eq!(get(dom1, 2), (EPERM, 9));
    assert_eq!(get(dom0, NO_DOMAIN), (ESRCH, 9));

    let setup = |guest: &Guest, dom, nr_frames, frame_list| {
        let op = GnttabSetupTable {
            dom,
            _pad0: 0,
            nr_frames,
            status: 99,
            _pad1: [0; 6],
            frame_list,
        };
        let (result, op) = guest.op(GRANT, GNTTABOP_SETUP_TABLE, op);
        (result, op.status)
    };
    let add = xen_abi::memory::AddToPhysmap {
        domid: SELF,
        size: 0,
        space: 1,
        idx: 1,
        gpfn: 0x9_0000,
    };
    assert_eq!(dom1.op(HYPERVISOR_MEMORY_OP, 7, add).0, 0);
    assert_eq!(setup(dom1, SELF, 3, LIST), (0, GNTST_OKAY));
    assert_eq!(dom1.get::<[u64; 3]>(LIST), [u64::MAX, 0x9_0000, u64::MAX]);
    assert_eq!(size(dom1, SELF), (0, 0, 3, 4));
    assert_eq!(setup(dom1, SELF, 5, LIST), (0, GNTST_GENERAL_ERROR));
    assert_eq!(setup(dom1, SELF, u32::MAX, LIST), (0, GNTST_GENERAL_ERROR));
    assert_eq!(setup(dom1, SELF, 3, NOWHERE), (0, GNTST_BAD_VIRT_ADDR));
    assert_eq!(setup(dom1, 2, 3, LIST), (0, GNTST_PERMISSION_DENIED));
    assert_eq!(setup(dom0, NO_DOMAIN, 3, LIST), (0, GNTST_BAD_DOMAIN));
    let status = |nr_frames| {
        let op = GnttabGetStatusFrames {
            nr_frames,
            dom: SELF,
            status: 99,
            frame_list: LIST,
        };
        let (result, op) = dom1.op(GRANT, GNTTABOP_GET_STATUS_FRAMES, op);
        (result, op.status)
    };
    assert_eq!(
        (status(0), status(1)),
        ((0, GNTST_OKAY), (0, GNTST_GENERAL_ERROR))
    );
    for command in 0..=12u64 {
        let expected = match command {
            3 => ENOSYS,
            4 => EOPNOTSUPP,
            _ => EFAULT,
        };
        assert_eq!(dom1.result(GRANT, &[command, NOWHERE, 1]), expected);
        assert_eq!(dom1.result(GRANT, &[command, ARG, 1 << 31]), EINVAL);
        if ![2, 3, 4, 6, 8, 9, 10].contains(&command) {
            assert_eq!(dom1.result(GRANT, &[command, NOWHERE, 0]), 0, "{command}");
        }
    }
    for command in [2, 6, 9] {
        assert_eq!(dom1.result(GRANT, &[command, ARG, 2]), EINVAL);
    }
    assert_eq!(dom1.result(GRANT, &[13, ARG, 1]), ENOSYS);
    assert_eq!(dom1.result(GRANT, &[1 << 12, ARG, 1]), ENOSYS);
}

fn add_grant_frame(guest: &Guest, idx: u64, gpfn: u64) -> i64 {
    let add = xen_abi::memory::AddToPhysmap {
        domid: SELF,
        size: 0,
        space: 1,
        idx,
        gpfn,
    };
    guest.op(HYPERVISOR_MEMORY_OP, 7, add).0
}

#[test]
fn xsa_379_384_387_a_grant_frame_has_one_place() {
    let world = World::new();
    let dom1 = &world.dom1;
    assert_eq!(add_grant_frame(dom1, 0, 0x9_0000), 0);
    let first = dom1.mapping(0x9_0000).unwrap();
    assert_eq!(add_grant_frame(dom1, 0, 0x9_0001), 0);
    assert!(dom1.mapping(0x9_0000).is_none());
    assert_eq!(dom1.mapping(0x9_0001), Some(first));
}

#[test]
fn version_two_has_status_frames_as_long_as_it_lasts() {
    const STATUS: u64 = 1 << 31;
    let world = World::new();
    // Only dom0 may have version 2 here.
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    let free = world.hv.allocator.lock().free_frames();
    let version = |version| dom0.op(GRANT, GNTTABOP_SET_VERSION, GnttabSetVersion { version });
    let status = |guest: &Guest, nr_frames| {
        let op = GnttabGetStatusFrames {
            nr_frames,
            dom: 0,
            status: 99,
            frame_list: LIST,
        };
        let (result, op) = guest.op(GRANT, GNTTABOP_GET_STATUS_FRAMES, op);
        (result, op.status)
    };
    assert_eq!(add_grant_frame(dom0, STATUS, 0x9_0001), EINVAL);
    assert_eq!(version(2), (0, GnttabSetVersion { version: 2 }));
    assert_eq!(status(dom0, 1), (0, GNTST_OKAY));
    assert_eq!(dom0.get::<u64>(LIST), u64::MAX);
    assert_eq!(add_grant_frame(dom0, 0, 0x9_0000), 0);
    assert_eq!(add_grant_frame(dom0, STATUS, 0x9_0001), 0);
    assert_eq!(add_grant_frame(dom0, STATUS | 1, 0x9_0002), EINVAL);
    assert_eq!(status(dom0, 1), (0, GNTST_OKAY));
    assert_eq!(dom0.get::<u64>(LIST), 0x9_0001);
    assert_eq!(status(dom0, 2), (0, GNTST_GENERAL_ERROR));
    assert_eq!(status(dom1, 1), (0, GNTST_PERMISSION_DENIED));

    // dom1 maps entry 300, which is in the second frame: the mark is in the status frame, at word 150.
    let frame = |index| {
        let mut grants = dom0.domain.grants.lock();
        grants
            .shared_frame(index, &mut || {
                dom0.hv
                    .alloc_shared_page(dom0.domain.facts.id, &dom0.domain.account)
            })
            .unwrap()
    };
    let entry = &dom0.hv.hal.words(frame(1))[(300 - 256) * 4..];
    entry[2].store(RAM + 3, Ordering::SeqCst);
    entry[0].store(1 << 16 | 1, Ordering::SeqCst);
    let (_, _, [op]) = list(
        dom1,
        GNTTABOP_MAP_GRANT_REF,
        [map_op(0, 300, 0x9_0000, GNTMAP_HOST_MAP)],
    );
    assert_eq!(op.status, GNTST_OKAY);
    let mark = &dom0.hv.hal.words(dom0.mapping(0x9_0001).unwrap().mfn)[150];
    assert_eq!(mark.load(Ordering::SeqCst), 0x18);
    assert_eq!(version(1), (EBUSY, GnttabSetVersion { version: 2 }));
    let mut unmap = unmap_op(0x9_0000, op.handle);
    unmap.dev_bus_addr = op.dev_bus_addr + 4096;
    let (_, _, [wrong]) = list(dom1, GNTTABOP_UNMAP_GRANT_REF, [unmap]);
    assert_eq!(wrong.status, GNTST_GENERAL_ERROR);
    unmap.dev_bus_addr = op.dev_bus_addr;
    let (_, _, [right]) = list(dom1, GNTTABOP_UNMAP_GRANT_REF, [unmap]);
    assert_eq!((right.status, mark.load(Ordering::SeqCst)), (GNTST_OKAY, 0));

    // Version 1 takes the status frame away from where it is mapped, and frees it; entries are gone.
    assert_eq!(version(1), (0, GnttabSetVersion { version: 1 }));
    assert!(dom0.mapping(0x9_0001).is_none() && dom0.mapping(0x9_0000).is_some());
    assert_eq!(entry[0].load(Ordering::SeqCst), 0);
    assert_eq!(status(dom0, 1), (0, GNTST_GENERAL_ERROR));
    // What is left: the second shared frame, and tables for the mappings of both.
    let used = free - world.hv.allocator.lock().free_frames();
    for _ in 0..20 {
        assert_eq!(version(2).0, 0);
        assert_eq!(add_grant_frame(dom0, STATUS, 0x9_0001), 0);
        assert_eq!(version(1).0, 0);
    }
    assert_eq!(free - world.hv.allocator.lock().free_frames(), used);
}

#[test]
fn map_use_and_unmap_another_domains_page() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    for n in 0..4 {
        grant(dom1, 8 + n, 0, RAM + 40 + n, GTF_PERMIT_ACCESS);
    }
    grant(dom1, 12, 0, RAM + 44, GTF_PERMIT_ACCESS | GTF_READONLY);
    let high = 0x9_0000;
    for every in [u32::MAX, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        let ops = [
            map_op(1, 8, high, GNTMAP_HOST_MAP),
            map_op(1, 9, high + 1, GNTMAP_HOST_MAP | GNTMAP_READONLY),
            map_op(1, 12, high + 2, GNTMAP_HOST_MAP),
            map_op(1, 500, high + 2, GNTMAP_HOST_MAP),
            map_op(1, 1 << 20, high + 2, GNTMAP_HOST_MAP),
            map_op(NO_DOMAIN, 8, high + 2, GNTMAP_HOST_MAP),
            map_op(1, 10, high + 2, GNTMAP_HOST_MAP),
        ];
        let (result, preempted, ops) = list(dom0, GNTTABOP_MAP_GRANT_REF, ops);
        assert_eq!((result, preempted), (0, if every == 1 { 6 } else { 0 }));
        assert_eq!(ops.map(|op| op.status), [0, 0, -1, -1, -3, -2, 0]);
        let mfn = dom1.mapping(RAM + 40).unwrap().mfn;
        assert_eq!(ops[0].dev_bus_addr, u64::from(mfn.raw()) << 12);
        assert_eq!(dom0.mapping(high).unwrap().mfn, mfn);
        assert_eq!(dom0.mapping(high).unwrap().ty, PageType::GrantRw);
        assert_eq!(dom0.mapping(high + 1).unwrap().ty, PageType::GrantRo);
        // dom0 is 1:1 for its devices.
        assert_eq!(dom0.mapping(mfn.raw()).unwrap().mfn, mfn);
        let ops = [
            unmap_op(high + 1, ops[0].handle),
            unmap_op(high, ops[0].handle),
            unmap_op(high, ops[0].handle),
            unmap_op(high + 1, ops[1].handle),
            unmap_op(high + 2, ops[6].handle),
            unmap_op(high, u32::MAX),
        ];
        let (result, preempted, ops) = list(dom0, GNTTABOP_UNMAP_GRANT_REF, ops);
        assert_eq!((result, preempted), (0, if every == 1 { 5 } else { 0 }));
        assert_eq!(ops.map(|op| op.status), [-1, 0, -4, 0, 0, -4]);
        assert_eq!(dom0.mapping(high), None);
        assert_eq!(dom0.mapping(mfn.raw()), None);
        assert_eq!(world.hv.frames.references(mfn), 1);
        assert_eq!(dom1.domain.grants.lock().pinned(), 0);
    }
    // SILO; and a list that ends on an unmapped page does what it can.
    grant(dom1, 13, 2, RAM + 45, GTF_PERMIT_ACCESS);
    let (_, _, [op]) = list(&world.dom2, 0, [map_op(1, 13, high, GNTMAP_HOST_MAP)]);
    assert_eq!(op.status, GNTST_PERMISSION_DENIED);
    let end = page(DOMU_PAGES) - 32;
    grant(dom1, 14, 1, RAM + 46, GTF_PERMIT_ACCESS);
    dom1.put(end, &map_op(1, 14, high, GNTMAP_HOST_MAP));
    assert_eq!(dom1.result(GRANT, &[0, end, i32::MAX as u64]), EFAULT);
    assert_eq!(
        dom1.get::<GnttabMapGrantRef>(end).status,
        0,
        "a grant to itself"
    );
    world.check();
}

#[test]
fn copies_go_both_ways() {
    let world = World::new();
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    grant(dom1, 8, 0, RAM + 40, GTF_PERMIT_ACCESS);
    let text: Vec<u8> = (0..4096u32).map(|n| (n * 7) as u8).collect();
    dom0.put(page(30), &text[..]);
    let own = |gfn: u32, offset| GnttabCopyPtr {
        u: gfn.into(),
        domid: SELF,
        offset,
        _pad: 0,
    };
    let theirs = |reference: u64, offset| GnttabCopyPtr {
        u: reference,
        domid: 1,
        offset,
        _pad: 0,
    };
    let copy = |source, dest, len, flags| GnttabCopy {
        source,
        dest,
        len,
        flags,
        status: 99,
        _pad: 0,
    };
    let to = GNTCOPY_DEST_GREF;
    let (result, _, ops) = list(
        dom0,
        GNTTABOP_COPY,
        [
            copy(own(RAM + 30, 0), theirs(8, 0), 4096, to),
            copy(theirs(8, 100), own(RAM + 31, 7), 1000, GNTCOPY_SOURCE_GREF),
            copy(own(RAM + 30, 1), theirs(8, 0), 4096, to),
            copy(own(RAM + 30, 0), theirs(9, 0), 1, to),
            copy(own(RAM + 300, 0), theirs(8, 0), 1, to),
            // Within one page, overlapping, up and down.
            copy(own(RAM + 30, 0), own(RAM + 30, 700), 3000, 0),
        ],
    );
    assert_eq!(result, 0);
    assert_eq!(ops.map(|op| op.status), [0, 0, -10, -1, -9, 0]);
    assert_eq!(dom1.get::<[u8; 4096]>(page(40))[..], text[..]);
    assert_eq!(dom0.get::<[u8; 1000]>(page(31) + 7)[..], text[100..1100]);
    assert_eq!(dom0.get::<[u8; 3000]>(page(30) + 700)[..], text[..3000]);
    let (_, _, [op]) = list(
        dom0,
        GNTTABOP_COPY,
        [copy(own(RAM + 30, 700), own(RAM + 30, 1), 3000, 0)],
    );
    assert_eq!(op.status, 0);
    assert_eq!(dom0.get::<[u8; 3000]>(page(30) + 1)[..], text[..3000]);
    assert_eq!(
        world
            .hv
            .frames
            .references(dom1.mapping(RAM + 40).unwrap().mfn),
        1
    );
}

#[test]
fn the_rest_of_the_operations() {
    let world = World::new();
    let dom1 = &world.dom1;
    grant(dom1, 8, 0, 0x111, GTF_PERMIT_ACCESS);
    grant(dom1, 9, 2, 0x222, GTF_PERMIT_ACCESS | GTF_READONLY);
    let swap = |ref_a, ref_b| GnttabSwapGrantRef {
        ref_a,
        ref_b,
        status: 99,
        _pad: 0,
    };
    let (_, _, ops) = list(
        dom1,
        GNTTABOP_SWAP_GRANT_REF,
        [swap(8, 9), swap(8, 512), swap(u32::MAX, 0)],
    );
    assert_eq!(ops.map(|op| op.status), [0, -3, -3]);
    let mfn = dom1
        .domain
        .grants
        .lock()
        .shared_frame(0, &mut || None)
        .unwrap();
    assert_eq!(
        world.hv.hal.words(mfn)[16].load(Ordering::SeqCst),
        2 << 16 | 5
    );
    let transfer = GnttabTransfer {
        mfn: u64::from(RAM),
        domid: 0,
        _pad0: 0,
        ref_: 0,
        status: 99,
        _pad1: [0; 6],
    };
    assert_eq!(dom1.op(GRANT, GNTTABOP_TRANSFER, transfer).0, EOPNOTSUPP);
    let replace = GnttabUnmapAndReplace {
        host_addr: 0,
        new_addr: 0,
        handle: 5,
        status: 99,
        _pad: 0,
    };
    let (_, _, [op]) = list(dom1, GNTTABOP_UNMAP_AND_REPLACE, [replace]);
    assert_eq!(op.status, GNTST_BAD_HANDLE);
    let flush = |a: u64, offset, length, op| {
        dom1.op(
            GRANT,
            GNTTABOP_CACHE_FLUSH,
            GnttabCacheFlush {
                a,
                offset,
                length,
                op,
            },
        )
        .0
    };
    let own = dom1.mapping(RAM + 9).unwrap().mfn;
    let at = own.address().raw();
    assert_eq!(flush(at, 0, 4096, 1), 0);
    assert_eq!(
        std::mem::take(&mut *world.hv.hal.flushed.lock().unwrap()),
        [own]
    );
    assert_eq!(flush(at, 0, 4096, 1 << 31 | 1), EOPNOTSUPP);
    assert_eq!(flush(at, 1, 4096, 1), EINVAL);
    assert_eq!(flush(at, 0, 0, 1), 0);
    assert_eq!(flush(page(0), 0, 64, 3), EINVAL, "dom0's");
    assert_eq!(flush(u64::MAX, 0, 64, 3), EINVAL, "no RAM");
    let tables = dom1.domain.p2m.lock().stage2().root();
    assert_eq!(
        flush(tables.address().raw(), 0, 64, 3),
        EPERM,
        "the hypervisor's"
    );
    assert!(world.hv.hal.flushed.lock().unwrap().is_empty());
}
