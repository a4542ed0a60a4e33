//! Watchdog timers (SCHEDOP_watchdog), with `demo=watchdog` in three domains: the first arms one and hangs, the third keeps
//! one quiet for a while and then sleeps. Neither may be heard again. The second keeps one quiet, stops it, and lives.
//! `demo=watchdog-alone`: one arms a timer and sleeps for ever, on a machine where nothing else happens.

use guest_lib::hypercall::op;
use guest_lib::{Start, cpu, gic, println, timer};
use xen_abi::hypercall as nr;
use xen_abi::sched::{SCHEDOP_WATCHDOG, SchedWatchdog};

const EEXIST: i32 = -17;
const EINVAL: i32 = -22;

fn set(id: u32, timeout: u32) -> i32 {
    let mut watchdog = SchedWatchdog { id, timeout };
    op(nr::HYPERVISOR_SCHED_OP, SCHEDOP_WATCHDOG, &mut watchdog)
}

fn spin(quarters: u64) {
    let end = cpu::cntvct() + quarters * u64::from(cpu::cntfrq()) / 4;
    while cpu::cntvct() < end {}
}

/// Longer than the timer's one second, setting it anew again and again.
fn pet() -> bool {
    (0..10).all(|_| {
        spin(1);
        set(1, 1) == 0
    })
}

/// Does its part, if the command line asks for it.
pub fn run(start: &Start) -> bool {
    let arguments = start.platform.bootargs;
    if !arguments.contains("demo=watchdog") {
        return false;
    }
    if arguments.contains("demo=watchdog-alone") {
        println!("demo: watchdog: armed {}, sleeps", set(0, 2));
        cpu::wfi();
    }
    let domain = ["domain=domU1", "domain=domU2", "domain=domU3"]
        .iter()
        .position(|name| arguments.contains(name));
    // Interrupts are masked from the start.
    match domain {
        Some(0) => {
            println!("demo: watchdog: armed {}, hangs", set(0, 1));
            spin(24);
        }
        Some(1) => {
            let taken = [set(0, 1), set(0, 1), set(0, 1), set(3, 1)];
            let stopped = [set(2, 0), set(2, 0)];
            println!(
                "demo: watchdog: timers {}",
                taken == [1, 2, EEXIST, EINVAL] && stopped == [0, EINVAL]
            );
            println!("demo: watchdog: kept quiet {}", pet());
            let stopped = set(1, 0);
            spin(8);
            println!("demo: watchdog: stopped {}", stopped == 0);
            // What the others would say if they were still there comes before this.
            spin(16);
            println!("demo: watchdog: lives");
            return true;
        }
        _ => {
            let armed = set(0, 1);
            println!(
                "demo: watchdog: armed {armed}, kept quiet {}, sleeps",
                pet()
            );
            let irq = start.platform.timers[2];
            timer::set_virtual_compare(cpu::cntvct() + 4 * u64::from(cpu::cntfrq()));
            timer::set_virtual_control(1);
            // A masked interrupt ends the sleep.
            gic::enable(irq);
            cpu::wfi();
        }
    }
    println!("demo: watchdog: FAIL: still here");
    true
}
