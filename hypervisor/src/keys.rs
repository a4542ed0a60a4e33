//! Debug keys: what a character typed to the hypervisor's console shows or does.

use core::fmt::Write;

use alloc::string::String;

use xenith_core::console::keys::{KeyHandler, find, standard, write_diagnostic_title, write_help};

use crate::console::{emergency_line, with_everything};
use crate::machine::Hv;
use crate::power;

/// The keys that do something here.
const KEYS: [u8; 9] = *b"*Rdehmqrt";

fn handlers() -> impl Iterator<Item = KeyHandler> {
    KEYS.iter().copied().chain([b'h']).filter_map(standard)
}

fn print(text: &str) {
    for line in text.lines() {
        emergency_line(format_args!("{line}"));
    }
}

/// Runs the handler of `key`; unknown keys say nothing, as in Xen.
pub fn handle(hv: &'static Hv, key: u8) {
    let list: alloc::vec::Vec<KeyHandler> = handlers().collect();
    let Some(handler) = find(&list, key) else {
        return;
    };
    with_everything(|| match key {
        b'h' => {
            let mut text = String::new();
            let _ = write_help(&list, &mut text);
            print(&text);
        }
        b'*' => {
            for handler in list.iter().filter(|handler| handler.is_diagnostic) {
                let mut title = String::new();
                let _ = write_diagnostic_title(handler, &mut title);
                print(&title);
                run(hv, handler.key);
            }
        }
        _ => run(hv, handler.key),
    });
}

fn run(hv: &'static Hv, key: u8) {
    let mut text = String::new();
    let _ = match key {
        b'R' => {
            emergency_line(format_args!("'R' pressed -> rebooting machine"));
            power::restart()
        }
        b'q' => domains(hv, &mut text),
        b'd' => registers(hv, &mut text),
        b'r' => run_queue(hv, &mut text),
        b'm' => memory(hv, &mut text),
        b'e' => events(hv, &mut text),
        b't' => clocks(hv, &mut text),
        _ => Ok(()),
    };
    print(&text);
}

fn domains(hv: &'static Hv, out: &mut String) -> core::fmt::Result {
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

fn registers(hv: &'static Hv, out: &mut String) -> core::fmt::Result {
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

fn run_queue(hv: &'static Hv, out: &mut String) -> core::fmt::Result {
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

fn memory(hv: &'static Hv, out: &mut String) -> core::fmt::Result {
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

fn events(hv: &'static Hv, out: &mut String) -> core::fmt::Result {
    writeln!(out, "'e' pressed -> dumping event-channel info")?;
    for domain in hv.domains.all() {
        domain.events.lock().dump(out)?;
    }
    Ok(())
}

fn clocks(hv: &'static Hv, out: &mut String) -> core::fmt::Result {
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
