//! Hypercalls as guests make them, on a machine in the host's memory.

mod between;
mod devices;
mod domctl;
mod events;
mod fuzz;
#[cfg(target_pointer_width = "64")]
mod gicv3;
mod grants;
mod hypfs;
mod life;
mod lives;
mod memory;
mod no_memory;
mod orders;
mod orders_of_grants;
mod orders_of_memory;
mod plain;
mod releases;
mod runstate;
mod spis;
mod sysctl;
mod uart;
mod xsa;

use xen_abi::hypercall::*;

/// Numbers as a guest sees errors.
mod errno {
    pub const EPERM: i64 = -1;
    pub const ENOENT: i64 = -2;
    pub const ESRCH: i64 = -3;
    pub const ENXIO: i64 = -6;
    pub const E2BIG: i64 = -7;
    pub const ENOMEM: i64 = -12;
    pub const EACCES: i64 = -13;
    pub const EFAULT: i64 = -14;
    pub const EBUSY: i64 = -16;
    pub const EEXIST: i64 = -17;
    pub const EINVAL: i64 = -22;
    pub const ENODEV: i64 = -19;
    pub const ENOSPC: i64 = -28;
    pub const ERANGE: i64 = -34;
    pub const ENOSYS: i64 = -38;
    pub const ENODATA: i64 = -61;
    pub const EOVERFLOW: i64 = -75;
    pub const EOPNOTSUPP: i64 = -95;
    pub const ENOBUFS: i64 = -105;
}

const SELF: u16 = DOMID_SELF;
const NO_DOMAIN: u16 = 77;
