//! The decoder against a real assembler, and against every possible halfword and many words.

use super::Direction::{Load, Store};
use super::Offset::{Immediate, Register};
use super::Shift::{Asr, Lsl, Lsr, Ror, Rrx};
use super::Unsupported::*;
use super::Width::{Byte, Half, Word};
use super::Writeback::{By, None, Offset};
use super::*;

type Case = (u32, &'static str, Result<MmioInstruction, Unsupported>);

const UP: bool = true;
const DOWN: bool = false;
const INDEX: bool = true;
const POST: bool = false;
const WIDE: bool = true;
const NARROW: bool = false;
const SIGNED: bool = true;
const PLAIN: bool = false;

#[expect(
    clippy::too_many_arguments,
    reason = "one line for each case of the table"
)]
const fn ok(
    direction: Direction,
    transfer: Transfer,
    rn: u8,
    offset: super::Offset,
    add: bool,
    index: bool,
    writeback: Writeback,
    wide: bool,
) -> Result<MmioInstruction, Unsupported> {
    Ok(MmioInstruction {
        direction,
        transfer,
        rn,
        offset,
        add,
        index,
        writeback,
        wide,
    })
}
const fn no(reason: Unsupported) -> Result<MmioInstruction, Unsupported> {
    Err(reason)
}
const fn one(rt: u8, width: Width, sign_extend: bool) -> Transfer {
    Transfer::Single {
        rt,
        width,
        sign_extend,
    }
}
const fn two(rt: u8, rt2: u8) -> Transfer {
    Transfer::Dual { rt, rt2 }
}
const fn many(list: u16) -> Transfer {
    Transfer::Multiple(list)
}
const fn imm(bytes: u16) -> super::Offset {
    Immediate(bytes)
}
const fn reg(rm: u8, shift: Shift) -> super::Offset {
    Register(rm, shift)
}

include!("encodings.rs");

fn decode_thumb(word: u32) -> Result<MmioInstruction, Unsupported> {
    if word >> 16 == 0 {
        decode_thumb16(word as u16)
    } else {
        decode_thumb32((word >> 16) as u16, word as u16)
    }
}

#[test]
fn arm_encodings_of_the_assembler() {
    for &(word, text, expected) in ARM {
        assert_eq!(decode_arm(word), expected, "{word:#010x} {text}");
        // The condition does not matter to the decoder, but for the space of unconditional instructions.
        if word >> 28 == 14 {
            assert_eq!(
                decode_arm(word & 0x0fff_ffff | 0x1000_0000),
                expected,
                "{word:#010x} {text} (ne)"
            );
        }
    }
}

#[test]
fn thumb_encodings_of_the_assembler() {
    for &(word, text, expected) in THUMB {
        assert_eq!(
            is_wide_thumb((word >> 16) as u16),
            word >> 16 != 0,
            "{text}"
        );
        assert_eq!(decode_thumb(word), expected, "{word:#010x} {text}");
    }
}

#[test]
fn unpredictable_forms_are_refused() {
    // Encodings that the assembler refuses or warns of.
    for word in [
        0xe5b0_0004, // ldr r0, [r0, #4]!
        0xe5bf_0004, // ldr r0, [pc, #4]!
        0xe791_000f, // ldr r0, [r1, pc]
        0xe1c1_10d0, // ldrd r1, r2, [r1]: odd register
        0xe1c1_e0d0, // ldrd lr, pc, [r1]
        0xe181_20d3, // ldrd r2, r3, [r1, r3]
        0xe0e1_20d8, // ldrd with P=0 W=1
        0xe8b1_0003, // ldm r1!, {r0, r1}
        0xe891_0000, // ldm r1, {}
        0xe89f_0001, // ldm pc, {r0}
    ] {
        assert_eq!(decode_arm(word), Err(Unpredictable), "{word:#010x}");
    }
    for word in [
        0xc800,      // ldm r0, {}
        0xb400,      // push {}
        0xf850_0f04, // ldr r0, [r0, #4]!
        0xf851_000d, // ldr r0, [r1, sp]
        0xf891_d000, // ldrb sp, [r1]
        0xe8b1_0003, // ldm r1!, {r0, r1}
        0xe891_0001, // ldm r1, {r0}
        0xe891_2001, // ldm r1, {r0, sp}
        0xe9d1_2200, // ldrd r2, r2, [r1]
    ] {
        assert_eq!(decode_thumb(word), Err(Unpredictable), "{word:#010x}");
    }
    assert_eq!(
        decode_thumb(0xf841_0800),
        Err(NotLoadStore),
        "P=0 W=0 is UNDEFINED"
    );
    assert_eq!(
        decode_thumb(0xf84f_0004),
        Err(NotLoadStore),
        "a store to a literal is UNDEFINED"
    );
}

/// What every decoded instruction keeps, whatever it was decoded from.
fn check_invariants(word: u32, instruction: &MmioInstruction) {
    let written = match instruction.transfer {
        Transfer::Single {
            rt,
            sign_extend,
            width,
        } => {
            assert!(rt < 15, "{word:#010x}");
            assert!(
                !sign_extend || (instruction.direction == Load && width != Word),
                "{word:#010x}"
            );
            1u32 << rt
        }
        Transfer::Dual { rt, rt2 } => {
            assert!(rt < 15 && rt2 < 15, "{word:#010x}");
            1 << rt | 1 << rt2
        }
        Transfer::Multiple(list) => {
            assert!(list != 0 && list & 0x8000 == 0, "{word:#010x}");
            u32::from(list)
        }
    };
    assert!(instruction.rn <= 15);
    if instruction.writeback != None {
        assert!(instruction.rn < 15, "{word:#010x}");
        if instruction.direction == Load {
            assert_eq!(
                written >> instruction.rn & 1,
                0,
                "{word:#010x}: load over a written-back base"
            );
        }
    }
    if let Register(rm, _) = instruction.offset {
        assert!(rm < 15, "{word:#010x}");
    }
    if !instruction.index {
        assert_eq!(instruction.writeback, Offset, "{word:#010x}");
    }
}

#[test]
fn every_thumb_halfword() {
    let mut loads = 0;
    for half in 0..=u16::MAX {
        if let Ok(instruction) = decode_thumb16(half) {
            assert!(
                !is_wide_thumb(half),
                "{half:#06x} is the first half of a 32-bit instruction"
            );
            assert!(!instruction.wide);
            check_invariants(u32::from(half), &instruction);
            loads += 1;
        }
        // All first halfwords, with second ones that reach every sub-form.
        for second in [
            0,
            0x0fff,
            0x0c04,
            0x0d04,
            0x0e04,
            0x5678,
            0xffff,
            0x2001,
            half,
            half.rotate_left(5),
        ] {
            if let Ok(instruction) = decode_thumb32(half, second) {
                assert!(is_wide_thumb(half) && instruction.wide);
                check_invariants(u32::from(half) << 16 | u32::from(second), &instruction);
            }
        }
    }
    assert!(loads > 0x4000, "{loads}");
}

#[test]
fn random_words() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..300_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = (state >> 16) as u32;
        if let Ok(instruction) = decode_arm(word) {
            check_invariants(word, &instruction);
            assert!(instruction.wide);
        }
        let _ = decode_thumb32((word >> 16) as u16 | 0xe800, word as u16)
            .inspect(|i| check_invariants(word, i));
    }
}

/// Memory that holds code at one address and faults elsewhere.
struct Code(u64, &'static [u8]);

impl GuestMemory for Code {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        let start =
            usize::try_from(from.raw().checked_sub(self.0).ok_or(Fault)?).map_err(|_| Fault)?;
        buf.copy_from_slice(self.1.get(start..start + buf.len()).ok_or(Fault)?);
        Ok(())
    }
    fn write(&self, _: GuestVirt, _: &[u8]) -> Result<(), Fault> {
        Err(Fault)
    }
}

#[test]
fn fetch_reads_as_much_as_the_instruction_has() {
    let arm = Code(0x8000, &[0x01, 0x00, 0xbb, 0xe5]);
    assert_eq!(fetch(&arm, 0x8000, 0x13), Ok(decode_arm(0xe5bb_0001)));
    assert_eq!(fetch(&arm, 0x8004, 0x13), Err(Fault));
    // str r0, [r1]: two bytes, and nothing behind them.
    let narrow = Code(0x8000, &[0x08, 0x60]);
    assert_eq!(
        fetch(&narrow, 0x8000, psr::T | 0x13),
        Ok(decode_thumb16(0x6008))
    );
    let half_of_wide = Code(0x8000, &[0x51, 0xf8]);
    assert_eq!(fetch(&half_of_wide, 0x8000, psr::T | 0x13), Err(Fault));
    let wide = Code(0xffff_fffc, &[0x51, 0xf8, 0x04, 0x0b]);
    assert_eq!(
        fetch(&wide, 0xffff_fffc, psr::T | 0x13),
        Ok(decode_thumb32(0xf851, 0x0b04))
    );
}
