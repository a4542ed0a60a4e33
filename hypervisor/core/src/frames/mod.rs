//! The frame table and the buddy allocator of the machine's RAM.
//!
//! [`FrameTable`] holds one 64-bit entry for each frame of RAM: what the frame is, who owns it and how many
//! references keep it. References are taken and dropped with compare-and-swap and need no lock. [`FrameAllocator`]
//! is the buddy allocator: its free lists run through the same entries, so freeing never allocates.
//!
//! # Invariants
//! - The entry of a frame in a free block is a head (first frame) or zero. Only the allocator writes these, under
//!   the lock that its owner wraps it in (rank `FrameAllocator`).
//! - A frame in use with no reference left belongs to the one who dropped the last; it must be given to
//!   [`FrameAllocator::free`]. Nobody can take a new reference to it.
//! - A domain's RAM carries the "owned" mark together with one reference (Xen's `PGC_allocated`): the domain gives
//!   its memory up exactly once, however many references others hold.
//! - Frames never given to the allocator read as unavailable: no reference can be taken, nothing merges with them.
//! - Free blocks are wholly clean or wholly dirty; a dirty frame holds a former owner's data (XSA-100) and must be
//!   zeroed before somebody else sees it.

mod allocator;
mod entry;
#[cfg(test)]
pub(crate) mod tests;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{DomId, Gfn, Mfn};
use entry::{NONE, Used};

pub use allocator::{
    AllocError, AllocRequest, Allocation, Contents, FrameAllocator, MAX_ORDER, ScrubChunk,
};
pub use entry::Owner;

/// Most memory banks that a machine may have.
pub const MAX_BANKS: usize = 256;

/// Zeroes frames, for scrubbing.
pub trait FrameZero {
    /// Fills the frame with zeroes and makes that visible to a guest that reads it with caches off.
    fn zero(&mut self, mfn: Mfn);
}

/// The description of memory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BankError {
    /// More than [`MAX_BANKS`] banks.
    TooMany,
    /// Two banks overlap.
    Overlap,
    /// A bank reaches beyond the 40-bit physical address space.
    TooHigh,
    /// The storage has fewer words than [`FrameTable::words_needed`] tells.
    StorageTooSmall,
    /// No memory for the list of banks.
    OutOfMemory,
}

/// A reference could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetError {
    /// The frame is no RAM, is free, or is being freed.
    NotInUse,
    /// The frame belongs to somebody else.
    NotOwner,
    /// The reference count is at its limit.
    Overflow,
}

/// What dropping a reference left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// Others still refer to the frame.
    Kept,
    /// That was the last reference: the caller must free the frame, which is dirty.
    Last {
        /// Whose memory it was, for accounting.
        owner: Owner,
        /// Whether it was memory of the hypervisor that the owner only shared (not in the owner's account).
        is_xenheap: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Bank {
    start: u32,
    pages: u32,
    first_index: u32,
}

/// All frames of RAM.
#[derive(Debug)]
pub struct FrameTable<S> {
    /// The lowest bank, apart from the others because most machines have one.
    first: Bank,
    /// All banks by address; neighbours are joined.
    banks: Vec<Bank>,
    entries: S,
}

impl<S: AsRef<[AtomicU64]>> FrameTable<S> {
    /// Returns the number of 64-bit words that the table of these banks needs, or `None` on overflow.
    pub fn words_needed(banks: &[(Mfn, u32)]) -> Option<usize> {
        let mut words = 0usize;
        for (_, pages) in banks {
            words = words.checked_add(usize::try_from(*pages).ok()?)?;
        }
        Some(words)
    }

    /// Makes the table of `banks` (first frame, number of frames) in `entries`, which the caller has zeroed.
    ///
    /// All frames are unavailable until [`FrameAllocator::add`] is given them. The last frame below 2^40 is left
    /// out, since its number marks the end of lists.
    ///
    /// # Errors
    /// [`BankError`]; nothing is kept.
    pub fn new(banks: &[(Mfn, u32)], entries: S) -> Result<Self, BankError> {
        if banks.len() > MAX_BANKS {
            return Err(BankError::TooMany);
        }
        let mut sorted: Vec<Bank> = Vec::new();
        sorted
            .try_reserve_exact(banks.len())
            .map_err(|_| BankError::OutOfMemory)?;
        for (start, pages) in banks {
            let end = u64::from(start.raw()) + u64::from(*pages);
            if end > u64::from(NONE) + 1 {
                return Err(BankError::TooHigh);
            }
            let pages = if end > u64::from(NONE) {
                pages.saturating_sub(1)
            } else {
                *pages
            };
            if pages != 0 {
                let bank = Bank {
                    start: start.raw(),
                    pages,
                    first_index: 0,
                };
                // By insertion: the library's sorts cost 4 KiB of code.
                let at = sorted.partition_point(|other| other.start <= bank.start);
                sorted.insert(at, bank);
            }
        }
        let mut joined: Vec<Bank> = Vec::new();
        joined
            .try_reserve_exact(sorted.len())
            .map_err(|_| BankError::OutOfMemory)?;
        let mut index = 0u32;
        for bank in sorted {
            match joined.last_mut() {
                Some(last) if last.start + last.pages > bank.start => {
                    return Err(BankError::Overlap);
                }
                Some(last) if last.start + last.pages == bank.start => last.pages += bank.pages,
                _ => joined.push(Bank {
                    first_index: index,
                    ..bank
                }),
            }
            index += bank.pages;
        }
        if entries.as_ref().len() < index as usize {
            return Err(BankError::StorageTooSmall);
        }
        let first = joined.first().copied().unwrap_or(Bank {
            start: 0,
            pages: 0,
            first_index: 0,
        });
        Ok(Self {
            first,
            banks: joined,
            entries,
        })
    }

    /// Returns the number of RAM frames in the table.
    pub fn total_frames(&self) -> u32 {
        self.banks.iter().map(|bank| bank.pages).sum()
    }

    /// Returns the highest RAM frame (`XENMEM_maximum_ram_page`).
    pub fn maximum_frame(&self) -> Option<Mfn> {
        self.banks
            .last()
            .map(|bank| Mfn::new(bank.start + bank.pages - 1))
    }

    /// Returns whether the frame is RAM.
    pub fn is_ram(&self, mfn: Mfn) -> bool {
        self.slot(mfn.raw()).is_some()
    }

    /// Returns whether any of these frames is RAM.
    pub fn overlaps_ram(&self, start: Mfn, pages: u32) -> bool {
        let (start, end) = (
            u64::from(start.raw()),
            u64::from(start.raw()) + u64::from(pages),
        );
        let overlaps = |bank: &Bank| {
            u64::from(bank.start) < end && start < u64::from(bank.start) + u64::from(bank.pages)
        };
        self.banks.iter().any(overlaps)
    }

    /// Returns the joined banks, lowest first, as (first frame, number of frames).
    pub fn banks(&self) -> impl Iterator<Item = (Mfn, u32)> + '_ {
        self.banks
            .iter()
            .map(|bank| (Mfn::new(bank.start), bank.pages))
    }

    #[inline(never)]
    fn bank_of(&self, mfn: u32) -> Option<Bank> {
        if mfn.wrapping_sub(self.first.start) < self.first.pages {
            return Some(self.first);
        }
        let after = self.banks.partition_point(|bank| bank.start <= mfn);
        let bank = *self.banks.get(after.checked_sub(1)?)?;
        (mfn - bank.start < bank.pages).then_some(bank)
    }

    /// Returns the entry of a frame.
    #[inline]
    fn slot(&self, mfn: u32) -> Option<&AtomicU64> {
        let bank = self.bank_of(mfn)?;
        self.entries
            .as_ref()
            .get((bank.first_index + (mfn - bank.start)) as usize)
    }

    /// Returns the entries of consecutive frames that are all RAM (so within one joined bank).
    fn slots(&self, mfn: u32, pages: u32) -> Option<&[AtomicU64]> {
        let bank = self.bank_of(mfn)?;
        let offset = mfn - bank.start;
        if pages > bank.pages - offset {
            return None;
        }
        let index = (bank.first_index + offset) as usize;
        self.entries.as_ref().get(index..index + pages as usize)
    }

    /// Returns the entry of a frame in use.
    fn used(&self, mfn: Mfn) -> Option<Used> {
        let used = Used::unpack(self.slot(mfn.raw())?.load(Ordering::Acquire))?;
        (used.count() != 0).then_some(used)
    }

    /// Replaces the entry of a frame in use by what `change` makes of it, atomically.
    fn update<E>(
        &self,
        mfn: Mfn,
        missing: E,
        mut change: impl FnMut(Used) -> Result<Used, E>,
    ) -> Result<(Used, Used), E> {
        let Some(slot) = self.slot(mfn.raw()) else {
            return Err(missing);
        };
        let mut raw = slot.load(Ordering::Relaxed);
        loop {
            let Some(old) = Used::unpack(raw).filter(|used| used.count() != 0) else {
                return Err(missing);
            };
            let new = change(old)?;
            match slot.compare_exchange_weak(raw, new.raw(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok((old, new)),
                Err(current) => raw = current,
            }
        }
    }

    /// Takes a reference to a frame that must belong to `owner`.
    ///
    /// # Errors
    /// [`GetError`]: nothing changed.
    pub fn get(&self, mfn: Mfn, owner: Owner) -> Result<(), GetError> {
        self.update(mfn, GetError::NotInUse, |used| {
            if !used.is_owned_by(owner) {
                return Err(GetError::NotOwner);
            }
            used.increment().ok_or(GetError::Overflow)
        })
        .map(|_| ())
    }

    /// Takes a reference to a frame in use, whoever owns it, and returns the owner.
    ///
    /// # Errors
    /// [`GetError`]: nothing changed.
    pub fn get_any(&self, mfn: Mfn) -> Result<Owner, GetError> {
        self.update(mfn, GetError::NotInUse, |used| {
            used.increment().ok_or(GetError::Overflow)
        })
        .map(|(old, _)| old.owner())
    }

    /// Drops a reference that the caller holds.
    pub fn put(&self, mfn: Mfn) -> Put {
        match self.update(mfn, (), |used| used.decrement().ok_or(())) {
            Ok((_, new)) => Self::outcome(new),
            Err(()) => {
                debug_assert!(false, "put of a frame without references");
                log::error!("frames: put of frame {mfn:#x}, which has no references");
                Put::Kept
            }
        }
    }

    /// Drops the reference that an owner holds on its own RAM: the owner gives the frame up.
    ///
    /// # Errors
    /// [`GetError::NotOwner`] when the frame is not RAM that `owner` holds (not its own, shared xenheap memory, or
    /// given up before): nothing changed.
    pub fn release(&self, mfn: Mfn, owner: DomId) -> Result<Put, GetError> {
        self.update(mfn, GetError::NotInUse, |used| {
            if !used.is_owned_by(Owner::Domain(owner)) || !used.is_owned() {
                return Err(GetError::NotOwner);
            }
            used.without_owned().decrement().ok_or(GetError::NotInUse)
        })
        .map(|(_, new)| Self::outcome(new))
    }

    fn outcome(new: Used) -> Put {
        if new.count() == 0 {
            Put::Last {
                owner: new.owner(),
                is_xenheap: new.is_xenheap(),
            }
        } else {
            Put::Kept
        }
    }

    /// Returns who owns a frame in use.
    pub fn owner(&self, mfn: Mfn) -> Option<Owner> {
        self.used(mfn).map(Used::owner)
    }

    /// Returns the number of references to a frame, 0 when it is not in use.
    pub fn references(&self, mfn: Mfn) -> u32 {
        self.used(mfn).map_or(0, |used| used.count() as u32)
    }

    /// Returns whether the frame is RAM that the domain holds: its own, not given up, not xenheap memory.
    pub fn is_ram_of(&self, mfn: Mfn, owner: DomId) -> bool {
        self.used(mfn)
            .is_some_and(|used| used.is_owned_by(Owner::Domain(owner)) && used.is_owned())
    }

    /// Moves RAM from one domain to another, which must hold the only reference (grant transfer, exchange).
    ///
    /// # Errors
    /// [`GetError::NotOwner`] when `from` does not hold it, [`GetError::Overflow`] when others refer to it.
    pub fn transfer(&self, mfn: Mfn, from: DomId, to: DomId) -> Result<(), GetError> {
        if !Owner::Domain(to).is_representable() {
            return Err(GetError::NotOwner);
        }
        self.update(mfn, GetError::NotInUse, |used| {
            if !used.is_owned_by(Owner::Domain(from)) || !used.is_owned() {
                return Err(GetError::NotOwner);
            }
            if used.count() != 1 {
                return Err(GetError::Overflow);
            }
            Ok(used.with_owner(Owner::Domain(to)))
        })
        .map(|_| ())
    }

    /// Lets a domain map a frame of the hypervisor (shared_info, grant frames). The hypervisor's reference stays.
    ///
    /// # Errors
    /// [`GetError`] when the frame is not the hypervisor's or is shared already.
    pub fn share(&self, mfn: Mfn, with: DomId) -> Result<(), GetError> {
        if !Owner::Domain(with).is_representable() {
            return Err(GetError::NotOwner);
        }
        self.update(mfn, GetError::NotInUse, |used| {
            if !used.is_owned_by(Owner::Xen) {
                return Err(GetError::NotOwner);
            }
            Ok(used
                .with_owner(Owner::Domain(with))
                .with_xenheap(true)
                .with_gfn(None))
        })
        .map(|_| ())
    }

    /// Returns whether the frame is memory of the hypervisor that `owner` may map.
    pub fn is_xenheap_of(&self, mfn: Mfn, owner: DomId) -> bool {
        self.used(mfn)
            .is_some_and(|used| used.is_owned_by(Owner::Domain(owner)) && used.is_xenheap())
    }

    /// Returns where a shared xenheap frame is mapped in its owner's physical address space.
    pub fn xenheap_gfn(&self, mfn: Mfn) -> Option<Gfn> {
        self.used(mfn).filter(|used| used.is_xenheap())?.gfn()
    }

    /// Returns whether [`FrameTable::xenheap_gfn`] can tell this guest frame (all of a 40-bit IPA).
    pub(crate) fn holds_gfn(gfn: Gfn) -> bool {
        Used::holds_gfn(gfn)
    }

    /// Records where a shared xenheap frame is mapped; the caller holds the owner's p2m lock.
    pub(crate) fn set_xenheap_gfn(&self, mfn: Mfn, gfn: Option<Gfn>) {
        let _ = self.update(mfn, (), |used| {
            if used.is_xenheap() {
                Ok(used.with_gfn(gfn))
            } else {
                Err(())
            }
        });
    }

    /// Searches at most `steps` frames from `from` upward for RAM that `owner` still holds.
    ///
    /// For the end of a domain: finds what its p2m does not show.
    pub fn find_owned(&self, owner: DomId, from: Mfn, steps: u32) -> OwnedSearch {
        let mut left = steps;
        for bank in &self.banks {
            let start = bank.start.max(from.raw());
            let end = bank.start + bank.pages;
            if start >= end {
                continue;
            }
            let take = left.min(end - start);
            for (offset, slot) in (0u32..).zip(self.slots(start, take).unwrap_or_default()) {
                let used = Used::unpack(slot.load(Ordering::Relaxed));
                if used
                    .is_some_and(|used| used.is_owned_by(Owner::Domain(owner)) && used.is_owned())
                {
                    return OwnedSearch::Found(Mfn::new(start + offset));
                }
            }
            left -= take;
            if left == 0 {
                return OwnedSearch::More(Mfn::new(start + take));
            }
        }
        OwnedSearch::End
    }
}

/// The result of [`FrameTable::find_owned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnedSearch {
    /// This frame is held.
    Found(Mfn),
    /// None so far: go on from here.
    More(Mfn),
    /// None up to the end of RAM.
    End,
}
