//! A guest that writes anything into the shared words, at random and while the hypervisor works.

use std::sync::atomic::AtomicBool;

use super::*;

/// Every call with any arguments.
fn any_call(c: &mut Channels, rng: &mut Rng, pages: &mut Vec<FakePage>) {
    let port = Port::new(match rng.below(8) {
        0 => rng.next() as u32,
        1 => rng.below(131_073),
        _ => rng.below(300),
    });
    let vcpu = if rng.below(8) == 0 {
        rng.next() as u32
    } else {
        rng.below(4)
    };
    let page = |pages: &mut Vec<FakePage>| {
        let page = FakePage::new();
        pages.push(page.clone());
        page
    };
    match rng.below(40) {
        0..=2 => {
            let _ = c.bind_ipi(vcpu);
        }
        3..=4 => {
            let _ = c.alloc_unbound(DomId::DOM0);
        }
        5..=6 => {
            let _ = c.bind_interdomain_self(port);
        }
        7 => {
            let _ = c.bind_virq(rng.below(26), vcpu);
        }
        8 => {
            let _ = c.bind_vcpu(port, vcpu);
        }
        9..=10 => {
            let _ = c.close(port);
        }
        11 => {
            let _ = c.status(port);
        }
        12..=14 => {
            let _ = c.unmask(port);
        }
        15 => {
            let _ = c.set_priority(port, rng.below(18));
        }
        16 => {
            let call = if rng.below(2) == 0 {
                ResetCall::Begin
            } else {
                ResetCall::Continue
            };
            if rng.below(8) == 0 {
                let _ = c.reset(call, rng.below(300));
            }
        }
        17 => {
            let _ = c.init_control(vcpu, page(pages), rng.below(520) * 8);
        }
        18 => {
            if rng.below(4) == 0 {
                let _ = c.expand_array(page(pages));
            }
        }
        19 => {
            let offset = rng.below(520) * 8;
            let vcpu = VcpuId::new(vcpu as u16);
            let _ = c.register_vcpu_info(vcpu, page(pages), offset);
        }
        20 => {
            let _ = c.poll(VcpuId::new(vcpu as u16), &[port]);
        }
        21 => c.end_poll(VcpuId::new(vcpu as u16)),
        22 => {
            let _ = c.take_woken().count();
        }
        23 => {
            let _ = c.raise_virq(VcpuId::new(vcpu as u16), Virq::TIMER);
        }
        24 => {
            let _ = c.unregister_vcpu_info(VcpuId::new(vcpu as u16));
        }
        25 => {
            let _ = c.upcall_pending(VcpuId::new(vcpu as u16));
        }
        26 => {
            let mut out = String::new();
            c.dump(&mut out).unwrap();
        }
        _ => {
            let _ = c.send(port);
        }
    }
}

fn scribble(rng: &mut Rng, pages: &[FakePage]) {
    for _ in 0..rng.below(20) {
        let page = &pages[rng.below(pages.len() as u32) as usize];
        let index = if rng.below(2) == 0 {
            rng.below(1024)
        } else {
            rng.below(40)
        } as usize;
        let value = match rng.below(6) {
            0 => 0,
            1 => u32::MAX,
            2 => FIFO_LINKED | rng.below(300),
            3 => FIFO_PENDING | FIFO_LINKED,
            _ => rng.next() as u32,
        };
        page.set(index, value);
    }
}

/// What must hold whatever the guest wrote.
fn check(c: &mut Channels) {
    let mut open = 0;
    let channels: Vec<_> = c
        .table
        .iter_mut()
        .map(|(port, ch)| (port, ch.state))
        .collect();
    for &(port, state) in &channels {
        open += u32::from(state.is_usable());
        match state {
            State::Interdomain { domain, port: peer } => {
                assert_eq!(domain, DomId::DOM0);
                let back = State::Interdomain { domain, port };
                assert_eq!(c.state(peer), Ok(back), "{port:?} names {peer:?}");
            }
            State::Virq(virq) => {
                let holders = c.vcpus.iter().filter(|v| v.virqs[virq.index()] == port);
                assert_eq!(holders.count(), 1);
            }
            State::Reserved => assert_eq!(port, Port::new(0)),
            State::Free | State::Unbound { .. } | State::Ipi => {}
        }
    }
    assert_eq!(c.table.open_count(), open);
    for vcpu in &c.vcpus {
        for (number, port) in vcpu.virqs.iter().enumerate() {
            if *port != Port::new(0) {
                let virq = Virq::new(number as u32).unwrap();
                assert_eq!(c.state(*port), Ok(State::Virq(virq)));
            }
        }
        for tail in vcpu.tails {
            assert!(c.table.get(tail).is_some());
        }
    }
    let polling = c.vcpus.iter().filter(|v| v.polling != Polling::No);
    assert_eq!(polling.count(), usize::from(c.polling_count));
}

#[test]
fn xsa_343_any_calls_over_scribbled_words_keep_the_table_sound() {
    for seed in 1..=if cfg!(miri) { 1 } else { 30u64 } {
        let seed = seed.wrapping_mul(0x2127_599b_f432_5c37);
        let result = std::panic::catch_unwind(|| {
            let mut rng = Rng(seed);
            let (mut c, shared) = dom0(3);
            let mut pages = vec![shared];
            for step in 0..if cfg!(miri) { 200 } else { 3000 } {
                scribble(&mut rng, &pages);
                any_call(&mut c, &mut rng, &mut pages);
                if step % 50 == 0 {
                    check(&mut c);
                }
            }
            check(&mut c);
        });
        assert!(result.is_ok(), "seed {seed:#x}");
    }
}

/// XSA-358 and 359: the same while another CPU scribbles. It ends, which is the test: no loop waits for the guest.
#[test]
fn xsa_358_and_359_a_guest_scribbling_meanwhile_cannot_hold_the_hypervisor() {
    let mut rng = Rng(0xfeed);
    let (mut c, shared) = dom0(2);
    let (control, array) = (FakePage::new(), FakePage::new());
    c.init_control(0, control.clone(), 0).unwrap();
    c.init_control(1, FakePage::new(), 0).unwrap();
    assert!(c.expand_array(array.clone()).unwrap().is_empty());
    for vcpu in 0..100 {
        c.bind_ipi(vcpu % 2).unwrap();
    }
    let stop = AtomicBool::new(false);
    let pages = [shared, control, array];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng(0xabcd);
            while !stop.load(SeqCst) {
                scribble(&mut rng, &pages);
            }
        });
        let rounds = if cfg!(miri) { 100 } else { 100_000 };
        for _ in 0..rounds {
            let port = Port::new(1 + rng.below(100));
            if rng.below(4) == 0 {
                let _ = c.unmask(port);
            } else {
                let _ = c.send(port);
            }
        }
        stop.store(true, SeqCst);
    });
    check(&mut c);
}

#[test]
fn xsa_338_a_port_lost_to_linked_words_costs_bounded_work() {
    // Every free port claims to be on a queue: allocation gives up instead of searching 131072 ports.
    let (mut c, _) = dom0(1);
    c.init_control(0, FakePage::new(), 0).unwrap();
    let page = FakePage::filled(FIFO_LINKED);
    for _ in 0..128 {
        assert!(c.expand_array(page.clone()).unwrap().is_empty());
    }
    assert_eq!(c.bind_ipi(0), Err(Errno::NoSpc));
    assert!(c.table.len() <= 1200, "the table grew for nothing");
}
