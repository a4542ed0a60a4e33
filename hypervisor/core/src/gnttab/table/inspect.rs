//! What tests see of the uses of grants.

use core::sync::atomic::AtomicU32;

use super::{GrantTable, Kind, SharedPage, index_of};
use crate::addr::{DomId, Mfn};

/// A grant in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The grant.
    pub reference: u32,
    /// The frame, of which one reference is held; `None`: the grant only leads to another's, which takes no reference.
    pub mfn: Option<Mfn>,
    /// Who uses it.
    pub user: DomId,
    /// How often for reading, and how often for writing.
    pub counts: (u32, u32),
}

impl<P: SharedPage> GrantTable<P> {
    /// Returns the grants in use.
    pub fn uses(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        let per_frame = self.version.per_frame();
        for (frame, first) in self.frames.iter().zip((0..).step_by(per_frame)) {
            for (active, index) in frame.active.iter().zip(0..) {
                if active.is_pinned() {
                    assert!(index < per_frame, "a use of an entry that is none");
                    uses.push(Use {
                        reference: (first + index) as u32,
                        mfn: (active.kind != Kind::Grant).then(|| Mfn::new(active.frame)),
                        user: active.user,
                        counts: (active.readers.into(), active.writers.into()),
                    });
                }
            }
        }
        uses
    }

    /// Returns how many frames of status words there are.
    pub fn status_count(&self) -> usize {
        self.status.len()
    }

    /// Returns a word of an entry: 0 has the flags and the domain, 1 the frame of version 1.
    pub fn entry_word(&self, reference: u32, word: usize) -> Option<&AtomicU32> {
        let (frame, index) = self.split(index_of(reference)?);
        let words = self.version.words();
        let page = &self.frames.get(frame)?.page;
        page.words().get(index * words + word)
    }
}
