//! Xen's public interface: numbers and `#[repr(C)]` structures, no logic.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
