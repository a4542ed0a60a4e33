//! Physical interrupts, and the loaded vCPU's interrupt controller.

use core::sync::atomic::{Ordering, fence};

use xenith_arch::gic::{Acknowledged, Distributor, HypInterface};
use xenith_arch::timer;
use xenith_core::addr::{IntId, VcpuId};
use xenith_core::domain::{Domain, Vcpu};
use xenith_core::emulate::vtimer::PhysicalTimer;
use xenith_core::machine::{PhysIrq, Trigger};
use xenith_core::sync::SpinLock;
use xenith_core::trace::{Classes, Event, Subject};
use xenith_core::vgic::{KickSet, LineLevels, ListRegisters};

use crate::machine::Machine;
use crate::run::Pcpu;
use crate::smp;
use crate::trace;
use crate::vcpu::VcpuContext;

/// The machine as the vGIC sees it, for one vCPU that is loaded.
pub struct VgicHost<'a> {
    gich: &'a mut HypInterface,
    distributor: &'static SpinLock<Distributor>,
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

/// GICH_LR: state pending, and the virtual interrupt's number.
const LR_PENDING: u32 = 1 << 28;
const LR_ID: u32 = 0x3ff;

/// Gives a SPI to a domain, unless it is not its own any more.
#[inline]
fn inject(domain: &Domain<Machine>, irq: IntId) -> Option<KickSet> {
    let mut vgic = domain.vgic.lock();
    vgic.inject_hw(VcpuId::new(0), irq)
}

/// Wakes the vCPUs that the vGIC named; the loaded one looks by itself unless it waits.
#[inline]
fn kick_from(domain: &Domain<Machine>, loaded: &Vcpu<Machine>, set: KickSet) {
    if loaded.is_blocked.load(Ordering::Relaxed) {
        domain.kick(set);
    } else {
        domain.kick(set.without(loaded.id));
    }
}

impl Pcpu {
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

    /// Moves what is pending for the loaded vCPU into its list registers.
    pub fn flush(&mut self, domain: &Domain<Machine>, vcpu: &Vcpu<Machine>, context: &VcpuContext) {
        let set = self.with_vgic(domain, vcpu, &context.physical_timer, |vgic, host| {
            vgic.flush(vcpu.id, host)
        });
        domain.kick(set.without(vcpu.id));
        if trace::is_on(Classes::IRQ) {
            self.trace_injected(trace::subject(domain, vcpu));
        }
    }

    /// Records what is pending in the list registers.
    #[cold]
    fn trace_injected(&self, subject: Subject) {
        for n in 0..self.gich.lr_count() {
            let lr = self.gich.read_lr(n);
            if lr & LR_PENDING != 0 {
                trace::record(Event::Inject, subject, [lr & LR_ID, 0]);
            }
        }
    }

    /// Runs `f` on the vGIC of the loaded vCPU, with its lines.
    ///
    /// The event channels stay locked: an event that becomes pending after the upcall line was looked at is announced
    /// after `f`, and not forgotten with the announcement that `f` found wrong.
    #[inline]
    pub fn with_vgic<R>(
        &mut self,
        domain: &Domain<Machine>,
        vcpu: &Vcpu<Machine>,
        physical_timer: &PhysicalTimer,
        f: impl FnOnce(&mut xenith_core::vgic::Vgic, &mut VgicHost<'_>) -> R,
    ) -> R {
        let physical_timer = physical_timer.is_armed() && physical_timer.line(timer::now());
        let events = domain.events.lock();
        let mut host = VgicHost {
            upcall: events
                .upcall_pending(vcpu.id)
                .then_some(domain.facts.upcall_ppi),
            physical_timer: physical_timer.then_some(domain.facts.physical_timer_ppi),
            ..self.quiet_host(domain)
        };
        let result = f(&mut domain.vgic.lock(), &mut host);
        drop(events);
        result
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
    pub fn take_interrupts(&mut self, loaded: Option<(&Domain<Machine>, &Vcpu<Machine>)>) {
        // Bounded: each source is the hypervisor's, or goes to a guest and stays active until the guest has seen it.
        for _ in 0..64 {
            let ack = self.gicc.acknowledge();
            let Some(irq) = ack.irq() else { return };
            self.gicc.drop_priority(ack);
            if trace::is_on(Classes::IRQ) {
                let subject =
                    loaded.map_or(Subject::IDLE, |(domain, vcpu)| trace::subject(domain, vcpu));
                trace::record(Event::Interrupt, subject, [u32::from(irq.raw()), 0]);
            }
            self.handle_interrupt(irq, ack, loaded);
        }
    }

    #[inline]
    fn handle_interrupt(
        &mut self,
        irq: IntId,
        ack: Acknowledged,
        loaded: Option<(&Domain<Machine>, &Vcpu<Machine>)>,
    ) {
        if let Some((domain, vcpu)) = loaded
            && irq == domain.facts.virtual_timer_ppi
        {
            // Stays active, so the level cannot fire again, until the guest ends it through the list register.
            let set = domain.vgic.lock().inject_hw(vcpu.id, irq);
            kick_from(domain, vcpu, set.unwrap_or(KickSet::NONE));
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
                domain.kick(set);
            }
        } else if irq.raw() < 16 {
            // What the scheduler wants, and what waits for the guest, is looked at before the next entry; not earlier than
            // the interrupt was acknowledged, since its sender wrote it before.
            fence(Ordering::SeqCst);
            smp::do_requests(self.state, loaded);
        } else if Some(irq) == self.hv.hal.console_irq() {
            crate::console::receive(self.hv);
            self.deadline_changed |= crate::console::is_stalled();
        } else if irq.is_spi()
            && let Some(domain) = self.hv.interrupts.owner(irq)
            // Taken from it since it was signalled, perhaps.
            && let Some(set) = inject(&domain, irq)
        {
            // Stays active until the guest ends it.
            domain.kick(set);
            if let Some(home) = domain.better_home(set, self.id) {
                let target = smp::state(home).target();
                self.hv.hal.distributor.lock().set_target(irq, target);
            }
            self.expect_resignal();
            return;
        }
        self.gicc.deactivate(ack);
        if self.resignal_after != 0 {
            // The same forgetfulness of QEMU's: what became pending while the interrupt was active was not signalled.
            self.gicc.signal_again();
        }
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
}
