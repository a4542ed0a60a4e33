use super::*;

const LOW: ExceptionControl = ExceptionControl {
    sctlr: 0,
    vbar: 0xc000_8020,
    ttbcr: 0,
};

#[test]
fn undefined_instruction() {
    let e = take_exception(&LOW, 0x2000_0010, 0x1000, GuestException::Undefined);
    assert_eq!((e.pc, e.lr, e.spsr), (0xc000_8024, 0x1004, 0x2000_0010));
    // User mode, flags kept; interrupts masked, aborts and FIQ as before.
    assert_eq!(e.cpsr, 0x2000_009b);
    assert_eq!(e.fault, FaultRegisters::None);
    let e = take_exception(&LOW, 0x30, 0x1002, GuestException::Undefined);
    assert_eq!((e.lr, e.spsr), (0x1004, 0x30), "Thumb");
}

#[test]
fn aborts_return_where_the_architecture_says() {
    for (thumb, pc) in [(0, 0x2000), (psr::T, 0x2002)] {
        let cpsr = 0x6000_0013 | thumb;
        let cause = FaultCause::External;
        let e = take_exception(
            &LOW,
            cpsr,
            pc,
            GuestException::PrefetchAbort { address: pc, cause },
        );
        assert_eq!((e.pc, e.lr, e.cpsr), (0xc000_802c, pc + 4, 0x6000_0197));
        assert_eq!(e.fault, FaultRegisters::Instruction { ifsr: 8, ifar: pc });
        let e = take_exception(
            &LOW,
            cpsr,
            pc,
            GuestException::DataAbort {
                address: 0xdead_beef,
                cause,
                is_write: true,
            },
        );
        assert_eq!((e.pc, e.lr, e.spsr), (0xc000_8030, pc + 8, cpsr));
        assert_eq!(
            e.fault,
            FaultRegisters::Data {
                dfsr: 0x808,
                dfar: 0xdead_beef
            }
        );
    }
}

#[test]
fn vectors_and_state_follow_sctlr() {
    let control = ExceptionControl {
        sctlr: SCTLR_V | SCTLR_TE | SCTLR_EE,
        vbar: 0x1234_5660,
        ttbcr: 0,
    };
    // IT state, Jazelle and everything else of the interrupted state goes to SPSR only.
    let cpsr = psr::IT_MASK | psr::J | psr::T | 0x1f;
    let e = take_exception(&control, cpsr, 0, GuestException::Undefined);
    assert_eq!(e.pc, 0xffff_0004);
    assert_eq!(e.cpsr, psr::T | psr::E | psr::I | psr::MODE_UND);
    assert_eq!(e.spsr, cpsr);
    // A guest may write anything to VBAR; a program counter at the end wraps.
    let control = ExceptionControl {
        sctlr: 0,
        vbar: u32::MAX,
        ttbcr: 0,
    };
    let e = take_exception(
        &control,
        0x13,
        u32::MAX - 3,
        GuestException::DataAbort {
            address: 0,
            cause: FaultCause::Debug,
            is_write: false,
        },
    );
    assert_eq!((e.pc, e.lr), (0xffff_fff0, 4));
}

#[test]
fn fault_status_formats() {
    for (cause, short, long) in [
        (FaultCause::External, 0x008, 0x210),
        (FaultCause::Translation { level: 1 }, 0x005, 0x205),
        (FaultCause::Translation { level: 2 }, 0x007, 0x206),
        (FaultCause::Translation { level: 3 }, 0x007, 0x207),
        (FaultCause::Translation { level: 200 }, 0x007, 0x207),
        (FaultCause::Alignment, 0x001, 0x221),
        (FaultCause::Debug, 0x002, 0x222),
    ] {
        assert_eq!(fault_status(cause, false), short, "{cause:?}");
        assert_eq!(fault_status(cause, true), long, "{cause:?}");
    }
    let lpae = ExceptionControl {
        ttbcr: TTBCR_EAE,
        ..LOW
    };
    let e = take_exception(
        &lpae,
        0x13,
        0,
        GuestException::DataAbort {
            address: 4,
            cause: FaultCause::External,
            is_write: true,
        },
    );
    assert_eq!(
        e.fault,
        FaultRegisters::Data {
            dfsr: 0xa10,
            dfar: 4
        }
    );
}
