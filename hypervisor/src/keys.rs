//! Debug keys: what a character typed to the hypervisor's console shows or does.

use core::fmt::Write;
use core::sync::atomic::Ordering;

use xenith_arch::guest_memory::this_cpu;
use xenith_core::console::Lines;
use xenith_core::console::keys::{KeyHandler, find, standard, write_diagnostic_title, write_help};
use xenith_core::domain::{Domain, Vcpu};

use crate::console::{print_line, with_everything};
use crate::machine::{Hv, Machine};
use crate::power;
use crate::smp::{self, Request};

/// The keys that do something here.
const KEYS: [u8; 10] = *b"*RTdehmqrt";

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
        b'T' => {
            crate::trace::toggle(hv);
            Ok(())
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
        let (account, tables) = {
            let p2m = domain.p2m.lock();
            (p2m.account().clone(), p2m.stage2().table_pages())
        };
        let state = domain.shutdown().map_or("running", |_| "shut down");
        writeln!(
            out,
            "General information for domain {}:",
            domain.facts.id.raw()
        )?;
        writeln!(
            out,
            "    {state} nr_pages={} max_pages={} table_pages={tables}",
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
                "    VCPU{}: CPU{} state={:?} upcall_pend={} irq_pend={} blocked={}",
                vcpu.id.raw(),
                vcpu.last_cpu().index(),
                clock.state,
                u8::from(domain.events.lock().upcall_pending(vcpu.id)),
                u8::from(domain.vgic.lock().has_deliverable(vcpu.id, 0xf8)),
                u8::from(vcpu.is_blocked.load(Ordering::Relaxed)),
            )?;
        }
        domain.vgic.lock().dump(out)?;
    }
    Ok(())
}

fn registers(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(out, "'d' pressed -> dumping registers")?;
    for domain in hv.domains.all() {
        for vcpu in &domain.vcpus {
            let (domain, id) = (domain.facts.id.raw(), vcpu.id.raw());
            // Locked: the pCPU that has it loaded prints what it can.
            if let Some(context) = vcpu.context.try_lock() {
                writeln!(out, "*** Dumping d{domain}v{id} state: ***")?;
                context.frame.dump(out)?;
            }
        }
    }
    smp::ask_others(Request::Dump);
    host_state(None, out)
}

/// Prints this pCPU's registers; another asked for them.
pub fn dump_this_cpu(loaded: Option<(&Domain<Machine>, &Vcpu<Machine>)>) {
    let mut out = Lines::new(|line| print_line(format_args!("{line}")));
    let _ = host_state(loaded, &mut out);
}

fn host_state(
    loaded: Option<(&Domain<Machine>, &Vcpu<Machine>)>,
    out: &mut dyn Write,
) -> core::fmt::Result {
    let cpu = this_cpu().index();
    writeln!(out, "*** Dumping CPU{cpu} host state: ***")?;
    if let Some((domain, vcpu)) = loaded {
        let (domain, id) = (domain.facts.id.raw(), vcpu.id.raw());
        writeln!(out, "CPU{cpu}: d{domain}v{id} is loaded")?;
    }
    xenith_arch::dump_registers(&format_args!("CPU{cpu}"), out)
}

fn run_queue(hv: &'static Hv, out: &mut dyn Write) -> core::fmt::Result {
    writeln!(out, "'r' pressed -> dumping run queues")?;
    writeln!(out, "sched_smt_power_savings: disabled")?;
    writeln!(out, "NOW={}", now_ns(hv))?;
    hv.scheduler.with(|pools, _, _| pools.dump(out))?;
    for domain in hv.domains.all() {
        for vcpu in &domain.vcpus {
            let clock = *vcpu.runstate.lock();
            write!(
                out,
                "  d{}v{} {:?}",
                domain.facts.id.raw(),
                vcpu.id.raw(),
                clock.state
            )?;
            if let Some(cpu) = vcpu.loaded_on() {
                write!(out, " CPU{}", cpu.index())?;
            }
            writeln!(
                out,
                " running={} ns runnable={} ns blocked={} ns",
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
