//! Each register of the distributor.

use super::{Machine, Width, vcpu};
use crate::addr::IntId;
use crate::machine::{Fault, Trigger};

#[test]
fn control_type_and_identification() {
    let mut m = Machine::new(8, 4);
    assert_eq!(m.read(0, 0), 0);
    m.write(0, 0, u32::MAX);
    assert_eq!(m.read(3, 0), 1);
    m.write_width(0, 1, Width::Byte, 0xff);
    assert_eq!(
        m.read(0, 0),
        1,
        "a write to another byte does not switch it off"
    );
    assert_eq!(m.read(0, 4), 2 | 7 << 5);
    m.write(0, 4, 0);
    assert_eq!(m.read(0, 4), 2 | 7 << 5);
    assert_eq!(m.read(0, 8), 0x43b);
    assert_eq!(m.read(0, 0xfe8), 0x2b);
    assert_eq!(m.access(0, 0xfe8, Width::Byte), 0x2b);
    assert_eq!(m.read(0, 0xfd0), 0x04);
    assert_eq!(m.read(0, 0xfe0), 0x90);
    let component: Vec<u32> = (0..4).map(|n| m.read(0, 0xff0 + 4 * n)).collect();
    assert_eq!(component, [0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn type_rounds_spis_up() {
    for (nr_spis, lines) in [(0, 0), (1, 1), (32, 1), (33, 2), (960, 30)] {
        let mut vgic = super::Vgic::new(super::VgicConfig {
            version: super::Version::V2,
            vcpus: 1,
            nr_spis,
            lr_count: 4,
        })
        .unwrap();
        let host = super::FakeHost::new(1, 4);
        assert_eq!(
            vgic.mmio_read(vcpu(0), 4, Width::Word, &host),
            Ok((lines, super::super::KickSet::NONE))
        );
    }
    for (vcpus, nr_spis, lr_count) in [(0, 0, 4), (9, 0, 4), (1, 961, 4), (1, 0, 0)] {
        assert!(
            super::Vgic::new(super::VgicConfig {
                version: super::Version::V2,
                vcpus,
                nr_spis,
                lr_count
            })
            .is_err()
        );
    }
}

#[test]
fn enables() {
    let mut m = Machine::new(2, 4);
    assert_eq!(m.read(0, 0x100), 0xffff);
    m.write(0, 0x100, 1 << 27);
    assert_eq!(
        (m.read(0, 0x100), m.read(0, 0x180)),
        (1 << 27 | 0xffff, 1 << 27 | 0xffff)
    );
    assert_eq!(m.read(1, 0x100), 0xffff, "banked");
    m.write(0, 0x180, u32::MAX);
    assert_eq!(m.read(0, 0x100), 0xffff, "SGIs stay enabled");
    m.write(0, 0x104, 0x8000_0001);
    m.write(1, 0x108, 2);
    assert_eq!((m.read(1, 0x104), m.read(0, 0x188)), (0x8000_0001, 2));
    m.write_width(0, 0x187, Width::Byte, 0x80);
    assert_eq!(m.read(1, 0x104), 1);
    m.write(0, 0x10c, u32::MAX);
    assert_eq!(m.read(0, 0x10c), 0, "beyond the last SPI");
}

#[test]
fn priorities() {
    let mut m = Machine::new(2, 4);
    m.write(0, 0x420, 0xa0b0_c0ff);
    assert_eq!(m.read(1, 0x420), 0xa0b0_c0f8);
    m.write_width(0, 0x421, Width::Byte, 0x17);
    assert_eq!(m.read(0, 0x420), 0xa0b0_10f8, "neighbours stay");
    assert_eq!(m.access(0, 0x423, Width::Byte), 0xa0);
    assert_eq!(m.access(0, 0x422, Width::Half), 0xa0b0);
    m.write(0, 0x400, 0x5050_5050);
    assert_eq!(m.read(1, 0x400), 0);
    m.write(0, 0x45c, u32::MAX);
    m.write(0, 0x460, u32::MAX);
    assert_eq!(
        (m.read(0, 0x45c), m.read(0, 0x460)),
        (0xf8f8_f8f8, 0),
        "beyond the last SPI"
    );
}

#[test]
fn targets() {
    let mut m = Machine::new(4, 4);
    assert_eq!(m.read(2, 0x800), 0x0404_0404);
    assert_eq!(m.read(3, 0x81c), 0x0808_0808);
    assert_eq!(m.read(0, 0x820), 0x0101_0101);
    m.write(2, 0x800, 0x0101_0101);
    assert_eq!(m.read(2, 0x800), 0x0404_0404);
    m.write(0, 0x820, 0x0804_02ff);
    assert_eq!(
        m.read(0, 0x820),
        0x0804_020f,
        "CPUs that do not exist are RAZ/WI"
    );
    m.write_width(0, 0x822, Width::Byte, 0x01);
    assert_eq!(m.read(0, 0x820), 0x0801_020f);
    let mut single = Machine::new(1, 4);
    single.write(0, 0x820, 0);
    assert_eq!(single.read(0, 0x820), 0x0101_0101);
}

#[test]
fn xsa_94_configuration() {
    let mut m = Machine::new(1, 4);
    assert_eq!(
        (m.read(0, 0xc00), m.read(0, 0xc04), m.read(0, 0xc08)),
        (0xaaaa_aaaa, 0, 0)
    );
    m.write(0, 0xc00, 0);
    m.write(0, 0xc04, u32::MAX);
    assert_eq!((m.read(0, 0xc00), m.read(0, 0xc04)), (0xaaaa_aaaa, 0));
    m.write(0, 0xc08, 0x0000_0009);
    m.write(0, 0xc0c, u32::MAX);
    assert_eq!((m.read(0, 0xc08), m.read(0, 0xc0c)), (8, 0xaaaa_aaaa));
    m.write_width(0, 0xc0d, Width::Byte, 0x55);
    assert_eq!(m.read(0, 0xc0c), 0xaaaa_00aa);
}

#[test]
fn pending_and_active() {
    let mut m = Machine::new(2, 4);
    m.write(0, 0x204, 0b110);
    assert_eq!((m.read(0, 0x204), m.read(1, 0x284)), (0b110, 0b110));
    m.write(0, 0x284, 0b010);
    assert_eq!(m.read(0, 0x204), 0b100);
    m.write(0, 0x200, u32::MAX);
    assert_eq!(m.read(0, 0x200), 0xffff_0000, "SGIs are not pended here");
    assert_eq!(m.read(1, 0x200), 0);
    m.write(0, 0x280, u32::MAX);
    assert_eq!(m.read(0, 0x200), 0);
    m.write(0, 0x304, 0b1000);
    assert_eq!((m.read(1, 0x304), m.read(1, 0x384)), (0b1000, 0b1000));
    m.write(1, 0x384, 0b1000);
    assert_eq!(m.read(0, 0x304), 0);
    // A level line is pending as long as it is up.
    m.set_line(0, 40, true);
    m.write(0, 0x284, u32::MAX);
    assert_eq!(m.read(0, 0x204), 1 << 8);
    m.set_line(0, 40, false);
    assert_eq!(m.read(0, 0x204), 0);
}

#[test]
fn sgi_pending_registers_name_the_senders() {
    let mut m = Machine::new(4, 4);
    m.write(1, 0xf00, 0b1101 << 16 | 5);
    m.write(3, 0xf00, 0b0001 << 16 | 5);
    assert_eq!(m.read(0, 0xf24), 0b1010 << 8);
    assert_eq!(m.read(0, 0xf14), 0b1010 << 8);
    assert_eq!(m.read(0, 0x200), 1 << 5);
    assert_eq!(
        (m.read(1, 0xf24), m.read(2, 0xf24), m.read(3, 0xf24)),
        (0, 0b10 << 8, 0b10 << 8)
    );
    m.write_width(0, 0xf15, Width::Byte, 0b0010);
    assert_eq!(m.read(0, 0xf24), 0b1000 << 8);
    m.write(0, 0xf20, 0xf4);
    assert_eq!(m.read(0, 0xf20), 0x04, "only CPUs that exist");
    m.write(0, 0xf10, u32::MAX);
    m.write(0, 0xf14, u32::MAX);
    assert_eq!(
        (m.read(0, 0x200), m.read(0, 0xf20), m.read(0, 0xf24)),
        (0, 0, 0)
    );
    // The same for one that is in a list register.
    m.write(0, 0, 1);
    m.write(0, 0xf20, 0x06);
    assert_eq!(m.read(0, 0xf20), 0x06);
    m.write(0, 0xf10, 0x02);
    assert_eq!(m.read(0, 0xf20), 0x04);
    assert_eq!(m.ack(0), Some((0, 2)));
    assert_eq!(m.read(0, 0xf20), 0);
    m.eoi(0, 0);
    assert_eq!(m.ack(0), None);
}

#[test]
fn xsa_117_225_sgir_filters() {
    let mut m = Machine::running(4, 4);
    let pending = |m: &mut Machine| {
        (0..4)
            .filter(|&cpu| m.read(cpu, 0x200) & 1 != 0)
            .collect::<Vec<_>>()
    };
    let clear = |m: &mut Machine| (0..4).for_each(|cpu| m.write(cpu, 0xf10, u32::MAX));
    for (value, expected) in [
        (0x0005_0000, vec![0, 2]),
        (0x00f0_0000, vec![]),
        (0x01ff_0000, vec![0, 2, 3]),
        (0x02ff_0000, vec![1]),
        (0x03ff_0000, vec![]),
        (0xfcff_7ff0, vec![0, 1, 2, 3]),
    ] {
        m.write(1, 0xf00, value);
        assert_eq!(pending(&mut m), expected, "{value:#x}");
        clear(&mut m);
    }
    m.write_width(1, 0xf00, Width::Half, 0);
    assert_eq!(m.read(0, 0xf00), 0, "write-only");
}

#[test]
fn reserved_and_bad_accesses() {
    let mut m = Machine::new(2, 4);
    for offset in [
        0x00c, 0x010, 0x080, 0x084, 0x0fc, 0x7fc, 0xbfc, 0xcfc, 0xd00, 0xe00, 0xf04, 0xf30, 0xf80,
        0xfcc,
    ] {
        m.write(0, offset, u32::MAX);
        assert_eq!(m.read(0, offset), 0, "{offset:#x}");
    }
    let host = &mut m.host;
    for (offset, width) in [
        (2, Width::Word),
        (1, Width::Half),
        (0x1000, Width::Byte),
        (u32::MAX, Width::Byte),
    ] {
        assert_eq!(m.vgic.mmio_read(vcpu(0), offset, width, host), Err(Fault));
        assert_eq!(
            m.vgic.mmio_write(vcpu(0), offset, width, 0, host),
            Err(Fault)
        );
    }
    assert_eq!(m.vgic.mmio_read(vcpu(2), 0, Width::Word, host), Err(Fault));
}

#[test]
fn linked_spis_follow_the_guest() {
    let mut m = Machine::running(1, 4);
    m.vgic
        .link_hw(IntId::new(40), IntId::new(40), Trigger::Edge, &mut m.host)
        .unwrap();
    assert!(
        m.vgic
            .link_hw(IntId::new(40), IntId::new(41), Trigger::Edge, &mut m.host)
            .is_err()
    );
    assert!(
        m.vgic
            .link_hw(IntId::new(96), IntId::new(41), Trigger::Edge, &mut m.host)
            .is_err()
    );
    assert!(
        m.vgic
            .link_hw(IntId::new(3), IntId::new(3), Trigger::Edge, &mut m.host)
            .is_err()
    );
    assert_eq!(m.read(0, 0xc08), 2 << 16);
    m.write(0, 0x104, 1 << 8);
    assert!(m.host.spis[40].enabled);
    m.write(0, 0xc08, 0);
    assert!(!m.host.spis[40].edge);
    m.write(0, 0x184, 1 << 8);
    assert!(!m.host.spis[40].enabled);
    assert_eq!(
        m.vgic.unlink_hw(IntId::new(40), &mut m.host),
        Some(IntId::new(40))
    );
    assert_eq!(m.vgic.unlink_hw(IntId::new(40), &mut m.host), None);
}
