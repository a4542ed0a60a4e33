//! The architecture's part of a vCPU, and switching it onto and off a pCPU.

use core::sync::atomic::{AtomicBool, Ordering};

use xenith_arch::pmu::PmuState;
use xenith_arch::timer::VirtualTimer;
use xenith_arch::{GuestFrame, SavedContext, setup};
use xenith_core::addr::{CpuId, Gfn};
use xenith_core::emulate::Execution;
use xenith_core::emulate::vtimer::PhysicalTimer;

use crate::arch::{Features, Traps, traps_for};

/// `vwfi=native`; set once, before any vCPU is made.
static IS_WFI_NATIVE: AtomicBool = AtomicBool::new(false);

/// Makes WFI and WFE of all vCPUs made from now on wait in the guest, instead of giving the pCPU to others.
pub fn set_native_wfi(native: bool) {
    IS_WFI_NATIVE.store(native, Ordering::Relaxed);
}

/// Everything of a vCPU that only its pCPU touches.
pub struct VcpuContext {
    /// The registers of every trap.
    pub frame: GuestFrame,
    /// The rest, valid while the vCPU is not loaded.
    pub saved: SavedContext,
    /// The virtual timer, valid while the vCPU is not loaded.
    pub virtual_timer: VirtualTimer,
    /// The emulated physical timer.
    pub physical_timer: PhysicalTimer,
    /// The performance monitors, if the domain has them; valid while the vCPU is not loaded.
    pub pmu: Option<PmuState>,
    /// The pCPU whose floating-point registers were this vCPU's when it used them last.
    pub vfp_home: Option<CpuId>,
    /// Where flushing the domain's RAM for this vCPU's set/way operation goes on.
    pub flush_next: Gfn,
    /// The affinity fields of its MPIDR.
    affinity: u32,
    /// What traps, out of reset.
    traps: Traps,
}

impl VcpuContext {
    /// Makes the context of a vCPU that has never run.
    pub fn new(index: u16, execution: Execution, features: &Features, has_pmu: bool) -> Self {
        let affinity = u32::from(index % 16) | (u32::from(index / 16) << 8);
        let mut traps = traps_for(execution, features);
        if IS_WFI_NATIVE.load(Ordering::Relaxed) {
            traps &= !setup::hcr::WAITS;
        }
        Self {
            frame: GuestFrame::boot(execution, 0, 0),
            saved: SavedContext::reset(affinity, traps),
            virtual_timer: VirtualTimer::default(),
            physical_timer: PhysicalTimer::new(),
            pmu: if has_pmu { PmuState::reset() } else { None },
            vfp_home: None,
            flush_next: Gfn::new(0),
            affinity,
            traps,
        }
    }

    /// Puts the vCPU back to its reset state, and starts it with these registers.
    pub fn reset(&mut self, frame: GuestFrame) {
        self.saved = SavedContext::reset(self.affinity, self.traps);
        self.virtual_timer = VirtualTimer::default();
        self.physical_timer = PhysicalTimer::new();
        self.pmu = self.pmu.as_ref().and_then(|_| PmuState::reset());
        self.vfp_home = None;
        self.flush_next = Gfn::new(0);
        self.frame = frame;
    }
}
