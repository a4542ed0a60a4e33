//! The state of the whole machine, made once at boot and shared by reference.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use alloc::string::String;
use alloc::sync::Arc;

use crate::addr::{DomId, IntId, Mfn, VcpuId};
use crate::domain::{Domain, DomainTable, InterruptOwners, Stage, Vmids};
use crate::emulate::Execution;
use crate::errno::Errno;
use crate::evtchn::{VIRQ_COUNT, Virq};
use crate::frames::{
    AllocRequest, Allocation, Contents, FrameAllocator, FrameTable, MAX_ORDER, Owner, Put,
};
use crate::gnttab::Limits;
use crate::hal::Hal;
use crate::machine::HoldRam;
use crate::p2m::PageAccount;
use crate::sched::{Scheduler, UnitTable};
use crate::stage2::Geometry;
use crate::sync::SpinLock;
use crate::time::TickScale;
use crate::vgic::{HAS_V3, Version};

/// A release of Xen, as far as guests can tell it from another: an architecture chooses one, and nothing else asks which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Major and minor number.
    pub version: (u16, u16),
    /// The same as a text.
    pub number: &'static str,
    /// What follows it, at most 15 bytes.
    pub extra: &'static str,
    /// The first `compatible` of /hypervisor.
    pub compatible: &'static str,
}

impl core::fmt::Display for Release {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}{}", self.number, self.extra)
    }
}

/// Debian 12's, which its armhf tools want.
pub const XEN_4_17: Release = Release {
    version: (4, 17),
    number: "4.17",
    extra: ".5-xenith",
    compatible: "xen,xen-4.17",
};

/// Debian 13's, which its arm64 tools want.
pub const XEN_4_20: Release = Release {
    version: (4, 20),
    number: "4.20",
    extra: ".4-xenith",
    compatible: "xen,xen-4.20",
};

/// What the hypervisor says about itself to guests and tools.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Xen's version that we report: major and minor.
    pub version: (u16, u16),
    /// The text after the version, at most 15 bytes.
    pub extra_version: String,
    /// Where the hypervisor's address space begins, as XENVER_platform_parameters says.
    pub virt_start: u64,
    /// Guest types that can run here, as XENVER_capabilities gives them.
    pub capabilities: String,
    /// The command line.
    pub command_line: String,
    /// Compiler, user, host and date of the build.
    pub compile_info: [String; 4],
    /// What source the image was built from.
    pub changeset: String,
    /// The build id.
    pub build_id: [u8; 20],
}

/// Free memory, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeMemory {
    /// All of it.
    pub free: u32,
    /// What of it is to be scrubbed.
    pub dirty: u32,
    /// What of it domains have claimed.
    pub claimed: u32,
}

/// What every domain that is made at run time gets of the machine, and how much it gets when nobody says.
#[derive(Debug)]
pub struct GuestDefaults {
    /// The shape of stage 2.
    pub geometry: Geometry,
    /// What a domain is until a toolstack says otherwise.
    pub execution: Execution,
    /// What a domain can be.
    pub executions: &'static [Execution],
    /// List registers of the GIC.
    pub lr_count: usize,
    /// The first frame of the GIC's virtual CPU interface, if it is a GICv2; else it is a GICv3.
    pub gicv: Option<Mfn>,
    /// The machine's interrupt of the virtual timer.
    pub virtual_timer: IntId,
    /// The counter's rate in Hz where firmware does not tell it to guests, else 0.
    pub clock_frequency: u32,
    /// Whether a domain may have performance monitors.
    pub has_pmu: bool,
    /// The limits of a grant table; a toolstack may ask for another number of frames (`max_frames` here counts for none),
    /// and for less of the rest.
    pub grants: Limits,
    /// Frames of a grant table. Changes while the machine runs (hypfs).
    pub grant_frames: Setting,
    /// Frames of mappings of others' grants. Changes as well.
    pub maptrack_frames: Setting,
}

impl GuestDefaults {
    /// Returns the version of every domain's GIC, which is the machine's.
    pub fn gic(&self) -> Version {
        if HAS_V3 && self.gicv.is_none() {
            Version::V3
        } else {
            Version::V2
        }
    }
}

/// The domain that each global VIRQ goes to: dom0, unless a toolstack names another (set_virq_handler).
#[derive(Debug, Default)]
pub struct VirqHandlers([AtomicU16; VIRQ_COUNT]);

impl VirqHandlers {
    /// Returns who handles a VIRQ.
    pub fn get(&self, virq: Virq) -> DomId {
        let slot = self.0.get(usize::from(virq.raw()));
        slot.map_or(DomId::DOM0, |slot| DomId::new(slot.load(Ordering::Relaxed)))
    }

    /// Names another.
    pub fn set(&self, virq: Virq, handler: DomId) {
        if let Some(slot) = self.0.get(usize::from(virq.raw())) {
            slot.store(handler.raw(), Ordering::SeqCst);
        }
    }

    /// A domain handles nothing any more: it dies. dom0 does again.
    pub fn forget(&self, domain: DomId) {
        let order = Ordering::SeqCst;
        for slot in &self.0 {
            // Another toolstack may name another domain meanwhile.
            let _ = slot.compare_exchange(domain.raw(), DomId::DOM0.raw(), order, order);
        }
    }
}

/// A number that dom0 may change.
#[derive(Debug)]
pub struct Setting(AtomicU32);

impl Setting {
    /// Begins with a value.
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// Returns the value.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes the value, for what is made from now on.
    pub fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Who may have to do with whom (`xsm=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Domains without privileges only with a privileged one: Debian's default.
    #[default]
    Silo,
    /// All with all.
    Dummy,
}

/// The hypervisor.
pub struct Hypervisor<H: Hal> {
    /// The machine.
    pub hal: H,
    /// All RAM: owners and references.
    pub frames: FrameTable<&'static [AtomicU64]>,
    /// The free frames.
    pub allocator: SpinLock<FrameAllocator>,
    /// All domains.
    pub domains: DomainTable<H>,
    /// The vCPUs as the scheduler numbers them.
    pub units: UnitTable<H>,
    /// Who decides which vCPU runs where.
    pub scheduler: Arc<Scheduler>,
    /// What we are.
    pub identity: Identity,
    /// What domains made at run time get of the machine.
    pub guests: GuestDefaults,
    /// The VMIDs in use.
    pub vmids: Vmids,
    /// The earliest watchdog timer of any domain, in ticks.
    pub watchdog: AtomicU64,
    /// A domain that is dead may have lost its last reference.
    pub wants_reap: AtomicBool,
    /// Who may have to do with whom.
    pub policy: Policy,
    /// Whose the shared interrupts are.
    pub interrupts: InterruptOwners<H>,
    /// Who handles the global VIRQs.
    pub virq_handlers: VirqHandlers,
    /// Wall-clock seconds and nanoseconds at system time 0, as dom0 set it (XENPF_settime64).
    pub wallclock: SpinLock<(u64, u32)>,
    /// The counter's rate.
    pub scale: TickScale,
    /// The counter at boot: system time 0.
    pub boot_ticks: u64,
}

impl<H: Hal> Hypervisor<H> {
    /// Drops a reference to a frame, whoever owns it; frees it if it was the last. Needs no lock of a domain, so it may
    /// be called with any of them held.
    pub fn put_frame(&self, mfn: Mfn) {
        let Put::Last { owner, is_xenheap } = self.frames.put(mfn) else {
            return;
        };
        if self
            .allocator
            .lock()
            .free(&self.frames, mfn, 0, Contents::Dirty)
            .is_err()
        {
            log::error!("frame {mfn:#x} could not be freed: it is still in use");
            return;
        }
        if let Owner::Domain(id) = owner {
            self.note_freed(id, is_xenheap);
        }
    }

    /// Frees consecutive frames that nobody refers to, in blocks as large as they come.
    pub fn free_frames(&self, first: Mfn, pages: u32) {
        let mut allocator = self.allocator.lock();
        let (mut at, mut left) = (first.raw(), pages);
        while left != 0 {
            let order = at.trailing_zeros().min(left.ilog2()).min(MAX_ORDER);
            let freed = allocator.free(&self.frames, Mfn::new(at), order, Contents::Dirty);
            if freed.is_err() {
                log::error!("frames from {at:#x} could not be freed: one is still in use");
            }
            at = at.saturating_add(1 << order);
            left -= 1 << order;
        }
    }

    /// A frame of a domain was freed, since nobody refers to it any more.
    pub fn note_freed(&self, owner: DomId, is_xenheap: bool) {
        if let Some(domain) = self.domains.get(owner) {
            domain.account.note_freed(is_xenheap);
            if domain.stage() == Stage::Dead {
                self.ask_reap();
            }
        }
    }

    /// Allocates 2^`order` frames; their contents are what the answer says. `account` is the owner's, if it is a domain: what
    /// is set aside for it is used first.
    pub fn alloc_frames(
        &self,
        order: u32,
        owner: Owner,
        account: Option<&PageAccount>,
    ) -> Option<Allocation> {
        let mut allocator = self.allocator.lock();
        // The claim may end meanwhile: it is read and changed under the same lock.
        let own = account.map_or(0, PageAccount::claimed);
        let request = AllocRequest {
            own,
            ..AllocRequest::new(order, owner)
        };
        let got = allocator.alloc(&self.frames, &request).ok()?;
        if own != 0
            && let Some(account) = account
        {
            account.set_claimed(own.saturating_sub(1 << order));
        }
        Some(got)
    }

    /// Allocates a frame for a stage-2 table, not zeroed; with `is_aside`, one that was set aside for that.
    pub fn alloc_table(&self, is_aside: bool) -> Option<Mfn> {
        let request = AllocRequest {
            own: u32::from(is_aside),
            ..AllocRequest::new(0, Owner::Xen)
        };
        let got = self.allocator.lock().alloc(&self.frames, &request).ok()?;
        if got.contents == Contents::Dirty {
            self.hal.zero_frame(got.mfn);
        }
        Some(got.mfn)
    }

    /// Frees a frame of [`Self::alloc_table`]; with `is_aside` it is set aside again.
    pub fn free_table(&self, table: Mfn, is_aside: bool) {
        let mut allocator = self.allocator.lock();
        if allocator
            .free(&self.frames, table, 0, Contents::Dirty)
            .is_err()
        {
            log::error!("table {table:#x} could not be freed: it is still in use");
        } else if is_aside {
            // It is free just now.
            let _ = allocator.set_aside(1);
        }
    }

    /// Returns the free frames that are nobody's, those that wait to be scrubbed, and those that domains have claimed; the
    /// pools of tables count as used (`physinfo`).
    pub fn free_memory(&self) -> FreeMemory {
        let claimed = self
            .domains
            .all()
            .map(|domain| domain.account.claimed())
            .fold(0u32, u32::saturating_add);
        let allocator = self.allocator.lock();
        let pools = allocator.frames_aside().saturating_sub(claimed);
        FreeMemory {
            free: allocator.free_frames().saturating_sub(pools),
            dirty: allocator.dirty_frames(),
            claimed,
        }
    }

    /// Sets free memory aside, so that a domain can come to `pages` pages; 0 ends that (`XENMEM_claim_pages`).
    ///
    /// # Errors
    /// `EINVAL` when it has a claim, has as many pages already, or may not have them; `ENOMEM`.
    pub fn claim_pages(&self, domain: &Domain<H>, pages: u64) -> Result<(), Errno> {
        let account = &domain.account;
        let mut allocator = self.allocator.lock();
        if pages == 0 {
            allocator.end_aside(account.claimed());
            account.set_claimed(0);
            return Ok(());
        }
        let pages = u32::try_from(pages).map_err(|_| Errno::Inval)?;
        let missing = pages
            .checked_sub(account.pages())
            .filter(|missing| *missing != 0 && pages <= account.limit() && account.claimed() == 0)
            .filter(|_| domain.stage() == Stage::Alive)
            .ok_or(Errno::Inval)?;
        if !allocator.set_aside(missing) {
            return Err(Errno::NoMem);
        }
        account.set_claimed(missing);
        Ok(())
    }

    /// Tells the toolstack to look which domains there are and how they do (VIRQ_DOM_EXC).
    pub fn tell_domain_changed(&self) {
        self.raise_global(Virq::DOM_EXC);
    }

    /// Raises a global VIRQ with who handles it. The event channels are not locked.
    pub fn raise_global(&self, virq: Virq) {
        if let Some(handler) = self.domains.get(self.virq_handlers.get(virq)) {
            let notify = handler.events.lock().raise_virq(VcpuId::new(0), virq);
            handler.deliver(notify);
        }
    }

    /// Allocates a zeroed page of the hypervisor, shared with a domain and mapped here (shared_info, grant frames).
    /// `account` is the domain's.
    pub fn alloc_shared_page(&self, with: DomId, account: &PageAccount) -> Option<H::Page> {
        let got = self
            .allocator
            .lock()
            .alloc(&self.frames, &AllocRequest::new(0, Owner::Xen))
            .ok()?;
        if got.contents == Contents::Dirty {
            self.hal.zero_frame(got.mfn);
        }
        let shared = self.frames.share(got.mfn, with);
        if shared.is_ok() {
            account.add_shared();
        }
        let page = shared.ok().and_then(|()| self.hal.map_shared(got.mfn).ok());
        if page.is_none() {
            self.put_frame(got.mfn);
        }
        page
    }
}

/// The RAM of a domain, for copies to and from it: see [`HoldRam`].
pub struct RamOf<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    id: DomId,
    /// Frames of a direct-mapped domain are never freed while it runs: nothing need be held.
    is_direct_mapped: bool,
}

impl<'a, H: Hal> RamOf<'a, H> {
    /// The RAM of `domain`.
    pub fn new(hv: &'a Hypervisor<H>, domain: &Domain<H>) -> Self {
        Self {
            hv,
            id: domain.facts.id,
            is_direct_mapped: domain.facts.is_direct_mapped,
        }
    }
}

impl<H: Hal> HoldRam for RamOf<'_, H> {
    #[inline]
    fn hold(&self, mfn: Mfn) -> bool {
        let frames = &self.hv.frames;
        if self.is_direct_mapped {
            return frames.is_ram_of(mfn, self.id);
        }
        // The reference first: another vCPU may give the page up between two looks.
        if frames.get(mfn, Owner::Domain(self.id)).is_err() {
            return false;
        }
        let is_ram = frames.is_ram_of(mfn, self.id);
        if !is_ram {
            self.hv.put_frame(mfn);
        }
        is_ram
    }

    #[inline]
    fn release(&self, mfn: Mfn) {
        if !self.is_direct_mapped {
            self.hv.put_frame(mfn);
        }
    }
}

/// Returns the build id that 40 hexadecimal digits name; other text gives zeroes in its place.
pub fn build_id(hex: &str) -> [u8; 20] {
    let mut id = [0; 20];
    for (byte, pair) in id.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let text = core::str::from_utf8(pair).unwrap_or("0");
        *byte = u8::from_str_radix(text, 16).unwrap_or(0);
    }
    id
}
