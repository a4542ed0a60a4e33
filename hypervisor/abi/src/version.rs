//! `xen_version` and features (public/version.h, public/features.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `(major << 16) | minor`, as return value.
pub const XENVER_VERSION: u32 = 0;
/// 16 bytes.
pub const XENVER_EXTRAVERSION: u32 = 1;
/// [`CompileInfo`].
pub const XENVER_COMPILE_INFO: u32 = 2;
/// 1024 bytes.
pub const XENVER_CAPABILITIES: u32 = 3;
/// 64 bytes.
pub const XENVER_CHANGESET: u32 = 4;
/// [`PlatformParameters`].
pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
/// [`FeatureInfo`].
pub const XENVER_GET_FEATURES: u32 = 6;
/// Page size, as return value.
pub const XENVER_PAGESIZE: u32 = 7;
/// The domain's 16-byte handle.
pub const XENVER_GUEST_HANDLE: u32 = 8;
/// 1024 bytes; privileged.
pub const XENVER_COMMANDLINE: u32 = 9;
/// [`BuildIdHeader`] and bytes; privileged.
pub const XENVER_BUILD_ID: u32 = 10;
/// Length-prefixed extraversion (4.20).
pub const XENVER_EXTRAVERSION2: u32 = 11;
/// Length-prefixed capabilities (4.20).
pub const XENVER_CAPABILITIES2: u32 = 12;
/// Length-prefixed changeset (4.20).
pub const XENVER_CHANGESET2: u32 = 13;
/// Length-prefixed command line (4.20).
pub const XENVER_COMMANDLINE2: u32 = 14;
/// Bytes of the extraversion string with its NUL.
pub const EXTRAVERSION_LEN: usize = 16;
/// Bytes of the capabilities string with its NUL.
pub const CAPABILITIES_LEN: usize = 1024;
/// Bytes of the changeset string with its NUL.
pub const CHANGESET_LEN: usize = 64;
/// Bytes of the command line with its NUL.
pub const COMMANDLINE_LEN: usize = 1024;
/// Bit: guests write page tables directly.
pub const XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0;
/// Bit: the hypervisor translates frames.
pub const XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// Bit: the caller is the control domain.
pub const XENFEAT_DOM0: u32 = 11;
/// Bit: `XENMEMF_vnode` is understood.
pub const XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// Bit: SMCCC 1.1 calls work.
pub const XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14;
/// Bit: guest frames differ from machine frames.
pub const XENFEAT_NOT_DIRECT_MAPPED: u32 = 16;
/// Bit: guest frames equal machine frames.
pub const XENFEAT_DIRECT_MAPPED: u32 = 17;
/// Bit: runstate area by physical address (4.20).
pub const XENFEAT_RUNSTATE_PHYS_AREA: u32 = 18;
/// Bit: time area by physical address (4.20).
pub const XENFEAT_VCPU_TIME_PHYS_AREA: u32 = 19;
/// Words of features; a higher index gives `-EINVAL`.
pub const XENFEAT_NR_SUBMAPS: u32 = 1;

/// `XENVER_compile_info`: four NUL-terminated strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CompileInfo {
    /// Compiler and its version.
    pub compiler: [u8; 64],
    /// User.
    pub compile_by: [u8; 16],
    /// Host or domain.
    pub compile_domain: [u8; 32],
    /// Date.
    pub compile_date: [u8; 32],
}

/// `XENVER_platform_parameters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PlatformParameters {
    /// Start of the hypervisor's virtual space.
    pub virt_start: u64,
}

/// `XENVER_get_features`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: index of the word.
    pub submap_idx: u32,
    /// Out: the word, a bit for each `XENFEAT_`.
    pub submap: u32,
}

/// `XENVER_build_id`: followed by `len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BuildIdHeader {
    /// In: room; out: length.
    pub len: u32,
}
