//! The second domain: it answers, and maps and copies what the first grants.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use guest_lib::memory::Page;
use guest_lib::{cpu, grants, println};
use xen_abi::grant_table::*;

use crate::Ending;
use crate::link::*;

/// Where the first domain's pages are mapped.
static CONTROL: [Page; 1] = [Page::new()];
static DATA: [Page; DATA_PAGES] = [const { Page::new() }; DATA_PAGES];
/// Copies.
static COPY: [Page; DATA_PAGES] = [const { Page::new() }; DATA_PAGES];

/// Waits for the next that the first says, which must be that.
fn hear(number: u32) {
    wait(|| control(&CONTROL[0], ASK) != number - 1);
    let heard = control(&CONTROL[0], ASK);
    assert!(heard == number, "{heard} after {}", number - 1);
}

fn answer(number: u32) {
    CONTROL[0].word(ANSWER).store(number, SeqCst);
    notify();
}

fn map_data() -> [u32; DATA_PAGES] {
    let mut ops: [_; DATA_PAGES] =
        core::array::from_fn(|i| grants::map_op(FIRST, DATA_REF + i as u32, &DATA[i], 0));
    let result = grants::list(GNTTABOP_MAP_GRANT_REF, &mut ops);
    assert!(
        result == 0 && ops.iter().all(|op| op.status == GNTST_OKAY),
        "map: {result} {}",
        ops[0].status
    );
    ops.map(|op| op.handle)
}

fn unmap_data(handles: [u32; DATA_PAGES]) {
    let mut ops: [_; DATA_PAGES] = core::array::from_fn(|i| grants::unmap_op(handles[i], &DATA[i]));
    let result = grants::list(GNTTABOP_UNMAP_GRANT_REF, &mut ops);
    assert!(
        result == 0 && ops.iter().all(|op| op.status == GNTST_OKAY),
        "unmap: {result} {}",
        ops[0].status
    );
}

/// Copies all data from the first domain, or to it.
fn copy_data(is_back: bool) {
    // In pieces, so that offsets count too: 1000, 2000 and 1096 bytes.
    for (offset, length) in [(0, 1000), (1000, 2000), (3000, 1096)] {
        let mut ops: [_; DATA_PAGES] = core::array::from_fn(|i| {
            let theirs = grants::granted(FIRST, DATA_REF + i as u32, offset);
            let ours = grants::own(&COPY[i], offset);
            if is_back {
                grants::copy_op(ours, theirs, length, GNTCOPY_DEST_GREF)
            } else {
                grants::copy_op(theirs, ours, length, GNTCOPY_SOURCE_GREF)
            }
        });
        let result = grants::list(GNTTABOP_COPY, &mut ops);
        assert!(
            result == 0 && ops.iter().all(|op| op.status == GNTST_OKAY),
            "copy: {result} {}",
            ops[0].status
        );
    }
}

fn bulk(round: u32) {
    hear(round);
    let sum = control(&CONTROL[0], SUM);
    copy_data(false);
    assert!(checksum(&COPY) == sum, "round {round}: copied wrongly");
    let handles = map_data();
    assert!(checksum(&DATA) == sum, "round {round}: mapped wrongly");
    // Even rounds go back through the mappings, odd ones as a copy.
    if round.is_multiple_of(2) {
        invert(&DATA);
        unmap_data(handles);
    } else {
        unmap_data(handles);
        invert(&COPY);
        copy_data(true);
    }
    fill(&COPY, round);
    invert(&COPY);
    copy_data(false);
    CONTROL[0].word(SUM_BACK).store(checksum(&COPY), SeqCst);
    answer(round);
}

/// What must be refused.
fn refusals(is_real_xen: bool) {
    let at = &DATA[1];
    let refused = [
        (FIRST, DATA_RO_REF, 0, GNTST_GENERAL_ERROR),
        (
            FIRST,
            DATA_RO_REF + DATA_PAGES as u32,
            0,
            GNTST_GENERAL_ERROR,
        ),
        (FIRST, 1 << 20, 0, GNTST_BAD_GNTREF),
        (77, DATA_REF, 0, GNTST_BAD_DOMAIN),
        (FIRST, DATA_REF, GNTMAP_DEVICE_MAP, GNTST_GENERAL_ERROR),
    ];
    for (domain, reference, flags, status) in refused {
        let result = grants::map(domain, reference, at, flags);
        assert!(result == Err(status), "map {reference}: {result:?}");
    }
    let copies = [
        (DATA_RO_REF, GNTCOPY_DEST_GREF, 0, 8, GNTST_GENERAL_ERROR),
        (DATA_REF, GNTCOPY_DEST_GREF, 4090, 8, GNTST_BAD_COPY_ARG),
        (1 << 20, GNTCOPY_DEST_GREF, 0, 8, GNTST_BAD_GNTREF),
    ];
    for (reference, flags, offset, length, status) in copies {
        let (ours, theirs) = (
            grants::own(&COPY[0], 0),
            grants::granted(FIRST, reference, offset),
        );
        let result = grants::copy(ours, theirs, length, flags);
        assert!(result == status, "copy {reference}: {result}");
    }
    let mut transfer = [GnttabTransfer {
        mfn: COPY[0].frame(),
        domid: FIRST,
        _pad0: 0,
        ref_: 9,
        status: 99,
        _pad1: [0; 6],
    }];
    let result = grants::list(GNTTABOP_TRANSFER, &mut transfer);
    assert!(result == -95, "transfer: {result}");
    // Read-only it can be had.
    let handle = grants::map(FIRST, DATA_RO_REF, at, GNTMAP_READONLY);
    let handle = handle.unwrap_or_else(|status| panic!("read-only: {status}"));
    if !is_real_xen {
        let fault = guest_lib::exceptions::try_write(core::ptr::from_ref(at) as usize, 1);
        assert!(fault.is_some(), "a read-only grant was written");
    }
    assert!(at.0[1000].load(Relaxed) == COPY[0].0[1000].load(Relaxed));
    assert!(grants::unmap(handle, at) == GNTST_OKAY);
    assert!(grants::unmap(handle, at) == GNTST_BAD_HANDLE);
}

pub fn run(ending: Ending, is_real_xen: bool) {
    if !is_real_xen {
        // It clears only the pages of domains that are gone.
        fill(&DATA, 1);
        renew(&DATA);
    }
    let given = grants::give_away(&CONTROL) + grants::give_away(&DATA);
    assert!(given == 1 + DATA_PAGES as i32, "gave {given} pages away");
    // The first grants before it sends. An event may come before that: as the channel is made.
    for upcalls in 1.. {
        wait(|| UPCALLS.load(Relaxed) >= upcalls);
        match grants::map(FIRST, CONTROL_REF, &CONTROL[0], 0) {
            Ok(_) => break,
            Err(GNTST_GENERAL_ERROR) if upcalls == 1 => {}
            Err(status) => panic!("control page: {status}"),
        }
    }
    for round in 1..=PINGS {
        hear(round);
        answer(round);
    }
    println!("pair-b: {PINGS} rounds, {} upcalls", UPCALLS.load(Relaxed));
    for round in PINGS + 1..=PINGS + BULKS {
        bulk(round);
    }
    println!("pair-b: {BULKS} times {DATA_PAGES} pages and back");

    hear(PINGS + BULKS + 1);
    refusals(is_real_xen);
    let handle = grants::map(FIRST, DATA_REF, &DATA[0], 0);
    let handle = handle.unwrap_or_else(|status| panic!("map: {status}"));
    let before = checksum(&DATA[..1]);
    answer(PINGS + BULKS + 1);
    match ending {
        Ending::Good => {}
        Ending::FirstCrashes => {
            // The page is there as long as it is mapped, whatever became of the domain.
            for _ in 0..20 {
                let end = cpu::cntvct() + u64::from(cpu::cntfrq()) / 20;
                while cpu::cntvct() < end {}
                notify();
                assert!(checksum(&DATA[..1]) == before);
                invert(&DATA[..1]);
                invert(&DATA[..1]);
            }
            assert!(grants::unmap(handle, &DATA[0]) == GNTST_OKAY);
            println!("pair-b: survives");
            return;
        }
        Ending::SecondCrashes | Ending::SecondEnds => {
            wait(|| control(&CONTROL[0], ASK) == u32::MAX);
            println!("pair-b: ends");
            if ending == Ending::SecondCrashes {
                crate::crash();
            }
            guest_lib::power_off();
        }
    }
    hear(PINGS + BULKS + 2);
    assert!(checksum(&DATA[..1]) == before);
    let again = grants::map(FIRST, DATA_REF, &DATA[1], GNTMAP_READONLY);
    // The use in progress decides for more of the same; as Xen does it.
    if let Ok(second) = again {
        assert!(grants::unmap(second, &DATA[1]) == GNTST_OKAY);
    }
    assert!(grants::unmap(handle, &DATA[0]) == GNTST_OKAY);
    let refused = grants::map(FIRST, DATA_REF, &DATA[0], 0);
    assert!(
        refused == Err(GNTST_GENERAL_ERROR),
        "withdrawn: {refused:?}"
    );
    answer(PINGS + BULKS + 2);
    wait(|| control(&CONTROL[0], ASK) == u32::MAX);
    let taken = grants::take_back(&DATA);
    assert!(taken == DATA_PAGES as i32, "took {taken} pages back");
    answer(u32::MAX);
}
