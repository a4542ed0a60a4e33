//! Scheduling (public/sched.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gives up the CPU.
pub const SCHEDOP_YIELD: u32 = 0;
/// Waits for an event.
pub const SCHEDOP_BLOCK: u32 = 1;
/// [`SchedShutdown`].
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// [`SchedPoll`].
pub const SCHEDOP_POLL: u32 = 3;
/// [`SchedRemoteShutdown`].
pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
/// [`SchedShutdown`].
pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
/// [`SchedWatchdog`].
pub const SCHEDOP_WATCHDOG: u32 = 6;
/// [`SchedPinOverride`].
pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;
/// Reason: power off.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// Reason: reboot.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// Reason: suspend.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// Reason: crash.
pub const SHUTDOWN_CRASH: u32 = 3;
/// Reason: watchdog.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// Reason: soft reset.
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// The highest reason.
pub const SHUTDOWN_MAX: u32 = 5;

/// Stops the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SchedShutdown {
    /// In: `SHUTDOWN_*`.
    pub reason: u32,
}

/// Waits for one of several ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SchedPoll {
    /// In: handle of the ports (u32).
    pub ports: u64,
    /// In: ports.
    pub nr_ports: u32,
    /// Padding.
    pub _pad: u32,
    /// In: absolute system time in ns; 0 = none.
    pub timeout: u64,
}

/// Stops another domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SchedRemoteShutdown {
    /// In: the domain.
    pub domain_id: u16,
    /// Padding.
    pub _pad: u16,
    /// In: `SHUTDOWN_*`.
    pub reason: u32,
}

/// Sets a watchdog timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SchedWatchdog {
    /// In: 0 = allocate.
    pub id: u32,
    /// In: seconds; 0 = stop.
    pub timeout: u32,
}

/// Pins the calling vCPU for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SchedPinOverride {
    /// In: the CPU; negative = end.
    pub pcpu: i32,
}
