//! The run loop of a physical CPU: pick a vCPU, make it live, enter it until it traps, handle, repeat.
//!
//! One stack for each pCPU; entering a guest is a call; interrupts stay masked in the hypervisor. A vCPU that waits stays
//! loaded while nobody else wants the CPU, so waking it costs no context switch.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use xenith_arch::gicv2::{Acknowledged, CpuInterface, HypInterface};
use xenith_arch::timer::{self, VirtualTimer};
use xenith_arch::{ExitKind, enter_guest, setup, sysreg};
use xenith_core::addr::{IntId, VcpuId};
use xenith_core::domain::{Domain, RunState, Vcpu};
use xenith_core::emulate::coproc::CpuFeatures;
use xenith_core::emulate::vtimer::PhysicalTimer;
use xenith_core::machine::{PhysIrq, Trigger};
use xenith_core::sched::{RoundRobin, Turn};
use xenith_core::sync::SpinLock;
use xenith_core::vgic::{KickSet, LineLevels, ListRegisters};

use crate::machine::{Hv, Machine};
use crate::traps;
use crate::vcpu::VcpuContext;

/// What belongs to one physical CPU.
pub struct Pcpu {
    /// Everything shared.
    pub hv: &'static Hv,
    /// Identification registers as guests see them.
    pub features: CpuFeatures,
    gicc: CpuInterface,
    gich: HypInterface,
    scheduler: RoundRobin<Machine>,
    timer_ppi: IntId,
    maintenance_ppi: IntId,
    /// The hypervisor's timer fired and deadlines were not looked at yet.
    timer_fired: bool,
    /// A deadline of the loaded vCPU changed: the timer must be set again.
    pub deadline_changed: bool,
    /// What the hypervisor's timer is set to, in ticks; `u64::MAX` when it is off.
    deadline: u64,
    /// When to look again for interrupts that the GIC forgot to signal ([`Self::expect_resignal`]); `u64::MAX` for never.
    resignal_at: u64,
    /// [`RESIGNAL_US`] in ticks where the GIC needs it, else 0.
    resignal_after: u64,
}

/// GICD_IIDR of QEMU's GICv2 model (and of the GIC inside a Cortex-A15, where the precaution costs little).
const IIDR_OF_QEMU: u32 = 0x0000_043b;
/// QEMU's model (10.0, `gic_complete_irq`) does not signal a physical interrupt that became, or stayed, pending while it
/// was active in a list register when the guest ends it there; only the next access to the GIC does. So we come back this
/// long after an interrupt was given to a guest.
const RESIGNAL_US: u64 = 1000;

/// The vCPU that is on this CPU.
type Loaded<'a> = (&'a Arc<Domain<Machine>>, &'a Vcpu<Machine>, &'a VcpuContext);

/// Whether a vCPU goes on after a trap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Enter it again.
    Resume,
    /// Let others run first.
    Yield,
    /// It waits: `is_blocked` was set.
    Wait,
    /// It is off, or its domain is dead.
    Leave,
}

/// The machine as the vGIC sees it, for one vCPU that is loaded.
pub struct VgicHost<'a> {
    gich: &'a mut HypInterface,
    distributor: &'static SpinLock<xenith_arch::gicv2::Distributor>,
    virtual_timer: IntId,
    upcall: Option<IntId>,
    physical_timer: Option<IntId>,
}

impl ListRegisters for VgicHost<'_> {
    #[inline]
    fn read_lr(&self, n: usize) -> u32 {
        self.gich.read_lr(n as u8)
    }
    #[inline]
    fn write_lr(&mut self, n: usize, value: u32) {
        self.gich.write_lr(n as u8, value);
    }
    #[inline]
    fn empty_lrs(&self) -> u32 {
        self.gich.empty_mask() as u32
    }
    #[inline]
    fn ended_lrs(&self) -> u32 {
        self.gich.eoi_mask() as u32
    }
    fn set_underflow(&mut self, on: bool) {
        self.gich.set_underflow(on);
    }
    fn vmcr(&self) -> u32 {
        self.gich.vmcr()
    }
    fn set_vmcr(&mut self, value: u32) {
        self.gich.set_vmcr(value);
    }
    fn apr(&self) -> u32 {
        self.gich.apr()
    }
    fn set_apr(&mut self, value: u32) {
        self.gich.set_apr(value);
    }
}

impl PhysIrq for VgicHost<'_> {
    fn enable(&mut self, irq: IntId) {
        self.distributor.lock().enable(irq);
    }
    fn disable(&mut self, irq: IntId) {
        self.distributor.lock().disable(irq);
    }
    fn set_trigger(&mut self, irq: IntId, trigger: Trigger) {
        self.distributor.lock().set_trigger(irq, trigger);
    }
    fn set_pending(&mut self, irq: IntId, pending: bool) {
        self.distributor.lock().set_pending(irq, pending);
    }
    fn is_pending(&self, irq: IntId) -> bool {
        self.distributor.lock().is_pending(irq)
    }
    fn deactivate(&mut self, irq: IntId) {
        self.distributor.lock().deactivate(irq);
    }
}

impl LineLevels for VgicHost<'_> {
    fn is_asserted(&self, _vcpu: VcpuId, irq: IntId) -> bool {
        if irq == self.virtual_timer {
            timer::virtual_timer_asserted()
        } else if irq.raw() < 32 {
            Some(irq) == self.upcall || Some(irq) == self.physical_timer
        } else {
            // The line of a device cannot be read; a spurious interrupt at worst.
            true
        }
    }
}

/// Wakes the vCPUs that the vGIC named.
#[inline(never)]
pub fn kick(domain: &Domain<Machine>, set: KickSet) {
    if !set.is_empty() {
        for vcpu in set.iter() {
            domain.wake(vcpu);
        }
    }
}

impl Pcpu {
    /// Puts the boot CPU together.
    pub fn new(
        hv: &'static Hv,
        features: CpuFeatures,
        gicc: CpuInterface,
        gich: HypInterface,
        timer_ppi: IntId,
        maintenance_ppi: IntId,
    ) -> Self {
        Self {
            hv,
            features,
            gicc,
            gich,
            scheduler: RoundRobin::default(),
            timer_ppi,
            maintenance_ppi,
            timer_fired: false,
            deadline_changed: false,
            deadline: u64::MAX,
            resignal_at: u64::MAX,
            resignal_after: if hv.hal.distributor.lock().iidr() == IIDR_OF_QEMU {
                hv.scale.to_ticks(RESIGNAL_US * 1000)
            } else {
                0
            },
        }
    }

    /// Runs vCPUs for ever.
    pub fn run(mut self) -> ! {
        loop {
            // Where nobody can run, somebody waits on the CPU, with his timer live; where everybody is off, nothing does.
            let picked = self.scheduler.pick(&self.hv.domains);
            match picked.or_else(|| self.hv.domains.any_waiting()) {
                Some((domain, id)) => {
                    if let Some(vcpu) = domain.vcpu(id) {
                        self.run_vcpu(&domain, vcpu);
                    }
                }
                None => self.idle_step(None),
            }
        }
    }

    /// Makes the vCPU live, runs it until another has its turn, and saves it.
    fn run_vcpu(&mut self, domain: &Arc<Domain<Machine>>, vcpu: &Vcpu<Machine>) {
        let mut guard = vcpu.context.lock();
        let context = &mut *guard;
        // SAFETY: The tables are the domain's, alive as long as `domain`, and the VMID is its own; the context is the
        // vCPU's, whose lock we hold.
        unsafe {
            setup::set_stage2(domain.vttbr);
            context.saved.restore();
        }
        context.virtual_timer.restore(domain.virtual_offset);
        {
            let mut host = self.vgic_host(domain, vcpu, &context.physical_timer);
            domain.vgic.lock().restore(vcpu.id, &mut host);
        }
        self.change_runstate(domain, vcpu, RunState::Running);
        self.scheduler.begin_slice(timer::now(), &self.hv.scale);
        self.set_timer(Some((domain, vcpu, context)));
        // The gap to the next trap belongs to this vCPU: what it last saw of guest code may be stale on this CPU.
        let state = self.loop_vcpu(domain, vcpu, context);
        self.change_runstate(domain, vcpu, state);
        {
            let mut host = self.vgic_host(domain, vcpu, &context.physical_timer);
            let set = domain.vgic.lock().save(vcpu.id, &mut host);
            kick(domain, set.without(vcpu.id));
        }
        context.virtual_timer = VirtualTimer::save();
        context.saved.save();
        if vcpu.is_offline.load(Ordering::Acquire) {
            domain.power.set_off(vcpu.id);
        }
    }

    /// Enters the loaded vCPU again and again; returns the state that it leaves the CPU in.
    fn loop_vcpu(
        &mut self,
        domain: &Arc<Domain<Machine>>,
        vcpu: &Vcpu<Machine>,
        context: &mut VcpuContext,
    ) -> RunState {
        if let Some(state) = self.wait(domain, vcpu, context) {
            return state;
        }
        loop {
            if self.timer_fired {
                self.expire(domain, vcpu, context);
                if self
                    .scheduler
                    .turn(&self.hv.domains, domain, vcpu, timer::now())
                    == Turn::Over
                {
                    return RunState::Runnable;
                }
                self.set_timer(Some((domain, vcpu, context)));
            } else if self.deadline_changed || domain.has_woken.load(Ordering::Relaxed) {
                self.set_timer(Some((domain, vcpu, context)));
            }
            // Once, not until the flag is clear: it stays set while more interrupts wait than there are list registers.
            if domain.vgic_work.is_set(vcpu.id.index()) {
                self.flush(domain, vcpu, context);
            }
            // SAFETY: `run_vcpu` made the vCPU's context and its domain's stage 2 live.
            let exit = unsafe { enter_guest(&mut context.frame) };
            let next = match exit {
                ExitKind::Trap => traps::handle(self, domain, vcpu, context),
                ExitKind::Irq | ExitKind::Fiq => {
                    self.take_interrupts(Some((domain, vcpu)));
                    Next::Resume
                }
                ExitKind::AsyncAbort => {
                    traps::async_abort(domain, vcpu);
                    Next::Resume
                }
            };
            match next {
                Next::Resume => {}
                Next::Yield => {
                    if self
                        .scheduler
                        .others_runnable(&self.hv.domains, domain, vcpu)
                    {
                        return RunState::Runnable;
                    }
                }
                Next::Wait => {
                    if let Some(state) = self.wait(domain, vcpu, context) {
                        return state;
                    }
                }
                Next::Leave => return RunState::Offline,
            }
        }
    }

    /// The loaded vCPU waits. Returns `None` when it can go on, or the state in which it leaves the CPU.
    fn wait(
        &mut self,
        domain: &Arc<Domain<Machine>>,
        vcpu: &Vcpu<Machine>,
        context: &mut VcpuContext,
    ) -> Option<RunState> {
        if vcpu.is_runnable() {
            return None;
        }
        if self
            .scheduler
            .others_runnable(&self.hv.domains, domain, vcpu)
        {
            return Some(RunState::Blocked);
        }
        self.change_runstate(domain, vcpu, RunState::Blocked);
        self.set_timer(Some((domain, vcpu, context)));
        loop {
            self.idle_step(Some((domain, vcpu)));
            if self.timer_fired {
                self.expire(domain, vcpu, context);
                self.set_timer(Some((domain, vcpu, context)));
            }
            if vcpu.is_runnable() {
                self.change_runstate(domain, vcpu, RunState::Running);
                return None;
            }
            if self
                .scheduler
                .others_runnable(&self.hv.domains, domain, vcpu)
            {
                return Some(RunState::Blocked);
            }
        }
    }

    /// Nothing runs: scrub a little, or sleep until an interrupt comes.
    fn idle_step(&mut self, loaded: Option<(&Arc<Domain<Machine>>, &Vcpu<Machine>)>) {
        crate::machine::look_around(self.hv);
        if !crate::machine::scrub_step(self.hv) {
            if self.resignal_after != 0 {
                self.gicc.signal_again();
            }
            sysreg::wfi();
        }
        self.take_interrupts(loaded);
    }

    /// The machine for vGIC operations that ask no line of the hypervisor's own.
    #[inline]
    fn quiet_host<'a>(&'a mut self, domain: &Domain<Machine>) -> VgicHost<'a> {
        VgicHost {
            gich: &mut self.gich,
            distributor: &self.hv.hal.distributor,
            virtual_timer: domain.facts.virtual_timer_ppi,
            upcall: None,
            physical_timer: None,
        }
    }

    /// The machine for vGIC operations that ask lines. The event channels are looked at here, before the vGIC is locked.
    #[inline]
    fn vgic_host<'a>(
        &'a mut self,
        domain: &Domain<Machine>,
        vcpu: &Vcpu<Machine>,
        physical_timer: &PhysicalTimer,
    ) -> VgicHost<'a> {
        let upcall = domain.events.lock().upcall_pending(vcpu.id);
        let physical_timer = physical_timer.is_armed() && physical_timer.line(timer::now());
        VgicHost {
            upcall: upcall.then_some(domain.facts.upcall_ppi),
            physical_timer: physical_timer.then_some(domain.facts.physical_timer_ppi),
            ..self.quiet_host(domain)
        }
    }

    fn flush(&mut self, domain: &Domain<Machine>, vcpu: &Vcpu<Machine>, context: &VcpuContext) {
        let mut host = self.vgic_host(domain, vcpu, &context.physical_timer);
        let set = domain.vgic.lock().flush(vcpu.id, &mut host);
        kick(domain, set.without(vcpu.id));
    }

    /// Runs `f` on the vGIC of the loaded vCPU, with its lines.
    pub fn with_vgic<R>(
        &mut self,
        domain: &Domain<Machine>,
        vcpu: &Vcpu<Machine>,
        physical_timer: &PhysicalTimer,
        f: impl FnOnce(&mut xenith_core::vgic::Vgic, &mut VgicHost<'_>) -> R,
    ) -> R {
        let mut host = self.vgic_host(domain, vcpu, physical_timer);
        f(&mut domain.vgic.lock(), &mut host)
    }

    /// Runs `f` on the vGIC of the loaded vCPU, for what asks no line.
    #[inline]
    pub fn with_quiet_vgic<R>(
        &mut self,
        domain: &Domain<Machine>,
        f: impl FnOnce(&mut xenith_core::vgic::Vgic, &mut VgicHost<'_>) -> R,
    ) -> R {
        let mut host = self.quiet_host(domain);
        f(&mut domain.vgic.lock(), &mut host)
    }

    /// Returns the guest's priority mask (GICV_PMR); 0 while its CPU interface is off.
    pub fn priority_mask(&self) -> u8 {
        let vmcr = self.gich.vmcr();
        if vmcr & 3 == 0 {
            0
        } else {
            ((vmcr >> 27) << 3) as u8
        }
    }

    /// Acknowledges and handles every interrupt that is pending for this CPU.
    fn take_interrupts(&mut self, loaded: Option<(&Arc<Domain<Machine>>, &Vcpu<Machine>)>) {
        // Bounded: each source is the hypervisor's, or goes to a guest and stays active until the guest has seen it.
        for _ in 0..64 {
            let ack = self.gicc.acknowledge();
            let Some(irq) = ack.irq() else { return };
            self.gicc.drop_priority(ack);
            self.handle_interrupt(irq, ack, loaded);
        }
    }

    #[inline]
    fn handle_interrupt(
        &mut self,
        irq: IntId,
        ack: Acknowledged,
        loaded: Option<(&Arc<Domain<Machine>>, &Vcpu<Machine>)>,
    ) {
        if let Some((domain, vcpu)) = loaded
            && irq == domain.facts.virtual_timer_ppi
        {
            // Stays active, so the level cannot fire again, until the guest ends it through the list register.
            let set = domain.vgic.lock().inject_hw(vcpu.id, irq);
            kick(domain, set);
            self.expect_resignal();
            return;
        }
        if irq == self.timer_ppi {
            timer::set_deadline(None);
            self.deadline = u64::MAX;
            self.resignal_at = u64::MAX;
            self.timer_fired = true;
        } else if irq == self.maintenance_ppi {
            if let Some((domain, vcpu)) = loaded {
                // Asks no line: the flush before the guest is entered does.
                let mut host = self.quiet_host(domain);
                let set = domain.vgic.lock().sync(vcpu.id, &mut host);
                kick(domain, set);
            }
        } else if Some(irq) == self.hv.hal.console_irq() {
            crate::console::receive(self.hv);
        } else if irq.is_spi()
            && let Some(domain) = self.hv.hal.route(irq)
        {
            // Stays active until the guest ends it.
            let set = domain.vgic.lock().inject_hw(VcpuId::new(0), irq);
            kick(&domain, set);
            self.expect_resignal();
            return;
        }
        self.gicc.deactivate(ack);
    }

    /// Deadlines passed: wakes who waited for them.
    fn expire(
        &mut self,
        loaded_domain: &Arc<Domain<Machine>>,
        loaded: &Vcpu<Machine>,
        context: &VcpuContext,
    ) {
        self.timer_fired = false;
        crate::machine::look_around(self.hv);
        let now = timer::now();
        let domain = loaded_domain;
        if context.physical_timer.line(now) {
            let set = domain
                .vgic
                .lock()
                .raise_level(loaded.id, domain.facts.physical_timer_ppi);
            kick(domain, set);
        }
        for vcpu in &domain.vcpus {
            if vcpu.poll_deadline.load(Ordering::Relaxed) <= now {
                domain.end_poll(vcpu.id);
            }
            if vcpu.id == loaded.id {
                continue;
            }
            // Locked by another pCPU means running there: its timers are that pCPU's.
            let Some(other) = vcpu.context.try_lock() else {
                continue;
            };
            if other.physical_timer.line(now) {
                let set = domain
                    .vgic
                    .lock()
                    .raise_level(vcpu.id, domain.facts.physical_timer_ppi);
                kick(domain, set);
            }
            if other.virtual_timer.is_armed()
                && other
                    .virtual_timer
                    .cval
                    .saturating_add(domain.virtual_offset)
                    <= now
            {
                let set = domain
                    .vgic
                    .lock()
                    .raise_level(vcpu.id, domain.facts.virtual_timer_ppi);
                kick(domain, set);
            }
        }
    }

    /// Sets the hypervisor's timer to the next deadline of anybody.
    fn set_timer(&mut self, loaded: Option<Loaded<'_>>) {
        self.deadline_changed = false;
        if let Some((domain, ..)) = loaded {
            domain.has_woken.store(false, Ordering::Relaxed);
        }
        let now = timer::now();
        let mut deadline = u64::MAX;
        if let Some((domain, vcpu, context)) = loaded {
            if let Some(at) = context.physical_timer.deadline(now) {
                deadline = deadline.min(at);
            }
            for other in &domain.vcpus {
                deadline = deadline.min(other.poll_deadline.load(Ordering::Relaxed));
                if other.id == vcpu.id {
                    continue;
                }
                let Some(context) = other.context.try_lock() else {
                    continue;
                };
                if let Some(at) = context.physical_timer.deadline(now) {
                    deadline = deadline.min(at);
                }
                if context.virtual_timer.is_armed() && other.is_blocked.load(Ordering::Relaxed) {
                    deadline = deadline.min(
                        context
                            .virtual_timer
                            .cval
                            .saturating_add(domain.virtual_offset),
                    );
                }
            }
            if vcpu.is_runnable()
                && self
                    .scheduler
                    .others_runnable(&self.hv.domains, domain, vcpu)
            {
                deadline = deadline.min(self.scheduler.slice_end());
            }
        }
        let deadline = deadline.min(self.resignal_at);
        self.deadline = deadline;
        timer::set_deadline((deadline != u64::MAX).then_some(deadline));
    }

    /// An interrupt went to a guest, which will end it without us: see [`RESIGNAL_US`].
    #[inline]
    fn expect_resignal(&mut self) {
        if self.resignal_after != 0 && self.resignal_at == u64::MAX {
            let at = timer::now() + self.resignal_after;
            self.resignal_at = at;
            if at < self.deadline {
                self.deadline = at;
                timer::set_deadline(Some(at));
            }
        }
    }

    /// Notes that the loaded vCPU goes to `state`, and tells the guest where it asked for that.
    pub fn change_runstate(
        &mut self,
        domain: &Domain<Machine>,
        vcpu: &Vcpu<Machine>,
        state: RunState,
    ) {
        let now = timer::now();
        let clock = {
            let mut clock = vcpu.runstate.lock();
            clock.change(state, now);
            *clock
        };
        // Written while the vCPU is loaded, with its own tables: Linux reads it for stolen time.
        traps::publish_runstate(self.hv, domain, vcpu, &clock);
    }
}
