//! Structures of domctl about where vCPUs run (public/domctl.h of 4.17).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::XenctlBitmap;

/// Flag of vcpuaffinity: where the vCPU may run.
pub const XEN_VCPUAFFINITY_HARD: u32 = 1 << 0;
/// Flag of vcpuaffinity: where it would like to run.
pub const XEN_VCPUAFFINITY_SOFT: u32 = 1 << 1;
/// Flag of vcpuaffinity: whatever SCHEDOP_pin_override said.
pub const XEN_VCPUAFFINITY_FORCE: u32 = 1 << 2;
/// Command of scheduler_op: sets the domain's share.
pub const XEN_DOMCTL_SCHEDOP_PUTINFO: u32 = 0;
/// Command of scheduler_op: gets the domain's share.
pub const XEN_DOMCTL_SCHEDOP_GETINFO: u32 = 1;

/// Sets or gets where a vCPU may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlVcpuaffinity {
    /// In: the vCPU.
    pub vcpu: u32,
    /// In: `XEN_VCPUAFFINITY_*`.
    pub flags: u32,
    /// In and out: where it may run.
    pub cpumap_hard: XenctlBitmap,
    /// In and out: where it would like to run.
    pub cpumap_soft: XenctlBitmap,
}

/// Sets or gets on which memory nodes a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlNodeaffinity {
    /// In or out: the nodes.
    pub nodemap: XenctlBitmap,
}

/// Sets or gets a domain's share. That of credit and credit2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlSchedulerOp {
    /// In: `XEN_SCHEDULER_*`.
    pub sched_id: u32,
    /// In: `XEN_DOMCTL_SCHEDOP_*`.
    pub cmd: u32,
    /// In (0: as it is) or out.
    pub weight: u16,
    /// In (65535: as it is) or out, in percent of a CPU.
    pub cap: u16,
    /// The union's rest.
    pub _pad: [u32; 3],
}
