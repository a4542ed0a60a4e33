//! grant_table_op (20): one structure for each operation, answered in place (xen-arm.md 3.5).
//!
//! A preempted call has moved its pointer and count past what is done.

use alloc::sync::Arc;

use xen_abi::grant_table::{self as abi};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{CallResult, Cx, HypercallRegs, OK};
use crate::addr::{DomId, Gfn, GuestPhys, HostPhys, Mfn, PAGE_SIZE};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::frames::{GetError, Owner};
use crate::gnttab::{
    Access, CacheFlush, CacheOp, CopyRequest, FrameError, GrantError, GrantMemory, GrantTable,
    GrantTables, MapRequest, MemoryError, Page, UnmapRequest, cache_flush, grant_copy,
    map_grant_ref, status_of, transfer, unmap_and_replace, unmap_grant_ref,
};
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::GuestMemory;
use crate::p2m;

pub(super) fn call<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    regs: &mut R,
) -> CallResult {
    if (regs.argument(2) as i32) < 0 {
        return Err(Errno::Inval);
    }
    let count = regs.argument(2) as u32;
    let pointer = regs.argument(1);
    match command {
        abi::GNTTABOP_MAP_GRANT_REF => each(cx, regs, map),
        abi::GNTTABOP_UNMAP_GRANT_REF => each(cx, regs, unmap),
        abi::GNTTABOP_UNMAP_AND_REPLACE => each(cx, regs, replace),
        abi::GNTTABOP_TRANSFER => each(cx, regs, give),
        abi::GNTTABOP_COPY => each(cx, regs, copy),
        abi::GNTTABOP_SWAP_GRANT_REF => each(cx, regs, swap),
        abi::GNTTABOP_CACHE_FLUSH => each(cx, regs, flush),
        abi::GNTTABOP_SETUP_TABLE if count == 1 => setup_table(cx, pointer),
        abi::GNTTABOP_QUERY_SIZE if count == 1 => query_size(cx, pointer),
        abi::GNTTABOP_SETUP_TABLE | abi::GNTTABOP_QUERY_SIZE => Err(Errno::Inval),
        abi::GNTTABOP_SET_VERSION => set_version(cx, pointer),
        abi::GNTTABOP_GET_STATUS_FRAMES => status_frames(cx, pointer, count),
        abi::GNTTABOP_GET_VERSION => get_version(cx, pointer),
        _ => Err(Errno::NoSys),
    }
}

/// Runs `action` on each structure of the list and copies it back.
fn each<H: Hal, M: GuestMemory, R: HypercallRegs, T: FromBytes + IntoBytes + Immutable>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
    action: fn(&Cx<'_, H, M>, &mut T) -> Result<(), Errno>,
) -> CallResult {
    let mut at = regs.argument(1);
    let mut left = regs.argument(2) as u32;
    while left > 0 {
        let mut op: T = cx.read(at)?;
        action(cx, &mut op)?;
        cx.write(at, &op)?;
        at = at.checked_add(size_of::<T>() as u64).ok_or(Errno::Fault)?;
        left -= 1;
        if left > 0 && cx.should_yield() {
            regs.set_argument(1, at);
            regs.set_argument(2, u64::from(left));
            return Err(Errno::Restart);
        }
    }
    OK
}

/// The physical side of grants.
struct Memory<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    caller: &'a Domain<H>,
}

impl<'a, H: Hal> Memory<'a, H> {
    fn new<M: GuestMemory>(cx: &Cx<'a, H, M>) -> Self {
        Self {
            hv: cx.hv,
            caller: cx.domain,
        }
    }

    fn find(&self, id: DomId) -> Option<Arc<Domain<H>>> {
        self.hv.domains.get(id)
    }
}

impl<H: Hal> GrantMemory for Memory<'_, H> {
    fn get_page(&mut self, owner: DomId, gfn: Gfn) -> Result<Page, MemoryError> {
        let domain = self.find(owner).ok_or(MemoryError)?;
        let memory = self.hv.hal.p2m_memory(domain.vttbr);
        let p2m = domain.p2m.lock();
        let mfn = p2m
            .get_page(&memory, gfn, p2m::Access::ReadOnly)
            .map_err(|_| MemoryError)?;
        let writable = p2m
            .lookup(&memory, gfn)
            .is_some_and(|mapping| mapping.ty.is_writable());
        Ok(Page { mfn, writable })
    }

    fn get_frame(&mut self, owner: DomId, mfn: Mfn) -> Result<(), FrameError> {
        match self.hv.frames.get(mfn, Owner::Domain(owner)) {
            Ok(()) => Ok(()),
            Err(GetError::NotOwner) => match self.hv.frames.owner(mfn) {
                Some(Owner::Domain(_)) => Err(FrameError::Foreign),
                _ => Err(FrameError::Unowned),
            },
            Err(GetError::NotInUse | GetError::Overflow) => Err(FrameError::Invalid),
        }
    }

    fn put_page(&mut self, mfn: Mfn) {
        let mut memory = self.hv.hal.p2m_memory(self.caller.vttbr);
        self.caller.p2m.lock().put_page(&mut memory, mfn);
    }

    fn map(&mut self, mapper: DomId, at: Gfn, mfn: Mfn, access: Access) -> Result<(), MemoryError> {
        let domain = self.find(mapper).ok_or(MemoryError)?;
        let mut memory = self.hv.hal.p2m_memory(domain.vttbr);
        let access = match access {
            Access::Read => p2m::Access::ReadOnly,
            Access::Write => p2m::Access::ReadWrite,
        };
        let mapped = domain.p2m.lock().map_grant(&mut memory, at, mfn, access);
        mapped.map_err(|_| MemoryError)
    }

    fn unmap(&mut self, mapper: DomId, at: Gfn, mfn: Mfn) -> Result<(), MemoryError> {
        let domain = self.find(mapper).ok_or(MemoryError)?;
        let mut memory = self.hv.hal.p2m_memory(domain.vttbr);
        let mut p2m = domain.p2m.lock();
        let is_there = p2m
            .lookup(&memory, at)
            .is_some_and(|mapping| mapping.ty.is_grant() && mapping.mfn == mfn);
        if is_there {
            p2m.unmap_grant(&mut memory, at, mfn)
                .map_err(|_| MemoryError)?;
            p2m.sync(&mut memory);
        }
        Ok(())
    }

    fn copy(&mut self, from: (Mfn, usize), to: (Mfn, usize), length: usize) {
        let mut bytes = [0; PAGE_SIZE];
        let Some(buffer) = bytes.get_mut(..length) else {
            return;
        };
        let address =
            |(mfn, offset): (Mfn, usize)| HostPhys::new(mfn.address().raw() + offset as u64);
        // Both frames are RAM that is held: the copies cannot fail.
        if self.hv.hal.read_phys(address(from), buffer).is_ok() {
            let _ = self.hv.hal.write_phys(address(to), buffer);
        }
    }

    fn maintain_cache(&mut self, mfn: Mfn, _offset: usize, _length: usize, _op: CacheOp) {
        // The whole frame, cleaned and invalidated: more than asked is right, too.
        self.hv.hal.flush_frame(mfn);
    }
}

/// Finds the tables of others as the SILO policy allows: one side must be dom0.
struct Tables<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    caller: &'a Domain<H>,
}

impl<H: Hal> GrantTables for Tables<'_, H> {
    type Page = H::Page;

    fn with<R>(
        &mut self,
        domain: DomId,
        action: impl FnOnce(&mut GrantTable<H::Page>) -> R,
    ) -> Result<R, GrantError> {
        let target = granter(self.hv, self.caller, domain)?;
        let mut grants = target.grants.lock();
        Ok(action(&mut grants))
    }
}

fn granter<H: Hal>(
    hv: &Hypervisor<H>,
    caller: &Domain<H>,
    id: DomId,
) -> Result<Arc<Domain<H>>, GrantError> {
    let target = hv.domains.get(id).ok_or(GrantError::BadDomain)?;
    let is_allowed = target.facts.id == caller.facts.id
        || target.facts.is_privileged
        || caller.facts.is_privileged;
    if is_allowed {
        Ok(target)
    } else {
        Err(GrantError::PermissionDenied)
    }
}

fn map<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::GnttabMapGrantRef,
) -> Result<(), Errno> {
    let request = MapRequest {
        reference: op.ref_,
        host_addr: GuestPhys::new(op.host_addr),
        flags: op.flags,
    };
    let result = granter(cx.hv, cx.domain, DomId::new(op.dom)).and_then(|target| {
        let mut maptrack = cx.domain.maptrack.lock();
        let mut grants = target.grants.lock();
        map_grant_ref(&request, &mut grants, &mut maptrack, &mut Memory::new(cx))
    });
    op.status = status_of(&result);
    if let Ok(mapped) = result {
        op.handle = mapped.handle;
        op.dev_bus_addr = mapped.dev_bus_addr.raw();
    }
    Ok(())
}

fn unmap<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::GnttabUnmapGrantRef,
) -> Result<(), Errno> {
    let request = UnmapRequest {
        handle: op.handle,
        host_addr: GuestPhys::new(op.host_addr),
    };
    let mut maptrack = cx.domain.maptrack.lock();
    let result = maptrack.granter_of(op.handle).and_then(|id| {
        let target = cx.hv.domains.get(id).ok_or(GrantError::BadDomain)?;
        let mut grants = target.grants.lock();
        unmap_grant_ref(&request, &mut grants, &mut maptrack, &mut Memory::new(cx))
    });
    op.status = status_of(&result);
    Ok(())
}

fn replace<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::GnttabUnmapAndReplace,
) -> Result<(), Errno> {
    op.status = status_of(&unmap_and_replace(op.handle, &cx.domain.maptrack.lock()));
    Ok(())
}

fn give<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::GnttabTransfer,
) -> Result<(), Errno> {
    op.status = status_of(&transfer(op.mfn, cx.domain.facts.id, &mut Memory::new(cx)));
    Ok(())
}

fn copy<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::GnttabCopy) -> Result<(), Errno> {
    let caller = cx.domain.facts.id;
    let result = CopyRequest::parse(op, caller).and_then(|request| {
        let mut tables = Tables {
            hv: cx.hv,
            caller: cx.domain,
        };
        grant_copy(&request, caller, &mut tables, &mut Memory::new(cx))
    });
    op.status = status_of(&result);
    Ok(())
}

fn swap<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::GnttabSwapGrantRef,
) -> Result<(), Errno> {
    op.status = status_of(&cx.domain.grants.lock().swap(op.ref_a, op.ref_b));
    Ok(())
}

fn flush<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::GnttabCacheFlush,
) -> Result<(), Errno> {
    if op.op & abi::GNTTAB_CACHE_SOURCE_GREF != 0 {
        return Err(Errno::OpNotSupp);
    }
    let request = CacheFlush {
        address: op.a,
        offset: op.offset,
        length: op.length,
        op: op.op,
    };
    cache_flush(&request, &cx.domain.maptrack.lock(), &mut Memory::new(cx))
}

fn setup_table<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, pointer: u64) -> CallResult {
    let mut op: abi::GnttabSetupTable = cx.read(pointer)?;
    let result = match cx.domain_by_id(op.dom) {
        Err(Errno::Perm) => Err(GrantError::PermissionDenied),
        Err(_) => Err(GrantError::BadDomain),
        Ok(target) => {
            let mut grants = target.grants.lock();
            if op.nr_frames > grants.size().max_frames {
                Err(GrantError::General)
            } else {
                let grown = grants.setup_table(op.nr_frames, &mut || {
                    cx.hv.hal.alloc_shared(target.facts.id)
                });
                match grown {
                    Ok(()) => {
                        for i in 0..op.nr_frames {
                            let at = op
                                .frame_list
                                .checked_add(u64::from(i) * 8)
                                .ok_or(Errno::Fault)?;
                            cx.write(at, &grants.frame_gfn(i))?;
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        }
    };
    op.status = status_of(&result);
    cx.write(pointer, &op)?;
    OK
}

fn query_size<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, pointer: u64) -> CallResult {
    let mut op: abi::GnttabQuerySize = cx.read(pointer)?;
    match cx.domain_by_id(op.dom) {
        Ok(target) => {
            let size = target.grants.lock().size();
            op.nr_frames = size.frames;
            op.max_nr_frames = size.max_frames;
            op.status = abi::GNTST_OKAY;
        }
        Err(Errno::Perm) => op.status = abi::GNTST_PERMISSION_DENIED,
        Err(_) => op.status = abi::GNTST_BAD_DOMAIN,
    }
    cx.write(pointer, &op)?;
    OK
}

fn set_version<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, pointer: u64) -> CallResult {
    let op: abi::GnttabSetVersion = cx.read(pointer)?;
    let (result, version) = {
        let mut grants = cx.domain.grants.lock();
        (grants.set_version(op.version), grants.version())
    };
    // The guest is told what holds now, also when it asked for what it cannot have.
    cx.write(pointer, &abi::GnttabSetVersion { version })?;
    result.map(|()| 0)
}

fn get_version<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, pointer: u64) -> CallResult {
    let mut op: abi::GnttabGetVersion = cx.read(pointer)?;
    op.version = cx.domain_by_id(op.dom)?.grants.lock().version();
    cx.write(pointer, &op)?;
    OK
}

fn status_frames<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    pointer: u64,
    count: u32,
) -> CallResult {
    if count != 1 {
        return Err(Errno::Inval);
    }
    let mut op: abi::GnttabGetStatusFrames = cx.read(pointer)?;
    op.status = match cx.domain_by_id(op.dom) {
        Ok(target) => status_of(&target.grants.lock().status_frames(op.nr_frames)),
        Err(Errno::Perm) => abi::GNTST_PERMISSION_DENIED,
        Err(_) => abi::GNTST_BAD_DOMAIN,
    };
    cx.write(pointer, &op)?;
    OK
}
