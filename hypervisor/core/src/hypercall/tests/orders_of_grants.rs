//! Grants used by two or three vCPUs at once, in every order in which they can take the locks of grant tables, maptracks
//! and address spaces (see `orders`). After each order every reference of every frame is accounted for.

use std::sync::atomic::Ordering;

use xen_abi::grant_table::*;
use xen_abi::hypercall::*;
use xen_abi::memory::{MemoryReservation, XENMEM_DECREASE_RESERVATION};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::SELF;
use super::grants::{grant, map_op, unmap_op};
use crate::fakes::{Guest, RAM, Size, World, page};
use crate::sync::interleave::{Bounds, explore};

const GRANT: u32 = HYPERVISOR_GRANT_TABLE_OP;
/// The granted page of dom1's, and its reference.
const GRANTED: u32 = RAM + 3;
const REFERENCE: u32 = 8;
/// Where dom0 maps.
const HERE: u32 = 0x9_0000;

const GRANTS: Bounds<'_> = Bounds {
    watched: &["GrantTable", "Maptrack"],
    preemptions: 3,
};
/// Also where tables of addresses are locked, which is often.
const AND_P2M: Bounds<'_> = Bounds {
    watched: &["GrantTable", "Maptrack", "P2m"],
    preemptions: 2,
};

/// dom1 grants a page to dom0.
fn granted() -> World {
    let world = World::sized(Size::SMALL);
    grant(&world.dom1, REFERENCE, 0, GRANTED, GTF_PERMIT_ACCESS);
    // Whose page it is in the end, tests see by what is in it.
    world.dom1.put(page(3), &0x600d_600d_u32);
    world
}

/// A call on one structure, at a place of the vCPU's own.
fn op<T: FromBytes + IntoBytes + Immutable>(guest: &Guest, command: u32, op: T) -> T {
    let at = page(8 + u32::from(guest.vcpu.raw()));
    guest.put(at, &op);
    assert_eq!(guest.result(GRANT, &[u64::from(command), at, 1]), 0);
    guest.get(at)
}

fn map(guest: &Guest, gfn: u32) -> Result<u32, i16> {
    let op = map_op(1, REFERENCE, gfn, GNTMAP_HOST_MAP);
    let op = self::op(guest, GNTTABOP_MAP_GRANT_REF, op);
    (op.status == GNTST_OKAY)
        .then_some(op.handle)
        .ok_or(op.status)
}

fn unmap(guest: &Guest, gfn: u32, handle: u32) -> i16 {
    op(guest, GNTTABOP_UNMAP_GRANT_REF, unmap_op(gfn, handle)).status
}

/// The granter ends access as its kernel does: if nobody uses the page. Returns whether it did.
fn end_access(guest: &Guest) -> bool {
    let grants = guest.domain.grants.lock();
    let word = grants.entry_word(REFERENCE, 0).unwrap();
    let flags = word.load(Ordering::SeqCst);
    let uses = u32::from(GTF_READING | GTF_WRITING);
    flags & uses == 0
        && word
            .compare_exchange(flags, 0, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
}

/// The granter gives its page back.
fn give_up(guest: &Guest) {
    guest.put(page(10), &u64::from(GRANTED));
    let op = MemoryReservation {
        extent_start: page(10),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: SELF,
        ..zerocopy::FromZeros::new_zeroed()
    };
    guest.put(page(8), &op);
    let result = guest.result(
        HYPERVISOR_MEMORY_OP,
        &[u64::from(XENMEM_DECREASE_RESERVATION), page(8)],
    );
    assert_eq!(result, 1);
}

fn assert_unused(world: &World) {
    world.check();
    assert_eq!(world.dom1.domain.grants.lock().pinned(), 0);
    assert_eq!(world.dom0.domain.maptrack.lock().in_use(), 0);
    let flags = world.dom1.domain.grants.lock();
    let flags = flags.entry_word(REFERENCE, 0).unwrap();
    let uses = u32::from(GTF_READING | GTF_WRITING);
    assert_eq!(flags.load(Ordering::SeqCst) & uses, 0, "still in use");
}

fn each(
    name: &str,
    bounds: &[Bounds<'_>],
    threads: &[&(dyn Fn(&World) + Sync)],
    check: impl Fn(&World),
) {
    for bounds in bounds {
        let runs = explore(*bounds, granted, threads, |world| {
            world.check();
            check(world);
        });
        println!("{name}: {runs} orders");
        assert!(runs > 10, "{runs}");
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_page_is_given_up_while_it_is_mapped() {
    each(
        "map, unmap; end access, give up",
        &[GRANTS, AND_P2M],
        &[
            &|world| match map(&world.dom0, HERE) {
                Ok(handle) => {
                    let mapping = world.dom0.mapping(HERE).unwrap();
                    let words = world.hv.hal.words(mapping.mfn);
                    assert_eq!(words[0].load(Ordering::SeqCst), 0x600d_600d);
                    assert_ne!(world.hv.frames.references(mapping.mfn), 0);
                    assert_eq!(unmap(&world.dom0, HERE, handle), GNTST_OKAY);
                }
                Err(status) => assert_eq!(status, GNTST_GENERAL_ERROR),
            },
            &|world| {
                let ended = end_access(&world.dom1);
                // A hostile kernel gives it up in any case.
                give_up(&world.dom1);
                if ended {
                    assert!(map(&world.dom0.on_vcpu(1), HERE + 1).is_err());
                }
            },
        ],
        assert_unused,
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn two_map_one_grant_and_one_gives_it_back_twice() {
    each(
        "map, unmap; map, unmap",
        &[GRANTS, AND_P2M],
        &[&|world| map_and_unmap(&world.dom0), &|world| {
            map_and_unmap(&world.dom0.on_vcpu(1))
        }],
        assert_unused,
    );
}

fn map_and_unmap(guest: &Guest) {
    let here = HERE + u32::from(guest.vcpu.raw());
    let handle = map(guest, here).expect("mapped");
    assert_eq!(unmap(guest, here, handle), GNTST_OKAY);
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_handle_is_given_back_once() {
    let world_of = || {
        let world = granted();
        let handle = map(&world.dom0, HERE).unwrap();
        (world, handle, std::sync::atomic::AtomicU32::new(0))
    };
    type Scene = (World, u32, std::sync::atomic::AtomicU32);
    let back = |(world, handle, done): &Scene, vcpu| {
        let status = unmap(&world.dom0.on_vcpu(vcpu), HERE, *handle);
        assert!([GNTST_OKAY, GNTST_BAD_HANDLE].contains(&status), "{status}");
        done.fetch_add(u32::from(status == GNTST_OKAY), Ordering::SeqCst);
    };
    for bounds in [GRANTS, AND_P2M] {
        let runs = explore(
            bounds,
            world_of,
            &[&|scene| back(scene, 0), &|scene| back(scene, 1)],
            |(world, _, done)| {
                assert_eq!(done.load(Ordering::SeqCst), 1);
                assert_unused(world);
            },
        );
        println!("unmap and unmap: {runs} orders");
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn the_granter_ends_while_its_page_is_mapped() {
    each(
        "map, unmap; destroy",
        &[GRANTS],
        &[
            &|world| {
                if let Ok(handle) = map(&world.dom0, HERE) {
                    assert_eq!(unmap(&world.dom0, HERE, handle), GNTST_OKAY);
                }
            },
            &|world| {
                let dying = &world.dom1.domain;
                while world.hv.destroy_domain(dying, &|| false).is_err() {}
            },
        ],
        |world| {
            assert_eq!(world.dom0.domain.maptrack.lock().in_use(), 0);
            assert_eq!(world.dom1.domain.account.pages(), 0, "pages are lost");
        },
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_copy_an_unmap_and_a_swap() {
    let copy = |guest: &Guest| {
        let mut copied = <GnttabCopy as zerocopy::FromZeros>::new_zeroed();
        copied.flags = GNTCOPY_SOURCE_GREF;
        copied.source.u = REFERENCE.into();
        copied.source.domid = 1;
        copied.dest.u = u64::from(RAM + 5);
        copied.dest.domid = SELF;
        copied.len = 4;
        let copied = op(guest, GNTTABOP_COPY, copied);
        if copied.status == GNTST_OKAY {
            assert_eq!(guest.get::<u32>(page(5)), 0x600d_600d);
        }
    };
    each(
        "copy; map, unmap; swap, swap, give up",
        &[Bounds {
            preemptions: 2,
            ..GRANTS
        }],
        &[
            &|world| copy(&world.dom0),
            &|world| {
                let guest = world.dom0.on_vcpu(1);
                if let Ok(handle) = map(&guest, HERE) {
                    assert_eq!(unmap(&guest, HERE, handle), GNTST_OKAY);
                }
            },
            &|world| {
                for _ in 0..2 {
                    let swap = GnttabSwapGrantRef {
                        ref_a: REFERENCE,
                        ref_b: REFERENCE + 1,
                        ..zerocopy::FromZeros::new_zeroed()
                    };
                    let swapped = op(&world.dom1, GNTTABOP_SWAP_GRANT_REF, swap);
                    assert!([GNTST_OKAY, GNTST_EAGAIN].contains(&swapped.status));
                }
                give_up(&world.dom1);
            },
        ],
        |world| {
            assert_eq!(world.dom1.domain.grants.lock().pinned(), 0);
            assert_eq!(world.dom0.domain.maptrack.lock().in_use(), 0);
        },
    );
}

/// A vCPU shows itself a status frame while another goes back to version 1, which frees it.
#[test]
#[cfg_attr(miri, ignore)]
fn a_status_frame_is_mapped_while_it_goes_away() {
    use xen_abi::memory::{AddToPhysmap, XENMAPIDX_GRANT_TABLE_STATUS, XENMEM_ADD_TO_PHYSMAP};
    let version = |guest: &Guest, version| {
        op(guest, GNTTABOP_SET_VERSION, GnttabSetVersion { version });
    };
    let add = |guest: &Guest| {
        let add = AddToPhysmap {
            domid: SELF,
            size: 0,
            space: 1,
            idx: XENMAPIDX_GRANT_TABLE_STATUS.into(),
            gpfn: HERE.into(),
        };
        let (result, _) = guest.op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, add);
        assert!([0, super::errno::EINVAL].contains(&result), "{result}");
    };
    for bounds in [GRANTS, AND_P2M] {
        let make = || {
            let world = granted();
            version(&world.dom0, 2);
            world
        };
        let other = |world: &World| {
            for number in [1, 2, 1] {
                version(&world.dom0.on_vcpu(1), number);
            }
        };
        let runs = explore(
            bounds,
            make,
            &[&|world| add(&world.dom0), &other],
            |world| {
                world.check();
                // What is left of it there ends as any page does.
                version(&world.dom0, 2);
                add(&world.dom0);
                world.check();
            },
        );
        println!("add_to_physmap; set_version: {runs} orders");
    }
}

/// Sets a version of dom0's grants by a vCPU; returns whether it has it.
fn set_version(guest: &Guest, version: u32) -> bool {
    let at = page(8 + u32::from(guest.vcpu.raw()));
    guest.put(at, &GnttabSetVersion { version });
    let result = guest.result(GRANT, &[GNTTABOP_SET_VERSION.into(), at, 1]);
    assert!([0, super::errno::EBUSY].contains(&result), "{result}");
    result == 0
}

/// XSA-255, 501: a grant is mapped and copied from while its table changes its version.
#[test]
#[cfg_attr(miri, ignore)]
fn xsa_255_501_a_version_changes_while_its_grants_are_used() {
    // One of the entries that every version keeps, and another.
    const KEPT: u32 = 1;
    for (bounds, reference) in [
        (GRANTS, KEPT),
        (GRANTS, REFERENCE),
        (AND_P2M, KEPT),
        (AND_P2M, REFERENCE),
    ] {
        let make = || {
            let world = World::sized(Size::SMALL);
            grant(&world.dom0, reference, 1, GRANTED, GTF_PERMIT_ACCESS);
            world
        };
        let map = |world: &World| {
            let op = map_op(0, reference, HERE, GNTMAP_HOST_MAP);
            let op = self::op(&world.dom1, GNTTABOP_MAP_GRANT_REF, op);
            (op.status == GNTST_OKAY).then_some(op.handle)
        };
        let runs = explore(
            bounds,
            make,
            &[
                &|world: &World| {
                    if let Some(handle) = map(world) {
                        assert!(world.dom1.mapping(HERE).is_some());
                        // While it is in use, a version that would lose it has to wait.
                        let version = || world.dom0.domain.grants.lock().version();
                        let before = version();
                        assert!(reference == KEPT || version() == before);
                        assert_eq!(unmap(&world.dom1, HERE, handle), GNTST_OKAY);
                    }
                },
                &|world: &World| {
                    for version in [2, 1, 2] {
                        set_version(&world.dom0, version);
                    }
                },
            ],
            |world| {
                world.check();
                assert_eq!(world.dom0.domain.grants.lock().pinned(), 0);
                assert_eq!(world.dom1.domain.maptrack.lock().in_use(), 0);
                assert!(reference != KEPT || map(world).is_some(), "kept");
            },
        );
        println!("map, unmap; set_version: {runs} orders");
        assert!(runs > 10, "{runs}");
    }
}

/// XSA-26, 517: two vCPUs change the version at once.
#[test]
#[cfg_attr(miri, ignore)]
fn xsa_26_517_two_change_the_version() {
    for bounds in [GRANTS, AND_P2M] {
        let runs = explore(
            bounds,
            || World::sized(Size::SMALL),
            &[
                &|world: &World| {
                    for version in [2, 1] {
                        set_version(&world.dom0, version);
                    }
                },
                &|world: &World| {
                    for version in [1, 2] {
                        set_version(&world.dom0.on_vcpu(1), version);
                    }
                },
            ],
            |world| {
                world.check();
                let frames = world.hv.allocator.lock().free_frames();
                assert!(set_version(&world.dom0, 1));
                let without = world.hv.allocator.lock().free_frames();
                assert!(set_version(&world.dom0, 2) && set_version(&world.dom0, 1));
                world.check();
                assert!(world.hv.allocator.lock().free_frames() == without && without >= frames);
            },
        );
        println!("set_version; set_version: {runs} orders");
        assert!(runs > 3, "{runs}");
    }
}
