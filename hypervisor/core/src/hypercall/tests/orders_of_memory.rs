//! Memory that is taken by one vCPU while another changes what is set aside for it, in every order in which they can take
//! the allocator's lock (see `orders`). After each order what is set aside is what the domains were promised.

use crate::addr::Gfn;
use crate::fakes::{Size, World};
use crate::hal::Hal;
use crate::sync::interleave::{Bounds, explore};

const ALLOCATOR: Bounds<'_> = Bounds {
    watched: &["FrameAllocator"],
    preemptions: 2,
};

/// dom1 has five pages set aside.
fn claimed() -> World {
    let world = World::sized(Size::SMALL);
    let account = &world.dom1.domain.account;
    let pages = account.pages() + 5;
    account.set_limit(pages);
    let claim = world.hv.claim_pages(&world.dom1.domain, pages.into());
    assert_eq!((claim, account.claimed()), (Ok(()), 5));
    world
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_claim_ends_while_it_is_used() {
    let runs = explore(
        ALLOCATOR,
        claimed,
        &[
            &|world: &World| {
                let domain = &world.dom1.domain;
                for gfn in 0x9_0000..0x9_0003 {
                    let mut memory = world.hv.hal.p2m_memory(domain.vttbr);
                    let done = domain.p2m.lock().populate(&mut memory, Gfn::new(gfn), 0);
                    assert!(done.is_ok(), "{done:?}");
                }
            },
            &|world| assert_eq!(world.hv.claim_pages(&world.dom1.domain, 0), Ok(())),
        ],
        |world| {
            world.check();
            assert_eq!(world.dom1.domain.account.claimed(), 0);
            assert_eq!(world.hv.allocator.lock().frames_aside(), 0);
        },
    );
    println!("populate; the claim's end: {runs} orders");
    assert!(runs > 5, "{runs}");
}
