//! What units do with their time.

use crate::Random;

/// What a unit does, over and over. Times are in ns.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Computes without end.
    Hog,
    /// Wakes at each multiple of `period`, computes for `run` and blocks.
    Periodic {
        /// Time between two wake-ups.
        period: u64,
        /// Time that it computes.
        run: u64,
    },
    /// Computes and blocks for random times up to these.
    Random {
        /// Longest time that it computes.
        run: u64,
        /// Longest time that it blocks.
        block: u64,
    },
    /// Computes for `run`, then yields.
    Yielder {
        /// Time that it computes.
        run: u64,
    },
}

/// What a unit does when it has computed for its time.
pub(crate) enum Next {
    Block { until: u64 },
    Yield,
}

impl Behaviour {
    /// Returns how long it computes from now on; `u64::MAX` for ever.
    pub(crate) fn work(&self, random: &mut Random) -> u64 {
        match *self {
            Self::Hog => u64::MAX,
            Self::Periodic { run, .. } | Self::Yielder { run } => run,
            Self::Random { run, .. } => random.between(1, run),
        }
    }

    /// Returns what it does at `now`, when it has done that.
    pub(crate) fn next(&self, now: u64, random: &mut Random) -> Next {
        match *self {
            Self::Hog | Self::Yielder { .. } => Next::Yield,
            Self::Periodic { period, .. } => Next::Block {
                until: (now / period + 1) * period,
            },
            Self::Random { block, .. } => Next::Block {
                until: now + random.between(1, block),
            },
        }
    }
}
