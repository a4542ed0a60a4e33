//! Ranges of physical addresses and lists of them.

use alloc::vec::Vec;

use xenith_core::addr::{HostPhys, PAGE_SIZE};

const PAGE: u64 = PAGE_SIZE as u64;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// The first byte.
    pub start: HostPhys,
    /// Its size in bytes.
    pub size: u64,
}

impl Region {
    /// Makes a region from raw numbers: address and size in bytes.
    pub const fn new(start: u64, size: u64) -> Self {
        Self {
            start: HostPhys::new(start),
            size,
        }
    }

    /// Returns the address behind the last byte; at most `u64::MAX`.
    pub const fn end(self) -> u64 {
        self.start.raw().saturating_add(self.size)
    }
}

impl core::fmt::Display for Region {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#012x}-{:#012x}", self.start, self.end())
    }
}

/// Start and end of a range in whole pages around `start..end`.
pub(super) fn whole_pages(start: u64, end: u64) -> (u64, u64) {
    (
        start & !(PAGE - 1),
        end.checked_next_multiple_of(PAGE).unwrap_or(!(PAGE - 1)),
    )
}

/// A set of addresses as sorted, disjoint ranges `(start, end)` in whole pages.
#[derive(Debug, Default)]
pub(super) struct RegionSet(Vec<(u64, u64)>);

impl RegionSet {
    pub(super) fn new(regions: impl Iterator<Item = Region>) -> Self {
        let mut ranges: Vec<_> = regions
            .filter(|region| region.size > 0)
            .map(|region| whole_pages(region.start.raw(), region.end()))
            .collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, end) in ranges {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    /// Returns whether any byte of `start..end` is in the set.
    pub(super) fn intersects(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|range| range.1 <= start);
        self.0.get(first).is_some_and(|range| range.0 < end)
    }

    /// Returns what is in this set and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut start, end) in &self.0 {
            let first = other.0.partition_point(|hole| hole.1 <= start);
            for hole in other.0.iter().skip(first).take_while(|hole| hole.0 < end) {
                if hole.0 > start {
                    left.push((start, hole.0));
                }
                start = start.max(hole.1);
            }
            if start < end {
                left.push((start, end));
            }
        }
        Self(left)
    }

    pub(super) fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.0
            .iter()
            .map(|&(start, end)| Region::new(start, end.saturating_sub(start)))
    }
}
