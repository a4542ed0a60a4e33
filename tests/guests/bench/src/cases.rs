//! Calls and traps that return at once.

use guest_lib::{gic, hypercall::raw, println};
use xen_abi::hypercall as nr;
use xen_abi::sched::SCHEDOP_YIELD;
use xen_abi::{grant_table as gt, version};

use crate::arch;
use crate::measure::{loop_cost, looped, report_mean};

pub use arch::timed;

/// Measures a hypercall whose arguments are numbers or addresses of structures of ours.
pub fn call(name: &str, count: u32, number: u32, arguments: [usize; 5]) {
    looped(
        name,
        count,
        // SAFETY: as said above.
        || unsafe { raw::<true>(number, arguments) },
        // SAFETY: nothing happens.
        || unsafe { raw::<false>(number, arguments) },
    );
}

/// Instructions of the guest in the time of [`timed`]: the first reading and the call.
pub const TIMED: u32 = 2;

/// The address of a structure, for [`call`].
pub fn at<T>(value: &mut T) -> usize {
    core::ptr::from_mut(value) as usize
}

/// A read of a device. The processor counts no instruction for a load or store that faults, so nothing takes its place.
pub fn load(name: &str, address: usize) {
    looped(name, 256, || arch::load(address), || arch::no_load(address));
}

/// A store to the distributor.
fn gicd_write(name: &str, offset: usize, value: u32) {
    let address = gic::distributor(offset);
    looped(
        name,
        256,
        || arch::store(address, value),
        || arch::no_store(address, value),
    );
}

/// All of this module.
pub fn run() {
    call("null-hypercall", 256, nr::HYPERVISOR_XEN_VERSION, [0; 5]);
    call("invalid-hypercall", 256, 63, [0; 5]);
    let mut text = [0u8; version::EXTRAVERSION_LEN];
    call(
        "extraversion",
        256,
        nr::HYPERVISOR_XEN_VERSION,
        [1, at(&mut text), 0, 0, 0],
    );
    let mut features = version::FeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    call(
        "get-features",
        256,
        nr::HYPERVISOR_XEN_VERSION,
        [6, at(&mut features), 0, 0, 0],
    );
    looped(
        "psci-version-hvc",
        256,
        arch::psci_by_hvc,
        arch::psci_by_nop,
    );
    looped(
        "psci-version-smc",
        256,
        arch::psci_by_smc,
        arch::psci_by_nop,
    );
    load("gicd-typer-read", gic::distributor(gic::GICD_TYPER));
    load("gicd-isenabler-read", gic::distributor(gic::GICD_ISENABLER));
    gicd_write("gicd-isenabler-write", gic::GICD_ISENABLER, 1);
    gicd_write("gicd-icenabler-write", gic::GICD_ICENABLER, 1 << 20);
    gicd_write("gicd-priority-write", gic::GICD_IPRIORITYR + 8, 0xa0a0_a0a0);
    arch::register_reads();
    call(
        "yield",
        32,
        nr::HYPERVISOR_SCHED_OP,
        [SCHEDOP_YIELD as usize, 0, 0, 0, 0],
    );
    let mut calls = [nr::MulticallEntry {
        op: u64::from(nr::HYPERVISOR_XEN_VERSION),
        result: 0,
        args: [0; 6],
    }; 16];
    call(
        "multicall-16",
        8,
        nr::HYPERVISOR_MULTICALL,
        [at(&mut calls), 16, 0, 0, 0],
    );

    let mut size = gt::GnttabQuerySize {
        dom: nr::DOMID_SELF,
        _pad0: 0,
        nr_frames: 0,
        max_nr_frames: 0,
        status: 0,
        _pad1: 0,
    };
    call(
        "grant-query-size",
        128,
        nr::HYPERVISOR_GRANT_TABLE_OP,
        [gt::GNTTABOP_QUERY_SIZE as usize, at(&mut size), 1, 0, 0],
    );
    let mut frames = [0u64; 1];
    let mut setup = gt::GnttabSetupTable {
        dom: nr::DOMID_SELF,
        _pad0: 0,
        nr_frames: 1,
        status: 0,
        _pad1: [0; 6],
        frame_list: at(&mut frames) as u64,
    };
    call(
        "grant-setup-table",
        128,
        nr::HYPERVISOR_GRANT_TABLE_OP,
        [gt::GNTTABOP_SETUP_TABLE as usize, at(&mut setup), 1, 0, 0],
    );

    // What is written starts and ends on lines of its own, whatever the hypervisor does with it.
    let mut line = [b'.'; 64];
    let line = at(&mut line);
    for (name, length) in [("console-1", 1), ("console-64", 64)] {
        let write = [0, length, line, 0, 0];
        // SAFETY: our own bytes are read.
        let real = || unsafe { raw::<true>(nr::HYPERVISOR_CONSOLE_IO, write) };
        // SAFETY: nothing happens.
        let dummy = || unsafe { raw::<false>(nr::HYPERVISOR_CONSOLE_IO, write) };
        let cost = loop_cost(16, real, dummy);
        println!();
        report_mean(name, cost);
    }
}
