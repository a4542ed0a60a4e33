//! Interrupts and faults: what start.S calls.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use crate::{cpu, gic};

/// Instructions from the IRQ vector to the one that takes the time (with [`IRQ_DELAY`] 0).
pub const IRQ_PROLOGUE: u32 = 10;
/// Instructions from another vector to the one that takes the time.
pub const FAULT_PROLOGUE: u32 = 4;

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
extern "C" fn guest_irq(low: u32, high: u32) {
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
        hook(intid, u64::from(high) << 32 | u64::from(low));
    }
    gic::end(iar);
}

/// Registers of the interrupted code, as start.S pushes them.
#[repr(C)]
pub struct Frame {
    /// r0 to r12.
    pub r: [u32; 13],
    /// Link register of SVC mode.
    pub lr: u32,
    /// Link register of the exception's mode; where execution goes on.
    pub pc: u32,
    /// Saved program status.
    pub psr: u32,
}

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
    /// Fault status register.
    pub status: u32,
    /// Fault address.
    pub address: u32,
    /// Link register of the exception's mode.
    pub link: u32,
    /// Virtual counter at entry.
    pub time: u64,
}

/// One processor, and faults are synchronous: nothing else is in here while one is handled.
struct Expected {
    recover: AtomicU32,
    fault: Cell<Option<Fault>>,
}

// SAFETY: the guest runs on one processor and interrupt handlers do not touch it.
unsafe impl Sync for Expected {}

static EXPECTED: Expected = Expected {
    recover: AtomicU32::new(0),
    fault: Cell::new(None),
};

/// Where a fault goes on, instead of being fatal; for [`crate::probe`].
#[doc(hidden)]
pub fn recover_slot() -> *mut u32 {
    EXPECTED.recover.as_ptr()
}

/// Ends a [`crate::probe`]: the fault, if there was one.
#[doc(hidden)]
pub fn take_fault() -> Option<Fault> {
    EXPECTED.recover.store(0, Relaxed);
    EXPECTED.fault.take()
}

/// Executes instructions that may fault, and says whether they did. Operands follow as in `asm!`; the first faulting
/// instruction ends the list.
#[macro_export]
macro_rules! probe {
    ([$($instruction:literal),+] $(, $($operand:tt)+)?) => {{
        // SAFETY: the fault handler only records the fault and goes on at label 77. The caller vouches for the rest.
        unsafe {
            core::arch::asm!(
                "adr r12, 77f",
                "str r12, [r3]",
                $($instruction,)+
                "77:",
                $($($operand)+,)?
                inout("r3") $crate::exceptions::recover_slot() => _,
                out("r12") _,
            );
        }
        $crate::exceptions::take_fault()
    }};
}

#[unsafe(no_mangle)]
extern "C" fn guest_fault(frame: &mut Frame, kind: u32, low: u32, high: u32) {
    let (status, address) = match kind {
        DATA_ABORT => (cpu::dfsr(), cpu::dfar()),
        PREFETCH_ABORT => (cpu::ifsr(), frame.pc.wrapping_sub(4)),
        _ => (0, 0),
    };
    let recover = EXPECTED.recover.swap(0, Relaxed);
    if recover != 0 {
        let time = u64::from(high) << 32 | u64::from(low);
        EXPECTED.fault.set(Some(Fault {
            kind,
            status,
            address,
            link: frame.pc,
            time,
        }));
        frame.pc = recover;
        return;
    }
    let name = [
        "?",
        "undefined instruction",
        "supervisor call",
        "prefetch abort",
        "data abort",
    ];
    panic!(
        "{}: lr {:#010x} psr {:#010x} status {:#x} address {:#010x} svc lr {:#010x} r {:x?}",
        name.get(kind as usize).unwrap_or(&"?"),
        frame.pc,
        frame.psr,
        status,
        address,
        frame.lr,
        frame.r
    );
}
