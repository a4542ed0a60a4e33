//! Tests of what trees say of the interrupt controller.

use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::fdt::host::HostInfo;
use crate::fdt::tree::tests::Blob;

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

/// The maintenance interrupt of all here.
const MAINTENANCE: Interrupt = Interrupt {
    intid: IntId::new(25),
    trigger: Trigger::Level,
};

#[test]
fn a_gic_without_virtualization_is_named() {
    let error =
        HostInfo::from_tree(&Tree::new(fixture!("qemu-virt-novirt.dtb")).unwrap()).unwrap_err();
    assert_eq!(error, HostError::NoGicVirtualization);
    let text = error.to_string();
    assert!(
        text.starts_with("no GIC virtualization registers") && text.contains("virtualization=on"),
        "{text}"
    );
}

/// As in stm32mp151.dtsi of Linux 6.1; the numbers expected are of RM0436 (GICH 0xA0024000, GICV 0xA0026000, and the
/// maintenance interrupt is PPI 9).
#[test]
fn gic_without_all_ranges_in_the_layout_of_the_core() {
    let tree = |gicd: u32, gicc: u32| {
        let blob = Blob::new()
            .open("intc")
            .text("compatible", "arm,cortex-a7-gic")
            .prop("interrupt-controller", &[])
            .cells("#interrupt-cells", &[3]);
        blob.cells("reg", &[0, gicd, 0x1000, 0, gicc, 0x2000])
            .close()
            .finish()
    };
    let gic_of = |gicd, gicc| {
        let blob = tree(gicd, gicc);
        let tree = Tree::new(&blob).unwrap();
        let found = gic(&tree, &IrqResolver::new(&tree))?;
        let GicKind::V2(v2) = found.kind else {
            panic!("{found:?}");
        };
        Ok((v2.gich.base(), v2.gicv, found.maintenance))
    };
    assert_eq!(
        gic_of(0xa002_1000, 0xa002_2000),
        Ok((
            HostPhys::new(0xa002_4000),
            range(0xa002_6000, 0x2000),
            MAINTENANCE
        ))
    );
    for (gicd, gicc) in [
        (0xa002_1000, 0xa002_3000),
        (0xa002_2000, 0xa002_3000),
        (0, 0x1000),
        (0x800_0000, 0x801_0000),
    ] {
        assert_eq!(
            gic_of(gicd, gicc),
            Err(HostError::NoGicVirtualization),
            "{gicd:#x}"
        );
    }
}

#[test]
fn gicv3_of_qemu() {
    if !HAS_V3 {
        return;
    }
    let tree = Tree::new(fixture!("qemu-virt-gicv3.dtb")).unwrap();
    let gic = HostInfo::from_tree(&tree).unwrap().gic;
    assert_eq!(gic.compatible.first(), "arm,gic-v3");
    assert_eq!(gic.gicd, range(0x800_0000, 0x1_0000));
    assert_eq!(gic.maintenance, MAINTENANCE);
    let regions = vec![range(0x80a_0000, 0xf6_0000)];
    let kind = GicKind::V3(GicV3 {
        regions,
        stride: None,
    });
    assert_eq!(gic.kind, kind);
    assert_eq!(gic.registers().len(), 2);
}

#[test]
fn gicv3_with_more_regions() {
    if !HAS_V3 {
        return;
    }
    let blob = |regions: u32, stride: &[u32]| {
        let blob = Blob::new()
            .cells("interrupt-parent", &[1])
            .open("intc")
            .text("compatible", "arm,gic-v3")
            .prop("interrupt-controller", &[])
            .cells("phandle", &[1])
            .cells("#redistributor-regions", &[regions])
            .cells("#interrupt-cells", &[4])
            .cells("interrupts", &[1, 9, 4, 0]);
        let blob = if stride.is_empty() {
            blob
        } else {
            blob.cells("redistributor-stride", stride)
        };
        let reg = [
            [0, 0x2f00_0000, 0x1_0000],
            [0, 0x2f10_0000, 0x4_0000],
            [0, 0x2f20_0000, 0x4_0000],
            // GICC.
            [0, 0x2c00_0000, 0x2000],
        ];
        blob.cells("reg", &reg.concat()).close().finish()
    };
    let kind = |regions, stride: &[u32]| {
        let blob = blob(regions, stride);
        let tree = Tree::new(&blob).unwrap();
        match gic(&tree, &IrqResolver::new(&tree))?.kind {
            GicKind::V3(v3) => Ok((v3.regions.len(), v3.stride)),
            GicKind::V2(_) => panic!("a GICv2"),
        }
    };
    assert_eq!(kind(2, &[]), Ok((2, None)));
    assert_eq!(kind(2, &[0, 0x4_0000]), Ok((2, Some(0x4_0000))));
    assert_eq!(kind(1, &[0x2_0000]), Ok((1, Some(0x2_0000))));
    for bad in [&[0, 0x1_0000][..], &[0, 0x2_8000], &[0]] {
        assert_eq!(kind(1, bad), Err(HostError::GicStride), "{bad:x?}");
    }
    // The CPU interface is no redistributor, and there is nothing behind it.
    assert_eq!(kind(3, &[]), Err(HostError::GicFrame("GICR", 0x2_0000)));
    assert!(matches!(
        kind(u32::MAX, &[]),
        Err(HostError::GicFrame("GICR", _))
    ));
}

#[test]
fn gic_frames_must_be_whole_pages() {
    let least = 0x2000;
    assert!(frame(range(0x8000_0000, 0x2000), "GICV", least).is_ok());
    for bad in [
        range(0x8000_0000, 0x1000),
        range(0x8000_0010, 0x2000),
        range(0x8000_0000, 0),
    ] {
        let error = frame(bad, "GICV", least).unwrap_err();
        assert_eq!(error, HostError::GicFrame("GICV", least));
        assert!(error.to_string().contains("GICV") && error.to_string().contains("reg"));
    }
}

#[test]
fn redistributors_follow_each_other_until_the_last() {
    const LAST: u64 = 1 << 4;
    // Where they are found, given which addresses say what of themselves.
    let found = |stride, most: usize, kinds: &[(u64, u64)]| {
        let v3 = GicV3 {
            regions: vec![range(0x100_0000, 0xa_0000), range(0x200_0000, 0x4_0000)],
            stride,
        };
        let mut at = Vec::new();
        v3.for_each_redistributor(&mut |own| {
            if at.len() == most {
                return None;
            }
            at.push(own.raw());
            let kind = kinds.iter().find(|(there, _)| *there == own.raw());
            Some(kind.map_or(0, |(_, kind)| *kind))
        });
        at
    };
    // As far as the regions reach.
    let all = [
        0x100_0000, 0x102_0000, 0x104_0000, 0x106_0000, 0x108_0000, 0x200_0000, 0x202_0000,
    ];
    assert_eq!(found(None, 99, &[]), all);
    assert_eq!(found(None, 3, &[]), all[..3]);
    // The last one of its region.
    assert_eq!(
        found(None, 99, &[(0x102_0000, LAST)]),
        [0x100_0000, 0x102_0000, 0x200_0000, 0x202_0000]
    );
    // Larger ones, as they say or as the tree says; what has no room is none.
    assert_eq!(
        found(None, 99, &[(0x100_0000, 2), (0x104_0000, LAST)])[..3],
        [0x100_0000, 0x104_0000, 0x200_0000]
    );
    assert_eq!(
        found(Some(0x8_0000), 99, &[]),
        [0x100_0000, 0x108_0000, 0x200_0000]
    );
    assert_eq!(found(Some(u64::MAX), 99, &[]), [0x100_0000, 0x200_0000]);
}
