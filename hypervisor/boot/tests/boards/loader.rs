//! What a boot loader does to a device tree: fills in RAM, finds places for the files, and names them in `/chosen`.

use std::collections::HashMap;

use xenith_boot::memory::PhysRange;

const PAGE: u64 = 4096;

/// Sizes of what is loaded, in bytes.
#[derive(Clone, Copy)]
pub struct Files {
    pub image: u64,
    pub kernel: u64,
    pub initrd: u64,
}

/// Where it was put.
pub struct Places {
    pub image: PhysRange,
    pub tree: PhysRange,
    pub kernel: PhysRange,
    pub initrd: PhysRange,
}

/// Finds places at the top of the first range that has room, as U-Boot relocates what it moves.
pub fn place_files(free: &[PhysRange], files: Files, tree: u64) -> Option<Places> {
    // A machine with less memory has a smaller initramfs.
    let initrd = if free.iter().map(PhysRange::size).sum::<u64>() < 256 << 20 {
        1 << 20
    } else {
        files.initrd
    };
    let sizes = [files.image, tree + PAGE, files.kernel, initrd]
        .map(|size| size.next_multiple_of(0x20_0000));
    let all: u64 = sizes.iter().sum();
    let range = free.iter().find(|range| range.size() >= all + (16 << 20))?;
    // Below 4 GiB, and not too far up.
    let end = range
        .end()
        .raw()
        .min(range.base().raw() + (768 << 20))
        .min(1 << 32)
        & !0x1f_ffff;
    let mut at = end.checked_sub(all)?;
    let [image, tree, kernel, initrd] = [
        (sizes[0], files.image),
        (sizes[1], tree),
        (sizes[2], files.kernel),
        (sizes[3], initrd),
    ]
    .map(|(room, size)| {
        at += room;
        PhysRange::from_size(at - room, size)
    });
    Some(Places {
        image,
        tree,
        kernel,
        initrd,
    })
}

/// A device tree that can be changed.
#[derive(Default)]
pub struct Node {
    name: Vec<u8>,
    properties: Vec<(Vec<u8>, Vec<u8>)>,
    children: Vec<Node>,
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn zero_ended(bytes: &[u8], at: usize) -> Vec<u8> {
    let length = bytes[at..].iter().position(|byte| *byte == 0).unwrap();
    bytes[at..at + length].to_vec()
}

fn cells(values: &[u64], counts: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (value, count) in values.iter().zip(counts) {
        for cell in (0..*count).rev() {
            bytes.extend((((u128::from(*value)) >> (32 * cell)) as u32).to_be_bytes());
        }
    }
    bytes
}

impl Node {
    /// Reads a blob.
    pub fn parse(blob: &[u8]) -> Self {
        let (structure, strings) = (word(blob, 8), word(blob, 12));
        let mut at = structure;
        let mut open: Vec<Node> = vec![Node::default()];
        loop {
            let token = word(blob, at);
            at += 4;
            match token {
                1 => {
                    let name = zero_ended(blob, at);
                    at = (at + name.len() + 1).next_multiple_of(4);
                    open.push(Node {
                        name,
                        ..Node::default()
                    });
                }
                2 => {
                    let done = open.pop().unwrap();
                    open.last_mut().unwrap().children.push(done);
                }
                3 => {
                    let (length, name) = (word(blob, at), word(blob, at + 4));
                    let value = blob[at + 8..at + 8 + length].to_vec();
                    let name = zero_ended(blob, strings + name);
                    open.last_mut().unwrap().properties.push((name, value));
                    at = (at + 8 + length).next_multiple_of(4);
                }
                4 => {}
                _ => break,
            }
        }
        open.remove(0).children.remove(0)
    }

    /// Writes a blob.
    pub fn flatten(&self) -> Vec<u8> {
        fn emit(
            node: &Node,
            out: &mut Vec<u8>,
            strings: &mut Vec<u8>,
            known: &mut HashMap<Vec<u8>, u32>,
        ) {
            let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
            out.extend(1u32.to_be_bytes());
            out.extend(&node.name);
            out.push(0);
            pad(out);
            for (name, value) in &node.properties {
                let at = *known.entry(name.clone()).or_insert_with(|| {
                    let at = strings.len() as u32;
                    strings.extend(name);
                    strings.push(0);
                    at
                });
                out.extend(3u32.to_be_bytes());
                out.extend((value.len() as u32).to_be_bytes());
                out.extend(at.to_be_bytes());
                out.extend(value);
                pad(out);
            }
            for child in &node.children {
                emit(child, out, strings, known);
            }
            out.extend(2u32.to_be_bytes());
        }
        let (mut structure, mut strings) = (Vec::new(), Vec::new());
        emit(self, &mut structure, &mut strings, &mut HashMap::new());
        structure.extend(9u32.to_be_bytes());
        let start = 56u32;
        let (length, text) = (structure.len() as u32, strings.len() as u32);
        let header = [
            0xd00d_feed,
            start + length + text,
            start,
            start + length,
            40,
            17,
            16,
            0,
            text,
            length,
        ];
        let mut blob: Vec<u8> = header
            .iter()
            .flat_map(|word: &u32| word.to_be_bytes())
            .collect();
        // No memory reservations: the list's end.
        blob.extend([0; 16]);
        blob.extend(structure);
        blob.extend(strings);
        blob
    }

    fn get(&self, name: &str) -> Option<&Vec<u8>> {
        let found = self
            .properties
            .iter()
            .find(|(other, _)| other == name.as_bytes());
        found.map(|(_, value)| value)
    }

    fn set(&mut self, name: &str, value: Vec<u8>) {
        self.properties
            .retain(|(other, _)| other != name.as_bytes());
        self.properties.push((name.into(), value));
    }

    fn child(&mut self, name: &str) -> &mut Node {
        let found = self
            .children
            .iter()
            .position(|child| child.name == name.as_bytes());
        let index = found.unwrap_or_else(|| {
            self.children.push(Node {
                name: name.into(),
                ..Node::default()
            });
            self.children.len() - 1
        });
        &mut self.children[index]
    }

    fn root_cells(&self) -> [usize; 2] {
        [("#address-cells", 2), ("#size-cells", 1)]
            .map(|(name, default)| self.get(name).map_or(default, |value| word(value, 0)))
    }

    /// Gives the root of a tree without RAM what `ram` says for its `compatible`; returns it.
    pub fn fill_in_memory(&mut self, ram: impl Fn(&[String]) -> (u64, u64)) -> Option<(u64, u64)> {
        let counts = self.root_cells();
        let is_memory = |node: &Node| {
            node.name.split(|byte| *byte == b'@').next() == Some(b"memory")
                || node
                    .get("device_type")
                    .is_some_and(|kind| kind == b"memory\0")
        };
        let has_ram = self
            .children
            .iter()
            .filter(|node| is_memory(node))
            .any(|node| {
                let entry = 4 * (counts[0] + counts[1]);
                let reg = node.get("reg").cloned().unwrap_or_default();
                reg.chunks_exact(entry)
                    .any(|range| range[4 * counts[0]..].iter().any(|byte| *byte != 0))
            });
        if has_ram {
            return None;
        }
        let compatible: Vec<String> = self
            .get("compatible")
            .map(|value| {
                String::from_utf8_lossy(value)
                    .split('\0')
                    .map(str::to_string)
                    .collect()
            })
            .unwrap_or_default();
        let (base, size) = ram(&compatible);
        self.children.retain(|node| !is_memory(node));
        let memory = self.child(&format!("memory@{base:x}"));
        memory.set("device_type", b"memory\0".to_vec());
        memory.set("reg", cells(&[base, size], &counts));
        Some((base, size))
    }

    /// Names the modules in `/chosen`.
    pub fn add_modules(&mut self, places: &Places) {
        let counts = self.root_cells();
        let chosen = self.child("chosen");
        chosen.set("#address-cells", cells(&[counts[0] as u64], &[1]));
        chosen.set("#size-cells", cells(&[counts[1] as u64], &[1]));
        chosen.set("xen,xen-bootargs", b"console=dtuart\0".to_vec());
        chosen.set("xen,dom0-bootargs", b"console=hvc0\0".to_vec());
        for (kind, range) in [("kernel", places.kernel), ("ramdisk", places.initrd)] {
            let module = chosen.child(&format!("module@{:x}", range.base()));
            module.set(
                "compatible",
                format!("multiboot,{kind}\0multiboot,module\0").into_bytes(),
            );
            module.set("reg", cells(&[range.base().raw(), range.size()], &counts));
        }
    }
}
