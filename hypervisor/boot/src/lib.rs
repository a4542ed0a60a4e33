//! What runs once: what a boot loader hands over (device tree, command lines, modules, memory), and dom0's device tree.
//!
//! Everything here is pure: it reads the checked device tree and returns plain values; the caller maps and allocates.
//! A crate of its own because it is optimised for size, unlike the hot paths in `xenith-core` (see `[profile.release]`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod cmdline;
pub mod fdt;
pub mod kernel;
pub mod memory;
pub mod modules;
pub mod placement;

/// Inserts `item` where it belongs in a sorted list, behind its equals; `is_before` says whether its first argument may
/// stand before its second.
///
/// Instead of sorting: the lists are short and mostly in order, and each sort of the library costs 4 KiB of code or more.
fn insert_sorted<T>(list: &mut alloc::vec::Vec<T>, item: T, is_before: fn(&T, &T) -> bool) {
    let at = list.partition_point(|other| is_before(other, &item));
    list.insert(at, item);
}
