//! Thumb loads and stores (ARM DDI 0406C.d A6.2, A6.3).

use super::{MmioInstruction, Multiple, Offset, Shift, Transfer, Unsupported, Width, Writeback};
use super::{bit, checked, direction, field, multiple};

/// Decodes a 16-bit Thumb instruction (A6.2.4 to A6.2.6).
///
/// # Errors
/// When it is not emulated.
pub fn decode_thumb16(half: u16) -> Result<MmioInstruction, Unsupported> {
    let word = u32::from(half);
    let low = (word & 7) as u8;
    let middle = (word >> 3 & 7) as u8;
    let high = (word >> 8 & 7) as u8;
    let imm5 = half >> 6 & 31;
    let imm8 = half & 0xff;
    let load = bit(word, 11);
    let (load, rt, width, sign_extend, rn, offset) = match half >> 12 {
        // LDR (literal); the other half of this space is data processing.
        0b0100 if load => (
            true,
            high,
            Width::Word,
            false,
            15,
            Offset::Immediate(imm8 * 4),
        ),
        0b0101 => {
            let (load, width, sign_extend) = match half >> 9 & 7 {
                0 => (false, Width::Word, false),
                1 => (false, Width::Half, false),
                2 => (false, Width::Byte, false),
                3 => (true, Width::Byte, true),
                4 => (true, Width::Word, false),
                5 => (true, Width::Half, false),
                6 => (true, Width::Byte, false),
                _ => (true, Width::Half, true),
            };
            let rm = (word >> 6 & 7) as u8;
            (
                load,
                low,
                width,
                sign_extend,
                middle,
                Offset::Register(rm, Shift::Lsl(0)),
            )
        }
        0b0110 => (
            load,
            low,
            Width::Word,
            false,
            middle,
            Offset::Immediate(imm5 * 4),
        ),
        0b0111 => (
            load,
            low,
            Width::Byte,
            false,
            middle,
            Offset::Immediate(imm5),
        ),
        0b1000 => (
            load,
            low,
            Width::Half,
            false,
            middle,
            Offset::Immediate(imm5 * 2),
        ),
        0b1001 => (
            load,
            high,
            Width::Word,
            false,
            13,
            Offset::Immediate(imm8 * 4),
        ),
        0b1011 if half & 0x0600 == 0x0400 => {
            // PUSH stores lr, POP loads the program counter by the same bit.
            let extra = half >> 8 & 1;
            return multiple(Multiple {
                load,
                rn: 13,
                list: imm8 | if load { extra << 15 } else { extra << 14 },
                before: !load,
                up: load,
                writeback: true,
                wide: false,
            });
        }
        0b1100 => {
            return multiple(Multiple {
                load,
                rn: high,
                list: imm8,
                before: false,
                up: true,
                // LDM writes back when the base is not loaded, STM always.
                writeback: !load || imm8 >> high & 1 == 0,
                wide: false,
            });
        }
        _ => return Err(Unsupported::NotLoadStore),
    };
    Ok(MmioInstruction {
        direction: direction(load),
        transfer: Transfer::Single {
            rt,
            width,
            sign_extend,
        },
        rn,
        offset,
        add: true,
        index: true,
        writeback: Writeback::None,
        wide: false,
    })
}

/// Decodes a 32-bit Thumb instruction from its two halfwords (A6.3.5 to A6.3.10).
///
/// # Errors
/// When it is not emulated.
pub fn decode_thumb32(first: u16, second: u16) -> Result<MmioInstruction, Unsupported> {
    let word = u32::from(first) << 16 | u32::from(second);
    match first >> 9 {
        0b111_0100 if bit(word, 22) => thumb_dual(word),
        0b111_0100 => thumb_multiple(word),
        0b111_0110 | 0b111_1110 => Err(Unsupported::Coprocessor),
        0b111_1100 => thumb_single(word),
        _ => Err(Unsupported::NotLoadStore),
    }
}

/// LDM, STM, PUSH.W and POP.W; SRS and RFE share their space.
fn thumb_multiple(word: u32) -> Result<MmioInstruction, Unsupported> {
    let before = bit(word, 24);
    let up = bit(word, 23);
    if before == up {
        return Err(Unsupported::UserBank);
    }
    let list = word as u16;
    let writeback = bit(word, 21);
    let rn = field(word, 16);
    // sp in the list, a list of one, and a base that is stored and written back are UNPREDICTABLE here.
    if list & 1 << 13 != 0 || list.count_ones() < 2 || writeback && list >> rn & 1 != 0 {
        return Err(Unsupported::Unpredictable);
    }
    multiple(Multiple {
        load: bit(word, 20),
        rn,
        list,
        before,
        up,
        writeback,
        wide: true,
    })
}

/// LDRD and STRD; exclusives and table branches share their space.
fn thumb_dual(word: u32) -> Result<MmioInstruction, Unsupported> {
    let index = bit(word, 24);
    let writeback = bit(word, 21);
    if !index && !writeback {
        return Err(Unsupported::Exclusive);
    }
    let load = bit(word, 20);
    let (rn, rt, rt2) = (field(word, 16), field(word, 12), field(word, 8));
    if rt == 13 || rt2 == 13 || load && rt == rt2 || !load && rn == 15 {
        return Err(Unsupported::Unpredictable);
    }
    checked(MmioInstruction {
        direction: direction(load),
        transfer: Transfer::Dual { rt, rt2 },
        rn,
        offset: Offset::Immediate(second_imm8(word) * 4),
        add: bit(word, 23),
        index,
        writeback: if writeback {
            Writeback::Offset
        } else {
            Writeback::None
        },
        wide: true,
    })
}

fn second_imm8(word: u32) -> u16 {
    (word & 0xff) as u16
}

/// Single loads and stores.
fn thumb_single(word: u32) -> Result<MmioInstruction, Unsupported> {
    let sign_extend = bit(word, 24);
    let load = bit(word, 20);
    if sign_extend && !load {
        // VLD and VST of elements and structures.
        return Err(Unsupported::Coprocessor);
    }
    let width = match word >> 21 & 3 {
        0 => Width::Byte,
        1 => Width::Half,
        2 if !sign_extend => Width::Word,
        _ => return Err(Unsupported::NotLoadStore),
    };
    let (rn, rt) = (field(word, 16), field(word, 12));
    if rt == 15 && width != Width::Word {
        // Preload hints.
        return Err(Unsupported::NotLoadStore);
    }
    let mut instruction = MmioInstruction {
        direction: direction(load),
        transfer: Transfer::Single {
            rt,
            width,
            sign_extend,
        },
        rn,
        offset: Offset::Immediate((word & 0xfff) as u16),
        add: true,
        index: true,
        writeback: Writeback::None,
        wide: true,
    };
    if rn == 15 {
        if !load {
            return Err(Unsupported::NotLoadStore);
        }
        instruction.add = bit(word, 23);
    } else if bit(word, 23) {
        // A positive 12-bit immediate: as filled in.
    } else if bit(word, 11) {
        let (index, up, writeback) = (bit(word, 10), bit(word, 9), bit(word, 8));
        if !index && !writeback {
            return Err(Unsupported::NotLoadStore);
        }
        // P=1 U=1 W=0 is the unprivileged form: an offset without writeback.
        instruction.offset = Offset::Immediate(second_imm8(word));
        instruction.add = up;
        instruction.index = index;
        if writeback {
            instruction.writeback = Writeback::Offset;
        }
    } else {
        let rm = field(word, 0);
        if word >> 6 & 0x1f != 0 {
            return Err(Unsupported::NotLoadStore);
        }
        if rm == 13 || rm == 15 {
            return Err(Unsupported::Unpredictable);
        }
        instruction.offset = Offset::Register(rm, Shift::Lsl((word >> 4 & 3) as u8));
    }
    if rt == 13 && width != Width::Word {
        return Err(Unsupported::Unpredictable);
    }
    checked(instruction)
}
