//! multicall (13): several calls in one trap (xen-arm.md 3.14).

use xen_abi::hypercall::{HYPERVISOR_MULTICALL, MulticallEntry};

use super::{CallResult, Cx, HypercallRegs, OK, single};
use crate::domain::ShutdownReason;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Bytes of an entry, and where its result is.
const ENTRY: u64 = 64;
const RESULT: u64 = 8;
/// Where its arguments are.
const ARGUMENTS: u64 = 16;

/// One entry as the registers of a call.
struct EntryRegs {
    number: u32,
    arguments: [u64; 6],
}

impl HypercallRegs for EntryRegs {
    fn number(&self) -> u32 {
        self.number
    }
    fn argument(&self, n: usize) -> u64 {
        self.arguments.get(n).copied().unwrap_or(0)
    }
    fn set_argument(&mut self, n: usize, value: u64) {
        if let Some(argument) = self.arguments.get_mut(n) {
            *argument = value;
        }
    }
    fn set_result(&mut self, _: i64) {}
}

pub(super) fn call<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
) -> CallResult {
    let mut at = regs.argument(0);
    let mut left = regs.argument(1) as u32;
    while left > 0 {
        let entry: MulticallEntry = cx.read(at)?;
        // A 32-bit guest has no business with the upper halves.
        if entry.op > u64::from(u32::MAX)
            || entry
                .args
                .iter()
                .any(|&argument| argument > u64::from(u32::MAX))
        {
            cx.effects.shutdown = Some(ShutdownReason::Crash);
            return Err(Errno::Inval);
        }
        let mut inner = EntryRegs {
            number: entry.op as u32,
            arguments: entry.args,
        };
        let result = match inner.number {
            HYPERVISOR_MULTICALL => Err(Errno::Inval),
            _ => single(cx, &mut inner),
        };
        if result == Err(Errno::Restart) {
            // The entry's own arguments hold its progress, ours the entries'.
            cx.write(
                at.checked_add(ARGUMENTS).ok_or(Errno::Fault)?,
                &inner.arguments,
            )?;
            regs.set_argument(0, at);
            regs.set_argument(1, u64::from(left));
            return Err(Errno::Restart);
        }
        let value = result.unwrap_or_else(|error| i64::from(error.to_return()));
        // As a 32-bit guest reads it: the low word, zero above.
        cx.write(
            at.checked_add(RESULT).ok_or(Errno::Fault)?,
            &u64::from(value as u32),
        )?;
        at = at.checked_add(ENTRY).ok_or(Errno::Fault)?;
        left -= 1;
        if cx.effects.shutdown.is_some() {
            break;
        }
        if left > 0 && cx.should_yield() {
            regs.set_argument(0, at);
            regs.set_argument(1, u64::from(left));
            return Err(Errno::Restart);
        }
    }
    OK
}
