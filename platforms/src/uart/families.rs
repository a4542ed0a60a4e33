//! The families of UARTs.
//!
//! Numbers are facts of the manuals named at each, checked against the register names of Linux' and U-Boot's drivers.

use super::{Family, Layout, Quirk, Step, When};
use Step::{Clear, Read, Set, Write};

// 16550 (National PC16550D; registers by number).
const DATA: u8 = 0;
const IER: u8 = 1;
/// Interrupt identification when read, FIFO control when written.
pub(super) const IIR: u8 = 2;
const MCR: u8 = 4;
const LSR: u8 = 5;
/// DesignWare's UART status; reading it ends the busy-detect interrupt (DW_apb_uart databook: USR at 0x7c).
const USR: u8 = 31;

/// The interrupt identification of a receive timeout (IIR\[3:0\] = 12).
pub(super) const IIR_TIMEOUT: u32 = 0x0c;
/// Received data, and line status, which is how a break is noticed.
const IER_RX: u32 = 0x05;
/// Data ready.
const LSR_DR: u32 = 0x01;
/// Parity error, framing error, break: of the byte to be read.
const LSR_BAD: u32 = 0x1c;
/// Transmit holding register (or FIFO) empty.
const LSR_THRE: u32 = 0x20;
/// OUT2, which gates the interrupt line on machines made like a PC.
const MCR_OUT2: u32 = 0x08;

const START_16550: &[Step] = &[Write(IER, 0), Write(IIR, 1)];

/// What the members of the 16550 family share.
const NS16550: Family = Family {
    name: "ns16550",
    compatibles: &["ns16550a", "ns16550"],
    layout: Layout::FromTree,
    transmit: DATA,
    receive: DATA,
    has_room: When::Set(LSR, LSR_THRE),
    has_byte: When::Set(LSR, LSR_DR),
    bad_data: 0,
    bad_status: LSR_BAD,
    start: START_16550,
    listen: &[Set(MCR, MCR_OUT2)],
    unmask: Write(IER, IER_RX),
    mask: Write(IER, 0),
    acknowledge: &[Read(IIR)],
    quirk: Quirk::None,
};

/// All families.
pub static FAMILIES: &[Family] = &[
    // Arm PrimeCell UART (DDI 0183). Interrupt at the lowest FIFO level: typing is slow and should be seen at once.
    Family {
        name: "pl011",
        compatibles: &["arm,pl011"],
        start: &[Write(0x38, 0), Set(0x30, 0x301)],
        listen: &[Write(0x44, 0x7ff), Write(0x34, 0)],
        ..SBSA
    },
    SBSA,
    NS16550,
    // Synopsys DesignWare: Allwinner, Rockchip and many more.
    Family {
        name: "dw-apb",
        compatibles: &["snps,dw-apb-uart"],
        acknowledge: &[Read(IIR), Read(USR)],
        quirk: Quirk::EmptyTimeout,
        ..NS16550
    },
    // TI OMAP (OMAP5, DRA7 and AM6 TRM, chapter UART); MediaTek (mt6577) counts the same way.
    Family {
        name: "omap",
        compatibles: &[
            "ti,omap4-uart",
            "ti,dra742-uart",
            "ti,am654-uart",
            "mediatek,mt6577-uart",
        ],
        layout: Layout::Fixed(2, 4),
        ..NS16550
    },
    // Tegra: IER bit 4 is the receive timeout's own enable (Tegra K1 TRM, UART_IER_DLAB_0).
    Family {
        name: "tegra",
        compatibles: &["nvidia,tegra20-uart"],
        layout: Layout::Fixed(2, 4),
        unmask: Write(IER, IER_RX | 0x10),
        ..NS16550
    },
    // The mini UART of BCM2835 to BCM2711 (BCM2711 ARM Peripherals, 2.2).
    Family {
        name: "bcm2835-aux",
        compatibles: &["brcm,bcm2835-aux-uart"],
        layout: Layout::Fixed(2, 4),
        ..NS16550
    },
    // Samsung (Exynos 5250 manual, chapter UART): UFCON, UTRSTAT.., UFSTAT (transmit FIFO full; receive FIFO count and
    // full), UINTP and UINTM (receive, error, transmit, modem). UCON: receive by interrupt, at a level, with a timeout.
    Family {
        name: "exynos4210",
        compatibles: &["samsung,exynos4210-uart", "samsung,s5pv210-uart"],
        layout: Layout::Words,
        transmit: 0x20,
        receive: 0x24,
        has_room: When::Clear(0x18, 1 << 24),
        has_byte: When::Set(0x18, 0x1ff),
        bad_data: 0,
        bad_status: 0,
        start: &[Write(0x38, 0xf), Set(0x08, 1)],
        listen: &[Set(0x04, 0x181), Write(0x30, 0xf)],
        unmask: Write(0x38, 0xe),
        mask: Write(0x38, 0xf),
        acknowledge: &[Write(0x30, 0xf)],
        quirk: Quirk::None,
    },
    // NXP i.MX (i.MX 6 and 7 reference manuals, chapter UART): URXD with the bits of a parity error, a break and a framing error
    // (OVRRUN, and with it ERR, is set in whatever comes last into a full FIFO, and says nothing bad of that byte), UTXD, UCR1, UCR2 (not in reset,
    // both directions on, RTS ignored), UCR4 (data ready enable), USR2 (data ready, overrun), UTS (transmit FIFO full).
    Family {
        name: "imx",
        compatibles: &["fsl,imx6q-uart", "fsl,imx21-uart"],
        layout: Layout::Words,
        transmit: 0x40,
        receive: 0x00,
        has_room: When::Clear(0xb4, 1 << 4),
        has_byte: When::Set(0x98, 1),
        bad_data: 0x1c00,
        bad_status: 0,
        start: &[
            Clear(0x80, 0x2240),
            Clear(0x8c, 0xf),
            Set(0x80, 1),
            Set(0x84, 0x4007),
        ],
        listen: &[],
        unmask: Set(0x8c, 1),
        mask: Clear(0x8c, 1),
        acknowledge: &[Write(0x98, 2)],
        quirk: Quirk::None,
    },
    // ST STM32 F7, H7 and MP1 (RM0436, chapter USART): CR1, ISR, ICR, RDR, TDR.
    Family {
        name: "stm32",
        compatibles: &["st,stm32h7-uart", "st,stm32f7-uart"],
        layout: Layout::Words,
        transmit: 0x28,
        receive: 0x24,
        has_room: When::Set(0x1c, 1 << 7),
        has_byte: When::Set(0x1c, 1 << 5),
        bad_data: 0,
        bad_status: 0x7,
        start: &[Clear(0x00, 0x1f0), Set(0x00, 0xd)],
        listen: &[Write(0x20, 0xf)],
        unmask: Set(0x00, 1 << 5),
        mask: Clear(0x00, 1 << 5),
        acknowledge: &[Write(0x20, 0xf)],
        quirk: Quirk::None,
    },
    // Amlogic Meson (S905 data sheet, chapter UART): WFIFO, RFIFO, CONTROL, STATUS, MISC (bytes until an interrupt).
    Family {
        name: "meson",
        compatibles: &["amlogic,meson-uart"],
        layout: Layout::Words,
        transmit: 0x00,
        receive: 0x04,
        has_room: When::Clear(0x0c, 1 << 21),
        has_byte: When::Clear(0x0c, 1 << 20),
        bad_data: 0,
        bad_status: 3 << 16,
        start: &[Clear(0x08, 3 << 27), Set(0x08, 3 << 12)],
        listen: &[Clear(0x10, 0xff), Set(0x10, 1)],
        unmask: Set(0x08, 1 << 27),
        mask: Clear(0x08, 1 << 27),
        // Clearing the errors is a bit that must be taken back.
        acknowledge: &[Set(0x08, 1 << 24), Clear(0x08, 1 << 24)],
        quirk: Quirk::None,
    },
];

/// The part of a PL011 that every SBSA UART has (Arm SBSA, appendix B): DR with its error bits, FR (receive FIFO empty,
/// transmit FIFO full), IMSC and ICR (receive, receive timeout).
const SBSA: Family = Family {
    name: "sbsa",
    compatibles: &["arm,sbsa-uart"],
    layout: Layout::Words,
    transmit: 0x00,
    receive: 0x00,
    has_room: When::Clear(0x18, 1 << 5),
    has_byte: When::Clear(0x18, 1 << 4),
    bad_data: 0xf00,
    bad_status: 0,
    start: &[Write(0x38, 0)],
    listen: &[Write(0x44, 0x7ff)],
    unmask: Write(0x38, 0x50),
    mask: Write(0x38, 0),
    acknowledge: &[Write(0x44, 0x50)],
    quirk: Quirk::None,
};
