//! The UART of a domain that has no device of its own (`vpl011`): Arm's PL011, of which the SBSA generic UART that the
//! guest's device tree announces is a part.
//!
//! All registers of the PL011 are there, so that a driver for either works. The transmitter is infinitely fast: what is
//! written to `DR` is sent at once, so the transmit FIFO is always empty and its interrupt comes with each character,
//! unless whoever takes the characters has no room: then it is full until there is ([`Vpl011::set_transmitter_full`]).
//! What is typed waits in one queue; the guest sees as much of it as the receive FIFO would hold ([`FIFO_DEPTH`], or one
//! character with `LCR_H.FEN` clear) and the rest moves up as it reads. So an overrun happens when the queue is full,
//! not when a line is pasted while the vCPU does not run.
//!
//! Out of reset it is as firmware leaves an SBSA UART: enabled, 8N1, FIFOs on. Pure state, no locks: the caller has one
//! lock around it, and drives the interrupt line to [`Vpl011::is_asserted`] after each operation.
//!
//! Source: PrimeCell UART (PL011) r1p5 Technical Reference Manual (ARM DDI 0183G); SBSA (ARM DEN0029), appendix B.

use crate::vgic::Width;

/// Bytes of the register file.
pub const SIZE: u32 = 0x1000;
/// Characters in the receive FIFO that the guest sees (r1p5).
pub const FIFO_DEPTH: usize = 32;
/// Characters that wait at most, those in the FIFO included: a pasted line.
const QUEUE: usize = 256;

/// Register offsets in bytes (DDI 0183G, table 3-1).
pub mod reg {
    /// Data.
    pub const DR: u32 = 0x000;
    /// Receive status; error clear when written.
    pub const RSR: u32 = 0x004;
    /// Flags.
    pub const FR: u32 = 0x018;
    /// IrDA low-power counter.
    pub const ILPR: u32 = 0x020;
    /// Integer baud rate.
    pub const IBRD: u32 = 0x024;
    /// Fractional baud rate.
    pub const FBRD: u32 = 0x028;
    /// Line control.
    pub const LCR_H: u32 = 0x02c;
    /// Control.
    pub const CR: u32 = 0x030;
    /// FIFO levels of the interrupts.
    pub const IFLS: u32 = 0x034;
    /// Interrupt mask.
    pub const IMSC: u32 = 0x038;
    /// Raw interrupt status.
    pub const RIS: u32 = 0x03c;
    /// Masked interrupt status.
    pub const MIS: u32 = 0x040;
    /// Interrupt clear.
    pub const ICR: u32 = 0x044;
    /// DMA control.
    pub const DMACR: u32 = 0x048;
    /// Peripheral and PrimeCell identification: eight words.
    pub const PERIPH_ID0: u32 = 0xfe0;
}

/// Bits of FR.
mod fr {
    pub const CTS: u32 = 1 << 0;
    pub const DSR: u32 = 1 << 1;
    pub const DCD: u32 = 1 << 2;
    pub const RXFE: u32 = 1 << 4;
    pub const BUSY: u32 = 1 << 3;
    pub const TXFF: u32 = 1 << 5;
    pub const RXFF: u32 = 1 << 6;
    pub const TXFE: u32 = 1 << 7;
    pub const RI: u32 = 1 << 8;
}

/// Bits of LCR_H.
const LCR_H_FEN: u32 = 1 << 4;

/// Bits of CR.
mod cr {
    pub const UARTEN: u32 = 1 << 0;
    pub const LBE: u32 = 1 << 7;
    pub const TXE: u32 = 1 << 8;
    pub const RXE: u32 = 1 << 9;
    pub const DTR: u32 = 1 << 10;
    pub const RTS: u32 = 1 << 11;
    pub const OUT1: u32 = 1 << 12;
    pub const OUT2: u32 = 1 << 13;
}

/// Bits of IMSC, RIS, MIS and ICR.
mod int {
    pub const RI: u32 = 1 << 0;
    pub const CTS: u32 = 1 << 1;
    pub const DCD: u32 = 1 << 2;
    pub const DSR: u32 = 1 << 3;
    pub const RX: u32 = 1 << 4;
    pub const TX: u32 = 1 << 5;
    pub const RT: u32 = 1 << 6;
    pub const OE: u32 = 1 << 10;
}

/// Overrun in the error bits of a character (DR bits 11:8, RSR bits 3:0).
const ERROR_OVERRUN: u32 = 1 << 3;
/// PartNumber 011, designer Arm, revision r1p5; then the PrimeCell's.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
/// Bits that exist.
const CR_BITS: u32 = 0xff87;
const INT_BITS: u32 = 0x7ff;

/// A PL011.
#[derive(Clone, Debug)]
pub struct Vpl011 {
    queue: [u8; QUEUE],
    /// Where the oldest character is, and how many there are.
    first: usize,
    count: usize,
    /// Characters were lost behind the newest of the queue.
    overrun: bool,
    /// The character that comes after a loss: how many are read before it.
    overrun_at: Option<usize>,
    rsr: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
    /// What the guest sends is not taken at the moment.
    is_full: bool,
}

impl Default for Vpl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Vpl011 {
    /// The UART as firmware leaves it.
    pub const fn new() -> Self {
        Self {
            queue: [0; QUEUE],
            first: 0,
            count: 0,
            overrun: false,
            overrun_at: None,
            rsr: 0,
            ilpr: 0,
            // 115200 baud from 24 MHz.
            ibrd: 13,
            fbrd: 1,
            lcr_h: 0x60 | LCR_H_FEN,
            cr: cr::UARTEN | cr::TXE | cr::RXE,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
            is_full: false,
        }
    }

    /// Returns the level of the interrupt line (UARTINTR).
    pub fn is_asserted(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// Performs a guest's read at a byte offset. Lanes of a register can be read by themselves; whatever is read of `DR`
    /// takes the character.
    pub fn read(&mut self, offset: u32, width: Width) -> u32 {
        let word = self.read_register(offset & !3);
        let value = word >> (8 * (offset & 3));
        match width {
            Width::Byte => value & 0xff,
            Width::Half => value & 0xffff,
            Width::Word => value,
        }
    }

    /// Performs a guest's write at a byte offset; returns the character that is sent. What a narrow write leaves out is
    /// written as zero, as on the peripheral bus.
    #[must_use]
    pub fn write(&mut self, offset: u32, width: Width, value: u32) -> Option<u8> {
        let value = match width {
            Width::Byte => value & 0xff,
            Width::Half => value & 0xffff,
            Width::Word => value,
        };
        let value = value << (8 * (offset & 3));
        match offset & !3 {
            reg::DR => return self.send(value),
            reg::RSR => self.rsr = 0,
            reg::ILPR => self.ilpr = value & 0xff,
            reg::IBRD => self.ibrd = value & 0xffff,
            reg::FBRD => self.fbrd = value & 0x3f,
            reg::LCR_H => {
                self.lcr_h = value & 0xff;
                self.check_level();
            }
            reg::CR => self.set_control(value & CR_BITS),
            reg::IFLS => {
                self.ifls = value & 0x3f;
                self.check_level();
            }
            reg::IMSC => self.imsc = value & INT_BITS,
            reg::ICR => self.ris &= !value,
            reg::DMACR => self.dmacr = value & 7,
            // Read-only and reserved ones ignore writes.
            _ => {}
        }
        None
    }

    /// Whoever takes what the guest sends has no room for more, or has again.
    pub fn set_transmitter_full(&mut self, is_full: bool) {
        if is_full != self.is_full {
            self.is_full = is_full;
            // At or below any level, or above all.
            self.ris = self.ris & !int::TX | if is_full { 0 } else { int::TX };
        }
    }

    /// Returns how many characters can arrive before any is lost.
    pub fn room(&self) -> usize {
        QUEUE.saturating_sub(self.count)
    }

    /// A character arrives on the line. Returns false when it is lost: the receiver is off, or the queue is full.
    pub fn receive(&mut self, byte: u8) -> bool {
        const ON: u32 = cr::UARTEN | cr::RXE;
        // In loopback the line is not listened to.
        if self.cr & ON != ON || self.cr & cr::LBE != 0 {
            return false;
        }
        self.enqueue(byte)
    }

    fn read_register(&mut self, register: u32) -> u32 {
        match register {
            reg::DR => self.take(),
            reg::RSR => self.rsr,
            reg::FR => self.flags(),
            reg::ILPR => self.ilpr,
            reg::IBRD => self.ibrd,
            reg::FBRD => self.fbrd,
            reg::LCR_H => self.lcr_h,
            reg::CR => self.cr,
            reg::IFLS => self.ifls,
            reg::IMSC => self.imsc,
            reg::RIS => self.ris,
            reg::MIS => self.ris & self.imsc,
            reg::DMACR => self.dmacr,
            reg::PERIPH_ID0..SIZE => {
                let index = (register - reg::PERIPH_ID0) / 4;
                let byte = usize::try_from(index)
                    .ok()
                    .and_then(|index| IDENTIFICATION.get(index));
                byte.copied().map_or(0, u32::from)
            }
            _ => 0,
        }
    }

    /// Characters that the FIFO holds, or the holding register.
    fn depth(&self) -> usize {
        if self.lcr_h & LCR_H_FEN != 0 {
            FIFO_DEPTH
        } else {
            1
        }
    }

    /// Characters in the FIFO from which the receive interrupt is raised.
    fn trigger(&self) -> usize {
        match (self.lcr_h & LCR_H_FEN, (self.ifls >> 3) & 7) {
            (0, _) => 1,
            (_, 0) => FIFO_DEPTH / 8,
            (_, 1) => FIFO_DEPTH / 4,
            (_, 2) => FIFO_DEPTH / 2,
            (_, 3) => FIFO_DEPTH * 3 / 4,
            _ => FIFO_DEPTH * 7 / 8,
        }
    }

    fn level(&self) -> usize {
        self.count.min(self.depth())
    }

    fn flags(&self) -> u32 {
        let mut flags = self.modem_lines();
        flags |= if self.is_full {
            fr::TXFF | fr::BUSY
        } else {
            fr::TXFE
        };
        if self.count == 0 {
            flags |= fr::RXFE;
        } else if self.count >= self.depth() {
            flags |= fr::RXFF;
        }
        flags
    }

    /// The modem's lines: it is always ready; in loopback it is our own outputs.
    fn modem_lines(&self) -> u32 {
        if self.cr & cr::LBE == 0 {
            return fr::CTS | fr::DSR | fr::DCD;
        }
        let pairs = [
            (cr::RTS, fr::CTS),
            (cr::DTR, fr::DSR),
            (cr::OUT1, fr::DCD),
            (cr::OUT2, fr::RI),
        ];
        pairs.iter().fold(0, |lines, &(output, input)| {
            lines | if self.cr & output != 0 { input } else { 0 }
        })
    }

    fn set_control(&mut self, value: u32) {
        let before = self.modem_lines();
        self.cr = value;
        let changed = before ^ self.modem_lines();
        let pairs = [
            (fr::RI, int::RI),
            (fr::CTS, int::CTS),
            (fr::DCD, int::DCD),
            (fr::DSR, int::DSR),
        ];
        for (line, interrupt) in pairs {
            if changed & line != 0 {
                self.ris |= interrupt;
            }
        }
    }

    /// Sends a character: it has left the transmitter before the guest's next instruction.
    fn send(&mut self, value: u32) -> Option<u8> {
        // The FIFO is empty again, at or below any level; a full one cannot take it.
        if !self.is_full {
            self.ris |= int::TX;
        }
        let byte = (value & 0xff) as u8;
        if self.cr & cr::LBE != 0 {
            if self.cr & (cr::UARTEN | cr::RXE) == cr::UARTEN | cr::RXE {
                self.enqueue(byte);
            }
            return None;
        }
        // Also while the transmitter is off: early consoles do not enable it, and what a dying guest says is wanted.
        Some(byte)
    }

    fn enqueue(&mut self, byte: u8) -> bool {
        if self.count >= QUEUE {
            self.overrun = true;
            self.ris |= int::OE;
            return false;
        }
        if let Some(slot) = self.queue.get_mut((self.first + self.count) % QUEUE) {
            *slot = byte;
        }
        if core::mem::take(&mut self.overrun) && self.overrun_at.is_none() {
            self.overrun_at = Some(self.count);
        }
        self.count += 1;
        self.arrived();
        true
    }

    /// A character has come into the FIFO. Nothing more comes before the guest looks, so its time is out as well.
    fn arrived(&mut self) {
        self.ris |= int::RT;
        if self.level() >= self.trigger() {
            self.ris |= int::RX;
        }
    }

    /// The depth or the trigger changed.
    fn check_level(&mut self) {
        if self.level() < self.trigger() {
            self.ris &= !int::RX;
        } else {
            self.ris |= int::RX;
        }
    }

    /// Takes the oldest character with its error bits; zero when there is none.
    fn take(&mut self) -> u32 {
        if self.count == 0 {
            return 0;
        }
        let byte = self.queue.get(self.first).copied().unwrap_or(0);
        let moves_up = self.count > self.depth();
        self.first = (self.first + 1) % QUEUE;
        self.count -= 1;
        let errors = match self.overrun_at {
            Some(0) => {
                self.overrun_at = None;
                ERROR_OVERRUN
            }
            Some(n) => {
                self.overrun_at = Some(n - 1);
                0
            }
            None => 0,
        };
        self.rsr = errors;
        if moves_up {
            self.arrived();
        }
        if self.count == 0 {
            self.ris &= !int::RT;
        }
        if self.level() < self.trigger() {
            self.ris &= !int::RX;
        }
        u32::from(byte) | (errors << 8)
    }
}

#[cfg(test)]
mod tests;
