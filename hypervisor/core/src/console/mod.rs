//! The hypervisor's console as pure logic: what is printed, how a line begins, who gets what is typed.
//!
//! Output: a message is classified and filtered ([`LevelFilter`], `loglvl=` and `guest_loglvl=`), its lines get
//! `(XEN) ` and a time ([`LineState`], `console_timestamps=`), and go to the ring that `xl dmesg` reads
//! ([`ConsoleRing`], `conring_size=`) and to the UART, which is the caller's.
//! What a domain says on its virtual UART is [`GuestLine`]'s.
//! Input: [`SerialInput`] (`conswitch=`) gives each character to a domain or to the debug keys ([`keys`]).
//!
//! # Locks
//! None here. The caller holds the console lock (the highest rank) around output and around input. Nothing on the
//! output path allocates or can fail, so a panic handler may use it.

mod guest;
mod input;
pub mod keys;
mod level;
mod line;
mod lines;
mod ring;
#[cfg(test)]
mod tests;

pub use self::guest::{GuestLine, Named};
pub use self::input::{Bytes, ConSwitch, InputQueue, InputTarget, Received, SerialInput};
pub use self::level::{
    GUEST_TARGET, LevelFilter, PLAIN_TARGET, RateLimiter, Severity, Source, Threshold, Verdict,
    classify,
};
pub use self::line::{Clocks, LineState, LineWriter, Timestamps, WallClock};
pub use self::lines::Lines;
pub use self::ring::{ConsoleRing, DEFAULT_RING_BYTES, MAX_RING_BYTES, ring_bytes};
