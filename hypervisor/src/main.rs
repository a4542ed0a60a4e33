//! The hypervisor binary: the only place that knows everything. It builds the [`machine::Machine`], makes dom0 and runs
//! it.
//!
//! Built for the host it is no hypervisor: `cargo run` starts `scripts/run`, which builds the real one and boots it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

// Handling a trap needs the binary's types and the architecture's registers: what differs is below one name.
#[cfg(target_os = "none")]
mod aarch32;
#[cfg(all(target_os = "none", target_arch = "arm"))]
#[path = "arm32/mod.rs"]
mod arch;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
#[path = "arm64/mod.rs"]
mod arch;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod builder;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod crash;
#[cfg(target_os = "none")]
mod dom0;
#[cfg(target_os = "none")]
mod dom0less;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod keys;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod power;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod trace;
#[cfg(target_os = "none")]
mod traps;
#[cfg(target_os = "none")]
mod uart;
#[cfg(target_os = "none")]
mod vcpu;

#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: xenith_hw::heap::LockedHeap = xenith_hw::heap::LockedHeap::new();

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/run");
    match std::process::Command::new(script)
        .args(std::env::args_os().skip(1))
        .status()
    {
        Ok(status) if status.success() => std::process::ExitCode::SUCCESS,
        Ok(_) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{script} cannot be run: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
