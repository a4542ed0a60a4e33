//! Attacks by instructions: coprocessors, firmware, caches, TLBs, waits, exclusives, faults.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use guest_lib::exceptions::Fault;
use guest_lib::memory::Page;
use guest_lib::{cpu, gic, println, probe};
use xen_abi::smccc;

use crate::Attack;

const RETURN: u32 = 0xe12f_ff1e;

/// A place for instructions made up.
static CODE: Page = Page::new();

/// Executes words, with r0 and r1 as given, up to the first fault.
fn execute(words: &[u32], r0: u32, r1: u32) -> Option<Fault> {
    for (slot, word) in CODE.0.iter().zip(words.iter().chain(&[RETURN, RETURN])) {
        slot.store(*word, Relaxed);
    }
    let at = &raw const CODE as u32;
    probe!(
        [
            "mcr p15, 0, r4, c7, c11, 1", // DCCMVAU
            "dsb",
            "mcr p15, 0, r4, c7, c5, 1", // ICIMVAU
            "mcr p15, 0, r4, c7, c5, 6", // BPIALL
            "dsb",
            "isb",
            "blx r4"
        ],
        inout("r4") at => _, inout("r0") r0 => _, inout("r1") r1 => _, out("r2") _, out("r5") _, out("lr") _
    )
}

/// MRC (or MCR) of coprocessor `cp`, r0.
fn transfer(read: bool, cp: u32, opc1: u32, crn: u32, crm: u32, opc2: u32) -> u32 {
    0xee00_0010 | u32::from(read) << 20 | opc1 << 21 | crn << 16 | cp << 8 | opc2 << 5 | crm
}

/// Every register of cp14 and cp15, and the other coprocessors' beginnings.
pub fn coprocessor_reads(_: &mut Attack) {
    let (mut there, mut faults) = (0, 0);
    let mut count = |word| match execute(&[word], 0, 0) {
        Some(_) => faults += 1,
        None => there += 1,
    };
    for cp in [14, 15] {
        for number in 0..8 * 16 * 16 * 8u32 {
            let (opc1, crn) = (number & 7, number >> 3 & 15);
            let (crm, opc2) = (number >> 7 & 15, number >> 11 & 7);
            count(transfer(true, cp, opc1, crn, crm, opc2));
        }
        for number in 0..256 {
            // MRRC r0, r1.
            count(0xec51_0000 | cp << 8 | (number & 15) << 4 | number >> 4);
        }
    }
    for cp in 0..14 {
        count(transfer(true, cp, 0, 0, 0, 0));
        // LDC and CDP.
        count(0xed90_0000 | cp << 8);
        count(0xee00_0000 | cp << 8);
    }
    // LDC of the debug register, which has a syndrome of its own.
    count(0xed90_5e00);
    println!("hostile: {there} registers answered, {faults} did not");
}

/// Writes to what is not this guest's: identification, performance monitors, lockdown, cp14, implementation defined.
pub fn coprocessor_writes(a: &mut Attack) {
    let mut faults = 0;
    for round in 0..12_000u32 {
        let (cp, crn) = match round % 6 {
            0 => (14, a.random.below(16)),
            1 => (15, 0),
            2 => (15, 9),
            3 => (15, 11),
            4 => (15, 15),
            _ => (15, 14),
        };
        let (opc1, crm, opc2) = (a.random.below(8), a.random.below(16), a.random.below(8));
        // The virtual timer is its own.
        let word = transfer(false, cp, opc1, crn, crm, opc2);
        faults += u32::from(execute(&[word], a.random.odd(), 0).is_some());
    }
    for number in 0..256u32 {
        let crm = number & 15;
        if crm != 2 && crm != 7 {
            // MCRR; not the translation tables.
            let word = 0xec41_0f00 | (number >> 4) << 4 | crm;
            faults += u32::from(execute(&[word], a.random.odd(), a.random.odd()).is_some());
        }
    }
    // Its own state again.
    guest_lib::timer::set_virtual_control(0);
    guest_lib::timer::set_physical_control(0);
    println!("hostile: {faults} faults of mine");
}

/// HVC and SMC with any immediate, and calls of the firmware with any function.
pub fn firmware(a: &mut Attack) {
    let mut faults = 0;
    for round in 0..4000u32 {
        let immediate = if round < 256 {
            round
        } else {
            a.random.next() & 0xffff
        };
        // 0 is the firmware's, 0xea1 hypercalls: they have their turn.
        if immediate != 0 && immediate != 0xea1 {
            let word = 0xe140_0070 | (immediate >> 4) << 8 | immediate & 15;
            faults += u32::from(execute(&[word], a.random.odd(), a.random.odd()).is_some());
        }
        let word = 0xe160_0070 | round & 15;
        let function = match round % 3 {
            0 => smccc::PSCI_VERSION | a.random.below(0x20),
            1 => 0x8000_0000 | a.random.odd(),
            _ => a.random.odd(),
        };
        let ends = |function: u32| {
            matches!(
                function & !smccc::PSCI_64_BIT,
                smccc::PSCI_SYSTEM_OFF
                    | smccc::PSCI_SYSTEM_RESET
                    | smccc::PSCI_CPU_OFF
                    | smccc::PSCI_CPU_ON
                    | smccc::PSCI_SYSTEM_SUSPEND
                    | smccc::PSCI_CPU_SUSPEND
                    | 1..=3
            )
        };
        if !ends(function) {
            faults += u32::from(execute(&[word], function, a.random.odd()).is_some());
            faults += u32::from(execute(&[0xe140_0070], function, a.random.odd()).is_some());
        }
    }
    println!("hostile: {faults} faults of mine");
}

/// Cache maintenance by set and way, which is trapped, with good and bad numbers.
pub fn set_way(a: &mut Attack) {
    for round in 0..600 {
        let value = if round % 2 == 0 {
            round << 6
        } else {
            a.random.next()
        };
        // SAFETY: a guest's set/way maintenance is the hypervisor's to do right; an invalidation is made a clean one.
        unsafe {
            asm!("mcr p15, 0, {0}, c7, c6, 2", "mcr p15, 0, {0}, c7, c10, 2", "mcr p15, 0, {0}, c7, c14, 2", in(reg) value);
        }
    }
}

/// TLB and cache maintenance for all processors.
pub fn tlb_flood(a: &mut Attack) {
    for _ in 0..4000 {
        let value = a.random.next();
        // SAFETY: only cached translations and instructions are dropped.
        unsafe {
            asm!(
                "mcr p15, 0, {0}, c8, c3, 0", "mcr p15, 0, {0}, c8, c3, 1", "mcr p15, 0, {0}, c8, c3, 2",
                "mcr p15, 0, {0}, c8, c3, 3", "mcr p15, 0, {0}, c8, c7, 0", "mcr p15, 0, {0}, c8, c7, 1",
                "mcr p15, 0, {0}, c7, c1, 0", "mcr p15, 0, {0}, c7, c5, 0", "mcr p15, 0, {0}, c7, c5, 6",
                "dsb", "isb", in(reg) value
            );
        }
    }
}

/// WFI and WFE that do not wait.
pub fn waits(a: &mut Attack) {
    // An interrupt that is pending and masked ends every wait.
    gic::write(gic::GICD_SGIR, gic::sgi_self(3));
    for _ in 0..8000 {
        cpu::wfi();
    }
    for _ in 0..8000 {
        // SAFETY: hints.
        unsafe { asm!("sev", "wfe", "wfe", "yield", options(nostack)) };
    }
    cpu::enable_irq();
    cpu::disable_irq();
    // And conditional ones that are not executed.
    for _ in 0..2000 {
        // SAFETY: hints.
        unsafe { asm!("cmp r0, r0", "wfine", "wfene", options(nostack)) };
    }
    let _ = a;
}

static WORDS: Page = Page::new();

/// Exclusive accesses without ends, ends without beginnings, and across traps into the hypervisor.
pub fn exclusives(a: &mut Attack) {
    let word = WORDS.word(64).as_ptr();
    let (mut kept, mut rounds) = (0u32, 0);
    for round in 0..20_000u32 {
        let failed: u32;
        // SAFETY: the word is ours.
        unsafe {
            asm!("ldrex {0}, [{1}]", out(reg) _, in(reg) word, options(nostack));
        }
        match round % 4 {
            // A trap that is handled, a hypercall, a fault, nothing.
            0 => {
                let _ = cpu::actlr();
            }
            1 => {
                let _ = guest_lib::hypercall::xen_version(0);
            }
            2 => {
                let _ = probe!(["ldr r0, [r0]"], inout("r0") 0x1000_0000 => _);
            }
            _ => {}
        }
        // SAFETY: the word is ours.
        unsafe {
            asm!("strex {0}, {1}, [{2}]", out(reg) failed, in(reg) round, in(reg) word, options(nostack));
        }
        rounds += 1;
        kept += u32::from(failed == 0 && round % 4 != 3);
    }
    println!("hostile: {kept} of {rounds} exclusives survived a trap");
    let _ = a;
}

/// Loads, stores and fetches where stage 2 maps nothing.
pub fn stage_two_faults(a: &mut Attack) {
    let mut faults = 0;
    for round in 0..12_000u32 {
        let address = 0xc000_0000 | a.random.next() >> 3;
        faults += u32::from(
            match round % 5 {
                0 => probe!(["ldr r0, [r0]"], inout("r0") address => _),
                1 => probe!(["str r0, [r0]"], inout("r0") address => _),
                2 => probe!(["ldm r0, {{r1, r2, r4, r5}}"], inout("r0") address & !3 => _, out("r1") _, out("r2") _, out("r4") _, out("r5") _),
                3 => probe!(["blx r0"], inout("r0") address & !3 => _, out("lr") _),
                // A table walk that faults: an address translation.
                _ => probe!(["mcr p15, 0, r0, c7, c8, 0", "isb", "mrc p15, 0, r0, c7, c4, 0"], inout("r0") address => _),
            }
            .is_some(),
        );
    }
    println!("hostile: {faults} faults of mine");
    // VFP and NEON state with any control, so that it is loaded and saved all the time.
    for round in 0..200u32 {
        let _ = execute(
            &[
                0xee11_0f50,                      // mrc CPACR
                0xe380_060f,                      // orr r0, #0xf00000
                0xee01_0f50,                      // mcr CPACR
                0xf57f_f06f,                      // isb
                0xe3a0_1101,                      // mov r1, #0x40000000
                0xeee8_1a10,                      // vmsr fpexc, r1
                0xeee1_0a10 | (round & 15) << 12, // vmsr fpscr, rN
                0xf420_0a0f | (round & 1) << 21,  // a NEON load or store at r0
            ],
            0,
            0,
        );
    }
}

/// Random words as instructions until the guest is beyond help; then faults for ever.
pub fn at_random(a: &mut Attack) {
    loop {
        let mut words = [0u32; 12];
        for word in &mut words {
            *word = match a.random.below(4) {
                // Always executed: coprocessors, loads and stores, anything.
                0 => 0xee00_0000 | a.random.next() & 0x00ff_ffff,
                1 => 0xe400_0000 | a.random.next() & 0x0bff_ffff,
                2 => 0xe000_0000 | a.random.next() & 0x0fff_ffff,
                _ => a.random.next(),
            };
            // Not the domains of its translation, which QEMU cannot bear (see `calls`).
            if *word >> 24 & 15 == 14 && *word >> 16 & 15 == 3 {
                *word = RETURN;
            }
        }
        let _ = execute(&words, a.random.odd(), a.random.odd());
    }
}
