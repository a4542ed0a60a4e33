//! Interrupts and faults: what start.S calls, and what is common of what the architectures do with a fault.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use crate::gic;

pub use crate::arch::fault::{FAULT_PROLOGUE, IRQ_PROLOGUE, try_read, try_write};

/// Instructions (0 to 15) that the IRQ entry waits before it takes the time.
#[unsafe(no_mangle)]
pub static IRQ_DELAY: AtomicU32 = AtomicU32::new(0);

/// What is called for an interrupt: INTID and virtual counter at entry. It must make a level-triggered source go low.
pub type IrqHook = fn(u32, u64);

static HOOK: AtomicUsize = AtomicUsize::new(0);
/// Interrupts taken, by INTID (SGIs and PPIs).
static TAKEN: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
/// Spurious interrupts taken.
static SPURIOUS: AtomicU32 = AtomicU32::new(0);

/// Sets what is called for every interrupt between acknowledge and end.
pub fn set_irq_hook(hook: IrqHook) {
    HOOK.store(hook as usize, Relaxed);
}

/// How often an SGI or PPI came.
pub fn taken(intid: u32) -> u32 {
    TAKEN.get(intid as usize).map_or(0, |n| n.load(Relaxed))
}

/// How often an acknowledge gave nothing.
pub fn spurious() -> u32 {
    SPURIOUS.load(Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn guest_irq(time: u64) {
    let iar = gic::acknowledge();
    let intid = iar & 0x3ff;
    if intid >= 1020 {
        SPURIOUS.store(SPURIOUS.load(Relaxed) + 1, Relaxed);
        return;
    }
    if let Some(n) = TAKEN.get(intid as usize) {
        n.store(n.load(Relaxed) + 1, Relaxed);
    }
    let hook = HOOK.load(Relaxed);
    if hook != 0 {
        // SAFETY: only `set_irq_hook` writes it, with a function of this type.
        let hook: IrqHook = unsafe { core::mem::transmute(hook) };
        hook(intid, time);
    }
    gic::end(iar);
}

/// Kind of a fault: none of the others.
pub const OTHER: u32 = 0;
/// Kind of a fault: undefined instruction.
pub const UNDEFINED: u32 = 1;
/// Kind of a fault: supervisor call.
pub const SUPERVISOR: u32 = 2;
/// Kind of a fault: prefetch abort.
pub const PREFETCH_ABORT: u32 = 3;
/// Kind of a fault: data abort.
pub const DATA_ABORT: u32 = 4;

/// A fault that was expected.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// [`UNDEFINED`] and so on.
    pub kind: u32,
    /// Fault status (DFSR, IFSR; on AArch64 ESR).
    pub status: u32,
    /// Fault address.
    pub address: usize,
    /// Link register of the exception's mode (on AArch64 ELR).
    pub link: usize,
    /// Virtual counter at entry.
    pub time: u64,
}

/// One processor, and faults are synchronous: nothing else is in here while one is handled.
struct Expected {
    recover: AtomicUsize,
    fault: Cell<Option<Fault>>,
}

// SAFETY: the guest runs on one processor and interrupt handlers do not touch it.
unsafe impl Sync for Expected {}

static EXPECTED: Expected = Expected {
    recover: AtomicUsize::new(0),
    fault: Cell::new(None),
};

/// Where a fault goes on, instead of being fatal; for [`crate::probe`].
#[doc(hidden)]
pub fn recover_slot() -> *mut usize {
    EXPECTED.recover.as_ptr()
}

/// Ends a [`crate::probe`]: the fault, if there was one.
#[doc(hidden)]
pub fn take_fault() -> Option<Fault> {
    EXPECTED.recover.store(0, Relaxed);
    EXPECTED.fault.take()
}

/// Notes a fault that a [`crate::probe`] waits for and returns where to go on; a fault that nobody expects is the end.
pub(crate) fn expected(fault: Fault, frame: &dyn core::fmt::Debug) -> usize {
    let recover = EXPECTED.recover.swap(0, Relaxed);
    if recover != 0 {
        EXPECTED.fault.set(Some(fault));
        return recover;
    }
    let names = [
        "?",
        "undefined instruction",
        "supervisor call",
        "prefetch abort",
        "data abort",
    ];
    let name = names.get(fault.kind as usize).unwrap_or(&"?");
    panic!("{name}: {fault:x?} {frame:x?}");
}
