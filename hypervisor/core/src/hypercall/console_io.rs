//! `console_io` (public/xen.h; xen-arm.md 3.13).

use xen_abi::misc::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use super::{Args, CallResult, Cx};
use crate::addr::GuestVirt;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Bytes copied at a time, between which a call can be preempted.
const CHUNK: usize = 128;

/// Arguments: command, count, buffer.
#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let is_privileged = cx.domain.facts.is_privileged;
    let vuart = cx.domain.vuart.get();
    let has_uart = vuart.is_some_and(|vuart| vuart.is_on_console());
    match args[0] as u32 {
        // A domain of the device tree that has a console may write to it this way, too.
        CONSOLEIO_WRITE if is_privileged || has_uart => write(cx, args),
        _ if !is_privileged => Err(Errno::Perm),
        CONSOLEIO_READ => read(cx, args[1] as u32, GuestVirt::new(args[2])),
        _ => Err(Errno::NoSys),
    }
}

fn write<H: Hal, M: GuestMemory>(cx: &mut Cx<'_, H, M>, args: &mut Args) -> CallResult {
    let mut left = args[1] as u32;
    let mut at = GuestVirt::new(args[2]);
    let mut buffer = [0; CHUNK];
    while left != 0 {
        let n = left.min(CHUNK as u32);
        let chunk = buffer.get_mut(..n as usize).ok_or(Errno::Fault)?;
        cx.copy_in(at, chunk)?;
        if cx.domain.facts.is_privileged {
            cx.hv.hal.console_write(chunk);
        } else if !cx.domain.write_beside_vuart(&cx.hv.hal, chunk) {
            return Err(Errno::Perm);
        }
        left -= n;
        if left != 0 {
            at = at.checked_add(u64::from(n)).ok_or(Errno::Fault)?;
            if cx.must_yield() {
                args[1] = u64::from(left);
                args[2] = at.raw();
                return Err(Errno::Restart);
            }
        }
    }
    Ok(0)
}

/// Takes input. The queue is small, so this is bounded by it and not by what the guest asks for.
fn read<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    count: u32,
    buffer: GuestVirt,
) -> CallResult {
    // The result is a count or an error.
    if count > i32::MAX as u32 {
        return Err(Errno::TooBig);
    }
    let mut done = 0u32;
    let mut bytes = [0; CHUNK];
    while done < count {
        let n = (count - done).min(CHUNK as u32);
        let chunk = bytes.get_mut(..n as usize).ok_or(Errno::Fault)?;
        let at = buffer.checked_add(u64::from(done)).ok_or(Errno::Fault)?;
        // Nothing typed is lost to a bad buffer: see first that it can be written.
        cx.copy_in(at, chunk)?;
        cx.copy_out(at, chunk)?;
        let got = cx.hv.hal.console_read(chunk).min(chunk.len());
        cx.copy_out(at, chunk.get(..got).unwrap_or_default())?;
        done += got as u32;
        if got < n as usize || cx.must_yield() {
            break;
        }
    }
    Ok(i64::from(done))
}
