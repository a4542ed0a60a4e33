//! `event_channel_op` (public/event_channel.h; xen-arm.md 3.4).

use core::mem::offset_of;

use xen_abi::event_channel as abi;

use super::{Args, CallResult, Cx, may_communicate};
use crate::addr::{DomId, Gfn, GuestVirt};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::evtchn::{Closed, EventChannels, Notify, Port, PortState, Reset, ResetCall, Sent};
use crate::hal::Hal;
use crate::hypervisor::{Hypervisor, Policy};
use crate::machine::GuestMemory;
use crate::p2m::Access;

/// Ports that a reset closes between two looks for interrupts.
const RESET_BUDGET: u32 = 64;
/// How often closing is tried anew when the other end changes hands meanwhile.
const CLOSE_ATTEMPTS: u32 = 8;

impl<H: Hal, M: GuestMemory> Cx<'_, H, M> {
    /// Maps a page of the caller's own RAM, which it must be able to write, into the hypervisor. The handle holds a
    /// reference.
    ///
    /// # Errors
    /// `EINVAL` when it is anything else, `ENOMEM`.
    pub(super) fn map_own_page(&self, gfn: Gfn) -> Result<H::Page, Errno> {
        self.map_page_of(self.domain, gfn)
    }

    /// As [`Self::map_own_page`], of a domain that the caller controls.
    pub(super) fn map_page_of(&self, domain: &Domain<H>, gfn: Gfn) -> Result<H::Page, Errno> {
        let memory = self.hv.hal.p2m_memory(domain.vttbr);
        let mfn = domain
            .p2m
            .lock()
            .get_page(&memory, gfn, Access::ReadWrite)?;
        let mapped = self.hv.hal.map_shared(mfn);
        if mapped.is_err() {
            self.hv.put_frame(mfn);
        }
        mapped
    }
}

/// EVTCHNOP_send.
#[inline]
pub(super) fn send<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::EvtchnSend = cx.read_inline(at)?;
    let port = Port::new(op.port);
    let sent = cx.domain.events.lock().send(port)?;
    match sent {
        Sent::Local(notify) => cx.domain.deliver(notify),
        Sent::Remote { domain, port: peer } => {
            send_remote(cx.hv, cx.domain.facts.id, (domain, peer), port);
        }
    }
    Ok(0)
}

#[inline]
fn send_remote<H: Hal>(hv: &Hypervisor<H>, from: DomId, (domain, peer): (DomId, Port), port: Port) {
    if let Some(remote) = hv.domains.get(domain) {
        let notify = remote.events.lock().set_pending_from(peer, from, port);
        remote.deliver(notify);
    }
}

/// Notifies the other end of a port of `domain`'s that is the hypervisor's own; with no other end nothing happens. No lock
/// is held.
pub(crate) fn notify_from_xen<H: Hal>(hv: &Hypervisor<H>, domain: &Domain<H>, port: Port) {
    let sent = domain.events.lock().send_from_xen(port);
    match sent {
        Ok(Sent::Local(notify)) => domain.deliver(notify),
        Ok(Sent::Remote {
            domain: to,
            port: peer,
        }) => {
            send_remote(hv, domain.facts.id, (to, peer), port);
        }
        // Closed: the domain dies.
        Err(_) => {}
    }
}

/// Runs `action` with the event channels of two different domains locked, lower number first.
fn with_pair<H: Hal, R>(
    local: &Domain<H>,
    remote: &Domain<H>,
    action: impl FnOnce(&mut EventChannels<H::Page>, &mut EventChannels<H::Page>) -> R,
) -> R {
    if local.facts.id < remote.facts.id {
        let mut a = local.events.lock();
        let mut b = remote.events.lock();
        action(&mut a, &mut b)
    } else {
        let mut b = remote.events.lock();
        let mut a = local.events.lock();
        action(&mut a, &mut b)
    }
}

/// Arguments: command, structure.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let at = GuestVirt::new(args[1]);
    match args[0] as u32 {
        abi::EVTCHNOP_SEND => send(cx, at),
        abi::EVTCHNOP_ALLOC_UNBOUND => alloc_unbound(cx, at),
        abi::EVTCHNOP_BIND_INTERDOMAIN => bind_interdomain(cx, at),
        abi::EVTCHNOP_BIND_VIRQ => {
            let op: abi::EvtchnBindVirq = cx.read(at)?;
            let port = cx.domain.events.lock().bind_virq(op.virq, op.vcpu)?;
            cx.write_field(at, offset_of!(abi::EvtchnBindVirq, port), &port.raw())?;
            Ok(0)
        }
        // There are no physical interrupts to bind on Arm.
        abi::EVTCHNOP_BIND_PIRQ => {
            let _: abi::EvtchnBindPirq = cx.read(at)?;
            Err(Errno::Inval)
        }
        abi::EVTCHNOP_BIND_IPI => {
            let op: abi::EvtchnBindIpi = cx.read(at)?;
            let port = cx.domain.events.lock().bind_ipi(op.vcpu)?;
            cx.write_field(at, offset_of!(abi::EvtchnBindIpi, port), &port.raw())?;
            Ok(0)
        }
        abi::EVTCHNOP_CLOSE => {
            let op: abi::EvtchnClose = cx.read(at)?;
            close(cx, Port::new(op.port))
        }
        abi::EVTCHNOP_STATUS => status(cx, at),
        abi::EVTCHNOP_BIND_VCPU => {
            let op: abi::EvtchnBindVcpu = cx.read(at)?;
            let mut events = cx.domain.events.lock();
            events.bind_vcpu(Port::new(op.port), op.vcpu)?;
            Ok(0)
        }
        abi::EVTCHNOP_UNMASK => {
            let op: abi::EvtchnUnmask = cx.read(at)?;
            let notify = cx.domain.events.lock().unmask(Port::new(op.port))?;
            cx.domain.deliver(notify);
            Ok(0)
        }
        abi::EVTCHNOP_RESET => reset(cx, args, ResetCall::Begin),
        abi::EVTCHNOP_RESET_CONT => reset(cx, args, ResetCall::Continue),
        abi::EVTCHNOP_INIT_CONTROL => init_control(cx, at),
        abi::EVTCHNOP_EXPAND_ARRAY => expand_array(cx, at),
        abi::EVTCHNOP_SET_PRIORITY => {
            let op: abi::EvtchnSetPriority = cx.read(at)?;
            let mut events = cx.domain.events.lock();
            events.set_priority(Port::new(op.port), op.priority)?;
            Ok(0)
        }
        _ => Err(Errno::NoSys),
    }
}

fn alloc_unbound<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::EvtchnAllocUnbound = cx.read(at)?;
    let owner = cx.find_controlled(op.dom)?;
    let remote = cx.resolve(op.remote_dom);
    if cx.hv.policy == Policy::Silo {
        // Not even the waiting port may exist, unless a toolstack opens it for others; and both must be there.
        let peer = cx.find_any(op.remote_dom)?;
        if !cx.domain.facts.is_privileged && !may_communicate(cx.hv, &owner, &peer) {
            return Err(Errno::Perm);
        }
    }
    let port = owner.events.lock().alloc_unbound(remote)?;
    cx.write_field(at, offset_of!(abi::EvtchnAllocUnbound, port), &port.raw())?;
    Ok(0)
}

fn bind_interdomain<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::EvtchnBindInterdomain = cx.read(at)?;
    let remote = cx.find_any(op.remote_dom)?;
    let remote_port = Port::new(op.remote_port);
    if !may_communicate(cx.hv, cx.domain, &remote) {
        return Err(Errno::Perm);
    }
    let (port, notify) = if remote.is_own() {
        cx.domain.events.lock().bind_interdomain_self(remote_port)?
    } else {
        with_pair(cx.domain, &remote, |local, remote| {
            EventChannels::bind_interdomain(local, remote, remote_port)
        })?
    };
    cx.domain.deliver(notify);
    cx.write_field(
        at,
        offset_of!(abi::EvtchnBindInterdomain, local_port),
        &port.raw(),
    )?;
    Ok(0)
}

fn close<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, port: Port) -> CallResult {
    let mut closed = cx.domain.events.lock().close(port)?;
    for _ in 0..CLOSE_ATTEMPTS {
        let Closed::NeedsPeer(peer) = closed else {
            return Ok(0);
        };
        closed = close_with(cx.hv, cx.domain, peer, port)?;
    }
    Err(Errno::Again)
}

/// Closes a port of `domain` whose other end is in `peer`.
pub(crate) fn close_with<H: Hal>(
    hv: &Hypervisor<H>,
    domain: &Domain<H>,
    peer: DomId,
    port: Port,
) -> Result<Closed, Errno> {
    let Some(remote) = hv.domains.get(peer) else {
        // It ended since, and with it the connection: the port waits for nobody now.
        return domain.events.lock().close(port);
    };
    with_pair(domain, &remote, |local, remote| {
        EventChannels::close_pair(local, remote, port)
    })
}

fn status<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let mut op: abi::EvtchnStatus = cx.read(at)?;
    let target = cx.find_controlled(op.dom)?;
    let status = target.events.lock().status(Port::new(op.port))?;
    op.status = status.state.number();
    op.vcpu = u32::from(status.vcpu.raw());
    match status.state {
        PortState::Unbound { domain } => op.u0 = u32::from(domain.raw()),
        PortState::Interdomain { domain, port } => {
            op.u0 = u32::from(domain.raw());
            op.u1 = port.raw();
        }
        PortState::Virq(virq) => op.u0 = u32::from(virq.raw()),
        PortState::Closed | PortState::Ipi => {}
    }
    cx.write(at, &op)?;
    Ok(0)
}

fn reset<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    args: &mut Args,
    mut call: ResetCall,
) -> CallResult {
    let op: abi::EvtchnReset = cx.read(GuestVirt::new(args[1]))?;
    let target = cx.find_controlled(op.dom)?;
    loop {
        let reset = target.events.lock().reset(call, RESET_BUDGET)?;
        match reset {
            Reset::Done => return Ok(0),
            Reset::NeedsPeer(peer, port) => {
                // Whatever becomes of it, the next round looks at this port again; if it cannot be closed because its
                // peer is gone, that round must not run into it for ever.
                match close_with(cx.hv, &target, peer, port) {
                    Ok(_) | Err(Errno::Inval) => {}
                    Err(error) => return Err(error),
                }
            }
            Reset::More => {}
        }
        call = ResetCall::Continue;
        if cx.must_yield() {
            args[0] = u64::from(abi::EVTCHNOP_RESET_CONT);
            return Err(Errno::Restart);
        }
    }
}

fn init_control<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::EvtchnInitControl = cx.read(at)?;
    cx.domain
        .events
        .lock()
        .check_init_control(op.vcpu, op.offset)?;
    let gfn = Gfn::try_from(op.control_gfn).map_err(|_| Errno::Inval)?;
    let page = cx.map_own_page(gfn)?;
    let result = cx
        .domain
        .events
        .lock()
        .init_control(op.vcpu, page, op.offset);
    result?;
    cx.write_field(
        at,
        offset_of!(abi::EvtchnInitControl, link_bits),
        &EventChannels::<H::Page>::LINK_BITS,
    )?;
    Ok(0)
}

fn expand_array<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::EvtchnExpandArray = cx.read(at)?;
    cx.domain.events.lock().check_expand_array()?;
    let gfn = Gfn::try_from(op.array_gfn).map_err(|_| Errno::Inval)?;
    let page = cx.map_own_page(gfn)?;
    let kicked = cx.domain.events.lock().expand_array(page)?;
    for vcpu in kicked {
        cx.domain.deliver(Notify::Kick(vcpu));
    }
    cx.domain.deliver(Notify::Pollers(None));
    Ok(0)
}
