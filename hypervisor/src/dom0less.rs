//! Building the domains that the device tree describes, each by itself: one that cannot be built is reported, what it
//! had taken is freed, and the others follow.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use log::{info, warn};
use xenith_boot::cmdline::Options;
use xenith_boot::dom0less::links::{Channel, End};
use xenith_boot::dom0less::passthrough::{self, Passthrough};
use xenith_boot::dom0less::pools::{self, PoolConfig};
use xenith_boot::dom0less::{Dom0less, DomainConfig, Enhanced, SharedMemory};
use xenith_boot::fdt::domu::{self, DomuGic, DomuInput, Layout, SharedRegion, guest_banks};
use xenith_boot::fdt::host::{ConsoleUart, GicKind, HostInfo};
use xenith_boot::fdt::interrupts::IrqResolver;
use xenith_boot::fdt::tree::{MAX_SIZE, Tree};
use xenith_boot::memory::PhysRange;
use xenith_core::addr::{DomId, GuestPhys, HostPhys, IntId, Mfn, PAGE_SIZE, VcpuId};
use xenith_core::emulate::Execution;
use xenith_core::errno::Errno;
use xenith_core::evtchn::{EventChannels, Port};
use xenith_core::frames::{AllocRequest, Contents, Owner};
use xenith_core::hal::Hal;
use xenith_core::machine::Trigger;
use xenith_core::sched::{Affinity, CpuSet, FIRST_POOL};
use xenith_core::stage2::PageType;
use xenith_core::vgic::{HAS_V3, Redistributors};
use xenith_core::vuart::Vuart;

use crate::arch::{Features, RELEASE};
use crate::builder::{Draft, GRANT_FRAMES, MAPTRACK_FRAMES, Start, grant_limits, text};
use crate::machine::{Dom, Hv};
use crate::say;

/// What the domains are built from.
pub struct Plan<'a> {
    /// The hypervisor.
    pub hv: &'static Hv,
    /// The host's device tree.
    pub tree: &'a Tree<'a>,
    /// What was found in it.
    pub host: &'a HostInfo<'a>,
    /// The hypervisor's options.
    pub options: &'a Options<'a>,
    /// The hypervisor's UART.
    pub console: Option<&'a ConsoleUart<'a>>,
    /// The hypervisor's image.
    pub image: PhysRange,
    /// List registers of the GIC.
    pub lr_count: usize,
    /// The CPU.
    pub features: &'a Features,
    /// The pools of the device tree: phandle and number.
    pub pools: &'a [(u32, u32)],
    /// Whether there is a dom0.
    pub has_dom0: bool,
}

/// HVM parameters (public/hvm/params.h).
const HVM_PARAM_STORE_PFN: usize = 1;
const HVM_PARAM_STORE_EVTCHN: usize = 2;
/// The page of xenstore is made later, by `init-dom0less` in dom0: until then its number is this.
const NO_PAGE_YET: u64 = u64::MAX;
/// The most shared memory of one id, in bytes.
const MAX_SHARED: u64 = 1 << 30;

/// What earlier domains got.
#[derive(Default)]
struct Given {
    /// Registers of devices.
    registers: Vec<PhysRange>,
    /// Shared memory by id.
    shared: Vec<(String, Vec<Mfn>)>,
}

/// Makes the pools of CPUs that the device tree describes: by phandle, their numbers. What is wrong with one is reported.
#[cold]
#[inline(never)]
pub fn make_pools(hv: &Hv, tree: &Tree<'_>, host: &HostInfo<'_>) -> Vec<(u32, u32)> {
    let (pools, bad) = pools::read(tree, &host.cpus);
    for bad in bad {
        warn!("{bad}");
    }
    let mut made = Vec::new();
    for pool in pools {
        match make_pool(hv, host, &pool) {
            Ok(number) => made.extend(pool.phandle.map(|phandle| (phandle, number))),
            Err(Errno::NoDev) => warn!("pool {} is not made: it would have no CPU", pool.path),
            Err(error) => warn!("pool {} cannot be made: {error:?}", pool.path),
        }
    }
    made
}

fn make_pool(hv: &Hv, host: &HostInfo<'_>, config: &PoolConfig) -> Result<u32, Errno> {
    let scheduler = &hv.scheduler;
    let number = scheduler.with(|pools, _, _| {
        let first = pools.info(FIRST_POOL).ok_or(Errno::NoEnt)?;
        pools.create(None, config.policy.unwrap_or(first.policy))
    })?;
    for &mpidr in &config.cpus {
        let Some(cpu) = crate::smp::number_of(host, mpidr) else {
            warn!(
                "{}: the CPU with MPIDR {mpidr:#x} does not run",
                config.path
            );
            continue;
        };
        let moved =
            scheduler.with(|pools, now, kick| pools.take_from_first(cpu, number, now, kick));
        if let Err(error) = moved {
            warn!(
                "{}: CPU{} stays in Pool-0: {}",
                config.path,
                cpu.index(),
                if error == Errno::Busy {
                    "there would be none"
                } else {
                    "no memory"
                }
            );
        }
    }
    let info = scheduler.with(|pools, _, _| pools.info(number));
    let cpus = info.map_or(0, |info| info.cpus.len());
    if cpus == 0 {
        scheduler.with(|pools, _, _| pools.destroy(number))?;
        return Err(Errno::NoDev);
    }
    say!("Pool-{number} of {}: {cpus} CPUs", config.path);
    Ok(number)
}

/// Builds all domains; returns those that can run.
#[cold]
#[inline(never)]
pub fn build(plan: &Plan<'_>, domains: &Dom0less<'_>) -> Vec<Dom> {
    let mut given = Given::default();
    let mut built: Vec<Dom> = Vec::new();
    for config in &domains.domains {
        crate::machine::grow_heap_if_low(plan.hv);
        match build_one(plan, config, &mut given) {
            Ok(domain) => built.push(domain),
            Err(reason) => warn!("domain {} is not started: {reason}", config.path),
        }
    }
    for channel in &domains.channels {
        if let Err(reason) = connect(plan.hv, channel) {
            let End { domain, port } = channel.one;
            warn!("the static event channel of {domain}, port {port:#x}, is not made: {reason}");
        }
    }
    built
}

#[cold]
#[inline(never)]
fn build_one(plan: &Plan<'_>, config: &DomainConfig<'_>, given: &mut Given) -> Result<Dom, String> {
    if config.max_grant_version > Some(grant_limits(plan.options, None).max_version) {
        return Err("\"max_grant_version\" is more than gnttab=max-ver: allows".into());
    }
    say!(
        "*** LOADING DOMU cpus={} memory={:x}KB ***",
        config.vcpus,
        config.memory >> 10
    );
    if config.has_pmu && !xenith_arch::pmu::exists() {
        return Err("this machine has no performance monitors to give (vpmu)".to_string());
    }
    let pool = pool(plan, config)?;
    let mut draft = Draft::new(plan.hv, config.id, config.is_direct_mapped, config.memory)?;
    match prepare(plan, config, given, &mut draft) {
        // It gives up what the domain has, too, when it fails.
        Ok(ready) => finish(plan, config, given, draft, pool, &ready),
        Err(error) => {
            draft.abandon();
            Err(error)
        }
    }
}

/// Returns the pool of CPUs that the domain is to be in.
fn pool(plan: &Plan<'_>, config: &DomainConfig<'_>) -> Result<u32, String> {
    let Some(phandle) = config.pool else {
        return Ok(FIRST_POOL);
    };
    let mut pools = plan.pools.iter();
    let made = pools.find(|(other, _)| *other == phandle);
    let (_, number) = made.ok_or("\"domain-cpupool\" names no pool that was made: correct it")?;
    Ok(*number)
}

/// What is known of a domain when its memory is filled.
struct Ready {
    execution: Execution,
    layout: Layout,
    placement: xenith_boot::placement::Placement,
    passthrough: Passthrough,
    nr_spis: u16,
}

/// Gives the domain its memory and devices, and fills the memory.
#[cold]
#[inline(never)]
fn prepare(
    plan: &Plan<'_>,
    config: &DomainConfig<'_>,
    given: &mut Given,
    draft: &mut Draft,
) -> Result<Ready, String> {
    let layout = layout(plan, config);
    give_memory(plan, config, draft)?;
    let partial_bytes = config
        .device_tree
        .map(|module| read_module(plan.hv, module.range))
        .transpose()?;
    let partial = partial_bytes
        .as_deref()
        .map(Tree::new)
        .transpose()
        .map_err(|error| format!("its partial device tree: {error}"))?;
    let passthrough = match &partial {
        Some(partial) => resolve(plan, config, given, draft, &layout, partial)?,
        None => Passthrough::default(),
    };
    let nr_spis = spi_count(config, &layout, &passthrough)?;

    let shared: Vec<SharedRegion<'_>> = config
        .shared_memory
        .iter()
        .map(|shared| SharedRegion {
            id: shared.id,
            guest: shared.guest,
        })
        .collect();
    let cpu = plan.host.cpus.cpus.first();
    let mut cpu_compatible = cpu
        .map_or("arm,cortex-a15", |cpu| cpu.compatible.first())
        .to_string();
    cpu_compatible.push('\0');
    let kernel = draft.find_kernel(config.kernel.range)?;
    let execution = kernel.execution();
    let mut tree = domu::build(&DomuInput {
        layout: &layout,
        banks: &draft.banks,
        vcpus: config.vcpus,
        execution,
        cpu_compatible: cpu_compatible.as_bytes(),
        clock_frequency: plan.host.timer.clock_frequency,
        xen_version: RELEASE.number,
        is_enhanced: config.enhanced != Enhanced::No,
        has_uart: config.has_uart,
        has_initrd: config.ramdisk.is_some(),
        bootargs: config.kernel.bootargs,
        shared: &shared,
        partial: partial.as_ref(),
    })
    .map_err(text)?;
    let initrd = config.ramdisk.map(|module| module.range);
    let placement = draft.load(&kernel, initrd, tree.blob.len() as u64)?;
    if let Some(initrd) = placement.initrd {
        tree.set_initrd(initrd.base().raw(), initrd.end().raw());
    }
    draft.load_tree(&placement, &tree.blob)?;

    for window in &passthrough.windows {
        draft.map_registers(
            window.host,
            window.guest.base().raw(),
            PageType::MmioDirectDev,
        )?;
        info!("  - MMIO: {} at {}", window.host, window.guest);
    }
    for shared in &config.shared_memory {
        if layout.overlaps(&shared.guest) {
            return Err(format!(
                "the shared memory \"{}\" is where its interrupt controller, UART or grant table is: move it",
                shared.id
            ));
        }
        share(plan.hv, given, shared, draft)?;
    }
    if let (GicKind::V2(v2), DomuGic::V2 { gicc }) = (&plan.host.gic.kind, &layout.gic) {
        let gicv = PhysRange::from_size(v2.gicv.base().raw(), 2 * PAGE_SIZE as u64);
        draft.map_registers(gicv, gicc.base().raw(), PageType::MmioDirectDev)?;
    }
    draft.limit_tables(config.p2m_bytes())?;
    Ok(Ready {
        execution,
        layout,
        placement,
        passthrough,
        nr_spis,
    })
}

#[cold]
#[inline(never)]
fn finish(
    plan: &Plan<'_>,
    config: &DomainConfig<'_>,
    given: &mut Given,
    draft: Draft,
    pool: u32,
    ready: &Ready,
) -> Result<Dom, String> {
    let spis: Vec<(IntId, Trigger)> = ready
        .passthrough
        .spis
        .iter()
        .map(|spi| (spi.intid, spi.trigger))
        .collect();
    let online = crate::smp::online();
    let hard = |vcpu: VcpuId| {
        let wanted = config.affinity.get(vcpu.index()).copied();
        let wanted = wanted.unwrap_or(CpuSet::ALL);
        if wanted.and(&online).is_empty() {
            warn!(
                "{}v{}: none of the CPUs of its hard-affinity runs; it may run on all",
                config.id,
                vcpu.raw()
            );
            return CpuSet::ALL;
        }
        wanted
    };
    let options = plan.options;
    let mut grants = grant_limits(options, config.max_grant_frames);
    grants.max_version = config.max_grant_version.unwrap_or(grants.max_version);
    let redistributors = match &ready.layout.gic {
        DomuGic::V3 { regions } if HAS_V3 => {
            let regions = regions.iter();
            let regions = regions.map(|at| (GuestPhys::new(at.base().raw()), at.size()));
            Redistributors::new(regions, config.vcpus)
                .map_err(|_| "the GIC has no redistributors for so many vCPUs: use fewer")?
        }
        _ => Redistributors::default(),
    };
    let domain = draft.finish(&Start {
        execution: ready.execution,
        placement: &ready.placement,
        vcpus: config.vcpus,
        features: plan.features,
        gicd: ready.layout.gicd.base(),
        redistributors,
        nr_spis: ready.nr_spis,
        lr_count: plan.lr_count,
        spis: &spis,
        timer_ppis: ready.layout.timer_ppis,
        upcall_ppi: ready.layout.evtchn_ppi,
        grants,
        maptrack_frames: config
            .max_maptrack_frames
            .or(options.gnttab_max_maptrack_frames)
            .unwrap_or(MAPTRACK_FRAMES),
        has_pmu: config.has_pmu,
        pool,
        affinity: &|vcpu| Affinity {
            hard: hard(vcpu),
            ..Affinity::default()
        },
    })?;
    let windows = ready.passthrough.windows.iter();
    given.registers.extend(windows.map(|window| window.host));
    if config.has_uart {
        let (registers, irq) = ready.layout.uart;
        let base = GuestPhys::new(registers.base().raw());
        domain.vuart.call_once(|| Vuart::new(base, irq));
    }
    if config.enhanced == Enhanced::Full {
        // The first port of all.
        let port = domain.events.lock().alloc_unbound(DomId::DOM0);
        let Ok(port) = port else {
            warn!("{}: no memory for its event channel to xenstore", config.id);
            return Ok(domain);
        };
        let mut params = domain.hvm_params.lock();
        params[HVM_PARAM_STORE_EVTCHN] = u64::from(port.raw());
        params[HVM_PARAM_STORE_PFN] = NO_PAGE_YET;
    }
    Ok(domain)
}

/// Where the domain finds what is not its RAM: as public/arch-arm.h says, or as the machine has it if the domain's RAM
/// lies where the machine's does.
#[cold]
#[inline(never)]
fn layout(plan: &Plan<'_>, config: &DomainConfig<'_>) -> Layout {
    let timer = &plan.host.timer;
    let ppis = [timer.secure_phys.intid, timer.phys.intid, timer.virt.intid];
    let mut layout = Layout::guest(plan.hv.guests.gic(), ppis);
    if config.is_direct_mapped {
        let gic = &plan.host.gic;
        let pages = |range: &PhysRange, count: u64| {
            PhysRange::from_size(range.base().raw(), count * PAGE_SIZE as u64)
        };
        match &gic.kind {
            GicKind::V2(v2) => {
                layout.gicd = pages(&gic.gicd, 1);
                layout.gic = DomuGic::V2 {
                    gicc: pages(&v2.gicc, 2),
                };
            }
            GicKind::V3(v3) if HAS_V3 => {
                layout.gicd = gic.gicd;
                layout.gic = DomuGic::V3 {
                    regions: v3.regions.clone(),
                };
            }
            GicKind::V3(_) => {}
        }
        // Over the hypervisor's own text, which no RAM or device can be.
        layout.grant_table = pages(&plan.image, u64::from(GRANT_FRAMES));
        if let Some(uart) = plan.console
            && let Ok(Some(interrupt)) = &uart.interrupt
        {
            let page = uart.reg.base().raw() & !(PAGE_SIZE as u64 - 1);
            layout.uart = (
                PhysRange::from_size(page, PAGE_SIZE as u64),
                interrupt.intid,
            );
        }
    }
    layout
}

/// Gives the domain its RAM.
#[cold]
#[inline(never)]
fn give_memory(
    plan: &Plan<'_>,
    config: &DomainConfig<'_>,
    draft: &mut Draft,
) -> Result<(), String> {
    let Some(banks) = guest_banks(config.memory) else {
        return Err("its memory does not fit a guest's memory map".to_string());
    };
    if config.static_memory.is_empty() {
        return banks.iter().try_for_each(|bank| draft.give_ram(*bank));
    }
    let hv = plan.hv;
    let mut guest = banks.first().map_or(0, |bank| bank.base().raw());
    for bank in &config.static_memory {
        set_aside(hv, *bank)?;
        let at = if config.is_direct_mapped {
            bank.base().raw()
        } else {
            guest
        };
        draft.give_frames(*bank, at)?;
        clear(hv, *bank);
        guest += bank.size();
    }
    // One after the other in the guest: one bank, for what is placed in it.
    draft.join_banks();
    Ok(())
}

/// Gives the allocator memory that was kept from it, to be claimed at once.
#[cold]
#[inline(never)]
fn set_aside(hv: &'static Hv, range: PhysRange) -> Result<(), String> {
    let start = range
        .base()
        .frame()
        .ok_or("static memory beyond the physical address space")?;
    let pages = (range.size() / PAGE_SIZE as u64) as u32;
    let added = hv
        .allocator
        .lock()
        .add(&hv.frames, start, pages, Contents::Dirty);
    added.map_err(|error| format!("the memory at {range} is not usable: {error:?}"))
}

/// Zeroes memory, down to the RAM.
#[cold]
#[inline(never)]
fn clear(hv: &'static Hv, range: PhysRange) {
    let mut at = range.base().raw();
    while at < range.end().raw() {
        if let Some(mfn) = HostPhys::new(at).frame() {
            hv.hal.zero_frame(mfn);
            hv.hal.flush_frame(mfn);
        }
        at += PAGE_SIZE as u64;
    }
}

/// Copies a boot module.
#[cold]
#[inline(never)]
fn read_module(hv: &'static Hv, range: PhysRange) -> Result<Vec<u8>, String> {
    let size = range.size() as usize;
    if range.size() > MAX_SIZE as u64 {
        return Err(format!(
            "its partial device tree has more than {MAX_SIZE} bytes"
        ));
    }
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(size).or_else(|_| {
        crate::machine::grow_heap_if_low(hv);
        bytes.try_reserve_exact(size)
    });
    reserved.map_err(|_| "no memory for its partial device tree")?;
    bytes.resize(size, 0);
    hv.hal
        .read_phys(range.base(), &mut bytes)
        .map_err(|_| "its partial device tree cannot be read")?;
    Ok(bytes)
}

/// Finds out which devices the domain gets.
#[cold]
#[inline(never)]
fn resolve(
    plan: &Plan<'_>,
    config: &DomainConfig<'_>,
    given: &Given,
    draft: &Draft,
    layout: &Layout,
    partial: &Tree<'_>,
) -> Result<Passthrough, String> {
    let hv = plan.hv;
    let gic = &plan.host.gic;
    let mut closed = plan.host.memory.clone();
    closed.extend(gic.registers());
    closed.extend(plan.console.map(|uart| uart.reg.grow_to_pages()));
    closed.extend(&given.registers);
    let mut occupied = draft.banks.clone();
    occupied.extend(layout.occupied());
    occupied.extend(config.shared_memory.iter().map(|shared| shared.guest));
    let limits = passthrough::Limits {
        closed: &closed,
        occupied: &occupied,
        lines: u32::from(hv.hal.distributor.lock().lines()),
        has_dom0: plan.has_dom0,
    };
    let irqs = IrqResolver::new(plan.tree);
    let found = passthrough::resolve(partial, plan.tree, &irqs, &limits)?;
    for spi in &found.spis {
        let irq = spi.intid;
        if hv.interrupts.owner(irq).is_some() || hv.hal.console_irq() == Some(irq) {
            return Err(format!("SPI {} belongs to somebody else", irq.raw()));
        }
        if config.has_uart && irq == layout.uart.1 {
            return Err(format!(
                "SPI {} is its virtual UART's: leave out \"vpl011\"",
                irq.raw()
            ));
        }
    }
    Ok(found)
}

/// Decides how many SPIs the domain's interrupt controller has.
#[cold]
#[inline(never)]
fn spi_count(
    config: &DomainConfig<'_>,
    layout: &Layout,
    passthrough: &Passthrough,
) -> Result<u16, String> {
    let uart = if config.has_uart {
        layout.uart.1.raw().saturating_sub(31)
    } else {
        0
    };
    let needed = uart.max(passthrough.spi_count());
    match config.nr_spis {
        Some(count) if count < needed => {
            Err(format!("\"nr_spis\" is {count}, its devices need {needed}"))
        }
        Some(count) => Ok(count),
        None => Ok(needed),
    }
}

/// Maps shared memory; the first domain that names it makes it.
#[cold]
#[inline(never)]
fn share(
    hv: &'static Hv,
    given: &mut Given,
    shared: &SharedMemory<'_>,
    draft: &mut Draft,
) -> Result<(), String> {
    let known = given.shared.iter().position(|(id, _)| id == shared.id);
    let index = match known {
        Some(index) => index,
        None => {
            let frames = make_shared(hv, shared)?;
            given.shared.push((shared.id.to_string(), frames));
            given.shared.len() - 1
        }
    };
    let Some((_, frames)) = given.shared.get(index) else {
        return Ok(());
    };
    if frames.len() as u64 * PAGE_SIZE as u64 != shared.guest.size() {
        return Err(format!(
            "the shared memory \"{}\" has another size in another domain",
            shared.id
        ));
    }
    draft.map_shared(shared.guest, frames)
}

/// Makes zeroed memory that is the hypervisor's own.
#[cold]
#[inline(never)]
fn make_shared(hv: &'static Hv, shared: &SharedMemory<'_>) -> Result<Vec<Mfn>, String> {
    let size = shared.guest.size();
    let pages = (size / PAGE_SIZE as u64) as usize;
    let mut frames = Vec::new();
    if size > MAX_SHARED || frames.try_reserve_exact(pages).is_err() {
        return Err(format!("the shared memory \"{}\" is too large", shared.id));
    }
    if let Some(host) = shared.host {
        let range = PhysRange::from_size(host, size);
        set_aside(hv, range)?;
        let start = range
            .base()
            .frame()
            .ok_or("shared memory beyond the physical address space")?;
        let claimed = hv
            .allocator
            .lock()
            .claim(&hv.frames, start, pages as u32, Owner::Xen);
        claimed.map_err(|error| {
            format!("the shared memory at {range} cannot be claimed: {error:?}")
        })?;
        clear(hv, range);
        frames.extend((0..pages as u32).map(|i| Mfn::new(start.raw() + i)));
        return Ok(frames);
    }
    for _ in 0..pages {
        let got = hv
            .allocator
            .lock()
            .alloc(&hv.frames, &AllocRequest::new(0, Owner::Xen))
            .map_err(|_| format!("no memory for the shared memory \"{}\"", shared.id))?;
        hv.hal.zero_frame(got.mfn);
        hv.hal.flush_frame(got.mfn);
        frames.push(got.mfn);
    }
    Ok(frames)
}

/// Makes a static event channel.
#[cold]
#[inline(never)]
fn connect(hv: &'static Hv, channel: &Channel) -> Result<(), String> {
    let find = |end: End| {
        let found = hv.domains.get(end.domain);
        found.ok_or_else(|| format!("{} does not run", end.domain))
    };
    let (one, other) = (find(channel.one)?, find(channel.other)?);
    let (port, other_port) = (Port::new(channel.one.port), Port::new(channel.other.port));
    let made = if Arc::ptr_eq(&one, &other) {
        one.events.lock().connect_self(port, other_port)
    } else if one.facts.id < other.facts.id {
        let (mut a, mut b) = (one.events.lock(), other.events.lock());
        EventChannels::connect(&mut a, port, &mut b, other_port)
    } else {
        let (mut b, mut a) = (other.events.lock(), one.events.lock());
        EventChannels::connect(&mut a, port, &mut b, other_port)
    };
    other.deliver(made.map_err(|error| format!("{error:?}"))?);
    Ok(())
}
