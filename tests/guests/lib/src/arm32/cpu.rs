//! Registers and instructions of the processor, as far as the guests need them.

use core::arch::asm;

/// Defines a function that reads a 32-bit cp15 (or cp14) register.
#[macro_export]
macro_rules! read_register {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u32 {
            let value: u32;
            // SAFETY: reads a register without side effects.
            unsafe { core::arch::asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
}

read_register!(
    /// Which processor this is.
    mpidr, "mrc p15, 0, {0}, c0, c0, 5");
read_register!(
    /// Processor model.
    midr, "mrc p15, 0, {0}, c0, c0, 0");
read_register!(
    /// Auxiliary control; hypervisors trap it.
    actlr, "mrc p15, 0, {0}, c1, c0, 1");
read_register!(
    /// Counter frequency in Hz.
    cntfrq, "mrc p15, 0, {0}, c14, c0, 0");
read_register!(
    /// Status of the last data abort.
    dfsr, "mrc p15, 0, {0}, c5, c0, 0");
read_register!(
    /// Address of the last data abort.
    dfar, "mrc p15, 0, {0}, c6, c0, 0");
read_register!(
    /// Status of the last prefetch abort.
    ifsr, "mrc p15, 0, {0}, c5, c0, 1");
read_register!(
    /// Program status.
    status, "mrs {0}, cpsr");

/// The virtual counter, in ticks.
#[inline(always)]
pub fn cntvct() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter. Not `nomem`: the compiler shall not move other accesses across.
    unsafe {
        asm!("mrrc p15, 1, {0}, {1}, c14", out(reg) low, out(reg) high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// The physical counter, in ticks.
#[inline(always)]
pub fn cntpct() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as for `cntvct`.
    unsafe {
        asm!("mrrc p15, 0, {0}, {1}, c14", out(reg) low, out(reg) high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Lets interrupts in.
#[inline(always)]
pub fn enable_irq() {
    // SAFETY: vectors and stack are set up before any Rust code runs.
    unsafe { asm!("cpsie i", options(nostack, preserves_flags)) };
}

/// Keeps interrupts out.
#[inline(always)]
pub fn disable_irq() {
    // SAFETY: masking interrupts is always allowed.
    unsafe { asm!("cpsid i", options(nostack, preserves_flags)) };
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
        asm!("ldr {0}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags))
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
        asm!("str {0}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags))
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
        asm!("strb {0}, [{1}]", in(reg) u32::from(value), in(reg) address, options(nostack, preserves_flags))
    };
}

/// Words of all floating-point registers.
pub const FP_WORDS: usize = 64;

/// Lets this processor use floating point. No compiled code does.
pub fn enable_fp() {
    // SAFETY: CPACR and FPEXC of the guest: full access to cp10 and cp11.
    unsafe {
        asm!(".fpu neon", "mrc p15, 0, {0}, c1, c0, 2", "orr {0}, {0}, #0x00f00000", "mcr p15, 0, {0}, c1, c0, 2", "isb",
            "mov {0}, #0x40000000", "vmsr fpexc, {0}", out(reg) _, options(nostack));
    }
}

/// Loads all floating-point registers, once [`enable_fp`] was called.
pub fn load_fp(values: &[u32; FP_WORDS]) {
    // SAFETY: compiled code does not use these registers (a soft-float target); the array holds all of them.
    unsafe {
        asm!(".fpu neon", "vldm {0}!, {{d0-d15}}", "vldm {0}!, {{d16-d31}}", inout(reg) values.as_ptr() => _,
            options(nostack, readonly));
    }
}

/// Stores all floating-point registers, once [`enable_fp`] was called.
pub fn store_fp(values: &mut [u32; FP_WORDS]) {
    // SAFETY: the array holds all of them.
    unsafe {
        asm!(".fpu neon", "vstm {0}!, {{d0-d15}}", "vstm {0}!, {{d16-d31}}", inout(reg) values.as_mut_ptr() => _,
            options(nostack));
    }
}

/// Executes two instructions `rounds` times.
#[inline(always)]
pub fn spin(rounds: u32) {
    // SAFETY: counts.
    unsafe { asm!("2: subs {0}, {0}, #1", "bne 2b", inout(reg) rounds => _) };
}
