//! console_io (18): dom0's console (xen-arm.md 3.13).

use xen_abi::misc::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use super::{CallResult, Cx, HypercallRegs, OK};
use crate::addr::GuestVirt;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Bytes copied at a time.
const CHUNK: usize = 128;

pub(super) fn call<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    regs: &mut R,
) -> CallResult {
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    match command {
        CONSOLEIO_WRITE => write(cx, regs),
        CONSOLEIO_READ => {
            let mut bytes = [0; CHUNK];
            let room = regs.argument(1).min(CHUNK as u64) as usize;
            let buffer = bytes.get_mut(..room).ok_or(Errno::Inval)?;
            let count = cx.hv.hal.console_read(buffer);
            cx.memory.write(
                GuestVirt::new(regs.argument(2)),
                buffer.get(..count).ok_or(Errno::Inval)?,
            )?;
            Ok(count as i64)
        }
        _ => Err(Errno::NoSys),
    }
}

/// The progress of a long write is in its own arguments: bytes left and pointer.
fn write<H: Hal, M: GuestMemory, R: HypercallRegs>(
    cx: &mut Cx<'_, H, M>,
    regs: &mut R,
) -> CallResult {
    let mut left = regs.argument(1) as u32;
    let mut at = regs.argument(2);
    let mut bytes = [0; CHUNK];
    while left > 0 {
        let count = (left as usize).min(CHUNK);
        let chunk = bytes.get_mut(..count).ok_or(Errno::Inval)?;
        cx.memory.read(GuestVirt::new(at), chunk)?;
        cx.hv.hal.console_write(chunk);
        left -= count as u32;
        at = at.checked_add(count as u64).ok_or(Errno::Fault)?;
        if left > 0 && cx.should_yield() {
            regs.set_argument(1, u64::from(left));
            regs.set_argument(2, at);
            return Err(Errno::Restart);
        }
    }
    OK
}
