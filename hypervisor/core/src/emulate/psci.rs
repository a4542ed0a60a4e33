//! SMCCC and PSCI 1.1 as guests see them (ARM DEN 0022D, ARM DEN 0028; `xen-arm.md` 3.20).
//!
//! [`call`] turns the four argument registers into an [`Answer`]: registers to set, or an operation that the hypervisor
//! performs. [`PowerStates`] holds the power state of each vCPU of a domain; its transitions are compare-and-swap, so of
//! any number of simultaneous CPU_ON calls for one vCPU exactly one wins, without a lock.
//!
//! A vCPU is `Off` only when no physical CPU runs it any more and its registers are saved: the winner of a CPU_ON may
//! then write them. So [`PowerStates::set_off`] comes last in switching a vCPU off.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use super::Execution;
use super::a64::pstate;
use super::regs::psr;
use crate::addr::VcpuId;
use crate::errno::Errno;

/// PSCI_VERSION: 1.1.
pub const PSCI_VERSION: u32 = 0x0001_0001;
/// SMCCC_VERSION: 1.1, as real Xen 4.17 answers.
pub const SMCCC_VERSION: u32 = 0x0001_0001;
/// Unknown function, in SMCCC and PSCI alike.
pub const NOT_SUPPORTED: u32 = u32::MAX;

const FN_PSCI_VERSION: u32 = 0x8400_0000;
const FN_CPU_SUSPEND: u32 = 0x8400_0001;
const FN_CPU_OFF: u32 = 0x8400_0002;
const FN_CPU_ON: u32 = 0x8400_0003;
const FN_AFFINITY_INFO: u32 = 0x8400_0004;
const FN_MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const FN_SYSTEM_OFF: u32 = 0x8400_0008;
const FN_SYSTEM_RESET: u32 = 0x8400_0009;
const FN_PSCI_FEATURES: u32 = 0x8400_000a;
const FN_V01_CPU_OFF: u32 = 1;
const FN_V01_CPU_ON: u32 = 2;

const FN_SMCCC_VERSION: u32 = 0x8000_0000;
const FN_ARCH_FEATURES: u32 = 0x8000_0001;
const FN_WORKAROUND_1: u32 = 0x8000_8000;
const FN_WORKAROUND_2: u32 = 0x8000_7fff;
const FN_WORKAROUND_3: u32 = 0x8000_3fff;

const FN_STANDARD_COUNT: u32 = 0x8400_ff00;
const FN_STANDARD_UID: u32 = 0x8400_ff01;
const FN_STANDARD_REVISION: u32 = 0x8400_ff03;
const FN_HYPERVISOR_COUNT: u32 = 0x8500_ff00;
const FN_HYPERVISOR_UID: u32 = 0x8500_ff01;
const FN_HYPERVISOR_REVISION: u32 = 0x8500_ff03;

/// f863386f-4b39-4cbd-9220-ce1641e59f6f, first byte lowest.
const STANDARD_UID: [u32; 4] = [0x6f38_63f8, 0xbd4c_394b, 0x16ce_2092, 0x6f9f_e541];
/// a71812dc-c698-4369-9acf-79d18ddee667, first byte lowest.
const HYPERVISOR_UID: [u32; 4] = [0xdc12_18a7, 0x6943_98c6, 0xd179_cf9a, 0x67e6_de8d];
/// Twelve PSCI functions and the three of the service itself.
const STANDARD_COUNT: u32 = 15;
const HYPERVISOR_COUNT: u32 = 3;

/// MIGRATE_INFO_TYPE: no trusted OS that would need migration.
const TRUSTED_OS_NOT_PRESENT: u32 = 2;

/// Bits of an MPIDR that name a CPU: Aff2, Aff1, Aff0.
const MPIDR_AFFINITY: u32 = 0x00ff_ffff;

/// An error that a PSCI call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum PsciError {
    /// NOT_SUPPORTED.
    NotSupported = -1,
    /// INVALID_PARAMETERS.
    InvalidParameters = -2,
    /// DENIED.
    Denied = -3,
    /// ALREADY_ON.
    AlreadyOn = -4,
    /// ON_PENDING.
    OnPending = -5,
    /// INTERNAL_FAILURE.
    InternalFailure = -6,
}

/// Which interface a CPU_ON came through: 0.1 does not know all errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciInterface {
    /// PSCI 0.1, numbers from the device tree.
    V01,
    /// PSCI 0.2 and later.
    V02,
}

impl PsciInterface {
    /// Returns the value of r0 for an error.
    pub const fn error_value(self, error: PsciError) -> u32 {
        match (self, error) {
            (Self::V01, PsciError::AlreadyOn | PsciError::OnPending) => {
                PsciError::InvalidParameters as i32 as u32
            }
            _ => error as i32 as u32,
        }
    }
}

/// Spectre workarounds that the machine needs on behalf of guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workarounds {
    /// Branch predictor invalidation (SMCCC_ARCH_WORKAROUND_1) does something here.
    pub branch_predictor: bool,
    /// Branch history injection (SMCCC_ARCH_WORKAROUND_3) does something here; covers the first too.
    pub branch_history: bool,
    /// Speculative store bypass (SMCCC_ARCH_WORKAROUND_2).
    pub store_bypass: StoreBypass,
}

/// State of the speculative store bypass mitigation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreBypass {
    /// Unknown or switched off: the function is not supported.
    #[default]
    Unsupported,
    /// Always mitigated, or not affected: the call is not required.
    NotRequired,
    /// The guest may switch it.
    Runtime,
}

/// A CPU_ON request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOn {
    /// The MPIDR of the target, as the guest says.
    pub target: u32,
    /// Entry address; of a 32-bit guest bit 0 asks for Thumb state.
    pub entry: u64,
    /// Value of r0 or x0 at the entry.
    pub context: u64,
    /// What the guest is.
    pub execution: Execution,
    /// Where the request came through.
    pub interface: PsciInterface,
}

impl CpuOn {
    /// Returns the registers with which the vCPU starts; all others are zero and its system registers are reset.
    pub const fn start(&self) -> VcpuStart {
        let (pc, psr) = match self.execution {
            Execution::AArch64 => (self.entry, pstate::START),
            Execution::AArch32 => {
                let thumb = if self.entry & 1 != 0 { psr::T } else { 0 };
                let masked = psr::A | psr::I | psr::F;
                (self.entry & !1, masked | psr::MODE_SVC | thumb)
            }
        };
        VcpuStart {
            pc,
            psr,
            r0: self.context,
        }
    }
}

/// The registers with which a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuStart {
    /// Program counter.
    pub pc: u64,
    /// CPSR or SPSR_EL2: the most privileged mode of the guest, all interrupts masked.
    pub psr: u32,
    /// r0 or x0, the context id.
    pub r0: u64,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Set r0.
    Value(u32),
    /// Set r0 and r1 (a revision).
    Pair(u32, u32),
    /// Set r0 to r3 (a UID).
    Four([u32; 4]),
    /// Change no register; perform the branch predictor workaround if there is one.
    Workaround,
    /// Change no register; switch the store bypass mitigation of this vCPU.
    StoreBypassSwitch {
        /// True to mitigate.
        enable: bool,
    },
    /// Set r0 to 0 and block the vCPU until an event, like WFI (power down is treated as standby).
    Suspend,
    /// Switch the calling vCPU off; r0 matters only if that fails.
    CpuOff,
    /// Start a vCPU: [`PowerStates::cpu_on`], then set r0 to 0 or the error.
    CpuOn(CpuOn),
    /// Set r0 to [`PowerStates::affinity_info`].
    AffinityInfo {
        /// The affinity asked for.
        target: u32,
        /// The lowest affinity level that counts.
        level: u32,
    },
    /// Shut the domain down (power off). r0 becomes INTERNAL_FAILURE should the vCPU run again.
    SystemOff,
    /// Shut the domain down (reboot). r0 becomes INTERNAL_FAILURE should the vCPU run again.
    SystemReset,
}

/// Decides an SMC, or an HVC with immediate 0, of a 32-bit guest with `r0` to `r3`. Never UNDEFINED: an unknown
/// function answers -1.
///
/// Numbers in the vendor hypervisor range (0x86...) answer -1 too: that is what real Xen 4.17 does (its own service is
/// in the range of owner 5).
pub const fn call(r0: u32, r1: u32, r2: u32, r3: u32, workarounds: &Workarounds) -> Answer {
    match r0 {
        FN_PSCI_VERSION => Answer::Value(PSCI_VERSION),
        FN_CPU_SUSPEND => Answer::Suspend,
        FN_CPU_OFF | FN_V01_CPU_OFF => Answer::CpuOff,
        FN_CPU_ON => Answer::CpuOn(CpuOn {
            target: r1,
            entry: r2 as u64,
            context: r3 as u64,
            execution: Execution::AArch32,
            interface: PsciInterface::V02,
        }),
        FN_V01_CPU_ON => Answer::CpuOn(CpuOn {
            target: r1,
            entry: r2 as u64,
            context: 0,
            execution: Execution::AArch32,
            interface: PsciInterface::V01,
        }),
        FN_AFFINITY_INFO => Answer::AffinityInfo {
            target: r1,
            level: r2,
        },
        FN_MIGRATE_INFO_TYPE => Answer::Value(TRUSTED_OS_NOT_PRESENT),
        FN_SYSTEM_OFF => Answer::SystemOff,
        FN_SYSTEM_RESET => Answer::SystemReset,
        FN_PSCI_FEATURES => Answer::Value(psci_features(r1)),
        FN_SMCCC_VERSION => Answer::Value(SMCCC_VERSION),
        FN_ARCH_FEATURES => Answer::Value(arch_features(r1, workarounds)),
        FN_WORKAROUND_1 | FN_WORKAROUND_3 => Answer::Workaround,
        FN_WORKAROUND_2 => match workarounds.store_bypass {
            StoreBypass::Runtime => Answer::StoreBypassSwitch { enable: r1 != 0 },
            StoreBypass::Unsupported | StoreBypass::NotRequired => Answer::Workaround,
        },
        FN_STANDARD_COUNT => Answer::Value(STANDARD_COUNT),
        FN_STANDARD_UID => Answer::Four(STANDARD_UID),
        FN_HYPERVISOR_COUNT => Answer::Value(HYPERVISOR_COUNT),
        FN_HYPERVISOR_UID => Answer::Four(HYPERVISOR_UID),
        FN_STANDARD_REVISION | FN_HYPERVISOR_REVISION => Answer::Pair(0, 1),
        _ => Answer::Value(NOT_SUPPORTED),
    }
}

/// The bit of a function number that says that arguments have 64 bits.
const SMC64: u32 = 1 << 30;

/// The same for a 64-bit guest with `x`, its x0 to x3. Function numbers that say so have 64-bit arguments.
pub const fn call64(x: [u64; 4], workarounds: &Workarounds) -> Answer {
    let function = x[0] as u32;
    match function {
        FN_PSCI_FEATURES => Answer::Value(psci_features(without_smc64(x[1] as u32))),
        _ if function & SMC64 == 0 => {
            match call(function, x[1] as u32, x[2] as u32, x[3] as u32, workarounds) {
                Answer::CpuOn(request) => Answer::CpuOn(CpuOn {
                    execution: Execution::AArch64,
                    ..request
                }),
                answer => answer,
            }
        }
        _ => {
            // Affinity 3 names no vCPU: a number that is nobody's stands for it.
            let target = if x[1] > u32::MAX as u64 {
                u32::MAX
            } else {
                x[1] as u32
            };
            match without_smc64(function) {
                FN_CPU_SUSPEND => Answer::Suspend,
                FN_CPU_ON => Answer::CpuOn(CpuOn {
                    target,
                    entry: x[2],
                    context: x[3],
                    execution: Execution::AArch64,
                    interface: PsciInterface::V02,
                }),
                FN_AFFINITY_INFO => Answer::AffinityInfo {
                    target,
                    level: x[2] as u32,
                },
                _ => Answer::Value(NOT_SUPPORTED),
            }
        }
    }
}

/// Returns the SMC32 number of one of the functions that there are with both; others as they are.
const fn without_smc64(function: u32) -> u32 {
    match function & !SMC64 {
        number @ (FN_CPU_SUSPEND | FN_CPU_ON | FN_AFFINITY_INFO) => number,
        _ => function,
    }
}

const fn psci_features(function: u32) -> u32 {
    match function {
        FN_PSCI_VERSION | FN_CPU_SUSPEND | FN_CPU_OFF | FN_CPU_ON | FN_AFFINITY_INFO
        | FN_MIGRATE_INFO_TYPE | FN_SYSTEM_OFF | FN_SYSTEM_RESET | FN_PSCI_FEATURES
        | FN_SMCCC_VERSION => 0,
        _ => NOT_SUPPORTED,
    }
}

const fn arch_features(function: u32, workarounds: &Workarounds) -> u32 {
    match function {
        FN_WORKAROUND_1 if workarounds.branch_predictor || workarounds.branch_history => 0,
        FN_WORKAROUND_2 => match workarounds.store_bypass {
            StoreBypass::Unsupported => NOT_SUPPORTED,
            StoreBypass::NotRequired => 1,
            StoreBypass::Runtime => 0,
        },
        FN_WORKAROUND_3 if workarounds.branch_history => 0,
        // SMCCC 1.1 wants these two answered; Xen 4.17 does not, and no guest asks.
        _ => NOT_SUPPORTED,
    }
}

/// Returns the MPIDR affinity bits of a vCPU: Aff0 is its index modulo 16, Aff1 the rest.
pub const fn vcpu_affinity(vcpu: VcpuId) -> u32 {
    let index = vcpu.raw() as u32;
    index & 15 | (index >> 4) << 8
}

/// Returns the vCPU index that an MPIDR names, or `None` if no domain can have it. Bits above Aff2 are ignored, so that
/// a guest may pass its MPIDR as it reads it.
pub const fn affinity_vcpu(mpidr: u32) -> Option<VcpuId> {
    let affinity = mpidr & MPIDR_AFFINITY;
    if affinity & 0x00ff_00f0 != 0 {
        return None;
    }
    Some(VcpuId::new((affinity & 15 | affinity >> 8 << 4) as u16))
}

/// The power state of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PowerState {
    /// Running or able to.
    On = 0,
    /// Off; no physical CPU has its registers.
    Off = 1,
    /// A CPU_ON was accepted, and the vCPU has not started yet.
    OnPending = 2,
}

/// The power states of all vCPUs of a domain. Shared by its vCPUs without a lock.
#[derive(Debug)]
pub struct PowerStates {
    states: Vec<AtomicU8>,
}

impl PowerStates {
    /// Creates the states of `count` vCPUs, all off.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn try_new(count: u16) -> Result<Self, Errno> {
        let count = usize::from(count);
        let mut states = Vec::new();
        states.try_reserve_exact(count).map_err(|_| Errno::NoMem)?;
        states.resize_with(count, || AtomicU8::new(PowerState::Off as u8));
        Ok(Self { states })
    }

    /// Returns the state of a vCPU, or `None` if the domain has none of that index.
    pub fn state(&self, vcpu: VcpuId) -> Option<PowerState> {
        self.states.get(vcpu.index()).map(load)
    }

    /// Claims the vCPU that `target` names, which is then `OnPending`. The caller, and nobody else, writes its registers
    /// ([`CpuOn::start`]), clears its pending interrupts, calls [`Self::set_on`] and wakes it.
    ///
    /// # Errors
    /// `InvalidParameters` if the domain has no such vCPU, `AlreadyOn`, `OnPending`.
    pub fn cpu_on(&self, target: u32) -> Result<VcpuId, PsciError> {
        let vcpu = affinity_vcpu(target).ok_or(PsciError::InvalidParameters)?;
        let state = self
            .states
            .get(vcpu.index())
            .ok_or(PsciError::InvalidParameters)?;
        // Acquire pairs with the release in `set_off`: the saved registers are seen before they are overwritten.
        match state.compare_exchange(
            PowerState::Off as u8,
            PowerState::OnPending as u8,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => Ok(vcpu),
            Err(now) if now == PowerState::OnPending as u8 => Err(PsciError::OnPending),
            Err(_) => Err(PsciError::AlreadyOn),
        }
    }

    /// Marks a vCPU as on: after its registers were written, or for a vCPU that the domain builder or the toolstack
    /// brings up. Returns false if the domain has none of that index.
    pub fn set_on(&self, vcpu: VcpuId) -> bool {
        self.store(vcpu, PowerState::On)
    }

    /// Marks a vCPU as off. Called after the vCPU left its physical CPU and its registers are saved. Returns false if
    /// the domain has none of that index.
    pub fn set_off(&self, vcpu: VcpuId) -> bool {
        self.store(vcpu, PowerState::Off)
    }

    fn store(&self, vcpu: VcpuId, state: PowerState) -> bool {
        let Some(slot) = self.states.get(vcpu.index()) else {
            return false;
        };
        slot.store(state as u8, Ordering::Release);
        true
    }

    /// Returns the value of r0 for AFFINITY_INFO: 0 if any vCPU of the affinity instance is on, 2 if one is about to be,
    /// 1 if all are off; INVALID_PARAMETERS for a level above 2 or an instance without vCPUs.
    pub fn affinity_info(&self, target: u32, level: u32) -> u32 {
        const INVALID: u32 = PsciError::InvalidParameters as i32 as u32;
        let mask = match level {
            0 => MPIDR_AFFINITY,
            1 => MPIDR_AFFINITY & !0xff,
            2 => MPIDR_AFFINITY & !0xffff,
            _ => return INVALID,
        };
        let mut answer = INVALID;
        for (index, state) in (0u16..).zip(&self.states) {
            if (vcpu_affinity(VcpuId::new(index)) ^ target) & mask != 0 {
                continue;
            }
            match load(state) {
                PowerState::On => return PowerState::On as u32,
                PowerState::OnPending => answer = PowerState::OnPending as u32,
                PowerState::Off if answer == INVALID => answer = PowerState::Off as u32,
                PowerState::Off => {}
            }
        }
        answer
    }
}

fn load(state: &AtomicU8) -> PowerState {
    match state.load(Ordering::Acquire) {
        0 => PowerState::On,
        2 => PowerState::OnPending,
        _ => PowerState::Off,
    }
}

#[cfg(test)]
mod tests;
