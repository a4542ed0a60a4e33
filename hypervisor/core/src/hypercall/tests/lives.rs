//! Rng lives: domains are made, get memory, share it, listen to each other, and end at any moment, also while their end
//! is interrupted again and again. Whatever happened, the accounts are right, and when all are gone nothing is left.

use std::sync::atomic::Ordering;

use xen_abi::control::*;
use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::*;
use xen_abi::memory::*;
use xen_abi::vcpu::*;

use super::domctl::{domctl, simple};
use super::life::{create, guest};
use crate::addr::{DomId, Mfn};
use crate::domain::Stage;
use crate::fakes::{ARG, FRAMES, Guest, LIST, RAM, World};
use crate::frames::Owner;
use crate::frames::tests::Rng;

/// Where the new domains have RAM, as [`World`]'s own.
const PAGES: u32 = 24;
/// Where dom0 maps others' pages.
const HOLES: u64 = 0x9_0000;
const HOLE_COUNT: u64 = 16;
/// Domains that live at once.
const MOST: usize = 4;

struct Life {
    world: World,
    random: Rng,
    /// Domains that were made and not destroyed to the end.
    made: Vec<u16>,
    /// Those whose end has begun.
    ending: Vec<u16>,
    /// dom0's grant mappings: handle, address.
    mapped: Vec<(u32, u64)>,
}

impl Life {
    fn pick(&mut self) -> Option<u16> {
        let at = self.random.below(self.made.len().max(1) as u32) as usize;
        self.made.get(at).copied()
    }

    /// The domain as a caller, if it can call: its structures are in its own RAM.
    fn caller(&mut self) -> Option<Guest> {
        let id = self.pick()?;
        let guest = guest(&self.world, id);
        let has = |gfn| {
            guest
                .mapping(gfn)
                .is_some_and(|mapping| mapping.ty.is_ram())
        };
        (!self.ending.contains(&id) && has((ARG >> 12) as u32) && has((LIST >> 12) as u32))
            .then_some(guest)
    }

    fn memory(&self, caller: &Guest, command: u32, domid: u16, gfns: &[u64]) -> i64 {
        caller.put(LIST, gfns);
        let op = MemoryReservation {
            extent_start: LIST,
            nr_extents: gfns.len() as u64,
            extent_order: 0,
            mem_flags: 0,
            domid,
            _pad: [0; 6],
        };
        caller.op(HYPERVISOR_MEMORY_OP, command, op).0
    }

    fn step(&mut self) {
        let dom0 = self.world.dom0.clone();
        let hole = HOLES + u64::from(self.random.below(HOLE_COUNT as u32));
        let page = u64::from(RAM + self.random.below(PAGES));
        match self.random.below(20) {
            0 | 1 if self.made.len() < MOST => {
                let (result, id, _) = create(&dom0, 0);
                if result == 0 {
                    self.made.push(id);
                    let limit = DomctlMaxMem {
                        max_memkb: u64::from(PAGES) * 4,
                    };
                    domctl(&dom0, XEN_DOMCTL_MAX_MEM, id, limit);
                    let gfns: Vec<u64> = (0..PAGES).map(|n| u64::from(RAM + n)).collect();
                    self.memory(&dom0, XENMEM_POPULATE_PHYSMAP, id, &gfns);
                }
            }
            2 => {
                if let Some(id) = self.pick() {
                    self.memory(&dom0, XENMEM_POPULATE_PHYSMAP, id, &[page]);
                }
            }
            3 => {
                if let Some(id) = self.pick() {
                    self.memory(&dom0, XENMEM_DECREASE_RESERVATION, id, &[page]);
                }
            }
            4 | 5 => {
                if let Some(id) = self.pick() {
                    dom0.put(LIST, &[page, hole]);
                    let op = AddToPhysmapBatch {
                        domid: DOMID_SELF,
                        space: XENMAPSPACE_GMFN_FOREIGN as u16,
                        size: 1,
                        foreign_domid: id,
                        idxs: LIST,
                        gpfns: LIST + 8,
                        errs: LIST + 16,
                    };
                    dom0.op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP_BATCH, op);
                }
            }
            6 => {
                if let Some(id) = self.pick() {
                    dom0.put(LIST, &[hole]);
                    let op = MemAcquireResource {
                        domid: id,
                        type_: XENMEM_RESOURCE_GRANT_TABLE as u16,
                        id: XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
                        nr_frames: 1,
                        _pad: 0,
                        frame: u64::from(self.random.below(4)),
                        frame_list: LIST,
                    };
                    dom0.op(HYPERVISOR_MEMORY_OP, XENMEM_ACQUIRE_RESOURCE, op);
                }
            }
            7 => self.unmap_hole(hole),
            8 => {
                // A channel from dom0, or back.
                if let Some(id) = self.pick() {
                    let op = EvtchnAllocUnbound {
                        dom: id,
                        remote_dom: 0,
                        port: 0,
                    };
                    let (result, op) = dom0.op(HYPERVISOR_EVENT_CHANNEL_OP, 6, op);
                    if result == 0 {
                        let op = EvtchnBindInterdomain {
                            remote_dom: id,
                            _pad: 0,
                            remote_port: op.port,
                            local_port: 0,
                        };
                        dom0.op(HYPERVISOR_EVENT_CHANNEL_OP, 0, op);
                    }
                }
            }
            9 => {
                let port = 1 + self.random.below(40);
                let close = EvtchnClose { port };
                dom0.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, close);
            }
            10 => {
                let port = 1 + self.random.below(40);
                dom0.op(
                    HYPERVISOR_EVENT_CHANNEL_OP,
                    EVTCHNOP_SEND,
                    EvtchnSend { port },
                );
            }
            11 => {
                if let Some(guest) = self.caller() {
                    let op = VcpuRegisterVcpuInfo {
                        mfn: page,
                        offset: 0,
                        _rsvd: 0,
                    };
                    guest.put(ARG, &op);
                    guest.result(
                        HYPERVISOR_VCPU_OP,
                        &[u64::from(VCPUOP_REGISTER_VCPU_INFO), 0, ARG],
                    );
                }
            }
            12 => {
                if let Some(guest) = self.caller() {
                    let op = EvtchnInitControl {
                        control_gfn: page,
                        offset: 0,
                        vcpu: 0,
                        link_bits: 0,
                        _pad: [0; 7],
                    };
                    guest.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_INIT_CONTROL, op);
                    let op = EvtchnExpandArray {
                        array_gfn: page + 1,
                    };
                    guest.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_EXPAND_ARRAY, op);
                }
            }
            13 | 14 => {
                if let Some(id) = self.pick() {
                    self.grant(&guest(&self.world, id), page);
                    let at = (HOLES + 0x100 + u64::from(self.random.below(64))) << 12;
                    let op = GnttabMapGrantRef {
                        host_addr: at,
                        flags: 2,
                        ref_: 9,
                        dom: id,
                        status: 99,
                        handle: 0,
                        dev_bus_addr: 0,
                    };
                    if self.mapped.iter().all(|(_, other)| *other != at) {
                        let (_, op) =
                            dom0.op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF, op);
                        if op.status == 0 {
                            self.mapped.push((op.handle, at));
                        }
                    }
                }
            }
            15 => self.unmap_grant(),
            16 => {
                // A domain maps what dom0 grants.
                if let Some(caller) = self.caller() {
                    self.grant_from_dom0(&caller, RAM + 100);
                    let op = GnttabMapGrantRef {
                        host_addr: page << 12,
                        flags: 2,
                        ref_: 9,
                        dom: 0,
                        status: 99,
                        handle: 0,
                        dev_bus_addr: 0,
                    };
                    if page != ARG >> 12 && page != LIST >> 12 {
                        caller.op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF, op);
                    }
                }
            }
            _ => {
                // An end, perhaps only a part of it.
                if self.random.below(3) == 0
                    && let Some(id) = self.pick()
                {
                    let every = 1 + self.random.below(3);
                    let times = 1 + self.random.below(12);
                    self.destroy(id, every, times);
                }
            }
        }
        self.check();
    }

    fn destroy(&mut self, id: u16, every: u32, times: u32) {
        let dom0 = &self.world.dom0;
        let op = Domctl {
            cmd: XEN_DOMCTL_DESTROYDOMAIN,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain: id,
            _pad: [0; 3],
            u: [0; 128],
        };
        dom0.put(ARG, &op);
        let hal = &self.world.hv.hal;
        hal.interrupt_every.store(every, Ordering::SeqCst);
        let done = dom0.call_at_most(HYPERVISOR_DOMCTL, &[ARG], times);
        hal.interrupt_every.store(u32::MAX, Ordering::SeqCst);
        if let Some(done) = done {
            assert_eq!(done.result, 0);
            self.made.retain(|other| *other != id);
            self.ending.retain(|other| *other != id);
        } else if !self.ending.contains(&id) {
            self.ending.push(id);
        }
    }

    /// A domain's kernel grants its page to dom0 as entry 9.
    fn grant(&self, granter: &Guest, page: u64) {
        self.write_grant(granter, 0, page as u32);
    }

    fn grant_from_dom0(&self, to: &Guest, frame: u32) {
        let to = to.domain.facts.id.raw();
        self.write_grant(&self.world.dom0, to, frame);
    }

    fn write_grant(&self, granter: &Guest, to: u16, frame: u32) {
        let mfn = granter.domain.grants.lock().shared_frame(0, &mut || None);
        let Ok(mfn) = mfn else { return };
        let words = self.world.hv.hal.words(mfn);
        words[19].store(frame, Ordering::SeqCst);
        words[18].store(1 | u32::from(to) << 16, Ordering::SeqCst);
    }

    fn unmap_hole(&self, gpfn: u64) {
        let op = RemoveFromPhysmap {
            domid: DOMID_SELF,
            _pad: [0; 6],
            gpfn,
        };
        self.world
            .dom0
            .op(HYPERVISOR_MEMORY_OP, XENMEM_REMOVE_FROM_PHYSMAP, op);
    }

    fn unmap_grant(&mut self) {
        let Some((handle, host_addr)) = self.mapped.pop() else {
            return;
        };
        let op = GnttabUnmapGrantRef {
            host_addr,
            dev_bus_addr: 0,
            handle,
            status: 99,
            _pad: 0,
        };
        let (_, op) = self
            .world
            .dom0
            .op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_UNMAP_GRANT_REF, op);
        assert_eq!(op.status, 0);
    }

    /// The accounts count what is owned; who is dead is held by somebody.
    fn check(&self) {
        self.world.check();
        let frames = &self.world.hv.frames;
        self.world.hv.reap();
        for domain in self.world.hv.domains.all() {
            let id = domain.facts.id;
            let is_shared = |mfn: &Mfn| frames.is_xenheap_of(*mfn, id);
            let (shared, owned): (Vec<_>, Vec<_>) = (RAM..RAM + FRAMES)
                .map(Mfn::new)
                .filter(|mfn| frames.owner(*mfn) == Some(Owner::Domain(id)))
                .partition(is_shared);
            assert_eq!(owned.len() as u32, domain.account.pages(), "{id}");
            assert_eq!(shared.len() as u32, domain.account.shared(), "{id}");
            if domain.stage() == Stage::Dead {
                let is_held = |mfn: &Mfn| frames.references(*mfn) > 0;
                assert!(shared.len() > 1 || owned.iter().any(is_held), "{id}");
            }
        }
    }
}

/// Frames that are free or dom0's tables, pages that the hypervisor has mapped, VMIDs.
fn balance(world: &World) -> (u32, u32, String) {
    let tables = world.dom0.domain.p2m.lock().stage2().table_pages();
    (
        world.hv.allocator.lock().free_frames() + tables,
        world.hv.hal.mapped.load(Ordering::SeqCst),
        format!("{:?}", world.hv.vmids),
    )
}

#[test]
fn random_lives_leave_nothing_behind() {
    let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (24, 500) };
    let mut ended = 0;
    for seed in 0..seeds {
        let world = World::new();
        // dom0's own grant table does not grow any more.
        let before = balance(&world);
        let mut life = Life {
            world,
            random: Rng::new(seed),
            made: Vec::new(),
            ending: Vec::new(),
            mapped: Vec::new(),
        };
        for _ in 0..steps {
            life.step();
        }
        // All ends, whatever others hold; then the others let go.
        for id in life.made.clone() {
            life.destroy(id, 1, 100_000);
            ended += 1;
        }
        assert!(life.made.is_empty());
        while !life.mapped.is_empty() {
            life.unmap_grant();
        }
        for hole in 0..HOLE_COUNT {
            life.unmap_hole(HOLES + hole);
        }
        life.check();
        let ids: Vec<u16> = life
            .world
            .hv
            .domains
            .all()
            .map(|d| d.facts.id.raw())
            .collect();
        assert_eq!(ids, [0, 1, 2], "seed {seed}");
        assert_eq!(balance(&life.world), before, "seed {seed}");
        assert_eq!(life.world.hv.allocator.lock().frames_aside(), 0);
        let dom0 = &life.world.dom0.domain;
        let in_use = (dom0.grants.lock().pinned(), dom0.maptrack.lock().in_use());
        assert_eq!(in_use, (0, 0), "seed {seed}");
        let known = |id: u16| {
            let scheduler = &life.world.hv.scheduler;
            scheduler.with(|policy, _, _| policy.share(DomId::new(id)).is_some())
        };
        assert!((0..3).all(known) && !(3..500).any(known), "seed {seed}");
        assert_eq!(simple(&life.world.dom0, XEN_DOMCTL_PAUSEDOMAIN, 1), 0);
    }
    assert!(ended > 0);
}
