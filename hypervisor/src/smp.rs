//! The other physical CPUs: what all may know of each, telling one to look, and starting them.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use log::{error, warn};
use xenith_arch::gic::{LocalFrames, SgiSender, Target};
use xenith_arch::guest_memory::{CpuLocal, this_cpu};
use xenith_arch::{Firmware, Monitor, affinity, cache, psci_cpu_on, setup, sysreg, timer};
use xenith_boot::fdt::host::{HostCpu, HostInfo, Psci, PsciMethod, PsciVersion};
use xenith_core::addr::{CpuId, DomId, HostPhys, IntId, VcpuId};
use xenith_core::domain::{Domain, Vcpu};
use xenith_core::emulate::Execution;
use xenith_core::machine::PhysIrq;
use xenith_core::sched::{CpuSet, Kicker};
use xenith_core::sync::Once;
use xenith_core::trace::{Event, Subject};
use xenith_core::vgic::MAX_LRS;
use xenith_platforms::{CpuOnError, Platform, Wake};

use crate::arch::{EXECUTION, Features};
use crate::machine::{Hv, Machine, alloc_frame, installed};
use crate::run::Pcpu;
use crate::say;
use crate::trace;

pub use xenith_arch::MAX_CPUS;

/// The SGI that makes a pCPU leave the guest and look at its [`PcpuState`].
const SGI_LOOK: u8 = 0;

/// Longest wait for a CPU to start, in seconds.
const START_SECONDS: u64 = 1;

/// A request to a pCPU beside scheduling.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// Print the registers of what runs there.
    Dump = 1,
    /// Stop for good: the machine goes down.
    Stop = 2,
}

/// How far a pCPU came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Progress {
    /// Not started.
    Off = 0,
    /// In service.
    Online = 1,
    /// It came up, and differs too much from the boot CPU.
    Refused = 2,
    /// Another CPU came up than the one that was started.
    Stranger = 3,
    /// It did not come in time: it stays out, however late it comes.
    GivenUp = 4,
    /// It came up, and the GIC has nothing for it.
    WithoutGic = 5,
    /// It came up, and cannot run what the boot CPU can.
    Unlike = 6,
}

/// What other pCPUs may touch of a pCPU. One cache line, so that none waits for a neighbour's.
#[repr(align(64))]
pub struct PcpuState {
    must_schedule: AtomicBool,
    requests: AtomicU32,
    progress: AtomicU8,
    /// How the GIC names it ([`Target`]).
    target: AtomicU32,
    mpidr: AtomicU32,
    midr: AtomicU32,
    /// How long it slept, in ticks; without the sleep that lasts.
    idle: AtomicU64,
    /// Since when it sleeps; 0: it does not.
    idle_since: AtomicU64,
}

impl PcpuState {
    const fn new() -> Self {
        Self {
            must_schedule: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            progress: AtomicU8::new(Progress::Off as u8),
            target: AtomicU32::new(0),
            mpidr: AtomicU32::new(0),
            midr: AtomicU32::new(0),
            idle: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
        }
    }

    /// Returns whether this pCPU must ask the scheduler again.
    #[inline(always)]
    pub fn must_schedule(&self) -> bool {
        self.must_schedule.load(Ordering::Relaxed)
    }

    /// Takes the request to ask the scheduler: what comes after this is asked again.
    #[inline]
    pub fn begin_schedule(&self) {
        self.must_schedule.store(false, Ordering::SeqCst);
    }

    /// Has this pCPU ask the scheduler again; it is the caller's own.
    #[inline]
    pub fn ask_schedule(&self) {
        self.must_schedule.store(true, Ordering::Relaxed);
    }

    /// This pCPU sleeps from now on.
    #[inline]
    pub fn begin_sleep(&self, now: u64) {
        self.idle_since.store(now, Ordering::Relaxed);
    }

    /// It woke up.
    #[inline]
    pub fn end_sleep(&self, now: u64) {
        let slept = now.saturating_sub(self.idle_since.load(Ordering::Relaxed));
        let before = self.idle.load(Ordering::Relaxed);
        self.idle_since.store(0, Ordering::Relaxed);
        self.idle
            .store(before.wrapping_add(slept), Ordering::Relaxed);
    }

    /// Returns how long it slept, in ticks. While it goes to sleep or wakes up, a sleep may be missing.
    pub fn idle_ticks(&self, now: u64) -> u64 {
        let current = match self.idle_since.load(Ordering::Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        self.idle.load(Ordering::Relaxed).wrapping_add(current)
    }

    /// Returns how the GIC names it.
    pub fn target(&self) -> Target {
        Target::new(self.target.load(Ordering::Relaxed))
    }

    /// Takes the other requests.
    #[inline]
    pub fn take_requests(&self) -> u32 {
        if self.requests.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.requests.swap(0, Ordering::AcqRel)
    }

    /// Goes from `Off` to `to`, unless somebody went elsewhere before. Returns whether it did.
    fn leave_off(&self, to: Progress) -> bool {
        let (off, to) = (Progress::Off as u8, to as u8);
        self.progress
            .compare_exchange(off, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn progress(&self) -> Progress {
        match self.progress.load(Ordering::Acquire) {
            1 => Progress::Online,
            2 => Progress::Refused,
            3 => Progress::Stranger,
            4 => Progress::GivenUp,
            5 => Progress::WithoutGic,
            6 => Progress::Unlike,
            _ => Progress::Off,
        }
    }
}

/// The pCPUs. A static, since the panic handler and the kicks reach it from anywhere; every part is atomic.
static CPUS: [PcpuState; MAX_CPUS] = [const { PcpuState::new() }; MAX_CPUS];
static SENDER: Once<SgiSender> = Once::new();
/// The logical number of the CPU that is being started.
static STARTING: AtomicU8 = AtomicU8::new(0);
static TEMPLATE: Once<Template> = Once::new();

/// What a secondary CPU needs to begin.
pub struct Template {
    /// The hypervisor.
    pub hv: &'static Hv,
    /// Identification registers as guests see them.
    pub features: Features,
    /// Where each CPU finds its own interfaces to the GIC.
    pub local: LocalFrames,
    /// The hypervisor's timer.
    pub timer_ppi: IntId,
    /// The GIC's maintenance interrupt.
    pub maintenance_ppi: IntId,
    /// The guests' virtual timer.
    pub virtual_timer_ppi: IntId,
    /// Whether CPUs that differ from the boot CPU are used (`hmp-unsafe`).
    pub allow_different: bool,
    /// Where the distributor is in physical memory.
    pub gicd_phys: HostPhys,
    /// Where the CPU interface is in physical memory.
    pub gicc_phys: HostPhys,
    /// What answers SMCs in place of firmware, if the boot CPU was entered in Secure state.
    pub monitor: Option<Monitor>,
    /// Whether the board's own way to start CPUs is preferred to PSCI (`cpu-method=platform`).
    pub prefers_platform: bool,
}

/// Returns what others may know of a pCPU.
pub fn state(cpu: CpuId) -> &'static PcpuState {
    // Numbers come from the list of started CPUs; the first stands in where that were not so.
    CPUS.get(cpu.index()).unwrap_or(&CPUS[0])
}

/// Returns the pCPUs that are in service.
pub fn online() -> CpuSet {
    let mut set = CpuSet::EMPTY;
    for (cpu, state) in (0..).map(CpuId::new).zip(&CPUS) {
        if state.progress() == Progress::Online {
            set.insert(cpu);
        }
    }
    set
}

fn send(cpus: impl Iterator<Item = CpuId>) {
    let me = this_cpu();
    let targets = cpus.filter(|&cpu| cpu != me).map(|cpu| {
        trace::record(Event::SendIpi, Subject::IDLE, [0, cpu.index() as u32]);
        state(cpu).target()
    });
    if let Some(sender) = SENDER.get() {
        sender.send(SGI_LOOK, targets);
    }
}

/// Asks every other pCPU that is in service for something.
pub fn ask_others(request: Request) {
    let mut others = online();
    others.remove(this_cpu());
    for cpu in others.iter() {
        state(cpu)
            .requests
            .fetch_or(request as u32, Ordering::Release);
    }
    send(others.iter());
}

/// Makes this pCPU one of those in service. Returns false if it was given up meanwhile.
fn go_online(cpu: CpuId, target: Target) -> bool {
    let state = state(cpu);
    state.target.store(target.raw(), Ordering::Relaxed);
    state.mpidr.store(affinity(), Ordering::Relaxed);
    state.midr.store(sysreg::midr::read(), Ordering::Relaxed);
    state.leave_off(Progress::Online)
}

/// Puts the boot CPU in service.
pub fn start_boot_cpu(sender: SgiSender, target: Target) {
    SENDER.call_once(|| sender);
    // Nobody gave up the CPU that asks.
    let _ = go_online(CpuId::new(0), target);
}

/// Tells pCPUs what the scheduler wants of them.
pub struct Ipi;

impl Kicker for Ipi {
    fn reschedule(&self, cpus: &CpuSet) {
        for cpu in cpus.iter() {
            state(cpu).must_schedule.store(true, Ordering::SeqCst);
        }
        send(cpus.iter());
    }
    #[inline]
    fn look(&self, cpu: CpuId) {
        if cpu != this_cpu() {
            send(core::iter::once(cpu));
        }
    }
    fn ticks(&self) -> u64 {
        timer::now()
    }
    fn note_wake(&self, domain: DomId, vcpu: VcpuId) {
        trace::record(Event::Wake, Subject::vcpu(domain, vcpu), [0, 0]);
    }
}

/// Returns the CPUs of the device tree beside the boot CPU: they are numbered in this order, from 1.
fn others<'h, 'a>(host: &'h HostInfo<'a>) -> impl Iterator<Item = &'h HostCpu<'a>> + Clone {
    let boot = u64::from(affinity());
    let cpus = host.cpus.cpus.iter();
    cpus.filter(move |cpu| cpu.is_enabled && cpu.mpidr != boot)
}

/// Returns the number of the CPU with these affinity fields of MPIDR, if it is in service.
pub fn number_of(host: &HostInfo<'_>, mpidr: u64) -> Option<CpuId> {
    let number = if mpidr == u64::from(affinity()) {
        0
    } else {
        1 + others(host).position(|cpu| cpu.mpidr == mpidr)?
    };
    let cpu = CpuId::new(u16::try_from(number).ok()?);
    online().contains(cpu).then_some(cpu)
}

/// Starts the CPUs of the device tree beside the boot CPU, at most `limit` in all. `image` is where the image is loaded.
pub fn bring_up(template: Template, host: &HostInfo<'_>, limit: Option<u32>, image: HostPhys) {
    let hv = template.hv;
    let template = TEMPLATE.call_once(|| template);
    let others = others(host);
    // As many vCPUs as a domain can have: as many CPU interfaces a GICv2 has.
    let most = hv.guests.gic().max_vcpus().min(MAX_CPUS);
    let limit = limit.map_or(most, |limit| limit as usize).clamp(1, most);
    let allowed = (1 + others.clone().count()).min(limit);
    let has_own_way = crate::power::platform().is_some_and(Platform::starts_cpus);
    if template.prefers_platform && !has_own_way {
        warn!("cpu-method=platform: this machine has no way of its own; PSCI is used");
    }
    // The monitor that answers SMCs is ours, and has no PSCI.
    let without_psci = template.monitor.is_some() || template.prefers_platform && has_own_way;
    let psci = host.psci.as_ref().filter(|_| !without_psci);
    if let Some(psci) = psci {
        report_psci(psci);
    } else if has_own_way {
        say!("CPUs are started by the platform's method");
    } else if others.clone().any(is_released) {
        say!("CPUs are started by spin-table");
    }
    for cpu in host.cpus.cpus.iter().filter(|cpu| !cpu.is_enabled) {
        say!(
            "CPU with MPIDR {:#x} is not used: the device tree says that it is disabled",
            cpu.mpidr
        );
    }
    say!("SMP: Allowing {allowed} CPUs");
    if allowed == 1 {
        return;
    }
    hv.hal.tables.lock().open_secondary_path(image, true);
    let mut failed = false;
    for (number, cpu) in (1u16..).zip(others.clone()).take(allowed - 1) {
        say!("Bringing up CPU{number}");
        match start(template, psci, CpuId::new(number), cpu, image) {
            Ok(()) => say!("CPU {number} booted."),
            Err(reason) => {
                failed = true;
                error!(
                    "Failed to bring up CPU {number} (MPIDR {:#x}): {reason}",
                    cpu.mpidr
                );
            }
        }
    }
    // One that comes late, or was released with another and is not used, may still be on its way, and must reach the place
    // where it stops.
    let left_out = others.clone().skip(allowed - 1).any(is_released);
    if !failed && !left_out {
        hv.hal.tables.lock().open_secondary_path(image, false);
    }
    say!("Brought up {} CPUs", online().len());
}

fn report_psci(psci: &Psci) {
    let version = match (psci.version, psci.method) {
        (PsciVersion::V0_1, _) => (0, 1),
        (_, PsciMethod::Smc) => match smccc::psci::version::<Firmware>() {
            Ok(version) => (version.major, version.minor),
            Err(_) => (0, 2),
        },
        _ => (0, 2),
    };
    say!("Using PSCI v{}.{}", version.0, version.1);
}

/// Starts a CPU as the board does it, where there is no PSCI.
fn board_cpu_on(
    template: &Template,
    board: &dyn Platform,
    number: CpuId,
    cpu: &HostCpu<'_>,
    entry: HostPhys,
) -> Result<(), &'static str> {
    let wake = board.cpu_on(&crate::power::Io, number.index(), cpu.mpidr, entry.raw());
    if wake.map_err(CpuOnError::text)? == Wake::Interrupt {
        // Its place among the CPU interfaces is not known yet; the others just look.
        if let Some(monitor) = template.monitor {
            // It waits in Secure state, and Non-secure SGIs do not reach it there.
            let others = !state(this_cpu()).target().raw() as u8;
            monitor.send_secure_sgi(template.gicd_phys, SGI_LOOK, others);
        } else if let Some(sender) = SENDER.get() {
            sender.send_others(SGI_LOOK);
        }
        sysreg::sev();
    }
    Ok(())
}

/// Returns whether a CPU is started by what is written for it in memory. That is AArch64's: a tree for both may name the
/// method for 32-bit kernels at the parent, and firmware has but one of them.
fn is_released(cpu: &HostCpu<'_>) -> bool {
    EXECUTION == Execution::AArch64 && cpu.spins()
}

/// Starts a CPU that waits in a loop of the firmware's, caches off, for an address other than 0 (Linux'
/// `arm64/booting.rst`).
fn release_cpu(hv: &Hv, cpu: &HostCpu<'_>, entry: HostPhys) -> Result<(), &'static str> {
    let wrong = "its cpu-release-addr is missing, not a multiple of 8, or no physical address";
    let at = cpu.release_address.ok_or(wrong)?;
    let frame = at.frame().filter(|_| at.raw().is_multiple_of(8));
    let word = at.page_offset() / 8;
    // The page is nobody's: `HostInfo::reserved_ranges` has it.
    hv.hal.memory.with_table(frame.ok_or(wrong)?, |page| {
        if let Some(word) = page.get(word) {
            word.store(entry.raw(), Ordering::Release);
            cache::clean_range(core::ptr::from_ref(word) as usize, 8);
        }
    });
    sysreg::sev();
    Ok(())
}

fn firmware_cpu_on(
    psci: Option<&Psci>,
    cpu: &HostCpu<'_>,
    entry: HostPhys,
) -> Result<(), &'static str> {
    if cpu.enable_method != "psci" && psci.is_none() {
        return Err(
            "no way to start it is known: use a firmware that adds PSCI to the device tree, such as U-Boot",
        );
    }
    let psci = psci
        .ok_or("the device tree has no PSCI node: use a firmware that adds one, such as U-Boot")?;
    if psci.method == PsciMethod::Hvc {
        return Err("PSCI by HVC cannot be used from Hyp mode: the psci node's method must be smc");
    }
    let number = match psci.version {
        PsciVersion::V0_1 => Some(
            psci.cpu_on
                .ok_or("the PSCI 0.1 node gives no number for cpu_on")?,
        ),
        _ => None,
    };
    let result = psci_cpu_on(number, cpu.mpidr, entry)
        .ok_or("its MPIDR or the entry address does not fit PSCI's 32-bit call")?;
    match result {
        0 => Ok(()),
        -2 => Err("firmware says: invalid parameters (PSCI -2)"),
        -4 => Err("firmware says: it is on already (PSCI -4)"),
        -5 => Err("firmware says: it is about to be on (PSCI -5)"),
        -1 => Err("firmware has no CPU_ON (PSCI -1)"),
        -3 => Err("firmware denies it (PSCI -3)"),
        _ => Err("firmware failed (PSCI CPU_ON)"),
    }
}

fn start(
    template: &Template,
    psci: Option<&Psci>,
    number: CpuId,
    cpu: &HostCpu<'_>,
    image: HostPhys,
) -> Result<(), &'static str> {
    let hv = template.hv;
    hv.hal
        .tables
        .lock()
        .make_windows(number.index(), &mut || alloc_frame(hv))
        .map_err(|_| "no memory for its windows")?;
    let stack = hv
        .hal
        .tables
        .lock()
        .map_stack(number.index(), &mut || alloc_frame(hv))
        .map_err(|_| "no memory for its stack")?;
    hv.scheduler
        .with(|policy, now, kick| policy.add_cpu(number, now, kick))
        .map_err(|_| "no memory for its run queue")?;
    state(number)
        .mpidr
        .store(cpu.mpidr as u32, Ordering::Relaxed);
    STARTING.store(number.index() as u8, Ordering::Release);
    xenith_arch::set_secondary_stack(cpu.mpidr as u32, stack);
    let entry = xenith_arch::secondary_entry(image);
    // By HVC we would call ourselves: a board's own way is better than that.
    let by_hvc = psci.is_some_and(|psci| psci.method == PsciMethod::Hvc);
    let begun = match crate::power::platform() {
        _ if is_released(cpu) => release_cpu(hv, cpu, entry),
        Some(board) if psci.is_none() || by_hvc && board.starts_cpus() => {
            board_cpu_on(template, board, number, cpu, entry)
        }
        _ => firmware_cpu_on(psci, cpu, entry),
    };
    let result = begun.and_then(|()| {
        let end = timer::now() + START_SECONDS * u64::from(timer::frequency());
        loop {
            match state(number).progress() {
                Progress::Online => return Ok(()),
                Progress::Refused => {
                    return Err("its MIDR differs from the boot CPU's: give \"hmp-unsafe=on\" to use it all the same");
                }
                Progress::WithoutGic => {
                    return Err(
                        "the GIC has no redistributor or no system registers for it: correct the device tree, or firmware",
                    );
                }
                Progress::Unlike => {
                    return Err(
                        "it cannot run all domains that the boot CPU can: it lacks 32-bit state, or list registers of the GIC",
                    );
                }
                Progress::Stranger => return Err("another CPU came up in its place"),
                Progress::GivenUp => {
                    return Err("it did not come up within a second (not in Hyp mode, or firmware failed)");
                }
                Progress::Off if timer::now() > end => {
                    // If it comes just now the next look finds it.
                    let _ = state(number).leave_off(Progress::GivenUp);
                }
                Progress::Off => core::hint::spin_loop(),
            }
        }
    });
    if result.is_err() {
        // Nobody starts on this stack any more: a CPU that comes too late finds none, and stays where it is.
        xenith_arch::set_secondary_stack(cpu.mpidr as u32, 0);
        hv.scheduler
            .with(|policy, now, kick| policy.remove_cpu(number, now, kick));
    }
    result
}

/// Puts a CPU that is not used to sleep for good.
fn park(cpu: CpuId, why: Progress) -> ! {
    state(cpu).progress.store(why as u8, Ordering::Release);
    loop {
        sysreg::wfi();
    }
}

#[unsafe(no_mangle)]
fn xenith_secondary_main(monitor: Option<Monitor>) -> ! {
    let cpu = CpuId::new(u16::from(STARTING.load(Ordering::Acquire)));
    let Some(template) = TEMPLATE.get() else {
        loop {
            sysreg::wfi();
        }
    };
    if affinity() != state(cpu).mpidr.load(Ordering::Relaxed) {
        park(cpu, Progress::Stranger);
    }
    let boot_midr = CPUS[0].midr.load(Ordering::Relaxed);
    if sysreg::midr::read() != boot_midr {
        if !template.allow_different {
            park(cpu, Progress::Refused);
        }
        warn!(
            "CPU{}: MIDR {:#x} differs from the boot CPU's {boot_midr:#x}: used as hmp-unsafe=on says",
            cpu.index(),
            sysreg::midr::read()
        );
    }
    if !crate::arch::is_like(&template.features) {
        park(cpu, Progress::Unlike);
    }
    // SAFETY: Each CPU's number, and so its windows, are its own; this runs once on each.
    CpuLocal::install(cpu, unsafe { xenith_arch::secondary_windows(cpu.index()) });
    setup::init_cpu();
    if let Some(monitor) = monitor {
        monitor.release_cpu(template.gicd_phys, template.gicc_phys);
        monitor.set_frequency(template.hv.scale.frequency());
    }
    let hv = template.hv;
    let target = {
        let mut distributor = hv.hal.distributor.lock();
        if !distributor.init_cpu() {
            drop(distributor);
            park(cpu, Progress::WithoutGic);
        }
        distributor.enable(template.timer_ppi);
        distributor.enable(template.maintenance_ppi);
        distributor.enable(template.virtual_timer_ppi);
        distributor.own_target()
    };
    // SAFETY: The boot CPU mapped what is in memory; this CPU's own interfaces have no other owner.
    let interfaces = unsafe { crate::gic::secondary_interfaces(template.local) };
    let Some((gicc, gich)) = interfaces else {
        park(cpu, Progress::WithoutGic);
    };
    if usize::from(gich.lr_count()) < hv.guests.lr_count.min(MAX_LRS) {
        park(cpu, Progress::Unlike);
    }
    let pcpu = Pcpu::new(
        hv,
        cpu,
        template.features,
        gicc,
        gich,
        template.timer_ppi,
        template.maintenance_ppi,
    );
    if !go_online(cpu, target) {
        park(cpu, Progress::GivenUp);
    }
    pcpu.run()
}

/// Does what other pCPUs asked of this one. `loaded` is the vCPU that is live here.
pub fn do_requests(state: &PcpuState, loaded: Option<(&Domain<Machine>, &Vcpu<Machine>)>) {
    let requests = state.take_requests();
    if requests & Request::Stop as u32 != 0 {
        crate::power::halt();
    }
    if requests & Request::Dump as u32 != 0 {
        crate::keys::dump_this_cpu(loaded);
    }
}

/// Stops the other pCPUs: the machine goes down.
pub fn stop_others() {
    if installed().is_some() {
        ask_others(Request::Stop);
    }
}
