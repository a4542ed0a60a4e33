//! Linked lists over tables of links, and the run queue of a pCPU.
//!
//! A member's number is its index in the table, so adding and removing touches its neighbours only and never allocates.

use alloc::vec::Vec;

use super::{CLASSES, Class};
use crate::errno::Errno;
use crate::sched::CpuSet;

/// No member.
const NONE: u16 = u16::MAX;

/// The links of all members that may be in one list at a time.
#[derive(Default)]
pub(super) struct Links {
    links: Vec<Link>,
    /// Members touched or looked at, for the tests of cost.
    #[cfg(test)]
    pub(super) steps: core::cell::Cell<u64>,
}

#[derive(Clone, Copy)]
struct Link {
    previous: u16,
    next: u16,
}

/// A list: its ends.
#[derive(Clone, Copy)]
pub(super) struct List {
    first: u16,
    last: u16,
}

impl List {
    /// No member.
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };

    /// Returns the first member.
    pub(super) fn first(&self) -> Option<u16> {
        (self.first != NONE).then_some(self.first)
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

impl Links {
    /// Makes room for the member with this number.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a number that is too large.
    pub(super) fn grow(&mut self, member: usize) -> Result<(), Errno> {
        if member >= usize::from(NONE) {
            return Err(Errno::Inval);
        }
        let missing = (member + 1).saturating_sub(self.links.len());
        self.links.try_reserve(missing).map_err(|_| Errno::NoMem)?;
        let alone = Link {
            previous: NONE,
            next: NONE,
        };
        self.links.resize(self.links.len() + missing, alone);
        Ok(())
    }

    /// Counts a step, in tests.
    pub(super) fn step(&self) {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
    }

    /// Returns the member behind `member` in its list.
    pub(super) fn next(&self, member: u16) -> Option<u16> {
        self.step();
        let next = self.links.get(usize::from(member))?.next;
        (next != NONE).then_some(next)
    }

    fn set(&mut self, member: u16, change: impl FnOnce(&mut Link)) {
        self.step();
        if let Some(link) = self.links.get_mut(usize::from(member)) {
            change(link);
        }
    }

    /// Adds a member that is in no list.
    pub(super) fn push(&mut self, list: &mut List, member: u16) {
        let last = list.last;
        self.set(member, |link| {
            link.previous = last;
            link.next = NONE;
        });
        match last {
            NONE => list.first = member,
            last => self.set(last, |link| link.next = member),
        }
        list.last = member;
    }

    /// Removes a member.
    pub(super) fn remove(&mut self, list: &mut List, member: u16) {
        let Some(&Link { previous, next }) = self.links.get(usize::from(member)) else {
            return;
        };
        match previous {
            NONE => list.first = next,
            previous => self.set(previous, |link| link.next = next),
        }
        match next {
            NONE => list.last = previous,
            next => self.set(next, |link| link.previous = previous),
        }
    }
}

/// Whether other pCPUs may take a unit out of a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Some may.
    Movable,
    /// Its affinity is the one pCPU, so nobody has to look at it.
    Pinned,
}

/// The units of one class that wait for a pCPU, in their order, which goes by [`super::Unit::order`] across the two lists.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    lists: [List; 2],
    /// A superset of the pCPUs where the movable ones may run.
    pub(super) reach: CpuSet,
}

impl Waiting {
    pub(super) fn list(&self, kind: Kind) -> &List {
        &self.lists[kind as usize]
    }

    pub(super) fn list_mut(&mut self, kind: Kind) -> &mut List {
        &mut self.lists[kind as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lists.iter().all(List::is_empty)
    }
}

/// The units that wait for a pCPU.
#[derive(Clone, Copy)]
pub(super) struct RunQueue {
    pub(super) classes: [Waiting; CLASSES.len()],
    pub(super) count: u32,
}

impl RunQueue {
    /// Nobody waits.
    pub(super) const EMPTY: Self = Self {
        classes: [Waiting {
            lists: [List::EMPTY; 2],
            reach: CpuSet::EMPTY,
        }; CLASSES.len()],
        count: 0,
    };

    pub(super) fn class(&self, class: Class) -> &Waiting {
        &self.classes[class as usize]
    }

    pub(super) fn class_mut(&mut self, class: Class) -> &mut Waiting {
        &mut self.classes[class as usize]
    }
}
