//! What a trap of an AArch64 guest does.

use log::{debug, warn};
use xenith_arch::{sysreg, timer};
use xenith_core::addr::GuestPhys;
use xenith_core::console::GUEST_TARGET;
use xenith_core::domain::Vcpu;
use xenith_core::emulate::a64::inject::GuestException;
use xenith_core::emulate::a64::mmio::{self, MmioError};
use xenith_core::emulate::a64::syndrome::{Abort, Exit, Syndrome, SystemAccess};
use xenith_core::emulate::a64::sysreg::{AccessContext, Action, VmRegister, decide};
use xenith_core::emulate::a64::{GuestRegs64, pstate};
use xenith_core::emulate::coproc::Privilege;
use xenith_core::emulate::psci::{self, Workarounds};

use super::inject;
use crate::machine::{Dom, Machine};
use crate::run::{Next, Pcpu};
use crate::traps::{
    XEN_HYPERCALL_TAG, access_device, block_unless_pending, firmware_call, hypercall, is_mapped,
    sctlr_changes, send_sgi, set_way, timer_changed,
};
use crate::vcpu::VcpuContext;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Handles a trap of the loaded vCPU.
#[inline]
pub fn handle(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
) -> Next {
    if context.frame.is_aarch32() {
        return crate::aarch32::handle(cpu, domain, vcpu, context);
    }
    let syndrome = Syndrome::new(sysreg::esr_el2::read());
    match syndrome.exit() {
        Exit::Hvc(XEN_HYPERCALL_TAG) => hypercall(cpu, domain, vcpu, context),
        Exit::Hvc(0) => firmware(cpu, domain, vcpu, context),
        Exit::Smc(0) => {
            skip(context);
            firmware(cpu, domain, vcpu, context)
        }
        Exit::Wait { event } => {
            skip(context);
            if event {
                Next::Yield
            } else {
                block_unless_pending(cpu, domain, vcpu)
            }
        }
        Exit::DataAbort(abort) => data_abort(cpu, domain, vcpu, context, abort),
        Exit::InstructionAbort(abort) => {
            if !(abort.status().is_translation() && is_mapped(cpu, domain)) {
                let address = sysreg::far_el2::read();
                inject(
                    &mut context.frame,
                    GuestException::InstructionAbort { address },
                );
            }
            Next::Resume
        }
        Exit::SystemRegister(access) => system_register(cpu, domain, vcpu, context, access),
        Exit::FloatingPoint if cpu.load_vfp(vcpu, context) => Next::Resume,
        exit => {
            if let Exit::Hvc(_) = exit {
                // The preferred return address of HVC is the next instruction; the exception is taken on the HVC itself.
                context.frame.pc = context.frame.pc.wrapping_sub(INSTRUCTION);
            }
            if let Exit::Unknown(_) = exit {
                warn!(
                target: GUEST_TARGET,
                    "{}v{}: trap of unknown class, ESR {:#010x}",
                    domain.facts.id,
                    vcpu.id.raw(),
                    syndrome.raw()
                );
            }
            inject(&mut context.frame, GuestException::Undefined);
            Next::Resume
        }
    }
}

/// Moves the guest past the instruction that trapped.
#[inline]
fn skip(context: &mut VcpuContext) {
    context.frame.pc = context.frame.pc.wrapping_add(INSTRUCTION);
}

fn firmware(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>, context: &mut VcpuContext) -> Next {
    let x = &context.frame.x;
    let answer = psci::call64([x[0], x[1], x[2], x[3]], &Workarounds::default());
    firmware_call(cpu, domain, vcpu, context, answer)
}

fn data_abort(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    abort: Abort,
) -> Next {
    let virt = sysreg::far_el2::read();
    // HPFAR_EL2 is valid for translation faults; nothing else is emulated.
    if abort.status().is_translation() && !abort.is_stage1_walk() && !abort.is_cache_maintenance() {
        let page = xenith_arch::fault_frame().address().raw();
        let phys = GuestPhys::new(page | virt & 0xfff);
        let (frame, physical_timer) = (&mut context.frame, &context.physical_timer);
        let done = mmio::execute(abort, frame, phys, |access| {
            access_device(cpu, domain, vcpu, physical_timer, access)
        });
        match done {
            Ok(()) => {
                skip(context);
                return Next::Resume;
            }
            Err(error @ (MmioError::NotDescribed | MmioError::Unaligned)) => debug!(
                target: GUEST_TARGET,
                "{}v{}: {error:?} at {:#x} on {phys:#x}",
                domain.facts.id,
                vcpu.id.raw(),
                context.frame.pc
            ),
            Err(MmioError::Access(_)) => {}
        }
    }
    if abort.status().is_translation() && is_mapped(cpu, domain) {
        return Next::Resume;
    }
    let exception = GuestException::DataAbort {
        address: virt,
        is_write: abort.is_write(),
    };
    inject(&mut context.frame, exception);
    Next::Resume
}

fn system_register(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    access: SystemAccess,
) -> Next {
    let privilege = if context.frame.psr() & pstate::MODE_MASK == pstate::MODE_EL0 {
        Privilege::Pl0
    } else {
        Privilege::Pl1
    };
    let action = decide(
        access,
        &AccessContext {
            privilege,
            cntkctl: sysreg::cntkctl::read(),
            actlr: sysreg::actlr::read(),
            features: &cpu.features,
        },
    );
    let rt = access.rt();
    let written = context.frame.get(rt);
    match action {
        Action::Read(value) => context.frame.set(rt, value),
        Action::Ignore => {}
        Action::SendSgi if send_sgi(domain, vcpu, written) => {}
        Action::Undefined | Action::SendSgi => {
            debug!(
                target: GUEST_TARGET,
                "{}v{}: S{}_{}_c{}_c{}_{} at {:#x} is undefined",
                domain.facts.id,
                vcpu.id.raw(),
                access.op0(),
                access.op1(),
                access.crn(),
                access.crm(),
                access.op2(),
                context.frame.pc
            );
            inject(&mut context.frame, GuestException::Undefined);
            return Next::Resume;
        }
        Action::TimerRead(register) => {
            let value = context.physical_timer.read(register, timer::now());
            context.frame.set(rt, u64::from(value));
        }
        Action::TimerWrite(register) => {
            context
                .physical_timer
                .write(register, written as u32, timer::now());
            timer_changed(cpu, domain, vcpu, context);
        }
        Action::CompareRead => context.frame.set(rt, context.physical_timer.compare()),
        Action::CompareWrite => {
            context.physical_timer.set_compare(written);
            timer_changed(cpu, domain, vcpu, context);
        }
        Action::SetWay => {
            if !set_way(cpu, domain, context) {
                return Next::Resume;
            }
        }
        Action::VmWrite(register) => {
            let next = &mut context.flush_next;
            if register == VmRegister::Sctlr
                && !sctlr_changes(cpu, domain, next, read_vm(register) as u32, written as u32)
            {
                return Next::Resume;
            }
            write_vm(register, written);
            sysreg::isb();
        }
    }
    skip(context);
    Next::Resume
}

/// Makes the pair of functions for the virtual memory controls of EL1.
macro_rules! vm_registers {
    ($($register:ident: $name:ident),*) => {
        /// Returns a virtual memory control of the loaded guest.
        pub fn read_vm(register: VmRegister) -> u64 {
            match register {
                $(VmRegister::$register => sysreg::$name::read(),)*
            }
        }

        /// Writes a virtual memory control of the loaded guest. A barrier follows.
        pub fn write_vm(register: VmRegister, value: u64) {
            // SAFETY: EL1 state of the guest; stage 2 confines it.
            unsafe {
                match register {
                    $(VmRegister::$register => sysreg::$name::write(value),)*
                }
            }
        }
    };
}

vm_registers! {
    Sctlr: sctlr, Ttbr0: ttbr0, Ttbr1: ttbr1, Tcr: tcr, Esr: esr, Far: far, Afsr0: afsr0, Afsr1: afsr1, Mair: mair,
    Amair: amair, Contextidr: contextidr
}
