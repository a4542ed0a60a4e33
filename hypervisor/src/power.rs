//! Power off and reset of the machine, through PSCI firmware.

use smccc::psci;
use xenith_arch::Firmware;
use xenith_boot::fdt::host::{Psci, PsciMethod, PsciVersion};
use xenith_core::domain::ShutdownReason;
use xenith_core::sync::Once;

/// How the machine is switched off: found at boot.
static METHOD: Once<Option<PsciMethod>> = Once::new();
/// `noreboot`: stay where we are after a crash.
static NO_REBOOT: Once<bool> = Once::new();

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
pub fn power_off() -> ! {
    // Only returns where firmware cannot do it.
    match METHOD.get() {
        Some(Some(PsciMethod::Smc)) => drop(psci::system_off::<Firmware>()),
        // HVC from Hyp mode comes back to ourselves.
        Some(Some(PsciMethod::Hvc) | None) | None => {}
    }
    log::error!("firmware has no power off (PSCI 0.2 or later): switch the machine off by hand");
    halt()
}

/// Restarts the machine.
pub fn restart() -> ! {
    match METHOD.get() {
        Some(Some(PsciMethod::Smc)) => drop(psci::system_reset::<Firmware>()),
        Some(Some(PsciMethod::Hvc) | None) | None => {}
    }
    log::error!("firmware has no reset (PSCI 0.2 or later): reset the machine by hand");
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
