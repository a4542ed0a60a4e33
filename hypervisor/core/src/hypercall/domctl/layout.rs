//! The layout of what differs between versions of the toolstack's interface, and nothing else.

use xen_abi::control as abi;

use super::{part, set_part};
use crate::domain::DomainInfo;
use crate::errno::Errno;

/// The form of domctl that a release of Xen speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Of 4.17.
    V0x15,
    /// Of 4.20.
    V0x17,
}

impl Interface {
    /// Returns the form for a release (major, minor).
    pub fn of(release: (u16, u16)) -> Self {
        if release < (4, 20) {
            Self::V0x15
        } else {
            Self::V0x17
        }
    }

    /// Returns what a caller says that it speaks.
    pub fn number(self) -> u32 {
        match self {
            Self::V0x15 => abi::XEN_DOMCTL_INTERFACE_VERSION,
            Self::V0x17 => abi::XEN_DOMCTL_INTERFACE_VERSION_4_20,
        }
    }

    /// Returns whether getdomaininfo of a domain that there is not tells about the next one.
    pub fn has_next_domain(self) -> bool {
        self == Self::V0x15
    }
}

/// What a toolstack wants of a new domain, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Its name for the domain.
    pub handle: [u8; 16],
    /// `XEN_DOMCTL_CDF_*`.
    pub flags: u32,
    /// `XEN_DOMCTL_IOMMU_*`.
    pub iommu_opts: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// The highest event channel.
    pub max_port: u32,
    /// Frames of the grant table; negative for the default.
    pub max_grant_frames: i32,
    /// Frames of mappings of others' grants; negative for the default.
    pub max_maptrack_frames: i32,
    /// Version of the grant table.
    pub grant_opts: u32,
    /// Bytes of trace.
    pub vmtrace_size: u32,
    /// CPU pool.
    pub pool: u32,
    /// In and out: `XEN_DOMCTL_CONFIG_GIC_*`.
    pub gic_version: u8,
    /// `XEN_DOMCTL_CONFIG_TEE_*`.
    pub tee_type: u16,
    /// Shared interrupts.
    pub nr_spis: u32,
    /// Out: the timer's rate in Hz, where the guest must be told.
    pub clock_frequency: u32,
}

/// Makes a [`Creation`] of either form: the fields that both have bear the same names.
macro_rules! creation_of {
    ($wanted:ident) => {
        Creation {
            handle: $wanted.handle,
            flags: $wanted.flags,
            iommu_opts: $wanted.iommu_opts,
            vcpus: $wanted.max_vcpus,
            max_port: $wanted.max_evtchn_port,
            max_grant_frames: $wanted.max_grant_frames,
            max_maptrack_frames: $wanted.max_maptrack_frames,
            grant_opts: $wanted.grant_opts,
            vmtrace_size: $wanted.vmtrace_size,
            pool: $wanted.cpupool_id,
            gic_version: $wanted.arch.gic_version,
            tee_type: $wanted.arch.tee_type,
            nr_spis: $wanted.arch.nr_spis,
            clock_frequency: $wanted.arch.clock_frequency,
        }
    };
}

/// Puts what was decided into either form.
macro_rules! put_decided {
    ($form:ty, $op:ident, $creation:ident) => {
        if let Ok(mut wanted) = part::<$form>($op) {
            wanted.arch.gic_version = $creation.gic_version;
            wanted.arch.clock_frequency = $creation.clock_frequency;
            set_part($op, &wanted);
        }
    };
}

/// Takes what createdomain wants from the interface's form.
///
/// # Errors
/// `EINVAL` for what only other machines have.
pub fn creation(interface: Interface, op: &abi::Domctl) -> Result<Creation, Errno> {
    match interface {
        Interface::V0x15 => {
            let wanted: abi::DomctlCreatedomain = part(op)?;
            Ok(creation_of!(wanted))
        }
        Interface::V0x17 => {
            let wanted: abi::DomctlCreatedomain420 = part(op)?;
            if wanted.altp2m_opts != 0 || wanted.arch.sve_vl != 0 {
                return Err(Errno::Inval);
            }
            Ok(creation_of!(wanted))
        }
    }
}

/// Puts what createdomain decided back into the interface's form.
pub fn created(interface: Interface, op: &mut abi::Domctl, creation: &Creation) {
    match interface {
        Interface::V0x15 => put_decided!(abi::DomctlCreatedomain, op, creation),
        Interface::V0x17 => put_decided!(abi::DomctlCreatedomain420, op, creation),
    }
}

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
        | flag(info.is_debugged, abi::XEN_DOMINF_DEBUGGED)
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
