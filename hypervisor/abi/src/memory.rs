//! Memory operations (public/memory.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of the sub-operation; above them the continuation's index.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;
/// Mask of the sub-operation.
pub const MEMOP_CMD_MASK: u32 = 0x3f;
/// [`MemoryReservation`].
pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
/// [`MemoryReservation`].
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// The highest machine frame, as return value.
pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
/// [`MemoryDomain`]; pages, as return value.
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// [`MemoryDomain`]; pages, as return value.
pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
/// x86.
pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
/// [`MemoryReservation`].
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// [`AddToPhysmap`].
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// x86.
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// x86.
pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
/// [`MemoryExchange`].
pub const XENMEM_EXCHANGE: u32 = 11;
/// x86.
pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
/// x86.
pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
/// [`MemoryDomain`]; the highest guest frame, as return value.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// [`RemoveFromPhysmap`].
pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
/// x86.
pub const XENMEM_SET_POD_TARGET: u32 = 16;
/// x86.
pub const XENMEM_GET_POD_TARGET: u32 = 17;
/// 0, as return value.
pub const XENMEM_GET_SHARING_FREED_PAGES: u32 = 18;
/// 0, as return value.
pub const XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19;
/// x86.
pub const XENMEM_PAGING_OP: u32 = 20;
/// [`MemAccessOp`]; optional.
pub const XENMEM_ACCESS_OP: u32 = 21;
/// x86.
pub const XENMEM_SHARING_OP: u32 = 22;
/// [`AddToPhysmapBatch`].
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// [`MemoryReservation`].
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// x86.
pub const XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
/// [`VnumaTopologyInfo`].
pub const XENMEM_GET_VNUMAINFO: u32 = 26;
/// [`ReservedDeviceMemoryMap`].
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// [`MemAcquireResource`].
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;
/// Flag: populate on demand.
pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 0x0001_0000;
/// Flag: only from the node.
pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 0x0002_0000;
/// Flag: the node is virtual.
pub const XENMEMF_VNODE: u32 = 0x0004_0000;
/// Mask of the address width in `mem_flags`.
pub const XENMEMF_ADDRESS_BITS_MASK: u32 = 0xff;
/// Space: the shared info page.
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
/// Space: a grant table frame.
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
/// Space: own frame (x86).
pub const XENMAPSPACE_GMFN: u32 = 2;
/// Space: own frames (x86).
pub const XENMAPSPACE_GMFN_RANGE: u32 = 3;
/// Space: another domain's frame.
pub const XENMAPSPACE_GMFN_FOREIGN: u32 = 4;
/// Space: device memory.
pub const XENMAPSPACE_DEV_MMIO: u32 = 5;
/// Index bit: a status frame.
pub const XENMAPIDX_GRANT_TABLE_STATUS: u32 = 0x8000_0000;
/// Resource: IOREQ pages.
pub const XENMEM_RESOURCE_IOREQ_SERVER: u32 = 0;
/// Resource: grant table frames.
pub const XENMEM_RESOURCE_GRANT_TABLE: u32 = 1;
/// Resource: trace buffer (x86).
pub const XENMEM_RESOURCE_VMTRACE_BUF: u32 = 2;
/// Resource id: shared frames.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// Resource id: status frames.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;

/// Argument of the operations that take only a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryDomain {
    /// In: the domain, or `DOMID_SELF`.
    pub domid: u16,
}

/// Changes a domain's reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryReservation {
    /// In: handle of the list of frames (u64).
    pub extent_start: u64,
    /// In: extents.
    pub nr_extents: u64,
    /// In: log2 of an extent's pages.
    pub extent_order: u32,
    /// In: `XENMEMF_*`.
    pub mem_flags: u32,
    /// In: the domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Padding.
    pub _pad: [u8; 6],
}

/// Exchanges pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryExchange {
    /// In: what is given.
    pub in_: MemoryReservation,
    /// In: what is wanted.
    pub out: MemoryReservation,
    /// In and out: extents of `in_` done.
    pub nr_exchanged: u64,
}

/// Maps something at a guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AddToPhysmap {
    /// In: the domain, or `DOMID_SELF`.
    pub domid: u16,
    /// In: frames (`gmfn_range`).
    pub size: u16,
    /// In: `XENMAPSPACE_*`.
    pub space: u32,
    /// In: index in the space.
    pub idx: u64,
    /// In: where.
    pub gpfn: u64,
}

/// Maps many things at guest frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AddToPhysmapBatch {
    /// In: the domain, or `DOMID_SELF`.
    pub domid: u16,
    /// In: `XENMAPSPACE_*`.
    pub space: u16,
    /// In: entries.
    pub size: u16,
    /// In: the owner (`gmfn_foreign`); 0 otherwise (`dev_mmio`).
    pub foreign_domid: u16,
    /// In: handle of the indexes (u64).
    pub idxs: u64,
    /// In: handle of the guest frames (u64).
    pub gpfns: u64,
    /// Out: handle of the errors (i32).
    pub errs: u64,
}

/// Unmaps a guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// In: the domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Padding.
    pub _pad: [u8; 6],
    /// In: the frame.
    pub gpfn: u64,
}

/// Gives the frames of a domain's resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemAcquireResource {
    /// In: the domain.
    pub domid: u16,
    /// In: `XENMEM_RESOURCE_*`.
    pub type_: u16,
    /// In: which one of that type.
    pub id: u32,
    /// In and out: frames; with a null list, out: the size.
    pub nr_frames: u32,
    /// Padding.
    pub _pad: u32,
    /// In: the first frame.
    pub frame: u64,
    /// In: handle of the list (u64).
    pub frame_list: u64,
}

/// Page access rights (MEM_ACCESS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemAccessOp {
    /// In: operation.
    pub op: u8,
    /// In: right.
    pub access: u8,
    /// In: the domain.
    pub domid: u16,
    /// In: pages.
    pub nr: u32,
    /// In: the first page.
    pub pfn: u64,
    /// In: handle.
    pub pfn_list: u64,
    /// In: handle.
    pub access_list: u64,
}

/// Virtual NUMA topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VnumaTopologyInfo {
    /// In: the domain.
    pub domid: u16,
    /// Padding.
    pub _pad: u16,
    /// In: room; out: nodes.
    pub nr_vnodes: u32,
    /// In: room; out: vCPUs.
    pub nr_vcpus: u32,
    /// In: room; out: ranges.
    pub nr_vmemranges: u32,
    /// Handle.
    pub vdistance: u64,
    /// Handle.
    pub vcpu_to_vnode: u64,
    /// Handle.
    pub vmemrange: u64,
}

/// A reserved range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReservedDeviceMemory {
    /// The first frame.
    pub start_pfn: u64,
    /// Frames.
    pub nr_pages: u64,
}

/// Lists reserved ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReservedDeviceMemoryMap {
    /// In: 1 = of all devices.
    pub flags: u32,
    /// In: room; out: entries.
    pub nr_entries: u32,
    /// Handle of [`ReservedDeviceMemory`].
    pub buffer: u64,
    /// In: the device (segment, bus, function).
    pub dev: u32,
    /// Padding.
    pub _pad: u32,
}
