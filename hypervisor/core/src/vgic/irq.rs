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
use alloc::vec;
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

/// One-bit state of 32 interrupts.
#[derive(Clone, Default)]
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
}

impl Bank {
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
    /// GICD_IPRIORITYR, five bits implemented.
    pub priority: u8,
    /// GICD_ITARGETSR.
    pub targets: u8,
    /// The vCPU in whose queue or LR it is.
    pub home: u8,
    /// The queue's level.
    level: u8,
    pub place: Place,
    prev: u16,
    next: u16,
    /// The linked physical interrupt.
    pub hw: u16,
}

/// What waits for one vCPU: a circular list for each priority level.
#[derive(Clone)]
struct Queue {
    heads: [u16; 32],
}

pub(super) struct Interrupts {
    pub banks: Vec<Bank>,
    pub nodes: Vec<Node>,
    /// For each vCPU and SGI the senders pending in memory; `latched` says whether any.
    pub sources: Vec<[u8; 16]>,
    queues: Vec<Queue>,
    /// For each vCPU the levels of its queue that are not empty, as a mask.
    levels: [u32; MAX_VCPUS],
    /// For each vCPU the LRs to reconcile.
    pub revisit: [u32; MAX_VCPUS],
    pub work: Arc<WorkFlags>,
    /// GICD_CTLR.Enable.
    pub forwarding: bool,
    /// Number of `soft_active` bits.
    pub soft_active_count: u32,
    pub vcpus: usize,
}

impl Interrupts {
    pub fn new(vcpus: usize, spi_banks: usize) -> Self {
        let banks = vcpus + spi_banks;
        let mut interrupts = Self {
            banks: vec![Bank::default(); banks],
            nodes: vec![
                Node {
                    priority: 0,
                    targets: 1,
                    home: 0,
                    level: 0,
                    place: Place::Idle,
                    prev: NO_NODE,
                    next: NO_NODE,
                    hw: NO_HW
                };
                banks * 32
            ],
            sources: vec![[0; 16]; vcpus],
            queues: vec![
                Queue {
                    heads: [NO_NODE; 32]
                };
                vcpus
            ],
            levels: [0; MAX_VCPUS],
            revisit: [0; MAX_VCPUS],
            work: Arc::new(WorkFlags::default()),
            forwarding: false,
            soft_active_count: 0,
            vcpus,
        };
        for vcpu in 0..vcpus {
            interrupts.banks[vcpu].enabled = 0xffff;
            interrupts.banks[vcpu].edge = 0xffff;
            for node in &mut interrupts.nodes[vcpu * 32..vcpu * 32 + 32] {
                node.targets = 1 << vcpu;
            }
        }
        interrupts
    }

    /// Returns the index of an interrupt as `vcpu` names it, or `None` if there is none.
    pub fn index(&self, vcpu: usize, irq: IntId) -> Option<usize> {
        let raw = irq.index();
        if vcpu >= self.vcpus {
            None
        } else if raw < 32 {
            Some(vcpu * 32 + raw)
        } else {
            let index = (self.vcpus - 1) * 32 + raw;
            (index < self.nodes.len()).then_some(index)
        }
    }

    /// Returns the interrupt's number.
    pub fn int_id(&self, index: usize) -> IntId {
        let raw = if self.is_private(index) {
            index % 32
        } else {
            index - (self.vcpus - 1) * 32
        };
        IntId::new(raw as u16)
    }

    /// Returns true for an SGI or PPI.
    pub fn is_private(&self, index: usize) -> bool {
        index < self.vcpus * 32
    }

    /// Returns true for an SGI.
    pub fn is_sgi(&self, index: usize) -> bool {
        self.is_private(index) && index % 32 < 16
    }

    /// Brings the interrupt to the place its state asks for. Returns the vCPU that has something to do now.
    #[inline]
    pub fn evaluate(&mut self, index: usize) -> KickSet {
        let node = &self.nodes[index];
        if let Place::Lr(n) = node.place {
            let home = usize::from(node.home);
            self.revisit[home & (MAX_VCPUS - 1)] |= 1 << (n & 31);
            return self.notify(home);
        }
        self.evaluate_in_memory(index)
    }

    /// The same for an interrupt that is not in a LR.
    fn evaluate_in_memory(&mut self, index: usize) -> KickSet {
        let bank = &self.banks[index / 32];
        let node = &self.nodes[index];
        let wanted = bank.candidates() & bank.enabled & !bank.active & (1 << (index % 32)) != 0;
        let is_queued = node.place == Place::Queued;
        if !wanted || node.targets == 0 {
            if is_queued {
                self.unlink(index);
            }
            return KickSet::NONE;
        }
        let home = node.targets.trailing_zeros() as u8;
        let level = node.priority >> 3;
        if is_queued {
            if node.home == home && node.level == level {
                return KickSet::NONE;
            }
            self.unlink(index);
        }
        self.enqueue(index, home, level);
        if self.forwarding {
            self.notify(usize::from(home))
        } else {
            KickSet::NONE
        }
    }

    /// Tells the vCPU to flush.
    pub fn notify(&self, vcpu: usize) -> KickSet {
        self.work.set(vcpu);
        KickSet::one(vcpu)
    }

    /// Puts an idle interrupt behind those of its level.
    fn enqueue(&mut self, index: usize, home: u8, level: u8) {
        let queue = &mut self.queues[usize::from(home)];
        let level = level & 31;
        let head = queue.heads[usize::from(level)];
        let id = index as u16;
        let (prev, next) = if head == NO_NODE {
            queue.heads[usize::from(level)] = id;
            self.levels[usize::from(home) & (MAX_VCPUS - 1)] |= 1 << level;
            (id, id)
        } else {
            let tail = self.nodes[usize::from(head)].prev;
            self.nodes[usize::from(head)].prev = id;
            self.nodes[usize::from(tail)].next = id;
            (tail, head)
        };
        let node = &mut self.nodes[index];
        node.prev = prev;
        node.next = next;
        node.home = home;
        node.level = level;
        node.place = Place::Queued;
    }

    /// Makes a queued interrupt the first of its level: it had its turn already and was displaced.
    pub fn move_to_front(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.place == Place::Queued {
            self.queues[usize::from(node.home)].heads[usize::from(node.level & 31)] = index as u16;
        }
    }

    /// Takes a queued interrupt out.
    pub fn unlink(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.place = Place::Idle;
        let (prev, next, level, home) = (node.prev, node.next, node.level & 31, node.home);
        let queue = &mut self.queues[usize::from(home)];
        if usize::from(next) == index {
            queue.heads[usize::from(level)] = NO_NODE;
            self.levels[usize::from(home) & (MAX_VCPUS - 1)] &= !(1 << level);
        } else {
            if usize::from(queue.heads[usize::from(level)]) == index {
                queue.heads[usize::from(level)] = next;
            }
            self.nodes[usize::from(prev)].next = next;
            self.nodes[usize::from(next)].prev = prev;
        }
    }

    /// Returns the interrupt that is next for the vCPU.
    pub fn first(&self, vcpu: usize) -> Option<usize> {
        let levels = self.waiting_levels(vcpu);
        if levels == 0 {
            return None;
        }
        Some(usize::from(
            self.queues[vcpu].heads[levels.trailing_zeros() as usize & 31],
        ))
    }

    /// Returns the priority levels that have waiting interrupts, as a mask.
    #[inline]
    pub fn waiting_levels(&self, vcpu: usize) -> u32 {
        self.levels[vcpu & (MAX_VCPUS - 1)]
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
        let queue = &self.queues[vcpu];
        (0..32u8)
            .filter(move |level| self.levels[vcpu] & (1 << level) != 0)
            .map(|l| (l, usize::from(queue.heads[usize::from(l)])))
    }

    #[cfg(test)]
    pub fn next_of(&self, index: usize) -> usize {
        usize::from(self.nodes[index].next)
    }
}
