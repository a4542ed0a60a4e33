//! The AArch64 system registers that the hypervisor uses, as plain numbers (Arm DDI 0487).
//!
//! `aarch64-cpu` has most of them. What it lacks stands below as `own!`, and cache, TLB and translation operations, which
//! have no crate, as `operation!`; `tests/sysreg/check` compares those with a table from the manual by disassembly.
//! Registers that both architectures have bear arm32's names, for the code that is shared.

macro_rules! register {
    ($(#[$doc:meta])* $name:ident, $register:ident, $t:ty) => {
        $(#[$doc])*
        pub mod $name {
            use tock_registers::interfaces::{Readable, Writeable};

            /// Reads the register.
            #[inline(always)]
            pub fn read() -> $t {
                aarch64_cpu::registers::$register.get() as $t
            }

            /// Writes the register.
            ///
            /// # Safety
            /// The caller answers for the effect on translation, traps and the guest that this value has.
            #[inline(always)]
            pub unsafe fn write(value: $t) {
                aarch64_cpu::registers::$register.set(value.into());
            }
        }
    };
}

macro_rules! read_only {
    ($(#[$doc:meta])* $name:ident, $register:ident, $t:ty) => {
        $(#[$doc])*
        pub mod $name {
            use tock_registers::interfaces::Readable;

            /// Reads the register.
            #[inline(always)]
            pub fn read() -> $t {
                aarch64_cpu::registers::$register.get() as $t
            }
        }
    };
}

macro_rules! own {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Reads the register.
            #[inline(always)]
            pub fn read() -> u64 {
                let value: u64;
                // SAFETY: Reading this register has no side effect on memory that Rust knows.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {0}, ", $register),
                        out(reg) value, options(nomem, nostack, preserves_flags)
                    );
                }
                value
            }

            /// Writes the register.
            ///
            /// # Safety
            /// The caller answers for the effect on translation, traps and the guest that this value has.
            #[inline(always)]
            pub unsafe fn write(value: u64) {
                // SAFETY: By this function's contract.
                unsafe {
                    core::arch::asm!(
                        concat!("msr ", $register, ", {0}"),
                        in(reg) value, options(nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

macro_rules! write_only {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Writes the register.
            ///
            /// # Safety
            /// The caller answers for the effect that this value has.
            #[inline(always)]
            pub unsafe fn write(value: u64) {
                // SAFETY: By this function's contract.
                unsafe {
                    core::arch::asm!(
                        concat!("msr ", $register, ", {0}"),
                        in(reg) value, options(nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

macro_rules! identification {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Reads the register.
            #[inline(always)]
            pub fn read() -> u64 {
                let value: u64;
                // SAFETY: Reading an identification register has no effect.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {0}, ", $register),
                        out(reg) value, options(nomem, nostack, preserves_flags)
                    );
                }
                value
            }
        }
    };
}

macro_rules! operation {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Executes the operation.
            ///
            /// # Safety
            /// The caller answers for its effect on caches or translations.
            #[inline(always)]
            pub unsafe fn write(value: usize) {
                // SAFETY: By this function's contract.
                unsafe {
                    core::arch::asm!(
                        concat!($instruction, ", {0}"),
                        in(reg) value, options(nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

macro_rules! operation_on_all {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Executes the operation; it has no operand, `_value` is for the sake of arm32.
            ///
            /// # Safety
            /// The caller answers for its effect on caches or translations.
            #[inline(always)]
            pub unsafe fn write(_value: usize) {
                // SAFETY: By this function's contract.
                unsafe { core::arch::asm!($instruction, options(nostack, preserves_flags)) }
            }
        }
    };
}

// One line for each register: braces keep rustfmt away.

// Identification.
read_only! { #[doc = "MIDR_EL1."] midr, MIDR_EL1, u32 }
read_only! { #[doc = "MPIDR_EL1."] mpidr, MPIDR_EL1, u64 }
identification! { #[doc = "CTR_EL0."] ctr, "ctr_el0" }
read_only! { #[doc = "ID_AA64PFR0_EL1."] id_aa64pfr0, ID_AA64PFR0_EL1, u64 }
read_only! { #[doc = "ID_AA64PFR1_EL1."] id_aa64pfr1, ID_AA64PFR1_EL1, u64 }
read_only! { #[doc = "ID_AA64DFR0_EL1."] id_aa64dfr0, ID_AA64DFR0_EL1, u64 }
read_only! { #[doc = "ID_AA64DFR1_EL1."] id_aa64dfr1, ID_AA64DFR1_EL1, u64 }
read_only! { #[doc = "ID_AA64ISAR0_EL1."] id_aa64isar0, ID_AA64ISAR0_EL1, u64 }
read_only! { #[doc = "ID_AA64ISAR1_EL1."] id_aa64isar1, ID_AA64ISAR1_EL1, u64 }
identification! { #[doc = "ID_AA64ISAR2_EL1."] id_aa64isar2, "id_aa64isar2_el1" }
read_only! { #[doc = "ID_AA64MMFR0_EL1."] id_aa64mmfr0, ID_AA64MMFR0_EL1, u64 }
read_only! { #[doc = "ID_AA64MMFR1_EL1."] id_aa64mmfr1, ID_AA64MMFR1_EL1, u64 }
read_only! { #[doc = "ID_AA64MMFR2_EL1."] id_aa64mmfr2, ID_AA64MMFR2_EL1, u64 }
identification! { #[doc = "ID_PFR0_EL1."] id_pfr0, "id_pfr0_el1" }
identification! { #[doc = "ID_PFR1_EL1."] id_pfr1, "id_pfr1_el1" }
identification! { #[doc = "ID_DFR0_EL1."] id_dfr0, "id_dfr0_el1" }
identification! { #[doc = "ID_AFR0_EL1."] id_afr0, "id_afr0_el1" }
identification! { #[doc = "ID_MMFR0_EL1."] id_mmfr0, "id_mmfr0_el1" }
identification! { #[doc = "ID_MMFR1_EL1."] id_mmfr1, "id_mmfr1_el1" }
identification! { #[doc = "ID_MMFR2_EL1."] id_mmfr2, "id_mmfr2_el1" }
identification! { #[doc = "ID_MMFR3_EL1."] id_mmfr3, "id_mmfr3_el1" }
identification! { #[doc = "ID_MMFR4_EL1."] id_mmfr4, "id_mmfr4_el1" }
identification! { #[doc = "ID_ISAR0_EL1."] id_isar0, "id_isar0_el1" }
identification! { #[doc = "ID_ISAR1_EL1."] id_isar1, "id_isar1_el1" }
identification! { #[doc = "ID_ISAR2_EL1."] id_isar2, "id_isar2_el1" }
identification! { #[doc = "ID_ISAR3_EL1."] id_isar3, "id_isar3_el1" }
identification! { #[doc = "ID_ISAR4_EL1."] id_isar4, "id_isar4_el1" }
identification! { #[doc = "ID_ISAR5_EL1."] id_isar5, "id_isar5_el1" }
identification! { #[doc = "MVFR0_EL1."] mvfr0, "mvfr0_el1" }
identification! { #[doc = "MVFR1_EL1."] mvfr1, "mvfr1_el1" }
identification! { #[doc = "MVFR2_EL1."] mvfr2, "mvfr2_el1" }

// Guest state that a context switch saves (EL1).
register! { #[doc = "CSSELR_EL1."] csselr, CSSELR_EL1, u64 }
register! { #[doc = "SCTLR_EL1."] sctlr, SCTLR_EL1, u64 }
register! { #[doc = "ACTLR_EL1."] actlr, ACTLR_EL1, u64 }
register! { #[doc = "CPACR_EL1."] cpacr, CPACR_EL1, u64 }
register! { #[doc = "TCR_EL1."] tcr, TCR_EL1, u64 }
register! { #[doc = "TTBR0_EL1."] ttbr0, TTBR0_EL1, u64 }
register! { #[doc = "TTBR1_EL1."] ttbr1, TTBR1_EL1, u64 }
register! { #[doc = "ESR_EL1."] esr, ESR_EL1, u64 }
register! { #[doc = "FAR_EL1."] far, FAR_EL1, u64 }
register! { #[doc = "AFSR0_EL1."] afsr0, AFSR0_EL1, u64 }
register! { #[doc = "AFSR1_EL1."] afsr1, AFSR1_EL1, u64 }
register! { #[doc = "PAR_EL1."] par, PAR_EL1, u64 }
register! { #[doc = "MAIR_EL1."] mair, MAIR_EL1, u64 }
register! { #[doc = "AMAIR_EL1."] amair, AMAIR_EL1, u64 }
register! { #[doc = "VBAR_EL1."] vbar, VBAR_EL1, u64 }
register! { #[doc = "CONTEXTIDR_EL1."] contextidr, CONTEXTIDR_EL1, u64 }
register! { #[doc = "TPIDR_EL0."] tpidr_el0, TPIDR_EL0, u64 }
register! { #[doc = "TPIDRRO_EL0."] tpidrro_el0, TPIDRRO_EL0, u64 }
register! { #[doc = "TPIDR_EL1."] tpidr_el1, TPIDR_EL1, u64 }
register! { #[doc = "CNTKCTL_EL1."] cntkctl, CNTKCTL_EL1, u64 }
register! { #[doc = "ELR_EL1."] elr, ELR_EL1, u64 }
register! { #[doc = "SPSR_EL1."] spsr, SPSR_EL1, u64 }
register! { #[doc = "SP_EL0."] sp_el0, SP_EL0, u64 }
register! { #[doc = "SP_EL1."] sp_el1, SP_EL1, u64 }

// The same of a 32-bit guest.
own! { #[doc = "SPSR_abt."] spsr_abt, "spsr_abt" }
own! { #[doc = "SPSR_und."] spsr_und, "spsr_und" }
own! { #[doc = "SPSR_irq."] spsr_irq, "spsr_irq" }
own! { #[doc = "SPSR_fiq."] spsr_fiq, "spsr_fiq" }
register! { #[doc = "DACR32_EL2."] dacr32, DACR32_EL2, u64 }
own! { #[doc = "IFSR32_EL2."] ifsr32, "ifsr32_el2" }
own! { #[doc = "FPEXC32_EL2."] fpexc32, "fpexc32_el2" }

// Configuration of EL2.
own! { #[doc = "VPIDR_EL2."] vpidr, "vpidr_el2" }
register! { #[doc = "VMPIDR_EL2."] vmpidr, VMPIDR_EL2, u64 }
register! { #[doc = "HCR_EL2."] hcr, HCR_EL2, u64 }
register! { #[doc = "MDCR_EL2."] mdcr, MDCR_EL2, u64 }
register! { #[doc = "CPTR_EL2."] cptr, CPTR_EL2, u64 }
own! { #[doc = "HSTR_EL2."] hstr, "hstr_el2" }
register! { #[doc = "VTCR_EL2."] vtcr, VTCR_EL2, u64 }
register! { #[doc = "VTTBR_EL2."] vttbr, VTTBR_EL2, u64 }
read_only! { #[doc = "ESR_EL2."] esr_el2, ESR_EL2, u64 }
read_only! { #[doc = "FAR_EL2."] far_el2, FAR_EL2, u64 }
read_only! { #[doc = "HPFAR_EL2."] hpfar, HPFAR_EL2, u64 }
register! { #[doc = "TPIDR_EL2: the hypervisor's own, names this CPU's data."] tpidr_el2, TPIDR_EL2, u64 }
identification! { #[doc = "DCZID_EL0: what DC ZVA writes."] dczid, "dczid_el0" }
identification! { #[doc = "ISR_EL1: pending interrupts as seen from here."] isr, "isr_el1" }

// Generic timer.
read_only! { #[doc = "CNTFRQ_EL0, in Hz."] cntfrq, CNTFRQ_EL0, u32 }
read_only! { #[doc = "CNTPCT_EL0."] cntpct, CNTPCT_EL0, u64 }
register! { #[doc = "CNTVOFF_EL2."] cntvoff, CNTVOFF_EL2, u64 }
register! { #[doc = "CNTV_CTL_EL0 of the guest."] cntv_ctl, CNTV_CTL_EL0, u32 }
register! { #[doc = "CNTV_CVAL_EL0 of the guest."] cntv_cval, CNTV_CVAL_EL0, u64 }
register! { #[doc = "CNTHCTL_EL2."] cnthctl, CNTHCTL_EL2, u64 }
register! { #[doc = "CNTHP_CTL_EL2."] cnthp_ctl, CNTHP_CTL_EL2, u32 }
own! { #[doc = "CNTHP_CVAL_EL2."] cnthp_cval, "cnthp_cval_el2" }

// GICv3.
identification! { #[doc = "ICC_IAR1_EL1: reading acknowledges."] icc_iar1, "icc_iar1_el1" }
write_only! { #[doc = "ICC_EOIR1_EL1."] icc_eoir1, "icc_eoir1_el1" }
write_only! { #[doc = "ICC_DIR_EL1."] icc_dir, "icc_dir_el1" }
write_only! { #[doc = "ICC_SGI1R_EL1."] icc_sgi1r, "icc_sgi1r_el1" }
own! { #[doc = "ICC_PMR_EL1."] icc_pmr, "icc_pmr_el1" }
own! { #[doc = "ICC_BPR1_EL1."] icc_bpr1, "icc_bpr1_el1" }
own! { #[doc = "ICC_IGRPEN1_EL1."] icc_igrpen1, "icc_igrpen1_el1" }
own! { #[doc = "ICC_CTLR_EL1."] icc_ctlr, "icc_ctlr_el1" }
own! { #[doc = "ICC_SRE_EL1."] icc_sre_el1, "icc_sre_el1" }
own! { #[doc = "ICC_SRE_EL2."] icc_sre_el2, "icc_sre_el2" }
own! { #[doc = "ICH_HCR_EL2."] ich_hcr, "ich_hcr_el2" }
identification! { #[doc = "ICH_VTR_EL2."] ich_vtr, "ich_vtr_el2" }
identification! { #[doc = "ICH_EISR_EL2."] ich_eisr, "ich_eisr_el2" }
identification! { #[doc = "ICH_ELRSR_EL2."] ich_elrsr, "ich_elrsr_el2" }
own! { #[doc = "ICH_VMCR_EL2."] ich_vmcr, "ich_vmcr_el2" }
own! { #[doc = "ICH_AP0R0_EL2."] ich_ap0r0, "ich_ap0r0_el2" }
own! { #[doc = "ICH_AP0R1_EL2."] ich_ap0r1, "ich_ap0r1_el2" }
own! { #[doc = "ICH_AP0R2_EL2."] ich_ap0r2, "ich_ap0r2_el2" }
own! { #[doc = "ICH_AP0R3_EL2."] ich_ap0r3, "ich_ap0r3_el2" }
own! { #[doc = "ICH_AP1R0_EL2."] ich_ap1r0, "ich_ap1r0_el2" }
own! { #[doc = "ICH_AP1R1_EL2."] ich_ap1r1, "ich_ap1r1_el2" }
own! { #[doc = "ICH_AP1R2_EL2."] ich_ap1r2, "ich_ap1r2_el2" }
own! { #[doc = "ICH_AP1R3_EL2."] ich_ap1r3, "ich_ap1r3_el2" }
own! { #[doc = "ICH_LR0_EL2."] ich_lr0, "ich_lr0_el2" }
own! { #[doc = "ICH_LR1_EL2."] ich_lr1, "ich_lr1_el2" }
own! { #[doc = "ICH_LR2_EL2."] ich_lr2, "ich_lr2_el2" }
own! { #[doc = "ICH_LR3_EL2."] ich_lr3, "ich_lr3_el2" }
own! { #[doc = "ICH_LR4_EL2."] ich_lr4, "ich_lr4_el2" }
own! { #[doc = "ICH_LR5_EL2."] ich_lr5, "ich_lr5_el2" }
own! { #[doc = "ICH_LR6_EL2."] ich_lr6, "ich_lr6_el2" }
own! { #[doc = "ICH_LR7_EL2."] ich_lr7, "ich_lr7_el2" }
own! { #[doc = "ICH_LR8_EL2."] ich_lr8, "ich_lr8_el2" }
own! { #[doc = "ICH_LR9_EL2."] ich_lr9, "ich_lr9_el2" }
own! { #[doc = "ICH_LR10_EL2."] ich_lr10, "ich_lr10_el2" }
own! { #[doc = "ICH_LR11_EL2."] ich_lr11, "ich_lr11_el2" }
own! { #[doc = "ICH_LR12_EL2."] ich_lr12, "ich_lr12_el2" }
own! { #[doc = "ICH_LR13_EL2."] ich_lr13, "ich_lr13_el2" }
own! { #[doc = "ICH_LR14_EL2."] ich_lr14, "ich_lr14_el2" }
own! { #[doc = "ICH_LR15_EL2."] ich_lr15, "ich_lr15_el2" }

// Address translation, guest view (stage 1 and 2).
operation! { #[doc = "AT S12E1R: translate as the guest's privileged read."] at_s12e1r, "at s12e1r" }
operation! { #[doc = "AT S12E1W: translate as the guest's privileged write."] at_s12e1w, "at s12e1w" }

// TLB and cache maintenance.
operation! { #[doc = "TLBI VAE2IS: one page of the hypervisor's, inner shareable."] tlbi_vae2is, "tlbi vae2is" }
operation! { #[doc = "TLBI VAE2: one page of the hypervisor's, this CPU."] tlbi_vae2, "tlbi vae2" }
operation_on_all! { #[doc = "TLBI ALLE2IS: all of the hypervisor's, inner shareable."] tlbi_alle2is, "tlbi alle2is" }
operation_on_all! { #[doc = "TLBI VMALLS12E1IS: all of the current VMID, inner shareable."] tlbi_vmalls12e1is, "tlbi vmalls12e1is" }
operation_on_all! { #[doc = "TLBI VMALLS12E1: all of the current VMID, this CPU."] tlbi_vmalls12e1, "tlbi vmalls12e1" }
operation_on_all! { #[doc = "TLBI ALLE1IS: every VMID, inner shareable."] tlbi_alle1is, "tlbi alle1is" }
operation! { #[doc = "DC CIVAC: clean and invalidate by address to the point of coherency."] dccimvac, "dc civac" }
operation! { #[doc = "DC CVAC: clean by address to the point of coherency."] dccmvac, "dc cvac" }
operation_on_all! { #[doc = "IC IALLUIS: all instruction caches, inner shareable."] icialluis, "ic ialluis" }

/// Data synchronisation barrier, whole system.
#[inline(always)]
pub fn dsb() {
    // SAFETY: A barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Data synchronisation barrier, inner shareable.
#[inline(always)]
pub fn dsb_ish() {
    // SAFETY: A barrier.
    unsafe { core::arch::asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// Instruction synchronisation barrier.
#[inline(always)]
pub fn isb() {
    // SAFETY: A barrier.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits for an interrupt (also one that is masked).
#[inline(always)]
pub fn wfi() {
    // SAFETY: A hint; interrupts stay masked, so nothing runs in between.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// Sends an event to all CPUs, after everything that this CPU wrote before.
#[inline(always)]
pub fn sev() {
    // SAFETY: A hint.
    unsafe { core::arch::asm!("dsb sy", "sev", options(nostack, preserves_flags)) }
}

/// Waits for an event: what a CPU that has nothing left to do does.
#[inline(always)]
pub fn wfe() {
    // SAFETY: A hint.
    unsafe { core::arch::asm!("wfe", options(nostack, preserves_flags)) }
}
