//! Drives the UART as drivers do, and as no driver should.

use std::collections::VecDeque;

use super::reg::*;
use super::{FIFO_DEPTH, QUEUE, SIZE, Vpl011};
use crate::vgic::Width;

const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;
const OE: u32 = 1 << 10;
const RXFE: u32 = 1 << 4;
const RXFF: u32 = 1 << 6;

fn read(uart: &mut Vpl011, register: u32) -> u32 {
    uart.read(register, Width::Word)
}

fn write(uart: &mut Vpl011, register: u32, value: u32) {
    assert_eq!(uart.write(register, Width::Word, value), None);
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u32
    }
}

/// A driver in the manner of Linux's amba-pl011: buffers, masks, and an interrupt handler that relies on levels.
#[derive(Default)]
struct Driver {
    mask: u32,
    to_send: VecDeque<u8>,
    got: Vec<u8>,
    sent: Vec<u8>,
    /// Handler runs until the line was low.
    passes: usize,
}

impl Driver {
    /// The full PL011: rates, FIFOs, control. The SBSA UART has none of these registers.
    fn start(&mut self, uart: &mut Vpl011, is_sbsa: bool) {
        if !is_sbsa {
            write(uart, IMSC, 0);
            write(uart, ICR, 0x7ff);
            write(uart, IFLS, 0x12);
            write(uart, IBRD, 6);
            write(uart, FBRD, 32);
            write(uart, LCR_H, 0x70);
            write(uart, CR, 0x301);
        }
        // What is there was for somebody before.
        write(uart, ICR, RX | RT);
        for _ in 0..2 * FIFO_DEPTH {
            if read(uart, FR) & RXFE != 0 {
                break;
            }
            let _ = read(uart, DR);
        }
        self.mask = RX | RT;
        write(uart, IMSC, self.mask);
    }

    fn send(&mut self, uart: &mut Vpl011, bytes: &[u8]) {
        self.to_send.extend(bytes);
        self.mask |= TX;
        // The first characters go without waiting for an interrupt, as many as fit.
        self.fill(uart, FIFO_DEPTH / 2);
        write(uart, IMSC, self.mask);
    }

    fn fill(&mut self, uart: &mut Vpl011, count: usize) {
        for _ in 0..count {
            assert_eq!(
                read(uart, FR) & (1 << 5),
                0,
                "the transmitter is never full"
            );
            match self.to_send.pop_front() {
                Some(byte) => self
                    .sent
                    .extend(uart.write(DR, Width::Half, u32::from(byte))),
                None => {
                    self.mask &= !TX;
                    write(uart, IMSC, self.mask);
                    return;
                }
            }
        }
    }

    fn interrupt(&mut self, uart: &mut Vpl011) {
        for _ in 0..256 {
            let status = read(uart, RIS) & self.mask;
            assert_eq!(status, read(uart, MIS));
            if status == 0 {
                return;
            }
            self.passes += 1;
            write(uart, ICR, status & !(RX | RT | TX));
            if status & (RX | RT) != 0 {
                for _ in 0..256 {
                    if read(uart, FR) & RXFE != 0 {
                        break;
                    }
                    let data = read(uart, DR);
                    assert_eq!(data >> 8, 0, "no error");
                    self.got.push(data as u8);
                }
            }
            if status & TX != 0 {
                self.fill(uart, FIFO_DEPTH / 2);
            }
        }
    }

    /// The line is level-sensitive: as long as it is high, the handler runs.
    fn run(&mut self, uart: &mut Vpl011) {
        for _ in 0..1000 {
            if !uart.is_asserted() {
                return;
            }
            self.interrupt(uart);
        }
        panic!("interrupt storm");
    }
}

#[test]
fn drivers_send_and_receive_everything() {
    for is_sbsa in [false, true] {
        let mut uart = Vpl011::new();
        uart.receive(b'?');
        let mut driver = Driver::default();
        driver.start(&mut uart, is_sbsa);
        assert!(!uart.is_asserted());
        let text: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        let mut typed = Vec::new();
        for chunk in text.chunks(777) {
            driver.send(&mut uart, chunk);
            // A pasted line between.
            for &byte in chunk.iter().take(QUEUE) {
                assert!(uart.receive(byte));
                typed.push(byte);
            }
            assert!(uart.is_asserted());
            driver.run(&mut uart);
        }
        assert_eq!(driver.sent, text);
        assert_eq!(driver.got, typed);
        assert_eq!(driver.mask & TX, 0);
        assert!(!uart.is_asserted());
    }
}

#[test]
fn one_character_is_enough_for_an_interrupt() {
    let mut uart = Vpl011::new();
    write(&mut uart, IMSC, RT);
    assert!(!uart.is_asserted());
    assert!(uart.receive(b'x'));
    assert_eq!(read(&mut uart, RIS), RT, "not RX: one is below the trigger");
    assert!(uart.is_asserted());
    assert_eq!(read(&mut uart, FR) & RXFE, 0);
    assert_eq!(read(&mut uart, DR), u32::from(b'x'));
    assert_eq!(read(&mut uart, FR) & RXFE, RXFE);
    assert!(!uart.is_asserted());
    assert_eq!(read(&mut uart, DR), 0, "an empty FIFO");
}

#[test]
fn the_receive_interrupt_follows_the_level() {
    for (select, trigger) in [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28), (7, 28)] {
        let mut uart = Vpl011::new();
        write(&mut uart, IFLS, select << 3);
        write(&mut uart, IMSC, RX);
        for n in 1..=FIFO_DEPTH {
            assert!(uart.receive(b'a'));
            assert_eq!(uart.is_asserted(), n >= trigger, "{n} of {trigger}");
        }
        assert_eq!(read(&mut uart, FR) & RXFF, RXFF);
        for n in (0..FIFO_DEPTH).rev() {
            let _ = read(&mut uart, DR);
            assert_eq!(uart.is_asserted(), n >= trigger, "{n} of {trigger}");
            assert_eq!(read(&mut uart, FR) & RXFF, 0);
        }
    }
    // Without FIFOs one character is full.
    let mut uart = Vpl011::new();
    write(&mut uart, LCR_H, 0x60);
    write(&mut uart, IMSC, RX);
    assert!(uart.receive(b'a'));
    assert!(uart.receive(b'b'));
    assert_eq!(read(&mut uart, FR) & (RXFF | RXFE), RXFF);
    assert_eq!(read(&mut uart, DR), u32::from(b'a'));
    assert!(uart.is_asserted(), "the next one moved up");
    assert_eq!(read(&mut uart, DR), u32::from(b'b'));
    assert!(!uart.is_asserted());
}

#[test]
fn cleared_interrupts_come_again_with_the_next_character() {
    let mut uart = Vpl011::new();
    write(&mut uart, IMSC, RX | RT | TX);
    for _ in 0..FIFO_DEPTH + 1 {
        assert!(uart.receive(b'a'));
    }
    write(&mut uart, ICR, 0x7ff);
    assert!(!uart.is_asserted(), "although the FIFO is full");
    let _ = read(&mut uart, DR);
    assert!(uart.is_asserted(), "one moved up from the queue");
    write(&mut uart, ICR, 0x7ff);
    let _ = read(&mut uart, DR);
    assert!(!uart.is_asserted());
    assert_eq!(uart.write(DR, Width::Byte, 0x41), Some(0x41));
    assert_eq!(read(&mut uart, MIS), TX);
    write(&mut uart, ICR, TX);
    assert!(!uart.is_asserted());
}

#[test]
fn an_overrun_is_told_where_it_happened() {
    let mut uart = Vpl011::new();
    write(&mut uart, IMSC, OE);
    for i in 0..QUEUE {
        assert!(uart.receive(i as u8));
    }
    assert!(!uart.is_asserted());
    assert!(!uart.receive(b'!'));
    assert!(!uart.receive(b'!'));
    assert!(uart.is_asserted());
    write(&mut uart, ICR, OE);
    assert!(!uart.is_asserted());
    assert_eq!(read(&mut uart, DR), 0);
    assert!(uart.receive(b'z'));
    for i in 1..QUEUE {
        assert_eq!(read(&mut uart, DR), i as u32 & 0xff);
        assert_eq!(read(&mut uart, RSR), 0);
    }
    assert_eq!(read(&mut uart, DR), 0x800 | u32::from(b'z'));
    assert_eq!(read(&mut uart, RSR), 8);
    write(&mut uart, RSR, 0xff);
    assert_eq!(read(&mut uart, RSR), 0);
    assert!(uart.receive(b'y'));
    assert_eq!(read(&mut uart, DR), u32::from(b'y'), "only once");
}

#[test]
fn a_receiver_that_is_off_hears_nothing() {
    for control in [0, 0x101, 0x300, 0x381] {
        let mut uart = Vpl011::new();
        write(&mut uart, CR, control);
        assert!(!uart.receive(b'x'), "{control:#x}");
        assert_eq!(read(&mut uart, FR) & RXFE, RXFE);
    }
}

#[test]
fn loopback_hears_itself() {
    let mut uart = Vpl011::new();
    write(&mut uart, CR, 0x381);
    assert_eq!(uart.write(DR, Width::Word, 0x55), None, "nothing is sent");
    assert_eq!(read(&mut uart, DR), 0x55);
    // RTS, DTR, Out1, Out2 to CTS, DSR, DCD, RI.
    write(&mut uart, ICR, 0x7ff);
    for (output, input, interrupt) in [(11, 0, 1), (10, 1, 3), (12, 2, 2), (13, 8, 0)] {
        write(&mut uart, CR, 0x381 | 1 << output);
        assert_eq!(read(&mut uart, FR) & 0x107, 1 << input);
        assert_eq!(read(&mut uart, RIS) & 0xf, 1 << interrupt);
        write(&mut uart, CR, 0x381);
        write(&mut uart, ICR, 0x7ff);
    }
}

#[test]
fn registers_hold_what_exists_of_them() {
    let mut uart = Vpl011::new();
    for (register, reset, bits) in [
        (ILPR, 0, 0xff),
        (IBRD, 13, 0xffff),
        (FBRD, 1, 0x3f),
        (LCR_H, 0x70, 0xff),
        (CR, 0x301, 0xff87),
        (IFLS, 0x12, 0x3f),
        (IMSC, 0, 0x7ff),
        (DMACR, 0, 7),
    ] {
        assert_eq!(read(&mut uart, register), reset, "{register:#x}");
        write(&mut uart, register, u32::MAX);
        assert_eq!(read(&mut uart, register), bits, "{register:#x}");
        assert_eq!(uart.read(register, Width::Byte), bits & 0xff);
        assert_eq!(uart.read(register + 1, Width::Byte), bits >> 8);
        write(&mut uart, register, 0);
        assert_eq!(read(&mut uart, register), 0, "{register:#x}");
    }
    // Read-only, write-only and reserved.
    for register in [FR, RIS, MIS, ICR, 0x80, 0x1c, 0xfdc, 0xff0] {
        let before = read(&mut Vpl011::new(), register);
        let mut uart = Vpl011::new();
        write(&mut uart, register, u32::MAX);
        assert_eq!(read(&mut uart, register), before, "{register:#x}");
    }
}

#[test]
fn it_names_itself_a_pl011_r1p5() {
    let mut uart = Vpl011::new();
    let ids: Vec<u32> = (0..8)
        .map(|i| read(&mut uart, PERIPH_ID0 + 4 * i))
        .collect();
    let join = |bytes: &[u32]| bytes.iter().rev().fold(0, |id, byte| id << 8 | byte);
    // As Linux's AMBA bus joins and masks them.
    assert_eq!(join(&ids[..4]) & 0x000f_ffff, 0x0004_1011);
    assert!(
        (join(&ids[..4]) >> 20) & 0xf >= 3,
        "a revision with 32 characters"
    );
    assert_eq!(join(&ids[4..]), 0xb105_f00d);
}

#[test]
fn random_accesses_do_no_harm() {
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut uart = Vpl011::new();
    let known = [
        DR, RSR, FR, ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, RIS, MIS, ICR, DMACR,
    ];
    for _ in 0..400_000 {
        let offset = match rng.next() % 8 {
            0 => rng.next() % SIZE,
            1 => rng.next(),
            _ => known[rng.next() as usize % known.len()] + rng.next() % 4,
        };
        let width = [Width::Byte, Width::Half, Width::Word][rng.next() as usize % 3];
        match rng.next() % 3 {
            0 => {
                let value = uart.read(offset, width);
                match width {
                    Width::Byte => assert!(value <= 0xff),
                    Width::Half => assert!(value <= 0xffff),
                    Width::Word => {}
                }
            }
            1 => {
                let value = rng.next();
                let sent = uart.write(offset, width, value);
                assert!(sent.is_none() || offset & !3 == DR);
            }
            _ => {
                for _ in 0..rng.next() % 64 {
                    uart.receive(rng.next() as u8);
                }
            }
        }
        assert!(uart.count <= QUEUE && uart.first < QUEUE);
        assert!(uart.overrun_at.is_none_or(|at| at < uart.count));
        let flags = read(&mut uart, FR);
        assert_eq!(flags & RXFE != 0, uart.count == 0);
        assert!(uart.count != 0 || uart.ris & RT == 0, "nothing to time out");
        assert_eq!(uart.is_asserted(), read(&mut uart, MIS) != 0);
    }
}
