//! What a trapped coprocessor access does: the decision, as a value, for the architecture code to perform.
//!
//! Covers what the traps of `xen-arm.md` 3.21 let through (HCR.TID3, TAC, TIDCP, TSW, TVM; HSTR.T15; HDCR; HCPTR;
//! CNTHCTL). Everything not listed is UNDEFINED, as in Xen. An access from PL0 is UNDEFINED unless the architecture
//! gives PL0 the register. The condition of the instruction has been checked by the caller
//! ([`super::syndrome::Syndrome::condition_passed`]).

use super::syndrome::{Cp32, Cp64};
use super::vtimer::TimerRegister;
use crate::vgic::HAS_V3;

/// CNTKCTL.PL0PCTEN: PL0 may read CNTPCT.
const CNTKCTL_PL0PCTEN: u32 = 1 << 0;
/// CNTKCTL.PL0PTEN: PL0 may use the physical timer.
const CNTKCTL_PL0PTEN: u32 = 1 << 9;

/// The identification registers that guests read, as boot CPU values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuFeatures {
    /// MIDR.
    pub midr: u32,
    /// ID_PFR0 to ID_PFR2.
    pub pfr: [u32; 3],
    /// ID_DFR0, ID_DFR1.
    pub dfr: [u32; 2],
    /// ID_AFR0.
    pub afr0: u32,
    /// ID_MMFR0 to ID_MMFR5.
    pub mmfr: [u32; 6],
    /// ID_ISAR0 to ID_ISAR6.
    pub isar: [u32; 7],
    /// MVFR0 to MVFR2.
    pub mvfr: [u32; 3],
}

impl CpuFeatures {
    /// Returns whether the guest has system registers of a GICv3 (ID_PFR1.GIC).
    pub const fn has_gic_registers(&self) -> bool {
        HAS_V3 && self.pfr[1] >> 28 != 0
    }

    /// Returns the values that guests see: AMU and RAS (with its fraction) hidden, as Xen does.
    #[must_use]
    pub const fn sanitised(mut self) -> Self {
        // ID_PFR0: RAS 31:28, AMU 23:20. ID_PFR2: RAS_frac 11:8.
        self.pfr[0] &= !0xf0f0_0000;
        self.pfr[2] &= !0x0000_0f00;
        self
    }

    /// Returns DBGDIDR: one watchpoint, two breakpoints, debug version 7.1 (ID 5), variant and revision of MIDR.
    pub const fn dbgdidr(&self) -> u32 {
        1 << 24 | 5 << 16 | (self.midr >> 20 & 0xf) << 4 | self.midr & 0xf
    }

    /// Returns the register of ID group 3 (`0, c0, c1..c7, opc2`); unallocated ones read as zero.
    pub(super) const fn group3(&self, crm: u8, opc2: u8) -> u32 {
        match (crm, opc2) {
            (1, 0) => self.pfr[0],
            (1, 1) => self.pfr[1],
            (1, 2) => self.dfr[0],
            (1, 3) => self.afr0,
            (1, 4) => self.mmfr[0],
            (1, 5) => self.mmfr[1],
            (1, 6) => self.mmfr[2],
            (1, 7) => self.mmfr[3],
            (2, 0) => self.isar[0],
            (2, 1) => self.isar[1],
            (2, 2) => self.isar[2],
            (2, 3) => self.isar[3],
            (2, 4) => self.isar[4],
            (2, 5) => self.isar[5],
            (2, 6) => self.mmfr[4],
            (2, 7) => self.isar[6],
            (3, 4) => self.pfr[2],
            (3, 5) => self.dfr[1],
            (3, 6) => self.mmfr[5],
            _ => 0,
        }
    }
}

/// The privilege level of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// User mode.
    Pl0,
    /// Any other mode.
    Pl1,
}

impl Privilege {
    /// Returns the privilege of a CPSR.
    #[inline]
    pub const fn of(cpsr: u32) -> Self {
        if cpsr & 0x1f == super::regs::psr::MODE_USR {
            Self::Pl0
        } else {
            Self::Pl1
        }
    }
}

/// What decisions depend on, beside the access itself.
#[derive(Clone, Copy, Debug)]
pub struct AccessContext<'a> {
    /// Privilege of the guest.
    pub privilege: Privilege,
    /// The guest's CNTKCTL; looked at only for timer accesses from PL0.
    pub cntkctl: u32,
    /// The value that ACTLR reads for this vCPU.
    pub actlr: u32,
    /// The sanitised identification registers.
    pub features: &'a CpuFeatures,
}

/// A virtual memory control register (HCR.TVM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmRegister {
    /// SCTLR.
    Sctlr,
    /// TTBR0, 32-bit write (the upper half of the 64-bit register keeps its value).
    Ttbr0,
    /// TTBR1, 32-bit write.
    Ttbr1,
    /// TTBCR.
    Ttbcr,
    /// TTBCR2 of ARMv8 (RES0 on ARMv7).
    Ttbcr2,
    /// DACR.
    Dacr,
    /// DFSR.
    Dfsr,
    /// IFSR.
    Ifsr,
    /// DFAR.
    Dfar,
    /// IFAR.
    Ifar,
    /// ADFSR.
    Adfsr,
    /// AIFSR.
    Aifsr,
    /// PRRR or MAIR0.
    Mair0,
    /// NMRR or MAIR1.
    Mair1,
    /// AMAIR0.
    Amair0,
    /// AMAIR1.
    Amair1,
    /// CONTEXTIDR.
    Contextidr,
}

/// A 64-bit virtual memory control register (HCR.TVM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmRegister64 {
    /// TTBR0.
    Ttbr0,
    /// TTBR1.
    Ttbr1,
}

/// What a 32-bit access does. All but `Undefined` then advance the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// MRC: the transfer register gets this value.
    Read(u32),
    /// MCR: nothing happens.
    Ignore,
    /// The guest takes an Undefined Instruction exception.
    Undefined,
    /// MRC of a timer register: read it with [`super::vtimer::PhysicalTimer::read`] into the transfer register.
    TimerRead(TimerRegister),
    /// MCR of a timer register: write the transfer register to it.
    TimerWrite(TimerRegister),
    /// Cache maintenance by set and way: flush the domain's RAM, then trap virtual memory controls (TVM).
    SetWay,
    /// MCR: write the transfer register to the real register, then look whether the guest's cache state changed.
    VmWrite(VmRegister),
}

/// What a 64-bit access does. All but `Undefined` then advance the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action64 {
    /// The guest takes an Undefined Instruction exception.
    Undefined,
    /// MRRC of CNTPCT.
    CounterRead,
    /// MRRC of CNTP_CVAL.
    CompareRead,
    /// MCRR of CNTP_CVAL.
    CompareWrite,
    /// MCRR of ICC_SGI1R of a GICv3: the register pair says which SGI goes where.
    SendSgi,
    /// MCRR: write the register pair to the real register, then look whether the guest's cache state changed.
    VmWrite(VmRegister64),
}

const fn key(opc1: u32, crn: u32, crm: u32, opc2: u32) -> u32 {
    Cp32::key_of(opc1, crn, crm, opc2)
}

const SCTLR: u32 = key(0, 1, 0, 0);
const ACTLR: u32 = key(0, 1, 0, 1);
const TTBR0: u32 = key(0, 2, 0, 0);
const TTBR1: u32 = key(0, 2, 0, 1);
const TTBCR: u32 = key(0, 2, 0, 2);
const TTBCR2: u32 = key(0, 2, 0, 3);
const DACR: u32 = key(0, 3, 0, 0);
const DFSR: u32 = key(0, 5, 0, 0);
const IFSR: u32 = key(0, 5, 0, 1);
const ADFSR: u32 = key(0, 5, 1, 0);
const AIFSR: u32 = key(0, 5, 1, 1);
const DFAR: u32 = key(0, 6, 0, 0);
const IFAR: u32 = key(0, 6, 0, 2);
const DCISW: u32 = key(0, 7, 6, 2);
const DCCSW: u32 = key(0, 7, 10, 2);
const DCCISW: u32 = key(0, 7, 14, 2);
const PMCR: u32 = key(0, 9, 12, 0);
const PMCNTENSET: u32 = key(0, 9, 12, 1);
const PMCNTENCLR: u32 = key(0, 9, 12, 2);
const PMOVSR: u32 = key(0, 9, 12, 3);
const PMSWINC: u32 = key(0, 9, 12, 4);
const PMSELR: u32 = key(0, 9, 12, 5);
const PMCEID0: u32 = key(0, 9, 12, 6);
const PMCEID1: u32 = key(0, 9, 12, 7);
const PMCCNTR: u32 = key(0, 9, 13, 0);
const PMXEVTYPER: u32 = key(0, 9, 13, 1);
const PMXEVCNTR: u32 = key(0, 9, 13, 2);
const PMUSERENR: u32 = key(0, 9, 14, 0);
const PMINTENSET: u32 = key(0, 9, 14, 1);
const PMINTENCLR: u32 = key(0, 9, 14, 2);
const PMOVSSET: u32 = key(0, 9, 14, 3);
const MAIR0: u32 = key(0, 10, 2, 0);
const MAIR1: u32 = key(0, 10, 2, 1);
const AMAIR0: u32 = key(0, 10, 3, 0);
const AMAIR1: u32 = key(0, 10, 3, 1);
const ICC_SRE: u32 = key(0, 12, 12, 5);
const CONTEXTIDR: u32 = key(0, 13, 0, 1);
const CNTP_TVAL: u32 = key(0, 14, 2, 0);
const CNTP_CTL: u32 = key(0, 14, 2, 1);

const TTBR0_64: u32 = Cp64::key_of(0, 2);
const TTBR1_64: u32 = Cp64::key_of(1, 2);
const CNTPCT: u32 = Cp64::key_of(0, 14);
const CNTP_CVAL: u32 = Cp64::key_of(2, 14);
const ICC_SGI1R: u32 = Cp64::key_of(0, 12);

const DBGDIDR: u32 = key(0, 0, 0, 0);
const DBGBVR0: u32 = key(0, 0, 0, 4);
const DBGBCR0: u32 = key(0, 0, 0, 5);
const DBGWVR0: u32 = key(0, 0, 0, 6);
const DBGWCR0: u32 = key(0, 0, 0, 7);
const DBGDSCRINT: u32 = key(0, 0, 1, 0);
const DBGBVR1: u32 = key(0, 0, 1, 4);
const DBGBCR1: u32 = key(0, 0, 1, 5);
const DBGDSCREXT: u32 = key(0, 0, 2, 2);
const DBGVCR: u32 = key(0, 0, 7, 0);
const DBGOSLAR: u32 = key(0, 1, 0, 4);
const DBGOSLSR: u32 = key(0, 1, 1, 4);
const DBGOSDLR: u32 = key(0, 1, 3, 4);

/// DBGOSLSR: OSLM is 0b10, the lock is implemented and (always) free.
const OSLSR_VALUE: u32 = 1 << 3;

/// Returns the action of a register that reads as zero and ignores writes.
const fn zero(access: Cp32) -> Action {
    read_or_ignore(access, 0)
}

const fn read_or_ignore(access: Cp32, value: u32) -> Action {
    if access.is_read() {
        Action::Read(value)
    } else {
        Action::Ignore
    }
}

const fn read_only(access: Cp32, value: u32) -> Action {
    if access.is_read() {
        Action::Read(value)
    } else {
        Action::Undefined
    }
}

const fn vm(access: Cp32, register: VmRegister) -> Action {
    // TVM traps writes only; a read here would be a processor that traps more than it was told to.
    if access.is_read() {
        Action::Undefined
    } else {
        Action::VmWrite(register)
    }
}

/// ICC_SRE: system registers only, no bypass of interrupts.
pub(super) const SRE_VALUE: u32 = 7;

const fn timer(access: Cp32, register: TimerRegister) -> Action {
    if access.is_read() {
        Action::TimerRead(register)
    } else {
        Action::TimerWrite(register)
    }
}

/// Decides a trapped MCR or MRC to CP15.
pub const fn cp15(access: Cp32, context: &AccessContext<'_>) -> Action {
    if matches!(context.privilege, Privilege::Pl0) {
        return cp15_user(access, context);
    }
    match access.key() {
        CNTP_CTL => timer(access, TimerRegister::Control),
        CNTP_TVAL => timer(access, TimerRegister::TimerValue),
        ACTLR => read_or_ignore(access, context.actlr),
        DCISW | DCCSW | DCCISW => {
            if access.is_read() {
                Action::Undefined
            } else {
                Action::SetWay
            }
        }
        SCTLR => vm(access, VmRegister::Sctlr),
        TTBR0 => vm(access, VmRegister::Ttbr0),
        TTBR1 => vm(access, VmRegister::Ttbr1),
        TTBCR => vm(access, VmRegister::Ttbcr),
        TTBCR2 => vm(access, VmRegister::Ttbcr2),
        DACR => vm(access, VmRegister::Dacr),
        DFSR => vm(access, VmRegister::Dfsr),
        IFSR => vm(access, VmRegister::Ifsr),
        DFAR => vm(access, VmRegister::Dfar),
        IFAR => vm(access, VmRegister::Ifar),
        ADFSR => vm(access, VmRegister::Adfsr),
        AIFSR => vm(access, VmRegister::Aifsr),
        MAIR0 => vm(access, VmRegister::Mair0),
        MAIR1 => vm(access, VmRegister::Mair1),
        AMAIR0 => vm(access, VmRegister::Amair0),
        AMAIR1 => vm(access, VmRegister::Amair1),
        CONTEXTIDR => vm(access, VmRegister::Contextidr),
        ICC_SRE if context.features.has_gic_registers() => read_or_ignore(access, SRE_VALUE),
        // No counters. The cycle counter cannot be declared absent, so it stands still, as under Xen.
        PMCR | PMCNTENSET | PMCNTENCLR | PMOVSR | PMSWINC | PMSELR | PMCEID0 | PMCEID1
        | PMCCNTR | PMXEVTYPER | PMXEVCNTR | PMUSERENR | PMINTENSET | PMINTENCLR | PMOVSSET => {
            zero(access)
        }
        _ => {
            if access.opc1() == 0 && access.crn() == 0 && access.crm() >= 1 && access.crm() <= 7 {
                read_only(access, context.features.group3(access.crm(), access.opc2()))
            } else {
                // TIDCP (lockdown, L2CTLR, L2ECTLR), T15 (implementation defined c15) and the rest.
                Action::Undefined
            }
        }
    }
}

const fn cp15_user(access: Cp32, context: &AccessContext<'_>) -> Action {
    match access.key() {
        CNTP_CTL if context.cntkctl & CNTKCTL_PL0PTEN != 0 => timer(access, TimerRegister::Control),
        CNTP_TVAL if context.cntkctl & CNTKCTL_PL0PTEN != 0 => {
            timer(access, TimerRegister::TimerValue)
        }
        // PMUSERENR is read-only at PL0 and says that PL0 has nothing else of the PMU.
        PMUSERENR => read_only(access, 0),
        _ => Action::Undefined,
    }
}

/// Decides a trapped MCRR or MRRC to CP15.
pub const fn cp15_double(access: Cp64, context: &AccessContext<'_>) -> Action64 {
    let privileged = matches!(context.privilege, Privilege::Pl1);
    match access.key() {
        CNTP_CVAL if privileged || context.cntkctl & CNTKCTL_PL0PTEN != 0 => {
            if access.is_read() {
                Action64::CompareRead
            } else {
                Action64::CompareWrite
            }
        }
        CNTPCT if access.is_read() && (privileged || context.cntkctl & CNTKCTL_PL0PCTEN != 0) => {
            Action64::CounterRead
        }
        ICC_SGI1R if privileged && !access.is_read() && context.features.has_gic_registers() => {
            Action64::SendSgi
        }
        TTBR0_64 if privileged && !access.is_read() => Action64::VmWrite(VmRegister64::Ttbr0),
        TTBR1_64 if privileged && !access.is_read() => Action64::VmWrite(VmRegister64::Ttbr1),
        _ => Action64::Undefined,
    }
}

/// Decides a trapped MCR or MRC to CP14. MRRC, LDC and STC to CP14 are UNDEFINED.
///
/// This is what makes Linux find debug version 7.1, clear its registers and then say "Failed to enable monitor mode":
/// DBGDSCR keeps no bit.
pub const fn cp14(access: Cp32, context: &AccessContext<'_>) -> Action {
    let privileged = matches!(context.privilege, Privilege::Pl1);
    match access.key() {
        // PL0 may read these two as long as DBGDSCRext.UDCCdis is 0, which it always is.
        DBGDIDR => read_only(access, context.features.dbgdidr()),
        DBGDSCRINT => read_only(access, 0),
        _ if !privileged => Action::Undefined,
        DBGOSLAR => {
            if access.is_read() {
                Action::Undefined
            } else {
                Action::Ignore
            }
        }
        DBGOSLSR => read_only(access, OSLSR_VALUE),
        DBGDSCREXT | DBGOSDLR | DBGVCR | DBGBVR0 | DBGBCR0 | DBGWVR0 | DBGWCR0 | DBGBVR1
        | DBGBCR1 => zero(access),
        _ => Action::Undefined,
    }
}

/// Decides a VMRS trapped by HCR.TID3: MVFR0 to MVFR2. Linux reads MVFR0 and MVFR1 thousands of times (once for each
/// switch of VFP state), so this is a fast exit; a machine whose ID registers need no change may leave TID3 clear.
#[inline]
pub const fn cp10(access: Cp32, context: &AccessContext<'_>) -> Action {
    if !access.is_read() || access.opc1() != 7 || matches!(context.privilege, Privilege::Pl0) {
        return Action::Undefined;
    }
    match access.crn() {
        7 => Action::Read(context.features.mvfr[0]),
        6 => Action::Read(context.features.mvfr[1]),
        5 => Action::Read(context.features.mvfr[2]),
        _ => Action::Undefined,
    }
}

#[cfg(test)]
mod tests;
