//! Pools of CPUs that the device tree makes: nodes with compatible `xen,cpupool` in `/chosen` (docs/misc/arm/device-tree
//! cpupools of Xen). A domain names its pool with `domain-cpupool`; dom0 is in the first, which has the CPUs that no node
//! names.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use xen_abi::control::{XEN_SCHEDULER_CREDIT, XEN_SCHEDULER_CREDIT2, XEN_SCHEDULER_NULL};

use crate::fdt::host::{HostCpus, MAX_CPUS};
use crate::fdt::tree::{Node, Tree};

/// A pool as its node describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The node's path, for messages.
    pub path: String,
    /// By which domains name it.
    pub phandle: Option<u32>,
    /// `cpupool-sched` as a scheduler's number; `None` for the one of the command line.
    pub policy: Option<u32>,
    /// The affinity fields of its CPUs' MPIDRs, in the order of `cpupool-cpus`.
    pub cpus: Vec<u64>,
}

/// Why a pool is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// `cpupool-cpus` is missing or malformed.
    Cpus,
    /// It names something that is no CPU.
    NoCpu(u32),
    /// Another pool has this CPU.
    Taken(u64),
    /// There is no such scheduler.
    Scheduler,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus => f.write_str(
                "\"cpupool-cpus\" (phandles of CPUs) is missing or malformed: correct it",
            ),
            Self::NoCpu(phandle) => write!(
                f,
                "\"cpupool-cpus\" names {phandle:#x}, which is no CPU: correct it"
            ),
            Self::Taken(mpidr) => write!(
                f,
                "another pool has the CPU with MPIDR {mpidr:#x}: remove it from one"
            ),
            Self::Scheduler => f.write_str("\"cpupool-sched\" must be credit, credit2 or null"),
        }
    }
}

/// A pool that is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPool {
    /// The node's path.
    pub path: String,
    /// Why.
    pub error: PoolError,
}

impl fmt::Display for BadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} is not made: {}", self.path, self.error)
    }
}

/// Reads the pools of a tree: those that can be made, and those that cannot.
#[inline(never)]
pub fn read(tree: &Tree<'_>, host: &HostCpus<'_>) -> (Vec<PoolConfig>, Vec<BadPool>) {
    let (mut pools, mut bad): (Vec<PoolConfig>, _) = (Vec::new(), Vec::new());
    let Some(chosen) = tree.find("/chosen") else {
        return (pools, bad);
    };
    let nodes = chosen.children();
    for node in nodes.filter(|node| node.is_available() && node.is_compatible(&["xen,cpupool"])) {
        match pool(node, host, &pools) {
            Ok(pool) => pools.push(pool),
            Err(error) => bad.push(BadPool {
                path: node.path(),
                error,
            }),
        }
    }
    (pools, bad)
}

fn pool(
    node: Node<'_, '_>,
    host: &HostCpus<'_>,
    others: &[PoolConfig],
) -> Result<PoolConfig, PoolError> {
    let policy = match node.text("cpupool-sched") {
        "" if node.prop("cpupool-sched").is_none() => None,
        "credit" => Some(XEN_SCHEDULER_CREDIT),
        "credit2" => Some(XEN_SCHEDULER_CREDIT2),
        "null" => Some(XEN_SCHEDULER_NULL),
        _ => return Err(PoolError::Scheduler),
    };
    let list = node.prop("cpupool-cpus").ok_or(PoolError::Cpus)?;
    let (cells, rest) = list.as_chunks::<4>();
    if cells.is_empty() || !rest.is_empty() || cells.len() > MAX_CPUS {
        return Err(PoolError::Cpus);
    }
    let mut cpus = Vec::new();
    for phandle in cells.iter().map(|cell| u32::from_be_bytes(*cell)) {
        let mut all = host.cpus.iter();
        let cpu = all.find(|cpu| cpu.phandle == Some(phandle));
        let cpu = cpu.ok_or(PoolError::NoCpu(phandle))?.mpidr;
        let mut taken = others.iter().flat_map(|other| &other.cpus).chain(&cpus);
        if taken.any(|other| *other == cpu) {
            return Err(PoolError::Taken(cpu));
        }
        cpus.push(cpu);
    }
    Ok(PoolConfig {
        path: node.path(),
        phandle: node.phandle(),
        policy,
        cpus,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::host;
    use crate::fdt::tree::tests::Blob;

    #[test]
    fn pools_of_a_tree() {
        let cells = |list: &[u32]| {
            list.iter()
                .flat_map(|cell| cell.to_be_bytes())
                .collect::<Vec<u8>>()
        };
        let mut blob = Blob::new()
            .open("cpus")
            .prop("#address-cells", &cells(&[1]))
            .prop("#size-cells", &cells(&[0]));
        for n in 0..4 {
            let cpu = blob
                .open(&std::format!("cpu@{n}"))
                .prop("device_type", b"cpu\0");
            blob = cpu
                .prop("reg", &cells(&[0x100 + n]))
                .prop("phandle", &cells(&[10 + n]))
                .close();
        }
        blob = blob.close().open("chosen");
        for (name, cpus, sched) in [
            ("a", &[11, 13][..], "credit2"),
            ("twice", &[12, 11], ""),
            ("nobody", &[14], ""),
            ("b", &[12], ""),
            ("odd", &[10], "rtds"),
            ("none", &[], ""),
            ("same", &[10, 10], ""),
        ] {
            blob = blob
                .open(name)
                .prop("compatible", b"xen,cpupool\0")
                .prop("cpupool-cpus", &cells(cpus));
            blob = blob.prop("phandle", &cells(&[40 + cpus.len() as u32]));
            if !sched.is_empty() {
                blob = blob.prop("cpupool-sched", std::format!("{sched}\0").as_bytes());
            }
            blob = blob.close();
        }
        let blob = blob.close().finish();
        let tree = Tree::new(&blob).unwrap();
        let (pools, bad) = read(&tree, &host::cpus(&tree).unwrap());
        let made: Vec<_> = pools
            .iter()
            .map(|pool| {
                (
                    pool.path.as_str(),
                    pool.phandle,
                    pool.policy,
                    pool.cpus.as_slice(),
                )
            })
            .collect();
        assert_eq!(
            made,
            [
                (
                    "/chosen/a",
                    Some(42),
                    Some(XEN_SCHEDULER_CREDIT2),
                    &[0x101, 0x103][..]
                ),
                ("/chosen/b", Some(41), None, &[0x102]),
            ]
        );
        let bad: Vec<_> = bad
            .iter()
            .map(|bad| (bad.path.as_str(), bad.error))
            .collect();
        assert_eq!(
            bad,
            [
                ("/chosen/twice", PoolError::Taken(0x101)),
                ("/chosen/nobody", PoolError::NoCpu(14)),
                ("/chosen/odd", PoolError::Scheduler),
                ("/chosen/none", PoolError::Cpus),
                ("/chosen/same", PoolError::Taken(0x100)),
            ]
        );
    }
}
