//! Every call with every argument: nothing panics, no lock stays held, no frame is lost.

use std::sync::atomic::Ordering;

use crate::fakes::{ARG, Guest, LIST, NOWHERE, RAM, World, page};
use crate::frames::tests::Rng;

/// Numbers that mean something somewhere.
fn number(rng: &mut Rng) -> u64 {
    match rng.below(14) {
        0 => 0,
        1 => rng.below(4).into(),
        2 => rng.below(64).into(),
        3 | 4 => u64::from(RAM + rng.below(80)),
        5 => page(rng.below(64)) + u64::from(rng.below(512) * 8),
        6 => ARG,
        7 => LIST + u64::from(rng.below(64) * 8),
        8 => NOWHERE,
        9 => 0x7ff0,
        10 => u64::from(rng.next() as u32),
        11 => rng.next(),
        12 => u64::MAX >> rng.below(64),
        _ => 0x9_0000 + u64::from(rng.below(16)),
    }
}

fn fill(guest: &Guest, rng: &mut Rng, at: u64) {
    let words: Vec<u32> = (0..96)
        .map(|_| {
            let value = number(rng);
            // 16-bit fields side by side, and the low half of 64-bit ones followed by their high half.
            match rng.below(3) {
                0 => value as u32,
                1 => (value as u32 & 0xffff) | (number(rng) as u32) << 16,
                _ => 0,
            }
        })
        .collect();
    guest.put(at, &words[..]);
}

/// With `scarce`, memory is out after some allocations of a call.
fn run(seed: u64, calls: u32, scarce: bool) {
    let world = World::new();
    let mut rng = Rng::new(seed);
    let guests = [&world.dom0, &world.dom1, &world.dom2];
    for call in 0..calls {
        let mut guest = guests[rng.below(3) as usize].on_vcpu(rng.below(2) as u16);
        world.hv.hal.interrupt_every.store(
            [u32::MAX, 1, 3, 40][rng.below(4) as usize],
            Ordering::SeqCst,
        );
        // Pages 8 to 12 hold the arguments; a guest that gave them up gets them back.
        for n in 8..13 {
            if guest
                .mapping(RAM + n)
                .is_none_or(|mapping| !mapping.ty.is_ram())
            {
                guest.restore(RAM + n);
            }
        }
        fill(&guest, &mut rng, ARG);
        fill(&guest, &mut rng, LIST);
        let number_of_call = [
            7,
            12,
            12,
            12,
            13,
            17,
            18,
            20,
            20,
            20,
            21,
            24,
            29,
            32,
            32,
            32,
            33,
            34,
            rng.below(70),
        ][rng.below(19) as usize];
        let mut args = [0; 5];
        args[0] = match rng.below(8) {
            0 => number(&mut rng),
            1 => u64::from(rng.below(32) | rng.below(8) << 6),
            _ => rng.below(30).into(),
        };
        args[1] = match rng.below(5) {
            0 => number(&mut rng),
            1 => u64::from(rng.below(3)),
            _ => ARG,
        };
        args[2] = match rng.below(3) {
            0 => number(&mut rng),
            1 => ARG,
            _ => 1 + u64::from(rng.below(8)),
        };
        args.iter_mut().for_each(|arg| *arg &= u64::from(u32::MAX));
        if number_of_call == 7 {
            args[0] = ARG;
        }
        if number_of_call == 13 {
            args[0] = LIST;
            args[1] = rng.below(6).into();
        }
        if scarce {
            guest.allocations = [0, 0, 1, 2, u32::MAX][rng.below(5) as usize];
        }
        let called = guest.call_at_most(number_of_call, &args, 50);
        if let Some(called) = called {
            assert!(
                called.result >= -200,
                "seed {seed}, call {call}: {called:?}"
            );
        }
        if call % 16 == 0 {
            world.check();
        }
        guest
            .domain
            .vcpus
            .iter()
            .for_each(|vcpu| vcpu.is_blocked.store(false, Ordering::SeqCst));
        world.hv.hal.console.lock().unwrap().clear();
    }
    world.check();
    world.end();
}

#[test]
fn no_call_does_harm() {
    for seed in 1..=3 {
        println!("seed {seed}");
        run(seed, 1000, false);
    }
}

/// An allocation that cannot fail would end this test.
#[test]
fn no_call_needs_memory() {
    for seed in 4..=6 {
        println!("seed {seed}");
        run(seed, 1000, true);
    }
}
