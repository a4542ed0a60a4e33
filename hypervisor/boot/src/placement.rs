//! Where a domain's kernel, initrd and device tree go in its RAM.
//!
//! The rules are Xen's. The Image of a 64-bit kernel goes to the start of bank 0. A position-independent zImage goes as high as possible below 128 MiB from
//! the start of bank 0, so that Linux unpacks itself below and finds its first bank by rounding its own address down
//! to 128 MiB. Device tree and initrd follow in whole 2 MiB sections, above the kernel if there is room.
//!
//! Invariants: the ranges of a [`Placement`] are inside the banks and do not overlap. Takes no locks.

use super::kernel::{KernelImage, Load};
use crate::memory::PhysRange;

const MIB: u64 = 1 << 20;
const SECTION: u64 = 2 * MIB;
/// Linux masks its own address with this to find the start of RAM.
const KERNEL_REACH: u64 = 128 * MIB;

/// Where everything goes, in guest-physical addresses (a directly mapped dom0's are the host's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The kernel's image.
    pub kernel: PhysRange,
    /// Its entry point.
    pub entry: u64,
    /// The device tree.
    pub tree: PhysRange,
    /// The initrd, if there is one.
    pub initrd: Option<PhysRange>,
}

/// Why they do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementError {
    /// The domain has no RAM.
    NoMemory,
    /// The kernel does not fit below 128 MiB into the first bank: bytes needed and there.
    KernelTooLarge {
        /// Size of the kernel in bytes.
        size: u64,
        /// Room below 128 MiB in bytes.
        room: u64,
    },
    /// The kernel is linked for addresses that are not the domain's RAM.
    KernelOutsideMemory(PhysRange),
    /// Kernel, device tree and initrd are each rounded up to 2 MiB and exceed the first bank.
    ModulesTooLarge {
        /// Size of the kernel in bytes.
        kernel: u64,
        /// Size of the device tree in bytes.
        tree: u64,
        /// Size of the initrd in bytes.
        initrd: u64,
        /// Size of the first bank in bytes.
        bank: u64,
    },
}

impl core::fmt::Display for PlacementError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMemory => {
                f.write_str("the domain has no memory; give it some (dom0_mem, or its \"memory\")")
            }
            Self::KernelTooLarge { size, room } => {
                write!(
                    f,
                    "the kernel needs {size} bytes and the first bank has {room} for it; raise dom0_mem, or its \"memory\""
                )
            }
            Self::KernelOutsideMemory(region) => write!(
                f,
                "the kernel is linked for {region}, which is not the domain's memory; use a position-independent \
                 zImage or a uImage with load address 0"
            ),
            Self::ModulesTooLarge {
                kernel,
                tree,
                initrd,
                bank,
            } => write!(
                f,
                "kernel ({kernel} bytes), device tree ({tree}) and initrd ({initrd}) do not fit the first bank of \
                 {bank} bytes; raise dom0_mem, or its \"memory\", or use a smaller initrd"
            ),
        }
    }
}

/// Places a kernel, a device tree and an initrd (sizes in bytes) in a domain's RAM.
///
/// # Errors
/// A [`PlacementError`] that says what does not fit.
#[inline(never)]
pub fn place(
    banks: &[PhysRange],
    kernel: &KernelImage,
    tree_size: u64,
    initrd_size: Option<u64>,
) -> Result<Placement, PlacementError> {
    let bank = *banks
        .first()
        .filter(|bank| !bank.is_empty())
        .ok_or(PlacementError::NoMemory)?;
    let (kernel, entry) = place_kernel(banks, bank, kernel)?;
    let modules = Modules {
        bank,
        kernel,
        tree_size,
        initrd_size,
    };
    let (base, tree_room) = modules.base().ok_or(PlacementError::ModulesTooLarge {
        kernel: kernel.size(),
        tree: tree_size,
        initrd: initrd_size.unwrap_or(0),
        bank: bank.size(),
    })?;
    let initrd = initrd_size.map(|size| PhysRange::from_size(base.saturating_add(tree_room), size));
    Ok(Placement {
        kernel,
        entry,
        tree: PhysRange::from_size(base, tree_size),
        initrd,
    })
}

fn place_kernel(
    banks: &[PhysRange],
    bank: PhysRange,
    image: &KernelImage,
) -> Result<(PhysRange, u64), PlacementError> {
    let start = bank.base().raw();
    match image.load {
        Load::Anywhere { entry_offset } => {
            let end = bank.end().raw().min(start.saturating_add(KERNEL_REACH));
            let error = PlacementError::KernelTooLarge {
                size: image.size,
                room: end.saturating_sub(start),
            };
            let address = end
                .checked_sub(image.size)
                .map(|address| address & !(SECTION - 1));
            let address = address.filter(|&address| address >= start).ok_or(error)?;
            Ok((
                PhysRange::from_size(address, image.size),
                address.saturating_add(entry_offset),
            ))
        }
        Load::Aligned {
            text_offset,
            memory,
        } => {
            let error = PlacementError::KernelTooLarge {
                size: memory,
                room: bank.size(),
            };
            let region = start
                .checked_next_multiple_of(SECTION)
                .and_then(|base| base.checked_add(text_offset))
                .filter(|base| {
                    base.checked_add(memory)
                        .is_some_and(|end| end <= bank.end().raw())
                })
                .map(|base| PhysRange::from_size(base, memory))
                .ok_or(error)?;
            Ok((region, region.base().raw()))
        }
        Load::Fixed { address, entry } => {
            let region = PhysRange::from_size(address, image.size);
            let fits = |bank: &PhysRange| {
                bank.base() <= region.base()
                    && address
                        .checked_add(image.size)
                        .is_some_and(|end| end <= bank.end().raw())
            };
            if !banks.iter().any(fits) {
                return Err(PlacementError::KernelOutsideMemory(region));
            }
            Ok((region, entry))
        }
    }
}

struct Modules {
    bank: PhysRange,
    kernel: PhysRange,
    tree_size: u64,
    initrd_size: Option<u64>,
}

impl Modules {
    /// Returns where the device tree goes, and the room it takes up before the initrd.
    fn base(&self) -> Option<(u64, u64)> {
        let tree_room = self.tree_size.checked_next_multiple_of(SECTION)?;
        let room = self
            .initrd_size
            .unwrap_or(0)
            .checked_next_multiple_of(SECTION)?
            .checked_add(tree_room)?;
        let (start, end) = (self.bank.base().raw(), self.bank.end().raw());
        let kernel_end = self.kernel.end().raw();
        // A kernel linked for another bank is in nobody's way here.
        let is_beside = self.kernel.base().raw() >= end || kernel_end <= start;
        let reach = start.checked_add(KERNEL_REACH)?;
        if (kernel_end < reach || is_beside)
            && reach.checked_add(room).is_some_and(|top| top <= end)
        {
            return Some((reach, tree_room));
        }
        let top = end
            .checked_sub(room)
            .map(|base| base & !(SECTION - 1))
            .filter(|&base| base >= start);
        if let Some(base) = top
            && (is_beside
                || kernel_end
                    .checked_next_multiple_of(SECTION)
                    .is_some_and(|kernel_end| base > kernel_end))
        {
            return Some((base, tree_room));
        }
        let below = self
            .kernel
            .base()
            .raw()
            .checked_sub(room)
            .map(|base| base & !(SECTION - 1));
        below
            .filter(|&base| !is_beside && base > start)
            .map(|base| (base, tree_room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(base: u64, size: u64) -> PhysRange {
        PhysRange::new(base, size).unwrap()
    }

    fn zimage(size: u64) -> KernelImage {
        KernelImage {
            offset: 0,
            size,
            load: Load::Anywhere { entry_offset: 0 },
            format: "zImage",
        }
    }

    fn fixed(address: u64, size: u64) -> KernelImage {
        KernelImage {
            offset: 0,
            size,
            load: Load::Fixed {
                address,
                entry: address + 0x40,
            },
            format: "uImage",
        }
    }

    /// The numbers of the real Xen's log (xen-4.17-virt-smp2-xl-create.log).
    #[test]
    fn places_as_the_real_xen() {
        let banks = [range(0x5000_0000, 256 * MIB), range(0x6800_0000, 256 * MIB)];
        let placed = place(&banks, &zimage(0x54_5200), 0x1d47, Some(0xf5_25c9)).unwrap();
        assert_eq!(placed.kernel, range(0x57a0_0000, 0x54_5200));
        assert_eq!(placed.entry, 0x57a0_0000);
        assert_eq!(placed.tree, range(0x5800_0000, 0x1d47));
        assert_eq!(placed.initrd, Some(range(0x5820_0000, 0xf5_25c9)));
    }

    /// As the real Xen 4.20 does: the kernel with what it clears itself first, the others behind 128 MiB.
    #[test]
    fn places_an_image() {
        let image = KernelImage {
            offset: 0,
            size: 30 * MIB,
            load: Load::Aligned {
                text_offset: 0x8_0000,
                memory: 40 * MIB,
            },
            format: "Image",
        };
        let banks = [range(0x5010_0000, 300 * MIB)];
        let placed = place(&banks, &image, 0x2000, Some(3 * MIB)).unwrap();
        assert_eq!(placed.kernel, range(0x5028_0000, 40 * MIB));
        assert_eq!(placed.entry, 0x5028_0000);
        assert_eq!(placed.tree.base().raw(), 0x5010_0000 + 128 * MIB);
        // Where there is no room for that, at the top of the bank.
        let banks = [range(0x5000_0000, 64 * MIB)];
        let placed = place(&banks, &image, 0x2000, None).unwrap();
        assert_eq!(placed.tree.base().raw(), 0x5000_0000 + 62 * MIB);
        for size in [40 * MIB, 0x20_0000] {
            let error = place(&[range(0x5000_0000, size)], &image, 1, None);
            let memory = 40 * MIB;
            assert_eq!(
                error,
                Err(PlacementError::KernelTooLarge {
                    size: memory,
                    room: size
                })
            );
        }
        let huge = KernelImage {
            load: Load::Aligned {
                text_offset: u64::MAX,
                memory: u64::MAX,
            },
            ..image
        };
        assert!(place(&banks, &huge, 1, None).is_err());
    }

    #[test]
    fn falls_back_to_the_top_and_below() {
        // No room above 128 MiB, and the kernel is at the top of the bank: below the kernel.
        let banks = [range(0x4000_0000, 128 * MIB)];
        let placed = place(&banks, &zimage(5 * MIB), 0x1000, Some(3 * MIB)).unwrap();
        assert_eq!(placed.kernel.base().raw(), 0x4000_0000 + 122 * MIB);
        assert_eq!(placed.tree.base().raw(), 0x4000_0000 + 116 * MIB);
        assert_eq!(placed.initrd.unwrap().base().raw(), 0x4000_0000 + 118 * MIB);
        // A kernel at a fixed low address: at the top of the bank.
        let placed = place(&banks, &fixed(0x4000_8000, 5 * MIB), 0x1000, None).unwrap();
        assert_eq!(
            (placed.kernel.base().raw(), placed.entry),
            (0x4000_8000, 0x4000_8040)
        );
        assert_eq!(placed.tree.base().raw(), 0x4000_0000 + 126 * MIB);
    }

    #[test]
    fn says_what_does_not_fit() {
        let banks = [range(0x4000_0000, 16 * MIB)];
        assert_eq!(
            place(&banks, &zimage(17 * MIB), 1, None),
            Err(PlacementError::KernelTooLarge {
                size: 17 * MIB,
                room: 16 * MIB
            })
        );
        let error = place(&banks, &zimage(5 * MIB), 1, Some(12 * MIB)).unwrap_err();
        assert!(alloc::format!("{error}").contains("raise dom0_mem"));
        assert_eq!(
            place(&[], &zimage(1), 1, None),
            Err(PlacementError::NoMemory)
        );
        let outside = place(&banks, &fixed(0x8000_0000, MIB), 1, None);
        assert_eq!(
            outside,
            Err(PlacementError::KernelOutsideMemory(range(0x8000_0000, MIB)))
        );
        assert!(place(&banks, &fixed(u64::MAX - 0x80, MIB), 1, None).is_err());
    }

    #[test]
    fn never_overlaps_nor_leaves_the_banks() {
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut placed_count = 0;
        for round in 0..20_000 {
            let first = 0x4000_0000 + random(64) * 4 * MIB;
            let banks = [
                range(first, (1 + random(80)) * 4 * MIB),
                range(0x8000_0000, (1 + random(8)) * 4 * MIB),
            ];
            let size = 1 + random(40 * MIB);
            let kernel = match random(3) {
                0 => fixed(first + random(160 * MIB), size),
                1 => fixed(0x8000_0000 + random(8 * MIB), size),
                _ => zimage(size),
            };
            let initrd = (random(4) > 0).then(|| random(200 * MIB));
            let Ok(placed) = place(&banks, &kernel, 1 + random(3 * MIB), initrd) else {
                continue;
            };
            placed_count += 1;
            let mut ranges = [
                placed.kernel,
                placed.tree,
                placed.initrd.unwrap_or(placed.tree),
            ];
            for range in ranges {
                let inside =
                    |bank: &PhysRange| bank.base() <= range.base() && range.end() <= bank.end();
                assert!(
                    banks.iter().any(inside),
                    "round {round}: {placed:?} in {banks:?}"
                );
            }
            let count = if initrd.is_some() { 3 } else { 2 };
            let ranges = &mut ranges[..count];
            ranges.sort();
            for pair in ranges.windows(2) {
                assert!(
                    pair[0].end().raw() <= pair[1].base().raw(),
                    "round {round}: {placed:?} in {banks:?}"
                );
            }
        }
        assert!(placed_count > 5000, "{placed_count}");
    }
}
