//! A checked and indexed view of a flattened device tree: walking, finding, properties.
//!
//! [`Tree::new`] checks the whole blob once (header, every token, nesting, names) and keeps, for each node, where it
//! stands; everything else walks a tree that is known to be well formed. Addresses are in `address`, interrupts in
//! [`super::interrupts`].
//!
//! Why not the crate `fdt` (0.2.0-alpha3), which the project names for this: it can only be given a blob that has been
//! checked before (it adds header offsets in `u32`, underflows on an empty structure block, scans unterminated strings
//! to the end of the block, and `Node::id` panics when the strings block comes first), so the tokens have to be walked
//! here in any case. It finds parents and phandles from the root each time, quadratic on a board with 600 nodes, which
//! dom0's tree asks for nearly every node, and does not tell where a property's name stands, which a verbatim copy
//! needs. Its generic iterators cost 11 KiB of code (opt-level 2, armv7a), as much as this whole module and more. The
//! tests compare this reader with the crate's. (`dtoolkit` 0.4.1 refuses names above 31 characters, and overflows on a
//! 32-bit machine.)
//!
//! Invariants after [`Tree::new`]: the limits of [`super::format`] hold; nodes are in the order of the blob, so a subtree
//! is an index range, and a parent's index is smaller than its child's; names are UTF-8. An index takes 16 bytes a node.
//! No locks. Source: Devicetree Specification 0.4, chapters 2 and 5.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::format::{BEGIN_NODE, END, END_NODE, HEADER_SIZE, MAGIC, NOP, PROP, be32};
pub use super::format::{MAX_DEPTH, MAX_NAME, MAX_NODES, MAX_SIZE, Strings, TreeError, take_cells};
use crate::insert_sorted;

/// Where a node stands in the structure block.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Offset of the name.
    name: u32,
    /// Offset behind the last property.
    properties_end: u32,
    /// Index of the parent; the root's is itself.
    parent: u16,
    /// Index of the first node behind the subtree.
    end: u16,
    /// Length of the name.
    name_length: u8,
}

const _: () = assert!(MAX_NODES <= u16::MAX as usize && MAX_NAME <= u8::MAX as usize);

/// A device tree blob that has been checked.
pub struct Tree<'a> {
    blob: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
    reserve_offset: usize,
    /// Never empty.
    nodes: Vec<Entry>,
    /// Sorted.
    phandles: Vec<(u32, u16)>,
}

impl fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree({} bytes)", self.blob.len())
    }
}

impl<'a> Tree<'a> {
    /// Checks the blob at the start of `bytes` (which may be longer) and returns a view of it. It may lie at any address.
    ///
    /// # Errors
    /// [`TreeError`] says what is wrong with the blob.
    #[inline(never)]
    pub fn new(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let word = |index: usize| be32(bytes, index * 4).ok_or(TreeError::NoHeader(bytes.len()));
        let magic = word(0)?;
        if magic != MAGIC {
            return Err(TreeError::BadMagic(magic));
        }
        if bytes.len() < HEADER_SIZE {
            return Err(TreeError::NoHeader(bytes.len()));
        }
        let total = word(1)?;
        let size = usize::try_from(total).map_err(|_| TreeError::TooLarge(total))?;
        if size > MAX_SIZE {
            return Err(TreeError::TooLarge(total));
        }
        let blob = bytes.get(..size).ok_or(TreeError::Truncated {
            total,
            available: bytes.len(),
        })?;
        // Compatible down to version 16 and at least 17, so that the sizes of both blocks are in the header.
        let (version, last_compatible) = (word(5)?, word(6)?);
        if version < 17 || last_compatible > 17 {
            return Err(TreeError::Version(version));
        }
        let start = to_usize(word(2)?);
        let block =
            |offset: usize, size: u32| blob.get(offset..offset.checked_add(to_usize(size))?);
        let structure = block(start, word(9)?).ok_or(TreeError::Block("structure block"))?;
        let strings =
            block(to_usize(word(3)?), word(8)?).ok_or(TreeError::Block("strings block"))?;
        if !start.is_multiple_of(4) {
            return Err(TreeError::Block("unaligned structure block"));
        }
        let mut tree = Self {
            blob,
            structure,
            strings,
            reserve_offset: to_usize(word(4)?),
            nodes: Vec::new(),
            phandles: Vec::new(),
        };
        tree.index(start)?;
        tree.check_reservations()?;
        let mut phandles = Vec::new();
        for node in tree.nodes() {
            if let Some(phandle) = node.phandle() {
                phandles
                    .try_reserve(1)
                    .map_err(|_| TreeError::OutOfMemory(node.index()))?;
                insert_sorted(&mut phandles, (phandle, node.index), |a, b| a <= b);
            }
        }
        tree.phandles = phandles;
        Ok(tree)
    }

    /// Walks all tokens of the structure block once. `start` is its offset in the blob, for messages.
    fn index(&mut self, start: usize) -> Result<(), TreeError> {
        let structure = self.structure;
        // The chain of open nodes, and how many there are.
        let (mut open, mut depth) = ([0u16; MAX_DEPTH], 0usize);
        let mut offset = 0usize;
        // Properties may only stand before the children of a node.
        let mut properties_allowed = false;
        loop {
            let wrong = |what| TreeError::Structure {
                offset: start.saturating_add(offset),
                what,
            };
            let token = be32(structure, offset).ok_or_else(|| wrong("no end"))?;
            // `offset + 4 <= structure.len() <= MAX_SIZE`, so none of the sums below can overflow, whatever a length says.
            let body = offset + 4;
            let used = match token {
                BEGIN_NODE => {
                    let Some(slot) = open.get_mut(depth) else {
                        return Err(TreeError::TooDeep);
                    };
                    let index = self.nodes.len();
                    if index >= MAX_NODES {
                        return Err(TreeError::TooManyNodes);
                    }
                    if depth == 0 && index > 0 {
                        return Err(wrong("second root"));
                    }
                    let name = structure.get(body..).unwrap_or_default();
                    let length = name_length(name).ok_or_else(|| wrong("bad node name"))?;
                    if (length == 0) != (depth == 0) {
                        return Err(wrong("node without a name, or a named root"));
                    }
                    *slot = index as u16;
                    let used = length + 1;
                    let parent = depth.checked_sub(1).and_then(|above| open.get(above));
                    self.nodes
                        .try_reserve(1)
                        .map_err(|_| TreeError::OutOfMemory(index))?;
                    self.nodes.push(Entry {
                        name: body as u32,
                        properties_end: (body + used).next_multiple_of(4) as u32,
                        parent: parent.copied().unwrap_or(0),
                        end: 0,
                        name_length: length as u8,
                    });
                    depth += 1;
                    properties_allowed = true;
                    used
                }
                END_NODE => {
                    depth = depth
                        .checked_sub(1)
                        .ok_or_else(|| wrong("end of no node"))?;
                    properties_allowed = false;
                    let end = self.nodes.len() as u16;
                    let index = open.get(depth).copied().unwrap_or(0);
                    if let Some(node) = self.nodes.get_mut(usize::from(index)) {
                        node.end = end;
                    }
                    0
                }
                PROP => {
                    if !properties_allowed {
                        return Err(wrong("property after a child node, or outside any"));
                    }
                    let (Some(length), Some(name)) =
                        (be32(structure, body), be32(structure, body + 4))
                    else {
                        return Err(wrong("truncated property"));
                    };
                    let length = to_usize(length);
                    if length > structure.len().saturating_sub(body + 8) {
                        return Err(wrong("property longer than the tree"));
                    }
                    let name = self
                        .strings
                        .get(to_usize(name)..)
                        .ok_or_else(|| wrong("property name outside the strings"))?;
                    if name_length(name).is_none_or(|length| length == 0) {
                        return Err(wrong("bad property name"));
                    }
                    let used = 8 + length;
                    if let Some(node) = self.nodes.last_mut() {
                        node.properties_end = (body + used).next_multiple_of(4) as u32;
                    }
                    used
                }
                NOP => 0,
                END => {
                    if depth != 0 || self.nodes.is_empty() {
                        return Err(wrong("end inside a node"));
                    }
                    return if body == structure.len() {
                        Ok(())
                    } else {
                        Err(wrong("data after the end"))
                    };
                }
                _ => return Err(wrong("unknown token")),
            };
            offset = (body + used).next_multiple_of(4);
        }
    }

    /// Checks that the reservation block ends inside the blob.
    fn check_reservations(&self) -> Result<(), TreeError> {
        let mut entries = self
            .blob
            .get(self.reserve_offset..)
            .unwrap_or_default()
            .chunks_exact(16);
        if entries.any(|entry| entry.iter().all(|byte| *byte == 0)) {
            Ok(())
        } else {
            Err(TreeError::Block("memory reservation block"))
        }
    }

    /// Returns the blob, cut to the size its header says.
    pub const fn blob(&self) -> &'a [u8] {
        self.blob
    }

    /// Returns the strings block, which the names of properties are in.
    pub const fn strings(&self) -> &'a [u8] {
        self.strings
    }

    /// Returns the size of the structure block, in bytes.
    pub const fn structure_size(&self) -> usize {
        self.structure.len()
    }

    fn at(&self, index: usize) -> Node<'_, 'a> {
        Node {
            tree: self,
            index: index as u16,
        }
    }

    /// Returns the root node.
    pub fn root(&self) -> Node<'_, 'a> {
        self.at(0)
    }

    /// Returns the size of the blob in bytes, with whatever padding it has.
    pub fn size(&self) -> usize {
        self.blob.len()
    }

    /// Returns a copy of the blob without the padding at its end: QEMU's is 1 MiB, for a tree of 8 KiB.
    #[inline(never)]
    pub fn compact(&self) -> Vec<u8> {
        let word = |index: usize| be32(self.blob, index * 4).map_or(0, to_usize);
        let reserved = self.reserve_offset + 16 * (self.reservations().count() + 1);
        let structure = word(2).saturating_add(self.structure.len());
        let strings = word(3).saturating_add(self.strings.len());
        let end = reserved.max(structure).max(strings).max(HEADER_SIZE);
        let mut copy = self.blob.get(..end).unwrap_or(self.blob).to_vec();
        let size = u32::try_from(copy.len()).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(field) = copy.get_mut(4..8) {
            field.copy_from_slice(&size);
        }
        copy
    }

    /// Returns all nodes, the root first, each before its children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        (0..self.nodes.len()).map(|index| self.at(index))
    }

    /// Returns the entries of the memory reservation block (`/memreserve/`), as address and size in bytes.
    pub fn reservations(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        // The end of the block was found by `check_reservations`.
        let entries = self
            .blob
            .get(self.reserve_offset..)
            .unwrap_or_default()
            .chunks_exact(16);
        entries.map_while(|entry| {
            let (address, size) = entry.split_at_checked(8)?;
            let address = u64::from_be_bytes(*address.first_chunk()?);
            let size = u64::from_be_bytes(*size.first_chunk()?);
            ((address, size) != (0, 0)).then_some((address, size))
        })
    }

    /// Returns the node at an absolute path. A component without a unit address matches the first node of that name.
    #[inline(never)]
    pub fn find(&self, path: &str) -> Option<Node<'_, 'a>> {
        self.root().find_below(path.strip_prefix('/')?)
    }

    /// Returns the node at an absolute path, or the one an entry of `/aliases` names. What follows the first `/` of a
    /// relative path is taken below the alias.
    #[inline(never)]
    pub fn find_alias_or_path(&self, name: &str) -> Option<Node<'_, 'a>> {
        if name.starts_with('/') {
            return self.find(name);
        }
        let (alias, rest) = name.split_once('/').unwrap_or((name, ""));
        let path = self.find("/aliases")?.text(alias);
        self.find(path)?.find_below(rest)
    }

    /// Returns the node with a phandle: the first, if several have it.
    pub fn find_phandle(&self, phandle: u32) -> Option<Node<'_, 'a>> {
        let first = self.phandles.partition_point(|entry| entry.0 < phandle);
        let (found, index) = self.phandles.get(first)?;
        (*found == phandle).then(|| self.at(usize::from(*index)))
    }

    /// Returns the largest phandle in use, or 0.
    pub fn max_phandle(&self) -> u32 {
        self.phandles.last().map_or(0, |entry| entry.0)
    }
}

fn to_usize(value: u32) -> usize {
    // 32 bits fit every machine we run on; a larger value could not be in memory anyway.
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Returns the length of the zero-terminated UTF-8 name at the front of `bytes`.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes
        .iter()
        .take(MAX_NAME + 1)
        .position(|byte| *byte == 0)?;
    core::str::from_utf8(bytes.get(..length)?)
        .ok()
        .map(|_| length)
}

/// A property as it stands in the tree.
#[derive(Clone, Copy, Debug)]
pub struct Property<'a> {
    /// Its name's offset in the strings block.
    pub name_offset: u32,
    /// Its name.
    pub name: &'a [u8],
    /// Its bytes.
    pub value: &'a [u8],
}

/// The properties of one node, in order.
#[derive(Clone, Debug)]
pub struct Properties<'a> {
    rest: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        loop {
            let token = be32(self.rest, 0)?;
            let body = self.rest.get(4..)?;
            self.rest = body;
            if token != PROP {
                continue;
            }
            let (length, name_offset) = (to_usize(be32(body, 0)?), be32(body, 4)?);
            let (value, _) = body.get(8..)?.split_at_checked(length)?;
            self.rest = body
                .get((8 + length).next_multiple_of(4)..)
                .unwrap_or_default();
            let name = self.strings.get(to_usize(name_offset)..)?;
            let name = name.get(..name.iter().position(|byte| *byte == 0)?)?;
            return Some(Property {
                name_offset,
                name,
                value,
            });
        }
    }
}

/// A node of a tree.
#[derive(Clone, Copy)]
pub struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    index: u16,
}

impl PartialEq for Node<'_, '_> {
    /// Nodes of one tree are compared.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Eq for Node<'_, '_> {}

impl<'t, 'a> Node<'t, 'a> {
    fn entry(self) -> Entry {
        // The index is of this tree, so the default is never used.
        let default = Entry {
            name: 0,
            properties_end: 0,
            parent: 0,
            end: 0,
            name_length: 0,
        };
        self.tree
            .nodes
            .get(self.index())
            .copied()
            .unwrap_or(default)
    }

    /// Returns its place in the order of the blob; the root's is 0.
    pub fn index(self) -> usize {
        usize::from(self.index)
    }

    /// Returns the tree that it is of.
    pub fn tree(self) -> &'t Tree<'a> {
        self.tree
    }

    /// Returns true for the root.
    pub fn is_root(self) -> bool {
        self.index == 0
    }

    /// Returns the parent, or `None` for the root.
    pub fn parent(self) -> Option<Self> {
        let parent = self.entry().parent;
        (!self.is_root()).then_some(Self {
            index: parent,
            ..self
        })
    }

    /// Returns the number of ancestors: 0 for the root.
    pub fn depth(self) -> usize {
        core::iter::successors(self.parent(), |node| node.parent()).count()
    }

    /// Returns the index behind the last node of the subtree.
    pub fn end(self) -> usize {
        usize::from(self.entry().end)
    }

    /// Returns this node and all below it, each before its children.
    pub fn walk(self) -> impl Iterator<Item = Self> {
        (self.index()..self.end()).map(move |index| self.tree.at(index))
    }

    /// Returns the children in order.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let (mut next, end) = (self.index() + 1, self.end());
        core::iter::from_fn(move || {
            let child = self.tree.at(next);
            // The end of a subtree is behind its root.
            (next < end).then(|| {
                next = child.end().max(next + 1);
                child
            })
        })
    }

    /// Returns the node at a path below this one.
    fn find_below(self, path: &str) -> Option<Self> {
        let mut found = self;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            let exact = found.children().find(|child| child.name() == component);
            let by_name = || {
                let mut children = found.children();
                children.find(|child| !component.contains('@') && child.base_name() == component)
            };
            found = exact.or_else(by_name)?;
        }
        Some(found)
    }

    /// Returns the name with the unit address; empty for the root.
    pub fn name(self) -> &'a str {
        let entry = self.entry();
        let start = to_usize(entry.name);
        let name = self
            .tree
            .structure
            .get(start..start + usize::from(entry.name_length));
        core::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }

    /// Returns the name without the unit address; empty for the root.
    pub fn base_name(self) -> &'a str {
        let name = self.name();
        name.split_once('@').map_or(name, |(base, _)| base)
    }

    /// Returns the properties in order.
    pub fn properties(self) -> Properties<'a> {
        let entry = self.entry();
        let name_end = to_usize(entry.name) + usize::from(entry.name_length) + 1;
        let range = name_end.next_multiple_of(4)..to_usize(entry.properties_end);
        Properties {
            rest: self.tree.structure.get(range).unwrap_or_default(),
            strings: self.tree.strings,
        }
    }

    /// Returns the bytes of a property.
    #[inline(never)]
    pub fn prop(self, name: &str) -> Option<&'a [u8]> {
        let mut properties = self.properties();
        let found = properties.find(|property| property.name == name.as_bytes())?;
        Some(found.value)
    }

    /// Returns a property that is one cell.
    pub fn u32(self, name: &str) -> Option<u32> {
        let value = self.prop(name)?;
        if value.len() == 4 {
            be32(value, 0)
        } else {
            None
        }
    }

    /// Returns a property that is one or two cells.
    pub fn u64(self, name: &str) -> Option<u64> {
        let value = self.prop(name)?;
        match value.len() {
            4 => be32(value, 0).map(u64::from),
            8 => value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            _ => None,
        }
    }

    /// Returns a property as a list of strings.
    pub fn strings(self, name: &str) -> Option<Strings<'a>> {
        self.prop(name).map(Strings::new)
    }

    /// Returns a property as one string (the first, if there are several); empty if there is none.
    pub fn text(self, name: &str) -> &'a str {
        self.strings(name).unwrap_or_default().first()
    }

    /// Returns the `compatible` list, empty if there is none.
    pub fn compatible(self) -> Strings<'a> {
        self.strings("compatible").unwrap_or_default()
    }

    /// Returns true when `compatible` holds one of `wanted`.
    pub fn is_compatible(self, wanted: &[&str]) -> bool {
        self.compatible()
            .iter()
            .any(|string| wanted.contains(&string))
    }

    /// Returns true unless `status` says otherwise (absent, `okay` and `ok` mean available).
    pub fn is_available(self) -> bool {
        self.strings("status")
            .is_none_or(|status| matches!(status.first(), "okay" | "ok"))
    }

    /// Returns the phandle (also under its older name `linux,phandle`); 0 and all ones are no phandles.
    pub fn phandle(self) -> Option<u32> {
        let phandle = self.u32("phandle").or_else(|| self.u32("linux,phandle"))?;
        (phandle != 0 && phandle != u32::MAX).then_some(phandle)
    }

    /// Returns the number of cells in an address of this node's children; 2 by default.
    pub fn address_cells(self) -> u32 {
        self.u32("#address-cells").unwrap_or(2)
    }

    /// Returns the number of cells in a size of this node's children; 1 by default.
    pub fn size_cells(self) -> u32 {
        self.u32("#size-cells").unwrap_or(1)
    }

    /// Returns the path, for messages: what is not printable ASCII is replaced.
    #[inline(never)]
    pub fn path(self) -> String {
        let mut chain = [self; MAX_DEPTH];
        let mut depth = 0;
        let mut at = self;
        while let (Some(slot), Some(parent)) = (chain.get_mut(depth), at.parent()) {
            *slot = at;
            depth += 1;
            at = parent;
        }
        let mut path = String::new();
        for node in chain.iter().take(depth).rev() {
            path.push('/');
            for byte in node.name().bytes() {
                path.push(if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '?'
                });
            }
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }
}

impl fmt::Display for Node<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl fmt::Debug for Node<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
pub(crate) mod tests;
