//! The layout of what differs between versions of the toolstack's interface, and nothing else.

use xen_abi::control as abi;

use crate::domain::DomainInfo;

/// The version of domctl that is spoken.
pub const VERSION: u32 = abi::XEN_DOMCTL_INTERFACE_VERSION;

/// What getdomaininfo and getdomaininfolist give.
pub type Getdomaininfo = abi::DomctlGetdomaininfo;

/// Puts what is known of a domain into the interface's form.
pub fn domain_info(info: &DomainInfo) -> Getdomaininfo {
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    let flags = flag(info.is_dead, abi::XEN_DOMINF_DYING)
        | abi::XEN_DOMINF_HVM_GUEST
        | abi::XEN_DOMINF_HAP
        | flag(info.shutdown.is_some(), abi::XEN_DOMINF_SHUTDOWN)
        | flag(info.is_paused, abi::XEN_DOMINF_PAUSED)
        | flag(info.is_blocked, abi::XEN_DOMINF_BLOCKED)
        | flag(info.is_running, abi::XEN_DOMINF_RUNNING)
        | flag(info.is_xenstore, abi::XEN_DOMINF_XS_DOMAIN)
        // Xen: all ones while there is no reason.
        | info.shutdown.map_or(u32::MAX, |reason| reason as u32) << abi::XEN_DOMINF_SHUTDOWNSHIFT;
    Getdomaininfo {
        domain: info.id.raw(),
        pad1: 0,
        flags,
        tot_pages: u64::from(info.pages),
        max_pages: u64::from(info.limit),
        outstanding_pages: u64::from(info.claimed),
        shr_pages: 0,
        paged_pages: 0,
        shared_info_frame: info
            .shared_info
            .map_or(u64::MAX, |gfn| u64::from(gfn.raw())),
        cpu_time: info.cpu_time_ns,
        nr_online_vcpus: info.online_vcpus,
        max_vcpu_id: info
            .vcpus
            .checked_sub(1)
            .unwrap_or(abi::XEN_INVALID_MAX_VCPU_ID),
        ssidref: 0,
        handle: info.handle,
        cpupool: info.pool,
        gpaddr_bits: info.address_bits,
        pad2: [0; 7],
        // Xen on Arm leaves it empty.
        arch_config: abi::ArchDomainconfig::default(),
        _pad3: 0,
    }
}
