//! The trace at work: a ring for each pCPU, which only that pCPU writes to, and the mask that says what is traced.
//!
//! Statics, since what is traced happens everywhere; while nothing is traced an event costs a load and a branch.

use xenith_arch::guest_memory::this_cpu;
use xenith_arch::timer;
use xenith_core::addr::CpuId;
use xenith_core::domain::{Domain, Vcpu};
use xenith_core::sync::SpinLock;
use xenith_core::trace::dump::TextDump;
use xenith_core::trace::{Classes, Event, Header, Subject, TraceMask, TraceRing};

use crate::console::print_line;
use crate::machine::{Hv, Machine, grow_heap_if_low};
use crate::smp;

/// Records of a pCPU's ring: 96 KiB.
const RECORDS: usize = 4096;

static MASK: TraceMask = TraceMask::new(Classes::empty());
/// Taken by its own pCPU to write, for a moment, and by a dump once nothing is written any more.
static RINGS: [SpinLock<Option<TraceRing>>; smp::MAX_CPUS] =
    [const { SpinLock::new(None) }; smp::MAX_CPUS];

/// Returns whether any of these classes is traced.
#[inline(always)]
pub fn is_on(classes: Classes) -> bool {
    MASK.classes().intersects(classes)
}

/// Records an event if its class is traced.
#[inline(always)]
pub fn record(event: Event, subject: Subject, arguments: [u32; 2]) {
    if is_on(event.class()) {
        write(event, subject, arguments);
    }
}

#[cold]
fn write(event: Event, subject: Subject, arguments: [u32; 2]) {
    if let Some(ring) = RINGS.get(this_cpu().index())
        && let Some(mut ring) = ring.try_lock()
        && let Some(ring) = ring.as_mut()
    {
        ring.write(timer::now(), event, subject, arguments);
    }
}

/// Returns whom an event of this vCPU is about.
#[inline]
pub fn subject(domain: &Domain<Machine>, vcpu: &Vcpu<Machine>) -> Subject {
    Subject::vcpu(domain.facts.id, vcpu.id)
}

/// Switches these classes on. Rings are made where there are none yet; without memory for one that pCPU is not traced.
pub fn start(hv: &'static Hv, classes: Classes) {
    for cpu in smp::online().iter() {
        let Some(slot) = RINGS.get(cpu.index()) else {
            continue;
        };
        if slot.lock().is_some() {
            continue;
        }
        let ring = TraceRing::allocate(cpu, RECORDS).or_else(|error| {
            if grow_heap_if_low(hv) {
                TraceRing::allocate(cpu, RECORDS)
            } else {
                Err(error)
            }
        });
        match ring {
            Ok(ring) => *slot.lock() = Some(ring),
            Err(error) => log::warn!("trace: no memory for CPU{}: {error:?}", cpu.index()),
        }
    }
    MASK.set(classes);
}

/// The debug key: starts a trace of everything, or ends the one that runs and prints it.
pub fn toggle(hv: &'static Hv) {
    if MASK.classes().is_empty() {
        for ring in &RINGS {
            if let Some(ring) = ring.lock().as_mut() {
                ring.clear();
            }
        }
        start(hv, Classes::ALL);
        print_line(format_args!(
            "trace: on; the same key again ends and prints it"
        ));
        return;
    }
    MASK.set(Classes::empty());
    let now = timer::now();
    let header = Header::new(
        hv.scale.frequency() as u32,
        smp::online().len() as u16,
        hv.boot_ticks,
    );
    for (cpu, ring) in (0..).map(CpuId::new).zip(&RINGS) {
        let guard = ring.lock();
        let Some(ring) = guard.as_ref() else { continue };
        print_line(format_args!("trace: CPU{}:", cpu.index()));
        let mut dump = TextDump::new(now as u16, header, ring);
        while let Some(line) = dump.next_line(ring) {
            print_line(format_args!("{}", line.as_str()));
        }
    }
    print_line(format_args!("trace: end; scripts/trace2json draws it"));
}
