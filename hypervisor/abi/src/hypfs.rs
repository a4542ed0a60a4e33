//! The hypervisor's file system (public/hypfs.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What XEN_HYPFS_OP_get_version returns.
pub const XEN_HYPFS_VERSION: u32 = 1;
/// Returns the version; all arguments are 0.
pub const XEN_HYPFS_OP_GET_VERSION: u32 = 0;
/// Reads an entry: path, its length with the zero, buffer, its size.
pub const XEN_HYPFS_OP_READ: u32 = 1;
/// Writes an entry: path, its length with the zero, buffer, its size.
pub const XEN_HYPFS_OP_WRITE_CONTENTS: u32 = 2;

/// A directory: its content is entries.
pub const XEN_HYPFS_TYPE_DIR: u8 = 0;
/// A text that ends in a zero.
pub const XEN_HYPFS_TYPE_STRING: u8 = 2;
/// An unsigned number of 4 bytes.
pub const XEN_HYPFS_TYPE_UINT: u8 = 3;
/// Not compressed.
pub const XEN_HYPFS_ENC_PLAIN: u8 = 0;

/// What an entry is; its content follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HypfsDirentry {
    /// `XEN_HYPFS_TYPE_*`.
    pub kind: u8,
    /// `XEN_HYPFS_ENC_*`.
    pub encoding: u8,
    /// Zero.
    pub pad: u16,
    /// Bytes of content.
    pub content_len: u32,
    /// Bytes that can be written at most; 0: none.
    pub max_write_len: u32,
}

/// An entry in the content of a directory; its name follows at byte 14, with a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HypfsDirlistentry {
    /// What it is.
    pub e: HypfsDirentry,
    /// Bytes from here to the next entry; 0: the last.
    pub off_next: u16,
    /// Where the name begins.
    pub name: [u8; 2],
}
