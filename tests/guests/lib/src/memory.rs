//! Pages to share with the hypervisor, and the mapping of memory.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

pub use crate::arch::translation::map_normal;

/// Words of a page.
pub const WORDS: usize = 1024;

/// A page whose words change behind Rust's back.
#[repr(C, align(4096))]
pub struct Page(pub [AtomicU32; WORDS]);

impl Page {
    /// An empty page.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    /// The word at a byte offset.
    #[inline(always)]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        &self.0[offset / 4]
    }

    /// Guest frame number.
    pub fn frame(&self) -> u64 {
        physical(core::ptr::from_ref(self) as usize) as u64 >> 12
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

static DELTA: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn set_delta(delta: usize) {
    DELTA.store(delta, Relaxed);
}

/// The physical address of one of the image's virtual addresses.
pub fn physical(address: usize) -> usize {
    address.wrapping_add(DELTA.load(Relaxed))
}
