//! The other processors: PSCI starts them, start.S brings them into the same tables.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use xen_abi::smccc;

use crate::{cpu, gic, hypercall, memory};

/// Processors that have a stack.
pub const MAX_CPUS: u32 = 8;

/// Makes a function that takes addresses the one of this width.
const NATIVE: u32 = if cfg!(target_pointer_width = "64") {
    smccc::PSCI_64_BIT
} else {
    0
};

/// What a processor runs: its number.
pub type Main = fn(u32);

static MAIN: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn secondary_entry();
}

/// Sets what every other processor runs from now on.
pub fn set_main(main: Main) {
    MAIN.store(main as usize, Relaxed);
}

/// Starts processor `number` (1 to 7), which is off; returns PSCI's answer.
pub fn start(number: u32) -> i32 {
    assert!((1..MAX_CPUS).contains(&number) && MAIN.load(Relaxed) != 0);
    cpu::dsb();
    let entry = memory::physical(secondary_entry as *const () as usize);
    hypercall::firmware_hvc(
        NATIVE | smccc::PSCI_CPU_ON,
        number as usize,
        entry,
        number as usize,
    ) as i32
}

/// Turns this processor off; returns only if that fails.
pub fn stop() -> i32 {
    cpu::disable_irq();
    hypercall::firmware_hvc(smccc::PSCI_CPU_OFF, 0, 0, 0) as i32
}

/// Waits for an interrupt, also a masked one, by PSCI's standby state; returns PSCI's answer.
pub fn suspend() -> i32 {
    cpu::dsb();
    hypercall::firmware_hvc(NATIVE | smccc::PSCI_CPU_SUSPEND, 0, 0, 0) as i32
}

/// Whether a processor is on: 0; off: 1; on its way: 2.
pub fn state(number: u32) -> i32 {
    hypercall::firmware_hvc(NATIVE | smccc::PSCI_AFFINITY_INFO, number as usize, 0, 0) as i32
}

#[unsafe(no_mangle)]
extern "C" fn guest_secondary(number: u32) {
    gic::init_cpu();
    // SAFETY: only `set_main` writes it, with a function of this type, before a processor is started.
    let main: Main = unsafe { core::mem::transmute(MAIN.load(Relaxed)) };
    main(number);
}
