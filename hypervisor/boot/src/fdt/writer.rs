//! Writes a flattened device tree (Devicetree Specification v0.4, chapter 5; version 17).
//!
//! Why not `vm-fdt`: it refuses names that real trees have (node names above 31 characters or with a digit first),
//! grows without a bound, aborts when the heap is exhausted and pulls in a hash map. `dtoolkit`'s writer builds the
//! whole tree in `indexmap`s first. This one appends straight to the blob, is bounded, and can take over the strings
//! block of a tree that is copied, so that a copied property needs no look-up of its name.
//!
//! Invariants: the blob never exceeds the limit given at the start; every method leaves the writer usable after an
//! error, but [`FdtWriter::finish`] succeeds only when the root node was opened once and everything was closed.
//! Takes no locks.

use alloc::vec::Vec;

use super::format::{BEGIN_NODE, END, END_NODE, HEADER_SIZE, MAGIC, MAX_DEPTH, PROP};

const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;

/// Why a tree could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The tree would exceed the limit given to [`FdtWriter::new`].
    TooLarge,
    /// The heap is exhausted.
    OutOfMemory,
    /// A name or string contains a NUL byte, or a property name is empty.
    BadName,
    /// A call out of order: a property after a subnode, an end without a begin, a second root.
    Nesting,
    /// More than [`MAX_DEPTH`] nodes inside each other.
    TooDeep,
}

impl core::fmt::Display for WriteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the device tree exceeds its size limit",
            Self::OutOfMemory => "the heap is exhausted",
            Self::BadName => "a name contains a NUL byte or is empty",
            Self::Nesting => "nodes and properties are not properly nested",
            Self::TooDeep => "nodes are nested too deeply",
        })
    }
}

/// An appending writer of a flattened device tree.
#[derive(Debug)]
pub struct FdtWriter {
    blob: Vec<u8>,
    strings: Vec<u8>,
    struct_offset: usize,
    limit: usize,
    depth: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    BeforeRoot,
    Properties,
    Subnodes,
    AfterRoot,
}

impl FdtWriter {
    /// Starts a tree of at most `limit` bytes with the given memory reservations (address, size in bytes).
    ///
    /// `strings` is the start of the strings block: empty, or the block of a tree whose properties are copied with
    /// [`FdtWriter::property_at`].
    ///
    /// # Errors
    /// [`WriteError::TooLarge`], [`WriteError::OutOfMemory`].
    pub fn new(
        limit: usize,
        reservations: &[(u64, u64)],
        strings: &[u8],
    ) -> Result<Self, WriteError> {
        let mut writer = Self {
            blob: Vec::new(),
            strings: Vec::new(),
            struct_offset: 0,
            limit: limit.min(i32::MAX as usize),
            depth: 0,
            state: State::BeforeRoot,
        };
        writer.reserve(HEADER_SIZE + 16)?;
        writer.blob.resize(HEADER_SIZE, 0);
        for &(address, size) in reservations.iter().chain(&[(0, 0)]) {
            writer.append(&address.to_be_bytes())?;
            writer.append(&size.to_be_bytes())?;
        }
        writer.struct_offset = writer.blob.len();
        writer.append_string(strings)?;
        if strings.last().is_some_and(|&last| last != 0) {
            writer.append_string(&[0])?;
        }
        Ok(writer)
    }

    /// Asks the heap for room for `bytes` more bytes of nodes and properties, so that appending does not move the blob.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`], [`WriteError::OutOfMemory`].
    pub fn reserve(&mut self, bytes: usize) -> Result<(), WriteError> {
        self.check(bytes)?;
        self.blob
            .try_reserve(bytes)
            .map_err(|_| WriteError::OutOfMemory)
    }

    /// Opens a node. The root's name is empty.
    ///
    /// # Errors
    /// Any [`WriteError`].
    pub fn begin_node(&mut self, name: &[u8]) -> Result<(), WriteError> {
        if name.contains(&0) {
            return Err(WriteError::BadName);
        }
        if self.state == State::AfterRoot {
            return Err(WriteError::Nesting);
        }
        if self.depth >= MAX_DEPTH {
            return Err(WriteError::TooDeep);
        }
        self.check(name.len().saturating_add(8))?;
        self.append_u32(BEGIN_NODE)?;
        self.append(name)?;
        self.append(&[0])?;
        self.pad()?;
        self.depth += 1;
        self.state = State::Properties;
        Ok(())
    }

    /// Closes the innermost node.
    ///
    /// # Errors
    /// [`WriteError::Nesting`] when no node is open, [`WriteError::TooLarge`], [`WriteError::OutOfMemory`].
    pub fn end_node(&mut self) -> Result<(), WriteError> {
        let depth = self.depth.checked_sub(1).ok_or(WriteError::Nesting)?;
        self.append_u32(END_NODE)?;
        self.depth = depth;
        self.state = if depth == 0 {
            State::AfterRoot
        } else {
            State::Subnodes
        };
        Ok(())
    }

    /// Writes a property of raw bytes and returns the offset of its value in the finished blob.
    ///
    /// # Errors
    /// Any [`WriteError`].
    pub fn property(&mut self, name: &str, value: &[u8]) -> Result<usize, WriteError> {
        let name_offset = self.intern(name.as_bytes())?;
        self.property_at(name_offset, value)
    }

    /// Writes a property whose name is at `name_offset` of the strings block given to [`FdtWriter::new`], and returns
    /// the offset of its value in the finished blob.
    ///
    /// # Errors
    /// [`WriteError::BadName`] when the offset is outside the block, or any other.
    pub fn property_at(&mut self, name_offset: u32, value: &[u8]) -> Result<usize, WriteError> {
        if usize::try_from(name_offset).map_or(true, |offset| offset >= self.strings.len()) {
            return Err(WriteError::BadName);
        }
        if self.state != State::Properties {
            return Err(WriteError::Nesting);
        }
        self.check(value.len().saturating_add(16))?;
        let length = u32::try_from(value.len()).map_err(|_| WriteError::TooLarge)?;
        self.append_u32(PROP)?;
        self.append_u32(length)?;
        self.append_u32(name_offset)?;
        let at = self.blob.len();
        self.append(value)?;
        self.pad()?;
        Ok(at)
    }

    /// Writes an empty property: its presence is its value.
    ///
    /// # Errors
    /// Any [`WriteError`].
    pub fn property_empty(&mut self, name: &str) -> Result<(), WriteError> {
        self.property(name, &[]).map(|_| ())
    }

    /// Writes a property of one 32-bit cell.
    ///
    /// # Errors
    /// Any [`WriteError`].
    pub fn property_u32(&mut self, name: &str, value: u32) -> Result<(), WriteError> {
        self.property(name, &value.to_be_bytes()).map(|_| ())
    }

    /// Writes a property of one 64-bit number and returns the offset of its value in the finished blob.
    ///
    /// # Errors
    /// Any [`WriteError`].
    pub fn property_u64(&mut self, name: &str, value: u64) -> Result<usize, WriteError> {
        self.property(name, &value.to_be_bytes())
    }

    /// Writes a property of 32-bit cells.
    ///
    /// # Errors
    /// Any [`WriteError`].
    pub fn property_cells(&mut self, name: &str, cells: &[u32]) -> Result<(), WriteError> {
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(cells.len().saturating_mul(4))
            .map_err(|_| WriteError::OutOfMemory)?;
        bytes.extend(cells.iter().flat_map(|cell| cell.to_be_bytes()));
        self.property(name, &bytes).map(|_| ())
    }

    /// Writes a property of one string.
    ///
    /// # Errors
    /// [`WriteError::BadName`] when the string contains a NUL byte, or any other.
    pub fn property_string(&mut self, name: &str, value: &str) -> Result<(), WriteError> {
        self.property_strings(name, &[value])
    }

    /// Writes a property that is a list of strings.
    ///
    /// # Errors
    /// [`WriteError::BadName`] when a string contains a NUL byte, or any other.
    pub fn property_strings(&mut self, name: &str, values: &[&str]) -> Result<(), WriteError> {
        let mut bytes = Vec::new();
        for value in values {
            if value.as_bytes().contains(&0) {
                return Err(WriteError::BadName);
            }
            bytes
                .try_reserve(value.len().saturating_add(1))
                .map_err(|_| WriteError::OutOfMemory)?;
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        self.property(name, &bytes).map(|_| ())
    }

    /// Ends the tree and returns the blob.
    ///
    /// # Errors
    /// [`WriteError::Nesting`] when the root was not opened or not everything was closed, [`WriteError::TooLarge`],
    /// [`WriteError::OutOfMemory`].
    pub fn finish(mut self) -> Result<Vec<u8>, WriteError> {
        if self.state != State::AfterRoot {
            return Err(WriteError::Nesting);
        }
        self.append_u32(END)?;
        let strings_offset = self.blob.len();
        let strings = core::mem::take(&mut self.strings);
        self.append(&strings)?;
        let word = |value: usize| u32::try_from(value).map_err(|_| WriteError::TooLarge);
        let header = [
            MAGIC,
            word(self.blob.len())?,
            word(self.struct_offset)?,
            word(strings_offset)?,
            word(HEADER_SIZE)?,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            0,
            word(strings.len())?,
            word(strings_offset.saturating_sub(self.struct_offset))?,
        ];
        for (slot, value) in self.blob.chunks_exact_mut(4).zip(header) {
            slot.copy_from_slice(&value.to_be_bytes());
        }
        Ok(self.blob)
    }

    /// Returns the offset of `name` in the strings block, which is searched first and extended last.
    fn intern(&mut self, name: &[u8]) -> Result<u32, WriteError> {
        if name.is_empty() || name.contains(&0) {
            return Err(WriteError::BadName);
        }
        let mut at = 0;
        for entry in self.strings.split_inclusive(|&byte| byte == 0) {
            // A name may be the tail of a longer one (specification 5.5).
            if let Some(head) = entry
                .strip_suffix(&[0])
                .and_then(|entry| entry.strip_suffix(name))
            {
                return u32::try_from(at + head.len()).map_err(|_| WriteError::TooLarge);
            }
            at += entry.len();
        }
        self.append_string(name)?;
        self.append_string(&[0])?;
        u32::try_from(at).map_err(|_| WriteError::TooLarge)
    }

    fn append_string(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.check(bytes.len())?;
        self.strings
            .try_reserve(bytes.len())
            .map_err(|_| WriteError::OutOfMemory)?;
        self.strings.extend_from_slice(bytes);
        Ok(())
    }

    fn append_u32(&mut self, value: u32) -> Result<(), WriteError> {
        self.append(&value.to_be_bytes())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.check(bytes.len())?;
        self.blob
            .try_reserve(bytes.len())
            .map_err(|_| WriteError::OutOfMemory)?;
        self.blob.extend_from_slice(bytes);
        Ok(())
    }

    fn pad(&mut self) -> Result<(), WriteError> {
        while !self.blob.len().is_multiple_of(4) {
            self.append(&[0])?;
        }
        Ok(())
    }

    fn check(&self, more: usize) -> Result<(), WriteError> {
        let total = self
            .blob
            .len()
            .saturating_add(self.strings.len())
            .saturating_add(more);
        if total > self.limit {
            Err(WriteError::TooLarge)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let mut w =
            FdtWriter::new(4096, &[(0x8000_0000, 0x1000)], b"reg\0#address-cells\0").unwrap();
        w.begin_node(b"").unwrap();
        w.property_u32("#address-cells", 2).unwrap();
        w.property_u32("cells", 3).unwrap();
        w.property_string("model", "a board").unwrap();
        w.begin_node(b"9-a-node-name-longer-than-thirty-one-characters@1")
            .unwrap();
        w.property_strings("compatible", &["a,b", "c"]).unwrap();
        w.property_cells("reg", &[0, 1, 2]).unwrap();
        w.property_u64("wide", 0x1_2345_6789).unwrap();
        w.property_empty("dma-coherent").unwrap();
        w.end_node().unwrap();
        w.end_node().unwrap();
        w.finish().unwrap()
    }

    #[test]
    fn parses_back() {
        let blob = small();
        let tree = crate::fdt::tree::Tree::new(&blob).unwrap();
        let node = tree
            .find("/9-a-node-name-longer-than-thirty-one-characters@1")
            .unwrap();
        assert_eq!(node.prop("compatible"), Some(&b"a,b\0c\0"[..]));
        assert_eq!(
            node.prop("wide"),
            Some(&0x1_2345_6789_u64.to_be_bytes()[..])
        );
        assert_eq!(node.prop("dma-coherent"), Some(&[][..]));
        assert_eq!(tree.root().prop("model"), Some(&b"a board\0"[..]));
        // "cells" shares the tail of "#address-cells", "reg" came with the block: one copy each.
        let count = |what: &[u8]| {
            blob.windows(what.len())
                .filter(|window| *window == what)
                .count()
        };
        assert_eq!((count(b"cells\0"), count(b"reg\0")), (1, 1));
        assert_eq!(
            &blob[40..56],
            &[0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]
        );
    }

    #[test]
    fn refuses_wrong_order() {
        let mut w = FdtWriter::new(4096, &[], &[]).unwrap();
        assert_eq!(w.property_u32("early", 1), Err(WriteError::Nesting));
        assert_eq!(w.end_node(), Err(WriteError::Nesting));
        w.begin_node(b"").unwrap();
        assert_eq!(w.begin_node(b"a\0b"), Err(WriteError::BadName));
        assert_eq!(w.property_string("x", "a\0b"), Err(WriteError::BadName));
        assert_eq!(w.property_at(1 << 20, &[]), Err(WriteError::BadName));
        w.begin_node(b"n").unwrap();
        w.end_node().unwrap();
        assert_eq!(w.property_u32("late", 1), Err(WriteError::Nesting));
        w.end_node().unwrap();
        assert_eq!(w.begin_node(b"second"), Err(WriteError::Nesting));
        assert!(w.finish().is_ok());
        assert_eq!(
            FdtWriter::new(4096, &[], &[]).unwrap().finish(),
            Err(WriteError::Nesting)
        );
    }

    #[test]
    fn stays_below_its_limit() {
        let full = small().len();
        for limit in 0..full {
            let Ok(mut w) = FdtWriter::new(limit, &[], &[]) else {
                continue;
            };
            let mut failed = w.begin_node(b"").is_err();
            for _ in 0..32 {
                failed |= w.property_string("name", "some value").is_err();
            }
            failed |= w.end_node().is_err();
            assert!(failed);
            assert!(w.finish().map_or(true, |blob| blob.len() <= limit));
        }
    }

    #[test]
    fn refuses_deep_nesting() {
        let mut w = FdtWriter::new(1 << 16, &[], &[]).unwrap();
        for _ in 0..MAX_DEPTH {
            w.begin_node(b"n").unwrap();
        }
        assert_eq!(w.begin_node(b"n"), Err(WriteError::TooDeep));
    }
}
