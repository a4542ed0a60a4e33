//! Domains of a machine with a GICv3.

use xen_abi::control::*;
use xen_abi::guest::{GUEST_GICC_BASE, GUEST_GICD_BASE, GUEST_GICV3_GICR0_BASE};

use super::domctl::domctl;
use super::errno::*;
use super::life::{create, creation};
use crate::addr::{DomId, GuestPhys, VcpuId};
use crate::fakes::{NoDevices, Size, World};
use crate::hal::Hal;
use crate::hypervisor::XEN_4_17;
use crate::vgic::{GICD_V3_SIZE, GICR_SIZE, Width};

fn world() -> World {
    World::with_gicv(Size::TESTS, XEN_4_17, None)
}

#[test]
fn a_domain_has_the_machines_gicv3() {
    let world = world();
    let (result, id, made) = create(&world.dom0, 0);
    assert_eq!(
        (result, made.arch.gic_version),
        (0, XEN_DOMCTL_CONFIG_GIC_V3)
    );
    let domain = world.hv.domains.get(DomId::new(id)).unwrap();
    let at = |address| domain.facts.gic_register(GuestPhys::new(address));
    assert_eq!(at(GUEST_GICD_BASE), Some(0));
    assert_eq!(at(GUEST_GICD_BASE - 1), None);
    let end = GUEST_GICD_BASE + u64::from(GICD_V3_SIZE);
    assert_eq!((at(end - 4), at(end)), (Some(GICD_V3_SIZE - 4), None));
    assert_eq!(at(GUEST_GICV3_GICR0_BASE), Some(GICD_V3_SIZE));
    let end = GUEST_GICV3_GICR0_BASE + 2 * u64::from(GICR_SIZE);
    assert_eq!(at(end - 4), Some(GICD_V3_SIZE + 2 * GICR_SIZE - 4));
    assert_eq!(at(end), None);
    let read = domain
        .vgic
        .lock()
        .mmio_read(VcpuId::new(0), 0, Width::Word, &NoDevices);
    assert_eq!(read.map(|(value, _)| value), Ok(0x10));
    // A GICv2 has a page, and nothing elsewhere.
    let dom1 = &World::new().dom1.domain.clone();
    let at = |address| dom1.facts.gic_register(GuestPhys::new(address));
    let base = dom1.facts.gicd.raw();
    assert_eq!((at(base + 0xffc), at(base + 0x1000)), (Some(0xffc), None));
    assert_eq!(at(GUEST_GICV3_GICR0_BASE), None);
    // There is no CPU interface in memory.
    let memory = world.hv.hal.p2m_memory(domain.vttbr);
    let gicc = GuestPhys::new(GUEST_GICC_BASE).frame().unwrap();
    assert!(domain.p2m.lock().lookup(&memory, gicc).is_none());
}

#[test]
fn only_the_machines_version_can_be_had_and_64_vcpus() {
    let world = world();
    let asked = |version, vcpus| {
        let mut wanted = creation();
        wanted.arch.gic_version = version;
        wanted.max_vcpus = vcpus;
        domctl(&world.dom0, XEN_DOMCTL_CREATEDOMAIN, 0, wanted).0
    };
    assert_eq!(asked(XEN_DOMCTL_CONFIG_GIC_V2, 1), EINVAL);
    assert_eq!(asked(XEN_DOMCTL_CONFIG_GIC_V3, 65), EINVAL);
    assert_eq!(asked(XEN_DOMCTL_CONFIG_GIC_V3, 64), 0);
    assert_eq!(asked(XEN_DOMCTL_CONFIG_GIC_NATIVE, 9), 0);
}
