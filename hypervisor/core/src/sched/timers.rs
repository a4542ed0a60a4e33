//! The deadlines that one pCPU watches for vCPUs that left it to wait: a binary heap that knows where each unit is in it.

use alloc::vec::Vec;

use super::UnitId;
use crate::errno::Errno;

/// Not in the heap.
const ABSENT: u16 = u16::MAX;

/// Deadlines by unit, in ticks; the earliest first.
#[derive(Debug, Default)]
pub struct TimerQueue {
    heap: Vec<(u64, UnitId)>,
    /// Where each unit is in the heap.
    places: Vec<u16>,
}

impl TimerQueue {
    /// Makes room for units up to `unit`, so that [`Self::set`] allocates nothing.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&mut self, unit: UnitId) -> Result<(), Errno> {
        let count = unit.index() + 1;
        if count > self.places.len() {
            self.places
                .try_reserve(count - self.places.len())
                .map_err(|_| Errno::NoMem)?;
            self.heap
                .try_reserve(count - self.heap.len())
                .map_err(|_| Errno::NoMem)?;
            self.places.resize(count, ABSENT);
        }
        Ok(())
    }

    /// Returns the earliest deadline; `u64::MAX` when there is none.
    #[inline]
    pub fn next(&self) -> u64 {
        self.heap.first().map_or(u64::MAX, |&(at, _)| at)
    }

    /// Sets the deadline of a unit. Returns false when no room was made for it.
    pub fn set(&mut self, unit: UnitId, at: u64) -> bool {
        match self.places.get(unit.index()) {
            None => return false,
            Some(&ABSENT) => {
                let place = self.heap.len();
                // Room was made: this never allocates.
                self.heap.push((at, unit));
                self.rise(place);
            }
            Some(&place) => {
                let place = usize::from(place);
                if let Some(entry) = self.heap.get_mut(place) {
                    entry.0 = at;
                }
                self.rise(place);
                self.sink(place);
            }
        }
        true
    }

    /// Takes out the earliest unit if its deadline is not after `now`.
    pub fn pop(&mut self, now: u64) -> Option<UnitId> {
        let &(at, unit) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.heap.swap_remove(0);
        self.note(unit, ABSENT);
        self.sink(0);
        Some(unit)
    }

    fn note(&mut self, unit: UnitId, place: u16) {
        if let Some(slot) = self.places.get_mut(unit.index()) {
            *slot = place;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
    }

    /// Moves the entry at `place` towards the front as far as it belongs, and notes where it ends.
    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            let (Some(&(at, _)), Some(&(above, displaced))) =
                (self.heap.get(place), self.heap.get(parent))
            else {
                return;
            };
            if above <= at {
                break;
            }
            self.swap(place, parent);
            self.note(displaced, place as u16);
            place = parent;
        }
        if let Some(&(_, unit)) = self.heap.get(place) {
            self.note(unit, place as u16);
        }
    }

    /// Moves the entry at `place` towards the back as far as it belongs, and notes where it ends.
    fn sink(&mut self, mut place: usize) {
        while let Some(&(at, _)) = self.heap.get(place) {
            let left = 2 * place + 1;
            let Some(&(first, _)) = self.heap.get(left) else {
                break;
            };
            let child = match self.heap.get(left + 1) {
                Some(&(second, _)) if second < first => left + 1,
                _ => left,
            };
            match self.heap.get(child) {
                Some(&(below, displaced)) if below < at => {
                    self.swap(place, child);
                    self.note(displaced, place as u16);
                    place = child;
                }
                _ => break,
            }
        }
        if let Some(&(_, unit)) = self.heap.get(place) {
            self.note(unit, place as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TimerQueue;
    use crate::sched::UnitId;

    #[test]
    fn no_room_is_no_timer() {
        let mut queue = TimerQueue::default();
        assert!(!queue.set(UnitId::new(0), 1));
        assert_eq!(queue.next(), u64::MAX);
        assert_eq!(queue.pop(u64::MAX), None);
    }

    #[test]
    fn behaves_as_a_sorted_map() {
        let mut queue = TimerQueue::default();
        let units = 40u16;
        queue.reserve(UnitId::new(units - 1)).unwrap();
        let room = queue.heap.capacity();
        let mut model = std::collections::BTreeMap::new();
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..20_000 {
            if random(3) > 0 {
                let (unit, at) = (UnitId::new(random(units.into()) as u16), random(1000));
                queue.set(unit, at);
                model.insert(unit, at);
            } else {
                let now = random(1000);
                match queue.pop(now) {
                    None => assert!(model.values().all(|&at| at > now)),
                    Some(unit) => {
                        let at = model.remove(&unit).expect("was set");
                        assert!(at <= now && model.values().all(|&other| other >= at));
                    }
                }
            }
            let next = model.values().min().copied().unwrap_or(u64::MAX);
            assert_eq!(queue.next(), next);
            for (place, &(_, unit)) in queue.heap.iter().enumerate() {
                assert_eq!(usize::from(queue.places[unit.index()]), place);
            }
        }
        assert_eq!(queue.heap.capacity(), room, "no allocation after reserve");
    }
}
