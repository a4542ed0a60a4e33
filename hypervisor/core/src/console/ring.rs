//! The ring of the last bytes printed, which `xl dmesg` reads (`XEN_SYSCTL_readconsole`).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::errno::Errno;

/// The smallest and the usual ring.
pub const DEFAULT_RING_BYTES: usize = 16 * 1024;
/// The largest ring that `conring_size=` can ask for.
pub const MAX_RING_BYTES: usize = 16 * 1024 * 1024;

/// Returns the size to use for `conring_size=`: rounded down to a power of two, at least 16 KiB.
pub fn ring_bytes(requested: u64) -> usize {
    let limited = requested.clamp(DEFAULT_RING_BYTES as u64, MAX_RING_BYTES as u64);
    // Between the two limits, so it fits.
    1 << limited.ilog2()
}

/// A ring over its bytes: an array in a static until there is a heap, a box later.
///
/// Bytes have numbers, counted from the first one ever printed, modulo 2^32 as in the public interface. Kept are those
/// from `first` to `next`, never more than the ring has room for.
pub struct ConsoleRing<S> {
    bytes: S,
    pub(super) first: u32,
    pub(super) next: u32,
}

impl<const N: usize> ConsoleRing<[u8; N]> {
    /// Creates an empty ring in place. `N` must be a power of two up to [`MAX_RING_BYTES`].
    pub const fn in_place() -> Self {
        const { assert!(N.is_power_of_two() && N <= MAX_RING_BYTES) };
        Self {
            bytes: [0; N],
            first: 0,
            next: 0,
        }
    }
}

impl ConsoleRing<Box<[u8]>> {
    /// Creates an empty ring in the heap; the size is rounded as [`ring_bytes`] says.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn allocate(size_bytes: u64) -> Result<Self, Errno> {
        let size = ring_bytes(size_bytes);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::NoMem)?;
        bytes.resize(size, 0);
        Ok(Self {
            bytes: bytes.into_boxed_slice(),
            first: 0,
            next: 0,
        })
    }
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> ConsoleRing<S> {
    /// Returns how many bytes the ring can hold.
    pub fn capacity(&self) -> usize {
        self.bytes.as_ref().len()
    }

    fn position(&self, number: u32) -> usize {
        number as usize & self.capacity().wrapping_sub(1)
    }

    fn advance(&mut self, count: usize) {
        // At most the capacity, which is far below 2^32.
        self.next = self.next.wrapping_add(count as u32);
        let capacity = self.capacity() as u32;
        if self.next.wrapping_sub(self.first) > capacity {
            self.first = self.next.wrapping_sub(capacity);
        }
    }

    /// Appends bytes; the oldest ones make room.
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = self.position(self.next);
            let Some(room) = self.bytes.as_mut().get_mut(start..) else {
                return;
            };
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if count == 0 {
                return;
            }
            room.split_at_mut(count).0.copy_from_slice(now);
            self.advance(count);
            bytes = later;
        }
    }

    /// Copies the oldest bytes kept into `out` and returns how many, and the number of the byte after them.
    ///
    /// With `since`, only bytes from that number on (`incremental`): the value that an earlier call returned. The caller
    /// copies to the guest and, if that went well and `clear` was asked, calls [`Self::clear_to`].
    pub fn read(&self, since: Option<u32>, out: &mut [u8]) -> (usize, u32) {
        let mut number = self.first;
        // A number ahead of the oldest byte, but not one that was never printed.
        if let Some(since) = since
            && since.wrapping_sub(number) <= self.next.wrapping_sub(number)
        {
            number = since;
        }
        let count = out.len().min(self.next.wrapping_sub(number) as usize);
        for (offset, to) in out.iter_mut().take(count).enumerate() {
            let position = self.position(number.wrapping_add(offset as u32));
            *to = self.bytes.as_ref().get(position).copied().unwrap_or(0);
        }
        (count, number.wrapping_add(count as u32))
    }

    /// Forgets the bytes before this number (`clear`). Numbers that are not in the ring change nothing.
    pub fn clear_to(&mut self, number: u32) {
        if number.wrapping_sub(self.first) <= self.next.wrapping_sub(self.first) {
            self.first = number;
        }
    }

    /// Takes over what another ring holds, and its numbers: the one in the heap after the one in the static.
    pub fn take_over<T: AsRef<[u8]> + AsMut<[u8]>>(&mut self, old: &ConsoleRing<T>) {
        self.first = old.first;
        self.next = old.first;
        let mut number = old.first;
        let mut chunk = [0; 64];
        loop {
            let (count, next) = old.read(Some(number), &mut chunk);
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                return;
            };
            self.append(bytes);
            number = next;
        }
    }
}
