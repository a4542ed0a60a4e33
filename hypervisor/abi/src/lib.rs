//! Xen's public interface: numbers and `#[repr(C)]` structures, no logic.
//!
//! One module for each public header. Constants keep Xen's names in capitals (`EVTCHNOP_send` is `EVTCHNOP_SEND`);
//! structures drop the underscores (`evtchn_send` is `EvtchnSend`), fields keep theirs. Guest handles are `u64`. A
//! structure has the same layout on arm32 and arm64; its padding is a field, so that it can be copied in and out as
//! bytes. `tests/layout.rs` compares all of it with numbers taken from Xen's headers, `tests/abi/check-headers` with
//! the headers themselves.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod control;
pub mod event_channel;
pub mod grant_table;
pub mod guest;
pub mod hvm;
pub mod hypercall;
pub mod hypfs;
pub mod memory;
pub mod misc;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod shared_info;
pub mod smccc;
pub mod vcpu;
pub mod version;
