//! The demonstration guest: prints what it sees of the machine and of the hypervisor, checks that the parts work, and
//! powers off. Runs as dom0 (or domU) on any Xen-compatible hypervisor.
#![no_std]
#![no_main]

macro_rules! check {
    ($checks:expr, $name:expr, $ok:expr, $($detail:tt)*) => { $checks.check($name, $ok, format_args!($($detail)*)) };
}

#[cfg_attr(target_arch = "arm", path = "arm32.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arm64.rs")]
mod arch;
#[cfg(target_arch = "arm")]
mod external;
mod pmu;
mod watchdog;

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use guest_lib::exceptions::{self, DATA_ABORT, Fault, UNDEFINED};
use guest_lib::hypercall::event_channel;
use guest_lib::{Start, cpu, events, gic, hypercall, println, timer};
use xen_abi::event_channel::*;
use xen_abi::hypercall as nr;
use xen_abi::{smccc, version};

guest_lib::main!(demo);

/// Counts the checks.
struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    fn check(&mut self, name: &str, ok: bool, detail: fmt::Arguments) {
        println!("demo: {name}: {} {detail}", if ok { "ok" } else { "FAIL" });
        if ok {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

static VIRTUAL_IRQ: AtomicU32 = AtomicU32::new(0);
static PHYSICAL_IRQ: AtomicU32 = AtomicU32::new(0);
static EVENT_IRQ: AtomicU32 = AtomicU32::new(0);
/// The last port that an upcall brought.
static PORT: AtomicU32 = AtomicU32::new(0);
/// Ticks between two timer interrupts; 0: one shot.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// Non-zero: events are delivered through the FIFO.
static FIFO: AtomicU32 = AtomicU32::new(0);

fn on_irq(intid: u32, _time: u64) {
    if intid == VIRTUAL_IRQ.load(Relaxed) {
        match PERIOD.load(Relaxed) {
            0 => timer::set_virtual_control(0),
            period => {
                timer::set_virtual_compare(cpu::cntvct() + period);
                // Xen masks the timer when it delivers the interrupt, and leaves it to the guest to undo that.
                timer::set_virtual_control(1);
            }
        }
    } else if intid == PHYSICAL_IRQ.load(Relaxed) {
        timer::set_physical_control(0);
    } else if intid == EVENT_IRQ.load(Relaxed) {
        if FIFO.load(Relaxed) == 0 {
            events::take(|port| PORT.store(port, Relaxed));
        } else {
            events::fifo_take(|port| PORT.store(port, Relaxed));
        }
    }
}

/// Waits until `f` holds, but not longer than a second.
fn wait(f: impl Fn() -> bool) -> bool {
    let end = cpu::cntvct() + u64::from(cpu::cntfrq());
    while !f() {
        if cpu::cntvct() > end {
            return false;
        }
    }
    true
}

fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    core::str::from_utf8(bytes.get(..end).unwrap_or(&[])).unwrap_or("?")
}

fn demo(start: &Start) {
    let checks = &mut Checks {
        passed: 0,
        failed: 0,
    };
    let platform = &start.platform;
    println!("\ndemo: guest-demo on {}", platform.hypervisor);
    println!(
        "demo: first instruction at CNTPCT {} of {} Hz, loaded at {:#x}, device tree at {:#x}, status {:#x}",
        start.first_instruction,
        cpu::cntfrq(),
        start.delta.wrapping_add(0x20_0000),
        start.device_tree,
        cpu::status()
    );
    for bank in platform.banks.iter().filter(|bank| bank.1 != 0) {
        println!("demo: memory {:#x} + {:#x}", bank.0, bank.1);
    }
    println!(
        "demo: gicd {:#x} gicc {:#x} timers {:?} event upcall {} grant window {:#x} + {:#x} psci {} cpus {} bootargs '{}'",
        platform.gicd,
        platform.gicc,
        platform.timers,
        platform.event_irq,
        platform.grant_window.0,
        platform.grant_window.1,
        if platform.psci_smc { "smc" } else { "hvc" },
        platform.cpus,
        platform.bootargs
    );
    if pmu::run(start) || watchdog::run(start) {
        return;
    }
    #[cfg(target_arch = "arm")]
    if external::run(start) {
        return;
    }
    if platform.bootargs.contains("demo=spin") {
        println!("demo: spins");
        loop {
            core::hint::spin_loop();
        }
    }
    VIRTUAL_IRQ.store(platform.timers[2], Relaxed);
    PHYSICAL_IRQ.store(platform.timers[1], Relaxed);
    EVENT_IRQ.store(platform.event_irq, Relaxed);
    exceptions::set_irq_hook(on_irq);

    facts(checks, start);
    hypercalls(checks);
    cpu::enable_irq();
    interrupts(checks, platform.timers);
    event_channels(checks, platform.event_irq);
    distributor(checks);
    arch::decoder(checks, platform.hypervisor);
    arch::faults(checks);
    cpu::disable_irq();
    println!("demo: {} ok, {} failed", checks.passed, checks.failed);
}

fn facts(checks: &mut Checks, start: &Start) {
    let platform = &start.platform;
    check!(
        checks,
        "hypervisor-node",
        platform.hypervisor.starts_with("xen,xen-"),
        "'{}'",
        platform.hypervisor
    );
    check!(
        checks,
        "memory",
        platform.banks[0].1 >= 16 << 20,
        "{:#x}",
        platform.banks[0].1
    );
    check!(
        checks,
        "event-ppi",
        (16..32).contains(&platform.event_irq),
        "{}",
        platform.event_irq
    );
    check!(
        checks,
        "timer-ppis",
        platform.timers.iter().all(|i| (16..32).contains(i)),
        "{:?}",
        platform.timers
    );
    check!(
        checks,
        "grant-window",
        platform.grant_window.1 >= 0x1000,
        "{:#x}",
        platform.grant_window.1
    );
    check!(
        checks,
        "mpidr",
        cpu::mpidr() == 0x8000_0000,
        "{:#010x}, MIDR {:#010x}",
        cpu::mpidr(),
        cpu::midr()
    );
    let psci = hypercall::firmware_hvc(smccc::PSCI_VERSION, 0, 0, 0);
    check!(
        checks,
        "psci-version-hvc",
        psci >> 16 >= 1 && psci >> 31 == 0,
        "{}.{}",
        psci >> 16,
        psci & 0xffff
    );
    let smc = hypercall::firmware_smc(smccc::PSCI_VERSION, 0, 0, 0);
    check!(
        checks,
        "psci-version-smc",
        smc == psci,
        "{}.{}",
        smc >> 16,
        smc & 0xffff
    );
    let smccc = hypercall::firmware_hvc(smccc::SMCCC_VERSION, 0, 0, 0);
    check!(
        checks,
        "smccc-version",
        smccc == smccc::SMCCC_VERSION_1_1,
        "{smccc:#x}"
    );
    let unknown = hypercall::firmware_hvc(0x8400_00ee, 0, 0, 0) as i32;
    check!(checks, "psci-unknown", unknown == -1, "{unknown}");
}

fn hypercalls(checks: &mut Checks) {
    let version = hypercall::xen_version(version::XENVER_VERSION);
    check!(
        checks,
        "null-hypercall",
        version >> 16 == 4,
        "Xen {}.{}",
        version >> 16,
        version & 0xffff
    );
    let mut extra = [0u8; version::EXTRAVERSION_LEN];
    let r = hypercall::op(
        nr::HYPERVISOR_XEN_VERSION,
        version::XENVER_EXTRAVERSION,
        &mut extra,
    );
    check!(
        checks,
        "extraversion",
        r == 0 && extra.contains(&0),
        "'{}'",
        text(&extra)
    );
    let mut capabilities = [0u8; version::CAPABILITIES_LEN];
    let r = hypercall::op(
        nr::HYPERVISOR_XEN_VERSION,
        version::XENVER_CAPABILITIES,
        &mut capabilities,
    );
    check!(
        checks,
        "capabilities",
        r == 0 && text(&capabilities).contains(arch::CAPABILITY),
        "'{}'",
        text(&capabilities)
    );
    let mut features = version::FeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    let r = hypercall::op(
        nr::HYPERVISOR_XEN_VERSION,
        version::XENVER_GET_FEATURES,
        &mut features,
    );
    let wanted = 1 << version::XENFEAT_AUTO_TRANSLATED_PHYSMAP;
    check!(
        checks,
        "features",
        r == 0 && features.submap & wanted != 0,
        "{:#x}",
        features.submap
    );
    // SAFETY: no structure.
    let unknown = unsafe { hypercall::raw::<true>(63, [0; 5]) };
    check!(checks, "unknown-hypercall", unknown == -38, "{unknown}");
    // SAFETY: the handle points nowhere, so nothing is written.
    let bad =
        unsafe { hypercall::raw::<true>(nr::HYPERVISOR_XEN_VERSION, [1, 0xb00_0000, 0, 0, 0]) };
    check!(checks, "bad-handle", bad == -14, "{bad}");
}

fn interrupts(checks: &mut Checks, timers: [u32; 3]) {
    let frequency = u64::from(cpu::cntfrq());
    // SGI to this processor.
    let before = exceptions::taken(5);
    gic::enable(5);
    gic::write(gic::GICD_SGIR, gic::sgi_self(5));
    check!(
        checks,
        "sgi-self",
        wait(|| exceptions::taken(5) == before + 1),
        "{} taken",
        exceptions::taken(5) - before
    );

    // All sixteen SGIs at once, more than any list registers there are, several rounds: each must come exactly once.
    let mut lost = 0;
    for _ in 0..20 {
        let before: [u32; 16] = core::array::from_fn(|id| exceptions::taken(id as u32));
        cpu::disable_irq();
        for id in 0..16 {
            gic::enable(id);
            gic::write(gic::GICD_SGIR, gic::sgi_self(id));
        }
        cpu::enable_irq();
        wait(|| (0..16).all(|id| exceptions::taken(id as u32) > before[id]));
        lost += (0..16)
            .filter(|&id| exceptions::taken(id as u32) != before[id] + 1)
            .count();
    }
    check!(
        checks,
        "sgi-flood",
        lost == 0,
        "{lost} of 320 lost or doubled"
    );

    // Ten ticks of 1 ms from the virtual timer.
    gic::enable(timers[2]);
    PERIOD.store(frequency / 1000, Relaxed);
    timer::set_virtual_compare(cpu::cntvct() + frequency / 1000);
    timer::set_virtual_control(1);
    let ok = wait(|| exceptions::taken(timers[2]) >= 10);
    timer::set_virtual_control(0);
    PERIOD.store(0, Relaxed);
    check!(
        checks,
        "virtual-timer",
        ok,
        "{} ticks on interrupt {}",
        exceptions::taken(timers[2]),
        timers[2]
    );

    // One tick of the emulated physical timer.
    gic::enable(timers[1]);
    timer::set_physical_compare(cpu::cntpct() + frequency / 1000);
    timer::set_physical_control(1);
    let ok = wait(|| exceptions::taken(timers[1]) >= 1);
    check!(
        checks,
        "physical-timer",
        ok,
        "{} ticks on interrupt {}",
        exceptions::taken(timers[1]),
        timers[1]
    );
    timer::set_physical_control(0);

    // WFI with interrupts masked: wakes, and the interrupt comes when it is let in.
    cpu::disable_irq();
    let before = exceptions::taken(timers[2]);
    let deadline = cpu::cntvct() + frequency / 200;
    timer::set_virtual_compare(deadline);
    timer::set_virtual_control(1);
    cpu::isb();
    cpu::wfi();
    let woken = cpu::cntvct();
    let masked = exceptions::taken(timers[2]) == before;
    cpu::enable_irq();
    let ok = wait(|| exceptions::taken(timers[2]) > before);
    let late = woken.wrapping_sub(deadline) as i64;
    check!(
        checks,
        "wfi",
        ok && masked && late >= 0,
        "woke {late} ticks after the timer"
    );
}

fn event_channels(checks: &mut Checks, irq: u32) {
    let r = events::map_shared_info();
    check!(
        checks,
        "shared-info",
        r == 0,
        "{r}, wall clock version {}",
        events::SHARED_INFO
            .word(xen_abi::shared_info::SHARED_INFO_WC_VERSION)
            .load(Relaxed)
    );
    if r != 0 {
        return;
    }
    gic::enable(irq);
    let arrives = |port: u32| {
        PORT.store(0, Relaxed);
        events::send(port) == 0 && wait(|| PORT.load(Relaxed) == port)
    };

    let ipi = events::bind_ipi();
    let port = ipi.unwrap_or(0);
    events::set_mask(port, false);
    check!(
        checks,
        "event-ipi",
        ipi.is_ok() && arrives(port),
        "{ipi:?}, {} upcalls",
        exceptions::taken(irq)
    );

    // Masked: stays pending, comes with the unmask.
    events::set_mask(port, true);
    PORT.store(0, Relaxed);
    let sent = events::send(port);
    let quiet = events::is_pending(port) && PORT.load(Relaxed) == 0;
    let unmasked = event_channel(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port });
    let came = wait(|| PORT.load(Relaxed) == port);
    check!(
        checks,
        "event-mask",
        sent == 0 && quiet && unmasked == 0 && came,
        "{sent} {quiet} {unmasked} {came}"
    );

    // Two ports of our own connected to each other.
    let mut alloc = EvtchnAllocUnbound {
        dom: nr::DOMID_SELF,
        remote_dom: nr::DOMID_SELF,
        port: 0,
    };
    let r1 = event_channel(EVTCHNOP_ALLOC_UNBOUND, &mut alloc);
    let mut bind = EvtchnBindInterdomain {
        remote_dom: nr::DOMID_SELF,
        _pad: 0,
        remote_port: alloc.port,
        local_port: 0,
    };
    let r2 = event_channel(EVTCHNOP_BIND_INTERDOMAIN, &mut bind);
    let mut ok = false;
    if r1 == 0 && r2 == 0 {
        events::set_mask(alloc.port, false);
        PORT.store(0, Relaxed);
        ok = events::send(bind.local_port) == 0 && wait(|| PORT.load(Relaxed) == alloc.port);
    }
    check!(
        checks,
        "event-interdomain",
        ok,
        "{r1} {r2} ports {} {}",
        alloc.port,
        bind.local_port
    );
    let mut status = EvtchnStatus {
        dom: nr::DOMID_SELF,
        _pad: 0,
        port: bind.local_port,
        status: 0,
        vcpu: 0,
        u0: 0,
        u1: 0,
    };
    let r = event_channel(EVTCHNOP_STATUS, &mut status);
    let ok = r == 0 && status.status == EVTCHNSTAT_INTERDOMAIN && status.u1 == alloc.port;
    check!(
        checks,
        "event-status",
        ok,
        "{r} status {} remote port {}",
        status.status,
        status.u1
    );
    let closed = [
        events::close(bind.local_port),
        events::close(alloc.port),
        events::close(port),
    ];
    check!(checks, "event-close", closed == [0; 3], "{closed:?}");

    let r = events::fifo_init();
    FIFO.store(1, Relaxed);
    let ipi = events::bind_ipi();
    let port = ipi.unwrap_or(0);
    events::fifo_set_mask(port, false);
    let ok = r == 0 && ipi.is_ok() && arrives(port) && arrives(port);
    check!(
        checks,
        "event-fifo",
        ok,
        "{r} {ipi:?}, {} upcalls",
        exceptions::taken(irq)
    );
    // Until the table is full, not until the hypervisor's heap is: there are ports for some MiB of it.
    let (mut count, mut end) = (0, 0);
    while end == 0 {
        match events::bind_ipi() {
            Ok(_) => count += 1,
            Err(error) => end = error,
        }
    }
    let opened = (1 << 17) - count..1 << 17;
    let closed = opened.filter(|&port| events::close(port) == 0).count();
    check!(
        checks,
        "event-table",
        end == -28 && closed as u32 == count,
        "{count} more ports, then {end}; {closed} closed"
    );
    check!(
        checks,
        "spurious-interrupts",
        true,
        "{}",
        exceptions::spurious()
    );
}

fn describe(fault: Option<Fault>) -> &'static str {
    match fault {
        None => "works",
        Some(fault) if fault.kind == DATA_ABORT => "data abort",
        Some(fault) if fault.kind == UNDEFINED => "undefined",
        Some(_) => "other fault",
    }
}

fn distributor(checks: &mut Checks) {
    println!(
        "demo: GICD_TYPER {:#x} IIDR {:#x}",
        gic::read(gic::GICD_TYPER),
        gic::read(gic::GICD_IIDR)
    );
    let sgis = gic::read(gic::GICD_ISENABLER);
    check!(
        checks,
        "gicd-isenabler",
        sgis & 0xffff == 0xffff || sgis & 1 << 5 != 0,
        "{sgis:#x}"
    );
    gic::write8(gic::GICD_IPRIORITYR + 27, 0x80);
    let word = gic::read(gic::GICD_IPRIORITYR + 24);
    check!(
        checks,
        "gicd-priority-byte",
        word >> 24 == 0x80 && word & 0xff == 0xa0,
        "{word:#x}"
    );
    // What Xen does not emulate ends with an abort there; that is not the guest's failure.
    for (name, offset) in [
        ("gicd-isactiver", gic::GICD_ISACTIVER),
        ("gicd-ispendr", gic::GICD_ISPENDR),
        ("gicd-spendsgir", gic::GICD_SPENDSGIR),
        ("gicd-cpendsgir", gic::GICD_CPENDSGIR),
        ("gicd-icpidr2", gic::GICD_ICPIDR2),
    ] {
        let read = exceptions::try_read(gic::distributor(offset));
        let (value, fault) = (read.unwrap_or(0), read.err());
        let wrong = name == "gicd-icpidr2" && fault.is_none() && value >> 4 & 0xf != 2;
        check!(checks, name, !wrong, "{value:#x} ({})", describe(fault));
    }
    let fault = exceptions::try_write(gic::distributor(gic::GICD_SPENDSGIR), 0);
    check!(
        checks,
        "gicd-spendsgir-write",
        true,
        "({})",
        describe(fault)
    );
}
