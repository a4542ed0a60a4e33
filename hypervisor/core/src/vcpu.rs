//! A virtual CPU: its run state, and what others may know of it while a pCPU has it.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::addr::{CpuId, GuestVirt, VcpuId};
use crate::hal::Hal;
use crate::sched::{Affinity, UnitId};
use crate::sync::SpinLock;

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

/// [`Vcpu::poll_deadline`] of a vCPU that is not in SCHEDOP_poll.
pub const NOT_POLLING: u64 = u64::MAX;
/// [`Vcpu::poll_deadline`] of a vCPU that polls without a timeout.
pub const POLL_FOREVER: u64 = u64::MAX - 1;

/// No unit, no pCPU.
const NONE: u16 = u16::MAX;

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
    /// A toolstack set its registers, or it was switched on otherwise.
    pub is_initialised: AtomicBool,
    /// How many reasons there are not to run it, whatever it does.
    pauses: AtomicU32,
    /// The pCPU in whose registers its context is.
    loaded_on: AtomicU16,
    /// The pCPU that had it last.
    last_cpu: AtomicU16,
    /// Where it may run, as the toolstack said.
    pub affinity: SpinLock<Affinity>,
    /// Another pCPU waits for the context: the one that has it loaded gives it up at once.
    pub is_wanted: AtomicBool,
    /// Its number in the table of units.
    unit: AtomicU16,
    /// When SCHEDOP_poll ends, in ticks; [`NOT_POLLING`] outside of it, [`POLL_FOREVER`] without a timeout.
    pub poll_deadline: AtomicU64,
    /// Times in each run state.
    pub runstate: SpinLock<RunstateClock>,
    /// Where the guest wants its runstate copied (VCPUOP_register_runstate_memory_area); 0 for nowhere.
    pub runstate_area: AtomicU64,
}

impl<H: Hal> Vcpu<H> {
    pub(crate) fn new(id: VcpuId, context: H::VcpuContext) -> Self {
        Self {
            id,
            context: SpinLock::new(context),
            is_offline: AtomicBool::new(true),
            is_blocked: AtomicBool::new(false),
            is_initialised: AtomicBool::new(false),
            pauses: AtomicU32::new(0),
            loaded_on: AtomicU16::new(NONE),
            last_cpu: AtomicU16::new(NONE),
            affinity: SpinLock::new(Affinity::default()),
            is_wanted: AtomicBool::new(false),
            unit: AtomicU16::new(NONE),
            poll_deadline: AtomicU64::new(NOT_POLLING),
            runstate: SpinLock::new(RunstateClock::default()),
            runstate_area: AtomicU64::new(0),
        }
    }

    /// Returns whether a pCPU could run it now.
    pub fn is_runnable(&self) -> bool {
        !self.is_offline.load(Ordering::Acquire)
            && !self.is_blocked.load(Ordering::Acquire)
            && !self.is_paused()
    }

    /// Returns whether there is a reason not to run it, whatever it does.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::SeqCst) != 0
    }

    /// Adds a reason not to run it. The scheduler is not told.
    pub(crate) fn add_pause(&self) {
        self.pauses.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a reason of [`Self::add_pause`] away. Returns whether it was the last.
    pub(crate) fn end_pause(&self) -> bool {
        self.pauses.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Returns its number in the table of units, once it has one.
    #[inline]
    pub fn unit(&self) -> Option<UnitId> {
        match self.unit.load(Ordering::Relaxed) {
            NONE => None,
            unit => Some(UnitId::new(unit)),
        }
    }

    pub(crate) fn set_unit(&self, unit: Option<UnitId>) {
        self.unit
            .store(unit.map_or(NONE, UnitId::raw), Ordering::Relaxed);
    }

    /// Returns the pCPU that has its context.
    #[inline]
    pub fn loaded_on(&self) -> Option<CpuId> {
        match self.loaded_on.load(Ordering::SeqCst) {
            NONE => None,
            cpu => Some(CpuId::new(cpu)),
        }
    }

    /// Notes that `cpu` has its context. Returns which had it last, if that is another. The caller holds the context's
    /// lock.
    pub fn load_on(&self, cpu: CpuId) -> Option<CpuId> {
        let raw = cpu.index() as u16;
        // Nobody else writes it: the lock is held.
        let last = self.last_cpu.load(Ordering::Relaxed);
        self.last_cpu.store(raw, Ordering::Relaxed);
        self.loaded_on.store(raw, Ordering::SeqCst);
        (last != raw && last != NONE).then_some(CpuId::new(last))
    }

    /// Notes that no pCPU has its context any more. The caller holds the context's lock.
    pub fn unload(&self) {
        self.loaded_on.store(NONE, Ordering::SeqCst);
    }

    /// Returns the pCPU that has its context, or had it last; the first before it ran.
    pub fn last_cpu(&self) -> CpuId {
        match self.last_cpu.load(Ordering::Relaxed) {
            NONE => CpuId::new(0),
            cpu => CpuId::new(cpu),
        }
    }

    /// Returns the run state of a vCPU that does not run, by what keeps it from running.
    fn state_off_cpu(&self) -> RunState {
        if self.is_offline.load(Ordering::Acquire) {
            RunState::Offline
        } else if self.is_blocked.load(Ordering::Acquire) {
            RunState::Blocked
        } else if self.is_paused() {
            RunState::Offline
        } else {
            RunState::Runnable
        }
    }

    /// It runs from `now` on, or does not any more. Returns the state before, and the one now.
    #[inline]
    pub fn change_runstate(&self, runs: bool, now: u64) -> (RunState, RunState) {
        let mut clock = self.runstate.lock();
        let before = clock.state;
        // Asked under the lock: whoever changes that meanwhile comes after us, with `settle_runstate`.
        let state = if runs {
            RunState::Running
        } else {
            self.state_off_cpu()
        };
        clock.change(state, now);
        (before, state)
    }

    /// Notes what keeps it from running, or that nothing does any more: whoever changes that calls this afterwards.
    pub(crate) fn settle_runstate(&self, now: u64) {
        let mut clock = self.runstate.lock();
        let state = self.state_off_cpu();
        if clock.state != RunState::Running && clock.state != state {
            clock.change(state, now);
        }
    }

    /// Returns the guest address of the runstate area.
    pub fn runstate_address(&self) -> Option<GuestVirt> {
        match self.runstate_area.load(Ordering::Acquire) {
            0 => None,
            at => Some(GuestVirt::new(at)),
        }
    }
}

/// How long a vCPU was in each run state, in ticks of the counter.
#[derive(Clone, Copy, Debug)]
pub struct RunstateClock {
    /// The state now.
    pub state: RunState,
    /// When it began.
    pub since: u64,
    /// Ticks spent in each state before.
    pub spent: [u64; 4],
}

impl Default for RunstateClock {
    fn default() -> Self {
        Self {
            state: RunState::Offline,
            since: 0,
            spent: [0; 4],
        }
    }
}

impl RunstateClock {
    /// Returns the ticks that it ran until `now`.
    pub fn ran(&self, now: u64) -> u64 {
        let [before, ..] = self.spent;
        match self.state {
            RunState::Running => before.wrapping_add(now.saturating_sub(self.since)),
            _ => before,
        }
    }

    /// Goes to `state` at `now`.
    pub fn change(&mut self, state: RunState, now: u64) {
        if let Some(spent) = self.spent.get_mut(self.state as usize) {
            *spent = spent.wrapping_add(now.saturating_sub(self.since));
        }
        self.state = state;
        self.since = now;
    }
}
