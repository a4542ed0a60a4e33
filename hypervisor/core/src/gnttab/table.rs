//! The granting half of a domain: shared frames and active entries. The only place that knows an entry's layout.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use log::error;
use xen_abi::grant_table as abi;

use super::{Access, GrantError, GrantMemory};
use crate::addr::{DomId, Gfn, Mfn};
use crate::errno::Errno;
use crate::machine::SharedPage;

/// Entries of version 1 in a frame; an entry is two words: flags and domain, frame number.
const PER_FRAME: usize = abi::GRANTS_PER_PAGE_V1 as usize;
/// Attempts to change a shared word before its owner is taken to be fighting us. A single-attempt exchange may also fail
/// without cause, so this is more than Xen's five.
const ATTEMPTS: u32 = 32;

const TYPE_MASK: u32 = abi::GTF_TYPE_MASK as u32;
const PERMIT_ACCESS: u32 = abi::GTF_PERMIT_ACCESS as u32;
const READONLY: u32 = abi::GTF_READONLY as u32;
const READING: u32 = abi::GTF_READING as u32;
const WRITING: u32 = abi::GTF_WRITING as u32;
const SUB_PAGE: u32 = abi::GTF_SUB_PAGE as u32;

/// The limits of a domain's grant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared frames at most (Xen's default: 64).
    pub max_frames: u32,
    /// The highest version of entries; only 1 is built.
    pub max_version: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frames: 64,
            max_version: 1,
        }
    }
}

/// The answer of `query_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Shared frames now.
    pub frames: u32,
    /// Shared frames at most.
    pub max_frames: u32,
}

/// Who uses an entry, and what it was when the first use began.
#[derive(Clone, Copy)]
struct Active {
    mfn: Mfn,
    user: DomId,
    readers: u16,
    writers: u16,
    writable: bool,
}

const IDLE: Active = Active {
    mfn: Mfn::new(0),
    user: DomId::new(0),
    readers: 0,
    writers: 0,
    writable: false,
};

impl Active {
    fn is_pinned(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }
}

struct SharedFrame<P> {
    page: P,
    /// Where the owner has mapped it.
    gfn: Option<Gfn>,
    /// [`PER_FRAME`] entries.
    active: Vec<Active>,
}

impl<P: SharedPage> SharedFrame<P> {
    fn flags_word(&self, index: usize) -> Option<&AtomicU32> {
        self.page.words().get(index * 2)
    }

    fn frame_word(&self, index: usize) -> Option<&AtomicU32> {
        self.page.words().get(index * 2 + 1)
    }
}

/// The granting half of a domain. See the module.
pub struct GrantTable<P> {
    owner: DomId,
    limits: Limits,
    frames: Vec<SharedFrame<P>>,
    /// Entries with uses counted.
    pinned: u32,
    is_dying: bool,
}

impl<P: SharedPage> GrantTable<P> {
    /// Makes the table of `owner` with its first frame; `allocate` gives zeroed pages of the domain.
    ///
    /// # Errors
    /// [`Errno::Inval`] when no frame is allowed, [`Errno::NoMem`] when there is no memory.
    pub fn new(
        owner: DomId,
        limits: Limits,
        allocate: &mut dyn FnMut() -> Option<P>,
    ) -> Result<Self, Errno> {
        if limits.max_frames == 0 {
            return Err(Errno::Inval);
        }
        let mut table = Self {
            owner,
            limits,
            frames: Vec::new(),
            pinned: 0,
            is_dying: false,
        };
        table.grow(1, allocate)?;
        Ok(table)
    }

    /// Returns the domain that grants.
    pub fn owner(&self) -> DomId {
        self.owner
    }

    /// Returns how many entries are in use by mappings or copies; the table and its pages must live until it is 0.
    pub fn pinned(&self) -> u32 {
        self.pinned
    }

    /// Refuses every new use from now on; the domain is dying. Mappings stay until their holders unmap them.
    pub fn kill(&mut self) {
        self.is_dying = true;
    }

    /// Takes the table's pages out, when the domain is dead and no mapping of a grant is left.
    pub fn take_frames(&mut self) -> impl Drop + use<P> {
        if self.is_dying && self.pinned == 0 {
            core::mem::take(&mut self.frames)
        } else {
            Vec::new()
        }
    }

    fn frame_count(&self) -> u32 {
        // At most limits.max_frames.
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }

    /// Returns the size, for `query_size`.
    pub fn size(&self) -> Size {
        Size {
            frames: self.frame_count(),
            max_frames: self.limits.max_frames,
        }
    }

    /// Returns the version of the entries, for `get_version`.
    pub fn version(&self) -> u32 {
        1
    }

    /// Asks for a version, for `set_version`. The caller gives [`Self::version`] back to the guest in any case.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a version there never was, [`Errno::NoSys`] for one that is not to be had.
    pub fn set_version(&mut self, version: u32) -> Result<(), Errno> {
        match version {
            1 => Ok(()),
            2 => Err(Errno::NoSys),
            _ => Err(Errno::Inval),
        }
    }

    /// Grows to at least `frames` shared frames, for `setup_table`; afterwards [`Self::frame_gfn`] of each is listed to
    /// the guest.
    ///
    /// # Errors
    /// [`GrantError::General`] above the limit or without memory.
    pub fn setup_table(
        &mut self,
        frames: u32,
        allocate: &mut dyn FnMut() -> Option<P>,
    ) -> Result<(), GrantError> {
        self.grow(frames, allocate).map_err(|_| GrantError::General)
    }

    /// Checks `get_status_frames`: version 1 has none, so only an empty list can be had (XSA-382).
    ///
    /// # Errors
    /// [`GrantError::General`] when any is asked for.
    pub fn status_frames(&self, frames: u32) -> Result<(), GrantError> {
        if frames == 0 {
            Ok(())
        } else {
            Err(GrantError::General)
        }
    }

    /// Returns where the owner mapped frame `index`, as a frame list shows it: all ones when it is not mapped.
    pub fn frame_gfn(&self, index: u32) -> u64 {
        self.frame(index)
            .and_then(|frame| frame.gfn)
            .map_or(u64::MAX, |gfn| u64::from(gfn.raw()))
    }

    /// Returns the machine frame of shared frame `index`, growing up to it (acquire_resource, add_to_physmap).
    ///
    /// # Errors
    /// [`Errno::Inval`] above the limit, [`Errno::NoMem`] without memory.
    pub fn shared_frame(
        &mut self,
        index: u32,
        allocate: &mut dyn FnMut() -> Option<P>,
    ) -> Result<Mfn, Errno> {
        if index >= self.limits.max_frames {
            return Err(Errno::Inval);
        }
        self.grow(index + 1, allocate)?;
        self.frame(index)
            .map(|frame| frame.page.mfn())
            .ok_or(Errno::Inval)
    }

    /// Returns where shared frame `index` is mapped. A frame has one place: before mapping it elsewhere the caller
    /// removes it there, in this order (XSA-384).
    pub fn mapped_at(&self, index: u32) -> Option<Gfn> {
        self.frame(index).and_then(|frame| frame.gfn)
    }

    /// Records where shared frame `index` is mapped now.
    pub fn set_mapped_at(&mut self, index: u32, gfn: Option<Gfn>) {
        if let Some(frame) = usize::try_from(index)
            .ok()
            .and_then(|index| self.frames.get_mut(index))
        {
            frame.gfn = gfn;
        }
    }

    /// Notes that the owner unmapped `gfn`. Returns true if a shared frame was there.
    pub fn forget_gfn(&mut self, gfn: Gfn) -> bool {
        match self.frames.iter_mut().find(|frame| frame.gfn == Some(gfn)) {
            Some(frame) => {
                frame.gfn = None;
                true
            }
            None => false,
        }
    }

    /// Exchanges two entries, for `swap_grant_ref`.
    ///
    /// # Errors
    /// [`GrantError::BadRef`] for an entry beyond the table (XSA-18, XSA-134), [`GrantError::Again`] for one in use.
    pub fn swap(&mut self, a: u32, b: u32) -> Result<(), GrantError> {
        let (frame_a, index_a) = self.locate(a)?;
        let (frame_b, index_b) = self.locate(b)?;
        if a == b {
            return Ok(());
        }
        for (frame, index) in [(frame_a, index_a), (frame_b, index_b)] {
            if frame.active.get(index).is_none_or(Active::is_pinned) {
                return Err(GrantError::Again);
            }
        }
        let words = |frame: &'_ SharedFrame<P>, index: usize| {
            let flags = frame
                .flags_word(index)
                .map(|word| word.load(Ordering::Acquire));
            let gfn = frame
                .frame_word(index)
                .map(|word| word.load(Ordering::Relaxed));
            (flags, gfn)
        };
        let old_a = words(frame_a, index_a);
        let old_b = words(frame_b, index_b);
        for (frame, index, (flags, gfn)) in [(frame_a, index_a, old_b), (frame_b, index_b, old_a)] {
            let (Some(flags_word), Some(frame_word)) =
                (frame.flags_word(index), frame.frame_word(index))
            else {
                return Err(GrantError::BadRef);
            };
            let (Some(flags), Some(gfn)) = (flags, gfn) else {
                return Err(GrantError::BadRef);
            };
            frame_word.store(gfn, Ordering::Relaxed);
            flags_word.store(flags, Ordering::Release);
        }
        Ok(())
    }

    /// Counts a use of entry `reference` by `user` and returns its frame. The first use checks the shared entry, marks
    /// it, looks up the page and takes its reference; later ones need only what has been granted.
    ///
    /// # Errors
    /// [`GrantError::BadRef`] beyond the table, [`GrantError::General`] when the entry does not grant that (or its
    /// owner keeps changing it), [`GrantError::BadPage`] when its page cannot be granted, [`GrantError::BadDomain`]
    /// when its owner is dying.
    pub(super) fn pin<M: GrantMemory>(
        &mut self,
        reference: u32,
        user: DomId,
        access: Access,
        memory: &mut M,
    ) -> Result<Mfn, GrantError> {
        let owner = self.owner;
        let is_dying = self.is_dying;
        let (frame_number, index) = split(reference).ok_or(GrantError::BadRef)?;
        let frame = self
            .frames
            .get_mut(frame_number)
            .ok_or(GrantError::BadRef)?;
        if is_dying {
            return Err(GrantError::BadDomain);
        }
        let mut active = *frame.active.get(index).ok_or(GrantError::BadRef)?;
        let word = frame.flags_word(index).ok_or(GrantError::BadRef)?;
        let was_pinned = active.is_pinned();
        if was_pinned && active.user != user {
            return Err(GrantError::General);
        }
        // No counter may wrap (XSA-230, XSA-236).
        let counter = match access {
            Access::Read => &mut active.readers,
            Access::Write => &mut active.writers,
        };
        let had_writers = match access {
            Access::Read => true,
            Access::Write => *counter != 0,
        };
        *counter = counter.checked_add(1).ok_or(GrantError::General)?;

        if was_pinned {
            // More access than before needs the entry's word again, and a page that its owner may write.
            if !had_writers {
                if !active.writable {
                    return Err(GrantError::General);
                }
                mark_used(word, user, access)?;
            }
        } else {
            mark_used(word, user, access)?;
            // The frame number is read once, after the entry was found valid and marked.
            let gfn = Gfn::new(
                frame
                    .frame_word(index)
                    .ok_or(GrantError::BadRef)?
                    .load(Ordering::Acquire),
            );
            let page = match memory.get_page(owner, gfn) {
                Ok(page) if page.writable || access == Access::Read => page,
                refused => {
                    clear_bits(word, READING | WRITING);
                    if let Ok(page) = refused {
                        memory.put_page(page.mfn);
                        return Err(GrantError::General);
                    }
                    return Err(GrantError::BadPage);
                }
            };
            active.user = user;
            active.mfn = page.mfn;
            active.writable = page.writable;
        }
        if let Some(place) = frame.active.get_mut(index) {
            *place = active;
        }
        if !was_pinned {
            self.pinned = self.pinned.saturating_add(1);
        }
        Ok(active.mfn)
    }

    /// Undoes a use counted by [`Self::pin`] with the same `access`.
    pub(super) fn unpin<M: GrantMemory>(&mut self, reference: u32, access: Access, memory: &mut M) {
        let Some((frame_number, index)) = split(reference) else {
            return;
        };
        let Some(frame) = self.frames.get_mut(frame_number) else {
            return;
        };
        let Some(active) = frame.active.get_mut(index) else {
            return;
        };
        let counter = match access {
            Access::Read => &mut active.readers,
            Access::Write => &mut active.writers,
        };
        let Some(less) = counter.checked_sub(1) else {
            error!(
                "gnttab: {} entry {reference:#x}: a use is undone that was not counted",
                self.owner
            );
            return;
        };
        *counter = less;
        let active = *active;
        let mut clear = 0;
        if active.writers == 0 && access == Access::Write {
            clear |= WRITING;
        }
        if !active.is_pinned() {
            clear |= READING;
        }
        if clear != 0
            && let Some(word) = frame.flags_word(index)
        {
            clear_bits(word, clear);
        }
        if !active.is_pinned() {
            self.pinned = self.pinned.saturating_sub(1);
            memory.put_page(active.mfn);
        }
    }

    /// Returns the frame of an entry in use.
    pub(super) fn pinned_frame(&self, reference: u32) -> Result<Mfn, GrantError> {
        let (frame, index) = self.locate(reference)?;
        match frame.active.get(index) {
            Some(active) if active.is_pinned() => Ok(active.mfn),
            _ => Err(GrantError::BadRef),
        }
    }

    fn frame(&self, index: u32) -> Option<&SharedFrame<P>> {
        self.frames.get(usize::try_from(index).ok()?)
    }

    fn locate(&self, reference: u32) -> Result<(&SharedFrame<P>, usize), GrantError> {
        let (frame, index) = split(reference).ok_or(GrantError::BadRef)?;
        Ok((self.frames.get(frame).ok_or(GrantError::BadRef)?, index))
    }

    fn grow(&mut self, frames: u32, allocate: &mut dyn FnMut() -> Option<P>) -> Result<(), Errno> {
        if frames > self.limits.max_frames {
            return Err(Errno::Inval);
        }
        while self.frame_count() < frames {
            let mut active = Vec::new();
            active
                .try_reserve_exact(PER_FRAME)
                .map_err(|_| Errno::NoMem)?;
            active.resize(PER_FRAME, IDLE);
            self.frames.try_reserve(1).map_err(|_| Errno::NoMem)?;
            let page = allocate().ok_or(Errno::NoMem)?;
            self.frames.push(SharedFrame {
                page,
                gfn: None,
                active,
            });
        }
        Ok(())
    }
}

/// Splits a reference in frame number and index in the frame.
fn split(reference: u32) -> Option<(usize, usize)> {
    let reference = usize::try_from(reference).ok()?;
    Some((reference / PER_FRAME, reference % PER_FRAME))
}

/// Checks that the word grants `access` to `user` and marks it as in use, in one exchange.
fn mark_used(word: &AtomicU32, user: DomId, access: Access) -> Result<(), GrantError> {
    let mark = match access {
        Access::Read => READING,
        Access::Write => READING | WRITING,
    };
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..ATTEMPTS {
        if seen & (TYPE_MASK | SUB_PAGE) != PERMIT_ACCESS || seen >> 16 != u32::from(user.raw()) {
            return Err(GrantError::General);
        }
        if access == Access::Write && seen & READONLY != 0 {
            return Err(GrantError::General);
        }
        // One attempt of the processor each: a guest that hammers the word cannot hold us here (XSA-295).
        match word.compare_exchange_weak(seen, seen | mark, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
    Err(GrantError::General)
}

/// Clears bits of a shared word in bounded time.
fn clear_bits(word: &AtomicU32, bits: u32) {
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..ATTEMPTS {
        match word.compare_exchange_weak(seen, seen & !bits, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
    // Its owner changes the word all the time. A plain store ends it; what it undoes was written in a race with us, by
    // the only domain that it can hurt.
    word.store(seen & !bits, Ordering::Release);
}
