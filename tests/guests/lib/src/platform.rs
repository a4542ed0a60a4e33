//! What the device tree says about the machine the guest sees.

use crate::fdt::Fdt;

/// RAM banks that are noted.
pub const MAX_BANKS: usize = 8;

/// The facts. What the tree does not tell is 0 or empty.
#[derive(Clone, Copy)]
pub struct Platform {
    /// GICv2 distributor, physical.
    pub gicd: usize,
    /// GICv2 CPU interface, physical.
    pub gicc: usize,
    /// INTIDs of the timer: secure physical, physical, virtual.
    pub timers: [u32; 3],
    /// Grant window of the hypervisor node: address and bytes.
    pub grant_window: (u64, u64),
    /// INTID of the event upcall.
    pub event_irq: u32,
    /// `compatible` of the hypervisor node (the first string).
    pub hypervisor: &'static str,
    /// Calls of the firmware by `smc` instead of `hvc`.
    pub psci_smc: bool,
    /// RAM: address and bytes.
    pub banks: [(u64, u64); MAX_BANKS],
    /// Processors.
    pub cpus: u32,
    /// A PL011 or SBSA UART, physical.
    pub uart: usize,
    /// The command line.
    pub bootargs: &'static str,
}

impl Platform {
    /// Reads the tree.
    pub fn new(tree: &Fdt<'static>) -> Self {
        let mut found = Self {
            gicd: 0,
            gicc: 0,
            timers: [0; 3],
            grant_window: (0, 0),
            event_irq: 0,
            hypervisor: "",
            psci_smc: false,
            banks: [(0, 0); MAX_BANKS],
            cpus: 0,
            uart: 0,
            bootargs: "",
        };
        let mut banks = 0;
        tree.find(|node| {
            let is = |name| node.is_compatible(name);
            if is("arm,cortex-a15-gic") || is("arm,cortex-a7-gic") || is("arm,gic-400") {
                found.gicd = node.reg(0).map_or(0, |r| r.0 as usize);
                found.gicc = node.reg(1).map_or(0, |r| r.0 as usize);
            } else if is("arm,armv7-timer") || is("arm,armv8-timer") {
                found.timers = core::array::from_fn(|i| node.interrupt(i).unwrap_or(0));
            } else if is("xen,xen") {
                found.hypervisor = node.text("compatible").unwrap_or("");
                found.grant_window = node.reg(0).unwrap_or((0, 0));
                found.event_irq = node.interrupt(0).unwrap_or(0);
            } else if is("arm,pl011") || is("arm,sbsa-uart") {
                found.uart = node.reg(0).map_or(0, |r| r.0 as usize);
            } else if is("arm,psci-0.2") || is("arm,psci-1.0") || is("arm,psci") {
                found.psci_smc = node.text("method") == Some("smc");
            } else if node.text("device_type") == Some("memory") {
                while let (Some(bank), Some(reg)) = (
                    found.banks.get_mut(banks),
                    node.reg(banks).filter(|r| r.1 != 0),
                ) {
                    *bank = reg;
                    banks += 1;
                }
            } else if node.text("device_type") == Some("cpu") {
                found.cpus += 1;
            } else if node.depth == 1 && node.name == "chosen" {
                found.bootargs = node.text("bootargs").unwrap_or("");
            }
            None::<()>
        });
        found
    }
}
