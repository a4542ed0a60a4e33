//! Tests of the trace. The reader of dumps here is independent of the writer, as `scripts/trace2json` is.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::dump::{MAX_LINE, RECORDS_PER_LINE, TextDump, write_binary};
use super::*;
use crate::addr::CpuId;
use crate::errno::Errno;

const D1V2: Subject = Subject::vcpu(DomId::new(1), VcpuId::new(2));

/// A random number generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn ring(count: usize) -> TraceRing {
    TraceRing::allocate(CpuId::new(3), count).unwrap()
}

fn fill(ring: &mut TraceRing, count: u64) {
    for i in 0..count {
        ring.write(1000 + i, Event::Interrupt, D1V2, [i as u32, 7]);
    }
}

#[test]
fn records_have_the_documented_layout() {
    let mut ring = ring(1);
    let time = 0x0807_0605_0403_0201;
    ring.write(time, Event::HypercallEnd, D1V2, [0x1413_1211, 0x1817_1615]);
    let bytes = ring.get(0).unwrap().as_bytes();
    assert_eq!(
        bytes,
        [
            1, 2, 3, 4, 5, 6, 7, 8, 0x02, 0x04, 3, 0, 1, 0, 2, 0, 0x11, 0x12, 0x13, 0x14, 0x15,
            0x16, 0x17, 0x18
        ]
    );
    let header = Header::new(62_500_000, 4, 9);
    assert_eq!(&header.as_bytes()[..8], b"XTRC\x01\x00\x18\x00");
}

#[test]
fn codes_are_distinct_and_in_a_known_class() {
    for event in Event::EVERY {
        assert_eq!(Event::from_code(event as u16), Some(event));
        assert!(Classes::ALL.contains(event.class()), "{event:?}");
        assert_eq!(event.class().bits().count_ones(), 1);
    }
    assert_eq!(Event::from_code(0), None);
    assert_eq!(Subject::IDLE.packed(), 0x7fff_0000);
}

#[test]
fn the_mask_decides_and_the_clock_rests_while_off() {
    let mask = TraceMask::default();
    let mut ring = ring(8);
    let untouched = || -> u64 { panic!("the clock was read for an event that is off") };
    for event in Event::EVERY {
        ring.record(&mask, untouched, event, D1V2, [0; 2]);
    }
    assert_eq!(ring.next(), 0);
    mask.set(Classes::IRQ | Classes::WAKE);
    assert_eq!(mask.classes(), Classes::IRQ | Classes::WAKE);
    for event in Event::EVERY {
        ring.record(&mask, || 5, event, D1V2, [0; 2]);
    }
    let kept: Vec<_> = ring.iter().map(|record| record.code).collect();
    assert_eq!(kept, [0x0301, 0x0302, 0x0501]);
}

#[test]
fn the_oldest_are_overwritten_and_counted() {
    let mut ring = ring(8);
    fill(&mut ring, 8);
    assert_eq!((ring.first(), ring.next()), (0, 8));
    fill(&mut ring, 13);
    assert_eq!((ring.first(), ring.next()), (13, 21));
    let kept: Vec<_> = ring.iter().map(|record| record.arguments[0]).collect();
    assert_eq!(kept, [5, 6, 7, 8, 9, 10, 11, 12]);
    assert!(ring.get(12).is_none() && ring.get(21).is_none());
    assert_eq!((ring.section().count, ring.section().first), (8, 13));
    ring.clear();
    assert_eq!((ring.iter().count(), ring.section().first), (0, 0));
}

#[test]
fn memory_of_any_size_will_do() {
    let mut none = TraceRing::new(CpuId::new(0), Box::new([]));
    fill(&mut none, 3);
    assert_eq!((none.next(), none.iter().count()), (0, 0));
    let mut five = TraceRing::new(CpuId::new(0), std::vec![Record::default(); 5].into());
    fill(&mut five, 9);
    assert_eq!((five.first(), five.iter().count()), (5, 4));
    assert!(five.iter().map(|r| r.arguments[0]).eq(5..9));
    assert_eq!(ring(0).iter().count(), 0);
    assert!(matches!(
        TraceRing::allocate(CpuId::new(0), (1 << 20) + 1),
        Err(Errno::Inval)
    ));
}

#[test]
fn class_lists() {
    for (list, classes) in [
        ("all", Some(Classes::ALL)),
        ("switch", Some(Classes::SWITCH)),
        ("irq,ipi", Some(Classes::IRQ | Classes::IPI)),
        ("all,-trap", Some(Classes::ALL.difference(Classes::TRAP))),
        ("-trap,trap", Some(Classes::TRAP)),
        ("none", Some(Classes::empty())),
        ("", None),
        ("irq,", None),
        ("irqs", None),
        ("IRQ", None),
        ("all -trap", None),
        ("none,irq", None),
    ] {
        assert_eq!(Classes::parse(list), classes, "{list}");
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let bits = group.iter().fold(0u32, |bits, &digit| {
            bits << 6 | digits.find(char::from(digit)).unwrap() as u32
        });
        bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    bytes
}

/// What is found in a console log.
#[derive(Default, Debug)]
struct Found {
    headers: Vec<Header>,
    sections: BTreeMap<u16, Section>,
    records: BTreeMap<(u16, u64), Record>,
    broken: usize,
}

fn parse(log: &str, dump: u16) -> Found {
    let mut found = Found::default();
    let name = std::format!("{dump:04x}");
    for line in log.lines() {
        let Some(at) = line.find("TRACE v1 ") else {
            continue;
        };
        let line = line[at..].trim_end();
        let is_whole = line.len() > 9
            && line.as_bytes()[line.len() - 9] == b' '
            && u32::from_str_radix(&line[line.len() - 8..], 16)
                == Ok(plain_crc(&line.as_bytes()[..line.len() - 9]));
        if !is_whole {
            found.broken += 1;
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        if words[3] != name {
            continue;
        }
        let hex = |word: &str| u64::from_str_radix(word, 16).unwrap();
        match words[2] {
            "h" => found
                .headers
                .push(Header::read_from_bytes(&decode_base64(words[4])).unwrap()),
            "s" => {
                let section = Section::read_from_bytes(&decode_base64(words[4])).unwrap();
                assert!(found.sections.insert(section.cpu, section).is_none());
            }
            "r" => {
                let (cpu, number) = (hex(words[4]) as u16, hex(words[5]));
                for (i, bytes) in decode_base64(words[6]).chunks(24).enumerate() {
                    let record = Record::read_from_bytes(bytes).unwrap();
                    assert_eq!(record.cpu, cpu);
                    assert!(
                        found
                            .records
                            .insert((cpu, number + i as u64), record)
                            .is_none()
                    );
                }
            }
            other => panic!("{other}"),
        }
    }
    found
}

/// CRC-32 by division of the polynomial, most significant bit first, unlike the writer's.
fn plain_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        for bit in 0..8 {
            let top = crc >> 31 ^ u32::from(byte >> bit & 1);
            crc = crc << 1 ^ if top != 0 { 0x04c1_1db7 } else { 0 };
        }
    }
    !crc.reverse_bits()
}

fn lines(dump: u16, ring: &TraceRing) -> Vec<String> {
    let mut text = TextDump::new(dump, Header::new(62_500_000, 4, 99), ring);
    core::iter::from_fn(|| text.next_line(ring).map(|line| line.as_str().to_string())).collect()
}

#[test]
fn the_crc_is_the_common_one() {
    assert_eq!(plain_crc(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_dump_is_read_back() {
    for count in [0, 1, 2, 3, 4, 64, 65, 200] {
        let mut ring = ring(64);
        fill(&mut ring, count);
        let lines = lines(0xbeef, &ring);
        let kept = count.min(64) as usize;
        assert_eq!(lines.len(), 2 + kept.div_ceil(RECORDS_PER_LINE));
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= MAX_LINE && line.is_ascii())
        );
        let found = parse(&lines.join("\r\n"), 0xbeef);
        assert_eq!(found.broken, 0);
        assert_eq!(found.headers, [Header::new(62_500_000, 4, 99)]);
        assert_eq!(found.sections[&3], ring.section());
        assert!(found.records.values().eq(ring.iter()));
        assert!(
            found
                .records
                .keys()
                .map(|key| key.1)
                .eq(ring.first()..ring.next())
        );
    }
}

#[test]
fn lines_of_a_fixed_dump_stay_as_they_are() {
    let mut ring = ring(4);
    fill(&mut ring, 1);
    assert_eq!(
        lines(1, &ring),
        [
            "TRACE v1 h 0001 WFRSQwEAGACgrLkDBAAAAGMAAAAAAAAA c4add25e",
            "TRACE v1 s 0001 AwAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA 4245f3e8",
            "TRACE v1 r 0001 0003 00000000 6AMAAAAAAAABAwMAAQACAAAAAAAHAAAA f718bff0",
        ]
    );
}

#[test]
fn a_ring_that_is_written_during_its_dump_loses_only_what_it_overwrites() {
    let mut ring = ring(16);
    fill(&mut ring, 16);
    let mut dump = TextDump::new(0, Header::new(1, 1, 0), &ring);
    let mut log = String::new();
    for turn in 0.. {
        let Some(line) = dump.next_line(&ring) else {
            break;
        };
        log.push_str(line.as_str());
        log.push('\n');
        // After the first records, ten more overwrite 0..10; 0..3 are out by then.
        if turn == 2 {
            fill(&mut ring, 10);
        }
    }
    let found = parse(&log, 0);
    let numbers: Vec<u64> = found.records.keys().map(|key| key.1).collect();
    assert_eq!(numbers, [0, 1, 2, 10, 11, 12, 13, 14, 15]);
    assert!(
        found
            .records
            .iter()
            .all(|(key, r)| u64::from(r.arguments[0]) == key.1)
    );
}

#[test]
fn dumps_survive_a_console() {
    for seed in 0..300 {
        let mut random = Random(seed);
        // Two pCPUs whose lines mix, with other lines between, prefixes, another dump, and damage.
        let mut rings = Vec::new();
        for cpu in 0..2 {
            let size = 1 << random.below(6);
            let mut ring = TraceRing::allocate(CpuId::new(cpu), size).unwrap();
            for _ in 0..random.below(80) {
                let event = Event::EVERY[random.below(11) as usize];
                let who = Subject::vcpu(
                    DomId::new(random.next() as u16),
                    VcpuId::new(random.next() as u16),
                );
                let arguments = [random.next() as u32, random.next() as u32];
                ring.write(random.next(), event, who, arguments);
            }
            rings.push(ring);
        }
        let mut sources: Vec<_> = rings.iter().map(|ring| lines(7, ring)).collect();
        sources.push(lines(8, &rings[0]));
        let mut log = String::new();
        let mut damaged = 0;
        while sources.iter().any(|source| !source.is_empty()) {
            let source = &mut sources[random.below(3) as usize];
            if source.is_empty() {
                continue;
            }
            let mut line = source.remove(0).into_bytes();
            match random.below(10) {
                0 => log.push_str("[    1.234567] Linux says TRACE v1\n"),
                1 => log.push_str("(XEN) [    0.5] "),
                _ => log.push_str("(XEN) "),
            }
            if random.below(12) == 0 {
                let at = 11 + random.below(line.len() as u64 - 11) as usize;
                line[at] ^= 1 << random.below(7);
                // What became of a letter is no line end, and no case of a hexadecimal digit.
                if line[at].is_ascii_control() || line[at].eq_ignore_ascii_case(&(line[at] ^ 0x20))
                {
                    line[at] = b'!';
                }
                damaged += 1;
            }
            log.push_str(core::str::from_utf8(&line).unwrap());
            log.push_str("\r\n");
        }
        let found = parse(&log, 7);
        assert_eq!(found.broken, damaged, "seed {seed}");
        // Nothing is invented, and without damage nothing is missing.
        for ((cpu, number), record) in &found.records {
            let expected = rings[usize::from(*cpu)].get(*number);
            assert_eq!(Some(record), expected, "seed {seed}");
        }
        let kept: usize = rings.iter().map(|ring| ring.iter().count()).sum();
        assert!(
            found.records.len() + damaged * RECORDS_PER_LINE >= kept,
            "seed {seed}"
        );
    }
}

#[test]
fn a_file_is_header_sections_and_records() {
    let mut rings = [ring(4), ring(8)];
    fill(&mut rings[0], 6);
    fill(&mut rings[1], 2);
    let mut file = Vec::new();
    write_binary(&Header::new(1_000_000_000, 2, 0), &rings, |bytes| {
        file.extend_from_slice(bytes)
    });
    assert_eq!(file.len(), 24 * (1 + 1 + 4 + 1 + 2));
    assert_eq!(Header::read_from_bytes(&file[..24]).unwrap().cpu_count, 2);
    let section = Section::read_from_bytes(&file[24..48]).unwrap();
    assert_eq!((section.count, section.first), (4, 2));
    assert_eq!(
        Record::read_from_bytes(&file[48..72]).unwrap().arguments[0],
        2
    );
}
