//! Samsung Exynos 5: 5250, 5260, 5410, 5420, 5422, 5800.
//!
//! The architected timer counts only while the multi-core timer's free-running counter does. A core is powered by the PMU
//! and starts at an address in internal RAM. Which one, depends on who is there, as for Linux:
//! - 5420, 5422, 5800 with the cluster interconnect (CCI) left to us (Peach, Odroid XU3, XU4, HC1): cores run what lies at
//!   the start of non-secure RAM, with secure firmware or without;
//! - secure firmware (Odroid XU with its 5410, Arndale Octa): a word of non-secure RAM, and a call that lets the core go;
//! - neither (5250: Arndale, Snow; SMDK5410): a word of secure RAM that the boot ROM reads.
//!
//! Only the boot CPU's cluster is used: a core of the other one is not coherent until its port of the CCI is switched on,
//! which takes care that nobody could test here; it has another MIDR anyhow. The device tree of the 5260 (two clusters)
//! tells of no internal RAM: there is one CPU, as under Linux.
//!
//! Sources: Linux bindings `sram/samsung-sram.yaml`, `firmware/samsung,secure-firmware`,
//! `timer/samsung,exynos4210-mct.yaml`; register names and numbers of `linux/soc/samsung/exynos-regs-pmu.h` and
//! `exynos-syscon-restart.dtsi`.

use alloc::boxed::Box;

use crate::board::{
    Board, BoardIo, CpuOnError, Lookup, Platform, Registers, Wake, entry_word, update,
};

pub const BOARD: Board = Board {
    compatibles: &["samsung,exynos5"],
    new: |lookup| Box::leak(Box::new(Exynos5::new(lookup))),
};

const PMUS: [&str; 4] = [
    "samsung,exynos5250-pmu",
    "samsung,exynos5260-pmu",
    "samsung,exynos5410-pmu",
    "samsung,exynos5420-pmu",
];
const MCT: &str = "samsung,exynos4210-mct";
const SYSRAM: &str = "samsung,exynos4210-sysram";
const SYSRAM_NS: &str = "samsung,exynos4210-sysram-ns";
const FIRMWARE: &str = "samsung,secure-firmware";
const CCI: &str = "arm,cci-400";

// MCT: global timer control, with its start bit.
const G_TCON: usize = 0x240;
const G_TCON_START: u32 = 1 << 8;
// PMU.
const SWRESET: usize = 0x400;
const SPARE2: usize = 0x908;
const SPARE3: usize = 0x90c;
/// SPARE3: the resets of small cores reach both the core and its trace unit.
const KFC_SELECT: u32 = 3;
const PS_HOLD_CONTROL: usize = 0x330c;
/// PS_HOLD low: its reset value.
const PS_HOLD_OFF: u32 = 0x5200;
const fn core_configuration(core: usize) -> usize {
    0x2000 + core * 0x80
}
/// The status beside a configuration.
const STATUS: usize = 4;
/// Power of a core, in configuration and status.
const LOCAL_POWER: u32 = 3;
/// Reset of the first small core and of its trace unit.
const KFC_RESET: u32 = 1 << 8 | 1 << 20;

/// Where secure firmware looks for an entry point in non-secure RAM.
const FIRMWARE_ENTRY: usize = 0x1c;
/// Firmware's function that lets a core go.
const SMC_CPU1BOOT: u32 = 0xffff_fffc;
/// The boot ROM's entry point in secure RAM: of most, and of 5420 and its like.
const ROM_ENTRY: usize = 0;
const ROM_ENTRY_5420: usize = 4;

const CORES_PER_CLUSTER: u64 = 4;

struct Exynos5 {
    pmu: Option<Registers>,
    mct: Option<Registers>,
    sysram: Option<Registers>,
    sysram_ns: Option<Registers>,
    has_firmware: bool,
    /// 5420, 5422, 5800.
    is_5420: bool,
    /// Cores run the code at the start of non-secure RAM, and small ones may need a reset.
    runs_ram: bool,
}

impl Exynos5 {
    fn new(lookup: &mut dyn Lookup) -> Self {
        let is_5420 = lookup.has("samsung,exynos5420-pmu");
        Self {
            pmu: PMUS
                .iter()
                .find_map(|compatible| lookup.registers(compatible)),
            mct: lookup.registers(MCT),
            sysram: lookup.registers(SYSRAM),
            sysram_ns: lookup.registers(SYSRAM_NS),
            has_firmware: lookup.has(FIRMWARE),
            is_5420,
            runs_ram: is_5420 && lookup.has(CCI),
        }
    }

    /// Switches a core on, unless it is; returns whether it was off.
    fn power_up(io: &dyn BoardIo, pmu: Registers, domain: usize) -> Result<bool, CpuOnError> {
        let is_on = || pmu.read32(domain + STATUS) & LOCAL_POWER == LOCAL_POWER;
        if is_on() {
            return Ok(false);
        }
        pmu.write32(domain, LOCAL_POWER);
        // 10 ms.
        for _ in 0..100 {
            io.delay_us(100);
            if is_on() {
                return Ok(true);
            }
        }
        Err(CpuOnError::Timeout)
    }

    /// Puts the entry point where the core looks for it.
    fn set_entry(&self, entry: u32) -> Result<(), CpuOnError> {
        let ns = || self.sysram_ns.ok_or(CpuOnError::NoRegisters);
        if self.runs_ram {
            // ldr r0, [pc]; bx r0; the address.
            for (index, word) in [0xe59f_0000, 0xe12f_ff10, entry].into_iter().enumerate() {
                ns()?.write32(index * 4, word);
            }
        } else if self.has_firmware {
            ns()?.write32(FIRMWARE_ENTRY, entry);
        } else {
            let sysram = self.sysram.ok_or(CpuOnError::NoRegisters)?;
            let at = if self.is_5420 {
                ROM_ENTRY_5420
            } else {
                ROM_ENTRY
            };
            sysram.write32(at, entry);
        }
        Ok(())
    }
}

impl Platform for Exynos5 {
    fn name(&self) -> &'static str {
        "Exynos 5"
    }

    fn starts_cpus(&self) -> bool {
        self.pmu.is_some()
    }

    fn init(&self) {
        if let Some(mct) = self.mct {
            update(mct, G_TCON, 0, G_TCON_START);
        }
        if self.runs_ram
            && let Some(pmu) = self.pmu
        {
            pmu.write32(SPARE3, KFC_SELECT);
        }
    }

    fn cpu_on(
        &self,
        io: &dyn BoardIo,
        _index: usize,
        mpidr: u64,
        entry: u64,
    ) -> Result<Wake, CpuOnError> {
        let entry = entry_word(entry)?;
        let (in_cluster, cluster) = (mpidr & 0xff, mpidr >> 8);
        if in_cluster >= CORES_PER_CLUSTER || cluster > 1 {
            return Err(CpuOnError::NoCpu);
        }
        if cluster != io.boot_mpidr() >> 8 & 0xff {
            return Err(CpuOnError::OtherCluster);
        }
        let core = (cluster * CORES_PER_CLUSTER + in_cluster) as usize;
        let pmu = self.pmu.ok_or(CpuOnError::NoRegisters)?;
        self.set_entry(entry)?;
        let was_off = Self::power_up(io, pmu, core_configuration(core))?;
        if self.runs_ram && was_off && cluster == 1 {
            // Booted from a small core, the others wait in the boot ROM for one more reset; SPARE2 says they are there.
            for _ in 0..100 {
                if pmu.read32(SPARE2) != 0 {
                    break;
                }
                io.delay_us(10);
            }
            pmu.write32(SWRESET, KFC_RESET << in_cluster);
        }
        if self.has_firmware && !self.runs_ram {
            io.smc(SMC_CPU1BOOT, core as u32);
        }
        Ok(Wake::Interrupt)
    }

    fn hidden_from_dom0(&self) -> &'static [&'static str] {
        &[MCT, FIRMWARE]
    }

    fn reset(&self, io: &dyn BoardIo) {
        if let Some(pmu) = self.pmu {
            pmu.write32(SWRESET, 1);
            io.delay_us(1_000_000);
        }
    }

    fn power_off(&self, io: &dyn BoardIo) {
        if let Some(pmu) = self.pmu {
            pmu.write32(PS_HOLD_CONTROL, PS_HOLD_OFF);
            io.delay_us(1_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::board::{CpuOnError, Wake};
    use crate::fake::{Event, FakeBoard};
    use Event::{Delay, Smc, Write};

    const PMU_5250: &str = "samsung,exynos5250-pmu";
    const PMU_5410: &str = "samsung,exynos5410-pmu";
    const PMU_5420: &str = "samsung,exynos5420-pmu";
    const MCT: &str = "samsung,exynos4210-mct";
    const SYSRAM: &str = "samsung,exynos4210-sysram";
    const SYSRAM_NS: &str = "samsung,exynos4210-sysram-ns";
    const FIRMWARE: &str = "samsung,secure-firmware";
    const CCI: &str = "arm,cci-400";

    /// Linux arch/arm/mach-exynos/platsmp.c: without firmware the entry is the first word of sysram; the core's
    /// configuration is 0x2000 + 0x80 * core of the PMU and its status 4 further, 3 in both for on.
    #[test]
    fn exynos5250_core_1() {
        let mut board = FakeBoard::new(&[PMU_5250, SYSRAM, SYSRAM_NS, MCT]);
        board.react((PMU_5250, 0x2080), (PMU_5250, 0x2084), 3);
        let platform = board.platform("samsung,exynos5");
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x4200_0000),
            Ok(Wake::Interrupt)
        );
        assert_eq!(
            board.events(),
            [
                Write(SYSRAM, 0, 0x4200_0000),
                Write(PMU_5250, 0x2080, 3),
                Delay(100)
            ]
        );
        // On already: its power is not touched.
        platform.cpu_on(&board, 1, 1, 0x4200_0000).unwrap();
        assert_eq!(board.events(), [Write(SYSRAM, 0, 0x4200_0000)]);
    }

    /// Linux arch/arm/mach-exynos/firmware.c: with firmware the entry is sysram-ns + 0x1c and SMC_CMD_CPU1BOOT is -4; the
    /// cores of the second cluster count on from 4.
    #[test]
    fn exynos5410_with_firmware() {
        let mut board = FakeBoard::new(&[PMU_5410, SYSRAM, SYSRAM_NS, FIRMWARE]);
        board.boot_mpidr = 0x100;
        board.react((PMU_5410, 0x2300), (PMU_5410, 0x2304), 3);
        let platform = board.platform("samsung,exynos5");
        assert_eq!(
            platform.cpu_on(&board, 6, 0x102, 0x4200_0000),
            Ok(Wake::Interrupt)
        );
        assert_eq!(
            board.events(),
            [
                Write(SYSRAM_NS, 0x1c, 0x4200_0000),
                Write(PMU_5410, 0x2300, 3),
                Delay(100),
                Smc(-4i32 as u32, 6)
            ]
        );
    }

    /// Linux arch/arm/mach-exynos/mcpm-exynos.c: the loader's secondaries jump to the start of sysram-ns; small cores of a machine booted from one of them are reset at SWRESET
    /// 0x400 when SPARE2 (0x908) is set.
    #[test]
    fn exynos5420_booted_from_a_small_core() {
        // The firmware of the Odroid XU3 and XU4 changes nothing.
        let mut board = FakeBoard::new(&[PMU_5420, SYSRAM, SYSRAM_NS, CCI, FIRMWARE]);
        board.boot_mpidr = 0x100;
        board.react((PMU_5420, 0x2280), (PMU_5420, 0x2284), 3);
        board.react((PMU_5420, 0x2280), (PMU_5420, 0x908), 1);
        let platform = board.platform("samsung,exynos5");
        platform.init();
        assert_eq!(board.events(), [Write(PMU_5420, 0x90c, 3)]);
        assert_eq!(
            platform.cpu_on(&board, 1, 0x101, 0x2000_0040),
            Ok(Wake::Interrupt)
        );
        assert_eq!(
            board.events(),
            [
                // ldr r0, [pc, #0]; bx r0 (Arm DDI 0406C A8.8.64, A8.8.27).
                Write(SYSRAM_NS, 0, 0xe59f_0000),
                Write(SYSRAM_NS, 4, 0xe12f_ff10),
                Write(SYSRAM_NS, 8, 0x2000_0040),
                Write(PMU_5420, 0x2280, 3),
                Delay(100),
                Write(PMU_5420, 0x400, 0x0020_0200),
            ]
        );
        // A large core is not coherent with this one.
        assert_eq!(
            platform.cpu_on(&board, 4, 0, 0x2000_0040),
            Err(CpuOnError::OtherCluster)
        );
        assert_eq!(board.events(), []);
    }

    /// As above, booted from a large core: nothing is reset.
    #[test]
    fn exynos5422_booted_from_a_large_core() {
        let mut board = FakeBoard::new(&[PMU_5420, SYSRAM, SYSRAM_NS, CCI, FIRMWARE]);
        board.react((PMU_5420, 0x2180), (PMU_5420, 0x2184), 3);
        let platform = board.platform("samsung,exynos5");
        platform.cpu_on(&board, 3, 3, 0x4200_0000).unwrap();
        assert_eq!(
            board.events()[2..],
            [
                Write(SYSRAM_NS, 8, 0x4200_0000),
                Write(PMU_5420, 0x2180, 3),
                Delay(100)
            ]
        );
    }

    /// Linux arch/arm/mach-exynos/platsmp.c, where the device tree switches the CCI off: with firmware (Arndale Octa) as the
    /// 5410; without, the boot ROM of 5420 and 5800 reads the second word of sysram.
    #[test]
    fn exynos5420_without_cci() {
        for (devices, expected) in [
            (
                &[PMU_5420, SYSRAM, SYSRAM_NS, FIRMWARE][..],
                &[
                    Write(SYSRAM_NS, 0x1c, 0x4200_0000),
                    Write(PMU_5420, 0x2080, 3),
                    Delay(100),
                    Smc(-4i32 as u32, 1),
                ][..],
            ),
            (
                &[PMU_5420, SYSRAM, SYSRAM_NS],
                &[
                    Write(SYSRAM, 4, 0x4200_0000),
                    Write(PMU_5420, 0x2080, 3),
                    Delay(100),
                ],
            ),
        ] {
            let mut board = FakeBoard::new(devices);
            board.react((PMU_5420, 0x2080), (PMU_5420, 0x2084), 3);
            let platform = board.platform("samsung,exynos5");
            platform.init();
            platform.cpu_on(&board, 1, 1, 0x4200_0000).unwrap();
            assert_eq!(board.events(), expected);
        }
    }

    /// arch/arm/boot/dts/exynos5260.dtsi has a PMU and a MCT, and no internal RAM.
    #[test]
    fn exynos5260_has_one_cpu() {
        let mut board = FakeBoard::new(&["samsung,exynos5260-pmu", MCT, CCI]);
        let platform = board.platform("samsung,exynos5");
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x4200_0000),
            Err(CpuOnError::NoRegisters)
        );
        assert_eq!(
            platform.cpu_on(&board, 2, 0x100, 0x4200_0000),
            Err(CpuOnError::OtherCluster)
        );
        assert_eq!(board.events(), []);
    }

    #[test]
    fn what_cannot_be_started_says_why() {
        let mut board = FakeBoard::new(&[PMU_5250, SYSRAM]);
        let platform = board.platform("samsung,exynos5");
        // Its status never says that it is on.
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x4200_0000),
            Err(CpuOnError::Timeout)
        );
        assert_eq!(
            platform.cpu_on(&board, 1, 4, 0x4200_0000),
            Err(CpuOnError::NoCpu)
        );
        assert_eq!(
            platform.cpu_on(&board, 1, 0x200, 0x4200_0000),
            Err(CpuOnError::NoCpu)
        );
        let mut board = FakeBoard::new(&[PMU_5250, FIRMWARE]);
        let platform = board.platform("samsung,exynos5");
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x4200_0000),
            Err(CpuOnError::NoRegisters)
        );
    }

    /// Linux drivers/clocksource/exynos_mct.c: G_TCON 0x240, start bit 8. exynos-syscon-restart.dtsi: offset 0x400 mask 1
    /// restarts, offset 0x330c mask 0x5200 switches off.
    #[test]
    fn timer_reset_and_power_off() {
        let mut board = FakeBoard::new(&[PMU_5250, MCT]);
        board.set(MCT, 0x240, 0x11);
        let platform = board.platform("samsung,exynos5");
        platform.init();
        assert_eq!(board.events(), [Write(MCT, 0x240, 0x111)]);
        platform.reset(&board);
        platform.power_off(&board);
        assert_eq!(
            board.events(),
            [
                Write(PMU_5250, 0x400, 1),
                Delay(1_000_000),
                Write(PMU_5250, 0x330c, 0x5200),
                Delay(1_000_000)
            ]
        );
    }
}
