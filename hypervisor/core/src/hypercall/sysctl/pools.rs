//! Pools of CPUs and their policies.

use xen_abi::control as abi;
use xen_abi::hypercall::DOMID_FIRST_RESERVED;

use super::{Done, part, set_part};
use crate::addr::{CpuId, DomId};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::machine::GuestMemory;
use crate::sched::{FIRST_POOL, MAX_CPUS, PolicyParameters};

/// sched_id.
pub(super) fn policy_id<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let info = cx.hv.scheduler.with(|pools, _, _| pools.info(FIRST_POOL));
    let sched_id = info.ok_or(Errno::NoEnt)?.policy;
    set_part(op, &abi::SysctlSchedId { sched_id });
    Ok(true)
}

/// scheduler_op: the parameters of a pool's policy. What was set is given back, too.
pub(super) fn parameters<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut wanted: abi::SysctlSchedulerOp = part(op)?;
    let is_set = match wanted.cmd {
        abi::XEN_SYSCTL_SCHEDOP_PUTINFO => true,
        abi::XEN_SYSCTL_SCHEDOP_GETINFO => false,
        _ => return Err(Errno::Inval),
    };
    let got = cx.hv.scheduler.with(|pools, _, _| {
        let policy = pools.policy(wanted.cpupool_id).ok_or(Errno::Srch)?;
        if policy.id() != wanted.sched_id {
            return Err(Errno::Inval);
        }
        if is_set {
            let before = policy.parameters();
            policy.set_parameters(match wanted.sched_id {
                // The only parameter, at the beginning.
                abi::XEN_SCHEDULER_CREDIT2 => PolicyParameters {
                    ratelimit_us: wanted.u.tslice_ms,
                    ..before
                },
                abi::XEN_SCHEDULER_CREDIT => PolicyParameters {
                    timeslice_ms: wanted.u.tslice_ms,
                    ratelimit_us: wanted.u.ratelimit_us,
                    migration_delay_us: wanted.u.vcpu_migr_delay_us,
                },
                _ => return Err(Errno::OpNotSupp),
            })?;
        }
        Ok(policy.parameters())
    })?;
    match wanted.sched_id {
        abi::XEN_SCHEDULER_CREDIT2 => wanted.u.tslice_ms = got.ratelimit_us,
        abi::XEN_SCHEDULER_CREDIT => {
            wanted.u = abi::SysctlCreditSchedule {
                tslice_ms: got.timeslice_ms,
                ratelimit_us: got.ratelimit_us,
                vcpu_migr_delay_us: got.migration_delay_us,
            };
        }
        _ => return Err(Errno::OpNotSupp),
    }
    set_part(op, &wanted);
    Ok(true)
}

/// Takes a CPU's number as the interface gives it: `None` for any.
fn cpu<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, raw: u32) -> Result<Option<CpuId>, Errno> {
    if raw == abi::XEN_SYSCTL_CPUPOOL_PAR_ANY {
        return Ok(None);
    }
    if raw as usize >= MAX_CPUS {
        return Err(Errno::Inval);
    }
    let cpu = CpuId::new(raw as u16);
    if cx.hv.hal.cpus().contains(cpu) {
        Ok(Some(cpu))
    } else {
        Err(Errno::Inval)
    }
}

/// cpupool_op.
pub(super) fn call<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Sysctl) -> Done {
    let mut wanted: abi::SysctlCpupoolOp = part(op)?;
    let scheduler = &cx.hv.scheduler;
    let id = wanted.cpupool_id;
    match wanted.op {
        abi::XEN_SYSCTL_CPUPOOL_OP_CREATE => {
            let named = (id != abi::XEN_SYSCTL_CPUPOOL_PAR_ANY).then_some(id);
            let made = scheduler.with(|pools, _, _| pools.create(named, wanted.sched_id));
            wanted.cpupool_id = made?;
            set_part(op, &wanted);
            Ok(true)
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_DESTROY => {
            scheduler.with(|pools, _, _| pools.destroy(id))?;
            Ok(false)
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_INFO => {
            let info = scheduler.with(|pools, _, _| pools.info(id));
            let info = info.ok_or(Errno::NoEnt)?;
            wanted.cpupool_id = info.id;
            wanted.sched_id = info.policy;
            wanted.n_dom = info.domains;
            cx.write_cpus(&wanted.cpumap, &info.cpus)?;
            set_part(op, &wanted);
            Ok(true)
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU => {
            let cpu = cpu(cx, wanted.cpu)?;
            scheduler.with(|pools, now, kick| pools.assign(id, cpu, now, kick))?;
            Ok(false)
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_RMCPU => {
            let cpu = cpu(cx, wanted.cpu)?;
            scheduler.with(|pools, now, kick| pools.unassign(id, cpu, now, kick))?;
            Ok(false)
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => {
            move_domain(cx, wanted.domid, id)?;
            Ok(false)
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_FREEINFO => {
            let free = scheduler.with(|pools, _, _| pools.free());
            cx.write_cpus(&wanted.cpumap, &free)?;
            Ok(false)
        }
        _ => Err(Errno::NoSys),
    }
}

/// Moves another domain to a pool; its vCPUs may then run anywhere there.
fn move_domain<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    domain: u32,
    pool: u32,
) -> Result<(), Errno> {
    let number = u16::try_from(domain)
        .ok()
        .filter(|number| *number < DOMID_FIRST_RESERVED)
        .ok_or(Errno::Srch)?;
    let target = cx.find(DomId::new(number))?;
    if target.is_own() {
        return Err(Errno::Perm);
    }
    let here = cx
        .hv
        .scheduler
        .with(|pools, _, _| pools.pool_of(target.facts.id));
    if here == Some(pool) {
        return Ok(());
    }
    // None may run, nor be seen as running, while it changes hands.
    target.pause();
    target.wait_descheduled();
    let moved = cx.hv.scheduler.with(|pools, now, kick| {
        let mut units = target.vcpus.iter().filter_map(|vcpu| vcpu.unit());
        pools.move_domain(target.facts.id, &mut units, pool, now, kick)?;
        for vcpu in &target.vcpus {
            *vcpu.affinity.lock() = Default::default();
        }
        Ok(())
    });
    target.unpause();
    moved
}
