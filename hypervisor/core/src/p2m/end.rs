//! The end of a domain's memory, in bounded steps.

use super::{Dying, P2m, P2mMemory, Relinquish};
use crate::addr::{Gfn, Mfn};
use crate::frames::OwnedSearch;
use crate::stage2::Ram;

impl P2m {
    /// Takes the memory of a dying domain apart, about `budget` pages at a time (XSA-410). No vCPU of it runs any
    /// more. From the first call on nothing can be mapped.
    ///
    /// When done, pages that others still refer to may remain: the domain stays a zombie until
    /// [`PageAccount::pages`] is 0.
    pub fn relinquish<M: P2mMemory>(&mut self, memory: &mut M, budget: u32) -> Relinquish {
        match self.dying {
            Dying::No => self.dying = Dying::Mappings(Gfn::new(0)),
            Dying::Mappings(from) => self.relinquish_mappings(memory, from, budget.max(1)),
            Dying::Tables(mut cursor) => {
                let is_done = self.stage2.free_tables_step(memory, &mut cursor);
                self.dying = if is_done {
                    Dying::Unmapped(Mfn::new(0))
                } else {
                    Dying::Tables(cursor)
                };
            }
            Dying::Unmapped(from) => self.relinquish_unmapped(memory, from, budget.max(1)),
            Dying::Done => return Relinquish::Done,
        }
        Relinquish::More
    }

    fn relinquish_mappings<M: P2mMemory>(&mut self, memory: &mut M, from: Gfn, budget: u32) {
        if !self.sync_some(memory, budget) {
            return;
        }
        let end = self
            .highest
            .map_or(0, |highest| u64::from(highest.raw()) + 1);
        let Some((gfn, mapping, run)) = self.stage2.next_mapping(memory, from, end) else {
            self.dying = Dying::Tables(0);
            return;
        };
        // A block goes as a whole, whatever the budget: its frames are dropped in parts. Single pages go up to the
        // end of their table, so that they share a flush.
        let pages = if mapping.order == 0 {
            (512 - gfn.raw() % 512).min(budget)
        } else {
            run
        };
        if self.stage2.unmap(memory, gfn, pages, Ram::Release).is_err() {
            // No block is split here, so only the list of released frames can lack memory: go page by page.
            if mapping.order == 0 && self.stage2.unmap(memory, gfn, 1, Ram::Release).is_ok() {
                self.dying = Dying::Mappings(gfn);
            }
            return;
        }
        let _ = self.sync_some(memory, budget);
        self.dying = Dying::Mappings(gfn.checked_add(pages).unwrap_or(Gfn::new(u32::MAX)));
    }

    fn relinquish_unmapped<M: P2mMemory>(&mut self, memory: &mut M, from: Mfn, budget: u32) {
        let search = if self.account.pages() == 0 {
            OwnedSearch::End
        } else {
            memory
                .frames()
                .find_owned(self.owner, from, budget.saturating_mul(64))
        };
        self.dying = match search {
            OwnedSearch::Found(mfn) => {
                if let Ok(put) = memory.frames().release(mfn, self.owner) {
                    Self::finish_put(memory, self.owner, &self.account, mfn, put);
                }
                Dying::Unmapped(mfn)
            }
            OwnedSearch::More(next) => Dying::Unmapped(next),
            OwnedSearch::End => Dying::Done,
        };
    }

    /// Frees the root of the tables after [`P2m::relinquish`] is done, or of an address space that was never used.
    ///
    /// # Errors
    /// The value itself when something is left.
    #[allow(clippy::result_large_err, reason = "the caller gets back what it gave")]
    pub fn destroy<M: P2mMemory>(self, memory: &mut M) -> Result<(), Self> {
        if self.stage2.table_pages() != 0 || self.stage2.needs_sync() {
            return Err(self);
        }
        self.stage2.destroy(memory);
        Ok(())
    }
}
