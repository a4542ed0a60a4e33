//! The machine's interrupt controller, a GICv2 or a GICv3: the same names as arm32's, which has a GICv2 only.

use xenith_core::addr::IntId;
use xenith_core::machine::{PhysIrq, Trigger};

use super::gicv3;
use crate::common::gicv2;
pub use crate::common::gicv2::Target;

/// What makes a CPU's own interfaces.
#[derive(Clone, Copy)]
pub enum LocalFrames {
    /// Memory.
    V2(gicv2::LocalFrames),
    /// System registers.
    V3,
}

/// The distributor.
pub enum Distributor {
    /// GICv2.
    V2(gicv2::Distributor),
    /// GICv3, with its redistributors.
    V3(gicv3::Distributor),
}

macro_rules! either {
    ($of:expr, $gic:ident => $do:expr) => {
        match $of {
            Self::V2($gic) => $do,
            Self::V3($gic) => $do,
        }
    };
}

impl Distributor {
    /// Returns this CPU as the GIC names it.
    pub fn own_target(&self) -> Target {
        either!(self, gic => gic.own_target())
    }

    /// Returns what sends SGIs.
    pub fn sgi_sender(&self) -> SgiSender {
        match self {
            Self::V2(gic) => SgiSender::V2(gic.sgi_sender()),
            Self::V3(_) => SgiSender::V3,
        }
    }

    /// Sends a SPI to this CPU from now on; also one that is pending.
    pub fn set_target(&mut self, irq: IntId, target: Target) {
        either!(self, gic => gic.set_target(irq, target));
    }

    /// Sets up this CPU's part. Returns whether it has one.
    pub fn init_cpu(&mut self) -> bool {
        either!(self, gic => gic.init_cpu())
    }

    /// Returns the number of interrupt lines, SGIs and PPIs included (32..=1020).
    pub fn lines(&self) -> u16 {
        either!(self, gic => gic.lines())
    }

    /// Returns GICD_IIDR.
    pub fn iidr(&self) -> u32 {
        either!(self, gic => gic.iidr())
    }

    /// Returns whether QEMU's model may forget to signal: that of GICv2 does.
    pub fn may_forget(&self) -> bool {
        match self {
            Self::V2(gic) => gic.may_forget(),
            Self::V3(_) => false,
        }
    }

    /// Returns the number of CPUs that it has something for.
    pub fn cpu_count(&self) -> u32 {
        either!(self, gic => gic.cpu_count())
    }
}

impl PhysIrq for Distributor {
    fn enable(&mut self, irq: IntId) {
        either!(self, gic => gic.enable(irq));
    }
    fn disable(&mut self, irq: IntId) {
        either!(self, gic => gic.disable(irq));
    }
    fn set_trigger(&mut self, irq: IntId, trigger: Trigger) {
        either!(self, gic => gic.set_trigger(irq, trigger));
    }
    fn set_pending(&mut self, irq: IntId, pending: bool) {
        either!(self, gic => gic.set_pending(irq, pending));
    }
    fn is_pending(&self, irq: IntId) -> bool {
        either!(self, gic => gic.is_pending(irq))
    }
    fn deactivate(&mut self, irq: IntId) {
        either!(self, gic => gic.deactivate(irq));
    }
}

/// Sends software generated interrupts; any CPU may at any time.
#[derive(Clone, Copy)]
pub enum SgiSender {
    /// By the distributor.
    V2(gicv2::SgiSender),
    /// By a system register.
    V3,
}

impl SgiSender {
    /// Sends SGI `id` (0–15) to these CPUs, after everything that this CPU wrote before.
    #[inline]
    pub fn send(&self, id: u8, targets: impl Iterator<Item = Target>) {
        match self {
            Self::V2(sender) => sender.send(id, targets),
            Self::V3 => gicv3::send_sgi(id, targets),
        }
    }

    /// Sends SGI `id` to all CPUs but this one.
    pub fn send_others(&self, id: u8) {
        match self {
            Self::V2(sender) => sender.send_others(id),
            Self::V3 => gicv3::send_sgi_to_others(id),
        }
    }
}

/// An interrupt that was taken, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// What GICC_IAR said.
    V2(gicv2::Acknowledged),
    /// What ICC_IAR1_EL1 said.
    V3(u32),
}

impl Acknowledged {
    /// Returns the interrupt, or `None` when it was spurious.
    #[inline(always)]
    pub fn irq(self) -> Option<IntId> {
        match self {
            Self::V2(ack) => ack.irq(),
            Self::V3(id) => (id < 1020).then_some(IntId::new(id as u16)),
        }
    }
}

/// This CPU's interface.
pub enum CpuInterface {
    /// GICC.
    V2(gicv2::CpuInterface),
    /// System registers.
    V3(gicv3::CpuInterface),
}

impl CpuInterface {
    /// Takes this CPU's interface and opens it: all priorities, split EOI. `None` when firmware keeps the registers.
    ///
    /// # Safety
    /// Frames in memory are mapped as device memory, and this CPU has no other owner of the interface.
    pub unsafe fn new(frames: LocalFrames) -> Option<Self> {
        // SAFETY: By the contract.
        unsafe {
            match frames {
                LocalFrames::V2(frames) => gicv2::CpuInterface::new(frames).map(Self::V2),
                LocalFrames::V3 => gicv3::CpuInterface::new().map(Self::V3),
            }
        }
    }

    /// Acknowledges the highest priority pending interrupt.
    #[inline(always)]
    pub fn acknowledge(&mut self) -> Acknowledged {
        match self {
            Self::V2(gic) => Acknowledged::V2(gic.acknowledge()),
            Self::V3(gic) => Acknowledged::V3(gic.acknowledge()),
        }
    }

    /// Drops the running priority: the interrupt stays active until it is deactivated, by us or through a list register.
    #[inline(always)]
    pub fn drop_priority(&mut self, ack: Acknowledged) {
        match (self, ack) {
            (Self::V2(gic), Acknowledged::V2(ack)) => gic.drop_priority(ack),
            (Self::V3(gic), Acknowledged::V3(id)) => gic.drop_priority(id),
            _ => {}
        }
    }

    /// Ends the active state of an interrupt that is the hypervisor's own.
    #[inline(always)]
    pub fn deactivate(&mut self, ack: Acknowledged) {
        match (self, ack) {
            (Self::V2(gic), Acknowledged::V2(ack)) => gic.deactivate(ack),
            (Self::V3(gic), Acknowledged::V3(id)) => gic.deactivate(id),
            _ => {}
        }
    }

    /// Has the GIC look again at what is pending, where it may forget.
    pub fn signal_again(&mut self) {
        if let Self::V2(gic) = self {
            gic.signal_again();
        }
    }
}

/// This CPU's virtual interface: the list registers of the vCPU that runs here, in GICv2's form.
pub enum HypInterface {
    /// GICH.
    V2(gicv2::HypInterface),
    /// System registers.
    V3(gicv3::HypInterface),
}

impl HypInterface {
    /// Takes this CPU's, empties the list registers and enables the virtual interface.
    ///
    /// # Safety
    /// Frames in memory are mapped as device memory; [`CpuInterface::new`] was called on this CPU, which has no other owner
    /// of the virtual interface.
    pub unsafe fn new(frames: LocalFrames) -> Self {
        // SAFETY: By the contract.
        unsafe {
            match frames {
                LocalFrames::V2(frames) => Self::V2(gicv2::HypInterface::new(frames)),
                LocalFrames::V3 => Self::V3(gicv3::HypInterface::new()),
            }
        }
    }

    /// Returns the number of list registers.
    #[inline(always)]
    pub fn lr_count(&self) -> u8 {
        either!(self, gic => gic.lr_count())
    }

    /// Returns list register `n`; 0 beyond the last.
    #[inline]
    pub fn read_lr(&self, n: u8) -> u32 {
        either!(self, gic => gic.read_lr(n))
    }

    /// Writes list register `n`.
    #[inline]
    pub fn write_lr(&mut self, n: u8, value: u32) {
        either!(self, gic => gic.write_lr(n, value));
    }

    /// Returns the list registers that hold nothing, a bit each.
    #[inline]
    pub fn empty_mask(&self) -> u64 {
        either!(self, gic => gic.empty_mask())
    }

    /// Returns the list registers that ended with an EOI maintenance request.
    #[inline]
    pub fn eoi_mask(&self) -> u64 {
        either!(self, gic => gic.eoi_mask())
    }

    /// Switches the underflow maintenance interrupt.
    #[inline]
    pub fn set_underflow(&mut self, on: bool) {
        either!(self, gic => gic.set_underflow(on));
    }

    /// Reads the guest's view of its CPU interface, as in GICH_VMCR.
    #[inline]
    pub fn vmcr(&self) -> u32 {
        either!(self, gic => gic.vmcr())
    }

    /// Writes it.
    pub fn set_vmcr(&mut self, value: u32) {
        either!(self, gic => gic.set_vmcr(value));
    }

    /// Reads the active priorities, as in GICH_APR.
    pub fn apr(&self) -> u32 {
        either!(self, gic => gic.apr())
    }

    /// Writes them.
    pub fn set_apr(&mut self, value: u32) {
        either!(self, gic => gic.set_apr(value));
    }
}
