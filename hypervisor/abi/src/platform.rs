//! Platform operations of dom0 (public/platform.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the interface; another gives `-EACCES`.
pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;
/// Sets the wall clock (old).
pub const XENPF_SETTIME32: u32 = 17;
/// Sets the wall clock: [`XenpfSettime64`].
pub const XENPF_SETTIME64: u32 = 62;

/// `secs.nsecs` is the wall clock when the system time was `system_time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenpfSettime64 {
    /// In: seconds since 1970.
    pub secs: u64,
    /// In: nanoseconds.
    pub nsecs: u32,
    /// In: must be zero.
    pub mbz: u32,
    /// In: system time, in ns.
    pub system_time: u64,
}

/// Header and the bytes of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PlatformOp {
    /// In: `XENPF_*`.
    pub cmd: u32,
    /// In: [`XENPF_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// The operation.
    pub u: [u8; 128],
}
