//! Two vCPUs: changing between them on one pCPU, and one interrupting the other.
//!
//! Times start in one vCPU and end in the other, by the counter that both see.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32};

use guest_lib::exceptions::{self, IRQ_PROLOGUE};
use guest_lib::{cpu, gic, println, secondary};

use crate::arch;
use crate::measure::{Phase, sampled};

const SGI: u32 = 3;

/// What vCPU 1 does.
static MODE: AtomicU32 = AtomicU32::new(IDLE);
const IDLE: u32 = 0;
const YIELD: u32 = 1;
const YIELD_VFP: u32 = 2;
const SLEEP: u32 = 3;
const SPIN: u32 = 4;
/// vCPU 1 does it.
static SEEN_MODE: AtomicU32 = AtomicU32::new(IDLE);
/// The counter when a vCPU gave the pCPU away.
static LEFT: AtomicU32 = AtomicU32::new(0);
/// The counter in vCPU 1's handler.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// vCPU 0 was interrupted by vCPU 1.
static BACK: AtomicBool = AtomicBool::new(false);

fn on_irq(_intid: u32, time: u64) {
    if cpu::mpidr() & 1 == 0 {
        BACK.store(true, SeqCst);
    } else {
        ARRIVED.store(time as u32, SeqCst);
        gic::write(gic::GICD_SGIR, 1 << 16 | SGI);
    }
}

/// Gives the pCPU away, with floating-point registers in use or not; returns the ticks since the other did, or `None`
/// if there was no change.
#[inline(always)]
fn give(with_vfp: bool) -> Option<u32> {
    let (start, end) = arch::yield_from_now(with_vfp, &LEFT);
    let left = LEFT.load(Relaxed);
    (left != start).then(|| end.wrapping_sub(left))
}

fn other(_number: u32) {
    cpu::enable_fp();
    gic::enable(SGI);
    cpu::enable_irq();
    let mut phase = Phase::new();
    loop {
        let mode = MODE.load(SeqCst);
        SEEN_MODE.store(mode, SeqCst);
        match mode {
            YIELD | YIELD_VFP => {
                phase.next();
                give(mode == YIELD_VFP);
            }
            SLEEP => {
                cpu::disable_irq();
                if MODE.load(SeqCst) == SLEEP {
                    cpu::wfi();
                }
                cpu::enable_irq();
                cpu::isb();
            }
            SPIN => core::hint::spin_loop(),
            _ => {
                give(false);
            }
        }
    }
}

fn set_mode(mode: u32) {
    MODE.store(mode, SeqCst);
    // It may sleep.
    gic::write(gic::GICD_SGIR, 2 << 16 | SGI);
    while SEEN_MODE.load(SeqCst) != mode {
        give(false);
    }
}

/// From one vCPU's yield to the other's next instruction: a reading, a store, the call (and what uses a register).
fn switches(name: &str, mode: u32) {
    set_mode(mode);
    let with_vfp = mode == YIELD_VFP;
    let mut missed = 0;
    sampled(name, 3 + u32::from(with_vfp), |_| {
        for _ in 0..1000 {
            if let Some(time) = give(with_vfp) {
                return time;
            }
            missed += 1;
        }
        panic!("{name}: a yield never changes to the other vCPU");
    });
    if missed > 0 {
        println!("bench: {name}-missed: {missed}");
    }
    set_mode(IDLE);
}

/// From one vCPU's write of GICD_SGIR, after which it sleeps, to the other's handler.
fn interrupts(name: &str, mode: u32) {
    set_mode(mode);
    let sgir = gic::distributor(gic::GICD_SGIR);
    // A reading, the write, WFI, the handler's way to its reading.
    sampled(name, 3 + IRQ_PROLOGUE, |_| {
        // It is asleep again, or spins, when it has had the time.
        let end = cpu::cntvct() + 5_000;
        while cpu::cntvct() < end {
            give(false);
        }
        BACK.store(false, SeqCst);
        cpu::disable_irq();
        let start = arch::store_and_sleep(sgir, 2 << 16 | SGI);
        cpu::enable_irq();
        while !BACK.load(SeqCst) {
            core::hint::spin_loop();
        }
        ARRIVED.load(SeqCst).wrapping_sub(start)
    });
    set_mode(IDLE);
}

/// All of this module: on one pCPU changes and waking, on two pCPUs interrupts between them.
pub fn run(pcpus: u32) {
    exceptions::set_irq_hook(on_irq);
    gic::enable(SGI);
    cpu::enable_fp();
    secondary::set_main(other);
    assert!(secondary::start(1) == 0, "vCPU 1 cannot be started");
    cpu::enable_irq();
    if pcpus == 1 {
        switches("switch", YIELD);
        switches("switch-vfp", YIELD_VFP);
        interrupts("wake-to-run", SLEEP);
    } else {
        interrupts("ipi-to-sleeping", SLEEP);
        interrupts("ipi-to-running", SPIN);
    }
}
