//! Xen's command line.
//!
//! Syntax as Xen's: words separated by spaces, `name` or `name=value`; a boolean also as `no-name`, or with the value
//! `yes|no|on|off|true|false|enable|disable|1|0`; integers in C notation; sizes with a suffix B, K, M, G or T, a bare
//! number counting KiB. The last of several settings of an option wins. Unknown options and bad values are collected, to
//! be reported and otherwise ignored: a typing error must not keep a machine from booting.
//!
//! Values borrow from the line. Bounds: the line is at most 1024 bytes (`boot::modules` sees to it), so at most 512 words.

use alloc::vec::Vec;
use core::fmt;

use xenith_core::trace::Classes;

/// The settings of `gnttab=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GnttabOptions {
    /// `max-ver:N`.
    pub max_version: Option<u32>,
    /// `[no-]transitive`.
    pub transitive: Option<bool>,
    /// `[no-]transfer`.
    pub transfer: Option<bool>,
}

/// The options that were given. `None` means that the option was not, and the default holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// `console=`: a list of sinks separated by commas.
    pub console: Option<&'a str>,
    /// `dtuart=`: path or alias, options after `:`.
    pub dtuart: Option<&'a str>,
    /// `dom0_mem=` in bytes.
    pub dom0_mem: Option<u64>,
    /// `dom0_max_vcpus=`.
    pub dom0_max_vcpus: Option<u32>,
    /// `dom0_vcpus_pin`.
    pub dom0_vcpus_pin: Option<bool>,
    /// `loglvl=`.
    pub loglvl: Option<&'a str>,
    /// `guest_loglvl=`.
    pub guest_loglvl: Option<&'a str>,
    /// `sync_console`.
    pub sync_console: Option<bool>,
    /// `console_to_ring`.
    pub console_to_ring: Option<bool>,
    /// `console_timestamps=` (a bare `console_timestamps` gives an empty string).
    pub console_timestamps: Option<&'a str>,
    /// `conring_size=` in bytes.
    pub conring_size: Option<u64>,
    /// `conswitch=`.
    pub conswitch: Option<&'a str>,
    /// `noreboot`.
    pub noreboot: Option<bool>,
    /// `bootscrub=`: a boolean, or `idle`.
    pub bootscrub: Option<&'a str>,
    /// `maxcpus=`.
    pub maxcpus: Option<u32>,
    /// `cpu-method=`: `platform` or `psci`. Ours: Xen has only PSCI where there is PSCI.
    pub cpu_method: Option<&'a str>,
    /// `hmp-unsafe`.
    pub hmp_unsafe: Option<bool>,
    /// `gnttab=`.
    pub gnttab: GnttabOptions,
    /// `gnttab_max_frames=`.
    pub gnttab_max_frames: Option<u32>,
    /// `gnttab_max_maptrack_frames=`.
    pub gnttab_max_maptrack_frames: Option<u32>,
    /// `xsm=`.
    pub xsm: Option<&'a str>,
    /// `sched=`.
    pub sched: Option<&'a str>,
    /// `sched_credit_tslice_ms=`.
    pub sched_credit_tslice_ms: Option<u32>,
    /// `sched_ratelimit_us=`.
    pub sched_ratelimit_us: Option<u32>,
    /// `vcpu_migration_delay=` in microseconds.
    pub vcpu_migration_delay: Option<u32>,
    /// `vwfi=native`: WFI and WFE of guests are not trapped.
    pub is_wfi_native: Option<bool>,
    /// `trace=`: which classes of events the trace records from the start.
    pub trace: Option<Classes>,
}

/// An option whose value could not be understood; the default holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue<'a> {
    /// The word as it stands on the line.
    pub word: &'a str,
    /// The option's name.
    pub option: &'static str,
    /// What its value should look like.
    pub expected: &'static str,
}

impl fmt::Display for BadValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "option \"{}\" is ignored: {} takes {}",
            self.word, self.option, self.expected
        )
    }
}

/// A command line that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine<'a> {
    /// The line itself, as `XENVER_commandline` returns it.
    pub line: &'a str,
    /// The options that were understood.
    pub options: Options<'a>,
    /// Words that name no option.
    pub unknown: Vec<&'a str>,
    /// Words that name an option and have a bad value.
    pub bad: Vec<BadValue<'a>>,
}

const SIZE: &str = "a size above 0 such as 512M (a number alone counts KiB)";
const NUMBER: &str = "a number";
const BOOLEAN: &str = "no value, or one of yes, no, on, off, true, false, enable, disable, 1, 0";
const TEXT: &str = "a value after \"=\"";

impl<'a> CommandLine<'a> {
    /// Reads a command line.
    #[inline(never)]
    pub fn parse(line: &'a str) -> Self {
        let mut parsed = Self {
            line,
            ..Self::default()
        };
        for word in line
            .split([' ', '\t', '\n', '\r'])
            .filter(|word| !word.is_empty())
        {
            parsed.take(word);
        }
        parsed
    }

    fn take(&mut self, word: &'a str) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let (name, negated) = match name.strip_prefix("no-") {
            Some(name) => (name, true),
            None => (name, false),
        };
        match self.options.set(name, value, negated) {
            Ok(()) => {}
            Err(Refusal::Unknown) => self.unknown.push(word),
            Err(Refusal::Bad { option, expected }) => self.bad.push(BadValue {
                word,
                option,
                expected,
            }),
        }
    }
}

enum Refusal {
    Unknown,
    Bad {
        option: &'static str,
        expected: &'static str,
    },
}

impl<'a> Options<'a> {
    fn set(&mut self, name: &str, value: Option<&'a str>, negated: bool) -> Result<(), Refusal> {
        // Each is `what = found?`, or a refusal with the option's name and what it takes.
        let bad = |option, expected| Refusal::Bad { option, expected };
        let boolean = |option| {
            parse_switch(value, negated)
                .map(Some)
                .ok_or(bad(option, BOOLEAN))
        };
        let plain = || if negated { None } else { value };
        let text = |option| {
            plain()
                .filter(|text| !text.is_empty())
                .map(Some)
                .ok_or(bad(option, TEXT))
        };
        let number = |option| {
            plain()
                .and_then(parse_integer)
                .and_then(|n| u32::try_from(n).ok())
                .map(Some)
                .ok_or(bad(option, NUMBER))
        };
        let size = |option| {
            plain()
                .and_then(parse_size)
                .map(Some)
                .ok_or(bad(option, SIZE))
        };
        match name {
            "console" => self.console = text("console")?,
            "dtuart" => self.dtuart = text("dtuart")?,
            "dom0_mem" => {
                self.dom0_mem = plain()
                    .and_then(parse_dom0_mem)
                    .map(Some)
                    .ok_or(bad("dom0_mem", SIZE))?
            }
            "dom0_max_vcpus" => self.dom0_max_vcpus = number("dom0_max_vcpus")?,
            "dom0_vcpus_pin" => self.dom0_vcpus_pin = boolean("dom0_vcpus_pin")?,
            "loglvl" => self.loglvl = text("loglvl")?,
            "guest_loglvl" => self.guest_loglvl = text("guest_loglvl")?,
            "sync_console" => self.sync_console = boolean("sync_console")?,
            "console_to_ring" => self.console_to_ring = boolean("console_to_ring")?,
            // A switch in old versions, so it also stands alone.
            "console_timestamps" => {
                self.console_timestamps = Some(if negated { "none" } else { value.unwrap_or("") })
            }
            "conring_size" => self.conring_size = size("conring_size")?,
            "conswitch" => self.conswitch = text("conswitch")?,
            "noreboot" => self.noreboot = boolean("noreboot")?,
            "bootscrub" => {
                self.bootscrub = Some(if negated {
                    "no"
                } else {
                    value.unwrap_or("yes")
                })
            }
            "maxcpus" => self.maxcpus = number("maxcpus")?,
            "cpu-method" => {
                self.cpu_method = plain()
                    .filter(|method| matches!(*method, "platform" | "psci"))
                    .map(Some)
                    .ok_or(bad("cpu-method", "platform or psci"))?
            }
            "hmp-unsafe" => self.hmp_unsafe = boolean("hmp-unsafe")?,
            "gnttab" => {
                let found = plain()
                    .and_then(|list| self.gnttab.with(list))
                    .ok_or(bad("gnttab", GNTTAB))?;
                self.gnttab = found;
            }
            "gnttab_max_frames" => self.gnttab_max_frames = number("gnttab_max_frames")?,
            "gnttab_max_maptrack_frames" => {
                self.gnttab_max_maptrack_frames = number("gnttab_max_maptrack_frames")?
            }
            "xsm" => self.xsm = text("xsm")?,
            "sched" => self.sched = text("sched")?,
            "sched_credit_tslice_ms" => {
                self.sched_credit_tslice_ms = number("sched_credit_tslice_ms")?
            }
            "sched_ratelimit_us" => self.sched_ratelimit_us = number("sched_ratelimit_us")?,
            "vcpu_migration_delay" => self.vcpu_migration_delay = number("vcpu_migration_delay")?,
            "vwfi" => {
                self.is_wfi_native = match plain() {
                    Some("native") => Some(true),
                    Some("trap") => Some(false),
                    _ => return Err(bad("vwfi", VWFI)),
                }
            }
            // A switch as well: all, or nothing.
            "trace" => {
                let found = match (value, negated) {
                    (None | Some("on" | "yes" | "true" | "enable" | "1"), false) => {
                        Some(Classes::ALL)
                    }
                    (None, true) => Some(Classes::empty()),
                    (Some(list), false) => Classes::parse(list),
                    (Some(_), true) => None,
                };
                self.trace = Some(found.ok_or(bad("trace", TRACE))?);
            }
            _ => return Err(Refusal::Unknown),
        }
        Ok(())
    }
}

const TRACE: &str = "all, none, or a list of switch, runstate, trap, irq, hypercall, wake, ipi";
const VWFI: &str = "trap or native";
const GNTTAB: &str = "a list of max-ver:1 or 2, [no-]transitive, [no-]transfer";

impl GnttabOptions {
    /// Returns the settings changed by a list; `None` when an entry is not understood.
    fn with(mut self, list: &str) -> Option<Self> {
        for entry in list.split(',').filter(|entry| !entry.is_empty()) {
            match entry {
                "transitive" => self.transitive = Some(true),
                "no-transitive" => self.transitive = Some(false),
                "transfer" => self.transfer = Some(true),
                "no-transfer" => self.transfer = Some(false),
                _ => {
                    let version = entry.strip_prefix("max-ver:").and_then(parse_integer)?;
                    self.max_version = Some(
                        u32::try_from(version)
                            .ok()
                            .filter(|version| matches!(version, 1 | 2))?,
                    );
                }
            }
        }
        Some(self)
    }
}

/// Returns the value of a switch: set by its name, cleared by `no-`, or as its value says (which `no-` turns round).
fn parse_switch(value: Option<&str>, negated: bool) -> Option<bool> {
    value.map_or(Some(true), parse_bool).map(|on| on != negated)
}

/// Returns the boolean that a value names, as Xen's options take it.
#[inline(never)]
pub fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

/// Returns an unsigned number in C notation: decimal, `0x` hexadecimal, leading `0` octal.
fn parse_integer(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // The library would accept a sign.
    if digits.starts_with(['+', '-']) {
        None
    } else {
        u64::from_str_radix(digits, radix).ok()
    }
}

/// Returns a size in bytes: a number with a suffix B, K, M, G or T (either case), or counting KiB without.
///
/// Returns `None` for what is no size, and for one that does not fit 64 bits.
pub fn parse_size(text: &str) -> Option<u64> {
    let shift_of = |suffix: char| match suffix.to_ascii_uppercase() {
        'B' => Some(0u32),
        'K' => Some(10),
        'M' => Some(20),
        'G' => Some(30),
        'T' => Some(40),
        _ => None,
    };
    // In hexadecimal a final b is a digit, as for C's strtoull.
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    let suffix = text
        .chars()
        .next_back()
        .filter(|last| !(is_hex && last.is_ascii_hexdigit()));
    let (digits, shift) = match suffix.and_then(|last| shift_of(last).map(|shift| (last, shift))) {
        Some((last, shift)) => (text.strip_suffix(last)?, shift),
        None => (text, 10),
    };
    parse_integer(digits)?.checked_mul(1 << shift)
}

/// Returns dom0's size. Xen on Arm takes one size; the forms of x86 (`min:`, `max:`, a list) are understood as well: the
/// size proper, or else the maximum, or else the minimum.
fn parse_dom0_mem(list: &str) -> Option<u64> {
    let (mut size, mut max, mut min) = (None, None, None);
    for entry in list.split(',') {
        match entry.split_once(':') {
            Some(("max", value)) => max = Some(parse_size(value)?),
            Some(("min", value)) => min = Some(parse_size(value)?),
            Some(_) => return None,
            None => size = Some(parse_size(entry)?),
        }
    }
    size.or(max).or(min)
}

#[cfg(test)]
#[path = "cmdline_tests.rs"]
mod tests;
