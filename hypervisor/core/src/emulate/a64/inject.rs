//! The state of an AArch64 guest after an exception given to it (Arm DDI 0487 D1.3, D24.2.37).

use super::pstate;

/// SCTLR_EL1.SPAN: PSTATE.PAN stays as it is on an exception.
const SCTLR_SPAN: u64 = 1 << 23;
/// SPSR: PAN.
const PAN: u32 = 1 << 22;
/// SPSR bits that survive an exception: the condition flags and DIT.
const KEPT: u32 = 0xf000_0000 | 1 << 24;
/// ESR.IL: a 32-bit instruction.
const IL: u64 = 1 << 25;
/// A synchronous external abort.
const EXTERNAL: u64 = 0x10;

/// An exception for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestException {
    /// Undefined instruction at the program counter.
    Undefined,
    /// Nothing answers at the address of an instruction.
    InstructionAbort {
        /// The virtual address.
        address: u64,
    },
    /// Nothing answers at the address of a data access.
    DataAbort {
        /// The virtual address.
        address: u64,
        /// True for a write.
        is_write: bool,
    },
}

/// What the architecture code writes to make the guest take the exception at EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionEntry {
    /// The new program counter.
    pub pc: u64,
    /// The new state.
    pub pstate: u32,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u32,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1 where the exception has an address.
    pub far: Option<u64>,
}

/// Returns the state after `exception`, taken by a guest with AArch64 EL1 that stopped at `pc` (the address of the
/// instruction) in `state`.
pub const fn take_exception(
    sctlr: u64,
    vbar: u64,
    state: u32,
    pc: u64,
    exception: GuestException,
) -> ExceptionEntry {
    let from_user = state & pstate::AARCH32 != 0 || state & 0xc == pstate::MODE_EL0;
    let offset = match state & pstate::MODE_MASK {
        _ if state & pstate::AARCH32 != 0 => 0x600,
        pstate::MODE_EL0 => 0x400,
        pstate::MODE_EL1T => 0,
        _ => 0x200,
    };
    // From the same exception level the class is one more.
    let same = if from_user { 0 } else { 1 };
    let (class, iss, far) = match exception {
        GuestException::Undefined => (0, 0, None),
        GuestException::InstructionAbort { address } => (0x20 | same, EXTERNAL, Some(address)),
        GuestException::DataAbort { address, is_write } => (
            0x24 | same,
            EXTERNAL | (is_write as u64) << 6,
            Some(address),
        ),
    };
    let pan = if sctlr & SCTLR_SPAN == 0 {
        PAN
    } else {
        state & PAN
    };
    ExceptionEntry {
        pc: (vbar & !0x7ff) + offset,
        pstate: state & KEPT | pan | pstate::START,
        elr: pc,
        spsr: state,
        esr: class << 26 | IL | iss,
        far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = SCTLR_SPAN;

    #[test]
    fn undefined_from_each_place() {
        let entry = |state| {
            take_exception(
                SPAN,
                0xffff_8000_0000_0800,
                state,
                0x1234,
                GuestException::Undefined,
            )
        };
        for (state, offset) in [
            (0x0, 0x400),
            (0x4, 0x0),
            (0x5, 0x200),
            (0x10, 0x600),
            (0x3c5, 0x200),
        ] {
            let entry = entry(state);
            assert_eq!(entry.pc, 0xffff_8000_0000_0800 + offset, "{state:#x}");
            assert_eq!((entry.elr, entry.spsr, entry.far), (0x1234, state, None));
            assert_eq!((entry.esr, entry.pstate), (0x0200_0000, 0x3c5));
        }
        // The flags stay, single step and the illegal state do not.
        let entry = entry(0xf030_0005);
        assert_eq!((entry.pstate, entry.spsr), (0xf000_03c5, 0xf030_0005));
    }

    #[test]
    fn aborts_name_their_address() {
        let abort = GuestException::DataAbort {
            address: 0xdead,
            is_write: true,
        };
        let entry = take_exception(SPAN, 0, 0x5, 0x40, abort);
        assert_eq!((entry.esr, entry.far), (0x9600_0050, Some(0xdead)));
        let entry = take_exception(SPAN, 0, 0x0, 0x40, abort);
        assert_eq!(entry.esr, 0x9200_0050);
        let fetch = GuestException::InstructionAbort { address: 0x44 };
        let entry = take_exception(SPAN, 0, 0x5, 0x44, fetch);
        assert_eq!((entry.esr, entry.far), (0x8600_0010, Some(0x44)));
    }

    #[test]
    fn pan_follows_span() {
        let pan = |sctlr, state| {
            take_exception(sctlr, 0, state, 0, GuestException::Undefined).pstate & PAN
        };
        assert_eq!(pan(0, 0), PAN);
        assert_eq!(pan(SPAN, 0), 0);
        assert_eq!(pan(SPAN, PAN), PAN);
    }
}
