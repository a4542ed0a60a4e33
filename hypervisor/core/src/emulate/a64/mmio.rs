//! Performs an emulated load or store of an AArch64 guest against a device.
//!
//! As in [`super::super::execute`], a register is written only after the device answered. A doubleword is two words, the
//! lower one first, as the GIC architecture allows (Arm IHI 0069, 12.1.3).

use super::GuestRegs64;
use super::syndrome::Abort;
use crate::addr::GuestPhys;
use crate::emulate::decode::Width;
use crate::emulate::execute::MmioAccess;

/// Why an access was not performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioError<E> {
    /// The syndrome does not describe the instruction: a pair, or a write-back of the address.
    NotDescribed,
    /// The address is not a multiple of the width.
    Unaligned,
    /// The device refused.
    Access(E),
}

/// Performs the access that `abort` describes at `phys`.
///
/// # Errors
/// [`MmioError`], with no register changed.
pub fn execute<R: GuestRegs64, E>(
    abort: Abort,
    regs: &mut R,
    phys: GuestPhys,
    mut access: impl FnMut(MmioAccess) -> Result<u32, E>,
) -> Result<(), MmioError<E>> {
    if !abort.is_valid() {
        return Err(MmioError::NotDescribed);
    }
    let size = abort.size_log2();
    if phys.raw() & ((1 << size) - 1) != 0 {
        return Err(MmioError::Unaligned);
    }
    let (width, words) = match size {
        0 => (Width::Byte, 1u32),
        1 => (Width::Half, 1),
        2 => (Width::Word, 1),
        _ => (Width::Word, 2),
    };
    let stored = regs.get(abort.register());
    let mut loaded = 0;
    for word in 0..words {
        let shift = word * 32;
        let mask = match width {
            Width::Byte => 0xff,
            Width::Half => 0xffff,
            Width::Word => u32::MAX,
        };
        let value = access(MmioAccess {
            address: GuestPhys::new(phys.raw() + u64::from(word * 4)),
            width,
            write: abort.is_write().then_some((stored >> shift) as u32 & mask),
        })
        .map_err(MmioError::Access)?;
        loaded |= u64::from(value & mask) << shift;
    }
    if !abort.is_write() {
        regs.set(abort.register(), extend(abort, loaded));
    }
    Ok(())
}

/// Returns what a load puts into its register.
fn extend(abort: Abort, value: u64) -> u64 {
    let value = match (abort.is_sign_extended(), abort.size_log2()) {
        (true, 0) => value as u8 as i8 as u64,
        (true, 1) => value as u16 as i16 as u64,
        (true, 2) => value as u32 as i32 as u64,
        _ => value,
    };
    if abort.is_64_bit() {
        value
    } else {
        value & 0xffff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[derive(Default)]
    struct Regs([u64; 31]);
    impl GuestRegs64 for Regs {
        fn get(&self, register: u8) -> u64 {
            self.0.get(usize::from(register)).copied().unwrap_or(0)
        }
        fn set(&mut self, register: u8, value: u64) {
            if let Some(slot) = self.0.get_mut(usize::from(register)) {
                *slot = value;
            }
        }
    }

    fn abort(size: u32, register: u32, rest: u32) -> Abort {
        Abort::new(1 << 24 | size << 22 | register << 16 | rest)
    }
    const WRITE: u32 = 1 << 6;
    const SF: u32 = 1 << 15;
    const SIGNED: u32 = 1 << 21;

    /// A load of `value`: what the register has then.
    fn load(abort: Abort, value: u32) -> u64 {
        let mut regs = Regs([u64::MAX; 31]);
        execute(abort, &mut regs, GuestPhys::new(0x800_0000), |_| {
            Ok::<_, ()>(value)
        })
        .unwrap();
        regs.0[3]
    }

    #[test]
    fn loads_extend() {
        assert_eq!(load(abort(0, 3, 0), 0xffff_ff80), 0x80);
        assert_eq!(load(abort(0, 3, SIGNED), 0x80), 0xffff_ff80);
        assert_eq!(load(abort(0, 3, SIGNED | SF), 0x80), u64::MAX - 0x7f);
        assert_eq!(load(abort(1, 3, SIGNED | SF), 0x8000), u64::MAX - 0x7fff);
        assert_eq!(
            load(abort(2, 3, SIGNED | SF), 0x8000_0000),
            0xffff_ffff_8000_0000
        );
        assert_eq!(load(abort(2, 3, 0), 0x8000_0000), 0x8000_0000);
        assert_eq!(load(abort(3, 3, SF), 0x1234_5678), 0x1234_5678_1234_5678);
        // The zero register keeps nothing, and no other changes.
        assert_eq!(load(abort(2, 31, 0), 5), u64::MAX);
    }

    #[test]
    fn stores_give_what_fits() {
        let mut regs = Regs::default();
        regs.0[2] = 0x1122_3344_5566_7788;
        let mut seen = Vec::new();
        let mut store = |abort, at| {
            seen.clear();
            let result = execute(abort, &mut regs, GuestPhys::new(at), |access| {
                seen.push((access.address.raw(), access.width, access.write));
                Ok::<_, ()>(0)
            });
            (result, seen.clone())
        };
        let (_, seen) = store(abort(0, 2, WRITE), 0x1001);
        assert_eq!(seen, [(0x1001, Width::Byte, Some(0x88))]);
        let (_, seen) = store(abort(3, 2, WRITE | SF), 0x1008);
        assert_eq!(
            seen,
            [
                (0x1008, Width::Word, Some(0x5566_7788)),
                (0x100c, Width::Word, Some(0x1122_3344))
            ]
        );
        let (_, seen) = store(abort(2, 31, WRITE), 0x1004);
        assert_eq!(seen, [(0x1004, Width::Word, Some(0))]);
        let (result, seen) = store(abort(3, 2, WRITE), 0x1004);
        assert_eq!((result, seen.len()), (Err(MmioError::Unaligned), 0));
        let (result, _) = store(Abort::new(WRITE), 0x1000);
        assert_eq!(result, Err(MmioError::NotDescribed));
    }

    #[test]
    fn a_refused_load_changes_nothing() {
        let mut regs = Regs([7; 31]);
        let mut left = 1;
        let result = execute(abort(3, 3, SF), &mut regs, GuestPhys::new(0), |_| {
            left -= 1;
            if left < 0 { Err("no") } else { Ok(1) }
        });
        assert_eq!((result, regs.0[3]), (Err(MmioError::Access("no")), 7));
    }
}
