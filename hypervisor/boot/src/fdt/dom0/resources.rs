//! What a node of the host's tree uses: memory ranges translated to host addresses, and interrupts of the GIC.
//!
//! Rules: Devicetree Specification v0.4, 2.3.6 (`reg`), 2.3.8 (`ranges`), 2.4 (interrupts), and the arm,gic binding
//! (cells: 0 SPI or 1 PPI, number, flags). Every walk that a blob could make long takes from one work budget.

use core::cell::Cell;

use super::tree::{NodeIndex, Tree, cells};
use xenith_core::machine::Trigger;

/// Entries of `ranges` and `interrupt-map` that may be looked at for one tree: a real board needs some thousands.
const BUDGET: u32 = 1 << 20;
/// More than any interrupt specifier or unit address has.
const MAX_CELLS: usize = 8;
/// Longest chain of interrupt parents that is followed.
const MAX_HOPS: usize = 64;

/// A few 32-bit cells by value.
#[derive(Clone, Copy, Debug, Default)]
struct Cells {
    cells: [u32; MAX_CELLS],
    length: usize,
}

impl Cells {
    fn take(from: &mut impl Iterator<Item = u32>, length: usize) -> Option<Self> {
        let mut taken = Self {
            length,
            ..Self::default()
        };
        for slot in taken.cells.get_mut(..length)? {
            *slot = from.next()?;
        }
        Some(taken)
    }
}

/// An interrupt that reaches the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicInterrupt {
    /// Its number as the GIC counts: PPIs from 16, SPIs from 32. May be beyond what the GIC has.
    pub id: u32,
    /// How it signals; edge for the flags 1 and 2, level otherwise.
    pub trigger: Trigger,
}

impl GicInterrupt {
    /// Returns true for a private peripheral interrupt.
    pub fn is_ppi(self) -> bool {
        (16..32).contains(&self.id)
    }
}

/// Resolves addresses and interrupts against one tree.
#[derive(Debug)]
pub struct Resources<'t, 'a> {
    tree: &'t Tree<'a>,
    gic: NodeIndex,
    budget: Cell<u32>,
}

impl<'t, 'a> Resources<'t, 'a> {
    /// Makes a resolver for interrupts that end at the node `gic`.
    pub fn new(tree: &'t Tree<'a>, gic: NodeIndex) -> Self {
        Self {
            tree,
            gic,
            budget: Cell::new(BUDGET),
        }
    }

    /// Makes the same resolver for another GIC node, with what is left of the budget.
    pub fn with_gic(self, gic: NodeIndex) -> Self {
        Self { gic, ..self }
    }

    /// Returns true when the tree asked for more work than any real one: the answers are then incomplete.
    pub fn is_exhausted(&self) -> bool {
        self.budget.get() == 0
    }

    fn spend(&self) -> Option<()> {
        self.budget.set(self.budget.get().saturating_sub(1));
        (self.budget.get() > 0).then_some(())
    }

    /// Calls `found(address, size)` for each `reg` entry of the node that the CPU can reach, in host addresses and
    /// bytes. Children of buses without addresses of their own (I2C, SPI, PCI functions) have none.
    pub fn regs(&self, node: NodeIndex, mut found: impl FnMut(u64, u64)) {
        let parent = self.tree.node(node).parent;
        let (address_cells, size_cells) = self.bus_cells(parent);
        if node == 0 || !(1..=2).contains(&address_cells) || !(1..=2).contains(&size_cells) {
            return;
        }
        let Some(reg) = self.tree.property(node, "reg") else {
            return;
        };
        let mut reg = cells(reg);
        while let (Some(address), Some(size)) = (
            number(&mut reg, address_cells),
            number(&mut reg, size_cells),
        ) {
            if self.spend().is_none() {
                return;
            }
            if let Some(address) = self.translate(parent, address) {
                found(address, size);
            }
        }
    }

    /// Calls `found(address, size)` for each window of a PCI host bridge (configuration, I/O, 32- and 64-bit memory).
    pub fn pci_windows(&self, node: NodeIndex, mut found: impl FnMut(u64, u64)) {
        let parent = self.tree.node(node).parent;
        let (address_cells, size_cells) = self.bus_cells(node);
        let (parent_cells, _) = self.bus_cells(parent);
        if node == 0 || address_cells != 3 {
            return;
        }
        let Some(ranges) = self.tree.property(node, "ranges") else {
            return;
        };
        let mut ranges = cells(ranges);
        while let (Some(_), Some(address), Some(size)) = (
            Cells::take(&mut ranges, 3),
            number(&mut ranges, parent_cells),
            number(&mut ranges, size_cells),
        ) {
            if self.spend().is_none() {
                return;
            }
            if let Some(address) = self.translate(parent, address) {
                found(address, size);
            }
        }
    }

    /// Returns true for a PCI bus: its children's addresses are not the CPU's.
    pub fn is_pci(&self, node: NodeIndex) -> bool {
        self.tree
            .property(node, "device_type")
            .is_some_and(|kind| matches!(kind, b"pci\0" | b"pciex\0"))
    }

    /// Returns `#address-cells` and `#size-cells` for the children of a bus, with the specification's defaults.
    pub fn bus_cells(&self, bus: NodeIndex) -> (usize, usize) {
        let node = self.tree.node(bus);
        let count = |given: Option<u32>, default: usize| {
            given.map_or(default, |given| {
                usize::try_from(given).unwrap_or(usize::MAX)
            })
        };
        (count(node.address_cells, 2), count(node.size_cells, 1))
    }

    /// Translates an address on `bus` to the CPU's, through the `ranges` of every bus above.
    fn translate(&self, mut bus: NodeIndex, mut address: u64) -> Option<u64> {
        // A parent's index is smaller than its child's: this ends.
        while bus != 0 {
            let parent = self.tree.node(bus).parent;
            let ranges = self.tree.property(bus, "ranges")?;
            if !ranges.is_empty() {
                let (child_cells, size_cells) = self.bus_cells(bus);
                let (parent_cells, _) = self.bus_cells(parent);
                let mut ranges = cells(ranges);
                address = loop {
                    self.spend()?;
                    let child = number(&mut ranges, child_cells)?;
                    let base = number(&mut ranges, parent_cells)?;
                    let size = number(&mut ranges, size_cells)?;
                    if let Some(offset) = address.checked_sub(child).filter(|&offset| offset < size)
                    {
                        break base.checked_add(offset)?;
                    }
                };
            }
            bus = parent;
        }
        Some(address)
    }

    /// Calls `found` for each of the node's interrupts that ends at the GIC. Those of other controllers are the
    /// business of whoever drives the controller.
    pub fn interrupts(&self, node: NodeIndex, mut found: impl FnMut(GicInterrupt)) {
        let mut extended = None;
        let mut plain = None;
        for property in self.tree.properties(node) {
            match property.name {
                b"interrupts-extended" => extended = Some(property.value),
                b"interrupts" => plain = Some(property.value),
                _ => {}
            }
        }
        if extended.is_none() && plain.is_none() {
            return;
        }
        let unit = self.unit_address(node);
        if let Some(list) = extended {
            let mut list = cells(list);
            while let Some(phandle) = list.next() {
                if phandle == 0 {
                    continue;
                }
                let Some((controller, spec)) =
                    self.tree.by_phandle(phandle).and_then(|controller| {
                        Some((
                            controller,
                            Cells::take(&mut list, self.interrupt_cells(controller)?)?,
                        ))
                    })
                else {
                    return;
                };
                if let Some(interrupt) = self.resolve(controller, unit, spec) {
                    found(interrupt);
                }
            }
        } else if let (Some(list), Some(controller)) = (plain, self.interrupt_parent(node)) {
            let Some(length) = self
                .interrupt_cells(controller)
                .filter(|&length| length > 0)
            else {
                return;
            };
            let mut list = cells(list);
            while let Some(spec) = Cells::take(&mut list, length) {
                if let Some(interrupt) = self.resolve(controller, unit, spec) {
                    found(interrupt);
                }
            }
        }
    }

    /// Calls `found` for each interrupt that an `interrupt-map` leads to the GIC, whatever device uses it (PCI INTx).
    pub fn mapped_interrupts(&self, node: NodeIndex, mut found: impl FnMut(GicInterrupt)) {
        let Some(map) = self.tree.property(node, "interrupt-map") else {
            return;
        };
        let mut map = cells(map);
        while let Some(entry) = self.map_entry(node, &mut map) {
            if let Some(interrupt) =
                self.resolve(entry.parent, entry.parent_unit, entry.parent_spec)
            {
                found(interrupt);
            }
        }
    }

    fn interrupt_cells(&self, controller: NodeIndex) -> Option<usize> {
        usize::try_from(self.tree.node(controller).interrupt_cells?).ok()
    }

    /// The first address of `reg`, as `interrupt-map` compares it.
    fn unit_address(&self, node: NodeIndex) -> Cells {
        let (address_cells, _) = self.bus_cells(self.tree.node(node).parent);
        self.tree
            .property(node, "reg")
            .and_then(|reg| Cells::take(&mut cells(reg), address_cells))
            .unwrap_or_default()
    }

    /// The node that gives the node's `interrupts` their meaning: the first with `#interrupt-cells` on the way along
    /// `interrupt-parent`, or up the tree where there is none.
    fn interrupt_parent(&self, mut node: NodeIndex) -> Option<NodeIndex> {
        for _ in 0..MAX_HOPS {
            let here = self.tree.node(node);
            let next = match here.interrupt_parent {
                Some(phandle) => self.tree.by_phandle(phandle)?,
                None if node == 0 => return None,
                None => here.parent,
            };
            if self.tree.node(next).interrupt_cells.is_some() {
                return Some(next);
            }
            node = next;
        }
        None
    }

    /// Follows an interrupt through the nexus nodes to the GIC.
    fn resolve(
        &self,
        mut controller: NodeIndex,
        mut unit: Cells,
        mut spec: Cells,
    ) -> Option<GicInterrupt> {
        for _ in 0..MAX_HOPS {
            self.spend()?;
            if controller == self.gic {
                return gic_interrupt(&spec);
            }
            if self
                .tree
                .property(controller, "interrupt-controller")
                .is_some()
            {
                return None;
            }
            let Some(map) = self.tree.property(controller, "interrupt-map") else {
                controller = self.interrupt_parent(controller)?;
                continue;
            };
            let mask = self.tree.property(controller, "interrupt-map-mask");
            let mut map = cells(map);
            let entry = loop {
                let entry = self.map_entry(controller, &mut map)?;
                // Without a mask all bits count.
                let mut mask = mask
                    .into_iter()
                    .flat_map(cells)
                    .chain(core::iter::repeat(u32::MAX));
                let wanted = unit
                    .cells
                    .iter()
                    .take(entry.unit.length)
                    .chain(spec.cells.iter().take(entry.spec.length));
                let given = entry.unit.cells.iter().take(entry.unit.length);
                let given = given.chain(entry.spec.cells.iter().take(entry.spec.length));
                let matches = wanted
                    .zip(given)
                    .all(|(wanted, given)| (wanted ^ given) & mask.next().unwrap_or(u32::MAX) == 0);
                if matches {
                    break entry;
                }
            };
            controller = entry.parent;
            unit = entry.parent_unit;
            spec = entry.parent_spec;
        }
        None
    }

    fn map_entry(&self, nexus: NodeIndex, map: &mut impl Iterator<Item = u32>) -> Option<MapEntry> {
        self.spend()?;
        let unit = Cells::take(map, self.nexus_address_cells(nexus))?;
        let spec = Cells::take(map, self.interrupt_cells(nexus)?)?;
        let parent = self.tree.by_phandle(map.next()?)?;
        // Unlike elsewhere, a missing #address-cells is 0 here (specification 2.4.3.1).
        let parent_cells =
            usize::try_from(self.tree.node(parent).address_cells.unwrap_or(0)).ok()?;
        let parent_unit = Cells::take(map, parent_cells)?;
        let parent_spec = Cells::take(map, self.interrupt_cells(parent)?)?;
        Some(MapEntry {
            unit,
            spec,
            parent,
            parent_unit,
            parent_spec,
        })
    }

    /// A nexus without `#address-cells` inherits the one above it, as Linux reads such trees.
    fn nexus_address_cells(&self, mut node: NodeIndex) -> usize {
        loop {
            let here = self.tree.node(node);
            if let Some(count) = here.address_cells {
                return usize::try_from(count).unwrap_or(usize::MAX);
            }
            if node == 0 {
                return 2;
            }
            node = here.parent;
        }
    }
}

struct MapEntry {
    unit: Cells,
    spec: Cells,
    parent: NodeIndex,
    parent_unit: Cells,
    parent_spec: Cells,
}

fn gic_interrupt(spec: &Cells) -> Option<GicInterrupt> {
    let [kind, number, flags, ..] = spec.cells;
    let id = match kind {
        _ if spec.length < 3 => return None,
        0 => number.checked_add(32)?,
        1 if number < 16 => number + 16,
        _ => return None,
    };
    let trigger = if matches!(flags & 0xf, 1 | 2) {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    Some(GicInterrupt { id, trigger })
}

/// Reads a number of `count` cells (0, 1 or 2).
fn number(from: &mut impl Iterator<Item = u32>, count: usize) -> Option<u64> {
    match count {
        0 => Some(0),
        1 => from.next().map(u64::from),
        2 => Some(u64::from(from.next()?) << 32 | u64::from(from.next()?)),
        _ => None,
    }
}
