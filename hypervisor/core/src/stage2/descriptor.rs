//! Stage-2 descriptors in the long format (ARM DDI 0406C.d B3.6.1-B3.6.2; the same bits in AArch64's VMSA).

use core::sync::atomic::AtomicU64;

use crate::addr::Mfn;

/// Entries in a table page.
pub const ENTRIES: usize = 512;
/// A table page.
pub type Table = [AtomicU64; ENTRIES];
/// The level whose leaves are single pages.
pub const PAGE_LEVEL: u8 = 3;

const VALID: u64 = 1 << 0;
/// A table at levels 0 to 2, a page at level 3.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEMATTR_SHIFT: u32 = 2;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const SHARE_OUTER: u64 = 0b10 << 8;
const SHARE_INNER: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const EXECUTE_NEVER: u64 = 1 << 54;
/// Bits 58:55 are left to software.
const TYPE_SHIFT: u32 = 55;
const TYPE_MASK: u64 = 0xf;
const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_f000;

/// Device memory (nGnRE).
const MEMATTR_DEVICE: u64 = 0b0001;
/// Normal memory, not cacheable.
const MEMATTR_NORMAL_NC: u64 = 0b0101;
/// Normal memory, write-back: leaves the guest's own attributes as they are.
const MEMATTR_NORMAL: u64 = 0b1111;

/// What a guest frame is mapped to, in Xen's words (`p2m_type_t`). Kept in the software bits of the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageType {
    /// RAM of the domain.
    RamRw = 1,
    /// RAM of the domain, read-only.
    RamRo = 2,
    /// Device registers with device attributes.
    MmioDirectDev = 3,
    /// Device memory, not cacheable.
    MmioDirectNc = 4,
    /// Device memory whose attributes the guest decides (dom0's device map).
    MmioDirectC = 5,
    /// RAM of another domain.
    ForeignRw = 6,
    /// RAM of another domain, read-only.
    ForeignRo = 7,
    /// A granted page.
    GrantRw = 8,
    /// A granted page, read-only.
    GrantRo = 9,
    /// Memory of the hypervisor shared with the domain (shared_info, grant frames). Xen calls it RAM.
    Xenheap = 12,
}

impl PageType {
    const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            1 => Self::RamRw,
            2 => Self::RamRo,
            3 => Self::MmioDirectDev,
            4 => Self::MmioDirectNc,
            5 => Self::MmioDirectC,
            6 => Self::ForeignRw,
            7 => Self::ForeignRo,
            8 => Self::GrantRw,
            9 => Self::GrantRo,
            12 => Self::Xenheap,
            _ => return None,
        })
    }

    /// Returns whether the mapping itself holds a reference to the frame, dropped when it goes away.
    pub const fn is_counted(self) -> bool {
        matches!(self, Self::ForeignRw | Self::ForeignRo | Self::Xenheap)
    }

    /// Returns whether the frame is the domain's own RAM.
    pub const fn is_ram(self) -> bool {
        matches!(self, Self::RamRw | Self::RamRo)
    }

    /// Returns whether the frame belongs to a device.
    pub const fn is_mmio(self) -> bool {
        matches!(
            self,
            Self::MmioDirectDev | Self::MmioDirectNc | Self::MmioDirectC
        )
    }

    /// Returns whether the grant table made the mapping.
    pub const fn is_grant(self) -> bool {
        matches!(self, Self::GrantRw | Self::GrantRo)
    }

    /// Returns whether the guest may write.
    pub const fn is_writable(self) -> bool {
        !matches!(self, Self::RamRo | Self::ForeignRo | Self::GrantRo)
    }

    /// Returns whether the guest may execute: only its own RAM.
    pub const fn is_executable(self) -> bool {
        self.is_ram()
    }

    const fn attributes(self) -> u64 {
        let (memattr, share) = match self {
            Self::MmioDirectDev => (MEMATTR_DEVICE, SHARE_OUTER),
            Self::MmioDirectNc => (MEMATTR_NORMAL_NC, SHARE_OUTER),
            Self::MmioDirectC => (MEMATTR_NORMAL, SHARE_OUTER),
            _ => (MEMATTR_NORMAL, SHARE_INNER),
        };
        (memattr << MEMATTR_SHIFT)
            | share
            | READ
            | if self.is_writable() { WRITE } else { 0 }
            | if self.is_executable() {
                0
            } else {
                EXECUTE_NEVER
            }
            | ACCESS_FLAG
            | ((self as u64) << TYPE_SHIFT)
    }
}

/// A descriptor, read at a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Absent,
    Table(Mfn),
    Leaf(Mfn, PageType),
}

/// Interprets a descriptor.
pub(super) fn decode(raw: u64, level: u8) -> Entry {
    // The mask leaves 36 bits of frame number; ours has 32 and nothing wider was ever written.
    let mfn = Mfn::new(((raw & ADDRESS_MASK) >> 12) as u32);
    let is_table_or_page = raw & TABLE_OR_PAGE != 0;
    match (raw & VALID != 0, is_table_or_page, level == PAGE_LEVEL) {
        (false, _, _) | (true, false, true) => Entry::Absent,
        (true, true, false) => Entry::Table(mfn),
        (true, true, true) | (true, false, false) => {
            PageType::from_bits((raw >> TYPE_SHIFT) & TYPE_MASK)
                .map_or(Entry::Absent, |ty| Entry::Leaf(mfn, ty))
        }
    }
}

/// Returns the descriptor of a leaf.
pub(super) const fn leaf(mfn: Mfn, ty: PageType, level: u8) -> u64 {
    let page = if level == PAGE_LEVEL {
        TABLE_OR_PAGE
    } else {
        0
    };
    mfn.address().raw() | ty.attributes() | page | VALID
}

/// Returns the descriptor of a table.
pub(super) const fn table(mfn: Mfn) -> u64 {
    mfn.address().raw() | TABLE_OR_PAGE | VALID
}

/// Returns whether the walker would use the descriptor.
pub(super) const fn is_valid(raw: u64) -> bool {
    raw & VALID != 0
}
