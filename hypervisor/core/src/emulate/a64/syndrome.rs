//! ESR_EL2 as types (Arm DDI 0487, D24.2.40). What an AArch32 guest causes has the format of HSR:
//! [`super::super::syndrome`] decodes it.

use crate::emulate::syndrome::FaultStatusCode;

/// A raw ESR_EL2 value, read once for each exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(u64);

/// An exit of an AArch64 guest with its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// WFI, or WFE when `event`.
    Wait {
        /// True for WFE and WFET.
        event: bool,
    },
    /// SIMD or floating point, trapped by CPTR_EL2.
    FloatingPoint,
    /// HVC with its immediate.
    Hvc(u16),
    /// SMC with its immediate.
    Smc(u16),
    /// MSR, MRS or a system instruction.
    SystemRegister(SystemAccess),
    /// Instruction fetch fault.
    InstructionAbort(Abort),
    /// Data access fault.
    DataAbort(Abort),
    /// An instruction that is switched off or does not exist here: SVE, pointer authentication, and what is not allocated.
    Unsupported,
    /// The class is none that a guest should cause: the raw class number.
    Unknown(u8),
}

impl Syndrome {
    /// Wraps a value of ESR_EL2.
    #[inline]
    pub const fn new(esr: u64) -> Self {
        Self(esr)
    }
    /// Returns the value.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// Returns the exception class.
    #[inline]
    pub const fn class_number(self) -> u8 {
        (self.0 >> 26 & 0x3f) as u8
    }

    /// Returns the exit with its fields.
    #[inline]
    pub const fn exit(self) -> Exit {
        let iss = self.0 as u32 & 0x01ff_ffff;
        match self.class_number() {
            0x01 => Exit::Wait {
                event: iss & 1 != 0,
            },
            0x07 => Exit::FloatingPoint,
            0x16 => Exit::Hvc(iss as u16),
            0x17 => Exit::Smc(iss as u16),
            0x18 => Exit::SystemRegister(SystemAccess(iss)),
            0x20 => Exit::InstructionAbort(Abort(iss)),
            0x24 => Exit::DataAbort(Abort(iss)),
            // Unknown reason, pointer authentication, SVC trapped, SVE, SME, illegal state and so on.
            0x00 | 0x09 | 0x0a | 0x0e | 0x15 | 0x19 | 0x1a | 0x1c | 0x1d => Exit::Unsupported,
            other => Exit::Unknown(other),
        }
    }
}

/// The syndrome of an MSR, MRS or system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemAccess(u32);

impl SystemAccess {
    const KEY_MASK: u32 = 0x003f_fc1e;

    /// Wraps an ISS.
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }
    /// Returns the ISS bits that name a register, for matching against [`Self::key_of`].
    #[inline]
    pub const fn key(self) -> u32 {
        self.0 & Self::KEY_MASK
    }
    /// Returns the key of the register `op0, op1, CRn, CRm, op2`.
    pub const fn key_of(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
        (op0 & 3) << 20 | (op2 & 7) << 17 | (op1 & 7) << 14 | (crn & 15) << 10 | (crm & 15) << 1
    }
    /// Returns op0.
    #[inline]
    pub const fn op0(self) -> u8 {
        (self.0 >> 20 & 3) as u8
    }
    /// Returns op1.
    #[inline]
    pub const fn op1(self) -> u8 {
        (self.0 >> 14 & 7) as u8
    }
    /// Returns CRn.
    #[inline]
    pub const fn crn(self) -> u8 {
        (self.0 >> 10 & 15) as u8
    }
    /// Returns CRm.
    #[inline]
    pub const fn crm(self) -> u8 {
        (self.0 >> 1 & 15) as u8
    }
    /// Returns op2.
    #[inline]
    pub const fn op2(self) -> u8 {
        (self.0 >> 17 & 7) as u8
    }
    /// Returns the transfer register; 31 is the zero register.
    #[inline]
    pub const fn rt(self) -> u8 {
        (self.0 >> 5 & 31) as u8
    }
    /// Returns true for MRS.
    #[inline]
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The syndrome of an instruction or data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort(u32);

impl Abort {
    /// Wraps an ISS.
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }
    /// Returns true when access size, register and extension are valid (ISV).
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & 1 << 24 != 0
    }
    /// Returns log2 of the access size in bytes (SAS). Valid with [`Self::is_valid`], as the next three.
    #[inline]
    pub const fn size_log2(self) -> u8 {
        (self.0 >> 22 & 3) as u8
    }
    /// Returns true when the loaded value is sign-extended (SSE).
    #[inline]
    pub const fn is_sign_extended(self) -> bool {
        self.0 & 1 << 21 != 0
    }
    /// Returns the transfer register (SRT); 31 is the zero register.
    #[inline]
    pub const fn register(self) -> u8 {
        (self.0 >> 16 & 31) as u8
    }
    /// Returns true when the register is a 64-bit one (SF).
    #[inline]
    pub const fn is_64_bit(self) -> bool {
        self.0 & 1 << 15 != 0
    }
    /// Returns true for a cache maintenance operation (CM).
    #[inline]
    pub const fn is_cache_maintenance(self) -> bool {
        self.0 & 1 << 8 != 0
    }
    /// Returns true when the fault is on a stage 2 access of a stage 1 walk (S1PTW).
    #[inline]
    pub const fn is_stage1_walk(self) -> bool {
        self.0 & 1 << 7 != 0
    }
    /// Returns true for a write (WnR).
    #[inline]
    pub const fn is_write(self) -> bool {
        self.0 & 1 << 6 != 0
    }
    /// Returns the fault status code.
    #[inline]
    pub const fn status(self) -> FaultStatusCode {
        FaultStatusCode::new((self.0 & 0x3f) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_typed() {
        let exit = |esr: u64| Syndrome::new(esr).exit();
        assert_eq!(exit(0x5a00_0ea1), Exit::Hvc(0xea1));
        assert_eq!(exit(0x5e00_0000), Exit::Smc(0));
        assert_eq!(exit(0x07e0_0000), Exit::Wait { event: false });
        assert_eq!(exit(0x07e0_0001), Exit::Wait { event: true });
        assert_eq!(exit(0x1fe0_0000), Exit::FloatingPoint);
        assert_eq!(exit(0x0200_0000), Exit::Unsupported);
        // A fault of our own never comes here.
        assert_eq!(exit(0x9600_0000), Exit::Unknown(0x25));
        // ESR_EL2 has 64 bits; what is above the class says more of some aborts.
        assert_eq!(exit(0x0000_0020_5a00_0ea1), Exit::Hvc(0xea1));
    }

    #[test]
    fn system_accesses_have_their_fields() {
        // mrs x3, id_aa64pfr0_el1: op0 3, op1 0, CRn 0, CRm 4, op2 0.
        let Exit::SystemRegister(access) = Syndrome::new(0x6230_0069).exit() else {
            panic!("class 0x18");
        };
        assert_eq!(access.key(), SystemAccess::key_of(3, 0, 0, 4, 0));
        assert_eq!((access.rt(), access.is_read()), (3, true));
        // msr icc_sgi1r_el1, x7: op0 3, op1 0, CRn 12, CRm 11, op2 5.
        let access = SystemAccess::new(SystemAccess::key_of(3, 0, 12, 11, 5) | 7 << 5);
        assert_eq!((access.op0(), access.op1(), access.crn()), (3, 0, 12));
        assert_eq!((access.crm(), access.op2(), access.rt()), (11, 5, 7));
        assert!(!access.is_read());
    }

    #[test]
    fn aborts_have_their_fields() {
        // ldr w2, [x0] on an address that stage 2 does not map, level 3.
        let abort = Abort::new(1 << 24 | 2 << 22 | 2 << 16 | 7);
        assert!(abort.is_valid() && !abort.is_write() && !abort.is_64_bit());
        assert_eq!((abort.size_log2(), abort.register()), (2, 2));
        assert!(abort.status().is_translation());
        let abort = Abort::new(1 << 24 | 3 << 22 | 31 << 16 | 1 << 15 | 1 << 6 | 0xf);
        assert!(abort.is_write() && abort.is_64_bit() && abort.status().is_permission());
        assert_eq!((abort.size_log2(), abort.register()), (3, 31));
    }
}
