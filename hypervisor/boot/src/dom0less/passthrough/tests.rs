//! Tests of what a partial device tree gives.

use super::*;
use crate::fdt::tree::tests::Blob;
use xenith_core::machine::Trigger;

const PARTIAL: &[u8] = include_bytes!("../../../../../tests/fixtures/partial.dtb");
const HOST: &[u8] = include_bytes!("../../../../../tests/fixtures/virt-highmem-on.dtb");

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

const CLOSED: [PhysRange; 2] = [
    PhysRange::from_start_end(0x4000_0000, 0x8000_0000),
    PhysRange::from_size(0x0800_0000, 0x1000),
];
const OCCUPIED: [PhysRange; 2] = [
    PhysRange::from_size(0x4000_0000, 0x400_0000),
    PhysRange::from_size(0x0300_1000, 0x1000),
];

const LIMITS: Limits<'_> = Limits {
    closed: &CLOSED,
    occupied: &OCCUPIED,
    lines: 288,
    has_dom0: false,
};

fn try_resolve(partial: &[u8], limits: &Limits<'_>) -> Result<Passthrough, PassthroughFault> {
    let (partial, host) = (Tree::new(partial).unwrap(), Tree::new(HOST).unwrap());
    let irqs = IrqResolver::new(&host);
    resolve(&partial, &host, &irqs, limits).map_err(|error| {
        assert!(!error.to_string().is_empty());
        error.kind
    })
}

#[test]
fn the_fixture_gives_two_devices() {
    let found = try_resolve(PARTIAL, &LIMITS).unwrap();
    let same = |base| Window {
        host: range(base, 0x1000),
        guest: range(base, 0x1000),
    };
    assert_eq!(found.windows, [same(0x901_0000), same(0xa00_3000)]);
    let spis: Vec<_> = found
        .spis
        .iter()
        .map(|spi| (spi.intid.raw(), spi.trigger))
        .collect();
    assert_eq!(spis, [(34, Trigger::Level), (79, Trigger::Edge)]);
    assert_eq!(found.spi_count(), 48);
    assert_eq!(Passthrough::default().spi_count(), 0);
    // The host's tree does not take them from dom0.
    let with_dom0 = Limits {
        has_dom0: true,
        ..LIMITS
    };
    assert_eq!(
        try_resolve(PARTIAL, &with_dom0),
        Err(PassthroughFault::Dom0Has)
    );
    let few = Limits {
        lines: 64,
        ..LIMITS
    };
    assert_eq!(
        try_resolve(PARTIAL, &few),
        Err(PassthroughFault::BadInterrupt(79))
    );
    // Nothing asked for, nothing given.
    assert_eq!(
        try_resolve(&Blob::new().finish(), &LIMITS),
        Ok(Passthrough::default())
    );
}

/// A device whose parent counts 1/1.
fn device(change: impl Fn(Blob) -> Blob) -> Result<Passthrough, PassthroughFault> {
    let blob = Blob::new()
        .open("passthrough")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .open("device");
    try_resolve(&change(blob).close().close().finish(), &LIMITS)
}

#[test]
fn what_cannot_be_given_is_refused() {
    let reg = |cells: &'static [u32]| {
        device(move |b| b.cells("xen,reg", cells)).map(|found| found.windows.len())
    };
    assert_eq!(reg(&[0x900_0000, 0x1000, 0x900_0000]), Ok(1));
    assert_eq!(
        reg(&[
            0x900_0000, 0x1000, 0x900_0000, 0x900_0000, 0x1000, 0x900_0000
        ]),
        Ok(1)
    );
    assert_eq!(
        reg(&[
            0x900_0000, 0x1000, 0x900_0000, 0x901_0000, 0x1000, 0x901_0000
        ]),
        Ok(2)
    );
    use PassthroughFault::*;
    for (cells, error) in [
        (&[0x900_0000, 0x1000][..], BadReg),
        (&[0x900_0000, 0, 0x900_0000], BadReg),
        (
            &[0x900_0800, 0x1000, 0x900_0000],
            Misaligned(range(0x900_0800, 0x1000)),
        ),
        (
            &[0x900_0000, 0x1000, 0x900_0001],
            Misaligned(range(0x900_0001, 0x1000)),
        ),
        (
            &[0x4100_0000, 0x1000, 0x900_0000],
            HostInUse(range(0x4100_0000, 0x1000)),
        ),
        (
            &[0x7ff_f000, 0x2000, 0x900_0000],
            HostInUse(range(0x7ff_f000, 0x2000)),
        ),
        (
            &[0x900_0000, 0x1000, 0x4100_0000],
            GuestInUse(range(0x4100_0000, 0x1000)),
        ),
        (
            &[0x900_0000, 0x1000, 0x300_1000],
            GuestInUse(range(0x300_1000, 0x1000)),
        ),
        (
            &[
                0x900_0000, 0x1000, 0x900_0000, 0x901_0000, 0x1000, 0x900_0000,
            ],
            GuestInUse(range(0x900_0000, 0x1000)),
        ),
    ] {
        assert_eq!(reg(cells), Err(error), "{cells:x?}");
    }
    let path = |path: &'static str| {
        device(move |b| {
            b.text("xen,path", path)
                .prop("xen,force-assign-without-iommu", &[])
        })
    };
    assert_eq!(path("/pl031@9010000").map(|found| found.spis.len()), Ok(1));
    assert_eq!(path("/nothing"), Err(NoSuchDevice));
    assert_eq!(path("/"), Err(NoSuchDevice));
    assert_eq!(
        device(|b| b.text("xen,path", "/pl031@9010000")),
        Err(NoIommu)
    );
    // The timer has PPIs.
    assert_eq!(path("/timer"), Err(BadInterrupt(29)));
    // No cells at all.
    let blob = Blob::new()
        .open("passthrough")
        .cells("#address-cells", &[0])
        .cells("#size-cells", &[0])
        .open("device")
        .cells("xen,reg", &[1])
        .close()
        .close();
    assert_eq!(try_resolve(&blob.finish(), &LIMITS), Err(BadReg));
}

#[test]
fn random_partial_trees_give_nothing_of_others() {
    let mut state = 0x0123_4567_89ab_cdefu64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    let host = Tree::new(HOST).unwrap();
    let mut given = 0;
    for _ in 0..20_000 {
        let mut blob = PARTIAL.to_vec();
        for _ in 0..1 + next(4) {
            let at = 0x38 + next(blob.len() - 0x38);
            blob[at] ^= 1 << next(8);
        }
        let Ok(partial) = Tree::new(&blob) else {
            continue;
        };
        let irqs = IrqResolver::new(&host);
        let Ok(found) = resolve(&partial, &host, &irqs, &LIMITS) else {
            continue;
        };
        given += found.windows.len();
        for window in &found.windows {
            assert_eq!(window.host.size(), window.guest.size());
            assert!(!CLOSED.iter().any(|closed| closed.overlaps(&window.host)));
            assert!(!OCCUPIED.iter().any(|taken| taken.overlaps(&window.guest)));
        }
        assert!(
            found
                .spis
                .iter()
                .all(|spi| (32..288).contains(&spi.intid.raw()))
        );
    }
    assert!(given > 1000, "{given}");
}
