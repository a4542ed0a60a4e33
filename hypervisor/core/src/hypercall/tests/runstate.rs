//! Run states: what a guest and the toolstack see of who waits for what.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use xen_abi::hypercall::*;
use xen_abi::misc::*;
use xen_abi::vcpu::*;

use super::errno::*;
use crate::addr::{CpuId, GuestVirt, VcpuId};
use crate::domain::RunState;
use crate::fakes::{ARG, NOWHERE, World};
use crate::machine::{Fault, GuestMemory};
use crate::runstate::publish;
use crate::time::TickScale;

#[test]
fn runstate_is_written_at_once() {
    let world = World::new();
    let dom1 = &world.dom1;
    dom1.domain.vcpus[0]
        .runstate
        .lock()
        .change(RunState::Running, 1000 + 62_500);
    dom1.put(ARG, &[0x4000_6010u32, 0xdddd_dddd]);
    assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[5, 0, ARG]), 0);
    let info: VcpuRunstateInfo = dom1.get(0x4000_6010);
    assert_eq!((info.state, info.state_entry_time), (0, 1_000_000));
    assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[5, 7, ARG]), ENOENT);
    assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[5, 0, NOWHERE]), EFAULT);
    // An area that is not mapped is the guest's own loss.
    dom1.put(ARG, &0u32);
    assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[5, 0, ARG]), 0);
    assert_eq!(dom1.domain.vcpus[0].runstate_address(), None);
}

#[test]
fn the_state_says_what_keeps_a_vcpu_from_running() {
    let world = World::new();
    let domain = &world.dom1.domain;
    let vcpu = &domain.vcpus[0];
    let pass = |ticks| 1000 + world.cpus.passed.fetch_add(ticks, Ordering::SeqCst) + ticks;
    let state = || vcpu.runstate.lock().state;
    domain.set_offline(vcpu, false);
    let began = *vcpu.runstate.lock();
    assert_eq!(began.state, RunState::Runnable);

    let change = vcpu.change_runstate(true, pass(10));
    assert_eq!(change, (RunState::Runnable, RunState::Running));
    // Whatever happens to it while it is on a pCPU: it runs until that leaves it.
    domain.pause();
    assert_eq!(state(), RunState::Running);
    vcpu.change_runstate(false, pass(100));
    assert_eq!(state(), RunState::Offline);
    domain.pause();
    pass(1000);
    domain.unpause();
    assert_eq!(state(), RunState::Offline, "one of two");
    domain.unpause();
    assert_eq!(state(), RunState::Runnable);

    // It waits, is paused meanwhile, and what it waits for comes: then only the pause keeps it.
    vcpu.change_runstate(true, pass(20));
    vcpu.is_blocked.store(true, Ordering::SeqCst);
    vcpu.change_runstate(false, pass(200));
    domain.pause();
    assert_eq!(state(), RunState::Blocked);
    pass(10_000);
    domain.wake(VcpuId::new(0));
    assert_eq!(state(), RunState::Offline);
    pass(2000);
    domain.unpause();
    assert_eq!(state(), RunState::Runnable);

    // The wake came before the pCPU noted that it waits: it does not wait.
    vcpu.change_runstate(true, pass(30));
    vcpu.is_blocked.store(true, Ordering::SeqCst);
    domain.wake(VcpuId::new(0));
    assert_eq!(state(), RunState::Running);
    vcpu.change_runstate(false, pass(300));
    assert_eq!(state(), RunState::Runnable);
    pass(40);
    domain.set_offline(vcpu, true);
    assert_eq!(state(), RunState::Offline);

    let end = *vcpu.runstate.lock();
    let spent: Vec<u64> = end
        .spent
        .iter()
        .zip(began.spent)
        .map(|(end, began)| end - began)
        .collect();
    assert_eq!(spent, [600, 10 + 20 + 30 + 40, 10_000, 3000]);
}

/// A guest's memory, and how often it was written.
struct Counted<'a, M>(&'a M, RefCell<usize>);

impl<M: GuestMemory> GuestMemory for Counted<'_, M> {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        self.0.read(from, buf)
    }
    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
        *self.1.borrow_mut() += 1;
        self.0.write(to, buf)
    }
}

#[test]
fn a_guest_that_asks_for_the_update_flag_gets_the_area_in_its_order() {
    let world = World::new();
    let dom1 = &world.dom1;
    let vcpu = &dom1.domain.vcpus[0];
    let area = 0x4000_6010u32;
    dom1.put(ARG, &[area, 0]);
    assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[5, 0, ARG]), 0);
    let published = |now: u64| {
        let space = dom1.space();
        let memory = Counted(&space, RefCell::new(0));
        vcpu.change_runstate(true, 1000 + now);
        let clock = *vcpu.runstate.lock();
        let scale = TickScale::new(62_500_000);
        publish(&dom1.domain, vcpu, &clock, &scale, 1000, &memory);
        let info: VcpuRunstateInfo = dom1.get(area.into());
        (memory.1.into_inner(), info.state, info.state_entry_time)
    };
    assert_eq!(published(62_500), (1, 0, 1_000_000));
    let assist = |command| {
        let kind = VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
        dom1.result(HYPERVISOR_VM_ASSIST, &[u64::from(command), u64::from(kind)])
    };
    assert_eq!(assist(VMASST_CMD_ENABLE), 0);
    // The flag first, then the rest, then the flag goes: what lies between, `crate::runstate` tests.
    assert_eq!(published(125_000), (3, 0, 2_000_000));
    assert_eq!(assist(VMASST_CMD_DISABLE), 0);
    assert_eq!(published(187_500), (1, 0, 3_000_000));
}

#[test]
fn another_vcpu_of_the_domain_on_a_pcpu_finds_no_old_translations() {
    let world = World::new();
    let domain = &world.dom1.domain;
    let runs = |cpu, vcpu| domain.note_runs(CpuId::new(cpu), VcpuId::new(vcpu));
    assert!(!runs(0, 0), "nothing of the domain is there");
    assert!(!runs(0, 0), "its own");
    assert!(!runs(1, 1));
    assert!(runs(0, 1), "the other one's");
    assert!(!runs(0, 1));
    assert!(runs(0, 0));
    assert!(!runs(1, 1), "each pCPU for itself");
    assert!(runs(500, 0), "a pCPU that nobody knows");
}

#[test]
fn a_vcpu_that_moves_says_from_where() {
    let world = World::new();
    let vcpu = &world.dom1.domain.vcpus[0];
    let (first, second) = (CpuId::new(0), CpuId::new(1));
    assert_eq!((vcpu.last_cpu(), vcpu.load_on(second)), (first, None));
    assert_eq!(vcpu.loaded_on(), Some(second));
    vcpu.unload();
    assert_eq!((vcpu.loaded_on(), vcpu.last_cpu()), (None, second));
    assert_eq!(vcpu.load_on(second), None);
    vcpu.unload();
    assert_eq!(vcpu.load_on(first), Some(second));
}
