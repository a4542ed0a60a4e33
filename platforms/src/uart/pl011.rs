//! Arm PrimeCell UART (PL011, DDI 0183).
//!
//! `arm-pl011-uart` 0.5 was checked: its only way to enable the UART reprograms the baud rate from a clock rate, which a
//! hypervisor that takes over firmware's console does not know and must not change.

use super::{RegisterIo, Uart};

const DR: usize = 0x00;
const FR: usize = 0x18;
const CR: usize = 0x30;
const IFLS: usize = 0x34;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const CR_UARTEN_TXE_RXE: u32 = (1 << 0) | (1 << 8) | (1 << 9);
/// Receive and receive-timeout interrupts.
const INT_RX_RT: u32 = (1 << 4) | (1 << 6);
/// Framing, parity, break and overrun flags beside a received byte.
const DR_ERRORS: u32 = 0xf00;

/// Polls for room in the transmit FIFO before a byte is dropped: far longer than a FIFO takes at 9600 baud.
const WAIT_LIMIT: u32 = 1_000_000;

/// A PL011.
pub struct Pl011<R> {
    regs: R,
}

impl<R: RegisterIo> Pl011<R> {
    /// Takes the UART; the line settings stay as firmware left them.
    pub fn new(regs: R) -> Self {
        regs.write32(IMSC, 0);
        regs.write32(CR, regs.read32(CR) | CR_UARTEN_TXE_RXE);
        Self { regs }
    }
}

impl<R: RegisterIo + Send> Uart for Pl011<R> {
    fn put(&mut self, byte: u8) {
        for _ in 0..WAIT_LIMIT {
            if self.regs.read32(FR) & FR_TXFF == 0 {
                self.regs.write32(DR, u32::from(byte));
                return;
            }
        }
    }

    fn get(&mut self) -> Option<u8> {
        // A byte that came with a line error is dropped; at most one FIFO of them is looked at.
        for _ in 0..32 {
            if self.regs.read32(FR) & FR_RXFE != 0 {
                return None;
            }
            let data = self.regs.read32(DR);
            if data & DR_ERRORS == 0 {
                return Some((data & 0xff) as u8);
            }
        }
        None
    }

    fn enable_receive_interrupt(&mut self) {
        self.regs.write32(ICR, 0x7ff);
        // Interrupt at the lowest FIFO level: typing is slow and should be seen at once.
        self.regs.write32(IFLS, 0);
        self.regs.write32(IMSC, INT_RX_RT);
    }

    fn mask_receive_interrupt(&mut self, masked: bool) {
        self.regs.write32(IMSC, if masked { 0 } else { INT_RX_RT });
    }

    fn clear_interrupt(&mut self) {
        self.regs.write32(ICR, INT_RX_RT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Registers that remember writes; FR and DR answer from queues.
    struct Fake {
        written: Mutex<Vec<(usize, u32)>>,
        received: Mutex<Vec<u32>>,
        full_polls: Mutex<u32>,
    }

    impl RegisterIo for &Fake {
        fn read32(&self, offset: usize) -> u32 {
            match offset {
                FR => {
                    let mut full = self.full_polls.lock().unwrap();
                    let tx = if *full > 0 {
                        *full -= 1;
                        FR_TXFF
                    } else {
                        0
                    };
                    tx | if self.received.lock().unwrap().is_empty() {
                        FR_RXFE
                    } else {
                        0
                    }
                }
                DR => self.received.lock().unwrap().remove(0),
                _ => 0,
            }
        }
        fn write32(&self, offset: usize, value: u32) {
            self.written.lock().unwrap().push((offset, value));
        }
        fn read8(&self, _: usize) -> u8 {
            0
        }
        fn write8(&self, _: usize, _: u8) {}
    }

    fn fake(received: &[u32], full_polls: u32) -> Fake {
        Fake {
            written: Mutex::default(),
            received: Mutex::new(received.to_vec()),
            full_polls: Mutex::new(full_polls),
        }
    }

    #[test]
    fn waits_for_room_then_writes() {
        let fake = fake(&[], 3);
        let mut uart = Pl011::new(&fake);
        uart.put(b'x');
        assert_eq!(
            fake.written.lock().unwrap().last(),
            Some(&(DR, u32::from(b'x')))
        );
        assert_eq!(*fake.full_polls.lock().unwrap(), 0);
    }

    #[test]
    fn a_stuck_fifo_drops_the_byte_instead_of_hanging() {
        let fake = fake(&[], u32::MAX);
        let mut uart = Pl011::new(&fake);
        uart.put(b'x');
        assert!(fake.written.lock().unwrap().iter().all(|w| w.0 != DR));
    }

    #[test]
    fn masking_keeps_what_was_received() {
        let fake = fake(&[0x41], 0);
        let mut uart = Pl011::new(&fake);
        fake.written.lock().unwrap().clear();
        uart.mask_receive_interrupt(true);
        uart.mask_receive_interrupt(false);
        assert_eq!(
            *fake.written.lock().unwrap(),
            [(IMSC, 0), (IMSC, INT_RX_RT)]
        );
        assert_eq!(uart.get(), Some(0x41));
    }

    #[test]
    fn bytes_with_line_errors_are_dropped() {
        let fake = fake(&[0x100 | 0x41, 0x42], 0);
        let mut uart = Pl011::new(&fake);
        assert_eq!(uart.get(), Some(0x42));
        assert_eq!(uart.get(), None);
    }
}
