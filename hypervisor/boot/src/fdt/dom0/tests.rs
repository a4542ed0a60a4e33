//! Tests of dom0's tree on QEMU's device trees and on a board made up to be awkward.

use std::vec::Vec;

use super::*;
use crate::fdt::tree::TreeError;
use crate::fdt::writer::FdtWriter;

/// `-M virt,virtualization=on,gic-version=2,highmem=off -smp 2 -m 1024` with kernel and initrd by guest-loader.
const VIRT: &[u8] = include_bytes!("../../../../../tests/fixtures/virt-highmem-off.dtb");
/// The same with highmem=on.
const VIRT_HIGH: &[u8] = include_bytes!("../../../../../tests/fixtures/virt-highmem-on.dtb");

const MIB: u64 = 1 << 20;

const TIMERS: [IntId; 3] = [IntId::new(29), IntId::new(30), IntId::new(27)];

const fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

fn tree(blob: &[u8]) -> Tree<'_> {
    Tree::new(blob).unwrap()
}

fn virt<'a>(host: &'a Tree<'a>) -> Dom0Input<'a> {
    Dom0Input {
        host,
        console: Some("/pl011@9000000"),
        hidden_compatibles: &[],
        xen_compatible: &["xen,xen-4.17", "xen,xen"],
        banks: const { &[range(0x5000_0000, 256 * MIB), range(0x6800_0000, 256 * MIB)] },
        ram: const { &[range(0x4000_0000, 1024 * MIB)] },
        reserved: &[],
        memreserve: &[],
        forbidden: &[],
        phys_bits: 40,
        execution: Execution::AArch32,
        vcpus: 2,
        boot_mpidr: 0x8000_0000,
        gic_dist: HostPhys::new(0x0800_0000),
        gic_ranges: 2,
        gic_lines: 288,
        timer_ppis: TIMERS,
        evtchn_ppi: event_channel_ppi(&TIMERS).unwrap(),
        grant_table: range(0x4001_0000, 0x4_0000),
        has_initrd: true,
        bootargs: Some("console=hvc0"),
        msi_typer: &|frame| (frame.raw() == 0x0802_0000).then_some(80 << 16 | 64),
    }
}

/// A 64-bit kernel starts its CPUs as their nodes say.
#[test]
fn cpus_of_64_bits_are_started_by_psci() {
    let host = tree(VIRT_HIGH);
    for (execution, expected) in [(Execution::AArch32, ""), (Execution::AArch64, "psci")] {
        let dom0 = build(&Dom0Input {
            execution,
            ..virt(&host)
        });
        let dom0 = dom0.unwrap();
        let dom0 = tree(&dom0.blob);
        for cpu in ["/cpus/cpu@0", "/cpus/cpu@1"] {
            assert_eq!(dom0.find(cpu).unwrap().text("enable-method"), expected);
        }
    }
}

fn cells_of(tree: &Tree<'_>, path: &str, name: &str) -> Vec<u32> {
    let node = tree.find(path).unwrap_or_else(|| panic!("no {path}"));
    let value = node
        .prop(name)
        .unwrap_or_else(|| panic!("no {path}:{name}"));
    let (cells, _) = value.as_chunks();
    cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

/// Where nothing is, and nothing else: in the tree of a 64-bit dom0.
#[test]
fn extended_regions_are_holes() {
    let host = tree(VIRT_HIGH);
    let regions = |execution| {
        let dom0 = build(&Dom0Input {
            execution,
            ..virt(&host)
        });
        let dom0 = dom0.unwrap();
        let reg = cells_of(&tree(&dom0.blob), "/hypervisor", "reg");
        let pairs = reg.chunks_exact(4).map(|cells| {
            let number = |at: usize| u64::from(cells[at]) << 32 | u64::from(cells[at + 1]);
            range(number(0), number(2))
        });
        (pairs.collect::<Vec<_>>(), dom0.mmio)
    };
    let (only, _) = regions(Execution::AArch32);
    assert_eq!(only.len(), 1, "a 32-bit dom0 has its grant table's only");
    let (found, mmio) = regions(Execution::AArch64);
    assert_eq!(found[0], only[0]);
    assert!(found.len() > 1);
    for (i, region) in found.iter().enumerate().skip(1) {
        assert!(region.size() >= 64 * MIB && region.base().raw() % (2 * MIB) == 0);
        assert!(region.end().raw() <= 1 << 40);
        let gic_and_console = [range(0x0800_0000, 0x5_0000), range(0x0900_0000, 0x1000)];
        let others = mmio.iter().chain(&gic_and_console).chain(&found[..i]);
        for other in others.chain(virt(&host).ram) {
            assert!(!region.overlaps(other), "{region} is {other}'s");
        }
    }
}

/// The holes of a tree whose root has few cells are as large as they can tell, and what firmware keeps is no memory.
#[test]
fn few_cells_and_what_firmware_keeps() {
    let host = awkward();
    let host = tree(&host);
    assert_eq!(
        (host.root().address_cells(), host.root().size_cells()),
        (1, 1)
    );
    let input = Dom0Input {
        execution: Execution::AArch64,
        phys_bits: 44,
        memreserve: &[range(0x4ff0_0000, 0x1000)],
        ..awkward_input(&host)
    };
    let dom0 = build(&input).unwrap();
    let dom0 = tree(&dom0.blob);
    let reg = cells_of(&dom0, "/hypervisor", "reg");
    assert!(reg.len() > 2);
    for pair in reg.chunks_exact(2) {
        assert!(pair[1] != 0 && pair[0].checked_add(pair[1] - 1).is_some());
    }
    let is_memory = |node: &Node<'_, '_>| node.base_name() == "memory";
    let names: Vec<_> = dom0.root().children().filter(is_memory).collect();
    assert_eq!(names.len(), 2, "RAM and /reserved-memory");
}

fn strings_of(tree: &Tree<'_>, path: &str, name: &str) -> Vec<String> {
    let strings = tree.find(path).unwrap().strings(name).unwrap();
    strings.iter().map(String::from).collect()
}

/// As the real Xen's dom0 sees this machine (its /sys/firmware/fdt, /proc/iomem and log).
#[test]
fn virt_is_as_the_real_xen_makes_it() {
    let mut dom0 = build(&virt(&tree(VIRT))).unwrap();
    assert_eq!(
        (dom0.warnings.as_slice(), dom0.suppressed_warnings),
        (&[][..], 0)
    );
    dom0.set_initrd(0x5820_0000, 0x582d_cb1b);
    let tree = Tree::new(&dom0.blob).unwrap();

    assert_eq!(
        strings_of(&tree, "/hypervisor", "compatible"),
        ["xen,xen-4.17", "xen,xen"]
    );
    assert_eq!(
        cells_of(&tree, "/hypervisor", "reg"),
        [0, 0x4001_0000, 0, 0x4_0000]
    );
    assert_eq!(cells_of(&tree, "/hypervisor", "interrupts"), [1, 0, 0xf08]);
    assert_eq!(cells_of(&tree, "/hypervisor", "interrupt-parent"), [0x8003]);
    assert_eq!(strings_of(&tree, "/psci", "method"), ["hvc"]);
    assert_eq!(
        strings_of(&tree, "/psci", "compatible"),
        ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]
    );
    assert_eq!(
        cells_of(&tree, "/memory", "reg"),
        [
            0,
            0x5000_0000,
            0,
            0x1000_0000,
            0,
            0x6800_0000,
            0,
            0x1000_0000
        ]
    );
    assert_eq!(cells_of(&tree, "/cpus/cpu@1", "reg"), [1]);
    assert_eq!(
        strings_of(&tree, "/cpus/cpu@0", "compatible"),
        ["arm,cortex-a15"]
    );
    assert!(tree.find("/cpus/cpu@2").is_none() && tree.find("/cpus/cpu-map").is_none());
    assert_eq!(
        cells_of(&tree, "/timer", "interrupts"),
        [1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08]
    );
    assert_eq!(
        cells_of(&tree, "/intc", "reg"),
        [0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x1_0000]
    );
    assert_eq!(cells_of(&tree, "/intc", "phandle"), [0x8003]);
    assert_eq!(cells_of(&tree, "/intc/v2m", "arm,msi-base-spi"), [80]);
    assert_eq!(cells_of(&tree, "/intc/v2m", "arm,msi-num-spis"), [64]);
    assert_eq!(cells_of(&tree, "/intc/v2m", "phandle"), [0x8004]);
    assert!(tree.find("/intc").unwrap().prop("interrupts").is_none());
    assert_eq!(strings_of(&tree, "/chosen", "bootargs"), ["console=hvc0"]);
    assert_eq!(
        cells_of(&tree, "/chosen", "linux,initrd-start"),
        [0, 0x5820_0000]
    );
    assert_eq!(
        cells_of(&tree, "/chosen", "linux,initrd-end"),
        [0, 0x582d_cb1b]
    );
    assert_eq!(cells_of(&tree, "/chosen", "kaslr-seed").len(), 2);
    let chosen = tree.find("/chosen").unwrap();
    assert!(chosen.prop("stdout-path").is_none() && chosen.children().next().is_none());
    assert!(tree.find("/pl011").is_none() && tree.find("/pl061").is_some());
    let roots: Vec<_> = tree
        .root()
        .children()
        .filter(|node| node.name().starts_with("psci"))
        .collect();
    assert_eq!(roots.len(), 1);

    let expected = [
        (0x0000_0000, 0x0800_0000),
        // GICv2m, and not the GIC beside it.
        (0x0802_0000, 0x1000),
        (0x0901_0000, 0x1000),
        (0x0902_0000, 0x1000),
        (0x0903_0000, 0x1000),
        (0x0a00_0000, 0x4000),
        // PCI memory, I/O and configuration space are adjacent.
        (0x1000_0000, 0x3000_0000),
    ];
    assert_eq!(dom0.mmio, expected.map(|(start, size)| range(start, size)));
    let edge = |id: &u16| (48..80).contains(id) || (80..144).contains(id);
    let spis: Vec<_> = [34, 35, 36, 37, 38, 39]
        .into_iter()
        .chain(48..144)
        .map(|id| {
            (
                IntId::new(id),
                if edge(&id) {
                    Trigger::Edge
                } else {
                    Trigger::Level
                },
            )
        })
        .collect();
    assert_eq!(dom0.spis, spis);
}

#[test]
fn highmem_is_mapped_where_it_is() {
    let dom0 = build(&virt(&tree(VIRT_HIGH))).unwrap();
    assert!(dom0.warnings.is_empty(), "{:?}", dom0.warnings);
    let high: Vec<_> = dom0
        .mmio
        .iter()
        .copied()
        .filter(|region| region.base().raw() >= 0x1000_0000)
        .collect();
    assert_eq!(
        high,
        [
            range(0x1000_0000, 0x2f00_0000),
            // Configuration space and the 64-bit window.
            range(0x40_1000_0000, 0x1000_0000),
            range(0x80_0000_0000, 0x80_0000_0000),
        ]
    );
    assert_eq!(dom0.spis.len(), 6 + 96);
    // With a narrower physical address space the windows beyond it are left out, and it says so.
    let narrow = build(&Dom0Input {
        phys_bits: 36,
        execution: Execution::AArch32,
        ..virt(&tree(VIRT_HIGH))
    })
    .unwrap();
    assert_eq!(narrow.warnings.len(), 2);
    assert!(
        narrow
            .mmio
            .iter()
            .all(|region| region.end().raw() <= 1 << 36)
    );
}

#[test]
fn picks_the_lowest_free_ppi() {
    assert_eq!(event_channel_ppi(&TIMERS), Some(IntId::new(16)));
    assert_eq!(
        event_channel_ppi(&[IntId::new(17), IntId::new(16)]),
        Some(IntId::new(18))
    );
    let all: Vec<_> = (16..32).map(IntId::new).collect();
    assert_eq!(event_channel_ppi(&all), None);
}

#[test]
fn says_what_is_wrong() {
    assert_eq!(
        Tree::new(&VIRT[..2000]).unwrap_err(),
        TreeError::Truncated {
            total: 8013,
            available: 2000
        }
    );
    let host = tree(VIRT);
    let no_gic = Dom0Input {
        gic_dist: HostPhys::new(0x1000),
        ..virt(&host)
    };
    assert_eq!(
        build(&no_gic).unwrap_err(),
        BuildError::NoGic(HostPhys::new(0x1000))
    );
    assert_eq!(
        build(&Dom0Input {
            vcpus: 0,
            ..virt(&tree(VIRT))
        })
        .unwrap_err(),
        BuildError::BadInput
    );
    let lost = build(&Dom0Input {
        console: Some("serial9"),
        ..virt(&tree(VIRT))
    })
    .unwrap();
    assert_eq!(lost.warnings[0].kind, WarningKind::NoConsole);
    let alias = build(&Dom0Input {
        console: Some("serial0:115200"),
        ..virt(&tree(VIRT))
    })
    .unwrap();
    assert!(alias.warnings.is_empty());
    assert!(Tree::new(&alias.blob).unwrap().find("/pl011").is_none());
}

struct Board(FdtWriter);

impl Board {
    fn node(&mut self, name: &str, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.begin_node(name.as_bytes()).unwrap();
        write(self);
        self.0.end_node().unwrap();
        self
    }
    fn cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        self.0.property_cells(name, cells).unwrap();
        self
    }
    fn strings(&mut self, name: &str, values: &[&str]) -> &mut Self {
        self.0.property_strings(name, values).unwrap();
        self
    }
    fn empty(&mut self, name: &str) -> &mut Self {
        self.0.property_empty(name).unwrap();
        self
    }
    fn device(&mut self, name: &str, at: u32, size: u32, spi: Option<u32>) -> &mut Self {
        self.node(name, |node| {
            node.cells("reg", &[at, size]);
            if let Some(spi) = spi {
                node.cells("interrupts", &[0, spi, 4]);
            }
        })
    }
}

/// One-cell addresses as on Allwinner boards, buses inside buses, every way to say "interrupt".
fn awkward() -> Vec<u8> {
    let mut board = Board(FdtWriter::new(1 << 16, &[], &[]).unwrap());
    board.node("", |root| {
        root.cells("#address-cells", &[1])
            .cells("#size-cells", &[1])
            .cells("interrupt-parent", &[1]);
        root.node("soc", |soc| {
            soc.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
            soc.cells("ranges", &[0, 0x0100_0000, 0x100_0000])
                .strings("compatible", &["simple-bus"]);
            soc.node("gic@c81000", |gic| {
                gic.strings("compatible", &["arm,gic-400"])
                    .empty("interrupt-controller");
                gic.cells("#interrupt-cells", &[3]).cells("phandle", &[1]);
                gic.cells(
                    "reg",
                    &[
                        0xc8_1000, 0x1000, 0xc8_2000, 0x2000, 0xc8_4000, 0x2000, 0xc8_6000, 0x2000,
                    ],
                );
                gic.cells("interrupts", &[1, 9, 0xf04]);
            });
            soc.node("gic@d00000", |gic| {
                gic.strings("compatible", &["arm,cortex-a15-gic"])
                    .empty("interrupt-controller");
                gic.cells("#interrupt-cells", &[3])
                    .cells("reg", &[0xd0_0000, 0x1000]);
            });
            soc.node("bridge@200000", |bus| {
                bus.cells("#address-cells", &[2])
                    .cells("#size-cells", &[1])
                    .cells("#interrupt-cells", &[1]);
                bus.cells(
                    "ranges",
                    &[0, 0, 0x20_0000, 0x1_0000, 3, 0, 0x30_0000, 0x1_0000],
                );
                bus.cells("interrupt-map-mask", &[0, 0, 63]);
                bus.cells(
                    "interrupt-map",
                    &[0, 0, 5, 1, 0, 15, 1, 0, 0, 6, 1, 0, 16, 4],
                );
                // Inherits the bridge as its interrupt parent, which names SPI 16.
                bus.node("device@3,100", |device| {
                    device
                        .cells("reg", &[3, 0x100, 0x20])
                        .cells("interrupts", &[6]);
                });
                // Its parent is the GIC although the bridge is above it.
                bus.node("direct@0,0", |device| {
                    device
                        .cells("reg", &[0, 0, 0x20])
                        .cells("interrupt-parent", &[1]);
                    device.cells("interrupts", &[0, 17, 1]);
                });
            });
            soc.node("i2c@400000", |bus| {
                bus.cells("reg", &[0x40_0000, 0x400])
                    .cells("interrupts", &[0, 20, 4]);
                bus.cells("#address-cells", &[1]).cells("#size-cells", &[0]);
                bus.node("pmic@34", |chip| {
                    chip.cells("reg", &[0x34])
                        .cells("interrupt-parent", &[1])
                        .cells("interrupts", &[0, 21, 8]);
                });
            });
            soc.node("gpio@500000", |gpio| {
                gpio.empty("interrupt-controller")
                    .cells("#interrupt-cells", &[2])
                    .cells("phandle", &[2]);
                gpio.cells("interrupts-extended", &[1, 0, 30, 4, 2, 3, 1, 1, 0, 31, 1]);
            });
            soc.node("key", |key| {
                key.cells("interrupt-parent", &[2])
                    .cells("interrupts", &[7, 1]);
            });
            let uart = |soc: &mut Board, name: &str, at: u32, spi: u32| {
                soc.node(name, |uart| {
                    uart.strings("compatible", &["snps,dw-apb-uart"]);
                    uart.cells("reg", &[at, 0x400])
                        .cells("interrupts", &[0, spi, 4]);
                });
            };
            uart(soc, "uart0@c28000", 0xc2_8000, 0);
            // Another kind of device beside the console, the console's kind beside it, and its kind in another page.
            soc.device("uart1@c28400", 0xc2_8400, 0x400, Some(0));
            uart(soc, "uart2@c28800", 0xc2_8800, 2);
            uart(soc, "uart4@c29000", 0xc2_9000, 4);
            soc.node("watchdog@1", |device| {
                device
                    .cells("reg", &[0x1000, 0x20])
                    .cells("interrupts", &[0, 3, 4, 1, 13, 0xf04]);
                device.node("child", |_| {});
            });
            soc.device("beyond@1", 0x2000, 0x1000, Some(500));
            soc.node("off@1", |device| {
                device
                    .cells("reg", &[0x3000, 0x1000])
                    .cells("interrupts", &[0, 501, 4]);
                device.strings("status", &["disabled"]);
            });
            soc.node("given@1", |device| {
                device
                    .cells("reg", &[0x4000, 0x1000])
                    .cells("interrupts", &[0, 40, 4]);
                device.empty("xen,passthrough").strings("status", &["okay"]);
            });
            soc.node("hidden@1", |device| {
                device
                    .strings("compatible", &["vendor,new", "vendor,hidden"])
                    .cells("reg", &[0x5000, 0x1000]);
            });
            soc.device("sneaks-at-gich@1", 0xc8_3f00, 0x200, None);
        });
        root.device("steals-ram@1", 0x4800_0000, 0x10_0000, None);
        root.device("firmware@1", 0x4fff_0800, 0x800, None);
        root.device("far@1", 0xffff_f000, 0xffff_ffff, None);
        root.node("memory@40000000", |memory| {
            memory
                .strings("device_type", &["memory"])
                .cells("reg", &[0x4000_0000, 0x1000_0000]);
        });
        root.node("cpus", |cpus| {
            cpus.cells("#address-cells", &[1])
                .cells("#size-cells", &[0]);
            for (reg, name) in [(0x100, "arm,cortex-a7"), (0, "arm,cortex-a15")] {
                cpus.node(&std::format!("cpu@{reg:x}"), |cpu| {
                    cpu.strings("device_type", &["cpu"])
                        .strings("compatible", &[name])
                        .cells("reg", &[reg]);
                    cpu.cells("clock-frequency", &[reg + 1]);
                });
            }
        });
        root.node("hypervisor", |node| {
            node.strings("compatible", &["other,hypervisor"]);
        });
    });
    board.0.finish().unwrap()
}

fn awkward_input<'a>(host: &'a Tree<'a>) -> Dom0Input<'a> {
    Dom0Input {
        console: Some("/soc/uart0@c28000"),
        hidden_compatibles: &["vendor,hidden"],
        banks: const { &[range(0x4000_0000, 64 * MIB)] },
        ram: const { &[range(0x4000_0000, 256 * MIB)] },
        reserved: const { &[range(0x4fff_0000, 0x1_0000)] },
        gic_dist: HostPhys::new(0x01c8_1000),
        gic_lines: 160,
        vcpus: 18,
        has_initrd: false,
        ..virt(host)
    }
}

#[test]
fn awkward_board() {
    let host = awkward();
    let host = tree(&host);
    let dom0 = build(&awkward_input(&host)).unwrap();
    let tree = Tree::new(&dom0.blob).unwrap();
    let has = |path: &str| tree.find(path).is_some();

    let spi = |id: u16, trigger| (IntId::new(id + 32), trigger);
    use Trigger::{Edge, Level};
    let expected = [
        spi(4, Level),
        spi(16, Level),
        spi(17, Edge),
        spi(20, Level),
        spi(21, Level),
        spi(30, Level),
        spi(31, Edge),
    ];
    assert_eq!(dom0.spis, expected);
    // Not dom0's, but dom0's to give.
    assert_eq!(dom0.passthrough_spis, [spi(40, Level)]);
    assert_eq!(dom0.passthrough_mmio, [range(0x0100_4000, 0x1000)]);
    let expected = [
        (0x0120_0000, 0x1000),
        (0x0130_0000, 0x1000),
        (0x0140_0000, 0x1000),
        // UART 1 shares the console's page; UART 4 has the next.
        (0x01c2_8000, 0x2000),
        // Reserved memory is for dom0's drivers, in whole pages.
        (0x4fff_0000, 0x1000),
        // One-cell buses can reach beyond 4 GiB.
        (0xffff_f000, 0x1_0000_0000),
    ];
    assert_eq!(dom0.mmio, expected.map(|(start, size)| range(start, size)));
    let kinds: Vec<_> = dom0
        .warnings
        .iter()
        .map(|warning| (warning.path.as_str(), warning.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("/soc/uart1@c28400", WarningKind::InterruptInUse(32)),
            ("/soc/beyond@1", WarningKind::NoSuchInterrupt(532)),
            (
                "/soc/sneaks-at-gich@1",
                WarningKind::MmioOverlap(range(0x01c8_3f00, 0x200))
            ),
            (
                "/steals-ram@1",
                WarningKind::MmioOverlap(range(0x4800_0000, 0x10_0000))
            ),
            ("/hypervisor", WarningKind::Replaced),
        ]
        .into_iter()
        .collect::<Vec<_>>()
    );
    for gone in [
        "/soc/uart0",
        "/soc/uart2",
        "/soc/watchdog@1",
        "/soc/beyond@1",
        "/soc/hidden@1",
        "/soc/gic@d00000",
    ] {
        assert!(!has(gone), "{gone}");
    }
    for there in [
        "/soc/uart1",
        "/soc/uart4",
        "/soc/off@1",
        "/soc/given@1",
        "/soc/i2c/pmic@34",
        "/chosen",
        "/timer",
    ] {
        assert!(has(there), "{there}");
    }
    assert_eq!(strings_of(&tree, "/soc/given@1", "status"), ["disabled"]);
    assert_eq!(strings_of(&tree, "/soc/off@1", "status"), ["disabled"]);
    assert_eq!(
        cells_of(&tree, "/soc/gic", "reg"),
        [0xc8_1000, 0x1000, 0xc8_2000, 0x2000]
    );
    assert_eq!(
        strings_of(&tree, "/cpus/cpu@101", "compatible"),
        ["arm,cortex-a15"]
    );
    assert_eq!(cells_of(&tree, "/cpus/cpu@101", "clock-frequency"), [1]);
    assert_eq!(
        cells_of(&tree, "/memory@40000000", "reg"),
        [0x4000_0000, 0x400_0000]
    );
    assert_eq!(
        cells_of(&tree, "/memory@4fff0000", "reg"),
        [0x4fff_0000, 0x1_0000]
    );
    assert_eq!(
        strings_of(&tree, "/hypervisor", "compatible")[0],
        "xen,xen-4.17"
    );
    // A bank above 4 GiB cannot be told to a kernel through one-cell addresses.
    let high = range(0x1_0000_0000, 64 * MIB);
    let error = build(&Dom0Input {
        banks: &[high],
        ..awkward_input(&host)
    })
    .unwrap_err();
    assert_eq!(error, BuildError::CellsTooNarrow(high));
}

/// Whatever is in the tree: no panic, no mapping of what is not dom0's, and the result is a tree again.
#[test]
fn survives_corruption() {
    let host = awkward();
    let (virt_tree, host_tree) = (tree(VIRT), tree(&host));
    for (original, template) in [
        (VIRT, virt(&virt_tree)),
        (&host[..], awkward_input(&host_tree)),
    ] {
        let mut seed: u64 = 0x2545_f491_4f6c_dd1d;
        let mut built = 0;
        for round in 0..4000 {
            let mut bytes = original.to_vec();
            for _ in 0..=round % 3 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = seed as usize % bytes.len();
                bytes[at] = if seed & 1 << 50 == 0 {
                    (seed >> 40) as u8
                } else {
                    0xff
                };
            }
            if round % 7 == 0 {
                bytes.truncate(seed as usize % original.len());
            }
            let Ok(host) = Tree::new(&bytes) else {
                continue;
            };
            let Ok(dom0) = build(&Dom0Input {
                host: &host,
                ..template
            }) else {
                continue;
            };
            built += 1;
            let ram = subtract(template.ram, template.reserved);
            for region in &dom0.mmio {
                assert!(
                    !ram.iter().any(|ram| ram.overlaps(region)),
                    "round {round}: {region}"
                );
                assert!(region.end().raw() <= 1 << 40, "round {round}: {region}");
            }
            assert!(
                dom0.spis
                    .iter()
                    .all(|(id, _)| id.is_spi() && u32::from(id.raw()) < template.gic_lines)
            );
            assert!(Tree::new(&dom0.blob).is_ok(), "round {round}");
        }
        assert!(built > 500, "{built}");
    }
}

/// Maps that lead in circles, and lists that ask for quadratic work.
#[test]
fn bounds_its_work() {
    let mut board = Board(FdtWriter::new(2 << 20, &[], &[]).unwrap());
    board.node("", |root| {
        root.cells("#address-cells", &[1])
            .cells("#size-cells", &[1])
            .cells("interrupt-parent", &[2]);
        root.node("gic@1000", |gic| {
            gic.strings("compatible", &["arm,gic-400"])
                .cells("#interrupt-cells", &[3])
                .cells("phandle", &[1]);
            gic.cells("reg", &[0x1000, 0x1000, 0x2000, 0x1000]);
        });
        root.node("circle", |nexus| {
            nexus
                .cells("#interrupt-cells", &[1])
                .cells("#address-cells", &[0])
                .cells("phandle", &[2]);
            let mut map: Vec<u32> = [7, 2, 9].repeat(20_000);
            map.extend([1, 2, 1]);
            nexus.cells("interrupt-map", &map);
        });
        for _ in 0..2000 {
            root.node("device", |device| {
                device.cells("interrupts", &[1, 1, 1, 1]);
            });
        }
    });
    let host = board.0.finish().unwrap();
    let host = tree(&host);
    let input = Dom0Input {
        gic_dist: HostPhys::new(0x1000),
        console: None,
        ..virt(&host)
    };
    assert_eq!(build(&input).unwrap_err(), BuildError::TooComplex);
}

/// By hand: `XENITH_HOST_DTB=file XENITH_GICD=0x1c81000 XENITH_CONSOLE=serial0 XENITH_OUT=out.dtb
/// cargo test -p xenith-boot by_hand -- --ignored --nocapture`.
#[test]
#[ignore = "a tool for looking at one board's tree"]
fn by_hand() {
    let Ok(path) = std::env::var("XENITH_HOST_DTB") else {
        return;
    };
    let host = std::fs::read(path).unwrap();
    let host = tree(&host);
    let dist = std::env::var("XENITH_GICD").unwrap();
    let dist = u64::from_str_radix(dist.trim_start_matches("0x"), 16).unwrap();
    let console = std::env::var("XENITH_CONSOLE").ok();
    let input = Dom0Input {
        gic_dist: HostPhys::new(dist),
        console: console.as_deref(),
        gic_lines: 256,
        ram: &[],
        ..virt(&host)
    };
    let dom0 = build(&input).unwrap();
    for warning in &dom0.warnings {
        std::println!("{warning}");
    }
    for region in &dom0.mmio {
        std::println!("{region}");
    }
    std::println!(
        "{:?}",
        dom0.spis
            .iter()
            .map(|(id, trigger)| (id.raw(), trigger))
            .collect::<Vec<_>>()
    );
    if let Ok(out) = std::env::var("XENITH_OUT") {
        std::fs::write(out, &dom0.blob).unwrap();
    }
}
