//! Text that is made piece by piece and printed line by line, without a heap: what debug keys show.

use core::fmt::{self, Write};

/// The longest line; what is longer goes on in the next one.
const LINE_BYTES: usize = 128;

/// Collects a line and gives it to `print`, without its end, when it is whole. The last one goes when this is dropped.
pub struct Lines<F: FnMut(&str)> {
    line: [u8; LINE_BYTES],
    used: usize,
    print: F,
}

impl<F: FnMut(&str)> Lines<F> {
    /// Nothing is written yet.
    pub fn new(print: F) -> Self {
        Self {
            line: [0; LINE_BYTES],
            used: 0,
            print,
        }
    }

    fn print_line(&mut self) {
        let line = self.line.get(..self.used).unwrap_or_default();
        // Cut between characters only.
        (self.print)(str::from_utf8(line).unwrap_or("?"));
        self.used = 0;
    }

    fn append(&mut self, mut text: &str) {
        while !text.is_empty() {
            let mut count = text.len().min(LINE_BYTES - self.used);
            while !text.is_char_boundary(count) {
                count -= 1;
            }
            let (now, later) = text.split_at(count);
            if let Some(to) = self.line.get_mut(self.used..self.used + count) {
                to.copy_from_slice(now.as_bytes());
                self.used += count;
            }
            text = later;
            if !text.is_empty() {
                self.print_line();
            }
        }
    }
}

impl<F: FnMut(&str)> Write for Lines<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(end) => {
                    self.append(end);
                    self.print_line();
                }
                None => self.append(part),
            }
        }
        Ok(())
    }
}

impl<F: FnMut(&str)> Drop for Lines<F> {
    fn drop(&mut self) {
        if self.used > 0 {
            self.print_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn lines(write: impl FnOnce(&mut dyn Write)) -> Vec<String> {
        let mut out = Vec::new();
        write(&mut Lines::new(|line| out.push(line.to_string())));
        out
    }

    #[test]
    fn pieces_become_lines() {
        let out = lines(|w| {
            write!(w, "a{}", 1).unwrap();
            write!(w, "b\nc\n\nd").unwrap();
            writeln!(w).unwrap();
            write!(w, "end").unwrap();
        });
        assert_eq!(out, ["a1b", "c", "", "d", "end"]);
        assert!(lines(|_| ()).is_empty());
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        for ahead in 0..4 {
            let text = "x".repeat(ahead) + &"\u{20ac}".repeat(100);
            let out = lines(|w| writeln!(w, "{text}").unwrap());
            assert_eq!(out.concat(), text);
            assert!(out.iter().all(
                |line| line.len() <= LINE_BYTES && line.len() > LINE_BYTES - 4
                    || line.len() == text.len() - out[0].len() - out[1].len()
            ));
        }
        let exact = "y".repeat(LINE_BYTES);
        assert_eq!(
            lines(|w| writeln!(w, "{exact}").unwrap()),
            std::slice::from_ref(&exact)
        );
        assert_eq!(
            lines(|w| write!(w, "{exact}z").unwrap()),
            [exact, "z".to_string()]
        );
    }
}
