//! Tests of the command line.

use std::string::{String, ToString};

use super::*;

fn options(line: &str) -> Options<'_> {
    let parsed = CommandLine::parse(line);
    assert!(
        parsed.unknown.is_empty() && parsed.bad.is_empty(),
        "{parsed:?}"
    );
    parsed.options
}

#[test]
fn a_usual_line() {
    let found = options(
        "console=dtuart dtuart=serial0:115200n8 dom0_mem=512M dom0_max_vcpus=2 loglvl=all guest_loglvl=none/warning \
         sync_console noreboot conring_size=64K console_timestamps=boot bootscrub=0 conswitch=ax maxcpus=0x4 \
         gnttab=max-ver:1,no-transitive gnttab_max_frames=64 gnttab_max_maptrack_frames=1024 xsm=silo sched=credit vwfi=native \
         sched_credit_tslice_ms=5 sched_ratelimit_us=0 vcpu_migration_delay=1500 \
         dom0_vcpus_pin hmp-unsafe=on console_to_ring trace=switch,irq cpu-method=platform",
    );
    let expected = Options {
        console: Some("dtuart"),
        dtuart: Some("serial0:115200n8"),
        dom0_mem: Some(512 << 20),
        dom0_max_vcpus: Some(2),
        dom0_vcpus_pin: Some(true),
        loglvl: Some("all"),
        guest_loglvl: Some("none/warning"),
        sync_console: Some(true),
        console_to_ring: Some(true),
        console_timestamps: Some("boot"),
        conring_size: Some(64 << 10),
        conswitch: Some("ax"),
        noreboot: Some(true),
        bootscrub: Some("0"),
        maxcpus: Some(4),
        hmp_unsafe: Some(true),
        gnttab: GnttabOptions {
            max_version: Some(1),
            transitive: Some(false),
            transfer: None,
        },
        gnttab_max_frames: Some(64),
        gnttab_max_maptrack_frames: Some(1024),
        xsm: Some("silo"),
        sched: Some("credit"),
        sched_credit_tslice_ms: Some(5),
        sched_ratelimit_us: Some(0),
        vcpu_migration_delay: Some(1500),
        is_wfi_native: Some(true),
        cpu_method: Some("platform"),
        trace: Some(Classes::SWITCH | Classes::IRQ),
    };
    assert_eq!(found, expected);
    assert_eq!(options("  \t "), Options::default());
}

#[test]
fn booleans_in_all_forms() {
    for value in ["yes", "on", "true", "enable", "1"] {
        let line = std::format!("sync_console={value}");
        assert_eq!(options(&line).sync_console, Some(true), "{value}");
        let line = std::format!("no-sync_console={value}");
        assert_eq!(options(&line).sync_console, Some(false), "{value}");
    }
    for value in ["no", "off", "false", "disable", "0"] {
        let line = std::format!("sync_console={value}");
        assert_eq!(options(&line).sync_console, Some(false), "{value}");
    }
    assert_eq!(options("sync_console").sync_console, Some(true));
    assert_eq!(options("no-sync_console").sync_console, Some(false));
    assert_eq!(options("no-bootscrub").bootscrub, Some("no"));
    assert_eq!(options("console_timestamps").console_timestamps, Some(""));
    // The last one wins.
    assert_eq!(options("noreboot noreboot=off").noreboot, Some(false));
}

#[test]
fn sizes() {
    for (text, size) in [
        ("512M", 512u64 << 20),
        ("512m", 512 << 20),
        ("1G", 1 << 30),
        ("1T", 1 << 40),
        ("4096B", 4096),
        ("128k", 128 << 10),
        ("524288", 512 << 20),
        ("0x20000", 128 << 20),
        ("0x10M", 16 << 20),
        ("0x1b", 27 << 10),
        ("010M", 8 << 20),
        ("0", 0),
    ] {
        assert_eq!(parse_size(text), Some(size), "{text}");
    }
    for text in [
        "",
        "M",
        "12X",
        "-1",
        "+1",
        "1.5G",
        "512MB",
        "0x",
        "99999999999999999999",
        "18446744073709551615",
        "9M9",
        "08",
    ] {
        assert_eq!(parse_size(text), None, "{text}");
    }
}

#[test]
fn dom0_mem_forms() {
    assert_eq!(options("dom0_mem=524288").dom0_mem, Some(512 << 20));
    assert_eq!(options("dom0_mem=512M,max:1G").dom0_mem, Some(512 << 20));
    assert_eq!(options("dom0_mem=max:1G,min:256M").dom0_mem, Some(1 << 30));
    assert_eq!(options("dom0_mem=min:256M").dom0_mem, Some(256 << 20));
    assert_eq!(options("dom0_mem=0").dom0_mem, Some(0));
    for bad in [
        "dom0_mem",
        "dom0_mem=",
        "dom0_mem=lots",
        "dom0_mem=512M,",
        "dom0_mem=avg:1G",
        "no-dom0_mem=1G",
        "dom0_mem=-1",
    ] {
        let parsed = CommandLine::parse(bad);
        assert_eq!(
            (parsed.bad.len(), parsed.options.dom0_mem),
            (1, None),
            "{bad}"
        );
    }
}

#[test]
fn trace_forms() {
    let without_traps = Classes::ALL.difference(Classes::TRAP);
    for (word, classes) in [
        ("trace", Classes::ALL),
        ("trace=on", Classes::ALL),
        ("trace=all", Classes::ALL),
        ("trace=all,-trap", without_traps),
        ("trace=wake", Classes::WAKE),
        ("trace=off", Classes::empty()),
        ("no-trace", Classes::empty()),
    ] {
        assert_eq!(options(word).trace, Some(classes), "{word}");
    }
    assert_eq!(options("").trace, None);
    for word in ["trace=", "trace=irq,", "trace=interrupts", "no-trace=irq"] {
        let parsed = CommandLine::parse(word);
        assert_eq!(
            (parsed.bad.len(), parsed.options.trace),
            (1, None),
            "{word}"
        );
    }
}

#[test]
fn unknown_and_bad_words_are_reported() {
    let parsed = CommandLine::parse(
        "wibble no-wobble=3 dom0_max_vcpus=many maxcpus=-1 sync_console=perhaps console= gnttab=max-ver:3 loglvl=all =",
    );
    assert_eq!(parsed.unknown, ["wibble", "no-wobble=3", "="]);
    let names: Vec<&str> = parsed.bad.iter().map(|bad| bad.option).collect();
    assert_eq!(
        names,
        [
            "dom0_max_vcpus",
            "maxcpus",
            "sync_console",
            "console",
            "gnttab"
        ]
    );
    assert_eq!(
        parsed.options,
        Options {
            loglvl: Some("all"),
            ..Options::default()
        }
    );
    let text = parsed.bad[0].to_string();
    assert_eq!(
        text,
        "option \"dom0_max_vcpus=many\" is ignored: dom0_max_vcpus takes a number"
    );
}

#[test]
fn hostile_lines_do_not_panic() {
    let alphabet: Vec<char> = "no-dom0_mem=:,512MGKTBx9 console\u{e9}\t".chars().collect();
    let seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut state = seed;
    for _ in 0..5000 {
        let mut line = String::from(
            ["dom0_mem=", "gnttab=", "maxcpus=", ""][usize::try_from(state % 4).unwrap()],
        );
        for _ in 0..state % 40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            line.push(alphabet[usize::try_from(state % 35).unwrap() % alphabet.len()]);
        }
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let outcome = std::panic::catch_unwind(|| CommandLine::parse(&line).bad.len());
        assert!(outcome.is_ok(), "seed {seed:#x}: {line:?}");
    }
}

#[test]
fn cpu_method() {
    for (line, method) in [
        ("cpu-method=platform", Some("platform")),
        ("cpu-method=psci", Some("psci")),
        ("cpu-method=spin", None),
        ("cpu-method", None),
        ("no-cpu-method=psci", None),
    ] {
        let parsed = CommandLine::parse(line);
        assert_eq!(parsed.options.cpu_method, method, "{line}");
        assert_eq!(parsed.bad.len(), usize::from(method.is_none()), "{line}");
    }
}
