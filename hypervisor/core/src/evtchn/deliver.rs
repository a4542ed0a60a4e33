//! Making ports pending and telling the guest: send, VIRQs, unmask, poll, the upcall.

use super::guest::{self, VcpuInfo};
use super::table::State;
use super::types::{Notify, Poll, Port, Sent, VcpuSet, Virq};
use super::{Abi, EventChannels, Polling, fifo};
use crate::addr::{DomId, VcpuId};
use crate::errno::Errno;
use crate::machine::SharedPage;

/// What became of a port that should be pending.
pub(super) struct Raised {
    /// It was not pending before: pollers want to know.
    pub(super) is_new: bool,
    /// The upcall of the notified vCPU became asserted.
    pub(super) kick: bool,
}

impl Raised {
    /// Pending before.
    pub(super) const OLD: Self = Self {
        is_new: false,
        kick: false,
    };
}

impl<P: SharedPage> EventChannels<P> {
    /// `EVTCHNOP_send`: notifies the other end of a port. To an unbound port nothing happens.
    ///
    /// # Errors
    /// `EINVAL` for a port that is closed, bound to a VIRQ, or the hypervisor's own.
    #[inline]
    pub fn send(&mut self, port: Port) -> Result<Sent, Errno> {
        let channel = self.table.get(port).ok_or(Errno::Inval)?;
        if channel.is_xen {
            return Err(Errno::Inval);
        }
        self.send_from(channel.state, port)
    }

    /// Notifies the other end of a port that is the hypervisor's own.
    ///
    /// # Errors
    /// `EINVAL` for any other port.
    pub fn send_from_xen(&mut self, port: Port) -> Result<Sent, Errno> {
        let channel = self.table.get(port).filter(|channel| channel.is_xen);
        let state = channel.ok_or(Errno::Inval)?.state;
        self.send_from(state, port)
    }

    #[inline]
    fn send_from(&mut self, state: State, port: Port) -> Result<Sent, Errno> {
        match state {
            State::Interdomain { domain, port: peer } if domain == self.domain => {
                Ok(Sent::Local(self.set_pending(peer)))
            }
            State::Interdomain { domain, port } => Ok(Sent::Remote { domain, port }),
            State::Ipi => Ok(Sent::Local(self.set_pending(port))),
            State::Unbound { .. } => Ok(Sent::Local(Notify::None)),
            State::Free | State::Reserved | State::Virq(_) => Err(Errno::Inval),
        }
    }

    /// Delivers what [`Self::send`] of another domain returned as [`Sent::Remote`].
    ///
    /// The sender's lock is not held any more, so the connection is checked again: an event for a port that was closed
    /// in between, and perhaps given to somebody else, is dropped.
    #[inline]
    pub fn set_pending_from(&mut self, port: Port, from: DomId, from_port: Port) -> Notify {
        match self.table.get(port) {
            Some(channel)
                if channel.state
                    == (State::Interdomain {
                        domain: from,
                        port: from_port,
                    }) =>
            {
                self.set_pending(port)
            }
            _ => Notify::None,
        }
    }

    /// Raises a virtual interrupt; a global one is looked up at vCPU 0 whatever `vcpu` is. Nothing happens when it is
    /// not bound.
    pub fn raise_virq(&mut self, vcpu: VcpuId, virq: Virq) -> Notify {
        let vcpu = if virq.is_global() {
            VcpuId::new(0)
        } else {
            vcpu
        };
        match self.virq_port(vcpu, virq) {
            Some(port) => self.set_pending(port),
            None => Notify::None,
        }
    }

    /// Makes an open port pending. A closed one is left alone.
    #[inline]
    pub fn set_pending(&mut self, port: Port) -> Notify {
        let Some(channel) = self.table.get_mut(port) else {
            return Notify::None;
        };
        if !channel.state.is_usable() {
            return Notify::None;
        }
        if channel.is_xen {
            return Notify::Xen;
        }
        let vcpu_id = channel.notify_vcpu;
        let raised = match self.abi {
            Abi::TwoLevel => {
                let info = self
                    .vcpus
                    .get(vcpu_id.index())
                    .and_then(|vcpu| vcpu.info(&self.shared_info));
                raise_two_level(self.shared_info.words(), info, port)
            }
            Abi::Fifo => fifo::raise(
                &self.event_array,
                &mut self.vcpus,
                &self.shared_info,
                channel,
                port,
            ),
        };
        if self.polling_count != 0 && raised.is_new {
            return self.wake_pollers(port, raised.kick.then_some(vcpu_id));
        }
        if raised.kick {
            Notify::Kick(vcpu_id)
        } else {
            Notify::None
        }
    }

    /// `EVTCHNOP_unmask`: clears the mask, and delivers what waited behind it.
    ///
    /// # Errors
    /// `EINVAL` for a port beyond the table.
    pub fn unmask(&mut self, port: Port) -> Result<Notify, Errno> {
        let channel = self.table.get(port).ok_or(Errno::Inval)?;
        if !channel.state.is_usable() {
            return Ok(Notify::None);
        }
        let vcpu_id = channel.notify_vcpu;
        if self.abi == Abi::Fifo {
            return Ok(if fifo::unmask(&self.event_array, port) {
                self.set_pending(port)
            } else {
                Notify::None
            });
        }
        let words = self.shared_info.words();
        let info = self
            .vcpus
            .get(vcpu_id.index())
            .and_then(|vcpu| vcpu.info(&self.shared_info));
        if guest::mask_bit(words, port).test_and_clear()
            && guest::pending_bit(words, port).test()
            && select(info, port)
        {
            return Ok(Notify::Kick(vcpu_id));
        }
        Ok(Notify::None)
    }

    /// Takes an event back. A FIFO port stays linked: the guest unlinks it and ignores it.
    pub(super) fn clear_pending(&mut self, port: Port) {
        match self.abi {
            Abi::TwoLevel => {
                guest::pending_bit(self.shared_info.words(), port).test_and_clear();
            }
            Abi::Fifo => fifo::clear_pending(&self.event_array, port),
        }
    }

    /// Returns true when an event of an open port waits, masked or not.
    pub fn is_pending(&self, port: Port) -> bool {
        let Some(channel) = self.table.get(port).filter(|c| c.state.is_usable()) else {
            return false;
        };
        match self.abi {
            Abi::TwoLevel => guest::pending_bit(self.shared_info.words(), port).test(),
            Abi::Fifo => channel.latched || fifo::is_pending(&self.event_array, port),
        }
    }

    /// Returns true when the guest masked a port.
    pub fn is_masked(&self, port: Port) -> bool {
        if self.table.get(port).is_none() {
            return true;
        }
        match self.abi {
            Abi::TwoLevel => guest::mask_bit(self.shared_info.words(), port).test(),
            Abi::Fifo => fifo::is_masked(&self.event_array, port),
        }
    }

    /// Returns the level of a vCPU's upcall interrupt: its `evtchn_upcall_pending`.
    #[inline]
    pub fn upcall_pending(&self, vcpu: VcpuId) -> bool {
        self.vcpus
            .get(vcpu.index())
            .and_then(|vcpu| vcpu.info(&self.shared_info))
            .is_some_and(VcpuInfo::is_upcall_pending)
    }

    /// `SCHEDOP_poll`: registers the vCPU as waiting for one of these ports, unless one is pending already.
    ///
    /// The caller copied the ports in (at most 128, else `-EINVAL`) and does not call this when the vCPU has an upcall
    /// to take. As in Xen, one port waits for that port; several, or none, for any event of the domain.
    ///
    /// # Errors
    /// `EINVAL` for a port beyond the table or an unknown vCPU.
    pub fn poll(&mut self, vcpu: VcpuId, ports: &[Port]) -> Result<Poll, Errno> {
        for &port in ports {
            if self.table.get(port).is_none() {
                return Err(Errno::Inval);
            }
            if self.is_pending(port) {
                return Ok(Poll::Ready);
            }
        }
        let polling = match ports {
            [port] => Polling::Port(*port),
            _ => Polling::Any,
        };
        let this = self.vcpus.get_mut(vcpu.index()).ok_or(Errno::Inval)?;
        if this.polling == Polling::No {
            self.polling_count += 1;
        }
        this.polling = polling;
        Ok(Poll::Wait)
    }

    /// Ends a vCPU's poll, however it came to run again. Harmless when it does not poll.
    pub fn end_poll(&mut self, vcpu: VcpuId) {
        if let Some(this) = self.vcpus.get_mut(vcpu.index())
            && this.polling != Polling::No
        {
            this.polling = Polling::No;
            self.polling_count = self.polling_count.saturating_sub(1);
        }
    }

    /// Takes the pollers that events unblocked ([`Notify::Pollers`]).
    pub fn take_woken(&mut self) -> VcpuSet {
        core::mem::take(&mut self.woken)
    }

    #[cold]
    fn wake_pollers(&mut self, port: Port, kick: Option<VcpuId>) -> Notify {
        let mut found = false;
        for (index, vcpu) in self.vcpus.iter_mut().enumerate() {
            let is_interested = match vcpu.polling {
                Polling::No => false,
                Polling::Port(wanted) => wanted == port,
                Polling::Any => true,
            };
            if is_interested {
                vcpu.polling = Polling::No;
                self.polling_count = self.polling_count.saturating_sub(1);
                // At most 128 vCPUs.
                self.woken.insert(VcpuId::new(index as u16));
                found = true;
            }
        }
        match (found, kick) {
            (true, kick) => Notify::Pollers(kick),
            (false, Some(vcpu)) => Notify::Kick(vcpu),
            (false, None) => Notify::None,
        }
    }
}

/// Sets the selector bit of a port and the upcall; returns true when the upcall became asserted.
#[inline]
fn select(info: Option<VcpuInfo<'_>>, port: Port) -> bool {
    // Without a vcpu_info nobody can be told; registering one selects everything.
    info.is_some_and(|info| !info.selector_bit(port).test_and_set() && info.assert_upcall())
}

#[inline]
fn raise_two_level(shared_info: &guest::Words, info: Option<VcpuInfo<'_>>, port: Port) -> Raised {
    if guest::pending_bit(shared_info, port).test_and_set() {
        return Raised::OLD;
    }
    // After the pending bit: the guest clears its mask bit first and then looks at the pending bit.
    let kick = !guest::mask_bit(shared_info, port).test() && select(info, port);
    Raised { is_new: true, kick }
}
