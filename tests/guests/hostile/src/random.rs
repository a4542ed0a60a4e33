//! Numbers that hurt.

/// xorshift.
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    /// A number that a decoder may have forgotten.
    pub fn odd(&mut self) -> u32 {
        match self.below(9) {
            0 => 0,
            1 => u32::MAX,
            2 => self.below(20),
            3 => 1 << self.below(32),
            4 => (1u32 << self.below(32)).wrapping_sub(1),
            5 => 0x7ff0 + self.below(16),
            6 => 0x8000_0000 + self.below(64),
            7 => self.below(20) << 16 | self.below(20),
            _ => self.next(),
        }
    }
}
