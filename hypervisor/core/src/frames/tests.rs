//! Tests of the frame table and the allocator: examples, and random operations against a list of states.

use super::*;

pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        ((self.next() >> 16) % u64::from(limit)) as u32
    }
}

type Storage = Box<[AtomicU64]>;

pub(crate) fn storage(words: usize) -> Storage {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn table(banks: &[(u32, u32)]) -> FrameTable<Storage> {
    let banks: Vec<_> = banks
        .iter()
        .map(|(start, pages)| (Mfn::new(*start), *pages))
        .collect();
    let words = FrameTable::<Storage>::words_needed(&banks).unwrap();
    FrameTable::new(&banks, storage(words)).unwrap()
}

const D0: Owner = Owner::Domain(DomId::DOM0);
const DOM1: DomId = DomId::new(1);
const D1: Owner = Owner::Domain(DOM1);

fn filled(banks: &[(u32, u32)], contents: Contents) -> (FrameTable<Storage>, FrameAllocator) {
    let table = table(banks);
    let mut heap = FrameAllocator::new();
    for (start, pages) in banks {
        heap.add(&table, Mfn::new(*start), *pages, contents)
            .unwrap();
    }
    (table, heap)
}

#[test]
fn banks_are_checked() {
    let new = |banks: &[(u32, u32)], words| {
        let banks: Vec<_> = banks.iter().map(|(s, p)| (Mfn::new(*s), *p)).collect();
        FrameTable::new(&banks, storage(words)).map(|table| table.total_frames())
    };
    assert_eq!(new(&[(100, 10), (105, 10)], 20), Err(BankError::Overlap));
    assert_eq!(
        new(&[(100, 10), (110, 10)], 19),
        Err(BankError::StorageTooSmall)
    );
    assert_eq!(new(&[(0x0fff_fff0, 0x11)], 100), Err(BankError::TooHigh));
    assert_eq!(new(&[(u32::MAX, u32::MAX)], 100), Err(BankError::TooHigh));
    assert_eq!(new(&[(0x0fff_fff0, 0x10)], 100), Ok(15));
    assert_eq!(new(&[(1, 1); MAX_BANKS + 1], 100), Err(BankError::TooMany));
    assert_eq!(new(&[], 0), Ok(0));
    let banks: Vec<_> = (0..256).rev().map(|i| (i * 4, 2)).collect();
    assert_eq!(new(&banks, 512), Ok(512));
}

#[test]
fn many_banks_find_their_frames() {
    let banks: Vec<_> = (0..if cfg!(miri) { 3u32 } else { 100 })
        .map(|i| (i * 16 + 3, 8))
        .collect();
    let table = table(&banks);
    let mut seen = std::collections::HashSet::new();
    for mfn in 0..if cfg!(miri) { 60 } else { 2000 } {
        let expected = banks
            .iter()
            .any(|(start, pages)| (*start..start + pages).contains(&mfn));
        assert_eq!(table.is_ram(Mfn::new(mfn)), expected, "{mfn}");
        if let Some(slot) = table.slot(mfn) {
            assert!(seen.insert(core::ptr::from_ref(slot)));
        }
    }
    assert!(!table.is_ram(Mfn::new(u32::MAX)));
    assert_eq!(
        table.maximum_frame(),
        banks.last().map(|(start, _)| Mfn::new(start + 7))
    );
}

#[test]
fn references_are_counted_to_the_last() {
    let (table, mut heap) = filled(&[(0x40000, 64)], Contents::Clean);
    let mfn = heap.alloc(&table, &AllocRequest::new(0, D1)).unwrap().mfn;
    assert!(table.is_ram_of(mfn, DOM1));
    assert_eq!(table.get(mfn, D0), Err(GetError::NotOwner));
    assert_eq!(table.get(mfn, D1), Ok(()));
    assert_eq!(table.release(mfn, DomId::DOM0), Err(GetError::NotOwner));
    assert_eq!(table.release(mfn, DOM1), Ok(Put::Kept));
    // The owner gives up only once.
    assert_eq!(table.release(mfn, DOM1), Err(GetError::NotOwner));
    assert_eq!(
        heap.free(&table, mfn, 0, Contents::Dirty),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        table.put(mfn),
        Put::Last {
            owner: D1,
            is_xenheap: false
        }
    );
    // Nobody gets it back from the dead.
    assert_eq!(table.get(mfn, D1), Err(GetError::NotInUse));
    assert_eq!(table.get_any(mfn), Err(GetError::NotInUse));
    assert_eq!(heap.free(&table, mfn, 0, Contents::Dirty), Ok(()));
    assert_eq!(
        heap.free(&table, mfn, 0, Contents::Dirty),
        Err(AllocError::Invalid)
    );
    assert_eq!((heap.free_frames(), heap.dirty_frames()), (64, 1));
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_full_count_refuses() {
    let (table, mut heap) = filled(&[(0, 16)], Contents::Clean);
    let mfn = heap.alloc(&table, &AllocRequest::new(0, D1)).unwrap().mfn;
    for _ in 1..0xffff {
        table.get(mfn, D1).unwrap();
    }
    assert_eq!(table.get(mfn, D1), Err(GetError::Overflow));
    assert_eq!(table.get_any(mfn), Err(GetError::Overflow));
    assert_eq!(table.references(mfn), 0xffff);
    assert_eq!(table.owner(mfn), Some(D1));
}

#[test]
fn reserved_domain_numbers_own_nothing() {
    let (table, mut heap) = filled(&[(0, 16)], Contents::Clean);
    let mfn = heap
        .alloc(&table, &AllocRequest::new(0, Owner::Xen))
        .unwrap()
        .mfn;
    for raw in [
        0x7ff0, 0x7ff1, 0x7ff2, 0x7ff4, 0x7fff, 0x8000, 0xfff2, 0xffff,
    ] {
        let owner = Owner::Domain(DomId::new(raw));
        assert_eq!(table.get(mfn, owner), Err(GetError::NotOwner), "{raw:#x}");
        assert_eq!(
            heap.alloc(&table, &AllocRequest::new(0, owner)),
            Err(AllocError::Invalid)
        );
        assert_eq!(
            heap.claim(&table, Mfn::new(8), 1, owner),
            Err(AllocError::Invalid)
        );
        assert_eq!(table.share(mfn, DomId::new(raw)), Err(GetError::NotOwner));
    }
}

#[test]
fn xenheap_pages_are_shared_and_not_given_up() {
    let (table, mut heap) = filled(&[(0, 16)], Contents::Clean);
    let mfn = heap
        .alloc(&table, &AllocRequest::new(0, Owner::Xen))
        .unwrap()
        .mfn;
    table.share(mfn, DOM1).unwrap();
    assert_eq!(table.share(mfn, DOM1), Err(GetError::NotOwner));
    assert!(table.is_xenheap_of(mfn, DOM1) && !table.is_ram_of(mfn, DOM1));
    assert_eq!(table.release(mfn, DOM1), Err(GetError::NotOwner));
    assert_eq!(
        table.transfer(mfn, DOM1, DomId::DOM0),
        Err(GetError::NotOwner)
    );
    table.set_xenheap_gfn(mfn, Some(Gfn::new(0x38000)));
    assert_eq!(table.xenheap_gfn(mfn), Some(Gfn::new(0x38000)));
    table.get(mfn, D1).unwrap();
    assert_eq!(table.put(mfn), Put::Kept);
    assert_eq!(
        table.put(mfn),
        Put::Last {
            owner: D1,
            is_xenheap: true
        }
    );
}

#[test]
fn transfer_needs_the_only_reference() {
    let (table, mut heap) = filled(&[(0, 16)], Contents::Clean);
    let mfn = heap.alloc(&table, &AllocRequest::new(0, D1)).unwrap().mfn;
    table.get(mfn, D1).unwrap();
    assert_eq!(
        table.transfer(mfn, DOM1, DomId::DOM0),
        Err(GetError::Overflow)
    );
    assert_eq!(table.put(mfn), Put::Kept);
    assert_eq!(table.transfer(mfn, DOM1, DomId::DOM0), Ok(()));
    assert!(table.is_ram_of(mfn, DomId::DOM0));
}

#[test]
fn claims_are_exact_and_all_or_nothing() {
    let (table, mut heap) = filled(&[(3, 1000)], Contents::Dirty);
    let before = heap.free_frames();
    assert_eq!(
        heap.claim(&table, Mfn::new(0), 10, D0),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        heap.claim(&table, Mfn::new(1000), 10, D0),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        heap.claim(&table, Mfn::new(1000), u32::MAX, D0),
        Err(AllocError::Invalid)
    );
    assert_eq!(heap.free_frames(), before);
    assert_eq!(
        heap.claim(&table, Mfn::new(100), 513, D0),
        Ok(Contents::Dirty)
    );
    assert_eq!(heap.free_frames(), before - 513);
    assert!(
        (0..1100).all(|m| table.is_ram_of(Mfn::new(m), DomId::DOM0) == (100..613).contains(&m))
    );
    assert_eq!(
        heap.claim(&table, Mfn::new(90), 11, D0),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        heap.next_free_range(&table, Mfn::new(0)),
        Some((Mfn::new(3), 97))
    );
    assert_eq!(
        heap.next_free_range(&table, Mfn::new(50)),
        Some((Mfn::new(50), 50))
    );
    assert_eq!(
        heap.next_free_range(&table, Mfn::new(100)),
        Some((Mfn::new(613), 390))
    );
    assert_eq!(heap.next_free_range(&table, Mfn::new(1003)), None);
    // Memory of modules: taken at boot, given back later.
    assert_eq!(heap.reserve(&table, Mfn::new(700), 20), Ok(Contents::Dirty));
    assert_eq!(table.get_any(Mfn::new(700)), Err(GetError::NotInUse));
    assert_eq!(
        heap.add(&table, Mfn::new(690), 11, Contents::Dirty),
        Err(AllocError::Invalid)
    );
    assert_eq!(heap.add(&table, Mfn::new(700), 20, Contents::Dirty), Ok(()));
    assert_eq!(
        heap.add(&table, Mfn::new(700), 20, Contents::Dirty),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        heap.next_free_range(&table, Mfn::new(100)),
        Some((Mfn::new(613), 390))
    );
}

#[test]
fn limits_and_orders_are_kept() {
    let (table, mut heap) = filled(&[(0x100, 0x100), (0x10000, 0x400)], Contents::Clean);
    let low = AllocRequest {
        below: Some(Mfn::new(0x200)),
        ..AllocRequest::new(8, D0)
    };
    assert_eq!(heap.alloc(&table, &low).unwrap().mfn, Mfn::new(0x100));
    assert_eq!(heap.alloc(&table, &low), Err(AllocError::OutOfMemory));
    assert_eq!(
        heap.alloc(&table, &AllocRequest::new(11, D0)),
        Err(AllocError::OutOfMemory)
    );
    assert_eq!(
        heap.alloc(&table, &AllocRequest::new(19, D0)),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        heap.alloc(&table, &AllocRequest::new(u32::MAX, D0)),
        Err(AllocError::Invalid)
    );
    assert_eq!(
        heap.alloc(&table, &AllocRequest::new(10, D0)).unwrap().mfn,
        Mfn::new(0x10000)
    );
    assert_eq!(heap.free_frames(), 0);
}

struct Zeroer(u32);
impl FrameZero for Zeroer {
    fn zero(&mut self, _: Mfn) {
        self.0 += 1;
    }
}

/// XSA-100: a frame that a domain gave up is not clean for the next.
#[test]
fn xsa_100_freed_frames_are_dirty_until_scrubbed() {
    let (table, mut heap) = filled(&[(0, 256)], Contents::Dirty);
    let mut zeroer = Zeroer(0);
    heap.scrub_all(&table, &mut zeroer);
    assert_eq!(
        (zeroer.0, heap.dirty_frames(), heap.free_frames()),
        (256, 0, 256)
    );
    let all = heap.alloc(&table, &AllocRequest::new(8, D1)).unwrap();
    assert_eq!(all.contents, Contents::Clean);
    let last = Put::Last {
        owner: D1,
        is_xenheap: false,
    };
    assert_eq!(table.release(Mfn::new(7), DOM1), Ok(last));
    heap.free(&table, Mfn::new(7), 0, Contents::Dirty).unwrap();
    let again = heap.alloc(&table, &AllocRequest::new(0, D0)).unwrap();
    assert_eq!(
        again,
        Allocation {
            mfn: Mfn::new(7),
            contents: Contents::Dirty
        }
    );
    heap.undo(&table, again.mfn, 0, Contents::Dirty).unwrap();
    for mfn in (0..256).filter(|m| *m != 7) {
        assert_eq!(table.release(Mfn::new(mfn), DOM1), Ok(last));
        heap.free(
            &table,
            Mfn::new(mfn),
            0,
            if mfn < 7 {
                Contents::Clean
            } else {
                Contents::Dirty
            },
        )
        .unwrap();
    }
    // Clean and dirty halves are joined when a large block needs them.
    let all = heap.alloc(&table, &AllocRequest::new(8, D1)).unwrap();
    assert_eq!(
        all,
        Allocation {
            mfn: Mfn::new(0),
            contents: Contents::Dirty
        }
    );
}

#[test]
fn owned_frames_are_found_in_steps() {
    let (table, mut heap) = filled(&[(16, 64), (128, 64)], Contents::Clean);
    heap.claim(&table, Mfn::new(150), 1, D1).unwrap();
    assert_eq!(
        table.find_owned(DOM1, Mfn::new(0), 60),
        OwnedSearch::More(Mfn::new(76))
    );
    assert_eq!(
        table.find_owned(DOM1, Mfn::new(76), 60),
        OwnedSearch::Found(Mfn::new(150))
    );
    assert_eq!(table.find_owned(DOM1, Mfn::new(151), 100), OwnedSearch::End);
}

/// Checks every list and entry; returns the free frames.
fn check(
    table: &FrameTable<Storage>,
    heap: &FrameAllocator,
    seed: u64,
) -> std::collections::BTreeSet<u32> {
    let mut free = std::collections::BTreeSet::new();
    let mut heads = 0;
    for class in 0..2 {
        let mut count = 0;
        for order in 0..=MAX_ORDER {
            let (mut mfn, mut previous) = (heap.lists[class][order as usize], NONE);
            assert_eq!(
                mfn != NONE,
                heap.occupied[class] >> order & 1 == 1,
                "seed {seed}"
            );
            while mfn != NONE {
                let head = heap.head(table, mfn).unwrap();
                assert_eq!(
                    (head.order, head.previous, usize::from(head.dirty)),
                    (order, previous, class)
                );
                assert_eq!(mfn % (1 << order), 0, "seed {seed}");
                for frame in mfn..mfn + (1 << order) {
                    assert!(free.insert(frame), "seed {seed}: {frame} twice free");
                    let raw = table.slot(frame).unwrap().load(Ordering::Relaxed);
                    assert!(
                        frame == mfn || raw == 0,
                        "seed {seed}: tail {frame} is {raw:#x}"
                    );
                }
                if let Some(buddy) = heap
                    .head(table, mfn ^ (1 << order))
                    .filter(|_| order < MAX_ORDER)
                {
                    assert!(
                        buddy.order != order || buddy.dirty != head.dirty,
                        "seed {seed}: unmerged"
                    );
                }
                count += 1 << order;
                heads += 1;
                (previous, mfn) = (mfn, head.next);
            }
        }
        assert_eq!(count, heap.free[class], "seed {seed}");
    }
    let entries = table
        .banks()
        .flat_map(|(start, pages)| start.raw()..start.raw() + pages);
    let in_table = entries
        .filter(|mfn| heap.head(table, *mfn).is_some())
        .count();
    assert_eq!(heads, in_table, "seed {seed}: heads outside lists");
    free
}

#[test]
fn random_operations_agree_with_a_map() {
    let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (20, 1500) };
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let banks: &[_] = if cfg!(miri) {
            &[(0x13, 90), (0x81, 20)]
        } else {
            &[(0x13, 700), (0x1000, 0x333), (0x8001, 64)]
        };
        let (table, mut heap) = filled(banks, Contents::Dirty);
        let everything: std::collections::BTreeSet<u32> = check(&table, &heap, seed);
        let mut used = std::collections::BTreeMap::<u32, Owner>::new();
        let mut taken: Vec<ScrubChunk> = Vec::new();
        for _ in 0..steps {
            match rng.below(8) {
                0..=2 => {
                    let owner = [Owner::Xen, D0, D1][rng.below(3) as usize];
                    let order = rng.below(7);
                    let below = (rng.below(4) == 0).then(|| Mfn::new(rng.below(0x9000)));
                    let prefer = [Contents::Clean, Contents::Dirty][rng.below(2) as usize];
                    if let Ok(got) = heap.alloc(
                        &table,
                        &AllocRequest {
                            own: 0,
                            order,
                            owner,
                            below,
                            prefer,
                        },
                    ) {
                        let start = got.mfn.raw();
                        assert_eq!(start % (1 << order), 0);
                        assert!(
                            below.is_none_or(|limit| start + (1 << order) <= limit.raw()),
                            "seed {seed}"
                        );
                        for mfn in start..start + (1 << order) {
                            assert!(
                                everything.contains(&mfn) && used.insert(mfn, owner).is_none(),
                                "seed {seed}"
                            );
                        }
                    }
                }
                3..=4 => {
                    let Some(at) = used
                        .keys()
                        .nth(rng.below(1 + used.len() as u32) as usize)
                        .copied()
                    else {
                        continue;
                    };
                    let owner = used.remove(&at).unwrap();
                    if let Owner::Domain(id) = owner {
                        assert_eq!(
                            table.release(Mfn::new(at), id),
                            Ok(Put::Last {
                                owner,
                                is_xenheap: false
                            })
                        );
                    }
                    let contents = [Contents::Clean, Contents::Dirty][rng.below(2) as usize];
                    heap.free(&table, Mfn::new(at), 0, contents).unwrap();
                }
                5 => {
                    let start = rng.below(if cfg!(miri) { 100 } else { 0x1400 });
                    let pages = 1 + rng.below(80);
                    let free = check(&table, &heap, seed);
                    let fits = (start..start + pages).all(|mfn| free.contains(&mfn));
                    assert_eq!(
                        heap.claim(&table, Mfn::new(start), pages, D1).is_ok(),
                        fits,
                        "seed {seed}"
                    );
                    if fits {
                        used.extend((start..start + pages).map(|mfn| (mfn, D1)));
                    }
                }
                6 => taken.extend(heap.take_dirty(&table, rng.below(6))),
                _ => {
                    if let Some(chunk) = taken.pop() {
                        heap.finish_scrub(&table, chunk);
                    }
                }
            }
        }
        for chunk in taken {
            heap.finish_scrub(&table, chunk);
        }
        let free = check(&table, &heap, seed);
        let expected: std::collections::BTreeSet<u32> = everything
            .iter()
            .copied()
            .filter(|mfn| !used.contains_key(mfn))
            .collect();
        assert_eq!(free, expected, "seed {seed}");
        for (mfn, owner) in used {
            assert_eq!(table.owner(Mfn::new(mfn)), Some(owner), "seed {seed}");
            if let Owner::Domain(id) = owner {
                let _ = table.release(Mfn::new(mfn), id);
            }
            heap.free(&table, Mfn::new(mfn), 0, Contents::Clean)
                .unwrap();
        }
        heap.scrub_all(&table, &mut Zeroer(0));
        assert_eq!(check(&table, &heap, seed), everything);
        assert_eq!(heap.dirty_frames(), 0);
    }
}

#[test]
fn references_from_two_threads_add_up() {
    let (table, mut heap) = filled(&[(0, 16)], Contents::Clean);
    let mfn = heap.alloc(&table, &AllocRequest::new(0, D1)).unwrap().mfn;
    let rounds = if cfg!(miri) { 50 } else { 20_000 };
    let work = || {
        for _ in 0..rounds {
            table.get(mfn, D1).unwrap();
            let _ = table.put(mfn);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    assert_eq!(table.references(mfn), 1);
}

/// Boot gives 1 GiB to the allocator with a handful of writes.
#[test]
#[cfg_attr(miri, ignore)]
fn a_gibibyte_is_added_by_its_heads_alone() {
    let (table, mut heap) = filled(&[(0x40000, 1 << 18)], Contents::Dirty);
    let written = table
        .entries
        .iter()
        .filter(|entry| entry.load(Ordering::Relaxed) != 0)
        .count();
    assert_eq!(written, 1);
    heap.claim(&table, Mfn::new(0x48000), 1 << 17, D0).unwrap();
    assert_eq!(heap.free_frames(), 1 << 17);
    assert_eq!(
        heap.next_free_range(&table, Mfn::new(0)),
        Some((Mfn::new(0x40000), 0x8000))
    );
}
