//! The table of domains, and the numbers that name their address spaces.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::hypercall::DOMID_FIRST_RESERVED;

use super::Domain;
use crate::addr::DomId;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::sync::SpinLock;

/// The domains that exist, by number.
pub struct DomainTable<H: Hal> {
    domains: SpinLock<Vec<Arc<Domain<H>>>>,
    numbers: SpinLock<Numbers>,
    /// Out of the table, but not yet out of everybody's hands. Their numbers are not free.
    retired: SpinLock<Vec<Arc<Domain<H>>>>,
}

/// Numbers that are spoken for while their domains are made.
#[derive(Default)]
struct Numbers {
    taken: Vec<DomId>,
    /// The last that was given.
    last: u16,
}

/// A number for a domain that is being made: free again when this is dropped.
pub struct Reserved<'a, H: Hal> {
    table: &'a DomainTable<H>,
    id: DomId,
}

impl<H: Hal> Reserved<'_, H> {
    /// Returns the number.
    pub fn id(&self) -> DomId {
        self.id
    }
}

impl<H: Hal> Drop for Reserved<'_, H> {
    fn drop(&mut self) {
        self.table.free_number(self.id);
    }
}

impl<H: Hal> Default for DomainTable<H> {
    fn default() -> Self {
        Self {
            domains: SpinLock::new(Vec::new()),
            numbers: SpinLock::default(),
            retired: SpinLock::new(Vec::new()),
        }
    }
}

impl<H: Hal> DomainTable<H> {
    /// Sets a number aside for a new domain: `wanted`, or the next free one after the last that was given.
    ///
    /// # Errors
    /// `EEXIST`: `wanted` is taken; `ENOMEM`, also when no number is free, as in Xen.
    pub fn reserve(&self, wanted: Option<DomId>) -> Result<Reserved<'_, H>, Errno> {
        let mut numbers = self.numbers.lock();
        numbers.taken.try_reserve(1).map_err(|_| Errno::NoMem)?;
        let is_free =
            |numbers: &Numbers, id: DomId| !numbers.taken.contains(&id) && self.get(id).is_none();
        let id = match wanted {
            Some(id) if is_free(&numbers, id) => id,
            Some(_) => return Err(Errno::Exist),
            None => {
                let id = (1..DOMID_FIRST_RESERVED)
                    // From the last on, round to it.
                    .map(|step| (numbers.last + step - 1) % (DOMID_FIRST_RESERVED - 1) + 1)
                    .map(DomId::new)
                    .find(|id| is_free(&numbers, *id))
                    .ok_or(Errno::NoMem)?;
                numbers.last = id.raw();
                id
            }
        };
        numbers.taken.push(id);
        Ok(Reserved { table: self, id })
    }

    /// Makes a number free for another domain.
    pub fn free_number(&self, id: DomId) {
        self.numbers.lock().taken.retain(|taken| *taken != id);
    }

    /// Takes a domain out. Its number is not free until [`Self::free_number`]. There is room for both: see
    /// [`Self::add`].
    pub fn retire(&self, domain: Arc<Domain<H>>) {
        let mut numbers = self.numbers.lock();
        let mut domains = self.domains.lock();
        let found = domains.iter().position(|other| Arc::ptr_eq(other, &domain));
        // Somebody else may have come first.
        let Some(at) = found else { return };
        domains.remove(at);
        numbers.taken.push(domain.facts.id);
        drop(domains);
        drop(numbers);
        self.retired.lock().push(domain);
    }

    /// Returns a domain of [`Self::retire`] that nobody has in hand.
    pub fn take_retired(&self) -> Option<Domain<H>> {
        let mut retired = self.retired.lock();
        let at = retired
            .iter()
            .position(|domain| Arc::strong_count(domain) == 1)?;
        let domain = retired.swap_remove(at);
        drop(retired);
        // Nobody can come by another reference.
        Arc::into_inner(domain)
    }

    /// Returns whether somebody has a domain of [`Self::retire`] in hand.
    pub fn has_retired(&self) -> bool {
        !self.retired.lock().is_empty()
    }

    /// Adds a domain.
    ///
    /// # Errors
    /// `EEXIST` when the number is taken, `ENOMEM`.
    pub fn add(&self, domain: Arc<Domain<H>>) -> Result<(), Errno> {
        let mut numbers = self.numbers.lock();
        let mut domains = self.domains.lock();
        // Room for its end, which must not fail.
        let room = domains.len() + 1;
        numbers.taken.try_reserve(room).map_err(|_| Errno::NoMem)?;
        self.retired
            .lock()
            .try_reserve(room)
            .map_err(|_| Errno::NoMem)?;
        match domains.binary_search_by_key(&domain.facts.id, |d| d.facts.id) {
            Ok(_) => Err(Errno::Exist),
            Err(at) => {
                domains.try_reserve(1).map_err(|_| Errno::NoMem)?;
                domains.insert(at, domain);
                Ok(())
            }
        }
    }

    /// Returns the domain with this number.
    #[inline(never)]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain<H>>> {
        let domains = self.domains.lock();
        let at = domains.binary_search_by_key(&id, |d| d.facts.id).ok()?;
        domains.get(at).cloned()
    }

    /// Goes through the domains, by number. The table is locked for each step only: a domain that is added meanwhile is
    /// met if its number is higher.
    pub fn all(&self) -> impl Iterator<Item = Arc<Domain<H>>> + '_ {
        self.from(DomId::DOM0)
    }

    /// As [`Self::all`], from a number on.
    pub fn from(&self, first: DomId) -> impl Iterator<Item = Arc<Domain<H>>> + '_ {
        let mut next = Some(first);
        core::iter::from_fn(move || {
            let domain = self.first_from(next?)?;
            next = domain.facts.id.raw().checked_add(1).map(DomId::new);
            Some(domain)
        })
    }

    #[inline(never)]
    fn first_from(&self, id: DomId) -> Option<Arc<Domain<H>>> {
        let domains = self.domains.lock();
        let at = domains.partition_point(|domain| domain.facts.id < id);
        domains.get(at).cloned()
    }
}

/// VMIDs in use. 0 is never a domain's: VTTBR is 0 where none is live.
#[derive(Debug)]
pub struct Vmids(Vec<AtomicU64>);

impl Vmids {
    /// Makes those of `bits` bits, 6 to 16, all free. At boot: it aborts without memory.
    pub fn new(bits: u32) -> Self {
        let mut words = Vec::new();
        words.resize_with(1 << bits.clamp(6, 16).saturating_sub(6), || {
            AtomicU64::new(0)
        });
        if let Some(first) = words.first() {
            first.store(1, Ordering::Relaxed);
        }
        Self(words)
    }

    /// Takes one, which no TLB has entries of; `None` when all are taken. The highest 64 first, so that all their bits are
    /// in use wherever there are more than 8.
    pub fn take(&self) -> Option<u16> {
        let words = self.0.iter().zip((0u16..=u16::MAX).step_by(64));
        words.rev().find_map(|(word, base)| {
            let before = word
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                    (word != u64::MAX).then(|| word | (word + 1))
                })
                .ok()?;
            Some(base + before.trailing_ones() as u16)
        })
    }

    /// Gives one back. The caller has flushed its entries from all TLBs.
    pub fn give_back(&self, vmid: u16) {
        if let Some(word) = self.0.get(usize::from(vmid / 64)) {
            word.fetch_and(!(1 << (vmid % 64)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vmid_is_given_once() {
        for bits in [6, 8, 16] {
            let vmids = Vmids::new(bits);
            let count = 1u32 << bits;
            let mut given: Vec<_> = core::iter::from_fn(|| vmids.take()).collect();
            assert_eq!(given.len() as u32, count - 1);
            assert!(u32::from(given[0]) >= count - 64);
            given.sort_unstable();
            assert!((1..count).eq(given.iter().map(|vmid| u32::from(*vmid))));
            vmids.give_back(17);
            assert_eq!((vmids.take(), vmids.take()), (Some(17), None));
        }
    }
}
