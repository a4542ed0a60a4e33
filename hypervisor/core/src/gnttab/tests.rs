//! Fakes and unit tests. The model test is in `model.rs`, one test for each known flaw of others in `xsa.rs`.

mod model;
mod v2;
mod xsa;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xen_abi::grant_table as abi;

use super::mapped::MappedFrames;
use super::*;
use crate::addr::{GuestPhys, PAGE_SIZE};
use crate::errno::Errno;

/// A page of which a test, as the guest, keeps a clone.
#[derive(Clone)]
pub(super) struct FakePage {
    words: Arc<[AtomicU32; 1024]>,
    mfn: Mfn,
}

impl SharedPage for FakePage {
    fn words(&self) -> &[AtomicU32; 1024] {
        &self.words
    }
    fn mfn(&self) -> Mfn {
        self.mfn
    }
}

pub(super) fn dom(raw: u16) -> DomId {
    DomId::new(raw)
}

pub(super) fn gfn(raw: u32) -> Gfn {
    Gfn::new(raw)
}

pub(super) fn mfn(raw: u32) -> Mfn {
    Mfn::new(raw)
}

/// Gives pages with frame numbers from 0xf000 on, and keeps clones.
#[derive(Default)]
pub(super) struct Allocator {
    pub(super) pages: Vec<FakePage>,
    pub(super) limit: Option<usize>,
}

impl Allocator {
    pub(super) fn take(&mut self) -> Option<FakePage> {
        if self.limit.is_some_and(|limit| self.pages.len() >= limit) {
            return None;
        }
        let page = FakePage {
            words: Arc::new(std::array::from_fn(|_| AtomicU32::new(0))),
            mfn: mfn(0xf000 + u32::try_from(self.pages.len()).unwrap()),
        };
        self.pages.push(page.clone());
        Some(page)
    }

    /// The guest writes entry `reference`: frame first, then flags and domain.
    pub(super) fn write(&self, reference: u32, flags: u16, user: u16, frame: u32) {
        let index = reference as usize;
        let words = &self.pages[index / 512].words;
        words[index % 512 * 2 + 1].store(frame, Ordering::Relaxed);
        words[index % 512 * 2].store(u32::from(user) << 16 | u32::from(flags), Ordering::Release);
    }

    pub(super) fn word(&self, reference: u32) -> u32 {
        let index = reference as usize;
        self.pages[index / 512].words[index % 512 * 2].load(Ordering::Acquire)
    }

    pub(super) fn flags(&self, reference: u32) -> u16 {
        self.word(reference) as u16
    }
}

/// The machine's memory as a few maps.
#[derive(Default)]
pub(super) struct FakeMemory {
    pub(super) ram: BTreeMap<(u16, u32), Page>,
    pub(super) owners: BTreeMap<u32, Option<u16>>,
    pub(super) references: BTreeMap<u32, i32>,
    pub(super) stage2: BTreeMap<(u16, u32), (u32, Access)>,
    pub(super) bytes: BTreeMap<u32, Vec<u8>>,
    pub(super) maintained: Vec<(u32, usize, usize, CacheOp)>,
    /// Which call of `map` fails, counted from 0.
    pub(super) fail_map: Option<u32>,
    pub(super) fail_unmap: bool,
}

impl FakeMemory {
    pub(super) fn add(&mut self, owner: u16, at: u32, frame: u32, writable: bool) {
        self.ram.insert(
            (owner, at),
            Page {
                mfn: mfn(frame),
                writable,
            },
        );
        self.owners.insert(frame, Some(owner));
        self.bytes.insert(
            frame,
            (0..PAGE_SIZE)
                .map(|i| (i as u32).wrapping_mul(frame + 7) as u8)
                .collect(),
        );
    }

    /// References held, without those at zero; none may be negative.
    pub(super) fn held(&self) -> BTreeMap<u32, i32> {
        assert!(
            self.references.values().all(|count| *count >= 0),
            "{:?}",
            self.references
        );
        self.references
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|(frame, count)| (*frame, *count))
            .collect()
    }
}

impl GrantMemory for FakeMemory {
    fn get_page(&mut self, owner: DomId, gfn: Gfn) -> Result<Page, MemoryError> {
        let page = *self.ram.get(&(owner.raw(), gfn.raw())).ok_or(MemoryError)?;
        *self.references.entry(page.mfn.raw()).or_default() += 1;
        Ok(page)
    }
    fn get_frame(&mut self, owner: DomId, mfn: Mfn) -> Result<(), FrameError> {
        match self.owners.get(&mfn.raw()) {
            None => Err(FrameError::Invalid),
            Some(None) => Err(FrameError::Unowned),
            Some(Some(other)) if *other != owner.raw() => Err(FrameError::Foreign),
            Some(Some(_)) => {
                *self.references.entry(mfn.raw()).or_default() += 1;
                Ok(())
            }
        }
    }
    fn put_page(&mut self, mfn: Mfn) {
        *self.references.entry(mfn.raw()).or_default() -= 1;
    }
    fn map(&mut self, mapper: DomId, at: Gfn, mfn: Mfn, access: Access) -> Result<(), MemoryError> {
        match self.fail_map {
            Some(0) => {
                self.fail_map = None;
                return Err(MemoryError);
            }
            Some(more) => self.fail_map = Some(more - 1),
            None => {}
        }
        self.stage2
            .insert((mapper.raw(), at.raw()), (mfn.raw(), access));
        Ok(())
    }
    fn unmap(&mut self, mapper: DomId, at: Gfn, mfn: Mfn) -> Result<(), MemoryError> {
        if self.fail_unmap {
            return Err(MemoryError);
        }
        let key = (mapper.raw(), at.raw());
        if self
            .stage2
            .get(&key)
            .is_some_and(|(there, _)| *there == mfn.raw())
        {
            self.stage2.remove(&key);
        }
        Ok(())
    }
    fn copy(&mut self, from: (Mfn, usize), to: (Mfn, usize), length: usize) {
        for (frame, offset) in [from, to] {
            assert!(
                *self.references.get(&frame.raw()).unwrap() > 0,
                "copy without a reference"
            );
            assert!(offset + length <= PAGE_SIZE);
        }
        let data = self.bytes[&from.0.raw()][from.1..from.1 + length].to_vec();
        self.bytes.get_mut(&to.0.raw()).unwrap()[to.1..to.1 + length].copy_from_slice(&data);
    }
    fn maintain_cache(&mut self, mfn: Mfn, offset: usize, length: usize, op: CacheOp) {
        assert!(length > 0 && offset + length <= PAGE_SIZE);
        self.maintained.push((mfn.raw(), offset, length, op));
    }
}

/// Tables by domain number; `denied` ones are refused by policy.
pub(super) struct FakeTables {
    pub(super) tables: BTreeMap<u16, GrantTable<FakePage>>,
    pub(super) denied: Option<u16>,
}

impl GrantTables for FakeTables {
    type Page = FakePage;
    fn with<R>(
        &mut self,
        _user: DomId,
        domain: DomId,
        action: impl FnOnce(&mut GrantTable<FakePage>) -> R,
    ) -> Result<R, GrantError> {
        if self.denied == Some(domain.raw()) {
            return Err(GrantError::PermissionDenied);
        }
        self.tables
            .get_mut(&domain.raw())
            .map(action)
            .ok_or(GrantError::BadDomain)
    }
}

pub(super) const RW: u32 = abi::GNTMAP_HOST_MAP;
pub(super) const RO: u32 = abi::GNTMAP_HOST_MAP | abi::GNTMAP_READONLY;
pub(super) const PERMIT: u16 = abi::GTF_PERMIT_ACCESS;
pub(super) const PERMIT_RO: u16 = abi::GTF_PERMIT_ACCESS | abi::GTF_READONLY;
pub(super) const READING: u16 = abi::GTF_READING;
pub(super) const WRITING: u16 = abi::GTF_WRITING;

/// Domain 1 grants, domain 0 maps.
pub(super) struct Fixture {
    pub(super) guest: Allocator,
    pub(super) table: GrantTable<FakePage>,
    pub(super) maptrack: Maptrack,
    pub(super) memory: FakeMemory,
}

impl Fixture {
    pub(super) fn new(view: DeviceView) -> Self {
        let mut guest = Allocator::default();
        let table = GrantTable::new(dom(1), Limits::default(), &mut || guest.take())
            .ok()
            .unwrap();
        let mut memory = FakeMemory::default();
        memory.add(1, 0x10, 0x510, true);
        memory.add(1, 0x11, 0x511, false);
        memory.add(0, 0x20, 0x20, true);
        memory.owners.insert(0x900, None);
        Self {
            guest,
            table,
            maptrack: Maptrack::new(dom(0), 4, view),
            memory,
        }
    }

    pub(super) fn map(
        &mut self,
        reference: u32,
        at: u32,
        flags: u32,
    ) -> Result<Mapped, GrantError> {
        let request = MapRequest {
            reference,
            host_addr: gfn(at).address(),
            flags,
        };
        map_grant_ref(
            &request,
            &mut self.table,
            &mut self.maptrack,
            &mut self.memory,
        )
    }

    pub(super) fn unmap(&mut self, handle: u32, at: u32) -> Result<(), GrantError> {
        self.unmap_checked(handle, at, 0)
    }

    pub(super) fn unmap_checked(
        &mut self,
        handle: u32,
        at: u32,
        dev_bus_addr: u64,
    ) -> Result<(), GrantError> {
        let request = UnmapRequest {
            handle,
            host_addr: gfn(at).address(),
            dev_bus_addr,
        };
        unmap_grant_ref(
            &request,
            &mut self.table,
            &mut self.maptrack,
            &mut self.memory,
        )
    }

    /// Nothing is mapped, held or marked.
    pub(super) fn assert_idle(&self) {
        assert_eq!(self.memory.held(), BTreeMap::new());
        assert_eq!(self.memory.stage2, BTreeMap::new());
        assert_eq!(
            (
                self.table.pinned(),
                self.maptrack.in_use(),
                self.maptrack.mapped.len()
            ),
            (0, 0, 0)
        );
        for reference in 0..512 {
            assert_eq!(
                self.guest.flags(reference) & (READING | WRITING),
                0,
                "entry {reference}"
            );
        }
    }
}

#[test]
fn a_grant_is_mapped_and_unmapped() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(9, PERMIT, 0, 0x10);
    let mapped = f.map(9, 0x80, RW).unwrap();
    assert_eq!(mapped.dev_bus_addr.raw(), 0x51_0000);
    assert_eq!(
        f.memory.stage2,
        BTreeMap::from([((0, 0x80), (0x510, Access::Write))])
    );
    assert_eq!(f.guest.flags(9), PERMIT | READING | WRITING);
    assert_eq!(f.maptrack.granter_of(mapped.handle), Ok(dom(1)));
    assert_eq!(f.maptrack.reach(mfn(0x510)), Some(Access::Write));
    assert_eq!(f.table.pinned(), 1);
    // A second mapping, read only: one reference for both; the marks follow what is left.
    let second = f.map(9, 0x81, RO).unwrap();
    assert_eq!(f.memory.held(), BTreeMap::from([(0x510, 1)]));
    assert_eq!(f.unmap(mapped.handle, 0x80), Ok(()));
    assert_eq!(f.guest.flags(9), PERMIT | READING);
    assert_eq!(f.unmap(second.handle, 0x81), Ok(()));
    f.assert_idle();
}

#[test]
fn an_identity_mapping_follows_the_mappings_of_a_frame() {
    let mut f = Fixture::new(DeviceView::Identity);
    f.guest.write(9, PERMIT, 0, 0x10);
    f.guest.write(10, PERMIT, 0, 0x10);
    let identity = |f: &Fixture| f.memory.stage2.get(&(0, 0x510)).copied();
    let reader = f.map(9, 0x80, RO).unwrap();
    assert_eq!(identity(&f), Some((0x510, Access::Read)));
    let writer = f.map(10, 0x81, RW).unwrap();
    assert_eq!(identity(&f), Some((0x510, Access::Write)));
    f.unmap(writer.handle, 0x81).unwrap();
    assert_eq!(identity(&f), Some((0x510, Access::Read)));
    f.unmap(reader.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn a_domain_maps_its_own_grant_and_keeps_its_page() {
    let mut guest = Allocator::default();
    let mut table = GrantTable::new(dom(0), Limits::default(), &mut || guest.take())
        .ok()
        .unwrap();
    let mut maptrack = Maptrack::new(dom(0), 1, DeviceView::Identity);
    let mut memory = FakeMemory::default();
    memory.add(0, 0x20, 0x20, true);
    guest.write(8, PERMIT, 0, 0x20);
    let request = MapRequest {
        reference: 8,
        host_addr: GuestPhys::new(0x80_000),
        flags: RW,
    };
    let mapped = map_grant_ref(&request, &mut table, &mut maptrack, &mut memory).unwrap();
    assert_eq!(
        memory.stage2.len(),
        1,
        "its own page is at its own number already"
    );
    let request = UnmapRequest {
        dev_bus_addr: 0,
        handle: mapped.handle,
        host_addr: GuestPhys::new(0x80_000),
    };
    unmap_grant_ref(&request, &mut table, &mut maptrack, &mut memory).unwrap();
    assert!(memory.stage2.is_empty() && memory.held().is_empty());
}

#[test]
fn map_gives_xens_statuses() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    f.guest.write(9, PERMIT_RO, 0, 0x10);
    f.guest.write(10, PERMIT, 2, 0x10);
    f.guest.write(11, abi::GTF_ACCEPT_TRANSFER, 0, 0x10);
    f.guest.write(12, PERMIT, 0, 0x99);
    f.guest.write(13, PERMIT, 0, 0x11);
    f.guest.write(14, PERMIT | abi::GTF_SUB_PAGE, 0, 0x10);
    for (reference, flags, expected) in [
        (8, 0, GrantError::BadRef),
        (8, abi::GNTMAP_READONLY, GrantError::BadRef),
        (8, RW | abi::GNTMAP_DEVICE_MAP, GrantError::General),
        (8, RW | abi::GNTMAP_APPLICATION_MAP, GrantError::General),
        (8, RW | abi::GNTMAP_CONTAINS_PTE, GrantError::General),
        (8, RW | 1 << 16, GrantError::General),
        (7, RW, GrantError::General),
        (9, RW, GrantError::General),
        (10, RO, GrantError::General),
        (11, RO, GrantError::General),
        (12, RO, GrantError::BadPage),
        (13, RW, GrantError::General),
        (14, RO, GrantError::General),
        (512, RO, GrantError::BadRef),
        (u32::MAX, RO, GrantError::BadRef),
    ] {
        assert_eq!(
            f.map(reference, 0x80, flags),
            Err(expected),
            "entry {reference} flags {flags:#x}"
        );
    }
    let beyond = MapRequest {
        reference: 8,
        host_addr: GuestPhys::new(u64::MAX),
        flags: RW,
    };
    let result = map_grant_ref(&beyond, &mut f.table, &mut f.maptrack, &mut f.memory);
    assert_eq!(status_of(&result), abi::GNTST_GENERAL_ERROR);
    f.assert_idle();
    // A read-only page stays so when a mapping for reading is joined by one for writing.
    let mapped = f.map(13, 0x80, RO).unwrap();
    assert_eq!(f.map(13, 0x81, RW), Err(GrantError::General));
    f.unmap(mapped.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn handles_run_out_and_come_back() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let all = 4 * MAPTRACK_PER_FRAME;
    let mut handles: Vec<u32> = (0..all)
        .map(|i| f.map(8, 0x1000 + i, RO).unwrap().handle)
        .collect();
    assert_eq!(f.map(8, 0x80, RO), Err(GrantError::NoSpace));
    f.unmap(handles[5], 0x1005).unwrap();
    assert_eq!(
        f.map(8, 0x1005, RO).map(|mapped| mapped.handle),
        Ok(handles[5])
    );
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), all as usize);
}

#[test]
fn the_table_grows_to_its_limit() {
    let mut guest = Allocator {
        limit: Some(3),
        ..Allocator::default()
    };
    let limits = Limits {
        max_frames: 4,
        ..Limits::default()
    };
    let mut table = GrantTable::new(dom(0), limits, &mut || guest.take())
        .ok()
        .unwrap();
    assert_eq!(
        table.size(),
        Size {
            frames: 1,
            max_frames: 4
        }
    );
    assert_eq!(
        table.setup_table(5, &mut || guest.take()),
        Err(GrantError::General)
    );
    assert_eq!(
        table.setup_table(4, &mut || guest.take()),
        Err(GrantError::General),
        "no memory"
    );
    assert_eq!(table.size().frames, 3);
    assert_eq!(table.setup_table(2, &mut || guest.take()), Ok(()));
    assert_eq!(table.size().frames, 3, "never shrinks");
    assert_eq!(table.shared_frame(2, &mut || guest.take()), Ok(mfn(0xf002)));
    assert_eq!(
        table.shared_frame(3, &mut || guest.take()),
        Err(Errno::NoMem)
    );
    guest.limit = None;
    assert_eq!(table.shared_frame(3, &mut || guest.take()), Ok(mfn(0xf003)));
    assert_eq!(
        table.shared_frame(4, &mut || guest.take()),
        Err(Errno::Inval)
    );
    assert_eq!(
        table.shared_frame(u32::MAX, &mut || guest.take()),
        Err(Errno::Inval)
    );
}

#[test]
fn a_dead_granters_page_stays_until_it_is_unmapped() {
    let mut f = Fixture::new(DeviceView::Identity);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mapped = f.map(8, 0x80, RW).unwrap();
    f.table.kill();
    assert_eq!(f.map(8, 0x81, RO), Err(GrantError::BadDomain));
    assert_eq!(
        (f.table.pinned(), f.memory.held()),
        (1, BTreeMap::from([(0x510, 1)]))
    );
    f.unmap(mapped.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn a_dying_mapper_releases_everything() {
    let mut f = Fixture::new(DeviceView::Identity);
    f.guest.write(8, PERMIT, 0, 0x10);
    let handles: Vec<u32> = (0..600)
        .map(|i| f.map(8, 0x1000 + i, RW).unwrap().handle)
        .collect();
    for handle in &handles[..300] {
        f.unmap(*handle, 0x1000 + handle).unwrap();
    }
    let (mut from, mut steps) = (0, 0);
    loop {
        steps += 1;
        match f.maptrack.scan(from) {
            Scan::Found { handle, granter } => {
                assert_eq!(granter, dom(1));
                release_mapping(handle, &mut f.table, &mut f.maptrack, &mut f.memory).unwrap();
                from = handle + 1;
            }
            Scan::Continue(next) => from = next,
            Scan::Done => break,
        }
    }
    assert!(steps <= 300 + 4, "{steps}");
    f.assert_idle();
}

fn copy_op(
    source: (u64, u16, u16),
    dest: (u64, u16, u16),
    len: u16,
    flags: u16,
) -> abi::GnttabCopy {
    let end = |(u, domid, offset): (u64, u16, u16)| abi::GnttabCopyPtr {
        u,
        domid,
        offset,
        _pad: 0,
    };
    abi::GnttabCopy {
        source: end(source),
        dest: end(dest),
        len,
        flags,
        status: 0,
        _pad: 0,
    }
}

pub(super) const BOTH: u16 = abi::GNTCOPY_SOURCE_GREF | abi::GNTCOPY_DEST_GREF;
const SELF: u16 = 0x7ff0;

#[test]
fn copies_between_grants_and_own_frames() {
    let f = Fixture::new(DeviceView::Translated);
    let (guest, mut memory) = (f.guest, f.memory);
    let mut tables = FakeTables {
        tables: BTreeMap::from([(1, f.table)]),
        denied: None,
    };
    guest.write(8, PERMIT_RO, 0, 0x10);
    guest.write(9, PERMIT, 0, 0x11);
    let mut copy = |op: abi::GnttabCopy, memory: &mut FakeMemory| {
        let result = CopyRequest::parse(&op, dom(0))
            .and_then(|request| grant_copy(&request, dom(0), &mut tables, memory));
        assert!(memory.held().is_empty());
        result
    };
    let source = abi::GNTCOPY_SOURCE_GREF;
    assert_eq!(
        copy(
            copy_op((8, 1, 100), (0x20, SELF, 4000), 96, source),
            &mut memory
        ),
        Ok(())
    );
    assert_eq!(
        memory.bytes[&0x20][4000..4096],
        memory.bytes[&0x510][100..196]
    );
    let before = memory.bytes.clone();
    for (op, expected) in [
        (
            copy_op((8, 1, 4000), (0x20, SELF, 0), 97, source),
            GrantError::BadCopyArg,
        ),
        (
            copy_op((8, 1, 0), (0x20, SELF, 65535), 65535, source),
            GrantError::BadCopyArg,
        ),
        (
            copy_op((8, 1, 0), (0x20, 0, 0), 8, source),
            GrantError::PermissionDenied,
        ),
        (
            copy_op((8, 1, 0), (0x20 | 1 << 32, SELF, 0), 8, source),
            GrantError::BadPage,
        ),
        (
            copy_op((8, 1, 0), (0x21, SELF, 0), 8, source),
            GrantError::BadPage,
        ),
        (
            copy_op((8, 3, 0), (0x20, SELF, 0), 8, source),
            GrantError::BadDomain,
        ),
        (
            copy_op((8, SELF, 0), (0x20, SELF, 0), 8, source),
            GrantError::BadDomain,
        ),
        (
            copy_op((7, 1, 0), (0x20, SELF, 0), 8, source),
            GrantError::General,
        ),
        (
            copy_op((512, 1, 0), (0x20, SELF, 0), 8, source),
            GrantError::BadRef,
        ),
        (
            copy_op((0x20, SELF, 0), (8, 1, 0), 8, abi::GNTCOPY_DEST_GREF),
            GrantError::General,
        ),
        (copy_op((8, 1, 0), (8, 1, 8), 8, BOTH), GrantError::General),
        (
            copy_op((0x20, SELF, 0), (9, 1, 0), 8, abi::GNTCOPY_DEST_GREF),
            GrantError::General,
        ),
    ] {
        assert_eq!(copy(op, &mut memory), Err(expected), "{op:?}");
    }
    assert_eq!(memory.bytes, before);
    tables.denied = Some(1);
    let op = copy_op((8, 1, 0), (0x20, SELF, 0), 8, source);
    let request = CopyRequest::parse(&op, dom(0)).unwrap();
    assert_eq!(
        grant_copy(&request, dom(0), &mut tables, &mut memory),
        Err(GrantError::PermissionDenied)
    );
}

#[test]
fn what_arm_has_not_is_refused() {
    let mut f = Fixture::new(DeviceView::Translated);
    f.guest.write(8, PERMIT, 0, 0x10);
    let mapped = f.map(8, 0x80, RW).unwrap();
    assert_eq!(
        unmap_and_replace(mapped.handle, &f.maptrack),
        Err(GrantError::General)
    );
    assert_eq!(
        unmap_and_replace(99, &f.maptrack),
        Err(GrantError::BadHandle)
    );
    f.unmap(mapped.handle, 0x80).unwrap();
    f.assert_idle();
}

#[test]
fn mapped_frames_count_like_a_map() {
    let mut seed = 0x5eed_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut table = MappedFrames::default();
    let mut model: BTreeMap<u32, [u32; 2]> = BTreeMap::new();
    for _ in 0..20_000 {
        // Frames that share homes in a small table, so that runs form and wrap.
        let frame = (next() % 150) as u32 * 89;
        let access = if next() & 1 == 0 {
            Access::Read
        } else {
            Access::Write
        };
        let kind = usize::from(access == Access::Write);
        if next() % 5 < 2 {
            table.add(mfn(frame), access).unwrap();
            model.entry(frame).or_default()[kind] += 1;
        } else if model.get(&frame).is_some_and(|counts| counts[kind] > 0) {
            table.remove(mfn(frame), access);
            let counts = model.get_mut(&frame).unwrap();
            counts[kind] -= 1;
            if *counts == [0, 0] {
                model.remove(&frame);
            }
        }
        let expected = model.get(&frame).map(|c| {
            if c[1] > 0 {
                Access::Write
            } else {
                Access::Read
            }
        });
        assert_eq!(table.reach(mfn(frame)), expected);
        assert_eq!(table.len(), model.len());
    }
    for frame in 0..150 * 89 {
        assert_eq!(
            table.reach(mfn(frame)).is_some(),
            model.contains_key(&frame),
            "{frame}"
        );
    }
    assert!(table.add(mfn(u32::MAX), Access::Read).is_err());
}
