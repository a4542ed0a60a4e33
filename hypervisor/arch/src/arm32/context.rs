//! A vCPU's registers: what every trap saves (`GuestFrame`) and what only a context switch does (`SavedContext`).

use core::fmt;

use xenith_core::emulate::Execution;
use xenith_core::emulate::psci::VcpuStart;
use xenith_core::emulate::regs::psr;

use super::setup::SCTLR_RESET;
use super::sysreg;

/// The registers that `enter_guest` loads and a trap saves; vectors.S knows the layout. One cache line.
#[repr(C, align(64))]
#[derive(Clone, Default)]
pub struct GuestFrame {
    /// r0–r12 of User mode.
    pub r: [u32; 13],
    /// LR_usr.
    pub lr_usr: u32,
    /// Where the guest goes on.
    pub pc: u32,
    /// The guest's CPSR.
    pub cpsr: u32,
}

impl GuestFrame {
    /// Returns the registers with which a domain's first vCPU starts.
    pub fn boot(_: Execution, entry: u64, tree: u64) -> Self {
        let mut frame = Self {
            pc: entry as u32,
            cpsr: psr::START,
            ..Self::default()
        };
        frame.r[1] = u32::MAX;
        frame.r[2] = tree as u32;
        frame
    }

    /// Returns the registers with which another vCPU starts.
    pub fn start(start: VcpuStart) -> Self {
        let mut frame = Self {
            pc: start.pc as u32,
            cpsr: start.psr,
            ..Self::default()
        };
        frame.r[0] = start.r0 as u32;
        frame
    }

    /// Returns the program counter for the trace.
    pub fn traced_pc(&self) -> u32 {
        self.pc
    }

    /// Returns a hypercall's number, and its first argument or result, for the trace.
    pub fn traced_call(&self) -> [u32; 2] {
        [self.r[12], self.r[0]]
    }

    /// Writes the registers.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "PC:     {:08x}  CPSR:   {:08x}", self.pc, self.cpsr)?;
        for (i, group) in self.r.chunks(4).enumerate() {
            write!(out, "R{:<2}", i * 4)?;
            for r in group {
                write!(out, " {r:08x}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Processor modes (CPSR.M).
pub mod mode {
    /// User.
    pub const USR: u32 = 0x10;
    /// FIQ.
    pub const FIQ: u32 = 0x11;
    /// IRQ.
    pub const IRQ: u32 = 0x12;
    /// Supervisor.
    pub const SVC: u32 = 0x13;
    /// Abort.
    pub const ABT: u32 = 0x17;
    /// Undefined.
    pub const UND: u32 = 0x1b;
    /// System.
    pub const SYS: u32 = 0x1f;
}

/// Reads general register `n` (0–14) as the running guest's mode sees it; its banked state must be live.
pub fn read_register(frame: &GuestFrame, n: u8) -> u32 {
    let mode = frame.cpsr & 0x1f;
    match n {
        8 if mode == mode::FIQ => sysreg::r8_fiq::read(),
        9 if mode == mode::FIQ => sysreg::r9_fiq::read(),
        10 if mode == mode::FIQ => sysreg::r10_fiq::read(),
        11 if mode == mode::FIQ => sysreg::r11_fiq::read(),
        12 if mode == mode::FIQ => sysreg::r12_fiq::read(),
        0..=12 => frame.r[usize::from(n)],
        13 => match mode {
            mode::FIQ => sysreg::sp_fiq::read(),
            mode::IRQ => sysreg::sp_irq::read(),
            mode::SVC => sysreg::sp_svc::read(),
            mode::ABT => sysreg::sp_abt::read(),
            mode::UND => sysreg::sp_und::read(),
            _ => sysreg::sp_usr::read(),
        },
        14 => match mode {
            mode::FIQ => sysreg::lr_fiq::read(),
            mode::IRQ => sysreg::lr_irq::read(),
            mode::SVC => sysreg::lr_svc::read(),
            mode::ABT => sysreg::lr_abt::read(),
            mode::UND => sysreg::lr_und::read(),
            _ => frame.lr_usr,
        },
        _ => 0,
    }
}

/// Writes general register `n` (0–14) as the running guest's mode sees it; its banked state must be live.
pub fn write_register(frame: &mut GuestFrame, n: u8, value: u32) {
    let mode = frame.cpsr & 0x1f;
    match n {
        8 if mode == mode::FIQ => sysreg::r8_fiq::write(value),
        9 if mode == mode::FIQ => sysreg::r9_fiq::write(value),
        10 if mode == mode::FIQ => sysreg::r10_fiq::write(value),
        11 if mode == mode::FIQ => sysreg::r11_fiq::write(value),
        12 if mode == mode::FIQ => sysreg::r12_fiq::write(value),
        0..=12 => frame.r[usize::from(n)] = value,
        13 => match mode {
            mode::FIQ => sysreg::sp_fiq::write(value),
            mode::IRQ => sysreg::sp_irq::write(value),
            mode::SVC => sysreg::sp_svc::write(value),
            mode::ABT => sysreg::sp_abt::write(value),
            mode::UND => sysreg::sp_und::write(value),
            _ => sysreg::sp_usr::write(value),
        },
        14 => match mode {
            mode::FIQ => sysreg::lr_fiq::write(value),
            mode::IRQ => sysreg::lr_irq::write(value),
            mode::SVC => sysreg::lr_svc::write(value),
            mode::ABT => sysreg::lr_abt::write(value),
            mode::UND => sysreg::lr_und::write(value),
            _ => frame.lr_usr = value,
        },
        _ => {}
    }
}

macro_rules! saved_context {
    (words: $($word:ident),*; longs: $($long:ident),*) => {
        /// The PL1 and PL0 state of a vCPU that is not running.
        #[derive(Clone)]
        #[allow(missing_docs, reason = "each field is the register of its name")]
        pub struct SavedContext {
            $(pub $word: u32,)*
            $(pub $long: u64,)*
            /// VMPIDR: which CPU the guest believes to run on.
            pub vmpidr: u32,
            /// HCR of this vCPU (TVM comes and goes).
            pub hcr: u32,
            /// The ThumbEE registers.
            pub thumbee: ThumbEeState,
            /// FPEXC, FPSCR and d0–d31, which are switched apart from the rest.
            pub vfp: VfpState,
        }

        impl SavedContext {
            /// A vCPU as it comes out of reset, with the hypervisor's part given.
            pub fn reset(affinity: u32, hcr: u32) -> Self {
                Self {
                    $($word: 0,)* $($long: 0,)* vmpidr: 0x8000_0000 | affinity, hcr,
                    thumbee: ThumbEeState::default(), vfp: VfpState::default()
                }.with_sctlr(SCTLR_RESET)
            }

            fn with_sctlr(mut self, sctlr: u32) -> Self {
                self.sctlr = sctlr;
                self
            }

            /// Returns the width of the vCPU's PL1.
            pub fn execution(&self) -> Execution {
                Execution::AArch32
            }

            /// Saves the live state of the vCPU that ran until now, but for `vfp`.
            pub fn save(&mut self, _: &GuestFrame) {
                $(self.$word = sysreg::$word::read();)*
                $(self.$long = sysreg::$long::read();)*
                self.hcr = sysreg::hcr::read();
                self.thumbee.save();
            }

            /// Makes this the live state, but for `vfp`.
            ///
            /// # Safety
            /// The caller switches VTTBR to the vCPU's domain as well, before the guest runs.
            pub unsafe fn restore(&self, _: &GuestFrame) {
                // SAFETY: These registers take effect in the guest's modes only; the contract covers the rest.
                unsafe {
                    $(restore_word!($word, self.$word);)*
                    $(sysreg::$long::write(self.$long);)*
                    sysreg::vmpidr::write(self.vmpidr);
                    sysreg::hcr::write(self.hcr);
                }
                self.thumbee.restore();
                sysreg::isb();
            }
        }
    };
}

macro_rules! restore_word {
    ($name:ident, $value:expr) => {
        sysreg::$name::write($value)
    };
}

saved_context! {
    words: csselr, sctlr, cpacr, ttbcr, dacr, dfsr, ifsr, adfsr, aifsr, dfar, ifar, mair0, mair1, amair0, amair1, vbar,
        contextidr, tpidrurw, tpidruro, tpidrprw, cntkctl,
        sp_usr, sp_svc, lr_svc, spsr_svc, sp_abt, lr_abt, spsr_abt, sp_und, lr_und, spsr_und,
        sp_irq, lr_irq, spsr_irq, sp_fiq, lr_fiq, spsr_fiq, r8_fiq, r9_fiq, r10_fiq, r11_fiq, r12_fiq;
    longs: ttbr0, ttbr1, par
}

/// The registers of ThumbEE, with which any user program of a guest can leave words behind.
#[derive(Clone, Default)]
pub struct ThumbEeState {
    teecr: u32,
    teehbr: u32,
}

impl ThumbEeState {
    /// ID_PFR0.State3: without ThumbEE the registers are undefined instructions.
    fn exists() -> bool {
        (sysreg::id_pfr0::read() >> 12) & 0xf != 0
    }

    fn save(&mut self) {
        if Self::exists() {
            self.teecr = sysreg::teecr::read();
            self.teehbr = sysreg::teehbr::read();
        }
    }

    fn restore(&self) {
        if Self::exists() {
            // SAFETY: Registers of the guest's user programs.
            unsafe {
                sysreg::teecr::write(self.teecr);
                sysreg::teehbr::write(self.teehbr);
            }
        }
    }
}

/// The floating-point and SIMD registers.
#[repr(C, align(8))]
#[derive(Clone, Default)]
pub struct VfpState {
    d: [u64; 32],
    fpexc: u32,
    fpscr: u32,
}

impl VfpState {
    /// Saves the live registers; they must not be trapped ([`super::setup::trap_vfp`]).
    pub fn save(&mut self) {
        // SAFETY: HCPTR lets Hyp use cp10/11; FPEXC.EN is set for the transfer only. `self.d` is 256 writable bytes. The
        // hypervisor itself has no floating point, so no register of Rust's is touched.
        unsafe {
            core::arch::asm!(
                ".fpu neon",
                "vmrs {0}, fpexc",
                "orr {1}, {0}, #0x40000000",
                "vmsr fpexc, {1}",
                "vmrs {1}, fpscr",
                "vstmia {2}!, {{d0-d15}}",
                "vstmia {2}, {{d16-d31}}",
                "vmsr fpexc, {0}",
                out(reg) self.fpexc, out(reg) self.fpscr, inout(reg) self.d.as_mut_ptr() => _,
                options(nostack)
            );
        }
    }

    /// Makes this the live state; the registers must not be trapped ([`super::setup::trap_vfp`]).
    pub fn restore(&self) {
        // SAFETY: As in `save`, reading 256 bytes of `self.d`.
        unsafe {
            core::arch::asm!(
                ".fpu neon",
                "mov {3}, #0x40000000",
                "vmsr fpexc, {3}",
                "vmsr fpscr, {1}",
                "vldmia {2}!, {{d0-d15}}",
                "vldmia {2}, {{d16-d31}}",
                "vmsr fpexc, {0}",
                in(reg) self.fpexc, in(reg) self.fpscr, inout(reg) self.d.as_ptr() => _, out(reg) _,
                options(nostack)
            );
        }
    }
}

/// Returns whether there is a floating-point unit that Hyp mode may use. HCPTR.TCP10 and 11, which `setup::init_cpu`
/// clears, read as one where NSACR keeps it from the non-secure side (ARM DDI 0406C B4.1.61), and may where there is none;
/// the guest's CPACR.cp10 and cp11 then cannot be set (B4.1.40). For boot: no guest has a CPACR to lose yet.
pub fn has_vfp() -> bool {
    const FULL_ACCESS: u32 = 0xf << 20;
    let before = sysreg::cpacr::read();
    // SAFETY: Concerns guests only, and none runs yet.
    unsafe { sysreg::cpacr::write(before | FULL_ACCESS) };
    let after = sysreg::cpacr::read();
    // SAFETY: As above.
    unsafe { sysreg::cpacr::write(before) };
    sysreg::hcptr::read() & (3 << 10) == 0 && after & FULL_ACCESS == FULL_ACCESS
}

/// Returns MVFR0.
pub fn mvfr0() -> u32 {
    let value: u32;
    // SAFETY: Reads an identification register; FPEXC need not be enabled for it.
    unsafe {
        core::arch::asm!(".fpu neon", "vmrs {}, mvfr0", out(reg) value, options(nomem, nostack))
    };
    value
}

/// Returns MVFR1.
pub fn mvfr1() -> u32 {
    let value: u32;
    // SAFETY: As for MVFR0.
    unsafe {
        core::arch::asm!(".fpu neon", "vmrs {}, mvfr1", out(reg) value, options(nomem, nostack))
    };
    value
}
