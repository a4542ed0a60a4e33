//! Whether what domains want of the machine's memory is there, and nobody else's: their modules are read, and memory at
//! fixed addresses is overwritten.

use alloc::vec::Vec;

use super::{ConfigError, DomainConfig, Enhanced, SharedMemory};
use crate::memory::PhysRange;
use crate::modules::ModuleError;

/// Checks one domain beside those before it.
pub(super) fn domain(
    config: &DomainConfig<'_>,
    memory: &[PhysRange],
    taken: &[PhysRange],
    dom0_modules: &[PhysRange],
    others: &[DomainConfig<'_>],
    has_dom0: bool,
) -> Result<(), ConfigError> {
    if config.enhanced == Enhanced::Full && !has_dom0 {
        return Err(ConfigError::Unsupported(
            "xen,enhanced",
            "xenstore needs dom0; say \"no-xenstore\", or start a dom0",
        ));
    }
    let source = || config.path.clone();
    let modules: Vec<PhysRange> = config.modules().collect();
    for (index, range) in modules.iter().enumerate() {
        if !memory.iter().any(|bank| bank.contains(range)) {
            return Err(ConfigError::Module(ModuleError::OutsideRam(
                source(),
                *range,
            )));
        }
        if taken.iter().any(|other| other.overlaps(range)) {
            let what = "hypervisor, or memory that firmware has reserved";
            return Err(ConfigError::Module(ModuleError::OverlapsOther(
                source(),
                what,
            )));
        }
        // Domains may well have one kernel for all: the same range, not one beside the other.
        let overlaps = |other: &PhysRange| other.overlaps(range) && other != range;
        if dom0_modules.iter().any(overlaps) {
            let what = "kernel or ramdisk of dom0";
            return Err(ConfigError::Module(ModuleError::OverlapsOther(
                source(),
                what,
            )));
        }
        if let Some(other) = others
            .iter()
            .find(|other| other.modules().any(|m| overlaps(&m)))
        {
            return Err(ConfigError::Module(ModuleError::Overlap(
                other.path.clone(),
                source(),
            )));
        }
        if modules
            .iter()
            .take(index)
            .any(|other| other.overlaps(range))
        {
            return Err(ConfigError::Module(ModuleError::Overlap(
                source(),
                source(),
            )));
        }
    }
    check_fixed(config, memory, taken, dom0_modules, others)?;
    let fixed_of_others = || others.iter().flat_map(DomainConfig::fixed);
    if modules
        .iter()
        .any(|module| fixed_of_others().any(|fixed| fixed.range.overlaps(module)))
    {
        let what = "memory that another domain has at a fixed address";
        return Err(ConfigError::Module(ModuleError::OverlapsOther(
            source(),
            what,
        )));
    }
    Ok(())
}

/// Memory that a domain wants at an address of the machine.
pub(super) struct Fixed<'a> {
    pub range: PhysRange,
    /// What the memory is called by those who share it; none for static memory.
    pub shared_as: Option<&'a str>,
}

impl Fixed<'_> {
    fn error(&self, of_static: &'static str, of_shared: &'static str) -> ConfigError {
        match self.shared_as {
            None => ConfigError::StaticMemory(of_static),
            Some(_) => ConfigError::SharedMemory(of_shared),
        }
    }

    /// Whether both can be there: apart, or the same memory for both.
    fn fits_beside(&self, other: &Fixed<'_>) -> bool {
        let is_same = self.shared_as.is_some() && self.shared_as == other.shared_as;
        if is_same {
            self.range == other.range
        } else {
            !self.range.overlaps(&other.range)
        }
    }
}

/// Checks memory that is to lie at an address of the machine: what is there now is overwritten.
fn check_fixed(
    config: &DomainConfig<'_>,
    memory: &[PhysRange],
    taken: &[PhysRange],
    dom0_modules: &[PhysRange],
    others: &[DomainConfig<'_>],
) -> Result<(), ConfigError> {
    for (index, fixed) in config.fixed().enumerate() {
        let range = &fixed.range;
        if !memory.iter().any(|ram| ram.contains(range)) {
            return Err(fixed.error(
                "a bank is not in RAM: correct its address",
                "its host address is not in RAM: correct it",
            ));
        }
        let modules_of_others = others.iter().flat_map(DomainConfig::modules);
        let is_taken = taken
            .iter()
            .copied()
            .chain(dom0_modules.iter().copied())
            .chain(config.modules())
            .chain(modules_of_others)
            .any(|other| other.overlaps(range));
        let mut beside = others
            .iter()
            .flat_map(DomainConfig::fixed)
            .chain(config.fixed().take(index));
        if is_taken || !beside.all(|other| fixed.fits_beside(&other)) {
            return Err(fixed.error(
                "a bank is in use already: choose one without the hypervisor, modules and other domains",
                "its host address is in use already, or another in another domain: choose one without the hypervisor, modules \
                 and other memory",
            ));
        }
    }
    // Whoever comes first decides where it is.
    let is_elsewhere = |shared: &SharedMemory<'_>| {
        let first = others
            .iter()
            .flat_map(|other| &other.shared_memory)
            .find(|other| other.id == shared.id);
        shared.host.is_some() && first.is_some_and(|first| first.host.is_none())
    };
    if config.shared_memory.iter().any(is_elsewhere) {
        return Err(ConfigError::SharedMemory(
            "a domain before this one names no host address for it: name one there, or none here",
        ));
    }
    Ok(())
}
