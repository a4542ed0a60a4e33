//! The operations, one element each.

use log::error;
use xen_abi::grant_table as abi;
use xen_abi::hypercall::DOMID_SELF;

use super::entry::{Purpose, Window};
use super::maptrack::Mapping;
use super::table::Pinned;
use super::{
    Access, CacheOp, FrameError, GrantError, GrantMemory, GrantTable, GrantTables, Maptrack,
};
use crate::addr::{DomId, Gfn, GuestPhys, HostPhys, Mfn, PAGE_SIZE};
use crate::errno::Errno;
use crate::machine::SharedPage;

/// What `map_grant_ref` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The grant, in the granter's table.
    pub reference: u32,
    /// Where to map it.
    pub host_addr: GuestPhys,
    /// `GNTMAP_*`.
    pub flags: u32,
}

/// The answer of [`map_grant_ref`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Names the mapping.
    pub handle: u32,
    /// The machine address of the page.
    pub dev_bus_addr: HostPhys,
}

/// What `unmap_grant_ref` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapRequest {
    /// The mapping.
    pub handle: u32,
    /// Where it is.
    pub host_addr: GuestPhys,
    /// Machine address of the page, or 0 to leave it out.
    pub dev_bus_addr: u64,
}

/// Maps a grant of `granter` for the owner of `mapper`; they may be one domain. For a direct-mapped mapper also maps the
/// frame at its own number ([`super::DeviceView::Identity`]).
///
/// # Errors
/// [`GrantError::BadRef`]: no such grant, or no map flag; [`GrantError::General`]: not granted so, flags that Arm does
/// not have, or nothing can be mapped there; [`GrantError::NoSpace`]: no handle left; [`GrantError::BadPage`]: not RAM
/// of the granter; [`GrantError::BadDomain`]: the granter is dying. Nothing has changed then.
pub fn map_grant_ref<P: SharedPage, M: GrantMemory>(
    request: &MapRequest,
    granter: &mut GrantTable<P>,
    mapper: &mut Maptrack,
    memory: &mut M,
) -> Result<Mapped, GrantError> {
    if request.flags & (abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP) == 0 {
        return Err(GrantError::BadRef);
    }
    if request.flags & !abi::GNTMAP_READONLY != abi::GNTMAP_HOST_MAP {
        return Err(GrantError::General);
    }
    let access = if request.flags & abi::GNTMAP_READONLY != 0 {
        Access::Read
    } else {
        Access::Write
    };
    let at = request.host_addr.frame().ok_or(GrantError::General)?;

    let handle = mapper.reserve()?;
    match map_reserved(request.reference, at, access, granter, mapper, memory) {
        Ok(mfn) => {
            let mapping = Mapping {
                granter: granter.owner(),
                reference: request.reference,
                at,
                access,
            };
            mapper.commit(handle, mapping);
            Ok(Mapped {
                handle,
                dev_bus_addr: mfn.address(),
            })
        }
        Err(error) => {
            mapper.cancel(handle);
            Err(error)
        }
    }
}

/// Does what a mapping is but for its handle, all or nothing.
fn map_reserved<P: SharedPage, M: GrantMemory>(
    reference: u32,
    at: Gfn,
    access: Access,
    granter: &mut GrantTable<P>,
    mapper: &mut Maptrack,
    memory: &mut M,
) -> Result<Mfn, GrantError> {
    let user = mapper.owner();
    let Pinned::Page { mfn, .. } = granter.pin(reference, user, access, Purpose::Map, memory)?
    else {
        // Not for this purpose.
        return Err(GrantError::General);
    };
    let before = mapper.reach(mfn);
    if mapper.mapped.add(mfn, access).is_err() {
        granter.unpin(reference, access, memory);
        return Err(GrantError::NoSpace);
    }
    let identity = Gfn::new(mfn.raw());
    let wants_identity = mapper.has_identity(granter.owner()) && before != mapper.reach(mfn);
    if memory.map(user, at, mfn, access).is_ok() {
        if !wants_identity || memory.map(user, identity, mfn, access).is_ok() {
            return Ok(mfn);
        }
        if memory.unmap(user, at, mfn).is_err() {
            // Still mapped, so the page must stay: its use is left counted.
            error!("gnttab: {user} {at:x}: a failed mapping could not be removed");
            return Err(GrantError::General);
        }
    }
    mapper.mapped.remove(mfn, access);
    granter.unpin(reference, access, memory);
    Err(GrantError::General)
}

/// Removes a mapping. `granter` must be the table of [`Maptrack::granter_of`] the handle.
///
/// # Errors
/// [`GrantError::BadHandle`]: no such mapping of that granter; [`GrantError::General`]: it is not at that address (or
/// its page at that machine address), or the stage 2 could not be changed. The mapping is still there then, and the call can be repeated.
pub fn unmap_grant_ref<P: SharedPage, M: GrantMemory>(
    request: &UnmapRequest,
    granter: &mut GrantTable<P>,
    mapper: &mut Maptrack,
    memory: &mut M,
) -> Result<(), GrantError> {
    let mapping = mapper.get(request.handle)?;
    if mapping.granter != granter.owner() {
        return Err(GrantError::BadHandle);
    }
    if request.dev_bus_addr != 0
        && request.dev_bus_addr != granter.pinned_frame(mapping.reference)?.address().raw()
    {
        return Err(GrantError::General);
    }
    // Xen takes address 0 for "not this kind of mapping" and does nothing.
    if request.host_addr.raw() == 0 {
        return Ok(());
    }
    // The address must be the recorded one: otherwise the use would end and the real mapping stay behind.
    if request.host_addr.frame() != Some(mapping.at) {
        return Err(GrantError::General);
    }
    remove_mapping(request.handle, mapping, granter, mapper, memory)
}

/// Removes the mapping of `handle` wherever it is, when the mapper dies ([`Maptrack::scan`] finds them).
///
/// # Errors
/// As [`unmap_grant_ref`].
pub fn release_mapping<P: SharedPage, M: GrantMemory>(
    handle: u32,
    granter: &mut GrantTable<P>,
    mapper: &mut Maptrack,
    memory: &mut M,
) -> Result<(), GrantError> {
    let mapping = mapper.get(handle)?;
    if mapping.granter != granter.owner() {
        return Err(GrantError::BadHandle);
    }
    remove_mapping(handle, mapping, granter, mapper, memory)
}

fn remove_mapping<P: SharedPage, M: GrantMemory>(
    handle: u32,
    mapping: Mapping,
    granter: &mut GrantTable<P>,
    mapper: &mut Maptrack,
    memory: &mut M,
) -> Result<(), GrantError> {
    let user = mapper.owner();
    let mfn = granter.pinned_frame(mapping.reference)?;
    memory
        .unmap(user, mapping.at, mfn)
        .map_err(|_| GrantError::General)?;
    if mapper.has_identity(mapping.granter) {
        let identity = Gfn::new(mfn.raw());
        let after = mapper.reach_without(mfn, mapping.access);
        if after != mapper.reach(mfn) {
            let changed = match after {
                Some(access) => memory.map(user, identity, mfn, access),
                None => memory.unmap(user, identity, mfn),
            };
            changed.map_err(|_| GrantError::General)?;
        }
    }
    mapper.mapped.remove(mfn, mapping.access);
    mapper.remove(handle);
    granter.unpin(mapping.reference, mapping.access, memory);
    Ok(())
}

/// `unmap_and_replace` belongs to guests that have no stage 2.
///
/// # Errors
/// Always: [`GrantError::BadHandle`] without such a mapping, else [`GrantError::General`].
pub fn unmap_and_replace(handle: u32, mapper: &Maptrack) -> Result<(), GrantError> {
    mapper.get(handle)?;
    Err(GrantError::General)
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// A grant to the caller.
    Grant {
        /// Who granted.
        granter: DomId,
        /// The grant.
        reference: u32,
    },
    /// A frame of the caller.
    Own(Gfn),
}

/// What `copy` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// From where.
    pub source: CopyEnd,
    /// Offset in the source page, in bytes.
    pub source_offset: u16,
    /// To where.
    pub dest: CopyEnd,
    /// Offset in the destination page, in bytes.
    pub dest_offset: u16,
    /// Bytes.
    pub length: u16,
}

impl CopyRequest {
    /// Reads the operation of `caller`.
    ///
    /// # Errors
    /// [`GrantError::PermissionDenied`] for a frame (not a grant) of anyone but `DOMID_SELF`, [`GrantError::BadPage`]
    /// for a frame number that no machine has.
    pub fn parse(op: &abi::GnttabCopy, caller: DomId) -> Result<Self, GrantError> {
        let end = |end: &abi::GnttabCopyPtr, is_grant: bool| {
            if is_grant {
                let granter = if end.domid == DOMID_SELF {
                    caller
                } else {
                    DomId::new(end.domid)
                };
                // The reference is the low half of the union.
                let [a, b, c, d, ..] = end.u.to_le_bytes();
                Ok(CopyEnd::Grant {
                    granter,
                    reference: u32::from_le_bytes([a, b, c, d]),
                })
            } else if end.domid != DOMID_SELF {
                Err(GrantError::PermissionDenied)
            } else {
                Gfn::try_from(end.u)
                    .map(CopyEnd::Own)
                    .map_err(|_| GrantError::BadPage)
            }
        };
        Ok(Self {
            source: end(&op.source, op.flags & abi::GNTCOPY_SOURCE_GREF != 0)?,
            source_offset: op.source.offset,
            dest: end(&op.dest, op.flags & abi::GNTCOPY_DEST_GREF != 0)?,
            dest_offset: op.dest.offset,
            length: op.len,
        })
    }
}

/// Copies for `caller` between two pages, each a grant to it or its own. One table is locked at a time; the pages are
/// held by their references meanwhile.
///
/// # Errors
/// [`GrantError::BadCopyArg`]: beyond a page; [`GrantError::General`]: beyond the part that is granted; otherwise as for mapping a grant. Nothing was copied then.
pub fn grant_copy<T: GrantTables, M: GrantMemory>(
    request: &CopyRequest,
    caller: DomId,
    tables: &mut T,
    memory: &mut M,
) -> Result<(), GrantError> {
    let length = usize::from(request.length);
    let source_offset = usize::from(request.source_offset);
    let dest_offset = usize::from(request.dest_offset);
    if source_offset + length > PAGE_SIZE || dest_offset + length > PAGE_SIZE {
        return Err(GrantError::BadCopyArg);
    }
    let source = acquire(request.source, caller, Access::Read, tables, memory)?;
    let result = match acquire(request.dest, caller, Access::Write, tables, memory) {
        Ok(dest) => {
            let is_inside = source.window.contains(source_offset, length)
                && dest.window.contains(dest_offset, length);
            if is_inside {
                memory.copy((source.mfn, source_offset), (dest.mfn, dest_offset), length);
            }
            release(&dest, caller, Access::Write, tables, memory);
            if is_inside {
                Ok(())
            } else {
                Err(GrantError::General)
            }
        }
        Err(error) => Err(error),
    };
    release(&source, caller, Access::Read, tables, memory);
    result
}

/// A page held for a copy.
struct Held {
    mfn: Mfn,
    window: Window,
    /// The grants that it came by: the caller's, and the one that this led to.
    grants: [Option<(DomId, u32)>; 2],
}

fn acquire<T: GrantTables, M: GrantMemory>(
    end: CopyEnd,
    caller: DomId,
    access: Access,
    tables: &mut T,
    memory: &mut M,
) -> Result<Held, GrantError> {
    let (granter, reference) = match end {
        CopyEnd::Grant { granter, reference } => (granter, reference),
        CopyEnd::Own(gfn) => {
            let page = memory
                .get_page(caller, gfn)
                .map_err(|_| GrantError::BadPage)?;
            if access == Access::Write && !page.writable {
                memory.put_page(page.mfn);
                return Err(GrantError::General);
            }
            return Ok(Held {
                mfn: page.mfn,
                window: Window::PAGE,
                grants: [None; 2],
            });
        }
    };
    let first = tables.with(caller, granter, |table| {
        table.pin(reference, caller, access, Purpose::Copy, memory)
    })??;
    let (second, reference_2) = match first {
        Pinned::Page { mfn, window } => {
            return Ok(Held {
                mfn,
                window,
                grants: [Some((granter, reference)), None],
            });
        }
        Pinned::Grant { granter, reference } => (granter, reference),
    };
    // The first entry stays as it is while this use is counted; its table need not stay locked.
    let result = tables.with(granter, second, |table| {
        table.pin(reference_2, granter, access, Purpose::CopyThrough, memory)
    });
    let error = match result {
        Ok(Ok(Pinned::Page { mfn, window })) => {
            return Ok(Held {
                mfn,
                window,
                grants: [Some((granter, reference)), Some((second, reference_2))],
            });
        }
        Ok(Err(error)) => error,
        // As Xen; the caller did not name that domain.
        Ok(Ok(Pinned::Grant { .. })) | Err(_) => GrantError::General,
    };
    unpin(caller, (granter, reference), access, tables, memory);
    Err(error)
}

fn unpin<T: GrantTables, M: GrantMemory>(
    user: DomId,
    (granter, reference): (DomId, u32),
    access: Access,
    tables: &mut T,
    memory: &mut M,
) {
    let done = tables.with(user, granter, |table| {
        table.unpin(reference, access, memory);
    });
    if done.is_err() {
        error!("gnttab: {granter} is gone with entry {reference:#x} in use");
    }
}

fn release<T: GrantTables, M: GrantMemory>(
    held: &Held,
    caller: DomId,
    access: Access,
    tables: &mut T,
    memory: &mut M,
) {
    match held.grants {
        [Some(first), second] => {
            if let Some(second) = second {
                unpin(first.0, second, access, tables, memory);
            }
            unpin(caller, first, access, tables, memory);
        }
        [None, _] => memory.put_page(held.mfn),
    }
}

/// What `cache_flush` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFlush {
    /// Machine address of the page.
    pub address: u64,
    /// Offset in the page, in bytes.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// `GNTTAB_CACHE_*`.
    pub op: u32,
}

/// Maintains the data cache for a page that the owner of `mapper` owns or has mapped by a grant, so that its devices and
/// its CPUs see the same bytes.
///
/// Invalidating also writes back: dropping dirty lines could bring back what the page held before it was scrubbed, or
/// undo writes of its owner. A driver that invalidates around a transfer has no dirty lines to lose.
///
/// # Errors
/// [`Errno::Inval`]: malformed, no RAM there, or not reachable for the domain; [`Errno::Perm`]: a page of no domain
/// (XSA-232).
pub fn cache_flush<M: GrantMemory>(
    request: &CacheFlush,
    mapper: &Maptrack,
    memory: &mut M,
) -> Result<(), Errno> {
    let offset = usize::from(request.offset);
    let length = usize::from(request.length);
    if offset >= PAGE_SIZE
        || offset + length > PAGE_SIZE
        || request.op & !(abi::GNTTAB_CACHE_CLEAN | abi::GNTTAB_CACHE_INVAL) != 0
    {
        return Err(Errno::Inval);
    }
    if length == 0 || request.op == 0 {
        return Ok(());
    }
    let op = if request.op & abi::GNTTAB_CACHE_INVAL != 0 {
        CacheOp::CleanInvalidate
    } else {
        CacheOp::Clean
    };
    let mfn = HostPhys::new(request.address).frame().ok_or(Errno::Inval)?;
    // A frame mapped by a grant is held by the granter's active entry as long as the mapping is there.
    if mapper.reach(mfn).is_some() {
        memory.maintain_cache(mfn, offset, length, op);
        return Ok(());
    }
    match memory.get_frame(mapper.owner(), mfn) {
        Ok(()) => {
            memory.maintain_cache(mfn, offset, length, op);
            memory.put_page(mfn);
            Ok(())
        }
        Err(FrameError::Unowned) => Err(Errno::Perm),
        Err(FrameError::Invalid | FrameError::Foreign) => Err(Errno::Inval),
    }
}
