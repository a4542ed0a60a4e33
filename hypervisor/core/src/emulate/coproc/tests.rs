use super::*;

const FEATURES: CpuFeatures = CpuFeatures {
    midr: 0x412f_c0f1,
    pfr: [0x1131, 0x0001_1011, 2],
    dfr: [0x0201_0555, 3],
    afr0: 4,
    mmfr: [0x1020_1105, 0x4000_0000, 0x0124_0000, 0x0210_2211, 5, 6],
    isar: [
        0x0210_1110,
        0x1311_2111,
        0x2123_2041,
        0x1111_2131,
        0x1001_1142,
        7,
        8,
    ],
    mvfr: [0x1011_0222, 0x1111_1111, 9],
};

fn context(privilege: Privilege) -> AccessContext<'static> {
    AccessContext {
        privilege,
        cntkctl: 0,
        actlr: 0x41,
        features: &FEATURES,
    }
}

fn pl1() -> AccessContext<'static> {
    context(Privilege::Pl1)
}

fn mrc(opc1: u32, crn: u32, crm: u32, opc2: u32) -> Cp32 {
    Cp32::new(0x01e0_0000 | Cp32::key_of(opc1, crn, crm, opc2) | 3 << 5 | 1)
}

fn mcr(opc1: u32, crn: u32, crm: u32, opc2: u32) -> Cp32 {
    Cp32::new(0x01e0_0000 | Cp32::key_of(opc1, crn, crm, opc2) | 3 << 5)
}

#[test]
fn linux_debug_probe_sees_what_xen_shows() {
    // The order of arch/arm/kernel/hw_breakpoint.c as the reference trace counted it.
    let Action::Read(didr) = cp14(mrc(0, 0, 0, 0), &pl1()) else {
        panic!("DBGDIDR");
    };
    assert_eq!(
        didr, 0x0105_0021,
        "1 watchpoint, 2 breakpoints, v7.1, variant 2 revision 1"
    );
    for (opc1, crn, crm, opc2) in [
        (0, 0, 0, 4), // DBGBVR0
        (0, 0, 0, 5), // DBGBCR0
        (0, 0, 0, 6), // DBGWVR0
        (0, 0, 0, 7), // DBGWCR0
        (0, 0, 1, 4), // DBGBVR1
        (0, 0, 1, 5), // DBGBCR1
        (0, 0, 2, 2), // DBGDSCRext
        (0, 0, 7, 0), // DBGVCR
        (0, 1, 0, 4), // DBGOSLAR
    ] {
        assert_eq!(
            cp14(mcr(opc1, crn, crm, opc2), &pl1()),
            Action::Ignore,
            "c{crn},c{crm},{opc2}"
        );
    }
    assert_eq!(
        cp14(mrc(0, 0, 1, 0), &pl1()),
        Action::Read(0),
        "DBGDSCRint: monitor mode does not stick"
    );
    assert_eq!(cp14(mrc(0, 1, 3, 4), &pl1()), Action::Read(0), "DBGOSDLR");
    assert_eq!(cp14(mrc(0, 1, 1, 4), &pl1()), Action::Read(8), "DBGOSLSR");
    // One watchpoint and two breakpoints: the next ones are not there.
    for (crm, opc2) in [(1, 6), (1, 7), (2, 4), (2, 5)] {
        assert_eq!(cp14(mcr(0, 0, crm, opc2), &pl1()), Action::Undefined);
    }
    assert_eq!(
        cp14(mcr(0, 0, 0, 0), &pl1()),
        Action::Undefined,
        "DBGDIDR is read-only"
    );
    assert_eq!(
        cp14(mrc(0, 1, 0, 4), &pl1()),
        Action::Undefined,
        "DBGOSLAR is write-only"
    );
    assert_eq!(
        cp14(mrc(0, 0, 5, 0), &pl1()),
        Action::Undefined,
        "DBGDTRRXint"
    );
    assert_eq!(cp14(mrc(6, 0, 0, 0), &pl1()), Action::Undefined, "ThumbEE");
}

#[test]
fn actlr() {
    assert_eq!(cp15(mrc(0, 1, 0, 1), &pl1()), Action::Read(0x41));
    assert_eq!(cp15(mcr(0, 1, 0, 1), &pl1()), Action::Ignore);
    assert_eq!(
        cp15(mrc(0, 1, 0, 1), &context(Privilege::Pl0)),
        Action::Undefined
    );
}

#[test]
fn id_registers() {
    assert_eq!(cp15(mrc(0, 0, 1, 0), &pl1()), Action::Read(FEATURES.pfr[0]));
    assert_eq!(
        cp15(mrc(0, 0, 1, 7), &pl1()),
        Action::Read(FEATURES.mmfr[3])
    );
    assert_eq!(cp15(mrc(0, 0, 2, 5), &pl1()), Action::Read(7));
    assert_eq!(cp15(mrc(0, 0, 2, 6), &pl1()), Action::Read(5), "ID_MMFR4");
    assert_eq!(cp15(mrc(0, 0, 2, 7), &pl1()), Action::Read(8), "ID_ISAR6");
    assert_eq!(cp15(mrc(0, 0, 3, 4), &pl1()), Action::Read(2), "ID_PFR2");
    for crm in 3..8 {
        for opc2 in 0..8 {
            if (crm, opc2) != (3, 4) && (crm, opc2) != (3, 5) && (crm, opc2) != (3, 6) {
                assert_eq!(
                    cp15(mrc(0, 0, crm, opc2), &pl1()),
                    Action::Read(0),
                    "c0,c{crm},{opc2}"
                );
            }
        }
    }
    assert_eq!(
        cp15(mcr(0, 0, 1, 0), &pl1()),
        Action::Undefined,
        "read-only"
    );
    assert_eq!(
        cp15(mrc(0, 0, 8, 0), &pl1()),
        Action::Undefined,
        "outside the group"
    );
    assert_eq!(
        cp15(mrc(0, 0, 0, 0), &pl1()),
        Action::Undefined,
        "MIDR is not trapped"
    );
    let all = CpuFeatures {
        pfr: [u32::MAX; 3],
        ..FEATURES
    }
    .sanitised();
    assert_eq!(all.pfr, [0x0f0f_ffff, u32::MAX, 0xffff_f0ff]);
    assert_eq!(
        FEATURES.sanitised(),
        FEATURES,
        "a Cortex-A15 has nothing to hide"
    );
}

#[test]
fn mvfr_as_traced() {
    let access = Cp32::new(0x01e1_dc41);
    assert_eq!(
        (cp10(access, &pl1()), access.rt()),
        (Action::Read(FEATURES.mvfr[0]), 2)
    );
    let access = Cp32::new(0x01e1_dca1);
    assert_eq!(
        (cp10(access, &pl1()), access.rt()),
        (Action::Read(FEATURES.mvfr[0]), 5)
    );
    let access = Cp32::new(0x01e1_d841);
    assert_eq!(cp10(access, &pl1()), Action::Read(FEATURES.mvfr[1]));
    assert_eq!(cp10(access, &context(Privilege::Pl0)), Action::Undefined);
    assert_eq!(
        cp10(Cp32::new(0x01e1_d840), &pl1()),
        Action::Undefined,
        "write"
    );
}

#[test]
fn performance_monitor_is_zero() {
    for (crm, opc2) in [
        (12, 0),
        (12, 1),
        (12, 5),
        (12, 7),
        (13, 0),
        (13, 1),
        (13, 2),
        (14, 0),
        (14, 1),
        (14, 2),
        (14, 3),
    ] {
        assert_eq!(cp15(mrc(0, 9, crm, opc2), &pl1()), Action::Read(0));
        assert_eq!(cp15(mcr(0, 9, crm, opc2), &pl1()), Action::Ignore);
    }
    let user = context(Privilege::Pl0);
    assert_eq!(cp15(mrc(0, 9, 14, 0), &user), Action::Read(0), "PMUSERENR");
    assert_eq!(cp15(mcr(0, 9, 14, 0), &user), Action::Undefined);
    assert_eq!(cp15(mrc(0, 9, 13, 0), &user), Action::Undefined, "PMCCNTR");
}

#[test]
fn xsa_93_set_way_and_virtual_memory_controls() {
    for crm in [6, 10, 14] {
        assert_eq!(cp15(mcr(0, 7, crm, 2), &pl1()), Action::SetWay);
        assert_eq!(cp15(mrc(0, 7, crm, 2), &pl1()), Action::Undefined);
        assert_eq!(
            cp15(mcr(0, 7, crm, 2), &context(Privilege::Pl0)),
            Action::Undefined
        );
    }
    assert_eq!(
        cp15(mcr(0, 7, 6, 1), &pl1()),
        Action::Undefined,
        "DCIMVAC is not trapped"
    );
    for (crn, crm, opc2, register) in [
        (1, 0, 0, VmRegister::Sctlr),
        (2, 0, 0, VmRegister::Ttbr0),
        (2, 0, 2, VmRegister::Ttbcr),
        (3, 0, 0, VmRegister::Dacr),
        (5, 1, 1, VmRegister::Aifsr),
        (6, 0, 2, VmRegister::Ifar),
        (10, 2, 1, VmRegister::Mair1),
        (13, 0, 1, VmRegister::Contextidr),
    ] {
        assert_eq!(
            cp15(mcr(0, crn, crm, opc2), &pl1()),
            Action::VmWrite(register)
        );
        assert_eq!(
            cp15(mcr(0, crn, crm, opc2), &context(Privilege::Pl0)),
            Action::Undefined
        );
    }
    let mcrr = |opc1, crm| Cp64::new(Cp64::key_of(opc1, crm));
    assert_eq!(
        cp15_double(mcrr(0, 2), &pl1()),
        Action64::VmWrite(VmRegister64::Ttbr0)
    );
    assert_eq!(
        cp15_double(mcrr(1, 2), &pl1()),
        Action64::VmWrite(VmRegister64::Ttbr1)
    );
    assert_eq!(
        cp15_double(mcrr(1, 2), &context(Privilege::Pl0)),
        Action64::Undefined
    );
}

#[test]
fn timers_and_their_gate_for_user_mode() {
    let user = |cntkctl| AccessContext {
        cntkctl,
        ..context(Privilege::Pl0)
    };
    assert_eq!(
        cp15(mrc(0, 14, 2, 1), &pl1()),
        Action::TimerRead(TimerRegister::Control)
    );
    assert_eq!(
        cp15(mcr(0, 14, 2, 0), &pl1()),
        Action::TimerWrite(TimerRegister::TimerValue)
    );
    assert_eq!(
        cp15(mcr(0, 14, 2, 0), &user(!CNTKCTL_PL0PTEN)),
        Action::Undefined
    );
    assert_eq!(
        cp15(mcr(0, 14, 2, 0), &user(CNTKCTL_PL0PTEN)),
        Action::TimerWrite(TimerRegister::TimerValue)
    );
    let pair = |opc1, read: u32| Cp64::new(Cp64::key_of(opc1, 14) | read);
    assert_eq!(cp15_double(pair(2, 1), &pl1()), Action64::CompareRead);
    assert_eq!(cp15_double(pair(2, 0), &pl1()), Action64::CompareWrite);
    assert_eq!(
        cp15_double(pair(2, 0), &user(!CNTKCTL_PL0PTEN)),
        Action64::Undefined
    );
    assert_eq!(cp15_double(pair(0, 1), &pl1()), Action64::CounterRead);
    assert_eq!(
        cp15_double(pair(0, 0), &pl1()),
        Action64::Undefined,
        "CNTPCT is read-only"
    );
    assert_eq!(
        cp15_double(pair(0, 1), &user(CNTKCTL_PL0PCTEN)),
        Action64::CounterRead
    );
    assert_eq!(
        cp15_double(pair(0, 1), &user(!CNTKCTL_PL0PCTEN)),
        Action64::Undefined
    );
    assert_eq!(cp15_double(pair(3, 1), &pl1()), Action64::Undefined);
}

#[test]
fn xsa_93_implementation_defined_is_undefined() {
    for (opc1, crn, crm, opc2) in [
        (1, 9, 0, 2),  // L2CTLR
        (1, 9, 0, 3),  // L2ECTLR
        (0, 15, 0, 1), // diagnostic register
        (4, 15, 0, 0), // CBAR
        (0, 10, 0, 0), // TLB lockdown
        (0, 11, 0, 0), // TCM, DMA
        (0, 9, 0, 0),
        (7, 15, 15, 7),
    ] {
        assert_eq!(cp15(mrc(opc1, crn, crm, opc2), &pl1()), Action::Undefined);
        assert_eq!(cp15(mcr(opc1, crn, crm, opc2), &pl1()), Action::Undefined);
    }
}

#[test]
fn xsa_102_103_user_mode_gets_nothing_else() {
    // Every encoding there is: user mode reaches only PMUSERENR (read), and in CP14 DBGDIDR and DBGDSCRint.
    let user = context(Privilege::Pl0);
    let (mut cp15_allowed, mut cp14_allowed) = (0, 0);
    for encoding in 0..1u32 << 14 {
        let (opc2, opc1, crn, crm) = (
            encoding & 7,
            encoding >> 3 & 7,
            encoding >> 6 & 15,
            encoding >> 10 & 15,
        );
        for access in [mrc(opc1, crn, crm, opc2), mcr(opc1, crn, crm, opc2)] {
            cp15_allowed += u32::from(cp15(access, &user) != Action::Undefined);
            cp14_allowed += u32::from(cp14(access, &user) != Action::Undefined);
            // An action fits its direction.
            for action in [
                cp15(access, &pl1()),
                cp14(access, &pl1()),
                cp10(access, &pl1()),
            ] {
                match action {
                    Action::Read(_) | Action::TimerRead(_) => assert!(access.is_read()),
                    Action::Ignore
                    | Action::TimerWrite(_)
                    | Action::SetWay
                    | Action::VmWrite(_) => {
                        assert!(!access.is_read());
                    }
                    Action::Undefined => {}
                }
            }
        }
    }
    assert_eq!((cp15_allowed, cp14_allowed), (1, 2));
    assert_eq!(Privilege::of(0x6000_0010), Privilege::Pl0);
    assert_eq!(Privilege::of(0x6000_001f), Privilege::Pl1);
}

#[test]
fn the_registers_of_a_gicv3_are_there_where_it_is() {
    let mut features = FEATURES;
    features.pfr[1] |= 1 << 28;
    let kernel = AccessContext {
        features: &features,
        ..pl1()
    };
    let user = AccessContext {
        privilege: Privilege::Pl0,
        ..kernel
    };
    // ICC_SGI1R: written only.
    let write = Cp64::new(Cp64::key_of(0, 12));
    let read = Cp64::new(Cp64::key_of(0, 12) | 1);
    assert_eq!(cp15_double(write, &kernel), Action64::SendSgi);
    assert_eq!(cp15_double(read, &kernel), Action64::Undefined);
    assert_eq!(cp15_double(write, &user), Action64::Undefined);
    assert_eq!(cp15_double(write, &pl1()), Action64::Undefined, "a GICv2");
    // ICC_SRE: switched on for good.
    let (read, write) = (mrc(0, 12, 12, 5), mcr(0, 12, 12, 5));
    assert_eq!(cp15(read, &kernel), Action::Read(7));
    assert_eq!(cp15(write, &kernel), Action::Ignore);
    assert_eq!(cp15(read, &user), Action::Undefined);
    assert_eq!(cp15(read, &pl1()), Action::Undefined, "a GICv2");
}
