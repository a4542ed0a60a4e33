//! What an architecture provides: entry, vectors, system registers, MMU, GIC, context switch.
//!
//! The only place with `cfg(target_arch)`; on the host the crate is empty, since all logic is in `xenith-core`.
#![no_std]

#[cfg(all(target_arch = "arm", target_os = "none"))]
extern crate alloc;

#[cfg(all(target_arch = "arm", target_os = "none"))]
mod arm32;
#[cfg(all(target_arch = "arm", target_os = "none"))]
pub use arm32::*;
