//! Event channels of all vCPUs: a port from each to each, and one of each to be kicked by.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use guest_lib::hypercall::{event_channel, raw};
use guest_lib::memory::Page;
use guest_lib::{cpu, events};
use xen_abi::event_channel::*;
use xen_abi::hypercall as nr;
use xen_abi::sched::{SCHEDOP_POLL, SCHEDOP_YIELD, SchedPoll};
use xen_abi::shared_info::*;
use xen_abi::vcpu::{VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};

use crate::shared::MAX;

/// `vcpu_info` of each vCPU.
static INFO: [Page; MAX] = [const { Page::new() }; MAX];
/// FIFO: the control block of each vCPU.
static CONTROL: [Page; MAX] = [const { Page::new() }; MAX];
/// 1 when the FIFO channels are used.
static FIFO: AtomicU32 = AtomicU32::new(0);
/// Port from each vCPU to each.
static PORTS: [[AtomicU32; MAX]; MAX] = [const { [const { AtomicU32::new(0) }; MAX] }; MAX];
/// Port by which each vCPU is kicked; masked.
static KICKS: [AtomicU32; MAX] = [const { AtomicU32::new(0) }; MAX];
/// Sender and receiver of a port, plus 1: `from << 8 | to`.
static PAIRS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

fn bind(to: usize) -> u32 {
    let mut bind = EvtchnBindIpi {
        vcpu: to as u32,
        port: 0,
    };
    let result = event_channel(EVTCHNOP_BIND_IPI, &mut bind);
    assert!(result == 0 && bind.port < 256, "bind_ipi to {to}: {result}");
    bind.port
}

/// Makes all ports. Before other vCPUs run.
pub fn init(cpus: u32, fifo: bool) {
    FIFO.store(fifo.into(), Relaxed);
    assert!(events::map_shared_info() == 0);
    for to in 0..cpus as usize {
        let mut info = VcpuRegisterVcpuInfo {
            mfn: INFO[to].frame(),
            offset: 0,
            _rsvd: 0,
        };
        // SAFETY: the structure is ours; the page is only used through atomics.
        let result = unsafe {
            raw::<true>(
                nr::HYPERVISOR_VCPU_OP,
                [
                    VCPUOP_REGISTER_VCPU_INFO as usize,
                    to,
                    core::ptr::from_mut(&mut info) as usize,
                    0,
                    0,
                ],
            )
        };
        assert!(result == 0, "register_vcpu_info of {to}: {result}");
        if fifo {
            let mut control = EvtchnInitControl {
                control_gfn: CONTROL[to].frame(),
                offset: 0,
                vcpu: to as u32,
                link_bits: 0,
                _pad: [0; 7],
            };
            let result = event_channel(EVTCHNOP_INIT_CONTROL, &mut control);
            assert!(result == 0, "init_control of {to}: {result}");
        }
    }
    if fifo {
        let mut expand = EvtchnExpandArray {
            array_gfn: events::WORDS.frame(),
        };
        let result = event_channel(EVTCHNOP_EXPAND_ARRAY, &mut expand);
        assert!(result == 0, "expand_array: {result}");
    }
    for to in 0..cpus as usize {
        for (from, ports) in PORTS.iter().enumerate().take(cpus as usize) {
            let port = bind(to);
            ports[to].store(port, Relaxed);
            PAIRS[port as usize].store((from << 8 | to) as u32 + 1, Relaxed);
            set_mask(port, false);
        }
        let port = bind(to);
        KICKS[to].store(port, Relaxed);
        set_mask(port, true);
    }
}

fn set_mask(port: u32, masked: bool) {
    if FIFO.load(Relaxed) != 0 {
        events::fifo_set_mask(port, masked);
    } else {
        events::set_mask(port, masked);
    }
}

/// Sends the event from one vCPU to another.
pub fn send(from: usize, to: usize) {
    cpu::dsb();
    let result = events::send(PORTS[from][to].load(Relaxed));
    assert!(result == 0, "send: {result}");
}

/// Ends the poll of a vCPU.
pub fn kick(to: usize) {
    events::send(KICKS[to].load(Relaxed));
}

/// Whether the kick of a vCPU came; it is then taken.
pub fn take_kick(to: usize) -> bool {
    let port = KICKS[to].load(Relaxed);
    let (word, bit) = if FIFO.load(Relaxed) != 0 {
        (
            events::WORDS.word(4 * port as usize),
            1 << EVTCHN_FIFO_PENDING,
        )
    } else {
        let offset = SHARED_INFO_EVTCHN_PENDING + port as usize / 32 * 4;
        (events::SHARED_INFO.word(offset), 1 << (port % 32))
    };
    word.fetch_and(!bit, SeqCst) & bit != 0
}

/// Polls for the kick of vCPU `me`, without a time-out.
pub fn poll(me: usize) {
    let mut port = KICKS[me].load(Relaxed);
    let mut poll = SchedPoll {
        ports: core::ptr::from_mut(&mut port) as u64,
        nr_ports: 1,
        _pad: 0,
        timeout: 0,
    };
    let result = guest_lib::hypercall::op(nr::HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
    assert!(result == 0, "poll: {result}");
}

/// Lets others run.
pub fn yield_cpu() {
    // SAFETY: no structure.
    unsafe {
        raw::<true>(
            nr::HYPERVISOR_SCHED_OP,
            [SCHEDOP_YIELD as usize, 0, 0, 0, 0],
        )
    };
}

/// In the handler of vCPU `me`: takes all events, calling `f` with the sender of each.
pub fn take(me: usize, mut f: impl FnMut(usize)) {
    INFO[me]
        .word(VCPU_INFO_UPCALL_PENDING)
        .fetch_and(!0xff, SeqCst);
    let mut take = |port: u32| {
        let pair = PAIRS
            .get(port as usize)
            .map_or(0, |pair| pair.load(Relaxed));
        let Some(pair) = pair.checked_sub(1) else {
            crate::shared::fail!("an event of port {port}, which nobody sends");
        };
        if pair & 0xff != me as u32 {
            crate::shared::fail!("an event of port {port}, which is vCPU {}'s", pair & 0xff);
        }
        f((pair >> 8) as usize);
    };
    if FIFO.load(Relaxed) != 0 {
        take_fifo(&CONTROL[me], &mut take);
    } else {
        take_2level(&INFO[me], me, &mut take);
    }
}

fn take_2level(info: &Page, me: usize, f: &mut dyn FnMut(u32)) {
    // All ports are below 256: the first four 64-bit words, in the low half of the selector.
    let mut words = info.word(VCPU_INFO_PENDING_SEL).swap(0, SeqCst);
    while words != 0 {
        let selected = words.trailing_zeros() as usize;
        words &= words - 1;
        for word in [2 * selected, 2 * selected + 1] {
            let pending = events::SHARED_INFO.word(SHARED_INFO_EVTCHN_PENDING + 4 * word);
            let masked = events::SHARED_INFO
                .word(SHARED_INFO_EVTCHN_MASK + 4 * word)
                .load(SeqCst);
            let mut ports = pending.load(SeqCst) & !masked;
            while ports != 0 {
                let bit = ports.trailing_zeros();
                ports &= ports - 1;
                let port = 32 * word as u32 + bit;
                // The word has ports of other vCPUs as well.
                let pair = PAIRS
                    .get(port as usize)
                    .map_or(0, |pair| pair.load(Relaxed));
                if pair != 0 && (pair - 1) & 0xff != me as u32 {
                    continue;
                }
                pending.fetch_and(!(1 << bit), SeqCst);
                f(port);
            }
        }
    }
}

fn take_fifo(control: &Page, f: &mut dyn FnMut(u32)) {
    let mut ready = control.word(0).swap(0, SeqCst);
    while ready != 0 {
        let queue = ready.trailing_zeros() as usize;
        ready &= ready - 1;
        let mut port = control.word(8 + 4 * queue).load(SeqCst);
        while port != 0 && port < EVENT_WORDS_PER_PAGE as u32 {
            let word = events::WORDS.word(4 * port as usize);
            let old = word.fetch_and(!(1 << EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK), SeqCst);
            if old & (1 << EVTCHN_FIFO_PENDING) != 0 && old & (1 << EVTCHN_FIFO_MASKED) == 0 {
                word.fetch_and(!(1 << EVTCHN_FIFO_PENDING), SeqCst);
                f(port);
            }
            port = old & EVTCHN_FIFO_LINK_MASK;
        }
    }
}
