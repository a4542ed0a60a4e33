//! `hvm_op` (public/hvm; xen-arm.md 3.8): the parameters by which a toolstack tells a guest where its pages and ports are.

use core::mem::offset_of;

use xen_abi::hvm as abi;

use super::{CallResult, Cx};
use crate::addr::GuestVirt;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    at: GuestVirt,
) -> CallResult {
    match command {
        abi::HVMOP_SET_PARAM | abi::HVMOP_GET_PARAM => parameter(cx, command, at),
        // Nobody can monitor a domain here, so nobody is to be told.
        abi::HVMOP_GUEST_REQUEST_VM_EVENT if at.raw() == 0 => Ok(0),
        abi::HVMOP_GUEST_REQUEST_VM_EVENT => Err(Errno::Inval),
        _ => Err(Errno::NoSys),
    }
}

fn parameter<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, command: u32, at: GuestVirt) -> CallResult {
    let op: abi::HvmParam = cx.read(at)?;
    let target = cx.find_controlled(op.domid)?;
    let is_for_tools = match op.index {
        abi::HVM_PARAM_CALLBACK_IRQ
        | abi::HVM_PARAM_STORE_PFN
        | abi::HVM_PARAM_STORE_EVTCHN
        | abi::HVM_PARAM_CONSOLE_PFN
        | abi::HVM_PARAM_CONSOLE_EVTCHN => false,
        abi::HVM_PARAM_MONITOR_RING_PFN => true,
        _ => return Err(Errno::Inval),
    };
    let is_set = command == abi::HVMOP_SET_PARAM;
    // A toolstack sets them for others, never a domain for itself.
    if target.is_own() && (is_set || is_for_tools) {
        return Err(Errno::Perm);
    }
    let mut parameters = target.hvm_params.lock();
    let value = parameters.get_mut(op.index as usize).ok_or(Errno::Inval)?;
    if is_set {
        *value = op.value;
        return Ok(0);
    }
    let value = *value;
    drop(parameters);
    cx.write_field(at, offset_of!(abi::HvmParam, value), &value)?;
    Ok(0)
}
