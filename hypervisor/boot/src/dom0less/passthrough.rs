//! The devices that a partial device tree (`multiboot,device-tree`) gives to a domain.
//!
//! Nodes below `/passthrough` name what they are of the host's: `xen,reg` (host address, size, guest address; in the cells
//! of the node's parent), `xen,path` (the host's node, whose interrupts come with it under their own numbers), and
//! `xen,force-assign-without-iommu`, without which no device of the host's is given: there is no IOMMU, so one that masters
//! the bus reaches all memory. Registers alone (`xen,reg` without `xen,path`) need it not, and no mark in dom0's tree, as on
//! Xen: whoever writes the tree knows what they are.
//!
//! Invariants: nothing in [`Passthrough::windows`] touches what the caller keeps (`closed`) or what the guest has elsewhere
//! (`occupied`), and all interrupts are SPIs that the GIC has. Neither tree is trusted. No locks.

#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::fdt::interrupts::{GicInterrupt, Interrupt, IrqResolver};
use crate::fdt::tree::{Node, Tree, take_cells};
use crate::memory::{PHYS_LIMIT, PhysRange};

/// The most ranges and the most interrupts of one domain.
const MAX_ENTRIES: usize = 256;

/// A range of a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Where it is in the machine, whole pages.
    pub host: PhysRange,
    /// Where the guest sees it, whole pages.
    pub guest: PhysRange,
}

/// What a domain is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passthrough {
    /// Registers.
    pub windows: Vec<Window>,
    /// SPIs, under their own numbers.
    pub spis: Vec<Interrupt>,
}

impl Passthrough {
    /// Returns how many SPIs the domain's interrupt controller must have.
    pub fn spi_count(&self) -> u16 {
        let last = self.spis.iter().map(|spi| spi.intid.raw()).max();
        last.map_or(0, |last| last.saturating_sub(31))
    }
}

/// What stands in a device's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughError {
    /// The node in the partial tree.
    pub path: String,
    /// What is wrong.
    pub kind: PassthroughFault,
}

/// What is wrong with a node of a partial tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassthroughFault {
    /// `xen,reg` is malformed.
    BadReg,
    /// A range is not whole pages, or beyond the physical addresses.
    Misaligned(PhysRange),
    /// The host's range is RAM, or the hypervisor's or the interrupt controller's registers.
    HostInUse(PhysRange),
    /// The guest has something else at this range.
    GuestInUse(PhysRange),
    /// `xen,path` names no node of the host's tree.
    NoSuchDevice,
    /// The host's node has no `xen,passthrough`: dom0 has the device.
    Dom0Has,
    /// Neither an IOMMU nor the word that none is needed.
    NoIommu,
    /// An interrupt that is no SPI of the GIC.
    BadInterrupt(u32),
    /// The host's tree asks for absurdly much work.
    TooComplex,
    /// More than [`MAX_ENTRIES`] ranges or interrupts.
    TooMany,
}

impl fmt::Display for PassthroughError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "passthrough of {}: ", self.path)?;
        match self.kind {
            PassthroughFault::BadReg => f.write_str(
                "\"xen,reg\" is not host address, size, guest address in the cells of the parent: correct it",
            ),
            PassthroughFault::Misaligned(range) => write!(f, "{range} is not made of whole pages: align it"),
            PassthroughFault::HostInUse(range) => write!(
                f,
                "{range} is RAM, the interrupt controller's or the hypervisor's: it cannot be given away"
            ),
            PassthroughFault::GuestInUse(range) => {
                write!(f, "the domain has something else at {range}: choose another guest address")
            }
            PassthroughFault::NoSuchDevice => {
                f.write_str("\"xen,path\" names no node of the host's device tree: correct it")
            }
            PassthroughFault::Dom0Has => {
                f.write_str("dom0 has the device: add \"xen,passthrough\" to its node in the host's device tree")
            }
            PassthroughFault::NoIommu => f.write_str(
                "there is no IOMMU driver: add \"xen,force-assign-without-iommu\" if the domain may reach all memory \
                 through the device",
            ),
            PassthroughFault::BadInterrupt(id) => write!(f, "interrupt {id} is no SPI of the GIC"),
            PassthroughFault::TooComplex => f.write_str("the host's device tree has absurdly long lists"),
            PassthroughFault::TooMany => write!(f, "more than {MAX_ENTRIES} ranges or interrupts: pass less through"),
        }
    }
}

/// What the caller keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Host ranges that no domain gets: RAM, the GIC, the hypervisor's UART.
    pub closed: &'a [PhysRange],
    /// Guest ranges that are taken: its RAM, GIC, UART, grant table.
    pub occupied: &'a [PhysRange],
    /// Interrupts that the GIC has, SGIs and PPIs included.
    pub lines: u32,
    /// Whether dom0 has every device that is not marked.
    pub has_dom0: bool,
}

/// Finds out what a partial tree gives.
///
/// # Errors
/// [`PassthroughError`] for the first node that cannot be given.
#[inline(never)]
pub fn resolve<'t, 'a>(
    partial: &Tree<'_>,
    host: &'t Tree<'a>,
    irqs: &IrqResolver<'t, 'a>,
    limits: &Limits<'_>,
) -> Result<Passthrough, PassthroughError> {
    let mut found = Passthrough::default();
    let Some(top) = partial.find("/passthrough") else {
        return Ok(found);
    };
    for node in top.walk() {
        device(&mut found, node, host, irqs, limits).map_err(|kind| PassthroughError {
            path: node.path(),
            kind,
        })?;
    }
    Ok(found)
}

fn device<'t, 'a>(
    found: &mut Passthrough,
    node: Node<'_, '_>,
    host: &'t Tree<'a>,
    irqs: &IrqResolver<'t, 'a>,
    limits: &Limits<'_>,
) -> Result<(), PassthroughFault> {
    let path = node.prop("xen,path");
    let registers = node.prop("xen,reg");
    if path.is_none() && registers.is_none() {
        return Ok(());
    }
    if node.prop("xen,force-assign-without-iommu").is_none() && path.is_some() {
        return Err(PassthroughFault::NoIommu);
    }
    if let Some(registers) = registers {
        windows(found, node, registers, limits)?;
    }
    if path.is_some() {
        let device = host
            .find_alias_or_path(node.text("xen,path"))
            .filter(|device| !device.is_root())
            .ok_or(PassthroughFault::NoSuchDevice)?;
        if limits.has_dom0 && device.prop("xen,passthrough").is_none() {
            return Err(PassthroughFault::Dom0Has);
        }
        let mut all = Vec::new();
        irqs.for_each(device, &mut |interrupt| {
            if all.len() <= MAX_ENTRIES {
                all.push(interrupt);
            }
        });
        if irqs.budget().is_exhausted() {
            return Err(PassthroughFault::TooComplex);
        }
        for interrupt in all {
            spi(found, interrupt, limits)?;
        }
    }
    Ok(())
}

fn windows(
    found: &mut Passthrough,
    node: Node<'_, '_>,
    registers: &[u8],
    limits: &Limits<'_>,
) -> Result<(), PassthroughFault> {
    let parent = node.parent().ok_or(PassthroughFault::BadReg)?;
    let (address_cells, size_cells) = (parent.address_cells(), parent.size_cells());
    let mut rest = registers;
    while !rest.is_empty() {
        let before = rest.len();
        let mut number = |cells| {
            let (number, after) = take_cells(rest, cells).ok_or(PassthroughFault::BadReg)?;
            rest = after;
            u64::try_from(number).map_err(|_| PassthroughFault::BadReg)
        };
        let (address, size, guest) = (
            number(address_cells)?,
            number(size_cells)?,
            number(address_cells)?,
        );
        let range = |base| PhysRange::new(base, size).ok_or(PassthroughFault::BadReg);
        let (host, guest) = (range(address)?, range(guest)?);
        // With no cells at all the list would never get shorter.
        if rest.len() == before || host.is_empty() {
            return Err(PassthroughFault::BadReg);
        }
        for range in [host, guest] {
            if range.grow_to_pages() != range || range.end().raw() > PHYS_LIMIT {
                return Err(PassthroughFault::Misaligned(range));
            }
        }
        if limits.closed.iter().any(|closed| closed.overlaps(&host)) {
            return Err(PassthroughFault::HostInUse(host));
        }
        let taken = limits.occupied.iter().any(|taken| taken.overlaps(&guest));
        // The same page may be named by several devices on it.
        let clashes = found.windows.iter().any(|other| {
            other.guest.overlaps(&guest) && (other.host, other.guest) != (host, guest)
        });
        if taken || clashes {
            return Err(PassthroughFault::GuestInUse(guest));
        }
        if found.windows.len() == MAX_ENTRIES {
            return Err(PassthroughFault::TooMany);
        }
        let window = Window { host, guest };
        if !found.windows.contains(&window) {
            found.windows.push(window);
        }
    }
    Ok(())
}

fn spi(
    found: &mut Passthrough,
    interrupt: GicInterrupt,
    limits: &Limits<'_>,
) -> Result<(), PassthroughFault> {
    let bad = PassthroughFault::BadInterrupt(interrupt.id);
    if interrupt.id < 32 || interrupt.id >= limits.lines {
        return Err(bad);
    }
    let spi = interrupt.checked().map_err(|_| bad)?;
    if found.spis.iter().any(|other| other.intid == spi.intid) {
        return Ok(());
    }
    if found.spis.len() == MAX_ENTRIES {
        return Err(PassthroughFault::TooMany);
    }
    found.spis.push(spi);
    Ok(())
}

impl From<PassthroughError> for String {
    fn from(error: PassthroughError) -> Self {
        error.to_string()
    }
}
