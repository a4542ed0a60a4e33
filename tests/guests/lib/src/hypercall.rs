//! Hypercalls (`hvc #0xea1`: number in r12, arguments in r0 to r4) and calls of the firmware.

use core::arch::asm;

use xen_abi::hypercall as nr;

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

/// A hypercall of the form (sub-operation, structure); structures are padded plain data, so any bytes are valid.
#[inline(always)]
pub fn op<T>(number: u32, sub: u32, argument: &mut T) -> i32 {
    // SAFETY: the structure is ours and plain data (xen-abi). Taking pages away is the business of the callers of
    // memory operations, which only name pages of `pages`.
    unsafe {
        raw::<true>(
            number,
            [
                sub as usize,
                core::ptr::from_mut(argument) as usize,
                1,
                0,
                0,
            ],
        )
    }
}

/// `xen_version` without a structure.
#[inline(always)]
pub fn xen_version(sub: u32) -> i32 {
    // SAFETY: no structure.
    unsafe { raw::<true>(nr::HYPERVISOR_XEN_VERSION, [sub as usize, 0, 0, 0, 0]) }
}

/// `console_io` write.
#[inline(always)]
pub fn console_write(bytes: &[u8]) -> i32 {
    // SAFETY: the hypervisor reads the bytes.
    unsafe {
        raw::<true>(
            nr::HYPERVISOR_CONSOLE_IO,
            [0, bytes.len(), bytes.as_ptr() as usize, 0, 0],
        )
    }
}

/// `event_channel_op`.
#[inline(always)]
pub fn event_channel<T>(sub: u32, argument: &mut T) -> i32 {
    op(nr::HYPERVISOR_EVENT_CHANNEL_OP, sub, argument)
}

/// A call of the firmware by `hvc #0`.
#[inline(always)]
pub fn firmware_hvc(function: u32, a: u32, b: u32, c: u32) -> u32 {
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
pub fn firmware_smc(function: u32, a: u32, b: u32, c: u32) -> u32 {
    let result;
    // SAFETY: as `firmware_hvc`.
    unsafe {
        asm!(".arch_extension sec", "smc #0", inout("r0") function => result, inout("r1") a => _,
            inout("r2") b => _, inout("r3") c => _, out("r12") _, options(nostack));
    }
    result
}
