//! What must hold of a machine between any two hypercalls.
//!
//! Each reference of each frame is accounted for: the owner's own, one for each foreign or xenheap mapping, one for each
//! page that the hypervisor shares, one for each grant in use. So a reference too many (a leak) and one too few (a page
//! that is freed in use) are found at once, not when the frame is used again. The same holds of frames that are set aside
//! for claims and pools of tables.

use std::collections::HashMap;
use std::sync::Arc;

use super::{FakeHal, Hv, RAM, World};
use crate::addr::{DomId, Gfn, Mfn};
use crate::domain::{Domain, Stage};
use crate::evtchn::{Port, PortState};
use crate::frames::Owner;
use crate::gnttab::{self, table::inspect::Use};
use crate::hal::Hal;
use crate::stage2::{Mapping, PageType};

impl World {
    /// Checks everything.
    ///
    /// # Panics
    /// Something does not hold.
    pub fn check(&self) {
        self.hv.check();
    }

    /// Ends all domains and checks that nothing is left.
    ///
    /// # Panics
    /// Something is left, or the end does not come.
    pub fn end(self) {
        let Self {
            hv,
            dom0,
            dom1,
            dom2,
            ..
        } = self;
        drop((dom0, dom1, dom2));
        hv.end();
    }
}

impl Hv {
    /// Checks everything. Nobody else holds a domain that is gone.
    ///
    /// # Panics
    /// Something does not hold.
    pub fn check(&self) {
        let mut references = References::default();
        for domain in self.domains.all() {
            domain.assert_unlocked();
            self.check_memory(&domain, &mut references);
            self.check_grants(&domain, &mut references);
            self.check_events(&domain);
        }
        for (&mfn, &count) in self.hal.mappings.lock().unwrap().iter() {
            references.add(Mfn::new(mfn), count, "a shared page");
        }
        self.check_frames(&references);
        self.check_accounts();
        self.check_pools();
    }

    /// Checks that each pCPU is in one pool or in none, and each domain in a pool with pCPUs.
    fn check_pools(&self) {
        let stage = |domain: Arc<Domain<FakeHal>>| (domain.facts.id, domain.stage());
        let known: Vec<_> = self.domains.all().map(stage).collect();
        self.scheduler.with(|pools, _, _| {
            let (mut cpus, mut domains) = (pools.free(), 0);
            let mut next = Some(0);
            while let Some(pool) = next.and_then(|id| pools.info(id)) {
                let twice = cpus.and(&pool.cpus);
                assert!(twice.is_empty(), "{pool:?}: its pCPUs are elsewhere, too");
                assert!(pool.domains == 0 || !pool.cpus.is_empty(), "{pool:?}");
                cpus = cpus.or(&pool.cpus);
                domains += pool.domains as usize;
                next = pool.id.checked_add(1);
            }
            assert_eq!(cpus, self.hal.cpus(), "pCPUs are lost");
            for &(id, stage) in &known {
                // One that ends leaves its pool on the way.
                let is_somewhere = pools.pool_of(id).is_some();
                assert!(is_somewhere || stage != Stage::Alive, "{id}: in no pool");
                domains -= usize::from(is_somewhere);
            }
            assert_eq!(domains, 0, "pools have domains that are not there");
        });
    }

    /// Checks that accounts count the frames that the domains own.
    fn check_accounts(&self) {
        let frames = RAM..RAM + self.frames.total_frames();
        for domain in self.domains.all() {
            let id = domain.facts.id;
            let owned = frames.clone().map(Mfn::new).filter(|&mfn| {
                self.frames.owner(mfn) == Some(Owner::Domain(id))
                    && !self.frames.is_xenheap_of(mfn, id)
            });
            assert_eq!(owned.count() as u32, domain.account.pages(), "{id}");
        }
    }

    /// Checks what a domain's physical address space shows.
    fn check_memory(&self, domain: &Domain<FakeHal>, references: &mut References) {
        let id = domain.facts.id;
        let frames = &self.frames;
        let mut ram = HashMap::new();
        for (gfn, mapping) in self.mappings(domain) {
            let mfn = mapping.mfn;
            let place = || format!("{id}: {gfn:x} shows {mapping:x?}");
            if !mapping.ty.is_mmio() {
                assert!(frames.references(mfn) != 0, "{} which is free", place());
            }
            match mapping.ty {
                PageType::RamRw | PageType::RamRo => {
                    assert!(frames.is_ram_of(mfn, id), "{}, not its RAM", place());
                    let other = ram.insert(mfn, gfn);
                    assert_eq!(other, None, "{} as elsewhere", place());
                }
                PageType::ForeignRw | PageType::ForeignRo => {
                    let owner = frames.owner(mfn);
                    assert_ne!(owner, Some(Owner::Xen), "{}", place());
                    references.add(mfn, 1, "a foreign mapping");
                }
                PageType::Xenheap => {
                    assert!(frames.is_xenheap_of(mfn, id), "{}", place());
                    assert_eq!(frames.xenheap_gfn(mfn), Some(gfn), "{}", place());
                    references.add(mfn, 1, "a mapping of xenheap");
                }
                PageType::GrantRw | PageType::GrantRo => {
                    let access = domain.maptrack.lock().reach(mfn);
                    let access = access.unwrap_or_else(|| panic!("{} without a grant", place()));
                    assert!(
                        access == gnttab::Access::Write || !mapping.ty.is_writable(),
                        "{}, may only read",
                        place()
                    );
                }
                PageType::MmioDirectDev | PageType::MmioDirectNc | PageType::MmioDirectC => {
                    assert!(!frames.is_ram(mfn), "{}", place());
                }
            }
        }
        let p2m = domain.p2m.lock();
        assert!(!p2m.stage2().needs_sync(), "{id}: TLBs are not flushed");
        references.tables += p2m.stage2().table_pages() + 2;
        references.aside += p2m.stage2().pages_aside() + domain.account.claimed();
    }

    /// Checks that uses and mappings of a domain's grants agree.
    fn check_grants(&self, domain: &Domain<FakeHal>, references: &mut References) {
        let id = domain.facts.id;
        let grants = domain.grants.lock();
        let uses = grants.uses();
        assert_eq!(grants.pinned() as usize, uses.len(), "{id}: pinned entries");
        let (frames, status) = (grants.size().frames, grants.status_count());
        match grants.version() {
            1 => assert_eq!(status, 0, "{id}: status words of version 1"),
            // Where growing failed for memory, status words without entries stay.
            _ => {
                let per_status = xen_abi::grant_table::STATUS_PER_PAGE;
                let entries = frames * xen_abi::grant_table::GRANTS_PER_PAGE_V2;
                assert!(
                    status >= entries.div_ceil(per_status) as usize,
                    "{id}: no status"
                );
                assert!(
                    status <= grants.max_status_frames() as usize,
                    "{id}: {status}"
                );
            }
        }
        drop(grants);
        let mut mapped: HashMap<(u32, DomId), (u32, u32)> = HashMap::new();
        for mapper in self.domains.all() {
            for (granter, reference, _, access) in mapper.maptrack.lock().mappings() {
                if granter == id {
                    let counts = mapped.entry((reference, mapper.facts.id)).or_default();
                    match access {
                        gnttab::Access::Read => counts.0 += 1,
                        gnttab::Access::Write => counts.1 += 1,
                    }
                }
            }
        }
        for found in &uses {
            let Use {
                mfn,
                reference,
                user,
                ..
            } = *found;
            let counts = mapped.remove(&(reference, user)).unwrap_or_default();
            assert_eq!(counts, found.counts, "{id}: {found:x?}");
            // A copy through another's grant ends within its call.
            let mfn = mfn.unwrap_or_else(|| panic!("{id}: leads to another: {found:x?}"));
            references.add(mfn, 1, "a grant");
            let owner = self.frames.owner(mfn);
            assert_eq!(owner, Some(Owner::Domain(id)), "{id}: {found:x?}");
        }
        assert!(mapped.is_empty(), "{id}: mapped, not in use: {mapped:?}");
    }

    /// Checks that both ends of a channel know each other.
    fn check_events(&self, domain: &Domain<FakeHal>) {
        let id = domain.facts.id;
        let events = domain.events.lock();
        let states: Vec<_> = (0..)
            .map_while(|port| events.status(Port::new(port)).ok())
            .collect();
        drop(events);
        for (status, port) in states.iter().zip(0..) {
            assert!(domain.vcpu(status.vcpu).is_some(), "{id}: port {port}");
            if let PortState::Interdomain { domain, port: peer } = status.state {
                let remote = self.domains.get(domain);
                let remote = remote.unwrap_or_else(|| panic!("{id}: port {port}: {status:?}"));
                let back = remote.events.lock().status(peer).map(|status| status.state);
                let expected = PortState::Interdomain {
                    domain: id,
                    port: Port::new(port),
                };
                assert_eq!(
                    back,
                    Ok(expected),
                    "{id}: port {port} and {domain}'s {peer:?}"
                );
            }
        }
    }

    fn check_frames(&self, references: &References) {
        let frames = &self.frames;
        let (mut used, mut xen) = (0, 0);
        for mfn in (RAM..RAM + self.frames.total_frames()).map(Mfn::new) {
            let (expected, why) = references.of(mfn);
            let own = match frames.owner(mfn) {
                None => 0,
                Some(Owner::Xen) => {
                    xen += 1;
                    1
                }
                Some(Owner::Domain(id)) => u32::from(frames.is_ram_of(mfn, id)),
            };
            let found = frames.references(mfn);
            used += u32::from(found != 0);
            assert_eq!(found, expected + own, "{mfn:x}: {own} its owner's, {why:?}");
        }
        assert_eq!(xen, references.tables, "frames that are no tables");
        let allocator = self.allocator.lock();
        let (free, aside) = (allocator.free_frames(), allocator.frames_aside());
        assert_eq!(used + free, frames.total_frames(), "frames are lost");
        assert_eq!(aside, references.aside, "frames set aside");
        assert!(aside <= free, "more is set aside than there is");
    }

    /// Ends all domains, dom0 last. Nobody else holds one.
    ///
    /// # Panics
    /// Something is left, or the end does not come.
    pub fn end(&self) {
        let mut ids: Vec<_> = self.domains.all().map(|domain| domain.facts.id).collect();
        ids.reverse();
        for id in ids {
            let domain = self.domains.get(id).expect("it is in the table");
            for step in 0.. {
                assert!(step < 100_000, "{id}: no end");
                if self.destroy_domain(&domain, &|| true).is_ok() {
                    break;
                }
                self.check();
            }
            drop(domain);
            self.ask_reap();
            self.reap();
            self.check();
        }
        let left: Vec<_> = self.domains.all().map(|domain| domain.facts.id).collect();
        assert!(left.is_empty(), "still there: {left:?}");
        let allocator = self.allocator.lock();
        let free = allocator.free_frames();
        assert_eq!(free, self.frames.total_frames(), "frames are lost");
        assert_eq!(allocator.frames_aside(), 0, "frames are set aside");
        let mapped = self.hal.mapped.load(core::sync::atomic::Ordering::SeqCst);
        assert_eq!(mapped, 0, "shared pages are mapped");
    }

    /// Returns all mappings of a domain.
    fn mappings(&self, domain: &Domain<FakeHal>) -> Vec<(Gfn, Mapping)> {
        let memory = self.hal.p2m_memory(domain.vttbr);
        let p2m = domain.p2m.lock();
        let mut found = Vec::new();
        let mut at = Some(Gfn::new(0));
        while let Some((gfn, mapping, run)) =
            at.and_then(|at| p2m.stage2().next_mapping(&memory, at, u64::MAX))
        {
            found.extend((0..run).map(|n| {
                let mfn = Mfn::new(mapping.mfn.raw() + n);
                (Gfn::new(gfn.raw() + n), Mapping { mfn, ..mapping })
            }));
            at = gfn.checked_add(run);
        }
        found
    }
}

/// Who refers to which frame.
#[derive(Default)]
struct References {
    /// By frame from [`RAM`] on.
    counts: Vec<(u32, Vec<&'static str>)>,
    /// Frames of tables.
    tables: u32,
    /// Free frames that are set aside: claims, and tables to come.
    aside: u32,
}

impl References {
    fn add(&mut self, mfn: Mfn, count: u32, why: &'static str) {
        if count != 0 {
            let index = mfn.raw().checked_sub(RAM).expect("a frame of RAM") as usize;
            if self.counts.len() <= index {
                self.counts.resize(index + 1, (0, Vec::new()));
            }
            self.counts[index].0 += count;
            self.counts[index].1.push(why);
        }
    }

    fn of(&self, mfn: Mfn) -> (u32, &[&'static str]) {
        let found = self.counts.get((mfn.raw() - RAM) as usize);
        found.map_or((0, &[]), |(count, why)| (*count, why))
    }
}
