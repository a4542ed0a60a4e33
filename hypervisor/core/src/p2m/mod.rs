//! The physical-to-machine map of a domain: which frames its physical address space shows, and who pays for them.
//!
//! [`P2m`] joins the stage-2 tables with the references of the frame table and the domain's memory account.
//!
//! # References
//! - RAM of the domain is kept by its owner's own reference, mapped or not; `decrease_reservation` drops it.
//! - Foreign and xenheap mappings hold one reference for each mapped page, dropped after the TLB flush that follows
//!   the mapping's end. Grant mappings are counted by the grant table.
//! - A page is taken off its owner's [`PageAccount`] when it is really freed, so a domain cannot hold more than its
//!   limit by keeping references to pages that it gave up.
//!
//! # Direct-mapped domains
//! dom0 sees its RAM 1:1. Giving a page up only unmaps it: the frame stays the domain's, since nothing else could
//! take its place, and populate maps it again (Xen does the same).
//!
//! The lock (rank `P2m`) is outside. Operations leave removed mappings waiting for a TLB flush only where the
//! documentation says so; [`P2m::sync`] does it.

mod account;
mod end;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use core::sync::atomic::AtomicU64;

pub use account::PageAccount;

use crate::addr::{DomId, Gfn, Mfn};
use crate::errno::Errno;
use crate::frames::{FrameTable, GetError, MAX_ORDER, Owner, Put};
use crate::stage2::{Geometry, Mapping, PageType, Ram, Released, Stage2, TableMemory};

/// What the p2m needs beside tables: the frame table and RAM.
pub trait P2mMemory: TableMemory {
    /// The storage of the frame table.
    type Storage: AsRef<[AtomicU64]>;
    /// Returns the frame table.
    fn frames(&self) -> &FrameTable<Self::Storage>;
    /// Allocates 2^`order` aligned frames for a domain, zeroed, with the domain's own reference on each; from what is set
    /// aside for it first.
    fn alloc_ram(&mut self, order: u32, owner: DomId, account: &PageAccount) -> Option<Mfn>;
    /// Frees RAM or xenheap frames whose last reference is gone.
    fn free_frame(&mut self, mfn: Mfn);
    /// As [`P2mMemory::free_frame`] for consecutive frames.
    fn free_frames(&mut self, first: Mfn, pages: u32);
    /// Gives back what [`P2mMemory::alloc_ram`] returned and nobody saw.
    fn undo_alloc_ram(&mut self, mfn: Mfn, order: u32);
    /// Frees a frame as [`P2mMemory::free_frame`] and takes it off the account of another domain.
    fn free_other(&mut self, mfn: Mfn, owner: DomId, is_xenheap: bool);
}

/// What to do with a shared page that is mapped somewhere else already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenMapped {
    /// Fail with EBUSY (shared_info).
    Busy,
    /// Move it (grant frames).
    Move,
}

/// Whether a guest may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// How the end of a domain's memory goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Relinquish {
    /// Call again.
    More,
    /// All mappings, tables and own references are gone.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dying {
    No,
    Mappings(Gfn),
    Tables(u64),
    /// Frames that the domain owns but did not map.
    Unmapped(Mfn),
    Done,
}

/// The physical address space of one domain.
#[derive(Debug)]
pub struct P2m {
    stage2: Stage2,
    owner: DomId,
    is_direct_mapped: bool,
    account: Arc<PageAccount>,
    /// The highest guest frame ever mapped.
    highest: Option<Gfn>,
    dying: Dying,
}

impl P2m {
    /// Makes an empty physical address space.
    ///
    /// # Errors
    /// [`Errno::NoMem`].
    pub fn new<M: P2mMemory>(
        memory: &mut M,
        geometry: Geometry,
        owner: DomId,
        is_direct_mapped: bool,
        account: Arc<PageAccount>,
    ) -> Result<Self, Errno> {
        let stage2 = Stage2::new(memory, geometry).ok_or(Errno::NoMem)?;
        Ok(Self {
            stage2,
            owner,
            is_direct_mapped,
            account,
            highest: None,
            dying: Dying::No,
        })
    }

    /// Returns the tables, for VTTBR and the size of their pool.
    pub fn stage2(&self) -> &Stage2 {
        &self.stage2
    }

    /// Returns the tables for changing the size of their pool.
    pub fn stage2_mut(&mut self) -> &mut Stage2 {
        &mut self.stage2
    }

    /// Sets the size of the pool of table pages, and its memory aside.
    ///
    /// # Errors
    /// [`Errno::NoMem`] without memory or when more are in use; [`Errno::Inval`] for a dying domain.
    pub fn reserve_tables<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        pages: u32,
    ) -> Result<(), Errno> {
        self.alive()?;
        Ok(self.stage2.reserve_pool(memory, pages)?)
    }

    /// Returns whether RAM is mapped 1:1.
    pub fn is_direct_mapped(&self) -> bool {
        self.is_direct_mapped
    }

    /// Returns the memory account.
    pub fn account(&self) -> &Arc<PageAccount> {
        &self.account
    }

    /// Returns the highest guest frame ever mapped (`XENMEM_maximum_gpfn`), 0 if none.
    pub fn maximum_gpfn(&self) -> Gfn {
        self.highest.unwrap_or(Gfn::new(0))
    }

    /// Returns what a guest frame is mapped to.
    pub fn lookup<M: P2mMemory>(&self, memory: &M, gfn: Gfn) -> Option<Mapping> {
        self.stage2.lookup(memory, gfn)
    }

    /// Returns the first page of RAM from `from` on, below guest frame `end`.
    pub fn next_ram<M: P2mMemory>(
        &self,
        memory: &M,
        mut from: Gfn,
        end: u64,
    ) -> Option<(Gfn, Mfn)> {
        while let Some((gfn, mapping, run)) = self.stage2.next_mapping(memory, from, end) {
            if mapping.ty.is_ram() {
                return Some((gfn, mapping.mfn));
            }
            from = gfn.checked_add(run)?;
        }
        None
    }

    /// Flushes the TLB for removed mappings and then drops the references that they held.
    pub fn sync<M: P2mMemory>(&mut self, memory: &mut M) {
        if self.stage2.needs_sync() {
            let _ = self.sync_some(memory, u32::MAX);
        }
    }

    fn sync_some<M: P2mMemory>(&mut self, memory: &mut M, budget: u32) -> bool {
        let (owner, account) = (self.owner, &self.account);
        self.stage2.sync(memory, budget, |memory, released| {
            Self::drop_released(memory, owner, account, released)
        })
    }

    fn drop_released<M: P2mMemory>(
        memory: &mut M,
        owner: DomId,
        account: &PageAccount,
        released: Released,
    ) {
        // Neighbours whose last reference is gone are freed together.
        let mut run = (released.mfn, 0);
        for offset in 0..released.pages {
            let mfn = Mfn::new(released.mfn.raw() + offset);
            let put = if released.ty.is_ram() {
                match memory.frames().release(mfn, owner) {
                    Ok(Put::Last {
                        owner: Owner::Domain(whose),
                        is_xenheap: false,
                    }) if whose == owner => {
                        if run.1 == 0 {
                            run.0 = mfn;
                        }
                        run.1 += 1;
                        continue;
                    }
                    Ok(put) => put,
                    // Mapped, but no longer this domain's to give up.
                    Err(_) => Put::Kept,
                }
            } else {
                // A domain that maps it as another's may have it at the same address.
                if released.ty == PageType::Xenheap
                    && memory.frames().xenheap_gfn(mfn) == Some(released.gfn)
                {
                    memory.frames().set_xenheap_gfn(mfn, None);
                }
                memory.frames().put(mfn)
            };
            Self::free_run(memory, account, &mut run);
            Self::finish_put(memory, owner, account, mfn, put);
        }
        Self::free_run(memory, account, &mut run);
    }

    /// Frees consecutive frames of the domain's own, and takes them off its account.
    fn free_run<M: P2mMemory>(memory: &mut M, account: &PageAccount, run: &mut (Mfn, u32)) {
        let (first, pages) = *run;
        if pages != 0 {
            memory.free_frames(first, pages);
            account.sub(pages);
            run.1 = 0;
        }
    }

    fn finish_put<M: P2mMemory>(
        memory: &mut M,
        owner: DomId,
        account: &PageAccount,
        mfn: Mfn,
        put: Put,
    ) {
        match put {
            Put::Kept => {}
            Put::Last {
                owner: Owner::Domain(whose),
                is_xenheap,
            } if whose == owner => {
                memory.free_frame(mfn);
                account.note_freed(is_xenheap);
            }
            Put::Last {
                owner: Owner::Domain(whose),
                is_xenheap,
            } => memory.free_other(mfn, whose, is_xenheap),
            Put::Last { .. } => memory.free_frame(mfn),
        }
    }

    /// Drops a reference that [`P2m::get_page`] or the like took; frees the page if it was the last.
    pub fn put_page<M: P2mMemory>(&self, memory: &mut M, mfn: Mfn) {
        let put = memory.frames().put(mfn);
        Self::finish_put(memory, self.owner, &self.account, mfn, put);
    }

    /// Nothing is added to a dying domain: it would never go.
    fn alive(&self) -> Result<(), Errno> {
        if self.dying == Dying::No {
            Ok(())
        } else {
            Err(Errno::Inval)
        }
    }

    fn map<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        pages: u32,
        ty: PageType,
        ram: Ram,
    ) -> Result<(), Errno> {
        self.alive()?;
        let Some(last) = pages.checked_sub(1) else {
            return Ok(());
        };
        let highest = gfn.checked_add(last).ok_or(Errno::Inval)?;
        self.stage2.map(memory, gfn, mfn, pages, ty, ram)?;
        self.highest = self.highest.max(Some(highest));
        Ok(())
    }

    /// Returns what happens to own RAM whose gfn gets another page.
    fn displaced(&self) -> Ram {
        if self.is_direct_mapped {
            Ram::Keep
        } else {
            Ram::Release
        }
    }

    /// Maps RAM that is the domain's already (claimed at boot) and enters it into the account, whatever the limit.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a range outside, [`Errno::NoMem`]; nothing changed.
    pub fn add_ram<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        pages: u32,
    ) -> Result<(), Errno> {
        self.map(memory, gfn, mfn, pages, PageType::RamRw, Ram::Keep)?;
        self.account.add(pages);
        self.sync(memory);
        Ok(())
    }

    /// Maps device memory. The caller has checked that the domain may have it.
    ///
    /// # Errors
    /// [`Errno::Inval`] when `ty` is no MMIO type, a frame is RAM, or the range is outside;
    /// [`Errno::NoMem`]; nothing changed.
    pub fn map_mmio<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        pages: u32,
        ty: PageType,
    ) -> Result<(), Errno> {
        if !ty.is_mmio() || memory.frames().overlaps_ram(mfn, pages) {
            return Err(Errno::Inval);
        }
        self.map(memory, gfn, mfn, pages, ty, self.displaced())?;
        self.sync(memory);
        Ok(())
    }

    /// Unmaps device memory; other mappings in the range make it fail.
    ///
    /// # Errors
    /// [`Errno::Inval`] when something else is mapped there; [`Errno::NoMem`]; nothing changed.
    pub fn unmap_mmio<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        pages: u32,
    ) -> Result<(), Errno> {
        self.each_mapping(memory, gfn, pages, |mapping| mapping.ty.is_mmio())?;
        self.stage2.unmap(memory, gfn, pages, Ram::Keep)?;
        self.sync(memory);
        Ok(())
    }

    /// Checks all mappings of a range; returns the number of mapped pages, or EINVAL when one does not suit.
    fn each_mapping<M: P2mMemory>(
        &self,
        memory: &M,
        gfn: Gfn,
        pages: u32,
        suits: impl Fn(Mapping) -> bool,
    ) -> Result<u32, Errno> {
        let end = u64::from(gfn.raw()) + u64::from(pages);
        if end > self.stage2.geometry().frames() {
            return Err(Errno::Inval);
        }
        let (mut at, mut count) = (gfn, 0u32);
        while let Some((found, mapping, run)) = self.stage2.next_mapping(memory, at, end) {
            if !suits(mapping) {
                return Err(Errno::Inval);
            }
            let left = end - u64::from(found.raw());
            let run = run.min(u32::try_from(left).unwrap_or(u32::MAX));
            count = count.saturating_add(run);
            match found.checked_add(run) {
                Some(next) => at = next,
                None => break,
            }
        }
        Ok(count)
    }

    /// Gives the domain 2^`order` pages at `gfn` (`XENMEM_populate_physmap`, one extent) and returns the first
    /// machine frame. A direct-mapped domain gets its own frames `gfn`.. back.
    ///
    /// Own RAM that was mapped there stays the domain's, without an address, as in Xen.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a bad order, misaligned or outside gfn, or a frame that a direct-mapped domain does not
    /// own; [`Errno::NoMem`] beyond its limit or without memory. Nothing changed.
    pub fn populate<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        order: u32,
    ) -> Result<Mfn, Errno> {
        self.alive()?;
        if order > MAX_ORDER {
            return Err(Errno::Inval);
        }
        let pages = 1u32 << order;
        if u64::from(gfn.raw()) + u64::from(pages) > self.stage2.geometry().frames() {
            return Err(Errno::Inval);
        }
        if self.is_direct_mapped {
            let mfn = Mfn::new(gfn.raw());
            let frames = memory.frames();
            let owns = |offset| frames.is_ram_of(Mfn::new(mfn.raw() + offset), self.owner);
            if !(0..pages).all(owns) {
                return Err(Errno::Inval);
            }
            self.map(memory, gfn, mfn, pages, PageType::RamRw, Ram::Keep)?;
            self.sync(memory);
            return Ok(mfn);
        }
        if !self.account.try_add(pages) {
            return Err(Errno::NoMem);
        }
        let Some(mfn) = memory.alloc_ram(order, self.owner, &self.account) else {
            self.account.sub(pages);
            return Err(Errno::NoMem);
        };
        if let Err(error) = self.map(memory, gfn, mfn, pages, PageType::RamRw, Ram::Keep) {
            memory.undo_alloc_ram(mfn, order);
            self.account.sub(pages);
            return Err(error);
        }
        self.sync(memory);
        Ok(mfn)
    }

    /// Gives the domain 2^`order` pages without an address (`XENMEM_increase_reservation`, one extent).
    ///
    /// # Errors
    /// [`Errno::Inval`] for a bad order, or when it is dying; [`Errno::NoMem`] beyond its limit or without memory.
    pub fn increase<M: P2mMemory>(&mut self, memory: &mut M, order: u32) -> Result<(), Errno> {
        self.alive()?;
        if order > MAX_ORDER {
            return Err(Errno::Inval);
        }
        let pages = 1u32 << order;
        if !self.account.try_add(pages) {
            return Err(Errno::NoMem);
        }
        if memory.alloc_ram(order, self.owner, &self.account).is_none() {
            self.account.sub(pages);
            return Err(Errno::NoMem);
        }
        Ok(())
    }

    /// Takes 2^`order` pages from the domain (`XENMEM_decrease_reservation`, one extent). The frames are freed by
    /// [`P2m::sync`], so that many extents share a TLB flush. A direct-mapped domain keeps its frames.
    ///
    /// # Errors
    /// [`Errno::Inval`] unless all pages are mapped RAM or shared xenheap pages (which are only unmapped);
    /// [`Errno::NoMem`] when a block cannot be split. Nothing changed.
    pub fn decrease<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        order: u32,
    ) -> Result<(), Errno> {
        self.alive()?;
        if order > MAX_ORDER {
            return Err(Errno::Inval);
        }
        let pages = 1u32 << order;
        let suits = |mapping: Mapping| mapping.ty.is_ram() || mapping.ty == PageType::Xenheap;
        if self.each_mapping(memory, gfn, pages, suits)? != pages {
            return Err(Errno::Inval);
        }
        self.stage2.unmap(memory, gfn, pages, self.displaced())?;
        Ok(())
    }

    /// Shows the domain a page of the hypervisor that was shared with it (`XENMEM_add_to_physmap`: shared_info,
    /// grant frames). RAM at `gfn` is given up, except by a direct-mapped domain.
    ///
    /// # Errors
    /// [`Errno::Busy`] when it is mapped elsewhere and `when_mapped` says so; [`Errno::Inval`] when the page is not
    /// shared with the domain or `gfn` is outside; [`Errno::NoMem`]. Nothing changed.
    pub fn add_xenheap<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        when_mapped: WhenMapped,
    ) -> Result<(), Errno> {
        self.alive()?;
        if !memory.frames().is_xenheap_of(mfn, self.owner)
            || !FrameTable::<M::Storage>::holds_gfn(gfn)
        {
            return Err(Errno::Inval);
        }
        // A mapping that decrease removed counts as gone.
        self.sync(memory);
        let before = memory.frames().xenheap_gfn(mfn);
        if before.is_some() && when_mapped == WhenMapped::Busy {
            return Err(Errno::Busy);
        }
        if before == Some(gfn) {
            return Ok(());
        }
        memory
            .frames()
            .get(mfn, Owner::Domain(self.owner))
            .map_err(|_| Errno::Inval)?;
        if let Err(error) = self.map(memory, gfn, mfn, 1, PageType::Xenheap, self.displaced()) {
            self.put_page(memory, mfn);
            return Err(error);
        }
        if let Some(before) = before {
            // A single page in a level-3 table: needs no table, so it cannot fail.
            let _ = self.stage2.unmap(memory, before, 1, Ram::Keep);
        }
        self.sync(memory);
        memory.frames().set_xenheap_gfn(mfn, Some(gfn));
        Ok(())
    }

    /// Removes a page from the physical address space (`XENMEM_remove_from_physmap`). RAM stays the domain's.
    ///
    /// # Errors
    /// [`Errno::NoEnt`] when nothing is mapped, [`Errno::Inval`] for devices and grants, [`Errno::NoMem`] when a
    /// block cannot be split. Nothing changed.
    pub fn remove<M: P2mMemory>(&mut self, memory: &mut M, gfn: Gfn) -> Result<(), Errno> {
        let mapping = self.lookup(memory, gfn).ok_or(Errno::NoEnt)?;
        if mapping.ty.is_mmio() || mapping.ty.is_grant() {
            return Err(Errno::Inval);
        }
        self.stage2.unmap(memory, gfn, 1, Ram::Keep)?;
        self.sync(memory);
        Ok(())
    }

    /// Maps a page of another domain. Takes over the reference that the caller got with the other domain's
    /// [`P2m::get_page`], also when it fails.
    ///
    /// # Errors
    /// [`Errno::Inval`] when `gfn` is outside, [`Errno::NoMem`]; only the reference is gone then.
    pub fn map_foreign<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        access: Access,
    ) -> Result<(), Errno> {
        let ty = match access {
            Access::ReadWrite => PageType::ForeignRw,
            Access::ReadOnly => PageType::ForeignRo,
        };
        let result = self.map(memory, gfn, mfn, 1, ty, self.displaced());
        if result.is_err() {
            self.put_page(memory, mfn);
        }
        self.sync(memory);
        result
    }

    /// Maps a granted page, whose reference the grant table holds.
    ///
    /// # Errors
    /// [`Errno::Inval`] when `gfn` is outside, [`Errno::NoMem`]; nothing changed.
    pub fn map_grant<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
        access: Access,
    ) -> Result<(), Errno> {
        let ty = match access {
            Access::ReadWrite => PageType::GrantRw,
            Access::ReadOnly => PageType::GrantRo,
        };
        self.map(memory, gfn, mfn, 1, ty, self.displaced())
    }

    /// Unmaps a granted page. The TLB is flushed by [`P2m::sync`], which must come before the grant's reference is
    /// dropped; a batch may share it.
    ///
    /// # Errors
    /// [`Errno::Inval`] when not this frame is mapped there as a grant; nothing changed (XSA-222).
    pub fn unmap_grant<M: P2mMemory>(
        &mut self,
        memory: &mut M,
        gfn: Gfn,
        mfn: Mfn,
    ) -> Result<(), Errno> {
        match self.lookup(memory, gfn) {
            Some(mapping) if mapping.ty.is_grant() && mapping.mfn == mfn => {
                self.stage2.unmap(memory, gfn, 1, Ram::Keep)?;
                Ok(())
            }
            _ => Err(Errno::Inval),
        }
    }

    /// Takes a reference to the page behind a guest frame for use by the hypervisor or another domain, of the
    /// domain's own RAM only: grants, foreign mappings, vcpu_info, guest copies.
    ///
    /// # Errors
    /// [`Errno::Inval`] when no RAM of the domain is mapped there, or it is read-only and `access` is not, or the
    /// count is full.
    pub fn get_page<M: P2mMemory>(
        &self,
        memory: &M,
        gfn: Gfn,
        access: Access,
    ) -> Result<Mfn, Errno> {
        let mapping = self.lookup(memory, gfn).ok_or(Errno::Inval)?;
        if !mapping.ty.is_ram() || (access == Access::ReadWrite && !mapping.ty.is_writable()) {
            return Err(Errno::Inval);
        }
        self.take_own(memory, mapping.mfn)
    }

    /// As [`Self::get_page`] for reading; also returns how the domain itself may access the page.
    ///
    /// # Errors
    /// As [`Self::get_page`].
    pub fn get_granted_page<M: P2mMemory>(
        &self,
        memory: &M,
        gfn: Gfn,
    ) -> Result<(Mfn, Access), Errno> {
        let mapping = self.lookup(memory, gfn).ok_or(Errno::Inval)?;
        if !mapping.ty.is_ram() {
            return Err(Errno::Inval);
        }
        let access = if mapping.ty.is_writable() {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        Ok((self.take_own(memory, mapping.mfn)?, access))
    }

    fn take_own<M: P2mMemory>(&self, memory: &M, mfn: Mfn) -> Result<Mfn, Errno> {
        match memory.frames().get(mfn, Owner::Domain(self.owner)) {
            Ok(()) => Ok(mfn),
            Err(GetError::NotInUse | GetError::NotOwner | GetError::Overflow) => Err(Errno::Inval),
        }
    }

    /// Takes a reference to any memory that the guest itself could access at `gfn` (RAM, foreign, grants, shared
    /// pages; no devices), for copying its hypercall arguments.
    ///
    /// # Errors
    /// [`Errno::Fault`] when the guest could not access it so.
    pub fn get_accessible<M: P2mMemory>(
        &self,
        memory: &M,
        gfn: Gfn,
        access: Access,
    ) -> Result<Mfn, Errno> {
        let mapping = self.lookup(memory, gfn).ok_or(Errno::Fault)?;
        if mapping.ty.is_mmio() || (access == Access::ReadWrite && !mapping.ty.is_writable()) {
            return Err(Errno::Fault);
        }
        memory
            .frames()
            .get_any(mapping.mfn)
            .map_err(|_| Errno::Fault)?;
        Ok(mapping.mfn)
    }
}
