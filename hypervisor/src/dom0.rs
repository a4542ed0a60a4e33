//! Building dom0: 1:1 memory, device tree, kernel and initrd in place, and its parts put together.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use log::{info, warn};
use xenith_boot::cmdline::Options;
use xenith_boot::fdt::dom0::{self, Dom0Input};
use xenith_boot::fdt::host::{ConsoleUart, HostInfo};
use xenith_boot::fdt::tree::Tree;
use xenith_boot::kernel::{self, ImageSink, ImageSource, KernelImage, Probe, ReadError, SinkFull};
use xenith_boot::memory::{PhysRange, dom0_banks, dom0_mem_size};
use xenith_boot::modules::BootModules;
use xenith_boot::placement::{Placement, place};
use xenith_core::addr::{DomId, Gfn, GuestPhys, HostPhys, IntId, PAGE_SIZE, VcpuId};
use xenith_core::domain::{Domain, DomainFacts};
use xenith_core::emulate::coproc::CpuFeatures;
use xenith_core::emulate::psci::{PowerStates, VcpuStart};
use xenith_core::evtchn::{EventChannels, NO_PORT_LIMIT};
use xenith_core::frames::{Contents, Owner};
use xenith_core::gnttab::{DeviceView, GrantTable, Limits, Maptrack};
use xenith_core::hal::Hal;
use xenith_core::machine::Trigger;
use xenith_core::p2m::{P2m, PageAccount};
use xenith_core::sched::{Affinity, CpuSet};
use xenith_core::stage2::{Geometry, PageType};
use xenith_core::vgic::{MAX_SPIS, Resample, Vgic, VgicConfig};

use crate::machine::{Hv, Machine};
use crate::say;
use crate::vcpu::VcpuContext;

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
    pub features: &'a CpuFeatures,
}

/// vCPUs of a 32-bit domain, at most: what a GICv2 can tell apart.
const MAX_VCPUS: u32 = 8;
/// Frames of dom0's grant table window, as `gnttab_max_frames` has it by default.
const GRANT_FRAMES: u32 = 64;
/// Frames of mappings of others' grants.
const MAPTRACK_FRAMES: u32 = 1024;
/// A kernel in gzip may not unpack to more.
const MAX_UNPACKED: u64 = 128 << 20;

/// A boot module's bytes.
struct ModuleSource {
    hv: &'static Hv,
    range: PhysRange,
}

impl ImageSource for ModuleSource {
    fn len(&self) -> u64 {
        self.range.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(buf.len() as u64).ok_or(ReadError)?;
        if end > self.range.size() {
            return Err(ReadError);
        }
        let at = self.range.base().checked_add(offset).ok_or(ReadError)?;
        self.hv.hal.read_phys(at, buf).map_err(|_| ReadError)
    }
}

/// Writes an unpacked kernel into free memory of dom0's.
struct MemorySink {
    hv: &'static Hv,
    next: HostPhys,
    end: HostPhys,
}

impl ImageSink for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        let next = self
            .next
            .checked_add(bytes.len() as u64)
            .filter(|&next| next <= self.end)
            .ok_or(SinkFull)?;
        self.hv
            .hal
            .memory
            .write(self.next, bytes, true)
            .map_err(|_| SinkFull)?;
        self.next = next;
        Ok(())
    }
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

fn copy(hv: &'static Hv, from: HostPhys, to: HostPhys, len: u64) -> Result<(), String> {
    let mut buffer = Box::new([0u8; PAGE_SIZE]);
    let mut done = 0;
    while done < len {
        let n = (len - done).min(PAGE_SIZE as u64) as usize;
        let (source, target) = (
            HostPhys::new(from.raw() + done),
            HostPhys::new(to.raw() + done),
        );
        let moved = hv
            .hal
            .read_phys(source, &mut buffer[..n])
            .and_then(|()| hv.hal.memory.write(target, &buffer[..n], true));
        moved.map_err(|_| format!("copying from {source:#x} to {target:#x} failed"))?;
        done += n as u64;
    }
    Ok(())
}

/// Takes dom0's banks out of the allocator and maps them 1:1.
fn give_memory(
    plan: &Plan<'_>,
    p2m: &mut P2m,
    banks: &[PhysRange],
    vttbr: u64,
) -> Result<(), String> {
    let hv = plan.hv;
    let mut memory = hv.hal.p2m_memory(vttbr);
    for (i, bank) in banks.iter().enumerate() {
        let pages = (bank.size() / PAGE_SIZE as u64) as u32;
        let start = bank
            .base()
            .frame()
            .ok_or("a bank beyond the physical address space")?;
        // What lies in RAM at boot is nobody's secret from dom0.
        let claimed =
            hv.allocator
                .lock()
                .claim(&hv.frames, start, pages, Owner::Domain(DomId::DOM0));
        claimed.map_err(|error| {
            format!(
                "dom0's memory at {:#x} cannot be claimed: {error:?}",
                bank.base()
            )
        })?;
        p2m.add_ram(&mut memory, Gfn::new(start.raw()), start, pages)
            .map_err(|error| format!("dom0's memory cannot be mapped: {error:?}"))?;
        say!(
            "BANK[{i}] {:#016x}-{:#016x} ({}MB)",
            bank.base(),
            bank.end(),
            bank.size() >> 20
        );
    }
    Ok(())
}

/// Where the window for dom0's grant table is: over the hypervisor's own text, which no RAM or device of dom0's can be.
fn grant_window(plan: &Plan<'_>, frames: u32) -> PhysRange {
    PhysRange::from_size(
        plan.image.base().raw(),
        u64::from(frames) * PAGE_SIZE as u64,
    )
}

/// Loads the kernel: as it is, or unpacked first. Returns it placed.
fn load_kernel(
    plan: &Plan<'_>,
    banks: &[PhysRange],
    tree_size: u64,
    initrd_size: Option<u64>,
) -> Result<Placement, String> {
    let hv = plan.hv;
    let module = plan
        .modules
        .kernel()
        .ok_or("no dom0 kernel among the boot modules")?;
    let source = ModuleSource {
        hv,
        range: module.range,
    };
    say!(
        "Loading d0 kernel from boot module @ {:016x}",
        module.range.base()
    );
    let (source, image): (ModuleSource, KernelImage) = match kernel::probe(&source).map_err(text)? {
        Probe::Kernel(image) => (source, image),
        Probe::Gzip(gzip) => {
            // Unpacked at the start of the first bank, then moved to where it belongs, far above.
            let bank = banks.first().ok_or("dom0 has no memory")?;
            let limit = (bank.size() / 2).min(MAX_UNPACKED);
            let end = HostPhys::new(bank.base().raw() + limit);
            let mut sink = MemorySink {
                hv,
                next: bank.base(),
                end,
            };
            let size = kernel::inflate(&source, &gzip, limit, &mut sink).map_err(text)?;
            let unpacked = PhysRange::new(bank.base().raw(), size)
                .ok_or("the unpacked kernel is too large")?;
            let unpacked = ModuleSource {
                hv,
                range: unpacked,
            };
            let image = kernel::probe_unpacked(&unpacked, &gzip).map_err(text)?;
            (unpacked, image)
        }
    };
    let placement = place(banks, &image, tree_size, initrd_size).map_err(text)?;
    let from = HostPhys::new(source.range.base().raw() + image.offset);
    say!(
        "Loading {} from {:016x} to {:016x}-{:016x}",
        image.format,
        from,
        placement.kernel.base(),
        placement.kernel.end()
    );
    if PhysRange::from_size(from.raw(), image.size).overlaps(&placement.kernel) {
        return Err(
            "dom0's memory is too small to move the unpacked kernel: raise dom0_mem".to_string(),
        );
    }
    copy(hv, from, placement.kernel.base(), image.size)?;
    Ok(placement)
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
    let banks = dom0_banks(plan.usable, size).map_err(text)?;
    let pcpus = crate::smp::online();
    let vcpus = plan
        .options
        .dom0_max_vcpus
        .unwrap_or(pcpus.len())
        .clamp(1, MAX_VCPUS);

    let account = Arc::new(PageAccount::new((size / PAGE_SIZE as u64) as u32));
    let mut memory = hv.hal.p2m_memory(0);
    let mut p2m = P2m::new(&mut memory, Geometry::ARMV7, DomId::DOM0, true, account)
        .map_err(|error| format!("no memory for dom0's stage-2 tables: {error:?}"))?;
    // VMID 0 is never a domain's: VTTBR is 0 while none is live.
    let vttbr = p2m.stage2().root().address().raw() | (1 << 48);
    say!(
        "Allocating 1:1 mappings totalling {}MB for dom0:",
        size >> 20
    );
    give_memory(&plan, &mut p2m, &banks, vttbr)?;

    let timer_ppis = [
        plan.host.timer.secure_phys.intid,
        plan.host.timer.phys.intid,
        plan.host.timer.virt.intid,
    ];
    let upcall_ppi = dom0::event_channel_ppi(&timer_ppis)
        .ok_or("no PPI is left for the event channel interrupt")?;
    let grant_frames = plan
        .options
        .gnttab_max_frames
        .unwrap_or(GRANT_FRAMES)
        .clamp(1, 4096);
    let window = grant_window(&plan, grant_frames);
    say!(
        "Grant table range: {:#016x}-{:#016x}",
        window.base(),
        window.end()
    );
    say!(
        "Allocating PPI {} for event channel interrupt",
        upcall_ppi.raw()
    );
    say!("d0: extended regions not supported for 32-bit guests");

    let reserved = plan.host.reserved_ranges();
    // What the virtual GIC has; a physical one may have up to 28 more.
    let lines = hv.hal.distributor.lock().lines().min(32 + MAX_SPIS);
    let initrd = plan.modules.ramdisk().map(|module| module.range);
    let console_path = plan.console.map(|uart| uart.path.as_str());
    let input = Dom0Input {
        host: plan.tree,
        console: console_path,
        hidden_compatibles: crate::power::platform().map_or(&[], |board| board.hidden_from_dom0()),
        xen_compatible: &["xen,xen-4.17", "xen,xen"],
        banks: &banks,
        ram: &plan.host.memory,
        reserved: &reserved,
        forbidden: &[plan.image],
        phys_bits: 40,
        vcpus,
        boot_mpidr: xenith_arch::sysreg::mpidr::read() & 0xff_ffff,
        gic_dist: plan.host.gic.gicd.base(),
        gic_lines: u32::from(lines),
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

    let placement = load_kernel(
        &plan,
        &banks,
        tree.blob.len() as u64,
        initrd.map(|range| range.size()),
    )?;
    if let (Some(from), Some(to)) = (initrd, placement.initrd) {
        say!(
            "Loading d0 initrd from {:016x} to {:#018x}-{:#018x}",
            from.base(),
            to.base(),
            to.end()
        );
        copy(hv, from.base(), to.base(), from.size())?;
        tree.set_initrd(to.base().raw(), to.end().raw());
    }
    say!(
        "Loading d0 DTB to {:#018x}-{:#018x}",
        placement.tree.base(),
        placement.tree.end()
    );
    hv.hal
        .memory
        .write(placement.tree.base(), &tree.blob, true)
        .map_err(|_| "dom0's device tree cannot be written")?;

    map_devices(&plan, &mut p2m, &tree.mmio, vttbr)?;

    let spis = lines - 32;
    let mut vgic = Vgic::new(VgicConfig {
        vcpus: vcpus as usize,
        nr_spis: spis,
        lr_count: plan.lr_count,
    })
    .map_err(|error| format!("the virtual GIC cannot be made: {error:?}"))?;
    connect_interrupts(&plan, &mut vgic, &tree.spis, upcall_ppi)?;

    let shared_info = hv
        .alloc_shared_page(DomId::DOM0)
        .ok_or("no memory for the shared info page")?;
    let grants = GrantTable::new(
        DomId::DOM0,
        Limits {
            max_frames: grant_frames,
            ..Limits::default()
        },
        &mut || hv.alloc_shared_page(DomId::DOM0),
    )
    .map_err(|error| format!("no memory for the grant table: {error:?}"))?;
    let maptrack = Maptrack::new(
        DomId::DOM0,
        plan.options
            .gnttab_max_maptrack_frames
            .unwrap_or(MAPTRACK_FRAMES),
        DeviceView::Identity,
    );
    let events = EventChannels::new(
        DomId::DOM0,
        vcpus as u16,
        NO_PORT_LIMIT,
        shared_info.clone(),
    )
    .map_err(|error| format!("no memory for event channels: {error:?}"))?;
    let mut contexts: Vec<VcpuContext> = (0..vcpus as u16)
        .map(|index| VcpuContext::new(index, plan.features))
        .collect();
    if let Some(boot) = contexts.first_mut() {
        boot.reset(VcpuStart {
            pc: placement.entry as u32,
            cpsr: xenith_arch::setup::CPSR_START,
            r0: 0,
        });
        boot.frame.r[1] = u32::MAX;
        boot.frame.r[2] = placement.tree.base().raw() as u32;
    }
    let facts = DomainFacts {
        id: DomId::DOM0,
        is_privileged: true,
        is_direct_mapped: true,
        upcall_ppi,
        virtual_timer_ppi: plan.host.timer.virt.intid,
        physical_timer_ppi: plan.host.timer.phys.intid,
        gicd: GuestPhys::new(plan.host.gic.gicd.base().raw()),
    };
    let power = PowerStates::new(vcpus as u16);
    power.set_on(VcpuId::new(0));
    let domain = Domain::new(
        facts,
        p2m,
        vttbr,
        grants,
        maptrack,
        events,
        vgic,
        power,
        shared_info,
        contexts,
        xenith_arch::timer::now(),
        hv.scheduler.clone(),
    );
    let is_pinned = plan.options.dom0_vcpus_pin == Some(true);
    let pinned_to = |vcpu: VcpuId| {
        pcpus
            .iter()
            .nth(vcpu.index() % pcpus.len().max(1) as usize)
            .filter(|_| is_pinned)
            .map_or(CpuSet::ALL, CpuSet::single)
    };
    hv.units
        .add_domain(&hv.scheduler, &domain, |vcpu| Affinity {
            hard: pinned_to(vcpu),
            ..Affinity::default()
        })
        .map_err(|error| format!("no memory for dom0's vCPUs: {error:?}"))?;
    for (spi, _) in &tree.spis {
        hv.hal.set_route(*spi, &domain);
    }
    xenith_arch::cache::invalidate_instruction_caches();
    hv.domains
        .add(domain.clone())
        .map_err(|_| "dom0 exists already".to_string())?;
    Ok(domain)
}

/// Maps the devices that the tree gives to dom0, and the GIC's virtual CPU interface where it expects the physical one.
fn map_devices(
    plan: &Plan<'_>,
    p2m: &mut P2m,
    mmio: &[PhysRange],
    vttbr: u64,
) -> Result<(), String> {
    let mut memory = plan.hv.hal.p2m_memory(vttbr);
    for range in mmio {
        let start = range
            .base()
            .frame()
            .ok_or("a device beyond the physical address space")?;
        let pages = range.size().div_ceil(PAGE_SIZE as u64) as u32;
        p2m.map_mmio(
            &mut memory,
            Gfn::new(start.raw()),
            start,
            pages,
            PageType::MmioDirectC,
        )
        .map_err(|error| format!("devices at {range} cannot be mapped into dom0: {error:?}"))?;
        info!("  - MMIO: {:010x} - {:010x}", range.base(), range.end());
    }
    let gic = &plan.host.gic;
    let gicc = gic
        .gicc
        .base()
        .frame()
        .ok_or("the GIC is beyond the physical address space")?;
    let gicv = gic
        .gicv
        .base()
        .frame()
        .ok_or("the GIC is beyond the physical address space")?;
    p2m.map_mmio(
        &mut memory,
        Gfn::new(gicc.raw()),
        gicv,
        2,
        PageType::MmioDirectDev,
    )
    .map_err(|error| format!("the virtual CPU interface cannot be mapped into dom0: {error:?}"))
}

/// Gives dom0 its SPIs, and says how its own interrupts are sampled.
fn connect_interrupts(
    plan: &Plan<'_>,
    vgic: &mut Vgic,
    spis: &[(IntId, Trigger)],
    upcall_ppi: IntId,
) -> Result<(), String> {
    use xenith_core::machine::PhysIrq;
    let mut distributor = plan.hv.hal.distributor.lock();
    for &(spi, trigger) in spis {
        distributor.disable(spi);
        distributor.set_trigger(spi, trigger);
        vgic.link_hw(spi, spi, trigger, &mut *distributor)
            .map_err(|error| format!("SPI {} cannot be given to dom0: {error:?}", spi.raw()))?;
        info!("  - IRQ: {}", spi.raw());
    }
    let timer = plan.host.timer.virt.intid;
    let linked = vgic
        .link_hw(timer, timer, Trigger::Level, &mut *distributor)
        .and_then(|()| vgic.ask_line(timer, Resample::OnRaise))
        .and_then(|()| vgic.ask_line(upcall_ppi, Resample::OnRaise))
        .and_then(|()| vgic.ask_line(plan.host.timer.phys.intid, Resample::OnEoi));
    linked.map_err(|error| format!("dom0's private interrupts cannot be set up: {error:?}"))
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
