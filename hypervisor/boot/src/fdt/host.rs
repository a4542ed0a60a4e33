//! What the hypervisor itself needs to know of the machine, from the host's device tree.
//!
//! [`HostInfo::from_tree`] gathers everything at once; each part is also a function of its own, because the console has to
//! be found first, so that a fault in any other part can be printed. Strings borrow from the blob, lists are small
//! vectors (at most [`MAX_BANKS`], [`MAX_CPUS`]), so the blob must stay mapped as long as the value lives.
//!
//! Sources: Devicetree Specification 0.4; Linux bindings `arm/cpus.yaml`, `arm/psci.yaml`, `timer/arm,arch_timer.yaml`,
//! `interrupt-controller/arm,gic.yaml`, `reserved-memory.txt`. No locks.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::fdt::address::AddressError;
pub use crate::fdt::gic::{Gic, GicKind, GicV2, GicV3, gic};
use crate::fdt::interrupts::{Interrupt, IrqError, IrqResolver};
use crate::fdt::tree::{Node, Strings, Tree, TreeError, take_cells};
use crate::memory::{PhysRange, normalise};
use xenith_core::addr::{HostPhys, IntId};
use xenith_core::machine::Trigger;

/// The most memory banks, and the most reserved ranges (Xen's `NR_MEM_BANKS`).
pub const MAX_BANKS: usize = 256;
/// The most CPUs (Xen on Arm: 128).
pub const MAX_CPUS: usize = 128;

/// Where a console is looked for when nothing names one.
const SERIAL_ALIASES: [&str; 10] = [
    "serial0", "serial1", "serial2", "serial3", "serial4", "serial5", "serial6", "serial7",
    "serial8", "serial9",
];

/// Why the machine cannot be run, as far as its device tree tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostError {
    /// The blob is no device tree.
    Tree(TreeError),
    /// There is no RAM in the tree.
    NoMemory,
    /// More than [`MAX_BANKS`] banks or reservations; which of them.
    TooManyBanks(&'static str),
    /// There is no usable node for a CPU.
    NoCpus,
    /// A CPU's `reg` is missing, or two CPUs have the same; the node.
    BadCpu(String),
    /// There is no interrupt controller that is known.
    NoGic,
    /// The interrupt controller is of a kind that is not supported; its `compatible`.
    UnsupportedGic(String),
    /// A GICv2 without the interface for hypervisors (GICH, GICV).
    NoGicVirtualization,
    /// A register range of the GIC is missing or not usable: its name.
    GicRegisters(&'static str, AddressError),
    /// `redistributor-stride` is no multiple of 64 KiB, or has no room for the registers.
    GicStride,
    /// A register frame of the GIC does not begin at a page, or is smaller than this many bytes.
    GicFrame(&'static str, u64),
    /// The GIC's maintenance interrupt is not usable.
    GicMaintenance(IrqError),
    /// An interrupt of the timer is not usable: its name.
    TimerInterrupt(&'static str, IrqError),
    /// The node that `dtuart=` or `stdout-path` names does not exist.
    NoConsoleNode(String),
    /// The registers of the console's UART are not usable; its node.
    ConsoleRegisters(String, AddressError),
    /// The PSCI node has no `method`, or an unknown one.
    PsciMethod,
}

impl From<TreeError> for HostError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::NoMemory => {
                f.write_str("no RAM in the device tree: the boot loader must fill in the \"reg\" of a /memory node")
            }
            Self::TooManyBanks(which) => write!(f, "more than {MAX_BANKS} ranges in {which}: merge some in the device tree"),
            Self::NoCpus => f.write_str("no CPU in the device tree: add nodes with device_type \"cpu\" below /cpus"),
            Self::BadCpu(node) => {
                write!(f, "CPU {node} has no valid \"reg\", or the one of another CPU: give it the CPU's MPIDR affinity")
            }
            Self::NoGic => f.write_str("no interrupt controller in the device tree: a GICv2 is needed (arm,cortex-a15-gic)"),
            Self::UnsupportedGic(compatible) => {
                write!(f, "interrupt controller \"{compatible}\" is not supported: use a GICv2 (QEMU: gic-version=2)")
            }
            Self::NoGicVirtualization => f.write_str(
                "no GIC virtualization registers: the GIC's \"reg\" needs four ranges, GICD GICC GICH GICV \
                 (QEMU: -M virt,virtualization=on,gic-version=2)",
            ),
            Self::GicFrame(name, least) => write!(
                f,
                "{name} of the interrupt controller must begin at a page and have at least {least:#x} bytes; correct its reg"
            ),
            Self::GicStride => f.write_str(
                "the GIC's redistributor-stride must be a multiple of 0x10000, and at least 0x20000; correct it",
            ),
            Self::GicRegisters(name, error) => write!(f, "{name} of the interrupt controller cannot be used: {error}"),
            Self::GicMaintenance(error) => write!(f, "the GIC's maintenance interrupt cannot be used: {error}"),
            Self::TimerInterrupt(name, error) => write!(f, "the {name} timer's interrupt cannot be used: {error}"),
            Self::NoConsoleNode(name) => write!(
                f,
                "\"{name}\" is not in the device tree: give dtuart= the path or an alias of a UART, or correct \
                 /chosen/stdout-path"
            ),
            Self::ConsoleRegisters(node, error) => write!(f, "console {node} cannot be used: {error}"),
            Self::PsciMethod => f.write_str("the psci node has no valid \"method\": it must be \"smc\" or \"hvc\""),
        }
    }
}

/// A range of `/reserved-memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved<'a> {
    /// Where it is.
    pub range: PhysRange,
    /// The node's name without its unit address.
    pub name: &'a str,
    /// True when it must not be mapped as normal memory (`no-map`).
    pub no_map: bool,
}

/// A CPU of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostCpu<'a> {
    /// The affinity fields of its MPIDR.
    pub mpidr: u64,
    /// What it is.
    pub compatible: Strings<'a>,
    /// How it is started; the one of `/cpus` when the node has none; empty when neither has.
    pub enable_method: &'a str,
    /// Where it looks for the address to start at (`cpu-release-addr`), for the method `spin-table`.
    pub release_address: Option<HostPhys>,
    /// Its `clock-frequency` in Hz, if the node says.
    pub clock_frequency: Option<u64>,
    /// By which other nodes name it.
    pub phandle: Option<u32>,
    /// False when its `status` forbids its use.
    pub is_enabled: bool,
}

impl HostCpu<'_> {
    /// Returns whether it waits in a loop of the firmware's until an address is written for it (Linux'
    /// `arm64/booting.rst`: "spin-table").
    pub fn spins(&self) -> bool {
        self.enable_method == "spin-table"
    }
}

/// The CPUs of the machine, in the order of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCpus<'a> {
    /// The CPUs, the disabled ones too.
    pub cpus: Vec<HostCpu<'a>>,
    /// How many more there are than [`MAX_CPUS`].
    pub ignored_count: usize,
}

/// The architected timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The secure physical timer's PPI.
    pub secure_phys: Interrupt,
    /// The non-secure physical timer's PPI.
    pub phys: Interrupt,
    /// The virtual timer's PPI.
    pub virt: Interrupt,
    /// The hypervisor timer's PPI.
    pub hyp: Interrupt,
    /// The frequency in Hz when the tree overrides CNTFRQ.
    pub clock_frequency: Option<u32>,
}

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciMethod {
    /// The `smc` instruction.
    Smc,
    /// The `hvc` instruction: the machine already runs a hypervisor.
    Hvc,
}

/// The version of the PSCI binding. From 0.2 on the function numbers are fixed, and PSCI_VERSION tells the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PsciVersion {
    /// `arm,psci`: function numbers are in the tree.
    V0_1,
    /// `arm,psci-0.2`.
    V0_2,
    /// `arm,psci-1.0`.
    V1_0,
}

/// The firmware's power interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Psci {
    /// The highest version that the node claims.
    pub version: PsciVersion,
    /// How it is called.
    pub method: PsciMethod,
    /// The number of CPU_ON that the node gives.
    pub cpu_on: Option<u32>,
    /// The number of CPU_OFF that the node gives.
    pub cpu_off: Option<u32>,
    /// The number of CPU_SUSPEND that the node gives.
    pub cpu_suspend: Option<u32>,
    /// The number of MIGRATE that the node gives.
    pub migrate: Option<u32>,
}

/// The console's UART.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleUart<'a> {
    /// Its node, which is withheld from dom0.
    pub path: String,
    /// What it is.
    pub compatible: Strings<'a>,
    /// Its registers.
    pub reg: PhysRange,
    /// `reg-shift`: log2 of the distance of two registers.
    pub reg_shift: Option<u32>,
    /// `reg-io-width` in bytes.
    pub reg_io_width: Option<u32>,
    /// `clock-frequency` in Hz.
    pub clock_frequency: Option<u32>,
    /// Its interrupt; without a usable one the UART must be polled, the error says why there is none.
    pub interrupt: Result<Option<Interrupt>, IrqError>,
    /// What follows the `:` in `dtuart=` or `stdout-path`.
    pub options: &'a str,
}

/// What the device tree says of the machine.
#[derive(Clone, Debug)]
pub struct HostInfo<'a> {
    /// The root's `model`.
    pub model: &'a str,
    /// The root's `compatible`.
    pub compatible: Strings<'a>,
    /// RAM: sorted, merged.
    pub memory: Vec<PhysRange>,
    /// `/memreserve/`: as given.
    pub memreserve: Vec<PhysRange>,
    /// `/reserved-memory`: as given. Nodes without an address (allocated by the OS) are not in it.
    pub reserved: Vec<Reserved<'a>>,
    /// The CPUs.
    pub cpus: HostCpus<'a>,
    /// The interrupt controller.
    pub gic: Gic<'a>,
    /// The timer.
    pub timer: Timer,
    /// PSCI, if there is any.
    pub psci: Option<Psci>,
}

impl<'a> HostInfo<'a> {
    /// Gathers everything but the console, which [`console`] finds.
    ///
    /// # Errors
    /// [`HostError`] names the first thing that is missing or wrong.
    #[inline(never)]
    pub fn from_tree(tree: &Tree<'a>) -> Result<Self, HostError> {
        let irqs = IrqResolver::new(tree);
        let root = tree.root();
        Ok(Self {
            model: root.text("model"),
            compatible: root.compatible(),
            memory: memory(tree)?,
            memreserve: memreserve(tree)?,
            reserved: reserved_memory(tree)?,
            cpus: cpus(tree)?,
            gic: gic(tree, &irqs)?,
            timer: timer(tree, &irqs)?,
            psci: psci(tree)?,
        })
    }

    /// Returns all ranges that firmware wants left alone: `/memreserve/`, `/reserved-memory`, and the pages in which CPUs
    /// wait for their release.
    #[inline(never)]
    pub fn reserved_ranges(&self) -> Vec<PhysRange> {
        let mut ranges: Vec<PhysRange> = self
            .memreserve
            .iter()
            .copied()
            .chain(self.reserved.iter().map(|reserved| reserved.range))
            .collect();
        for cpu in self.cpus.cpus.iter().filter(|cpu| cpu.spins()) {
            let page = cpu
                .release_address
                .map(|at| PhysRange::from_size(at.raw(), 8).grow_to_pages());
            if let Some(page) = page
                && !ranges.contains(&page)
            {
                ranges.push(page);
            }
        }
        ranges
    }
}

/// Returns the RAM of the machine, sorted and merged: nodes of the root that are called `memory` or have that
/// `device_type`. Empty banks are passed over, and nodes that are disabled (QEMU describes Secure RAM so).
///
/// # Errors
/// [`HostError::NoMemory`] and [`HostError::TooManyBanks`].
#[inline(never)]
pub fn memory(tree: &Tree<'_>) -> Result<Vec<PhysRange>, HostError> {
    let is_memory =
        |node: &Node<'_, '_>| node.base_name() == "memory" || node.text("device_type") == "memory";
    let mut banks = Vec::new();
    for node in tree
        .root()
        .children()
        .filter(|node| is_memory(node) && node.is_available())
    {
        push_reg(&mut banks, node, "/memory")?;
    }
    let banks = normalise(&banks);
    if banks.is_empty() {
        Err(HostError::NoMemory)
    } else {
        Ok(banks)
    }
}

/// Adds all entries of a node's `reg` that are not empty and have a physical address.
fn push_reg(
    ranges: &mut Vec<PhysRange>,
    node: Node<'_, '_>,
    which: &'static str,
) -> Result<(), HostError> {
    for (address, size) in node.reg() {
        match node.translate(address, size) {
            Ok(range) if !range.is_empty() => {
                if ranges.len() == MAX_BANKS {
                    return Err(HostError::TooManyBanks(which));
                }
                ranges.push(range);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns the entries of `/memreserve/`.
///
/// # Errors
/// [`HostError::TooManyBanks`].
#[inline(never)]
pub fn memreserve(tree: &Tree<'_>) -> Result<Vec<PhysRange>, HostError> {
    let mut ranges = Vec::new();
    // A range that wraps reserves all that is above its start.
    let clip =
        |(base, size): (u64, u64)| PhysRange::from_start_end(base, base.saturating_add(size));
    for range in tree
        .reservations()
        .map(clip)
        .filter(|range| !range.is_empty())
    {
        if ranges.len() == MAX_BANKS {
            return Err(HostError::TooManyBanks("/memreserve/"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// Returns the ranges below `/reserved-memory` that have a fixed address.
///
/// # Errors
/// [`HostError::TooManyBanks`].
#[inline(never)]
pub fn reserved_memory<'a>(tree: &Tree<'a>) -> Result<Vec<Reserved<'a>>, HostError> {
    let mut reserved = Vec::new();
    let mut ranges = Vec::new();
    for node in tree
        .find("/reserved-memory")
        .into_iter()
        .flat_map(Node::children)
        .filter(|node| node.is_available())
    {
        let first = ranges.len();
        push_reg(&mut ranges, node, "/reserved-memory")?;
        let no_map = node.prop("no-map").is_some();
        let added = ranges.iter().skip(first);
        reserved.extend(added.map(|range| Reserved {
            range: *range,
            name: node.base_name(),
            no_map,
        }));
    }
    Ok(reserved)
}

/// Returns the CPUs below `/cpus`.
///
/// # Errors
/// [`HostError::NoCpus`] and [`HostError::BadCpu`].
#[inline(never)]
pub fn cpus<'a>(tree: &Tree<'a>) -> Result<HostCpus<'a>, HostError> {
    let parent = tree.find("/cpus").ok_or(HostError::NoCpus)?;
    let is_cpu =
        |node: &Node<'_, '_>| node.base_name() == "cpu" || node.text("device_type") == "cpu";
    let shared_method = parent.text("enable-method");
    let mut found = HostCpus {
        cpus: Vec::new(),
        ignored_count: 0,
    };
    for node in parent.children().filter(is_cpu) {
        if found.cpus.len() == MAX_CPUS {
            found.ignored_count += 1;
            continue;
        }
        let bad = || HostError::BadCpu(node.to_string());
        let (mpidr, _) = take_cells(node.prop("reg").ok_or_else(bad)?, parent.address_cells())
            .ok_or_else(bad)?;
        let mpidr = u64::try_from(mpidr).map_err(|_| bad())?;
        if found.cpus.iter().any(|other| other.mpidr == mpidr) {
            return Err(bad());
        }
        found.cpus.push(HostCpu {
            mpidr,
            compatible: node.compatible(),
            enable_method: node
                .strings("enable-method")
                .map_or(shared_method, Strings::first),
            release_address: node.u64("cpu-release-addr").map(HostPhys::new),
            clock_frequency: node.u64("clock-frequency"),
            phandle: node.phandle(),
            is_enabled: node.is_available(),
        });
    }
    if found.cpus.iter().any(|cpu| cpu.is_enabled) {
        Ok(found)
    } else {
        Err(HostError::NoCpus)
    }
}

/// Returns the architected timer. It is part of every CPU that can run a hypervisor, so a node that is switched off (i.MX
/// 6UL, DRA7) counts like another, and what no node tells is as in Cortex-A7 and A15 (DDI 0464 table 9-1: PPIs 13, 14,
/// 11 and 10).
///
/// # Errors
/// [`HostError::TimerInterrupt`].
#[inline(never)]
pub fn timer<'a>(tree: &Tree<'a>, irqs: &IrqResolver<'_, 'a>) -> Result<Timer, HostError> {
    const TIMERS: [&str; 2] = ["arm,armv7-timer", "arm,armv8-timer"];
    let mut nodes = tree.nodes().filter(|node| node.is_compatible(&TIMERS));
    let first = nodes.next();
    let node = match first {
        Some(node) if !node.is_available() => nodes.find(|node| node.is_available()).or(first),
        _ => first,
    };
    let line = |title, name, index, default| match node
        .map(|node| irqs.named_or_index(node, name, index))
    {
        Some(Ok(Some(interrupt))) => Ok(interrupt),
        None | Some(Ok(None)) => Ok(Interrupt {
            intid: IntId::new(default),
            trigger: Trigger::Level,
        }),
        Some(Err(error)) => Err(HostError::TimerInterrupt(title, error)),
    };
    Ok(Timer {
        secure_phys: line("secure physical", "sec-phys", 0, 29)?,
        phys: line("physical", "phys", 1, 30)?,
        virt: line("virtual", "virt", 2, 27)?,
        hyp: line("hypervisor", "hyp-phys", 3, 26)?,
        clock_frequency: node
            .and_then(|node| node.u32("clock-frequency"))
            .filter(|frequency| *frequency != 0),
    })
}

/// Returns the PSCI node, if there is one.
///
/// # Errors
/// [`HostError::PsciMethod`].
#[inline(never)]
pub fn psci(tree: &Tree<'_>) -> Result<Option<Psci>, HostError> {
    const VERSIONS: [(&str, PsciVersion); 3] = [
        ("arm,psci-1.0", PsciVersion::V1_0),
        ("arm,psci-0.2", PsciVersion::V0_2),
        ("arm,psci", PsciVersion::V0_1),
    ];
    for node in tree.nodes().filter(|node| node.is_available()) {
        let compatible = node.compatible();
        let Some((_, version)) = VERSIONS.iter().find(|(name, _)| compatible.contains(name)) else {
            continue;
        };
        let method = match node.text("method") {
            "smc" => PsciMethod::Smc,
            "hvc" => PsciMethod::Hvc,
            _ => return Err(HostError::PsciMethod),
        };
        return Ok(Some(Psci {
            version: *version,
            method,
            cpu_on: node.u32("cpu_on"),
            cpu_off: node.u32("cpu_off"),
            cpu_suspend: node.u32("cpu_suspend"),
            migrate: node.u32("migrate"),
        }));
    }
    Ok(None)
}

/// Returns the console's UART: the one `dtuart` names (path or alias, options after `:`), or else `/chosen/stdout-path`,
/// or else the first of the aliases `serial0` to `serial9` that is enabled: one board in eight of those that Debian's
/// kernel knows has no `stdout-path`. Returns `None` when there is none of them.
///
/// # Errors
/// [`HostError::NoConsoleNode`] and [`HostError::ConsoleRegisters`]. A bad interrupt is no error: see
/// [`ConsoleUart::interrupt`].
#[inline(never)]
pub fn console<'a>(
    tree: &Tree<'a>,
    irqs: &IrqResolver<'_, 'a>,
    dtuart: Option<&'a str>,
) -> Result<Option<ConsoleUart<'a>>, HostError> {
    let stdout_path = || Some(tree.find("/chosen")?.text("stdout-path"));
    let alias = || {
        let aliases = tree.find("/aliases")?;
        let mut named = SERIAL_ALIASES.iter().map(|alias| aliases.text(alias));
        named.find(|path| tree.find(path).is_some_and(Node::is_available))
    };
    let is_given = |name: &&str| !name.is_empty();
    let Some(name) = dtuart
        .filter(is_given)
        .or_else(|| stdout_path().filter(is_given))
        .or_else(|| alias().filter(is_given))
    else {
        return Ok(None);
    };
    let (path, options) = name.split_once(':').unwrap_or((name, ""));
    let node = tree
        .find_alias_or_path(path)
        .ok_or_else(|| HostError::NoConsoleNode(path.to_string()))?;
    let reg = node
        .reg_range(0)
        .map_err(|error| HostError::ConsoleRegisters(node.to_string(), error))?;
    if reg.is_empty() || reg.base() == HostPhys::new(0) {
        return Err(HostError::ConsoleRegisters(
            node.to_string(),
            AddressError::Missing,
        ));
    }
    Ok(Some(ConsoleUart {
        path: node.to_string(),
        compatible: node.compatible(),
        reg,
        // More than a page between two registers is nonsense, and must not be shifted by.
        reg_shift: node.u32("reg-shift").map(|shift| shift.min(12)),
        reg_io_width: node.u32("reg-io-width"),
        clock_frequency: node.u32("clock-frequency"),
        interrupt: irqs.interrupt(node, 0),
        options,
    }))
}

/// Returns the first enabled node with a `compatible` string.
#[inline(never)]
pub fn device<'t, 'a>(tree: &'t Tree<'a>, compatible: &str) -> Option<Node<'t, 'a>> {
    tree.nodes()
        .find(|node| node.is_compatible(&[compatible]) && node.is_available())
}

/// Returns the first register range of the first enabled node with a `compatible` string.
#[inline(never)]
pub fn device_registers(tree: &Tree<'_>, compatible: &str) -> Option<PhysRange> {
    device(tree, compatible)?.reg_range(0).ok()
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
