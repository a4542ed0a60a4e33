//! Emulation for AArch32 guests, and in [`a64`] for AArch64 ones: what a trap means and what the guest must see afterwards.
//!
//! Everything here is a pure function of values that the architecture code read (syndrome, registers, counters), and
//! gives back values or small operations that it performs. Nothing here takes a lock or allocates on an exit path; the
//! only shared state is [`psci::PowerStates`], which is atomic. All numbers come from a guest and are hostile: no input
//! makes a function here panic or loop beyond a small constant.
//!
//! - [`syndrome`]: HSR to a typed exit, condition check, program counter and IT-state advance.
//! - [`regs`]: the trait through which guest registers are read and written.
//! - [`decode`], [`execute`]: loads and stores to emulated devices, with and without a valid syndrome.
//! - [`inject`]: the state after an exception given to the guest.
//! - [`coproc`]: what a trapped CP15, CP14 or CP10 access does.
//! - [`vtimer`]: the emulated physical timer.
//! - [`psci`]: SMCCC and PSCI as seen by guests, and the vCPU power states.
//!
//! Sources: ARM DDI 0406C.d (Arm ARM, ARMv7-A), ARM DEN 0022 (PSCI), ARM DEN 0028 (SMCCC).

pub mod a64;
pub mod coproc;
pub mod decode;
pub mod execute;
pub mod inject;
pub mod psci;
pub mod regs;
pub mod syndrome;
pub mod vtimer;

/// The execution state that a guest's EL1 is in: PL1 of ARMv7, or AArch64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// 32 bits.
    AArch32,
    /// 64 bits.
    AArch64,
}
