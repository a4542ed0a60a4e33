//! Domains that deal with each other, against simple models: who may, who is told, and that nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::*;
use xen_abi::memory::{
    AddToPhysmapBatch, RemoveFromPhysmap, XENMEM_ADD_TO_PHYSMAP_BATCH, XENMEM_REMOVE_FROM_PHYSMAP,
};
use xen_abi::shared_info::SHARED_INFO_EVTCHN_PENDING;

use super::SELF;
use super::errno::*;
use super::events::{alloc_unbound, bind, is_pending, on_port, send, status};
use super::grants::{grant, list, map_op, unmap_op};
use crate::fakes::{Guest, LIST, RAM, World, page};
use crate::frames::tests::Rng;
use crate::machine::SharedPage;

/// What a port of the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// Waits for a domain.
    Unbound(u16),
    /// Leads to a port of a domain.
    Bound(u16, u32),
}

/// The ports of all domains, and which of them are pending.
#[derive(Default)]
struct Ports {
    ports: BTreeMap<(u16, u32), Port>,
    pending: BTreeSet<(u16, u32)>,
}

impl Ports {
    /// The lowest free port.
    fn free(&self, domain: u16) -> u32 {
        (1..)
            .find(|&port| !self.ports.contains_key(&(domain, port)))
            .unwrap()
    }

    /// SILO: one of the two is dom0, or both are the same.
    fn may(a: u16, b: u16) -> bool {
        a == b || a == 0 || b == 0
    }

    /// Closes a port; its peer waits again.
    fn close(&mut self, domain: u16, port: u32) -> bool {
        let Some(was) = self.ports.remove(&(domain, port)) else {
            return false;
        };
        self.pending.remove(&(domain, port));
        if let Port::Bound(peer, at) = was
            && (peer, at) != (domain, port)
        {
            self.ports.insert((peer, at), Port::Unbound(domain));
        }
        true
    }
}

fn clear(guest: &Guest, port: u32) {
    // evtchn_pending of the 2-level ABI.
    let word = SHARED_INFO_EVTCHN_PENDING / 4 + port as usize / 32;
    guest.domain.shared_info.words()[word].fetch_and(!(1 << (port % 32)), Ordering::SeqCst);
    // The vCPU's selector and upcall flag, as a guest clears them first.
    for word in 0..4 {
        guest.domain.shared_info.words()[word].store(0, Ordering::SeqCst);
    }
}

fn run_events(seed: u64) {
    let world = World::new();
    let guests = [&world.dom0, &world.dom1, &world.dom2];
    let mut rng = Rng::new(seed);
    let mut model = Ports::default();
    let domains = 3;
    for step in 0..3000 {
        let caller = rng.below(domains) as u16;
        let guest = guests[usize::from(caller)];
        let peer = rng.below(domains) as u16;
        let port = 1 + rng.below(12);
        let context = format!("seed {seed} step {step}: d{caller} d{peer} {port}");
        match rng.below(8) {
            0 | 1 => {
                // dom0 may do it for others.
                let owner = rng.below(domains) as u16;
                if model.ports.len() > 30 {
                    continue;
                }
                let (result, got) = alloc_unbound(guest, owner, peer);
                let may = caller == 0 || owner == caller && Ports::may(owner, peer);
                if may {
                    assert_eq!((result, got), (0, model.free(owner)), "{context}");
                    model.ports.insert((owner, got), Port::Unbound(peer));
                } else {
                    assert_eq!(result, EPERM, "{context}");
                }
            }
            2 | 3 => {
                let (result, got) = bind(guest, peer, port);
                if !Ports::may(caller, peer) {
                    assert_eq!(result, EPERM, "{context}");
                } else if model.ports.get(&(peer, port)) == Some(&Port::Unbound(caller)) {
                    let local = model.free(caller);
                    // Binding to a port that waits for its own domain needs another one.
                    assert_eq!((result, got), (0, local), "{context}");
                    model.ports.insert((caller, local), Port::Bound(peer, port));
                    model.ports.insert((peer, port), Port::Bound(caller, local));
                    model.pending.insert((caller, local));
                } else {
                    assert_eq!(result, EINVAL, "{context}");
                }
            }
            4 => {
                let result = send(guest, port);
                match model.ports.get(&(caller, port)) {
                    Some(Port::Bound(to, at)) => {
                        assert_eq!(result, 0, "{context}");
                        model.pending.insert((*to, *at));
                    }
                    // Nobody there to hear it.
                    Some(Port::Unbound(_)) => assert_eq!(result, 0, "{context}"),
                    None => assert_eq!(result, EINVAL, "{context}"),
                }
            }
            5 => {
                let result = on_port(guest, EVTCHNOP_CLOSE, port);
                let expected = if model.close(caller, port) { 0 } else { EINVAL };
                assert_eq!(result, expected, "{context}");
            }
            6 => {
                if model.pending.remove(&(caller, port)) {
                    clear(guest, port);
                }
            }
            _ => {
                let (result, got) = status(guest, peer, port);
                if caller != 0 && caller != peer {
                    assert_eq!(result, EPERM, "{context}");
                    continue;
                }
                let expected = match model.ports.get(&(peer, port)) {
                    // What does not apply stays as the caller had it.
                    None => (EVTCHNSTAT_CLOSED, 9, 9),
                    Some(Port::Unbound(domain)) => (EVTCHNSTAT_UNBOUND, u32::from(*domain), 9),
                    Some(Port::Bound(domain, at)) => {
                        (EVTCHNSTAT_INTERDOMAIN, u32::from(*domain), *at)
                    }
                };
                assert_eq!((got.status, got.u0, got.u1), expected, "{context}");
            }
        }
        for &(domain, port) in model.ports.keys() {
            assert_eq!(
                is_pending(guests[usize::from(domain)], port),
                model.pending.contains(&(domain, port)),
                "{context}: d{domain} port {port}"
            );
        }
    }
    // Each resets: all ports of all are closed then.
    for (domain, guest) in guests.iter().enumerate() {
        let (result, _) = guest.op(
            HYPERVISOR_EVENT_CHANNEL_OP,
            EVTCHNOP_RESET,
            EvtchnReset { dom: SELF },
        );
        assert_eq!(result, 0);
        let mine: Vec<_> = model
            .ports
            .keys()
            .copied()
            .filter(|key| usize::from(key.0) == domain)
            .collect();
        for (domain, port) in mine {
            model.close(domain, port);
        }
    }
    assert!(model.ports.is_empty());
    for guest in guests {
        assert_eq!(
            super::events::open_ports(guest),
            0,
            "{}",
            guest.domain.facts.id
        );
    }
}

#[test]
fn events_between_three_domains_follow_the_model() {
    for seed in 1..=6 {
        run_events(seed);
    }
}

/// A mapping that a guest made.
#[derive(Clone, Copy, Debug)]
enum Mapped {
    Grant { handle: u32, owner: u16, gfn: u32 },
    Foreign { owner: u16, gfn: u32 },
}

/// The first frame of where guests map what is others'.
const HIGH: u32 = 0x9_0000;
/// Pages of each domain that are granted and mapped.
const FIRST: u32 = 40;
const COUNT: u32 = 6;

fn run_pages(seed: u64) {
    let world = World::new();
    let guests = [&world.dom0, &world.dom1, &world.dom2];
    let mut rng = Rng::new(seed);
    let mut made: BTreeMap<(u16, u32), Mapped> = BTreeMap::new();
    let frame = |owner: u16, gfn: u32| guests[usize::from(owner)].mapping(gfn).unwrap().mfn;
    // Everybody grants each of his pages to dom0 and to the next domain; references 8 and up, 16 and up.
    for owner in 0..3 {
        for n in 0..COUNT {
            let guest = guests[usize::from(owner)];
            grant(guest, 8 + n, 0, RAM + FIRST + n, GTF_PERMIT_ACCESS);
            grant(
                guest,
                16 + n,
                (owner + 1) % 3,
                RAM + FIRST + n,
                GTF_PERMIT_ACCESS,
            );
        }
    }
    for step in 0..1500 {
        let caller = rng.below(3) as u16;
        let guest = guests[usize::from(caller)];
        let owner = rng.below(3) as u16;
        let n = rng.below(COUNT);
        let at = HIGH + rng.below(8);
        let gfn = RAM + FIRST + n;
        let context = format!("seed {seed} step {step}: d{caller} maps d{owner}'s {n} at {at:#x}");
        let is_free = !made.contains_key(&(caller, at));
        match rng.below(4) {
            0 | 1 if is_free => {
                let second = rng.below(2) == 1;
                let to = if second { (owner + 1) % 3 } else { 0 };
                let reference = if second { 16 + n } else { 8 + n };
                let op = map_op(owner, reference, at, GNTMAP_HOST_MAP);
                let (_, _, [op]) = list(guest, GNTTABOP_MAP_GRANT_REF, [op]);
                if op.status == 0 {
                    assert!(Ports::may(caller, owner), "{context}: SILO");
                    assert_eq!(to, caller, "{context}: not granted to it");
                    assert_eq!(
                        guest.mapping(at).unwrap().mfn,
                        frame(owner, gfn),
                        "{context}"
                    );
                    let handle = op.handle;
                    made.insert((caller, at), Mapped::Grant { handle, owner, gfn });
                } else {
                    let room = made.keys().filter(|key| key.0 == caller).count() < 500;
                    assert!(
                        to != caller || !Ports::may(caller, owner) || !room,
                        "{context}: {}",
                        op.status
                    );
                }
            }
            2 if is_free => {
                guest.put(LIST, &u64::from(gfn));
                guest.put(LIST + 8, &u64::from(at));
                let op = AddToPhysmapBatch {
                    domid: SELF,
                    space: 4,
                    size: 1,
                    foreign_domid: owner,
                    idxs: LIST,
                    gpfns: LIST + 8,
                    errs: LIST + 16,
                };
                let (result, _) = guest.op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP_BATCH, op);
                assert_eq!(result, 0, "{context}");
                let error = i64::from(guest.get::<i32>(LIST + 16));
                if owner == caller {
                    assert_eq!(error, EINVAL, "{context}");
                } else if caller != 0 {
                    assert_eq!(error, EPERM, "{context}");
                } else {
                    assert_eq!(error, 0, "{context}");
                    made.insert((caller, at), Mapped::Foreign { owner, gfn });
                }
            }
            _ => undo(guest, &mut made, caller, at),
        }
        // A reference for its owner, one for its grants together, one for each foreign mapping.
        for owner in 0..3 {
            for gfn in (0..COUNT).map(|n| RAM + FIRST + n) {
                let of_page = |m: &&Mapped| match **m {
                    Mapped::Grant {
                        owner: o, gfn: g, ..
                    }
                    | Mapped::Foreign { owner: o, gfn: g } => (o, g) == (owner, gfn),
                };
                let foreign = made
                    .values()
                    .filter(of_page)
                    .filter(|m| matches!(m, Mapped::Foreign { .. }))
                    .count();
                let grants = made.values().filter(of_page).count() - foreign;
                let references = world.hv.frames.references(frame(owner, gfn)) as usize;
                let least = 1 + foreign + usize::from(grants > 0);
                assert!(
                    (least..=1 + foreign + grants * 2).contains(&references),
                    "{context}: {references} for {foreign} + {grants}"
                );
            }
        }
    }
    // All gone: every page is its owner's alone again.
    for (caller, at) in made.keys().copied().collect::<Vec<_>>() {
        undo(guests[usize::from(caller)], &mut made, caller, at);
    }
    for owner in 0..3 {
        for n in 0..COUNT {
            assert_eq!(
                world.hv.frames.references(frame(owner, RAM + FIRST + n)),
                1,
                "seed {seed}"
            );
        }
        assert_eq!(guests[usize::from(owner)].domain.grants.lock().pinned(), 0);
    }
    world.check();
}

fn undo(guest: &Guest, made: &mut BTreeMap<(u16, u32), Mapped>, caller: u16, at: u32) {
    match made.remove(&(caller, at)) {
        Some(Mapped::Grant { handle, .. }) => {
            let (_, _, [op]) = list(guest, GNTTABOP_UNMAP_GRANT_REF, [unmap_op(at, handle)]);
            assert_eq!(op.status, 0);
            assert_eq!(guest.mapping(at), None);
        }
        Some(Mapped::Foreign { .. }) => {
            let op = RemoveFromPhysmap {
                domid: SELF,
                _pad: [0; 6],
                gpfn: at.into(),
            };
            assert_eq!(
                guest
                    .op(HYPERVISOR_MEMORY_OP, XENMEM_REMOVE_FROM_PHYSMAP, op)
                    .0,
                0
            );
        }
        None => assert_eq!(guest.mapping(at), None),
    }
}

#[test]
fn pages_between_three_domains_go_back_to_their_owners() {
    assert_eq!(page(0), u64::from(RAM) << 12);
    for seed in 1..=4 {
        run_pages(seed);
    }
}
