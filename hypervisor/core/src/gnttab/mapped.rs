//! The machine frames that a domain has mapped through grants, counted.
//!
//! A hash table with open addressing and linear probing: a look-up costs a few words, growing can fail instead of
//! aborting, and removing leaves no tombstones (the run after the hole moves back).

use alloc::vec::Vec;

use super::Access;
use crate::addr::Mfn;

/// The smallest table, as log2 of its slots.
const MIN_BITS: u32 = 6;
/// No frame: beyond the 44-bit physical space that [`Mfn`] can name is not RAM.
const EMPTY: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Slot {
    mfn: u32,
    readers: u32,
    writers: u32,
}

const FREE: Slot = Slot {
    mfn: EMPTY,
    readers: 0,
    writers: 0,
};

/// What access the mappings of a frame give together: `None` means not mapped.
pub(super) type Reach = Option<Access>;

/// Counts of the mappings of each frame.
#[derive(Default)]
pub(super) struct MappedFrames {
    /// Empty, or a power of two; at most three quarters are used.
    slots: Vec<Slot>,
    used: usize,
}

/// There is no memory for another frame.
#[derive(Debug)]
pub(super) struct NoMemory;

impl MappedFrames {
    fn home(mfn: u32, slots: usize) -> usize {
        // Fibonacci hashing: neighbouring frames spread over the table. `slots` is a power of two above 1.
        let bits = slots.trailing_zeros();
        (mfn.wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize
    }

    fn find(&self, mfn: Mfn) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut index = Self::home(mfn.raw(), self.slots.len());
        for _ in 0..self.slots.len() {
            match self.slots.get(index)?.mfn {
                EMPTY => return None,
                found if found == mfn.raw() => return Some(index),
                _ => index = (index + 1) & mask,
            }
        }
        None
    }

    /// Returns what the mappings of `mfn` allow.
    pub(super) fn reach(&self, mfn: Mfn) -> Reach {
        let slot = self.slots.get(self.find(mfn)?)?;
        Some(if slot.writers > 0 {
            Access::Write
        } else {
            Access::Read
        })
    }

    /// Returns what would be allowed after one mapping with `access` less.
    pub(super) fn reach_without(&self, mfn: Mfn, access: Access) -> Reach {
        let slot = self.slots.get(self.find(mfn)?)?;
        let (readers, writers) = match access {
            Access::Read => (slot.readers.saturating_sub(1), slot.writers),
            Access::Write => (slot.readers, slot.writers.saturating_sub(1)),
        };
        match (readers, writers) {
            (0, 0) => None,
            (_, 0) => Some(Access::Read),
            _ => Some(Access::Write),
        }
    }

    /// Counts a mapping of `mfn`.
    pub(super) fn add(&mut self, mfn: Mfn, access: Access) -> Result<(), NoMemory> {
        if mfn.raw() == EMPTY {
            return Err(NoMemory);
        }
        let index = match self.find(mfn) {
            Some(index) => index,
            None => {
                if (self.used + 1) * 4 > self.slots.len() * 3 {
                    self.grow()?;
                }
                self.used += 1;
                self.place(Slot {
                    mfn: mfn.raw(),
                    ..FREE
                })
            }
        };
        if let Some(slot) = self.slots.get_mut(index) {
            // At most as many as handles, which are fewer than 2^32.
            match access {
                Access::Read => slot.readers = slot.readers.saturating_add(1),
                Access::Write => slot.writers = slot.writers.saturating_add(1),
            }
        }
        Ok(())
    }

    /// Uncounts a mapping of `mfn`.
    pub(super) fn remove(&mut self, mfn: Mfn, access: Access) {
        let Some(index) = self.find(mfn) else { return };
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        match access {
            Access::Read => slot.readers = slot.readers.saturating_sub(1),
            Access::Write => slot.writers = slot.writers.saturating_sub(1),
        }
        if slot.readers == 0 && slot.writers == 0 {
            self.erase(index);
        }
    }

    /// Puts `slot` in the first free place of its run; there is one. Returns the place.
    fn place(&mut self, slot: Slot) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        let mut index = Self::home(slot.mfn, self.slots.len());
        for _ in 0..self.slots.len() {
            match self.slots.get_mut(index) {
                Some(place) if place.mfn == EMPTY => {
                    *place = slot;
                    break;
                }
                _ => index = (index + 1) & mask,
            }
        }
        index
    }

    fn erase(&mut self, mut hole: usize) {
        let mask = self.slots.len().wrapping_sub(1);
        self.used = self.used.saturating_sub(1);
        let mut index = hole;
        for _ in 0..self.slots.len() {
            index = (index + 1) & mask;
            let Some(&slot) = self.slots.get(index) else {
                break;
            };
            if slot.mfn == EMPTY {
                break;
            }
            // `slot` may move into the hole unless its home lies cyclically in (hole, index].
            let home = Self::home(slot.mfn, self.slots.len());
            if (index.wrapping_sub(home) & mask) >= (index.wrapping_sub(hole) & mask) {
                if let Some(place) = self.slots.get_mut(hole) {
                    *place = slot;
                }
                hole = index;
            }
        }
        if let Some(place) = self.slots.get_mut(hole) {
            *place = FREE;
        }
    }

    fn grow(&mut self) -> Result<(), NoMemory> {
        let slots = if self.slots.is_empty() {
            1 << MIN_BITS
        } else {
            self.slots.len().saturating_mul(2)
        };
        let mut larger = Vec::new();
        larger.try_reserve_exact(slots).map_err(|_| NoMemory)?;
        larger.resize(slots, FREE);
        let smaller = core::mem::replace(&mut self.slots, larger);
        for slot in smaller {
            if slot.mfn != EMPTY {
                self.place(slot);
            }
        }
        Ok(())
    }

    /// Returns how many frames are mapped.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.used
    }
}
