//! Emulation for AArch64 guests: as [`super`], with the registers and syndromes of ARMv8-A (Arm DDI 0487).
//!
//! - [`aarch32`]: AArch32 guests.
//! - [`syndrome`]: ESR_EL2 to a typed exit.
//! - [`mmio`]: loads and stores to emulated devices.
//! - [`inject`]: the state after an exception given to the guest.
//! - [`sysreg`]: what a trapped system register access does.
//! - [`features`]: the identification registers as guests see them.

pub mod aarch32;
pub mod features;
pub mod inject;
pub mod mmio;
pub mod syndrome;
pub mod sysreg;

/// SPSR_EL2 of an AArch64 guest (Arm DDI 0487 C5.2.18).
pub mod pstate {
    /// SError, IRQ and FIQ masked, and debug exceptions.
    pub const DAIF: u32 = 0xf << 6;
    /// Exception level and stack pointer.
    pub const MODE_MASK: u32 = 0x1f;
    /// EL0.
    pub const MODE_EL0: u32 = 0x0;
    /// EL1 with SP_EL0.
    pub const MODE_EL1T: u32 = 0x4;
    /// EL1 with its own stack pointer.
    pub const MODE_EL1H: u32 = 0x5;
    /// The guest is in AArch32 state: the mode field is that of a CPSR.
    pub const AARCH32: u32 = 1 << 4;
    /// How a vCPU starts.
    pub const START: u32 = DAIF | MODE_EL1H;
}

/// The general-purpose registers of a stopped AArch64 guest.
pub trait GuestRegs64 {
    /// Returns x0 to x30; 31 is the zero register.
    fn get(&self, register: u8) -> u64;
    /// Sets x0 to x30; writes to 31 are lost.
    fn set(&mut self, register: u8, value: u64);
}
