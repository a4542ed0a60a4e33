//! Structures of domctl about devices, interrupts and the rest (public/domctl.h of 4.17).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Type of bind_pt_irq: a shared interrupt of Arm.
pub const PT_IRQ_TYPE_SPI: u32 = 4;
/// Value of `add_mapping`: maps.
pub const DPCI_ADD_MAPPING: u32 = 1;
/// Value of `add_mapping`: unmaps.
pub const DPCI_REMOVE_MAPPING: u32 = 0;
/// Command of vuart_op: sets the virtual UART up.
pub const XEN_DOMCTL_VUART_OP_INIT: u32 = 0;
/// Type of vuart_op: vpl011.
pub const XEN_DOMCTL_VUART_TYPE_VPL011: u32 = 0;

/// Lets a domain have an interrupt, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlIrqPermission {
    /// In: the interrupt.
    pub pirq: u32,
    /// In: not 0: it may.
    pub allow_access: u8,
    /// Padding.
    pub pad: [u8; 3],
}

/// Lets a domain have device memory, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlIomemPermission {
    /// In: the first machine frame.
    pub first_mfn: u64,
    /// In: frames.
    pub nr_mfns: u64,
    /// In: not 0: it may.
    pub allow_access: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// Maps device memory, or unmaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlMemoryMapping {
    /// In: the first guest frame.
    pub first_gfn: u64,
    /// In: the first machine frame.
    pub first_mfn: u64,
    /// In: frames.
    pub nr_mfns: u64,
    /// In: `DPCI_*_MAPPING`.
    pub add_mapping: u32,
    /// Padding.
    pub padding: u32,
}

/// Gives a domain an interrupt. The union's member for Arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlBindPtIrq {
    /// In: the machine's interrupt.
    pub machine_irq: u32,
    /// In: `PT_IRQ_TYPE_*`.
    pub irq_type: u32,
    /// In: the domain's interrupt.
    pub spi: u16,
    /// The union's rest.
    pub _pad: [u16; 7],
}

/// Sets the time of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlSettimeoffset {
    /// In: added to the wall clock that it sees.
    pub time_offset_seconds: i64,
}

/// Says whether a domain is being debugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlSetdebugging {
    /// In: not 0: it is.
    pub enable: u8,
}

/// Has a domain hear of something on behalf of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlSetVirqHandler {
    /// In: the VIRQ.
    pub virq: u32,
}

/// Makes a domain the emulator of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlSetTarget {
    /// In: the other.
    pub target: u16,
}

/// Works on a domain's virtual UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DomctlVuartOp {
    /// In: `XEN_DOMCTL_VUART_OP_*`.
    pub cmd: u32,
    /// In: `XEN_DOMCTL_VUART_TYPE_*`.
    pub kind: u32,
    /// In: the guest frame of the ring.
    pub gfn: u64,
    /// In: the domain at the other end.
    pub console_domid: u16,
    /// Padding.
    pub pad: [u8; 2],
    /// Out: the event channel for the other end.
    pub evtchn: u32,
}
