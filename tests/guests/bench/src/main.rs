//! The benchmark guest: counts what the hypervisor's paths cost in instructions. Runs as dom0 under QEMU's
//! `-icount shift=0,sleep=off`; `scripts/bench` compares two hypervisors with it.
//!
//! Every result is a line `bench: NAME: N mean M`: N instructions of the hypervisor in an undisturbed run, M in the
//! mean of all runs. "Handler" means: up to the first instruction of the guest's interrupt or abort handler.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "arm", path = "arm32.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arm64.rs")]
mod arch;
mod cases;
mod domains;
mod interrupts;
mod measure;
mod memory;
mod pair;
mod vcpus;

use guest_lib::{Start, cpu, println};

guest_lib::main!(bench);

fn bench(start: &Start) {
    let tick = measure::instructions_per_tick();
    if let Some((_, name)) = start.platform.bootargs.split_once("domain=domU") {
        pair::run(&start.platform, name.starts_with('1'));
        return;
    }
    println!("\nbench: guest-bench on {}", start.platform.hypervisor);
    println!(
        "bench: first-instruction: {}",
        start.first_instruction * u64::from(tick)
    );
    println!("bench: instructions-per-tick: {tick}");
    if let Some(pcpus) = start.platform.bootargs.strip_prefix("pcpus=") {
        vcpus::run(if pcpus == "1" { 1 } else { 2 });
        println!("bench: done");
        return;
    }
    memory::reservation();
    // First, because afterwards interrupts are in use, as in any kernel: what looks for pending ones then costs more.
    interrupts::run(&start.platform);
    cases::run();
    memory::run(&start.platform);
    domains::run();
    println!("bench: done at {}", cpu::cntpct() * u64::from(tick));
}
