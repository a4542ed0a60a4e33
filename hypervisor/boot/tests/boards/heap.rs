//! Counts what the boot code takes from the heap, as the hypervisor's buddy allocator counts: in powers of two.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use xenith_boot::{EARLY_HEAP, heap_pages};

static COUNTS: AtomicBool = AtomicBool::new(false);
static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The most that was used, and by which board: before there is RAM, and in all.
static MOST: Mutex<[(usize, String); 2]> = Mutex::new([(0, String::new()), (0, String::new())]);

struct Counting;

fn block(layout: Layout) -> usize {
    layout.size().max(layout.align()).max(8).next_power_of_two()
}

// SAFETY: Passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Relaxed) {
            let used = USED.fetch_add(block(layout), Relaxed) + block(layout);
            PEAK.fetch_max(used, Relaxed);
        }
        // SAFETY: The caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if COUNTS.load(Relaxed) {
            // What was allocated before counting began is not taken off.
            let _ = USED.try_update(Relaxed, Relaxed, |used| {
                Some(used.saturating_sub(block(layout)))
            });
        }
        // SAFETY: The caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Begins to count.
pub fn start() {
    USED.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    COUNTS.store(true, Relaxed);
}

/// Stops counting; checks the most that was used against what there is, with a quarter for fragmentation.
fn note(phase: usize, name: &str, there_is: usize) {
    COUNTS.store(false, Relaxed);
    let peak = PEAK.load(Relaxed);
    let limit = there_is / 4 * 3;
    assert!(
        peak <= limit,
        "{name}: {peak} bytes of heap are used, {limit} may be"
    );
    let most = &mut MOST.lock().unwrap()[phase];
    if peak > most.0 {
        *most = (peak, name.to_string());
    }
}

/// The end of what must fit the early heap.
pub fn end_of_early(name: &str) {
    note(0, name, EARLY_HEAP);
    COUNTS.store(true, Relaxed);
}

/// The end of counting, for a tree of that many bytes.
pub fn end(name: &str, tree_size: usize) {
    note(1, name, EARLY_HEAP + heap_pages(tree_size) * 4096);
}

/// Prints the most.
pub fn report() {
    let most = MOST.lock().unwrap().clone();
    println!("early heap: {} KiB ({})", most[0].0 / 1024, most[0].1);
    println!("heap: {} KiB ({})", most[1].0 / 1024, most[1].1);
}
