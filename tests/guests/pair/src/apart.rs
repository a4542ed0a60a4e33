//! Domains that a toolstack makes and destroys, with neither a channel nor a control page. The one that has no `me=` grants
//! its pages to the domains `peer` to `peer + 2`, one after the other. Each of these is told its own number, by `me=`, and
//! maps them from domain `peer`; `pair=crashes`: it crashes then; `pair=outlives`: it keeps them until the granter is gone.

use guest_lib::memory::Page;
use guest_lib::{cpu, grants, println};
use xen_abi::grant_table::*;

use crate::link::*;

/// Mappers.
const MAPPERS: u16 = 3;

static DATA: [Page; DATA_PAGES] = [const { Page::new() }; DATA_PAGES];
static READ_ONLY: [Page; DATA_PAGES] = [const { Page::new() }; DATA_PAGES];
static COPY: [Page; DATA_PAGES] = [const { Page::new() }; DATA_PAGES];

/// Waits, looking some times a second.
fn poll(is_done: impl Fn() -> bool) {
    while !is_done() {
        let end = cpu::cntvct() + u64::from(cpu::cntfrq()) / 50;
        while cpu::cntvct() < end {}
    }
}

/// All grants: those of the pages, then read-only ones of the same pages.
fn references() -> core::ops::Range<u32> {
    DATA_REF..DATA_RO_REF + DATA_PAGES as u32
}

fn granter(peer: u16) {
    for mapper in peer..peer + MAPPERS {
        fill(&DATA, mapper.into());
        for (i, page) in DATA.iter().enumerate() {
            grants::grant(DATA_REF + i as u32, mapper, page, 0);
            grants::grant(DATA_RO_REF + i as u32, mapper, page, GTF_READONLY);
        }
        println!("pair-a: grants to {mapper}");
        poll(|| references().all(grants::is_used));
        assert!(!references().any(grants::end), "ended while it is in use");
        println!("pair-a: {mapper} has all");
        // It never unmaps: only its end can do that.
        poll(|| !references().any(grants::is_used));
        assert!(
            references().all(grants::end),
            "a grant that is free does not end"
        );
        fill(&COPY, mapper.into());
        invert(&COPY);
        assert!(
            checksum(&DATA) == checksum(&COPY),
            "what {mapper} wrote last"
        );
        // Nobody holds the pages: others take their places.
        renew(&DATA);
        println!("pair-a: {mapper} is gone");
    }
    panic!("outlived everybody");
}

fn mapper(peer: u16, me: u16, ending: &str) {
    let given = grants::give_away(&DATA) + grants::give_away(&READ_ONLY);
    assert!(given == 2 * DATA_PAGES as i32, "gave {given} pages away");
    let map = |places: &[Page; DATA_PAGES], first: u32, flags| -> [u32; DATA_PAGES] {
        core::array::from_fn(|i| {
            let handle = grants::map(peer, first + i as u32, &places[i], flags);
            handle.unwrap_or_else(|status| panic!("map {}: {status}", first + i as u32))
        })
    };
    // Granted only after its predecessor's end.
    poll(|| match grants::map(peer, DATA_REF, &DATA[0], 0) {
        Ok(handle) => grants::unmap(handle, &DATA[0]) == GNTST_OKAY,
        Err(_) => false,
    });
    let handles = (
        map(&DATA, DATA_REF, 0),
        map(&READ_ONLY, DATA_RO_REF, GNTMAP_READONLY),
    );
    fill(&COPY, me.into());
    assert!(
        checksum(&DATA) == checksum(&COPY),
        "not what was written for us"
    );
    invert(&DATA);
    invert(&COPY);
    println!("pair-b: {me} has all");
    match ending {
        "crashes" => {
            // Seen by the granter before that.
            let end = cpu::cntvct() + u64::from(cpu::cntfrq()) / 2;
            poll(|| cpu::cntvct() > end);
            println!("pair-b: crashes");
            crate::crash();
        }
        "outlives" => {
            // A new mapping is refused once the granter is dying; the first reference is asked for again.
            static ANOTHER: [Page; 1] = [Page::new()];
            assert!(grants::give_away(&ANOTHER) == 1);
            poll(|| match grants::map(peer, DATA_REF, &ANOTHER[0], 0) {
                Ok(handle) => {
                    assert!(grants::unmap(handle, &ANOTHER[0]) == GNTST_OKAY);
                    false
                }
                Err(status) => status == GNTST_BAD_DOMAIN,
            });
            let is_there =
                || checksum(&DATA) == checksum(&COPY) && checksum(&READ_ONLY) == checksum(&COPY);
            let end = cpu::cntvct() + u64::from(cpu::cntfrq());
            while cpu::cntvct() < end {
                assert!(is_there(), "contents of a page that is mapped");
            }
            invert(&DATA);
            invert(&COPY);
            assert!(is_there(), "a write to a page that is mapped");
            println!("pair-b: {me} has outlived {peer}");
            // The test looks at the memory now; then they are given back.
            let end = cpu::cntvct() + 8 * u64::from(cpu::cntfrq());
            poll(|| cpu::cntvct() > end);
            for (handle, place) in handles
                .0
                .iter()
                .zip(&DATA)
                .chain(handles.1.iter().zip(&READ_ONLY))
            {
                assert!(grants::unmap(*handle, place) == GNTST_OKAY);
            }
            println!("pair-b: {me} has unmapped all");
        }
        _ => {}
    }
    poll(|| false);
}

/// Does its part, if the command line asks for it.
pub fn run(arguments: &str) -> bool {
    let value = |name| {
        arguments
            .split(' ')
            .find_map(|word| word.strip_prefix(name))
    };
    let number = |name| value(name).and_then(|value| value.parse::<u16>().ok());
    let Some(peer) = number("peer=") else {
        return false;
    };
    let table = grants::map_table();
    assert!(table == 0, "the grant table: {table}");
    match number("me=") {
        None => granter(peer),
        Some(me) => mapper(peer, me, value("pair=").unwrap_or("")),
    }
    true
}
