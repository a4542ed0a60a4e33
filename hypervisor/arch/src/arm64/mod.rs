//! ARMv8-A in AArch64 state, without the Virtualization Host Extensions.

pub mod context;
pub mod gic;
pub mod gicv3;
mod monitor;
pub mod pmu;
pub mod setup;
pub mod spsr;
pub mod sysreg;
pub(crate) mod tlb;

use core::arch::global_asm;
use core::fmt;
use core::ptr::NonNull;

use xenith_core::addr::{Gfn, HostPhys, PAGE_SIZE};
use xenith_core::machine::Fault;

pub use context::{GuestFrame, SavedContext};
pub use monitor::Monitor;
/// Calls into the firmware.
pub use smccc::Smc as Firmware;

global_asm!(include_str!("head.S"), options(raw));
global_asm!(include_str!("vectors.S"), options(raw));

/// Most CPUs: as many have windows, and a domain vCPUs.
pub const MAX_CPUS: usize = 64;
/// Bytes of the stack of a CPU.
pub(crate) const STACK_BYTES: usize = 0x1_0000;
/// Bits of a physical address in PAR_EL1 and HPFAR_EL2.
const PAR_ADDRESS: u64 = 0x0000_ffff_ffff_f000;

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
        "{head}: HCR {:016x} VTTBR {:016x} ESR {:08x} HPFAR {:016x} FAR {:016x}",
        sysreg::hcr::read(),
        sysreg::vttbr::read(),
        sysreg::esr_el2::read(),
        sysreg::hpfar::read(),
        sysreg::far_el2::read()
    )?;
    writeln!(
        out,
        "{head}: guest: SCTLR {:08x} TTBR0 {:016x} TTBR1 {:016x} TCR {:016x}",
        sysreg::sctlr::read(),
        sysreg::ttbr0::read(),
        sysreg::ttbr1::read(),
        sysreg::tcr::read()
    )?;
    writeln!(
        out,
        "{head}: guest: ELR {:016x} ESR {:08x} FAR {:016x} SP {:016x}",
        sysreg::elr::read(),
        sysreg::esr::read(),
        sysreg::far::read(),
        sysreg::sp_el1::read()
    )
}

/// Has firmware start a CPU by function `number`, PSCI 0.2's CPU_ON without one. The arguments always fit.
pub fn psci_cpu_on(number: Option<u32>, mpidr: u64, entry: HostPhys) -> Option<i32> {
    const CPU_ON_64: u32 = 0xc400_0003;
    let mut arguments = [0; 17];
    arguments[0] = mpidr;
    arguments[1] = entry.raw();
    let results = <Firmware as smccc::Call>::call64(number.unwrap_or(CPU_ON_64), arguments);
    Some(results[0] as i32)
}

/// Returns this CPU's register for a pointer of the hypervisor's.
#[inline(always)]
pub(crate) fn cpu_local() -> usize {
    sysreg::tpidr_el2::read() as usize
}

/// Sets it.
///
/// # Safety
/// Whoever reads it relies on what was written.
pub(crate) unsafe fn set_cpu_local(value: usize) {
    // SAFETY: By the contract; the register has no other use.
    unsafe { sysreg::tpidr_el2::write(value as u64) };
}

/// Returns the exception level that we run at.
pub(crate) fn current_mode() -> u32 {
    let level: u64;
    // SAFETY: Reads a register.
    unsafe { core::arch::asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack)) };
    (level >> 2 & 3) as u32
}

/// Returns the affinity fields 0 to 2 of this CPU's MPIDR.
pub fn affinity() -> u32 {
    (sysreg::mpidr::read() & 0xff_ffff) as u32
}

/// Returns the guest frame in which stage 2 has no page: after a translation fault of the guest that is loaded. A frame
/// number that we have no room for cannot be mapped either: the last one stands for it.
pub fn fault_frame() -> Gfn {
    let frame = (sysreg::hpfar::read() & 0x0000_0fff_ffff_fff0) >> 4;
    Gfn::try_from(frame).unwrap_or(Gfn::new(u32::MAX))
}

/// Returns whether this class of an exception is HVC, from AArch64 or AArch32 state.
pub const fn is_hvc(class: u32) -> bool {
    matches!(class, 0x16 | 0x12)
}

/// Returns the class of the exception that the guest trapped with (ESR_EL2.EC).
pub fn exception_class() -> u32 {
    (sysreg::esr_el2::read() >> 26 & 0x3f) as u32
}

/// Translates a guest virtual address as the running guest's privileged read or write would be (stage 1 and stage 2).
///
/// # Errors
/// [`Fault`] when the guest itself could not access it.
#[inline]
pub(crate) fn translate(va: usize, write: bool) -> Result<HostPhys, Fault> {
    // What the upper half does is not defined where the guest's EL1 is in AArch32 state.
    if va >> 32 != 0 && sysreg::hcr::read() & setup::hcr::RW == 0 {
        return Err(Fault);
    }
    let kept = sysreg::par::read();
    // SAFETY: An address translation has no effect but on PAR_EL1, which is the guest's and restored below.
    unsafe {
        if write {
            sysreg::at_s12e1w::write(va);
        } else {
            sysreg::at_s12e1r::write(va);
        }
    }
    sysreg::isb();
    let par = sysreg::par::read();
    // SAFETY: Restores the guest's value.
    unsafe { sysreg::par::write(kept) };
    if par & 1 != 0 {
        return Err(Fault);
    }
    Ok(HostPhys::new((par & PAR_ADDRESS) | (va & 0xfff) as u64))
}

/// Copies `blocks` times 32 bytes by doublewords, each read once; returns the addresses behind.
///
/// # Safety
/// Both are good for that many bytes of normal memory, `blocks` is not 0, and the ranges do not overlap.
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
            "ldp {a}, {b}, [{source}], #16",
            "ldp {c}, {d}, [{source}], #16",
            "stp {a}, {b}, [{target}], #16",
            "stp {c}, {d}, [{target}], #16",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            source = inout(reg) source,
            target = inout(reg) target,
            blocks = inout(reg) blocks => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            options(nostack),
        );
    }
    (source, target)
}

/// Writes zeroes to a page by blocks whose size, at most 2 KiB, DCZID_EL0 has. Its DZP bit speaks of EL1 and EL0 only: what
/// sets it are HCR_EL2.TDZ and SCTLR_EL1.DZE (Arm DDI 0487, DCZID_EL0).
///
/// # Safety
/// `page` is the start of a mapped, writable, aligned page of normal memory that nothing else refers to.
pub(crate) unsafe fn zero_page(page: NonNull<u8>) {
    // SAFETY: an even number of blocks is the page, by the contract.
    unsafe {
        core::arch::asm!(
            "2:",
            "dc zva, {at}",
            "add {at}, {at}, {block}",
            "dc zva, {at}",
            "add {at}, {at}, {block}",
            "cmp {at}, {end}",
            "b.ne 2b",
            at = inout(reg) page.as_ptr() => _,
            block = in(reg) 4u64 << (sysreg::dczid::read() & 0xf),
            end = in(reg) page.as_ptr().wrapping_add(PAGE_SIZE),
            options(nostack)
        );
    }
}

/// The registers at a fault of the hypervisor's own; vectors.S knows the layout.
#[repr(C)]
pub struct FaultRegisters {
    /// x0–x30.
    pub x: [u64; 31],
    /// The stack pointer before the fault.
    pub sp: u64,
    /// The faulting instruction.
    pub pc: u64,
    /// The state at the fault.
    pub pstate: u64,
}

impl FaultRegisters {
    /// Writes all that is known of the fault `what`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn describe(&self, what: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(
            out,
            "{what} in the hypervisor, ESR {:08x}",
            sysreg::esr_el2::read()
        )?;
        writeln!(
            out,
            "PC:     {:016x}   PSTATE: {:08x}",
            self.pc, self.pstate
        )?;
        writeln!(
            out,
            "SP:     {:016x}   FAR:    {:016x}",
            self.sp,
            sysreg::far_el2::read()
        )?;
        context::dump_registers(&self.x, out)
    }

    /// Returns the address of the instruction.
    pub fn pc(&self) -> usize {
        self.pc as usize
    }

    /// Returns the frame pointer at the fault.
    pub fn frame_pointer(&self) -> usize {
        self.x[29] as usize
    }
}

#[unsafe(no_mangle)]
extern "C" fn arch_hyp_fault(registers: &FaultRegisters, kind: u32) -> ! {
    let what = match (kind, exception_class()) {
        (0, 0x25) => "data abort",
        (0, 0x21) => "instruction abort",
        (0, 0) => "undefined instruction",
        (0, _) => "synchronous exception",
        (1, _) => "SError",
        (3, _) => "stack overflow",
        _ => "unexpected exception",
    };
    // SAFETY: Does not return.
    unsafe { xenith_hyp_fault(what, registers) }
}

/// Returns the frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> usize {
    let fp: usize;
    // SAFETY: Reads a register.
    unsafe {
        core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags))
    };
    fp
}
