//! Pausing, limits and names of a domain.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use xen_abi::control as abi;

use super::{Done, Reply, part};
use crate::addr::PAGE_SIZE;
use crate::domain::{Domain, Stage};
use crate::emulate::Execution;
use crate::errno::Errno;
use crate::evtchn::Virq;
use crate::hal::Hal;
use crate::hypercall::{Cx, publish_wallclock};
use crate::machine::GuestMemory;

pub(super) fn pause<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, target: &Arc<Domain<H>>) -> Done {
    if target.facts.id == cx.domain.facts.id {
        return Err(Errno::Inval);
    }
    target.pause_by_toolstack()?;
    target.wait_descheduled();
    Ok(Reply::None)
}

pub(super) fn unpause<H: Hal>(target: &Domain<H>) -> Done {
    target.unpause_by_toolstack()?;
    Ok(Reply::None)
}

pub(super) fn max_mem<H: Hal>(op: &abi::Domctl, target: &Domain<H>) -> Done {
    let wanted: abi::DomctlMaxMem = part(op)?;
    // Xen takes whole pages, and less than the domain has.
    let pages = wanted.max_memkb / (PAGE_SIZE as u64 / 1024);
    target
        .account
        .set_limit(u32::try_from(pages).unwrap_or(u32::MAX));
    Ok(Reply::None)
}

/// A debugger begins or ends its work on a domain: said in its flags, and nothing else on Arm.
pub(super) fn set_debugging<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlSetdebugging = part(op)?;
    if target.facts.id == cx.domain.facts.id {
        return Err(Errno::Inval);
    }
    target
        .is_debugged
        .store(wanted.enable != 0, Ordering::Relaxed);
    Ok(Reply::None)
}

/// Has a global VIRQ go to a domain instead of dom0 (to one that runs xenstore, for instance).
pub(super) fn set_virq_handler<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlSetVirqHandler = part(op)?;
    let virq = Virq::new(wanted.virq).filter(|virq| virq.is_global());
    let handlers = &cx.hv.virq_handlers;
    handlers.set(virq.ok_or(Errno::Inval)?, target.facts.id);
    if target.stage() != Stage::Alive {
        handlers.forget(target.facts.id);
        return Err(Errno::Inval);
    }
    Ok(Reply::None)
}

pub(super) fn set_handle<H: Hal>(op: &abi::Domctl, target: &Domain<H>) -> Done {
    let wanted: abi::DomctlSetdomainhandle = part(op)?;
    *target.handle.lock() = wanted.handle;
    Ok(Reply::None)
}

/// Sets a domain's wall clock apart from the machine's.
pub(super) fn set_time_offset<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlSettimeoffset = part(op)?;
    let wallclock = cx.hv.wallclock.lock();
    // Added modulo 2^64.
    let offset = wanted.time_offset_seconds as u64;
    target.time_offset.store(offset, Ordering::Relaxed);
    publish_wallclock(target, *wallclock);
    Ok(Reply::None)
}

/// The width of the domain's registers.
pub(super) fn address_size<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let wanted: abi::DomctlAddressSize = part(op)?;
    let wanted = match wanted.size {
        32 => Execution::AArch32,
        64 => Execution::AArch64,
        _ => return Err(Errno::Inval),
    };
    if Arc::ptr_eq(target, cx.domain) && wanted != target.execution() {
        return Err(Errno::Inval);
    }
    target.set_execution(cx.hv, wanted)?;
    Ok(Reply::None)
}

pub(super) fn destroy<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, target: &Arc<Domain<H>>) -> Done {
    if Arc::ptr_eq(target, cx.domain) {
        return Err(Errno::Inval);
    }
    cx.hv.destroy_domain(target, &|| cx.must_yield())?;
    Ok(Reply::None)
}

/// A domain that was suspended, or whose suspension failed, goes on.
pub(super) fn resume<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, target: &Arc<Domain<H>>) -> Done {
    if Arc::ptr_eq(target, cx.domain) {
        return Err(Errno::Inval);
    }
    target.resume();
    Ok(Reply::None)
}
