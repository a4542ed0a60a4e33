//! How much RAM a domain has.

use core::sync::atomic::{AtomicU32, Ordering};

/// How much RAM a domain has and may have, in pages. Shared: any CPU may drop the last reference to a page. In a cache
/// line of its own, which also is how [`crate::fallible`] knows its room.
#[derive(Debug)]
#[repr(align(64))]
pub struct PageAccount {
    pages: AtomicU32,
    limit: AtomicU32,
    /// Pages of the hypervisor's that are shared with it.
    shared: AtomicU32,
    /// Free pages set aside for it (`XENMEM_claim_pages`). Changed with the allocator locked.
    claimed: AtomicU32,
}

impl PageAccount {
    /// Returns an empty account.
    pub const fn new(limit: u32) -> Self {
        Self {
            pages: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            shared: AtomicU32::new(0),
            claimed: AtomicU32::new(0),
        }
    }

    /// Returns the pages that the domain has (`XENMEM_current_reservation`).
    pub fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Returns the most it may have (`XENMEM_maximum_reservation`).
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets the limit (`XEN_DOMCTL_max_mem`); it may lie below what the domain has.
    pub fn set_limit(&self, pages: u32) {
        self.limit.store(pages, Ordering::Relaxed);
    }

    /// Enters pages, unless they would exceed the limit. Returns whether it did.
    pub fn try_add(&self, pages: u32) -> bool {
        let limit = self.limit();
        self.pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(pages).filter(|sum| *sum <= limit)
            })
            .is_ok()
    }

    /// Returns how many free pages are set aside for the domain.
    pub fn claimed(&self) -> u32 {
        self.claimed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_claimed(&self, pages: u32) {
        self.claimed.store(pages, Ordering::Relaxed);
    }

    /// Returns how many pages of the hypervisor's are shared with the domain.
    pub fn shared(&self) -> u32 {
        self.shared.load(Ordering::SeqCst)
    }

    /// A page of the hypervisor's is shared with the domain.
    pub fn add_shared(&self) {
        self.shared.fetch_add(1, Ordering::SeqCst);
    }

    /// A page that counted here was freed.
    pub fn note_freed(&self, is_xenheap: bool) {
        if is_xenheap {
            let before = self.shared.fetch_sub(1, Ordering::SeqCst);
            debug_assert!(before != 0, "more pages freed than were shared");
        } else {
            self.sub(1);
        }
    }

    /// Adds pages, whatever the limit: what boot gives.
    pub(super) fn add(&self, pages: u32) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Takes pages off.
    pub fn sub(&self, pages: u32) {
        let result = self
            .pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_sub(pages)
            });
        debug_assert!(result.is_ok(), "page account below zero");
    }
}
