//! Tests of the tables against a map of single pages, with an independent walker over what was published, a memory
//! that checks break-before-make and the life of tables, and failing allocations.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::frames::tests::Rng;

/// Table memory that plays the hardware: it sees only what is published, and knows what the TLB may still hold.
#[derive(Default)]
pub(crate) struct FakeTables {
    pages: HashMap<u32, Box<Table>>,
    next: u32,
    /// Published value of each entry and the flush epoch in which it was made invalid.
    published: RefCell<HashMap<usize, (u64, Option<u64>)>>,
    /// Tables that a descriptor stopped leading to, with the epoch.
    unlinked: RefCell<HashMap<u32, u64>>,
    pub(crate) epoch: u64,
    is_open: Cell<bool>,
    /// Pages set aside.
    pub(crate) aside: u32,
    /// Allocations until one fails.
    pub(crate) fail_in: Option<u32>,
}

impl FakeTables {
    pub(crate) fn new() -> Self {
        Self {
            next: 0x100,
            ..Self::default()
        }
    }

    pub(crate) fn live(&self) -> usize {
        self.pages.len()
    }

    fn fails(&mut self) -> bool {
        match &mut self.fail_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn add(&mut self, count: u32) -> Mfn {
        let mfn = self.next.next_multiple_of(count);
        self.next = mfn + count;
        for page in mfn..mfn + count {
            self.pages
                .insert(page, Box::new(core::array::from_fn(|_| AtomicU64::new(0))));
        }
        Mfn::new(mfn)
    }

    fn remove(&mut self, mfn: u32) {
        let page = self.pages.remove(&mfn).expect("freed twice");
        if let Some(epoch) = self.unlinked.borrow_mut().remove(&mfn) {
            assert!(self.epoch > epoch, "table {mfn:#x} freed before a flush");
        }
        for entry in page.iter() {
            self.published
                .borrow_mut()
                .remove(&core::ptr::from_ref(entry).addr());
        }
        // Links from a table that is itself unlinked lead nowhere.
        let unlinked = self.unlinked.borrow();
        for (other, page) in self
            .pages
            .iter()
            .filter(|(other, _)| !unlinked.contains_key(other))
        {
            for entry in page.iter() {
                let raw = entry.load(Ordering::Relaxed);
                let is_link = raw & 3 == 3 && raw >> 55 & 0xf == 0;
                let leads_here = is_link && raw & 0xffff_ffff_f000 == u64::from(mfn) << 12;
                assert!(
                    !leads_here,
                    "table {mfn:#x} freed while linked from {other:#x}"
                );
            }
        }
    }

    /// Reads memory as the walker does.
    fn walker_read(&self, address: u64) -> u64 {
        let page = &self.pages[&u32::try_from(address >> 12).unwrap()];
        let entry = &page[(address as usize & 0xfff) / 8];
        let published = self
            .published
            .borrow()
            .get(&core::ptr::from_ref(entry).addr())
            .map_or(0, |p| p.0);
        assert_eq!(
            entry.load(Ordering::Relaxed),
            published,
            "change at {address:#x} not published"
        );
        published
    }

    /// Walks as ARM DDI 0406C.d B3.6.6 says: (address, descriptor, level), from raw bits only.
    pub(crate) fn walk(&self, stage2: &Stage2, ipa: u64) -> Option<(u64, u64, u32)> {
        let geometry = stage2.geometry();
        if ipa >> geometry.ipa_bits() != 0 {
            return None;
        }
        let mut level = u32::from(geometry.start_level());
        let mut base = u64::from(stage2.root().raw()) << 12;
        let mut top = u32::from(geometry.ipa_bits());
        loop {
            let shift = 39 - 9 * level;
            let index = (ipa & ((1u64 << top) - 1)) >> shift;
            let raw = self.walker_read(base + index * 8);
            match (raw & 3, level) {
                (0 | 2, _) => return None,
                (1, 1 | 2) | (3, 3) => {
                    let mask = (1u64 << shift) - 1;
                    assert_eq!(
                        raw & 0xffff_ffff_f000 & mask,
                        0,
                        "misaligned block {raw:#x}"
                    );
                    assert_eq!(raw >> 10 & 1, 1, "access flag");
                    return Some(((raw & 0xffff_ffff_f000) | (ipa & mask), raw, level));
                }
                (3, _) => base = raw & 0xffff_ffff_f000,
                _ => panic!("reserved descriptor {raw:#x} at level {level}"),
            }
            top = shift;
            level += 1;
        }
    }
}

impl TableMemory for FakeTables {
    fn alloc_table(&mut self, is_aside: bool) -> Option<Mfn> {
        if is_aside {
            self.aside = self.aside.checked_sub(1).expect("set aside");
        } else if self.fails() {
            return None;
        }
        Some(self.add(1))
    }
    fn free_table(&mut self, table: Mfn, is_aside: bool) {
        assert!(!self.is_open.get());
        self.remove(table.raw());
        self.aside += u32::from(is_aside);
    }
    fn set_aside(&mut self, pages: u32) -> bool {
        if self.fails() {
            return false;
        }
        self.aside += pages;
        true
    }
    fn end_aside(&mut self, pages: u32) {
        self.aside = self.aside.checked_sub(pages).expect("set aside");
    }
    fn alloc_root(&mut self, order: u8) -> Option<Mfn> {
        if self.fails() {
            None
        } else {
            Some(self.add(1 << order))
        }
    }
    fn free_root(&mut self, root: Mfn, order: u8) {
        for page in 0..1 << order {
            self.remove(root.raw() + page);
        }
    }
    fn with_table<R>(&self, table: Mfn, body: impl FnOnce(&Table) -> R) -> R {
        assert!(!self.is_open.replace(true), "windows nested");
        let result = body(&self.pages[&table.raw()]);
        self.is_open.set(false);
        result
    }
    fn publish(&self, entries: &[AtomicU64]) {
        assert!(self.is_open.get(), "published outside the window");
        let mut published = self.published.borrow_mut();
        for entry in entries {
            let new = entry.load(Ordering::Relaxed);
            let slot = published
                .entry(core::ptr::from_ref(entry).addr())
                .or_insert((0, None));
            let old = slot.0;
            match (old & 1, new & 1) {
                (1, 1) => assert_eq!(old, new, "break before make"),
                (1, 0) => {
                    slot.1 = Some(self.epoch);
                    if old & 3 == 3 && old >> 55 & 0xf == 0 {
                        let table = u32::try_from((old & 0xffff_ffff_f000) >> 12).unwrap();
                        self.unlinked.borrow_mut().insert(table, self.epoch);
                    }
                }
                (0, 1) => assert!(
                    slot.1.is_none_or(|epoch| epoch < self.epoch),
                    "made before the flush"
                ),
                _ => {}
            }
            slot.0 = new;
        }
    }
    fn flush(&mut self) {
        assert!(!self.is_open.get());
        self.epoch += 1;
    }
}

fn gfn(raw: u32) -> Gfn {
    Gfn::new(raw)
}

fn new(memory: &mut FakeTables) -> Stage2 {
    Stage2::new(memory, Geometry::ARMV7).unwrap()
}

fn end(mut stage2: Stage2, memory: &mut FakeTables) {
    assert!(stage2.sync(memory, u32::MAX, |_, _| ()));
    let mut cursor = 0;
    while !stage2.free_tables_step(memory, &mut cursor) {}
    assert_eq!(stage2.table_pages(), 0);
    stage2.destroy(memory);
    assert_eq!(memory.live(), 0, "tables leaked");
}

#[test]
fn geometries_follow_the_architecture() {
    assert_eq!(Geometry::new(40, 1), Some(Geometry::ARMV7));
    assert_eq!(Geometry::new(39, 1).unwrap().root_order(), 0);
    assert_eq!(Geometry::new(44, 0).unwrap().root_order(), 0);
    assert_eq!(Geometry::new(43, 1).unwrap().root_order(), 4);
    assert_eq!(Geometry::new(44, 1), None);
    assert_eq!(Geometry::new(48, 0), None);
    assert_eq!(Geometry::new(40, 2), None);
    assert_eq!(Geometry::ARMV7.frames(), 1 << 28);
}

/// The bits of each type, written out from ARM DDI 0406C.d B3.6.2: XN 54, AF 10, SH 9:8, HAP 7:6, MemAttr 5:2.
#[test]
fn descriptors_have_the_bits_of_the_manual() {
    let cases = [
        (PageType::RamRw, 0x0080_0000_0000_07fcu64),
        (PageType::RamRo, 0x0100_0000_0000_077c),
        (PageType::MmioDirectDev, 0x01c0_0000_0000_06c4),
        (PageType::MmioDirectNc, 0x0240_0000_0000_06d4),
        (PageType::MmioDirectC, 0x02c0_0000_0000_06fc),
        (PageType::ForeignRw, 0x0340_0000_0000_07fc),
        (PageType::ForeignRo, 0x03c0_0000_0000_077c),
        (PageType::GrantRw, 0x0440_0000_0000_07fc),
        (PageType::GrantRo, 0x04c0_0000_0000_077c),
        (PageType::Xenheap, 0x0640_0000_0000_07fc),
    ];
    for (ty, bits) in cases {
        let mut memory = FakeTables::new();
        let mut stage2 = new(&mut memory);
        stage2
            .map(
                &mut memory,
                gfn(0x1234),
                Mfn::new(0xabcde),
                1,
                ty,
                Ram::Keep,
            )
            .unwrap();
        let (address, raw, level) = memory.walk(&stage2, 0x123_4567).unwrap();
        assert_eq!(
            (address, raw, level),
            (0xabcd_e567, bits | 0xabcd_e000 | 3, 3),
            "{ty:?}"
        );
        end(stage2, &mut memory);
    }
}

#[test]
fn half_a_gibibyte_is_256_blocks_and_one_table() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    stage2
        .map(
            &mut memory,
            gfn(0x40000),
            Mfn::new(0x40000),
            1 << 17,
            PageType::RamRw,
            Ram::Keep,
        )
        .unwrap();
    assert_eq!(stage2.table_pages(), 1);
    assert_eq!(memory.epoch, 0);
    for ipa in [0x4000_0000u64, 0x5fff_ffff] {
        assert_eq!(
            memory
                .walk(&stage2, ipa)
                .map(|(address, _, level)| (address, level)),
            Some((ipa, 2))
        );
    }
    assert_eq!(memory.walk(&stage2, 0x6000_0000), None);
    assert_eq!(memory.walk(&stage2, 0x3fff_ffff), None);
    assert_eq!(
        stage2.lookup(&memory, gfn(0x5ffff)),
        Some(Mapping {
            mfn: Mfn::new(0x5ffff),
            ty: PageType::RamRw,
            order: 9
        })
    );
    end(stage2, &mut memory);
}

#[test]
fn a_gibibyte_block_is_split_down_to_a_page() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    let mmio = PageType::MmioDirectC;
    stage2
        .map(&mut memory, gfn(0), Mfn::new(0), 3 << 18, mmio, Ram::Keep)
        .unwrap();
    assert_eq!(stage2.table_pages(), 0);
    assert_eq!(memory.walk(&stage2, 0x4000_0000).unwrap().2, 1);
    stage2
        .unmap(&mut memory, gfn(0x48013), 1, Ram::Keep)
        .unwrap();
    assert_eq!(stage2.table_pages(), 2);
    assert_eq!(memory.walk(&stage2, 0x4801_3000), None);
    assert_eq!(memory.walk(&stage2, 0x4801_2abc).unwrap().0, 0x4801_2abc);
    assert_eq!(memory.walk(&stage2, 0x4801_4000).unwrap().2, 3);
    assert_eq!(memory.walk(&stage2, 0x4820_0000).unwrap().2, 2);
    assert_eq!(memory.walk(&stage2, 0x8000_0000).unwrap().2, 1);
    // The whole again: the level-1 table stays, with blocks.
    stage2
        .map(
            &mut memory,
            gfn(0x40000),
            Mfn::new(0x40000),
            1 << 18,
            mmio,
            Ram::Keep,
        )
        .unwrap();
    assert_eq!(memory.walk(&stage2, 0x4801_3000).unwrap().2, 2);
    assert!(stage2.sync(&mut memory, u32::MAX, |_, _| panic!("nothing is counted")));
    assert_eq!(stage2.table_pages(), 1);
    end(stage2, &mut memory);
}

#[test]
fn the_edge_of_the_address_space_holds() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    let top = (1 << 28) - 1;
    let map = |stage2: &mut Stage2, memory: &mut FakeTables, at, mfn, pages| {
        stage2.map(
            memory,
            gfn(at),
            Mfn::new(mfn),
            pages,
            PageType::RamRw,
            Ram::Keep,
        )
    };
    assert_eq!(map(&mut stage2, &mut memory, top, 5, 1), Ok(()));
    assert_eq!(
        map(&mut stage2, &mut memory, top, 5, 2),
        Err(MapError::OutOfRange)
    );
    assert_eq!(
        map(&mut stage2, &mut memory, u32::MAX, 5, 1),
        Err(MapError::OutOfRange)
    );
    assert_eq!(
        map(&mut stage2, &mut memory, 0, u32::MAX, 2),
        Err(MapError::OutOfRange)
    );
    assert_eq!(
        map(&mut stage2, &mut memory, u32::MAX, 5, u32::MAX),
        Err(MapError::OutOfRange)
    );
    assert_eq!(
        stage2.unmap(&mut memory, gfn(top + 1), 1, Ram::Keep),
        Err(MapError::OutOfRange)
    );
    assert_eq!(memory.walk(&stage2, 0xff_ffff_f123).unwrap().0, 0x5123);
    assert_eq!(stage2.lookup(&memory, gfn(u32::MAX)), None);
    assert_eq!(
        stage2.next_mapping(&memory, gfn(0), u64::MAX).unwrap().0,
        gfn(top)
    );
    assert_eq!(
        stage2.unmap(&mut memory, gfn(0), 1 << 28, Ram::Keep),
        Ok(())
    );
    assert_eq!(stage2.next_mapping(&memory, gfn(0), u64::MAX), None);
    end(stage2, &mut memory);
}

/// XSA-409: a guest cannot make the hypervisor spend more on its tables than its pool.
#[test]
fn xsa_409_the_pool_is_a_limit() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    stage2.set_pool_limit(3).unwrap();
    let ram = PageType::RamRw;
    stage2
        .map(&mut memory, gfn(0), Mfn::new(1), 1, ram, Ram::Keep)
        .unwrap();
    let failed = stage2.map(&mut memory, gfn(1 << 18), Mfn::new(1), 1, ram, Ram::Keep);
    assert_eq!(failed, Err(MapError::OutOfTables));
    assert_eq!(stage2.table_pages(), 2);
    stage2
        .map(&mut memory, gfn(512), Mfn::new(1), 1, ram, Ram::Keep)
        .unwrap();
    assert_eq!(stage2.set_pool_limit(2), Err(MapError::OutOfTables));
    end(stage2, &mut memory);
}

#[test]
fn types_change_within_blocks() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    stage2
        .map(
            &mut memory,
            gfn(0),
            Mfn::new(0x1000),
            2048,
            PageType::RamRw,
            Ram::Keep,
        )
        .unwrap();
    stage2
        .set_type(&mut memory, gfn(500), 1040, PageType::RamRo)
        .unwrap();
    for page in 0..2048u32 {
        let mapping = stage2.lookup(&memory, gfn(page)).unwrap();
        let expected = if (500..1540).contains(&page) {
            PageType::RamRo
        } else {
            PageType::RamRw
        };
        assert_eq!(
            (mapping.mfn.raw(), mapping.ty),
            (0x1000 + page, expected),
            "{page}"
        );
        let (_, raw, _) = memory.walk(&stage2, u64::from(page) << 12).unwrap();
        assert_eq!(raw >> 7 & 1 == 1, expected == PageType::RamRw);
    }
    assert_eq!(stage2.lookup(&memory, gfn(600)).unwrap().order, 9);
    stage2
        .map(
            &mut memory,
            gfn(3),
            Mfn::new(9),
            1,
            PageType::ForeignRw,
            Ram::Keep,
        )
        .unwrap();
    assert_eq!(
        stage2.set_type(&mut memory, gfn(0), 8, PageType::RamRo),
        Err(MapError::OutOfRange)
    );
    assert_eq!(stage2.lookup(&memory, gfn(0)).unwrap().ty, PageType::RamRw);
    end(stage2, &mut memory);
}

/// Counted mappings under a table that a block replaces are released too, after the flush.
#[test]
fn a_block_over_a_table_releases_what_was_under_it() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    for (at, ty) in [
        (512, PageType::ForeignRw),
        (700, PageType::RamRw),
        (1023, PageType::Xenheap),
    ] {
        stage2
            .map(&mut memory, gfn(at), Mfn::new(at + 7), 1, ty, Ram::Keep)
            .unwrap();
    }
    stage2
        .map(
            &mut memory,
            gfn(512),
            Mfn::new(0x200),
            512,
            PageType::RamRw,
            Ram::Keep,
        )
        .unwrap();
    let mut seen = Vec::new();
    assert!(stage2.sync(&mut memory, u32::MAX, |_, released| {
        seen.push((released.gfn.raw(), released.mfn.raw()))
    }));
    assert_eq!(seen, [(512, 519), (1023, 1030)]);
    assert_eq!(stage2.table_pages(), 1);
    end(stage2, &mut memory);
}

#[test]
fn released_ram_comes_in_bounded_parts() {
    let mut memory = FakeTables::new();
    let mut stage2 = new(&mut memory);
    stage2
        .map(
            &mut memory,
            gfn(0),
            Mfn::new(0),
            1 << 18,
            PageType::RamRw,
            Ram::Keep,
        )
        .unwrap();
    stage2
        .unmap(&mut memory, gfn(0), 1 << 18, Ram::Release)
        .unwrap();
    let before = memory.epoch;
    let mut next = 0;
    let mut calls = 1;
    while !stage2.sync(&mut memory, 1000, |memory, released| {
        assert!(memory.epoch > before, "released before the flush");
        assert_eq!((released.mfn.raw(), released.gfn.raw()), (next, next));
        assert!(released.pages <= 1000);
        next += released.pages;
    }) {
        calls += 1;
    }
    assert_eq!((next, calls), (1 << 18, 263));
    end(stage2, &mut memory);
}

type Model = BTreeMap<u32, (u32, PageType)>;

fn agree(
    stage2: &Stage2,
    memory: &FakeTables,
    model: &Model,
    range: core::ops::Range<u32>,
    seed: u64,
) {
    for page in range {
        let walked = memory.walk(stage2, u64::from(page) << 12);
        let expected = model.get(&page);
        let seen = walked.map(|(address, raw, _)| ((address >> 12) as u32, raw >> 55 & 0xf));
        assert_eq!(
            seen,
            expected.map(|(mfn, ty)| (*mfn, *ty as u64)),
            "seed {seed} gfn {page:#x}"
        );
        let found = stage2
            .lookup(memory, gfn(page))
            .map(|mapping| (mapping.mfn.raw(), mapping.ty));
        assert_eq!(found, expected.copied(), "seed {seed} gfn {page:#x}");
    }
}

fn random_operations(geometry: Geometry, seed: u64, steps: u32) {
    const TYPES: [PageType; 6] = [
        PageType::RamRw,
        PageType::RamRo,
        PageType::MmioDirectC,
        PageType::ForeignRw,
        PageType::GrantRo,
        PageType::Xenheap,
    ];
    let mut rng = Rng::new(seed);
    let mut memory = FakeTables::new();
    let mut stage2 = Stage2::new(&mut memory, geometry).unwrap();
    let mut model = Model::new();
    let top = (geometry.frames() - 2048) as u32;
    let bases = [0, (1 << 18) - 1024, 5 << 18, (512 << 18) - 1000, top];
    // Frames that must be released: mfn -> how often.
    let mut owed = BTreeMap::<u32, i32>::new();
    for _ in 0..steps {
        let base = bases[rng.below(5) as usize];
        let (mut at, mut pages) = match rng.below(4) {
            0 => (base + rng.below(2048), 1),
            1 => (base + rng.below(2000), 1 + rng.below(40)),
            2 => (base + rng.below(3) * 512, 512),
            _ => (base + rng.below(1024), 1 + rng.below(1024)),
        };
        at = at.min((geometry.frames() - 1) as u32);
        pages = pages.min((geometry.frames() - u64::from(at)) as u32);
        let tables = stage2.table_pages();
        memory.fail_in = (rng.below(3) == 0).then(|| rng.below(4));
        let before_epoch = memory.epoch;
        match rng.below(8) {
            0..=4 => {
                let ty = TYPES[rng.below(6) as usize];
                let mfn = match rng.below(3) {
                    0 => 0x100000 + at,
                    1 => 0x200000 + rng.below(1 << 20) / 512 * 512,
                    _ => rng.below(1 << 27),
                };
                let ram = if pages == 1 { Ram::Release } else { Ram::Keep };
                match stage2.map(&mut memory, gfn(at), Mfn::new(mfn), pages, ty, ram) {
                    Ok(()) => {
                        for page in 0..pages {
                            let new = (mfn + page, ty);
                            if let Some(old) = model.insert(at + page, new) {
                                let is_ram = ram == Ram::Release && old.1.is_ram() && old != new;
                                *owed.entry(old.0).or_default() +=
                                    i32::from(old.1.is_counted() || is_ram);
                            }
                        }
                    }
                    Err(_) => {
                        assert_eq!(stage2.table_pages(), tables, "seed {seed}");
                        assert_eq!(memory.epoch, before_epoch, "seed {seed}");
                    }
                }
            }
            5..=6 => {
                let ram = [Ram::Keep, Ram::Release][rng.below(2) as usize];
                match stage2.unmap(&mut memory, gfn(at), pages, ram) {
                    Ok(()) => {
                        for page in at..at + pages {
                            if let Some((mfn, ty)) = model.remove(&page) {
                                let is_released =
                                    ty.is_counted() || (ram == Ram::Release && ty.is_ram());
                                *owed.entry(mfn).or_default() += i32::from(is_released);
                            }
                        }
                    }
                    Err(_) => assert_eq!(stage2.table_pages(), tables, "seed {seed}"),
                }
            }
            _ => {
                let ty = TYPES[rng.below(3) as usize];
                let is_plain = model
                    .range(at..at + pages)
                    .all(|(_, (_, ty))| !ty.is_counted());
                match stage2.set_type(&mut memory, gfn(at), pages, ty) {
                    Ok(()) => {
                        assert!(is_plain, "seed {seed}");
                        model
                            .range_mut(at..at + pages)
                            .for_each(|(_, entry)| entry.1 = ty);
                    }
                    Err(MapError::OutOfRange) => assert!(!is_plain, "seed {seed}"),
                    Err(MapError::OutOfTables) => {
                        assert_eq!(stage2.table_pages(), tables, "seed {seed}")
                    }
                }
            }
        }
        assert!(stage2.spare.is_empty());
        if rng.below(2) == 0 {
            let budget = 1 + rng.below(600);
            stage2.sync(&mut memory, budget, |_, released| {
                for mfn in released.mfn.raw()..released.mfn.raw() + released.pages {
                    *owed.get_mut(&mfn).expect("released, not removed") -= 1;
                }
            });
        }
        let from = at.saturating_sub(2);
        agree(&stage2, &memory, &model, from..at + pages.min(30), seed);
        agree(
            &stage2,
            &memory,
            &model,
            at + pages.saturating_sub(30)..at + pages + 2,
            seed,
        );
    }
    for base in bases {
        agree(
            &stage2,
            &memory,
            &model,
            base.saturating_sub(16)..base.saturating_add(2100),
            seed,
        );
    }
    // next_mapping meets each mapping once, in order.
    let (mut at, mut count) = (gfn(0), 0u32);
    while let Some((found, mapping, run)) = stage2.next_mapping(&memory, at, u64::MAX) {
        assert_eq!(
            model.get(&found.raw()),
            Some(&(mapping.mfn.raw(), mapping.ty)),
            "seed {seed}"
        );
        count += run;
        match found.checked_add(run) {
            Some(next) => at = next,
            None => break,
        }
    }
    assert_eq!(count as usize, model.len(), "seed {seed}");
    assert!(stage2.sync(&mut memory, u32::MAX, |_, released| {
        for mfn in released.mfn.raw()..released.mfn.raw() + released.pages {
            *owed.get_mut(&mfn).expect("released, not removed") -= 1;
        }
    }));
    let wrong: Vec<_> = owed.iter().filter(|(_, count)| **count != 0).collect();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:x?}");
    memory.fail_in = None;
    end(stage2, &mut memory);
}

#[test]
fn random_operations_agree_with_a_map_of_pages() {
    let (seeds, steps) = if cfg!(miri) { (1, 12) } else { (8, 150) };
    for seed in 1..=seeds {
        random_operations(Geometry::ARMV7, seed, steps);
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn random_operations_agree_with_four_levels() {
    for seed in 100..=103 {
        random_operations(Geometry::new(43, 0).unwrap(), seed, 100);
    }
}

/// Each allocation of an operation that needs many tables fails once: nothing is half done, nothing leaks.
#[test]
fn a_failed_allocation_leaves_everything_as_it_was() {
    for fail_in in 0.. {
        let mut memory = FakeTables::new();
        let mut stage2 = new(&mut memory);
        let ram = PageType::RamRw;
        stage2
            .map(
                &mut memory,
                gfn(0x3fe00),
                Mfn::new(0x7fe00),
                1024,
                ram,
                Ram::Keep,
            )
            .unwrap();
        stage2
            .map(
                &mut memory,
                gfn(0x40400),
                Mfn::new(0x99),
                1,
                PageType::ForeignRw,
                Ram::Keep,
            )
            .unwrap();
        let (live, epoch) = (memory.live(), memory.epoch);
        let model: Model = (0..1024u32)
            .map(|page| (0x3fe00 + page, (0x7fe00 + page, ram)))
            .chain([(0x40400, (0x99, PageType::ForeignRw))])
            .collect();
        memory.fail_in = Some(fail_in);
        // Misaligned over two blocks and a table, across a 1 GiB border: every table is needed.
        let result = stage2.map(
            &mut memory,
            gfn(0x3ff00),
            Mfn::new(0x1001),
            0x600,
            ram,
            Ram::Keep,
        );
        memory.fail_in = None;
        if result.is_ok() {
            assert!(fail_in >= 2, "the case got too easy");
            end(stage2, &mut memory);
            return;
        }
        assert_eq!(result, Err(MapError::OutOfTables));
        assert_eq!(
            (memory.live(), memory.epoch, stage2.needs_sync()),
            (live, epoch, false)
        );
        agree(
            &stage2,
            &memory,
            &model,
            0x3fd00..0x40600,
            u64::from(fail_in),
        );
        end(stage2, &mut memory);
    }
}

#[test]
fn a_reserved_pool_is_there_when_it_is_needed() {
    let mut tables = FakeTables::new();
    let mut stage2 = Stage2::new(&mut tables, Geometry::ARMV7).unwrap();
    tables.fail_in = Some(0);
    assert_eq!(
        stage2.reserve_pool(&mut tables, 3),
        Err(MapError::OutOfTables)
    );
    tables.fail_in = None;
    stage2.reserve_pool(&mut tables, 3).unwrap();
    assert_eq!((tables.aside, stage2.pool_limit()), (3, 3));
    // No other memory is asked for.
    tables.fail_in = Some(0);
    let map = |stage2: &mut Stage2, tables: &mut FakeTables, gfn| {
        let (gfn, mfn) = (Gfn::new(gfn), Mfn::new(0x5_0000));
        stage2.map(tables, gfn, mfn, 1, PageType::RamRw, Ram::Keep)
    };
    map(&mut stage2, &mut tables, 0x100).unwrap();
    assert_eq!((tables.aside, stage2.table_pages()), (1, 2));
    map(&mut stage2, &mut tables, 0x300).unwrap();
    assert_eq!(
        map(&mut stage2, &mut tables, 0x500),
        Err(MapError::OutOfTables)
    );
    assert_eq!(
        stage2.reserve_pool(&mut tables, 2),
        Err(MapError::OutOfTables)
    );
    tables.fail_in = None;
    stage2.reserve_pool(&mut tables, 8).unwrap();
    assert_eq!(tables.aside, 5);
    stage2.reserve_pool(&mut tables, 4).unwrap();
    assert_eq!(tables.aside, 1);
    for gfn in [0x100, 0x300] {
        stage2
            .unmap(&mut tables, Gfn::new(gfn), 1, Ram::Keep)
            .unwrap();
    }
    stage2.sync(&mut tables, u32::MAX, |_, _| {});
    let mut cursor = 0;
    while !stage2.free_tables_step(&mut tables, &mut cursor) {}
    assert_eq!((tables.aside, stage2.table_pages()), (0, 0));
    stage2.destroy(&mut tables);
    assert_eq!(tables.live(), 0);
}
