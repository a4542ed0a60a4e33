//! Grant tables (public/grant_table.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`GnttabMapGrantRef`].
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// [`GnttabUnmapGrantRef`].
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// [`GnttabSetupTable`].
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// [`GnttabDumpTable`]; debug.
pub const GNTTABOP_DUMP_TABLE: u32 = 3;
/// [`GnttabTransfer`].
pub const GNTTABOP_TRANSFER: u32 = 4;
/// [`GnttabCopy`].
pub const GNTTABOP_COPY: u32 = 5;
/// [`GnttabQuerySize`].
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// [`GnttabUnmapAndReplace`]; an error on Arm.
pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
/// [`GnttabSetVersion`].
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// [`GnttabGetStatusFrames`].
pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
/// [`GnttabGetVersion`].
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// [`GnttabSwapGrantRef`].
pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
/// [`GnttabCacheFlush`]; Arm only.
pub const GNTTABOP_CACHE_FLUSH: u32 = 12;
/// Status: done.
pub const GNTST_OKAY: i16 = 0;
/// Status: undefined error.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// Status: no such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// Status: no such (or unsuitable) grant.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// Status: no such mapping.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Status: unsuitable address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Status: unsuitable device address.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// Status: no slot in the IOMMU.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Status: not enough privilege.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// Status: the page cannot be used.
pub const GNTST_BAD_PAGE: i16 = -9;
/// Status: the copy crosses a page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// Status: transfer page address too large.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Status: try again.
pub const GNTST_EAGAIN: i16 = -12;
/// Status: no mapping slot left.
pub const GNTST_NO_SPACE: i16 = -13;
/// Map flag: for devices.
pub const GNTMAP_DEVICE_MAP: u32 = 1;
/// Map flag: for CPUs.
pub const GNTMAP_HOST_MAP: u32 = 2;
/// Map flag: read only.
pub const GNTMAP_READONLY: u32 = 4;
/// Map flag: user space (x86 PV).
pub const GNTMAP_APPLICATION_MAP: u32 = 8;
/// Map flag: address of a PTE (x86 PV).
pub const GNTMAP_CONTAINS_PTE: u32 = 16;
/// Entry type: no grant.
pub const GTF_INVALID: u16 = 0;
/// Entry type: access.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Entry type: accepts a transfer.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Entry type: another domain's grant (v2).
pub const GTF_TRANSITIVE: u16 = 3;
/// Mask of the type.
pub const GTF_TYPE_MASK: u16 = 3;
/// The grant is read only.
pub const GTF_READONLY: u16 = 4;
/// Set by the hypervisor: in use for reading.
pub const GTF_READING: u16 = 8;
/// Set by the hypervisor: in use for writing.
pub const GTF_WRITING: u16 = 16;
/// Cache attribute (x86).
pub const GTF_PWT: u16 = 32;
/// Cache attribute (x86).
pub const GTF_PCD: u16 = 64;
/// Cache attribute (x86).
pub const GTF_PAT: u16 = 128;
/// Part of a page (v2 copy).
pub const GTF_SUB_PAGE: u16 = 256;
/// Set by the hypervisor: a transfer is under way.
pub const GTF_TRANSFER_COMMITTED: u16 = 4;
/// Set by the hypervisor: the transfer is done.
pub const GTF_TRANSFER_COMPLETED: u16 = 8;
/// Copy flag: the source is a grant.
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
/// Copy flag: the destination is a grant.
pub const GNTCOPY_DEST_GREF: u16 = 2;
/// Flush operation bit: clean.
pub const GNTTAB_CACHE_CLEAN: u32 = 1;
/// Flush operation bit: invalidate.
pub const GNTTAB_CACHE_INVAL: u32 = 2;
/// Flush operation bit: the address is a grant.
pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 0x8000_0000;
/// Entries kept for the tools.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// Entry of the console page.
pub const GNTTAB_RESERVED_CONSOLE: u32 = 0;
/// Entry of the xenstore page.
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;
/// Version 1 entries in a page.
pub const GRANTS_PER_PAGE_V1: u32 = 512;
/// Version 2 entries in a page.
pub const GRANTS_PER_PAGE_V2: u32 = 256;
/// Version 2 status words in a page.
pub const STATUS_PER_PAGE: u32 = 2048;

/// Maps a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabMapGrantRef {
    /// In: guest-physical address.
    pub host_addr: u64,
    /// In: `GNTMAP_*`.
    pub flags: u32,
    /// In: the grant.
    pub ref_: u32,
    /// In: who granted.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Out: the mapping.
    pub handle: u32,
    /// Out: machine address.
    pub dev_bus_addr: u64,
}

/// Unmaps a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabUnmapGrantRef {
    /// In: guest-physical address.
    pub host_addr: u64,
    /// In: device address, or 0.
    pub dev_bus_addr: u64,
    /// In: the mapping.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// Grows the table and lists its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabSetupTable {
    /// In: the domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Padding.
    pub _pad0: u16,
    /// In: frames wanted.
    pub nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad1: [u8; 6],
    /// In: handle of the list of frames (u64).
    pub frame_list: u64,
}

/// Prints a table on the hypervisor's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabDumpTable {
    /// In: the domain.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabCopyPtr {
    /// Grant in the low 32 bits, or a frame number.
    pub u: u64,
    /// The domain.
    pub domid: u16,
    /// Offset in the page, in bytes.
    pub offset: u16,
    /// Padding.
    pub _pad: u32,
}

/// Copies between two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabCopy {
    /// In: from.
    pub source: GnttabCopyPtr,
    /// In: to.
    pub dest: GnttabCopyPtr,
    /// In: bytes.
    pub len: u16,
    /// In: `GNTCOPY_*`.
    pub flags: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// Tells the size of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabQuerySize {
    /// In: the domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Padding.
    pub _pad0: u16,
    /// Out: frames now.
    pub nr_frames: u32,
    /// Out: frames possible.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad1: u16,
}

/// Asks for a version of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabSetVersion {
    /// In: 1 or 2; out: the version used.
    pub version: u32,
}

/// Lists the frames of the version 2 status words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabGetStatusFrames {
    /// In: frames wanted.
    pub nr_frames: u32,
    /// In: the domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// In: handle of the list of frames (u64).
    pub frame_list: u64,
}

/// Tells the version of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabGetVersion {
    /// In: the domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Padding.
    pub _pad: u16,
    /// Out: the version.
    pub version: u32,
}

/// Exchanges two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabSwapGrantRef {
    /// In: one entry.
    pub ref_a: u32,
    /// In: the other.
    pub ref_b: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// Cleans or invalidates caches for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabCacheFlush {
    /// In: machine address, or a grant in the low 32 bits.
    pub a: u64,
    /// In: offset in the page, in bytes.
    pub offset: u16,
    /// In: bytes.
    pub length: u16,
    /// In: `GNTTAB_CACHE_*`.
    pub op: u32,
}

/// Replaces a mapping (x86 PV).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabUnmapAndReplace {
    /// In: address of the mapping.
    pub host_addr: u64,
    /// In: address to take over.
    pub new_addr: u64,
    /// In: the mapping.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad: u16,
}

/// Gives a page to another domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GnttabTransfer {
    /// In: the frame.
    pub mfn: u64,
    /// In: to whom.
    pub domid: u16,
    /// Padding.
    pub _pad0: u16,
    /// In: the receiver's entry.
    pub ref_: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub _pad1: [u8; 6],
}

/// An entry of version 1 (shared memory: two words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GrantEntryV1 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// The frame.
    pub frame: u32,
}

/// An entry of version 2 (shared memory: four words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GrantEntryV2 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// Sub-page: offset low, length high; transitive: domain low.
    pub sub: u32,
    /// The frame; transitive: the grant in the low 32 bits.
    pub frame: u64,
}
