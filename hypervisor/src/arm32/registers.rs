//! A vCPU's registers as a toolstack has them.

use xen_abi::vcpu::VcpuGuestContext;
use xenith_arch::GuestFrame;
use xenith_core::emulate::psci::VcpuStart;
use xenith_core::emulate::regs::psr;
use xenith_core::errno::Errno;
use zerocopy::FromZeros;

use crate::vcpu::VcpuContext;

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

impl VcpuContext {
    /// Sets the registers of a vCPU that is not loaded as a toolstack says; all others are as out of reset.
    ///
    /// # Errors
    /// `EINVAL`: a status register names a mode that a guest cannot have.
    pub fn set_registers(&mut self, registers: &VcpuGuestContext) -> Result<(), Errno> {
        let core = &registers.user_regs;
        let saved_psrs = psr::saved_of(core).ok_or(Errno::Inval)?;
        let register = |slot: usize| core.regs[slot] as u32;
        self.reset(GuestFrame::start(VcpuStart {
            pc: register(slot::PC).into(),
            psr: core.cpsr as u32,
            r0: 0,
        }));
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
