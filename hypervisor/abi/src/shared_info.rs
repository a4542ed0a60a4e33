//! Offsets in `shared_info` and `vcpu_info` (public/xen.h), in bytes. They are accessed as atomic words, never as a structure.

/// Bytes of `shared_info`.
pub const SHARED_INFO_SIZE: usize = 1088;
/// The one legacy `vcpu_info` (vCPU 0).
pub const SHARED_INFO_VCPU_INFO: usize = 0;
/// 64 words of 64 bits: pending ports (2-level).
pub const SHARED_INFO_EVTCHN_PENDING: usize = 48;
/// 64 words of 64 bits: masked ports (2-level).
pub const SHARED_INFO_EVTCHN_MASK: usize = 560;
/// Wall clock: version, odd while it changes (u32).
pub const SHARED_INFO_WC_VERSION: usize = 1072;
/// Wall clock: low word of the seconds (u32).
pub const SHARED_INFO_WC_SEC: usize = 1076;
/// Wall clock: nanoseconds (u32).
pub const SHARED_INFO_WC_NSEC: usize = 1080;
/// Wall clock: high word of the seconds (u32).
pub const SHARED_INFO_WC_SEC_HI: usize = 1084;
/// `vcpu_info` structures in `shared_info`.
pub const XEN_LEGACY_MAX_VCPUS: usize = 1;
/// Bytes of `vcpu_info`; a registered one must be aligned as its parts.
pub const VCPU_INFO_SIZE: usize = 48;
/// u8, non-zero when an event waits.
pub const VCPU_INFO_UPCALL_PENDING: usize = 0;
/// u8, not used on Arm.
pub const VCPU_INFO_UPCALL_MASK: usize = 1;
/// u64, a bit for each word of pending ports.
pub const VCPU_INFO_PENDING_SEL: usize = 8;
/// `vcpu_time_info`, 32 bytes, not used on Arm.
pub const VCPU_INFO_TIME: usize = 16;
