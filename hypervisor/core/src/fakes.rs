//! A machine in the host's memory: frames, tables, consoles and three domains, whose hypercalls go through
//! [`crate::hypercall::dispatch`]. Guest memory is reached through the domain's own p2m, and every access checks that no
//! lock is held meanwhile. For the tests of this crate and, with the feature `fakes`, for the fuzzer.
//!
//! A machine keeps nothing when it is dropped, so that a fuzzer can make millions; only the frame table's storage goes
//! back to a pool.
#![allow(missing_docs, reason = "for tests")]
#![allow(clippy::missing_panics_doc, reason = "a test fails by panicking")]

mod guest;
pub mod invariants;
mod pages;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use xen_abi::hypercall::HYPERVISOR_MULTICALL;
use xen_abi::vcpu::VcpuGuestContext;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::addr::{
    CpuId, DomId, Gfn, GuestPhys, GuestVirt, HostPhys, IntId, Mfn, PAGE_SIZE, VcpuId,
};
use crate::console::GuestLine;
use crate::domain::{Domain, DomainFacts, DomainTable, InterruptOwners, Parts, Vmids};
use crate::emulate::Execution;
use crate::emulate::psci::PowerStates;
use crate::errno::Errno;
use crate::evtchn::{EventChannels, NO_PORT_LIMIT};
use crate::frames::{Contents, FrameAllocator, FrameTable, Owner};
use crate::gnttab::{DeviceView, GrantTable, Limits, Maptrack};
use crate::hal::Hal;
use crate::hypercall::{Cx, Effects, HypercallRegs, Outcome, dispatch};
use crate::hypervisor::{GuestDefaults, Hypervisor, Identity, Policy, Release, Setting, XEN_4_17};
use crate::machine::{Fault, GuestMemory, PhysIrq, SharedPage, Trigger};
use crate::p2m::{P2m, P2mMemory, PageAccount};
use crate::sched::{Affinity, CpuSet, Kicker, Scheduler, UnitTable};
use crate::stage2::{Geometry, Table, TableMemory};
use crate::sync::SpinLock;
use crate::time::TickScale;
use crate::vgic::{
    LineLevels, ListRegisters, Redistributors, Resample, Version, Vgic, VgicConfig, Width,
};

pub use guest::{Called, Guest};
use pages::Mapped;
pub use pages::{FakeMemory, FakePage};

pub type Hv = Hypervisor<FakeHal>;
type Words = [AtomicU32; 1024];
type Storage = &'static [AtomicU64];

/// The first frame of RAM, and of every domain's.
pub const RAM: u32 = 0x4_0000;
/// Frames of RAM.
pub const FRAMES: u32 = 2048;
/// Frames of dom0, at [`RAM`] on, 1:1.
pub const DOM0_PAGES: u32 = 256;
/// Frames of the others, at guest frame [`RAM`] on.
pub const DOMU_PAGES: u32 = 64;
/// The guest interrupt of event channels.
const UPCALL: IntId = IntId::new(31);

/// Never an interrupt.
const NEVER: u32 = u32::MAX;

pub struct FakeHal {
    hv: OnceLock<Weak<Hv>>,
    storage: Storage,
    /// By frame from [`RAM`] on.
    tables: Mutex<Vec<Option<Arc<Table>>>>,
    ram: Mutex<HashMap<u32, Ram>>,
    pub console: Mutex<Vec<u8>>,
    pub typed: Mutex<VecDeque<u8>>,
    pub keys: Mutex<Vec<u8>>,
    pub ticks: AtomicU64,
    /// An interrupt is pending at every such look.
    pub interrupt_every: AtomicU32,
    looks: AtomicU32,
    pub no_mappings: AtomicBool,
    pub mapped: AtomicU32,
    /// How often each frame is mapped as a shared page.
    pub mappings: Mutex<HashMap<u32, u32>>,
    pub flushed: Mutex<Vec<Mfn>>,
    /// How often the TLB was flushed for a change of stage 2.
    pub tlb_flushes: AtomicU32,
}

impl FakeHal {
    fn new(storage: Storage) -> Self {
        Self {
            hv: OnceLock::new(),
            storage,
            tables: Mutex::default(),
            ram: Mutex::default(),
            console: Mutex::default(),
            typed: Mutex::default(),
            keys: Mutex::default(),
            ticks: AtomicU64::new(1000),
            interrupt_every: AtomicU32::new(NEVER),
            looks: AtomicU32::new(0),
            no_mappings: AtomicBool::new(false),
            mapped: AtomicU32::new(0),
            mappings: Mutex::default(),
            flushed: Mutex::default(),
            tlb_flushes: AtomicU32::new(0),
        }
    }

    fn hv(&self) -> Arc<Hv> {
        let hv = self.hv.get().and_then(Weak::upgrade);
        hv.expect("installed")
    }

    /// Returns the words of a frame.
    pub fn words(&self, mfn: Mfn) -> Arc<Words> {
        let fill = |value| Arc::new(std::array::from_fn(|_| AtomicU32::new(value)));
        fail_alloc::never(|| {
            let mut ram = self.ram.lock().unwrap();
            let frame = ram.entry(mfn.raw()).or_insert(Ram::Dirty);
            match frame {
                Ram::Used(words) => words.clone(),
                Ram::Dirty | Ram::Zero => {
                    let words = fill(if matches!(frame, Ram::Zero) {
                        0
                    } else {
                        0xdead_beef
                    });
                    *frame = Ram::Used(Arc::clone(&words));
                    words
                }
            }
        })
    }

    /// Goes through the bytes of a range within one page or more: word, shift, index.
    fn bytes(
        &self,
        at: HostPhys,
        len: usize,
        mut body: impl FnMut(&AtomicU32, u32, usize),
    ) -> Result<(), Fault> {
        let mut page: Option<(Mfn, Arc<Words>)> = None;
        for index in 0..len {
            let at = at.checked_add(index as u64).ok_or(Fault)?;
            let mfn = at.frame().ok_or(Fault)?;
            if page.as_ref().is_none_or(|(of, _)| *of != mfn) {
                page = Some((mfn, self.words(mfn)));
            }
            let offset = at.page_offset();
            if let Some((_, words)) = &page {
                body(&words[offset / 4], (offset % 4) as u32 * 8, index);
            }
        }
        Ok(())
    }
}

/// The content of a frame; most are never looked at.
enum Ram {
    Dirty,
    Zero,
    Used(Arc<Words>),
}

/// How much RAM there is.
#[derive(Clone, Copy)]
pub struct Size {
    /// All frames.
    pub frames: u32,
    /// Those of dom0.
    pub dom0: u32,
    /// Those of each other domain.
    pub domu: u32,
}

impl Size {
    /// Room for what tests do.
    pub const TESTS: Self = Self {
        frames: FRAMES,
        dom0: DOM0_PAGES,
        domu: DOMU_PAGES,
    };
    /// Small, so that it is quick to make.
    pub const SMALL: Self = Self {
        frames: 256,
        dom0: 40,
        domu: 32,
    };
}

/// Frame tables that nobody uses, zeroed before use.
static POOL: Mutex<Vec<Storage>> = Mutex::new(Vec::new());

fn storage() -> Storage {
    let storage = POOL.lock().unwrap().pop();
    let storage =
        storage.unwrap_or_else(|| Box::leak((0..FRAMES).map(|_| AtomicU64::new(0)).collect()));
    for word in storage {
        word.store(0, Ordering::Relaxed);
    }
    storage
}

impl Drop for FakeHal {
    fn drop(&mut self) {
        POOL.lock().unwrap().push(self.storage);
    }
}

impl Hal for FakeHal {
    type Page = FakePage;
    type P2mMemory = FakeMemory;
    type VcpuContext = Option<VcpuGuestContext>;

    fn now(&self) -> u64 {
        self.ticks.load(Ordering::SeqCst)
    }
    fn p2m_memory(&self, _vttbr: u64) -> FakeMemory {
        FakeMemory(self.hv())
    }
    fn map_shared(&self, mfn: Mfn) -> Result<FakePage, Errno> {
        if self.no_mappings.load(Ordering::SeqCst) {
            return Err(Errno::NoMem);
        }
        self.mapped.fetch_add(1, Ordering::SeqCst);
        fail_alloc::never(|| *self.mappings.lock().unwrap().entry(mfn.raw()).or_default() += 1);
        let (words, hv) = (self.words(mfn), Arc::downgrade(&self.hv()));
        Ok(FakePage(fail_alloc::never(|| {
            Arc::new(Mapped { words, mfn, hv })
        })))
    }
    fn read_phys(&self, from: HostPhys, buf: &mut [u8]) -> Result<(), Fault> {
        self.bytes(from, buf.len(), |word, shift, index| {
            buf[index] = (word.load(Ordering::Relaxed) >> shift) as u8;
        })
    }
    fn write_phys(&self, to: HostPhys, buf: &[u8]) -> Result<(), Fault> {
        self.bytes(to, buf.len(), |word, shift, index| {
            let before = word.load(Ordering::Relaxed);
            let after = before & !(0xff << shift) | u32::from(buf[index]) << shift;
            word.store(after, Ordering::Relaxed);
        })
    }
    fn copy_phys(&self, from: HostPhys, to: HostPhys, length: usize) -> Result<(), Fault> {
        assert!(from.page_offset().max(to.page_offset()) + length <= PAGE_SIZE);
        assert!(from.frame() != to.frame() || from.raw().abs_diff(to.raw()) >= length as u64);
        let mut bytes = [0; PAGE_SIZE];
        self.read_phys(from, &mut bytes[..length])?;
        self.write_phys(to, &bytes[..length])
    }
    fn zero_frame(&self, mfn: Mfn) {
        let mut ram = self.ram.lock().unwrap();
        match fail_alloc::never(|| ram.entry(mfn.raw()).or_insert(Ram::Zero)) {
            Ram::Used(words) => {
                for word in words.iter() {
                    word.store(0, Ordering::Relaxed);
                }
            }
            frame => *frame = Ram::Zero,
        }
    }
    fn flush_frame(&self, mfn: Mfn) {
        fail_alloc::never(|| self.flushed.lock().unwrap().push(mfn));
    }
    fn new_context(&self, _: VcpuId, _: Execution, _has_pmu: bool) -> Self::VcpuContext {
        None
    }
    fn set_registers(
        &self,
        context: &mut Self::VcpuContext,
        registers: &VcpuGuestContext,
    ) -> Result<(), Errno> {
        *context = Some(*registers);
        Ok(())
    }
    fn registers(&self, context: &Self::VcpuContext) -> VcpuGuestContext {
        context.unwrap_or_else(VcpuGuestContext::new_zeroed)
    }
    fn with_distributor<R>(&self, action: impl FnOnce(&mut dyn PhysIrq) -> R) -> R {
        action(&mut NoDevices)
    }
    fn forget_domain(&self, _domain: &Domain<Self>) {}
    fn invalidate_instruction_caches(&self) {}
    fn console_write(&self, bytes: &[u8]) {
        fail_alloc::never(|| self.console.lock().unwrap().extend_from_slice(bytes));
    }
    fn domain_write(&self, domain: DomId, line: &mut GuestLine, bytes: &[u8]) {
        fail_alloc::never(|| {
            let mut console = self.console.lock().unwrap();
            for &byte in bytes {
                line.push(byte, &mut |text| {
                    console.extend_from_slice(format!("{}: {text}\n", domain.raw()).as_bytes());
                });
            }
        });
    }
    fn console_read(&self, buf: &mut [u8]) -> usize {
        let mut typed = self.typed.lock().unwrap();
        let count = buf.len().min(typed.len());
        for (to, from) in buf.iter_mut().zip(typed.drain(..count)) {
            *to = from;
        }
        count
    }
    fn console_log(&self, since: Option<u32>, out: &mut [u8]) -> (usize, u32) {
        let log = self.console.lock().unwrap();
        let from = since.map_or(0, |from| (from as usize).min(log.len()));
        let count = out.len().min(log.len() - from);
        out[..count].copy_from_slice(&log[from..from + count]);
        (count, (from + count) as u32)
    }
    fn console_forget(&self, to: u32) {
        self.console.lock().unwrap().drain(..to as usize);
    }
    fn press_key(&self, key: u8) {
        fail_alloc::never(|| self.keys.lock().unwrap().push(key));
    }
    fn cpus(&self) -> CpuSet {
        let mut cpus = CpuSet::single(CpuId::new(0));
        cpus.insert(CpuId::new(1));
        cpus
    }
    fn idle_ticks(&self, cpu: CpuId) -> u64 {
        cpu.index() as u64 + 1
    }
    fn has_pending_interrupt(&self) -> bool {
        let every = self.interrupt_every.load(Ordering::SeqCst);
        every != NEVER && (self.looks.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(every)
    }
}

impl Domain<FakeHal> {
    /// The words of its `shared_info`.
    pub fn shared_info_words(&self) -> &Words {
        self.shared_info.words()
    }

    /// Nothing may be locked while guest memory is touched, and between calls.
    pub fn assert_unlocked(&self) {
        // Between threads whose orders are explored, others may hold them now.
        #[cfg(test)]
        if let Some(held) = crate::sync::interleave::locks_held() {
            assert_eq!(held, 0, "locks are held");
            return;
        }
        assert!(self.p2m.try_lock().is_some(), "p2m is locked");
        assert!(self.events.try_lock().is_some(), "event channels locked");
        assert!(self.grants.try_lock().is_some(), "grant table is locked");
        assert!(self.maptrack.try_lock().is_some(), "maptrack is locked");
        assert!(self.vgic.try_lock().is_some(), "vGIC is locked");
        assert!(self.hvm_params.try_lock().is_some(), "params are locked");
    }
}

/// A distributor without devices.
pub struct NoDevices;

impl PhysIrq for NoDevices {
    fn enable(&mut self, _irq: IntId) {}
    fn disable(&mut self, _irq: IntId) {}
    fn set_trigger(&mut self, _irq: IntId, _trigger: Trigger) {}
    fn set_pending(&mut self, _irq: IntId, _pending: bool) {}
    fn deactivate(&mut self, _irq: IntId) {}
    fn is_pending(&self, _irq: IntId) -> bool {
        false
    }
}

impl LineLevels for NoDevices {
    fn is_asserted(&self, _vcpu: VcpuId, _irq: IntId) -> bool {
        false
    }
}

/// Empty list registers.
impl ListRegisters for NoDevices {
    fn read_lr(&self, _n: usize) -> u32 {
        0
    }
    fn write_lr(&mut self, _n: usize, _value: u32) {}
    fn empty_lrs(&self) -> u32 {
        0xf
    }
    fn ended_lrs(&self) -> u32 {
        0
    }
    fn set_underflow(&mut self, _on: bool) {}
    fn vmcr(&self) -> u32 {
        0
    }
    fn set_vmcr(&mut self, _value: u32) {}
    fn apr(&self) -> u32 {
        0
    }
    fn set_apr(&mut self, _value: u32) {}
}

/// Where tests put a call's structure.
pub const ARG: u64 = page(8);
/// Where tests put lists.
pub const LIST: u64 = page(10);
/// An address with nothing behind it.
pub const NOWHERE: u64 = 0x1000_0000;

/// Returns the address of a page of every domain.
pub const fn page(n: u32) -> u64 {
    ((RAM + n) as u64) << 12
}

/// The pCPUs: what they were told.
#[derive(Default)]
pub struct FakeCpus {
    pub rescheduled: Mutex<CpuSet>,
    pub looked: Mutex<CpuSet>,
    /// Ticks since the machine was made.
    pub passed: AtomicU64,
}

impl Kicker for Arc<FakeCpus> {
    fn reschedule(&self, cpus: &CpuSet) {
        let mut set = self.rescheduled.lock().unwrap();
        *set = set.or(cpus);
    }
    fn look(&self, cpu: CpuId) {
        self.looked.lock().unwrap().insert(cpu);
    }
    fn ticks(&self) -> u64 {
        1000 + self.passed.load(Ordering::SeqCst)
    }
}

/// The machine with dom0 (privileged, 1:1, two vCPUs) and two plain domains.
pub struct World {
    pub hv: Arc<Hv>,
    pub cpus: Arc<FakeCpus>,
    pub dom0: Guest,
    pub dom1: Guest,
    pub dom2: Guest,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        Self::sized(Size::TESTS)
    }

    pub fn sized(size: Size) -> Self {
        Self::of(size, XEN_4_17)
    }

    /// A machine whose hypervisor speaks as this release does.
    pub fn of(size: Size, release: Release) -> Self {
        Self::with_gicv(size, release, Some(Mfn::new(0x804)))
    }

    /// A machine whose GIC has its virtual CPU interface there, or is a GICv3.
    pub fn with_gicv(size: Size, release: Release, gicv: Option<Mfn>) -> Self {
        let storage = storage();
        let bank = (Mfn::new(RAM), size.frames);
        let frames = FrameTable::new(&[bank], storage).unwrap();
        let mut allocator = FrameAllocator::new();
        allocator
            .add(&frames, bank.0, bank.1, Contents::Dirty)
            .unwrap();
        allocator
            .claim(&frames, bank.0, size.dom0, Owner::Domain(DomId::DOM0))
            .unwrap();
        let text = |text: &str| text.to_string();
        let cpus: Arc<FakeCpus> = Arc::default();
        let scale = TickScale::new(62_500_000);
        let policy = crate::sched::default_policy();
        let scheduler = Scheduler::new(policy, Box::new(cpus.clone()), scale, 1000);
        for cpu in 0..2 {
            let added =
                scheduler.with(|pools, now, kick| pools.add_cpu(CpuId::new(cpu), now, kick));
            added.unwrap();
        }
        let hv: Arc<Hv> = Arc::new(Hypervisor {
            hal: FakeHal::new(storage),
            frames,
            allocator: SpinLock::new(allocator),
            domains: DomainTable::default(),
            units: UnitTable::default(),
            scheduler: Arc::new(scheduler),
            policy: Policy::default(),
            identity: Identity {
                virt_start: 0x20_0000,
                version: release.version,
                extra_version: text(".5-xenith"),
                capabilities: text("xen-3.0-armv7l "),
                command_line: text("dom0_mem=512M"),
                compile_info: [text("rustc"), text("user"), text("host"), text("today")],
                changeset: text("git:0123456789ab"),
                build_id: std::array::from_fn(|n| n as u8 + 1),
            },
            guests: GuestDefaults {
                geometry: Geometry::ARMV7,
                execution: Execution::AArch32,
                executions: if release.version < (4, 18) {
                    &[Execution::AArch32]
                } else {
                    &[Execution::AArch64, Execution::AArch32]
                },
                lr_count: 4,
                gicv,
                virtual_timer: IntId::new(27),
                clock_frequency: 0,
                has_pmu: true,
                grants: Limits::default(),
                grant_frames: Setting::new(Limits::default().max_frames),
                maptrack_frames: Setting::new(1024),
            },
            vmids: Vmids::new(8),
            watchdog: AtomicU64::new(u64::MAX),
            wants_reap: AtomicBool::new(false),
            interrupts: InterruptOwners::new(96),
            virq_handlers: Default::default(),
            wallclock: SpinLock::new((0, 0)),
            scale,
            boot_ticks: 1000,
        });
        assert!(hv.hal.hv.set(Arc::downgrade(&hv)).is_ok());
        Self {
            cpus,
            dom0: domain(&hv, 0, size),
            dom1: domain(&hv, 1, size),
            dom2: domain(&hv, 2, size),
            hv,
        }
    }
}

fn domain(hv: &Arc<Hv>, number: u16, size: Size) -> Guest {
    let id = DomId::new(number);
    let is_dom0 = number == 0;
    let pages = if is_dom0 { size.dom0 } else { size.domu };
    let mut memory = hv.hal.p2m_memory(0);
    let account = Arc::new(PageAccount::new(pages));
    let mut p2m = P2m::new(&mut memory, Geometry::ARMV7, id, is_dom0, account).unwrap();
    if is_dom0 {
        for frame in RAM..RAM + pages {
            hv.hal.zero_frame(Mfn::new(frame));
        }
        p2m.add_ram(&mut memory, Gfn::new(RAM), Mfn::new(RAM), pages)
            .unwrap();
    } else {
        for frame in RAM..RAM + pages {
            p2m.populate(&mut memory, Gfn::new(frame), 0).unwrap();
        }
    }
    let vttbr = p2m.stage2().root().address().raw() | u64::from(hv.vmids.take().unwrap()) << 48;
    let account = p2m.account().clone();
    let shared_info = hv.alloc_shared_page(id, &account).unwrap();
    let limits = Limits {
        max_frames: 4,
        max_version: if is_dom0 { 2 } else { 1 },
        ..Limits::default()
    };
    let grants = GrantTable::new(id, limits, &mut || hv.alloc_shared_page(id, &account)).unwrap();
    let view = if is_dom0 {
        DeviceView::Identity
    } else {
        DeviceView::Translated
    };
    let max_port = if is_dom0 { NO_PORT_LIMIT } else { 1023 };
    let vcpus = 2;
    let events = EventChannels::new(id, vcpus, max_port, shared_info.clone()).unwrap();
    let config = VgicConfig {
        version: Version::V2,
        vcpus: usize::from(vcpus),
        nr_spis: 32,
        lr_count: 4,
    };
    let mut vgic = Vgic::new(config).unwrap();
    vgic.ask_line(UPCALL, Resample::OnRaise).unwrap();
    // The distributor is on, and so is the upcall's interrupt.
    for vcpu in (0..vcpus).map(VcpuId::new) {
        for (register, value) in [(0, 1), (0x100, 1 << UPCALL.raw())] {
            let kicked = vgic.mmio_write(vcpu, register, Width::Word, value, &mut NoDevices);
            let _ = kicked.unwrap();
        }
        // As at the last entry to the guest.
        vgic.restore(vcpu, &mut NoDevices);
        let _ = vgic.flush(vcpu, &mut NoDevices);
    }
    let facts = DomainFacts {
        id,
        is_privileged: is_dom0,
        is_xenstore: false,
        is_direct_mapped: is_dom0,
        has_pmu: false,
        upcall_ppi: UPCALL,
        virtual_timer_ppi: IntId::new(27),
        physical_timer_ppi: IntId::new(30),
        gicd: GuestPhys::new(0x0300_1000),
        redistributors: Redistributors::default(),
    };
    let parts = Parts {
        facts,
        vttbr,
        grants,
        maptrack: Maptrack::new(id, 2, view),
        events,
        vgic,
        power: PowerStates::try_new(vcpus).unwrap(),
        shared_info,
        execution: Execution::AArch32,
        contexts: vec![None, None],
        virtual_offset: 0,
        scheduler: hv.scheduler.clone(),
    };
    let domain = Domain::new(parts, p2m).ok().unwrap();
    hv.units
        .add_domain(&hv.scheduler, &domain, 0, |_| Affinity::default())
        .unwrap();
    domain.set_offline(&domain.vcpus[0], false);
    hv.domains.add(domain.clone()).unwrap();
    Guest {
        allocations: u32::MAX,
        hv: hv.clone(),
        domain,
        vcpu: VcpuId::new(0),
    }
}
