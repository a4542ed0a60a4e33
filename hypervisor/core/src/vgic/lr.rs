//! The GICv2 list register format (Arm IHI 0048B, GICH_LRn), the trait through which list registers are reached, and what
//! a GICv3 has in their place (Arm IHI 0069H, 12.4): its driver translates, so that what moves interrupts knows one format.

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

/// Returns ICH_LR<n>_EL2 for a GICH_LR value: all interrupts are in Group 1, priorities have eight bits, and SGIs no sender.
#[inline]
pub const fn to_gicv3(lr: u32) -> u64 {
    if lr & (Lr::PENDING | Lr::ACTIVE | Lr::EOI) == 0 {
        // Empty, without EOI maintenance.
        return 0;
    }
    let value = lr as u64;
    let (state, hw, level) = (value >> 28 & 3, value >> 31, value >> 23 & 31);
    let second = if hw != 0 {
        (value >> 10 & 0x3ff) << 32
    } else {
        (value >> 19 & 1) << 41
    };
    state << 62 | hw << 61 | 1 << 60 | level << 51 | second | value & 0x3ff
}

/// Returns the GICH_LR value for ICH_LR<n>_EL2.
#[inline]
pub const fn from_gicv3(lr: u64) -> u32 {
    let (state, hw, level) = (lr >> 62, lr >> 61 & 1, lr >> 51 & 31);
    let second = if hw != 0 {
        (lr >> 32 & 0x3ff) << 10
    } else {
        (lr >> 41 & 1) << 19
    };
    (hw << 31 | state << 28 | level << 23 | second | lr & 0x3ff) as u32
}

/// Returns GICH_APR for ICH_AP1R<n>_EL2 of a GIC with `bits` of preemption: a bit for each of the 32 levels that there are
/// here. What a guest wrote between them itself is left out.
pub fn from_active_priorities(registers: [u32; 4], bits: u32) -> u32 {
    let step = 1 << bits.saturating_sub(5);
    let set = |level: u32| registers[(level * step / 32) as usize & 3] >> (level * step % 32) & 1;
    (0..32).fold(0, |apr, level| apr | set(level) << level)
}

/// The inverse of [`from_active_priorities`].
pub fn to_active_priorities(apr: u32, bits: u32) -> [u32; 4] {
    let step = 1 << bits.saturating_sub(5);
    let mut registers = [0; 4];
    super::deliver::for_each_bit(apr, |level| {
        let bit = level as u32 * step;
        registers[(bit / 32) as usize & 3] |= 1 << (bit % 32);
    });
    registers
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
    /// Names another CPU as the sender of an SGI.
    pub fn with_other_source(self, cpu: u8) -> Self {
        Self(self.0 & !(7 << Self::SECOND_ID_SHIFT)).with_source(cpu)
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
    /// For hardware with a single list register, which asks at every EOI who is next.
    #[cold]
    pub fn for_single_register(self) -> Self {
        self.without_hw().with_eoi()
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
