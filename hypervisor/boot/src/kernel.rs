//! Recognises the kernel of a domain in a boot module: zImage, Image, uImage, and each inside gzip.
//!
//! A module is not mapped as a whole, so the image is read through [`ImageSource`]. A kernel inside gzip is unpacked
//! into memory of the caller's with [`inflate`] and then probed again.
//!
//! Formats: the arm32 boot protocol of Linux (zImage: magic at 0x24, start and end at 0x28 and 0x2c), that of arm64
//! (Image: text offset at 0x08, size in memory at 0x10, flags at 0x18, magic at 0x38), the legacy
//! image header of U-Boot (64 bytes, big-endian), RFC 1952 (gzip).
//!
//! Invariants: what [`probe`] returns lies inside the source; all numbers from the image are checked. Takes no locks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use xenith_core::emulate::Execution;

#[cfg(test)]
mod tests;

const ZIMAGE_MAGIC: u32 = 0x016f_2818;
const ZIMAGE_END: usize = 0x30;
const IMAGE64_MAGIC: u32 = 0x644d_5241;
const UIMAGE_MAGIC: u32 = 0x2705_1956;
const UIMAGE_HEADER: usize = 64;
const FDT_MAGIC: u32 = 0xd00d_feed;
/// Bytes read at a time; they lie on the boot stack.
const CHUNK: usize = 512;
/// The window of deflate.
const WINDOW: usize = 32 << 10;

/// A boot module's bytes.
pub trait ImageSource {
    /// Returns the size in bytes.
    fn len(&self) -> u64;
    /// Returns whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`ReadError`] when the memory cannot be read, or the range is not inside the module.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError>;
}

/// Where an unpacked kernel goes.
pub trait ImageSink {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`SinkFull`] when there is no more room.
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull>;
}

/// The module's memory cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError;

/// There is no more room for the unpacked kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkFull;

/// What a module turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A kernel to load as it is.
    Kernel(KernelImage),
    /// To be unpacked with [`inflate`], then probed with [`probe_unpacked`].
    Gzip(Gzip),
}

/// A kernel that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Where its first byte is in the source.
    pub offset: u64,
    /// Bytes to load, an appended device tree included.
    pub size: u64,
    /// Where it wants to be.
    pub load: Load,
    /// The name of its format, for messages.
    pub format: &'static str,
}

/// Where a kernel wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Anywhere the zImage rules allow; its entry is that many bytes into it.
    Anywhere {
        /// Offset of the entry point in bytes.
        entry_offset: u64,
    },
    /// That many bytes behind a multiple of 2 MiB.
    Aligned {
        /// The bytes.
        text_offset: u64,
        /// Bytes it takes in memory, what it does not bring with it included.
        memory: u64,
    },
    /// At a guest-physical address.
    Fixed {
        /// Of the first byte.
        address: u64,
        /// Of the entry point.
        entry: u64,
    },
}

/// A gzip member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gzip {
    /// Where its header is in the source.
    pub offset: u64,
    /// Its size in bytes, trailer included.
    pub size: u64,
    /// The unpacked size that the trailer claims (modulo 4 GiB): to choose the memory by, not to trust.
    pub size_hint: u32,
    /// Where a uImage around it wants the unpacked kernel.
    pub load: Option<Load>,
}

/// Why a module cannot be started as a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The module's memory cannot be read.
    Read,
    /// The module has no bytes, or fewer than any kernel.
    TooSmall(u64),
    /// The image is of a known kind that cannot be started here.
    Unsupported(&'static str),
    /// The image starts with this word (little-endian), which means nothing.
    Unknown(u32),
    /// A zImage whose header claims an end at or before its start, or beyond its file.
    ZimageSize {
        /// Bytes according to the header.
        claimed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A uImage that is cut off: bytes claimed and there.
    UimageSize {
        /// Bytes according to the header.
        claimed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A uImage whose header or data does not match its checksum.
    UimageChecksum(&'static str),
    /// A uImage whose entry point is not inside what is loaded.
    UimageEntry(u32),
    /// Not valid gzip data.
    Gzip(&'static str),
    /// The unpacked kernel is larger than allowed, in bytes.
    UnpackedTooLarge(u64),
    /// The heap is exhausted.
    OutOfMemory,
}

impl core::fmt::Display for KernelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const ACCEPTED: &str = "accepted are a zImage or an Image, as the hypervisor runs it, a uImage of a 32-bit Arm kernel, and each inside gzip";
        match self {
            Self::Read => f.write_str("the kernel module's memory cannot be read"),
            Self::TooSmall(size) => {
                write!(f, "the kernel module has only {size} bytes; {ACCEPTED}")
            }
            Self::Unsupported(what) => write!(f, "the kernel module is {what}; {ACCEPTED}"),
            Self::Unknown(word) => write!(
                f,
                "the kernel module starts with {word:#010x}, no known format; {ACCEPTED}"
            ),
            Self::ZimageSize { claimed, available } => write!(
                f,
                "the zImage's header claims {claimed} bytes, the module has {available}; is the file complete?"
            ),
            Self::UimageSize { claimed, available } => write!(
                f,
                "the uImage's header claims {claimed} bytes of data, the module has {available}; is the file complete?"
            ),
            Self::UimageChecksum(part) => write!(
                f,
                "the uImage's {part} does not match its checksum; load it again"
            ),
            Self::UimageEntry(entry) => write!(
                f,
                "the uImage's entry point {entry:#x} is outside the image"
            ),
            Self::Gzip(why) => write!(f, "the kernel cannot be unpacked: {why}"),
            Self::UnpackedTooLarge(limit) => write!(f, "the unpacked kernel exceeds {limit} bytes"),
            Self::OutOfMemory => {
                f.write_str("the hypervisor's heap has no room to unpack the kernel")
            }
        }
    }
}

impl From<ReadError> for KernelError {
    fn from(_: ReadError) -> Self {
        Self::Read
    }
}

/// Finds out what a kernel module is.
///
/// # Errors
/// A [`KernelError`] that names what was found and what is accepted.
#[inline(never)]
pub fn probe(source: &dyn ImageSource) -> Result<Probe, KernelError> {
    let size = source.len();
    let head = Head::read(source, 0, size)?;
    if head.be32(0) == UIMAGE_MAGIC {
        return probe_uimage(source, &head);
    }
    if head.is_gzip() {
        return gzip(source, 0, size, None).map(Probe::Gzip);
    }
    probe_plain(source, 0, size).map(Probe::Kernel)
}

/// Finds out what came out of a [`Gzip`].
///
/// # Errors
/// As [`probe`]; gzip or a uImage inside gzip inside a uImage is refused.
#[inline(never)]
pub fn probe_unpacked(source: &dyn ImageSource, gzip: &Gzip) -> Result<KernelImage, KernelError> {
    let size = source.len();
    if let Some(load) = gzip.load {
        return uimage_payload(source, 0, size, load);
    }
    match probe(source)? {
        Probe::Kernel(kernel) => Ok(kernel),
        Probe::Gzip(_) => Err(KernelError::Unsupported("compressed twice")),
    }
}

/// Unpacks a gzip member into `sink`, at most `limit` bytes, and returns how many came out.
///
/// Takes about 45 KiB of heap meanwhile.
///
/// # Errors
/// [`KernelError::Gzip`] for data that is broken, cut off or does not match its checksum,
/// [`KernelError::UnpackedTooLarge`] beyond `limit` or when the sink is full, [`KernelError::OutOfMemory`].
#[inline(never)]
pub fn inflate(
    source: &dyn ImageSource,
    gzip: &Gzip,
    limit: u64,
    sink: &mut dyn ImageSink,
) -> Result<u64, KernelError> {
    let end = gzip
        .offset
        .checked_add(gzip.size)
        .filter(|&end| end <= source.len());
    let end = end.ok_or(KernelError::Gzip("cut off"))?;
    let mut at = gzip_data_start(source, gzip.offset, end)?;
    let mut window = Vec::new();
    window
        .try_reserve_exact(WINDOW)
        .map_err(|_| KernelError::OutOfMemory)?;
    window.resize(WINDOW, 0);
    let mut state = Box::<DecompressorOxide>::default();
    let mut crc = Crc32::new();
    let mut total: u64 = 0;
    let mut position = 0;
    let mut buffer = [0; CHUNK];
    let (mut unread, mut filled) = (0, 0);
    loop {
        if unread == filled && at < end {
            filled = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
            source.read_at(at, buffer.get_mut(..filled).ok_or(KernelError::Read)?)?;
            at += u64::try_from(filled).map_err(|_| KernelError::Read)?;
            unread = 0;
        }
        let more = if at < end {
            inflate_flags::TINFL_FLAG_HAS_MORE_INPUT
        } else {
            0
        };
        let input = buffer.get(unread..filled).ok_or(KernelError::Read)?;
        let (status, read, written) = decompress(&mut state, input, &mut window, position, more);
        unread = unread.saturating_add(read);
        let out_end = position.saturating_add(written);
        let out = window
            .get(position..out_end)
            .ok_or(KernelError::Gzip("bad data"))?;
        total = total.saturating_add(u64::try_from(written).map_err(|_| KernelError::Read)?);
        if total > limit {
            return Err(KernelError::UnpackedTooLarge(limit));
        }
        crc.update(out);
        sink.write(out)
            .map_err(|SinkFull| KernelError::UnpackedTooLarge(total))?;
        position = out_end % WINDOW;
        match status {
            TINFLStatus::Done => break,
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput if at < end => {}
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(KernelError::Gzip("cut off"));
            }
            _ => return Err(KernelError::Gzip("bad data")),
        }
    }
    let left = u64::try_from(filled.saturating_sub(unread)).map_err(|_| KernelError::Read)?;
    let trailer_at = at.saturating_sub(left);
    if end.saturating_sub(trailer_at) < 8 {
        return Err(KernelError::Gzip("cut off"));
    }
    let mut trailer = [0; 8];
    source.read_at(trailer_at, &mut trailer)?;
    let [c0, c1, c2, c3, s0, s1, s2, s3] = trailer;
    if u32::from_le_bytes([c0, c1, c2, c3]) != crc.finish() {
        return Err(KernelError::Gzip("wrong checksum"));
    }
    if u64::from(u32::from_le_bytes([s0, s1, s2, s3])) != total & 0xffff_ffff {
        return Err(KernelError::Gzip("wrong length"));
    }
    Ok(total)
}

/// The first bytes of an image; bytes behind its end are 0.
struct Head {
    bytes: [u8; 64],
}

impl Head {
    fn read(source: &dyn ImageSource, offset: u64, size: u64) -> Result<Self, KernelError> {
        let mut bytes = [0; 64];
        let length = usize::try_from(size).map_or(bytes.len(), |size| size.min(bytes.len()));
        if length < 4 {
            return Err(KernelError::TooSmall(size));
        }
        source.read_at(offset, bytes.get_mut(..length).ok_or(KernelError::Read)?)?;
        Ok(Self { bytes })
    }

    fn word(&self, at: usize) -> [u8; 4] {
        self.bytes
            .get(at..at.saturating_add(4))
            .and_then(|word| word.try_into().ok())
            .unwrap_or_default()
    }

    fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.word(at))
    }

    fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.word(at))
    }

    fn is_gzip(&self) -> bool {
        self.bytes.starts_with(&[0x1f, 0x8b])
    }

    /// Names what the image is if it is something that we know and cannot start.
    fn name_unsupported(&self) -> Option<&'static str> {
        const KINDS: [(&[u8], &str); 13] = [
            (b"\x7fELF", "an ELF file (use the zImage of the same build)"),
            (b"\xfd7zXZ", "compressed with xz"),
            (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
            (b"BZh", "compressed with bzip2"),
            (b"\x5d\0\0", "compressed with lzma"),
            (b"\x02\x21\x4c\x18", "compressed with lz4"),
            (b"\x04\x22\x4d\x18", "compressed with lz4"),
            (b"\x89LZO", "compressed with lzop"),
            (
                b"0707",
                "a cpio archive, so an initramfs (are kernel and initrd swapped?)",
            ),
            (b"\xd0\x0d\xfe\xed", "a device tree or FIT image"),
            (b"MZ", "an EFI program that is no Arm kernel"),
            (b"\x1f\x8b", "compressed with gzip twice"),
            (b"\x27\x05\x19\x56", "a uImage inside a uImage"),
        ];
        // The first word of an Image before its magic was introduced: b to offset 0x20.
        if self.le32(0) == 0x1400_0008 {
            return Some("a 64-bit kernel of before Linux 3.17 (old Image)");
        }
        if self.be32(0x24) == ZIMAGE_MAGIC {
            return Some("a big-endian zImage");
        }
        KINDS
            .iter()
            .find(|(magic, _)| self.bytes.starts_with(magic))
            .map(|&(_, name)| name)
    }
}

impl KernelImage {
    /// Returns what the kernel is.
    pub const fn execution(&self) -> Execution {
        match self.load {
            Load::Aligned { .. } => Execution::AArch64,
            Load::Anywhere { .. } | Load::Fixed { .. } => Execution::AArch32,
        }
    }

    /// Accepts the kernel if the hypervisor runs such.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`].
    pub fn only(self, accepted: &[Execution]) -> Result<Self, KernelError> {
        if accepted.contains(&self.execution()) {
            return Ok(self);
        }
        Err(KernelError::Unsupported(match self.execution() {
            Execution::AArch64 => "a 64-bit kernel (Image), and this is a 32-bit hypervisor",
            Execution::AArch32 => "a 32-bit kernel, and this CPU runs 64-bit kernels only",
        }))
    }
}

/// An Image, whose header is at the start of the source.
fn probe_image(head: &Head, offset: u64, size: u64) -> Result<KernelImage, KernelError> {
    /// The kernel is big-endian.
    const BIG_ENDIAN: u64 = 1;
    let le64 = |at| u64::from(head.le32(at)) | u64::from(head.le32(at + 4)) << 32;
    let (text_offset, memory, flags) = (le64(0x08), le64(0x10), le64(0x18));
    if flags & BIG_ENDIAN != 0 {
        return Err(KernelError::Unsupported("a big-endian 64-bit kernel"));
    }
    // Kernels of before Linux 3.17 do not say how much they need, nor their true offset.
    if memory == 0 {
        return Err(KernelError::Unsupported(
            "a 64-bit kernel of before Linux 3.17 (old Image)",
        ));
    }
    Ok(KernelImage {
        offset,
        size,
        load: Load::Aligned {
            text_offset,
            memory: memory.max(size),
        },
        format: "Image",
    })
}

/// A zImage or Image, or an error that says what else it is.
fn probe_plain(
    source: &dyn ImageSource,
    offset: u64,
    size: u64,
) -> Result<KernelImage, KernelError> {
    let head = Head::read(source, offset, size)?;
    if head.le32(0x38) == IMAGE64_MAGIC && size >= 64 {
        return probe_image(&head, offset, size);
    }
    if head.le32(0x24) != ZIMAGE_MAGIC {
        return Err(match head.name_unsupported() {
            Some(name) => KernelError::Unsupported(name),
            None if size < 64 => KernelError::TooSmall(size),
            None => KernelError::Unknown(head.le32(0)),
        });
    }
    let (start, end) = (u64::from(head.le32(0x28)), u64::from(head.le32(0x2c)));
    let claimed = end.saturating_sub(start);
    if claimed < u64::try_from(ZIMAGE_END).unwrap_or(0) || claimed > size {
        return Err(KernelError::ZimageSize {
            claimed,
            available: size,
        });
    }
    let load = match start {
        0 => Load::Anywhere { entry_offset: 0 },
        _ => Load::Fixed {
            address: start,
            entry: start,
        },
    };
    let appended = appended_tree_size(source, offset.saturating_add(claimed), size - claimed)?;
    Ok(KernelImage {
        offset,
        size: claimed.saturating_add(appended),
        load,
        format: "zImage",
    })
}

/// The size of a device tree behind a zImage; 0 when there is none. What is only padding is not loaded.
fn appended_tree_size(
    source: &dyn ImageSource,
    offset: u64,
    available: u64,
) -> Result<u64, KernelError> {
    if available < 8 {
        return Ok(0);
    }
    let mut header = [0; 8];
    source.read_at(offset, &mut header)?;
    let [m0, m1, m2, m3, s0, s1, s2, s3] = header;
    let size = u64::from(u32::from_be_bytes([s0, s1, s2, s3]));
    let is_tree = u32::from_be_bytes([m0, m1, m2, m3]) == FDT_MAGIC && size <= available;
    Ok(if is_tree { size } else { 0 })
}

fn probe_uimage(source: &dyn ImageSource, head: &Head) -> Result<Probe, KernelError> {
    let header_size = u64::try_from(UIMAGE_HEADER).unwrap_or(0);
    let available = source.len().saturating_sub(header_size);
    if source.len() < header_size {
        return Err(KernelError::TooSmall(source.len()));
    }
    let mut header = head.bytes;
    header.iter_mut().skip(4).take(4).for_each(|byte| *byte = 0);
    let mut crc = Crc32::new();
    crc.update(&header);
    if crc.finish() != head.be32(4) {
        return Err(KernelError::UimageChecksum("header"));
    }
    let size = u64::from(head.be32(12));
    if size > available || size == 0 {
        return Err(KernelError::UimageSize {
            claimed: size,
            available,
        });
    }
    let [os, arch, kind, compression] = head.word(28);
    // Numbers of U-Boot's include/image.h.
    match (os, arch, kind) {
        (5, 2, 2) => {}
        (5, 22, 2) => {
            return Err(KernelError::Unsupported(
                "a uImage of a 64-bit kernel (use its Image)",
            ));
        }
        (_, _, 3) => {
            return Err(KernelError::Unsupported(
                "a uImage of a ramdisk (are kernel and initrd swapped?)",
            ));
        }
        (5, _, 2) => {
            return Err(KernelError::Unsupported(
                "a uImage of a kernel for another processor",
            ));
        }
        _ => return Err(KernelError::Unsupported("a uImage of no Linux kernel")),
    }
    let mut crc = Crc32::new();
    let mut buffer = [0; CHUNK];
    let mut done: u64 = 0;
    while done < size {
        let length = usize::try_from(size - done).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = buffer.get_mut(..length).ok_or(KernelError::Read)?;
        source.read_at(header_size.saturating_add(done), chunk)?;
        crc.update(chunk);
        done = done.saturating_add(u64::try_from(length).unwrap_or(0));
    }
    if crc.finish() != head.be32(24) {
        return Err(KernelError::UimageChecksum("data"));
    }
    let (address, entry) = (head.be32(16), head.be32(20));
    let load = match address {
        0 => Load::Anywhere {
            entry_offset: u64::from(entry),
        },
        _ => Load::Fixed {
            address: u64::from(address),
            entry: u64::from(entry),
        },
    };
    match compression {
        0 => uimage_payload(source, header_size, size, load).map(Probe::Kernel),
        1 => gzip(source, header_size, size, Some(load)).map(Probe::Gzip),
        _ => Err(KernelError::Unsupported(
            "a uImage compressed with something else than gzip",
        )),
    }
}

/// What a uImage carries is loaded as it is, where the uImage says. Only obvious mistakes are refused.
fn uimage_payload(
    source: &dyn ImageSource,
    offset: u64,
    size: u64,
    load: Load,
) -> Result<KernelImage, KernelError> {
    let head = Head::read(source, offset, size)?;
    if head.le32(0x24) == ZIMAGE_MAGIC {
        // Checks that it is whole; an appended tree or padding is loaded with it.
        probe_plain(source, offset, size)?;
    } else if let Some(name) = head.name_unsupported() {
        return Err(KernelError::Unsupported(name));
    }
    if head.le32(0x38) == IMAGE64_MAGIC {
        return Err(KernelError::Unsupported(
            "a 64-bit kernel in the uImage of a 32-bit one (use its Image)",
        ));
    }
    let (from, entry) = match load {
        Load::Anywhere { entry_offset } => (0, entry_offset),
        Load::Aligned { text_offset, .. } => (0, text_offset),
        Load::Fixed { address, entry } => (address, entry),
    };
    if entry.checked_sub(from).is_none_or(|offset| offset >= size) {
        return Err(KernelError::UimageEntry(
            u32::try_from(entry).unwrap_or(u32::MAX),
        ));
    }
    Ok(KernelImage {
        offset,
        size,
        load,
        format: "uImage",
    })
}

fn gzip(
    source: &dyn ImageSource,
    offset: u64,
    size: u64,
    load: Option<Load>,
) -> Result<Gzip, KernelError> {
    // The smallest member: 10 bytes of header, 2 of data, 8 of trailer.
    let hint_at = offset
        .saturating_add(size)
        .checked_sub(4)
        .filter(|_| size >= 20);
    let mut hint = [0; 4];
    source.read_at(hint_at.ok_or(KernelError::Gzip("cut off"))?, &mut hint)?;
    gzip_data_start(source, offset, offset.saturating_add(size))?;
    Ok(Gzip {
        offset,
        size,
        size_hint: u32::from_le_bytes(hint),
        load,
    })
}

/// Checks the header of a gzip member (RFC 1952, 2.3) and returns where the deflate data starts.
fn gzip_data_start(source: &dyn ImageSource, offset: u64, end: u64) -> Result<u64, KernelError> {
    const CUT_OFF: KernelError = KernelError::Gzip("cut off");
    let read = |at: u64| {
        let mut byte = [0];
        if at >= end {
            return Err(CUT_OFF);
        }
        source.read_at(at, &mut byte)?;
        Ok::<u8, KernelError>(byte[0])
    };
    let mut header = [0; 10];
    if end.saturating_sub(offset) < 10 {
        return Err(CUT_OFF);
    }
    source.read_at(offset, &mut header)?;
    let [0x1f, 0x8b, 8, flags, ..] = header else {
        return Err(KernelError::Gzip("no gzip header"));
    };
    if flags & 0xe0 != 0 {
        return Err(KernelError::Gzip("unknown header flags"));
    }
    let mut at = offset.saturating_add(10);
    if flags & 4 != 0 {
        let extra = u16::from_le_bytes([read(at)?, read(at.saturating_add(1))?]);
        at = at.saturating_add(2).saturating_add(u64::from(extra));
    }
    // File name and comment.
    for flag in [8, 16] {
        if flags & flag != 0 {
            while read(at)? != 0 {
                at = at.saturating_add(1);
            }
            at = at.saturating_add(1);
        }
    }
    if flags & 2 != 0 {
        at = at.saturating_add(2);
    }
    if at < end { Ok(at) } else { Err(CUT_OFF) }
}

/// CRC-32 as gzip and U-Boot use it.
struct Crc32(u32);

impl Crc32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 != 0 {
                    value >> 1 ^ 0xedb8_8320
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };

    fn new() -> Self {
        Self(u32::MAX)
    }

    fn update(&mut self, bytes: &[u8]) {
        const { assert!(Self::TABLE.len() == 256) };
        for &byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = self.0 >> 8 ^ Self::TABLE[usize::from(low ^ byte)];
        }
    }

    fn finish(&self) -> u32 {
        !self.0
    }
}
