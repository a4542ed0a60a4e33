//! The machine's interrupt controller at boot: found in the device tree, mapped, and opened on the boot CPU.

use log::error;
use xenith_arch::gic::{CpuInterface, Distributor, HypInterface, LocalFrames};
use xenith_arch::{HypTables, Monitor, gicv2};
use xenith_boot::fdt::host::{Gic as HostGic, GicKind, GicV2};
use xenith_boot::memory::PhysRange;
use xenith_core::addr::HostPhys;

use crate::boot::stop;
use crate::say;

/// The interrupt controller as the boot CPU has it.
pub struct Gic {
    /// What all CPUs share.
    pub distributor: Distributor,
    /// The boot CPU's interface.
    pub cpu: CpuInterface,
    /// The boot CPU's list registers.
    pub hyp: HypInterface,
    /// What makes those of the other CPUs.
    pub local: LocalFrames,
}

/// Maps registers for good.
pub fn map(tables: &mut HypTables, at: HostPhys, pages: usize) -> usize {
    match tables.map_device(at, pages) {
        Ok(va) => va,
        Err(_) => stop(&"the GIC's registers cannot be mapped"),
    }
}

/// Opens the interrupt controller.
#[cold]
#[inline(never)]
pub fn init(tables: &mut HypTables, gic: &HostGic<'_>, monitor: Option<Monitor>) -> Gic {
    let (mut distributor, local) = crate::arch::init_distributor(tables, gic, monitor);
    if !distributor.init_cpu() {
        stop(&"the GIC has no redistributor for this CPU: correct \"reg\" of its device tree node");
    }
    // SAFETY: This CPU's own, mapped just above where they are in memory, for nobody else.
    let interfaces = unsafe { interfaces(local) };
    let Some((cpu, hyp)) = interfaces else {
        stop(&NO_REGISTERS);
    };
    let version = match gic.kind {
        GicKind::V2(_) => 2,
        GicKind::V3(_) => 3,
    };
    say!(
        "GICv{version}: {} lines, {} cpus (IID {:08x}), {} list registers.",
        distributor.lines(),
        distributor.cpu_count(),
        distributor.iidr(),
        hyp.lr_count()
    );
    Gic {
        distributor,
        cpu,
        hyp,
        local,
    }
}

const NO_REGISTERS: &str = "firmware keeps the GIC's system registers: it must set ICC_SRE_EL3";

/// Opens this CPU's interfaces; `None` when firmware keeps them.
///
/// # Safety
/// They are mapped where they are in memory, and have no other owner.
unsafe fn interfaces(local: LocalFrames) -> Option<(CpuInterface, HypInterface)> {
    // SAFETY: By the contract.
    unsafe { CpuInterface::new(local).map(|cpu| (cpu, HypInterface::new(local))) }
}

/// Opens a secondary CPU's interfaces.
///
/// # Safety
/// The boot CPU mapped them where they are in memory; this CPU's have no other owner.
pub unsafe fn secondary_interfaces(local: LocalFrames) -> Option<(CpuInterface, HypInterface)> {
    // SAFETY: By the contract.
    let interfaces = unsafe { interfaces(local) };
    if interfaces.is_none() {
        error!("{NO_REGISTERS}");
    }
    interfaces
}

/// Sets up the distributor of a GICv2.
pub fn init_v2(
    tables: &mut HypTables,
    gicd: PhysRange,
    v2: &GicV2,
    maintenance: u16,
    monitor: Option<Monitor>,
) -> (gicv2::Distributor, gicv2::LocalFrames) {
    let gicd_va = map(tables, gicd.base(), 1);
    let local = gicv2::LocalFrames {
        gicc: map(tables, v2.gicc.base(), 2),
        gich: map(tables, v2.gich.base(), 1),
    };
    say!("GICv2 initialization:");
    say!("        gic_dist_addr={:016x}", gicd.base());
    say!("        gic_cpu_addr={:016x}", v2.gicc.base());
    say!("        gic_hyp_addr={:016x}", v2.gich.base());
    say!("        gic_vcpu_addr={:016x}", v2.gicv.base());
    say!("        gic_maintenance_irq={maintenance}");
    if let Some(monitor) = monitor {
        monitor.release_cpu(gicd.base(), v2.gicc.base());
        monitor.release_spis(gicd.base(), 32);
    }
    // SAFETY: Mapped just above from the device tree's GIC node, for nobody else.
    (unsafe { gicv2::Distributor::new(gicd_va) }, local)
}
