//! The real machine behind the core's traits, and the one static that everything hangs on.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use alloc::sync::Arc;

use xen_abi::vcpu::VcpuGuestContext;
use xenith_arch::gic::Distributor;
use xenith_arch::guest_memory::PhysMemory;
use xenith_arch::mmu::Access;
use xenith_arch::{HypTables, setup, sysreg, timer};
use xenith_core::addr::{CpuId, DomId, HostPhys, IntId, Mfn, PAGE_SIZE, VcpuId};
use xenith_core::console::GuestLine;
use xenith_core::domain::Domain;
use xenith_core::emulate::Execution;
use xenith_core::errno::Errno;
use xenith_core::frames::{Contents, FrameTable, FrameZero, Owner};
use xenith_core::hal::Hal;
use xenith_core::hypervisor::Hypervisor;
use xenith_core::machine::{Fault, PhysIrq};
use xenith_core::p2m::{P2mMemory, PageAccount};
use xenith_core::sched::CpuSet;
use xenith_core::stage2::{Table, TableMemory};
use xenith_core::sync::{Once, SpinLock};
use xenith_hw::shared_page::{FreeSlot, MappedPage, Unmap};

use crate::arch::Features;
use crate::vcpu::VcpuContext;

/// The hypervisor on this machine.
pub type Hv = Hypervisor<Machine>;
/// A domain on this machine.
pub type Dom = Arc<Domain<Machine>>;

static HV: Once<Hv> = Once::new();

/// Sets the hypervisor up, once.
pub fn install(hv: Hv) -> &'static Hv {
    HV.call_once(|| hv)
}

/// Returns the hypervisor where no reference to it can be handed down: the panic path, and traits without a context.
pub fn installed() -> Option<&'static Hv> {
    HV.get()
}

/// No interrupt.
const NO_IRQ: u16 = u16::MAX;

/// The machine.
pub struct Machine {
    /// Physical memory through windows.
    pub memory: PhysMemory,
    /// The interrupt distributor.
    pub distributor: SpinLock<Distributor>,
    /// The hypervisor's own address space.
    pub tables: SpinLock<HypTables>,
    /// VTTBR of stage-2 tables without entries; 0 until they are there.
    no_stage2: AtomicU64,
    /// The CPU as guests see it.
    features: Features,
    console_irq: AtomicU16,
    /// Free frames may be scrubbed: the boot CPU has claimed what it needs.
    may_scrub: AtomicBool,
}

impl Machine {
    /// Puts the machine together.
    pub fn new(
        memory: PhysMemory,
        distributor: Distributor,
        tables: HypTables,
        features: Features,
    ) -> Self {
        Self {
            memory,
            distributor: SpinLock::new(distributor),
            tables: SpinLock::new(tables),
            no_stage2: AtomicU64::new(0),
            features,
            console_irq: AtomicU16::new(NO_IRQ),
            may_scrub: AtomicBool::new(false),
        }
    }

    /// Makes tables for pCPUs that run no guest. Without memory they keep what they have.
    pub fn make_no_stage2(&self, hv: &Hv) {
        let memory = DomainMemory {
            memory: self.memory,
            vttbr: 0,
        };
        if let Some(root) = memory.alloc_of(
            hv,
            u32::from(hv.guests.geometry.root_order()),
            Owner::Xen,
            None,
        ) {
            self.no_stage2
                .store(root.address().raw(), Ordering::Relaxed);
        }
    }

    /// Returns VTTBR for a pCPU that runs no guest.
    #[inline]
    pub fn no_stage2(&self) -> u64 {
        self.no_stage2.load(Ordering::Relaxed)
    }

    /// Makes `irq` the console's.
    pub fn set_console_irq(&self, irq: IntId) {
        self.console_irq.store(irq.raw(), Ordering::Relaxed);
    }

    /// Lets idle pCPUs scrub free frames from now on. While dom0's memory is claimed by address, none may be away for that.
    pub fn allow_scrubbing(&self) {
        self.may_scrub.store(true, Ordering::Relaxed);
    }

    /// Returns the console's interrupt.
    #[inline]
    pub fn console_irq(&self) -> Option<IntId> {
        match self.console_irq.load(Ordering::Relaxed) {
            NO_IRQ => None,
            irq => Some(IntId::new(irq)),
        }
    }
}

/// Allocates one frame for the hypervisor itself, not zeroed.
pub fn alloc_frame(hv: &Hv) -> Option<Mfn> {
    hv.alloc_frames(0, Owner::Xen, None).map(|got| got.mfn)
}

/// Frees what only the hypervisor refers to.
fn free_frames(hv: &Hv, mfn: Mfn, order: u32) {
    let mut allocator = hv.allocator.lock();
    if allocator
        .free(&hv.frames, mfn, order, Contents::Dirty)
        .is_err()
    {
        log::error!("frame {mfn:#x} could not be freed: it is still in use");
    }
}

/// The owner of the mappings of shared pages.
struct SharedPages;

static SHARED_PAGES: SharedPages = SharedPages;

impl Unmap for SharedPages {
    fn unmap(&self, mapping: FreeSlot) {
        let Some(hv) = installed() else { return };
        let mfn = hv.hal.tables.lock().unmap_shared(mapping);
        hv.put_frame(mfn);
    }
}

impl Hal for Machine {
    type Page = MappedPage;
    type P2mMemory = DomainMemory;
    type VcpuContext = VcpuContext;

    #[inline]
    fn now(&self) -> u64 {
        timer::now()
    }

    fn p2m_memory(&self, vttbr: u64) -> DomainMemory {
        DomainMemory {
            memory: self.memory,
            vttbr,
        }
    }

    fn map_shared(&self, mfn: Mfn) -> Result<MappedPage, Errno> {
        let hv = installed().ok_or(Errno::NoMem)?;
        let mapped = self
            .tables
            .lock()
            .map_shared(mfn, &SHARED_PAGES, &mut || alloc_frame(hv));
        mapped.map_err(|_| Errno::NoMem)
    }

    fn read_phys(&self, from: HostPhys, buf: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(from, buf)
    }

    fn write_phys(&self, to: HostPhys, buf: &[u8]) -> Result<(), Fault> {
        self.memory.write(to, buf, false)
    }

    fn copy_phys(&self, from: HostPhys, to: HostPhys, length: usize) -> Result<(), Fault> {
        self.memory.copy(from, to, length)
    }

    fn zero_frame(&self, mfn: Mfn) {
        self.memory.zero(mfn);
    }

    fn flush_frame(&self, mfn: Mfn) {
        self.memory.flush(mfn);
    }

    fn new_context(&self, vcpu: VcpuId, execution: Execution, has_pmu: bool) -> VcpuContext {
        VcpuContext::new(vcpu.raw(), execution, &self.features, has_pmu)
    }

    fn set_registers(
        &self,
        context: &mut VcpuContext,
        registers: &VcpuGuestContext,
    ) -> Result<(), Errno> {
        context.set_registers(registers)
    }

    fn registers(&self, context: &VcpuContext) -> VcpuGuestContext {
        context.registers()
    }

    fn with_distributor<R>(&self, action: impl FnOnce(&mut dyn PhysIrq) -> R) -> R {
        action(&mut *self.distributor.lock())
    }

    fn forget_domain(&self, domain: &Domain<Self>) {
        crate::console::forget_domain(domain);
    }

    fn invalidate_instruction_caches(&self) {
        xenith_arch::cache::invalidate_instruction_caches();
    }

    fn console_write(&self, bytes: &[u8]) {
        crate::console::guest_write(bytes);
    }

    fn domain_write(&self, domain: DomId, line: &mut GuestLine, bytes: &[u8]) {
        for &byte in bytes {
            crate::console::vuart_write(domain, line, byte);
        }
    }

    fn console_read(&self, buf: &mut [u8]) -> usize {
        crate::console::guest_read(buf)
    }

    fn console_log(&self, since: Option<u32>, out: &mut [u8]) -> (usize, u32) {
        crate::console::read_log(since, out)
    }

    fn console_forget(&self, to: u32) {
        crate::console::forget_log(to);
    }

    fn press_key(&self, key: u8) {
        if let Some(hv) = installed() {
            crate::keys::handle(hv, key);
        }
    }

    fn cpus(&self) -> CpuSet {
        crate::smp::online()
    }

    fn idle_ticks(&self, cpu: CpuId) -> u64 {
        crate::smp::state(cpu).idle_ticks(timer::now())
    }

    fn has_pending_interrupt(&self) -> bool {
        sysreg::isr::read() & 0xc0 != 0
    }
}

/// Zeroes frames through a window.
struct Zeroer(PhysMemory);

impl FrameZero for Zeroer {
    fn zero(&mut self, mfn: Mfn) {
        self.0.zero(mfn);
    }
}

/// What a p2m works with: windows onto tables, the frame table, and the TLB of one VMID.
pub struct DomainMemory {
    memory: PhysMemory,
    vttbr: u64,
}

impl DomainMemory {
    fn hv(&self) -> &'static Hv {
        installed().expect("domains are made after the hypervisor is installed")
    }

    fn alloc(&self, order: u32, owner: Owner) -> Option<Mfn> {
        self.alloc_of(self.hv(), order, owner, None)
    }

    fn alloc_of(
        &self,
        hv: &Hv,
        order: u32,
        owner: Owner,
        account: Option<&PageAccount>,
    ) -> Option<Mfn> {
        let got = hv.alloc_frames(order, owner, account)?;
        if got.contents == Contents::Dirty {
            for i in 0..1u32 << order {
                self.memory.zero(Mfn::new(got.mfn.raw() + i));
            }
        }
        Some(got.mfn)
    }

    fn free(&self, mfn: Mfn, order: u32) {
        free_frames(self.hv(), mfn, order);
    }
}

impl TableMemory for DomainMemory {
    fn alloc_table(&mut self, is_aside: bool) -> Option<Mfn> {
        self.hv().alloc_table(is_aside)
    }
    fn free_table(&mut self, table: Mfn, is_aside: bool) {
        self.hv().free_table(table, is_aside);
    }
    fn set_aside(&mut self, pages: u32) -> bool {
        self.hv().allocator.lock().set_aside(pages)
    }
    fn end_aside(&mut self, pages: u32) {
        self.hv().allocator.lock().end_aside(pages);
    }
    fn alloc_root(&mut self, order: u8) -> Option<Mfn> {
        self.alloc(u32::from(order), Owner::Xen)
    }
    fn free_root(&mut self, root: Mfn, order: u8) {
        self.free(root, u32::from(order));
    }
    fn with_table<R>(&self, table: Mfn, body: impl FnOnce(&Table) -> R) -> R {
        self.memory.with_table(table, body)
    }
    fn publish(&self, _entries: &[AtomicU64]) {
        // The walkers of Cortex-A7 and A15 read through the data cache.
        sysreg::dsb_ish();
    }
    fn flush(&mut self) {
        if self.vttbr != 0 {
            setup::flush_guest_tlb_of(self.vttbr);
        }
    }
}

impl P2mMemory for DomainMemory {
    type Storage = &'static [AtomicU64];

    fn frames(&self) -> &FrameTable<Self::Storage> {
        &self.hv().frames
    }
    fn alloc_ram(&mut self, order: u32, owner: DomId, account: &PageAccount) -> Option<Mfn> {
        self.alloc_of(self.hv(), order, Owner::Domain(owner), Some(account))
    }
    fn free_frame(&mut self, mfn: Mfn) {
        self.free(mfn, 0);
    }
    fn free_frames(&mut self, first: Mfn, pages: u32) {
        self.hv().free_frames(first, pages);
    }
    fn undo_alloc_ram(&mut self, mfn: Mfn, order: u32) {
        let hv = self.hv();
        if hv
            .allocator
            .lock()
            .undo(&hv.frames, mfn, order, Contents::Clean)
            .is_err()
        {
            log::error!("frame {mfn:#x} could not be given back: it is in use");
        }
    }
    fn free_other(&mut self, mfn: Mfn, owner: DomId, is_xenheap: bool) {
        self.free(mfn, 0);
        self.hv().note_freed(owner, is_xenheap);
    }
}

/// What has to be looked at now and then: when nothing runs, and when deadlines pass. No lock may be held but that of a
/// vCPU's context.
#[inline]
pub fn look_around(hv: &'static Hv) {
    grow_heap_if_low(hv);
    crate::console::look_at_stalled(hv);
    hv.reap();
}

/// Makes the heap grow if it asks to; returns whether it did. No lock may be held but that of a vCPU's context.
#[inline(always)]
pub fn grow_heap_if_low(hv: &Hv) -> bool {
    crate::HEAP.has_request() && grow_heap(hv)
}

#[cold]
fn grow_heap(hv: &Hv) -> bool {
    let Some(bytes) = crate::HEAP.take_request() else {
        return false;
    };
    let tables = &hv.hal.tables;
    let Some(start) = tables.lock().reserve_heap(bytes, bytes) else {
        log::warn!("heap: its range of addresses is used up");
        return false;
    };
    let mut end = start;
    // Frames are taken before the tables are locked. One is kept for a table of ours that a page may need.
    let mut spare = alloc_frame(hv);
    while end < start + bytes
        && spare.is_some()
        && let Some(mfn) = alloc_frame(hv)
    {
        let mapped = tables
            .lock()
            .map_page(end, mfn, Access::ReadWrite, &mut || spare.take());
        if mapped.is_err() {
            free_frames(hv, mfn, 0);
            break;
        }
        end += PAGE_SIZE;
        spare = spare.or_else(|| alloc_frame(hv));
    }
    if let Some(mfn) = spare {
        free_frames(hv, mfn, 0);
    }
    tables.lock().shrink_heap(end, start + bytes);
    // SAFETY: Mapped just above, for good, at addresses and with frames that nobody else has.
    unsafe { crate::HEAP.add(start, end - start) };
    log::debug!("heap: grown by {} KiB", (end - start) / 1024);
    end != start
}

/// Scrubs a free frame while nothing runs; false when none needs it. One at a time: an interrupt may be waiting.
pub fn scrub_step(hv: &Hv) -> bool {
    if !hv.hal.may_scrub.load(Ordering::Relaxed) {
        return false;
    }
    let Some(chunk) = hv.allocator.lock().take_dirty(&hv.frames, 0) else {
        return false;
    };
    let mut zero = Zeroer(hv.hal.memory);
    for mfn in chunk.frames() {
        zero.zero(mfn);
    }
    hv.allocator.lock().finish_scrub(&hv.frames, chunk);
    true
}

/// Scrubs all free memory now (`bootscrub=on`).
pub fn scrub_all(hv: &Hv) {
    hv.allocator
        .lock()
        .scrub_all(&hv.frames, &mut Zeroer(hv.hal.memory));
}
