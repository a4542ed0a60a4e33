//! Interrupts of a device: from its node to the GIC's number.
//!
//! Follows the Devicetree Specification 0.4 section 2.4: `interrupts` with the inherited `interrupt-parent`,
//! `interrupts-extended`, and `interrupt-map` of the nexus nodes on the way. The end must be a GIC, whose specifier has
//! three cells: type (0 SPI, 1 PPI), number, flags (bits 0–3 the trigger; Linux binding `arm,gic.yaml`). An interrupt
//! that ends at another controller (a combiner, a GPIO bank) is none of ours: it is reported as
//! [`IrqError::OtherController`], and the caller usually leaves it to dom0.
//!
//! All loops are bounded by the tree's size, by [`MAX_HOPS`], or by the [`Budget`]. No locks.

use core::fmt;

use super::address::Budget;
use super::format::be32;
use super::tree::{Node, Tree};
use xenith_core::addr::IntId;
use xenith_core::machine::Trigger;

/// The longest chain of interrupt parents and nexus nodes that is followed.
pub const MAX_HOPS: usize = 64;
/// More than any interrupt specifier or unit address has.
const MAX_CELLS: usize = 8;
/// Compatible strings of the GICs whose specifiers have the three cells decoded here.
const GICS: [&str; 6] = [
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,gic-400",
    "arm,cortex-a9-gic",
    "arm,pl390",
    "arm,gic-v3",
];

/// Controllers that wake a sleeping SoC and pass each interrupt on to the GIC under the number that the specifier gives
/// (Linux bindings `fsl,imx-gpc`, `ti,omap4-wugen-mpu`, `nvidia,tegra20-ictlr`, `samsung/exynos-pmu`).
const TRANSPARENT: [&str; 9] = [
    "fsl,imx6q-gpc",
    "fsl,imx7d-gpc",
    "ti,omap4-wugen-mpu",
    "ti,omap5-wugen-mpu",
    "nvidia,tegra30-ictlr",
    "samsung,exynos5250-pmu",
    "samsung,exynos5260-pmu",
    "samsung,exynos5410-pmu",
    "samsung,exynos5420-pmu",
];

/// An interrupt line of the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The GIC's number: PPI 16–31, SPI 32–1019.
    pub intid: IntId,
    /// How the line signals. No trigger in the tree means level, the distributor's reset state.
    pub trigger: Trigger,
}

/// Why an interrupt of a node cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqError {
    /// No controller is named by the node or any ancestor, or the named one does not exist.
    NoController,
    /// A property has too few cells, or more than are supported.
    Malformed,
    /// The interrupt goes to a controller that is not the GIC.
    OtherController,
    /// A nexus node has no entry for it, or the nexus nodes form a loop.
    NotMapped,
    /// Type or number are outside what a GIC has.
    BadNumber,
}

impl fmt::Display for IrqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoController => {
                "no interrupt controller found for it: add \"interrupt-parent\" to the device tree"
            }
            Self::Malformed => {
                "its \"interrupts\" has a wrong number of cells: correct the device tree"
            }
            Self::OtherController => "its interrupt goes to a controller other than the GIC",
            Self::NotMapped => {
                "no \"interrupt-map\" entry leads to the GIC: correct the device tree"
            }
            Self::BadNumber => {
                "its interrupt is no PPI 0-15 and no SPI 0-987 of the GIC: correct the device tree"
            }
        })
    }
}

/// What a specifier says to a GIC; the number may be beyond what the GIC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicInterrupt {
    /// Its number as the GIC counts: PPIs from 16, SPIs from 32.
    pub id: u32,
    /// How it signals.
    pub trigger: Trigger,
}

impl GicInterrupt {
    /// Returns true for a private peripheral interrupt.
    pub fn is_ppi(self) -> bool {
        (16..32).contains(&self.id)
    }

    /// Returns the interrupt if it is one that a GIC can have.
    ///
    /// # Errors
    /// [`IrqError::BadNumber`].
    pub fn checked(self) -> Result<Interrupt, IrqError> {
        match u16::try_from(self.id) {
            Ok(id @ 0..1020) => Ok(Interrupt {
                intid: IntId::new(id),
                trigger: self.trigger,
            }),
            _ => Err(IrqError::BadNumber),
        }
    }
}

/// A few 32-bit cells by value: an address, or a specifier.
#[derive(Clone, Copy, Debug, Default)]
struct Cells {
    words: [u32; MAX_CELLS],
    count: usize,
}

impl Cells {
    /// Takes `count` cells from the front of `list`.
    fn take(list: &mut &[u8], count: u32) -> Option<Self> {
        let count = usize::try_from(count).ok()?;
        let mut taken = Self {
            count,
            ..Self::default()
        };
        for slot in taken.words.get_mut(..count)? {
            *slot = take_word(list)?;
        }
        Some(taken)
    }
}

fn take_word(list: &mut &[u8]) -> Option<u32> {
    let word = be32(list, 0)?;
    *list = list.get(4..)?;
    Some(word)
}

/// An entry of an `interrupt-map`.
struct MapEntry<'t, 'a> {
    unit: Cells,
    specifier: Cells,
    parent: Node<'t, 'a>,
    parent_unit: Cells,
    parent_specifier: Cells,
}

/// The interrupts of a node, before they are followed to the GIC.
struct Specifiers<'t, 'a> {
    list: &'a [u8],
    /// The controller of a plain `interrupts`; `None` for `interrupts-extended`, where each entry names its own.
    controller: Option<Node<'t, 'a>>,
    tree: &'t Tree<'a>,
}

impl<'t, 'a> Specifiers<'t, 'a> {
    fn take(&mut self) -> Result<(Node<'t, 'a>, Cells), IrqError> {
        let controller = match self.controller {
            Some(controller) => controller,
            None => match take_word(&mut self.list) {
                None => return Err(self.stop(IrqError::Malformed)),
                // A hole: the interrupt of this index does not exist, but there may be more.
                Some(0) => return Err(IrqError::NoController),
                Some(phandle) => {
                    let found = self.tree.find_phandle(phandle);
                    found.ok_or_else(|| self.stop(IrqError::NoController))?
                }
            },
        };
        let specifier = match controller.u32("#interrupt-cells") {
            None => Err(IrqError::NoController),
            Some(0) => Err(IrqError::Malformed),
            Some(count) => Cells::take(&mut self.list, count).ok_or(IrqError::Malformed),
        };
        match specifier {
            Ok(specifier) => Ok((controller, specifier)),
            Err(error) => Err(self.stop(error)),
        }
    }

    /// Ends the list: where the next entry would start is not known.
    fn stop(&mut self, error: IrqError) -> IrqError {
        self.list = &[];
        error
    }
}

impl<'t, 'a> Iterator for Specifiers<'t, 'a> {
    type Item = Result<(Node<'t, 'a>, Cells), IrqError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.list.is_empty()).then(|| self.take())
    }
}

/// Finds the interrupts of nodes of one tree.
#[derive(Debug)]
pub struct IrqResolver<'t, 'a> {
    /// The only GIC that counts, or any.
    gic: Option<Node<'t, 'a>>,
    budget: Budget,
    tree: &'t Tree<'a>,
}

impl<'t, 'a> IrqResolver<'t, 'a> {
    /// Makes a resolver for a tree. Any node that calls itself a GIC is one.
    pub fn new(tree: &'t Tree<'a>) -> Self {
        Self {
            gic: None,
            budget: Budget::default(),
            tree,
        }
    }

    /// Makes the same resolver for interrupts that end at the node `gic`.
    pub fn with_gic(self, gic: Node<'t, 'a>) -> Self {
        Self {
            gic: Some(gic),
            ..self
        }
    }

    /// Returns the budget of work on this tree.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns an interrupt of a node, or `None` when it has no such interrupt.
    ///
    /// # Errors
    /// [`IrqError`] when the node has the interrupt, but it leads nowhere or not to the GIC.
    #[inline(never)]
    pub fn interrupt(
        &self,
        node: Node<'t, 'a>,
        index: usize,
    ) -> Result<Option<Interrupt>, IrqError> {
        let Some(mut specifiers) = self.specifiers(node)? else {
            return Ok(None);
        };
        let Some(found) = specifiers.nth(index) else {
            return Ok(None);
        };
        let (controller, specifier) = found?;
        self.follow(controller, unit_address(node), specifier)?
            .checked()
            .map(Some)
    }

    /// Returns the interrupt that `interrupt-names` calls `name`, or the one at `index` when the node names none.
    ///
    /// # Errors
    /// As [`Self::interrupt`].
    #[inline(never)]
    pub fn named_or_index(
        &self,
        node: Node<'t, 'a>,
        name: &str,
        index: usize,
    ) -> Result<Option<Interrupt>, IrqError> {
        let index = match node.strings("interrupt-names") {
            Some(names) => names.iter().position(|entry| entry == name),
            None => Some(index),
        };
        index.map_or(Ok(None), |index| self.interrupt(node, index))
    }

    /// Calls `found` for each of the node's interrupts that ends at the GIC. Those of other controllers are the
    /// business of whoever drives the controller.
    pub fn for_each(&self, node: Node<'t, 'a>, found: &mut dyn FnMut(GicInterrupt)) {
        let Ok(Some(specifiers)) = self.specifiers(node) else {
            return;
        };
        let unit = unit_address(node);
        for (controller, specifier) in specifiers.flatten() {
            if let Ok(interrupt) = self.follow(controller, unit, specifier) {
                found(interrupt);
            }
        }
    }

    /// Calls `found` for each interrupt that an `interrupt-map` leads to the GIC, whatever device uses it (PCI INTx).
    pub fn for_each_mapped(&self, node: Node<'t, 'a>, found: &mut dyn FnMut(GicInterrupt)) {
        let mut map = node.prop("interrupt-map").unwrap_or_default();
        while let Some(entry) = self.map_entry(node, &mut map) {
            let end = self.follow(entry.parent, entry.parent_unit, entry.parent_specifier);
            if let Ok(interrupt) = end {
                found(interrupt);
            }
        }
    }

    fn specifiers(&self, node: Node<'t, 'a>) -> Result<Option<Specifiers<'t, 'a>>, IrqError> {
        let tree = self.tree;
        let (list, controller) = match node.prop("interrupts-extended") {
            Some(list) => (list, None),
            None => match node.prop("interrupts") {
                Some(list) => (
                    list,
                    Some(interrupt_parent(node).ok_or(IrqError::NoController)?),
                ),
                None => return Ok(None),
            },
        };
        Ok(Some(Specifiers {
            list,
            controller,
            tree,
        }))
    }

    fn is_gic(&self, node: Node<'t, 'a>) -> bool {
        match self.gic {
            Some(gic) => node == gic,
            None => node.is_compatible(&GICS),
        }
    }

    /// Follows nexus nodes until the GIC.
    fn follow(
        &self,
        controller: Node<'t, 'a>,
        unit: Cells,
        specifier: Cells,
    ) -> Result<GicInterrupt, IrqError> {
        let (mut controller, mut unit, mut specifier) = (controller, unit, specifier);
        for _ in 0..MAX_HOPS {
            if !self.budget.spend() {
                break;
            }
            if self.is_gic(controller) {
                return decode(&specifier);
            }
            if controller.is_compatible(&TRANSPARENT) && specifier.count == 3 {
                controller = interrupt_parent(controller).ok_or(IrqError::OtherController)?;
                continue;
            }
            if controller.prop("interrupt-controller").is_some() {
                return Err(IrqError::OtherController);
            }
            let Some(mut map) = controller.prop("interrupt-map") else {
                controller = interrupt_parent(controller).ok_or(IrqError::OtherController)?;
                continue;
            };
            let mask = controller.prop("interrupt-map-mask").unwrap_or_default();
            let entry = loop {
                let entry = self
                    .map_entry(controller, &mut map)
                    .ok_or(IrqError::NotMapped)?;
                if entry.matches(&unit, &specifier, mask) {
                    break entry;
                }
            };
            controller = entry.parent;
            unit = entry.parent_unit;
            specifier = entry.parent_specifier;
        }
        Err(IrqError::NotMapped)
    }

    fn map_entry(&self, nexus: Node<'t, 'a>, map: &mut &'a [u8]) -> Option<MapEntry<'t, 'a>> {
        if map.is_empty() || !self.budget.spend() {
            return None;
        }
        // A nexus without `#address-cells` inherits the one above it, as Linux reads such trees.
        let mut above = core::iter::successors(Some(nexus), |node| node.parent());
        let unit_cells = above
            .find_map(|node| node.u32("#address-cells"))
            .unwrap_or(2);
        let unit = Cells::take(map, unit_cells)?;
        let specifier = Cells::take(map, nexus.u32("#interrupt-cells")?)?;
        let parent = self.tree.find_phandle(take_word(map)?)?;
        // Unlike elsewhere, a missing #address-cells is 0 here (specification 2.4.3.1).
        let parent_unit = Cells::take(map, parent.u32("#address-cells").unwrap_or(0))?;
        let parent_specifier = Cells::take(map, parent.u32("#interrupt-cells")?)?;
        Some(MapEntry {
            unit,
            specifier,
            parent,
            parent_unit,
            parent_specifier,
        })
    }
}

impl MapEntry<'_, '_> {
    /// Returns true when the entry is for a unit address and specifier, as far as the mask looks. Without a mask all
    /// bits count.
    fn matches(&self, unit: &Cells, specifier: &Cells, mask: &[u8]) -> bool {
        let mut mask = mask;
        let mut same = |entry: &Cells, given: &Cells| {
            let pairs = entry.words.iter().zip(given.words).take(entry.count);
            pairs.fold(true, |same, (entry, given)| {
                same & ((entry ^ given) & take_word(&mut mask).unwrap_or(u32::MAX) == 0)
            })
        };
        same(&self.unit, unit) & same(&self.specifier, specifier)
    }
}

/// The first address of `reg`, as `interrupt-map` compares it.
fn unit_address(node: Node<'_, '_>) -> Cells {
    let cells = node
        .parent()
        .and_then(|bus| Cells::take(&mut node.prop("reg")?, bus.address_cells()));
    cells.unwrap_or_default()
}

/// The node that gives the node's `interrupts` their meaning: the first with `#interrupt-cells` on the way along
/// `interrupt-parent`, or up the tree where there is none.
fn interrupt_parent<'t, 'a>(node: Node<'t, 'a>) -> Option<Node<'t, 'a>> {
    let mut node = node;
    for _ in 0..MAX_HOPS {
        node = match node.u32("interrupt-parent") {
            Some(phandle) => node.tree().find_phandle(phandle)?,
            None => node.parent()?,
        };
        if node.prop("#interrupt-cells").is_some() {
            return Some(node);
        }
    }
    None
}

/// Decodes the three cells of a GIC specifier (a GICv3 may have a fourth, its PPI partition, which is ignored).
fn decode(specifier: &Cells) -> Result<GicInterrupt, IrqError> {
    let [kind, number, flags, ..] = specifier.words;
    let id = match kind {
        _ if specifier.count < 3 => return Err(IrqError::Malformed),
        0 => number.checked_add(32),
        1 if number < 16 => Some(number + 16),
        _ => None,
    };
    // 1 rising edge, 2 falling edge, 4 high level, 8 low level; anything else leaves the reset state.
    let trigger = if matches!(flags & 0xf, 1..=3) {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    Ok(GicInterrupt {
        id: id.ok_or(IrqError::BadNumber)?,
        trigger,
    })
}
