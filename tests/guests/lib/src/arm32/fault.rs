//! Faults: what start.S calls, and instructions that are expected to fault.
#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "operands are the caller's to vouch for, as in asm!"
)]

use crate::cpu;
use crate::exceptions::{DATA_ABORT, Fault, PREFETCH_ABORT, expected};

/// Instructions from the IRQ vector to the one that takes the time (with [`crate::exceptions::IRQ_DELAY`] 0).
pub const IRQ_PROLOGUE: u32 = 10;
/// Instructions from another vector to the one that takes the time.
pub const FAULT_PROLOGUE: u32 = 4;

/// Registers of the interrupted code, as start.S pushes them.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// r0 to r12.
    pub r: [u32; 13],
    /// Link register of SVC mode.
    pub lr: u32,
    /// Link register of the exception's mode; where execution goes on.
    pub pc: u32,
    /// Saved program status.
    pub psr: u32,
}

/// Executes instructions that may fault, and says whether they did. Operands follow as in `asm!`; the first faulting
/// instruction ends the list.
#[macro_export]
macro_rules! probe {
    ([$($instruction:literal),+] $(, $($operand:tt)+)?) => {{
        // SAFETY: the fault handler only records the fault and goes on at label 77. The caller vouches for the rest.
        unsafe {
            core::arch::asm!(
                "adr r12, 77f",
                "str r12, [r3]",
                $($instruction,)+
                "77:",
                $($($operand)+,)?
                inout("r3") $crate::exceptions::recover_slot() => _,
                out("r12") _,
            );
        }
        $crate::exceptions::take_fault()
    }};
}

/// Reads a word; the fault if that is not possible.
pub fn try_read(address: usize) -> Result<u32, Fault> {
    let mut value = 0u32;
    let fault = crate::probe!(["ldr r4, [r7]"], inout("r4") value, in("r7") address);
    fault.map_or(Ok(value), Err)
}

/// Writes a word; returns the fault if that is not possible.
pub fn try_write(address: usize, value: u32) -> Option<Fault> {
    crate::probe!(["str r4, [r7]"], in("r4") value, in("r7") address)
}

#[unsafe(no_mangle)]
extern "C" fn guest_fault(frame: &mut Frame, kind: u32, time: u64) {
    let (status, address) = match kind {
        DATA_ABORT => (cpu::dfsr(), cpu::dfar()),
        PREFETCH_ABORT => (cpu::ifsr(), frame.pc.wrapping_sub(4)),
        _ => (0, 0),
    };
    let fault = Fault {
        kind,
        status,
        address: address as usize,
        link: frame.pc as usize,
        time,
    };
    frame.pc = expected(fault, frame) as u32;
}
