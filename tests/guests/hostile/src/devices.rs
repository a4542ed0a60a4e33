//! Attacks on emulated devices, interrupts and timers.

use guest_lib::exceptions::{set_irq_hook, taken};
use guest_lib::{cpu, gic, print, println, probe, timer};

use crate::Attack;

/// The instructions to reach a device with: address in r0, values in r1 and r2 (and r6, r7 for the long ones).
macro_rules! touch {
    ($address:expr, $value:expr, $($instruction:literal),+) => {
        probe!([$($instruction),+],
            inout("r0") $address => _, inout("r1") $value => _, inout("r2") $value => _, out("r4") _, out("r5") _)
    };
}

/// One access in one of many ways.
fn access(address: u32, value: u32, how: u32) -> bool {
    let fault = match how % 22 {
        0 => touch!(address, value, "ldr r1, [r0]"),
        1 => touch!(address, value, "str r1, [r0]"),
        2 => touch!(address, value, "ldrh r1, [r0]"),
        3 => touch!(address, value, "strh r1, [r0]"),
        4 => touch!(address, value, "ldrb r1, [r0]"),
        5 => touch!(address, value, "strb r1, [r0]"),
        6 => touch!(address, value, "ldrsh r1, [r0]"),
        7 => touch!(address, value, "ldrsb r1, [r0]"),
        8 => touch!(address, value, "ldrd r4, r5, [r0]"),
        9 => touch!(
            address,
            value,
            "mov r4, r1",
            "mov r5, r2",
            "strd r4, r5, [r0]"
        ),
        10 => touch!(address, value, "ldm r0, {{r1, r2, r4, r5}}"),
        11 => touch!(address, value, "stm r0, {{r1, r2}}"),
        12 => touch!(address, value, "ldr r1, [r0], #4"),
        13 => touch!(address, value, "str r1, [r0, #4]!"),
        14 => touch!(address, value, "ldmdb r0!, {{r1, r2}}"),
        15 => touch!(address, value, "ldrex r1, [r0]", "clrex"),
        16 => touch!(address, value, "ldrex r2, [r0]", "strex r4, r1, [r0]"),
        17 => touch!(address, value, "ldrexd r4, r5, [r0]", "clrex"),
        18 => touch!(address, value, "strex r4, r1, [r0]"),
        19 => touch!(address, value, "ldrt r1, [r0]"),
        20 => touch!(address, value, "strht r1, [r0], #2"),
        _ => touch!(address, value, "pld [r0]", "mcr p15, 0, r0, c7, c14, 1"),
    };
    fault.is_some()
}

/// Every offset of the distributor, the CPU interface and the UART, in every width, aligned or not.
pub fn registers(a: &mut Attack) {
    let platform = &a.start.platform;
    let (gicd, gicc, uart) = (platform.gicd, platform.gicc, platform.uart);
    let mut faults = 0;
    for offset in 0..0x1000u32 {
        let how = a.random.next();
        // Writes that leave this guest its own interrupts: what is sent goes anywhere.
        faults += u32::from(access(gicd as u32 + offset, a.random.odd(), how));
        if offset % 4 == 0 {
            faults += u32::from(access(gicd as u32 + offset, a.random.odd(), how % 2));
        }
    }
    for offset in (0..0x2000u32).step_by(4).filter(|offset| *offset != 0x0c) {
        faults += u32::from(access(gicc as u32 + offset, 0, 0));
    }
    for offset in 0..if uart == 0 { 0 } else { 0x1000u32 } {
        // Not the data register: the console flood comes later.
        if offset >= 4 {
            faults += u32::from(access(
                uart as u32 + offset,
                a.random.odd(),
                a.random.next(),
            ));
        }
    }
    for offset in [0xffd, 0xffe, 0xfff, 0x1000 - 8, 0xffc] {
        for how in 0..22 {
            faults += u32::from(access(gicd as u32 + offset, 0, how));
        }
    }
    println!("hostile: {faults} faults of mine");
    gic::init(gicd, gicc);
}

/// All instructions on one register, also in Thumb state and with the base at the page's ends.
pub fn instructions(a: &mut Attack) {
    let gicd = a.start.platform.gicd as u32;
    for round in 0..3000 {
        let address = gicd + (a.random.next() & 0xfff);
        let _ = access(address, a.random.odd(), round);
    }
    gic::init(a.start.platform.gicd, a.start.platform.gicc);
}

/// Places where nothing is, or something of the host's.
pub fn holes(a: &mut Attack) {
    let mut faults = 0;
    // QEMU's own devices: UART, RTC, GPIO, flash, virtio, the GIC; and holes.
    for base in [
        0x0u32,
        0x0800_0000,
        0x0801_0000,
        0x0802_0000,
        0x0803_0000,
        0x0804_0000,
        0x0900_0000,
        0x0901_0000,
        0x0903_0000,
        0x0a00_0000,
        0x1000_0000,
        0x3eff_0000,
        0x2f00_0000,
        0xf000_0000,
        0xffff_f000,
    ] {
        for offset in [0u32, 4, 0x100, 0xff8, 0xffc, 0xfff] {
            for how in 0..22 {
                faults += u32::from(access(base.wrapping_add(offset), 0x5555_5555, how));
            }
        }
    }
    for round in 0..4000 {
        // Not in its own RAM.
        let address = a.random.next() & 0x2fff_ffff | 0x0800_0000;
        if address >> 20 != a.start.platform.gicd as u32 >> 20 && address < 0x2000_0000 {
            faults += u32::from(access(address, 0xaaaa_aaaa, round));
        }
    }
    println!("hostile: {faults} faults of mine");
}

/// Much to read, some of it not fit to be printed, and what pretends to be somebody else's.
pub fn console_flood(a: &mut Attack) {
    for line in 0..40 {
        println!(
            "hostile: flood {line:02} ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz"
        );
    }
    print!("(XE");
    println!("N) d2: this is not the hypervisor's\x07");
    for _ in 0..2000 {
        let byte = (a.random.next() & 0x7f) as u8;
        // Control characters of all kinds; the terminal is not ours to confuse for long.
        if byte != 0x1b {
            print!("{}", char::from(byte));
        }
    }
    println!();
    // One line without an end.
    for _ in 0..600 {
        print!("0123456789");
    }
    println!();
}

fn on_irq(intid: u32, _time: u64) {
    if intid >= 16 {
        // Perhaps a timer.
        timer::set_virtual_control(0);
        timer::set_physical_control(0);
    }
}

/// SGIs to everybody, as fast as can be, taken and not.
pub fn sgi_storm(a: &mut Attack) {
    set_irq_hook(on_irq);
    for round in 0..30_000u32 {
        // Target filters 0 to 3, of which 3 is reserved, any list, any number.
        let value = match round % 3 {
            0 => gic::sgi_self(round % 16),
            1 => 0x00ff_0000 | (round & 15),
            _ => a.random.next(),
        };
        gic::write(gic::GICD_SGIR, value);
        if round % 1000 == 0 {
            gic::write(gic::GICD_SPENDSGIR, 0xffff_ffff);
            cpu::enable_irq();
            cpu::disable_irq();
        }
    }
    cpu::enable_irq();
    println!("hostile: {} SGIs came", (0..16).map(taken).sum::<u32>());
    cpu::disable_irq();
}

/// Every interrupt pending, active, enabled, of any priority and configuration, all the time.
pub fn interrupt_storm(a: &mut Attack) {
    for round in 0..3000 {
        let register = match a.random.below(9) {
            0 => gic::GICD_ISENABLER,
            1 => gic::GICD_ICENABLER,
            2 => gic::GICD_ISPENDR,
            3 => gic::GICD_ICPENDR,
            4 => gic::GICD_ISACTIVER,
            5 => gic::GICD_IPRIORITYR,
            6 => gic::GICD_ITARGETSR,
            7 => gic::GICD_ICFGR,
            _ => 0x380,
        };
        gic::write(register + 4 * a.random.below(32) as usize, a.random.odd());
        if round % 50 == 0 {
            cpu::enable_irq();
            cpu::disable_irq();
        }
    }
    let platform = &a.start.platform;
    for n in 0..32 {
        gic::write(gic::GICD_ICENABLER + 4 * n, u32::MAX);
        gic::write(gic::GICD_ICPENDR + 4 * n, u32::MAX);
        gic::write(0x380 + 4 * n, u32::MAX);
    }
    gic::init(platform.gicd, platform.gicc);
}

/// Deadlines in the past, at the end of time, and changed all the time; interrupts masked and not.
pub fn timers(a: &mut Attack) {
    let irqs = a.start.platform.timers;
    for irq in [irqs[1], irqs[2]].into_iter().filter(|irq| *irq != 0) {
        gic::enable(irq);
    }
    for round in 0..6000u64 {
        let deadline = match round % 7 {
            0 => 0,
            1 => u64::MAX,
            2 => cpu::cntvct(),
            3 => cpu::cntvct().wrapping_sub(1),
            4 => 1 << 63,
            5 => cpu::cntvct() + 100,
            _ => u64::from(a.random.next()) << a.random.below(33),
        };
        timer::set_virtual_compare(deadline);
        timer::set_physical_compare(deadline);
        timer::set_virtual_control(a.random.below(4));
        timer::set_physical_control(a.random.below(4));
        if round % 64 == 0 {
            cpu::enable_irq();
            cpu::disable_irq();
        }
    }
    timer::set_virtual_control(0);
    timer::set_physical_control(0);
}
