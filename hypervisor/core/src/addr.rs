//! Addresses and frame numbers as types, so that a guest's number is never mistaken for the hypervisor's.
//!
//! Frame numbers are 32 bits wide: 4 KiB frames reach 16 TiB, which is beyond the 40-bit physical space of ARMv7-A
//! with LPAE and enough for the AArch64 machines we support. Wider values from a guest are rejected by `TryFrom<u64>`.

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page: Xen's granule on Arm is always 4 KiB.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $frame:ident, $(#[$fdoc:meta])*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw address in bytes.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// Returns the raw address in bytes.
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// Returns the offset within the page, in bytes (0..4096).
            pub const fn page_offset(self) -> usize {
                (self.0 as usize) & (PAGE_SIZE - 1)
            }
            /// Returns the frame that holds this address, or `None` beyond 2^44.
            pub fn frame(self) -> Option<$frame> {
                u32::try_from(self.0 >> PAGE_SHIFT).ok().map($frame)
            }
            /// Adds `bytes`, or `None` on overflow.
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }
        }

        impl core::fmt::LowerHex for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }

        $(#[$fdoc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $frame(u32);

        impl $frame {
            /// Wraps a raw frame number.
            pub const fn new(raw: u32) -> Self {
                Self(raw)
            }
            /// Returns the raw frame number.
            pub const fn raw(self) -> u32 {
                self.0
            }
            /// Returns the address of the frame's first byte.
            pub const fn address(self) -> $name {
                $name((self.0 as u64) << PAGE_SHIFT)
            }
            /// Adds `frames`, or `None` on overflow.
            pub fn checked_add(self, frames: u32) -> Option<Self> {
                self.0.checked_add(frames).map(Self)
            }
        }

        impl TryFrom<u64> for $frame {
            type Error = core::num::TryFromIntError;
            fn try_from(raw: u64) -> Result<Self, Self::Error> {
                u32::try_from(raw).map(Self)
            }
        }

        impl core::fmt::LowerHex for $frame {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A physical address of the machine, in bytes (Xen: maddr).
    HostPhys, Mfn,
    /// A machine frame number.
}
address! {
    /// A guest-physical address, in bytes (Arm: IPA).
    GuestPhys, Gfn,
    /// A guest frame number.
}

/// A guest virtual address as a hypercall argument gives it: an allegation until translated with the guest's own
/// tables and privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestVirt(u64);

impl GuestVirt {
    /// Wraps a raw address in bytes.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// Returns the raw address in bytes.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// Adds `bytes`, or `None` on overflow.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

/// The number of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(u16);

impl DomId {
    /// The control domain.
    pub const DOM0: Self = Self(0);

    /// Wraps a raw domain number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// Returns the raw domain number.
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl core::fmt::Display for DomId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "d{}", self.0)
    }
}

/// The index of a vCPU in its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(u16);

impl VcpuId {
    /// Wraps a raw index.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// Returns the index.
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// Returns the index as a `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The logical number of a physical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u16);

impl CpuId {
    /// Wraps a raw number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// Returns the number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A GIC interrupt number: 0–15 SGI, 16–31 PPI, 32–1019 SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntId(u16);

impl IntId {
    /// Wraps a raw number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// Returns the raw number.
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// Returns the number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
    /// Returns true for a shared peripheral interrupt.
    pub const fn is_spi(self) -> bool {
        self.0 >= 32 && self.0 < 1020
    }
}
