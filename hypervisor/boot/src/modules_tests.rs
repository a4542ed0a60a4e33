//! Tests of `/chosen`.

use std::string::ToString;

use super::*;
use crate::fdt::host::memory;
use crate::fdt::tree::tests::Blob;

const GUEST_LOADER: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/qemu-virt-guest-loader.dtb"
));

fn range(base: u64, size: u64) -> PhysRange {
    PhysRange::new(base, size).unwrap()
}

const DTB: PhysRange = PhysRange::from_start_end(0x4700_0000, 0x4710_0000);
const IMAGE: PhysRange = PhysRange::from_start_end(0x4000_0000, 0x4020_0000);
const RAM: PhysRange = PhysRange::from_start_end(0x4000_0000, 0x8000_0000);

/// Adds a module at `base`, with the cells of a root that counts 1/1.
fn module(blob: Blob, name: &str, compatible: &str, base: u32, size: u32) -> Blob {
    blob.open(name)
        .text("compatible", compatible)
        .cells("reg", &[base, size])
        .close()
}

fn chosen() -> Blob {
    Blob::new()
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .open("chosen")
}

const KERNEL: &str = "multiboot,kernel\0multiboot,module";
const RAMDISK: &str = "multiboot,ramdisk\0multiboot,module";

/// Reads a tree whose `/chosen` is still open.
fn with_found<R>(blob: Blob, look: impl FnOnce(Result<BootModules<'_>, ModuleError>) -> R) -> R {
    let blob = blob.close().finish();
    look(BootModules::from_tree(&Tree::new(&blob).unwrap(), &|at| {
        (at.raw() == 0x4500_0000).then_some(XSM_MAGIC)
    }))
}

fn kinds(blob: Blob) -> Vec<(ModuleKind, u64)> {
    with_found(blob, |found| {
        found
            .unwrap()
            .modules
            .iter()
            .map(|m| (m.kind, m.range.base().raw()))
            .collect()
    })
}

fn check(blob: Blob) -> Result<(), ModuleError> {
    with_found(blob, |found| found.unwrap().check(&[RAM], DTB, IMAGE))
}

/// Returns the hypervisor's and dom0's command line.
fn lines(blob: Blob) -> (String, String) {
    with_found(blob, |found| {
        let found = found.unwrap();
        (found.xen_args.to_string(), found.dom0_args.to_string())
    })
}

#[test]
fn what_the_guest_loader_of_qemu_writes() {
    let tree = Tree::new(GUEST_LOADER).unwrap();
    let found = BootModules::from_tree(&tree, &|_| None).unwrap();
    let kernel = found.kernel().unwrap();
    assert_eq!(
        (kernel.range, kernel.bootargs),
        (range(0x4800_0000, 300_000), "console=hvc0 root=/dev/vda")
    );
    assert_eq!(kernel.source, "/chosen/module@0x48000000");
    assert_eq!(found.ramdisk().unwrap().range, range(0x4a00_0000, 100_000));
    assert_eq!(
        (found.xen_args, found.dom0_args),
        ("", "console=hvc0 root=/dev/vda")
    );
    assert_eq!(found.check(&memory(&tree).unwrap(), DTB, IMAGE), Ok(()));
    assert_eq!(found.ranges().len(), 2);
}

#[test]
fn kinds_by_name_and_by_order() {
    use ModuleKind::{DeviceTree, Kernel, Ramdisk, Unknown, XsmPolicy};
    let blob = module(
        chosen(),
        "a",
        "xen,linux-zimage\0xen,multiboot-module",
        1,
        1,
    );
    let blob = module(blob, "b", "xen,linux-initrd\0xen,multiboot-module", 2, 1);
    let blob = module(blob, "c", "xen,xsm-policy\0xen,multiboot-module", 3, 1);
    let blob = module(blob, "d", "multiboot,device-tree\0multiboot,module", 4, 1);
    let blob = module(blob, "e", "multiboot,kernel", 5, 1);
    assert_eq!(
        kinds(blob),
        [(Kernel, 1), (Ramdisk, 2), (XsmPolicy, 3), (DeviceTree, 4)]
    );

    let plain = |blob, name: &str, base| module(blob, name, "multiboot,module", base, 1);
    let blob = plain(
        plain(plain(plain(chosen(), "a", 1), "b", 2), "c", 0x4500_0000),
        "d",
        4,
    );
    assert_eq!(
        kinds(blob),
        [
            (Kernel, 1),
            (Ramdisk, 2),
            (XsmPolicy, 0x4500_0000),
            (Unknown, 4)
        ]
    );
    // The second is a policy by its contents, so there is no ramdisk.
    let blob = plain(plain(plain(chosen(), "a", 1), "b", 0x4500_0000), "c", 4);
    assert_eq!(
        kinds(blob),
        [(Kernel, 1), (XsmPolicy, 0x4500_0000), (Unknown, 4)]
    );
}

#[test]
fn depth_and_dom0less_domains() {
    let blob = module(chosen().open("modules"), "a", KERNEL, 1, 1).open("deeper");
    let blob = module(blob, "b", RAMDISK, 2, 1).close().close();
    assert_eq!(kinds(blob), [(ModuleKind::Kernel, 1)]);
    let blob = module(
        chosen().open("domU1").text("compatible", "xen,domain"),
        "a",
        KERNEL,
        1,
        1,
    )
    .close();
    with_found(blob, |found| {
        let found = found.unwrap();
        assert_eq!((found.modules.len(), found.dom0less_count), (0, 1));
        assert_eq!(found.check(&[RAM], DTB, IMAGE), Ok(()));
        let text = ModuleError::NoKernel(1).to_string();
        assert!(text.contains("none of 1 dom0less domain(s)"), "{text}");
    });
}

#[test]
fn cells_of_the_parent_or_what_is_above() {
    let blob = chosen()
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2]);
    let blob = blob
        .open("a")
        .text("compatible", KERNEL)
        .cells("reg", &[1, 0x4000, 0, 0x10])
        .close();
    assert_eq!(kinds(blob), [(ModuleKind::Kernel, 0x1_0000_4000)]);
    for cells in [&[][..], &[1], &[u32::MAX, u32::MAX, u32::MAX]] {
        let blob = chosen()
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[2]);
        let blob = blob
            .open("a")
            .text("compatible", KERNEL)
            .cells("reg", cells)
            .close();
        with_found(blob, |found| {
            assert_eq!(found.unwrap_err(), ModuleError::NoReg("/chosen/a".into()))
        });
    }
    let blob = chosen().open("a").text("compatible", KERNEL).close();
    with_found(blob, |found| {
        let text = found.unwrap_err().to_string();
        assert!(
            text.contains("/chosen/a") && text.contains("\"reg\""),
            "{text}"
        );
    });
}

#[test]
fn initrd_of_linux_own_protocol() {
    let ends = |start: &[u32], end: &[u32]| {
        module(
            chosen()
                .cells("linux,initrd-start", start)
                .cells("linux,initrd-end", end),
            "k",
            KERNEL,
            0x4800_0000,
            1,
        )
    };
    let found = |blob| {
        with_found(blob, |found| {
            found.map(|found| found.ramdisk().map(|ramdisk| ramdisk.range))
        })
    };
    assert_eq!(
        found(ends(&[0x4900_0000], &[0x4900_1000])),
        Ok(Some(range(0x4900_0000, 0x1000)))
    );
    assert_eq!(
        found(ends(&[0, 0x4900_0000], &[0, 0x4900_1000])),
        Ok(Some(range(0x4900_0000, 0x1000)))
    );
    assert_eq!(found(ends(&[0], &[0])), Ok(None));
    assert_eq!(found(ends(&[2], &[1])), Err(ModuleError::BadInitrd));
    assert_eq!(found(ends(&[1], &[])), Err(ModuleError::BadInitrd));
    // A module comes first.
    let blob = module(
        ends(&[0x4900_0000], &[0x4900_1000]),
        "r",
        RAMDISK,
        0x4a00_0000,
        2,
    );
    assert_eq!(found(blob), Ok(Some(range(0x4a00_0000, 2))));
}

#[test]
fn whose_command_line_is_whose() {
    let line =
        |xen: Option<&str>, dom0: Option<&str>, plain: Option<&str>, kernel: Option<&str>| {
            let mut blob = chosen();
            for (name, text) in [
                ("xen,xen-bootargs", xen),
                ("xen,dom0-bootargs", dom0),
                ("bootargs", plain),
            ] {
                if let Some(text) = text {
                    blob = blob.text(name, text);
                }
            }
            let blob = blob
                .open("k")
                .text("compatible", KERNEL)
                .cells("reg", &[1, 1]);
            let blob = if let Some(text) = kernel {
                blob.text("bootargs", text)
            } else {
                blob
            };
            lines(blob.close())
        };
    let is = |xen: &str, dom0: &str| (xen.to_string(), dom0.to_string());
    assert_eq!(
        line(Some("x"), Some("d"), Some("p"), Some("k")),
        is("x", "d")
    );
    assert_eq!(line(Some("x"), None, Some("p"), Some("k")), is("x", "k"));
    assert_eq!(line(Some("x"), None, Some("p"), None), is("x", "p"));
    assert_eq!(line(None, Some("d"), Some("p"), None), is("p", "d"));
    assert_eq!(line(None, None, Some("p"), Some("k")), is("p", "k"));
    // Only Linux's: the hypervisor has none.
    assert_eq!(line(None, None, Some("p"), None), is("", "p"));
    assert_eq!(line(None, None, Some("p"), Some("")), is("", "p"));
    assert_eq!(line(None, None, None, None), is("", ""));
}

#[test]
fn command_lines_have_a_limit() {
    let text = "a".repeat(MAX_CMDLINE - 1);
    assert_eq!(lines(chosen().text("xen,xen-bootargs", &text)).0, text);
    let text = "a".repeat(MAX_CMDLINE);
    for name in ["xen,xen-bootargs", "xen,dom0-bootargs", "bootargs"] {
        with_found(chosen().text(name, &text), |found| {
            let error = found.unwrap_err();
            assert_eq!(error, ModuleError::CmdlineTooLong(name, MAX_CMDLINE));
            assert!(error.to_string().contains("limit is 1023"), "{error}");
        });
    }
    // Without its zero, and with bytes that are no text.
    assert_eq!(lines(chosen().prop("xen,xen-bootargs", b"abc")).0, "abc");
    assert_eq!(
        lines(chosen().prop("xen,xen-bootargs", b"ab\xffc\0")).0,
        "ab"
    );
}

#[test]
fn no_more_than_32_modules() {
    let blob = |count: u32| {
        (0..count).fold(chosen(), |blob, n| {
            module(blob, &std::format!("m{n}"), KERNEL, n, 1)
        })
    };
    assert_eq!(kinds(blob(32)).len(), 32);
    with_found(blob(33), |found| {
        assert_eq!(found.unwrap_err(), ModuleError::TooMany)
    });
    let blob = (0..32).fold(
        chosen()
            .cells("linux,initrd-start", &[100])
            .cells("linux,initrd-end", &[200]),
        |blob, n: u32| module(blob, &std::format!("m{n}"), KERNEL, n, 1),
    );
    with_found(blob, |found| {
        assert_eq!(found.unwrap_err(), ModuleError::TooMany)
    });
}

#[test]
fn places_are_checked() {
    let kernel = |base, size| module(chosen(), "k", KERNEL, base, size);
    assert_eq!(check(kernel(0x4800_0000, 0x80_0000)), Ok(()));
    assert_eq!(
        check(kernel(0x4800_0000, 0)),
        Err(ModuleError::Empty("/chosen/k".into()))
    );
    assert_eq!(
        check(kernel(0x7fff_f000, 0x2000)),
        Err(ModuleError::OutsideRam(
            "/chosen/k".into(),
            range(0x7fff_f000, 0x2000)
        ))
    );
    assert_eq!(
        check(kernel(0x1000, 0x1000)),
        Err(ModuleError::OutsideRam(
            "/chosen/k".into(),
            range(0x1000, 0x1000)
        ))
    );
    assert_eq!(
        check(kernel(0x46ff_f000, 0x1001)),
        Err(ModuleError::OverlapsOther(
            "/chosen/k".into(),
            "device tree"
        ))
    );
    assert_eq!(check(kernel(0x46ff_f000, 0x1000)), Ok(()));
    assert_eq!(
        check(kernel(0x4010_0000, 0x1000)),
        Err(ModuleError::OverlapsOther("/chosen/k".into(), "hypervisor"))
    );
    let both = |base| module(kernel(0x4800_0000, 0x80_0000), "r", RAMDISK, base, 0x1000);
    assert_eq!(check(both(0x4880_0000)), Ok(()));
    let error = check(both(0x487f_f001)).unwrap_err();
    assert_eq!(
        error,
        ModuleError::Overlap("/chosen/k".into(), "/chosen/r".into())
    );
    assert!(
        error.to_string().contains("load them further apart"),
        "{error}"
    );
    assert_eq!(check(chosen()), Err(ModuleError::NoKernel(0)));
    let none = BootModules::default();
    assert!(
        none.check(&[RAM], DTB, IMAGE)
            .unwrap_err()
            .to_string()
            .contains("no kernel for dom0")
    );
}
