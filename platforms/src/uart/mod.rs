//! The console UARTs. A driver writes, reads and masks its interrupt; everything above is in `xenith_core::console`.

mod pl011;

pub use pl011::Pl011;

/// Access to a device's registers; out of range reads as 0 and writes nothing.
pub trait RegisterIo {
    /// Reads the 32-bit register at `offset` (bytes).
    fn read32(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);
    /// Reads the byte register at `offset`.
    fn read8(&self, offset: usize) -> u8;
    /// Writes the byte register at `offset`.
    fn write8(&self, offset: usize, value: u8);
}

/// A serial port.
pub trait Uart: Send {
    /// Puts one byte on the line, waiting for room (bounded).
    fn put(&mut self, byte: u8);
    /// Takes a received byte, if there is one.
    fn get(&mut self) -> Option<u8>;
    /// Asks for an interrupt when something was received.
    fn enable_receive_interrupt(&mut self);
    /// Keeps the receive interrupt from being signalled, or lets it through again. What was received stays.
    fn mask_receive_interrupt(&mut self, masked: bool);
    /// Ends the interrupt's cause as far as reading did not.
    fn clear_interrupt(&mut self);
}

/// Kinds of UART that a device tree can name and we can drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Arm PrimeCell PL011 (and the SBSA subset).
    Pl011,
}

impl Kind {
    /// Returns the driver for a `compatible` string.
    pub fn from_compatible(compatible: &str) -> Option<Self> {
        match compatible {
            "arm,pl011" | "arm,sbsa-uart" => Some(Self::Pl011),
            _ => None,
        }
    }

    /// Returns how many bytes of registers the driver needs.
    pub const fn register_bytes(self) -> usize {
        match self {
            Self::Pl011 => 0x1000,
        }
    }
}
