//! Any instruction that faulted on a device: decoded, and performed on any registers.

use xenith_core::addr::{GuestPhys, GuestVirt};
use xenith_core::emulate::decode::{fetch, is_wide_thumb};
use xenith_core::emulate::execute::{FaultLocation, execute};
use xenith_core::emulate::regs::{FakeRegs, psr};
use xenith_core::machine::{Fault, GuestMemory};

use crate::input::Input;

/// An instruction in memory with nothing around it.
struct Code {
    at: u32,
    bytes: [u8; 4],
}

impl GuestMemory for Code {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        let offset = from.raw().checked_sub(u64::from(self.at)).ok_or(Fault)?;
        let offset = usize::try_from(offset).map_err(|_| Fault)?;
        let bytes = self.bytes.get(offset..offset + buf.len()).ok_or(Fault)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
    fn write(&self, _to: GuestVirt, _buf: &[u8]) -> Result<(), Fault> {
        Err(Fault)
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let word = input.word();
    let mut regs = FakeRegs::default();
    for register in &mut regs.r {
        *register = match input.byte() {
            byte @ 0..=127 => 0x0300_1000 + u32::from(byte) * 4,
            128..=191 => 0x0300_1ff0 + input.below(32),
            _ => input.word(),
        };
    }
    regs.pc = input.word() & !1;
    regs.cpsr = input.word();
    let memory = Code {
        at: regs.pc,
        bytes: word.to_le_bytes(),
    };
    let fault = FaultLocation {
        virt: 0x0300_1000 + u32::from(input.half() & 0xfff),
        phys: GuestPhys::new(0x0300_1000),
        is_write: input.flag(),
    };
    let refuse_at = input.below(20);
    for (thumb, width) in [(0, 4), (psr::T, 0)] {
        regs.cpsr = regs.cpsr & !psr::T | thumb;
        let Ok(Ok(instruction)) = fetch(&memory, regs.pc, regs.cpsr) else {
            continue;
        };
        let width = match width {
            0 if is_wide_thumb(word as u16) => 4,
            0 => 2,
            width => width,
        };
        let (before, mut after, mut count) = (regs, regs, 0);
        let result = execute(&instruction, &mut after, fault, |access| {
            let at = access.address.raw();
            assert!((0x0300_1000..0x0300_2000).contains(&at), "{access:x?}");
            assert_eq!(at % u64::from(access.width.bytes()), 0, "{access:x?}");
            assert!(at + u64::from(access.width.bytes()) <= 0x0300_2000);
            assert_eq!(access.write.is_some(), fault.is_write);
            count += 1;
            if count > refuse_at { Err(()) } else { Ok(word) }
        });
        assert!(count <= 16);
        match result {
            Ok(()) => {
                assert_eq!(after.pc, before.pc.wrapping_add(width), "{instruction:x?}");
            }
            Err(_) => assert_eq!(
                after, before,
                "{instruction:x?}: a refused access changed something"
            ),
        }
    }
}
