//! Every board of Debian's kernel for 32-bit Arm whose GIC can virtualize, through the boot code: memory, console, GIC,
//! timer, CPUs, modules in place, and dom0's device tree, which `dtc` must accept as it accepts the board's own.
//!
//! Writes the table of docs/boards.md, or checks that it is up to date. Ignored in a plain `cargo test`, because it needs
//! the kernel's package and `dtc`; scripts/test has it as the step `boards`:
//!
//!     XENITH_BOARDS=update scripts/test boards

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xenith_boot::fdt::dom0::{self, Dom0Input, Dom0Tree};
use xenith_boot::fdt::host::{self, HostInfo};
use xenith_boot::fdt::interrupts::IrqResolver;
use xenith_boot::fdt::tree::{Node as HostNode, Tree};
use xenith_boot::kernel::{KernelImage, Load};
use xenith_boot::memory::{PhysRange, dom0_banks, dom0_mem_size, subtract, total_size, usable_ram};
use xenith_boot::modules::BootModules;
use xenith_boot::placement::place;
use xenith_core::emulate::Execution;
use xenith_platforms::uart;

#[path = "boards/heap.rs"]
mod heap;
#[path = "boards/loader.rs"]
mod loader;
#[path = "boards/table.rs"]
mod table;

use loader::{Files, Node};
use table::Row;

const MIB: u64 = 1 << 20;

/// What is loaded; sizes of Debian 12's kernel and of a large initramfs.
const FILES: Files = Files {
    image: 2 * MIB,
    kernel: 6 * MIB,
    initrd: 16 * MIB,
};

/// Boards whose trees boot in QEMU with our tests: see tests/qemu/test_boards.py.
const IN_QEMU: [&str; 8] = [
    "imx6ul-14x14-evk",
    "imx7d-sdb",
    "sun6i-a31-m9",
    "sun6i-a31-mele-a1000g-quad",
    "sun6i-a31s-sinovoip-bpi-m2",
    "sun8i-h3-orangepi-pc",
    "sun8i-r40-bananapi-m2-ultra",
    "vexpress-v2p-ca15-tc1",
];

/// Where a tree without RAM has it: the boot loader fills it in.
const RAM: [(&str, u64, u64); 9] = [
    ("allwinner,sun9i-a80", 0x2000_0000, 1024),
    ("allwinner,sun8i-v3s", 0x4000_0000, 64),
    ("allwinner,sun8i-v3", 0x4000_0000, 64),
    ("allwinner,", 0x4000_0000, 1024),
    ("fsl,", 0x8000_0000, 512),
    ("brcm,bcm2711", 0, 948),
    ("st,", 0xc000_0000, 512),
    ("rockchip,rk3288", 0, 2048),
    ("", 0x8000_0000, 512),
];

fn dtbs(variable: &str) -> Vec<PathBuf> {
    let folder = match std::env::var_os(variable) {
        Some(folder) => PathBuf::from(folder),
        None => panic!("{variable} is not set; run this test by: scripts/test boards"),
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of XENITH_DTBS")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dtb"))
        .collect();
    found.sort();
    found
}

/// Returns true for a board with one of the GICs that have virtualization registers.
fn can_virtualize(tree: &Tree<'_>) -> bool {
    const GICS: [&str; 3] = ["arm,cortex-a15-gic", "arm,cortex-a7-gic", "arm,gic-400"];
    tree.nodes()
        .any(|node| node.prop("interrupt-controller").is_some() && node.is_compatible(&GICS))
}

/// Returns what `dtc` warns of: the name of the check with the node.
fn warnings(blob: &[u8]) -> BTreeSet<(String, String)> {
    let mut dtc = Command::new("dtc")
        .args(["-I", "dtb", "-O", "dtb", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dtc: apt-get install device-tree-compiler");
    dtc.stdin.take().unwrap().write_all(blob).unwrap();
    let output = dtc.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "dtc: {text}");
    text.lines()
        .filter_map(|line| {
            let (check, rest) = line.split_once("Warning (")?.1.split_once("): ")?;
            let node = rest.split([':', ' ']).next()?;
            Some((check.to_string(), node.to_string()))
        })
        .collect()
}

/// Takes a board through the boot code; returns its row and dom0's tree.
fn boot(name: &str, blob: &[u8], execution: Execution) -> Result<(Row, Dom0Tree), String> {
    let text = |error: &dyn core::fmt::Display| error.to_string();
    let mut tree = Node::parse(blob);
    let ram = tree.fill_in_memory(|compatible| {
        RAM.iter()
            .find(|(prefix, ..)| compatible.iter().any(|name| name.starts_with(prefix)))
            .map(|(_, base, size)| (*base, size * MIB))
            .unwrap()
    });
    let given = tree.flatten();
    let parsed = Tree::new(&given).map_err(|error| text(&error))?;
    let memory = host::memory(&parsed).map_err(|error| text(&error))?;
    let reserved: Vec<PhysRange> = host::reserved_memory(&parsed)
        .map_err(|error| text(&error))?
        .iter()
        .map(|reserved| reserved.range)
        .collect();
    let places = loader::place_files(&subtract(&memory, &reserved), FILES, given.len() as u64)
        .ok_or("no room for the files")?;
    tree.add_modules(&places);
    let given = tree.flatten();

    // From here on, what hypervisor/src/boot.rs does, in its order.
    heap::start();
    let loaded = Tree::new(&given).map_err(|error| text(&error))?;
    let compact = loaded.compact();
    let tree = Tree::new(&compact).map_err(|error| text(&error))?;
    let modules = BootModules::from_tree(&tree, &|_| None).map_err(|error| text(&error))?;
    let irqs = IrqResolver::new(&tree);
    let console = host::console(&tree, &irqs, None).map_err(|error| text(&error))?;
    let driver = console
        .as_ref()
        .and_then(|console| uart::find(console.compatible.iter()));
    let host = HostInfo::from_tree(&tree).map_err(|error| text(&error))?;
    let image = places.image;
    modules
        .check(&host.memory, places.tree, image)
        .map_err(|error| text(&error))?;
    let mut exclude = host.reserved_ranges();
    exclude.push(image);
    exclude.extend(modules.ranges());
    let usable = usable_ram(&host.memory, &exclude);
    heap::end_of_early(name);

    let wanted = (total_size(&host.memory) / 2).min(512 * MIB) & !(2 * MIB - 1);
    let size = dom0_mem_size(Some(wanted), &usable).map_err(|error| text(&error))?;
    let banks = dom0_banks(&usable, size).map_err(|error| text(&error))?;
    let timer_ppis = [
        host.timer.secure_phys.intid,
        host.timer.phys.intid,
        host.timer.virt.intid,
    ];
    let reserved: Vec<PhysRange> = host.reserved.iter().map(|one| one.range).collect();
    let dom0 = dom0::build(&Dom0Input {
        host: &tree,
        console: driver
            .and(console.as_ref())
            .map(|console| console.path.as_str()),
        hidden_compatibles: &[],
        xen_compatible: &["xen,xen-4.17", "xen,xen"],
        banks: &banks,
        ram: &host.memory,
        reserved: &reserved,
        memreserve: &host.memreserve,
        forbidden: &[image],
        phys_bits: match execution {
            Execution::AArch32 => 40,
            Execution::AArch64 => 44,
        },
        execution,
        vcpus: host.cpus.cpus.len().min(8) as u32,
        boot_mpidr: host.cpus.cpus[0].mpidr as u32,
        gic_dist: host.gic.gicd.base(),
        gic_ranges: 2,
        // GICD_TYPER is not in the tree: the most there can be.
        gic_lines: 1020,
        timer_ppis,
        evtchn_ppi: dom0::event_channel_ppi(&timer_ppis).ok_or("no PPI")?,
        grant_table: PhysRange::from_size(image.base().raw(), 0x4_0000),
        has_initrd: true,
        bootargs: Some(modules.dom0_args),
        msi_typer: &|_| None,
    })
    .map_err(|error| text(&error))?;
    let kernel = KernelImage {
        offset: 0,
        size: FILES.kernel,
        load: Load::Anywhere { entry_offset: 0 },
        format: "zImage",
    };
    place(
        &banks,
        &kernel,
        dom0.blob.len() as u64,
        Some(FILES.initrd.min(places.initrd.size())),
    )
    .map_err(|error| text(&error))?;
    heap::end(name, compact.len());

    check_dom0(&host, &usable, &dom0, console.as_ref(), driver.is_some())?;
    let row = Row {
        name: name.to_string(),
        model: host.model.to_string(),
        soc: host.compatible.iter().last().unwrap_or("").to_string(),
        console: table::console(console.as_ref(), driver),
        cpus: table::cpu_method(&host, &tree),
        ram_is_given: ram.is_none(),
        in_qemu: IN_QEMU.contains(&name),
    };
    Ok((row, dom0))
}

/// What must hold of dom0's tree on every board, seen from outside.
fn check_dom0(
    host: &HostInfo<'_>,
    usable: &[PhysRange],
    dom0: &Dom0Tree,
    console: Option<&host::ConsoleUart<'_>>,
    is_ours: bool,
) -> Result<(), String> {
    let tree = Tree::new(&dom0.blob).map_err(|error| error.to_string())?;
    for range in &dom0.mmio {
        if usable.iter().any(|ram| ram.overlaps(range)) {
            return Err(format!("RAM at {range} is given to dom0 as a device"));
        }
        for own in host.gic.registers() {
            if own.overlaps(range) {
                return Err(format!("the GIC's registers at {range} are given to dom0"));
            }
        }
    }
    if let Some(console) = console
        && is_ours
        && tree.find(&console.path).is_some()
    {
        return Err(format!("dom0 sees the console {}", console.path));
    }
    for wanted in ["/hypervisor", "/cpus", "/psci", "/timer", "/chosen"] {
        let is_there = tree.find(wanted).is_some()
            || tree.nodes().any(|node| {
                node.is_compatible(&["arm,armv7-timer", "arm,armv8-timer"]) && wanted == "/timer"
            });
        if !is_there {
            return Err(format!("dom0's tree has no {wanted}"));
        }
    }
    // Linux starts with the controllers that have no parent but themselves: the GIC must be one.
    let gic = tree
        .nodes()
        .find(|node| node.path() == host.gic.path)
        .ok_or("dom0's tree has no GIC")?;
    let parent = std::iter::successors(Some(gic), |node| node.parent())
        .find_map(|node| node.u32("interrupt-parent"));
    if parent.is_some() && parent != gic.phandle() {
        return Err("the GIC of dom0's tree is another controller's child".into());
    }
    let modules = tree
        .nodes()
        .filter(|node: &HostNode<'_, '_>| node.is_compatible(&["multiboot,module"]));
    if modules.count() > 0 {
        return Err("dom0 sees the boot modules".into());
    }
    Ok(())
}

/// `/hypervisor` must be called so, without a unit address, though it has registers: Linux looks for that name.
const EXPECTED: (&str, &str) = ("unit_address_vs_reg", "/hypervisor");

#[test]
#[ignore = "needs Debian's kernel package: scripts/test boards"]
fn all() {
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for path in dtbs("XENITH_DTBS") {
        let blob = std::fs::read(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !Tree::new(&blob).is_ok_and(|tree| can_virtualize(&tree)) {
            continue;
        }
        match boot(&name, &blob, Execution::AArch32) {
            Err(reason) => failures.push(format!("{name}: {reason}")),
            Ok((row, dom0)) => {
                let before = warnings(&blob);
                for (check, node) in warnings(&dom0.blob) {
                    let is_expected = (check.as_str(), node.as_str()) == EXPECTED;
                    if !is_expected && !before.contains(&(check.clone(), node.clone())) {
                        failures.push(format!("{name}: dtc: {check}: {node}"));
                    }
                }
                rows.push(row);
            }
        }
    }
    assert!(failures.is_empty(), "{:#?}", failures);
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/boards.md");
    table::check(&document, &rows);
    heap::report();
    let with_console = rows.iter().filter(|row| row.console.is_some()).count();
    assert!(
        with_console * 100 >= rows.len() * 95,
        "{with_console} of {} boards have a console",
        rows.len()
    );
    // What the issue counted in Linux 6.1; a kernel may gain boards, and loses none.
    assert!(rows.len() >= 300, "only {} boards", rows.len());
}

/// The Raspberry Pi 4 and its kin, as Debian's 64-bit kernel describes them.
#[test]
#[ignore = "needs Debian's kernel package: scripts/test boards"]
fn raspberry_pi_4() {
    let is_one = |path: &PathBuf| path.to_string_lossy().contains("bcm2711");
    let paths: Vec<PathBuf> = dtbs("XENITH_DTBS_ARM64")
        .into_iter()
        .filter(is_one)
        .collect();
    assert!(paths.len() >= 3, "{paths:?}");
    for path in paths {
        let blob = std::fs::read(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let tree = Tree::new(&blob).unwrap();
        // Each CPU waits at an address of its own, in what firmware keeps.
        let cpus = host::cpus(&tree).unwrap().cpus;
        let at: Vec<_> = cpus
            .iter()
            .filter(|cpu| cpu.spins())
            .filter_map(|cpu| Some(cpu.release_address?.raw()))
            .collect();
        assert_eq!(at, [0xd8, 0xe0, 0xe8, 0xf0], "{name}");
        assert_eq!(
            host::memreserve(&tree).unwrap()[0],
            PhysRange::from_size(0, 0x1000),
            "{name}"
        );
        // Both kinds of UART, by their aliases.
        for (alias, driver) in [("serial0", "pl011"), ("serial1", "bcm2835-aux")] {
            let console = host::console(&tree, &IrqResolver::new(&tree), Some(alias)).unwrap();
            let console = console.expect("a console");
            let found = uart::find(console.compatible.iter()).expect("a driver");
            assert_eq!(found.name, driver, "{name}");
        }
        let (row, dom0) = boot(&name, &blob, Execution::AArch64).expect(&name);
        assert_eq!(row.console.as_deref(), Some("bcm2835-aux"));
        let dom0 = Tree::new(&dom0.blob).unwrap();
        for cpu in dom0.find("/cpus").unwrap().children() {
            assert_eq!(cpu.text("enable-method"), "psci", "{name}");
            assert!(cpu.prop("cpu-release-addr").is_none(), "{name}");
        }
    }
}
