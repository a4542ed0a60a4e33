//! An AArch32 guest of an AArch64 hypervisor: where its registers are (Arm DDI 0487 D1.8.1, D24.2), so that what
//! [`super::super`] decides for AArch32 guests holds for it too. The user programs of an AArch64 guest can be such as well.
//!
//! All banked general-purpose registers are parts of x0 to x30, whose upper halves are then of no meaning: they are ignored
//! when read and zero when written.

use super::sysreg::VmRegister;
use crate::emulate::coproc;
use crate::emulate::inject::{self, ExceptionControl, ExceptionEntry, GuestException};
use crate::emulate::regs::{GuestRegs, psr};

/// SPSR_EL2 of a guest in AArch32 state: DIT, where CPSR once had J.
const DIT: u32 = 1 << 24;
/// DIT in CPSR and in the SPSRs that the guest sees.
const DIT_OF_CPSR: u32 = 1 << 21;
/// SPSR_EL2: software step, which AArch32 has not.
const SS: u32 = 1 << 21;
/// SPSR_EL2 and CPSR: illegal execution state.
const IL: u32 = 1 << 20;
/// SPSR_EL2 and CPSR: speculative store bypass is safe.
const SSBS: u32 = 1 << 23;
/// SPSR_EL2 and CPSR: privileged access never.
const PAN: u32 = 1 << 22;
/// What SPSR_EL2 has and CPSR has elsewhere or not at all.
const NOT_CPSR: u32 = DIT | SS;
/// SCTLR: PAN stays as it is on an exception.
const SCTLR_SPAN: u32 = 1 << 23;
/// SCTLR: the value of SSBS on an exception.
const SCTLR_DSSBS: u32 = 1 << 31;

/// Which of x0 to x30 is LR_abt.
pub const LR_ABT: usize = 20;
/// Which of x0 to x30 is LR_und.
pub const LR_UND: usize = 22;

/// Returns which of x0 to x30 is register r0 to r14 of this mode (Arm DDI 0487 D1.8.1). Other numbers stay as they are.
pub const fn bank(mode: u32, register: u8) -> u8 {
    match (mode & psr::MODE_MASK, register) {
        (psr::MODE_FIQ, 8..=14) => register + 16,
        // LR comes before SP.
        (psr::MODE_IRQ, 13 | 14) => 30 - register,
        (psr::MODE_SVC, 13 | 14) => 32 - register,
        (psr::MODE_ABT, 13 | 14) => 34 - register,
        (psr::MODE_UND, 13 | 14) => 36 - register,
        _ => register,
    }
}

/// The registers of a stopped guest in AArch32 state.
pub struct Registers<'a> {
    /// x0 to x30.
    pub x: &'a mut [u64; 31],
    /// ELR_EL2.
    pub pc: &'a mut u64,
    /// SPSR_EL2.
    pub pstate: &'a mut u64,
}

impl Registers<'_> {
    fn state(&self) -> u32 {
        *self.pstate as u32
    }

    fn index(&self, register: u8) -> usize {
        usize::from(bank(self.state(), register))
    }

    fn read(&self, index: usize) -> u32 {
        self.x.get(index).map_or(0, |&x| x as u32)
    }

    fn write(&mut self, index: usize, value: u32) {
        if let Some(x) = self.x.get_mut(index) {
            *x = u64::from(value);
        }
    }

    /// A syndrome names a register as AArch64 sees it, and 31 stands for none. QEMU 10 leaves the number of a data abort as
    /// the instruction has it; one that is banked in this mode cannot be meant otherwise.
    fn named(&self, field: u8) -> usize {
        if field < 15 {
            self.index(field)
        } else {
            usize::from(field)
        }
    }
}

impl GuestRegs for Registers<'_> {
    fn get(&self, register: u8) -> u32 {
        if register > 14 {
            return 0;
        }
        self.read(self.index(register))
    }
    fn set(&mut self, register: u8, value: u32) {
        if register <= 14 {
            self.write(self.index(register), value);
        }
    }
    fn pc(&self) -> u32 {
        *self.pc as u32
    }
    fn set_pc(&mut self, value: u32) {
        *self.pc = u64::from(value);
    }
    fn cpsr(&self) -> u32 {
        self.state() & !NOT_CPSR
    }
    fn set_cpsr(&mut self, value: u32) {
        *self.pstate = u64::from(self.state() & NOT_CPSR | value & !NOT_CPSR);
    }
    fn transfer(&self, field: u8) -> u32 {
        self.read(self.named(field))
    }
    fn set_transfer(&mut self, field: u8, value: u32) {
        self.write(self.named(field), value);
    }
}

/// Returns the state after `exception` of a guest whose EL1 is in AArch32 state, stopped at `pc` with `state` (SPSR_EL2).
/// What is new of ARMv8 in the status registers is added to [`inject::take_exception`].
pub const fn take_exception(
    control: &ExceptionControl,
    state: u32,
    pc: u32,
    exception: GuestException,
) -> ExceptionEntry {
    let mut entry = inject::take_exception(control, state & !NOT_CPSR, pc, exception);
    entry.cpsr = entry.cpsr & !(IL | SSBS) | state & DIT;
    if control.sctlr & SCTLR_SPAN == 0 {
        entry.cpsr |= PAN;
    }
    if control.sctlr & SCTLR_DSSBS != 0 {
        entry.cpsr |= SSBS;
    }
    if state & DIT != 0 {
        entry.spsr |= DIT_OF_CPSR;
    }
    entry
}

/// Where a virtual memory control of AArch32 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The lower half of a register of EL1.
    Low(VmRegister),
    /// Its upper half.
    High(VmRegister),
    /// DACR32_EL2.
    Dacr,
    /// IFSR32_EL2.
    Ifsr,
}

/// Returns where a virtual memory control of AArch32 is (Arm DDI 0487, "AArch64 System register ... is architecturally
/// mapped to").
pub const fn place(register: coproc::VmRegister) -> Place {
    use coproc::VmRegister as Of;
    match register {
        Of::Sctlr => Place::Low(VmRegister::Sctlr),
        Of::Ttbr0 => Place::Low(VmRegister::Ttbr0),
        Of::Ttbr1 => Place::Low(VmRegister::Ttbr1),
        Of::Ttbcr => Place::Low(VmRegister::Tcr),
        Of::Ttbcr2 => Place::High(VmRegister::Tcr),
        Of::Dacr => Place::Dacr,
        Of::Dfsr => Place::Low(VmRegister::Esr),
        Of::Ifsr => Place::Ifsr,
        Of::Dfar => Place::Low(VmRegister::Far),
        Of::Ifar => Place::High(VmRegister::Far),
        Of::Adfsr => Place::Low(VmRegister::Afsr0),
        Of::Aifsr => Place::Low(VmRegister::Afsr1),
        Of::Mair0 => Place::Low(VmRegister::Mair),
        Of::Mair1 => Place::High(VmRegister::Mair),
        Of::Amair0 => Place::Low(VmRegister::Amair),
        Of::Amair1 => Place::High(VmRegister::Amair),
        Of::Contextidr => Place::Low(VmRegister::Contextidr),
    }
}

/// Returns `old` with another lower half.
pub const fn with_low(old: u64, low: u32) -> u64 {
    old & !0xffff_ffff | low as u64
}

/// Returns `old` with another upper half.
pub const fn with_high(old: u64, high: u32) -> u64 {
    old & 0xffff_ffff | (high as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulate::inject::FaultCause;

    #[test]
    fn each_mode_has_its_registers() {
        // r13, r14 of each mode as Arm DDI 0487 D1.8.1 lists them.
        for (mode, sp, lr) in [
            (psr::MODE_USR, 13, 14),
            (psr::MODE_SYS, 13, 14),
            (psr::MODE_IRQ, 17, 16),
            (psr::MODE_SVC, 19, 18),
            (psr::MODE_ABT, 21, 20),
            (psr::MODE_UND, 23, 22),
            (psr::MODE_FIQ, 29, 30),
        ] {
            assert_eq!((bank(mode, 13), bank(mode, 14)), (sp, lr), "{mode:#x}");
            for r in 0..13 {
                let banked = mode == psr::MODE_FIQ && r >= 8;
                assert_eq!(bank(mode, r), if banked { r + 16 } else { r });
            }
        }
        assert_eq!(usize::from(bank(psr::MODE_ABT, 14)), LR_ABT);
        assert_eq!(usize::from(bank(psr::MODE_UND, 14)), LR_UND);
    }

    #[test]
    fn registers_are_found_by_number_and_by_syndrome() {
        let mut x = core::array::from_fn(|i| 0xdead_0000_0000_0000 | i as u64);
        let (mut pc, mut pstate) = (0xffff_ffff_0000_1000, u64::from(psr::MODE_SVC));
        let mut regs = Registers {
            x: &mut x,
            pc: &mut pc,
            pstate: &mut pstate,
        };
        assert_eq!((regs.get(0), regs.get(14), regs.get(13)), (0, 18, 19));
        // AArch64's number, and QEMU's.
        assert_eq!((regs.transfer(18), regs.transfer(14)), (18, 18));
        assert_eq!((regs.transfer(5), regs.transfer(31)), (5, 0));
        // Hostile numbers.
        assert_eq!((regs.get(15), regs.get(255), regs.transfer(255)), (0, 0, 0));
        regs.set(15, 1);
        regs.set_transfer(31, 1);
        regs.set_transfer(19, 0xffff_ffff);
        assert_eq!(regs.get(13), 0xffff_ffff);
        assert_eq!(regs.pc(), 0x1000);
        regs.set_pc(0x2000);
        assert_eq!((x[19], pc), (0xffff_ffff, 0x2000));
        assert_eq!(x[15] as u32, 15);
    }

    #[test]
    fn cpsr_hides_what_is_elsewhere() {
        let mut x = [0; 31];
        let (mut pc, mut pstate) = (
            0,
            u64::from(0x8000_0000 | DIT | SS | psr::T | psr::MODE_USR),
        );
        let mut regs = Registers {
            x: &mut x,
            pc: &mut pc,
            pstate: &mut pstate,
        };
        assert_eq!(regs.cpsr(), 0x8000_0000 | psr::T | psr::MODE_USR);
        regs.set_cpsr(0x4000_0000 | psr::MODE_USR | psr::J);
        assert_eq!(pstate as u32, 0x4000_0000 | DIT | SS | psr::MODE_USR);
    }

    #[test]
    fn exceptions_keep_to_armv8() {
        let control = |sctlr| ExceptionControl {
            sctlr,
            vbar: 0x8000_0000,
            ttbcr: 0,
        };
        let state = DIT | SS | IL | SSBS | psr::MODE_SVC;
        let entry = take_exception(
            &control(SCTLR_SPAN),
            state,
            0x1000,
            GuestException::Undefined,
        );
        assert_eq!((entry.pc, entry.lr), (0x8000_0004, 0x1004));
        assert_eq!(entry.cpsr, DIT | psr::I | psr::MODE_UND);
        assert_eq!(entry.spsr, DIT_OF_CPSR | IL | SSBS | psr::MODE_SVC);
        let abort = GuestException::DataAbort {
            address: 0x44,
            cause: FaultCause::External,
            is_write: true,
        };
        let entry = take_exception(&control(SCTLR_DSSBS), psr::MODE_USR, 0x1000, abort);
        assert_eq!(
            entry.cpsr,
            PAN | SSBS | psr::A | psr::I | psr::MODE_ABT,
            "{:#x}",
            entry.cpsr
        );
        assert_eq!(entry.spsr, psr::MODE_USR);
    }

    #[test]
    fn halves() {
        assert_eq!(with_low(0x1111_2222_3333_4444, 5), 0x1111_2222_0000_0005);
        assert_eq!(with_high(0x1111_2222_3333_4444, 5), 0x5_3333_4444);
        assert_eq!(
            place(coproc::VmRegister::Ifar),
            Place::High(VmRegister::Far)
        );
    }
}
