//! Arm Versatile Express with a Cortex-A15 or A7 tile (motherboard: Arm DUI 0447, DUI 0448).
//!
//! Firmware keeps the other CPUs in a loop that waits for an interrupt and then jumps to what SYS_FLAGS holds. Power is
//! switched through the configuration bus: the motherboard's functions 8 (shutdown) and 9 (reboot) of DUI 0447 4.3.14.

use alloc::boxed::Box;

use crate::board::{Board, BoardIo, CpuOnError, Platform, Registers, Wake, entry_word};

pub const BOARD: Board = Board {
    compatibles: &["arm,vexpress"],
    new: |lookup| {
        Box::leak(Box::new(Vexpress {
            sysreg: lookup.registers(SYSREG),
            sp810: lookup.registers("arm,sp810"),
        }))
    },
};

const SYSREG: &str = "arm,vexpress-sysreg";

const SYS_FLAGSSET: usize = 0x30;
const SYS_FLAGSCLR: usize = 0x34;
const SYS_CFGDATA: usize = 0xa0;
const SYS_CFGCTRL: usize = 0xa4;
/// Start, write; site, position and device are 0: the motherboard.
const CFG_WRITE: u32 = 0xc000_0000;
const CFG_SHUTDOWN: u32 = 8 << 20;
const CFG_REBOOT: u32 = 9 << 20;
/// SP810 (Arm DDI 0254): any write asks for a reset.
const SCSYSSTAT: usize = 0x04;

struct Vexpress {
    sysreg: Option<Registers>,
    sp810: Option<Registers>,
}

impl Vexpress {
    fn configure(&self, io: &dyn BoardIo, function: u32) {
        if let Some(sysreg) = &self.sysreg {
            sysreg.write32(SYS_CFGDATA, 0);
            sysreg.write32(SYS_CFGCTRL, CFG_WRITE | function);
            io.delay_us(1_000_000);
        }
    }
}

impl Platform for Vexpress {
    fn name(&self) -> &'static str {
        "Versatile Express"
    }

    fn starts_cpus(&self) -> bool {
        self.sysreg.is_some()
    }

    fn cpu_on(
        &self,
        _io: &dyn BoardIo,
        _index: usize,
        _mpidr: u64,
        entry: u64,
    ) -> Result<Wake, CpuOnError> {
        let sysreg = self.sysreg.as_ref().ok_or(CpuOnError::NoRegisters)?;
        let entry = entry_word(entry)?;
        sysreg.write32(SYS_FLAGSCLR, u32::MAX);
        sysreg.write32(SYS_FLAGSSET, entry);
        Ok(Wake::Interrupt)
    }

    fn hidden_from_dom0(&self) -> &'static [&'static str] {
        // The machine's power is ours, and the CCI belongs to who switches clusters.
        &[
            "arm,vexpress-reset",
            "arm,vexpress-reboot",
            "arm,vexpress-shutdown",
            "arm,cci-400",
        ]
    }

    fn reset(&self, io: &dyn BoardIo) {
        self.configure(io, CFG_REBOOT);
        if let Some(sp810) = &self.sp810 {
            sp810.write32(SCSYSSTAT, 1);
            io.delay_us(1_000_000);
        }
    }

    fn power_off(&self, io: &dyn BoardIo) {
        self.configure(io, CFG_SHUTDOWN);
    }
}

#[cfg(test)]
mod tests {
    use crate::board::{CpuOnError, Wake};
    use crate::fake::{Event, FakeBoard};
    use Event::{Delay, Write};

    const SYSREG: &str = "arm,vexpress-sysreg";

    /// Arm DUI 0447 table 4-3: SYS_FLAGS (0x30) is a register of which writes set bits, SYS_FLAGSCLR (0x34) clears them.
    #[test]
    fn a_cpu_finds_its_entry_in_sys_flags() {
        let mut board = FakeBoard::new(&[SYSREG]);
        let platform = board.platform("arm,vexpress");
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 0x8000_8000),
            Ok(Wake::Interrupt)
        );
        assert_eq!(
            board.events(),
            [
                Write(SYSREG, 0x34, u32::MAX),
                Write(SYSREG, 0x30, 0x8000_8000)
            ]
        );
        assert_eq!(
            platform.cpu_on(&board, 1, 1, 1 << 32),
            Err(CpuOnError::EntryTooHigh)
        );
        assert_eq!(board.events(), []);
        let mut board = FakeBoard::new(&[]);
        assert_eq!(
            board
                .platform("arm,vexpress")
                .cpu_on(&board, 1, 1, 0x8000_8000),
            Err(CpuOnError::NoRegisters)
        );
    }

    /// Arm DUI 0447 4.3.13, 4.3.14: SYS_CFGDATA 0xa0, SYS_CFGCTRL 0xa4 (bit 31 start, bit 30 write, bits 25:20 function: 8
    /// shutdown, 9 reboot; site 0 is the motherboard).
    #[test]
    fn power_is_switched_through_the_configuration_bus() {
        let mut board = FakeBoard::new(&[SYSREG, "arm,sp810"]);
        let platform = board.platform("arm,vexpress");
        platform.power_off(&board);
        assert_eq!(
            board.events(),
            [
                Write(SYSREG, 0xa0, 0),
                Write(SYSREG, 0xa4, 0xc080_0000),
                Delay(1_000_000)
            ]
        );
        platform.reset(&board);
        assert_eq!(
            board.events(),
            [
                Write(SYSREG, 0xa0, 0),
                Write(SYSREG, 0xa4, 0xc090_0000),
                Delay(1_000_000),
                // DDI 0254 3.3.2: SCSYSSTAT.
                Write("arm,sp810", 4, 1),
                Delay(1_000_000)
            ]
        );
    }
}
