//! Where the registers of a guest are that traps from AArch32 state are about.

use xenith_arch::{GuestFrame, sysreg};
use xenith_core::emulate::coproc::{CpuFeatures, VmRegister, VmRegister64};

use super::LiveRegs;
pub use super::inject;

/// Whether exception class 7 tells of nothing but floating point and SIMD: on ARMv7 the syndrome has more.
pub const IS_CLASS_7_VFP: bool = false;

/// Returns the registers of the loaded guest.
pub fn registers(frame: &mut GuestFrame) -> LiveRegs<'_> {
    LiveRegs(frame)
}

/// Returns the syndrome of the trap.
#[inline(always)]
pub fn raw_syndrome() -> u32 {
    sysreg::hsr::read()
}

/// Returns the virtual address of a data abort.
pub fn data_address() -> u32 {
    sysreg::hdfar::read()
}

/// Returns the virtual address of a prefetch abort.
pub fn fetch_address() -> u32 {
    sysreg::hifar::read()
}

/// Returns CNTKCTL of the loaded guest.
pub fn cntkctl() -> u32 {
    sysreg::cntkctl::read()
}

/// Returns ACTLR.
pub fn actlr() -> u32 {
    sysreg::actlr::read()
}

/// Returns SCTLR of the loaded guest.
pub fn sctlr() -> u32 {
    sysreg::sctlr::read()
}

/// Returns the identification registers of AArch32.
pub fn features(features: &super::Features) -> &CpuFeatures {
    features
}

/// Writes a translation table base of the loaded guest.
pub fn write_ttbr(register: VmRegister64, value: u64) {
    // SAFETY: Stage-1 tables of the guest; stage 2 confines it.
    unsafe {
        match register {
            VmRegister64::Ttbr0 => sysreg::ttbr0::write(value),
            VmRegister64::Ttbr1 => sysreg::ttbr1::write(value),
        }
    }
}

/// Writes a virtual memory control of the loaded guest.
pub fn write_vm(register: VmRegister, value: u32) {
    // SAFETY: PL1 state of the guest; stage 2 confines it.
    unsafe {
        match register {
            VmRegister::Sctlr => sysreg::sctlr::write(value),
            VmRegister::Ttbr0 => {
                sysreg::ttbr0::write((sysreg::ttbr0::read() & !0xffff_ffff) | u64::from(value))
            }
            VmRegister::Ttbr1 => {
                sysreg::ttbr1::write((sysreg::ttbr1::read() & !0xffff_ffff) | u64::from(value))
            }
            VmRegister::Ttbcr => sysreg::ttbcr::write(value),
            VmRegister::Ttbcr2 => {}
            VmRegister::Dacr => sysreg::dacr::write(value),
            VmRegister::Dfsr => sysreg::dfsr::write(value),
            VmRegister::Ifsr => sysreg::ifsr::write(value),
            VmRegister::Dfar => sysreg::dfar::write(value),
            VmRegister::Ifar => sysreg::ifar::write(value),
            VmRegister::Adfsr => sysreg::adfsr::write(value),
            VmRegister::Aifsr => sysreg::aifsr::write(value),
            VmRegister::Mair0 => sysreg::mair0::write(value),
            VmRegister::Mair1 => sysreg::mair1::write(value),
            VmRegister::Amair0 => sysreg::amair0::write(value),
            VmRegister::Amair1 => sysreg::amair1::write(value),
            VmRegister::Contextidr => sysreg::contextidr::write(value),
        }
    }
    sysreg::isb();
}
