//! Devices for a domain: of the machine (permission first, then memory and interrupts: `iomem=` and `irqs=` of xl), and the
//! virtual UART (`vuart=`).
//!
//! The caller can give what its own domain may have ([`crate::domain::DeviceAccess`]).

use alloc::sync::Arc;

use xen_abi::control as abi;

use super::{Done, Reply, part, set_part};
use crate::addr::{DomId, Gfn, IntId, Mfn};
use crate::domain::{Domain, Stage};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::machine::{GuestMemory, Trigger};
use crate::stage2::PageType;
use crate::vuart::{IRQ, Vuart};

/// Frames that one memory_mapping takes: its time is bounded. libxl halves its request when told.
const MAX_MAPPING: u64 = 64;

/// Returns machine frames as a caller names them.
///
/// # Errors
/// `EINVAL` when there are none, or they are beyond the physical address space.
fn machine_frames(first: u64, count: u64) -> Result<(Mfn, u32), Errno> {
    let mfn = Mfn::try_from(first).map_err(|_| Errno::Inval)?;
    let count = u32::try_from(count).map_err(|_| Errno::Inval)?;
    if count == 0 || mfn.checked_add(count).is_none() {
        return Err(Errno::Inval);
    }
    Ok((mfn, count))
}

pub(super) fn permit_memory<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlIomemPermission = part(op)?;
    let (first, count) = machine_frames(wanted.first_mfn, wanted.nr_mfns)?;
    if !cx.domain.devices.lock().permits_memory(first, count) {
        return Err(Errno::Perm);
    }
    let mut devices = target.devices.lock();
    if wanted.allow_access != 0 {
        devices.permit_memory(first, count)?;
    } else {
        devices.deny_memory(first, count)?;
    }
    Ok(Reply::None)
}

pub(super) fn permit_interrupt<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlIrqPermission = part(op)?;
    let (irq, trigger) = permitted(cx, wanted.pirq)?;
    let mut devices = target.devices.lock();
    if wanted.allow_access != 0 {
        devices.permit_interrupt(irq, trigger)?;
    } else {
        devices.deny_interrupt(irq);
    }
    Ok(Reply::None)
}

/// Returns the interrupt with this number if the caller may have it, and how it is signalled.
///
/// # Errors
/// `EPERM` when not; `EINVAL` when there can be none with that number.
fn permitted<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    number: u32,
) -> Result<(IntId, Trigger), Errno> {
    let number = u16::try_from(number).ok().filter(|&number| number < 1020);
    let irq = IntId::new(number.ok_or(Errno::Inval)?);
    let trigger = cx.domain.devices.lock().interrupt(irq);
    trigger.map(|trigger| (irq, trigger)).ok_or(Errno::Perm)
}

/// Maps device memory that both may have, or unmaps it.
pub(super) fn map_memory<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlMemoryMapping = part(op)?;
    let (first, count) = machine_frames(wanted.first_mfn, wanted.nr_mfns)?;
    let gfn = Gfn::try_from(wanted.first_gfn).map_err(|_| Errno::Inval)?;
    if gfn.checked_add(count).is_none() {
        return Err(Errno::Inval);
    }
    if wanted.nr_mfns > MAX_MAPPING {
        return Err(Errno::TooBig);
    }
    let may = |domain: &Domain<H>| domain.devices.lock().permits_memory(first, count);
    if !may(cx.domain) || !may(target) {
        return Err(Errno::Perm);
    }
    let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
    let mut p2m = target.p2m.lock();
    if target.stage() != Stage::Alive {
        return Err(Errno::Inval);
    }
    match wanted.add_mapping {
        abi::DPCI_ADD_MAPPING => {
            p2m.map_mmio(&mut memory, gfn, first, count, PageType::MmioDirectDev)?;
        }
        _ => p2m.unmap_mmio(&mut memory, gfn, count)?,
    }
    Ok(Reply::None)
}

/// Takes the interrupt out of what bind_pt_irq and its opposite say: a shared one, under its own number.
fn shared_interrupt(op: &abi::Domctl) -> Result<u32, Errno> {
    let wanted: abi::DomctlBindPtIrq = part(op)?;
    if wanted.irq_type != abi::PT_IRQ_TYPE_SPI {
        return Err(Errno::OpNotSupp);
    }
    if wanted.machine_irq != u32::from(wanted.spi) {
        return Err(Errno::Inval);
    }
    Ok(wanted.machine_irq)
}

pub(super) fn bind_interrupt<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let (irq, trigger) = permitted(cx, shared_interrupt(op)?)?;
    if target.vuart.get().is_some_and(|vuart| vuart.irq() == irq) {
        return Err(Errno::Busy);
    }
    cx.hv.give_interrupt(target, irq, trigger)?;
    // The other way round, make_uart finds the link.
    if target.vuart.get().is_some_and(|vuart| vuart.irq() == irq) {
        cx.hv.take_interrupt(target, irq)?;
        return Err(Errno::Busy);
    }
    if target.stage() != Stage::Alive {
        // Its end may have passed the point at which its interrupts go. While its vCPUs still run it has not.
        if target.is_descheduled() {
            cx.hv.release_interrupts(target);
        }
        return Err(Errno::Inval);
    }
    Ok(Reply::None)
}

pub(super) fn unbind_interrupt<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let (irq, _) = permitted(cx, shared_interrupt(op)?)?;
    cx.hv.take_interrupt(target, irq)?;
    Ok(Reply::None)
}

/// Gives a domain a UART whose far end is a console daemon.
pub(super) fn make_uart<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let mut wanted: abi::DomctlVuartOp = part(op)?;
    if wanted.pad != [0; 2] {
        return Err(Errno::Inval);
    }
    if wanted.cmd != abi::XEN_DOMCTL_VUART_OP_INIT {
        return Err(Errno::Inval);
    }
    if wanted.kind != abi::XEN_DOMCTL_VUART_TYPE_VPL011 {
        return Err(Errno::OpNotSupp);
    }
    let gfn = Gfn::try_from(wanted.gfn).map_err(|_| Errno::Inval)?;
    let page = cx.map_page_of(target, gfn)?;
    let daemon = DomId::new(wanted.console_domid);
    // Held together, so that nothing is opened that is not kept: a port can be bound as soon as its lock is free.
    let mut events = target.events.lock();
    let vgic = target.vgic.lock();
    // Its interrupt must be there, and nobody else's; linking takes this lock, too.
    if target.vuart.is_completed() || vgic.is_linked(IRQ) != Some(false) {
        return Err(Errno::Inval);
    }
    let port = events.alloc_unbound_xen(daemon)?;
    let vuart = target.vuart.call_once(|| Vuart::with_daemon(page, port));
    drop(vgic);
    drop(events);
    if target.stage() != Stage::Alive {
        // Its end may have passed the point at which this page goes.
        vuart.detach();
        return Err(Errno::Inval);
    }
    wanted.evtchn = port.raw();
    set_part(op, &wanted);
    Ok(Reply::Whole)
}
