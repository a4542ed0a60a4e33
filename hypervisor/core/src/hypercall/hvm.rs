//! hvm_op (34): parameters of a domain (xen-arm.md 3.8).

use xen_abi::hvm::{self as abi};

use super::{CallResult, Cx, OK};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// The parameters that exist on Arm.
const PARAMETERS: [u32; 6] = [
    abi::HVM_PARAM_CALLBACK_IRQ,
    abi::HVM_PARAM_STORE_PFN,
    abi::HVM_PARAM_STORE_EVTCHN,
    abi::HVM_PARAM_CONSOLE_PFN,
    abi::HVM_PARAM_CONSOLE_EVTCHN,
    abi::HVM_PARAM_MONITOR_RING_PFN,
];

pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    pointer: u64,
) -> CallResult {
    if command != abi::HVMOP_SET_PARAM && command != abi::HVMOP_GET_PARAM {
        return Err(Errno::NoSys);
    }
    let mut op: abi::HvmParam = cx.read(pointer)?;
    let domain = cx.domain_by_id(op.domid)?;
    if !PARAMETERS.contains(&op.index) {
        return Err(Errno::Inval);
    }
    let is_own = cx.is_self(op.domid);
    let mut params = domain.hvm_params.lock();
    let slot = params.get_mut(op.index as usize).ok_or(Errno::Inval)?;
    if command == abi::HVMOP_SET_PARAM {
        // The toolstack sets them for others; nobody for itself.
        if is_own {
            return Err(Errno::Perm);
        }
        *slot = op.value;
        return OK;
    }
    if is_own && op.index == abi::HVM_PARAM_MONITOR_RING_PFN {
        return Err(Errno::Perm);
    }
    op.value = *slot;
    drop(params);
    cx.write(pointer, &op)?;
    OK
}
