//! The architecture's part of a vCPU, and switching it onto and off a pCPU.

use core::sync::atomic::{AtomicBool, Ordering};

use xen_abi::vcpu::VcpuGuestContext;
use xenith_arch::context::{mode, read_register, write_register};
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
use xenith_core::errno::Errno;
use xenith_core::hypercall::HypercallRegs;
use zerocopy::FromZeros;

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
        let mut traps = if *features == features.sanitised() {
            setup::hcr::GUEST & !setup::hcr::TID3
        } else {
            setup::hcr::GUEST
        };
        if IS_WFI_NATIVE.load(Ordering::Relaxed) {
            traps &= !(setup::hcr::TWI | setup::hcr::TWE);
        }
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

/// Where each register is in the public `vcpu_guest_core_regs`: an index of its array.
mod slot {
    pub const SP_USR: usize = 13;
    pub const LR_USR: usize = 14;
    pub const LR_IRQ: usize = 16;
    pub const SP_IRQ: usize = 17;
    pub const LR_SVC: usize = 18;
    pub const SP_SVC: usize = 19;
    pub const LR_ABT: usize = 20;
    pub const SP_ABT: usize = 21;
    pub const LR_UND: usize = 22;
    pub const SP_UND: usize = 23;
    pub const R8_FIQ: usize = 24;
    pub const R9_FIQ: usize = 25;
    pub const R10_FIQ: usize = 26;
    pub const R11_FIQ: usize = 27;
    pub const R12_FIQ: usize = 28;
    pub const SP_FIQ: usize = 29;
    pub const LR_FIQ: usize = 30;
    pub const PC: usize = 31;
}

/// Whether a status register names a mode that a guest can be in.
fn is_guest_mode(psr: u32) -> bool {
    matches!(
        psr & psr::MODE_MASK,
        mode::USR | mode::FIQ | mode::IRQ | mode::SVC | mode::ABT | mode::UND
    )
}

impl VcpuContext {
    /// Sets the registers of a vCPU that is not loaded as a toolstack says; all others are as out of reset.
    ///
    /// # Errors
    /// `EINVAL`: a status register names a mode that a guest cannot have.
    pub fn set_registers(&mut self, registers: &VcpuGuestContext) -> Result<(), Errno> {
        let core = &registers.user_regs;
        let saved_psrs = [
            core.spsr_el1 as u32,
            core.spsr_fiq,
            core.spsr_irq,
            core.spsr_und,
            core.spsr_abt,
        ];
        if !is_guest_mode(core.cpsr as u32)
            || saved_psrs
                .iter()
                .any(|&psr| psr != 0 && !is_guest_mode(psr))
        {
            return Err(Errno::Inval);
        }
        let register = |slot: usize| core.regs[slot] as u32;
        self.reset(VcpuStart {
            pc: register(slot::PC),
            cpsr: core.cpsr as u32,
            r0: 0,
        });
        for (to, from) in self.frame.r.iter_mut().zip(&core.regs) {
            *to = *from as u32;
        }
        self.frame.lr_usr = register(slot::LR_USR);
        let saved = &mut self.saved;
        saved.sp_usr = register(slot::SP_USR);
        (saved.lr_irq, saved.sp_irq) = (register(slot::LR_IRQ), register(slot::SP_IRQ));
        (saved.lr_svc, saved.sp_svc) = (register(slot::LR_SVC), register(slot::SP_SVC));
        (saved.lr_abt, saved.sp_abt) = (register(slot::LR_ABT), register(slot::SP_ABT));
        (saved.lr_und, saved.sp_und) = (register(slot::LR_UND), register(slot::SP_UND));
        (saved.lr_fiq, saved.sp_fiq) = (register(slot::LR_FIQ), register(slot::SP_FIQ));
        saved.r8_fiq = register(slot::R8_FIQ);
        saved.r9_fiq = register(slot::R9_FIQ);
        saved.r10_fiq = register(slot::R10_FIQ);
        saved.r11_fiq = register(slot::R11_FIQ);
        saved.r12_fiq = register(slot::R12_FIQ);
        [
            saved.spsr_svc,
            saved.spsr_fiq,
            saved.spsr_irq,
            saved.spsr_und,
            saved.spsr_abt,
        ] = saved_psrs;
        saved.sctlr = registers.sctlr as u32;
        saved.ttbcr = registers.ttbcr as u32;
        (saved.ttbr0, saved.ttbr1) = (registers.ttbr0, registers.ttbr1);
        Ok(())
    }

    /// Returns the registers of a vCPU that is not loaded.
    pub fn registers(&self) -> VcpuGuestContext {
        let mut registers = VcpuGuestContext::new_zeroed();
        let saved = &self.saved;
        let core = &mut registers.user_regs;
        for (to, from) in core.regs.iter_mut().zip(&self.frame.r) {
            *to = u64::from(*from);
        }
        for (slot, value) in [
            (slot::SP_USR, saved.sp_usr),
            (slot::LR_USR, self.frame.lr_usr),
            (slot::LR_IRQ, saved.lr_irq),
            (slot::SP_IRQ, saved.sp_irq),
            (slot::LR_SVC, saved.lr_svc),
            (slot::SP_SVC, saved.sp_svc),
            (slot::LR_ABT, saved.lr_abt),
            (slot::SP_ABT, saved.sp_abt),
            (slot::LR_UND, saved.lr_und),
            (slot::SP_UND, saved.sp_und),
            (slot::R8_FIQ, saved.r8_fiq),
            (slot::R9_FIQ, saved.r9_fiq),
            (slot::R10_FIQ, saved.r10_fiq),
            (slot::R11_FIQ, saved.r11_fiq),
            (slot::R12_FIQ, saved.r12_fiq),
            (slot::SP_FIQ, saved.sp_fiq),
            (slot::LR_FIQ, saved.lr_fiq),
            (slot::PC, self.frame.pc),
        ] {
            core.regs[slot] = u64::from(value);
        }
        core.cpsr = u64::from(self.frame.cpsr);
        core.spsr_el1 = u64::from(saved.spsr_svc);
        core.spsr_fiq = saved.spsr_fiq;
        core.spsr_irq = saved.spsr_irq;
        core.spsr_und = saved.spsr_und;
        core.spsr_abt = saved.spsr_abt;
        registers.sctlr = u64::from(saved.sctlr);
        registers.ttbcr = u64::from(saved.ttbcr);
        registers.ttbr0 = saved.ttbr0;
        registers.ttbr1 = saved.ttbr1;
        registers
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
