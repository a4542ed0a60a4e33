//! What the hypervisor printed, and its debug keys.

use xen_abi::control as abi;

use super::{Done, part, set_part};
use crate::addr::GuestVirt;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::hypercall::guest::element;
use crate::machine::GuestMemory;

/// Bytes copied at once.
const CHUNK: usize = 128;

/// readconsole. What the ring holds bounds it.
pub(super) fn read<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut wanted: abi::SysctlReadconsole = part(op)?;
    let mut since = (wanted.incremental != 0).then_some(wanted.index);
    let (mut done, mut chunk) = (0u32, [0; CHUNK]);
    loop {
        let room = (wanted.count - done).min(CHUNK as u32) as usize;
        let Some(bytes) = chunk.get_mut(..room) else {
            break;
        };
        let (count, next) = cx.hv.hal.console_log(since, bytes);
        since = Some(next);
        if count == 0 {
            break;
        }
        let to = element::<u8>(GuestVirt::new(wanted.buffer), u64::from(done))?;
        cx.copy_out(to, bytes.get(..count).unwrap_or_default())?;
        done += count as u32;
    }
    wanted.count = done;
    wanted.index = since.unwrap_or(wanted.index);
    if wanted.clear != 0 {
        cx.hv.hal.console_forget(wanted.index);
    }
    set_part(op, &wanted);
    Ok(true)
}

/// debug_keys.
pub(super) fn press_keys<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut wanted: abi::SysctlDebugKeys = part(op)?;
    while wanted.nr_keys > 0 {
        let key: u8 = cx.read(GuestVirt::new(wanted.keys))?;
        cx.hv.hal.press_key(key);
        wanted.keys = wanted.keys.checked_add(1).ok_or(Errno::Fault)?;
        wanted.nr_keys -= 1;
        if wanted.nr_keys > 0 && cx.must_yield() {
            set_part(op, &wanted);
            return Err(Errno::Restart);
        }
    }
    Ok(false)
}
