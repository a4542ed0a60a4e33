//! The guest's copy of a vCPU's run states (public/vcpu.h `vcpu_runstate_info`).

use core::sync::atomic::Ordering;

use crate::domain::{Domain, RunstateClock, Vcpu};
use crate::hal::Hal;
use crate::machine::{Fault, GuestMemory};
use crate::time::TickScale;

/// VM_ASST type: the entry time carries a flag while the copy is being written.
pub const VMASST_RUNSTATE_UPDATE_FLAG: u32 = 5;
/// XEN_RUNSTATE_UPDATE.
const UPDATE: u64 = 1 << 63;
/// Bytes of the structure.
const LENGTH: usize = 48;

fn encode(clock: &RunstateClock, scale: &TickScale, boot: u64, flag: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let since = scale.to_ns(clock.since.saturating_sub(boot)) | flag;
    bytes[..4].copy_from_slice(&(clock.state as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&since.to_le_bytes());
    for (field, &ticks) in bytes[16..].chunks_exact_mut(8).zip(&clock.spent) {
        field.copy_from_slice(&scale.to_ns(ticks).to_le_bytes());
    }
    bytes
}

/// Copies `clock` to where the guest registered its area, if it did. The vCPU's own translation must be live. `boot` is
/// the tick at system time 0.
pub fn publish<H: Hal>(
    domain: &Domain<H>,
    vcpu: &Vcpu<H>,
    clock: &RunstateClock,
    scale: &TickScale,
    boot: u64,
    memory: &impl GuestMemory,
) {
    let Some(area) = vcpu.runstate_address() else {
        return;
    };
    let flagged =
        domain.vm_assist.load(Ordering::Relaxed) & (1 << VMASST_RUNSTATE_UPDATE_FLAG) != 0;
    // A guest that unmapped its area loses the update, nothing else.
    let _: Result<(), Fault> = (|| {
        let bytes = encode(clock, scale, boot, if flagged { UPDATE } else { 0 });
        memory.write(area, &bytes)?;
        if flagged {
            let entry = encode(clock, scale, boot, 0);
            memory.write(area.checked_add(8).ok_or(Fault)?, &entry[8..16])?;
        }
        Ok(())
    })();
}
