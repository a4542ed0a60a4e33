//! What the machine knows of its units and pCPUs, and what it tells.

use xenith_core::addr::{CpuId, DomId, VcpuId};
use xenith_core::sched::{Affinity, UnitId};

use crate::Behaviour;

/// What a unit does, as in Xen's interface (RUNSTATE_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// On a pCPU.
    Running = 0,
    /// Waiting for one.
    Runnable = 1,
    /// Waiting for an event.
    Blocked = 2,
    /// Paused.
    Offline = 3,
}

/// A unit as a trace names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its domain.
    pub domain: DomId,
    /// Its number there.
    pub vcpu: VcpuId,
}

/// Something that happened on a pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Another unit runs; `None` is idle.
    Switch {
        /// What ran.
        from: Option<Who>,
        /// What runs.
        to: Option<Who>,
    },
    /// A run state changed.
    RunState {
        /// Whose.
        who: Who,
        /// What it was.
        from: RunState,
        /// What it is.
        to: RunState,
    },
    /// A unit runs on another pCPU than the last time.
    Migrate {
        /// Which.
        who: Who,
        /// Where it was.
        from: CpuId,
    },
    /// A unit woke.
    Wake(Who),
    /// Another pCPU is told to schedule.
    Ipi(CpuId),
    /// The policy's timer.
    Timer,
}

/// Who wants to know what happens, for a trace.
pub trait Observer {
    /// Something happened on `cpu` at `time` ns.
    fn event(&mut self, time: u64, cpu: CpuId, what: Happening);
}

/// The life of a unit until now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Time in each [`RunState`], in ns.
    pub states: [u64; 4],
    /// The longest wait for a pCPU, in ns.
    pub longest_wait: u64,
    /// The longest time from a wake-up to running, in ns.
    pub longest_latency: u64,
    /// How many times it woke.
    pub wakes: u64,
    /// How many times it was put on a pCPU.
    pub starts: u64,
    /// How many times that was not the pCPU of before.
    pub migrations: u64,
}

/// A unit.
pub(crate) struct Unit {
    pub(crate) id: UnitId,
    pub(crate) who: Who,
    pub(crate) affinity: Affinity,
    pub(crate) behaviour: Behaviour,
    pub(crate) state: RunState,
    /// Since when.
    pub(crate) since: u64,
    /// It has something to compute.
    pub(crate) is_ready: bool,
    pub(crate) is_paused: bool,
    /// It waits because it woke, not because another had its turn.
    pub(crate) just_woke: bool,
    /// How long it computes before it does something else, in ns.
    pub(crate) work: u64,
    /// Where it runs or ran last.
    pub(crate) cpu: Option<CpuId>,
    /// Makes older events about its work void.
    pub(crate) work_number: u64,
    /// Makes older checks of its affinity void.
    pub(crate) affinity_number: u64,
    pub(crate) times: Times,
}

/// A pCPU.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) is_online: bool,
    pub(crate) running: Option<UnitId>,
    /// Since when it runs that, or idles.
    pub(crate) since: u64,
    /// How far its clock is ahead, in ns.
    pub(crate) ahead: u64,
    pub(crate) is_kicked: bool,
    /// Make older events void.
    pub(crate) decision: u64,
    pub(crate) timer: u64,
    /// When the policy's timer is due, in real time.
    pub(crate) timer_at: u64,
}
