//! Tests of the kernel probe on images made here.

use super::*;

struct Bytes(Vec<u8>);

impl ImageSource for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(offset).map_err(|_| ReadError)?;
        let end = start.checked_add(buf.len()).ok_or(ReadError)?;
        buf.copy_from_slice(self.0.get(start..end).ok_or(ReadError)?);
        Ok(())
    }
}

struct Bounded(Vec<u8>, usize);

impl ImageSink for Bounded {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self.0.len() + bytes.len() > self.1 {
            return Err(SinkFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn zimage(size: usize, start: u32) -> Vec<u8> {
    let mut image: Vec<u8> = (0..size)
        .map(|at| (at as u32).wrapping_mul(0x9e37_79b1).to_be_bytes()[0])
        .collect();
    image[0x24..0x28].copy_from_slice(&ZIMAGE_MAGIC.to_le_bytes());
    image[0x28..0x2c].copy_from_slice(&start.to_le_bytes());
    image[0x2c..0x30].copy_from_slice(&(start + size as u32).to_le_bytes());
    image
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(bytes);
    crc.finish()
}

fn gzip_of(bytes: &[u8], name: &str) -> Vec<u8> {
    let mut out = vec![
        0x1f,
        0x8b,
        8,
        if name.is_empty() { 0 } else { 8 },
        0,
        0,
        0,
        0,
        0,
        3,
    ];
    if !name.is_empty() {
        out.extend(name.bytes().chain([0]));
    }
    out.extend(miniz_oxide::deflate::compress_to_vec(bytes, 6));
    out.extend(crc(bytes).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

fn uimage(payload: &[u8], load: u32, entry: u32, kind: [u8; 4]) -> Vec<u8> {
    let mut header = vec![0; 64];
    for (at, value) in [
        (0, UIMAGE_MAGIC),
        (12, payload.len() as u32),
        (16, load),
        (20, entry),
        (24, crc(payload)),
        (28, u32::from_be_bytes(kind)),
    ] {
        header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    let sum = crc(&header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    header.extend_from_slice(payload);
    header
}

const LINUX_ARM: [u8; 4] = [5, 2, 2, 0];
const LINUX_ARM_GZIP: [u8; 4] = [5, 2, 2, 1];

fn kernel(bytes: Vec<u8>) -> KernelImage {
    match probe(&Bytes(bytes)) {
        Ok(Probe::Kernel(kernel)) => kernel,
        other => panic!("{other:?}"),
    }
}

fn unpack(bytes: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
    let source = Bytes(bytes.to_vec());
    let Probe::Gzip(gzip) = probe(&source)? else {
        panic!("no gzip")
    };
    let mut sink = Bounded(Vec::new(), 8 << 20);
    let total = inflate(&source, &gzip, limit, &mut sink)?;
    assert_eq!(total, sink.0.len() as u64);
    Ok(sink.0)
}

#[test]
fn checksum_is_the_known_one() {
    assert_eq!(crc(b"123456789"), 0xcbf4_3926);
}

#[test]
fn takes_zimages() {
    let anywhere = Load::Anywhere { entry_offset: 0 };
    assert_eq!(
        kernel(zimage(4096, 0)),
        KernelImage {
            offset: 0,
            size: 4096,
            load: anywhere,
            format: "zImage"
        }
    );
    let fixed = kernel(zimage(4096, 0x4000_8000));
    assert_eq!(
        fixed.load,
        Load::Fixed {
            address: 0x4000_8000,
            entry: 0x4000_8000
        }
    );
    // Padding is not loaded, an appended device tree is.
    let mut padded = zimage(4096, 0);
    padded.extend([0; 100]);
    assert_eq!(kernel(padded).size, 4096);
    let mut appended = zimage(4096, 0);
    appended.extend(FDT_MAGIC.to_be_bytes());
    appended.extend(64_u32.to_be_bytes());
    appended.extend([0; 56 + 30]);
    assert_eq!(kernel(appended).size, 4096 + 64);
    // Cut off, or end before start.
    let mut cut = zimage(4096, 0);
    cut.truncate(4000);
    assert_eq!(
        probe(&Bytes(cut)),
        Err(KernelError::ZimageSize {
            claimed: 4096,
            available: 4000
        })
    );
    let mut reversed = zimage(4096, 0x8000);
    reversed[0x2c..0x30].copy_from_slice(&[0; 4]);
    assert_eq!(
        probe(&Bytes(reversed)),
        Err(KernelError::ZimageSize {
            claimed: 0,
            available: 4096
        })
    );
}

#[test]
fn says_what_else_it_is() {
    let text = |bytes: &[u8]| {
        let mut image = bytes.to_vec();
        image.resize(256, 0);
        alloc::format!("{}", probe(&Bytes(image)).unwrap_err())
    };
    let mut image64 = b"MZ".to_vec();
    image64.resize(0x38, 0);
    image64.extend(b"ARM\x64");
    for (bytes, words) in [
        (&image64[..], "before Linux 3.17"),
        (b"\x7fELF", "ELF"),
        (b"\xfd7zXZ\0", "xz"),
        (b"070701", "swapped"),
        (b"\xd0\x0d\xfe\xed", "device tree"),
        (b"MZ", "EFI"),
        (b"hello", "0x6c6c6568"),
        (b"", "0x00000000"),
    ] {
        let text = text(bytes);
        assert!(text.contains(words) && text.contains("zImage"), "{text}");
    }
    assert_eq!(probe(&Bytes(vec![])), Err(KernelError::TooSmall(0)));
    assert_eq!(probe(&Bytes(vec![1; 40])), Err(KernelError::TooSmall(40)));
}

#[test]
fn obeys_uimages() {
    let payload = zimage(4096, 0);
    let image = kernel(uimage(&payload, 0x4100_0000, 0x4100_0000, LINUX_ARM));
    let load = Load::Fixed {
        address: 0x4100_0000,
        entry: 0x4100_0000,
    };
    assert_eq!(
        image,
        KernelImage {
            offset: 64,
            size: 4096,
            load,
            format: "uImage"
        }
    );
    assert_eq!(
        kernel(uimage(&payload, 0, 0x40, LINUX_ARM)).load,
        Load::Anywhere { entry_offset: 0x40 }
    );
    // A payload of no known format is started as it is.
    assert_eq!(kernel(uimage(&[0xe1; 512], 0, 0, LINUX_ARM)).size, 512);

    let error = |bytes| probe(&Bytes(bytes)).unwrap_err();
    let mut bad = uimage(&payload, 0, 0, LINUX_ARM);
    bad[40] ^= 1;
    assert_eq!(error(bad), KernelError::UimageChecksum("header"));
    let mut bad = uimage(&payload, 0, 0, LINUX_ARM);
    bad[640] ^= 1;
    assert_eq!(error(bad), KernelError::UimageChecksum("data"));
    let mut bad = uimage(&payload, 0, 0, LINUX_ARM);
    bad.truncate(1000);
    assert_eq!(
        error(bad),
        KernelError::UimageSize {
            claimed: 4096,
            available: 936
        }
    );
    assert_eq!(
        error(uimage(&payload, 0x4000, 0x3000, LINUX_ARM)),
        KernelError::UimageEntry(0x3000)
    );
    for kind in [
        [5, 22, 2, 0],
        [5, 2, 3, 0],
        [5, 3, 2, 0],
        [17, 2, 2, 0],
        [5, 2, 2, 3],
    ] {
        assert!(matches!(
            error(uimage(&payload, 0, 0, kind)),
            KernelError::Unsupported(_)
        ));
    }
}

#[test]
fn unpacks_gzip() {
    let image = zimage(300_000, 0);
    for name in ["", "vmlinuz"] {
        let packed = gzip_of(&image, name);
        let source = Bytes(packed.clone());
        let Ok(Probe::Gzip(gzip)) = probe(&source) else {
            panic!()
        };
        assert_eq!((gzip.size_hint, gzip.load), (300_000, None));
        let unpacked = unpack(&packed, 300_000).unwrap();
        assert_eq!(unpacked, image);
        assert_eq!(
            probe_unpacked(&Bytes(unpacked), &gzip).unwrap().size,
            300_000
        );
        assert_eq!(
            unpack(&packed, 299_999),
            Err(KernelError::UnpackedTooLarge(299_999))
        );
    }
    // Padding behind the member is not read as its trailer.
    let mut padded = gzip_of(&image, "");
    padded.extend([0; 1000]);
    assert_eq!(unpack(&padded, 1 << 20).unwrap(), image);
    // Compressed twice.
    let twice = gzip_of(&gzip_of(&image, ""), "");
    let Ok(Probe::Gzip(gzip)) = probe(&Bytes(twice.clone())) else {
        panic!()
    };
    let once = Bytes(unpack(&twice, 1 << 20).unwrap());
    assert_eq!(
        probe_unpacked(&once, &gzip),
        Err(KernelError::Unsupported("compressed twice"))
    );
    // Inside a uImage, whose addresses count.
    let wrapped = uimage(
        &gzip_of(&image, ""),
        0x5000_0000,
        0x5000_0000,
        LINUX_ARM_GZIP,
    );
    let Ok(Probe::Gzip(gzip)) = probe(&Bytes(wrapped.clone())) else {
        panic!()
    };
    let kernel = probe_unpacked(&Bytes(unpack(&wrapped, 1 << 20).unwrap()), &gzip).unwrap();
    assert_eq!(
        kernel.load,
        Load::Fixed {
            address: 0x5000_0000,
            entry: 0x5000_0000
        }
    );
    assert_eq!((kernel.offset, kernel.size), (0, 300_000));
}

#[test]
fn xsa_55_95_survives_corruption() {
    let image = zimage(5000, 0);
    let packed = gzip_of(&image, "name");
    for length in 0..packed.len() {
        let cut = Bytes(packed[..length].to_vec());
        if let Ok(Probe::Gzip(gzip)) = probe(&cut) {
            assert!(
                inflate(&cut, &gzip, 1 << 20, &mut Bounded(Vec::new(), 1 << 20)).is_err(),
                "{length}"
            );
        }
    }
    let mut seed: u64 = 0x1234_5678_9abc_def1;
    for original in [
        packed,
        uimage(&image, 0x8000, 0x8000, LINUX_ARM),
        image.clone(),
    ] {
        for _ in 0..2000 {
            let mut bytes = original.clone();
            for _ in 0..2 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = if seed & 1 == 0 {
                    seed as usize % 64
                } else {
                    seed as usize % bytes.len()
                };
                bytes[at] = (seed >> 40) as u8;
            }
            let source = Bytes(bytes);
            match probe(&source) {
                Ok(Probe::Gzip(gzip)) => {
                    let mut sink = Bounded(Vec::new(), 1 << 20);
                    if inflate(&source, &gzip, 1 << 20, &mut sink).is_ok() {
                        assert_eq!(sink.0, image, "a wrong kernel passed its checksum");
                    }
                }
                Ok(Probe::Kernel(kernel)) => assert!(kernel.offset + kernel.size <= source.len()),
                Err(error) => assert!(!alloc::format!("{error}").is_empty()),
            }
        }
    }
}

/// By hand: `XENITH_KERNEL=file cargo test -p xenith-boot by_hand_kernel -- --ignored --nocapture`.
#[test]
#[ignore = "a tool for looking at one kernel"]
fn by_hand_kernel() {
    let Ok(path) = std::env::var("XENITH_KERNEL") else {
        return;
    };
    let source = Bytes(std::fs::read(path).unwrap());
    match probe(&source) {
        Ok(Probe::Gzip(gzip)) => {
            let mut sink = Bounded(Vec::new(), 64 << 20);
            let result = inflate(&source, &gzip, 64 << 20, &mut sink);
            std::println!("{gzip:x?} {result:x?}");
            if result.is_ok() {
                std::println!("{:x?}", probe_unpacked(&Bytes(sink.0), &gzip));
            }
        }
        Ok(Probe::Kernel(kernel)) => std::println!("{kernel:x?}"),
        Err(error) => std::println!("{error}"),
    }
}

#[test]
fn image_of_a_64_bit_kernel() {
    let mut image = vec![0; 0x1000];
    image[8..16].copy_from_slice(&0x8_0000u64.to_le_bytes());
    image[16..24].copy_from_slice(&0x1_2345_6000u64.to_le_bytes());
    image[24] = 0xa;
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let found = kernel(image.clone());
    assert_eq!(
        found,
        KernelImage {
            offset: 0,
            size: 0x1000,
            load: Load::Aligned {
                text_offset: 0x8_0000,
                memory: 0x1_2345_6000
            },
            format: "Image",
        }
    );
    assert_eq!(found.only(&[Execution::AArch64]), Ok(found));
    let refused = found.only(&[Execution::AArch32]).unwrap_err();
    assert!(
        alloc::format!("{refused}")
            .contains("a 64-bit kernel (Image), and this is a 32-bit hypervisor")
    );
    // The file may be larger than what the header claims.
    image[16..24].copy_from_slice(&1u64.to_le_bytes());
    assert!(matches!(
        kernel(image.clone()).load,
        Load::Aligned { memory: 0x1000, .. }
    ));
    image[24] = 0xb;
    let error = probe(&Bytes(image)).unwrap_err();
    assert_eq!(
        error,
        KernelError::Unsupported("a big-endian 64-bit kernel")
    );
}
