//! The memory of other domains: caches, and what their tables may take.

use xen_abi::control as abi;

use super::{Done, Reply, part, set_part};
use crate::addr::{Gfn, PAGE_SIZE};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::frames::MAX_ORDER;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::machine::GuestMemory;

/// Writes a range of RAM back from the caches: the guest begins with its own off.
pub(super) fn cache_flush<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let mut range: abi::DomctlCacheflush = part(op)?;
    let end = range.start_pfn.checked_add(range.nr_pfns);
    let Some(end) = end.filter(|_| range.nr_pfns <= 1 << MAX_ORDER) else {
        return Err(Errno::Inval);
    };
    let memory = cx.hv.hal.p2m_memory(target.vttbr);
    while range.start_pfn < end {
        let Ok(gfn) = Gfn::try_from(range.start_pfn) else {
            break;
        };
        // The frame stays while it is flushed, since the lock is held: one page is short.
        let p2m = target.p2m.lock();
        match p2m.next_ram(&memory, gfn, end) {
            None => break,
            Some((found, mfn)) => {
                cx.hv.hal.flush_frame(mfn);
                range.start_pfn = u64::from(found.raw()) + 1;
            }
        }
        drop(p2m);
        range.nr_pfns = end - range.start_pfn;
        if cx.must_yield() && range.nr_pfns != 0 {
            set_part(op, &range);
            return Err(Errno::Restart);
        }
    }
    cx.hv.hal.invalidate_instruction_caches();
    Ok(Reply::None)
}

pub(super) fn pool_size<H: Hal>(op: &mut abi::Domctl, target: &Domain<H>) -> Done {
    let pages = target.p2m.lock().stage2().pool_limit();
    let size = abi::DomctlPagingMempool {
        size: u64::from(pages) * PAGE_SIZE as u64,
    };
    set_part(op, &size);
    Ok(Reply::Whole)
}

pub(super) fn set_pool_size<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let wanted: abi::DomctlPagingMempool = part(op)?;
    if !wanted.size.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::Inval);
    }
    let pages = u32::try_from(wanted.size / PAGE_SIZE as u64).map_err(|_| Errno::Inval)?;
    let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
    target.p2m.lock().reserve_tables(&mut memory, pages)?;
    Ok(Reply::None)
}
