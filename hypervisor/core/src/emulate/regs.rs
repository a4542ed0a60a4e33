//! Access to the registers of a stopped guest.

/// CPSR bits and modes (ARM DDI 0406C.d B1.3.3).
pub mod psr {
    use xen_abi::vcpu::VcpuGuestCoreRegs;

    /// Mode field.
    pub const MODE_MASK: u32 = 0x1f;
    /// User mode (PL0).
    pub const MODE_USR: u32 = 0x10;
    /// FIQ mode.
    pub const MODE_FIQ: u32 = 0x11;
    /// IRQ mode.
    pub const MODE_IRQ: u32 = 0x12;
    /// Supervisor mode.
    pub const MODE_SVC: u32 = 0x13;
    /// Abort mode.
    pub const MODE_ABT: u32 = 0x17;
    /// Undefined mode.
    pub const MODE_UND: u32 = 0x1b;
    /// System mode.
    pub const MODE_SYS: u32 = 0x1f;
    /// Thumb execution state.
    pub const T: u32 = 1 << 5;
    /// FIQ mask.
    pub const F: u32 = 1 << 6;
    /// IRQ mask.
    pub const I: u32 = 1 << 7;
    /// Asynchronous abort mask.
    pub const A: u32 = 1 << 8;
    /// Big-endian data accesses.
    pub const E: u32 = 1 << 9;
    /// Jazelle.
    pub const J: u32 = 1 << 24;
    /// Carry flag.
    pub const C: u32 = 1 << 29;
    /// How a domain's first vCPU starts: Supervisor mode, Z, all interrupts masked.
    pub const START: u32 = 1 << 30 | A | I | F | MODE_SVC;
    // The modes that Xen takes.
    const fn is_guest_mode(psr: u32) -> bool {
        matches!(
            psr & MODE_MASK,
            MODE_USR | MODE_FIQ | MODE_IRQ | MODE_SVC | MODE_ABT | MODE_UND
        )
    }
    /// Returns what a toolstack gives a 32-bit guest as SPSR_svc, fiq, irq, und and abt; `None` unless they and CPSR are of
    /// modes that a guest can have.
    pub fn saved_of(registers: &VcpuGuestCoreRegs) -> Option<[u32; 5]> {
        let saved = [
            registers.spsr_el1 as u32,
            registers.spsr_fiq,
            registers.spsr_irq,
            registers.spsr_und,
            registers.spsr_abt,
        ];
        let is_good = is_guest_mode(registers.cpsr as u32)
            && saved.iter().all(|&psr| psr == 0 || is_guest_mode(psr));
        is_good.then_some(saved)
    }
    /// All bits of ITSTATE: IT\[7:2\] in 15:10, IT\[1:0\] in 26:25.
    pub const IT_MASK: u32 = 0x0600_fc00;
}

/// The general-purpose registers of a stopped AArch32 guest, as its current mode sees them.
///
/// The architecture implements it and resolves banked r8 to r14. Numbers above 14 are never passed by this crate; an
/// implementation treats them as reads of 0 and ignored writes, not as a panic.
pub trait GuestRegs {
    /// Returns r0 to r14 of the current mode.
    fn get(&self, register: u8) -> u32;
    /// Sets r0 to r14 of the current mode.
    fn set(&mut self, register: u8, value: u32);
    /// Returns the address of the instruction that trapped.
    fn pc(&self) -> u32;
    /// Sets the address at which the guest continues.
    fn set_pc(&mut self, value: u32);
    /// Returns the guest's CPSR.
    fn cpsr(&self) -> u32;
    /// Sets the guest's CPSR.
    fn set_cpsr(&mut self, value: u32);
    /// Returns the register that a field of the syndrome names: on ARMv7 four bits with the number of the instruction.
    fn transfer(&self, field: u8) -> u32 {
        self.get(field & 15)
    }
    /// Sets the register that a field of the syndrome names.
    fn set_transfer(&mut self, field: u8, value: u32) {
        self.set(field & 15, value);
    }
}

/// A register file without banks, for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FakeRegs {
    /// r0 to r14.
    pub r: [u32; 15],
    /// Program counter.
    pub pc: u32,
    /// Program status.
    pub cpsr: u32,
}

impl GuestRegs for FakeRegs {
    fn get(&self, register: u8) -> u32 {
        self.r.get(usize::from(register)).copied().unwrap_or(0)
    }
    fn set(&mut self, register: u8, value: u32) {
        if let Some(slot) = self.r.get_mut(usize::from(register)) {
            *slot = value;
        }
    }
    fn pc(&self) -> u32 {
        self.pc
    }
    fn set_pc(&mut self, value: u32) {
        self.pc = value;
    }
    fn cpsr(&self) -> u32 {
        self.cpsr
    }
    fn set_cpsr(&mut self, value: u32) {
        self.cpsr = value;
    }
}

#[cfg(test)]
mod tests {
    use xen_abi::vcpu::VcpuGuestCoreRegs;
    use zerocopy::FromZeros;

    use super::psr;

    #[test]
    fn a_toolstack_gives_a_guest_its_own_modes_only() {
        let may = |change: &dyn Fn(&mut VcpuGuestCoreRegs)| {
            let mut registers = VcpuGuestCoreRegs::new_zeroed();
            registers.cpsr = psr::START.into();
            change(&mut registers);
            psr::saved_of(&registers).is_some()
        };
        assert!(may(&|_| ()));
        for mode in 0..32 {
            let is_good = [0x10, 0x11, 0x12, 0x13, 0x17, 0x1b].contains(&mode);
            assert_eq!(may(&|r| r.cpsr = mode.into()), is_good, "{mode:#x}");
            // What was never saved is 0.
            let is_good = is_good || mode == 0;
            assert_eq!(may(&|r| r.spsr_el1 = mode.into()), is_good);
            assert_eq!(may(&|r| r.spsr_fiq = mode), is_good);
            assert_eq!(may(&|r| r.spsr_irq = mode), is_good);
            assert_eq!(may(&|r| r.spsr_und = mode), is_good);
            assert_eq!(may(&|r| r.spsr_abt = mode), is_good);
        }
    }
}
