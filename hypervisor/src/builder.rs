//! Building a domain at boot, dom0 or another: RAM, kernel and initrd in it, devices, and its parts put together.
//!
//! A [`Draft`] has RAM and can be written to through its own physical address space, so that it does not matter whether
//! that is 1:1. [`Draft::finish`] makes a domain of it, which does not run yet.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use log::info;
use xenith_arch::GuestFrame;
use xenith_boot::cmdline::Options;
use xenith_boot::kernel::{self, ImageSink, ImageSource, KernelImage, Probe, ReadError, SinkFull};
use xenith_boot::memory::{PhysRange, normalise};
use xenith_boot::placement::{Placement, place};
use xenith_core::addr::{DomId, GuestPhys, HostPhys, IntId, Mfn, PAGE_SIZE, VcpuId};
use xenith_core::domain::{self, Domain, DomainFacts};
use xenith_core::emulate::Execution;
use xenith_core::emulate::psci::PowerStates;
use xenith_core::evtchn::{EventChannels, NO_PORT_LIMIT};
use xenith_core::frames::Owner;
use xenith_core::gnttab::{DeviceView, GrantTable, Limits, MOST_FRAMES, Maptrack};
use xenith_core::hal::Hal;
use xenith_core::machine::{PhysIrq, Trigger};
use xenith_core::p2m::{Access, P2m, PageAccount, Relinquish};
use xenith_core::sched::Affinity;
use xenith_core::stage2::PageType;
use xenith_core::vgic::{Redistributors, Resample, Version, Vgic, VgicConfig};
use xenith_hw::shared_page::MappedPage;

use crate::arch::Features;
use crate::machine::{Hv, Machine};
use crate::say;
use crate::vcpu::VcpuContext;

/// Frames of a grant table window, as `gnttab_max_frames` has it by default.
pub const GRANT_FRAMES: u32 = 64;

/// The limits of a domain's grant table as the command line has them, with its own number of frames if it has one.
pub fn grant_limits(options: &Options<'_>, frames: Option<u32>) -> Limits {
    let default = Limits::default();
    Limits {
        max_frames: frames
            .or(options.gnttab_max_frames)
            .unwrap_or(GRANT_FRAMES)
            .clamp(1, MOST_FRAMES),
        max_version: options.gnttab.max_version.unwrap_or(default.max_version),
        has_transitive: options.gnttab.transitive.unwrap_or(default.has_transitive),
    }
}

/// Frames of mappings of others' grants.
pub const MAPTRACK_FRAMES: u32 = 1024;
/// A kernel in gzip may not unpack to more.
const MAX_UNPACKED: u64 = 128 << 20;
/// The largest pieces that RAM is allocated in: 2 MiB, an entry of stage 2.
const PIECE_ORDER: u32 = 9;
/// The highest event channel of a domain other than dom0, as Xen's toolstack and boot code set it.
const DOMU_MAX_PORT: u32 = 1023;
/// Pages that a domain which is given up is freed by at a time.
const ABANDON_STEP: u32 = 1 << 16;

/// A domain that has memory and nothing else yet.
pub struct Draft {
    hv: &'static Hv,
    id: DomId,
    p2m: P2m,
    vttbr: u64,
    is_direct_mapped: bool,
    /// The domain's RAM, as it sees it.
    pub banks: Vec<PhysRange>,
}

/// A domain's kernel before it is where it belongs.
pub struct Kernel {
    /// Where its image is: in the boot module, or, unpacked, in the domain's RAM.
    range: PhysRange,
    is_unpacked: bool,
    image: KernelImage,
}

impl Kernel {
    /// Returns what the domain has to be for it.
    pub fn execution(&self) -> Execution {
        self.image.execution()
    }
}

/// What a domain is started with.
pub struct Start<'a> {
    /// What its kernel is.
    pub execution: Execution,
    /// Where everything lies in its RAM.
    pub placement: &'a Placement,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// The CPU as it sees it.
    pub features: &'a Features,
    /// Its virtual distributor.
    pub gicd: HostPhys,
    /// The redistributors of its GICv3.
    pub redistributors: Redistributors,
    /// How many SPIs that has.
    pub nr_spis: u16,
    /// List registers of the GIC.
    pub lr_count: usize,
    /// The SPIs of the machine that are its own, under their numbers.
    pub spis: &'a [(IntId, Trigger)],
    /// The timers' PPIs: secure physical, non-secure physical, virtual.
    pub timer_ppis: [IntId; 3],
    /// The PPI of the event channel upcall.
    pub upcall_ppi: IntId,
    /// The limits of its grant table.
    pub grants: Limits,
    /// Frames of its mappings of others' grants, at most.
    pub maptrack_frames: u32,
    /// Whether it has performance monitors.
    pub has_pmu: bool,
    /// Its pool of CPUs.
    pub pool: u32,
    /// Where each vCPU may run.
    pub affinity: &'a dyn Fn(VcpuId) -> Affinity,
}

/// What a domain has beside its memory.
struct Parts {
    vgic: Vgic,
    shared_info: MappedPage,
    grants: GrantTable<MappedPage>,
    events: EventChannels<MappedPage>,
    power: PowerStates,
}

/// A boot module's bytes, or those of a domain's RAM.
enum Bytes<'a> {
    Module(&'static Hv, PhysRange),
    Ram(&'a Draft, PhysRange),
}

impl Bytes<'_> {
    fn range(&self) -> PhysRange {
        match self {
            Self::Module(_, range) | Self::Ram(_, range) => *range,
        }
    }
}

impl ImageSource for Bytes<'_> {
    fn len(&self) -> u64 {
        self.range().size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(buf.len() as u64).ok_or(ReadError)?;
        if end > self.range().size() {
            return Err(ReadError);
        }
        let at = self.range().base().checked_add(offset).ok_or(ReadError)?;
        match self {
            Self::Module(hv, _) => hv.hal.read_phys(at, buf).map_err(|_| ReadError),
            Self::Ram(draft, _) => draft.read(at.raw(), buf).map_err(|_| ReadError),
        }
    }
}

/// Writes an unpacked kernel into free RAM of the domain.
struct RamSink<'a> {
    draft: &'a Draft,
    next: u64,
    end: u64,
}

impl ImageSink for RamSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        let next = self.next + bytes.len() as u64;
        if next > self.end {
            return Err(SinkFull);
        }
        self.draft.write(self.next, bytes).map_err(|_| SinkFull)?;
        self.next = next;
        Ok(())
    }
}

/// Turns an error into the sentence that it is.
pub fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

impl Draft {
    /// Begins a domain that may have `bytes` of RAM.
    ///
    /// # Errors
    /// No memory for its tables.
    #[cold]
    #[inline(never)]
    pub fn new(
        hv: &'static Hv,
        id: DomId,
        is_direct_mapped: bool,
        bytes: u64,
    ) -> Result<Self, String> {
        let account = Arc::new(PageAccount::new((bytes / PAGE_SIZE as u64) as u32));
        let mut memory = hv.hal.p2m_memory(0);
        let p2m = P2m::new(
            &mut memory,
            hv.guests.geometry,
            id,
            is_direct_mapped,
            account,
        )
        .map_err(|error| format!("no memory for {id}'s stage-2 tables: {error:?}"))?;
        let vmid = hv.vmids.take().ok_or("there are no more VMIDs")?;
        let vttbr = p2m.stage2().root().address().raw() | (u64::from(vmid) << 48);
        Ok(Self {
            hv,
            id,
            p2m,
            vttbr,
            is_direct_mapped,
            banks: Vec::new(),
        })
    }

    /// Gives the domain the frames of `host`, which are free, as the RAM that it sees at `guest`.
    ///
    /// # Errors
    /// They are not free, or there is no memory for tables.
    #[cold]
    #[inline(never)]
    pub fn give_frames(&mut self, host: PhysRange, guest: u64) -> Result<(), String> {
        let hv = self.hv;
        let pages = (host.size() / PAGE_SIZE as u64) as u32;
        let (Some(start), Some(gfn)) = (host.base().frame(), GuestPhys::new(guest).frame()) else {
            return Err("a bank beyond the physical address space".to_string());
        };
        let claimed = hv
            .allocator
            .lock()
            .claim(&hv.frames, start, pages, Owner::Domain(self.id));
        claimed.map_err(|error| {
            format!(
                "{}'s memory at {:#x} cannot be claimed: {error:?}",
                self.id,
                host.base()
            )
        })?;
        let mut memory = hv.hal.p2m_memory(self.vttbr);
        self.p2m
            .add_ram(&mut memory, gfn, start, pages)
            .map_err(|error| format!("{}'s memory cannot be mapped: {error:?}", self.id))?;
        self.banks.push(PhysRange::from_size(guest, host.size()));
        Ok(())
    }

    /// Gives the domain RAM from anywhere, as `bank`.
    ///
    /// # Errors
    /// There is not enough.
    #[cold]
    #[inline(never)]
    pub fn give_ram(&mut self, bank: PhysRange) -> Result<(), String> {
        let mut memory = self.hv.hal.p2m_memory(self.vttbr);
        let mut at = bank.base().raw();
        let end = bank.end().raw();
        let mut largest = PIECE_ORDER;
        while at < end {
            let gfn = GuestPhys::new(at)
                .frame()
                .ok_or("a bank beyond the physical address space")?;
            let left = (end - at) / PAGE_SIZE as u64;
            let fits = gfn.raw().trailing_zeros().min(left.ilog2()).min(largest);
            match self.p2m.populate(&mut memory, gfn, fits) {
                Ok(mfn) => {
                    // Zeroes that are still in the cache must not come over what the guest writes with its caches off.
                    for i in 0..1 << fits {
                        self.hv.hal.flush_frame(Mfn::new(mfn.raw() + i));
                    }
                    at += (PAGE_SIZE as u64) << fits;
                }
                // In smaller pieces, perhaps.
                Err(_) if fits > 0 => largest = fits - 1,
                Err(_) => {
                    let missing = (end - at).div_ceil(1 << 20);
                    return Err(format!(
                        "{missing} MiB of {}'s memory cannot be had: lower its \"memory\", or dom0_mem",
                        self.id
                    ));
                }
            }
        }
        self.banks.push(bank);
        Ok(())
    }

    /// Joins banks that lie one behind the other.
    pub fn join_banks(&mut self) {
        self.banks = normalise(&self.banks);
    }

    /// Maps frames of the hypervisor's that domains share, at `guest`; each is referred to as long as it is mapped.
    ///
    /// # Errors
    /// Something else is there, or there is no memory for tables.
    #[cold]
    #[inline(never)]
    pub fn map_shared(&mut self, guest: PhysRange, frames: &[Mfn]) -> Result<(), String> {
        let hv = self.hv;
        let overlaps = self.banks.iter().any(|bank| bank.overlaps(&guest));
        let first = GuestPhys::new(guest.base().raw()).frame();
        let (false, Some(first)) = (overlaps, first) else {
            return Err(format!(
                "shared memory cannot be at {guest}: it has RAM there"
            ));
        };
        let mut memory = hv.hal.p2m_memory(self.vttbr);
        for (index, &mfn) in frames.iter().enumerate() {
            let mapped = hv
                .frames
                .get(mfn, Owner::Xen)
                .ok()
                .and_then(|()| first.checked_add(index as u32))
                .and_then(|gfn| {
                    self.p2m
                        .map_foreign(&mut memory, gfn, mfn, Access::ReadWrite)
                        .ok()
                });
            mapped.ok_or_else(|| format!("shared memory at {guest} cannot be mapped"))?;
        }
        Ok(())
    }

    /// Returns the frame behind an address of the domain.
    #[cold]
    #[inline(never)]
    fn frame(&self, at: u64) -> Result<Mfn, String> {
        let memory = self.hv.hal.p2m_memory(self.vttbr);
        GuestPhys::new(at)
            .frame()
            .and_then(|gfn| self.p2m.lookup(&memory, gfn))
            .filter(|mapping| mapping.ty.is_ram())
            .map(|mapping| mapping.mfn)
            .ok_or_else(|| format!("{:#x} is not {}'s memory", at, self.id))
    }

    /// Calls `each` for the pieces of a range of the domain's RAM: where they are in the machine, and in the range.
    #[cold]
    #[inline(never)]
    fn pieces(
        &self,
        at: u64,
        len: usize,
        mut each: impl FnMut(HostPhys, core::ops::Range<usize>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut done = 0;
        while done < len {
            let address = at + done as u64;
            let offset = address as usize % PAGE_SIZE;
            let n = (len - done).min(PAGE_SIZE - offset);
            let host = HostPhys::new(self.frame(address)?.address().raw() + offset as u64);
            each(host, done..done + n)?;
            done += n;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), String> {
        self.pieces(at, buf.len(), |host, range| {
            let read = self.hv.hal.read_phys(host, &mut buf[range]);
            read.map_err(|_| format!("memory at {host:#x} cannot be read"))
        })
    }

    /// Writes to the domain's RAM, through to memory: it starts with its caches off.
    ///
    /// # Errors
    /// It has no RAM there.
    #[cold]
    #[inline(never)]
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.pieces(at, bytes.len(), |host, range| {
            let written = self.hv.hal.memory.write(host, &bytes[range], true);
            written.map_err(|_| format!("memory at {host:#x} cannot be written"))
        })
    }

    #[cold]
    #[inline(never)]
    fn copy(&self, from: &Bytes<'_>, offset: u64, to: PhysRange) -> Result<(), String> {
        let mut buffer = Box::new([0u8; PAGE_SIZE]);
        let mut done = 0;
        while done < to.size() {
            let n = (to.size() - done).min(PAGE_SIZE as u64) as usize;
            from.read_at(offset + done, &mut buffer[..n])
                .map_err(|_| format!("a boot module at {} cannot be read", from.range()))?;
            self.write(to.base().raw() + done, &buffer[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    /// Looks what a kernel is, and unpacks it first if it is packed.
    ///
    /// # Errors
    /// A sentence about what is no kernel that runs here.
    #[cold]
    #[inline(never)]
    pub fn find_kernel(&self, kernel: PhysRange) -> Result<Kernel, String> {
        say!(
            "Loading {} kernel from boot module @ {:016x}",
            self.id,
            kernel.base()
        );
        let module = Bytes::Module(self.hv, kernel);
        let accepted = self.hv.guests.executions;
        match kernel::probe(&module).map_err(text)? {
            Probe::Kernel(image) => Ok(Kernel {
                range: kernel,
                is_unpacked: false,
                image: image.only(accepted).map_err(text)?,
            }),
            Probe::Gzip(gzip) => {
                // Unpacked at the start of the first bank, then moved to where it belongs, far above.
                let bank = self.banks.first().ok_or("the domain has no memory")?;
                let limit = (bank.size() / 2).min(MAX_UNPACKED);
                let start = bank.base().raw();
                let mut sink = RamSink {
                    draft: self,
                    next: start,
                    end: start + limit,
                };
                let size = kernel::inflate(&module, &gzip, limit, &mut sink).map_err(text)?;
                let range = PhysRange::from_size(start, size);
                let image = kernel::probe_unpacked(&Bytes::Ram(self, range), &gzip)
                    .and_then(|image| image.only(accepted))
                    .map_err(text)?;
                Ok(Kernel {
                    range,
                    is_unpacked: true,
                    image,
                })
            }
        }
    }

    /// Loads the kernel and the initrd, and says where they are and where the device tree of `tree_size` bytes goes.
    ///
    /// # Errors
    /// A sentence about what does not fit.
    #[cold]
    #[inline(never)]
    pub fn load(
        &self,
        kernel: &Kernel,
        initrd: Option<PhysRange>,
        tree_size: u64,
    ) -> Result<Placement, String> {
        let image = &kernel.image;
        let source = if kernel.is_unpacked {
            Bytes::Ram(self, kernel.range)
        } else {
            Bytes::Module(self.hv, kernel.range)
        };
        let initrd_size = initrd.map(|range| range.size());
        let placement = place(&self.banks, image, tree_size, initrd_size).map_err(text)?;
        let from = PhysRange::from_size(source.range().base().raw() + image.offset, image.size);
        say!(
            "Loading {} from {:016x} to {:016x}-{:016x}",
            image.format,
            from.base(),
            placement.kernel.base(),
            placement.kernel.end()
        );
        // An Image is unpacked where it belongs.
        let is_in_place =
            matches!(source, Bytes::Ram(..)) && from.base() == placement.kernel.base();
        if !is_in_place {
            if matches!(source, Bytes::Ram(..)) && from.overlaps(&placement.kernel) {
                return Err(format!(
                    "{}'s memory is too small to move the unpacked kernel: give it more",
                    self.id
                ));
            }
            let to = PhysRange::from_size(placement.kernel.base().raw(), image.size);
            self.copy(&source, image.offset, to)?;
        }
        if let (Some(from), Some(to)) = (initrd, placement.initrd) {
            say!(
                "Loading {} initrd from {:016x} to {:#018x}-{:#018x}",
                self.id,
                from.base(),
                to.base(),
                to.end()
            );
            self.copy(&Bytes::Module(self.hv, from), 0, to)?;
        }
        Ok(placement)
    }

    /// Writes the device tree to where it was placed.
    ///
    /// # Errors
    /// It has no RAM there.
    #[cold]
    #[inline(never)]
    pub fn load_tree(&self, placement: &Placement, blob: &[u8]) -> Result<(), String> {
        say!(
            "Loading {} DTB to {:#018x}-{:#018x}",
            self.id,
            placement.tree.base(),
            placement.tree.end()
        );
        self.write(placement.tree.base().raw(), blob)
    }

    /// Maps registers of the machine, whole pages, at `guest`.
    ///
    /// # Errors
    /// They are RAM, or there is no memory for tables.
    #[cold]
    #[inline(never)]
    pub fn map_registers(
        &mut self,
        host: PhysRange,
        guest: u64,
        ty: PageType,
    ) -> Result<(), String> {
        let (Some(start), Some(gfn)) = (host.base().frame(), GuestPhys::new(guest).frame()) else {
            return Err("a device beyond the physical address space".to_string());
        };
        let pages = host.size().div_ceil(PAGE_SIZE as u64) as u32;
        let mut memory = self.hv.hal.p2m_memory(self.vttbr);
        self.p2m
            .map_mmio(&mut memory, gfn, start, pages, ty)
            .map_err(|error| {
                format!(
                    "devices at {host} cannot be mapped into {}: {error:?}",
                    self.id
                )
            })
    }

    /// Bounds the memory for the domain's stage-2 tables.
    ///
    /// # Errors
    /// It has more already.
    #[cold]
    #[inline(never)]
    pub fn limit_tables(&mut self, bytes: u64) -> Result<(), String> {
        let pages = u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX);
        let set = self.p2m.stage2_mut().set_pool_limit(pages);
        set.map_err(|_| {
            format!("its stage-2 tables need more than {bytes} bytes: raise xen,domain-p2m-mem-mb")
        })
    }

    /// Gives the domain its interrupts, and says how its own are sampled.
    #[cold]
    #[inline(never)]
    fn connect(&self, vgic: &mut Vgic, start: &Start<'_>) -> Result<(), String> {
        let mut distributor = self.hv.hal.distributor.lock();
        for &(spi, trigger) in start.spis {
            distributor.disable(spi);
            distributor.set_trigger(spi, trigger);
            vgic.link_hw(spi, spi, trigger, &mut *distributor)
                .map_err(|error| {
                    format!(
                        "SPI {} cannot be given to {}: {error:?}",
                        spi.raw(),
                        self.id
                    )
                })?;
            info!("  - IRQ: {}", spi.raw());
        }
        let [_, physical, virt] = start.timer_ppis;
        let linked = vgic
            .link_hw(virt, virt, Trigger::Level, &mut *distributor)
            .and_then(|()| vgic.ask_line(virt, Resample::OnRaise))
            .and_then(|()| vgic.ask_line(start.upcall_ppi, Resample::OnRaise))
            .and_then(|()| vgic.ask_line(physical, Resample::OnEoi));
        linked.map_err(|error| {
            format!(
                "{}'s private interrupts cannot be set up: {error:?}",
                self.id
            )
        })
    }

    /// Gives up: all that the domain has is free again.
    #[cold]
    #[inline(never)]
    pub fn abandon(mut self) {
        let mut memory = self.hv.hal.p2m_memory(self.vttbr);
        while self.p2m.relinquish(&mut memory, ABANDON_STEP) == Relinquish::More {}
        self.hv.vmids.give_back((self.vttbr >> 48) as u16);
        if self.p2m.destroy(&mut memory).is_err() {
            log::error!("{}'s memory is lost: it is still in use", self.id);
        }
    }

    /// Makes what a domain has beside its memory.
    #[cold]
    #[inline(never)]
    fn parts(&self, start: &Start<'_>) -> Result<Parts, String> {
        let (hv, id) = (self.hv, self.id);
        let most = hv.guests.gic().max_vcpus();
        if start.vcpus as usize > most {
            return Err(format!(
                "{id} wants {} vCPUs, and the GIC of this machine can have {most}: use fewer",
                start.vcpus
            ));
        }
        let mut vgic = Vgic::new(VgicConfig {
            version: hv.guests.gic(),
            vcpus: start.vcpus as usize,
            nr_spis: start.nr_spis,
            lr_count: start.lr_count,
        })
        .map_err(|error| format!("the virtual GIC cannot be made: {error:?}"))?;
        if hv.guests.gic() == Version::V3 {
            vgic.set_regions(&start.redistributors);
        }
        self.connect(&mut vgic, start)?;
        let shared_info = hv
            .alloc_shared_page(id, self.p2m.account())
            .ok_or("no memory for the shared info page")?;
        let grants = GrantTable::new(id, start.grants, &mut || {
            hv.alloc_shared_page(id, self.p2m.account())
        })
        .map_err(|error| format!("no memory for the grant table: {error:?}"))?;
        let max_port = if id == DomId::DOM0 {
            NO_PORT_LIMIT
        } else {
            DOMU_MAX_PORT
        };
        let vcpus = start.vcpus as u16;
        let events = EventChannels::new(id, vcpus, max_port, shared_info.clone())
            .map_err(|error| format!("no memory for event channels: {error:?}"))?;
        let power = PowerStates::try_new(vcpus)
            .map_err(|error| format!("no memory for {id}'s vCPUs: {error:?}"))?;
        Ok(Parts {
            vgic,
            shared_info,
            grants,
            events,
            power,
        })
    }

    /// Puts the domain together; it runs when its first vCPU is switched on.
    ///
    /// # Errors
    /// A sentence that names what there is not enough of.
    #[cold]
    #[inline(never)]
    pub fn finish(self, start: &Start<'_>) -> Result<Arc<Domain<Machine>>, String> {
        let (hv, id) = (self.hv, self.id);
        let Parts {
            vgic,
            shared_info,
            grants,
            events,
            power,
        } = match self.parts(start) {
            Ok(parts) => parts,
            Err(error) => {
                self.abandon();
                return Err(error);
            }
        };
        let view = if self.is_direct_mapped {
            DeviceView::Identity
        } else {
            DeviceView::Translated
        };
        let vcpus = start.vcpus as u16;
        let mut contexts: Vec<VcpuContext> = (0..vcpus)
            .map(|index| VcpuContext::new(index, start.execution, start.features, start.has_pmu))
            .collect();
        if let Some(boot) = contexts.first_mut() {
            let tree = start.placement.tree.base().raw();
            boot.reset(GuestFrame::boot(
                start.execution,
                start.placement.entry,
                tree,
            ));
        }
        let [_, physical, virt] = start.timer_ppis;
        let facts = DomainFacts {
            id,
            is_privileged: id == DomId::DOM0,
            is_xenstore: false,
            is_direct_mapped: self.is_direct_mapped,
            has_pmu: start.has_pmu,
            upcall_ppi: start.upcall_ppi,
            virtual_timer_ppi: virt,
            physical_timer_ppi: physical,
            gicd: GuestPhys::new(start.gicd.raw()),
            redistributors: start.redistributors.clone(),
        };
        power.set_on(VcpuId::new(0));
        let parts = domain::Parts {
            facts,
            vttbr: self.vttbr,
            grants,
            maptrack: Maptrack::new(id, start.maptrack_frames, view),
            events,
            vgic,
            power,
            shared_info,
            execution: start.execution,
            contexts,
            virtual_offset: xenith_arch::timer::now(),
            scheduler: hv.scheduler.clone(),
        };
        let domain = match Domain::new(parts, self.p2m) {
            Ok(domain) => domain,
            Err(p2m) => {
                Self { p2m, ..self }.abandon();
                return Err(format!("no memory for {id} itself"));
            }
        };
        hv.start_clock(&domain);
        if let Err(error) = enter(hv, &domain, start) {
            hv.give_up(domain);
            return Err(error);
        }
        xenith_arch::cache::invalidate_instruction_caches();
        Ok(domain)
    }
}

/// Enters a domain in the tables of who runs, who has which interrupt, and who is there.
fn enter(hv: &'static Hv, domain: &Arc<Domain<Machine>>, start: &Start<'_>) -> Result<(), String> {
    let id = domain.facts.id;
    hv.units
        .add_domain(&hv.scheduler, domain, start.pool, |vcpu| {
            (start.affinity)(vcpu)
        })
        .map_err(|error| format!("no memory for {id}'s vCPUs: {error:?}"))?;
    for (spi, _) in start.spis {
        hv.interrupts
            .set(*spi, domain)
            .map_err(|error| format!("SPI {} is not for {id}: {error:?}", spi.raw()))?;
    }
    hv.domains
        .add(domain.clone())
        .map_err(|_| format!("{id} exists already"))
}
