//! What the demonstration checks on AArch64.

use core::sync::atomic::Ordering::Relaxed;

use guest_lib::exceptions::{DATA_ABORT, Fault, UNDEFINED};
use guest_lib::memory::Page;
use guest_lib::{gic, probe};

use crate::{Checks, describe};

/// What `xen_version` names at least.
pub const CAPABILITY: &str = "xen-3.0-aarch64";

/// Registers of the performance monitors.
pub mod pmu {
    use guest_lib::read_register;

    macro_rules! register {
        ($read:ident, $write:ident, $mrs:literal, $msr:literal) => {
            read_register!(
                /// Reads a register of the performance monitors.
                $read, $mrs);
            /// Writes it.
            pub fn $write(value: u32) {
                // SAFETY: counters concern nothing else.
                unsafe { core::arch::asm!($msr, "isb", in(reg) u64::from(value), options(nostack, preserves_flags)) };
            }
        };
    }

    register!(pmcr, set_pmcr, "mrs {0}, pmcr_el0", "msr pmcr_el0, {0}");
    register!(
        pmcntenset,
        enable,
        "mrs {0}, pmcntenset_el0",
        "msr pmcntenset_el0, {0}"
    );
    register!(pmselr, select, "mrs {0}, pmselr_el0", "msr pmselr_el0, {0}");
    register!(
        pmccntr,
        set_cycles,
        "mrs {0}, pmccntr_el0",
        "msr pmccntr_el0, {0}"
    );
    register!(
        counter,
        set_counter,
        "mrs {0}, pmxevcntr_el0",
        "msr pmxevcntr_el0, {0}"
    );
    register!(
        pmuserenr,
        set_user,
        "mrs {0}, pmuserenr_el0",
        "msr pmuserenr_el0, {0}"
    );
}

/// Accesses of devices for which the processor gives no syndrome: the hypervisor must decode the instruction. Real Xen
/// does that only for some, and aborts the guest for the others, which is no failure of the guest.
pub fn decoder(checks: &mut Checks, hypervisor: &str) {
    let typer = gic::read(gic::GICD_TYPER);
    let control = gic::read(gic::GICD_CTLR);
    let base = gic::distributor(0);
    let priorities = gic::distributor(gic::GICD_IPRIORITYR + 24);
    let report = |checks: &mut Checks, name: &str, fault: Option<Fault>, ok: bool| {
        check!(
            checks,
            name,
            fault.is_some() || ok,
            "({}) on {hypervisor}",
            describe(fault)
        );
    };

    let (mut a, mut b) = (0u32, 0u32);
    let fault = probe!(["ldp w4, w5, [{0}]"], in(reg) base, inout("w4") a, inout("w5") b);
    report(checks, "isv0-ldp", fault, a == control && b == typer);
    let mut cursor = base + 4;
    let fault = probe!(["ldr {0:w}, [{1}], #4"], inout(reg) a, inout(reg) cursor);
    report(
        checks,
        "isv0-ldr-post-indexed",
        fault,
        a == typer && cursor == base + 8,
    );
    let mut cursor = base;
    let fault = probe!(["ldr {0:w}, [{1}, #4]!"], inout(reg) a, inout(reg) cursor);
    report(
        checks,
        "isv0-ldr-pre-indexed",
        fault,
        a == typer && cursor == base + 4,
    );
    let mut cursor = priorities;
    let fault = probe!(["str {0:w}, [{1}], #4"], in(reg) 0x9090_9090u32, inout(reg) cursor);
    let word = gic::read(gic::GICD_IPRIORITYR + 24);
    report(
        checks,
        "isv0-str-post-indexed",
        fault,
        word == 0x9090_9090 && cursor == priorities + 4,
    );
    let fault = probe!(["stp w4, w5, [{0}]"], in(reg) priorities, in("w4") 0x8080_8080u32, in("w5") 0x7070_7070u32);
    let words = (
        gic::read(gic::GICD_IPRIORITYR + 24),
        gic::read(gic::GICD_IPRIORITYR + 28),
    );
    report(
        checks,
        "isv0-stp",
        fault,
        words == (0x8080_8080, 0x7070_7070),
    );
    // A cacheable page, so that nothing is emulated: the same instructions must work there anyway.
    static PAGE: Page = Page::new();
    PAGE.word(4).store(7, Relaxed);
    let fault =
        probe!(["ldp w4, w5, [{0}]"], in(reg) PAGE.0.as_ptr(), inout("w4") a, inout("w5") b);
    check!(
        checks,
        "ldp-memory",
        fault.is_none() && (a, b) == (0, 7),
        "({})",
        describe(fault)
    );
}

/// Faults come with what the architecture says.
pub fn faults(checks: &mut Checks) {
    // Nothing is at this address on the machines we know.
    let at: usize;
    let fault = probe!(["adr {1}, 76f", "76:", "ldr {0:w}, [{2}]"], out(reg) _, out(reg) at, in(reg) 0xb00_0000usize);
    let (kind, address, link, status) =
        fault.map_or((0, 0, 0, 0), |f| (f.kind, f.address, f.link, f.status));
    // ESR: a data abort of the same level, a translation fault or an external abort.
    check!(
        checks,
        "abort",
        kind == DATA_ABORT && address == 0xb00_0000 && link == at && status >> 26 == 0x25,
        "status {status:#x} at {address:#x}"
    );
    let fault = probe!(["mrs {0}, s3_7_c15_c7_7"], out(reg) _);
    check!(
        checks,
        "undefined-register",
        fault.is_some_and(|f| f.kind == UNDEFINED),
        "({})",
        describe(fault)
    );
    let fault = probe!(["hvc #0x1234"]);
    check!(
        checks,
        "unknown-hvc",
        fault.is_some_and(|f| f.kind == UNDEFINED),
        "({})",
        describe(fault)
    );
}
