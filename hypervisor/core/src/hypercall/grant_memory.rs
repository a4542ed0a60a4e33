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

impl<H: Hal> GrantMemory for Reach<'_, H> {
    fn get_page(&mut self, owner: DomId, gfn: Gfn) -> Result<Page, MemoryError> {
        let owner = self.domain(owner).ok_or(MemoryError)?;
        let memory = self.hv.hal.p2m_memory(owner.vttbr);
        let p2m = owner.p2m.lock();
        let mapping = p2m.lookup(&memory, gfn).ok_or(MemoryError)?;
        let mfn = p2m
            .get_page(&memory, gfn, p2m::Access::ReadOnly)
            .map_err(|_| MemoryError)?;
        Ok(Page {
            mfn,
            writable: mapping.ty.is_writable(),
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
        let at = |end: (Mfn, usize), offset: usize| {
            HostPhys::new(end.0.address().raw() + (end.1 + offset) as u64)
        };
        // Within one page the copy may overlap itself: then from the far end.
        let is_backwards = from.0 == to.0 && from.1 < to.1;
        let mut buffer = [0; CHUNK];
        let mut done = 0;
        while done < length {
            let n = (length - done).min(CHUNK);
            let offset = if is_backwards {
                length - done - n
            } else {
                done
            };
            let Some(chunk) = buffer.get_mut(..n) else {
                return;
            };
            // Both frames are referenced RAM, so neither can fail.
            if self.hv.hal.read_phys(at(from, offset), chunk).is_err()
                || self.hv.hal.write_phys(at(to, offset), chunk).is_err()
            {
                log::error!(
                    "gnttab: frames {:x} and {:x} cannot be copied",
                    from.0,
                    to.0
                );
                return;
            }
            done += n;
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
