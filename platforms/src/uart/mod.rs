//! The console UARTs: one driver, and for each family of UARTs a description of its registers (`families`).
//!
//! The driver writes, reads and masks interrupts; everything above is in `xenith_core::console`. Speed and line format
//! stay as firmware left them: the hypervisor does not know the clock that they are made from.

mod families;
#[cfg(test)]
mod tests;

use crate::RegisterIo;

pub use families::FAMILIES;

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

/// Bytes of registers that every driver stays within.
pub const REGISTER_BYTES: usize = 0x100;

/// Polls for room in the transmit FIFO before a byte is dropped: far longer than a FIFO takes at 9600 baud.
const WAIT_LIMIT: u32 = 1_000_000;
/// Bytes with line errors that are dropped at a time: no FIFO holds more than 256.
const MAX_DROPPED: u32 = 256;

/// A condition: a register, and bits of it.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// One of the bits is set.
    Set(u8, u32),
    /// All of the bits are clear.
    Clear(u8, u32),
}

/// Something to do with a register.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Writes a value.
    Write(u8, u32),
    /// Sets bits and keeps the others.
    Set(u8, u32),
    /// Clears bits and keeps the others.
    Clear(u8, u32),
    /// Reads, because reading has an effect.
    Read(u8),
}

/// How the numbers of registers become addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// They are offsets of 32-bit registers.
    Words,
    /// They count registers, whose distance and width are fixed: log2 of the bytes between two, bytes of an access.
    Fixed(u8, u8),
    /// They count registers, and the device tree says the rest (`reg-shift`, `reg-io-width`).
    FromTree,
}

/// What the device tree says of the registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeLayout {
    /// `reg-shift`, if the node has it.
    pub shift: Option<u32>,
    /// `reg-io-width` in bytes, if the node has it.
    pub width: Option<u32>,
}

/// A departure from what the tables can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// None.
    None,
    /// DesignWare: a receive timeout without a byte only ends when the data register is read.
    EmptyTimeout,
}

/// A family of UARTs that one description fits. Registers are in the unit that `layout` says.
#[derive(Debug)]
pub struct Family {
    /// What the option `--early-uart` of scripts/build calls it.
    pub name: &'static str,
    /// `compatible` strings.
    pub compatibles: &'static [&'static str],
    /// How registers are counted.
    pub layout: Layout,
    /// The register that takes a byte.
    pub transmit: u8,
    /// The register that gives a byte in its low 8 bits.
    pub receive: u8,
    /// When a byte may be written.
    pub has_room: When,
    /// When there is a byte to read.
    pub has_byte: When,
    /// Bits of `receive` that mark a bad byte.
    pub bad_data: u32,
    /// Bits of the register of `has_byte` that mark a bad byte.
    pub bad_status: u32,
    /// Switches the UART on and its interrupts off.
    pub start: &'static [Step],
    /// Prepares for the receive interrupt.
    pub listen: &'static [Step],
    /// Lets the receive interrupt through.
    pub unmask: Step,
    /// Holds it back; nothing that was received may be lost.
    pub mask: Step,
    /// Ends the cause of an interrupt, and clears line errors.
    pub acknowledge: &'static [Step],
    /// What else there is.
    pub quirk: Quirk,
}

/// Returns the family of the first `compatible` string that is known.
pub fn find<'a>(mut compatibles: impl Iterator<Item = &'a str>) -> Option<&'static Family> {
    compatibles.find_map(|wanted| {
        FAMILIES
            .iter()
            .find(|family| family.compatibles.contains(&wanted))
    })
}

/// Returns the family with this name.
pub fn by_name(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// A UART of one of the families.
pub struct Port<R> {
    family: &'static Family,
    shift: u8,
    /// True for 32-bit accesses, false for bytes.
    is_wide: bool,
    /// Where bytes are sent, and where and how room for them is seen: looked up once, as every byte needs it.
    transmit: usize,
    room: Room,
    /// There was no room for the last byte in all the time that it may take: nobody waits as long again before there is.
    is_stuck: bool,
    regs: R,
}

/// [`Family::has_room`] with the register's place.
struct Room {
    offset: usize,
    mask: u32,
    /// The masked value is 0 while there is room; else it is while there is none.
    is_zero: bool,
}

impl<R: RegisterIo> Port<R> {
    /// Takes the UART. What a tree without `reg-shift` or `reg-io-width` means is the binding's default: no shift, bytes.
    pub fn new(family: &'static Family, tree: TreeLayout, regs: R) -> Self {
        let (shift, width) = match family.layout {
            Layout::Words => (0, 4),
            Layout::Fixed(shift, width) => (shift, u32::from(width)),
            Layout::FromTree => (
                // More than 4 bits would lead out of the registers.
                tree.shift.unwrap_or(0).min(4) as u8,
                tree.width.unwrap_or(1),
            ),
        };
        let (register, mask, is_zero) = match family.has_room {
            When::Set(register, mask) => (register, mask, false),
            When::Clear(register, mask) => (register, mask, true),
        };
        let port = Self {
            family,
            shift,
            is_wide: width == 4,
            transmit: usize::from(family.transmit) << shift,
            room: Room {
                offset: usize::from(register) << shift,
                mask,
                is_zero,
            },
            is_stuck: false,
            regs,
        };
        port.perform(family.start);
        port
    }

    #[inline]
    fn read(&self, register: u8) -> u32 {
        self.read_at(usize::from(register) << self.shift)
    }

    #[inline(always)]
    fn read_at(&self, offset: usize) -> u32 {
        if self.is_wide {
            self.regs.read32(offset)
        } else {
            u32::from(self.regs.read8(offset))
        }
    }

    #[inline]
    fn write(&self, register: u8, value: u32) {
        self.write_at(usize::from(register) << self.shift, value);
    }

    #[inline(always)]
    fn write_at(&self, offset: usize, value: u32) {
        if self.is_wide {
            self.regs.write32(offset, value);
        } else {
            self.regs.write8(offset, (value & 0xff) as u8);
        }
    }

    fn perform(&self, steps: &[Step]) {
        for &step in steps {
            match step {
                Step::Write(register, value) => self.write(register, value),
                Step::Set(register, bits) => self.write(register, self.read(register) | bits),
                Step::Clear(register, bits) => self.write(register, self.read(register) & !bits),
                Step::Read(register) => drop(self.read(register)),
            }
        }
    }

    /// Returns whether the condition holds, and the register's value.
    fn holds(&self, when: When) -> (bool, u32) {
        let (register, mask, wanted) = match when {
            When::Set(register, mask) => (register, mask, true),
            When::Clear(register, mask) => (register, mask, false),
        };
        let value = self.read(register);
        ((value & mask != 0) == wanted, value)
    }
}

impl<R: RegisterIo + Send> Uart for Port<R> {
    fn put(&mut self, byte: u8) {
        let limit = if self.is_stuck { 1 } else { WAIT_LIMIT };
        for _ in 0..limit {
            if (self.read_at(self.room.offset) & self.room.mask == 0) == self.room.is_zero {
                self.is_stuck = false;
                return self.write_at(self.transmit, u32::from(byte));
            }
        }
        // Its clock is off, say: the machine must not stand still for every letter.
        self.is_stuck = true;
    }

    fn get(&mut self) -> Option<u8> {
        for _ in 0..MAX_DROPPED {
            let (is_there, status) = self.holds(self.family.has_byte);
            if !is_there {
                return None;
            }
            let data = self.read(self.family.receive);
            if data & self.family.bad_data == 0 && status & self.family.bad_status == 0 {
                return Some((data & 0xff) as u8);
            }
            self.perform(self.family.acknowledge);
        }
        None
    }

    fn enable_receive_interrupt(&mut self) {
        self.perform(self.family.listen);
        self.mask_receive_interrupt(false);
    }

    fn mask_receive_interrupt(&mut self, masked: bool) {
        self.perform(&[if masked {
            self.family.mask
        } else {
            self.family.unmask
        }]);
    }

    fn clear_interrupt(&mut self) {
        if self.family.quirk == Quirk::EmptyTimeout
            && self.read(families::IIR) & 0x3f == families::IIR_TIMEOUT
            && !self.holds(self.family.has_byte).0
        {
            self.read(self.family.receive);
        }
        self.perform(self.family.acknowledge);
    }
}
