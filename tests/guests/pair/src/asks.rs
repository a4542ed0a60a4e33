//! The first domain: it asks, and grants its pages.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use guest_lib::memory::Page;
use guest_lib::{events, grants, println};
use xen_abi::grant_table::GTF_READONLY;

use crate::Ending;
use crate::link::*;

static CONTROL: Page = Page::new();
static DATA: [Page; DATA_PAGES] = [const { Page::new() }; DATA_PAGES];

/// Says something and waits for the answer.
fn ask(number: u32) {
    CONTROL.word(ASK).store(number, SeqCst);
    notify();
    wait(|| control(&CONTROL, ANSWER) == number);
}

pub fn run(ending: Ending) {
    let port = PORTS[0];
    assert!(!events::is_pending(port), "an event nobody sent");
    grants::grant(CONTROL_REF, SECOND, &CONTROL, 0);
    for (i, page) in DATA.iter().enumerate() {
        grants::grant(DATA_REF + i as u32, SECOND, page, 0);
        grants::grant(DATA_RO_REF + i as u32, SECOND, page, GTF_READONLY);
    }
    for round in 1..=PINGS {
        ask(round);
    }
    println!("pair-a: {PINGS} rounds, {} upcalls", UPCALLS.load(Relaxed));
    for round in PINGS + 1..=PINGS + BULKS {
        fill(&DATA, round);
        CONTROL.word(SUM).store(checksum(&DATA), SeqCst);
        ask(round);
        let (sum, told) = (checksum(&DATA), control(&CONTROL, SUM_BACK));
        assert!(
            sum == told,
            "round {round}: {sum:#x} came back, {told:#x} was sent"
        );
    }
    println!("pair-a: {BULKS} times {DATA_PAGES} pages and back");

    // The second has the first data page mapped now, and a grant in use cannot be ended.
    ask(PINGS + BULKS + 1);
    assert!(grants::is_used(DATA_REF) && !grants::end(DATA_REF));
    match ending {
        Ending::Good => {}
        Ending::FirstCrashes => {
            println!("pair-a: crashes");
            crate::crash();
        }
        Ending::SecondCrashes | Ending::SecondEnds => {
            CONTROL.word(ASK).store(u32::MAX, SeqCst);
            notify();
            survive();
            return;
        }
    }
    // Withdrawn while it is mapped: the mapping stays, a new one is refused.
    grants::TABLE.word(DATA_REF as usize * 8).store(0, SeqCst);
    ask(PINGS + BULKS + 2);
    assert!(!grants::is_used(DATA_REF));
    ask(u32::MAX);
}

/// The other domain is about to die with mappings of our pages: they stay ours, and the hypervisor says nothing else.
fn survive() {
    for _ in 0..20 {
        // Long enough for the other to end, on any machine.
        let end = guest_lib::cpu::cntvct() + u64::from(guest_lib::cpu::cntfrq()) / 20;
        while guest_lib::cpu::cntvct() < end {}
        notify();
        fill(&DATA, 7);
        let sum = checksum(&DATA);
        invert(&DATA);
        invert(&DATA);
        assert!(checksum(&DATA) == sum, "somebody writes to our pages");
    }
    println!("pair-a: survives");
}
