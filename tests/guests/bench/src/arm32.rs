//! What is measured, in instructions of AArch32. "From now": the counter is read (its low word), by the instruction before.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use guest_lib::exceptions::Fault;
use guest_lib::probe;
use xen_abi::control::{DomctlCreatedomain, XEN_DOMCTL_INTERFACE_VERSION};
use xen_abi::event_channel::{EVTCHNOP_SEND, EvtchnSend};
use xen_abi::hypercall as nr;
use xen_abi::sched::SCHEDOP_YIELD;
use xen_abi::smccc;

use crate::measure::looped;

/// What a toolstack of Xen 4.17, which the real Xen of this architecture is, fills in.
pub type Creation = DomctlCreatedomain;
/// The version of its calls.
pub const DOMCTL_VERSION: u32 = XEN_DOMCTL_INTERFACE_VERSION;

/// Executes 15 less `skip` (at most 15) instructions that do nothing, and one more.
#[inline(always)]
pub fn skip(skip: u32) {
    // SAFETY: jumps over at most 15 of the 16 instructions that follow.
    unsafe {
        asm!(
            "add pc, pc, {0}, lsl #2", "nop", ".rept 16", "nop", ".endr",
            in(reg) skip, options(nomem, nostack, preserves_flags)
        );
    }
}

/// Makes a hypercall: its time in ticks, with [`TIMED`] instructions of our own in it, and its result.
pub fn timed(number: u32, a: [usize; 5]) -> (u32, i32) {
    let (result, start, end): (usize, u32, u32);
    // SAFETY: arguments as for `cases::call`.
    unsafe {
        asm!(".arch_extension virt", "mrrc p15, 1, r5, r8, c14", "hvc #0xea1", "mrrc p15, 1, r10, r8, c14",
            inout("r0") a[0] => result, inout("r1") a[1] => _, inout("r2") a[2] => _, inout("r3") a[3] => _,
            inout("r4") a[4] => _, inout("r12") number => _, out("r5") start, out("r8") _, out("r10") end);
    }
    (end.wrapping_sub(start), result as i32)
}

/// Reads a device's register, whose reads have no side effects.
#[inline(always)]
pub fn load(address: usize) {
    // SAFETY: see above.
    unsafe { asm!("ldr r0, [r1]", out("r0") _, in("r1") address) }
}

/// [`load`] without its instruction.
#[inline(always)]
pub fn no_load(address: usize) {
    // SAFETY: nothing happens.
    unsafe { asm!("", out("r0") _, in("r1") address) }
}

/// Writes a register of the distributor.
#[inline(always)]
pub fn store(address: usize, value: u32) {
    // SAFETY: see above.
    unsafe { asm!("str r0, [r1]", in("r0") value, in("r1") address) }
}

/// [`store`] without its instruction.
#[inline(always)]
pub fn no_store(address: usize, value: u32) {
    // SAFETY: nothing happens.
    unsafe { asm!("", in("r0") value, in("r1") address) }
}

/// Measures reads of system registers that are trapped.
pub fn register_reads() {
    macro_rules! read {
        ($name:literal, $instruction:literal) => {
            looped(
                $name,
                256,
                // SAFETY: reads of registers without side effects.
                || unsafe { asm!($instruction, out("r0") _) },
                // SAFETY: nothing happens.
                || unsafe { asm!("nop", out("r0") _) },
            );
        };
    }
    read!("actlr-read", "mrc p15, 0, r0, c1, c0, 1");
    read!("cntp-ctl-read", "mrc p15, 0, r0, c14, c2, 1");
    read!("pmccntr-read", "mrc p15, 0, r0, c9, c13, 0");
}

macro_rules! psci {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: PSCI_VERSION has no side effects.
            unsafe {
                asm!(".arch_extension virt", ".arch_extension sec", $instruction, inout("r0") smccc::PSCI_VERSION => _,
                    inout("r1") 0 => _, inout("r2") 0 => _, inout("r3") 0 => _, out("r12") _)
            }
        }
    };
}

psci!(
    /// PSCI_VERSION.
    psci_by_hvc, "hvc #0");
psci!(
    /// PSCI_VERSION.
    psci_by_smc, "smc #0");
psci!(
    /// What stands for the call in the loop that is subtracted.
    psci_by_nop, "nop");

/// Writes a register of the distributor from now.
#[inline(always)]
pub fn store_from_now(address: usize, value: u32) -> u32 {
    let start;
    // SAFETY: makes interrupts at most.
    unsafe {
        asm!("mrrc p15, 1, r5, r8, c14", "str r0, [r1]", out("r5") start, out("r8") _, in("r0") value, in("r1") address);
    }
    start
}

/// [`store_from_now`], then WFI.
#[inline(always)]
pub fn store_and_sleep(address: usize, value: u32) -> u32 {
    let start;
    // SAFETY: makes interrupts at most, and waits for one.
    unsafe {
        asm!("mrrc p15, 1, {0}, {1}, c14", "str {2}, [{3}]", "wfi", out(reg) start, out(reg) _, in(reg) value,
            in(reg) address);
    }
    start
}

/// An operation on an event channel from now.
#[inline(always)]
pub fn event_from_now<T>(operation: u32, argument: &T) -> u32 {
    let start;
    // SAFETY: the hypervisor reads our own structure.
    unsafe {
        asm!(".arch_extension virt", "mrrc p15, 1, r5, r8, c14", "hvc #0xea1", out("r5") start, out("r8") _,
            inout("r0") operation => _, inout("r1") core::ptr::from_ref(argument) => _, out("r2") _, out("r3") _,
            out("r4") _, inout("r12") nr::HYPERVISOR_EVENT_CHANNEL_OP => _);
    }
    start
}

/// Sends from now by the physical counter, which all domains share, then WFI.
#[inline(always)]
pub fn send_and_sleep(argument: &EvtchnSend) -> u32 {
    let start;
    // SAFETY: sends to the other domain, which sends back; then the sleep ends.
    unsafe {
        asm!(".arch_extension virt", "mrrc p15, 0, r5, r8, c14", "hvc #0xea1", "wfi", out("r5") start, out("r8") _,
            inout("r0") EVTCHNOP_SEND => _, inout("r1") core::ptr::from_ref(argument) => _, out("r2") _, out("r3") _,
            out("r4") _, inout("r12") nr::HYPERVISOR_EVENT_CHANNEL_OP => _);
    }
    start
}

/// Gives the CPU away, with floating-point registers in use or not: the counter before, which is also stored, and after.
#[inline(always)]
pub fn yield_from_now(with_fp: bool, left: &AtomicU32) -> (u32, u32) {
    let (start, end);
    // SAFETY: a hypercall without a structure; no compiled code uses d0, and the store is to our own word.
    unsafe {
        if with_fp {
            asm!(".arch_extension virt", ".fpu neon", "vmov d0, r4, r5", "mrrc p15, 1, r5, r8, c14", "str r5, [r10]",
                "hvc #0xea1", "vmov d0, r4, r5", "mrrc p15, 1, r9, r8, c14", out("r5") start, out("r8") _, out("r9") end,
                in("r10") left.as_ptr(), inout("r0") SCHEDOP_YIELD => _, inout("r1") 0 => _, out("r2") _, out("r3") _,
                out("r4") _, inout("r12") nr::HYPERVISOR_SCHED_OP => _);
        } else {
            asm!(".arch_extension virt", "mrrc p15, 1, r5, r8, c14", "str r5, [r10]", "hvc #0xea1",
                "mrrc p15, 1, r9, r8, c14", out("r5") start, out("r8") _, out("r9") end, in("r10") left.as_ptr(),
                inout("r0") SCHEDOP_YIELD => _, inout("r1") 0 => _, out("r2") _, out("r3") _, out("r4") _,
                inout("r12") nr::HYPERVISOR_SCHED_OP => _);
        }
    }
    (start, end)
}

/// A load that faults, from now.
#[inline(always)]
pub fn fault_from_now(address: usize) -> (u32, Option<Fault>) {
    let start;
    let fault = probe!(["mrrc p15, 1, r5, r8, c14", "ldr r4, [r7]"], out("r5") start, out("r8") _, out("r4") _,
        in("r7") address);
    (start, fault)
}
