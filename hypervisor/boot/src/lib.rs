//! What runs once: what a boot loader hands over (device tree, command lines, modules, memory), and dom0's device tree.
//!
//! Everything here is pure: it reads the checked device tree and returns plain values; the caller maps and allocates.
//! A crate of its own because it is optimised for size, unlike the hot paths in `xenith-core` (see `[profile.release]`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod cmdline;
pub mod dom0less;
pub mod fdt;
pub mod kernel;
pub mod memory;
pub mod modules;
pub mod placement;

/// Heap from the image's own memory, in bytes, as the linker script has it: enough to read the device tree of any board that the test of all boards
/// knows, counted in the powers of two that the allocator gives.
pub const EARLY_HEAP: usize = 400 * 1024;

/// Returns how many pages of RAM the heap gets besides, for a device tree of `tree_size` bytes: dom0's tree is made in it.
/// None for a small one, since the early heap has room for that too; what is missing later the heap asks for.
pub const fn heap_pages(tree_size: usize) -> usize {
    if tree_size <= SMALL_TREE {
        0
    } else {
        64 + tree_size.div_ceil(4096) * 8
    }
}

/// A device tree, in bytes, that the early heap has room for several times.
const SMALL_TREE: usize = 32 * 1024;

/// Inserts `item` where it belongs in a sorted list, behind its equals; `is_before` says whether its first argument may
/// stand before its second.
///
/// Instead of sorting: the lists are short and mostly in order, and each sort of the library costs 4 KiB of code or more.
fn insert_sorted<T>(list: &mut alloc::vec::Vec<T>, item: T, is_before: fn(&T, &T) -> bool) {
    let at = list.partition_point(|other| is_before(other, &item));
    list.insert(at, item);
}

#[cfg(test)]
mod heap_tests {
    #[test]
    fn the_linker_script_has_the_early_heap() {
        let script = include_str!("../../src/linker-arm32.ld");
        let line = format!(". += {}K;", super::EARLY_HEAP / 1024);
        assert!(script.contains(&line), "no {line:?} in the linker script");
    }
}
