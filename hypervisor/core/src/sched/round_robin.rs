//! The simplest policy that is fair: one queue, a time slice. Any pCPU takes the first waiting unit that may run there.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt::Write;

use super::{Affinity, CpuSet, Decision, DomainShare, Policy, PolicyParameters, UnitId};
use crate::addr::{CpuId, DomId};
use crate::errno::Errno;

/// Length of a time slice, in nanoseconds.
const SLICE_NS: u64 = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asleep,
    Waiting,
    Running(CpuId),
}

#[derive(Clone, Copy, Debug)]
struct Unit {
    state: State,
    hard: CpuSet,
}

#[derive(Clone, Copy, Debug)]
struct Cpu {
    is_present: bool,
    running: Option<UnitId>,
    slice_end: u64,
}

/// The policy.
#[derive(Debug, Default)]
pub struct RoundRobin {
    units: Vec<Option<Unit>>,
    queue: VecDeque<UnitId>,
    cpus: Vec<Cpu>,
}

impl RoundRobin {
    fn unit(&mut self, unit: UnitId) -> Option<&mut Unit> {
        self.units.get_mut(unit.index())?.as_mut()
    }

    fn idle_cpu(&self, hard: &CpuSet) -> Option<CpuId> {
        (0..)
            .map(CpuId::new)
            .zip(&self.cpus)
            .find(|(cpu, it)| it.is_present && it.running.is_none() && hard.contains(*cpu))
            .map(|(cpu, _)| cpu)
    }

    fn enqueue(&mut self, unit: UnitId, kick: &mut CpuSet) {
        let Some(it) = self.unit(unit) else { return };
        it.state = State::Waiting;
        let hard = it.hard;
        self.queue.push_back(unit);
        match self.idle_cpu(&hard) {
            Some(cpu) => kick.insert(cpu),
            // They must see that their slice has an end now.
            None => *kick = kick.or(&hard.and(&self.present())),
        }
    }

    fn present(&self) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for (cpu, it) in (0..).map(CpuId::new).zip(&self.cpus) {
            if it.is_present {
                set.insert(cpu);
            }
        }
        set
    }
}

impl Policy for RoundRobin {
    fn id(&self) -> u32 {
        0
    }
    fn description(&self) -> &'static str {
        "round robin"
    }
    fn name(&self) -> &'static str {
        "rr"
    }

    fn add_cpu(&mut self, cpu: CpuId, _: u64) -> Result<(), Errno> {
        while self.cpus.len() <= cpu.index() {
            self.cpus.try_reserve(1).map_err(|_| Errno::NoMem)?;
            self.cpus.push(Cpu {
                is_present: false,
                running: None,
                slice_end: 0,
            });
        }
        self.cpus[cpu.index()].is_present = true;
        Ok(())
    }
    fn remove_cpu(&mut self, cpu: CpuId, _: u64, _: &mut CpuSet) {
        if let Some(it) = self.cpus.get_mut(cpu.index()) {
            it.is_present = false;
        }
    }
    fn add_domain(&mut self, _: DomId) -> Result<(), Errno> {
        Ok(())
    }
    fn remove_domain(&mut self, _: DomId) {}

    fn add_unit(
        &mut self,
        unit: UnitId,
        _: DomId,
        affinity: Affinity,
        _: u64,
    ) -> Result<(), Errno> {
        if self.units.len() <= unit.index() {
            let more = unit.index() + 1 - self.units.len();
            self.units.try_reserve(more).map_err(|_| Errno::NoMem)?;
            self.units.resize(unit.index() + 1, None);
        }
        self.queue
            .try_reserve(self.units.len())
            .map_err(|_| Errno::NoMem)?;
        self.units[unit.index()] = Some(Unit {
            state: State::Asleep,
            hard: affinity.hard,
        });
        Ok(())
    }
    fn remove_unit(&mut self, unit: UnitId, _: u64) {
        if let Some(slot) = self.units.get_mut(unit.index()) {
            *slot = None;
        }
    }
    fn set_affinity(&mut self, unit: UnitId, affinity: Affinity, _: u64, kick: &mut CpuSet) {
        if let Some(it) = self.unit(unit) {
            it.hard = affinity.hard;
            if let State::Running(cpu) = it.state {
                kick.insert(cpu);
            }
        }
    }

    fn wake(&mut self, unit: UnitId, _: u64, kick: &mut CpuSet) {
        if self.unit(unit).is_some_and(|it| it.state == State::Asleep) {
            self.enqueue(unit, kick);
        }
    }
    fn sleep(&mut self, unit: UnitId, _: u64, kick: &mut CpuSet) {
        let Some(it) = self.unit(unit) else { return };
        match core::mem::replace(&mut it.state, State::Asleep) {
            State::Asleep => {}
            State::Waiting => self.queue.retain(|&other| other != unit),
            State::Running(cpu) => kick.insert(cpu),
        }
    }
    fn yield_unit(&mut self, unit: UnitId) {
        if let Some(Unit {
            state: State::Running(cpu),
            ..
        }) = self.unit(unit).copied()
        {
            self.cpus[cpu.index()].slice_end = 0;
        }
    }

    fn schedule(&mut self, cpu: CpuId, now: u64, _: &mut CpuSet) -> Decision {
        let Some(&it) = self.cpus.get(cpu.index()) else {
            return Decision {
                unit: None,
                until: u64::MAX,
            };
        };
        let mut current = it.running.filter(|&unit| {
            self.unit(unit)
                .is_some_and(|it| it.state == State::Running(cpu) && it.hard.contains(cpu))
        });
        if let Some(unit) = it.running
            && current.is_none()
            && self
                .unit(unit)
                .is_some_and(|it| it.state == State::Running(cpu))
        {
            // Moved away.
            self.enqueue(unit, &mut CpuSet::EMPTY.clone());
        }
        let waiting = self
            .queue
            .iter()
            .position(|&unit| self.units[unit.index()].is_some_and(|it| it.hard.contains(cpu)));
        let mut until = it.slice_end;
        if current.is_none() || now >= it.slice_end {
            until = now + SLICE_NS;
            if let Some(place) = waiting
                && let Some(next) = self.queue.remove(place)
            {
                if let Some(old) = current {
                    self.enqueue(old, &mut CpuSet::EMPTY.clone());
                }
                current = Some(next);
            }
        }
        if let Some(unit) = current
            && let Some(it) = self.unit(unit)
        {
            it.state = State::Running(cpu);
        }
        self.cpus[cpu.index()].running = current;
        self.cpus[cpu.index()].slice_end = until;
        Decision {
            unit: current,
            until: if self.queue.is_empty() {
                u64::MAX
            } else {
                until
            },
        }
    }

    fn next_timer(&self, _: CpuId) -> u64 {
        u64::MAX
    }
    fn timer(&mut self, _: CpuId, _: u64, _: &mut CpuSet) {}
    fn share(&self, _: DomId) -> Option<DomainShare> {
        None
    }
    fn set_share(&mut self, _: DomId, _: DomainShare) -> Result<(), Errno> {
        Err(Errno::NoSys)
    }
    fn parameters(&self) -> PolicyParameters {
        PolicyParameters::default()
    }
    fn set_parameters(&mut self, _: PolicyParameters) -> Result<(), Errno> {
        Err(Errno::NoSys)
    }
    fn dump(&self, out: &mut dyn Write) -> core::fmt::Result {
        writeln!(out, "waiting: {}", self.queue.len())
    }
}
