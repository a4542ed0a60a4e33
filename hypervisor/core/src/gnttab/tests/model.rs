//! Random operations of three domains against a model that keeps plain lists. Domain 0 is direct-mapped; all but domain 1
//! may change to version 2 of the entries, and back.

use std::collections::BTreeMap;

use super::super::entry::{Purpose, Window};
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
    versions: Vec<u32>,
    /// Flags and domain of the entries, as the guests wrote them and, in version 1, the rules mark them.
    words: BTreeMap<(u16, u32), u32>,
    /// Version 2: the marks.
    status: BTreeMap<(u16, u32), u32>,
    /// Version 2: part of the page, or domain; frame, or reference.
    others: BTreeMap<(u16, u32), (u32, u32)>,
    frames: Vec<u32>,
    stage2: BTreeMap<(u16, u32), u32>,
}

impl World {
    fn new() -> Self {
        let mut guests: Vec<Allocator> = (0..DOMAINS).map(|_| Allocator::default()).collect();
        let mut tables = BTreeMap::new();
        let mut memory = FakeMemory::default();
        for domain in 0..DOMAINS {
            let limits = Limits {
                max_frames: 3,
                max_version: if domain == 1 { 1 } else { 2 },
                has_transitive: true,
            };
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
            versions: vec![1; usize::from(DOMAINS)],
            words: BTreeMap::new(),
            status: BTreeMap::new(),
            others: BTreeMap::new(),
            frames: vec![1; usize::from(DOMAINS)],
            stage2: BTreeMap::new(),
        }
    }

    fn users(&self, granter: u16, reference: u32) -> impl Iterator<Item = &ModelMapping> {
        self.mappings
            .iter()
            .filter(move |m| m.granter == granter && m.reference == reference)
    }

    fn version(&self, domain: u16) -> u32 {
        self.versions[usize::from(domain)]
    }

    fn size(&self, domain: u16) -> u32 {
        self.frames[usize::from(domain)] * 512 / self.version(domain)
    }

    fn word(&self, granter: u16, reference: u32) -> u32 {
        *self.words.get(&(granter, reference)).unwrap_or(&0)
    }

    /// The words of an entry where they really are, and its marks.
    fn real(&self, domain: u16, reference: u32) -> ([u32; 4], u32) {
        let table = &self.tables.tables[&domain];
        let read = |mfn: Mfn, word: usize| {
            let pages = &self.guests[usize::from(domain)].pages;
            pages[(mfn.raw() - 0xf000) as usize].words()[word].load(Ordering::Relaxed)
        };
        let index = reference as usize;
        if self.version(domain) == 1 {
            let mfn = table.shared_mfn(index / 512);
            let first = index % 512 * 2;
            return ([read(mfn, first), read(mfn, first + 1), 0, 0], 0);
        }
        let mfn = table.shared_mfn(index / 256);
        let words = std::array::from_fn(|i| read(mfn, index % 256 * 4 + i));
        let mut frames = table.status_frames(index as u32 / 2048 + 1).unwrap();
        let status = read(frames.nth(index / 2048).unwrap(), index % 2048 / 2);
        (words, status >> (index % 2 * 16) & 0xffff)
    }

    fn write(&self, domain: u16, reference: u32, words: &[u32]) {
        let table = &self.tables.tables[&domain];
        let size = 1024 / words.len();
        let index = reference as usize;
        let mfn = table.shared_mfn(index / size);
        let page = &self.guests[usize::from(domain)].pages[(mfn.raw() - 0xf000) as usize];
        for (i, word) in words.iter().enumerate().rev() {
            page.words()[index % size * words.len() + i].store(*word, Ordering::Release);
        }
    }

    /// The frame a new use gets, by the rules, and what of it can be copied.
    fn expect_use(
        &self,
        granter: u16,
        reference: u32,
        user: u16,
        access: Access,
        purpose: Purpose,
    ) -> Result<(u32, Window), GrantError> {
        if reference >= self.size(granter) {
            return Err(GrantError::BadRef);
        }
        let word = self.word(granter, reference);
        let is_two = self.version(granter) == 2;
        let is_type_right = match (word & 3, purpose) {
            (1, Purpose::Map) => word & u32::from(abi::GTF_SUB_PAGE) == 0,
            (1, _) => true,
            (3, Purpose::Copy) => is_two,
            _ => false,
        };
        let grants = is_type_right
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
            return Ok((first.frame, Window::PAGE));
        }
        if !grants {
            return Err(GrantError::General);
        }
        let (first, second) = *self.others.get(&(granter, reference)).unwrap_or(&(0, 0));
        if word & 3 == 3 {
            if first as u16 == granter || first >= u32::from(DOMAINS) {
                return Err(GrantError::General);
            }
            return self.expect_use(first as u16, second, granter, access, Purpose::CopyThrough);
        }
        let window = if is_two && word & u32::from(abi::GTF_SUB_PAGE) != 0 {
            Window {
                start: first as u16,
                length: (first >> 16) as u16,
            }
        } else {
            Window::PAGE
        };
        match self.memory.ram.get(&(granter, second)) {
            None => Err(GrantError::BadPage),
            Some(page) if access == Access::Write && !page.writable => Err(GrantError::General),
            Some(page) => Ok((page.mfn.raw(), window)),
        }
    }

    fn marks(&mut self, granter: u16, reference: u32) -> &mut u32 {
        let marks = match self.version(granter) {
            1 => &mut self.words,
            _ => &mut self.status,
        };
        marks.entry((granter, reference)).or_default()
    }

    /// Marks the model's entry after a use began (`before`: the users until then).
    fn mark(&mut self, granter: u16, reference: u32, access: Access) {
        let pinned = self.users(granter, reference).next().is_some();
        let writes = self
            .users(granter, reference)
            .any(|m| m.access == Access::Write);
        let marks = self.marks(granter, reference);
        if access == Access::Write && !writes {
            *marks |= u32::from(READING | WRITING);
        } else if !pinned {
            *marks |= u32::from(READING);
        }
    }

    /// Clears marks after a use with `access` ended.
    fn unmark(&mut self, granter: u16, reference: u32, access: Access) {
        let pinned = self.users(granter, reference).next().is_some();
        let writes = self
            .users(granter, reference)
            .any(|m| m.access == Access::Write);
        let marks = self.marks(granter, reference);
        if access == Access::Write && !writes {
            *marks &= !u32::from(WRITING);
        }
        if !pinned {
            *marks &= !u32::from(READING);
        }
    }

    /// As [`Self::mark`] and [`Self::unmark`], for a copy and all grants that it went through.
    fn touch(&mut self, granter: u16, reference: u32, access: Access) {
        if self.users(granter, reference).next().is_none()
            && self.word(granter, reference) & 3 == 3
            && self.version(granter) == 2
        {
            let (domain, through) = self.others[&(granter, reference)];
            self.touch(domain as u16, through, access);
        }
        self.mark(granter, reference, access);
        self.unmark(granter, reference, access);
    }

    fn set_version(&mut self, random: &mut Random) {
        const MARKS: u32 = (READING | WRITING) as u32;
        let (domain, wanted) = (random.domain(), 1 + random.below(2));
        let now = self.version(domain);
        let is_used = self
            .mappings
            .iter()
            .any(|m| m.granter == domain && m.reference >= 8);
        let expected = if wanted == 2 && domain == 1 {
            Err(Errno::NoSys)
        } else if wanted != now && is_used {
            Err(Errno::Busy)
        } else {
            Ok(())
        };
        let guest = &mut self.guests[usize::from(domain)];
        let table = self.tables.tables.get_mut(&domain).unwrap();
        let mut unmapped = 0;
        let result = table.set_version(wanted, &mut || guest.take(), &mut |_| {
            unmapped += 1;
            Ok(())
        });
        assert_eq!(result, expected);
        assert_eq!(unmapped, u32::from(result.is_ok() && wanted < now));
        if result.is_err() || wanted == now {
            return;
        }
        let keep = |key: &(u16, u32), word: u32| {
            key.0 != domain
                || key.1 < 8 && word & u32::from(3 | abi::GTF_SUB_PAGE) == u32::from(PERMIT)
        };
        self.words.retain(|key, word| keep(key, *word));
        let words = &self.words;
        self.others
            .retain(|key, _| words.contains_key(key) || key.0 != domain);
        self.status.retain(|key, _| words.contains_key(key));
        for (key, word) in &mut self.words {
            if key.0 != domain {
                continue;
            }
            let marks = self.status.entry(*key).or_default();
            if wanted == 2 {
                *marks = *word & MARKS;
                *word &= !MARKS;
                self.others.entry(*key).and_modify(|other| other.0 = 0);
            } else {
                *word |= *marks;
                *marks = 0;
            }
        }
        self.versions[usize::from(domain)] = wanted;
    }

    fn write_entry(&mut self, random: &mut Random) {
        let (granter, reference) = (random.domain(), random.below(REFERENCES));
        let flags = [
            0,
            PERMIT,
            PERMIT,
            PERMIT,
            PERMIT_RO,
            PERMIT | abi::GTF_SUB_PAGE,
            abi::GTF_ACCEPT_TRANSFER,
            abi::GTF_TRANSITIVE,
            abi::GTF_TRANSITIVE,
        ][random.below(9) as usize];
        let user = random.domain();
        let at = if granter == 0 {
            random.below(8)
        } else {
            random.below(7)
        };
        let word = u32::from(user) << 16 | u32::from(flags);
        let others = if flags & 3 == abi::GTF_TRANSITIVE {
            (random.below(4), random.reference())
        } else {
            (random.below(3000) | random.below(3000) << 16, at)
        };
        if self.version(granter) == 1 {
            self.write(granter, reference, &[word, others.1]);
        } else {
            self.write(granter, reference, &[word, others.0, others.1, 0]);
        }
        self.words.insert((granter, reference), word);
        self.others.insert((granter, reference), others);
    }

    fn map(&mut self, random: &mut Random) {
        let (granter, mapper, reference) = (random.domain(), random.domain(), random.reference());
        let at = 0x1000 + random.below(16);
        let (flags, access) = if random.below(2) == 0 {
            (RO, Access::Read)
        } else {
            (RW, Access::Write)
        };
        let expected = self.expect_use(granter, reference, mapper, access, Purpose::Map);
        let mut expected = expected.map(|(frame, _)| frame);
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
            dev_bus_addr: 0,
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
                world.expect_use(granter.raw(), reference, caller, access, Purpose::Copy)
            }
            CopyEnd::Own(at) => match world.memory.ram.get(&(caller, at.raw())) {
                None => Err(GrantError::BadPage),
                Some(page) if access == Access::Write && !page.writable => Err(GrantError::General),
                Some(page) => Ok((page.mfn.raw(), Window::PAGE)),
            },
        };
        let (from, to) = (usize::from(source_offset), usize::from(dest_offset));
        let length = usize::from(length);
        let mut bytes = self.memory.bytes.clone();
        let mut is_acquired = false;
        let expected = if from + length > PAGE_SIZE || to + length > PAGE_SIZE {
            Err(GrantError::BadCopyArg)
        } else {
            expect(self, source, Access::Read).and_then(|(a, source)| {
                let (b, dest) = expect(self, dest, Access::Write)?;
                is_acquired = true;
                if !source.contains(from, length) || !dest.contains(to, length) {
                    return Err(GrantError::General);
                }
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
                && is_acquired
            {
                self.touch(granter.raw(), reference, access);
            }
        }
    }

    fn swap(&mut self, random: &mut Random) {
        let (domain, a, b) = (random.domain(), random.reference(), random.reference());
        let size = self.size(domain);
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
        if expected.is_ok() && a != b {
            for map in [&mut self.words, &mut self.status] {
                let (old_a, old_b) = (map.remove(&(domain, a)), map.remove(&(domain, b)));
                map.extend(old_a.map(|word| ((domain, b), word)));
                map.extend(old_b.map(|word| ((domain, a), word)));
            }
            let (old_a, old_b) = (
                self.others.remove(&(domain, a)),
                self.others.remove(&(domain, b)),
            );
            self.others.extend(old_a.map(|other| ((domain, b), other)));
            self.others.extend(old_b.map(|other| ((domain, a), other)));
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
            let (words, marks) = self.real(*granter, *reference);
            let status = *self.status.get(&(*granter, *reference)).unwrap_or(&0);
            assert_eq!(
                (words[0], marks),
                (*word, status),
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
    for seed in 1..=if cfg!(miri) { 2 } else { 300_u64 } {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut world = World::new();
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..400 {
                match random.below(50) {
                    0..14 => world.write_entry(&mut random),
                    14..28 => world.map(&mut random),
                    28..38 => world.unmap(&mut random),
                    38..46 => world.copy(&mut random),
                    46 => world.swap(&mut random),
                    47 => world.set_version(&mut random),
                    _ => world.grow(&mut random),
                }
                world.check();
            }
        }));
        assert!(run.is_ok(), "failed with seed {seed}");
    }
}
