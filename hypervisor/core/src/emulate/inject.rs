//! The state of a guest after an exception given to it (ARM DDI 0406C.d B1.8, B1.9, B3.13).
//!
//! Differences from Xen 4.17, all on the side of the architecture: LR_abt is +4 for a prefetch and +8 for a data abort
//! in both instruction sets; the fault status is that of the real cause.

use super::regs::psr;

/// SCTLR.V: vectors at 0xffff0000.
const SCTLR_V: u32 = 1 << 13;
/// SCTLR.EE: CPSR.E on exception entry.
const SCTLR_EE: u32 = 1 << 25;
/// SCTLR.TE: exceptions are taken in Thumb state.
const SCTLR_TE: u32 = 1 << 30;
/// TTBCR.EAE: long-descriptor tables and fault status.
const TTBCR_EAE: u32 = 1 << 31;

/// The system registers of the guest that decide how an exception is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionControl {
    /// SCTLR.
    pub sctlr: u32,
    /// VBAR.
    pub vbar: u32,
    /// TTBCR.
    pub ttbcr: u32,
}

/// The cause that a fault status register gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// A synchronous external abort: nothing answers at this address.
    External,
    /// A translation fault at a lookup level (1 to 3; short descriptors know section and page).
    Translation {
        /// The level; values outside 1 to 3 are taken as the nearest.
        level: u8,
    },
    /// An alignment fault.
    Alignment,
    /// A debug event.
    Debug,
}

/// An exception for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestException {
    /// Undefined instruction at the program counter.
    Undefined,
    /// The fetch at the program counter failed.
    PrefetchAbort {
        /// The virtual address that faulted, for IFAR.
        address: u32,
        /// The cause.
        cause: FaultCause,
    },
    /// A data access of the instruction at the program counter failed.
    DataAbort {
        /// The virtual address that faulted, for DFAR.
        address: u32,
        /// The cause.
        cause: FaultCause,
        /// True for a write.
        is_write: bool,
    },
}

/// Fault registers to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultRegisters {
    /// None.
    None,
    /// Write IFSR and IFAR.
    Instruction {
        /// IFSR.
        ifsr: u32,
        /// IFAR.
        ifar: u32,
    },
    /// Write DFSR and DFAR.
    Data {
        /// DFSR.
        dfsr: u32,
        /// DFAR.
        dfar: u32,
    },
}

/// What the architecture code writes to make the guest take the exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionEntry {
    /// The new program counter.
    pub pc: u32,
    /// The new CPSR; its mode names the bank of `lr` and `spsr` (abort or undefined).
    pub cpsr: u32,
    /// LR_abt or LR_und.
    pub lr: u32,
    /// SPSR_abt or SPSR_und.
    pub spsr: u32,
    /// Fault status and address.
    pub fault: FaultRegisters,
}

/// Returns the state after `exception`, taken by a guest that stopped at `pc` (the address of the instruction) with
/// `cpsr`.
pub const fn take_exception(
    control: &ExceptionControl,
    cpsr: u32,
    pc: u32,
    exception: GuestException,
) -> ExceptionEntry {
    let eae = control.ttbcr & TTBCR_EAE != 0;
    let (mode, offset, return_offset, masks, fault) = match exception {
        GuestException::Undefined => {
            let after = if cpsr & psr::T != 0 { 2 } else { 4 };
            (psr::MODE_UND, 0x04, after, psr::I, FaultRegisters::None)
        }
        GuestException::PrefetchAbort { address, cause } => (
            psr::MODE_ABT,
            0x0c,
            4,
            psr::I | psr::A,
            FaultRegisters::Instruction {
                ifsr: fault_status(cause, eae),
                ifar: address,
            },
        ),
        GuestException::DataAbort {
            address,
            cause,
            is_write,
        } => (
            psr::MODE_ABT,
            0x10,
            8,
            psr::I | psr::A,
            FaultRegisters::Data {
                dfsr: fault_status(cause, eae) | (is_write as u32) << 11,
                dfar: address,
            },
        ),
    };
    let base = if control.sctlr & SCTLR_V != 0 {
        0xffff_0000
    } else {
        control.vbar & !0x1f
    };
    let mut new_cpsr =
        cpsr & !(psr::MODE_MASK | psr::T | psr::E | psr::J | psr::IT_MASK) | mode | masks;
    if control.sctlr & SCTLR_TE != 0 {
        new_cpsr |= psr::T;
    }
    if control.sctlr & SCTLR_EE != 0 {
        new_cpsr |= psr::E;
    }
    ExceptionEntry {
        // VBAR is 32-byte aligned, so the offset never carries.
        pc: base | offset,
        cpsr: new_cpsr,
        lr: pc.wrapping_add(return_offset),
        spsr: cpsr,
        fault,
    }
}

/// Returns DFSR or IFSR for a cause, in the long-descriptor format (`eae`) or the short one
/// (ARM DDI 0406C.d Tables B3-23 and B3-24).
const fn fault_status(cause: FaultCause, eae: bool) -> u32 {
    if eae {
        let status = match cause {
            FaultCause::External => 0x10,
            FaultCause::Translation { level } => {
                0x04 | match level {
                    0 | 1 => 1,
                    2 => 2,
                    _ => 3,
                }
            }
            FaultCause::Alignment => 0x21,
            FaultCause::Debug => 0x22,
        };
        1 << 9 | status
    } else {
        match cause {
            FaultCause::External => 0x08,
            FaultCause::Translation { level: 0 | 1 } => 0x05,
            FaultCause::Translation { .. } => 0x07,
            FaultCause::Alignment => 0x01,
            FaultCause::Debug => 0x02,
        }
    }
}

#[cfg(test)]
mod tests;
