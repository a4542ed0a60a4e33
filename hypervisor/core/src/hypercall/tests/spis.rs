//! Where the SPIs of a domain go.

use crate::addr::{CpuId, IntId, VcpuId};
use crate::fakes::{NoDevices, World};
use crate::machine::Trigger;
use crate::vgic::{KickSet, Width};

const SPI: IntId = IntId::new(40);
const GICD_ISENABLER1: u32 = 0x104;
const GICD_ITARGETSR: u32 = 0x800;

#[test]
fn a_spi_follows_its_vcpu() {
    let world = World::new();
    let domain = &world.dom0.domain;
    let (first, second) = (CpuId::new(0), CpuId::new(1));
    let write = |register: u32, width: Width, value: u32| {
        let mut vgic = domain.vgic.lock();
        let kicks = vgic.mmio_write(VcpuId::new(0), register, width, value, &mut NoDevices);
        let _ = kicks.unwrap();
    };
    // Takes the interrupt on a pCPU, and has the guest end it, as a vCPU does that leaves and comes back.
    let arrives = |here: CpuId| {
        let set = domain.vgic.lock().inject_hw(VcpuId::new(0), SPI).unwrap();
        let better = domain.better_home(set, here);
        write(0x280 + 4, Width::Word, 1 << (SPI.raw() - 32));
        (set.bits(), better)
    };
    domain
        .vgic
        .lock()
        .link_hw(SPI, SPI, Trigger::Edge, &mut NoDevices)
        .unwrap();
    write(GICD_ISENABLER1, Width::Word, 1 << (SPI.raw() - 32));

    assert_eq!(
        arrives(first),
        (1, None),
        "a vCPU that ran nowhere is expected on the boot CPU"
    );
    domain.vcpus[0].load_on(first);
    assert_eq!(arrives(first), (1, None));
    // The vCPU moves; the next interrupt finds that out, and those after it are right.
    domain.vcpus[0].unload();
    domain.vcpus[0].load_on(second);
    assert_eq!(arrives(first), (1, Some(second)));
    assert_eq!(arrives(second), (1, None));
    // A vCPU that sleeps is expected where it was last.
    domain.vcpus[0].unload();
    assert_eq!(arrives(second), (1, None));
    assert_eq!(arrives(first), (1, Some(second)));
    // The guest gives the interrupt to its other vCPU, which is elsewhere.
    domain.vcpus[1].load_on(first);
    let target = GICD_ITARGETSR + u32::from(SPI.raw());
    write(target, Width::Byte, 0b10);
    assert_eq!(arrives(second), (0b10, Some(first)));
    assert_eq!(arrives(first), (0b10, None));
    // To none: it waits, and stays where it is.
    write(target, Width::Byte, 0);
    assert_eq!(arrives(second), (0, None));
    assert_eq!(domain.better_home(KickSet::NONE, second), None);
}
