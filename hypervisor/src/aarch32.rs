//! What a trap from AArch32 state does, of a guest or, on AArch64, of a user program of a 64-bit guest.
//!
//! The decisions are the core's; where the registers are says [`crate::arch::aarch32`].

use log::{debug, warn};
use xenith_arch::timer;
use xenith_core::addr::GuestPhys;
use xenith_core::console::GUEST_TARGET;
use xenith_core::domain::Vcpu;
use xenith_core::emulate::coproc::{self, AccessContext, Action, Action64, Privilege, VmRegister};
use xenith_core::emulate::decode;
use xenith_core::emulate::execute::{self, FaultLocation, SyndromeAccess};
use xenith_core::emulate::inject::{FaultCause, GuestException};
use xenith_core::emulate::psci::{self, Workarounds};
use xenith_core::emulate::regs::GuestRegs;
use xenith_core::emulate::syndrome::{Cp32, Cp64, DataAbort, Exit, Syndrome, advance_pc};
use xenith_core::machine::Fault;

use crate::arch::aarch32::{
    IS_CLASS_7_VFP, actlr, cntkctl, data_address, features, fetch_address, inject, raw_syndrome,
    registers, sctlr, write_ttbr, write_vm,
};
use crate::machine::{Dom, Machine};
use crate::run::{Next, Pcpu};
use crate::traps::{
    XEN_HYPERCALL_TAG, access_device, block_unless_pending, firmware_call, guest_space, hypercall,
    is_mapped, sctlr_changes, send_sgi, set_way, timer_changed,
};
use crate::vcpu::VcpuContext;

/// Handles a trap of the loaded vCPU.
#[inline]
pub fn handle(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
) -> Next {
    let syndrome = Syndrome::new(raw_syndrome());
    let exit = syndrome.exit();
    if let Exit::Hvc(XEN_HYPERCALL_TAG) = exit {
        return hypercall(cpu, domain, vcpu, context);
    }
    let mut regs = registers(&mut context.frame);
    if !syndrome.condition_passed(regs.cpsr()) {
        advance_pc(&mut regs, syndrome.is_wide());
        return Next::Resume;
    }
    match exit {
        Exit::Hvc(0) => firmware(cpu, domain, vcpu, context),
        Exit::Smc => {
            advance_pc(&mut registers(&mut context.frame), true);
            firmware(cpu, domain, vcpu, context)
        }
        Exit::Wait { event } => wait(cpu, domain, vcpu, context, event, syndrome.is_wide()),
        Exit::DataAbort(abort) => data_abort(cpu, domain, vcpu, context, abort, syndrome.is_wide()),
        Exit::PrefetchAbort(abort) => {
            if abort.status().is_translation() && is_mapped(cpu, domain) {
                return Next::Resume;
            }
            let address = fetch_address();
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
        } if (IS_CLASS_7_VFP || advanced_simd || coprocessor & !1 == 10)
            && cpu.load_vfp(vcpu, context) =>
        {
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

fn access_context<'a>(cpu: &'a Pcpu, context: &mut VcpuContext) -> AccessContext<'a> {
    AccessContext {
        privilege: Privilege::of(registers(&mut context.frame).cpsr()),
        cntkctl: cntkctl(),
        actlr: actlr(),
        features: features(&cpu.features),
    }
}

fn firmware(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>, context: &mut VcpuContext) -> Next {
    let regs = registers(&mut context.frame);
    let r = |n| regs.get(n);
    let answer = psci::call(r(0), r(1), r(2), r(3), &Workarounds::default());
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
    advance_pc(&mut registers(&mut context.frame), wide);
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
    let virt = data_address();
    // The frame is known for translation faults only (ARM DDI 0406C B3.13.5); nothing else is emulated.
    if abort.status().is_translation() && !abort.is_stage1_walk() && !abort.is_cache_maintenance() {
        let page = xenith_arch::fault_frame().address().raw();
        let phys = GuestPhys::new(page | u64::from(virt & 0xfff));
        let (frame, physical_timer) = (&mut context.frame, &context.physical_timer);
        let done = match SyndromeAccess::from_syndrome(abort) {
            Some(access) => access
                .execute(&mut registers(frame), phys, wide, |access| {
                    access_device(cpu, domain, vcpu, physical_timer, access)
                })
                .is_ok(),
            None if domain.facts.gic_register(phys).is_some()
                || domain.vuart_at(phys).is_some() =>
            {
                let memory = guest_space(cpu.hv, domain);
                let (pc, cpsr) = (registers(frame).pc(), registers(frame).cpsr());
                match decode::fetch(&memory, pc, cpsr) {
                    // The page went away under the guest: it runs into that itself.
                    Err(Fault) => return Next::Resume,
                    Ok(Err(reason)) => {
                        debug!(
                            target: GUEST_TARGET,
                            "{}v{}: {:?} at {:#x} on {phys:#x}",
                            domain.facts.id,
                            vcpu.id.raw(),
                            reason,
                            pc
                        );
                        false
                    }
                    Ok(Ok(instruction)) => {
                        let fault = FaultLocation {
                            virt,
                            phys,
                            is_write: abort.is_write(),
                        };
                        execute::execute(&instruction, &mut registers(frame), fault, |access| {
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
    let rt = access.rt();
    match action {
        Action::Read(value) => registers(&mut context.frame).set_transfer(rt, value),
        Action::Ignore => {}
        Action::Undefined => {
            inject(&mut context.frame, GuestException::Undefined);
            return Next::Resume;
        }
        Action::TimerRead(register) => {
            let value = context.physical_timer.read(register, timer::now());
            registers(&mut context.frame).set_transfer(rt, value);
        }
        Action::TimerWrite(register) => {
            let value = registers(&mut context.frame).transfer(rt);
            context.physical_timer.write(register, value, timer::now());
            timer_changed(cpu, domain, vcpu, context);
        }
        Action::SetWay => {
            if !set_way(cpu, domain, context) {
                return Next::Resume;
            }
        }
        Action::VmWrite(register) => {
            let value = registers(&mut context.frame).transfer(rt);
            if register == VmRegister::Sctlr
                && !sctlr_changes(cpu, domain, &mut context.flush_next, sctlr(), value)
            {
                return Next::Resume;
            }
            write_vm(register, value);
        }
    }
    advance_pc(&mut registers(&mut context.frame), syndrome.is_wide());
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
    let regs = registers(&mut context.frame);
    let written =
        (u64::from(regs.transfer(access.rt2())) << 32) | u64::from(regs.transfer(access.rt()));
    let mut read = None;
    match action {
        Action64::SendSgi if send_sgi(domain, vcpu, written) => {}
        Action64::Undefined | Action64::SendSgi => {
            inject(&mut context.frame, GuestException::Undefined);
            return Next::Resume;
        }
        Action64::CounterRead => read = Some(timer::now()),
        Action64::CompareRead => read = Some(context.physical_timer.compare()),
        Action64::CompareWrite => {
            context.physical_timer.set_compare(written);
            timer_changed(cpu, domain, vcpu, context);
        }
        Action64::VmWrite(register) => write_ttbr(register, written),
    }
    let mut regs = registers(&mut context.frame);
    if let Some(value) = read {
        regs.set_transfer(access.rt(), value as u32);
        regs.set_transfer(access.rt2(), (value >> 32) as u32);
    }
    advance_pc(&mut regs, syndrome.is_wide());
    Next::Resume
}
