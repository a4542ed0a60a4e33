//! The architecture's part of a vCPU, and switching it onto and off a pCPU.

use xenith_arch::context::{read_register, write_register};
use xenith_arch::timer::VirtualTimer;
use xenith_arch::{GuestFrame, SavedContext, setup, sysreg};
use xenith_core::addr::{CpuId, Gfn};
use xenith_core::emulate::coproc::CpuFeatures;
use xenith_core::emulate::inject::{
    ExceptionControl, FaultRegisters, GuestException, take_exception,
};
use xenith_core::emulate::psci::VcpuStart;
use xenith_core::emulate::regs::{GuestRegs, psr};
use xenith_core::emulate::vtimer::PhysicalTimer;
use xenith_core::hypercall::HypercallRegs;

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
    /// The pCPU whose floating-point registers were this vCPU's when it used them last.
    pub vfp_home: Option<CpuId>,
    /// Where flushing the domain's RAM for this vCPU's set/way operation goes on.
    pub flush_next: Gfn,
    /// HCR out of reset.
    traps: u32,
}

impl VcpuContext {
    /// Makes the context of a vCPU that has never run.
    pub fn new(index: u16, features: &CpuFeatures) -> Self {
        let affinity = u32::from(index % 16) | (u32::from(index / 16) << 8);
        // Where nothing is hidden from guests they read the identification registers themselves: Linux reads MVFR0
        // again and again.
        let traps = if *features == features.sanitised() {
            setup::hcr::GUEST & !setup::hcr::TID3
        } else {
            setup::hcr::GUEST
        };
        let mut saved = SavedContext::reset(0x8000_0000 | affinity, traps);
        saved.sctlr = setup::SCTLR_RESET;
        Self {
            frame: GuestFrame::default(),
            saved,
            virtual_timer: VirtualTimer::default(),
            physical_timer: PhysicalTimer::new(),
            vfp_home: None,
            flush_next: Gfn::new(0),
            traps,
        }
    }

    /// Puts the vCPU back to its reset state and sets where it starts.
    pub fn reset(&mut self, start: VcpuStart) {
        let mut saved = SavedContext::reset(self.saved.vmpidr, self.traps);
        saved.sctlr = setup::SCTLR_RESET;
        self.saved = saved;
        self.virtual_timer = VirtualTimer::default();
        self.physical_timer = PhysicalTimer::new();
        self.vfp_home = None;
        self.flush_next = Gfn::new(0);
        self.frame = GuestFrame::default();
        self.frame.pc = start.pc;
        self.frame.cpsr = start.cpsr;
        self.frame.r[0] = start.r0;
    }
}

/// The registers of the vCPU that is loaded on this pCPU.
pub struct LiveRegs<'a>(pub &'a mut GuestFrame);

impl GuestRegs for LiveRegs<'_> {
    fn get(&self, register: u8) -> u32 {
        read_register(self.0, register)
    }
    fn set(&mut self, register: u8, value: u32) {
        write_register(self.0, register, value);
    }
    fn pc(&self) -> u32 {
        self.0.pc
    }
    fn set_pc(&mut self, value: u32) {
        self.0.pc = value;
    }
    fn cpsr(&self) -> u32 {
        self.0.cpsr
    }
    fn set_cpsr(&mut self, value: u32) {
        self.0.cpsr = value;
    }
}

impl HypercallRegs for LiveRegs<'_> {
    #[inline(always)]
    fn number(&self) -> u32 {
        self.0.r[12]
    }
    #[inline(always)]
    fn argument(&self, n: usize) -> u64 {
        self.0.r.get(n).map_or(0, |&r| u64::from(r))
    }
    fn set_argument(&mut self, n: usize, value: u64) {
        if n < 5 {
            self.0.r[n] = value as u32;
        }
    }
    #[inline(always)]
    fn set_result(&mut self, value: i64) {
        self.0.r[0] = value as u32;
    }
}

/// Makes the loaded guest take an exception.
pub fn inject(frame: &mut GuestFrame, exception: GuestException) {
    let control = ExceptionControl {
        sctlr: sysreg::sctlr::read(),
        vbar: sysreg::vbar::read(),
        ttbcr: sysreg::ttbcr::read(),
    };
    let entry = take_exception(&control, frame.cpsr, frame.pc, exception);
    // SAFETY: PL1 registers of the guest only.
    unsafe {
        match entry.fault {
            FaultRegisters::None => {}
            FaultRegisters::Instruction { ifsr, ifar } => {
                sysreg::ifsr::write(ifsr);
                sysreg::ifar::write(ifar);
            }
            FaultRegisters::Data { dfsr, dfar } => {
                sysreg::dfsr::write(dfsr);
                sysreg::dfar::write(dfar);
            }
        }
    }
    if entry.cpsr & psr::MODE_MASK == psr::MODE_UND {
        sysreg::lr_und::write(entry.lr);
        sysreg::spsr_und::write(entry.spsr);
    } else {
        sysreg::lr_abt::write(entry.lr);
        sysreg::spsr_abt::write(entry.spsr);
    }
    frame.pc = entry.pc;
    frame.cpsr = entry.cpsr;
}
