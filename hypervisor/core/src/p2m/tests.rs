//! Tests of the p2m: the rules one by one, and two domains doing random things over one machine, after which every
//! reference and every page must be accounted for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;
use crate::frames::tests::{Rng, storage};
use crate::frames::{AllocRequest, Contents, FrameAllocator};
use crate::stage2::tests::FakeTables;
use crate::stage2::{MapError, Table};

/// A small machine: RAM with a frame table, and tables apart from it.
struct Machine {
    tables: FakeTables,
    frames: FrameTable<Box<[AtomicU64]>>,
    heap: FrameAllocator,
    accounts: HashMap<DomId, Arc<PageAccount>>,
    /// RAM allocations until one fails.
    fail_in: Option<u32>,
    /// The flush epoch at the last removal that mattered, to see frames freed too early.
    freed: Vec<Mfn>,
}

const RAM_START: u32 = 0x40000;
const RAM_PAGES: u32 = 8192;

impl Machine {
    fn new() -> Self {
        let banks = [(Mfn::new(RAM_START), RAM_PAGES)];
        let frames = FrameTable::new(&banks, storage(RAM_PAGES as usize)).unwrap();
        let mut heap = FrameAllocator::new();
        heap.add(&frames, banks[0].0, RAM_PAGES, Contents::Clean)
            .unwrap();
        Self {
            tables: FakeTables::new(),
            frames,
            heap,
            accounts: HashMap::new(),
            fail_in: None,
            freed: Vec::new(),
        }
    }

    fn domain(&mut self, id: DomId, is_direct_mapped: bool, limit: u32) -> P2m {
        let account = Arc::new(PageAccount::new(limit));
        self.accounts.insert(id, account.clone());
        P2m::new(self, Geometry::ARMV7, id, is_direct_mapped, account).unwrap()
    }

    fn shared_page(&mut self, with: DomId) -> Mfn {
        let mfn = self
            .heap
            .alloc(&self.frames, &AllocRequest::new(0, Owner::Xen))
            .unwrap()
            .mfn;
        self.frames.share(mfn, with).unwrap();
        mfn
    }

    /// The hypervisor drops its own reference to a shared page.
    fn drop_shared(&mut self, mfn: Mfn) {
        if let Put::Last { is_xenheap, .. } = self.frames.put(mfn) {
            assert!(is_xenheap);
            self.free_frame(mfn);
        }
    }

    fn end(&mut self, mut p2m: P2m) {
        let mut calls = 0;
        while p2m.relinquish(self, 64) == Relinquish::More {
            calls += 1;
            assert!(calls < 20_000, "the end of a domain does not end");
        }
        assert!(p2m.destroy(self).is_ok());
    }

    fn assert_empty(&self) {
        assert_eq!(self.heap.free_frames(), RAM_PAGES, "frames leaked");
        assert_eq!(self.tables.live(), 0, "tables leaked");
        for (id, account) in &self.accounts {
            assert_eq!(account.pages(), 0, "{id}");
        }
    }
}

impl TableMemory for Machine {
    fn alloc_table(&mut self, is_aside: bool) -> Option<Mfn> {
        self.tables.alloc_table(is_aside)
    }
    fn free_table(&mut self, table: Mfn, is_aside: bool) {
        self.tables.free_table(table, is_aside);
    }
    fn set_aside(&mut self, pages: u32) -> bool {
        self.tables.set_aside(pages)
    }
    fn end_aside(&mut self, pages: u32) {
        self.tables.end_aside(pages);
    }
    fn alloc_root(&mut self, order: u8) -> Option<Mfn> {
        self.tables.alloc_root(order)
    }
    fn free_root(&mut self, root: Mfn, order: u8) {
        self.tables.free_root(root, order);
    }
    fn with_table<R>(&self, table: Mfn, body: impl FnOnce(&Table) -> R) -> R {
        self.tables.with_table(table, body)
    }
    fn publish(&self, entries: &[AtomicU64]) {
        self.tables.publish(entries);
    }
    fn flush(&mut self) {
        self.tables.flush();
    }
}

impl P2mMemory for Machine {
    type Storage = Box<[AtomicU64]>;
    fn frames(&self) -> &FrameTable<Self::Storage> {
        &self.frames
    }
    fn alloc_ram(&mut self, order: u32, owner: DomId, _account: &PageAccount) -> Option<Mfn> {
        match &mut self.fail_in {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        let request = AllocRequest::new(order, Owner::Domain(owner));
        self.heap
            .alloc(&self.frames, &request)
            .ok()
            .map(|allocation| allocation.mfn)
    }
    fn free_frame(&mut self, mfn: Mfn) {
        self.freed.push(mfn);
        self.heap
            .free(&self.frames, mfn, 0, Contents::Dirty)
            .unwrap();
    }
    fn free_frames(&mut self, first: Mfn, pages: u32) {
        for frame in first.raw()..first.raw() + pages {
            self.free_frame(Mfn::new(frame));
        }
    }
    fn undo_alloc_ram(&mut self, mfn: Mfn, order: u32) {
        self.heap
            .undo(&self.frames, mfn, order, Contents::Clean)
            .unwrap();
    }
    fn free_other(&mut self, mfn: Mfn, owner: DomId, _is_xenheap: bool) {
        self.accounts[&owner].sub(1);
        self.free_frame(mfn);
    }
}

const DOM0: DomId = DomId::DOM0;
const DOM1: DomId = DomId::new(1);

fn gfn(raw: u32) -> Gfn {
    Gfn::new(raw)
}

fn ty_of(machine: &Machine, p2m: &P2m, at: u32) -> Option<PageType> {
    p2m.lookup(machine, gfn(at)).map(|mapping| mapping.ty)
}

#[test]
fn populate_and_decrease_keep_the_account() {
    let mut machine = Machine::new();
    let mut p2m = machine.domain(DOM1, false, 520);
    let mfn = p2m.populate(&mut machine, gfn(0x40000), 9).unwrap();
    assert_eq!(p2m.lookup(&machine, gfn(0x40000)).unwrap().order, 9);
    assert_eq!(p2m.account().pages(), 512);
    assert_eq!(
        p2m.populate(&mut machine, gfn(0x50000), 4),
        Err(Errno::NoMem)
    );
    assert_eq!(
        p2m.populate(&mut machine, gfn(0x50000), 19),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.populate(&mut machine, gfn(0x50000), u32::MAX),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.populate(&mut machine, gfn(0x0fff_ffff), 1),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.populate(&mut machine, gfn(u32::MAX), 0),
        Err(Errno::Inval)
    );
    p2m.populate(&mut machine, gfn(0x50000), 3).unwrap();
    assert_eq!(p2m.maximum_gpfn(), gfn(0x50007));
    // A page out of the block; it is freed after the flush only.
    p2m.decrease(&mut machine, gfn(0x40005), 0).unwrap();
    assert!(machine.freed.is_empty());
    assert_eq!(p2m.account().pages(), 520);
    p2m.sync(&mut machine);
    assert_eq!(machine.freed, [Mfn::new(mfn.raw() + 5)]);
    assert_eq!(p2m.account().pages(), 519);
    assert_eq!(
        p2m.decrease(&mut machine, gfn(0x40005), 0),
        Err(Errno::Inval)
    );
    // One hole in the extent: all or nothing.
    assert_eq!(
        p2m.decrease(&mut machine, gfn(0x40000), 9),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.decrease(&mut machine, gfn(0x0fff_fff0), 18),
        Err(Errno::Inval)
    );
    assert_eq!(ty_of(&machine, &p2m, 0x40006), Some(PageType::RamRw));
    machine.end(p2m);
    machine.assert_empty();
}

#[test]
fn a_direct_mapped_domain_keeps_its_frames() {
    let mut machine = Machine::new();
    machine
        .heap
        .claim(
            &machine.frames,
            Mfn::new(RAM_START),
            2048,
            Owner::Domain(DOM0),
        )
        .unwrap();
    let mut p2m = machine.domain(DOM0, true, u32::MAX);
    p2m.add_ram(&mut machine, gfn(RAM_START), Mfn::new(RAM_START), 2048)
        .unwrap();
    p2m.decrease(&mut machine, gfn(RAM_START + 3), 0).unwrap();
    p2m.sync(&mut machine);
    assert_eq!(ty_of(&machine, &p2m, RAM_START + 3), None);
    assert_eq!((p2m.account().pages(), machine.freed.len()), (2048, 0));
    assert_eq!(
        p2m.populate(&mut machine, gfn(RAM_START + 3), 0),
        Ok(Mfn::new(RAM_START + 3))
    );
    // Frames of others, or none at all.
    assert_eq!(
        p2m.populate(&mut machine, gfn(RAM_START + 2048), 0),
        Err(Errno::Inval)
    );
    assert_eq!(p2m.populate(&mut machine, gfn(5), 0), Err(Errno::Inval));
    // shared_info over its RAM and away again: the hole can be filled.
    let page = machine.shared_page(DOM0);
    p2m.add_xenheap(&mut machine, gfn(RAM_START + 9), page, WhenMapped::Busy)
        .unwrap();
    assert_eq!(
        ty_of(&machine, &p2m, RAM_START + 9),
        Some(PageType::Xenheap)
    );
    p2m.remove(&mut machine, gfn(RAM_START + 9)).unwrap();
    assert_eq!(
        p2m.remove(&mut machine, gfn(RAM_START + 9)),
        Err(Errno::NoEnt)
    );
    assert_eq!(
        p2m.populate(&mut machine, gfn(RAM_START + 9), 0),
        Ok(Mfn::new(RAM_START + 9))
    );
    machine.drop_shared(page);
    machine.end(p2m);
    machine.assert_empty();
}

#[test]
fn shared_pages_are_mapped_once() {
    let mut machine = Machine::new();
    let mut p2m = machine.domain(DOM1, false, 100);
    let (info, grant) = (machine.shared_page(DOM1), machine.shared_page(DOM1));
    let others = machine.shared_page(DOM0);
    p2m.populate(&mut machine, gfn(0), 3).unwrap();
    assert_eq!(
        p2m.add_xenheap(&mut machine, gfn(8), others, WhenMapped::Move),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.add_xenheap(&mut machine, gfn(8), Mfn::new(3), WhenMapped::Move),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.add_xenheap(&mut machine, gfn(1 << 28), info, WhenMapped::Busy),
        Err(Errno::Inval)
    );
    assert_eq!(machine.frames.references(info), 1);
    // Over RAM, which goes.
    p2m.add_xenheap(&mut machine, gfn(2), info, WhenMapped::Busy)
        .unwrap();
    assert_eq!((machine.freed.len(), p2m.account().pages()), (1, 7));
    assert_eq!(
        p2m.add_xenheap(&mut machine, gfn(9), info, WhenMapped::Busy),
        Err(Errno::Busy)
    );
    assert_eq!(
        p2m.add_xenheap(&mut machine, gfn(2), info, WhenMapped::Busy),
        Err(Errno::Busy)
    );
    p2m.remove(&mut machine, gfn(2)).unwrap();
    p2m.add_xenheap(&mut machine, gfn(9), info, WhenMapped::Busy)
        .unwrap();
    assert_eq!(machine.frames.references(info), 2);
    // A grant frame moves, also onto itself and over the other page.
    p2m.add_xenheap(&mut machine, gfn(20), grant, WhenMapped::Move)
        .unwrap();
    p2m.add_xenheap(&mut machine, gfn(20), grant, WhenMapped::Move)
        .unwrap();
    p2m.add_xenheap(&mut machine, gfn(9), grant, WhenMapped::Move)
        .unwrap();
    assert_eq!(ty_of(&machine, &p2m, 20), None);
    assert_eq!(
        (
            machine.frames.references(info),
            machine.frames.references(grant)
        ),
        (1, 2)
    );
    assert_eq!(machine.frames.xenheap_gfn(info), None);
    // decrease unmaps it and does not give it up; it can be mapped again at once.
    p2m.decrease(&mut machine, gfn(9), 0).unwrap();
    p2m.add_xenheap(&mut machine, gfn(9), grant, WhenMapped::Move)
        .unwrap();
    assert_eq!(ty_of(&machine, &p2m, 9), Some(PageType::Xenheap));
    assert_eq!(machine.frames.references(grant), 2);
    // No RAM: not for grants, foreign mappings or vcpu_info.
    assert_eq!(
        p2m.get_page(&machine, gfn(9), Access::ReadOnly),
        Err(Errno::Inval)
    );
    machine.end(p2m);
    for page in [info, grant, others] {
        assert_eq!(machine.frames.references(page), 1);
        machine.drop_shared(page);
    }
    machine.assert_empty();
}

/// XSA-473 and its like: a page stays while a foreign mapping shows it, and is its owner's charge until it is gone.
#[test]
fn xsa_473_foreign_mappings_hold_the_page() {
    let mut machine = Machine::new();
    let mut dom0 = machine.domain(DOM0, false, 100);
    let mut dom1 = machine.domain(DOM1, false, 4);
    let mfn = dom1.populate(&mut machine, gfn(0x10), 2).unwrap();
    let page = dom1
        .get_page(&machine, gfn(0x11), Access::ReadWrite)
        .unwrap();
    assert_eq!(page.raw(), mfn.raw() + 1);
    dom0.map_foreign(&mut machine, gfn(0x500), page, Access::ReadWrite)
        .unwrap();
    // A foreign page cannot be passed on, given up or populated away.
    assert_eq!(
        dom0.get_page(&machine, gfn(0x500), Access::ReadOnly),
        Err(Errno::Inval)
    );
    assert_eq!(
        dom0.decrease(&mut machine, gfn(0x500), 0),
        Err(Errno::Inval)
    );
    dom1.decrease(&mut machine, gfn(0x11), 0).unwrap();
    dom1.sync(&mut machine);
    assert!(machine.freed.is_empty());
    assert_eq!(dom1.account().pages(), 4);
    assert_eq!(dom1.populate(&mut machine, gfn(0x11), 0), Err(Errno::NoMem));
    // The owner dies; the page is its last charge.
    machine.end(dom1);
    assert_eq!(machine.accounts[&DOM1].pages(), 1);
    assert_eq!(machine.frames.owner(page), Some(Owner::Domain(DOM1)));
    dom0.remove(&mut machine, gfn(0x500)).unwrap();
    assert_eq!(machine.accounts[&DOM1].pages(), 0);
    machine.end(dom0);
    machine.assert_empty();
}

/// XSA-222: an unmap that does not fit changes nothing.
#[test]
fn xsa_222_grants_are_unmapped_only_where_they_are() {
    let mut machine = Machine::new();
    let mut p2m = machine.domain(DOM1, false, 100);
    let (mfn, other) = (Mfn::new(RAM_START + 700), Mfn::new(RAM_START + 701));
    p2m.populate(&mut machine, gfn(0), 0).unwrap();
    p2m.map_grant(&mut machine, gfn(5), mfn, Access::ReadOnly)
        .unwrap();
    assert_eq!(
        p2m.unmap_grant(&mut machine, gfn(5), other),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.unmap_grant(&mut machine, gfn(0), mfn),
        Err(Errno::Inval)
    );
    assert_eq!(
        p2m.unmap_grant(&mut machine, gfn(u32::MAX), mfn),
        Err(Errno::Inval)
    );
    assert_eq!(p2m.remove(&mut machine, gfn(5)), Err(Errno::Inval));
    assert_eq!(
        p2m.get_accessible(&machine, gfn(5), Access::ReadWrite),
        Err(Errno::Fault)
    );
    assert_eq!(p2m.unmap_grant(&mut machine, gfn(5), mfn), Ok(()));
    assert_eq!(
        p2m.unmap_grant(&mut machine, gfn(5), mfn),
        Err(Errno::Inval)
    );
    machine.end(p2m);
    machine.assert_empty();
}

#[test]
fn devices_are_mapped_and_unmapped_as_such() {
    let mut machine = Machine::new();
    let mut p2m = machine.domain(DOM1, false, 100);
    let device = PageType::MmioDirectC;
    assert_eq!(
        p2m.map_mmio(&mut machine, gfn(0), Mfn::new(0), 4, PageType::RamRw),
        Err(Errno::Inval)
    );
    p2m.map_mmio(&mut machine, gfn(0), Mfn::new(0), 0x9000, device)
        .unwrap();
    p2m.populate(&mut machine, gfn(0x9000), 0).unwrap();
    assert_eq!(
        p2m.unmap_mmio(&mut machine, gfn(0x8fff), 2),
        Err(Errno::Inval)
    );
    assert_eq!(p2m.remove(&mut machine, gfn(0)), Err(Errno::Inval));
    assert_eq!(
        p2m.get_accessible(&machine, gfn(0), Access::ReadOnly),
        Err(Errno::Fault)
    );
    assert_eq!(p2m.unmap_mmio(&mut machine, gfn(0), 0x9000), Ok(()));
    machine.end(p2m);
    machine.assert_empty();
}

/// XSA-301: a page at the top of the address space does not make the end of the domain fail or take for ever; nor
/// (XSA-410) does a domain with all kinds of mappings take long in one call.
#[test]
fn xsa_301_410_the_end_is_bounded() {
    let mut machine = Machine::new();
    let mut p2m = machine.domain(DOM1, false, 5000);
    for at in [0, 1 << 18, (1 << 28) - 1] {
        p2m.populate(&mut machine, gfn(at), 0).unwrap();
    }
    p2m.populate(&mut machine, gfn(0x80000), 11).unwrap();
    // Owned, but without an address.
    p2m.populate(&mut machine, gfn(0x9000), 2).unwrap();
    p2m.remove(&mut machine, gfn(0x9002)).unwrap();
    let mut worst = 0;
    loop {
        let before = machine.freed.len();
        let state = p2m.relinquish(&mut machine, 64);
        worst = worst.max(machine.freed.len() - before);
        if state == Relinquish::Done {
            break;
        }
        assert_eq!(p2m.populate(&mut machine, gfn(0), 0), Err(Errno::Inval));
    }
    assert!(worst <= 128, "{worst} pages in one call");
    assert!(p2m.destroy(&mut machine).is_ok());
    machine.assert_empty();
}

#[test]
fn a_living_domain_is_not_destroyed() {
    let mut machine = Machine::new();
    let mut p2m = machine.domain(DOM1, false, 5000);
    p2m.populate(&mut machine, gfn(0), 0).unwrap();
    let p2m = p2m.destroy(&mut machine).unwrap_err();
    machine.end(p2m);
    machine.assert_empty();
}

/// Two domains do random things; a map of what each gfn shows and the counts of all frames must agree.
fn random_operations(seed: u64, steps: u32) {
    let mut rng = Rng::new(seed);
    let mut machine = Machine::new();
    let ids = [DOM0, DOM1];
    let mut domains = [
        machine.domain(DOM0, false, 3000),
        machine.domain(DOM1, false, 2000),
    ];
    let shared: Vec<Vec<Mfn>> = ids
        .iter()
        .map(|id| (0..3).map(|_| machine.shared_page(*id)).collect())
        .collect();
    let mut shown: [BTreeMap<u32, (Mfn, PageType)>; 2] = [BTreeMap::new(), BTreeMap::new()];
    // RAM that the domain holds, mapped or not.
    let mut owned: [BTreeSet<Mfn>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..steps {
        let who = rng.below(2) as usize;
        let at = rng.below(40) + [0, 500, (1 << 18) - 20, (1 << 28) - 40][rng.below(4) as usize];
        machine.tables.fail_in = (rng.below(4) == 0).then(|| rng.below(3));
        machine.fail_in = (rng.below(8) == 0).then_some(0);
        let old = shown[who].get(&at).copied();
        let p2m = &mut domains[who];
        // What a new page at this gfn displaces.
        let displace = |owned: &mut [BTreeSet<Mfn>; 2]| {
            if let Some((mfn, ty)) = old
                && ty.is_ram()
            {
                owned[who].remove(&mfn);
            }
        };
        match rng.below(8) {
            0..=1 => {
                let order = [0, 0, 1, 3, 9][rng.below(5) as usize];
                let at = if order == 9 { at & !511 } else { at };
                if let Ok(mfn) = p2m.populate(&mut machine, gfn(at), order) {
                    for page in 0..1 << order {
                        let mfn = Mfn::new(mfn.raw() + page);
                        shown[who].insert(at + page, (mfn, PageType::RamRw));
                        assert!(owned[who].insert(mfn), "seed {seed}: given twice");
                    }
                }
            }
            2 => {
                let order = rng.below(4);
                let all = (at..at + (1 << order)).map(|page| shown[who].get(&page).copied());
                let is_fine = all
                    .clone()
                    .all(|s| s.is_some_and(|(_, ty)| ty.is_ram() || ty == PageType::Xenheap));
                match p2m.decrease(&mut machine, gfn(at), order) {
                    Ok(()) => {
                        assert!(is_fine, "seed {seed}");
                        for (mfn, _) in all.flatten().collect::<Vec<_>>() {
                            owned[who].remove(&mfn);
                        }
                        shown[who].retain(|page, _| !(at..at + (1 << order)).contains(page));
                    }
                    Err(Errno::Inval) => assert!(!is_fine, "seed {seed}"),
                    Err(error) => assert_eq!(error, Errno::NoMem, "seed {seed}"),
                }
            }
            3 => {
                let mfn = shared[who][rng.below(3) as usize];
                let before = shown[who]
                    .iter()
                    .find(|(_, (m, _))| *m == mfn)
                    .map(|(at, _)| *at);
                if p2m
                    .add_xenheap(&mut machine, gfn(at), mfn, WhenMapped::Move)
                    .is_ok()
                    && before != Some(at)
                {
                    displace(&mut owned);
                    before.map(|before| shown[who].remove(&before));
                    shown[who].insert(at, (mfn, PageType::Xenheap));
                }
            }
            4 => {
                let is_fine = old.is_some_and(|(_, ty)| !ty.is_grant() && !ty.is_mmio());
                match p2m.remove(&mut machine, gfn(at)) {
                    Ok(()) => assert!(is_fine && shown[who].remove(&at).is_some(), "seed {seed}"),
                    Err(Errno::NoMem) => {}
                    Err(_) => assert!(!is_fine, "seed {seed}"),
                }
            }
            5..=6 => {
                let from = rng.below(40) + [0, 500][rng.below(2) as usize];
                let access = [Access::ReadOnly, Access::ReadWrite][rng.below(2) as usize];
                let [dom0, dom1] = &mut domains;
                let (p2m, other) = if who == 0 { (dom0, dom1) } else { (dom1, dom0) };
                let is_ram = shown[1 - who].get(&from).is_some_and(|(_, ty)| ty.is_ram());
                let page = other.get_page(&machine, gfn(from), access);
                assert_eq!(page.is_ok(), is_ram, "seed {seed}");
                let Ok(page) = page else { continue };
                if p2m.map_foreign(&mut machine, gfn(at), page, access).is_ok() {
                    displace(&mut owned);
                    let ty = match access {
                        Access::ReadOnly => PageType::ForeignRo,
                        Access::ReadWrite => PageType::ForeignRw,
                    };
                    shown[who].insert(at, (page, ty));
                }
            }
            _ => {
                if rng.below(2) == 0 {
                    domains[who].sync(&mut machine);
                    continue;
                }
                let device = Mfn::new(0x0200_0000 + at % 4096);
                let result =
                    p2m.map_mmio(&mut machine, gfn(at), device, 1, PageType::MmioDirectDev);
                if result.is_ok() {
                    displace(&mut owned);
                    shown[who].insert(at, (device, PageType::MmioDirectDev));
                }
            }
        }
        for near in at.saturating_sub(2)..at + 10 {
            for who in 0..2 {
                let found = domains[who]
                    .lookup(&machine, gfn(near))
                    .map(|m| (m.mfn, m.ty));
                assert_eq!(
                    found,
                    shown[who].get(&near).copied(),
                    "seed {seed} d{who} {near:#x}"
                );
            }
        }
    }
    machine.tables.fail_in = None;
    domains.iter_mut().for_each(|p2m| p2m.sync(&mut machine));
    // Each frame has the references that its mappings and its owner account for.
    let mut expected = BTreeMap::<Mfn, u32>::new();
    for who in 0..2 {
        let foreign = shown[who]
            .values()
            .filter(|(_, ty)| ty.is_counted())
            .map(|(mfn, _)| *mfn);
        for mfn in foreign
            .chain(owned[who].iter().copied())
            .chain(shared[who].iter().copied())
        {
            *expected.entry(mfn).or_default() += 1;
        }
    }
    for mfn in (RAM_START..RAM_START + RAM_PAGES).map(Mfn::new) {
        let found = machine.frames.references(mfn);
        assert_eq!(
            found,
            expected.get(&mfn).copied().unwrap_or(0),
            "seed {seed} {mfn:#x}"
        );
    }
    for who in 0..2 {
        let mine = |mfn: &&Mfn| machine.frames.owner(**mfn) == Some(Owner::Domain(ids[who]));
        let charged = expected.keys().filter(mine).count() - shared[who].len();
        assert_eq!(
            domains[who].account().pages() as usize,
            charged,
            "seed {seed} d{who}"
        );
    }
    let [dom0, dom1] = domains;
    machine.end(dom1);
    machine.end(dom0);
    shared
        .into_iter()
        .flatten()
        .for_each(|page| machine.drop_shared(page));
    machine.assert_empty();
}

#[test]
fn random_operations_of_two_domains_add_up() {
    let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (12, 500) };
    for seed in 1..=seeds {
        random_operations(seed, steps);
    }
}

#[test]
fn map_errors_become_errnos() {
    assert_eq!(Errno::from(MapError::OutOfTables), Errno::NoMem);
    assert_eq!(Errno::from(MapError::OutOfRange), Errno::Inval);
}
