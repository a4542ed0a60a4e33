//! Interrupts, events and sleep.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guest_lib::exceptions::{self, IRQ_DELAY, IRQ_PROLOGUE};
use guest_lib::hypercall::{event_channel, raw};
use guest_lib::{Platform, cpu, events, gic, println, timer};
use xen_abi::event_channel as ev;
use xen_abi::hypercall as nr;

use crate::arch;
use crate::cases::{TIMED, at, call, timed};
use crate::measure::{delayed, instructions_per_tick, looped, sampled, ticks};

/// Low word of the virtual counter at the last interrupt.
static TIME: AtomicU32 = AtomicU32::new(0);
/// Interrupts taken.
static COUNT: AtomicU32 = AtomicU32::new(0);
static TIMER_IRQ: AtomicU32 = AtomicU32::new(0);
static EVENT_IRQ: AtomicU32 = AtomicU32::new(0);
static FIFO: AtomicU32 = AtomicU32::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);

fn on_irq(intid: u32, time: u64) {
    TIME.store(time as u32, Relaxed);
    COUNT.store(COUNT.load(Relaxed) + 1, Relaxed);
    if intid == TIMER_IRQ.load(Relaxed) {
        timer::set_virtual_control(0);
    } else if intid == EVENT_IRQ.load(Relaxed) {
        if FIFO.load(Relaxed) == 0 {
            events::clear_pending(PORT.load(Relaxed));
        } else {
            events::fifo_take(|_| ());
        }
    }
}

/// The guest's own instructions from a reading of the counter in the same `asm!` as what causes the interrupt: the
/// reading, the cause, the handler's way to its reading.
const TO_HANDLER: u32 = 2 + IRQ_PROLOGUE;

/// `cause` reads the counter (its low word) and executes one instruction; gives the ticks until the handler read the
/// counter, or fails.
#[inline(always)]
fn until_handler(name: &str, cause: impl FnOnce() -> u32) -> u32 {
    let before = COUNT.load(Relaxed);
    let start = cause();
    if COUNT.load(Relaxed) == before {
        // Not delivered before the next instruction: wait a little.
        let end = cpu::cntvct() + 10_000;
        while COUNT.load(Relaxed) == before {
            assert!(cpu::cntvct() < end, "{name}: no interrupt");
        }
    }
    TIME.load(Relaxed).wrapping_sub(start)
}

/// Sends to a port whose upcall interrupts us.
#[inline(always)]
fn event_to_handler<T>(name: &str, operation: u32, argument: &T) -> u32 {
    until_handler(name, || arch::event_from_now(operation, argument))
}

/// All of this module.
pub fn run(platform: &Platform) {
    TIMER_IRQ.store(platform.timers[2], Relaxed);
    EVENT_IRQ.store(platform.event_irq, Relaxed);
    exceptions::set_irq_hook(on_irq);
    cpu::enable_irq();
    let sgi = 3;
    gic::enable(sgi);
    let sgir = gic::distributor(gic::GICD_SGIR);
    sampled("sgi-to-handler", TO_HANDLER, |_| {
        until_handler("sgi", || arch::store_from_now(sgir, gic::sgi_self(sgi)))
    });

    gic::enable(platform.timers[2]);
    timer_running();
    sleep();

    let mapped = events::map_shared_info();
    if mapped != 0 {
        println!("bench: shared_info could not be mapped: {mapped}");
        return;
    }
    gic::enable(platform.event_irq);
    let (from, port) = pair();
    PORT.store(port, Relaxed);
    let argument = &ev::EvtchnSend { port: from };
    let unmask = &ev::EvtchnUnmask { port };
    events::set_mask(port, true);
    two_level_loops(port, argument);
    status(from);
    poll(port);
    events::clear_pending(port);
    events::set_mask(port, false);
    sampled("event-send-to-handler", TO_HANDLER, |_| {
        event_to_handler("event", ev::EVTCHNOP_SEND, argument)
    });
    sampled("event-unmask-to-handler", TO_HANDLER, |_| {
        events::set_mask(port, true);
        events::send(from);
        event_to_handler("unmask", ev::EVTCHNOP_UNMASK, unmask)
    });
    alloc_close();
    events::close(from);
    events::close(port);

    let r = events::fifo_init();
    if r != 0 {
        println!("bench: FIFO event channels: {r}");
        return;
    }
    FIFO.store(1, Relaxed);
    let (from, port) = pair();
    let argument = &ev::EvtchnSend { port: from };
    events::fifo_set_mask(port, true);
    looped_event("fifo-send-masked", argument, || {
        events::fifo_clear_pending(port)
    });
    events::fifo_clear_pending(port);
    events::fifo_set_mask(port, false);
    sampled("fifo-send-to-handler", TO_HANDLER, |_| {
        event_to_handler("fifo", ev::EVTCHNOP_SEND, argument)
    });
    events::close(from);
    events::close(port);
    timer::set_virtual_control(0);
    report_overhead();
}

/// `send` in a loop, with `reset` before each.
fn looped_event(name: &str, argument: &ev::EvtchnSend, reset: impl Fn()) {
    let a = [
        ev::EVTCHNOP_SEND as usize,
        core::ptr::from_ref(argument) as usize,
        0,
        0,
        0,
    ];
    looped(
        name,
        256,
        || {
            reset();
            // SAFETY: our own structure.
            unsafe { raw::<true>(nr::HYPERVISOR_EVENT_CHANNEL_OP, a) };
        },
        || {
            reset();
            // SAFETY: nothing happens.
            unsafe { raw::<false>(nr::HYPERVISOR_EVENT_CHANNEL_OP, a) };
        },
    );
}

fn two_level_loops(port: u32, argument: &ev::EvtchnSend) {
    looped_event("event-send-masked", argument, || {
        events::clear_pending(port)
    });
    events::send(argument.port);
    looped_event("event-send-pending", argument, || ());
}

/// The status of a port.
fn status(port: u32) {
    let mut status = ev::EvtchnStatus {
        dom: nr::DOMID_SELF,
        _pad: 0,
        port,
        status: 0,
        vcpu: 0,
        u0: 0,
        u1: 0,
    };
    let arguments = [ev::EVTCHNOP_STATUS as usize, at(&mut status), 0, 0, 0];
    call(
        "event-status",
        128,
        nr::HYPERVISOR_EVENT_CHANNEL_OP,
        arguments,
    );
}

/// `sched_op` poll for a port that is pending.
fn poll(port: u32) {
    let ports = [port];
    let mut poll = xen_abi::sched::SchedPoll {
        ports: ports.as_ptr() as usize as u64,
        nr_ports: 1,
        _pad: 0,
        timeout: 0,
    };
    let arguments = [
        xen_abi::sched::SCHEDOP_POLL as usize,
        at(&mut poll),
        0,
        0,
        0,
    ];
    call("poll-pending", 128, nr::HYPERVISOR_SCHED_OP, arguments);
}

/// Making and closing a port, both together.
fn alloc_close() {
    sampled("event-alloc-close", 2 * TIMED, |_| {
        let mut alloc = ev::EvtchnAllocUnbound {
            dom: nr::DOMID_SELF,
            remote_dom: 0,
            port: 0,
        };
        let made = [ev::EVTCHNOP_ALLOC_UNBOUND as usize, at(&mut alloc), 0, 0, 0];
        let (time, _) = timed(nr::HYPERVISOR_EVENT_CHANNEL_OP, made);
        let mut close = ev::EvtchnClose { port: alloc.port };
        let closed = [ev::EVTCHNOP_CLOSE as usize, at(&mut close), 0, 0, 0];
        time + timed(nr::HYPERVISOR_EVENT_CHANNEL_OP, closed).0
    });
}

/// Two ports of ours that are connected: (where it is sent, where it arrives).
fn pair() -> (u32, u32) {
    let mut alloc = ev::EvtchnAllocUnbound {
        dom: nr::DOMID_SELF,
        remote_dom: nr::DOMID_SELF,
        port: 0,
    };
    let r = event_channel(ev::EVTCHNOP_ALLOC_UNBOUND, &mut alloc);
    assert!(r == 0, "alloc_unbound: {r}");
    let mut bind = ev::EvtchnBindInterdomain {
        remote_dom: nr::DOMID_SELF,
        _pad: 0,
        remote_port: alloc.port,
        local_port: 0,
    };
    let r = event_channel(ev::EVTCHNOP_BIND_INTERDOMAIN, &mut bind);
    assert!(r == 0, "bind_interdomain: {r}");
    (bind.local_port, alloc.port)
}

/// The virtual timer fires `distance` ticks after now, while the guest runs or sleeps: ticks from the deadline to the
/// handler's reading.
fn timer_after(distance: u32, delay: u32, asleep: bool) -> u32 {
    let before = COUNT.load(Relaxed);
    IRQ_DELAY.store(delay, Relaxed);
    let deadline = cpu::cntvct() + u64::from(distance);
    timer::set_virtual_compare(deadline);
    timer::set_virtual_control(1);
    if asleep {
        cpu::wfi();
    }
    while COUNT.load(Relaxed) == before {}
    IRQ_DELAY.store(0, Relaxed);
    TIME.load(Relaxed).wrapping_sub(deadline as u32)
}

fn timer_running() {
    delayed("timer-to-handler", IRQ_PROLOGUE, |delay| {
        timer_after(1000, delay, false)
    });
}

/// WFI: from the timer's deadline to the handler, with a far (320 us) and a near deadline (16 us).
fn sleep() {
    delayed("wfi-wake-to-handler", IRQ_PROLOGUE, |delay| {
        timer_after(20_000, delay, true)
    });
    delayed("wfi-wake-16us-to-handler", IRQ_PROLOGUE, |delay| {
        timer_after(1000, delay, true)
    });
}

/// What ten million instructions of the guest cost when it does nothing.
fn report_overhead() {
    let time = ticks(|| cpu::spin(5_000_000));
    let total = u64::from(time) * u64::from(instructions_per_tick());
    println!(
        "bench: overhead-10-million: {}",
        total.saturating_sub(10_000_000)
    );
}
