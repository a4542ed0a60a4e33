//! Addresses of a device: from its node, through the buses above it, to the machine's.
//!
//! Devicetree Specification 0.4, 2.3.6 (`reg`) and 2.3.8 (`ranges`). No locks.

use core::cell::Cell;
use core::fmt;

use super::format::take_cells;
use super::tree::Node;
use crate::memory::PhysRange;

/// Entries of `ranges` and `interrupt-map` that may be looked at for one purpose: a real board needs some thousands.
const BUDGET: u32 = 1 << 20;

/// A bound on the work that a hostile tree can ask for.
#[derive(Debug)]
pub struct Budget(Cell<u32>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(BUDGET))
    }
}

impl Budget {
    /// Takes one step; false when there are none left.
    pub fn spend(&self) -> bool {
        self.0.set(self.0.get().saturating_sub(1));
        !self.is_exhausted()
    }

    /// Returns true when the tree asked for more work than any real one: the answers are then incomplete.
    pub fn is_exhausted(&self) -> bool {
        self.0.get() == 0
    }
}

/// Why an address of a node cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// There is no `reg`, or it has too few entries, or more than four cells to a number.
    Missing,
    /// A bus above the node has no window (`ranges`) for the address.
    NotMapped,
    /// The address does not fit 64 bits.
    TooWide,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "its \"reg\" is missing or too short: add it, with as many cells as the parent node says",
            Self::NotMapped => "no \"ranges\" of a bus above covers its address: correct the \"ranges\" of its parents",
            Self::TooWide => "its address does not fit 64 bits: correct \"reg\" and \"#address-cells\"",
        })
    }
}

impl<'a> Node<'_, 'a> {
    /// Returns the entries of `reg`, addresses and sizes as the parent bus counts them. Stops at a malformed entry.
    pub fn reg(self) -> impl Iterator<Item = (u128, u128)> + use<'a> {
        let (address_cells, size_cells) = self
            .parent()
            .map_or((2, 1), |bus| (bus.address_cells(), bus.size_cells()));
        cell_pairs(
            self.prop("reg").unwrap_or_default(),
            address_cells,
            size_cells,
        )
    }

    /// Returns the physical addresses of an entry of `reg`, translated through the `ranges` of all buses above.
    ///
    /// # Errors
    /// [`AddressError`]; [`AddressError::Missing`] when `reg` has no such entry.
    pub fn reg_range(self, index: usize) -> Result<PhysRange, AddressError> {
        let (address, size) = self.reg().nth(index).ok_or(AddressError::Missing)?;
        self.translate(address, size)
    }

    /// Translates a range of this node's bus (its parent) into physical addresses. Each bus must have one window for
    /// the whole of it.
    ///
    /// # Errors
    /// [`AddressError`] when a bus has no window for it, or it does not fit 64 bits.
    pub fn translate(self, address: u128, size: u128) -> Result<PhysRange, AddressError> {
        let start = self.to_root(address, size, &Budget::default())?;
        let size = u64::try_from(size).map_err(|_| AddressError::TooWide)?;
        PhysRange::new(start, size).ok_or(AddressError::TooWide)
    }

    /// Calls `found(address, size)` for each `reg` entry that the CPU can reach, in host addresses and bytes. Only the
    /// start must lie in a window, as Xen and Linux have it. Children of buses without addresses of their own (I2C, SPI,
    /// PCI functions) have none.
    pub fn for_each_reg(self, budget: &Budget, found: &mut dyn FnMut(u64, u64)) {
        let Some(bus) = self.parent() else { return };
        if !matches!((bus.address_cells(), bus.size_cells()), (1..=2, 1..=2)) {
            return;
        }
        for (address, size) in self.reg() {
            if !budget.spend() {
                return;
            }
            if let (Ok(address), Ok(size)) = (self.to_root(address, 1, budget), u64::try_from(size))
            {
                found(address, size);
            }
        }
    }

    /// Calls `found(address, size)` for each window of a PCI host bridge (configuration, I/O, 32- and 64-bit memory).
    pub fn for_each_pci_window(self, budget: &Budget, found: &mut dyn FnMut(u64, u64)) {
        let (Some(parent), Some(windows)) = (self.parent(), self.prop("ranges")) else {
            return;
        };
        if self.address_cells() != 3 {
            return;
        }
        let mut windows = Windows::new(windows, self, parent);
        while let Some((_, address, size)) = windows.next(budget) {
            if let (Ok(address), Ok(size)) = (self.to_root(address, 1, budget), u64::try_from(size))
            {
                found(address, size);
            }
        }
    }

    /// Translates an address on this node's bus to the CPU's. `size` bytes from it must lie in one window.
    fn to_root(self, address: u128, size: u128, budget: &Budget) -> Result<u64, AddressError> {
        let mut address = address;
        let mut bus = self.parent();
        // The root's address space is the machine's. A parent's index is smaller than its child's: this ends.
        while let Some(this) = bus
            && let Some(parent) = this.parent()
        {
            let windows = this.prop("ranges").ok_or(AddressError::NotMapped)?;
            if !windows.is_empty() {
                address = Windows::new(windows, this, parent)
                    .translate(address, size, budget)
                    .ok_or(AddressError::NotMapped)?;
            }
            bus = Some(parent);
        }
        u64::try_from(address).map_err(|_| AddressError::TooWide)
    }
}

/// Returns the pairs of a list of (address, size).
fn cell_pairs(
    list: &[u8],
    address_cells: u32,
    size_cells: u32,
) -> impl Iterator<Item = (u128, u128)> + use<'_> {
    let mut rest = list;
    core::iter::from_fn(move || {
        // With no cells at all the list would never get shorter.
        if rest.is_empty() {
            return None;
        }
        let (address, after) = take_cells(rest, address_cells)?;
        let (size, after) = take_cells(after, size_cells)?;
        if after.len() == rest.len() {
            return None;
        }
        rest = after;
        Some((address, size))
    })
}

/// The entries of a bus's `ranges`.
struct Windows<'a> {
    rest: &'a [u8],
    /// Cells of the bus's addresses, its parent's, and of sizes.
    cells: [u32; 3],
}

impl<'a> Windows<'a> {
    fn new(list: &'a [u8], bus: Node<'_, 'a>, parent: Node<'_, 'a>) -> Self {
        Self {
            rest: list,
            cells: [
                bus.address_cells(),
                parent.address_cells(),
                bus.size_cells(),
            ],
        }
    }

    /// Returns the next window: address on the bus, address on the parent, size.
    fn next(&mut self, budget: &Budget) -> Option<(u128, u128, u128)> {
        let mut numbers = [0; 3];
        let mut rest = self.rest;
        for (number, count) in numbers.iter_mut().zip(self.cells) {
            (*number, rest) = take_cells(rest, count)?;
        }
        // With no cells at all the list would never get shorter.
        if rest.len() == self.rest.len() || !budget.spend() {
            return None;
        }
        self.rest = rest;
        let [child, parent, size] = numbers;
        Some((child, parent, size))
    }

    /// Returns the parent's address for a range, if one window holds all of it.
    fn translate(&mut self, address: u128, size: u128, budget: &Budget) -> Option<u128> {
        let end = address.checked_add(size)?;
        loop {
            let (child, parent, length) = self.next(budget)?;
            if address >= child
                && child
                    .checked_add(length)
                    .is_some_and(|window_end| end <= window_end)
            {
                return parent.checked_add(address - child);
            }
        }
    }
}
