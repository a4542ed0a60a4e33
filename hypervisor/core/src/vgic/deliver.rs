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

use super::irq::{Place, State};
use super::lr::{Lr, MAX_LRS};
use super::{KickSet, MAX_VCPUS, Vgic, VgicHost};
use crate::addr::VcpuId;
use crate::machine::PhysIrq;

/// What a LR holds.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Which interrupt it is.
    pub index: u16,
    /// Of an SGI: the sender, as a mask.
    sources: u8,
    /// The line was asked before the interrupt was given.
    was_asked: bool,
    /// Which of [`State::PENDING`] its pending bit came from.
    pub from: State,
    /// The value last read or written.
    pub lr: Lr,
    /// The state that the interrupt had in memory when `lr` was made from it: in this state it would get the same
    /// value again. [`Self::CHANGED`] once the LR's value or the interrupt's priority or target has changed.
    made_from: State,
}

impl Entry {
    /// Equal to no state without `ACTIVE`.
    const CHANGED: State = State::ACTIVE;

    /// The value no longer is what the interrupt would get.
    pub fn forget_state(&mut self) {
        self.made_from = Self::CHANGED;
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            index: 0,
            sources: 0,
            was_asked: false,
            from: State::empty(),
            lr: Lr::default(),
            made_from: Self::CHANGED,
        }
    }
}

/// The virtual CPU interface of one vCPU.
#[derive(Clone, Default)]
pub(super) struct CpuInterface {
    pub entries: [Entry; MAX_LRS],
    /// LRs that hold an interrupt, finished or not.
    pub used: u32,
    /// LRs written with EOI maintenance; all of them are used.
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
}

/// Calls `f` for each bit set.
pub(super) fn for_each_bit(mut bits: u32, mut f: impl FnMut(usize)) {
    while bits != 0 {
        f(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
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
        let waits = self.irqs.waiting_levels(cpu) | self.irqs.soft_active_count;
        if waits == 0 && !self.cpus[cpu].underflow {
            self.irqs.work.assign(cpu, false);
            return kicks;
        }
        kicks |= self.flush_waiting(cpu, host);
        kicks
    }

    /// Gives LRs to what waits for them, and arranges what happens if there are too few.
    #[inline(always)]
    fn flush_waiting<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) -> KickSet {
        let mut kicks = KickSet::NONE;
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
            Some(cpu) => {
                // The underflow is a level: it is taken down here, and the flush decides anew whether it is wanted.
                if core::mem::take(&mut self.cpus[cpu].underflow) {
                    host.set_underflow(false);
                    self.irqs.work.set(cpu);
                }
                self.reclaim(cpu, host).without(vcpu)
            }
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
        for (cpu, interface) in self.cpus[..self.irqs.vcpus].iter().enumerate() {
            if private && cpu != bank {
                continue;
            }
            for_each_bit(interface.used, |n| {
                let index = usize::from(interface.entry(n).index);
                if index / 32 == bank {
                    let lr = interface.lr(n, (cpu == current).then_some(host));
                    let (is_pending, is_active) = self.irqs.nodes[index].state_in_lr(lr);
                    pending |= u32::from(is_pending) << (index % 32);
                    active |= u32::from(is_active) << (index % 32);
                }
            });
        }
        (pending, active)
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
        let node = &self.irqs.nodes[index];
        let Place::Lr(n) = node.place else {
            return None;
        };
        let interface = &self.cpus[usize::from(node.home)];
        let (is_pending, _) = node.state_in_lr(interface.lr(usize::from(n), host));
        Some((interface.entry(usize::from(n)).lr.source(), is_pending))
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
        interface.entries[n].forget_state();
        if lr.has_eoi() {
            interface.eoi |= 1 << n;
        } else {
            interface.eoi &= !(1 << n);
        }
        host.write_lr(n, lr.0);
    }

    /// The interrupt is no longer in a LR and not active.
    pub(super) fn leave_lr<P: PhysIrq + ?Sized>(&mut self, index: usize, phys: &mut P) {
        let node = &mut self.irqs.nodes[index];
        let make_active = node.state.contains(State::MAKE_ACTIVE);
        node.place = Place::Idle;
        node.state
            .remove(State::DROP_PENDING | State::DROP_ACTIVE | State::MAKE_ACTIVE);
        node.state.set(State::ACTIVE, make_active);
        node.settle_physical(phys);
        self.irqs.set_soft_active(index, make_active);
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
        let node = &mut self.irqs.nodes[index];
        let mut state = node.state;
        if lr.is_hw() && !state.contains(State::ARRIVED) {
            // The hardware has deactivated it; if it arrived again since, it is active anew.
            state.remove(State::PHYS_ACTIVE);
        }
        if state.contains(State::RESAMPLE | State::ASKS) {
            state.insert(State::HINT);
        }
        state.remove(State::ACTIVE);
        node.state = state;
        node.place = Place::Idle;
        if state.is_candidate() || state.intersects(State::PHYS_ACTIVE | State::DEFERRED) {
            return self.finish_more(index, host);
        }
        KickSet::NONE
    }

    /// The guest has finished an interrupt, and there is more to do about it.
    #[inline(never)]
    fn finish_more<P: PhysIrq + ?Sized>(&mut self, index: usize, phys: &mut P) -> KickSet {
        self.leave_lr(index, phys);
        self.irqs.nodes[index].give_back_masked(phys);
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
        let node = &mut self.irqs.nodes[index];
        let mut from = entry.from;
        if node.state.contains(State::DROP_PENDING) {
            from.remove(State::LATCHED);
            if node.state.contains(State::EDGE) {
                from.remove(State::ARRIVED);
            }
        }
        node.state.insert(from);
        if node.is_sgi() && from.contains(State::LATCHED) {
            node.sources |= 1 << entry.lr.source();
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
        entry.lr = lr;
        if lr.is_pending() {
            self.restore_pending(index, entry);
        }
        self.cpus[cpu].entries[n].from = State::empty();
        let state = &mut self.irqs.nodes[index].state;
        state.remove(State::DROP_PENDING);
        if lr.is_active() && !state.contains(State::DROP_ACTIVE) {
            state.insert(State::ACTIVE);
            state.remove(State::MAKE_ACTIVE);
            if lr.is_pending() {
                self.write_lr(cpu, n, lr.without_pending(), host);
            } else {
                self.cpus[cpu].entries[n].lr = lr;
                self.cpus[cpu].entries[n].forget_state();
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
            self.irqs.nodes[index].give_back_masked(host);
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
        let node = &mut self.irqs.nodes[index];
        if !node.state.is_candidate() || !node.state.contains(State::ENABLED) {
            return;
        }
        let entry = &mut self.cpus[cpu].entries[n];
        let mut lr = entry.lr;
        let is_level_arrival = node.state.is(State::ARRIVED, State::EDGE | State::LATCHED);
        if is_level_arrival && self.lrs != 1 {
            // Acknowledged without its physical interrupt, which has come since. After the guest's EOI the line
            // speaks for itself.
            node.state.remove(State::ARRIVED | State::HINT);
            lr = lr.with_hw(node.hw);
        } else {
            let can_pend = self.irqs.forwarding && node.target() == cpu;
            if can_pend && node.state.is(State::LATCHED, State::PHYS_ACTIVE) {
                let source = 1u8 << lr.source();
                if !node.is_sgi() {
                    node.state.remove(State::LATCHED);
                    lr = lr.with_pending();
                } else if node.sources & source != 0 {
                    node.sources &= !source;
                    node.state.set(State::LATCHED, node.sources != 0);
                    lr = lr.with_pending();
                }
                if lr.is_pending() {
                    entry.from = State::LATCHED;
                }
            }
            // A linked level line needs nothing: the physical interrupt fires again if it is still asserted.
            let state = node.state;
            if state.contains(State::LATCHED)
                || state.contains(State::ARRIVED | State::EDGE)
                || (state.is_candidate() && !lr.is_hw())
            {
                lr = lr.without_hw().with_eoi();
            }
        }
        if lr != self.cpus[cpu].entries[n].lr {
            self.write_lr(cpu, n, lr, host);
        }
    }

    /// Moves waiting interrupts into LRs, most urgent first.
    #[inline(never)]
    fn fill<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) -> KickSet {
        let mut kicks = KickSet::NONE;
        let mut reclaimed = false;
        // Each LR is filled at most once, so this ends.
        let mut filled = 0u32;
        while let Some(index) = self.irqs.first(cpu) {
            let node = &mut self.irqs.nodes[index];
            let must_ask = !node.state.is_sure();
            if must_ask && !host.is_asserted(VcpuId::new(cpu as u16), node.int_id) {
                node.state.remove(State::HINT | State::ARRIVED);
                self.irqs.unlink(index);
                self.irqs.nodes[index].settle_physical(host);
                continue;
            }
            let level = node.priority >> 3;
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
            self.occupy(cpu, n, index, must_ask, host);
        }
        kicks
    }

    /// The usual case, made short: the guest has finished the interrupt in LR `n`, and it is pending again as it was
    /// the last time, so it takes the same LR with the same value. Returns false if the case is another one.
    #[inline(always)]
    fn renew<H: VgicHost + ?Sized>(&mut self, cpu: usize, n: usize, host: &mut H) -> bool {
        let entry = &mut self.cpus[cpu & (MAX_VCPUS - 1)].entries[n & (MAX_LRS - 1)];
        let node = &mut self.irqs.nodes[usize::from(entry.index)];
        if node.state.difference(State::ACTIVE) != entry.made_from
            || entry.was_asked && !host.is_asserted(VcpuId::new(cpu as u16), node.int_id)
        {
            return false;
        }
        if node.sources != entry.sources {
            if !node.sources.is_power_of_two() {
                return false;
            }
            entry.sources = node.sources;
            entry.lr = entry
                .lr
                .with_other_source(node.sources.trailing_zeros() as u8);
        }
        node.sources = 0;
        node.state.remove(State::PENDING | State::ACTIVE);
        host.write_lr(n, entry.lr.0);
        true
    }

    /// Puts a pending interrupt into the free LR `n`.
    #[inline]
    fn occupy<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        n: usize,
        index: usize,
        was_asked: bool,
        host: &mut H,
    ) {
        let node = &mut self.irqs.nodes[index];
        node.place = Place::Lr(n as u8);
        node.home = cpu as u8;
        let (state, sources) = (node.state, node.sources);
        let mut lr = node.take_pending();
        let made_from = if node.sources == 0 {
            state
        } else {
            Entry::CHANGED
        };
        if self.lrs == 1 {
            lr = lr.for_single_register();
        }
        let interface = &mut self.cpus[cpu & (MAX_VCPUS - 1)];
        let one = 1 << (n & 31);
        interface.used |= one;
        if lr.has_eoi() {
            interface.eoi |= one;
        }
        interface.entries[n & (MAX_LRS - 1)] = Entry {
            index: index as u16,
            sources,
            was_asked,
            from: state & State::PENDING,
            lr,
            made_from,
        };
        host.write_lr(n, lr.0);
    }

    /// Frees a LR whose interrupt is pending only and less urgent than `level`, the least urgent first; none of `tried`.
    #[inline(never)]
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
                let state = self.irqs.nodes[index].state;
                let rank = if state.contains(State::SOFT_ACTIVE) {
                    32
                } else {
                    entry.lr.level()
                };
                if rank > level && worst.is_none_or(|(best, _)| rank > best) {
                    worst = Some((rank, n));
                }
            });
            let (_, n) = worst?;
            tried |= 1 << n;
            let lr = Lr(host.read_lr(n));
            let index = usize::from(interface.entries[n].index);
            if !lr.is_active() && !lr.is_empty() {
                self.extract(cpu, n, lr, host);
                let _own = self.irqs.evaluate(index);
                self.irqs.move_to_front(index);
                return Some(n);
            }
            if lr.is_active() && self.irqs.nodes[index].state.contains(State::SOFT_ACTIVE) {
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
        let node = &mut self.irqs.nodes[index];
        node.place = Place::Idle;
        node.settle_physical(host);
        let _own = self.irqs.evaluate(index);
    }

    /// Gives spare LRs to interrupts that the guest made active, so that its deactivation finds them.
    #[inline(never)]
    fn fill_active<H: VgicHost + ?Sized>(&mut self, cpu: usize, host: &mut H) {
        let vcpus = self.irqs.vcpus;
        for bank in core::iter::once(cpu).chain(vcpus..self.irqs.banks.len()) {
            let mut bits = self.irqs.banks[bank].soft_active;
            while bits != 0 {
                let index = bank * 32 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let node = &mut self.irqs.nodes[index];
                let free = self.lrs & !self.cpus[cpu].used;
                if free == 0 {
                    return;
                }
                if node.place != Place::Idle
                    || !node.state.contains(State::ACTIVE)
                    || node.target() != cpu
                {
                    continue;
                }
                let n = free.trailing_zeros() as usize;
                let lr = Lr::new(node.int_id, node.priority >> 3)
                    .with_active()
                    .with_eoi();
                node.place = Place::Lr(n as u8);
                node.home = cpu as u8;
                let interface = &mut self.cpus[cpu];
                interface.used |= 1 << n;
                interface.entries[n] = Entry {
                    index: index as u16,
                    ..Entry::default()
                };
                self.write_lr(cpu, n, lr, host);
            }
        }
    }
}
