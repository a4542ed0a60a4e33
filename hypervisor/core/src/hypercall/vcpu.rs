//! `vcpu_op` (public/vcpu.h; xen-arm.md 3.7). vCPUs are switched on and off by PSCI.

use core::sync::atomic::Ordering;

use xen_abi::vcpu as abi;

use super::{CallResult, Cx};
use crate::addr::{Gfn, GuestVirt, VcpuId};
use crate::domain::Vcpu;
use crate::emulate::Execution;
use crate::errno::Errno;
use crate::evtchn::{EventChannels, RegisterError};
use crate::hal::Hal;
use crate::machine::GuestMemory;
use crate::runstate;

#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    id: u32,
    at: GuestVirt,
) -> CallResult {
    if !matches!(
        command,
        abi::VCPUOP_REGISTER_VCPU_INFO | abi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA
    ) {
        return Err(Errno::Inval);
    }
    let vcpu = u16::try_from(id)
        .ok()
        .and_then(|id| cx.domain.vcpu(VcpuId::new(id)))
        .ok_or(Errno::NoEnt)?;
    if command == abi::VCPUOP_REGISTER_VCPU_INFO {
        register_vcpu_info(cx, vcpu, at)
    } else {
        register_runstate(cx, vcpu, at)
    }
}

fn register_vcpu_info<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    vcpu: &Vcpu<H>,
    at: GuestVirt,
) -> CallResult {
    let op: abi::VcpuRegisterVcpuInfo = cx.read(at)?;
    if !EventChannels::<H::Page>::is_vcpu_info_offset(op.offset) {
        return Err(Errno::Nxio);
    }
    if vcpu.id != cx.vcpu.id && !vcpu.is_offline.load(Ordering::Acquire) {
        return Err(Errno::Inval);
    }
    let gfn = Gfn::try_from(op.mfn).map_err(|_| Errno::Inval)?;
    let page = cx.map_own_page(gfn)?;
    let registered = cx
        .domain
        .events
        .lock()
        .register_vcpu_info(vcpu.id, page, op.offset);
    match registered {
        Ok(notify) => {
            cx.domain.deliver(notify);
            Ok(0)
        }
        Err(RegisterError::NoVcpu) => Err(Errno::NoEnt),
        Err(RegisterError::Misplaced) => Err(Errno::Nxio),
        Err(RegisterError::Registered) => Err(Errno::Inval),
    }
}

fn register_runstate<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    vcpu: &Vcpu<H>,
    at: GuestVirt,
) -> CallResult {
    let address = match cx.domain.execution() {
        // A 32-bit guest fills only the pointer: the rest of the union is whatever was on its stack.
        Execution::AArch32 => u64::from(cx.read::<abi::VcpuRegisterRunstate32>(at)?.addr),
        Execution::AArch64 => cx.read::<abi::VcpuRegisterRunstateMemoryArea>(at)?.addr,
    };
    vcpu.runstate_area.store(address, Ordering::Release);
    let clock = *vcpu.runstate.lock();
    runstate::publish(
        cx.domain,
        vcpu,
        &clock,
        &cx.hv.scale,
        cx.hv.boot_ticks,
        cx.memory,
    );
    Ok(0)
}
