//! The table of a domain's ports: buckets of 64, made as ports are allocated, never freed before the domain.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::types::{Port, Virq};
use crate::addr::{DomId, VcpuId};
use crate::errno::Errno;

/// Ports in a bucket: as many as bits in its `free` word.
pub(super) const BUCKET_PORTS: usize = 64;
/// How many closed ports that the guest's event array still shows as linked are passed over before giving up. A
/// correct guest has as many as it closed while they were queued; a hostile one must not make the search long.
const BUSY_LIMIT: u32 = 1024;

/// What a port is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Port 0: a link or a bound VIRQ of 0 means "none".
    Reserved,
    Unbound {
        domain: DomId,
    },
    Interdomain {
        domain: DomId,
        port: Port,
    },
    Virq(Virq),
    Ipi,
}

impl State {
    /// Returns true for a port that somebody opened.
    pub(super) const fn is_usable(self) -> bool {
        !matches!(self, Self::Free | Self::Reserved)
    }
}

/// One event channel. 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) state: State,
    pub(super) notify_vcpu: VcpuId,
    /// FIFO: the priority that the next event gets.
    pub(super) priority: u8,
    /// FIFO: the queue on which the port was linked last. These outlive a close: the port may still be its tail.
    pub(super) last_priority: u8,
    pub(super) last_vcpu: VcpuId,
    /// FIFO: became pending while its page of the event array did not exist.
    pub(super) latched: bool,
    /// This end is the hypervisor's own: the guest cannot use or close it.
    pub(super) is_xen: bool,
}

/// Priority of a port that sets none (public/event_channel.h `EVTCHN_FIFO_PRIORITY_DEFAULT`).
pub(super) const DEFAULT_PRIORITY: u8 = 7;

impl Channel {
    const FREE: Self = Self {
        state: State::Free,
        notify_vcpu: VcpuId::new(0),
        priority: DEFAULT_PRIORITY,
        last_priority: 0,
        last_vcpu: VcpuId::new(0),
        latched: false,
        is_xen: false,
    };
}

struct Bucket {
    /// One bit for each port that is not in use.
    free: u64,
    channels: Box<[Channel; BUCKET_PORTS]>,
}

/// The ports of one domain.
pub(super) struct Table {
    buckets: Vec<Bucket>,
    /// No bucket below this index has a free port.
    first_free: usize,
    /// Open ports (without port 0).
    open: u32,
}

impl Table {
    pub(super) fn new() -> Result<Self, Errno> {
        let mut table = Self {
            buckets: Vec::new(),
            first_free: 0,
            open: 0,
        };
        table.grow()?;
        if let Some(bucket) = table.buckets.first_mut() {
            bucket.free &= !1;
            bucket.channels[0].state = State::Reserved;
        }
        Ok(table)
    }

    /// Returns how many ports have a place in the table: a higher port is invalid rather than closed.
    pub(super) fn len(&self) -> u32 {
        // At most 2048 buckets: 131072 ports.
        (self.buckets.len() * BUCKET_PORTS) as u32
    }

    /// Returns how many ports are open.
    pub(super) fn open_count(&self) -> u32 {
        self.open
    }

    #[inline]
    pub(super) fn get(&self, port: Port) -> Option<&Channel> {
        let bucket = self.buckets.get(port.index() / BUCKET_PORTS)?;
        Some(&bucket.channels[port.index() % BUCKET_PORTS])
    }

    #[inline]
    pub(super) fn get_mut(&mut self, port: Port) -> Option<&mut Channel> {
        let bucket = self.buckets.get_mut(port.index() / BUCKET_PORTS)?;
        Some(&mut bucket.channels[port.index() % BUCKET_PORTS])
    }

    fn grow(&mut self) -> Result<(), Errno> {
        let mut channels = Vec::new();
        channels
            .try_reserve_exact(BUCKET_PORTS)
            .map_err(|_| Errno::NoMem)?;
        channels.resize(BUCKET_PORTS, Channel::FREE);
        self.buckets.try_reserve(1).map_err(|_| Errno::NoMem)?;
        let Ok(channels) = channels.into_boxed_slice().try_into() else {
            // It has just that length.
            return Err(Errno::NoMem);
        };
        self.buckets.push(Bucket {
            free: u64::MAX,
            channels,
        });
        Ok(())
    }

    /// Gives a port its place in the table.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn grow_to(&mut self, port: Port) -> Result<(), Errno> {
        while port.raw() >= self.len() {
            self.grow()?;
        }
        Ok(())
    }

    /// Finds the lowest free port below `limit` that is not `is_busy`. The port is taken by [`Table::open`].
    ///
    /// # Errors
    /// `ENOSPC` when there is none, `ENOMEM` when the table cannot grow.
    pub(super) fn find_free(
        &mut self,
        limit: u32,
        is_busy: impl Fn(Port) -> bool,
    ) -> Result<Port, Errno> {
        let mut busy = 0;
        let mut index = self.first_free;
        loop {
            let base = index * BUCKET_PORTS;
            if base >= limit as usize {
                return Err(Errno::NoSpc);
            }
            if index == self.buckets.len() {
                self.grow()?;
            }
            let Some(bucket) = self.buckets.get(index) else {
                return Err(Errno::NoMem);
            };
            let mut free = bucket.free;
            if free == 0 && index == self.first_free {
                self.first_free += 1;
            }
            while free != 0 {
                let port = Port::new(base as u32 + free.trailing_zeros());
                if port.raw() >= limit {
                    return Err(Errno::NoSpc);
                }
                if !is_busy(port) {
                    return Ok(port);
                }
                busy += 1;
                if busy > BUSY_LIMIT {
                    return Err(Errno::NoSpc);
                }
                free &= free - 1;
            }
            index += 1;
        }
    }

    /// Opens a port that [`Table::find_free`] gave.
    pub(super) fn open(&mut self, port: Port, state: State, notify_vcpu: VcpuId) {
        let Some(bucket) = self.buckets.get_mut(port.index() / BUCKET_PORTS) else {
            return;
        };
        let slot = port.index() % BUCKET_PORTS;
        let channel = &mut bucket.channels[slot];
        channel.state = state;
        channel.notify_vcpu = notify_vcpu;
        channel.priority = DEFAULT_PRIORITY;
        channel.latched = false;
        channel.is_xen = false;
        bucket.free &= !(1 << slot);
        self.open += 1;
    }

    /// Makes an open port free.
    pub(super) fn release(&mut self, port: Port) {
        let index = port.index() / BUCKET_PORTS;
        let Some(bucket) = self.buckets.get_mut(index) else {
            return;
        };
        let slot = port.index() % BUCKET_PORTS;
        let channel = &mut bucket.channels[slot];
        if !channel.state.is_usable() {
            return;
        }
        channel.state = State::Free;
        // The next user starts at vCPU 0, as in Xen.
        channel.notify_vcpu = VcpuId::new(0);
        channel.latched = false;
        bucket.free |= 1 << slot;
        self.first_free = self.first_free.min(index);
        self.open = self.open.saturating_sub(1);
    }

    /// Returns every port with a place in the table and its channel, lowest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Port, &mut Channel)> {
        self.buckets
            .iter_mut()
            .flat_map(|bucket| bucket.channels.iter_mut())
            .enumerate()
            .map(|(index, channel)| (Port::new(index as u32), channel))
    }
}
