//! Each hypercall with a structure that means something: fields are drawn from the few values that make calls meet.

use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::*;
use xen_abi::memory::*;
use xen_abi::platform::{PlatformOp, XENPF_INTERFACE_VERSION, XENPF_SETTIME64, XenpfSettime64};
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use xenith_core::fakes::{ARG, LIST, NOWHERE, RAM, page};
use zerocopy::{FromZeros, IntoBytes};

use crate::input::Input;
use crate::toolstack;

/// A call.
pub struct Call {
    pub number: u32,
    pub args: [u64; 5],
    /// What lies at [`ARG`].
    pub structure: Vec<u8>,
    /// What lies at [`LIST`].
    pub list: Vec<u64>,
}

/// A domain's number.
pub fn domain(input: &mut Input<'_>) -> u16 {
    match input.byte() {
        byte @ 0..=149 => u16::from(byte) % 3,
        150..=229 => DOMID_SELF,
        230..=249 => DOMID_SELF + input.below(8) as u16,
        250..=252 => 77,
        _ => input.half(),
    }
}

/// A domain's number, mostly another's than dom0's: as a toolstack gives it.
pub fn other_domain(input: &mut Input<'_>) -> u16 {
    match input.byte() {
        byte @ 0..=219 => 1 + u16::from(byte) % 5,
        _ => domain(input),
    }
}

pub fn port(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=239 => u32::from(byte) % 16,
        240..=247 => (1024 * input.below(5))
            .wrapping_add(input.below(2))
            .wrapping_sub(1),
        _ => input.number(),
    }
}

/// A grant reference.
pub fn reference(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=229 => u32::from(byte) % 12,
        230..=247 => (512 * input.below(5))
            .wrapping_add(input.below(2))
            .wrapping_sub(1),
        _ => input.number(),
    }
}

fn handle(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=239 => u32::from(byte) % 10,
        _ => input.number(),
    }
}

/// A frame of a guest.
pub fn frame(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        byte @ 0..=139 => u64::from(RAM) + u64::from(byte) % 20,
        byte @ 140..=199 => 0x9_0000 + u64::from(byte) % 12,
        // Another's machine frames, and beyond its own.
        200..=219 => u64::from(RAM) + u64::from(input.half() % 270),
        220..=229 => (1 << 28) - 1 + u64::from(input.below(3)),
        230..=239 => u64::from(u32::MAX) - 1 + u64::from(input.below(3)),
        _ => input.double(),
    }
}

pub fn vcpu(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=239 => u32::from(byte) % 3,
        _ => input.number(),
    }
}

/// An address of the guest's for a list.
pub fn list_at(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        0..=219 => LIST,
        220..=229 => page(11) - 8,
        230..=239 => NOWHERE,
        240..=247 => page(input.below(20)) + u64::from(input.below(128)) * 32,
        _ => input.double(),
    }
}

/// Anything.
pub fn any(input: &mut Input<'_>) -> u64 {
    match input.below(8) {
        0 => u64::from(input.number()),
        1 => u64::from(domain(input)),
        2 => frame(input),
        3 => u64::from(port(input)),
        4 => ARG,
        5 => list_at(input),
        6 => u64::from(input.byte()),
        _ => input.double(),
    }
}

pub fn count(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..=239 => u32::from(byte) % 5,
        _ => input.number(),
    }
}

fn order(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        0..=199 => 0,
        byte @ 200..=239 => u32::from(byte) % 11,
        _ => input.number(),
    }
}

/// A call with a structure.
pub fn with(number: u32, command: u32, structure: &(impl IntoBytes + zerocopy::Immutable)) -> Call {
    Call {
        number,
        args: [u64::from(command), ARG, 1, 0, 0],
        structure: structure.as_bytes().to_vec(),
        list: Vec::new(),
    }
}

/// Decodes a call.
pub fn decode(input: &mut Input<'_>) -> Call {
    let mut call = match input.byte() {
        0..=74 => event(input),
        75..=144 => grant(input),
        145..=204 => memory(input),
        205..=214 => sched(input),
        215..=226 => of_vcpu(input),
        227..=238 => toolstack::domain_control(input),
        239..=245 => toolstack::system_control(input),
        _ => other(input),
    };
    if input.byte() >= 252 {
        // One word is not as it should be.
        let index = input.below(16) as usize * 4;
        let value = (any(input) as u32).to_le_bytes();
        if let Some(word) = call.structure.get_mut(index..index + 4) {
            word.copy_from_slice(&value);
        }
    }
    call
}

fn event(input: &mut Input<'_>) -> Call {
    macro_rules! op {
        ($command:expr, $($rest:tt)*) => {
            with(HYPERVISOR_EVENT_CHANNEL_OP, $command, &made!($($rest)*))
        };
    }
    match input.below(15) {
        0 | 1 => op!(
            EVTCHNOP_ALLOC_UNBOUND,
            EvtchnAllocUnbound {
                dom: domain(input),
                remote_dom: domain(input)
            }
        ),
        2 | 3 => op!(
            EVTCHNOP_BIND_INTERDOMAIN,
            EvtchnBindInterdomain {
                remote_dom: domain(input),
                remote_port: port(input)
            }
        ),
        4 => op!(
            EVTCHNOP_BIND_VIRQ,
            EvtchnBindVirq {
                virq: input.number(),
                vcpu: vcpu(input)
            }
        ),
        5 => op!(EVTCHNOP_BIND_IPI, EvtchnBindIpi { vcpu: vcpu(input) }),
        6 | 7 => op!(EVTCHNOP_CLOSE, EvtchnClose { port: port(input) }),
        8 => op!(EVTCHNOP_SEND, EvtchnSend { port: port(input) }),
        9 => op!(
            EVTCHNOP_STATUS,
            EvtchnStatus {
                dom: domain(input),
                port: port(input)
            }
        ),
        10 => op!(
            EVTCHNOP_BIND_VCPU,
            EvtchnBindVcpu {
                port: port(input),
                vcpu: vcpu(input)
            }
        ),
        11 => op!(EVTCHNOP_UNMASK, EvtchnUnmask { port: port(input) }),
        12 => {
            let command = if input.below(4) == 0 {
                EVTCHNOP_RESET_CONT
            } else {
                EVTCHNOP_RESET
            };
            op!(command, EvtchnReset { dom: domain(input) })
        }
        13 => {
            let offset = match input.byte() {
                byte @ 0..=199 => u32::from(byte) % 8 * 512,
                _ => input.number(),
            };
            op!(
                EVTCHNOP_INIT_CONTROL,
                EvtchnInitControl {
                    control_gfn: frame(input),
                    offset: offset,
                    vcpu: vcpu(input)
                }
            )
        }
        _ if input.flag() => op!(
            EVTCHNOP_EXPAND_ARRAY,
            EvtchnExpandArray {
                array_gfn: frame(input)
            }
        ),
        _ => op!(
            EVTCHNOP_SET_PRIORITY,
            EvtchnSetPriority {
                port: port(input),
                priority: input.number()
            }
        ),
    }
}

/// A domain takes version 2 of the grant table.
pub fn second_version() -> Call {
    let op = GnttabSetVersion { version: 2 };
    with(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_SET_VERSION, &op)
}

fn grant(input: &mut Input<'_>) -> Call {
    // Several elements in a row.
    let number = HYPERVISOR_GRANT_TABLE_OP;
    let mut bytes = Vec::new();
    let elements = 1 + input.below(8) / 5;
    let command = input.pick(&[
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_UNMAP_GRANT_REF,
        GNTTABOP_UNMAP_GRANT_REF,
        GNTTABOP_SETUP_TABLE,
        GNTTABOP_TRANSFER,
        GNTTABOP_COPY,
        GNTTABOP_COPY,
        GNTTABOP_QUERY_SIZE,
        GNTTABOP_UNMAP_AND_REPLACE,
        GNTTABOP_SET_VERSION,
        GNTTABOP_GET_STATUS_FRAMES,
        GNTTABOP_GET_VERSION,
        GNTTABOP_SWAP_GRANT_REF,
        GNTTABOP_CACHE_FLUSH,
    ]);
    for _ in 0..elements {
        bytes.extend_from_slice(
            match command {
                GNTTABOP_MAP_GRANT_REF => made!(GnttabMapGrantRef {
                    host_addr: frame(input) << 12,
                    flags: input.pick(&[2, 2, 2, 6, 6, 3, 7, 1, 0, 0x1f]),
                    ref_: reference(input),
                    dom: domain(input),
                })
                .as_bytes()
                .to_vec(),
                GNTTABOP_UNMAP_GRANT_REF => {
                    let host_addr = if input.below(4) == 0 {
                        0
                    } else {
                        frame(input) << 12
                    };
                    made!(GnttabUnmapGrantRef {
                        host_addr: host_addr,
                        handle: handle(input)
                    })
                    .as_bytes()
                    .to_vec()
                }
                GNTTABOP_SETUP_TABLE => made!(GnttabSetupTable {
                    dom: domain(input),
                    nr_frames: count(input),
                    frame_list: list_at(input),
                })
                .as_bytes()
                .to_vec(),
                GNTTABOP_TRANSFER => made!(GnttabTransfer {
                    mfn: frame(input),
                    domid: domain(input),
                    ref_: reference(input),
                })
                .as_bytes()
                .to_vec(),
                GNTTABOP_COPY => {
                    let mut op = GnttabCopy::new_zeroed();
                    op.flags = u16::from(input.byte() & 7);
                    for (end, bit) in [(&mut op.source, 1), (&mut op.dest, 2)] {
                        end.u = if op.flags & bit != 0 {
                            reference(input).into()
                        } else {
                            frame(input)
                        };
                        end.domid = domain(input);
                        end.offset = input.pick(&[0, 8, 4000, 4095, 4096, 0xffff]);
                    }
                    op.len = input.pick(&[0, 1, 8, 96, 97, 4096, 4097, 0xffff]);
                    op.as_bytes().to_vec()
                }
                GNTTABOP_QUERY_SIZE => made!(GnttabQuerySize { dom: domain(input) })
                    .as_bytes()
                    .to_vec(),
                GNTTABOP_UNMAP_AND_REPLACE => made!(GnttabUnmapAndReplace {
                    host_addr: frame(input) << 12,
                    new_addr: frame(input) << 12,
                    handle: handle(input),
                })
                .as_bytes()
                .to_vec(),
                GNTTABOP_SET_VERSION => made!(GnttabSetVersion {
                    version: input.pick(&[2, 2, 2, 1, 1, 0, 3])
                })
                .as_bytes()
                .to_vec(),
                GNTTABOP_GET_STATUS_FRAMES => made!(GnttabGetStatusFrames {
                    nr_frames: count(input),
                    dom: domain(input),
                    frame_list: list_at(input),
                })
                .as_bytes()
                .to_vec(),
                GNTTABOP_GET_VERSION => made!(GnttabGetVersion { dom: domain(input) })
                    .as_bytes()
                    .to_vec(),
                GNTTABOP_SWAP_GRANT_REF => made!(GnttabSwapGrantRef {
                    ref_a: reference(input),
                    ref_b: reference(input),
                })
                .as_bytes()
                .to_vec(),
                _ => made!(GnttabCacheFlush {
                    a: (u64::from(RAM) + u64::from(input.half() % 270)) << 12,
                    offset: input.pick(&[0, 64, 4095]),
                    length: input.pick(&[0, 1, 64, 4096]),
                    op: input.pick(&[1, 2, 3, 0, 0x8000_0001]),
                })
                .as_bytes()
                .to_vec(),
            }
            .as_slice(),
        );
    }
    let count = if input.byte() >= 250 {
        count(input)
    } else {
        elements
    };
    Call {
        number,
        args: [command.into(), ARG, count.into(), 0, 0],
        structure: bytes,
        list: Vec::new(),
    }
}

fn memory(input: &mut Input<'_>) -> Call {
    let number = HYPERVISOR_MEMORY_OP;
    let lists = |mut call: Call, input: &mut Input<'_>| {
        call.list = (0..8).map(|_| frame(input)).collect();
        call
    };
    let mut call = match input.below(14) {
        op @ 0..=4 => {
            let command = [
                XENMEM_POPULATE_PHYSMAP,
                XENMEM_DECREASE_RESERVATION,
                XENMEM_POPULATE_PHYSMAP,
                XENMEM_DECREASE_RESERVATION,
                XENMEM_INCREASE_RESERVATION,
            ][op as usize];
            let op = made!(MemoryReservation {
                extent_start: list_at(input),
                nr_extents: count(input).into(),
                extent_order: order(input),
                mem_flags: if input.below(16) == 0 {
                    input.number()
                } else {
                    0
                },
                domid: domain(input),
            });
            lists(with(number, command, &op), input)
        }
        5 => with(
            number,
            XENMEM_ADD_TO_PHYSMAP,
            &made!(AddToPhysmap {
                domid: domain(input),
                space: input.below(7),
                idx: input.number().into(),
                gpfn: frame(input),
            }),
        ),
        6 | 7 => {
            let op = made!(AddToPhysmapBatch {
                domid: domain(input),
                space: input.pick(&[4, 4, 4, 1, 0, 2, 3, 5]),
                size: count(input) as u16,
                foreign_domid: domain(input),
                idxs: list_at(input),
                gpfns: LIST + 32,
                errs: LIST + 512,
            });
            lists(with(number, XENMEM_ADD_TO_PHYSMAP_BATCH, &op), input)
        }
        8 => with(
            number,
            XENMEM_REMOVE_FROM_PHYSMAP,
            &made!(RemoveFromPhysmap {
                domid: domain(input),
                gpfn: frame(input)
            }),
        ),
        9 => {
            let op = made!(MemAcquireResource {
                domid: other_domain(input),
                type_: input.pick(&[1, 1, 1, 1, 1, 1, 0, 2]),
                id: input.pick(&[0, 0, 0, 1, 1, 2]),
                nr_frames: count(input),
                frame: if input.byte() < 200 {
                    u64::from(input.below(4))
                } else {
                    input.number().into()
                },
                frame_list: if input.byte() < 230 { LIST } else { any(input) },
            });
            lists(with(number, XENMEM_ACQUIRE_RESOURCE, &op), input)
        }
        10 => {
            let mut op = MemoryExchange::new_zeroed();
            for part in [&mut op.in_, &mut op.out] {
                part.extent_start = list_at(input);
                part.nr_extents = count(input).into();
                part.extent_order = order(input);
                part.domid = domain(input);
            }
            op.nr_exchanged = input.number().into();
            lists(with(number, XENMEM_EXCHANGE, &op), input)
        }
        11 => with(
            number,
            XENMEM_CLAIM_PAGES,
            &made!(MemoryReservation {
                domid: other_domain(input),
                nr_extents: match input.byte() {
                    0..=79 => 0,
                    // A few more than it has, mostly.
                    byte @ 80..=229 => 28 + u64::from(byte) % 24,
                    _ => any(input),
                },
                extent_order: u32::from(input.byte() == 255),
            }),
        ),
        12 => {
            // What a toolstack builds a domain with.
            let op = made!(MemoryReservation {
                extent_start: LIST,
                nr_extents: u64::from(1 + input.below(8)),
                domid: other_domain(input),
            });
            lists(with(number, XENMEM_POPULATE_PHYSMAP, &op), input)
        }
        _ => with(
            number,
            input.below(32),
            &made!(MemoryReservation {
                domid: domain(input),
                nr_extents: count(input).into(),
                extent_start: list_at(input),
            }),
        ),
    };
    // The progress of a call that was preempted.
    if input.byte() >= 245 {
        call.args[0] |= u64::from(input.number() << MEMOP_EXTENT_SHIFT);
    }
    call
}

fn sched(input: &mut Input<'_>) -> Call {
    let number = HYPERVISOR_SCHED_OP;
    match input.below(8) {
        0 => with(number, SCHEDOP_YIELD, &0u32),
        1 => with(number, SCHEDOP_BLOCK, &0u32),
        2 => with(
            number,
            SCHEDOP_SHUTDOWN,
            &made!(SchedShutdown {
                reason: input.number()
            }),
        ),
        3 => {
            let mut call = with(
                number,
                SCHEDOP_POLL,
                &made!(SchedPoll {
                    ports: list_at(input),
                    nr_ports: count(input),
                    timeout: input.double() >> input.below(64),
                }),
            );
            call.list = (0..4)
                .map(|_| u64::from(port(input)) | u64::from(port(input)) << 32)
                .collect();
            call
        }
        4 => with(
            number,
            SCHEDOP_REMOTE_SHUTDOWN,
            &made!(SchedRemoteShutdown {
                domain_id: domain(input),
                reason: input.number()
            }),
        ),
        5 => with(
            number,
            SCHEDOP_SHUTDOWN_CODE,
            &made!(SchedShutdown {
                reason: input.number()
            }),
        ),
        6 => with(
            number,
            SCHEDOP_WATCHDOG,
            &made!(SchedWatchdog {
                id: input.number(),
                timeout: input.number()
            }),
        ),
        _ => with(
            number,
            SCHEDOP_PIN_OVERRIDE,
            &made!(SchedPinOverride {
                pcpu: input.number() as i32
            }),
        ),
    }
}

fn of_vcpu(input: &mut Input<'_>) -> Call {
    let (command, who) = (input.below(16), vcpu(input));
    let mut call = if command == VCPUOP_REGISTER_VCPU_INFO || input.flag() {
        let offset = match input.byte() {
            byte @ 0..=199 => u32::from(byte) % 65 * 64,
            _ => input.number(),
        };
        with(
            HYPERVISOR_VCPU_OP,
            VCPUOP_REGISTER_VCPU_INFO,
            &made!(VcpuRegisterVcpuInfo {
                mfn: frame(input),
                offset: offset
            }),
        )
    } else {
        with(
            HYPERVISOR_VCPU_OP,
            command,
            &made!(VcpuRegisterRunstateMemoryArea { addr: any(input) }),
        )
    };
    call.args = [call.args[0], who.into(), ARG, 0, 0];
    call
}

fn other(input: &mut Input<'_>) -> Call {
    match input.below(8) {
        0 | 1 => with(
            HYPERVISOR_HVM_OP,
            input.pick(&[0, 0, 1, 5, 24, 25]),
            &made!(xen_abi::hvm::HvmParam {
                domid: domain(input),
                index: input.number(),
                value: any(input),
            }),
        ),
        2 => with(HYPERVISOR_XEN_VERSION, input.below(16), &any(input)),
        3 => {
            let mut call = with(HYPERVISOR_CONSOLE_IO, input.below(3), &any(input));
            call.args = [call.args[0], count(input).into(), ARG, 0, 0];
            call
        }
        4 => {
            let mut call = with(HYPERVISOR_VM_ASSIST, input.below(4), &any(input));
            call.args[1] = input.number().into();
            call
        }
        5 => {
            let mut op = PlatformOp::new_zeroed();
            op.cmd = input.pick(&[XENPF_SETTIME64, 17, 0, 9]);
            op.interface_version = XENPF_INTERFACE_VERSION - u32::from(input.byte() == 255);
            let time = made!(XenpfSettime64 {
                secs: any(input),
                nsecs: input.number(),
                mbz: input.below(8) / 7,
                system_time: any(input)
            });
            op.u[..time.as_bytes().len()].copy_from_slice(time.as_bytes());
            let mut call = with(HYPERVISOR_PLATFORM_OP, 0, &op);
            call.args[0] = ARG;
            call
        }
        6 => with(HYPERVISOR_PHYSDEV_OP, input.below(40), &any(input)),
        _ => with(input.below(64), input.number(), &any(input)),
    }
}
