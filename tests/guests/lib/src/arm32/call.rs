//! Hypercalls (`hvc #0xea1`: number in r12, arguments in r0 to r4) and calls of the firmware.

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
            asm!(".arch_extension virt", "hvc #0xea1", inout("r0") a[0] => result, inout("r1") a[1] => _,
                inout("r2") a[2] => _, inout("r3") a[3] => _, inout("r4") a[4] => _, inout("r12") number => _,
                options(nostack));
        } else {
            asm!(".arch_extension virt", "nop", inout("r0") a[0] => result, inout("r1") a[1] => _,
                inout("r2") a[2] => _, inout("r3") a[3] => _, inout("r4") a[4] => _, inout("r12") number => _,
                options(nostack));
        }
    }
    result as i32
}

/// A call of the firmware by `hvc #0`.
#[inline(always)]
pub fn firmware_hvc(function: u32, a: usize, b: usize, c: usize) -> u32 {
    let result;
    // SAFETY: the SMC calling convention keeps r4 and up; memory is not touched.
    unsafe {
        asm!(".arch_extension virt", "hvc #0", inout("r0") function => result, inout("r1") a => _,
            inout("r2") b => _, inout("r3") c => _, out("r12") _, options(nostack));
    }
    result
}

/// A call of the firmware by `smc #0`.
#[inline(always)]
pub fn firmware_smc(function: u32, a: usize, b: usize, c: usize) -> u32 {
    let result;
    // SAFETY: as `firmware_hvc`.
    unsafe {
        asm!(".arch_extension sec", "smc #0", inout("r0") function => result, inout("r1") a => _,
            inout("r2") b => _, inout("r3") c => _, out("r12") _, options(nostack));
    }
    result
}
