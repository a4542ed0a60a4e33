//! `grant_table_op` (public/grant_table.h; xen-arm.md 3.5): loops over the elements; the operations are in
//! [`crate::gnttab`].

use core::mem::offset_of;

use xen_abi::grant_table as abi;
use zerocopy::{FromBytes, IntoBytes};

use super::grant_memory::Reach;
use super::guest::element;
use super::{Args, CallResult, Cx, Target};
use crate::addr::{DomId, GuestPhys, GuestVirt, Mfn};
use crate::errno::Errno;
use crate::gnttab::{
    self, CacheFlush, CopyRequest, GrantError, MapRequest, UnmapRequest, status_of,
};
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Arguments: command, array, count.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let command = args[0] as u32;
    let at = GuestVirt::new(args[1]);
    let count = args[2] as u32;
    if count > i32::MAX as u32 {
        return Err(Errno::Inval);
    }
    let cx = &*cx;
    match command {
        abi::GNTTABOP_MAP_GRANT_REF => each(cx, args, |at, op| map(cx, at, op)),
        abi::GNTTABOP_UNMAP_GRANT_REF => each(cx, args, |at, op| unmap(cx, at, op)),
        abi::GNTTABOP_SETUP_TABLE => {
            exactly_one(count)?;
            setup_table(cx, at)
        }
        // Xen has it for guests without stage 2 only.
        abi::GNTTABOP_TRANSFER => Err(Errno::OpNotSupp),
        abi::GNTTABOP_COPY => each(cx, args, |at, op| copy(cx, at, op)),
        abi::GNTTABOP_QUERY_SIZE => {
            exactly_one(count)?;
            query_size(cx, at)
        }
        abi::GNTTABOP_UNMAP_AND_REPLACE => each(cx, args, |at, op: abi::GnttabUnmapAndReplace| {
            let result = gnttab::unmap_and_replace(op.handle, &cx.domain.maptrack.lock());
            let status = status_of(&result);
            cx.write_field(at, offset_of!(abi::GnttabUnmapAndReplace, status), &status)
        }),
        abi::GNTTABOP_SET_VERSION => set_version(cx, at),
        abi::GNTTABOP_GET_STATUS_FRAMES => {
            exactly_one(count)?;
            get_status_frames(cx, at)
        }
        abi::GNTTABOP_GET_VERSION => {
            let mut op: abi::GnttabGetVersion = cx.read(at)?;
            let target = cx.find_controlled(op.dom)?;
            op.version = target.grants.lock().version();
            cx.write(at, &op)?;
            Ok(0)
        }
        abi::GNTTABOP_SWAP_GRANT_REF => each(cx, args, |at, op: abi::GnttabSwapGrantRef| {
            let result = cx.domain.grants.lock().swap(op.ref_a, op.ref_b);
            let status = status_of(&result);
            cx.write_field(at, offset_of!(abi::GnttabSwapGrantRef, status), &status)
        }),
        abi::GNTTABOP_CACHE_FLUSH => each(cx, args, |_, op| cache_flush(cx, &op)),
        _ => Err(Errno::NoSys),
    }
}

fn exactly_one(count: u32) -> Result<(), Errno> {
    if count == 1 {
        Ok(())
    } else {
        Err(Errno::Inval)
    }
}

fn reach<'a, H: Hal, M: GuestMemory>(cx: &Cx<'a, H, M>) -> Reach<'a, H> {
    Reach {
        hv: cx.hv,
        own: cx.domain,
    }
}

/// Copies each element in and runs `action` on it and its address. A failed element's status is in the element; an error
/// of `action` ends the call. When preempted, the arguments are moved on past what is done.
fn each<H: Hal, M: GuestMemory, T: FromBytes + IntoBytes>(
    cx: &Cx<'_, H, M>,
    args: &mut Args,
    mut action: impl FnMut(GuestVirt, T) -> Result<(), Errno>,
) -> CallResult {
    let count = args[2] as u32;
    let mut at = GuestVirt::new(args[1]);
    for done in 0..count {
        if done != 0 {
            at = element::<T>(at, 1)?;
            if cx.must_yield() {
                args[1] = at.raw();
                args[2] = u64::from(count - done);
                return Err(Errno::Restart);
            }
        }
        action(at, cx.read(at)?)?;
    }
    Ok(0)
}

fn map<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    at: GuestVirt,
    mut op: abi::GnttabMapGrantRef,
) -> Result<(), Errno> {
    let request = MapRequest {
        reference: op.ref_,
        host_addr: GuestPhys::new(op.host_addr),
        flags: op.flags,
    };
    let mut reach = reach(cx);
    let result = reach.granter(DomId::new(op.dom)).and_then(|granter| {
        let mut maptrack = cx.domain.maptrack.lock();
        let mut table = granter.grants.lock();
        gnttab::map_grant_ref(&request, &mut table, &mut maptrack, &mut reach)
    });
    op.status = status_of(&result);
    if let Ok(mapped) = result {
        op.handle = mapped.handle;
        op.dev_bus_addr = mapped.dev_bus_addr.raw();
    }
    cx.write(at, &op)
}

fn unmap<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    at: GuestVirt,
    op: abi::GnttabUnmapGrantRef,
) -> Result<(), Errno> {
    let request = UnmapRequest {
        handle: op.handle,
        host_addr: GuestPhys::new(op.host_addr),
        dev_bus_addr: op.dev_bus_addr,
    };
    let mut reach = reach(cx);
    let mut maptrack = cx.domain.maptrack.lock();
    let result = maptrack.granter_of(op.handle).and_then(|granter| {
        // What was mapped can be unmapped, whatever policy says now.
        let granter = cx.find(granter).map_err(|_| GrantError::BadDomain)?;
        let mut table = granter.grants.lock();
        gnttab::unmap_grant_ref(&request, &mut table, &mut maptrack, &mut reach)
    });
    drop(maptrack);
    let status = status_of(&result);
    cx.write_field(at, offset_of!(abi::GnttabUnmapGrantRef, status), &status)
}

fn copy<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    at: GuestVirt,
    op: abi::GnttabCopy,
) -> Result<(), Errno> {
    let caller = cx.domain.facts.id;
    let result = CopyRequest::parse(&op, caller)
        .and_then(|request| gnttab::grant_copy(&request, caller, &mut reach(cx), &mut reach(cx)));
    let status = status_of(&result);
    cx.write_field(at, offset_of!(abi::GnttabCopy, status), &status)
}

fn cache_flush<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::GnttabCacheFlush,
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
    gnttab::cache_flush(&request, &cx.domain.maptrack.lock(), &mut reach(cx))
}

/// Finds the domain whose table the caller wants to see or change.
fn controlled<'a, H: Hal, M: GuestMemory>(
    cx: &Cx<'a, H, M>,
    id: u16,
) -> Result<Target<'a, H>, GrantError> {
    cx.find_controlled(id).map_err(|error| match error {
        Errno::Perm => GrantError::PermissionDenied,
        _ => GrantError::BadDomain,
    })
}

#[inline(never)]
fn setup_table<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::GnttabSetupTable = cx.read(at)?;
    let result = controlled(cx, op.dom).and_then(|target| {
        let id = target.facts.id;
        target.grants.lock().setup_table(op.nr_frames, &mut || {
            cx.hv.alloc_shared_page(id, &target.account)
        })?;
        list_frames(cx, &target, &op)
    });
    let status = status_of(&result);
    cx.write_field(at, offset_of!(abi::GnttabSetupTable, status), &status)?;
    Ok(0)
}

/// Writes where each frame of a table is mapped; all ones where it is not. The table's limit bounds the list.
fn list_frames<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    target: &Target<'_, H>,
    op: &abi::GnttabSetupTable,
) -> Result<(), GrantError> {
    for index in 0..op.nr_frames {
        let mfn = target
            .grants
            .lock()
            .shared_frame(index, &mut || None)
            .map_err(|_| GrantError::General)?;
        list_frame(cx, op.frame_list, index, mfn)?;
    }
    Ok(())
}

/// Writes where a frame is mapped in its owner's memory to element `index` of a list.
#[inline(never)]
fn list_frame<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    list: u64,
    index: u32,
    mfn: Mfn,
) -> Result<(), GrantError> {
    // The frame table knows best: the guest may have mapped something else there since.
    let gfn = cx.hv.frames.xenheap_gfn(mfn);
    let gfn = gfn.map_or(u64::MAX, |gfn| u64::from(gfn.raw()));
    element::<u64>(GuestVirt::new(list), u64::from(index))
        .and_then(|at| cx.write(at, &gfn))
        .map_err(|_| GrantError::BadVirtAddr)
}

#[inline(never)]
fn query_size<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let mut op: abi::GnttabQuerySize = cx.read(at)?;
    let result = controlled(cx, op.dom).map(|target| target.grants.lock().size());
    op.status = status_of(&result);
    if let Ok(size) = result {
        op.nr_frames = size.frames;
        op.max_nr_frames = size.max_frames;
    }
    cx.write(at, &op)?;
    Ok(0)
}

#[inline(never)]
fn set_version<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::GnttabSetVersion = cx.read(at)?;
    let (hv, domain) = (cx.hv, cx.domain);
    let (result, version) = {
        let mut table = domain.grants.lock();
        let result = table.set_version(
            op.version,
            &mut || hv.alloc_shared_page(domain.facts.id, &domain.account),
            &mut |mfn| match hv.frames.xenheap_gfn(mfn) {
                Some(gfn) => {
                    let mut memory = hv.hal.p2m_memory(domain.vttbr);
                    domain.p2m.lock().remove(&mut memory, gfn)
                }
                None => Ok(()),
            },
        );
        (result, table.version())
    };
    // The guest learns the version that it has in any case; but without memory the call may be executed again, and must
    // find what it asked for.
    if !matches!(result, Err(Errno::NoMem)) {
        cx.write(at, &abi::GnttabSetVersion { version })?;
    }
    result.map(|()| 0)
}

#[inline(never)]
fn get_status_frames<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    let op: abi::GnttabGetStatusFrames = cx.read(at)?;
    let result = controlled(cx, op.dom).and_then(|target| {
        for index in 0..op.nr_frames {
            let mfn = target
                .grants
                .lock()
                .status_frames(op.nr_frames)?
                .nth(index as usize);
            list_frame(cx, op.frame_list, index, mfn.ok_or(GrantError::General)?)?;
        }
        Ok(())
    });
    let status = status_of(&result);
    cx.write_field(at, offset_of!(abi::GnttabGetStatusFrames, status), &status)?;
    Ok(0)
}
