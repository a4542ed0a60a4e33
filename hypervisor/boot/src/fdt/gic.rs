//! The machine's interrupt controller, from the host's device tree: a GICv2 with virtualization extensions, or a GICv3 where
//! the architecture has its system registers ([`HAS_V3`]).
//!
//! Sources: Linux bindings `interrupt-controller/arm,gic.yaml` and `arm,gic-v3.yaml`. No locks.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::fdt::host::{HostError, MAX_BANKS};
use crate::fdt::interrupts::{Interrupt, IrqResolver};
use crate::fdt::tree::{Node, Strings, Tree, take_cells};
use crate::memory::PhysRange;
use xenith_core::addr::{HostPhys, IntId};
use xenith_core::machine::Trigger;
use xenith_core::vgic::{GICD_SIZE, GICD_V3_SIZE, GICR_SIZE, HAS_V3};

/// A GIC with virtualization extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic<'a> {
    /// Its node.
    pub path: String,
    /// What it is.
    pub compatible: Strings<'a>,
    /// Its phandle, which dom0's tree must keep.
    pub phandle: Option<u32>,
    /// The distributor's registers.
    pub gicd: PhysRange,
    /// What depends on its version.
    pub kind: GicKind,
    /// The maintenance interrupt.
    pub maintenance: Interrupt,
}

/// The version of a GIC, and the registers that it has beside the distributor's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GicKind {
    /// GICv2.
    V2(GicV2),
    /// GICv3, or a GICv4 used as one.
    V3(GicV3),
}

/// Registers of a GICv2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicV2 {
    /// The CPU interface's registers. 128 KiB mean that each of its two 4 KiB pages is repeated over 64 KiB.
    pub gicc: PhysRange,
    /// The hypervisor control registers.
    pub gich: PhysRange,
    /// The virtual CPU interface's registers.
    pub gicv: PhysRange,
    /// The registers of its MSI frames (`arm,gic-v2m-frame`).
    pub v2m_frames: Vec<PhysRange>,
}

/// Registers of a GICv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicV3 {
    /// Where the redistributors are.
    pub regions: Vec<PhysRange>,
    /// `redistributor-stride` in bytes: their distance, where it is not as they say themselves.
    pub stride: Option<u64>,
}

impl Gic<'_> {
    /// Returns all registers of its that nobody else may have.
    pub fn registers(&self) -> Vec<PhysRange> {
        let mut all = alloc::vec![self.gicd];
        match &self.kind {
            GicKind::V2(v2) => all.extend([v2.gicc, v2.gich, v2.gicv]),
            GicKind::V3(v3) => all.extend(&v3.regions),
        }
        all
    }

    /// Returns the registers of its MSI frames.
    pub fn v2m_frames(&self) -> &[PhysRange] {
        match &self.kind {
            GicKind::V2(v2) => &v2.v2m_frames,
            GicKind::V3(_) => &[],
        }
    }
}

impl GicV3 {
    /// Finds the redistributors: one after the other in each region, until one says that it is the last. `read_type` returns
    /// GICR_TYPER of the one at an address, and takes it; with `None` no more are wanted.
    pub fn for_each_redistributor(&self, read_type: &mut dyn FnMut(HostPhys) -> Option<u64>) {
        const LAST: u64 = 1 << 4;
        // Those of a GICv4 have two more pages of 64 KiB.
        const HAS_VLPIS: u64 = 1 << 1;
        let size = u64::from(GICR_SIZE);
        for region in &self.regions {
            let (mut at, end) = (region.base().raw(), region.end().raw());
            while end.saturating_sub(at) >= size {
                let Some(kind) = read_type(HostPhys::new(at)) else {
                    return;
                };
                if kind & LAST != 0 {
                    break;
                }
                let own = if kind & HAS_VLPIS != 0 {
                    2 * size
                } else {
                    size
                };
                at = at.saturating_add(self.stride.unwrap_or(own));
            }
        }
    }
}

/// Returns true for a name with "gic" in it. (The library's search for strings in strings costs 2 KiB of code.)
fn names_gic(name: &str) -> bool {
    name.as_bytes().windows(3).any(|part| part == b"gic")
}

/// Returns the interrupt controller.
///
/// # Errors
/// The `Gic` variants of [`HostError`].
#[inline(never)]
pub fn gic<'a>(tree: &Tree<'a>, irqs: &IrqResolver<'_, 'a>) -> Result<Gic<'a>, HostError> {
    const WITH_VIRTUALIZATION: [&str; 3] =
        ["arm,cortex-a15-gic", "arm,cortex-a7-gic", "arm,gic-400"];
    const V3: &str = "arm,gic-v3";
    const WITHOUT: [&str; 4] = [
        "arm,cortex-a9-gic",
        "arm,pl390",
        "arm,arm11mp-gic",
        "arm,eb11mp-gic",
    ];

    let is_controller =
        |node: &Node<'_, '_>| node.prop("interrupt-controller").is_some() && node.is_available();
    let find = |wanted: &[&str]| {
        tree.nodes()
            .find(|node| is_controller(node) && node.is_compatible(wanted))
    };
    let v3 = if HAS_V3 { find(&[V3]) } else { None };
    let Some(node) = find(&WITH_VIRTUALIZATION).or(v3) else {
        if find(&WITHOUT).is_some() {
            return Err(HostError::NoGicVirtualization);
        }
        let is_gic =
            |node: &Node<'_, '_>| is_controller(node) && node.compatible().iter().any(names_gic);
        return Err(match tree.nodes().find(is_gic) {
            Some(other) => HostError::UnsupportedGic(other.compatible().first().to_string()),
            None => HostError::NoGic,
        });
    };
    let is_v3 = v3 == Some(node);
    let gicd_size = if is_v3 {
        u64::from(GICD_V3_SIZE)
    } else {
        u64::from(GICD_SIZE)
    };
    let gicd = frame(reg(node, 0, "GICD")?, "GICD", gicd_size)?;
    let kind = if is_v3 {
        GicKind::V3(v3_registers(node)?)
    } else {
        GicKind::V2(v2_registers(node, gicd)?)
    };
    // The interrupt of the GIC's own node goes to itself, whatever parent the rest of the tree has. Trees of OMAP5 leave
    // it out: it is number 25 in all of these (DDI 0464 8.2.2; Arm BSA for GICv3).
    let maintenance = match irqs.interrupt(node, 0) {
        Ok(Some(interrupt)) => interrupt,
        Ok(None) => Interrupt {
            intid: IntId::new(25),
            trigger: Trigger::Level,
        },
        Err(error) => return Err(HostError::GicMaintenance(error)),
    };
    Ok(Gic {
        path: node.to_string(),
        compatible: node.compatible(),
        phandle: node.phandle(),
        gicd,
        kind,
        maintenance,
    })
}

fn reg(node: Node<'_, '_>, index: usize, name: &'static str) -> Result<PhysRange, HostError> {
    node.reg_range(index)
        .map_err(|error| HostError::GicRegisters(name, error))
}

fn v2_registers(node: Node<'_, '_>, gicd: PhysRange) -> Result<GicV2, HostError> {
    let reg_count = node.reg().count();
    if reg_count < 2 {
        return Err(HostError::NoGicVirtualization);
    }
    // Old trees give the CPU interface one page or less; all of it, with GICC_DIR, is there all the same.
    let gicc = frame(reg(node, 1, "GICC")?, "GICC", 0x100)?;
    let gicc = PhysRange::new(gicc.base().raw(), gicc.size().max(0x2000)).unwrap_or(gicc);
    let (gich, gicv) = if reg_count >= 4 {
        (reg(node, 2, "GICH")?, reg(node, 3, "GICV")?)
    } else {
        // Trees of STM32MP1 leave them out. Where distributor and CPU interface are as in Cortex-A7, A15 and GIC-400, the
        // others are too (DDI 0464 table 8-1, DDI 0438 table 8-1, DDI 0471 table 3-1).
        let base = gicd.base().raw().wrapping_sub(0x1000);
        if base & 0x7fff != 0 || gicc.base().raw() != base + 0x2000 {
            return Err(HostError::NoGicVirtualization);
        }
        (
            PhysRange::from_size(base + 0x4000, 0x2000),
            PhysRange::from_size(base + 0x6000, 0x2000),
        )
    };
    let is_frame =
        |child: &Node<'_, '_>| child.is_compatible(&["arm,gic-v2m-frame"]) && child.is_available();
    Ok(GicV2 {
        gicc,
        gich: frame(gich, "GICH", 0x1000)?,
        gicv: frame(gicv, "GICV", 0x2000)?,
        v2m_frames: node
            .children()
            .filter(is_frame)
            .filter_map(|child| child.reg_range(0).ok())
            .take(MAX_BANKS)
            .collect(),
    })
}

fn v3_registers(node: Node<'_, '_>) -> Result<GicV3, HostError> {
    let count = node.u32("#redistributor-regions").unwrap_or(1);
    let count = usize::try_from(count).unwrap_or(MAX_BANKS).min(MAX_BANKS);
    let mut regions = Vec::new();
    for index in 1..=count {
        regions.push(frame(
            reg(node, index, "GICR")?,
            "GICR",
            u64::from(GICR_SIZE),
        )?);
    }
    let stride = match node.prop("redistributor-stride") {
        None => None,
        Some(cells) => {
            let words = if cells.len() < 8 { 1 } else { 2 };
            let number = take_cells(cells, words).and_then(|(n, _)| u64::try_from(n).ok());
            let stride = number.ok_or(HostError::GicStride)?;
            if stride < u64::from(GICR_SIZE) || stride & 0xffff != 0 {
                return Err(HostError::GicStride);
            }
            Some(stride)
        }
    };
    Ok(GicV3 { regions, stride })
}

/// Checks a register frame of the GIC: whole pages are mapped, so what is not the GIC's must not lie in them.
fn frame(range: PhysRange, name: &'static str, least: u64) -> Result<PhysRange, HostError> {
    let is_usable = range.base().page_offset() == 0 && range.size() >= least;
    if is_usable {
        Ok(range)
    } else {
        Err(HostError::GicFrame(name, least))
    }
}

#[cfg(test)]
#[path = "gic_tests.rs"]
mod tests;
