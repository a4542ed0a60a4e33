//! The virtual interrupt controller of a domain: a distributor of GICv2 or GICv3 and the list registers of its vCPUs.
//!
//! The guest's CPU interface is the hardware's virtual one (GICV, or the system registers), so only the distributor is
//! emulated, and a GICv3's redistributors. `irq` is the state of the interrupts, without registers; `v2` decodes GICD,
//! `v3` what a GICv3 has beside it; `lr` is the GICv2 list register format, which the driver of a GICv3 translates;
//! `deliver` moves interrupts between memory and list registers, `switch` has the operations on a whole vCPU.
//!
//! # Use
//! One [`Vgic`] for each domain, under one lock that the caller holds. The caller
//! - calls [`Vgic::restore`] when it switches to a vCPU, [`Vgic::save`] when it switches away;
//! - before each entry to the guest, if [`WorkFlags::is_set`] (no lock needed), calls [`Vgic::flush`];
//! - calls [`Vgic::sync`] on the maintenance interrupt;
//! - for each vCPU in a returned [`KickSet`]: if it is the current one, nothing (the flag makes it flush); if it runs
//!   on another pCPU, sends that pCPU an SGI, so that it flushes; if it sleeps, wakes it.
//!
//! Physical interrupts are taken with EOImode 1: the priority is dropped when taken, the deactivation is left to the
//! guest's EOI through the list register, or comes through [`PhysIrq::deactivate`] when the guest never sees it.
//!
//! # Lines
//! - edge: [`Vgic::set_pending`];
//! - level kept here: [`Vgic::raise_level`], [`Vgic::lower_level`]; exact by EOI maintenance;
//! - level that the caller knows ([`Vgic::ask_line`]; event-channel upcall, timers): [`LineLevels::is_asserted`] decides
//!   when the interrupt is about to be put into a list register. [`Vgic::raise_level`] says that it may be asserted;
//! - linked to hardware ([`Vgic::link_hw`]): [`Vgic::inject_hw`]; a level is asked as well.
//!
//! Hot paths allocate nothing. Nothing a guest does can panic: indices come from masks, or are checked.
//! Reference: Arm IHI 0048B and IHI 0069H; Xen's choices in xen-arm.md 3.21.

mod deliver;
mod irq;
mod lr;
mod switch;
#[cfg(test)]
mod tests;
mod v2;
mod v3;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::{IntId, VcpuId};
use crate::errno::Errno;
use crate::machine::{PhysIrq, Trigger};

use irq::State;
pub use lr::{
    ListRegisters, MAX_LRS, from_active_priorities, from_gicv3, to_active_priorities, to_gicv3,
};
pub use v2::{GICD_SIZE, Width};
pub use v3::{GICD_V3_SIZE, GICR_SIZE, Redistributors};

/// Whether there is a GICv3: where a pointer has 32 bits the machine is an ARMv7-A, and its GIC a GICv2. What only a GICv3
/// needs is left out there.
pub const HAS_V3: bool = cfg!(target_pointer_width = "64");

/// A vCPU in each bit.
#[cfg(target_pointer_width = "64")]
pub type VcpuMask = u64;
/// A vCPU in each bit.
#[cfg(not(target_pointer_width = "64"))]
pub type VcpuMask = u8;

/// Most vCPUs of a domain.
pub const MAX_VCPUS: usize = VcpuMask::BITS as usize;
/// Most vCPUs of a domain with a GICv2, whose target registers have a bit for each.
pub const MAX_VCPUS_V2: usize = 8;
/// Most SPIs of a domain: 992 interrupts, as Xen.
pub const MAX_SPIS: u16 = 960;

/// Interrupt lines whose level the caller knows.
pub trait LineLevels {
    /// Returns true if the line of the interrupt is asserted for the vCPU now.
    ///
    /// Asked for interrupts named by [`Vgic::ask_line`], and for level-sensitive ones linked to hardware, where true is
    /// right if it is not known (the guest then sees a spurious interrupt at worst).
    fn is_asserted(&self, vcpu: VcpuId, irq: IntId) -> bool;
}

/// All that the virtual interrupt controller needs of the machine.
pub trait VgicHost: ListRegisters + PhysIrq + LineLevels {}
impl<T: ListRegisters + PhysIrq + LineLevels + ?Sized> VgicHost for T {}

/// A set of vCPUs that have something to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct KickSet(VcpuMask);

impl KickSet {
    /// No vCPU.
    pub const NONE: Self = Self(0);

    fn one(vcpu: usize) -> Self {
        Self(1 << (vcpu & (MAX_VCPUS - 1)))
    }
    /// Returns true if nobody has to do anything.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Returns true if the vCPU is in the set.
    pub fn contains(self, vcpu: VcpuId) -> bool {
        vcpu.index() < MAX_VCPUS && self.0 & (1 << vcpu.index()) != 0
    }
    /// Returns the set without the vCPU.
    pub fn without(self, vcpu: VcpuId) -> Self {
        if vcpu.index() < MAX_VCPUS {
            Self(self.0 & !(1 << vcpu.index()))
        } else {
            self
        }
    }
    /// Returns the set as a mask, bit `n` for vCPU `n`.
    pub const fn bits(self) -> VcpuMask {
        self.0
    }
    /// Returns the vCPUs in the set.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = VcpuId> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let next = (rest != 0).then(|| VcpuId::new(rest.trailing_zeros() as u16));
            rest &= rest.wrapping_sub(1);
            next
        })
    }
}

impl core::ops::BitOrAssign for KickSet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// For each vCPU whether it has to flush before it enters the guest. Read without the lock.
///
/// The flag orders nothing: the lock orders the state, and the kick (whose sender executes a DSB before it writes the
/// SGI register) makes the flag visible to a vCPU that runs elsewhere.
///
/// In a cache line of its own, as large as [`crate::p2m::PageAccount`] (see [`crate::fallible`]).
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkFlags([AtomicBool; MAX_VCPUS]);

impl Default for WorkFlags {
    fn default() -> Self {
        Self([const { AtomicBool::new(false) }; MAX_VCPUS])
    }
}

impl WorkFlags {
    /// Returns true if the vCPU must call [`Vgic::flush`].
    pub fn is_set(&self, vcpu: usize) -> bool {
        self.0
            .get(vcpu)
            .is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
    fn set(&self, vcpu: usize) {
        self.assign(vcpu, true);
    }
    fn assign(&self, vcpu: usize, on: bool) {
        if let Some(flag) = self.0.get(vcpu) {
            flag.store(on, Ordering::Relaxed);
        }
    }
}

/// The architecture of an interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: one page of registers, and a CPU interface in memory.
    V2,
    /// GICv3 with affinity routing: a redistributor for each vCPU, and a CPU interface in system registers.
    V3,
}

impl Version {
    /// Returns the most vCPUs that a domain with it can have.
    pub const fn max_vcpus(self) -> usize {
        match self {
            Self::V3 if HAS_V3 => MAX_VCPUS,
            _ => MAX_VCPUS_V2,
        }
    }
}

/// What the guest's interrupt controller looks like.
#[derive(Clone, Copy, Debug)]
pub struct VgicConfig {
    /// Which GIC it is.
    pub version: Version,
    /// Number of vCPUs, from 1 to [`Version::max_vcpus`].
    pub vcpus: usize,
    /// Number of SPIs, at most [`MAX_SPIS`]; rounded up to a multiple of 32.
    pub nr_spis: u16,
    /// Number of list registers of the hardware (GICH_VTR.ListRegs + 1); at most [`MAX_LRS`] are used.
    pub lr_count: usize,
}

/// When the line of a level-sensitive interrupt is sampled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// After every EOI, by a maintenance interrupt: exact.
    OnEoi,
    /// After an EOI only if [`Vgic::raise_level`] came while the interrupt was active: no maintenance interrupt in the
    /// usual case. For lines that the guest itself clears before its EOI, and that announce each rise.
    OnRaise,
}

fn cpu_interfaces() -> Result<Box<[deliver::CpuInterface; MAX_VCPUS]>, Errno> {
    let mut cpus = Vec::new();
    cpus.try_reserve_exact(MAX_VCPUS)
        .map_err(|_| Errno::NoMem)?;
    cpus.resize_with(MAX_VCPUS, deliver::CpuInterface::default);
    cpus.into_boxed_slice().try_into().map_err(|_| Errno::NoMem)
}

/// The interrupt controller of a domain.
pub struct Vgic {
    irqs: irq::Interrupts,
    cpus: Box<[deliver::CpuInterface; MAX_VCPUS]>,
    /// The list registers that are used, as a mask.
    lrs: u32,
    /// The vCPUs whose redistributor is the last of its region, as a mask.
    last_frames: VcpuMask,
}

impl Vgic {
    /// Makes the controller as it is after reset: nothing enabled but SGIs, SPIs target vCPU 0, no vCPU loaded.
    ///
    /// # Errors
    /// `EINVAL` when a number is out of range; `ENOMEM`.
    pub fn new(config: VgicConfig) -> Result<Self, Errno> {
        let is_valid = (1..=config.version.max_vcpus()).contains(&config.vcpus)
            && (HAS_V3 || config.version == Version::V2)
            && config.nr_spis <= MAX_SPIS
            && config.lr_count > 0;
        if !is_valid {
            return Err(Errno::Inval);
        }
        Ok(Self {
            irqs: irq::Interrupts::new(
                config.version,
                config.vcpus,
                usize::from(config.nr_spis).div_ceil(32),
            )?,
            cpus: cpu_interfaces()?,
            lrs: (1 << config.lr_count.min(MAX_LRS)) - 1,
            last_frames: 1 << (config.vcpus - 1),
        })
    }

    /// Returns the flags that say who must flush.
    pub fn work_flags(&self) -> Arc<WorkFlags> {
        Arc::clone(&self.irqs.work)
    }

    /// Returns true if the vCPU must flush before it enters the guest.
    pub fn needs_flush(&self, vcpu: VcpuId) -> bool {
        self.irqs.work.is_set(vcpu.index())
    }

    /// Links a virtual SPI, or a PPI of all vCPUs, to a physical interrupt.
    ///
    /// A PPI's line is asked too, and enabling it is the caller's; an SPI is enabled and disabled as the guest does.
    ///
    /// # Errors
    /// `EINVAL` when there is no such virtual interrupt, or it is an SGI; `EBUSY` when it is linked already.
    pub fn link_hw<P: PhysIrq + ?Sized>(
        &mut self,
        irq: IntId,
        phys_irq: IntId,
        trigger: Trigger,
        phys: &mut P,
    ) -> Result<(), Errno> {
        if irq.index() < 16
            || phys_irq.index() < 16
            || phys_irq.index() >= 1020
            || irq.is_spi() != phys_irq.is_spi()
        {
            return Err(Errno::Inval);
        }
        for cpu in 0..if irq.is_spi() { 1 } else { self.irqs.vcpus } {
            let index = self.irqs.index(cpu, irq).ok_or(Errno::Inval)?;
            let node = &mut self.irqs.nodes[index];
            if node.state.contains(State::LINKED) {
                return Err(Errno::Busy);
            }
            node.state.insert(State::LINKED);
            node.hw = phys_irq;
            if irq.is_spi() {
                node.state.set(State::EDGE, trigger == Trigger::Edge);
                if node.state.contains(State::ENABLED) {
                    phys.enable(phys_irq);
                }
            } else {
                node.state.insert(State::ASKS);
                self.irqs.linked_ppis |= 1 << irq.index();
            }
        }
        Ok(())
    }

    /// Unlinks an SPI: disables the physical interrupt, and ends its active state.
    ///
    /// If it is in a list register of a vCPU, the guest's EOI still deactivates it there, so the caller either has made
    /// sure that it is not ([`Vgic::is_in_progress`]), or has paused the domain and saved its vCPUs. Returns the physical interrupt.
    pub fn unlink_hw<P: PhysIrq + ?Sized>(&mut self, irq: IntId, phys: &mut P) -> Option<IntId> {
        let index = self.irqs.index(0, irq).filter(|_| irq.is_spi())?;
        let node = &mut self.irqs.nodes[index];
        if !node.state.contains(State::LINKED) {
            return None;
        }
        let hw = node.hw;
        phys.disable(hw);
        if node.state.contains(State::PHYS_ACTIVE) {
            phys.deactivate(hw);
        }
        node.state
            .remove(State::LINKED | State::ARRIVED | State::PHYS_ACTIVE);
        self.unlink_lr(index);
        let _fewer = self.irqs.evaluate(index);
        Some(hw)
    }

    /// Returns whether a SPI is linked to a physical one; nothing when there is no such interrupt.
    pub fn is_linked(&self, irq: IntId) -> Option<bool> {
        let index = self.irqs.index(0, irq).filter(|_| irq.is_spi())?;
        Some(self.irqs.nodes[index].state.contains(State::LINKED))
    }

    /// Returns whether a linked SPI was taken and its guest is not done with it.
    pub fn is_in_progress(&self, irq: IntId) -> bool {
        let index = self.irqs.index(0, irq).filter(|_| irq.is_spi());
        index.is_some_and(|index| {
            let node = &self.irqs.nodes[index];
            node.is_in_lr() || node.state.intersects(State::ARRIVED | State::PHYS_ACTIVE)
        })
    }

    /// Unlinks all SPIs: the domain dies.
    pub fn unlink_all<P: PhysIrq + ?Sized>(&mut self, phys: &mut P) {
        for raw in 32..32 + MAX_SPIS {
            let _ = self.unlink_hw(IntId::new(raw), phys);
        }
    }

    /// Has the line of an interrupt (a PPI: of all vCPUs) asked from the caller.
    ///
    /// # Errors
    /// `EINVAL` when there is no such interrupt, or it is an SGI.
    pub fn ask_line(&mut self, irq: IntId, resample: Resample) -> Result<(), Errno> {
        if irq.index() < 16 {
            return Err(Errno::Inval);
        }
        for cpu in 0..if irq.is_spi() { 1 } else { self.irqs.vcpus } {
            let index = self.irqs.index(cpu, irq).ok_or(Errno::Inval)?;
            let state = &mut self.irqs.nodes[index].state;
            state.insert(State::ASKS);
            state.set(State::RESAMPLE, resample == Resample::OnEoi);
        }
        Ok(())
    }

    /// A linked physical interrupt was taken. For a PPI `vcpu` is the current one; for an SPI it is ignored. Returns
    /// nothing when it is not linked (any more): then it is the caller's to deactivate.
    #[inline]
    pub fn inject_hw(&mut self, vcpu: VcpuId, irq: IntId) -> Option<KickSet> {
        let index = self.irqs.index(vcpu.index(), irq)?;
        let state = &mut self.irqs.nodes[index].state;
        if !state.contains(State::LINKED) {
            return None;
        }
        state.insert(State::ARRIVED | State::PHYS_ACTIVE);
        Some(self.irqs.evaluate(index))
    }

    /// Pends an interrupt as by an edge. `vcpu` is ignored for an SPI. SGIs cannot be pended so.
    pub fn set_pending(&mut self, vcpu: VcpuId, irq: IntId) -> KickSet {
        let Some(index) = self
            .irqs
            .index(vcpu.index(), irq)
            .filter(|_| irq.index() >= 16)
        else {
            return KickSet::NONE;
        };
        self.irqs.nodes[index].state.insert(State::LATCHED);
        self.irqs.evaluate(index)
    }

    /// The line of an interrupt rises; of one that is asked: may have risen. `vcpu` is ignored for an SPI.
    pub fn raise_level(&mut self, vcpu: VcpuId, irq: IntId) -> KickSet {
        let Some(index) = self
            .irqs
            .index(vcpu.index(), irq)
            .filter(|_| irq.index() >= 16)
        else {
            return KickSet::NONE;
        };
        let state = &mut self.irqs.nodes[index].state;
        if state.contains(State::ASKS) {
            state.insert(State::HINT);
        } else if state.contains(State::LINE) {
            return KickSet::NONE;
        } else {
            state.insert(State::LINE | State::RESAMPLE);
            if state.contains(State::EDGE) {
                state.insert(State::LATCHED);
            }
        }
        self.irqs.evaluate(index)
    }

    /// The line of an interrupt falls. `vcpu` is ignored for an SPI. Nothing for one that is asked.
    pub fn lower_level(&mut self, vcpu: VcpuId, irq: IntId) -> KickSet {
        let Some(index) = self
            .irqs
            .index(vcpu.index(), irq)
            .filter(|_| irq.index() >= 16)
        else {
            return KickSet::NONE;
        };
        let state = &mut self.irqs.nodes[index].state;
        if !state.contains(State::LINE) {
            return KickSet::NONE;
        }
        state.remove(State::LINE);
        self.irqs.evaluate(index)
    }
}

/// Stands for the host where there is none; uninhabited.
enum NoHost {}

impl ListRegisters for NoHost {
    fn read_lr(&self, _: usize) -> u32 {
        match *self {}
    }
    fn write_lr(&mut self, _: usize, _: u32) {
        match *self {}
    }
    fn empty_lrs(&self) -> u32 {
        match *self {}
    }
    fn ended_lrs(&self) -> u32 {
        match *self {}
    }
    fn set_underflow(&mut self, _: bool) {
        match *self {}
    }
    fn vmcr(&self) -> u32 {
        match *self {}
    }
    fn set_vmcr(&mut self, _: u32) {
        match *self {}
    }
    fn apr(&self) -> u32 {
        match *self {}
    }
    fn set_apr(&mut self, _: u32) {
        match *self {}
    }
}

impl PhysIrq for NoHost {
    fn enable(&mut self, _: IntId) {
        match *self {}
    }
    fn disable(&mut self, _: IntId) {
        match *self {}
    }
    fn set_trigger(&mut self, _: IntId, _: Trigger) {
        match *self {}
    }
    fn set_pending(&mut self, _: IntId, _: bool) {
        match *self {}
    }
    fn is_pending(&self, _: IntId) -> bool {
        match *self {}
    }
    fn deactivate(&mut self, _: IntId) {
        match *self {}
    }
}

impl LineLevels for NoHost {
    fn is_asserted(&self, _: VcpuId, _: IntId) -> bool {
        match *self {}
    }
}
