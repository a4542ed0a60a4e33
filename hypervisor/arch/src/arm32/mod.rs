//! ARMv7-A with the Virtualization Extensions.

pub mod context;
pub mod monitor;
pub mod pmu;
pub mod setup;
pub mod sysreg;
pub(crate) mod tlb;

use core::arch::global_asm;
use core::fmt;
use core::ptr::NonNull;

use xenith_core::addr::{Gfn, HostPhys, PAGE_SIZE};
use xenith_core::machine::Fault;

/// The machine's interrupt controller.
pub use crate::common::gicv2 as gic;
pub use context::{GuestFrame, SavedContext};
pub use monitor::Monitor;

global_asm!(include_str!("head.S"), options(raw));
global_asm!(include_str!("vectors.S"), options(raw));

/// Most CPUs: a GICv2 has as many CPU interfaces.
pub const MAX_CPUS: usize = 8;
/// Bytes of the stack of a CPU.
pub(crate) const STACK_BYTES: usize = 0x8000;

unsafe extern "C" {
    #[link_name = "smc32"]
    fn smc32_asm(function: u32, a: u32, b: u32, c: u32) -> u32;
}

unsafe extern "Rust" {
    /// The binary's report of a fault of our own.
    fn xenith_hyp_fault(what: &str, registers: &FaultRegisters) -> !;
}

/// Writes the registers of the hypervisor, and of the guest that is loaded, after `head` on each line.
///
/// # Errors
/// Those of `out`.
pub fn dump_registers(head: &dyn fmt::Display, out: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(
        out,
        "{head}: HCR {:08x} VTTBR {:016x} HSR {:08x} HPFAR {:08x} HDFAR {:08x}",
        sysreg::hcr::read(),
        sysreg::vttbr::read(),
        sysreg::hsr::read(),
        sysreg::hpfar::read(),
        sysreg::hdfar::read()
    )?;
    writeln!(
        out,
        "{head}: guest: SCTLR {:08x} TTBR0 {:016x} TTBCR {:08x} SP_svc {:08x} LR_svc {:08x}",
        sysreg::sctlr::read(),
        sysreg::ttbr0::read(),
        sysreg::ttbcr::read(),
        sysreg::sp_svc::read(),
        sysreg::lr_svc::read()
    )
}

/// Calls into the firmware, following the SMC Calling Convention, by way of the `smccc` crate's functions. Ours because
/// `smccc::Smc` writes the instruction as an A32 word, whatever the instruction set.
pub struct Firmware;

impl smccc::Call for Firmware {
    fn call32(function: u32, args: [u32; 7]) -> [u32; 8] {
        // SAFETY: Firmware keeps to the calling convention and leaves our memory alone.
        let result = unsafe { smc32_asm(function, args[0], args[1], args[2]) };
        [result, 0, 0, 0, 0, 0, 0, 0]
    }

    fn call64(_function: u32, _args: [u64; 17]) -> [u64; 18] {
        unreachable!("there is no SMC64 in AArch32")
    }
}

/// Has firmware start a CPU by function `number`, PSCI 0.2's CPU_ON without one. `None`: the arguments do not fit the call.
pub fn psci_cpu_on(number: Option<u32>, mpidr: u64, entry: HostPhys) -> Option<i32> {
    const CPU_ON: u32 = 0x8400_0003;
    let (mpidr, entry) = (u32::try_from(mpidr).ok()?, u32::try_from(entry.raw()).ok()?);
    let arguments = [mpidr, entry, 0, 0, 0, 0, 0];
    let results = <Firmware as smccc::Call>::call32(number.unwrap_or(CPU_ON), arguments);
    Some(results[0] as i32)
}

/// Returns this CPU's register for a pointer of the hypervisor's.
#[inline(always)]
pub(crate) fn cpu_local() -> usize {
    sysreg::htpidr::read() as usize
}

/// Sets it.
///
/// # Safety
/// Whoever reads it relies on what was written.
pub(crate) unsafe fn set_cpu_local(value: usize) {
    // SAFETY: By the contract; the register has no other use.
    unsafe { sysreg::htpidr::write(value as u32) };
}

/// Returns the mode that we run in (CPSR).
pub(crate) fn current_mode() -> u32 {
    let cpsr: u32;
    // SAFETY: Reads a register.
    unsafe { core::arch::asm!("mrs {}, cpsr", out(reg) cpsr, options(nomem, nostack)) };
    cpsr
}

/// Returns the affinity fields of this CPU's MPIDR.
pub fn affinity() -> u32 {
    sysreg::mpidr::read() & 0xff_ffff
}

/// Returns the guest frame in which stage 2 has no page: after a translation fault of the guest that is loaded.
pub fn fault_frame() -> Gfn {
    Gfn::new(sysreg::hpfar::read() >> 4)
}

/// Returns whether this class of an exception is HVC.
pub const fn is_hvc(class: u32) -> bool {
    class == 0x12
}

/// Returns the class of the exception that the guest trapped with (HSR.EC).
pub fn exception_class() -> u32 {
    sysreg::hsr::read() >> 26
}

/// Translates a guest virtual address as the running guest's privileged read or write would be (stage 1 and stage 2).
///
/// # Errors
/// [`Fault`] when the guest itself could not access it.
#[inline]
pub(crate) fn translate(va: usize, write: bool) -> Result<HostPhys, Fault> {
    let kept = sysreg::par::read();
    // SAFETY: An address translation has no effect but on PAR, which is the guest's and restored below.
    unsafe {
        if write {
            sysreg::ats12nsopw::write(va as u32);
        } else {
            sysreg::ats12nsopr::write(va as u32);
        }
    }
    sysreg::isb();
    let par = sysreg::par::read();
    // SAFETY: Restores the guest's value.
    unsafe { sysreg::par::write(kept) };
    if par & 1 != 0 {
        return Err(Fault);
    }
    Ok(HostPhys::new((par & 0xff_ffff_f000) | (va & 0xfff) as u64))
}

/// Copies `blocks` times 32 bytes by words, each read once; returns the addresses behind.
///
/// # Safety
/// Both are multiples of 4 and good for that many bytes, `blocks` is not 0, and the ranges do not overlap.
#[inline]
pub(crate) unsafe fn copy_blocks(
    mut source: *const u8,
    mut target: *mut u8,
    blocks: usize,
) -> (*const u8, *mut u8) {
    // SAFETY: By the contract.
    unsafe {
        core::arch::asm!(
            "2:",
            "ldmia {source}!, {{r2, r3, r4, r5}}",
            "stmia {target}!, {{r2, r3, r4, r5}}",
            "ldmia {source}!, {{r2, r3, r4, r5}}",
            "stmia {target}!, {{r2, r3, r4, r5}}",
            "subs {blocks}, {blocks}, #1",
            "bne 2b",
            source = inout(reg) source,
            target = inout(reg) target,
            blocks = inout(reg) blocks => _,
            out("r2") _, out("r3") _, out("r4") _, out("r5") _,
            options(nostack),
        );
    }
    (source, target)
}

/// Writes zeroes to a page, 128 bytes in a turn: the compiler's own loop writes a word in each.
///
/// # Safety
/// `page` is the start of a mapped, writable, aligned page that nothing else refers to.
pub(crate) unsafe fn zero_page(page: NonNull<u8>) {
    // SAFETY: 32 turns of 128 bytes are the page, by the contract.
    unsafe {
        core::arch::asm!(
            "2:",
            "stmia {at}!, {{r0, r1, r2, r3, r4, r5, r8, r12}}",
            "stmia {at}!, {{r0, r1, r2, r3, r4, r5, r8, r12}}",
            "stmia {at}!, {{r0, r1, r2, r3, r4, r5, r8, r12}}",
            "stmia {at}!, {{r0, r1, r2, r3, r4, r5, r8, r12}}",
            "cmp {at}, {end}",
            "bne 2b",
            at = inout(reg) page.as_ptr() => _,
            end = in(reg) page.as_ptr().wrapping_add(PAGE_SIZE),
            in("r0") 0u32, in("r1") 0u32, in("r2") 0u32, in("r3") 0u32,
            in("r4") 0u32, in("r5") 0u32, in("r8") 0u32, in("r12") 0u32,
            options(nostack)
        );
    }
}

/// The registers at a fault of the hypervisor's own; vectors.S knows the layout.
#[repr(C)]
pub struct FaultRegisters {
    /// r0–r12.
    pub r: [u32; 13],
    /// The stack pointer before the fault.
    pub sp: u32,
    /// LR.
    pub lr: u32,
    /// The faulting instruction.
    pub pc: u32,
    /// CPSR at the fault.
    pub cpsr: u32,
    _pad: u32,
}

impl FaultRegisters {
    /// Writes all that is known of the fault `what`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn describe(&self, what: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(
            out,
            "{what} in the hypervisor, HSR {:08x}",
            sysreg::hsr::read()
        )?;
        writeln!(out, "PC:     {:08x}   CPSR:   {:08x}", self.pc, self.cpsr)?;
        for (i, group) in self.r.chunks(4).enumerate() {
            match *group {
                [a, b, c, d] => writeln!(out, "R{:<2} {a:08x} {b:08x} {c:08x} {d:08x}", i * 4)?,
                _ => writeln!(
                    out,
                    "R12 {:08x} SP {:08x} LR {:08x}",
                    group[0], self.sp, self.lr
                )?,
            }
        }
        writeln!(
            out,
            "HDFAR:  {:08x}   HIFAR:  {:08x}",
            sysreg::hdfar::read(),
            sysreg::hifar::read()
        )
    }

    /// Returns the address of the instruction.
    pub fn pc(&self) -> usize {
        self.pc as usize
    }
}

#[unsafe(no_mangle)]
extern "C" fn arch_hyp_fault(registers: &FaultRegisters, kind: u32) -> ! {
    let what = match kind {
        0 => "reset",
        1 => "undefined instruction",
        2 => "supervisor call",
        3 => "prefetch abort",
        5 => "stack overflow",
        _ => "data abort",
    };
    // SAFETY: Does not return.
    unsafe { xenith_hyp_fault(what, registers) }
}

/// The general register that is the frame pointer: r7 in Thumb code, r11 in Arm code.
const FRAME_POINTER: usize = if cfg!(xenith_thumb) { 7 } else { 11 };

impl FaultRegisters {
    /// Returns the frame pointer at the fault.
    pub fn frame_pointer(&self) -> usize {
        self.r[FRAME_POINTER] as usize
    }
}

/// Returns the frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> usize {
    let fp: usize;
    // SAFETY: Reads a register.
    unsafe {
        core::arch::asm!("mov {}, r{n}", out(reg) fp, n = const FRAME_POINTER, options(nomem, nostack, preserves_flags))
    };
    fp
}
