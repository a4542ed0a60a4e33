//! What a trap does: the decisions are `xenith_core::emulate`'s and `xenith_core::hypercall`'s; here they meet the
//! registers.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use log::{debug, warn};
use xenith_arch::guest_memory::GuestSpace;
use xenith_arch::{setup, sysreg, timer};
use xenith_core::addr::{Gfn, GuestPhys, Mfn};
use xenith_core::console::GUEST_TARGET;
use xenith_core::domain::{Domain, NOT_POLLING, RunstateClock, ShutdownReason, Vcpu};
use xenith_core::emulate::coproc::{
    self, AccessContext, Action, Action64, Privilege, VmRegister, VmRegister64,
};
use xenith_core::emulate::decode;
use xenith_core::emulate::execute::{self, FaultLocation, MmioAccess, SyndromeAccess};
use xenith_core::emulate::inject::{FaultCause, GuestException};
use xenith_core::emulate::psci::{self, Answer, CpuOn, Workarounds};
use xenith_core::emulate::syndrome::{Cp32, Cp64, DataAbort, Exit, Syndrome, advance_pc};
use xenith_core::emulate::vtimer::PhysicalTimer;
use xenith_core::errno::Errno;
use xenith_core::hal::Hal;
use xenith_core::hypercall::{self, Cx, Effects, HypercallRegs, Outcome};
use xenith_core::hypervisor::RamOf;
use xenith_core::machine::Fault;
use xenith_core::runstate;
use xenith_core::vgic::Width;

use crate::machine::{Hv, Machine};
use crate::run::{Next, Pcpu};
use crate::vcpu::{LiveRegs, VcpuContext, inject};

/// HVC immediate of a Xen hypercall.
const XEN_HYPERCALL_TAG: u16 = 0xea1;
/// GICD_ISPENDR0.
const GICD_ISPENDR: u32 = 0x200;
/// GICD_ISACTIVER0.
const GICD_ISACTIVER: u32 = 0x300;
/// SCTLR.C: data cache on.
const SCTLR_C: u32 = 1 << 2;

/// Looks at the p2m's lock before a fault of the guest's translation is believed.
const P2M_LOOKS: u32 = 100_000;

/// Looks at the lock of a context that nobody should hold for more than a moment.
const CONTEXT_LOOKS: u32 = 1_000_000;

type Dom = Arc<Domain<Machine>>;

/// Returns the calling guest's memory.
pub fn guest_space<'a>(
    hv: &'static Hv,
    domain: &'a Domain<Machine>,
) -> GuestSpace<RamOf<'a, Machine>, impl Fn() + 'a> {
    GuestSpace {
        memory: hv.hal.memory,
        ram: RamOf::new(hv, domain),
        // Bounded: the holder may be this pCPU itself, and then the fault is real.
        settle: || {
            for _ in 0..P2M_LOOKS {
                if !domain.p2m.is_locked() {
                    break;
                }
                core::hint::spin_loop();
            }
        },
    }
}

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
        Exit::Hvc(0) => firmware_call(cpu, domain, vcpu, context),
        Exit::Smc => {
            advance_pc(&mut LiveRegs(&mut context.frame), true);
            firmware_call(cpu, domain, vcpu, context)
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

#[inline]
fn hypercall(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
) -> Next {
    let mut effects = Effects::default();
    let memory = guest_space(cpu.hv, domain);
    let mut cx = Cx {
        hv: cpu.hv,
        domain,
        vcpu,
        memory: &memory,
        effects: &mut effects,
    };
    let outcome = hypercall::dispatch(&mut cx, &mut LiveRegs(&mut context.frame));
    if outcome != Outcome::Done {
        if outcome == Outcome::Preempted || crate::machine::grow_heap_if_low(cpu.hv) {
            context.frame.pc = context.frame.pc.wrapping_sub(4);
        } else {
            LiveRegs(&mut context.frame).set_result(i64::from(Errno::NoMem.to_return()));
        }
    }
    if effects == Effects::default() {
        return Next::Resume;
    }
    after_call(cpu, domain, vcpu, effects)
}

/// Does what a hypercall asked for.
fn after_call(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>, effects: Effects) -> Next {
    if let Some(reason) = effects.shutdown {
        return shutdown(cpu.hv, domain, reason);
    }
    cpu.deadline_changed |= effects.deadline_changed;
    if effects.block {
        cpu.deadline_changed = true;
        return wait_unless_pending(cpu, domain, vcpu);
    }
    if effects.reschedule {
        Next::Yield
    } else {
        Next::Resume
    }
}

/// A domain shut down or crashed; without dom0 the machine has no purpose.
pub fn shutdown(hv: &Hv, domain: &Dom, reason: ShutdownReason) -> Next {
    domain.set_shutdown(reason);
    if domain.facts.is_privileged {
        crate::power::hardware_domain_shutdown(reason);
    } else {
        crate::console::forget_domain(domain);
        hv.tell_domain_changed();
    }
    Next::Wait
}

/// The guest caused an asynchronous abort, or one came in while it ran: it gets it, as a virtual one (XSA-201; Xen's
/// `serrors=diverse`).
pub fn async_abort(domain: &Dom, vcpu: &Vcpu<Machine>) {
    debug!(target: GUEST_TARGET, "{}v{}: asynchronous abort", domain.facts.id, vcpu.id.raw());
    // SAFETY: Only makes an abort pending for the loaded guest.
    unsafe { sysreg::hcr::write(sysreg::hcr::read() | setup::hcr::VA) };
    sysreg::isb();
}

fn firmware_call(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
) -> Next {
    let r = &mut context.frame.r;
    match psci::call(r[0], r[1], r[2], r[3], &Workarounds::default()) {
        Answer::Value(value) => r[0] = value,
        Answer::Pair(a, b) => {
            r[0] = a;
            r[1] = b;
        }
        Answer::Four(values) => r[..4].copy_from_slice(&values),
        Answer::Workaround | Answer::StoreBypassSwitch { .. } => {}
        Answer::Suspend => {
            r[0] = 0;
            return block_unless_pending(cpu, domain, vcpu);
        }
        Answer::CpuOff => {
            // The power state follows when the registers are saved: another vCPU may then switch it on again.
            domain.set_offline(vcpu, true);
            return Next::Wait;
        }
        Answer::CpuOn(request) => {
            context.frame.r[0] = match cpu_on(cpu, domain, &request) {
                Ok(()) => 0,
                Err(error) => request.interface.error_value(error),
            };
        }
        Answer::AffinityInfo { target, level } => r[0] = domain.power.affinity_info(target, level),
        Answer::SystemOff => return shutdown(cpu.hv, domain, ShutdownReason::Poweroff),
        Answer::SystemReset => return shutdown(cpu.hv, domain, ShutdownReason::Reboot),
    }
    Next::Resume
}

fn cpu_on(cpu: &mut Pcpu, domain: &Dom, request: &CpuOn) -> Result<(), psci::PsciError> {
    let id = domain.power.cpu_on(request.target)?;
    let Some(target) = domain.vcpu(id) else {
        return Err(psci::PsciError::InvalidParameters);
    };
    // Off means saved: nobody else holds the lock for long, and nothing may make this pCPU wait for ever.
    let Some(mut context) = (0..CONTEXT_LOOKS).find_map(|_| target.context.try_lock()) else {
        domain.power.set_off(id);
        return Err(psci::PsciError::InternalFailure);
    };
    context.reset(request.start());
    drop(context);
    let set = cpu.with_quiet_vgic(domain, |vgic, host| vgic.reset_vcpu(id, host));
    domain.kick(set);
    domain.power.set_on(id);
    domain.set_offline(target, false);
    Ok(())
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

fn block_unless_pending(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>) -> Next {
    vcpu.is_blocked.store(true, Ordering::Release);
    wait_unless_pending(cpu, domain, vcpu)
}

/// The vCPU is marked as blocked: it waits, unless an interrupt is pending for it already.
fn wait_unless_pending(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>) -> Next {
    let mask = cpu.priority_mask();
    let pending = cpu.with_quiet_vgic(domain, |vgic, host| {
        vgic.has_deliverable_loaded(vcpu.id, mask, host)
    });
    if pending {
        vcpu.is_blocked.store(false, Ordering::Release);
        if vcpu.poll_deadline.load(Ordering::Relaxed) != NOT_POLLING {
            domain.end_poll(vcpu.id);
        }
        return Next::Resume;
    }
    Next::Wait
}

fn mmio_width(width: decode::Width) -> Width {
    match width {
        decode::Width::Byte => Width::Byte,
        decode::Width::Half => Width::Half,
        decode::Width::Word => Width::Word,
    }
}

/// Performs one access of the loaded vCPU to an emulated device.
fn access_device(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    physical_timer: &PhysicalTimer,
    access: MmioAccess,
) -> Result<u32, Fault> {
    let width = mmio_width(access.width);
    let base = domain.facts.gicd.raw();
    let offset = access.address.raw().wrapping_sub(base);
    if offset >= 0x1000 {
        let (vuart, offset) = domain.vuart_at(access.address).ok_or(Fault)?;
        let id = domain.facts.id;
        let value = domain.access_vuart(vuart, offset, width, access.write, &mut |line, byte| {
            crate::console::vuart_write(id, line, byte);
        });
        return Ok(value);
    }
    let offset = offset as u32;
    match access.write {
        Some(value) => {
            let set = domain.vgic.lock().mmio_write(
                vcpu.id,
                offset,
                width,
                value,
                &mut *cpu.hv.hal.distributor.lock(),
            )?;
            domain.kick(set);
            Ok(0)
        }
        None => {
            // Only pending state depends on lines.
            let (value, set) = if (GICD_ISPENDR..GICD_ISACTIVER).contains(&offset) {
                cpu.with_vgic(domain, vcpu, physical_timer, |vgic, host| {
                    vgic.mmio_read(vcpu.id, offset, width, host)
                })
            } else {
                cpu.with_quiet_vgic(domain, |vgic, host| {
                    vgic.mmio_read(vcpu.id, offset, width, host)
                })
            }?;
            domain.kick(set);
            Ok(value)
        }
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

/// Whether the page of a translation fault is mapped after all: another pCPU was changing the mapping (break before make)
/// when the guest needed it. The guest tries again.
#[cold]
fn is_mapped(cpu: &Pcpu, domain: &Dom) -> bool {
    let gfn = Gfn::new(sysreg::hpfar::read() >> 4);
    let memory = cpu.hv.hal.p2m_memory(domain.vttbr);
    domain.p2m.lock().lookup(&memory, gfn).is_some()
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

/// The guest changed its physical timer: its line and the hypervisor's deadline follow.
fn timer_changed(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>, context: &VcpuContext) {
    cpu.deadline_changed = true;
    if context.physical_timer.line(timer::now()) {
        domain.raise(vcpu.id, domain.facts.physical_timer_ppi);
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

/// Pages that are flushed between two looks at the interrupts.
const FLUSH_STEP: u32 = 256;

/// Cleans and invalidates the domain's RAM from `next`; false when an interrupt came first, then the next call goes on
/// there. Set/way operations cannot be given to a guest: they reach only this CPU's caches, and other domains' lines.
fn flush_domain(cpu: &mut Pcpu, domain: &Dom, next: &mut Gfn) -> bool {
    let hv = cpu.hv;
    let memory = hv.hal.p2m_memory(domain.vttbr);
    loop {
        // Locked for a step at a time: others need the p2m meanwhile.
        let p2m = domain.p2m.lock();
        let found = p2m.stage2().next_mapping(&memory, *next, u64::MAX);
        let Some((gfn, mapping, run)) = found else {
            break;
        };
        let is_ram = mapping.ty.is_ram();
        let pages = if is_ram { run.min(FLUSH_STEP) } else { run };
        if is_ram {
            for i in 0..pages {
                hv.hal.flush_frame(Mfn::new(mapping.mfn.raw() + i));
            }
        }
        drop(p2m);
        let Some(after) = gfn.checked_add(pages) else {
            break;
        };
        *next = after;
        if hv.hal.has_pending_interrupt() {
            return false;
        }
    }
    *next = Gfn::new(0);
    true
}

/// Copies a vCPU's run states to where its guest asked for them.
pub fn publish_runstate(
    hv: &'static Hv,
    domain: &Domain<Machine>,
    vcpu: &Vcpu<Machine>,
    clock: &RunstateClock,
) {
    if vcpu.runstate_address().is_some() {
        runstate::publish(
            domain,
            vcpu,
            clock,
            &hv.scale,
            hv.boot_ticks,
            &guest_space(hv, domain),
        );
    }
}
