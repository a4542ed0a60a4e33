//! createdomain and max_vcpus.

use xen_abi::control as abi;
use xen_abi::hypercall::DOMID_FIRST_RESERVED;

use super::{Done, Reply, layout, part};
use crate::addr::DomId;
use crate::domain::{Domain, Request};
use crate::errno::Errno;
use crate::gnttab::Limits;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::hypervisor::GuestDefaults;
use crate::machine::GuestMemory;
use crate::vgic::{MAX_SPIS, Version};

/// What a domain must have here, and what it may have.
const REQUIRED: u32 = abi::XEN_DOMCTL_CDF_HVM | abi::XEN_DOMCTL_CDF_HAP;
const OPTIONAL: u32 = abi::XEN_DOMCTL_CDF_XS_DOMAIN | abi::XEN_DOMCTL_CDF_VPMU;

pub(super) fn create<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    interface: layout::Interface,
    op: &mut abi::Domctl,
) -> Done {
    let mut wanted = layout::creation(interface, op)?;
    let mut request = check(&wanted, &cx.hv.guests)?;
    // 0, and what is no domain's number: any.
    request.id = (1..DOMID_FIRST_RESERVED)
        .contains(&op.domain)
        .then(|| DomId::new(op.domain));
    let domain = cx.hv.create_domain(&request)?;
    op.domain = domain.facts.id.raw();
    wanted.gic_version = native(&cx.hv.guests);
    wanted.clock_frequency = cx.hv.guests.clock_frequency;
    layout::created(interface, op, &wanted);
    Ok(Reply::Whole)
}

/// The version of the GIC that domains have: the machine's.
fn native(defaults: &GuestDefaults) -> u8 {
    match defaults.gic() {
        Version::V2 => abi::XEN_DOMCTL_CONFIG_GIC_V2,
        Version::V3 => abi::XEN_DOMCTL_CONFIG_GIC_V3,
    }
}

/// Checks what a toolstack wants, with Xen's answers.
fn check(wanted: &layout::Creation, defaults: &GuestDefaults) -> Result<Request, Errno> {
    let has_native_gic = wanted.gic_version == abi::XEN_DOMCTL_CONFIG_GIC_NATIVE
        || wanted.gic_version == native(defaults);
    let has_pmu = wanted.flags & abi::XEN_DOMCTL_CDF_VPMU != 0;
    // There is no IOMMU and no trusted execution environment to give.
    let is_valid = wanted.flags & !OPTIONAL == REQUIRED
        && (defaults.has_pmu || !has_pmu)
        && wanted.iommu_opts == 0
        && wanted.vmtrace_size == 0
        && wanted.grant_opts & !abi::XEN_DOMCTL_GRANT_VERSION_MASK == 0
        && wanted.tee_type == abi::XEN_DOMCTL_CONFIG_TEE_NONE
        && has_native_gic
        && (1..=defaults.gic().max_vcpus() as u32).contains(&wanted.vcpus)
        && wanted.nr_spis <= u32::from(MAX_SPIS);
    if !is_valid {
        return Err(Errno::Inval);
    }
    let or_default = |wanted: i32, default: u32| u32::try_from(wanted).unwrap_or(default);
    let max_frames = or_default(wanted.max_grant_frames, defaults.grant_frames.get());
    let max_version = wanted.grant_opts & abi::XEN_DOMCTL_GRANT_VERSION_MASK;
    if max_frames == 0 || max_version == 0 || max_version > defaults.grants.max_version {
        return Err(Errno::Inval);
    }
    Ok(Request {
        id: None,
        handle: wanted.handle,
        is_xenstore: wanted.flags & abi::XEN_DOMCTL_CDF_XS_DOMAIN != 0,
        has_pmu,
        vcpus: wanted.vcpus as u16,
        max_port: wanted.max_port.min(i32::MAX as u32),
        grants: Limits {
            max_frames: max_frames.min(crate::gnttab::MOST_FRAMES),
            max_version,
            has_transitive: defaults.grants.has_transitive,
        },
        maptrack_frames: or_default(wanted.max_maptrack_frames, defaults.maptrack_frames.get()),
        nr_spis: wanted.nr_spis as u16,
        pool: wanted.pool,
    })
}

/// The vCPUs were made with the domain; the toolstack must agree on how many.
pub(super) fn max_vcpus<H: Hal>(op: &abi::Domctl, target: &Domain<H>) -> Done {
    let wanted: abi::DomctlMaxVcpus = part(op)?;
    if usize::try_from(wanted.max) == Ok(target.vcpus.len()) {
        Ok(Reply::None)
    } else {
        Err(Errno::Inval)
    }
}
