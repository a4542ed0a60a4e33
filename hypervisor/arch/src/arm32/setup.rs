//! Per-CPU configuration of Hyp mode: which guest actions trap.

use super::sysreg;

/// HCR bits (ARM DDI 0406C B4.1.65).
pub mod hcr {
    /// Stage 2 on.
    pub const VM: u32 = 1 << 0;
    /// Set/way invalidate also cleans.
    pub const SWIO: u32 = 1 << 1;
    /// Stage-1 walks to device memory fault.
    pub const PTW: u32 = 1 << 2;
    /// FIQs to Hyp.
    pub const FMO: u32 = 1 << 3;
    /// IRQs to Hyp.
    pub const IMO: u32 = 1 << 4;
    /// Asynchronous aborts to Hyp.
    pub const AMO: u32 = 1 << 5;
    /// A virtual asynchronous abort is pending.
    pub const VA: u32 = 1 << 8;
    /// TLB and cache operations are broadcast.
    pub const FB: u32 = 1 << 9;
    /// Barriers reach at least inner shareable.
    pub const BSU_IS: u32 = 1 << 10;
    /// Trap WFI.
    pub const TWI: u32 = 1 << 13;
    /// Trap WFE.
    pub const TWE: u32 = 1 << 14;
    /// Trap ID group 3.
    pub const TID3: u32 = 1 << 18;
    /// Trap SMC.
    pub const TSC: u32 = 1 << 19;
    /// Trap implementation defined registers.
    pub const TIDCP: u32 = 1 << 20;
    /// Trap ACTLR.
    pub const TAC: u32 = 1 << 21;
    /// Trap set/way operations.
    pub const TSW: u32 = 1 << 22;
    /// Trap writes of virtual memory controls.
    pub const TVM: u32 = 1 << 26;

    /// Trap what waits.
    pub const WAITS: u32 = TWI | TWE;
    /// What every guest runs with.
    pub const GUEST: u32 = VM
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
        | TAC
        | TSW;
}

/// HDCR: TDRA, TDOSA, TDA, TPM, TPMCR.
const HDCR_TRAPS: u32 = (1 << 11) | (1 << 10) | (1 << 9) | (1 << 6) | (1 << 5);
/// HDCR: TPM, TPMCR.
const HDCR_PMU: u32 = (1 << 6) | (1 << 5);
/// HSTR: T15.
const HSTR_TRAPS: u32 = 1 << 15;
/// HCPTR: cp0–9, 12, 13, trace registers, activity monitors. cp10/11 (VFP) are the guest's.
const HCPTR_TRAPS: u32 = 0x33ff | (1 << 20) | (1 << 30);
/// HCPTR: cp10 and cp11.
const HCPTR_VFP: u32 = 0x0c00;
/// VTCR: 40-bit IPA (T0SZ -8), start at level 1, write-back inner shareable walks.
const VTCR: u32 = 0x8000_3558;
/// CNTHCTL: the guest reads CNTPCT directly, CNTP_* traps.
const CNTHCTL: u32 = 1;

/// SCTLR of a vCPU out of reset.
pub(super) const SCTLR_RESET: u32 = 0x00c5_0078;

/// Configures this CPU's traps and stage-2 format; no guest runs yet.
pub fn init_cpu() {
    // SAFETY: Traps and stage 2 only concern guests, and none is entered before its VTTBR is set.
    unsafe {
        sysreg::hcr::write(hcr::GUEST);
        sysreg::hdcr::write((sysreg::hdcr::read() & 0x1f) | HDCR_TRAPS);
        sysreg::hstr::write(HSTR_TRAPS);
        sysreg::hcptr::write(HCPTR_TRAPS);
        sysreg::vtcr::write(VTCR);
        sysreg::vttbr::write(0);
        sysreg::cnthctl::write(CNTHCTL);
        sysreg::cnthp_ctl::write(0);
        sysreg::cntv_ctl::write(0);
        sysreg::vpidr::write(sysreg::midr::read());
        // Virtual machine TLB entries of whoever ran before.
        sysreg::tlballnsnhis::write(0);
    }
    sysreg::dsb();
    sysreg::isb();
}

/// Traps the floating-point and SIMD registers, of Hyp mode too, or not.
#[inline]
pub fn trap_vfp(on: bool) {
    let traps = if on {
        HCPTR_TRAPS | HCPTR_VFP
    } else {
        HCPTR_TRAPS
    };
    // SAFETY: More or fewer traps of the guest; the hypervisor uses these registers only to switch them.
    unsafe { sysreg::hcptr::write(traps) };
    sysreg::isb();
}

/// Traps the guest's accesses to the performance monitors, or not.
pub fn trap_pmu(on: bool) {
    let others = sysreg::hdcr::read() & !HDCR_PMU;
    // SAFETY: More or fewer traps of the guest.
    unsafe { sysreg::hdcr::write(if on { others | HDCR_PMU } else { others }) };
    sysreg::isb();
}

/// Makes a virtual asynchronous abort pending for the guest that is loaded.
pub fn pend_async_abort() {
    // SAFETY: Concerns the guest only.
    unsafe { sysreg::hcr::write(sysreg::hcr::read() | hcr::VA) };
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
    unsafe { sysreg::tlballis::write(0) };
    sysreg::dsb_ish();
    sysreg::isb();
}

/// Drops every stage-1 and stage-2 entry of the VMID in VTTBR, on this CPU.
pub fn flush_own_guest_tlb() {
    // SAFETY: TLB maintenance makes guests walk again.
    unsafe { sysreg::tlbiall::write(0) };
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
