use super::super::regs::FakeRegs;
use super::*;

const SVC: u32 = 0x1d3;

#[test]
fn syndromes_seen_on_the_real_machine() {
    // hvc #0xea1
    assert_eq!(Syndrome::new(0x4a00_0ea1).exit(), Exit::Hvc(0xea1));
    // wfi, condition al
    assert_eq!(
        Syndrome::new(0x07e0_0000).exit(),
        Exit::Wait { event: false }
    );
    assert_eq!(
        Syndrome::new(0x07e0_0001).exit(),
        Exit::Wait { event: true }
    );
    // vmrs r2, mvfr0 (ec=08 iss=1e1dc41)
    let Exit::Cp10(access) = Syndrome::new(0x08 << 26 | 1 << 25 | 0x01e1_dc41).exit() else {
        panic!("class");
    };
    assert_eq!(
        (access.opc1(), access.crn(), access.rt(), access.is_read()),
        (7, 7, 2, true)
    );
    // mrc p15, 0, r3, c1, c0, 1
    let hsr = 0x03 << 26 | 1 << 25 | 0x01e0_0000 | Cp32::key_of(0, 1, 0, 1) | 3 << 5 | 1;
    let Exit::Cp15(access) = Syndrome::new(hsr).exit() else {
        panic!("class");
    };
    assert_eq!(access.key(), Cp32::key_of(0, 1, 0, 1));
    assert_eq!(
        (
            access.opc1(),
            access.crn(),
            access.crm(),
            access.opc2(),
            access.rt()
        ),
        (0, 1, 0, 1, 3)
    );
    // mcrr p15, 2, r4, r5, c14
    let hsr = 0x04 << 26 | 1 << 25 | 0x01e0_0000 | Cp64::key_of(2, 14) | 4 << 5 | 5 << 10;
    let Exit::Cp15Double(access) = Syndrome::new(hsr).exit() else {
        panic!("class");
    };
    assert_eq!(access.key(), Cp64::key_of(2, 14));
    assert_eq!(
        (
            access.opc1(),
            access.crm(),
            access.rt(),
            access.rt2(),
            access.is_read()
        ),
        (2, 14, 4, 5, false)
    );
    // A 32-bit store of r3, translation fault at level 3.
    let Exit::DataAbort(abort) = Syndrome::new(0x9383_0047).exit() else {
        panic!("class");
    };
    assert!(
        abort.is_valid()
            && abort.is_write()
            && !abort.is_stage1_walk()
            && !abort.is_sign_extended()
    );
    assert_eq!((abort.size_log2(), abort.register()), (2, 3));
    assert!(abort.status().is_translation());
    assert_eq!(abort.status().level(), 3);
    let Exit::PrefetchAbort(abort) = Syndrome::new(0x8200_008e).exit() else {
        panic!("class");
    };
    assert!(abort.is_stage1_walk() && abort.status().is_permission());
}

#[test]
fn every_class_has_an_exit() {
    let known = [
        1, 3, 4, 5, 6, 7, 8, 0xa, 0xc, 0x11, 0x12, 0x13, 0x20, 0x21, 0x24, 0x25,
    ];
    for class in 0..64u8 {
        for iss in [0, 0x01ff_ffff, 0x0155_5555] {
            let exit = Syndrome::new(u32::from(class) << 26 | iss).exit();
            assert_eq!(
                matches!(exit, Exit::Unknown(n) if n == class),
                !known.contains(&class),
                "{class:#x}"
            );
        }
    }
}

/// The conditions as the manual's table writes them (A8.3).
fn manual(condition: u32, n: bool, z: bool, c: bool, v: bool) -> bool {
    match condition {
        0 => z,
        1 => !z,
        2 => c,
        3 => !c,
        4 => n,
        5 => !n,
        6 => v,
        7 => !v,
        8 => c && !z,
        9 => !c || z,
        10 => n == v,
        11 => n != v,
        12 => !z && n == v,
        13 => z || n != v,
        _ => true,
    }
}

#[test]
fn conditions() {
    for flags in 0..16u32 {
        let (n, z, c, v) = (
            flags & 8 != 0,
            flags & 4 != 0,
            flags & 2 != 0,
            flags & 1 != 0,
        );
        for condition in 0..16 {
            let expected = manual(condition, n, z, c, v);
            assert_eq!(condition_holds(condition, flags << 28 | SVC), expected);
            // From the syndrome.
            let hsr = Syndrome::new(0x01 << 26 | 1 << 24 | condition << 20);
            assert_eq!(hsr.condition_passed(flags << 28 | SVC), expected);
            assert_eq!(hsr.condition_passed(flags << 28 | SVC | psr::T), expected);
            // From ITSTATE: condition in the top four bits, any mask below.
            let hsr = Syndrome::new(0x01 << 26);
            let it = condition << 4 | 0x8;
            let cpsr = flags << 28 | SVC | psr::T | (it & 0xfc) << 8 | (it & 3) << 25;
            assert_eq!(hsr.condition_passed(cpsr), expected);
        }
        // Outside an IT block, and in ARM state without a condition: always.
        assert!(Syndrome::new(0x01 << 26).condition_passed(flags << 28 | SVC | psr::T));
        assert!(Syndrome::new(0x01 << 26).condition_passed(flags << 28 | SVC));
        // Calls, aborts and unknown classes have no condition field.
        for class in [0, 0x12, 0x13, 0x20, 0x24] {
            assert!(Syndrome::new(class << 26 | 1 << 24).condition_passed(flags << 28 | SVC));
        }
    }
}

#[test]
fn it_state_advances_as_the_manual_says() {
    // ITTEE with eq: 0b0000_0011 is T, E, E with 1 -> states after each instruction.
    let mut cpsr = psr::T | SVC;
    let set = |cpsr: u32, it: u32| cpsr & !psr::IT_MASK | (it & 0xfc) << 8 | (it & 3) << 25;
    for it in 0..=255u32 {
        cpsr = set(cpsr, it);
        assert_eq!(it_state(cpsr), it);
        let expected = if it & 7 == 0 {
            0
        } else {
            it & 0xe0 | (it << 1) & 0x1f
        };
        let next = advance_it(cpsr);
        assert_eq!(it_state(next), expected);
        assert_eq!(next & !psr::IT_MASK, cpsr & !psr::IT_MASK);
    }
    // A block of four ends after four instructions.
    cpsr = set(cpsr, 0x03);
    for expected in [0x06, 0x0c, 0x18, 0] {
        cpsr = advance_it(cpsr);
        assert_eq!(it_state(cpsr), expected);
    }
}

#[test]
fn the_program_counter_moves_by_state_and_length() {
    for (cpsr, wide, length) in [
        (SVC, true, 4),
        (SVC, false, 4),
        (SVC | psr::T, true, 4),
        (SVC | psr::T, false, 2),
    ] {
        let mut regs = FakeRegs {
            pc: 0xffff_fffe,
            cpsr,
            ..FakeRegs::default()
        };
        advance_pc(&mut regs, wide);
        assert_eq!(regs.pc, 0xffff_fffeu32.wrapping_add(length));
        assert_eq!(regs.cpsr, cpsr);
    }
    let mut regs = FakeRegs {
        cpsr: SVC | psr::T | 0x0c00,
        ..FakeRegs::default()
    };
    advance_pc(&mut regs, false);
    assert_eq!(it_state(regs.cpsr), 0x18);
}
