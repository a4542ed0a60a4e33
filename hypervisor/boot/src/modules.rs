//! What the boot loader put into `/chosen`: modules and command lines.
//!
//! The protocol is Xen's (docs/misc/arm/device-tree/booting.txt): module nodes at depth 2 or 3 of the tree, below
//! `/chosen`, `compatible` `multiboot,module` with a kind, or one of the older names; QEMU's guest-loader and U-Boot's
//! `xen_boot` recipes write the same nodes. `reg` counts in the cells of the parent, which a parent that does not say
//! inherits from its own parent (as Xen has it, unlike the specification). Nodes `xen,domain` are counted only: they are [`crate::dom0less`]'s.
//!
//! Bounds: at most [`MAX_MODULES`] modules, command lines of at most [`MAX_CMDLINE`] bytes. No locks.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::fdt::tree::{Node, Tree, take_cells};
use crate::memory::PhysRange;
use xenith_core::addr::HostPhys;

/// The most modules (Xen's limit).
pub const MAX_MODULES: usize = 32;
/// The bytes of a command line with its terminating zero (Xen's limit, and what XENVER_commandline can carry).
pub const MAX_CMDLINE: usize = 1024;
/// The first word of an XSM policy, little endian.
pub const XSM_MAGIC: u32 = 0xf97c_ff8c;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// dom0's kernel.
    Kernel,
    /// dom0's initial ramdisk.
    Ramdisk,
    /// An XSM policy.
    XsmPolicy,
    /// A device tree (for dom0less domains).
    DeviceTree,
    /// A module without a kind that is neither the first nor the second of those.
    Unknown,
}

impl fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Ramdisk => "ramdisk",
            Self::XsmPolicy => "XSM policy",
            Self::DeviceTree => "device tree",
            Self::Unknown => "unknown",
        })
    }
}

/// A module in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootModule<'a> {
    /// What it is.
    pub kind: ModuleKind,
    /// Where it is.
    pub range: PhysRange,
    /// Its node, or the property that gave it; for messages.
    pub source: String,
    /// The node's `bootargs`, empty if there are none.
    pub bootargs: &'a str,
}

/// What `/chosen` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootModules<'a> {
    /// The hypervisor's command line.
    pub xen_args: &'a str,
    /// dom0's command line.
    pub dom0_args: &'a str,
    /// The modules, in the order of the tree, then the one of `linux,initrd-start`.
    pub modules: Vec<BootModule<'a>>,
    /// How many nodes `xen,domain` there are.
    pub dom0less_count: usize,
}

/// Why dom0 cannot be started with these modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// A module's node has no usable `reg`.
    NoReg(String),
    /// A module is empty.
    Empty(String),
    /// More than [`MAX_MODULES`].
    TooMany,
    /// A command line (named) is longer than [`MAX_CMDLINE`]; bytes.
    CmdlineTooLong(&'static str, usize),
    /// `linux,initrd-start` and `-end` are not a range.
    BadInitrd,
    /// Two modules overlap.
    Overlap(String, String),
    /// A module overlaps something else (named).
    OverlapsOther(String, &'static str),
    /// A module is not in RAM.
    OutsideRam(String, PhysRange),
    /// There is no kernel; how many dom0less domains there are.
    NoKernel(usize),
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOVE: &str = "load it at another address";
        match self {
            Self::NoReg(node) => {
                write!(f, "boot module {node} has no valid \"reg\": add its address and size, in the cells of its parent")
            }
            Self::Empty(node) => write!(f, "boot module {node} has no bytes: check that its file was loaded"),
            Self::TooMany => write!(f, "more than {MAX_MODULES} boot modules: remove some from /chosen"),
            Self::CmdlineTooLong(which, length) => {
                write!(f, "{which} has {length} bytes, the limit is {}: shorten it", MAX_CMDLINE - 1)
            }
            Self::BadInitrd => f.write_str(
                "linux,initrd-start and linux,initrd-end in /chosen are not a range: correct or remove both",
            ),
            Self::Overlap(one, other) => write!(f, "boot modules {one} and {other} overlap: load them further apart"),
            Self::OverlapsOther(node, what) => write!(f, "boot module {node} overlaps the {what}: {MOVE}"),
            Self::OutsideRam(node, range) => write!(f, "boot module {node} at {range} is not in RAM: {MOVE}"),
            Self::NoKernel(0) => f.write_str(
                "no kernel for dom0: add a node with compatible \"multiboot,kernel\", \"multiboot,module\" to /chosen",
            ),
            Self::NoKernel(count) => write!(
                f,
                "no kernel for dom0, and none of {count} dom0less domain(s) can be started: correct them, or add a node \
                 with compatible \"multiboot,kernel\", \"multiboot,module\" to /chosen"
            ),
        }
    }
}

impl<'a> BootModules<'a> {
    /// Reads `/chosen`. `first_word` returns the first word of memory at an address (little endian, `None` if it cannot be
    /// read); it is used to recognise an XSM policy among modules without a kind.
    ///
    /// # Errors
    /// [`ModuleError`]. What depends on memory is checked by [`Self::check`].
    #[inline(never)]
    pub fn from_tree(
        tree: &Tree<'a>,
        first_word: &dyn Fn(HostPhys) -> Option<u32>,
    ) -> Result<Self, ModuleError> {
        let mut found = Self::default();
        let Some(chosen) = tree.find("/chosen") else {
            return Ok(found);
        };
        let mut untyped_count = 0;
        for node in chosen.walk().skip(1).filter(|node| node.is_available()) {
            if node.is_compatible(&["xen,domain"]) {
                found.dom0less_count += 1;
            }
            // Modules of a dom0less domain are not dom0's.
            let is_of_domain = node
                .parent()
                .is_some_and(|parent| parent.is_compatible(&["xen,domain"]));
            if node.depth() > 3 || is_of_domain {
                continue;
            }
            let Some(kind) = declared_kind(node) else {
                continue;
            };
            if found.modules.len() == MAX_MODULES {
                return Err(ModuleError::TooMany);
            }
            let range = module_range(node).ok_or_else(|| ModuleError::NoReg(node.to_string()))?;
            let kind = match kind {
                ModuleKind::Unknown => {
                    let is_policy =
                        untyped_count > 0 && first_word(range.base()) == Some(XSM_MAGIC);
                    untyped_count += 1;
                    match untyped_count {
                        _ if is_policy => ModuleKind::XsmPolicy,
                        1 => ModuleKind::Kernel,
                        2 => ModuleKind::Ramdisk,
                        _ => ModuleKind::Unknown,
                    }
                }
                kind => kind,
            };
            let bootargs = cmdline(node, "bootargs", "the kernel module's bootargs")?.unwrap_or("");
            found.modules.push(BootModule {
                kind,
                range,
                source: node.to_string(),
                bootargs,
            });
        }
        found.take_initrd(chosen)?;
        found.take_command_lines(chosen)?;
        Ok(found)
    }

    /// Accepts a ramdisk as Linux's own boot protocol describes it, unless there is a module.
    fn take_initrd(&mut self, chosen: Node<'_, 'a>) -> Result<(), ModuleError> {
        let (start, end) = ("linux,initrd-start", "linux,initrd-end");
        if self.ramdisk().is_some() || (chosen.prop(start).is_none() && chosen.prop(end).is_none())
        {
            return Ok(());
        }
        match (chosen.u64(start), chosen.u64(end)) {
            // How boot loaders say that there is none.
            (Some(start), Some(end)) if start == end => Ok(()),
            (Some(start), Some(end)) if start < end => {
                if self.modules.len() == MAX_MODULES {
                    return Err(ModuleError::TooMany);
                }
                self.modules.push(BootModule {
                    kind: ModuleKind::Ramdisk,
                    range: PhysRange::from_start_end(start, end),
                    source: String::from("linux,initrd-start"),
                    bootargs: "",
                });
                Ok(())
            }
            _ => Err(ModuleError::BadInitrd),
        }
    }

    /// Decides which property is whose command line.
    fn take_command_lines(&mut self, chosen: Node<'_, 'a>) -> Result<(), ModuleError> {
        let xen = cmdline(chosen, "xen,xen-bootargs", "xen,xen-bootargs")?;
        let dom0 = cmdline(chosen, "xen,dom0-bootargs", "xen,dom0-bootargs")?;
        let plain = cmdline(chosen, "bootargs", "bootargs")?;
        let of_kernel = self
            .kernel()
            .map(|kernel| kernel.bootargs)
            .filter(|args| !args.is_empty());
        let dom0_own = dom0.or(of_kernel);
        // A boot loader that does not know of Xen writes `bootargs` for Linux. It means the hypervisor only when dom0 has
        // a command line of its own and the hypervisor has none.
        self.xen_args = match (xen, dom0_own) {
            (Some(xen), _) => xen,
            (None, Some(_)) => plain.unwrap_or(""),
            (None, None) => "",
        };
        self.dom0_args = dom0_own.or(plain).unwrap_or("");
        Ok(())
    }

    fn first(&self, kind: ModuleKind) -> Option<&BootModule<'a>> {
        self.modules.iter().find(|module| module.kind == kind)
    }

    /// Returns dom0's kernel: the first, if there are several.
    pub fn kernel(&self) -> Option<&BootModule<'a>> {
        self.first(ModuleKind::Kernel)
    }

    /// Returns dom0's ramdisk: the first, if there are several.
    pub fn ramdisk(&self) -> Option<&BootModule<'a>> {
        self.first(ModuleKind::Ramdisk)
    }

    /// Returns where the modules are.
    #[inline(never)]
    pub fn ranges(&self) -> Vec<PhysRange> {
        self.modules.iter().map(|module| module.range).collect()
    }

    /// Checks that there is something to start (a kernel for dom0, or nodes of other domains), that dom0's modules lie in
    /// RAM (`memory`: sorted and merged), and that they overlap neither each other nor what else is in use (`dtb`,
    /// `hypervisor`).
    ///
    /// # Errors
    /// [`ModuleError`].
    #[inline(never)]
    pub fn check(
        &self,
        memory: &[PhysRange],
        dtb: PhysRange,
        hypervisor: PhysRange,
    ) -> Result<(), ModuleError> {
        for (index, module) in self.modules.iter().enumerate() {
            let (range, source) = (module.range, || module.source.clone());
            if range.is_empty() {
                return Err(ModuleError::Empty(source()));
            }
            if !memory.iter().any(|bank| bank.contains(&range)) {
                return Err(ModuleError::OutsideRam(source(), range));
            }
            if range.overlaps(&dtb) {
                return Err(ModuleError::OverlapsOther(source(), "device tree"));
            }
            if range.overlaps(&hypervisor) {
                return Err(ModuleError::OverlapsOther(source(), "hypervisor"));
            }
            if let Some(other) = self
                .modules
                .iter()
                .take(index)
                .find(|other| other.range.overlaps(&range))
            {
                return Err(ModuleError::Overlap(other.source.clone(), source()));
            }
        }
        if self.kernel().is_some() || self.dom0less_count > 0 {
            Ok(())
        } else {
            Err(ModuleError::NoKernel(self.dom0less_count))
        }
    }
}

/// Returns what a node says it is; `Unknown` for a module that does not say; `None` for what is no module.
pub(crate) fn declared_kind(node: Node<'_, '_>) -> Option<ModuleKind> {
    const KINDS: [(&str, ModuleKind); 6] = [
        ("multiboot,kernel", ModuleKind::Kernel),
        ("xen,linux-zimage", ModuleKind::Kernel),
        ("multiboot,ramdisk", ModuleKind::Ramdisk),
        ("xen,linux-initrd", ModuleKind::Ramdisk),
        ("multiboot,device-tree", ModuleKind::DeviceTree),
        ("xen,xsm-policy", ModuleKind::XsmPolicy),
    ];
    let compatible = node.compatible();
    if !compatible.contains("multiboot,module") && !compatible.contains("xen,multiboot-module") {
        return None;
    }
    let declared = KINDS.iter().find(|(name, _)| compatible.contains(name));
    Some(declared.map_or(ModuleKind::Unknown, |(_, kind)| *kind))
}

/// Returns the range that a module's `reg` gives. It is a physical address: `ranges` are not looked at.
pub(crate) fn module_range(node: Node<'_, '_>) -> Option<PhysRange> {
    let parent = node.parent()?;
    let (address, rest) = take_cells(node.prop("reg")?, inherited(parent, "#address-cells", 2))?;
    let (size, _) = take_cells(rest, inherited(parent, "#size-cells", 1))?;
    PhysRange::new(u64::try_from(address).ok()?, u64::try_from(size).ok()?)
}

/// Returns a number of cells from a node or the nearest ancestor that has it.
pub(crate) fn inherited(node: Node<'_, '_>, name: &str, default: u32) -> u32 {
    let mut at = Some(node);
    while let Some(node) = at {
        if let Some(cells) = node.u32(name) {
            return cells;
        }
        at = node.parent();
    }
    default
}

/// Returns a property that is a command line. Bytes that are not UTF-8 end it.
pub(crate) fn cmdline<'a>(
    node: Node<'_, 'a>,
    name: &str,
    title: &'static str,
) -> Result<Option<&'a str>, ModuleError> {
    let Some(value) = node.prop(name) else {
        return Ok(None);
    };
    let line = value.split(|byte| *byte == 0).next().unwrap_or_default();
    if line.len() >= MAX_CMDLINE {
        return Err(ModuleError::CmdlineTooLong(title, line.len()));
    }
    let valid = match core::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => line
            .get(..error.valid_up_to())
            .and_then(|part| core::str::from_utf8(part).ok())
            .unwrap_or(""),
    };
    Ok(Some(valid))
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
