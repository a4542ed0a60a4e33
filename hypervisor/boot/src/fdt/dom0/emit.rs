//! Writes dom0's tree: the walk over the host's, and the nodes that are Xenith's own.

use alloc::format;
use alloc::vec::Vec;

use super::{BuildError, Builder, Fate, MAX_TREE_SIZE, WarningKind};
use crate::fdt::format::{MAX_DEPTH, be32};
use crate::fdt::interrupts::GicInterrupt;
use crate::fdt::tree::{Node, Property, Tree};
use crate::fdt::writer::{FdtWriter, WriteError};
use crate::memory::PhysRange;
use xenith_core::addr::{HostPhys, IntId};
use xenith_core::emulate::Execution;
use xenith_core::machine::Trigger;

/// Room for Xenith's own nodes besides one for each vCPU and the strings, in bytes.
const OWN_NODES_SIZE: usize = 2048;
const CPU_NODE_SIZE: usize = 160;
/// Flags of a PPI in the arm,gic binding: the first four CPUs, active low level, as Xen gives.
const PPI_FLAGS: u32 = 0xf08;

/// The tree and the offsets of the initrd's start and end in it.
type Emitted = (Vec<u8>, Option<(usize, usize)>);

/// Writes the tree, and collects in the builder what dom0 gets.
pub(super) fn emit(builder: &mut Builder<'_>) -> Result<Emitted, BuildError> {
    let tree = builder.tree;
    let input = builder.input;
    let mut emitter = Emitter {
        writer: FdtWriter::new(MAX_TREE_SIZE, &[], tree.strings())?,
        gic_phandle: builder.gic_phandle,
        root_cells: (tree.root().address_cells(), tree.root().size_cells()),
        initrd_at: None,
    };
    let cpus_size =
        CPU_NODE_SIZE.saturating_mul(usize::try_from(input.vcpus.min(1024)).unwrap_or(0));
    let banks_size = input
        .banks
        .len()
        .saturating_add(input.reserved.len())
        .saturating_mul(16);
    let arguments_size = input.bootargs.map_or(0, str::len);
    let own_size = OWN_NODES_SIZE
        .saturating_add(cpus_size)
        .saturating_add(banks_size)
        .saturating_add(arguments_size);
    emitter
        .writer
        .reserve(tree.structure_size().saturating_add(own_size))?;

    // Where the subtrees of the open nodes end.
    let mut open = [0; MAX_DEPTH];
    let mut depth: usize = 0;
    let mut has_chosen = false;
    let mut has_timer = false;
    let mut skip_to = 0;
    for node in tree.nodes() {
        if node.index() < skip_to {
            continue;
        }
        while depth > 1 && open.get(depth - 1).is_some_and(|end| node.index() >= *end) {
            emitter.writer.end_node()?;
            depth -= 1;
        }
        let fate = builder.fate(node);
        match fate {
            Fate::Copy | Fate::CopyDisabled | Fate::CopyChosen => {
                emitter.writer.begin_node(node.name().as_bytes())?;
                match fate {
                    Fate::CopyChosen if !has_chosen => {
                        emitter.chosen_properties(builder, Some(node))?;
                        has_chosen = true;
                    }
                    Fate::CopyDisabled => {
                        emitter.copy_properties(node, &|property| property.name != b"status")?;
                        emitter.writer.property_string("status", "disabled")?;
                        builder.permit(node);
                    }
                    _ => {
                        let is_aliases =
                            node.name() == "aliases" && node.parent().is_some_and(Node::is_root);
                        emitter.copy_properties(node, &|property| {
                            let target = named(property, tree).filter(|_| is_aliases);
                            !target.is_some_and(|target| builder.is_console(target))
                        })?;
                        builder.give(node);
                    }
                }
                *open.get_mut(depth).ok_or(WriteError::TooDeep)? = node.end();
                depth += 1;
                continue;
            }
            Fate::Gic => emitter.gic(builder)?,
            Fate::Timer if !has_timer => {
                emitter.timer(builder, Some(node))?;
                has_timer = true;
            }
            Fate::Timer | Fate::Skip => {}
        }
        skip_to = node.end();
    }
    while depth > 1 {
        emitter.writer.end_node()?;
        depth -= 1;
    }
    if !has_chosen {
        emitter.writer.begin_node(b"chosen")?;
        emitter.chosen_properties(builder, None)?;
        emitter.writer.end_node()?;
    }
    if !has_timer {
        emitter.timer(builder, None)?;
    }
    emitter.hypervisor(builder)?;
    emitter.psci()?;
    emitter.cpus(builder)?;
    emitter.memory(input.banks)?;
    if !input.reserved.is_empty() {
        emitter.memory(input.reserved)?;
    }
    emitter.writer.end_node()?;
    Ok((emitter.writer.finish()?, emitter.initrd_at))
}

struct Emitter {
    writer: FdtWriter,
    gic_phandle: u32,
    root_cells: (u32, u32),
    initrd_at: Option<(usize, usize)>,
}

impl Emitter {
    /// Copies the properties that `wanted` accepts.
    fn copy_properties(
        &mut self,
        node: Node<'_, '_>,
        wanted: &dyn Fn(&Property<'_>) -> bool,
    ) -> Result<(), WriteError> {
        for property in node.properties().filter(wanted) {
            self.writer
                .property_at(property.name_offset, property.value)?;
        }
        Ok(())
    }

    /// What is Xen's in `/chosen` goes, what is for dom0's kernel stays, and the kernel's own is written anew.
    fn chosen_properties(
        &mut self,
        builder: &Builder<'_>,
        node: Option<Node<'_, '_>>,
    ) -> Result<(), WriteError> {
        const REPLACED: [&[u8]; 10] = [
            b"bootargs",
            b"xen,xen-bootargs",
            b"xen,dom0-bootargs",
            b"linux,initrd-start",
            b"linux,initrd-end",
            b"stdout-path",
            b"linux,stdout-path",
            b"xen,static-heap",
            b"#xen,static-heap-address-cells",
            b"#xen,static-heap-size-cells",
        ];
        if let Some(node) = node {
            self.copy_properties(node, &|property| {
                !REPLACED.contains(&property.name) && !property.name.starts_with(b"linux,uefi-")
            })?;
        }
        if let Some(bootargs) = builder.input.bootargs {
            self.writer.property_string("bootargs", bootargs)?;
        }
        if builder.input.has_initrd {
            let start = self.writer.property_u64("linux,initrd-start", 0)?;
            let end = self.writer.property_u64("linux,initrd-end", 0)?;
            self.initrd_at = Some((start, end));
        }
        Ok(())
    }

    /// The GIC as dom0 has it: the emulated distributor and the virtual CPU interface where the host has its own,
    /// without the virtualization registers and without the maintenance interrupt.
    fn gic(&mut self, builder: &mut Builder<'_>) -> Result<(), WriteError> {
        let gic = builder.gic;
        let range_cells = gic.parent().map_or(3, |bus| {
            bus.address_cells().saturating_add(bus.size_cells())
        });
        let ranges = builder.input.gic_ranges;
        let seen = range_cells.saturating_mul(4).saturating_mul(ranges);
        let seen = usize::try_from(seen).unwrap_or(usize::MAX);
        let regions = ranges.saturating_sub(1).to_be_bytes();
        self.writer.begin_node(gic.name().as_bytes())?;
        self.writer.property_u32("phandle", self.gic_phandle)?;
        for property in gic.properties() {
            let value = match property.name {
                b"compatible"
                | b"#address-cells"
                | b"#size-cells"
                | b"#interrupt-cells"
                | b"interrupt-controller"
                // Itself, where the root names another controller (i.MX, OMAP): Linux takes it for that one's child else.
                | b"interrupt-parent"
                | b"ranges" => property.value,
                b"#redistributor-regions" => &regions,
                b"reg" => property.value.get(..seen).unwrap_or(property.value),
                _ => continue,
            };
            self.writer.property_at(property.name_offset, value)?;
        }
        for frame in gic.children() {
            if frame.is_compatible(&["arm,gic-v2m-frame"]) && frame.is_available() {
                self.msi_frame(builder, frame)?;
            }
        }
        self.writer.end_node()
    }

    /// A GICv2m frame: its page is mapped, and its SPIs come as edges when a device writes to it.
    fn msi_frame<'b>(
        &mut self,
        builder: &mut Builder<'b>,
        frame: Node<'b, 'b>,
    ) -> Result<(), WriteError> {
        let mut found = None;
        frame.for_each_reg(builder.irqs.budget(), &mut |start, size| {
            found = found.or(Some((start, size)));
        });
        let Some((start, size)) = found else {
            builder.warn(frame, WarningKind::BadMsiFrame);
            return Ok(());
        };
        let given = |name: &str| frame.prop(name).and_then(|value| be32(value, 0));
        // MSI_TYPER: first SPI in bits 25:16, their number in bits 9:0 (Arm Server Base System Architecture).
        let typer = || (builder.input.msi_typer)(HostPhys::new(start)).unwrap_or(0);
        let first = given("arm,msi-base-spi").unwrap_or_else(|| typer() >> 16 & 0x3ff);
        let count = given("arm,msi-num-spis").unwrap_or_else(|| typer() & 0x3ff);
        let end = first.saturating_add(count);
        if first < 32 || count == 0 || end > builder.lines() {
            builder.warn(frame, WarningKind::BadMsiFrame);
            return Ok(());
        }
        builder.map(frame, start, size);
        for id in first..end {
            builder.route(
                frame,
                GicInterrupt {
                    id,
                    trigger: Trigger::Edge,
                },
            );
        }
        self.writer.begin_node(frame.name().as_bytes())?;
        self.copy_properties(frame, &|property| {
            matches!(
                property.name,
                b"compatible" | b"msi-controller" | b"reg" | b"phandle" | b"linux,phandle"
            )
        })?;
        // Spelt out, so that the guest need not trust a register that it reads through its own mapping.
        self.writer.property_u32("arm,msi-base-spi", first)?;
        self.writer.property_u32("arm,msi-num-spis", count)?;
        self.writer.end_node()
    }

    fn timer(
        &mut self,
        builder: &Builder<'_>,
        host: Option<Node<'_, '_>>,
    ) -> Result<(), WriteError> {
        self.writer
            .begin_node(host.map_or("timer", |node| node.name()).as_bytes())?;
        let compatible = host.and_then(|node| node.prop("compatible"));
        self.writer.property(
            "compatible",
            compatible.unwrap_or(match builder.input.execution {
                Execution::AArch32 => b"arm,armv7-timer\0",
                Execution::AArch64 => b"arm,armv8-timer\0",
            }),
        )?;
        self.ppis(&builder.input.timer_ppis)?;
        if let Some(frequency) = host.and_then(|node| node.prop("clock-frequency")) {
            self.writer.property("clock-frequency", frequency)?;
        }
        self.writer.end_node()
    }

    fn hypervisor(&mut self, builder: &Builder<'_>) -> Result<(), BuildError> {
        self.writer.begin_node(b"hypervisor")?;
        self.writer
            .property_strings("compatible", builder.input.xen_compatible)?;
        let mut regions = alloc::vec![builder.input.grant_table];
        regions.extend(builder.extended_regions());
        self.regions(&regions)?;
        self.ppis(&[builder.input.evtchn_ppi])?;
        self.writer.end_node()?;
        Ok(())
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

    /// Dom0's vCPUs, all like the host's boot CPU. What names a CPU of the host, as a cooling map does, finds the vCPU at
    /// its place.
    fn cpus(&mut self, builder: &Builder<'_>) -> Result<(), WriteError> {
        let host = host_cpu(builder);
        let mut named = builder
            .tree
            .find("/cpus")
            .into_iter()
            .flat_map(|cpus| cpus.children())
            .filter(|node| node.text("device_type") == "cpu");
        self.writer.begin_node(b"cpus")?;
        self.writer.property_u32("#address-cells", 1)?;
        self.writer.property_u32("#size-cells", 0)?;
        for vcpu in 0..builder.input.vcpus {
            // As the vCPU's MPIDR: 16 to a cluster.
            let reg = ((vcpu / 16) << 8) | (vcpu % 16);
            self.writer.begin_node(format!("cpu@{reg:x}").as_bytes())?;
            for name in ["compatible", "clock-frequency"] {
                if let Some(value) = host.and_then(|host| host.prop(name)) {
                    self.writer.property(name, value)?;
                }
            }
            self.writer.property_string("device_type", "cpu")?;
            // A 32-bit kernel needs no word: there is but one way.
            if builder.input.execution == Execution::AArch64 {
                self.writer.property_string("enable-method", "psci")?;
            }
            self.writer.property_u32("reg", reg)?;
            if let Some(host) = named.next() {
                for name in ["phandle", "#cooling-cells"] {
                    if let Some(value) = host.prop(name) {
                        self.writer.property(name, value)?;
                    }
                }
            }
            self.writer.end_node()?;
        }
        self.writer.end_node()
    }

    fn memory(&mut self, banks: &[PhysRange]) -> Result<(), BuildError> {
        let first = banks.first().map_or(0, |bank| bank.base().raw());
        self.writer
            .begin_node(format!("memory@{first:x}").as_bytes())?;
        self.writer.property_string("device_type", "memory")?;
        self.regions(banks)?;
        self.writer.end_node()?;
        Ok(())
    }

    /// Writes `interrupts` that are PPIs of the GIC.
    fn ppis(&mut self, ppis: &[IntId]) -> Result<(), WriteError> {
        let mut specifiers = [0; 9];
        for (slot, ppi) in specifiers.chunks_exact_mut(3).zip(ppis) {
            slot.copy_from_slice(&[1, u32::from(ppi.raw()).saturating_sub(16), PPI_FLAGS]);
        }
        let length = ppis.len().saturating_mul(3).min(specifiers.len());
        self.writer
            .property_cells("interrupts", specifiers.get(..length).unwrap_or(&[]))?;
        self.writer
            .property_u32("interrupt-parent", self.gic_phandle)
    }

    /// Writes `reg` for a child of the root.
    fn regions(&mut self, regions: &[PhysRange]) -> Result<(), BuildError> {
        let (address_cells, size_cells) = self.root_cells;
        let mut reg = Vec::new();
        for &region in regions {
            let fits = push_number(&mut reg, address_cells, region.base().raw())
                .and_then(|()| push_number(&mut reg, size_cells, region.size()));
            fits.ok_or(BuildError::CellsTooNarrow(region))?;
        }
        self.writer.property_cells("reg", &reg)?;
        Ok(())
    }
}

/// Returns the node whose path the property is: an alias of it.
fn named<'b>(property: &Property<'_>, tree: &'b Tree<'b>) -> Option<Node<'b, 'b>> {
    let path = property.value.strip_suffix(b"\0")?;
    tree.find(core::str::from_utf8(path).ok()?)
}

/// The host's CPU node that dom0's are made like: the boot CPU's, or the first.
fn host_cpu<'b>(builder: &Builder<'b>) -> Option<Node<'b, 'b>> {
    let cpus = builder.tree.find("/cpus")?;
    let is_boot_cpu = |node: &Node<'_, '_>| {
        // On a 64-bit machine reg may have two cells, affinity 3 in the first.
        let reg = node
            .prop("reg")
            .and_then(|reg| be32(reg, reg.len().checked_sub(4)?));
        reg == Some(builder.input.boot_mpidr & 0x00ff_ffff)
    };
    let candidates = || {
        cpus.children()
            .filter(|node| node.text("device_type") == "cpu")
    };
    candidates()
        .find(is_boot_cpu)
        .or_else(|| candidates().next())
}

fn push_number(cells: &mut Vec<u32>, count: u32, value: u64) -> Option<()> {
    let low = u32::try_from(value & 0xffff_ffff).ok()?;
    let high = u32::try_from(value >> 32).ok()?;
    match count {
        1 if high == 0 => cells.push(low),
        2 => cells.extend([high, low]),
        _ => return None,
    }
    Some(())
}
