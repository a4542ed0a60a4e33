//! The trace as lines of text, for a console that other lines share, and as bytes, for a file.
//!
//! A line is
//!
//! ```text
//! TRACE v1 h DUMP HEADER CRC
//! TRACE v1 s DUMP SECTION CRC
//! TRACE v1 r DUMP CPU NUMBER RECORDS CRC
//! ```
//!
//! DUMP, CPU (four digits) and NUMBER (eight) are hexadecimal. DUMP tells one dump from another. HEADER is a [`Header`],
//! SECTION a [`Section`], RECORDS are one to three [`Record`](super::Record)s in base64. NUMBER is the low half of the
//! number of the first of them. CRC is the CRC-32 (IEEE 802.3, eight digits) of what stands before it, from the `T` of
//! `TRACE` to the last character of the base64. Each pCPU dumps its own ring; each begins with a header, so no pCPU
//! waits for another, and the lines of several may mix.
//!
//! A file is a [`Header`], then for each pCPU a [`Section`] and its records.

use core::fmt::{self, Write};

use zerocopy::IntoBytes;

use super::{Header, Section, TraceRing};

/// Records on a line of text.
pub const RECORDS_PER_LINE: usize = 3;
/// The longest line, in characters: 30 before the base64, 32 for each record, a space and the CRC.
pub const MAX_LINE: usize = 30 + 32 * RECORDS_PER_LINE + 9;

/// Adds bytes to a CRC-32 (reflected, polynomial 0xedb88320). It begins with all ones and is inverted at the end.
fn crc32(mut crc: u32, bytes: &[u8]) -> u32 {
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

/// A line being put together. Holds [`MAX_LINE`] characters.
pub struct Line {
    text: [u8; MAX_LINE],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            text: [0; MAX_LINE],
            length: 0,
        }
    }
}

impl Line {
    /// Returns the line.
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..self.length).unwrap_or_default();
        // Only ASCII was ever written.
        core::str::from_utf8(text).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) -> fmt::Result {
        *self.text.get_mut(self.length).ok_or(fmt::Error)? = byte;
        self.length += 1;
        Ok(())
    }

    /// Appends bytes in base64 (RFC 4648); their number is a multiple of 3.
    fn base64(&mut self, bytes: &[u8]) -> fmt::Result {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for group in bytes.chunks_exact(3) {
            let bits = group
                .iter()
                .fold(0, |bits, &byte| bits << 8 | usize::from(byte));
            for shift in [18, 12, 6, 0] {
                self.push(DIGITS[bits >> shift & 63])?;
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> fmt::Result {
        let crc = !crc32(!0, self.as_str().as_bytes());
        write!(self, " {crc:08x}")
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().try_for_each(|byte| self.push(byte))
    }
}

/// Where a dump as text stands, so that it can be printed in parts: a serial line takes seconds for a ring, and no guest
/// should wait for so long. The ring may be written to meanwhile; what is overwritten before its turn is missing.
#[derive(Clone, Copy, Debug)]
pub struct TextDump {
    dump: u16,
    header: Header,
    section: Section,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Header,
    Section,
    /// The next line begins with this record.
    Records(u64),
}

impl TextDump {
    /// Begins a dump of the records that the ring holds now. `dump` differs from that of the last dumps, but is the same
    /// on all pCPUs.
    pub fn new(dump: u16, header: Header, ring: &TraceRing) -> Self {
        Self {
            dump,
            header,
            section: ring.section(),
            step: Step::Header,
        }
    }

    /// Returns the next line, without a line end, or `None` when all is said.
    pub fn next_line(&mut self, ring: &TraceRing) -> Option<Line> {
        let mut line = Line::default();
        // A line has room for all of this.
        self.write_line(ring, &mut line)?.ok()?;
        line.seal().ok()?;
        Some(line)
    }

    fn write_line(&mut self, ring: &TraceRing, line: &mut Line) -> Option<fmt::Result> {
        let dump = self.dump;
        match self.step {
            Step::Header => {
                self.step = Step::Section;
                Some(
                    write!(line, "TRACE v1 h {dump:04x} ")
                        .and_then(|()| line.base64(self.header.as_bytes())),
                )
            }
            Step::Section => {
                self.step = Step::Records(self.section.first);
                Some(
                    write!(line, "TRACE v1 s {dump:04x} ")
                        .and_then(|()| line.base64(self.section.as_bytes())),
                )
            }
            Step::Records(first) => {
                let first = first.max(ring.first());
                let end = (self.section.first + u64::from(self.section.count))
                    .min(first.saturating_add(RECORDS_PER_LINE as u64));
                if first >= end {
                    return None;
                }
                self.step = Step::Records(end);
                let (cpu, number) = (self.section.cpu, first as u32);
                Some(
                    write!(line, "TRACE v1 r {dump:04x} {cpu:04x} {number:08x} ").and_then(|()| {
                        (first..end)
                            .filter_map(|number| ring.get(number))
                            .try_for_each(|record| line.base64(record.as_bytes()))
                    }),
                )
            }
        }
    }
}

/// Gives the bytes of a file to `out`, part by part.
pub fn write_binary<'a>(
    header: &Header,
    rings: impl IntoIterator<Item = &'a TraceRing>,
    mut out: impl FnMut(&[u8]),
) {
    out(header.as_bytes());
    for ring in rings {
        out(ring.section().as_bytes());
        for record in ring.iter() {
            out(record.as_bytes());
        }
    }
}
