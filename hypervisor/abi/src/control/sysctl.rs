//! Structures of sysctl as Xen 4.17 has them (public/sysctl.h). Padding that Xen's header leaves to the compiler is a
//! field.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::XenctlBitmap;

/// Capability of the machine: guests virtualised by hardware.
pub const XEN_SYSCTL_PHYSCAP_HVM: u32 = 1 << 0;
/// Capability of the machine: devices through an IOMMU.
pub const XEN_SYSCTL_PHYSCAP_DIRECTIO: u32 = 1 << 2;
/// Capability of the machine: stage-2 tables.
pub const XEN_SYSCTL_PHYSCAP_HAP: u32 = 1 << 3;
/// Capability of the machine: a virtual performance monitor.
pub const XEN_SYSCTL_PHYSCAP_VPMU: u32 = 1 << 7;
/// Capability of the machine: grant tables of version 1.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V1: u32 = 1 << 8;
/// Capability of the machine: grant tables of version 2.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V2: u32 = 1 << 9;
/// No such core.
pub const XEN_INVALID_CORE_ID: u32 = u32::MAX;
/// Command of cpupool_op: makes a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
/// Command of cpupool_op: ends a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
/// Command of cpupool_op: tells about a pool, or the next one.
pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
/// Command of cpupool_op: gives a pool a CPU.
pub const XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
/// Command of cpupool_op: takes a CPU from a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
/// Command of cpupool_op: moves a domain to a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
/// Command of cpupool_op: tells which CPUs are in no pool.
pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
/// Any pool, or any CPU.
pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = u32::MAX;
/// Command of scheduler_op: sets parameters.
pub const XEN_SYSCTL_SCHEDOP_PUTINFO: u32 = 0;
/// Command of scheduler_op: gets parameters.
pub const XEN_SYSCTL_SCHEDOP_GETINFO: u32 = 1;
/// Command of tbuf_op: tells about the trace buffers.
pub const XEN_SYSCTL_TBUFOP_GET_INFO: u32 = 0;

/// Copies the hypervisor's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlReadconsole {
    /// In: not 0: the bytes read are forgotten.
    pub clear: u8,
    /// In: not 0: from `index` on.
    pub incremental: u8,
    /// Padding.
    pub pad0: u8,
    /// Padding.
    pub pad1: u8,
    /// In: the first byte; out: the one after the last that was read.
    pub index: u32,
    /// In: where to.
    pub buffer: u64,
    /// In: room; out: bytes read.
    pub count: u32,
    /// Padding.
    pub _pad: u32,
}

/// Tells about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlPhysinfo {
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a socket.
    pub cores_per_socket: u32,
    /// CPUs that are on.
    pub nr_cpus: u32,
    /// The highest CPU.
    pub max_cpu_id: u32,
    /// Memory nodes.
    pub nr_nodes: u32,
    /// The highest memory node.
    pub max_node_id: u32,
    /// The counter's rate in kHz.
    pub cpu_khz: u32,
    /// `XEN_SYSCTL_PHYSCAP_*`.
    pub capabilities: u32,
    /// The architecture's capabilities.
    pub arch_capabilities: u32,
    /// Padding.
    pub pad: u32,
    /// Pages of RAM.
    pub total_pages: u64,
    /// Pages that are free.
    pub free_pages: u64,
    /// Free pages that still have to be zeroed.
    pub scrub_pages: u64,
    /// Pages that domains have claimed and not got.
    pub outstanding_pages: u64,
    /// The highest machine frame.
    pub max_mfn: u64,
    /// Features of the CPUs (x86).
    pub hw_cap: [u32; 8],
}

/// Tells which policy schedules the first pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlSchedId {
    /// Out: `XEN_SCHEDULER_*`.
    pub sched_id: u32,
}

/// Tells about domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlGetdomaininfolist {
    /// In: the lowest number.
    pub first_domain: u16,
    /// Padding.
    pub _pad0: u16,
    /// In: how many.
    pub max_domains: u32,
    /// In: where to.
    pub buffer: u64,
    /// Out: how many there are.
    pub num_domains: u32,
    /// Padding.
    pub _pad1: u32,
}

/// Presses debug keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlDebugKeys {
    /// In: the keys.
    pub keys: u64,
    /// In: how many.
    pub nr_keys: u32,
    /// Padding.
    pub _pad: u32,
}

/// What is known of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlCpuinfo {
    /// Nanoseconds that it was idle.
    pub idletime: u64,
}

/// Tells about the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlGetcpuinfo {
    /// In: how many.
    pub max_cpus: u32,
    /// Padding.
    pub _pad0: u32,
    /// In: where to.
    pub info: u64,
    /// Out: how many there are.
    pub nr_cpus: u32,
    /// Padding.
    pub _pad1: u32,
}

/// Tells how much memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlAvailheap {
    /// In: addresses have at least as many bits; 0: any.
    pub min_bitwidth: u32,
    /// In: addresses have at most as many bits; 0: any.
    pub max_bitwidth: u32,
    /// In: the memory node, or -1 for all.
    pub node: i32,
    /// Padding.
    pub _pad: u32,
    /// Out: bytes.
    pub avail_bytes: u64,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlCputopo {
    /// Its core.
    pub core: u32,
    /// Its socket.
    pub socket: u32,
    /// Its memory node.
    pub node: u32,
}

/// Tells where the CPUs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlCputopoinfo {
    /// In: room; out: CPUs.
    pub num_cpus: u32,
    /// Padding.
    pub _pad: u32,
    /// In: where to; 0 asks for the number.
    pub cputopo: u64,
}

/// The memory of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlMeminfo {
    /// Bytes.
    pub memsize: u64,
    /// Bytes that are free.
    pub memfree: u64,
}

/// Tells about the memory nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlNumainfo {
    /// In: room; out: nodes.
    pub num_nodes: u32,
    /// Padding.
    pub _pad: u32,
    /// In: where to, or 0.
    pub meminfo: u64,
    /// In: where distances go to, or 0.
    pub distance: u64,
}

/// Works on pools of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlCpupoolOp {
    /// In: `XEN_SYSCTL_CPUPOOL_OP_*`.
    pub op: u32,
    /// In and out: the pool.
    pub cpupool_id: u32,
    /// In and out: `XEN_SCHEDULER_*`.
    pub sched_id: u32,
    /// In: the domain to move.
    pub domid: u32,
    /// In: the CPU.
    pub cpu: u32,
    /// Out: domains in the pool.
    pub n_dom: u32,
    /// In: where the set of CPUs goes to.
    pub cpumap: XenctlBitmap,
}

/// Parameters of a policy as a whole. Those of credit; credit2 has the rate limit at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlCreditSchedule {
    /// Time slice in milliseconds.
    pub tslice_ms: u32,
    /// A vCPU that ran less than this is not preempted, in microseconds.
    pub ratelimit_us: u32,
    /// A vCPU that ran more recently than this is not moved, in microseconds.
    pub vcpu_migr_delay_us: u32,
}

/// Sets or gets parameters of the policy of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SysctlSchedulerOp {
    /// In: the pool.
    pub cpupool_id: u32,
    /// In: `XEN_SCHEDULER_*`.
    pub sched_id: u32,
    /// In: `XEN_SYSCTL_SCHEDOP_*`.
    pub cmd: u32,
    /// Padding.
    pub _pad: u32,
    /// The parameters.
    pub u: SysctlCreditSchedule,
    /// The union's rest.
    pub _pad1: u32,
}
