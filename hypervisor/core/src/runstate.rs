//! The guest's copy of a vCPU's run states (public/vcpu.h `vcpu_runstate_info`).

use core::sync::atomic::{Ordering, fence};

use crate::addr::GuestVirt;
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
    let _: Result<(), Fault> = write(memory, area, clock, scale, boot, flagged);
}

/// Writes the area; `flagged`, in the order that other CPUs of the guest rely on: who reads the same entry time without flag
/// before and after has a whole copy between.
fn write(
    memory: &impl GuestMemory,
    area: GuestVirt,
    clock: &RunstateClock,
    scale: &TickScale,
    boot: u64,
    flagged: bool,
) -> Result<(), Fault> {
    if !flagged {
        return memory.write(area, &encode(clock, scale, boot, 0));
    }
    let bytes = encode(clock, scale, boot, UPDATE);
    let entry_at = area.checked_add(8).ok_or(Fault)?;
    memory.write(entry_at, &bytes[8..16])?;
    // A DMB: the guest's other CPUs see the flag before anything else changes, and see it go last.
    fence(Ordering::SeqCst);
    memory.write(area, &bytes)?;
    fence(Ordering::SeqCst);
    memory.write(entry_at, &encode(clock, scale, boot, 0)[8..16])
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::domain::RunState;

    /// An area, and what a reader would see of it after each write.
    struct Area(RefCell<([u8; LENGTH], Vec<[u8; LENGTH]>)>);

    const AT: u64 = 0x1000;

    impl GuestMemory for Area {
        fn read(&self, _: GuestVirt, _: &mut [u8]) -> Result<(), Fault> {
            Err(Fault)
        }
        fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
            let (now, seen) = &mut *self.0.borrow_mut();
            let at = (to.raw() - AT) as usize;
            now[at..at + buf.len()].copy_from_slice(buf);
            seen.push(*now);
            Ok(())
        }
    }

    fn entry(bytes: &[u8; LENGTH]) -> u64 {
        u64::from_le_bytes(bytes[8..16].try_into().unwrap())
    }

    #[test]
    fn the_flag_is_there_while_anything_changes() {
        let scale = TickScale::new(62_500_000);
        let area = Area(RefCell::new(([0; LENGTH], Vec::new())));
        let mut clock = RunstateClock::default();
        clock.change(RunState::Running, 62_500);
        write(&area, GuestVirt::new(AT), &clock, &scale, 0, true).unwrap();
        let (now, seen) = area.0.into_inner();
        assert_eq!(now, encode(&clock, &scale, 0, 0));
        let (last, before) = seen.split_last().unwrap();
        assert_eq!(last, &now);
        // Only the entry time changes in the first and the last write, and all others have the flag.
        assert!(before.iter().all(|bytes| entry(bytes) & UPDATE != 0));
        let rest = |bytes: &[u8; LENGTH]| [&bytes[..8], &bytes[16..]].concat();
        assert_eq!(rest(&seen[0]), vec![0; LENGTH - 8]);
        assert_eq!(rest(&before[before.len() - 1]), rest(&now));
    }

    #[test]
    fn without_the_flag_it_is_one_copy() {
        let scale = TickScale::new(62_500_000);
        let area = Area(RefCell::new(([0; LENGTH], Vec::new())));
        let clock = RunstateClock::default();
        write(&area, GuestVirt::new(AT), &clock, &scale, 0, false).unwrap();
        let (now, seen) = area.0.into_inner();
        assert_eq!(seen, [now]);
        assert_eq!(entry(&now) & UPDATE, 0);
    }
}
