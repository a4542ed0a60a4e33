//! The run loop of a physical CPU: run the vCPU that the scheduler chose until it traps, handle that, repeat.
//!
//! One stack for each pCPU; entering a guest is a call; interrupts stay masked in the hypervisor. A vCPU that waits stays
//! loaded while its pCPU has nothing else to run, so waking it there costs no context switch; another pCPU that is told to
//! run it asks for it ([`Vcpu::is_wanted`]).

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use xenith_arch::gic::{CpuInterface, HypInterface};
use xenith_arch::timer::{self, VirtualTimer};
use xenith_arch::{ExitKind, enter_guest, exception_class, is_hvc, setup, sysreg};
use xenith_core::addr::{CpuId, IntId};
use xenith_core::domain::{Domain, RunState, ShutdownReason, Vcpu};
use xenith_core::sched::{Plan, TimerQueue, UnitId};
use xenith_core::sync::SpinLockGuard;
use xenith_core::trace::{Classes, Event, Subject};

use crate::arch::Features;
use crate::machine::{Hv, Machine};
use crate::smp::{self, PcpuState};
use crate::trace;
use crate::traps;
use crate::vcpu::VcpuContext;

/// What belongs to one physical CPU.
pub struct Pcpu {
    /// Everything shared.
    pub hv: &'static Hv,
    /// Which one it is.
    pub id: CpuId,
    /// Identification registers as guests see them.
    pub features: Features,
    pub(crate) gicc: CpuInterface,
    pub(crate) gich: HypInterface,
    /// What others may ask of this pCPU.
    pub(crate) state: &'static PcpuState,
    /// What the scheduler said last.
    plan: Plan,
    /// The vCPU whose floating-point registers are in this pCPU.
    vfp_of: Option<UnitId>,
    /// They are not the loaded vCPU's: its first use traps.
    is_vfp_trapped: bool,
    /// Who runs here as far as the trace knows.
    traced: Subject,
    /// Deadlines of vCPUs that left this pCPU to wait.
    timers: TimerQueue,
    pub(crate) timer_ppi: IntId,
    pub(crate) maintenance_ppi: IntId,
    /// The hypervisor's timer fired and deadlines were not looked at yet.
    pub(crate) timer_fired: bool,
    /// A deadline of the loaded vCPU changed: the timer must be set again.
    pub deadline_changed: bool,
    /// What the hypervisor's timer is set to, in ticks; `u64::MAX` when it is off.
    pub(crate) deadline: u64,
    /// When to look again for interrupts that the GIC forgot to signal ([`Self::expect_resignal`]); `u64::MAX` for never.
    pub(crate) resignal_at: u64,
    /// [`RETRY_US`] in ticks.
    retry_after: u64,
    /// How often input that dom0 does not read is looked at, in ticks.
    stall_after: u64,
    /// [`RESIGNAL_US`] in ticks where the GIC needs it, else 0.
    pub(crate) resignal_after: u64,
}

/// QEMU's model of a GICv2 (10.0, `gic_complete_irq`) does not signal a physical interrupt that became, or stayed, pending while it
/// was active in a list register when the guest ends it there; only the next access to the GIC does. So we come back this
/// long after an interrupt was given to a guest.
const RESIGNAL_US: u64 = 1000;

/// When to look again at a context that somebody else was looking at.
const RETRY_US: u64 = 50;

/// What the trace says instead of an exception class.
const TRACED_IRQ: u32 = 0x100;
const TRACED_ABORT: u32 = 0x101;
const NOT_TRACED: u32 = u32::MAX;

/// Units for whose deadlines a pCPU makes room at a time.
const TIMER_ROOM: u16 = 64;
/// Turns of the loop between two calls for a context that another pCPU has.
const TURNS_PER_CALL: u32 = 1000;

/// A vCPU that is on this CPU.
#[derive(Clone, Copy)]
struct Loaded<'a> {
    unit: UnitId,
    domain: &'a Arc<Domain<Machine>>,
    vcpu: &'a Vcpu<Machine>,
}

/// Whether a vCPU goes on after a trap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Enter it again.
    Resume,
    /// Let others run first.
    Yield,
    /// It waits (`is_blocked` was set), or is off.
    Wait,
}

impl Pcpu {
    /// Puts a pCPU together.
    pub fn new(
        hv: &'static Hv,
        id: CpuId,
        features: Features,
        gicc: CpuInterface,
        gich: HypInterface,
        timer_ppi: IntId,
        maintenance_ppi: IntId,
    ) -> Self {
        Self {
            hv,
            id,
            features,
            gicc,
            gich,
            state: smp::state(id),
            plan: Plan {
                unit: None,
                until: u64::MAX,
                timer: u64::MAX,
            },
            vfp_of: None,
            is_vfp_trapped: false,
            traced: Subject::IDLE,
            timers: TimerQueue::default(),
            timer_ppi,
            maintenance_ppi,
            timer_fired: false,
            deadline_changed: false,
            deadline: u64::MAX,
            resignal_at: u64::MAX,
            stall_after: hv.scale.to_ticks(crate::console::STALL_LOOK_NS),
            retry_after: hv.scale.to_ticks(RETRY_US * 1000),
            resignal_after: if hv.hal.distributor.lock().may_forget() {
                hv.scale.to_ticks(RESIGNAL_US * 1000)
            } else {
                0
            },
        }
    }

    /// Runs vCPUs for ever.
    pub fn run(mut self) -> ! {
        self.schedule();
        loop {
            let found = self
                .plan
                .unit
                .and_then(|unit| Some((unit, self.hv.units.get(unit)?)));
            match found {
                Some((unit, (domain, id))) => match domain.vcpu(id) {
                    Some(vcpu) => self.run_vcpu(Loaded {
                        unit,
                        domain: &domain,
                        vcpu,
                    }),
                    None => self.schedule(),
                },
                // A unit that is gone is not chosen again.
                None if self.plan.unit.is_some() => self.schedule(),
                None => self.idle(),
            }
        }
    }

    /// Asks the scheduler what to run.
    fn schedule(&mut self) {
        self.state.begin_schedule();
        crate::console::tell_news(self.hv);
        self.plan = self.hv.scheduler.schedule(self.id);
    }

    #[inline]
    fn trace_switch(&mut self, to: Subject) {
        trace::record(Event::Switch, to, [self.traced.packed(), 0]);
        self.traced = to;
    }

    /// Nothing is loaded and nothing can run, until something can.
    fn idle(&mut self) {
        self.trace_switch(Subject::IDLE);
        self.set_timer(None);
        loop {
            self.idle_step(None);
            if self.timer_fired {
                self.expire(None);
                self.set_timer(None);
            } else if self.deadline_changed {
                self.set_timer(None);
            }
            if self.state.must_schedule() {
                self.schedule();
                if self.plan.unit.is_some() {
                    return;
                }
                self.set_timer(None);
            }
        }
    }

    /// Takes the context of a vCPU that the scheduler gave us. Another pCPU may still be saving it, or have it loaded while
    /// it is idle: that one is asked for it. `None` when the scheduler has changed its mind meanwhile.
    fn claim<'a>(&self, vcpu: &'a Vcpu<Machine>) -> Option<SpinLockGuard<'a, VcpuContext>> {
        let mut turns = 0;
        loop {
            if let Some(context) = vcpu.context.try_lock() {
                // Also what an earlier claim left that was given up.
                vcpu.is_wanted.store(false, Ordering::Relaxed);
                return Some(context);
            }
            if self.state.must_schedule() {
                return None;
            }
            if turns % TURNS_PER_CALL == 0 {
                vcpu.is_wanted.store(true, Ordering::SeqCst);
                if let Some(cpu) = vcpu.loaded_on() {
                    self.hv.scheduler.kicker().look(cpu);
                }
            }
            turns = turns.wrapping_add(1);
            core::hint::spin_loop();
        }
    }

    /// Makes the vCPU live, runs it until this pCPU has something else to do, and saves it.
    fn run_vcpu(&mut self, loaded: Loaded<'_>) {
        let Loaded { unit, domain, vcpu } = loaded;
        // Room for its deadline later, when nothing may fail. Without room it does not wait long: see below.
        let _ = self
            .timers
            .reserve(UnitId::new(unit.raw() | (TIMER_ROOM - 1)));
        let Some(mut guard) = self.claim(vcpu) else {
            self.schedule();
            return;
        };
        let context = &mut *guard;
        if let Some(last) = vcpu.load_on(self.id) {
            let pcpus = [last.index() as u32, self.id.index() as u32];
            trace::record(Event::Migrate, trace::subject(domain, vcpu), pcpus);
        }
        self.trace_switch(trace::subject(domain, vcpu));
        // SAFETY: The tables are the domain's, alive as long as `domain`, and the VMID is its own; the context is the
        // vCPU's, whose lock we hold.
        unsafe {
            setup::set_stage2(domain.vttbr);
            context.saved.restore(&context.frame);
        }
        self.is_vfp_trapped = self.vfp_of != Some(unit) || context.vfp_home != Some(self.id);
        setup::trap_vfp(self.is_vfp_trapped);
        if domain.note_runs(self.id, vcpu.id) {
            // The vCPUs of a domain share a VMID, but a guest may keep other translations on each of its CPUs.
            setup::flush_own_guest_tlb();
        }
        context.virtual_timer.restore(domain.virtual_offset);
        if let Some(pmu) = &context.pmu {
            pmu.restore();
        }
        self.with_quiet_vgic(domain, |vgic, host| vgic.restore(vcpu.id, host));
        self.change_runstate(domain, vcpu, true);
        self.set_timer(Some((loaded, context)));
        self.loop_vcpu(loaded, context);
        let set = self.with_vgic(domain, vcpu, &context.physical_timer, |vgic, host| {
            vgic.save(vcpu.id, host)
        });
        domain.kick(set.without(vcpu.id));
        context.virtual_timer = VirtualTimer::save();
        context.saved.save(&context.frame);
        if let Some(pmu) = &mut context.pmu {
            pmu.save();
        }
        if !self.is_vfp_trapped {
            // They stay in the registers too: whoever comes next may not use any.
            context.saved.vfp.save();
        }
        let deadline = context
            .virtual_timer
            .deadline(domain.virtual_offset)
            .min(context.physical_timer.deadline(0).unwrap_or(u64::MAX))
            .min(vcpu.poll_deadline.load(Ordering::Relaxed));
        // Read while the vCPU is ours: afterwards they may be those of its next life on another pCPU.
        let is_offline = vcpu.is_offline.load(Ordering::Acquire);
        let is_blocked = vcpu.is_blocked.load(Ordering::Acquire);
        // The domain's tables may go as soon as the vCPU has left.
        setup::leave_stage2(self.hv.hal.no_stage2());
        // Nothing is fetched through the old tables from here on, and that comes before `unload` lets them go.
        sysreg::isb();
        // Completes the cache and TLB maintenance that the guest began on this pCPU: its own barrier may be executed on
        // another one, and waits only for what that one began.
        sysreg::dsb();
        vcpu.unload();
        drop(guard);
        if is_offline {
            domain.power.set_off(vcpu.id);
        } else if deadline != u64::MAX && is_blocked && !self.timers.set(unit, deadline) {
            // A wait may end early: better than one that does not end.
            domain.wake(vcpu.id);
        }
    }

    /// Enters the loaded vCPU again and again, until the pCPU has something else to do.
    fn loop_vcpu(&mut self, loaded: Loaded<'_>, context: &mut VcpuContext) {
        let Loaded { unit, domain, vcpu } = loaded;
        loop {
            if self.timer_fired {
                self.expire(Some((loaded, context)));
                self.set_timer(Some((loaded, context)));
            } else if self.deadline_changed {
                self.set_timer(Some((loaded, context)));
            }
            if self.state.must_schedule() && !self.stay(loaded, context) {
                return;
            }
            // Once, not until the flag is clear: it stays set while more interrupts wait than there are list registers.
            if domain.vgic_work.is_set(vcpu.id.index()) {
                self.flush(domain, vcpu, context);
            }
            // SAFETY: `run_vcpu` made the vCPU's context and its domain's stage 2 live.
            let exit = unsafe { enter_guest(&mut context.frame) };
            // Asked once: what follows is hot.
            let mut traced = NOT_TRACED;
            if trace::is_on(Classes::TRAP.union(Classes::HYPERCALL)) {
                traced = trace_exit(loaded, exit, context);
            }
            let next = match exit {
                ExitKind::Trap => crate::arch::handle(self, domain, vcpu, context),
                ExitKind::Irq | ExitKind::Fiq => {
                    self.take_interrupts(Some((&**domain, vcpu)));
                    Next::Resume
                }
                ExitKind::AsyncAbort => {
                    traps::async_abort(domain, vcpu);
                    Next::Resume
                }
            };
            if traced != NOT_TRACED {
                trace_handled(loaded, traced, context);
            }
            match next {
                Next::Resume => {}
                Next::Yield => {
                    self.hv
                        .scheduler
                        .with(|policy, _, _| policy.yield_unit(unit));
                    if !self.stay(loaded, context) {
                        return;
                    }
                }
                Next::Wait => {
                    self.hv.scheduler.settle(vcpu);
                    if !self.stay(loaded, context) {
                        return;
                    }
                }
            }
        }
    }

    /// Asks the scheduler again. Returns whether the loaded vCPU goes on; if it waits and nothing else can run here, it
    /// waits here, loaded.
    fn stay(&mut self, loaded: Loaded<'_>, context: &mut VcpuContext) -> bool {
        let Loaded { unit, domain, vcpu } = loaded;
        self.schedule();
        if self.plan.unit == Some(unit) {
            self.set_timer(Some((loaded, context)));
            return true;
        }
        let state = self.change_runstate(domain, vcpu, false);
        if state != RunState::Blocked || self.plan.unit.is_some() || vcpu.is_paused() {
            return false;
        }
        self.set_timer(Some((loaded, context)));
        loop {
            self.idle_step(Some((&**domain, vcpu)));
            if self.timer_fired {
                self.expire(Some((loaded, context)));
                self.set_timer(Some((loaded, context)));
            } else if self.deadline_changed {
                self.set_timer(Some((loaded, context)));
            }
            if vcpu.is_wanted.load(Ordering::Relaxed)
                || vcpu.is_offline.load(Ordering::Acquire)
                || vcpu.is_paused()
            {
                return false;
            }
            if self.state.must_schedule() {
                self.schedule();
                if self.plan.unit == Some(unit) {
                    self.change_runstate(domain, vcpu, true);
                    self.set_timer(Some((loaded, context)));
                    return true;
                }
                if self.plan.unit.is_some() {
                    return false;
                }
                self.set_timer(Some((loaded, context)));
            }
        }
    }

    /// The loaded vCPU used floating point or SIMD. Returns false if it had the registers already.
    pub fn load_vfp(&mut self, vcpu: &Vcpu<Machine>, context: &mut VcpuContext) -> bool {
        if !self.is_vfp_trapped {
            return false;
        }
        self.is_vfp_trapped = false;
        setup::trap_vfp(false);
        context.saved.vfp.restore();
        context.vfp_home = Some(self.id);
        self.vfp_of = vcpu.unit();
        true
    }

    /// Nothing runs: scrub a little, or sleep until an interrupt comes.
    fn idle_step(&mut self, loaded: Option<(&Domain<Machine>, &Vcpu<Machine>)>) {
        crate::machine::look_around(self.hv);
        // What was found just now, or asked for by this pCPU itself, sends no interrupt that would end the sleep.
        if self.state.must_schedule() {
            return;
        }
        if !crate::machine::scrub_step(self.hv) {
            if self.resignal_after != 0 {
                self.gicc.signal_again();
            }
            self.state.begin_sleep(timer::now());
            sysreg::wfi();
            self.state.end_sleep(timer::now());
        }
        self.take_interrupts(loaded);
    }

    /// Deadlines passed: wakes who waited for them, and does the scheduler's periodic work.
    fn expire(&mut self, loaded: Option<(Loaded<'_>, &VcpuContext)>) {
        self.timer_fired = false;
        crate::machine::look_around(self.hv);
        let now = timer::now();
        if let Some((Loaded { domain, vcpu, .. }, context)) = loaded {
            if context.physical_timer.line(now) {
                domain.raise(vcpu.id, domain.facts.physical_timer_ppi);
            }
            end_poll_if_due(domain, vcpu, now);
        }
        self.hv.expire_watchdogs(now, |domain| {
            traps::shutdown(self.hv, domain, ShutdownReason::Watchdog);
        });
        // Bounded: each unit is in the queue once.
        while let Some(unit) = self.timers.pop(now) {
            if let Some((domain, id)) = self.hv.units.get(unit)
                && let Some(vcpu) = domain.vcpu(id)
                && !expire_waiting(&domain, vcpu, now)
            {
                self.timers.set(unit, now + self.retry_after);
            }
        }
        if self.plan.timer <= now {
            self.plan.timer = self.hv.scheduler.timer(self.id);
        }
        if self.plan.until <= now {
            self.state.ask_schedule();
        }
    }

    /// Sets the hypervisor's timer to the next deadline of anybody.
    fn set_timer(&mut self, loaded: Option<(Loaded<'_>, &VcpuContext)>) {
        self.deadline_changed = false;
        let mut deadline = self
            .timers
            .next()
            .min(self.plan.until)
            .min(self.plan.timer)
            .min(self.resignal_at)
            .min(self.hv.watchdog_deadline());
        if crate::console::is_stalled() {
            deadline = deadline.min(timer::now() + self.stall_after);
        }
        if let Some((Loaded { vcpu, .. }, context)) = loaded {
            if let Some(at) = context.physical_timer.deadline(timer::now()) {
                deadline = deadline.min(at);
            }
            deadline = deadline.min(vcpu.poll_deadline.load(Ordering::Relaxed));
        }
        if deadline != self.deadline {
            self.deadline = deadline;
            timer::set_deadline((deadline != u64::MAX).then_some(deadline));
        }
    }

    /// Notes whether the loaded vCPU runs, and tells the guest where it asked for that. Returns the state that it is in.
    fn change_runstate(
        &mut self,
        domain: &Domain<Machine>,
        vcpu: &Vcpu<Machine>,
        runs: bool,
    ) -> RunState {
        let (before, state) = vcpu.change_runstate(runs, timer::now());
        let change = [state as u32, before as u32];
        trace::record(Event::Runstate, trace::subject(domain, vcpu), change);
        // Written while the vCPU is loaded, with its own tables: Linux reads it for stolen time.
        traps::publish_runstate(self.hv, domain, vcpu);
        state
    }
}

/// Records why a vCPU left the guest, and returns that.
#[cold]
fn trace_exit(loaded: Loaded<'_>, exit: ExitKind, context: &VcpuContext) -> u32 {
    let subject = trace::subject(loaded.domain, loaded.vcpu);
    let frame = &context.frame;
    let class = match exit {
        ExitKind::Trap => exception_class(),
        ExitKind::Irq | ExitKind::Fiq => TRACED_IRQ,
        ExitKind::AsyncAbort => TRACED_ABORT,
    };
    trace::record(Event::Trap, subject, [class, frame.traced_pc()]);
    if is_hvc(class) {
        trace::record(Event::Hypercall, subject, frame.traced_call());
    }
    class
}

/// Records that what `trace_exit` told of was handled.
#[cold]
fn trace_handled(loaded: Loaded<'_>, class: u32, context: &VcpuContext) {
    let subject = trace::subject(loaded.domain, loaded.vcpu);
    let frame = &context.frame;
    if is_hvc(class) {
        trace::record(Event::HypercallEnd, subject, frame.traced_call());
    }
    trace::record(Event::Enter, subject, [0, 0]);
}

fn end_poll_if_due(domain: &Domain<Machine>, vcpu: &Vcpu<Machine>, now: u64) {
    if vcpu.poll_deadline.load(Ordering::Relaxed) <= now {
        domain.end_poll(vcpu.id);
    }
}

/// A deadline of a vCPU passed that waited when it left this pCPU. Returns false when that must be tried again: somebody is
/// looking at its context.
fn expire_waiting(domain: &Domain<Machine>, vcpu: &Vcpu<Machine>, now: u64) -> bool {
    end_poll_if_due(domain, vcpu, now);
    let (physical, virt) = match vcpu.context.try_lock() {
        // Its timers are those of the pCPU that has it loaded.
        None => return vcpu.loaded_on().is_some(),
        Some(context) => (
            context.physical_timer.line(now),
            context.virtual_timer.deadline(domain.virtual_offset) <= now,
        ),
    };
    if physical {
        domain.raise(vcpu.id, domain.facts.physical_timer_ppi);
    }
    if virt {
        domain.raise(vcpu.id, domain.facts.virtual_timer_ppi);
    }
    true
}
