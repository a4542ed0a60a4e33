//! Event channels of the guest: 2-level through the shared info page, FIFO through its own pages. vCPU 0 only.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xen_abi::event_channel::*;
use xen_abi::hypercall as nr;
use xen_abi::memory::{AddToPhysmap, XENMAPSPACE_SHARED_INFO, XENMEM_ADD_TO_PHYSMAP};
use xen_abi::shared_info::*;

use crate::hypercall::{event_channel, op};
use crate::memory::Page;

/// The shared info page, once [`map_shared_info`] was called.
pub static SHARED_INFO: Page = Page::new();
/// FIFO: the control block.
pub static CONTROL: Page = Page::new();
/// FIFO: the event words of ports 0 to 1023.
pub static WORDS: Page = Page::new();

/// Puts the shared info page at the frame of [`SHARED_INFO`].
pub fn map_shared_info() -> i32 {
    let mut add = AddToPhysmap {
        domid: nr::DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_SHARED_INFO,
        idx: 0,
        gpfn: SHARED_INFO.frame(),
    };
    op(nr::HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut add)
}

/// A port that the guest sends to itself.
pub fn bind_ipi() -> Result<u32, i32> {
    let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
    match event_channel(EVTCHNOP_BIND_IPI, &mut bind) {
        0 => Ok(bind.port),
        error => Err(error),
    }
}

/// Sends.
#[inline(always)]
pub fn send(port: u32) -> i32 {
    event_channel(EVTCHNOP_SEND, &mut EvtchnSend { port })
}

/// Closes a port.
pub fn close(port: u32) -> i32 {
    event_channel(EVTCHNOP_CLOSE, &mut EvtchnClose { port })
}

/// 2-level: masks (or unmasks, without looking for what is pending) a port.
#[inline(always)]
pub fn set_mask(port: u32, masked: bool) {
    let word = SHARED_INFO.word(SHARED_INFO_EVTCHN_MASK + port as usize / 32 * 4);
    if masked {
        word.fetch_or(1 << (port % 32), SeqCst);
    } else {
        word.fetch_and(!(1 << (port % 32)), SeqCst);
    }
}

/// 2-level: is the port pending?
pub fn is_pending(port: u32) -> bool {
    SHARED_INFO
        .word(SHARED_INFO_EVTCHN_PENDING + port as usize / 32 * 4)
        .load(SeqCst)
        & 1 << (port % 32)
        != 0
}

/// 2-level: clears everything that leads to `port`.
#[inline(always)]
pub fn clear_pending(port: u32) {
    SHARED_INFO
        .word(VCPU_INFO_UPCALL_PENDING)
        .fetch_and(!0xff, SeqCst);
    SHARED_INFO.word(VCPU_INFO_PENDING_SEL).store(0, SeqCst);
    SHARED_INFO.word(VCPU_INFO_PENDING_SEL + 4).store(0, SeqCst);
    SHARED_INFO
        .word(SHARED_INFO_EVTCHN_PENDING + port as usize / 32 * 4)
        .fetch_and(!(1 << (port % 32)), SeqCst);
}

/// 2-level: takes the pending ports that are not masked, calling `f` for each.
pub fn take(mut f: impl FnMut(u32)) {
    SHARED_INFO
        .word(VCPU_INFO_UPCALL_PENDING)
        .fetch_and(!0xff, SeqCst);
    for half in 0..2 {
        let mut words = SHARED_INFO
            .word(VCPU_INFO_PENDING_SEL + 4 * half)
            .swap(0, SeqCst);
        while words != 0 {
            let bit = words.trailing_zeros() as usize;
            words &= words - 1;
            // The 64-bit word `32 * half + bit` of ports is two 32-bit words.
            for word in [2 * (32 * half + bit), 2 * (32 * half + bit) + 1] {
                let pending = SHARED_INFO.word(SHARED_INFO_EVTCHN_PENDING + 4 * word);
                let masked = SHARED_INFO
                    .word(SHARED_INFO_EVTCHN_MASK + 4 * word)
                    .load(SeqCst);
                let mut ports = pending.load(SeqCst) & !masked;
                while ports != 0 {
                    let bit = ports.trailing_zeros();
                    ports &= ports - 1;
                    pending.fetch_and(!(1 << bit), SeqCst);
                    f(32 * word as u32 + bit);
                }
            }
        }
    }
}

/// FIFO: switches the domain over and gives it the words of the first 1024 ports.
pub fn fifo_init() -> i32 {
    let mut control = EvtchnInitControl {
        control_gfn: CONTROL.frame(),
        offset: 0,
        vcpu: 0,
        link_bits: 0,
        _pad: [0; 7],
    };
    match event_channel(EVTCHNOP_INIT_CONTROL, &mut control) {
        0 => event_channel(
            EVTCHNOP_EXPAND_ARRAY,
            &mut EvtchnExpandArray {
                array_gfn: WORDS.frame(),
            },
        ),
        error => error,
    }
}

/// FIFO: masks or unmasks a port.
#[inline(always)]
pub fn fifo_set_mask(port: u32, masked: bool) {
    let word = WORDS.word(4 * port as usize);
    if masked {
        word.fetch_or(1 << EVTCHN_FIFO_MASKED, SeqCst);
    } else {
        word.fetch_and(!(1 << EVTCHN_FIFO_MASKED), SeqCst);
    }
}

/// FIFO: clears a port's pending bit.
#[inline(always)]
pub fn fifo_clear_pending(port: u32) {
    WORDS
        .word(4 * port as usize)
        .fetch_and(!(1 << EVTCHN_FIFO_PENDING), SeqCst);
}

/// FIFO: takes all ports from the queues, calling `f` for those that were pending and not masked.
pub fn fifo_take(mut f: impl FnMut(u32)) {
    SHARED_INFO
        .word(VCPU_INFO_UPCALL_PENDING)
        .fetch_and(!0xff, SeqCst);
    let mut ready = CONTROL.word(0).swap(0, SeqCst);
    while ready != 0 {
        let queue = ready.trailing_zeros() as usize;
        ready &= ready - 1;
        let mut port = CONTROL.word(8 + 4 * queue).load(SeqCst);
        while port != 0 && port < EVENT_WORDS_PER_PAGE as u32 {
            let word = WORDS.word(4 * port as usize);
            let old = word.fetch_and(!(1 << EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK), SeqCst);
            if old & (1 << EVTCHN_FIFO_PENDING) != 0 && old & (1 << EVTCHN_FIFO_MASKED) == 0 {
                word.fetch_and(!(1 << EVTCHN_FIFO_PENDING), Relaxed);
                f(port);
            }
            port = old & EVTCHN_FIFO_LINK_MASK;
        }
    }
}
