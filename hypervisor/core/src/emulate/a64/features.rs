//! The identification registers of an AArch64 CPU, and what guests see of them.

use crate::emulate::coproc::CpuFeatures;

/// The identification registers that guests read, as boot CPU values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuFeatures64 {
    /// ID_AA64PFR0_EL1, ID_AA64PFR1_EL1.
    pub pfr: [u64; 2],
    /// ID_AA64DFR0_EL1, ID_AA64DFR1_EL1.
    pub dfr: [u64; 2],
    /// ID_AA64ISAR0_EL1 to ID_AA64ISAR2_EL1.
    pub isar: [u64; 3],
    /// ID_AA64MMFR0_EL1 to ID_AA64MMFR2_EL1.
    pub mmfr: [u64; 3],
    /// Those of AArch32, and MIDR.
    pub aarch32: CpuFeatures,
}

/// Returns the mask of the four-bit field that begins at each of these bits.
const fn fields(at: &[u32]) -> u64 {
    let mut mask = 0;
    let mut i = 0;
    while i < at.len() {
        mask |= 0xf << at[i];
        i += 1;
    }
    mask
}

impl CpuFeatures64 {
    /// ID_AA64PFR0: RAS, SVE, secure EL2, MPAM, AMU, RME.
    const HIDDEN_PFR0: u64 = fields(&[28, 32, 36, 40, 44, 52]);
    /// ID_AA64PFR0: the GIC's system registers.
    const GIC: u64 = fields(&[24]);
    /// ID_AA64PFR1: MTE and its fraction, those of RAS and MPAM, SME, random traps, NMI, GCS and what came later.
    const HIDDEN_PFR1: u64 = fields(&[8, 12, 16, 24, 28, 36, 40, 44, 48, 52, 56, 60]);
    /// ID_AA64DFR0: trace, PMU, statistical profiling, trace filter and buffer, multithreaded PMU, branch record.
    const HIDDEN_DFR0: u64 = fields(&[4, 8, 16, 32, 40, 44, 48, 52, 60]);
    /// ID_AA64ISAR0: transactional memory.
    const HIDDEN_ISAR0: u64 = fields(&[24]);
    /// ID_AA64ISAR1: pointer authentication (APA, API, GPA, GPI), accelerator loads and stores, XS.
    const HIDDEN_ISAR1: u64 = fields(&[4, 8, 24, 28, 56, 60]);
    /// ID_AA64ISAR2: all but RPRES, BC and CLRBHB. Pointer authentication, memory copies and others need switches at EL2.
    const SHOWN_ISAR2: u64 = fields(&[4, 20, 28]);
    /// ID_AA64MMFR0: fine-grained traps, enhanced counter.
    const HIDDEN_MMFR0: u64 = fields(&[56, 60]);
    /// ID_AA64MMFR1: virtualization host extensions, HCRX_EL2, traps of implementation defined registers at EL0, CMOW.
    const HIDDEN_MMFR1: u64 = fields(&[8, 40, 52, 56]);
    /// ID_AA64MMFR2: nested virtualization.
    const HIDDEN_MMFR2: u64 = fields(&[24]);

    /// Returns the values that guests see: what needs state or switches that are not theirs is hidden. `has_gic_registers`
    /// says whether they have the system registers of a GICv3.
    #[must_use]
    pub const fn sanitised(mut self, has_gic_registers: bool) -> Self {
        self.pfr[0] &= !Self::HIDDEN_PFR0;
        // In ID_PFR1 the field is in bits 31:28.
        self.pfr[0] &= !Self::GIC;
        self.aarch32.pfr[1] &= !0xf000_0000;
        if has_gic_registers {
            self.pfr[0] |= Self::GIC & Self::GIC.wrapping_neg();
            self.aarch32.pfr[1] |= 1 << 28;
        }
        self.pfr[1] &= !Self::HIDDEN_PFR1;
        self.dfr[0] &= !Self::HIDDEN_DFR0;
        self.dfr[1] = 0;
        self.isar[0] &= !Self::HIDDEN_ISAR0;
        self.isar[1] &= !Self::HIDDEN_ISAR1;
        self.isar[2] &= Self::SHOWN_ISAR2;
        self.mmfr[0] &= !Self::HIDDEN_MMFR0;
        self.mmfr[1] &= !Self::HIDDEN_MMFR1;
        self.mmfr[2] &= !Self::HIDDEN_MMFR2;
        self.aarch32 = self.aarch32.sanitised();
        self
    }

    /// Returns the identification register `3, 0, c0, CRm, op2`; those that are not allocated, or not known here, read as
    /// zero: nothing of the kind.
    pub const fn read(&self, crm: u8, op2: u8) -> u64 {
        match (crm, op2) {
            (3, 0) => self.aarch32.mvfr[0] as u64,
            (3, 1) => self.aarch32.mvfr[1] as u64,
            (3, 2) => self.aarch32.mvfr[2] as u64,
            (1..=3, _) => self.aarch32.group3(crm, op2) as u64,
            (4, 0) => self.pfr[0],
            (4, 1) => self.pfr[1],
            (5, 0) => self.dfr[0],
            (5, 1) => self.dfr[1],
            (6, 0) => self.isar[0],
            (6, 1) => self.isar[1],
            (6, 2) => self.isar[2],
            (7, 0) => self.mmfr[0],
            (7, 1) => self.mmfr[1],
            (7, 2) => self.mmfr[2],
            _ => 0,
        }
    }

    /// Returns the bits of a physical address (ID_AA64MMFR0.PARange); the 52 of LPA and what is unknown are 48.
    pub const fn physical_bits(&self) -> u8 {
        match self.mmfr[0] & 0xf {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        }
    }

    /// Returns the bits of a VMID (ID_AA64MMFR1.VMIDBits).
    pub const fn vmid_bits(&self) -> u32 {
        if self.mmfr[1] >> 4 & 0xf == 2 { 16 } else { 8 }
    }

    /// Returns whether EL1 can be in AArch32 state.
    pub const fn has_aarch32(&self) -> bool {
        self.pfr[0] >> 4 & 0xf == 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_may_not_use_is_hidden() {
        let all = CpuFeatures64 {
            pfr: [u64::MAX; 2],
            dfr: [u64::MAX; 2],
            isar: [u64::MAX; 3],
            mmfr: [u64::MAX; 3],
            aarch32: CpuFeatures::default(),
        };
        let shown = all.sanitised(false);
        // SVE, AMU, RAS, MPAM, GIC; MTE, SME; PMU, SPE; PAC.
        for (register, bits) in [
            ((4, 0), [32, 44, 28, 40, 24].as_slice()),
            ((4, 1), &[8, 24]),
            ((5, 0), &[8, 32]),
            ((6, 1), &[4, 8, 24, 28]),
            ((6, 2), &[8, 12, 16]),
        ] {
            for bit in bits {
                let (crm, op2) = register;
                assert_eq!(shown.read(crm, op2) >> bit & 0xf, 0, "{register:?} {bit}");
            }
        }
        // Floating point, SIMD, the exception levels and AES stay.
        assert_eq!(shown.read(4, 0) & 0xff_ffff, 0xff_ffff);
        assert_eq!(shown.read(6, 0) >> 4 & 0xf, 0xf);
        assert_eq!(all.sanitised(true).read(4, 0) >> 24 & 0xf, 1);
        assert_eq!(all.sanitised(true).aarch32.pfr[1] >> 28, 1);
        assert_eq!(shown.aarch32.pfr[1] >> 28, 0);
        // SVE's and SME's registers, and all that nobody has heard of.
        for (crm, op2) in [
            (4, 4),
            (4, 5),
            (4, 7),
            (5, 4),
            (6, 7),
            (7, 3),
            (0, 0),
            (8, 0),
        ] {
            assert_eq!(shown.read(crm, op2), 0, "{crm} {op2}");
        }
    }

    #[test]
    fn cortex_a57_is_what_it_is() {
        let a57 = CpuFeatures64 {
            pfr: [0x2222, 0],
            mmfr: [0x1124, 0, 0],
            ..CpuFeatures64::default()
        };
        assert!(a57.has_aarch32());
        assert_eq!(a57.physical_bits(), 44);
        assert_eq!(a57.vmid_bits(), 8);
        assert_eq!(a57.sanitised(false).pfr, a57.pfr);
    }
}
