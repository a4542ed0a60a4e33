//! Hypercalls of two or three vCPUs at once, in every order in which they can take the locks of event channels, with at
//! most two preemptions (`crate::sync::interleave`). What holds between any two hypercalls holds after each order
//! ([`World::check`]); a deadlock fails.

use std::sync::atomic::Ordering;

use xen_abi::control::*;
use xen_abi::event_channel::*;
use xen_abi::hypercall::*;
use xen_abi::sched::*;

use super::SELF;
use super::domctl::domctl;
use super::errno::*;
use super::events::{alloc_unbound, bind, is_pending, on_port, open_ports, send, status};
use crate::addr::VcpuId;
use crate::evtchn;
use crate::fakes::{Guest, RAM, Size, World, page};
use crate::frames::Owner;
use crate::sync::interleave::{Bounds, explore};

const EVENT: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
/// Locks on these types: a switch elsewhere makes no difference to what is looked for here.
const CHANNELS: Bounds<'_> = Bounds {
    watched: &["EventChannels"],
    preemptions: 2,
};

/// A channel between dom0 and dom1.
struct Channel {
    world: World,
    ours: u32,
    theirs: u32,
}

#[derive(Clone, Copy, Debug)]
enum Abi {
    TwoLevel,
    Fifo,
}
const BOTH: [Abi; 2] = [Abi::TwoLevel, Abi::Fifo];

impl Channel {
    fn new(abi: Abi) -> Self {
        let world = World::sized(Size::SMALL);
        for guest in [&world.dom0, &world.dom1, &world.dom2] {
            if let Abi::Fifo = abi {
                go_fifo(guest);
            }
        }
        let (result, theirs) = alloc_unbound(&world.dom1, SELF, 0);
        assert_eq!(result, 0);
        let (result, ours) = bind(&world.dom0, 1, theirs);
        assert_eq!(result, 0);
        Self {
            world,
            ours,
            theirs,
        }
    }

    fn dom0(&self) -> &Guest {
        &self.world.dom0
    }

    fn dom1(&self) -> &Guest {
        &self.world.dom1
    }
}

fn go_fifo(guest: &Guest) {
    for vcpu in 0..2 {
        let op = EvtchnInitControl {
            control_gfn: u64::from(RAM + 20),
            offset: vcpu * 512,
            vcpu,
            link_bits: 0,
            _pad: [0; 7],
        };
        assert_eq!(guest.op(EVENT, EVTCHNOP_INIT_CONTROL, op).0, 0);
    }
    let array_gfn = u64::from(RAM + 21);
    let op = EvtchnExpandArray { array_gfn };
    assert_eq!(guest.op(EVENT, EVTCHNOP_EXPAND_ARRAY, op).0, 0);
}

/// As `on_port`, of vCPU 1, with a structure of its own.
fn on_port_too(guest: &Guest, command: u32, port: u32) -> i64 {
    guest.put(page(9), &EvtchnSend { port });
    let other = guest.on_vcpu(1);
    other.result(EVENT, &[u64::from(command), page(9), 1])
}

fn reset(guest: &Guest) -> i64 {
    guest.op(EVENT, EVTCHNOP_RESET, SELF).0
}

fn state(guest: &Guest, port: u32) -> u32 {
    status(guest, SELF, port).1.status
}

/// Explores with both ABIs; says how many orders there were.
fn both_abis(
    name: &str,
    threads: &[&(dyn Fn(&Channel) + Sync)],
    prepare: impl Fn(&Channel),
    check: impl Fn(&Channel),
) {
    for abi in BOTH {
        let runs = explore(
            CHANNELS,
            || {
                let channel = Channel::new(abi);
                prepare(&channel);
                channel
            },
            threads,
            |channel| {
                channel.world.check();
                check(channel);
            },
        );
        println!("{name}, {abi:?}: {runs} orders");
        assert!(runs > 10, "{runs}");
    }
}

fn nothing(_: &Channel) {}

#[test]
#[cfg_attr(miri, ignore)]
fn an_event_never_reaches_who_has_the_port_next() {
    both_abis(
        "send, close and open",
        &[&|c| assert_eq!(send(c.dom0(), c.ours), 0), &|c| {
            assert_eq!(on_port(c.dom1(), EVTCHNOP_CLOSE, c.theirs), 0);
            // The same number again, for somebody else.
            let (result, next) = alloc_unbound(c.dom1(), SELF, SELF);
            assert_eq!(result, 0);
            assert!(!is_pending(c.dom1(), next), "from the sender before");
        }],
        nothing,
        |c| {
            for port in 1..4 {
                assert!(!is_pending(c.dom1(), port), "{port}");
            }
            assert_eq!(state(c.dom0(), c.ours), EVTCHNSTAT_UNBOUND);
        },
    );
}

/// The ends find each other again, at another port of the sender's: an event of the old connection is none of the new.
#[test]
#[cfg_attr(miri, ignore)]
fn an_event_of_a_former_connection_is_dropped() {
    both_abis(
        "send, close, open and bind",
        &[
            &|c| assert_eq!(send(c.dom0(), c.ours), 0),
            &|c| {
                assert_eq!(on_port(c.dom1(), EVTCHNOP_CLOSE, c.theirs), 0);
                assert_eq!(alloc_unbound(c.dom1(), SELF, 0).0, 0);
            },
            &|c| {
                let dom0 = c.dom0().on_vcpu(1);
                let op = EvtchnBindInterdomain {
                    remote_dom: 1,
                    _pad: 0,
                    remote_port: c.theirs,
                    local_port: 0,
                };
                dom0.put(page(9), &op);
                let result =
                    dom0.result(EVENT, &[u64::from(EVTCHNOP_BIND_INTERDOMAIN), page(9), 1]);
                assert!(result == 0 || result == EINVAL, "{result}");
            },
        ],
        nothing,
        |c| assert!(!is_pending(c.dom1(), c.theirs)),
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn both_ends_close_at_once() {
    let close = |guest: &Guest, port| assert_eq!(on_port(guest, EVTCHNOP_CLOSE, port), 0);
    both_abis(
        "close and close",
        &[&|c| close(c.dom0(), c.ours), &|c| close(c.dom1(), c.theirs)],
        nothing,
        |c| assert_eq!((open_ports(c.dom0()), open_ports(c.dom1())), (0, 0)),
    );
}

/// Two vCPUs close one port, and the other end sends to it.
#[test]
#[cfg_attr(miri, ignore)]
fn a_port_is_closed_once() {
    both_abis(
        "close, close and send",
        &[
            &|c| {
                let first = on_port(c.dom1(), EVTCHNOP_CLOSE, c.theirs);
                assert!(first == 0 || first == EINVAL, "{first}");
            },
            &|c| {
                let second = on_port_too(c.dom1(), EVTCHNOP_CLOSE, c.theirs);
                assert!(second == 0 || second == EINVAL, "{second}");
            },
            &|c| assert_eq!(send(c.dom0(), c.ours), 0),
        ],
        nothing,
        |c| {
            assert_eq!(state(c.dom1(), c.theirs), EVTCHNSTAT_CLOSED);
            assert_eq!(state(c.dom0(), c.ours), EVTCHNSTAT_UNBOUND);
            assert!(!is_pending(c.dom1(), c.theirs));
        },
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_port_is_bound_and_closed_at_once() {
    both_abis(
        "bind, send and close",
        &[
            &|c| match bind(c.dom0(), 1, c.theirs + 1) {
                (0, ours) => {
                    // Its other end may be gone since.
                    assert_eq!(send(c.dom0(), ours), 0);
                    let state = state(c.dom0(), ours);
                    assert!([EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_UNBOUND].contains(&state));
                }
                (error, _) => assert_eq!(error, EINVAL),
            },
            &|c| assert_eq!(on_port(c.dom1(), EVTCHNOP_CLOSE, c.theirs + 1), 0),
        ],
        |c| assert_eq!(alloc_unbound(c.dom1(), SELF, 0), (0, c.theirs + 1)),
        |c| assert!(!is_pending(c.dom1(), c.theirs + 1)),
    );
}

/// Each binds to a port of the other's, which takes both locks from both sides.
#[test]
#[cfg_attr(miri, ignore)]
fn two_domains_bind_to_each_other_at_once() {
    both_abis(
        "bind and bind",
        &[
            &|c| assert_eq!(bind(c.dom0(), 1, c.theirs + 1).0, 0),
            &|c| assert_eq!(bind(c.dom1(), 0, c.ours + 1).0, 0),
        ],
        |c| {
            assert_eq!(alloc_unbound(c.dom1(), SELF, 0), (0, c.theirs + 1));
            assert_eq!(alloc_unbound(c.dom0(), SELF, 1), (0, c.ours + 1));
        },
        |c| assert_eq!((open_ports(c.dom0()), open_ports(c.dom1())), (3, 3)),
    );
}

/// The event reaches one vCPU, the old or the new one, whatever comes first.
#[test]
#[cfg_attr(miri, ignore)]
fn an_event_is_not_lost_when_its_port_changes_vcpu() {
    both_abis(
        "send and bind_vcpu",
        &[&|c| assert_eq!(send(c.dom0(), c.ours), 0), &|c| {
            let port = c.theirs;
            let op = EvtchnBindVcpu { port, vcpu: 1 };
            assert_eq!(c.dom1().op(EVENT, EVTCHNOP_BIND_VCPU, op).0, 0);
            assert_eq!(on_port(c.dom1(), EVTCHNOP_UNMASK, port), 0);
        }],
        |c| {
            // vCPU 1 has a vcpu_info of its own.
            let mfn = c.dom1().mapping(RAM + 22).unwrap().mfn;
            let taken = c
                .world
                .hv
                .frames
                .get(mfn, Owner::Domain(c.dom1().domain.facts.id));
            assert!(taken.is_ok(), "{taken:?}");
            let info = crate::hal::Hal::map_shared(&c.world.hv.hal, mfn).unwrap();
            let mut events = c.dom1().domain.events.lock();
            let registered = events.register_vcpu_info(VcpuId::new(1), info, 0);
            let _ = registered.unwrap();
            drop(events);
            // Registering selects all.
            c.dom1().put(page(22), &[0u32; 12]);
        },
        |c| {
            assert!(is_pending(c.dom1(), c.theirs));
            let events = c.dom1().domain.events.lock();
            let upcalls = [0, 1].map(|vcpu| events.upcall_pending(VcpuId::new(vcpu)));
            assert_ne!(upcalls[0], upcalls[1], "one of them, not both");
        },
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn an_event_is_not_lost_while_its_port_is_unmasked() {
    both_abis(
        "send and unmask",
        &[&|c| assert_eq!(send(c.dom0(), c.ours), 0), &|c| {
            assert_eq!(on_port(c.dom1(), EVTCHNOP_UNMASK, c.theirs), 0);
        }],
        |c| {
            // The guest masks it: bit 30 of its event word, or in shared_info.
            let word = page(21) + 4 * u64::from(c.theirs);
            c.dom1().put(word, &(1u32 << 30));
            c.dom1().domain.shared_info_words()[560 / 4].store(1 << c.theirs, Ordering::SeqCst);
        },
        |c| {
            assert!(is_pending(c.dom1(), c.theirs));
            let events = c.dom1().domain.events.lock();
            assert!(events.upcall_pending(VcpuId::new(0)), "nobody is told");
        },
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_reset_a_close_and_a_send() {
    both_abis(
        "send, close and reset",
        &[
            &|c| assert_eq!(send(c.dom0(), c.ours), 0),
            &|c| {
                let closed = on_port_too(c.dom1(), EVTCHNOP_CLOSE, c.theirs);
                assert!(closed == 0 || closed == EINVAL, "{closed}");
            },
            &|c| assert_eq!(reset(c.dom1()), 0),
        ],
        nothing,
        |c| {
            assert_eq!(open_ports(c.dom1()), 0);
            assert!(!is_pending(c.dom1(), c.theirs));
            assert_eq!(state(c.dom0(), c.ours), EVTCHNSTAT_UNBOUND);
            assert_eq!(reset(c.dom1()), 0, "again");
        },
    );
}

#[test]
#[cfg_attr(miri, ignore)]
fn both_ends_are_reset_at_once() {
    both_abis(
        "reset and reset",
        &[&|c| assert_eq!(reset(c.dom0()), 0), &|c| {
            assert_eq!(reset(c.dom1()), 0);
        }],
        nothing,
        |c| assert_eq!((open_ports(c.dom0()), open_ports(c.dom1())), (0, 0)),
    );
}

/// A vCPU goes to sleep only where the event comes later, and then it is woken.
#[test]
#[cfg_attr(miri, ignore)]
fn a_sleeper_is_woken_by_an_event() {
    for (sleep, name) in [(SCHEDOP_POLL, "poll"), (SCHEDOP_BLOCK, "block")] {
        let asleep = |c: &Channel| {
            let guest = c.dom1();
            guest.put(page(9), &c.theirs);
            let op = SchedPoll {
                ports: page(9),
                nr_ports: 1,
                _pad: 0,
                timeout: 0,
            };
            guest.put(page(8), &op);
            let called = guest.call(HYPERVISOR_SCHED_OP, &[u64::from(sleep), page(8)]);
            assert_eq!(called.result, 0);
        };
        both_abis(
            name,
            &[&|c| assert_eq!(send(c.dom0(), c.ours), 0), &asleep],
            nothing,
            |c| {
                let vcpu = &c.dom1().domain.vcpus[0];
                assert!(!vcpu.is_blocked.load(Ordering::SeqCst), "it sleeps");
            },
        );
    }
}

#[test]
#[cfg_attr(miri, ignore)]
fn a_domain_ends_while_another_uses_its_ports() {
    let end = |c: &Channel| {
        let hv = &c.world.hv;
        while hv.destroy_domain(&c.dom1().domain, &|| false).is_err() {}
        hv.reap();
    };
    let bounds = Bounds {
        preemptions: 1,
        ..CHANNELS
    };
    let no_peer = |result| assert!([0, EINVAL, ESRCH].contains(&result), "{result}");
    let actions: [&(dyn Fn(&Channel) + Sync); 3] = [
        &|c| {
            assert_eq!(on_port(c.dom0(), EVTCHNOP_CLOSE, c.ours), 0);
            assert_eq!(open_ports(c.dom0()), 0);
        },
        &|c| {
            assert_eq!(send(c.dom0(), c.ours), 0);
            no_peer(bind(c.dom0(), 1, c.theirs + 1).0);
        },
        &|c| {
            assert_eq!(reset(c.dom0()), 0);
            assert_eq!(reset(c.dom0()), 0, "again");
        },
    ];
    for action in actions {
        let make = || {
            let c = Channel::new(Abi::Fifo);
            assert_eq!(alloc_unbound(c.dom1(), SELF, 0), (0, c.theirs + 1));
            c
        };
        let runs = explore(bounds, make, &[action, &end], |c| {
            assert!(c.world.hv.domains.get(c.dom1().domain.facts.id).is_none());
            for port in 1..4 {
                assert_ne!(state(c.dom0(), port), EVTCHNSTAT_INTERDOMAIN, "{port}");
            }
        });
        println!("the end: {runs} orders");
    }
}

/// A UART that comes while its domain goes: its page and its port do not stay behind.
#[test]
#[cfg_attr(miri, ignore)]
fn a_uart_is_made_for_a_domain_that_ends() {
    let make = |world: &World| {
        let wanted = DomctlVuartOp {
            cmd: XEN_DOMCTL_VUART_OP_INIT,
            kind: XEN_DOMCTL_VUART_TYPE_VPL011,
            gfn: u64::from(RAM + 12),
            console_domid: 0,
            pad: [0; 2],
            evtchn: 0,
        };
        let result = domctl(&world.dom0, XEN_DOMCTL_VUART_OP, 1, wanted).0;
        assert!([0, EINVAL, ESRCH].contains(&result), "{result}");
    };
    let end = |world: &World| {
        let dying = &world.dom1.domain;
        while world.hv.destroy_domain(dying, &|| false).is_err() {}
    };
    let runs = explore(
        CHANNELS,
        || World::sized(Size::SMALL),
        &[&make, &end],
        |world| {
            // dom1 may be out of the table, and held here: not all of it can be accounted for.
            assert_eq!(world.dom1.domain.account.pages(), 0, "a page is kept");
            assert_eq!(open_ports(&world.dom1), 0);
        },
    );
    println!("vuart_op, the end: {runs} orders");
}

/// XSA-505: the FIFO grows, and a vCPU gets its control block, while another vCPU resets all.
#[test]
#[cfg_attr(miri, ignore)]
fn xsa_505_a_reset_while_the_fifo_grows() {
    let grow = |guest: &Guest| {
        let other = guest.on_vcpu(1);
        let control = EvtchnInitControl {
            control_gfn: u64::from(RAM + 22),
            offset: 0,
            vcpu: 1,
            link_bits: 0,
            _pad: [0; 7],
        };
        other.put(page(9), &control);
        let call = |command: u32| other.result(EVENT, &[u64::from(command), page(9), 1]);
        let done = call(EVTCHNOP_INIT_CONTROL);
        assert!([0, EINVAL].contains(&done), "{done}");
        let array_gfn = u64::from(RAM + 23);
        other.put(page(9), &EvtchnExpandArray { array_gfn });
        let done = call(EVTCHNOP_EXPAND_ARRAY);
        assert!([0, EOPNOTSUPP].contains(&done), "{done}");
    };
    both_abis(
        "reset; init_control and expand_array",
        &[&|c| assert_eq!(reset(c.dom1()), 0), &|c| grow(c.dom1())],
        nothing,
        |c| {
            // Without the FIFO no page of it is kept.
            let abi = c.dom1().domain.events.lock().abi();
            let page = c.dom1().mapping(RAM + 23).unwrap().mfn;
            let references = c.world.hv.frames.references(page);
            assert!(abi == evtchn::Abi::Fifo || references == 1, "{references}");
            // Whatever it has now, events arrive.
            let (result, port) = alloc_unbound(c.dom1(), SELF, 0);
            assert_eq!(result, 0);
            let (result, ours) = bind(c.dom0(), 1, port);
            assert_eq!((result, send(c.dom0(), ours)), (0, 0));
            // And it can be reset, and begin anew.
            assert_eq!(reset(c.dom1()), 0);
            go_fifo(c.dom1());
            c.world.check();
        },
    );
}
