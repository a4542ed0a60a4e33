//! Changing a range of guest frames: plan what is needed, get it, then write. See the module above for the rules.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::descriptor::{self, ENTRIES, Entry, PAGE_LEVEL, PageType, decode, is_valid};
use super::{
    MapError, Position, Ram, Released, Stage2, TableMemory, entry_end, order_at, pages_at,
};
use crate::addr::{Gfn, Mfn};

/// What an operation needs before it may start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    pub tables: u32,
    pub dead: u32,
    pub released: u32,
}

/// A change of a range: a new mapping, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub start: u32,
    /// One past the last guest frame.
    pub end: u64,
    pub new: Option<(Mfn, PageType)>,
    pub ram: Ram,
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

impl Stage2 {
    pub(super) fn change<M: TableMemory>(
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
    pub(super) fn prepare<M: TableMemory>(
        &mut self,
        memory: &mut M,
        plan: Plan,
    ) -> Result<(), MapError> {
        // Each entry of the dead and released lists is counted when pushed; the capacity stays for later.
        let enough = self.spare.try_reserve(plan.tables as usize).is_ok()
            && self.dead.try_reserve(plan.dead as usize).is_ok()
            && self.released.try_reserve(plan.released as usize).is_ok()
            && plan.tables <= self.pool_limit.saturating_sub(self.tables);
        if !enough {
            return Err(MapError::OutOfTables);
        }
        for _ in 0..plan.tables {
            match memory.alloc_table(self.is_reserved) {
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

    pub(super) fn return_spare<M: TableMemory>(&mut self, memory: &mut M) {
        while let Some(table) = self.spare.pop() {
            self.free_table(memory, table);
        }
    }

    pub(super) fn commit<M: TableMemory>(
        &mut self,
        memory: &mut M,
        change: &Change,
    ) -> Result<(), MapError> {
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
}
