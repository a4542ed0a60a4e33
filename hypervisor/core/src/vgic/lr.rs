//! The GICv2 list register format (Arm IHI 0048B, GICH_LRn) and the trait through which list registers are reached.

use crate::addr::IntId;

/// Most list registers that are used, whatever the hardware has.
pub const MAX_LRS: usize = 16;

/// The virtual interface control registers (GICH) of the calling pCPU, which hold the current vCPU's interrupts.
///
/// Bit `n` of a mask stands for list register `n`. `n` is always below the configured number of list registers.
pub trait ListRegisters {
    /// Returns GICH_LRn.
    fn read_lr(&self, n: usize) -> u32;
    /// Writes GICH_LRn.
    fn write_lr(&mut self, n: usize, value: u32);
    /// Returns GICH_ELRSR0: the registers that are empty and owe no EOI maintenance.
    fn empty_lrs(&self) -> u32;
    /// Returns GICH_EISR0: the registers whose interrupt ended with EOI maintenance asked for.
    fn ended_lrs(&self) -> u32;
    /// Sets or clears GICH_HCR.UIE (and leaves GICH_HCR.En set).
    fn set_underflow(&mut self, on: bool);
    /// Returns GICH_VMCR.
    fn vmcr(&self) -> u32;
    /// Writes GICH_VMCR.
    fn set_vmcr(&mut self, value: u32);
    /// Returns GICH_APR.
    fn apr(&self) -> u32;
    /// Writes GICH_APR.
    fn set_apr(&mut self, value: u32);
}

/// A GICH_LR value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lr(pub u32);

impl Lr {
    const PENDING: u32 = 1 << 28;
    const ACTIVE: u32 = 1 << 29;
    const HW: u32 = 1 << 31;
    const EOI: u32 = 1 << 19;
    const SECOND_ID_SHIFT: u32 = 10;
    const PRIORITY_SHIFT: u32 = 23;
    const ID_MASK: u32 = 0x3ff;

    /// An interrupt without state, in group 0 (what a guest without security extensions sees).
    pub fn new(virq: IntId, level: u8) -> Self {
        Self(
            (u32::from(virq.raw()) & Self::ID_MASK)
                | (u32::from(level & 31) << Self::PRIORITY_SHIFT),
        )
    }
    pub fn with_pending(self) -> Self {
        Self(self.0 | Self::PENDING)
    }
    pub fn with_active(self) -> Self {
        Self(self.0 | Self::ACTIVE)
    }
    pub fn without_pending(self) -> Self {
        Self(self.0 & !Self::PENDING)
    }
    /// Names the CPU that sent an SGI; GICC_IAR shows it.
    pub fn with_source(self, cpu: u8) -> Self {
        Self(self.0 | (u32::from(cpu & 7) << Self::SECOND_ID_SHIFT))
    }
    /// Links the physical interrupt: the guest's deactivation deactivates it too. No EOI maintenance is possible then.
    pub fn with_hw(self, phys: IntId) -> Self {
        let second = (u32::from(phys.raw()) & Self::ID_MASK) << Self::SECOND_ID_SHIFT;
        Self((self.0 & !(Self::ID_MASK << Self::SECOND_ID_SHIFT)) | second | Self::HW)
    }
    /// Unlinks the physical interrupt, if one was linked.
    pub fn without_hw(self) -> Self {
        if self.is_hw() {
            Self(self.0 & !(Self::HW | (Self::ID_MASK << Self::SECOND_ID_SHIFT)))
        } else {
            self
        }
    }
    /// Asks for a maintenance interrupt at the guest's EOI; only for a value without a hardware link.
    pub fn with_eoi(self) -> Self {
        Self(self.0 | Self::EOI)
    }
    pub fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }
    pub fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 & (Self::PENDING | Self::ACTIVE) == 0
    }
    pub fn is_hw(self) -> bool {
        self.0 & Self::HW != 0
    }
    pub fn has_eoi(self) -> bool {
        self.0 & (Self::HW | Self::EOI) == Self::EOI
    }
    /// The sender of an SGI.
    pub fn source(self) -> u8 {
        ((self.0 >> Self::SECOND_ID_SHIFT) & 7) as u8
    }
    /// The priority level, 0 (highest) to 31.
    pub fn level(self) -> u8 {
        ((self.0 >> Self::PRIORITY_SHIFT) & 31) as u8
    }
}
