//! `platform_op` (public/platform.h; xen-arm.md 3.10): dom0 sets the wall clock.

use core::sync::atomic::Ordering;

use xen_abi::platform as abi;
use xen_abi::shared_info::{
    SHARED_INFO_WC_NSEC, SHARED_INFO_WC_SEC, SHARED_INFO_WC_SEC_HI, SHARED_INFO_WC_VERSION,
};
use zerocopy::FromBytes;

use super::{CallResult, Cx};
use crate::addr::GuestVirt;
use crate::domain::Domain;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::{GuestMemory, SharedPage};

const NS_PER_SECOND: u64 = 1_000_000_000;

#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::PlatformOp = cx.read(at)?;
    if op.interface_version != abi::XENPF_INTERFACE_VERSION {
        return Err(Errno::Access);
    }
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    match op.cmd {
        abi::XENPF_SETTIME64 => {
            let (time, _) =
                abi::XenpfSettime64::read_from_prefix(&op.u).map_err(|_| Errno::Inval)?;
            set_time(cx, &time)
        }
        _ => Err(Errno::NoSys),
    }
}

fn set_time<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, time: &abi::XenpfSettime64) -> CallResult {
    if time.mbz != 0 {
        return Err(Errno::Inval);
    }
    // A clock before 1970 or after 2554 is nonsense that only makes clocks wrong.
    let now = time
        .secs
        .wrapping_mul(NS_PER_SECOND)
        .wrapping_add(u64::from(time.nsecs));
    let at_boot = now.wrapping_sub(time.system_time);
    let clock = (
        at_boot / NS_PER_SECOND,
        // Below a thousand million.
        (at_boot % NS_PER_SECOND) as u32,
    );
    // Held while it is published, so that two writers do not mix.
    let mut wallclock = cx.hv.wallclock.lock();
    *wallclock = clock;
    for domain in cx.hv.domains.all() {
        publish_wallclock(&domain, *wallclock);
    }
    Ok(0)
}

/// Shows a domain the wall clock (seconds and nanoseconds at system time 0) in its shared info. The caller holds the
/// lock of [`crate::hypervisor::Hypervisor::wallclock`].
pub fn publish_wallclock<H: Hal>(domain: &Domain<H>, clock: (u64, u32)) {
    let words = domain.shared_info.words();
    let (Some(version), Some(low), Some(ns), Some(high)) = (
        words.get(SHARED_INFO_WC_VERSION / 4),
        words.get(SHARED_INFO_WC_SEC / 4),
        words.get(SHARED_INFO_WC_NSEC / 4),
        words.get(SHARED_INFO_WC_SEC_HI / 4),
    ) else {
        return;
    };
    let seconds = clock
        .0
        .wrapping_add(domain.time_offset.load(Ordering::Relaxed));
    // Odd while the fields change. Whatever the guest wrote there, it sees two changes.
    let before = version.load(Ordering::Relaxed);
    version.store(before.wrapping_add(1) | 1, Ordering::SeqCst);
    low.store(seconds as u32, Ordering::SeqCst);
    high.store((seconds >> 32) as u32, Ordering::SeqCst);
    ns.store(clock.1, Ordering::SeqCst);
    version.store(
        (before.wrapping_add(1) | 1).wrapping_add(1),
        Ordering::SeqCst,
    );
}
