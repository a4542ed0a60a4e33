//! Cache maintenance by virtual address.

use crate::imp::sysreg;

/// The smallest data cache line, in bytes (CTR.DminLine).
fn line() -> usize {
    4 << ((sysreg::ctr::read() >> 16) & 0xf)
}

/// Cleans `len` bytes at `va` to the point of coherency. The end is computed so that a range at the top of the address
/// space cannot wrap (XSA-437).
pub fn clean_range(va: usize, len: usize) {
    let line = line();
    let first = va & !(line - 1);
    for i in 0..(len + (va - first)).div_ceil(line) {
        // SAFETY: Cleaning a line of mapped memory changes nothing that Rust sees.
        unsafe { sysreg::dccmvac::write((first + i * line) as _) };
    }
    sysreg::dsb();
}

/// Cleans and invalidates `len` bytes at `va` to the point of coherency.
pub fn clean_invalidate_range(va: usize, len: usize) {
    let line = line();
    let first = va & !(line - 1);
    for i in 0..(len + (va - first)).div_ceil(line) {
        // SAFETY: Cleaning before invalidating loses nothing.
        unsafe { sysreg::dccimvac::write((first + i * line) as _) };
    }
    sysreg::dsb();
}

/// Invalidates all instruction caches: code was written.
pub fn invalidate_instruction_caches() {
    // SAFETY: Instruction fetches start over.
    unsafe { sysreg::icialluis::write(0) };
    sysreg::dsb();
    sysreg::isb();
}
