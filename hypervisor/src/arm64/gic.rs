//! The distributor of either GIC, and the redistributors of a GICv3.

use alloc::vec::Vec;

use log::warn;
use xenith_arch::gic::{Distributor, LocalFrames};
use xenith_arch::gicv3::{self, Redistributor};
use xenith_arch::{HypTables, Monitor, sysreg};
use xenith_boot::fdt::host::{Gic, GicKind, GicV3};
use xenith_core::addr::{HostPhys, PAGE_SIZE};
use xenith_core::vgic::{GICD_V3_SIZE, GICR_SIZE};

use crate::boot::stop;
use crate::gic::{init_v2, map};
use crate::say;
use crate::smp::MAX_CPUS;

/// Maps the distributor that the device tree has, and brings it to a known state.
#[cold]
#[inline(never)]
pub fn init_distributor(
    tables: &mut HypTables,
    gic: &Gic<'_>,
    monitor: Option<Monitor>,
) -> (Distributor, LocalFrames) {
    let maintenance = gic.maintenance.intid.raw();
    match &gic.kind {
        GicKind::V2(v2) => {
            let (distributor, local) = init_v2(tables, gic.gicd, v2, maintenance, monitor);
            (Distributor::V2(distributor), LocalFrames::V2(local))
        }
        GicKind::V3(v3) => {
            // ID_AA64PFR0_EL1.GIC.
            if sysreg::id_aa64pfr0::read() >> 24 & 0xf == 0 {
                stop(
                    &"the device tree has a GICv3, but this CPU has no system registers for it: correct the device tree",
                );
            }
            say!("GICv3 initialization:");
            say!("        gic_dist_addr={:016x}", gic.gicd.base());
            for region in &v3.regions {
                say!(
                    "        gic_rdist_addr={:016x} ({:#x} bytes)",
                    region.base(),
                    region.size()
                );
            }
            say!("        gic_maintenance_irq={maintenance}");
            let gicd = map(tables, gic.gicd.base(), GICD_V3_SIZE as usize / PAGE_SIZE);
            let redistributors = redistributors(tables, v3);
            // SAFETY: Mapped just above from the device tree's GIC node, for nobody else.
            let distributor = unsafe { gicv3::Distributor::new(gicd, redistributors) };
            (Distributor::V3(distributor), LocalFrames::V3)
        }
    }
}

/// Maps the redistributors of as many CPUs as there may be.
fn redistributors(tables: &mut HypTables, v3: &GicV3) -> Vec<Redistributor> {
    let mut found = Vec::new();
    v3.for_each_redistributor(&mut |at| {
        if found.len() == MAX_CPUS {
            warn!("GIC: redistributors beyond {MAX_CPUS} are not used");
            return None;
        }
        let own = map(tables, at, 1);
        let sgis = HostPhys::new(at.raw() + u64::from(GICR_SIZE) / 2);
        let sgis = map(tables, sgis, 1);
        // SAFETY: Mapped just above, for nobody else.
        let redistributor = unsafe { Redistributor::new(own, sgis) };
        found.push(redistributor);
        Some(redistributor.kind())
    });
    found
}
