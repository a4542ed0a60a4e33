//! The Hyp Syndrome Register as types (ARM DDI 0406C.d B3.13.6).
//!
//! [`Syndrome::class`] is one shift and a table; the fields are read by one or two instructions each from the small
//! wrappers, so an exit handler pays only for what it looks at. [`Syndrome::exit`] gives the typed whole.

use super::regs::{GuestRegs, psr};

/// A raw HSR value, read once for each exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(u32);

/// Exception classes that matter (HSR.EC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionClass {
    /// 0x01: WFI or WFE.
    Wait,
    /// 0x03: MCR or MRC to CP15.
    Cp15,
    /// 0x04: MCRR or MRRC to CP15.
    Cp15Double,
    /// 0x05: MCR or MRC to CP14.
    Cp14,
    /// 0x06: LDC or STC to CP14.
    Cp14LoadStore,
    /// 0x07: an access trapped by HCPTR, incl. Advanced SIMD.
    Coprocessor,
    /// 0x08: MRC or VMRS to CP10 trapped by an ID group.
    Cp10,
    /// 0x0a: BXJ trapped by HSTR.TJDBX.
    Jazelle,
    /// 0x0c: MRRC to CP14.
    Cp14Double,
    /// 0x11: SVC taken to Hyp mode.
    Svc,
    /// 0x12: HVC.
    Hvc,
    /// 0x13: SMC trapped by HCR.TSC.
    Smc,
    /// 0x20: prefetch abort from the guest.
    PrefetchAbort,
    /// 0x21: prefetch abort from Hyp mode itself.
    PrefetchAbortHyp,
    /// 0x24: data abort from the guest.
    DataAbort,
    /// 0x25: data abort from Hyp mode itself.
    DataAbortHyp,
    /// 0x00 and all numbers that ARMv7 does not allocate.
    Unknown,
}

/// An exit with its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// WFI, or WFE when `event`.
    Wait {
        /// True for WFE.
        event: bool,
    },
    /// MCR or MRC to CP15.
    Cp15(Cp32),
    /// MCRR or MRRC to CP15.
    Cp15Double(Cp64),
    /// MCR or MRC to CP14.
    Cp14(Cp32),
    /// LDC or STC to CP14.
    Cp14LoadStore(CpLoadStore),
    /// MRRC to CP14.
    Cp14Double(Cp64),
    /// An access trapped by HCPTR.
    Coprocessor {
        /// The coprocessor number; not valid for Advanced SIMD.
        coprocessor: u8,
        /// True for an Advanced SIMD instruction.
        advanced_simd: bool,
    },
    /// MRC or VMRS to CP10.
    Cp10(Cp32),
    /// BXJ.
    Jazelle {
        /// The register with the branch target.
        rm: u8,
    },
    /// SVC with its immediate.
    Svc(u16),
    /// HVC with its immediate.
    Hvc(u16),
    /// SMC (the ARMv7 syndrome has no immediate).
    Smc,
    /// Instruction fetch fault of the guest.
    PrefetchAbort(PrefetchAbort),
    /// Data access fault of the guest.
    DataAbort(DataAbort),
    /// A fault of the hypervisor itself.
    Hypervisor,
    /// Not a class of ARMv7: the raw class number.
    Unknown(u8),
}

/// The syndrome of a 32-bit coprocessor access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cp32(u32);

impl Cp32 {
    const KEY_MASK: u32 = 0x000f_fc1e;

    /// Wraps an ISS (or a whole HSR).
    #[inline]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }
    /// Returns the ISS bits that name a register, for matching against [`Cp32::key_of`].
    #[inline]
    pub const fn key(self) -> u32 {
        self.0 & Self::KEY_MASK
    }
    /// Returns the key of the register `opc1, CRn, CRm, opc2`.
    pub const fn key_of(opc1: u32, crn: u32, crm: u32, opc2: u32) -> u32 {
        (opc2 & 7) << 17 | (opc1 & 7) << 14 | (crn & 15) << 10 | (crm & 15) << 1
    }
    /// Returns opc1.
    #[inline]
    pub const fn opc1(self) -> u8 {
        (self.0 >> 14 & 7) as u8
    }
    /// Returns opc2.
    #[inline]
    pub const fn opc2(self) -> u8 {
        (self.0 >> 17 & 7) as u8
    }
    /// Returns CRn (for VMRS: the system register number).
    #[inline]
    pub const fn crn(self) -> u8 {
        (self.0 >> 10 & 15) as u8
    }
    /// Returns CRm.
    #[inline]
    pub const fn crm(self) -> u8 {
        (self.0 >> 1 & 15) as u8
    }
    /// Returns the field of the transfer register, for [`GuestRegs::transfer`]; 15 is the flags (MRC) or unpredictable (MCR).
    #[inline]
    pub const fn rt(self) -> u8 {
        (self.0 >> 5 & 31) as u8
    }
    /// Returns true for MRC.
    #[inline]
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The syndrome of a 64-bit coprocessor access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cp64(u32);

impl Cp64 {
    /// Wraps an ISS (or a whole HSR).
    #[inline]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }
    /// Returns the ISS bits that name a register, for matching against [`Cp64::key_of`].
    #[inline]
    pub const fn key(self) -> u32 {
        self.0 & 0x000f_001e
    }
    /// Returns the key of the register `opc1, CRm`.
    pub const fn key_of(opc1: u32, crm: u32) -> u32 {
        (opc1 & 15) << 16 | (crm & 15) << 1
    }
    /// Returns opc1.
    #[inline]
    pub const fn opc1(self) -> u8 {
        (self.0 >> 16 & 15) as u8
    }
    /// Returns CRm.
    #[inline]
    pub const fn crm(self) -> u8 {
        (self.0 >> 1 & 15) as u8
    }
    /// Returns the field of the register of the low word, for [`GuestRegs::transfer`].
    #[inline]
    pub const fn rt(self) -> u8 {
        (self.0 >> 5 & 31) as u8
    }
    /// Returns the field of the register of the high word.
    #[inline]
    pub const fn rt2(self) -> u8 {
        (self.0 >> 10 & 31) as u8
    }
    /// Returns true for MRRC.
    #[inline]
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The syndrome of LDC or STC to CP14 (DBGDTRRXint, DBGDTRTXint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpLoadStore {
    /// The immediate, not yet multiplied by 4.
    pub imm8: u8,
    /// The base register.
    pub rn: u8,
    /// True when the offset is added.
    pub add: bool,
    /// The addressing mode (HSR.AM).
    pub mode: u8,
    /// True for STC, which reads the coprocessor register.
    pub is_read: bool,
}

/// The syndrome of a prefetch abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchAbort(u32);

impl PrefetchAbort {
    /// Wraps an ISS (or a whole HSR).
    #[inline]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }
    /// Returns the IFSC.
    #[inline]
    pub const fn status(self) -> FaultStatusCode {
        FaultStatusCode((self.0 & 0x3f) as u8)
    }
    /// Returns true when the fault is on a stage 2 access of a stage 1 walk.
    #[inline]
    pub const fn is_stage1_walk(self) -> bool {
        self.0 & 1 << 7 != 0
    }
    /// Returns the external abort type bit (EA).
    #[inline]
    pub const fn external_type(self) -> bool {
        self.0 & 1 << 9 != 0
    }
}

/// The syndrome of a data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort(u32);

impl DataAbort {
    /// Wraps an ISS (or a whole HSR).
    #[inline]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }
    /// Returns true when access size, register and sign extension are valid (ISV).
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & 1 << 24 != 0
    }
    /// Returns log2 of the access size in bytes (SAS); 3 is reserved. Valid with [`Self::is_valid`].
    #[inline]
    pub const fn size_log2(self) -> u8 {
        (self.0 >> 22 & 3) as u8
    }
    /// Returns true when the loaded value is sign-extended (SSE). Valid with [`Self::is_valid`].
    #[inline]
    pub const fn is_sign_extended(self) -> bool {
        self.0 & 1 << 21 != 0
    }
    /// Returns the field of the transfer register (SRT), for [`GuestRegs::transfer`]. Valid with [`Self::is_valid`].
    #[inline]
    pub const fn register(self) -> u8 {
        (self.0 >> 16 & 31) as u8
    }
    /// Returns the external abort type bit (EA).
    #[inline]
    pub const fn external_type(self) -> bool {
        self.0 & 1 << 9 != 0
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
    /// Returns the DFSC.
    #[inline]
    pub const fn status(self) -> FaultStatusCode {
        FaultStatusCode((self.0 & 0x3f) as u8)
    }
}

/// A long-descriptor fault status code (ARM DDI 0406C.d Table B3-24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultStatusCode(u8);

impl FaultStatusCode {
    /// Wraps a 6-bit code.
    #[inline]
    pub const fn new(code: u8) -> Self {
        Self(code & 0x3f)
    }
    /// Returns the 6-bit code.
    #[inline]
    pub const fn raw(self) -> u8 {
        self.0
    }
    /// Returns true for a translation fault at any level: stage 2 does not map the page.
    #[inline]
    pub const fn is_translation(self) -> bool {
        self.0 & 0x3c == 0x04
    }
    /// Returns true for an access flag fault at any level.
    #[inline]
    pub const fn is_access_flag(self) -> bool {
        self.0 & 0x3c == 0x08
    }
    /// Returns true for a permission fault at any level.
    #[inline]
    pub const fn is_permission(self) -> bool {
        self.0 & 0x3c == 0x0c
    }
    /// Returns the lookup level of the three faults above, 0 to 3.
    #[inline]
    pub const fn level(self) -> u8 {
        self.0 & 3
    }
}

impl Syndrome {
    /// Wraps a value of HSR.
    #[inline]
    pub const fn new(hsr: u32) -> Self {
        Self(hsr)
    }
    /// Returns the value of HSR.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }
    /// Returns the ISS.
    #[inline]
    pub const fn iss(self) -> u32 {
        self.0 & 0x01ff_ffff
    }
    /// Returns the raw exception class.
    #[inline]
    pub const fn class_number(self) -> u8 {
        (self.0 >> 26) as u8
    }
    /// Returns true for a 32-bit instruction (IL). Not valid for aborts whose syndrome is not valid.
    #[inline]
    pub const fn is_wide(self) -> bool {
        self.0 & 1 << 25 != 0
    }
    /// Returns the immediate of HVC or SVC.
    #[inline]
    pub const fn immediate(self) -> u16 {
        self.0 as u16
    }

    /// Returns the exception class.
    #[inline]
    pub const fn class(self) -> ExceptionClass {
        match self.class_number() {
            0x01 => ExceptionClass::Wait,
            0x03 => ExceptionClass::Cp15,
            0x04 => ExceptionClass::Cp15Double,
            0x05 => ExceptionClass::Cp14,
            0x06 => ExceptionClass::Cp14LoadStore,
            0x07 => ExceptionClass::Coprocessor,
            0x08 => ExceptionClass::Cp10,
            0x0a => ExceptionClass::Jazelle,
            0x0c => ExceptionClass::Cp14Double,
            0x11 => ExceptionClass::Svc,
            0x12 => ExceptionClass::Hvc,
            0x13 => ExceptionClass::Smc,
            0x20 => ExceptionClass::PrefetchAbort,
            0x21 => ExceptionClass::PrefetchAbortHyp,
            0x24 => ExceptionClass::DataAbort,
            0x25 => ExceptionClass::DataAbortHyp,
            _ => ExceptionClass::Unknown,
        }
    }

    /// Returns the exit with its fields.
    #[inline]
    pub const fn exit(self) -> Exit {
        let iss = self.iss();
        match self.class() {
            ExceptionClass::Wait => Exit::Wait {
                event: iss & 1 != 0,
            },
            ExceptionClass::Cp15 => Exit::Cp15(Cp32(iss)),
            ExceptionClass::Cp15Double => Exit::Cp15Double(Cp64(iss)),
            ExceptionClass::Cp14 => Exit::Cp14(Cp32(iss)),
            ExceptionClass::Cp14LoadStore => Exit::Cp14LoadStore(CpLoadStore {
                imm8: (iss >> 12) as u8,
                rn: (iss >> 5 & 15) as u8,
                add: iss & 1 << 4 != 0,
                mode: (iss >> 1 & 7) as u8,
                is_read: iss & 1 != 0,
            }),
            ExceptionClass::Coprocessor => Exit::Coprocessor {
                coprocessor: (iss & 15) as u8,
                advanced_simd: iss & 1 << 5 != 0,
            },
            ExceptionClass::Cp10 => Exit::Cp10(Cp32(iss)),
            ExceptionClass::Jazelle => Exit::Jazelle {
                rm: (iss & 15) as u8,
            },
            ExceptionClass::Cp14Double => Exit::Cp14Double(Cp64(iss)),
            ExceptionClass::Svc => Exit::Svc(self.immediate()),
            ExceptionClass::Hvc => Exit::Hvc(self.immediate()),
            ExceptionClass::Smc => Exit::Smc,
            ExceptionClass::PrefetchAbort => Exit::PrefetchAbort(PrefetchAbort(iss)),
            ExceptionClass::DataAbort => Exit::DataAbort(DataAbort(iss)),
            ExceptionClass::PrefetchAbortHyp | ExceptionClass::DataAbortHyp => Exit::Hypervisor,
            ExceptionClass::Unknown => Exit::Unknown(self.class_number()),
        }
    }

    /// Returns true when the trapped instruction passes its condition with the guest's `cpsr`. One that fails was
    /// trapped all the same on some processors and is a no-operation (ARM DDI 0406C.d B1.14.1).
    ///
    /// Classes from 0x10 up (calls, aborts) and the unknown class are not conditional: they happen only when executed. But
    /// for SMC of ARMv8.
    #[inline]
    pub const fn condition_passed(self, cpsr: u32) -> bool {
        // CV with condition "always": nearly every trap.
        if self.0 >> 20 & 0x1f == 0x1e {
            return true;
        }
        let class = self.class_number();
        // ARMv8 traps an SMC that may fail its condition too (CCKNOWNPASS); ARMv7 never does.
        let may_fail = class == 0x13 && self.0 & 1 << 19 != 0;
        if class == 0 || class >= 0x10 && !may_fail {
            return true;
        }
        let condition = if self.0 & 1 << 24 != 0 {
            self.0 >> 20 & 15
        } else if cpsr & psr::T != 0 {
            // COND is valid only with CV; without it a Thumb instruction takes the condition of its IT block.
            let it = it_state(cpsr);
            if it == 0 { 14 } else { it >> 4 }
        } else {
            14
        };
        condition_holds(condition, cpsr)
    }
}

/// For each condition, the set of NZCV values (bit number = NZCV) that pass it (ARM DDI 0406C.d A8.3).
const CONDITION_TABLE: [u16; 16] = condition_table();

const fn condition_table() -> [u16; 16] {
    let mut table = [0u16; 16];
    let mut condition = 0;
    while condition < 16 {
        let mut flags = 0;
        while flags < 16 {
            let (n, z, c, v) = (
                flags & 8 != 0,
                flags & 4 != 0,
                flags & 2 != 0,
                flags & 1 != 0,
            );
            let base = match condition >> 1 {
                0 => z,
                1 => c,
                2 => n,
                3 => v,
                4 => c && !z,
                5 => n == v,
                6 => n == v && !z,
                _ => true,
            };
            // The odd number of a pair is the opposite, but for 15, which also means always.
            if base != (condition & 1 != 0 && condition != 15) {
                table[condition] |= 1 << flags;
            }
            flags += 1;
        }
        condition += 1;
    }
    table
}

/// Returns true when `condition` (low 4 bits) holds for the flags of `cpsr`.
#[inline]
pub const fn condition_holds(condition: u32, cpsr: u32) -> bool {
    CONDITION_TABLE[(condition & 15) as usize] >> (cpsr >> 28) & 1 != 0
}

/// Returns ITSTATE as its 8 bits.
#[inline]
pub const fn it_state(cpsr: u32) -> u32 {
    cpsr >> 8 & 0xfc | cpsr >> 25 & 3
}

/// Returns `cpsr` with ITSTATE advanced past one instruction (ARM DDI 0406C.d A2.5.2).
#[inline]
pub const fn advance_it(cpsr: u32) -> u32 {
    if cpsr & psr::IT_MASK == 0 {
        return cpsr;
    }
    let it = it_state(cpsr);
    let next = if it & 7 == 0 {
        0
    } else {
        it & 0xe0 | it << 1 & 0x1f
    };
    cpsr & !psr::IT_MASK | (next & 0xfc) << 8 | (next & 3) << 25
}

/// Moves the guest past the instruction that trapped: 4 bytes in ARM state, 2 or 4 in Thumb state by `wide`
/// ([`Syndrome::is_wide`] for traps and valid syndromes), and ITSTATE with it.
///
/// Not for HVC and SVC, whose return address is after the instruction already; a trapped SMC needs it. To give a guest
/// an Undefined Instruction exception for an HVC, the caller first takes the 4 bytes back (HVC is never narrow).
#[inline]
pub fn advance_pc<R: GuestRegs>(regs: &mut R, wide: bool) {
    let cpsr = regs.cpsr();
    let mut length = 4;
    if cpsr & psr::T != 0 {
        if !wide {
            length = 2;
        }
        if cpsr & psr::IT_MASK != 0 {
            regs.set_cpsr(advance_it(cpsr));
        }
    }
    regs.set_pc(regs.pc().wrapping_add(length));
}

#[cfg(test)]
mod tests;
