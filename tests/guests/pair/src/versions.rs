//! Version 2 of the grant table: there and back, with a copy of part of a page to ourselves.

use core::sync::atomic::Ordering::SeqCst;

use guest_lib::grants;
use guest_lib::hypercall::op;
use guest_lib::memory::Page;
use xen_abi::grant_table::*;
use xen_abi::hypercall as nr;

use crate::link::{FIRST, fill};

static STATUS: Page = Page::new();
static PAGES: [Page; 2] = [const { Page::new() }; 2];
const REFERENCE: usize = 40;

fn set_version(wanted: u32) -> (i32, u32) {
    let mut set = GnttabSetVersion { version: wanted };
    let result = op(
        nr::HYPERVISOR_GRANT_TABLE_OP,
        GNTTABOP_SET_VERSION,
        &mut set,
    );
    (result, set.version)
}

/// All of this module; version 1 afterwards.
pub fn check() {
    let set = set_version(2);
    assert!(set == (0, 2), "set_version: {set:?}");
    let mapped = grants::map_frame(1 << 31, &STATUS);
    assert!(mapped == 0, "status frame: {mapped}");
    let mut listed = [0u64];
    let mut get = GnttabGetStatusFrames {
        nr_frames: 1,
        dom: nr::DOMID_SELF,
        status: 99,
        frame_list: listed.as_mut_ptr() as usize as u64,
    };
    op(
        nr::HYPERVISOR_GRANT_TABLE_OP,
        GNTTABOP_GET_STATUS_FRAMES,
        &mut get,
    );
    // SAFETY: the hypervisor wrote it.
    let listed = unsafe { core::ptr::read_volatile(&listed[0]) };
    assert!(
        (get.status, listed) == (GNTST_OKAY, STATUS.frame()),
        "{}",
        get.status
    );

    // Bytes 256 to 511 of a page, for copies by ourselves.
    fill(&PAGES, 1);
    let word = |i: usize| grants::TABLE.word(REFERENCE * 16 + 4 * i);
    word(3).store(0, SeqCst);
    word(2).store(PAGES[0].frame() as u32, SeqCst);
    word(1).store(256 << 16 | 256, SeqCst);
    word(0).store(
        u32::from(FIRST) << 16 | u32::from(GTF_PERMIT_ACCESS | GTF_SUB_PAGE | GTF_READONLY),
        SeqCst,
    );
    let copy = |offset, length| {
        let source = grants::granted(FIRST, REFERENCE as u32, offset);
        grants::copy(
            source,
            grants::own(&PAGES[1], 0),
            length,
            GNTCOPY_SOURCE_GREF,
        )
    };
    assert!(copy(256, 256) == GNTST_OKAY);
    for i in 0..64 {
        assert!(PAGES[1].0[i].load(SeqCst) == PAGES[0].0[64 + i].load(SeqCst));
    }
    for (offset, length) in [(255, 1), (256, 257), (512, 1), (0, 4096)] {
        let status = copy(offset, length);
        assert!(status == GNTST_GENERAL_ERROR, "{offset} {length}: {status}");
    }
    let marks = STATUS.0[REFERENCE / 2].load(SeqCst);
    assert!(marks == 0, "still marked: {marks:#x}");
    let set = set_version(1);
    assert!(set == (0, 1), "back: {set:?}");
    assert!(word(0).load(SeqCst) == 0);
    let gone = guest_lib::exceptions::try_read(core::ptr::from_ref(&STATUS) as usize);
    assert!(gone.is_err(), "the status frame is still there");
}
