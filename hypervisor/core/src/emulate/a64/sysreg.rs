//! What a trapped MSR, MRS or system instruction of an AArch64 guest does: the decision, as a value.
//!
//! As [`super::super::coproc`], for the traps of HCR_EL2 (TID3, TACR, TIDCP, TSW, TVM), MDCR_EL2, CPTR_EL2 and CNTHCTL_EL2.
//! Everything not listed is UNDEFINED, as in Xen.

use super::features::CpuFeatures64;
use super::syndrome::SystemAccess;
use crate::emulate::coproc::{Privilege, SRE_VALUE};
use crate::emulate::vtimer::TimerRegister;

/// CNTKCTL_EL1.EL0PTEN: EL0 may use the physical timer.
const EL0PTEN: u64 = 1 << 9;

/// What decisions depend on, beside the access itself.
#[derive(Clone, Copy, Debug)]
pub struct AccessContext<'a> {
    /// EL0 or EL1 of the guest.
    pub privilege: Privilege,
    /// The guest's CNTKCTL_EL1.
    pub cntkctl: u64,
    /// The value that ACTLR_EL1 reads.
    pub actlr: u64,
    /// The sanitised identification registers.
    pub features: &'a CpuFeatures64,
}

/// A virtual memory control register (HCR_EL2.TVM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the register of EL1 of its name")]
pub enum VmRegister {
    Sctlr,
    Ttbr0,
    Ttbr1,
    Tcr,
    Esr,
    Far,
    Afsr0,
    Afsr1,
    Mair,
    Amair,
    Contextidr,
}

/// What an access does. All but `Undefined` then advance the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// MRS: the transfer register gets this value.
    Read(u64),
    /// MSR: nothing happens.
    Ignore,
    /// The guest takes an Undefined Instruction exception.
    Undefined,
    /// MRS of a timer register.
    TimerRead(TimerRegister),
    /// MSR of a timer register.
    TimerWrite(TimerRegister),
    /// MRS of CNTP_CVAL_EL0.
    CompareRead,
    /// MSR of CNTP_CVAL_EL0.
    CompareWrite,
    /// Cache maintenance by set and way: flush the domain's RAM, then trap virtual memory controls (TVM).
    SetWay,
    /// MSR: write the transfer register to the real register, then look whether the guest's cache state changed.
    VmWrite(VmRegister),
    /// MSR of ICC_SGI1R_EL1: the transfer register says which SGI goes where.
    SendSgi,
}

const fn key(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    SystemAccess::key_of(op0, op1, crn, crm, op2)
}

const SCTLR: u32 = key(3, 0, 1, 0, 0);
const ACTLR: u32 = key(3, 0, 1, 0, 1);
const TTBR0: u32 = key(3, 0, 2, 0, 0);
const TTBR1: u32 = key(3, 0, 2, 0, 1);
const TCR: u32 = key(3, 0, 2, 0, 2);
const AFSR0: u32 = key(3, 0, 5, 1, 0);
const AFSR1: u32 = key(3, 0, 5, 1, 1);
const ESR: u32 = key(3, 0, 5, 2, 0);
const FAR: u32 = key(3, 0, 6, 0, 0);
const MAIR: u32 = key(3, 0, 10, 2, 0);
const AMAIR: u32 = key(3, 0, 10, 3, 0);
const CONTEXTIDR: u32 = key(3, 0, 13, 0, 1);
const DC_ISW: u32 = key(1, 0, 7, 6, 2);
const DC_CSW: u32 = key(1, 0, 7, 10, 2);
const DC_CISW: u32 = key(1, 0, 7, 14, 2);
const ICC_SGI1R: u32 = key(3, 0, 12, 11, 5);
const ICC_SRE: u32 = key(3, 0, 12, 12, 5);
const CNTP_TVAL: u32 = key(3, 3, 14, 2, 0);
const CNTP_CTL: u32 = key(3, 3, 14, 2, 1);
const CNTP_CVAL: u32 = key(3, 3, 14, 2, 2);
const PMUSERENR: u32 = key(3, 3, 9, 14, 0);
const PMINTENSET: u32 = key(3, 0, 9, 14, 1);
const PMINTENCLR: u32 = key(3, 0, 9, 14, 2);
const MDCCINT: u32 = key(2, 0, 0, 2, 0);
const MDSCR: u32 = key(2, 0, 0, 2, 2);
const MDRAR: u32 = key(2, 0, 1, 0, 0);
const OSLAR: u32 = key(2, 0, 1, 0, 4);
const OSLSR: u32 = key(2, 0, 1, 1, 4);
const OSDLR: u32 = key(2, 0, 1, 3, 4);
const MDCCSR: u32 = key(2, 3, 0, 1, 0);

/// OSLSR_EL1: OSLM is 0b10, the lock is implemented and (always) free.
const OSLSR_VALUE: u64 = 1 << 3;

const fn read_or_ignore(access: SystemAccess, value: u64) -> Action {
    if access.is_read() {
        Action::Read(value)
    } else {
        Action::Ignore
    }
}

const fn read_only(access: SystemAccess, value: u64) -> Action {
    if access.is_read() {
        Action::Read(value)
    } else {
        Action::Undefined
    }
}

const fn write_only(access: SystemAccess, action: Action) -> Action {
    if access.is_read() {
        Action::Undefined
    } else {
        action
    }
}

/// The emulated physical timer, as far as the guest may use it.
const fn timer(access: SystemAccess, context: &AccessContext<'_>) -> Option<Action> {
    let register = match access.key() {
        CNTP_CTL => Some(TimerRegister::Control),
        CNTP_TVAL => Some(TimerRegister::TimerValue),
        CNTP_CVAL => None,
        _ => return None,
    };
    if matches!(context.privilege, Privilege::Pl0) && context.cntkctl & EL0PTEN == 0 {
        return Some(Action::Undefined);
    }
    Some(match (register, access.is_read()) {
        (Some(register), true) => Action::TimerRead(register),
        (Some(register), false) => Action::TimerWrite(register),
        (None, true) => Action::CompareRead,
        (None, false) => Action::CompareWrite,
    })
}

/// Decides a trapped MSR, MRS or system instruction.
pub const fn decide(access: SystemAccess, context: &AccessContext<'_>) -> Action {
    if let Some(action) = timer(access, context) {
        return action;
    }
    if matches!(context.privilege, Privilege::Pl0) {
        // EL0 may read that the PMU has nothing for it, and the debug communication status.
        return match access.key() {
            PMUSERENR | MDCCSR => read_only(access, 0),
            _ => Action::Undefined,
        };
    }
    match access.key() {
        ACTLR => read_or_ignore(access, context.actlr),
        DC_ISW | DC_CSW | DC_CISW => write_only(access, Action::SetWay),
        SCTLR => write_only(access, Action::VmWrite(VmRegister::Sctlr)),
        TTBR0 => write_only(access, Action::VmWrite(VmRegister::Ttbr0)),
        TTBR1 => write_only(access, Action::VmWrite(VmRegister::Ttbr1)),
        TCR => write_only(access, Action::VmWrite(VmRegister::Tcr)),
        ESR => write_only(access, Action::VmWrite(VmRegister::Esr)),
        FAR => write_only(access, Action::VmWrite(VmRegister::Far)),
        AFSR0 => write_only(access, Action::VmWrite(VmRegister::Afsr0)),
        AFSR1 => write_only(access, Action::VmWrite(VmRegister::Afsr1)),
        MAIR => write_only(access, Action::VmWrite(VmRegister::Mair)),
        AMAIR => write_only(access, Action::VmWrite(VmRegister::Amair)),
        CONTEXTIDR => write_only(access, Action::VmWrite(VmRegister::Contextidr)),
        ICC_SGI1R => write_only(access, Action::SendSgi),
        ICC_SRE => read_or_ignore(access, SRE_VALUE as u64),
        MDSCR | MDCCINT | OSDLR => read_or_ignore(access, 0),
        MDRAR | MDCCSR => read_only(access, 0),
        OSLAR => write_only(access, Action::Ignore),
        OSLSR => read_only(access, OSLSR_VALUE),
        PMUSERENR | PMINTENSET | PMINTENCLR => read_or_ignore(access, 0),
        _ => group(access, context),
    }
}

/// The registers that come in groups.
const fn group(access: SystemAccess, context: &AccessContext<'_>) -> Action {
    match (
        access.op0(),
        access.op1(),
        access.crn(),
        access.crm(),
        access.op2(),
    ) {
        // Identification.
        (3, 0, 0, crm @ 1..=7, op2) => read_only(access, context.features.read(crm, op2)),
        // Breakpoints and watchpoints keep nothing.
        (2, 0, 0, _, 4..=7) => read_or_ignore(access, 0),
        // The PMU, which is declared absent: as zero, for whoever does not ask.
        (3, 3, 9, 12 | 13, _) | (3, 3, 9, 14, 3) | (3, 3, 14, 8..=15, _) => {
            read_or_ignore(access, 0)
        }
        _ => Action::Undefined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide_at(privilege: Privilege, key: u32, is_read: bool) -> Action {
        let mut features = CpuFeatures64::default();
        features.pfr[0] = 0x2222;
        let context = AccessContext {
            privilege,
            cntkctl: 0,
            actlr: 0x1234,
            features: &features,
        };
        decide(
            SystemAccess::new(key | 5 << 5 | u32::from(is_read)),
            &context,
        )
    }
    fn read(key: u32) -> Action {
        decide_at(Privilege::Pl1, key, true)
    }
    fn write(key: u32) -> Action {
        decide_at(Privilege::Pl1, key, false)
    }

    #[test]
    fn identification_is_the_sanitised_one() {
        assert_eq!(read(key(3, 0, 0, 4, 0)), Action::Read(0x2222));
        assert_eq!(read(key(3, 0, 0, 4, 4)), Action::Read(0));
        assert_eq!(read(key(3, 0, 0, 7, 7)), Action::Read(0));
        assert_eq!(write(key(3, 0, 0, 4, 0)), Action::Undefined);
        // CRm 0 and 8 are not of the group.
        assert_eq!(read(key(3, 0, 0, 0, 0)), Action::Undefined);
        assert_eq!(read(key(3, 0, 0, 8, 0)), Action::Undefined);
    }

    #[test]
    fn known_registers() {
        assert_eq!(read(ACTLR), Action::Read(0x1234));
        assert_eq!(write(ACTLR), Action::Ignore);
        assert_eq!(write(DC_CISW), Action::SetWay);
        assert_eq!(write(SCTLR), Action::VmWrite(VmRegister::Sctlr));
        assert_eq!(read(SCTLR), Action::Undefined);
        assert_eq!(read(OSLSR), Action::Read(8));
        assert_eq!(write(OSLAR), Action::Ignore);
        assert_eq!(read(OSLAR), Action::Undefined);
        assert_eq!(write(key(2, 0, 0, 5, 4)), Action::Ignore);
        assert_eq!(read(key(3, 3, 9, 12, 0)), Action::Read(0));
        assert_eq!(write(ICC_SGI1R), Action::SendSgi);
        assert_eq!(read(CNTP_CTL), Action::TimerRead(TimerRegister::Control));
        assert_eq!(write(CNTP_CVAL), Action::CompareWrite);
        // EL2's own, SVE's, the implementation's.
        for key in [key(3, 4, 1, 1, 0), key(3, 0, 1, 2, 0), key(3, 1, 15, 0, 0)] {
            assert_eq!(
                (read(key), write(key)),
                (Action::Undefined, Action::Undefined)
            );
        }
    }

    #[test]
    fn el0_has_next_to_nothing() {
        for key in [
            ACTLR, DC_ISW, SCTLR, ICC_SGI1R, MDSCR, OSLSR, CNTP_CTL, CNTP_CVAL,
        ] {
            assert_eq!(
                decide_at(Privilege::Pl0, key, true),
                Action::Undefined,
                "{key:#x}"
            );
            assert_eq!(
                decide_at(Privilege::Pl0, key, false),
                Action::Undefined,
                "{key:#x}"
            );
        }
        assert_eq!(decide_at(Privilege::Pl0, PMUSERENR, true), Action::Read(0));
        assert_eq!(
            decide_at(Privilege::Pl0, PMUSERENR, false),
            Action::Undefined
        );
        let features = CpuFeatures64::default();
        let context = AccessContext {
            privilege: Privilege::Pl0,
            cntkctl: EL0PTEN,
            actlr: 0,
            features: &features,
        };
        assert_eq!(
            decide(SystemAccess::new(CNTP_CTL | 1), &context),
            Action::TimerRead(TimerRegister::Control)
        );
    }

    /// No access panics, whatever it names.
    #[test]
    fn any_access_is_decided() {
        let features = CpuFeatures64::default();
        for privilege in [Privilege::Pl0, Privilege::Pl1] {
            let context = AccessContext {
                privilege,
                cntkctl: u64::MAX,
                actlr: 0,
                features: &features,
            };
            let step = if cfg!(miri) { 0x3fff } else { 31 };
            for iss in (0..1u32 << 25).step_by(step) {
                let _ = decide(SystemAccess::new(iss), &context);
            }
        }
    }
}
