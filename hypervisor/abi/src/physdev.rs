//! Physical devices (public/physdev.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`PhysdevPciDeviceAdd`].
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// [`PhysdevPciDevice`].
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
/// [`PhysdevPciDevice`].
pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
/// [`PhysdevPciDevice`].
pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;
/// Flag: extended function.
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// Flag: virtual function.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// Flag: a proximity domain follows.
pub const XEN_PCI_DEV_PXM: u32 = 4;

/// A PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PhysdevPciDevice {
    /// Segment.
    pub seg: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
}

/// Announces a PCI device; optional words follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PhysdevPciDeviceAdd {
    /// Segment.
    pub seg: u16,
    /// Bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
    /// `XEN_PCI_DEV_*`.
    pub flags: u32,
    /// Bus of the physical function.
    pub physfn_bus: u8,
    /// Device and function of the physical function.
    pub physfn_devfn: u8,
    /// Padding.
    pub _pad: u16,
}
