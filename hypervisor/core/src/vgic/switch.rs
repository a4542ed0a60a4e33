//! What happens to a vCPU as a whole: context switch, sleep and wake, reset.

use super::deliver::for_each_bit;
use super::irq::{Place, State};
use super::lr::{Lr, MAX_LRS};
use super::{KickSet, Vgic, VgicHost};
use crate::addr::VcpuId;

impl Vgic {
    /// Takes the vCPU's state out of the hardware, which is left empty.
    ///
    /// What is pending waits in memory then, where other vCPUs' changes reach it; only active interrupts keep their LR.
    /// Physical PPIs belong to the pCPU, so those that are active for this vCPU are deactivated; their lines are asked
    /// again later.
    pub fn save<H: VgicHost + ?Sized>(&mut self, vcpu: VcpuId, host: &mut H) -> KickSet {
        let Some(cpu) = self.loaded(vcpu) else {
            return KickSet::NONE;
        };
        let mut kicks = self.reclaim(cpu, host);
        let mut ppis = self.irqs.linked_ppis;
        while ppis != 0 {
            let index = cpu << 5 | ppis.trailing_zeros() as usize;
            ppis &= ppis - 1;
            if self.irqs.nodes[index].state.contains(State::PHYS_ACTIVE) {
                kicks |= self.leave_physical(cpu, index, host);
            }
        }
        let mut used = self.cpus[cpu].used;
        while used != 0 {
            let n = used.trailing_zeros() as usize;
            used &= used - 1;
            let index = usize::from(self.cpus[cpu].entries[n].index);
            let lr = Lr(host.read_lr(n));
            if self.extract(cpu, n, lr, host) {
                self.irqs.nodes[index].give_back_masked(host);
                kicks |= self.irqs.evaluate(index);
            } else {
                if self.irqs.nodes[index].state.is_candidate() {
                    self.irqs.waiting[cpu].revisit |= 1 << n;
                }
                host.write_lr(n, 0);
            }
        }
        let interface = &mut self.cpus[cpu];
        interface.vmcr = host.vmcr();
        interface.apr = host.apr();
        interface.loaded = false;
        if core::mem::take(&mut interface.underflow) {
            host.set_underflow(false);
        }
        kicks.without(vcpu)
    }

    /// Puts the vCPU's state into the hardware of this pCPU, whose list registers are all empty. Flush after it.
    pub fn restore<H: VgicHost + ?Sized>(&mut self, vcpu: VcpuId, host: &mut H) {
        let cpu = vcpu.index();
        if cpu >= self.irqs.vcpus || self.cpus[cpu].loaded {
            return;
        }
        let interface = &mut self.cpus[cpu];
        for_each_bit(interface.used, |n| {
            host.write_lr(n, interface.entry(n).lr.0)
        });
        host.set_vmcr(interface.vmcr);
        host.set_apr(interface.apr);
        interface.loaded = true;
        let waiting = &self.irqs.waiting[cpu];
        if waiting.revisit != 0 || waiting.levels != 0 || self.irqs.soft_active_count != 0 {
            self.irqs.work.set(cpu);
        }
    }

    /// Returns true if the vCPU, which is not loaded, has an interrupt that a guest's WFI must see.
    ///
    /// `priority_mask` is its GICC_PMR (bits 7:3 of it; 0 if its CPU interface is off): only interrupts with a
    /// priority value below it count. A line that must be asked counts as asserted.
    pub fn has_deliverable(&self, vcpu: VcpuId, priority_mask: u8) -> bool {
        self.find_deliverable(vcpu, priority_mask, None::<&super::NoHost>)
    }

    /// The same for the current vCPU, whose list registers are in the hardware.
    pub fn has_deliverable_loaded<H: VgicHost + ?Sized>(
        &self,
        vcpu: VcpuId,
        priority_mask: u8,
        host: &H,
    ) -> bool {
        self.find_deliverable(vcpu, priority_mask, Some(host))
    }

    fn find_deliverable<H: VgicHost + ?Sized>(
        &self,
        vcpu: VcpuId,
        priority_mask: u8,
        host: Option<&H>,
    ) -> bool {
        let cpu = vcpu.index();
        if cpu >= self.irqs.vcpus || !self.irqs.forwarding {
            return false;
        }
        let below = priority_mask >> 3;
        let levels = (1u32 << below) - 1;
        if self.irqs.waiting_levels(cpu) & levels != 0 {
            return true;
        }
        let interface = &self.cpus[cpu];
        let mut look = interface.used;
        if look != 0
            && interface.loaded
            && let Some(host) = host
        {
            // A finished one is not pending again unless it is marked, or its line is to be asked after the EOI.
            look &= !host.empty_lrs() | self.irqs.waiting[cpu].revisit | interface.eoi;
        }
        let mut found = false;
        for_each_bit(look, |n| {
            let index = usize::from(interface.entry(n).index);
            let node = &self.irqs.nodes[index];
            let (is_pending, is_active) = node.state_in_lr(interface.lr(n, host));
            found |= (is_pending || node.state.is_candidate())
                && node.state.contains(State::ENABLED)
                && !is_active
                && node.priority >> 3 < below;
        });
        found
    }

    /// Writes what is pending, active or in a list register, for the debug keys. List registers of vCPUs that are loaded
    /// are shown as they were filled.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        for (vcpu, interface) in self.cpus.iter().enumerate().take(self.irqs.vcpus) {
            writeln!(
                out,
                "    vgic: v{vcpu} loaded={} waiting={:x} revisit={:x} used={:x} work={}",
                interface.loaded,
                self.irqs.waiting_levels(vcpu),
                self.irqs.waiting[vcpu].revisit,
                interface.used,
                self.irqs.work.is_set(vcpu),
            )?;
        }
        for (index, node) in self.irqs.nodes.iter().enumerate() {
            let state = node.state;
            let is_quiet = node.place == Place::Idle
                && !state.is_candidate()
                && !state.intersects(State::ACTIVE | State::PHYS_ACTIVE);
            if !is_quiet {
                writeln!(
                    out,
                    "    vgic: irq {} (bank {}) state={:x} {:?} home=v{}",
                    node.int_id.raw(),
                    index / 32,
                    state.bits(),
                    node.place,
                    node.home
                )?;
            }
        }
        Ok(())
    }

    /// Returns the vCPU to the state of a CPU after reset: PSCI CPU_ON. It runs nowhere, or is the current one.
    ///
    /// SGIs and PPIs lose their state; SPIs that were pending for it stay pending, active ones become inactive.
    pub fn reset_vcpu<H: VgicHost + ?Sized>(&mut self, vcpu: VcpuId, host: &mut H) -> KickSet {
        let cpu = vcpu.index();
        if cpu >= self.irqs.vcpus {
            return KickSet::NONE;
        }
        let was_loaded = self.cpus[cpu].loaded;
        let mut kicks = self.save(vcpu, host);
        let mut spis = [0u16; MAX_LRS];
        let mut count = 0;
        let mut used = core::mem::take(&mut self.cpus[cpu].used);
        while used != 0 {
            let n = used.trailing_zeros() as usize;
            used &= used - 1;
            let entry = core::mem::take(&mut self.cpus[cpu].entries[n]);
            self.leave_lr(usize::from(entry.index), host);
            spis[count] = entry.index;
            count += 1;
        }
        self.cpus[cpu].eoi = 0;
        self.cpus[cpu].vmcr = 0;
        self.cpus[cpu].apr = 0;
        self.irqs.waiting[cpu].revisit = 0;
        let sgis_stay_on = !self.irqs.is_v3();
        self.irqs.banks[cpu].enabled = if sgis_stay_on { 0xffff } else { 0 };
        for bit in 0..32 {
            let index = cpu << 5 | bit;
            self.irqs.set_soft_active(index, false);
            let node = &mut self.irqs.nodes[index];
            node.priority = 0;
            node.sources = 0;
            node.state.remove(State::PENDING | State::ACTIVE);
            node.state
                .set(State::ENABLED, sgis_stay_on && node.is_sgi());
            node.settle_physical(host);
            let _nobody = self.irqs.evaluate(index);
        }
        for &index in &spis[..count] {
            let index = usize::from(index);
            self.irqs.nodes[index].give_back_masked(host);
            kicks |= self.irqs.evaluate(index);
        }
        if was_loaded {
            self.restore(vcpu, host);
        }
        kicks.without(vcpu)
    }

    /// What the LR of the interrupt was made from, if it is in one, has changed.
    pub(super) fn forget_lr(&mut self, index: usize) {
        let node = &self.irqs.nodes[index];
        if let Place::Lr(n) = node.place {
            self.cpus[usize::from(node.home)].entries[usize::from(n)].forget_state();
        }
    }

    /// Forgets the physical interrupt behind a LR that is not in the hardware.
    pub(super) fn unlink_lr(&mut self, index: usize) {
        let node = &self.irqs.nodes[index];
        if let Place::Lr(n) = node.place {
            let interface = &mut self.cpus[usize::from(node.home)];
            let entry = &mut interface.entries[usize::from(n)];
            if !interface.loaded {
                entry.lr = entry.lr.without_hw();
            }
        }
    }

    /// Deactivates the physical PPI behind the vCPU's, which continues without it.
    fn leave_physical<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        index: usize,
        host: &mut H,
    ) -> KickSet {
        if let Place::Lr(n) = self.irqs.nodes[index].place {
            let n = usize::from(n);
            let lr = Lr(host.read_lr(n));
            if lr.is_empty() {
                let _ = self.finish(cpu, n, host);
            } else if !self.extract(cpu, n, lr, host) {
                let lr = self.cpus[cpu].entries[n].lr.without_hw();
                self.write_lr(cpu, n, lr, host);
            }
        }
        let node = &mut self.irqs.nodes[index];
        if node.state.contains(State::ARRIVED) {
            let is_edge = node.state.contains(State::EDGE);
            node.state.remove(State::ARRIVED);
            node.state
                .insert(if is_edge { State::LATCHED } else { State::HINT });
        }
        if node.state.contains(State::PHYS_ACTIVE) {
            node.state.remove(State::PHYS_ACTIVE);
            host.deactivate(node.hw);
        }
        self.irqs.evaluate(index)
    }
}
