//! Decoder for loads and stores whose data abort has no valid syndrome (ISV=0): A32 and Thumb-2.
//!
//! Covers LDR, STR, LDRB, STRB, LDRH, STRH, LDRSB, LDRSH in all addressing modes (also the unprivileged forms), LDRD and
//! STRD, LDM and STM, PUSH and POP. Refused, each with its reason: exclusives, SWP, coprocessor and SIMD transfers,
//! user-bank LDM and STM, transfers of the program counter, and what the architecture calls UNPREDICTABLE.
//!
//! The instruction is read again from guest memory after the abort, so another vCPU may have changed it: the executor
//! ([`super::execute`]) believes it only if it fits the fault. Section numbers are of ARM DDI 0406C.d.

mod arm;
mod thumb;

pub use arm::decode_arm;
pub use thumb::{decode_thumb16, decode_thumb32};

use super::regs::psr;
use crate::addr::GuestVirt;
use crate::machine::{Fault, GuestMemory};

/// The size of one element of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
}

impl Width {
    /// Returns the number of bytes.
    #[inline]
    pub fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
        }
    }
}

/// The direction of a transfer, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device to a register.
    Load,
    /// From a register to the device.
    Store,
}

/// Why an instruction is not emulated. The guest gets a data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// Not a load or store at all (or one that cannot fault, such as a preload).
    NotLoadStore,
    /// LDREX, STREX and relatives, or a table branch of the same encoding group.
    Exclusive,
    /// SWP or SWPB.
    Swap,
    /// LDC, STC, VLDR, VSTR, VLDM, VSTM, VLD, VST.
    Coprocessor,
    /// LDM or STM of the user bank, or exception return.
    UserBank,
    /// The program counter would be loaded or stored.
    ProgramCounter,
    /// UNPREDICTABLE by the architecture.
    Unpredictable,
    /// An element is not naturally aligned.
    Unaligned,
    /// The elements are not all in the page that faulted.
    CrossesPage,
    /// The instruction does not fit the fault (direction or address): it has been changed since.
    Mismatch,
}

/// How a register offset is shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Logical left by 0 to 31.
    Lsl(u8),
    /// Logical right by 1 to 32.
    Lsr(u8),
    /// Arithmetic right by 1 to 32.
    Asr(u8),
    /// Rotate right by 1 to 31.
    Ror(u8),
    /// Rotate right by one through carry.
    Rrx,
}

/// The offset of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// A number of bytes.
    Immediate(u16),
    /// A shifted register.
    Register(u8, Shift),
}

/// What is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// One element.
    Single {
        /// The register.
        rt: u8,
        /// The size.
        width: Width,
        /// True for LDRSB and LDRSH.
        sign_extend: bool,
    },
    /// Two words.
    Dual {
        /// The register of the first word.
        rt: u8,
        /// The register of the second word.
        rt2: u8,
    },
    /// A word for each register of the list (bits 0 to 14), lowest register at the lowest address.
    Multiple(u16),
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioInstruction {
    /// Load or store.
    pub direction: Direction,
    /// What is transferred.
    pub transfer: Transfer,
    /// The base register; 15 is the program counter (word-aligned, with the pipeline offset).
    pub rn: u8,
    /// The offset. For [`Transfer::Multiple`] the distance of the lowest element, already in bytes.
    pub offset: Offset,
    /// True when the offset is added to the base, false when subtracted.
    pub add: bool,
    /// True when the offset applies to the access (offset and pre-indexed forms), false for post-indexed ones.
    pub index: bool,
    /// The value that the base register moves by, if it is written back.
    pub writeback: Writeback,
    /// True for a 4-byte instruction.
    pub wide: bool,
}

/// What happens to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writeback {
    /// It keeps its value.
    None,
    /// It becomes base plus or minus offset.
    Offset,
    /// It moves by this many bytes (LDM, STM).
    By(i16),
}

/// Returns true when a halfword is the first of a 32-bit Thumb instruction (A6.1).
#[inline]
pub fn is_wide_thumb(halfword: u16) -> bool {
    halfword >> 11 >= 0b11101
}

/// Reads the instruction at `pc` from the guest's memory and decodes it.
///
/// # Errors
/// The outer one when the memory cannot be read (the caller runs the guest again: the page went away); the inner one
/// when the instruction is not emulated.
pub fn fetch<M: GuestMemory + ?Sized>(
    memory: &M,
    pc: u32,
    cpsr: u32,
) -> Result<Result<MmioInstruction, Unsupported>, Fault> {
    // Instructions are little-endian whatever CPSR.E says.
    if cpsr & psr::T == 0 {
        let mut word = [0; 4];
        memory.read(GuestVirt::new(u64::from(pc)), &mut word)?;
        return Ok(decode_arm(u32::from_le_bytes(word)));
    }
    let mut half = [0; 2];
    memory.read(GuestVirt::new(u64::from(pc)), &mut half)?;
    let first = u16::from_le_bytes(half);
    if !is_wide_thumb(first) {
        return Ok(decode_thumb16(first));
    }
    memory.read(GuestVirt::new(u64::from(pc.wrapping_add(2))), &mut half)?;
    Ok(decode_thumb32(first, u16::from_le_bytes(half)))
}

#[inline]
fn bit(word: u32, number: u32) -> bool {
    word >> number & 1 != 0
}

#[inline]
fn field(word: u32, low: u32) -> u8 {
    (word >> low & 15) as u8
}

fn direction(load: bool) -> Direction {
    if load {
        Direction::Load
    } else {
        Direction::Store
    }
}

/// Refuses what single and dual transfers may not do.
fn checked(instruction: MmioInstruction) -> Result<MmioInstruction, Unsupported> {
    let (first, second) = match instruction.transfer {
        Transfer::Single { rt, .. } => (rt, rt),
        Transfer::Dual { rt, rt2 } => (rt, rt2),
        Transfer::Multiple(_) => (0, 0),
    };
    if first == 15 || second == 15 {
        return Err(Unsupported::ProgramCounter);
    }
    let moves = !matches!(instruction.writeback, Writeback::None);
    if moves && (instruction.rn == 15 || instruction.rn == first || instruction.rn == second) {
        return Err(Unsupported::Unpredictable);
    }
    Ok(instruction)
}

struct Multiple {
    load: bool,
    rn: u8,
    list: u16,
    before: bool,
    up: bool,
    writeback: bool,
    wide: bool,
}

/// LDM and STM in all addressing modes (A8.8.58 to A8.8.61, A8.8.199 to A8.8.202).
fn multiple(fields: Multiple) -> Result<MmioInstruction, Unsupported> {
    if fields.list & 1 << 15 != 0 {
        return Err(Unsupported::ProgramCounter);
    }
    let in_list = fields.list >> fields.rn & 1 != 0;
    if fields.list == 0 || fields.rn == 15 || (fields.load && fields.writeback && in_list) {
        return Err(Unsupported::Unpredictable);
    }
    // STM with the base in its list stores the base's old value; where the architecture leaves it UNKNOWN, that is one
    // of the values allowed.
    let bytes = 4 * fields.list.count_ones() as i16;
    let lowest = match (fields.up, fields.before) {
        (true, false) => 0,
        (true, true) => 4,
        (false, true) => -bytes,
        (false, false) => 4 - bytes,
    };
    Ok(MmioInstruction {
        direction: direction(fields.load),
        transfer: Transfer::Multiple(fields.list),
        rn: fields.rn,
        offset: Offset::Immediate(lowest.unsigned_abs()),
        add: lowest >= 0,
        index: true,
        writeback: if !fields.writeback {
            Writeback::None
        } else if fields.up {
            Writeback::By(bytes)
        } else {
            Writeback::By(-bytes)
        },
        wide: fields.wide,
    })
}

#[cfg(test)]
mod tests;
