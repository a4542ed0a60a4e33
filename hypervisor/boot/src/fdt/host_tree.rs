//! A checked view of a flattened device tree: walking, finding, cells, `ranges`.
//!
//! The crate `fdt` (0.2.0-alpha3) reads the nodes and properties. It was preferred to `dtoolkit` 0.4.1, which refuses names
//! above 31 characters (vendors' trees have them) and adds a hostile length to an offset in `usize`, an overflow panic on
//! a 32-bit machine. `fdt` has traps of its own (it adds header offsets in `u32`, underflows on an empty structure block,
//! scans unterminated strings to the end of the block), so it only ever sees a blob that [`Tree::new`] has validated:
//! header, every token, nesting, names. `fdt::nodes::Node::id` is not to be used: it subtracts addresses and panics when
//! the strings block comes first.
//!
//! Invariants after [`Tree::new`]: blocks lie inside the blob, nesting is at most [`MAX_DEPTH`] nodes deep, there are at
//! most [`MAX_NODES`] nodes, each name ends within [`MAX_NAME`] bytes and is UTF-8. So a walk is bounded by
//! `MAX_DEPTH * blob size`. Nothing here allocates. No locks. Source: Devicetree Specification 0.4, chapters 2 and 5.

use core::fmt;

use fdt::nodes::NodeChildrenIter;
use fdt::parsing::NoPanic;
use fdt::parsing::unaligned::UnalignedParser;

use crate::memory::PhysRange;

/// The parser of the crate `fdt` that this module uses: any alignment, errors as values.
pub type Parser<'a> = (UnalignedParser<'a>, NoPanic);
/// A node of the crate `fdt`.
pub type Node<'a> = fdt::nodes::Node<'a, Parser<'a>>;

/// The largest blob that is accepted, in bytes (Xen on Arm maps 2 MiB for it).
pub const MAX_SIZE: usize = 2 << 20;
/// The deepest chain of nodes, the root included. Debian's trees reach 12.
pub const MAX_DEPTH: usize = 16;
/// The most nodes a tree may have. Debian's largest Arm trees have about a thousand.
pub const MAX_NODES: usize = 16384;
/// The longest name of a node or property, in bytes without the terminator.
pub const MAX_NAME: usize = 255;

const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why a blob is no usable device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The blob is shorter than a header; its length in bytes.
    NoHeader(usize),
    /// The first word is not the magic number.
    BadMagic(u32),
    /// The header asks for more than [`MAX_SIZE`] bytes.
    TooLarge(u32),
    /// The header says `total` bytes, `available` are there.
    Truncated {
        /// Size in the header, in bytes.
        total: u32,
        /// Bytes that are there.
        available: usize,
    },
    /// A format version that this reader does not know.
    Version(u32),
    /// A block (named) does not lie inside the blob.
    Block(&'static str),
    /// The structure is wrong at a byte offset of the blob.
    Structure {
        /// Offset from the start of the blob, in bytes.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Nodes are nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// There are more than [`MAX_NODES`] nodes.
    TooManyNodes,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const RELOAD: &str = "load an intact DTB and check that nothing overlaps its load address";
        match self {
            Self::NoHeader(length) => {
                write!(f, "device tree of {length} bytes has no header: {RELOAD}")
            }
            Self::BadMagic(magic) => write!(
                f,
                "no device tree at the given address (magic {magic:#010x}, not {MAGIC:#010x}): the boot loader must pass \
                 the address of a DTB, not ATAGS"
            ),
            Self::TooLarge(total) => write!(
                f,
                "device tree of {total} bytes is above the limit of {MAX_SIZE}: remove nodes, or padding (dtc -S 0)"
            ),
            Self::Truncated { total, available } => {
                write!(
                    f,
                    "device tree is truncated ({total} bytes in the header, {available} there): {RELOAD}"
                )
            }
            Self::Version(version) => {
                write!(
                    f,
                    "device tree format version {version} is not supported (17 is): recompile it with a current dtc"
                )
            }
            Self::Block(block) => write!(
                f,
                "device tree is damaged (its {block} lies outside): {RELOAD}"
            ),
            Self::Structure { offset, what } => {
                write!(
                    f,
                    "device tree is damaged at offset {offset:#x} ({what}): {RELOAD}"
                )
            }
            Self::TooDeep => write!(
                f,
                "device tree nests deeper than {MAX_DEPTH} nodes: use a flatter tree"
            ),
            Self::TooManyNodes => write!(
                f,
                "device tree has more than {MAX_NODES} nodes: remove some"
            ),
        }
    }
}

/// Reads a big-endian word at a byte offset.
pub(crate) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk::<4>()
        .map(|word| u32::from_be_bytes(*word))
}

/// Reads `count` cells (0 to 4) from the front of a cell list, and returns the number with the rest of the list.
///
/// Returns `None` when the list is too short or the number has more than four cells.
pub fn take_cells(bytes: &[u8], count: u32) -> Option<(u128, &[u8])> {
    if count > 4 {
        return None;
    }
    let (cells, rest) = bytes.split_at_checked(usize::try_from(count).ok()?.checked_mul(4)?)?;
    let number = cells.chunks_exact(4).fold(0u128, |number, cell| {
        (number << 32)
            | cell
                .first_chunk::<4>()
                .map_or(0, |word| u128::from(u32::from_be_bytes(*word)))
    });
    Some((number, rest))
}

/// A list of strings as a property holds it (each ended by a zero byte).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// Wraps the value of a property.
    pub const fn new(value: &'a [u8]) -> Self {
        Self(value)
    }
    /// Returns the strings in order; those that are not UTF-8 are left out.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0
            .split(|byte| *byte == 0)
            .filter(|part| !part.is_empty())
            .filter_map(|part| core::str::from_utf8(part).ok())
    }
    /// Returns the first string, or an empty one.
    pub fn first(self) -> &'a str {
        self.iter().next().unwrap_or("")
    }
    /// Returns true when one of the strings is `wanted`.
    pub fn contains(self, wanted: &str) -> bool {
        self.iter().any(|string| string == wanted)
    }
    /// Returns the value of the property as it stands in the tree.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Strings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A device tree blob that has been checked.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    blob: &'a [u8],
    root: Node<'a>,
    reserve_offset: usize,
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
        let structure =
            block(blob, word(2)?, word(9)?).ok_or(TreeError::Block("structure block"))?;
        let strings = block(blob, word(3)?, word(8)?).ok_or(TreeError::Block("strings block"))?;
        let start = usize::try_from(word(2)?).map_err(|_| TreeError::Block("structure block"))?;
        if !start.is_multiple_of(4) {
            return Err(TreeError::Block("unaligned structure block"));
        }
        check_structure(structure, strings, start)?;
        let reserve_offset =
            usize::try_from(word(4)?).map_err(|_| TreeError::Block("memory reservation block"))?;
        check_reservations(blob, reserve_offset)?;

        // What the crate still checks was checked above; an error here would be a difference of opinion.
        let damaged = |_| TreeError::Structure {
            offset: start,
            what: "refused by the reader",
        };
        let root = fdt::Fdt::new_unaligned_fallible(blob)
            .and_then(|tree| tree.root())
            .map_err(damaged)?;
        Ok(Self {
            blob,
            root: fdt::nodes::AsNode::as_node(&root),
            reserve_offset,
        })
    }

    /// Returns the blob, cut to the size its header says.
    pub const fn blob(&self) -> &'a [u8] {
        self.blob
    }

    /// Returns the root node.
    pub const fn root(&self) -> Node<'a> {
        self.root
    }

    /// Returns the root with no ancestors.
    pub fn root_path(&self) -> NodePath<'a> {
        NodePath::of_root(self.root)
    }

    /// Returns all nodes, the root first, each before its children.
    pub fn walk(&self) -> Walk<'a> {
        self.root_path().walk()
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
    pub fn find(&self, path: &str) -> Option<NodePath<'a>> {
        let mut found = self.root_path();
        for component in path
            .strip_prefix('/')?
            .split('/')
            .filter(|component| !component.is_empty())
        {
            let exact = |child: &NodePath<'a>| child.full_name() == component;
            let by_name =
                |child: &NodePath<'a>| !component.contains('@') && child.base_name() == component;
            found = found
                .children()
                .find(exact)
                .or_else(|| found.children().find(by_name))?;
        }
        Some(found)
    }

    /// Returns the node at an absolute path, or the one an entry of `/aliases` names. What follows the first `/` of a
    /// relative path is taken below the alias.
    pub fn find_alias_or_path(&self, name: &str) -> Option<NodePath<'a>> {
        if name.starts_with('/') {
            return self.find(name);
        }
        let path = self.find("/aliases")?.strings(name)?.first();
        if path.starts_with('/') {
            self.find(path)
        } else {
            None
        }
    }

    /// Returns the node with a phandle. This walks the tree: keep the answer if it is needed again.
    pub fn find_phandle(&self, phandle: u32) -> Option<NodePath<'a>> {
        self.walk().find(|path| path.phandle() == Some(phandle))
    }
}

/// Returns the bytes of a block, if it lies inside the blob.
fn block(blob: &[u8], offset: u32, size: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    blob.get(start..start.checked_add(usize::try_from(size).ok()?)?)
}

/// Checks that the reservation block ends inside the blob.
fn check_reservations(blob: &[u8], offset: usize) -> Result<(), TreeError> {
    let entries = blob
        .get(offset..)
        .ok_or(TreeError::Block("memory reservation block"))?;
    let ends = entries
        .chunks_exact(16)
        .any(|entry| entry.iter().all(|byte| *byte == 0));
    if ends {
        Ok(())
    } else {
        Err(TreeError::Block("memory reservation block"))
    }
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

/// Walks all tokens of the structure block once. `start` is its offset in the blob, for messages.
fn check_structure(structure: &[u8], strings: &[u8], start: usize) -> Result<(), TreeError> {
    let (mut offset, mut depth, mut node_count) = (0usize, 0usize, 0usize);
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
                if depth == MAX_DEPTH {
                    return Err(TreeError::TooDeep);
                }
                node_count += 1;
                if node_count > MAX_NODES {
                    return Err(TreeError::TooManyNodes);
                }
                if depth == 0 && node_count > 1 {
                    return Err(wrong("second root"));
                }
                let name = structure.get(body..).unwrap_or_default();
                let length = name_length(name).ok_or_else(|| wrong("bad node name"))?;
                if (length == 0) != (depth == 0) {
                    return Err(wrong("node without a name, or a named root"));
                }
                depth += 1;
                properties_allowed = true;
                length + 1
            }
            END_NODE => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| wrong("end of no node"))?;
                properties_allowed = false;
                0
            }
            PROP => {
                if !properties_allowed {
                    return Err(wrong("property after a child node, or outside any"));
                }
                let length = be32(structure, body).and_then(|length| usize::try_from(length).ok());
                let name = be32(structure, body + 4).and_then(|name| usize::try_from(name).ok());
                let (Some(length), Some(name)) = (length, name) else {
                    return Err(wrong("truncated property"));
                };
                if length > structure.len().saturating_sub(body + 8) {
                    return Err(wrong("property longer than the tree"));
                }
                let name = strings
                    .get(name..)
                    .ok_or_else(|| wrong("property name outside the strings"))?;
                if name_length(name).is_none_or(|length| length == 0) {
                    return Err(wrong("bad property name"));
                }
                8 + length
            }
            NOP => 0,
            END => {
                if depth != 0 || node_count == 0 {
                    return Err(wrong("end inside a node"));
                }
                // The crate looks for this token in the last word of the block.
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

/// A node with all its ancestors, which the meaning of its addresses and interrupts depends on.
#[derive(Clone, Copy)]
pub struct NodePath<'a> {
    /// `nodes[..=depth]` is the chain from the root; the rest repeats the root and means nothing.
    nodes: [Node<'a>; MAX_DEPTH],
    depth: usize,
}

impl<'a> NodePath<'a> {
    fn of_root(root: Node<'a>) -> Self {
        Self {
            nodes: [root; MAX_DEPTH],
            depth: 0,
        }
    }

    /// Returns the node at a depth of the chain, or the root beyond it.
    fn at(&self, depth: usize) -> Node<'a> {
        let [root, ..] = self.nodes;
        self.nodes.get(depth).copied().unwrap_or(root)
    }

    /// Returns the path of a child. `None` only for a chain longer than [`MAX_DEPTH`], which `Tree::new` excludes.
    fn join(&self, child: Node<'a>) -> Option<Self> {
        let mut joined = *self;
        joined.depth += 1;
        *joined.nodes.get_mut(joined.depth)? = child;
        Some(joined)
    }

    /// Returns the node.
    pub fn node(&self) -> Node<'a> {
        self.at(self.depth)
    }

    /// Returns the number of ancestors: 0 for the root.
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// Returns the parent, or `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        Some(Self {
            depth: self.depth.checked_sub(1)?,
            ..*self
        })
    }

    /// Returns the children in order.
    pub fn children(&self) -> impl Iterator<Item = NodePath<'a>> + use<'a> {
        let path = *self;
        children_of(self.node()).filter_map(move |child| path.join(child))
    }

    /// Returns this node and all below it, each before its children.
    pub fn walk(&self) -> Walk<'a> {
        Walk {
            path: *self,
            top: self.depth,
            pending: [const { None }; MAX_DEPTH],
            started: false,
        }
    }

    /// Returns the name without the unit address; empty for the root.
    pub fn base_name(&self) -> &'a str {
        if self.depth == 0 {
            ""
        } else {
            self.node().name().map_or("", |name| name.name)
        }
    }

    /// Returns what follows the `@` in the name.
    pub fn unit_address(&self) -> Option<&'a str> {
        self.node().name().ok().and_then(|name| name.unit_address)
    }

    /// Returns a value that compares equal to a name with its unit address, and prints as one.
    pub fn full_name(&self) -> FullName<'a> {
        FullName {
            base: self.base_name(),
            unit: self.unit_address(),
        }
    }

    /// Returns the bytes of a property.
    pub fn prop(&self, name: &str) -> Option<&'a [u8]> {
        self.node()
            .raw_property(name)
            .ok()
            .flatten()
            .map(|property| property.value)
    }

    /// Returns a property that is one cell.
    pub fn u32(&self, name: &str) -> Option<u32> {
        let value = self.prop(name)?;
        if value.len() == 4 {
            be32(value, 0)
        } else {
            None
        }
    }

    /// Returns a property that is one or two cells.
    pub fn u64(&self, name: &str) -> Option<u64> {
        let value = self.prop(name)?;
        match value.len() {
            4 => be32(value, 0).map(u64::from),
            8 => value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            _ => None,
        }
    }

    /// Returns a property as a list of strings.
    pub fn strings(&self, name: &str) -> Option<Strings<'a>> {
        self.prop(name).map(Strings::new)
    }

    /// Returns the `compatible` list, empty if there is none.
    pub fn compatible(&self) -> Strings<'a> {
        self.strings("compatible").unwrap_or_default()
    }

    /// Returns true when `compatible` holds one of `wanted`.
    pub fn is_compatible(&self, wanted: &[&str]) -> bool {
        self.compatible()
            .iter()
            .any(|string| wanted.contains(&string))
    }

    /// Returns true unless `status` says otherwise (absent, `okay` and `ok` mean available).
    pub fn is_available(&self) -> bool {
        self.strings("status")
            .is_none_or(|status| matches!(status.first(), "okay" | "ok"))
    }

    /// Returns the phandle (also under its older name `linux,phandle`); 0 and all ones are no phandles.
    pub fn phandle(&self) -> Option<u32> {
        let phandle = self.u32("phandle").or_else(|| self.u32("linux,phandle"))?;
        (phandle != 0 && phandle != u32::MAX).then_some(phandle)
    }

    /// Returns the number of cells in an address of this node's children; 2 by default.
    pub fn address_cells(&self) -> u32 {
        self.u32("#address-cells").unwrap_or(2)
    }

    /// Returns the number of cells in a size of this node's children; 1 by default.
    pub fn size_cells(&self) -> u32 {
        self.u32("#size-cells").unwrap_or(1)
    }

    /// Returns the entries of `reg`, addresses and sizes as the parent bus counts them. Stops at a malformed entry.
    pub fn reg(&self) -> impl Iterator<Item = (u128, u128)> + use<'a> {
        let (address_cells, size_cells) = self
            .parent()
            .map_or((2, 1), |bus| (bus.address_cells(), bus.size_cells()));
        cell_pairs(
            self.prop("reg").unwrap_or_default(),
            address_cells,
            size_cells,
        )
    }

    /// Returns the physical addresses of an entry of `reg`, translated through the `ranges` of all buses above.
    ///
    /// # Errors
    /// [`AddressError`]; [`AddressError::Missing`] when `reg` has no such entry.
    pub fn reg_range(&self, index: usize) -> Result<PhysRange, AddressError> {
        let (address, size) = self.reg().nth(index).ok_or(AddressError::Missing)?;
        self.translate(address, size)
    }

    /// Translates a range of this node's bus (its parent) into physical addresses.
    ///
    /// # Errors
    /// [`AddressError`] when a bus has no window for it, or it does not fit 64 bits.
    pub fn translate(&self, address: u128, size: u128) -> Result<PhysRange, AddressError> {
        let mut address = address;
        let mut bus = self.parent();
        while let Some(this) = bus {
            // The root's address space is the machine's.
            let Some(parent) = this.parent() else { break };
            let windows = this.prop("ranges").ok_or(AddressError::NotMapped)?;
            if !windows.is_empty() {
                address = through_window(windows, &this, &parent, address, size)
                    .ok_or(AddressError::NotMapped)?;
            }
            bus = Some(parent);
        }
        let address = u64::try_from(address).map_err(|_| AddressError::TooWide)?;
        let size = u64::try_from(size).map_err(|_| AddressError::TooWide)?;
        PhysRange::new(address, size).ok_or(AddressError::TooWide)
    }
}

impl fmt::Display for NodePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 {
            return f.write_str("/");
        }
        for depth in 1..=self.depth {
            write!(f, "/{}", NodePath { depth, ..*self }.full_name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for NodePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a node with its unit address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullName<'a> {
    base: &'a str,
    unit: Option<&'a str>,
}

impl PartialEq<str> for FullName<'_> {
    fn eq(&self, other: &str) -> bool {
        match other.split_once('@') {
            Some((base, unit)) => self.base == base && self.unit == Some(unit),
            None => self.base == other && self.unit.is_none(),
        }
    }
}

impl PartialEq<&str> for FullName<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Display for FullName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base)?;
        match self.unit {
            Some(unit) => write!(f, "@{unit}"),
            None => Ok(()),
        }
    }
}

/// Why an address of a node cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// There is no `reg`, or it has too few entries, or more than four cells to a number.
    Missing,
    /// A bus above the node has no window (`ranges`) for the address.
    NotMapped,
    /// The address does not fit 64 bits.
    TooWide,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "its \"reg\" is missing or too short: add it, with as many cells as the parent node says",
            Self::NotMapped => "no \"ranges\" of a bus above covers its address: correct the \"ranges\" of its parents",
            Self::TooWide => "its address does not fit 64 bits: correct \"reg\" and \"#address-cells\"",
        })
    }
}

/// Returns the pairs of a list of (address, size).
fn cell_pairs(
    list: &[u8],
    address_cells: u32,
    size_cells: u32,
) -> impl Iterator<Item = (u128, u128)> + use<'_> {
    let mut rest = list;
    core::iter::from_fn(move || {
        // With no cells at all the list would never get shorter.
        if rest.is_empty() {
            return None;
        }
        let (address, after) = take_cells(rest, address_cells)?;
        let (size, after) = take_cells(after, size_cells)?;
        if after.len() == rest.len() {
            return None;
        }
        rest = after;
        Some((address, size))
    })
}

/// Returns the parent's address for a range behind one bus, if one window holds all of it.
fn through_window(
    windows: &[u8],
    bus: &NodePath<'_>,
    parent: &NodePath<'_>,
    address: u128,
    size: u128,
) -> Option<u128> {
    let (child_cells, parent_cells, size_cells) = (
        bus.address_cells(),
        parent.address_cells(),
        bus.size_cells(),
    );
    let end = address.checked_add(size)?;
    let mut rest = windows;
    while !rest.is_empty() {
        let (child_base, after) = take_cells(rest, child_cells)?;
        let (parent_base, after) = take_cells(after, parent_cells)?;
        let (length, after) = take_cells(after, size_cells)?;
        if after.len() == rest.len() {
            return None;
        }
        rest = after;
        if address >= child_base
            && child_base
                .checked_add(length)
                .is_some_and(|window_end| end <= window_end)
        {
            return parent_base.checked_add(address - child_base);
        }
    }
    None
}

/// Returns the children of a node.
fn children_of<'a>(node: Node<'a>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    node.children()
        .ok()
        .map(|children| children.iter())
        .into_iter()
        .flatten()
        .map_while(Result::ok)
}

/// A depth-first walk, see [`Tree::walk`].
pub struct Walk<'a> {
    path: NodePath<'a>,
    top: usize,
    /// The children still to come of each node in the chain.
    pending: [Option<NodeChildrenIter<'a, Parser<'a>>>; MAX_DEPTH],
    started: bool,
}

impl<'a> Walk<'a> {
    fn enter(&mut self) {
        let children = self
            .path
            .node()
            .children()
            .ok()
            .map(|children| children.iter());
        if let Some(slot) = self.pending.get_mut(self.path.depth) {
            *slot = children;
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = NodePath<'a>;

    fn next(&mut self) -> Option<NodePath<'a>> {
        if !self.started {
            self.started = true;
            self.enter();
            return Some(self.path);
        }
        loop {
            let pending = self.pending.get_mut(self.path.depth)?.as_mut();
            let child = pending
                .and_then(|children| children.next())
                .and_then(Result::ok);
            if let Some(path) = child.and_then(|child| self.path.join(child)) {
                self.path = path;
                self.enter();
                return Some(path);
            }
            if self.path.depth == self.top {
                return None;
            }
            self.path = self.path.parent()?;
        }
    }
}

#[cfg(test)]
#[path = "host_tree_tests.rs"]
pub(crate) mod tests;
