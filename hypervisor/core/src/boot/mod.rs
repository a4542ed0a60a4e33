//! Booting.

pub mod kernel;
pub mod placement;
