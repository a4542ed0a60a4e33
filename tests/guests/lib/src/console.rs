//! The hypervisor's console, line by line; for a domain that may not write there, its emulated PL011.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use crate::hypercall;

struct Line {
    bytes: [u8; 120],
    used: usize,
}

impl Line {
    fn flush(&mut self) {
        let line = self.bytes.get(..self.used).unwrap_or(&[]);
        if hypercall::console_write(line) < 0 {
            for byte in line {
                put_pl011(*byte);
            }
        }
        self.used = 0;
    }
}

/// Writes a byte to the PL011 that Xen gives a domain with the property `vpl011` (public/arch-arm.h: GUEST_PL011_BASE).
fn put_pl011(byte: u8) {
    let base = 0x2200_0000 as *mut u32;
    for _ in 0..100_000 {
        // SAFETY: UARTFR, mapped flat; bit 5 says that there is no room.
        if unsafe { base.add(0x18 / 4).read_volatile() } & 1 << 5 == 0 {
            break;
        }
    }
    // SAFETY: UARTDR, mapped flat.
    unsafe { base.write_volatile(u32::from(byte)) };
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.used) {
                *slot = byte;
                self.used += 1;
            }
            if byte == b'\n' {
                self.flush();
            }
        }
        Ok(())
    }
}

struct Console(UnsafeCell<Line>);

// SAFETY: `print` takes BUSY; interrupt handlers do not print (a panic in one does, and does not return).
unsafe impl Sync for Console {}

/// A processor prints.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Looks at the lock.
const PATIENCE: u32 = 100_000_000;

static CONSOLE: Console = Console(UnsafeCell::new(Line {
    bytes: [0; 120],
    used: 0,
}));

/// What [`crate::print!`] calls.
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments) {
    // A panic may have come while its own processor held the lock: it is not waited for without end.
    for _ in 0..PATIENCE {
        if !BUSY.swap(true, Acquire) {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: as for `Sync`; the reference ends here.
    let line = unsafe { &mut *CONSOLE.0.get() };
    // Writing to the line never fails.
    let _ = line.write_fmt(arguments);
    BUSY.store(false, Release);
}

/// Prints to the hypervisor's console.
#[macro_export]
macro_rules! print { ($($a:tt)*) => { $crate::console::print(format_args!($($a)*)) }; }

/// Prints a line to the hypervisor's console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($a:tt)*) => { $crate::print!("{}\n", format_args!($($a)*)) };
}
