//! What is particular to AArch32.

pub mod call;
pub mod cpu;
pub mod fault;
pub mod timer;
pub mod translation;

core::arch::global_asm!(include_str!("start.S"), options(raw));
