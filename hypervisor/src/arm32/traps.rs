//! What a trap of an AArch32 guest does on ARMv7.

use alloc::sync::Arc;

use log::{debug, warn};
use xenith_arch::{setup, sysreg, timer};
use xenith_core::addr::{Gfn, GuestPhys};
use xenith_core::console::GUEST_TARGET;
use xenith_core::domain::{Domain, Vcpu};
use xenith_core::emulate::coproc::{
    self, AccessContext, Action, Action64, Privilege, VmRegister, VmRegister64,
};
use xenith_core::emulate::decode;
use xenith_core::emulate::execute::{self, FaultLocation, SyndromeAccess};
use xenith_core::emulate::inject::{FaultCause, GuestException};
use xenith_core::emulate::psci::{self, Workarounds};
use xenith_core::emulate::syndrome::{Cp32, Cp64, DataAbort, Exit, Syndrome, advance_pc};
use xenith_core::machine::Fault;

use super::{LiveRegs, inject};
use crate::machine::Machine;
use crate::run::{Next, Pcpu};
use crate::traps::{
    XEN_HYPERCALL_TAG, access_device, block_unless_pending, firmware_call, flush_domain,
    guest_space, hypercall, is_mapped, timer_changed,
};
use crate::vcpu::VcpuContext;

/// SCTLR.C: data cache on.
const SCTLR_C: u32 = 1 << 2;

type Dom = Arc<Domain<Machine>>;

/// Handles a trap of the loaded vCPU.
#[inline]
pub fn handle(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
) -> Next {
    let syndrome = Syndrome::new(sysreg::hsr::read());
    let exit = syndrome.exit();
    if let Exit::Hvc(XEN_HYPERCALL_TAG) = exit {
        return hypercall(cpu, domain, vcpu, context);
    }
    if !syndrome.condition_passed(context.frame.cpsr) {
        advance_pc(&mut LiveRegs(&mut context.frame), syndrome.is_wide());
        return Next::Resume;
    }
    match exit {
        Exit::Hvc(0) => firmware(cpu, domain, vcpu, context),
        Exit::Smc => {
            advance_pc(&mut LiveRegs(&mut context.frame), true);
            firmware(cpu, domain, vcpu, context)
        }
        Exit::Wait { event } => wait(cpu, domain, vcpu, context, event, syndrome.is_wide()),
        Exit::DataAbort(abort) => data_abort(cpu, domain, vcpu, context, abort, syndrome.is_wide()),
        Exit::PrefetchAbort(abort) => {
            if abort.status().is_translation() && is_mapped(cpu, domain) {
                return Next::Resume;
            }
            let address = sysreg::hifar::read();
            inject(
                &mut context.frame,
                GuestException::PrefetchAbort {
                    address,
                    cause: FaultCause::External,
                },
            );
            Next::Resume
        }
        Exit::Cp15(access) => {
            let action = coproc::cp15(access, &access_context(cpu, context));
            coprocessor(cpu, domain, vcpu, context, access, action, &syndrome)
        }
        Exit::Cp14(access) => {
            let action = coproc::cp14(access, &access_context(cpu, context));
            coprocessor(cpu, domain, vcpu, context, access, action, &syndrome)
        }
        Exit::Cp10(access) => {
            let action = coproc::cp10(access, &access_context(cpu, context));
            coprocessor(cpu, domain, vcpu, context, access, action, &syndrome)
        }
        Exit::Cp15Double(access) => {
            let action = coproc::cp15_double(access, &access_context(cpu, context));
            coprocessor_double(cpu, domain, vcpu, context, access, action, &syndrome)
        }
        Exit::Coprocessor {
            coprocessor,
            advanced_simd,
        } if (advanced_simd || coprocessor & !1 == 10) && cpu.load_vfp(vcpu, context) => {
            Next::Resume
        }
        Exit::Hvc(_)
        | Exit::Svc(_)
        | Exit::Cp14LoadStore(_)
        | Exit::Cp14Double(_)
        | Exit::Coprocessor { .. }
        | Exit::Jazelle { .. } => {
            if let Exit::Hvc(_) = exit {
                // The preferred return address of HVC is the next instruction; UNDEF is taken on the HVC itself.
                context.frame.pc = context.frame.pc.wrapping_sub(4);
            }
            inject(&mut context.frame, GuestException::Undefined);
            Next::Resume
        }
        Exit::Hypervisor | Exit::Unknown(_) => {
            warn!(
            target: GUEST_TARGET,
                "{}v{}: trap of unknown class, HSR {:#010x}",
                domain.facts.id,
                vcpu.id.raw(),
                syndrome.raw()
            );
            inject(&mut context.frame, GuestException::Undefined);
            Next::Resume
        }
    }
}

fn access_context<'a>(cpu: &'a Pcpu, context: &VcpuContext) -> AccessContext<'a> {
    AccessContext {
        privilege: Privilege::of(context.frame.cpsr),
        cntkctl: sysreg::cntkctl::read(),
        actlr: sysreg::actlr::read(),
        features: &cpu.features,
    }
}

fn firmware(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>, context: &mut VcpuContext) -> Next {
    let r = &context.frame.r;
    let answer = psci::call(r[0], r[1], r[2], r[3], &Workarounds::default());
    firmware_call(cpu, domain, vcpu, context, answer)
}

fn wait(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    event: bool,
    wide: bool,
) -> Next {
    advance_pc(&mut LiveRegs(&mut context.frame), wide);
    if event {
        Next::Yield
    } else {
        block_unless_pending(cpu, domain, vcpu)
    }
}

fn data_abort(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    abort: DataAbort,
    wide: bool,
) -> Next {
    let virt = sysreg::hdfar::read();
    // HPFAR is valid for translation faults only (ARM DDI 0406C B3.13.5); nothing else is emulated.
    if abort.status().is_translation() && !abort.is_stage1_walk() && !abort.is_cache_maintenance() {
        let page = u64::from(sysreg::hpfar::read() >> 4) << 12;
        let phys = GuestPhys::new(page | u64::from(virt & 0xfff));
        let (frame, physical_timer) = (&mut context.frame, &context.physical_timer);
        let done = match SyndromeAccess::from_syndrome(abort) {
            Some(access) => access
                .execute(&mut LiveRegs(frame), phys, wide, |access| {
                    access_device(cpu, domain, vcpu, physical_timer, access)
                })
                .is_ok(),
            None if phys.raw() & !0xfff == domain.facts.gicd.raw()
                || domain.vuart_at(phys).is_some() =>
            {
                let memory = guest_space(cpu.hv, domain);
                match decode::fetch(&memory, frame.pc, frame.cpsr) {
                    // The page went away under the guest: it runs into that itself.
                    Err(Fault) => return Next::Resume,
                    Ok(Err(reason)) => {
                        debug!(
                            target: GUEST_TARGET,
                            "{}v{}: {:?} at {:#x} on {phys:#x}",
                            domain.facts.id,
                            vcpu.id.raw(),
                            reason,
                            frame.pc
                        );
                        false
                    }
                    Ok(Ok(instruction)) => {
                        let fault = FaultLocation {
                            virt,
                            phys,
                            is_write: abort.is_write(),
                        };
                        execute::execute(&instruction, &mut LiveRegs(frame), fault, |access| {
                            access_device(cpu, domain, vcpu, physical_timer, access)
                        })
                        .is_ok()
                    }
                }
            }
            None => false,
        };
        if done {
            return Next::Resume;
        }
    }
    if abort.status().is_translation() && is_mapped(cpu, domain) {
        return Next::Resume;
    }
    let exception = GuestException::DataAbort {
        address: virt,
        cause: FaultCause::External,
        is_write: abort.is_write(),
    };
    inject(&mut context.frame, exception);
    Next::Resume
}

fn coprocessor(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    access: Cp32,
    action: Action,
    syndrome: &Syndrome,
) -> Next {
    use xenith_core::emulate::regs::GuestRegs;
    let rt = access.rt();
    match action {
        Action::Read(value) => LiveRegs(&mut context.frame).set(rt, value),
        Action::Ignore => {}
        Action::Undefined => {
            inject(&mut context.frame, GuestException::Undefined);
            return Next::Resume;
        }
        Action::TimerRead(register) => {
            let value = context.physical_timer.read(register, timer::now());
            LiveRegs(&mut context.frame).set(rt, value);
        }
        Action::TimerWrite(register) => {
            let value = LiveRegs(&mut context.frame).get(rt);
            context.physical_timer.write(register, value, timer::now());
            timer_changed(cpu, domain, vcpu, context);
        }
        Action::SetWay => {
            // A loop over all sets and ways needs one flush: from then on TVM shows when the guest switches its caches.
            if sysreg::hcr::read() & setup::hcr::TVM == 0 {
                if !flush_domain(cpu, domain, &mut context.flush_next) {
                    // Interrupted: the same instruction goes on.
                    return Next::Resume;
                }
                set_tvm(true);
            }
        }
        Action::VmWrite(register) => {
            let value = LiveRegs(&mut context.frame).get(rt);
            if !write_vm_register(cpu, domain, &mut context.flush_next, register, value) {
                return Next::Resume;
            }
        }
    }
    advance_pc(&mut LiveRegs(&mut context.frame), syndrome.is_wide());
    Next::Resume
}

fn coprocessor_double(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    access: Cp64,
    action: Action64,
    syndrome: &Syndrome,
) -> Next {
    use xenith_core::emulate::regs::GuestRegs;
    let regs = LiveRegs(&mut context.frame);
    let written = (u64::from(regs.get(access.rt2())) << 32) | u64::from(regs.get(access.rt()));
    let mut read = None;
    match action {
        Action64::Undefined => {
            inject(&mut context.frame, GuestException::Undefined);
            return Next::Resume;
        }
        Action64::CounterRead => read = Some(timer::now()),
        Action64::CompareRead => read = Some(context.physical_timer.compare()),
        Action64::CompareWrite => {
            context.physical_timer.set_compare(written);
            timer_changed(cpu, domain, vcpu, context);
        }
        // SAFETY: Stage-1 tables of the guest; stage 2 confines it.
        Action64::VmWrite(VmRegister64::Ttbr0) => unsafe { sysreg::ttbr0::write(written) },
        // SAFETY: As above.
        Action64::VmWrite(VmRegister64::Ttbr1) => unsafe { sysreg::ttbr1::write(written) },
    }
    let mut regs = LiveRegs(&mut context.frame);
    if let Some(value) = read {
        regs.set(access.rt(), value as u32);
        regs.set(access.rt2(), (value >> 32) as u32);
    }
    advance_pc(&mut regs, syndrome.is_wide());
    Next::Resume
}

fn set_tvm(on: bool) {
    let hcr = sysreg::hcr::read();
    let hcr = if on {
        hcr | setup::hcr::TVM
    } else {
        hcr & !setup::hcr::TVM
    };
    // SAFETY: Only adds or removes a trap.
    unsafe { sysreg::hcr::write(hcr) };
    sysreg::isb();
}

/// Writes a virtual memory control of the guest while TVM traps it. Returns false when the flush that a change of the
/// cache state needs was interrupted: the instruction is executed again.
fn write_vm_register(
    cpu: &mut Pcpu,
    domain: &Dom,
    flush_next: &mut Gfn,
    register: VmRegister,
    value: u32,
) -> bool {
    if register == VmRegister::Sctlr {
        let was_on = sysreg::sctlr::read() & SCTLR_C != 0;
        let is_on = value & SCTLR_C != 0;
        // What set/way operations were to do when the cache goes on or off, done by address.
        if was_on != is_on && !flush_domain(cpu, domain, flush_next) {
            return false;
        }
        if is_on {
            set_tvm(false);
        }
    }
    // SAFETY: PL1 state of the guest; stage 2 confines it.
    unsafe {
        match register {
            VmRegister::Sctlr => sysreg::sctlr::write(value),
            VmRegister::Ttbr0 => {
                sysreg::ttbr0::write((sysreg::ttbr0::read() & !0xffff_ffff) | u64::from(value))
            }
            VmRegister::Ttbr1 => {
                sysreg::ttbr1::write((sysreg::ttbr1::read() & !0xffff_ffff) | u64::from(value))
            }
            VmRegister::Ttbcr => sysreg::ttbcr::write(value),
            VmRegister::Ttbcr2 => {}
            VmRegister::Dacr => sysreg::dacr::write(value),
            VmRegister::Dfsr => sysreg::dfsr::write(value),
            VmRegister::Ifsr => sysreg::ifsr::write(value),
            VmRegister::Dfar => sysreg::dfar::write(value),
            VmRegister::Ifar => sysreg::ifar::write(value),
            VmRegister::Adfsr => sysreg::adfsr::write(value),
            VmRegister::Aifsr => sysreg::aifsr::write(value),
            VmRegister::Mair0 => sysreg::mair0::write(value),
            VmRegister::Mair1 => sysreg::mair1::write(value),
            VmRegister::Amair0 => sysreg::amair0::write(value),
            VmRegister::Amair1 => sysreg::amair1::write(value),
            VmRegister::Contextidr => sysreg::contextidr::write(value),
        }
    }
    sysreg::isb();
    true
}
