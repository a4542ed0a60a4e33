//! `xen_version` (public/version.h; xen-arm.md 3.11).

use core::mem::offset_of;

use xen_abi::version as abi;
use zerocopy::IntoBytes;

use super::{CallResult, Cx};
use crate::addr::{GuestVirt, PAGE_SIZE};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::GuestMemory;

/// What an unprivileged domain reads in place of a secret.
const DENIED: &[u8] = b"<denied>\0";
/// Features of every Arm guest; which of the two about direct mapping and dom0's bit are added.
const FEATURES: u32 = 1 << abi::XENFEAT_WRITABLE_PAGE_TABLES
    | 1 << abi::XENFEAT_AUTO_TRANSLATED_PHYSMAP
    | 1 << abi::XENFEAT_MEMORY_OP_VNODE_SUPPORTED
    | 1 << abi::XENFEAT_ARM_SMCCC_SUPPORTED;

/// Returns `(major << 16) | minor`.
#[inline]
pub(super) fn number<H: Hal>(hv: &Hypervisor<H>) -> i64 {
    let (major, minor) = hv.identity.version;
    i64::from(u32::from(major) << 16 | u32::from(minor))
}

/// Copies a text to a guest's array of `len` bytes, padded with zeroes, the last byte always zero.
fn write_text<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    at: GuestVirt,
    text: &str,
    len: usize,
) -> CallResult {
    let bytes = text.as_bytes();
    let bytes = bytes.get(..len.saturating_sub(1)).unwrap_or(bytes);
    cx.copy_out(at, bytes)?;
    let zeroes = [0; 64];
    let mut done = bytes.len();
    while done < len {
        let n = (len - done).min(zeroes.len());
        let to = at.checked_add(done as u64).ok_or(Errno::Fault)?;
        cx.copy_out(to, zeroes.get(..n).unwrap_or(&zeroes))?;
        done += n;
    }
    Ok(0)
}

/// Fills a fixed field with a text that ends in at least one zero.
fn fill(field: &mut [u8], text: &str) {
    let room = field.len().saturating_sub(1);
    for (to, &from) in field.iter_mut().take(room).zip(text.as_bytes()) {
        *to = from;
    }
}

#[inline(never)]
pub(super) fn call<H: Hal, M: GuestMemory>(
    cx: &mut Cx<'_, H, M>,
    command: u32,
    at: GuestVirt,
) -> CallResult {
    let identity = &cx.hv.identity;
    let facts = &cx.domain.facts;
    match command {
        abi::XENVER_VERSION => Ok(number(cx.hv)),
        abi::XENVER_EXTRAVERSION => {
            write_text(cx, at, &identity.extra_version, abi::EXTRAVERSION_LEN)
        }
        abi::XENVER_COMPILE_INFO => {
            let mut info = abi::CompileInfo {
                compiler: [0; 64],
                compile_by: [0; 16],
                compile_domain: [0; 32],
                compile_date: [0; 32],
            };
            let [compiler, user, host, date] = &identity.compile_info;
            fill(&mut info.compiler, compiler);
            fill(&mut info.compile_by, user);
            fill(&mut info.compile_domain, host);
            fill(&mut info.compile_date, date);
            cx.write(at, &info)?;
            Ok(0)
        }
        abi::XENVER_CAPABILITIES => {
            write_text(cx, at, &identity.capabilities, abi::CAPABILITIES_LEN)
        }
        abi::XENVER_CHANGESET => write_text(cx, at, &identity.changeset, abi::CHANGESET_LEN),
        abi::XENVER_PLATFORM_PARAMETERS => {
            let parameters = abi::PlatformParameters {
                virt_start: identity.virt_start,
            };
            cx.write(at, &parameters)?;
            Ok(0)
        }
        abi::XENVER_GET_FEATURES => {
            let info: abi::FeatureInfo = cx.read(at)?;
            if info.submap_idx >= abi::XENFEAT_NR_SUBMAPS {
                return Err(Errno::Inval);
            }
            let mapping = if facts.is_direct_mapped {
                abi::XENFEAT_DIRECT_MAPPED
            } else {
                abi::XENFEAT_NOT_DIRECT_MAPPED
            };
            let dom0 = u32::from(facts.is_privileged) << abi::XENFEAT_DOM0;
            let submap = FEATURES | 1 << mapping | dom0;
            cx.write_field(at, offset_of!(abi::FeatureInfo, submap), &submap)?;
            Ok(0)
        }
        abi::XENVER_PAGESIZE => Ok(PAGE_SIZE as i64),
        abi::XENVER_GUEST_HANDLE => {
            let handle = *cx.domain.handle.lock();
            cx.write(at, &handle)?;
            Ok(0)
        }
        abi::XENVER_COMMANDLINE if facts.is_privileged => {
            write_text(cx, at, &identity.command_line, abi::COMMANDLINE_LEN)
        }
        abi::XENVER_COMMANDLINE => {
            cx.copy_out(at, DENIED)?;
            Ok(0)
        }
        abi::XENVER_BUILD_ID => build_id(cx, at),
        // Newer than the release that others speak.
        _ if identity.version < (4, 18) => Err(Errno::NoSys),
        abi::XENVER_EXTRAVERSION2 => counted(cx, at, &identity.extra_version),
        abi::XENVER_CAPABILITIES2 => counted(cx, at, &identity.capabilities),
        abi::XENVER_CHANGESET2 => counted(cx, at, &identity.changeset),
        abi::XENVER_COMMANDLINE2 if facts.is_privileged => counted(cx, at, &identity.command_line),
        abi::XENVER_COMMANDLINE2 => Err(Errno::Perm),
        _ => Err(Errno::NoSys),
    }
}

/// Copies a text without a zero behind the length that there is room for; returns its length, which is all that is done
/// without a buffer.
fn counted<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt, text: &str) -> CallResult {
    let size = text.len() as u32;
    if size == 0 {
        return Err(Errno::NoData);
    }
    if at.raw() != 0 {
        let header: abi::BuildIdHeader = cx.read(at)?;
        if header.len < size {
            return Err(Errno::NoBufs);
        }
        let to = at.checked_add(size_of_val(header.as_bytes()) as u64);
        cx.copy_out(to.ok_or(Errno::Fault)?, text.as_bytes())?;
    }
    Ok(i64::from(size))
}

fn build_id<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, at: GuestVirt) -> CallResult {
    if !cx.domain.facts.is_privileged {
        return Err(Errno::Perm);
    }
    let id = &cx.hv.identity.build_id;
    let size = id.len() as u32;
    // Without a buffer it only tells the size.
    if at.raw() != 0 {
        let header: abi::BuildIdHeader = cx.read(at)?;
        if header.len == 0 {
            return Err(Errno::Inval);
        }
        if header.len < size {
            return Err(Errno::NoBufs);
        }
        cx.write_field(at, size_of_val(header.as_bytes()), id)?;
    }
    Ok(i64::from(size))
}
