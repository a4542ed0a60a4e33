//! The registers of a GICv3 (Arm IHI 0069H chapter 12) as a guest sees them that cannot switch affinity routing off: the
//! distributor, a redistributor for each vCPU, and the system register that sends SGIs.
//!
//! What a GICv3 has in common with a GICv2 is `v2`'s: a redistributor's SGI page is the first part of `v2`'s registers as
//! that vCPU sees them, and the distributor's the rest. There is one security state as Non-secure software sees it: all
//! interrupts are in Group 1, GICD_IGROUPR and GICR_IGROUPR0 are RAZ/WI. There are no LPIs, no message-based SPIs and no
//! 1-of-N targets. Whatever is reserved reads as zero and ignores writes.
//!
//! A guest may access the redistributor of any of its vCPUs. What another vCPU has in its list registers is seen as that
//! vCPU last left it, like SPIs elsewhere.
//!
//! A 64-bit access comes as two words, the lower one first. Of GICD_IROUTER only the lower half has bits that a vCPU's
//! affinity can have.

use alloc::vec::Vec;

use super::irq::State;
use super::{KickSet, MAX_VCPUS, VcpuMask, Vgic, VgicHost};
use crate::addr::{GuestPhys, VcpuId};
use crate::errno::Errno;
use crate::machine::{Fault, PhysIrq};

/// Bytes of the distributor's registers.
pub const GICD_V3_SIZE: u32 = 0x1_0000;
/// Bytes of a redistributor's registers: the page of its own, and the one of its SGIs and PPIs.
pub const GICR_SIZE: u32 = 0x2_0000;

/// vCPUs whose affinity differs in the lowest field only, as Xen numbers them.
const CLUSTER: u32 = 16;

/// GICD_CTLR: affinity routing, Non-secure view; Group 1 with affinity routing.
const CTLR_ARE: u32 = 1 << 4;
const CTLR_ENABLE_G1A: u32 = 1 << 1;
/// GICD_TYPER: 10 bits of interrupt numbers, SPIs go to one vCPU each.
const TYPER: u32 = 9 << 19 | 1 << 25;
/// GICD_IIDR and GICR_IIDR: an Arm implementation, what Xen shows.
const IIDR: u32 = 0x0000_034c;
/// GICD_PIDR2 and GICR_PIDR2: version 3 of the architecture.
const PIDR2: u32 = 0x30;
/// GICR_TYPER.Last.
const LAST: u32 = 1 << 4;

/// Returns the affinity of a vCPU, as it is in its MPIDR, GICR_TYPER and GICD_IROUTER.
const fn affinity(vcpu: u32) -> u32 {
    ((vcpu / CLUSTER) << 8) | (vcpu % CLUSTER)
}

/// Where a guest finds its redistributors: whole ones, in the order of its vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redistributors {
    /// Where each region begins, and how many are used of it.
    regions: Vec<(GuestPhys, u32)>,
}

impl Redistributors {
    /// Takes as many redistributors from the regions, each given by base and size in bytes, as there are vCPUs.
    ///
    /// # Errors
    /// `EINVAL` when the regions do not hold so many; `ENOMEM`.
    pub fn new(
        regions: impl IntoIterator<Item = (GuestPhys, u64)>,
        vcpus: u32,
    ) -> Result<Self, Errno> {
        let mut used = Vec::new();
        let mut left = vcpus;
        for (base, size) in regions {
            let fit = size / u64::from(GICR_SIZE);
            let count = u32::try_from(fit).unwrap_or(u32::MAX).min(left);
            if count > 0 {
                used.try_reserve(1).map_err(|_| Errno::NoMem)?;
                used.push((base, count));
                left -= count;
            }
        }
        if left == 0 {
            Ok(Self { regions: used })
        } else {
            Err(Errno::Inval)
        }
    }

    /// Returns the regions that are used: base, and size in bytes.
    pub fn regions(&self) -> impl Iterator<Item = (GuestPhys, u64)> {
        let regions = self.regions.iter();
        regions.map(|&(base, count)| (base, u64::from(count) * u64::from(GICR_SIZE)))
    }

    /// Returns which register of [`Vgic::mmio_read`] is at the address, if it is a redistributor's.
    pub fn offset(&self, address: GuestPhys) -> Option<u32> {
        let mut first = GICD_V3_SIZE;
        for (base, size) in self.regions() {
            let within = address.raw().wrapping_sub(base.raw());
            if within < size {
                return Some(first + within as u32);
            }
            first += size as u32;
        }
        None
    }

    /// Returns the vCPUs whose redistributor is the last one of its region.
    fn last_frames(&self) -> VcpuMask {
        let mut mask = 0;
        let mut end = 0;
        for &(_, count) in &self.regions {
            end += count;
            mask |= 1 << ((end as usize - 1) & (MAX_VCPUS - 1));
        }
        mask
    }
}

/// One of a redistributor's pages, and the register in it.
enum Page {
    Own(u32),
    Sgis(u32),
}

impl Vgic {
    /// Says where the redistributors of a GICv3 are, of which GICR_TYPER shows how they are grouped. Without it they are
    /// one region.
    pub fn set_regions(&mut self, redistributors: &Redistributors) {
        self.last_frames = redistributors.last_frames();
    }

    /// Returns whose redistributor a register is in, and which one it is.
    fn frame(&self, offset: u32) -> Result<(usize, Page), Fault> {
        let within = offset.checked_sub(GICD_V3_SIZE).ok_or(Fault)?;
        let vcpu = (within / GICR_SIZE) as usize;
        if vcpu >= self.irqs.vcpus {
            return Err(Fault);
        }
        let register = within & 0xffff;
        let page = if within & 0x1_0000 == 0 {
            Page::Own(register)
        } else {
            Page::Sgis(register)
        };
        Ok((vcpu, page))
    }

    /// Whether these registers of `v2`'s layout are those of SGIs and PPIs; `None` for those that are of neither kind, or
    /// have no meaning with affinity routing.
    fn is_private_register(offset: u32) -> Option<bool> {
        match offset {
            0x100..=0x3ff => Some(offset & 0x7c == 0),
            0x400..=0x7ff => Some(offset & 0x3ff < 32),
            0xc00..=0xcff => Some(offset & 0xff < 8),
            _ => None,
        }
    }

    /// Reads a word; `offset` is a multiple of 4.
    pub(super) fn read_v3<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        offset: u32,
        host: &H,
    ) -> Result<(u32, KickSet), Fault> {
        if offset < GICD_V3_SIZE {
            let value = match offset {
                0 if self.irqs.forwarding => CTLR_ARE | CTLR_ENABLE_G1A,
                0 => CTLR_ARE,
                4 => TYPER | self.irqs.spi_banks() as u32 & 31,
                8 => IIDR,
                0x6000..=0x7fff if offset & 4 == 0 => self.read_route(cpu, offset),
                0xffe8 => PIDR2,
                _ if Self::is_private_register(offset) == Some(false) => {
                    return Ok(self.read_common(cpu, cpu, offset, host));
                }
                _ => 0,
            };
            return Ok((value, KickSet::NONE));
        }
        Ok(match self.frame(offset)? {
            (vcpu, Page::Own(register)) => (self.read_own(vcpu, register), KickSet::NONE),
            (vcpu, Page::Sgis(register)) if Self::is_private_register(register) == Some(true) => {
                self.read_common(cpu, vcpu, register, host)
            }
            _ => (0, KickSet::NONE),
        })
    }

    /// Reads a register of `v2`'s layout as `vcpu` sees it; `cpu` is the one that reads.
    fn read_common<H: VgicHost + ?Sized>(
        &mut self,
        cpu: usize,
        vcpu: usize,
        offset: u32,
        host: &H,
    ) -> (u32, KickSet) {
        let state_of = match (offset >> 7, self.bank_of(vcpu, offset >> 2)) {
            (state @ 4..=7, Some(bank)) => Some((state, bank)),
            _ => None,
        };
        let Some((state, bank)) = state_of else {
            return (self.read_word(vcpu, offset, host), KickSet::NONE);
        };
        let value = match state {
            // The lines of another vCPU's PPIs cannot be asked here.
            4 | 5 if bank < self.irqs.vcpus && bank != cpu => {
                self.states_in_lrs(bank, cpu, host).0 | self.collect(bank, State::is_sure)
            }
            4 | 5 => self.read_pending(cpu, bank, host),
            _ => self.read_active(cpu, bank, host),
        };
        let kicks = if bank == cpu {
            KickSet::NONE
        } else {
            self.ask_others(bank, cpu)
        };
        (value, kicks)
    }

    /// A redistributor's own page. Its CPU never sleeps, and there are no LPIs.
    fn read_own(&self, vcpu: usize, register: u32) -> u32 {
        let number = vcpu as u32;
        match register {
            4 => IIDR,
            8 => {
                let last = self.last_frames >> (vcpu & (MAX_VCPUS - 1)) & 1 != 0;
                number << 8 | if last { LAST } else { 0 }
            }
            0xc => affinity(number),
            0xffe8 => PIDR2,
            _ => 0,
        }
    }

    /// The lower half of GICD_IROUTER; 0 for an interrupt that there is not.
    fn read_route(&self, cpu: usize, offset: u32) -> u32 {
        self.routed(cpu, offset)
            .map_or(0, |index| affinity(self.irqs.nodes[index].target() as u32))
    }

    /// Returns the index of the SPI that a GICD_IROUTER belongs to.
    fn routed(&self, cpu: usize, offset: u32) -> Option<usize> {
        let irq = (offset - 0x6000) / 8;
        let irq = crate::addr::IntId::new(u16::try_from(irq).ok()?);
        self.irqs.index(cpu, irq).filter(|_| irq.is_spi())
    }

    /// Writes a word; `offset` is a multiple of 4.
    pub(super) fn write_v3<P: PhysIrq + ?Sized>(
        &mut self,
        cpu: usize,
        offset: u32,
        value: u32,
        mask: u32,
        phys: &mut P,
    ) -> Result<KickSet, Fault> {
        if offset < GICD_V3_SIZE {
            return Ok(match offset {
                0 if mask & CTLR_ENABLE_G1A != 0 => {
                    self.set_forwarding(value & CTLR_ENABLE_G1A != 0)
                }
                // All of the affinity at once: a part of it would name a vCPU that nobody meant.
                0x6000..=0x7fff if offset & 4 == 0 && mask == u32::MAX => {
                    self.write_route(cpu, offset, value)
                }
                _ if Self::is_private_register(offset) == Some(false) => {
                    self.write_word(cpu, offset, value, mask, phys)
                }
                _ => KickSet::NONE,
            });
        }
        let (vcpu, page) = self.frame(offset)?;
        let Page::Sgis(register) = page else {
            return Ok(KickSet::NONE);
        };
        if Self::is_private_register(register) != Some(true) {
            return Ok(KickSet::NONE);
        }
        let mut value = value;
        if vcpu != cpu && register >> 7 == 7 {
            // The physical interrupt is active on the pCPU of the other vCPU, and can be ended there only.
            value &= !self.irqs.linked_ppis;
        }
        Ok(self.write_word(vcpu, register, value, mask, phys))
    }

    /// A vCPU that there is not gets no interrupts.
    fn write_route(&mut self, cpu: usize, offset: u32, value: u32) -> KickSet {
        let Some(index) = self.routed(cpu, offset) else {
            return KickSet::NONE;
        };
        let targets = match self.at_affinity(value) {
            Some(vcpu) => 1 << vcpu,
            None => 0,
        };
        let node = &mut self.irqs.nodes[index];
        if core::mem::replace(&mut node.targets, targets) == targets {
            return KickSet::NONE;
        }
        self.forget_lr(index);
        self.irqs.evaluate(index)
    }

    /// Returns the vCPU with these affinity fields.
    fn at_affinity(&self, value: u32) -> Option<usize> {
        let (aff0, aff1) = (value & 0xff, value >> 8 & 0xff);
        let vcpu = (aff1 * CLUSTER + aff0) as usize;
        // Bit 31 would ask for any vCPU; there is no such thing (GICD_TYPER.No1N).
        let is_one = value & 0x00ff_0000 == 0 && aff0 < CLUSTER && vcpu < self.irqs.vcpus;
        is_one.then_some(vcpu)
    }

    /// ICC_SGI1R_EL1 was written by the vCPU: sends an SGI. CPUs that do not exist are ignored. `None` when the guest has
    /// no such register.
    pub fn send_sgi1r(&mut self, vcpu: VcpuId, value: u64) -> Option<KickSet> {
        let cpu = vcpu.index();
        if !self.irqs.is_v3() || cpu >= self.irqs.vcpus {
            return None;
        }
        let all = VcpuMask::MAX >> (MAX_VCPUS - self.irqs.vcpus);
        let targets = if value >> 40 & 1 != 0 {
            all & !(1 << cpu)
        } else {
            let aff1 = (value >> 16 & 0xff) as u32;
            // Affinity 2 and 3, and the range of affinity 0, are 0 for every vCPU.
            let is_there = value & 0x00ff_f0ff_0000_0000 == 0;
            let shift = aff1.saturating_mul(CLUSTER);
            let list = VcpuMask::try_from(value & 0xffff).unwrap_or(0);
            all & list.checked_shl(shift).filter(|_| is_there).unwrap_or(0)
        };
        let sgi = (value >> 24 & 15) as usize;
        let mut kicks = KickSet::NONE;
        for target in KickSet(targets).iter() {
            kicks |= self.pend_sgi(target.index(), sgi, 1);
        }
        Some(kicks)
    }
}
