//! Allwinner: A31 and A31s (sun6i), A20 (sun7i), A23, A33, A83T, H2+, H3, R40, V3 (sun8i), A80 (sun9i).
//!
//! Where U-Boot brings PSCI, the CPUs are its business. A31, A23 and A33 can do without it: PRCM switches a core's power,
//! CPUCFG holds its reset and the address it starts at (A31 user manual 1.4, "CPU configuration" and "PRCM"; Linux binding
//! `arm/cpus.yaml` names the methods `allwinner,sun6i-a31` and `allwinner,sun8i-a23`). Reset is the watchdog's.

use alloc::boxed::Box;

use crate::board::{
    Board, BoardIo, CpuOnError, Lookup, Platform, Registers, Wake, entry_word, update,
};

pub const BOARD: Board = Board {
    compatibles: &[
        "allwinner,sun6i-a31",
        "allwinner,sun6i-a31s",
        "allwinner,sun7i-a20",
        "allwinner,sun8i-a23",
        "allwinner,sun8i-a33",
        "allwinner,sun8i-a83t",
        "allwinner,sun8i-h2-plus",
        "allwinner,sun8i-h3",
        "allwinner,sun8i-r40",
        "allwinner,sun8i-v3",
        "allwinner,sun8i-v3s",
        "allwinner,sun9i-a80",
    ],
    new: |lookup| Box::leak(Box::new(Sunxi::new(lookup))),
};

// CPUCFG: a core's reset control, general control (L1 reset), entry address, debug control.
const fn reset_control(core: usize) -> usize {
    (core + 1) * 0x40
}
const GENERAL_CONTROL: usize = 0x184;
const ENTRY: usize = 0x1a4;
const DEBUG_CONTROL: usize = 0x1e4;
// PRCM: power gates of the cores, and a core's power clamp.
const POWER_OFF: usize = 0x100;
const fn power_clamp(core: usize) -> usize {
    0x140 + core * 4
}

/// Restarts a watchdog's count; the upper bits are its key.
const RELOAD: u32 = 0xa57 << 1 | 1;

/// Cores of the only cluster.
const CORES: u64 = 4;

/// The registers that start a core.
#[derive(Clone, Copy)]
struct CpuPower {
    cpucfg: Registers,
    prcm: Registers,
    /// A23 and A33 have no clamps, and do not lock debugging.
    has_clamps: bool,
}

/// A watchdog, which restarts the machine.
struct Watchdog {
    registers: Registers,
    /// Registers and values that let it fire at once.
    fire: [(usize, u32); 3],
}

struct Sunxi {
    cpus: Option<CpuPower>,
    watchdog: Option<Watchdog>,
}

impl Sunxi {
    fn new(lookup: &mut dyn Lookup) -> Self {
        let mut cpus = None;
        for (cpucfg, prcm, has_clamps) in [
            (
                "allwinner,sun6i-a31-cpuconfig",
                "allwinner,sun6i-a31-prcm",
                true,
            ),
            (
                "allwinner,sun8i-a23-cpuconfig",
                "allwinner,sun8i-a23-prcm",
                false,
            ),
        ] {
            if lookup.has(cpucfg)
                && let (Some(cpucfg), Some(prcm)) =
                    (lookup.registers(cpucfg), lookup.registers(prcm))
            {
                cpus = Some(CpuPower {
                    cpucfg,
                    prcm,
                    has_clamps,
                });
            }
        }
        let mut watchdog = None;
        for (compatible, fire) in [
            // WDOG_CFG: reset the whole system; WDOG_MODE: on, the shortest interval; WDOG_CTRL: restart the count.
            (
                "allwinner,sun6i-a31-wdt",
                [(0x14, 1), (0x18, 1), (0x10, RELOAD)],
            ),
            // WDT_MODE, twice: on, with a reset, the shortest interval.
            (
                "allwinner,sun4i-a10-wdt",
                [(0x04, 3), (0x04, 3), (0x00, RELOAD)],
            ),
        ] {
            if watchdog.is_none() {
                watchdog = lookup
                    .registers(compatible)
                    .map(|registers| Watchdog { registers, fire });
            }
        }
        Self { cpus, watchdog }
    }
}

impl Platform for Sunxi {
    fn name(&self) -> &'static str {
        "Allwinner"
    }

    fn starts_cpus(&self) -> bool {
        self.cpus.is_some()
    }

    fn cpu_on(
        &self,
        io: &dyn BoardIo,
        _index: usize,
        mpidr: u64,
        entry: u64,
    ) -> Result<Wake, CpuOnError> {
        let cpus = self.cpus.as_ref().ok_or(CpuOnError::NeedsPsci)?;
        let entry = entry_word(entry)?;
        let core = match mpidr {
            0..CORES => mpidr as usize,
            _ => return Err(CpuOnError::NoCpu),
        };
        let bit = 1 << core;
        let CpuPower { cpucfg, prcm, .. } = *cpus;
        cpucfg.write32(ENTRY, entry);
        // Core and L1 in reset.
        cpucfg.write32(reset_control(core), 0);
        update(cpucfg, GENERAL_CONTROL, bit, 0);
        if cpus.has_clamps {
            update(cpucfg, DEBUG_CONTROL, bit, 0);
            // The clamp is opened step by step, so that the current does not jump.
            for step in 0..=8 {
                prcm.write32(power_clamp(core), 0xff >> step);
            }
            io.delay_us(10_000);
        }
        update(prcm, POWER_OFF, bit, 0);
        io.delay_us(1_000);
        // Core and its power domain out of reset.
        cpucfg.write32(reset_control(core), 3);
        if cpus.has_clamps {
            update(cpucfg, DEBUG_CONTROL, 0, bit);
        }
        Ok(Wake::Running)
    }

    fn reset(&self, io: &dyn BoardIo) {
        let Some(watchdog) = &self.watchdog else {
            return;
        };
        for (offset, value) in watchdog.fire {
            watchdog.registers.write32(offset, value);
        }
        // Half a second is its shortest interval.
        io.delay_us(2_000_000);
    }
}

#[cfg(test)]
mod tests {
    use crate::board::{CpuOnError, Wake};
    use crate::fake::{Event, FakeBoard};
    use Event::{Delay, Write};

    const CPUCFG: &str = "allwinner,sun6i-a31-cpuconfig";
    const PRCM: &str = "allwinner,sun6i-a31-prcm";

    /// Linux arch/arm/mach-sunxi/platsmp.c, and the A31 branch of U-Boot's arch/arm/cpu/armv7/sunxi/psci.c: entry at
    /// CPUCFG+0x1a4, core reset at (core + 1) * 0x40, L1 reset bit in 0x184, debug lock in 0x1e4; PRCM power clamp at
    /// 0x140 + 4 * core from 0xff to 0 in halves, power gate bit in 0x100.
    #[test]
    fn a31_core_2() {
        let mut board = FakeBoard::new(&[CPUCFG, PRCM]);
        board.set(CPUCFG, 0x184, 0x1f);
        board.set(CPUCFG, 0x1e4, 0xf);
        board.set(PRCM, 0x100, 0xe);
        let platform = board.platform("allwinner,sun6i-a31");
        assert_eq!(
            platform.cpu_on(&board, 2, 2, 0x4200_0040),
            Ok(Wake::Running)
        );
        let mut expected = vec![
            Write(CPUCFG, 0x1a4, 0x4200_0040),
            Write(CPUCFG, 0xc0, 0),
            Write(CPUCFG, 0x184, 0x1b),
            Write(CPUCFG, 0x1e4, 0xb),
        ];
        for clamp in [0xff, 0x7f, 0x3f, 0x1f, 0x0f, 0x07, 0x03, 0x01, 0x00] {
            expected.push(Write(PRCM, 0x148, clamp));
        }
        expected.extend([
            Delay(10_000),
            Write(PRCM, 0x100, 0xa),
            Delay(1_000),
            Write(CPUCFG, 0xc0, 3),
            Write(CPUCFG, 0x1e4, 0xf),
        ]);
        assert_eq!(board.events(), expected);
    }

    /// The same file's method of A23 and A33: neither clamp nor debug lock.
    #[test]
    fn a23_core_1() {
        let (cpucfg, prcm) = ("allwinner,sun8i-a23-cpuconfig", "allwinner,sun8i-a23-prcm");
        let mut board = FakeBoard::new(&[cpucfg, prcm]);
        board.set(prcm, 0x100, 0x2);
        let platform = board.platform("allwinner,sun8i-a33");
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x4000_8000),
            Ok(Wake::Running)
        );
        assert_eq!(
            board.events(),
            [
                Write(cpucfg, 0x1a4, 0x4000_8000),
                Write(cpucfg, 0x80, 0),
                Write(cpucfg, 0x184, 0),
                Write(prcm, 0x100, 0),
                Delay(1_000),
                Write(cpucfg, 0x80, 3),
            ]
        );
    }

    #[test]
    fn what_cannot_be_started_is_left_alone() {
        let mut board = FakeBoard::new(&[CPUCFG, PRCM]);
        let platform = board.platform("allwinner,sun6i-a31s");
        for (mpidr, entry, error) in [
            (4, 0x4000_0000, CpuOnError::NoCpu),
            (0x100, 0x4000_0000, CpuOnError::NoCpu),
            (1, 0x1_0000_0000, CpuOnError::EntryTooHigh),
        ] {
            assert_eq!(platform.cpu_on(&board, 1, mpidr, entry), Err(error));
        }
        let mut board = FakeBoard::new(&[CPUCFG]);
        let platform = board.platform("allwinner,sun8i-h3");
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x4000_0000),
            Err(CpuOnError::NeedsPsci)
        );
        assert_eq!(board.events(), []);
    }

    /// Linux drivers/watchdog/sunxi_wdt.c: sun6i CTRL 0x10, CFG 0x14 (1: whole system), MODE 0x18 (1: on); sun4i CTRL
    /// 0x00, MODE 0x04 (1: on, 2: reset); the reload key is 0xa57 in bits 1 to 12, with bit 0.
    #[test]
    fn reset_by_the_watchdog() {
        let wdt = "allwinner,sun6i-a31-wdt";
        let mut board = FakeBoard::new(&[wdt]);
        board.platform("allwinner,sun8i-h3").reset(&board);
        assert_eq!(
            board.events(),
            [
                Write(wdt, 0x14, 1),
                Write(wdt, 0x18, 1),
                Write(wdt, 0x10, 0x14af),
                Delay(2_000_000)
            ]
        );
        let wdt = "allwinner,sun4i-a10-wdt";
        let mut board = FakeBoard::new(&[wdt]);
        board.platform("allwinner,sun7i-a20").reset(&board);
        let events = board.events();
        assert_eq!(events.first(), Some(&Write(wdt, 4, 3)));
        assert!(events.contains(&Write(wdt, 0, 0x14af)));

        let mut board = FakeBoard::new(&[]);
        board.platform("allwinner,sun7i-a20").reset(&board);
        assert_eq!(board.events(), []);
    }
}
