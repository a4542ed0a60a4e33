//! `memory_op` (public/memory.h; xen-arm.md 3.3): decoding, and the sub-operations that only tell something.
//!
//! The command's upper bits are the extent at which a preempted call goes on.

use xen_abi::memory as abi;

use super::{Args, CallResult, Cx, physmap, reservation};
use crate::addr::GuestVirt;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Writes the progress of a call into its command.
pub(super) fn preempt(args: &mut Args, done: u32) -> CallResult {
    let operation = args[0] as u32 & abi::MEMOP_CMD_MASK;
    args[0] = u64::from(operation | done << abi::MEMOP_EXTENT_SHIFT);
    Err(Errno::Restart)
}

/// The highest extent that the command's upper bits can hold.
pub(super) const MAX_EXTENT: u32 = u32::MAX >> abi::MEMOP_EXTENT_SHIFT;

/// Arguments: command, structure.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let command = args[0] as u32;
    let start = command >> abi::MEMOP_EXTENT_SHIFT;
    let operation = command & abi::MEMOP_CMD_MASK;
    let at = GuestVirt::new(args[1]);
    match operation {
        abi::XENMEM_INCREASE_RESERVATION
        | abi::XENMEM_DECREASE_RESERVATION
        | abi::XENMEM_POPULATE_PHYSMAP => return reservation::call(cx, args),
        abi::XENMEM_ADD_TO_PHYSMAP_BATCH => return physmap::add_batch(cx, args),
        abi::XENMEM_ACQUIRE_RESOURCE => return physmap::acquire_resource(cx, args),
        _ => {}
    }
    // The others are never preempted.
    if start != 0 {
        return Err(match operation {
            abi::XENMEM_MAXIMUM_RAM_PAGE..=abi::XENMEM_MAXIMUM_RESERVATION
            | abi::XENMEM_ADD_TO_PHYSMAP
            | abi::XENMEM_EXCHANGE
            | abi::XENMEM_MAXIMUM_GPFN
            | abi::XENMEM_REMOVE_FROM_PHYSMAP
            | abi::XENMEM_CLAIM_PAGES
            | abi::XENMEM_GET_VNUMAINFO
            | abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP => Errno::Inval,
            _ => Errno::NoSys,
        });
    }
    match operation {
        // As Xen's max_page: one more than the highest frame.
        abi::XENMEM_MAXIMUM_RAM_PAGE => Ok(cx
            .hv
            .frames
            .maximum_frame()
            .map_or(0, |mfn| i64::from(mfn.raw()) + 1)),
        abi::XENMEM_CURRENT_RESERVATION
        | abi::XENMEM_MAXIMUM_RESERVATION
        | abi::XENMEM_MAXIMUM_GPFN => {
            let op: abi::MemoryDomain = cx.read(at)?;
            let target = cx.find_controlled(op.domid)?;
            Ok(i64::from(match operation {
                abi::XENMEM_CURRENT_RESERVATION => target.account.pages(),
                abi::XENMEM_MAXIMUM_RESERVATION => target.account.limit(),
                _ => target.p2m.lock().maximum_gpfn().raw(),
            }))
        }
        abi::XENMEM_ADD_TO_PHYSMAP => physmap::add(cx, at),
        abi::XENMEM_REMOVE_FROM_PHYSMAP => physmap::remove(cx, at),
        abi::XENMEM_EXCHANGE => exchange(cx, at),
        // Nothing is ever shared copy-on-write.
        abi::XENMEM_GET_SHARING_FREED_PAGES | abi::XENMEM_GET_SHARING_SHARED_PAGES => Ok(0),
        abi::XENMEM_CLAIM_PAGES => claim(cx, at),
        abi::XENMEM_GET_VNUMAINFO => {
            let op: abi::VnumaTopologyInfo = cx.read(at)?;
            cx.find_controlled(op.domid)?;
            Err(Errno::OpNotSupp)
        }
        abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP => {
            let _: abi::ReservedDeviceMemoryMap = cx.read(at)?;
            Err(Errno::OpNotSupp)
        }
        _ => Err(Errno::NoSys),
    }
}

/// XENMEM_exchange: never succeeds on Arm, where Xen can take no page away from a domain. A domain with a stage 2 has no use
/// for other machine frames.
fn exchange<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::MemoryExchange = cx.read(at)?;
    cx.find_controlled(op.in_.domid)?;
    Err(Errno::Inval)
}

/// XENMEM_claim_pages: sets free memory aside for a domain.
fn claim<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::MemoryReservation = cx.read(at)?;
    if op.extent_start != 0 || op.extent_order != 0 || op.mem_flags != 0 {
        return Err(Errno::Inval);
    }
    let target = cx.find_any(op.domid).map_err(|_| Errno::Inval)?;
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    cx.hv.claim_pages(&target, op.nr_extents)?;
    Ok(0)
}
