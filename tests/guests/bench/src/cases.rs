//! Calls and traps that return at once.

use core::arch::asm;

use guest_lib::{gic, hypercall::raw, println};
use xen_abi::hypercall as nr;
use xen_abi::sched::SCHEDOP_YIELD;
use xen_abi::{grant_table as gt, smccc, version};

use crate::measure::{loop_cost, looped, report_mean};

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

/// Makes a hypercall: its time in ticks, with [`TIMED`] instructions of our own in it, and its result.
pub fn timed(number: u32, a: [usize; 5]) -> (u32, i32) {
    let (result, start, end): (usize, u32, u32);
    // SAFETY: arguments as for [`call`].
    unsafe {
        asm!(".arch_extension virt", "mrrc p15, 1, r5, r8, c14", "hvc #0xea1", "mrrc p15, 1, r10, r8, c14",
            inout("r0") a[0] => result, inout("r1") a[1] => _, inout("r2") a[2] => _, inout("r3") a[3] => _,
            inout("r4") a[4] => _, inout("r12") number => _, out("r5") start, out("r8") _, out("r10") end);
    }
    (end.wrapping_sub(start), result as i32)
}

/// Instructions of the guest in the time of [`timed`]: the first reading and the call.
pub const TIMED: u32 = 2;

/// The address of a structure, for [`call`].
pub fn at<T>(value: &mut T) -> usize {
    core::ptr::from_mut(value) as usize
}

/// One trapping instruction with one register to read into, and what stands for it in the loop that is subtracted.
macro_rules! trap_read {
    ($name:expr, $instruction:literal, $dummy:literal $(, $address:expr)?) => {
        looped(
            $name,
            256,
            // SAFETY: reads of registers without side effects.
            || unsafe { asm!($instruction, out("r0") _ $(, in("r1") $address)?) },
            // SAFETY: nothing happens.
            || unsafe { asm!($dummy, out("r0") _ $(, in("r1") $address)?) },
        )
    };
}

/// A read of the distributor. The processor counts no instruction for a load or store that faults, so nothing takes
/// its place.
fn gicd_read(name: &str, offset: usize) {
    trap_read!(name, "ldr r0, [r1]", "", gic::distributor(offset));
}

/// A store to the distributor.
fn gicd_write(name: &str, offset: usize, value: u32) {
    let address = gic::distributor(offset);
    looped(
        name,
        256,
        // SAFETY: a register of the distributor.
        || unsafe { asm!("str r0, [r1]", in("r0") value, in("r1") address) },
        // SAFETY: nothing happens.
        || unsafe { asm!("", in("r0") value, in("r1") address) },
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
        || firmware("hvc"),
        || firmware("nop"),
    );
    looped(
        "psci-version-smc",
        256,
        || firmware("smc"),
        || firmware("nop"),
    );
    gicd_read("gicd-typer-read", gic::GICD_TYPER);
    gicd_read("gicd-isenabler-read", gic::GICD_ISENABLER);
    gicd_write("gicd-isenabler-write", gic::GICD_ISENABLER, 1);
    gicd_write("gicd-icenabler-write", gic::GICD_ICENABLER, 1 << 20);
    gicd_write("gicd-priority-write", gic::GICD_IPRIORITYR + 8, 0xa0a0_a0a0);
    trap_read!("actlr-read", "mrc p15, 0, r0, c1, c0, 1", "nop");
    trap_read!("cntp-ctl-read", "mrc p15, 0, r0, c14, c2, 1", "nop");
    trap_read!("pmccntr-read", "mrc p15, 0, r0, c9, c13, 0", "nop");
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

/// PSCI_VERSION by an instruction.
#[inline(always)]
fn firmware(by: &'static str) {
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: PSCI_VERSION has no side effects.
            unsafe {
                asm!(".arch_extension virt", ".arch_extension sec", $instruction,
                    inout("r0") smccc::PSCI_VERSION => _, inout("r1") 0 => _, inout("r2") 0 => _,
                    inout("r3") 0 => _, out("r12") _)
            }
        };
    }
    match by {
        "hvc" => call!("hvc #0"),
        "smc" => call!("smc #0"),
        _ => call!("nop"),
    }
}
