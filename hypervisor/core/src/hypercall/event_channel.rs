//! event_channel_op (32): copying in and out, other domains, and telling vCPUs (xen-arm.md 3.4).

use alloc::sync::Arc;

use xen_abi::event_channel::{self as abi};

use super::{CallResult, Cx, HypercallRegs, OK};
use crate::addr::{DomId, Gfn};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::evtchn::{Closed, EventChannels, Notify, Port, PortState, Reset, ResetCall, Sent};
use crate::hal::Hal;
use crate::machine::GuestMemory;
use crate::p2m::Access;

/// Ports closed by a reset before it looks at the interrupts.
const RESET_STEP: u32 = 64;

pub(super) fn call<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    pointer: u64,
    regs: &mut R,
) -> CallResult {
    let domain = cx.domain;
    match command {
        abi::EVTCHNOP_SEND => {
            let op: abi::EvtchnSend = cx.read(pointer)?;
            let sent = domain.events.lock().send(Port::new(op.port))?;
            match sent {
                Sent::Local(notify) => domain.deliver(notify),
                Sent::Remote { domain: to, port } => send_remote(cx, to, port, Port::new(op.port)),
            }
        }
        abi::EVTCHNOP_UNMASK => {
            let op: abi::EvtchnUnmask = cx.read(pointer)?;
            let notify = domain.events.lock().unmask(Port::new(op.port))?;
            domain.deliver(notify);
        }
        abi::EVTCHNOP_ALLOC_UNBOUND => {
            let mut op: abi::EvtchnAllocUnbound = cx.read(pointer)?;
            let owner = cx.domain_by_id(op.dom)?;
            let remote = if op.remote_dom == xen_abi::hypercall::DOMID_SELF {
                domain.facts.id
            } else {
                DomId::new(op.remote_dom)
            };
            op.port = owner.events.lock().alloc_unbound(remote)?.raw();
            cx.write(pointer, &op)?;
        }
        abi::EVTCHNOP_BIND_INTERDOMAIN => {
            let mut op: abi::EvtchnBindInterdomain = cx.read(pointer)?;
            op.local_port = bind_interdomain(cx, op.remote_dom, Port::new(op.remote_port))?.raw();
            cx.write(pointer, &op)?;
        }
        abi::EVTCHNOP_BIND_VIRQ => {
            let mut op: abi::EvtchnBindVirq = cx.read(pointer)?;
            op.port = domain.events.lock().bind_virq(op.virq, op.vcpu)?.raw();
            cx.write(pointer, &op)?;
        }
        abi::EVTCHNOP_BIND_IPI => {
            let mut op: abi::EvtchnBindIpi = cx.read(pointer)?;
            op.port = domain.events.lock().bind_ipi(op.vcpu)?.raw();
            cx.write(pointer, &op)?;
        }
        abi::EVTCHNOP_BIND_VCPU => {
            let op: abi::EvtchnBindVcpu = cx.read(pointer)?;
            domain
                .events
                .lock()
                .bind_vcpu(Port::new(op.port), op.vcpu)?;
        }
        abi::EVTCHNOP_CLOSE => {
            let op: abi::EvtchnClose = cx.read(pointer)?;
            close(cx, Port::new(op.port))?;
        }
        abi::EVTCHNOP_STATUS => {
            let mut op: abi::EvtchnStatus = cx.read(pointer)?;
            let status = cx
                .domain_by_id(op.dom)?
                .events
                .lock()
                .status(Port::new(op.port))?;
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
            cx.write(pointer, &op)?;
        }
        abi::EVTCHNOP_RESET | abi::EVTCHNOP_RESET_CONT => {
            let op: abi::EvtchnReset = cx.read(pointer)?;
            let target = cx.domain_by_id(op.dom)?;
            let begin = if command == abi::EVTCHNOP_RESET {
                ResetCall::Begin
            } else {
                ResetCall::Continue
            };
            return reset(cx, &target, begin, regs);
        }
        abi::EVTCHNOP_INIT_CONTROL => {
            let mut op: abi::EvtchnInitControl = cx.read(pointer)?;
            domain
                .events
                .lock()
                .check_init_control(op.vcpu, op.offset)?;
            let page = guest_page(cx, op.control_gfn)?;
            domain
                .events
                .lock()
                .init_control(op.vcpu, page, op.offset)?;
            op.link_bits = EventChannels::<H::Page>::LINK_BITS;
            cx.write(pointer, &op)?;
        }
        abi::EVTCHNOP_EXPAND_ARRAY => {
            let op: abi::EvtchnExpandArray = cx.read(pointer)?;
            domain.events.lock().check_expand_array()?;
            let page = guest_page(cx, op.array_gfn)?;
            let kicked = domain.events.lock().expand_array(page)?;
            for vcpu in kicked {
                domain.raise(vcpu, domain.facts.upcall_ppi);
            }
            domain.deliver(Notify::Pollers(None));
        }
        abi::EVTCHNOP_SET_PRIORITY => {
            let op: abi::EvtchnSetPriority = cx.read(pointer)?;
            domain
                .events
                .lock()
                .set_priority(Port::new(op.port), op.priority)?;
        }
        _ => return Err(Errno::NoSys),
    }
    OK
}

/// Maps a page of the caller's RAM for as long as it is shared; its reference goes with the handle.
pub(super) fn guest_page<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    gfn: u64,
) -> Result<H::Page, Errno> {
    let gfn = Gfn::try_from(gfn).map_err(|_| Errno::Inval)?;
    let memory = cx.hv.hal.p2m_memory(cx.domain.vttbr);
    let mfn = cx
        .domain
        .p2m
        .lock()
        .get_page(&memory, gfn, Access::ReadWrite)?;
    cx.hv.hal.map_shared(mfn)
}

fn send_remote<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, to: DomId, port: Port, from: Port) {
    // A domain that went away meanwhile needs no event.
    if let Some(target) = cx.hv.domains.get(to) {
        let notify = target
            .events
            .lock()
            .set_pending_from(port, cx.domain.facts.id, from);
        target.deliver(notify);
    }
}

/// Runs `action` on the event channels of two different domains, locked by ascending number.
fn with_both<H: Hal, R>(
    local: &Domain<H>,
    remote: &Domain<H>,
    action: impl FnOnce(&mut EventChannels<H::Page>, &mut EventChannels<H::Page>) -> R,
) -> R {
    if local.facts.id < remote.facts.id {
        let mut ours = local.events.lock();
        let mut theirs = remote.events.lock();
        action(&mut ours, &mut theirs)
    } else {
        let mut theirs = remote.events.lock();
        let mut ours = local.events.lock();
        action(&mut ours, &mut theirs)
    }
}

fn bind_interdomain<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    remote: u16,
    port: Port,
) -> Result<Port, Errno> {
    let domain = cx.domain;
    let (local, notify) = if cx.is_self(remote) {
        domain.events.lock().bind_interdomain_self(port)?
    } else {
        let other: Arc<Domain<H>> = cx.hv.domains.get(DomId::new(remote)).ok_or(Errno::Srch)?;
        // SILO: two domains talk only if one of them is dom0.
        if !domain.facts.is_privileged && !other.facts.is_privileged {
            return Err(Errno::Perm);
        }
        with_both(domain, &other, |ours, theirs| {
            EventChannels::bind_interdomain(ours, theirs, port)
        })?
    };
    domain.deliver(notify);
    Ok(local)
}

fn close<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, port: Port) -> Result<(), Errno> {
    let domain = cx.domain;
    let mut closed = domain.events.lock().close(port)?;
    // The peer can change only by closing its end, so this ends at once in practice.
    for _ in 0..4 {
        let Closed::NeedsPeer(peer) = closed else {
            return Ok(());
        };
        closed = match cx.hv.domains.get(peer) {
            Some(other) => with_both(domain, &other, |ours, theirs| {
                EventChannels::close_pair(ours, theirs, port)
            })?,
            None => domain.events.lock().close(port)?,
        };
    }
    Err(Errno::Again)
}

fn reset<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &Cx<'_, H, M>,
    target: &Domain<H>,
    mut begin: ResetCall,
    regs: &mut R,
) -> CallResult {
    loop {
        let progress = target.events.lock().reset(begin, RESET_STEP)?;
        begin = ResetCall::Continue;
        match progress {
            Reset::Done => return OK,
            Reset::More => {
                if cx.should_yield() {
                    regs.set_argument(0, u64::from(abi::EVTCHNOP_RESET_CONT));
                    return Err(Errno::Restart);
                }
            }
            Reset::NeedsPeer(peer, port) => {
                if let Some(other) = cx.hv.domains.get(peer) {
                    let _ = with_both(target, &other, |ours, theirs| {
                        EventChannels::close_pair(ours, theirs, port)
                    })?;
                }
            }
        }
    }
}
