//! The page over which a console daemon in another domain is the far end of a UART (public/io/console.h).
//!
//! Two byte rings with free-running indices: `in` to the guest, `out` from it. Whoever else writes to the page can only
//! spoil what the guest says and hears: our own indices are kept here and never read back, the other's are read once and
//! bounded.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::machine::SharedPage;

/// Bytes of the ring to the guest, at byte 0.
const IN_BYTES: u32 = 1024;
/// Bytes of the ring from the guest, behind it.
const OUT_BYTES: u32 = 2048;
/// Words of the indices: in_cons, in_prod, out_cons, out_prod.
const IN_CONS: usize = 3072 / 4;
const IN_PROD: usize = IN_CONS + 1;
const OUT_CONS: usize = IN_CONS + 2;
const OUT_PROD: usize = IN_CONS + 3;

/// Our side of the rings.
#[derive(Debug)]
pub struct Ring<P> {
    page: P,
    in_cons: u32,
    out_prod: u32,
}

impl<P: SharedPage> Ring<P> {
    /// Begins where the page stands: at zero, if the toolstack has cleared it.
    pub fn new(page: P) -> Self {
        let in_cons = page.words()[IN_CONS].load(SeqCst);
        let out_prod = page.words()[OUT_PROD].load(SeqCst);
        Self {
            page,
            in_cons,
            out_prod,
        }
    }

    /// Returns how many bytes from the guest fit.
    pub fn room(&self) -> u32 {
        let used = self
            .out_prod
            .wrapping_sub(self.page.words()[OUT_CONS].load(SeqCst));
        // More than there is room for: nonsense of the other side's, which waits until it is sorted out.
        OUT_BYTES.saturating_sub(used)
    }

    /// Adds a byte from the guest. Returns false when it does not fit.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.room() == 0 {
            return false;
        }
        let at = IN_BYTES + self.out_prod % OUT_BYTES;
        let shift = at % 4 * 8;
        let word = &self.page.words()[(at / 4) as usize];
        // Nobody else has business in this ring.
        let others = word.load(Relaxed) & !(0xff << shift);
        word.store(others | u32::from(byte) << shift, Relaxed);
        self.out_prod = self.out_prod.wrapping_add(1);
        self.page.words()[OUT_PROD].store(self.out_prod, SeqCst);
        true
    }

    /// Gives `take` up to `room` of the bytes for the guest, and returns how many. What comes meanwhile waits for the next
    /// time: the page is the guest's, which can go on for ever.
    pub fn drain(&mut self, room: usize, take: &mut dyn FnMut(u8)) -> u32 {
        let words = self.page.words();
        let waiting = words[IN_PROD].load(SeqCst).wrapping_sub(self.in_cons);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        // More than fits in the ring: nonsense.
        let count = if waiting > IN_BYTES {
            0
        } else {
            waiting.min(room)
        };
        for _ in 0..count {
            let at = self.in_cons % IN_BYTES;
            take((words[(at / 4) as usize].load(Relaxed) >> (at % 4 * 8)) as u8);
            self.in_cons = self.in_cons.wrapping_add(1);
        }
        if count > 0 {
            words[IN_CONS].store(self.in_cons, SeqCst);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::World;

    fn drained(ring: &mut Ring<impl SharedPage>, room: usize) -> Vec<u8> {
        let mut got = Vec::new();
        let count = ring.drain(room, &mut |byte| got.push(byte));
        assert_eq!(count as usize, got.len());
        got
    }

    #[test]
    fn bytes_go_round_and_nonsense_is_harmless() {
        let world = World::new();
        let page = world.dom1.domain.shared_info.clone();
        for word in page.words() {
            word.store(0, SeqCst);
        }
        // Near the end of the indices' range.
        for index in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD] {
            page.words()[index].store(u32::MAX - 3, SeqCst);
        }
        let mut ring = Ring::new(page.clone());
        let index = |n: usize| &page.words()[n];
        assert_eq!((ring.room(), drained(&mut ring, 99).len()), (OUT_BYTES, 0));
        for n in 0..OUT_BYTES {
            assert!(ring.push(n as u8));
        }
        assert!(!ring.push(0), "full");
        let first = IN_BYTES + (u32::MAX - 3) % OUT_BYTES;
        let byte = |at: u32| (page.words()[(at / 4) as usize].load(SeqCst) >> (at % 4 * 8)) as u8;
        assert_eq!([byte(first), byte(first + 3), byte(IN_BYTES)], [0, 3, 4]);
        index(OUT_CONS).fetch_add(1, SeqCst);
        assert!(ring.push(7) && !ring.push(8));
        // The consumer cannot have more than was produced.
        index(OUT_CONS).store(5000, SeqCst);
        assert_eq!(ring.room(), 0);

        // Bytes for the guest, over the end.
        let at = (u32::MAX - 3) % IN_BYTES;
        assert_eq!(at, IN_BYTES - 4);
        index((at / 4) as usize).store(0x6463_6261, SeqCst);
        index(0).store(0x65, SeqCst);
        index(IN_PROD).fetch_add(5, SeqCst);
        assert_eq!(drained(&mut ring, 0), b"");
        assert_eq!(drained(&mut ring, 3), b"abc");
        assert_eq!(drained(&mut ring, 3), b"de");
        assert_eq!(index(IN_CONS).load(SeqCst), 1);
        // Our index is ours, and theirs is bounded.
        index(IN_CONS).store(77, SeqCst);
        index(IN_PROD).store(1 + IN_BYTES + 1, SeqCst);
        assert_eq!(drained(&mut ring, 9), b"");
        index(IN_PROD).store(1 + IN_BYTES, SeqCst);
        assert_eq!(drained(&mut ring, 5000).len(), IN_BYTES as usize);
    }
}
