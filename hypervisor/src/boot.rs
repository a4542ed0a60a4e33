//! From the boot loader's hand-over to the run loop: device tree, console, memory, GIC, dom0.

use core::sync::atomic::AtomicU64;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use log::warn;
use xenith_arch::guest_memory::{CpuLocal, PhysMemory};
use xenith_arch::mmu::{Access, FRAME_TABLE_BASE, HEAP_BASE};
use xenith_arch::{Boot, HypTables, setup, timer};
use xenith_boot::cmdline::{CommandLine, Options};
use xenith_boot::dom0less::Dom0less;
use xenith_boot::fdt::host::{self, GicKind, HostInfo};
use xenith_boot::fdt::interrupts::IrqResolver;
use xenith_boot::fdt::tree::Tree;
use xenith_boot::memory::{PhysRange, usable_ram};
use xenith_boot::modules::{BootModules, ModuleError};
use xenith_core::addr::{CpuId, HostPhys, Mfn, PAGE_SIZE, VcpuId};
use xenith_core::domain::{Domain, InterruptOwners, Vmids};
use xenith_core::errno::Errno;
use xenith_core::fallible;
use xenith_core::frames::{Contents, FrameAllocator, FrameTable};
use xenith_core::hypervisor::{
    GuestDefaults, Hypervisor, Identity, Policy as SecurityPolicy, Setting,
};
use xenith_core::p2m::PageAccount;
use xenith_core::sched::{self, Policy, PolicyParameters, Scheduler};
use xenith_core::sync::SpinLock;
use xenith_core::time::TickScale;

use crate::gic::Gic;
use crate::machine::{Hv, Machine};
use crate::run::Pcpu;
use crate::{console, power, say, smp, uart};

const BOOT_CPU: CpuId = CpuId::new(0);
/// Largest device tree, as Xen's.
const MAX_DTB: usize = 0x20_0000;

fn init_heap() {
    let (start, len) = xenith_arch::early_heap();
    // SAFETY: Mapped with the image, and nothing else uses it; called once.
    unsafe { crate::HEAP.add(start, len) };
}

/// Says why the boot ends here, on the console where there is one, and stops.
pub fn stop(reason: &dyn core::fmt::Display) -> ! {
    console::emergency("");
    console::emergency("****************************************");
    console::emergency("Panic on CPU 0:");
    console::emergency_line(format_args!("{reason}"));
    console::emergency("****************************************");
    power::after_crash()
}

/// Entered in another mode than Hyp: nothing can run, but somebody should be told.
pub fn not_hyp(dtb: &'static [u8], mode: u32) -> ! {
    init_heap();
    console::init();
    // Memory is mapped flat here.
    let mut flat = |at: HostPhys, _: usize| usize::try_from(at.raw()).ok();
    let in_tree = || {
        let tree = Tree::new(dtb).ok()?;
        let uart = host::console(&tree, &IrqResolver::new(&tree), None).ok()??;
        uart::Found::in_tree(&uart)
    };
    if let Some(found) = uart::early().or_else(in_tree) {
        found.open(&mut flat);
    }
    crate::arch::report_wrong_mode(mode);
    console::emergency("Halted.");
    power::halt()
}

/// What the boot code takes from RAM before there is an allocator: from the start of one range upwards.
struct EarlyFrames {
    next: u64,
    end: u64,
}

impl EarlyFrames {
    fn take(&mut self) -> Option<Mfn> {
        if self.next >= self.end {
            return None;
        }
        self.next += PAGE_SIZE as u64;
        HostPhys::new(self.next - PAGE_SIZE as u64).frame()
    }
}

/// Makes the frame table of all RAM and maps the heap; returns the table, and the usable ranges less what was taken.
fn init_memory(
    tables: &mut HypTables,
    memory: &[PhysRange],
    usable: &[PhysRange],
    image: PhysRange,
    heap_pages: usize,
) -> (FrameTable<&'static [AtomicU64]>, Vec<PhysRange>) {
    let mut banks: Vec<(Mfn, u32)> = Vec::new();
    for range in memory.iter().map(|range| range.shrink_to(PAGE_SIZE as u64)) {
        let Some(start) = range.base().frame() else {
            continue;
        };
        let pages = (range.size() / PAGE_SIZE as u64).min(u64::from(u32::MAX - start.raw()));
        banks.push((start, pages as u32));
    }
    let words = FrameTable::<&'static [AtomicU64]>::words_needed(&banks).unwrap_or(usize::MAX / 8);
    let table_pages = words.saturating_mul(8).div_ceil(PAGE_SIZE);
    if table_pages > (HEAP_BASE - FRAME_TABLE_BASE) / PAGE_SIZE {
        stop(&"too much RAM: the table of its frames has room for 64 GiB");
    }
    // Tables for the mappings as well: one for each 2 MiB, and a few.
    let needed = (table_pages + heap_pages + table_pages / 512 + 8) as u64 * PAGE_SIZE as u64;
    // Beside the image where there is room, so that the large pieces stay whole; else at the end of the largest.
    let beside = usable.iter().find(|range| {
        range.base() >= image.end() && range.base().raw() - image.end().raw() < 0x20_0000
    });
    let place = beside.filter(|range| range.size() >= needed).or_else(|| {
        usable
            .iter()
            .filter(|range| range.size() >= needed)
            .max_by_key(|range| range.size())
    });
    let Some(place) = place else {
        stop(
            &"not enough memory for the hypervisor's own tables: the machine's RAM is too small or too fragmented",
        );
    };
    let mut early = EarlyFrames {
        next: place.base().raw(),
        end: place.base().raw() + needed,
    };
    let mut table_frames = EarlyFrames {
        next: early.end - (table_pages / 512 + 8) as u64 * PAGE_SIZE as u64,
        end: early.end,
    };
    early.end = table_frames.next;
    let heap = tables.reserve_heap(heap_pages * PAGE_SIZE, PAGE_SIZE);
    let heap = heap.expect("nothing of the heap's range is in use yet");
    let mut map = |base: usize, pages: usize| {
        for i in 0..pages {
            let frame = early.take();
            let mapped = frame.map(|mfn| {
                tables.map_page(base + i * PAGE_SIZE, mfn, Access::ReadWrite, &mut || {
                    table_frames.take()
                })
            });
            if !matches!(mapped, Some(Ok(()))) {
                stop(&"the hypervisor's own tables cannot be mapped: too much RAM");
            }
        }
    };
    map(FRAME_TABLE_BASE, table_pages);
    map(heap, heap_pages);
    // SAFETY: Just mapped, and used by nothing else.
    unsafe { crate::HEAP.add(heap, heap_pages * PAGE_SIZE) };
    // SAFETY: Just mapped: `table_pages` pages hold at least `words` words.
    let storage = unsafe { xenith_arch::mapped_table(FRAME_TABLE_BASE, words) };
    let table = match FrameTable::new(&banks, storage) {
        Ok(table) => table,
        Err(error) => stop(&alloc::format!(
            "the device tree's memory banks cannot be used: {error:?}"
        )),
    };
    let taken = PhysRange::from_start_end(place.base().raw(), table_frames.end);
    (table, xenith_boot::memory::subtract(usable, &[taken]))
}

/// Says which options of Xen's are known but have no effect here.
fn report_unused(line: &CommandLine<'_>) {
    let options = &line.options;
    let unused = [
        ("console_to_ring", options.console_to_ring.is_some()),
        // Only guests without stage 2 have it.
        ("gnttab=transfer", options.gnttab.transfer == Some(true)),
    ];
    for (name, _) in unused.iter().filter(|(_, given)| *given) {
        warn!("parameter \"{name}\" has no effect yet: ignored");
    }
    if let Some(value) = options.bootscrub
        && value != "idle"
        && xenith_boot::cmdline::parse_bool(value).is_none()
    {
        warn!(
            "parameter \"bootscrub={value}\" has an invalid value (a boolean or \"idle\"): idle holds"
        );
    }
}

fn identity(line: &CommandLine<'_>, features: &crate::arch::Features) -> Identity {
    Identity {
        version: crate::arch::RELEASE.version,
        extra_version: String::from(crate::arch::RELEASE.extra),
        virt_start: crate::arch::VIRT_START,
        capabilities: String::from(crate::arch::capabilities(features)),
        command_line: line.line.to_string(),
        compile_info: [
            String::from(env!("XENITH_RUSTC")),
            String::from("xenith"),
            String::from("xenith"),
            String::from(env!("XENITH_DATE")),
        ],
        changeset: String::from(env!("XENITH_CHANGESET")),
        build_id: xenith_core::hypervisor::build_id(env!("XENITH_BUILD_ID")),
    }
}

/// Gives a policy the parameters of the command line, one after the other: of a bad one the default holds.
fn set_parameters(policy: &mut dyn Policy, options: &Options<'_>) {
    type Field = fn(&mut PolicyParameters) -> &mut u32;
    let given: [(&str, Option<u32>, Field); 3] = [
        (
            "sched_credit_tslice_ms",
            options.sched_credit_tslice_ms,
            |p| &mut p.timeslice_ms,
        ),
        ("sched_ratelimit_us", options.sched_ratelimit_us, |p| {
            &mut p.ratelimit_us
        }),
        ("vcpu_migration_delay", options.vcpu_migration_delay, |p| {
            &mut p.migration_delay_us
        }),
    ];
    for (name, value, field) in given {
        let Some(value) = value else { continue };
        let mut parameters = policy.parameters();
        *field(&mut parameters) = value;
        match policy.set_parameters(parameters) {
            Ok(()) => {}
            Err(Errno::Inval) => {
                let kept = *field(&mut policy.parameters());
                warn!("parameter \"{name}={value}\" is out of range: {kept} holds");
            }
            Err(_) => warn!(
                "parameter \"{name}\" has no effect on the scheduler {}",
                policy.name()
            ),
        }
    }
}

/// Returns who may have to do with whom, as the command line says.
fn security_policy(line: &CommandLine<'_>) -> SecurityPolicy {
    match line.options.xsm {
        None | Some("silo") => SecurityPolicy::Silo,
        Some("dummy") => SecurityPolicy::Dummy,
        Some(name) => {
            warn!("parameter \"xsm={name}\" is neither silo nor dummy; silo holds");
            SecurityPolicy::Silo
        }
    }
}

/// Makes the scheduling policy that the command line names.
fn choose_policy(line: &CommandLine<'_>) -> Box<dyn Policy> {
    let named = line.options.sched.and_then(|name| {
        let found = sched::policy(name);
        if found.is_none() {
            warn!("parameter \"sched={name}\": there is no such scheduler; the default holds");
        }
        found
    });
    let mut policy = named.unwrap_or_else(sched::default_policy);
    set_parameters(&mut *policy, &line.options);
    say!(
        "Using scheduler: {} ({})",
        policy.description(),
        policy.name()
    );
    policy
}

#[unsafe(no_mangle)]
fn xenith_main(boot: Boot) -> ! {
    init_heap();
    console::init();
    let Boot {
        dtb,
        image_start,
        image_end,
        mut tables,
        windows,
        monitor,
    } = boot;
    let early_uart = uart::early();
    if let Some(early) = early_uart {
        early.open(&mut |at, pages| tables.map_device(at, pages).ok());
    }
    CpuLocal::install(BOOT_CPU, windows);
    // SAFETY: Installed on the only CPU just above.
    let memory = unsafe { PhysMemory::new() };
    setup::init_cpu();

    let unusable = |error| -> ! {
        let register = crate::arch::DTB_REGISTER;
        stop(&alloc::format!(
            "no usable device tree at {dtb:#x} ({register}): {error}. Pass the address of the board's DTB in {register}."
        ))
    };
    // SAFETY: Only this CPU runs, and nothing was written yet. Reading device registers is the worst a wrong address can do.
    let (size, compact) = unsafe {
        tables.with_bytes(dtb, MAX_DTB, |blob| {
            let loaded = Tree::new(blob).unwrap_or_else(|error| unusable(error));
            // A copy without padding: what the boot loader put in the middle of RAM would cut dom0's memory in two.
            (loaded.size(), loaded.compact())
        })
    };
    let tree_range = PhysRange::from_start_end(dtb.raw(), dtb.raw() + size as u64);
    let tree = Tree::new(&compact).unwrap_or_else(|error| unusable(error));
    let first_word = |at: HostPhys| {
        let mut word = [0; 4];
        memory
            .read(at, &mut word)
            .ok()
            .map(|()| u32::from_le_bytes(word))
    };
    let modules = BootModules::from_tree(&tree, &first_word);
    let line = CommandLine::parse(modules.as_ref().map_or("", |modules| modules.xen_args));
    let irqs = IrqResolver::new(&tree);
    let dtuart = host::console(&tree, &irqs, line.options.dtuart);
    // A bad dtuart= must not silence us while stdout-path names one.
    let fallback = if dtuart.is_err() {
        host::console(&tree, &irqs, None)
    } else {
        Ok(None)
    };
    let named = dtuart
        .as_ref()
        .ok()
        .and_then(Option::as_ref)
        .or(fallback.as_ref().ok().and_then(Option::as_ref));
    // The UART that is ours: hidden from dom0, its interrupt taken. Any other is dom0's.
    let own_uart = match early_uart {
        Some(early) if console::has_uart() => named.filter(|uart| uart.reg.base() == early.at),
        _ if line.options.console == Some("none") => None,
        _ => {
            if named.is_none() {
                warn!("no console: neither dtuart=, /chosen/stdout-path nor an alias names a UART");
            }
            named.filter(|uart| uart::open_console(&mut tables, uart))
        }
    };
    let frequency = timer::frequency();
    let boot_ticks = timer::now();
    say!(
        "Xen version {} (Xenith {} {}) ({}) debug=n {}",
        crate::arch::RELEASE,
        env!("CARGO_PKG_VERSION"),
        env!("XENITH_CHANGESET"),
        env!("XENITH_RUSTC"),
        env!("XENITH_DATE")
    );
    say!("build-id: {}", env!("XENITH_BUILD_ID"));
    if let Err(error) = &dtuart {
        warn!("console: {error}");
    }
    if monitor.is_some() {
        say!("Entered in Secure state: switched to Hyp mode");
    }
    let platform = power::find_platform(&tree, &mut tables);
    let psci = host::psci(&tree);
    power::init(
        psci.as_ref().ok().and_then(Option::as_ref),
        line.options.noreboot == Some(true),
    );
    let modules = match modules {
        Ok(modules) => modules,
        Err(error) => stop(&error),
    };
    let host = match HostInfo::from_tree(&tree) {
        Ok(host) => host,
        Err(error) => stop(&error),
    };
    let scale = TickScale::new(if frequency == 0 {
        host.timer.clock_frequency.unwrap_or(0)
    } else {
        frequency
    });
    if scale.frequency() == 1 {
        stop(
            &"the timer's frequency is unknown: firmware must set CNTFRQ, or the timer node clock-frequency",
        );
    }
    if frequency == 0
        && let Some(monitor) = monitor
    {
        // Guests read it themselves.
        monitor.set_frequency(scale.frequency());
    }
    console::configure(
        &console::Settings {
            loglvl: line.options.loglvl,
            guest_loglvl: line.options.guest_loglvl,
            timestamps: line.options.console_timestamps,
            conswitch: line.options.conswitch,
            ring_size: line.options.conring_size,
        },
        scale,
        boot_ticks,
    );
    for word in &line.unknown {
        warn!("parameter \"{word}\" unknown: ignored");
    }
    for bad in &line.bad {
        warn!(
            "parameter \"{}\" has an invalid value ({} expects {}): ignored",
            bad.word, bad.option, bad.expected
        );
    }
    report_unused(&line);
    if line.options.sync_console == Some(true) {
        // There is no transmit buffer: output is always synchronous.
        log::info!("sync_console: console output is always synchronous here");
    }
    let features = match crate::arch::features(&host.gic) {
        Ok(features) => features,
        Err(error) => stop(&error),
    };
    crate::arch::report_cpu(&features);
    say!("Machine: {}", host.model);
    say!("Platform: {}", platform.unwrap_or("Generic System"));
    say!(
        "Generic Timer IRQ: phys={} hyp={} virt={} Freq: {} KHz",
        host.timer.phys.intid.raw(),
        host.timer.hyp.intid.raw(),
        host.timer.virt.intid.raw(),
        scale.frequency() / 1000
    );

    let image = PhysRange::from_start_end(image_start.raw(), image_end.raw());
    if let Err(error) = modules.check(&host.memory, tree_range, image) {
        stop(&error);
    }
    let has_dom0 = modules.kernel().is_some();
    let mut domains = Dom0less::from_tree(&tree);
    let mut exclude = host.reserved_ranges();
    exclude.push(image);
    domains.check(&host.memory, &exclude, &modules.ranges(), has_dom0);
    exclude.extend(modules.ranges());
    for skipped in &domains.skipped {
        warn!("{skipped}");
    }
    for bad in &domains.bad_channels {
        warn!("{bad}");
    }
    if !has_dom0 && domains.domains.is_empty() {
        stop(&ModuleError::NoKernel(modules.dom0less_count));
    }
    exclude.extend(domains.module_ranges());
    exclude.extend(domains.static_ranges());
    let usable = usable_ram(&host.memory, &exclude);
    // Firmware's reserved memory is not RAM to us: no allocator has it, dom0's drivers may.
    let ram = xenith_boot::memory::subtract(&host.memory, &host.reserved_ranges());
    let heap_pages = xenith_boot::heap_pages(tree.size());
    let (frames, usable) = init_memory(&mut tables, &ram, &usable, image, heap_pages);
    let mut allocator = FrameAllocator::new();
    let contents = match line.options.bootscrub {
        Some(value) if xenith_boot::cmdline::parse_bool(value) == Some(false) => Contents::Clean,
        _ => Contents::Dirty,
    };
    for range in &usable {
        let range = range.shrink_to(PAGE_SIZE as u64);
        if let Some(start) = range.base().frame()
            && allocator
                .add(
                    &frames,
                    start,
                    (range.size() / PAGE_SIZE as u64) as u32,
                    contents,
                )
                .is_err()
        {
            warn!("memory at {:#x} is not usable", range.base());
        }
    }
    let free_mib = u64::from(allocator.free_frames()) * PAGE_SIZE as u64 / (1 << 20);
    say!(
        "System RAM: {}MB, {free_mib}MB free",
        u64::from(frames.total_frames()) * PAGE_SIZE as u64 / (1 << 20)
    );

    let Gic {
        distributor,
        cpu: gicc,
        hyp: gich,
        local,
    } = crate::gic::init(&mut tables, &host.gic, monitor);
    crate::vcpu::set_native_wfi(line.options.is_wfi_native == Some(true));
    let scheduler = Arc::new(Scheduler::new(
        choose_policy(&line),
        Box::new(smp::Ipi),
        scale,
        boot_ticks,
    ));
    let added = scheduler.with(|pools, now, kick| pools.add_cpu(BOOT_CPU, now, kick));
    if added.is_err() {
        stop(&"no memory for the scheduler");
    }
    smp::start_boot_cpu(distributor.sgi_sender(), distributor.own_target());
    // CPUs that differ may have fewer bits.
    let is_uniform = line.options.hmp_unsafe != Some(true);
    let (geometry, vmid_bits) = crate::arch::init_stage2(&features, is_uniform);
    let grants = crate::builder::grant_limits(&line.options, None);
    let lines = usize::from(distributor.lines());
    let hv: &'static Hv = crate::machine::install(Hypervisor {
        hal: Machine::new(memory, distributor, tables, features),
        frames,
        allocator: SpinLock::new(allocator),
        domains: Default::default(),
        units: Default::default(),
        scheduler,
        policy: security_policy(&line),
        identity: identity(&line, &features),
        guests: GuestDefaults {
            geometry,
            execution: crate::arch::EXECUTION,
            executions: crate::arch::executions(&features),
            lr_count: usize::from(gich.lr_count()),
            gicv: match &host.gic.kind {
                GicKind::V2(v2) => v2.gicv.base().frame(),
                GicKind::V3(_) => None,
            },
            virtual_timer: host.timer.virt.intid,
            clock_frequency: host.timer.clock_frequency.unwrap_or(0),
            has_pmu: xenith_arch::pmu::exists(),
            grants,
            grant_frames: Setting::new(grants.max_frames),
            maptrack_frames: Setting::new(
                line.options
                    .gnttab_max_maptrack_frames
                    .unwrap_or(crate::builder::MAPTRACK_FRAMES),
            ),
        },
        vmids: Vmids::new(vmid_bits),
        watchdog: AtomicU64::new(u64::MAX),
        wants_reap: Default::default(),
        interrupts: InterruptOwners::new(lines),
        virq_handlers: Default::default(),
        wallclock: SpinLock::new((0, 0)),
        scale,
        boot_ticks,
    });
    hv.hal.make_no_stage2(hv);
    crate::arch::prepare(hv, &features);
    // What has to be made in one go when a domain is made.
    crate::HEAP.reserve(&[
        fallible::room::<Domain<Machine>>(),
        fallible::room::<PageAccount>(),
    ]);
    if line
        .options
        .bootscrub
        .and_then(xenith_boot::cmdline::parse_bool)
        == Some(true)
    {
        say!("Scrubbing Free RAM");
        crate::machine::scrub_all(hv);
    }
    {
        use xenith_core::machine::PhysIrq;
        let mut distributor = hv.hal.distributor.lock();
        distributor.enable(host.timer.hyp.intid);
        distributor.enable(host.gic.maintenance.intid);
        distributor.enable(host.timer.virt.intid);
        if let Some(uart) = own_uart
            && let Ok(Some(interrupt)) = &uart.interrupt
        {
            hv.hal.set_console_irq(interrupt.intid);
            distributor.set_trigger(interrupt.intid, interrupt.trigger);
            distributor.enable(interrupt.intid);
        }
    }
    let (timer_ppi, maintenance_ppi) = (host.timer.hyp.intid, host.gic.maintenance.intid);
    let gicc_phys = match &host.gic.kind {
        GicKind::V2(v2) => v2.gicc.base(),
        GicKind::V3(_) => HostPhys::new(0),
    };
    let template = smp::Template {
        hv,
        features,
        local,
        timer_ppi,
        maintenance_ppi,
        virtual_timer_ppi: host.timer.virt.intid,
        allow_different: line.options.hmp_unsafe == Some(true),
        gicd_phys: host.gic.gicd.base(),
        gicc_phys,
        monitor,
        prefers_platform: line.options.cpu_method == Some("platform"),
    };
    smp::bring_up(template, &host, line.options.maxcpus, image_start);

    let pools = crate::dom0less::make_pools(hv, &tree, &host);

    let mut built: Vec<Arc<Domain<Machine>>> = Vec::new();
    if has_dom0 {
        let dom0 = crate::dom0::build(crate::dom0::Plan {
            hv,
            tree: &tree,
            host: &host,
            modules: &modules,
            options: &line.options,
            console: own_uart,
            usable: &usable,
            image,
            lr_count: usize::from(gich.lr_count()),
            features: &features,
        });
        match dom0 {
            Ok(dom0) => built.push(dom0),
            Err(reason) => stop(&reason),
        }
    }
    built.extend(crate::dom0less::build(
        &crate::dom0less::Plan {
            hv,
            tree: &tree,
            host: &host,
            options: &line.options,
            console: own_uart,
            image,
            lr_count: usize::from(gich.lr_count()),
            features: &features,
            pools: &pools,
            has_dom0,
        },
        &domains,
    ));
    if built.is_empty() {
        stop(&ModuleError::NoKernel(modules.dom0less_count));
    }
    // Domains may share a kernel's module.
    let mut module_ranges = modules.ranges();
    module_ranges.extend(domains.module_ranges());
    let module_ranges = xenith_boot::memory::normalise(&module_ranges);
    let traced = line.options.trace.unwrap_or_default();
    // Everything that borrows from the tree ends here.
    crate::dom0::release_modules(hv, module_ranges.into_iter());
    drop(compact);
    let takes_input =
        |domain: &&Arc<Domain<Machine>>| domain.facts.is_privileged || domain.vuart.get().is_some();
    let with_input = built.iter().filter(takes_input);
    console::end_boot(with_input.map(|domain| domain.facts.id).collect());
    let (total, used) = crate::HEAP.usage();
    log::debug!("heap: {} of {} KiB used", used / 1024, total / 1024);
    if !traced.is_empty() {
        crate::trace::start(hv, traced);
    }
    hv.hal.allow_scrubbing();
    for domain in built.drain(..) {
        if let Some(vcpu) = domain.vcpu(VcpuId::new(0)) {
            domain.set_offline(vcpu, false);
        }
    }
    drop(built);
    Pcpu::new(
        hv,
        BOOT_CPU,
        features,
        gicc,
        gich,
        timer_ppi,
        maintenance_ppi,
    )
    .run()
}
