//! A small reader of flattened device trees: one walk over the nodes, properties by name.
//!
//! The tree comes from the hypervisor under test, so a wrong one ends the walk; it never makes the guest read outside.

/// Nesting that is followed; deeper nodes end the walk.
const DEPTH: usize = 12;

/// A device tree.
#[derive(Clone, Copy)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// A node with the cell sizes that hold for its `reg`.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    tree: Fdt<'a>,
    /// Name with unit address; empty for the root.
    pub name: &'a str,
    /// 0 for the root.
    pub depth: usize,
    properties: usize,
    address_cells: u32,
    size_cells: u32,
    /// `ranges` of the parent, if that is not the root, and the cells of an address around it.
    bus: Option<(&'a [u8], u32)>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize, cells: u32) -> Option<u64> {
    (0..cells as usize).try_fold(0, |n, i| {
        Some(n << 32 | u64::from(word(bytes, at + 4 * i)?))
    })
}

fn text(bytes: &[u8], at: usize) -> Option<&str> {
    let rest = bytes.get(at..)?;
    core::str::from_utf8(rest.get(..rest.iter().position(|b| *b == 0)?)?).ok()
}

impl<'a> Fdt<'a> {
    /// The tree in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        if word(bytes, 0)? != 0xd00d_feed {
            return None;
        }
        let structure = word(bytes, 8)? as usize;
        let strings = word(bytes, 12)? as usize;
        Some(Self {
            structure: bytes.get(structure..structure.checked_add(word(bytes, 36)? as usize)?)?,
            strings: bytes.get(strings..strings.checked_add(word(bytes, 32)? as usize)?)?,
        })
    }

    /// Calls `f` for every node, parents first, until it returns `Some`.
    pub fn find<R>(&self, mut f: impl FnMut(&Node<'a>) -> Option<R>) -> Option<R> {
        let mut cells = [(2u32, 1u32); DEPTH];
        let mut buses: [Option<(&[u8], u32)>; DEPTH] = [None; DEPTH];
        let (mut at, mut depth) = (0, 0);
        loop {
            match word(self.structure, at)? {
                1 => {
                    let name = text(self.structure, at + 4)?;
                    at = (at + 4 + name.len() + 1).next_multiple_of(4);
                    let (address_cells, size_cells) =
                        if depth == 0 { (2, 1) } else { cells[depth - 1] };
                    let node = Node {
                        tree: *self,
                        name,
                        depth,
                        properties: at,
                        address_cells,
                        size_cells,
                        bus: if depth == 0 { None } else { buses[depth - 1] },
                    };
                    if let Some(result) = f(&node) {
                        return Some(result);
                    }
                    let own = |name| node.property(name).and_then(|value| word(value, 0));
                    cells[depth] = (
                        own("#address-cells").unwrap_or(2),
                        own("#size-cells").unwrap_or(1),
                    );
                    buses[depth] = node.property("ranges").map(|list| (list, address_cells));
                    depth += 1;
                    if depth == DEPTH {
                        return None;
                    }
                }
                2 => {
                    depth = depth.checked_sub(1)?;
                    at += 4;
                }
                3 => at = (at + 12 + word(self.structure, at + 4)? as usize).next_multiple_of(4),
                4 => at += 4,
                _ => return None,
            }
        }
    }

    /// The first node with this `compatible`.
    pub fn compatible(&self, wanted: &str) -> Option<Node<'a>> {
        self.find(|node| node.is_compatible(wanted).then_some(*node))
    }
}

impl<'a> Node<'a> {
    /// The bytes of a property.
    pub fn property(&self, wanted: &str) -> Option<&'a [u8]> {
        let bytes = self.tree.structure;
        let mut at = self.properties;
        loop {
            match word(bytes, at)? {
                3 => {
                    let length = word(bytes, at + 4)? as usize;
                    if text(self.tree.strings, word(bytes, at + 8)? as usize)? == wanted {
                        return bytes.get(at + 12..at + 12 + length);
                    }
                    at = (at + 12 + length).next_multiple_of(4);
                }
                4 => at += 4,
                _ => return None,
            }
        }
    }

    /// A property that is text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        text(self.property(name)?, 0)
    }

    /// Is `wanted` one of the node's `compatible` strings?
    pub fn is_compatible(&self, wanted: &str) -> bool {
        self.property("compatible")
            .is_some_and(|list| list.split(|b| *b == 0).any(|s| s == wanted.as_bytes()))
    }

    /// Address and size of the entry `index` of `reg`; translated by the parent's `ranges`, not by those around it.
    pub fn reg(&self, index: usize) -> Option<(u64, u64)> {
        let value = self.property("reg")?;
        let entry = (self.address_cells + self.size_cells) as usize * 4;
        let at = index.checked_mul(entry)?;
        let address = number(value, at, self.address_cells)?;
        let size = number(value, at + 4 * self.address_cells as usize, self.size_cells)?;
        Some((self.translate(address), size))
    }

    fn translate(&self, address: u64) -> u64 {
        let Some((ranges, outer)) = self.bus else {
            return address;
        };
        let (inner, size) = (self.address_cells, self.size_cells);
        let entry = (inner + outer + size) as usize * 4;
        (0..ranges.len() / entry.max(1))
            .find_map(|i| {
                let at = i * entry;
                let start = number(ranges, at, inner)?;
                let place = number(ranges, at + 4 * inner as usize, outer)?;
                let length = number(ranges, at + 4 * (inner + outer) as usize, size)?;
                let offset = address.checked_sub(start)?;
                (offset < length).then(|| place.wrapping_add(offset))
            })
            .unwrap_or(address)
    }

    /// INTID of the entry `index` of `interrupts` (the GIC's three cells).
    pub fn interrupt(&self, index: usize) -> Option<u32> {
        let value = self.property("interrupts")?;
        let number = word(value, 12 * index + 4)?;
        Some(if word(value, 12 * index)? == 1 {
            number + 16
        } else {
            number + 32
        })
    }
}
