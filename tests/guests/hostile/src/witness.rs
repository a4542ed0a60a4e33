//! A guest that behaves: what it has must stay as it is, and time must go on.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guest_lib::exceptions::{set_irq_hook, taken};
use guest_lib::memory::Page;
use guest_lib::{Start, cpu, events, gic, println, timer};

/// Pages with a pattern.
const PAGES: usize = 64;
static MEMORY: [Page; PAGES] = [const { Page::new() }; PAGES];
static TIMER_IRQ: AtomicU32 = AtomicU32::new(0);

fn pattern(page: usize, word: usize, round: u32) -> u32 {
    (page as u32).wrapping_mul(0x9e37_79b9)
        ^ (word as u32).wrapping_mul(0x85eb_ca6b)
        ^ round.wrapping_mul(0xc2b2_ae35)
}

fn on_irq(intid: u32, _time: u64) {
    if intid == TIMER_IRQ.load(Relaxed) {
        timer::set_virtual_control(0);
    }
}

/// Gives the registers that nobody else may change or see a value of this round.
fn set_registers(round: u32) {
    // SAFETY: registers that no Rust code uses: thread pointers, who may read the counters, VFP.
    unsafe {
        asm!(
            ".fpu neon",
            "mcr p15, 0, {0}, c13, c0, 2",
            "mcr p15, 0, {0}, c13, c0, 3",
            "mcr p15, 0, {0}, c13, c0, 4",
            "mcr p15, 0, {1}, c14, c1, 0",
            "mrc p15, 0, {2}, c1, c0, 2",
            "orr {2}, {2}, #0xf00000",
            "mcr p15, 0, {2}, c1, c0, 2",
            "isb",
            "mov {2}, #0x40000000",
            "vmsr fpexc, {2}",
            "vmov d0, {0}, {1}",
            "vmov d15, {1}, {0}",
            "vmov d31, {0}, {0}",
            in(reg) round.wrapping_mul(0x9e37_79b9), in(reg) round & 3, out(reg) _
        );
    }
}

/// Returns whether they have it still.
fn has_registers(round: u32) -> bool {
    let (mut values, kernel): ([u32; 9], u32) = ([0; 9], round & 3);
    // SAFETY: reads only.
    unsafe {
        asm!(
            ".fpu neon",
            "mrc p15, 0, {0}, c13, c0, 2", "str {0}, [{2}, #0]",
            "mrc p15, 0, {0}, c13, c0, 3", "str {0}, [{2}, #4]",
            "mrc p15, 0, {0}, c13, c0, 4", "str {0}, [{2}, #8]",
            "vmov {0}, {1}, d0", "str {0}, [{2}, #12]", "str {1}, [{2}, #16]",
            "vmov {0}, {1}, d15", "str {1}, [{2}, #20]",
            "vmov {0}, {1}, d31", "str {0}, [{2}, #24]", "str {1}, [{2}, #28]",
            "mrc p15, 0, {0}, c14, c1, 0", "str {0}, [{2}, #32]",
            out(reg) _, out(reg) _, in(reg) values.as_mut_ptr()
        );
    }
    let mark = round.wrapping_mul(0x9e37_79b9);
    let expected = [mark, mark, mark, mark, kernel, mark, mark, mark, kernel];
    if values != expected {
        println!("witness: WRONG: registers {values:x?}, not {expected:x?}");
    }
    values == expected
}

/// Never ends.
pub fn run(start: &Start) -> ! {
    let irq = start.platform.timers[2];
    TIMER_IRQ.store(irq, Relaxed);
    set_irq_hook(on_irq);
    gic::enable(irq);
    cpu::enable_irq();
    // Xenith's domains are enhanced only if their description says so.
    let has_events = start.platform.event_irq != 0 && events::map_shared_info() == 0;
    let port = if has_events {
        events::bind_ipi().ok()
    } else {
        None
    };
    let period = u64::from(cpu::cntfrq()) / 4;
    println!("witness: begins, events {}", port.is_some());
    for round in 0u32.. {
        for (page, memory) in MEMORY.iter().enumerate() {
            for (word, cell) in memory.0.iter().enumerate() {
                cell.store(pattern(page, word, round), Relaxed);
            }
        }
        set_registers(round);
        let before = taken(irq);
        let begin = cpu::cntvct();
        timer::set_virtual_compare(begin + period);
        timer::set_virtual_control(1);
        // It may take long on a busy machine, but it comes.
        while taken(irq) == before {
            cpu::wfi();
        }
        if cpu::cntvct() < begin + period {
            println!("witness: WRONG: the timer came early");
        }
        let _ = has_registers(round);
        if let Some(port) = port {
            let result = events::send(port);
            if result != 0 || !events::is_pending(port) {
                println!("witness: WRONG: an event is lost ({result})");
            }
            events::clear_pending(port);
        }
        for (page, memory) in MEMORY.iter().enumerate() {
            for (word, cell) in memory.0.iter().enumerate() {
                let (found, expected) = (cell.load(Relaxed), pattern(page, word, round));
                if found != expected {
                    println!(
                        "witness: WRONG: page {page} word {word}: {found:#x}, not {expected:#x}"
                    );
                }
            }
        }
        println!("witness: round {round} is right.");
    }
    guest_lib::power_off()
}
