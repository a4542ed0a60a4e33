//! `hypfs_op` (public/hypfs.h; docs/misc/hypfs-paths of Xen): what the hypervisor says of itself as a tree of files, which
//! `xenhypfs` shows in dom0.
//!
//! The tree is fixed: `/buildinfo`, and under `/params` what can be changed while the machine runs.

use core::fmt::Write;

use xen_abi::hypfs as abi;
use zerocopy::IntoBytes;

use super::{Args, CallResult, Cx};
use crate::addr::GuestVirt;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypervisor::{Hypervisor, Setting};
use crate::machine::GuestMemory;

/// Bytes of a path with its zero.
const MAX_PATH: u64 = 1024;
/// Bytes of a path here: no name that there is needs more.
const LONGEST_PATH: usize = 64;
/// Bytes of a number that is written, with its zero (Xen's GRANT_CUSTOM_VAL_SZ).
const NUMBER_BYTES: usize = 12;
/// Where the name begins in a directory's entry.
const NAME_AT: usize = size_of::<abi::HypfsDirentry>() + 2;

/// A node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir(&'static [(&'static str, Node)]),
    Changeset,
    /// Index into the identity's compile_info.
    Compile(usize),
    Extra,
    Major,
    Minor,
    GrantFrames,
    MaptrackFrames,
}

const ROOT: Node = Node::Dir(&[
    (
        "buildinfo",
        Node::Dir(&[
            ("changeset", Node::Changeset),
            ("compile_by", Node::Compile(1)),
            ("compile_date", Node::Compile(3)),
            ("compile_domain", Node::Compile(2)),
            ("compiler", Node::Compile(0)),
            (
                "version",
                Node::Dir(&[
                    ("extra", Node::Extra),
                    ("major", Node::Major),
                    ("minor", Node::Minor),
                ]),
            ),
        ]),
    ),
    (
        "params",
        Node::Dir(&[
            ("gnttab_max_frames", Node::GrantFrames),
            ("gnttab_max_maptrack_frames", Node::MaptrackFrames),
        ]),
    ),
]);

/// A small text that is made where it is needed.
#[derive(Default)]
struct Number {
    bytes: [u8; NUMBER_BYTES],
    used: usize,
}

impl Write for Number {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.used + text.len();
        let to = self.bytes.get_mut(self.used..end).ok_or(core::fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

fn digits(setting: &Setting) -> Content<'static> {
    let mut digits = Number::default();
    // Ten at most.
    let _ = write!(digits, "{}", setting.get());
    Content::Digits(digits)
}

/// What a node holds.
enum Content<'a> {
    Entries(&'static [(&'static str, Node)]),
    Text(&'a str),
    Digits(Number),
    Word(u32),
}

/// Bytes of a directory's entry: the next one is aligned.
fn entry_size(name: &str) -> usize {
    (NAME_AT + name.len() + 1).next_multiple_of(4)
}

impl Node {
    /// Returns the number that can be changed, if the node is one.
    fn setting<H: Hal>(self, hv: &Hypervisor<H>) -> Option<&Setting> {
        match self {
            Self::GrantFrames => Some(&hv.guests.grant_frames),
            Self::MaptrackFrames => Some(&hv.guests.maptrack_frames),
            _ => None,
        }
    }

    fn content<H: Hal>(self, hv: &Hypervisor<H>) -> Content<'_> {
        let identity = &hv.identity;
        match self {
            Self::Dir(entries) => Content::Entries(entries),
            Self::Changeset => Content::Text(&identity.changeset),
            Self::Compile(index) => {
                let text = identity.compile_info.get(index);
                Content::Text(text.map_or("", |text| text.as_str()))
            }
            Self::Extra => Content::Text(&identity.extra_version),
            Self::Major => Content::Word(identity.version.0.into()),
            Self::Minor => Content::Word(identity.version.1.into()),
            Self::GrantFrames => digits(&hv.guests.grant_frames),
            Self::MaptrackFrames => digits(&hv.guests.maptrack_frames),
        }
    }

    fn describe<H: Hal>(self, hv: &Hypervisor<H>) -> abi::HypfsDirentry {
        let (kind, length) = match self.content(hv) {
            Content::Entries(entries) => {
                let sizes = entries.iter().map(|(name, _)| entry_size(name));
                (abi::XEN_HYPFS_TYPE_DIR, sizes.sum())
            }
            Content::Text(text) => (abi::XEN_HYPFS_TYPE_STRING, text.len() + 1),
            Content::Digits(digits) => (abi::XEN_HYPFS_TYPE_STRING, digits.used + 1),
            Content::Word(_) => (abi::XEN_HYPFS_TYPE_UINT, size_of::<u32>()),
        };
        abi::HypfsDirentry {
            kind,
            encoding: abi::XEN_HYPFS_ENC_PLAIN,
            pad: 0,
            content_len: length as u32,
            max_write_len: self.setting(hv).map_or(0, |_| NUMBER_BYTES as u32),
        }
    }
}

/// Finds a node by its path, as [`read_path`] gives it.
fn find(path: &str) -> Option<Node> {
    let mut node = ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let Node::Dir(entries) = node else {
            return None;
        };
        let mut entries = entries.iter();
        node = entries.find(|(other, _)| *other == name)?.1;
    }
    Some(node)
}

/// Arguments: command, path, its length with the zero, buffer, its size.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    let [command, path, path_length, buffer, size] = *args;
    let command = command as u32;
    if command == abi::XEN_HYPFS_OP_GET_VERSION {
        let is_valid = [path, path_length, buffer, size] == [0; 4];
        return is_valid
            .then_some(abi::XEN_HYPFS_VERSION.into())
            .ok_or(Errno::Inval);
    }
    let mut bytes = [0; LONGEST_PATH];
    let node = find(read_path(
        cx,
        &mut bytes,
        GuestVirt::new(path),
        path_length,
    )?);
    let node = node.ok_or(Errno::NoEnt)?;
    let buffer = GuestVirt::new(buffer);
    match command {
        abi::XEN_HYPFS_OP_READ => read(cx, node, buffer, size),
        abi::XEN_HYPFS_OP_WRITE_CONTENTS => write(cx, node, buffer, size),
        _ => Err(Errno::OpNotSupp),
    }
}

/// Copies a path in, and checks its form: from the root, no slash at the end, a zero behind it.
fn read_path<'a, H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    bytes: &'a mut [u8; LONGEST_PATH],
    at: GuestVirt,
    length: u64,
) -> Result<&'a str, Errno> {
    if !(2..=MAX_PATH).contains(&length) {
        return Err(Errno::Inval);
    }
    // A longer one names nothing.
    let bytes = bytes.get_mut(..length as usize).ok_or(Errno::NoEnt)?;
    cx.copy_in(at, bytes)?;
    let [name @ .., 0] = bytes else {
        return Err(Errno::Inval);
    };
    let is_root = *name == *b"/";
    if !name.starts_with(b"/") || name.ends_with(b"/") && !is_root || name.contains(&0) {
        return Err(Errno::Inval);
    }
    core::str::from_utf8(name).map_err(|_| Errno::NoEnt)
}

/// Copies what a node is, and what it holds if that fits.
fn read<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    node: Node,
    buffer: GuestVirt,
    size: u64,
) -> CallResult {
    let entry = node.describe(cx.hv);
    let header = size_of_val(&entry) as u64;
    if size < header {
        return Err(Errno::Inval);
    }
    cx.write(buffer, &entry)?;
    if size - header < u64::from(entry.content_len) {
        return Err(Errno::NoBufs);
    }
    let mut to = Out {
        cx,
        at: buffer,
        offset: header,
    };
    match node.content(cx.hv) {
        Content::Entries(entries) => {
            for (index, (name, child)) in entries.iter().enumerate() {
                let length = entry_size(name);
                let is_last = index + 1 == entries.len();
                to.put(child.describe(cx.hv).as_bytes())?;
                let next = if is_last { 0 } else { length as u16 };
                to.put(&next.to_le_bytes())?;
                to.put(name.as_bytes())?;
                let zeroes = [0; 4];
                let rest = length - NAME_AT - name.len();
                to.put(zeroes.get(..rest).unwrap_or(&zeroes))?;
            }
        }
        Content::Text(text) => {
            to.put(text.as_bytes())?;
            to.put(&[0])?;
        }
        Content::Digits(digits) => {
            to.put(digits.bytes.get(..digits.used).unwrap_or(&[]))?;
            to.put(&[0])?;
        }
        Content::Word(word) => to.put(&word.to_le_bytes())?,
    }
    Ok(0)
}

/// Where a read goes on.
struct Out<'c, 'a, H: Hal, M: GuestMemory> {
    cx: &'c Cx<'a, H, M>,
    at: GuestVirt,
    offset: u64,
}

impl<H: Hal, M: GuestMemory> Out<'_, '_, H, M> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let at = self.at.checked_add(self.offset).ok_or(Errno::Fault)?;
        self.cx.copy_out(at, bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Reads a number as C writes them: in base 16 behind `0x`, in base 8 behind `0`.
fn number(text: &str) -> Option<u64> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    // Not a sign, which Rust takes.
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number
        .then(|| u64::from_str_radix(digits, base).ok())
        .flatten()
}

/// Changes a number: for domains that are made from now on.
fn write<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    node: Node,
    buffer: GuestVirt,
    size: u64,
) -> CallResult {
    let setting = node.setting(cx.hv).ok_or(Errno::Access)?;
    let mut bytes = [0; NUMBER_BYTES];
    let size = usize::try_from(size).map_err(|_| Errno::NoSpc)?;
    let bytes = bytes.get_mut(..size).ok_or(Errno::NoSpc)?;
    cx.copy_in(buffer, bytes)?;
    // One zero, at the end.
    let [text @ .., 0] = bytes else {
        return Err(Errno::Inval);
    };
    let text = core::str::from_utf8(text).map_err(|_| Errno::Inval)?;
    let value = number(text).ok_or(Errno::Inval)?;
    let value = i32::try_from(value).map_err(|_| Errno::Range)?;
    setting.set(value.unsigned_abs());
    Ok(0)
}
