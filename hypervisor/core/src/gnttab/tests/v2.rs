//! What version 2 of the entries has and version 1 has not.

use super::*;

/// Domain 1 grants by version 2, domain 0 uses it, domain 2 grants to domain 1.
struct Two {
    guest: Allocator,
    second: Allocator,
    tables: FakeTables,
    memory: FakeMemory,
}

impl Two {
    fn new(has_transitive: bool) -> Self {
        let limits = Limits {
            max_frames: 10,
            max_version: 2,
            has_transitive,
        };
        let (mut guest, mut second) = (Allocator::default(), Allocator::default());
        let make = |domain, guest: &mut Allocator| {
            let mut table = GrantTable::new(dom(domain), limits, &mut || guest.take())
                .ok()
                .unwrap();
            let result = table.set_version(2, &mut || guest.take(), &mut |_| unreachable!());
            assert_eq!((result, table.version()), (Ok(()), 2));
            table
        };
        let mut memory = FakeMemory::default();
        memory.add(0, 0x20, 0x20, true);
        memory.add(1, 0x10, 0x510, true);
        memory.add(2, 0x10, 0x610, true);
        memory.add(2, 0x11, 0x611, false);
        Self {
            tables: FakeTables {
                tables: BTreeMap::from([(1, make(1, &mut guest)), (2, make(2, &mut second))]),
                denied: None,
            },
            guest,
            second,
            memory,
        }
    }

    /// A guest writes an entry: page 0 is its first shared frame, page 1 its status frame.
    fn write(&self, domain: u16, reference: usize, words: [u32; 4]) {
        let guest = if domain == 1 {
            &self.guest
        } else {
            &self.second
        };
        for (i, word) in words.iter().enumerate().rev() {
            guest.pages[0].words()[reference * 4 + i].store(*word, Ordering::Release);
        }
    }

    fn marks(&self, domain: u16, reference: usize) -> u32 {
        let guest = if domain == 1 {
            &self.guest
        } else {
            &self.second
        };
        let word = guest.pages[1].words()[reference / 2].load(Ordering::Acquire);
        word >> (reference % 2 * 16) & 0xffff
    }

    /// Domain 0 copies `length` bytes from a grant of domain 1 to its own frame.
    fn copy(&mut self, reference: u32, offset: u16, length: u16) -> Result<(), GrantError> {
        let request = CopyRequest {
            source: CopyEnd::Grant {
                granter: dom(1),
                reference,
            },
            source_offset: offset,
            dest: CopyEnd::Own(gfn(0x20)),
            dest_offset: 0,
            length,
        };
        let result = grant_copy(&request, dom(0), &mut self.tables, &mut self.memory);
        self.assert_idle();
        result
    }

    fn assert_idle(&self) {
        assert_eq!(self.memory.held(), BTreeMap::new());
        assert!(self.tables.tables.values().all(|table| table.pinned() == 0));
        for reference in 0..64 {
            assert_eq!((self.marks(1, reference), self.marks(2, reference)), (0, 0));
        }
    }
}

const FULL: u32 = abi::GTF_PERMIT_ACCESS as u32;
const PART: u32 = FULL | abi::GTF_SUB_PAGE as u32;
const TRANSITIVE: u32 = abi::GTF_TRANSITIVE as u32;
const RO_BIT: u32 = abi::GTF_READONLY as u32;

#[test]
fn a_mapping_is_marked_in_the_status_frame() {
    let mut f = Two::new(true);
    f.write(1, 9, [FULL, 0, 0x10, 0]);
    let mut maptrack = Maptrack::new(dom(0), 1, DeviceView::Translated);
    let table = f.tables.tables.get_mut(&1).unwrap();
    let request = MapRequest {
        reference: 9,
        host_addr: gfn(0x80).address(),
        flags: RW,
    };
    let mapped = map_grant_ref(&request, table, &mut maptrack, &mut f.memory).unwrap();
    assert_eq!(mapped.dev_bus_addr.raw(), 0x51_0000);
    assert_eq!(f.marks(1, 9), u32::from(READING | WRITING));
    assert_eq!(f.guest.pages[0].words()[36].load(Ordering::Relaxed), FULL);
    // The version cannot change under a mapping.
    let table = f.tables.tables.get_mut(&1).unwrap();
    let result = table.set_version(1, &mut || None, &mut |_| unreachable!());
    assert_eq!((result, table.version()), (Err(Errno::Busy), 2));
    let request = UnmapRequest {
        handle: mapped.handle,
        host_addr: gfn(0x80).address(),
        dev_bus_addr: 0x51_0000,
    };
    assert_eq!(
        unmap_grant_ref(&request, table, &mut maptrack, &mut f.memory),
        Ok(())
    );
    f.assert_idle();
    // A part of a page, another's grant and a frame no machine has cannot be mapped.
    for (words, error) in [
        ([PART, 64 << 16, 0x10, 0], GrantError::General),
        ([TRANSITIVE, 2, 8, 0], GrantError::General),
        ([FULL, 0, 0x10, 1], GrantError::BadPage),
        ([FULL | RO_BIT, 0, 0x10, 0], GrantError::General),
    ] {
        f.write(1, 9, words);
        let request = MapRequest {
            reference: 9,
            host_addr: gfn(0x80).address(),
            flags: RW,
        };
        let table = f.tables.tables.get_mut(&1).unwrap();
        let result = map_grant_ref(&request, table, &mut maptrack, &mut f.memory);
        assert_eq!(result, Err(error), "{words:x?}");
        f.assert_idle();
    }
}

#[test]
fn a_part_of_a_page_is_copied_within_its_bounds() {
    let mut f = Two::new(true);
    // Bytes 100 to 163.
    f.write(1, 9, [PART, 64 << 16 | 100, 0x10, 0]);
    assert_eq!(f.copy(9, 100, 64), Ok(()));
    assert_eq!(
        f.memory.bytes[&0x20][..64],
        f.memory.bytes[&0x510][100..164]
    );
    assert_eq!(f.copy(9, 163, 1), Ok(()));
    let before = f.memory.bytes.clone();
    for (offset, length) in [(99, 2), (100, 65), (164, 1), (0, 1), (4095, 1)] {
        let result = f.copy(9, offset, length);
        assert_eq!(result, Err(GrantError::General), "{offset} {length}");
    }
    // A part that reaches beyond its page gives no more than the page.
    f.write(1, 9, [PART, 0xffff << 16 | 4000, 0x10, 0]);
    assert_eq!(f.copy(9, 4000, 97), Err(GrantError::BadCopyArg));
    assert_eq!(f.memory.bytes, before);
    assert_eq!(f.copy(9, 4000, 96), Ok(()));
}

#[test]
fn a_copy_goes_through_a_transitive_grant_once() {
    let mut f = Two::new(true);
    f.write(1, 9, [TRANSITIVE, 2, 8, 0]);
    f.write(2, 8, [PART | 1 << 16, 16 << 16 | 32, 0x10, 0]);
    assert_eq!(f.copy(9, 32, 16), Ok(()));
    assert_eq!(f.memory.bytes[&0x20][..16], f.memory.bytes[&0x610][32..48]);
    assert_eq!(f.copy(9, 31, 16), Err(GrantError::General));
    for (words, error) in [
        // To domain 0, not to domain 1; nothing; on to a third; a frame that is not RAM.
        ([PART, 16 << 16 | 32, 0x10, 0], GrantError::General),
        ([0; 4], GrantError::General),
        ([TRANSITIVE | 1 << 16, 1, 9, 0], GrantError::General),
        ([FULL | 1 << 16, 0, 0x19, 0], GrantError::BadPage),
    ] {
        f.write(2, 8, words);
        assert_eq!(f.copy(9, 32, 16), Err(error), "{words:x?}");
    }
    f.write(2, 8, [FULL | 1 << 16, 0, 0x10, 0]);
    for (words, error) in [
        // Itself; a domain that is not there; beyond that domain's table.
        ([TRANSITIVE, 1, 8, 0], GrantError::General),
        ([TRANSITIVE, 3, 8, 0], GrantError::General),
        ([TRANSITIVE, 2, 256, 0], GrantError::BadRef),
    ] {
        f.write(1, 9, words);
        assert_eq!(f.copy(9, 32, 16), Err(error), "{words:x?}");
    }
    f.tables.denied = Some(2);
    f.write(1, 9, [TRANSITIVE, 2, 8, 0]);
    assert_eq!(f.copy(9, 32, 16), Err(GrantError::General), "policy");
}

#[test]
fn transitive_grants_can_be_forbidden() {
    let mut f = Two::new(false);
    f.write(1, 9, [TRANSITIVE, 2, 8, 0]);
    f.write(2, 8, [FULL | 1 << 16, 0, 0x10, 0]);
    assert_eq!(f.copy(9, 0, 16), Err(GrantError::General));
    f.write(1, 9, [FULL, 0, 0x10, 0]);
    assert_eq!(f.copy(9, 0, 16), Ok(()));
}

#[test]
fn a_grant_that_ends_while_it_is_marked_is_not_used() {
    // The guest withdraws the grant for each look of the hypervisor; whatever happens, nothing is left behind.
    let f = Two::new(true);
    let words = f.guest.pages[0].clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let stopped = stop.clone();
        scope.spawn(move || {
            let mut n = 0u32;
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                words.words()[36].store([FULL, 0, PART][n as usize % 3], Ordering::SeqCst);
            }
        });
        let mut f = f;
        f.write(1, 9, [FULL, 64 << 16, 0x10, 0]);
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            assert!(matches!(
                f.copy(9, 0, 16),
                Ok(()) | Err(GrantError::General)
            ));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_change_of_version_keeps_the_reserved_entries() {
    let mut guest = Allocator::default();
    let limits = Limits {
        max_frames: 10,
        max_version: 2,
        has_transitive: true,
    };
    let mut table = GrantTable::new(dom(1), limits, &mut || guest.take())
        .ok()
        .unwrap();
    let (mut memory, mut maptrack) = (
        FakeMemory::default(),
        Maptrack::new(dom(0), 1, DeviceView::Translated),
    );
    memory.add(1, 0x10, 0x510, true);
    guest.write(1, PERMIT, 0, 0x10);
    guest.write(7, abi::GTF_ACCEPT_TRANSFER, 0, 0x10);
    guest.write(8, PERMIT, 0, 0x10);
    let request = MapRequest {
        reference: 1,
        host_addr: gfn(0x80).address(),
        flags: RO,
    };
    let mapped = map_grant_ref(&request, &mut table, &mut maptrack, &mut memory).unwrap();
    guest.limit = Some(1);
    let set = |table: &mut GrantTable<FakePage>, guest: &mut Allocator, version| {
        let mut unmapped = Vec::new();
        let result = table.set_version(version, &mut || guest.take(), &mut |mfn| {
            unmapped.push(mfn.raw());
            Ok(())
        });
        (result, unmapped, table.version())
    };
    assert_eq!(
        set(&mut table, &mut guest, 2),
        (Err(Errno::NoMem), vec![], 1)
    );
    guest.limit = None;
    assert_eq!(set(&mut table, &mut guest, 2), (Ok(()), vec![], 2));
    let page = |guest: &Allocator, page: usize, word: usize| {
        guest.pages[page].words()[word].load(Ordering::Relaxed)
    };
    let entry = |guest: &Allocator, i: usize| -> [u32; 4] {
        std::array::from_fn(|word| page(guest, 0, i * 4 + word))
    };
    assert_eq!(entry(&guest, 1), [FULL, 0, 0x10, 0]);
    assert_eq!((entry(&guest, 7), entry(&guest, 8)), ([0; 4], [0; 4]));
    assert_eq!(page(&guest, 1, 0), u32::from(READING) << 16);
    // Status frames grow with the table: 2048 words each, for eight frames of entries.
    assert_eq!(table.max_status_frames(), 2);
    assert_eq!(table.setup_table(8, &mut || guest.take()), Ok(()));
    assert_eq!(table.status_frames(1).map(Iterator::count), Ok(1));
    assert!(table.status_frames(2).is_err());
    assert!(table.status_frame(1, &mut || guest.take()).is_ok());
    assert_eq!(table.size().frames, 9);
    assert_eq!(
        table.status_frame(2, &mut || guest.take()),
        Err(Errno::Inval)
    );
    let (result, unmapped, version) = set(&mut table, &mut guest, 1);
    assert_eq!((result, unmapped.len(), version), (Ok(()), 2, 1));
    assert_eq!(guest.word(1), FULL | u32::from(READING));
    assert_eq!(
        table.status_frame(0, &mut || guest.take()),
        Err(Errno::Inval)
    );
    let request = UnmapRequest {
        handle: mapped.handle,
        host_addr: gfn(0x80).address(),
        dev_bus_addr: 0,
    };
    assert_eq!(
        unmap_grant_ref(&request, &mut table, &mut maptrack, &mut memory),
        Ok(())
    );
    assert_eq!((guest.word(1), table.pinned()), (FULL, 0));
    // What cannot be unmapped keeps the version.
    assert_eq!(set(&mut table, &mut guest, 2).0, Ok(()));
    let result = table.set_version(1, &mut || None, &mut |_| Err(Errno::NoMem));
    assert_eq!((result, table.version()), (Err(Errno::NoMem), 2));
}
