//! ARMv7-A with the Virtualization Extensions.

pub mod cache;
pub mod context;
pub mod gicv2;
pub mod guest_memory;
pub mod mmu;
pub mod monitor;
pub mod setup;
pub mod sysreg;
pub mod timer;

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use xenith_core::addr::HostPhys;

pub use context::{GuestFrame, SavedContext};
pub use mmu::{HypTables, PageWindows};
pub use monitor::Monitor;

global_asm!(include_str!("head.S"), options(raw));
global_asm!(include_str!("vectors.S"), options(raw));

/// Returns start and length of the memory that the image brings for the first heap; for its user alone.
pub fn early_heap() -> (usize, usize) {
    let start = &raw const __early_heap as usize;
    (start, &raw const __early_heap_end as usize - start)
}

/// Why `enter_guest` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// A trap to Hyp mode: HSR says which.
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
    #[link_name = "smc32"]
    fn smc32_asm(function: u32, a: u32, b: u32, c: u32) -> u32;
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
    fn xenith_not_hyp(dtb: &'static [u8], cpsr: u32) -> !;
    /// The binary's report of a fault of our own.
    fn xenith_hyp_fault(what: &str, registers: &FaultRegisters) -> !;
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

/// Calls into the firmware, following the SMC Calling Convention, by way of the `smccc` crate's functions. Ours because
/// `smccc::Smc` writes the instruction as an A32 word, whatever the instruction set.
pub struct Firmware;

impl smccc::Call for Firmware {
    fn call32(function: u32, args: [u32; 7]) -> [u32; 8] {
        // SAFETY: Firmware keeps to the calling convention and leaves our memory alone.
        let result = unsafe { smc32_asm(function, args[0], args[1], args[2]) };
        [result, 0, 0, 0, 0, 0, 0, 0]
    }

    fn call64(_function: u32, _args: [u64; 17]) -> [u64; 18] {
        unreachable!("there is no SMC64 in AArch32")
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
extern "C" fn arch_start(dtb: u32, image: u32, was_secure: u32) -> ! {
    let size = (&raw const _end as usize) - (&raw const _start as usize);
    let tables = &raw const __boot_tables as usize;
    // SAFETY: head.S mapped the boot tables read-write and calls this function once.
    let (tables, windows) = unsafe { (HypTables::take(tables), PageWindows::take(tables, 0)) };
    let boot = Boot {
        dtb: HostPhys::new(u64::from(dtb)),
        image_start: HostPhys::new(u64::from(image)),
        image_end: HostPhys::new(u64::from(image) + size as u64),
        tables,
        windows,
        // SAFETY: head.S's word for it.
        monitor: (was_secure == 1).then(|| unsafe { Monitor::new() }),
    };
    // SAFETY: Called once, with the MMU on and the stack set.
    unsafe { xenith_main(boot) }
}

/// The top of the stack of the secondary CPU that starts next; head.S reads it.
#[unsafe(no_mangle)]
static SECONDARY_STACK: AtomicU32 = AtomicU32::new(0);

/// Says on which stack the next secondary CPU starts: one at a time.
pub fn set_secondary_stack(top: usize) {
    SECONDARY_STACK.store(top as u32, Ordering::Release);
    sysreg::dsb();
}

/// Returns where a secondary CPU of the image at `image` starts: Hyp mode or Secure state, MMU off.
pub fn secondary_entry(image: HostPhys) -> HostPhys {
    HostPhys::new(image.raw() + (&raw const secondary_start as usize - image_start()) as u64)
}

/// Returns the image's linked address.
fn image_start() -> usize {
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
extern "C" fn arch_secondary_start(was_secure: u32) -> ! {
    // SAFETY: head.S calls this once on each secondary CPU, with the MMU on and its own stack; its word for the rest.
    unsafe { xenith_secondary_main((was_secure == 1).then(|| Monitor::new())) }
}

#[unsafe(no_mangle)]
extern "C" fn arch_not_hyp(dtb: u32, _image: u32) -> ! {
    let cpsr: u32;
    // SAFETY: Reads the mode we run in.
    unsafe { core::arch::asm!("mrs {}, cpsr", out(reg) cpsr, options(nomem, nostack)) };
    // head.S mapped all of memory flat; a device tree is at most 2 MiB. If there is none, the magic will be wrong.
    let dtb: &[u8] = if dtb == 0 {
        &[]
    } else {
        let len = (u32::MAX - dtb).min(0x20_0000) as usize;
        // SAFETY: As above; not null, and not beyond the end of the address space.
        unsafe { core::slice::from_raw_parts(dtb as *const u8, len) }
    };
    // SAFETY: Does not return.
    unsafe { xenith_not_hyp(dtb, cpsr) }
}

/// The registers at a fault of the hypervisor's own; vectors.S knows the layout.
#[repr(C)]
pub struct FaultRegisters {
    /// r0–r12.
    pub r: [u32; 13],
    /// The stack pointer before the fault.
    pub sp: u32,
    /// LR.
    pub lr: u32,
    /// The faulting instruction.
    pub pc: u32,
    /// CPSR at the fault.
    pub cpsr: u32,
    _pad: u32,
}

#[unsafe(no_mangle)]
extern "C" fn arch_hyp_fault(registers: &FaultRegisters, kind: u32) -> ! {
    let what = match kind {
        0 => "reset",
        1 => "undefined instruction",
        2 => "supervisor call",
        3 => "prefetch abort",
        5 => "stack overflow",
        _ => "data abort",
    };
    // SAFETY: Does not return.
    unsafe { xenith_hyp_fault(what, registers) }
}

/// Calls `each` with the return addresses of the callers of the frame that `fp` names (the build keeps frame pointers),
/// innermost first. Bounded, and never reads outside the boot stack.
pub fn backtrace(fp: u32, mut each: impl FnMut(u32)) {
    let top = &raw const __stack_top as usize;
    let text = (&raw const _start as usize)..(&raw const __text_end as usize);
    let mut fp = fp as usize;
    for _ in 0..32 {
        if !fp.is_multiple_of(4) || fp < top - 32768 || fp + 8 > top {
            return;
        }
        // SAFETY: Two aligned words of the stack.
        let (next, lr) = unsafe { (*(fp as *const u32), *((fp + 4) as *const u32)) };
        // Bit 0 says Thumb.
        let lr = lr & !1;
        if !text.contains(&(lr as usize)) {
            return;
        }
        each(lr);
        if next as usize <= fp {
            return;
        }
        fp = next as usize;
    }
}

/// The general register that is the frame pointer: r7 in Thumb code, r11 in Arm code.
const FRAME_POINTER: usize = if cfg!(xenith_thumb) { 7 } else { 11 };

impl FaultRegisters {
    /// Returns the frame pointer at the fault.
    pub fn frame_pointer(&self) -> u32 {
        self.r[FRAME_POINTER]
    }
}

/// Returns the frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> u32 {
    let fp: u32;
    // SAFETY: Reads a register.
    unsafe {
        core::arch::asm!("mov {}, r{n}", out(reg) fp, n = const FRAME_POINTER, options(nomem, nostack, preserves_flags))
    };
    fp
}

/// Returns words of zeroed memory that the boot code mapped for a table.
///
/// # Safety
/// `at` is 8-byte aligned; `words` 64-bit words there are mapped read-write, and belong to the caller for ever.
pub unsafe fn mapped_table(at: usize, words: usize) -> &'static [core::sync::atomic::AtomicU64] {
    // SAFETY: By the contract.
    unsafe {
        core::ptr::write_bytes(at as *mut u64, 0, words);
        core::slice::from_raw_parts(at as *const core::sync::atomic::AtomicU64, words)
    }
}

/// Volatile access to a device's registers, for the drivers of `xenith-platforms`.
pub struct DeviceRegisters {
    base: usize,
    len: usize,
}

impl DeviceRegisters {
    /// Wraps `len` bytes of device registers at `base`.
    ///
    /// # Safety
    /// The range is mapped as device memory for ever and used by no other driver.
    pub unsafe fn new(base: usize, len: usize) -> Self {
        Self { base, len }
    }

    /// Reads the 32-bit register at `offset`; out of range reads as 0.
    pub fn read32(&self, offset: usize) -> u32 {
        if !offset.is_multiple_of(4) || offset + 4 > self.len {
            return 0;
        }
        // SAFETY: In the range of `new`'s contract.
        unsafe { ((self.base + offset) as *const u32).read_volatile() }
    }

    /// Writes the 32-bit register at `offset`; out of range does nothing.
    pub fn write32(&self, offset: usize, value: u32) {
        if offset.is_multiple_of(4) && offset + 4 <= self.len {
            // SAFETY: In the range of `new`'s contract.
            unsafe { ((self.base + offset) as *mut u32).write_volatile(value) }
        }
    }

    /// Reads the byte register at `offset`; out of range reads as 0.
    pub fn read8(&self, offset: usize) -> u8 {
        if offset >= self.len {
            return 0;
        }
        // SAFETY: In the range of `new`'s contract.
        unsafe { ((self.base + offset) as *const u8).read_volatile() }
    }

    /// Writes the byte register at `offset`; out of range does nothing.
    pub fn write8(&self, offset: usize, value: u8) {
        if offset < self.len {
            // SAFETY: In the range of `new`'s contract.
            unsafe { ((self.base + offset) as *mut u8).write_volatile(value) }
        }
    }
}
