//! What domctl and sysctl have in common.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Policy of scheduling: credit.
pub const XEN_SCHEDULER_CREDIT: u32 = 5;
/// Policy of scheduling: credit2.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// Policy of scheduling: null.
pub const XEN_SCHEDULER_NULL: u32 = 9;

/// A bitmap in the caller's memory.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct XenctlBitmap {
    /// Where it is.
    pub bitmap: u64,
    /// How many bits it has.
    pub nr_bits: u32,
    /// Padding.
    pub _pad: u32,
}
