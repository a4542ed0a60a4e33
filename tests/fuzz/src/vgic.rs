//! A guest that reads and writes its distributor (and redistributors) and ends its interrupts anyhow, while interrupts come.

use xenith_core::addr::{IntId, VcpuId};
use xenith_core::machine::{PhysIrq, Trigger};
use xenith_core::vgic::{
    GICD_V3_SIZE, KickSet, LineLevels, ListRegisters, Resample, Version, Vgic, VgicConfig, Width,
};

use crate::input::Input;

const PENDING: u32 = 1 << 28;
const ACTIVE: u32 = 1 << 29;
const HW: u32 = 1 << 31;
const WANTS_EOI: u32 = 1 << 19;

/// The list registers of one pCPU, and lines.
#[derive(Clone)]
struct Host {
    lrs: Vec<u32>,
    ended: u32,
    vmcr: u32,
    apr: u32,
    lines: u32,
    pending: u32,
}

impl ListRegisters for Host {
    fn read_lr(&self, n: usize) -> u32 {
        self.lrs[n]
    }
    fn write_lr(&mut self, n: usize, value: u32) {
        self.lrs[n] = value;
        self.ended &= !(1 << n);
    }
    fn empty_lrs(&self) -> u32 {
        let empty = |&n: &usize| self.lrs[n] & (PENDING | ACTIVE) == 0 && self.ended & 1 << n == 0;
        (0..self.lrs.len()).filter(empty).map(|n| 1 << n).sum()
    }
    fn ended_lrs(&self) -> u32 {
        self.ended
    }
    fn set_underflow(&mut self, _on: bool) {}
    fn vmcr(&self) -> u32 {
        self.vmcr
    }
    fn set_vmcr(&mut self, value: u32) {
        self.vmcr = value;
    }
    fn apr(&self) -> u32 {
        self.apr
    }
    fn set_apr(&mut self, value: u32) {
        self.apr = value;
    }
}

impl PhysIrq for Host {
    fn enable(&mut self, _irq: IntId) {}
    fn disable(&mut self, _irq: IntId) {}
    fn set_trigger(&mut self, _irq: IntId, _trigger: Trigger) {}
    fn set_pending(&mut self, irq: IntId, pending: bool) {
        let bit = 1 << (irq.raw() % 32);
        self.pending = self.pending & !bit | if pending { bit } else { 0 };
    }
    fn is_pending(&self, irq: IntId) -> bool {
        self.pending >> (irq.raw() % 32) & 1 != 0
    }
    fn deactivate(&mut self, _irq: IntId) {}
}

impl LineLevels for Host {
    fn is_asserted(&self, _vcpu: VcpuId, irq: IntId) -> bool {
        self.lines >> (irq.raw() % 32) & 1 != 0
    }
}

struct Machine {
    vgic: Vgic,
    hosts: Vec<Host>,
    loaded: Vec<bool>,
}

impl Machine {
    /// The vCPU goes through its list registers as before it enters the guest; they are sound then.
    fn flush(&mut self, cpu: usize) {
        let host = &mut self.hosts[cpu];
        let _ = self.vgic.flush(VcpuId::new(cpu as u16), host);
        let mut seen = Vec::new();
        for &lr in host.lrs.iter().filter(|&&lr| lr & (PENDING | ACTIVE) != 0) {
            // An interrupt is in one register; an SGI in one for each CPU that sent it.
            let id = if lr & 0x3ff < 16 {
                lr & 0x1fff
            } else {
                lr & 0x3ff
            };
            assert!(
                !seen.contains(&id),
                "interrupt {id:#x} twice in {:x?}",
                host.lrs
            );
            seen.push(id);
            assert!(lr & 0x3ff < 96, "{lr:x} is no interrupt of the guest");
            assert!(
                lr & HW == 0 || lr & (PENDING | ACTIVE) != PENDING | ACTIVE,
                "{lr:x}: a physical interrupt cannot be both"
            );
        }
    }

    /// The guest takes its most urgent interrupt.
    fn acknowledge(&mut self, cpu: usize) {
        let lrs = &mut self.hosts[cpu].lrs;
        let pending = lrs
            .iter_mut()
            .filter(|lr| **lr & (PENDING | ACTIVE) == PENDING);
        if let Some(lr) = pending.min_by_key(|lr| **lr >> 23 & 31) {
            *lr = *lr & !PENDING | ACTIVE;
        }
    }

    /// The guest ends an interrupt, which need not be one that it has.
    fn end(&mut self, cpu: usize, irq: u32) {
        let host = &mut self.hosts[cpu];
        let active = |lr: &u32| lr & ACTIVE != 0 && lr & 0x3ff == irq;
        if let Some(n) = host.lrs.iter().position(active) {
            host.lrs[n] &= !ACTIVE;
            if host.lrs[n] & (HW | PENDING) == 0 && host.lrs[n] & WANTS_EOI != 0 {
                host.ended |= 1 << n;
            }
        }
    }
}

/// With a GICv2.
pub fn run(bytes: &[u8]) {
    run_version(Version::V2, 8, bytes);
}

/// With a GICv3, of more than one cluster.
pub fn run_v3(bytes: &[u8]) {
    run_version(Version::V3, 20, bytes);
}

/// A register: of those that there are as a rule.
fn register(version: Version, vcpus: usize, input: &mut Input<'_>) -> u32 {
    if version == Version::V3 {
        let frame = GICD_V3_SIZE + 0x2_0000 * input.below(1 + vcpus as u32);
        match input.below(8) {
            0 => return 0x6000 + 8 * input.below(100),
            1 => return frame + 4 * input.below(8),
            2 => return u32::from(input.half()) | input.below(4) << 16,
            3..=5 => return frame + 0x1_0000 + 0x80 * input.below(26) + 4 * input.below(4),
            _ => {}
        }
    }
    match input.byte() {
        byte @ 0..=199 => 0x80 * (u32::from(byte) % 32) + 4 * input.below(4),
        _ => u32::from(input.half() & 0x1fff),
    }
}

fn run_version(version: Version, most_vcpus: u32, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let vcpus = 1 + input.below(most_vcpus) as usize;
    let lr_count = input.pick(&[4, 1, 2, 16]);
    let host = Host {
        lrs: vec![0; lr_count],
        ended: 0,
        vmcr: 0,
        apr: 0,
        lines: 0,
        pending: 0,
    };
    let config = VgicConfig {
        version,
        vcpus,
        nr_spis: 64,
        lr_count,
    };
    let mut m = Machine {
        vgic: Vgic::new(config).expect("a good configuration"),
        hosts: vec![host; vcpus],
        loaded: vec![true; vcpus],
    };
    for (irq, trigger) in [
        (40, Trigger::Edge),
        (41, Trigger::Level),
        (27, Trigger::Level),
    ] {
        let irq = IntId::new(irq);
        m.vgic
            .link_hw(irq, irq, trigger, &mut m.hosts[0])
            .expect("free");
    }
    m.vgic
        .ask_line(IntId::new(31), Resample::OnRaise)
        .expect("free");
    for cpu in 0..vcpus {
        m.vgic.restore(VcpuId::new(cpu as u16), &mut m.hosts[cpu]);
    }
    let _ = m
        .vgic
        .mmio_write(VcpuId::new(0), 0, Width::Word, 3, &mut m.hosts[0]);
    while !input.is_empty() {
        let cpu = input.below(vcpus as u32) as usize;
        let vcpu = VcpuId::new(cpu as u16);
        match input.below(16) {
            0..=5 if m.loaded[cpu] => {
                let offset = register(version, vcpus, &mut input);
                let width = input.pick(&[Width::Word, Width::Word, Width::Half, Width::Byte]);
                if input.below(4) == 0 {
                    let _ = m.vgic.mmio_read(vcpu, offset, width, &m.hosts[cpu]);
                } else {
                    let value = match input.below(3) {
                        0 => 1 << input.below(32),
                        1 => u32::MAX,
                        _ => input.word(),
                    };
                    let _ = m
                        .vgic
                        .mmio_write(vcpu, offset, width, value, &mut m.hosts[cpu]);
                }
            }
            6 => m.hosts[cpu].lines ^= 1 << input.below(32),
            7..=9 => {
                let irq = IntId::new(match input.byte() {
                    byte @ 0..=229 => u16::from(byte) % 96,
                    _ => input.half() % 1100,
                });
                let of = VcpuId::new(input.below(most_vcpus + 1) as u16);
                let _ = match input.below(4) {
                    0 => m.vgic.set_pending(of, irq),
                    1 => m.vgic.raise_level(of, irq),
                    2 => m.vgic.lower_level(of, irq),
                    _ => m.vgic.inject_hw(of, irq).unwrap_or(KickSet::NONE),
                };
            }
            10 | 11 if m.loaded[cpu] => m.acknowledge(cpu),
            12 if m.loaded[cpu] => m.end(cpu, input.below(96)),
            13 => {
                if m.loaded[cpu] {
                    let _ = m.vgic.save(vcpu, &mut m.hosts[cpu]);
                } else {
                    m.vgic.restore(vcpu, &mut m.hosts[cpu]);
                }
                m.loaded[cpu] = !m.loaded[cpu];
            }
            14 if version == Version::V3 => {
                let value = u64::from(input.word()) | u64::from(input.half()) << 32;
                let mask = input.pick(&[u64::MAX, 0xf01_ffff, 0x0100_0f01_ffff]);
                let _ = m.vgic.send_sgi1r(vcpu, value & mask);
            }
            15 if version == Version::V3 && input.below(8) == 0 => {
                let _ = m.vgic.reset_vcpu(vcpu, &mut m.hosts[cpu]);
            }
            14 if input.below(8) == 0 => {
                let _ = m.vgic.reset_vcpu(vcpu, &mut m.hosts[cpu]);
            }
            _ if m.loaded[cpu] => {
                let _ = m.vgic.sync(vcpu, &mut m.hosts[cpu]);
                let _ = m
                    .vgic
                    .has_deliverable_loaded(vcpu, input.byte(), &m.hosts[cpu]);
            }
            _ => {
                let _ = m.vgic.has_deliverable(vcpu, input.byte());
            }
        }
        for cpu in 0..vcpus {
            if m.loaded[cpu] && m.vgic.needs_flush(VcpuId::new(cpu as u16)) {
                m.flush(cpu);
            }
        }
    }
}
