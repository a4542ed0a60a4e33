//! Debug keys: what a character typed to the hypervisor's console shows or does.

use core::fmt::Write;

use xenith_core::console::Lines;
use xenith_core::console::keys::{KeyHandler, find, standard, write_diagnostic_title, write_help};

use crate::console::{print_line, with_everything};
use crate::machine::Hv;
use crate::power;

/// The keys that do something here.
const KEYS: [u8; 9] = *b"*Rdehmqrt";

/// Runs the handler of `key`; unknown keys say nothing, as in Xen. Nothing is allocated: keys are for when memory is out,
/// too.
pub fn handle(hv: &'static Hv, key: u8) {
    let list: [Option<KeyHandler>; KEYS.len()] = KEYS.map(standard);
    if find(&list, key).is_none() {
        return;
    }
    with_everything(|| {
        let mut out = Lines::new(|line| print_line(format_args!("{line}")));
        // Printing does not fail.
        let _ = match key {
            b'h' => write_help(&list, &mut out),
            b'*' => list
                .iter()
                .flatten()
                .filter(|handler| handler.is_diagnostic)
                .try_for_each(|handler| {
                    write_diagnostic_title(handler, &mut out)?;
                    run(hv, handler.key, &mut out)
                }),
            _ => run(hv, key, &mut out),
        };
    });
}

fn run(hv: &'static Hv, key: u8, out: &mut dyn Write) -> core::fmt::Result {
    match key {
        b'R' => {
            writeln!(out, "'R' pressed -> rebooting machine")?;
            power::restart()
        }
        b'q' => domains(hv, out),
        b'd' => registers(hv, out),
        b'r' => run_queue(hv, out),
        b'm' => memory(hv, out),
        b'e' => events(hv, out),
        b't' => clocks(hv, out),
        _ => Ok(()),
    }
}

fn domains(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(
        out,
        "'q' pressed -> dumping domain info (now = {} ns)",
        now_ns(hv)
    )?;
    for domain in hv.domains.all() {
        let account = domain.p2m.lock().account().clone();
        let state = domain.shutdown().map_or("running", |_| "shut down");
        writeln!(
            out,
            "General information for domain {}:",
            domain.facts.id.raw()
        )?;
        writeln!(
            out,
            "    {state} nr_pages={} max_pages={}",
            account.pages(),
            account.limit()
        )?;
        writeln!(
            out,
            "    vcpus={} direct_map={}",
            domain.vcpus.len(),
            domain.facts.is_direct_mapped
        )?;
        for vcpu in &domain.vcpus {
            let clock = *vcpu.runstate.lock();
            writeln!(
                out,
                "    VCPU{}: state={:?} upcall_pend={}",
                vcpu.id.raw(),
                clock.state,
                u8::from(domain.events.lock().upcall_pending(vcpu.id))
            )?;
        }
    }
    Ok(())
}

fn registers(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    use xenith_arch::sysreg;
    writeln!(out, "'d' pressed -> dumping registers")?;
    writeln!(out, "*** Dumping CPU0 host state: ***")?;
    writeln!(
        out,
        "HCR:    {:08x}  VTTBR:  {:016x}",
        sysreg::hcr::read(),
        sysreg::vttbr::read()
    )?;
    writeln!(
        out,
        "HSR:    {:08x}  HPFAR:  {:08x}  HDFAR: {:08x}",
        sysreg::hsr::read(),
        sysreg::hpfar::read(),
        sysreg::hdfar::read()
    )?;
    for domain in hv.domains.all() {
        for vcpu in &domain.vcpus {
            writeln!(
                out,
                "*** Dumping d{}v{} state: ***",
                domain.facts.id.raw(),
                vcpu.id.raw()
            )?;
            match vcpu.context.try_lock() {
                Some(context) => {
                    let f = &context.frame;
                    writeln!(out, "PC:     {:08x}  CPSR:   {:08x}", f.pc, f.cpsr)?;
                    for (i, group) in f.r.chunks(4).enumerate() {
                        write!(out, "R{:<2}", i * 4)?;
                        for r in group {
                            write!(out, " {r:08x}")?;
                        }
                        writeln!(out)?;
                    }
                }
                None => writeln!(
                    out,
                    "loaded on CPU0: SCTLR {:08x} TTBR0 {:016x} TTBCR {:08x} SP_svc {:08x} LR_svc {:08x}",
                    sysreg::sctlr::read(),
                    sysreg::ttbr0::read(),
                    sysreg::ttbcr::read(),
                    sysreg::sp_svc::read(),
                    sysreg::lr_svc::read()
                )?,
            }
        }
    }
    Ok(())
}

fn run_queue(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(out, "'r' pressed -> dumping run queues")?;
    writeln!(
        out,
        "sched: round robin, 10 ms slices, CPU0 (now = {} ns)",
        now_ns(hv)
    )?;
    for domain in hv.domains.all() {
        for vcpu in &domain.vcpus {
            let clock = *vcpu.runstate.lock();
            writeln!(
                out,
                "  d{}v{} {:?} running={} ns runnable={} ns blocked={} ns",
                domain.facts.id.raw(),
                vcpu.id.raw(),
                clock.state,
                hv.scale.to_ns(clock.spent[0]),
                hv.scale.to_ns(clock.spent[1]),
                hv.scale.to_ns(clock.spent[2])
            )?;
        }
    }
    Ok(())
}

fn memory(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(out, "'m' pressed -> memory info")?;
    let (free, dirty) = {
        let allocator = hv.allocator.lock();
        (allocator.free_frames(), allocator.dirty_frames())
    };
    let (heap, used) = crate::HEAP.usage();
    writeln!(out, "Physical memory information:")?;
    writeln!(
        out,
        "    Total: {} kB, free: {} kB, to be scrubbed: {} kB",
        hv.frames.total_frames() * 4,
        free * 4,
        dirty * 4
    )?;
    writeln!(
        out,
        "    Xen heap: {} kB, used: {} kB",
        heap / 1024,
        used / 1024
    )
}

fn events(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(out, "'e' pressed -> dumping event-channel info")?;
    for domain in hv.domains.all() {
        domain.events.lock().dump(out)?;
    }
    Ok(())
}

fn clocks(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(out, "'t' pressed -> dumping clocks")?;
    writeln!(
        out,
        "system time: {} ns, counter: {} at {} Hz",
        now_ns(hv),
        xenith_arch::timer::now(),
        hv.scale.frequency()
    )
}

fn now_ns(hv: &Hv) -> u64 {
    hv.scale
        .to_ns(xenith_arch::timer::now().saturating_sub(hv.boot_ticks))
}
