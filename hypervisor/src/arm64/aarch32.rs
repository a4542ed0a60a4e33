//! Where the registers are that traps from AArch32 state are about, of a 32-bit guest or of a user program of a 64-bit one.

use log::{info, warn};
use xenith_arch::{GuestFrame, setup, spsr, sysreg};
use xenith_core::addr::{Gfn, HostPhys};
use xenith_core::emulate::a64::aarch32::{
    LR_ABT, LR_UND, Place, Registers, place, take_exception, with_high, with_low,
};
use xenith_core::emulate::a64::inject as a64;
use xenith_core::emulate::a64::sysreg::VmRegister;
use xenith_core::emulate::coproc::{self, CpuFeatures, VmRegister64};
use xenith_core::emulate::inject::{ExceptionControl, FaultRegisters, GuestException};
use xenith_core::emulate::regs::{GuestRegs, psr};

use xenith_core::errno::Errno;
use xenith_core::hal::Hal;
use xenith_core::stage2::{PageType, Ram, Stage2};

use super::traps::{read_vm as read_el1, write_vm as write_el1};
use crate::machine::{Hv, alloc_frame};

/// Whether exception class 7 tells of nothing but floating point and SIMD (Arm DDI 0487 D24.2.37: no more fields).
pub const IS_CLASS_7_VFP: bool = true;

/// Returns the registers of the loaded guest.
pub fn registers(frame: &mut GuestFrame) -> Registers<'_> {
    frame.aarch32()
}

/// Returns the syndrome of the trap: ESR_EL2 has the fields of HSR.
#[inline(always)]
pub fn raw_syndrome() -> u32 {
    sysreg::esr_el2::read() as u32
}

/// Returns the virtual address of a data abort.
pub fn data_address() -> u32 {
    sysreg::far_el2::read() as u32
}

/// Returns the virtual address of a prefetch abort.
pub fn fetch_address() -> u32 {
    sysreg::far_el2::read() as u32
}

/// Returns CNTKCTL of the loaded guest.
pub fn cntkctl() -> u32 {
    sysreg::cntkctl::read() as u32
}

/// Returns ACTLR.
pub fn actlr() -> u32 {
    sysreg::actlr::read() as u32
}

/// Returns SCTLR of the loaded guest.
pub fn sctlr() -> u32 {
    sysreg::sctlr::read() as u32
}

/// Returns the identification registers of AArch32.
pub fn features(features: &super::Features) -> &CpuFeatures {
    &features.aarch32
}

/// Writes a translation table base of the loaded guest.
pub fn write_ttbr(register: VmRegister64, value: u64) {
    write_el1(
        match register {
            VmRegister64::Ttbr0 => VmRegister::Ttbr0,
            VmRegister64::Ttbr1 => VmRegister::Ttbr1,
        },
        value,
    );
}

/// Writes a virtual memory control of the loaded guest.
pub fn write_vm(register: coproc::VmRegister, value: u32) {
    match place(register) {
        Place::Low(el1) => write_el1(el1, with_low(read_el1(el1), value)),
        Place::High(el1) => write_el1(el1, with_high(read_el1(el1), value)),
        // SAFETY: A register of the guest.
        Place::Dacr => unsafe { sysreg::dacr32::write(u64::from(value)) },
        // SAFETY: As above.
        Place::Ifsr => unsafe { sysreg::ifsr32::write(u64::from(value)) },
    }
    sysreg::isb();
}

/// Makes the loaded guest take an exception. That of a user program of a 64-bit guest is taken in AArch64 state.
pub fn inject(frame: &mut GuestFrame, exception: GuestException) {
    if sysreg::hcr::read() & setup::hcr::RW != 0 {
        let exception = match exception {
            GuestException::Undefined => a64::GuestException::Undefined,
            GuestException::PrefetchAbort { address, .. } => {
                a64::GuestException::InstructionAbort {
                    address: u64::from(address),
                }
            }
            GuestException::DataAbort {
                address, is_write, ..
            } => a64::GuestException::DataAbort {
                address: u64::from(address),
                is_write,
            },
        };
        return super::inject(frame, exception);
    }
    let control = ExceptionControl {
        sctlr: sctlr(),
        vbar: sysreg::vbar::read() as u32,
        ttbcr: sysreg::tcr::read() as u32,
    };
    let state = frame.psr();
    let pc = registers(frame).pc();
    let entry = take_exception(&control, state, pc, exception);
    match entry.fault {
        FaultRegisters::None => {}
        FaultRegisters::Instruction { ifsr, ifar } => {
            write_vm(coproc::VmRegister::Ifsr, ifsr);
            write_vm(coproc::VmRegister::Ifar, ifar);
        }
        FaultRegisters::Data { dfsr, dfar } => {
            write_vm(coproc::VmRegister::Dfsr, dfsr);
            write_vm(coproc::VmRegister::Dfar, dfar);
        }
    }
    spsr::settle(state);
    let saved = u64::from(entry.spsr);
    // SAFETY: Registers of the guest only.
    unsafe {
        if entry.cpsr & psr::MODE_MASK == psr::MODE_UND {
            frame.x[LR_UND] = u64::from(entry.lr);
            sysreg::spsr_und::write(saved);
        } else {
            frame.x[LR_ABT] = u64::from(entry.lr);
            sysreg::spsr_abt::write(saved);
        }
    }
    spsr::load(entry.cpsr);
    frame.pc = u64::from(entry.pc);
    frame.pstate = u64::from(entry.cpsr);
}

/// Finds out what 32-bit guests need here, before any runs.
pub fn prepare(hv: &'static Hv, features: &super::Features) {
    if !features.has_aarch32() {
        return;
    }
    match spsr_tables(hv) {
        Ok(tables) if spsr::detect(tables) => {
            info!("AArch32: this is QEMU, whose SPSR of the current mode needs care");
        }
        // Not needed, and small.
        Ok(_) => {}
        Err(error) => warn!("AArch32: QEMU's SPSR is not looked after: {error:?}"),
    }
}

/// Makes stage-2 tables with nothing but [`spsr::CODE`], at 0; returns VTTBR.
fn spsr_tables(hv: &'static Hv) -> Result<u64, Errno> {
    let mut memory = hv.hal.p2m_memory(0);
    let page = alloc_frame(hv).ok_or(Errno::NoMem)?;
    hv.hal.zero_frame(page);
    let mut stage2 = Stage2::new(&mut memory, hv.guests.geometry).ok_or(Errno::NoMem)?;
    let mapped = stage2.map(
        &mut memory,
        Gfn::new(0),
        page,
        1,
        PageType::RamRo,
        Ram::Keep,
    );
    mapped.map_err(|_| Errno::NoMem)?;
    let vmid = hv.vmids.take().ok_or(Errno::Busy)?;
    for (word, at) in spsr::CODE.iter().zip((0..).step_by(4)) {
        let to = HostPhys::new(page.address().raw() + at);
        let written = hv.hal.memory.write(to, &word.to_le_bytes(), true);
        written.map_err(|_| Errno::Fault)?;
    }
    xenith_arch::cache::invalidate_instruction_caches();
    let tables = stage2.root().address().raw() | u64::from(vmid) << 48;
    // They stay.
    core::mem::forget(stage2);
    Ok(tables)
}
