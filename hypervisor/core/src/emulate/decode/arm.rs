//! A32 loads and stores (ARM DDI 0406C.d A5.2 to A5.5, A5.7).

use super::{
    Direction, MmioInstruction, Multiple, Offset, Shift, Transfer, Unsupported, Width, Writeback,
};
use super::{bit, checked, direction, field, multiple};

/// Decodes an A32 instruction (A5.3 to A5.5).
///
/// # Errors
/// When it is not emulated.
pub fn decode_arm(word: u32) -> Result<MmioInstruction, Unsupported> {
    if word >> 28 == 15 {
        // PLD, SRS, RFE, Advanced SIMD element transfers, LDC2.
        return Err(match word >> 24 & 15 {
            4 if !bit(word, 20) => Unsupported::Coprocessor,
            0xc | 0xd => Unsupported::Coprocessor,
            8 | 9 => Unsupported::UserBank,
            _ => Unsupported::NotLoadStore,
        });
    }
    match word >> 25 & 7 {
        0b000 => arm_extra(word),
        0b010 => arm_word_byte(word, Offset::Immediate((word & 0xfff) as u16)),
        0b011 if !bit(word, 4) => {
            if field(word, 0) == 15 {
                return Err(Unsupported::Unpredictable);
            }
            let shift = immediate_shift(word >> 5, word >> 7);
            arm_word_byte(word, Offset::Register(field(word, 0), shift))
        }
        0b100 => {
            if bit(word, 22) {
                return Err(Unsupported::UserBank);
            }
            multiple(Multiple {
                load: bit(word, 20),
                rn: field(word, 16),
                list: word as u16,
                before: bit(word, 24),
                up: bit(word, 23),
                writeback: bit(word, 21),
                wide: true,
            })
        }
        0b110 => Err(Unsupported::Coprocessor),
        _ => Err(Unsupported::NotLoadStore),
    }
}

/// LDR, STR, LDRB, STRB and their unprivileged forms (A5.3).
fn arm_word_byte(word: u32, offset: Offset) -> Result<MmioInstruction, Unsupported> {
    let width = if bit(word, 22) {
        Width::Byte
    } else {
        Width::Word
    };
    let transfer = Transfer::Single {
        rt: field(word, 12),
        width,
        sign_extend: false,
    };
    arm_indexed(word, direction(bit(word, 20)), transfer, offset)
}

/// Halfword, signed and dual transfers; SWP and exclusives share their space (A5.2.8 to A5.2.10).
fn arm_extra(word: u32) -> Result<MmioInstruction, Unsupported> {
    if !bit(word, 7) || !bit(word, 4) {
        return Err(Unsupported::NotLoadStore);
    }
    let kind = word >> 5 & 3;
    if kind == 0 {
        return Err(match word >> 23 & 3 {
            2 => Unsupported::Swap,
            3 => Unsupported::Exclusive,
            _ => Unsupported::NotLoadStore,
        });
    }
    let rm = field(word, 0);
    let offset = if bit(word, 22) {
        Offset::Immediate((word >> 4 & 0xf0 | word & 0xf) as u16)
    } else if rm == 15 {
        return Err(Unsupported::Unpredictable);
    } else {
        Offset::Register(rm, Shift::Lsl(0))
    };
    let rt = field(word, 12);
    if !bit(word, 20) && kind != 1 {
        // LDRD (kind 2) and STRD (kind 3): an even register and its successor.
        let load = kind == 2;
        let unprivileged_form = !bit(word, 24) && bit(word, 21);
        if rt & 1 != 0 || rt == 14 || unprivileged_form {
            return Err(Unsupported::Unpredictable);
        }
        if let Offset::Register(rm, _) = offset
            && load
            && rm & !1 == rt
        {
            return Err(Unsupported::Unpredictable);
        }
        return arm_indexed(
            word,
            direction(load),
            Transfer::Dual { rt, rt2: rt + 1 },
            offset,
        );
    }
    let transfer = Transfer::Single {
        rt,
        width: if kind == 2 { Width::Byte } else { Width::Half },
        sign_extend: kind != 1,
    };
    arm_indexed(word, direction(bit(word, 20)), transfer, offset)
}

/// Applies the P, U and W bits of A32. P=0 is post-indexed; with W=1 it is the unprivileged form, which does the same.
fn arm_indexed(
    word: u32,
    direction: Direction,
    transfer: Transfer,
    offset: Offset,
) -> Result<MmioInstruction, Unsupported> {
    let index = bit(word, 24);
    checked(MmioInstruction {
        direction,
        transfer,
        rn: field(word, 16),
        offset,
        add: bit(word, 23),
        index,
        writeback: if !index || bit(word, 21) {
            Writeback::Offset
        } else {
            Writeback::None
        },
        wide: true,
    })
}

/// The shift of a register offset (A8.4.3, DecodeImmShift).
fn immediate_shift(kind: u32, amount: u32) -> Shift {
    let amount = (amount & 31) as u8;
    let right = if amount == 0 { 32 } else { amount };
    match kind & 3 {
        0 => Shift::Lsl(amount),
        1 => Shift::Lsr(right),
        2 => Shift::Asr(right),
        _ if amount == 0 => Shift::Rrx,
        _ => Shift::Ror(amount),
    }
}
