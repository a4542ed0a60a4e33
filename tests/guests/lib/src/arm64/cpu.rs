//! Registers and instructions of the processor, as far as the guests need them.

use core::arch::asm;

/// Defines a function that reads the low word of a system register.
#[macro_export]
macro_rules! read_register {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u32 {
            let value: u64;
            // SAFETY: reads a register without side effects.
            unsafe { core::arch::asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags)) };
            value as u32
        }
    };
}

read_register!(
    /// Which processor this is (affinity levels 0 to 2).
    mpidr, "mrs {0}, mpidr_el1");
read_register!(
    /// Processor model.
    midr, "mrs {0}, midr_el1");
read_register!(
    /// Auxiliary control; hypervisors trap it.
    actlr, "mrs {0}, actlr_el1");
read_register!(
    /// Counter frequency in Hz.
    cntfrq, "mrs {0}, cntfrq_el0");
read_register!(
    /// Syndrome of the last fault.
    esr, "mrs {0}, esr_el1");
read_register!(
    /// The exception level, as in a program status.
    status, "mrs {0}, currentel");

/// Address of the last abort.
#[inline(always)]
pub fn far() -> u64 {
    let address: u64;
    // SAFETY: reads a register without side effects.
    unsafe { asm!("mrs {0}, far_el1", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// The virtual counter, in ticks.
#[inline(always)]
pub fn cntvct() -> u64 {
    let ticks: u64;
    // SAFETY: reads a counter. Not `nomem`: the compiler shall not move other accesses across.
    unsafe { asm!("mrs {0}, cntvct_el0", out(reg) ticks, options(nostack, preserves_flags)) };
    ticks
}

/// The physical counter, in ticks.
#[inline(always)]
pub fn cntpct() -> u64 {
    let ticks: u64;
    // SAFETY: as for `cntvct`.
    unsafe { asm!("mrs {0}, cntpct_el0", out(reg) ticks, options(nostack, preserves_flags)) };
    ticks
}

/// Lets interrupts in.
#[inline(always)]
pub fn enable_irq() {
    // SAFETY: vectors and stack are set up before any Rust code runs.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Keeps interrupts out.
#[inline(always)]
pub fn disable_irq() {
    // SAFETY: masking interrupts is always allowed.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Reads a device register with one plain load, which a hypervisor can emulate from its syndrome.
///
/// # Safety
/// `address` is mapped, 4-byte aligned, and reading it has no effect that Rust code relies on being absent.
#[inline(always)]
pub unsafe fn mmio_read(address: usize) -> u32 {
    let value: u32;
    // SAFETY: as this function.
    unsafe {
        asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags))
    };
    value
}

/// Writes a device register with one plain store.
///
/// # Safety
/// As [`mmio_read`].
#[inline(always)]
pub unsafe fn mmio_write(address: usize, value: u32) {
    // SAFETY: as this function.
    unsafe {
        asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags))
    };
}

/// Writes a byte of a device register.
///
/// # Safety
/// As [`mmio_read`], without the alignment.
#[inline(always)]
pub unsafe fn mmio_write8(address: usize, value: u8) {
    // SAFETY: as this function.
    unsafe {
        asm!("strb {0:w}, [{1}]", in(reg) u32::from(value), in(reg) address, options(nostack, preserves_flags))
    };
}

/// Words of all floating-point registers.
pub const FP_WORDS: usize = 128;

/// Lets this processor use floating point. No compiled code does.
pub fn enable_fp() {
    // SAFETY: CPACR_EL1 of the guest: FPEN.
    unsafe {
        asm!("mrs {0}, cpacr_el1", "orr {0}, {0}, #0x300000", "msr cpacr_el1, {0}", "isb", out(reg) _, options(nostack));
    }
}

/// Loads all floating-point registers, once [`enable_fp`] was called.
pub fn load_fp(values: &[u32; FP_WORDS]) {
    // SAFETY: compiled code does not use these registers (a soft-float target); the array holds all of them.
    unsafe {
        asm!(".arch_extension fp", "ldp q0, q1, [{0}, #0]", "ldp q2, q3, [{0}, #32]", "ldp q4, q5, [{0}, #64]", "ldp q6, q7, [{0}, #96]", "ldp q8, q9, [{0}, #128]", "ldp q10, q11, [{0}, #160]", "ldp q12, q13, [{0}, #192]", "ldp q14, q15, [{0}, #224]", "ldp q16, q17, [{0}, #256]", "ldp q18, q19, [{0}, #288]", "ldp q20, q21, [{0}, #320]", "ldp q22, q23, [{0}, #352]", "ldp q24, q25, [{0}, #384]", "ldp q26, q27, [{0}, #416]", "ldp q28, q29, [{0}, #448]", "ldp q30, q31, [{0}, #480]", in(reg) values.as_ptr(),
            options(nostack, readonly));
    }
}

/// Stores all floating-point registers, once [`enable_fp`] was called.
pub fn store_fp(values: &mut [u32; FP_WORDS]) {
    // SAFETY: the array holds all of them.
    unsafe {
        asm!(".arch_extension fp", "stp q0, q1, [{0}, #0]", "stp q2, q3, [{0}, #32]", "stp q4, q5, [{0}, #64]", "stp q6, q7, [{0}, #96]", "stp q8, q9, [{0}, #128]", "stp q10, q11, [{0}, #160]", "stp q12, q13, [{0}, #192]", "stp q14, q15, [{0}, #224]", "stp q16, q17, [{0}, #256]", "stp q18, q19, [{0}, #288]", "stp q20, q21, [{0}, #320]", "stp q22, q23, [{0}, #352]", "stp q24, q25, [{0}, #384]", "stp q26, q27, [{0}, #416]", "stp q28, q29, [{0}, #448]", "stp q30, q31, [{0}, #480]", in(reg) values.as_mut_ptr(),
            options(nostack));
    }
}

/// Executes two instructions `rounds` times.
#[inline(always)]
pub fn spin(rounds: u32) {
    // SAFETY: counts.
    unsafe { asm!("2: subs {0:w}, {0:w}, #1", "b.ne 2b", inout(reg) rounds => _) };
}
