//! xen_version (17): who we are (xen-arm.md 3.11).

use xen_abi::version::{self as abi, CompileInfo, FeatureInfo, PlatformParameters};

use super::{CallResult, Cx, OK};
use crate::addr::PAGE_SIZE;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

/// Where hypervisors on x86 begin; meaningless on Arm, the value is Xen's.
const VIRT_START: u64 = 0x0020_0000;

/// Copies text into a field, ended by a zero byte.
fn fill(field: &mut [u8], text: &str) {
    let length = text.len().min(field.len().saturating_sub(1));
    if let (Some(to), Some(from)) = (field.get_mut(..length), text.as_bytes().get(..length)) {
        to.copy_from_slice(from);
    }
}

pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    pointer: u64,
) -> CallResult {
    let identity = &cx.hv.identity;
    let is_privileged = cx.domain.facts.is_privileged;
    match command {
        abi::XENVER_VERSION => {
            Ok(i64::from(identity.version.0) << 16 | i64::from(identity.version.1))
        }
        abi::XENVER_EXTRAVERSION => {
            let mut text = [0; abi::EXTRAVERSION_LEN];
            fill(&mut text, &identity.extra_version);
            cx.write(pointer, &text)?;
            OK
        }
        abi::XENVER_COMPILE_INFO => {
            let mut info = CompileInfo {
                compiler: [0; 64],
                compile_by: [0; 16],
                compile_domain: [0; 32],
                compile_date: [0; 32],
            };
            let [compiler, by, domain, date] = &identity.compile_info;
            fill(&mut info.compiler, compiler);
            fill(&mut info.compile_by, by);
            fill(&mut info.compile_domain, domain);
            fill(&mut info.compile_date, date);
            cx.write(pointer, &info)?;
            OK
        }
        abi::XENVER_CAPABILITIES => {
            let mut text = [0; abi::CAPABILITIES_LEN];
            fill(&mut text, &identity.capabilities);
            cx.write(pointer, &text)?;
            OK
        }
        abi::XENVER_CHANGESET => {
            let mut text = [0; abi::CHANGESET_LEN];
            fill(&mut text, &identity.changeset);
            cx.write(pointer, &text)?;
            OK
        }
        abi::XENVER_PLATFORM_PARAMETERS => {
            cx.write(
                pointer,
                &PlatformParameters {
                    virt_start: VIRT_START,
                },
            )?;
            OK
        }
        abi::XENVER_GET_FEATURES => {
            let mut info: FeatureInfo = cx.read(pointer)?;
            if info.submap_idx != 0 {
                return Err(Errno::Inval);
            }
            info.submap = features(cx);
            cx.write(pointer, &info)?;
            OK
        }
        abi::XENVER_PAGESIZE => Ok(PAGE_SIZE as i64),
        abi::XENVER_GUEST_HANDLE => {
            // The domain's UUID; dom0 and domains from the device tree have none: zeroes.
            cx.write(pointer, &[0u8; 16])?;
            OK
        }
        abi::XENVER_COMMANDLINE => {
            let mut text = [0; abi::COMMANDLINE_LEN];
            fill(
                &mut text,
                if is_privileged {
                    &identity.command_line
                } else {
                    "<denied>"
                },
            );
            cx.write(pointer, &text)?;
            OK
        }
        abi::XENVER_BUILD_ID => build_id(cx, pointer, is_privileged),
        _ => Err(Errno::NoSys),
    }
}

fn features<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>) -> u32 {
    let facts = &cx.domain.facts;
    let placement = if facts.is_direct_mapped {
        abi::XENFEAT_DIRECT_MAPPED
    } else {
        abi::XENFEAT_NOT_DIRECT_MAPPED
    };
    let mut map = 1 << abi::XENFEAT_WRITABLE_PAGE_TABLES
        | 1 << abi::XENFEAT_AUTO_TRANSLATED_PHYSMAP
        | 1 << abi::XENFEAT_MEMORY_OP_VNODE_SUPPORTED
        | 1 << abi::XENFEAT_ARM_SMCCC_SUPPORTED
        | 1 << placement;
    if facts.is_privileged {
        map |= 1 << abi::XENFEAT_DOM0;
    }
    map
}

/// A null pointer asks for the length only.
fn build_id<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    pointer: u64,
    is_privileged: bool,
) -> CallResult {
    if !is_privileged {
        return Err(Errno::Perm);
    }
    let id = &cx.hv.identity.build_id;
    if pointer != 0 {
        let room: u32 = cx.read(pointer)?;
        if room == 0 {
            return Err(Errno::Inval);
        }
        if (room as usize) < id.len() {
            return Err(Errno::NoBufs);
        }
        let at = pointer.checked_add(4).ok_or(Errno::Fault)?;
        cx.write(at, id)?;
    }
    Ok(id.len() as i64)
}
