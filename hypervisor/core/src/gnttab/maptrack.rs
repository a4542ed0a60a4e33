//! The mappings that a domain holds of others' grants: a handle for each.

use alloc::vec::Vec;

use super::mapped::{MappedFrames, Reach};
use super::{Access, GrantError};
use crate::addr::{DomId, Gfn, Mfn};

/// Mappings for each maptrack frame: what `gnttab_max_maptrack_frames` and the toolstack count in.
pub const MAPTRACK_PER_FRAME: u32 = 256;
const PER_FRAME: usize = MAPTRACK_PER_FRAME as usize;
/// The end of the list of free handles.
const END: u32 = u32::MAX;

/// How the domain's devices see memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceView {
    /// Nothing beyond the mapping itself.
    Translated,
    /// The domain is direct-mapped and programs machine addresses into devices: a granted frame is also mapped at the
    /// guest frame of the same number, as long as any grant of it is mapped.
    Identity,
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Who granted.
    pub(super) granter: DomId,
    /// The grant.
    pub(super) reference: u32,
    /// Where it is mapped.
    pub(super) at: Gfn,
    /// What it allows.
    pub(super) access: Access,
}

#[derive(Clone, Copy)]
enum Slot {
    Free { next: u32 },
    Reserved,
    Used(Mapping),
}

/// The answer of [`Maptrack::scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A mapping is there.
    Found {
        /// Its handle.
        handle: u32,
        /// Who granted.
        granter: DomId,
    },
    /// None up to here; go on from this handle.
    Continue(u32),
    /// None at all from there on.
    Done,
}

/// The mapping half of a domain. See the module.
pub struct Maptrack {
    owner: DomId,
    max_frames: u32,
    view: DeviceView,
    frames: Vec<Vec<Slot>>,
    free: u32,
    in_use: u32,
    pub(super) mapped: MappedFrames,
}

impl Maptrack {
    /// Makes an empty maptrack of `owner` for at most `max_frames` * [`MAPTRACK_PER_FRAME`] mappings.
    pub fn new(owner: DomId, max_frames: u32, view: DeviceView) -> Self {
        // A handle below END, always.
        let max_frames = max_frames.min(END / MAPTRACK_PER_FRAME);
        Self {
            owner,
            max_frames,
            view,
            frames: Vec::new(),
            free: END,
            in_use: 0,
            mapped: MappedFrames::default(),
        }
    }

    /// Returns the domain that maps.
    pub fn owner(&self) -> DomId {
        self.owner
    }

    /// Returns how many mappings there are.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Returns what the domain may do with frame `mfn` through grants; `None`: nothing.
    pub fn reach(&self, mfn: Mfn) -> Option<Access> {
        self.mapped.reach(mfn)
    }

    /// Returns who granted what is mapped under `handle`, to find the table for an unmap.
    ///
    /// # Errors
    /// [`GrantError::BadHandle`] when there is no such mapping.
    pub fn granter_of(&self, handle: u32) -> Result<DomId, GrantError> {
        self.get(handle).map(|mapping| mapping.granter)
    }

    /// Looks for a mapping from handle `from` on, for releasing them all when the domain dies; looks at no more than
    /// [`MAPTRACK_PER_FRAME`] handles.
    pub fn scan(&self, from: u32) -> Scan {
        let limit = u32::try_from(self.frames.len())
            .unwrap_or(0)
            .saturating_mul(MAPTRACK_PER_FRAME);
        if self.in_use == 0 || from >= limit {
            return Scan::Done;
        }
        let end = from.saturating_add(MAPTRACK_PER_FRAME).min(limit);
        for handle in from..end {
            if let Ok(mapping) = self.get(handle) {
                return Scan::Found {
                    handle,
                    granter: mapping.granter,
                };
            }
        }
        Scan::Continue(end)
    }

    pub(super) fn has_identity(&self, granter: DomId) -> bool {
        // A direct-mapped domain has its own pages at their own numbers anyway, and must not lose them by an unmap.
        self.view == DeviceView::Identity && granter != self.owner
    }

    pub(super) fn get(&self, handle: u32) -> Result<Mapping, GrantError> {
        match self.slot(handle) {
            Some(Slot::Used(mapping)) => Ok(*mapping),
            _ => Err(GrantError::BadHandle),
        }
    }

    /// Takes a free handle, growing by a frame if there is none. It counts as no mapping until [`Self::commit`].
    pub(super) fn reserve(&mut self) -> Result<u32, GrantError> {
        if self.free == END {
            self.grow()?;
        }
        let handle = self.free;
        let slot = self.slot_mut(handle).ok_or(GrantError::NoSpace)?;
        let Slot::Free { next } = *slot else {
            return Err(GrantError::NoSpace);
        };
        *slot = Slot::Reserved;
        self.free = next;
        Ok(handle)
    }

    /// Gives back a handle of [`Self::reserve`].
    pub(super) fn cancel(&mut self, handle: u32) {
        let next = self.free;
        if let Some(slot @ Slot::Reserved) = self.slot_mut(handle) {
            *slot = Slot::Free { next };
            self.free = handle;
        }
    }

    /// Records the mapping of a handle of [`Self::reserve`].
    pub(super) fn commit(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot @ Slot::Reserved) = self.slot_mut(handle) {
            *slot = Slot::Used(mapping);
            self.in_use = self.in_use.saturating_add(1);
        }
    }

    /// Frees the handle of a mapping.
    pub(super) fn remove(&mut self, handle: u32) {
        let next = self.free;
        if let Some(slot @ Slot::Used(_)) = self.slot_mut(handle) {
            *slot = Slot::Free { next };
            self.free = handle;
            self.in_use = self.in_use.saturating_sub(1);
        }
    }

    pub(super) fn reach_without(&self, mfn: Mfn, access: Access) -> Reach {
        self.mapped.reach_without(mfn, access)
    }

    fn slot(&self, handle: u32) -> Option<&Slot> {
        let (frame, index) = split(handle)?;
        self.frames.get(frame)?.get(index)
    }

    fn slot_mut(&mut self, handle: u32) -> Option<&mut Slot> {
        let (frame, index) = split(handle)?;
        self.frames.get_mut(frame)?.get_mut(index)
    }

    fn grow(&mut self) -> Result<(), GrantError> {
        let count = u32::try_from(self.frames.len()).map_err(|_| GrantError::NoSpace)?;
        if count >= self.max_frames {
            return Err(GrantError::NoSpace);
        }
        let first = count * MAPTRACK_PER_FRAME;
        let mut frame = Vec::new();
        frame
            .try_reserve_exact(PER_FRAME)
            .map_err(|_| GrantError::NoSpace)?;
        self.frames
            .try_reserve(1)
            .map_err(|_| GrantError::NoSpace)?;
        for handle in first..first + MAPTRACK_PER_FRAME {
            let last = handle + 1 == first + MAPTRACK_PER_FRAME;
            frame.push(Slot::Free {
                next: if last { self.free } else { handle + 1 },
            });
        }
        self.frames.push(frame);
        self.free = first;
        Ok(())
    }
}

fn split(handle: u32) -> Option<(usize, usize)> {
    let handle = usize::try_from(handle).ok()?;
    Some((handle / PER_FRAME, handle % PER_FRAME))
}

/// For tests.
#[cfg(any(test, feature = "fakes"))]
impl Maptrack {
    /// Returns each mapping: who granted, the grant, where it is mapped and what it allows.
    pub fn mappings(&self) -> Vec<(DomId, u32, Gfn, Access)> {
        let slots = self.frames.iter().flatten();
        let used = slots.filter_map(|slot| match slot {
            Slot::Used(mapping) => Some(mapping),
            Slot::Free { .. } | Slot::Reserved => None,
        });
        used.map(|mapping| {
            (
                mapping.granter,
                mapping.reference,
                mapping.at,
                mapping.access,
            )
        })
        .collect()
    }
}
