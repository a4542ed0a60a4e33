//! The layout of a shared entry: the only place that knows it. Its words are changed by the guest at any moment; each is
//! read once for a decision, and changed by compare-exchange in bounded attempts.
//!
//! Version 1: two words, of which the first also holds the marks "in use". Version 2: four words, and the marks are in a
//! 16-bit word of a status frame, so that the guest can have the entries read-only and end a grant by one store: the
//! entry is checked once more after it was marked.

use core::sync::atomic::{AtomicU32, Ordering};

use xen_abi::grant_table as abi;

use super::{Access, GrantError};
use crate::addr::{DomId, PAGE_SIZE};

/// Attempts to change a shared word before its owner is taken to be fighting us. A single-attempt exchange may also fail
/// without cause, so this is more than Xen's five.
const ATTEMPTS: u32 = 32;

const TYPE_MASK: u32 = abi::GTF_TYPE_MASK as u32;
const PERMIT_ACCESS: u32 = abi::GTF_PERMIT_ACCESS as u32;
const TRANSITIVE: u32 = abi::GTF_TRANSITIVE as u32;
const READONLY: u32 = abi::GTF_READONLY as u32;
pub(super) const READING: u32 = abi::GTF_READING as u32;
pub(super) const WRITING: u32 = abi::GTF_WRITING as u32;
const SUB_PAGE: u32 = abi::GTF_SUB_PAGE as u32;

/// Words of the longest entry.
pub(super) const MAX_WORDS: usize = 4;

/// The layout of a domain's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Marks in the entry, 32-bit frame numbers, whole pages.
    One,
    /// Status words, parts of pages, grants of another domain's grants.
    Two,
}

impl Version {
    /// Returns the version with this number.
    pub(super) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }

    /// Returns its number.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Returns how many words an entry has.
    pub(super) const fn words(self) -> usize {
        match self {
            Self::One => 2,
            Self::Two => MAX_WORDS,
        }
    }

    /// Returns how many entries a frame has.
    pub(super) const fn per_frame(self) -> usize {
        match self {
            Self::One => abi::GRANTS_PER_PAGE_V1 as usize,
            Self::Two => abi::GRANTS_PER_PAGE_V2 as usize,
        }
    }
}

/// What a grant is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A mapping: whole pages only.
    Map,
    /// A copy.
    Copy,
    /// The second step of a copy through a transitive grant, which may not lead further.
    CopyThrough,
}

/// The part of a page that may be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Its first byte.
    pub(super) start: u16,
    /// Its bytes.
    pub(super) length: u16,
}

impl Window {
    /// All of a page.
    pub(super) const PAGE: Self = Self {
        start: 0,
        length: PAGE_SIZE as u16,
    };

    /// Returns whether these bytes are in it.
    pub(super) fn contains(self, offset: usize, length: usize) -> bool {
        let start = usize::from(self.start);
        offset >= start && offset + length <= start + usize::from(self.length)
    }
}

/// What an entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A guest frame of the granter, and what of it.
    Frame { gfn: u64, part: Option<Window> },
    /// A grant of another domain to the granter.
    Grant { granter: DomId, reference: u32 },
}

/// A shared entry.
pub(super) struct Entry<'a> {
    pub(super) version: Version,
    /// As many as [`Version::words`].
    pub(super) words: &'a [AtomicU32],
    /// Where the marks are, and how far up in the word.
    pub(super) marks: (&'a AtomicU32, u32),
}

impl Entry<'_> {
    fn word(&self, index: usize) -> u32 {
        self.words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Checks that the entry grants `access` to `user` and marks it as in use. `was_used` says that it has a use with less
    /// access. Returns the flags on which that was decided, for [`Self::target`].
    pub(super) fn mark(
        &self,
        user: DomId,
        access: Access,
        purpose: Purpose,
        was_used: bool,
    ) -> Result<u32, GrantError> {
        let mark = match access {
            Access::Read => READING,
            Access::Write => READING | WRITING,
        };
        let header = self.words.first().ok_or(GrantError::BadRef)?;
        let mut seen = header.load(Ordering::Relaxed);
        self.check(seen, user, access, purpose)?;
        match self.version {
            Version::One => {
                for _ in 0..ATTEMPTS {
                    // One attempt of the processor each: a guest that hammers the word cannot hold us here (XSA-295).
                    match header.compare_exchange_weak(
                        seen,
                        seen | mark,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    ) {
                        Ok(_) => return Ok(seen),
                        Err(now) => seen = now,
                    }
                    self.check(seen, user, access, purpose)?;
                }
                Err(GrantError::General)
            }
            Version::Two => {
                self.set_marks(mark)?;
                // The guest ends a grant by clearing the flags and then looking at the marks: one of us sees the other.
                let now = header.load(Ordering::SeqCst);
                self.check(now, user, access, purpose).inspect_err(|_| {
                    self.clear(if was_used { WRITING } else { READING | WRITING });
                })?;
                Ok(now)
            }
        }
    }

    fn check(
        &self,
        word: u32,
        user: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<(), GrantError> {
        let is_type_right = match (self.version, purpose) {
            (_, Purpose::Map) => word & (TYPE_MASK | SUB_PAGE) == PERMIT_ACCESS,
            (Version::Two, Purpose::Copy) => {
                matches!(word & TYPE_MASK, PERMIT_ACCESS | TRANSITIVE)
            }
            (_, Purpose::Copy | Purpose::CopyThrough) => word & TYPE_MASK == PERMIT_ACCESS,
        };
        let is_access_right = access == Access::Read || word & READONLY == 0;
        if is_type_right && is_access_right && word >> 16 == u32::from(user.raw()) {
            Ok(())
        } else {
            Err(GrantError::General)
        }
    }

    /// Returns what the entry leads to; `flags` are those of [`Self::mark`]. Reads each word once.
    pub(super) fn target(&self, flags: u32) -> Target {
        if self.version == Version::One {
            return Target::Frame {
                gfn: u64::from(self.word(1)),
                part: None,
            };
        }
        if flags & TYPE_MASK == TRANSITIVE {
            return Target::Grant {
                granter: DomId::new(self.word(1) as u16),
                reference: self.word(2),
            };
        }
        Target::Frame {
            gfn: u64::from(self.word(2)) | u64::from(self.word(3)) << 32,
            part: (flags & SUB_PAGE != 0).then(|| {
                let part = self.word(1);
                Window {
                    start: part as u16,
                    length: (part >> 16) as u16,
                }
            }),
        }
    }

    fn set_marks(&self, marks: u32) -> Result<(), GrantError> {
        let (word, shift) = self.marks;
        change_bits(word, 0, marks << shift).map_err(|_| GrantError::General)
    }

    /// Clears marks in bounded time.
    pub(super) fn clear(&self, marks: u32) {
        let (word, shift) = self.marks;
        if let Err(seen) = change_bits(word, marks << shift, 0) {
            // Its owner changes the word all the time. A plain store ends it; what it undoes was written in a race with
            // us, by the only domain that it can hurt.
            word.store(seen & !(marks << shift), Ordering::Release);
        }
    }

    /// Reads the whole entry: its words, and its marks where they are apart.
    pub(super) fn load(&self) -> ([u32; MAX_WORDS], u32) {
        let mut words = [0; MAX_WORDS];
        for (copy, word) in words.iter_mut().zip(self.words) {
            *copy = word.load(Ordering::Acquire);
        }
        let marks = match self.version {
            Version::One => 0,
            Version::Two => {
                let (word, shift) = self.marks;
                word.load(Ordering::Relaxed) >> shift & 0xffff
            }
        };
        (words, marks)
    }

    /// Writes the whole entry; the flags come last. The entry is not in use.
    pub(super) fn store(&self, (words, marks): ([u32; MAX_WORDS], u32)) {
        if self.version == Version::Two {
            self.clear(0xffff);
            // What the guest puts there meanwhile is its own; a lost mark is too, as nothing uses the entry.
            let _ = self.set_marks(marks);
        }
        for (word, value) in self.words.iter().zip(words).rev() {
            word.store(value, Ordering::Release);
        }
    }

    /// Reads the entry as one that every version can have, for [`Self::store_common`]: word of flags with marks, frame.
    /// `None`: it grants no whole page.
    pub(super) fn load_common(&self) -> Option<(u32, u32)> {
        let (words, marks) = self.load();
        let [flags, one, two, _] = words;
        let frame = match self.version {
            Version::One => one,
            Version::Two => two,
        };
        let is_common = flags & (TYPE_MASK | SUB_PAGE) == PERMIT_ACCESS;
        is_common.then_some((flags | marks, frame))
    }

    /// Writes what [`Self::load_common`] of another version gave.
    pub(super) fn store_common(&self, (flags, frame): (u32, u32)) {
        const MARKS: u32 = READING | WRITING;
        self.store(match self.version {
            Version::One => ([flags, frame, 0, 0], 0),
            Version::Two => ([flags & !MARKS, 0, frame, 0], flags & MARKS),
        });
    }
}

/// Clears and sets bits of a shared word in bounded time.
///
/// # Errors
/// The word, when its owner keeps changing it.
#[inline(never)]
fn change_bits(word: &AtomicU32, clear: u32, set: u32) -> Result<(), u32> {
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..ATTEMPTS {
        let new = seen & !clear | set;
        match word.compare_exchange_weak(seen, new, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
    Err(seen)
}
