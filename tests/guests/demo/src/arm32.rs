//! What the demonstration checks on AArch32.

use core::sync::atomic::Ordering::Relaxed;

use guest_lib::exceptions::{DATA_ABORT, Fault, UNDEFINED};
use guest_lib::memory::Page;
use guest_lib::{gic, println, probe};

use crate::{Checks, describe};

/// What `xen_version` names at least.
pub const CAPABILITY: &str = "xen-3.0-armv7l";

/// Registers of the performance monitors.
pub mod pmu {
    use guest_lib::read_register;

    macro_rules! register {
        ($read:ident, $write:ident, $mrc:literal, $mcr:literal) => {
            read_register!(
                /// Reads a register of the performance monitors.
                $read, $mrc);
            /// Writes it.
            pub fn $write(value: u32) {
                // SAFETY: counters concern nothing else.
                unsafe { core::arch::asm!($mcr, "isb", in(reg) value, options(nostack, preserves_flags)) };
            }
        };
    }

    register!(
        pmcr,
        set_pmcr,
        "mrc p15, 0, {0}, c9, c12, 0",
        "mcr p15, 0, {0}, c9, c12, 0"
    );
    register!(
        pmcntenset,
        enable,
        "mrc p15, 0, {0}, c9, c12, 1",
        "mcr p15, 0, {0}, c9, c12, 1"
    );
    register!(
        pmselr,
        select,
        "mrc p15, 0, {0}, c9, c12, 5",
        "mcr p15, 0, {0}, c9, c12, 5"
    );
    register!(
        pmccntr,
        set_cycles,
        "mrc p15, 0, {0}, c9, c13, 0",
        "mcr p15, 0, {0}, c9, c13, 0"
    );
    register!(
        counter,
        set_counter,
        "mrc p15, 0, {0}, c9, c13, 2",
        "mcr p15, 0, {0}, c9, c13, 2"
    );
    register!(
        pmuserenr,
        set_user,
        "mrc p15, 0, {0}, c9, c14, 0",
        "mcr p15, 0, {0}, c9, c14, 0"
    );
}

/// Accesses of devices for which the processor gives no syndrome: the hypervisor must decode the instruction. Real Xen
/// does that only for some, and aborts the guest for the others, which is no failure of the guest.
pub fn decoder(checks: &mut Checks, hypervisor: &str) {
    let typer = gic::read(gic::GICD_TYPER);
    let control = gic::read(gic::GICD_CTLR);
    let base = gic::distributor(0);
    let report = |checks: &mut Checks, name: &str, fault: Option<Fault>, ok: bool| {
        check!(
            checks,
            name,
            fault.is_some() || ok,
            "({}) on {hypervisor}",
            describe(fault)
        );
    };

    let (mut a, mut b, mut end) = (0u32, 0u32, base as u32);
    let fault = probe!(["ldrd r4, r5, [{0}]"], in(reg) base, out("r4") a, out("r5") b);
    report(checks, "isv0-ldrd", fault, a == control && b == typer);
    let fault = probe!(["ldm {0}!, {{r4, r5}}"], inout(reg) end, out("r4") a, out("r5") b);
    report(
        checks,
        "isv0-ldm",
        fault,
        a == control && b == typer && end == base as u32 + 8,
    );
    let mut cursor = base as u32 + 4;
    let fault = probe!(["ldr {0}, [{1}], #4"], out(reg) a, inout(reg) cursor);
    report(
        checks,
        "isv0-ldr-post-indexed",
        fault,
        a == typer && cursor == base as u32 + 8,
    );
    let mut cursor = base as u32;
    let fault = probe!(["ldr {0}, [{1}, #4]!"], out(reg) a, inout(reg) cursor);
    report(
        checks,
        "isv0-ldr-pre-indexed",
        fault,
        a == typer && cursor == base as u32 + 4,
    );
    let mut cursor = gic::distributor(gic::GICD_IPRIORITYR + 24) as u32;
    let fault = probe!(["str {0}, [{1}], #4"], in(reg) 0x9090_9090u32, inout(reg) cursor);
    let word = gic::read(gic::GICD_IPRIORITYR + 24);
    report(checks, "isv0-str-post-indexed", fault, word == 0x9090_9090);
    let at = gic::distributor(gic::GICD_IPRIORITYR + 24);
    let fault = probe!(["strd r4, r5, [{0}]"], in(reg) at, in("r4") 0x8080_8080u32, in("r5") 0x7070_7070u32);
    let words = (
        gic::read(gic::GICD_IPRIORITYR + 24),
        gic::read(gic::GICD_IPRIORITYR + 28),
    );
    report(
        checks,
        "isv0-strd",
        fault,
        words == (0x8080_8080, 0x7070_7070),
    );
    // A cacheable page, so that nothing is emulated: the same instructions must work there anyway.
    static PAGE: Page = Page::new();
    PAGE.word(4).store(7, Relaxed);
    let fault = probe!(["ldrd r4, r5, [{0}]"], in(reg) PAGE.0.as_ptr(), out("r4") _, out("r5") b);
    check!(
        checks,
        "ldrd-memory",
        fault.is_none() && b == 7,
        "({})",
        describe(fault)
    );
}

/// Faults come with what the architecture says.
pub fn faults(checks: &mut Checks) {
    // Nothing is at this address on the machines we know.
    let at: usize;
    // `add` reads its own address + 8, which is the load's.
    let fault = probe!(["add {1}, pc, #0", "nop", "ldr {0}, [{2}]"], out(reg) _, out(reg) at, in(reg) 0xb00_0000);
    let (kind, address, link) = fault.map_or((0, 0, 0), |f| (f.kind, f.address, f.link));
    check!(
        checks,
        "abort",
        kind == DATA_ABORT && address == 0xb00_0000,
        "status {:#x} at {address:#x}",
        fault.map_or(0, |f| f.status)
    );
    println!(
        "demo: link register of the data abort: instruction + {} (architecture: 8)",
        link.wrapping_sub(at)
    );
    let fault = probe!(["mrc p15, 7, {0}, c15, c7, 7"], out(reg) _);
    check!(
        checks,
        "undefined-register",
        fault.is_some_and(|f| f.kind == UNDEFINED),
        "({})",
        describe(fault)
    );
    let fault = probe!([".arch_extension virt", "hvc #0x1234"]);
    check!(
        checks,
        "unknown-hvc",
        fault.is_some_and(|f| f.kind == UNDEFINED),
        "({})",
        describe(fault)
    );
}
