//! domctl on devices of the machine: permission, memory, interrupts.

use xen_abi::control::*;

use super::NO_DOMAIN;
use super::domctl::{domctl, simple};
use super::errno::*;
use crate::addr::{DomId, Gfn, IntId, Mfn, VcpuId};
use crate::fakes::{NoDevices, World};
use crate::frames::Owner;
use crate::hal::Hal;
use crate::machine::Trigger;
use crate::stage2::PageType;
use crate::vgic::Width;

/// A device of dom0's: frames and interrupt.
const DEVICE: u64 = 0x9010;
const FRAMES: u32 = 80;
const IRQ: u32 = 34;
/// Interrupts that no domain's controller has, and the second one no machine's.
const BEYOND: [u32; 2] = [70, 100];

fn world() -> World {
    let world = World::new();
    let mut devices = world.dom0.domain.devices.lock();
    devices
        .permit_memory(Mfn::new(DEVICE as u32), FRAMES)
        .unwrap();
    devices
        .permit_interrupt(IntId::new(IRQ as u16), Trigger::Edge)
        .unwrap();
    for irq in BEYOND {
        devices
            .permit_interrupt(IntId::new(irq as u16), Trigger::Level)
            .unwrap();
    }
    drop(devices);
    world
}

fn permit(world: &World, domain: u16, first: u64, count: u64, allow: bool) -> i64 {
    let wanted = DomctlIomemPermission {
        first_mfn: first,
        nr_mfns: count,
        allow_access: allow.into(),
        _pad: [0; 7],
    };
    domctl(&world.dom0, XEN_DOMCTL_IOMEM_PERMISSION, domain, wanted).0
}

fn map(world: &World, gfn: u64, first: u64, count: u64, add: u32) -> i64 {
    let wanted = DomctlMemoryMapping {
        first_gfn: gfn,
        first_mfn: first,
        nr_mfns: count,
        add_mapping: add,
        padding: 0,
    };
    domctl(&world.dom0, XEN_DOMCTL_MEMORY_MAPPING, 1, wanted).0
}

fn permit_irq(world: &World, domain: u16, pirq: u32, allow: bool) -> i64 {
    let wanted = DomctlIrqPermission {
        pirq,
        allow_access: allow.into(),
        pad: [0; 3],
    };
    domctl(&world.dom0, XEN_DOMCTL_IRQ_PERMISSION, domain, wanted).0
}

fn bind(world: &World, command: u32, domain: u16, machine_irq: u32, kind: u32, spi: u16) -> i64 {
    let wanted = DomctlBindPtIrq {
        machine_irq,
        irq_type: kind,
        spi,
        _pad: [0; 7],
    };
    domctl(&world.dom0, command, domain, wanted).0
}

#[test]
fn device_memory_goes_to_who_may_have_it() {
    let world = world();
    let lookup = |gfn: u32| {
        let domain = &world.dom1.domain;
        let memory = world.dom0.hv.hal.p2m_memory(domain.vttbr);
        let mapping = domain.p2m.lock().lookup(&memory, Gfn::new(gfn));
        mapping.map(|mapping| (mapping.mfn.raw(), mapping.ty))
    };
    // Not without permission, and only dom0's own can be permitted.
    assert_eq!(map(&world, 0x9000, DEVICE, 2, DPCI_ADD_MAPPING), EPERM);
    assert_eq!(permit(&world, 1, DEVICE - 1, 2, true), EPERM);
    assert_eq!(permit(&world, 1, DEVICE, FRAMES as u64 + 1, true), EPERM);
    for (first, count) in [(DEVICE, 0), (u64::MAX, 1), (u64::MAX, 2), (1 << 32, 1)] {
        assert_eq!(permit(&world, 1, first, count, true), EINVAL);
        assert_eq!(map(&world, 0x9000, first, count, 1), EINVAL);
    }
    assert_eq!(map(&world, u64::MAX, DEVICE, 1, 1), EINVAL);
    assert_eq!(map(&world, u32::MAX.into(), DEVICE, 2, 1), EINVAL);
    assert_eq!(permit(&world, NO_DOMAIN, DEVICE, 1, true), ESRCH);

    assert_eq!(permit(&world, 1, DEVICE, FRAMES.into(), true), 0);
    assert_eq!(
        map(&world, 0x9000, DEVICE, 65, DPCI_ADD_MAPPING),
        E2BIG,
        "so much takes long"
    );
    assert_eq!(map(&world, 0x9000, DEVICE, 2, DPCI_ADD_MAPPING), 0);
    assert_eq!(
        [lookup(0x9000), lookup(0x9001), lookup(0x9002)],
        [
            Some((0x9010, PageType::MmioDirectDev)),
            Some((0x9011, PageType::MmioDirectDev)),
            None
        ]
    );
    // What is no device stays: RAM of the domain's own.
    let ram = u64::from(crate::fakes::RAM);
    assert_eq!(map(&world, ram, DEVICE, 1, DPCI_REMOVE_MAPPING), EINVAL);
    assert!(lookup(crate::fakes::RAM).unwrap().1.is_ram());
    assert_eq!(map(&world, 0x9000, DEVICE, 2, DPCI_REMOVE_MAPPING), 0);
    assert_eq!(lookup(0x9000), None);

    assert_eq!(permit(&world, 1, DEVICE, 1, false), 0);
    assert_eq!(map(&world, 0x9000, DEVICE, 2, DPCI_ADD_MAPPING), EPERM);
    assert_eq!(map(&world, 0x9000, DEVICE + 1, 2, DPCI_ADD_MAPPING), 0);
    // Nor without permission of who maps it, whatever the domain may have.
    let own = Mfn::new(0xa000);
    let target = &world.dom1.domain;
    target.devices.lock().permit_memory(own, 1).unwrap();
    let first = own.raw().into();
    assert_eq!(map(&world, 0xa000, first, 1, DPCI_ADD_MAPPING), EPERM);
    // RAM is no device, whoever says so.
    let mut devices = world.dom0.domain.devices.lock();
    devices
        .permit_memory(Mfn::new(crate::fakes::RAM), 1)
        .unwrap();
    drop(devices);
    assert_eq!(permit(&world, 1, ram, 1, true), 0);
    assert_eq!(map(&world, 0x9000, ram, 1, DPCI_ADD_MAPPING), EINVAL);
}

#[test]
fn an_interrupt_has_one_owner() {
    let world = world();
    let (irq, spi) = (IRQ, IRQ as u16);
    let bind_it = |domain| {
        bind(
            &world,
            XEN_DOMCTL_BIND_PT_IRQ,
            domain,
            irq,
            PT_IRQ_TYPE_SPI,
            spi,
        )
    };
    let unbind = |domain| {
        bind(
            &world,
            XEN_DOMCTL_UNBIND_PT_IRQ,
            domain,
            irq,
            PT_IRQ_TYPE_SPI,
            spi,
        )
    };
    assert_eq!(permit_irq(&world, 1, irq + 1, true), EPERM);
    assert_eq!(permit_irq(&world, 1, 1020, true), EINVAL);
    assert_eq!(permit_irq(&world, 1, u32::MAX, true), EINVAL);
    assert_eq!(permit_irq(&world, 1, irq, true), 0);
    let trigger = world.dom1.domain.devices.lock().interrupt(IntId::new(spi));
    assert_eq!(trigger, Some(Trigger::Edge));
    assert_eq!(permit_irq(&world, 1, irq, false), 0);
    let trigger = world.dom1.domain.devices.lock().interrupt(IntId::new(spi));
    assert_eq!(trigger, None);

    let command = XEN_DOMCTL_BIND_PT_IRQ;
    assert_eq!(bind(&world, command, 1, irq, 1, spi), EOPNOTSUPP);
    assert_eq!(bind(&world, command, 1, irq, PT_IRQ_TYPE_SPI, 35), EINVAL);
    assert_eq!(bind(&world, command, 1, 35, PT_IRQ_TYPE_SPI, 35), EPERM);
    assert_eq!(unbind(1), EINVAL);
    assert_eq!(bind_it(1), 0);
    assert_eq!((bind_it(1), bind_it(2)), (EBUSY, EBUSY));
    assert_eq!(unbind(2), EINVAL);
    // It has arrived, and the guest has not ended it: the machine's would stay active.
    let domain = &world.dom1.domain;
    let _ = domain
        .vgic
        .lock()
        .inject_hw(VcpuId::new(0), IntId::new(spi));
    assert_eq!(unbind(1), EBUSY);
    // The guest clears it (GICD_ICPENDR1).
    let bit = 1 << (irq - 32);
    let mut vgic = domain.vgic.lock();
    let done = vgic.mmio_write(VcpuId::new(0), 0x284, Width::Word, bit, &mut NoDevices);
    assert!(done.is_ok());
    drop(vgic);
    assert_eq!(unbind(1), 0);
    assert_eq!(bind_it(2), 0);
    let owner = || world.dom0.hv.interrupts.owner(IntId::new(spi));
    assert_eq!(owner().map(|domain| domain.facts.id), Some(DomId::new(2)));
    // It goes with its domain.
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, 2), 0);
    assert!(owner().is_none());
    assert_eq!(bind_it(1), 0);
    // What cannot be given stays nobody's.
    for irq in BEYOND {
        let spi = irq as u16;
        assert_eq!(bind(&world, command, 1, irq, PT_IRQ_TYPE_SPI, spi), EINVAL);
        assert!(world.dom0.hv.interrupts.owner(IntId::new(spi)).is_none());
    }
}

/// A domain that dies gets nothing any more.
#[test]
fn the_dying_get_nothing() {
    let world = world();
    assert_eq!(permit(&world, 2, DEVICE, 1, true), 0);
    // Somebody holds a page of it, so it does not go.
    let hv = &world.dom0.hv;
    let memory = hv.hal.p2m_memory(world.dom2.domain.vttbr);
    let ram = Gfn::new(crate::fakes::RAM);
    let held = world.dom2.domain.p2m.lock().lookup(&memory, ram).unwrap();
    let owner = Owner::Domain(DomId::new(2));
    hv.frames.get(held.mfn, owner).unwrap();
    assert_eq!(simple(&world.dom0, XEN_DOMCTL_DESTROYDOMAIN, 2), 0);
    let spi = IRQ as u16;
    let bound = bind(&world, XEN_DOMCTL_BIND_PT_IRQ, 2, IRQ, PT_IRQ_TYPE_SPI, spi);
    assert_eq!(bound, EINVAL);
    assert!(world.dom0.hv.interrupts.owner(IntId::new(spi)).is_none());
    let wanted = DomctlMemoryMapping {
        first_gfn: 0x9000,
        first_mfn: DEVICE,
        nr_mfns: 1,
        add_mapping: DPCI_ADD_MAPPING,
        padding: 0,
    };
    assert_eq!(
        domctl(&world.dom0, XEN_DOMCTL_MEMORY_MAPPING, 2, wanted).0,
        EINVAL
    );
    hv.put_frame(held.mfn);
}
