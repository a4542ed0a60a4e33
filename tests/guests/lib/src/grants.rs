//! The guest's grant table, version 1: its first frame, in the place of a page of the guest's.

use core::sync::atomic::Ordering::SeqCst;

use xen_abi::grant_table::*;
use xen_abi::hypercall as nr;
use xen_abi::memory::{
    AddToPhysmap, MemoryReservation, XENMAPSPACE_GRANT_TABLE, XENMEM_ADD_TO_PHYSMAP,
    XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP,
};

use crate::hypercall::{op, raw};
use crate::memory::Page;

/// The first frame of the table, once [`map_table`] was called.
pub static TABLE: Page = Page::new();

/// Puts frame `index` of the table (bit 31: of its status words) in the place of a page.
pub fn map_frame(index: u32, place: &Page) -> i32 {
    let mut add = AddToPhysmap {
        domid: nr::DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_GRANT_TABLE,
        idx: u64::from(index),
        gpfn: place.frame(),
    };
    op(nr::HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut add)
}

/// Puts the first frame of the table at [`TABLE`].
pub fn map_table() -> i32 {
    map_frame(0, &TABLE)
}

/// Grants a page to a domain.
pub fn grant(reference: u32, domain: u16, page: &Page, flags: u16) {
    let at = reference as usize * 8;
    TABLE.word(at + 4).store(page.frame() as u32, SeqCst);
    let word = u32::from(domain) << 16 | u32::from(flags | GTF_PERMIT_ACCESS);
    TABLE.word(at).store(word, SeqCst);
}

/// Is a grant in use?
pub fn is_used(reference: u32) -> bool {
    let flags = TABLE.word(reference as usize * 8).load(SeqCst) as u16;
    flags & (GTF_READING | GTF_WRITING) != 0
}

/// Ends a grant, unless it is in use.
pub fn end(reference: u32) -> bool {
    let word = TABLE.word(reference as usize * 8);
    let seen = word.load(SeqCst);
    seen as u16 & (GTF_READING | GTF_WRITING) == 0
        && word.compare_exchange(seen, 0, SeqCst, SeqCst).is_ok()
}

/// A list of operations; the result is that of the hypercall.
#[inline(always)]
pub fn list<T>(command: u32, list: &mut [T]) -> i32 {
    // SAFETY: the structures are ours and plain data. Pages in whose place something is mapped are [`Page`]s.
    unsafe {
        raw::<true>(
            nr::HYPERVISOR_GRANT_TABLE_OP,
            [
                command as usize,
                list.as_mut_ptr() as usize,
                list.len(),
                0,
                0,
            ],
        )
    }
}

/// What maps a grant in the place of a page that was given away.
pub fn map_op(domain: u16, reference: u32, place: &Page, flags: u32) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: place.frame() << 12,
        flags: flags | GNTMAP_HOST_MAP,
        ref_: reference,
        dom: domain,
        status: 99,
        handle: 0,
        dev_bus_addr: 0,
    }
}

/// What unmaps it.
pub fn unmap_op(handle: u32, place: &Page) -> GnttabUnmapGrantRef {
    GnttabUnmapGrantRef {
        host_addr: place.frame() << 12,
        dev_bus_addr: 0,
        handle,
        status: 99,
        _pad: 0,
    }
}

/// Maps a grant: its handle, or the status.
pub fn map(domain: u16, reference: u32, place: &Page, flags: u32) -> Result<u32, i16> {
    let mut ops = [map_op(domain, reference, place, flags)];
    list(GNTTABOP_MAP_GRANT_REF, &mut ops);
    match ops[0].status {
        GNTST_OKAY => Ok(ops[0].handle),
        status => Err(status),
    }
}

/// Unmaps it; the status.
pub fn unmap(handle: u32, place: &Page) -> i16 {
    let mut ops = [unmap_op(handle, place)];
    list(GNTTABOP_UNMAP_GRANT_REF, &mut ops);
    ops[0].status
}

/// One end of a copy: a grant.
pub fn granted(domain: u16, reference: u32, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u: u64::from(reference),
        domid: domain,
        offset,
        _pad: 0,
    }
}

/// One end of a copy: a page of ours.
pub fn own(page: &Page, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u: page.frame(),
        domid: nr::DOMID_SELF,
        offset,
        _pad: 0,
    }
}

/// A copy; `flags` say which ends are grants.
pub fn copy_op(source: GnttabCopyPtr, dest: GnttabCopyPtr, len: u16, flags: u16) -> GnttabCopy {
    GnttabCopy {
        source,
        dest,
        len,
        flags,
        status: 99,
        _pad: 0,
    }
}

/// Copies; the status.
pub fn copy(source: GnttabCopyPtr, dest: GnttabCopyPtr, len: u16, flags: u16) -> i16 {
    let mut ops = [copy_op(source, dest, len, flags)];
    list(GNTTABOP_COPY, &mut ops);
    ops[0].status
}

fn reserve(command: u32, pages: &[Page]) -> i32 {
    let mut done = 0;
    for page in pages {
        let frame = [page.frame()];
        let mut list = MemoryReservation {
            extent_start: frame.as_ptr() as usize as u64,
            nr_extents: 1,
            extent_order: 0,
            mem_flags: 0,
            domid: nr::DOMID_SELF,
            _pad: [0; 6],
        };
        done += op(nr::HYPERVISOR_MEMORY_OP, command, &mut list);
    }
    done
}

/// Gives the memory of pages away, so that grants can be mapped there; how many.
pub fn give_away(pages: &[Page]) -> i32 {
    reserve(XENMEM_DECREASE_RESERVATION, pages)
}

/// Takes memory for pages that have none; how many.
pub fn take_back(pages: &[Page]) -> i32 {
    reserve(XENMEM_POPULATE_PHYSMAP, pages)
}
