//! Queues of things by rank, several over one table.
//!
//! Each is a treap: a search tree by rank that is also a heap by random priorities, so its depth is logarithmic whatever
//! the ranks are. Each subtree knows on which pCPUs its members may run and ran last, which finds the first that suits a
//! pCPU without looking at those that do not. The links are indexes in a table that grows before it is needed; inserting
//! and removing never allocate. Nothing is recursive.

use alloc::vec::Vec;

use crate::addr::CpuId;
use crate::errno::Errno;
use crate::sched::CpuSet;

/// No node.
const NONE: u16 = u16::MAX;

/// The nodes of all queues; a member is in one of them at a time. A member's number is its index.
#[derive(Default)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// The state of the generator of priorities (xorshift32).
    random: u32,
    /// Counts the nodes looked at, for the tests of cost.
    #[cfg(test)]
    pub(super) visits: core::cell::Cell<u64>,
}

/// A queue: the root of its tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    root: u16,
    count: u16,
}

#[derive(Clone, Copy)]
struct Node {
    parent: u16,
    /// Those before, and those behind.
    children: [u16; 2],
    priority: u32,
    key: i64,
    own: Facts,
    /// Of this node and all below.
    all: Facts,
}

/// Where members may run, and where they ran last.
#[derive(Clone, Copy, Default)]
struct Facts {
    may: CpuSet,
    last: CpuSet,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// May run on one of these pCPUs.
    May(CpuSet),
    /// Ran on this pCPU last, and may run there.
    Last(CpuId),
}

impl Facts {
    fn or(&self, other: &Self) -> Self {
        Self {
            may: self.may.or(&other.may),
            last: self.last.or(&other.last),
        }
    }

    fn suit(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::May(cpus) => !self.may.and(cpus).is_empty(),
            Wanted::Last(cpu) => self.last.contains(*cpu),
        }
    }
}

impl Queue {
    /// An empty queue.
    pub(super) const EMPTY: Self = Self {
        root: NONE,
        count: 0,
    };

    /// Returns how many members there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.count)
    }
}

impl Nodes {
    /// Makes room for the member with this number.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a number that is too large.
    pub(super) fn grow(&mut self, member: usize) -> Result<(), Errno> {
        if member >= usize::from(NONE) {
            return Err(Errno::Inval);
        }
        let missing = (member + 1).saturating_sub(self.nodes.len());
        self.nodes.try_reserve(missing).map_err(|_| Errno::NoMem)?;
        let node = Node {
            parent: NONE,
            children: [NONE; 2],
            priority: 0,
            key: 0,
            own: Facts::default(),
            all: Facts::default(),
        };
        self.nodes.resize(self.nodes.len() + missing, node);
        Ok(())
    }

    /// Adds a member. Larger keys come first, of equal ones the earlier; keys are compared by their difference, so they may wrap.
    pub(super) fn insert(
        &mut self,
        queue: &mut Queue,
        member: u16,
        key: i64,
        may: CpuSet,
        last: CpuId,
    ) {
        let mut facts = Facts {
            may,
            last: CpuSet::EMPTY,
        };
        if may.contains(last) {
            facts.last.insert(last);
        }
        // Down to the place where it is a leaf.
        let (mut parent, mut side, mut at) = (NONE, 0, queue.root);
        while at != NONE {
            self.visit();
            let node = &mut self.nodes[usize::from(at)];
            node.all = node.all.or(&facts);
            // Behind its equals.
            side = usize::from(key.wrapping_sub(node.key) <= 0);
            parent = at;
            at = node.children[side];
        }
        let priority = self.next_random();
        self.nodes[usize::from(member)] = Node {
            parent,
            children: [NONE; 2],
            priority,
            key,
            own: facts,
            all: facts,
        };
        self.set_child(queue, parent, side, member);
        // Up to where the priorities are in order.
        while let Some(above) = self.parent(member)
            && self.nodes[usize::from(above)].priority < priority
        {
            self.rotate_up(queue, member);
        }
        queue.count += 1;
    }

    /// Takes a member out of its queue.
    pub(super) fn remove(&mut self, queue: &mut Queue, member: u16) {
        // Down until it is a leaf.
        loop {
            let [before, behind] = self.nodes[usize::from(member)].children;
            let child = match (before, behind) {
                (NONE, NONE) => break,
                (NONE, only) | (only, NONE) => only,
                (a, b) => {
                    if self.nodes[usize::from(a)].priority > self.nodes[usize::from(b)].priority {
                        a
                    } else {
                        b
                    }
                }
            };
            self.rotate_up(queue, child);
        }
        let mut above = self.nodes[usize::from(member)].parent;
        let side = self.side(above, member);
        self.set_child(queue, above, side, NONE);
        while above != NONE {
            self.update(above);
            above = self.nodes[usize::from(above)].parent;
        }
        queue.count -= 1;
    }

    /// Returns the first member.
    pub(super) fn first(&self, queue: &Queue) -> Option<u16> {
        let mut at = (queue.root != NONE).then_some(queue.root)?;
        loop {
            self.visit();
            match self.nodes[usize::from(at)].children[0] {
                NONE => return Some(at),
                before => at = before,
            }
        }
    }

    /// Returns the first member that is as wanted.
    pub(super) fn first_of(&self, queue: &Queue, wanted: Wanted) -> Option<u16> {
        let mut at = queue.root;
        let suits = |at: u16| at != NONE && self.nodes[usize::from(at)].all.suit(&wanted);
        if !suits(at) {
            return None;
        }
        // One of this node and those below it suits.
        loop {
            self.visit();
            let node = &self.nodes[usize::from(at)];
            if suits(node.children[0]) {
                at = node.children[0];
            } else if node.own.suit(&wanted) {
                return Some(at);
            } else {
                at = node.children[1];
            }
        }
    }

    /// Returns the member behind this one.
    pub(super) fn next(&self, member: u16) -> Option<u16> {
        let mut behind = self.nodes[usize::from(member)].children[1];
        if behind != NONE {
            while self.nodes[usize::from(behind)].children[0] != NONE {
                behind = self.nodes[usize::from(behind)].children[0];
            }
            return Some(behind);
        }
        let mut at = member;
        while let Some(above) = self.parent(at) {
            if self.nodes[usize::from(above)].children[0] == at {
                return Some(above);
            }
            at = above;
        }
        None
    }

    fn parent(&self, member: u16) -> Option<u16> {
        let parent = self.nodes[usize::from(member)].parent;
        (parent != NONE).then_some(parent)
    }

    /// Returns on which side of `parent` a node is; 0 if there is no parent.
    fn side(&self, parent: u16, node: u16) -> usize {
        usize::from(parent != NONE && self.nodes[usize::from(parent)].children[1] == node)
    }

    fn set_child(&mut self, queue: &mut Queue, parent: u16, side: usize, child: u16) {
        if parent == NONE {
            queue.root = child;
        } else {
            self.nodes[usize::from(parent)].children[side] = child;
        }
        if child != NONE {
            self.nodes[usize::from(child)].parent = parent;
        }
    }

    /// Exchanges a node, which is no root, with its parent.
    fn rotate_up(&mut self, queue: &mut Queue, node: u16) {
        self.visit();
        let parent = self.nodes[usize::from(node)].parent;
        let above = self.nodes[usize::from(parent)].parent;
        let side = self.side(parent, node);
        let side_above = self.side(above, parent);
        let inner = self.nodes[usize::from(node)].children[1 - side];
        self.set_child(queue, parent, side, inner);
        self.set_child(queue, node, 1 - side, parent);
        self.set_child(queue, above, side_above, node);
        self.update(parent);
        self.update(node);
    }

    fn update(&mut self, at: u16) {
        let node = &self.nodes[usize::from(at)];
        let mut all = node.own;
        for child in node.children {
            if child != NONE {
                all = all.or(&self.nodes[usize::from(child)].all);
            }
        }
        self.nodes[usize::from(at)].all = all;
    }

    fn next_random(&mut self) -> u32 {
        // Marsaglia's shifts; 0 is no state.
        let mut x = self.random.max(1);
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random = x;
        x
    }

    #[inline(always)]
    fn visit(&self) {
        #[cfg(test)]
        self.visits.set(self.visits.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    impl Nodes {
        /// Checks the order, the links and what subtrees know; returns the depth.
        fn check(&self, at: u16, parent: u16, members: &mut Vec<u16>) -> usize {
            if at == NONE {
                return 0;
            }
            let node = &self.nodes[usize::from(at)];
            assert_eq!(node.parent, parent);
            let before = self.check(node.children[0], at, members);
            members.push(at);
            let behind = self.check(node.children[1], at, members);
            let mut all = node.own;
            for child in node.children.iter().filter(|child| **child != NONE) {
                let child = &self.nodes[usize::from(*child)];
                assert!(child.priority <= node.priority);
                all = all.or(&child.all);
            }
            assert_eq!((all.may, all.last), (node.all.may, node.all.last));
            1 + before.max(behind)
        }
    }

    /// Key, time of insertion, member, where it may run and ran last.
    type Entry = (i64, u64, u16, CpuSet, CpuId);

    #[test]
    fn agrees_with_a_sorted_list() {
        let mut nodes = Nodes::default();
        nodes.grow(299).unwrap();
        let mut queues = [Queue::EMPTY; 2];
        // In order.
        let mut model: [Vec<Entry>; 2] = Default::default();
        let mut state = 7u64;
        let mut random = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for step in 0..6000u64 {
            let member = random(300) as u16;
            let found = (0..2).find(|&q| model[q].iter().any(|entry| entry.2 == member));
            if let Some(q) = found {
                nodes.remove(&mut queues[q], member);
                model[q].retain(|entry| entry.2 != member);
            } else {
                let q = random(2) as usize;
                // Keys that wrap, and many that are equal.
                let key = i64::MAX.wrapping_add(random(40) as i64 - 20);
                let mut may = CpuSet::EMPTY;
                for _ in 0..random(3) {
                    may.insert(CpuId::new(random(128) as u16));
                }
                let last = may
                    .first()
                    .filter(|_| random(2) == 0)
                    .unwrap_or(CpuId::new(5));
                nodes.insert(&mut queues[q], member, key, may, last);
                model[q].push((key, step, member, may, last));
                model[q].sort_by_key(|e| (i64::MAX.wrapping_sub(e.0), e.1));
            }
            let q = random(2) as usize;
            let mut members = Vec::new();
            let depth = nodes.check(queues[q].root, NONE, &mut members);
            assert!(
                members.iter().eq(model[q].iter().map(|e| &e.2)),
                "step {step}"
            );
            assert_eq!(queues[q].len(), members.len());
            assert!(depth <= 24, "depth {depth} for {}", members.len());
            assert_eq!(nodes.first(&queues[q]), members.first().copied());
            for pair in members.windows(2) {
                assert_eq!(nodes.next(pair[0]), Some(pair[1]));
            }
            let cpu = CpuId::new(random(128) as u16);
            let expected =
                |want: &dyn Fn(&Entry) -> bool| model[q].iter().find(|e| want(e)).map(|e| e.2);
            assert_eq!(
                nodes.first_of(&queues[q], Wanted::May(CpuSet::single(cpu))),
                expected(&|e| e.3.contains(cpu))
            );
            assert_eq!(
                nodes.first_of(&queues[q], Wanted::Last(cpu)),
                expected(&|e| e.3.contains(cpu) && e.4 == cpu)
            );
        }
    }

    #[test]
    fn ordered_insertion_stays_shallow() {
        let mut nodes = Nodes::default();
        nodes.grow(4095).unwrap();
        let mut queue = Queue::EMPTY;
        for member in 0..4096 {
            nodes.insert(
                &mut queue,
                member,
                i64::from(member),
                CpuSet::ALL,
                CpuId::new(0),
            );
        }
        let depth = nodes.check(queue.root, NONE, &mut Vec::new());
        assert!(depth <= 40, "depth {depth}");
        for member in 0..4096 {
            nodes.remove(&mut queue, member);
        }
        assert_eq!((queue.root, queue.len()), (NONE, 0));
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(Nodes::default().grow(65535), Err(Errno::Inval));
    }
}
