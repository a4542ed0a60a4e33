//! What a trap of an AArch64 guest does.

use alloc::sync::Arc;

use log::{debug, warn};
use xenith_arch::{setup, sysreg, timer};
use xenith_core::addr::{Gfn, GuestPhys};
use xenith_core::console::GUEST_TARGET;
use xenith_core::domain::{Domain, Vcpu};
use xenith_core::emulate::a64::inject::GuestException;
use xenith_core::emulate::a64::mmio::{self, MmioError};
use xenith_core::emulate::a64::syndrome::{Abort, Exit, Syndrome, SystemAccess};
use xenith_core::emulate::a64::sysreg::{AccessContext, Action, VmRegister, decide};
use xenith_core::emulate::a64::{GuestRegs64, pstate};
use xenith_core::emulate::coproc::Privilege;
use xenith_core::emulate::psci::{self, Workarounds};

use super::inject;
use crate::machine::Machine;
use crate::run::{Next, Pcpu};
use crate::traps::{
    XEN_HYPERCALL_TAG, access_device, block_unless_pending, firmware_call, flush_domain, hypercall,
    is_mapped, timer_changed,
};
use crate::vcpu::VcpuContext;

/// SCTLR_EL1.C: data cache on.
const SCTLR_C: u64 = 1 << 2;
/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

type Dom = Arc<Domain<Machine>>;

/// Handles a trap of the loaded vCPU.
#[inline]
pub fn handle(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
) -> Next {
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
            if !write_vm_register(cpu, domain, &mut context.flush_next, register, written) {
                return Next::Resume;
            }
        }
    }
    skip(context);
    Next::Resume
}

/// Sends the SGI that the guest wrote to ICC_SGI1R_EL1. Returns false if it has no such register.
fn send_sgi(domain: &Dom, vcpu: &Vcpu<Machine>, value: u64) -> bool {
    let sent = domain.vgic.lock().send_sgi1r(vcpu.id, value);
    match sent {
        Some(set) => {
            domain.kick(set);
            true
        }
        None => false,
    }
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
    value: u64,
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
    // SAFETY: EL1 state of the guest; stage 2 confines it.
    unsafe {
        match register {
            VmRegister::Sctlr => sysreg::sctlr::write(value),
            VmRegister::Ttbr0 => sysreg::ttbr0::write(value),
            VmRegister::Ttbr1 => sysreg::ttbr1::write(value),
            VmRegister::Tcr => sysreg::tcr::write(value),
            VmRegister::Esr => sysreg::esr::write(value),
            VmRegister::Far => sysreg::far::write(value),
            VmRegister::Afsr0 => sysreg::afsr0::write(value),
            VmRegister::Afsr1 => sysreg::afsr1::write(value),
            VmRegister::Mair => sysreg::mair::write(value),
            VmRegister::Amair => sysreg::amair::write(value),
            VmRegister::Contextidr => sysreg::contextidr::write(value),
        }
    }
    sysreg::isb();
    true
}
