//! The registers of a GICv3 that a GICv2 does not have, or has elsewhere.

use super::super::lr::Lr;
use super::super::{
    KickSet, Redistributors, Width, from_active_priorities, from_gicv3, to_active_priorities,
    to_gicv3,
};
use super::{GICD_V3_SIZE, GICR_SIZE, Machine, Version, gicr, vcpu};
use crate::addr::{GuestPhys, IntId};
use crate::machine::{Fault, Trigger};

const CTLR: u32 = 0;
const IROUTER: u32 = 0x6000;
const ISENABLER: u32 = 0x100;
const ISPENDR: u32 = 0x200;
const ICACTIVER: u32 = 0x380;

#[test]
fn list_registers_of_both_formats_say_the_same() {
    let irq = IntId::new;
    // IHI 0069H 12.4.11: state 63:62, HW 61, group 60, priority 55:48, physical number 44:32, number 31:0.
    let timer = Lr::new(irq(27), 0x14).with_hw(irq(30));
    assert_eq!(to_gicv3(timer.with_pending().0), 0x70a0_001e_0000_001b);
    assert_eq!(to_gicv3(timer.with_active().0), 0xb0a0_001e_0000_001b);
    // EOI 41.
    let plain = Lr::new(irq(1019), 31).with_pending().with_eoi();
    assert_eq!(to_gicv3(plain.0), 0x50f8_0200_0000_03fb);
    assert_eq!(to_gicv3(plain.with_active().0), 0xd0f8_0200_0000_03fb);
    assert_eq!(to_gicv3(0), 0);
    for lr in [
        timer.with_pending(),
        timer.with_active(),
        plain,
        plain.with_active(),
        Lr::new(irq(5), 0).with_pending(),
        Lr::default(),
    ] {
        assert_eq!(Lr(from_gicv3(to_gicv3(lr.0))), lr);
    }
    // Ended with EOI maintenance asked for.
    assert!(Lr(from_gicv3(0x10f8_0200_0000_03fb)).has_eoi());
}

#[test]
fn pending_state_depends_on_lines_and_nothing_else_does() {
    use super::super::Vgic;
    let sgis = GICD_V3_SIZE + GICR_SIZE + 0x1_0000;
    for (register, depends) in [
        (ISPENDR, true),
        (0x2fc, true),
        (ISENABLER, false),
        (0x1fc, false),
        (0x300, false),
        (IROUTER + ISPENDR, false),
        (sgis + ISPENDR, true),
        (sgis + ICACTIVER, false),
    ] {
        assert_eq!(Vgic::depends_on_lines(register), depends, "{register:#x}");
    }
}

#[test]
fn active_priorities_of_all_widths() {
    let apr = 0x8000_1001;
    assert_eq!(to_active_priorities(apr, 5), [apr, 0, 0, 0]);
    assert_eq!(
        to_active_priorities(apr, 6),
        [0x0100_0001, 0x4000_0000, 0, 0]
    );
    assert_eq!(to_active_priorities(apr, 7), [1, 1 << 16, 0, 1 << 28]);
    for bits in 5..8 {
        for apr in [0, 1, apr, u32::MAX] {
            let there = to_active_priorities(apr, bits);
            assert_eq!(from_active_priorities(there, bits), apr);
        }
    }
}

fn machine(vcpus: usize) -> Machine {
    Machine::of(Version::V3, vcpus, 4)
}

/// One with the distributor on, and SGIs.
fn running(vcpus: usize) -> Machine {
    let mut m = machine(vcpus);
    m.write(0, CTLR, 0x13);
    for cpu in 0..vcpus {
        m.write(cpu, gicr(cpu, ISENABLER), 0xffff);
    }
    m
}

/// A register of a redistributor's own page.
fn own(cpu: usize, offset: u32) -> u32 {
    GICD_V3_SIZE + cpu as u32 * GICR_SIZE + offset
}

fn sgi1r(m: &mut Machine, cpu: usize, value: u64) -> Vec<usize> {
    let sent = m.vgic.send_sgi1r(vcpu(cpu), value).unwrap();
    m.settle();
    sent.iter().map(|vcpu| vcpu.index()).collect()
}

#[test]
fn distributor_has_affinity_routing_only() {
    let mut m = machine(20);
    assert_eq!(m.read(0, CTLR), 0x10);
    m.write(0, CTLR, 0x1);
    assert_eq!(m.read(0, CTLR), 0x10);
    m.write(0, CTLR, 0x2);
    assert_eq!(m.read(0, CTLR), 0x12);
    // 64 SPIs, numbers of ten bits.
    assert_eq!(m.read(0, 4), 2 | 9 << 19 | 1 << 25);
    assert_eq!(m.read(0, 0xffe8) & 0xf0, 0x30);
    // What belongs to redistributors, and what a GICv2 has.
    for register in [
        0x80, 0x100, 0x200, 0x300, 0x400, 0x800, 0x820, 0xc00, 0xc04, 0xf00, 0xf10,
    ] {
        m.write(0, register, u32::MAX);
        assert_eq!(m.read(0, register), 0, "{register:#x}");
    }
    m.write(0, ISENABLER + 4, 6);
    assert_eq!(m.read(0, ISENABLER + 4), 6);
}

#[test]
fn redistributors_say_whose_they_are() {
    let mut m = machine(18);
    for cpu in 0..18 {
        let typer = m.read(3, own(cpu, 8));
        assert_eq!(typer, (cpu as u32) << 8 | u32::from(cpu == 17) << 4);
        assert_eq!(
            m.read(3, own(cpu, 0xc)),
            ((cpu as u32 / 16) << 8) | (cpu as u32 % 16)
        );
        assert_eq!(m.read(3, own(cpu, 0x14)), 0, "awake");
        assert_eq!(m.read(3, own(cpu, 0xffe8)) & 0xf0, 0x30);
    }
    m.write(3, own(3, 0x14), 2);
    assert_eq!(m.read(3, own(3, 0x14)), 0);
    for beyond in [
        own(18, 0),
        own(64, 0),
        own(18, 0) - GICR_SIZE - 4 + GICR_SIZE,
    ] {
        let is_there = beyond < own(18, 0);
        m.host.cpu = 0;
        let read = m.vgic.mmio_read(vcpu(0), beyond, Width::Word, &m.host);
        assert_eq!(read.is_ok(), is_there, "{beyond:#x}");
        let written = m
            .vgic
            .mmio_write(vcpu(0), beyond, Width::Word, 0, &mut m.host);
        assert_eq!(written.is_ok(), is_there);
    }
    assert_eq!(
        m.vgic.mmio_read(vcpu(0), own(1, 6), Width::Word, &m.host),
        Err(Fault)
    );
}

#[test]
fn regions_end_where_they_end() {
    let regions = [
        (GuestPhys::new(0x1000_0000), 0x5_0000),
        (GuestPhys::new(0x2000_0000), 0x1_0000),
        (GuestPhys::new(0x3000_0000), 0x100_0000),
    ];
    let found = Redistributors::new(regions, 5).unwrap();
    let at = |address| found.offset(GuestPhys::new(address));
    assert_eq!(at(0x1000_0000), Some(own(0, 0)));
    assert_eq!(at(0x1003_fffc), Some(own(1, 0x1_fffc)));
    assert_eq!(at(0x1004_0000), None);
    assert_eq!(at(0x2000_0000), None);
    assert_eq!(at(0x3000_0008), Some(own(2, 8)));
    assert_eq!(at(0x3005_fffc), Some(own(4, 0x1_fffc)));
    assert_eq!(at(0x3006_0000), None);
    assert_eq!(at(0xfff_ffff), None);
    assert_eq!(found.regions().count(), 2);
    let mut m = machine(5);
    m.vgic.set_regions(&found);
    let last: Vec<bool> = (0..5)
        .map(|cpu| m.read(0, own(cpu, 8)) & 0x10 != 0)
        .collect();
    assert_eq!(last, [false, true, false, false, true]);
    assert!(Redistributors::new(regions, 200).is_err());
    assert_eq!(Redistributors::new([], 0), Ok(Redistributors::default()));
}

#[test]
fn spis_go_where_they_are_routed() {
    let mut m = running(20);
    m.write(0, ISENABLER + 4, 1 << 8);
    let route = IROUTER + 8 * 40;
    assert_eq!(m.read(0, route), 0);
    m.write(0, route, 0x103);
    assert_eq!((m.read(0, route), m.read(0, route + 4)), (0x103, 0));
    m.set_pending(0, 40);
    assert_eq!(m.ack(0), None);
    assert_eq!(m.ack(19), Some((40, 0)));
    m.eoi(19, 40);
    // Nobody, and parts of an affinity.
    for nobody in [0x104, 0x10, 0x2_0000, 0x200] {
        m.write(0, route, nobody);
        m.set_pending(0, 40);
        assert!((0..20).all(|cpu| m.ack(cpu).is_none()), "{nobody:#x}");
        m.write(0, route, 1);
        assert_eq!(m.ack(1), Some((40, 0)));
        m.eoi(1, 40);
    }
    m.write_width(0, route, Width::Byte, 2);
    m.write(0, route + 4, 5);
    assert_eq!((m.read(0, route), m.read(0, route + 4)), (1, 0));
    // SGIs, PPIs and what is behind the last have no route.
    for irq in [0, 31, 96, 1023] {
        m.write(0, IROUTER + 8 * irq, 3);
        assert_eq!(m.read(0, IROUTER + 8 * irq), 0);
    }
}

#[test]
fn sgis_go_to_the_affinity_that_is_named() {
    let mut m = running(20);
    assert_eq!(sgi1r(&mut m, 0, 3 << 24 | 0b1001), [0, 3]);
    assert_eq!(m.ack(0), Some((3, 0)));
    assert_eq!(m.ack(3), Some((3, 0)));
    assert_eq!(sgi1r(&mut m, 1, 4 << 24 | 1 << 16 | 0b1_0100), [18]);
    assert_eq!(m.ack(18), Some((4, 0)));
    let others: Vec<usize> = (0..20).filter(|&cpu| cpu != 5).collect();
    assert_eq!(sgi1r(&mut m, 5, 15 << 24 | 1 << 40), others);
    assert_eq!(m.ack(5), None);
    // Affinities and ranges that no vCPU has.
    for nobody in [1 << 32, 1 << 48, 1 << 44, 2 << 16, 0xff << 16] {
        assert_eq!(sgi1r(&mut m, 0, nobody | 0xffff), [0; 0], "{nobody:#x}");
    }
    let mut v2 = Machine::running(2, 4);
    assert_eq!(v2.vgic.send_sgi1r(vcpu(0), 0xffff), None);
    assert_eq!(m.vgic.send_sgi1r(vcpu(20), 0xffff), None);
}

#[test]
fn sgis_can_be_off_and_pended_by_a_register() {
    let mut m = machine(2);
    m.write(0, CTLR, 2);
    assert_eq!(m.read(0, gicr(0, ISENABLER)), 0);
    assert_eq!(sgi1r(&mut m, 0, 7 << 24 | 1), [0; 0]);
    assert_eq!((m.ack(0), m.read(0, gicr(0, ISPENDR))), (None, 1 << 7));
    m.write(0, gicr(0, ISENABLER), 1 << 7);
    assert_eq!(m.ack(0), Some((7, 0)));
    m.eoi(0, 7);
    // By the other vCPU, and taken back.
    m.write(1, gicr(0, ISPENDR), 1 << 7);
    assert_eq!(m.read(1, gicr(0, ISPENDR)), 1 << 7);
    m.write(1, gicr(0, ISPENDR + 0x80), 1 << 7);
    assert_eq!((m.ack(0), m.read(0, gicr(0, ISPENDR))), (None, 0));
}

#[test]
fn a_vcpu_reaches_the_private_interrupts_of_another() {
    let mut m = running(2);
    m.write(0, gicr(1, ISENABLER), 1 << 20);
    m.write_width(0, gicr(1, 0x400 + 20), Width::Byte, 0x48);
    assert_eq!(m.read(1, gicr(1, ISENABLER)), 0x10_ffff);
    assert_eq!(m.read(0, gicr(0, ISENABLER)), 0xffff);
    assert_eq!(m.read(1, gicr(1, 0x414)), 0x48);
    m.set_pending(1, 20);
    assert_eq!(m.read(0, gicr(1, ISPENDR)), 1 << 20);
    assert_eq!(m.ack(1), Some((20, 0)));
    // What is in a list register is seen when its vCPU has looked.
    let read = |m: &mut Machine| {
        m.host.cpu = 0;
        m.vgic
            .mmio_read(vcpu(0), gicr(1, 0x300), Width::Word, &m.host)
    };
    let (_, asked) = read(&mut m).unwrap();
    assert!(asked.contains(vcpu(1)));
    m.settle();
    assert_eq!(read(&mut m).unwrap().0, 1 << 20);
}

/// The physical timer's interrupt of another pCPU cannot be deactivated from here, and stays as it is.
#[test]
fn a_linked_ppi_of_another_vcpu_stays_active() {
    let mut m = running(2);
    let timer = IntId::new(27);
    m.vgic
        .link_hw(timer, timer, Trigger::Level, &mut m.host)
        .unwrap();
    for ppis in &mut m.host.ppis {
        (ppis[27].linked, ppis[27].virq, ppis[27].enabled) = (true, 27, true);
    }
    m.write(1, gicr(1, ISENABLER), 1 << 27);
    m.host.ppis[1][27].line = true;
    m.settle();
    assert_eq!(m.ack(1), Some((27, 0)));
    assert!(m.host.ppis[1][27].active);
    m.write(0, gicr(1, ICACTIVER), 1 << 27);
    assert!(m.host.ppis[1][27].active);
    m.host.ppis[1][27].line = false;
    m.eoi(1, 27);
    assert!(!m.host.ppis[1][27].active);
    assert_eq!(m.host.lost_eois, 0);
}

#[test]
fn a_cpu_that_is_switched_on_has_no_sgis() {
    let mut m = running(2);
    m.host.cpu = 1;
    m.save(1);
    assert_eq!(m.vgic.reset_vcpu(vcpu(1), &mut m.host), KickSet::NONE);
    m.restore(1);
    assert_eq!(m.read(1, gicr(1, ISENABLER)), 0);
    assert_eq!(m.read(0, gicr(0, ISENABLER)), 0xffff);
}
