//! External aborts, with `demo=external:ADDRESS`: a page of the machine's devices that this domain has, with registers at its
//! beginning and nothing from 0x400 on. What the guest runs into there is its own; the hypervisor must not be led there.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guest_lib::exceptions::{DATA_ABORT, Fault};
use guest_lib::{Start, hypercall, println, probe};
use xen_abi::hypercall as nr;
use xen_abi::memory::{AddToPhysmap, XENMAPSPACE_DEV_MMIO, XENMEM_ADD_TO_PHYSMAP};

unsafe extern "C" {
    static __level1: [AtomicU32; 4096];
}

/// 1 MiB of addresses whose second-level table is where nothing is.
const WINDOW: u32 = 0x7fb;
/// Where nothing is in this guest's address space.
const AGAIN: u32 = 0x3000_0000;
const EFAULT: i32 = -14;

/// Does its part, if the command line asks for it.
pub fn run(start: &Start) -> bool {
    let mut words = start.platform.bootargs.split(' ');
    let Some(base) = words.find_map(|word| word.strip_prefix("demo=external:")) else {
        return false;
    };
    let base = u32::from_str_radix(base, 16).unwrap_or(0);
    let hole = base + 0x400;
    let is_external = |fault: Option<Fault>, address: u32| {
        // Short descriptors: synchronous external abort; bit 11 is the direction.
        fault.is_some_and(|fault| {
            fault.kind == DATA_ABORT
                && fault.status & 0x40f == 8
                && fault.address == address as usize
        })
    };
    let there = probe!(["ldrb {0}, [{1}]"], out(reg) _, in(reg) base).is_none();
    let faults = [
        probe!(["ldr {0}, [{1}]"], out(reg) _, in(reg) hole),
        probe!(["str {0}, [{1}]"], in(reg) 0, in(reg) hole),
        probe!(["ldm {1}, {{r4, {0}}}"], out(reg) _, in(reg) hole, out("r4") _),
        probe!(["ldrd r4, r5, [{0}]"], in(reg) hole, out("r4") _, out("r5") _),
    ];
    println!(
        "demo: external: registers {there}, holes {}",
        faults.iter().all(|fault| is_external(*fault, hole))
    );

    // Structures in either part, as a text that is written by the hypervisor and as one that it reads.
    let give = |at: u32| {
        // SAFETY: devices, or nowhere.
        unsafe {
            [
                hypercall::raw::<true>(nr::HYPERVISOR_XEN_VERSION, [3, at as usize, 0, 0, 0]),
                hypercall::raw::<true>(nr::HYPERVISOR_EVENT_CHANNEL_OP, [4, at as usize, 0, 0, 0]),
            ]
        }
    };
    println!(
        "demo: external: structures {}",
        give(base) == [EFAULT; 2] && give(hole) == [EFAULT; 2]
    );

    let table = |hole: u32| {
        // SAFETY: the linker script defines the table; nobody uses these addresses.
        unsafe {
            __level1[WINDOW as usize].store(hole | 1, Relaxed);
            core::arch::asm!("dsb", "mcr p15, 0, {0}, c8, c7, 0", "dsb", "isb", in(reg) 0);
        }
        let fault = probe!(["ldr {0}, [{1}]"], out(reg) _, in(reg) WINDOW << 20);
        fault.is_some() && give(WINDOW << 20) == [EFAULT; 2]
    };
    println!("demo: external: a table {}", table(hole));
    // The same page where the guest says, which Xen makes cacheable memory.
    let mut add = AddToPhysmap {
        domid: nr::DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_DEV_MMIO,
        idx: u64::from(base >> 12),
        gpfn: u64::from(AGAIN >> 12),
    };
    let result = hypercall::op(nr::HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut add);
    let there = probe!(["ldrb {0}, [{1}]"], out(reg) _, in(reg) AGAIN).is_none();
    println!(
        "demo: external: again {result} {there} {}",
        table(AGAIN + 0x400)
    );
    true
}
