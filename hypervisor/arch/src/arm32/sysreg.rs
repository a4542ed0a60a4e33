//! The ARMv7 system registers that the hypervisor uses (ARM DDI 0406C, B4.1 and B8).
//!
//! `aarch32-cpu` 0.4 lacks most of the Hyp set (HTTBR, VTTBR, HTCR, VTCR, 64-bit PAR, banked registers) and encodes
//! CNTHP_CVAL as CNTP_CVAL; `arm-sysregs` 0.5 does not assemble 64-bit reads on AArch32. So these few accessors are ours;
//! `tests/sysreg` compares their encodings with a table from the manual by disassembly.

macro_rules! coprocessor32 {
    ($(#[$doc:meta])* $name:ident, $coproc:literal, $opc1:literal, $crn:literal, $crm:literal, $opc2:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Reads the register.
            #[inline(always)]
            pub fn read() -> u32 {
                let value: u32;
                // SAFETY: Reading this register has no side effect on memory that Rust knows.
                unsafe {
                    core::arch::asm!(
                        concat!("mrc ", $coproc, ", ", $opc1, ", {0}, ", $crn, ", ", $crm, ", ", $opc2),
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
            pub unsafe fn write(value: u32) {
                // SAFETY: By this function's contract.
                unsafe {
                    core::arch::asm!(
                        concat!("mcr ", $coproc, ", ", $opc1, ", {0}, ", $crn, ", ", $crm, ", ", $opc2),
                        in(reg) value, options(nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

macro_rules! sysreg32 {
    ($(#[$doc:meta])* $name:ident, $opc1:literal, $crn:literal, $crm:literal, $opc2:literal) => {
        coprocessor32! { $(#[$doc])* $name, "p15", $opc1, $crn, $crm, $opc2 }
    };
}

macro_rules! sysreg14 {
    ($(#[$doc:meta])* $name:ident, $opc1:literal, $crn:literal, $crm:literal, $opc2:literal) => {
        coprocessor32! { $(#[$doc])* $name, "p14", $opc1, $crn, $crm, $opc2 }
    };
}

macro_rules! sysreg64 {
    ($(#[$doc:meta])* $name:ident, $opc1:literal, $crm:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Reads the register.
            #[inline(always)]
            pub fn read() -> u64 {
                let low: u32;
                let high: u32;
                // SAFETY: Reading this register has no side effect on memory that Rust knows.
                unsafe {
                    core::arch::asm!(
                        concat!("mrrc p15, ", $opc1, ", {0}, {1}, ", $crm),
                        out(reg) low, out(reg) high, options(nomem, nostack, preserves_flags)
                    );
                }
                (u64::from(high) << 32) | u64::from(low)
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
                        concat!("mcrr p15, ", $opc1, ", {0}, {1}, ", $crm),
                        in(reg) value as u32, in(reg) (value >> 32) as u32, options(nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

macro_rules! banked {
    ($(#[$doc:meta])* $name:ident, $reg:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Reads the banked register of the guest.
            #[inline(always)]
            pub fn read() -> u32 {
                let value: u32;
                // SAFETY: In Hyp mode this reads the guest's banked copy; no side effect.
                unsafe {
                    core::arch::asm!(
                        concat!(".arch_extension virt", "\n", "mrs {0}, ", $reg),
                        out(reg) value, options(nomem, nostack, preserves_flags)
                    );
                }
                value
            }

            /// Writes the banked register of the guest; it has no effect on the hypervisor.
            #[inline(always)]
            pub fn write(value: u32) {
                // SAFETY: In Hyp mode this writes the guest's banked copy, which the hypervisor never uses itself.
                unsafe {
                    core::arch::asm!(
                        concat!(".arch_extension virt", "\n", "msr ", $reg, ", {0}"),
                        in(reg) value, options(nomem, nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

// One line for each register: braces keep rustfmt away.

// Identification.
sysreg32! { #[doc = "MIDR."] midr, "0", "c0", "c0", "0" }
sysreg32! { #[doc = "CTR."] ctr, "0", "c0", "c0", "1" }
sysreg32! { #[doc = "MPIDR."] mpidr, "0", "c0", "c0", "5" }
sysreg32! { #[doc = "ID_PFR0."] id_pfr0, "0", "c0", "c1", "0" }
sysreg32! { #[doc = "ID_PFR1."] id_pfr1, "0", "c0", "c1", "1" }
sysreg32! { #[doc = "ID_DFR0."] id_dfr0, "0", "c0", "c1", "2" }
sysreg32! { #[doc = "ID_AFR0."] id_afr0, "0", "c0", "c1", "3" }
sysreg32! { #[doc = "ID_MMFR0."] id_mmfr0, "0", "c0", "c1", "4" }
sysreg32! { #[doc = "ID_MMFR1."] id_mmfr1, "0", "c0", "c1", "5" }
sysreg32! { #[doc = "ID_MMFR2."] id_mmfr2, "0", "c0", "c1", "6" }
sysreg32! { #[doc = "ID_MMFR3."] id_mmfr3, "0", "c0", "c1", "7" }
sysreg32! { #[doc = "ID_ISAR0."] id_isar0, "0", "c0", "c2", "0" }
sysreg32! { #[doc = "ID_ISAR1."] id_isar1, "0", "c0", "c2", "1" }
sysreg32! { #[doc = "ID_ISAR2."] id_isar2, "0", "c0", "c2", "2" }
sysreg32! { #[doc = "ID_ISAR3."] id_isar3, "0", "c0", "c2", "3" }
sysreg32! { #[doc = "ID_ISAR4."] id_isar4, "0", "c0", "c2", "4" }
sysreg32! { #[doc = "ID_ISAR5."] id_isar5, "0", "c0", "c2", "5" }

// Guest state that a context switch saves (PL1).
sysreg32! { #[doc = "CSSELR."] csselr, "2", "c0", "c0", "0" }
sysreg32! { #[doc = "SCTLR of the guest."] sctlr, "0", "c1", "c0", "0" }
sysreg32! { #[doc = "ACTLR."] actlr, "0", "c1", "c0", "1" }
sysreg32! { #[doc = "CPACR of the guest."] cpacr, "0", "c1", "c0", "2" }
sysreg32! { #[doc = "TTBCR of the guest."] ttbcr, "0", "c2", "c0", "2" }
sysreg64! { #[doc = "TTBR0 of the guest (64-bit view)."] ttbr0, "0", "c2" }
sysreg64! { #[doc = "TTBR1 of the guest (64-bit view)."] ttbr1, "1", "c2" }
sysreg32! { #[doc = "DACR of the guest."] dacr, "0", "c3", "c0", "0" }
sysreg32! { #[doc = "DFSR of the guest."] dfsr, "0", "c5", "c0", "0" }
sysreg32! { #[doc = "IFSR of the guest."] ifsr, "0", "c5", "c0", "1" }
sysreg32! { #[doc = "ADFSR of the guest."] adfsr, "0", "c5", "c1", "0" }
sysreg32! { #[doc = "AIFSR of the guest."] aifsr, "0", "c5", "c1", "1" }
sysreg32! { #[doc = "DFAR of the guest."] dfar, "0", "c6", "c0", "0" }
sysreg32! { #[doc = "IFAR of the guest."] ifar, "0", "c6", "c0", "2" }
sysreg64! { #[doc = "PAR (64-bit view)."] par, "0", "c7" }
sysreg32! { #[doc = "MAIR0/PRRR of the guest."] mair0, "0", "c10", "c2", "0" }
sysreg32! { #[doc = "MAIR1/NMRR of the guest."] mair1, "0", "c10", "c2", "1" }
sysreg32! { #[doc = "AMAIR0 of the guest."] amair0, "0", "c10", "c3", "0" }
sysreg32! { #[doc = "AMAIR1 of the guest."] amair1, "0", "c10", "c3", "1" }
sysreg32! { #[doc = "VBAR of the guest."] vbar, "0", "c12", "c0", "0" }
sysreg32! { #[doc = "CONTEXTIDR of the guest."] contextidr, "0", "c13", "c0", "1" }
sysreg32! { #[doc = "TPIDRURW of the guest."] tpidrurw, "0", "c13", "c0", "2" }
sysreg32! { #[doc = "TPIDRURO of the guest."] tpidruro, "0", "c13", "c0", "3" }
sysreg32! { #[doc = "TPIDRPRW of the guest."] tpidrprw, "0", "c13", "c0", "4" }

// ThumbEE, where ID_PFR0 has it.
sysreg14! { #[doc = "TEECR of the guest."] teecr, "6", "c0", "c0", "0" }
sysreg14! { #[doc = "TEEHBR of the guest."] teehbr, "6", "c1", "c0", "0" }

// Address translation, guest view (stage 1 and 2), and its faults.
sysreg32! { #[doc = "ATS12NSOPR: translate as the guest's privileged read."] ats12nsopr, "0", "c7", "c8", "4" }
sysreg32! { #[doc = "ATS12NSOPW: translate as the guest's privileged write."] ats12nsopw, "0", "c7", "c8", "5" }

// Performance monitors.
sysreg32! { #[doc = "PMCR."] pmcr, "0", "c9", "c12", "0" }
sysreg32! { #[doc = "PMCNTENSET."] pmcntenset, "0", "c9", "c12", "1" }
sysreg32! { #[doc = "PMCNTENCLR."] pmcntenclr, "0", "c9", "c12", "2" }
sysreg32! { #[doc = "PMOVSR: written ones clear."] pmovsr, "0", "c9", "c12", "3" }
sysreg32! { #[doc = "PMSELR."] pmselr, "0", "c9", "c12", "5" }
sysreg32! { #[doc = "PMCCNTR."] pmccntr, "0", "c9", "c13", "0" }
sysreg32! { #[doc = "PMXEVTYPER."] pmxevtyper, "0", "c9", "c13", "1" }
sysreg32! { #[doc = "PMXEVCNTR."] pmxevcntr, "0", "c9", "c13", "2" }
sysreg32! { #[doc = "PMUSERENR."] pmuserenr, "0", "c9", "c14", "0" }
sysreg32! { #[doc = "PMINTENSET."] pmintenset, "0", "c9", "c14", "1" }
sysreg32! { #[doc = "PMINTENCLR."] pmintenclr, "0", "c9", "c14", "2" }
sysreg32! { #[doc = "PMOVSSET."] pmovsset, "0", "c9", "c14", "3" }

// Hyp configuration.
sysreg32! { #[doc = "VPIDR."] vpidr, "4", "c0", "c0", "0" }
sysreg32! { #[doc = "VMPIDR."] vmpidr, "4", "c0", "c0", "5" }
sysreg32! { #[doc = "HCR."] hcr, "4", "c1", "c1", "0" }
sysreg32! { #[doc = "HDCR."] hdcr, "4", "c1", "c1", "1" }
sysreg32! { #[doc = "HCPTR."] hcptr, "4", "c1", "c1", "2" }
sysreg32! { #[doc = "HSTR."] hstr, "4", "c1", "c1", "3" }
sysreg32! { #[doc = "VTCR."] vtcr, "4", "c2", "c1", "2" }
sysreg64! { #[doc = "VTTBR."] vttbr, "6", "c2" }
sysreg32! { #[doc = "HSR."] hsr, "4", "c5", "c2", "0" }
sysreg32! { #[doc = "HDFAR."] hdfar, "4", "c6", "c0", "0" }
sysreg32! { #[doc = "HIFAR."] hifar, "4", "c6", "c0", "2" }
sysreg32! { #[doc = "HPFAR."] hpfar, "4", "c6", "c0", "4" }
sysreg32! { #[doc = "HTPIDR: the hypervisor's own, names this CPU's data."] htpidr, "4", "c13", "c0", "2" }
sysreg32! { #[doc = "ISR: pending interrupts as seen from here."] isr, "0", "c12", "c1", "0" }

// Generic timer.
sysreg32! { #[doc = "CNTFRQ, in Hz."] cntfrq, "0", "c14", "c0", "0" }
sysreg64! { #[doc = "CNTPCT."] cntpct, "0", "c14" }
sysreg64! { #[doc = "CNTVOFF."] cntvoff, "4", "c14" }
sysreg32! { #[doc = "CNTV_CTL of the guest."] cntv_ctl, "0", "c14", "c3", "1" }
sysreg64! { #[doc = "CNTV_CVAL of the guest."] cntv_cval, "3", "c14" }
sysreg32! { #[doc = "CNTKCTL of the guest."] cntkctl, "0", "c14", "c1", "0" }
sysreg32! { #[doc = "CNTHCTL."] cnthctl, "4", "c14", "c1", "0" }
sysreg32! { #[doc = "CNTHP_CTL."] cnthp_ctl, "4", "c14", "c2", "1" }
sysreg64! { #[doc = "CNTHP_CVAL."] cnthp_cval, "6", "c14" }

// TLB and cache maintenance (write-only operations; reading them is never done).
sysreg32! { #[doc = "TLBIMVAHIS: one page of the hypervisor's, inner shareable."] tlbimvahis, "4", "c8", "c3", "1" }
sysreg32! { #[doc = "TLBIMVAH: one page of the hypervisor's, this CPU."] tlbimvah, "4", "c8", "c7", "1" }
sysreg32! { #[doc = "TLBIALLIS: all of the current VMID, inner shareable."] tlballis, "0", "c8", "c3", "0" }
sysreg32! { #[doc = "TLBIALLNSNHIS: every VMID, inner shareable."] tlballnsnhis, "4", "c8", "c3", "4" }
sysreg32! { #[doc = "DCCIMVAC: clean and invalidate by address to the point of coherency."] dccimvac, "0", "c7", "c14", "1" }
sysreg32! { #[doc = "DCCMVAC: clean by address to the point of coherency."] dccmvac, "0", "c7", "c10", "1" }
sysreg32! { #[doc = "ICIALLUIS: all instruction caches, inner shareable."] icialluis, "0", "c7", "c1", "0" }
sysreg32! { #[doc = "TLBIALLHIS: all of the hypervisor's, inner shareable."] tlbiallhis, "4", "c8", "c3", "0" }
sysreg32! { #[doc = "TLBIALL: all of the current VMID, this CPU."] tlbiall, "0", "c8", "c7", "0" }

// The guest's banked registers.
banked! { #[doc = "SP_usr."] sp_usr, "SP_usr" }
banked! { #[doc = "SP_svc."] sp_svc, "SP_svc" }
banked! { #[doc = "LR_svc."] lr_svc, "LR_svc" }
banked! { #[doc = "SPSR_svc."] spsr_svc, "SPSR_svc" }
banked! { #[doc = "SP_abt."] sp_abt, "SP_abt" }
banked! { #[doc = "LR_abt."] lr_abt, "LR_abt" }
banked! { #[doc = "SPSR_abt."] spsr_abt, "SPSR_abt" }
banked! { #[doc = "SP_und."] sp_und, "SP_und" }
banked! { #[doc = "LR_und."] lr_und, "LR_und" }
banked! { #[doc = "SPSR_und."] spsr_und, "SPSR_und" }
banked! { #[doc = "SP_irq."] sp_irq, "SP_irq" }
banked! { #[doc = "LR_irq."] lr_irq, "LR_irq" }
banked! { #[doc = "SPSR_irq."] spsr_irq, "SPSR_irq" }
banked! { #[doc = "SP_fiq."] sp_fiq, "SP_fiq" }
banked! { #[doc = "LR_fiq."] lr_fiq, "LR_fiq" }
banked! { #[doc = "SPSR_fiq."] spsr_fiq, "SPSR_fiq" }
banked! { #[doc = "r8_fiq."] r8_fiq, "r8_fiq" }
banked! { #[doc = "r9_fiq."] r9_fiq, "r9_fiq" }
banked! { #[doc = "r10_fiq."] r10_fiq, "r10_fiq" }
banked! { #[doc = "r11_fiq."] r11_fiq, "r11_fiq" }
banked! { #[doc = "r12_fiq."] r12_fiq, "r12_fiq" }

/// Data synchronisation barrier, whole system.
#[inline(always)]
pub fn dsb() {
    // SAFETY: A barrier.
    unsafe { core::arch::asm!("dsb", options(nostack, preserves_flags)) }
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
    unsafe { core::arch::asm!("dsb", "wfi", options(nostack, preserves_flags)) }
}

/// Waits for an event: what a CPU that has nothing left to do does.
#[inline(always)]
pub fn wfe() {
    // SAFETY: A hint.
    unsafe { core::arch::asm!("wfe", options(nostack, preserves_flags)) }
}

/// Sends an event to all CPUs, after everything that this CPU wrote before.
#[inline(always)]
pub fn sev() {
    // SAFETY: A hint.
    unsafe { core::arch::asm!("dsb", "sev", options(nostack, preserves_flags)) }
}
