//! Domains that the hypervisor starts by itself ("dom0less"): nodes `xen,domain` below `/chosen`.
//!
//! The properties are those of Xen 4.17 and 4.20 (docs/misc/arm/device-tree/booting.txt), and the newer `capabilities`
//! and `xen,vcpu`. The node's place in the tree is its domain's number: the first is domain 1. A description with a
//! fault is reported ([`Skipped`]) and its number stays free; the others are not affected. What cannot be honoured is a
//! fault as well: a domain that asks to be isolated by an IOMMU must not run without.
//!
//! Static event channels and shared memory join several domains: [`links`].
//!
//! Bounds: at most [`MAX_DOMAINS`] domains. No locks. Nothing here is trusted to be well-formed.

mod check;
pub mod links;
pub mod passthrough;
pub mod pools;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::fdt::tree::{Node, Tree, take_cells};
use crate::memory::PhysRange;
use crate::modules::{ModuleError, ModuleKind, cmdline, declared_kind, inherited, module_range};
use xenith_core::addr::{CpuId, DomId};
use xenith_core::sched::{CpuSet, MAX_CPUS};
use xenith_core::vgic::{HAS_V3, MAX_SPIS, MAX_VCPUS};

/// The most domains: a VMID has 8 bits, 0 is nobody's and dom0 has 1.
pub const MAX_DOMAINS: usize = 250;
/// The most memory: RAM banks of a guest's memory map below the end of 40 bits, in bytes.
const MAX_MEMORY: u64 = (3 << 30) + (1016 << 30);
/// Static memory banks of a domain.
const MAX_STATIC_BANKS: usize = 64;

/// Whether a domain sees that it runs on a hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enhanced {
    /// No `/hypervisor` node.
    No,
    /// The node, and event channels and grants with it, but no xenstore.
    NoXenstore,
    /// All: xenstore's page and event channel are made.
    Full,
}

/// A module of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Where it is.
    pub range: PhysRange,
    /// The node's `bootargs`, empty if there are none.
    pub bootargs: &'a str,
}

/// Memory that several domains share (`xen,domain-shared-memory-v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory<'a> {
    /// `xen,shm-id`, 1 to 15 characters: the same for all that share it.
    pub id: &'a str,
    /// Where it lies in the machine; `None` leaves that to the hypervisor.
    pub host: Option<u64>,
    /// Where the domain sees it.
    pub guest: PhysRange,
    /// `role = "owner"`.
    pub is_owner: bool,
}

/// A domain as its node describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig<'a> {
    /// Its number.
    pub id: DomId,
    /// The node's path, for messages.
    pub path: String,
    /// Index of the node in the tree.
    pub node: usize,
    /// `memory` in bytes, whole pages.
    pub memory: u64,
    /// `cpus`.
    pub vcpus: u32,
    /// `vpl011`.
    pub has_uart: bool,
    /// `nr_spis`; `None` for as many as are used.
    pub nr_spis: Option<u16>,
    /// `vpmu`.
    pub has_pmu: bool,
    /// `direct-map`.
    pub is_direct_mapped: bool,
    /// `xen,static-mem`, in the order of the property.
    pub static_memory: Vec<PhysRange>,
    /// `xen,enhanced`.
    pub enhanced: Enhanced,
    /// `xen,domain-p2m-mem-mb` in bytes; `None` for the default.
    pub p2m_pool: Option<u64>,
    /// `max_grant_frames`.
    pub max_grant_frames: Option<u32>,
    /// `max_maptrack_frames`.
    pub max_maptrack_frames: Option<u32>,
    /// `max_grant_version`: 1 or 2.
    pub max_grant_version: Option<u32>,
    /// The kernel, with the domain's command line.
    pub kernel: Module<'a>,
    /// The ramdisk.
    pub ramdisk: Option<Module<'a>>,
    /// The partial device tree of the devices that are passed through.
    pub device_tree: Option<Module<'a>>,
    /// Shared memory.
    pub shared_memory: Vec<SharedMemory<'a>>,
    /// `domain-cpupool`: the phandle of its pool.
    pub pool: Option<u32>,
    /// `hard-affinity` of each vCPU.
    pub affinity: Vec<CpuSet>,
}

impl DomainConfig<'_> {
    /// Returns the memory that the domain wants at addresses of the machine.
    fn fixed(&self) -> impl Iterator<Item = check::Fixed<'_>> {
        let banks = self.static_memory.iter().map(|bank| check::Fixed {
            range: *bank,
            shared_as: None,
        });
        let shared = self.shared_memory.iter().filter_map(|shared| {
            Some(check::Fixed {
                range: PhysRange::new(shared.host?, shared.guest.size())?,
                shared_as: Some(shared.id),
            })
        });
        banks.chain(shared)
    }

    /// Returns where the domain's modules are.
    pub fn modules(&self) -> impl Iterator<Item = PhysRange> {
        let others = [self.ramdisk, self.device_tree];
        core::iter::once(self.kernel)
            .chain(others.into_iter().flatten())
            .map(|module| module.range)
    }

    /// Returns the room for the domain's stage-2 tables, in bytes: what it asked for, or Xen's default.
    pub fn p2m_bytes(&self) -> u64 {
        const MIB: u64 = 1 << 20;
        let by_size = (self.memory.div_ceil(MIB)).saturating_mul(4 << 10);
        self.p2m_pool.unwrap_or_else(|| {
            u64::from(self.vcpus)
                .saturating_mul(MIB)
                .saturating_add(by_size)
                .saturating_add(512 << 10)
        })
    }
}

/// Why a domain is not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A property that must be there is not, or is malformed; what it is for.
    Property(&'static str, &'static str),
    /// A property's value is out of range: its name and the range.
    Range(&'static str, &'static str),
    /// Something is asked for that is not there: the property, and what to do.
    Unsupported(&'static str, &'static str),
    /// A module's description is wrong.
    Module(ModuleError),
    /// There is no kernel.
    NoKernel,
    /// `direct-map` without static memory.
    DirectWithoutStatic,
    /// Static memory banks: misaligned, overlapping, or not as much as `memory`.
    StaticMemory(&'static str),
    /// A `xen,vcpu` node is wrong.
    Vcpu(&'static str),
    /// A shared memory node is wrong.
    SharedMemory(&'static str),
    /// More than [`MAX_DOMAINS`].
    TooMany,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Property(name, what) => write!(f, "\"{name}\" ({what}) is missing or malformed: correct it"),
            Self::Range(name, range) => write!(f, "\"{name}\" is out of range: it must be {range}"),
            Self::Unsupported(name, remedy) => write!(f, "\"{name}\" cannot be had: {remedy}"),
            Self::Module(error) => error.fmt(f),
            Self::NoKernel => f.write_str(
                "no kernel: add a node with compatible \"multiboot,kernel\", \"multiboot,module\" to the domain",
            ),
            Self::DirectWithoutStatic => {
                f.write_str("\"direct-map\" needs \"xen,static-mem\": add the banks that are to be mapped 1:1")
            }
            Self::StaticMemory(what) => write!(f, "\"xen,static-mem\": {what}"),
            Self::Vcpu(what) => write!(f, "a \"xen,vcpu\" node: {what}"),
            Self::SharedMemory(what) => write!(f, "a \"xen,domain-shared-memory-v1\" node: {what}"),
            Self::TooMany => write!(f, "more than {MAX_DOMAINS} domains: remove some from /chosen"),
        }
    }
}

/// A domain that is not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The node's path.
    pub path: String,
    /// Why.
    pub error: ConfigError,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {} is not started: {}", self.path, self.error)
    }
}

/// All domains of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dom0less<'a> {
    /// Those that can be built.
    pub domains: Vec<DomainConfig<'a>>,
    /// Those that cannot.
    pub skipped: Vec<Skipped>,
    /// Static event channels between them, and with dom0.
    pub channels: Vec<links::Channel>,
    /// Event channels that are not made, and why.
    pub bad_channels: Vec<links::BadChannel>,
}

impl<'a> Dom0less<'a> {
    /// Reads the domains of a tree.
    #[inline(never)]
    pub fn from_tree(tree: &Tree<'a>) -> Self {
        let mut found = Self::default();
        let Some(chosen) = tree.find("/chosen") else {
            return found;
        };
        let nodes = chosen
            .children()
            .filter(|node| node.is_available() && node.is_compatible(&["xen,domain"]));
        for (index, node) in nodes.enumerate() {
            let id = u16::try_from(index + 1)
                .ok()
                .filter(|_| index < MAX_DOMAINS);
            let config = id
                .ok_or(ConfigError::TooMany)
                .and_then(|id| domain(node, DomId::new(id)));
            match config {
                Ok(config) => found.domains.push(config),
                Err(error) => found.skip(node.path(), error),
            }
        }
        links::read_channels(&mut found, chosen);
        found
    }

    fn skip(&mut self, path: String, error: ConfigError) {
        // The rest would only repeat the message.
        let is_repeated = error == ConfigError::TooMany
            && self
                .skipped
                .last()
                .is_some_and(|last| last.error == ConfigError::TooMany);
        if !is_repeated {
            self.skipped.push(Skipped { path, error });
        }
    }

    /// Skips what cannot work on this machine: modules outside of RAM (`memory`, sorted and merged), or on top of
    /// something else (`taken`) or of others' modules; domains that need dom0 where there is none. A module may be that of
    /// another domain too, or of dom0 (`dom0_modules`).
    #[inline(never)]
    pub fn check(
        &mut self,
        memory: &[PhysRange],
        taken: &[PhysRange],
        dom0_modules: &[PhysRange],
        has_dom0: bool,
    ) {
        let mut kept: Vec<DomainConfig<'a>> = Vec::new();
        for config in core::mem::take(&mut self.domains) {
            match check::domain(&config, memory, taken, dom0_modules, &kept, has_dom0) {
                Ok(()) => kept.push(config),
                Err(error) => self.skip(config.path, error),
            }
        }
        self.domains = kept;
    }

    /// Returns where all modules are.
    pub fn module_ranges(&self) -> Vec<PhysRange> {
        self.domains
            .iter()
            .flat_map(DomainConfig::modules)
            .collect()
    }

    /// Returns the memory that is set aside for single domains, or for several to share.
    pub fn static_ranges(&self) -> Vec<PhysRange> {
        let fixed = self.domains.iter().flat_map(DomainConfig::fixed);
        fixed.map(|fixed| fixed.range).collect()
    }
}

/// Returns a number that the property must hold.
fn number(node: Node<'_, '_>, name: &'static str, what: &'static str) -> Result<u64, ConfigError> {
    node.u64(name).ok_or(ConfigError::Property(name, what))
}

/// Returns a number that a property may hold.
fn optional(
    node: Node<'_, '_>,
    name: &'static str,
    what: &'static str,
) -> Result<Option<u32>, ConfigError> {
    match node.prop(name) {
        None => Ok(None),
        Some(_) => node
            .u32(name)
            .map(Some)
            .ok_or(ConfigError::Property(name, what)),
    }
}

fn domain<'a>(node: Node<'_, 'a>, id: DomId) -> Result<DomainConfig<'a>, ConfigError> {
    refuse_unsupported(node)?;
    let kib = number(node, "memory", "KiB in two cells")?;
    let memory = kib
        .checked_mul(1 << 10)
        .map(|bytes| bytes & !0xfff)
        .filter(|bytes| (0x1000..=MAX_MEMORY).contains(bytes))
        .ok_or(ConfigError::Range("memory", "4 KiB to 1019 GiB, in KiB"))?;
    let vcpus =
        optional(node, "cpus", "a number")?.ok_or(ConfigError::Property("cpus", "a number"))?;
    if vcpus == 0 || vcpus > MAX_VCPUS as u32 {
        return Err(ConfigError::Range(
            "cpus",
            if HAS_V3 { "1 to 64" } else { "1 to 8" },
        ));
    }
    let has_uart = node.prop("vpl011").is_some();
    let nr_spis = match optional(node, "nr_spis", "a number")? {
        None => None,
        Some(count) => Some(
            u16::try_from(count)
                .ok()
                .filter(|&count| count <= MAX_SPIS)
                .ok_or(ConfigError::Range("nr_spis", "0 to 960"))?,
        ),
    };
    let static_memory = static_memory(node, memory)?;
    let is_direct_mapped = node.prop("direct-map").is_some();
    if is_direct_mapped && static_memory.is_empty() {
        return Err(ConfigError::DirectWithoutStatic);
    }
    let p2m_pool = optional(node, "xen,domain-p2m-mem-mb", "MiB")?.map(|mib| u64::from(mib) << 20);
    let (kernel, ramdisk, device_tree) = modules(node)?;
    Ok(DomainConfig {
        id,
        path: node.path(),
        node: node.index(),
        memory,
        vcpus,
        has_uart,
        has_pmu: node.prop("vpmu").is_some(),
        nr_spis,
        is_direct_mapped,
        static_memory,
        enhanced: enhanced(node)?,
        p2m_pool,
        max_grant_frames: optional(node, "max_grant_frames", "a number")?,
        max_maptrack_frames: optional(node, "max_maptrack_frames", "a number")?,
        max_grant_version: grant_version(node)?,
        kernel: kernel.ok_or(ConfigError::NoKernel)?,
        ramdisk,
        device_tree,
        shared_memory: links::read_shared_memory(node)?,
        pool: optional(node, "domain-cpupool", "a phandle")?,
        affinity: affinity(node, vcpus)?,
    })
}

/// Refuses what would change the domain's isolation or its machine, and is not there.
fn refuse_unsupported(node: Node<'_, '_>) -> Result<(), ConfigError> {
    const UNSUPPORTED: [(&str, &str); 4] = [
        ("llc-colors", "there is no cache colouring; remove it"),
        ("sve", "the CPUs are 32-bit; remove it"),
        ("xen,sci_type", "there is no SCI mediator; remove it"),
        ("v8r_el1_msa", "the CPUs have no MPU; remove it"),
    ];
    for (name, remedy) in UNSUPPORTED {
        if node.prop(name).is_some() && node.text(name) != "none" {
            return Err(ConfigError::Unsupported(name, remedy));
        }
    }
    if !matches!(node.text("passthrough"), "" | "disabled") {
        return Err(ConfigError::Unsupported(
            "passthrough",
            "there is no IOMMU driver; use xen,force-assign-without-iommu for devices that may reach all memory",
        ));
    }
    // The hardware domain is the one with the kernel in /chosen itself.
    if node.u32("capabilities").unwrap_or(0) != 0 {
        return Err(ConfigError::Unsupported(
            "capabilities",
            "control, hardware and xenstore domain is dom0; remove it",
        ));
    }
    Ok(())
}

fn grant_version(node: Node<'_, '_>) -> Result<Option<u32>, ConfigError> {
    match optional(node, "max_grant_version", "1 or 2")? {
        version @ (None | Some(1 | 2)) => Ok(version),
        Some(_) => Err(ConfigError::Range("max_grant_version", "1 or 2")),
    }
}

fn enhanced(node: Node<'_, '_>) -> Result<Enhanced, ConfigError> {
    match node.prop("xen,enhanced") {
        None => Ok(Enhanced::No),
        Some(_) => match node.text("xen,enhanced") {
            "" | "enabled" | "legacy" => Ok(Enhanced::Full),
            "no-xenstore" => Ok(Enhanced::NoXenstore),
            "disabled" => Ok(Enhanced::No),
            _ => Err(ConfigError::Property(
                "xen,enhanced",
                "enabled, disabled or no-xenstore",
            )),
        },
    }
}

type Modules<'a> = (Option<Module<'a>>, Option<Module<'a>>, Option<Module<'a>>);

/// Returns kernel, ramdisk and partial device tree: of several, the first.
fn modules<'a>(node: Node<'_, 'a>) -> Result<Modules<'a>, ConfigError> {
    let (mut kernel, mut ramdisk, mut device_tree) = (None, None, None);
    for child in node.children().filter(|child| child.is_available()) {
        let Some(kind) = declared_kind(child) else {
            continue;
        };
        let slot = match kind {
            ModuleKind::Kernel => &mut kernel,
            ModuleKind::Ramdisk => &mut ramdisk,
            ModuleKind::DeviceTree => &mut device_tree,
            // Of no use to a domain.
            ModuleKind::XsmPolicy | ModuleKind::Unknown => continue,
        };
        let range = module_range(child)
            .ok_or_else(|| ConfigError::Module(ModuleError::NoReg(child.to_string())))?;
        if range.is_empty() {
            return Err(ConfigError::Module(ModuleError::Empty(child.to_string())));
        }
        let bootargs = cmdline(child, "bootargs", "the kernel module's bootargs")
            .map_err(ConfigError::Module)?
            .unwrap_or("");
        slot.get_or_insert(Module { range, bootargs });
    }
    Ok((kernel, ramdisk, device_tree))
}

/// Reads `xen,static-mem`: counted in cells of its own as Xen 4.16 has it, or in those of `/chosen`.
fn static_memory(node: Node<'_, '_>, memory: u64) -> Result<Vec<PhysRange>, ConfigError> {
    let Some(mut rest) = node.prop("xen,static-mem") else {
        return Ok(Vec::new());
    };
    let own = |name: &str| {
        core::iter::successors(Some(node), |node| node.parent()).find_map(|node| node.u32(name))
    };
    let parent = node.parent().unwrap_or(node);
    let address_cells = own("#xen,static-mem-address-cells")
        .unwrap_or_else(|| inherited(parent, "#address-cells", 2));
    let size_cells =
        own("#xen,static-mem-size-cells").unwrap_or_else(|| inherited(parent, "#size-cells", 1));
    let malformed = ConfigError::Property("xen,static-mem", "pairs of address and size");
    let mut banks: Vec<PhysRange> = Vec::new();
    while !rest.is_empty() {
        let (address, after) = take_cells(rest, address_cells).ok_or_else(|| malformed.clone())?;
        let (size, after) = take_cells(after, size_cells).ok_or_else(|| malformed.clone())?;
        if after.len() == rest.len() || banks.len() == MAX_STATIC_BANKS {
            return Err(malformed);
        }
        rest = after;
        let bank = u64::try_from(address)
            .ok()
            .zip(u64::try_from(size).ok())
            .and_then(|(address, size)| PhysRange::new(address, size))
            .ok_or(malformed.clone())?;
        if bank.is_empty() || bank.grow_to_pages() != bank {
            return Err(ConfigError::StaticMemory(
                "a bank is not made of whole pages: align it",
            ));
        }
        if banks.iter().any(|other| other.overlaps(&bank)) {
            return Err(ConfigError::StaticMemory("two banks overlap: move one"));
        }
        banks.push(bank);
    }
    let total = crate::memory::total_size(&banks);
    if total != memory {
        return Err(ConfigError::StaticMemory(
            "the banks are not as much as \"memory\" says: correct either",
        ));
    }
    Ok(banks)
}

/// Reads the nodes `xen,vcpu`: `id` and `hard-affinity`, a list of pCPUs such as "0-3,5".
fn affinity(node: Node<'_, '_>, vcpus: u32) -> Result<Vec<CpuSet>, ConfigError> {
    let mut sets = Vec::new();
    sets.resize(vcpus as usize, CpuSet::ALL);
    for child in node
        .children()
        .filter(|child| child.is_available() && child.is_compatible(&["xen,vcpu"]))
    {
        let slot = child
            .u32("id")
            .and_then(|id| sets.get_mut(id as usize))
            .ok_or(ConfigError::Vcpu(
                "\"id\" is missing or not below \"cpus\": correct it",
            ))?;
        if child.prop("hard-affinity").is_some() {
            *slot = cpu_list(child.text("hard-affinity")).ok_or(ConfigError::Vcpu(
                "\"hard-affinity\" is no list of CPUs such as \"0-3,5\": correct it",
            ))?;
        }
    }
    Ok(sets)
}

fn cpu_list(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::EMPTY;
    let cpu = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|&cpu| usize::from(cpu) < MAX_CPUS)
    };
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (cpu(first)?, cpu(last)?);
        if first > last {
            return None;
        }
        (first..=last).for_each(|cpu| set.insert(CpuId::new(cpu)));
    }
    Some(set)
}
