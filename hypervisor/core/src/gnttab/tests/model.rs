//! Random operations of three domains against a model that keeps plain lists. Domain 0 is direct-mapped.

use std::collections::BTreeMap;

use super::*;

const DOMAINS: u16 = 3;
const REFERENCES: u32 = 24;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: u32) -> u32 {
        (self.next() >> 20) as u32 % limit
    }
    fn domain(&mut self) -> u16 {
        self.below(u32::from(DOMAINS)) as u16
    }
    /// Mostly in the table, sometimes beyond.
    fn reference(&mut self) -> u32 {
        match self.below(30) {
            0 => 512 + self.below(1024),
            1 => u32::MAX - self.below(2),
            _ => self.below(REFERENCES),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct ModelMapping {
    mapper: u16,
    handle: u32,
    granter: u16,
    reference: u32,
    at: u32,
    frame: u32,
    access: Access,
}

struct World {
    guests: Vec<Allocator>,
    tables: FakeTables,
    maptracks: Vec<Maptrack>,
    memory: FakeMemory,
    mappings: Vec<ModelMapping>,
    /// Flags and domain of the entries, as the guests wrote them and the rules mark them.
    words: BTreeMap<(u16, u32), u32>,
    frames: Vec<u32>,
    stage2: BTreeMap<(u16, u32), u32>,
}

impl World {
    fn new() -> Self {
        let mut guests: Vec<Allocator> = (0..DOMAINS).map(|_| Allocator::default()).collect();
        let mut tables = BTreeMap::new();
        let mut memory = FakeMemory::default();
        let limits = Limits {
            max_frames: 3,
            max_version: 1,
        };
        for domain in 0..DOMAINS {
            let guest = &mut guests[usize::from(domain)];
            tables.insert(
                domain,
                GrantTable::new(dom(domain), limits, &mut || guest.take())
                    .ok()
                    .unwrap(),
            );
            for page in 0..6 {
                let frame = u32::from(domain) * 0x100 + page;
                let at = if domain == 0 { frame } else { page };
                memory.add(domain, at, frame, page != 5);
            }
        }
        let view = |domain| {
            if domain == 0 {
                DeviceView::Identity
            } else {
                DeviceView::Translated
            }
        };
        Self {
            guests,
            tables: FakeTables {
                tables,
                denied: None,
            },
            maptracks: (0..DOMAINS)
                .map(|domain| Maptrack::new(dom(domain), 1, view(domain)))
                .collect(),
            memory,
            mappings: Vec::new(),
            words: BTreeMap::new(),
            frames: vec![1; usize::from(DOMAINS)],
            stage2: BTreeMap::new(),
        }
    }

    fn users(&self, granter: u16, reference: u32) -> impl Iterator<Item = &ModelMapping> {
        self.mappings
            .iter()
            .filter(move |m| m.granter == granter && m.reference == reference)
    }

    /// The frame a new use gets, by the rules.
    fn expect_use(
        &self,
        granter: u16,
        reference: u32,
        user: u16,
        access: Access,
    ) -> Result<u32, GrantError> {
        if reference >= self.frames[usize::from(granter)] * 512 {
            return Err(GrantError::BadRef);
        }
        let word = *self.words.get(&(granter, reference)).unwrap_or(&0);
        let grants = word & 3 == 1
            && word >> 16 == u32::from(user)
            && (access == Access::Read || word & u32::from(abi::GTF_READONLY) == 0);
        if let Some(first) = self.users(granter, reference).next() {
            if first.mapper != user {
                return Err(GrantError::General);
            }
            let writes = self
                .users(granter, reference)
                .any(|m| m.access == Access::Write);
            if access == Access::Write && !writes {
                let writable = self
                    .memory
                    .ram
                    .values()
                    .any(|page| page.mfn.raw() == first.frame && page.writable);
                if !grants || !writable {
                    return Err(GrantError::General);
                }
            }
            return Ok(first.frame);
        }
        if !grants {
            return Err(GrantError::General);
        }
        let index = reference as usize;
        let at = self.guests[usize::from(granter)].pages[index / 512].words()[index % 512 * 2 + 1]
            .load(Ordering::Relaxed);
        match self.memory.ram.get(&(granter, at)) {
            None => Err(GrantError::BadPage),
            Some(page) if access == Access::Write && !page.writable => Err(GrantError::General),
            Some(page) => Ok(page.mfn.raw()),
        }
    }

    /// Marks the model's word after a use began (`before`: the users until then).
    fn mark(&mut self, granter: u16, reference: u32, access: Access) {
        let pinned = self.users(granter, reference).next().is_some();
        let writes = self
            .users(granter, reference)
            .any(|m| m.access == Access::Write);
        let word = self.words.entry((granter, reference)).or_default();
        if access == Access::Write && !writes {
            *word |= u32::from(READING | WRITING);
        } else if !pinned {
            *word |= u32::from(READING);
        }
    }

    /// Clears marks after a use with `access` ended.
    fn unmark(&mut self, granter: u16, reference: u32, access: Access) {
        let pinned = self.users(granter, reference).next().is_some();
        let writes = self
            .users(granter, reference)
            .any(|m| m.access == Access::Write);
        let word = self.words.entry((granter, reference)).or_default();
        if access == Access::Write && !writes {
            *word &= !u32::from(WRITING);
        }
        if !pinned {
            *word &= !u32::from(READING);
        }
    }

    fn write_entry(&mut self, random: &mut Random) {
        let (granter, reference) = (random.domain(), random.below(REFERENCES));
        let flags = [
            0,
            PERMIT,
            PERMIT,
            PERMIT,
            PERMIT_RO,
            abi::GTF_ACCEPT_TRANSFER,
            abi::GTF_TRANSITIVE,
        ][random.below(7) as usize];
        let user = random.domain();
        let at = if granter == 0 {
            random.below(8)
        } else {
            random.below(7)
        };
        self.guests[usize::from(granter)].write(reference, flags, user, at);
        self.words.insert(
            (granter, reference),
            u32::from(user) << 16 | u32::from(flags),
        );
    }

    fn map(&mut self, random: &mut Random) {
        let (granter, mapper, reference) = (random.domain(), random.domain(), random.reference());
        let at = 0x1000 + random.below(16);
        let (flags, access) = if random.below(2) == 0 {
            (RO, Access::Read)
        } else {
            (RW, Access::Write)
        };
        let mut expected = self.expect_use(granter, reference, mapper, access);
        if self.maptracks[usize::from(mapper)].in_use() == MAPTRACK_PER_FRAME {
            expected = Err(GrantError::NoSpace);
        }
        let request = MapRequest {
            reference,
            host_addr: gfn(at).address(),
            flags,
        };
        let table = self.tables.tables.get_mut(&granter).unwrap();
        let result = map_grant_ref(
            &request,
            table,
            &mut self.maptracks[usize::from(mapper)],
            &mut self.memory,
        );
        assert_eq!(
            result.map(|mapped| mapped.dev_bus_addr.raw() >> 12),
            expected.map(u64::from)
        );
        if let (Ok(mapped), Ok(frame)) = (result, expected) {
            self.mark(granter, reference, access);
            let handle = mapped.handle;
            assert!(
                !self
                    .mappings
                    .iter()
                    .any(|m| m.mapper == mapper && m.handle == handle)
            );
            self.mappings.push(ModelMapping {
                mapper,
                handle,
                granter,
                reference,
                at,
                frame,
                access,
            });
            self.stage2.insert((mapper, at), frame);
        }
    }

    fn unmap(&mut self, random: &mut Random) {
        if self.mappings.is_empty() {
            return;
        }
        let index = random.below(u32::try_from(self.mappings.len()).unwrap()) as usize;
        let mapping = self.mappings[index];
        let maptrack = &mut self.maptracks[usize::from(mapping.mapper)];
        assert_eq!(
            maptrack.granter_of(mapping.handle),
            Ok(dom(mapping.granter))
        );
        let table = self.tables.tables.get_mut(&mapping.granter).unwrap();
        let at = if random.below(8) == 0 {
            mapping.at + 1
        } else {
            mapping.at
        };
        let request = UnmapRequest {
            handle: mapping.handle,
            host_addr: gfn(at).address(),
        };
        let result = unmap_grant_ref(&request, table, maptrack, &mut self.memory);
        if at != mapping.at {
            assert_eq!(result, Err(GrantError::General));
            return;
        }
        assert_eq!(result, Ok(()));
        self.mappings.remove(index);
        if self.stage2.get(&(mapping.mapper, mapping.at)) == Some(&mapping.frame) {
            self.stage2.remove(&(mapping.mapper, mapping.at));
        }
        self.unmark(mapping.granter, mapping.reference, mapping.access);
    }

    fn copy(&mut self, random: &mut Random) {
        let caller = random.domain();
        let mut end = || {
            if random.below(3) == 0 {
                let at = random.below(8);
                CopyEnd::Own(gfn(at))
            } else {
                CopyEnd::Grant {
                    granter: dom(random.domain()),
                    reference: random.reference(),
                }
            }
        };
        let (source, dest) = (end(), end());
        let source_offset = random.below(4100) as u16;
        let dest_offset = random.below(4100) as u16;
        let length = random.below(300) as u16;
        let request = CopyRequest {
            source,
            source_offset,
            dest,
            dest_offset,
            length,
        };

        let expect = |world: &Self, end: CopyEnd, access: Access| match end {
            CopyEnd::Grant { granter, reference } => {
                world.expect_use(granter.raw(), reference, caller, access)
            }
            CopyEnd::Own(at) => match world.memory.ram.get(&(caller, at.raw())) {
                None => Err(GrantError::BadPage),
                Some(page) if access == Access::Write && !page.writable => Err(GrantError::General),
                Some(page) => Ok(page.mfn.raw()),
            },
        };
        let (from, to) = (usize::from(source_offset), usize::from(dest_offset));
        let length = usize::from(length);
        let mut bytes = self.memory.bytes.clone();
        let expected = if from + length > PAGE_SIZE || to + length > PAGE_SIZE {
            Err(GrantError::BadCopyArg)
        } else {
            expect(self, source, Access::Read).and_then(|a| {
                let b = expect(self, dest, Access::Write)?;
                let data = bytes[&a][from..from + length].to_vec();
                bytes.get_mut(&b).unwrap()[to..to + length].copy_from_slice(&data);
                Ok(())
            })
        };
        let result = grant_copy(&request, dom(caller), &mut self.tables, &mut self.memory);
        // A grant to the caller used for both ends: the second end joins the first, and may need what it has not; the
        // outcome is the same as for each alone.
        assert_eq!(result, expected, "{request:?} by {caller}");
        assert_eq!(self.memory.bytes, bytes);
        // A hostile overwrite may have taken a mark that the copy set and cleared again around other uses.
        for (end, access) in [(dest, Access::Write), (source, Access::Read)] {
            if let CopyEnd::Grant { granter, reference } = end
                && result.is_ok()
            {
                self.mark(granter.raw(), reference, access);
                self.unmark(granter.raw(), reference, access);
            }
        }
    }

    fn swap(&mut self, random: &mut Random) {
        let (domain, a, b) = (random.domain(), random.reference(), random.reference());
        let size = self.frames[usize::from(domain)] * 512;
        let expected = if a >= size || b >= size {
            Err(GrantError::BadRef)
        } else if a == b {
            Ok(())
        } else if self.users(domain, a).next().is_some() || self.users(domain, b).next().is_some() {
            Err(GrantError::Again)
        } else {
            Ok(())
        };
        assert_eq!(
            self.tables.tables.get_mut(&domain).unwrap().swap(a, b),
            expected
        );
        if expected.is_ok() {
            let word_a = self.words.remove(&(domain, a)).unwrap_or(0);
            let word_b = self.words.remove(&(domain, b)).unwrap_or(0);
            self.words.insert((domain, a), word_b);
            self.words
                .insert((domain, b), if a == b { word_b } else { word_a });
            if a == b {
                self.words.insert((domain, a), word_a);
            }
        }
    }

    fn grow(&mut self, random: &mut Random) {
        let (domain, frames) = (random.domain(), random.below(5));
        let guest = &mut self.guests[usize::from(domain)];
        let table = self.tables.tables.get_mut(&domain).unwrap();
        let result = table.setup_table(frames, &mut || guest.take());
        assert_eq!(result.is_ok(), frames <= 3);
        if result.is_ok() {
            let now = &mut self.frames[usize::from(domain)];
            *now = frames.max(*now);
        }
        assert_eq!(table.size().frames, self.frames[usize::from(domain)]);
    }

    fn check(&self) {
        let mut held = BTreeMap::new();
        let mut entries: Vec<_> = self
            .mappings
            .iter()
            .map(|m| (m.granter, m.reference, m.frame))
            .collect();
        entries.sort_unstable();
        entries.dedup();
        for (_, _, frame) in &entries {
            *held.entry(*frame).or_insert(0) += 1;
        }
        assert_eq!(self.memory.held(), held);
        for (domain, table) in &self.tables.tables {
            let pinned = entries
                .iter()
                .filter(|(granter, ..)| granter == domain)
                .count();
            assert_eq!(usize::try_from(table.pinned()).unwrap(), pinned);
            let mapped = self.mappings.iter().filter(|m| m.mapper == *domain).count();
            assert_eq!(
                usize::try_from(self.maptracks[usize::from(*domain)].in_use()).unwrap(),
                mapped
            );
        }
        for ((granter, reference), word) in &self.words {
            assert_eq!(
                self.guests[usize::from(*granter)].word(*reference),
                *word,
                "d{granter} entry {reference}"
            );
        }
        // Stage 2: the mappings, and for domain 0 each foreign frame at its own number with the most access.
        let mut stage2 = self.stage2.clone();
        let mut identity = BTreeMap::new();
        for mapping in self
            .mappings
            .iter()
            .filter(|m| m.mapper == 0 && m.granter != 0)
        {
            stage2.insert((0, mapping.frame), mapping.frame);
            let writes = identity.entry(mapping.frame).or_insert(false);
            *writes |= mapping.access == Access::Write;
        }
        let real: BTreeMap<_, _> = self
            .memory
            .stage2
            .iter()
            .map(|(key, (frame, _))| (*key, *frame))
            .collect();
        assert_eq!(real, stage2);
        for (frame, writes) in identity {
            assert_eq!(self.memory.stage2[&(0, frame)].1 == Access::Write, writes);
        }
        // No frame is reachable that is not held.
        assert!(real.values().all(|frame| held.contains_key(frame)));
    }
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in 1..=30_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut world = World::new();
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..400 {
                match random.below(20) {
                    0..5 => world.write_entry(&mut random),
                    5..12 => world.map(&mut random),
                    12..16 => world.unmap(&mut random),
                    16..18 => world.copy(&mut random),
                    18 => world.swap(&mut random),
                    _ => world.grow(&mut random),
                }
                world.check();
            }
        }));
        assert!(run.is_ok(), "failed with seed {seed}");
    }
}
