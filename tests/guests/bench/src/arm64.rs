//! What is measured, in instructions of AArch64. "From now": the counter is read (its low word), by the instruction before.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use guest_lib::exceptions::Fault;
use guest_lib::probe;
use xen_abi::control::{DomctlCreatedomain420, XEN_DOMCTL_INTERFACE_VERSION_4_20};
use xen_abi::event_channel::{EVTCHNOP_SEND, EvtchnSend};
use xen_abi::hypercall as nr;
use xen_abi::sched::SCHEDOP_YIELD;
use xen_abi::smccc;

use crate::measure::looped;

/// What a toolstack of Xen 4.20, which the real Xen of this architecture is, fills in.
pub type Creation = DomctlCreatedomain420;
/// The version of its calls.
pub const DOMCTL_VERSION: u32 = XEN_DOMCTL_INTERFACE_VERSION_4_20;

/// Executes 15 less `skip` (at most 15) instructions that do nothing, and one more.
#[inline(always)]
pub fn skip(skip: u32) {
    // SAFETY: jumps over at most 15 of the 16 instructions that follow.
    unsafe {
        asm!(
            "adr {1}, 2f", "add {1}, {1}, {0}, lsl #2", "br {1}", "2:", ".rept 16", "nop", ".endr",
            in(reg) u64::from(skip), out(reg) _, options(nomem, nostack, preserves_flags)
        );
    }
}

/// Makes a hypercall: its time in ticks, with [`TIMED`] instructions of our own in it, and its result.
pub fn timed(number: u32, a: [usize; 5]) -> (u32, i32) {
    let (result, start, end): (usize, u64, u64);
    // SAFETY: arguments as for `cases::call`.
    unsafe {
        asm!("mrs x5, cntvct_el0", "hvc #0xea1", "mrs x10, cntvct_el0",
            inout("x0") a[0] => result, inout("x1") a[1] => _, inout("x2") a[2] => _, inout("x3") a[3] => _,
            inout("x4") a[4] => _, inout("x16") u64::from(number) => _, out("x5") start, out("x10") end);
    }
    (end.wrapping_sub(start) as u32, result as i32)
}

/// Reads a device's register, whose reads have no side effects.
#[inline(always)]
pub fn load(address: usize) {
    // SAFETY: see above.
    unsafe { asm!("ldr w0, [x1]", out("x0") _, in("x1") address) }
}

/// [`load`] without its instruction.
#[inline(always)]
pub fn no_load(address: usize) {
    // SAFETY: nothing happens.
    unsafe { asm!("", out("x0") _, in("x1") address) }
}

/// Writes a register of the distributor.
#[inline(always)]
pub fn store(address: usize, value: u32) {
    // SAFETY: see above.
    unsafe { asm!("str w0, [x1]", in("x0") value, in("x1") address) }
}

/// [`store`] without its instruction.
#[inline(always)]
pub fn no_store(address: usize, value: u32) {
    // SAFETY: nothing happens.
    unsafe { asm!("", in("x0") value, in("x1") address) }
}

/// Measures reads of system registers that are trapped.
pub fn register_reads() {
    macro_rules! read {
        ($name:literal, $instruction:literal) => {
            looped(
                $name,
                256,
                // SAFETY: reads of registers without side effects.
                || unsafe { asm!($instruction, out("x0") _) },
                // SAFETY: nothing happens.
                || unsafe { asm!("nop", out("x0") _) },
            );
        };
    }
    read!("actlr-read", "mrs x0, actlr_el1");
    read!("cntp-ctl-read", "mrs x0, cntp_ctl_el0");
    read!("pmccntr-read", "mrs x0, pmccntr_el0");
}

macro_rules! psci {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: PSCI_VERSION has no side effects.
            unsafe {
                asm!($instruction, inout("x0") u64::from(smccc::PSCI_VERSION) => _,
                    inout("x1") 0u64 => _, inout("x2") 0u64 => _, inout("x3") 0u64 => _, out("x16") _)
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
    let start: u64;
    // SAFETY: makes interrupts at most.
    unsafe {
        asm!("mrs x5, cntvct_el0", "str w0, [x1]", out("x5") start, in("x0") value, in("x1") address);
    }
    start as u32
}

/// [`store_from_now`], then WFI.
#[inline(always)]
pub fn store_and_sleep(address: usize, value: u32) -> u32 {
    let start: u64;
    // SAFETY: makes interrupts at most, and waits for one.
    unsafe {
        asm!("mrs {0}, cntvct_el0", "str {1:w}, [{2}]", "wfi", out(reg) start, in(reg) value,
            in(reg) address);
    }
    start as u32
}

/// An operation on an event channel from now.
#[inline(always)]
pub fn event_from_now<T>(operation: u32, argument: &T) -> u32 {
    let start: u64;
    // SAFETY: the hypervisor reads our own structure.
    unsafe {
        asm!("mrs x5, cntvct_el0", "hvc #0xea1", out("x5") start,
            inout("x0") u64::from(operation) => _, inout("x1") core::ptr::from_ref(argument) => _, out("x2") _, out("x3") _,
            out("x4") _, inout("x16") u64::from(nr::HYPERVISOR_EVENT_CHANNEL_OP) => _);
    }
    start as u32
}

/// Sends from now by the physical counter, which all domains share, then WFI.
#[inline(always)]
pub fn send_and_sleep(argument: &EvtchnSend) -> u32 {
    let start: u64;
    // SAFETY: sends to the other domain, which sends back; then the sleep ends.
    unsafe {
        asm!("mrs x5, cntpct_el0", "hvc #0xea1", "wfi", out("x5") start,
            inout("x0") u64::from(EVTCHNOP_SEND) => _, inout("x1") core::ptr::from_ref(argument) => _, out("x2") _, out("x3") _,
            out("x4") _, inout("x16") u64::from(nr::HYPERVISOR_EVENT_CHANNEL_OP) => _);
    }
    start as u32
}

/// Gives the CPU away, with floating-point registers in use or not: the counter before, which is also stored, and after.
#[inline(always)]
pub fn yield_from_now(with_fp: bool, left: &AtomicU32) -> (u32, u32) {
    let (start, end): (u64, u64);
    // SAFETY: a hypercall without a structure; no compiled code uses d0, and the store is to our own word.
    unsafe {
        if with_fp {
            asm!(".arch_extension fp", "fmov d0, x4", "mrs x5, cntvct_el0", "str w5, [x10]",
                "hvc #0xea1", "fmov d0, x4", "mrs x9, cntvct_el0", out("x5") start, out("x9") end,
                in("x10") left.as_ptr(), inout("x0") u64::from(SCHEDOP_YIELD) => _, inout("x1") 0u64 => _, out("x2") _, out("x3") _,
                out("x4") _, inout("x16") u64::from(nr::HYPERVISOR_SCHED_OP) => _);
        } else {
            asm!("mrs x5, cntvct_el0", "str w5, [x10]", "hvc #0xea1",
                "mrs x9, cntvct_el0", out("x5") start, out("x9") end, in("x10") left.as_ptr(),
                inout("x0") u64::from(SCHEDOP_YIELD) => _, inout("x1") 0u64 => _, out("x2") _, out("x3") _, out("x4") _,
                inout("x16") u64::from(nr::HYPERVISOR_SCHED_OP) => _);
        }
    }
    (start as u32, end as u32)
}

/// A load that faults, from now.
#[inline(always)]
pub fn fault_from_now(address: usize) -> (u32, Option<Fault>) {
    let start: u64;
    let fault = probe!(["mrs x5, cntvct_el0", "ldr w4, [x7]"], out("x5") start, out("x4") _,
        in("x7") address);
    (start as u32, fault)
}
