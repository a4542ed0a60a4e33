//! Where vCPUs run, and how much.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use xen_abi::control as abi;

use super::{Done, Reply, part, set_part};
use crate::addr::{CpuId, VcpuId};
use crate::domain::{Domain, RunState, Vcpu};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::machine::GuestMemory;
use crate::sched::{CpuSet, DomainShare};

/// `weight` of a share that stays as it is.
const SAME_WEIGHT: u16 = 0;
/// `cap` of a share that stays as it is.
const SAME_CAP: u16 = u16::MAX;

fn find<H: Hal>(target: &Arc<Domain<H>>, vcpu: u32) -> Result<&Vcpu<H>, Errno> {
    let id = u16::try_from(vcpu).map_err(|_| Errno::Inval)?;
    target.vcpu(VcpuId::new(id)).ok_or(Errno::Inval)
}

fn is_valid(wanted: &abi::DomctlVcpuaffinity) -> bool {
    let lacks = |flag: u32, map: &abi::XenctlBitmap| wanted.flags & flag != 0 && map.bitmap == 0;
    wanted.flags != 0
        && !lacks(abi::XEN_VCPUAFFINITY_HARD, &wanted.cpumap_hard)
        && !lacks(abi::XEN_VCPUAFFINITY_SOFT, &wanted.cpumap_soft)
}

/// setvcpuaffinity. What then holds is given back: the CPUs of the pool among those that were named.
pub(super) fn set_affinity<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let wanted: abi::DomctlVcpuaffinity = part(op)?;
    let vcpu = find(target, wanted.vcpu)?;
    if !is_valid(&wanted) {
        return Err(Errno::Inval);
    }
    let is_hard = wanted.flags & abi::XEN_VCPUAFFINITY_HARD != 0;
    let is_soft = wanted.flags & abi::XEN_VCPUAFFINITY_SOFT != 0;
    let read =
        |is_wanted: bool, map: &abi::XenctlBitmap| is_wanted.then(|| cx.read_cpus(map)).transpose();
    let hard = read(is_hard, &wanted.cpumap_hard)?;
    let soft = read(is_soft, &wanted.cpumap_soft)?;
    let unit = vcpu.unit().ok_or(Errno::Srch)?;
    // All numbers that CPUs can have: tools see "all" then, and so do CPUs that come later.
    let known = cx.cpu_ids();
    let widen = |set: CpuSet| {
        if known.without(&set).is_empty() {
            CpuSet::ALL
        } else {
            set
        }
    };
    let (pool, affinity) = cx.hv.scheduler.with(|pools, now, kick| {
        let pool = pools.cpus_of(target.facts.id);
        let mut affinity = *vcpu.affinity.lock();
        if let Some(hard) = hard {
            if hard.and(&pool).is_empty() {
                return Err(Errno::Inval);
            }
            affinity.hard = widen(hard);
        }
        if let Some(soft) = soft {
            affinity.soft = widen(soft);
        }
        *vcpu.affinity.lock() = affinity;
        pools.set_affinity(unit, affinity, now, kick);
        Ok((pool, affinity))
    })?;
    let hard = affinity.hard.and(&pool);
    if is_hard {
        cx.write_cpus(&wanted.cpumap_hard, &hard)?;
    }
    if is_soft {
        cx.write_cpus(&wanted.cpumap_soft, &affinity.soft.and(&hard))?;
    }
    Ok(Reply::None)
}

/// getvcpuaffinity: as it was set.
pub(super) fn affinity<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let wanted: abi::DomctlVcpuaffinity = part(op)?;
    let vcpu = find(target, wanted.vcpu)?;
    if !is_valid(&wanted) {
        return Err(Errno::Inval);
    }
    let affinity = *vcpu.affinity.lock();
    let known = cx.cpu_ids();
    if wanted.flags & abi::XEN_VCPUAFFINITY_HARD != 0 {
        cx.write_cpus(&wanted.cpumap_hard, &affinity.hard.and(&known))?;
    }
    if wanted.flags & abi::XEN_VCPUAFFINITY_SOFT != 0 {
        cx.write_cpus(&wanted.cpumap_soft, &affinity.soft.and(&known))?;
    }
    Ok(Reply::None)
}

/// setnodeaffinity: there is one node, on which everything is.
pub(super) fn set_nodes<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &abi::Domctl) -> Done {
    let wanted: abi::DomctlNodeaffinity = part(op)?;
    let nodes = cx.read_cpus(&wanted.nodemap)?;
    if nodes.contains(CpuId::new(0)) {
        Ok(Reply::None)
    } else {
        Err(Errno::Inval)
    }
}

/// getnodeaffinity.
pub(super) fn nodes<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &abi::Domctl) -> Done {
    let wanted: abi::DomctlNodeaffinity = part(op)?;
    cx.write_cpus(&wanted.nodemap, &CpuSet::single(CpuId::new(0)))?;
    Ok(Reply::None)
}

/// getvcpuinfo.
pub(super) fn vcpu_info<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let mut info: abi::DomctlGetvcpuinfo = part(op)?;
    let vcpu = find(target, info.vcpu)?;
    let now = cx.hv.hal.now();
    let clock = *vcpu.runstate.lock();
    info.online = u8::from(!vcpu.is_offline.load(Ordering::Acquire));
    info.blocked = u8::from(vcpu.is_blocked.load(Ordering::Acquire));
    info.running = u8::from(clock.state == RunState::Running);
    info.cpu_time = cx.hv.scale.to_ns(clock.ran(now));
    info.cpu = vcpu.last_cpu().index() as u32;
    set_part(op, &info);
    Ok(Reply::Whole)
}

/// scheduler_op: a domain's share.
pub(super) fn share<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::Domctl,
    target: &Arc<Domain<H>>,
) -> Done {
    let mut wanted: abi::DomctlSchedulerOp = part(op)?;
    let id = target.facts.id;
    let is_set = match wanted.cmd {
        abi::XEN_DOMCTL_SCHEDOP_PUTINFO => true,
        abi::XEN_DOMCTL_SCHEDOP_GETINFO => false,
        // Of single vCPUs: no policy here has that.
        _ => return Err(Errno::Inval),
    };
    let share = cx.hv.scheduler.with(|pools, _, _| {
        let policy = pools.policy_of(id).ok_or(Errno::Inval)?;
        if policy.id() != wanted.sched_id {
            return Err(Errno::Inval);
        }
        let before = policy.share(id).ok_or(Errno::OpNotSupp)?;
        if is_set {
            let either = |new: u16, same: u16, old: u16| if new == same { old } else { new };
            policy.set_share(
                id,
                DomainShare {
                    weight: either(wanted.weight, SAME_WEIGHT, before.weight),
                    cap: either(wanted.cap, SAME_CAP, before.cap),
                },
            )?;
        }
        Ok(before)
    })?;
    if is_set {
        return Ok(Reply::None);
    }
    wanted.weight = share.weight;
    wanted.cap = share.cap;
    set_part(op, &wanted);
    Ok(Reply::Whole)
}
