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
