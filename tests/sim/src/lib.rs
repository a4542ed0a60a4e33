//! A machine in virtual time that runs a scheduling policy of `xenith-core` through its trait.
//!
//! [`Simulator`] has pCPUs with clocks that differ a little, interrupts between them that take a while, timers, and units
//! that compute, block, wake and yield as their [`Behaviour`] says. It keeps the run states and checks the contract at every
//! step: a unit runs on one pCPU at a time, only if it can run, only where its affinity allows. An [`Observer`]
//! sees what happens. [`scenarios`] has what every policy must do; `tests/` runs it for each.
#![forbid(unsafe_code)]

mod behaviour;
mod random;
pub mod scenarios;
mod simulator;
mod state;
mod trace;

pub use behaviour::Behaviour;
pub use random::Random;
pub use simulator::Simulator;
pub use state::{Happening, Observer, RunState, Times, Who};
pub use trace::Trace;

/// Nanoseconds in a microsecond.
pub const US: u64 = 1000;
/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
