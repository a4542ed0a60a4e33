//! A vCPU's registers: what every trap saves (`GuestFrame`) and what only a context switch does (`SavedContext`).

use core::fmt;

use xenith_core::emulate::Execution;
use xenith_core::emulate::a64::{GuestRegs64, aarch32, pstate};
use xenith_core::emulate::psci::VcpuStart;
use xenith_core::emulate::regs::psr;

use super::setup::{SCTLR_RESET, SCTLR32_RESET, hcr};
use super::{spsr, sysreg};

/// The registers that `enter_guest` loads and a trap saves; vectors.S knows the layout.
#[repr(C, align(64))]
#[derive(Clone, Default)]
pub struct GuestFrame {
    /// x0–x30.
    pub x: [u64; 31],
    /// Where the guest goes on (ELR_EL2).
    pub pc: u64,
    /// The guest's state (SPSR_EL2).
    pub pstate: u64,
}

impl GuestFrame {
    /// Returns the registers with which a domain's first vCPU starts.
    pub fn boot(execution: Execution, entry: u64, tree: u64) -> Self {
        let mut frame = Self::start(VcpuStart {
            pc: entry,
            psr: match execution {
                Execution::AArch32 => psr::START,
                Execution::AArch64 => pstate::START,
            },
            r0: 0,
        });
        match execution {
            Execution::AArch32 => {
                frame.x[1] = u64::from(u32::MAX);
                frame.x[2] = tree;
            }
            Execution::AArch64 => frame.x[0] = tree,
        }
        frame
    }

    /// Returns the registers with which another vCPU starts.
    pub fn start(start: VcpuStart) -> Self {
        let mut frame = Self {
            pc: start.pc,
            pstate: u64::from(start.psr),
            ..Self::default()
        };
        frame.x[0] = start.r0;
        frame
    }

    /// Returns the state of the guest: SPSR_EL2, whose upper half is unused.
    #[inline]
    pub fn psr(&self) -> u32 {
        self.pstate as u32
    }

    /// Returns whether the guest is in AArch32 state.
    #[inline(always)]
    pub fn is_aarch32(&self) -> bool {
        self.psr() & pstate::AARCH32 != 0
    }

    /// Returns the registers as a guest in AArch32 state has them.
    #[inline]
    pub fn aarch32(&mut self) -> aarch32::Registers<'_> {
        aarch32::Registers {
            x: &mut self.x,
            pc: &mut self.pc,
            pstate: &mut self.pstate,
        }
    }

    /// Returns the low word of the program counter, for the trace.
    pub fn traced_pc(&self) -> u32 {
        self.pc as u32
    }

    /// Returns a hypercall's number, and the low word of its first argument or result, for the trace.
    pub fn traced_call(&self) -> [u32; 2] {
        let number = if self.is_aarch32() { 12 } else { 16 };
        [self.x[number] as u32, self.x[0] as u32]
    }

    /// Writes the registers.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "PC:     {:016x}  PSTATE: {:08x}", self.pc, self.pstate)?;
        dump_registers(&self.x, out)
    }
}

/// Writes x0 to x30.
pub(super) fn dump_registers(x: &[u64; 31], out: &mut dyn fmt::Write) -> fmt::Result {
    for (i, group) in x.chunks(4).enumerate() {
        write!(out, "X{:<2}", i * 4)?;
        for x in group {
            write!(out, " {x:016x}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

impl GuestRegs64 for GuestFrame {
    #[inline]
    fn get(&self, register: u8) -> u64 {
        self.x.get(usize::from(register)).copied().unwrap_or(0)
    }
    #[inline]
    fn set(&mut self, register: u8, value: u64) {
        if let Some(x) = self.x.get_mut(usize::from(register)) {
            *x = value;
        }
    }
}

macro_rules! saved_context {
    ($($register:ident),*) => {
        /// The EL1 and EL0 state of a vCPU that is not running.
        #[derive(Clone)]
        #[allow(missing_docs, reason = "each field is the register of its name")]
        pub struct SavedContext {
            $(pub $register: u64,)*
            /// VMPIDR_EL2: which CPU the guest believes to run on.
            pub vmpidr: u64,
            /// HCR_EL2 of this vCPU (TVM comes and goes).
            pub hcr: u64,
            /// What only a 32-bit vCPU has.
            pub aarch32: Aarch32State,
            /// The floating-point and SIMD registers, which are switched apart from the rest.
            pub vfp: VfpState,
        }

        impl SavedContext {
            /// A vCPU as it comes out of reset, with the hypervisor's part given.
            pub fn reset(affinity: u32, hcr: u64) -> Self {
                let is_32_bit = hcr & hcr::RW == 0;
                Self {
                    $($register: 0,)* vmpidr: 0x8000_0000 | u64::from(affinity), hcr,
                    aarch32: Aarch32State::default(), vfp: VfpState::reset(is_32_bit)
                }.with_sctlr(if is_32_bit { SCTLR32_RESET } else { SCTLR_RESET })
            }

            fn with_sctlr(mut self, sctlr: u64) -> Self {
                self.sctlr = sctlr;
                self
            }

            /// Returns the width of the vCPU's EL1.
            pub fn execution(&self) -> Execution {
                if self.hcr & hcr::RW == 0 {
                    Execution::AArch32
                } else {
                    Execution::AArch64
                }
            }

            /// Saves the live state of the vCPU that ran until now, but for `vfp`; its registers are in `frame`.
            pub fn save(&mut self, frame: &GuestFrame) {
                if sysreg::hcr::read() & hcr::RW == 0 {
                    spsr::settle(frame.psr());
                }
                $(self.$register = sysreg::$register::read();)*
                self.hcr = sysreg::hcr::read();
                if self.hcr & hcr::RW == 0 {
                    self.aarch32.save();
                }
            }

            /// Makes this the live state, but for `vfp`.
            ///
            /// # Safety
            /// The caller switches VTTBR_EL2 to the vCPU's domain as well, before the guest runs.
            pub unsafe fn restore(&self, frame: &GuestFrame) {
                // SAFETY: These registers take effect at EL1 and EL0 only; the contract covers the rest.
                unsafe {
                    $(sysreg::$register::write(self.$register);)*
                    sysreg::vmpidr::write(self.vmpidr);
                    sysreg::hcr::write(self.hcr);
                }
                if self.hcr & hcr::RW == 0 {
                    self.aarch32.restore();
                    spsr::load(frame.psr());
                }
                sysreg::isb();
            }
        }
    };
}

saved_context! {
    csselr, sctlr, cpacr, tcr, ttbr0, ttbr1, esr, far, afsr0, afsr1, par, mair, amair, vbar, contextidr,
    tpidr_el0, tpidrro_el0, tpidr_el1, cntkctl, elr, spsr, sp_el0, sp_el1
}

macro_rules! aarch32_state {
    ($($register:ident),*) => {
        /// The registers that only a guest whose EL1 is in AArch32 state can reach; the others of its are halves of EL1's.
        /// CPUs without such a state do not have them.
        #[derive(Clone, Default)]
        #[allow(missing_docs, reason = "each field is the register of its name")]
        pub struct Aarch32State {
            $(pub $register: u64,)*
        }

        impl Aarch32State {
            fn save(&mut self) {
                $(self.$register = sysreg::$register::read();)*
            }

            fn restore(&self) {
                // SAFETY: Registers of the guest.
                unsafe {
                    $(sysreg::$register::write(self.$register);)*
                }
            }
        }
    };
}

aarch32_state! { dacr32, ifsr32, spsr_abt, spsr_und, spsr_irq, spsr_fiq }

/// The floating-point and SIMD registers.
#[repr(C, align(16))]
#[derive(Clone, Default)]
pub struct VfpState {
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
    /// FPEXC of a 32-bit vCPU; with EL1 in AArch64 state nobody can reach it.
    fpexc: Option<u64>,
}

impl VfpState {
    fn reset(is_32_bit: bool) -> Self {
        Self {
            fpexc: is_32_bit.then_some(0),
            ..Self::default()
        }
    }

    /// Saves the live registers; they must not be trapped ([`super::setup::trap_vfp`]).
    pub fn save(&mut self) {
        if let Some(fpexc) = &mut self.fpexc {
            *fpexc = sysreg::fpexc32::read();
        }
        // SAFETY: CPTR_EL2 lets EL2 use the registers. `self.q` is 512 writable bytes. The hypervisor itself is compiled
        // without floating point, so no register of Rust's is touched.
        unsafe {
            core::arch::asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "stp q0, q1, [{0}]",
                "stp q2, q3, [{0}, #32]",
                "stp q4, q5, [{0}, #64]",
                "stp q6, q7, [{0}, #96]",
                "stp q8, q9, [{0}, #128]",
                "stp q10, q11, [{0}, #160]",
                "stp q12, q13, [{0}, #192]",
                "stp q14, q15, [{0}, #224]",
                "stp q16, q17, [{0}, #256]",
                "stp q18, q19, [{0}, #288]",
                "stp q20, q21, [{0}, #320]",
                "stp q22, q23, [{0}, #352]",
                "stp q24, q25, [{0}, #384]",
                "stp q26, q27, [{0}, #416]",
                "stp q28, q29, [{0}, #448]",
                "stp q30, q31, [{0}, #480]",
                "mrs {1}, fpcr",
                "mrs {2}, fpsr",
                in(reg) self.q.as_mut_ptr(), out(reg) self.fpcr, out(reg) self.fpsr, options(nostack)
            );
        }
    }

    /// Makes this the live state; the registers must not be trapped ([`super::setup::trap_vfp`]).
    pub fn restore(&self) {
        if let Some(fpexc) = self.fpexc {
            // SAFETY: A register of the guest.
            unsafe { sysreg::fpexc32::write(fpexc) };
        }
        // SAFETY: As in `save`, reading 512 bytes of `self.q`.
        unsafe {
            core::arch::asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "ldp q0, q1, [{0}]",
                "ldp q2, q3, [{0}, #32]",
                "ldp q4, q5, [{0}, #64]",
                "ldp q6, q7, [{0}, #96]",
                "ldp q8, q9, [{0}, #128]",
                "ldp q10, q11, [{0}, #160]",
                "ldp q12, q13, [{0}, #192]",
                "ldp q14, q15, [{0}, #224]",
                "ldp q16, q17, [{0}, #256]",
                "ldp q18, q19, [{0}, #288]",
                "ldp q20, q21, [{0}, #320]",
                "ldp q22, q23, [{0}, #352]",
                "ldp q24, q25, [{0}, #384]",
                "ldp q26, q27, [{0}, #416]",
                "ldp q28, q29, [{0}, #448]",
                "ldp q30, q31, [{0}, #480]",
                "msr fpcr, {1}",
                "msr fpsr, {2}",
                in(reg) self.q.as_ptr(), in(reg) self.fpcr, in(reg) self.fpsr, options(nostack)
            );
        }
    }
}
