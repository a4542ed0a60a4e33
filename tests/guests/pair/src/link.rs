//! What both sides share: the channel, the words of the control page, the data.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use guest_lib::memory::Page;
use guest_lib::{Platform, cpu, events, exceptions, gic, grants};

/// Domain numbers, as the device tree gives them.
pub const FIRST: u16 = 1;
/// As above.
pub const SECOND: u16 = 2;
/// The static channel's ports.
pub const PORTS: [u32; 2] = [10, 11];
/// The grant of the control page.
pub const CONTROL_REF: u32 = 8;
/// The first grant of a data page; the next read-only ones follow, of the same pages.
pub const DATA_REF: u32 = 16;
/// As above.
pub const DATA_RO_REF: u32 = DATA_REF + DATA_PAGES as u32;
/// Pages of data.
pub const DATA_PAGES: usize = 16;
/// Rounds of events.
pub const PINGS: u32 = 2000;
/// Rounds of data.
pub const BULKS: u32 = 20;

/// Words of the control page: what the first says.
pub const ASK: usize = 0;
/// What the second answers.
pub const ANSWER: usize = 4;
/// Checksum of what the first wrote.
pub const SUM: usize = 8;
/// Checksum of what the second wrote.
pub const SUM_BACK: usize = 12;

/// Upcalls taken.
pub static UPCALLS: AtomicU32 = AtomicU32::new(0);
static EVENT_IRQ: AtomicU32 = AtomicU32::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);

fn on_irq(intid: u32, _: u64) {
    if intid == EVENT_IRQ.load(Relaxed) {
        events::take(|port| assert!(port == PORT.load(Relaxed), "an event on port {port}"));
        UPCALLS.fetch_add(1, Relaxed);
    }
}

/// Sets events and the grant table up.
pub fn init(platform: &Platform, is_first: bool) {
    EVENT_IRQ.store(platform.event_irq, Relaxed);
    PORT.store(PORTS[usize::from(!is_first)], Relaxed);
    exceptions::set_irq_hook(on_irq);
    let (info, table) = (events::map_shared_info(), grants::map_table());
    assert!((info, table) == (0, 0), "add_to_physmap: {info} {table}");
    gic::enable(platform.event_irq);
}

/// Sends to the other domain.
pub fn notify() {
    let result = events::send(PORT.load(Relaxed));
    assert!(result == 0, "send: {result}");
}

/// Sleeps until `is_done`, which an event makes true.
pub fn wait(is_done: impl Fn() -> bool) {
    loop {
        // An interrupt that comes after the look still ends the sleep.
        cpu::disable_irq();
        if is_done() {
            cpu::enable_irq();
            return;
        }
        cpu::wfi();
        cpu::enable_irq();
        cpu::isb();
    }
}

/// A word of the control page.
pub fn control(page: &Page, offset: usize) -> u32 {
    page.word(offset).load(SeqCst)
}

/// Fills pages with numbers that depend on `seed`.
pub fn fill(pages: &[Page], seed: u32) {
    let mut x = seed.wrapping_mul(0x9e37_79b9) | 1;
    for word in pages.iter().flat_map(|page| &page.0) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        word.store(x, Relaxed);
    }
    cpu::dsb();
}

/// A checksum that sees the order of the words (Fletcher).
pub fn checksum(pages: &[Page]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for word in pages.iter().flat_map(|page| &page.0) {
        a = a.wrapping_add(word.load(Relaxed)).rotate_left(1);
        b = b.wrapping_add(a);
    }
    b
}

/// Gives pages away and takes others in their places, without what anybody had in them.
pub fn renew(pages: &[Page]) {
    let moved = (grants::give_away(pages), grants::take_back(pages));
    let count = pages.len() as i32;
    assert!(moved == (count, count), "{moved:?} pages of {count}");
    let mut words = pages.iter().flat_map(|page| &page.0);
    assert!(
        words.all(|word| word.load(Relaxed) == 0),
        "new pages with old contents"
    );
}

/// Changes every word.
pub fn invert(pages: &[Page]) {
    for word in pages.iter().flat_map(|page| &page.0) {
        word.store(!word.load(Relaxed), Relaxed);
    }
    cpu::dsb();
}
