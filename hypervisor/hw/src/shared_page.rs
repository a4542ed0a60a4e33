//! A page that a guest and the hypervisor both access, mapped for as long as it is shared.
//!
//! Guests cause these mappings, so making one must be able to fail: an `Arc` could not. Each mapping is a [`Slot`] of a
//! [`SlotPool`] instead. A slot has its address for ever; the pool's free slots are thus also the free addresses. Slots
//! are made in chunks, which are never given back: their number is that of the pages shared at the busiest time.
//!
//! # Locks
//! The pool lies behind the lock of the hypervisor's page tables. Handles are counted without a lock, on any CPU.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use alloc::vec::Vec;

use xenith_core::addr::Mfn;
use xenith_core::machine::SharedPage;

/// Slots that are made at a time.
const CHUNK: usize = 32;

/// Undoes a mapping when the last handle to a page is dropped.
pub trait Unmap: Send + Sync {
    /// Called once for each [`SlotPool::take`] that became a page, when nothing refers to the mapping any more.
    fn unmap(&self, mapping: FreeSlot);
}

/// An address for a shared page, and what is mapped there.
struct Slot {
    words: NonNull<[AtomicU32; 1024]>,
    owner: &'static dyn Unmap,
    /// Frame number of the mapped page; the next free slot's number while the slot is free.
    content: AtomicU32,
    handles: AtomicU32,
    /// The slot's number in its pool.
    number: u32,
}

// SAFETY: The words are atomics, mapped for every CPU; the rest is atomic or constant.
unsafe impl Send for Slot {}
// SAFETY: As above.
unsafe impl Sync for Slot {}

/// A slot that has no handle: the only one of its kind, so that no slot can be used or given back twice.
pub struct FreeSlot(&'static Slot);

impl FreeSlot {
    /// Returns the address.
    pub fn address(&self) -> usize {
        self.0.words.as_ptr() as usize
    }

    /// Returns the frame that was mapped here last.
    pub fn mfn(&self) -> Mfn {
        Mfn::new(self.0.content.load(Ordering::Relaxed))
    }

    /// Makes the first handle to the page that the slot's address now shows.
    ///
    /// # Safety
    /// The address maps frame `mfn` read-write until the slot comes back through [`Unmap::unmap`]; the frame stays
    /// allocated as long, and the hypervisor accesses it through atomics only.
    pub unsafe fn into_page(self, mfn: Mfn) -> MappedPage {
        self.0.content.store(mfn.raw(), Ordering::Relaxed);
        self.0.handles.store(1, Ordering::Relaxed);
        MappedPage(self.0)
    }
}

/// Who makes and keeps the slots of a range of addresses.
pub struct SlotPool {
    chunks: Vec<&'static [Slot]>,
    first_free: u32,
    next_address: usize,
    end: usize,
}

/// No slot.
const NONE: u32 = u32::MAX;
const PAGE: usize = xenith_core::addr::PAGE_SIZE;

impl SlotPool {
    /// Makes a pool for the pages from address `start` to `end`, both page aligned, `start` not 0.
    pub const fn new(start: usize, end: usize) -> Self {
        Self {
            chunks: Vec::new(),
            first_free: NONE,
            next_address: start,
            end,
        }
    }

    fn slot(&self, number: u32) -> Option<&'static Slot> {
        let chunk = self.chunks.get(number as usize / CHUNK)?;
        chunk.get(number as usize % CHUNK)
    }

    /// Takes a free slot; `owner` is told when the last handle to its page is dropped. `None` when there is no memory for
    /// more slots or no address is left.
    pub fn take(&mut self, owner: &'static dyn Unmap) -> Option<FreeSlot> {
        if self.first_free == NONE {
            self.grow(owner)?;
        }
        let slot = self.slot(self.first_free)?;
        self.first_free = slot.content.load(Ordering::Relaxed);
        Some(FreeSlot(slot))
    }

    /// Puts a slot back whose address is not mapped any more.
    pub fn put(&mut self, slot: FreeSlot) {
        slot.0.content.store(self.first_free, Ordering::Relaxed);
        self.first_free = slot.0.number;
    }

    fn grow(&mut self, owner: &'static dyn Unmap) -> Option<()> {
        let pages = self.end.saturating_sub(self.next_address) / PAGE;
        let count = pages.min(CHUNK);
        let first = (self.chunks.len() * CHUNK) as u32;
        self.chunks.try_reserve(1).ok()?;
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).ok()?;
        for i in 0..count {
            let number = first + i as u32;
            let is_last = i + 1 == count;
            chunk.push(Slot {
                words: NonNull::new((self.next_address + i * PAGE) as *mut _)?,
                owner,
                content: AtomicU32::new(if is_last { NONE } else { number + 1 }),
                handles: AtomicU32::new(0),
                number,
            });
        }
        if count == 0 {
            return None;
        }
        self.next_address += count * PAGE;
        self.chunks.push(chunk.leak());
        self.first_free = first;
        Some(())
    }
}

/// A counted handle to a mapped page.
pub struct MappedPage(&'static Slot);

impl Clone for MappedPage {
    fn clone(&self) -> Self {
        // A handle lives in an object of the hypervisor's: memory ends before the count can wrap.
        self.0.handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::Release) == 1 {
            // What other CPUs did through their handles comes before the page is unmapped.
            fence(Ordering::Acquire);
            self.0.owner.unmap(FreeSlot(self.0));
        }
    }
}

impl SharedPage for MappedPage {
    #[inline(always)]
    fn words(&self) -> &[AtomicU32; 1024] {
        // SAFETY: `into_page`'s contract: a whole mapped page for as long as a handle lives; guests change it only as
        // atomics may be changed.
        unsafe { self.0.words.as_ref() }
    }

    fn mfn(&self) -> Mfn {
        Mfn::new(self.0.content.load(Ordering::Relaxed))
    }
}
