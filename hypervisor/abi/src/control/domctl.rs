//! Structures of domctl as Xen 4.17 has them (public/domctl.h, public/arch-arm.h). Some differ in other versions: who
//! uses them converts them in one place.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Flag of createdomain: the guest is virtualised by hardware.
pub const XEN_DOMCTL_CDF_HVM: u32 = 1 << 0;
/// Flag of createdomain: with stage-2 tables.
pub const XEN_DOMCTL_CDF_HAP: u32 = 1 << 1;
/// Flag of createdomain: x86.
pub const XEN_DOMCTL_CDF_S3_INTEGRITY: u32 = 1 << 2;
/// Flag of createdomain: x86.
pub const XEN_DOMCTL_CDF_OOS_OFF: u32 = 1 << 3;
/// Flag of createdomain: the domain runs xenstore.
pub const XEN_DOMCTL_CDF_XS_DOMAIN: u32 = 1 << 4;
/// Flag of createdomain: devices of the domain go through an IOMMU.
pub const XEN_DOMCTL_CDF_IOMMU: u32 = 1 << 5;
/// Flag of createdomain: x86.
pub const XEN_DOMCTL_CDF_NESTED_VIRT: u32 = 1 << 6;
/// Flag of createdomain: with a performance monitor.
pub const XEN_DOMCTL_CDF_VPMU: u32 = 1 << 7;
/// IOMMU option: tables not shared with the CPUs'.
pub const XEN_DOMCTL_IOMMU_NO_SHAREPT: u32 = 1 << 0;
/// Bits of `grant_opts` that are the highest version of the grant table.
pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 0xf;
/// Interrupt controller: as the machine's.
pub const XEN_DOMCTL_CONFIG_GIC_NATIVE: u8 = 0;
/// Interrupt controller: GICv2.
pub const XEN_DOMCTL_CONFIG_GIC_V2: u8 = 1;
/// Interrupt controller: GICv3.
pub const XEN_DOMCTL_CONFIG_GIC_V3: u8 = 2;
/// No trusted execution environment.
pub const XEN_DOMCTL_CONFIG_TEE_NONE: u16 = 0;
/// Flag of getdomaininfo: being destroyed.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// Flag of getdomaininfo: as [`XEN_DOMCTL_CDF_HVM`].
pub const XEN_DOMINF_HVM_GUEST: u32 = 1 << 1;
/// Flag of getdomaininfo: shut down; the reason is in the bits from [`XEN_DOMINF_SHUTDOWNSHIFT`] on.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;
/// Flag of getdomaininfo: paused by the toolstack.
pub const XEN_DOMINF_PAUSED: u32 = 1 << 3;
/// Flag of getdomaininfo: every vCPU waits.
pub const XEN_DOMINF_BLOCKED: u32 = 1 << 4;
/// Flag of getdomaininfo: a vCPU runs.
pub const XEN_DOMINF_RUNNING: u32 = 1 << 5;
/// Flag of getdomaininfo: being debugged.
pub const XEN_DOMINF_DEBUGGED: u32 = 1 << 6;
/// Flag of getdomaininfo: as [`XEN_DOMCTL_CDF_XS_DOMAIN`].
pub const XEN_DOMINF_XS_DOMAIN: u32 = 1 << 7;
/// Flag of getdomaininfo: as [`XEN_DOMCTL_CDF_HAP`].
pub const XEN_DOMINF_HAP: u32 = 1 << 8;
/// Mask of the shutdown reason, shifted down.
pub const XEN_DOMINF_SHUTDOWNMASK: u32 = 255;
/// Where the shutdown reason begins.
pub const XEN_DOMINF_SHUTDOWNSHIFT: u32 = 16;
/// `max_vcpu_id` of a domain without vCPUs.
pub const XEN_INVALID_MAX_VCPU_ID: u32 = u32::MAX;

/// The architecture's part of a domain's configuration.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ArchDomainconfig {
    /// In and out: `XEN_DOMCTL_CONFIG_GIC_*`.
    pub gic_version: u8,
    /// Padding.
    pub _pad0: u8,
    /// In: `XEN_DOMCTL_CONFIG_TEE_*`.
    pub tee_type: u16,
    /// In: shared interrupts.
    pub nr_spis: u32,
    /// Out: the timer's rate in Hz where the guest must be told, else 0.
    pub clock_frequency: u32,
}

/// Makes a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlCreatedomain {
    /// In: the security label.
    pub ssidref: u32,
    /// In: the toolstack's name for it (UUID).
    pub handle: [u8; 16],
    /// In: `XEN_DOMCTL_CDF_*`.
    pub flags: u32,
    /// In: `XEN_DOMCTL_IOMMU_*`.
    pub iommu_opts: u32,
    /// In: vCPUs.
    pub max_vcpus: u32,
    /// In: the highest event channel.
    pub max_evtchn_port: u32,
    /// In: frames of the grant table; negative: the hypervisor's default.
    pub max_grant_frames: i32,
    /// In: frames for mappings of others' grants; negative: the hypervisor's default.
    pub max_maptrack_frames: i32,
    /// In: version of the grant table.
    pub grant_opts: u32,
    /// In: bytes of trace (x86).
    pub vmtrace_size: u32,
    /// In: CPU pool.
    pub cpupool_id: u32,
    /// In and out.
    pub arch: ArchDomainconfig,
}

/// As [`ArchDomainconfig`] in 4.20.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct ArchDomainconfig420 {
    /// In and out: `XEN_DOMCTL_CONFIG_GIC_*`.
    pub gic_version: u8,
    /// In: bits of SVE vectors / 128; 0: no SVE.
    pub sve_vl: u8,
    /// In: `XEN_DOMCTL_CONFIG_TEE_*`.
    pub tee_type: u16,
    /// In: shared interrupts.
    pub nr_spis: u32,
    /// Out: the timer's rate in Hz where the guest must be told, else 0.
    pub clock_frequency: u32,
}

/// As [`DomctlCreatedomain`] in 4.20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlCreatedomain420 {
    /// In: the security label.
    pub ssidref: u32,
    /// In: the toolstack's name for it (UUID).
    pub handle: [u8; 16],
    /// In: `XEN_DOMCTL_CDF_*`.
    pub flags: u32,
    /// In: `XEN_DOMCTL_IOMMU_*`.
    pub iommu_opts: u32,
    /// In: vCPUs.
    pub max_vcpus: u32,
    /// In: the highest event channel.
    pub max_evtchn_port: u32,
    /// In: frames of the grant table; negative: the hypervisor's default.
    pub max_grant_frames: i32,
    /// In: frames for mappings of others' grants; negative: the hypervisor's default.
    pub max_maptrack_frames: i32,
    /// In: version of the grant table.
    pub grant_opts: u32,
    /// In: alternative p2m (x86).
    pub altp2m_opts: u32,
    /// In: bytes of trace (x86).
    pub vmtrace_size: u32,
    /// In: CPU pool.
    pub cpupool_id: u32,
    /// In and out.
    pub arch: ArchDomainconfig420,
}

/// Tells about a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlGetdomaininfo {
    /// The domain.
    pub domain: u16,
    /// Padding.
    pub pad1: u16,
    /// `XEN_DOMINF_*`.
    pub flags: u32,
    /// Pages that it has.
    pub tot_pages: u64,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Pages that are claimed for it.
    pub outstanding_pages: u64,
    /// Pages shared copy-on-write.
    pub shr_pages: u64,
    /// Pages paged out.
    pub paged_pages: u64,
    /// Guest frame of the shared info page.
    pub shared_info_frame: u64,
    /// ns that its vCPUs ran.
    pub cpu_time: u64,
    /// vCPUs that are on.
    pub nr_online_vcpus: u32,
    /// The highest vCPU, or [`XEN_INVALID_MAX_VCPU_ID`].
    pub max_vcpu_id: u32,
    /// The security label.
    pub ssidref: u32,
    /// The toolstack's name for it.
    pub handle: [u8; 16],
    /// CPU pool.
    pub cpupool: u32,
    /// Width of a guest physical address.
    pub gpaddr_bits: u8,
    /// Padding.
    pub pad2: [u8; 7],
    /// As created.
    pub arch_config: ArchDomainconfig,
    /// Padding.
    pub _pad3: u32,
}

/// Changes how much memory a domain may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlMaxMem {
    /// In: KiB.
    pub max_memkb: u64,
}

/// Sets or gets the registers of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlVcpucontext {
    /// In: the vCPU.
    pub vcpu: u32,
    /// Padding.
    pub _pad: u32,
    /// In: handle of [`crate::vcpu::VcpuGuestContext`].
    pub ctxt: u64,
}

/// Tells about a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlGetvcpuinfo {
    /// In: the vCPU.
    pub vcpu: u32,
    /// Out: it is on.
    pub online: u8,
    /// Out: it waits for an event.
    pub blocked: u8,
    /// Out: it is on a CPU.
    pub running: u8,
    /// Padding.
    pub _pad0: u8,
    /// Out: ns that it ran.
    pub cpu_time: u64,
    /// Out: the CPU that it is or was on.
    pub cpu: u32,
    /// Padding.
    pub _pad1: u32,
}

/// Makes the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlMaxVcpus {
    /// In: as at the creation.
    pub max: u32,
}

/// Changes the toolstack's name for a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlSetdomainhandle {
    /// In: the name (UUID).
    pub handle: [u8; 16],
}

/// Says whether the guest is of 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlAddressSize {
    /// In: bits.
    pub size: u32,
}

/// Writes RAM back from the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlCacheflush {
    /// In: the first guest frame; out, when preempted: where it goes on.
    pub start_pfn: u64,
    /// In: frames; out, when preempted: what is left.
    pub nr_pfns: u64,
}

/// The memory for a domain's stage-2 tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlPagingMempool {
    /// In or out: bytes.
    pub size: u64,
}
