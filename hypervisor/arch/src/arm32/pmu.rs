//! The performance monitors of a vCPU whose domain has them (`vpmu=1`), ARM DDI 0406C C12.
//!
//! Other guests' accesses trap. A domain that has them uses the registers directly; they are switched with its vCPUs, so
//! that no domain sees what another's program did. Nobody hears their interrupt: a guest reads its counters, as `perf stat`
//! does. While no such vCPU runs nothing is counted.

use super::setup::trap_pmu;
use super::sysreg;

/// Event counters at most (PMCR.N).
const COUNTERS: usize = 31;
/// PMSELR: the cycle counter, whose type register is PMCCFILTR.
const CYCLES: u32 = 31;
/// PMCR: the counters count (E); they are set to zero (P, C), which is done and not kept.
const PMCR_ENABLE: u32 = 1;
const PMCR_RESET: u32 = 0b110;
const ALL: u32 = u32::MAX;

/// The registers of a vCPU that is not running.
#[derive(Clone, Default)]
pub struct PmuState {
    pmcr: u32,
    enabled: u32,
    interrupts: u32,
    overflows: u32,
    selected: u32,
    user: u32,
    cycles: u32,
    cycle_filter: u32,
    /// Type and value.
    counters: [(u32, u32); COUNTERS],
}

/// Returns whether there are performance monitors of the architected kind (ID_DFR0.PerfMon).
pub fn exists() -> bool {
    (1..0xf).contains(&(sysreg::id_dfr0::read() >> 24 & 0xf))
}

fn select(counter: u32) {
    // SAFETY: Only says which counter the next access means.
    unsafe { sysreg::pmselr::write(counter) };
    sysreg::isb();
}

/// Returns how many event counters there are.
fn count() -> usize {
    (sysreg::pmcr::read() >> 11 & 0x1f) as usize
}

impl PmuState {
    /// Returns the state after reset, where there are performance monitors.
    pub fn reset() -> Option<Self> {
        exists().then(Self::default)
    }

    /// Saves the live registers, and stops them: accesses trap again.
    #[cold]
    #[inline(never)]
    pub fn save(&mut self) {
        self.pmcr = sysreg::pmcr::read() & !PMCR_RESET;
        // SAFETY: Counters are of no concern to memory or to other registers.
        unsafe { sysreg::pmcr::write(self.pmcr & !PMCR_ENABLE) };
        sysreg::isb();
        self.selected = sysreg::pmselr::read();
        self.enabled = sysreg::pmcntenset::read();
        self.interrupts = sysreg::pmintenset::read();
        self.overflows = sysreg::pmovsr::read();
        self.user = sysreg::pmuserenr::read();
        self.cycles = sysreg::pmccntr::read();
        for (counter, (kind, value)) in (0..).zip(self.counters.iter_mut().take(count())) {
            select(counter);
            *kind = sysreg::pmxevtyper::read();
            *value = sysreg::pmxevcntr::read();
        }
        select(CYCLES);
        self.cycle_filter = sysreg::pmxevtyper::read();
        // SAFETY: As above.
        unsafe {
            sysreg::pmcntenclr::write(ALL);
            sysreg::pmintenclr::write(ALL);
            sysreg::pmovsr::write(ALL);
            sysreg::pmuserenr::write(0);
        }
        trap_pmu(true);
    }

    /// Makes this the live state, which the guest may reach. It was stopped by the last [`PmuState::save`], or has never
    /// run.
    #[cold]
    #[inline(never)]
    pub fn restore(&self) {
        trap_pmu(false);
        // SAFETY: As in `save`.
        unsafe {
            sysreg::pmcr::write(self.pmcr & !PMCR_ENABLE);
            sysreg::pmcntenclr::write(ALL);
            sysreg::pmintenclr::write(ALL);
            sysreg::pmovsr::write(ALL);
        }
        for (counter, &(kind, value)) in (0..).zip(self.counters.iter().take(count())) {
            select(counter);
            // SAFETY: As in `save`.
            unsafe {
                sysreg::pmxevtyper::write(kind);
                sysreg::pmxevcntr::write(value);
            }
        }
        select(CYCLES);
        // SAFETY: As in `save`.
        unsafe {
            sysreg::pmxevtyper::write(self.cycle_filter);
            sysreg::pmccntr::write(self.cycles);
            sysreg::pmselr::write(self.selected);
            sysreg::pmuserenr::write(self.user);
            sysreg::pmovsset::write(self.overflows);
            sysreg::pmintenset::write(self.interrupts);
            sysreg::pmcntenset::write(self.enabled);
            sysreg::pmcr::write(self.pmcr);
        }
        sysreg::isb();
    }
}
