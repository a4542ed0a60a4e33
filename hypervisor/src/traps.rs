//! What a trap does: the decisions are `xenith_core::emulate`'s and `xenith_core::hypercall`'s; here they meet the
//! registers.

use core::sync::atomic::Ordering;

use log::debug;
use xenith_arch::guest_memory::GuestSpace;
use xenith_arch::{GuestFrame, setup, sysreg, timer};
use xenith_core::addr::{Gfn, Mfn};
use xenith_core::console::GUEST_TARGET;
use xenith_core::domain::{Domain, NOT_POLLING, ShutdownReason, Vcpu};
use xenith_core::emulate::decode;
use xenith_core::emulate::execute::MmioAccess;
use xenith_core::emulate::psci::{self, Answer, CpuOn};
use xenith_core::emulate::vtimer::PhysicalTimer;
use xenith_core::errno::Errno;
use xenith_core::hal::Hal;
use xenith_core::hypercall::{self, Cx, Effects, HypercallRegs, Outcome};
use xenith_core::hypervisor::RamOf;
use xenith_core::machine::Fault;
use xenith_core::runstate;
use xenith_core::vgic::{Vgic, Width};

use crate::arch::LiveRegs;
use crate::machine::{Dom, Hv, Machine};
use crate::run::{Next, Pcpu};
use crate::vcpu::VcpuContext;

/// HVC immediate of a Xen hypercall.
pub const XEN_HYPERCALL_TAG: u16 = 0xea1;
/// SCTLR.C: data cache on.
const SCTLR_C: u32 = 1 << 2;
/// Looks at the p2m's lock before a fault of the guest's translation is believed.
const P2M_LOOKS: u32 = 100_000;

/// Looks at the lock of a context that nobody should hold for more than a moment.
const CONTEXT_LOOKS: u32 = 1_000_000;

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

/// Executes the hypercall in the loaded vCPU's registers.
#[inline]
pub fn hypercall(
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
    setup::pend_async_abort();
}

/// Does what a call to the firmware asks for: `answer` is what [`psci`] decided.
pub fn firmware_call(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    context: &mut VcpuContext,
    answer: Answer,
) -> Next {
    let mut regs = LiveRegs(&mut context.frame);
    // Error numbers are negative ones of 32 bits, whatever the register's width.
    let mut set = |n, value: u32| regs.set_argument(n, i64::from(value as i32) as u64);
    match answer {
        Answer::Value(value) => set(0, value),
        Answer::Pair(a, b) => {
            set(0, a);
            set(1, b);
        }
        Answer::Four(values) => {
            for (n, value) in values.into_iter().enumerate() {
                // Parts of a UUID: no numbers.
                regs.set_argument(n, u64::from(value));
            }
        }
        Answer::Workaround | Answer::StoreBypassSwitch { .. } => {}
        Answer::Suspend => {
            set(0, 0);
            return block_unless_pending(cpu, domain, vcpu);
        }
        Answer::CpuOff => {
            // The power state follows when the registers are saved: another vCPU may then switch it on again.
            domain.set_offline(vcpu, true);
            return Next::Wait;
        }
        Answer::CpuOn(request) => set(
            0,
            match cpu_on(cpu, domain, &request) {
                Ok(()) => 0,
                Err(error) => request.interface.error_value(error),
            },
        ),
        Answer::AffinityInfo { target, level } => {
            set(0, domain.power.affinity_info(target, level));
        }
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
    if context.saved.execution() != request.execution {
        domain.power.set_off(id);
        return Err(psci::PsciError::InternalFailure);
    }
    context.reset(GuestFrame::start(request.start()));
    drop(context);
    let set = cpu.with_quiet_vgic(domain, |vgic, host| vgic.reset_vcpu(id, host));
    domain.kick(set);
    domain.power.set_on(id);
    domain.set_offline(target, false);
    Ok(())
}

/// The loaded vCPU waits for an interrupt, unless one is pending already.
pub fn block_unless_pending(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>) -> Next {
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
pub fn access_device(
    cpu: &mut Pcpu,
    domain: &Dom,
    vcpu: &Vcpu<Machine>,
    physical_timer: &PhysicalTimer,
    access: MmioAccess,
) -> Result<u32, Fault> {
    let width = mmio_width(access.width);
    let Some(offset) = domain.facts.gic_register(access.address) else {
        let register = domain.vuart_at(access.address).ok_or(Fault)?;
        let id = domain.facts.id;
        let mut emit = |line: &mut _, byte| crate::console::vuart_write(id, line, byte);
        return Ok(domain.access_vuart(cpu.hv, register, width, access.write, &mut emit));
    };
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
            let (value, set) = if Vgic::depends_on_lines(offset) {
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

/// Whether the page of a translation fault is mapped after all: another pCPU was changing the mapping (break before make)
/// when the guest needed it. The guest tries again.
#[cold]
pub fn is_mapped(cpu: &Pcpu, domain: &Dom) -> bool {
    let gfn = xenith_arch::fault_frame();
    let memory = cpu.hv.hal.p2m_memory(domain.vttbr);
    domain.p2m.lock().lookup(&memory, gfn).is_some()
}

/// The guest changed its physical timer: its line and the hypervisor's deadline follow.
pub fn timer_changed(cpu: &mut Pcpu, domain: &Dom, vcpu: &Vcpu<Machine>, context: &VcpuContext) {
    cpu.deadline_changed = true;
    if context.physical_timer.line(timer::now()) {
        domain.raise(vcpu.id, domain.facts.physical_timer_ppi);
    }
}

/// Traps the loaded guest's writes of virtual memory controls, or not.
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

/// The loaded guest maintains its caches by set and way. A loop over all sets and ways needs one flush: from then on TVM
/// shows when the guest switches its caches. Returns false when the flush was interrupted: the same instruction goes on.
pub fn set_way(cpu: &mut Pcpu, domain: &Dom, context: &mut VcpuContext) -> bool {
    if sysreg::hcr::read() & setup::hcr::TVM == 0 {
        if !flush_domain(cpu, domain, &mut context.flush_next) {
            return false;
        }
        set_tvm(true);
    }
    true
}

/// The loaded guest writes SCTLR while TVM traps it: what set/way operations were to do when the cache goes on or off is
/// done by address. Returns false when that was interrupted: the instruction is executed again.
pub fn sctlr_changes(
    cpu: &mut Pcpu,
    domain: &Dom,
    flush_next: &mut Gfn,
    before: u32,
    after: u32,
) -> bool {
    let was_on = before & SCTLR_C != 0;
    let is_on = after & SCTLR_C != 0;
    if was_on != is_on && !flush_domain(cpu, domain, flush_next) {
        return false;
    }
    if is_on {
        set_tvm(false);
    }
    true
}

/// Sends the SGI that the guest wrote to ICC_SGI1R_EL1. Returns false if it has no such register.
pub fn send_sgi(domain: &Dom, vcpu: &Vcpu<Machine>, value: u64) -> bool {
    let sent = domain.vgic.lock().send_sgi1r(vcpu.id, value);
    match sent {
        Some(set) => {
            domain.kick(set);
            true
        }
        None => false,
    }
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
pub fn publish_runstate(hv: &'static Hv, domain: &Domain<Machine>, vcpu: &Vcpu<Machine>) {
    if vcpu.runstate_address().is_some() {
        let clock = *vcpu.runstate.lock();
        runstate::publish(
            domain,
            vcpu,
            &clock,
            &hv.scale,
            hv.boot_ticks,
            &guest_space(hv, domain),
        );
    }
}
