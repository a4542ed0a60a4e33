//! What is AArch64's in the binary: its traps, its registers by name, its identification.

pub mod aarch32;
mod gic;
mod registers;
mod traps;

use alloc::string::String;

use xenith_arch::{GuestFrame, setup, sysreg};
use xenith_boot::fdt::host::{Gic, GicKind};
use xenith_core::emulate::Execution;
use xenith_core::emulate::a64::features::CpuFeatures64;
use xenith_core::emulate::a64::inject::{GuestException, take_exception};
use xenith_core::emulate::coproc::CpuFeatures;
use xenith_core::hypercall::HypercallRegs;
use xenith_core::hypervisor::{Release, XEN_4_20};
use xenith_core::stage2::Geometry;

use crate::{console, say};

pub use aarch32::prepare;
pub use gic::init_distributor;
pub use traps::handle;

/// The release of Xen that guests see.
pub const RELEASE: &Release = &XEN_4_20;
/// Returns what guests can be (XENVER_capabilities).
pub fn capabilities(features: &Features) -> &'static str {
    if features.has_aarch32() {
        "xen-3.0-aarch64 xen-3.0-armv7l "
    } else {
        "xen-3.0-aarch64 "
    }
}

/// Returns the same for kernels and toolstacks.
pub fn executions(features: &Features) -> &'static [Execution] {
    if features.has_aarch32() {
        &[Execution::AArch64, Execution::AArch32]
    } else {
        &[Execution::AArch64]
    }
}

/// Returns whether this CPU can run what the boot CPU, which has `features`, can.
pub fn is_like(features: &Features) -> bool {
    let own = CpuFeatures64 {
        pfr: [sysreg::id_aa64pfr0::read(), 0],
        ..CpuFeatures64::default()
    };
    own.has_aarch32() || !features.has_aarch32()
}
/// Where Xen's virtual space begins, as guests are told. None can do anything with it.
pub const VIRT_START: u64 = 0x0000_0a00_0000_0000;
/// What a domain is until its kernel or a toolstack says otherwise.
pub const EXECUTION: Execution = Execution::AArch64;
/// The register in which the boot loader leaves the device tree.
pub const DTB_REGISTER: &str = "x0";

/// The identification registers.
pub type Features = CpuFeatures64;
/// HCR_EL2.
pub type Traps = u64;

/// Returns what traps for a vCPU.
pub fn traps_for(execution: Execution, _features: &Features) -> Traps {
    match execution {
        Execution::AArch32 => setup::hcr::GUEST & !setup::hcr::RW,
        Execution::AArch64 => setup::hcr::GUEST,
    }
}

/// The most bits of a guest's physical address: our frame numbers have no more.
const MAX_IPA_BITS: u8 = 44;

/// Sets up stage 2, returns its shape and the bits of a VMID, and says what they are.
pub fn init_stage2(features: &Features, is_uniform: bool) -> (Geometry, u32) {
    let bits = features.physical_bits().min(MAX_IPA_BITS);
    let start_level = u8::from(bits <= 42);
    let (bits, geometry) = match Geometry::new(bits, start_level) {
        Some(geometry) => (bits, geometry),
        None => (40, Geometry::ARMV7),
    };
    let vmid_bits = if is_uniform { features.vmid_bits() } else { 8 };
    let vtcr = setup::set_stage2_widths(bits, vmid_bits);
    say!(
        "P2M: {bits}-bit IPA with {}-bit PA and {vmid_bits}-bit VMID",
        features.physical_bits()
    );
    say!(
        "P2M: {} levels with order-{} root, VTCR 0x{vtcr:016x}",
        4 - geometry.start_level(),
        geometry.root_order()
    );
    (geometry, vmid_bits)
}

/// Says why the hypervisor cannot run, entered at this exception level.
pub fn report_wrong_mode(level: u32) {
    console::emergency_line(format_args!(
        "Xenith must be entered at EL2; this CPU is at EL{level}."
    ));
    console::emergency("Use a boot loader or firmware that starts it at EL2");
    console::emergency("(QEMU virt: -M virt,virtualization=on).");
}

/// Returns what the CPU says of itself, and what of it guests see on a machine with this interrupt controller.
///
/// # Errors
/// It has no floating-point unit.
pub fn features(gic: &Gic<'_>) -> Result<Features, String> {
    let low = |register: u64| register as u32;
    let features = CpuFeatures64 {
        pfr: [sysreg::id_aa64pfr0::read(), sysreg::id_aa64pfr1::read()],
        dfr: [sysreg::id_aa64dfr0::read(), sysreg::id_aa64dfr1::read()],
        isar: [
            sysreg::id_aa64isar0::read(),
            sysreg::id_aa64isar1::read(),
            sysreg::id_aa64isar2::read(),
        ],
        mmfr: [
            sysreg::id_aa64mmfr0::read(),
            sysreg::id_aa64mmfr1::read(),
            sysreg::id_aa64mmfr2::read(),
        ],
        aarch32: CpuFeatures {
            midr: sysreg::midr::read(),
            pfr: [
                low(sysreg::id_pfr0::read()),
                low(sysreg::id_pfr1::read()),
                0,
            ],
            dfr: [low(sysreg::id_dfr0::read()), 0],
            afr0: low(sysreg::id_afr0::read()),
            mmfr: [
                low(sysreg::id_mmfr0::read()),
                low(sysreg::id_mmfr1::read()),
                low(sysreg::id_mmfr2::read()),
                low(sysreg::id_mmfr3::read()),
                low(sysreg::id_mmfr4::read()),
                0,
            ],
            isar: [
                low(sysreg::id_isar0::read()),
                low(sysreg::id_isar1::read()),
                low(sysreg::id_isar2::read()),
                low(sysreg::id_isar3::read()),
                low(sysreg::id_isar4::read()),
                low(sysreg::id_isar5::read()),
                0,
            ],
            mvfr: [
                low(sysreg::mvfr0::read()),
                low(sysreg::mvfr1::read()),
                low(sysreg::mvfr2::read()),
            ],
        },
    };
    // ID_AA64PFR0.FP: 0xf means none.
    if features.pfr[0] >> 16 & 0xf == 0xf {
        return Err(String::from(
            "this CPU has no floating-point unit, which Xenith and its guests count on",
        ));
    }
    Ok(features.sanitised(matches!(gic.kind, GicKind::V3(_))))
}

/// Says what the CPU is.
pub fn report_cpu(features: &Features) {
    let midr = features.aarch32.midr;
    say!(
        "Processor: {midr:016x}: \"{}\", variant: {:#x}, part {:#05x},rev {:#x}",
        if midr >> 24 == 0x41 {
            "ARM Limited"
        } else {
            "unknown"
        },
        (midr >> 20) & 0xf,
        (midr >> 4) & 0xfff,
        midr & 0xf
    );
    say!("64-bit Execution:");
    say!(
        "  Processor Features: {:016x} {:016x}",
        features.pfr[0],
        features.pfr[1]
    );
    say!(
        "  Memory Model Features: {:016x} {:016x}",
        features.mmfr[0],
        features.mmfr[1]
    );
    say!(
        "  ISA Features:  {:016x} {:016x}",
        features.isar[0],
        features.isar[1]
    );
}

/// The registers of the vCPU that is loaded on this pCPU, as it makes hypercalls: in AArch32 state the lower halves, and
/// the number in r12.
pub struct LiveRegs<'a>(pub &'a mut GuestFrame);

impl LiveRegs<'_> {
    /// The bits that a register has.
    #[inline(always)]
    fn mask(&self) -> u64 {
        if self.0.is_aarch32() {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }
}

impl HypercallRegs for LiveRegs<'_> {
    #[inline(always)]
    fn number(&self) -> u32 {
        if self.0.is_aarch32() {
            return self.0.x[12] as u32;
        }
        // A number that has more than 32 bits is none.
        u32::try_from(self.0.x[16]).unwrap_or(u32::MAX)
    }
    #[inline(always)]
    fn argument(&self, n: usize) -> u64 {
        self.0.x.get(n).copied().unwrap_or(0) & self.mask()
    }
    fn set_argument(&mut self, n: usize, value: u64) {
        if n < 5 {
            self.0.x[n] = value & self.mask();
        }
    }
    #[inline(always)]
    fn set_result(&mut self, value: i64) {
        self.0.x[0] = value as u64 & self.mask();
    }
}

/// Makes the loaded guest take an exception.
pub fn inject(frame: &mut GuestFrame, exception: GuestException) {
    let entry = take_exception(
        sysreg::sctlr::read(),
        sysreg::vbar::read(),
        frame.psr(),
        frame.pc,
        exception,
    );
    // SAFETY: EL1 registers of the guest only.
    unsafe {
        sysreg::elr::write(entry.elr);
        sysreg::spsr::write(u64::from(entry.spsr));
        sysreg::esr::write(entry.esr);
        if let Some(far) = entry.far {
            sysreg::far::write(far);
        }
    }
    frame.pc = entry.pc;
    frame.pstate = u64::from(entry.pstate);
}
