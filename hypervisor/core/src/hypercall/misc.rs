//! Calls of a few lines: `vm_assist`, `physdev_op`, `xsm_op`.

use core::sync::atomic::Ordering;

use xen_abi::misc as abi;

use super::{CallResult, Cx};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// `vm_assist` (xen-arm.md 3.12): Arm has one assist.
pub(super) fn vm_assist<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    command: u32,
    assist: u32,
) -> CallResult {
    if assist != abi::VMASST_TYPE_RUNSTATE_UPDATE_FLAG {
        return Err(Errno::Inval);
    }
    let bit = 1 << assist;
    match command {
        abi::VMASST_CMD_ENABLE => cx.domain.vm_assist.fetch_or(bit, Ordering::Relaxed),
        abi::VMASST_CMD_DISABLE => cx.domain.vm_assist.fetch_and(!bit, Ordering::Relaxed),
        _ => return Err(Errno::NoSys),
    };
    Ok(0)
}

/// `physdev_op` (xen-arm.md 3.9): without PCI passthrough there is nothing for the hypervisor to know, and Linux goes on.
pub(super) fn physdev_op(_command: u32) -> CallResult {
    Err(Errno::NoSys)
}

/// `xsm_op` (xen-arm.md 3.15): answered by Flask only.
pub(super) fn xsm_op() -> CallResult {
    Err(Errno::NoSys)
}
