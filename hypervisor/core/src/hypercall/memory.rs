//! memory_op (12): a domain's memory (xen-arm.md 3.3).
//!
//! Lists of extents are preempted: the index of the next one is kept in the upper bits of the command, as in Xen. For
//! the reservation calls any error is the number of extents done before it.

use alloc::sync::Arc;

use xen_abi::memory::{self as abi};

use super::{CallResult, Cx, HypercallRegs, OK};
use crate::addr::{Gfn, Mfn};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::{GuestMemory, SharedPage};
use crate::p2m::{Access, WhenMapped};

/// Largest extent of dom0 (memop-max-order of the hardware domain), and of others.
const MAX_ORDER: u32 = 10;
const MAX_ORDER_GUEST: u32 = 9;
/// Extents between two looks at the interrupts.
const STEP: u64 = 16;

/// What to do with each extent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Populate,
    Decrease,
}

pub(super) fn call<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    pointer: u64,
    regs: &mut R,
) -> CallResult {
    let start = u64::from(command >> abi::MEMOP_EXTENT_SHIFT);
    match command & abi::MEMOP_CMD_MASK {
        abi::XENMEM_POPULATE_PHYSMAP => extents(cx, Change::Populate, command, pointer, regs),
        abi::XENMEM_DECREASE_RESERVATION => extents(cx, Change::Decrease, command, pointer, regs),
        // Pages without a place in the address space would be of no use to a domain with stage 2: none is given.
        abi::XENMEM_INCREASE_RESERVATION => Ok(start as i64),
        abi::XENMEM_MAXIMUM_RAM_PAGE => Ok(cx
            .hv
            .frames
            .maximum_frame()
            .map_or(0, |mfn| i64::from(mfn.raw()))),
        abi::XENMEM_CURRENT_RESERVATION => {
            let op: u16 = cx.read(pointer)?;
            Ok(i64::from(cx.domain_by_id(op)?.p2m.lock().account().pages()))
        }
        abi::XENMEM_MAXIMUM_RESERVATION => {
            let op: u16 = cx.read(pointer)?;
            Ok(i64::from(cx.domain_by_id(op)?.p2m.lock().account().limit()))
        }
        abi::XENMEM_MAXIMUM_GPFN => {
            let op: u16 = cx.read(pointer)?;
            Ok(i64::from(
                cx.domain_by_id(op)?.p2m.lock().maximum_gpfn().raw(),
            ))
        }
        abi::XENMEM_ADD_TO_PHYSMAP => {
            let op: abi::AddToPhysmap = cx.read(pointer)?;
            let target = cx.domain_by_id(op.domid)?;
            add_to_physmap(cx, &target, op.space, op.idx, op.gpfn)?;
            OK
        }
        abi::XENMEM_ADD_TO_PHYSMAP_BATCH => batch(cx, command, pointer, regs),
        abi::XENMEM_REMOVE_FROM_PHYSMAP => {
            let op: abi::RemoveFromPhysmap = cx.read(pointer)?;
            let target = cx.domain_by_id(op.domid)?;
            let gfn = Gfn::try_from(op.gpfn).map_err(|_| Errno::Inval)?;
            let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
            target.grants.lock().forget_gfn(gfn);
            target.p2m.lock().remove(&mut memory, gfn)?;
            OK
        }
        abi::XENMEM_ACQUIRE_RESOURCE => acquire_resource(cx, pointer),
        // No page is ever shared between domains by content.
        abi::XENMEM_GET_SHARING_FREED_PAGES | abi::XENMEM_GET_SHARING_SHARED_PAGES => OK,
        // A domain with stage 2 has no machine frames to exchange.
        abi::XENMEM_EXCHANGE => Err(Errno::OpNotSupp),
        _ => Err(Errno::NoSys),
    }
}

/// populate_physmap and decrease_reservation.
fn extents<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    change: Change,
    command: u32,
    pointer: u64,
    regs: &mut R,
) -> CallResult {
    let start = u64::from(command >> abi::MEMOP_EXTENT_SHIFT);
    let op: abi::MemoryReservation = cx.read(pointer)?;
    let max_order = if cx.domain.facts.is_privileged {
        MAX_ORDER
    } else {
        MAX_ORDER_GUEST
    };
    let too_many = op.nr_extents > u64::from(u32::MAX >> abi::MEMOP_EXTENT_SHIFT);
    let Ok(target) = cx.domain_by_id(op.domid) else {
        return Ok(start as i64);
    };
    if too_many || start > op.nr_extents || op.extent_order > max_order {
        return Ok(start as i64);
    }
    let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
    let mut done = start;
    while done < op.nr_extents {
        if done > start && (done - start).is_multiple_of(STEP) && cx.should_yield() {
            target.p2m.lock().sync(&mut memory);
            regs.set_argument(
                0,
                u64::from(command & abi::MEMOP_CMD_MASK) | done << abi::MEMOP_EXTENT_SHIFT,
            );
            return Err(Errno::Restart);
        }
        let gfn = done
            .checked_mul(8)
            .and_then(|offset| op.extent_start.checked_add(offset))
            .and_then(|at| cx.read::<u64>(at).ok())
            .and_then(|gfn| Gfn::try_from(gfn).ok());
        let Some(gfn) = gfn else { break };
        let result = match change {
            Change::Populate => target
                .p2m
                .lock()
                .populate(&mut memory, gfn, op.extent_order)
                .map(|_| ()),
            Change::Decrease => {
                if op.extent_order == 0 {
                    target.grants.lock().forget_gfn(gfn);
                }
                target
                    .p2m
                    .lock()
                    .decrease(&mut memory, gfn, op.extent_order)
            }
        };
        if result.is_err() {
            break;
        }
        done += 1;
    }
    target.p2m.lock().sync(&mut memory);
    Ok(done as i64)
}

fn add_to_physmap<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    target: &Arc<Domain<H>>,
    space: u32,
    index: u64,
    gpfn: u64,
) -> Result<(), Errno> {
    let gfn = Gfn::try_from(gpfn).map_err(|_| Errno::Inval)?;
    let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
    match space {
        abi::XENMAPSPACE_SHARED_INFO => {
            if index != 0 {
                return Err(Errno::Inval);
            }
            let mfn = target.shared_info.mfn();
            target
                .p2m
                .lock()
                .add_xenheap(&mut memory, gfn, mfn, WhenMapped::Busy)
        }
        abi::XENMAPSPACE_GRANT_TABLE => {
            let index = u32::try_from(index).map_err(|_| Errno::Inval)?;
            if index & abi::XENMAPIDX_GRANT_TABLE_STATUS != 0 {
                // Status frames belong to version 2.
                return Err(Errno::Inval);
            }
            let mut grants = target.grants.lock();
            let mfn =
                grants.shared_frame(index, &mut || cx.hv.hal.alloc_shared(target.facts.id))?;
            target
                .p2m
                .lock()
                .add_xenheap(&mut memory, gfn, mfn, WhenMapped::Move)?;
            grants.set_mapped_at(index, Some(gfn));
            Ok(())
        }
        // Foreign frames need the domain that only the batch call names.
        abi::XENMAPSPACE_GMFN_FOREIGN => Err(Errno::Inval),
        // No domain has been given the right to device memory beyond what it was built with.
        abi::XENMAPSPACE_DEV_MMIO => Err(Errno::Perm),
        _ => Err(Errno::NoSys),
    }
}

/// add_to_physmap_batch: each entry has an error of its own.
fn batch<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    pointer: u64,
    regs: &mut R,
) -> CallResult {
    let op: abi::AddToPhysmapBatch = cx.read(pointer)?;
    let target = cx.domain_by_id(op.domid)?;
    let foreign = if u32::from(op.space) == abi::XENMAPSPACE_GMFN_FOREIGN {
        let foreign = cx.domain_by_id(op.foreign_domid)?;
        if foreign.facts.id == target.facts.id {
            return Err(Errno::Inval);
        }
        Some(foreign)
    } else {
        None
    };
    let start = u64::from(command >> abi::MEMOP_EXTENT_SHIFT);
    for i in start..u64::from(op.size) {
        if i > start && cx.should_yield() {
            regs.set_argument(
                0,
                u64::from(abi::XENMEM_ADD_TO_PHYSMAP_BATCH) | i << abi::MEMOP_EXTENT_SHIFT,
            );
            return Err(Errno::Restart);
        }
        let at = |list: u64, size: u64| list.checked_add(i * size).ok_or(Errno::Fault);
        let index: u64 = cx.read(at(op.idxs, 8)?)?;
        let gpfn: u64 = cx.read(at(op.gpfns, 8)?)?;
        let result = match &foreign {
            Some(foreign) => map_foreign(cx, &target, foreign, index, gpfn),
            None => add_to_physmap(cx, &target, u32::from(op.space), index, gpfn),
        };
        let error = result.err().map_or(0, Errno::to_return);
        cx.write(at(op.errs, 4)?, &error)?;
    }
    OK
}

fn map_foreign<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    target: &Arc<Domain<H>>,
    foreign: &Arc<Domain<H>>,
    index: u64,
    gpfn: u64,
) -> Result<(), Errno> {
    let from = Gfn::try_from(index).map_err(|_| Errno::Inval)?;
    let gfn = Gfn::try_from(gpfn).map_err(|_| Errno::Inval)?;
    let theirs = cx.hv.hal.p2m_memory(foreign.vttbr);
    // One p2m at a time; the reference keeps the page meanwhile.
    let mfn: Mfn = foreign
        .p2m
        .lock()
        .get_page(&theirs, from, Access::ReadWrite)?;
    let mut ours = cx.hv.hal.p2m_memory(target.vttbr);
    target
        .p2m
        .lock()
        .map_foreign(&mut ours, gfn, mfn, Access::ReadWrite)
}

/// acquire_resource: how many frames a resource has. Mapping them is for a toolstack, which comes later: it is told so and
/// falls back to add_to_physmap.
fn acquire_resource<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, pointer: u64) -> CallResult {
    let mut op: abi::MemAcquireResource = cx.read(pointer)?;
    if op._pad != 0 {
        return Err(Errno::Inval);
    }
    let target = cx.domain_by_id(op.domid)?;
    if op.type_ != abi::XENMEM_RESOURCE_GRANT_TABLE as u16 {
        return Err(Errno::OpNotSupp);
    }
    if op.id != abi::XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED {
        return Err(Errno::Inval);
    }
    if op.frame_list != 0 {
        return Err(Errno::OpNotSupp);
    }
    op.nr_frames = target.grants.lock().size().max_frames;
    cx.write(pointer, &op)?;
    OK
}
