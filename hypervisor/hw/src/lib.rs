//! Architecture-neutral code that needs `unsafe`: locks, per-CPU slots, guest-shared pages, MMIO handles, the heap.
#![cfg_attr(not(test), no_std)]
extern crate alloc;
