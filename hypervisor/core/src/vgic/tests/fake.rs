//! The virtual CPU interface, the physical distributor and the lines, as hardware behaves (IHI 0048B chapter 5).

use super::super::{LineLevels, ListRegisters};
use crate::addr::{IntId, VcpuId};
use crate::machine::{PhysIrq, Trigger};

/// GICH and GICV of one pCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gich {
    pub lrs: Vec<u32>,
    pub uie: bool,
    pub eisr: u32,
    pub vmcr: u32,
    pub apr: u32,
    /// Levels of the interrupts acknowledged and not dropped.
    pub running: Vec<u32>,
}

const PENDING: u32 = 1 << 28;
const ACTIVE: u32 = 1 << 29;

impl Gich {
    fn level(lr: u32) -> u32 {
        lr >> 23 & 31
    }

    /// Reads GICV_IAR.
    pub fn ack(&mut self) -> Option<(u16, u8)> {
        let running = self.running.last().copied().unwrap_or(32);
        let best = (0..self.lrs.len())
            .filter(|&n| {
                self.lrs[n] & (PENDING | ACTIVE) == PENDING && Self::level(self.lrs[n]) < running
            })
            .min_by_key(|&n| Self::level(self.lrs[n]))?;
        let lr = &mut self.lrs[best];
        *lr = *lr & !PENDING | ACTIVE;
        self.running.push(Self::level(*lr));
        let source = if *lr & 0x3ff < 16 {
            (*lr >> 10 & 7) as u8
        } else {
            0
        };
        Some(((*lr & 0x3ff) as u16, source))
    }

    /// Deactivates; returns whether the interrupt was found, and the physical one to deactivate.
    fn deactivate(&mut self, irq: u16) -> (bool, Option<u16>) {
        for (n, lr) in self.lrs.iter_mut().enumerate() {
            if *lr & ACTIVE != 0 && *lr & 0x3ff == u32::from(irq) {
                *lr &= !ACTIVE;
                if *lr >> 31 != 0 {
                    return (true, Some((*lr >> 10 & 0x3ff) as u16));
                }
                if *lr & PENDING == 0 && *lr & 1 << 19 != 0 {
                    self.eisr |= 1 << n;
                }
                return (true, None);
            }
        }
        (false, None)
    }

    /// The maintenance interrupt line.
    pub fn maintenance(&self) -> bool {
        let valid = self
            .lrs
            .iter()
            .filter(|&&lr| lr & (PENDING | ACTIVE) != 0)
            .count();
        self.eisr != 0 || (self.uie && valid <= 1)
    }
}

/// One physical interrupt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phys {
    /// The virtual interrupt it is linked to.
    pub virq: u16,
    pub linked: bool,
    pub enabled: bool,
    pub edge: bool,
    pub latched: bool,
    pub line: bool,
    pub active: bool,
}

pub struct FakeHost {
    pub gich: Vec<Gich>,
    /// Whose GICH is accessed.
    pub cpu: usize,
    /// Which vCPU is on its pCPU; vCPU `n` runs on pCPU `n` only.
    pub loaded: Vec<bool>,
    /// Physical PPIs of each pCPU, and SPIs.
    pub ppis: Vec<[Phys; 32]>,
    pub spis: Vec<Phys>,
    /// Lines that are asked, by vCPU and number; SPIs under vCPU 0.
    pub asked: Vec<[bool; 96]>,
    /// EOIs that found no list register.
    pub lost_eois: u32,
    /// Fail on protocol errors.
    pub strict: bool,
    pub accesses: core::cell::Cell<u32>,
}

impl FakeHost {
    pub fn new(vcpus: usize, lrs: usize) -> Self {
        let gich = Gich {
            lrs: vec![0; lrs],
            uie: false,
            eisr: 0,
            vmcr: 0,
            apr: 0,
            running: vec![],
        };
        Self {
            gich: vec![gich; vcpus],
            cpu: 0,
            loaded: vec![false; vcpus],
            ppis: vec![[Phys::default(); 32]; vcpus],
            spis: vec![Phys::default(); 1024],
            asked: vec![[false; 96]; vcpus],
            lost_eois: 0,
            strict: true,
            accesses: core::cell::Cell::new(0),
        }
    }

    fn phys(&mut self, irq: u16) -> &mut Phys {
        if irq < 32 {
            &mut self.ppis[self.cpu][usize::from(irq)]
        } else {
            &mut self.spis[usize::from(irq)]
        }
    }

    /// The hypervisor takes a physical interrupt on a pCPU; returns the virtual one. PPIs only for a loaded vCPU.
    pub fn take_physical(&mut self, cpu: usize) -> Option<u16> {
        let loaded = self.loaded[cpu];
        let ppis = self.ppis[cpu].iter_mut().filter(|_| loaded);
        for phys in ppis.chain(self.spis.iter_mut().filter(|_| cpu == 0)) {
            let pending = phys.latched || (phys.line && !phys.edge);
            if phys.linked && phys.enabled && pending && !phys.active {
                phys.active = true;
                phys.latched = false;
                return Some(phys.virq);
            }
        }
        None
    }

    /// GICV_EOIR with EOImode 0.
    pub fn eoi(&mut self, cpu: usize, irq: u16) {
        self.gich[cpu].running.pop();
        self.dir(cpu, irq);
    }

    /// GICV_DIR.
    pub fn dir(&mut self, cpu: usize, irq: u16) {
        let (found, phys) = self.gich[cpu].deactivate(irq);
        self.lost_eois += u32::from(!found);
        if let Some(phys) = phys {
            self.cpu = cpu;
            let strict = self.strict;
            let phys = self.phys(phys);
            assert!(
                phys.active || !strict,
                "the hardware deactivates what is not active"
            );
            phys.active = false;
        }
    }
}

impl ListRegisters for FakeHost {
    fn read_lr(&self, n: usize) -> u32 {
        self.accesses.set(self.accesses.get() + 1);
        self.gich[self.cpu].lrs[n]
    }
    fn write_lr(&mut self, n: usize, value: u32) {
        self.accesses.set(self.accesses.get() + 1);
        let gich = &mut self.gich[self.cpu];
        gich.lrs[n] = value;
        gich.eisr &= !(1 << n);
    }
    fn empty_lrs(&self) -> u32 {
        self.accesses.set(self.accesses.get() + 1);
        let gich = &self.gich[self.cpu];
        let empty = |n: &usize| gich.lrs[*n] & (PENDING | ACTIVE) == 0 && gich.eisr & (1 << n) == 0;
        (0..gich.lrs.len()).filter(empty).map(|n| 1 << n).sum()
    }
    fn ended_lrs(&self) -> u32 {
        self.gich[self.cpu].eisr
    }
    fn set_underflow(&mut self, on: bool) {
        self.gich[self.cpu].uie = on;
    }
    fn vmcr(&self) -> u32 {
        self.gich[self.cpu].vmcr
    }
    fn set_vmcr(&mut self, value: u32) {
        self.gich[self.cpu].vmcr = value;
    }
    fn apr(&self) -> u32 {
        self.gich[self.cpu].apr
    }
    fn set_apr(&mut self, value: u32) {
        self.gich[self.cpu].apr = value;
    }
}

impl PhysIrq for FakeHost {
    fn enable(&mut self, irq: IntId) {
        self.phys(irq.raw()).enabled = true;
    }
    fn disable(&mut self, irq: IntId) {
        self.phys(irq.raw()).enabled = false;
    }
    fn set_trigger(&mut self, irq: IntId, trigger: Trigger) {
        self.phys(irq.raw()).edge = trigger == Trigger::Edge;
    }
    fn set_pending(&mut self, irq: IntId, pending: bool) {
        self.phys(irq.raw()).latched = pending;
    }
    fn is_pending(&self, irq: IntId) -> bool {
        assert!(irq.is_spi(), "the lines of PPIs are asked elsewhere");
        let phys = &self.spis[irq.index()];
        phys.latched || (phys.line && !phys.edge)
    }
    fn deactivate(&mut self, irq: IntId) {
        let strict = self.strict;
        let phys = self.phys(irq.raw());
        assert!(phys.active || !strict, "deactivated twice: {irq:?}");
        phys.active = false;
    }
}

impl LineLevels for FakeHost {
    fn is_asserted(&self, vcpu: VcpuId, irq: IntId) -> bool {
        let irq = irq.index();
        if irq >= 32 {
            // SPIs are linked to the same physical number in the tests.
            self.asked[0][irq] || self.spis[irq].line
        } else {
            self.asked[vcpu.index()][irq] || self.ppis[vcpu.index()][irq].line
        }
    }
}
