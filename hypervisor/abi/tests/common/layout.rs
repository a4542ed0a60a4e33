//! The list of what this crate says about Xen's interface, under the names of Xen's headers.
//!
//! Used by `tests/layout.rs` (compares with the fixture) and by `examples/layout.rs` (prints it for
//! `tests/abi/check-headers`).

use core::mem::{offset_of, size_of};

/// The size of a structure, the place of a field, or the value of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Structure (C name), bytes.
    Struct(&'static str, usize),
    /// Structure, field path (C names), offset, bytes (`None`: not compared).
    Field(&'static str, &'static str, usize, Option<usize>),
    /// C macro, value.
    Const(&'static str, i64),
}

fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! layout {
    ($rows:ident; $($c:literal = $ty:path { $($path:literal = $field:ident),* $(,)? })*) => {
        $(
            $rows.push(Row::Struct($c, size_of::<$ty>()));
            $($rows.push(Row::Field(
                $c,
                $path,
                offset_of!($ty, $field),
                Some(size_of_field(|s: &$ty| &s.$field)),
            ));)*
        )*
    };
}

macro_rules! constants {
    ($rows:ident; $($c:literal = $value:path),* $(,)?) => {
        $($rows.push(Row::Const($c, i64::try_from($value).unwrap_or(-1 << 63)));)*
    };
}

/// Returns every row.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    structures(&mut rows);
    constants(&mut rows);
    words(&mut rows);
    rows
}

fn structures(rows: &mut Vec<Row>) {
    layout! { rows;
        "multicall_entry" = xen_abi::hypercall::MulticallEntry {
            "op" = op,
            "result" = result,
            "args" = args,
        }
        "xen_compile_info" = xen_abi::version::CompileInfo {
            "compiler" = compiler,
            "compile_by" = compile_by,
            "compile_domain" = compile_domain,
            "compile_date" = compile_date,
        }
        "xen_platform_parameters" = xen_abi::version::PlatformParameters {
            "virt_start" = virt_start,
        }
        "xen_feature_info" = xen_abi::version::FeatureInfo {
            "submap_idx" = submap_idx,
            "submap" = submap,
        }
        "evtchn_alloc_unbound" = xen_abi::event_channel::EvtchnAllocUnbound {
            "dom" = dom,
            "remote_dom" = remote_dom,
            "port" = port,
        }
        "evtchn_bind_interdomain" = xen_abi::event_channel::EvtchnBindInterdomain {
            "remote_dom" = remote_dom,
            "remote_port" = remote_port,
            "local_port" = local_port,
        }
        "evtchn_bind_virq" = xen_abi::event_channel::EvtchnBindVirq {
            "virq" = virq,
            "vcpu" = vcpu,
            "port" = port,
        }
        "evtchn_bind_pirq" = xen_abi::event_channel::EvtchnBindPirq {
            "pirq" = pirq,
            "flags" = flags,
            "port" = port,
        }
        "evtchn_bind_ipi" = xen_abi::event_channel::EvtchnBindIpi {
            "vcpu" = vcpu,
            "port" = port,
        }
        "evtchn_close" = xen_abi::event_channel::EvtchnClose {
            "port" = port,
        }
        "evtchn_send" = xen_abi::event_channel::EvtchnSend {
            "port" = port,
        }
        "evtchn_status" = xen_abi::event_channel::EvtchnStatus {
            "dom" = dom,
            "port" = port,
            "status" = status,
            "vcpu" = vcpu,
            "u.virq" = u0,
            "u.interdomain.port" = u1,
        }
        "evtchn_bind_vcpu" = xen_abi::event_channel::EvtchnBindVcpu {
            "port" = port,
            "vcpu" = vcpu,
        }
        "evtchn_unmask" = xen_abi::event_channel::EvtchnUnmask {
            "port" = port,
        }
        "evtchn_reset" = xen_abi::event_channel::EvtchnReset {
            "dom" = dom,
        }
        "evtchn_init_control" = xen_abi::event_channel::EvtchnInitControl {
            "control_gfn" = control_gfn,
            "offset" = offset,
            "vcpu" = vcpu,
            "link_bits" = link_bits,
        }
        "evtchn_expand_array" = xen_abi::event_channel::EvtchnExpandArray {
            "array_gfn" = array_gfn,
        }
        "evtchn_set_priority" = xen_abi::event_channel::EvtchnSetPriority {
            "port" = port,
            "priority" = priority,
        }
        "evtchn_fifo_control_block" = xen_abi::event_channel::EvtchnFifoControlBlock {
            "ready" = ready,
            "_rsvd" = _rsvd,
            "head" = head,
        }
        "gnttab_map_grant_ref" = xen_abi::grant_table::GnttabMapGrantRef {
            "host_addr" = host_addr,
            "flags" = flags,
            "ref" = ref_,
            "dom" = dom,
            "status" = status,
            "handle" = handle,
            "dev_bus_addr" = dev_bus_addr,
        }
        "gnttab_unmap_grant_ref" = xen_abi::grant_table::GnttabUnmapGrantRef {
            "host_addr" = host_addr,
            "dev_bus_addr" = dev_bus_addr,
            "handle" = handle,
            "status" = status,
        }
        "gnttab_setup_table" = xen_abi::grant_table::GnttabSetupTable {
            "dom" = dom,
            "nr_frames" = nr_frames,
            "status" = status,
            "frame_list" = frame_list,
        }
        "gnttab_dump_table" = xen_abi::grant_table::GnttabDumpTable {
            "dom" = dom,
            "status" = status,
        }
        "gnttab_copy_ptr" = xen_abi::grant_table::GnttabCopyPtr {
            "u.gmfn" = u,
            "domid" = domid,
            "offset" = offset,
        }
        "gnttab_copy" = xen_abi::grant_table::GnttabCopy {
            "source" = source,
            "dest" = dest,
            "len" = len,
            "flags" = flags,
            "status" = status,
        }
        "gnttab_query_size" = xen_abi::grant_table::GnttabQuerySize {
            "dom" = dom,
            "nr_frames" = nr_frames,
            "max_nr_frames" = max_nr_frames,
            "status" = status,
        }
        "gnttab_set_version" = xen_abi::grant_table::GnttabSetVersion {
            "version" = version,
        }
        "gnttab_get_status_frames" = xen_abi::grant_table::GnttabGetStatusFrames {
            "nr_frames" = nr_frames,
            "dom" = dom,
            "status" = status,
            "frame_list" = frame_list,
        }
        "gnttab_get_version" = xen_abi::grant_table::GnttabGetVersion {
            "dom" = dom,
            "pad" = _pad,
            "version" = version,
        }
        "gnttab_swap_grant_ref" = xen_abi::grant_table::GnttabSwapGrantRef {
            "ref_a" = ref_a,
            "ref_b" = ref_b,
            "status" = status,
        }
        "gnttab_cache_flush" = xen_abi::grant_table::GnttabCacheFlush {
            "a.dev_bus_addr" = a,
            "offset" = offset,
            "length" = length,
            "op" = op,
        }
        "gnttab_unmap_and_replace" = xen_abi::grant_table::GnttabUnmapAndReplace {
            "host_addr" = host_addr,
            "new_addr" = new_addr,
            "handle" = handle,
            "status" = status,
        }
        "gnttab_transfer" = xen_abi::grant_table::GnttabTransfer {
            "mfn" = mfn,
            "domid" = domid,
            "ref" = ref_,
            "status" = status,
        }
        "grant_entry_v1" = xen_abi::grant_table::GrantEntryV1 {
            "flags" = flags,
            "domid" = domid,
            "frame" = frame,
        }
        "grant_entry_v2" = xen_abi::grant_table::GrantEntryV2 {
            "full_page.hdr.flags" = flags,
            "full_page.hdr.domid" = domid,
            "full_page.pad0" = sub,
            "full_page.frame" = frame,
        }
        "xen_memory_domain" = xen_abi::memory::MemoryDomain {
            "domid" = domid,
        }
        "xen_memory_reservation" = xen_abi::memory::MemoryReservation {
            "extent_start" = extent_start,
            "nr_extents" = nr_extents,
            "extent_order" = extent_order,
            "mem_flags" = mem_flags,
            "domid" = domid,
        }
        "xen_memory_exchange" = xen_abi::memory::MemoryExchange {
            "in" = in_,
            "out" = out,
            "nr_exchanged" = nr_exchanged,
        }
        "xen_add_to_physmap" = xen_abi::memory::AddToPhysmap {
            "domid" = domid,
            "size" = size,
            "space" = space,
            "idx" = idx,
            "gpfn" = gpfn,
        }
        "xen_add_to_physmap_batch" = xen_abi::memory::AddToPhysmapBatch {
            "domid" = domid,
            "space" = space,
            "size" = size,
            "u.foreign_domid" = foreign_domid,
            "idxs" = idxs,
            "gpfns" = gpfns,
            "errs" = errs,
        }
        "xen_remove_from_physmap" = xen_abi::memory::RemoveFromPhysmap {
            "domid" = domid,
            "gpfn" = gpfn,
        }
        "xen_mem_acquire_resource" = xen_abi::memory::MemAcquireResource {
            "domid" = domid,
            "type" = type_,
            "id" = id,
            "nr_frames" = nr_frames,
            "pad" = _pad,
            "frame" = frame,
            "frame_list" = frame_list,
        }
        "xen_mem_access_op" = xen_abi::memory::MemAccessOp {
            "op" = op,
            "access" = access,
            "domid" = domid,
            "nr" = nr,
            "pfn" = pfn,
            "pfn_list" = pfn_list,
            "access_list" = access_list,
        }
        "xen_vnuma_topology_info" = xen_abi::memory::VnumaTopologyInfo {
            "domid" = domid,
            "pad" = _pad,
            "nr_vnodes" = nr_vnodes,
            "nr_vcpus" = nr_vcpus,
            "nr_vmemranges" = nr_vmemranges,
            "vdistance.pad" = vdistance,
            "vcpu_to_vnode.pad" = vcpu_to_vnode,
            "vmemrange.pad" = vmemrange,
        }
        "xen_reserved_device_memory" = xen_abi::memory::ReservedDeviceMemory {
            "start_pfn" = start_pfn,
            "nr_pages" = nr_pages,
        }
        "xen_reserved_device_memory_map" = xen_abi::memory::ReservedDeviceMemoryMap {
            "flags" = flags,
            "nr_entries" = nr_entries,
            "buffer" = buffer,
            "dev.pci" = dev,
        }
        "sched_shutdown" = xen_abi::sched::SchedShutdown {
            "reason" = reason,
        }
        "sched_poll" = xen_abi::sched::SchedPoll {
            "ports" = ports,
            "nr_ports" = nr_ports,
            "timeout" = timeout,
        }
        "sched_remote_shutdown" = xen_abi::sched::SchedRemoteShutdown {
            "domain_id" = domain_id,
            "reason" = reason,
        }
        "sched_watchdog" = xen_abi::sched::SchedWatchdog {
            "id" = id,
            "timeout" = timeout,
        }
        "sched_pin_override" = xen_abi::sched::SchedPinOverride {
            "pcpu" = pcpu,
        }
        "vcpu_runstate_info" = xen_abi::vcpu::VcpuRunstateInfo {
            "state" = state,
            "state_entry_time" = state_entry_time,
            "time" = time,
        }
        "vcpu_register_runstate_memory_area" = xen_abi::vcpu::VcpuRegisterRunstateMemoryArea {
            "addr.p" = addr,
        }
        "vcpu_register_vcpu_info" = xen_abi::vcpu::VcpuRegisterVcpuInfo {
            "mfn" = mfn,
            "offset" = offset,
            "rsvd" = _rsvd,
        }
        "xen_hvm_param" = xen_abi::hvm::HvmParam {
            "domid" = domid,
            "pad" = _pad,
            "index" = index,
            "value" = value,
        }
        "physdev_pci_device" = xen_abi::physdev::PhysdevPciDevice {
            "seg" = seg,
            "bus" = bus,
            "devfn" = devfn,
        }
        "physdev_pci_device_add" = xen_abi::physdev::PhysdevPciDeviceAdd {
            "seg" = seg,
            "bus" = bus,
            "devfn" = devfn,
            "flags" = flags,
            "physfn.bus" = physfn_bus,
            "physfn.devfn" = physfn_devfn,
        }
        "xenpf_settime64" = xen_abi::platform::XenpfSettime64 {
            "secs" = secs,
            "nsecs" = nsecs,
            "mbz" = mbz,
            "system_time" = system_time,
        }
        "xen_platform_op" = xen_abi::platform::PlatformOp {
            "cmd" = cmd,
            "interface_version" = interface_version,
            "u.pad" = u,
        }
        "xen_domctl" = xen_abi::control::Domctl {
            "cmd" = cmd,
            "interface_version" = interface_version,
            "domain" = domain,
            "_pad" = _pad,
            "u.pad" = u,
        }
        "xen_arch_domainconfig" = xen_abi::control::ArchDomainconfig {
            "gic_version" = gic_version,
            "tee_type" = tee_type,
            "nr_spis" = nr_spis,
            "clock_frequency" = clock_frequency,
        }
        "xen_domctl_createdomain" = xen_abi::control::DomctlCreatedomain {
            "ssidref" = ssidref,
            "handle" = handle,
            "flags" = flags,
            "iommu_opts" = iommu_opts,
            "max_vcpus" = max_vcpus,
            "max_evtchn_port" = max_evtchn_port,
            "max_grant_frames" = max_grant_frames,
            "max_maptrack_frames" = max_maptrack_frames,
            "grant_opts" = grant_opts,
            "vmtrace_size" = vmtrace_size,
            "cpupool_id" = cpupool_id,
            "arch" = arch,
        }
        "xen_domctl_getdomaininfo" = xen_abi::control::DomctlGetdomaininfo {
            "domain" = domain,
            "pad1" = pad1,
            "flags" = flags,
            "tot_pages" = tot_pages,
            "max_pages" = max_pages,
            "outstanding_pages" = outstanding_pages,
            "shr_pages" = shr_pages,
            "paged_pages" = paged_pages,
            "shared_info_frame" = shared_info_frame,
            "cpu_time" = cpu_time,
            "nr_online_vcpus" = nr_online_vcpus,
            "max_vcpu_id" = max_vcpu_id,
            "ssidref" = ssidref,
            "handle" = handle,
            "cpupool" = cpupool,
            "gpaddr_bits" = gpaddr_bits,
            "pad2" = pad2,
            "arch_config" = arch_config,
        }
        "xen_domctl_max_mem" = xen_abi::control::DomctlMaxMem {
            "max_memkb" = max_memkb,
        }
        "xen_domctl_vcpucontext" = xen_abi::control::DomctlVcpucontext {
            "vcpu" = vcpu,
            "ctxt" = ctxt,
        }
        "xen_domctl_getvcpuinfo" = xen_abi::control::DomctlGetvcpuinfo {
            "vcpu" = vcpu,
            "online" = online,
            "blocked" = blocked,
            "running" = running,
            "cpu_time" = cpu_time,
            "cpu" = cpu,
        }
        "xen_domctl_max_vcpus" = xen_abi::control::DomctlMaxVcpus {
            "max" = max,
        }
        "xen_domctl_setdomainhandle" = xen_abi::control::DomctlSetdomainhandle {
            "handle" = handle,
        }
        "xen_domctl_address_size" = xen_abi::control::DomctlAddressSize {
            "size" = size,
        }
        "xen_domctl_cacheflush" = xen_abi::control::DomctlCacheflush {
            "start_pfn" = start_pfn,
            "nr_pfns" = nr_pfns,
        }
        "xen_domctl_paging_mempool" = xen_abi::control::DomctlPagingMempool {
            "size" = size,
        }
        "xenctl_bitmap" = xen_abi::control::XenctlBitmap {
            "bitmap" = bitmap,
            "nr_bits" = nr_bits,
        }
        "xen_sysctl_readconsole" = xen_abi::control::SysctlReadconsole {
            "clear" = clear,
            "incremental" = incremental,
            "pad0" = pad0,
            "pad1" = pad1,
            "index" = index,
            "buffer" = buffer,
            "count" = count,
        }
        "xen_sysctl_physinfo" = xen_abi::control::SysctlPhysinfo {
            "threads_per_core" = threads_per_core,
            "cores_per_socket" = cores_per_socket,
            "nr_cpus" = nr_cpus,
            "max_cpu_id" = max_cpu_id,
            "nr_nodes" = nr_nodes,
            "max_node_id" = max_node_id,
            "cpu_khz" = cpu_khz,
            "capabilities" = capabilities,
            "arch_capabilities" = arch_capabilities,
            "pad" = pad,
            "total_pages" = total_pages,
            "free_pages" = free_pages,
            "scrub_pages" = scrub_pages,
            "outstanding_pages" = outstanding_pages,
            "max_mfn" = max_mfn,
            "hw_cap" = hw_cap,
        }
        "xen_sysctl_sched_id" = xen_abi::control::SysctlSchedId {
            "sched_id" = sched_id,
        }
        "xen_sysctl_getdomaininfolist" = xen_abi::control::SysctlGetdomaininfolist {
            "first_domain" = first_domain,
            "max_domains" = max_domains,
            "buffer" = buffer,
            "num_domains" = num_domains,
        }
        "xen_sysctl_debug_keys" = xen_abi::control::SysctlDebugKeys {
            "keys" = keys,
            "nr_keys" = nr_keys,
        }
        "xen_sysctl_cpuinfo" = xen_abi::control::SysctlCpuinfo {
            "idletime" = idletime,
        }
        "xen_sysctl_getcpuinfo" = xen_abi::control::SysctlGetcpuinfo {
            "max_cpus" = max_cpus,
            "info" = info,
            "nr_cpus" = nr_cpus,
        }
        "xen_sysctl_availheap" = xen_abi::control::SysctlAvailheap {
            "min_bitwidth" = min_bitwidth,
            "max_bitwidth" = max_bitwidth,
            "node" = node,
            "avail_bytes" = avail_bytes,
        }
        "xen_sysctl_cputopo" = xen_abi::control::SysctlCputopo {
            "core" = core,
            "socket" = socket,
            "node" = node,
        }
        "xen_sysctl_cputopoinfo" = xen_abi::control::SysctlCputopoinfo {
            "num_cpus" = num_cpus,
            "cputopo" = cputopo,
        }
        "xen_sysctl_meminfo" = xen_abi::control::SysctlMeminfo {
            "memsize" = memsize,
            "memfree" = memfree,
        }
        "xen_sysctl_numainfo" = xen_abi::control::SysctlNumainfo {
            "num_nodes" = num_nodes,
            "meminfo" = meminfo,
            "distance" = distance,
        }
        "xen_sysctl_cpupool_op" = xen_abi::control::SysctlCpupoolOp {
            "op" = op,
            "cpupool_id" = cpupool_id,
            "sched_id" = sched_id,
            "domid" = domid,
            "cpu" = cpu,
            "n_dom" = n_dom,
            "cpumap" = cpumap,
        }
        "xen_sysctl_credit_schedule" = xen_abi::control::SysctlCreditSchedule {
            "tslice_ms" = tslice_ms,
            "ratelimit_us" = ratelimit_us,
            "vcpu_migr_delay_us" = vcpu_migr_delay_us,
        }
        "xen_sysctl_scheduler_op" = xen_abi::control::SysctlSchedulerOp {
            "cpupool_id" = cpupool_id,
            "sched_id" = sched_id,
            "cmd" = cmd,
            "u.sched_credit" = u,
        }
        "xen_domctl_vcpuaffinity" = xen_abi::control::DomctlVcpuaffinity {
            "vcpu" = vcpu,
            "flags" = flags,
            "cpumap_hard" = cpumap_hard,
            "cpumap_soft" = cpumap_soft,
        }
        "xen_domctl_nodeaffinity" = xen_abi::control::DomctlNodeaffinity {
            "nodemap" = nodemap,
        }
        "xen_domctl_scheduler_op" = xen_abi::control::DomctlSchedulerOp {
            "sched_id" = sched_id,
            "cmd" = cmd,
            "u.credit.weight" = weight,
            "u.credit.cap" = cap,
        }
        "xen_domctl_irq_permission" = xen_abi::control::DomctlIrqPermission {
            "pirq" = pirq,
            "allow_access" = allow_access,
            "pad" = pad,
        }
        "xen_domctl_iomem_permission" = xen_abi::control::DomctlIomemPermission {
            "first_mfn" = first_mfn,
            "nr_mfns" = nr_mfns,
            "allow_access" = allow_access,
        }
        "xen_domctl_memory_mapping" = xen_abi::control::DomctlMemoryMapping {
            "first_gfn" = first_gfn,
            "first_mfn" = first_mfn,
            "nr_mfns" = nr_mfns,
            "add_mapping" = add_mapping,
            "padding" = padding,
        }
        "xen_domctl_bind_pt_irq" = xen_abi::control::DomctlBindPtIrq {
            "machine_irq" = machine_irq,
            "irq_type" = irq_type,
            "u.spi.spi" = spi,
        }
        "xen_domctl_settimeoffset" = xen_abi::control::DomctlSettimeoffset {
            "time_offset_seconds" = time_offset_seconds,
        }
        "xen_domctl_setdebugging" = xen_abi::control::DomctlSetdebugging {
            "enable" = enable,
        }
        "xen_domctl_set_virq_handler" = xen_abi::control::DomctlSetVirqHandler {
            "virq" = virq,
        }
        "xen_domctl_set_target" = xen_abi::control::DomctlSetTarget {
            "target" = target,
        }
        "xen_domctl_vuart_op" = xen_abi::control::DomctlVuartOp {
            "cmd" = cmd,
            "type" = kind,
            "gfn" = gfn,
            "console_domid" = console_domid,
            "pad" = pad,
            "evtchn" = evtchn,
        }
        "xen_hypfs_direntry" = xen_abi::hypfs::HypfsDirentry {
            "type" = kind,
            "encoding" = encoding,
            "pad" = pad,
            "content_len" = content_len,
            "max_write_len" = max_write_len,
        }
        "xen_hypfs_dirlistentry" = xen_abi::hypfs::HypfsDirlistentry {
            "e" = e,
            "off_next" = off_next,
        }
        "vcpu_guest_core_regs" = xen_abi::vcpu::VcpuGuestCoreRegs {
            "cpsr" = cpsr,
            "spsr_fiq" = spsr_fiq,
            "spsr_irq" = spsr_irq,
            "spsr_und" = spsr_und,
            "spsr_abt" = spsr_abt,
            "sp_el0" = sp_el0,
            "sp_el1" = sp_el1,
            "elr_el1" = elr_el1,
        }
        "vcpu_guest_context" = xen_abi::vcpu::VcpuGuestContext {
            "flags" = flags,
            "user_regs" = user_regs,
            "sctlr" = sctlr,
            "ttbcr" = ttbcr,
            "ttbr0" = ttbr0,
            "ttbr1" = ttbr1,
        }
        "xen_sysctl" = xen_abi::control::Sysctl {
            "cmd" = cmd,
            "interface_version" = interface_version,
            "u.pad" = u,
        }
    }
}

fn constants(rows: &mut Vec<Row>) {
    constants! { rows;
        "XEN_HYPERCALL_TAG" = xen_abi::hypercall::XEN_HYPERCALL_TAG,
        "__HYPERVISOR_sched_op_compat" = xen_abi::hypercall::HYPERVISOR_SCHED_OP_COMPAT,
        "__HYPERVISOR_platform_op" = xen_abi::hypercall::HYPERVISOR_PLATFORM_OP,
        "__HYPERVISOR_memory_op" = xen_abi::hypercall::HYPERVISOR_MEMORY_OP,
        "__HYPERVISOR_multicall" = xen_abi::hypercall::HYPERVISOR_MULTICALL,
        "__HYPERVISOR_event_channel_op_compat" = xen_abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP_COMPAT,
        "__HYPERVISOR_xen_version" = xen_abi::hypercall::HYPERVISOR_XEN_VERSION,
        "__HYPERVISOR_console_io" = xen_abi::hypercall::HYPERVISOR_CONSOLE_IO,
        "__HYPERVISOR_physdev_op_compat" = xen_abi::hypercall::HYPERVISOR_PHYSDEV_OP_COMPAT,
        "__HYPERVISOR_grant_table_op" = xen_abi::hypercall::HYPERVISOR_GRANT_TABLE_OP,
        "__HYPERVISOR_vm_assist" = xen_abi::hypercall::HYPERVISOR_VM_ASSIST,
        "__HYPERVISOR_vcpu_op" = xen_abi::hypercall::HYPERVISOR_VCPU_OP,
        "__HYPERVISOR_xsm_op" = xen_abi::hypercall::HYPERVISOR_XSM_OP,
        "__HYPERVISOR_sched_op" = xen_abi::hypercall::HYPERVISOR_SCHED_OP,
        "__HYPERVISOR_event_channel_op" = xen_abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP,
        "__HYPERVISOR_physdev_op" = xen_abi::hypercall::HYPERVISOR_PHYSDEV_OP,
        "__HYPERVISOR_hvm_op" = xen_abi::hypercall::HYPERVISOR_HVM_OP,
        "__HYPERVISOR_sysctl" = xen_abi::hypercall::HYPERVISOR_SYSCTL,
        "XEN_SCHEDULER_CREDIT" = xen_abi::control::XEN_SCHEDULER_CREDIT,
        "XEN_SCHEDULER_CREDIT2" = xen_abi::control::XEN_SCHEDULER_CREDIT2,
        "XEN_SCHEDULER_NULL" = xen_abi::control::XEN_SCHEDULER_NULL,
        "XEN_SYSCTL_PHYSCAP_hvm" = xen_abi::control::XEN_SYSCTL_PHYSCAP_HVM,
        "XEN_SYSCTL_PHYSCAP_directio" = xen_abi::control::XEN_SYSCTL_PHYSCAP_DIRECTIO,
        "XEN_SYSCTL_PHYSCAP_hap" = xen_abi::control::XEN_SYSCTL_PHYSCAP_HAP,
        "XEN_SYSCTL_PHYSCAP_vpmu" = xen_abi::control::XEN_SYSCTL_PHYSCAP_VPMU,
        "XEN_SYSCTL_PHYSCAP_gnttab_v1" = xen_abi::control::XEN_SYSCTL_PHYSCAP_GNTTAB_V1,
        "XEN_SYSCTL_PHYSCAP_gnttab_v2" = xen_abi::control::XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
        "XEN_INVALID_CORE_ID" = xen_abi::control::XEN_INVALID_CORE_ID,
        "XEN_SYSCTL_CPUPOOL_OP_CREATE" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_CREATE,
        "XEN_SYSCTL_CPUPOOL_OP_DESTROY" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_DESTROY,
        "XEN_SYSCTL_CPUPOOL_OP_INFO" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_INFO,
        "XEN_SYSCTL_CPUPOOL_OP_ADDCPU" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_ADDCPU,
        "XEN_SYSCTL_CPUPOOL_OP_RMCPU" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_RMCPU,
        "XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
        "XEN_SYSCTL_CPUPOOL_OP_FREEINFO" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
        "XEN_SYSCTL_CPUPOOL_PAR_ANY" = xen_abi::control::XEN_SYSCTL_CPUPOOL_PAR_ANY,
        "XEN_SYSCTL_SCHEDOP_putinfo" = xen_abi::control::XEN_SYSCTL_SCHEDOP_PUTINFO,
        "XEN_SYSCTL_SCHEDOP_getinfo" = xen_abi::control::XEN_SYSCTL_SCHEDOP_GETINFO,
        "XEN_SYSCTL_TBUFOP_get_info" = xen_abi::control::XEN_SYSCTL_TBUFOP_GET_INFO,
        "XEN_VCPUAFFINITY_HARD" = xen_abi::control::XEN_VCPUAFFINITY_HARD,
        "XEN_VCPUAFFINITY_SOFT" = xen_abi::control::XEN_VCPUAFFINITY_SOFT,
        "XEN_VCPUAFFINITY_FORCE" = xen_abi::control::XEN_VCPUAFFINITY_FORCE,
        "XEN_DOMCTL_SCHEDOP_putinfo" = xen_abi::control::XEN_DOMCTL_SCHEDOP_PUTINFO,
        "XEN_DOMCTL_SCHEDOP_getinfo" = xen_abi::control::XEN_DOMCTL_SCHEDOP_GETINFO,
        "PT_IRQ_TYPE_SPI" = xen_abi::control::PT_IRQ_TYPE_SPI,
        "DPCI_ADD_MAPPING" = xen_abi::control::DPCI_ADD_MAPPING,
        "DPCI_REMOVE_MAPPING" = xen_abi::control::DPCI_REMOVE_MAPPING,
        "XEN_DOMCTL_VUART_OP_INIT" = xen_abi::control::XEN_DOMCTL_VUART_OP_INIT,
        "XEN_DOMCTL_VUART_TYPE_VPL011" = xen_abi::control::XEN_DOMCTL_VUART_TYPE_VPL011,
        "XEN_DOMCTL_CDF_hvm" = xen_abi::control::XEN_DOMCTL_CDF_HVM,
        "XEN_DOMCTL_CDF_hap" = xen_abi::control::XEN_DOMCTL_CDF_HAP,
        "XEN_DOMCTL_CDF_s3_integrity" = xen_abi::control::XEN_DOMCTL_CDF_S3_INTEGRITY,
        "XEN_DOMCTL_CDF_oos_off" = xen_abi::control::XEN_DOMCTL_CDF_OOS_OFF,
        "XEN_DOMCTL_CDF_xs_domain" = xen_abi::control::XEN_DOMCTL_CDF_XS_DOMAIN,
        "XEN_DOMCTL_CDF_iommu" = xen_abi::control::XEN_DOMCTL_CDF_IOMMU,
        "XEN_DOMCTL_CDF_nested_virt" = xen_abi::control::XEN_DOMCTL_CDF_NESTED_VIRT,
        "XEN_DOMCTL_CDF_vpmu" = xen_abi::control::XEN_DOMCTL_CDF_VPMU,
        "XEN_DOMCTL_IOMMU_no_sharept" = xen_abi::control::XEN_DOMCTL_IOMMU_NO_SHAREPT,
        "XEN_DOMCTL_GRANT_version_mask" = xen_abi::control::XEN_DOMCTL_GRANT_VERSION_MASK,
        "XEN_DOMCTL_CONFIG_GIC_NATIVE" = xen_abi::control::XEN_DOMCTL_CONFIG_GIC_NATIVE,
        "XEN_DOMCTL_CONFIG_GIC_V2" = xen_abi::control::XEN_DOMCTL_CONFIG_GIC_V2,
        "XEN_DOMCTL_CONFIG_GIC_V3" = xen_abi::control::XEN_DOMCTL_CONFIG_GIC_V3,
        "XEN_DOMCTL_CONFIG_TEE_NONE" = xen_abi::control::XEN_DOMCTL_CONFIG_TEE_NONE,
        "XEN_DOMINF_dying" = xen_abi::control::XEN_DOMINF_DYING,
        "XEN_DOMINF_hvm_guest" = xen_abi::control::XEN_DOMINF_HVM_GUEST,
        "XEN_DOMINF_shutdown" = xen_abi::control::XEN_DOMINF_SHUTDOWN,
        "XEN_DOMINF_paused" = xen_abi::control::XEN_DOMINF_PAUSED,
        "XEN_DOMINF_blocked" = xen_abi::control::XEN_DOMINF_BLOCKED,
        "XEN_DOMINF_running" = xen_abi::control::XEN_DOMINF_RUNNING,
        "XEN_DOMINF_debugged" = xen_abi::control::XEN_DOMINF_DEBUGGED,
        "XEN_DOMINF_xs_domain" = xen_abi::control::XEN_DOMINF_XS_DOMAIN,
        "XEN_DOMINF_hap" = xen_abi::control::XEN_DOMINF_HAP,
        "XEN_DOMINF_shutdownmask" = xen_abi::control::XEN_DOMINF_SHUTDOWNMASK,
        "XEN_DOMINF_shutdownshift" = xen_abi::control::XEN_DOMINF_SHUTDOWNSHIFT,
        "XEN_INVALID_MAX_VCPU_ID" = xen_abi::control::XEN_INVALID_MAX_VCPU_ID,
        "__HYPERVISOR_domctl" = xen_abi::hypercall::HYPERVISOR_DOMCTL,
        "__HYPERVISOR_argo_op" = xen_abi::hypercall::HYPERVISOR_ARGO_OP,
        "__HYPERVISOR_dm_op" = xen_abi::hypercall::HYPERVISOR_DM_OP,
        "__HYPERVISOR_hypfs_op" = xen_abi::hypercall::HYPERVISOR_HYPFS_OP,
        "XEN_HYPFS_OP_get_version" = xen_abi::hypfs::XEN_HYPFS_OP_GET_VERSION,
        "XEN_HYPFS_OP_read" = xen_abi::hypfs::XEN_HYPFS_OP_READ,
        "XEN_HYPFS_OP_write_contents" = xen_abi::hypfs::XEN_HYPFS_OP_WRITE_CONTENTS,
        "XEN_HYPFS_TYPE_DIR" = xen_abi::hypfs::XEN_HYPFS_TYPE_DIR,
        "XEN_HYPFS_TYPE_STRING" = xen_abi::hypfs::XEN_HYPFS_TYPE_STRING,
        "XEN_HYPFS_TYPE_UINT" = xen_abi::hypfs::XEN_HYPFS_TYPE_UINT,
        "XEN_HYPFS_ENC_PLAIN" = xen_abi::hypfs::XEN_HYPFS_ENC_PLAIN,
        "DOMID_FIRST_RESERVED" = xen_abi::hypercall::DOMID_FIRST_RESERVED,
        "DOMID_SELF" = xen_abi::hypercall::DOMID_SELF,
        "DOMID_IO" = xen_abi::hypercall::DOMID_IO,
        "DOMID_XEN" = xen_abi::hypercall::DOMID_XEN,
        "DOMID_COW" = xen_abi::hypercall::DOMID_COW,
        "DOMID_INVALID" = xen_abi::hypercall::DOMID_INVALID,
        "DOMID_IDLE" = xen_abi::hypercall::DOMID_IDLE,
        "XENVER_version" = xen_abi::version::XENVER_VERSION,
        "XENVER_extraversion" = xen_abi::version::XENVER_EXTRAVERSION,
        "XENVER_compile_info" = xen_abi::version::XENVER_COMPILE_INFO,
        "XENVER_capabilities" = xen_abi::version::XENVER_CAPABILITIES,
        "XENVER_changeset" = xen_abi::version::XENVER_CHANGESET,
        "XENVER_platform_parameters" = xen_abi::version::XENVER_PLATFORM_PARAMETERS,
        "XENVER_get_features" = xen_abi::version::XENVER_GET_FEATURES,
        "XENVER_pagesize" = xen_abi::version::XENVER_PAGESIZE,
        "XENVER_guest_handle" = xen_abi::version::XENVER_GUEST_HANDLE,
        "XENVER_commandline" = xen_abi::version::XENVER_COMMANDLINE,
        "XENVER_build_id" = xen_abi::version::XENVER_BUILD_ID,
        "XENFEAT_writable_page_tables" = xen_abi::version::XENFEAT_WRITABLE_PAGE_TABLES,
        "XENFEAT_auto_translated_physmap" = xen_abi::version::XENFEAT_AUTO_TRANSLATED_PHYSMAP,
        "XENFEAT_dom0" = xen_abi::version::XENFEAT_DOM0,
        "XENFEAT_memory_op_vnode_supported" = xen_abi::version::XENFEAT_MEMORY_OP_VNODE_SUPPORTED,
        "XENFEAT_ARM_SMCCC_supported" = xen_abi::version::XENFEAT_ARM_SMCCC_SUPPORTED,
        "XENFEAT_not_direct_mapped" = xen_abi::version::XENFEAT_NOT_DIRECT_MAPPED,
        "XENFEAT_direct_mapped" = xen_abi::version::XENFEAT_DIRECT_MAPPED,
        "XENFEAT_NR_SUBMAPS" = xen_abi::version::XENFEAT_NR_SUBMAPS,
        "EVTCHNOP_bind_interdomain" = xen_abi::event_channel::EVTCHNOP_BIND_INTERDOMAIN,
        "EVTCHNOP_bind_virq" = xen_abi::event_channel::EVTCHNOP_BIND_VIRQ,
        "EVTCHNOP_bind_pirq" = xen_abi::event_channel::EVTCHNOP_BIND_PIRQ,
        "EVTCHNOP_close" = xen_abi::event_channel::EVTCHNOP_CLOSE,
        "EVTCHNOP_send" = xen_abi::event_channel::EVTCHNOP_SEND,
        "EVTCHNOP_status" = xen_abi::event_channel::EVTCHNOP_STATUS,
        "EVTCHNOP_alloc_unbound" = xen_abi::event_channel::EVTCHNOP_ALLOC_UNBOUND,
        "EVTCHNOP_bind_ipi" = xen_abi::event_channel::EVTCHNOP_BIND_IPI,
        "EVTCHNOP_bind_vcpu" = xen_abi::event_channel::EVTCHNOP_BIND_VCPU,
        "EVTCHNOP_unmask" = xen_abi::event_channel::EVTCHNOP_UNMASK,
        "EVTCHNOP_reset" = xen_abi::event_channel::EVTCHNOP_RESET,
        "EVTCHNOP_init_control" = xen_abi::event_channel::EVTCHNOP_INIT_CONTROL,
        "EVTCHNOP_expand_array" = xen_abi::event_channel::EVTCHNOP_EXPAND_ARRAY,
        "EVTCHNOP_set_priority" = xen_abi::event_channel::EVTCHNOP_SET_PRIORITY,
        "EVTCHNSTAT_closed" = xen_abi::event_channel::EVTCHNSTAT_CLOSED,
        "EVTCHNSTAT_unbound" = xen_abi::event_channel::EVTCHNSTAT_UNBOUND,
        "EVTCHNSTAT_interdomain" = xen_abi::event_channel::EVTCHNSTAT_INTERDOMAIN,
        "EVTCHNSTAT_pirq" = xen_abi::event_channel::EVTCHNSTAT_PIRQ,
        "EVTCHNSTAT_virq" = xen_abi::event_channel::EVTCHNSTAT_VIRQ,
        "EVTCHNSTAT_ipi" = xen_abi::event_channel::EVTCHNSTAT_IPI,
        "EVTCHN_2L_NR_CHANNELS" = xen_abi::event_channel::EVTCHN_2L_NR_CHANNELS,
        "EVTCHN_FIFO_NR_CHANNELS" = xen_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS,
        "EVTCHN_FIFO_LINK_BITS" = xen_abi::event_channel::EVTCHN_FIFO_LINK_BITS,
        "EVTCHN_FIFO_LINK_MASK" = xen_abi::event_channel::EVTCHN_FIFO_LINK_MASK,
        "EVTCHN_FIFO_PENDING" = xen_abi::event_channel::EVTCHN_FIFO_PENDING,
        "EVTCHN_FIFO_MASKED" = xen_abi::event_channel::EVTCHN_FIFO_MASKED,
        "EVTCHN_FIFO_LINKED" = xen_abi::event_channel::EVTCHN_FIFO_LINKED,
        "EVTCHN_FIFO_BUSY" = xen_abi::event_channel::EVTCHN_FIFO_BUSY,
        "EVTCHN_FIFO_PRIORITY_MAX" = xen_abi::event_channel::EVTCHN_FIFO_PRIORITY_MAX,
        "EVTCHN_FIFO_PRIORITY_DEFAULT" = xen_abi::event_channel::EVTCHN_FIFO_PRIORITY_DEFAULT,
        "EVTCHN_FIFO_PRIORITY_MIN" = xen_abi::event_channel::EVTCHN_FIFO_PRIORITY_MIN,
        "EVTCHN_FIFO_MAX_QUEUES" = xen_abi::event_channel::EVTCHN_FIFO_MAX_QUEUES,
        "VIRQ_TIMER" = xen_abi::event_channel::VIRQ_TIMER,
        "VIRQ_DEBUG" = xen_abi::event_channel::VIRQ_DEBUG,
        "VIRQ_CONSOLE" = xen_abi::event_channel::VIRQ_CONSOLE,
        "VIRQ_DOM_EXC" = xen_abi::event_channel::VIRQ_DOM_EXC,
        "VIRQ_TBUF" = xen_abi::event_channel::VIRQ_TBUF,
        "VIRQ_DEBUGGER" = xen_abi::event_channel::VIRQ_DEBUGGER,
        "VIRQ_XENOPROF" = xen_abi::event_channel::VIRQ_XENOPROF,
        "VIRQ_CON_RING" = xen_abi::event_channel::VIRQ_CON_RING,
        "VIRQ_PCPU_STATE" = xen_abi::event_channel::VIRQ_PCPU_STATE,
        "VIRQ_MEM_EVENT" = xen_abi::event_channel::VIRQ_MEM_EVENT,
        "VIRQ_ARGO" = xen_abi::event_channel::VIRQ_ARGO,
        "VIRQ_ENOMEM" = xen_abi::event_channel::VIRQ_ENOMEM,
        "VIRQ_XENPMU" = xen_abi::event_channel::VIRQ_XENPMU,
        "VIRQ_ARCH_0" = xen_abi::event_channel::VIRQ_ARCH_0,
        "NR_VIRQS" = xen_abi::event_channel::NR_VIRQS,
        "GNTTABOP_map_grant_ref" = xen_abi::grant_table::GNTTABOP_MAP_GRANT_REF,
        "GNTTABOP_unmap_grant_ref" = xen_abi::grant_table::GNTTABOP_UNMAP_GRANT_REF,
        "GNTTABOP_setup_table" = xen_abi::grant_table::GNTTABOP_SETUP_TABLE,
        "GNTTABOP_dump_table" = xen_abi::grant_table::GNTTABOP_DUMP_TABLE,
        "GNTTABOP_transfer" = xen_abi::grant_table::GNTTABOP_TRANSFER,
        "GNTTABOP_copy" = xen_abi::grant_table::GNTTABOP_COPY,
        "GNTTABOP_query_size" = xen_abi::grant_table::GNTTABOP_QUERY_SIZE,
        "GNTTABOP_unmap_and_replace" = xen_abi::grant_table::GNTTABOP_UNMAP_AND_REPLACE,
        "GNTTABOP_set_version" = xen_abi::grant_table::GNTTABOP_SET_VERSION,
        "GNTTABOP_get_status_frames" = xen_abi::grant_table::GNTTABOP_GET_STATUS_FRAMES,
        "GNTTABOP_get_version" = xen_abi::grant_table::GNTTABOP_GET_VERSION,
        "GNTTABOP_swap_grant_ref" = xen_abi::grant_table::GNTTABOP_SWAP_GRANT_REF,
        "GNTTABOP_cache_flush" = xen_abi::grant_table::GNTTABOP_CACHE_FLUSH,
        "GNTST_okay" = xen_abi::grant_table::GNTST_OKAY,
        "GNTST_general_error" = xen_abi::grant_table::GNTST_GENERAL_ERROR,
        "GNTST_bad_domain" = xen_abi::grant_table::GNTST_BAD_DOMAIN,
        "GNTST_bad_gntref" = xen_abi::grant_table::GNTST_BAD_GNTREF,
        "GNTST_bad_handle" = xen_abi::grant_table::GNTST_BAD_HANDLE,
        "GNTST_bad_virt_addr" = xen_abi::grant_table::GNTST_BAD_VIRT_ADDR,
        "GNTST_bad_dev_addr" = xen_abi::grant_table::GNTST_BAD_DEV_ADDR,
        "GNTST_no_device_space" = xen_abi::grant_table::GNTST_NO_DEVICE_SPACE,
        "GNTST_permission_denied" = xen_abi::grant_table::GNTST_PERMISSION_DENIED,
        "GNTST_bad_page" = xen_abi::grant_table::GNTST_BAD_PAGE,
        "GNTST_bad_copy_arg" = xen_abi::grant_table::GNTST_BAD_COPY_ARG,
        "GNTST_address_too_big" = xen_abi::grant_table::GNTST_ADDRESS_TOO_BIG,
        "GNTST_eagain" = xen_abi::grant_table::GNTST_EAGAIN,
        "GNTST_no_space" = xen_abi::grant_table::GNTST_NO_SPACE,
        "GNTMAP_device_map" = xen_abi::grant_table::GNTMAP_DEVICE_MAP,
        "GNTMAP_host_map" = xen_abi::grant_table::GNTMAP_HOST_MAP,
        "GNTMAP_readonly" = xen_abi::grant_table::GNTMAP_READONLY,
        "GNTMAP_application_map" = xen_abi::grant_table::GNTMAP_APPLICATION_MAP,
        "GNTMAP_contains_pte" = xen_abi::grant_table::GNTMAP_CONTAINS_PTE,
        "GTF_invalid" = xen_abi::grant_table::GTF_INVALID,
        "GTF_permit_access" = xen_abi::grant_table::GTF_PERMIT_ACCESS,
        "GTF_accept_transfer" = xen_abi::grant_table::GTF_ACCEPT_TRANSFER,
        "GTF_transitive" = xen_abi::grant_table::GTF_TRANSITIVE,
        "GTF_type_mask" = xen_abi::grant_table::GTF_TYPE_MASK,
        "GTF_readonly" = xen_abi::grant_table::GTF_READONLY,
        "GTF_reading" = xen_abi::grant_table::GTF_READING,
        "GTF_writing" = xen_abi::grant_table::GTF_WRITING,
        "GTF_PWT" = xen_abi::grant_table::GTF_PWT,
        "GTF_PCD" = xen_abi::grant_table::GTF_PCD,
        "GTF_PAT" = xen_abi::grant_table::GTF_PAT,
        "GTF_sub_page" = xen_abi::grant_table::GTF_SUB_PAGE,
        "GTF_transfer_committed" = xen_abi::grant_table::GTF_TRANSFER_COMMITTED,
        "GTF_transfer_completed" = xen_abi::grant_table::GTF_TRANSFER_COMPLETED,
        "GNTCOPY_source_gref" = xen_abi::grant_table::GNTCOPY_SOURCE_GREF,
        "GNTCOPY_dest_gref" = xen_abi::grant_table::GNTCOPY_DEST_GREF,
        "GNTTAB_CACHE_CLEAN" = xen_abi::grant_table::GNTTAB_CACHE_CLEAN,
        "GNTTAB_CACHE_INVAL" = xen_abi::grant_table::GNTTAB_CACHE_INVAL,
        "GNTTAB_CACHE_SOURCE_GREF" = xen_abi::grant_table::GNTTAB_CACHE_SOURCE_GREF,
        "GNTTAB_NR_RESERVED_ENTRIES" = xen_abi::grant_table::GNTTAB_NR_RESERVED_ENTRIES,
        "GNTTAB_RESERVED_CONSOLE" = xen_abi::grant_table::GNTTAB_RESERVED_CONSOLE,
        "GNTTAB_RESERVED_XENSTORE" = xen_abi::grant_table::GNTTAB_RESERVED_XENSTORE,
        "XENMEM_increase_reservation" = xen_abi::memory::XENMEM_INCREASE_RESERVATION,
        "XENMEM_decrease_reservation" = xen_abi::memory::XENMEM_DECREASE_RESERVATION,
        "XENMEM_maximum_ram_page" = xen_abi::memory::XENMEM_MAXIMUM_RAM_PAGE,
        "XENMEM_current_reservation" = xen_abi::memory::XENMEM_CURRENT_RESERVATION,
        "XENMEM_maximum_reservation" = xen_abi::memory::XENMEM_MAXIMUM_RESERVATION,
        "XENMEM_machphys_mfn_list" = xen_abi::memory::XENMEM_MACHPHYS_MFN_LIST,
        "XENMEM_populate_physmap" = xen_abi::memory::XENMEM_POPULATE_PHYSMAP,
        "XENMEM_add_to_physmap" = xen_abi::memory::XENMEM_ADD_TO_PHYSMAP,
        "XENMEM_memory_map" = xen_abi::memory::XENMEM_MEMORY_MAP,
        "XENMEM_machine_memory_map" = xen_abi::memory::XENMEM_MACHINE_MEMORY_MAP,
        "XENMEM_exchange" = xen_abi::memory::XENMEM_EXCHANGE,
        "XENMEM_machphys_mapping" = xen_abi::memory::XENMEM_MACHPHYS_MAPPING,
        "XENMEM_set_memory_map" = xen_abi::memory::XENMEM_SET_MEMORY_MAP,
        "XENMEM_maximum_gpfn" = xen_abi::memory::XENMEM_MAXIMUM_GPFN,
        "XENMEM_remove_from_physmap" = xen_abi::memory::XENMEM_REMOVE_FROM_PHYSMAP,
        "XENMEM_set_pod_target" = xen_abi::memory::XENMEM_SET_POD_TARGET,
        "XENMEM_get_pod_target" = xen_abi::memory::XENMEM_GET_POD_TARGET,
        "XENMEM_get_sharing_freed_pages" = xen_abi::memory::XENMEM_GET_SHARING_FREED_PAGES,
        "XENMEM_get_sharing_shared_pages" = xen_abi::memory::XENMEM_GET_SHARING_SHARED_PAGES,
        "XENMEM_paging_op" = xen_abi::memory::XENMEM_PAGING_OP,
        "XENMEM_access_op" = xen_abi::memory::XENMEM_ACCESS_OP,
        "XENMEM_sharing_op" = xen_abi::memory::XENMEM_SHARING_OP,
        "XENMEM_add_to_physmap_batch" = xen_abi::memory::XENMEM_ADD_TO_PHYSMAP_BATCH,
        "XENMEM_claim_pages" = xen_abi::memory::XENMEM_CLAIM_PAGES,
        "XENMEM_machphys_compat_mfn_list" = xen_abi::memory::XENMEM_MACHPHYS_COMPAT_MFN_LIST,
        "XENMEM_get_vnumainfo" = xen_abi::memory::XENMEM_GET_VNUMAINFO,
        "XENMEM_reserved_device_memory_map" = xen_abi::memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP,
        "XENMEM_acquire_resource" = xen_abi::memory::XENMEM_ACQUIRE_RESOURCE,
        "XENMEMF_populate_on_demand" = xen_abi::memory::XENMEMF_POPULATE_ON_DEMAND,
        "XENMEMF_exact_node_request" = xen_abi::memory::XENMEMF_EXACT_NODE_REQUEST,
        "XENMEMF_vnode" = xen_abi::memory::XENMEMF_VNODE,
        "XENMAPSPACE_shared_info" = xen_abi::memory::XENMAPSPACE_SHARED_INFO,
        "XENMAPSPACE_grant_table" = xen_abi::memory::XENMAPSPACE_GRANT_TABLE,
        "XENMAPSPACE_gmfn" = xen_abi::memory::XENMAPSPACE_GMFN,
        "XENMAPSPACE_gmfn_range" = xen_abi::memory::XENMAPSPACE_GMFN_RANGE,
        "XENMAPSPACE_gmfn_foreign" = xen_abi::memory::XENMAPSPACE_GMFN_FOREIGN,
        "XENMAPSPACE_dev_mmio" = xen_abi::memory::XENMAPSPACE_DEV_MMIO,
        "XENMAPIDX_grant_table_status" = xen_abi::memory::XENMAPIDX_GRANT_TABLE_STATUS,
        "XENMEM_resource_ioreq_server" = xen_abi::memory::XENMEM_RESOURCE_IOREQ_SERVER,
        "XENMEM_resource_grant_table" = xen_abi::memory::XENMEM_RESOURCE_GRANT_TABLE,
        "XENMEM_resource_vmtrace_buf" = xen_abi::memory::XENMEM_RESOURCE_VMTRACE_BUF,
        "XENMEM_resource_grant_table_id_shared" = xen_abi::memory::XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
        "XENMEM_resource_grant_table_id_status" = xen_abi::memory::XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS,
        "SCHEDOP_yield" = xen_abi::sched::SCHEDOP_YIELD,
        "SCHEDOP_block" = xen_abi::sched::SCHEDOP_BLOCK,
        "SCHEDOP_shutdown" = xen_abi::sched::SCHEDOP_SHUTDOWN,
        "SCHEDOP_poll" = xen_abi::sched::SCHEDOP_POLL,
        "SCHEDOP_remote_shutdown" = xen_abi::sched::SCHEDOP_REMOTE_SHUTDOWN,
        "SCHEDOP_shutdown_code" = xen_abi::sched::SCHEDOP_SHUTDOWN_CODE,
        "SCHEDOP_watchdog" = xen_abi::sched::SCHEDOP_WATCHDOG,
        "SCHEDOP_pin_override" = xen_abi::sched::SCHEDOP_PIN_OVERRIDE,
        "SHUTDOWN_poweroff" = xen_abi::sched::SHUTDOWN_POWEROFF,
        "SHUTDOWN_reboot" = xen_abi::sched::SHUTDOWN_REBOOT,
        "SHUTDOWN_suspend" = xen_abi::sched::SHUTDOWN_SUSPEND,
        "SHUTDOWN_crash" = xen_abi::sched::SHUTDOWN_CRASH,
        "SHUTDOWN_watchdog" = xen_abi::sched::SHUTDOWN_WATCHDOG,
        "SHUTDOWN_soft_reset" = xen_abi::sched::SHUTDOWN_SOFT_RESET,
        "SHUTDOWN_MAX" = xen_abi::sched::SHUTDOWN_MAX,
        "VCPUOP_initialise" = xen_abi::vcpu::VCPUOP_INITIALISE,
        "VCPUOP_up" = xen_abi::vcpu::VCPUOP_UP,
        "VCPUOP_down" = xen_abi::vcpu::VCPUOP_DOWN,
        "VCPUOP_is_up" = xen_abi::vcpu::VCPUOP_IS_UP,
        "VCPUOP_get_runstate_info" = xen_abi::vcpu::VCPUOP_GET_RUNSTATE_INFO,
        "VCPUOP_register_runstate_memory_area" = xen_abi::vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        "VCPUOP_set_periodic_timer" = xen_abi::vcpu::VCPUOP_SET_PERIODIC_TIMER,
        "VCPUOP_stop_periodic_timer" = xen_abi::vcpu::VCPUOP_STOP_PERIODIC_TIMER,
        "VCPUOP_set_singleshot_timer" = xen_abi::vcpu::VCPUOP_SET_SINGLESHOT_TIMER,
        "VCPUOP_stop_singleshot_timer" = xen_abi::vcpu::VCPUOP_STOP_SINGLESHOT_TIMER,
        "VCPUOP_register_vcpu_info" = xen_abi::vcpu::VCPUOP_REGISTER_VCPU_INFO,
        "VCPUOP_send_nmi" = xen_abi::vcpu::VCPUOP_SEND_NMI,
        "VCPUOP_get_physid" = xen_abi::vcpu::VCPUOP_GET_PHYSID,
        "VCPUOP_register_vcpu_time_memory_area" = xen_abi::vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
        "RUNSTATE_running" = xen_abi::vcpu::RUNSTATE_RUNNING,
        "RUNSTATE_runnable" = xen_abi::vcpu::RUNSTATE_RUNNABLE,
        "RUNSTATE_blocked" = xen_abi::vcpu::RUNSTATE_BLOCKED,
        "RUNSTATE_offline" = xen_abi::vcpu::RUNSTATE_OFFLINE,
        "XEN_RUNSTATE_UPDATE" = xen_abi::vcpu::XEN_RUNSTATE_UPDATE,
        "VGCF_online" = xen_abi::vcpu::VGCF_ONLINE,
        "HVMOP_set_param" = xen_abi::hvm::HVMOP_SET_PARAM,
        "HVMOP_get_param" = xen_abi::hvm::HVMOP_GET_PARAM,
        "HVMOP_flush_tlbs" = xen_abi::hvm::HVMOP_FLUSH_TLBS,
        "HVMOP_guest_request_vm_event" = xen_abi::hvm::HVMOP_GUEST_REQUEST_VM_EVENT,
        "HVMOP_altp2m" = xen_abi::hvm::HVMOP_ALTP2M,
        "HVM_PARAM_CALLBACK_IRQ" = xen_abi::hvm::HVM_PARAM_CALLBACK_IRQ,
        "HVM_PARAM_STORE_PFN" = xen_abi::hvm::HVM_PARAM_STORE_PFN,
        "HVM_PARAM_STORE_EVTCHN" = xen_abi::hvm::HVM_PARAM_STORE_EVTCHN,
        "HVM_PARAM_CONSOLE_PFN" = xen_abi::hvm::HVM_PARAM_CONSOLE_PFN,
        "HVM_PARAM_CONSOLE_EVTCHN" = xen_abi::hvm::HVM_PARAM_CONSOLE_EVTCHN,
        "HVM_PARAM_MONITOR_RING_PFN" = xen_abi::hvm::HVM_PARAM_MONITOR_RING_PFN,
        "HVM_NR_PARAMS" = xen_abi::hvm::HVM_NR_PARAMS,
        "HVM_PARAM_CALLBACK_TYPE_PPI" = xen_abi::hvm::HVM_PARAM_CALLBACK_TYPE_PPI,
        "HVM_PARAM_CALLBACK_TYPE_PPI_FLAG_LOW_LEVEL" = xen_abi::hvm::HVM_PARAM_CALLBACK_TYPE_PPI_FLAG_LOW_LEVEL,
        "PHYSDEVOP_pci_device_add" = xen_abi::physdev::PHYSDEVOP_PCI_DEVICE_ADD,
        "PHYSDEVOP_pci_device_remove" = xen_abi::physdev::PHYSDEVOP_PCI_DEVICE_REMOVE,
        "PHYSDEVOP_prepare_msix" = xen_abi::physdev::PHYSDEVOP_PREPARE_MSIX,
        "PHYSDEVOP_release_msix" = xen_abi::physdev::PHYSDEVOP_RELEASE_MSIX,
        "XEN_PCI_DEV_EXTFN" = xen_abi::physdev::XEN_PCI_DEV_EXTFN,
        "XEN_PCI_DEV_VIRTFN" = xen_abi::physdev::XEN_PCI_DEV_VIRTFN,
        "XEN_PCI_DEV_PXM" = xen_abi::physdev::XEN_PCI_DEV_PXM,
        "XENPF_INTERFACE_VERSION" = xen_abi::platform::XENPF_INTERFACE_VERSION,
        "XENPF_settime32" = xen_abi::platform::XENPF_SETTIME32,
        "XENPF_settime64" = xen_abi::platform::XENPF_SETTIME64,
        "CONSOLEIO_write" = xen_abi::misc::CONSOLEIO_WRITE,
        "CONSOLEIO_read" = xen_abi::misc::CONSOLEIO_READ,
        "VMASST_CMD_enable" = xen_abi::misc::VMASST_CMD_ENABLE,
        "VMASST_CMD_disable" = xen_abi::misc::VMASST_CMD_DISABLE,
        "VMASST_TYPE_runstate_update_flag" = xen_abi::misc::VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
        "XEN_DOMCTL_INTERFACE_VERSION" = xen_abi::control::XEN_DOMCTL_INTERFACE_VERSION,
        "XEN_SYSCTL_INTERFACE_VERSION" = xen_abi::control::XEN_SYSCTL_INTERFACE_VERSION,
        "XEN_DOMCTL_createdomain" = xen_abi::control::XEN_DOMCTL_CREATEDOMAIN,
        "XEN_DOMCTL_destroydomain" = xen_abi::control::XEN_DOMCTL_DESTROYDOMAIN,
        "XEN_DOMCTL_pausedomain" = xen_abi::control::XEN_DOMCTL_PAUSEDOMAIN,
        "XEN_DOMCTL_unpausedomain" = xen_abi::control::XEN_DOMCTL_UNPAUSEDOMAIN,
        "XEN_DOMCTL_getdomaininfo" = xen_abi::control::XEN_DOMCTL_GETDOMAININFO,
        "XEN_DOMCTL_setvcpuaffinity" = xen_abi::control::XEN_DOMCTL_SETVCPUAFFINITY,
        "XEN_DOMCTL_shadow_op" = xen_abi::control::XEN_DOMCTL_SHADOW_OP,
        "XEN_DOMCTL_max_mem" = xen_abi::control::XEN_DOMCTL_MAX_MEM,
        "XEN_DOMCTL_setvcpucontext" = xen_abi::control::XEN_DOMCTL_SETVCPUCONTEXT,
        "XEN_DOMCTL_getvcpucontext" = xen_abi::control::XEN_DOMCTL_GETVCPUCONTEXT,
        "XEN_DOMCTL_getvcpuinfo" = xen_abi::control::XEN_DOMCTL_GETVCPUINFO,
        "XEN_DOMCTL_max_vcpus" = xen_abi::control::XEN_DOMCTL_MAX_VCPUS,
        "XEN_DOMCTL_scheduler_op" = xen_abi::control::XEN_DOMCTL_SCHEDULER_OP,
        "XEN_DOMCTL_setdomainhandle" = xen_abi::control::XEN_DOMCTL_SETDOMAINHANDLE,
        "XEN_DOMCTL_setdebugging" = xen_abi::control::XEN_DOMCTL_SETDEBUGGING,
        "XEN_DOMCTL_irq_permission" = xen_abi::control::XEN_DOMCTL_IRQ_PERMISSION,
        "XEN_DOMCTL_iomem_permission" = xen_abi::control::XEN_DOMCTL_IOMEM_PERMISSION,
        "XEN_DOMCTL_ioport_permission" = xen_abi::control::XEN_DOMCTL_IOPORT_PERMISSION,
        "XEN_DOMCTL_hypercall_init" = xen_abi::control::XEN_DOMCTL_HYPERCALL_INIT,
        "XEN_DOMCTL_settimeoffset" = xen_abi::control::XEN_DOMCTL_SETTIMEOFFSET,
        "XEN_DOMCTL_getvcpuaffinity" = xen_abi::control::XEN_DOMCTL_GETVCPUAFFINITY,
        "XEN_DOMCTL_resumedomain" = xen_abi::control::XEN_DOMCTL_RESUMEDOMAIN,
        "XEN_DOMCTL_sendtrigger" = xen_abi::control::XEN_DOMCTL_SENDTRIGGER,
        "XEN_DOMCTL_subscribe" = xen_abi::control::XEN_DOMCTL_SUBSCRIBE,
        "XEN_DOMCTL_gethvmcontext" = xen_abi::control::XEN_DOMCTL_GETHVMCONTEXT,
        "XEN_DOMCTL_sethvmcontext" = xen_abi::control::XEN_DOMCTL_SETHVMCONTEXT,
        "XEN_DOMCTL_set_address_size" = xen_abi::control::XEN_DOMCTL_SET_ADDRESS_SIZE,
        "XEN_DOMCTL_get_address_size" = xen_abi::control::XEN_DOMCTL_GET_ADDRESS_SIZE,
        "XEN_DOMCTL_assign_device" = xen_abi::control::XEN_DOMCTL_ASSIGN_DEVICE,
        "XEN_DOMCTL_bind_pt_irq" = xen_abi::control::XEN_DOMCTL_BIND_PT_IRQ,
        "XEN_DOMCTL_memory_mapping" = xen_abi::control::XEN_DOMCTL_MEMORY_MAPPING,
        "XEN_DOMCTL_test_assign_device" = xen_abi::control::XEN_DOMCTL_TEST_ASSIGN_DEVICE,
        "XEN_DOMCTL_set_target" = xen_abi::control::XEN_DOMCTL_SET_TARGET,
        "XEN_DOMCTL_deassign_device" = xen_abi::control::XEN_DOMCTL_DEASSIGN_DEVICE,
        "XEN_DOMCTL_unbind_pt_irq" = xen_abi::control::XEN_DOMCTL_UNBIND_PT_IRQ,
        "XEN_DOMCTL_get_device_group" = xen_abi::control::XEN_DOMCTL_GET_DEVICE_GROUP,
        "XEN_DOMCTL_debug_op" = xen_abi::control::XEN_DOMCTL_DEBUG_OP,
        "XEN_DOMCTL_gethvmcontext_partial" = xen_abi::control::XEN_DOMCTL_GETHVMCONTEXT_PARTIAL,
        "XEN_DOMCTL_vm_event_op" = xen_abi::control::XEN_DOMCTL_VM_EVENT_OP,
        "XEN_DOMCTL_set_access_required" = xen_abi::control::XEN_DOMCTL_SET_ACCESS_REQUIRED,
        "XEN_DOMCTL_set_virq_handler" = xen_abi::control::XEN_DOMCTL_SET_VIRQ_HANDLER,
        "XEN_DOMCTL_setnodeaffinity" = xen_abi::control::XEN_DOMCTL_SETNODEAFFINITY,
        "XEN_DOMCTL_getnodeaffinity" = xen_abi::control::XEN_DOMCTL_GETNODEAFFINITY,
        "XEN_DOMCTL_cacheflush" = xen_abi::control::XEN_DOMCTL_CACHEFLUSH,
        "XEN_DOMCTL_setvnumainfo" = xen_abi::control::XEN_DOMCTL_SETVNUMAINFO,
        "XEN_DOMCTL_monitor_op" = xen_abi::control::XEN_DOMCTL_MONITOR_OP,
        "XEN_DOMCTL_soft_reset" = xen_abi::control::XEN_DOMCTL_SOFT_RESET,
        "XEN_DOMCTL_vuart_op" = xen_abi::control::XEN_DOMCTL_VUART_OP,
        "XEN_DOMCTL_get_paging_mempool_size" = xen_abi::control::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE,
        "XEN_DOMCTL_set_paging_mempool_size" = xen_abi::control::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
        "XEN_SYSCTL_readconsole" = xen_abi::control::XEN_SYSCTL_READCONSOLE,
        "XEN_SYSCTL_tbuf_op" = xen_abi::control::XEN_SYSCTL_TBUF_OP,
        "XEN_SYSCTL_physinfo" = xen_abi::control::XEN_SYSCTL_PHYSINFO,
        "XEN_SYSCTL_sched_id" = xen_abi::control::XEN_SYSCTL_SCHED_ID,
        "XEN_SYSCTL_perfc_op" = xen_abi::control::XEN_SYSCTL_PERFC_OP,
        "XEN_SYSCTL_getdomaininfolist" = xen_abi::control::XEN_SYSCTL_GETDOMAININFOLIST,
        "XEN_SYSCTL_debug_keys" = xen_abi::control::XEN_SYSCTL_DEBUG_KEYS,
        "XEN_SYSCTL_getcpuinfo" = xen_abi::control::XEN_SYSCTL_GETCPUINFO,
        "XEN_SYSCTL_availheap" = xen_abi::control::XEN_SYSCTL_AVAILHEAP,
        "XEN_SYSCTL_get_pmstat" = xen_abi::control::XEN_SYSCTL_GET_PMSTAT,
        "XEN_SYSCTL_cpu_hotplug" = xen_abi::control::XEN_SYSCTL_CPU_HOTPLUG,
        "XEN_SYSCTL_pm_op" = xen_abi::control::XEN_SYSCTL_PM_OP,
        "XEN_SYSCTL_page_offline_op" = xen_abi::control::XEN_SYSCTL_PAGE_OFFLINE_OP,
        "XEN_SYSCTL_lockprof_op" = xen_abi::control::XEN_SYSCTL_LOCKPROF_OP,
        "XEN_SYSCTL_cputopoinfo" = xen_abi::control::XEN_SYSCTL_CPUTOPOINFO,
        "XEN_SYSCTL_numainfo" = xen_abi::control::XEN_SYSCTL_NUMAINFO,
        "XEN_SYSCTL_cpupool_op" = xen_abi::control::XEN_SYSCTL_CPUPOOL_OP,
        "XEN_SYSCTL_scheduler_op" = xen_abi::control::XEN_SYSCTL_SCHEDULER_OP,
        "XEN_SYSCTL_coverage_op" = xen_abi::control::XEN_SYSCTL_COVERAGE_OP,
        "XEN_SYSCTL_pcitopoinfo" = xen_abi::control::XEN_SYSCTL_PCITOPOINFO,
        "XEN_SYSCTL_livepatch_op" = xen_abi::control::XEN_SYSCTL_LIVEPATCH_OP,
        "GUEST_VIRTIO_MMIO_BASE" = xen_abi::guest::GUEST_VIRTIO_MMIO_BASE,
        "GUEST_VIRTIO_MMIO_SIZE" = xen_abi::guest::GUEST_VIRTIO_MMIO_SIZE,
        "GUEST_GICD_BASE" = xen_abi::guest::GUEST_GICD_BASE,
        "GUEST_GICD_SIZE" = xen_abi::guest::GUEST_GICD_SIZE,
        "GUEST_GICC_BASE" = xen_abi::guest::GUEST_GICC_BASE,
        "GUEST_GICC_SIZE" = xen_abi::guest::GUEST_GICC_SIZE,
        "GUEST_GICV3_GICD_BASE" = xen_abi::guest::GUEST_GICV3_GICD_BASE,
        "GUEST_GICV3_GICD_SIZE" = xen_abi::guest::GUEST_GICV3_GICD_SIZE,
        "GUEST_GICV3_GICR0_BASE" = xen_abi::guest::GUEST_GICV3_GICR0_BASE,
        "GUEST_GICV3_GICR0_SIZE" = xen_abi::guest::GUEST_GICV3_GICR0_SIZE,
        "GUEST_VPCI_ECAM_BASE" = xen_abi::guest::GUEST_VPCI_ECAM_BASE,
        "GUEST_VPCI_ECAM_SIZE" = xen_abi::guest::GUEST_VPCI_ECAM_SIZE,
        "GUEST_ACPI_BASE" = xen_abi::guest::GUEST_ACPI_BASE,
        "GUEST_ACPI_SIZE" = xen_abi::guest::GUEST_ACPI_SIZE,
        "GUEST_PL011_BASE" = xen_abi::guest::GUEST_PL011_BASE,
        "GUEST_PL011_SIZE" = xen_abi::guest::GUEST_PL011_SIZE,
        "GUEST_VPCI_MEM_ADDR" = xen_abi::guest::GUEST_VPCI_MEM_ADDR,
        "GUEST_VPCI_MEM_SIZE" = xen_abi::guest::GUEST_VPCI_MEM_SIZE,
        "GUEST_GNTTAB_BASE" = xen_abi::guest::GUEST_GNTTAB_BASE,
        "GUEST_GNTTAB_SIZE" = xen_abi::guest::GUEST_GNTTAB_SIZE,
        "GUEST_MAGIC_BASE" = xen_abi::guest::GUEST_MAGIC_BASE,
        "GUEST_MAGIC_SIZE" = xen_abi::guest::GUEST_MAGIC_SIZE,
        "GUEST_RAM0_BASE" = xen_abi::guest::GUEST_RAM0_BASE,
        "GUEST_RAM0_SIZE" = xen_abi::guest::GUEST_RAM0_SIZE,
        "GUEST_VPCI_PREFETCH_MEM_ADDR" = xen_abi::guest::GUEST_VPCI_PREFETCH_MEM_ADDR,
        "GUEST_VPCI_PREFETCH_MEM_SIZE" = xen_abi::guest::GUEST_VPCI_PREFETCH_MEM_SIZE,
        "GUEST_RAM1_BASE" = xen_abi::guest::GUEST_RAM1_BASE,
        "GUEST_RAM1_SIZE" = xen_abi::guest::GUEST_RAM1_SIZE,
        "GUEST_RAM_BANKS" = xen_abi::guest::GUEST_RAM_BANKS,
        "GUEST_MAX_VCPUS" = xen_abi::guest::GUEST_MAX_VCPUS,
        "GUEST_TIMER_VIRT_PPI" = xen_abi::guest::GUEST_TIMER_VIRT_PPI,
        "GUEST_TIMER_PHYS_S_PPI" = xen_abi::guest::GUEST_TIMER_PHYS_S_PPI,
        "GUEST_TIMER_PHYS_NS_PPI" = xen_abi::guest::GUEST_TIMER_PHYS_NS_PPI,
        "GUEST_EVTCHN_PPI" = xen_abi::guest::GUEST_EVTCHN_PPI,
        "GUEST_VPL011_SPI" = xen_abi::guest::GUEST_VPL011_SPI,
        "GUEST_VIRTIO_MMIO_SPI_FIRST" = xen_abi::guest::GUEST_VIRTIO_MMIO_SPI_FIRST,
        "GUEST_VIRTIO_MMIO_SPI_LAST" = xen_abi::guest::GUEST_VIRTIO_MMIO_SPI_LAST,
        "PSR_GUEST32_INIT" = xen_abi::guest::PSR_GUEST32_INIT,
        "XEN_LEGACY_MAX_VCPUS" = xen_abi::shared_info::XEN_LEGACY_MAX_VCPUS,
    }
}

fn words(rows: &mut Vec<Row>) {
    rows.push(Row::Struct(
        "shared_info",
        xen_abi::shared_info::SHARED_INFO_SIZE,
    ));
    rows.push(Row::Struct(
        "vcpu_info",
        xen_abi::shared_info::VCPU_INFO_SIZE,
    ));
    rows.push(Row::Struct(
        "vcpu_guest_context",
        xen_abi::vcpu::VCPU_GUEST_CONTEXT_SIZE,
    ));
    rows.push(Row::Field(
        "shared_info",
        "evtchn_pending",
        xen_abi::shared_info::SHARED_INFO_EVTCHN_PENDING,
        None,
    ));
    rows.push(Row::Field(
        "shared_info",
        "evtchn_mask",
        xen_abi::shared_info::SHARED_INFO_EVTCHN_MASK,
        None,
    ));
    rows.push(Row::Field(
        "shared_info",
        "wc_version",
        xen_abi::shared_info::SHARED_INFO_WC_VERSION,
        None,
    ));
    rows.push(Row::Field(
        "shared_info",
        "wc_sec",
        xen_abi::shared_info::SHARED_INFO_WC_SEC,
        None,
    ));
    rows.push(Row::Field(
        "shared_info",
        "wc_nsec",
        xen_abi::shared_info::SHARED_INFO_WC_NSEC,
        None,
    ));
    rows.push(Row::Field(
        "shared_info",
        "wc_sec_hi",
        xen_abi::shared_info::SHARED_INFO_WC_SEC_HI,
        None,
    ));
    rows.push(Row::Field(
        "vcpu_info",
        "evtchn_upcall_pending",
        xen_abi::shared_info::VCPU_INFO_UPCALL_PENDING,
        None,
    ));
    rows.push(Row::Field(
        "vcpu_info",
        "pad0",
        xen_abi::shared_info::VCPU_INFO_UPCALL_MASK,
        None,
    ));
    rows.push(Row::Field(
        "vcpu_info",
        "evtchn_pending_sel",
        xen_abi::shared_info::VCPU_INFO_PENDING_SEL,
        None,
    ));
    rows.push(Row::Field(
        "vcpu_info",
        "time",
        xen_abi::shared_info::VCPU_INFO_TIME,
        None,
    ));
}
