//! Interrupts of a device: from its node to the GIC's number.
//!
//! Follows the Devicetree Specification 0.4 section 2.4: `interrupts` with the inherited `interrupt-parent`,
//! `interrupts-extended`, and `interrupt-map` of the nexus nodes on the way. The end must be a GIC, whose specifier has
//! three cells: type (0 SPI, 1 PPI), number, flags (bits 0–3 the trigger; Linux binding `arm,gic.yaml`). An interrupt
//! that ends at another controller (a combiner, a GPIO bank) is none of ours: it is reported as
//! [`IrqError::OtherController`], and the caller usually leaves it to dom0.
//!
//! All loops are bounded by the tree's size or by [`MAX_NEXUS`]. No locks.

use alloc::vec::Vec;
use core::fmt;

use xenith_core::addr::IntId;
use crate::fdt::host_tree::{NodePath, Tree, be32};
use xenith_core::machine::Trigger;

/// The longest chain of interrupt nexus nodes that is followed.
pub const MAX_NEXUS: usize = 8;
/// The most interrupts of one node that are counted.
pub const MAX_INTERRUPTS: usize = 256;
/// The most controllers that are looked up in one tree; Debian's trees stay below 64.
const MAX_CONTROLLERS: usize = 256;
/// The most cells in an address and a specifier together.
const MAX_CELLS: usize = 16;
/// Compatible strings of the GICs whose specifiers have the three cells decoded here.
const GICS: [&str; 6] = [
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,gic-400",
    "arm,cortex-a9-gic",
    "arm,pl390",
    "arm,gic-v3",
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

/// A short list of cells: an address, a specifier, or both.
#[derive(Clone, Copy)]
struct Cells {
    words: [u32; MAX_CELLS],
    count: usize,
}

impl Cells {
    const fn new() -> Self {
        Self {
            words: [0; MAX_CELLS],
            count: 0,
        }
    }

    /// Appends `count` cells from the front of `list` and returns the rest of it.
    fn take<'b>(&mut self, list: &'b [u8], count: u32) -> Result<&'b [u8], IrqError> {
        let length = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(4))
            .ok_or(IrqError::Malformed)?;
        let (cells, rest) = list.split_at_checked(length).ok_or(IrqError::Malformed)?;
        for cell in cells.chunks_exact(4) {
            let slot = self.words.get_mut(self.count).ok_or(IrqError::Malformed)?;
            *slot = be32(cell, 0).ok_or(IrqError::Malformed)?;
            self.count += 1;
        }
        Ok(rest)
    }

    fn as_slice(&self) -> &[u32] {
        self.words.get(..self.count).unwrap_or_default()
    }
}

/// Finds the interrupts of nodes of one tree; keeps the controllers it has found, because finding one is a walk.
pub struct IrqResolver<'a> {
    tree: Tree<'a>,
    /// What each phandle led to; also what was not found, so that a bad tree is not searched again and again.
    controllers: Vec<(u32, Option<NodePath<'a>>)>,
}

impl<'a> IrqResolver<'a> {
    /// Makes a resolver for a tree.
    pub const fn new(tree: Tree<'a>) -> Self {
        Self {
            tree,
            controllers: Vec::new(),
        }
    }

    /// Returns the number of interrupts of a node (at most [`MAX_INTERRUPTS`]), up to the first that is malformed.
    pub fn count(&mut self, path: &NodePath<'a>) -> usize {
        let mut count = 0;
        while count < MAX_INTERRUPTS
            && self
                .specifier(path, count)
                .is_ok_and(|specifier| specifier.is_some())
        {
            count += 1;
        }
        count
    }

    /// Returns an interrupt of a node, or `None` when it has no such interrupt.
    ///
    /// # Errors
    /// [`IrqError`] when the node has the interrupt, but it leads nowhere or not to the GIC.
    pub fn interrupt(
        &mut self,
        path: &NodePath<'a>,
        index: usize,
    ) -> Result<Option<Interrupt>, IrqError> {
        let Some((controller, specifier)) = self.specifier(path, index)? else {
            return Ok(None);
        };
        self.follow(path, controller, specifier).map(Some)
    }

    /// Returns the interrupt that `interrupt-names` calls `name`, or the one at `index` when the node names none.
    ///
    /// # Errors
    /// As [`Self::interrupt`].
    pub fn named_or_index(
        &mut self,
        path: &NodePath<'a>,
        name: &str,
        index: usize,
    ) -> Result<Option<Interrupt>, IrqError> {
        match path.strings("interrupt-names") {
            Some(names) => match names.iter().position(|entry| entry == name) {
                Some(position) => self.interrupt(path, position),
                None => Ok(None),
            },
            None => self.interrupt(path, index),
        }
    }

    /// Returns the node with a phandle.
    fn by_phandle(&mut self, phandle: u32) -> Result<NodePath<'a>, IrqError> {
        if let Some((_, path)) = self.controllers.iter().find(|(known, _)| *known == phandle) {
            return path.ok_or(IrqError::NoController);
        }
        if self.controllers.len() >= MAX_CONTROLLERS {
            return Err(IrqError::NoController);
        }
        let path = self.tree.find_phandle(phandle);
        self.controllers.push((phandle, path));
        path.ok_or(IrqError::NoController)
    }

    /// Returns the controller or nexus that a node's interrupts go to: the nearest `interrupt-parent`, or the nearest
    /// ancestor that is one.
    fn parent_of(&mut self, path: &NodePath<'a>) -> Result<NodePath<'a>, IrqError> {
        let mut at = *path;
        for _ in 0..=path.depth() {
            if let Some(phandle) = at.u32("interrupt-parent") {
                return self.by_phandle(phandle);
            }
            at = at.parent().ok_or(IrqError::NoController)?;
            if at.prop("#interrupt-cells").is_some() {
                return Ok(at);
            }
        }
        Err(IrqError::NoController)
    }

    /// Returns the controller and specifier of a node's interrupt.
    fn specifier(
        &mut self,
        path: &NodePath<'a>,
        index: usize,
    ) -> Result<Option<(NodePath<'a>, Cells)>, IrqError> {
        if let Some(mut list) = path.prop("interrupts-extended") {
            for position in 0.. {
                if list.is_empty() {
                    break;
                }
                let phandle = be32(list, 0).ok_or(IrqError::Malformed)?;
                list = list.get(4..).unwrap_or_default();
                let controller = self.by_phandle(phandle)?;
                let mut cells = Cells::new();
                list = cells.take(list, interrupt_cells(&controller)?)?;
                if position == index {
                    return Ok(Some((controller, cells)));
                }
            }
            return Ok(None);
        }
        let Some(list) = path.prop("interrupts") else {
            return Ok(None);
        };
        let controller = self.parent_of(path)?;
        let cell_count = interrupt_cells(&controller)?;
        let bytes = usize::try_from(cell_count)
            .ok()
            .and_then(|count| count.checked_mul(4))
            .ok_or(IrqError::Malformed)?;
        let start = bytes.checked_mul(index).ok_or(IrqError::Malformed)?;
        if start >= list.len() {
            return Ok(None);
        }
        let mut cells = Cells::new();
        cells.take(list.get(start..).unwrap_or_default(), cell_count)?;
        Ok(Some((controller, cells)))
    }

    /// Follows nexus nodes until the GIC.
    fn follow(
        &mut self,
        path: &NodePath<'a>,
        controller: NodePath<'a>,
        specifier: Cells,
    ) -> Result<Interrupt, IrqError> {
        let (mut controller, mut specifier) = (controller, specifier);
        // The unit address of the device, in the cells of its own bus; a map's parent part replaces it.
        let mut address = Cells::new();
        if let (Some(bus), Some(reg)) = (path.parent(), path.prop("reg")) {
            address.take(reg, bus.address_cells())?;
        }
        for _ in 0..MAX_NEXUS {
            if controller.is_compatible(&GICS) {
                return decode(&specifier);
            }
            let Some(map) = controller.prop("interrupt-map") else {
                return Err(IrqError::OtherController);
            };
            (controller, address, specifier) = self.map(&controller, map, &address, &specifier)?;
        }
        Err(IrqError::NotMapped)
    }

    /// Looks one interrupt up in the map of a nexus.
    fn map(
        &mut self,
        nexus: &NodePath<'a>,
        map: &'a [u8],
        address: &Cells,
        specifier: &Cells,
    ) -> Result<(NodePath<'a>, Cells, Cells), IrqError> {
        let address_cells = nexus.u32("#address-cells").unwrap_or(0);
        let key_cells = address_cells
            .checked_add(interrupt_cells(nexus)?)
            .ok_or(IrqError::Malformed)?;
        let address_count = usize::try_from(address_cells).map_err(|_| IrqError::Malformed)?;
        let key = |index: usize| {
            let cells = if index < address_count {
                address
            } else {
                specifier
            };
            let index = if index < address_count {
                index
            } else {
                index - address_count
            };
            cells.as_slice().get(index).copied().unwrap_or(0)
        };
        let mask = nexus.prop("interrupt-map-mask");
        let mut rest = map;
        while !rest.is_empty() {
            let mut entry = Cells::new();
            rest = entry.take(rest, key_cells)?;
            let parent = self.by_phandle(be32(rest, 0).ok_or(IrqError::Malformed)?)?;
            rest = rest.get(4..).ok_or(IrqError::Malformed)?;
            let (mut parent_address, mut parent_specifier) = (Cells::new(), Cells::new());
            rest = parent_address.take(rest, parent.u32("#address-cells").unwrap_or(0))?;
            rest = parent_specifier.take(rest, interrupt_cells(&parent)?)?;
            let matches = entry.as_slice().iter().enumerate().all(|(index, cell)| {
                let mask = mask.map_or(u32::MAX, |mask| be32(mask, index * 4).unwrap_or(u32::MAX));
                key(index) & mask == cell & mask
            });
            if matches {
                return Ok((parent, parent_address, parent_specifier));
            }
        }
        Err(IrqError::NotMapped)
    }
}

/// Returns the cells in a specifier of a controller: at least one, so that lists get shorter.
fn interrupt_cells(controller: &NodePath<'_>) -> Result<u32, IrqError> {
    match controller.u32("#interrupt-cells") {
        Some(cells) if cells >= 1 => Ok(cells),
        Some(_) => Err(IrqError::Malformed),
        None => Err(IrqError::NoController),
    }
}

/// Decodes the three cells of a GIC specifier (a GICv3 may have a fourth, its PPI partition, which is ignored).
fn decode(specifier: &Cells) -> Result<Interrupt, IrqError> {
    let [kind, number, flags, ..] = *specifier.as_slice() else {
        return Err(IrqError::Malformed);
    };
    let intid = match kind {
        0 if number < 988 => number + 32,
        1 if number < 16 => number + 16,
        _ => return Err(IrqError::BadNumber),
    };
    let intid = u16::try_from(intid).map_err(|_| IrqError::BadNumber)?;
    // 1 rising edge, 2 falling edge, 4 high level, 8 low level; anything else leaves the reset state.
    let trigger = if matches!(flags & 0xf, 1..=3) {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    Ok(Interrupt {
        intid: IntId::new(intid),
        trigger,
    })
}
