//! A domain and its vCPUs: what they own, and how others reach it.
//!
//! A `Domain` is shared (`Arc`) and every part has its own lock (order: see [`crate::sync`]). Domains that the boot code
//! builds and those a toolstack makes differ only in who calls [`Domain::new`].

mod create;
mod destroy;
mod devices;
mod interrupts;
mod table;
mod watchdog;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::{CpuId, DomId, Gfn, IntId, VcpuId};
use crate::emulate::Execution;
use crate::emulate::psci::PowerStates;
use crate::errno::Errno;
use crate::evtchn::{EventChannels, Notify};
use crate::fallible;
use crate::gnttab::{GrantTable, Maptrack};
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::SharedPage;
use crate::p2m::{P2m, PageAccount};
use crate::sched::{MAX_CPUS, Scheduler};
use crate::sync::{Once, SpinLock};
use crate::vgic::{GICD_SIZE, GICD_V3_SIZE, HAS_V3, KickSet, Redistributors, Vgic, WorkFlags};
use crate::vuart::Vuart;

pub use create::Request;
pub use destroy::Teardown;
pub use devices::DeviceAccess;
pub use interrupts::InterruptOwners;
pub use table::{DomainTable, Reserved, Vmids};

pub use crate::vcpu::{NOT_POLLING, POLL_FOREVER, RunState, RunstateClock, Vcpu};

/// Why a domain shut down (public/sched.h SHUTDOWN_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ShutdownReason {
    /// Power off.
    Poweroff = 0,
    /// Restart.
    Reboot = 1,
    /// Suspended.
    Suspend = 2,
    /// Crashed.
    Crash = 3,
    /// The watchdog expired.
    Watchdog = 4,
    /// Soft reset.
    SoftReset = 5,
}

impl ShutdownReason {
    /// Returns the reason with number `code`, or `None`.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Poweroff),
            1 => Some(Self::Reboot),
            2 => Some(Self::Suspend),
            3 => Some(Self::Crash),
            4 => Some(Self::Watchdog),
            5 => Some(Self::SoftReset),
            _ => None,
        }
    }
}

/// What a domain is made of; fixed for its life.
#[derive(Clone, Debug)]
pub struct DomainFacts {
    /// The domain's number.
    pub id: DomId,
    /// Whether it may use the privileged interfaces.
    pub is_privileged: bool,
    /// Whether it runs xenstore for the others.
    pub is_xenstore: bool,
    /// Whether its RAM has guest frame = machine frame.
    pub is_direct_mapped: bool,
    /// Whether it has performance monitors.
    pub has_pmu: bool,
    /// The PPI of the event-channel upcall.
    pub upcall_ppi: IntId,
    /// The PPI of the virtual timer.
    pub virtual_timer_ppi: IntId,
    /// The PPI of the emulated physical timer.
    pub physical_timer_ppi: IntId,
    /// Where the guest's distributor lies.
    pub gicd: crate::addr::GuestPhys,
    /// Where the redistributors of its GICv3 lie.
    pub redistributors: Redistributors,
}

impl DomainFacts {
    /// Returns which register of its interrupt controller a guest's address is, as [`Vgic::mmio_read`] counts them.
    #[inline]
    pub fn gic_register(&self, at: crate::addr::GuestPhys) -> Option<u32> {
        let offset = at.raw().wrapping_sub(self.gicd.raw());
        let has_v3 = HAS_V3 && self.redistributors.regions().next().is_some();
        let size = if has_v3 { GICD_V3_SIZE } else { GICD_SIZE };
        if offset < u64::from(size) {
            Some(offset as u32)
        } else if has_v3 {
            self.redistributors.offset(at)
        } else {
            None
        }
    }
}

/// How far the end of a domain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// It lives.
    Alive = 0,
    /// It is being taken apart: nothing new may refer to it.
    Dying = 1,
    /// All that it held is given up; others may still hold pages of it.
    Dead = 2,
}

/// What a toolstack hears of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number.
    pub id: DomId,
    /// All that it held is given up.
    pub is_dead: bool,
    /// Why it shut down, if it did.
    pub shutdown: Option<ShutdownReason>,
    /// The toolstack paused it.
    pub is_paused: bool,
    /// No vCPU that is on could run.
    pub is_blocked: bool,
    /// A vCPU runs.
    pub is_running: bool,
    /// It runs xenstore.
    pub is_xenstore: bool,
    /// A debugger is at work on it.
    pub is_debugged: bool,
    /// Pages that it has.
    pub pages: u32,
    /// Pages that it may have.
    pub limit: u32,
    /// Pages set aside for it.
    pub claimed: u32,
    /// Where it sees its shared info page.
    pub shared_info: Option<Gfn>,
    /// Nanoseconds that its vCPUs ran.
    pub cpu_time_ns: u64,
    /// vCPUs that are on.
    pub online_vcpus: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// The toolstack's name for it.
    pub handle: [u8; 16],
    /// Its CPU pool.
    pub pool: u32,
    /// Width of its physical addresses.
    pub address_bits: u8,
}

/// How often a toolstack may pause a domain.
const MAX_TOOLSTACK_PAUSES: u32 = 255;
/// How long a pCPU may take to leave a guest, in ticks of the counter, before we stop waiting for it.
const DESCHEDULE_TICKS: u64 = 1 << 30;

/// A domain.
pub struct Domain<H: Hal> {
    /// Fixed facts.
    pub facts: DomainFacts,
    /// Whether its registers and pointers have 32 bits.
    is_32_bit: AtomicBool,
    /// Guest-physical memory.
    pub p2m: SpinLock<P2m>,
    /// Its memory account, for whoever drops the last reference to a page: needs no lock.
    pub account: Arc<PageAccount>,
    /// VTTBR of the domain: root table and VMID.
    pub vttbr: u64,
    /// Grants given.
    pub grants: SpinLock<GrantTable<H::Page>>,
    /// Others' grants mapped.
    pub maptrack: SpinLock<Maptrack>,
    /// Event channels.
    pub events: SpinLock<EventChannels<H::Page>>,
    /// The virtual interrupt controller.
    pub vgic: SpinLock<Vgic>,
    /// Which vCPUs must flush the vGIC before they enter the guest; read without its lock.
    pub vgic_work: Arc<WorkFlags>,
    /// Which vCPUs are on (PSCI).
    pub power: PowerStates,
    /// Who decides when its vCPUs run.
    pub scheduler: Arc<Scheduler>,
    /// The shared info page.
    pub shared_info: H::Page,
    /// The virtual UART, set once; without one, never.
    pub vuart: Once<Vuart<H::Page>>,
    /// Device memory and interrupts that it may have.
    pub devices: SpinLock<DeviceAccess>,
    /// HVM parameters by index (0..=28).
    pub hvm_params: SpinLock<[u64; 36]>,
    /// The vCPUs.
    pub vcpus: Vec<Vcpu<H>>,
    /// The counter value at which the domain's virtual time starts.
    pub virtual_offset: u64,
    /// VM_ASST flags: bit 5 is runstate_update_flag.
    pub vm_assist: AtomicU32,
    /// Seconds added to wall-clock time for this domain.
    pub time_offset: AtomicU64,
    /// A debugger says that it is at work on it.
    pub is_debugged: AtomicBool,
    /// The toolstack's name for the domain (XENVER_guest_handle).
    pub handle: SpinLock<[u8; 16]>,
    watchdogs: SpinLock<watchdog::Watchdogs>,
    /// How often the toolstack paused it.
    toolstack_pauses: AtomicU32,
    /// How far its end has come.
    stage: AtomicU8,
    /// What of it has been taken apart.
    teardown: SpinLock<Teardown>,
    /// The vCPU that ran last on each pCPU.
    last_ran: [AtomicU16; MAX_CPUS],
    shutdown: AtomicU8,
    /// What a shutdown will be called, whoever causes it (SCHEDOP_shutdown_code).
    announced: AtomicU8,
}

const NOT_SHUT_DOWN: u8 = u8::MAX;

/// What a domain is put together from.
pub struct Parts<H: Hal> {
    /// Fixed facts.
    pub facts: DomainFacts,
    /// VTTBR of the domain.
    pub vttbr: u64,
    /// Grants given.
    pub grants: GrantTable<H::Page>,
    /// Others' grants mapped.
    pub maptrack: Maptrack,
    /// Event channels.
    pub events: EventChannels<H::Page>,
    /// The virtual interrupt controller.
    pub vgic: Vgic,
    /// Which vCPUs are on.
    pub power: PowerStates,
    /// The shared info page.
    pub shared_info: H::Page,
    /// Whether its registers and pointers have 32 or 64 bits.
    pub execution: Execution,
    /// The registers of each vCPU, of that width.
    pub contexts: Vec<H::VcpuContext>,
    /// The counter value at which the domain's virtual time starts.
    pub virtual_offset: u64,
    /// Who decides when its vCPUs run.
    pub scheduler: Arc<Scheduler>,
}

impl<H: Hal> Domain<H> {
    /// Puts a domain together.
    ///
    /// # Errors
    /// The memory of the domain back, when there is no room for it.
    #[allow(clippy::result_large_err, reason = "the caller gets back what it gave")]
    pub fn new(parts: Parts<H>, p2m: P2m) -> Result<Arc<Self>, P2m> {
        let Parts {
            facts,
            vttbr,
            grants,
            maptrack,
            events,
            vgic,
            power,
            shared_info,
            execution,
            contexts,
            virtual_offset,
            scheduler,
        } = parts;
        let mut vcpus = Vec::new();
        if vcpus.try_reserve_exact(contexts.len()).is_err() {
            return Err(p2m);
        }
        vcpus.extend(
            (0..)
                .zip(contexts)
                .map(|(index, context)| Vcpu::new(VcpuId::new(index), context)),
        );
        fallible::arc(Self {
            facts,
            is_32_bit: AtomicBool::new(execution == Execution::AArch32),
            account: p2m.account().clone(),
            p2m: SpinLock::new(p2m),
            vttbr,
            grants: SpinLock::new(grants),
            maptrack: SpinLock::new(maptrack),
            events: SpinLock::new(events),
            vgic_work: vgic.work_flags(),
            vgic: SpinLock::new(vgic),
            power,
            scheduler,
            shared_info,
            vuart: Once::new(),
            devices: SpinLock::new(DeviceAccess::default()),
            hvm_params: SpinLock::new([0; 36]),
            vcpus,
            virtual_offset,
            vm_assist: AtomicU32::new(0),
            time_offset: AtomicU64::new(0),
            is_debugged: AtomicBool::new(false),
            handle: SpinLock::new([0; 16]),
            watchdogs: SpinLock::default(),
            toolstack_pauses: AtomicU32::new(0),
            stage: AtomicU8::new(Stage::Alive as u8),
            teardown: SpinLock::new(Teardown::default()),
            last_ran: [const { AtomicU16::new(u16::MAX) }; MAX_CPUS],
            shutdown: AtomicU8::new(NOT_SHUT_DOWN),
            announced: AtomicU8::new(NOT_SHUT_DOWN),
        })
        .map_err(|domain| domain.p2m.into_inner())
    }

    /// Returns whether its registers and pointers have 32 or 64 bits.
    #[inline]
    pub fn execution(&self) -> Execution {
        if self.is_32_bit.load(Ordering::Relaxed) {
            Execution::AArch32
        } else {
            Execution::AArch64
        }
    }

    /// Makes it a domain of this width, whose vCPUs are as out of reset, before it has memory. The hypervisor's own safety
    /// does not depend on it: what a vCPU is says its context.
    ///
    /// # Errors
    /// `EINVAL`: there are none of this width here; `EBUSY`: it has memory.
    pub fn set_execution(&self, hv: &Hypervisor<H>, wanted: Execution) -> Result<(), Errno> {
        if wanted == self.execution() {
            return Ok(());
        }
        if !hv.guests.executions.contains(&wanted) {
            return Err(Errno::Inval);
        }
        if self.account.pages() != 0 {
            return Err(Errno::Busy);
        }
        self.pause();
        self.wait_descheduled();
        for vcpu in &self.vcpus {
            self.forget_registers(hv, vcpu, wanted);
        }
        self.is_32_bit
            .store(wanted == Execution::AArch32, Ordering::Relaxed);
        self.unpause();
        Ok(())
    }

    /// Makes a vCPU as it is out of reset, and off. The domain is paused, and its vCPUs have left their pCPUs.
    pub(crate) fn forget_registers(
        &self,
        hv: &Hypervisor<H>,
        vcpu: &Vcpu<H>,
        execution: Execution,
    ) {
        *vcpu.context.lock() = hv.hal.new_context(vcpu.id, execution, self.facts.has_pmu);
        self.power.set_off(vcpu.id);
        self.set_offline(vcpu, true);
        vcpu.is_initialised.store(false, Ordering::SeqCst);
    }

    /// Returns the vCPU with this index.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu<H>> {
        self.vcpus.get(id.index())
    }

    /// Something was made pending for a vCPU: ends its wait, or has the pCPU that runs it look. An interrupt ends a
    /// SCHEDOP_poll, too. The event channels must not be locked.
    #[inline(never)]
    pub fn wake(&self, id: VcpuId) {
        let Some(vcpu) = self.vcpu(id) else { return };
        if vcpu.is_blocked.swap(false, Ordering::SeqCst) {
            if vcpu.poll_deadline.load(Ordering::Acquire) != NOT_POLLING {
                self.forget_poll(vcpu);
            }
            let now = self.scheduler.kicker().ticks();
            vcpu.settle_runstate(now);
            self.scheduler.kicker().note_wake(self.facts.id, id);
            self.scheduler.settle(vcpu);
        } else if let Some(cpu) = vcpu.loaded_on() {
            // In the guest perhaps: what is pending is in memory and not in its list registers.
            self.scheduler.kicker().look(cpu);
        }
    }

    /// Wakes the vCPUs that the vGIC named.
    #[inline]
    pub fn kick(&self, set: KickSet) {
        if !set.is_empty() {
            for vcpu in set.iter() {
                self.wake(vcpu);
            }
        }
    }

    /// Returns the pCPU to which a SPI goes better from now on, when it arrived on `here` for the vCPU in `set`: where that
    /// vCPU is, or was last. `None` while it is right as it is.
    ///
    /// So a SPI follows its vCPU with the first interrupt after the vCPU, or the guest's GICD_ITARGETSR, has moved; what
    /// moves without interrupts costs nothing.
    #[inline]
    pub fn better_home(&self, set: KickSet, here: CpuId) -> Option<CpuId> {
        let home = self.vcpu(set.iter().next()?)?.last_cpu();
        (home != here).then_some(home)
    }

    /// Switches a vCPU off, or on. Whoever switches it on has made its context.
    pub fn set_offline(&self, vcpu: &Vcpu<H>, is_offline: bool) {
        vcpu.is_blocked.store(false, Ordering::Release);
        if !is_offline {
            vcpu.is_initialised.store(true, Ordering::SeqCst);
        }
        vcpu.is_offline.store(is_offline, Ordering::SeqCst);
        vcpu.settle_runstate(self.scheduler.kicker().ticks());
        self.scheduler.settle(vcpu);
        if is_offline && let Some(cpu) = vcpu.loaded_on() {
            // It may wait there, loaded: the policy then has nobody to tell.
            self.scheduler.kicker().look(cpu);
        }
    }

    /// Stops all vCPUs until [`Self::unpause`]; those that run now leave their pCPU soon ([`Self::wait_descheduled`]).
    pub fn pause(&self) {
        let now = self.scheduler.kicker().ticks();
        for vcpu in &self.vcpus {
            vcpu.add_pause();
            vcpu.settle_runstate(now);
            self.scheduler.settle(vcpu);
            if let Some(cpu) = vcpu.loaded_on() {
                // It may wait there, loaded: the policy then has nobody to tell.
                self.scheduler.kicker().look(cpu);
            }
        }
    }

    /// Ends a [`Self::pause`].
    pub fn unpause(&self) {
        let now = self.scheduler.kicker().ticks();
        for vcpu in &self.vcpus {
            if vcpu.end_pause() {
                vcpu.settle_runstate(now);
                self.scheduler.settle(vcpu);
            }
        }
    }

    /// Returns whether no pCPU has a vCPU of the domain.
    pub fn is_descheduled(&self) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.loaded_on().is_none())
    }

    /// Waits until no pCPU has a vCPU of the domain, which is paused: all have left the guest and saved it. The others
    /// take as long as a step of a hypercall; nobody that runs a guest waits for the caller.
    pub fn wait_descheduled(&self) {
        let kicker = self.scheduler.kicker();
        let end = kicker.ticks().saturating_add(DESCHEDULE_TICKS);
        for vcpu in &self.vcpus {
            while vcpu.loaded_on().is_some() {
                if kicker.ticks() > end {
                    log::error!("{}v{} does not leave its CPU", self.facts.id, vcpu.id.raw());
                    return;
                }
                core::hint::spin_loop();
            }
        }
    }

    /// Pauses for the toolstack, which can pause a domain more than once.
    ///
    /// # Errors
    /// `EOVERFLOW`: too often.
    pub fn pause_by_toolstack(&self) -> Result<(), Errno> {
        // The pause first: who undoes it as soon as it counts must find it.
        self.pause();
        self.toolstack_pauses
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |pauses| {
                (pauses < MAX_TOOLSTACK_PAUSES).then_some(pauses + 1)
            })
            .inspect_err(|_| self.unpause())
            .map_err(|_| Errno::Overflow)?;
        Ok(())
    }

    /// Ends a [`Self::pause_by_toolstack`].
    ///
    /// # Errors
    /// `EINVAL`: it was not paused.
    pub fn unpause_by_toolstack(&self) -> Result<(), Errno> {
        self.toolstack_pauses
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |pauses| {
                pauses.checked_sub(1)
            })
            .map_err(|_| Errno::Inval)?;
        self.unpause();
        Ok(())
    }

    /// Returns how far its end has come.
    #[inline]
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Alive,
            1 => Stage::Dying,
            _ => Stage::Dead,
        }
    }

    /// Tells a toolstack about the domain, as it is at this moment.
    pub fn info(&self, hv: &Hypervisor<H>) -> DomainInfo {
        let now = self.scheduler.kicker().ticks();
        let (mut ran, mut online) = (0u64, 0);
        let (mut is_blocked, mut is_running) = (true, false);
        for vcpu in &self.vcpus {
            let clock = *vcpu.runstate.lock();
            ran = ran.wrapping_add(clock.ran(now));
            if vcpu.is_offline.load(Ordering::Acquire) {
                continue;
            }
            online += 1;
            is_blocked &= vcpu.is_blocked.load(Ordering::Acquire);
            is_running |= clock.state == RunState::Running;
        }
        let is_up = online != 0;
        DomainInfo {
            id: self.facts.id,
            is_dead: self.stage() == Stage::Dead,
            shutdown: self.shutdown(),
            is_paused: self.toolstack_pauses.load(Ordering::SeqCst) != 0,
            is_blocked: is_up && is_blocked,
            is_running: is_up && is_running,
            is_xenstore: self.facts.is_xenstore,
            is_debugged: self.is_debugged.load(Ordering::Relaxed),
            pages: self.account.pages(),
            limit: self.account.limit(),
            claimed: self.account.claimed(),
            shared_info: hv.frames.xenheap_gfn(self.shared_info.mfn()),
            cpu_time_ns: hv.scale.to_ns(ran),
            online_vcpus: online,
            vcpus: self.vcpus.len() as u32,
            handle: *self.handle.lock(),
            pool: self
                .scheduler
                .with(|pools, _, _| pools.pool_of(self.facts.id))
                .unwrap_or(0),
            address_bits: self.p2m.lock().stage2().geometry().ipa_bits(),
        }
    }

    /// Notes that a vCPU runs on this pCPU now. Returns whether another of the domain's ran there before, whose
    /// translations may still be cached.
    #[inline]
    pub fn note_runs(&self, cpu: CpuId, vcpu: VcpuId) -> bool {
        let Some(last) = self.last_ran.get(cpu.index()) else {
            return true;
        };
        let before = last.load(Ordering::Relaxed);
        last.store(vcpu.raw(), Ordering::Relaxed);
        before != vcpu.raw() && before != u16::MAX
    }

    /// Raises a vCPU's event-channel upcall and wakes it, as a [`Notify`] of the event channels asks.
    pub fn deliver(&self, notify: Notify) {
        match notify {
            Notify::None => {}
            Notify::Kick(vcpu) => self.raise(vcpu, self.facts.upcall_ppi),
            Notify::Pollers(kick) => {
                if let Some(vcpu) = kick {
                    self.raise(vcpu, self.facts.upcall_ppi);
                }
                let woken = self.events.lock().take_woken();
                for vcpu in woken {
                    self.end_poll(vcpu);
                }
            }
            Notify::Xen => self.look_at_vuart(),
        }
    }

    /// Raises an interrupt line of a vCPU and wakes whoever has to look.
    #[inline(never)]
    pub fn raise(&self, vcpu: VcpuId, irq: IntId) {
        let kicked = self.vgic.lock().raise_level(vcpu, irq);
        self.kick(kicked);
    }

    /// Ends a vCPU's SCHEDOP_poll: an event came, or its time is over. The event channels must not be locked.
    pub fn end_poll(&self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu(id) {
            self.forget_poll(vcpu);
            self.wake(id);
        }
    }

    /// Nothing is to end a vCPU's poll any more: it has ended.
    #[cold]
    fn forget_poll(&self, vcpu: &Vcpu<H>) {
        vcpu.poll_deadline.store(NOT_POLLING, Ordering::Release);
        self.events.lock().end_poll(vcpu.id);
    }

    /// Marks the domain shut down, and stops it. The first reason stays.
    pub fn set_shutdown(&self, reason: ShutdownReason) {
        // Its vCPUs stay as they are, on or off: a suspended domain goes on there. The pause first: who undoes it as soon as
        // there is a reason must find it.
        self.pause();
        let changed = self.shutdown.compare_exchange(
            NOT_SHUT_DOWN,
            reason as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if changed.is_err() {
            self.unpause();
        }
    }

    /// Undoes [`Self::set_shutdown`]: vCPUs that are on go on.
    pub fn resume(&self) {
        if self.shutdown.swap(NOT_SHUT_DOWN, Ordering::AcqRel) == NOT_SHUT_DOWN {
            return;
        }
        self.announced.store(NOT_SHUT_DOWN, Ordering::Release);
        self.unpause();
    }

    /// Says what the domain's shutdown is to be called when it comes. The first word stays.
    pub fn announce_shutdown(&self, reason: ShutdownReason) {
        let _ = self.announced.compare_exchange(
            NOT_SHUT_DOWN,
            reason as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Returns what a shutdown for `reason` is to be called: what was announced, if anything was.
    pub fn announced_shutdown(&self, reason: ShutdownReason) -> ShutdownReason {
        ShutdownReason::from_code(u32::from(self.announced.load(Ordering::Acquire)))
            .unwrap_or(reason)
    }

    /// Returns why the domain shut down, or `None` while it lives.
    pub fn shutdown(&self) -> Option<ShutdownReason> {
        ShutdownReason::from_code(u32::from(self.shutdown.load(Ordering::Acquire)))
    }
}
