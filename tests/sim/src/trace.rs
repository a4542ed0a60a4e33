//! Records what happens in the simulator as the hypervisor records it, for `scripts/trace2json`.

use std::cell::RefCell;
use std::rc::Rc;

use xenith_core::addr::CpuId;
use xenith_core::trace::dump::write_binary;
use xenith_core::trace::{Classes, Event, Header, Subject, TraceMask, TraceRing};

use crate::{Happening, Observer, Who};

/// INTID of the hypervisor's timer (PPI), which stands for the policy's timer.
const TIMER_INTID: u32 = 26;

/// A ring for each pCPU, shared by the simulator, which writes, and the test, which reads.
#[derive(Clone)]
pub struct Trace(Rc<RefCell<Rings>>);

struct Rings {
    mask: TraceMask,
    rings: Vec<TraceRing>,
}

impl Trace {
    /// Makes rings of `records` records for the pCPUs 0 to `cpus`, exclusive.
    pub fn new(cpus: u16, records: usize) -> Self {
        let rings = (0..cpus).map(|cpu| TraceRing::allocate(CpuId::new(cpu), records).unwrap());
        Self(Rc::new(RefCell::new(Rings {
            mask: TraceMask::new(Classes::ALL),
            rings: rings.collect(),
        })))
    }

    /// Returns what [`crate::Simulator::observe`] takes.
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(self.clone())
    }

    /// Returns the file that `scripts/trace2json` reads. Times are ns.
    pub fn file(&self) -> Vec<u8> {
        let rings = &self.0.borrow().rings;
        let header = Header::new(1_000_000_000, rings.len() as u16, 0);
        let mut file = Vec::new();
        write_binary(&header, rings, |bytes| file.extend_from_slice(bytes));
        file
    }

    /// Returns how many records were overwritten.
    pub fn lost(&self) -> u64 {
        self.0.borrow().rings.iter().map(TraceRing::first).sum()
    }
}

fn subject(who: Option<Who>) -> Subject {
    who.map_or(Subject::IDLE, |who| Subject::vcpu(who.domain, who.vcpu))
}

impl Observer for Trace {
    fn event(&mut self, time: u64, cpu: CpuId, what: Happening) {
        let (event, about, arguments) = match what {
            Happening::Switch { from, to } => {
                (Event::Switch, subject(to), [subject(from).packed(), 0])
            }
            Happening::RunState { who, from, to } => {
                let states = [to as u32, from as u32];
                (Event::Runstate, subject(Some(who)), states)
            }
            Happening::Migrate { who, from } => {
                let pcpus = [from.index() as u32, cpu.index() as u32];
                (Event::Migrate, subject(Some(who)), pcpus)
            }
            Happening::Wake(who) => (Event::Wake, subject(Some(who)), [0; 2]),
            Happening::Ipi(target) => (Event::SendIpi, Subject::IDLE, [0, target.index() as u32]),
            Happening::Timer => (Event::Interrupt, Subject::IDLE, [TIMER_INTID, 0]),
        };
        let Rings { mask, rings } = &mut *self.0.borrow_mut();
        if let Some(ring) = rings.get_mut(cpu.index()) {
            ring.record(mask, || time, event, about, arguments);
        }
    }
}
