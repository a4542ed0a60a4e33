//! SoC families and UARTs, chosen at run time from the device tree.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bcm2711;
mod board;
mod exynos5;
#[cfg(test)]
mod fake;
mod sunxi;
pub mod uart;
mod vexpress;

pub use board::{Board, BoardIo, CpuOnError, Lookup, Platform, Registers, Wake, detect};

/// Access to a device's registers; out of range reads as 0 and writes nothing.
pub trait RegisterIo {
    /// Reads the 32-bit register at `offset` (bytes).
    fn read32(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);
    /// Reads the byte register at `offset`.
    fn read8(&self, offset: usize) -> u8;
    /// Writes the byte register at `offset`.
    fn write8(&self, offset: usize, value: u8);
}
