//! Which devices a domain may have: device memory and shared interrupts of the machine.
//!
//! To be allowed something is not to have it: a toolstack maps the memory and binds the interrupt afterwards, for a domain
//! that may have both. It can allow only what its own domain may have; dom0 begins with all devices of the device tree
//! that are not the hypervisor's own. What is not listed here (RAM, the interrupt controller, the hypervisor's UART) can
//! therefore never be given away.

use alloc::vec::Vec;

use crate::addr::{IntId, Mfn};
use crate::errno::Errno;
use crate::machine::Trigger;

/// Frames `start..end`; not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frames {
    start: u32,
    end: u32,
}

/// What a domain may have.
#[derive(Debug, Default)]
pub struct DeviceAccess {
    /// Sorted; no two touch.
    memory: Vec<Frames>,
    interrupts: Vec<(IntId, Trigger)>,
}

/// Returns frames `first..first + count`.
fn frames(first: Mfn, count: u32) -> Option<Frames> {
    let start = first.raw();
    let end = start.checked_add(count)?;
    (count > 0).then_some(Frames { start, end })
}

impl DeviceAccess {
    /// Lets the domain have device memory.
    ///
    /// # Errors
    /// `EINVAL` for no frames or a wrapped range; `ENOMEM`; nothing changed.
    pub fn permit_memory(&mut self, first: Mfn, count: u32) -> Result<(), Errno> {
        let mut new = frames(first, count).ok_or(Errno::Inval)?;
        self.memory.try_reserve(1).map_err(|_| Errno::NoMem)?;
        // Those that it touches become one with it.
        let from = self.memory.partition_point(|old| old.end < new.start);
        let to = self.memory.partition_point(|old| old.start <= new.end);
        if let Some(touching) = self.memory.get(from..to)
            && let (Some(first), Some(last)) = (touching.first(), touching.last())
        {
            new.start = new.start.min(first.start);
            new.end = new.end.max(last.end);
        }
        self.memory.drain(from..to);
        self.memory.insert(from, new);
        Ok(())
    }

    /// Does not let the domain have device memory any more. What is mapped stays mapped, as in Xen.
    ///
    /// # Errors
    /// `EINVAL` for no frames or a wrapped range; `ENOMEM`; nothing changed.
    pub fn deny_memory(&mut self, first: Mfn, count: u32) -> Result<(), Errno> {
        let gone = frames(first, count).ok_or(Errno::Inval)?;
        self.memory.try_reserve(1).map_err(|_| Errno::NoMem)?;
        let from = self.memory.partition_point(|old| old.end <= gone.start);
        let to = self.memory.partition_point(|old| old.start < gone.end);
        let Some(cut) = self.memory.get(from..to) else {
            return Ok(());
        };
        let before = cut.first().map_or(gone.start, |first| first.start);
        let behind = cut.last().map_or(gone.end, |last| last.end);
        self.memory.drain(from..to);
        let rest = [
            Frames {
                start: gone.end,
                end: behind,
            },
            Frames {
                start: before,
                end: gone.start,
            },
        ];
        for piece in rest {
            if piece.start < piece.end {
                self.memory.insert(from, piece);
            }
        }
        Ok(())
    }

    /// Returns whether the domain may have all of this device memory.
    pub fn permits_memory(&self, first: Mfn, count: u32) -> bool {
        frames(first, count).is_some_and(|wanted| {
            let after = self.memory.partition_point(|old| old.end < wanted.end);
            let holder = self.memory.get(after);
            holder.is_some_and(|held| held.start <= wanted.start)
        })
    }

    /// Lets the domain have an interrupt, which devices signal as `trigger` says.
    ///
    /// # Errors
    /// `ENOMEM`; nothing changed.
    pub fn permit_interrupt(&mut self, irq: IntId, trigger: Trigger) -> Result<(), Errno> {
        if self.interrupt(irq).is_none() {
            self.interrupts.try_reserve(1).map_err(|_| Errno::NoMem)?;
            self.interrupts.push((irq, trigger));
        }
        Ok(())
    }

    /// Does not let the domain have an interrupt any more. If it is bound it stays so, as in Xen.
    pub fn deny_interrupt(&mut self, irq: IntId) {
        self.interrupts.retain(|&(other, _)| other != irq);
    }

    /// Returns how an interrupt that the domain may have is signalled.
    pub fn interrupt(&self, irq: IntId) -> Option<Trigger> {
        let mut found = self.interrupts.iter();
        found
            .find(|&&(other, _)| other == irq)
            .map(|&(_, trigger)| trigger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::tests::Rng;

    /// Against a set of single frames.
    #[test]
    fn memory_is_a_set_of_frames() {
        let mut rng = Rng::new(21);
        for _ in 0..if cfg!(miri) { 4 } else { 300 } {
            let mut access = DeviceAccess::default();
            let mut model = [false; 64];
            for _ in 0..20 {
                let (permit, first, count) = (rng.below(2) == 0, rng.below(40), 1 + rng.below(12));
                let changed = if permit {
                    access.permit_memory(Mfn::new(first), count)
                } else {
                    access.deny_memory(Mfn::new(first), count)
                };
                assert_eq!(changed, Ok(()));
                model[first as usize..(first + count) as usize].fill(permit);
                for first in 0..60 {
                    for count in 1..4 {
                        let all = model[first..first + count].iter().all(|&is_in| is_in);
                        let permits = access.permits_memory(Mfn::new(first as u32), count as u32);
                        assert_eq!(permits, all);
                    }
                }
                assert!(access.memory.iter().all(|one| one.start < one.end));
                let mut pairs = access.memory.windows(2);
                assert!(pairs.all(|pair| pair[0].end < pair[1].start));
            }
        }
    }

    #[test]
    fn the_edges_of_the_address_space() {
        let mut access = DeviceAccess::default();
        let last = Mfn::new(u32::MAX - 1);
        assert_eq!(access.permit_memory(last, 2), Err(Errno::Inval));
        assert_eq!(access.permit_memory(last, 0), Err(Errno::Inval));
        assert_eq!(access.permit_memory(last, 1), Ok(()));
        assert!(access.permits_memory(last, 1));
        assert!(!access.permits_memory(last, 0) && !access.permits_memory(last, 2));
        assert_eq!(access.deny_memory(Mfn::new(0), u32::MAX), Ok(()));
        assert!(access.memory.is_empty());
    }

    #[test]
    fn interrupts() {
        let mut access = DeviceAccess::default();
        let irq = IntId::new(34);
        assert_eq!(access.interrupt(irq), None);
        access.permit_interrupt(irq, Trigger::Edge).unwrap();
        access.permit_interrupt(irq, Trigger::Level).unwrap();
        assert_eq!(access.interrupt(irq), Some(Trigger::Edge));
        access.deny_interrupt(irq);
        assert_eq!(access.interrupt(irq), None);
    }
}
