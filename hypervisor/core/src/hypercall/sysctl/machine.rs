//! What there is: CPUs and memory.

use xen_abi::control as abi;

use super::{Done, part, set_part};
use crate::addr::{CpuId, GuestVirt, PAGE_SIZE};
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::hypercall::guest::element;
use crate::machine::GuestMemory;

/// What Xen says is the distance on the one node of Arm.
const DISTANCE: u32 = 20;

/// Returns how many numbers CPUs have here.
fn cpu_count<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>) -> u32 {
    cx.cpu_ids().len()
}

/// Returns the pages that domains have claimed and not got.
fn claimed_pages<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>) -> u64 {
    let claims = cx.hv.domains.all().map(|domain| domain.account.claimed());
    claims.map(u64::from).sum()
}

/// Returns the free pages, and how many of them are to be zeroed. What domains may take for their tables is not free, as in
/// Xen, where it is taken at once; what they claimed is.
fn free_pages<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>) -> (u64, u64) {
    let claimed = claimed_pages(cx);
    let allocator = cx.hv.allocator.lock();
    let pools = u64::from(allocator.frames_aside()).saturating_sub(claimed);
    (
        u64::from(allocator.free_frames()).saturating_sub(pools),
        u64::from(allocator.dirty_frames()),
    )
}

pub(super) fn physinfo<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let (free, dirty) = free_pages(cx);
    let grants = if cx.hv.guests.grants.max_version >= 2 {
        abi::XEN_SYSCTL_PHYSCAP_GNTTAB_V1 | abi::XEN_SYSCTL_PHYSCAP_GNTTAB_V2
    } else {
        abi::XEN_SYSCTL_PHYSCAP_GNTTAB_V1
    };
    let pmu = if cx.hv.guests.has_pmu {
        abi::XEN_SYSCTL_PHYSCAP_VPMU
    } else {
        0
    };
    let info = abi::SysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: 1,
        nr_cpus: cx.hv.hal.cpus().len(),
        max_cpu_id: cpu_count(cx).saturating_sub(1),
        nr_nodes: 1,
        max_node_id: 0,
        cpu_khz: (cx.hv.scale.frequency() / 1000) as u32,
        capabilities: abi::XEN_SYSCTL_PHYSCAP_HVM | abi::XEN_SYSCTL_PHYSCAP_HAP | grants | pmu,
        arch_capabilities: 0,
        pad: 0,
        total_pages: u64::from(cx.hv.frames.total_frames()),
        free_pages: free,
        scrub_pages: dirty,
        outstanding_pages: claimed_pages(cx),
        max_mfn: cx
            .hv
            .frames
            .maximum_frame()
            .map_or(0, |mfn| u64::from(mfn.raw())),
        hw_cap: [0; 8],
    };
    set_part(op, &info);
    Ok(true)
}

/// getcpuinfo: how long each CPU was idle.
pub(super) fn cpus<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut list: abi::SysctlGetcpuinfo = part(op)?;
    list.nr_cpus = cpu_count(cx).min(list.max_cpus);
    for index in 0..list.nr_cpus {
        let ticks = cx.hv.hal.idle_ticks(CpuId::new(index as u16));
        let info = abi::SysctlCpuinfo {
            idletime: cx.hv.scale.to_ns(ticks),
        };
        let to = element::<abi::SysctlCpuinfo>(GuestVirt::new(list.info), u64::from(index))?;
        cx.write(to, &info)?;
    }
    set_part(op, &list);
    Ok(true)
}

/// availheap.
pub(super) fn free_memory<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut wanted: abi::SysctlAvailheap = part(op)?;
    let is_here = matches!(wanted.node, -1 | 0);
    // Frames whose addresses have from `min` to `max` bits.
    let limit = |bits: u32| 1u64.checked_shl(bits).unwrap_or(u64::MAX) / PAGE_SIZE as u64;
    let above = match wanted.min_bitwidth {
        0 => 0,
        bits => limit(bits - 1),
    };
    let below = match wanted.max_bitwidth {
        0 => u64::MAX,
        bits => limit(bits),
    };
    let all = cx.hv.frames.banks().all(|(start, pages)| {
        u64::from(start.raw()) >= above && u64::from(start.raw()) + u64::from(pages) <= below
    });
    let pages = match (is_here, all) {
        (false, _) => 0,
        (true, true) => free_pages(cx).0,
        // What lies outside is not counted apart: no more than this is certain.
        (true, false) => 0,
    };
    wanted.avail_bytes = pages * PAGE_SIZE as u64;
    set_part(op, &wanted);
    Ok(true)
}

/// cputopoinfo: Xen on Arm knows of no cores and sockets.
pub(super) fn topology<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut list: abi::SysctlCputopoinfo = part(op)?;
    let mut count = cpu_count(cx);
    if list.cputopo != 0 {
        count = count.min(list.num_cpus);
        let present = cx.hv.hal.cpus();
        for index in 0..count {
            let place = if present.contains(CpuId::new(index as u16)) {
                0
            } else {
                abi::XEN_INVALID_CORE_ID
            };
            let topology = abi::SysctlCputopo {
                core: place,
                socket: place,
                node: place,
            };
            let at = GuestVirt::new(list.cputopo);
            cx.write(
                element::<abi::SysctlCputopo>(at, u64::from(index))?,
                &topology,
            )?;
        }
    }
    list.num_cpus = count;
    set_part(op, &list);
    Ok(true)
}

/// numainfo: there is one node.
pub(super) fn nodes<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut list: abi::SysctlNumainfo = part(op)?;
    let is_asked = list.meminfo != 0 || list.distance != 0;
    let count = if is_asked { list.num_nodes.min(1) } else { 1 };
    if count != 0 {
        if list.meminfo != 0 {
            // From the first frame to the last, with what lies between.
            let first = cx.hv.frames.banks().map(|(start, _)| start.raw()).min();
            let last = cx.hv.frames.maximum_frame().map_or(0, |mfn| mfn.raw());
            let spanned = u64::from(last - first.unwrap_or(last).min(last)) + 1;
            let memory = abi::SysctlMeminfo {
                memsize: spanned * PAGE_SIZE as u64,
                memfree: free_pages(cx).0 * PAGE_SIZE as u64,
            };
            cx.write(GuestVirt::new(list.meminfo), &memory)?;
        }
        if list.distance != 0 {
            cx.write(GuestVirt::new(list.distance), &DISTANCE)?;
        }
    }
    list.num_nodes = count;
    set_part(op, &list);
    Ok(true)
}
