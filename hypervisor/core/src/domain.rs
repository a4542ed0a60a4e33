//! A domain and its vCPUs: what they own, and how others reach it.
//!
//! A `Domain` is shared (`Arc`) and every part has its own lock (order: see [`crate::sync`]). Domains that the boot code
//! builds and those a toolstack makes differ only in who calls [`Domain::new`].

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::{DomId, GuestVirt, IntId, VcpuId};
use crate::emulate::psci::PowerStates;
use crate::errno::Errno;
use crate::evtchn::EventChannels;
use crate::gnttab::GrantTable;
use crate::hal::Hal;
use crate::p2m::P2m;
use crate::sync::SpinLock;
use crate::vgic::Vgic;

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
#[derive(Clone, Copy, Debug)]
pub struct DomainFacts {
    /// The domain's number.
    pub id: DomId,
    /// Whether it may use the privileged interfaces.
    pub is_privileged: bool,
    /// Whether its RAM has guest frame = machine frame.
    pub is_direct_mapped: bool,
    /// The PPI of the event-channel upcall.
    pub upcall_ppi: IntId,
    /// The PPI of the virtual timer.
    pub virtual_timer_ppi: IntId,
    /// The PPI of the emulated physical timer.
    pub physical_timer_ppi: IntId,
    /// Where the guest's distributor lies.
    pub gicd: crate::addr::GuestPhys,
}

/// A domain.
pub struct Domain<H: Hal> {
    /// Fixed facts.
    pub facts: DomainFacts,
    /// Guest-physical memory.
    pub p2m: SpinLock<P2m<H::Tables>>,
    /// Grants given and mapped.
    pub grants: SpinLock<GrantTable<H::Page>>,
    /// Event channels.
    pub events: SpinLock<EventChannels<H::Page>>,
    /// The virtual interrupt controller.
    pub vgic: SpinLock<Vgic>,
    /// Which vCPUs are on (PSCI).
    pub power: SpinLock<PowerStates>,
    /// The shared info page.
    pub shared_info: H::Page,
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
    shutdown: AtomicU8,
}

const NOT_SHUT_DOWN: u8 = u8::MAX;

impl<H: Hal> Domain<H> {
    /// Puts a domain together.
    #[allow(clippy::too_many_arguments, reason = "the parts are made elsewhere; this only joins them")]
    pub fn new(
        facts: DomainFacts,
        p2m: P2m<H::Tables>,
        grants: GrantTable<H::Page>,
        events: EventChannels<H::Page>,
        vgic: Vgic,
        power: PowerStates,
        shared_info: H::Page,
        contexts: Vec<H::VcpuContext>,
        virtual_offset: u64,
    ) -> Arc<Self> {
        let vcpus = contexts
            .into_iter()
            .enumerate()
            .map(|(i, context)| Vcpu::new(VcpuId::new(i as u16), context))
            .collect();
        Arc::new(Self {
            facts,
            p2m: SpinLock::new(p2m),
            grants: SpinLock::new(grants),
            events: SpinLock::new(events),
            vgic: SpinLock::new(vgic),
            power: SpinLock::new(power),
            shared_info,
            hvm_params: SpinLock::new([0; 36]),
            vcpus,
            virtual_offset,
            vm_assist: AtomicU32::new(0),
            time_offset: AtomicU64::new(0),
            shutdown: AtomicU8::new(NOT_SHUT_DOWN),
        })
    }

    /// Returns the vCPU with this index.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu<H>> {
        self.vcpus.get(id.index())
    }

    /// Marks the domain shut down. The first reason stays.
    pub fn set_shutdown(&self, reason: ShutdownReason) {
        let _ = self.shutdown.compare_exchange(NOT_SHUT_DOWN, reason as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Returns why the domain shut down, or `None` while it lives.
    pub fn shutdown(&self) -> Option<ShutdownReason> {
        ShutdownReason::from_code(u32::from(self.shutdown.load(Ordering::Acquire)))
    }
}

/// What a vCPU does when it is not running (beside being paused).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// On a pCPU (public/vcpu.h RUNSTATE_running).
    Running = 0,
    /// Waits for a pCPU.
    Runnable = 1,
    /// Waits for an interrupt or event.
    Blocked = 2,
    /// Off.
    Offline = 3,
}

/// A vCPU: what others may touch at any time is atomic; the context belongs to the pCPU that runs the vCPU, which holds
/// its lock for that long.
pub struct Vcpu<H: Hal> {
    /// The index.
    pub id: VcpuId,
    /// Registers and other state of the architecture.
    pub context: SpinLock<H::VcpuContext>,
    /// Off since the start or since PSCI CPU_OFF.
    pub is_offline: AtomicBool,
    /// In WFI, SCHEDOP_block or SCHEDOP_poll.
    pub is_blocked: AtomicBool,
    /// Something must be looked at before the guest is entered: the vGIC, the upcall.
    pub has_work: AtomicBool,
    /// In SCHEDOP_poll: any event wakes it.
    pub is_polling: AtomicBool,
    /// When SCHEDOP_poll ends, in ticks; `u64::MAX` for never.
    pub poll_deadline: AtomicU64,
    /// Times in each run state.
    pub runstate: SpinLock<RunstateClock>,
    /// Where the guest wants its runstate copied (VCPUOP_register_runstate_memory_area); 0 for nowhere.
    pub runstate_area: AtomicU64,
}

impl<H: Hal> Vcpu<H> {
    fn new(id: VcpuId, context: H::VcpuContext) -> Self {
        Self {
            id,
            context: SpinLock::new(context),
            is_offline: AtomicBool::new(true),
            is_blocked: AtomicBool::new(false),
            has_work: AtomicBool::new(true),
            is_polling: AtomicBool::new(false),
            poll_deadline: AtomicU64::new(u64::MAX),
            runstate: SpinLock::new(RunstateClock::default()),
            runstate_area: AtomicU64::new(0),
        }
    }

    /// Returns whether a pCPU could run it now.
    pub fn is_runnable(&self) -> bool {
        !self.is_offline.load(Ordering::Acquire) && !self.is_blocked.load(Ordering::Acquire)
    }

    /// Ends a wait: something was made pending for the vCPU.
    pub fn wake(&self) {
        self.has_work.store(true, Ordering::Release);
        self.is_blocked.store(false, Ordering::Release);
    }

    /// Returns the guest address of the runstate area.
    pub fn runstate_address(&self) -> Option<GuestVirt> {
        match self.runstate_area.load(Ordering::Acquire) {
            0 => None,
            at => Some(GuestVirt::new(at)),
        }
    }
}

/// How long a vCPU was in each run state.
#[derive(Clone, Copy, Debug)]
pub struct RunstateClock {
    /// The state now.
    pub state: RunState,
    /// When it began, in nanoseconds of system time.
    pub since_ns: u64,
    /// Nanoseconds spent in each state before.
    pub time_ns: [u64; 4],
}

impl Default for RunstateClock {
    fn default() -> Self {
        Self { state: RunState::Offline, since_ns: 0, time_ns: [0; 4] }
    }
}

impl RunstateClock {
    /// Goes to `state` at `now_ns`.
    pub fn change(&mut self, state: RunState, now_ns: u64) {
        let spent = now_ns.saturating_sub(self.since_ns);
        if let Some(total) = self.time_ns.get_mut(self.state as usize) {
            *total = total.saturating_add(spent);
        }
        self.state = state;
        self.since_ns = now_ns;
    }
}

/// The domains that exist, by number.
pub struct DomainTable<H: Hal> {
    domains: SpinLock<Vec<Arc<Domain<H>>>>,
}

impl<H: Hal> Default for DomainTable<H> {
    fn default() -> Self {
        Self { domains: SpinLock::new(Vec::new()) }
    }
}

impl<H: Hal> DomainTable<H> {
    /// Adds a domain.
    ///
    /// # Errors
    /// `EEXIST` when the number is taken.
    pub fn add(&self, domain: Arc<Domain<H>>) -> Result<(), Errno> {
        let mut domains = self.domains.lock();
        match domains.binary_search_by_key(&domain.facts.id, |d| d.facts.id) {
            Ok(_) => Err(Errno::Exist),
            Err(at) => {
                domains.insert(at, domain);
                Ok(())
            }
        }
    }

    /// Returns the domain with this number.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain<H>>> {
        let domains = self.domains.lock();
        let at = domains.binary_search_by_key(&id, |d| d.facts.id).ok()?;
        domains.get(at).cloned()
    }
}
