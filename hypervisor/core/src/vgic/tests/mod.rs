//! Tests of the virtual interrupt controller against a virtual CPU interface that behaves like hardware.

mod delivery;
mod fake;
mod fuzz;
mod model;
mod registers;
#[cfg(target_pointer_width = "64")]
mod v3;

use super::irq::State;
use super::{GICD_V3_SIZE, GICR_SIZE, Version, Vgic, VgicConfig, Width};
use crate::addr::{IntId, VcpuId};
use fake::FakeHost;

/// A domain on the fake machine.
struct Machine {
    vgic: Vgic,
    host: FakeHost,
}

impl Machine {
    fn new(vcpus: usize, lrs: usize) -> Self {
        Self::of(Version::V2, vcpus, lrs)
    }

    fn of(version: Version, vcpus: usize, lrs: usize) -> Self {
        let vgic = Vgic::new(VgicConfig {
            version,
            vcpus,
            nr_spis: 64,
            lr_count: lrs,
        })
        .unwrap();
        let mut machine = Self {
            vgic,
            host: FakeHost::new(vcpus, lrs),
        };
        for cpu in 0..vcpus {
            machine.restore(cpu);
        }
        machine
    }

    /// One with the distributor on.
    fn running(vcpus: usize, lrs: usize) -> Self {
        let mut machine = Self::new(vcpus, lrs);
        machine.write(0, 0, 1);
        machine
    }

    fn read(&mut self, cpu: usize, offset: u32) -> u32 {
        self.access(cpu, offset, Width::Word)
    }

    fn access(&mut self, cpu: usize, offset: u32, width: Width) -> u32 {
        self.host.cpu = cpu;
        let (value, kicks) = self
            .vgic
            .mmio_read(vcpu(cpu), offset, width, &self.host)
            .unwrap();
        assert!(!kicks.contains(vcpu(cpu)));
        self.settle();
        value
    }

    /// A guest's write, after which all vCPUs that are told to flush have done so.
    fn write(&mut self, cpu: usize, offset: u32, value: u32) {
        self.write_width(cpu, offset, Width::Word, value);
    }

    fn write_width(&mut self, cpu: usize, offset: u32, width: Width, value: u32) {
        self.host.cpu = cpu;
        let kicks = self
            .vgic
            .mmio_write(vcpu(cpu), offset, width, value, &mut self.host)
            .unwrap();
        for target in kicks.iter() {
            assert!(self.vgic.needs_flush(target));
        }
        self.settle();
    }

    fn restore(&mut self, cpu: usize) {
        self.host.cpu = cpu;
        self.vgic.restore(vcpu(cpu), &mut self.host);
        self.host.loaded[cpu] = true;
        self.settle();
    }

    fn save(&mut self, cpu: usize) {
        self.host.cpu = cpu;
        let _ = self.vgic.save(vcpu(cpu), &mut self.host);
        self.host.loaded[cpu] = false;
        assert!(
            self.host.gich[cpu].lrs.iter().all(|&lr| lr >> 28 & 3 == 0),
            "save leaves the hardware empty"
        );
        self.settle();
    }

    /// Physical interrupts are taken, vCPUs flush, maintenance interrupts are handled, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut moved = false;
            for cpu in 0..self.host.gich.len() {
                while let Some(irq) = self.host.take_physical(cpu) {
                    let _ = self.vgic.inject_hw(vcpu(cpu), IntId::new(irq));
                    moved = true;
                }
                if !self.host.loaded[cpu] {
                    continue;
                }
                self.host.cpu = cpu;
                if self.host.gich[cpu].maintenance() {
                    let _ = self.vgic.sync(vcpu(cpu), &mut self.host);
                    // A level: left up it would come again at once, and again, until the flush.
                    assert!(
                        !self.host.gich[cpu].maintenance(),
                        "sync ends the maintenance interrupt"
                    );
                    moved = true;
                }
                if moved || self.vgic.needs_flush(vcpu(cpu)) {
                    let before = (
                        self.host.gich[cpu].clone(),
                        self.vgic.needs_flush(vcpu(cpu)),
                    );
                    let _ = self.vgic.flush(vcpu(cpu), &mut self.host);
                    moved |= before
                        != (
                            self.host.gich[cpu].clone(),
                            self.vgic.needs_flush(vcpu(cpu)),
                        );
                }
            }
            if !moved {
                self.check();
                return;
            }
        }
        panic!("the machine does not come to rest: an interrupt storm");
    }

    fn set_pending(&mut self, cpu: usize, irq: u16) {
        let _ = self.vgic.set_pending(vcpu(cpu), IntId::new(irq));
        self.settle();
    }

    /// Sets a line: the device's, or the one the vgic keeps.
    fn set_line(&mut self, cpu: usize, irq: u16, on: bool) {
        let _ = if on {
            self.vgic.raise_level(vcpu(cpu), IntId::new(irq))
        } else {
            self.vgic.lower_level(vcpu(cpu), IntId::new(irq))
        };
        self.settle();
    }

    /// The guest reads GICC_IAR.
    fn ack(&mut self, cpu: usize) -> Option<(u16, u8)> {
        let result = self.host.gich[cpu].ack();
        self.settle();
        result
    }

    /// The guest writes GICC_EOIR.
    fn eoi(&mut self, cpu: usize, irq: u16) {
        self.host.eoi(cpu, irq);
        self.settle();
    }

    /// The invariants of the structures and of the list registers.
    fn check(&self) {
        self.vgic.irqs.check();
        for cpu in self.vgic.cpus.iter() {
            assert_eq!(cpu.eoi & !cpu.used, 0, "EOI maintenance of a free register");
        }
        for (cpu, gich) in self.host.gich.iter().enumerate() {
            for (n, &a) in gich.lrs.iter().enumerate() {
                let state = |lr: u32| lr >> 28 & 3;
                assert!(
                    a >> 31 == 0 || state(a) != 3,
                    "a linked list register is pending and active"
                );
                for &b in &gich.lrs[n + 1..] {
                    assert!(
                        state(a) == 0 || state(b) == 0 || a & 0x3ff != b & 0x3ff,
                        "vcpu {cpu}: two list registers with one id: {a:#x} {b:#x}"
                    );
                }
            }
        }
    }
}

/// The register of a GICv3's redistributor that has the offset in a GICv2's distributor.
fn gicr(cpu: usize, offset: u32) -> u32 {
    GICD_V3_SIZE + cpu as u32 * GICR_SIZE + 0x1_0000 + offset
}

fn vcpu(cpu: usize) -> VcpuId {
    VcpuId::new(cpu as u16)
}

impl super::irq::Interrupts {
    /// Checks queues against places, and the counter.
    fn check(&self) {
        let mut queued = vec![None; self.nodes.len()];
        for cpu in 0..self.vcpus {
            let mut any = false;
            for (level, first) in self.lists(cpu) {
                any = true;
                let mut index = first;
                loop {
                    assert_eq!(queued[index], None, "in two queues");
                    queued[index] = Some((cpu, level));
                    let next = self.next_of(index);
                    if next == first {
                        break;
                    }
                    index = next;
                }
            }
            assert!(
                !any || !self.forwarding || self.work.is_set(cpu),
                "waiting without the work flag"
            );
        }
        let mut soft = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let bank = &self.banks[index / 32];
            let state = node.state;
            let bit = 1 << (index % 32);
            soft += u32::from(bank.soft_active & bit != 0);
            assert_eq!(
                (bank.enabled & bit != 0, bank.soft_active & bit != 0),
                (
                    state.contains(State::ENABLED),
                    state.contains(State::SOFT_ACTIVE)
                )
            );
            assert_eq!(
                queued[index].is_some(),
                node.place == super::irq::Place::Queued,
                "place of {index}"
            );
            let wanted = state.is_candidate()
                && state.is(State::ENABLED, State::ACTIVE)
                && node.targets != 0;
            if let Some((cpu, level)) = queued[index] {
                assert!(wanted, "{index} waits without reason");
                assert_eq!((node.target(), node.priority >> 3), (cpu, level));
            } else if node.place == super::irq::Place::Idle {
                assert!(!wanted, "{index} is lost");
                assert!(
                    !state.is(State::PHYS_ACTIVE, State::ARRIVED),
                    "{index} physically active for nobody"
                );
            }
        }
        assert_eq!(soft, self.soft_active_count);
    }
}
