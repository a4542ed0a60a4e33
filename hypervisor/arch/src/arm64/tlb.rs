//! The TLB entries of the hypervisor's own address space. Barriers are the caller's.

use super::sysreg;

/// Drops the entry of one page on all CPUs.
///
/// # Safety
/// The caller changed the mapping, and waits for the end.
#[inline(always)]
pub unsafe fn hyp_page(va: usize) {
    // SAFETY: By the contract.
    unsafe { sysreg::tlbi_vae2is::write(va >> 12) }
}

/// Drops the entry of one page on this CPU.
///
/// # Safety
/// As for [`hyp_page`]; the mapping is this CPU's alone.
#[inline(always)]
pub unsafe fn hyp_page_here(va: usize) {
    // SAFETY: By the contract.
    unsafe { sysreg::tlbi_vae2::write(va >> 12) }
}

/// Drops all entries on all CPUs.
///
/// # Safety
/// As for [`hyp_page`].
pub unsafe fn hyp_all() {
    // SAFETY: By the contract.
    unsafe { sysreg::tlbi_alle2is::write(0) }
}
