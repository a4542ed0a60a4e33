//! Tests of the checked tree, and a small builder of blobs for other tests.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::*;
use crate::fdt::address::AddressError;
use crate::fdt::host::{HostInfo, console};
use crate::fdt::interrupts::IrqResolver;
use crate::memory::PhysRange;

/// Builds blobs, also wrong ones.
#[derive(Default)]
pub(crate) struct Blob {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    pub(crate) fn new() -> Self {
        Self::default().open("")
    }
    fn word(mut self, word: u32) -> Self {
        self.structure.extend(word.to_be_bytes());
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.structure.extend(bytes);
        while !self.structure.len().is_multiple_of(4) {
            self.structure.push(0);
        }
        self
    }
    pub(crate) fn open(self, name: &str) -> Self {
        self.word(BEGIN_NODE).bytes(format!("{name}\0").as_bytes())
    }
    pub(crate) fn close(self) -> Self {
        self.word(END_NODE)
    }
    pub(crate) fn nop(self) -> Self {
        self.word(NOP)
    }
    pub(crate) fn prop(mut self, name: &str, value: &[u8]) -> Self {
        let offset = self.strings.len();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        let length = u32::try_from(value.len()).unwrap();
        self.word(PROP)
            .word(length)
            .word(u32::try_from(offset).unwrap())
            .bytes(value)
    }
    pub(crate) fn cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.prop(name, &value)
    }
    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        self.prop(name, format!("{text}\0").as_bytes())
    }
    /// Closes the root and adds the header and an empty reservation block.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.close().word(END).pack()
    }
    fn pack(self) -> Vec<u8> {
        let start = HEADER_SIZE + 16;
        let strings = start + self.structure.len();
        let total = strings + self.strings.len();
        let mut blob = Vec::new();
        let sizes = [self.strings.len(), self.structure.len()];
        let words = [
            total,
            start,
            strings,
            HEADER_SIZE,
            17,
            16,
            0,
            sizes[0],
            sizes[1],
        ];
        blob.extend(MAGIC.to_be_bytes());
        for word in words {
            blob.extend(u32::try_from(word).unwrap().to_be_bytes());
        }
        blob.extend([0; 16]);
        blob.extend(self.structure);
        blob.extend(self.strings);
        blob
    }
}

const BOARD: &[u8] = fixture!("board.dtb");
const VIRT: &[u8] = fixture!("qemu-virt-guest-loader.dtb");

fn error(blob: &[u8]) -> TreeError {
    Tree::new(blob).unwrap_err()
}

#[test]
fn walks_all_nodes_in_order() {
    let blob = Blob::new()
        .open("a")
        .open("b@1")
        .close()
        .nop()
        .close()
        .open("c")
        .nop()
        .text("p", "x")
        .close()
        .finish();
    let tree = Tree::new(&blob).unwrap();
    let paths: Vec<String> = tree.nodes().map(|path| path.to_string()).collect();
    assert_eq!(paths, ["/", "/a", "/a/b@1", "/c"]);
    let below: Vec<String> = tree
        .find("/a")
        .unwrap()
        .walk()
        .map(|path| path.to_string())
        .collect();
    assert_eq!(below, ["/a", "/a/b@1"]);
    assert_eq!(tree.find("/c").unwrap().strings("p").unwrap().first(), "x");
}

#[test]
fn counts_the_nodes_of_a_real_tree() {
    // Counted by dtc: a line with an opening brace for each node.
    assert_eq!(Tree::new(VIRT).unwrap().nodes().count(), 61);
}

#[test]
fn finds_by_path_alias_and_phandle() {
    let tree = Tree::new(BOARD).unwrap();
    assert!(
        tree.find("/cpus/cpu@100")
            .unwrap()
            .strings("compatible")
            .unwrap()
            .contains("arm,cortex-a15")
    );
    assert_eq!(tree.find("/cpus/cpu").unwrap().to_string(), "/cpus/cpu@0");
    assert_eq!(
        tree.find("/soc/bus/serial").unwrap().to_string(),
        "/soc@20000000/bus@100000/serial@8000"
    );
    assert!(tree.find("/cpus/cpu@2").is_none());
    assert!(tree.find("cpus").is_none());
    assert_eq!(
        tree.find_alias_or_path("serial0").unwrap().to_string(),
        "/soc@20000000/serial@50000"
    );
    assert!(tree.find_alias_or_path("serial9").is_none());
    let gic = tree.find("/soc/interrupt-controller").unwrap();
    assert_eq!(
        tree.find_phandle(gic.phandle().unwrap())
            .unwrap()
            .to_string(),
        gic.to_string()
    );
    assert!(tree.find_phandle(0xdead).is_none());
}

#[test]
fn translates_through_windows() {
    let tree = Tree::new(BOARD).unwrap();
    let reg = |path: &str, index| tree.find(path).unwrap().reg_range(index);
    // Second window of the outer bus; the inner bus on top of the first; a bus without windows.
    assert_eq!(
        reg("/soc/serial", 0),
        Ok(PhysRange::new(0x2805_0000, 0x100).unwrap())
    );
    assert_eq!(
        reg("/soc/bus/serial", 0),
        Ok(PhysRange::new(0x2010_8000, 0x1000).unwrap())
    );
    assert_eq!(reg("/soc/hidden/device", 0), Err(AddressError::NotMapped));
    assert_eq!(reg("/soc/serial", 1), Err(AddressError::Missing));
    assert_eq!(
        reg("/memory@60000000", 0),
        Ok(PhysRange::new(0x6000_0000, 0x2000_0000).unwrap())
    );
}

#[test]
fn a_range_must_lie_in_one_window() {
    let blob = Blob::new()
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .open("bus")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .cells("ranges", &[0, 1, 0, 0x1000, 0x1000, 2, 0, 0x1000])
        .open("in")
        .cells("reg", &[0x1800, 0x800])
        .close()
        .open("over")
        .cells("reg", &[0x1800, 0x801])
        .close()
        .open("across")
        .cells("reg", &[0x800, 0x1000])
        .close()
        .open("odd")
        .cells("reg", &[0x800])
        .close()
        .close()
        .finish();
    let tree = Tree::new(&blob).unwrap();
    let reg = |path: &str| tree.find(path).unwrap().reg_range(0);
    assert_eq!(
        reg("/bus/in"),
        Ok(PhysRange::new(0x2_0000_0800, 0x800).unwrap())
    );
    assert_eq!(reg("/bus/over"), Err(AddressError::NotMapped));
    assert_eq!(reg("/bus/across"), Err(AddressError::NotMapped));
    assert_eq!(reg("/bus/odd"), Err(AddressError::Missing));
}

#[test]
fn hostile_cell_counts_end() {
    // No cells at all would make a list that never gets shorter; too many would be no number.
    for (address_cells, size_cells) in [(0, 0), (5, 1), (u32::MAX, u32::MAX), (4, 4)] {
        let blob = Blob::new()
            .cells("#address-cells", &[address_cells])
            .cells("#size-cells", &[size_cells])
            .open("bus")
            .cells("#address-cells", &[address_cells])
            .cells("#size-cells", &[size_cells])
            .cells("ranges", &[u32::MAX; 24])
            .open("device")
            .cells("reg", &[u32::MAX; 16])
            .close()
            .close()
            .finish();
        let tree = Tree::new(&blob).unwrap();
        let device = tree.find("/bus/device").unwrap();
        assert!(device.reg_range(0).is_err(), "{address_cells} {size_cells}");
        assert!(device.reg().count() <= 2);
    }
}

#[test]
fn availability_follows_status() {
    for (status, available) in [
        ("okay", true),
        ("ok", true),
        ("disabled", false),
        ("fail", false),
        ("", false),
    ] {
        let blob = Blob::new()
            .open("a")
            .text("status", status)
            .close()
            .finish();
        assert_eq!(
            Tree::new(&blob).unwrap().find("/a").unwrap().is_available(),
            available,
            "{status}"
        );
    }
}

#[test]
fn names_what_is_wrong_with_the_header() {
    let good = Blob::new().finish();
    let with = |index: usize, word: u32| {
        let mut blob = good.clone();
        blob[index * 4..index * 4 + 4].copy_from_slice(&word.to_be_bytes());
        blob
    };
    assert!(Tree::new(&good).is_ok());
    assert_eq!(error(&[]), TreeError::NoHeader(0));
    assert_eq!(error(&good[..39]), TreeError::NoHeader(39));
    assert_eq!(
        error(&with(0, 0x5441_0001)),
        TreeError::BadMagic(0x5441_0001)
    );
    assert_eq!(error(&with(1, 0x20_0001)), TreeError::TooLarge(0x20_0001));
    assert_eq!(
        error(&with(1, 4096)),
        TreeError::Truncated {
            total: 4096,
            available: good.len()
        }
    );
    assert_eq!(error(&with(5, 16)), TreeError::Version(16));
    for (index, word) in [
        (2, u32::MAX),
        (2, 0x10_0000),
        (9, u32::MAX),
        (9, u32::MAX - 40),
    ] {
        assert_eq!(
            error(&with(index, word)),
            TreeError::Block("structure block"),
            "{index} {word:#x}"
        );
    }
    for (index, word) in [(3, u32::MAX), (8, u32::MAX)] {
        assert_eq!(
            error(&with(index, word)),
            TreeError::Block("strings block"),
            "{index} {word:#x}"
        );
    }
    assert_eq!(
        error(&with(4, u32::MAX)),
        TreeError::Block("memory reservation block")
    );
    assert!(Tree::new(&with(9, 0)).is_err());
    let text = error(&with(0, 0x5441_0001)).to_string();
    assert!(
        text.contains("magic 0x54410001") && text.contains("boot loader must"),
        "{text}"
    );
}

#[test]
fn names_what_is_wrong_with_the_structure() {
    let what = |blob: Vec<u8>| match error(&blob) {
        TreeError::Structure { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(Blob::new().close().finish()), "end of no node");
    assert_eq!(what(Blob::new().open("a").finish()), "end inside a node");
    assert_eq!(what(Blob::new().close().pack()), "no end");
    assert_eq!(what(Blob::new().close().open("b").finish()), "second root");
    assert_eq!(
        what(Blob::new().open("").close().finish()),
        "node without a name, or a named root"
    );
    assert_eq!(
        what(Blob::new().open("a").close().text("late", "x").finish()),
        "property after a child node, or outside any"
    );
    assert_eq!(what(Blob::new().word(7).finish()), "unknown token");
    assert_eq!(
        what(Blob::new().word(PROP).word(u32::MAX).word(0).finish()),
        "property longer than the tree"
    );
    // Two words follow, so eight bytes would fit and nine do not.
    assert_eq!(
        what(Blob::new().word(PROP).word(9).word(0).finish()),
        "property longer than the tree"
    );
    assert_eq!(
        what(Blob::new().word(PROP).word(0).word(u32::MAX).finish()),
        "property name outside the strings"
    );
    assert_eq!(
        what(Blob::new().close().word(END).word(NOP).pack()),
        "data after the end"
    );
    assert_eq!(
        what(Blob::new().open(&"n".repeat(256)).close().finish()),
        "bad node name"
    );
    assert_eq!(
        what(Blob::new().prop(&"n".repeat(256), &[]).finish()),
        "bad property name"
    );
    assert!(Tree::new(&Blob::new().open(&"n".repeat(255)).close().finish()).is_ok());
}

#[test]
fn bounds_depth_and_nodes() {
    let nested = |depth: usize| {
        let blob = (1..depth).fold(Blob::new(), |blob, _| blob.open("n"));
        (1..depth).fold(blob, |blob, _| blob.close()).finish()
    };
    assert_eq!(
        Tree::new(&nested(MAX_DEPTH)).unwrap().nodes().count(),
        MAX_DEPTH
    );
    assert_eq!(error(&nested(MAX_DEPTH + 1)), TreeError::TooDeep);
    let wide = |count: usize| {
        (1..count)
            .fold(Blob::new(), |blob, _| blob.open("n").close())
            .finish()
    };
    assert_eq!(
        Tree::new(&wide(MAX_NODES)).unwrap().nodes().count(),
        MAX_NODES
    );
    assert_eq!(error(&wide(MAX_NODES + 1)), TreeError::TooManyNodes);
}

#[test]
fn any_alignment_and_trailing_bytes_are_fine() {
    for shift in 0..8 {
        let mut moved = std::vec![0xaa; shift];
        moved.extend(BOARD);
        moved.extend([0x55; 100]);
        let tree = Tree::new(&moved[shift..]).unwrap();
        assert_eq!(tree.blob(), BOARD);
        assert_eq!(
            tree.reservations().collect::<Vec<_>>(),
            [(0x4000_0000, 0x1000), (0x7ff0_0000, 0x10_0000)]
        );
    }
}

/// Uses everything that reads a tree; what it says does not matter, only that it comes to an end.
fn use_all(blob: &[u8]) -> bool {
    let Ok(tree) = Tree::new(blob) else {
        return false;
    };
    let irqs = IrqResolver::new(&tree);
    for node in tree.nodes() {
        let _ = node.to_string();
        for index in 0..node.reg().count().min(8) {
            let _ = node.reg_range(index);
        }
        for index in 0..8 {
            let _ = irqs.interrupt(node, index);
        }
        assert!(node.properties().all(|property| !property.name.is_empty()));
        assert!(node.children().all(|child| child.parent() == Some(node)));
        assert!(node.depth() < MAX_DEPTH && node.end() > node.index());
    }
    let _ = HostInfo::from_tree(&tree).map_err(|error| error.to_string());
    let _ = console(&tree, &irqs, None).map_err(|error| error.to_string());
    let found = crate::modules::BootModules::from_tree(&tree, &|_| None);
    let range = PhysRange::new(0x4000_0000, 0x4000_0000).unwrap();
    let _ = found
        .and_then(|found| found.check(&[range], range, range))
        .map_err(|error| error.to_string());
    true
}

#[test]
fn no_truncation_panics() {
    for blob in [BOARD, VIRT] {
        for length in (0..blob.len()).step_by(if blob.len() > 6000 { 13 } else { 1 }) {
            assert!(!use_all(&blob[..length]));
            // The same with a header that agrees.
            let mut cut = blob[..length].to_vec();
            if length >= 8 {
                cut[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            }
            use_all(&cut);
        }
    }
    assert!(use_all(BOARD) && use_all(VIRT));
}

#[test]
fn no_corruption_panics() {
    let mut survivors = 0;
    let mut flip = |blob: &[u8], step: usize, masks: &[u8]| {
        for position in (0..blob.len()).step_by(step) {
            for mask in masks {
                let mut bad = blob.to_vec();
                bad[position] ^= mask;
                survivors += usize::from(use_all(&bad));
            }
        }
    };
    flip(BOARD, 1, &[0xff]);
    flip(BOARD, 3, &[0x01, 0x80]);
    flip(VIRT, 11, &[0xff, 0x04]);
    // Most flips hit values, which only other code can judge.
    assert!(survivors > 1000, "{survivors}");
}

#[test]
fn no_random_corruption_panics() {
    let seed = 0x2545_f491_4f6c_dd1du64;
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..1000 {
        let mut bad = BOARD.to_vec();
        for _ in 0..1 + next() % 8 {
            // Mostly whole cells with values that are likely to hurt.
            let position = usize::try_from(next()).unwrap_or(0) % (bad.len() / 4) * 4;
            let word = match next() % 6 {
                0 => 0,
                1 => u32::MAX,
                2 => 0x8000_0000,
                3 => u32::try_from(next() % 64).unwrap(),
                4 => 0x7fff_fffc,
                _ => u32::try_from(next() >> 32).unwrap(),
            };
            bad[position..position + 4].copy_from_slice(&word.to_be_bytes());
        }
        let outcome = std::panic::catch_unwind(|| use_all(&bad));
        assert!(outcome.is_ok(), "seed {seed:#x} round {round}");
    }
}

/// Our reader says the same as the crate `fdt`.
#[test]
fn agrees_with_the_fdt_crate() {
    for blob in [BOARD, VIRT] {
        let tree = Tree::new(blob).unwrap();
        let other = fdt::Fdt::new_unaligned(blob).unwrap();
        let ours = tree.nodes().map(|node| {
            let properties = node.properties();
            let properties = properties.map(|property| (property.name.to_vec(), property.value));
            (node.name().to_string(), properties.collect::<Vec<_>>())
        });
        let mut theirs = Vec::new();
        let root = fdt::nodes::AsNode::as_node(&other.root());
        let mut pending = std::vec![root];
        while let Some(node) = pending.pop() {
            let name = node.name();
            let name = match name.unit_address {
                Some(unit) => format!("{}@{unit}", name.name),
                None if node.name().name == "/" => String::new(),
                None => name.name.to_string(),
            };
            let properties = node.properties();
            let properties = properties
                .into_iter()
                .map(|property| (property.name.as_bytes().to_vec(), property.value));
            theirs.push((name, properties.collect::<Vec<_>>()));
            let children: Vec<_> = node.children().into_iter().collect();
            pending.extend(children.into_iter().rev());
        }
        assert_eq!(ours.collect::<Vec<_>>(), theirs);
    }
}

#[test]
fn a_compact_copy_says_the_same() {
    for blob in [BOARD, VIRT] {
        let mut padded = blob.to_vec();
        padded.resize(blob.len() + 100_000, 0xaa);
        let size = u32::try_from(padded.len()).unwrap();
        padded[4..8].copy_from_slice(&size.to_be_bytes());
        let tree = Tree::new(&padded).unwrap();
        let copy = tree.compact();
        assert!(copy.len() <= blob.len());
        let small = Tree::new(&copy).unwrap();
        assert_eq!(small.size(), copy.len());
        let all = |tree: &Tree<'_>| {
            tree.nodes()
                .flat_map(|node| {
                    node.properties()
                        .map(|property| (property.name.to_vec(), property.value.to_vec()))
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(all(&tree), all(&small));
        assert!(tree.reservations().eq(small.reservations()));
    }
}
