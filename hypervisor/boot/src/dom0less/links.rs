//! What joins domains: static event channels (`xen,evtchn-v1`) and shared memory (`xen,domain-shared-memory-v1`).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{ConfigError, Dom0less, SharedMemory};
use crate::fdt::tree::{Node, take_cells};
use crate::memory::PhysRange;
use crate::modules::inherited;
use xenith_core::addr::DomId;

/// The highest port of a domain that is not dom0 (as Xen creates them).
pub const MAX_PORT: u32 = 1023;
/// The most channels.
const MAX_CHANNELS: usize = 1024;
/// The longest `xen,shm-id`.
const MAX_ID: usize = 15;

/// One end of an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whose it is; dom0's are below `/chosen` itself.
    pub domain: DomId,
    /// Its port.
    pub port: u32,
}

/// A static event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The end whose node comes first in the tree.
    pub one: End,
    /// The other.
    pub other: End,
}

/// An event channel that is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadChannel {
    /// The node's path.
    pub path: String,
    /// Why.
    pub what: &'static str,
}

impl fmt::Display for BadChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event channel {}: {}", self.path, self.what)
    }
}

/// Finds the channels among the domains in `found`, and dom0.
pub(super) fn read_channels(found: &mut Dom0less<'_>, chosen: Node<'_, '_>) {
    for node in chosen.walk().filter(|node| is_channel(*node)) {
        let read = read_channel(found, chosen, node);
        match read {
            Ok(Some(channel)) => found.channels.push(channel),
            Ok(None) => {}
            Err(what) => found.bad_channels.push(BadChannel {
                path: node.path(),
                what,
            }),
        }
    }
}

fn is_channel(node: Node<'_, '_>) -> bool {
    node.is_available() && node.is_compatible(&["xen,evtchn-v1"])
}

/// Returns a node's own port and its peer's phandle.
fn ends(node: Node<'_, '_>) -> Result<(u32, u32), &'static str> {
    const MALFORMED: &str = "\"xen,evtchn\" is not a port and a phandle: correct it";
    let (port, rest) = take_cells(node.prop("xen,evtchn").ok_or(MALFORMED)?, 1).ok_or(MALFORMED)?;
    let (phandle, rest) = take_cells(rest, 1).ok_or(MALFORMED)?;
    let port = u32::try_from(port).map_err(|_| MALFORMED)?;
    let phandle = u32::try_from(phandle).map_err(|_| MALFORMED)?;
    if rest.is_empty() {
        Ok((port, phandle))
    } else {
        Err(MALFORMED)
    }
}

/// Returns the channel of a node, unless its peer's node, which comes first, has given it already.
fn read_channel(
    found: &Dom0less<'_>,
    chosen: Node<'_, '_>,
    node: Node<'_, '_>,
) -> Result<Option<Channel>, &'static str> {
    let owner = |node: Node<'_, '_>| {
        let parent = node.parent()?;
        if parent == chosen {
            return Some(DomId::DOM0);
        }
        let domain = found
            .domains
            .iter()
            .find(|domain| domain.node == parent.index())?;
        Some(domain.id)
    };
    let (port, phandle) = ends(node)?;
    let peer = node
        .tree()
        .find_phandle(phandle)
        .filter(|peer| is_channel(*peer) && *peer != node)
        .ok_or(
            "\"xen,evtchn\" does not lead to another event channel's node: correct the phandle",
        )?;
    let (peer_port, back) = ends(peer)?;
    if node.phandle() != Some(back) {
        return Err("the other end does not lead back: let both nodes name each other");
    }
    let one = End {
        domain: owner(node).ok_or("it belongs to no domain that is started")?,
        port,
    };
    let other = End {
        domain: owner(peer).ok_or("its other end belongs to no domain that is started")?,
        port: peer_port,
    };
    if peer.index() < node.index() {
        return Ok(None);
    }
    let is_port = |end: End| (1..=MAX_PORT).contains(&end.port);
    if !is_port(one) || !is_port(other) {
        return Err("a port is not 1 to 1023: choose another");
    }
    // Two guests that may not have to do with each other otherwise are joined on purpose here.
    let is_used = |end: End| {
        let used = |channel: &Channel| channel.one == end || channel.other == end;
        found.channels.iter().any(used)
    };
    if one == other || is_used(one) || is_used(other) {
        return Err("a port is used twice: choose another");
    }
    if found.channels.len() == MAX_CHANNELS {
        return Err("too many event channels: remove some");
    }
    Ok(Some(Channel { one, other }))
}

/// Reads the shared memory of a domain.
pub(super) fn read_shared_memory<'a>(
    domain: Node<'_, 'a>,
) -> Result<Vec<SharedMemory<'a>>, ConfigError> {
    let mut found: Vec<SharedMemory<'a>> = Vec::new();
    let nodes = domain
        .children()
        .filter(|node| node.is_available() && node.is_compatible(&["xen,domain-shared-memory-v1"]));
    for node in nodes {
        let shared = read_one(domain, node).map_err(ConfigError::SharedMemory)?;
        if found
            .iter()
            .any(|other| other.guest.overlaps(&shared.guest))
        {
            return Err(ConfigError::SharedMemory(
                "two overlap in the domain: move one",
            ));
        }
        found.push(shared);
    }
    Ok(found)
}

fn read_one<'a>(
    domain: Node<'_, 'a>,
    node: Node<'_, 'a>,
) -> Result<SharedMemory<'a>, &'static str> {
    const MALFORMED: &str =
        "\"xen,shared-mem\" is not (host address,) guest address, size: correct it";
    let id = node.text("xen,shm-id");
    if id.is_empty() || id.len() > MAX_ID {
        return Err("\"xen,shm-id\" is not 1 to 15 characters: correct it");
    }
    let is_owner = match node.text("role") {
        "owner" => true,
        "" | "borrower" => false,
        _ => return Err("\"role\" is neither \"owner\" nor \"borrower\": correct it"),
    };
    let value = node.prop("xen,shared-mem").ok_or(MALFORMED)?;
    let address_cells = inherited(domain, "#address-cells", 2);
    let size_cells = inherited(domain, "#size-cells", 1);
    let has_host = match u32::try_from(value.len() / 4).map_err(|_| MALFORMED)? {
        cells if cells == address_cells.saturating_mul(2).saturating_add(size_cells) => true,
        cells if cells == address_cells.saturating_add(size_cells) => false,
        _ => return Err(MALFORMED),
    };
    let mut rest = value;
    let mut number = |cells| {
        let (number, after) = take_cells(rest, cells).ok_or(MALFORMED)?;
        rest = after;
        u64::try_from(number).map_err(|_| MALFORMED)
    };
    let host = if has_host {
        Some(number(address_cells)?)
    } else {
        None
    };
    let guest = number(address_cells)?;
    let size = number(size_cells)?;
    let guest = PhysRange::new(guest, size).ok_or(MALFORMED)?;
    let is_aligned = |range: PhysRange| range.grow_to_pages() == range;
    let host_fits = host.is_none_or(|host| PhysRange::new(host, size).is_some_and(is_aligned));
    if guest.is_empty() || !is_aligned(guest) || !host_fits {
        return Err("its addresses and size are not whole pages: align them");
    }
    Ok(SharedMemory {
        id,
        host,
        guest,
        is_owner,
    })
}
