//! What differs between SoC families: starting a CPU without PSCI, reset, power off, and what must not be dom0's.
//!
//! A module for each family, chosen by the `compatible` of the device tree's root; a board that PSCI serves needs none.
//! The logic is pure: registers are found and mapped once, while the device tree is there ([`Lookup`]), and used through
//! [`RegisterIo`]; time and the firmware are [`BoardIo`]. No locks; the caller starts one CPU at a time.

use crate::{RegisterIo, bcm2711, exynos5, sunxi, vexpress};

/// The registers of a device, mapped for good.
pub type Registers = &'static (dyn RegisterIo + Send + Sync);

/// Finds devices in the device tree.
pub trait Lookup {
    /// Maps the registers of the first enabled node with this `compatible`. `None` when there is no such node, or its
    /// registers cannot be mapped.
    fn registers(&mut self, compatible: &str) -> Option<Registers>;
    /// Returns whether an enabled node has this `compatible`.
    fn has(&self, compatible: &str) -> bool;
}

/// What a board needs of the machine while it runs.
pub trait BoardIo {
    /// Waits so many microseconds.
    fn delay_us(&self, us: u32);
    /// Calls secure firmware: `smc #0` with the function in r0 and an argument in r1; returns r0.
    fn smc(&self, function: u32, argument: u32) -> u32;
    /// Returns the affinity of the CPU that the machine was booted on.
    fn boot_mpidr(&self) -> u64;
}

/// What the caller still has to do for a CPU that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing: it was taken out of reset.
    Running,
    /// Send it an SGI (any number), and an event: it waits for one in firmware.
    Interrupt,
}

/// Why a CPU cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuOnError {
    /// The board's method needs registers that the device tree does not have.
    NoRegisters,
    /// There is no such CPU.
    NoCpu,
    /// It is in another cluster than the boot CPU, and their caches would not be coherent.
    OtherCluster,
    /// The entry point is above 4 GiB.
    EntryTooHigh,
    /// Its power did not come up.
    Timeout,
    /// The board has no method of its own: it needs PSCI.
    NeedsPsci,
}

impl CpuOnError {
    /// Returns the cause and what to do about it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoRegisters => {
                "the device tree lacks the nodes of the board's own method: use the board's DTB, or a firmware with PSCI"
            }
            Self::NoCpu => "the SoC has no such CPU: correct its \"reg\"",
            Self::OtherCluster => {
                "it is in another cluster than the boot CPU, and nobody has switched on the coherency between them (CCI)"
            }
            Self::EntryTooHigh => "the hypervisor is above 4 GiB: load it at a lower address",
            Self::Timeout => "its power does not come up",
            Self::NeedsPsci => "there is no PSCI: use a firmware that has it, such as U-Boot",
        }
    }
}

/// A SoC family.
pub trait Platform: Send + Sync {
    /// Returns its name, for messages.
    fn name(&self) -> &'static str;

    /// Returns whether it can start CPUs without PSCI.
    fn starts_cpus(&self) -> bool {
        false
    }

    /// Does what must be done once, before the timer is used.
    fn init(&self) {}

    /// Starts a CPU at the physical address `entry`, in the state that its reset or firmware leaves it in. `index` counts
    /// the CPUs in the device tree, `mpidr` is the CPU's affinity.
    ///
    /// # Errors
    /// [`CpuOnError`]; nothing was started.
    fn cpu_on(
        &self,
        io: &dyn BoardIo,
        index: usize,
        mpidr: u64,
        entry: u64,
    ) -> Result<Wake, CpuOnError> {
        let _ = (io, index, mpidr, entry);
        Err(CpuOnError::NeedsPsci)
    }

    /// Returns the address below which dom0 must have memory, because devices reach no further.
    fn dma_end(&self) -> u64 {
        u64::MAX
    }

    /// Returns the `compatible` strings of what dom0 must not have.
    fn hidden_from_dom0(&self) -> &'static [&'static str] {
        &[]
    }

    /// Restarts the machine. Returns if that is not possible.
    fn reset(&self, io: &dyn BoardIo) {
        let _ = io;
    }

    /// Switches the machine off. Returns if that is not possible.
    fn power_off(&self, io: &dyn BoardIo) {
        let _ = io;
    }
}

/// A family's `compatible` strings of the root, and how it is set up.
pub struct Board {
    /// The strings, any of which means this family.
    pub compatibles: &'static [&'static str],
    /// Finds the registers; what it makes is there for good.
    pub new: fn(&mut dyn Lookup) -> &'static dyn Platform,
}

/// All families.
static BOARDS: [Board; 4] = [
    sunxi::BOARD,
    vexpress::BOARD,
    exynos5::BOARD,
    bcm2711::BOARD,
];

/// Returns the platform of a machine, or `None` for one without anything special. `is_root` says whether the root of the
/// device tree has one of these `compatible` strings.
pub fn detect(
    is_root: &dyn Fn(&[&str]) -> bool,
    lookup: &mut dyn Lookup,
) -> Option<&'static dyn Platform> {
    let board = BOARDS.iter().find(|board| is_root(board.compatibles))?;
    Some((board.new)(lookup))
}

/// Returns an entry point as the 32 bits that a boot register holds.
pub(crate) fn entry_word(entry: u64) -> Result<u32, CpuOnError> {
    u32::try_from(entry).map_err(|_| CpuOnError::EntryTooHigh)
}

/// Changes bits of a register.
pub(crate) fn update(registers: Registers, offset: usize, clear: u32, set: u32) {
    registers.write32(offset, registers.read32(offset) & !clear | set);
}
