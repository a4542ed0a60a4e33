//! Xen's error numbers (public/errno.h), returned to guests as negative values.

/// An error that a hypercall gives to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    /// Operation not permitted.
    Perm = 1,
    /// No such entry.
    NoEnt = 2,
    /// No such domain (`ESRCH`).
    Srch = 3,
    /// I/O error.
    Io = 5,
    /// No such device or address.
    Nxio = 6,
    /// Argument list too long.
    TooBig = 7,
    /// Try again.
    Again = 11,
    /// Out of memory.
    NoMem = 12,
    /// Access denied (also: interface version mismatch).
    Access = 13,
    /// Bad guest address.
    Fault = 14,
    /// Busy.
    Busy = 16,
    /// Already exists.
    Exist = 17,
    /// No such device.
    NoDev = 19,
    /// Invalid argument.
    Inval = 22,
    /// No space left.
    NoSpc = 28,
    /// Result out of range.
    Range = 34,
    /// Not implemented.
    NoSys = 38,
    /// No data.
    NoData = 61,
    /// Value too large.
    Overflow = 75,
    /// Internal: the call must be executed again; never reaches a guest.
    Restart = 85,
    /// Message too long.
    MsgSize = 90,
    /// Operation not supported.
    OpNotSupp = 95,
    /// No buffer space.
    NoBufs = 105,
    /// Timed out.
    TimedOut = 110,
}

impl Errno {
    /// Returns the value a guest sees: the negated number.
    pub const fn to_return(self) -> i32 {
        -(self as i32)
    }
}
