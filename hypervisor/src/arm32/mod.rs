//! What is ARMv7's in the binary: its traps, its registers by name, its identification.

pub mod aarch32;
mod registers;

use alloc::string::String;

use xenith_arch::context::{read_register, write_register};
use xenith_arch::gic::{Distributor, LocalFrames};
use xenith_arch::{GuestFrame, HypTables, Monitor, setup, sysreg};
use xenith_boot::fdt::host::{Gic, GicKind};
use xenith_core::emulate::Execution;
use xenith_core::emulate::coproc::CpuFeatures;
use xenith_core::emulate::inject::{
    ExceptionControl, FaultRegisters, GuestException, take_exception,
};
use xenith_core::emulate::regs::{GuestRegs, psr};
use xenith_core::hypercall::HypercallRegs;
use xenith_core::hypervisor::{Release, XEN_4_17};
use xenith_core::stage2::Geometry;

use crate::machine::Hv;
use crate::{console, say};

pub use crate::aarch32::handle;

/// Finds out what guests need here: nothing.
pub fn prepare(_: &'static Hv, _: &Features) {}

/// The release of Xen that guests see.
pub const RELEASE: &Release = &XEN_4_17;
/// Returns what guests can be (XENVER_capabilities).
pub fn capabilities(_: &Features) -> &'static str {
    "xen-3.0-armv7l "
}

/// Returns the same for kernels and toolstacks.
pub fn executions(_: &Features) -> &'static [Execution] {
    &[Execution::AArch32]
}

/// Returns whether this CPU can run what the boot CPU, which has `features`, can.
pub fn is_like(_features: &Features) -> bool {
    true
}
/// Where Xen's virtual space begins, as guests are told. None can do anything with it.
pub const VIRT_START: u64 = 0x20_0000;
/// What a domain is until its kernel or a toolstack says otherwise.
pub const EXECUTION: Execution = Execution::AArch32;
/// The register in which the boot loader leaves the device tree.
pub const DTB_REGISTER: &str = "r2";

/// The identification registers.
pub type Features = CpuFeatures;
/// HCR.
pub type Traps = u32;

/// Returns what traps for a vCPU.
pub fn traps_for(_: Execution, features: &Features) -> Traps {
    // Where nothing is hidden from guests they read the identification registers themselves: Linux reads MVFR0
    // again and again.
    if *features == features.sanitised() {
        setup::hcr::GUEST & !setup::hcr::TID3
    } else {
        setup::hcr::GUEST
    }
}

/// Maps the distributor that the device tree has, and brings it to a known state.
#[cold]
#[inline(never)]
pub fn init_distributor(
    tables: &mut HypTables,
    gic: &Gic<'_>,
    monitor: Option<Monitor>,
) -> (Distributor, LocalFrames) {
    match &gic.kind {
        GicKind::V2(v2) => {
            let maintenance = gic.maintenance.intid.raw();
            crate::gic::init_v2(tables, gic.gicd, v2, maintenance, monitor)
        }
        // The device tree's GICv3 is not taken for one ([`xenith_core::vgic::HAS_V3`]).
        GicKind::V3(_) => crate::boot::stop(&"a GICv3 is not supported on 32-bit machines"),
    }
}

/// Returns the shape of stage 2 and the bits of a VMID, and says what they are.
pub fn init_stage2(_features: &Features, _is_uniform: bool) -> (Geometry, u32) {
    say!("P2M: 40-bit IPA");
    say!(
        "P2M: 3 levels with order-1 root, VTCR 0x{:08x}",
        sysreg::vtcr::read()
    );
    (Geometry::ARMV7, 8)
}

/// Says why the hypervisor cannot run, entered with this CPSR in another mode than Hyp.
pub fn report_wrong_mode(cpsr: u32) {
    let mode = match cpsr & 0x1f {
        0x13 => "Supervisor",
        0x16 => "Monitor",
        0x1f => "System",
        _ => "unexpected",
    };
    let has_extensions = (sysreg::id_pfr1::read() >> 12) & 0xf == 1;
    let midr = sysreg::midr::read();
    // Cortex-A7, A12, A15 and A17 are made with the extensions.
    let could_have =
        midr >> 24 == 0x41 && matches!((midr >> 4) & 0xfff, 0xc07 | 0xc0d | 0xc0e | 0xc0f);
    if has_extensions || could_have {
        console::emergency_line(format_args!(
            "Xenith must be entered in Hyp mode; this CPU is in {mode} mode (CPSR {cpsr:#010x})."
        ));
        if !has_extensions {
            console::emergency("Its Virtualization Extensions are switched off.");
        }
        console::emergency("Use a boot loader or firmware that switches to non-secure Hyp mode");
        console::emergency(
            "(U-Boot: CONFIG_ARMV7_NONSEC and CONFIG_ARMV7_VIRT; QEMU virt: -M virt,virtualization=on).",
        );
    } else {
        console::emergency_line(format_args!(
            "This CPU (MIDR {midr:#010x}) has no Virtualization Extensions: Xenith cannot run on it."
        ));
        console::emergency("Cortex-A7, A12, A15 and A17 have them; Cortex-A5, A8 and A9 do not.");
    }
}

/// Returns what the CPU says of itself.
///
/// # Errors
/// It has no floating-point unit that we may use, or a small one.
pub fn features(_gic: &Gic<'_>) -> Result<Features, String> {
    if !xenith_arch::context::has_vfp() {
        return Err(String::from(
            "this CPU has no floating-point unit that guests may use: Xenith needs a CPU with VFP and NEON, enabled for the non-secure side",
        ));
    }
    let features = CpuFeatures {
        midr: sysreg::midr::read(),
        pfr: [sysreg::id_pfr0::read(), sysreg::id_pfr1::read(), 0],
        dfr: [sysreg::id_dfr0::read(), 0],
        afr0: sysreg::id_afr0::read(),
        mmfr: [
            sysreg::id_mmfr0::read(),
            sysreg::id_mmfr1::read(),
            sysreg::id_mmfr2::read(),
            sysreg::id_mmfr3::read(),
            0,
            0,
        ],
        isar: [
            sysreg::id_isar0::read(),
            sysreg::id_isar1::read(),
            sysreg::id_isar2::read(),
            sysreg::id_isar3::read(),
            sysreg::id_isar4::read(),
            sysreg::id_isar5::read(),
            0,
        ],
        mvfr: [
            xenith_arch::context::mvfr0(),
            xenith_arch::context::mvfr1(),
            0,
        ],
    };
    // The register file that a context switch saves, and that dom0's kernel counts on.
    if features.mvfr[0] & 0xf != 2 {
        return Err(alloc::format!(
            "this CPU's floating-point unit has not the 32 doubleword registers that Xenith needs (MVFR0 {:#010x}): use a CPU with NEON",
            features.mvfr[0]
        ));
    }
    Ok(features.sanitised())
}

/// Says what the CPU is.
pub fn report_cpu(features: &CpuFeatures) {
    let midr = features.midr;
    say!(
        "Processor: {midr:08x}: \"{}\", variant: {:#x}, part {:#05x},rev {:#x}",
        if midr >> 24 == 0x41 {
            "ARM Limited"
        } else {
            "unknown"
        },
        (midr >> 20) & 0xf,
        (midr >> 4) & 0xfff,
        midr & 0xf
    );
    say!("32-bit Execution:");
    say!(
        "  Processor Features: {:08x}:{:08x}",
        features.pfr[0],
        features.pfr[1]
    );
    say!(
        "  Memory Model Features: {:08x} {:08x}",
        features.mmfr[0],
        features.mmfr[1]
    );
    say!(
        "                         {:08x} {:08x}",
        features.mmfr[2],
        features.mmfr[3]
    );
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
