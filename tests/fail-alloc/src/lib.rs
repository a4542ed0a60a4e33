//! For tests: the system's allocator, which fails on a thread that says so. Whoever depends on this crate gets it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Failing;

thread_local! {
    /// How many allocations succeed before all fail.
    static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

fn may_allocate() -> bool {
    match LEFT.get() {
        u32::MAX => true,
        0 => false,
        left => {
            LEFT.set(left - 1);
            true
        }
    }
}

// SAFETY: The system's allocator, or no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !may_allocate() {
            return std::ptr::null_mut();
        }
        // SAFETY: By the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: By the caller's contract; what was given out is the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `body` with memory for `count` allocations of this thread.
pub fn after<R>(count: u32, body: impl FnOnce() -> R) -> R {
    let before = LEFT.replace(count);
    let result = body();
    LEFT.set(before);
    result
}

/// Runs `body` with memory, within [`after`]: for the fakes that a test needs.
pub fn never<R>(body: impl FnOnce() -> R) -> R {
    after(u32::MAX, body)
}
