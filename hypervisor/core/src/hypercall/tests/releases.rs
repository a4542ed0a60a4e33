//! What differs in the release that Debian 13's tools speak, 4.20: domctl 0x17, and texts with their length.

use core::sync::atomic::Ordering::SeqCst;
use xen_abi::control::*;
use xen_abi::hypercall::*;
use xen_abi::version::*;
use zerocopy::FromZeros;

use super::domctl::domctl_as;
use super::errno::*;
use crate::addr::DomId;
use crate::emulate::Execution;
use crate::fakes::{ARG, Guest, Size, World};
use crate::hypervisor::XEN_4_20;

const TEXT: u64 = ARG + 0x100;

fn world() -> World {
    World::of(Size::TESTS, XEN_4_20)
}

fn creation() -> DomctlCreatedomain420 {
    let mut wanted = DomctlCreatedomain420::new_zeroed();
    wanted.handle = [5; 16];
    wanted.flags = XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP;
    wanted.max_vcpus = 2;
    wanted.max_evtchn_port = 1023;
    wanted.max_grant_frames = -1;
    wanted.max_maptrack_frames = -1;
    wanted.grant_opts = 1;
    wanted.arch.nr_spis = 3;
    wanted
}

/// A domain is of the width that the toolstack wants, until it has memory.
#[test]
fn widths() {
    let world = world();
    let newer = XEN_DOMCTL_INTERFACE_VERSION_4_20;
    let dom0 = &world.dom0;
    let (result, id, _) = domctl_as(newer, dom0, XEN_DOMCTL_CREATEDOMAIN, 0, creation());
    assert_eq!((result, id), (0, 3));
    let set = |id, size| {
        let wanted = DomctlAddressSize { size };
        domctl_as(newer, dom0, XEN_DOMCTL_SET_ADDRESS_SIZE, id, wanted).0
    };
    let domain = world.hv.domains.get(DomId::new(3)).unwrap();
    assert_eq!(domain.execution(), Execution::AArch32);
    for (size, expected) in [(64, 0), (32, 0), (16, EINVAL), (64, 0), (64, 0)] {
        assert_eq!(set(3, size), expected, "{size}");
    }
    assert_eq!(domain.execution(), Execution::AArch64);
    assert!(domain.vcpus.iter().all(|vcpu| vcpu.is_offline.load(SeqCst)));
    // With memory it stays what it is; so does whoever asks for itself.
    assert_eq!((set(1, 64), set(1, 32), set(0, 64)), (EBUSY, 0, EINVAL));
    assert_eq!(world.dom1.domain.execution(), Execution::AArch32);
}

#[test]
fn a_domain_by_the_newer_interface() {
    let world = world();
    let create =
        |version, wanted| domctl_as(version, &world.dom0, XEN_DOMCTL_CREATEDOMAIN, 0, wanted);
    assert_eq!(create(XEN_DOMCTL_INTERFACE_VERSION, creation()).0, EACCES);
    let newer = XEN_DOMCTL_INTERFACE_VERSION_4_20;
    let (result, id, made) = create(newer, creation());
    assert_eq!((result, id), (0, 3));
    assert_eq!(made.arch.gic_version, XEN_DOMCTL_CONFIG_GIC_V2);
    let domain = world.hv.domains.get(DomId::new(3)).unwrap();
    assert_eq!((domain.vcpus.len(), *domain.handle.lock()), (2, [5; 16]));
    let mut odd = creation();
    odd.altp2m_opts = 1;
    assert_eq!(create(newer, odd).0, EINVAL);
    odd = creation();
    odd.arch.sve_vl = 1;
    assert_eq!(create(newer, odd).0, EINVAL);

    let colors = domctl_as(newer, &world.dom0, XEN_DOMCTL_SET_LLC_COLORS, 3, [0u8; 0]);
    assert_eq!(colors.0, EOPNOTSUPP, "libxl goes on with this answer only");

    // A number that nobody has is an error, and not the next domain.
    let info = |domain| {
        let nothing = DomctlGetdomaininfo::new_zeroed();
        let command = XEN_DOMCTL_GETDOMAININFO;
        let (result, _, info) = domctl_as(newer, &world.dom0, command, domain, nothing);
        (result, info.domain)
    };
    assert_eq!((info(3), info(2)), ((0, 3), (0, 2)));
    assert_eq!((info(4).0, info(77).0), (ESRCH, ESRCH));
}

/// Offsets of public/domctl.h of 4.20 (xen-arm.md, A).
#[test]
fn the_newer_layout() {
    use core::mem::offset_of;
    assert_eq!(offset_of!(DomctlCreatedomain420, altp2m_opts), 64 - 16);
    assert_eq!(offset_of!(DomctlCreatedomain420, vmtrace_size), 68 - 16);
    assert_eq!(offset_of!(DomctlCreatedomain420, cpupool_id), 72 - 16);
    let arch = offset_of!(DomctlCreatedomain420, arch) + 16;
    assert_eq!(arch + offset_of!(ArchDomainconfig420, gic_version), 76);
    assert_eq!(arch + offset_of!(ArchDomainconfig420, sve_vl), 77);
    assert_eq!(arch + offset_of!(ArchDomainconfig420, tee_type), 78);
    assert_eq!(arch + offset_of!(ArchDomainconfig420, nr_spis), 80);
    assert_eq!(arch + offset_of!(ArchDomainconfig420, clock_frequency), 84);
}

#[test]
fn texts_with_their_length() {
    let world = world();
    let ask = |guest: &Guest, command: u32, room: u32| {
        guest.put(TEXT, &[0xa5u8; 64]);
        guest.put(TEXT, &room);
        let result = guest.result(HYPERVISOR_XEN_VERSION, &[command.into(), TEXT]);
        let bytes: [u8; 60] = guest.get(TEXT + 4);
        (result, bytes)
    };
    for (command, text) in [
        (XENVER_EXTRAVERSION2, ".5-xenith"),
        (XENVER_CAPABILITIES2, "xen-3.0-armv7l "),
        (XENVER_CHANGESET2, "git:0123456789ab"),
        (XENVER_COMMANDLINE2, "dom0_mem=512M"),
    ] {
        let length = text.len();
        let size = world
            .dom0
            .result(HYPERVISOR_XEN_VERSION, &[command.into(), 0]);
        assert_eq!(size, length as i64);
        let (result, bytes) = ask(&world.dom0, command, length as u32);
        assert_eq!(result, length as i64);
        assert_eq!(&bytes[..length], text.as_bytes());
        assert!(bytes[length..].iter().all(|&byte| byte == 0xa5));
        let (result, bytes) = ask(&world.dom0, command, length as u32 - 1);
        assert_eq!(result, ENOBUFS);
        assert!(bytes.iter().all(|&byte| byte == 0xa5));
    }
    assert_eq!(ask(&world.dom1, XENVER_COMMANDLINE2, 60).0, EPERM);
    assert_eq!(ask(&world.dom1, XENVER_EXTRAVERSION2, 60).0, 9);
    // The older release does not know them.
    let older = World::new();
    assert_eq!(ask(&older.dom0, XENVER_EXTRAVERSION2, 60).0, ENOSYS);
}
