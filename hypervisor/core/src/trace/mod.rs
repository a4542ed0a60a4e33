//! The trace: what each pCPU did and when, for a timeline (`scripts/trace2json`).
//!
//! Each pCPU writes fixed-size records into its own [`TraceRing`] ([`ring`]); nobody else touches it, so there is no lock.
//! Which [`Classes`] of events are written is a [`TraceMask`] that all pCPUs share: `trace=` sets it, and a debug key may
//! change it at any time. While a class is off its events cost one relaxed load and a branch. A full ring drops its oldest
//! records and knows how many. [`dump`] turns rings into lines for a console or into a file.
//!
//! The run loop is expected to call, `mask` being shared and `ring` its own:
//!
//! ```
//! use xenith_core::trace::{Classes, Event, Subject, TraceMask, TraceRing};
//! # use xenith_core::addr::{CpuId, DomId, VcpuId};
//! # let now = || 0u64;
//! let mask = TraceMask::new(Classes::ALL);
//! let mut ring = TraceRing::allocate(CpuId::new(0), 1024).unwrap();
//! let (old, new) = (Subject::IDLE, Subject::vcpu(DomId::DOM0, VcpuId::new(0)));
//!
//! // A context switch, when the new vCPU's state is live, and the changes of run state that go with it.
//! ring.record(&mask, now, Event::Switch, new, [old.packed(), 0]);
//! ring.record(&mask, now, Event::Runstate, new, [0, 1]); // RUNSTATE_running, was RUNSTATE_runnable
//! // A trap, first thing after `enter_guest`; and just before the next `enter_guest`.
//! ring.record(&mask, now, Event::Trap, new, [0x12, 0xc010_0000]); // HSR.EC, PC
//! ring.record(&mask, now, Event::Enter, new, [0, 0]);
//! // A physical interrupt, when it was acknowledged; a virtual one, when it is written to a list register.
//! ring.record(&mask, now, Event::Interrupt, new, [27, 0]);
//! ring.record(&mask, now, Event::Inject, new, [31, 0]);
//! // A hypercall, before and after it is dispatched.
//! ring.record(&mask, now, Event::Hypercall, new, [32, 4]); // r12, r0
//! ring.record(&mask, now, Event::HypercallEnd, new, [32, 0]); // r12, result
//! // A wake-up, by whoever causes it; an IPI, by its sender.
//! ring.record(&mask, now, Event::Wake, new, [0, 0]);
//! ring.record(&mask, now, Event::SendIpi, new, [0, 1]); // kind, target pCPU
//! ```

pub mod dump;
mod ring;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{DomId, VcpuId};

pub use ring::TraceRing;

bitflags! {
    /// Classes of events, which are switched on and off together. The bit is the high byte of the event's code.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Classes: u32 {
        /// Context switches and migrations.
        const SWITCH = 1 << 0;
        /// Changes of run states.
        const RUNSTATE = 1 << 1;
        /// Traps, and entries to the guest.
        const TRAP = 1 << 2;
        /// Physical and virtual interrupts.
        const IRQ = 1 << 3;
        /// Hypercalls.
        const HYPERCALL = 1 << 4;
        /// Wake-ups.
        const WAKE = 1 << 5;
        /// Interrupts between pCPUs.
        const IPI = 1 << 6;
        /// All of them.
        const ALL = 0x7f;
    }
}

/// The classes by the names that `trace=` takes.
const NAMES: [(&str, Classes); 8] = [
    ("all", Classes::ALL),
    ("switch", Classes::SWITCH),
    ("runstate", Classes::RUNSTATE),
    ("trap", Classes::TRAP),
    ("irq", Classes::IRQ),
    ("hypercall", Classes::HYPERCALL),
    ("wake", Classes::WAKE),
    ("ipi", Classes::IPI),
];

impl Classes {
    /// Returns the classes that a list separated by commas names (`switch,irq`; `all`; `none`), or `None` when one of the
    /// words is unknown. `-NAME` takes a class away from those before it (`all,-trap`).
    pub fn parse(list: &str) -> Option<Self> {
        if matches!(list, "none" | "off" | "no" | "0") {
            return Some(Self::empty());
        }
        let mut classes = Self::empty();
        for word in list.split(',') {
            let (name, is_removed) = match word.strip_prefix('-') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let (_, named) = NAMES.iter().find(|(known, _)| *known == name)?;
            classes.set(*named, !is_removed);
        }
        Some(classes)
    }
}

/// The classes that are on: one for the machine, shared by all pCPUs.
#[derive(Debug, Default)]
pub struct TraceMask(AtomicU32);

impl TraceMask {
    /// Creates a mask.
    pub const fn new(classes: Classes) -> Self {
        Self(AtomicU32::new(classes.bits()))
    }

    /// Returns what is on.
    pub fn classes(&self) -> Classes {
        Classes::from_bits_truncate(self.0.load(Ordering::Relaxed))
    }

    /// Switches these classes on and all others off. The other pCPUs see it soon, not at once.
    pub fn set(&self, classes: Classes) {
        self.0.store(classes.bits(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn is_on(&self, event: Event) -> bool {
        self.0.load(Ordering::Relaxed) & event.class().bits() != 0
    }
}

/// What happened. The high byte of the number is the class. `a` and `b` are the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Event {
    /// The pCPU runs the subject from now on ([`Subject::IDLE`]: nobody). `a`: who ran until now, packed.
    Switch = 0x0001,
    /// The subject runs on another pCPU than the last time. `a`: the old pCPU; `b`: the new one.
    Migrate = 0x0002,
    /// The subject's run state changed. `a`: the new one (RUNSTATE_*); `b`: the old one.
    Runstate = 0x0101,
    /// The guest left to the hypervisor. `a`: the exception class (HSR.EC), or 0x100 for an interrupt; `b`: PC (low half).
    Trap = 0x0201,
    /// The guest goes on.
    Enter = 0x0202,
    /// A physical interrupt was acknowledged. `a`: INTID.
    Interrupt = 0x0301,
    /// An interrupt was given to the subject. `a`: INTID.
    Inject = 0x0302,
    /// The subject called the hypervisor. `a`: the number; `b`: the first argument (low half).
    Hypercall = 0x0401,
    /// The hypercall returned. `a`: the number; `b`: the result (low half).
    HypercallEnd = 0x0402,
    /// The subject can run again.
    Wake = 0x0501,
    /// The pCPU interrupts another one. `a`: what for (0 event check, the one kind there is); `b`: the pCPU.
    SendIpi = 0x0601,
}

impl Event {
    /// Every event.
    pub const EVERY: [Self; 11] = [
        Self::Switch,
        Self::Migrate,
        Self::Runstate,
        Self::Trap,
        Self::Enter,
        Self::Interrupt,
        Self::Inject,
        Self::Hypercall,
        Self::HypercallEnd,
        Self::Wake,
        Self::SendIpi,
    ];

    /// Returns the class.
    #[inline(always)]
    pub const fn class(self) -> Classes {
        Classes::from_bits_retain(1 << (self as u16 >> 8))
    }

    /// Returns the event with this number.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::EVERY.into_iter().find(|event| *event as u16 == code)
    }
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    domain: u16,
    vcpu: u16,
}

impl Subject {
    /// No vCPU: the pCPU idles (DOMID_IDLE).
    pub const IDLE: Self = Self {
        domain: 0x7fff,
        vcpu: 0,
    };

    /// A vCPU.
    pub const fn vcpu(domain: DomId, vcpu: VcpuId) -> Self {
        Self {
            domain: domain.raw(),
            vcpu: vcpu.raw(),
        }
    }

    /// Returns it as an argument of an event: the domain in the high half, the vCPU in the low one.
    pub const fn packed(self) -> u32 {
        (self.domain as u32) << 16 | self.vcpu as u32
    }
}

/// An event as it is kept and dumped: 24 bytes, little-endian (which all supported machines are).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Record {
    /// When, in ticks of [`Header::frequency`].
    pub time: u64,
    /// What: [`Event`].
    pub code: u16,
    /// The pCPU.
    pub cpu: u16,
    /// The domain that it is about; 0x7fff for none.
    pub domain: u16,
    /// The vCPU of that domain.
    pub vcpu: u16,
    /// Arguments, as [`Event`] says.
    pub arguments: [u32; 2],
}

/// [`Header::magic`]: "XTRC".
pub const MAGIC: u32 = u32::from_le_bytes(*b"XTRC");
/// [`Header::version`]. A change that an old reader would misunderstand adds one.
pub const VERSION: u16 = 1;

/// What a reader must know before the records: 24 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u16,
    /// Size of [`Record`] in bytes. A reader skips what it does not know at the end of each.
    pub record_bytes: u16,
    /// Ticks in a second.
    pub frequency: u32,
    /// Number of pCPUs of the machine.
    pub cpu_count: u16,
    /// 0.
    pub reserved: u16,
    /// The tick at system time 0.
    pub boot_ticks: u64,
}

impl Header {
    /// Creates the header of this version.
    pub const fn new(frequency: u32, cpu_count: u16, boot_ticks: u64) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            record_bytes: size_of::<Record>() as u16,
            frequency,
            cpu_count,
            reserved: 0,
            boot_ticks,
        }
    }
}

/// What stands before the records of one pCPU: 24 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Section {
    /// The pCPU.
    pub cpu: u16,
    /// 0.
    pub reserved: u16,
    /// How many records follow.
    pub count: u32,
    /// The number of the first one. Records count from 0 since the trace began, so as many were lost.
    pub first: u64,
    /// 0.
    pub reserved2: u64,
}

const _: () = assert!(
    size_of::<Record>() == 24 && size_of::<Header>() == 24 && size_of::<Section>() == 24,
    "three bytes are four characters: 24 bytes need no padding in a dump"
);
