//! sysctl, and where vCPUs run: who may, what it says, pools of CPUs.

use xen_abi::control::*;
use xen_abi::hypercall::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::domctl::{domctl, info, simple};
use super::errno::*;
use super::{NO_DOMAIN, SELF};
use crate::fakes::{ARG, Guest, LIST, NOWHERE, RAM, World, page};

/// Where tests have bitmaps.
const MAP: u64 = page(12);

fn sysctl<T: IntoBytes + FromBytes + Immutable>(guest: &Guest, command: u32, part: T) -> (i64, T) {
    let mut op = Sysctl {
        cmd: command,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: [0; 128],
    };
    part.write_to_prefix(&mut op.u).unwrap();
    guest.put(ARG, &op);
    let result = guest.result(HYPERVISOR_SYSCTL, &[ARG]);
    let op: Sysctl = guest.get(ARG);
    (result, T::read_from_prefix(&op.u).unwrap().0)
}

fn map(bits: u32) -> XenctlBitmap {
    XenctlBitmap {
        bitmap: MAP,
        nr_bits: bits,
        _pad: 0,
    }
}

#[test]
fn only_the_right_caller_and_version() {
    let world = World::new();
    for command in 0..40 {
        assert_eq!(sysctl(&world.dom1, command, [0u64; 16]).0, EPERM);
    }
    for command in [
        XEN_SYSCTL_TBUF_OP,
        XEN_SYSCTL_PERFC_OP,
        XEN_SYSCTL_LOCKPROF_OP,
        XEN_SYSCTL_GET_PMSTAT,
        XEN_SYSCTL_CPU_HOTPLUG,
        XEN_SYSCTL_PCITOPOINFO,
        XEN_SYSCTL_LIVEPATCH_OP,
        999,
    ] {
        assert_eq!(sysctl(&world.dom0, command, [0u64; 16]).0, ENOSYS);
    }
    assert_eq!(
        sysctl(&world.dom0, XEN_SYSCTL_COVERAGE_OP, 0u32).0,
        EOPNOTSUPP
    );
    let op = Sysctl {
        cmd: XEN_SYSCTL_PHYSINFO,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION + 1,
        u: [0; 128],
    };
    world.dom0.put(ARG, &op);
    assert_eq!(world.dom0.result(HYPERVISOR_SYSCTL, &[ARG]), EACCES);
    assert_eq!(world.dom0.result(HYPERVISOR_SYSCTL, &[NOWHERE]), EFAULT);
}

#[test]
fn the_machine_tells_of_itself() {
    let world = World::new();
    let (done, info) = sysctl(
        &world.dom0,
        XEN_SYSCTL_PHYSINFO,
        SysctlPhysinfo::new_zeroed(),
    );
    assert_eq!(done, 0);
    assert_eq!((info.nr_cpus, info.max_cpu_id, info.nr_nodes), (2, 1, 1));
    assert_eq!(info.cpu_khz, 62_500);
    assert_eq!(info.capabilities, 1 | 1 << 3 | 1 << 7 | 1 << 8);
    assert_eq!(info.total_pages, u64::from(world.hv.frames.total_frames()));
    let free = u64::from(world.hv.allocator.lock().free_frames());
    assert_eq!(info.free_pages, free);
    assert!(info.max_mfn > u64::from(RAM));

    let mut nodes = SysctlNumainfo::new_zeroed();
    nodes.num_nodes = 8;
    nodes.meminfo = LIST;
    nodes.distance = MAP;
    let (done, nodes) = sysctl(&world.dom0, XEN_SYSCTL_NUMAINFO, nodes);
    assert_eq!((done, nodes.num_nodes), (0, 1));
    let memory: SysctlMeminfo = world.dom0.get(LIST);
    assert_eq!((memory.memsize, memory.memfree), (2048 << 12, free << 12));
    assert_eq!(world.dom0.get::<u32>(MAP), 20);
    let asked = SysctlNumainfo::new_zeroed();
    assert_eq!(
        sysctl(&world.dom0, XEN_SYSCTL_NUMAINFO, asked).1.num_nodes,
        1
    );

    let mut list = SysctlCputopoinfo::new_zeroed();
    let (done, asked) = sysctl(&world.dom0, XEN_SYSCTL_CPUTOPOINFO, list);
    assert_eq!((done, asked.num_cpus), (0, 2));
    list.num_cpus = 9;
    list.cputopo = LIST;
    let (done, got) = sysctl(&world.dom0, XEN_SYSCTL_CPUTOPOINFO, list);
    assert_eq!((done, got.num_cpus), (0, 2));
    assert_eq!(world.dom0.get::<[u32; 6]>(LIST), [0; 6]);
    list.cputopo = NOWHERE;
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_CPUTOPOINFO, list).0, EFAULT);

    let mut cpus = SysctlGetcpuinfo::new_zeroed();
    cpus.max_cpus = u32::MAX;
    cpus.info = LIST;
    let (done, cpus) = sysctl(&world.dom0, XEN_SYSCTL_GETCPUINFO, cpus);
    assert_eq!((done, cpus.nr_cpus), (0, 2));
    // The fake's second CPU slept for two ticks of 16 ns.
    assert_eq!(world.dom0.get::<[u64; 2]>(LIST), [16, 32]);

    let mut heap = SysctlAvailheap::new_zeroed();
    heap.node = -1;
    let bytes = |heap: SysctlAvailheap| {
        sysctl(&world.dom0, XEN_SYSCTL_AVAILHEAP, heap)
            .1
            .avail_bytes
    };
    assert_eq!(bytes(heap), free << 12);
    heap.max_bitwidth = 32;
    assert_eq!(bytes(heap), free << 12);
    heap.max_bitwidth = 16;
    assert_eq!(bytes(heap), 0);
    heap.max_bitwidth = 0;
    heap.min_bitwidth = 40;
    assert_eq!(bytes(heap), 0);
    heap.min_bitwidth = u32::MAX;
    assert_eq!(bytes(heap), 0);
    heap.node = 1;
    assert_eq!(bytes(heap), 0);
}

#[test]
fn domains_are_listed_from_a_number_on() {
    let world = World::new();
    let mut list = SysctlGetdomaininfolist::new_zeroed();
    list.max_domains = 1024;
    list.buffer = LIST;
    let (done, got) = sysctl(&world.dom0, XEN_SYSCTL_GETDOMAININFOLIST, list);
    assert_eq!((done, got.num_domains), (0, 3));
    let size = size_of::<DomctlGetdomaininfo>() as u64;
    for n in 0..3 {
        let here: DomctlGetdomaininfo = world.dom0.get(LIST + n * size);
        assert_eq!(here, info(&world.dom0, n as u16).1);
    }
    list.first_domain = 1;
    list.max_domains = 1;
    let (_, got) = sysctl(&world.dom0, XEN_SYSCTL_GETDOMAININFOLIST, list);
    assert_eq!(got.num_domains, 1);
    assert_eq!(world.dom0.get::<DomctlGetdomaininfo>(LIST).domain, 1);
    list.first_domain = SELF;
    let (done, got) = sysctl(&world.dom0, XEN_SYSCTL_GETDOMAININFOLIST, list);
    assert_eq!((done, got.num_domains), (0, 0));
    list.first_domain = 0;
    list.buffer = NOWHERE;
    assert_eq!(
        sysctl(&world.dom0, XEN_SYSCTL_GETDOMAININFOLIST, list).0,
        EFAULT
    );
}

#[test]
fn the_log_is_read_on_and_forgotten() {
    let world = World::new();
    let text: Vec<u8> = (0..1000).map(|n| b'a' + (n % 26) as u8).collect();
    world.hv.hal.console.lock().unwrap().extend(&text);
    let mut read = SysctlReadconsole::new_zeroed();
    read.buffer = LIST;
    read.count = 300;
    let (done, got) = sysctl(&world.dom0, XEN_SYSCTL_READCONSOLE, read);
    assert_eq!((done, got.count, got.index), (0, 300, 300));
    assert_eq!(world.dom0.get::<[u8; 300]>(LIST), text[..300]);
    read.incremental = 1;
    read.index = 300;
    read.count = u32::MAX;
    let (_, got) = sysctl(&world.dom0, XEN_SYSCTL_READCONSOLE, read);
    assert_eq!((got.count, got.index), (700, 1000));
    assert_eq!(world.dom0.get::<[u8; 700]>(LIST), text[300..]);
    read.buffer = NOWHERE;
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_READCONSOLE, read).0, EFAULT);
    read.buffer = LIST;
    read.clear = 1;
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_READCONSOLE, read).0, 0);
    assert!(world.hv.hal.console.lock().unwrap().is_empty());
}

#[test]
fn keys_are_pressed_one_after_the_other() {
    let world = World::new();
    world.dom0.put(LIST, b"qdr");
    let keys = SysctlDebugKeys {
        keys: LIST,
        nr_keys: 3,
        _pad: 0,
    };
    let interrupts = &world.hv.hal.interrupt_every;
    interrupts.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_DEBUG_KEYS, keys).0, 0);
    assert_eq!(*world.hv.hal.keys.lock().unwrap(), b"qdr");
    let endless = SysctlDebugKeys {
        keys: NOWHERE - 3,
        nr_keys: u32::MAX,
        _pad: 0,
    };
    assert_eq!(
        sysctl(&world.dom0, XEN_SYSCTL_DEBUG_KEYS, endless).0,
        EFAULT
    );
}

fn affinity(vcpu: u32, flags: u32) -> DomctlVcpuaffinity {
    DomctlVcpuaffinity {
        vcpu,
        flags,
        cpumap_hard: map(8),
        cpumap_soft: XenctlBitmap {
            bitmap: MAP + 64,
            ..map(8)
        },
    }
}

/// Hard and soft affinity as the toolstack sees them.
fn affinities(world: &World, vcpu: u32) -> (u8, u8) {
    let op = affinity(vcpu, XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT);
    assert_eq!(domctl(&world.dom0, XEN_DOMCTL_GETVCPUAFFINITY, 1, op).0, 0);
    (world.dom0.get(MAP), world.dom0.get(MAP + 64))
}

#[test]
fn vcpus_are_pinned() {
    let world = World::new();
    let set = |op| domctl(&world.dom0, XEN_DOMCTL_SETVCPUAFFINITY, 1, op).0;
    let (hard, soft) = (XEN_VCPUAFFINITY_HARD, XEN_VCPUAFFINITY_SOFT);
    assert_eq!(affinities(&world, 0), (3, 3));
    world.dom0.put(MAP, &0xf2u8);
    assert_eq!(set(affinity(1, hard)), 0);
    // What holds is given back, and what was set stays.
    assert_eq!(world.dom0.get::<u8>(MAP), 2);
    assert_eq!(affinities(&world, 1), (2, 3));
    assert_eq!(affinities(&world, 0), (3, 3));
    world.dom0.put(MAP + 64, &1u8);
    assert_eq!(set(affinity(1, soft)), 0);
    assert_eq!(world.dom0.get::<u8>(MAP + 64), 0, "none of both");
    assert_eq!(affinities(&world, 1), (2, 1));
    // All that there are: those to come, too.
    world.dom0.put(MAP, &3u8);
    assert_eq!(set(affinity(1, hard)), 0);
    let held = *world.dom1.domain.vcpus[1].affinity.lock();
    assert_eq!(held.hard, crate::sched::CpuSet::ALL);

    world.dom0.put(MAP, &0xfcu8);
    assert_eq!(set(affinity(1, hard)), EINVAL, "no such CPUs");
    assert_eq!(set(affinity(2, hard)), EINVAL, "no such vCPU");
    assert_eq!(set(affinity(u32::MAX, hard)), EINVAL);
    assert_eq!(set(affinity(1, 0)), EINVAL);
    let mut op = affinity(1, hard);
    op.cpumap_hard.bitmap = NOWHERE;
    assert_eq!(set(op), EFAULT);
    op.cpumap_hard.bitmap = 0;
    assert_eq!(set(op), EINVAL);
    op = affinity(1, hard);
    op.cpumap_hard.nr_bits = u32::MAX;
    world.dom0.put(MAP, &[0xffu8; 32]);
    assert_eq!(set(op), EINVAL, "absurd");
    assert_eq!(affinities(&world, 1), (3, 1));
    assert_eq!(
        domctl(
            &world.dom1,
            XEN_DOMCTL_SETVCPUAFFINITY,
            1,
            affinity(1, hard)
        )
        .0,
        EPERM
    );
}

#[test]
fn bitmaps_are_zeroed_to_their_end() {
    let world = World::new();
    world.dom0.put(MAP, &[0xffu8; 40]);
    let mut op = affinity(0, XEN_VCPUAFFINITY_HARD);
    op.cpumap_hard.nr_bits = 300;
    assert_eq!(domctl(&world.dom0, XEN_DOMCTL_GETVCPUAFFINITY, 1, op).0, 0);
    let mut expected = [0; 40];
    expected[0] = 3;
    expected[38..].fill(0xff);
    assert_eq!(world.dom0.get::<[u8; 40]>(MAP), expected);
    op.cpumap_hard.nr_bits = 1;
    assert_eq!(domctl(&world.dom0, XEN_DOMCTL_GETVCPUAFFINITY, 1, op).0, 0);
    assert_eq!(world.dom0.get::<u8>(MAP), 1);
}

#[test]
fn there_is_one_node() {
    let world = World::new();
    let op = DomctlNodeaffinity { nodemap: map(64) };
    assert_eq!(domctl(&world.dom0, XEN_DOMCTL_GETNODEAFFINITY, 1, op).0, 0);
    assert_eq!(world.dom0.get::<u64>(MAP), 1);
    assert_eq!(domctl(&world.dom0, XEN_DOMCTL_SETNODEAFFINITY, 1, op).0, 0);
    world.dom0.put(MAP, &2u64);
    assert_eq!(
        domctl(&world.dom0, XEN_DOMCTL_SETNODEAFFINITY, 1, op).0,
        EINVAL
    );
}

#[test]
fn vcpus_tell_of_themselves() {
    let world = World::new();
    let get = |vcpu| {
        let mut op = DomctlGetvcpuinfo::new_zeroed();
        op.vcpu = vcpu;
        let (done, _, info) = domctl(&world.dom0, XEN_DOMCTL_GETVCPUINFO, 1, op);
        (done, info.online, info.blocked, info.running)
    };
    assert_eq!(get(0), (0, 1, 0, 0));
    assert_eq!(get(1), (0, 0, 0, 0));
    assert_eq!(get(2).0, EINVAL);
}

#[test]
fn shares_and_parameters() {
    let world = World::new();
    let op = |cmd, weight, cap| DomctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT,
        cmd,
        weight,
        cap,
        _pad: [0; 3],
    };
    let call = |op| domctl(&world.dom0, XEN_DOMCTL_SCHEDULER_OP, 1, op);
    let get = || {
        let (done, _, got) = call(op(XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0));
        assert_eq!(done, 0);
        (got.weight, got.cap)
    };
    assert_eq!(get(), (256, 0));
    assert_eq!(call(op(XEN_DOMCTL_SCHEDOP_PUTINFO, 512, u16::MAX)).0, 0);
    assert_eq!(get(), (512, 0));
    assert_eq!(call(op(XEN_DOMCTL_SCHEDOP_PUTINFO, 0, 50)).0, 0);
    assert_eq!(get(), (512, 50));
    assert_eq!(call(op(2, 0, 0)).0, EINVAL);
    let mut other = op(XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0);
    other.sched_id = XEN_SCHEDULER_CREDIT2;
    assert_eq!(call(other).0, EINVAL);

    let mut global = SysctlSchedulerOp::new_zeroed();
    global.sched_id = XEN_SCHEDULER_CREDIT;
    global.cmd = XEN_SYSCTL_SCHEDOP_GETINFO;
    let (done, got) = sysctl(&world.dom0, XEN_SYSCTL_SCHEDULER_OP, global);
    assert_eq!((done, got.u.tslice_ms, got.u.ratelimit_us), (0, 30, 1000));
    global.cmd = XEN_SYSCTL_SCHEDOP_PUTINFO;
    global.u.tslice_ms = 20;
    global.u.ratelimit_us = 500;
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_SCHEDULER_OP, global).0, 0);
    global.u.tslice_ms = 5000;
    assert_eq!(
        sysctl(&world.dom0, XEN_SYSCTL_SCHEDULER_OP, global).0,
        EINVAL
    );
    global.cmd = XEN_SYSCTL_SCHEDOP_GETINFO;
    let (_, got) = sysctl(&world.dom0, XEN_SYSCTL_SCHEDULER_OP, global);
    assert_eq!((got.u.tslice_ms, got.u.ratelimit_us), (20, 500));
    global.cpupool_id = 1;
    assert_eq!(
        sysctl(&world.dom0, XEN_SYSCTL_SCHEDULER_OP, global).0,
        ESRCH
    );
}

fn pool(op: u32, id: u32) -> SysctlCpupoolOp {
    let mut pool = SysctlCpupoolOp::new_zeroed();
    pool.op = op;
    pool.cpupool_id = id;
    pool.cpumap = map(8);
    pool
}

#[test]
fn pools_take_cpus_and_domains() {
    let world = World::new();
    let call = |op| sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, op);
    // (policy, domains, CPUs) of a pool.
    let tell = |id| {
        let (done, got) = call(pool(XEN_SYSCTL_CPUPOOL_OP_INFO, id));
        assert_eq!((done, got.cpupool_id), (0, id));
        (got.sched_id, got.n_dom, world.dom0.get::<u8>(MAP))
    };
    let cpu = |op, id, cpu| {
        let mut op = pool(op, id);
        op.cpu = cpu;
        call(op).0
    };
    let migrate = |domain: u32, to| {
        let mut op = pool(XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, to);
        op.domid = domain;
        call(op).0
    };
    let (add, remove) = (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, XEN_SYSCTL_CPUPOOL_OP_RMCPU);
    assert_eq!(tell(0), (XEN_SCHEDULER_CREDIT, 3, 3));
    assert_eq!(call(pool(XEN_SYSCTL_CPUPOOL_OP_INFO, 1)).0, ENOENT);

    let mut create = pool(XEN_SYSCTL_CPUPOOL_OP_CREATE, u32::MAX);
    create.sched_id = XEN_SCHEDULER_CREDIT2;
    let (done, made) = call(create);
    assert_eq!((done, made.cpupool_id), (0, 1));
    create.cpupool_id = 1;
    assert_eq!(call(create).0, EEXIST);
    create.cpupool_id = 7;
    create.sched_id = 8;
    assert_eq!(call(create).0, ENOENT);
    // The next one is found from a number on.
    assert_eq!(call(pool(XEN_SYSCTL_CPUPOOL_OP_INFO, 1)).1.cpupool_id, 1);
    assert_eq!(tell(1), (XEN_SCHEDULER_CREDIT2, 0, 0));

    assert_eq!(migrate(1, 1), EBUSY, "no CPUs");
    assert_eq!(cpu(add, 1, 1), EBUSY, "in use");
    assert_eq!(cpu(add, 1, u32::MAX), EINVAL, "none is free");
    assert_eq!(cpu(remove, 9, 1), ENOENT);
    assert_eq!(cpu(remove, 0, 77), EINVAL);
    assert_eq!(cpu(remove, 0, 1), 0);
    assert_eq!(cpu(remove, 0, 1), EINVAL);
    assert_eq!(cpu(remove, 0, 0), EBUSY, "the last");
    assert_eq!(call(pool(XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0)).0, 0);
    assert_eq!(world.dom0.get::<u8>(MAP), 2);
    assert_eq!(cpu(add, 9, 1), ENOENT);
    assert_eq!(cpu(add, 1, u32::MAX), 0);
    assert_eq!(tell(1), (XEN_SCHEDULER_CREDIT2, 0, 2));

    assert_eq!(migrate(0, 1), EPERM, "oneself");
    assert_eq!(migrate(u32::from(NO_DOMAIN), 1), ESRCH);
    assert_eq!(migrate(0x1_0001, 1), ESRCH);
    assert_eq!(migrate(1, 9), ENOENT);
    assert_eq!(migrate(1, 1), 0);
    assert_eq!(migrate(1, 1), 0);
    assert_eq!((tell(0).1, tell(1).1), (2, 1));
    assert_eq!(info(&world.dom0, 1).1.cpupool, 1);
    // It runs there, and only there.
    let unit = world.dom1.domain.vcpus[0].unit();
    let scheduler = &world.hv.scheduler;
    let (first, second) = (crate::addr::CpuId::new(0), crate::addr::CpuId::new(1));
    assert_eq!(scheduler.schedule(second).unit, unit);
    assert_ne!(scheduler.schedule(first).unit, unit);
    // A CPU of the pool, or none.
    world.dom0.put(MAP, &1u8);
    let op = affinity(0, XEN_VCPUAFFINITY_HARD);
    assert_eq!(
        domctl(&world.dom0, XEN_DOMCTL_SETVCPUAFFINITY, 1, op).0,
        EINVAL
    );
    assert_eq!(call(pool(XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1)).0, EBUSY);
    assert_eq!(cpu(remove, 1, 1), EBUSY, "its last");

    assert_eq!(migrate(1, 0), 0);
    assert_eq!(scheduler.schedule(second).unit, None);
    assert_eq!(
        call(pool(XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1)).0,
        EBUSY,
        "a CPU"
    );
    assert_eq!(cpu(remove, 1, 1), 0);
    assert_eq!(scheduler.schedule(second).unit, None, "in no pool");
    assert_eq!(call(pool(XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1)).0, 0);
    assert_eq!(call(pool(XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1)).0, ENOENT);
    assert_eq!(cpu(add, 0, 1), 0);
    assert_eq!(tell(0), (XEN_SCHEDULER_CREDIT, 3, 3));
    assert_eq!(call(pool(0, 0)).0, ENOSYS);
    assert_eq!(call(pool(8, 0)).0, ENOSYS);
}

#[test]
fn a_domain_that_leaves_a_null_pool_gives_its_cpu_to_the_next() {
    let world = World::new();
    let call = |op| sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, op).0;
    let mut create = pool(XEN_SYSCTL_CPUPOOL_OP_CREATE, 1);
    create.sched_id = XEN_SCHEDULER_NULL;
    assert_eq!(call(create), 0);
    let mut op = pool(XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0);
    op.cpu = 1;
    assert_eq!(call(op), 0);
    op.op = XEN_SYSCTL_CPUPOOL_OP_ADDCPU;
    op.cpupool_id = 1;
    assert_eq!(call(op), 0);
    let migrate = |domain: u32, to| {
        let mut op = pool(XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, to);
        op.domid = domain;
        call(op)
    };
    assert_eq!((migrate(1, 1), migrate(2, 1)), (0, 0));
    let scheduler = &world.hv.scheduler;
    let second = crate::addr::CpuId::new(1);
    let unit = |domain: &crate::fakes::Guest| domain.domain.vcpus[0].unit();
    assert_eq!(scheduler.schedule(second).unit, unit(&world.dom1));
    // The pCPU hears of the pause and schedules before the unit is taken away.
    world.dom1.domain.pause();
    assert_eq!(scheduler.schedule(second).unit, None);
    *world.cpus.rescheduled.lock().unwrap() = crate::sched::CpuSet::EMPTY;
    assert_eq!(migrate(1, 0), 0);
    assert!(world.cpus.rescheduled.lock().unwrap().contains(second));
    assert_eq!(scheduler.schedule(second).unit, unit(&world.dom2));
    // And so does one whose vCPU is turned off.
    assert_eq!(migrate(1, 1), 0);
    world.dom1.domain.unpause();
    assert_eq!(scheduler.schedule(second).unit, unit(&world.dom2));
    let vcpu = &world.dom2.domain.vcpus[0];
    vcpu.is_offline
        .store(true, core::sync::atomic::Ordering::SeqCst);
    scheduler.settle(vcpu);
    assert_eq!(scheduler.schedule(second).unit, unit(&world.dom1));
}

#[test]
fn many_pools_end_at_a_limit() {
    let world = World::new();
    let mut create = pool(XEN_SYSCTL_CPUPOOL_OP_CREATE, u32::MAX);
    create.sched_id = XEN_SCHEDULER_NULL;
    for n in 1..64 {
        let (done, made) = sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, create);
        assert_eq!((done, made.cpupool_id), (0, n));
    }
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, create).0, ENOMEM);
    let end = pool(XEN_SYSCTL_CPUPOOL_OP_DESTROY, 30);
    assert_eq!(sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, end).0, 0);
    let (done, made) = sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, create);
    assert_eq!((done, made.cpupool_id), (0, 30));
}

#[test]
fn a_domain_is_moved_wholly_or_not_at_all() {
    for allocations in 0..40 {
        let world = World::new();
        let call = |op| sysctl(&world.dom0, XEN_SYSCTL_CPUPOOL_OP, op);
        let mut create = pool(XEN_SYSCTL_CPUPOOL_OP_CREATE, 1);
        create.sched_id = XEN_SCHEDULER_CREDIT2;
        assert_eq!(call(create).0, 0);
        let mut op = pool(XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0);
        op.cpu = 1;
        assert_eq!(call(op).0, 0);
        op.op = XEN_SYSCTL_CPUPOOL_OP_ADDCPU;
        op.cpupool_id = 1;
        assert_eq!(call(op).0, 0);
        let mut poor = world.dom0.clone();
        poor.allocations = allocations;
        let mut op = pool(XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 1);
        op.domid = 1;
        let (done, _) = sysctl(&poor, XEN_SYSCTL_CPUPOOL_OP, op);
        let here = info(&world.dom0, 1).1.cpupool;
        let second = world.hv.scheduler.schedule(crate::addr::CpuId::new(1)).unit;
        let unit = world.dom1.domain.vcpus[0].unit();
        if done == 0 {
            assert_eq!((here, second), (1, unit));
            assert!(allocations > 0);
            return;
        }
        assert_eq!((done, here, second), (ENOMEM, 0, None));
        assert!(world.dom1.domain.vcpus[0].is_runnable());
        assert_eq!(simple(&world.dom0, XEN_DOMCTL_PAUSEDOMAIN, 1), 0);
    }
    panic!("never moved");
}

#[test]
fn a_clock_is_set_apart() {
    let world = World::new();
    let seconds = || {
        world
            .dom1
            .shared_info(xen_abi::shared_info::SHARED_INFO_WC_SEC)
    };
    let before = seconds();
    let op = DomctlSettimeoffset {
        time_offset_seconds: -5,
    };
    assert_eq!(domctl(&world.dom0, XEN_DOMCTL_SETTIMEOFFSET, 1, op).0, 0);
    assert_eq!(seconds(), before.wrapping_sub(5));
}
