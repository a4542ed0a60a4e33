//! A vCPU's registers as a toolstack has them.

use xen_abi::vcpu::VcpuGuestContext;
use xenith_arch::GuestFrame;
use xenith_core::emulate::Execution;
use xenith_core::emulate::a64::pstate;
use xenith_core::emulate::psci::VcpuStart;
use xenith_core::emulate::regs::psr;
use xenith_core::errno::Errno;
use zerocopy::FromZeros;

use crate::vcpu::VcpuContext;

/// Where the program counter is in the public `vcpu_guest_core_regs`: an index of its array.
const PC: usize = 31;

/// Whether a status register names a state that a 64-bit guest can be in.
fn is_guest_state(psr: u64) -> bool {
    let mode = psr as u32 & pstate::MODE_MASK;
    psr >> 32 == 0
        && matches!(
            mode,
            pstate::MODE_EL0 | pstate::MODE_EL1T | pstate::MODE_EL1H
        )
}

impl VcpuContext {
    /// Sets the registers of a vCPU that is not loaded as a toolstack says; all others are as out of reset.
    ///
    /// # Errors
    /// `EINVAL`: a status register names a state that a guest cannot have.
    pub fn set_registers(&mut self, registers: &VcpuGuestContext) -> Result<(), Errno> {
        if self.saved.execution() == Execution::AArch32 {
            return self.set_registers32(registers);
        }
        let core = &registers.user_regs;
        if !is_guest_state(core.cpsr) {
            return Err(Errno::Inval);
        }
        self.reset(GuestFrame::start(VcpuStart {
            pc: core.regs[PC],
            psr: core.cpsr as u32,
            r0: 0,
        }));
        for (to, from) in self.frame.x.iter_mut().zip(&core.regs) {
            *to = *from;
        }
        let saved = &mut self.saved;
        saved.sp_el0 = core.sp_el0;
        saved.sp_el1 = core.sp_el1;
        saved.elr = core.elr_el1;
        saved.spsr = core.spsr_el1;
        saved.sctlr = registers.sctlr;
        saved.tcr = registers.ttbcr;
        (saved.ttbr0, saved.ttbr1) = (registers.ttbr0, registers.ttbr1);
        Ok(())
    }

    /// The same for a 32-bit vCPU: the public structure has its registers where the architecture has them.
    fn set_registers32(&mut self, registers: &VcpuGuestContext) -> Result<(), Errno> {
        let core = &registers.user_regs;
        let saved_psrs = psr::saved_of(core).ok_or(Errno::Inval)?;
        self.reset(GuestFrame::start(VcpuStart {
            pc: u64::from(core.regs[PC] as u32),
            psr: core.cpsr as u32,
            r0: 0,
        }));
        for (to, from) in self.frame.x.iter_mut().zip(&core.regs) {
            *to = u64::from(*from as u32);
        }
        let saved = &mut self.saved;
        [
            saved.spsr,
            saved.aarch32.spsr_fiq,
            saved.aarch32.spsr_irq,
            saved.aarch32.spsr_und,
            saved.aarch32.spsr_abt,
        ] = saved_psrs.map(u64::from);
        saved.sctlr = u64::from(registers.sctlr as u32);
        saved.tcr = u64::from(registers.ttbcr as u32);
        (saved.ttbr0, saved.ttbr1) = (registers.ttbr0, registers.ttbr1);
        Ok(())
    }

    /// Returns the registers of a vCPU that is not loaded.
    pub fn registers(&self) -> VcpuGuestContext {
        let mut registers = VcpuGuestContext::new_zeroed();
        let saved = &self.saved;
        let core = &mut registers.user_regs;
        for (to, from) in core.regs.iter_mut().zip(&self.frame.x) {
            *to = *from;
        }
        core.regs[PC] = self.frame.pc;
        core.cpsr = self.frame.pstate;
        core.sp_el0 = saved.sp_el0;
        core.sp_el1 = saved.sp_el1;
        core.elr_el1 = saved.elr;
        core.spsr_el1 = saved.spsr;
        if saved.execution() == Execution::AArch32 {
            let state = &saved.aarch32;
            for x in &mut core.regs {
                *x &= 0xffff_ffff;
            }
            core.spsr_fiq = state.spsr_fiq as u32;
            core.spsr_irq = state.spsr_irq as u32;
            core.spsr_und = state.spsr_und as u32;
            core.spsr_abt = state.spsr_abt as u32;
        }
        registers.sctlr = saved.sctlr;
        registers.ttbcr = saved.tcr;
        registers.ttbr0 = saved.ttbr0;
        registers.ttbr1 = saved.ttbr1;
        registers
    }
}
