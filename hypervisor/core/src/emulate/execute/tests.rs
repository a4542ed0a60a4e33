use super::super::decode::{decode_arm, decode_thumb16, decode_thumb32};
use super::super::regs::FakeRegs;
use super::*;

const VIRT: u32 = 0xf000_1000;
const PHYS: u64 = 0x12_0800_0000;

/// A device page of bytes with a log.
struct Device {
    bytes: Vec<u8>,
    log: Vec<MmioAccess>,
    fail_at: Option<usize>,
}

impl Device {
    fn new() -> Self {
        Self {
            bytes: (0..4096u32).map(|i| (i * 7 + 0x83) as u8).collect(),
            log: Vec::new(),
            fail_at: None,
        }
    }
    fn access(&mut self, access: MmioAccess) -> Result<u32, &'static str> {
        if self.fail_at == Some(self.log.len()) {
            return Err("device");
        }
        self.log.push(access);
        let offset = access.address.raw() - PHYS;
        assert!(offset < 4096, "outside the page that faulted");
        let bytes = access.width.bytes() as usize;
        assert_eq!(offset as usize % bytes, 0);
        let slot = &mut self.bytes[offset as usize..offset as usize + bytes];
        if let Some(value) = access.write {
            assert!(
                bytes == 4 || value >> (8 * bytes) == 0,
                "value wider than the access"
            );
            slot.copy_from_slice(&value.to_le_bytes()[..bytes]);
            return Ok(0xdead_beef);
        }
        // Rubbish above the width must not reach the guest.
        let mut value = [0xa5; 4];
        value[..bytes].copy_from_slice(slot);
        Ok(u32::from_le_bytes(value))
    }
    fn word(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes[offset..offset + 4].try_into().unwrap())
    }
}

fn regs() -> FakeRegs {
    let mut regs = FakeRegs {
        pc: 0x8000,
        cpsr: psr::MODE_SVC,
        ..FakeRegs::default()
    };
    for (i, r) in regs.r.iter_mut().enumerate() {
        *r = 0x1111_1111 * i as u32;
    }
    regs
}

fn at(offset: u32, is_write: bool) -> FaultLocation {
    FaultLocation {
        virt: VIRT + offset,
        phys: GuestPhys::new(PHYS + u64::from(offset)),
        is_write,
    }
}

fn run(
    instruction: MmioInstruction,
    regs: &mut FakeRegs,
    device: &mut Device,
    fault: FaultLocation,
) -> Result<(), ExecuteError<&'static str>> {
    execute(&instruction, regs, fault, |access| device.access(access))
}

#[test]
fn loads_extend_and_truncate() {
    for (word, mask, sign) in [
        (0xe591_0000u32, u32::MAX, false), // ldr r0, [r1]
        (0xe5d1_0000, 0xff, false),        // ldrb
        (0xe1d1_00b0, 0xffff, false),      // ldrh
        (0xe1d1_00d0, 0xff, true),         // ldrsb
        (0xe1d1_00f0, 0xffff, true),       // ldrsh
    ] {
        let (mut regs, mut device) = (regs(), Device::new());
        device.bytes[0x20..0x24].copy_from_slice(&0x8182_8384u32.to_le_bytes());
        regs.r[1] = VIRT + 0x20;
        run(
            decode_arm(word).unwrap(),
            &mut regs,
            &mut device,
            at(0x20, false),
        )
        .unwrap();
        let mut expected = 0x8182_8384 & mask;
        if sign {
            expected |= !mask;
        }
        assert_eq!(
            (regs.r[0], regs.r[1], regs.pc),
            (expected, VIRT + 0x20, 0x8004),
            "{word:#x}"
        );
        assert_eq!(device.log.len(), 1);
    }
}

#[test]
fn store_with_writeback_and_shifted_offset() {
    let (mut regs, mut device) = (regs(), Device::new());
    regs.r[1] = VIRT + 0x100;
    regs.r[2] = 0x10;
    // strb r3, [r1, r2, lsl #2]!
    let insn = decode_arm(0xe7e1_3102).unwrap();
    run(insn, &mut regs, &mut device, at(0x140, true)).unwrap();
    assert_eq!(device.bytes[0x140], 0x33);
    assert_eq!(regs.r[1], VIRT + 0x140);
    // str r3, [r1], -r2: accesses the old base.
    let insn = decode_arm(0xe601_3002).unwrap();
    run(insn, &mut regs, &mut device, at(0x140, true)).unwrap();
    assert_eq!((device.word(0x140), regs.r[1]), (0x3333_3333, VIRT + 0x130));
    assert_eq!(regs.pc, 0x8008);
}

#[test]
fn shifts() {
    for (shift, value, carry, expected) in [
        (Shift::Lsl(0), 0x8000_0001, false, 0x8000_0001u32),
        (Shift::Lsl(31), 1, false, 0x8000_0000),
        (Shift::Lsr(32), u32::MAX, false, 0),
        (Shift::Lsr(31), 0x8000_0000, false, 1),
        (Shift::Asr(32), 0x8000_0000, false, u32::MAX),
        (Shift::Asr(4), 0x8000_0000, false, 0xf800_0000),
        (Shift::Ror(4), 0x1234_5678, false, 0x8123_4567),
        (Shift::Rrx, 3, true, 0x8000_0001),
        (Shift::Rrx, 3, false, 1),
    ] {
        let cpsr = if carry { psr::C } else { 0 };
        assert_eq!(shifted(value, shift, cpsr), expected, "{shift:?}");
    }
}

#[test]
fn dual_and_multiple() {
    let (mut regs, mut device) = (regs(), Device::new());
    regs.r[9] = VIRT + 0x10;
    // ldrd r4, r5, [r9, #8]!
    run(
        decode_arm(0xe1e9_40d8).unwrap(),
        &mut regs,
        &mut device,
        at(0x18, false),
    )
    .unwrap();
    assert_eq!(regs.r[4], device.word(0x18));
    assert_eq!(regs.r[5], device.word(0x1c));
    assert_eq!(regs.r[9], VIRT + 0x18);

    // stmdb r9!, {r0, r3, lr}: the fault may be on any element, here the second.
    regs.r[9] = VIRT + 0x80;
    run(
        decode_arm(0xe929_4009).unwrap(),
        &mut regs,
        &mut device,
        at(0x78, true),
    )
    .unwrap();
    assert_eq!(
        [device.word(0x74), device.word(0x78), device.word(0x7c)],
        [0, 0x3333_3333, 0xeeee_eeee]
    );
    assert_eq!(regs.r[9], VIRT + 0x74);
    // ldmda r9, {r1, r2}
    run(
        decode_arm(0xe819_0006).unwrap(),
        &mut regs,
        &mut device,
        at(0x70, false),
    )
    .unwrap();
    assert_eq!(
        (regs.r[1], regs.r[2]),
        (device.word(0x70), device.word(0x74))
    );
    // ldmib r9!, {r1, r2}
    run(
        decode_arm(0xe9b9_0006).unwrap(),
        &mut regs,
        &mut device,
        at(0x78, false),
    )
    .unwrap();
    assert_eq!(
        (regs.r[1], regs.r[2], regs.r[9]),
        (0x3333_3333, 0xeeee_eeee, VIRT + 0x7c)
    );
    // stm r9!, {r9, r10}: the old base is stored.
    run(
        decode_arm(0xe8a9_0600).unwrap(),
        &mut regs,
        &mut device,
        at(0x7c, true),
    )
    .unwrap();
    assert_eq!(device.word(0x7c), VIRT + 0x7c);
}

#[test]
fn thumb_moves_by_its_length_and_advances_it() {
    let (mut regs, mut device) = (regs(), Device::new());
    regs.r[13] = VIRT + 0x40;
    // In an IT block with two instructions left (ITSTATE 0b0000_0100 and condition EQ).
    regs.cpsr |= psr::T | 0x0400;
    // push {r4, lr}
    run(
        decode_thumb16(0xb510).unwrap(),
        &mut regs,
        &mut device,
        at(0x38, true),
    )
    .unwrap();
    assert_eq!(
        (device.word(0x38), device.word(0x3c)),
        (0x4444_4444, 0xeeee_eeee)
    );
    assert_eq!((regs.r[13], regs.pc), (VIRT + 0x38, 0x8002));
    assert_eq!(syndrome::it_state(regs.cpsr), 0x08);
    // ldr.w r0, [sp], #4
    run(
        decode_thumb32(0xf85d, 0x0b04).unwrap(),
        &mut regs,
        &mut device,
        at(0x38, false),
    )
    .unwrap();
    assert_eq!(
        (regs.r[0], regs.r[13], regs.pc),
        (0x4444_4444, VIRT + 0x3c, 0x8006)
    );
    assert_eq!(syndrome::it_state(regs.cpsr), 0);
}

#[test]
fn literal_uses_the_aligned_pc() {
    let (mut regs, mut device) = (regs(), Device::new());
    regs.cpsr |= psr::T;
    regs.pc = VIRT + 2;
    // ldr r3, [pc, #64]: Align(pc + 4, 4) + 64.
    run(
        decode_thumb16(0x4b10).unwrap(),
        &mut regs,
        &mut device,
        at(0x44, false),
    )
    .unwrap();
    assert_eq!(regs.r[3], device.word(0x44));
    regs.cpsr &= !psr::T;
    regs.pc = VIRT;
    // ldr r3, [pc, #-8]
    run(
        decode_arm(0xe51f_3008).unwrap(),
        &mut regs,
        &mut device,
        at(0, false),
    )
    .unwrap();
    assert_eq!(regs.r[3], device.word(0));
}

#[test]
fn big_endian_guests_see_swapped_values() {
    let (mut regs, mut device) = (regs(), Device::new());
    regs.cpsr |= psr::E;
    regs.r[1] = VIRT;
    regs.r[0] = 0x1122_3344;
    run(
        decode_arm(0xe581_0000).unwrap(),
        &mut regs,
        &mut device,
        at(0, true),
    )
    .unwrap(); // str r0, [r1]
    assert_eq!(device.word(0), 0x4433_2211);
    run(
        decode_arm(0xe1c1_00b4).unwrap(),
        &mut regs,
        &mut device,
        at(4, true),
    )
    .unwrap(); // strh r0, [r1, #4]
    assert_eq!(device.bytes[4..6], [0x33, 0x44]);
    device.bytes[8..10].copy_from_slice(&[0x80, 0x01]);
    run(
        decode_arm(0xe1d1_00f8).unwrap(),
        &mut regs,
        &mut device,
        at(8, false),
    )
    .unwrap(); // ldrsh r0, [r1, #8]
    assert_eq!(regs.r[0], 0xffff_8001);
}

#[test]
fn a_refused_access_changes_nothing() {
    for fail_at in 0..3 {
        let (mut regs, mut device) = (regs(), Device::new());
        device.fail_at = Some(fail_at);
        regs.r[9] = VIRT;
        let before = regs;
        // ldm r9!, {r0, r1, r2}
        let result = run(
            decode_arm(0xe8b9_0007).unwrap(),
            &mut regs,
            &mut device,
            at(0, false),
        );
        assert_eq!(result, Err(ExecuteError::Access("device")));
        assert_eq!(regs, before);
        assert_eq!(device.log.len(), fail_at);
    }
}

#[test]
fn what_does_not_fit_the_fault_is_refused() {
    let load = decode_arm(0xe891_0007).unwrap(); // ldm r1, {r0, r1, r2}
    let byte = decode_arm(0xe5d1_0000).unwrap(); // ldrb r0, [r1]
    let word = decode_arm(0xe591_0000).unwrap(); // ldr r0, [r1]
    for (insn, base, fault, reason) in [
        (load, VIRT, at(0, true), Unsupported::Mismatch),
        (load, VIRT, at(12, false), Unsupported::Mismatch),
        (load, VIRT + 4, at(0, false), Unsupported::Mismatch),
        (load, VIRT + 0x1000, at(0, false), Unsupported::Mismatch),
        (
            load,
            VIRT + 0xff8,
            at(0xff8, false),
            Unsupported::CrossesPage,
        ),
        (load, VIRT - 8, at(0, false), Unsupported::CrossesPage),
        (load, VIRT + 2, at(2, false), Unsupported::Unaligned),
        (word, VIRT + 0xffe, at(0xffe, false), Unsupported::Unaligned),
        (byte, VIRT + 1, at(2, false), Unsupported::Mismatch),
    ] {
        let (mut regs, mut device) = (regs(), Device::new());
        regs.r[1] = base;
        let before = regs;
        assert_eq!(
            run(insn, &mut regs, &mut device, fault),
            Err(reason.into()),
            "{insn:?} {base:#x}"
        );
        assert_eq!(regs, before);
        assert!(device.log.is_empty());
    }
}

#[test]
fn the_syndrome_path_agrees_with_the_decoder() {
    // ldrsh r7, [r1, #6] and strb r7, [r1, #6], with the syndrome that hardware gives for each.
    for (word, iss, write) in [
        (0xe1d1_70f6u32, 0x0167_0007 | 1 << 21, false),
        (0xe5c1_7006, 0x0107_0047, true),
    ] {
        let (mut regs, mut device) = (regs(), Device::new());
        device.bytes[6..8].copy_from_slice(&[0x34, 0x92]);
        regs.r[1] = VIRT;
        let (mut regs2, mut device2) = (regs, Device::new());
        device2.bytes.copy_from_slice(&device.bytes);
        run(
            decode_arm(word).unwrap(),
            &mut regs,
            &mut device,
            at(6, write),
        )
        .unwrap();
        let access = SyndromeAccess::from_syndrome(DataAbort::new(iss)).unwrap();
        access
            .execute(&mut regs2, GuestPhys::new(PHYS + 6), true, |a| {
                device2.access(a)
            })
            .unwrap();
        assert_eq!(regs, regs2);
        assert_eq!(device.bytes, device2.bytes);
        assert_eq!(device.log, device2.log);
    }
}

#[test]
fn bad_syndromes_are_refused() {
    assert_eq!(
        SyndromeAccess::from_syndrome(DataAbort::new(0x0087_0007)),
        None,
        "ISV=0"
    );
    assert_eq!(
        SyndromeAccess::from_syndrome(DataAbort::new(0x01c7_0007)),
        None,
        "SAS=3"
    );
    assert_eq!(
        SyndromeAccess::from_syndrome(DataAbort::new(0x018f_0007)),
        None,
        "pc"
    );
    let word = SyndromeAccess::from_syndrome(DataAbort::new(0x0187_0007)).unwrap();
    let mut regs = regs();
    let result = word.execute(&mut regs, GuestPhys::new(PHYS + 2), true, |_| {
        Ok::<_, ()>(0)
    });
    assert_eq!(
        result,
        Err(ExecuteError::Unsupported(Unsupported::Unaligned))
    );
}

#[test]
fn random_instructions_with_random_registers() {
    let seed = 0x1234_5678_9abc_def1u64;
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as u32
    };
    let mut done = 0;
    for round in 0..200_000 {
        let word = next();
        let decoded = match round % 3 {
            0 => decode_arm(word & 0x0fff_ffff | 0xe000_0000),
            1 => decode_thumb16(word as u16),
            _ => decode_thumb32(word as u16 | 0xe800, (word >> 16) as u16),
        };
        let Ok(insn) = decoded else { continue };
        let (mut regs, mut device) = (regs(), Device::new());
        regs.cpsr = next();
        regs.pc = next();
        for r in &mut regs.r {
            // Mostly near the device, sometimes anywhere.
            *r = match next() % 4 {
                0 => next(),
                1 => next() % 64,
                _ => VIRT + next() % 4096 / 4 * 4,
            };
        }
        let before = regs;
        let fault = at(next() % 4096, next() % 2 == 0);
        match run(insn, &mut regs, &mut device, fault) {
            Ok(()) => {
                done += 1;
                assert_ne!(before.pc, regs.pc, "seed {seed:#x} round {round}");
            }
            Err(_) => assert_eq!(before, regs, "seed {seed:#x} round {round} {insn:?}"),
        }
    }
    assert!(done > 10, "only {done} instructions matched their fault");
}
