//! platform_op (7): dom0 sets the time of day (xen-arm.md 3.10).

use core::sync::atomic::{AtomicU32, Ordering, fence};

use xen_abi::platform::{XENPF_INTERFACE_VERSION, XENPF_SETTIME64, XenpfSettime64};
use xen_abi::shared_info::{
    SHARED_INFO_WC_NSEC, SHARED_INFO_WC_SEC, SHARED_INFO_WC_SEC_HI, SHARED_INFO_WC_VERSION,
};

use super::{CallResult, Cx, OK};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::{GuestMemory, SharedPage};

/// Nanoseconds in a second.
const NS: u64 = 1_000_000_000;

pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, pointer: u64) -> CallResult {
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    let header: [u32; 2] = cx.read(pointer)?;
    let [command, version] = header;
    if version != XENPF_INTERFACE_VERSION {
        return Err(Errno::Access);
    }
    if command != XENPF_SETTIME64 {
        return Err(Errno::NoSys);
    }
    let op: XenpfSettime64 = cx.read(pointer.checked_add(8).ok_or(Errno::Fault)?)?;
    if op.mbz != 0 {
        return Err(Errno::Inval);
    }
    // The time of day at system time 0.
    let now = u128::from(op.secs) * u128::from(NS) + u128::from(op.nsecs);
    let start = now
        .checked_sub(u128::from(op.system_time))
        .ok_or(Errno::Inval)?;
    let seconds = u64::try_from(start / u128::from(NS)).map_err(|_| Errno::Inval)?;
    let nanoseconds = (start % u128::from(NS)) as u32;
    *cx.hv.wallclock.lock() = (seconds, nanoseconds);
    for domain in cx.hv.domains.all() {
        publish(&domain, seconds, nanoseconds);
    }
    OK
}

/// Writes the time of day at system time 0 where the domain reads it: an odd version marks the change.
pub fn publish<H: Hal>(domain: &Domain<H>, seconds: u64, nanoseconds: u32) {
    let offset = domain.time_offset.load(Ordering::Relaxed);
    let seconds = seconds.wrapping_add(offset);
    let words = domain.shared_info.words();
    let word = |offset: usize| -> Option<&AtomicU32> { words.get(offset / 4) };
    let (Some(version), Some(low), Some(ns), Some(high)) = (
        word(SHARED_INFO_WC_VERSION),
        word(SHARED_INFO_WC_SEC),
        word(SHARED_INFO_WC_NSEC),
        word(SHARED_INFO_WC_SEC_HI),
    ) else {
        return;
    };
    let odd = version.load(Ordering::Relaxed) | 1;
    version.store(odd, Ordering::Relaxed);
    fence(Ordering::Release);
    low.store(seconds as u32, Ordering::Relaxed);
    ns.store(nanoseconds, Ordering::Relaxed);
    high.store((seconds >> 32) as u32, Ordering::Relaxed);
    version.store(odd.wrapping_add(1), Ordering::Release);
}
