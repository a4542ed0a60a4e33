//! All hardware-independent logic of Xenith. No unsafe code, no architecture, compiled and tested on the host.
#![cfg_attr(not(any(test, feature = "fakes")), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod addr;
pub mod console;
pub mod domain;
pub mod emulate;
pub mod errno;
pub mod evtchn;
#[cfg(any(test, feature = "fakes"))]
pub mod fakes;
pub mod fallible;
pub mod frames;
pub mod gnttab;
pub mod hal;
pub mod hypercall;
pub mod hypervisor;
pub mod machine;
pub mod p2m;
pub mod runstate;
pub mod sched;
pub mod stage2;
pub mod sync;
pub mod time;
pub mod trace;
pub mod vcpu;
pub mod vgic;
pub mod vpl011;
pub mod vuart;
