//! Making a domain while the machine runs. Everything is allocated so that it can fail; then nothing stays behind.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use xen_abi::guest as map;

use super::{Domain, DomainFacts, Parts};
use crate::addr::{DomId, GuestPhys, IntId, VcpuId};
use crate::emulate::psci::PowerStates;
use crate::errno::Errno;
use crate::evtchn::EventChannels;
use crate::fallible;
use crate::gnttab::{DeviceView, GrantTable, Limits, Maptrack};
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::Trigger;
use crate::p2m::{P2m, PageAccount};
use crate::sched::Affinity;
use crate::stage2::PageType;
use crate::vgic::{Redistributors, Resample, Vgic, VgicConfig};

/// Pages of stage-2 tables that a domain may have before the toolstack says how many: for the interrupt controller.
const FIRST_TABLES: u32 = 16;

/// What a toolstack wants of a new domain, checked.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its number, or any.
    pub id: Option<DomId>,
    /// The toolstack's name for it.
    pub handle: [u8; 16],
    /// It runs xenstore.
    pub is_xenstore: bool,
    /// It has performance monitors.
    pub has_pmu: bool,
    /// vCPUs.
    pub vcpus: u16,
    /// The highest event channel.
    pub max_port: u32,
    /// Its grant table.
    pub grants: Limits,
    /// Frames of its mappings of others' grants, at most.
    pub maptrack_frames: u32,
    /// Shared interrupts.
    pub nr_spis: u16,
    /// Its CPU pool.
    pub pool: u32,
}

impl<H: Hal> Hypervisor<H> {
    /// Makes a domain: without memory, paused for the toolstack, all vCPUs off.
    ///
    /// # Errors
    /// `EEXIST`, `ENOMEM`; `EBUSY` when no VMID is left; `EINVAL`; `ENODEV`: no such pool. Nothing stays behind.
    pub fn create_domain(&self, request: &Request) -> Result<Arc<Domain<H>>, Errno> {
        let number = self.domains.reserve(request.id)?;
        let id = number.id();
        let vmid = self.vmids.take().ok_or(Errno::Busy)?;
        let made = self.make_memory(id).and_then(|p2m| {
            let vttbr = p2m.stage2().root().address().raw() | u64::from(vmid) << 48;
            self.make_domain(request, id, p2m, vttbr)
        });
        let domain = made.inspect_err(|_| self.vmids.give_back(vmid))?;
        self.start_clock(&domain);
        *domain.handle.lock() = request.handle;
        domain.toolstack_pauses.store(1, Ordering::SeqCst);
        domain.pause();
        let added = self
            .units
            .add_domain(&self.scheduler, &domain, request.pool, |_| {
                Affinity::default()
            })
            .map_err(|error| match error {
                // Xen's answer for a pool that there is not.
                Errno::NoEnt => Errno::NoDev,
                error => error,
            })
            .and_then(|()| self.domains.add(domain.clone()));
        if let Err(error) = added {
            self.give_up(domain);
            return Err(error);
        }
        let wallclock = self.wallclock.lock();
        crate::hypercall::publish_wallclock(&domain, *wallclock);
        drop(wallclock);
        Ok(domain)
    }

    /// A guest's clock begins at its own time 0: the wall clock that it is shown is as much later.
    pub fn start_clock(&self, domain: &Domain<H>) {
        let ticks = domain.virtual_offset.saturating_sub(self.boot_ticks);
        let seconds = self.scale.to_ns(ticks) / 1_000_000_000;
        domain.time_offset.store(seconds, Ordering::Relaxed);
    }

    fn make_memory(&self, id: DomId) -> Result<P2m, Errno> {
        let account = fallible::arc(PageAccount::new(0)).map_err(|_| Errno::NoMem)?;
        let mut memory = self.hal.p2m_memory(0);
        P2m::new(&mut memory, self.guests.geometry, id, false, account)
    }

    fn make_domain(
        &self,
        request: &Request,
        id: DomId,
        mut p2m: P2m,
        vttbr: u64,
    ) -> Result<Arc<Domain<H>>, Errno> {
        let made = match self.parts(request, id, &mut p2m, vttbr) {
            Ok(parts) => Domain::new(parts, p2m).map_err(|p2m| (Errno::NoMem, p2m)),
            Err(error) => Err((error, p2m)),
        };
        made.map_err(|(error, p2m)| {
            self.drop_memory(p2m, vttbr);
            error
        })
    }

    /// Makes what a domain has beside its memory.
    fn parts(
        &self,
        request: &Request,
        id: DomId,
        p2m: &mut P2m,
        vttbr: u64,
    ) -> Result<Parts<H>, Errno> {
        let guests = &self.guests;
        let mut memory = self.hal.p2m_memory(vttbr);
        p2m.reserve_tables(&mut memory, FIRST_TABLES)?;
        let mut redistributors = Redistributors::default();
        if let Some(gicv) = guests.gicv {
            let gicc = GuestPhys::new(map::GUEST_GICC_BASE)
                .frame()
                .ok_or(Errno::Inval)?;
            let pages = (map::GUEST_GICC_SIZE >> crate::addr::PAGE_SHIFT) as u32;
            p2m.map_mmio(&mut memory, gicc, gicv, pages, PageType::MmioDirectDev)?;
        } else {
            let region = (
                GuestPhys::new(map::GUEST_GICV3_GICR0_BASE),
                map::GUEST_GICV3_GICR0_SIZE,
            );
            redistributors = Redistributors::new([region], u32::from(request.vcpus))?;
        }

        let account = p2m.account().clone();
        let shared_info = self.alloc_shared_page(id, &account).ok_or(Errno::NoMem)?;
        let grants = GrantTable::new(id, request.grants, &mut || {
            self.alloc_shared_page(id, &account)
        })?;
        let events = EventChannels::new(id, request.vcpus, request.max_port, shared_info.clone())?;
        let ppi = |number: u32| IntId::new(number as u16);
        let facts = DomainFacts {
            id,
            is_privileged: false,
            is_xenstore: request.is_xenstore,
            is_direct_mapped: false,
            has_pmu: request.has_pmu,
            upcall_ppi: ppi(map::GUEST_EVTCHN_PPI),
            virtual_timer_ppi: ppi(map::GUEST_TIMER_VIRT_PPI),
            physical_timer_ppi: ppi(map::GUEST_TIMER_PHYS_NS_PPI),
            // The same for both versions.
            gicd: GuestPhys::new(map::GUEST_GICD_BASE),
            redistributors,
        };
        let mut vgic = Vgic::new(VgicConfig {
            version: guests.gic(),
            vcpus: usize::from(request.vcpus),
            nr_spis: request.nr_spis,
            lr_count: guests.lr_count,
        })?;
        self.hal.with_distributor(|distributor| {
            vgic.link_hw(
                facts.virtual_timer_ppi,
                guests.virtual_timer,
                Trigger::Level,
                distributor,
            )
        })?;
        vgic.ask_line(facts.virtual_timer_ppi, Resample::OnRaise)?;
        vgic.ask_line(facts.upcall_ppi, Resample::OnRaise)?;
        vgic.ask_line(facts.physical_timer_ppi, Resample::OnEoi)?;
        let maptrack = Maptrack::new(id, request.maptrack_frames, DeviceView::Translated);
        let power = PowerStates::try_new(request.vcpus)?;
        let mut contexts: Vec<H::VcpuContext> = Vec::new();
        contexts
            .try_reserve_exact(usize::from(request.vcpus))
            .map_err(|_| Errno::NoMem)?;
        let ids = (0..request.vcpus).map(VcpuId::new);
        contexts.extend(ids.map(|id| self.hal.new_context(id, guests.execution, request.has_pmu)));
        let virtual_offset = self.hal.now();
        let scheduler = self.scheduler.clone();
        Ok(Parts {
            facts,
            vttbr,
            grants,
            maptrack,
            events,
            vgic,
            power,
            shared_info,
            execution: guests.execution,
            contexts,
            virtual_offset,
            scheduler,
        })
    }
}
