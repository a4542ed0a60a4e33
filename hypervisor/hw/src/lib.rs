//! Architecture-neutral code that needs `unsafe`: pages shared with guests, the heap.
//!
//! Interrupts stay masked while the hypervisor runs, so a lock is never taken again by an interrupt on the same CPU.
#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod heap;
pub mod shared_page;
