//! Putting single pages into a domain's physical address space: XENMEM_add_to_physmap and its batch,
//! XENMEM_remove_from_physmap, XENMEM_acquire_resource.

use core::mem::offset_of;

use xen_abi::hypercall::DOMID_SELF;
use xen_abi::memory as abi;

use super::guest::element;
use super::memory::{MAX_EXTENT, preempt};
use super::{Args, CallResult, Cx, Target};
use crate::addr::{DomId, Gfn, GuestVirt, Mfn};
use crate::domain::{Domain, Stage};
use crate::errno::Errno;
use crate::frames::Owner;
use crate::hal::Hal;
use crate::machine::{GuestMemory, SharedPage};
use crate::p2m::{Access, WhenMapped};
use crate::stage2::PageType;

impl<H: Hal, M: GuestMemory> Cx<'_, H, M> {
    /// Returns shared or status frame `index` of a domain's grant table, growing the table.
    fn grant_frame(&self, domain: &Domain<H>, index: u64, is_status: bool) -> Result<Mfn, Errno> {
        let index = u32::try_from(index).map_err(|_| Errno::Inval)?;
        let id = domain.facts.id;
        let mut allocate = || self.hv.alloc_shared_page(id, &domain.account);
        let mut grants = domain.grants.lock();
        if is_status {
            grants.status_frame(index, &mut allocate)
        } else {
            grants.shared_frame(index, &mut allocate)
        }
    }

    /// Maps one thing at one frame of `target`.
    #[inline(never)]
    fn add_one(
        &self,
        target: &Domain<H>,
        space: u32,
        foreign: Option<u16>,
        index: u64,
        gpfn: u64,
    ) -> Result<(), Errno> {
        let gfn = Gfn::try_from(gpfn).map_err(|_| Errno::Inval)?;
        let mut memory = self.hv.hal.p2m_memory(target.vttbr);
        match space {
            abi::XENMAPSPACE_SHARED_INFO => {
                if index != 0 {
                    return Err(Errno::Inval);
                }
                let mfn = target.shared_info.mfn();
                let mut p2m = target.p2m.lock();
                p2m.add_xenheap(&mut memory, gfn, mfn, WhenMapped::Busy)
            }
            abi::XENMAPSPACE_GRANT_TABLE => {
                const STATUS: u64 = abi::XENMAPIDX_GRANT_TABLE_STATUS as u64;
                // In version 1 the bit is a part of the number, and beyond every limit.
                let is_status = index & STATUS != 0 && target.grants.lock().version() == 2;
                let index = if is_status { index & !STATUS } else { index };
                let mfn = self.grant_frame(target, index, is_status)?;
                let mut p2m = target.p2m.lock();
                p2m.add_xenheap(&mut memory, gfn, mfn, WhenMapped::Move)
            }
            abi::XENMAPSPACE_GMFN_FOREIGN => {
                let foreign = DomId::new(foreign.ok_or(Errno::NoSys)?);
                self.map_foreign(target, foreign, index, gfn)
            }
            abi::XENMAPSPACE_DEV_MMIO => {
                let mfn = Mfn::try_from(index).map_err(|_| Errno::Inval)?;
                // As Xen: what it may not have is not mapped, and that is no error.
                if !target.devices.lock().permits_memory(mfn, 1) {
                    return Ok(());
                }
                // Xen: cacheable for everybody. But HCR.PTW keeps our walks of a guest's tables out of device memory
                // only, and where nothing answers such a walk is our own external abort.
                let ty = if target.facts.is_privileged {
                    PageType::MmioDirectC
                } else {
                    PageType::MmioDirectDev
                };
                let mut p2m = target.p2m.lock();
                p2m.map_mmio(&mut memory, gfn, mfn, 1, ty)
            }
            _ => Err(Errno::NoSys),
        }
    }

    fn map_foreign(
        &self,
        target: &Domain<H>,
        owner: DomId,
        index: u64,
        gfn: Gfn,
    ) -> Result<(), Errno> {
        if owner == target.facts.id {
            return Err(Errno::Inval);
        }
        let owner = self.find(owner)?;
        // Xen: the mapper or the caller must control the owner.
        if !self.domain.facts.is_privileged {
            return Err(Errno::Perm);
        }
        let from = Gfn::try_from(index).map_err(|_| Errno::Inval)?;
        let (mfn, access) = {
            let memory = self.hv.hal.p2m_memory(owner.vttbr);
            let p2m = owner.p2m.lock();
            let access = match p2m.lookup(&memory, from).map(|mapping| mapping.ty) {
                Some(PageType::RamRw) => Access::ReadWrite,
                _ => Access::ReadOnly,
            };
            (p2m.get_page(&memory, from, access)?, access)
        };
        let mut memory = self.hv.hal.p2m_memory(target.vttbr);
        target.p2m.lock().map_foreign(&mut memory, gfn, mfn, access)
    }
}

/// XENMEM_add_to_physmap.
#[inline(never)]
pub(super) fn add<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::AddToPhysmap = cx.read(at)?;
    // The single form cannot name the owner.
    if op.space == abi::XENMAPSPACE_GMFN_FOREIGN {
        return Err(Errno::NoSys);
    }
    let target = cx.find_controlled(op.domid)?;
    cx.add_one(&target, op.space, None, op.idx, op.gpfn)?;
    Ok(0)
}

/// XENMEM_add_to_physmap_batch: an error for each entry. Arguments: command with the entry to begin at, structure.
#[inline(never)]
pub(super) fn add_batch<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let start = args[0] as u32 >> abi::MEMOP_EXTENT_SHIFT;
    let op: abi::AddToPhysmapBatch = cx.read(GuestVirt::new(args[1]))?;
    let target = cx.find_controlled(op.domid)?;
    let size = u32::from(op.size);
    if start != 0 && start >= size {
        return Err(Errno::Inval);
    }
    let space = u32::from(op.space);
    if space == abi::XENMAPSPACE_DEV_MMIO && op.foreign_domid != 0 {
        return Err(Errno::OpNotSupp);
    }
    let mut done = start;
    while done < size {
        if done != start && cx.must_yield() {
            return preempt(args, done);
        }
        let n = u64::from(done);
        let index: u64 = cx.read(element::<u64>(GuestVirt::new(op.idxs), n)?)?;
        let gpfn: u64 = cx.read(element::<u64>(GuestVirt::new(op.gpfns), n)?)?;
        let result = cx.add_one(&target, space, Some(op.foreign_domid), index, gpfn);
        let error = result.err().map_or(0, Errno::to_return);
        cx.write(element::<i32>(GuestVirt::new(op.errs), n)?, &error)?;
        done += 1;
    }
    Ok(0)
}

/// XENMEM_remove_from_physmap.
#[inline(never)]
pub(super) fn remove<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::RemoveFromPhysmap = cx.read(at)?;
    let target = cx.find_controlled(op.domid)?;
    let gfn = Gfn::try_from(op.gpfn).map_err(|_| Errno::NoEnt)?;
    let mut memory = cx.hv.hal.p2m_memory(target.vttbr);
    target.p2m.lock().remove(&mut memory, gfn)?;
    Ok(0)
}

/// XENMEM_acquire_resource: maps frames of another domain's grant table into the caller. Arguments: command with the
/// frame to begin at, structure.
#[inline(never)]
pub(super) fn acquire_resource<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    args: &mut Args,
) -> CallResult {
    let start = args[0] as u32 >> abi::MEMOP_EXTENT_SHIFT;
    let at = GuestVirt::new(args[1]);
    let op: abi::MemAcquireResource = cx.read(at)?;
    if op._pad != 0 {
        return Err(Errno::Inval);
    }
    if op.domid == DOMID_SELF {
        return Err(Errno::Perm);
    }
    let owner = match cx.find(DomId::new(op.domid))? {
        Target::Own(_) => return Err(Errno::Perm),
        Target::Other(owner) => owner,
    };
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    if owner.stage() != Stage::Alive {
        return Err(Errno::Inval);
    }
    // Nothing else of a domain is a resource here.
    if u32::from(op.type_) != abi::XENMEM_RESOURCE_GRANT_TABLE {
        return Err(Errno::Inval);
    }
    let is_status = match op.id {
        abi::XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED => false,
        abi::XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS => true,
        _ => return Err(Errno::Inval),
    };
    if op.frame_list == 0 {
        if start != 0 {
            return Err(Errno::Inval);
        }
        let size = match (is_status, owner.grants.lock()) {
            (false, grants) => grants.size().max_frames,
            (true, grants) => grants.max_status_frames(),
        };
        if size == 0 {
            return Err(Errno::Inval);
        }
        cx.write_field(at, offset_of!(abi::MemAcquireResource, nr_frames), &size)?;
        return Ok(0);
    }
    let count = op.nr_frames;
    if count > MAX_EXTENT || (start != 0 && start >= count) {
        return Err(Errno::Inval);
    }
    let mut done = start;
    let mut memory = cx.hv.hal.p2m_memory(cx.domain.vttbr);
    while done < count {
        if done != start && cx.must_yield() {
            return preempt(args, done);
        }
        let n = u64::from(done);
        let gpfn: u64 = cx.read(element::<u64>(GuestVirt::new(op.frame_list), n)?)?;
        let gfn = Gfn::try_from(gpfn).map_err(|_| Errno::Inval)?;
        let index = op.frame.checked_add(n).ok_or(Errno::Inval)?;
        let mfn = cx.grant_frame(&owner, index, is_status)?;
        cx.hv
            .frames
            .get(mfn, Owner::Domain(owner.facts.id))
            .map_err(|_| Errno::Inval)?;
        cx.domain
            .p2m
            .lock()
            .map_foreign(&mut memory, gfn, mfn, Access::ReadWrite)?;
        done += 1;
    }
    Ok(0)
}
