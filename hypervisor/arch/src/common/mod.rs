//! What both architectures share: their hypervisor tables have the same format, their interrupt controllers and timers are
//! the same devices. Each architecture gives the registers under the same names (`imp::sysreg`).

pub mod boot;
pub mod cache;
pub mod device;
pub mod gicv2;
pub mod guest_memory;
pub mod mmu;
pub mod timer;
