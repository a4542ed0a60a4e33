//! Flattened device trees.

pub mod dom0;
pub mod writer;
