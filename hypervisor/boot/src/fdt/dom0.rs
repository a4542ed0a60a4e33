//! Dom0's device tree: a copy of the host's with the edits Xen makes, and the list of what dom0 gets with it.
//!
//! Dom0 drives the machine, so it sees the host's tree except for what Xenith keeps (its console, the GIC's real
//! registers, the CPUs) and with what Xenith adds (`/hypervisor`, PSCI by HVC, its own memory and CPUs). Every
//! enabled node's registers are to be mapped 1:1 and its SPIs routed; this module says which, the caller does it.
//! The rules are Xen 4.17's as a dom0 of it sees them.
//!
//! Invariants: nothing in [`Dom0Tree::mmio`] touches RAM outside the reserved regions, the GIC's registers or what
//! the caller forbids, whatever the tree says; no SPI in [`Dom0Tree::spis`] is beyond the GIC or used by the
//! console. The host's tree is not trusted to be well-formed. Takes no locks; allocates, so for boot only.

mod emit;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

use crate::fdt::interrupts::{GicInterrupt, IrqResolver};
use crate::fdt::tree::{Node, Strings, Tree};
use crate::fdt::writer::WriteError;
use crate::insert_sorted;
use crate::memory::{PhysRange, normalise, subtract};
use xenith_core::addr::{HostPhys, IntId};
use xenith_core::emulate::Execution;
use xenith_core::machine::Trigger;

/// Compatible strings of the interrupt controllers that Xenith drives, and so replaces in dom0's tree.
const GIC_COMPATIBLES: [&str; 6] = [
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,gic-400",
    "arm,gic-v2",
    "arm,cortex-a9-gic",
    "arm,gic-v3",
];
/// More warnings are counted, not kept.
const MAX_WARNINGS: usize = 32;
/// Linux needs the whole tree mapped by a 2 MiB section.
const MAX_TREE_SIZE: usize = 2 << 20;

/// What dom0's tree is made from.
#[derive(Clone, Copy)]
pub struct Dom0Input<'a> {
    /// The host's device tree.
    pub host: &'a Tree<'a>,
    /// Path or alias of the UART that Xenith uses, hidden from dom0; options after `:` are ignored.
    pub console: Option<&'a str>,
    /// Compatible strings of nodes that the platform keeps from dom0.
    pub hidden_compatibles: &'a [&'a str],
    /// `compatible` of `/hypervisor`, as "xen,xen-4.17", "xen,xen".
    pub xen_compatible: &'a [&'a str],
    /// Dom0's RAM.
    pub banks: &'a [PhysRange],
    /// The host's whole RAM: never mapped as a device, but for `reserved` and `memreserve`.
    pub ram: &'a [PhysRange],
    /// The ranges of `/reserved-memory`: not given to any domain's allocator, for dom0's drivers to use.
    pub reserved: &'a [PhysRange],
    /// What firmware keeps (`/memreserve/`): a device of dom0's may be there, memory that it is told of is not.
    pub memreserve: &'a [PhysRange],
    /// What must not be mapped besides: the hypervisor and the boot modules if they are outside `ram`.
    pub forbidden: &'a [PhysRange],
    /// Width of a physical address in bits (40 with LPAE).
    pub phys_bits: u32,
    /// Dom0's vCPUs.
    pub vcpus: u32,
    /// What they are.
    pub execution: Execution,
    /// MPIDR of the boot CPU: dom0's CPU nodes are like this one's.
    pub boot_mpidr: u32,
    /// The distributor in use; tells the GIC's node from others.
    pub gic_dist: HostPhys,
    /// How many ranges of the GIC's `reg` dom0 sees: distributor and CPU interface, or distributor and redistributors.
    pub gic_ranges: u32,
    /// Number of interrupts the GIC has, SGIs and PPIs included (GICD_TYPER).
    pub gic_lines: u32,
    /// The timers' PPIs: secure physical, non-secure physical, virtual.
    pub timer_ppis: [IntId; 3],
    /// The PPI of the event channel upcall; see [`event_channel_ppi`].
    pub evtchn_ppi: IntId,
    /// Where dom0 may map its grant table.
    pub grant_table: PhysRange,
    /// Whether dom0 has an initrd; its place is set later with [`Dom0Tree::set_initrd`].
    pub has_initrd: bool,
    /// Dom0's command line.
    pub bootargs: Option<&'a str>,
    /// Reads the MSI_TYPER register of the GICv2m frame at the given address, for a frame whose node does not say
    /// which SPIs it has.
    pub msi_typer: &'a dyn Fn(HostPhys) -> Option<u32>,
}

/// Dom0's device tree and what comes with it.
#[derive(Debug)]
pub struct Dom0Tree {
    /// The flattened device tree. Its size does not change any more.
    pub blob: Vec<u8>,
    /// What to map 1:1 into dom0, in whole pages, sorted, no two ranges touching.
    pub mmio: Vec<PhysRange>,
    /// The SPIs to route to dom0 under their own number, sorted.
    pub spis: Vec<(IntId, Trigger)>,
    /// Device memory that is not dom0's, but dom0's to give: of the devices marked `xen,passthrough`.
    pub passthrough_mmio: Vec<PhysRange>,
    /// SPIs of these devices.
    pub passthrough_spis: Vec<(IntId, Trigger)>,
    /// What was left out or looks wrong, for the log.
    pub warnings: Vec<Warning>,
    /// How many more warnings there were.
    pub suppressed_warnings: u32,
    initrd_at: Option<(usize, usize)>,
}

impl Dom0Tree {
    /// Writes where the initrd lies: first byte and byte behind the last. Does nothing in a tree built without one.
    #[inline(never)]
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

/// Something about a node of the host's tree that the administrator should know; the boot goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Path of the node.
    pub path: String,
    /// What about it.
    pub kind: WarningKind,
}

/// What a [`Warning`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// The node uses an interrupt that the GIC does not have: left out of dom0's tree.
    NoSuchInterrupt(u32),
    /// An entry of its `interrupt-map` or its MSI range names an interrupt that the GIC does not have: not routed.
    NoSuchMappedInterrupt(u32),
    /// It shares an interrupt with Xenith's console: not routed.
    InterruptInUse(u32),
    /// Another node uses the same interrupt with another trigger type, which counts.
    TriggerConflict(u32),
    /// Part of the range is RAM, or belongs to the hypervisor: that part is not mapped.
    MmioOverlap(PhysRange),
    /// The range is beyond the physical address space: not mapped.
    MmioBeyondPhysical(PhysRange),
    /// Xenith writes its own node of that name: the host's was left out.
    Replaced,
    /// No such node: nothing is hidden from dom0.
    NoConsole,
    /// A GICv2m frame without usable SPIs: left out.
    BadMsiFrame,
}

impl core::fmt::Display for Warning {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let path = &self.path;
        match self.kind {
            WarningKind::NoSuchInterrupt(id) => {
                write!(
                    f,
                    "{path}: interrupt {id} is beyond the GIC's; left out of dom0's device tree"
                )
            }
            WarningKind::NoSuchMappedInterrupt(id) => {
                write!(
                    f,
                    "{path}: interrupt {id} is beyond the GIC's; not routed to dom0"
                )
            }
            WarningKind::InterruptInUse(id) => {
                write!(
                    f,
                    "{path}: interrupt {id} is the console's; not routed to dom0"
                )
            }
            WarningKind::TriggerConflict(id) => {
                write!(
                    f,
                    "{path}: interrupt {id} is level for one device and edge for another"
                )
            }
            WarningKind::MmioOverlap(region) => {
                write!(
                    f,
                    "{path}: {region} overlaps RAM or the hypervisor's devices; that part is not mapped to dom0"
                )
            }
            WarningKind::MmioBeyondPhysical(region) => {
                write!(
                    f,
                    "{path}: {region} is beyond the physical address space; not mapped to dom0"
                )
            }
            WarningKind::Replaced => write!(f, "{path}: replaced by the hypervisor's own node"),
            WarningKind::NoConsole => write!(
                f,
                "{path}: no such device tree node; no UART is hidden from dom0"
            ),
            WarningKind::BadMsiFrame => write!(
                f,
                "{path}: no usable SPIs for MSIs; left out of dom0's device tree"
            ),
        }
    }
}

/// Why dom0's tree could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The tree asks for absurdly much work (cyclic or huge `ranges` and `interrupt-map` properties).
    TooComplex,
    /// No GIC node whose first register range is at this address.
    NoGic(HostPhys),
    /// The root's `#address-cells` and `#size-cells` cannot express this range of dom0's.
    CellsTooNarrow(PhysRange),
    /// Dom0 has no RAM or no vCPU, or a timer or event channel interrupt that is no PPI.
    BadInput,
    /// The result is too large, or the heap is exhausted.
    Write(WriteError),
}

impl core::fmt::Display for BuildError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooComplex => f.write_str(
                "the host's device tree has absurdly long ranges or interrupt-map lists",
            ),
            Self::NoGic(at) => write!(
                f,
                "the device tree has no GIC with its distributor at {at:#x}"
            ),
            Self::CellsTooNarrow(region) => {
                write!(
                    f,
                    "{region} does not fit the cell counts of the device tree's root; give dom0 other memory"
                )
            }
            Self::BadInput => f.write_str("dom0 has no memory, no vCPU or no PPI"),
            Self::Write(error) => write!(f, "dom0's device tree: {error}"),
        }
    }
}

impl From<WriteError> for BuildError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// Returns the PPI for dom0's event channel upcall: the lowest that no timer uses.
#[inline(never)]
pub fn event_channel_ppi(timer_ppis: &[IntId]) -> Option<IntId> {
    (16..32)
        .map(IntId::new)
        .find(|ppi| !timer_ppis.contains(ppi))
}

/// Builds dom0's device tree.
///
/// # Errors
/// A [`BuildError`]; oddities of single nodes are [`Dom0Tree::warnings`] instead.
#[inline(never)]
pub fn build(input: &Dom0Input<'_>) -> Result<Dom0Tree, BuildError> {
    let is_ppi = |id: &IntId| (16..32).contains(&id.raw());
    if input.vcpus == 0
        || input.banks.is_empty()
        || !input
            .timer_ppis
            .iter()
            .chain([&input.evtchn_ppi])
            .all(is_ppi)
    {
        return Err(BuildError::BadInput);
    }
    let tree = input.host;
    let irqs = IrqResolver::new(tree);
    let is_distributor = |node: &Node<'_, '_>| {
        let mut first = None;
        node.for_each_reg(irqs.budget(), &mut |address, _| {
            first = first.or(Some(address));
        });
        node.is_compatible(&GIC_COMPATIBLES) && first == Some(input.gic_dist.raw())
    };
    let gic = tree
        .nodes()
        .find(is_distributor)
        .ok_or(BuildError::NoGic(input.gic_dist))?;
    let irqs = irqs.with_gic(gic);
    let mut builder = Builder::new(input, gic, &irqs);
    let (blob, initrd_at) = emit::emit(&mut builder)?;
    if irqs.budget().is_exhausted() {
        return Err(BuildError::TooComplex);
    }
    Ok(builder.finish(blob, initrd_at))
}

/// What becomes of a node of the host's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Copied, its resources given to dom0 if it is enabled.
    Copy,
    /// Copied switched off, for another domain to have (`xen,passthrough`).
    CopyDisabled,
    /// Copied with the edits of `/chosen`.
    CopyChosen,
    /// Replaced by dom0's view of the GIC.
    Gic,
    /// Replaced by the timer as dom0 has it.
    Timer,
    /// Left out with everything below.
    Skip,
}

/// The state of one build: what was found out about the host's tree, and what is collected for dom0.
struct Builder<'b> {
    input: &'b Dom0Input<'b>,
    tree: &'b Tree<'b>,
    irqs: &'b IrqResolver<'b, 'b>,
    gic: Node<'b, 'b>,
    gic_phandle: u32,
    console: Option<Node<'b, 'b>>,
    /// The console's registers, unrounded, and its interrupts.
    console_mmio: Vec<PhysRange>,
    console_spis: Vec<u32>,
    /// What must not be mapped, in whole pages.
    closed: Vec<PhysRange>,
    mmio: Vec<PhysRange>,
    /// Sorted.
    spis: Vec<(IntId, Trigger)>,
    passthrough_mmio: Vec<PhysRange>,
    passthrough_spis: Vec<(IntId, Trigger)>,
    warnings: Vec<Warning>,
    suppressed_warnings: u32,
    /// The interrupts of the node looked at, kept to reuse its memory.
    interrupts: Vec<GicInterrupt>,
}

/// Returns the registers of a node.
fn registers(node: Node<'_, '_>, irqs: &IrqResolver<'_, '_>) -> Vec<PhysRange> {
    let mut found = Vec::new();
    node.for_each_reg(irqs.budget(), &mut |start, size| {
        found.push(PhysRange::from_size(start, size));
    });
    found
}

/// Returns the ranges in whole pages.
fn whole_pages(ranges: &[PhysRange]) -> Vec<PhysRange> {
    let ranges = ranges.iter().filter(|range| !range.is_empty());
    ranges.map(PhysRange::grow_to_pages).collect()
}

impl<'b> Builder<'b> {
    fn new(input: &'b Dom0Input<'b>, gic: Node<'b, 'b>, irqs: &'b IrqResolver<'b, 'b>) -> Self {
        let tree = input.host;
        let mut open = whole_pages(input.reserved);
        open.extend(whole_pages(input.memreserve));
        let mut closed = subtract(&whole_pages(input.ram), &open);
        closed.extend(whole_pages(&registers(gic, irqs)));
        closed.extend(whole_pages(input.forbidden));
        let gic_phandle = gic
            .phandle()
            .unwrap_or_else(|| tree.max_phandle().saturating_add(1));
        let console = input
            .console
            .and_then(|path| tree.find_alias_or_path(path.split(':').next()?))
            .filter(|node| !node.is_root());
        let mut builder = Self {
            input,
            tree,
            irqs,
            gic,
            gic_phandle,
            console,
            console_mmio: Vec::new(),
            console_spis: Vec::new(),
            closed: normalise(&closed),
            mmio: Vec::new(),
            spis: Vec::new(),
            passthrough_mmio: Vec::new(),
            passthrough_spis: Vec::new(),
            warnings: Vec::new(),
            suppressed_warnings: 0,
            interrupts: Vec::new(),
        };
        if let Some(console) = console {
            builder.console_mmio = registers(console, irqs);
            irqs.for_each(console, &mut |interrupt| {
                builder.console_spis.push(interrupt.id);
            });
        } else if let Some(path) = input.console {
            builder.warn_path(path.into(), WarningKind::NoConsole);
        }
        builder
    }

    /// Returns where a 64-bit dom0 may map what is others': addresses at which the machine has neither RAM nor devices, in
    /// pieces of whole 2 MiB and at least 64 MiB, as Xen's, as far as the cells of the root can tell them. All nodes were
    /// looked at.
    fn extended_regions(&self) -> Vec<PhysRange> {
        const SECTION: u64 = 2 << 20;
        const LEAST: u64 = 64 << 20;
        const MOST: usize = 32;
        if self.input.execution == Execution::AArch32 {
            return Vec::new();
        }
        let mut used = self.closed.clone();
        used.extend(whole_pages(self.input.ram));
        used.extend(whole_pages(self.input.banks));
        used.extend(whole_pages(&self.console_mmio));
        used.extend(&self.mmio);
        used.push(self.input.grant_table);
        let root = self.tree.root();
        let bits = self
            .input
            .phys_bits
            .min(root.address_cells().saturating_mul(32));
        let end = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
        let most = match root.size_cells() {
            1 => u64::from(u32::MAX),
            _ => u64::MAX,
        };
        subtract(&[PhysRange::from_start_end(0, end)], &used)
            .into_iter()
            .map(|hole| hole.shrink_to(SECTION))
            .map(|hole| PhysRange::from_size(hole.base().raw(), hole.size().min(most)))
            .map(|hole| hole.shrink_to(SECTION))
            .filter(|hole| hole.size() >= LEAST)
            .take(MOST)
            .collect()
    }

    fn finish(self, blob: Vec<u8>, initrd_at: Option<(usize, usize)>) -> Dom0Tree {
        Dom0Tree {
            blob,
            mmio: subtract(&self.mmio, &self.closed),
            spis: self.spis,
            passthrough_mmio: subtract(&self.passthrough_mmio, &self.closed),
            passthrough_spis: self.passthrough_spis,
            warnings: self.warnings,
            suppressed_warnings: self.suppressed_warnings,
            initrd_at,
        }
    }

    fn warn(&mut self, node: Node<'_, '_>, kind: WarningKind) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warn_path(node.path(), kind);
        } else {
            self.suppressed_warnings = self.suppressed_warnings.saturating_add(1);
        }
    }

    fn warn_path(&mut self, path: String, kind: WarningKind) {
        self.warnings.push(Warning { path, kind });
    }

    /// Decides what becomes of a node, and leaves its interrupts in `self.interrupts`.
    fn fate(&mut self, node: Node<'b, 'b>) -> Fate {
        if node.is_root() {
            return Fate::Copy;
        }
        if node == self.gic {
            return Fate::Gic;
        }
        if self.is_console(node) {
            return Fate::Skip;
        }
        if node.parent().is_some_and(Node::is_root) {
            match node.name() {
                "cpus" => return Fate::Skip,
                "chosen" => return Fate::CopyChosen,
                "psci" | "hypervisor" => {
                    let mut compatible = node.compatible().iter();
                    if !compatible.any(|name| name.starts_with("arm,psci")) {
                        self.warn(node, WarningKind::Replaced);
                    }
                    return Fate::Skip;
                }
                _ if node.base_name() == "memory" => return Fate::Skip,
                _ => {}
            }
        }
        let mut passthrough = false;
        for property in node.properties() {
            match property.name {
                b"compatible" => {
                    if let Some(fate) = self.fate_by_compatible(property.value) {
                        return fate;
                    }
                }
                b"device_type" if property.value == b"memory\0" => return Fate::Skip,
                b"xen,passthrough" => passthrough = true,
                _ => {}
            }
        }
        self.interrupts.clear();
        let interrupts = &mut self.interrupts;
        self.irqs
            .for_each(node, &mut |interrupt| interrupts.push(interrupt));
        // The vGIC cannot pass on a physical PPI: such a device would never be heard.
        if self.interrupts.iter().any(|interrupt| interrupt.is_ppi()) {
            return Fate::Skip;
        }
        if passthrough {
            return Fate::CopyDisabled;
        }
        if node.is_available() {
            let lines = self.lines();
            if let Some(beyond) = self
                .interrupts
                .iter()
                .map(|interrupt| interrupt.id)
                .find(|&id| id >= lines)
            {
                self.warn(node, WarningKind::NoSuchInterrupt(beyond));
                return Fate::Skip;
            }
        }
        Fate::Copy
    }

    /// Returns true for the console, and for UARTs of its kind in its page: Allwinner has four in one, and dom0 would get
    /// the page with any of them.
    fn is_console(&self, node: Node<'b, 'b>) -> bool {
        let Some(console) = self.console else {
            return false;
        };
        if node == console {
            return true;
        }
        let kind = console.prop("compatible");
        if kind.is_none() || node.prop("compatible") != kind {
            return false;
        }
        let own = whole_pages(&self.console_mmio);
        let pages = whole_pages(&registers(node, self.irqs));
        pages
            .iter()
            .any(|page| own.iter().any(|own| own.overlaps(page)))
    }

    /// Returns the number of interrupts of the GIC.
    fn lines(&self) -> u32 {
        self.input.gic_lines.min(1020)
    }

    fn fate_by_compatible(&self, list: &[u8]) -> Option<Fate> {
        Strings::new(list).iter().find_map(|name| match name {
            "arm,armv7-timer" | "arm,armv8-timer" => Some(Fate::Timer),
            // The boot protocol's own nodes.
            "xen,xen"
            | "xen,multiboot-module"
            | "multiboot,module"
            | "xen,domain"
            | "xen,evtchn-v1"
            | "xen,domain-shared-memory-v1"
            | "xen,cpupool" => Some(Fate::Skip),
            // Devices that count on a PPI or on the host's CPUs being there.
            "arm,cortex-a7-pmu"
            | "arm,cortex-a15-pmu"
            | "arm,armv8-pmuv3"
            | "arm,cortex-a53-edac"
            | "arm,armv7-timer-mem" => Some(Fate::Skip),
            _ if name.starts_with("arm,psci") => Some(Fate::Skip),
            _ if GIC_COMPATIBLES.contains(&name) => Some(Fate::Skip),
            _ if self.input.hidden_compatibles.contains(&name) => Some(Fate::Skip),
            _ => None,
        })
    }

    /// Gives dom0 the registers and interrupts of an enabled node that [`Builder::fate`] looked at last.
    fn give(&mut self, node: Node<'b, 'b>) {
        if !node.is_available() {
            return;
        }
        let irqs = self.irqs;
        node.for_each_reg(irqs.budget(), &mut |start, size| {
            self.map(node, start, size)
        });
        let interrupts = core::mem::take(&mut self.interrupts);
        for &interrupt in &interrupts {
            self.route(node, interrupt);
        }
        self.interrupts = interrupts;
        if matches!(node.text("device_type"), "pci" | "pciex") {
            node.for_each_pci_window(irqs.budget(), &mut |start, size| {
                self.map(node, start, size)
            });
            irqs.for_each_mapped(node, &mut |interrupt| {
                if interrupt.id >= self.lines() {
                    self.warn(node, WarningKind::NoSuchMappedInterrupt(interrupt.id));
                } else {
                    self.route(node, interrupt);
                }
            });
        }
    }

    /// Lets dom0 give the registers and interrupts of a device to others, without having them.
    fn permit(&mut self, node: Node<'b, 'b>) {
        core::mem::swap(&mut self.mmio, &mut self.passthrough_mmio);
        core::mem::swap(&mut self.spis, &mut self.passthrough_spis);
        self.give(node);
        core::mem::swap(&mut self.mmio, &mut self.passthrough_mmio);
        core::mem::swap(&mut self.spis, &mut self.passthrough_spis);
    }

    fn map(&mut self, node: Node<'b, 'b>, start: u64, size: u64) {
        if size == 0 {
            return;
        }
        let region = PhysRange::from_size(start, size);
        let limit = 1_u64.checked_shl(self.input.phys_bits).unwrap_or(u64::MAX);
        if region.size() != size || region.end().raw() > limit {
            return self.warn(node, WarningKind::MmioBeyondPhysical(region));
        }
        // A device that merely shares a page with the console is dom0's all the same, as with Xen.
        let is_console = self.console_mmio.iter().any(|uart| uart.overlaps(&region));
        let pages = region.grow_to_pages();
        if is_console || self.closed.iter().any(|closed| closed.overlaps(&pages)) {
            self.warn(node, WarningKind::MmioOverlap(region));
        }
        if !is_console {
            self.mmio.push(pages);
        }
    }

    fn route(&mut self, node: Node<'b, 'b>, interrupt: GicInterrupt) {
        let Ok(id) = u16::try_from(interrupt.id).map(IntId::new) else {
            return;
        };
        if !id.is_spi() {
            return;
        }
        if self.console_spis.contains(&interrupt.id) {
            return self.warn(node, WarningKind::InterruptInUse(interrupt.id));
        }
        match self.spis.iter().find(|&&(other, _)| other == id) {
            Some(&(_, trigger)) if trigger != interrupt.trigger => {
                self.warn(node, WarningKind::TriggerConflict(interrupt.id));
            }
            Some(_) => {}
            None => insert_sorted(&mut self.spis, (id, interrupt.trigger), |a, b| a.0 <= b.0),
        }
    }
}
