//! The device tree of a domain other than dom0: made from nothing, as the guest's memory map says (public/arch-arm.h;
//! xen-arm.md 4.1 and 4.2), with the devices of a partial tree if any are passed through.
//!
//! Invariants: the tree counts 2/2 at its root; its size is bounded by [`MAX_TREE_SIZE`] only. The partial tree is not
//! trusted: what is wrong with it makes this fail or is copied for the guest to stumble over. No locks; allocates.

#[cfg(test)]
mod tests;

use alloc::format;
use alloc::vec::Vec;

use crate::fdt::tree::{Node, Tree};
use crate::fdt::writer::{FdtWriter, WriteError};
use crate::memory::PhysRange;
use xen_abi::guest as map;
use xenith_core::addr::{IntId, PAGE_SIZE};
use xenith_core::emulate::Execution;
use xenith_core::vgic::{HAS_V3, Version};

/// Linux needs the whole tree mapped by a 2 MiB section.
const MAX_TREE_SIZE: usize = 2 << 20;
/// Phandle of the interrupt controller, as libxl numbers it.
const GIC_PHANDLE: u32 = 65000;
/// Flags of a PPI in the arm,gic binding: the first four CPUs, active low level, as Xen gives.
const PPI_FLAGS: u32 = 0xf08;
/// Flags of an SPI: active high level.
const SPI_HIGH: u32 = 4;
/// Where a guest has its RAM (GUEST_RAM0_BASE and GUEST_RAM1_BASE) and how much fits.
const RAM: [PhysRange; 2] = [
    PhysRange::from_size(0x4000_0000, 3 << 30),
    PhysRange::from_size(0x2_0000_0000, 1016 << 30),
];

/// Where a guest has its interrupt controller beside the distributor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomuGic {
    /// GICv2.
    V2 {
        /// The virtual CPU interface.
        gicc: PhysRange,
    },
    /// GICv3.
    V3 {
        /// The emulated redistributors.
        regions: Vec<PhysRange>,
    },
}

/// Where a guest has what is not its RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The emulated distributor.
    pub gicd: PhysRange,
    /// What depends on the GIC's version.
    pub gic: DomuGic,
    /// The virtual UART's registers, and its interrupt.
    pub uart: (PhysRange, IntId),
    /// Where the guest may map its grant table.
    pub grant_table: PhysRange,
    /// The timers' PPIs: secure physical, non-secure physical, virtual. Those of the host: a virtual timer interrupt keeps
    /// its number.
    pub timer_ppis: [IntId; 3],
    /// The PPI of the event channel upcall.
    pub evtchn_ppi: IntId,
}

impl Layout {
    /// The layout of public/arch-arm.h with this GIC, on a host with these timer interrupts.
    pub fn guest(gic: Version, timer_ppis: [IntId; 3]) -> Self {
        let at = PhysRange::from_size;
        let (gicd, gic) = match gic {
            Version::V3 if HAS_V3 => (
                at(map::GUEST_GICV3_GICD_BASE, map::GUEST_GICV3_GICD_SIZE),
                DomuGic::V3 {
                    regions: alloc::vec![at(
                        map::GUEST_GICV3_GICR0_BASE,
                        map::GUEST_GICV3_GICR0_SIZE
                    )],
                },
            ),
            _ => (
                at(map::GUEST_GICD_BASE, map::GUEST_GICD_SIZE),
                DomuGic::V2 {
                    gicc: at(map::GUEST_GICC_BASE, map::GUEST_GICC_SIZE),
                },
            ),
        };
        // GUEST_EVTCHN_PPI, or what is left beside the timers.
        let evtchn_ppi = (16..32)
            .rev()
            .map(IntId::new)
            .find(|ppi| !timer_ppis.contains(ppi))
            .unwrap_or(IntId::new(31));
        Self {
            gicd,
            gic,
            uart: (
                PhysRange::from_size(xenith_core::vuart::BASE.raw(), PAGE_SIZE as u64),
                xenith_core::vuart::IRQ,
            ),
            grant_table: at(map::GUEST_GNTTAB_BASE, map::GUEST_GNTTAB_SIZE),
            timer_ppis,
            evtchn_ppi,
        }
    }

    /// Returns what no device and no RAM may lie on.
    pub fn occupied(&self) -> Vec<PhysRange> {
        let mut all = self.gic_registers();
        all.extend([self.uart.0, self.grant_table]);
        all
    }

    /// Returns whether a guest would have two things at an address if it had this there too.
    pub fn overlaps(&self, range: &PhysRange) -> bool {
        self.occupied().iter().any(|other| other.overlaps(range))
    }

    /// Returns the ranges of the interrupt controller's `reg`.
    fn gic_registers(&self) -> Vec<PhysRange> {
        let mut all = alloc::vec![self.gicd];
        match &self.gic {
            DomuGic::V2 { gicc } => all.push(*gicc),
            DomuGic::V3 { regions } => all.extend(regions),
        }
        all
    }
}

/// Returns the banks in which a guest sees `size` bytes of RAM, a multiple of the page size; `None` if they do not fit.
pub fn guest_banks(size: u64) -> Option<Vec<PhysRange>> {
    let [low, high] = RAM;
    let first = size.min(low.size());
    let second = size - first;
    if size == 0 || second > high.size() {
        return None;
    }
    let banks = [
        PhysRange::from_size(low.base().raw(), first),
        PhysRange::from_size(high.base().raw(), second),
    ];
    Some(banks.into_iter().filter(|bank| !bank.is_empty()).collect())
}

/// Shared memory as the guest's tree names it.
#[derive(Clone, Copy, Debug)]
pub struct SharedRegion<'a> {
    /// `xen,shm-id`.
    pub id: &'a str,
    /// Where the guest sees it.
    pub guest: PhysRange,
}

/// What a domain's tree is made from.
#[derive(Clone, Copy)]
pub struct DomuInput<'a> {
    /// Where things are.
    pub layout: &'a Layout,
    /// The domain's RAM, as it sees it.
    pub banks: &'a [PhysRange],
    /// Its vCPUs.
    pub vcpus: u32,
    /// What its CPUs are.
    pub execution: Execution,
    /// `compatible` of its CPUs, as a property's value.
    pub cpu_compatible: &'a [u8],
    /// `clock-frequency` of the timer, where the host's firmware does not set CNTFRQ.
    pub clock_frequency: Option<u32>,
    /// Xen's version as the tree names it: "4.17".
    pub xen_version: &'a str,
    /// Whether it sees the hypervisor.
    pub is_enhanced: bool,
    /// Whether it has a virtual UART.
    pub has_uart: bool,
    /// Whether it has an initrd; its place is set later with [`DomuTree::set_initrd`].
    pub has_initrd: bool,
    /// The command line.
    pub bootargs: &'a str,
    /// Memory shared with other domains.
    pub shared: &'a [SharedRegion<'a>],
    /// The partial tree of devices that are passed through.
    pub partial: Option<&'a Tree<'a>>,
}

/// A domain's device tree.
#[derive(Debug)]
pub struct DomuTree {
    /// The flattened device tree. Its size does not change any more.
    pub blob: Vec<u8>,
    initrd_at: Option<(usize, usize)>,
}

impl DomuTree {
    /// Writes where the initrd lies: first byte and byte behind the last. Does nothing in a tree built without one.
    pub fn set_initrd(&mut self, start: u64, end: u64) {
        let Some((start_at, end_at)) = self.initrd_at else {
            return;
        };
        for (at, value) in [(start_at, start), (end_at, end)] {
            if let Some(slot) = self.blob.get_mut(at..at.saturating_add(8)) {
                slot.copy_from_slice(&value.to_be_bytes());
            }
        }
    }
}

/// Builds a domain's device tree.
///
/// # Errors
/// [`WriteError`]: too large, no memory, or a partial tree that cannot be copied.
#[inline(never)]
pub fn build(input: &DomuInput<'_>) -> Result<DomuTree, WriteError> {
    let gic = input.partial.and_then(|tree| tree.find("/gic")?.phandle());
    let mut emitter = Emitter {
        writer: FdtWriter::new(MAX_TREE_SIZE, &[], &[])?,
        gic_phandle: gic.unwrap_or_else(|| {
            let used = input.partial.map_or(0, Tree::max_phandle);
            used.saturating_add(1).max(GIC_PHANDLE)
        }),
        input,
    };
    let initrd_at = emitter.emit()?;
    Ok(DomuTree {
        blob: emitter.writer.finish()?,
        initrd_at,
    })
}

/// Properties of a partial tree that are for the hypervisor.
const CONSUMED: [&[u8]; 3] = [b"xen,reg", b"xen,path", b"xen,force-assign-without-iommu"];

struct Emitter<'b> {
    writer: FdtWriter,
    gic_phandle: u32,
    input: &'b DomuInput<'b>,
}

impl Emitter<'_> {
    fn emit(&mut self) -> Result<Option<(usize, usize)>, WriteError> {
        let input = self.input;
        let version = input.xen_version;
        self.writer.begin_node(b"")?;
        self.writer.property_u32("#address-cells", 2)?;
        self.writer.property_u32("#size-cells", 2)?;
        self.writer
            .property_u32("interrupt-parent", self.gic_phandle)?;
        self.writer
            .property_string("model", &format!("XENVM-{version}"))?;
        self.writer.property_strings(
            "compatible",
            &[&format!("xen,xenvm-{version}"), "xen,xenvm"],
        )?;
        let initrd_at = self.chosen()?;
        self.psci()?;
        self.cpus()?;
        for bank in input.banks {
            self.writer
                .begin_node(format!("memory@{:x}", bank.base()).as_bytes())?;
            self.writer.property_string("device_type", "memory")?;
            self.regions(&[*bank])?;
            self.writer.end_node()?;
        }
        self.reserved_memory()?;
        self.gic()?;
        self.timer()?;
        if input.is_enhanced {
            self.writer.begin_node(b"hypervisor")?;
            self.writer
                .property_strings("compatible", &[&format!("xen,xen-{version}"), "xen,xen"])?;
            self.regions(&[input.layout.grant_table])?;
            self.ppis(&[input.layout.evtchn_ppi])?;
            self.writer.end_node()?;
        }
        if input.has_uart {
            self.uart()?;
        }
        if let Some(partial) = input.partial {
            for name in ["/aliases", "/passthrough"] {
                if let Some(node) = partial.find(name) {
                    self.copy(node)?;
                }
            }
        }
        self.writer.end_node()?;
        Ok(initrd_at)
    }

    fn chosen(&mut self) -> Result<Option<(usize, usize)>, WriteError> {
        self.writer.begin_node(b"chosen")?;
        self.writer
            .property_string("bootargs", self.input.bootargs)?;
        if self.input.has_uart {
            let path = format!("/{}", self.uart_name());
            self.writer.property_string("stdout-path", &path)?;
        }
        let mut at = None;
        if self.input.has_initrd {
            let start = self.writer.property_u64("linux,initrd-start", 0)?;
            let end = self.writer.property_u64("linux,initrd-end", 0)?;
            at = Some((start, end));
        }
        self.writer.end_node()?;
        Ok(at)
    }

    fn psci(&mut self) -> Result<(), WriteError> {
        self.writer.begin_node(b"psci")?;
        self.writer
            .property_strings("compatible", &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"])?;
        self.writer.property_string("method", "hvc")?;
        // The function numbers of PSCI 0.1, which has none of its own: Xen's.
        self.writer.property_u32("cpu_off", 1)?;
        self.writer.property_u32("cpu_on", 2)?;
        self.writer.end_node()
    }

    fn cpus(&mut self) -> Result<(), WriteError> {
        self.writer.begin_node(b"cpus")?;
        self.writer.property_u32("#address-cells", 1)?;
        self.writer.property_u32("#size-cells", 0)?;
        for vcpu in 0..self.input.vcpus {
            // As the vCPU's MPIDR: 16 to a cluster.
            let reg = ((vcpu / 16) << 8) | (vcpu % 16);
            self.writer.begin_node(format!("cpu@{reg:x}").as_bytes())?;
            self.writer
                .property("compatible", self.input.cpu_compatible)?;
            self.writer.property_string("device_type", "cpu")?;
            self.writer.property_string("enable-method", "psci")?;
            self.writer.property_u32("reg", reg)?;
            self.writer.end_node()?;
        }
        self.writer.end_node()
    }

    fn reserved_memory(&mut self) -> Result<(), WriteError> {
        if self.input.shared.is_empty() {
            return Ok(());
        }
        self.writer.begin_node(b"reserved-memory")?;
        self.writer.property_u32("#address-cells", 2)?;
        self.writer.property_u32("#size-cells", 2)?;
        self.writer.property_empty("ranges")?;
        for shared in self.input.shared {
            self.writer
                .begin_node(format!("xen-shmem@{:x}", shared.guest.base()).as_bytes())?;
            self.writer
                .property_string("compatible", "xen,shared-memory-v1")?;
            self.regions(&[shared.guest])?;
            self.writer.property_string("xen,id", shared.id)?;
            self.writer.end_node()?;
        }
        self.writer.end_node()
    }

    fn gic(&mut self) -> Result<(), WriteError> {
        let layout = self.input.layout;
        self.writer
            .begin_node(format!("interrupt-controller@{:x}", layout.gicd.base()).as_bytes())?;
        match &layout.gic {
            DomuGic::V2 { .. } => self
                .writer
                .property_strings("compatible", &["arm,cortex-a15-gic", "arm,cortex-a9-gic"])?,
            DomuGic::V3 { regions } => {
                self.writer
                    .property_strings("compatible", &["arm,gic-v3"])?;
                let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
                self.writer.property_u32("#redistributor-regions", count)?;
            }
        }
        self.writer.property_u32("#interrupt-cells", 3)?;
        self.writer.property_u32("#address-cells", 0)?;
        self.writer.property_empty("interrupt-controller")?;
        self.regions(&layout.gic_registers())?;
        self.writer.property_u32("phandle", self.gic_phandle)?;
        self.writer.end_node()
    }

    fn timer(&mut self) -> Result<(), WriteError> {
        self.writer.begin_node(b"timer")?;
        let timer = match self.input.execution {
            Execution::AArch32 => "arm,armv7-timer",
            Execution::AArch64 => "arm,armv8-timer",
        };
        self.writer.property_string("compatible", timer)?;
        self.ppis(&self.input.layout.timer_ppis)?;
        if let Some(frequency) = self.input.clock_frequency {
            self.writer.property_u32("clock-frequency", frequency)?;
        }
        self.writer.end_node()
    }

    fn uart_name(&self) -> alloc::string::String {
        format!("sbsa-uart@{:x}", self.input.layout.uart.0.base())
    }

    fn uart(&mut self) -> Result<(), WriteError> {
        let (registers, irq) = self.input.layout.uart;
        self.writer.begin_node(self.uart_name().as_bytes())?;
        self.writer.property_string("compatible", "arm,sbsa-uart")?;
        self.regions(&[registers])?;
        let spi = u32::from(irq.raw()).saturating_sub(32);
        self.writer
            .property_cells("interrupts", &[0, spi, SPI_HIGH])?;
        self.writer.property_u32("current-speed", 115_200)?;
        self.writer.end_node()
    }

    /// Copies a node of the partial tree with all below it.
    fn copy(&mut self, top: Node<'_, '_>) -> Result<(), WriteError> {
        let mut open = 0;
        for node in top.walk() {
            let depth = node.depth().saturating_sub(top.depth());
            while open > depth {
                self.writer.end_node()?;
                open -= 1;
            }
            self.writer.begin_node(node.name().as_bytes())?;
            open += 1;
            for property in node.properties() {
                if !CONSUMED.contains(&property.name) {
                    let name =
                        core::str::from_utf8(property.name).map_err(|_| WriteError::BadName)?;
                    self.writer.property(name, property.value)?;
                }
            }
        }
        for _ in 0..open {
            self.writer.end_node()?;
        }
        Ok(())
    }

    /// Writes `interrupts` that are PPIs of the GIC.
    fn ppis(&mut self, ppis: &[IntId]) -> Result<(), WriteError> {
        let mut cells = Vec::new();
        for ppi in ppis {
            cells.extend([1, u32::from(ppi.raw()).saturating_sub(16), PPI_FLAGS]);
        }
        self.writer.property_cells("interrupts", &cells)
    }

    /// Writes `reg` for a child of the root.
    fn regions(&mut self, regions: &[PhysRange]) -> Result<(), WriteError> {
        let mut reg = Vec::new();
        for region in regions {
            for number in [region.base().raw(), region.size()] {
                // Both halves fit by construction.
                reg.extend([(number >> 32) as u32, (number & 0xffff_ffff) as u32]);
            }
        }
        self.writer.property_cells("reg", &reg)
    }
}
