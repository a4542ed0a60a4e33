//! Device trees: reading the host's, writing those of domains.
//!
//! The host's tree comes from a boot loader and is treated as hostile: [`tree::Tree`] checks the whole blob once, with
//! fixed bounds on depth, nodes and names, and everything else walks a tree that is known to be well formed. What the tree
//! *says* stays an allegation: every number is taken with checked arithmetic, and every fault is an error value whose
//! text names the cause and the remedy.

/// The bytes of a file of tests/fixtures.
#[cfg(test)]
macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/",
            $name
        ))
    };
}

pub mod address;
pub mod dom0;
pub mod domu;
pub mod format;
pub mod gic;
pub mod host;
pub mod interrupts;
pub mod tree;
pub mod writer;
