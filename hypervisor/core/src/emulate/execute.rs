//! Performs an emulated load or store against a device.
//!
//! Two ways in: [`SyndromeAccess`] for an abort with a valid syndrome (the common case, a few instructions), and
//! [`execute`] for a decoded instruction. In both a register is written only after every element succeeded, so after a
//! refused access the guest's registers are as before and an abort can be injected. Elements of a load that were read
//! before one failed have been read: the architecture allows that for LDM and LDRD to devices.
//!
//! All elements must lie in the page that faulted: stage 2 says only where that page is. An instruction that reaches
//! into a second page is refused ([`Unsupported::CrossesPage`]).

use super::decode::{
    Direction, MmioInstruction, Offset, Shift, Transfer, Unsupported, Width, Writeback,
};
use super::regs::{GuestRegs, psr};
use super::syndrome::{self, DataAbort};
use crate::addr::{GuestPhys, PAGE_SIZE};

/// One element on its way to a device. Values are those of the register, not yet of the bus: byte order is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Where, naturally aligned.
    pub address: GuestPhys,
    /// How much.
    pub width: Width,
    /// The value for a write, zero-extended; `None` for a read.
    pub write: Option<u32>,
}

/// What the hardware says of a data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultLocation {
    /// The virtual address (HDFAR).
    pub virt: u32,
    /// The intermediate physical address: HPFAR's page, and the offset of `virt` within it.
    pub phys: GuestPhys,
    /// True for a write (HSR.WnR).
    pub is_write: bool,
}

/// Why an access was not performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecuteError<E> {
    /// The instruction cannot be emulated.
    Unsupported(Unsupported),
    /// The device refused.
    Access(E),
}

impl<E> From<Unsupported> for ExecuteError<E> {
    fn from(reason: Unsupported) -> Self {
        Self::Unsupported(reason)
    }
}

/// An access described by a valid syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyndromeAccess {
    /// The size.
    pub width: Width,
    /// True when a loaded value is sign-extended.
    pub sign_extend: bool,
    /// The field of the transfer register, for [`GuestRegs::transfer`].
    pub register: u8,
    /// Load or store.
    pub direction: Direction,
}

impl SyndromeAccess {
    /// Returns the access, or `None` when the syndrome is not valid (the instruction must be decoded) or names what
    /// cannot be: the reserved size, the program counter.
    #[inline]
    pub const fn from_syndrome(abort: DataAbort) -> Option<Self> {
        if !abort.is_valid() {
            return None;
        }
        let width = match abort.size_log2() {
            0 => Width::Byte,
            1 => Width::Half,
            2 => Width::Word,
            _ => return None,
        };
        let register = abort.register();
        if register & 15 == 15 {
            return None;
        }
        Some(Self {
            width,
            sign_extend: abort.is_sign_extended(),
            register,
            direction: if abort.is_write() {
                Direction::Store
            } else {
                Direction::Load
            },
        })
    }

    /// Returns the value that a store gives the device.
    #[inline]
    pub fn store_value<R: GuestRegs>(&self, regs: &R) -> u32 {
        to_bus(regs.transfer(self.register), self.width, regs.cpsr())
    }

    /// Puts what the device gave into the register of a load.
    #[inline]
    pub fn load_value<R: GuestRegs>(&self, regs: &mut R, value: u32) {
        let value = from_bus(value, self.width, self.sign_extend, regs.cpsr());
        regs.set_transfer(self.register, value);
    }

    /// Performs the access and moves the guest past the instruction. `wide` is HSR.IL.
    ///
    /// # Errors
    /// The device's error, with nothing changed. `Unaligned` is for an address that is not a multiple of the width.
    #[inline]
    pub fn execute<R: GuestRegs, E>(
        &self,
        regs: &mut R,
        phys: GuestPhys,
        wide: bool,
        access: impl FnOnce(MmioAccess) -> Result<u32, E>,
    ) -> Result<(), ExecuteError<E>> {
        if phys.raw() as u32 & (self.width.bytes() - 1) != 0 {
            return Err(Unsupported::Unaligned.into());
        }
        let write = match self.direction {
            Direction::Store => Some(self.store_value(regs)),
            Direction::Load => None,
        };
        let value = access(MmioAccess {
            address: phys,
            width: self.width,
            write,
        })
        .map_err(ExecuteError::Access)?;
        if write.is_none() {
            self.load_value(regs, value);
        }
        syndrome::advance_pc(regs, wide);
        Ok(())
    }
}

/// Truncates a register to its width, and swaps it for a guest with big-endian data accesses.
#[inline]
const fn to_bus(value: u32, width: Width, cpsr: u32) -> u32 {
    let big = cpsr & psr::E != 0;
    match width {
        Width::Byte => value & 0xff,
        Width::Half if big => (value as u16).swap_bytes() as u32,
        Width::Half => value & 0xffff,
        Width::Word if big => value.swap_bytes(),
        Width::Word => value,
    }
}

#[inline]
const fn from_bus(value: u32, width: Width, sign_extend: bool, cpsr: u32) -> u32 {
    let value = to_bus(value, width, cpsr);
    match width {
        Width::Byte if sign_extend => value as u8 as i8 as i32 as u32,
        Width::Half if sign_extend => value as u16 as i16 as i32 as u32,
        Width::Byte | Width::Half | Width::Word => value,
    }
}

/// Performs a decoded load or store, writes its registers and moves the guest past it.
///
/// `access` is called once for each element, lowest address first; for a read it returns the value.
///
/// # Errors
/// [`ExecuteError`]; no register has changed then.
pub fn execute<R: GuestRegs, E>(
    instruction: &MmioInstruction,
    regs: &mut R,
    fault: FaultLocation,
    mut access: impl FnMut(MmioAccess) -> Result<u32, E>,
) -> Result<(), ExecuteError<E>> {
    let cpsr = regs.cpsr();
    let load = instruction.direction == Direction::Load;
    if load == fault.is_write {
        return Err(Unsupported::Mismatch.into());
    }
    let base = if instruction.rn == 15 {
        let ahead = if cpsr & psr::T != 0 { 4 } else { 8 };
        regs.pc().wrapping_add(ahead) & !3
    } else {
        regs.get(instruction.rn)
    };
    let offset = match instruction.offset {
        Offset::Immediate(bytes) => u32::from(bytes),
        Offset::Register(rm, shift) => shifted(regs.get(rm), shift, cpsr),
    };
    let moved = if instruction.add {
        base.wrapping_add(offset)
    } else {
        base.wrapping_sub(offset)
    };
    let start = if instruction.index { moved } else { base };

    let (width, count) = match instruction.transfer {
        Transfer::Single { width, .. } => (width, 1),
        Transfer::Dual { .. } => (Width::Word, 2),
        Transfer::Multiple(list) => (Width::Word, (list & 0x7fff).count_ones()),
    };
    let first = locate(start, width, count, fault)?;
    let element = |index: u32| MmioAccess {
        // At most 15 elements, within the page.
        address: GuestPhys::new(first + u64::from(index * 4)),
        width,
        write: None,
    };

    match instruction.transfer {
        Transfer::Single {
            rt, sign_extend, ..
        } => {
            if load {
                let value = access(element(0)).map_err(ExecuteError::Access)?;
                regs.set(rt, from_bus(value, width, sign_extend, cpsr));
            } else {
                let write = Some(to_bus(regs.get(rt), width, cpsr));
                access(MmioAccess {
                    write,
                    ..element(0)
                })
                .map_err(ExecuteError::Access)?;
            }
        }
        Transfer::Dual { rt, rt2 } => {
            transfer_words(regs, [rt, rt2].into_iter(), load, element, &mut access)?;
        }
        Transfer::Multiple(list) => {
            let registers = (0u8..15).filter(move |register| list >> register & 1 != 0);
            transfer_words(regs, registers, load, element, &mut access)?;
        }
    }

    match instruction.writeback {
        Writeback::None => {}
        Writeback::Offset => regs.set(instruction.rn, moved),
        Writeback::By(bytes) => {
            regs.set(instruction.rn, base.wrapping_add_signed(i32::from(bytes)))
        }
    }
    syndrome::advance_pc(regs, instruction.wide);
    Ok(())
}

/// Returns the guest-physical address of the first element, if all are aligned, in one page, and one is what faulted.
fn locate(start: u32, width: Width, count: u32, fault: FaultLocation) -> Result<u64, Unsupported> {
    const OFFSET_MASK: u32 = PAGE_SIZE as u32 - 1;
    if start & (width.bytes() - 1) != 0 {
        return Err(Unsupported::Unaligned);
    }
    if count == 0 {
        return Err(Unsupported::Unpredictable);
    }
    // The last byte relative to the first: at most 59, so nothing overflows.
    let last = (start & OFFSET_MASK) + count * width.bytes() - 1;
    let same_page = (start ^ fault.virt) & !OFFSET_MASK == 0;
    if last > OFFSET_MASK {
        return Err(Unsupported::CrossesPage);
    }
    let faulted = fault.virt & OFFSET_MASK;
    if !same_page || faulted < start & OFFSET_MASK || faulted > last {
        return Err(Unsupported::Mismatch);
    }
    Ok(fault.phys.raw() & !u64::from(OFFSET_MASK) | u64::from(start & OFFSET_MASK))
}

fn transfer_words<R: GuestRegs, E>(
    regs: &mut R,
    registers: impl Iterator<Item = u8> + Clone,
    load: bool,
    element: impl Fn(u32) -> MmioAccess,
    access: &mut impl FnMut(MmioAccess) -> Result<u32, E>,
) -> Result<(), ExecuteError<E>> {
    let cpsr = regs.cpsr();
    let mut values = [0u32; 15];
    for ((index, register), value) in (0u32..).zip(registers.clone()).zip(&mut values) {
        let write = if load {
            None
        } else {
            Some(to_bus(regs.get(register), Width::Word, cpsr))
        };
        *value = access(MmioAccess {
            write,
            ..element(index)
        })
        .map_err(ExecuteError::Access)?;
    }
    if load {
        for (register, value) in registers.zip(values) {
            regs.set(register, from_bus(value, Width::Word, false, cpsr));
        }
    }
    Ok(())
}

fn shifted(value: u32, shift: Shift, cpsr: u32) -> u32 {
    match shift {
        Shift::Lsl(amount) => value.checked_shl(u32::from(amount)).unwrap_or(0),
        Shift::Lsr(amount) => value.checked_shr(u32::from(amount)).unwrap_or(0),
        Shift::Asr(amount) => ((value as i32) >> u32::from(amount).min(31)) as u32,
        Shift::Ror(amount) => value.rotate_right(u32::from(amount)),
        Shift::Rrx => value >> 1 | (cpsr & psr::C) << 2,
    }
}

#[cfg(test)]
mod tests;
