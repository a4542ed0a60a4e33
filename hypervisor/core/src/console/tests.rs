use core::fmt::Write;

use super::*;
use crate::addr::DomId;

fn all<S: AsRef<[u8]> + AsMut<[u8]>>(ring: &ConsoleRing<S>) -> Vec<u8> {
    let mut out = vec![0; ring.capacity() + 10];
    let (count, _) = ring.read(None, &mut out);
    out.truncate(count);
    out
}

#[test]
fn ring_sizes_are_powers_of_two() {
    for (requested, size) in [
        (0, 16 << 10),
        (1, 16 << 10),
        (32 << 10, 32 << 10),
        ((64 << 10) - 1, 32 << 10),
        (u64::MAX, MAX_RING_BYTES),
    ] {
        assert_eq!(ring_bytes(requested), size);
        assert_eq!(ring_bytes(requested).count_ones(), 1);
    }
    assert_eq!(ConsoleRing::allocate(20_000).unwrap().capacity(), 16 << 10);
}

#[test]
fn the_ring_follows_a_list_of_bytes() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) as usize % limit
    };
    let mut ring = ConsoleRing::<[u8; 64]>::in_place();
    // Near the wrap of the numbers.
    ring.first = u32::MAX - 500;
    ring.next = ring.first;
    let mut model: Vec<u8> = Vec::new();
    let mut follower = ring.next;
    for step in 0..2000 {
        match random(5) {
            0..=2 => {
                let bytes: Vec<u8> = (0..random(90)).map(|i| (step + i) as u8).collect();
                ring.append(&bytes);
                model.extend(&bytes);
                model.drain(..model.len().saturating_sub(64));
                // A reader that comes each time gets everything that was not overwritten.
                let mut out = [0; 200];
                let (count, next) = ring.read(Some(follower), &mut out);
                assert_eq!(count, bytes.len().min(64), "step {step}");
                assert_eq!(out[..count], bytes[bytes.len() - count..]);
                follower = next;
            }
            3 => {
                let mut out = vec![0; random(80)];
                let (count, next) = ring.read(None, &mut out);
                assert_eq!(out[..count], model[..count], "step {step}");
                assert_eq!(count, model.len().min(out.len()));
                if random(2) == 0 {
                    ring.clear_to(next);
                    model.drain(..count);
                }
            }
            _ => assert_eq!(all(&ring), model, "step {step}"),
        }
    }
}

#[test]
fn strange_numbers_do_no_harm() {
    let mut ring = ConsoleRing::<[u8; 16]>::in_place();
    ring.append(b"0123456789abcdefXYZ");
    let mut out = [0; 32];
    assert_eq!(ring.read(Some(0), &mut out), (16, 19), "older than kept");
    assert_eq!(ring.read(Some(20), &mut out), (16, 19), "never printed");
    assert_eq!(ring.read(Some(u32::MAX), &mut out), (16, 19));
    assert_eq!(ring.read(Some(17), &mut out), (2, 19));
    ring.clear_to(1);
    ring.clear_to(400);
    assert_eq!(all(&ring), b"3456789abcdefXYZ");
    ring.clear_to(19);
    assert_eq!(all(&ring), b"");
}

#[test]
fn a_bigger_ring_takes_over() {
    let mut early = ConsoleRing::<[u8; 128]>::in_place();
    for round in 0..50 {
        early.append(format!("line {round}\n").as_bytes());
    }
    let mut ring = ConsoleRing::allocate(0).unwrap();
    ring.take_over(&early);
    assert_eq!(all(&ring), all(&early));
    let mut out = [0; 8];
    assert_eq!(ring.read(None, &mut out).1, early.read(None, &mut out).1);
    ring.append(b"more");
    assert!(all(&ring).ends_with(b"line 49\nmore"));
}

#[test]
fn thresholds_parse_as_xen_does() {
    assert_eq!(Threshold::parse("warning"), Some(Threshold::HOST_DEFAULT));
    assert_eq!(
        Threshold::parse("none/warning"),
        Some(Threshold::GUEST_DEFAULT)
    );
    for all in ["all", "debug", "all/none", "debug/all", "all/error"] {
        assert_eq!(Threshold::parse(all), Some(Threshold::ALL), "{all}");
    }
    for bad in [
        "",
        "/",
        "most",
        "warning/",
        "/info",
        "info/info/info",
        "All",
    ] {
        assert_eq!(Threshold::parse(bad), None, "{bad}");
    }
    // The lines of the real log.
    assert_eq!(Threshold::ALL.to_string(), "All");
    assert_eq!(
        Threshold::GUEST_DEFAULT.to_string(),
        "Nothing (Rate-limited: Errors and warnings)"
    );
    assert_eq!(
        Threshold::parse("error/info").unwrap().to_string(),
        "Errors (Rate-limited: Errors, warnings and info)"
    );
}

#[test]
fn messages_are_judged_by_source_and_severity() {
    use Verdict::{Drop, Print, RateLimit};
    let mut filter = LevelFilter::new();
    let judge = |filter: &LevelFilter, target, level| {
        let (source, severity) = classify(target, level);
        filter.judge(source, severity)
    };
    for (target, level, verdict) in [
        ("xenith_core::vgic", log::Level::Error, Print),
        ("xenith_core::vgic", log::Level::Warn, Print),
        ("xenith_core::vgic", log::Level::Info, Drop),
        ("xen", log::Level::Info, Print),
        ("xen", log::Level::Debug, Drop),
        ("guest", log::Level::Error, RateLimit),
        ("guest:gnttab", log::Level::Warn, RateLimit),
        ("guest", log::Level::Info, Drop),
        ("guesthouse", log::Level::Error, Print),
    ] {
        assert_eq!(judge(&filter, target, level), verdict, "{target} {level}");
    }
    filter.guest = Threshold::parse("error/all").unwrap();
    assert_eq!(judge(&filter, "guest", log::Level::Error), Print);
    assert_eq!(judge(&filter, "guest", log::Level::Trace), RateLimit);
    filter.guest = Threshold::parse("none").unwrap();
    assert_eq!(judge(&filter, "guest", log::Level::Error), Drop);
    filter.start_everything();
    assert_eq!(judge(&filter, "guest", log::Level::Trace), Print);
    filter.end_everything();
    filter.end_everything();
    assert_eq!(judge(&filter, "guest", log::Level::Error), Drop);
}

#[test]
fn the_rate_limit_lets_a_burst_through_and_counts_the_rest() {
    const SECOND: u64 = 1_000_000_000;
    let mut limiter = RateLimiter::new();
    for _ in 0..10 {
        assert_eq!(limiter.allow(SECOND), Some(0));
    }
    for _ in 0..33 {
        assert_eq!(limiter.allow(2 * SECOND), None);
    }
    assert_eq!(limiter.allow(5 * SECOND), None);
    assert_eq!(limiter.allow(6 * SECOND), Some(34));
    assert_eq!(limiter.allow(6 * SECOND), None);
    assert_eq!(limiter.allow(0), None, "a clock going back");
    assert_eq!(limiter.allow(u64::MAX), Some(2));
    for _ in 0..9 {
        assert_eq!(limiter.allow(u64::MAX), Some(0));
    }
    assert_eq!(limiter.allow(u64::MAX), None, "credit is bounded");
}

fn print(mode: Timestamps, clocks: Clocks, parts: &[&str]) -> String {
    let mut state = LineState::new(mode);
    let mut out = String::new();
    for part in parts {
        state.writer(|| clocks, &mut out).write_str(part).unwrap();
    }
    out
}

#[test]
fn every_line_begins_with_the_prefix() {
    let none = |parts: &[&str]| print(Timestamps::None, Clocks::default(), parts);
    assert_eq!(none(&["one\n"]), "(XEN) one\n");
    assert_eq!(none(&["one\ntwo\n\n"]), "(XEN) one\n(XEN) two\n(XEN) \n");
    assert_eq!(none(&["a", "b", "", "c\nd"]), "(XEN) abc\n(XEN) d");
    assert_eq!(none(&[""]), "");
    let mut state = LineState::new(Timestamps::None);
    let mut out = String::new();
    for text in ["record", "ended\n"] {
        let mut writer = state.writer(Clocks::default, &mut out);
        write!(writer, "{text}").unwrap();
        writer.end_line().unwrap();
    }
    assert_eq!(out, "(XEN) record\n(XEN) ended\n");
}

#[test]
fn timestamps_have_xens_forms() {
    let wall = Some(WallClock {
        seconds: 1_795_388_645,
        nanoseconds: 7_999_999,
    });
    let clocks = Clocks {
        boot_ns: 123_456_789,
        counter: 0xabc,
        wall,
    };
    let line = |mode, clocks| print(mode, clocks, &["x\ny"]);
    assert_eq!(
        line(Timestamps::Boot, clocks),
        "(XEN) [    0.123456] x\n(XEN) [    0.123456] y"
    );
    let first = |mode, clocks| line(mode, clocks).lines().next().unwrap().to_owned();
    assert_eq!(
        first(Timestamps::Date, clocks),
        "(XEN) [2026-11-22 23:04:05] x"
    );
    assert_eq!(
        first(Timestamps::DateMs, clocks),
        "(XEN) [2026-11-22 23:04:05.007] x"
    );
    assert_eq!(first(Timestamps::Raw, clocks), "(XEN) [0000000000000abc] x");
    let late = Clocks {
        boot_ns: 1_234_567_000_999_000,
        wall: None,
        ..clocks
    };
    assert_eq!(
        first(Timestamps::Date, late),
        "(XEN) [1234567.000999] x",
        "no time of day yet"
    );
    let early = Clocks { boot_ns: 0, ..late };
    assert_eq!(first(Timestamps::Boot, early), "(XEN) [0000000000000abc] x");
}

#[test]
fn dates_are_right_for_centuries() {
    let date = |days: u64| {
        let clocks = Clocks {
            wall: Some(WallClock {
                seconds: days * 86_400,
                nanoseconds: 0,
            }),
            ..Clocks::default()
        };
        print(Timestamps::Date, clocks, &["x"])[7..17].to_owned()
    };
    // Count the days one by one.
    let (mut year, mut month, mut day) = (1970, 1, 1);
    for days in 0..160_000 {
        if days % 13 == 0 || day >= 28 || day == 1 {
            assert_eq!(date(days), format!("{year:04}-{month:02}-{day:02}"));
        }
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 if is_leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day += 1;
        if day > last {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
    let end = Clocks {
        wall: Some(WallClock {
            seconds: u64::MAX,
            nanoseconds: u32::MAX,
        }),
        boot_ns: u64::MAX,
        counter: u64::MAX,
    };
    assert!(!print(Timestamps::DateMs, end, &["x"]).is_empty());
}

#[test]
fn timestamp_options_parse() {
    for (value, mode) in [
        ("none", Timestamps::None),
        ("", Timestamps::Date),
        ("date", Timestamps::Date),
        ("1", Timestamps::Date),
        ("off", Timestamps::None),
        ("datems", Timestamps::DateMs),
        ("boot", Timestamps::Boot),
        ("raw", Timestamps::Raw),
    ] {
        assert_eq!(Timestamps::parse(value), Some(mode), "{value}");
    }
    assert_eq!(Timestamps::parse("now"), None);
}

const CTRL_A: u8 = 1;

fn typed(input: &mut SerialInput, bytes: &[u8]) -> Vec<Received> {
    bytes.iter().map(|byte| input.receive(*byte)).collect()
}

#[test]
fn ctrl_a_three_times_switches_between_dom0_and_xen() {
    let mut input = SerialInput::new(ConSwitch::DEFAULT);
    assert_eq!(
        input.end_boot(vec![DomId::DOM0]).to_string(),
        "*** Serial input to DOM0 (type 'CTRL-a' three times to switch input)"
    );
    assert_eq!(
        typed(&mut input, b"ls"),
        [Received::QueuedForDom0, Received::QueuedForDom0]
    );
    let [Received::Held, Received::Held, Received::Switched(target)] =
        typed(&mut input, &[CTRL_A; 3])[..]
    else {
        panic!("not switched")
    };
    assert_eq!(
        target.to_string(),
        "*** Serial input to Xen (type 'CTRL-a' three times to switch input)"
    );
    let Received::Keys(bytes) = input.receive(b'h') else {
        panic!("no key")
    };
    assert_eq!(bytes.as_slice(), b"h");
    let mut out = [0; 10];
    assert_eq!(input.queue.read(&mut out), 2);
    assert_eq!(out[..2], *b"ls");
    let _ = typed(&mut input, &[CTRL_A; 3]);
    assert_eq!(input.target().domain, Some(DomId::DOM0));
}

#[test]
fn fewer_switch_characters_reach_the_receiver() {
    let mut input = SerialInput::new(ConSwitch::DEFAULT);
    let _ = input.end_boot(vec![DomId::DOM0]);
    let _ = typed(&mut input, b"\x01x\x01\x01y\x01\x01\x01\x01\x01\x01z");
    let mut out = [0; 16];
    let count = input.queue.read(&mut out);
    assert_eq!(out[..count], *b"\x01x\x01\x01yz");
}

fn domains(ids: &[u16]) -> Vec<DomId> {
    ids.iter().copied().map(DomId::new).collect()
}

/// Switches `count` times and returns who had the input each time.
fn round(input: &mut SerialInput, letter: u8, count: usize) -> Vec<Option<u16>> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let Some(Received::Switched(target)) = typed(input, &[letter; 3]).pop() else {
            panic!("not switched")
        };
        assert_eq!(target, input.target());
        seen.push(target.domain.map(DomId::raw));
        if let Some(domain @ 1..) = target.domain.map(DomId::raw) {
            let Received::Domain(to, bytes) = input.receive(b'q') else {
                panic!("not to domain {domain}")
            };
            assert_eq!((to.raw(), bytes.as_slice()), (domain, &b"q"[..]));
        }
    }
    seen
}

#[test]
fn input_goes_round_the_domains_of_boot() {
    let mut input = SerialInput::new(ConSwitch::parse("bx").unwrap());
    let target = input.end_boot(domains(&[0, 1, 2]));
    assert_eq!(
        target.to_string(),
        "*** Serial input to Xen (type 'CTRL-b' three times to switch input)"
    );
    assert_eq!(
        round(&mut input, 2, 5),
        [Some(0), Some(1), Some(2), None, Some(0)]
    );
    // Without any domain input stays where it is.
    let mut input = SerialInput::new(ConSwitch::DEFAULT);
    assert_eq!(input.end_boot(Vec::new()).domain, None);
    assert_eq!(round(&mut input, CTRL_A, 2), [None, None]);
}

#[test]
fn domains_without_a_console_are_passed_over() {
    // No dom0: the hypervisor has the input until somebody switches.
    let mut input = SerialInput::new(ConSwitch::DEFAULT);
    assert_eq!(input.end_boot(domains(&[2, 5])).domain, None);
    assert_eq!(
        round(&mut input, CTRL_A, 4),
        [Some(2), Some(5), None, Some(2)]
    );
    // One dies, with the input or without it.
    assert_eq!(input.remove(DomId::new(5)), None);
    assert_eq!(round(&mut input, CTRL_A, 2), [None, Some(2)]);
    let target = input.remove(DomId::new(2)).expect("had the input");
    assert_eq!(target.domain, None);
    assert_eq!(round(&mut input, CTRL_A, 1), [None]);
    assert!(matches!(input.receive(b'h'), Received::Keys(_)));
}

#[test]
fn conswitch_parses() {
    assert_eq!(ConSwitch::parse("a"), Some(ConSwitch::DEFAULT));
    assert_eq!(ConSwitch::parse("A"), Some(ConSwitch::DEFAULT));
    assert_eq!(ConSwitch::parse("ay"), Some(ConSwitch::DEFAULT));
    assert_ne!(ConSwitch::parse("ax"), Some(ConSwitch::DEFAULT));
    for bad in ["", "1", "\u{e4}", " a"] {
        assert_eq!(ConSwitch::parse(bad), None, "{bad:?}");
    }
    // Switched off: every character passes, also NUL.
    let mut input = SerialInput::new(ConSwitch::parse("`").unwrap());
    let target = input.end_boot(vec![DomId::DOM0]);
    assert_eq!(target.to_string(), "*** Serial input to DOM0");
    for byte in [0, 1, 1, 1, b'x'] {
        assert_eq!(input.receive(byte), Received::QueuedForDom0);
    }
}

#[test]
fn what_has_room_is_never_lost() {
    let mut input = SerialInput::new(ConSwitch::DEFAULT);
    assert!(input.has_room(), "debug keys need none");
    let _ = input.end_boot(vec![DomId::DOM0]);
    let mut sent = Vec::new();
    let mut got = Vec::new();
    let mut out = [0; 50];
    // Two switch characters before every third: three bytes come out of one.
    for byte in (0..3000u32).map(|n| if n % 3 == 2 { b'a' + (n % 26) as u8 } else { 1 }) {
        if !input.has_room() {
            let count = input.queue.read(&mut out);
            got.extend_from_slice(&out[..count]);
        }
        assert!(input.has_room());
        let _ = input.receive(byte);
        sent.push(byte);
    }
    while let count @ 1.. = input.queue.read(&mut out) {
        got.extend_from_slice(&out[..count]);
    }
    assert_eq!(got, sent);
}

#[test]
fn a_full_queue_drops_and_still_notifies() {
    let mut input = SerialInput::new(ConSwitch::DEFAULT);
    let _ = input.end_boot(vec![DomId::DOM0]);
    for index in 0..300u32 {
        let byte = b'a' + (index % 26) as u8;
        assert_eq!(input.receive(byte), Received::QueuedForDom0);
    }
    let mut out = [0; 100];
    assert_eq!(input.queue.read(&mut out), 100);
    assert_eq!(out[..3], *b"abc");
    assert_eq!(input.queue.read(&mut out), 28);
    assert_eq!(out[27], b'a' + (127 % 26) as u8);
    assert_eq!(input.queue.read(&mut out), 0);
    assert_eq!(input.queue.read(&mut []), 0);
    // Round the end of the buffer.
    let _ = typed(&mut input, b"again");
    assert_eq!(input.queue.read(&mut out), 5);
    assert_eq!(out[..5], *b"again");
}

#[test]
fn help_lists_what_is_registered() {
    let registered: Vec<Option<keys::KeyHandler>> =
        b"hR%q".iter().map(|key| keys::standard(*key)).collect();
    let mut out = String::new();
    keys::write_help(&registered, &mut out).unwrap();
    assert_eq!(
        out,
        "'h' pressed -> showing installed handlers\n key '%' (ascii '25') => trap to xendbg\n \
         key 'R' (ascii '52') => reboot machine\n key 'h' (ascii '68') => show this message\n \
         key 'q' (ascii '71') => dump domain (and guest debug) info\n"
    );
    let space = keys::KeyHandler {
        key: 1,
        description: "x",
        is_diagnostic: false,
    };
    let mut out = String::new();
    keys::write_help(&[Some(space)], &mut out).unwrap();
    assert!(out.ends_with(" key ' ' (ascii '01') => x\n"));
    for key in b"hqdrRm0egtw*aHo%A" {
        assert!(keys::standard(*key).is_some(), "{}", char::from(*key));
    }
    assert!(keys::STANDARD.is_sorted_by_key(|handler| handler.key));
    assert!(keys::find(&registered, b'z').is_none());
    let mut out = String::new();
    keys::write_diagnostic_title(&keys::standard(b'q').unwrap(), &mut out).unwrap();
    assert_eq!(out, "[q: dump domain (and guest debug) info]\n");
}
