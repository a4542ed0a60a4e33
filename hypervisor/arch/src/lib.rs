//! What an architecture provides: entry, vectors, system registers, MMU, GIC, context switch.
//!
//! The only place with `cfg(target_arch)` but for the binary's `arch`; on the host the crate is empty, since all logic is in
//! `xenith-core`.
#![no_std]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(all(target_arch = "arm", target_os = "none"))]
#[path = "arm32/mod.rs"]
mod imp;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
#[path = "arm64/mod.rs"]
mod imp;

#[cfg(target_os = "none")]
mod common;

#[cfg(target_os = "none")]
pub use common::{
    boot::{
        Boot, ExitKind, backtrace, early_heap, enter_guest, secondary_entry, secondary_windows,
        set_secondary_stack,
    },
    cache,
    device::{DeviceRegisters, mapped_table},
    gicv2, guest_memory,
    mmu::{self, HypTables, PageWindows},
    timer,
};
#[cfg(target_os = "none")]
pub use imp::*;
