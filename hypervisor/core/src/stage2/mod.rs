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

mod change;
mod descriptor;
#[cfg(test)]
pub(crate) mod tests;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Gfn, Mfn};
use crate::errno::Errno;
use change::{Change, Plan};
use descriptor::{Entry, PAGE_LEVEL, decode, is_valid};

pub use descriptor::{ENTRIES, PageType, Table};

/// How tables are allocated, reached and made visible to the walker.
pub trait TableMemory {
    /// Returns a zeroed page for a table, already visible to the walker, or `None`; with `is_aside`, one of those that were
    /// set aside.
    fn alloc_table(&mut self, is_aside: bool) -> Option<Mfn>;
    /// Takes back a table page that no TLB knows any more; with `is_aside` it stays set aside.
    fn free_table(&mut self, table: Mfn, is_aside: bool);
    /// Sets free pages aside for tables. Returns false if there are not as many.
    fn set_aside(&mut self, pages: u32) -> bool;
    /// Ends that for as many pages.
    fn end_aside(&mut self, pages: u32);
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
    /// The pages of the pool that are no tables yet are set aside.
    is_reserved: bool,
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
            is_reserved: false,
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

    /// As [`Self::set_pool_limit`], and sets the memory aside: a table is then there when it is needed.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`] also without memory; nothing changed.
    pub fn reserve_pool<M: TableMemory>(
        &mut self,
        memory: &mut M,
        pages: u32,
    ) -> Result<(), MapError> {
        let wanted = pages
            .checked_sub(self.tables)
            .ok_or(MapError::OutOfTables)?;
        let now = self.pages_aside();
        if wanted > now && !memory.set_aside(wanted - now) {
            return Err(MapError::OutOfTables);
        }
        memory.end_aside(now.saturating_sub(wanted));
        self.pool_limit = pages;
        self.is_reserved = true;
        Ok(())
    }

    /// Returns how many pages are set aside now.
    pub(crate) fn pages_aside(&self) -> u32 {
        if self.is_reserved {
            self.pool_limit.saturating_sub(self.tables)
        } else {
            0
        }
    }

    /// Nothing is mapped any more: the pool is not needed.
    fn release_pool<M: TableMemory>(&mut self, memory: &mut M) {
        memory.end_aside(self.pages_aside());
        self.is_reserved = false;
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
        self.release_pool(memory);
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
    pub fn destroy<M: TableMemory>(mut self, memory: &mut M) {
        self.release_pool(memory);
        debug_assert!(
            self.tables == 0,
            "stage 2 destroyed with {} tables",
            self.tables
        );
        memory.free_root(self.root, self.geometry.root_order);
    }

    fn free_table<M: TableMemory>(&mut self, memory: &mut M, table: Mfn) {
        memory.free_table(table, self.is_reserved);
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
