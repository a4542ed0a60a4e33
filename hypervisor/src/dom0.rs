//! Building dom0: 1:1 memory, device tree, kernel and initrd in place, and its parts put together.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use log::{info, warn};
use xenith_boot::cmdline::Options;
use xenith_boot::fdt::dom0::{self, Dom0Input, Dom0Tree};
use xenith_boot::fdt::host::{ConsoleUart, Gic, GicKind, HostInfo};
use xenith_boot::fdt::tree::Tree;
use xenith_boot::memory::{PhysRange, dom0_banks_below, dom0_mem_size};
use xenith_boot::modules::BootModules;
use xenith_core::addr::{DomId, GuestPhys, HostPhys, PAGE_SIZE, VcpuId};
use xenith_core::domain::Domain;
use xenith_core::emulate::Execution;
use xenith_core::errno::Errno;
use xenith_core::frames::Contents;
use xenith_core::sched::{Affinity, CpuSet, FIRST_POOL};
use xenith_core::stage2::PageType;
use xenith_core::vgic::{HAS_V3, MAX_SPIS, Redistributors, Version};
use xenith_platforms::Platform;

use crate::arch::{Features, RELEASE};
use crate::builder::{Draft, MAPTRACK_FRAMES, Start, grant_limits, text};
use crate::machine::{Hv, Machine};
use crate::say;

/// What dom0 is built from.
pub struct Plan<'a> {
    /// The hypervisor.
    pub hv: &'static Hv,
    /// The host's device tree.
    pub tree: &'a Tree<'a>,
    /// What was found in it.
    pub host: &'a HostInfo<'a>,
    /// Kernel, initrd and command lines.
    pub modules: &'a BootModules<'a>,
    /// The hypervisor's options.
    pub options: &'a Options<'a>,
    /// The hypervisor's UART.
    pub console: Option<&'a ConsoleUart<'a>>,
    /// Free RAM.
    pub usable: &'a [PhysRange],
    /// The hypervisor's image.
    pub image: PhysRange,
    /// List registers of the GIC.
    pub lr_count: usize,
    /// The CPU.
    pub features: &'a Features,
}

/// Where the window for dom0's grant table is: over the hypervisor's own text, which no RAM or device of dom0's can be.
fn grant_window(plan: &Plan<'_>, frames: u32) -> PhysRange {
    PhysRange::from_size(
        plan.image.base().raw(),
        u64::from(frames) * PAGE_SIZE as u64,
    )
}

/// Makes dom0; it runs when its first vCPU is switched on.
///
/// # Errors
/// A sentence that names cause and remedy.
pub fn build(plan: Plan<'_>) -> Result<Arc<Domain<Machine>>, String> {
    let hv = plan.hv;
    say!("*** LOADING DOMAIN 0 ***");
    if plan.options.dom0_mem.is_none() {
        warn!("PLEASE SPECIFY dom0_mem PARAMETER - USING 512M FOR NOW");
    }
    let size = dom0_mem_size(plan.options.dom0_mem, plan.usable).map_err(text)?;
    let low_end = crate::power::platform().map_or(u64::MAX, Platform::dma_end);
    let banks = dom0_banks_below(plan.usable, size, low_end).map_err(text)?;
    // Those that no pool of the device tree has.
    let first = hv.scheduler.with(|pools, _, _| pools.info(FIRST_POOL));
    let pcpus = first.map_or_else(crate::smp::online, |pool| pool.cpus);
    let vcpus = plan
        .options
        .dom0_max_vcpus
        .unwrap_or(pcpus.len())
        .clamp(1, hv.guests.gic().max_vcpus() as u32);
    let redistributors = redistributors(&plan.host.gic, vcpus)?;

    let mut draft = Draft::new(hv, DomId::DOM0, true, size)?;
    say!(
        "Allocating 1:1 mappings totalling {}MB for dom0:",
        size >> 20
    );
    for (i, bank) in banks.iter().enumerate() {
        // What lies in RAM at boot is nobody's secret from dom0.
        draft.give_frames(*bank, bank.base().raw())?;
        say!(
            "BANK[{i}] {:#016x}-{:#016x} ({}MB)",
            bank.base(),
            bank.end(),
            bank.size() >> 20
        );
    }

    let timer_ppis = [
        plan.host.timer.secure_phys.intid,
        plan.host.timer.phys.intid,
        plan.host.timer.virt.intid,
    ];
    let upcall_ppi = dom0::event_channel_ppi(&timer_ppis)
        .ok_or("no PPI is left for the event channel interrupt")?;
    let grants = grant_limits(plan.options, None);
    let window = grant_window(&plan, grants.max_frames);
    say!(
        "Grant table range: {:#016x}-{:#016x}",
        window.base(),
        window.end()
    );
    say!(
        "Allocating PPI {} for event channel interrupt",
        upcall_ppi.raw()
    );
    let kernel = plan
        .modules
        .kernel()
        .ok_or("no dom0 kernel among the boot modules")?;
    let kernel = draft.find_kernel(kernel.range)?;
    let execution = kernel.execution();
    if execution == Execution::AArch32 {
        say!("d0: extended regions not supported for 32-bit guests");
    }

    let reserved = plan.host.reserved.iter().map(|one| one.range);
    let reserved: alloc::vec::Vec<PhysRange> = reserved.collect();
    // What the virtual GIC has; a physical one may have up to 28 more.
    let lines = hv.hal.distributor.lock().lines().min(32 + MAX_SPIS);
    let initrd = plan.modules.ramdisk().map(|module| module.range);
    let console_path = plan.console.map(|uart| uart.path.as_str());
    let input = Dom0Input {
        host: plan.tree,
        console: console_path,
        hidden_compatibles: crate::power::platform().map_or(&[], |board| board.hidden_from_dom0()),
        xen_compatible: &[RELEASE.compatible, "xen,xen"],
        banks: &banks,
        ram: &plan.host.memory,
        reserved: &reserved,
        memreserve: &plan.host.memreserve,
        forbidden: &[plan.image],
        phys_bits: u32::from(hv.guests.geometry.ipa_bits()),
        vcpus,
        execution,
        boot_mpidr: xenith_arch::affinity(),
        gic_dist: plan.host.gic.gicd.base(),
        gic_lines: u32::from(lines),
        gic_ranges: match hv.guests.gic() {
            Version::V2 => 2,
            Version::V3 => 1 + redistributors.regions().count() as u32,
        },
        timer_ppis,
        evtchn_ppi: upcall_ppi,
        grant_table: window,
        has_initrd: initrd.is_some(),
        bootargs: Some(plan.modules.dom0_args),
        msi_typer: &|frame| read_msi_typer(hv, frame),
    };
    let mut tree = dom0::build(&input).map_err(|error| format!("dom0's device tree: {error}"))?;
    for warning in &tree.warnings {
        warn!("d0: {warning}");
    }
    if tree.suppressed_warnings > 0 {
        warn!(
            "d0: {} more warnings about the device tree",
            tree.suppressed_warnings
        );
    }

    let placement = draft.load(&kernel, initrd, tree.blob.len() as u64)?;
    if let Some(initrd) = placement.initrd {
        tree.set_initrd(initrd.base().raw(), initrd.end().raw());
    }
    draft.load_tree(&placement, &tree.blob)?;
    for range in &tree.mmio {
        draft.map_registers(*range, range.base().raw(), PageType::MmioDirectC)?;
        info!("  - MMIO: {:010x} - {:010x}", range.base(), range.end());
    }
    let gic = &plan.host.gic;
    if let GicKind::V2(v2) = &gic.kind {
        // The GIC's virtual CPU interface is where dom0 expects the physical one.
        let gicv = PhysRange::from_size(v2.gicv.base().raw(), 2 * PAGE_SIZE as u64);
        draft.map_registers(gicv, v2.gicc.base().raw(), PageType::MmioDirectDev)?;
    }

    let is_pinned = plan.options.dom0_vcpus_pin == Some(true);
    let pinned_to = |vcpu: VcpuId| {
        pcpus
            .iter()
            .nth(vcpu.index() % pcpus.len().max(1) as usize)
            .filter(|_| is_pinned)
            .map_or(CpuSet::ALL, CpuSet::single)
    };
    let domain = draft.finish(&Start {
        execution,
        placement: &placement,
        vcpus,
        features: plan.features,
        gicd: gic.gicd.base(),
        redistributors,
        nr_spis: lines - 32,
        lr_count: plan.lr_count,
        spis: &tree.spis,
        timer_ppis,
        upcall_ppi,
        grants,
        maptrack_frames: plan
            .options
            .gnttab_max_maptrack_frames
            .unwrap_or(MAPTRACK_FRAMES),
        has_pmu: false,
        pool: FIRST_POOL,
        affinity: &|vcpu| Affinity {
            hard: pinned_to(vcpu),
            ..Affinity::default()
        },
    })?;
    permit_devices(&domain, &tree)
        .map_err(|error| format!("no memory for the list of dom0's devices: {error:?}"))?;
    Ok(domain)
}

/// Returns the redistributors of a domain that has them where the machine has its own: as many as it has vCPUs.
pub fn redistributors(gic: &Gic<'_>, vcpus: u32) -> Result<Redistributors, String> {
    let v3 = match &gic.kind {
        GicKind::V3(v3) if HAS_V3 => v3,
        _ => return Ok(Redistributors::default()),
    };
    let regions = v3.regions.iter();
    let regions = regions.map(|region| (GuestPhys::new(region.base().raw()), region.size()));
    Redistributors::new(regions, vcpus).map_err(|error| {
        format!("the GIC has no redistributors for {vcpus} vCPUs: use fewer ({error:?})")
    })
}

/// Writes down what dom0 may have, and what it may only give to others.
#[cold]
#[inline(never)]
fn permit_devices(domain: &Domain<Machine>, tree: &Dom0Tree) -> Result<(), Errno> {
    let mut devices = domain.devices.lock();
    for range in tree.mmio.iter().chain(&tree.passthrough_mmio) {
        // Whole pages within the physical address space.
        if let Some(first) = range.base().frame() {
            devices.permit_memory(first, (range.size() / PAGE_SIZE as u64) as u32)?;
        }
    }
    for &(spi, trigger) in tree.spis.iter().chain(&tree.passthrough_spis) {
        devices.permit_interrupt(spi, trigger)?;
    }
    Ok(())
}

/// Reads MSI_TYPER of a GICv2m frame.
fn read_msi_typer(hv: &'static Hv, frame: HostPhys) -> Option<u32> {
    let va = hv.hal.tables.lock().map_device(frame, 1).ok()?;
    // SAFETY: Mapped just above; only read here.
    let registers = unsafe { xenith_arch::DeviceRegisters::new(va, PAGE_SIZE) };
    Some(registers.read32(8))
}

/// Frees what the boot loader brought: modules and device tree, scrubbed before anybody gets them (XSA-372).
pub fn release_modules(hv: &'static Hv, ranges: impl Iterator<Item = PhysRange>) {
    let mut pages = 0;
    for range in ranges {
        let whole = range.shrink_to(PAGE_SIZE as u64);
        let Some(start) = whole.base().frame() else {
            continue;
        };
        let count = (whole.size() / PAGE_SIZE as u64) as u32;
        if hv
            .allocator
            .lock()
            .add(&hv.frames, start, count, Contents::Dirty)
            .is_ok()
        {
            pages += count;
        }
    }
    info!("freed {} KiB of boot modules", pages * 4);
}
