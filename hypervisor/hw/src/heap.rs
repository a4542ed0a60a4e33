//! The heap: `buddy_system_allocator` behind a lock, grown by ranges that others map.
//!
//! Only the hypervisor's own objects live here, made when a domain is made or grows; no hot path allocates. An
//! allocation never makes the heap grow, as locks may be held: it leaves a request, which the run loop looks at where no
//! lock is held. Meanwhile what a guest causes ends in ENOMEM.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_system_allocator::Heap;

use xenith_core::sync::SpinLock;

/// Orders up to 2^23 bytes are enough: the largest object is a table of some hundred KiB.
const ORDERS: usize = 24;

/// Free bytes below which the heap asks to grow.
const LOW_BYTES: usize = 64 * 1024;
/// Bytes by which it asks to grow at least.
const GROW_BYTES: usize = 256 * 1024;
/// Largest block that it asks for when an allocation failed.
const MAX_GROW_BYTES: usize = 4 << 20;

/// Sizes of which a block is kept.
const KEPT: usize = 2;

/// The heap, and what is kept of it.
struct Inner {
    heap: Heap<ORDERS>,
    /// Blocks for allocations of just this size and alignment, when there is nothing else. One that is given back fills the
    /// place again before the heap gets any.
    kept: [Option<Kept>; KEPT],
}

struct Kept {
    layout: Layout,
    block: Option<NonNull<u8>>,
}

// SAFETY: A block is nobody's but the heap's while it is kept.
unsafe impl Send for Kept {}

impl Inner {
    fn kept(&mut self, layout: Layout) -> Option<&mut Kept> {
        self.kept
            .iter_mut()
            .flatten()
            .find(|kept| kept.layout == layout)
    }
}

/// The global allocator's type.
pub struct LockedHeap {
    heap: SpinLock<Inner>,
    /// The largest block that was wanted and not there, or 1 when the heap became low; 0 when all is well.
    request: AtomicUsize,
}

impl LockedHeap {
    /// Makes an empty heap.
    pub const fn new() -> Self {
        Self {
            heap: SpinLock::new(Inner {
                heap: Heap::new(),
                kept: [const { None }; KEPT],
            }),
            request: AtomicUsize::new(0),
        }
    }

    /// Gives the heap the bytes from `start` to `start + len`.
    ///
    /// # Safety
    /// The range is mapped read-write, unused by anything else, and stays so for ever.
    pub unsafe fn add(&self, start: usize, len: usize) {
        // SAFETY: By the contract.
        unsafe { self.heap.lock().heap.add_to_heap(start, start + len) };
    }

    /// Keeps a block of each of these layouts from now on: an allocation of just that layout succeeds after one has failed
    /// to find any other, or right after one was given back. Called once.
    pub fn reserve(&self, layouts: &[Layout]) {
        let mut inner = self.heap.lock();
        for (index, &layout) in layouts.iter().take(KEPT).enumerate() {
            let block = inner.heap.alloc(layout).ok();
            inner.kept[index] = Some(Kept { layout, block });
        }
    }

    /// Returns the bytes given, the bytes in use (rounded up to block sizes).
    pub fn usage(&self) -> (usize, usize) {
        let heap = &self.heap.lock().heap;
        (heap.stats_total_bytes(), heap.stats_alloc_actual())
    }

    /// Returns whether the heap asks to grow: then [`Self::take_request`] says by how much.
    #[inline(always)]
    pub fn has_request(&self) -> bool {
        self.request.load(Ordering::Relaxed) != 0
    }

    /// Takes the request to grow: the bytes to add, a power of two; aligned to their number they hold the block that was
    /// wanted. `None` when there is enough by now.
    pub fn take_request(&self) -> Option<usize> {
        let block = self.request.swap(0, Ordering::Relaxed);
        let (total, used) = self.usage();
        if block <= 1 && (block == 0 || total - used >= LOW_BYTES) {
            return None;
        }
        Some(block.clamp(GROW_BYTES, MAX_GROW_BYTES).next_power_of_two())
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
        let mut inner = self.heap.lock();
        let heap = &mut inner.heap;
        let block = heap.alloc(layout);
        if block.is_err() {
            let size = layout.size().max(layout.align());
            self.request.fetch_max(size, Ordering::Relaxed);
            let kept = inner.kept(layout).and_then(|kept| kept.block.take());
            return kept.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        } else if heap.stats_total_bytes() - heap.stats_alloc_actual() < LOW_BYTES {
            self.request.fetch_max(1, Ordering::Relaxed);
        }
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(ptr) else {
            return;
        };
        let mut inner = self.heap.lock();
        match inner.kept(layout) {
            Some(kept) if kept.block.is_none() => kept.block = Some(block),
            // SAFETY: By `GlobalAlloc`'s contract the block came from `alloc` with this layout.
            _ => unsafe { inner.heap.dealloc(block, layout) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Memory([AtomicUsize; WORDS]);
    const WORDS: usize = (2 << 20) / size_of::<usize>();

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "buddy_system_allocator makes pointers of integers, of which Miri says more than the result"
    )]
    fn asks_to_grow_when_low_and_for_what_failed() {
        static MEMORY: Memory = Memory([const { AtomicUsize::new(0) }; WORDS]);
        let start = (MEMORY.0.as_ptr() as usize).next_multiple_of(512 * 1024);
        let heap = LockedHeap::new();
        assert_eq!(heap.take_request(), None);
        // SAFETY: (all in this test) The static is nothing but this heap's; blocks are not used, and given back once.
        unsafe {
            heap.add(start, 256 * 1024);
            let first = heap.alloc(layout(128 * 1024));
            assert!(!first.is_null() && !heap.has_request());
            let second = heap.alloc(layout(129 * 1024));
            assert!(second.is_null(), "no block of 256 KiB is left");
            assert!(heap.has_request());
            assert_eq!(heap.take_request(), Some(256 * 1024));
            assert!(!heap.has_request());
            let second = heap.alloc(layout(64 * 1024));
            assert!(!heap.has_request());
            let third = heap.alloc(layout(8));
            assert!(!third.is_null() && heap.has_request());
            // Enough came back before anybody looked.
            heap.dealloc(second, layout(64 * 1024));
            assert_eq!(heap.take_request(), None);
            assert!(heap.alloc(layout(300 * 1024)).is_null());
            assert_eq!(heap.take_request(), Some(512 * 1024));
            heap.add(start + 512 * 1024, 512 * 1024);
            assert!(!heap.alloc(layout(300 * 1024)).is_null());
            // A request beyond all bounds is not one to fulfil.
            assert!(heap.alloc(layout(1 << 30)).is_null());
            assert_eq!(heap.take_request(), Some(MAX_GROW_BYTES));
            heap.dealloc(first, layout(128 * 1024));
            heap.dealloc(third, layout(8));
        }
        assert_eq!(heap.usage(), (768 * 1024, 512 * 1024));
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "buddy_system_allocator makes pointers of integers, of which Miri says more than the result"
    )]
    fn keeps_a_block_for_what_must_not_fail() {
        static MEMORY: Memory = Memory([const { AtomicUsize::new(0) }; WORDS]);
        let start = (MEMORY.0.as_ptr() as usize).next_multiple_of(64 * 1024);
        let heap = LockedHeap::new();
        let kept = Layout::from_size_align(1600, 64).unwrap();
        // SAFETY: As above.
        unsafe {
            heap.add(start, 64 * 1024);
            heap.reserve(&[kept]);
            let mut all = Vec::new();
            while let block @ 1.. = heap.alloc(layout(1024)) as usize {
                all.push(block);
            }
            // Whoever looks for room finds it, gives it back, and finds it again, whatever others do between.
            for _ in 0..3 {
                let probe = heap.alloc(kept);
                assert!(!probe.is_null() && heap.alloc(kept).is_null());
                heap.dealloc(probe, kept);
                assert!(heap.alloc(layout(1600)).is_null());
            }
            let first = heap.alloc(kept);
            // Nothing is left: the next one is told so.
            assert!(heap.alloc(kept).is_null());
            for block in all {
                heap.dealloc(block as *mut u8, layout(1024));
            }
            let second = heap.alloc(kept);
            assert!(!second.is_null());
            heap.dealloc(first, kept);
            heap.dealloc(second, kept);
        }
        assert_eq!(heap.usage(), (64 * 1024, 2048));
    }
}
