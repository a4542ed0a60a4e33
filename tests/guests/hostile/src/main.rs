//! A guest that does what it should not, and a witness beside it.
//!
//! The domain whose command line says `domain=domU1` attacks; every other one is a witness, which checks its memory, its
//! timer and its event channels for ever and says so. The attacks are in the classes of advisories against Xen. Each
//! class prints a line when it is through; at the end the guest executes random words until nothing is left of it.
#![no_std]
#![no_main]

mod calls;
mod devices;
mod processor;
mod random;
mod witness;

use guest_lib::{Start, println};
use random::Random;

guest_lib::main!(start);

/// What an attack has to do with.
pub struct Attack<'a> {
    /// What the guest was started with.
    pub start: &'a Start,
    /// What it draws from.
    pub random: Random,
}

fn start(start: &Start) {
    let arguments = start.platform.bootargs;
    if !arguments.contains("domain=domU1") {
        witness::run(start);
    }
    println!("hostile: begins, {arguments}");
    calls::init(start);
    // No domain of the translation faults: QEMU 10.0 ends itself ("arm_fi_to_lfsc: code should not be reached") when the
    // hypervisor's translation of a guest's address (ATS12NSO) meets such a fault.
    // SAFETY: the tables of guest-lib use domain 0 only.
    unsafe { core::arch::asm!("mcr p15, 0, {0}, c3, c0, 0", "isb", in(reg) 0x5555_5555) };
    let mut attack = Attack {
        start,
        random: Random(0x9e37_79b9_7f4a_7c15),
    };
    type Class = fn(&mut Attack);
    let classes: [(&str, Class); 22] = [
        ("device-registers", devices::registers),
        ("device-instructions", devices::instructions),
        ("device-holes", devices::holes),
        ("console-flood", devices::console_flood),
        ("sgi-storm", devices::sgi_storm),
        ("interrupt-storm", devices::interrupt_storm),
        ("timers", devices::timers),
        ("coprocessor-reads", processor::coprocessor_reads),
        ("coprocessor-writes", processor::coprocessor_writes),
        ("calls-of-firmware", processor::firmware),
        ("set-way", processor::set_way),
        ("tlb-flood", processor::tlb_flood),
        ("waits", processor::waits),
        ("exclusives", processor::exclusives),
        ("stage-2-faults", processor::stage_two_faults),
        ("read-only", calls::read_only),
        ("cpu-on", calls::second_cpu),
        ("hypercalls", calls::any_numbers),
        ("changing-tables", calls::changing_tables),
        ("event-storm", calls::event_storm),
        ("grants", calls::grants),
        ("balloon", calls::balloon),
    ];
    for (name, class) in classes {
        println!("hostile: {name} begins");
        class(&mut attack);
        println!("hostile: {name} done");
    }
    println!("hostile: all done; now at random.");
    processor::at_random(&mut attack);
}
