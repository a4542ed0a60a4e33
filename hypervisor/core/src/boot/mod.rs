//! What a boot loader hands over: command lines, modules, memory.
//!
//! Everything here is pure: it reads the checked device tree and returns plain values; the caller maps and allocates.

pub mod cmdline;
pub mod kernel;
pub mod memory;
pub mod modules;
pub mod placement;
