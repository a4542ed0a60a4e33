//! What a guest asks for when the heap is empty: ENOMEM, and the same call works when there is memory again. An
//! allocation that cannot fail would end these tests.

use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::*;

use super::SELF;
use super::errno::*;
use crate::fakes::{Guest, LIST, RAM, World};

fn bind_ipi(guest: &Guest) -> i64 {
    let op = EvtchnBindIpi { vcpu: 0, port: 0 };
    guest
        .op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, op)
        .0
}

/// Repeats `call` with memory for 0, 1, 2... allocations until it does not fail any more; returns how often it failed.
fn until_enough(guest: &Guest, mut call: impl FnMut(&Guest) -> i64, good: i64) -> u32 {
    for allocations in 0..20 {
        let guest = Guest {
            allocations,
            ..guest.clone()
        };
        let result = call(&guest);
        if result == good {
            return allocations;
        }
        assert_eq!(result, ENOMEM, "with {allocations} allocations");
    }
    panic!("no amount of memory is enough");
}

#[test]
fn ports() {
    let world = World::new();
    let mut refused = 0;
    for _ in 0..1000 {
        refused += until_enough(&world.dom1, bind_ipi, 0);
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn fifo_pages() {
    let world = World::new();
    let init = |guest: &Guest| {
        let op = EvtchnInitControl {
            control_gfn: u64::from(RAM + 30),
            offset: 0,
            vcpu: 0,
            link_bits: 0,
            _pad: [0; 7],
        };
        guest
            .op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_INIT_CONTROL, op)
            .0
    };
    until_enough(&world.dom1, init, 0);
    let mut refused = 0;
    for n in 31..40 {
        let expand = |guest: &Guest| {
            let array_gfn = u64::from(RAM + n);
            let op = EvtchnExpandArray { array_gfn };
            let references = |guest: &Guest| {
                let mfn = guest.mapping(RAM + n).expect("mapped").mfn;
                world.hv.frames.references(mfn)
            };
            let before = references(guest);
            let result = guest
                .op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_EXPAND_ARRAY, op)
                .0;
            assert_eq!(references(guest), before + u32::from(result == 0));
            result
        };
        refused += until_enough(&world.dom1, expand, 0);
    }
    assert!(refused > 0);
}

#[test]
fn grant_frames_and_mappings() {
    let world = World::new();
    let setup = |guest: &Guest| {
        let op = GnttabSetupTable {
            dom: SELF,
            _pad0: 0,
            nr_frames: 4,
            status: 99,
            _pad1: [0; 6],
            frame_list: LIST,
        };
        let (result, op) = guest.op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_SETUP_TABLE, op);
        assert_eq!(result, 0);
        // GNTST_general_error is what Xen gives for a table that cannot grow.
        if op.status == 0 { 0 } else { ENOMEM }
    };
    assert!(until_enough(&world.dom1, setup, 0) > 0);

    // The entry that dom1 writes: reference 9, its page 20, for dom0.
    let mfn = world
        .dom1
        .domain
        .grants
        .lock()
        .shared_frame(0, &mut || None);
    let words = world.hv.hal.words(mfn.expect("the first frame"));
    words[19].store(RAM + 20, std::sync::atomic::Ordering::SeqCst);
    words[18].store(1, std::sync::atomic::Ordering::SeqCst);
    let mut mapped = 0;
    let map = |guest: &Guest, n: u32| {
        let op = GnttabMapGrantRef {
            host_addr: u64::from(0x9_0000 + n) << 12,
            flags: 2,
            ref_: 9,
            dom: 1,
            status: 99,
            handle: 0,
            dev_bus_addr: 0,
        };
        let (result, op) = guest.op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF, op);
        assert_eq!(result, 0);
        if op.status == 0 { 0 } else { ENOMEM }
    };
    for n in 0..500 {
        mapped += until_enough(&world.dom0, |guest| map(guest, n), 0);
    }
    assert!(mapped > 0);
}

/// The call is executed again when there is memory, and finds in its argument what it was asked for.
#[test]
fn a_version_of_grants() {
    let world = World::new();
    let set = |guest: &Guest| {
        let op = GnttabSetVersion { version: 2 };
        let (result, op) = guest.op(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_SET_VERSION, op);
        assert_eq!(op.version, 2);
        result
    };
    // The heap, and then the frames.
    let mut all = Vec::new();
    while let Some(got) = world.hv.alloc_frames(0, crate::frames::Owner::Xen, None) {
        all.push(got.mfn);
    }
    assert_eq!(set(&world.dom0), ENOMEM);
    for mfn in all {
        world.hv.put_frame(mfn);
    }
    until_enough(&world.dom0, set, 0);
}
