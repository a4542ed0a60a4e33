//! The packed 64-bit entry of one machine frame.
//!
//! ```text
//! tail       0: inside a free block, or never given to the allocator (then no head covers it)
//! free head  63:62 = 1 | 61 dirty | 60:56 order | 55:28 previous | 27:0 next
//! used       63:62 = 2 | 61 owned | 60 xenheap | 59:45 owner | 44:16 gfn | 15:0 references
//! ```
//!
//! Links are machine frame numbers of 28 bits, which covers the 40-bit physical space of LPAE on ARMv7-A.

use crate::addr::{DomId, Gfn};

/// No frame: the end of a free list.
pub(super) const NONE: u32 = 0x0fff_ffff;

const TAG_SHIFT: u32 = 62;
const TAG_FREE: u64 = 1;
const TAG_USED: u64 = 2;

const DIRTY: u64 = 1 << 61;
const ORDER_SHIFT: u32 = 56;
const ORDER_MASK: u64 = 0x1f;
const PREVIOUS_SHIFT: u32 = 28;
const LINK_MASK: u64 = 0x0fff_ffff;

const OWNED: u64 = 1 << 61;
const XENHEAP: u64 = 1 << 60;
const OWNER_SHIFT: u32 = 45;
const OWNER_MASK: u64 = 0x7fff;
const GFN_SHIFT: u32 = 16;
/// One bit more than a 40-bit IPA needs, so that "nowhere" is no guest frame.
const GFN_MASK: u64 = 0x1fff_ffff;
const NO_GFN: u64 = GFN_MASK;
const COUNT_MASK: u64 = 0xffff;

/// `DOMID_XEN` of the public interface (public/xen.h).
const DOMID_XEN: u16 = 0x7ff2;
/// `DOMID_FIRST_RESERVED` of the public interface.
const DOMID_FIRST_RESERVED: u16 = 0x7ff0;

/// Who a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The hypervisor itself.
    Xen,
    /// A domain.
    Domain(DomId),
}

impl Owner {
    /// Returns the number that the entry holds, which is wider than the field for an impossible domain.
    const fn raw(self) -> u64 {
        match self {
            Self::Xen => DOMID_XEN as u64,
            // DOMID_XEN itself and the other reserved numbers are nobody: they match no entry.
            Self::Domain(id) if id.raw() >= DOMID_FIRST_RESERVED => u64::MAX,
            Self::Domain(id) => id.raw() as u64,
        }
    }

    /// Returns whether the entry can hold this owner and tell it from the others.
    pub(super) const fn is_representable(self) -> bool {
        match self {
            Self::Xen => true,
            Self::Domain(id) => id.raw() < DOMID_FIRST_RESERVED,
        }
    }
}

/// The head of a free block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FreeHead {
    pub dirty: bool,
    pub order: u32,
    pub previous: u32,
    pub next: u32,
}

impl FreeHead {
    pub(super) const fn pack(self) -> u64 {
        (TAG_FREE << TAG_SHIFT)
            | if self.dirty { DIRTY } else { 0 }
            | ((self.order as u64 & ORDER_MASK) << ORDER_SHIFT)
            | ((self.previous as u64 & LINK_MASK) << PREVIOUS_SHIFT)
            | (self.next as u64 & LINK_MASK)
    }

    pub(super) const fn unpack(raw: u64) -> Option<Self> {
        if raw >> TAG_SHIFT != TAG_FREE {
            return None;
        }
        Some(Self {
            dirty: raw & DIRTY != 0,
            order: ((raw >> ORDER_SHIFT) & ORDER_MASK) as u32,
            previous: ((raw >> PREVIOUS_SHIFT) & LINK_MASK) as u32,
            next: (raw & LINK_MASK) as u32,
        })
    }
}

/// The entry of a frame in use; a value, so that an update is one compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used(u64);

impl Used {
    /// A fresh allocation with one reference: the owner's own if it is a domain, the hypervisor's else.
    pub(super) const fn new(owner: Owner) -> Self {
        let owned = match owner {
            Owner::Xen => 0,
            Owner::Domain(_) => OWNED,
        };
        Self(
            (TAG_USED << TAG_SHIFT)
                | owned
                | ((owner.raw() & OWNER_MASK) << OWNER_SHIFT)
                | (NO_GFN << GFN_SHIFT)
                | 1,
        )
    }

    pub(super) const fn raw(self) -> u64 {
        self.0
    }

    pub(super) const fn unpack(raw: u64) -> Option<Self> {
        if raw >> TAG_SHIFT == TAG_USED {
            Some(Self(raw))
        } else {
            None
        }
    }

    pub(super) const fn count(self) -> u64 {
        self.0 & COUNT_MASK
    }

    pub(super) const fn owner(self) -> Owner {
        let raw = ((self.0 >> OWNER_SHIFT) & OWNER_MASK) as u16;
        if raw == DOMID_XEN {
            Owner::Xen
        } else {
            Owner::Domain(DomId::new(raw))
        }
    }

    /// Compares with the whole number, so an owner that does not fit the field never matches.
    pub(super) const fn is_owned_by(self, owner: Owner) -> bool {
        (self.0 >> OWNER_SHIFT) & OWNER_MASK == owner.raw()
    }

    pub(super) const fn is_owned(self) -> bool {
        self.0 & OWNED != 0
    }

    pub(super) const fn is_xenheap(self) -> bool {
        self.0 & XENHEAP != 0
    }

    pub(super) fn gfn(self) -> Option<Gfn> {
        let raw = (self.0 >> GFN_SHIFT) & GFN_MASK;
        (raw != NO_GFN).then(|| Gfn::new(raw as u32))
    }

    /// Adds a reference, or `None` when the count is full or no reference is left.
    pub(super) const fn increment(self) -> Option<Self> {
        match self.count() {
            0 | COUNT_MASK => None,
            _ => Some(Self(self.0 + 1)),
        }
    }

    /// Takes a reference away, or `None` when there is none.
    pub(super) const fn decrement(self) -> Option<Self> {
        if self.count() == 0 {
            None
        } else {
            Some(Self(self.0 - 1))
        }
    }

    pub(super) const fn without_owned(self) -> Self {
        Self(self.0 & !OWNED)
    }

    pub(super) const fn with_xenheap(self, xenheap: bool) -> Self {
        Self(if xenheap {
            self.0 | XENHEAP
        } else {
            self.0 & !XENHEAP
        })
    }

    pub(super) const fn with_owner(self, owner: Owner) -> Self {
        Self((self.0 & !(OWNER_MASK << OWNER_SHIFT)) | ((owner.raw() & OWNER_MASK) << OWNER_SHIFT))
    }

    /// Returns whether the entry can hold the guest frame.
    pub(super) fn holds_gfn(gfn: Gfn) -> bool {
        u64::from(gfn.raw()) < NO_GFN
    }

    pub(super) fn with_gfn(self, gfn: Option<Gfn>) -> Self {
        let raw = gfn.map_or(NO_GFN, |gfn| u64::from(gfn.raw()) & GFN_MASK);
        Self((self.0 & !(GFN_MASK << GFN_SHIFT)) | (raw << GFN_SHIFT))
    }
}
