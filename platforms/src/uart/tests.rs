//! Each family against a fake of its registers. The numbers in [`EXPECTED`] are written out from the source named at each,
//! as byte offsets, and not from the tables under test.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use super::*;

/// What the sources say of a family.
struct Expected {
    compatible: &'static str,
    tree: TreeLayout,
    /// Bytes of an access.
    width: u32,
    /// Offset of the transmit and receive data.
    transmit: usize,
    receive: usize,
    /// Status register, its value with and without room for a byte, nothing being received.
    room: (usize, u32, u32),
    /// Status register, its value with and without a received byte.
    byte: (usize, u32, u32),
    /// How a byte with an error looks: what is added to the data, and to the status.
    bad: Option<(u32, u32)>,
    /// Registers that must hold these bits (mask, value) when only the receive interrupt is enabled.
    listening: &'static [(usize, u32, u32)],
    /// The offset whose write (or read) must be seen when an interrupt is cleared.
    cleared: usize,
}

const NO_TREE: TreeLayout = TreeLayout {
    shift: None,
    width: None,
};
const SHIFT_2: TreeLayout = TreeLayout {
    shift: Some(2),
    width: None,
};
const SHIFT_2_WORDS: TreeLayout = TreeLayout {
    shift: Some(2),
    width: Some(4),
};

const EXPECTED: &[Expected] = &[
    // National PC16550D data sheet, table II: RBR/THR 0, IER 1 (bit 0 received data, bit 1 transmitter), LSR 5 (bit 0 data
    // ready, bit 5 THRE, bits 1-4 OE PE FE BI). No reg-shift: Linux binding serial/8250.yaml.
    Expected {
        compatible: "ns16550a",
        tree: NO_TREE,
        width: 1,
        transmit: 0,
        receive: 0,
        room: (5, 0x60, 0x00),
        byte: (5, 0x61, 0x60),
        bad: Some((0, 0x10)),
        listening: &[(1, 0x03, 0x01)],
        cleared: 2,
    },
    // The same at 4 bytes' distance in bytes: aspeed-g6.dtsi (reg-shift 2, no reg-io-width).
    Expected {
        compatible: "ns16550a",
        tree: SHIFT_2,
        width: 1,
        transmit: 0,
        receive: 0,
        room: (0x14, 0x60, 0x00),
        byte: (0x14, 0x61, 0x60),
        bad: Some((0, 0x08)),
        listening: &[(4, 0x03, 0x01)],
        cleared: 8,
    },
    // Allwinner A31 user manual, 8.3.6: UART_RBR/THR 0x00, IER 0x04, IIR 0x08, LSR 0x14, USR 0x7c.
    Expected {
        compatible: "snps,dw-apb-uart",
        tree: SHIFT_2_WORDS,
        width: 4,
        transmit: 0,
        receive: 0,
        room: (0x14, 0x60, 0x00),
        byte: (0x14, 0x61, 0x60),
        bad: Some((0, 0x04)),
        listening: &[(4, 0x03, 0x01)],
        cleared: 0x7c,
    },
    // DRA75x TRM, UART registers: THR/RHR 0x00, IER 0x04, LSR 0x14; a tree of DRA7 gives no reg-shift.
    Expected {
        compatible: "ti,dra742-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0,
        receive: 0,
        room: (0x14, 0x60, 0x00),
        byte: (0x14, 0x61, 0x60),
        bad: Some((0, 0x10)),
        // Bit 4 is the sleep mode there.
        listening: &[(4, 0x13, 0x01)],
        cleared: 8,
    },
    // Tegra K1 TRM, UART: IER bit 4 enables the receive timeout.
    Expected {
        compatible: "nvidia,tegra20-uart",
        tree: SHIFT_2,
        width: 4,
        transmit: 0,
        receive: 0,
        room: (0x14, 0x60, 0x00),
        byte: (0x14, 0x61, 0x60),
        bad: Some((0, 0x10)),
        listening: &[(4, 0x13, 0x11)],
        cleared: 8,
    },
    // BCM2711 ARM Peripherals 2.2 (AUX_MU_IO 0x40, IER 0x44, LSR 0x54, from 0x7e215000; the node's reg begins at 0x40).
    Expected {
        compatible: "brcm,bcm2835-aux-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0,
        receive: 0,
        room: (0x14, 0x60, 0x00),
        byte: (0x14, 0x61, 0x60),
        bad: None,
        listening: &[(4, 0x05, 0x05)],
        cleared: 8,
    },
    // Arm DDI 0183G table 3-1: UARTDR 0x00, UARTFR 0x18 (bit 4 RXFE, bit 5 TXFF), UARTIMSC 0x38 (bit 4 RX, bit 5 TX, bit 6
    // RT), UARTICR 0x44, UARTCR 0x30 (bit 0 enable, bits 8 and 9 the directions).
    Expected {
        compatible: "arm,pl011",
        tree: NO_TREE,
        width: 4,
        transmit: 0,
        receive: 0,
        room: (0x18, 0x10, 0x30),
        byte: (0x18, 0x00, 0x10),
        bad: Some((0x200, 0)),
        listening: &[(0x38, 0x7ff, 0x50), (0x30, 0x301, 0x301)],
        cleared: 0x44,
    },
    // Arm DEN0029 (SBSA) B.2: DR 0x00, FR 0x18, IMSC 0x38, ICR 0x44, and no control register.
    Expected {
        compatible: "arm,sbsa-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0,
        receive: 0,
        room: (0x18, 0x10, 0x30),
        byte: (0x18, 0x00, 0x10),
        bad: Some((0x400, 0)),
        listening: &[
            (0x38, 0x7ff, 0x50),
            (0x30, u32::MAX, 0),
            (0x34, u32::MAX, 0),
        ],
        cleared: 0x44,
    },
    // Linux include/linux/serial_s3c.h: UTXH 0x20, URXH 0x24, UFSTAT 0x18 (S5PV210: TXFULL bit 24, receive count bits 0-7,
    // RXFULL bit 8), UINTM 0x38 (a set bit masks; RXD bit 0, TXD bit 2), UINTP 0x30, UCON 0x04 (RXIRQMODE bit 0,
    // RXFIFO_TOI bit 7).
    Expected {
        compatible: "samsung,exynos4210-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0x20,
        receive: 0x24,
        room: (0x18, 0x00ff_0000, 0x0100_0000),
        byte: (0x18, 0x0000_0001, 0x0000_0000),
        bad: None,
        listening: &[(0x38, 0xf, 0xe), (0x04, 0x81, 0x81)],
        cleared: 0x30,
    },
    // Linux drivers/tty/serial/imx.c: URTX0 0x40, URXD0 0x00 (ERR bit 14, OVRRUN 13, FRMERR 12, BRK 11, PRERR 10), IMX21_UTS 0xb4 (TXFULL bit 4), USR2 0x98
    // (RDR bit 0), UCR4 0x8c (DREN bit 0), UCR1 0x80 (UARTEN bit 0, RRDYEN 9, TRDYEN 13, TXMPTYEN 6), UCR2 0x84 (SRST bit
    // 0 is active low, RXEN 1, TXEN 2).
    Expected {
        compatible: "fsl,imx6q-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0x40,
        receive: 0,
        room: (0xb4, 0x60, 0x10),
        byte: (0x98, 0x4009, 0x4008),
        bad: Some((0x5000, 0)),
        listening: &[(0x8c, 0xf, 1), (0x80, 0x2241, 1), (0x84, 7, 7)],
        cleared: 0x98,
    },
    // Linux drivers/tty/serial/stm32-usart.h (stm32h7_info): CR1 0x00 (UE 0, RE 2, TE 3, RXNEIE 5, TXEIE 7), ISR 0x1c (PE
    // 0, FE 1, NF 2, RXNE 5, TXE 7), ICR 0x20, RDR 0x24, TDR 0x28.
    Expected {
        compatible: "st,stm32h7-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0x28,
        receive: 0x24,
        room: (0x1c, 0xc0, 0x00),
        byte: (0x1c, 0xe0, 0xc0),
        bad: Some((0, 0x2)),
        listening: &[(0x00, 0x1fd, 0x2d)],
        cleared: 0x20,
    },
    // Linux drivers/tty/serial/meson_uart.c: WFIFO 0x00, RFIFO 0x04, CONTROL 0x08 (TX_EN 12, RX_EN 13, CLR_ERR 24,
    // RX_INT_EN 27, TX_INT_EN 28), STATUS 0x0c (PARITY_ERR 16, FRAME_ERR 17, RX_EMPTY 20, TX_FULL 21), MISC 0x10 (bytes
    // until an interrupt in bits 0-7).
    Expected {
        compatible: "amlogic,meson-uart",
        tree: NO_TREE,
        width: 4,
        transmit: 0,
        receive: 4,
        room: (0x0c, 0x0050_0000, 0x0030_0000),
        byte: (0x0c, 0x0040_0000, 0x0050_0000),
        bad: Some((0, 1 << 17)),
        listening: &[(0x08, 0x1900_3000, 0x0800_3000), (0x10, 0xff, 1)],
        cleared: 0x08,
    },
];

/// The registers of one UART.
struct Fake<'e> {
    expected: &'e Expected,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    registers: BTreeMap<usize, u32>,
    sent: Vec<u32>,
    /// Received: data, and what the status has beside.
    received: VecDeque<(u32, u32)>,
    /// Reads of the status until there is room.
    full_polls: u32,
    touched: Vec<usize>,
    /// What IIR reads, for families that have one.
    identification: u32,
    bogus_reads: u32,
}

impl Fake<'_> {
    fn read(&self, offset: usize, width: u32) -> u32 {
        let expected = self.expected;
        assert_eq!(width, expected.width, "width of the read at {offset:#x}");
        let mut state = self.state.lock().unwrap();
        state.touched.push(offset);
        let mut value = state.registers.get(&offset).copied().unwrap_or(0);
        if offset == expected.cleared && expected.compatible == "snps,dw-apb-uart" {
            state.identification = 1;
        }
        if expected.compatible == "snps,dw-apb-uart" && offset == 8 {
            return state.identification;
        }
        if offset == expected.room.0 {
            value = if state.full_polls > 0 {
                state.full_polls -= 1;
                expected.room.2
            } else {
                expected.room.1
            };
        }
        if offset == expected.byte.0 {
            // One register may tell both.
            let shared = if expected.byte.0 == expected.room.0 {
                value & (expected.room.1 ^ expected.room.2)
            } else {
                0
            };
            let kept = !(expected.room.1 ^ expected.room.2);
            value = match state.received.front() {
                Some((_, status)) => (expected.byte.1 | status) & kept | shared,
                None => expected.byte.2 & kept | shared,
            };
        }
        if offset == expected.receive && offset != expected.room.0 {
            value = match state.received.pop_front() {
                Some((data, _)) => data,
                None => {
                    state.bogus_reads += 1;
                    0
                }
            };
        }
        value
    }

    fn write(&self, offset: usize, value: u32, width: u32) {
        assert_eq!(
            width, self.expected.width,
            "width of the write at {offset:#x}"
        );
        let mut state = self.state.lock().unwrap();
        state.touched.push(offset);
        if offset == self.expected.transmit {
            state.sent.push(value);
        } else {
            state.registers.insert(offset, value);
        }
    }
}

impl RegisterIo for &Fake<'_> {
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value, 4);
    }
    fn read8(&self, offset: usize) -> u8 {
        (self.read(offset, 1) & 0xff) as u8
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, u32::from(value), 1);
    }
}

/// Runs a test on each family.
fn for_each(test: impl Fn(&Expected, &Fake<'_>, &mut dyn Uart)) {
    for expected in EXPECTED {
        let fake = Fake {
            expected,
            state: Mutex::default(),
        };
        let family = find([expected.compatible].into_iter()).expect(expected.compatible);
        let mut port = Port::new(family, expected.tree, &fake);
        test(expected, &fake, &mut port);
    }
}

#[test]
fn every_family_is_tested_and_can_be_named() {
    for family in FAMILIES {
        assert!(
            EXPECTED
                .iter()
                .any(|expected| family.compatibles.contains(&expected.compatible)),
            "{} has no test",
            family.name
        );
        assert_eq!(
            by_name(family.name).map(|found| found.name),
            Some(family.name)
        );
        assert!(
            family
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        );
    }
    assert!(by_name("ns16550 ").is_none());
}

#[test]
fn the_most_specific_known_string_counts() {
    let strings = ["rockchip,rk3288-uart", "snps,dw-apb-uart", "ns16550a"];
    assert_eq!(
        find(strings.into_iter()).map(|family| family.name),
        Some("dw-apb")
    );
    assert!(find(["arm,pl010"].into_iter()).is_none());
}

#[test]
fn waits_for_room_then_writes() {
    for_each(|expected, fake, uart| {
        fake.state.lock().unwrap().full_polls = 3;
        uart.put(b'x');
        let state = fake.state.lock().unwrap();
        assert_eq!(state.sent, [u32::from(b'x')], "{}", expected.compatible);
        assert_eq!(state.full_polls, 0, "{}", expected.compatible);
    });
}

#[test]
fn a_stuck_fifo_drops_the_byte_instead_of_hanging() {
    for_each(|expected, fake, uart| {
        fake.state.lock().unwrap().full_polls = u32::MAX;
        // A million polls are not worth remembering.
        uart.put(b'x');
        assert!(
            fake.state.lock().unwrap().sent.is_empty(),
            "{}",
            expected.compatible
        );
        // The next byte waits no more, until there is room again.
        fake.state.lock().unwrap().full_polls = 3;
        uart.put(b'y');
        uart.put(b'z');
        assert_eq!(fake.state.lock().unwrap().full_polls, 1);
        uart.put(b'-');
        uart.put(b'a');
        // And then it waits as ever.
        fake.state.lock().unwrap().full_polls = 3;
        uart.put(b'b');
        let sent = fake.state.lock().unwrap().sent.clone();
        assert_eq!(sent, [0x61, 0x62], "{}", expected.compatible);
    });
}

#[test]
fn receives_and_drops_what_is_bad() {
    for_each(|expected, fake, uart| {
        assert_eq!(uart.get(), None, "{}", expected.compatible);
        if let Some((data, status)) = expected.bad {
            fake.state
                .lock()
                .unwrap()
                .received
                .push_back((0x41 | data, status));
        }
        for byte in [0x42, 0xff] {
            fake.state.lock().unwrap().received.push_back((byte, 0));
        }
        assert_eq!(uart.get(), Some(0x42), "{}", expected.compatible);
        assert_eq!(uart.get(), Some(0xff), "{}", expected.compatible);
        assert_eq!(uart.get(), None, "{}", expected.compatible);
        let state = fake.state.lock().unwrap();
        assert_eq!(state.bogus_reads, 0, "{}", expected.compatible);
    });
}

#[test]
fn a_line_of_bad_bytes_ends() {
    for_each(|expected, fake, uart| {
        let Some((data, status)) = expected.bad else {
            return;
        };
        let bad = std::iter::repeat_n((data, status), 10_000);
        fake.state.lock().unwrap().received.extend(bad);
        assert_eq!(uart.get(), None, "{}", expected.compatible);
        assert!(fake.state.lock().unwrap().received.len() > 9000);
    });
}

#[test]
fn listens_to_what_is_received_only() {
    for_each(|expected, fake, uart| {
        uart.enable_receive_interrupt();
        let state = fake.state.lock().unwrap();
        for (offset, mask, value) in expected.listening {
            let found = state.registers.get(offset).copied().unwrap_or(0);
            assert_eq!(
                found & mask,
                *value,
                "{} register {offset:#x}",
                expected.compatible
            );
        }
    });
}

#[test]
fn masking_keeps_what_was_received() {
    for_each(|expected, fake, uart| {
        uart.enable_receive_interrupt();
        let before = fake.state.lock().unwrap().registers.clone();
        fake.state.lock().unwrap().received.push_back((0x41, 0));
        uart.mask_receive_interrupt(true);
        let masked = fake.state.lock().unwrap().registers.clone();
        // The first of the registers named is the one that enables.
        let (enable, ..) = expected.listening[0];
        let changed: Vec<usize> = masked
            .iter()
            .filter(|(offset, value)| before.get(offset) != Some(value))
            .map(|(offset, _)| *offset)
            .collect();
        assert_eq!(changed, [enable], "{}", expected.compatible);
        uart.mask_receive_interrupt(false);
        assert_eq!(fake.state.lock().unwrap().registers, before);
        assert_eq!(uart.get(), Some(0x41), "{}", expected.compatible);
        assert_eq!(fake.state.lock().unwrap().bogus_reads, 0);
    });
}

#[test]
fn ends_the_cause_of_an_interrupt() {
    for_each(|expected, fake, uart| {
        fake.state.lock().unwrap().touched.clear();
        uart.clear_interrupt();
        let state = fake.state.lock().unwrap();
        assert!(
            state.touched.contains(&expected.cleared),
            "{}",
            expected.compatible
        );
        assert!(state.sent.is_empty(), "{}", expected.compatible);
    });
}

/// DW_apb_uart: IIR 7 is busy detect and ends when USR is read; IIR 12 without a byte ends when RBR is read (Linux
/// drivers/tty/serial/8250/8250_dw.c, dw8250_handle_irq).
#[test]
fn designware_quirks() {
    let expected = EXPECTED
        .iter()
        .find(|e| e.compatible == "snps,dw-apb-uart")
        .unwrap();
    let fake = Fake {
        expected,
        state: Mutex::default(),
    };
    let family = find([expected.compatible].into_iter()).unwrap();
    let mut uart = Port::new(family, expected.tree, &fake);
    fake.state.lock().unwrap().identification = 7;
    uart.clear_interrupt();
    assert_eq!(fake.state.lock().unwrap().identification, 1);
    assert_eq!(fake.state.lock().unwrap().bogus_reads, 0);

    fake.state.lock().unwrap().identification = 0xcc;
    fake.state.lock().unwrap().received.push_back((0x55, 0));
    uart.clear_interrupt();
    assert_eq!(uart.get(), Some(0x55));
    assert_eq!(fake.state.lock().unwrap().bogus_reads, 0);

    fake.state.lock().unwrap().identification = 0xcc;
    uart.clear_interrupt();
    assert_eq!(fake.state.lock().unwrap().bogus_reads, 1);
}

/// i.MX 6 reference manual, URXD: OVRRUN marks the byte in the last place of the FIFO, and ERR is the sum of the others.
#[test]
fn imx_takes_the_last_byte_of_a_full_fifo() {
    for_each(|expected, fake, uart| {
        if expected.compatible == "fsl,imx6q-uart" {
            let mut state = fake.state.lock().unwrap();
            state.received.extend([(0x0d | 0xe000, 0), (0x42, 0)]);
            drop(state);
            assert_eq!((uart.get(), uart.get()), (Some(0x0d), Some(0x42)));
        }
    });
}
