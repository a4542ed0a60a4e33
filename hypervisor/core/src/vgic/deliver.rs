//! Between the state machine and the list registers (LRs): filling, reconciling, reading back.
//!
//! LRs are read lazily. A LR whose interrupt the guest has finished stays booked (`used`) until a free LR is needed,
//! its interrupt comes again, a maintenance interrupt tells of it, or the vCPU is switched out.
//!
//! After a flush: no waiting interrupt is more urgent than one that is pending in a LR, and if any waits then all LRs
//! are valid and the underflow maintenance interrupt is on. An interrupt that is active stays in its LR, because only
//! there the guest's EOI finds it; if active ones hold all LRs, the waiting ones wait for an EOI.
//!
//! GICv2 wants the virtual ids in the LRs to be unique, so of an SGI with several senders one is in a LR at a time,
//! with EOI maintenance asked for.

use super::irq::{Bank, FROM_ARRIVED, FROM_HINT, FROM_LATCHED, Place};
use super::lr::{Lr, MAX_LRS};
use super::{KickSet, MAX_VCPUS, Vgic, VgicHost};
use crate::addr::{IntId, VcpuId};
use crate::machine::PhysIrq;

/// What a LR holds.
#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    pub index: u16,
    /// Which state in memory its pending bit came from.
    pub from: u8,
    /// The value last read or written.
    pub lr: Lr,
}

/// The virtual CPU interface of one vCPU.
#[derive(Clone, Default)]
pub(super) struct CpuInterface {
    pub entries: [Entry; MAX_LRS],
    /// LRs that hold an interrupt, finished or not.
    pub used: u32,
    /// LRs written with EOI maintenance.
    pub eoi: u32,
    /// The registers are in a pCPU's hardware; else `entries` and the two below hold them.
    pub loaded: bool,
    pub underflow: bool,
    pub vmcr: u32,
    pub apr: u32,
}

impl CpuInterface {
    /// Returns what the LR says, from the hardware if the vCPU is the current one.
    pub fn lr<H: VgicHost + ?Sized>(&self, n: usize, host: Option<&H>) -> Lr {
        match host {
            Some(host) if self.loaded => Lr(host.read_lr(n)),
            _ => self.entry(n).lr,
        }
    }

    #[inline]
    pub fn entry(&self, n: usize) -> &Entry {
        &self.entries[n & (MAX_LRS - 1)]
    }

    /// Books LR `n` and notes what is in it.
    #[inline]
    fn put(&mut self, n: usize, entry: Entry) {
        let one = 1 << (n & 31);
        self.used |= one;
        self.eoi = self.eoi & !one | if entry.lr.has_eoi() { one } else { 0 };
        self.entries[n & (MAX_LRS - 1)] = entry;
    }
}

/// Calls `f` for each bit set.
pub(super) fn for_each_bit(mut bits: u32, mut f: impl FnMut(usize)) {
    while bits != 0 {
        f(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

/// Returns true if a candidate is really pending; asks its line if that decides.
#[inline]
fn is_pending<H: VgicHost + ?Sized>(bank: &Bank, index: usize, cpu: usize, host: &H) -> bool {
    bank.sure() & (1 << (index % 32)) != 0
        || host.is_asserted(VcpuId::new(cpu as u16), bank.node(index).int_id)
}

impl Vgic {
    /// Fills the list registers before the guest is entered. Cheap when [`Vgic::needs_flush`] is false.
    ///
    /// `vcpu` is the current, restored vCPU. Returns the other vCPUs that have something to do now.
    #[inline]
    pub fn flush<H: VgicHost + ?Sized>(&mut self, vcpu: VcpuId, host: &mut H) -> KickSet {
        match self.loaded(vcpu) {
            Some(cpu) if self.irqs.work.is_set(cpu) => self.flush_work(cpu, host).without(vcpu),
            _ => KickSet::NONE,
        }
    }

    /// Returns the vCPU's index if its state is in the hardware.
    #[inline]
    pub(super) fn loaded(&self, vcpu: VcpuId) -> Option<usize> {
        let cpu = vcpu.index();
        (cpu < MAX_VCPUS && self.cpus[cpu].loaded).then_some(cpu)
    }

    fn flush_work<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) -> KickSet {
        let mut kicks = KickSet::NONE;
        let cpu = cpu & (MAX_VCPUS - 1);
        let used = self.cpus[cpu].used;
        let waiting = &mut self.irqs.waiting[cpu];
        let mut revisit = core::mem::take(&mut waiting.revisit) & used;
        // Those that wait for a LR since the last flush come before those that would take theirs again.
        let may_renew = self.irqs.forwarding && (waiting.levels == 0 || used != self.lrs);
        while revisit != 0 {
            let n = revisit.trailing_zeros() as usize;
            revisit &= revisit - 1;
            let lr = Lr(host.read_lr(n));
            if !(may_renew && lr.is_empty() && self.renew(cpu, n, host)) {
                kicks |= self.reconcile(cpu, n, lr, host);
            }
        }
        let mut overflow = false;
        if self.irqs.forwarding && self.irqs.waiting_levels(cpu) != 0 {
            kicks |= self.fill(cpu, host);
            overflow = self.irqs.waiting_levels(cpu) != 0;
        }
        if self.irqs.soft_active_count != 0 {
            self.fill_active(cpu, host);
        }
        self.irqs.work.assign(cpu, overflow);
        // With a single LR the underflow condition is always true; there every LR has EOI maintenance instead.
        let underflow = overflow && self.lrs != 1;
        if underflow != self.cpus[cpu].underflow {
            self.cpus[cpu].underflow = underflow;
            host.set_underflow(underflow);
        }
        kicks
    }

    /// Reads back which list registers the guest has finished: for the maintenance interrupt. Flush after it.
    pub fn sync<H: VgicHost + ?Sized>(&mut self, vcpu: VcpuId, host: &mut H) -> KickSet {
        match self.loaded(vcpu) {
            Some(cpu) => self.reclaim(cpu, host).without(vcpu),
            None => KickSet::NONE,
        }
    }

    /// Returns which interrupts of a bank are pending and active in LRs.
    pub(super) fn states_in_lrs<H: VgicHost + ?Sized>(
        &self,
        bank: usize,
        current: usize,
        host: &H,
    ) -> (u32, u32) {
        let (mut pending, mut active) = (0, 0);
        let private = bank < self.irqs.vcpus;
        for (cpu, interface) in self.cpus.iter().enumerate() {
            if private && cpu != bank {
                continue;
            }
            for_each_bit(interface.used, |n| {
                let index = usize::from(interface.entries[n].index);
                if index / 32 == bank {
                    let lr = interface.lr(n, (cpu == current).then_some(host));
                    pending |= u32::from(lr.is_pending()) << (index % 32);
                    active |= u32::from(lr.is_active()) << (index % 32);
                }
            });
        }
        let bank = &self.irqs.banks[bank];
        (
            pending & !bank.drop_pending,
            (active & !bank.drop_active) | bank.make_active,
        )
    }

    /// Has the other vCPUs that run look at their LRs that hold interrupts of an SPI bank.
    pub(super) fn ask_others(&mut self, bank: usize, current: usize) -> KickSet {
        let mut kicks = KickSet::NONE;
        for (cpu, interface) in self.cpus.iter().enumerate() {
            if cpu != current && interface.loaded {
                for_each_bit(interface.used, |n| {
                    if usize::from(interface.entries[n].index) / 32 == bank {
                        kicks |= self.irqs.revisit(cpu, n as u8);
                    }
                });
            }
        }
        kicks
    }

    /// Returns the sender of an SGI that is in a LR of the vCPU, and whether it is still pending there.
    pub(super) fn sgi_in_lr<H: VgicHost + ?Sized>(
        &self,
        index: usize,
        host: Option<&H>,
    ) -> Option<(u8, bool)> {
        let node = self.irqs.node(index);
        let Place::Lr(n) = node.place else {
            return None;
        };
        let lr = self.cpus[usize::from(node.home)].lr(usize::from(n), host);
        let is_dropped = self.irqs.banks[index / 32].drop_pending & (1 << (index % 32)) != 0;
        Some((
            self.cpus[usize::from(node.home)].entries[usize::from(n)]
                .lr
                .source(),
            lr.is_pending() && !is_dropped,
        ))
    }

    /// Deactivates the physical interrupt if the virtual one no longer stands for it.
    pub(super) fn settle_physical<P: PhysIrq + ?Sized>(&mut self, index: usize, phys: &mut P) {
        let (bank, bit) = self.irqs.at(index);
        let node = bank.node(index);
        if bank.phys_active & !bank.arrived & bit != 0 && !matches!(node.place, Place::Lr(_)) {
            let hw = IntId::new(node.hw);
            bank.phys_active &= !bit;
            phys.deactivate(hw);
        }
    }

    /// A linked SPI that is masked gives its physical interrupt back: an edge stays pending in memory, a level speaks
    /// for itself when the guest unmasks it. (PPIs stay active: the hypervisor does not mask them on the pCPU.)
    pub(super) fn give_back_masked<P: PhysIrq + ?Sized>(&mut self, index: usize, phys: &mut P) {
        let (bank, bit) = self.irqs.at(index);
        let node = bank.node(index);
        if bank.arrived & !bank.enabled & bit == 0
            || node.is_private()
            || matches!(node.place, Place::Lr(_))
        {
            return;
        }
        bank.arrived &= !bit;
        bank.latched |= bank.edge & bit;
        self.settle_physical(index, phys);
    }

    pub(super) fn write_lr<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        n: usize,
        lr: Lr,
        host: &mut H,
    ) {
        let interface = &mut self.cpus[cpu];
        interface.entries[n].lr = lr;
        if lr.has_eoi() {
            interface.eoi |= 1 << n;
        } else {
            interface.eoi &= !(1 << n);
        }
        host.write_lr(n, lr.0);
    }

    /// The interrupt is no longer in a LR and not active.
    pub(super) fn leave_lr<P: PhysIrq + ?Sized>(&mut self, index: usize, phys: &mut P) {
        let (bank, bit) = self.irqs.at(index);
        bank.node_mut(index).place = Place::Idle;
        bank.active &= !bit;
        if bank.deferred() & bit == 0 {
            return self.settle_physical(index, phys);
        }
        bank.drop_pending &= !bit;
        bank.drop_active &= !bit;
        let make_active = bank.make_active & bit;
        bank.make_active &= !bit;
        bank.active |= make_active;
        self.irqs.set_soft_active(index / 32, bit, make_active != 0);
        self.settle_physical(index, phys);
    }

    /// The guest has finished the interrupt in LR `n`, which the hardware shows as empty.
    #[inline]
    pub(super) fn finish<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        n: usize,
        host: &mut H,
    ) -> KickSet {
        let interface = &mut self.cpus[cpu];
        let one = 1 << (n & 31);
        interface.used &= !one;
        let &Entry { index, lr, .. } = interface.entry(n);
        let index = usize::from(index);
        if interface.eoi & one != 0 {
            // Ends the maintenance condition.
            self.write_lr(cpu, n, Lr::default(), host);
        }
        let (bank, bit) = self.irqs.at(index);
        if lr.is_hw() {
            // The hardware has deactivated it; if it arrived again since, it is active anew.
            bank.phys_active &= !bit | bank.arrived;
        }
        bank.hint |= bank.resample & bank.asks & bit;
        if (bank.candidates() | bank.phys_active | bank.deferred()) & bit == 0 {
            // The usual case: that was all.
            bank.active &= !bit;
            bank.node_mut(index).place = Place::Idle;
            return KickSet::NONE;
        }
        self.finish_more(index, host)
    }

    /// The guest has finished an interrupt, and there is more to do about it.
    #[inline(never)]
    fn finish_more<P: PhysIrq + ?Sized>(&mut self, index: usize, phys: &mut P) -> KickSet {
        self.leave_lr(index, phys);
        self.give_back_masked(index, phys);
        self.irqs.evaluate(index)
    }

    /// Finishes all LRs that the hardware shows as empty.
    pub(super) fn reclaim<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) -> KickSet {
        let used = self.cpus[cpu].used;
        if used == 0 {
            return KickSet::NONE;
        }
        let mut done = host.empty_lrs();
        if self.cpus[cpu].eoi != 0 {
            done |= host.ended_lrs();
        }
        done &= used;
        let mut kicks = KickSet::NONE;
        while done != 0 {
            let n = done.trailing_zeros() as usize;
            done &= done - 1;
            kicks |= self.finish(cpu, n, host);
        }
        kicks
    }

    /// Moves the pending state that a LR held back to memory.
    fn restore_pending(&mut self, index: usize, entry: Entry) {
        let (bank, bit) = self.irqs.at(index);
        let is_dropped = bank.drop_pending & bit != 0;
        if entry.from & FROM_LATCHED != 0 && !is_dropped {
            bank.latched |= bit;
            let node = bank.node_mut(index);
            if node.is_sgi() {
                node.sources |= 1 << entry.lr.source();
            }
        }
        if entry.from & FROM_ARRIVED != 0 && !(is_dropped && bank.edge & bit != 0) {
            bank.arrived |= bit;
        }
        if entry.from & FROM_HINT != 0 {
            bank.hint |= bit;
        }
    }

    /// Takes the interrupt in LR `n` back to memory as far as possible; what is active stays, as active only.
    ///
    /// Returns true if the LR is free now. The caller evaluates the interrupt then.
    pub(super) fn extract<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        n: usize,
        lr: Lr,
        host: &mut H,
    ) -> bool {
        let mut entry = self.cpus[cpu].entries[n];
        let index = usize::from(entry.index);
        let bit = 1 << (index % 32);
        entry.lr = lr;
        if lr.is_pending() {
            self.restore_pending(index, entry);
        }
        self.cpus[cpu].entries[n].from = 0;
        let bank = &mut self.irqs.banks[index / 32];
        bank.drop_pending &= !bit;
        if lr.is_active() && bank.drop_active & bit == 0 {
            bank.active |= bit;
            bank.make_active &= !bit;
            if lr.is_pending() {
                self.write_lr(cpu, n, lr.without_pending(), host);
            } else {
                self.cpus[cpu].entries[n].lr = lr;
            }
            return false;
        }
        self.write_lr(cpu, n, Lr::default(), host);
        self.cpus[cpu].used &= !(1 << n);
        self.leave_lr(index, host);
        true
    }

    /// Brings LR `n`, which says `lr`, in line with a change of its interrupt's state.
    #[inline(never)]
    fn reconcile<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        n: usize,
        lr: Lr,
        host: &mut H,
    ) -> KickSet {
        if lr.is_empty() {
            return self.finish(cpu, n, host);
        }
        let index = usize::from(self.cpus[cpu].entries[n].index);
        if self.extract(cpu, n, lr, host) {
            self.give_back_masked(index, host);
            self.irqs.evaluate(index)
        } else {
            self.pend_active(cpu, n, index, host);
            KickSet::NONE
        }
    }

    /// The interrupt in LR `n` is active; arranges that what is pending for it comes after its EOI.
    fn pend_active<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        n: usize,
        index: usize,
        host: &mut H,
    ) {
        let forwarding = self.irqs.forwarding;
        let (bank, bit) = self.irqs.at(index);
        if bank.candidates() & bank.enabled & bit == 0 {
            return;
        }
        let entry = &mut self.cpus[cpu].entries[n];
        let mut lr = entry.lr;
        let is_level_arrival = bank.arrived & !bank.edge & bit != 0;
        if is_level_arrival && bank.latched & bit == 0 && self.lrs != 1 {
            // Acknowledged without its physical interrupt, which has come since. After the guest's EOI the line
            // speaks for itself.
            bank.arrived &= !bit;
            bank.hint &= !bit;
            lr = lr.with_hw(bank.node(index).hw);
        } else {
            let can_pend = forwarding && bank.node(index).target() == cpu;
            if can_pend && bank.latched & !bank.phys_active & bit != 0 {
                let source = 1u8 << lr.source();
                let node = bank.node_mut(index);
                if !node.is_sgi() {
                    bank.latched &= !bit;
                    lr = lr.with_pending();
                } else if node.sources & source != 0 {
                    node.sources &= !source;
                    if node.sources == 0 {
                        bank.latched &= !bit;
                    }
                    lr = lr.with_pending();
                }
                if lr.is_pending() {
                    entry.from = FROM_LATCHED;
                }
            }
            // A linked level line needs nothing: the physical interrupt fires again if it is still asserted.
            let rest = bank.latched
                | (bank.arrived & bank.edge)
                | if lr.is_hw() { 0 } else { bank.candidates() };
            if rest & bit != 0 {
                lr = lr.without_hw().with_eoi();
            }
        }
        if lr != self.cpus[cpu].entries[n].lr {
            self.write_lr(cpu, n, lr, host);
        }
    }

    /// Moves waiting interrupts into LRs, most urgent first.
    fn fill<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) -> KickSet {
        let mut kicks = KickSet::NONE;
        let mut reclaimed = false;
        // Each LR is filled at most once, so this ends.
        let mut filled = 0u32;
        while let Some(index) = self.irqs.first(cpu) {
            let (bank, bit) = self.irqs.at(index);
            if !is_pending(bank, index, cpu, host) {
                bank.hint &= !bit;
                bank.arrived &= !bit;
                self.irqs.unlink(index);
                self.settle_physical(index, host);
                continue;
            }
            let level = bank.node(index).priority >> 3;
            let free = self.lrs & !self.cpus[cpu].used;
            let n = if free != 0 {
                free.trailing_zeros() as usize
            } else if !reclaimed {
                // It may queue an interrupt that is more urgent: look again.
                reclaimed = true;
                kicks |= self.reclaim(cpu, host);
                continue;
            } else if let Some(n) = self.displace(cpu, filled, level, host) {
                n
            } else {
                break;
            };
            filled |= 1 << (n & 31);
            self.irqs.unlink(index);
            self.occupy(cpu, n, index, host);
        }
        kicks
    }

    /// The usual case, made short: the guest has finished the interrupt in LR `n`, and it is pending again, so it takes
    /// the same LR. Returns false, and has changed nothing, if the case is another one.
    #[inline]
    fn renew<H: VgicHost + ?Sized>(&mut self, cpu: usize, n: usize, host: &mut H) -> bool {
        let &Entry { index, lr, .. } = self.cpus[cpu].entry(n);
        let index = usize::from(index);
        let (bank, bit) = self.irqs.at(index);
        // The physical interrupt of the finished one: the hardware has deactivated it if the LR was linked.
        let leftover = if lr.is_hw() {
            0
        } else {
            bank.phys_active & !bank.arrived
        };
        let ready = bank.candidates() & bank.enabled & !(bank.deferred() | leftover);
        if ready & bit == 0
            || bank.node(index).target() != cpu
            || !is_pending(bank, index, cpu, host)
        {
            return false;
        }
        bank.active &= !bit;
        bank.phys_active &= !bit | bank.arrived;
        self.occupy(cpu, n, index, host);
        true
    }

    /// Puts a pending interrupt into LR `n`, which is free or was its own.
    #[inline]
    fn occupy<H: VgicHost + ?Sized>(&mut self, cpu: usize, n: usize, index: usize, host: &mut H) {
        let (bank, bit) = self.irqs.at(index);
        let is_latched = bank.latched & bit != 0;
        let node = bank.node_mut(index);
        node.place = Place::Lr(n as u8);
        node.home = cpu as u8;
        let mut lr = Lr::new(node.int_id, node.priority >> 3).with_pending();
        let mut wants_eoi = self.lrs == 1;
        let mut from = if is_latched { FROM_LATCHED } else { 0 };
        if node.is_sgi() {
            lr = lr.with_source(node.sources.trailing_zeros() as u8);
            node.sources &= node.sources.wrapping_sub(1);
            if node.sources == 0 {
                bank.latched &= !bit;
            } else {
                wants_eoi = true;
            }
        } else {
            let hw = node.hw;
            if bank.arrived & bit != 0 {
                from |= FROM_ARRIVED;
            }
            if bank.hint & bit != 0 {
                from |= FROM_HINT;
            }
            bank.latched &= !bit;
            bank.arrived &= !bit;
            bank.hint &= !bit;
            if bank.phys_active & bit != 0 && self.lrs != 1 {
                lr = lr.with_hw(hw);
            } else {
                wants_eoi |= bank.resample & !bank.edge & bit != 0;
            }
        }
        if wants_eoi {
            lr = lr.with_eoi();
        }
        let index = index as u16;
        self.cpus[cpu].put(n, Entry { index, from, lr });
        host.write_lr(n, lr.0);
    }

    /// Frees a LR whose interrupt is pending only and less urgent than `level`, the least urgent first; none of `tried`.
    fn displace<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        mut tried: u32,
        level: u8,
        host: &mut H,
    ) -> Option<usize> {
        for _ in 0..MAX_LRS {
            let interface = &self.cpus[cpu];
            let mut worst: Option<(u8, usize)> = None;
            for_each_bit(interface.used & !tried, |n| {
                let entry = &interface.entries[n];
                let index = usize::from(entry.index);
                let is_soft = self.irqs.banks[index / 32].soft_active & (1 << (index % 32)) != 0;
                let rank = if is_soft { 32 } else { entry.lr.level() };
                if rank > level && worst.is_none_or(|(best, _)| rank > best) {
                    worst = Some((rank, n));
                }
            });
            let (_, n) = worst?;
            tried |= 1 << n;
            let lr = Lr(host.read_lr(n));
            let index = usize::from(interface.entries[n].index);
            let bit = 1 << (index % 32);
            if !lr.is_active() && !lr.is_empty() {
                self.extract(cpu, n, lr, host);
                let _own = self.irqs.evaluate(index);
                self.irqs.move_to_front(index);
                return Some(n);
            }
            if lr.is_active() && self.irqs.banks[index / 32].soft_active & bit != 0 {
                self.park(cpu, n, index, host);
                return Some(n);
            }
        }
        None
    }

    /// Takes an interrupt that the guest made active by a register write out of its LR; it stays active in memory.
    fn park<H: VgicHost + ?Sized>(&mut self, cpu: usize, n: usize, index: usize, host: &mut H) {
        let lr = Lr(host.read_lr(n));
        self.extract(cpu, n, lr, host);
        self.write_lr(cpu, n, Lr::default(), host);
        self.cpus[cpu].used &= !(1 << n);
        self.irqs.node_mut(index).place = Place::Idle;
        self.settle_physical(index, host);
        let _own = self.irqs.evaluate(index);
    }

    /// Gives spare LRs to interrupts that the guest made active, so that its deactivation finds them.
    fn fill_active<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) {
        let vcpus = self.irqs.vcpus;
        for bank in core::iter::once(cpu).chain(vcpus..self.irqs.banks.len()) {
            let mut bits = self.irqs.banks[bank].soft_active & self.irqs.banks[bank].active;
            while bits != 0 {
                let index = bank * 32 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let node = self.irqs.node(index);
                let free = self.lrs & !self.cpus[cpu].used;
                if free == 0 {
                    return;
                }
                if node.place != Place::Idle || node.target() != cpu {
                    continue;
                }
                let n = free.trailing_zeros() as usize;
                let lr = Lr::new(node.int_id, node.priority >> 3)
                    .with_active()
                    .with_eoi();
                let node = self.irqs.node_mut(index);
                node.place = Place::Lr(n as u8);
                node.home = cpu as u8;
                let interface = &mut self.cpus[cpu];
                interface.used |= 1 << n;
                interface.entries[n].index = index as u16;
                interface.entries[n].from = 0;
                self.write_lr(cpu, n, lr, host);
            }
        }
    }
}
