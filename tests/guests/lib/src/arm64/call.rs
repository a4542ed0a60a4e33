//! Hypercalls (`hvc #0xea1`: number in x16, arguments in x0 to x4) and calls of the firmware.

use core::arch::asm;

/// Makes a hypercall.
///
/// With `REAL` false, a `nop` takes the place of the `hvc`: the code around stays the same, so that its cost can be
/// measured.
///
/// # Safety
/// Structures whose address is passed are valid for what the hypervisor reads and writes, and the call does not take
/// away memory that Rust uses.
#[inline(always)]
pub unsafe fn raw<const REAL: bool>(number: u32, a: [usize; 5]) -> i32 {
    let result: usize;
    // SAFETY: as this function.
    unsafe {
        if REAL {
            asm!("hvc #0xea1", inout("x0") a[0] => result, inout("x1") a[1] => _,
                inout("x2") a[2] => _, inout("x3") a[3] => _, inout("x4") a[4] => _, inout("x16") number as usize => _,
                options(nostack));
        } else {
            asm!("nop", inout("x0") a[0] => result, inout("x1") a[1] => _,
                inout("x2") a[2] => _, inout("x3") a[3] => _, inout("x4") a[4] => _, inout("x16") number as usize => _,
                options(nostack));
        }
    }
    result as i32
}

/// A call of the firmware by `hvc #0`.
#[inline(always)]
pub fn firmware_hvc(function: u32, a: usize, b: usize, c: usize) -> u32 {
    let result: u64;
    // SAFETY: the SMC calling convention keeps x18 and up; memory is not touched.
    unsafe {
        asm!("hvc #0", inout("x0") u64::from(function) => result, inout("x1") a => _,
            inout("x2") b => _, inout("x3") c => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, options(nostack));
    }
    result as u32
}

/// A call of the firmware by `smc #0`.
#[inline(always)]
pub fn firmware_smc(function: u32, a: usize, b: usize, c: usize) -> u32 {
    let result: u64;
    // SAFETY: as `firmware_hvc`.
    unsafe {
        asm!("smc #0", inout("x0") u64::from(function) => result, inout("x1") a => _,
            inout("x2") b => _, inout("x3") c => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _, options(nostack));
    }
    result as u32
}
