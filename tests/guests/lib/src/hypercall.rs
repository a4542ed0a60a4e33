//! Hypercalls and calls of the firmware.

use xen_abi::hypercall as nr;

pub use crate::arch::call::{firmware_hvc, firmware_smc, raw};

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
