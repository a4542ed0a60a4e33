//! Broadcom BCM2711: Raspberry Pi 4, 400 and Compute Module 4.
//!
//! Firmware has no PSCI: CPUs wait in its spin-table. The power management's watchdog restarts the machine. Its registers
//! take a write only with a password in the upper byte (names as in Linux' and U-Boot's drivers for it).

use alloc::boxed::Box;

use crate::board::{Board, BoardIo, Platform, Registers};

pub const BOARD: Board = Board {
    compatibles: &["brcm,bcm2711"],
    new: |lookup| {
        Box::leak(Box::new(Bcm2711 {
            power: lookup.registers(POWER),
        }))
    },
};

const POWER: &str = "brcm,bcm2835-pm-wdt";

const PM_RSTC: usize = 0x1c;
const PM_RSTS: usize = 0x20;
const PM_WDOG: usize = 0x24;
const PASSWORD: u32 = 0x5a00_0000;
/// What the watchdog's end does: bits 5:4; a full reset.
const RSTC_WRITE: u32 = 0x30;
const RSTC_FULL_RESET: u32 = 0x20;
/// Which partition firmware starts from, in every other bit; all of them mean: halt.
const RSTS_PARTITION: u32 = 0x555;
/// Ticks of 16 us until the end.
const TICKS: u32 = 10;

struct Bcm2711 {
    power: Option<Registers>,
}

impl Bcm2711 {
    /// Restarts from partition 0, or from none: firmware stops then.
    fn end(&self, io: &dyn BoardIo, partition: u32) {
        let Some(power) = self.power else {
            return;
        };
        let keep = |offset: usize, clear: u32| power.read32(offset) & !(0xff00_0000 | clear);
        let status = keep(PM_RSTS, RSTS_PARTITION) | partition;
        power.write32(PM_RSTS, PASSWORD | status);
        power.write32(PM_WDOG, PASSWORD | TICKS);
        let control = keep(PM_RSTC, RSTC_WRITE) | RSTC_FULL_RESET;
        power.write32(PM_RSTC, PASSWORD | control);
        io.delay_us(100_000);
    }
}

impl Platform for Bcm2711 {
    fn name(&self) -> &'static str {
        "Raspberry Pi 4"
    }

    /// The DMA controller and others have 30 bits of addresses (BCM2711 ARM Peripherals, 1.2).
    fn dma_end(&self) -> u64 {
        1 << 30
    }

    fn hidden_from_dom0(&self) -> &'static [&'static str] {
        // They share a page, and the first a clock, with the mini UART.
        &["brcm,bcm2835-aux", "brcm,bcm2835-aux-spi"]
    }

    fn reset(&self, io: &dyn BoardIo) {
        self.end(io, 0);
    }

    fn power_off(&self, io: &dyn BoardIo) {
        self.end(io, RSTS_PARTITION);
    }
}

#[cfg(test)]
mod tests {
    use crate::board::CpuOnError;
    use crate::fake::{Event, FakeBoard};
    use Event::{Delay, Write};

    const POWER: &str = "brcm,bcm2835-pm-wdt";

    /// Linux' bcm2835_wdt: PM_RSTS 0x20 (0x555: halt), PM_WDOG 0x24, PM_RSTC 0x1c (full reset 0x20), password 0x5a.
    #[test]
    fn the_watchdog_ends_it() {
        let mut board = FakeBoard::new(&[POWER]);
        let platform = board.platform("brcm,bcm2711");
        platform.power_off(&board);
        assert_eq!(
            board.events(),
            [
                Write(POWER, 0x20, 0x5a00_0555),
                Write(POWER, 0x24, 0x5a00_000a),
                Write(POWER, 0x1c, 0x5a00_0020),
                Delay(100_000)
            ]
        );
        // What was written reads back, password and all.
        platform.reset(&board);
        assert_eq!(
            board.events(),
            [
                Write(POWER, 0x20, 0x5a00_0000),
                Write(POWER, 0x24, 0x5a00_000a),
                Write(POWER, 0x1c, 0x5a00_0020),
                Delay(100_000)
            ]
        );
        let mut board = FakeBoard::new(&[]);
        let platform = board.platform("brcm,bcm2711");
        platform.reset(&board);
        assert_eq!(board.events(), []);
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x8_0000),
            Err(CpuOnError::NeedsPsci)
        );
        assert!(!platform.starts_cpus());
        assert_eq!(platform.dma_end(), 1 << 30);
    }
}
