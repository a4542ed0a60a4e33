//! The hypervisor binary: the only place that knows everything. It builds the [`machine::Machine`], makes dom0 and runs
//! it.
#![no_std]
#![no_main]
extern crate alloc;

mod boot;
mod console;
mod crash;
mod dom0;
mod keys;
mod machine;
mod power;
mod run;
mod traps;
mod vcpu;

use xenith_hw::heap::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::new();
