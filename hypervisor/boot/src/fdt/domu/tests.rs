//! Tests of the trees of domains other than dom0, also with `dtc`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::string::String;

use super::*;

const PARTIAL: &[u8] = include_bytes!("../../../../../tests/fixtures/partial.dtb");
const MIB: u64 = 1 << 20;
const TIMERS: [IntId; 3] = [IntId::new(29), IntId::new(30), IntId::new(27)];

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

fn with_tree(change: impl Fn(&mut DomuInput<'_>), look: impl FnOnce(&mut DomuTree)) {
    let layout = Layout::guest(Version::V2, TIMERS);
    let banks = guest_banks(128 * MIB).unwrap();
    let mut input = DomuInput {
        layout: &layout,
        banks: &banks,
        vcpus: 2,
        execution: Execution::AArch32,
        cpu_compatible: b"arm,cortex-a15\0",
        clock_frequency: None,
        xen_version: "4.17",
        is_enhanced: true,
        has_uart: true,
        has_initrd: true,
        bootargs: "console=ttyAMA0",
        shared: &[],
        partial: None,
    };
    change(&mut input);
    look(&mut build(&input).unwrap());
}

/// Has dtc read the blob; returns the source. Whatever dtc finds wrong with the blob is an error.
fn dtc(blob: &[u8]) -> String {
    let mut dtc = Command::new("dtc")
        .args([
            "-q",
            "-q",
            "-E",
            "reg_format",
            "-I",
            "dtb",
            "-O",
            "dts",
            "-o",
            "-",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dtc runs: scripts/setup");
    dtc.stdin.take().unwrap().write_all(blob).unwrap();
    let output = dtc.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn cells(tree: &Tree<'_>, path: &str, name: &str) -> Vec<u32> {
    let value = tree.find(path).and_then(|node| node.prop(name));
    let (cells, _) = value
        .unwrap_or_else(|| panic!("no {path}:{name}"))
        .as_chunks();
    cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

#[test]
#[cfg_attr(miri, ignore = "starts dtc")]
fn the_tree_is_what_xens_guests_expect() {
    with_tree(
        |_| {},
        |built| {
            built.set_initrd(0x4800_0000, 0x4812_3456);
            let tree = Tree::new(&built.blob).unwrap();
            let root = tree.root();
            assert_eq!(root.text("model"), "XENVM-4.17");
            assert!(root.is_compatible(&["xen,xenvm"]) && root.is_compatible(&["xen,xenvm-4.17"]));
            assert_eq!(
                cells(&tree, "/memory@40000000", "reg"),
                [0, 0x4000_0000, 0, 0x800_0000]
            );
            let chosen = tree.find("/chosen").unwrap();
            assert_eq!(chosen.text("bootargs"), "console=ttyAMA0");
            assert_eq!(chosen.u64("linux,initrd-start"), Some(0x4800_0000));
            assert_eq!(chosen.u64("linux,initrd-end"), Some(0x4812_3456));
            assert!(tree.find(chosen.text("stdout-path")).is_some());
            let gic = "/interrupt-controller@3001000";
            assert_eq!(
                cells(&tree, gic, "reg"),
                [0, 0x300_1000, 0, 0x1000, 0, 0x300_2000, 0, 0x2000]
            );
            assert_eq!(tree.find(gic).unwrap().phandle(), Some(65000));
            assert_eq!(root.u32("interrupt-parent"), Some(65000));
            assert_eq!(
                cells(&tree, "/timer", "interrupts"),
                [1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08]
            );
            assert_eq!(
                cells(&tree, "/hypervisor", "reg"),
                [0, 0x3800_0000, 0, 0x100_0000]
            );
            assert_eq!(cells(&tree, "/hypervisor", "interrupts"), [1, 15, 0xf08]);
            assert_eq!(
                cells(&tree, "/sbsa-uart@22000000", "reg"),
                [0, 0x2200_0000, 0, 0x1000]
            );
            assert_eq!(cells(&tree, "/sbsa-uart@22000000", "interrupts"), [0, 0, 4]);
            assert_eq!(tree.find("/psci").unwrap().text("method"), "hvc");
            assert_eq!(tree.find("/cpus").unwrap().children().count(), 2);
            assert_eq!(cells(&tree, "/cpus/cpu@1", "reg"), [1]);
            assert!(tree.find("/reserved-memory").is_none());
            let source = dtc(&built.blob);
            assert!(source.contains("arm,cortex-a15-gic"));
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "starts dtc")]
fn what_a_domain_has_not_is_not_there() {
    let plain = |input: &mut DomuInput<'_>| {
        (input.is_enhanced, input.has_uart, input.has_initrd) = (false, false, false);
        input.vcpus = 1;
        input.clock_frequency = Some(24_000_000);
    };
    with_tree(plain, |built| {
        built.set_initrd(1, 2);
        let tree = Tree::new(&built.blob).unwrap();
        assert!(tree.find("/hypervisor").is_none());
        assert!(
            !tree
                .nodes()
                .any(|node| node.is_compatible(&["arm,sbsa-uart"]))
        );
        let chosen = tree.find("/chosen").unwrap();
        assert!(chosen.prop("linux,initrd-start").is_none());
        assert!(chosen.prop("stdout-path").is_none());
        assert_eq!(
            tree.find("/timer").unwrap().u32("clock-frequency"),
            Some(24_000_000)
        );
        dtc(&built.blob);
    });
}

#[test]
fn the_upcall_evades_the_timers() {
    assert_eq!(
        Layout::guest(Version::V2, TIMERS).evtchn_ppi,
        IntId::new(31)
    );
    let timers = [IntId::new(31), IntId::new(30), IntId::new(27)];
    assert_eq!(
        Layout::guest(Version::V2, timers).evtchn_ppi,
        IntId::new(29)
    );
}

#[test]
#[cfg_attr(miri, ignore = "starts dtc")]
fn ram_goes_over_into_the_second_bank() {
    assert_eq!(guest_banks(0), None);
    assert_eq!(guest_banks(1017 << 30).map(|banks| banks.len()), Some(2));
    assert_eq!(guest_banks(1020 << 30), None);
    assert_eq!(guest_banks(3 << 30).unwrap(), [range(0x4000_0000, 3 << 30)]);
    let banks = guest_banks((3 << 30) + 4096).unwrap();
    assert_eq!(
        banks,
        [range(0x4000_0000, 3 << 30), range(0x2_0000_0000, 4096)]
    );
    let large = |input: &mut DomuInput<'_>| {
        input.banks = const { &[PhysRange::from_size(0x2_0000_0000, 4 << 30)] }
    };
    with_tree(large, |built| {
        let tree = Tree::new(&built.blob).unwrap();
        assert_eq!(cells(&tree, "/memory@200000000", "reg"), [2, 0, 1, 0]);
        dtc(&built.blob);
    });
}

#[test]
#[cfg_attr(miri, ignore = "starts dtc")]
fn shared_memory_is_reserved() {
    let shared = |input: &mut DomuInput<'_>| {
        input.shared = const {
            &[SharedRegion {
                id: "my-shared",
                guest: PhysRange::from_size(0x400_0000, 0x10_0000),
            }]
        };
    };
    with_tree(shared, |built| {
        let tree = Tree::new(&built.blob).unwrap();
        let path = "/reserved-memory/xen-shmem@4000000";
        assert_eq!(cells(&tree, path, "reg"), [0, 0x400_0000, 0, 0x10_0000]);
        let node = tree.find(path).unwrap();
        assert!(node.is_compatible(&["xen,shared-memory-v1"]));
        assert_eq!(node.text("xen,id"), "my-shared");
        dtc(&built.blob);
    });
}

#[test]
#[cfg_attr(miri, ignore = "starts dtc")]
fn a_partial_tree_is_merged() {
    let partial = Tree::new(PARTIAL).unwrap();
    let layout = Layout::guest(Version::V2, TIMERS);
    let input = DomuInput {
        layout: &layout,
        banks: &[range(0x4000_0000, 64 * MIB)],
        vcpus: 1,
        execution: Execution::AArch32,
        cpu_compatible: b"arm,cortex-a7\0",
        clock_frequency: None,
        xen_version: "4.17",
        is_enhanced: false,
        has_uart: true,
        has_initrd: false,
        bootargs: "",
        shared: &[],
        partial: Some(&partial),
    };
    let built = build(&input).unwrap();
    let tree = Tree::new(&built.blob).unwrap();
    let gic = partial.find("/gic").unwrap().phandle().unwrap();
    assert_eq!(
        tree.find("/interrupt-controller").unwrap().phandle(),
        Some(gic)
    );
    assert!(tree.find("/unrelated").is_none() && tree.find("/gic").is_none());
    let rtc = tree.find_alias_or_path("rtc").unwrap();
    assert_eq!(rtc.u32("interrupt-parent"), Some(gic));
    assert_eq!(
        cells(&tree, "/passthrough/pl031@9010000", "interrupts"),
        [0, 2, 4]
    );
    assert!(tree.find("/passthrough/virtio_mmio@a003e00").is_some());
    assert!(
        tree.nodes()
            .flat_map(|node| node.properties())
            .all(|property| {
                !property.name.starts_with(b"xen,reg") && !CONSUMED.contains(&property.name)
            })
    );
    dtc(&built.blob);
}

#[test]
fn a_tree_has_no_limit_of_four_kib() {
    let text = "x".repeat(1000);
    let mut regions = Vec::new();
    for n in 0..64 {
        regions.push(SharedRegion {
            id: &text,
            guest: PhysRange::from_size(0x1000_0000 + n * 0x1000, 0x1000),
        });
    }
    let layout = Layout::guest(Version::V2, TIMERS);
    let input = DomuInput {
        layout: &layout,
        banks: &[range(0x4000_0000, 64 * MIB)],
        vcpus: 8,
        execution: Execution::AArch32,
        cpu_compatible: b"arm,cortex-a15\0",
        clock_frequency: None,
        xen_version: "4.17",
        is_enhanced: true,
        has_uart: true,
        has_initrd: true,
        bootargs: &text,
        shared: &regions,
        partial: None,
    };
    let built = build(&input).unwrap();
    assert!(built.blob.len() > 64 * 1024);
    assert!(Tree::new(&built.blob).is_ok());
}

#[test]
fn nothing_else_may_be_where_a_guest_has_its_devices() {
    for (version, occupied) in [
        (Version::V2, [0x300_1000, 0x300_3fff].as_slice()),
        (
            Version::V3,
            &[0x300_1000, 0x301_0fff, 0x302_0000, 0x401_ffff],
        ),
    ] {
        let layout = Layout::guest(version, TIMERS);
        for at in occupied
            .iter()
            .chain(&[0x2200_0fff, 0x3800_0000, 0x38ff_ffff])
        {
            assert!(
                layout.overlaps(&range(at & !0xfff, 0x1000)),
                "{version:?} {at:#x}"
            );
        }
        for free in [
            0x300_0000,
            0x402_0000,
            0x2200_1000,
            0x37ff_f000,
            0x3900_0000,
            0x4000_0000,
        ] {
            assert!(
                !layout.overlaps(&range(free, 0x1000)),
                "{version:?} {free:#x}"
            );
        }
    }
}
