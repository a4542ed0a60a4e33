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

    /// Returns how many bytes for the guest wait. To be asked once: more may come faster than they are taken.
    pub fn waiting(&self) -> u32 {
        let waiting = self.page.words()[IN_PROD]
            .load(SeqCst)
            .wrapping_sub(self.in_cons);
        if waiting > IN_BYTES { 0 } else { waiting }
    }

    /// Takes a byte for the guest.
    pub fn pop(&mut self) -> Option<u8> {
        if self.waiting() == 0 {
            return None;
        }
        let words = self.page.words();
        let at = self.in_cons % IN_BYTES;
        let byte = words[(at / 4) as usize].load(Relaxed) >> (at % 4 * 8);
        self.in_cons = self.in_cons.wrapping_add(1);
        words[IN_CONS].store(self.in_cons, SeqCst);
        Some(byte as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::World;

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
        assert_eq!((ring.room(), ring.pop()), (OUT_BYTES, None));
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
        let got: Vec<_> = core::iter::from_fn(|| ring.pop()).collect();
        assert_eq!(got, b"abcde");
        assert_eq!(index(IN_CONS).load(SeqCst), 1);
        // Our index is ours, and theirs is bounded.
        index(IN_CONS).store(77, SeqCst);
        index(IN_PROD).store(1 + IN_BYTES + 1, SeqCst);
        assert_eq!(ring.pop(), None);
        index(IN_PROD).store(1 + IN_BYTES, SeqCst);
        assert_eq!(
            core::iter::from_fn(|| ring.pop()).count(),
            IN_BYTES as usize
        );
    }
}
