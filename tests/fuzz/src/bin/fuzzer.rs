//! The targets under libFuzzer; the variable `XENITH_FUZZ` says which. `scripts/fuzz` builds and starts this.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use xenith_fuzz::{Target, target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("XENITH_FUZZ").expect("XENITH_FUZZ names a target: use scripts/fuzz");
    target(&name).expect("XENITH_FUZZ names a target: scripts/fuzz --list")
}

fuzz_target!(|bytes: &[u8]| {
    (TARGET.get_or_init(chosen).run)(bytes);
});
