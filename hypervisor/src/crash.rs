//! The last words: a panic, a fault of our own, an entry in the wrong mode. Registers, a backtrace that
//! `scripts/symbolise` turns into names, then a restart unless `noreboot`.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use xenith_arch::{FaultRegisters, backtrace, frame_pointer};

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

fn end(fp: u32) -> ! {
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
    emergency_line(format_args!(
        "{what} in the hypervisor, HSR {:08x}",
        xenith_arch::sysreg::hsr::read()
    ));
    emergency_line(format_args!(
        "PC:     {:08x}   CPSR:   {:08x}",
        registers.pc, registers.cpsr
    ));
    for (i, group) in registers.r.chunks(4).enumerate() {
        match *group {
            [a, b, c, d] => emergency_line(format_args!(
                "R{:<2} {a:08x} {b:08x} {c:08x} {d:08x}",
                i * 4
            )),
            _ => emergency_line(format_args!(
                "R12 {:08x} SP {:08x} LR {:08x}",
                group[0], registers.sp, registers.lr
            )),
        }
    }
    emergency_line(format_args!(
        "HDFAR:  {:08x}   HIFAR:  {:08x}",
        xenith_arch::sysreg::hdfar::read(),
        xenith_arch::sysreg::hifar::read()
    ));
    emergency_line(format_args!("   [<{:08x}>]", registers.pc));
    end(registers.frame_pointer())
}

#[unsafe(no_mangle)]
fn xenith_not_hyp(dtb: &'static [u8], cpsr: u32) -> ! {
    crate::boot::not_hyp(dtb, cpsr)
}
