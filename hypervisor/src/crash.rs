//! The last words: a panic, a fault of our own, an entry in the wrong mode. Registers, a backtrace that
//! `scripts/symbolise` turns into names, then a restart unless `noreboot`.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use xenith_arch::{FaultRegisters, backtrace, frame_pointer};
use xenith_core::console::Lines;

use crate::console::{emergency, emergency_line};

/// A second failure while the first is being reported ends the report.
static CRASHING: AtomicBool = AtomicBool::new(false);

fn begin() {
    if CRASHING.swap(true, Ordering::AcqRel) {
        crate::power::halt();
    }
    crate::smp::stop_others();
    emergency("");
    emergency("****************************************");
}

fn end(fp: usize) -> ! {
    emergency("Xen call trace:");
    backtrace(fp, |address| {
        emergency_line(format_args!("   [<{address:08x}>]"))
    });
    emergency("****************************************");
    crate::power::after_crash()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let fp = frame_pointer();
    begin();
    emergency_line(format_args!(
        "Panic on CPU {}:",
        xenith_arch::guest_memory::this_cpu().index()
    ));
    match info.location() {
        Some(at) => emergency_line(format_args!(
            "{} at {}:{}",
            info.message(),
            at.file(),
            at.line()
        )),
        None => emergency_line(format_args!("{}", info.message())),
    }
    end(fp)
}

#[unsafe(no_mangle)]
fn xenith_hyp_fault(what: &str, registers: &FaultRegisters) -> ! {
    begin();
    emergency_line(format_args!(
        "Panic on CPU {}:",
        xenith_arch::guest_memory::this_cpu().index()
    ));
    // Printing does not fail.
    let _ = registers.describe(what, &mut Lines::new(emergency));
    emergency_line(format_args!("   [<{:08x}>]", registers.pc()));
    end(registers.frame_pointer())
}

#[unsafe(no_mangle)]
fn xenith_not_hyp(dtb: &'static [u8], mode: u32) -> ! {
    crate::boot::not_hyp(dtb, mode)
}
