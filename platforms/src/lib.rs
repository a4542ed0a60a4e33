//! SoC families and UARTs, chosen at run time from the device tree.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod uart;
