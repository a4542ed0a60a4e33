//! Power off and reset of the machine: PSCI firmware's, else the platform's.

use alloc::boxed::Box;

use smccc::{Call, psci};
use xenith_arch::{DeviceRegisters, Firmware, HypTables, timer};
use xenith_boot::fdt::host::{self, Psci, PsciMethod, PsciVersion};
use xenith_boot::fdt::tree::Tree;
use xenith_core::addr::PAGE_SIZE;
use xenith_core::domain::ShutdownReason;
use xenith_core::sync::Once;
use xenith_platforms::{BoardIo, Lookup, Platform};

use crate::uart::Registers;

/// How the machine is switched off: found at boot.
static METHOD: Once<Option<PsciMethod>> = Once::new();
/// What is special about the machine: found at boot.
static PLATFORM: Once<Option<&'static dyn Platform>> = Once::new();
/// `noreboot`: stay where we are after a crash.
static NO_REBOOT: Once<bool> = Once::new();

/// Registers larger than this are not a board's power controls.
const MAX_REGISTERS: u64 = 0x1_0000;

/// Finds a board's devices in the host's tree.
struct TreeLookup<'t, 'a> {
    tree: &'t Tree<'a>,
    tables: &'t mut HypTables,
}

impl Lookup for TreeLookup<'_, '_> {
    fn registers(&mut self, compatible: &str) -> Option<xenith_platforms::Registers> {
        let range = host::device_registers(self.tree, compatible)?;
        let bytes = range.size().min(MAX_REGISTERS) as usize;
        let pages = (range.base().page_offset() + bytes).div_ceil(PAGE_SIZE);
        let va = self.tables.map_device(range.base(), pages).ok()?;
        // SAFETY: Just mapped for good. dom0's drivers may have the same registers; those of power are safe to share.
        let registers = unsafe { DeviceRegisters::new(va, bytes) };
        Some(Box::leak(Box::new(Registers(registers))))
    }

    fn has(&self, compatible: &str) -> bool {
        host::device(self.tree, compatible).is_some()
    }
}

/// Time and firmware for the platform.
pub struct Io;

impl BoardIo for Io {
    fn delay_us(&self, us: u32) {
        // A frequency that nobody knows is taken for that of most boards.
        let frequency = match timer::frequency() {
            0 => 24_000_000,
            frequency => u64::from(frequency),
        };
        let end = timer::now() + u64::from(us) * frequency / 1_000_000;
        // A counter that stands still must not stop us.
        for _ in 0..u64::from(us) * 1000 {
            if timer::now() >= end {
                return;
            }
        }
    }

    fn smc(&self, function: u32, argument: u32) -> u32 {
        Firmware::call32(function, [argument, 0, 0, 0, 0, 0, 0])[0]
    }

    fn boot_mpidr(&self) -> u64 {
        // Only the CPU that the machine was booted on starts others.
        u64::from(xenith_arch::affinity())
    }
}

/// Finds out what is special about the machine, and does what its platform needs at first. Returns its name.
#[inline(never)]
pub fn find_platform(tree: &Tree<'_>, tables: &mut HypTables) -> Option<&'static str> {
    let is_root = |names: &[&str]| tree.root().is_compatible(names);
    let found = xenith_platforms::detect(&is_root, &mut TreeLookup { tree, tables });
    let platform = PLATFORM.call_once(|| found).as_ref()?;
    platform.init();
    Some(platform.name())
}

/// Returns the machine's platform, if it has a special one.
pub fn platform() -> Option<&'static dyn Platform> {
    *PLATFORM.get()?
}

/// Remembers how the machine is switched off.
pub fn init(firmware: Option<&Psci>, no_reboot: bool) {
    METHOD.call_once(|| {
        firmware
            .filter(|psci| psci.version != PsciVersion::V0_1)
            .map(|psci| psci.method)
    });
    NO_REBOOT.call_once(|| no_reboot);
}

/// Waits for ever: the machine cannot be switched off, or shall not.
pub fn halt() -> ! {
    loop {
        xenith_arch::sysreg::wfe();
    }
}

/// Switches the machine off.
#[inline(never)]
pub fn power_off() -> ! {
    // Only returns where firmware cannot do it.
    match METHOD.get() {
        Some(Some(PsciMethod::Smc)) => drop(psci::system_off::<Firmware>()),
        // HVC from Hyp mode comes back to ourselves.
        Some(Some(PsciMethod::Hvc) | None) | None => {}
    }
    if let Some(platform) = platform() {
        platform.power_off(&Io);
    }
    log::error!(
        "neither firmware (PSCI 0.2 or later) nor the board can switch the machine off: do it by hand"
    );
    halt()
}

/// Restarts the machine.
#[inline(never)]
pub fn restart() -> ! {
    match METHOD.get() {
        Some(Some(PsciMethod::Smc)) => drop(psci::system_reset::<Firmware>()),
        Some(Some(PsciMethod::Hvc) | None) | None => {}
    }
    if let Some(platform) = platform() {
        platform.reset(&Io);
    }
    log::error!(
        "neither firmware (PSCI 0.2 or later) nor the board can reset the machine: do it by hand"
    );
    halt()
}

/// After a fatal error: restarts unless `noreboot` was given or it is not known yet how.
pub fn after_crash() -> ! {
    if METHOD.get().is_none() {
        crate::console::emergency(
            "Halted: nothing is known yet about how to restart this machine.",
        );
        halt()
    }
    if NO_REBOOT.get().is_some_and(|&no| no) {
        crate::console::emergency("'noreboot' is given: halted. Reset the machine by hand.");
        halt()
    }
    crate::console::emergency("Reboot in five seconds...");
    let end = xenith_arch::timer::now() + 5 * u64::from(xenith_arch::timer::frequency());
    while xenith_arch::timer::now() < end {}
    restart()
}

/// dom0 shut down, and the machine with it.
pub fn hardware_domain_shutdown(reason: ShutdownReason) -> ! {
    match reason {
        ShutdownReason::Poweroff => {
            log::warn!("Hardware Dom0 halted: halting machine");
            power_off()
        }
        ShutdownReason::Reboot => {
            log::warn!("Hardware Dom0 shutdown: rebooting machine");
            restart()
        }
        ShutdownReason::Crash => {
            log::error!("Hardware Dom0 crashed: rebooting machine in 5 seconds.");
            after_crash()
        }
        ShutdownReason::Watchdog => {
            log::warn!("Hardware Dom0 shutdown: watchdog rebooting machine");
            restart()
        }
        ShutdownReason::Suspend | ShutdownReason::SoftReset => {
            log::warn!(
                "Hardware Dom0 asked for {reason:?}, which this machine cannot do: rebooting"
            );
            restart()
        }
    }
}
