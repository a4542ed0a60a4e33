//! The granting half of a domain: shared frames, status frames and active entries.

#[cfg(any(test, feature = "fakes"))]
pub mod inspect;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use log::error;
use xen_abi::grant_table as abi;

use super::entry::{Entry, Purpose, READING, Target, Version, WRITING, Window};
use super::{Access, GrantError, GrantMemory};
use crate::addr::{DomId, Gfn, Mfn};
use crate::errno::Errno;
use crate::machine::SharedPage;

/// Active entries of a frame: as many as any version has in it.
const PER_FRAME: usize = abi::GRANTS_PER_PAGE_V1 as usize;
/// Status words of a status frame.
const STATUS_PER_FRAME: usize = abi::STATUS_PER_PAGE as usize;
/// Shared frames of version 2 for each status frame.
const FRAMES_PER_STATUS: u32 = abi::STATUS_PER_PAGE / abi::GRANTS_PER_PAGE_V2;
/// Entries that a change of version keeps, and that may be in use meanwhile.
const RESERVED: usize = abi::GNTTAB_NR_RESERVED_ENTRIES as usize;

/// More shared frames than this no table has, whatever its limit: what is done to all of them is done in one step.
pub const MOST_FRAMES: u32 = 4096;

/// The limits of a domain's grant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared frames at most (Xen's default: 64).
    pub max_frames: u32,
    /// The highest version of entries that it may choose (Xen's default on Arm: 1, XSA-268).
    pub max_version: u32,
    /// Whether its grants may be transitive (version 2).
    pub has_transitive: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frames: 64,
            max_version: 1,
            has_transitive: true,
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

/// What an entry in use leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A whole page, of which a reference is held.
    Page,
    /// A part of one, likewise.
    Part,
    /// Another domain's grant: `frame` is its number, `start` the domain's.
    Grant,
}

/// Who uses an entry, and what it was when the first use began. 16 bytes.
#[derive(Clone, Copy)]
struct Active {
    frame: u32,
    user: DomId,
    readers: u16,
    writers: u16,
    start: u16,
    length: u16,
    kind: Kind,
    is_writable: bool,
}

const IDLE: Active = Active {
    frame: 0,
    user: DomId::new(0),
    readers: 0,
    writers: 0,
    start: 0,
    length: 0,
    kind: Kind::Page,
    is_writable: false,
};

impl Active {
    fn is_pinned(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }

    fn pinned(&self) -> Pinned {
        match self.kind {
            Kind::Page | Kind::Part => Pinned::Page {
                mfn: Mfn::new(self.frame),
                window: Window {
                    start: self.start,
                    length: self.length,
                },
            },
            Kind::Grant => Pinned::Grant {
                granter: DomId::new(self.start),
                reference: self.frame,
            },
        }
    }
}

/// What a use of an entry got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pinned {
    /// A page, held until the use ends.
    Page {
        /// Its frame.
        mfn: Mfn,
        /// What may be copied of it.
        window: Window,
    },
    /// Another domain's grant to the granter, for which the caller has to ask next.
    Grant {
        /// Whose.
        granter: DomId,
        /// Which.
        reference: u32,
    },
}

struct SharedFrame<P> {
    page: P,
    /// [`PER_FRAME`] entries.
    active: Vec<Active>,
}

/// The granting half of a domain. See the module.
pub struct GrantTable<P> {
    owner: DomId,
    limits: Limits,
    version: Version,
    frames: Vec<SharedFrame<P>>,
    /// Version 2: the words of marks, for all entries of `frames`.
    status: Vec<P>,
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
            version: Version::One,
            frames: Vec::new(),
            status: Vec::new(),
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
    pub fn take_frames(&mut self) -> (impl Drop + use<P>, impl Drop + use<P>) {
        if self.is_dying && self.pinned == 0 {
            (
                core::mem::take(&mut self.frames),
                core::mem::take(&mut self.status),
            )
        } else {
            (Vec::new(), Vec::new())
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
        self.version.number()
    }

    /// Changes to a version, for `set_version`. Only the reserved entries stay; the caller gives [`Self::version`] back to
    /// the guest in any case. `unmap` removes a status frame from the owner's memory.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a version there never was, [`Errno::NoSys`] for one above the limit, [`Errno::Busy`] while
    /// other than reserved entries are in use, [`Errno::NoMem`], and those of `unmap`.
    #[inline(never)]
    pub fn set_version(
        &mut self,
        version: u32,
        allocate: &mut dyn FnMut() -> Option<P>,
        unmap: &mut dyn FnMut(Mfn) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let wanted = Version::from_number(version).ok_or(Errno::Inval)?;
        if version > self.limits.max_version {
            return Err(Errno::NoSys);
        }
        if wanted == self.version {
            return Ok(());
        }
        let reserved = self.frames.first().map_or(0, |frame| {
            let reserved = frame.active.iter().take(RESERVED);
            reserved.filter(|active| active.is_pinned()).count()
        });
        if self.pinned as usize != reserved {
            return Err(Errno::Busy);
        }
        match wanted {
            Version::One => {
                for page in &self.status {
                    unmap(page.mfn())?;
                }
            }
            Version::Two => self.grow_status(self.frame_count(), allocate)?,
        }
        let kept: [_; RESERVED] =
            core::array::from_fn(|i| self.entry(i).ok().and_then(|entry| entry.load_common()));
        for frame in &self.frames {
            for word in frame.page.words() {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.version = wanted;
        for (i, kept) in kept.into_iter().enumerate() {
            if let (Some(kept), Ok(entry)) = (kept, self.entry(i)) {
                entry.store_common(kept);
            }
        }
        if wanted == Version::One {
            self.status = Vec::new();
        }
        Ok(())
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

    /// Returns the machine frames of `frames` status frames, for `get_status_frames`. Version 1 has none (XSA-382).
    ///
    /// # Errors
    /// [`GrantError::General`] when there are fewer.
    pub fn status_frames(&self, frames: u32) -> Result<impl Iterator<Item = Mfn>, GrantError> {
        let frames = self.status.get(..frames as usize);
        Ok(frames.ok_or(GrantError::General)?.iter().map(P::mfn))
    }

    /// Returns how many status frames there can be: none where version 2 is not to be had.
    pub fn max_status_frames(&self) -> u32 {
        match self.limits.max_version {
            0 | 1 => 0,
            _ => self.limits.max_frames.div_ceil(FRAMES_PER_STATUS),
        }
    }

    /// Returns the machine frame of status frame `index`, growing the table up to it (acquire_resource,
    /// add_to_physmap).
    ///
    /// # Errors
    /// [`Errno::Inval`] in version 1 and above the limit, [`Errno::NoMem`] without memory.
    pub fn status_frame(
        &mut self,
        index: u32,
        allocate: &mut dyn FnMut() -> Option<P>,
    ) -> Result<Mfn, Errno> {
        if self.version != Version::Two || index >= self.max_status_frames() {
            return Err(Errno::Inval);
        }
        self.grow(index * FRAMES_PER_STATUS + 1, allocate)?;
        let page = self.status.get(index as usize);
        page.map(P::mfn).ok_or(Errno::Inval)
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
        let frame = self.frames.get(index as usize);
        frame.map(|frame| frame.page.mfn()).ok_or(Errno::Inval)
    }

    /// Returns the machine frame of a shared frame.
    #[cfg(test)]
    pub(super) fn shared_mfn(&self, index: usize) -> Mfn {
        self.frames[index].page.mfn()
    }

    /// Exchanges two entries, for `swap_grant_ref`.
    ///
    /// # Errors
    /// [`GrantError::BadRef`] for an entry beyond the table (XSA-18, XSA-134), [`GrantError::Again`] for one in use.
    #[inline(never)]
    pub fn swap(&mut self, a: u32, b: u32) -> Result<(), GrantError> {
        let entries = [
            self.entry(index_of(a).ok_or(GrantError::BadRef)?)?,
            self.entry(index_of(b).ok_or(GrantError::BadRef)?)?,
        ];
        if a == b {
            return Ok(());
        }
        for reference in [a, b] {
            if self.active(reference)?.is_pinned() {
                return Err(GrantError::Again);
            }
        }
        let [a, b] = entries;
        let (old_a, old_b) = (a.load(), b.load());
        a.store(old_b);
        b.store(old_a);
        Ok(())
    }

    /// Counts a use of entry `reference` by `user` and returns what it leads to. The first use checks the shared entry,
    /// marks it, looks up the page and takes its reference; later ones need only what has been granted.
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
        mut purpose: Purpose,
        memory: &mut M,
    ) -> Result<Pinned, GrantError> {
        if purpose == Purpose::Copy && !self.limits.has_transitive {
            purpose = Purpose::CopyThrough;
        }
        let mut active = self.active(reference)?;
        if self.is_dying {
            return Err(GrantError::BadDomain);
        }
        let was_pinned = active.is_pinned();
        if was_pinned {
            let is_possible = match purpose {
                Purpose::Map => active.kind == Kind::Page,
                Purpose::Copy => true,
                Purpose::CopyThrough => active.kind != Kind::Grant,
            };
            if active.user != user || !is_possible {
                return Err(GrantError::General);
            }
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

        let entry = self.entry(index_of(reference).ok_or(GrantError::BadRef)?)?;
        if was_pinned {
            // More access than before needs the entry's word again, and a page that its owner may write.
            if !had_writers {
                if !active.is_writable {
                    return Err(GrantError::General);
                }
                entry.mark(user, access, purpose, true)?;
            }
        } else {
            let flags = entry.mark(user, access, purpose, false)?;
            if let Err(error) = self.look_up(&mut active, &entry, flags, access, memory) {
                entry.clear(READING | WRITING);
                return Err(error);
            }
            active.user = user;
        }
        if let Some(place) = self.active_mut(reference) {
            *place = active;
        }
        if !was_pinned {
            self.pinned = self.pinned.saturating_add(1);
        }
        Ok(active.pinned())
    }

    /// Finds what an entry leads to that was found valid and marked, at its first use.
    fn look_up<M: GrantMemory>(
        &self,
        active: &mut Active,
        entry: &Entry<'_>,
        flags: u32,
        access: Access,
        memory: &mut M,
    ) -> Result<(), GrantError> {
        match entry.target(flags) {
            Target::Frame { gfn, part } => {
                let gfn = Gfn::try_from(gfn).map_err(|_| GrantError::BadPage)?;
                let page = memory
                    .get_page(self.owner, gfn)
                    .map_err(|_| GrantError::BadPage)?;
                if access == Access::Write && !page.writable {
                    memory.put_page(page.mfn);
                    return Err(GrantError::General);
                }
                let window = part.unwrap_or(Window::PAGE);
                active.frame = page.mfn.raw();
                active.start = window.start;
                active.length = window.length;
                active.kind = if part.is_some() {
                    Kind::Part
                } else {
                    Kind::Page
                };
                active.is_writable = page.writable;
            }
            Target::Grant { granter, reference } => {
                // One's own grants need no detour, and would need this table's lock twice.
                if granter == self.owner {
                    return Err(GrantError::General);
                }
                active.frame = reference;
                active.start = granter.raw();
                active.kind = Kind::Grant;
                // The other grant decides.
                active.is_writable = true;
            }
        }
        Ok(())
    }

    /// Undoes a use counted by [`Self::pin`] with the same `access`.
    #[inline(never)]
    pub(super) fn unpin<M: GrantMemory>(&mut self, reference: u32, access: Access, memory: &mut M) {
        let owner = self.owner;
        let Some(active) = self.active_mut(reference) else {
            return;
        };
        let counter = match access {
            Access::Read => &mut active.readers,
            Access::Write => &mut active.writers,
        };
        let Some(less) = counter.checked_sub(1) else {
            error!("gnttab: {owner} entry {reference:#x}: a use is undone that was not counted");
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
            && let Some(index) = index_of(reference)
            && let Ok(entry) = self.entry(index)
        {
            entry.clear(clear);
        }
        if !active.is_pinned() {
            self.pinned = self.pinned.saturating_sub(1);
            if active.kind != Kind::Grant {
                memory.put_page(Mfn::new(active.frame));
            }
        }
    }

    /// Returns the frame of an entry that is mapped.
    pub(super) fn pinned_frame(&self, reference: u32) -> Result<Mfn, GrantError> {
        let active = self.active(reference)?;
        if active.is_pinned() && active.kind == Kind::Page {
            Ok(Mfn::new(active.frame))
        } else {
            Err(GrantError::BadRef)
        }
    }

    /// Splits the number of an entry in frame number and index in the frame.
    fn split(&self, index: usize) -> (usize, usize) {
        // The divisor is one of two powers of two.
        match self.version {
            Version::One => (index / PER_FRAME, index % PER_FRAME),
            Version::Two => {
                const PER_FRAME: usize = Version::Two.per_frame();
                (index / PER_FRAME, index % PER_FRAME)
            }
        }
    }

    fn active(&self, reference: u32) -> Result<Active, GrantError> {
        let (frame, index) = self.split(index_of(reference).ok_or(GrantError::BadRef)?);
        let frame = self.frames.get(frame).ok_or(GrantError::BadRef)?;
        frame.active.get(index).copied().ok_or(GrantError::BadRef)
    }

    fn active_mut(&mut self, reference: u32) -> Option<&mut Active> {
        let (frame, index) = self.split(index_of(reference)?);
        self.frames.get_mut(frame)?.active.get_mut(index)
    }

    #[inline(never)]
    fn entry(&self, number: usize) -> Result<Entry<'_>, GrantError> {
        let (frame, index) = self.split(number);
        let frame = self.frames.get(frame).ok_or(GrantError::BadRef)?;
        let count = self.version.words();
        let words = frame.page.words().get(index * count..(index + 1) * count);
        let words = words.ok_or(GrantError::BadRef)?;
        let marks = match self.version {
            Version::One => (words.first().ok_or(GrantError::BadRef)?, 0),
            Version::Two => {
                let page = self.status.get(number / STATUS_PER_FRAME);
                let word = page.and_then(|page| page.words().get(number % STATUS_PER_FRAME / 2));
                (word.ok_or(GrantError::BadRef)?, (number as u32 & 1) * 16)
            }
        };
        Ok(Entry {
            version: self.version,
            words,
            marks,
        })
    }

    #[inline(never)]
    fn grow(&mut self, frames: u32, allocate: &mut dyn FnMut() -> Option<P>) -> Result<(), Errno> {
        if frames > self.limits.max_frames {
            return Err(Errno::Inval);
        }
        if self.version == Version::Two {
            self.grow_status(frames, allocate)?;
        }
        while self.frame_count() < frames {
            let mut active = Vec::new();
            active
                .try_reserve_exact(PER_FRAME)
                .map_err(|_| Errno::NoMem)?;
            active.resize(PER_FRAME, IDLE);
            self.frames.try_reserve(1).map_err(|_| Errno::NoMem)?;
            let page = allocate().ok_or(Errno::NoMem)?;
            self.frames.push(SharedFrame { page, active });
        }
        Ok(())
    }

    /// Has status words for the entries of `frames` shared frames.
    #[inline(never)]
    fn grow_status(
        &mut self,
        frames: u32,
        allocate: &mut dyn FnMut() -> Option<P>,
    ) -> Result<(), Errno> {
        while self.status.len() < frames.div_ceil(FRAMES_PER_STATUS) as usize {
            self.status.try_reserve(1).map_err(|_| Errno::NoMem)?;
            self.status.push(allocate().ok_or(Errno::NoMem)?);
        }
        Ok(())
    }
}

fn index_of(reference: u32) -> Option<usize> {
    usize::try_from(reference).ok()
}
