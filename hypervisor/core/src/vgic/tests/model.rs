//! Random operations of a well-behaved guest, compared with a model of an ideal GICv2, or GICv3 (no list registers, no vCPU that
//! is switched out): nothing lost, nothing twice, nothing that is disabled, by priority, with the right sender.

use super::super::{HAS_V3, Resample, Version};
use super::fuzz::Rng;
use super::{Machine, Width, gicr, vcpu};
use crate::addr::IntId;
use crate::machine::Trigger;

/// How an interrupt is wired in the test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Sgi,
    /// `set_pending` and GICD_ISPENDR only.
    Plain,
    /// `raise_level`, `lower_level`.
    Kept,
    Asked(Resample),
    LinkedLevel,
    LinkedEdge,
}

#[derive(Clone, Debug)]
struct Irq {
    kind: Kind,
    enabled: bool,
    latched: bool,
    sources: u8,
    line: bool,
    /// An asked line that is not resampled: a rise that was not delivered yet.
    announced: bool,
    /// Its line fell after it may have reached a list register: one spurious delivery is allowed.
    stale: bool,
    /// Two edges may be delivered as two, though one acknowledge would have been enough.
    extra: bool,
    /// The vCPU it is active on.
    active: Option<usize>,
    active_source: u8,
    level: u32,
    targets: u64,
    edge: bool,
}

impl Irq {
    fn pending(&self) -> bool {
        let line = match self.kind {
            Kind::Kept => self.line && !self.edge,
            Kind::Asked(Resample::OnRaise) => self.line && self.announced,
            Kind::Asked(Resample::OnEoi) | Kind::LinkedLevel => self.line,
            _ => false,
        };
        self.latched || self.sources != 0 || line
    }
}

struct Model {
    version: Version,
    machine: Machine,
    vcpus: usize,
    forwarding: bool,
    /// Private ones of each vCPU, then 64 SPIs.
    irqs: Vec<Irq>,
    /// What each vCPU has acknowledged, innermost last.
    stacks: Vec<Vec<usize>>,
    delivered: u32,
    overflows: u32,
}

fn kind_of(irq: usize) -> Kind {
    match irq {
        0..=15 => Kind::Sgi,
        27 => Kind::LinkedLevel,
        30 => Kind::Asked(Resample::OnEoi),
        31 => Kind::Asked(Resample::OnRaise),
        32..=35 => Kind::LinkedLevel,
        36..=39 => Kind::LinkedEdge,
        40..=47 => Kind::Kept,
        _ => Kind::Plain,
    }
}

impl Model {
    fn new(version: Version, vcpus: usize, lrs: usize) -> Self {
        let mut machine = Machine::of(version, vcpus, lrs);
        machine
            .vgic
            .link_hw(
                IntId::new(27),
                IntId::new(27),
                Trigger::Level,
                &mut machine.host,
            )
            .unwrap();
        machine
            .vgic
            .ask_line(IntId::new(30), Resample::OnEoi)
            .unwrap();
        machine
            .vgic
            .ask_line(IntId::new(31), Resample::OnRaise)
            .unwrap();
        for ppis in &mut machine.host.ppis {
            (ppis[27].linked, ppis[27].virq, ppis[27].enabled) = (true, 27, true);
        }
        for raw in 32..40u16 {
            let trigger = if raw < 36 {
                Trigger::Level
            } else {
                Trigger::Edge
            };
            machine
                .vgic
                .link_hw(IntId::new(raw), IntId::new(raw), trigger, &mut machine.host)
                .unwrap();
            let phys = &mut machine.host.spis[usize::from(raw)];
            (phys.linked, phys.virq, phys.edge) = (true, raw, raw >= 36);
        }
        let irq = |raw: usize, targets| Irq {
            kind: kind_of(raw),
            enabled: raw < 16 && version == Version::V2,
            latched: false,
            sources: 0,
            line: false,
            announced: false,
            stale: false,
            extra: false,
            active: None,
            active_source: 0,
            level: 0,
            targets,
            edge: matches!(kind_of(raw), Kind::Sgi | Kind::LinkedEdge),
        };
        let private = (0..vcpus).flat_map(|cpu| (0..32).map(move |raw| (raw, 1 << cpu)));
        let irqs = private
            .chain((32..96).map(|raw| (raw, 1)))
            .map(|(raw, targets)| irq(raw, targets))
            .collect();
        let stacks = vec![vec![]; vcpus];
        Self {
            version,
            machine,
            vcpus,
            forwarding: false,
            irqs,
            stacks,
            delivered: 0,
            overflows: 0,
        }
    }

    fn index(&self, cpu: usize, raw: usize) -> usize {
        if raw < 32 {
            cpu * 32 + raw
        } else {
            (self.vcpus - 1) * 32 + raw
        }
    }

    fn raw(&self, index: usize) -> usize {
        if index < self.vcpus * 32 {
            index % 32
        } else {
            index - (self.vcpus - 1) * 32
        }
    }

    fn deliverable(&self, cpu: usize, index: usize) -> bool {
        let irq = &self.irqs[index];
        self.forwarding
            && irq.enabled
            && irq.active.is_none()
            && irq.targets.trailing_zeros() as usize == cpu
            && irq.pending()
    }

    fn best(&self, cpu: usize) -> Option<u32> {
        let running = self.stacks[cpu]
            .last()
            .map_or(32, |&index| self.irqs[index].level_when_taken());
        let all = 0..self.irqs.len();
        all.filter(|&index| self.deliverable(cpu, index))
            .map(|i| self.irqs[i].level)
            .min()
            .filter(|&l| l < running)
    }

    fn set_line(&mut self, cpu: usize, raw: usize, on: bool) {
        let index = self.index(cpu, raw);
        let irq = &mut self.irqs[index];
        if irq.line == on {
            return;
        }
        irq.line = on;
        let short = raw as u16;
        match irq.kind {
            Kind::Kept => {
                irq.latched |= on && irq.edge;
                self.machine.set_line(cpu, short, on);
            }
            Kind::Asked(_) => {
                irq.announced = on;
                irq.stale |= !on;
                self.machine.host.asked[cpu][raw] = on;
                if on {
                    self.machine.set_line(cpu, short, true);
                }
            }
            Kind::LinkedLevel => {
                irq.stale |= !on;
                let host = &mut self.machine.host;
                let phys = if raw < 32 {
                    &mut host.ppis[cpu][raw]
                } else {
                    &mut host.spis[raw]
                };
                phys.line = on;
                if on && raw < 32 && !host.loaded[cpu] {
                    // The hypervisor's own timer stands in for the guest's.
                    self.machine.set_line(cpu, short, true);
                }
                self.machine.settle();
            }
            _ => irq.line = false,
        }
    }

    fn is_v3(&self) -> bool {
        self.version == Version::V3
    }

    /// Where a register of a GICv2 is that belongs to interrupt `raw` of vCPU `of`.
    fn place(&self, of: usize, raw: usize, offset: u32) -> u32 {
        if self.is_v3() && raw < 32 {
            gicr(of, offset)
        } else {
            offset
        }
    }

    /// GICD_ITARGETSR or GICD_IROUTER; returns whom it names then.
    fn write_target(&mut self, cpu: usize, raw: usize, random: u32) -> u64 {
        if self.is_v3() {
            let target = random as usize % self.vcpus;
            let affinity = ((target / 16) << 8) | (target % 16);
            self.machine
                .write(cpu, 0x6000 + 8 * raw as u32, affinity as u32);
            return 1 << target;
        }
        let targets = random & 0xff;
        self.machine
            .write_width(cpu, 0x800 + raw as u32, Width::Byte, targets);
        if self.vcpus > 1 {
            u64::from(targets) & ((1 << self.vcpus) - 1)
        } else {
            1
        }
    }

    fn write_forwarding(&mut self, cpu: usize) {
        let on = u32::from(self.forwarding);
        self.machine.write(cpu, 0, on << u32::from(self.is_v3()));
    }

    /// A GICv3's system register that sends SGIs, to vCPUs of one cluster.
    fn send_sgi1r(&mut self, cpu: usize, sgi: usize, rng: &mut Rng) {
        let list = rng.next() & 0xffff;
        let cluster = rng.below(self.vcpus.div_ceil(16));
        let value = (sgi as u64) << 24 | (cluster as u64) << 16 | u64::from(list);
        let sent = self.machine.vgic.send_sgi1r(vcpu(cpu), value).unwrap();
        for target in 0..self.vcpus {
            if target / 16 == cluster && list & 1 << (target % 16) != 0 {
                self.irqs[target * 32 + sgi].sources = 1;
            }
        }
        for target in sent.iter() {
            assert!(self.machine.vgic.needs_flush(target));
        }
        self.machine.settle();
    }

    /// One register write to the distributor by `cpu`, on both sides.
    fn guest_write(&mut self, cpu: usize, rng: &mut Rng) {
        let raw = rng.below(96);
        // Whose, of what each vCPU has: others' can be reached with a GICv3 only.
        let of = if self.is_v3() && rng.chance(2) {
            rng.below(self.vcpus)
        } else {
            cpu
        };
        let index = self.index(of, raw);
        let is_fixed_sgi = raw < 16 && !self.is_v3();
        let word = 4 * (raw as u32 / 32);
        let bit = 1 << (raw % 32);
        let byte = raw as u32;
        let in_use = |irq: &Irq| irq.active.is_some();
        match rng.below(9) {
            0 | 1 => {
                let at = self.place(of, raw, 0x100 + word);
                self.machine.write(cpu, at, bit);
                let irq = &mut self.irqs[index];
                irq.announced |= !irq.enabled;
                irq.enabled = true;
            }
            2 => {
                let at = self.place(of, raw, 0x180 + word);
                self.machine.write(cpu, at, bit);
                self.irqs[index].enabled &= is_fixed_sgi;
            }
            3 => {
                let level = rng.next() & 31;
                // Changing the priority of an active interrupt is allowed, but hard to compare.
                if !in_use(&self.irqs[index]) {
                    let value = level << 3 | rng.next() & 7;
                    let at = self.place(of, raw, 0x400 + byte);
                    self.machine.write_width(cpu, at, Width::Byte, value);
                    self.irqs[index].level = level;
                }
            }
            4 if raw >= 32 => {
                self.irqs[index].targets = self.write_target(cpu, raw, rng.next());
            }
            5 => {
                let at = self.place(of, raw, 0x200 + word);
                self.machine.write(cpu, at, bit);
                let irq = &mut self.irqs[index];
                if raw >= 16 {
                    irq.latched = true;
                } else if !is_fixed_sgi {
                    irq.sources = 1;
                }
            }
            6 => {
                let at = self.place(of, raw, 0x280 + word);
                self.machine.write(cpu, at, bit);
                let irq = &mut self.irqs[index];
                if raw >= 16 {
                    irq.latched = false;
                } else if !is_fixed_sgi {
                    irq.sources = 0;
                }
            }
            7 if rng.chance(8) => {
                self.forwarding = !self.forwarding;
                self.write_forwarding(cpu);
                for irq in &mut self.irqs {
                    irq.stale &= self.forwarding;
                }
            }
            7 if (48..96).contains(&raw) && !in_use(&self.irqs[index]) => {
                let edge = rng.chance(2);
                let old = self.machine.read(cpu, 0xc00 + byte / 16 * 4);
                let mask = 2 << (byte % 16 * 2);
                self.machine.write(
                    cpu,
                    0xc00 + byte / 16 * 4,
                    if edge { old | mask } else { old & !mask },
                );
                self.irqs[index].edge = edge;
            }
            _ => {
                let sgi = raw % 16;
                if self.is_v3() {
                    self.send_sgi1r(cpu, sgi, rng);
                } else if rng.chance(3) {
                    let senders = rng.next() as u8;
                    let set = rng.chance(2);
                    let offset = if set { 0xf20 } else { 0xf10 };
                    self.machine.write_width(
                        cpu,
                        offset + sgi as u32,
                        Width::Byte,
                        u32::from(senders),
                    );
                    let irq = &mut self.irqs[cpu * 32 + sgi];
                    if set {
                        irq.sources |= senders & ((1u32 << self.vcpus) - 1) as u8;
                    } else {
                        irq.sources &= !senders;
                    }
                } else {
                    let list = rng.next() & 0xff;
                    self.machine.write(cpu, 0xf00, list << 16 | sgi as u32);
                    for target in 0..self.vcpus {
                        if list & 1 << target != 0 {
                            self.irqs[target * 32 + sgi].sources |= 1 << cpu;
                        }
                    }
                }
            }
        }
    }

    /// The guest takes an interrupt. Returns whether there was one.
    fn ack(&mut self, cpu: usize) -> bool {
        let best = self.best(cpu);
        let held = self.machine.host.gich[cpu]
            .lrs
            .iter()
            .filter(|&&lr| lr >> 29 & 1 != 0)
            .count();
        // List registers that hold active interrupts may leave too few for the waiting ones.
        let excused = held > 0 && self.machine.vgic.needs_flush(vcpu(cpu));
        self.overflows += u32::from(self.machine.host.gich[cpu].uie);
        let Some((raw, source)) = self.machine.ack(cpu) else {
            assert!(
                best.is_none() || excused,
                "vcpu {cpu}: lost, level {best:?}"
            );
            return false;
        };
        let index = self.index(cpu, usize::from(raw));
        let deliverable = self.deliverable(cpu, index);
        let irq = &mut self.irqs[index];
        assert!(
            irq.enabled && irq.active.is_none() && self.forwarding,
            "{raw} must not come: {irq:?}"
        );
        assert!(
            irq.targets.trailing_zeros() as usize == cpu,
            "{raw} on the wrong vcpu"
        );
        assert!(
            deliverable || irq.stale || irq.extra,
            "{raw} came for nothing: {irq:?}"
        );
        assert!(
            irq.stale || irq.extra || excused || best == Some(irq.level),
            "{raw}: order, {best:?} {irq:?}"
        );
        if irq.kind == Kind::Sgi {
            assert!(irq.sources & 1 << source != 0, "sender {source} of {irq:?}");
            irq.sources &= !(1 << source);
        }
        irq.active_source = source;
        if !core::mem::take(&mut irq.latched) {
            irq.extra = false;
        }
        irq.announced = false;
        irq.stale = false;
        irq.active = Some(cpu);
        self.stacks[cpu].push(index);
        self.delivered += 1;
        true
    }

    fn eoi(&mut self, cpu: usize) {
        if let Some(index) = self.stacks[cpu].pop() {
            let raw = self.raw(index);
            let irq = &mut self.irqs[index];
            irq.active = None;
            // A linked level fires again while asserted, whatever happened meanwhile.
            self.machine.eoi(cpu, raw as u16);
            assert_eq!(
                self.machine.host.lost_eois, 0,
                "{raw}: the EOI found no list register"
            );
        }
    }

    fn compare_registers(&mut self, cpu: usize) {
        for bank in 0..3 {
            let offset = 4 * bank as u32;
            // The first read has the other vCPUs look at their list registers.
            let at = |register| self.place(cpu, bank * 32, register + offset);
            let [pending, active, enabled] = [at(0x200), at(0x300), at(0x100)];
            self.machine.read(cpu, active);
            let pending = self.machine.read(cpu, pending);
            let active = self.machine.read(cpu, active);
            let enabled = self.machine.read(cpu, enabled);
            for bit in 0..32 {
                let raw = bank * 32 + bit;
                let irq = &self.irqs[self.index(cpu, raw)];
                let (p, a, e) = (
                    pending >> bit & 1 != 0,
                    active >> bit & 1 != 0,
                    enabled >> bit & 1 != 0,
                );
                assert_eq!(e, irq.enabled, "{raw} enabled");
                // State in the list registers of a vCPU that is switched out or the guest's own view of a line that
                // only its device knows is not compared.
                assert_eq!(a, irq.active.is_some(), "{raw} active: {irq:?}");
                if irq.kind == Kind::LinkedLevel && irq.line {
                    assert!(
                        p,
                        "{raw}: a line that is up reads as pending, masked or not: {irq:?}"
                    );
                }
                if matches!(irq.kind, Kind::Sgi | Kind::Plain | Kind::Kept) {
                    assert_eq!(p, irq.pending(), "{raw} pending: {irq:?}");
                }
            }
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let cpu = rng.below(self.vcpus);
        let loaded = self.machine.host.loaded[cpu];
        match rng.below(16) {
            0..=3 if loaded => self.guest_write(cpu, rng),
            4..=6 if loaded => {
                self.ack(cpu);
            }
            7..=9 if loaded => self.eoi(cpu),
            10 | 11 => {
                let raw = [27, 30, 31, 32, 33, 34, 35, 40, 41, 42, 43][rng.below(11)];
                let on = rng.chance(2);
                self.set_line(if raw < 32 { cpu } else { 0 }, raw, on);
            }
            12 => {
                let raw = 36 + rng.below(4);
                let index = self.index(0, raw);
                // A second edge before the acknowledge is kept by the physical distributor, and comes after the EOI.
                self.irqs[index].extra |= self.irqs[index].latched;
                self.irqs[index].latched = true;
                self.machine.host.spis[raw].latched = true;
                self.machine.settle();
            }
            13 => {
                let raw = if rng.chance(2) {
                    48 + rng.below(48)
                } else {
                    16 + rng.below(10)
                };
                let index = self.index(cpu, raw);
                self.irqs[index].latched = true;
                self.machine.set_pending(cpu, raw as u16);
            }
            14 if rng.chance(3) => {
                if loaded {
                    self.machine.save(cpu);
                } else {
                    self.machine.restore(cpu);
                }
            }
            _ if loaded => self.compare_registers(cpu),
            _ => {}
        }
    }

    /// The guest enables everything and takes all there is.
    fn drain(&mut self) {
        for cpu in 0..self.vcpus {
            if !self.machine.host.loaded[cpu] {
                self.machine.restore(cpu);
            }
            while !self.stacks[cpu].is_empty() {
                self.eoi(cpu);
            }
        }
        if !self.forwarding {
            self.forwarding = true;
            self.write_forwarding(0);
        }
        for raw in [27, 30, 31] {
            (0..self.vcpus).for_each(|cpu| self.set_line(cpu, raw, false));
        }
        for raw in [32, 33, 34, 35, 40, 41, 42, 43] {
            self.set_line(0, raw, false);
        }
        for cpu in 0..self.vcpus {
            for bank in 0..3 {
                let at = self.place(cpu, 32 * bank as usize, 0x100 + 4 * bank);
                self.machine.write(cpu, at, u32::MAX);
            }
        }
        for raw in 32..96 {
            let index = self.index(0, raw);
            if self.irqs[index].targets == 0 {
                self.irqs[index].targets = self.write_target(0, raw, 1);
            }
        }
        self.irqs.iter_mut().for_each(|irq| irq.enabled = true);
        for cpu in 0..self.vcpus {
            for _ in 0..1000 {
                if !self.ack(cpu) {
                    break;
                }
                self.eoi(cpu);
            }
            assert_eq!(self.best(cpu), None, "lost");
            assert!(
                !self
                    .machine
                    .vgic
                    .has_deliverable_loaded(vcpu(cpu), 0xff, &{ self.host_of(cpu) })
            );
            assert!(!self.machine.host.gich[cpu].uie);
        }
        assert!(self.irqs.iter().all(|irq| !irq.pending()));
        assert!(
            self.machine
                .host
                .spis
                .iter()
                .all(|phys| !phys.active && !phys.latched),
            "physical state left over"
        );
        assert!(
            self.machine
                .host
                .ppis
                .iter()
                .flatten()
                .all(|phys| !phys.active)
        );
    }

    fn host_of(&self, cpu: usize) -> super::FakeHost {
        let mut host = super::FakeHost::new(self.vcpus, self.machine.host.gich[0].lrs.len());
        host.gich.clone_from(&self.machine.host.gich);
        host.cpu = cpu;
        host
    }
}

impl Irq {
    fn level_when_taken(&self) -> u32 {
        self.level
    }
}

/// For each combination; more find rarer things.
const ROUNDS: u32 = 3;

#[test]
fn behaves_as_a_gicv2() {
    behaves(Version::V2, &[1, 2, 8]);
}

#[test]
fn behaves_as_a_gicv3() {
    if HAS_V3 {
        behaves(Version::V3, &[1, 2, 20]);
    }
}

fn behaves(version: Version, vcpus: &[usize]) {
    for &vcpus in vcpus {
        for lrs in [1, 2, 4, 16] {
            let mut delivered = 0;
            let mut overflows = 0;
            for round in 0..ROUNDS {
                let seed = (vcpus * 100000 + lrs * 1000) as u64 + u64::from(round);
                println!("vcpus {vcpus} lrs {lrs} seed {seed}");
                let mut rng = Rng::new(seed);
                let mut model = Model::new(version, vcpus, lrs);
                for _ in 0..2 {
                    for _ in 0..800 {
                        model.step(&mut rng);
                    }
                    model.drain();
                }
                delivered += model.delivered;
                overflows += model.overflows;
            }
            assert!(delivered > 200, "the test delivers too little: {delivered}");
            assert!(
                lrs == 1 || lrs == 16 || overflows > 20,
                "the test overflows too seldom: {overflows}"
            );
        }
    }
}
