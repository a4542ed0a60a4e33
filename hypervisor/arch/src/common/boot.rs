//! What the assembly calls and is called by: entry, secondary CPUs, guests, the call trace.

use core::sync::atomic::{AtomicUsize, Ordering};

use xenith_core::addr::HostPhys;

use super::mmu::{HypTables, PageWindows};
use crate::imp::{GuestFrame, Monitor, STACK_BYTES, current_mode, sysreg};

/// Returns start and length of the memory that the image brings for the first heap; for its user alone.
pub fn early_heap() -> (usize, usize) {
    let start = &raw const __early_heap as usize;
    (start, &raw const __early_heap_end as usize - start)
}

/// Why `enter_guest` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// A trap to the hypervisor: the syndrome register says which.
    Trap,
    /// A physical IRQ.
    Irq,
    /// A physical FIQ.
    Fiq,
    /// An asynchronous abort that the guest caused (XSA-201).
    AsyncAbort,
}

unsafe extern "C" {
    #[link_name = "enter_guest"]
    fn enter_guest_asm(frame: *mut GuestFrame) -> u32;
    static _start: u8;
    static _end: u8;
    static __text_end: u8;
    static __boot_tables: u8;
    static __stack_top: u8;
    static secondary_start: u8;
    static __early_heap: u8;
    static __early_heap_end: u8;
}

unsafe extern "Rust" {
    /// The binary's main function.
    fn xenith_main(boot: Boot) -> !;
    /// The binary's main function of a secondary CPU.
    fn xenith_secondary_main(monitor: Option<Monitor>) -> !;
    /// The binary's report for an entry in the wrong mode.
    fn xenith_not_hyp(dtb: &'static [u8], mode: u32) -> !;
}

/// Runs the guest whose registers `frame` holds until it traps.
///
/// # Safety
/// The vCPU's saved context and its domain's stage 2 are live on this CPU, so that the guest reaches only what is its own.
#[inline(always)]
pub unsafe fn enter_guest(frame: &mut GuestFrame) -> ExitKind {
    // SAFETY: `frame` is valid for the call; the assembly writes only within it.
    match unsafe { enter_guest_asm(frame) } {
        0 => ExitKind::Trap,
        1 => ExitKind::Irq,
        2 => ExitKind::Fiq,
        _ => ExitKind::AsyncAbort,
    }
}

/// What the boot loader left us.
pub struct Boot {
    /// The device tree's physical address.
    pub dtb: HostPhys,
    /// The image's first byte in physical memory.
    pub image_start: HostPhys,
    /// The byte after the image and its zero-initialised data.
    pub image_end: HostPhys,
    /// The hypervisor's translation tables.
    pub tables: HypTables,
    /// The boot CPU's windows.
    pub windows: PageWindows,
    /// What answers our SMCs, where the boot loader left Secure state to us.
    pub monitor: Option<Monitor>,
}

#[unsafe(no_mangle)]
extern "C" fn arch_start(dtb: usize, image: usize, was_secure: usize) -> ! {
    let size = (&raw const _end as usize) - (&raw const _start as usize);
    let tables = &raw const __boot_tables as usize;
    // SAFETY: head.S mapped the boot tables read-write and calls this function once.
    let (tables, windows) = unsafe { (HypTables::take(tables), PageWindows::take(tables, 0)) };
    let boot = Boot {
        dtb: HostPhys::new(dtb as u64),
        image_start: HostPhys::new(image as u64),
        image_end: HostPhys::new(image as u64 + size as u64),
        tables,
        windows,
        // SAFETY: head.S's word for it.
        monitor: unsafe { Monitor::of_entry(was_secure) },
    };
    // SAFETY: Called once, with the MMU on and the stack set.
    unsafe { xenith_main(boot) }
}

/// The top of the stack of the secondary CPU that starts next; head.S reads it.
#[unsafe(no_mangle)]
static SECONDARY_STACK: AtomicUsize = AtomicUsize::new(0);

/// The affinity of the CPU that it is for. head.S of arm64 reads it: there, firmware may release several at once.
#[unsafe(no_mangle)]
static SECONDARY_AFFINITY: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Says on which stack the secondary CPU with this affinity starts: one at a time.
pub fn set_secondary_stack(affinity: u32, top: usize) {
    // The one before must not take this stack, however late it comes.
    SECONDARY_AFFINITY.store(usize::MAX, Ordering::SeqCst);
    SECONDARY_STACK.store(top, Ordering::SeqCst);
    SECONDARY_AFFINITY.store(affinity as usize, Ordering::Release);
    sysreg::dsb();
    sysreg::sev();
}

/// Returns where a secondary CPU of the image at `image` starts: in the hypervisor's mode or (arm32) Secure state, MMU off.
pub fn secondary_entry(image: HostPhys) -> HostPhys {
    HostPhys::new(image.raw() + (&raw const secondary_start as usize - image_start()) as u64)
}

/// Returns the image's linked address.
pub(super) fn image_start() -> usize {
    &raw const _start as usize
}

/// Takes the windows of secondary CPU `cpu`.
///
/// # Safety
/// As for [`PageWindows::take`].
pub unsafe fn secondary_windows(cpu: usize) -> PageWindows {
    // SAFETY: The boot tables are head.S's; the rest is the caller's contract.
    unsafe { PageWindows::take(&raw const __boot_tables as usize, cpu) }
}

#[unsafe(no_mangle)]
extern "C" fn arch_secondary_start(was_secure: usize) -> ! {
    // SAFETY: head.S calls this once on each secondary CPU, with the MMU on and its own stack; its word for the rest.
    unsafe { xenith_secondary_main(Monitor::of_entry(was_secure)) }
}

#[unsafe(no_mangle)]
extern "C" fn arch_not_hyp(dtb: usize, _image: usize) -> ! {
    // head.S mapped all of memory flat; a device tree is at most 2 MiB. If there is none, the magic will be wrong.
    let dtb: &[u8] = if dtb == 0 {
        &[]
    } else {
        let len = (usize::MAX - dtb).min(0x20_0000);
        // SAFETY: As above; not null, and not beyond the end of the address space.
        unsafe { core::slice::from_raw_parts(dtb as *const u8, len) }
    };
    // SAFETY: Does not return.
    unsafe { xenith_not_hyp(dtb, current_mode()) }
}

/// Calls `each` with the return addresses of the callers of the frame that `fp` names (the build keeps frame pointers),
/// innermost first. Bounded, and never reads outside the boot stack.
pub fn backtrace(fp: usize, mut each: impl FnMut(usize)) {
    const WORD: usize = size_of::<usize>();
    let top = &raw const __stack_top as usize;
    let text = (&raw const _start as usize)..(&raw const __text_end as usize);
    let mut fp = fp;
    for _ in 0..32 {
        if !fp.is_multiple_of(WORD) || fp < top - STACK_BYTES || fp + 2 * WORD > top {
            return;
        }
        // SAFETY: Two aligned words of the stack.
        let (next, lr) = unsafe { (*(fp as *const usize), *((fp + WORD) as *const usize)) };
        // Bit 0 says Thumb.
        let lr = lr & !1;
        if !text.contains(&lr) {
            return;
        }
        each(lr);
        if next <= fp {
            return;
        }
        fp = next;
    }
}
