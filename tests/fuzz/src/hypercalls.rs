//! Domains that make hypercalls and write their shared pages, one after the other.
//!
//! After every call all invariants of the machine are checked (`xenith_core::fakes::invariants`), and at the end that
//! nothing is left of the domains.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use xen_abi::hypercall::{HYPERVISOR_MULTICALL, MulticallEntry};
use xenith_core::addr::{IntId, Mfn, VcpuId};
use xenith_core::domain::{Domain, Stage};
use xenith_core::fakes::{ARG, Guest, Hv, LIST, RAM, Size, World, page};
use xenith_core::machine::Trigger;
use zerocopy::{FromZeros, IntoBytes};

use crate::input::Input;
use crate::operations::{self, Call};

/// How many steps one input may take.
const MAX_STEPS: usize = 96;
/// How often a call may be preempted.
const MAX_PREEMPTIONS: u32 = 100;
/// Where the calls of a multicall have their structures.
const SUB_ARGS: u64 = page(11);

/// A device of dom0's, which it can give away: the first of four frames, and the interrupt.
pub const DEVICE: u32 = 0x9010;
const DEVICE_IRQ: u16 = 34;

/// Returns a domain that lives, as a caller; it is held for one step only, so that it can end.
fn pick(hv: &Arc<Hv>, who: u8) -> Option<Guest> {
    let alive = |domain: &Arc<_>| Domain::stage(domain) == Stage::Alive;
    let domains: Vec<_> = hv.domains.all().filter(alive).collect();
    // dom0 can do most, so it does most.
    let index = (who & 31).saturating_sub(8);
    let domain = domains.get(usize::from(index) % domains.len())?.clone();
    let vcpu = VcpuId::new(u16::from(who >> 5) % domain.vcpus.len() as u16);
    Some(Guest {
        hv: hv.clone(),
        domain,
        vcpu,
        allocations: u32::MAX,
    })
}

pub fn run(bytes: &[u8]) {
    let World {
        hv,
        dom0,
        dom1,
        dom2,
        ..
    } = World::sized(Size::SMALL);
    // Room to claim and to grow into.
    for guest in [dom1, dom2] {
        let account = &guest.domain.account;
        account.set_limit(account.limit() + 16);
    }
    {
        let mut devices = dom0.domain.devices.lock();
        let memory = devices.permit_memory(Mfn::new(DEVICE), 4);
        memory.expect("memory");
        let interrupt = devices.permit_interrupt(IntId::new(DEVICE_IRQ), Trigger::Edge);
        interrupt.expect("memory");
    }
    let mut input = Input::new(bytes);
    if input.flag() {
        // Much must come together before entries of version 2 are used, so that is where half of all begin.
        make(&dom0, &operations::second_version());
    }
    drop(dom0);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let who = input.byte();
        let Some(mut guest) = pick(&hv, who) else {
            break;
        };
        match input.byte() {
            0..=159 => {
                let call = operations::decode(&mut input);
                make(&guest, &call);
            }
            160..=174 => {
                // Any number, any arguments.
                let number = input.below(72);
                let args = std::array::from_fn(|_| u64::from(operations::any(&mut input) as u32));
                call(&guest, number, &args);
            }
            175..=184 => multicall(&guest, &mut input),
            185..=219 => grant(&guest, &mut input),
            220..=234 => scribble(&guest, &mut input),
            235..=239 => {
                let every = input.pick(&[u32::MAX, 1, 2, 7]);
                hv.hal.interrupt_every.store(every, Ordering::SeqCst);
            }
            240..=247 => {
                // The next call is short of memory.
                guest.allocations = input.below(6);
                let call = operations::decode(&mut input);
                make(&guest, &call);
            }
            248..=250 => {
                let none = input.flag();
                hv.hal.no_mappings.store(none, Ordering::SeqCst);
            }
            _ => {
                let ticks = u64::from(input.half()) << 8;
                hv.hal.ticks.fetch_add(ticks, Ordering::SeqCst);
            }
        }
        drop(guest);
        hv.reap();
        hv.check();
    }
    hv.hal.interrupt_every.store(u32::MAX, Ordering::SeqCst);
    hv.end();
}

/// The pages with arguments are there, also if the guest gave them up. Returns false when no memory is left for that.
fn restore(guest: &Guest) -> bool {
    (8..13).all(|n| {
        let is_ram = |mapping: xenith_core::stage2::Mapping| mapping.ty.is_ram();
        guest.mapping(RAM + n).is_some_and(is_ram) || guest.restore(RAM + n)
    })
}

fn make(guest: &Guest, decoded: &Call) {
    if !restore(guest) {
        return;
    }
    guest.put(ARG, &decoded.structure[..]);
    guest.put(LIST, &decoded.list[..]);
    call(guest, decoded.number, &decoded.args);
}

fn call(guest: &Guest, number: u32, args: &[u64; 5]) {
    if !restore(guest) {
        return;
    }
    if let Some(called) = guest.call_at_most(number, args, MAX_PREEMPTIONS) {
        assert!(called.result >= -200, "call {number}: {called:?}");
    }
    for vcpu in &guest.domain.vcpus {
        vcpu.is_blocked.store(false, Ordering::SeqCst);
    }
    guest.hv.hal.console.lock().unwrap().clear();
    guest.hv.hal.flushed.lock().unwrap().clear();
}

/// Up to four calls at once, each with its own structure; the lists are the last one's.
fn multicall(guest: &Guest, input: &mut Input<'_>) {
    if !restore(guest) {
        return;
    }
    let count = 1 + input.below(4);
    for n in 0..u64::from(count) {
        let decoded = operations::decode(input);
        let at = SUB_ARGS + n * 512;
        guest.put(at, &decoded.structure[..]);
        guest.put(LIST, &decoded.list[..]);
        let mut entry = MulticallEntry::new_zeroed();
        entry.op = u64::from(decoded.number);
        for (to, from) in entry.args.iter_mut().zip(decoded.args) {
            *to = if from == ARG { at } else { from };
        }
        guest.put(ARG + n * entry.as_bytes().len() as u64, &entry);
    }
    let count = u64::from(count) + u64::from(input.byte() == 255);
    call(guest, HYPERVISOR_MULTICALL, &[ARG, count, 0, 0, 0]);
}

/// The guest writes an entry of its grant table, as the table's version has it.
fn grant(guest: &Guest, input: &mut Input<'_>) {
    let reference = operations::reference(input);
    let grants = guest.domain.grants.lock();
    let words: [_; 4] = std::array::from_fn(|n| grants.entry_word(reference, n));
    let low = match input.byte() {
        0..=159 => 1,
        160..=191 => 5,
        192..=200 => 2,
        201..=210 => 0,
        211..=220 => 3,
        _ => u32::from(input.half()),
    };
    let domain = u32::from(input.pick(&[0u16, 0, 1, 2, 3, 77]));
    let frame = operations::frame(input);
    let values = if grants.version() == 1 {
        [low | domain << 16, frame as u32, 0, 0]
    } else {
        // A page, a part of one for copies, or a grant of another's.
        match input.byte() {
            0..=127 => [low | domain << 16, 0, frame as u32, (frame >> 32) as u32],
            128..=191 => {
                let start = input.pick(&[0, 0, 8, 4000, 4095, 4097]);
                let window = start | input.pick(&[4096, 97, 96, 8, 1, 0, 0xffff]) << 16;
                let part = low & !3 | 1 | 1 << 8 | domain << 16;
                [part, window, frame as u32, (frame >> 32) as u32]
            }
            _ => {
                let through = low | 3 | domain << 16;
                let granter = u32::from(input.pick(&[0u16, 1, 2, 3]));
                [through, granter, operations::reference(input), 0]
            }
        }
    };
    let count = if grants.version() == 1 { 2 } else { 4 };
    for (word, value) in words.into_iter().zip(values).take(count).rev() {
        if let Some(word) = word {
            word.store(value, Ordering::SeqCst);
        }
    }
}

/// The guest writes where it shares a page: event words, FIFO blocks, `vcpu_info`.
fn scribble(guest: &Guest, input: &mut Input<'_>) {
    let value = match input.byte() {
        0..=63 => input.byte().into(),
        64..=127 => 1 << input.below(32),
        128..=191 => 0xe000_0000 | u32::from(input.byte()),
        _ => input.word(),
    };
    let index = u32::from(input.half()) % 1024;
    if input.flag() {
        guest.domain.shared_info_words()[index as usize].store(value, Ordering::SeqCst);
        return;
    }
    let frame = RAM + input.below(24);
    if let Some(mapping) = guest.mapping(frame).filter(|mapping| mapping.ty.is_ram()) {
        guest.hv.hal.words(mapping.mfn)[index as usize].store(value, Ordering::SeqCst);
    }
}
