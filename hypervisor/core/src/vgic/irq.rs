//! The interrupt state machine: what is enabled, pending, active, where it is, and which vCPU it waits for.
//!
//! Interrupts lie in banks of 32: bank `v` holds the SGIs and PPIs of vCPU `v`, the SPI banks follow. An *index* is
//! `bank * 32 + bit`. All one-bit state of an interrupt is in one word, [`State`], because delivery looks at most of it;
//! banks repeat only what is needed for 32 interrupts at once.
//!
//! An interrupt is in one [`Place`]: idle, in the queue of one vCPU, or in a list register (LR) of one vCPU. Queues
//! are lists for each of the 32 priority levels a list register can hold, so queueing and choosing are O(1).
//!
//! Pending is what memory says ([`State::PENDING`] and `LINE`) or what the LR says. Bits move into the LR when
//! it is filled and back when the interrupt is taken out. A change to an interrupt in a LR only marks that register in
//! `revisit`; the vCPU itself reconciles it at its next flush, because only its pCPU can touch the register.
//!
//! Invariants: queued => enabled, candidate, not active; a queue that is not empty while the distributor forwards =>
//! the vCPU's work flag is set; `PHYS_ACTIVE` => `ARRIVED`, or in a LR.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bitflags::bitflags;

use super::lr::Lr;
use super::{HAS_V3, KickSet, MAX_VCPUS, VcpuMask, Version, WorkFlags};
use crate::addr::IntId;
use crate::errno::Errno;
use crate::fallible;
use crate::machine::PhysIrq;

const NO_NODE: u16 = u16::MAX;

bitflags! {
    /// The one-bit state of an interrupt.
    ///
    /// Bits that are looked at together lie within eight neighbours, which an Arm instruction can name at once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct State: u32 {
        /// Pended by an edge, by software, or by an SGI; ends with the acknowledge.
        const LATCHED = 1 << 0;
        /// The linked physical interrupt was taken and has not been given to the guest yet.
        const ARRIVED = 1 << 1;
        /// The line must be asked at the next flush.
        const HINT = 1 << 2;
        /// What moves into a LR with the interrupt.
        const PENDING = 7;

        /// Level of a line that is kept here.
        const LINE = 1 << 3;
        /// Edge-triggered; else level-sensitive.
        const EDGE = 1 << 4;
        /// The line is sampled again after every EOI.
        const RESAMPLE = 1 << 5;
        /// The physical interrupt is active: nobody has deactivated it yet.
        const PHYS_ACTIVE = 1 << 6;
        /// Active; for an interrupt in a LR the LR speaks.
        const ACTIVE = 1 << 7;

        const ENABLED = 1 << 8;
        /// To do when the LR is reconciled: forget its pending state, its active state, make it active.
        const DROP_PENDING = 1 << 9;
        const DROP_ACTIVE = 1 << 10;
        const MAKE_ACTIVE = 1 << 11;
        /// Made active by the guest's write to GICD_ISACTIVER, not by an acknowledge. Set by `set_soft_active` only.
        const SOFT_ACTIVE = 1 << 12;
        /// What makes an interrupt in a LR an unusual case.
        const DEFERRED = 0xf << 9;

        /// A physical interrupt is linked.
        const LINKED = 1 << 13;
        /// The line is asked from the caller, not kept.
        const ASKS = 1 << 14;
    }
}

impl State {
    /// Returns true if all of `on` and none of `off` is set.
    #[inline]
    pub const fn is(self, on: Self, off: Self) -> bool {
        self.bits() & (on.bits() | off.bits()) == on.bits()
    }

    /// Returns true if the interrupt is pending, or may be when its line is asked.
    #[inline]
    pub const fn is_candidate(self) -> bool {
        self.intersects(Self::PENDING) || self.is(Self::LINE, Self::EDGE)
    }

    /// Returns true if the interrupt is pending without doubt.
    #[inline]
    pub const fn is_sure(self) -> bool {
        self.intersects(Self::LATCHED)
            || self.is(Self::LINE, Self::EDGE)
            || self.contains(Self::ARRIVED.union(Self::EDGE))
    }
}

/// What is kept for 32 interrupts at once; each repeats the bit in [`State`].
#[derive(Clone, Default)]
pub(super) struct Bank {
    pub enabled: u32,
    pub soft_active: u32,
}

/// Where an interrupt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Idle,
    Queued,
    Lr(u8),
}

/// One interrupt.
#[derive(Clone)]
pub(super) struct Node {
    pub state: State,
    /// The number that the guest knows it by.
    pub int_id: IntId,
    /// The linked physical interrupt.
    pub hw: IntId,
    prev: u16,
    next: u16,
    /// GICD_IPRIORITYR, five bits implemented.
    pub priority: u8,
    /// GICD_ITARGETSR; of a GICv3, the vCPU that GICD_IROUTER names.
    pub targets: VcpuMask,
    /// Of an SGI: the senders pending in memory; `LATCHED` says whether any. With a GICv3, which has none, always the first.
    pub sources: u8,
    /// The vCPU in whose queue or LR it is.
    pub home: u8,
    /// The queue's level.
    level: u8,
    pub place: Place,
}

impl Node {
    /// As after reset.
    fn new(int_id: IntId, targets: VcpuMask, version: Version) -> Self {
        let state = match (int_id.raw() < 16, version) {
            (false, _) => State::empty(),
            (true, Version::V2) => State::ENABLED | State::EDGE,
            (true, Version::V3) => State::EDGE,
        };
        Self {
            state,
            int_id,
            hw: int_id,
            prev: NO_NODE,
            next: NO_NODE,
            priority: 0,
            targets,
            sources: 0,
            home: 0,
            level: 0,
            place: Place::Idle,
        }
    }

    #[inline]
    pub fn is_sgi(&self) -> bool {
        self.int_id.raw() < 16
    }

    /// Returns true for an SGI or PPI.
    #[inline]
    pub fn is_private(&self) -> bool {
        self.int_id.raw() < 32
    }

    #[inline]
    pub fn is_in_lr(&self) -> bool {
        matches!(self.place, Place::Lr(_))
    }

    /// Returns whether the interrupt is pending and active in its LR, which says `lr`, with what is to do about it done.
    pub fn state_in_lr(&self, lr: Lr) -> (bool, bool) {
        (
            lr.is_pending() && !self.state.contains(State::DROP_PENDING),
            (lr.is_active() && !self.state.contains(State::DROP_ACTIVE))
                || self.state.contains(State::MAKE_ACTIVE),
        )
    }

    /// Deactivates the physical interrupt if the virtual one no longer stands for it.
    pub fn settle_physical<P: PhysIrq + ?Sized>(&mut self, phys: &mut P) {
        if self.state.is(State::PHYS_ACTIVE, State::ARRIVED) && !self.is_in_lr() {
            self.state.remove(State::PHYS_ACTIVE);
            phys.deactivate(self.hw);
        }
    }

    /// A linked SPI that is masked gives its physical interrupt back: an edge stays pending in memory, a level speaks
    /// for itself when the guest unmasks it. (PPIs stay active: the hypervisor does not mask them on the pCPU.)
    pub fn give_back_masked<P: PhysIrq + ?Sized>(&mut self, phys: &mut P) {
        if self.state.is(State::ARRIVED, State::ENABLED) && !self.is_private() && !self.is_in_lr() {
            self.state.remove(State::ARRIVED);
            if self.state.contains(State::EDGE) {
                self.state.insert(State::LATCHED);
            }
            self.settle_physical(phys);
        }
    }

    /// Takes what is pending, really or perhaps, out of memory; of an SGI, one sender. Returns the value for a LR.
    #[inline]
    pub fn take_pending(&mut self) -> Lr {
        let lr = Lr::new(self.int_id, self.priority >> 3).with_pending();
        if self.is_sgi() {
            let lr = lr.with_source(self.sources.trailing_zeros() as u8);
            self.sources &= self.sources.wrapping_sub(1);
            if self.sources != 0 {
                return lr.with_eoi();
            }
            self.state.remove(State::LATCHED);
            return lr;
        }
        self.state.remove(State::PENDING);
        if self.state.contains(State::PHYS_ACTIVE) {
            lr.with_hw(self.hw)
        } else if self.state.is(State::RESAMPLE, State::EDGE) {
            lr.with_eoi()
        } else {
            lr
        }
    }

    /// Returns the vCPU that the interrupt is for; [`MAX_VCPUS`] for none.
    #[inline]
    pub fn target(&self) -> usize {
        self.targets.trailing_zeros() as usize
    }
}

/// What waits for one vCPU.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    /// The first of a circular list for each priority level.
    heads: [u16; 32],
    /// The levels whose list is not empty, as a mask.
    pub levels: u32,
    /// The LRs to reconcile.
    pub revisit: u32,
}

pub(super) struct Interrupts {
    pub nodes: Vec<Node>,
    pub banks: Vec<Bank>,
    pub waiting: [Waiting; MAX_VCPUS],
    pub work: Arc<WorkFlags>,
    /// GICD_CTLR.Enable.
    pub forwarding: bool,
    /// Number of `soft_active` bits.
    pub soft_active_count: u32,
    /// The PPIs that have physical interrupts, as a mask.
    pub linked_ppis: u32,
    pub vcpus: usize,
    version: Version,
    /// Difference between the index of an SPI and its number.
    spi_offset: usize,
}

impl Interrupts {
    pub fn new(version: Version, vcpus: usize, spi_banks: usize) -> Result<Self, Errno> {
        let mut nodes = Vec::new();
        nodes
            .try_reserve_exact((vcpus + spi_banks) * 32)
            .map_err(|_| Errno::NoMem)?;
        let mut banks = Vec::new();
        banks
            .try_reserve_exact(vcpus + spi_banks)
            .map_err(|_| Errno::NoMem)?;
        banks.resize(vcpus + spi_banks, Bank::default());
        let private = (0..vcpus).flat_map(|vcpu| {
            (0..32).map(move |raw| Node::new(IntId::new(raw), 1 << vcpu, version))
        });
        let spis =
            (32..32 + spi_banks as u16 * 32).map(|raw| Node::new(IntId::new(raw), 1, version));
        nodes.extend(private.chain(spis));
        let sgis = if version == Version::V2 { 0xffff } else { 0 };
        for bank in &mut banks[..vcpus] {
            bank.enabled = sgis;
        }
        Ok(Self {
            nodes,
            banks,
            waiting: [Waiting {
                heads: [NO_NODE; 32],
                levels: 0,
                revisit: 0,
            }; MAX_VCPUS],
            work: fallible::arc(WorkFlags::default()).map_err(|_| Errno::NoMem)?,
            forwarding: false,
            soft_active_count: 0,
            linked_ppis: 0,
            vcpus,
            version,
            spi_offset: (vcpus - 1) * 32,
        })
    }

    /// Returns the number of banks of SPIs.
    pub fn spi_banks(&self) -> usize {
        self.banks.len() - self.vcpus
    }

    /// Returns whether the guest has a GICv3.
    #[inline]
    pub fn is_v3(&self) -> bool {
        HAS_V3 && self.version == Version::V3
    }

    /// Returns the index of an interrupt as `vcpu` names it, or `None` if there is none.
    #[inline]
    pub fn index(&self, vcpu: usize, irq: IntId) -> Option<usize> {
        let raw = irq.index();
        if vcpu >= self.vcpus {
            return None;
        }
        let index = if raw < 32 {
            vcpu << 5 | raw
        } else {
            self.spi_offset + raw
        };
        (index < self.nodes.len()).then_some(index)
    }

    /// Brings the interrupt to the place its state asks for. Returns the vCPU that has something to do now.
    #[inline]
    pub fn evaluate(&mut self, index: usize) -> KickSet {
        let node = &self.nodes[index];
        if let Place::Lr(n) = node.place {
            return self.revisit(usize::from(node.home), n);
        }
        self.evaluate_in_memory(index)
    }

    /// Has the vCPU look at its LR `n`.
    #[inline]
    pub fn revisit(&mut self, vcpu: usize, n: u8) -> KickSet {
        self.waiting[vcpu & (MAX_VCPUS - 1)].revisit |= 1 << (n & 31);
        self.notify(vcpu)
    }

    /// The same for an interrupt that is not in a LR.
    #[inline(never)]
    fn evaluate_in_memory(&mut self, index: usize) -> KickSet {
        let node = &self.nodes[index];
        let is_wanted = node.state.is(State::ENABLED, State::ACTIVE)
            && node.state.is_candidate()
            && node.targets != 0;
        let home = node.target();
        let level = node.priority >> 3;
        if node.place == Place::Queued {
            if is_wanted && usize::from(node.home) == home && node.level == level {
                return KickSet::NONE;
            }
            self.unlink(index);
        }
        if !is_wanted {
            return KickSet::NONE;
        }
        self.enqueue(index, home, level);
        if self.forwarding {
            self.notify(home)
        } else {
            KickSet::NONE
        }
    }

    /// Tells the vCPU to flush.
    #[inline]
    pub fn notify(&self, vcpu: usize) -> KickSet {
        self.work.set(vcpu);
        KickSet::one(vcpu)
    }

    /// Puts an idle interrupt behind those of its level.
    #[inline]
    fn enqueue(&mut self, index: usize, home: usize, level: u8) {
        let waiting = &mut self.waiting[home & (MAX_VCPUS - 1)];
        let head = &mut waiting.heads[usize::from(level & 31)];
        let id = index as u16;
        let (prev, next) = if *head == NO_NODE {
            *head = id;
            waiting.levels |= 1 << (level & 31);
            (id, id)
        } else {
            let head = *head;
            let tail = core::mem::replace(&mut self.nodes[usize::from(head)].prev, id);
            self.nodes[usize::from(tail)].next = id;
            (tail, head)
        };
        let node = &mut self.nodes[index];
        node.prev = prev;
        node.next = next;
        node.home = home as u8;
        node.level = level;
        node.place = Place::Queued;
    }

    /// Makes a queued interrupt the first of its level: it had its turn already and was displaced.
    pub fn move_to_front(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.place == Place::Queued {
            let (home, level) = (usize::from(node.home), usize::from(node.level & 31));
            self.waiting[home & (MAX_VCPUS - 1)].heads[level] = index as u16;
        }
    }

    /// Takes a queued interrupt out.
    #[inline]
    pub fn unlink(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.place = Place::Idle;
        let (prev, next, level, home) = (node.prev, node.next, node.level & 31, node.home);
        let waiting = &mut self.waiting[usize::from(home) & (MAX_VCPUS - 1)];
        let head = &mut waiting.heads[usize::from(level)];
        if usize::from(next) == index {
            *head = NO_NODE;
            waiting.levels &= !(1 << level);
        } else {
            if usize::from(*head) == index {
                *head = next;
            }
            self.nodes[usize::from(prev)].next = next;
            self.nodes[usize::from(next)].prev = prev;
        }
    }

    /// Returns the interrupt that is next for the vCPU.
    #[inline]
    pub fn first(&self, vcpu: usize) -> Option<usize> {
        let waiting = &self.waiting[vcpu & (MAX_VCPUS - 1)];
        (waiting.levels != 0)
            .then(|| usize::from(waiting.heads[waiting.levels.trailing_zeros() as usize & 31]))
    }

    /// Returns the priority levels that have waiting interrupts, as a mask.
    #[inline]
    pub fn waiting_levels(&self, vcpu: usize) -> u32 {
        self.waiting[vcpu & (MAX_VCPUS - 1)].levels
    }

    /// Notes whether the guest made the interrupt active.
    pub fn set_soft_active(&mut self, index: usize, on: bool) {
        let node = &mut self.nodes[index];
        if node.state.contains(State::SOFT_ACTIVE) == on {
            return;
        }
        node.state.toggle(State::SOFT_ACTIVE);
        self.banks[index / 32].soft_active ^= 1 << (index % 32);
        if on {
            self.soft_active_count += 1;
        } else {
            self.soft_active_count -= 1;
        }
    }

    /// The levels that have waiting interrupts, with the first of each.
    #[cfg(test)]
    pub fn lists(&self, vcpu: usize) -> impl Iterator<Item = (u8, usize)> {
        let waiting = &self.waiting[vcpu];
        (0..32u8)
            .filter(move |level| waiting.levels & (1 << level) != 0)
            .map(|l| (l, usize::from(waiting.heads[usize::from(l)])))
    }

    #[cfg(test)]
    pub fn next_of(&self, index: usize) -> usize {
        usize::from(self.nodes[index].next)
    }
}
