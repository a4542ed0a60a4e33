//! How a line begins: `(XEN) ` and, with `console_timestamps=`, a time.

use core::fmt::{self, Write};

/// What stands before every line.
const PREFIX: &str = "(XEN) ";

/// `console_timestamps=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// No time.
    #[default]
    None,
    /// `[2026-11-22 23:04:05] `.
    Date,
    /// `[2026-11-22 23:04:05.123] `.
    DateMs,
    /// Seconds since boot: `[    0.123456] `.
    Boot,
    /// The counter: `[0000000000abcdef] `.
    Raw,
}

impl Timestamps {
    /// Parses the option's value; `None` when it is unknown. An empty value and the boolean forms mean `date` or `none`.
    pub fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "none" | "no" | "off" | "false" | "disable" | "0" => Self::None,
            "" | "date" | "yes" | "on" | "true" | "enable" | "1" => Self::Date,
            "datems" => Self::DateMs,
            "boot" => Self::Boot,
            "raw" => Self::Raw,
            _ => return None,
        })
    }
}

/// The time of day (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Seconds since 1970-01-01.
    pub seconds: u64,
    /// Nanoseconds in the second.
    pub nanoseconds: u32,
}

/// The clocks when a message is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// Time since boot in ns; 0 before the timer runs.
    pub boot_ns: u64,
    /// The raw counter, in ticks.
    pub counter: u64,
    /// The time of day, once dom0 has set it.
    pub wall: Option<WallClock>,
}

/// Writes a time as the mode says. What is not known yet falls back, as in Xen: date to boot, boot to raw.
fn write_time(mode: Timestamps, clocks: Clocks, out: &mut impl Write) -> fmt::Result {
    let (seconds, nanoseconds) = (
        clocks.boot_ns / 1_000_000_000,
        clocks.boot_ns % 1_000_000_000,
    );
    match (mode, clocks.wall) {
        (Timestamps::None, _) => Ok(()),
        (Timestamps::Date | Timestamps::DateMs, Some(wall)) => {
            let date = Date::of(wall.seconds);
            let Date { year, month, day } = date;
            let second = wall.seconds % 86_400;
            let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
            write!(
                out,
                "[{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
            )?;
            if mode == Timestamps::DateMs {
                write!(out, ".{:03}", wall.nanoseconds / 1_000_000)?;
            }
            out.write_str("] ")
        }
        (Timestamps::Date | Timestamps::DateMs | Timestamps::Boot, _) if clocks.boot_ns != 0 => {
            write!(out, "[{seconds:5}.{:06}] ", nanoseconds / 1000)
        }
        (Timestamps::Date | Timestamps::DateMs | Timestamps::Boot | Timestamps::Raw, _) => {
            write!(out, "[{:016x}] ", clocks.counter)
        }
    }
}

/// A day of the Gregorian calendar.
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// Returns the day of a time in seconds since 1970.
    fn of(seconds: u64) -> Self {
        // Count from 1600-03-01, so that a leap day is the last of its year, of its 4 years and of its 400 years.
        let days = seconds / 86_400 + 135_080;
        let (cycles, days) = (days / 146_097, days % 146_097);
        let century = (days / 36_524).min(3);
        let days = days - century * 36_524;
        let (fours, days) = (days / 1461, days % 1461);
        let year_of_four = (days / 365).min(3);
        let day_of_year = days - year_of_four * 365;
        // March to July and August to December have 153 days each, in the pattern 31 30 31 30 31.
        let month = (day_of_year * 5 + 2) / 153;
        let day = day_of_year - (month * 153 + 2) / 5 + 1;
        let year = 1600 + cycles * 400 + century * 100 + fours * 4 + year_of_four;
        if month < 10 {
            Self {
                year,
                month: month + 3,
                day,
            }
        } else {
            Self {
                year: year + 1,
                month: month - 9,
                day,
            }
        }
    }
}

/// Where in a line the console is, and how lines begin. One for the console.
#[derive(Clone, Copy, Debug)]
pub struct LineState {
    timestamps: Timestamps,
    is_inside_line: bool,
}

impl LineState {
    /// At the start of a line.
    pub const fn new(timestamps: Timestamps) -> Self {
        Self {
            timestamps,
            is_inside_line: false,
        }
    }

    /// Changes the mode from the next line on.
    pub fn set_timestamps(&mut self, timestamps: Timestamps) {
        self.timestamps = timestamps;
    }

    /// Returns a writer that puts lines into `out`. Several may be used after each other for one line; `clocks` is
    /// asked at most once, and only when a time is to be printed.
    pub fn writer<'a, W: Write, C: FnOnce() -> Clocks>(
        &'a mut self,
        clocks: C,
        out: &'a mut W,
    ) -> LineWriter<'a, W, C> {
        LineWriter {
            state: self,
            clocks: Some(clocks),
            now: Clocks::default(),
            out,
        }
    }
}

/// Writes text and begins each line of it properly.
pub struct LineWriter<'a, W: Write, C: FnOnce() -> Clocks> {
    state: &'a mut LineState,
    clocks: Option<C>,
    now: Clocks,
    out: &'a mut W,
}

impl<W: Write, C: FnOnce() -> Clocks> LineWriter<'_, W, C> {
    /// Ends the line if one was begun: a log record is a whole line.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end_line(&mut self) -> fmt::Result {
        if self.state.is_inside_line {
            self.write_str("\n")
        } else {
            Ok(())
        }
    }

    fn begin_line(&mut self) -> fmt::Result {
        self.out.write_str(PREFIX)?;
        if self.state.timestamps == Timestamps::None {
            return Ok(());
        }
        if let Some(clocks) = self.clocks.take() {
            self.now = clocks();
        }
        write_time(self.state.timestamps, self.now, self.out)
    }
}

impl<W: Write, C: FnOnce() -> Clocks> Write for LineWriter<'_, W, C> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if !self.state.is_inside_line {
                self.begin_line()?;
            }
            self.state.is_inside_line = !part.ends_with('\n');
            self.out.write_str(part)?;
        }
        Ok(())
    }
}
