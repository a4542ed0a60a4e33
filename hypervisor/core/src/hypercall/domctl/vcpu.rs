//! The registers of vCPUs.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use xen_abi::control as abi;
use xen_abi::vcpu::{VGCF_ONLINE, VcpuGuestContext};

use super::{Done, Reply, part};
use crate::addr::{GuestVirt, VcpuId};
use crate::domain::{Domain, Vcpu};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::machine::GuestMemory;

fn find<'a, H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    target: &'a Arc<Domain<H>>,
    vcpu: u32,
    missing: Errno,
) -> Result<&'a Vcpu<H>, Errno> {
    if Arc::ptr_eq(target, cx.domain) {
        return Err(Errno::Inval);
    }
    let id = u16::try_from(vcpu).map_err(|_| Errno::Inval)?;
    target.vcpu(VcpuId::new(id)).ok_or(missing)
}

pub(super) fn set_context<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let wanted: abi::DomctlVcpucontext = part(op)?;
    let vcpu = find(cx, target, wanted.vcpu, Errno::Inval)?;
    if wanted.ctxt == 0 {
        target.pause();
        target.wait_descheduled();
        target.forget_registers(cx.hv, vcpu, target.execution());
        target.unpause();
        return Ok(Reply::None);
    }
    let registers: VcpuGuestContext = cx.read(GuestVirt::new(wanted.ctxt))?;
    target.pause();
    target.wait_descheduled();
    let set = cx
        .hv
        .hal
        .set_registers(&mut vcpu.context.lock(), &registers);
    if set.is_ok() {
        vcpu.is_initialised.store(true, Ordering::SeqCst);
        let is_on = registers.flags & VGCF_ONLINE != 0;
        if is_on {
            target.power.set_on(vcpu.id);
        } else {
            target.power.set_off(vcpu.id);
        }
        target.set_offline(vcpu, !is_on);
    }
    target.unpause();
    set.map(|()| Reply::None)
}

pub(super) fn get_context<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let wanted: abi::DomctlVcpucontext = part(op)?;
    let vcpu = find(cx, target, wanted.vcpu, Errno::Srch)?;
    if !vcpu.is_initialised.load(Ordering::SeqCst) {
        return Err(Errno::NoData);
    }
    target.pause();
    target.wait_descheduled();
    let mut registers = cx.hv.hal.registers(&vcpu.context.lock());
    target.unpause();
    registers.flags = if vcpu.is_offline.load(Ordering::SeqCst) {
        0
    } else {
        VGCF_ONLINE
    };
    cx.write(GuestVirt::new(wanted.ctxt), &registers)?;
    Ok(Reply::Whole)
}
