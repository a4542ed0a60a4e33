//! Grant tables: how a domain lets others map or copy single pages (public/grant_table.h; xen-arm.md 3.5).
//!
//! Each domain has two halves, each behind its own lock of the caller:
//!
//! * [`GrantTable`]: what it grants. The shared frames, which its kernel fills and may change at any moment, and for
//!   each entry how often it is in use, by whom, and the machine frame that was looked up at the first use.
//! * [`Maptrack`]: what it has mapped. A handle for each mapping, and which machine frames they reach.
//!
//! The operations ([`map_grant_ref`], [`unmap_grant_ref`], [`grant_copy`], ...) do one element each: the hypercall
//! layer loops, copies arguments and checks for preemption. Physical effects go through [`GrantMemory`].
//!
//! Invariants:
//! * A shared word is read once for each decision and changed by compare-exchange only, with bounded attempts.
//! * A page in use by at least one mapping or copy holds exactly one reference ([`GrantMemory::get_page`]), dropped when
//!   the last use ends. So the domain that granted may die or balloon: the page outlives the mappings.
//! * A use counted in the granter is undone only after the stage-2 entry is gone.
//! * Nothing here trusts the shared frame after the first use: frame, user and rights come from the active entry.
//!
//! Locks: [`map_grant_ref`] and [`unmap_grant_ref`] need the mapper's [`Maptrack`], then the granter's [`GrantTable`]
//! (one domain may be both). [`grant_copy`] takes one table at a time through [`GrantTables`]. Both call
//! [`GrantMemory`] meanwhile, which takes the locks of p2m and frames inside.
//!
//! A guest gets version 2 of the entries only where [`Limits::max_version`] says so (XSA-268: Xen's default on Arm is 1).
//! It lets a domain grant a part of a page to copies, and pass a grant on ("transitive"): such a use counts one in each
//! table. Only `entry.rs` knows the layout of an entry.

mod entry;
mod mapped;
mod maptrack;
mod ops;
#[cfg(not(any(test, feature = "fakes")))]
mod table;
#[cfg(any(test, feature = "fakes"))]
pub mod table;
#[cfg(test)]
mod tests;

use xen_abi::grant_table as abi;

use crate::addr::{DomId, Gfn, Mfn};
use crate::machine::SharedPage;

pub use maptrack::{DeviceView, MAPTRACK_PER_FRAME, Maptrack, Scan};
pub use ops::{
    CacheFlush, CopyEnd, CopyRequest, MapRequest, Mapped, UnmapRequest, cache_flush, grant_copy,
    map_grant_ref, release_mapping, unmap_and_replace, unmap_grant_ref,
};
pub use table::{GrantTable, Limits, MOST_FRAMES, Size};

/// Why a grant operation failed; a guest sees [`GrantError::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum GrantError {
    /// Unspecified error.
    General = abi::GNTST_GENERAL_ERROR,
    /// No such domain.
    BadDomain = abi::GNTST_BAD_DOMAIN,
    /// No such grant.
    BadRef = abi::GNTST_BAD_GNTREF,
    /// No such mapping.
    BadHandle = abi::GNTST_BAD_HANDLE,
    /// A guest address could not be used.
    BadVirtAddr = abi::GNTST_BAD_VIRT_ADDR,
    /// Not allowed.
    PermissionDenied = abi::GNTST_PERMISSION_DENIED,
    /// The page cannot be used.
    BadPage = abi::GNTST_BAD_PAGE,
    /// A copy would leave its page.
    BadCopyArg = abi::GNTST_BAD_COPY_ARG,
    /// In use; try again.
    Again = abi::GNTST_EAGAIN,
    /// No mapping slot left.
    NoSpace = abi::GNTST_NO_SPACE,
}

impl GrantError {
    /// Returns the `GNTST_*` value.
    pub const fn status(self) -> i16 {
        self as i16
    }
}

/// Returns the `GNTST_*` value of a result.
pub fn status_of<T>(result: &Result<T, GrantError>) -> i16 {
    match result {
        Ok(_) => abi::GNTST_OKAY,
        Err(error) => error.status(),
    }
}

/// What a mapping or copy may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    Write,
}

/// A page that a domain may grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The machine frame.
    pub mfn: Mfn,
    /// False if the owner itself may not write it.
    pub writable: bool,
}

/// Why [`GrantMemory::get_frame`] gave no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// There is no RAM at the frame.
    Invalid,
    /// The frame belongs to no domain (free, or the hypervisor's).
    Unowned,
    /// The frame belongs to another domain.
    Foreign,
}

/// The physical effect could not be had: no memory for tables, or an unusable frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError;

/// Which maintenance to do on the data cache, to the point of coherency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOp {
    /// Write back.
    Clean,
    /// Write back and drop.
    CleanInvalidate,
}

/// The physical effects of grants. Called with grant locks held.
pub trait GrantMemory {
    /// Translates `gfn` of `owner` and takes a reference to its page.
    ///
    /// Gives only RAM that `owner` itself owns: no foreign or granted mapping, no device, no page of the hypervisor
    /// (XSA-232, XSA-473), and nothing of a dying domain.
    ///
    /// # Errors
    /// [`MemoryError`] when it is anything else.
    fn get_page(&mut self, owner: DomId, gfn: Gfn) -> Result<Page, MemoryError>;

    /// Takes a reference to `mfn` if `owner` owns it.
    ///
    /// # Errors
    /// [`FrameError`] says what it is otherwise.
    fn get_frame(&mut self, owner: DomId, mfn: Mfn) -> Result<(), FrameError>;

    /// Drops a reference of [`GrantMemory::get_page`] or [`GrantMemory::get_frame`]; may free the page.
    fn put_page(&mut self, mfn: Mfn);

    /// Maps `mfn` at `at` in the mapper's stage 2 as a granted page (never executable, never a source of further
    /// grants or foreign mappings), replacing what is there.
    ///
    /// # Errors
    /// [`MemoryError`] when there is no memory for tables, or `at` cannot be mapped; nothing has changed then.
    fn map(&mut self, mapper: DomId, at: Gfn, mfn: Mfn, access: Access) -> Result<(), MemoryError>;

    /// Removes the granted mapping of `mfn` at `at`, TLBs included. If `at` maps something else, or nothing, it stays
    /// as it is and that is no error: after success the grant is not reachable through `at`.
    ///
    /// # Errors
    /// [`MemoryError`] when the mapping could not be removed.
    fn unmap(&mut self, mapper: DomId, at: Gfn, mfn: Mfn) -> Result<(), MemoryError>;

    /// Copies `length` bytes between frames that are both referenced; they may be the same frame, and overlap. The
    /// caller has checked that both ends stay within their page.
    fn copy(&mut self, from: (Mfn, usize), to: (Mfn, usize), length: usize);

    /// Maintains the data cache for `length` bytes from `offset` within a frame.
    fn maintain_cache(&mut self, mfn: Mfn, offset: usize, length: usize, op: CacheOp);
}

/// Access to the grant table of any domain, one at a time: the caller's place for looking up and locking.
pub trait GrantTables {
    /// The shared page of the tables.
    type Page: SharedPage;

    /// Runs `action` on the table of `domain`, whose grant `user` uses, with its lock held. A domain whose table has uses counted must still be
    /// found, even when it is dying.
    ///
    /// # Errors
    /// [`GrantError::BadDomain`] when there is none, [`GrantError::PermissionDenied`] when policy forbids `user`
    /// grants of that domain.
    fn with<R>(
        &mut self,
        user: DomId,
        domain: DomId,
        action: impl FnOnce(&mut GrantTable<Self::Page>) -> R,
    ) -> Result<R, GrantError>;
}
