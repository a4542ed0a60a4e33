//! The ring of one pCPU.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Event, Record, Section, Subject, TraceMask};
use crate::addr::CpuId;
use crate::errno::Errno;

/// The largest ring, in records (24 MiB).
const MAX_RECORDS: usize = 1 << 20;

/// The last records of one pCPU, which alone writes and reads them.
///
/// Records have numbers, from 0 on. The ring keeps the last of them, as many as it has room for.
pub struct TraceRing {
    records: Box<[Record]>,
    /// How many fit: the largest power of two within the memory, or 0.
    capacity: usize,
    /// The number of the next record.
    next: u64,
    cpu: u16,
}

impl TraceRing {
    /// Creates the ring of `cpu` in memory of the caller's; the part beyond a power of two is not used.
    pub fn new(cpu: CpuId, records: Box<[Record]>) -> Self {
        Self {
            capacity: records.len().checked_ilog2().map_or(0, |log| 1 << log),
            records,
            next: 0,
            cpu: cpu.index() as u16,
        }
    }

    /// Creates the ring of `cpu` in the heap, for `count` records, rounded up to a power of two.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for more than 2^20 records.
    pub fn allocate(cpu: CpuId, count: usize) -> Result<Self, Errno> {
        if count > MAX_RECORDS {
            return Err(Errno::Inval);
        }
        let count = count.next_power_of_two();
        let mut records = Vec::new();
        records.try_reserve_exact(count).map_err(|_| Errno::NoMem)?;
        records.resize(count, Record::default());
        Ok(Self::new(cpu, records.into_boxed_slice()))
    }

    /// Writes an event if its class is on. The clock is read only then.
    #[inline(always)]
    pub fn record(
        &mut self,
        mask: &TraceMask,
        clock: impl FnOnce() -> u64,
        event: Event,
        subject: Subject,
        arguments: [u32; 2],
    ) {
        if mask.is_on(event) {
            self.write(clock(), event, subject, arguments);
        }
    }

    /// Writes an event at `time`, whatever the mask says. Out of line: there are many callers, and most runs trace nothing.
    #[inline(never)]
    pub fn write(&mut self, time: u64, event: Event, subject: Subject, arguments: [u32; 2]) {
        let at = self.position(self.next);
        // Without memory there is no position 0.
        if let Some(record) = self.records.get_mut(at) {
            *record = Record {
                time,
                code: event as u16,
                cpu: self.cpu,
                domain: subject.domain,
                vcpu: subject.vcpu,
                arguments,
            };
            // 64 bits do not overflow; the addition needs no check.
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Returns where record `number` stands, if it is kept.
    #[inline(always)]
    fn position(&self, number: u64) -> usize {
        // Only the low bits count, so the number may be cut.
        number as usize & self.capacity.wrapping_sub(1)
    }

    /// Returns the pCPU.
    pub fn cpu(&self) -> CpuId {
        CpuId::new(self.cpu)
    }

    /// Returns the number of the oldest record kept: as many have been lost.
    pub fn first(&self) -> u64 {
        self.next.saturating_sub(self.capacity as u64)
    }

    /// Returns the number that the next record gets: as many have been written.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the record with this number, if it is kept.
    pub fn get(&self, number: u64) -> Option<&Record> {
        (self.first()..self.next)
            .contains(&number)
            .then(|| self.records.get(self.position(number)))?
    }

    /// Returns the records kept, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        (self.first()..self.next).filter_map(|number| self.get(number))
    }

    /// Returns what stands before the records in a dump.
    pub fn section(&self) -> Section {
        Section {
            cpu: self.cpu,
            reserved: 0,
            count: (self.next - self.first()) as u32,
            first: self.first(),
            reserved2: 0,
        }
    }

    /// Forgets all records, and how many were lost.
    pub fn clear(&mut self) {
        self.next = 0;
    }
}
