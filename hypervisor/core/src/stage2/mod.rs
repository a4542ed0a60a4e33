//! Stage-2 translation tables of one domain.
//!
//! One engine for ARMv7-A with LPAE (3 levels, 40-bit IPA) and AArch64 (3 or 4 levels): [`Geometry`] tells them
//! apart. Tables are reached only through [`TableMemory::with_table`], because arm32 has no direct map.
//!
//! # Invariants
//! - An operation first plans: it counts the tables that it needs, allocates them and makes room in the lists of
//!   dropped things. Only then it changes descriptors, and that part cannot fail: a failure leaves all as it was.
//! - Break before make (ARM DDI 0406C.d B3.10.1, DDI 0487 D8.16): a valid descriptor is replaced by zero, the TLB
//!   flushed, then the new one written. Another CPU of the guest can meet the gap: the fault handler must look the
//!   address up again and simply return to the guest when it is mapped.
//! - What a removed mapping referred to (tables, counted frames, released RAM) waits in lists until
//!   [`Stage2::sync`] has flushed the TLB. The caller calls it before it drops the p2m lock, or later: until then
//!   the frames are kept, so forgetting it leaks but corrupts nothing.
//! - A table page is freed only when no descriptor leads to it and the TLB was flushed since.
//!
//! The lock (rank `P2m`) is outside.

mod descriptor;
#[cfg(test)]
pub(crate) mod tests;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Gfn, Mfn};
use crate::errno::Errno;
use descriptor::{Entry, PAGE_LEVEL, decode, is_valid};

pub use descriptor::{ENTRIES, PageType, Table};

/// How tables are allocated, reached and made visible to the walker.
pub trait TableMemory {
    /// Returns a zeroed page for a table, already visible to the walker, or `None`.
    fn alloc_table(&mut self) -> Option<Mfn>;
    /// Takes back a table page that no TLB knows any more.
    fn free_table(&mut self, table: Mfn);
    /// Returns 2^`order` zeroed pages for the concatenated root, aligned to their size.
    fn alloc_root(&mut self, order: u8) -> Option<Mfn>;
    /// Takes the root back.
    fn free_root(&mut self, root: Mfn, order: u8);
    /// Opens a window on a table for the length of the closure. Closures are never nested.
    fn with_table<R>(&self, table: Mfn, body: impl FnOnce(&Table) -> R) -> R;
    /// Makes changed descriptors visible to the walker: cleans the cache where walks are not coherent, and waits
    /// (`dsb ishst`). Called inside the window.
    fn publish(&self, entries: &[AtomicU64]);
    /// Forgets all translations of this address space on all CPUs, and waits.
    fn flush(&mut self);
}

/// The shape of the tables: what VTCR says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    ipa_bits: u8,
    start_level: u8,
    root_order: u8,
}

impl Geometry {
    /// ARMv7-A with LPAE: 40-bit IPA, level 1 first, two concatenated pages (VTCR 0x80003558).
    pub const ARMV7: Self = Self {
        ipa_bits: 40,
        start_level: 1,
        root_order: 1,
    };

    /// Returns a shape, or `None` if the architecture does not allow it or a frame number does not hold its IPA.
    ///
    /// `start_level` is 0 or 1, `ipa_bits` at most 44; up to 16 root pages are concatenated.
    pub const fn new(ipa_bits: u8, start_level: u8) -> Option<Self> {
        if start_level > 1 || ipa_bits > 44 || ipa_bits < 32 {
            return None;
        }
        let one_page = 48 - 9 * start_level;
        let root_order = ipa_bits.saturating_sub(one_page);
        if root_order > 4 {
            return None;
        }
        Some(Self {
            ipa_bits,
            start_level,
            root_order,
        })
    }

    /// Returns the number of IPA bits (`getdomaininfo.gpaddr_bits`).
    pub const fn ipa_bits(self) -> u8 {
        self.ipa_bits
    }

    /// Returns the level of the root.
    pub const fn start_level(self) -> u8 {
        self.start_level
    }

    /// Returns log2 of the number of root pages.
    pub const fn root_order(self) -> u8 {
        self.root_order
    }

    /// Returns the number of guest frames.
    pub const fn frames(self) -> u64 {
        1 << (self.ipa_bits - 12)
    }
}

/// The leaf behind a guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The machine frame of exactly this guest frame.
    pub mfn: Mfn,
    /// Its type, which tells the permissions.
    pub ty: PageType,
    /// log2 of the pages that the leaf maps: 0, 9 or 18.
    pub order: u8,
}

/// Frames that a removed mapping referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Where the first was mapped.
    pub gfn: Gfn,
    /// The first frame.
    pub mfn: Mfn,
    /// How many.
    pub pages: u32,
    /// As what they were mapped.
    pub ty: PageType,
}

/// What happens to the domain's own RAM when its mapping goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ram {
    /// It stays the domain's.
    Keep,
    /// It goes to the list of released frames.
    Release,
}

/// Tables could not be changed; nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No memory for a table, or the domain's pool of table pages is used up.
    OutOfTables,
    /// Beyond the guest's physical address space, or beyond ours.
    OutOfRange,
}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Self {
        match error {
            MapError::OutOfTables => Self::NoMem,
            MapError::OutOfRange => Self::Inval,
        }
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
struct Position {
    table: Mfn,
    index: usize,
    level: u8,
    raw: u64,
}

/// What an operation needs before it may start.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    tables: u32,
    dead: u32,
    released: u32,
}

/// A change of a range: a new mapping, or none.
#[derive(Clone, Copy, Debug)]
struct Change {
    start: u32,
    /// One past the last guest frame.
    end: u64,
    new: Option<(Mfn, PageType)>,
    ram: Ram,
}

impl Change {
    /// Returns the machine frame for a guest frame of the range.
    fn mfn_at(&self, gfn: u32) -> Option<(Mfn, PageType)> {
        self.new
            .map(|(mfn, ty)| (Mfn::new(mfn.raw() + (gfn - self.start)), ty))
    }

    /// Returns the coarsest level at which `gfn` can be changed as one entry.
    fn level_at(&self, gfn: u32) -> u8 {
        let mfn = match self.mfn_at(gfn) {
            // References are held for each page.
            Some((_, ty)) if ty.is_counted() => return PAGE_LEVEL,
            Some((mfn, _)) => mfn.raw(),
            None => 0,
        };
        let left = self.end - u64::from(gfn);
        (1..PAGE_LEVEL)
            .find(|level| {
                let pages = pages_at(*level);
                (gfn | mfn) & (pages - 1) == 0 && left >= u64::from(pages)
            })
            .unwrap_or(PAGE_LEVEL)
    }

    /// Returns the number of tables that a fresh sub-tree needs whose top table is at `level`, for the frames from
    /// `gfn` to `end`, all below that table.
    fn fresh_tables(&self, level: u8, gfn: u32, end: u64) -> u32 {
        if level == PAGE_LEVEL {
            return 1;
        }
        let mut tables = 1;
        let mut gfn = gfn;
        while u64::from(gfn) < end {
            let next = entry_end(gfn, level).min(end);
            if self.level_at(gfn) > level {
                tables += self.fresh_tables(level + 1, gfn, next);
            }
            match u32::try_from(next) {
                Ok(next) => gfn = next,
                Err(_) => break,
            }
        }
        tables
    }
}

/// Returns the pages that an entry at a level maps (levels 1 to 3).
const fn pages_at(level: u8) -> u32 {
    1 << order_at(level)
}

const fn order_at(level: u8) -> u8 {
    9 * (PAGE_LEVEL - level)
}

/// Returns the first guest frame after the entry that maps `gfn`.
const fn entry_end(gfn: u32, level: u8) -> u64 {
    let order = order_at(level);
    ((gfn as u64 >> order) + 1) << order
}

/// The tables of one domain.
#[derive(Debug)]
pub struct Stage2 {
    root: Mfn,
    geometry: Geometry,
    /// Table pages below the root, the dead included.
    tables: u32,
    pool_limit: u32,
    /// Tables allocated for the operation under way; empty between operations.
    spare: Vec<Mfn>,
    /// Unlinked level-3 tables with the first guest frame they mapped.
    dead: Vec<(Mfn, Gfn)>,
    released: Vec<Released>,
    needs_flush: bool,
    /// The level-3 table that was used last, by guest frame / 512.
    hint: Option<(u32, Mfn)>,
}

impl Stage2 {
    /// Makes empty tables, or returns `None` without memory. The pool of table pages is unlimited.
    pub fn new<M: TableMemory>(memory: &mut M, geometry: Geometry) -> Option<Self> {
        let root = memory.alloc_root(geometry.root_order)?;
        Some(Self {
            root,
            geometry,
            tables: 0,
            pool_limit: u32::MAX,
            spare: Vec::new(),
            dead: Vec::new(),
            released: Vec::new(),
            needs_flush: false,
            hint: None,
        })
    }

    /// Returns the root, for VTTBR.
    pub fn root(&self) -> Mfn {
        self.root
    }

    /// Returns the shape of the tables.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the number of table pages in use, without the root.
    pub fn table_pages(&self) -> u32 {
        self.tables
    }

    /// Returns the limit of table pages (`XEN_DOMCTL_get_paging_mempool_size`).
    pub fn pool_limit(&self) -> u32 {
        self.pool_limit
    }

    /// Limits the number of table pages, the root not counted (XSA-409).
    ///
    /// # Errors
    /// [`MapError::OutOfTables`] when more are in use.
    pub fn set_pool_limit(&mut self, pages: u32) -> Result<(), MapError> {
        if pages < self.tables {
            return Err(MapError::OutOfTables);
        }
        self.pool_limit = pages;
        Ok(())
    }

    /// Returns whether [`Stage2::sync`] has something to do.
    pub fn needs_sync(&self) -> bool {
        self.needs_flush || !self.dead.is_empty() || !self.released.is_empty()
    }

    /// Returns what a guest frame is mapped to.
    pub fn lookup<M: TableMemory>(&self, memory: &M, gfn: Gfn) -> Option<Mapping> {
        if u64::from(gfn.raw()) >= self.geometry.frames() {
            return None;
        }
        let position = self.descend(memory, gfn.raw(), PAGE_LEVEL);
        match decode(position.raw, position.level) {
            Entry::Leaf(mfn, ty) => {
                let order = order_at(position.level);
                let offset = gfn.raw() & ((1 << order) - 1);
                Some(Mapping {
                    mfn: Mfn::new(mfn.raw() + offset),
                    ty,
                    order,
                })
            }
            Entry::Absent | Entry::Table(_) => None,
        }
    }

    /// Maps `pages` guest frames from `gfn` to consecutive machine frames, with the largest leaves that alignment
    /// allows. What was mapped there is removed: counted frames go to the released ones, RAM as `ram` says.
    ///
    /// # Errors
    /// [`MapError`]; nothing changed.
    pub fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        pages: u32,
        ty: PageType,
        ram: Ram,
    ) -> Result<(), MapError> {
        if mfn.raw().checked_add(pages).is_none() {
            return Err(MapError::OutOfRange);
        }
        self.change(memory, gfn, pages, Some((mfn, ty)), ram)
    }

    /// Removes all mappings of `pages` guest frames from `gfn`; holes are passed over.
    ///
    /// # Errors
    /// [`MapError`] when a block had to be split and could not; nothing changed.
    pub fn unmap<M: TableMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        pages: u32,
        ram: Ram,
    ) -> Result<(), MapError> {
        self.change(memory, gfn, pages, None, ram)
    }

    /// Changes the type, and so the permissions, of mapped frames. Holes stay.
    ///
    /// # Errors
    /// [`MapError::OutOfRange`] when a mapping in the range, or the new type, holds references; else as for
    /// [`Stage2::map`]. Nothing changed.
    pub fn set_type<M: TableMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        pages: u32,
        ty: PageType,
    ) -> Result<(), MapError> {
        let end = self.range_end(gfn, pages)?;
        if ty.is_counted() {
            return Err(MapError::OutOfRange);
        }
        let mut at = gfn;
        while let Some((found, mapping, _)) = self.next_mapping(memory, at, end) {
            if mapping.ty.is_counted() {
                return Err(MapError::OutOfRange);
            }
            match Self::after(found, mapping) {
                Some(next) => at = next,
                None => break,
            }
        }
        // Only the blocks at the two ends can need a split, so no more tables than this.
        let splits = 2 * u32::from(PAGE_LEVEL - self.geometry.start_level);
        self.prepare(
            memory,
            Plan {
                tables: splits,
                dead: 0,
                released: 0,
            },
        )?;
        let mut at = gfn;
        let mut result = Ok(());
        while let Some((found, mapping, _)) = self.next_mapping(memory, at, end) {
            let leaf_end = entry_end(found.raw(), PAGE_LEVEL - mapping.order / 9).min(end);
            let change = Change {
                start: found.raw(),
                end: leaf_end,
                new: Some((mapping.mfn, ty)),
                ram: Ram::Keep,
            };
            result = self.commit(memory, &change);
            match u32::try_from(leaf_end) {
                Ok(next) if result.is_ok() => at = Gfn::new(next),
                _ => break,
            }
        }
        self.return_spare(memory);
        result
    }

    fn after(found: Gfn, mapping: Mapping) -> Option<Gfn> {
        u32::try_from(entry_end(found.raw(), PAGE_LEVEL - mapping.order / 9))
            .ok()
            .map(Gfn::new)
    }

    /// Returns the first mapped frame from `gfn` up to, not including, `end`: its number, its mapping and how many
    /// frames from there on the same leaf maps.
    pub fn next_mapping<M: TableMemory>(
        &self,
        memory: &M,
        gfn: Gfn,
        end: u64,
    ) -> Option<(Gfn, Mapping, u32)> {
        let end = end.min(self.geometry.frames());
        let mut at = u64::from(gfn.raw());
        while at < end {
            let gfn = u32::try_from(at).ok()?;
            let position = self.descend(memory, gfn, PAGE_LEVEL);
            if let Entry::Leaf(mfn, ty) = decode(position.raw, position.level) {
                let order = order_at(position.level);
                let offset = gfn & ((1 << order) - 1);
                let mapping = Mapping {
                    mfn: Mfn::new(mfn.raw() + offset),
                    ty,
                    order,
                };
                return Some((Gfn::new(gfn), mapping, (1 << order) - offset));
            }
            // Pass over the absent entries of this table in one window.
            let absent = memory.with_table(position.table, |table| {
                let rest = table.get(position.index..).unwrap_or_default();
                rest.iter()
                    .take_while(|entry| !is_valid(entry.load(Ordering::Relaxed)))
                    .count()
            });
            let order = order_at(position.level);
            at = ((at >> order) + (absent as u64).max(1)) << order;
        }
        None
    }

    /// Flushes the TLB if needed, frees dropped tables, and gives what removed mappings referred to to `release`,
    /// at most `budget` frames at a time. Returns whether all is done.
    ///
    /// `release` gets RAM only from operations with [`Ram::Release`]; it must not use the tables.
    pub fn sync<M: TableMemory>(
        &mut self,
        memory: &mut M,
        budget: u32,
        mut release: impl FnMut(&mut M, Released),
    ) -> bool {
        if self.needs_flush {
            memory.flush();
            self.needs_flush = false;
        }
        while let Some((table, base)) = self.dead.pop() {
            let mut index = 0;
            while let Some((found, mfn, ty)) = Self::next_counted(memory, table, index) {
                let gfn = Gfn::new(base.raw() + found as u32);
                release(
                    memory,
                    Released {
                        gfn,
                        mfn,
                        pages: 1,
                        ty,
                    },
                );
                index = found + 1;
            }
            self.free_table(memory, table);
        }
        let mut budget = budget;
        while let Some(last) = self.released.last_mut() {
            if budget == 0 {
                return false;
            }
            let pages = last.pages.min(budget);
            let part = Released { pages, ..*last };
            if pages == last.pages {
                self.released.pop();
            } else {
                last.gfn = Gfn::new(last.gfn.raw() + pages);
                last.mfn = Mfn::new(last.mfn.raw() + pages);
                last.pages -= pages;
            }
            budget -= pages;
            release(memory, part);
        }
        true
    }

    fn next_counted<M: TableMemory>(
        memory: &M,
        table: Mfn,
        from: usize,
    ) -> Option<(usize, Mfn, PageType)> {
        memory.with_table(table, |table| {
            table
                .iter()
                .enumerate()
                .skip(from)
                .find_map(|(index, entry)| {
                    match decode(entry.load(Ordering::Relaxed), PAGE_LEVEL) {
                        Entry::Leaf(mfn, ty) if ty.is_counted() => Some((index, mfn, ty)),
                        _ => None,
                    }
                })
        })
    }

    /// Frees the tables of the 1 GiB regions from `*cursor` on, one region with tables at each call, when all is
    /// unmapped and synced. Returns whether all are gone; the root stays until [`Stage2::destroy`].
    ///
    /// Mappings that are still there are dropped without a word.
    pub fn free_tables_step<M: TableMemory>(&mut self, memory: &mut M, cursor: &mut u64) -> bool {
        self.hint = None;
        while *cursor < self.geometry.frames() {
            let Ok(gfn) = u32::try_from(*cursor) else {
                break;
            };
            let position = self.descend(memory, gfn, 1);
            *cursor = entry_end(gfn, position.level);
            if let Entry::Table(table) = decode(position.raw, position.level) {
                self.unlink(memory, position);
                self.free_children(memory, table, position.level + 1);
                self.free_table(memory, table);
                return false;
            }
        }
        if self.geometry.start_level == 0 {
            // Now the level-1 tables are empty.
            for index in 0..ENTRIES << self.geometry.root_order {
                let Some(table) = self.root_page(index / ENTRIES) else {
                    break;
                };
                let position = self.read(memory, table, index % ENTRIES, 0);
                if let Entry::Table(table) = decode(position.raw, 0) {
                    self.unlink(memory, position);
                    self.free_table(memory, table);
                }
            }
        }
        true
    }

    fn unlink<M: TableMemory>(&mut self, memory: &mut M, position: Position) {
        self.store(memory, position, 0);
        memory.flush();
        self.needs_flush = false;
    }

    /// Frees the tables that the (unlinked) table at `level` leads to; they are at level 3.
    fn free_children<M: TableMemory>(&mut self, memory: &mut M, table: Mfn, level: u8) {
        let mut from = 0;
        while let Some((index, child)) = memory.with_table(table, |table| {
            table
                .iter()
                .enumerate()
                .skip(from)
                .find_map(
                    |(index, entry)| match decode(entry.load(Ordering::Relaxed), level) {
                        Entry::Table(child) => Some((index, child)),
                        _ => None,
                    },
                )
        }) {
            self.free_table(memory, child);
            from = index + 1;
        }
    }

    /// Frees the root. Tables and mappings must be gone ([`Stage2::free_tables_step`]).
    pub fn destroy<M: TableMemory>(self, memory: &mut M) {
        debug_assert!(
            self.tables == 0,
            "stage 2 destroyed with {} tables",
            self.tables
        );
        memory.free_root(self.root, self.geometry.root_order);
    }

    fn free_table<M: TableMemory>(&mut self, memory: &mut M, table: Mfn) {
        memory.free_table(table);
        self.tables = self.tables.saturating_sub(1);
    }

    fn range_end(&self, gfn: Gfn, pages: u32) -> Result<u64, MapError> {
        let end = u64::from(gfn.raw()) + u64::from(pages);
        if end > self.geometry.frames() {
            Err(MapError::OutOfRange)
        } else {
            Ok(end)
        }
    }

    fn change<M: TableMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        pages: u32,
        new: Option<(Mfn, PageType)>,
        ram: Ram,
    ) -> Result<(), MapError> {
        let end = self.range_end(gfn, pages)?;
        let change = Change {
            start: gfn.raw(),
            end,
            new,
            ram,
        };
        if pages == 1 {
            // The common case needs no plan: its table is there.
            let position = self.descend(memory, gfn.raw(), PAGE_LEVEL);
            if position.level == PAGE_LEVEL {
                self.released
                    .try_reserve(1)
                    .map_err(|_| MapError::OutOfTables)?;
                self.write_run(memory, &change, position, gfn.raw(), 1);
                self.hint = Some((gfn.raw() >> 9, position.table));
                return Ok(());
            }
        }
        let plan = self.plan(memory, &change);
        self.prepare(memory, plan)?;
        let result = self.commit(memory, &change);
        self.return_spare(memory);
        result
    }

    /// Finds the entries that the change at `gfn` concerns: either one entry above the wanted level that needs a
    /// table below it (no frames), or a run of entries that are changed as a whole.
    fn locate<M: TableMemory>(&self, memory: &M, change: &Change, gfn: u32) -> (Position, usize) {
        let mut level = change.level_at(gfn);
        loop {
            let position = self.descend(memory, gfn, level);
            if position.level < level {
                return (position, 0);
            }
            let is_table = matches!(decode(position.raw, position.level), Entry::Table(_));
            if is_table && !(change.new.is_some() && level == PAGE_LEVEL - 1) {
                // Only a level-3 table is replaced as a whole, and only by a block: that bounds the work.
                level += 1;
                continue;
            }
            let left = (change.end - u64::from(gfn)) >> order_at(level);
            let most = (ENTRIES - position.index).min(usize::try_from(left).unwrap_or(ENTRIES));
            let run = if level == PAGE_LEVEL || most <= 1 {
                most.max(1)
            } else {
                self.run_length(memory, change, position, most)
            };
            return (position, run);
        }
    }

    /// Returns how many of the entries from `position` on can be changed in the same way.
    fn run_length<M: TableMemory>(
        &self,
        memory: &M,
        change: &Change,
        position: Position,
        most: usize,
    ) -> usize {
        let replaces_tables = change.new.is_some() && position.level == PAGE_LEVEL - 1;
        memory.with_table(position.table, |table| {
            let entries = table
                .get(position.index..position.index + most)
                .unwrap_or_default();
            let run = entries
                .iter()
                .take_while(|entry| {
                    replaces_tables
                        || !matches!(
                            decode(entry.load(Ordering::Relaxed), position.level),
                            Entry::Table(_)
                        )
                })
                .count();
            run.max(1)
        })
    }

    fn plan<M: TableMemory>(&self, memory: &M, change: &Change) -> Plan {
        let mut plan = Plan::default();
        let mut at = u64::from(change.start);
        while at < change.end {
            let Ok(gfn) = u32::try_from(at) else { break };
            let (position, run) = self.locate(memory, change, gfn);
            if run == 0 {
                let next = entry_end(gfn, position.level).min(change.end);
                let is_hole = decode(position.raw, position.level) == Entry::Absent;
                if !(is_hole && change.new.is_none()) {
                    plan.tables += change.fresh_tables(position.level + 1, gfn, next);
                }
                if change.ram == Ram::Release && !is_hole {
                    // The parts of a split block are released one by one.
                    plan.released += u32::try_from(next - at)
                        .unwrap_or(u32::MAX)
                        .min(3 * ENTRIES as u32);
                }
                at = next;
                continue;
            }
            memory.with_table(position.table, |table| {
                for entry in table.iter().skip(position.index).take(run) {
                    match decode(entry.load(Ordering::Relaxed), position.level) {
                        Entry::Table(_) => plan.dead += 1,
                        Entry::Leaf(_, ty) if Self::is_released(ty, change.ram) => {
                            plan.released += 1
                        }
                        Entry::Leaf(..) | Entry::Absent => {}
                    }
                }
            });
            at += (run as u64) << order_at(position.level);
        }
        plan
    }

    fn is_released(ty: PageType, ram: Ram) -> bool {
        ty.is_counted() || (ty.is_ram() && ram == Ram::Release)
    }

    /// Gets all that a plan needs, or nothing.
    fn prepare<M: TableMemory>(&mut self, memory: &mut M, plan: Plan) -> Result<(), MapError> {
        // Each entry of the dead and released lists is counted when pushed; the capacity stays for later.
        let enough = self.spare.try_reserve(plan.tables as usize).is_ok()
            && self.dead.try_reserve(plan.dead as usize).is_ok()
            && self.released.try_reserve(plan.released as usize).is_ok()
            && plan.tables <= self.pool_limit.saturating_sub(self.tables);
        if !enough {
            return Err(MapError::OutOfTables);
        }
        for _ in 0..plan.tables {
            match memory.alloc_table() {
                Some(table) => {
                    self.spare.push(table);
                    self.tables += 1;
                }
                None => {
                    self.return_spare(memory);
                    return Err(MapError::OutOfTables);
                }
            }
        }
        Ok(())
    }

    fn return_spare<M: TableMemory>(&mut self, memory: &mut M) {
        while let Some(table) = self.spare.pop() {
            self.free_table(memory, table);
        }
    }

    fn commit<M: TableMemory>(&mut self, memory: &mut M, change: &Change) -> Result<(), MapError> {
        let mut at = u64::from(change.start);
        while at < change.end {
            let Ok(gfn) = u32::try_from(at) else { break };
            let (position, run) = self.locate(memory, change, gfn);
            if run == 0 {
                match decode(position.raw, position.level) {
                    Entry::Absent if change.new.is_none() => at = entry_end(gfn, position.level),
                    Entry::Leaf(mfn, ty) => {
                        let table = self.take_spare()?;
                        self.fill(memory, table, mfn, ty, position.level + 1);
                        self.store(memory, position, 0);
                        memory.flush();
                        self.needs_flush = false;
                        self.store(memory, position, descriptor::table(table));
                    }
                    Entry::Absent | Entry::Table(_) => {
                        let table = self.take_spare()?;
                        self.flush_before_make(memory);
                        self.store(memory, position, descriptor::table(table));
                    }
                }
                continue;
            }
            self.write_run(memory, change, position, gfn, run);
            at += (run as u64) << order_at(position.level);
        }
        Ok(())
    }

    fn take_spare(&mut self) -> Result<Mfn, MapError> {
        let table = self.spare.pop();
        debug_assert!(table.is_some(), "the plan counted too few tables");
        table.ok_or(MapError::OutOfTables)
    }

    /// Fills a fresh table with the parts of a block.
    fn fill<M: TableMemory>(&self, memory: &M, table: Mfn, mfn: Mfn, ty: PageType, level: u8) {
        memory.with_table(table, |table| {
            for (index, entry) in (0u32..).zip(table) {
                let part = Mfn::new(mfn.raw() + index * pages_at(level));
                entry.store(descriptor::leaf(part, ty, level), Ordering::Relaxed);
            }
            memory.publish(table);
        });
    }

    /// A mapping that was removed without a flush may still be cached: nothing new may take its place before.
    fn flush_before_make<M: TableMemory>(&mut self, memory: &mut M) {
        if self.needs_flush {
            memory.flush();
            self.needs_flush = false;
        }
    }

    /// Changes `run` entries from `position` on: the one place that replaces leaves.
    fn write_run<M: TableMemory>(
        &mut self,
        memory: &mut M,
        change: &Change,
        position: Position,
        gfn: u32,
        run: usize,
    ) {
        let level = position.level;
        let pages = pages_at(level);
        let range = position.index..position.index + run;
        let target = |index: u32| {
            change.mfn_at(gfn).map_or(0, |(mfn, ty)| {
                descriptor::leaf(Mfn::new(mfn.raw() + index * pages), ty, level)
            })
        };
        let is_pending = self.needs_flush;
        let (dead, released) = (&mut self.dead, &mut self.released);
        let (is_replaced, drops_table, is_done) = memory.with_table(position.table, |table| {
            let entries = table.get(range.clone()).unwrap_or_default();
            let (mut is_replaced, mut drops_table) = (false, false);
            for (index, entry) in (0u32..).zip(entries) {
                let old = entry.load(Ordering::Relaxed);
                if !is_valid(old) {
                    continue;
                }
                let at = Gfn::new(gfn + index * pages);
                match decode(old, level) {
                    // A counted mapping that is made again brings a second reference: one must go.
                    Entry::Leaf(mfn, ty) if Self::is_released(ty, change.ram) => {
                        let is_same = old == target(index) && ty.is_ram();
                        if !is_same {
                            Self::push_released(
                                released,
                                Released {
                                    gfn: at,
                                    mfn,
                                    pages,
                                    ty,
                                },
                            );
                        }
                    }
                    Entry::Table(table) => {
                        dead.push((table, at));
                        drops_table = true;
                    }
                    Entry::Leaf(..) | Entry::Absent => {}
                }
                if old != target(index) {
                    entry.store(0, Ordering::Relaxed);
                    is_replaced = true;
                }
            }
            let is_done = change.new.is_some() && !is_replaced && !is_pending;
            if is_done {
                for (index, entry) in (0u32..).zip(entries) {
                    entry.store(target(index), Ordering::Relaxed);
                }
            }
            if is_replaced || is_done {
                memory.publish(entries);
            }
            (is_replaced, drops_table, is_done)
        });
        if drops_table {
            self.hint = None;
        }
        self.needs_flush |= is_replaced;
        if change.new.is_none() || is_done {
            return;
        }
        self.flush_before_make(memory);
        memory.with_table(position.table, |table| {
            let entries = table.get(range).unwrap_or_default();
            for (index, entry) in (0u32..).zip(entries) {
                entry.store(target(index), Ordering::Relaxed);
            }
            memory.publish(entries);
        });
    }

    /// Adds to the released frames; the plan made room. RAM that follows the last is joined with it.
    fn push_released(list: &mut Vec<Released>, new: Released) {
        if let Some(last) = list.last_mut()
            && new.ty.is_ram()
            && last.ty == new.ty
            && last.gfn.raw().checked_add(last.pages) == Some(new.gfn.raw())
            && last.mfn.raw().checked_add(last.pages) == Some(new.mfn.raw())
        {
            last.pages += new.pages;
            return;
        }
        list.push(new);
    }

    fn store<M: TableMemory>(&self, memory: &M, position: Position, raw: u64) {
        memory.with_table(position.table, |table| {
            if let Some(entry) = table.get(position.index) {
                entry.store(raw, Ordering::Relaxed);
                memory.publish(core::slice::from_ref(entry));
            }
        });
    }

    fn root_page(&self, page: usize) -> Option<Mfn> {
        self.root.checked_add(u32::try_from(page).ok()?)
    }

    fn read<M: TableMemory>(&self, memory: &M, table: Mfn, index: usize, level: u8) -> Position {
        let raw = memory.with_table(table, |table| {
            table
                .get(index)
                .map_or(0, |entry| entry.load(Ordering::Relaxed))
        });
        Position {
            table,
            index,
            level,
            raw,
        }
    }

    /// Walks to the entry for `gfn` at level `deepest`, or to the leaf or hole before it. `gfn` is in range.
    fn descend<M: TableMemory>(&self, memory: &M, gfn: u32, deepest: u8) -> Position {
        if deepest == PAGE_LEVEL
            && let Some((key, table)) = self.hint
            && key == gfn >> 9
        {
            return self.read(memory, table, gfn as usize % ENTRIES, PAGE_LEVEL);
        }
        let mut level = self.geometry.start_level;
        let root_index = (u64::from(gfn) >> order_at(level)) as usize;
        let mut table = Mfn::new(self.root.raw() + (root_index / ENTRIES) as u32);
        loop {
            let index = (u64::from(gfn) >> order_at(level)) as usize % ENTRIES;
            let position = self.read(memory, table, index, level);
            match decode(position.raw, level) {
                Entry::Table(next) if level < deepest => {
                    table = next;
                    level += 1;
                }
                _ => return position,
            }
        }
    }
}
