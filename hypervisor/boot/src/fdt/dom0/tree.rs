//! A flat index of a device tree, made in one bounded pass over its tokens.
//!
//! Why not the `fdt` crate here: building dom0's tree needs the parent, the children's cell counts and the phandle
//! target of nearly every node, and a verbatim copy of every property with its place in the strings block. The crate
//! finds parents and phandles by walking from the root each time, which is quadratic on a board with 600 nodes; here
//! each is one look-up.
//!
//! Invariants: nodes are in the order of the blob, so a subtree is the index range `node..end`; a parent's index is
//! smaller than its child's; at most [`MAX_NODES`] nodes and [`MAX_DEPTH`] levels. All numbers from the blob are
//! checked. Takes no locks.

use alloc::string::String;
use alloc::vec::Vec;

use crate::fdt::writer::{
    FDT_BEGIN_NODE, FDT_END, FDT_END_NODE, FDT_MAGIC, FDT_NOP, FDT_PROP, MAX_DEPTH,
};

/// More nodes than any tree of at most 2 MiB that is meant to be used.
const MAX_NODES: usize = 1 << 15;

/// What is wrong with a device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The blob is shorter than its header, or than the header says.
    Truncated,
    /// The first word is not 0xd00dfeed.
    BadMagic,
    /// Not version 17, nor compatible with it.
    BadVersion,
    /// A block is outside the blob, or the tokens make no tree.
    BadStructure,
    /// Nested too deeply, or too many nodes.
    TooComplex,
    /// The heap is exhausted.
    OutOfMemory,
}

/// The index of a node in its [`Tree`].
pub type NodeIndex = usize;

/// What the index keeps of a node.
#[derive(Debug)]
pub struct Node<'a> {
    /// Name with unit address; empty for the root.
    pub name: &'a [u8],
    /// The parent; the root's is itself.
    pub parent: NodeIndex,
    /// The first node behind the subtree.
    pub end: NodeIndex,
    /// Its phandle; 0 for none.
    pub phandle: u32,
    /// `#address-cells` as given.
    pub address_cells: Option<u32>,
    /// `#size-cells` as given.
    pub size_cells: Option<u32>,
    /// `#interrupt-cells` as given.
    pub interrupt_cells: Option<u32>,
    /// `interrupt-parent` as given.
    pub interrupt_parent: Option<u32>,
    properties: &'a [u8],
}

/// A property as it is in the blob.
#[derive(Clone, Copy, Debug)]
pub struct Property<'a> {
    /// Its name's offset in the strings block.
    pub name_offset: u32,
    /// Its name.
    pub name: &'a [u8],
    /// Its bytes.
    pub value: &'a [u8],
}

/// The index of a whole tree.
#[derive(Debug)]
pub struct Tree<'a> {
    /// All nodes in the order of the blob; never empty.
    pub nodes: Vec<Node<'a>>,
    /// The strings block.
    pub strings: &'a [u8],
    /// Size of the structure block in bytes.
    pub struct_size: usize,
    phandles: Vec<(u32, NodeIndex)>,
}

impl<'a> Tree<'a> {
    /// Indexes a flattened device tree.
    ///
    /// # Errors
    /// A [`TreeError`] for anything that is no well-formed tree.
    pub fn parse(blob: &'a [u8]) -> Result<Self, TreeError> {
        let header = |word: usize| be32(blob, word * 4).ok_or(TreeError::Truncated);
        if header(0)? != FDT_MAGIC {
            return Err(TreeError::BadMagic);
        }
        let blob = blob
            .get(..to_usize(header(1)?))
            .ok_or(TreeError::Truncated)?;
        if header(5)? < 17 || header(6)? > 17 {
            return Err(TreeError::BadVersion);
        }
        let block = |offset: u32, size: u32| -> Option<&'a [u8]> {
            let start = to_usize(offset);
            blob.get(start..start.checked_add(to_usize(size))?)
        };
        let strings = block(header(3)?, header(8)?).ok_or(TreeError::BadStructure)?;
        let structure = block(header(2)?, header(9)?).ok_or(TreeError::BadStructure)?;
        let mut tree = Self {
            nodes: Vec::new(),
            strings,
            struct_size: structure.len(),
            phandles: Vec::new(),
        };
        tree.index(structure)?;
        tree.phandles.sort_unstable();
        Ok(tree)
    }

    fn index(&mut self, structure: &'a [u8]) -> Result<(), TreeError> {
        let mut stack = [0; MAX_DEPTH];
        let mut depth = 0;
        let mut at = 0;
        // Start of the properties of the node opened last, while it has no subnode yet.
        let mut properties: Option<usize> = None;
        loop {
            let token_at = at;
            let token = be32(structure, at).ok_or(TreeError::BadStructure)?;
            at += 4;
            match token {
                FDT_NOP => {}
                FDT_BEGIN_NODE => {
                    self.close_properties(structure, &mut properties, token_at)?;
                    let rest = structure.get(at..).ok_or(TreeError::BadStructure)?;
                    let name = until_nul(rest).ok_or(TreeError::BadStructure)?;
                    at = align4(at + name.len() + 1);
                    let index = self.nodes.len();
                    let parent = match depth {
                        0 if index != 0 => return Err(TreeError::BadStructure),
                        0 => 0,
                        _ => stack.get(depth - 1).copied().ok_or(TreeError::TooComplex)?,
                    };
                    if index >= MAX_NODES {
                        return Err(TreeError::TooComplex);
                    }
                    *stack.get_mut(depth).ok_or(TreeError::TooComplex)? = index;
                    depth += 1;
                    self.nodes
                        .try_reserve(1)
                        .map_err(|_| TreeError::OutOfMemory)?;
                    self.nodes.push(Node {
                        name,
                        parent,
                        end: index,
                        phandle: 0,
                        address_cells: None,
                        size_cells: None,
                        interrupt_cells: None,
                        interrupt_parent: None,
                        properties: &[],
                    });
                    properties = Some(at);
                }
                FDT_PROP => {
                    if properties.is_none() {
                        return Err(TreeError::BadStructure);
                    }
                    at = self.index_property(structure, at)?;
                }
                FDT_END_NODE => {
                    self.close_properties(structure, &mut properties, token_at)?;
                    if depth == 0 {
                        return Err(TreeError::BadStructure);
                    }
                    depth -= 1;
                    let end = self.nodes.len();
                    let index = stack.get(depth).copied().unwrap_or(0);
                    if let Some(node) = self.nodes.get_mut(index) {
                        node.end = end;
                    }
                }
                FDT_END if depth == 0 && !self.nodes.is_empty() => return Ok(()),
                _ => return Err(TreeError::BadStructure),
            }
        }
    }

    fn close_properties(
        &mut self,
        structure: &'a [u8],
        start: &mut Option<usize>,
        end: usize,
    ) -> Result<(), TreeError> {
        if let Some(start) = start.take() {
            let node = self.nodes.last_mut().ok_or(TreeError::BadStructure)?;
            node.properties = structure.get(start..end).ok_or(TreeError::BadStructure)?;
        }
        Ok(())
    }

    /// Checks the property at `at` (behind its token), keeps what the index wants of it, and returns where it ends.
    fn index_property(&mut self, structure: &'a [u8], at: usize) -> Result<usize, TreeError> {
        let (property, next) =
            read_property(structure, self.strings, at).ok_or(TreeError::BadStructure)?;
        let index = self
            .nodes
            .len()
            .checked_sub(1)
            .ok_or(TreeError::BadStructure)?;
        let node = self.nodes.get_mut(index).ok_or(TreeError::BadStructure)?;
        let cell = cells(property.value).next();
        match property.name {
            b"phandle" | b"linux,phandle" => {
                if let Some(phandle) = cell.filter(|&phandle| phandle != 0 && phandle != u32::MAX)
                    && node.phandle == 0
                {
                    node.phandle = phandle;
                    self.phandles
                        .try_reserve(1)
                        .map_err(|_| TreeError::OutOfMemory)?;
                    self.phandles.push((phandle, index));
                }
            }
            b"#address-cells" => node.address_cells = cell,
            b"#size-cells" => node.size_cells = cell,
            b"#interrupt-cells" => node.interrupt_cells = cell,
            b"interrupt-parent" => node.interrupt_parent = cell,
            _ => {}
        }
        Ok(next)
    }

    /// Returns a node; an index that is none of this tree's gives the root.
    pub fn node(&self, index: NodeIndex) -> &Node<'a> {
        const { assert!(MAX_NODES > 0) };
        self.nodes.get(index).unwrap_or(&self.nodes[0])
    }

    /// Returns the properties of a node in the order of the blob.
    pub fn properties(&self, index: NodeIndex) -> Properties<'a> {
        Properties {
            block: self.node(index).properties,
            strings: self.strings,
            at: 0,
        }
    }

    /// Returns the value of a property.
    pub fn property(&self, index: NodeIndex, name: &str) -> Option<&'a [u8]> {
        self.properties(index)
            .find(|property| property.name == name.as_bytes())
            .map(|property| property.value)
    }

    /// Returns the node with the given phandle.
    pub fn by_phandle(&self, phandle: u32) -> Option<NodeIndex> {
        let first = self.phandles.partition_point(|&(other, _)| other < phandle);
        self.phandles
            .get(first)
            .filter(|&&(other, _)| other == phandle)
            .map(|&(_, index)| index)
    }

    /// Returns the largest phandle in use, or 0.
    pub fn max_phandle(&self) -> u32 {
        self.phandles.last().map_or(0, |&(phandle, _)| phandle)
    }

    /// Returns the children of a node.
    pub fn children(&self, parent: NodeIndex) -> impl Iterator<Item = NodeIndex> + '_ {
        let end = self.node(parent).end;
        let mut next = parent.saturating_add(1);
        core::iter::from_fn(move || {
            let child = Some(next).filter(|&child| child < end)?;
            next = self.node(child).end.max(child + 1);
            Some(child)
        })
    }

    /// Finds a node by its path, an alias, or an alias followed by a path. What follows a `:` is ignored. A component
    /// without unit address finds the first node of that name.
    pub fn find(&self, path: &str) -> Option<NodeIndex> {
        self.find_in(path, true)
    }

    fn find_in(&self, path: &str, aliases: bool) -> Option<NodeIndex> {
        let path = path.split(':').next()?;
        let (start, rest) = if path.starts_with('/') {
            (0, path)
        } else {
            let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
            let table = self.find_in("/aliases", false).filter(|_| aliases)?;
            let target = until_nul(self.property(table, alias)?)?;
            (
                self.find_in(core::str::from_utf8(target).ok()?, false)?,
                rest,
            )
        };
        rest.split('/')
            .filter(|component| !component.is_empty())
            .try_fold(start, |node, component| {
                let component = component.as_bytes();
                let exact = self
                    .children(node)
                    .find(|&child| self.node(child).name == component);
                exact.or_else(|| {
                    let bare = |&child: &NodeIndex| base_name(self.node(child).name) == component;
                    self.children(node).find(bare)
                })
            })
    }

    /// Returns the path of a node, for messages.
    pub fn path(&self, index: NodeIndex) -> String {
        let mut chain = [0; MAX_DEPTH];
        let mut length = 0;
        let mut at = index;
        while at != 0 && length < MAX_DEPTH {
            chain[length] = at;
            length += 1;
            at = self.node(at).parent;
        }
        let mut path = String::new();
        for &node in chain[..length].iter().rev() {
            path.push('/');
            path.extend(self.node(node).name.iter().map(|&byte| {
                if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '?'
                }
            }));
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }

    /// Returns whether one of the strings of `compatible` satisfies the test.
    pub fn is_compatible(&self, index: NodeIndex, test: impl Fn(&[u8]) -> bool) -> bool {
        self.property(index, "compatible")
            .is_some_and(|list| strings(list).any(test))
    }

    /// Returns whether the node is switched on: no `status`, or "okay" or "ok".
    pub fn is_enabled(&self, index: NodeIndex) -> bool {
        self.property(index, "status")
            .is_none_or(|status| matches!(status, b"okay\0" | b"ok\0"))
    }
}

/// The properties of one node.
#[derive(Debug)]
pub struct Properties<'a> {
    block: &'a [u8],
    strings: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        loop {
            let token = be32(self.block, self.at)?;
            self.at += 4;
            if token == FDT_PROP {
                let (property, next) = read_property(self.block, self.strings, self.at)?;
                self.at = next;
                return Some(property);
            }
        }
    }
}

fn read_property<'a>(
    block: &'a [u8],
    strings: &'a [u8],
    at: usize,
) -> Option<(Property<'a>, usize)> {
    let length = to_usize(be32(block, at)?);
    let name_offset = be32(block, at + 4)?;
    let start = at + 8;
    let end = start.checked_add(length)?;
    let value = block.get(start..end)?;
    let name = until_nul(strings.get(to_usize(name_offset)..)?)?;
    Some((
        Property {
            name_offset,
            name,
            value,
        },
        align4(end),
    ))
}

/// Returns the 32-bit cells of a value; odd bytes at the end are dropped.
pub fn cells(value: &[u8]) -> impl Iterator<Item = u32> + Clone + '_ {
    value
        .chunks_exact(4)
        .map(|cell| cell.try_into().map_or(0, u32::from_be_bytes))
}

/// Returns the strings of a string list, without their NUL.
pub fn strings(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == 0)
        .filter(|string| !string.is_empty())
}

/// Returns a node's name without its unit address.
pub fn base_name(name: &[u8]) -> &[u8] {
    name.split(|&byte| byte == b'@').next().unwrap_or(name)
}

fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..bytes.iter().position(|&byte| byte == 0)?)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}

fn to_usize(value: u32) -> usize {
    // 32 bits fit every machine we run on; a larger value could not be in memory anyway.
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn align4(at: usize) -> usize {
    // The offset lies inside a blob that is in memory, so this cannot wrap.
    at.saturating_add(3) & !3
}
