//! The hypervisor's console, line by line; where a domain may not write to it, its UART.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::{cpu, hypercall};

/// The UART's data register; 0: none.
static UART: AtomicUsize = AtomicUsize::new(0);

/// Notes where the UART is.
pub(crate) fn set_uart(base: usize) {
    UART.store(base, Relaxed);
}

struct Line {
    bytes: [u8; 120],
    used: usize,
}

impl Line {
    fn flush(&mut self) {
        let line = self.bytes.get(..self.used).unwrap_or(&[]);
        let uart = UART.load(Relaxed);
        if hypercall::console_write(line) < 0 && uart != 0 {
            for byte in line {
                put_pl011(uart, *byte);
            }
        }
        self.used = 0;
    }
}

/// Writes a byte to a PL011.
fn put_pl011(base: usize, byte: u8) {
    for _ in 0..100_000 {
        // SAFETY: UARTFR, mapped flat; bit 5 says that there is no room.
        if unsafe { cpu::mmio_read(base + 0x18) } & 1 << 5 == 0 {
            break;
        }
    }
    // SAFETY: UARTDR, mapped flat.
    unsafe { cpu::mmio_write(base, byte.into()) };
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
