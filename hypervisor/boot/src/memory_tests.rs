//! Tests of memory ranges and of the choice of dom0's banks.

use std::string::ToString;

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

/// A range in MiB, from its start to its end.
fn mib(start: u64, end: u64) -> PhysRange {
    PhysRange::from_start_end(start * MIB, end * MIB)
}

#[test]
fn normalises() {
    let list = [
        mib(20, 30),
        mib(0, 10),
        mib(10, 15),
        mib(25, 28),
        mib(50, 50),
        mib(29, 40),
    ];
    assert_eq!(normalise(&list), [mib(0, 15), mib(20, 40)]);
    assert_eq!(PhysRange::new(u64::MAX, 1), None);
    assert_eq!(
        PhysRange::new(u64::MAX, 0).map(|range| range.is_empty()),
        Some(true)
    );
}

#[test]
fn usable_ram_is_whole_pages_without_holes() {
    let memory = [range(0x4000_0800, 0x10_0000), range(0x8000_0000, 0x3000)];
    let exclude = [
        range(0x4000_5001, 1),
        range(0x4000_6fff, 2),
        range(0x8000_1000, 0),
        range(0x7fff_f000, 0x1001),
    ];
    let usable = usable_ram(&memory, &exclude);
    assert_eq!(
        usable,
        [
            range(0x4000_1000, 0x4000),
            range(0x4000_8000, 0xf_8000),
            range(0x8000_1000, 0x2000)
        ]
    );
    // What lies above the 40 bits that stage 2 reaches is not used, and nothing wraps.
    assert_eq!(
        usable_ram(&[range(PHYS_LIMIT - 0x1000, 0x5000)], &[]),
        [range(PHYS_LIMIT - 0x1000, 0x1000)]
    );
    assert_eq!(
        usable_ram(&[range(u64::MAX - 10, 10)], &[range(u64::MAX - 5, 5)]),
        []
    );
    assert_eq!(usable_ram(&[range(0, u64::MAX)], &[range(0, u64::MAX)]), []);
}

/// A Raspberry Pi 4 with 2 GiB, modules in the middle of what its DMA reaches.
#[test]
fn the_first_bank_is_where_devices_reach() {
    let usable = usable_ram(
        &[mib(0, 948), mib(1024, 2048)],
        &[mib(256, 300), mib(384, 386)],
    );
    assert_eq!(
        dom0_banks(&usable, 600 * MIB),
        Ok(Vec::from([mib(1024, 1624)]))
    );
    let banks = dom0_banks_below(&usable, 600 * MIB, GIB).unwrap();
    assert!(banks[0].base().raw() < GIB && banks[0].end().raw() <= GIB);
    assert!(banks[0].size() >= 128 * MIB);
    assert_eq!(total_size(&banks), 600 * MIB);
}

#[test]
fn one_bank_if_it_can_be() {
    // qemu virt 1 GiB: image, DTB and modules at the bottom; 128 MiB boundaries come first.
    let usable = usable_ram(
        &[mib(1024, 2048)],
        &[mib(1024, 1026), range(1152 * MIB, 0x50_1234)],
    );
    assert_eq!(
        dom0_banks(&usable, 512 * MIB),
        Ok(Vec::from([mib(1280, 1792)]))
    );
    // No such boundary leaves enough: any multiple of 2 MiB.
    assert_eq!(
        dom0_banks(&usable, 880 * MIB),
        Ok(Vec::from([mib(1158, 2038)]))
    );
    // An odd size keeps its odd end.
    assert_eq!(
        dom0_banks(&usable, 256 * MIB + 0x3000),
        Ok(Vec::from([range(1280 * MIB, 256 * MIB + 0x3000)]))
    );
}

#[test]
fn several_banks_lowest_first() {
    let usable = [
        mib(1024, 1030),
        mib(1100, 1300),
        mib(1400, 1410),
        mib(1500, 1800),
        mib(1900, 1903),
    ];
    // The largest pieces above the first bank; of the smallest only what is missing.
    assert_eq!(
        dom0_banks(&usable, 506 * MIB),
        Ok(Vec::from([
            mib(1100, 1300),
            mib(1400, 1406),
            mib(1500, 1800)
        ]))
    );
    // Nothing below the first bank and no piece under 4 MiB: 510 MiB are all there is.
    let error = dom0_banks(&usable, 516 * MIB).unwrap_err();
    assert_eq!(
        error,
        Dom0MemError::Fragmented {
            asked: 516 * MIB,
            possible: 510 * MIB
        }
    );
    assert!(error.to_string().contains("set dom0_mem=510M"), "{error}");
    assert_eq!(
        dom0_banks(&usable, 510 * MIB).map(|banks| total_size(&banks)),
        Ok(510 * MIB)
    );
    // ... but a piece of 3 MiB will do when no more is missing.
    let few = [mib(1024, 1152), mib(1200, 1203)];
    assert_eq!(dom0_banks(&few, 131 * MIB), Ok(Vec::from(few)));
}

#[test]
fn the_first_bank_is_below_4_gib() {
    let usable = [mib(1024, 1024 + 100), mib(4096, 8192)];
    assert_eq!(
        dom0_banks(&usable, 512 * MIB),
        Err(Dom0MemError::NoFirstBank {
            needed: 128 * MIB,
            largest: 100 * MIB
        })
    );
    assert_eq!(
        dom0_banks(&usable, 64 * MIB),
        Ok(Vec::from([mib(1024, 1088)]))
    );
    // 3 GiB below, the rest above; a range across the boundary is used on both sides.
    let usable = [mib(1024, 5120)];
    assert_eq!(
        dom0_banks(&usable, 4 * GIB),
        Ok(Vec::from([mib(1024, 5120)]))
    );
    assert_eq!(
        dom0_banks(&usable, 3 * GIB),
        Ok(Vec::from([mib(1024, 4096)]))
    );
    let usable = [mib(1024, 2048), mib(8192, 16384)];
    assert_eq!(
        dom0_banks(&usable, 2 * GIB),
        Ok(Vec::from([mib(1024, 2048), mib(8192, 9216)]))
    );
}

#[test]
fn sizes_that_cannot_be() {
    let usable = [mib(1024, 1280)];
    assert_eq!(dom0_mem_size(Some(0), &usable), Err(Dom0MemError::Zero));
    assert_eq!(
        dom0_mem_size(None, &usable),
        Err(Dom0MemError::TooLarge {
            asked: 512 * MIB,
            free: 256 * MIB
        })
    );
    assert_eq!(
        dom0_mem_size(Some(u64::MAX), &usable),
        Err(Dom0MemError::TooLarge {
            asked: u64::MAX,
            free: 256 * MIB
        })
    );
    assert_eq!(dom0_mem_size(Some(1), &usable), Ok(4096));
    assert_eq!(
        dom0_mem_size(None, &[mib(1024, 2048)]),
        Ok(DEFAULT_DOM0_MEM)
    );
    assert_eq!(dom0_banks(&usable, 0), Err(Dom0MemError::Zero));
    assert_eq!(
        dom0_banks(&usable, GIB),
        Err(Dom0MemError::TooLarge {
            asked: GIB,
            free: 256 * MIB
        })
    );
    assert_eq!(
        dom0_banks(&[], 0x1000),
        Err(Dom0MemError::TooLarge {
            asked: 0x1000,
            free: 0
        })
    );
    for error in [
        Dom0MemError::Zero,
        Dom0MemError::TooLarge {
            asked: GIB,
            free: MIB,
        },
    ] {
        assert!(error.to_string().contains("dom0_mem"), "{error}");
    }
}

/// Random machines against the promises of the documentation, with a page map as the model for `usable_ram`.
#[test]
fn random_machines() {
    let seed = 0x1234_5678_9abc_def1u64;
    let mut state = seed;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..3000 {
        let context = std::format!("seed {seed:#x} round {round}");
        let mut list = |count: u64, span: u64, grain: u64| -> Vec<PhysRange> {
            (0..count)
                .map(|_| range(next(span / grain) * grain, next(span / grain / 4) * grain))
                .collect()
        };
        // Small numbers and odd bytes against the model.
        let (memory, exclude) = (list(3, 0x4_0000, 0x400), list(4, 0x4_0000, 0x80));
        let usable = usable_ram(&memory, &exclude);
        let is_in = |list: &[PhysRange], address: u64| {
            list.iter().any(|range| {
                range.contains(&PhysRange {
                    base: address,
                    size: 1,
                })
            })
        };
        for page in 0..0x60u64 {
            let bytes = (page * 0x1000..(page + 1) * 0x1000).step_by(0x80);
            let whole = bytes.clone().all(|byte| is_in(&memory, byte));
            let touched = bytes.clone().any(|byte| is_in(&exclude, byte));
            assert_eq!(
                is_in(&usable, page * 0x1000),
                whole && !touched,
                "{context} page {page:#x}"
            );
        }
        assert_eq!(normalise(&usable), usable, "{context}");

        // Banks: large numbers, around 4 GiB.
        let memory = list(4, 6 * GIB, MIB / 2);
        let exclude = list(3, 6 * GIB, MIB / 4);
        let usable = usable_ram(
            &memory,
            &exclude
                .iter()
                .map(|hole| range(hole.base, hole.size / 16))
                .collect::<Vec<_>>(),
        );
        let size = (1 + next(2048)) * MIB / [1, 1, 4][usize::try_from(next(3)).unwrap()];
        let size = size.next_multiple_of(PAGE);
        match dom0_banks(&usable, size) {
            Ok(banks) => {
                assert_eq!(total_size(&banks), size, "{context}");
                assert_eq!(normalise(&banks), banks, "{context}");
                assert!(
                    banks
                        .iter()
                        .all(|bank| usable.iter().any(|free| free.contains(bank))),
                    "{context}"
                );
                assert!(
                    banks.iter().all(|bank| bank.base.is_multiple_of(BLOCK)),
                    "{context}"
                );
                let low = banks[0].below(FOUR_GIB).size;
                assert!(low >= size.min(BANK0_MIN), "{context} {banks:?}");
            }
            Err(Dom0MemError::Fragmented { asked, possible }) => {
                assert!(asked == size && possible < size, "{context}");
                // What the message advises works.
                assert_eq!(
                    dom0_banks(&usable, possible).map(|banks| total_size(&banks)),
                    Ok(possible),
                    "{context}"
                );
            }
            Err(Dom0MemError::NoFirstBank { needed, largest }) => {
                assert!(largest < needed, "{context}")
            }
            Err(Dom0MemError::TooLarge { free, .. }) => assert!(free < size, "{context}"),
            Err(Dom0MemError::Zero) => panic!("{context}"),
        }
    }
}
