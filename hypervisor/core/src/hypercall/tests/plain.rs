//! Version, console, parameters, clocks, vCPUs, scheduling, multicall.

use std::sync::atomic::Ordering;

use xen_abi::hvm::*;
use xen_abi::hypercall::*;
use xen_abi::platform::*;
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use xen_abi::version::*;

use super::errno::*;
use super::{NO_DOMAIN, SELF};
use crate::domain::{NOT_POLLING, POLL_FOREVER, ShutdownReason};
use crate::evtchn::Port;
use crate::fakes::{ARG, Guest, LIST, NOWHERE, RAM, World, page};
use crate::machine::SharedPage;
use crate::vuart::Vuart;

const VERSION: u32 = HYPERVISOR_XEN_VERSION;

#[test]
fn numbers_that_are_no_calls() {
    let world = World::new();
    for number in [
        0,
        1,
        6,
        8,
        9,
        10,
        11,
        14,
        15,
        16,
        19,
        22,
        23,
        25,
        26,
        27,
        28,
        30,
        31,
        33,
        37,
        38,
        39,
        40,
        41,
        48,
        63,
        64,
        65,
        1 << 16,
        u32::MAX,
    ] {
        for command in [0, 1, 10, 15, 25, u64::MAX] {
            let args = [command, ARG, 0, 0, 0];
            assert_eq!(world.dom0.result(number, &args), ENOSYS, "{number}");
            assert_eq!(world.dom1.result(number, &args), ENOSYS, "{number}");
        }
    }
}

fn text(guest: &Guest, command: u32, len: usize) -> String {
    guest.put(ARG, &[0xaa_u8; 1100][..]);
    assert_eq!(guest.result(VERSION, &[command.into(), ARG]), 0);
    let bytes: [u8; 1100] = guest.get(ARG);
    let end = bytes.iter().position(|&byte| byte == 0).unwrap();
    assert!(end < len && bytes[end..len].iter().all(|&byte| byte == 0));
    assert!(bytes[len..].iter().all(|&byte| byte == 0xaa));
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

#[test]
fn version_tells_what_we_are() {
    let world = World::new();
    for guest in [&world.dom0, &world.dom1] {
        assert_eq!(guest.result(VERSION, &[0, NOWHERE]), 0x4_0011);
        assert_eq!(text(guest, XENVER_EXTRAVERSION, 16), ".5-xenith");
        assert_eq!(text(guest, XENVER_CAPABILITIES, 1024), "xen-3.0-armv7l ");
        assert_eq!(text(guest, XENVER_CHANGESET, 64), "git:0123456789ab");
        assert_eq!(guest.result(VERSION, &[7, NOWHERE]), 4096);
        let (result, info) = guest.op(
            VERSION,
            XENVER_COMPILE_INFO,
            CompileInfo {
                compiler: [9; 64],
                compile_by: [9; 16],
                compile_domain: [9; 32],
                compile_date: [9; 32],
            },
        );
        assert_eq!(result, 0);
        assert_eq!(&info.compiler[..6], b"rustc\0");
        assert_eq!(&info.compile_by[..5], b"user\0");
        assert_eq!(&info.compile_domain[..5], b"host\0");
        assert_eq!(&info.compile_date[..6], b"today\0");
        let (result, space) = guest.op(VERSION, 5, PlatformParameters { virt_start: 0 });
        assert_eq!((result, space.virt_start), (0, 0x20_0000));
        assert_eq!(guest.op(VERSION, 8, [7u8; 16]), (0, [0; 16]));
        for command in [11, 12, 13, 14, 15, u32::MAX] {
            assert_eq!(guest.result(VERSION, &[command.into(), ARG]), ENOSYS);
        }
        for command in [1, 2, 3, 4, 5, 6, 8, 9] {
            assert_eq!(guest.result(VERSION, &[command, NOWHERE]), EFAULT);
        }
    }
    assert_eq!(text(&world.dom0, XENVER_COMMANDLINE, 1024), "dom0_mem=512M");
    assert_eq!(text(&world.dom1, XENVER_COMMANDLINE, 9), "<denied>");
}

#[test]
fn features_are_those_of_the_domain() {
    let world = World::new();
    let features = |guest: &Guest, submap_idx| {
        let op = FeatureInfo {
            submap_idx,
            submap: 5,
        };
        let (result, op) = guest.op(VERSION, XENVER_GET_FEATURES, op);
        (result, op.submap)
    };
    assert_eq!(features(&world.dom0, 0), (0, 0x2_6805));
    assert_eq!(features(&world.dom1, 0), (0, 0x1_6005));
    assert_eq!(features(&world.dom0, 1), (EINVAL, 5));
    assert_eq!(features(&world.dom0, u32::MAX), (EINVAL, 5));
}

#[test]
fn build_id_wants_room() {
    let world = World::new();
    let dom0 = &world.dom0;
    assert_eq!(dom0.result(VERSION, &[10, 0]), 20);
    for (len, result) in [(0u32, EINVAL), (19, ENOBUFS), (20, 20), (u32::MAX, 20)] {
        dom0.put(ARG, &len);
        assert_eq!(dom0.result(VERSION, &[10, ARG]), result);
    }
    assert_eq!(
        dom0.get::<[u8; 20]>(ARG + 4),
        core::array::from_fn(|n| n as u8 + 1)
    );
    assert_eq!(dom0.result(VERSION, &[10, NOWHERE]), EFAULT);
    assert_eq!(world.dom1.result(VERSION, &[10, 0]), EPERM);
}

#[test]
fn console_writes_everything_however_often_it_is_preempted() {
    let world = World::new();
    let dom0 = &world.dom0;
    let line: Vec<u8> = (0..5000).map(|n| b'a' + (n % 26) as u8).collect();
    dom0.put(page(20) + 5, &line[..]);
    for every in [u32::MAX, 7, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        let called = dom0.call(HYPERVISOR_CONSOLE_IO, &[0, 5000, page(20) + 5]);
        assert_eq!(called.result, 0);
        assert_eq!(called.preempted > 0, every != u32::MAX);
        assert_eq!(
            std::mem::take(&mut *world.hv.hal.console.lock().unwrap()),
            line
        );
    }
    let write = |count: u64, at| dom0.result(HYPERVISOR_CONSOLE_IO, &[0, count, at]);
    assert_eq!(write(0, NOWHERE), 0);
    assert_eq!(write(1, NOWHERE), EFAULT);
    assert_eq!(write(1, u64::MAX), EFAULT);
    // Past the end of RAM.
    assert_eq!(write(u64::from(u32::MAX), page(200)), EFAULT);
    assert_eq!(dom0.result(HYPERVISOR_CONSOLE_IO, &[2, 1, ARG]), ENOSYS);
    assert_eq!(
        world.dom1.result(HYPERVISOR_CONSOLE_IO, &[0, 1, ARG]),
        EPERM
    );
}

#[test]
fn a_domain_with_a_uart_writes_lines_by_hypercall() {
    let world = World::new();
    let dom1 = &world.dom1;
    dom1.domain
        .vuart
        .call_once(|| Vuart::new(crate::vuart::BASE, crate::vuart::IRQ));
    let write = |text: &[u8]| {
        dom1.put(ARG, text);
        let result = dom1.result(HYPERVISOR_CONSOLE_IO, &[0, text.len() as u64, ARG]);
        assert_eq!(result, 0);
        let said = std::mem::take(&mut *world.hv.hal.console.lock().unwrap());
        String::from_utf8(said).unwrap()
    };
    assert_eq!(write(b"one\x1b[2J"), "");
    assert_eq!(write(b" line\ntwo\n"), "1: one[2J line\n1: two\n");
    assert_eq!(dom1.result(HYPERVISOR_CONSOLE_IO, &[1, 1, ARG]), EPERM);
}

#[test]
fn console_reads_what_was_typed_and_loses_nothing() {
    let world = World::new();
    let read = |count: u64, at| world.dom0.result(HYPERVISOR_CONSOLE_IO, &[1, count, at]);
    assert_eq!(read(16, ARG), 0);
    world.hv.hal.typed.lock().unwrap().extend(b"hello world");
    assert_eq!(read(1 << 31, ARG), E2BIG);
    assert_eq!(read(5, NOWHERE), EFAULT);
    world.dom0.put(ARG, b"........");
    assert_eq!(read(5, ARG), 5);
    assert_eq!(&world.dom0.get::<[u8; 8]>(ARG), b"hello...");
    assert_eq!(read(i32::MAX as u64, ARG), 6);
    assert_eq!(&world.dom0.get::<[u8; 8]>(ARG), b" world..");
}

#[test]
fn parameters_are_the_toolstacks() {
    let world = World::new();
    let param = |guest: &Guest, command, domid, index, value| {
        let op = HvmParam {
            domid,
            _pad: 0,
            index,
            value,
        };
        let (result, op) = guest.op(HYPERVISOR_HVM_OP, command, op);
        (result, op.value)
    };
    let (dom0, dom1) = (&world.dom0, &world.dom1);
    for index in [0, 1, 2, 17, 18] {
        let value = 0x1_0000_0000 + u64::from(index);
        assert_eq!(param(dom0, HVMOP_SET_PARAM, 1, index, value).0, 0);
        assert_eq!(param(dom1, HVMOP_GET_PARAM, SELF, index, 5), (0, value));
        assert_eq!(param(dom1, HVMOP_GET_PARAM, 1, index, 5), (0, value));
        assert_eq!(param(dom1, HVMOP_SET_PARAM, SELF, index, 5).0, EPERM);
        assert_eq!(param(dom0, HVMOP_SET_PARAM, 0, index, 5).0, EPERM);
        assert_eq!(param(dom0, HVMOP_GET_PARAM, SELF, index, 5), (0, 0));
        assert_eq!(param(&world.dom2, HVMOP_GET_PARAM, 1, index, 5), (EPERM, 5));
    }
    assert_eq!(param(dom0, HVMOP_SET_PARAM, 1, 28, 9).0, 0);
    assert_eq!(param(dom0, HVMOP_GET_PARAM, 1, 28, 0), (0, 9));
    assert_eq!(param(dom1, HVMOP_GET_PARAM, SELF, 28, 5), (EPERM, 5));
    for index in [3, 4, 16, 27, 29, 35, 36, 38, 39, u32::MAX] {
        assert_eq!(param(dom0, HVMOP_SET_PARAM, 1, index, 5).0, EINVAL);
        assert_eq!(param(dom0, HVMOP_GET_PARAM, SELF, index, 5).0, EINVAL);
    }
    assert_eq!(param(dom0, HVMOP_GET_PARAM, NO_DOMAIN, 0, 5).0, ESRCH);
    assert_eq!(dom0.result(HYPERVISOR_HVM_OP, &[1, NOWHERE]), EFAULT);
    assert_eq!(dom0.result(HYPERVISOR_HVM_OP, &[24, ARG]), EINVAL);
    assert_eq!(dom0.result(HYPERVISOR_HVM_OP, &[5, ARG]), ENOSYS);
}

#[test]
fn dom0_sets_everybodys_clock() {
    let world = World::new();
    let settime = |guest: &Guest, cmd, interface_version, mbz, secs, nsecs, system_time: u64| {
        let mut u = [0; 128];
        let time = XenpfSettime64 {
            secs,
            nsecs,
            mbz,
            system_time,
        };
        u[..24].copy_from_slice(zerocopy::IntoBytes::as_bytes(&time));
        guest.put(
            ARG,
            &PlatformOp {
                cmd,
                interface_version,
                u,
            },
        );
        guest.result(HYPERVISOR_PLATFORM_OP, &[ARG])
    };
    let version = XENPF_INTERFACE_VERSION;
    let secs = 0x1_0000_0007;
    world.dom1.domain.time_offset.store(3600, Ordering::SeqCst);
    assert_eq!(
        settime(&world.dom0, 62, version, 0, secs, 5, 2_000_000_006),
        0
    );
    assert_eq!(*world.hv.wallclock.lock(), (secs - 3, 999_999_999));
    let clock = |guest: &Guest| [1072, 1076, 1080, 1084].map(|at| guest.shared_info(at));
    assert_eq!(clock(&world.dom0), [2, 4, 999_999_999, 1]);
    assert_eq!(clock(&world.dom1), [2, 3604, 999_999_999, 1]);
    assert_eq!(settime(&world.dom0, 62, version, 0, secs, 5, 0), 0);
    assert_eq!(clock(&world.dom0), [4, 7, 5, 1]);
    assert_eq!(
        settime(&world.dom0, 62, version, 0, u64::MAX, u32::MAX, u64::MAX),
        0
    );
    assert_eq!(settime(&world.dom0, 62, version, 1, 0, 0, 0), EINVAL);
    assert_eq!(settime(&world.dom0, 62, version + 1, 0, 0, 0, 0), EACCES);
    assert_eq!(settime(&world.dom0, 17, version, 0, 0, 0, 0), ENOSYS);
    assert_eq!(settime(&world.dom1, 62, version, 0, 0, 0, 0), EPERM);
    assert_eq!(
        world.dom0.result(HYPERVISOR_PLATFORM_OP, &[NOWHERE]),
        EFAULT
    );
}

#[test]
fn assists() {
    let world = World::new();
    let assist = |command, kind| world.dom0.result(HYPERVISOR_VM_ASSIST, &[command, kind]);
    assert_eq!(assist(0, 5), 0);
    assert_eq!(world.dom0.domain.vm_assist.load(Ordering::SeqCst), 1 << 5);
    assert_eq!(assist(1, 5), 0);
    assert_eq!(world.dom0.domain.vm_assist.load(Ordering::SeqCst), 0);
    assert_eq!(assist(2, 5), ENOSYS);
    for kind in [0, 1, 4, 6, 31, 32, 64, u64::MAX] {
        assert_eq!(assist(0, kind), EINVAL);
    }
}

#[test]
fn vcpu_info_is_where_the_guest_wants_it() {
    let world = World::new();
    let dom1 = &world.dom1;
    let free = world.hv.allocator.lock().free_frames();
    let register = |guest: &Guest, vcpu: u64, mfn, offset| {
        guest.put(
            ARG,
            &VcpuRegisterVcpuInfo {
                mfn,
                offset,
                _rsvd: 0,
            },
        );
        guest.result(HYPERVISOR_VCPU_OP, &[10, vcpu, ARG])
    };
    let gfn = u64::from(RAM + 5);
    for offset in [4, 44, 4049, 4052, 4096, u32::MAX] {
        assert_eq!(register(dom1, 0, gfn, offset), ENXIO, "{offset}");
    }
    for bad in [0, u64::from(RAM + 64), 1 << 32 | gfn, u64::MAX] {
        assert_eq!(register(dom1, 0, bad, 0), EINVAL, "{bad:#x}");
    }
    assert_eq!(register(dom1, 2, gfn, 0), ENOENT);
    assert_eq!(register(dom1, u64::from(u32::MAX), gfn, 0), ENOENT);
    assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[10, 0, NOWHERE]), EFAULT);
    assert_eq!(world.hv.hal.mapped.load(Ordering::SeqCst), 6);
    world.hv.hal.no_mappings.store(true, Ordering::SeqCst);
    assert_eq!(register(dom1, 0, gfn, 0), ENOMEM);
    world.hv.hal.no_mappings.store(false, Ordering::SeqCst);
    let mfn = dom1.mapping(RAM + 5).unwrap().mfn;
    assert_eq!(world.hv.frames.references(mfn), 1);

    let blocked = &dom1.domain.vcpus[0].is_blocked;
    blocked.store(true, Ordering::SeqCst);
    assert_eq!(register(dom1, 0, gfn, 4048), 0);
    assert_eq!(world.hv.frames.references(mfn), 2);
    assert_eq!(dom1.get::<u8>(page(5) + 4048), 1, "the upcall is pending");
    assert!(!blocked.load(Ordering::SeqCst), "the interrupt is raised");
    assert_eq!(register(dom1, 0, gfn, 0), EINVAL, "once only");
    assert_eq!(world.hv.frames.references(mfn), 2);
    // Another vCPU's while it is off.
    assert_eq!(register(dom1, 1, gfn, 64), 0);
    dom1.domain.vcpus[1]
        .is_offline
        .store(false, Ordering::SeqCst);
    assert_eq!(register(&world.dom2.on_vcpu(1), 0, gfn, 64), EINVAL);
    for command in [0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, u64::MAX] {
        assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[command, 0, ARG]), EINVAL);
        assert_eq!(dom1.result(HYPERVISOR_VCPU_OP, &[command, 99, ARG]), EINVAL);
    }
    assert_eq!(world.hv.allocator.lock().free_frames(), free);
}

const SCHED: u32 = HYPERVISOR_SCHED_OP;

#[test]
fn yield_block_and_shutdown_are_effects() {
    let world = World::new();
    let dom1 = &world.dom1;
    let vcpu = &dom1.domain.vcpus[0];
    let called = dom1.call(SCHED, &[0]);
    assert!(called.result == 0 && called.effects.reschedule && !called.effects.block);
    let called = dom1.call(SCHED, &[1]);
    assert!(called.result == 0 && called.effects.block);
    assert!(vcpu.is_blocked.swap(false, Ordering::SeqCst));
    // An upcall that is pending already ends the wait before it begins.
    dom1.domain.shared_info.words()[0].store(1, Ordering::SeqCst);
    let called = dom1.call(SCHED, &[1]);
    assert!(called.result == 0 && !called.effects.block);
    assert!(!vcpu.is_blocked.load(Ordering::SeqCst));
    let stop = |reason: u32| {
        dom1.put(ARG, &reason);
        let called = dom1.call(SCHED, &[2, ARG]);
        (called.result, called.effects.shutdown)
    };
    assert_eq!(stop(0), (0, Some(ShutdownReason::Poweroff)));
    assert_eq!(stop(1), (0, Some(ShutdownReason::Reboot)));
    assert_eq!(stop(99), (0, Some(ShutdownReason::Crash)));
    let called = dom1.call(SCHED, &[2, NOWHERE]);
    assert_eq!((called.result, called.effects.shutdown), (EFAULT, None));
    // What was announced is what it is called.
    dom1.put(ARG, &2u32);
    assert_eq!(dom1.result(SCHED, &[5, ARG]), 0);
    assert_eq!(stop(0), (0, Some(ShutdownReason::Suspend)));
    assert_eq!(dom1.result(SCHED, &[7, ARG]), EPERM);
    for command in [7, 8, u64::MAX] {
        assert_eq!(world.dom0.result(SCHED, &[command, ARG]), ENOSYS);
    }
}

#[test]
fn remote_shutdown_tells_dom0() {
    let world = World::new();
    let shutdown = |guest: &Guest, domain_id, reason| {
        guest.put(
            ARG,
            &SchedRemoteShutdown {
                domain_id,
                _pad: 0,
                reason,
            },
        );
        guest.call(SCHED, &[4, ARG])
    };
    let port = world.dom0.domain.events.lock().bind_virq(3, 0).unwrap();
    assert_eq!(shutdown(&world.dom1, 2, 1).result, EPERM);
    assert_eq!(shutdown(&world.dom1, 1, 1).result, EPERM);
    assert_eq!(shutdown(&world.dom0, NO_DOMAIN, 1).result, ESRCH);
    assert_eq!(shutdown(&world.dom0, SELF, 1).result, ESRCH);
    assert_eq!(shutdown(&world.dom0, 1, 1).result, 0);
    assert_eq!(world.dom1.domain.shutdown(), Some(ShutdownReason::Reboot));
    assert!(world.dom0.domain.events.lock().is_pending(port));
    assert_eq!(world.dom2.domain.shutdown(), None);
    assert_eq!(
        shutdown(&world.dom0, 0, 0).effects.shutdown,
        Some(ShutdownReason::Poweroff)
    );
}

#[test]
fn poll_waits_for_a_port_or_a_time() {
    let world = World::new();
    let dom1 = &world.dom1;
    let vcpu = &dom1.domain.vcpus[0];
    let poll = |ports: &[u32], nr_ports, at, timeout| {
        dom1.put(LIST, ports);
        dom1.put(
            ARG,
            &SchedPoll {
                ports: at,
                nr_ports,
                _pad: 0,
                timeout,
            },
        );
        dom1.call(SCHED, &[3, ARG])
    };
    let (a, b) = {
        let mut events = dom1.domain.events.lock();
        (
            events.bind_ipi(0).unwrap().raw(),
            events.bind_ipi(0).unwrap().raw(),
        )
    };
    // Waits, and is woken by its port only.
    let called = poll(&[a], 1, LIST, 0);
    assert!(called.result == 0 && called.effects.block);
    assert_eq!(vcpu.poll_deadline.load(Ordering::SeqCst), POLL_FOREVER);
    let send = |port: u32| {
        let notify = dom1.domain.events.lock().set_pending(Port::new(port));
        dom1.domain.deliver(notify);
    };
    // Masked, as ports are that one polls for: else the upcall would wake.
    for port in [a, b] {
        dom1.domain.shared_info.words()[560 / 4 + port as usize / 32]
            .fetch_or(1 << (port % 32), Ordering::SeqCst);
    }
    send(b);
    assert!(vcpu.is_blocked.load(Ordering::SeqCst));
    send(a);
    assert!(!vcpu.is_blocked.load(Ordering::SeqCst));
    assert_eq!(vcpu.poll_deadline.load(Ordering::SeqCst), NOT_POLLING);
    // Pending already: does not wait.
    let called = poll(&[b, a], 2, LIST, 1);
    assert!(called.result == 0 && !called.effects.block);
    assert_eq!(vcpu.poll_deadline.load(Ordering::SeqCst), NOT_POLLING);
    // An interrupt ends it as well: nothing is left that a port or a time would end later.
    dom1.domain.events.lock().take_woken();
    dom1.domain.shared_info.words()[48 / 4].store(0, Ordering::SeqCst);
    let called = poll(&[a], 1, LIST, 1_000_000);
    assert!(called.result == 0 && called.effects.block);
    dom1.domain.wake(vcpu.id);
    assert!(!vcpu.is_blocked.load(Ordering::SeqCst));
    assert_eq!(vcpu.poll_deadline.load(Ordering::SeqCst), NOT_POLLING);
    vcpu.is_blocked.store(true, Ordering::SeqCst);
    send(a);
    assert!(
        vcpu.is_blocked.load(Ordering::SeqCst),
        "in WFI by now, not in a poll"
    );
    vcpu.is_blocked.store(false, Ordering::SeqCst);
    // Only for the time: 1 ms after boot, in ticks.
    let called = poll(&[], 0, NOWHERE, 1_000_000);
    assert!(called.result == 0 && called.effects.block);
    assert_eq!(vcpu.poll_deadline.load(Ordering::SeqCst), 1000 + 62_500);
    dom1.domain.wake(vcpu.id);
    let called = poll(&[], 0, 0, u64::MAX);
    assert!(called.result == 0 && called.effects.block);
    dom1.domain.wake(vcpu.id);
    // An upcall that is pending already ends it before it begins.
    dom1.domain.shared_info.words()[0].store(1, Ordering::SeqCst);
    let called = poll(&[], 0, 0, 0);
    assert!(called.result == 0 && !called.effects.block);
    dom1.domain.shared_info.words()[0].store(0, Ordering::SeqCst);
    assert_eq!(poll(&[5000], 1, LIST, 0).result, EINVAL);
    assert_eq!(poll(&[a], 129, LIST, 0).result, EINVAL);
    assert_eq!(poll(&[a], u32::MAX, LIST, 0).result, EINVAL);
    assert_eq!(poll(&[a], 1, NOWHERE, 0).result, EFAULT);
    assert_eq!(poll(&[a], 1, u64::MAX - 1, 0).result, EFAULT);
    assert!(
        !vcpu.is_blocked.load(Ordering::SeqCst),
        "a failed poll does not block"
    );
}

#[test]
fn xsa_111_145_213_multicall_does_all_and_resumes() {
    let world = World::new();
    let dom0 = &world.dom0;
    let entry = |op, args| MulticallEntry {
        op,
        result: 77,
        args,
    };
    dom0.put(page(20), &[b'x'; 1000][..]);
    let list = [
        entry(17, [0, 0, 0, 0, 0, 0]),
        entry(18, [0, 1000, page(20), 0, 0, u64::MAX]),
        entry(17, [7, 0, u64::MAX, 0, 0, 0]),
        entry(99, [u64::MAX; 6]),
        entry(13, [LIST, 1, 0, 0, 0, 0]),
        entry(29, [0, 0, 0, 0, 0, 0]),
    ];
    for every in [u32::MAX, 3, 1] {
        world.hv.hal.interrupt_every.store(every, Ordering::SeqCst);
        dom0.put(LIST, &list[..]);
        let called = dom0.call(HYPERVISOR_MULTICALL, &[LIST, 6]);
        assert_eq!(called.result, 0);
        assert!(called.effects.reschedule);
        assert_eq!(called.preempted > 0, every != u32::MAX);
        let done: [MulticallEntry; 6] = dom0.get(LIST);
        let results = done.map(|entry| entry.result as u32 as i32);
        assert_eq!(results, [0x4_0011, 0, 4096, -38, -22, 0]);
        assert!(done.iter().all(|entry| entry.result <= u64::from(u32::MAX)));
        assert_eq!(
            std::mem::take(&mut *world.hv.hal.console.lock().unwrap()).len(),
            1000
        );
    }
    world
        .hv
        .hal
        .interrupt_every
        .store(u32::MAX, Ordering::SeqCst);
    let multicall = |count, at| dom0.call(HYPERVISOR_MULTICALL, &[at, count]);
    assert_eq!(multicall(0, NOWHERE).result, 0);
    assert_eq!(multicall(1, NOWHERE).result, EFAULT);
    assert_eq!(
        multicall(u64::from(u32::MAX), page(255)).effects.shutdown,
        None
    );
    // What no register could hold ends the domain, and nothing after it is done.
    for bad in [
        entry(1 << 32 | 17, [0; 6]),
        entry(18, [0, 1 << 32, 0, 0, 0, 0]),
    ] {
        dom0.put(LIST, &[bad, list[5]]);
        let called = multicall(2, LIST);
        assert_eq!(called.effects.shutdown, Some(ShutdownReason::Crash));
        assert!(!called.effects.reschedule);
    }
}
