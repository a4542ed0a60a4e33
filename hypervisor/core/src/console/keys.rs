//! Debug keys: their names, and the list that `h` prints. What a key does is the caller's.

use core::fmt::{self, Write};

/// A debug key that does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHandler {
    /// The character.
    pub key: u8,
    /// What the list of `h` says.
    pub description: &'static str,
    /// `*` runs it as well: it only prints.
    pub is_diagnostic: bool,
}

const fn handler(key: u8, description: &'static str) -> KeyHandler {
    KeyHandler {
        key,
        description,
        is_diagnostic: false,
    }
}

const fn diagnostic(key: u8, description: &'static str) -> KeyHandler {
    KeyHandler {
        key,
        description,
        is_diagnostic: true,
    }
}

/// Xen's keys with Xen's words, by character.
pub const STANDARD: &[KeyHandler] = &[
    handler(b'%', "trap to xendbg"),
    handler(b'*', "print all diagnostics"),
    diagnostic(b'0', "dump Dom0 registers"),
    handler(b'A', "toggle alternative key handling"),
    diagnostic(b'H', "dump heap info"),
    handler(b'R', "reboot machine"),
    handler(b'T', "trace: begin, or end and print"),
    diagnostic(b'a', "dump timer queues"),
    diagnostic(b'd', "dump registers"),
    diagnostic(b'e', "dump evtchn info"),
    diagnostic(b'g', "print grant table usage"),
    handler(b'h', "show this message"),
    diagnostic(b'm', "memory info"),
    diagnostic(b'o', "dump iommu page tables"),
    diagnostic(b'q', "dump domain (and guest debug) info"),
    diagnostic(b'r', "dump run queues"),
    diagnostic(b't', "display multi-cpu clock info"),
    handler(b'w', "synchronously dump console ring buffer (dmesg)"),
];

/// Returns the standard description of a key.
pub fn standard(key: u8) -> Option<KeyHandler> {
    STANDARD.iter().copied().find(|handler| handler.key == key)
}

/// Returns the handler of a key among those that were registered.
pub fn find(handlers: &[Option<KeyHandler>], key: u8) -> Option<&KeyHandler> {
    handlers.iter().flatten().find(|handler| handler.key == key)
}

/// Writes what `h` prints: every registered key, by character.
///
/// # Errors
/// Those of `out`.
pub fn write_help(handlers: &[Option<KeyHandler>], out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "'h' pressed -> showing installed handlers")?;
    for key in 0..=u8::MAX {
        if let Some(handler) = find(handlers, key) {
            let shown = if key.is_ascii_graphic() { key } else { b' ' };
            writeln!(
                out,
                " key '{}' (ascii '{key:02x}') => {}",
                char::from(shown),
                handler.description
            )?;
        }
    }
    Ok(())
}

/// Writes the line with which `*` begins a diagnostic handler.
///
/// # Errors
/// Those of `out`.
pub fn write_diagnostic_title(handler: &KeyHandler, out: &mut dyn Write) -> fmt::Result {
    writeln!(
        out,
        "[{}: {}]",
        char::from(handler.key),
        handler.description
    )
}
