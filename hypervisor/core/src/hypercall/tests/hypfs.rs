//! hypfs_op.

use xen_abi::control::*;
use xen_abi::hypercall::HYPERVISOR_HYPFS_OP;
use xen_abi::hypfs::*;
use zerocopy::FromBytes;

use super::domctl::domctl;
use super::errno::*;
use super::life::creation;
use crate::addr::DomId;
use crate::fakes::{ARG, Guest, NOWHERE, World};

const BUFFER: u64 = ARG + 0x100;

fn op(guest: &Guest, command: u32, path: &str, buffer: u64, size: usize) -> i64 {
    guest.put(ARG, path.as_bytes());
    let arguments = [command.into(), ARG, path.len() as u64, buffer, size as u64];
    guest.result(HYPERVISOR_HYPFS_OP, &arguments)
}

/// Reads a path (with its zero) into a buffer of `size` bytes.
fn read(guest: &Guest, path: &str, size: usize) -> (i64, HypfsDirentry, Vec<u8>) {
    guest.put(BUFFER, &[0xa5u8; 1024][..]);
    let result = op(guest, XEN_HYPFS_OP_READ, path, BUFFER, size);
    let all: [u8; 1024] = guest.get(BUFFER);
    assert!(
        all[size..].iter().all(|&byte| byte == 0xa5),
        "beyond the buffer"
    );
    let (entry, rest) = HypfsDirentry::read_from_prefix(&all).unwrap();
    (result, entry, rest[..size.saturating_sub(12)].to_vec())
}

fn text(guest: &Guest, path: &str) -> String {
    let (result, entry, bytes) = read(guest, path, 512);
    assert_eq!((result, entry.kind), (0, XEN_HYPFS_TYPE_STRING), "{path:?}");
    let text = &bytes[..entry.content_len as usize];
    assert_eq!(text.last(), Some(&0));
    String::from_utf8(text[..text.len() - 1].to_vec()).unwrap()
}

/// Returns the names in a directory, as libxenhypfs goes through them.
fn list(guest: &Guest, path: &str) -> Vec<(String, u8)> {
    let (result, entry, bytes) = read(guest, path, 512);
    assert_eq!((result, entry.kind), (0, XEN_HYPFS_TYPE_DIR));
    let mut rest = &bytes[..entry.content_len as usize];
    let mut names = Vec::new();
    loop {
        let next = u16::from_le_bytes([rest[12], rest[13]]);
        let name = rest[14..].split(|&byte| byte == 0).next().unwrap();
        names.push((String::from_utf8(name.to_vec()).unwrap(), rest[0]));
        if next == 0 {
            return names;
        }
        rest = &rest[usize::from(next)..];
    }
}

/// Every path there is, found by walking.
#[test]
fn the_whole_tree() {
    let world = World::new();
    let dom0 = &world.dom0;
    let mut found = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        let path = if dir.is_empty() {
            "/\0"
        } else {
            &format!("{dir}\0")
        };
        for (name, kind) in list(dom0, path) {
            let path = format!("{dir}/{name}");
            match kind {
                XEN_HYPFS_TYPE_DIR => todo.push(path),
                XEN_HYPFS_TYPE_UINT => {
                    let (result, entry, bytes) = read(dom0, &format!("{path}\0"), 16);
                    assert_eq!((result, entry.content_len), (0, 4));
                    let word = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                    found.push(format!("{path}={word}"));
                }
                _ => found.push(format!("{path}={}", text(dom0, &format!("{path}\0")))),
            }
        }
    }
    found.sort();
    let expected = [
        "/buildinfo/changeset=git:0123456789ab",
        "/buildinfo/compile_by=user",
        "/buildinfo/compile_date=today",
        "/buildinfo/compile_domain=host",
        "/buildinfo/compiler=rustc",
        "/buildinfo/version/extra=.5-xenith",
        "/buildinfo/version/major=4",
        "/buildinfo/version/minor=17",
        "/params/gnttab_max_frames=64",
        "/params/gnttab_max_maptrack_frames=1024",
    ];
    assert_eq!(found, expected);
}

#[test]
fn who_and_what_is_refused() {
    let world = World::new();
    let dom0 = &world.dom0;
    let version =
        |guest: &Guest, argument| guest.result(HYPERVISOR_HYPFS_OP, &[0, 0, 0, 0, argument]);
    assert_eq!(version(dom0, 0), 1);
    assert_eq!(version(dom0, 1), EINVAL);
    assert_eq!(version(&world.dom1, 0), EPERM);
    assert_eq!(op(&world.dom1, XEN_HYPFS_OP_READ, "/\0", BUFFER, 64), EPERM);
    for path in [
        "/nosuch\0",
        "/buildinfo/nosuch\0",
        "/buildinfo/changeset/x\0",
    ] {
        assert_eq!(read(dom0, path, 64).0, ENOENT, "{path:?}");
    }
    let long = format!("/{}\0", "x".repeat(200));
    assert_eq!(read(dom0, &long, 64).0, ENOENT);
    for path in [
        "buildinfo\0",
        "/buildinfo",
        "/buildinfo/\0",
        "\0",
        "",
        "/a\0b\0",
        "/",
    ] {
        assert_eq!(read(dom0, path, 64).0, EINVAL, "{path:?}");
    }
    let length = [1, ARG, 1025, BUFFER, 64];
    assert_eq!(dom0.result(HYPERVISOR_HYPFS_OP, &length), EINVAL);
    assert_eq!(op(dom0, XEN_HYPFS_OP_READ, "/\0", NOWHERE, 64), EFAULT);
    assert_eq!(op(dom0, 3, "/\0", BUFFER, 64), EOPNOTSUPP);
    // Too small for the header, or for what follows it: then the header tells how much is needed.
    assert_eq!(read(dom0, "/\0", 11).0, EINVAL);
    let (result, entry, content) = read(dom0, "/buildinfo/changeset\0", 12 + 16);
    assert_eq!((result, entry.content_len), (ENOBUFS, 17));
    assert!(content.iter().all(|&byte| byte == 0xa5));
    assert_eq!(read(dom0, "/buildinfo/changeset\0", 12 + 17).0, 0);
}

#[test]
fn a_limit_for_new_domains() {
    let world = World::new();
    let dom0 = &world.dom0;
    let path = "/params/gnttab_max_frames\0";
    let write = |path: &str, value: &[u8]| {
        dom0.put(BUFFER, value);
        op(dom0, XEN_HYPFS_OP_WRITE_CONTENTS, path, BUFFER, value.len())
    };
    assert_eq!(read(dom0, path, 64).1.max_write_len, 12);
    assert_eq!(write(path, b"7\0"), 0);
    assert_eq!(text(dom0, path), "7");
    for (value, read) in [
        (&b"0x1f\0"[..], "31"),
        (b"017\0", "15"),
        (b"0\0", "0"),
        (b"7\0", "7"),
    ] {
        assert_eq!((write(path, value), text(dom0, path).as_str()), (0, read));
    }
    for (value, error) in [
        (&b"8"[..], EINVAL),
        (b"8x\0", EINVAL),
        (b"-8\0", EINVAL),
        (b"+8\0", EINVAL),
        (b"0x\0", EINVAL),
        (b"08\0", EINVAL),
        (b"\0", EINVAL),
        (b"", EINVAL),
        (b"8\08\0", EINVAL),
        (b"4294967296\0", ERANGE),
        (b"0000000000008\0", ENOSPC),
    ] {
        assert_eq!(write(path, value), error, "{value:?}");
    }
    assert_eq!(text(dom0, path), "7");
    assert_eq!(write("/buildinfo/changeset\0", b"8\0"), EACCES);
    assert_eq!(write("/params\0", b"8\0"), EACCES);
    // What a new domain gets.
    let wanted = DomctlCreatedomain {
        max_grant_frames: -1,
        ..creation()
    };
    let (result, id, _) = domctl(dom0, XEN_DOMCTL_CREATEDOMAIN, 9, wanted);
    assert_eq!(result, 0);
    let domain = dom0.hv.domains.get(DomId::new(id)).unwrap();
    assert_eq!(domain.grants.lock().size().max_frames, 7);
}
