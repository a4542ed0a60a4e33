//! Faults: what start.S calls, and instructions that are expected to fault.
#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "operands are the caller's to vouch for, as in asm!"
)]

use crate::cpu;
use crate::exceptions::{
    DATA_ABORT, Fault, OTHER, PREFETCH_ABORT, SUPERVISOR, UNDEFINED, expected,
};

/// Instructions from the IRQ vector to the one that takes the time (with [`crate::exceptions::IRQ_DELAY`] 0).
pub const IRQ_PROLOGUE: u32 = 22;
/// Instructions from another vector to the one that takes the time.
pub const FAULT_PROLOGUE: u32 = 3;

/// Registers of the interrupted code, as start.S stores them.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL1; where execution goes on.
    pub pc: u64,
    /// SPSR_EL1.
    pub psr: u64,
}

/// Executes instructions that may fault, and says whether they did. Operands follow as in `asm!`; the first faulting
/// instruction ends the list.
#[macro_export]
macro_rules! probe {
    ([$($instruction:literal),+] $(, $($operand:tt)+)?) => {{
        // SAFETY: the fault handler only records the fault and goes on at label 77. The caller vouches for the rest.
        unsafe {
            core::arch::asm!(
                "adr x17, 77f",
                "str x17, [x16]",
                $($instruction,)+
                "77:",
                $($($operand)+,)?
                inout("x16") $crate::exceptions::recover_slot() => _,
                out("x17") _,
            );
        }
        $crate::exceptions::take_fault()
    }};
}

/// Reads a word; the fault if that is not possible.
pub fn try_read(address: usize) -> Result<u32, Fault> {
    let mut value = 0u32;
    let fault = crate::probe!(["ldr w4, [x7]"], inout("w4") value, in("x7") address);
    fault.map_or(Ok(value), Err)
}

/// Writes a word; returns the fault if that is not possible.
pub fn try_write(address: usize, value: u32) -> Option<Fault> {
    crate::probe!(["str w4, [x7]"], in("w4") value, in("x7") address)
}

#[unsafe(no_mangle)]
extern "C" fn guest_fault(frame: &mut Frame, is_serror: u64, time: u64) {
    let status = cpu::esr();
    // ESR_EL1.EC (Arm ARM D24.2.40).
    let kind = match status >> 26 {
        _ if is_serror != 0 => OTHER,
        0x00 => UNDEFINED,
        0x15 => SUPERVISOR,
        0x21 => PREFETCH_ABORT,
        0x25 => DATA_ABORT,
        _ => OTHER,
    };
    let fault = Fault {
        kind,
        status,
        address: cpu::far() as usize,
        link: frame.pc as usize,
        time,
    };
    frame.pc = expected(fault, frame) as u64;
}
