//! Two domains that talk: events back and forth over a static channel, then data through grants, mapped and copied, with
//! checksums. The domain with `domain=domU1` on its command line asks and grants, the other answers and maps.
//!
//! `pair=` on the command line says what happens afterwards:
//! * nothing: both power off.
//! * `a-crashes`, `b-crashes`: one of them crashes while grants are mapped; the other goes on, and says so.
//! * `b-ends`: the second powers itself off while it has grants mapped.
//! * `real-xen`: nobody writes where it may not (the real Xen lets such a store fault for ever) or looks into new pages (it
//!   clears those of domains that are gone).
//! * `v2`: version 2 of the grant table, before the rest.
//!
//! With `peer=N`, the number of another domain, it is of the domains that [`apart`] describes.
//!
//! What goes wrong is a panic, which the tests see. Lines begin with `pair-a:` or `pair-b:`.
#![no_std]
#![no_main]

mod answers;
mod apart;
mod asks;
mod link;
mod versions;

use guest_lib::hypercall::op;
use guest_lib::{Start, println};
use xen_abi::hypercall as nr;
use xen_abi::sched::{SCHEDOP_SHUTDOWN, SHUTDOWN_CRASH, SchedShutdown};

guest_lib::main!(pair);

/// Which domain dies in the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// None.
    Good,
    /// The one that grants crashes.
    FirstCrashes,
    /// The one that maps crashes.
    SecondCrashes,
    /// The one that maps powers off.
    SecondEnds,
}

fn pair(start: &Start) {
    if apart::run(start.platform.bootargs) {
        return;
    }
    let words = || start.platform.bootargs.split(' ');
    let is_first = words().any(|word| word == "domain=domU1");
    let has = |wanted| words().any(|word| word.strip_prefix("pair=") == Some(wanted));
    let ending = match () {
        () if has("a-crashes") => Ending::FirstCrashes,
        () if has("b-crashes") => Ending::SecondCrashes,
        () if has("b-ends") => Ending::SecondEnds,
        () => Ending::Good,
    };
    let name = if is_first { "a" } else { "b" };
    println!("pair-{name}: up on {}", start.platform.hypervisor);
    link::init(&start.platform, is_first);
    if has("v2") && is_first {
        versions::check();
        println!("pair-{name}: version 2 done");
    }
    if is_first {
        asks::run(ending);
    } else {
        answers::run(ending, has("real-xen"));
    }
    println!("pair-{name}: done");
}

/// Ends the domain as a kernel does that panics.
pub fn crash() -> ! {
    let mut shutdown = SchedShutdown {
        reason: SHUTDOWN_CRASH,
    };
    let result = op(nr::HYPERVISOR_SCHED_OP, SCHEDOP_SHUTDOWN, &mut shutdown);
    panic!("still here after a crash: {result}");
}
