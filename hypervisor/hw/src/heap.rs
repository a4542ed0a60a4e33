//! The heap: `buddy_system_allocator` behind a lock, grown by ranges that the boot code maps.
//!
//! Only the hypervisor's own objects live here, made when a domain is made or grows; no hot path allocates.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use buddy_system_allocator::Heap;

use xenith_core::sync::SpinLock;

/// Orders up to 2^23 bytes are enough: the largest object is a table of some hundred KiB.
const ORDERS: usize = 24;

/// The global allocator's type.
pub struct LockedHeap(SpinLock<Heap<ORDERS>>);

impl LockedHeap {
    /// Makes an empty heap.
    pub const fn new() -> Self {
        Self(SpinLock::new(Heap::new()))
    }

    /// Gives the heap the bytes from `start` to `start + len`.
    ///
    /// # Safety
    /// The range is mapped read-write, unused by anything else, and stays so for ever.
    pub unsafe fn add(&self, start: usize, len: usize) {
        // SAFETY: By the contract.
        unsafe { self.0.lock().add_to_heap(start, start + len) };
    }

    /// Returns the bytes given, the bytes in use (rounded up to block sizes).
    pub fn usage(&self) -> (usize, usize) {
        let heap = self.0.lock();
        (heap.stats_total_bytes(), heap.stats_alloc_actual())
    }
}

impl Default for LockedHeap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `Heap` hands out disjoint blocks that satisfy the layout; the lock excludes others.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .alloc(layout)
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(ptr) {
            // SAFETY: By `GlobalAlloc`'s contract the block came from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(block, layout) };
        }
    }
}
