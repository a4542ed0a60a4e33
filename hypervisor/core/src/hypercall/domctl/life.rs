//! Pausing, limits and names of a domain.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use xen_abi::control as abi;

use super::{Done, Reply, part};
use crate::addr::PAGE_SIZE;
use crate::domain::Domain;
use crate::errno::Errno;
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

/// Guests of 32 bits are all there are on this architecture.
pub(super) fn address_size(op: &abi::Domctl) -> Done {
    let wanted: abi::DomctlAddressSize = part(op)?;
    if wanted.size == 32 {
        Ok(Reply::None)
    } else {
        Err(Errno::Inval)
    }
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
