//! Attacks by hypercalls.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use guest_lib::hypercall::{event_channel, firmware_hvc, op, raw};
use guest_lib::memory::{Page, physical};
use guest_lib::{Start, cpu, events, println};
use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall as nr;
use xen_abi::memory::*;
use xen_abi::smccc;

use crate::Attack;

/// Pages that the guest can lose.
const SCRATCH: usize = 32;
/// Where pages for attacks begin, above the start of RAM: the image and its device tree lie at the end.
const FREE: u64 = 4 << 20;
/// Their address, virtual and physical.
static PAGES: AtomicUsize = AtomicUsize::new(0);

/// Says where there is RAM.
pub fn init(start: &Start) {
    PAGES.store((start.platform.banks[0].0 + FREE) as usize, Relaxed);
}

fn page(number: usize) -> &'static Page {
    // SAFETY: `init` was told of RAM, mapped flat, that is nobody's; a page's words are atomic.
    unsafe { &*(PAGES.load(Relaxed) as *const Page).add(number) }
}

/// Where structures are: two pages, as what is written across an end must not reach this guest's own tables.
fn argument() -> &'static Page {
    page(0)
}

fn address_of(page: &Page) -> usize {
    core::ptr::from_ref(page) as usize
}

/// The frame of a page that the guest can lose.
fn scratch(number: u32) -> u64 {
    (address_of(page(2 + number as usize % SCRATCH)) >> 12) as u64
}

/// Whether an address is one of this guest's own code, data or tables, at either place: what is written there is nobody's
/// fault but its own.
fn is_own(address: u32) -> bool {
    let (image, address) = (0x20_0000..0x40_0000, address as usize);
    image.contains(&address) || image.contains(&address.wrapping_sub(physical(0)))
}

/// A pointer that is not one.
fn pointer(a: &mut Attack) -> usize {
    let argument = address_of(argument());
    let platform = &a.start.platform;
    match a.random.below(12) {
        0 => 0,
        1 => usize::MAX - 3,
        2 => argument + 4096 - 4,
        3 => argument + 1,
        4 => platform.gicd,
        5 => 0x1000_0000,
        6 => 0xffff_f000,
        7 => a.random.next() as usize & 0x1fff_ffff | 0x8000_0000,
        _ => argument + 8 * a.random.below(8) as usize,
    }
}

/// A number for a field: small ones, frames of the scratch pages, holes.
fn number(a: &mut Attack) -> u32 {
    let number = match a.random.below(6) {
        0 => scratch(a.random.next()) as u32,
        1 => 0x8_0000 + a.random.below(64),
        2 => address_of(argument()) as u32 + 64 * a.random.below(32),
        _ => a.random.odd(),
    };
    if is_own(number) { 0 } else { number }
}

/// Whether the guest would end or sleep for ever.
fn ends(number: u32, command: u32) -> bool {
    number == nr::HYPERVISOR_SCHED_OP && matches!(command, 1..=6)
}

/// Every number, every sub-operation, with any arguments; multicalls of them.
pub fn any_numbers(a: &mut Attack) {
    let (mut good, mut bad) = (0u32, 0u32);
    for round in 0..6000u32 {
        if round % 1000 == 0 {
            println!("hostile: {round} calls");
        }
        for word in &argument().0[..64] {
            let value = number(a);
            word.store(value, Relaxed);
        }
        let hypercall = match round % 3 {
            0 => a.random.below(64),
            _ => [
                7, 12, 13, 17, 18, 20, 21, 24, 29, 32, 33, 34, 35, 36, 39, 41, 42,
            ][a.random.below(17) as usize],
        };
        let command = match a.random.below(4) {
            0 => a.random.odd(),
            _ => a.random.below(32),
        };
        if ends(hypercall, command) {
            continue;
        }
        let mut args = [
            command as usize,
            pointer(a),
            number(a) as usize,
            number(a) as usize,
            0,
        ];
        match hypercall {
            // A multicall: entries of which none ends the guest.
            13 => {
                // A number that does not fit a register ends the domain, as on Xen.
                for word in &argument().0[..64] {
                    word.store(0, Relaxed);
                }
                for entry in 0..4 {
                    let at = entry * 16;
                    let sub = a.random.below(40);
                    let command = a.random.below(32);
                    let sub = if ends(sub, command) || sub == 34 {
                        17
                    } else {
                        sub
                    };
                    argument().0[at].store(sub, Relaxed);
                    argument().0[at + 1].store(0, Relaxed);
                    argument().0[at + 4].store(command, Relaxed);
                    let structure = pointer(a) as u32;
                    argument().0[at + 6].store(structure, Relaxed);
                    let count = a.random.odd();
                    argument().0[at + 8].store(count, Relaxed);
                }
                args = [address_of(argument()), a.random.below(5) as usize, 0, 0, 0];
            }
            // Single pages only: the next ones may be this guest's tables.
            12 if command & 0x3f == XENMEM_DECREASE_RESERVATION => {
                args[1] = address_of(argument());
                argument().0[4].store(0, Relaxed);
            }
            20 => {
                args[2] = [1, 1, 2, 5, 3000, 0x7fff_ffff][a.random.below(6) as usize];
                // As many as that are this guest's to wait for, if they are there.
                if args[2] > 3000 {
                    args[1] = 0x1000_0000;
                }
            }
            24 => {
                args[1] = a.random.odd() as usize;
                args[2] = pointer(a);
            }
            18 => {
                args[0] = a.random.below(4) as usize;
                args[1] = a.random.below(200) as usize;
                args[2] = pointer(a);
            }
            _ => {}
        }
        // SAFETY: what can be written or taken away are scratch pages and the argument's page, of which Rust expects
        // nothing; other frame numbers are no memory of this guest, but for accidents that are this guest's fate.
        let result = unsafe { raw::<true>(hypercall, args) };
        if result < 0 {
            bad += 1
        } else {
            good += 1
        }
        if result < -200 {
            println!("hostile: ODD: {hypercall} {args:x?} gave {result}");
        }
    }
    println!("hostile: {good} calls succeeded, {bad} did not");
}

global_asm!(
    // Of another processor, MMU off. r0: physical address of {word, one value, the other, rounds}.
    ".arm",
    ".section .text.flipper, \"ax\"",
    ".globl flipper",
    "flipper:",
    "ldm r0, {{r1, r2, r3}}",
    "1:",
    "str r2, [r1]",
    "dsb",
    "mcr p15, 0, r4, c8, c3, 0",
    "dsb",
    "str r3, [r1]",
    "dsb",
    "mcr p15, 0, r4, c8, c3, 0",
    "dsb",
    "ldr r4, [r0, #12]",
    "add r4, r4, #1",
    "str r4, [r0, #12]",
    "b 1b",
    ".text"
);

unsafe extern "C" {
    fn flipper();
    static __level1: [AtomicU32; 4096];
}

static FLIP: Page = Page::new();
/// 1 MiB of addresses that are mapped now and then.
const WINDOW: usize = 0x7ff;

/// CPU_ON with places where there is nothing, too often, for processors that are not there. At last one that flips.
pub fn second_cpu(a: &mut Attack) {
    for _ in 0..300 {
        // The second one has its turn below.
        let target = a.random.odd() as usize | 2;
        let (entry, context) = (a.random.next() as usize, a.random.next() as usize);
        let _ = firmware_hvc(smccc::PSCI_CPU_ON, target, entry, context);
        let (target, level) = (a.random.odd() as usize, a.random.odd() as usize);
        let _ = firmware_hvc(smccc::PSCI_AFFINITY_INFO, target, level, 0);
    }
    // The window shows ARGUMENT's section, or nothing.
    let argument = address_of(argument()) as u32;
    let section = argument & 0xfff0_0000 | 0x0001_1c0e;
    // SAFETY: the linker script defines the table; nobody uses the window.
    let entry = unsafe { &__level1[WINDOW] };
    FLIP.0[0].store(physical(entry.as_ptr() as usize) as u32, Relaxed);
    FLIP.0[1].store(section, Relaxed);
    FLIP.0[2].store(a.random.below(2) * 0x8000_0c02, Relaxed);
    cpu::dsb();
    let result = firmware_hvc(
        smccc::PSCI_CPU_ON,
        1,
        physical(flipper as *const () as usize),
        physical(&raw const FLIP as usize),
    );
    println!("hostile: second processor: {}", result as i32);
}

/// 1 MiB of addresses that may be read only.
const READ_ONLY: usize = 0x7fe;

/// Has the hypervisor write where this guest may not (XSA-98), and where nothing is.
pub fn read_only(_: &mut Attack) {
    let physical = address_of(argument()) as u32;
    // SAFETY: the linker script defines the table; nobody uses these addresses.
    unsafe {
        __level1[READ_ONLY].store(physical & 0xfff0_0000 | 0x0001_9c0e, Relaxed);
        asm!("dsb", "mcr p15, 0, {0}, c8, c7, 0", "dsb", "isb", in(reg) 0);
    }
    let window = READ_ONLY << 20 | physical as usize & 0xf_ffff;
    for word in &argument().0 {
        word.store(0x7777_7777, Relaxed);
    }
    // SAFETY: if it is written, that is what the test finds out; the page is for that.
    let results = unsafe {
        [
            raw::<true>(nr::HYPERVISOR_XEN_VERSION, [3, window, 0, 0, 0]),
            raw::<true>(nr::HYPERVISOR_XEN_VERSION, [3, 0x7fd0_0000, 0, 0, 0]),
            raw::<true>(nr::HYPERVISOR_XEN_VERSION, [3, window + 4096 - 2, 0, 0, 0]),
        ]
    };
    let is_whole = argument()
        .0
        .iter()
        .all(|word| word.load(Relaxed) == 0x7777_7777);
    println!("hostile: read-only: {results:?} {is_whole}");
}

/// Hypercalls whose structures lie where another processor changes the translation all the time.
pub fn changing_tables(a: &mut Attack) {
    let offset = address_of(argument()) & 0xf_ffff;
    let at = WINDOW << 20 | offset;
    let (mut faults, mut others) = (0u32, 0u32);
    let before = FLIP.0[3].load(Relaxed);
    for round in 0..8000u32 {
        // Across the end of a page, too.
        let at = if round % 2 == 0 { at } else { at + 4096 - 4 };
        argument().0[0].store(0x7ff0, Relaxed);
        let (number, command) = [
            (nr::HYPERVISOR_XEN_VERSION, 3),
            (nr::HYPERVISOR_MEMORY_OP, XENMEM_MAXIMUM_RESERVATION),
            (nr::HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_STATUS),
            (nr::HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_QUERY_SIZE),
        ][(round % 4) as usize];
        // SAFETY: the page is for that.
        let result = unsafe { raw::<true>(number, [command as usize, at, 1, 0, 0]) };
        if result == -14 {
            faults += 1
        } else {
            others += 1
        }
    }
    let flips = FLIP.0[3].load(Relaxed).wrapping_sub(before);
    println!("hostile: {faults} faults, {others} other results, {flips} changes meanwhile");
    let _ = a;
}

/// All ports, all bound, all sent to; then with the FIFO's pages full of nonsense.
pub fn event_storm(a: &mut Attack) {
    println!("hostile: shared info {}", events::map_shared_info());
    let mut ports = 0;
    while events::bind_ipi().is_ok() && ports < 5000 {
        ports += 1;
    }
    for round in 0..20_000u32 {
        let port = if round % 8 == 0 {
            a.random.odd()
        } else {
            1 + round % ports.max(1)
        };
        let _ = events::send(port);
        if round % 64 == 0 {
            let word = a.random.below(1024) as usize;
            events::SHARED_INFO.0[word].store(a.random.next(), Relaxed);
        }
    }
    let reset = |_: &mut Attack| {
        let mut op = EvtchnReset {
            dom: nr::DOMID_SELF,
        };
        event_channel(EVTCHNOP_RESET, &mut op)
    };
    println!("hostile: {ports} ports, reset {}", reset(a));
    println!("hostile: fifo {}", events::fifo_init());
    for _ in 0..200 {
        let _ = events::bind_ipi();
    }
    for round in 0..20_000u32 {
        let _ = events::send(1 + round % 200);
        let (word, value) = (a.random.below(256) as usize, a.random.next());
        events::WORDS.0[word].store(value, Relaxed);
        if round % 16 == 0 {
            let word = a.random.below(18) as usize;
            events::CONTROL.0[word].store(a.random.odd(), Relaxed);
        }
    }
    println!("hostile: reset {}", reset(a));
}

/// Grant operations with any numbers, and entries that change meanwhile.
pub fn grants(a: &mut Attack) {
    let mut good = 0u32;
    for round in 0..6000u32 {
        let mut map = GnttabMapGrantRef {
            host_addr: scratch(a.random.next()) << 12,
            flags: a.random.odd(),
            ref_: a.random.odd(),
            dom: a.random.odd() as u16,
            status: 0,
            handle: a.random.odd(),
            dev_bus_addr: 0,
        };
        let _ = op(
            nr::HYPERVISOR_GRANT_TABLE_OP,
            GNTTABOP_MAP_GRANT_REF,
            &mut map,
        );
        good += u32::from(map.status == 0);
        let mut copy = GnttabCopy {
            source: GnttabCopyPtr {
                u: number(a).into(),
                domid: a.random.odd() as u16,
                offset: a.random.odd() as u16,
                _pad: 0,
            },
            dest: GnttabCopyPtr {
                u: scratch(0),
                domid: nr::DOMID_SELF,
                offset: a.random.odd() as u16,
                _pad: 0,
            },
            len: a.random.odd() as u16,
            flags: (round & 3) as u16,
            status: 0,
            _pad: 0,
        };
        let _ = op(nr::HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_COPY, &mut copy);
        let mut flush = GnttabCacheFlush {
            a: u64::from(number(a)) << 12,
            offset: a.random.odd() as u16,
            length: a.random.odd() as u16,
            op: a.random.odd(),
        };
        let _ = op(
            nr::HYPERVISOR_GRANT_TABLE_OP,
            GNTTABOP_CACHE_FLUSH,
            &mut flush,
        );
        let mut unmap = GnttabUnmapGrantRef {
            host_addr: map.host_addr,
            dev_bus_addr: 0,
            handle: a.random.odd(),
            status: 0,
            _pad: 0,
        };
        let _ = op(
            nr::HYPERVISOR_GRANT_TABLE_OP,
            GNTTABOP_UNMAP_GRANT_REF,
            &mut unmap,
        );
    }
    println!("hostile: {good} mapped");
}

/// Pages given up and had back all the time, of any order, and where stage 2 needs ever more tables.
pub fn balloon(a: &mut Attack) {
    let mut frames = [0u64; 8];
    let mut done = 0i64;
    for round in 0..3000u32 {
        for frame in &mut frames {
            *frame = match round % 4 {
                0 | 1 => scratch(a.random.next()),
                2 => 0x8_0000 + u64::from(a.random.next() & 0xf_ffff) * 512,
                _ => u64::from(a.random.next()) << a.random.below(20),
            };
            // Its own RAM, but for the scratch pages, it keeps.
            if round % 4 > 1 && (0x4_0000..0x6_0000).contains(frame) {
                *frame = 0x10_0000;
            }
        }
        let mut reservation = MemoryReservation {
            extent_start: &raw const frames as u64,
            nr_extents: if round % 9 == 0 {
                u64::from(a.random.odd())
            } else {
                8
            },
            extent_order: if round % 7 == 0 { a.random.odd() } else { 0 },
            mem_flags: 0,
            domid: nr::DOMID_SELF,
            _pad: [0; 6],
        };
        let command = [XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP][(round % 2) as usize];
        if reservation.extent_order != 0 && command == XENMEM_DECREASE_RESERVATION {
            reservation.extent_order = 40;
        }
        done += i64::from(op(nr::HYPERVISOR_MEMORY_OP, command, &mut reservation).max(0));
    }
    println!("hostile: {done} extents");
    // SAFETY: a barrier.
    unsafe { asm!("dsb") };
}
