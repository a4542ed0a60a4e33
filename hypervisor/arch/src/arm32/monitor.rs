//! Secure state, where the boot loader left it to us: head.S went to Hyp mode and left a monitor that does for us what only
//! Secure state may. Nothing else runs there, and guests cannot reach it: their SMCs trap.

use smccc::Call;
use xenith_core::addr::HostPhys;

use super::Firmware;

// head.S knows these numbers (SMC Calling Convention: a fast call of an OEM's).
const WRITE: u32 = 0x8300_ff00;
const SET_FREQUENCY: u32 = 0x8300_ff01;

// GICv2 (ARM IHI 0048B 4.3, 4.4).
const GICD_CTLR: u64 = 0x000;
const GICD_IGROUPR: u64 = 0x080;
const GICD_SGIR: u64 = 0xf00;
const GICC_PMR: u64 = 0x004;

/// The proof that this CPU was entered in Secure state, and so that the monitor answers its SMCs.
#[derive(Clone, Copy)]
pub struct Monitor(());

impl Monitor {
    /// Returns the monitor of this CPU, if head.S says (1) that it brought the CPU from Secure state to Hyp mode.
    ///
    /// # Safety
    /// `was_secure` is what head.S passed on this CPU.
    pub(crate) unsafe fn of_entry(was_secure: usize) -> Option<Self> {
        (was_secure == 1).then_some(Self(()))
    }

    /// Writes a device register. A machine without a Secure state of its own (QEMU's, which answers all SMCs as firmware)
    /// does nothing, and does not need it.
    fn write(self, at: HostPhys, value: u32) {
        if let Ok(at) = u32::try_from(at.raw()) {
            Firmware::call32(WRITE, [at, value, 0, 0, 0, 0, 0]);
        }
    }

    /// Sets CNTFRQ of this CPU, in Hz.
    pub fn set_frequency(self, hz: u64) {
        if let Ok(hz) = u32::try_from(hz) {
            Firmware::call32(SET_FREQUENCY, [hz, 0, 0, 0, 0, 0, 0]);
        }
    }

    /// Gives all SPIs of a distributor to Non-secure state; `words` counts 32 interrupts each, SGIs and PPIs included.
    pub fn release_spis(self, gicd: HostPhys, words: u32) {
        for word in 1..u64::from(words) {
            self.write(
                HostPhys::new(gicd.raw() + GICD_IGROUPR + word * 4),
                u32::MAX,
            );
        }
    }

    /// Gives this CPU's SGIs and PPIs to Non-secure state, and lets it set its priority mask.
    pub fn release_cpu(self, gicd: HostPhys, gicc: HostPhys) {
        self.write(HostPhys::new(gicd.raw() + GICD_IGROUPR), u32::MAX);
        self.write(HostPhys::new(gicc.raw() + GICC_PMR), 0xff);
    }

    /// Sends an SGI to CPUs that are still in Secure state: in group 0, which Non-secure state cannot enable.
    pub fn send_secure_sgi(self, gicd: HostPhys, id: u8, targets: u8) {
        self.write(HostPhys::new(gicd.raw() + GICD_CTLR), 3);
        let value = u32::from(targets) << 16 | u32::from(id & 15);
        self.write(HostPhys::new(gicd.raw() + GICD_SGIR), value);
    }
}
