//! What a toolstack calls: domctl, sysctl, hypfs.

use xen_abi::control::*;
use xen_abi::hypercall::*;
use xenith_core::fakes::{ARG, LIST, RAM};
use zerocopy::{FromZeros, IntoBytes};

use crate::hypercalls::DEVICE;
use crate::input::Input;
use crate::operations::{Call, any, count, domain, frame, list_at, other_domain, vcpu, with};

/// Makes the structure that belongs to a command, and puts both into an operation.
macro_rules! set_part {
    ($op:ident, $command:expr, $($rest:tt)*) => {{
        $op.cmd = $command;
        let value = made!($($rest)*);
        $op.u[..value.as_bytes().len()].copy_from_slice(value.as_bytes());
    }};
}

/// A set of CPUs or nodes in the guest's memory.
fn bitmap(input: &mut Input<'_>) -> XenctlBitmap {
    XenctlBitmap {
        bitmap: list_at(input),
        nr_bits: match input.byte() {
            byte @ 0..=229 => u32::from(byte) % 130,
            _ => input.number(),
        },
        _pad: 0,
    }
}

/// Contents of sets: a few CPUs, some or all of which there are.
fn sets(input: &mut Input<'_>) -> Vec<u64> {
    (0..4)
        .map(|_| input.pick(&[1, 2, 3, 3, 0, 4, u64::MAX]))
        .collect()
}

fn cpu(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=199 => u32::from(byte) % 3,
        200..=229 => u32::MAX,
        _ => input.number(),
    }
}

fn pool(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=209 => u32::from(byte) % 3,
        210..=229 => u32::MAX,
        _ => input.number(),
    }
}

fn scheduler(input: &mut Input<'_>) -> u32 {
    input.pick(&[
        XEN_SCHEDULER_CREDIT2,
        XEN_SCHEDULER_CREDIT,
        XEN_SCHEDULER_NULL,
        XEN_SCHEDULER_CREDIT2,
        0,
        7,
    ])
}

/// Machine frames of a device, at and around those that dom0 has.
fn device(input: &mut Input<'_>) -> (u64, u64) {
    match input.byte() {
        byte @ 0..=199 => (
            u64::from(DEVICE) + u64::from(byte) % 6,
            1 + u64::from(input.below(4)),
        ),
        200..=229 => (frame(input), 1),
        _ => (any(input), any(input)),
    }
}

fn interrupt(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=229 => 33 + u32::from(byte) % 4,
        _ => input.number(),
    }
}

fn yes(input: &mut Input<'_>) -> u8 {
    u8::from(input.byte() < 180)
}

/// domctl.
pub fn domain_control(input: &mut Input<'_>) -> Call {
    let mut op = Domctl::new_zeroed();
    op.interface_version = if input.byte() < 248 {
        XEN_DOMCTL_INTERFACE_VERSION
    } else {
        XEN_DOMCTL_INTERFACE_VERSION_4_20
    };
    op.domain = other_domain(input);
    let mut list = Vec::new();
    match input.below(34) {
        0..=2 => {
            if input.flag() {
                op.domain = 0;
            }
            set_part!(
                op,
                XEN_DOMCTL_CREATEDOMAIN,
                DomctlCreatedomain {
                    flags: match input.byte() {
                        0..=199 => XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
                        200..=239 => XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP | XEN_DOMCTL_CDF_VPMU,
                        _ => input.number(),
                    },
                    max_vcpus: 1 + input.below(3),
                    max_evtchn_port: if input.flag() { 1023 } else { input.number() },
                    max_grant_frames: if input.byte() < 240 {
                        4
                    } else {
                        input.number() as i32
                    },
                    max_maptrack_frames: if input.byte() < 240 {
                        2
                    } else {
                        input.number() as i32
                    },
                    grant_opts: if input.byte() < 240 {
                        1 + input.below(2)
                    } else {
                        input.number()
                    },
                    cpupool_id: if input.byte() < 200 { 0 } else { pool(input) },
                }
            );
        }
        3 | 4 => op.cmd = XEN_DOMCTL_DESTROYDOMAIN,
        5 => op.cmd = XEN_DOMCTL_PAUSEDOMAIN,
        6 => op.cmd = XEN_DOMCTL_UNPAUSEDOMAIN,
        7 => op.cmd = XEN_DOMCTL_GETDOMAININFO,
        8 => set_part!(
            op,
            XEN_DOMCTL_MAX_MEM,
            DomctlMaxMem {
                max_memkb: if input.flag() {
                    4 * u64::from(input.byte())
                } else {
                    any(input)
                },
            }
        ),
        9 => set_part!(
            op,
            XEN_DOMCTL_SETVCPUCONTEXT,
            DomctlVcpucontext {
                vcpu: vcpu(input),
                ctxt: if input.flag() { 0 } else { list_at(input) },
            }
        ),
        10 => set_part!(
            op,
            XEN_DOMCTL_GETVCPUCONTEXT,
            DomctlVcpucontext {
                vcpu: vcpu(input),
                ctxt: list_at(input)
            }
        ),
        11 => set_part!(
            op,
            XEN_DOMCTL_CACHEFLUSH,
            DomctlCacheflush {
                start_pfn: frame(input),
                nr_pfns: input.number().into()
            }
        ),
        12 | 13 => set_part!(
            op,
            XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
            DomctlPagingMempool {
                size: if input.byte() < 200 {
                    u64::from(input.byte()) << 12
                } else {
                    any(input)
                },
            }
        ),
        14 => op.cmd = XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE,
        15 => set_part!(
            op,
            XEN_DOMCTL_MAX_VCPUS,
            DomctlMaxVcpus { max: vcpu(input) }
        ),
        16 => set_part!(
            op,
            XEN_DOMCTL_SETDOMAINHANDLE,
            DomctlSetdomainhandle {
                handle: [input.byte(); 16]
            }
        ),
        17 => set_part!(
            op,
            XEN_DOMCTL_SETDEBUGGING,
            DomctlSetdebugging {
                enable: input.byte() & 1
            }
        ),
        18 => set_part!(
            op,
            XEN_DOMCTL_SET_VIRQ_HANDLER,
            DomctlSetVirqHandler {
                virq: input.number()
            }
        ),
        19 => set_part!(
            op,
            XEN_DOMCTL_SET_ADDRESS_SIZE,
            DomctlAddressSize {
                size: input.pick(&[32, 64, 0])
            }
        ),
        20 => op.cmd = XEN_DOMCTL_RESUMEDOMAIN,
        21 | 22 => {
            let command = if input.below(3) == 0 {
                XEN_DOMCTL_GETVCPUAFFINITY
            } else {
                XEN_DOMCTL_SETVCPUAFFINITY
            };
            set_part!(
                op,
                command,
                DomctlVcpuaffinity {
                    vcpu: vcpu(input),
                    flags: input.below(9),
                    cpumap_hard: bitmap(input),
                    cpumap_soft: bitmap(input),
                }
            );
            list = sets(input);
        }
        23 => {
            let command = input.pick(&[XEN_DOMCTL_SETNODEAFFINITY, XEN_DOMCTL_GETNODEAFFINITY]);
            set_part!(
                op,
                command,
                DomctlNodeaffinity {
                    nodemap: bitmap(input)
                }
            );
            list = sets(input);
        }
        24 => set_part!(
            op,
            XEN_DOMCTL_GETVCPUINFO,
            DomctlGetvcpuinfo { vcpu: vcpu(input) }
        ),
        25 => set_part!(
            op,
            XEN_DOMCTL_SCHEDULER_OP,
            DomctlSchedulerOp {
                sched_id: scheduler(input),
                cmd: input.below(3),
                weight: input.number() as u16,
                cap: input.number() as u16,
            }
        ),
        26 => set_part!(
            op,
            XEN_DOMCTL_SETTIMEOFFSET,
            DomctlSettimeoffset {
                time_offset_seconds: any(input) as i64
            }
        ),
        27 => {
            let (first, frames) = device(input);
            set_part!(
                op,
                XEN_DOMCTL_IOMEM_PERMISSION,
                DomctlIomemPermission {
                    first_mfn: first,
                    nr_mfns: frames,
                    allow_access: yes(input),
                }
            );
        }
        28 => set_part!(
            op,
            XEN_DOMCTL_IRQ_PERMISSION,
            DomctlIrqPermission {
                pirq: interrupt(input),
                allow_access: yes(input),
            }
        ),
        29 | 30 => {
            let (first, frames) = device(input);
            set_part!(
                op,
                XEN_DOMCTL_MEMORY_MAPPING,
                DomctlMemoryMapping {
                    first_gfn: frame(input),
                    first_mfn: first,
                    nr_mfns: frames,
                    add_mapping: u32::from(yes(input)),
                }
            );
        }
        31 => {
            let command = input.pick(&[XEN_DOMCTL_BIND_PT_IRQ, XEN_DOMCTL_UNBIND_PT_IRQ]);
            let irq = interrupt(input);
            set_part!(
                op,
                command,
                DomctlBindPtIrq {
                    machine_irq: irq,
                    irq_type: if input.byte() < 240 {
                        PT_IRQ_TYPE_SPI
                    } else {
                        input.number()
                    },
                    spi: if input.byte() < 240 {
                        irq as u16
                    } else {
                        input.half()
                    },
                }
            );
        }
        32 => set_part!(
            op,
            XEN_DOMCTL_VUART_OP,
            DomctlVuartOp {
                cmd: input.below(8) / 7,
                kind: input.below(8) / 7,
                gfn: frame(input),
                console_domid: domain(input),
            }
        ),
        _ => set_part!(
            op,
            input.below(90),
            DomctlVcpucontext {
                vcpu: input.number(),
                ctxt: any(input)
            }
        ),
    }
    let mut call = with(HYPERVISOR_DOMCTL, 0, &op);
    call.args[0] = ARG;
    call.list = list;
    call
}

/// sysctl and hypfs.
pub fn system_control(input: &mut Input<'_>) -> Call {
    let mut op = Sysctl::new_zeroed();
    op.interface_version = XEN_SYSCTL_INTERFACE_VERSION - u32::from(input.byte() == 255);
    let mut list = Vec::new();
    match input.below(18) {
        0 => set_part!(
            op,
            XEN_SYSCTL_READCONSOLE,
            SysctlReadconsole {
                clear: input.byte() & 1,
                incremental: input.byte() & 1,
                index: input.number(),
                buffer: list_at(input),
                count: input.number(),
            }
        ),
        1 => set_part!(op, XEN_SYSCTL_PHYSINFO, SysctlPhysinfo {}),
        2 => op.cmd = XEN_SYSCTL_SCHED_ID,
        3 => set_part!(
            op,
            XEN_SYSCTL_GETDOMAININFOLIST,
            SysctlGetdomaininfolist {
                first_domain: domain(input),
                max_domains: count(input),
                buffer: list_at(input),
            }
        ),
        4 => set_part!(
            op,
            XEN_SYSCTL_DEBUG_KEYS,
            SysctlDebugKeys {
                keys: list_at(input),
                nr_keys: count(input),
            }
        ),
        5 => set_part!(
            op,
            XEN_SYSCTL_GETCPUINFO,
            SysctlGetcpuinfo {
                max_cpus: count(input),
                info: list_at(input),
            }
        ),
        6 => set_part!(
            op,
            XEN_SYSCTL_AVAILHEAP,
            SysctlAvailheap {
                min_bitwidth: input.number(),
                max_bitwidth: input.number(),
                node: input.number() as i32,
            }
        ),
        7 => set_part!(
            op,
            XEN_SYSCTL_CPUTOPOINFO,
            SysctlCputopoinfo {
                num_cpus: count(input),
                cputopo: list_at(input),
            }
        ),
        8 => set_part!(
            op,
            XEN_SYSCTL_NUMAINFO,
            SysctlNumainfo {
                num_nodes: count(input),
                meminfo: list_at(input),
                distance: list_at(input),
            }
        ),
        9..=13 => {
            set_part!(
                op,
                XEN_SYSCTL_CPUPOOL_OP,
                SysctlCpupoolOp {
                    op: input.pick(&[1, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8]),
                    cpupool_id: pool(input),
                    sched_id: scheduler(input),
                    domid: other_domain(input).into(),
                    cpu: cpu(input),
                    cpumap: bitmap(input),
                }
            );
        }
        14 => set_part!(
            op,
            XEN_SYSCTL_SCHEDULER_OP,
            SysctlSchedulerOp {
                cpupool_id: pool(input),
                sched_id: scheduler(input),
                cmd: input.below(3),
                u: made!(SysctlCreditSchedule {
                    tslice_ms: input.number(),
                    ratelimit_us: input.number(),
                    vcpu_migr_delay_us: input.number(),
                }),
            }
        ),
        15 | 16 => return files(input),
        _ => set_part!(
            op,
            input.below(32),
            SysctlCpuinfo {
                idletime: any(input)
            }
        ),
    }
    list.extend(sets(input));
    let mut call = with(HYPERVISOR_SYSCTL, 0, &op);
    call.args[0] = ARG;
    call.list = list;
    call
}

/// hypfs: a path and a buffer.
fn files(input: &mut Input<'_>) -> Call {
    let paths: [&[u8]; 8] = [
        b"/\0",
        b"/params\0",
        b"/params/gnttab_max_frames\0",
        b"/params/gnttab_max_maptrack_frames\0",
        b"/buildinfo/version/major\0",
        b"/buildinfo/compiler\0",
        b"/no\0",
        b"//",
    ];
    let path = input.pick(&paths);
    let length = if input.byte() < 230 {
        path.len() as u64
    } else {
        any(input)
    };
    let size = match input.byte() {
        byte @ 0..=229 => u64::from(byte),
        _ => any(input),
    };
    let digits = u64::from(b'0' + input.byte() % 12);
    Call {
        number: HYPERVISOR_HYPFS_OP,
        args: [u64::from(input.below(4)), ARG, length, list_at(input), size],
        structure: path.to_vec(),
        list: vec![digits, u64::from(RAM), LIST, 0],
    }
}
