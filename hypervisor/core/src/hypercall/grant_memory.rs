//! What the grant tables need of domains and memory.

use super::{Target, may_communicate};
use crate::addr::{DomId, Gfn, HostPhys, Mfn};
use crate::domain::Domain;
use crate::errno::Errno;
use crate::frames::{GetError, Owner};
use crate::gnttab::{
    Access, CacheOp, FrameError, GrantError, GrantMemory, GrantTable, GrantTables, MemoryError,
    Page,
};
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::Fault;
use crate::p2m;
use alloc::sync::Arc;

/// Bytes copied at a time.
const CHUNK: usize = 512;

/// Domains and memory, as the calls of one domain reach them.
pub(crate) struct Reach<'a, H: Hal> {
    pub(crate) hv: &'a Hypervisor<H>,
    pub(crate) own: &'a Arc<Domain<H>>,
}

impl<'a, H: Hal> Reach<'a, H> {
    fn domain(&self, id: DomId) -> Option<Target<'a, H>> {
        if id == self.own.facts.id {
            Some(Target::Own(self.own))
        } else {
            self.hv.domains.get(id).map(Target::Other)
        }
    }

    /// Finds the domain whose grants the caller wants.
    pub(super) fn granter(&self, id: DomId) -> Result<Target<'a, H>, GrantError> {
        let granter = self.domain(id).ok_or(GrantError::BadDomain)?;
        if may_communicate(self.hv, self.own, &granter) {
            Ok(granter)
        } else {
            Err(GrantError::PermissionDenied)
        }
    }
}

/// The address of a byte so far behind one end of a copy.
fn byte_of((mfn, start): (Mfn, usize), offset: usize) -> HostPhys {
    HostPhys::new(mfn.address().raw() + (start + offset) as u64)
}

impl<H: Hal> Reach<'_, H> {
    /// Copies within a page, where both ends overlap.
    #[cold]
    #[inline(never)]
    fn copy_within(
        &self,
        from: (Mfn, usize),
        to: (Mfn, usize),
        length: usize,
    ) -> Result<(), Fault> {
        let mut buffer = [0; CHUNK];
        let mut done = 0;
        while done < length {
            let n = (length - done).min(CHUNK);
            // From the end where nothing is lost.
            let offset = if from.1 < to.1 {
                length - done - n
            } else {
                done
            };
            let chunk = buffer.get_mut(..n).ok_or(Fault)?;
            self.hv.hal.read_phys(byte_of(from, offset), chunk)?;
            self.hv.hal.write_phys(byte_of(to, offset), chunk)?;
            done += n;
        }
        Ok(())
    }
}

impl<H: Hal> GrantMemory for Reach<'_, H> {
    fn get_page(&mut self, owner: DomId, gfn: Gfn) -> Result<Page, MemoryError> {
        let owner = self.domain(owner).ok_or(MemoryError)?;
        let memory = self.hv.hal.p2m_memory(owner.vttbr);
        let p2m = owner.p2m.lock();
        let (mfn, access) = p2m
            .get_granted_page(&memory, gfn)
            .map_err(|_| MemoryError)?;
        Ok(Page {
            mfn,
            writable: access == p2m::Access::ReadWrite,
        })
    }

    fn get_frame(&mut self, owner: DomId, mfn: Mfn) -> Result<(), FrameError> {
        let frames = &self.hv.frames;
        match frames.get(mfn, Owner::Domain(owner)) {
            Ok(()) => Ok(()),
            Err(GetError::Overflow) => Err(FrameError::Invalid),
            Err(GetError::NotInUse | GetError::NotOwner) if !frames.is_ram(mfn) => {
                Err(FrameError::Invalid)
            }
            Err(GetError::NotInUse | GetError::NotOwner) => match frames.owner(mfn) {
                None | Some(Owner::Xen) => Err(FrameError::Unowned),
                Some(Owner::Domain(_)) => Err(FrameError::Foreign),
            },
        }
    }

    fn put_page(&mut self, mfn: Mfn) {
        self.hv.put_frame(mfn);
    }

    fn map(&mut self, mapper: DomId, at: Gfn, mfn: Mfn, access: Access) -> Result<(), MemoryError> {
        let mapper = self.domain(mapper).ok_or(MemoryError)?;
        let mut memory = self.hv.hal.p2m_memory(mapper.vttbr);
        let access = match access {
            Access::Read => p2m::Access::ReadOnly,
            Access::Write => p2m::Access::ReadWrite,
        };
        let mut p2m = mapper.p2m.lock();
        let result = p2m.map_grant(&mut memory, at, mfn, access);
        p2m.sync(&mut memory);
        result.map_err(|_| MemoryError)
    }

    fn unmap(&mut self, mapper: DomId, at: Gfn, mfn: Mfn) -> Result<(), MemoryError> {
        let mapper = self.domain(mapper).ok_or(MemoryError)?;
        let mut memory = self.hv.hal.p2m_memory(mapper.vttbr);
        let mut p2m = mapper.p2m.lock();
        let result = p2m.unmap_grant(&mut memory, at, mfn);
        p2m.sync(&mut memory);
        match result {
            // Something else is mapped there: the grant is not reachable through it.
            Ok(()) | Err(Errno::Inval) => Ok(()),
            Err(_) => Err(MemoryError),
        }
    }

    fn copy(&mut self, from: (Mfn, usize), to: (Mfn, usize), length: usize) {
        let is_done = if from.0 == to.0 && from.1.abs_diff(to.1) < length {
            self.copy_within(from, to, length)
        } else {
            self.hv
                .hal
                .copy_phys(byte_of(from, 0), byte_of(to, 0), length)
        };
        // Both frames are referenced RAM, so neither can fail.
        if is_done.is_err() {
            log::error!(
                "gnttab: frames {:x} and {:x} cannot be copied",
                from.0,
                to.0
            );
        }
    }

    fn maintain_cache(&mut self, mfn: Mfn, _offset: usize, _length: usize, _op: CacheOp) {
        // More than was asked for does no harm.
        self.hv.hal.flush_frame(mfn);
    }
}

impl<H: Hal> GrantTables for Reach<'_, H> {
    type Page = H::Page;

    fn with<R>(
        &mut self,
        user: DomId,
        domain: DomId,
        action: impl FnOnce(&mut GrantTable<H::Page>) -> R,
    ) -> Result<R, GrantError> {
        let granter = if user == self.own.facts.id {
            self.granter(domain)?
        } else {
            let user = self.domain(user).ok_or(GrantError::BadDomain)?;
            let granter = self.domain(domain).ok_or(GrantError::BadDomain)?;
            if !may_communicate(self.hv, &user, &granter) {
                return Err(GrantError::PermissionDenied);
            }
            granter
        };
        let mut table = granter.grants.lock();
        Ok(action(&mut table))
    }
}
