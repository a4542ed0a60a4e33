//! The physmap and stage 2.

use guest_lib::exceptions::FAULT_PROLOGUE;
use guest_lib::memory::Page;
use guest_lib::{Platform, hypercall, println};
use xen_abi::control::{Sysctl, XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_PHYSINFO};
use xen_abi::hypercall as nr;
use xen_abi::memory::*;

use crate::arch;
use crate::cases::{TIMED, at, timed};
use crate::measure::{instructions_per_tick, sampled, sampled_pair};

const PAGES: usize = 64;
/// Pages that are given away and taken back. Nothing is ever kept in them.
static POOL: [Page; PAGES] = [const { Page::new() }; PAGES];

/// Prints how many pages the machine has and how many the hypervisor took, where it tells.
pub fn reservation() {
    let mut control = Sysctl {
        cmd: XEN_SYSCTL_PHYSINFO,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: [0; 128],
    };
    // SAFETY: our own structure.
    let r = unsafe {
        hypercall::raw::<true>(
            nr::HYPERVISOR_SYSCTL,
            [core::ptr::from_mut(&mut control) as usize, 0, 0, 0, 0],
        )
    };
    let pages = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| control.u[at + i]));
    if r == 0 {
        println!("bench: physinfo-total-pages: {}", pages(40));
        println!("bench: physinfo-free-pages: {}", pages(48));
    } else {
        println!("bench: physinfo: {r}");
    }
}

fn add(space: u32, idx: u64, frame: u64) -> (u32, i32) {
    let mut add = AddToPhysmap {
        domid: nr::DOMID_SELF,
        size: 0,
        space,
        idx,
        gpfn: frame,
    };
    timed(
        nr::HYPERVISOR_MEMORY_OP,
        [XENMEM_ADD_TO_PHYSMAP as usize, at(&mut add), 0, 0, 0],
    )
}

fn remove(frame: u64) -> (u32, i32) {
    let mut remove = RemoveFromPhysmap {
        domid: nr::DOMID_SELF,
        _pad: [0; 6],
        gpfn: frame,
    };
    timed(
        nr::HYPERVISOR_MEMORY_OP,
        [
            XENMEM_REMOVE_FROM_PHYSMAP as usize,
            at(&mut remove),
            0,
            0,
            0,
        ],
    )
}

fn change(op: u32, frames: &[u64]) -> (u32, i32) {
    let mut list = MemoryReservation {
        extent_start: frames.as_ptr() as usize as u64,
        nr_extents: frames.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: nr::DOMID_SELF,
        _pad: [0; 6],
    };
    timed(
        nr::HYPERVISOR_MEMORY_OP,
        [op as usize, at(&mut list), 0, 0, 0],
    )
}

/// All of this module.
pub fn run(platform: &Platform) {
    let frames: [u64; PAGES] = core::array::from_fn(|i| POOL[i].frame());
    // The first change breaks up superpages; that is not what is measured.
    let first = (
        change(XENMEM_DECREASE_RESERVATION, &frames).1,
        change(XENMEM_POPULATE_PHYSMAP, &frames).1,
    );
    if first != (PAGES as i32, PAGES as i32) {
        println!("bench: decrease and populate of {PAGES} pages: {first:?}");
    } else {
        let mut failed = 0;
        let mut pair = |pages: &[u64]| {
            let decrease = change(XENMEM_DECREASE_RESERVATION, pages);
            let populate = change(XENMEM_POPULATE_PHYSMAP, pages);
            failed +=
                u32::from((decrease.1, populate.1) != (pages.len() as i32, pages.len() as i32));
            (decrease.0, populate.0)
        };
        sampled_pair(["decrease-1", "populate-1"], TIMED, |i| {
            pair(&frames[i % PAGES..i % PAGES + 1])
        });
        let mut least = (u32::MAX, u32::MAX);
        for _ in 0..8 {
            let (decrease, populate) = pair(&frames);
            least = (least.0.min(decrease), least.1.min(populate));
        }
        println!("bench: decrease-64: {}", least.0 * instructions_per_tick());
        println!("bench: populate-64: {}", least.1 * instructions_per_tick());
        if failed != 0 {
            println!("bench: decrease or populate failed {failed} times");
        }
    }

    // A grant table frame in the grant window, put there and taken away again.
    let window = platform.grant_window.0 >> 12;
    let mut failed = 0;
    sampled_pair(["add-to-physmap", "remove-from-physmap"], TIMED, |_| {
        let (put, taken) = (add(XENMAPSPACE_GRANT_TABLE, 0, window), remove(window));
        failed += u32::from((put.1, taken.1) != (0, 0));
        (put.0, taken.0)
    });
    if failed != 0 {
        println!("bench: add_to_physmap or remove_from_physmap failed {failed} times");
    }

    // Nothing is at this address on the machines we know, but devices are near, so that translation goes down to pages:
    // the hypervisor gives us the abort.
    sampled("stage2-fault-to-handler", 1 + FAULT_PROLOGUE, |_| {
        let (start, fault) = arch::fault_from_now(0x901_1000);
        fault.map_or(0, |f| (f.time as u32).wrapping_sub(start))
    });
}
