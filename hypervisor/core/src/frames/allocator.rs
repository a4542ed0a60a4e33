//! The buddy allocator, with free lists inside the frame table.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::entry::{FreeHead, NONE, Owner, Used};
use super::{FrameTable, FrameZero};
use crate::addr::Mfn;

/// The largest block: 2^18 frames, 1 GiB, the largest leaf of stage 2.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// How many blocks a limited search or a coalescing pass looks at: the allocator never runs longer for a guest.
const SEARCH_LIMIT: u32 = 4096;

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Zeroes.
    Clean,
    /// Unknown: a former owner's, or the boot loader's data.
    Dirty,
}

/// What to allocate.
#[derive(Clone, Copy, Debug)]
pub struct AllocRequest {
    /// log2 of the number of frames; the block is aligned to its size.
    pub order: u32,
    /// Who gets it. A domain gets each frame with the one reference that marks it as its own.
    pub owner: Owner,
    /// The block must end at or below this frame.
    pub below: Option<Mfn>,
    /// Which frames to prefer: [`Contents::Clean`] for use as zeroed memory, [`Contents::Dirty`] to spare the clean.
    pub prefer: Contents,
    /// How many of the frames that are set aside are this owner's.
    pub own: u32,
}

impl AllocRequest {
    /// Returns a request for one block of clean frames anywhere.
    pub const fn new(order: u32, owner: Owner) -> Self {
        Self {
            order,
            owner,
            below: None,
            prefer: Contents::Clean,
            own: 0,
        }
    }
}

/// An allocated block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Allocation {
    /// The first frame.
    pub mfn: Mfn,
    /// [`Contents::Dirty`]: the caller must zero the block, without the allocator's lock, before a domain sees it.
    pub contents: Contents,
}

/// Memory could not be allocated or freed; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No free block fits.
    OutOfMemory,
    /// The range is not free (or not in use, when freeing), the order too large, or the owner impossible.
    Invalid,
}

/// Dirty frames taken out of the free lists to be zeroed. Dropping it loses the frames.
#[derive(Debug)]
#[must_use]
pub struct ScrubChunk {
    mfn: u32,
    order: u32,
}

impl ScrubChunk {
    /// Returns the frames to zero.
    pub fn frames(&self) -> impl Iterator<Item = Mfn> + use<> {
        (self.mfn..self.mfn + (1 << self.order)).map(Mfn::new)
    }
}

/// The free lists. One lock around it; the table itself is shared.
#[derive(Debug)]
pub struct FrameAllocator {
    /// The first free block by contents and order.
    pub(super) lists: [[u32; ORDERS]; 2],
    /// A bit for each order with a block.
    pub(super) occupied: [u32; 2],
    pub(super) free: [u32; 2],
    /// Free frames that are promised to somebody ([`FrameAllocator::set_aside`]).
    aside: u32,
}

const fn class(contents: Contents) -> usize {
    match contents {
        Contents::Clean => 0,
        Contents::Dirty => 1,
    }
}

const CLASSES: [Contents; 2] = [Contents::Clean, Contents::Dirty];

impl Default for FrameAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameAllocator {
    /// Returns an allocator without memory.
    pub const fn new() -> Self {
        Self {
            lists: [[NONE; ORDERS]; 2],
            occupied: [0; 2],
            free: [0; 2],
            aside: 0,
        }
    }

    /// Returns the number of free frames, clean or not.
    pub const fn free_frames(&self) -> u32 {
        self.free[0] + self.free[1]
    }

    /// Returns the number of free frames that wait to be scrubbed (`physinfo.scrub_pages`).
    pub const fn dirty_frames(&self) -> u32 {
        self.free[1]
    }

    /// Returns the number of free frames that are promised to somebody (`physinfo.outstanding_pages`).
    pub const fn frames_aside(&self) -> u32 {
        self.aside
    }

    /// Promises free frames to somebody: only requests with [`AllocRequest::own`] get them. Returns whether there were as
    /// many that are not promised already.
    pub fn set_aside(&mut self, frames: u32) -> bool {
        let is_there = self.free_frames().saturating_sub(self.aside) >= frames;
        if is_there {
            self.aside += frames;
        }
        is_there
    }

    /// Takes a promise back.
    pub fn end_aside(&mut self, frames: u32) {
        self.aside = self.aside.saturating_sub(frames);
    }

    /// Gives the allocator RAM that it does not have: at boot, or memory of boot modules after use.
    ///
    /// # Errors
    /// [`AllocError::Invalid`] when a frame is not RAM or its ends are known to the allocator. The caller vouches
    /// for the frames between, which are not looked at: boot must not cost a step for each frame.
    pub fn add<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        start: Mfn,
        pages: u32,
        contents: Contents,
    ) -> Result<(), AllocError> {
        let Some(last) = pages.checked_sub(1) else {
            return Ok(());
        };
        let slots = table.slots(start.raw(), pages).ok_or(AllocError::Invalid)?;
        let untouched =
            |slot: Option<&AtomicU64>| slot.is_some_and(|slot| slot.load(Ordering::Relaxed) == 0);
        if !untouched(slots.first())
            || !untouched(slots.last())
            || self.containing(table, start.raw()).is_some()
            || self.containing(table, start.raw() + last).is_some()
        {
            return Err(AllocError::Invalid);
        }
        self.add_blocks(table, start.raw(), pages, contents);
        Ok(())
    }

    /// Allocates a block.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`], also when what is free is promised to others; [`AllocError::Invalid`] for an order above [`MAX_ORDER`].
    pub fn alloc<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        request: &AllocRequest,
    ) -> Result<Allocation, AllocError> {
        if request.order > MAX_ORDER || !request.owner.is_representable() {
            return Err(AllocError::Invalid);
        }
        let pages = 1u32 << request.order;
        let others = self.aside.saturating_sub(request.own);
        if self.free_frames().saturating_sub(others) < pages {
            return Err(AllocError::OutOfMemory);
        }
        let found = match self.find(table, request) {
            Some(found) => found,
            // Clean and dirty buddies do not merge by themselves; a large block may hide in two halves.
            None if self.coalesce(table, request.order) => {
                self.find(table, request).ok_or(AllocError::OutOfMemory)?
            }
            None => return Err(AllocError::OutOfMemory),
        };
        let (mut mfn, head) = found;
        let contents = if head.dirty {
            Contents::Dirty
        } else {
            Contents::Clean
        };
        self.unlink(table, mfn, head);
        let mut order = head.order;
        while order > request.order {
            order -= 1;
            let half = mfn + (1 << order);
            // The upper half stays free, unless only it is what the limit asks for (it never is: lower is lower).
            self.push(table, half, order, contents);
        }
        self.mark_used(table, mfn, pages, request.owner);
        self.end_aside(request.own.min(pages));
        mfn &= NONE;
        Ok(Allocation {
            mfn: Mfn::new(mfn),
            contents,
        })
    }

    fn find<S: AsRef<[AtomicU64]>>(
        &self,
        table: &FrameTable<S>,
        request: &AllocRequest,
    ) -> Option<(u32, FreeHead)> {
        let other = CLASSES[1 - class(request.prefer)];
        for contents in [request.prefer, other] {
            let mut orders = self.occupied[class(contents)] >> request.order << request.order;
            while orders != 0 {
                let order = orders.trailing_zeros();
                orders &= orders - 1;
                let mut mfn = *self.lists[class(contents)].get(order as usize)?;
                let mut steps = 0;
                while let Some(head) = self.head(table, mfn) {
                    let end = mfn + (1 << request.order);
                    if request.below.is_none_or(|limit| end <= limit.raw()) {
                        return Some((mfn, head));
                    }
                    steps += 1;
                    if steps == SEARCH_LIMIT {
                        break;
                    }
                    mfn = head.next;
                }
            }
        }
        None
    }

    /// Allocates exactly these frames, all of which must be free (dom0's 1:1 memory, boot modules).
    ///
    /// # Errors
    /// [`AllocError::Invalid`] when a frame is not free; nothing changed.
    pub fn claim<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        start: Mfn,
        pages: u32,
        owner: Owner,
    ) -> Result<Contents, AllocError> {
        if !owner.is_representable() {
            return Err(AllocError::Invalid);
        }
        let contents = self.carve(table, start.raw(), pages)?;
        self.mark_used(table, start.raw(), pages, owner);
        Ok(contents)
    }

    /// Takes these free frames away for good or until [`FrameAllocator::add`]: they become unavailable.
    ///
    /// # Errors
    /// [`AllocError::Invalid`] when a frame is not free; nothing changed.
    pub fn reserve<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        start: Mfn,
        pages: u32,
    ) -> Result<Contents, AllocError> {
        self.carve(table, start.raw(), pages)
    }

    fn carve<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        start: u32,
        pages: u32,
    ) -> Result<Contents, AllocError> {
        let end = start.checked_add(pages).ok_or(AllocError::Invalid)?;
        let mut mfn = start;
        while mfn < end {
            let (block, head) = self.containing(table, mfn).ok_or(AllocError::Invalid)?;
            mfn = block + (1 << head.order);
        }
        let mut any = Contents::Clean;
        let mut mfn = start;
        while mfn < end {
            let (block, head) = self.containing(table, mfn).ok_or(AllocError::Invalid)?;
            let block_end = block + (1 << head.order);
            let contents = if head.dirty {
                Contents::Dirty
            } else {
                Contents::Clean
            };
            if head.dirty {
                any = Contents::Dirty;
            }
            self.unlink(table, block, head);
            if block < start {
                self.add_blocks(table, block, start - block, contents);
            }
            if block_end > end {
                self.add_blocks(table, end, block_end - end, contents);
            }
            mfn = block_end;
        }
        Ok(any)
    }

    /// Frees a block whose frames nobody refers to any more, or only the hypervisor that allocated it.
    ///
    /// # Errors
    /// [`AllocError::Invalid`] when a frame is not in use, has more than one reference, or has an owner that still
    /// holds it: nothing changed.
    pub fn free<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        mfn: Mfn,
        order: u32,
        contents: Contents,
    ) -> Result<(), AllocError> {
        if order > MAX_ORDER || mfn.raw() & ((1 << order) - 1) != 0 {
            return Err(AllocError::Invalid);
        }
        let slots = table
            .slots(mfn.raw(), 1 << order)
            .ok_or(AllocError::Invalid)?;
        for slot in slots {
            let used = Used::unpack(slot.load(Ordering::Acquire)).ok_or(AllocError::Invalid)?;
            let is_unused = used.count() == 0;
            let is_private = used.count() == 1 && used.owner() == Owner::Xen;
            if !is_unused && !is_private {
                return Err(AllocError::Invalid);
            }
        }
        for slot in slots {
            slot.store(0, Ordering::Relaxed);
        }
        self.merge(table, mfn.raw(), order, contents);
        Ok(())
    }

    /// Gives back a block that was allocated to a domain and never shown to it (an allocation that is undone).
    ///
    /// # Errors
    /// [`AllocError::Invalid`] when somebody took a reference; nothing changed.
    pub fn undo<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        mfn: Mfn,
        order: u32,
        contents: Contents,
    ) -> Result<(), AllocError> {
        if order > MAX_ORDER || mfn.raw() & ((1 << order) - 1) != 0 {
            return Err(AllocError::Invalid);
        }
        let slots = table
            .slots(mfn.raw(), 1 << order)
            .ok_or(AllocError::Invalid)?;
        let is_fresh = |slot: &AtomicU64| {
            Used::unpack(slot.load(Ordering::Acquire)).is_some_and(|used| used.count() == 1)
        };
        if !slots.iter().all(is_fresh) {
            return Err(AllocError::Invalid);
        }
        for slot in slots {
            slot.store(0, Ordering::Relaxed);
        }
        self.merge(table, mfn.raw(), order, contents);
        Ok(())
    }

    /// Takes up to 2^`max_order` dirty frames out of the free lists, to be zeroed without the lock held.
    pub fn take_dirty<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        max_order: u32,
    ) -> Option<ScrubChunk> {
        let dirty = class(Contents::Dirty);
        let occupied = self.occupied[dirty];
        if occupied == 0 {
            return None;
        }
        let order = occupied.trailing_zeros();
        let mfn = *self.lists[dirty].get(order as usize)?;
        let head = self.head(table, mfn)?;
        self.unlink(table, mfn, head);
        let mut order = head.order;
        while order > max_order {
            order -= 1;
            self.push(table, mfn + (1 << order), order, Contents::Dirty);
        }
        Some(ScrubChunk { mfn, order })
    }

    /// Puts zeroed frames back.
    pub fn finish_scrub<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        chunk: ScrubChunk,
    ) {
        self.merge(table, chunk.mfn, chunk.order, Contents::Clean);
    }

    /// Scrubs everything at once (`bootscrub=true`); idle scrubbing takes chunks itself.
    pub fn scrub_all<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        zero: &mut impl FrameZero,
    ) {
        while let Some(chunk) = self.take_dirty(table, 4) {
            chunk.frames().for_each(|mfn| zero.zero(mfn));
            self.finish_scrub(table, chunk);
        }
    }

    /// Returns the first run of free frames at or above `from`: first frame and number. Neighbouring blocks are
    /// joined. For placing dom0's banks: walks blocks, not frames, but single frames where memory is in use.
    pub fn next_free_range<S: AsRef<[AtomicU64]>>(
        &self,
        table: &FrameTable<S>,
        from: Mfn,
    ) -> Option<(Mfn, u32)> {
        for bank in &table.banks {
            let end = bank.start + bank.pages;
            let mut mfn = bank.start.max(from.raw());
            while mfn < end {
                let Some((block, head)) = self.containing(table, mfn) else {
                    mfn += 1;
                    continue;
                };
                let start = mfn;
                mfn = block + (1 << head.order);
                // Blocks after the first are met at their heads.
                while let Some(head) = self.head(table, mfn).filter(|_| mfn < end) {
                    mfn += 1 << head.order;
                }
                return Some((Mfn::new(start), mfn - start));
            }
        }
        None
    }

    pub(super) fn head<S: AsRef<[AtomicU64]>>(
        &self,
        table: &FrameTable<S>,
        mfn: u32,
    ) -> Option<FreeHead> {
        FreeHead::unpack(table.slot(mfn)?.load(Ordering::Relaxed))
    }

    /// Returns the free block that contains a frame.
    fn containing<S: AsRef<[AtomicU64]>>(
        &self,
        table: &FrameTable<S>,
        mfn: u32,
    ) -> Option<(u32, FreeHead)> {
        let own = table.slot(mfn)?.load(Ordering::Relaxed);
        if let Some(head) = FreeHead::unpack(own) {
            return Some((mfn, head));
        }
        if own != 0 {
            return None;
        }
        let mut start = mfn;
        for order in 1..=MAX_ORDER {
            let candidate = mfn & !((1 << order) - 1);
            if candidate == start {
                continue;
            }
            start = candidate;
            let raw = table.slot(candidate)?.load(Ordering::Relaxed);
            if let Some(head) = FreeHead::unpack(raw) {
                return (head.order >= order).then_some((candidate, head));
            }
            if raw != 0 {
                return None;
            }
        }
        None
    }

    fn mark_used<S: AsRef<[AtomicU64]>>(
        &self,
        table: &FrameTable<S>,
        mfn: u32,
        pages: u32,
        owner: Owner,
    ) {
        let entry = Used::new(owner).raw();
        // One barrier for all: whoever sees an entry sees what was done to the frame before.
        fence(Ordering::Release);
        for slot in table.slots(mfn, pages).unwrap_or_default() {
            slot.store(entry, Ordering::Relaxed);
        }
    }

    fn add_blocks<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        mut mfn: u32,
        mut pages: u32,
        contents: Contents,
    ) {
        while pages != 0 {
            let order = mfn.trailing_zeros().min(pages.ilog2()).min(MAX_ORDER);
            self.merge(table, mfn, order, contents);
            mfn += 1 << order;
            pages -= 1 << order;
        }
    }

    /// Makes a block free whose entries are all zero, together with its free buddies.
    fn merge<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        mut mfn: u32,
        mut order: u32,
        contents: Contents,
    ) {
        while order < MAX_ORDER {
            let buddy = mfn ^ (1 << order);
            let Some(head) = self.head(table, buddy) else {
                break;
            };
            if head.order != order || head.dirty != (contents == Contents::Dirty) {
                break;
            }
            self.unlink(table, buddy, head);
            mfn &= !(1 << order);
            order += 1;
        }
        self.push(table, mfn, order, contents);
    }

    /// Joins clean and dirty buddies below `order` to dirty blocks. Returns whether anything was joined.
    fn coalesce<S: AsRef<[AtomicU64]>>(&mut self, table: &FrameTable<S>, order: u32) -> bool {
        let dirty = class(Contents::Dirty);
        let mut joined = false;
        let mut steps = 0;
        for small in 0..order {
            let mut mfn = self.lists[dirty]
                .get(small as usize)
                .copied()
                .unwrap_or(NONE);
            while let Some(head) = self.head(table, mfn) {
                let next = head.next;
                let buddy = mfn ^ (1 << small);
                if let Some(other) = self
                    .head(table, buddy)
                    .filter(|h| h.order == small && !h.dirty)
                {
                    self.unlink(table, mfn, head);
                    self.unlink(table, buddy, other);
                    self.merge(table, mfn & !(1 << small), small + 1, Contents::Dirty);
                    joined = true;
                }
                steps += 1;
                if steps >= SEARCH_LIMIT {
                    return joined;
                }
                mfn = next;
            }
        }
        joined
    }

    fn push<S: AsRef<[AtomicU64]>>(
        &mut self,
        table: &FrameTable<S>,
        mfn: u32,
        order: u32,
        contents: Contents,
    ) {
        let class = class(contents);
        let (Some(slot), Some(list)) = (table.slot(mfn), self.lists[class].get_mut(order as usize))
        else {
            return;
        };
        let next = core::mem::replace(list, mfn);
        let head = FreeHead {
            dirty: contents == Contents::Dirty,
            order,
            previous: NONE,
            next,
        };
        slot.store(head.pack(), Ordering::Relaxed);
        Self::relink(table, next, |head| head.previous = mfn);
        self.occupied[class] |= 1 << order;
        self.free[class] += 1 << order;
    }

    /// Takes a block out of its list and leaves its entry zero.
    fn unlink<S: AsRef<[AtomicU64]>>(&mut self, table: &FrameTable<S>, mfn: u32, head: FreeHead) {
        let class = usize::from(head.dirty);
        if let Some(slot) = table.slot(mfn) {
            slot.store(0, Ordering::Relaxed);
        }
        Self::relink(table, head.next, |next| next.previous = head.previous);
        if head.previous == NONE {
            if let Some(list) = self.lists[class].get_mut(head.order as usize) {
                *list = head.next;
            }
            if head.next == NONE {
                self.occupied[class] &= !(1 << head.order);
            }
        } else {
            Self::relink(table, head.previous, |previous| previous.next = head.next);
        }
        self.free[class] -= 1 << head.order;
    }

    fn relink<S: AsRef<[AtomicU64]>>(
        table: &FrameTable<S>,
        mfn: u32,
        change: impl FnOnce(&mut FreeHead),
    ) {
        if mfn == NONE {
            return;
        }
        if let Some(slot) = table.slot(mfn)
            && let Some(mut head) = FreeHead::unpack(slot.load(Ordering::Relaxed))
        {
            change(&mut head);
            slot.store(head.pack(), Ordering::Relaxed);
        }
    }
}
