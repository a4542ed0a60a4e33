//! Hostile guests: random accesses and events, no panic, structures stay whole.

use super::super::{HAS_V3, KickSet, Resample, Version};
use super::{Machine, Width, gicr, vcpu};
use crate::addr::IntId;
use crate::machine::Trigger;

pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }
    pub fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }
    pub fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

#[test]
fn hostile_accesses() {
    use Version::{V2, V3};
    for (seed, version, vcpus, lrs) in [
        (1, V2, 1, 1),
        (2, V2, 2, 2),
        (3, V2, 8, 4),
        (4, V2, 8, 16),
        (5, V2, 3, 4),
        (6, V2, 1, 4),
        (7, V3, 1, 1),
        (8, V3, 3, 4),
        (9, V3, 18, 4),
    ] {
        if version == V3 && !HAS_V3 {
            continue;
        }
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let mut m = Machine::of(version, vcpus, lrs);
        // A guest that ends physical interrupts behind our back by ICACTIVER, EOI and so on is no protocol error.
        m.host.strict = false;
        for irq in [40, 41] {
            let trigger = if irq == 40 {
                Trigger::Edge
            } else {
                Trigger::Level
            };
            m.vgic
                .link_hw(IntId::new(irq), IntId::new(irq), trigger, &mut m.host)
                .unwrap();
            let phys = &mut m.host.spis[usize::from(irq)];
            (phys.linked, phys.virq, phys.edge) = (true, irq, irq == 40);
        }
        m.vgic
            .link_hw(IntId::new(27), IntId::new(27), Trigger::Level, &mut m.host)
            .unwrap();
        m.vgic.ask_line(IntId::new(31), Resample::OnRaise).unwrap();
        for ppis in &mut m.host.ppis {
            (ppis[27].linked, ppis[27].virq, ppis[27].enabled) = (true, 27, true);
        }
        for _ in 0..6000 {
            let cpu = rng.below(vcpus);
            match rng.below(12) {
                0..=5 => {
                    let offset = if rng.chance(3) {
                        rng.next() & 0x1fff
                    } else {
                        0x80 * (rng.next() % 32) + 4 * (rng.next() % 4)
                    };
                    let offset = if version == V3 && rng.chance(2) {
                        gicr(rng.below(vcpus + 1), offset)
                    } else {
                        offset
                    };
                    let width = [Width::Byte, Width::Half, Width::Word][rng.below(3)];
                    let value = if rng.chance(2) {
                        rng.next()
                    } else {
                        1 << (rng.next() & 31)
                    };
                    m.host.cpu = cpu;
                    if m.host.loaded[cpu] {
                        let _ = m.vgic.mmio_read(vcpu(cpu), offset, width, &m.host);
                        let _ = m
                            .vgic
                            .mmio_write(vcpu(cpu), offset, width, value, &mut m.host);
                        if rng.chance(20) {
                            let _ = m.vgic.mmio_write(vcpu(cpu), 0, Width::Word, 3, &mut m.host);
                            let _ = m.vgic.send_sgi1r(vcpu(cpu), u64::from(rng.next()));
                        }
                    }
                }
                6 => {
                    let line = rng.chance(2);
                    m.host.ppis[cpu][27].line = line;
                    m.host.spis[41].line = rng.chance(2);
                    m.host.spis[40].latched |= rng.chance(2);
                    m.host.asked[cpu][31] = rng.chance(2);
                    let _ = m.vgic.raise_level(vcpu(cpu), IntId::new(31));
                }
                7 => {
                    let irq = IntId::new((rng.next() % 1100) as u16);
                    let _ = match rng.below(4) {
                        0 => m.vgic.set_pending(vcpu(rng.below(9)), irq),
                        1 => m.vgic.raise_level(vcpu(rng.below(9)), irq),
                        2 => m.vgic.lower_level(vcpu(rng.below(9)), irq),
                        _ => {
                            let set = m.vgic.inject_hw(vcpu(rng.below(9)), IntId::new(300));
                            set.unwrap_or(KickSet::NONE)
                        }
                    };
                }
                8 => {
                    if m.host.loaded[cpu] {
                        let _ = m.host.gich[cpu].ack();
                    }
                }
                9 => {
                    let irq = (rng.next() % 96) as u16;
                    if m.host.loaded[cpu] {
                        m.host.eoi(cpu, irq);
                    }
                    for irq in [27, 31, 40, 41] {
                        if rng.chance(2) && m.host.loaded[cpu] {
                            m.host.dir(cpu, irq);
                        }
                    }
                }
                10 if rng.chance(4) => {
                    m.host.cpu = cpu;
                    if m.host.loaded[cpu] {
                        m.save(cpu);
                    } else {
                        m.restore(cpu);
                    }
                }
                11 if rng.chance(16) => {
                    m.host.cpu = cpu;
                    let _ = m.vgic.reset_vcpu(vcpu(cpu), &mut m.host);
                    m.host.gich[cpu].running.clear();
                }
                _ => m.settle(),
            }
            if rng.chance(3) {
                m.settle();
            }
            let _ = m.vgic.has_deliverable(vcpu(cpu), rng.next() as u8);
            m.host.cpu = cpu;
            let _ = m
                .vgic
                .has_deliverable_loaded(vcpu(cpu), rng.next() as u8, &m.host);
        }
    }
}
