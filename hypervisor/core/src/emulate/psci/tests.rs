use std::sync::Barrier;

use super::*;

const NONE: Workarounds = Workarounds {
    branch_predictor: false,
    branch_history: false,
    store_bypass: StoreBypass::Unsupported,
};

fn value(r0: u32, r1: u32) -> u32 {
    match call(r0, r1, 0, 0, &NONE) {
        Answer::Value(value) => value,
        other => panic!("{r0:#x} {r1:#x}: {other:?}"),
    }
}

#[test]
fn answers_traced_on_real_xen() {
    assert_eq!(value(0x8400_0000, 0), 65537);
    assert_eq!(value(0x8000_0000, 0), 65537);
    assert_eq!(value(0x8400_0006, 0), 2);
    assert_eq!(value(0x8600_ff01, 0), u32::MAX);
    // PSCI_FEATURES: CPU_SUSPEND and SMCCC_VERSION yes, SYSTEM_SUSPEND and SYSTEM_RESET2 no.
    for (function, expected) in [
        (0x8400_0001, 0),
        (0x8000_0000, 0),
        (0x8400_000e, u32::MAX),
        (0x8400_0012, u32::MAX),
    ] {
        assert_eq!(value(0x8400_000a, function), expected, "{function:#x}");
    }
}

#[test]
fn calls_are_typed() {
    assert_eq!(call(0x8400_0001, 0, 0, 0, &NONE), Answer::Suspend);
    assert_eq!(call(0x8400_0002, 0, 0, 0, &NONE), Answer::CpuOff);
    assert_eq!(call(1, 0, 0, 0, &NONE), Answer::CpuOff);
    assert_eq!(call(0x8400_0008, 0, 0, 0, &NONE), Answer::SystemOff);
    assert_eq!(call(0x8400_0009, 0, 0, 0, &NONE), Answer::SystemReset);
    assert_eq!(
        call(0x8400_0004, 3, 1, 0, &NONE),
        Answer::AffinityInfo {
            target: 3,
            level: 1
        }
    );
    let Answer::CpuOn(on) = call(0x8400_0003, 1, 0x8001, 77, &NONE) else {
        panic!("CPU_ON");
    };
    assert_eq!((on.target, on.interface), (1, PsciInterface::V02));
    assert_eq!(
        on.start(),
        VcpuStart {
            pc: 0x8000,
            psr: 0x1f3,
            r0: 77
        }
    );
    let Answer::CpuOn(on) = call(2, 1, 0x8000, 77, &NONE) else {
        panic!("CPU_ON 0.1");
    };
    assert_eq!(
        (on.start().r0, on.start().psr, on.interface),
        (0, 0x1d3, PsciInterface::V01)
    );
    assert_eq!(
        PsciInterface::V01.error_value(PsciError::AlreadyOn),
        -2i32 as u32
    );
    assert_eq!(
        PsciInterface::V02.error_value(PsciError::AlreadyOn),
        -4i32 as u32
    );
}

#[test]
fn calls_of_64_bits() {
    let entry = 0x0000_0012_4008_0001;
    let Answer::CpuOn(on) = call64([0xc400_0003, 2, entry, u64::MAX], &NONE) else {
        panic!("CPU_ON");
    };
    assert_eq!(on.target, 2);
    // No Thumb: bit 0 is the guest's mistake. EL1h, all masked.
    assert_eq!(
        on.start(),
        VcpuStart {
            pc: entry,
            psr: 0x3c5,
            r0: u64::MAX
        }
    );
    // By the 32-bit number the arguments have 32 bits, and the vCPU is a 64-bit one all the same.
    let Answer::CpuOn(on) = call64([0x8400_0003, 1 << 32 | 1, entry, 7], &NONE) else {
        panic!("CPU_ON");
    };
    assert_eq!(
        (on.target, on.entry, on.start().psr),
        (1, 0x4008_0001, 0x3c5)
    );
    let Answer::CpuOn(on) = call64([0xc400_0003, 1 << 32, entry, 0], &NONE) else {
        panic!("CPU_ON");
    };
    assert_eq!(
        PowerStates::try_new(1).unwrap().cpu_on(on.target),
        Err(PsciError::InvalidParameters),
        "affinity 3"
    );
    assert_eq!(call64([0xc400_0001, 0, 0, 0], &NONE), Answer::Suspend);
    assert_eq!(
        call64([0xc400_0004, 3, 1, 0], &NONE),
        Answer::AffinityInfo {
            target: 3,
            level: 1
        }
    );
    let features = |function| call64([0x8400_000a, function, 0, 0], &NONE);
    for function in [0xc400_0003, 0x8400_0003, 0xc400_0001, 0xc400_0004] {
        assert_eq!(features(function), Answer::Value(0), "{function:#x}");
    }
    // There is no 64-bit PSCI_VERSION, nor SYSTEM_OFF.
    for function in [0xc400_0000, 0xc400_0008, 0xc000_0000] {
        assert_eq!(features(function), Answer::Value(NOT_SUPPORTED));
        assert_eq!(
            call64([function, 0, 0, 0], &NONE),
            Answer::Value(NOT_SUPPORTED)
        );
    }
    // Only the low word is the function's number.
    assert_eq!(
        call64([0xffff_ffff_8400_0000, 0, 0, 0], &NONE),
        Answer::Value(PSCI_VERSION)
    );
}

#[test]
fn services_identify_themselves() {
    // The UIDs as byte strings, as uuid_parse would give them.
    let bytes = |answer| match answer {
        Answer::Four(words) => words.map(u32::to_le_bytes).concat(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        bytes(call(0x8500_ff01, 0, 0, 0, &NONE)),
        [
            0xa7, 0x18, 0x12, 0xdc, 0xc6, 0x98, 0x43, 0x69, 0x9a, 0xcf, 0x79, 0xd1, 0x8d, 0xde,
            0xe6, 0x67
        ]
    );
    assert_eq!(
        bytes(call(0x8400_ff01, 0, 0, 0, &NONE)),
        [
            0xf8, 0x63, 0x38, 0x6f, 0x4b, 0x39, 0x4c, 0xbd, 0x92, 0x20, 0xce, 0x16, 0x41, 0xe5,
            0x9f, 0x6f
        ]
    );
    assert_eq!(call(0x8500_ff03, 0, 0, 0, &NONE), Answer::Pair(0, 1));
    assert_eq!(value(0x8400_ff00, 0), 15);
    assert_eq!(value(0x8500_ff00, 0), 3);
}

#[test]
fn workarounds() {
    let all = Workarounds {
        branch_predictor: false,
        branch_history: true,
        store_bypass: StoreBypass::Runtime,
    };
    for function in [0x8000_8000, 0x8000_7fff, 0x8000_3fff] {
        assert_eq!(value(0x8000_0001, function), u32::MAX);
        assert_eq!(call(0x8000_0001, function, 0, 0, &all), Answer::Value(0));
        assert_eq!(call(function, 1, 0, 0, &NONE), Answer::Workaround);
    }
    assert_eq!(
        call(0x8000_7fff, 1, 0, 0, &all),
        Answer::StoreBypassSwitch { enable: true }
    );
}

#[test]
fn unknown_functions_are_not_supported() {
    for function in [
        0,
        3,
        0x0400_0003,
        0x8400_0005,
        0x8400_0007,
        0x8400_000b,
        0x8400_001f,
        0xc400_0003, // 64-bit CPU_ON from a 32-bit guest
        0x8200_0000,
        0x9500_ff01,
        0xb200_0000,
        u32::MAX,
    ] {
        assert_eq!(value(function, u32::MAX), u32::MAX, "{function:#x}");
    }
}

#[test]
fn affinities() {
    assert_eq!(vcpu_affinity(VcpuId::new(0)), 0);
    assert_eq!(vcpu_affinity(VcpuId::new(15)), 15);
    assert_eq!(vcpu_affinity(VcpuId::new(16)), 0x100);
    assert_eq!(vcpu_affinity(VcpuId::new(127)), 0x70f);
    for index in 0..128 {
        let vcpu = VcpuId::new(index);
        assert_eq!(affinity_vcpu(vcpu_affinity(vcpu)), Some(vcpu));
        assert_eq!(affinity_vcpu(vcpu_affinity(vcpu) | 0x8000_0000), Some(vcpu));
    }
    for wrong in [0x10, 0xff, 0x1_0000, 0xff_ffff, u32::MAX] {
        assert_eq!(affinity_vcpu(wrong), None, "{wrong:#x}");
    }
}

#[test]
fn power_states() {
    let states = PowerStates::try_new(18).unwrap();
    assert_eq!(
        states.cpu_on(18),
        Err(PsciError::InvalidParameters),
        "Aff0 has 16 values"
    );
    assert_eq!(
        states.cpu_on(0x102),
        Err(PsciError::InvalidParameters),
        "vCPU 18"
    );
    assert!(states.set_on(VcpuId::new(0)));
    assert!(!states.set_on(VcpuId::new(18)) && !states.set_off(VcpuId::new(u16::MAX)));
    assert_eq!(states.state(VcpuId::new(18)), None);
    assert_eq!(states.cpu_on(0), Err(PsciError::AlreadyOn));
    assert_eq!(states.affinity_info(0, 0), 0);
    assert_eq!(states.affinity_info(1, 0), 1);
    let target = VcpuId::new(17);
    assert_eq!(states.cpu_on(0x101), Ok(target));
    assert_eq!(states.state(target), Some(PowerState::OnPending));
    assert_eq!(states.cpu_on(0x101), Err(PsciError::OnPending));
    assert_eq!(states.affinity_info(0x101, 0), 2);
    assert_eq!(states.affinity_info(0x100, 0), 1);
    assert_eq!(
        states.affinity_info(0x1ff, 1),
        2,
        "the cluster: one pending, one off"
    );
    assert_eq!(states.affinity_info(0xff, 1), 0);
    assert_eq!(states.affinity_info(0xffff, 2), 0);
    assert_eq!(states.cpu_on(0x100), Ok(VcpuId::new(16)));
    states.set_off(target);
    assert_eq!(states.affinity_info(0x1ff, 1), 2, "the pending one first");
    states.set_off(VcpuId::new(16));
    states.set_on(target);
    assert_eq!(states.cpu_on(0x101), Err(PsciError::AlreadyOn));
    states.set_off(target);
    assert_eq!(states.affinity_info(0x101, 0), 1);
    assert_eq!(states.cpu_on(0x101), Ok(target));
    for (wrong, level) in [(0, 3), (0, u32::MAX), (0x200, 1), (0x1_0000, 2), (0x102, 0)] {
        assert_eq!(
            states.affinity_info(wrong, level),
            -2i32 as u32,
            "{wrong:#x} {level}"
        );
    }
}

#[test]
fn exactly_one_cpu_on_wins() {
    let rounds = if cfg!(miri) { 5 } else { 200 };
    let states = PowerStates::try_new(2).unwrap();
    let barrier = Barrier::new(4);
    let wins = AtomicU8::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (states, barrier, wins) = (&states, &barrier, &wins);
            scope.spawn(move || {
                for _ in 0..rounds {
                    barrier.wait();
                    match states.cpu_on(1) {
                        Ok(vcpu) => {
                            assert_eq!(vcpu, VcpuId::new(1));
                            wins.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error, PsciError::OnPending),
                    }
                    barrier.wait();
                    if thread == 0 {
                        assert_eq!(wins.swap(0, Ordering::Relaxed), 1);
                        states.set_off(VcpuId::new(1));
                    }
                }
            });
        }
    });
}
