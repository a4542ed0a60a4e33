//! Which messages are printed: severities, the two thresholds of `loglvl=` and `guest_loglvl=`, the rate limit.

use core::fmt;

/// The `log` target of messages that a guest caused; `guest_loglvl=` and the rate limit apply to them. Targets that
/// begin with it and a colon (`guest:gnttab`) count as well.
pub const GUEST_TARGET: &str = "guest";
/// The `log` target of the hypervisor's plain messages (boot milestones, banners): at level `Info` they count as
/// warnings, as Xen's messages without a level do, and are so printed by default.
pub const PLAIN_TARGET: &str = "xen";

/// How serious a message is; the number is Xen's (`XENLOG_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is wrong.
    Error = 0,
    /// Something looks wrong. Xen's level for messages that name none.
    Warning = 1,
    /// Information.
    Info = 2,
    /// Details for developers.
    Debug = 3,
}

impl From<log::Level> for Severity {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warning,
            log::Level::Info => Self::Info,
            log::Level::Debug | log::Level::Trace => Self::Debug,
        }
    }
}

/// Who caused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The hypervisor.
    Host,
    /// A guest.
    Guest,
}

/// Returns who caused a message and how serious it is, by its target and level.
pub fn classify(target: &str, level: log::Level) -> (Source, Severity) {
    let severity = Severity::from(level);
    if let Some(rest) = target.strip_prefix(GUEST_TARGET)
        && (rest.is_empty() || rest.starts_with(':'))
    {
        return (Source::Guest, severity);
    }
    if target == PLAIN_TARGET && severity == Severity::Info {
        return (Source::Host, Severity::Warning);
    }
    (Source::Host, severity)
}

/// What `loglvl=` sets: severities below `always` are printed, those below `limited` as the rate limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    always: u8,
    limited: u8,
}

impl Threshold {
    /// Xen's default for its own messages: errors and warnings.
    pub const HOST_DEFAULT: Self = Self {
        always: 2,
        limited: 2,
    };
    /// Xen's default for messages a guest causes: errors and warnings, rate-limited.
    pub const GUEST_DEFAULT: Self = Self {
        always: 0,
        limited: 2,
    };
    /// Everything.
    pub const ALL: Self = Self {
        always: 4,
        limited: 4,
    };

    /// Parses `LEVEL` or `LEVEL/LEVEL` with `none|error|warning|info|debug|all`: what is always printed, and up to what
    /// rate-limited. A second level below the first counts as the first. `None` for anything else, on which the caller
    /// reports the option and keeps the default.
    pub fn parse(value: &str) -> Option<Self> {
        let (always, limited) = value.split_once('/').unwrap_or((value, value));
        let always = Self::parse_level(always)?;
        let limited = Self::parse_level(limited)?.max(always);
        Some(Self { always, limited })
    }

    fn parse_level(name: &str) -> Option<u8> {
        Some(match name {
            "none" => 0,
            "error" => 1,
            "warning" => 2,
            "info" => 3,
            "debug" | "all" => 4,
            _ => return None,
        })
    }

    fn describe(level: u8) -> &'static str {
        match level {
            0 => "Nothing",
            1 => "Errors",
            2 => "Errors and warnings",
            3 => "Errors, warnings and info",
            _ => "All",
        }
    }
}

/// As Xen prints it at the end of boot after `Std. Loglevel: ` and `Guest Loglevel: `.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::describe(self.always))?;
        if self.limited != self.always {
            write!(f, " (Rate-limited: {})", Self::describe(self.limited))?;
        }
        Ok(())
    }
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Print it.
    Print,
    /// Print it if the rate limiter of its source allows.
    RateLimit,
    /// Drop it.
    Drop,
}

/// Both thresholds.
#[derive(Clone, Copy, Debug)]
pub struct LevelFilter {
    /// `loglvl=`.
    pub host: Threshold,
    /// `guest_loglvl=`.
    pub guest: Threshold,
    /// How many sections that print everything are open (debug keys, a panic).
    everything: u32,
}

impl LevelFilter {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            host: Threshold::HOST_DEFAULT,
            guest: Threshold::GUEST_DEFAULT,
            everything: 0,
        }
    }

    /// Judges a message.
    pub fn judge(&self, source: Source, severity: Severity) -> Verdict {
        let threshold = match source {
            Source::Host => self.host,
            Source::Guest => self.guest,
        };
        let severity = severity as u8;
        if self.everything != 0 || severity < threshold.always {
            Verdict::Print
        } else if severity < threshold.limited {
            Verdict::RateLimit
        } else {
            Verdict::Drop
        }
    }

    /// Begins to print everything, whatever the thresholds say.
    pub fn start_everything(&mut self) {
        self.everything = self.everything.saturating_add(1);
    }

    /// Ends what [`Self::start_everything`] began.
    pub fn end_everything(&mut self) {
        self.everything = self.everything.saturating_sub(1);
    }
}

impl Default for LevelFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// A rate limit: ten messages at once, then one in five seconds (Xen's values). Keep one for each guest, so that one
/// guest cannot hide what another one does, and one for the hypervisor.
#[derive(Clone, Copy, Debug)]
pub struct RateLimiter {
    /// Credit in milliseconds.
    credit_ms: u64,
    last_ms: u64,
    suppressed: u32,
}

/// Credit that a message costs.
const MESSAGE_MS: u64 = 5000;
/// Messages that may come at once.
const BURST: u64 = 10;

impl RateLimiter {
    /// A limiter with its full burst.
    pub const fn new() -> Self {
        Self {
            credit_ms: MESSAGE_MS * BURST,
            last_ms: 0,
            suppressed: 0,
        }
    }

    /// Asks for one message at a time since boot (ns). `Some` allows it and says how many were dropped since the last
    /// one; if any, the caller prints `printk: N messages suppressed.` first.
    pub fn allow(&mut self, now_ns: u64) -> Option<u32> {
        let now_ms = now_ns / 1_000_000;
        let passed_ms = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms;
        self.credit_ms = self
            .credit_ms
            .saturating_add(passed_ms)
            .min(MESSAGE_MS * BURST);
        match self.credit_ms.checked_sub(MESSAGE_MS) {
            Some(rest) => {
                self.credit_ms = rest;
                Some(core::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                None
            }
        }
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}
