//! Reaching guest memory: the guest's own translation, a window, volatile bytes. Never a reference.

use core::cell::RefCell;
use core::ptr::NonNull;

use xenith_core::addr::{CpuId, GuestVirt, HostPhys, Mfn, PAGE_SIZE};
use xenith_core::machine::{Fault, GuestMemory, HoldRam};

use super::mmu::PageWindows;
use crate::imp::{copy_blocks, cpu_local, set_cpu_local, translate, zero_page};

/// Copies bytes out of a mapped page, each byte or word read once.
///
/// # Safety
/// `from` is the start of a mapped page and `offset + buf.len()` is at most a page.
#[inline]
unsafe fn copy_out(from: NonNull<u8>, offset: usize, buf: &mut [u8]) {
    // SAFETY: In bounds by the contract; volatile because a guest may change the bytes at the same time. Words are used
    // only where both sides are aligned for them.
    unsafe {
        let mut source = from.as_ptr().add(offset);
        let mut target = buf.as_mut_ptr();
        let mut left = buf.len();
        if (source as usize | target as usize).is_multiple_of(4) {
            while left >= 4 {
                target
                    .cast::<u32>()
                    .write(source.cast::<u32>().read_volatile());
                source = source.add(4);
                target = target.add(4);
                left -= 4;
            }
        }
        while left > 0 {
            target.write(source.read_volatile());
            source = source.add(1);
            target = target.add(1);
            left -= 1;
        }
    }
}

/// Copies bytes into a mapped page.
///
/// # Safety
/// `to` is the start of a page mapped for writing and `offset + buf.len()` is at most a page.
#[inline]
unsafe fn copy_in(to: NonNull<u8>, offset: usize, buf: &[u8]) {
    // SAFETY: As in `copy_out`, the other way.
    unsafe {
        let mut target = to.as_ptr().add(offset);
        let mut source = buf.as_ptr();
        let mut left = buf.len();
        if (source as usize | target as usize).is_multiple_of(4) {
            while left >= 4 {
                target
                    .cast::<u32>()
                    .write_volatile(source.cast::<u32>().read());
                source = source.add(4);
                target = target.add(4);
                left -= 4;
            }
        }
        while left > 0 {
            target.write_volatile(source.read());
            source = source.add(1);
            target = target.add(1);
            left -= 1;
        }
    }
}

/// Copies bytes between two mapped pages, each byte or word read once.
///
/// # Safety
/// Both pointers are good for `left` bytes of mapped pages, which do not overlap.
unsafe fn copy_between(mut source: *const u8, mut target: *mut u8, mut left: usize) {
    // SAFETY: In bounds by the contract; volatile, or instructions of our own, because a guest may change the bytes at the
    // same time. Words are used only where both sides are aligned for them.
    unsafe {
        let is_alike = (source as usize ^ target as usize).is_multiple_of(4);
        while left > 0 && !(is_alike && (source as usize).is_multiple_of(4) && left >= 4) {
            target.write_volatile(source.read_volatile());
            source = source.add(1);
            target = target.add(1);
            left -= 1;
        }
        let blocks = left / 32;
        left %= 32;
        if blocks > 0 {
            (source, target) = copy_blocks(source, target, blocks);
        }
        while left >= 4 {
            target
                .cast::<u32>()
                .write_volatile(source.cast::<u32>().read_volatile());
            source = source.add(4);
            target = target.add(4);
            left -= 4;
        }
        while left > 0 {
            target.write_volatile(source.read_volatile());
            source = source.add(1);
            target = target.add(1);
            left -= 1;
        }
    }
}

/// What only one CPU uses. HTPIDR or TPIDR_EL2 holds its address.
pub struct CpuLocal {
    cpu: CpuId,
    windows: RefCell<PageWindows>,
}

impl CpuLocal {
    /// Makes this CPU `cpu`, and `windows` its own, for good.
    pub fn install(cpu: CpuId, windows: PageWindows) {
        let local: &'static CpuLocal = alloc::boxed::Box::leak(alloc::boxed::Box::new(Self {
            cpu,
            windows: RefCell::new(windows),
        }));
        // SAFETY: The register is the hypervisor's own scratch register; only `PhysMemory` reads it.
        unsafe { set_cpu_local(core::ptr::from_ref(local) as usize) };
    }
}

/// Returns which CPU this is; before [`CpuLocal::install`], the boot CPU.
#[inline]
pub fn this_cpu() -> CpuId {
    let local = cpu_local() as *const CpuLocal;
    if local.is_null() {
        return CpuId::new(0);
    }
    // SAFETY: Not null is what `install` wrote on this CPU, which is never freed.
    unsafe { (*local).cpu }
}

/// Physical memory through this CPU's windows. The caller answers for owning the frames.
///
/// A token without data, so that whoever walks tables can hold one on every CPU. [`CpuLocal::install`] comes first.
#[derive(Clone, Copy)]
pub struct PhysMemory(());

impl PhysMemory {
    /// Returns the token.
    ///
    /// # Safety
    /// [`CpuLocal::install`] was called on every CPU that will use it.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    #[inline(never)]
    fn window(&self, mfn: Mfn) -> NonNull<u8> {
        self.local().windows.borrow_mut().map(mfn)
    }

    #[inline]
    fn local(&self) -> &'static CpuLocal {
        // SAFETY: By `new`'s contract the register names this CPU's `CpuLocal`, which is never freed; other CPUs have their own,
        // and interrupts are masked, so a borrow of its windows cannot overlap another.
        unsafe { &*(cpu_local() as *const CpuLocal) }
    }

    /// Copies `length` bytes between two places that do not overlap, each within a page.
    ///
    /// # Errors
    /// [`Fault`] when they are not, or are beyond the physical address space.
    pub fn copy(&self, from: HostPhys, to: HostPhys, length: usize) -> Result<(), Fault> {
        let (source, target) = (from.page_offset(), to.page_offset());
        if length > PAGE_SIZE || source.max(target) + length > PAGE_SIZE {
            return Err(Fault);
        }
        let (a, b) = (from.frame().ok_or(Fault)?, to.frame().ok_or(Fault)?);
        if a == b && source.abs_diff(target) < length {
            return Err(Fault);
        }
        let (a, b) = self.local().windows.borrow_mut().map_two(a, b);
        // SAFETY: Whole pages are mapped there, at the same time; both ranges end within theirs and do not overlap.
        unsafe { copy_between(a.as_ptr().add(source), b.as_ptr().add(target), length) };
        Ok(())
    }

    /// Runs `f` on the page's 64-bit entries: a translation table.
    #[inline]
    pub fn with_table<R>(
        &self,
        mfn: Mfn,
        f: impl FnOnce(&[core::sync::atomic::AtomicU64; 512]) -> R,
    ) -> R {
        let at = self.window(mfn);
        // SAFETY: A mapped page, aligned, only accessed through atomics while `f` runs. `f` of a table walk maps no other
        // page: if it did and evicted this one, it would see another page's words, not unmapped memory.
        f(unsafe { at.cast().as_ref() })
    }

    /// Reads bytes at a physical address.
    pub fn read(&self, from: HostPhys, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let at = from.checked_add(done as u64).ok_or(Fault)?;
            let n = (PAGE_SIZE - at.page_offset()).min(buf.len() - done);
            let page = self.window(at.frame().ok_or(Fault)?);
            // SAFETY: A whole page is mapped there and `n` ends within it.
            unsafe { copy_out(page, at.page_offset(), &mut buf[done..done + n]) };
            done += n;
        }
        Ok(())
    }

    /// Writes bytes at a physical address. Where `clean` is set they go to memory and leave the cache: a guest that starts
    /// with its caches off must see them, and must not find them again after it wrote past the cache.
    pub fn write(&self, to: HostPhys, buf: &[u8], clean: bool) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let at = to.checked_add(done as u64).ok_or(Fault)?;
            let n = (PAGE_SIZE - at.page_offset()).min(buf.len() - done);
            let page = self.window(at.frame().ok_or(Fault)?);
            // SAFETY: A whole page is mapped there and `n` ends within it.
            unsafe { copy_in(page, at.page_offset(), &buf[done..done + n]) };
            if clean {
                super::cache::clean_invalidate_range(page.as_ptr() as usize + at.page_offset(), n);
            }
            done += n;
        }
        Ok(())
    }

    /// Zeroes a frame.
    pub fn zero(&self, mfn: Mfn) {
        let page = self.window(mfn);
        // SAFETY: A whole page is mapped there, and the frame is no guest's while it is scrubbed.
        unsafe { zero_page(page) };
        // The next owner may use the frame with caches off (XSA-364), and must not find our zeroes again later.
        super::cache::clean_invalidate_range(page.as_ptr() as usize, PAGE_SIZE);
    }

    /// Cleans and invalidates a frame's cache lines.
    pub fn flush(&self, mfn: Mfn) {
        let page = self.window(mfn);
        super::cache::clean_invalidate_range(page.as_ptr() as usize, PAGE_SIZE);
    }
}

/// The memory of the guest that runs on this CPU, for hypercall arguments.
pub struct GuestSpace<R: HoldRam, S: Fn()> {
    /// Access to physical memory.
    pub memory: PhysMemory,
    /// The RAM of the calling domain.
    pub ram: R,
    /// Waits until nobody is changing the domain's stage 2: a fault may be that of an entry between break and make.
    pub settle: S,
}

impl<R: HoldRam, S: Fn()> GuestSpace<R, S> {
    /// Runs `f` on the page at `va` if the guest's privileged code could access it so and it is the domain's RAM, which it
    /// stays meanwhile.
    #[inline]
    fn with_page(&self, va: usize, write: bool, f: impl FnOnce(NonNull<u8>)) -> Result<(), Fault> {
        let at = translate(va, write).or_else(|Fault| {
            (self.settle)();
            translate(va, write)
        })?;
        let mfn = at.frame().ok_or(Fault)?;
        if !self.ram.hold(mfn) {
            return Err(Fault);
        }
        f(self.memory.window(mfn));
        self.ram.release(mfn);
        Ok(())
    }
}

/// Returns the range's first address, and how much of it lies in the first page.
#[inline]
fn first_part(at: GuestVirt, len: usize) -> Result<(usize, usize), Fault> {
    let va = usize::try_from(at.raw()).map_err(|_| Fault)?;
    // A range that wraps around the end of the address space is no guest's buffer.
    va.checked_add(len.saturating_sub(1)).ok_or(Fault)?;
    Ok((va, (PAGE_SIZE - (va & (PAGE_SIZE - 1))).min(len)))
}

impl<R: HoldRam, S: Fn()> GuestMemory for GuestSpace<R, S> {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        let (mut va, mut part) = first_part(from, buf.len())?;
        let mut rest = buf;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut_checked(part).ok_or(Fault)?;
            self.with_page(va, false, |page| {
                // SAFETY: A whole page is mapped there; `first_part` and the loop keep each part within its page.
                unsafe { copy_out(page, va & (PAGE_SIZE - 1), now) }
            })?;
            rest = later;
            va = va.wrapping_add(part);
            part = rest.len().min(PAGE_SIZE);
        }
        Ok(())
    }

    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
        let (mut va, mut part) = first_part(to, buf.len())?;
        let mut rest = buf;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_checked(part).ok_or(Fault)?;
            self.with_page(va, true, |page| {
                // SAFETY: As in `read`.
                unsafe { copy_in(page, va & (PAGE_SIZE - 1), now) }
            })?;
            rest = later;
            va = va.wrapping_add(part);
            part = rest.len().min(PAGE_SIZE);
        }
        Ok(())
    }
}
