//! Event channels (public/event_channel.h) and virtual interrupts (public/xen.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`EvtchnBindInterdomain`].
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// [`EvtchnBindVirq`].
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// [`EvtchnBindPirq`]; not on Arm.
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// [`EvtchnClose`].
pub const EVTCHNOP_CLOSE: u32 = 3;
/// [`EvtchnSend`].
pub const EVTCHNOP_SEND: u32 = 4;
/// [`EvtchnStatus`].
pub const EVTCHNOP_STATUS: u32 = 5;
/// [`EvtchnAllocUnbound`].
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// [`EvtchnBindIpi`].
pub const EVTCHNOP_BIND_IPI: u32 = 7;
/// [`EvtchnBindVcpu`].
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// [`EvtchnUnmask`].
pub const EVTCHNOP_UNMASK: u32 = 9;
/// [`EvtchnReset`].
pub const EVTCHNOP_RESET: u32 = 10;
/// [`EvtchnInitControl`].
pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
/// [`EvtchnExpandArray`].
pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
/// [`EvtchnSetPriority`].
pub const EVTCHNOP_SET_PRIORITY: u32 = 13;
/// The hypervisor's own continuation of reset.
pub const EVTCHNOP_RESET_CONT: u32 = 14;
/// Status: closed.
pub const EVTCHNSTAT_CLOSED: u32 = 0;
/// Status: waits for a remote domain.
pub const EVTCHNSTAT_UNBOUND: u32 = 1;
/// Status: connected.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// Status: a physical interrupt.
pub const EVTCHNSTAT_PIRQ: u32 = 3;
/// Status: a virtual interrupt.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// Status: an interrupt between vCPUs.
pub const EVTCHNSTAT_IPI: u32 = 5;
/// Ports of the 2-level ABI.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
/// Ports of the FIFO ABI.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 0x0002_0000;
/// Bits of a link in an event word.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// Mask of the link in an event word.
pub const EVTCHN_FIFO_LINK_MASK: u32 = 0x0001_ffff;
/// Bit number in an event word: pending.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// Bit number in an event word: masked.
pub const EVTCHN_FIFO_MASKED: u32 = 30;
/// Bit number in an event word: on a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// Bit number in an event word: being unmasked.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// The highest priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// The priority of a new port.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// The lowest priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// Queues of a control block.
pub const EVTCHN_FIFO_MAX_QUEUES: u32 = 16;
/// Event words in a page of the event array.
pub const EVENT_WORDS_PER_PAGE: usize = 1024;
/// Timer; per vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// Debug request; per vCPU.
pub const VIRQ_DEBUG: u32 = 1;
/// Bytes on the emergency console; global.
pub const VIRQ_CONSOLE: u32 = 2;
/// A domain changed state; global.
pub const VIRQ_DOM_EXC: u32 = 3;
/// Trace buffer; global.
pub const VIRQ_TBUF: u32 = 4;
/// A domain paused for debugging; global.
pub const VIRQ_DEBUGGER: u32 = 6;
/// Profiling; per vCPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// Bytes in the console ring; global.
pub const VIRQ_CON_RING: u32 = 8;
/// A physical CPU changed state; global.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// Memory event; global.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// Argo; global.
pub const VIRQ_ARGO: u32 = 11;
/// Low on memory; global.
pub const VIRQ_ENOMEM: u32 = 12;
/// PMU; per vCPU.
pub const VIRQ_XENPMU: u32 = 13;
/// The first of eight per-architecture numbers.
pub const VIRQ_ARCH_0: u32 = 16;
/// Virtual interrupt numbers.
pub const NR_VIRQS: u32 = 24;

/// Makes a port that waits for `remote_dom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnAllocUnbound {
    /// In: owner, or `DOMID_SELF`.
    pub dom: u16,
    /// In: who may bind.
    pub remote_dom: u16,
    /// Out: the port.
    pub port: u32,
}

/// Connects to a remote unbound port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnBindInterdomain {
    /// In: the remote domain.
    pub remote_dom: u16,
    /// Padding.
    pub _pad: u16,
    /// In: its port.
    pub remote_port: u32,
    /// Out: the port.
    pub local_port: u32,
}

/// Binds a virtual interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnBindVirq {
    /// In: `VIRQ_*`.
    pub virq: u32,
    /// In: the vCPU.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// Binds a physical interrupt (not on Arm).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnBindPirq {
    /// In: number.
    pub pirq: u32,
    /// In: `BIND_PIRQ__WILL_SHARE`.
    pub flags: u32,
    /// Out: the port.
    pub port: u32,
}

/// Makes a port between the domain's vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnBindIpi {
    /// In: who is notified.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// Closes a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnClose {
    /// In: the port.
    pub port: u32,
}

/// Sends an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnSend {
    /// In: the local port.
    pub port: u32,
}

/// Tells what a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnStatus {
    /// In: the domain, or `DOMID_SELF`.
    pub dom: u16,
    /// Padding.
    pub _pad: u16,
    /// In: the port.
    pub port: u32,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: the vCPU notified.
    pub vcpu: u32,
    /// Out: domain in the low 16 bits (unbound, interdomain), pirq or virq.
    pub u0: u32,
    /// Out: the remote port (interdomain).
    pub u1: u32,
}

/// Moves a port to another vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnBindVcpu {
    /// In: the port.
    pub port: u32,
    /// In: the vCPU.
    pub vcpu: u32,
}

/// Unmasks a port and delivers what is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnUnmask {
    /// In: the port.
    pub port: u32,
}

/// Closes every port of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnReset {
    /// In: the domain, or `DOMID_SELF`.
    pub dom: u16,
}

/// Registers a vCPU's FIFO control block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnInitControl {
    /// In: frame of the block.
    pub control_gfn: u64,
    /// In: offset in the frame, in bytes.
    pub offset: u32,
    /// In: the vCPU.
    pub vcpu: u32,
    /// Out: bits of a link.
    pub link_bits: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// Adds a page to the FIFO event array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnExpandArray {
    /// In: the frame.
    pub array_gfn: u64,
}

/// Sets a port's FIFO priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnSetPriority {
    /// In: the port.
    pub port: u32,
    /// In: 0 (highest) to 15.
    pub priority: u32,
}

/// A vCPU's FIFO control block (shared memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EvtchnFifoControlBlock {
    /// A bit for each queue that is not empty.
    pub ready: u32,
    /// Reserved.
    pub _rsvd: u32,
    /// Head port of each queue.
    pub head: [u32; 16],
}
