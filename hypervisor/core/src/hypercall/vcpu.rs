//! vcpu_op (24) and vm_assist (21) (xen-arm.md 3.7, 3.12).

use core::sync::atomic::Ordering;

use xen_abi::misc::{VMASST_CMD_DISABLE, VMASST_CMD_ENABLE};
use xen_abi::vcpu::{self as abi};

use super::event_channel::guest_page;
use super::{CallResult, Cx, OK};
use crate::addr::VcpuId;
use crate::errno::Errno;
use crate::evtchn::RegisterError;
use crate::hal::Hal;
use crate::machine::GuestMemory;
use crate::runstate::{self, VMASST_RUNSTATE_UPDATE_FLAG};

pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    vcpu: u32,
    pointer: u64,
) -> CallResult {
    let id = u16::try_from(vcpu)
        .map(VcpuId::new)
        .map_err(|_| Errno::NoEnt)?;
    let target = cx.domain.vcpu(id).ok_or(Errno::NoEnt)?;
    match command {
        abi::VCPUOP_REGISTER_VCPU_INFO => {
            let op: abi::VcpuRegisterVcpuInfo = cx.read(pointer)?;
            // Another vCPU's may be moved only while that one is off.
            if id != cx.vcpu.id && !target.is_offline.load(Ordering::Acquire) {
                return Err(Errno::Inval);
            }
            let page = guest_page(cx, op.mfn)?;
            let registered = cx
                .domain
                .events
                .lock()
                .register_vcpu_info(id, page, op.offset);
            let notify = registered.map_err(|error| match error {
                RegisterError::NoVcpu => Errno::NoEnt,
                RegisterError::Misplaced => Errno::Nxio,
                RegisterError::Registered => Errno::Inval,
            })?;
            cx.domain.deliver(notify);
        }
        abi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            // A 32-bit guest's pointer is the low word of the union.
            let op: abi::VcpuRegisterRunstate32 = cx.read(pointer)?;
            target
                .runstate_area
                .store(u64::from(op.addr), Ordering::Release);
            if id == cx.vcpu.id {
                let clock = *target.runstate.lock();
                runstate::publish(
                    cx.domain,
                    target,
                    &clock,
                    &cx.hv.scale,
                    cx.hv.boot_ticks,
                    cx.memory,
                );
            }
        }
        _ => return Err(Errno::Inval),
    }
    OK
}

pub(super) fn vm_assist<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    kind: u32,
) -> CallResult {
    if kind != VMASST_RUNSTATE_UPDATE_FLAG {
        return Err(Errno::Inval);
    }
    let bit = 1 << kind;
    match command {
        VMASST_CMD_ENABLE => cx.domain.vm_assist.fetch_or(bit, Ordering::AcqRel),
        VMASST_CMD_DISABLE => cx.domain.vm_assist.fetch_and(!bit, Ordering::AcqRel),
        _ => return Err(Errno::NoSys),
    };
    OK
}
