//! The registers of a GICv2 distributor (Arm IHI 0048B chapter 4.3), as a guest without security extensions sees them.
//!
//! Interrupts are all in group 0, so GICD_CTLR has one enable bit and GICD_IGROUPR is RAZ/WI. Five priority bits are
//! implemented, as in the list registers. SGIs are always enabled and PPIs are level-sensitive, as in the
//! interrupt controller of the Cortex-A15. Whatever is reserved reads as zero and ignores writes.
//!
//! The architecture has word accesses, and byte accesses to GICD_IPRIORITYR, GICD_ITARGETSR, GICD_SPENDSGIR and
//! GICD_CPENDSGIR. Narrower accesses elsewhere are UNPREDICTABLE; here they reach just the bytes they name.

use super::deliver::for_each_bit;
use super::irq::{Place, State};
use super::{HAS_V3, KickSet, MAX_VCPUS, VcpuMask, Vgic, VgicHost};
use crate::addr::VcpuId;
use crate::machine::{Fault, PhysIrq, Trigger};

/// Bytes of the distributor's registers.
pub const GICD_SIZE: u32 = 0x1000;

/// GICD_IIDR: an Arm implementation, what Xen shows.
const IIDR: u32 = 0x0000_043b;
/// Identification registers, 0xfd0 to 0xffc: those of Arm's GICv2 (GIC-400 TRM 3.3); ICPIDR2 is 0x2b.
const IDENTIFICATION: [u8; 12] = [0x04, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// The width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
}

impl Width {
    /// Returns the mask of the access within its word, and its shift, or a fault if it is not aligned.
    pub(super) fn lanes(self, offset: u32) -> Result<(u32, u32), Fault> {
        let (align, mask) = match self {
            Self::Byte => (0, 0xff),
            Self::Half => (1, 0xffff),
            Self::Word => (3, u32::MAX),
        };
        if offset & align != 0 {
            return Err(Fault);
        }
        let shift = (offset & 3) * 8;
        Ok((mask << shift, shift))
    }
}

impl Vgic {
    /// Returns whether what a register reads as depends on lines, so that the caller's must be asked: pending state only
    /// (GICD_ISPENDR, GICD_ICPENDR, and GICR_ISPENDR0, GICR_ICPENDR0).
    #[inline]
    pub const fn depends_on_lines(offset: u32) -> bool {
        let register = if HAS_V3 { offset & 0xffff } else { offset };
        register >= 0x200 && register < 0x300
    }

    /// Emulates a read of the distributor by the current vCPU. `offset` is in bytes from GICD's base; the redistributors of
    /// a GICv3 follow at [`super::GICD_V3_SIZE`], each [`super::GICR_SIZE`] long.
    ///
    /// The value is right-aligned. Pending and active state of an SPI in a list register of a vCPU that runs on another
    /// pCPU is as that vCPU last left it; that vCPU is in the set returned then, so a guest that waits for a change sees
    /// it soon (Linux's `synchronize_irq` polls GICD_ISACTIVER).
    ///
    /// # Errors
    /// [`Fault`] when the access is not aligned to its width, or outside the page: the guest gets a data abort.
    pub fn mmio_read<H: VgicHost + ?Sized>(
        &mut self,
        vcpu: VcpuId,
        offset: u32,
        width: Width,
        host: &H,
    ) -> Result<(u32, KickSet), Fault> {
        let (mask, shift) = width.lanes(offset)?;
        let cpu = vcpu.index();
        if cpu >= self.irqs.vcpus {
            return Err(Fault);
        }
        if self.irqs.is_v3() {
            let (word, kicks) = self.read_v3(cpu, offset & !3, host)?;
            return Ok(((word & mask) >> shift, kicks));
        }
        if offset >= GICD_SIZE {
            return Err(Fault);
        }
        let value = (self.read_word(cpu, offset & !3, host) & mask) >> shift;
        let kicks = match (offset >> 7, self.bank_of(cpu, offset >> 2)) {
            (4..=7, Some(bank)) if bank >= self.irqs.vcpus => self.ask_others(bank, cpu),
            _ => KickSet::NONE,
        };
        Ok((value, kicks))
    }

    /// Emulates a write to the distributor by the current vCPU. `value` is right-aligned.
    ///
    /// Takes effect on the current vCPU's list registers at its next flush. Returns the vCPUs, perhaps with the current
    /// one, that have something to do now.
    ///
    /// # Errors
    /// [`Fault`] when the access is not aligned to its width, or outside the page: the guest gets a data abort.
    pub fn mmio_write<P: PhysIrq + ?Sized>(
        &mut self,
        vcpu: VcpuId,
        offset: u32,
        width: Width,
        value: u32,
        phys: &mut P,
    ) -> Result<KickSet, Fault> {
        let (mask, shift) = width.lanes(offset)?;
        let cpu = vcpu.index();
        if cpu >= self.irqs.vcpus {
            return Err(Fault);
        }
        if self.irqs.is_v3() {
            return self.write_v3(cpu, offset & !3, (value << shift) & mask, mask, phys);
        }
        if offset >= GICD_SIZE {
            return Err(Fault);
        }
        Ok(self.write_word(cpu, offset & !3, (value << shift) & mask, mask, phys))
    }

    /// Returns the bank of register `n` of a one-bit register array as the vCPU sees it.
    pub(super) fn bank_of(&self, cpu: usize, n: u32) -> Option<usize> {
        let n = n as usize & 31;
        let bank = if n == 0 { cpu } else { self.irqs.vcpus - 1 + n };
        (bank < self.irqs.banks.len()).then_some(bank)
    }

    /// Returns the index of the first of four interrupts in a byte-wide register array; `offset` is within it.
    fn quad_of(&self, cpu: usize, offset: u32) -> Option<usize> {
        self.bank_of(cpu, offset >> 5)
            .map(|bank| bank * 32 + (offset as usize & 0x1c))
    }

    pub(super) fn read_word<H: VgicHost + ?Sized>(&self, cpu: usize, offset: u32, host: &H) -> u32 {
        match offset >> 7 {
            0 => match offset {
                0 => u32::from(self.irqs.forwarding),
                4 => (self.irqs.spi_banks() as u32 & 31) | ((self.irqs.vcpus as u32 - 1) << 5),
                8 => IIDR,
                _ => 0,
            },
            2 | 3 => self
                .bank_of(cpu, offset >> 2)
                .map_or(0, |bank| self.irqs.banks[bank].enabled),
            4 | 5 => self
                .bank_of(cpu, offset >> 2)
                .map_or(0, |bank| self.read_pending(cpu, bank, host)),
            6 | 7 => self
                .bank_of(cpu, offset >> 2)
                .map_or(0, |bank| self.read_active(cpu, bank, host)),
            8..=15 => self.read_quad(cpu, offset & 0x3ff, |vgic, index| {
                vgic.irqs.nodes[index].priority
            }),
            16..=23 => self.read_quad(cpu, offset & 0x3ff, |vgic, index| {
                vgic.irqs.nodes[index].targets.to_le_bytes()[0]
            }),
            24 | 25 => {
                let Some(bank) = self.bank_of(cpu, (offset & 0xff) >> 3) else {
                    return 0;
                };
                let edge = self.collect(bank, |state| state.contains(State::EDGE));
                spread(edge >> ((offset & 4) * 4))
            }
            30 => match offset {
                0xf10..=0xf2f => {
                    let mut value = 0;
                    for byte in 0..4 {
                        let sgi = (offset & 0xc) as usize + byte;
                        let mut sources = self.irqs.nodes[cpu << 5 | sgi].sources;
                        if let Some((source, true)) = self.sgi_in_lr(cpu * 32 + sgi, Some(host)) {
                            sources |= 1 << source;
                        }
                        value |= u32::from(sources) << (byte * 8);
                    }
                    value
                }
                _ => 0,
            },
            31 if offset >= 0xfd0 => IDENTIFICATION
                .get((offset as usize - 0xfd0) / 4)
                .map_or(0, |&byte| u32::from(byte)),
            _ => 0,
        }
    }

    fn read_quad(&self, cpu: usize, offset: u32, get: impl Fn(&Self, usize) -> u8) -> u32 {
        let Some(first) = self.quad_of(cpu, offset) else {
            return 0;
        };
        let mut value = 0;
        for byte in 0..4 {
            value |= u32::from(get(self, first + byte)) << (byte * 8);
        }
        value
    }

    /// Returns the interrupts of a bank whose state is so, as a mask.
    pub(super) fn collect(&self, bank: usize, is_so: impl Fn(State) -> bool) -> u32 {
        let mut mask = 0;
        for (bit, node) in self.irqs.nodes[bank * 32..][..32].iter().enumerate() {
            mask |= u32::from(is_so(node.state)) << bit;
        }
        mask
    }

    pub(super) fn read_pending<H: VgicHost + ?Sized>(
        &self,
        cpu: usize,
        bank: usize,
        host: &H,
    ) -> u32 {
        let (in_lrs, _) = self.states_in_lrs(bank, cpu, host);
        let mut pending = in_lrs | self.collect(bank, State::is_sure);
        let elsewhere = self.collect(bank, |state| state.intersects(State::ASKS | State::LINKED));
        for_each_bit(elsewhere & !pending, |bit| {
            let node = &self.irqs.nodes[bank << 5 | bit];
            let is_pending = if node.state.contains(State::ASKS) {
                host.is_asserted(VcpuId::new(cpu as u16), node.int_id)
            } else {
                // A level that the hypervisor has not taken, or that is still up, or an edge since the last one.
                host.is_pending(node.hw)
            };
            pending |= u32::from(is_pending) << bit;
        });
        pending
    }

    pub(super) fn read_active<H: VgicHost + ?Sized>(
        &self,
        cpu: usize,
        bank: usize,
        host: &H,
    ) -> u32 {
        let (_, in_lrs) = self.states_in_lrs(bank, cpu, host);
        let mut active = self.collect(bank, |state| state.contains(State::ACTIVE));
        for_each_bit(active, |bit| {
            if self.irqs.nodes[bank << 5 | bit].is_in_lr() {
                active &= !(1 << bit);
            }
        });
        active | in_lrs
    }

    pub(super) fn write_word<P: PhysIrq + ?Sized>(
        &mut self,
        cpu: usize,
        offset: u32,
        value: u32,
        mask: u32,
        phys: &mut P,
    ) -> KickSet {
        let register = offset >> 2;
        match offset >> 7 {
            0 if offset == 0 && mask & 1 != 0 => self.set_forwarding(value & 1 != 0),
            2..=7 => {
                let Some(bank) = self.bank_of(cpu, register) else {
                    return KickSet::NONE;
                };
                match offset >> 7 {
                    2 => self.enable(bank, value, phys),
                    3 => self.disable(bank, value, phys),
                    4 => self.pend(bank, value),
                    5 => self.unpend(bank, value, phys),
                    6 => self.activate(bank, value),
                    _ => self.deactivate(bank, value, phys),
                }
            }
            8..=15 => self.write_quad(
                cpu,
                offset & 0x3ff,
                value & 0xf8f8_f8f8,
                mask,
                |node, byte| core::mem::replace(&mut node.priority, byte) != byte,
            ),
            16..=23 => {
                // Banked ones are read-only; with one CPU there is nothing to choose.
                let existing = self.existing();
                if offset & 0x3ff < 32 || existing == 1 {
                    return KickSet::NONE;
                }
                self.write_quad(
                    cpu,
                    offset & 0x3ff,
                    value & (existing * 0x0101_0101),
                    mask,
                    |node, byte| {
                        let targets = VcpuMask::from(byte);
                        core::mem::replace(&mut node.targets, targets) != targets
                    },
                )
            }
            24 | 25 => self.configure(offset & 0xff, value, mask, phys),
            30 => match offset {
                0xf00 if mask == u32::MAX => self.send_sgi(cpu, value),
                0xf10..=0xf1f => self.clear_sgis(cpu, offset & 0xc, value),
                0xf20..=0xf2f => {
                    let mut kicks = KickSet::NONE;
                    for byte in 0..4 {
                        kicks |= self.add_sources(
                            cpu,
                            (offset & 0xc) as usize + byte,
                            (value >> (byte * 8)) as u8,
                        );
                    }
                    kicks
                }
                _ => KickSet::NONE,
            },
            _ => KickSet::NONE,
        }
    }

    fn write_quad(
        &mut self,
        cpu: usize,
        offset: u32,
        value: u32,
        mask: u32,
        set: impl Fn(&mut super::irq::Node, u8) -> bool,
    ) -> KickSet {
        let Some(first) = self.quad_of(cpu, offset) else {
            return KickSet::NONE;
        };
        let mut kicks = KickSet::NONE;
        for byte in 0..4 {
            if mask >> (byte * 8) & 0xff != 0
                && set(
                    &mut self.irqs.nodes[first + byte],
                    (value >> (byte * 8)) as u8,
                )
            {
                self.forget_lr(first + byte);
                kicks |= self.irqs.evaluate(first + byte);
            }
        }
        kicks
    }

    pub(super) fn set_forwarding(&mut self, on: bool) -> KickSet {
        let mut kicks = KickSet::NONE;
        if core::mem::replace(&mut self.irqs.forwarding, on) == on {
            return kicks;
        }
        for cpu in 0..self.irqs.vcpus {
            // Off: pending ones leave the LRs. On: the queues may go.
            self.irqs.waiting[cpu].revisit = u32::MAX;
            kicks |= self.irqs.notify(cpu);
        }
        kicks
    }

    fn enable<P: PhysIrq + ?Sized>(&mut self, bank: usize, bits: u32, phys: &mut P) -> KickSet {
        let changed = bits & !self.irqs.banks[bank].enabled;
        self.irqs.banks[bank].enabled |= changed;
        let mut kicks = KickSet::NONE;
        for_each_bit(changed, |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            node.state.insert(State::ENABLED);
            if node.state.contains(State::ASKS) {
                node.state.insert(State::HINT);
            }
            if node.state.contains(State::LINKED) && !node.is_private() {
                phys.enable(node.hw);
            }
            // One that is not pending has nothing to wait for.
            if node.state.is_candidate() {
                kicks |= self.irqs.evaluate(index);
            }
        });
        kicks
    }

    fn disable<P: PhysIrq + ?Sized>(&mut self, bank: usize, bits: u32, phys: &mut P) -> KickSet {
        let changed = self.without_sgis(bank, bits & self.irqs.banks[bank].enabled);
        self.irqs.banks[bank].enabled &= !changed;
        let mut kicks = KickSet::NONE;
        for_each_bit(changed, |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            node.state.remove(State::ENABLED);
            if node.state.contains(State::LINKED) && !node.is_private() {
                phys.disable(node.hw);
                node.give_back_masked(phys);
            }
            if node.place != Place::Idle {
                kicks |= self.irqs.evaluate(index);
            }
        });
        kicks
    }

    /// A GICv2's SGIs cannot be disabled, and are pended by GICD_SGIR and GICD_SPENDSGIR only.
    fn without_sgis(&self, bank: usize, bits: u32) -> u32 {
        if bank < self.irqs.vcpus && !self.irqs.is_v3() {
            bits & !0xffff
        } else {
            bits
        }
    }

    fn pend(&mut self, bank: usize, bits: u32) -> KickSet {
        let mut kicks = KickSet::NONE;
        for_each_bit(self.without_sgis(bank, bits), |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            node.state.insert(State::LATCHED);
            if HAS_V3 && node.is_sgi() {
                node.sources = 1;
            }
            kicks |= self.irqs.evaluate(index);
        });
        kicks
    }

    fn unpend<P: PhysIrq + ?Sized>(&mut self, bank: usize, bits: u32, phys: &mut P) -> KickSet {
        let mut kicks = KickSet::NONE;
        for_each_bit(self.without_sgis(bank, bits), |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            let is_edge = node.state.contains(State::EDGE);
            node.state.remove(State::LATCHED);
            if HAS_V3 && node.is_sgi() {
                node.sources = 0;
            }
            if is_edge {
                node.state.remove(State::ARRIVED);
            }
            if node.is_in_lr() {
                node.state.insert(State::DROP_PENDING);
            } else {
                node.settle_physical(phys);
            }
            if is_edge && node.state.contains(State::LINKED) {
                phys.set_pending(node.hw, false);
            }
            kicks |= self.irqs.evaluate(index);
        });
        kicks
    }

    fn activate(&mut self, bank: usize, bits: u32) -> KickSet {
        let mut kicks = KickSet::NONE;
        for_each_bit(bits, |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            if node.is_in_lr() {
                node.state.remove(State::DROP_ACTIVE);
                node.state.insert(State::MAKE_ACTIVE);
                kicks |= self.irqs.evaluate(index);
            } else if !node.state.contains(State::ACTIVE) {
                node.state.insert(State::ACTIVE);
                let target = node.target();
                self.irqs.set_soft_active(index, true);
                kicks |= self.irqs.evaluate(index);
                if target < MAX_VCPUS {
                    kicks |= self.irqs.notify(target);
                }
            }
        });
        kicks
    }

    fn deactivate<P: PhysIrq + ?Sized>(&mut self, bank: usize, bits: u32, phys: &mut P) -> KickSet {
        let mut kicks = KickSet::NONE;
        for_each_bit(bits, |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            if node.is_in_lr() {
                node.state.remove(State::MAKE_ACTIVE);
                node.state.insert(State::DROP_ACTIVE);
                kicks |= self.irqs.evaluate(index);
            } else if node.state.contains(State::ACTIVE) {
                node.state.remove(State::ACTIVE);
                node.settle_physical(phys);
                self.irqs.set_soft_active(index, false);
                kicks |= self.irqs.evaluate(index);
            }
        });
        kicks
    }

    /// GICD_ICFGR: `offset` within the array; those of SGIs and PPIs are read-only.
    fn configure<P: PhysIrq + ?Sized>(
        &mut self,
        offset: u32,
        value: u32,
        mask: u32,
        phys: &mut P,
    ) -> KickSet {
        if offset < 8 {
            return KickSet::NONE;
        }
        let Some(bank) = self.bank_of(0, offset >> 3) else {
            return KickSet::NONE;
        };
        let shift = (offset & 4) * 4;
        let edges = gather(value) << shift;
        let mut kicks = KickSet::NONE;
        for_each_bit(gather(mask) << shift, |bit| {
            let index = bank << 5 | bit;
            let node = &mut self.irqs.nodes[index];
            let is_edge = edges & (1 << bit) != 0;
            if node.state.contains(State::EDGE) == is_edge {
                return;
            }
            node.state.toggle(State::EDGE);
            if node.state.contains(State::LINKED) {
                let trigger = if is_edge {
                    Trigger::Edge
                } else {
                    Trigger::Level
                };
                phys.set_trigger(node.hw, trigger);
            }
            kicks |= self.irqs.evaluate(index);
        });
        kicks
    }

    /// The vCPUs that exist, as a mask.
    fn existing(&self) -> u32 {
        (1 << (self.irqs.vcpus & 31)) - 1
    }

    /// GICD_SGIR. The reserved filter and CPUs that do not exist are ignored (XSA-117, XSA-225).
    fn send_sgi(&mut self, cpu: usize, value: u32) -> KickSet {
        let own = 1u32 << (cpu & 31);
        let targets = match (value >> 24) & 3 {
            0 => value >> 16,
            1 => !own,
            2 => own,
            _ => 0,
        };
        let mut kicks = KickSet::NONE;
        for_each_bit(targets & self.existing(), |target| {
            kicks |= self.pend_sgi(target, value as usize, own as u8);
        });
        kicks
    }

    /// GICD_SPENDSGIR: pends an SGI of a vCPU from the senders in `sources`.
    fn add_sources(&mut self, cpu: usize, sgi: usize, sources: u8) -> KickSet {
        let sources = sources & self.existing() as u8;
        if sources == 0 {
            return KickSet::NONE;
        }
        self.pend_sgi(cpu, sgi, sources)
    }

    #[inline(always)]
    pub(super) fn pend_sgi(&mut self, cpu: usize, sgi: usize, sources: u8) -> KickSet {
        let index = cpu << 5 | sgi & 15;
        let node = &mut self.irqs.nodes[index];
        node.state.insert(State::LATCHED);
        node.sources |= sources;
        self.irqs.evaluate(index)
    }

    /// GICD_CPENDSGIR: ends the pending state of four SGIs for the senders named.
    fn clear_sgis(&mut self, cpu: usize, first: u32, value: u32) -> KickSet {
        let mut kicks = KickSet::NONE;
        for byte in 0..4 {
            let sgi = (first & 0xc) as usize + byte;
            let senders = (value >> (byte * 8)) as u8;
            if senders == 0 {
                continue;
            }
            let index = cpu << 5 | sgi;
            let in_lr = self.sgi_in_lr(index, None::<&super::NoHost>);
            let node = &mut self.irqs.nodes[index];
            node.sources &= !senders;
            node.state.set(State::LATCHED, node.sources != 0);
            if let Some((source, _)) = in_lr
                && senders & (1 << source) != 0
            {
                node.state.insert(State::DROP_PENDING);
            }
            kicks |= self.irqs.evaluate(index);
        }
        kicks
    }
}

/// Moves bit `n` of the low half to bit `2n + 1`: GICD_ICFGR has two bits for each interrupt.
fn spread(bits: u32) -> u32 {
    let mut value = bits & 0xffff;
    value = (value | value << 8) & 0x00ff_00ff;
    value = (value | value << 4) & 0x0f0f_0f0f;
    value = (value | value << 2) & 0x3333_3333;
    value = (value | value << 1) & 0x5555_5555;
    value << 1
}

/// The inverse of [`spread`].
fn gather(word: u32) -> u32 {
    let mut value = (word >> 1) & 0x5555_5555;
    value = (value | value >> 1) & 0x3333_3333;
    value = (value | value >> 2) & 0x0f0f_0f0f;
    value = (value | value >> 4) & 0x00ff_00ff;
    (value | value >> 8) & 0xffff
}
