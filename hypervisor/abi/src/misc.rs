//! Console and assists (public/xen.h).

/// Writes to the console.
pub const CONSOLEIO_WRITE: u32 = 0;
/// Reads from the console.
pub const CONSOLEIO_READ: u32 = 1;
/// Turns an assist on.
pub const VMASST_CMD_ENABLE: u32 = 0;
/// Turns an assist off.
pub const VMASST_CMD_DISABLE: u32 = 1;
/// Assist: mark runstate updates with `XEN_RUNSTATE_UPDATE`.
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
