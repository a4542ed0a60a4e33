//! Physical memory at boot: the RAM that is free to use, and the choice of dom0's 1:1 banks.
//!
//! Pure functions over lists of ranges. Lists that this module returns are sorted, do not overlap, and adjacent ranges
//! are merged. No locks. Bounds: lists are as long as the device tree's (at most [`MAX_RANGES`] after each step).

use alloc::vec::Vec;
use core::fmt;

use xenith_core::addr::{HostPhys, PAGE_SIZE};

use crate::insert_sorted;

/// The most ranges in a list (Xen: 256 memory banks; holes may double that).
pub const MAX_RANGES: usize = 1024;
/// What stage 2 of ARMv7-A with LPAE can reach: 40 bits.
pub const PHYS_LIMIT: u64 = 1 << 40;
/// dom0's memory when `dom0_mem` is not given, in bytes. Xen on Arm has the same default, with a warning.
pub const DEFAULT_DOM0_MEM: u64 = 512 << 20;

const PAGE: u64 = PAGE_SIZE as u64;
/// A stage 2 block at level 2: banks start on such a boundary, so that they can be mapped with few entries.
const BLOCK: u64 = 2 << 20;
const BANK0_MIN: u64 = 128 << 20;
/// arm32's Linux finds the start of RAM by masking its own address, so bank 0 is put there if it can be.
const BANK0_ALIGN: u64 = 128 << 20;
/// No bank is made from a piece smaller than this, unless it is all that is missing.
const MIN_PIECE: u64 = 4 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// A range of physical addresses, which does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysRange {
    base: u64,
    size: u64,
}

impl PhysRange {
    /// Makes a range of `size` bytes at `base`, or `None` when its end does not fit 64 bits.
    pub const fn new(base: u64, size: u64) -> Option<Self> {
        match base.checked_add(size) {
            Some(_) => Some(Self { base, size }),
            None => None,
        }
    }

    /// Makes a range of `size` bytes at `base`, cut off at the end of 64 bits.
    pub const fn from_size(base: u64, size: u64) -> Self {
        Self::from_start_end(base, base.saturating_add(size))
    }

    /// Makes the range from `start` up to, not including, `end`; empty when `end` is not above `start`.
    pub const fn from_start_end(start: u64, end: u64) -> Self {
        Self {
            base: start,
            size: end.saturating_sub(start),
        }
    }

    /// Returns the first address.
    pub const fn base(&self) -> HostPhys {
        HostPhys::new(self.base)
    }

    /// Returns the address behind the last byte.
    pub const fn end(&self) -> HostPhys {
        HostPhys::new(self.end_raw())
    }

    /// Returns the size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns true when there is no byte in it.
    pub const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Returns true when both have a byte in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.base < other.end_raw()
            && other.base < self.end_raw()
    }

    /// Returns true when all of `other` lies in this range.
    pub const fn contains(&self, other: &Self) -> bool {
        self.base <= other.base && other.end_raw() <= self.end_raw()
    }

    /// Returns the whole pages in it; it may be empty.
    pub const fn shrink_to(&self, align: u64) -> Self {
        match self.base.checked_next_multiple_of(align) {
            Some(start) => Self::from_start_end(start, self.end_raw() - self.end_raw() % align),
            None => Self {
                base: self.base,
                size: 0,
            },
        }
    }

    /// Returns the smallest range of whole pages around it.
    pub const fn grow_to_pages(&self) -> Self {
        let start = self.base - self.base % PAGE;
        match self.end_raw().checked_next_multiple_of(PAGE) {
            Some(end) => Self::from_start_end(start, end),
            None => Self::from_start_end(start, self.end_raw()),
        }
    }

    /// Returns the part of it below `limit`.
    const fn below(&self, limit: u64) -> Self {
        Self::from_start_end(
            self.base,
            if self.end_raw() < limit {
                self.end_raw()
            } else {
                limit
            },
        )
    }

    /// Returns the part of it from `limit` upwards.
    const fn from(&self, limit: u64) -> Self {
        Self::from_start_end(
            if self.base > limit { self.base } else { limit },
            self.end_raw(),
        )
    }

    const fn end_raw(&self) -> u64 {
        // `new` has checked that this does not wrap, and no method makes a range longer than its arguments.
        self.base.saturating_add(self.size)
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.base, self.end_raw())
    }
}

/// Returns the ranges sorted by address, overlapping and adjacent ones merged, empty ones left out.
#[inline(never)]
pub fn normalise(ranges: &[PhysRange]) -> Vec<PhysRange> {
    let mut sorted = Vec::with_capacity(ranges.len());
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        insert_sorted(&mut sorted, *range, |a, b| a.base <= b.base);
    }
    let mut merged: Vec<PhysRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.base <= last.end_raw() => {
                *last = PhysRange::from_start_end(last.base, last.end_raw().max(range.end_raw()));
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Returns the bytes in a list of ranges that do not overlap.
pub fn total_size(ranges: &[PhysRange]) -> u64 {
    ranges
        .iter()
        .fold(0, |sum, range| sum.saturating_add(range.size))
}

/// Returns what is left of `from` without `holes`. Both lists may be in any order.
#[inline(never)]
pub fn subtract(from: &[PhysRange], holes: &[PhysRange]) -> Vec<PhysRange> {
    let holes = normalise(holes);
    let mut left = Vec::new();
    for range in normalise(from) {
        let mut start = range.base;
        let first = holes.partition_point(|hole| hole.end_raw() <= range.base);
        for hole in holes
            .iter()
            .skip(first)
            .take_while(|hole| hole.base < range.end_raw())
        {
            let piece = PhysRange::from_start_end(start, hole.base);
            if !piece.is_empty() {
                left.push(piece);
            }
            start = hole.end_raw();
        }
        let rest = PhysRange::from_start_end(start, range.end_raw());
        if !rest.is_empty() {
            left.push(rest);
        }
    }
    left
}

/// Returns the whole pages of RAM that nothing else occupies, below [`PHYS_LIMIT`].
///
/// `memory` are the banks of the device tree; `exclude` is all that must survive: the hypervisor's image, the DTB, the
/// boot modules, `/memreserve/` and `/reserved-memory`. A page that an excluded range touches is not used at all.
#[inline(never)]
pub fn usable_ram(memory: &[PhysRange], exclude: &[PhysRange]) -> Vec<PhysRange> {
    let holes: Vec<PhysRange> = exclude
        .iter()
        .filter(|hole| !hole.is_empty())
        .map(PhysRange::grow_to_pages)
        .collect();
    let banks: Vec<PhysRange> = normalise(memory)
        .iter()
        .map(|bank| bank.below(PHYS_LIMIT).shrink_to(PAGE))
        .collect();
    subtract(&banks, &holes)
}

/// Why dom0 gets no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dom0MemError {
    /// `dom0_mem` is zero.
    Zero,
    /// More was asked for than there is; bytes.
    TooLarge {
        /// Asked for.
        asked: u64,
        /// Free in the machine.
        free: u64,
    },
    /// No piece of RAM below 4 GiB is large enough for the first bank; bytes.
    NoFirstBank {
        /// What the first bank needs.
        needed: u64,
        /// The largest free piece below 4 GiB.
        largest: u64,
    },
    /// The free pieces do not add up; bytes.
    Fragmented {
        /// Asked for.
        asked: u64,
        /// What could be had.
        possible: u64,
    },
}

impl fmt::Display for Dom0MemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self {
            Self::Zero => {
                f.write_str("dom0_mem is zero: give dom0 memory, for example dom0_mem=512M")
            }
            Self::TooLarge { asked, free } => write!(
                f,
                "dom0_mem={}M is more than the {} MiB of free RAM: lower dom0_mem",
                asked.div_ceil(MIB),
                free / MIB
            ),
            Self::NoFirstBank { needed, largest } => write!(
                f,
                "dom0's first bank needs {} MiB of contiguous RAM below 4 GiB, the largest free piece has {} MiB: lower \
                 dom0_mem, or load hypervisor, DTB and modules closer together",
                needed.div_ceil(MIB),
                largest / MIB
            ),
            Self::Fragmented { asked, possible } => write!(
                f,
                "only {} of the {} MiB of dom0_mem can be had in pieces of 4 MiB above dom0's first bank: set dom0_mem={}M, \
                 or load hypervisor, DTB and modules closer together",
                possible / MIB,
                asked.div_ceil(MIB),
                possible / MIB
            ),
        }
    }
}

/// Decides how much memory dom0 gets, in bytes, from the option `dom0_mem` and the free RAM.
///
/// # Errors
/// [`Dom0MemError::Zero`] and [`Dom0MemError::TooLarge`]. Without the option, [`DEFAULT_DOM0_MEM`] (the caller warns that
/// it was not given) is subject to the same check.
#[inline(never)]
pub fn dom0_mem_size(option: Option<u64>, usable: &[PhysRange]) -> Result<u64, Dom0MemError> {
    let asked = option.unwrap_or(DEFAULT_DOM0_MEM);
    let free = total_size(usable);
    if asked == 0 {
        return Err(Dom0MemError::Zero);
    }
    match asked.checked_next_multiple_of(PAGE) {
        Some(size) if size <= free => Ok(size),
        _ => Err(Dom0MemError::TooLarge { asked, free }),
    }
}

/// Chooses dom0's banks (guest-physical equals physical) for `size` bytes, a multiple of the page size, out of `usable`.
///
/// As in Xen, the first bank lies below 4 GiB and has at least min(`size`, 128 MiB), because kernel, ramdisk and device
/// tree go there; it is as low as possible and every other bank lies above it, because a 32-bit Linux takes its lowest
/// memory for the start of RAM. The other banks come from the largest pieces first, below 4 GiB before above. Unlike
/// Xen, one contiguous bank is tried before anything else, at a multiple of 128 MiB if there is one. Banks start at
/// multiples of 2 MiB, are sorted, and add up to `size` exactly.
///
/// # Errors
/// [`Dom0MemError`], which says how much could be had.
pub fn dom0_banks(usable: &[PhysRange], size: u64) -> Result<Vec<PhysRange>, Dom0MemError> {
    dom0_banks_below(usable, size, FOUR_GIB)
}

/// Chooses as [`dom0_banks`] does, with another end of the memory that the first bank must come from: where devices of
/// the machine reach no more.
///
/// # Errors
/// Those of [`dom0_banks`].
#[inline(never)]
pub fn dom0_banks_below(
    usable: &[PhysRange],
    size: u64,
    low_end: u64,
) -> Result<Vec<PhysRange>, Dom0MemError> {
    if size == 0 {
        return Err(Dom0MemError::Zero);
    }
    let free = total_size(usable);
    if size > free {
        return Err(Dom0MemError::TooLarge { asked: size, free });
    }
    // Start at a block, but keep the odd end: a bank may use it.
    let aligned = |range: &PhysRange, align: u64| {
        let start = range
            .base
            .checked_next_multiple_of(align)
            .unwrap_or(u64::MAX);
        PhysRange::from_start_end(start, range.end_raw())
    };
    let pieces: Vec<PhysRange> = normalise(usable)
        .iter()
        .map(|range| aligned(range, BLOCK))
        .filter(|piece| !piece.is_empty())
        .collect();
    let low: Vec<PhysRange> = pieces
        .iter()
        .map(|piece| piece.below(low_end.min(FOUR_GIB)))
        .filter(|piece| !piece.is_empty())
        .collect();

    let lowest = |align: u64, needed: u64| {
        low.iter()
            .map(|piece| aligned(piece, align))
            .find(|piece| piece.size >= needed)
    };
    if let Some(piece) = lowest(BANK0_ALIGN, size).or_else(|| lowest(BLOCK, size)) {
        return Ok(alloc::vec![PhysRange {
            base: piece.base,
            size
        }]);
    }

    let needed = size.min(BANK0_MIN);
    let first = lowest(BLOCK, needed).ok_or(Dom0MemError::NoFirstBank {
        needed,
        largest: low.iter().map(|piece| piece.size).max().unwrap_or(0),
    })?;
    // A start that suits older kernels, if that leaves enough.
    for start in [aligned(&first, BANK0_ALIGN), first] {
        if start.size >= needed {
            let banks = collect_banks(start, &pieces, size);
            let possible = total_size(&banks);
            if possible == size {
                return Ok(normalise(&banks));
            }
            if start == first {
                return Err(Dom0MemError::Fragmented {
                    asked: size,
                    possible,
                });
            }
        }
    }
    Err(Dom0MemError::Fragmented {
        asked: size,
        possible: needed,
    })
}

/// Takes the first bank and then the largest pieces above it until `size` is reached or nothing is left.
fn collect_banks(first: PhysRange, pieces: &[PhysRange], size: u64) -> Vec<PhysRange> {
    let mut banks = alloc::vec![PhysRange {
        base: first.base,
        size: first.size.min(size)
    }];
    let above = |piece: &PhysRange| piece.from(first.end_raw());
    let (mut low, mut high) = (Vec::new(), Vec::new());
    let largest_first = |a: &PhysRange, b: &PhysRange| a.size >= b.size;
    for piece in pieces.iter().map(above) {
        insert_sorted(&mut low, piece.below(FOUR_GIB), largest_first);
        insert_sorted(&mut high, piece.from(FOUR_GIB), largest_first);
    }
    for piece in low.iter().chain(high.iter()) {
        let missing = size.saturating_sub(total_size(&banks));
        if missing == 0 {
            break;
        }
        if piece.size >= MIN_PIECE.min(missing) {
            banks.push(PhysRange {
                base: piece.base,
                size: piece.size.min(missing),
            });
        }
    }
    banks
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
