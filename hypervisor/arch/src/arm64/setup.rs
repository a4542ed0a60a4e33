//! Per-CPU configuration of EL2: which guest actions trap.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::sysreg;

/// Bits of a guest's physical address.
static IPA_BITS: AtomicU8 = AtomicU8::new(40);
/// Bits of a VMID.
static VMID_BITS: AtomicU32 = AtomicU32::new(8);

/// HCR_EL2 bits (Arm DDI 0487 D24.2.53).
pub mod hcr {
    /// Stage 2 on.
    pub const VM: u64 = 1 << 0;
    /// Set/way invalidate also cleans.
    pub const SWIO: u64 = 1 << 1;
    /// Stage-1 walks to device memory fault.
    pub const PTW: u64 = 1 << 2;
    /// FIQs to EL2.
    pub const FMO: u64 = 1 << 3;
    /// IRQs to EL2.
    pub const IMO: u64 = 1 << 4;
    /// SErrors to EL2.
    pub const AMO: u64 = 1 << 5;
    /// A virtual SError is pending.
    pub const VSE: u64 = 1 << 8;
    /// TLB and cache operations are broadcast.
    pub const FB: u64 = 1 << 9;
    /// Barriers reach at least inner shareable.
    pub const BSU_IS: u64 = 1 << 10;
    /// Trap WFI.
    pub const TWI: u64 = 1 << 13;
    /// Trap WFE.
    pub const TWE: u64 = 1 << 14;
    /// Trap ID group 3.
    pub const TID3: u64 = 1 << 18;
    /// Trap SMC.
    pub const TSC: u64 = 1 << 19;
    /// Trap implementation defined registers.
    pub const TIDCP: u64 = 1 << 20;
    /// Trap ACTLR.
    pub const TACR: u64 = 1 << 21;
    /// Trap set/way operations.
    pub const TSW: u64 = 1 << 22;
    /// Trap writes of virtual memory controls.
    pub const TVM: u64 = 1 << 26;
    /// EL1 is AArch64.
    pub const RW: u64 = 1 << 31;

    /// Trap what waits.
    pub const WAITS: u64 = TWI | TWE;
    /// What every guest runs with.
    pub const GUEST: u64 = VM
        | SWIO
        | PTW
        | FMO
        | IMO
        | AMO
        | FB
        | BSU_IS
        | TWI
        | TWE
        | TID3
        | TSC
        | TIDCP
        | TACR
        | TSW
        | RW;
}

/// MDCR_EL2: TDRA, TDOSA, TDA, TPM, TPMCR.
const MDCR_TRAPS: u64 = (1 << 11) | (1 << 10) | (1 << 9) | (1 << 6) | (1 << 5);
/// HSTR_EL2: T15, of a 32-bit guest.
const HSTR_TRAPS: u64 = 1 << 15;
/// CPTR_EL2: what is reserved as one (which traps SVE and SME too), trace registers, activity monitors.
const CPTR_TRAPS: u64 = 0x33ff | (1 << 20) | (1 << 30);
/// CPTR_EL2: floating point and SIMD.
const CPTR_FP: u64 = 1 << 10;
/// CNTHCTL_EL2: the guest reads CNTPCT directly, CNTP_* traps.
const CNTHCTL: u64 = 1;

/// SCTLR_EL1 of a vCPU out of reset.
pub(super) const SCTLR_RESET: u64 = 0x30c5_0838;
/// SCTLR of a 32-bit vCPU out of reset.
pub(super) const SCTLR32_RESET: u64 = 0x00c5_0878;

/// Configures this CPU's traps; no guest runs yet.
pub fn init_cpu() {
    // SAFETY: Traps and stage 2 only concern guests, and none is entered before its VTTBR is set.
    unsafe {
        sysreg::hcr::write(hcr::GUEST);
        // The number of event counters stays as firmware left it.
        sysreg::mdcr::write((sysreg::mdcr::read() & 0x1f) | MDCR_TRAPS);
        sysreg::hstr::write(HSTR_TRAPS);
        sysreg::cptr::write(CPTR_TRAPS);
        sysreg::vtcr::write(vtcr(
            IPA_BITS.load(Ordering::Relaxed),
            VMID_BITS.load(Ordering::Relaxed),
            sysreg::id_aa64mmfr0::read(),
        ));
        sysreg::vttbr::write(0);
        sysreg::cnthctl::write(CNTHCTL);
        sysreg::cnthp_ctl::write(0);
        sysreg::cntv_ctl::write(0);
        sysreg::vpidr::write(u64::from(sysreg::midr::read()));
        // Virtual machine TLB entries of whoever ran before.
        sysreg::tlbi_alle1is::write(0);
    }
    sysreg::dsb();
    sysreg::isb();
}

/// Returns VTCR_EL2 for guests with `ipa_bits` of physical addresses on a CPU with this ID_AA64MMFR0: 4 KiB pages, walks
/// through the caches. From 43 bits on the first level is 0.
const fn vtcr(ipa_bits: u8, vmid_bits: u32, mmfr0: u64) -> u64 {
    let start = if ipa_bits > 42 { 2 } else { 1 };
    let ps = mmfr0 & 7;
    let ps = if ps > 5 { 5 } else { ps };
    let vs = (vmid_bits == 16) as u64;
    // RES1; VS; PS; SH0 inner, ORGN0 and IRGN0 write-back; SL0; T0SZ.
    1 << 31 | vs << 19 | ps << 16 | 0x3500 | start << 6 | (64 - ipa_bits as u64)
}

/// Sets the bits of guest-physical addresses and of VMIDs (8 or 16) on this CPU and on those that come later; returns
/// VTCR_EL2.
pub fn set_stage2_widths(ipa_bits: u8, vmid_bits: u32) -> u64 {
    IPA_BITS.store(ipa_bits, Ordering::Relaxed);
    VMID_BITS.store(vmid_bits, Ordering::Relaxed);
    let value = vtcr(ipa_bits, vmid_bits, sysreg::id_aa64mmfr0::read());
    // SAFETY: No guest runs yet on this CPU.
    unsafe { sysreg::vtcr::write(value) };
    sysreg::isb();
    value
}

/// Traps the floating-point and SIMD registers, of EL2 too, or not.
#[inline]
pub fn trap_vfp(on: bool) {
    let traps = if on { CPTR_TRAPS | CPTR_FP } else { CPTR_TRAPS };
    // SAFETY: More or fewer traps of the guest; the hypervisor uses these registers only to switch them.
    unsafe { sysreg::cptr::write(traps) };
    sysreg::isb();
}

/// Makes a virtual SError pending for the guest that is loaded.
pub fn pend_async_abort() {
    // SAFETY: Concerns the guest only.
    unsafe { sysreg::hcr::write(sysreg::hcr::read() | hcr::VSE) };
    sysreg::isb();
}

/// Makes a domain's stage 2 live.
///
/// # Safety
/// `vttbr` names valid tables of the domain that is entered next, with a VMID that no other live domain has.
pub unsafe fn set_stage2(vttbr: u64) {
    // SAFETY: By the contract.
    unsafe { sysreg::vttbr::write(vttbr) };
    sysreg::isb();
}

/// Leaves a domain's stage 2 for tables without entries: what is fetched ahead finds nothing. Takes effect with the next
/// barrier.
pub fn leave_stage2(empty: u64) {
    // SAFETY: No guest runs with it: `set_stage2` comes first.
    unsafe { sysreg::vttbr::write(empty) };
}

/// Drops every stage-1 and stage-2 entry of the VMID in VTTBR, on all CPUs.
pub fn flush_guest_tlb() {
    sysreg::dsb_ish();
    // SAFETY: TLB maintenance makes guests walk again.
    unsafe { sysreg::tlbi_vmalls12e1is::write(0) };
    sysreg::dsb_ish();
    sysreg::isb();
}

/// Drops every stage-1 and stage-2 entry of the VMID in VTTBR, on this CPU.
pub fn flush_own_guest_tlb() {
    // SAFETY: TLB maintenance makes guests walk again.
    unsafe { sysreg::tlbi_vmalls12e1::write(0) };
    sysreg::dsb();
    sysreg::isb();
}

/// Drops every entry of the address space `vttbr`, on all CPUs, whichever is live here.
pub fn flush_guest_tlb_of(vttbr: u64) {
    let live = sysreg::vttbr::read();
    if live != vttbr {
        // SAFETY: Valid tables of a live domain; no guest runs on this CPU until the old value is back.
        unsafe { set_stage2(vttbr) };
    }
    flush_guest_tlb();
    if live != vttbr {
        // SAFETY: What was live before.
        unsafe { set_stage2(live) };
    }
}
