//! Control interfaces of the toolstack: numbers of Xen 4.17 (public/domctl.h, public/sysctl.h). What depends on the
//! version reported to the tools is only here.

mod common;
mod devices;
mod domctl;
mod placement;
mod sysctl;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use common::*;
pub use devices::*;
pub use domctl::*;
pub use placement::*;
pub use sysctl::*;

/// Version of domctl (4.17); another gives `-EACCES`.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 21;
/// Version of sysctl (4.17); another gives `-EACCES`.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 21;
/// Version of domctl in 4.20.
pub const XEN_DOMCTL_INTERFACE_VERSION_4_20: u32 = 0x17;
/// Version of sysctl in 4.20.
pub const XEN_SYSCTL_INTERFACE_VERSION_4_20: u32 = 0x15;
/// Command `createdomain`.
pub const XEN_DOMCTL_CREATEDOMAIN: u32 = 1;
/// Command `destroydomain`.
pub const XEN_DOMCTL_DESTROYDOMAIN: u32 = 2;
/// Command `pausedomain`.
pub const XEN_DOMCTL_PAUSEDOMAIN: u32 = 3;
/// Command `unpausedomain`.
pub const XEN_DOMCTL_UNPAUSEDOMAIN: u32 = 4;
/// Command `getdomaininfo`.
pub const XEN_DOMCTL_GETDOMAININFO: u32 = 5;
/// Command `setvcpuaffinity`.
pub const XEN_DOMCTL_SETVCPUAFFINITY: u32 = 9;
/// Command `shadow_op`.
pub const XEN_DOMCTL_SHADOW_OP: u32 = 10;
/// Command `max_mem`.
pub const XEN_DOMCTL_MAX_MEM: u32 = 11;
/// Command `setvcpucontext`.
pub const XEN_DOMCTL_SETVCPUCONTEXT: u32 = 12;
/// Command `getvcpucontext`.
pub const XEN_DOMCTL_GETVCPUCONTEXT: u32 = 13;
/// Command `getvcpuinfo`.
pub const XEN_DOMCTL_GETVCPUINFO: u32 = 14;
/// Command `max_vcpus`.
pub const XEN_DOMCTL_MAX_VCPUS: u32 = 15;
/// Command `scheduler_op`.
pub const XEN_DOMCTL_SCHEDULER_OP: u32 = 16;
/// Command `setdomainhandle`.
pub const XEN_DOMCTL_SETDOMAINHANDLE: u32 = 17;
/// Command `setdebugging`.
pub const XEN_DOMCTL_SETDEBUGGING: u32 = 18;
/// Command `irq_permission`.
pub const XEN_DOMCTL_IRQ_PERMISSION: u32 = 19;
/// Command `iomem_permission`.
pub const XEN_DOMCTL_IOMEM_PERMISSION: u32 = 20;
/// Command `ioport_permission`.
pub const XEN_DOMCTL_IOPORT_PERMISSION: u32 = 21;
/// Command `hypercall_init`.
pub const XEN_DOMCTL_HYPERCALL_INIT: u32 = 22;
/// Command `settimeoffset`.
pub const XEN_DOMCTL_SETTIMEOFFSET: u32 = 24;
/// Command `getvcpuaffinity`.
pub const XEN_DOMCTL_GETVCPUAFFINITY: u32 = 25;
/// Command `resumedomain`.
pub const XEN_DOMCTL_RESUMEDOMAIN: u32 = 27;
/// Command `sendtrigger`.
pub const XEN_DOMCTL_SENDTRIGGER: u32 = 28;
/// Command `subscribe`.
pub const XEN_DOMCTL_SUBSCRIBE: u32 = 29;
/// Command `gethvmcontext`.
pub const XEN_DOMCTL_GETHVMCONTEXT: u32 = 33;
/// Command `sethvmcontext`.
pub const XEN_DOMCTL_SETHVMCONTEXT: u32 = 34;
/// Command `set_address_size`.
pub const XEN_DOMCTL_SET_ADDRESS_SIZE: u32 = 35;
/// Command `get_address_size`.
pub const XEN_DOMCTL_GET_ADDRESS_SIZE: u32 = 36;
/// Command `assign_device`.
pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
/// Command `bind_pt_irq`.
pub const XEN_DOMCTL_BIND_PT_IRQ: u32 = 38;
/// Command `memory_mapping`.
pub const XEN_DOMCTL_MEMORY_MAPPING: u32 = 39;
/// Command `test_assign_device`.
pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
/// Command `set_target`.
pub const XEN_DOMCTL_SET_TARGET: u32 = 46;
/// Command `deassign_device`.
pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
/// Command `unbind_pt_irq`.
pub const XEN_DOMCTL_UNBIND_PT_IRQ: u32 = 48;
/// Command `get_device_group`.
pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;
/// Command `debug_op`.
pub const XEN_DOMCTL_DEBUG_OP: u32 = 54;
/// Command `gethvmcontext_partial`.
pub const XEN_DOMCTL_GETHVMCONTEXT_PARTIAL: u32 = 55;
/// Command `vm_event_op`.
pub const XEN_DOMCTL_VM_EVENT_OP: u32 = 56;
/// Command `set_access_required`.
pub const XEN_DOMCTL_SET_ACCESS_REQUIRED: u32 = 64;
/// Command `set_virq_handler`.
pub const XEN_DOMCTL_SET_VIRQ_HANDLER: u32 = 66;
/// Command `setnodeaffinity`.
pub const XEN_DOMCTL_SETNODEAFFINITY: u32 = 68;
/// Command `getnodeaffinity`.
pub const XEN_DOMCTL_GETNODEAFFINITY: u32 = 69;
/// Command `cacheflush`.
pub const XEN_DOMCTL_CACHEFLUSH: u32 = 71;
/// Command `setvnumainfo`.
pub const XEN_DOMCTL_SETVNUMAINFO: u32 = 74;
/// Command `monitor_op`.
pub const XEN_DOMCTL_MONITOR_OP: u32 = 77;
/// Command `soft_reset`.
pub const XEN_DOMCTL_SOFT_RESET: u32 = 79;
/// Command `vuart_op`.
pub const XEN_DOMCTL_VUART_OP: u32 = 81;
/// Command `get_paging_mempool_size`.
pub const XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE: u32 = 85;
/// Command `set_paging_mempool_size`.
pub const XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE: u32 = 86;
/// The hypervisor's own continuation of a soft reset.
pub const XEN_DOMCTL_SOFT_RESET_CONT: u32 = 23;
/// Command `set_llc_colors` (4.20).
pub const XEN_DOMCTL_SET_LLC_COLORS: u32 = 89;
/// Command `readconsole`.
pub const XEN_SYSCTL_READCONSOLE: u32 = 1;
/// Command `tbuf_op`.
pub const XEN_SYSCTL_TBUF_OP: u32 = 2;
/// Command `physinfo`.
pub const XEN_SYSCTL_PHYSINFO: u32 = 3;
/// Command `sched_id`.
pub const XEN_SYSCTL_SCHED_ID: u32 = 4;
/// Command `perfc_op`.
pub const XEN_SYSCTL_PERFC_OP: u32 = 5;
/// Command `getdomaininfolist`.
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;
/// Command `debug_keys`.
pub const XEN_SYSCTL_DEBUG_KEYS: u32 = 7;
/// Command `getcpuinfo`.
pub const XEN_SYSCTL_GETCPUINFO: u32 = 8;
/// Command `availheap`.
pub const XEN_SYSCTL_AVAILHEAP: u32 = 9;
/// Command `get_pmstat`.
pub const XEN_SYSCTL_GET_PMSTAT: u32 = 10;
/// Command `cpu_hotplug`.
pub const XEN_SYSCTL_CPU_HOTPLUG: u32 = 11;
/// Command `pm_op`.
pub const XEN_SYSCTL_PM_OP: u32 = 12;
/// Command `page_offline_op`.
pub const XEN_SYSCTL_PAGE_OFFLINE_OP: u32 = 14;
/// Command `lockprof_op`.
pub const XEN_SYSCTL_LOCKPROF_OP: u32 = 15;
/// Command `cputopoinfo`.
pub const XEN_SYSCTL_CPUTOPOINFO: u32 = 16;
/// Command `numainfo`.
pub const XEN_SYSCTL_NUMAINFO: u32 = 17;
/// Command `cpupool_op`.
pub const XEN_SYSCTL_CPUPOOL_OP: u32 = 18;
/// Command `scheduler_op`.
pub const XEN_SYSCTL_SCHEDULER_OP: u32 = 19;
/// Command `coverage_op`.
pub const XEN_SYSCTL_COVERAGE_OP: u32 = 20;
/// Command `pcitopoinfo`.
pub const XEN_SYSCTL_PCITOPOINFO: u32 = 22;
/// Command `livepatch_op`.
pub const XEN_SYSCTL_LIVEPATCH_OP: u32 = 27;

/// Header and the bytes of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Domctl {
    /// In: `XEN_DOMCTL_*`.
    pub cmd: u32,
    /// In: [`XEN_DOMCTL_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// In (createdomain, getdomaininfo: also out): the domain.
    pub domain: u16,
    /// Padding.
    pub _pad: [u16; 3],
    /// The operation.
    pub u: [u8; 128],
}

/// Header and the bytes of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Sysctl {
    /// In: `XEN_SYSCTL_*`.
    pub cmd: u32,
    /// In: [`XEN_SYSCTL_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// The operation.
    pub u: [u8; 128],
}
