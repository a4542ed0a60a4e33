//! Sets of CPUs in a toolstack's memory (`struct xenctl_bitmap`).

use xen_abi::control::XenctlBitmap;

use super::Cx;
use super::guest::element;
use crate::addr::{CpuId, GuestVirt};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;
use crate::sched::{CpuSet, MAX_CPUS};

/// Bytes of a set.
const BYTES: usize = MAX_CPUS / 8;
/// The longest bitmap that is written: what lies beyond the CPUs is zeroed.
const MAX_BITS: u32 = 64 * 1024;

impl<H: Hal, M: GuestMemory> Cx<'_, H, M> {
    /// Reads a set. Bits beyond what the hypervisor can have are ignored.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn read_cpus(&self, map: &XenctlBitmap) -> Result<CpuSet, Errno> {
        let bits = (map.nr_bits as usize).min(MAX_CPUS);
        let mut bytes = [0; BYTES];
        let Some(part) = bytes.get_mut(..bits.div_ceil(8)) else {
            return Err(Errno::Fault);
        };
        self.copy_in(GuestVirt::new(map.bitmap), part)?;
        let mut set = CpuSet::EMPTY;
        for (index, cpu) in (0..bits).zip((0..).map(CpuId::new)) {
            let byte = bytes.get(index / 8).copied().unwrap_or(0);
            if byte >> (index % 8) & 1 != 0 {
                set.insert(cpu);
            }
        }
        Ok(set)
    }

    /// Writes a set, as far as there is room; the rest of the bitmap is zeroed.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` for a bitmap that is absurdly long.
    pub(super) fn write_cpus(&self, map: &XenctlBitmap, set: &CpuSet) -> Result<(), Errno> {
        if map.nr_bits > MAX_BITS {
            return Err(Errno::Inval);
        }
        let at = GuestVirt::new(map.bitmap);
        let length = (map.nr_bits as usize).div_ceil(8);
        let mut bytes = [0u8; BYTES];
        for cpu in set
            .iter()
            .take_while(|cpu| cpu.index() < map.nr_bits as usize)
        {
            if let Some(byte) = bytes.get_mut(cpu.index() / 8) {
                *byte |= 1 << (cpu.index() % 8);
            }
        }
        let mut done = 0;
        while done < length {
            let count = BYTES.min(length - done);
            let to = element::<u8>(at, done as u64)?;
            self.copy_out(to, bytes.get(..count).unwrap_or_default())?;
            bytes = [0; BYTES];
            done += count;
        }
        Ok(())
    }

    /// Returns the numbers that CPUs can have here, from 0 to the highest that is in service: the CPUs as tools count them.
    pub(super) fn cpu_ids(&self) -> CpuSet {
        let mut all = CpuSet::EMPTY;
        if let Some(last) = self.hv.hal.cpus().iter().last() {
            for cpu in 0..=last.index() as u16 {
                all.insert(CpuId::new(cpu));
            }
        }
        all
    }
}
