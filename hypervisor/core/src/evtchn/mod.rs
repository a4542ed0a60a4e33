//! Event channels: a domain's ports and what is bound to them (xen-arm.md §3.4, public/event_channel.h).
//!
//! [`EventChannels`] is everything one domain has: the port table, where each vCPU's `vcpu_info` and FIFO control block
//! are, which VIRQs are bound, who polls. A domain begins with the 2-level ABI (4096 ports, bits in `shared_info`) and
//! goes over to FIFO (131072 ports, event words in pages the guest gives) by `EVTCHNOP_init_control`.
//!
//! Files: `types` values in and out; `table` the ports; `guest` the words shared with the guest; `deliver` making ports
//! pending, unmasking, polling; `fifo` the calls that only FIFO has; this file the bindings.
//!
//! # Locks
//! The caller holds one lock for each domain's `EventChannels` (rank EventChannel). Two domains are involved only in
//! [`EventChannels::bind_interdomain`] and [`EventChannels::close_pair`], which take both, locked lower `DomId` first.
//! A send to another domain needs no lock of the sender while it delivers: [`EventChannels::set_pending_from`] checks
//! that the two ports are still connected. Nothing here takes a lock.
//!
//! # Invariants
//! - Port 0 is never usable. An open port is in the table with its state; `virqs` of a vCPU names only ports in state
//!   `Virq` with that number.
//! - Two ports in state `Interdomain` always name each other.
//! - FIFO: if a port is the tail of a queue, it is the queue in its `last_vcpu` and `last_priority`.
//! - Words of the guest are never trusted: they choose what happens to the guest, not what happens to this table.
//!
//! A guest's mistake is an [`Errno`] as Xen returns it; no input can panic.

mod deliver;
mod fifo;
mod fixed;
mod guest;
mod table;
#[cfg(test)]
mod tests;
mod types;

use alloc::boxed::Box;
use alloc::vec::Vec;

use self::guest::{ControlBlock, FIFO_PORTS, TWO_LEVEL_PORTS, VCPU_INFO_BYTES, VcpuInfo};
use self::table::{State, Table};
pub use self::types::{
    Closed, Notify, Poll, Port, PortState, RegisterError, Reset, ResetCall, Sent, Status,
    VIRQ_COUNT, VcpuSet, Virq,
};
use crate::addr::{DomId, VcpuId};
use crate::errno::Errno;
use crate::machine::SharedPage;

/// `max_evtchn_port` of a domain without a limit of its own (dom0).
pub const NO_PORT_LIMIT: u32 = i32::MAX as u32;
/// vCPUs a domain can have here.
const MAX_VCPUS: u16 = 128;
/// Priorities of the FIFO ABI, 0 the highest.
const PRIORITIES: usize = 16;

/// Which ABI the guest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// Bits in `shared_info`.
    TwoLevel,
    /// Event words and queues.
    Fifo,
}

/// Which events unblock a vCPU in `SCHEDOP_poll`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Polling {
    No,
    /// This port.
    Port(Port),
    /// Any port: it polls several, or none.
    Any,
}

/// A structure that begins at a word of a guest page.
struct Placed<P> {
    page: P,
    /// Index of its first word; it ends within the page.
    word: usize,
}

/// Where a vCPU's `vcpu_info` is.
enum InfoPlace<P> {
    /// Nowhere: vCPUs other than 0 before they register (public/xen.h: `shared_info` has room for one on Arm).
    Nowhere,
    /// At the start of `shared_info`.
    SharedInfo,
    Registered(Placed<P>),
}

/// What a vCPU has of event channels.
struct Vcpu<P> {
    info: InfoPlace<P>,
    /// Bound ports by VIRQ; 0 = none. Global VIRQs are bound at vCPU 0.
    virqs: [Port; VIRQ_COUNT],
    polling: Polling,
    control: Option<Placed<P>>,
    /// Last port linked on each queue; 0 = none. It may have been consumed since.
    tails: [Port; PRIORITIES],
}

impl<P: SharedPage> Vcpu<P> {
    #[inline]
    fn info<'a>(&'a self, shared_info: &'a P) -> Option<VcpuInfo<'a>> {
        match &self.info {
            InfoPlace::Nowhere => None,
            InfoPlace::SharedInfo => Some(VcpuInfo::new(shared_info.words(), 0)),
            InfoPlace::Registered(placed) => Some(VcpuInfo::new(placed.page.words(), placed.word)),
        }
    }

    #[inline]
    fn control_block(&self) -> Option<ControlBlock<'_>> {
        let placed = self.control.as_ref()?;
        Some(ControlBlock::new(placed.page.words(), placed.word))
    }
}

/// The event channels of one domain.
pub struct EventChannels<P: SharedPage> {
    domain: DomId,
    abi: Abi,
    /// The highest port the domain may allocate (`max_evtchn_port`).
    max_port: u32,
    is_dying: bool,
    /// vCPUs whose `polling` is not `No`.
    polling_count: u16,
    table: Table,
    shared_info: P,
    vcpus: Box<[Vcpu<P>]>,
    /// FIFO: the pages of the event array.
    event_array: Vec<P>,
    /// Pollers that an event unblocked and nobody took yet.
    woken: VcpuSet,
    /// Where a preempted reset goes on; 0 = none under way.
    reset_next: u32,
    /// Open ports that are the hypervisor's own.
    xen_count: u32,
}

impl<P: SharedPage> EventChannels<P> {
    /// Creates the channels of a domain with `vcpu_count` vCPUs whose `shared_info` page is given (zeroed).
    ///
    /// `max_port` is the highest port number it may allocate ([`NO_PORT_LIMIT`] for none).
    ///
    /// # Errors
    /// `EINVAL` for no or more than 128 vCPUs, `ENOMEM`.
    pub fn new(
        domain: DomId,
        vcpu_count: u16,
        max_port: u32,
        shared_info: P,
    ) -> Result<Self, Errno> {
        if vcpu_count == 0 || vcpu_count > MAX_VCPUS {
            return Err(Errno::Inval);
        }
        let mut vcpus = Vec::new();
        vcpus
            .try_reserve_exact(usize::from(vcpu_count))
            .map_err(|_| Errno::NoMem)?;
        for index in 0..vcpu_count {
            vcpus.push(Vcpu {
                info: if index == 0 {
                    InfoPlace::SharedInfo
                } else {
                    InfoPlace::Nowhere
                },
                virqs: [Port::new(0); VIRQ_COUNT],
                polling: Polling::No,
                control: None,
                tails: [Port::new(0); PRIORITIES],
            });
        }
        Ok(Self {
            domain,
            abi: Abi::TwoLevel,
            max_port,
            is_dying: false,
            polling_count: 0,
            table: Table::new()?,
            shared_info,
            vcpus: vcpus.into_boxed_slice(),
            event_array: Vec::new(),
            woken: VcpuSet::EMPTY,
            reset_next: 0,
            xen_count: 0,
        })
    }

    /// Returns the domain whose channels these are.
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Returns the ABI the guest uses now.
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// Returns the `shared_info` page.
    pub fn shared_info(&self) -> &P {
        &self.shared_info
    }

    /// Refuses every further allocation: the domain is being destroyed. Close its ports with [`Self::reset`], from the
    /// beginning even if the guest's own reset was under way.
    pub fn set_dying(&mut self) {
        self.is_dying = true;
        self.reset_next = 0;
        // Few domains have any, and the table may be long.
        if self.xen_count > 0 {
            for (_, channel) in self.table.iter_mut() {
                channel.is_xen = false;
            }
            self.xen_count = 0;
        }
    }

    /// Looks a guest's vCPU number up.
    fn vcpu_id(&self, vcpu: u32) -> Result<VcpuId, Errno> {
        match u16::try_from(vcpu) {
            Ok(raw) if usize::from(raw) < self.vcpus.len() => Ok(VcpuId::new(raw)),
            _ => Err(Errno::NoEnt),
        }
    }

    fn state(&self, port: Port) -> Result<State, Errno> {
        Ok(self.table.get(port).ok_or(Errno::Inval)?.state)
    }

    fn find_free(&mut self) -> Result<Port, Errno> {
        if self.is_dying {
            return Err(Errno::Inval);
        }
        let (abi_ports, event_array) = match self.abi {
            Abi::TwoLevel => (TWO_LEVEL_PORTS, &[][..]),
            Abi::Fifo => (FIFO_PORTS, &self.event_array[..]),
        };
        let limit = abi_ports.min(self.max_port.saturating_add(1));
        // A closed port that is still on a queue would deliver its next event on that queue.
        self.table
            .find_free(limit, |port| fifo::is_linked(event_array, port))
    }

    /// `EVTCHNOP_alloc_unbound`: opens a port that `remote` may bind, and returns it.
    ///
    /// The caller has resolved `DOMID_SELF` in both domain numbers and checked the caller's right (`-ESRCH`, `-EPERM`).
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`; `EINVAL` when the domain is dying.
    pub fn alloc_unbound(&mut self, remote: DomId) -> Result<Port, Errno> {
        let port = self.find_free()?;
        self.table
            .open(port, State::Unbound { domain: remote }, VcpuId::new(0));
        Ok(port)
    }

    /// Opens a port of the domain's whose near end is the hypervisor, for `remote` to bind: of the virtual UART.
    ///
    /// # Errors
    /// As [`Self::alloc_unbound`].
    pub fn alloc_unbound_xen(&mut self, remote: DomId) -> Result<Port, Errno> {
        let port = self.alloc_unbound(remote)?;
        if let Some(channel) = self.table.get_mut(port) {
            channel.is_xen = true;
        }
        self.xen_count += 1;
        Ok(port)
    }

    /// Checks that `from` may bind `port`, which waits for it.
    fn check_unbound(&self, port: Port, from: DomId) -> Result<(), Errno> {
        match self.state(port)? {
            State::Unbound { domain } if domain == from => Ok(()),
            _ => Err(Errno::Inval),
        }
    }

    /// `EVTCHNOP_bind_interdomain` where the other port is in the same domain. Returns the new port, and what its first
    /// event asks for: events sent to the unbound port were lost, so one is always made pending.
    ///
    /// # Errors
    /// `EINVAL` when `remote_port` does not wait for this domain; `ENOSPC`, `ENOMEM`.
    pub fn bind_interdomain_self(&mut self, remote_port: Port) -> Result<(Port, Notify), Errno> {
        let port = self.find_free()?;
        self.check_unbound(remote_port, self.domain)?;
        let domain = self.domain;
        let state = State::Interdomain {
            domain,
            port: remote_port,
        };
        self.table.open(port, state, VcpuId::new(0));
        if let Some(remote) = self.table.get_mut(remote_port) {
            remote.state = State::Interdomain { domain, port };
        }
        Ok((port, self.set_pending(port)))
    }

    /// `EVTCHNOP_bind_interdomain` with a port of another domain; both are locked. Returns `local`'s new port, and what
    /// its first event asks for.
    ///
    /// # Errors
    /// `EINVAL` when `remote_port` does not wait for `local`'s domain; `ENOSPC`, `ENOMEM`.
    pub fn bind_interdomain(
        local: &mut Self,
        remote: &mut Self,
        remote_port: Port,
    ) -> Result<(Port, Notify), Errno> {
        let port = local.find_free()?;
        remote.check_unbound(remote_port, local.domain)?;
        let state = State::Interdomain {
            domain: remote.domain,
            port: remote_port,
        };
        local.table.open(port, state, VcpuId::new(0));
        if let Some(channel) = remote.table.get_mut(remote_port) {
            channel.state = State::Interdomain {
                domain: local.domain,
                port,
            };
        }
        Ok((port, local.set_pending(port)))
    }

    /// `EVTCHNOP_bind_virq`: binds a virtual interrupt of a vCPU (0 for a global one) and returns its port.
    ///
    /// # Errors
    /// `EINVAL` for an unknown VIRQ or a global one at another vCPU than 0, `ENOENT` for an unknown vCPU, `EEXIST` when
    /// it is bound already, `ENOSPC`, `ENOMEM`.
    pub fn bind_virq(&mut self, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        let virq = Virq::new(virq).ok_or(Errno::Inval)?;
        if virq.is_global() && vcpu != 0 {
            return Err(Errno::Inval);
        }
        let vcpu = self.vcpu_id(vcpu)?;
        if self.virq_port(vcpu, virq).is_some() {
            return Err(Errno::Exist);
        }
        let port = self.find_free()?;
        self.table.open(port, State::Virq(virq), vcpu);
        if let Some(slot) = self.virq_slot(vcpu, virq) {
            *slot = port;
        }
        Ok(port)
    }

    fn virq_slot(&mut self, vcpu: VcpuId, virq: Virq) -> Option<&mut Port> {
        self.vcpus
            .get_mut(vcpu.index())?
            .virqs
            .get_mut(virq.index())
    }

    /// Returns the port to which a vCPU bound a VIRQ.
    fn virq_port(&self, vcpu: VcpuId, virq: Virq) -> Option<Port> {
        let port = *self.vcpus.get(vcpu.index())?.virqs.get(virq.index())?;
        (port != Port::new(0)).then_some(port)
    }

    /// `EVTCHNOP_bind_ipi`: opens a port on which the domain's vCPUs notify `vcpu`.
    ///
    /// # Errors
    /// `ENOENT` for an unknown vCPU, `ENOSPC`, `ENOMEM`.
    pub fn bind_ipi(&mut self, vcpu: u32) -> Result<Port, Errno> {
        let vcpu = self.vcpu_id(vcpu)?;
        let port = self.find_free()?;
        self.table.open(port, State::Ipi, vcpu);
        Ok(port)
    }

    /// `EVTCHNOP_bind_vcpu`: changes which vCPU a port notifies from its next event on.
    ///
    /// # Errors
    /// `ENOENT` for an unknown vCPU; `EINVAL` for a port that is closed, an IPI, or bound to a per-vCPU VIRQ.
    pub fn bind_vcpu(&mut self, port: Port, vcpu: u32) -> Result<(), Errno> {
        let vcpu = self.vcpu_id(vcpu)?;
        let channel = self.table.get_mut(port).ok_or(Errno::Inval)?;
        if channel.is_xen {
            return Err(Errno::Inval);
        }
        match channel.state {
            State::Unbound { .. } | State::Interdomain { .. } => {}
            State::Virq(virq) if virq.is_global() => {}
            State::Virq(_) | State::Ipi | State::Free | State::Reserved => {
                return Err(Errno::Inval);
            }
        }
        channel.notify_vcpu = vcpu;
        Ok(())
    }

    /// `EVTCHNOP_close`. A port connected to another domain is not closed but reported, see [`Self::close_pair`].
    ///
    /// # Errors
    /// `EINVAL` for a port that is not open, or the hypervisor's own.
    pub fn close(&mut self, port: Port) -> Result<Closed, Errno> {
        if self.table.get(port).is_some_and(|channel| channel.is_xen) {
            return Err(Errno::Inval);
        }
        match self.state(port)? {
            State::Free | State::Reserved => return Err(Errno::Inval),
            State::Interdomain { domain, .. } if domain != self.domain => {
                return Ok(Closed::NeedsPeer(domain));
            }
            State::Interdomain { port: peer, domain } => {
                if let Some(channel) = self.table.get_mut(peer) {
                    channel.state = State::Unbound { domain };
                }
            }
            State::Virq(virq) => {
                for vcpu in &mut self.vcpus {
                    if let Some(slot) = vcpu.virqs.get_mut(virq.index())
                        && *slot == port
                    {
                        *slot = Port::new(0);
                    }
                }
            }
            State::Unbound { .. } | State::Ipi => {}
        }
        self.release(port);
        Ok(Closed::Done)
    }

    /// Closes `local`'s port whose other end is in `remote`; both are locked. The other end becomes unbound, waiting for
    /// `local`'s domain. [`Closed::NeedsPeer`] again when the port was bound to a third domain meanwhile.
    ///
    /// # Errors
    /// `EINVAL` for a port that is not open (any more).
    pub fn close_pair(local: &mut Self, remote: &mut Self, port: Port) -> Result<Closed, Errno> {
        let State::Interdomain { domain, port: peer } = local.state(port)? else {
            return local.close(port);
        };
        if domain != remote.domain || domain == local.domain {
            return local.close(port);
        }
        if let Some(channel) = remote.table.get_mut(peer) {
            channel.state = State::Unbound {
                domain: local.domain,
            };
        }
        local.release(port);
        Ok(Closed::Done)
    }

    /// Frees an open port and takes back its pending state, which a later user must not see.
    fn release(&mut self, port: Port) {
        self.clear_pending(port);
        self.table.release(port);
    }

    /// `EVTCHNOP_status`.
    ///
    /// # Errors
    /// `EINVAL` for a port beyond the table.
    pub fn status(&self, port: Port) -> Result<Status, Errno> {
        let channel = self.table.get(port).ok_or(Errno::Inval)?;
        Ok(Status {
            vcpu: channel.notify_vcpu,
            state: match channel.state {
                State::Free | State::Reserved => PortState::Closed,
                State::Unbound { domain } => PortState::Unbound { domain },
                State::Interdomain { domain, port } => PortState::Interdomain { domain, port },
                State::Virq(virq) => PortState::Virq(virq),
                State::Ipi => PortState::Ipi,
            },
        })
    }

    /// `EVTCHNOP_reset`: closes every port and returns to the 2-level ABI, looking at no more than `budget` ports in one
    /// call (at least one). FIFO pages are given back when it is done.
    ///
    /// # Errors
    /// `EBUSY` when a reset is under way and this is no continuation, or the reverse; `EAGAIN` when ports were opened
    /// behind its back (XSA-344: it must not go on for ever).
    pub fn reset(&mut self, call: ResetCall, budget: u32) -> Result<Reset, Errno> {
        // While the domain dies, its destruction and what a toolstack began before help each other: nothing opens any more.
        if !self.is_dying && (call == ResetCall::Begin) != (self.reset_next == 0) {
            return Err(Errno::Busy);
        }
        let first = self.reset_next.max(1);
        let end = first.saturating_add(budget.max(1)).min(self.table.len());
        for raw in first..end {
            if let Ok(Closed::NeedsPeer(domain)) = self.close(Port::new(raw)) {
                self.reset_next = raw;
                return Ok(Reset::NeedsPeer(domain, Port::new(raw)));
            }
        }
        if end < self.table.len() {
            self.reset_next = end;
            return Ok(Reset::More);
        }
        self.reset_next = 0;
        if self.table.open_count() != self.xen_count {
            return Err(Errno::Again);
        }
        self.leave_fifo();
        Ok(Reset::Done)
    }

    /// Tells whether a `vcpu_info` may begin at this offset of a page (bytes): whole in it and naturally aligned.
    pub fn is_vcpu_info_offset(offset: u32) -> bool {
        offset.is_multiple_of(8) && offset <= crate::addr::PAGE_SIZE as u32 - VCPU_INFO_BYTES
    }

    /// `VCPUOP_register_vcpu_info`: moves a vCPU's `vcpu_info` to `offset` (bytes) of `page`.
    ///
    /// The old contents are copied, then everything is marked pending so that no event is lost; the guest copes with a
    /// spurious one. The caller has checked that the vCPU is the caller's own or down (`-EINVAL`).
    ///
    /// # Errors
    /// See [`RegisterError`]; the page is given back by dropping it.
    pub fn register_vcpu_info(
        &mut self,
        vcpu: VcpuId,
        page: P,
        offset: u32,
    ) -> Result<Notify, RegisterError> {
        let this = self
            .vcpus
            .get_mut(vcpu.index())
            .ok_or(RegisterError::NoVcpu)?;
        if !Self::is_vcpu_info_offset(offset) {
            return Err(RegisterError::Misplaced);
        }
        if matches!(this.info, InfoPlace::Registered(_)) {
            return Err(RegisterError::Registered);
        }
        let word = offset as usize / 4;
        let new = VcpuInfo::new(page.words(), word);
        new.fill(this.info(&self.shared_info));
        new.select_all();
        let kick = new.assert_upcall();
        this.info = InfoPlace::Registered(Placed { page, word });
        // Asserted already in the copy: the line is up and stays up.
        Ok(if kick {
            Notify::Kick(vcpu)
        } else {
            Notify::None
        })
    }

    /// Returns a vCPU's `vcpu_info` to where it was at first (vCPU reset, soft reset), with the page it was in.
    pub fn unregister_vcpu_info(&mut self, vcpu: VcpuId) -> Option<P> {
        let this = self.vcpus.get_mut(vcpu.index())?;
        let initial = if vcpu.raw() == 0 {
            InfoPlace::SharedInfo
        } else {
            InfoPlace::Nowhere
        };
        match core::mem::replace(&mut this.info, initial) {
            InfoPlace::Registered(placed) => Some(placed.page),
            InfoPlace::Nowhere | InfoPlace::SharedInfo => None,
        }
    }

    /// Writes the open ports as debug key `e` shows them: `port [pending/masked/link]: s=state n=vcpu …`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(
            out,
            "Event channel information for domain {}:",
            self.domain.raw()
        )?;
        writeln!(out, "    port [p/m/s]")?;
        for port in (1..self.table.len()).map(Port::new) {
            let Some(channel) = self.table.get(port).filter(|c| c.state.is_usable()) else {
                continue;
            };
            let (pending, masked) = (self.is_pending(port), self.is_masked(port));
            write!(
                out,
                "    {:4} [{}/{}/",
                port.raw(),
                u8::from(pending),
                u8::from(masked)
            )?;
            if self.abi == Abi::Fifo {
                fifo::write_link(&self.event_array, port, out)?;
            }
            // Xen's numbers of the states.
            let state = match channel.state {
                State::Free => 0,
                State::Reserved => 1,
                State::Unbound { .. } => 2,
                State::Interdomain { .. } => 3,
                State::Virq(_) => 5,
                State::Ipi => 6,
            };
            write!(
                out,
                "]: s={state} n={} x={}",
                channel.notify_vcpu.raw(),
                u8::from(channel.is_xen)
            )?;
            match channel.state {
                State::Unbound { domain } => write!(out, " d={}", domain.raw())?,
                State::Interdomain { domain, port } => {
                    write!(out, " d={} p={}", domain.raw(), port.raw())?;
                }
                State::Virq(virq) => write!(out, " v={}", virq.raw())?,
                State::Free | State::Reserved | State::Ipi => {}
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
