//! One test for each published flaw of Xen that this design could repeat (xen-arm.md 7.2).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn xsa_18_134_swap_stays_in_the_table() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    f.guest.write(9, PERMIT_RO, 2, 0x11);
    for (a, b) in [(8, 512), (512, 8), (u32::MAX, 8), (512, 512), (8, u32::MAX)] {
        assert_eq!(f.table.swap(a, b), Err(GrantError::BadRef), "{a} {b}");
    }
    assert_eq!(f.table.swap(8, 8), Ok(()));
    assert_eq!(f.table.swap(8, 9), Ok(()));
    assert_eq!(
        (f.guest.word(8), f.guest.word(9)),
        (2 << 16 | u32::from(PERMIT_RO), u32::from(PERMIT))
    );
    // 9 is now what 8 was; an entry in use does not move.
    let mapped = f.map(9, 0x80, RW).unwrap();
    assert_eq!(f.memory.stage2[&(0, 0x80)].0, 0x510);
    assert_eq!(
        (f.table.swap(8, 9), f.table.swap(9, 8)),
        (Err(GrantError::Again), Err(GrantError::Again))
    );
    assert_eq!(f.table.swap(9, 9), Ok(()));
    f.unmap(mapped.handle, 0x80).unwrap();
    assert_eq!(f.table.swap(8, 9), Ok(()));
}

#[test]
fn xsa_26_255_268_501_517_version_two_is_refused_by_default_and_nothing_changes() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mapped = f.map(8, 0x80, RW).unwrap();
    let mut set = |version| {
        f.table
            .set_version(version, &mut || None, &mut |_| unreachable!())
    };
    assert_eq!(set(2), Err(Errno::NoSys));
    for version in [0, 3, u32::MAX] {
        assert_eq!(set(version), Err(Errno::Inval));
    }
    assert_eq!(set(1), Ok(()));
    assert_eq!(f.table.version(), 1);
    f.unmap(mapped.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn xsa_217_218_a_mapping_is_undone_once_and_where_it_is() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let a = f.map(8, 0x80, RW).unwrap();
    let b = f.map(8, 0x81, RW).unwrap();
    // The other mapping's address, or none of them: the use must not end while the mapping stays.
    for at in [0x81, 0x82, 0x10_0080] {
        assert_eq!(f.unmap(a.handle, at), Err(GrantError::General));
    }
    assert_eq!(
        f.unmap(a.handle, 0),
        Ok(()),
        "address 0: nothing to do, as with Xen"
    );
    assert_eq!(f.memory.stage2.len(), 2);
    assert_eq!(f.unmap(a.handle, 0x80), Ok(()));
    assert_eq!(f.unmap(a.handle, 0x80), Err(GrantError::BadHandle));
    for handle in [a.handle, b.handle + 1, 4 * MAPTRACK_PER_FRAME, u32::MAX] {
        assert_eq!(
            f.unmap(handle, 0x81),
            Err(GrantError::BadHandle),
            "{handle}"
        );
    }
    assert_eq!(f.memory.held(), BTreeMap::from([(0x510, 1)]));
    f.unmap(b.handle, 0x81).unwrap();
    f.assert_idle();
}

#[test]
fn xsa_217_a_handle_needs_its_own_granters_table() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mapped = f.map(8, 0x80, RW).unwrap();
    let mut pages = Allocator::default();
    let mut other = GrantTable::new(dom(2), Limits::default(), &mut || pages.take())
        .ok()
        .unwrap();
    let request = UnmapRequest {
        handle: mapped.handle,
        host_addr: gfn(0x80).address(),
        dev_bus_addr: 0,
    };
    let result = unmap_grant_ref(&request, &mut other, &mut f.maptrack, &mut f.memory);
    assert_eq!(result, Err(GrantError::BadHandle));
    let result = release_mapping(mapped.handle, &mut other, &mut f.maptrack, &mut f.memory);
    assert_eq!(result, Err(GrantError::BadHandle));
    f.unmap(mapped.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn xsa_224_316_error_paths_leave_nothing() {
    for failing in 0..3 {
        let mut f = Fixture::new(DeviceView::Identity);
        f.guest.write(8, PERMIT, 0, 0x10);
        f.memory.fail_map = Some(failing);
        let result = f.map(8, 0x80, RW);
        if failing < 2 {
            assert_eq!(result, Err(GrantError::General), "map call {failing}");
        } else {
            f.unmap(result.unwrap().handle, 0x80).unwrap();
        }
        f.assert_idle();
        // All handles are still there.
        f.memory.fail_map = None;
        for i in 0..4 * MAPTRACK_PER_FRAME {
            f.map(8, 0x1000 + i, RO).unwrap();
        }
    }
}

#[test]
fn xsa_224_a_failed_unmap_keeps_the_page_and_can_be_repeated() {
    for view in [DeviceView::Translated, DeviceView::Identity] {
        let mut f = Fixture::new(view);
        f.guest.write(8, PERMIT, 0, 0x10);
        let mapped = f.map(8, 0x80, RW).unwrap();
        f.memory.fail_unmap = true;
        assert_eq!(f.unmap(mapped.handle, 0x80), Err(GrantError::General));
        assert_eq!(
            (f.memory.held().len(), f.table.pinned(), f.maptrack.in_use()),
            (1, 1, 1)
        );
        f.memory.fail_unmap = false;
        f.unmap(mapped.handle, 0x80).unwrap();
        f.assert_idle();
    }
}

#[test]
fn xsa_230_236_380_394_counters_do_not_wrap() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.maptrack = Maptrack::new(dom(0), 1024, DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    for _ in 0..u32::from(u16::MAX) {
        f.map(8, 0x80, RO).unwrap();
    }
    assert_eq!(f.map(8, 0x80, RO), Err(GrantError::General));
    assert_eq!(f.memory.held(), BTreeMap::from([(0x510, 1)]));
    let writer = f.map(8, 0x81, RW).unwrap();
    assert_eq!(f.unmap(writer.handle, 0x81), Ok(()));
    assert_eq!(f.guest.flags(8), PERMIT | READING);
    for handle in 0..u32::from(u16::MAX) {
        f.unmap(handle, 0x80).unwrap();
    }
    f.assert_idle();
}

#[test]
fn xsa_226_a_copy_joins_mappings_and_leaves_their_marks() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mapped = f.map(8, 0x80, RW).unwrap();
    let request = CopyRequest {
        source: CopyEnd::Grant {
            granter: dom(1),
            reference: 8,
        },
        source_offset: 0,
        dest: CopyEnd::Grant {
            granter: dom(1),
            reference: 8,
        },
        dest_offset: 2048,
        length: 2048,
    };
    let mut tables = FakeTables {
        tables: BTreeMap::from([(1, f.table)]),
        denied: None,
    };
    assert_eq!(
        grant_copy(&request, dom(0), &mut tables, &mut f.memory),
        Ok(())
    );
    f.table = tables.tables.remove(&1).unwrap();
    assert_eq!(f.guest.flags(8), PERMIT | READING | WRITING);
    assert_eq!(
        f.memory.bytes[&0x510][..2048],
        f.memory.bytes[&0x510][2048..]
    );
    f.unmap(mapped.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn xsa_228_another_domain_cannot_join_a_use() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mapped = f.map(8, 0x80, RO).unwrap();
    // The granter now names domain 2, and another frame: the use of domain 0 goes on as it was.
    f.guest.write(8, PERMIT, 2, 0x11);
    let mut other = Maptrack::new(dom(2), 1, DeviceView::Translated);
    let request = MapRequest {
        reference: 8,
        host_addr: gfn(0x80).address(),
        flags: RO,
    };
    let result = map_grant_ref(&request, &mut f.table, &mut other, &mut f.memory);
    assert_eq!(result, Err(GrantError::General));
    assert_eq!(
        f.map(8, 0x81, RW),
        Err(GrantError::General),
        "writing needs the entry again"
    );
    let again = f.map(8, 0x81, RO).unwrap();
    assert_eq!(f.memory.stage2[&(0, 0x81)].0, 0x510);
    f.unmap(mapped.handle, 0x80).unwrap();
    f.unmap(again.handle, 0x81).unwrap();
    f.assert_idle();
}

#[test]
fn xsa_232_519_520_cache_maintenance_only_where_the_domain_may_look() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT_RO, 0, 0x10);
    let flush = |f: &mut Fixture, address: u64, offset: u16, length: u16, op: u32| {
        let request = CacheFlush {
            address,
            offset,
            length,
            op,
        };
        let result = cache_flush(&request, &f.maptrack, &mut f.memory);
        (result, f.memory.maintained.pop())
    };
    let (clean, inval) = (abi::GNTTAB_CACHE_CLEAN, abi::GNTTAB_CACHE_INVAL);
    assert_eq!(
        flush(&mut f, 0x20_000, 8, 100, clean),
        (Ok(()), Some((0x20, 8, 100, CacheOp::Clean)))
    );
    let both = Some((0x20, 0, 4096, CacheOp::CleanInvalidate));
    assert_eq!(flush(&mut f, 0x20_fff, 0, 4096, inval), (Ok(()), both));
    assert_eq!(
        flush(&mut f, 0x20_000, 0, 4096, inval | clean),
        (Ok(()), both)
    );
    assert_eq!(flush(&mut f, 0x20_000, 0, 0, clean), (Ok(()), None));
    assert_eq!(flush(&mut f, 0x20_000, 0, 1, 0), (Ok(()), None));
    for (address, offset, length, op, expected) in [
        (0x20_000, 4096, 0, clean, Errno::Inval),
        (0x20_000, 4095, 2, clean, Errno::Inval),
        (0x20_000, 65535, 65535, clean, Errno::Inval),
        (0x20_000, 0, 4097, clean, Errno::Inval),
        (0x20_000, 0, 8, 4, Errno::Inval),
        (
            0x20_000,
            0,
            8,
            clean | abi::GNTTAB_CACHE_SOURCE_GREF,
            Errno::Inval,
        ),
        (0x510_000, 0, 8, clean, Errno::Inval),
        (0x777_000, 0, 8, clean, Errno::Inval),
        (u64::MAX, 0, 8, clean, Errno::Inval),
        (0x900_000, 0, 8, clean, Errno::Perm),
    ] {
        assert_eq!(
            flush(&mut f, address, offset, length, op),
            (Err(expected), None),
            "{address:#x} {offset} {length}"
        );
    }
    // Another's page only while a grant of it is mapped; no reference is left behind either way.
    let mapped = f.map(8, 0x80, RO).unwrap();
    assert_eq!(flush(&mut f, 0x510_000, 0, 8, inval).0, Ok(()));
    f.unmap(mapped.handle, 0x80).unwrap();
    assert_eq!(flush(&mut f, 0x510_000, 0, 8, inval).0, Err(Errno::Inval));
    f.assert_idle();
}

#[test]
fn xsa_295_a_guest_that_hammers_its_entry_cannot_hold_us() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let stop = AtomicBool::new(false);
    let hammered = f.guest.pages[0].clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                hammered.words()[16].fetch_xor(1 << 15, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        for _ in 0..300 {
            match f.map(8, 0x80, RW) {
                Ok(mapped) => f.unmap(mapped.handle, 0x80).unwrap(),
                Err(error) => assert_eq!(error, GrantError::General),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(f.memory.held().is_empty() && f.memory.stage2.is_empty());
    assert_eq!((f.table.pinned(), f.maptrack.in_use()), (0, 0));
}

#[test]
fn xsa_382_version_one_has_no_status_frames_to_list() {
    let mut f = Fixture::new(DeviceView::Translated);
    assert_eq!(f.table.status_frames(0).map(Iterator::count), Ok(0));
    for frames in [1, 2, u32::MAX] {
        let listed = f.table.status_frames(frames).map(Iterator::count);
        assert_eq!(listed, Err(GrantError::General));
    }
    assert_eq!(
        (
            f.table.status_frame(0, &mut || None),
            f.table.max_status_frames()
        ),
        (Err(Errno::Inval), 0)
    );
}

#[test]
fn xsa_500_523_a_copy_never_leaves_its_pages() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mut tables = FakeTables {
        tables: BTreeMap::from([(1, f.table)]),
        denied: None,
    };
    let edges = [
        0, 1, 2047, 2048, 4095, 4096, 4097, 32767, 32768, 65534, 65535,
    ];
    // The fake memory asserts that what reaches it is within the page and referenced.
    for source_offset in edges {
        for dest_offset in edges {
            for length in edges {
                let request = CopyRequest {
                    source: CopyEnd::Own(gfn(0x20)),
                    source_offset,
                    dest: CopyEnd::Grant {
                        granter: dom(1),
                        reference: 8,
                    },
                    dest_offset,
                    length,
                };
                let fits = |offset: u16| u32::from(offset) + u32::from(length) <= 4096;
                let expected = if fits(source_offset) && fits(dest_offset) {
                    Ok(())
                } else {
                    Err(GrantError::BadCopyArg)
                };
                assert_eq!(
                    grant_copy(&request, dom(0), &mut tables, &mut f.memory),
                    expected
                );
            }
        }
    }
    assert!(f.memory.held().is_empty());
}
