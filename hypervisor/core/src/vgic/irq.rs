//! The interrupt state machine: what is enabled, pending, active, where it is, and which vCPU it waits for.
//!
//! Interrupts lie in banks of 32: bank `v` holds the SGIs and PPIs of vCPU `v`, the SPI banks follow. One-bit state is
//! a word for each bank, so that a guest's register access is a word operation. An *index* is `bank * 32 + bit`.
//!
//! An interrupt is in one [`Place`]: idle, in the queue of one vCPU, or in a list register (LR) of one vCPU. Queues
//! are lists for each of the 32 priority levels a list register can hold, so queueing and choosing are O(1).
//!
//! Pending is what memory says (`latched`, `arrived`, `hint`, `line`) or what the LR says. Bits move into the LR when
//! it is filled and back when the interrupt is taken out. A change to an interrupt in a LR only marks that register in
//! `revisit`; the vCPU itself reconciles it at its next flush, because only its pCPU can touch the register.
//!
//! Invariants: queued => enabled, candidate, not active; a queue that is not empty while the distributor forwards =>
//! the vCPU's work flag is set; `phys_active` => `arrived`, or in a LR.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{KickSet, MAX_VCPUS, WorkFlags};
use crate::addr::IntId;

/// No physical interrupt.
pub(super) const NO_HW: u16 = u16::MAX;
const NO_NODE: u16 = u16::MAX;

/// Sources of a pending state, as remembered for an interrupt in a LR.
pub(super) const FROM_LATCHED: u8 = 1;
pub(super) const FROM_ARRIVED: u8 = 2;
pub(super) const FROM_HINT: u8 = 4;

/// The state of 32 interrupts.
#[derive(Clone)]
pub(super) struct Bank {
    pub enabled: u32,
    /// Edge-triggered; else level-sensitive.
    pub edge: u32,
    /// Pended by an edge, by software, or by an SGI; ends with the acknowledge.
    pub latched: u32,
    /// The linked physical interrupt was taken and has not been given to the guest yet.
    pub arrived: u32,
    /// The line must be asked at the next flush.
    pub hint: u32,
    /// Level of a line that is kept here.
    pub line: u32,
    /// Active; for an interrupt in a LR the LR speaks.
    pub active: u32,
    /// Made active by the guest's write to GICD_ISACTIVER, not by an acknowledge.
    pub soft_active: u32,
    /// The line is asked from the caller, not kept.
    pub asks: u32,
    /// The line is sampled again after every EOI.
    pub resample: u32,
    /// A physical interrupt is linked.
    pub linked: u32,
    /// The physical interrupt is active: nobody has deactivated it yet.
    pub phys_active: u32,
    /// To do when the LR is reconciled: forget its pending state, its active state, make it active.
    pub drop_pending: u32,
    pub drop_active: u32,
    pub make_active: u32,
    pub nodes: [Node; 32],
}

impl Bank {
    /// As after reset, for interrupts `first` to `first + 31`.
    fn new(first: u16, targets: u8) -> Self {
        Self {
            enabled: 0,
            edge: 0,
            latched: 0,
            arrived: 0,
            hint: 0,
            line: 0,
            active: 0,
            soft_active: 0,
            asks: 0,
            resample: 0,
            linked: 0,
            phys_active: 0,
            drop_pending: 0,
            drop_active: 0,
            make_active: 0,
            nodes: core::array::from_fn(|bit| Node {
                int_id: IntId::new(first + bit as u16),
                hw: NO_HW,
                prev: NO_NODE,
                next: NO_NODE,
                priority: 0,
                targets,
                sources: 0,
                home: 0,
                level: 0,
                place: Place::Idle,
            }),
        }
    }

    /// Returns the node of the interrupt with this index, which is one of the bank's.
    #[inline]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index % 32]
    }

    /// The same to change it.
    #[inline]
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index % 32]
    }

    /// Interrupts in LRs about which more is to do than to give them what is pending.
    #[inline]
    pub fn deferred(&self) -> u32 {
        self.drop_pending | self.drop_active | self.make_active | self.soft_active
    }

    /// Interrupts that are pending, or may be when their line is asked.
    pub fn candidates(&self) -> u32 {
        self.latched | self.arrived | self.hint | (self.line & !self.edge)
    }

    /// Interrupts that are pending without doubt.
    pub fn sure(&self) -> u32 {
        self.latched | (self.line & !self.edge) | (self.arrived & self.edge)
    }
}

/// Where an interrupt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Idle,
    Queued,
    Lr(u8),
}

/// The rest of one interrupt's state.
#[derive(Clone)]
pub(super) struct Node {
    /// The number that the guest knows it by.
    pub int_id: IntId,
    /// The linked physical interrupt.
    pub hw: u16,
    prev: u16,
    next: u16,
    /// GICD_IPRIORITYR, five bits implemented.
    pub priority: u8,
    /// GICD_ITARGETSR.
    pub targets: u8,
    /// Of an SGI: the senders pending in memory; `latched` says whether any.
    pub sources: u8,
    /// The vCPU in whose queue or LR it is.
    pub home: u8,
    /// The queue's level.
    level: u8,
    pub place: Place,
}

impl Node {
    pub fn is_sgi(&self) -> bool {
        self.int_id.raw() < 16
    }

    /// Returns true for an SGI or PPI.
    pub fn is_private(&self) -> bool {
        self.int_id.raw() < 32
    }

    /// Returns the vCPU that the interrupt is for; 8 for none.
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
    pub banks: Vec<Bank>,
    pub waiting: [Waiting; MAX_VCPUS],
    pub work: Arc<WorkFlags>,
    /// GICD_CTLR.Enable.
    pub forwarding: bool,
    /// Number of `soft_active` bits.
    pub soft_active_count: u32,
    pub vcpus: usize,
    /// Difference between the index of an SPI and its number.
    spi_offset: usize,
}

impl Interrupts {
    pub fn new(vcpus: usize, spi_banks: usize) -> Self {
        let private = (0..vcpus).map(|vcpu| Bank {
            enabled: 0xffff,
            edge: 0xffff,
            ..Bank::new(0, 1 << vcpu)
        });
        let spis = (1..=spi_banks).map(|bank| Bank::new(bank as u16 * 32, 1));
        Self {
            banks: private.chain(spis).collect(),
            waiting: [Waiting {
                heads: [NO_NODE; 32],
                levels: 0,
                revisit: 0,
            }; MAX_VCPUS],
            work: Arc::new(WorkFlags::default()),
            forwarding: false,
            soft_active_count: 0,
            vcpus,
            spi_offset: (vcpus - 1) * 32,
        }
    }

    /// Returns the index of an interrupt as `vcpu` names it, or `None` if there is none.
    #[inline]
    pub fn index(&self, vcpu: usize, irq: IntId) -> Option<usize> {
        let raw = irq.index();
        if vcpu >= self.vcpus {
            None
        } else if raw < 32 {
            Some(vcpu << 5 | raw)
        } else {
            let index = self.spi_offset + raw;
            (index / 32 < self.banks.len()).then_some(index)
        }
    }

    /// Returns the interrupt's bank, and its bit there.
    #[inline]
    pub fn at(&mut self, index: usize) -> (&mut Bank, u32) {
        (&mut self.banks[index / 32], 1 << (index % 32))
    }

    #[inline]
    pub fn node(&self, index: usize) -> &Node {
        self.banks[index / 32].node(index)
    }

    #[inline]
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        self.banks[index / 32].node_mut(index)
    }

    /// Brings the interrupt to the place its state asks for. Returns the vCPU that has something to do now.
    #[inline]
    pub fn evaluate(&mut self, index: usize) -> KickSet {
        let node = self.node(index);
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
        let (bank, bit) = self.at(index);
        let wanted = bank.candidates() & bank.enabled & !bank.active & bit != 0;
        let node = bank.node(index);
        let home = node.target();
        let level = node.priority >> 3;
        let is_queued = node.place == Place::Queued;
        if !wanted || home >= MAX_VCPUS {
            if is_queued {
                self.unlink(index);
            }
            return KickSet::NONE;
        }
        if is_queued {
            if usize::from(node.home) == home && node.level == level {
                return KickSet::NONE;
            }
            self.unlink(index);
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
            let tail = core::mem::replace(&mut self.node_mut(usize::from(head)).prev, id);
            self.node_mut(usize::from(tail)).next = id;
            (tail, head)
        };
        let node = self.node_mut(index);
        node.prev = prev;
        node.next = next;
        node.home = home as u8;
        node.level = level;
        node.place = Place::Queued;
    }

    /// Makes a queued interrupt the first of its level: it had its turn already and was displaced.
    pub fn move_to_front(&mut self, index: usize) {
        let node = self.node(index);
        if node.place == Place::Queued {
            let (home, level) = (usize::from(node.home), usize::from(node.level & 31));
            self.waiting[home & (MAX_VCPUS - 1)].heads[level] = index as u16;
        }
    }

    /// Takes a queued interrupt out.
    #[inline]
    pub fn unlink(&mut self, index: usize) {
        let node = self.node_mut(index);
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
            self.node_mut(usize::from(prev)).next = next;
            self.node_mut(usize::from(next)).prev = prev;
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

    /// Notes how many interrupts of a bank the guest made active.
    pub fn set_soft_active(&mut self, bank: usize, bits: u32, on: bool) {
        let bank = &mut self.banks[bank];
        let before = bank.soft_active.count_ones();
        if on {
            bank.soft_active |= bits;
        } else {
            bank.soft_active &= !bits;
        }
        self.soft_active_count = self.soft_active_count + bank.soft_active.count_ones() - before;
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
        usize::from(self.node(index).next)
    }
}
