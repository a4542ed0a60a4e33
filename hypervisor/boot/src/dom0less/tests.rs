//! Tests of the domains in `/chosen`.

use super::links::{Channel, End};
use super::*;
use crate::fdt::tree::tests::Blob;

const FIXTURE: &[u8] = include_bytes!("../../../../tests/fixtures/dom0less.dtb");

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

const RAM: PhysRange = PhysRange::from_start_end(0x4000_0000, 0xc000_0000);
const DOM0_KERNEL: PhysRange = PhysRange::from_size(0x4800_0000, 0x10_0000);
const TAKEN: PhysRange = PhysRange::from_start_end(0x4000_0000, 0x4020_0000);

fn read(blob: &[u8]) -> Dom0less<'_> {
    Dom0less::from_tree(&Tree::new(blob).unwrap())
}

fn ids(found: &Dom0less<'_>) -> Vec<u16> {
    found.domains.iter().map(|domain| domain.id.raw()).collect()
}

#[test]
fn the_fixture_is_understood() {
    let mut found = read(FIXTURE);
    assert_eq!(ids(&found), [1, 3, 4]);
    assert_eq!(found.skipped.len(), 1);
    assert_eq!(
        found.skipped[0].to_string(),
        "domain /chosen/domU2 is not started: no kernel: add a node with compatible \"multiboot,kernel\", \
         \"multiboot,module\" to the domain"
    );
    let one = &found.domains[0];
    assert_eq!((one.memory, one.vcpus), (128 << 20, 2));
    assert_eq!((one.has_uart, one.nr_spis), (true, Some(64)));
    assert_eq!(one.enhanced, Enhanced::Full);
    assert_eq!(one.p2m_bytes(), 4 << 20);
    assert_eq!(
        (one.max_grant_frames, one.max_maptrack_frames),
        (Some(32), Some(64))
    );
    assert_eq!(one.kernel.bootargs, "console=ttyAMA0");
    let modules: Vec<_> = one.modules().collect();
    assert_eq!(
        modules,
        [
            range(0x5000_0000, 0x60_0000),
            range(0x5100_0000, 0x10_0000),
            range(0x5200_0000, 0x1000)
        ]
    );
    let cpus: Vec<usize> = one.affinity[0].iter().map(CpuId::index).collect();
    assert_eq!(cpus, [0, 2, 3]);
    assert_eq!(one.affinity[1], CpuSet::ALL);
    let shared = one.shared_memory[0];
    assert_eq!(
        (shared.id, shared.host, shared.is_owner),
        ("my-shared", Some(0x7000_0000), true)
    );
    assert_eq!(shared.guest, range(0x400_0000, 0x10_0000));

    let three = &found.domains[1];
    assert!(three.is_direct_mapped && !three.has_uart);
    assert_eq!(
        three.static_memory,
        [
            range(0x6000_0000, 0x200_0000),
            range(0x6400_0000, 0x200_0000)
        ]
    );
    assert_eq!(three.enhanced, Enhanced::NoXenstore);
    let shared = three.shared_memory[0];
    assert_eq!((shared.host, shared.is_owner), (None, false));
    // 1 MiB for a vCPU, 4 KiB for each of 64 MiB, 512 KiB.
    assert_eq!(three.p2m_bytes(), (1 << 20) + 64 * 4096 + (512 << 10));
    let four = &found.domains[2];
    assert_eq!((four.enhanced, four.nr_spis), (Enhanced::No, None));

    let end = |domain, port| End {
        domain: DomId::new(domain),
        port,
    };
    assert_eq!(
        found.channels,
        [
            Channel {
                one: end(0, 0x20),
                other: end(1, 0x10)
            },
            Channel {
                one: end(1, 0x11),
                other: end(3, 0x10)
            },
        ]
    );
    let bad: Vec<_> = found
        .bad_channels
        .iter()
        .map(|bad| bad.path.as_str())
        .collect();
    assert_eq!(bad, ["/chosen/domU1/evtchn@3", "/chosen/domU2/evtchn@1"]);

    let before = found.clone();
    found.check(&[RAM], &[TAKEN], &[DOM0_KERNEL], true);
    assert_eq!(found, before, "all of it fits");
    assert_eq!(found.module_ranges().len(), 5);
    assert_eq!(found.static_ranges().len(), 3, "and the shared memory");
    found.check(&[RAM], &[TAKEN], &[DOM0_KERNEL], false);
    assert_eq!(ids(&found), [3, 4], "domain 1 wants xenstore");
}

/// A `/chosen` that counts 1/1, still open.
fn chosen() -> Blob {
    Blob::new()
        .open("chosen")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
}

fn kernel(blob: Blob, base: u32) -> Blob {
    blob.open("module")
        .text("compatible", "multiboot,kernel\0multiboot,module")
        .cells("reg", &[base, 0x10_0000])
        .close()
}

/// A domain that is right, but for what `change` adds (properties first).
fn with(change: impl Fn(Blob) -> Blob) -> Result<(), ConfigError> {
    let blob = change(chosen().open("domU").text("compatible", "xen,domain"));
    let blob = kernel(blob, 0x5000_0000).close().close().finish();
    let found = read(&blob);
    assert_eq!(found.domains.len() + found.skipped.len(), 1);
    match found.skipped.into_iter().next() {
        None => Ok(()),
        Some(skipped) => {
            assert!(!skipped.error.to_string().is_empty());
            Err(skipped.error)
        }
    }
}

fn good(blob: Blob) -> Blob {
    blob.cells("memory", &[0, 0x10000]).cells("cpus", &[1])
}

#[test]
fn wrong_properties_are_named() {
    assert_eq!(with(good), Ok(()));
    let names = |error: Result<(), ConfigError>| match error {
        Err(
            ConfigError::Property(name, _)
            | ConfigError::Range(name, _)
            | ConfigError::Unsupported(name, _),
        ) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(names(with(|b| b.cells("cpus", &[1]))), "memory");
    assert_eq!(
        names(with(|b| b.cells("memory", &[0, 1, 2]).cells("cpus", &[1]))),
        "memory"
    );
    for kib in [[0, 0], [0, 3], [0x8000_0000, 0], [u32::MAX, u32::MAX]] {
        assert_eq!(
            names(with(|b| b.cells("memory", &kib).cells("cpus", &[1]))),
            "memory"
        );
    }
    let memory = |b: Blob| b.cells("memory", &[0, 0x10000]);
    assert_eq!(names(with(memory)), "cpus");
    for cpus in [&[0][..], &[1 + MAX_VCPUS as u32], &[u32::MAX], &[1, 1], &[]] {
        assert_eq!(names(with(|b| memory(b).cells("cpus", cpus))), "cpus");
    }
    for (name, value) in [
        ("nr_spis", &[961][..]),
        ("nr_spis", &[]),
        ("max_grant_version", &[0]),
        ("max_grant_version", &[3]),
        ("max_grant_frames", &[]),
        ("capabilities", &[1]),
        ("sve", &[128]),
        ("domain-cpupool", &[]),
        ("xen,domain-p2m-mem-mb", &[]),
    ] {
        assert_eq!(names(with(|b| good(b).cells(name, value))), name);
    }
    for (name, value) in [
        ("xen,enhanced", "yes"),
        ("passthrough", "enabled"),
        ("llc-colors", "0-1"),
        ("xen,sci_type", "scmi_smc"),
    ] {
        assert_eq!(names(with(|b| good(b).text(name, value))), name);
    }
    for (name, value) in [("xen,enhanced", "disabled"), ("xen,sci_type", "none")] {
        assert_eq!(with(|b| good(b).text(name, value)), Ok(()));
    }
}

#[test]
fn static_memory_must_fit() {
    assert_eq!(
        with(|b| good(b).cells("direct-map", &[])),
        Err(ConfigError::DirectWithoutStatic)
    );
    let banks = |cells: &'static [u32]| with(move |b| good(b).cells("xen,static-mem", cells));
    assert_eq!(banks(&[0x6000_0000, 0x400_0000]), Ok(()));
    for bad in [
        &[0x6000_0000, 0x200_0000][..],
        &[0x6000_0000, 0x200_0000, 0x6100_0000, 0x200_0000],
        &[0x6000_0800, 0x400_0000],
        &[0x6000_0000, 0x400_0000, 0x7000_0000, 0],
    ] {
        assert!(
            matches!(banks(bad), Err(ConfigError::StaticMemory(_))),
            "{bad:x?}"
        );
    }
    assert!(matches!(banks(&[1]), Err(ConfigError::Property(..))));
    // Cells of its own, as 4.16.
    let own = with(|b| {
        good(b)
            .cells("#xen,static-mem-address-cells", &[2])
            .cells("#xen,static-mem-size-cells", &[2])
            .cells("xen,static-mem", &[0, 0x6000_0000, 0, 0x400_0000])
    });
    assert_eq!(own, Ok(()));
    // No cells at all must not go on for ever.
    let none = with(|b| {
        good(b)
            .cells("#xen,static-mem-address-cells", &[0])
            .cells("#xen,static-mem-size-cells", &[0])
            .cells("xen,static-mem", &[1])
    });
    assert!(matches!(none, Err(ConfigError::Property(..))));
}

#[test]
fn vcpus_and_shared_memory_must_be_right() {
    let vcpu = |id: u32, list: &'static str| {
        with(move |b| {
            good(b)
                .open("vcpu")
                .text("compatible", "xen,vcpu")
                .cells("id", &[id])
                .text("hard-affinity", list)
                .close()
        })
    };
    assert_eq!(vcpu(0, "0-3,127"), Ok(()));
    for (id, list) in [
        (1, "0"),
        (0, ""),
        (0, "3-1"),
        (0, "128"),
        (0, "a"),
        (0, "0,"),
        (0, "-1"),
    ] {
        assert!(
            matches!(vcpu(id, list), Err(ConfigError::Vcpu(_))),
            "{id} {list}"
        );
    }
    let shm = |id: &'static str, role: &'static str, cells: &'static [u32]| {
        with(move |b| {
            good(b)
                .open("shm")
                .text("compatible", "xen,domain-shared-memory-v1")
                .text("xen,shm-id", id)
                .text("role", role)
                .cells("xen,shared-mem", cells)
                .close()
        })
    };
    assert_eq!(
        shm("a", "owner", &[0x7000_0000, 0x400_0000, 0x1000]),
        Ok(())
    );
    assert_eq!(shm("a", "borrower", &[0x400_0000, 0x1000]), Ok(()));
    for (id, role, cells) in [
        ("", "owner", &[0x400_0000, 0x1000][..]),
        ("0123456789abcdef", "owner", &[0x400_0000, 0x1000]),
        ("a", "king", &[0x400_0000, 0x1000]),
        ("a", "owner", &[0x400_0000]),
        ("a", "owner", &[0x400_0000, 0]),
        ("a", "owner", &[0x400_0000, 0x800]),
        ("a", "owner", &[0x7000_0001, 0x400_0000, 0x1000]),
        ("a", "owner", &[1, 2, 3, 4]),
    ] {
        let result = shm(id, role, cells);
        assert!(
            matches!(result, Err(ConfigError::SharedMemory(_))),
            "{cells:x?}"
        );
    }
}

#[test]
fn modules_must_not_be_in_the_way() {
    let domain = |blob: Blob, name: &str, base: u32| {
        kernel(good(blob.open(name).text("compatible", "xen,domain")), base).close()
    };
    let mut blob = chosen();
    for (name, base) in [
        ("a", 0x5000_0000),
        ("outside", 0xd000_0000),
        ("over-a", 0x5008_0000),
        ("over-xen", 0x4010_0000),
        ("b", 0x5100_0000),
        ("shares-a", 0x5000_0000),
        ("shares-dom0", 0x4800_0000),
        ("over-dom0", 0x4800_1000),
    ] {
        blob = domain(blob, name, base);
    }
    let blob = blob.close().finish();
    let mut found = read(&blob);
    found.check(&[RAM], &[TAKEN], &[DOM0_KERNEL], true);
    assert_eq!(ids(&found), [1, 5, 6, 7]);
    let skipped: Vec<_> = found
        .skipped
        .iter()
        .map(|skipped| skipped.path.as_str())
        .collect();
    assert_eq!(
        skipped,
        [
            "/chosen/outside",
            "/chosen/over-a",
            "/chosen/over-xen",
            "/chosen/over-dom0"
        ]
    );
}

/// What lies at the host address of shared memory is overwritten: nobody else's may be there.
#[test]
fn shared_memory_must_not_be_in_the_way() {
    // Names of domains, what their memory is called, and where it is.
    let skipped = |domains: &[(&str, &str, Option<u32>, u32)]| {
        let mut blob = chosen();
        for (n, (name, id, host, size)) in (0..).zip(domains) {
            let node = good(blob.open(name).text("compatible", "xen,domain"));
            let node = kernel(node, 0x5000_0000 + n * 0x100_0000)
                .open("shm")
                .text("compatible", "xen,domain-shared-memory-v1")
                .text("xen,shm-id", id);
            let cells: Vec<u32> = host.iter().copied().chain([0x400_0000, *size]).collect();
            blob = node.cells("xen,shared-mem", &cells).close().close();
        }
        let blob = blob.close().finish();
        let mut found = read(&blob);
        assert_eq!(found.domains.len(), domains.len(), "{:?}", found.skipped);
        found.check(&[RAM], &[TAKEN], &[DOM0_KERNEL], true);
        let paths = found.skipped.iter().map(|skipped| {
            let is_named = matches!(
                skipped.error,
                ConfigError::SharedMemory(_) | ConfigError::Module(_)
            );
            assert!(is_named, "{skipped}");
            skipped.path.trim_start_matches("/chosen/").to_string()
        });
        paths.collect::<Vec<_>>().join(" ")
    };
    let (free, page) = (Some(0x7000_0000), 0x1000);
    assert_eq!(
        skipped(&[("a", "s", free, page), ("b", "s", free, page)]),
        ""
    );
    assert_eq!(
        skipped(&[("a", "s", free, page), ("b", "s", None, page)]),
        ""
    );
    // Two things at one place, one thing at two.
    assert_eq!(
        skipped(&[("a", "s", free, page), ("b", "t", free, page)]),
        "b"
    );
    assert_eq!(
        skipped(&[("a", "s", free, page), ("b", "s", Some(0x7000_1000), page)]),
        "b"
    );
    assert_eq!(
        skipped(&[("a", "s", None, page), ("b", "s", free, page)]),
        "b"
    );
    assert_eq!(
        skipped(&[("a", "s", free, page), ("b", "s", free, 0x2000)]),
        "b"
    );
    for host in [
        // The hypervisor, around it, dom0's kernel, its own kernel, no RAM.
        0x4010_0000,
        0x3fff_f000,
        0x401f_f000,
        0x4800_0000,
        0x47ff_f000,
        0x5000_0000,
        0xbfff_f000,
        0xc000_0000,
    ] {
        assert_eq!(skipped(&[("a", "s", Some(host), 0x2000)]), "a", "{host:#x}");
    }
    // The kernel of one before, and of one after: the later is skipped.
    let other = Some(0x5000_0000);
    assert_eq!(
        skipped(&[("a", "t", None, page), ("b", "s", other, page)]),
        "b"
    );
    let other = Some(0x5100_0000);
    assert_eq!(
        skipped(&[("a", "s", other, page), ("b", "t", None, page)]),
        "b"
    );
}

#[test]
fn there_is_a_limit() {
    let mut blob = chosen();
    for n in 0..MAX_DOMAINS + 5 {
        let node = blob.open(&format!("d{n}")).text("compatible", "xen,domain");
        blob = kernel(good(node), 0x5000_0000).close();
    }
    let blob = blob.close().finish();
    let found = read(&blob);
    assert_eq!(found.domains.len(), MAX_DOMAINS);
    assert_eq!(found.domains.last().unwrap().id, DomId::new(250));
    assert_eq!(found.skipped.len(), 1);
    // Nothing, and nothing of ours.
    assert_eq!(read(&Blob::new().finish()), Dom0less::default());
    let disabled = good(
        chosen()
            .open("d")
            .text("compatible", "xen,domain")
            .text("status", "disabled"),
    );
    assert_eq!(
        read(&disabled.close().close().finish()),
        Dom0less::default()
    );
}

#[test]
fn channels_lead_there_and_back() {
    let bad = |ports: [[u32; 2]; 2]| {
        let mut blob = chosen();
        for (n, cells) in ports.iter().enumerate() {
            let node = good(blob.open("domU").text("compatible", "xen,domain"));
            blob = kernel(node, 0x5000_0000)
                .open("ec")
                .text("compatible", "xen,evtchn-v1")
                .cells("phandle", &[n as u32 + 1])
                .cells("xen,evtchn", cells)
                .close()
                .close();
        }
        let blob = blob.close().finish();
        let found = read(&blob);
        assert_eq!(found.domains.len(), 2, "the domains run");
        assert!(found.channels.len() <= 1);
        found.channels.is_empty()
    };
    assert!(!bad([[1, 2], [1, 1]]));
    assert!(!bad([[1023, 2], [1, 1]]));
    for ports in [
        [[0, 2], [1, 1]],
        [[1, 2], [1024, 1]],
        [[1, 2], [1, 2]],
        [[1, 1], [1, 1]],
        [[1, 7], [1, 1]],
    ] {
        assert!(bad(ports), "{ports:?}");
    }
}

/// Whatever a tree says: no panic, unique numbers, and all that comes out is within its limits.
#[test]
fn random_trees_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    let (mut readable, mut started) = (0, 0);
    for _ in 0..30_000 {
        let mut blob = FIXTURE.to_vec();
        for _ in 0..1 + next(8) {
            let at = 0x38 + next(blob.len() - 0x38);
            blob[at] = match next(4) {
                0 => next(256) as u8,
                1 => 0,
                2 => 0xff,
                _ => blob[at] ^ (1 << next(8)),
            };
        }
        let Ok(tree) = Tree::new(&blob) else { continue };
        readable += 1;
        let mut found = Dom0less::from_tree(&tree);
        found.check(&[RAM], &[TAKEN], &[DOM0_KERNEL], next(2) == 0);
        started += found.domains.len();
        for (index, domain) in found.domains.iter().enumerate() {
            assert!((1..=MAX_VCPUS as u32).contains(&domain.vcpus));
            assert!(domain.memory >= 4096 && domain.memory.is_multiple_of(4096));
            assert!(domain.modules().all(|module| RAM.contains(&module)));
            assert!(!domain.modules().any(|module| TAKEN.overlaps(&module)));
            assert!(
                found
                    .domains
                    .iter()
                    .take(index)
                    .all(|other| other.id < domain.id)
            );
            let _ = domain.p2m_bytes();
            // Memory at a fixed address is overwritten: it is RAM, and nobody else's.
            for fixed in domain.fixed() {
                let range = fixed.range;
                assert!(RAM.contains(&range) && !range.overlaps(&TAKEN));
                assert!(!range.overlaps(&DOM0_KERNEL));
                for other in &found.domains {
                    assert!(other.modules().all(|module| !module.overlaps(&range)));
                    for theirs in other.fixed() {
                        let is_same = theirs.range == range && theirs.shared_as == fixed.shared_as;
                        assert!(is_same || !theirs.range.overlaps(&range));
                    }
                }
            }
        }
        for skipped in &found.skipped {
            assert!(!skipped.to_string().is_empty());
        }
    }
    assert!(readable > 3_000 && started > 6_000, "{readable} {started}");
}
