//! What a boot loader hands over: a device tree, raw or put together of names that mean something, read as far as a boot
//! goes before there is hardware.

use xenith_boot::cmdline::CommandLine;
use xenith_boot::dom0less::{Dom0less, passthrough};
use xenith_boot::fdt::dom0::{self, Dom0Input};
use xenith_boot::fdt::host::{self, HostInfo};
use xenith_boot::fdt::interrupts::IrqResolver;
use xenith_boot::fdt::tree::Tree;
use xenith_boot::fdt::writer::FdtWriter;
use xenith_boot::memory::{PhysRange, subtract};
use xenith_boot::modules::BootModules;
use xenith_core::addr::{HostPhys, IntId};

use crate::input::Input;

const RAM: PhysRange = PhysRange::from_start_end(0x4000_0000, 0xc000_0000);
const XEN: PhysRange = PhysRange::from_start_end(0x4000_0000, 0x4020_0000);
const TIMERS: [IntId; 3] = [IntId::new(29), IntId::new(30), IntId::new(27)];

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() {
        0..=99 => read(input.rest()),
        100..=199 => {
            if let Some(blob) = write(&mut input) {
                read(&blob);
            }
        }
        200..=249 => changed(&mut input),
        _ => {
            let text = String::from_utf8_lossy(input.rest());
            let _ = CommandLine::parse(&text);
        }
    }
}

/// Reads all of a tree.
fn read(blob: &[u8]) {
    let Ok(tree) = Tree::new(blob) else { return };
    let _ = HostInfo::from_tree(&tree).map_err(|error| error.to_string());
    let irqs = IrqResolver::new(&tree);
    let _ = host::console(&tree, &irqs, None).map_err(|error| error.to_string());
    let modules = BootModules::from_tree(&tree, &|at| (at.raw() & 4 == 0).then_some(0xf97c_ff8c));
    let mut taken = Vec::new();
    if let Ok(modules) = &modules {
        let _ = modules
            .check(&[RAM], XEN, XEN)
            .map_err(|error| error.to_string());
        taken = modules.ranges();
    }
    let mut found = Dom0less::from_tree(&tree);
    found.check(&[RAM], &[XEN], &taken, true);
    for (index, domain) in found.domains.iter().enumerate() {
        assert!((1..=8).contains(&domain.vcpus), "{domain:x?}");
        assert!(domain.memory >= 4096 && domain.memory % 4096 == 0);
        for module in domain.modules() {
            assert!(
                RAM.contains(&module) && !XEN.overlaps(&module),
                "{domain:x?}"
            );
        }
        let before = &found.domains[..index];
        assert!(before.iter().all(|other| other.id < domain.id));
        let _ = domain.p2m_bytes();
    }
    // What is put at fixed addresses overwrites nothing.
    for range in found.static_ranges() {
        assert!(RAM.contains(&range) && !XEN.overlaps(&range), "{range}");
        let mut modules = found.module_ranges().into_iter().chain(taken.clone());
        assert!(!modules.any(|module| module.overlaps(&range)), "{range}");
    }
    for skipped in &found.skipped {
        assert!(!skipped.to_string().is_empty());
    }
    let limits = passthrough::Limits {
        closed: &[RAM],
        occupied: &[],
        lines: 288,
        has_dom0: true,
    };
    let _ = passthrough::resolve(&tree, &tree, &irqs, &limits).map_err(|error| error.to_string());
    dom0_tree(&tree);
}

/// Makes dom0's tree, which must be one, and maps no RAM as a device.
fn dom0_tree(tree: &Tree<'_>) {
    let ram = [RAM];
    let built = dom0::build(&Dom0Input {
        execution: xenith_core::emulate::Execution::AArch32,
        host: tree,
        console: Some("serial0"),
        hidden_compatibles: &["arm,hidden"],
        xen_compatible: &["xen,xen-4.17", "xen,xen"],
        banks: &ram,
        ram: &ram,
        reserved: &[],
        memreserve: &[],
        forbidden: &[],
        phys_bits: 40,
        vcpus: 2,
        boot_mpidr: 0x8000_0000,
        gic_dist: HostPhys::new(0x0800_0000),
        gic_ranges: 2,
        gic_lines: 288,
        timer_ppis: TIMERS,
        evtchn_ppi: dom0::event_channel_ppi(&TIMERS).expect("a free one"),
        grant_table: PhysRange::from_start_end(0x4001_0000, 0x4005_0000),
        has_initrd: true,
        bootargs: Some("console=hvc0"),
        msi_typer: &|_| None,
    });
    let Ok(mut built) = built else { return };
    built.set_initrd(0x5000_0000, 0x5010_0000);
    Tree::new(&built.blob).expect("what we write can be read");
    for region in &built.mmio {
        assert!(
            subtract(&[*region], &[])
                .iter()
                .all(|part| !part.overlaps(&RAM))
        );
        assert!(region.end().raw() <= 1 << 40, "{region}");
    }
    for (irq, _) in &built.spis {
        assert!((32..288).contains(&irq.raw()), "{irq:?}");
    }
}

/// A good tree with some words changed.
fn changed(input: &mut Input<'_>) {
    const TREES: [&[u8]; 4] = [
        include_bytes!("../../fixtures/board.dtb"),
        include_bytes!("../../fixtures/dom0less.dtb"),
        include_bytes!("../../fixtures/partial.dtb"),
        include_bytes!("../../fixtures/virt-highmem-on.dtb"),
    ];
    let mut blob = input.pick(&TREES).to_vec();
    while !input.is_empty() {
        let at = usize::from(input.half()) * 4 % blob.len();
        let value = input.number().to_be_bytes();
        let end = (at + 4).min(blob.len());
        blob[at..end].copy_from_slice(&value[..end - at]);
    }
    read(&blob);
}

const NODES: &[&str] = &[
    "",
    "chosen",
    "memory@40000000",
    "cpus",
    "cpu@0",
    "cpu@1",
    "soc",
    "intc@8000000",
    "timer",
    "psci",
    "serial@9000000",
    "reserved-memory",
    "region@50000000",
    "domU1",
    "domU2",
    "module@48000000",
    "ramdisk@49000000",
    "evtchn@1",
    "evtchn@2",
    "shm@70000000",
    "passthrough",
    "device@a000000",
    "aliases",
    "pcie@10000000",
    "v2m@8020000",
    "hypervisor",
    "__symbols__",
];
const NAMES: &[&str] = &[
    "compatible",
    "reg",
    "#address-cells",
    "#size-cells",
    "ranges",
    "interrupts",
    "interrupts-extended",
    "interrupt-parent",
    "interrupt-controller",
    "#interrupt-cells",
    "interrupt-map",
    "interrupt-map-mask",
    "phandle",
    "linux,phandle",
    "device_type",
    "status",
    "bootargs",
    "stdout-path",
    "memory",
    "cpus",
    "vpl011",
    "nr_spis",
    "direct-map",
    "xen,static-mem",
    "xen,enhanced",
    "xen,evtchn",
    "xen,shared-mem",
    "xen,shm-id",
    "role",
    "xen,path",
    "xen,reg",
    "xen,force-assign-without-iommu",
    "xen,passthrough",
    "enable-method",
    "method",
    "clock-frequency",
    "dma-ranges",
    "msi-parent",
    "reg-names",
    "no-map",
    "serial0",
    "#xen,static-mem-address-cells",
    "#xen,static-mem-size-cells",
    "capabilities",
    "xen,domain-p2m-mem-mb",
    "max_grant_version",
    "assigned-clocks",
    "cpu-release-addr",
];
const TEXTS: &[&str] = &[
    "xen,domain",
    "multiboot,kernel",
    "multiboot,module",
    "multiboot,ramdisk",
    "multiboot,device-tree",
    "arm,cortex-a15-gic",
    "arm,gic-v2m-frame",
    "arm,armv7-timer",
    "arm,psci-1.0",
    "arm,pl011",
    "ns16550a",
    "simple-bus",
    "memory",
    "cpu",
    "okay",
    "disabled",
    "xen,evtchn-v1",
    "xen,domain-shared-memory-v1",
    "owner",
    "borrower",
    "enabled",
    "no-xenstore",
    "hvc",
    "smc",
    "/soc/serial@9000000",
    "serial0:115200",
    "arm,hidden",
    "pci",
    "my-shared",
    "console=ttyAMA0",
    "/soc/device@a000000",
    "arm,cortex-a15",
    "passthrough",
];

/// Puts a tree together.
fn write(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let mut tree = FdtWriter::new(64 << 10, &[], &[]).ok()?;
    tree.begin_node(b"").ok()?;
    let mut depth = 1;
    while !input.is_empty() && depth > 0 {
        match input.below(8) {
            0 | 1 => {
                tree.begin_node(input.pick(NODES).as_bytes()).ok()?;
                depth += 1;
            }
            2 => {
                tree.end_node().ok()?;
                depth -= 1;
            }
            3 | 4 => tree
                .property_string(input.pick(NAMES), input.pick(TEXTS))
                .ok()?,
            5 => {
                let (name, count) = (input.pick(NAMES), input.below(9));
                let cells: Vec<u32> = (0..count).map(|_| cell(input)).collect();
                tree.property_cells(name, &cells).ok()?;
            }
            6 => {
                let cell = cell(input);
                tree.property_u32(input.pick(NAMES), cell).ok()?;
            }
            _ => tree.property_empty(input.pick(NAMES)).ok()?,
        }
    }
    for _ in 0..depth {
        tree.end_node().ok()?;
    }
    tree.finish().ok()
}

fn cell(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=99 => u32::from(byte) % 6,
        byte @ 100..=199 => (u32::from(byte) % 16) << 28,
        byte @ 200..=229 => 0x4000_0000 + (u32::from(byte) << 20),
        _ => input.number(),
    }
}
