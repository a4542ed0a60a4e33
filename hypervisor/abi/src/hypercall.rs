//! Hypercall numbers and the hypercall convention (public/xen.h, public/arch-arm.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The immediate of `hvc` that makes a hypercall.
pub const XEN_HYPERCALL_TAG: u32 = 0xea1;
/// Old `sched_op`; not on Arm.
pub const HYPERVISOR_SCHED_OP_COMPAT: u32 = 6;
/// Dom0's platform operations.
pub const HYPERVISOR_PLATFORM_OP: u32 = 7;
/// Memory reservations and physmap.
pub const HYPERVISOR_MEMORY_OP: u32 = 12;
/// A list of hypercalls.
pub const HYPERVISOR_MULTICALL: u32 = 13;
/// Old `event_channel_op`; not on Arm.
pub const HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: u32 = 16;
/// Version, features, names.
pub const HYPERVISOR_XEN_VERSION: u32 = 17;
/// Hypervisor console.
pub const HYPERVISOR_CONSOLE_IO: u32 = 18;
/// Old `physdev_op`; not on Arm.
pub const HYPERVISOR_PHYSDEV_OP_COMPAT: u32 = 19;
/// Grant tables.
pub const HYPERVISOR_GRANT_TABLE_OP: u32 = 20;
/// Per-domain assists.
pub const HYPERVISOR_VM_ASSIST: u32 = 21;
/// vCPU registration.
pub const HYPERVISOR_VCPU_OP: u32 = 24;
/// Flask.
pub const HYPERVISOR_XSM_OP: u32 = 27;
/// Yield, block, poll, shutdown.
pub const HYPERVISOR_SCHED_OP: u32 = 29;
/// Event channels.
pub const HYPERVISOR_EVENT_CHANNEL_OP: u32 = 32;
/// PCI devices.
pub const HYPERVISOR_PHYSDEV_OP: u32 = 33;
/// HVM parameters.
pub const HYPERVISOR_HVM_OP: u32 = 34;
/// System control (toolstack).
pub const HYPERVISOR_SYSCTL: u32 = 35;
/// Domain control (toolstack).
pub const HYPERVISOR_DOMCTL: u32 = 36;
/// Argo; optional.
pub const HYPERVISOR_ARGO_OP: u32 = 39;
/// Device model operations; optional.
pub const HYPERVISOR_DM_OP: u32 = 41;
/// Hypervisor file system.
pub const HYPERVISOR_HYPFS_OP: u32 = 42;
/// Slots of the hypercall table; a number at or above it gives `-ENOSYS`.
pub const NR_HYPERCALLS: u32 = 64;
/// The first number that names no real domain.
pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
/// The calling domain.
pub const DOMID_SELF: u16 = 0x7ff0;
/// Owner of I/O frames.
pub const DOMID_IO: u16 = 0x7ff1;
/// Owner of frames shared by the hypervisor.
pub const DOMID_XEN: u16 = 0x7ff2;
/// Owner of shared (copy-on-write) frames.
pub const DOMID_COW: u16 = 0x7ff3;
/// No domain.
pub const DOMID_INVALID: u16 = 0x7ff4;
/// The idle domain.
pub const DOMID_IDLE: u16 = 0x7fff;

/// One entry of `multicall`; on arm32 each value must fit in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Its result.
    pub result: u64,
    /// Its arguments.
    pub args: [u64; 6],
}
