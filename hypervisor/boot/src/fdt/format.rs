//! The format of a flattened device tree: numbers, limits, and why a blob is refused.
//!
//! Source: Devicetree Specification 0.4, chapter 5. No locks.

use core::fmt;

/// The largest blob that is accepted, in bytes (Xen on Arm maps 2 MiB for it).
pub const MAX_SIZE: usize = 2 << 20;
/// The deepest chain of nodes, the root included. Debian's trees reach 12.
pub const MAX_DEPTH: usize = 16;
/// The most nodes a tree may have. Debian's largest Arm trees have about a thousand.
pub const MAX_NODES: usize = 16384;
/// The longest name of a node or property, in bytes without the terminator.
pub const MAX_NAME: usize = 255;

/// The first word.
pub const MAGIC: u32 = 0xd00d_feed;
pub(crate) const HEADER_SIZE: usize = 40;
pub(crate) const BEGIN_NODE: u32 = 1;
pub(crate) const END_NODE: u32 = 2;
pub(crate) const PROP: u32 = 3;
pub(crate) const NOP: u32 = 4;
pub(crate) const END: u32 = 9;

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
    /// The heap has no room for the index; nodes so far.
    OutOfMemory(usize),
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
            Self::OutOfMemory(count) => {
                write!(
                    f,
                    "no memory to read a device tree beyond {count} nodes: remove some"
                )
            }
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
}

impl fmt::Debug for Strings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
