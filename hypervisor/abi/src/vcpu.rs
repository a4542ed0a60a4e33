//! vCPU operations (public/vcpu.h) and the vCPU context (public/arch-arm.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Not on Arm (PSCI).
pub const VCPUOP_INITIALISE: u32 = 0;
/// Not on Arm (PSCI).
pub const VCPUOP_UP: u32 = 1;
/// Not on Arm (PSCI).
pub const VCPUOP_DOWN: u32 = 2;
/// Not on Arm.
pub const VCPUOP_IS_UP: u32 = 3;
/// [`VcpuRunstateInfo`]; refused on Arm.
pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
/// [`VcpuRegisterRunstateMemoryArea`].
pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// Not on Arm.
pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
/// Not on Arm.
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// Not on Arm.
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// Not on Arm.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// [`VcpuRegisterVcpuInfo`].
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
/// Not on Arm.
pub const VCPUOP_SEND_NMI: u32 = 11;
/// Not on Arm.
pub const VCPUOP_GET_PHYSID: u32 = 12;
/// Not on Arm.
pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;
/// By physical address (4.20).
pub const VCPUOP_REGISTER_RUNSTATE_PHYS_AREA: u32 = 14;
/// State: on a CPU.
pub const RUNSTATE_RUNNING: u32 = 0;
/// State: waits for a CPU.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// State: waits for an event.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// State: neither runnable nor blocked.
pub const RUNSTATE_OFFLINE: u32 = 3;
/// Bit of `state_entry_time`: an update is under way.
pub const XEN_RUNSTATE_UPDATE: u64 = 0x8000_0000_0000_0000;
/// Flag of the vCPU context: the vCPU is up.
pub const VGCF_ONLINE: u32 = 1;
/// Bytes of `vcpu_guest_context`.
pub const VCPU_GUEST_CONTEXT_SIZE: usize = 352;

/// Time spent in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuRunstateInfo {
    /// `RUNSTATE_*`.
    pub state: u32,
    /// Padding.
    pub _pad: u32,
    /// System time of entering the state, in ns.
    pub state_entry_time: u64,
    /// ns in each state.
    pub time: [u64; 4],
}

/// Registers a runstate area; on arm32 the address is a 32-bit pointer at offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuRegisterRunstateMemoryArea {
    /// In: guest virtual address.
    pub addr: u64,
}

/// The part of [`VcpuRegisterRunstateMemoryArea`] that arm32's kernel fills: a pointer of 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuRegisterRunstate32 {
    /// In: guest virtual address.
    pub addr: u32,
}

/// Moves a vCPU's `vcpu_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuRegisterVcpuInfo {
    /// In: guest frame.
    pub mfn: u64,
    /// In: offset in the page, in bytes.
    pub offset: u32,
    /// Unused.
    pub _rsvd: u32,
}

/// The registers of a vCPU. On arm32 each of `regs` holds one register of 32 bits in its lower half: r0 to r12, SP_usr,
/// LR_usr, nothing, LR and SP of irq, svc, abt and und, r8_fiq to r12_fiq, SP_fiq, LR_fiq, PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuGuestCoreRegs {
    /// General registers and PC.
    pub regs: [u64; 32],
    /// CPSR.
    pub cpsr: u64,
    /// SPSR_svc (arm32), SPSR_EL1 (arm64).
    pub spsr_el1: u64,
    /// SPSR_fiq.
    pub spsr_fiq: u32,
    /// SPSR_irq.
    pub spsr_irq: u32,
    /// SPSR_und.
    pub spsr_und: u32,
    /// SPSR_abt.
    pub spsr_abt: u32,
    /// arm64.
    pub sp_el0: u64,
    /// arm64.
    pub sp_el1: u64,
    /// arm64.
    pub elr_el1: u64,
}

/// The state of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuGuestContext {
    /// `VGCF_*`.
    pub flags: u32,
    /// Padding.
    pub _pad: u32,
    /// Core registers.
    pub user_regs: VcpuGuestCoreRegs,
    /// SCTLR.
    pub sctlr: u64,
    /// TTBCR.
    pub ttbcr: u64,
    /// TTBR0.
    pub ttbr0: u64,
    /// TTBR1.
    pub ttbr1: u64,
}
