//! What a domain says on its UART: as it comes while it has the input, else in whole lines with its name before them.
//!
//! The name is `(dN) DOMN: `: the domain as Xenith's messages name it, and as Xen 4.17 begins such lines.

use core::fmt;

use crate::addr::DomId;

/// The longest piece of a line: what is longer goes on in the next one.
const LINE_BYTES: usize = 256;

/// A line that a domain has begun and not ended.
#[derive(Clone, Debug)]
pub struct GuestLine {
    bytes: [u8; LINE_BYTES],
    used: usize,
}

impl Default for GuestLine {
    fn default() -> Self {
        Self {
            bytes: [0; LINE_BYTES],
            used: 0,
        }
    }
}

impl GuestLine {
    /// Takes a character of a domain that does not have the input. Calls `print` with the line when it is whole: ASCII
    /// without control characters, which would reach the terminal of somebody who looks at another domain.
    pub fn push(&mut self, byte: u8, print: &mut dyn FnMut(&str)) {
        let shown = match byte {
            b'\n' => {
                print(self.text());
                self.used = 0;
                return;
            }
            b'\t' | b' '..=b'~' => byte,
            0x80.. => b'?',
            _ => return,
        };
        if let Some(slot) = self.bytes.get_mut(self.used) {
            *slot = shown;
            self.used += 1;
        }
        if self.used == LINE_BYTES {
            print(self.text());
            self.used = 0;
        }
    }

    /// Takes what is there of the line: the domain has the input now, and goes on where it stopped.
    pub fn take(&mut self, print: &mut dyn FnMut(&str)) {
        if self.used > 0 {
            print(self.text());
            self.used = 0;
        }
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.used).unwrap_or_default();
        // ASCII only, see `push`.
        str::from_utf8(bytes).unwrap_or("?")
    }
}

/// A domain's line with the domain's name. Displayed without the line's end.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a>(pub DomId, pub &'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(domain, line) = self;
        write!(f, "(d{0}) DOM{0}: {line}", domain.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(line: &mut GuestLine, text: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        for &byte in text {
            line.push(byte, &mut |line| {
                out.push(Named(DomId::new(3), line).to_string())
            });
        }
        out
    }

    #[test]
    fn lines_are_whole_and_named() {
        let mut line = GuestLine::default();
        assert_eq!(
            say(&mut line, b"one\r\n\r\ntw"),
            ["(d3) DOM3: one", "(d3) DOM3: "]
        );
        assert_eq!(say(&mut line, b"o\nprompt> "), ["(d3) DOM3: two"]);
        let mut rest = String::new();
        line.take(&mut |text| rest.push_str(text));
        assert_eq!(rest, "prompt> ");
        line.take(&mut |_| panic!("taken twice"));
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let mut line = GuestLine::default();
        assert_eq!(
            say(&mut line, b"\x1b[2Ja\x00\x07\xc3\xa4\x7f\tb\x9b\n"),
            ["(d3) DOM3: [2Ja??\tb?"]
        );
    }

    #[test]
    fn long_lines_go_on() {
        let mut line = GuestLine::default();
        let text: Vec<u8> = (0..600u32).map(|i| b'a' + (i % 26) as u8).collect();
        let mut out = say(&mut line, &text);
        out.extend(say(&mut line, b"\n"));
        let joined: String = out
            .iter()
            .map(|l| l.strip_prefix("(d3) DOM3: ").unwrap())
            .collect();
        assert_eq!(joined.as_bytes(), text);
        assert_eq!(out.len(), 3);
    }
}
