//! XENMEM_populate_physmap, _increase_reservation and _decrease_reservation.
//!
//! They return how many extents were done. Most errors are told by that number alone, as Xen does.

use xen_abi::memory as abi;
use xen_abi::memory::MemoryReservation;
use zerocopy::IntoBytes;

use super::guest::element;
use super::memory::{MAX_EXTENT, preempt};
use super::{Args, CallResult, Cx};
use crate::addr::{Gfn, GuestVirt, PAGE_SHIFT};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// The largest extent: 2 MiB. Xen gives its control domain more, but an extent is zeroed in one step, and toolstacks
/// fall back to smaller ones.
const MAX_ORDER: u32 = 9;
/// Frame numbers copied in at a time.
const CHUNK: usize = 64;
/// Pages taken away between two TLB flushes: they are given up in one step after it, during which no interrupt is looked
/// for. An extent more may come on top.
const PAGES: u32 = 64;

/// Arguments: command with the extent to begin at, structure.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let command = args[0] as u32;
    let operation = command & abi::MEMOP_CMD_MASK;
    let start = command >> abi::MEMOP_EXTENT_SHIFT;
    let nothing_more = Ok(i64::from(start));
    let Ok(op) = cx.read::<MemoryReservation>(GuestVirt::new(args[1])) else {
        return nothing_more;
    };
    let count = match u32::try_from(op.nr_extents) {
        Ok(count) if count <= MAX_EXTENT && start < count => count,
        _ => return nothing_more,
    };
    // RAM is placed anywhere: an address width that could not hold a page is wrong, any other is met.
    let width = op.mem_flags & abi::XENMEMF_ADDRESS_BITS_MASK;
    let Ok(target) = cx.find_any(op.domid) else {
        return nothing_more;
    };
    if width != 0 && width < PAGE_SHIFT {
        return Err(Errno::Inval);
    }
    let may_adjust = target.is_own() || cx.domain.facts.is_privileged;
    if !may_adjust || op.extent_order > MAX_ORDER {
        return nothing_more;
    }
    let mut extents = Extents {
        list: GuestVirt::new(op.extent_start),
        frames: [0; CHUNK],
        first: 0,
        held: 0,
    };
    let mut done = start;
    let mut taken = 0;
    let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
    let end = loop {
        if done == count {
            break Ok(());
        }
        if done != start && cx.must_yield() {
            break Err(Errno::Restart);
        }
        let is_done = if operation == abi::XENMEM_INCREASE_RESERVATION {
            let mut p2m = target.p2m.lock();
            p2m.increase(&mut memory, op.extent_order).is_ok()
        } else {
            match extents.get(cx, done, count) {
                None => false,
                Some(gfn) => {
                    let mut p2m = target.p2m.lock();
                    if operation == abi::XENMEM_POPULATE_PHYSMAP {
                        p2m.populate(&mut memory, gfn, op.extent_order).is_ok()
                    } else {
                        let is_done = p2m.decrease(&mut memory, gfn, op.extent_order).is_ok();
                        taken += 1 << op.extent_order;
                        if taken >= PAGES {
                            p2m.sync(&mut memory);
                            taken = 0;
                        }
                        is_done
                    }
                }
            }
        };
        if !is_done {
            break Ok(());
        }
        done += 1;
    };
    if taken != 0 {
        target.p2m.lock().sync(&mut memory);
    }
    match end {
        Ok(()) => Ok(i64::from(done)),
        Err(_) => preempt(args, done),
    }
}

/// The guest's list of frames, read in chunks.
struct Extents {
    list: GuestVirt,
    frames: [u64; CHUNK],
    /// Index of the first frame held.
    first: u32,
    held: u32,
}

impl Extents {
    /// Returns entry `index` of a list of `count`, or `None` when it cannot be read or is no frame.
    fn get<H: Hal, M: GuestMemory>(
        &mut self,
        cx: &Cx<'_, H, M>,
        index: u32,
        count: u32,
    ) -> Option<Gfn> {
        let mut offset = index.wrapping_sub(self.first);
        if offset >= self.held {
            let at = element::<u64>(self.list, u64::from(index)).ok()?;
            let wanted = (count - index).min(CHUNK as u32);
            let frames = self.frames.get_mut(..wanted as usize)?;
            self.held = wanted;
            if cx.copy_in(at, frames.as_mut_bytes()).is_err() {
                // The list ends on an unmapped page: what lies before that still counts.
                self.held = 1;
                cx.copy_in(at, self.frames.get_mut(..1)?.as_mut_bytes())
                    .ok()?;
            }
            self.first = index;
            offset = 0;
        }
        Gfn::try_from(*self.frames.get(offset as usize)?).ok()
    }
}
