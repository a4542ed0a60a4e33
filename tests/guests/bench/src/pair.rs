//! What two domains have to do with each other: two instances of this guest, of which domain 1 measures. Domain 2
//! grants it two pages, and notes when events reach it.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use guest_lib::exceptions::{self, IRQ_PROLOGUE};
use guest_lib::memory::Page;
use guest_lib::{Platform, cpu, events, gic, grants, println, timer};
use xen_abi::event_channel as ev;
use xen_abi::grant_table::*;
use xen_abi::hypercall as nr;

use crate::arch;
use crate::cases::{TIMED, at, load, timed};
use crate::measure::{sampled, sampled_pair};

const FIRST: u16 = 1;
const SECOND: u16 = 2;
/// Ports of the static channel, of the first and the second domain.
const PORTS: [u32; 2] = [10, 11];
const CONTROL_REF: u32 = 8;
const DATA_REF: u32 = 9;
/// Words of the control page: when the last event came (low word of CNTPCT), and how many came.
const TIME: usize = 0;
const COUNT: usize = 4;
/// The virtual UART's flag register.
const UART_FLAGS: usize = 0x2200_0018;

static CONTROL: [Page; 1] = [Page::new()];
static DATA: [Page; 1] = [Page::new()];
static TIMER_IRQ: AtomicU32 = AtomicU32::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);
/// CNTPCT less CNTVCT.
static OFFSET: AtomicU32 = AtomicU32::new(0);
static IS_SECOND: AtomicU32 = AtomicU32::new(0);

fn on_irq(intid: u32, time: u64) {
    if intid == TIMER_IRQ.load(Relaxed) {
        timer::set_virtual_control(0);
        return;
    }
    let port = PORT.load(Relaxed);
    events::clear_pending(port);
    if IS_SECOND.load(Relaxed) != 0 {
        let time = (time as u32).wrapping_add(OFFSET.load(Relaxed));
        CONTROL[0].word(TIME).store(time, SeqCst);
        CONTROL[0].word(COUNT).fetch_add(1, SeqCst);
        events::send(port);
    }
}

/// Lets the other domain run for 300 us.
fn pause() {
    let deadline = cpu::cntvct() + u64::from(cpu::cntfrq()) / 3333;
    timer::set_virtual_compare(deadline);
    timer::set_virtual_control(1);
    while cpu::cntvct() < deadline {
        cpu::wfi();
    }
}

/// All of this module, in either domain.
pub fn run(platform: &Platform, is_first: bool) {
    IS_SECOND.store(u32::from(!is_first), Relaxed);
    TIMER_IRQ.store(platform.timers[2], Relaxed);
    PORT.store(PORTS[usize::from(!is_first)], Relaxed);
    // Both counters within one tick.
    let offset = core::iter::repeat_with(|| (cpu::cntpct(), cpu::cntvct(), cpu::cntpct()))
        .find(|(before, _, after)| before == after)
        .map_or(0, |(physical, virtual_, _)| physical.wrapping_sub(virtual_));
    OFFSET.store(offset as u32, Relaxed);
    exceptions::set_irq_hook(on_irq);
    let mapped = (events::map_shared_info(), grants::map_table());
    assert!(mapped == (0, 0), "add_to_physmap: {mapped:?}");
    if !is_first {
        grants::grant(CONTROL_REF, FIRST, &CONTROL[0], 0);
        grants::grant(DATA_REF, FIRST, &DATA[0], 0);
    }
    gic::enable(platform.timers[2]);
    gic::enable(platform.event_irq);
    cpu::enable_irq();
    if is_first {
        measure();
        println!("bench: done");
    } else {
        loop {
            cpu::wfi();
        }
    }
}

fn measure() {
    let given = grants::give_away(&CONTROL) + grants::give_away(&DATA);
    assert!(given == 2, "gave {given} pages away");
    let control = &CONTROL[0];
    while grants::map(SECOND, CONTROL_REF, control, 0).is_err() {
        pause();
    }
    let mut missed = 0;
    let argument = &ev::EvtchnSend { port: PORTS[0] };
    // Our own: the reading, the call, falling asleep, the other's way to its reading.
    sampled("event-send-to-other-domain", 3 + IRQ_PROLOGUE, |_| {
        pause();
        let before = control.word(COUNT).load(SeqCst);
        cpu::disable_irq();
        let start = arch::send_and_sleep(argument);
        cpu::enable_irq();
        cpu::isb();
        missed += u32::from(control.word(COUNT).load(SeqCst) != before + 1);
        control.word(TIME).load(SeqCst).wrapping_sub(start)
    });
    if missed != 0 {
        println!("bench: events failed {missed} times");
    }

    let mut failed = 0;
    sampled_pair(["grant-map", "grant-unmap"], TIMED, |_| {
        let mut map = grants::map_op(SECOND, DATA_REF, &DATA[0], 0);
        let (mapping, _) = grant_op(GNTTABOP_MAP_GRANT_REF, &mut map);
        let mut unmap = grants::unmap_op(map.handle, &DATA[0]);
        let (unmapping, _) = grant_op(GNTTABOP_UNMAP_GRANT_REF, &mut unmap);
        failed += u32::from((map.status, unmap.status) != (GNTST_OKAY, GNTST_OKAY));
        (mapping, unmapping)
    });
    grants::take_back(&DATA);
    for (name, length) in [("grant-copy-64", 64), ("grant-copy-4096", 4096)] {
        sampled(name, TIMED, |_| {
            let source = grants::granted(SECOND, DATA_REF, 0);
            let mut copy = grants::copy_op(
                source,
                grants::own(&DATA[0], 0),
                length,
                GNTCOPY_SOURCE_GREF,
            );
            let (time, _) = grant_op(GNTTABOP_COPY, &mut copy);
            failed += u32::from(copy.status != GNTST_OKAY);
            time
        });
    }
    if failed != 0 {
        println!("bench: grants failed {failed} times");
    }
    load("vuart-flags-read", UART_FLAGS);
}

fn grant_op<T>(command: u32, op: &mut T) -> (u32, i32) {
    timed(
        nr::HYPERVISOR_GRANT_TABLE_OP,
        [command as usize, at(op), 1, 0, 0],
    )
}
