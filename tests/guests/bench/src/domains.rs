//! Making and ending a domain, with the calls of a toolstack and nothing between them.

use guest_lib::{cpu, hypercall, println};
use xen_abi::control::*;
use xen_abi::hypercall as nr;
use xen_abi::memory::{MemoryReservation, XENMEM_POPULATE_PHYSMAP};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::arch;
use crate::measure::instructions_per_tick;

/// Where a domain has its RAM (public/arch-arm.h GUEST_RAM0_BASE), in frames.
const RAM: u64 = 0x4_0000;
/// 2 MiB.
const ORDER: u32 = 9;
const LARGEST_MIB: usize = 512;
/// Nobody else's number.
const DOMAIN: u16 = 7;

/// Executes a domctl with this part of the structure.
fn domctl<T: IntoBytes + Immutable>(command: u32, part: &T) -> i32 {
    let mut control = Domctl {
        cmd: command,
        interface_version: arch::DOMCTL_VERSION,
        domain: DOMAIN,
        _pad: [0; 3],
        u: [0; 128],
    };
    if part.write_to_prefix(&mut control.u).is_err() {
        return -1;
    }
    let at = core::ptr::from_mut(&mut control) as usize;
    // SAFETY: our own structure; the call concerns another domain.
    unsafe { hypercall::raw::<true>(nr::HYPERVISOR_DOMCTL, [at, 0, 0, 0, 0]) }
}

/// Makes a domain with so much RAM; returns the first error.
fn make(mib: usize) -> Result<(), i32> {
    let good = |result: i32| if result == 0 { Ok(()) } else { Err(result) };
    let mut wanted = arch::Creation::new_zeroed();
    wanted.flags = XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP;
    wanted.max_vcpus = 1;
    wanted.max_evtchn_port = 1023;
    wanted.max_grant_frames = 64;
    wanted.max_maptrack_frames = 1024;
    wanted.grant_opts = 1;
    good(domctl(XEN_DOMCTL_CREATEDOMAIN, &wanted))?;
    good(domctl(XEN_DOMCTL_MAX_VCPUS, &DomctlMaxVcpus { max: 1 }))?;
    let max_memkb = (mib as u64) << 10;
    good(domctl(XEN_DOMCTL_MAX_MEM, &DomctlMaxMem { max_memkb }))?;
    // As libxl reckons: 1 MiB a vCPU, 4 KiB for each MiB of RAM, and a bit.
    let size = (2 << 20) + ((mib as u64) << 12);
    good(domctl(
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
        &DomctlPagingMempool { size },
    ))?;
    let extents: [u64; LARGEST_MIB / 2] = core::array::from_fn(|i| RAM + ((i as u64) << ORDER));
    let mut list = MemoryReservation {
        extent_start: extents.as_ptr() as usize as u64,
        nr_extents: mib as u64 / 2,
        extent_order: ORDER,
        mem_flags: 0,
        domid: DOMAIN,
        _pad: [0; 6],
    };
    let populated = hypercall::op(nr::HYPERVISOR_MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut list);
    if populated == mib as i32 / 2 {
        Ok(())
    } else {
        Err(populated)
    }
}

/// All of this module.
pub fn run() {
    let tick = u64::from(instructions_per_tick());
    for mib in [64, LARGEST_MIB] {
        let mut least = (u64::MAX, u64::MAX);
        for _ in 0..3 {
            let start = cpu::cntvct();
            if let Err(error) = make(mib) {
                println!("bench: a domain of {mib} MiB could not be made: {error}");
                domctl(XEN_DOMCTL_DESTROYDOMAIN, &());
                return;
            }
            let made = cpu::cntvct();
            let ended = domctl(XEN_DOMCTL_DESTROYDOMAIN, &());
            let end = cpu::cntvct();
            if ended != 0 {
                println!("bench: a domain of {mib} MiB could not be destroyed: {ended}");
                return;
            }
            least = (least.0.min(made - start), least.1.min(end - made));
        }
        println!("bench: domain-make-{mib}: {}", least.0 * tick);
        println!("bench: domain-destroy-{mib}: {}", least.1 * tick);
    }
}
