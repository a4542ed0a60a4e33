//! The plain values that event channels take and give: ports, VIRQs, sets of vCPUs, results.

use crate::addr::{DomId, VcpuId};

/// The number of an event channel in its domain. A guest's value is an allegation until it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(u32);

impl Port {
    /// Wraps a raw port number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// Returns the raw number.
    pub const fn raw(self) -> u32 {
        self.0
    }
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Virtual interrupts a vCPU can bind (public/xen.h `NR_VIRQS`).
pub const VIRQ_COUNT: usize = 24;

/// The number of a virtual interrupt, 0..24 (public/xen.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virq(u8);

impl Virq {
    /// Timebase update or a requested timeout; one for each vCPU.
    pub const TIMER: Self = Self(0);
    /// A request to dump debug information; one for each vCPU.
    pub const DEBUG: Self = Self(1);
    /// Bytes received on the emergency console.
    pub const CONSOLE: Self = Self(2);
    /// An exceptional event in some domain (dom0).
    pub const DOM_EXC: Self = Self(3);
    /// The trace buffer has records.
    pub const TBUF: Self = Self(4);
    /// A domain is paused for debugging.
    pub const DEBUGGER: Self = Self(6);
    /// Profiling; one for each vCPU.
    pub const XENOPROF: Self = Self(7);
    /// The console ring has new bytes.
    pub const CON_RING: Self = Self(8);
    /// A physical CPU changed state.
    pub const PCPU_STATE: Self = Self(9);
    /// A memory event occurred.
    pub const MEM_EVENT: Self = Self(10);
    /// Argo message notification.
    pub const ARGO: Self = Self(11);
    /// Low on heap memory.
    pub const ENOMEM: Self = Self(12);
    /// PMU interrupt; one for each vCPU.
    pub const XENPMU: Self = Self(13);

    /// Returns the virtual interrupt with this number, or `None` from 24 on.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw < VIRQ_COUNT as u32 {
            Some(Self(raw as u8))
        } else {
            None
        }
    }
    /// Returns the number.
    pub const fn raw(self) -> u8 {
        self.0
    }
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
    /// Returns true when there is one in the domain, bound at vCPU 0, and not one for each vCPU.
    pub const fn is_global(self) -> bool {
        !matches!(
            self,
            Self::TIMER | Self::DEBUG | Self::XENOPROF | Self::XENPMU
        )
    }
}

/// A set of a domain's vCPUs (at most 128 in a domain).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet(u128);

impl VcpuSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// Adds a vCPU; indexes from 128 on do not exist and are ignored.
    pub fn insert(&mut self, vcpu: VcpuId) {
        self.0 |= 1u128.checked_shl(u32::from(vcpu.raw())).unwrap_or(0);
    }
    /// Returns true when the vCPU is in the set.
    pub fn contains(self, vcpu: VcpuId) -> bool {
        self.0 & 1u128.checked_shl(u32::from(vcpu.raw())).unwrap_or(0) != 0
    }
    /// Returns true when no vCPU is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Iterator for VcpuSet {
    type Item = VcpuId;

    /// Takes the lowest vCPU out of the set.
    fn next(&mut self) -> Option<VcpuId> {
        if self.0 == 0 {
            return None;
        }
        let lowest = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        // At most 127.
        Some(VcpuId::new(lowest as u16))
    }
}

/// What the caller owes after a port was made pending.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Nothing: already pending, masked, or nobody listens.
    None,
    /// This vCPU's upcall became asserted: inject the upcall interrupt and wake or kick the vCPU.
    Kick(VcpuId),
    /// vCPUs in `SCHEDOP_poll` must be unblocked: [`super::EventChannels::take_woken`] says which. The vCPU in it, if
    /// any, is to be kicked as for [`Notify::Kick`].
    Pollers(Option<VcpuId>),
    /// The hypervisor's own end of a channel was notified: the domain's virtual UART is to look.
    Xen,
}

impl Notify {
    /// Returns the vCPU whose upcall became asserted.
    pub const fn kick(self) -> Option<VcpuId> {
        match self {
            Self::None | Self::Xen => None,
            Self::Kick(vcpu) => Some(vcpu),
            Self::Pollers(kick) => kick,
        }
    }
}

/// What `EVTCHNOP_send` did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Delivered inside the domain, or dropped since the port is unbound.
    Local(Notify),
    /// The other end is in another domain: lock that one's channels and call
    /// [`super::EventChannels::set_pending_from`] with this port and the sender's domain and port.
    Remote {
        /// The domain of the other end.
        domain: DomId,
        /// The port of the other end.
        port: Port,
    },
}

/// What `EVTCHNOP_close` did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The port is closed.
    Done,
    /// Nothing was done: the other end is in that domain, so lock both and call
    /// [`super::EventChannels::close_pair`].
    NeedsPeer(DomId),
}

/// How far `EVTCHNOP_reset` came.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Every port is closed and the domain is back on the 2-level ABI.
    Done,
    /// The budget is used up: call again with [`ResetCall::Continue`] (Xen: `EVTCHNOP_reset_cont`).
    More,
    /// Lock this domain as well, close this port with [`super::EventChannels::close_pair`], and continue.
    NeedsPeer(DomId, Port),
}

/// Whether a reset begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCall {
    /// The guest's own call (`EVTCHNOP_reset`).
    Begin,
    /// A continuation of it (`EVTCHNOP_reset_cont`).
    Continue,
}

/// What `SCHEDOP_poll` has to do.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// A port is pending already: return to the guest.
    Ready,
    /// The vCPU is registered as a poller: block it; call [`super::EventChannels::end_poll`] when it runs again.
    Wait,
}

/// The state of a port (`EVTCHNOP_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Not in use (`EVTCHNSTAT_closed`).
    Closed,
    /// Waiting for this domain to bind (`EVTCHNSTAT_unbound`).
    Unbound {
        /// Who may bind.
        domain: DomId,
    },
    /// Connected (`EVTCHNSTAT_interdomain`).
    Interdomain {
        /// The domain of the other end.
        domain: DomId,
        /// The port of the other end.
        port: Port,
    },
    /// Bound to a virtual interrupt (`EVTCHNSTAT_virq`).
    Virq(Virq),
    /// An inter-vCPU interrupt (`EVTCHNSTAT_ipi`).
    Ipi,
}

impl PortState {
    /// Returns the `EVTCHNSTAT_*` number (public/event_channel.h).
    pub const fn number(self) -> u32 {
        match self {
            Self::Closed => 0,
            Self::Unbound { .. } => 1,
            Self::Interdomain { .. } => 2,
            Self::Virq(_) => 4,
            Self::Ipi => 5,
        }
    }
}

/// The answer to `EVTCHNOP_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The vCPU that is notified.
    pub vcpu: VcpuId,
    /// What the port is.
    pub state: PortState,
}

/// Why a `vcpu_info` could not be registered (`VCPUOP_register_vcpu_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// There is no such vCPU (`-ENOENT`).
    NoVcpu,
    /// It would not be naturally aligned within one page (`-ENXIO`; XSA-327).
    Misplaced,
    /// This vCPU has registered one already (`-EINVAL`).
    Registered,
}
