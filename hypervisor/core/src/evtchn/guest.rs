//! The words that event channels share with the guest, in both ABIs: where they are and how they are changed.
//!
//! The guest changes them at the same time from other CPUs, with its own atomics. Every function reads a word once and
//! decides on what it read. All orderings are sequentially consistent: most pairs are store-then-load on both sides
//! ("I set pending, then look at the mask" against "I clear the mask, then look at pending"), which weaker orderings
//! do not order; on ARMv7 it costs one `dmb` more at most.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::types::Port;

/// A page as [`crate::machine::SharedPage`] shows it.
pub(super) type Words = [AtomicU32; 1024];

/// Ports of the 2-level ABI on Arm: a selector of 64 bits over words of 64 bits.
pub(super) const TWO_LEVEL_PORTS: u32 = 4096;
/// `evtchn_pending` in `shared_info` (byte 48), as a word index.
const PENDING_WORD: usize = 48 / 4;
/// `evtchn_mask` in `shared_info` (byte 560), as a word index.
const MASK_WORD: usize = 560 / 4;
/// `evtchn_pending_sel` in `vcpu_info` (byte 8), as a word index.
const SELECTOR_WORD: usize = 8 / 4;
/// Bytes of `vcpu_info`.
pub(super) const VCPU_INFO_BYTES: u32 = 48;

/// Ports of the FIFO ABI: 17 link bits.
pub(super) const FIFO_PORTS: u32 = 1 << 17;
/// Event words in a page of the array.
pub(super) const FIFO_PORTS_PER_PAGE: u32 = 1024;
/// Bytes of a control block: ready, reserved, 16 heads.
pub(super) const CONTROL_BLOCK_BYTES: u32 = 72;
/// Word index of the first head in a control block.
const HEAD_WORD: usize = 2;
/// Event word: an event waits to be handled.
pub(super) const FIFO_PENDING: u32 = 1 << 31;
/// Event word: the guest wants no events now.
pub(super) const FIFO_MASKED: u32 = 1 << 30;
/// Event word: on a queue.
pub(super) const FIFO_LINKED: u32 = 1 << 29;
/// Event word: the hypervisor is changing the link; the guest must not unmask.
pub(super) const FIFO_BUSY: u32 = 1 << 28;
/// Event word: the next port of the queue, 0 at its tail.
pub(super) const FIFO_LINK: u32 = FIFO_PORTS - 1;

/// Returns the word at `base + index`. Callers keep within the page; wrapping and masking only tell the compiler that
/// no check is needed.
#[inline]
fn at(words: &Words, base: usize, index: usize) -> &AtomicU32 {
    &words[base.wrapping_add(index) & 1023]
}

/// One bit of a shared word.
#[derive(Clone, Copy)]
pub(super) struct Bit<'a> {
    word: &'a AtomicU32,
    mask: u32,
}

impl<'a> Bit<'a> {
    #[inline]
    fn new(words: &'a Words, base: usize, bit: u32) -> Self {
        Self {
            word: at(words, base, (bit / 32) as usize),
            mask: 1 << (bit % 32),
        }
    }
    /// Sets the bit and returns its former value.
    #[inline]
    pub(super) fn test_and_set(self) -> bool {
        self.word.fetch_or(self.mask, SeqCst) & self.mask != 0
    }
    /// Clears the bit and returns its former value.
    #[inline]
    pub(super) fn test_and_clear(self) -> bool {
        self.word.fetch_and(!self.mask, SeqCst) & self.mask != 0
    }
    /// Returns the bit.
    #[inline]
    pub(super) fn test(self) -> bool {
        self.word.load(SeqCst) & self.mask != 0
    }
}

/// Returns the port's bit of `shared_info.evtchn_pending`. Only for ports below [`TWO_LEVEL_PORTS`].
#[inline]
pub(super) fn pending_bit(shared_info: &Words, port: Port) -> Bit<'_> {
    Bit::new(shared_info, PENDING_WORD, port.raw())
}

/// Returns the port's bit of `shared_info.evtchn_mask`. Only for ports below [`TWO_LEVEL_PORTS`].
#[inline]
pub(super) fn mask_bit(shared_info: &Words, port: Port) -> Bit<'_> {
    Bit::new(shared_info, MASK_WORD, port.raw())
}

/// A `vcpu_info` inside a page.
#[derive(Clone, Copy)]
pub(super) struct VcpuInfo<'a> {
    words: &'a Words,
    /// Index of its first word.
    base: usize,
}

impl<'a> VcpuInfo<'a> {
    #[inline]
    pub(super) fn new(words: &'a Words, base: usize) -> Self {
        Self { words, base }
    }
    /// Returns the bit of the selector for the 64 ports around `port`.
    #[inline]
    pub(super) fn selector_bit(self, port: Port) -> Bit<'a> {
        Bit::new(
            self.words,
            self.base.wrapping_add(SELECTOR_WORD),
            (port.raw() / 64) & 63,
        )
    }
    /// Sets `evtchn_upcall_pending` and returns true when it was clear.
    #[inline]
    pub(super) fn assert_upcall(self) -> bool {
        at(self.words, self.base, 0).fetch_or(1, SeqCst) & 0xff == 0
    }
    /// Returns true while `evtchn_upcall_pending` is set.
    #[inline]
    pub(super) fn is_upcall_pending(self) -> bool {
        at(self.words, self.base, 0).load(SeqCst) & 0xff != 0
    }
    /// Makes this a copy of `old`, or zero.
    pub(super) fn fill(self, old: Option<VcpuInfo<'_>>) {
        for word in 0..VCPU_INFO_BYTES as usize / 4 {
            let value = old.map_or(0, |old| at(old.words, old.base, word).load(SeqCst));
            at(self.words, self.base, word).store(value, SeqCst);
        }
    }
    /// Sets the whole selector, so that the guest looks at every port.
    pub(super) fn select_all(self) {
        at(self.words, self.base, SELECTOR_WORD).store(u32::MAX, SeqCst);
        at(self.words, self.base, SELECTOR_WORD + 1).store(u32::MAX, SeqCst);
    }
}

/// A FIFO control block inside a page.
#[derive(Clone, Copy)]
pub(super) struct ControlBlock<'a> {
    words: &'a Words,
    /// Index of its first word.
    base: usize,
}

impl<'a> ControlBlock<'a> {
    #[inline]
    pub(super) fn new(words: &'a Words, base: usize) -> Self {
        Self { words, base }
    }
    /// Publishes the head of an empty queue.
    #[inline]
    pub(super) fn set_head(self, priority: u8, port: Port) {
        at(self.words, self.base, HEAD_WORD + usize::from(priority)).store(port.raw(), SeqCst);
    }
    /// Marks a queue ready and returns true when it was not.
    #[inline]
    pub(super) fn set_ready(self, priority: u8) -> bool {
        !Bit::new(self.words, self.base, u32::from(priority)).test_and_set()
    }
}

/// Links `port` behind a tail. Returns false when the tail is not on a queue any more: the queue is empty.
///
/// A correct guest changes a linked word at most four times (set and clear MASKED, clear PENDING, clear LINKED with
/// the link) once BUSY keeps it from unmasking again, so five tries are enough; a hostile one gets no more, and its
/// queue is then taken as empty, which it can only blame on itself.
pub(super) fn link_behind(tail: &AtomicU32, port: Port) -> bool {
    let mut word = tail.load(SeqCst);
    for attempt in 0..6 {
        if word & FIFO_LINKED == 0 {
            if attempt > 0 {
                tail.fetch_and(!FIFO_BUSY, SeqCst);
            }
            return false;
        }
        let linked = word & !(FIFO_BUSY | FIFO_LINK) | port.raw() & FIFO_LINK;
        match tail.compare_exchange(word, linked, SeqCst, SeqCst) {
            Ok(_) => return true,
            Err(_) if attempt == 0 => word = tail.fetch_or(FIFO_BUSY, SeqCst) | FIFO_BUSY,
            Err(changed) => word = changed,
        }
    }
    tail.fetch_and(!FIFO_BUSY, SeqCst);
    false
}
