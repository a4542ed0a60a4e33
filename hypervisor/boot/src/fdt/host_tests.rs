//! Tests of what is read from host trees: QEMU's dumps and a tree of our own (tests/fixtures).

use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::fdt::tree::tests::Blob;
use xenith_core::vgic::HAS_V3;

const VIRT_256M: &[u8] = fixture!("qemu-virt-256M.dtb");
const VIRT_1G: &[u8] = fixture!("qemu-virt-1G-lowmem.dtb");
const VIRT_4G: &[u8] = fixture!("qemu-virt-4G.dtb");
const BOARD: &[u8] = fixture!("board.dtb");

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

fn level(intid: u16) -> Interrupt {
    Interrupt {
        intid: IntId::new(intid),
        trigger: Trigger::Level,
    }
}

fn edge(intid: u16) -> Interrupt {
    Interrupt {
        intid: IntId::new(intid),
        trigger: Trigger::Edge,
    }
}

fn console_of<'a>(
    blob: &'a [u8],
    dtuart: Option<&'a str>,
) -> Result<Option<ConsoleUart<'a>>, HostError> {
    let tree = Tree::new(blob).unwrap();
    console(&tree, &IrqResolver::new(&tree), dtuart)
}

#[test]
fn qemu_virt() {
    for (blob, memory, cpu_count) in [
        (VIRT_256M, 256u64 << 20, 1),
        (VIRT_1G, 1 << 30, 2),
        (VIRT_4G, 4 << 30, 4),
    ] {
        let tree = Tree::new(blob).unwrap();
        let host = HostInfo::from_tree(&tree).unwrap();
        assert_eq!(host.model, "linux,dummy-virt");
        assert!(host.compatible.contains("linux,dummy-virt"));
        assert_eq!(host.memory, [range(0x4000_0000, memory)]);
        assert_eq!((host.memreserve.len(), host.reserved.len()), (0, 0));
        let mpidrs: Vec<u64> = host.cpus.cpus.iter().map(|cpu| cpu.mpidr).collect();
        assert_eq!(mpidrs, (0..cpu_count).collect::<Vec<u64>>());
        assert!(
            host.cpus
                .cpus
                .iter()
                .all(|cpu| cpu.is_enabled && cpu.compatible.first() == "arm,cortex-a15")
        );
        if cpu_count > 1 {
            assert!(host.cpus.cpus.iter().all(|cpu| cpu.enable_method == "psci"));
        }
        let gic = &host.gic;
        assert_eq!(
            (gic.path.as_str(), gic.compatible.first()),
            ("/intc@8000000", "arm,cortex-a15-gic")
        );
        let GicKind::V2(v2) = &gic.kind else {
            panic!("{gic:?}");
        };
        assert_eq!(
            (gic.gicd, v2.gicc),
            (range(0x800_0000, 0x1_0000), range(0x801_0000, 0x1_0000))
        );
        assert_eq!(
            (v2.gich, v2.gicv),
            (range(0x803_0000, 0x1_0000), range(0x804_0000, 0x1_0000))
        );
        assert_eq!(gic.maintenance, level(25));
        assert_eq!(v2.v2m_frames, [range(0x802_0000, 0x1000)]);
        assert_eq!(
            gic.phandle
                .and_then(|phandle| tree.find_phandle(phandle))
                .unwrap()
                .to_string(),
            gic.path
        );
        let timer = host.timer;
        assert_eq!((timer.secure_phys, timer.phys), (level(29), level(30)));
        assert_eq!(
            (timer.virt, timer.hyp, timer.clock_frequency),
            (level(27), level(26), None)
        );
        let psci = host.psci.unwrap();
        assert_eq!(
            (psci.version, psci.method),
            (PsciVersion::V1_0, PsciMethod::Smc)
        );
        assert_eq!(psci.cpu_on, Some(0x8400_0003));

        let uart = console_of(blob, None).unwrap().unwrap();
        assert_eq!(
            (uart.path.as_str(), uart.reg),
            ("/pl011@9000000", range(0x900_0000, 0x1000))
        );
        assert_eq!((uart.interrupt, uart.options), (Ok(Some(level(33))), ""));
        assert!(uart.compatible.contains("arm,pl011"));
        assert_eq!((uart.reg_shift, uart.reg_io_width), (None, None));
    }
}

#[test]
fn board_with_everything_else() {
    let host = HostInfo::from_tree(&Tree::new(BOARD).unwrap()).unwrap();
    assert_eq!(host.model, "Test board");
    assert_eq!(
        host.compatible.iter().collect::<Vec<_>>(),
        ["xenith,test-board", "xenith,board"]
    );
    // Merged, the empty bank and disabled Secure RAM left out.
    assert_eq!(host.memory, [range(0x4000_0000, 0x4000_0000)]);
    assert_eq!(
        host.memreserve,
        [range(0x4000_0000, 0x1000), range(0x7ff0_0000, 0x10_0000)]
    );
    assert_eq!(
        host.reserved,
        [
            Reserved {
                range: range(0x7e00_0000, 0x10_0000),
                name: "firmware",
                no_map: true
            },
            Reserved {
                range: range(0x5000_0000, 0x80_0000),
                name: "video",
                no_map: false
            },
        ]
    );
    assert_eq!(host.reserved_ranges().len(), 4);
    let cpus: Vec<_> = host
        .cpus
        .cpus
        .iter()
        .map(|cpu| (cpu.mpidr, cpu.enable_method, cpu.is_enabled))
        .collect();
    assert_eq!(
        cpus,
        [
            (0, "xenith,spin", true),
            (1, "xenith,spin", false),
            (0x100, "psci", true)
        ]
    );
    assert_eq!(host.cpus.cpus[0].clock_frequency, Some(1_200_000_000));
    let gic = host.gic;
    let GicKind::V2(v2) = &gic.kind else {
        panic!("{gic:?}");
    };
    assert_eq!(
        (gic.gicd, v2.gicc),
        (range(0x2001_0000, 0x1000), range(0x2002_0000, 0x2_0000))
    );
    assert_eq!(
        (v2.gich, v2.gicv),
        (range(0x2004_0000, 0x2000), range(0x2006_0000, 0x2000))
    );
    assert_eq!((gic.maintenance, v2.v2m_frames.len()), (level(25), 0));
    let timer = host.timer;
    assert_eq!(
        (timer.secure_phys, timer.phys, timer.virt, timer.hyp),
        (level(29), level(30), level(27), level(26))
    );
    assert_eq!(timer.clock_frequency, Some(24_000_000));
    let psci = host.psci.unwrap();
    assert_eq!(
        (psci.version, psci.cpu_on, psci.migrate),
        (PsciVersion::V0_1, Some(0x8400_0003), None)
    );
}

#[test]
fn console_by_stdout_path_alias_and_path() {
    let by_default = console_of(BOARD, None).unwrap().unwrap();
    assert_eq!(by_default.path, "/soc@20000000/bus@100000/serial@8000");
    assert_eq!(
        (by_default.reg, by_default.options),
        (range(0x2010_8000, 0x1000), "115200n8")
    );
    // Through the nexus: line 5 is SPI 5, edge.
    assert_eq!(by_default.interrupt, Ok(Some(edge(37))));

    let by_alias = console_of(BOARD, Some("serial0:9600")).unwrap().unwrap();
    assert_eq!(
        (by_alias.path.as_str(), by_alias.options),
        ("/soc@20000000/serial@50000", "9600")
    );
    assert_eq!(
        (
            by_alias.reg_shift,
            by_alias.reg_io_width,
            by_alias.clock_frequency
        ),
        (Some(2), Some(4), Some(24_000_000))
    );
    assert_eq!(by_alias.interrupt, Err(IrqError::OtherController));

    let by_path = console_of(BOARD, Some("/soc@20000000/serial@50000"))
        .unwrap()
        .unwrap();
    assert_eq!(by_path.path, by_alias.path);

    assert_eq!(
        console_of(BOARD, Some("serial7")),
        Err(HostError::NoConsoleNode("serial7".into()))
    );
    assert_eq!(
        console_of(BOARD, Some("/cpus")),
        Err(HostError::ConsoleRegisters(
            "/cpus".into(),
            AddressError::Missing
        ))
    );
    assert_eq!(console_of(&Blob::new().finish(), None), Ok(None));
}

fn count<'t, 'a>(irqs: &IrqResolver<'t, 'a>, node: Node<'t, 'a>) -> usize {
    (0..256)
        .take_while(|&index| irqs.interrupt(node, index) != Ok(None))
        .count()
}

/// As in the device tree of the Raspberry Pi 4: `/cpus` names a method for 32-bit kernels, each CPU that of 64-bit ones.
#[test]
fn cpus_that_spin() {
    let blob = Blob::new()
        .open("cpus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[0])
        .text("enable-method", "brcm,bcm2836-smp")
        .open("cpu@0")
        .cells("reg", &[0])
        .close()
        .open("cpu@1")
        .cells("reg", &[1])
        .text("enable-method", "spin-table")
        .cells("cpu-release-addr", &[0, 0xe0])
        .close()
        .open("cpu@2")
        .cells("reg", &[2])
        .text("enable-method", "spin-table")
        .cells("cpu-release-addr", &[0xfff8])
        .close()
        .open("cpu@3")
        .cells("reg", &[3])
        .text("enable-method", "spin-table")
        .cells("cpu-release-addr", &[1, 2, 3])
        .close()
        .close()
        .finish();
    let tree = Tree::new(&blob).unwrap();
    let found = cpus(&tree).unwrap();
    let of_cpus: Vec<_> = found
        .cpus
        .iter()
        .map(|cpu| (cpu.spins(), cpu.release_address.map(HostPhys::raw)))
        .collect();
    assert_eq!(
        of_cpus,
        [
            (false, None),
            (true, Some(0xe0)),
            (true, Some(0xfff8)),
            (true, None)
        ]
    );
    // Nobody is given the pages, each of which is named once.
    let board = Tree::new(VIRT_4G).unwrap();
    let mut host = HostInfo::from_tree(&board).unwrap();
    assert_eq!(host.reserved_ranges(), []);
    host.cpus = found;
    host.cpus.cpus[3].release_address = Some(HostPhys::new(0xd8));
    assert_eq!(
        host.reserved_ranges(),
        [range(0, 0x1000), range(0xf000, 0x1000)]
    );
}

#[test]
fn interrupts_extended_and_counts() {
    let tree = Tree::new(BOARD).unwrap();
    let irqs = IrqResolver::new(&tree);
    let uart = tree.find("/soc/serial").unwrap();
    assert_eq!(count(&irqs, uart), 2);
    assert_eq!(irqs.interrupt(uart, 1), Ok(Some(edge(65))));
    assert_eq!(irqs.interrupt(uart, 2), Ok(None));
    let timer = tree.find("/timer").unwrap();
    assert_eq!(
        (count(&irqs, timer), irqs.interrupt(timer, 3)),
        (4, Ok(Some(level(30))))
    );
    assert_eq!(count(&irqs, tree.find("/cpus").unwrap()), 0);
}

/// A phandle of 0 stands for an interrupt that is not there; those behind it keep their places.
#[test]
fn interrupts_extended_may_have_holes() {
    let blob = Blob::new()
        .open("gic")
        .text("compatible", "arm,gic-400")
        .cells("#interrupt-cells", &[3])
        .cells("phandle", &[1])
        .close()
        .open("d")
        .cells("interrupts-extended", &[0, 1, 0, 5, 4, 9])
        .close()
        .finish();
    let tree = Tree::new(&blob).unwrap();
    let irqs = IrqResolver::new(&tree);
    let node = tree.find("/d").unwrap();
    assert_eq!(irqs.interrupt(node, 0), Err(IrqError::NoController));
    assert_eq!(irqs.interrupt(node, 1), Ok(Some(level(37))));
    assert_eq!(irqs.interrupt(node, 2), Err(IrqError::NoController));
    assert_eq!(irqs.interrupt(node, 3), Ok(None));
    let mut found = Vec::new();
    irqs.for_each(node, &mut |interrupt| found.push(interrupt.id));
    assert_eq!(found, [37]);
}

#[test]
fn pci_interrupts_go_through_the_map() {
    // QEMU's host bridge has no interrupts of its own, but a device below it would: slot 1, pin B.
    let tree = Tree::new(VIRT_1G).unwrap();
    let bridge = tree.find("/pcie").unwrap();
    let phandle = tree.find("/intc").unwrap().phandle().unwrap();
    let map = bridge.prop("interrupt-map").unwrap();
    let cells = |value: &[u8]| {
        value
            .chunks_exact(4)
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect::<Vec<_>>()
    };
    let blob = Blob::new()
        .open("intc")
        .text("compatible", "arm,cortex-a15-gic")
        .cells("#interrupt-cells", &[3])
        .cells("#address-cells", &[2])
        .cells("phandle", &[phandle])
        .close()
        .open("pcie")
        .cells("#address-cells", &[3])
        .cells("#interrupt-cells", &[1])
        .cells("interrupt-map", &cells(map))
        .cells(
            "interrupt-map-mask",
            &cells(bridge.prop("interrupt-map-mask").unwrap()),
        )
        .open("device@1,0")
        .cells("reg", &[0x0000_0800, 0, 0, 0, 0])
        .cells("interrupts", &[2])
        .close()
        .open("device@2,0")
        .cells("reg", &[0x0000_1000, 0, 0, 0, 0])
        .cells("interrupts", &[9])
        .close()
        .close()
        .finish();
    let tree = Tree::new(&blob).unwrap();
    let irqs = IrqResolver::new(&tree);
    assert_eq!(
        irqs.interrupt(tree.find("/pcie/device@1,0").unwrap(), 0),
        Ok(Some(level(32 + 5)))
    );
    // The mask keeps three bits of the pin, so 9 is pin 1.
    assert_eq!(
        irqs.interrupt(tree.find("/pcie/device@2,0").unwrap(), 0),
        Ok(Some(level(32 + 5)))
    );
}

#[test]
fn bad_interrupts_are_errors() {
    let build = |specifier: &[u32], cells: u32| {
        Blob::new()
            .cells("interrupt-parent", &[1])
            .open("gic")
            .text("compatible", "arm,gic-400")
            .cells("#interrupt-cells", &[cells])
            .cells("phandle", &[1])
            .close()
            .open("loop")
            .cells("#interrupt-cells", &[1])
            .cells("phandle", &[2])
            .cells("interrupt-map", &[7, 2, 7])
            .close()
            .open("d")
            .cells("interrupts", specifier)
            .close()
            .open("looped")
            .cells("interrupts-extended", &[2, 7])
            .close()
            .open("lost")
            .cells("interrupts-extended", &[9, 7])
            .close()
            .finish()
    };
    let get = |blob: &[u8], path: &str| {
        let tree = Tree::new(blob).unwrap();
        IrqResolver::new(&tree).interrupt(tree.find(path).unwrap(), 0)
    };
    assert_eq!(get(&build(&[0, 987, 2], 3), "/d"), Ok(Some(edge(1019))));
    assert_eq!(get(&build(&[0, 988, 4], 3), "/d"), Err(IrqError::BadNumber));
    assert_eq!(get(&build(&[1, 16, 4], 3), "/d"), Err(IrqError::BadNumber));
    assert_eq!(get(&build(&[2, 1, 4], 3), "/d"), Err(IrqError::BadNumber));
    assert_eq!(
        get(&build(&[0, u32::MAX, 4], 3), "/d"),
        Err(IrqError::BadNumber)
    );
    assert_eq!(get(&build(&[0, 1], 3), "/d"), Err(IrqError::Malformed));
    assert_eq!(get(&build(&[0, 1, 4], 0), "/d"), Err(IrqError::Malformed));
    assert_eq!(
        get(&build(&[0, 1, 4], u32::MAX), "/d"),
        Err(IrqError::Malformed)
    );
    assert_eq!(
        get(&build(&[0, 1, 4], 3), "/looped"),
        Err(IrqError::NotMapped)
    );
    assert_eq!(
        get(&build(&[0, 1, 4], 3), "/lost"),
        Err(IrqError::NoController)
    );
}

#[test]
fn missing_parts_are_named() {
    let tree_of = |blob: &[u8]| {
        let tree = Tree::new(blob).unwrap();
        HostInfo::from_tree(&tree)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let memory = |blob: Blob| {
        blob.open("memory")
            .cells("reg", &[0, 0x4000_0000, 0x1000_0000])
            .close()
    };
    let cpu = |blob: Blob| {
        let blob = blob
            .open("cpus")
            .cells("#address-cells", &[1])
            .cells("#size-cells", &[0]);
        blob.open("cpu@0").cells("reg", &[0]).close().close()
    };
    assert!(tree_of(&Blob::new().finish()).contains("no RAM"));
    assert!(tree_of(&memory(Blob::new()).finish()).contains("no CPU"));
    assert!(tree_of(&cpu(memory(Blob::new())).finish()).contains("no interrupt controller"));
    let gic = |kind: &str| {
        let blob = cpu(memory(Blob::new()))
            .open("intc")
            .text("compatible", kind)
            .prop("interrupt-controller", &[]);
        blob.cells("reg", &[0, 0x1000, 0x1000, 0, 0x11000, 0x1000])
            .close()
            .finish()
    };
    let v3 = if HAS_V3 {
        // A distributor of 4 KiB has no routes.
        "GICD of the interrupt controller must"
    } else {
        "\"arm,gic-v3\" is not supported"
    };
    assert!(tree_of(&gic("arm,gic-v3")).contains(v3));
    assert!(tree_of(&gic("hisilicon,hip04-intc-gic")).contains("-gic\" is not supported"));
    assert!(tree_of(&gic("arm,cortex-a9-gic")).contains("no GIC virtualization registers"));
    assert!(tree_of(&gic("arm,gic-400")).contains("no GIC virtualization registers"));
    let twice = memory(Blob::new())
        .open("cpus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[0]);
    let twice = twice
        .open("cpu@0")
        .cells("reg", &[0])
        .close()
        .open("cpu@1")
        .cells("reg", &[0])
        .close()
        .close()
        .finish();
    assert!(tree_of(&twice).contains("/cpus/cpu@1"));
}

#[test]
fn console_by_the_first_enabled_alias() {
    let serial = |blob: Blob, name: &str, at: u32, status: &str| {
        blob.open(name)
            .cells("reg", &[0, at, 0x100])
            .text("status", status)
            .close()
    };
    let tree = |stdout: Option<&str>, first: &str| {
        let mut blob = Blob::new().open("chosen");
        if let Some(path) = stdout {
            blob = blob.text("stdout-path", path);
        }
        let blob = blob
            .close()
            .open("aliases")
            .text("serial3", "/c")
            .text("serial2", "/b")
            .text("serial1", "/missing")
            .text("serial0", "/a")
            .close();
        let blob = serial(blob, "a", 0x1000, first);
        let blob = serial(blob, "b", 0x2000, "okay");
        serial(blob, "c", 0x3000, "okay").finish()
    };
    let path = |blob: &[u8], dtuart| console_of(blob, dtuart).unwrap().unwrap().path;
    assert_eq!(path(&tree(None, "okay"), None), "/a");
    assert_eq!(path(&tree(None, "disabled"), None), "/b");
    assert_eq!(path(&tree(Some(""), "disabled"), None), "/b");
    assert_eq!(path(&tree(Some("serial3"), "okay"), None), "/c");
    assert_eq!(path(&tree(None, "okay"), Some("/b")), "/b");
}

#[test]
fn limits_hold() {
    let memory = |count: u32| {
        let cells: Vec<u32> = (0..count)
            .flat_map(|bank| [0, bank * 0x2000, 0x1000])
            .collect();
        Blob::new()
            .open("memory")
            .cells("reg", &cells)
            .close()
            .finish()
    };
    assert_eq!(
        super::memory(&Tree::new(&memory(256)).unwrap())
            .unwrap()
            .len(),
        256
    );
    assert_eq!(
        super::memory(&Tree::new(&memory(257)).unwrap()),
        Err(HostError::TooManyBanks("/memory"))
    );
    let blob = Blob::new()
        .open("cpus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[0]);
    let add = |blob: Blob, cpu: u32| {
        blob.open(&std::format!("cpu@{cpu:x}"))
            .cells("reg", &[cpu])
            .close()
    };
    let blob = (0..130).fold(blob, add).close().finish();
    let found = cpus(&Tree::new(&blob).unwrap()).unwrap();
    assert_eq!((found.cpus.len(), found.ignored_count), (128, 2));
}

/// Trees of real boards, which are not ours to distribute: run with XENITH_DTBS=DIR (Debian's linux-image has them).
#[test]
fn trees_of_real_boards() {
    let Ok(dir) = std::env::var("XENITH_DTBS") else {
        return;
    };
    let read = |name: &str| std::fs::read(std::format!("{dir}/{name}")).unwrap();
    let gic_at = [
        (
            "vexpress-v2p-ca15-tc1.dtb",
            0x2c00_1000u64,
            Some(("serial0", 0x1c09_0000u64, 37u16)),
        ),
        ("sun6i-a31-m9.dtb", 0x1c8_1000, Some(("", 0x1c2_8000, 32))),
        (
            "sun8i-h3-orangepi-pc.dtb",
            0x1c8_1000,
            Some(("", 0x1c2_8000, 32)),
        ),
        (
            "exynos5422-odroidxu4.dtb",
            0x1048_1000,
            Some(("", 0x12c2_0000, 85)),
        ),
    ];
    for (name, gicd, uart) in gic_at {
        let blob = read(name);
        let tree = Tree::new(&blob).unwrap();
        let irqs = IrqResolver::new(&tree);
        let gic = gic(&tree, &irqs).unwrap();
        assert_eq!(
            (gic.gicd.base().raw(), gic.maintenance),
            (gicd, level(25)),
            "{name}"
        );
        let timer = timer(&tree, &irqs).unwrap();
        assert_eq!((timer.virt, timer.hyp), (level(27), level(26)), "{name}");
        assert!(!cpus(&tree).unwrap().cpus.is_empty());
        if let Some((dtuart, base, intid)) = uart {
            let found = console(&tree, &irqs, Some(dtuart)).unwrap().unwrap();
            assert_eq!(found.reg.base().raw(), base, "{name}");
            assert_eq!(found.interrupt, Ok(Some(level(intid))), "{name}");
        }
    }
    // All others: no panic, and an answer.
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "dtb") {
            let blob = std::fs::read(&path).unwrap();
            let tree =
                Tree::new(&blob).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let _ = HostInfo::from_tree(&tree);
            let irqs = IrqResolver::new(&tree);
            for node in tree.nodes() {
                for index in 0..count(&irqs, node) {
                    let _ = irqs.interrupt(node, index);
                }
            }
        }
    }
}

/// As imx7s.dtsi of Linux 6.1: the root's interrupt parent is the GPC, whose own is the GIC; UART 1 has SPI 26.
#[test]
fn an_interrupt_through_a_wakeup_controller() {
    let tree = |compatible: &str| {
        let blob = Blob::new()
            .cells("interrupt-parent", &[2])
            .open("serial")
            .cells("interrupts", &[0, 26, 4])
            .close()
            .open("gpc")
            .text("compatible", compatible)
            .prop("interrupt-controller", &[])
            .cells("#interrupt-cells", &[3])
            .cells("phandle", &[2])
            .cells("interrupt-parent", &[1])
            .close();
        blob.open("intc")
            .text("compatible", "arm,cortex-a7-gic")
            .prop("interrupt-controller", &[])
            .cells("#interrupt-cells", &[3])
            .cells("phandle", &[1])
            .close()
            .finish()
    };
    let interrupt = |compatible| {
        let blob = tree(compatible);
        let tree = Tree::new(&blob).unwrap();
        IrqResolver::new(&tree).interrupt(tree.find("/serial").unwrap(), 0)
    };
    assert_eq!(interrupt("fsl,imx7d-gpc"), Ok(Some(level(58))));
    assert_eq!(interrupt("vendor,combiner"), Err(IrqError::OtherController));
}
