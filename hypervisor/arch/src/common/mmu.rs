//! The hypervisor's own address space: stage 1 of Hyp mode (LPAE) or of EL2. Both have the same descriptors, and a first
//! level of one GiB for each entry.
//!
//! head.S makes the tables for the image; here they are extended. Everything lies in the first GiB of virtual addresses:
//!
//! | from        | to          | what |
//! |---|---|---|
//! | 0x0020_0000 | 0x0040_0000 | the image, by pages: text RX, rodata R, data RW |
//! | 0x0040_0000 | 0x0060_0000 | fixmap: page windows, device registers, second-level helpers |
//! | 0x0060_0000 | 0x00a0_0000 | the host's device tree, read-only, while booting |
//! | 0x00a0_0000 | 0x00c0_0000 | page windows of the CPUs from the ninth on |
//! | 0x0600_0000 | 0x0800_0000 | stacks of secondary CPUs, the upper half of twice their size |
//! | 0x0800_0000 | 0x1000_0000 | the frame table |
//! | 0x1000_0000 | 0x2000_0000 | the heap |
//! | 0x2000_0000 | 0x4000_0000 | pages shared with guests, mapped for as long as they are shared |
//!
//! RAM is not mapped as a whole: a page of a guest is reached through a window for the moment of use. SCTLR.WXN makes
//! every writable page execute-never, whatever its descriptor says.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use xenith_core::addr::{HostPhys, Mfn, PAGE_SIZE};
use xenith_hw::shared_page::{FreeSlot, MappedPage, SlotPool, Unmap};

use crate::imp::{MAX_CPUS, STACK_BYTES, sysreg, tlb};

/// Start of the device-tree window.
const FDT_BASE: usize = 0x0060_0000;
/// Its end.
const FDT_END: usize = 0x00a0_0000;
/// Start of the windows of the CPUs for which the fixmap has none.
const MORE_WINDOWS_BASE: usize = 0x00a0_0000;
/// Start of the secondary CPUs' stacks.
const STACKS_BASE: usize = 0x0600_0000;
/// Distance of two stacks: what is below one is not mapped.
const STACK_STRIDE: usize = 2 * STACK_BYTES;
/// Start of the frame table's range.
pub const FRAME_TABLE_BASE: usize = 0x0800_0000;
/// Start of the heap's range.
pub const HEAP_BASE: usize = 0x1000_0000;
/// End of the heap's range.
pub const HEAP_END: usize = 0x2000_0000;
/// Start of the range for shared pages.
pub const VMAP_BASE: usize = 0x2000_0000;
/// End of the range for shared pages.
pub const VMAP_END: usize = 0x4000_0000;

const FIXMAP_BASE: usize = 0x0040_0000;
/// Fixmap pages kept for windows; devices and table pages follow.
const WINDOW_PAGES: usize = 64;
/// Windows of one CPU.
const WINDOWS_PER_CPU: usize = 8;
/// CPUs whose windows are in the fixmap.
const FIXMAP_CPUS: usize = WINDOW_PAGES / WINDOWS_PER_CPU;
const ENTRIES: usize = 512;
const _: () = assert!(MAX_CPUS <= FIXMAP_CPUS + ENTRIES / WINDOWS_PER_CPU);

/// Where the table of the other CPUs' windows is mapped; 0 before there is one.
static MORE_WINDOWS: AtomicUsize = AtomicUsize::new(0);

const VALID_PAGE: u64 = 0x3;
const VALID_BLOCK: u64 = 0x1;
const ATTR_DEVICE: u64 = 0 << 2;
const ATTR_NORMAL: u64 = 2 << 2;
/// AP[1] (must be one in Hyp), inner shareable, access flag.
const COMMON: u64 = (1 << 6) | (3 << 8) | (1 << 10);
const READ_ONLY: u64 = 1 << 7;
const XN: u64 = 1 << 54;

/// What a mapping is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Normal memory, read and write.
    ReadWrite,
    /// Normal memory, read-only.
    ReadOnly,
    /// Device registers.
    Device,
}

impl Access {
    fn bits(self) -> u64 {
        match self {
            Self::ReadWrite => ATTR_NORMAL | COMMON | XN,
            Self::ReadOnly => ATTR_NORMAL | COMMON | READ_ONLY | XN,
            Self::Device => ATTR_DEVICE | COMMON | XN,
        }
    }
}

/// The address space could not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No frame for a table.
    NoMemory,
    /// The range of virtual addresses is used up.
    NoSpace,
}

type Table = [AtomicU64; ENTRIES];

/// The hypervisor's translation tables. One value exists; it lives behind the lock of whoever owns it.
pub struct HypTables {
    level1: &'static Table,
    level2: &'static Table,
    fixmap: &'static Table,
    /// Level-3 tables that this code added, by index in level 2: the page of the fixmap where each is mapped; 0 for none.
    level3: [u16; ENTRIES],
    next_fixmap: usize,
    next_heap: usize,
    shared: SlotPool,
}

fn publish(entry: &AtomicU64, value: u64) {
    entry.store(value, Ordering::Relaxed);
    // The walkers read through the cache (HTCR and TCR_EL2 say write-back, inner shareable): a barrier is enough.
    sysreg::dsb_ish();
    sysreg::isb();
}

/// Forgets the translation of one of the hypervisor's pages on all CPUs.
fn flush_page(va: usize) {
    // SAFETY: TLB maintenance of the hypervisor's own address space.
    unsafe { tlb::hyp_page(va) };
    sysreg::dsb_ish();
    sysreg::isb();
}

impl HypTables {
    /// Takes over the tables that head.S made.
    ///
    /// # Safety
    /// `tables` is the linked address of `__boot_tables`, mapped read-write, and this is called once.
    pub unsafe fn take(tables: usize) -> Self {
        // SAFETY: By the contract, whole pages of entries which only this value changes from now on.
        let (level1, level2, fixmap) = unsafe {
            (
                &*(tables as *const Table),
                &*((tables + 0x1000) as *const Table),
                &*((tables + 0x3000) as *const Table),
            )
        };
        Self {
            level1,
            level2,
            fixmap,
            level3: [0; ENTRIES],
            next_fixmap: WINDOW_PAGES,
            next_heap: HEAP_BASE,
            shared: SlotPool::new(VMAP_BASE, VMAP_END),
        }
    }

    /// Returns the level-3 table for index `index` of level 2, if this code added one.
    fn level3(&self, index: usize) -> Option<&'static Table> {
        let slot = usize::from(self.level3[index]);
        if slot == 0 {
            return None;
        }
        let at = FIXMAP_BASE + slot * PAGE_SIZE;
        // SAFETY: `map_page` mapped a table there, for good.
        Some(unsafe { &*(at as *const Table) })
    }

    fn take_fixmap(&mut self, pages: usize) -> Result<usize, MapError> {
        let first = self.next_fixmap;
        if first + pages > ENTRIES {
            return Err(MapError::NoSpace);
        }
        self.next_fixmap += pages;
        Ok(first)
    }

    /// Maps `pages` pages of device registers for good; returns the virtual address of `at`.
    ///
    /// # Errors
    /// When the fixmap is full.
    pub fn map_device(&mut self, at: HostPhys, pages: usize) -> Result<usize, MapError> {
        let first = self.take_fixmap(pages)?;
        for (i, entry) in self.fixmap[first..first + pages].iter().enumerate() {
            let pa = (at.raw() & !0xfff) + (i * PAGE_SIZE) as u64;
            publish(entry, pa | VALID_PAGE | Access::Device.bits());
        }
        Ok(FIXMAP_BASE + first * PAGE_SIZE + at.page_offset())
    }

    /// Shows `body` the `len` bytes from `from`, at most 2 MiB, through the device tree's window, which is closed again.
    ///
    /// # Safety
    /// Nothing writes to the bytes meanwhile; where there is no RAM, reading has no effect that matters.
    pub unsafe fn with_bytes<R>(
        &mut self,
        from: HostPhys,
        len: usize,
        body: impl FnOnce(&[u8]) -> R,
    ) -> R {
        let offset = (from.raw() & 0x1f_ffff) as usize;
        let blocks = (offset + len).div_ceil(0x20_0000);
        assert!(blocks <= (FDT_END - FDT_BASE) >> 21, "the window's size");
        for i in 0..blocks {
            let pa = (from.raw() & !0x1f_ffff) + ((i as u64) << 21);
            publish(
                &self.level2[(FDT_BASE >> 21) + i],
                pa | VALID_BLOCK | Access::ReadOnly.bits(),
            );
            flush_page(FDT_BASE + (i << 21));
        }
        // SAFETY: Mapped just above; by the contract nothing changes them while `body` runs, which cannot keep them.
        let result =
            body(unsafe { core::slice::from_raw_parts((FDT_BASE + offset) as *const u8, len) });
        for i in 0..blocks {
            publish(&self.level2[(FDT_BASE >> 21) + i], 0);
            flush_page(FDT_BASE + (i << 21));
        }
        result
    }

    /// Maps one page at `va` (heap, frame table or vmap range); `frame` gives a frame for a table where one is missing.
    ///
    /// # Errors
    /// When no frame can be had, or the fixmap is full.
    pub fn map_page(
        &mut self,
        va: usize,
        mfn: Mfn,
        access: Access,
        frame: &mut dyn FnMut() -> Option<Mfn>,
    ) -> Result<(), MapError> {
        let index = va >> 21;
        let table = match self.level3(index) {
            Some(table) => table,
            None => {
                let (at, pa) = self.add_table(frame)?;
                publish(&self.level2[index], pa | 0x3);
                self.level3[index] = ((at - FIXMAP_BASE) / PAGE_SIZE) as u16;
                // SAFETY: `add_table` mapped it there, for good.
                unsafe { &*(at as *const Table) }
            }
        };
        publish(
            &table[(va >> 12) & 511],
            mfn.address().raw() | VALID_PAGE | access.bits(),
        );
        Ok(())
    }

    /// Gives out `bytes` of the heap's range of addresses, aligned to `align` (a power of two); nothing is mapped there.
    pub fn reserve_heap(&mut self, bytes: usize, align: usize) -> Option<usize> {
        let start = self.next_heap.checked_next_multiple_of(align)?;
        let end = start.checked_add(bytes).filter(|&end| end <= HEAP_END)?;
        self.next_heap = end;
        Some(start)
    }

    /// Takes back the addresses from `start` to `end` of a reservation that ended at `end`, if it was the last one.
    pub fn shrink_heap(&mut self, start: usize, end: usize) {
        if self.next_heap == end {
            self.next_heap = start;
        }
    }

    /// Makes windows for CPU `cpu`, where it has none yet.
    ///
    /// # Errors
    /// When no frame can be had, or the fixmap is full.
    pub fn make_windows(
        &mut self,
        cpu: usize,
        frame: &mut dyn FnMut() -> Option<Mfn>,
    ) -> Result<(), MapError> {
        if MAX_CPUS <= FIXMAP_CPUS || cpu < FIXMAP_CPUS || MORE_WINDOWS.load(Ordering::Relaxed) != 0
        {
            return Ok(());
        }
        let (at, pa) = self.add_table(frame)?;
        publish(&self.level2[MORE_WINDOWS_BASE >> 21], pa | 0x3);
        MORE_WINDOWS.store(at, Ordering::Release);
        Ok(())
    }

    /// Maps a new level-3 table into the fixmap, without entries; returns where, and its physical address.
    fn add_table(
        &mut self,
        frame: &mut dyn FnMut() -> Option<Mfn>,
    ) -> Result<(usize, u64), MapError> {
        // Only what can be used is taken: a guest may come here as often as it likes while memory is out.
        if self.next_fixmap >= ENTRIES {
            return Err(MapError::NoSpace);
        }
        let table_mfn = frame().ok_or(MapError::NoMemory)?;
        let slot = self.take_fixmap(1)?;
        let pa = table_mfn.address().raw();
        publish(
            &self.fixmap[slot],
            pa | VALID_PAGE | Access::ReadWrite.bits(),
        );
        let at = FIXMAP_BASE + slot * PAGE_SIZE;
        // SAFETY: The frame was just given to us and is mapped here for good; nobody else refers to it.
        let table = unsafe { &*(at as *const Table) };
        for entry in table {
            entry.store(0, Ordering::Relaxed);
        }
        Ok((at, pa))
    }

    /// Maps the stack of secondary CPU `cpu` and returns its top.
    ///
    /// # Errors
    /// When no frame can be had, or the fixmap is full.
    pub fn map_stack(
        &mut self,
        cpu: usize,
        frame: &mut dyn FnMut() -> Option<Mfn>,
    ) -> Result<usize, MapError> {
        if cpu >= (FRAME_TABLE_BASE - STACKS_BASE) / STACK_STRIDE {
            return Err(MapError::NoSpace);
        }
        let top = STACKS_BASE + (cpu + 1) * STACK_STRIDE;
        for va in (top - STACK_BYTES..top).step_by(PAGE_SIZE) {
            let mfn = frame().ok_or(MapError::NoMemory)?;
            self.map_page(va, mfn, Access::ReadWrite, frame)?;
        }
        Ok(top)
    }

    /// Opens, or closes, the way by which head.S brings secondary CPUs from the physical to the linked address: the image's
    /// text once more, read-only, in a GiB that is otherwise empty. `image` is the image's physical address.
    pub fn open_secondary_path(&mut self, image: HostPhys, open: bool) {
        // As head.S chooses it.
        let gib = if image.raw() >> 30 == 1 { 2 } else { 1 };
        let tables = core::ptr::from_ref(self.level1) as usize - super::boot::image_start();
        let temporary_level2 = image.raw() + tables as u64 + 0x5000;
        publish(
            &self.level1[gib],
            if open { temporary_level2 | 3 } else { 0 },
        );
        if !open {
            // SAFETY: TLB maintenance of the hypervisor's own address space.
            unsafe { tlb::hyp_all() };
            sysreg::dsb_ish();
            sysreg::isb();
        }
    }

    /// Maps a page that is shared with a guest; `owner` is told when the last handle to it is gone.
    ///
    /// # Errors
    /// When no memory, no frame for a table or no address is left.
    pub fn map_shared(
        &mut self,
        mfn: Mfn,
        owner: &'static dyn Unmap,
        frame: &mut dyn FnMut() -> Option<Mfn>,
    ) -> Result<MappedPage, MapError> {
        let slot = self.shared.take(owner).ok_or(MapError::NoSpace)?;
        if let Err(error) = self.map_page(slot.address(), mfn, Access::ReadWrite, frame) {
            self.shared.put(slot);
            return Err(error);
        }
        // SAFETY: Just mapped read-write, and the slot is given to nobody else until `owner` gives it back to
        // `unmap_shared`; the caller holds a reference to the frame.
        Ok(unsafe { slot.into_page(mfn) })
    }

    /// Removes a mapping that `map_shared` made; returns the frame, whose reference is the caller's again.
    pub fn unmap_shared(&mut self, mapping: FreeSlot) -> Mfn {
        let (va, mfn) = (mapping.address(), mapping.mfn());
        if let Some(table) = self.level3(va >> 21) {
            publish(&table[(va >> 12) & 511], 0);
            flush_page(va);
        }
        self.shared.put(mapping);
        mfn
    }
}

/// One CPU's windows onto pages that are not mapped otherwise. A window keeps its last page mapped, so that repeated use of
/// a page costs nothing.
pub struct PageWindows {
    entries: &'static [AtomicU64],
    base: usize,
    mapped: [Option<Mfn>; WINDOWS_PER_CPU],
}

impl PageWindows {
    /// Takes the windows of CPU `cpu`.
    ///
    /// # Safety
    /// `tables` as for [`HypTables::take`]; called once for each CPU, whose use alone they are.
    ///
    /// # Panics
    /// [`HypTables::make_windows`] was not called for the CPU.
    pub unsafe fn take(tables: usize, cpu: usize) -> Self {
        let (table, base, cpu) = if MAX_CPUS <= FIXMAP_CPUS || cpu < FIXMAP_CPUS {
            (tables + 0x3000, FIXMAP_BASE, cpu)
        } else {
            let more = MORE_WINDOWS.load(Ordering::Acquire);
            assert!(
                more != 0,
                "the windows of CPU {cpu} are made before it starts"
            );
            (more, MORE_WINDOWS_BASE, cpu - FIXMAP_CPUS)
        };
        let first = cpu * WINDOWS_PER_CPU;
        // SAFETY: The fixmap's table, of which `HypTables` never touches the first WINDOW_PAGES entries, or the one that
        // `make_windows` made for windows only.
        let table = unsafe { &*(table as *const Table) };
        Self {
            entries: &table[first..first + WINDOWS_PER_CPU],
            base: base + first * PAGE_SIZE,
            mapped: [None; WINDOWS_PER_CPU],
        }
    }

    /// Makes `mfn` visible and returns where. The address is good until another page with the same low frame-number bits
    /// is mapped, so a caller uses it at once.
    #[inline]
    pub fn map(&mut self, mfn: Mfn) -> NonNull<u8> {
        self.map_at(mfn.raw() as usize % WINDOWS_PER_CPU, mfn)
    }

    /// Makes two frames visible at the same time, as [`Self::map`] does one.
    pub fn map_two(&mut self, a: Mfn, b: Mfn) -> (NonNull<u8>, NonNull<u8>) {
        let (slot, mut other) = (
            a.raw() as usize % WINDOWS_PER_CPU,
            b.raw() as usize % WINDOWS_PER_CPU,
        );
        if slot == other && a != b {
            // A neighbour's window: whoever wants that finds that another frame is there.
            other = (other + 1) % WINDOWS_PER_CPU;
        }
        (self.map_at(slot, a), self.map_at(other, b))
    }

    #[inline]
    fn map_at(&mut self, slot: usize, mfn: Mfn) -> NonNull<u8> {
        let va = self.base + slot * PAGE_SIZE;
        if self.mapped[slot] != Some(mfn) {
            self.mapped[slot] = Some(mfn);
            self.entries[slot].store(0, Ordering::Relaxed);
            sysreg::dsb_ish();
            // SAFETY: TLB maintenance of a window of this CPU.
            unsafe { tlb::hyp_page_here(va) };
            sysreg::dsb();
            let pte = mfn.address().raw() | VALID_PAGE | Access::ReadWrite.bits();
            publish(&self.entries[slot], pte);
        }
        NonNull::new(va as *mut u8).expect("a window's address is not null")
    }
}
