//! A machine in the host's memory: frames, tables, consoles and three domains, whose hypercalls go through
//! [`crate::hypercall::dispatch`]. Guest memory is reached through the domain's own p2m, and every access checks that no
//! lock is held meanwhile. For the tests of this crate and, with the feature `fakes`, for the fuzzer.
//!
//! A machine keeps nothing when it is dropped, so that a fuzzer can make millions; only the frame table's storage goes
//! back to a pool.
#![allow(missing_docs, reason = "for tests")]
#![allow(clippy::missing_panics_doc, reason = "a test fails by panicking")]

pub mod invariants;

use std::cell::RefCell;
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

/// A shared page: gives its reference back when the last handle is dropped.
#[derive(Clone)]
pub struct FakePage(Arc<Mapped>);

struct Mapped {
    words: Arc<Words>,
    mfn: Mfn,
    hv: Weak<Hv>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // After the machine's end there is nothing to give back.
        let Some(hv) = self.hv.upgrade() else { return };
        hv.hal.mapped.fetch_sub(1, Ordering::SeqCst);
        if let Some(count) = hv.hal.mappings.lock().unwrap().get_mut(&self.mfn.raw()) {
            *count -= 1;
        }
        hv.put_frame(self.mfn);
    }
}

impl SharedPage for FakePage {
    fn words(&self) -> &Words {
        &self.0.words
    }
    fn mfn(&self) -> Mfn {
        self.0.mfn
    }
}

pub struct FakeMemory(Arc<Hv>);

impl FakeMemory {
    fn alloc(&self, order: u32, owner: Owner, account: Option<&PageAccount>) -> Option<Mfn> {
        let got = self.0.alloc_frames(order, owner, account)?;
        for frame in got.mfn.raw()..got.mfn.raw() + (1 << order) {
            self.0.hal.zero_frame(Mfn::new(frame));
        }
        Some(got.mfn)
    }
    fn make_tables(&self, mfn: Mfn, order: u8) {
        let mut tables = self.0.hal.tables.lock().unwrap();
        fail_alloc::never(|| {
            for frame in mfn.raw()..mfn.raw() + (1 << order) {
                let table: Table = std::array::from_fn(|_| AtomicU64::new(0));
                let index = (frame - RAM) as usize;
                if tables.len() <= index {
                    tables.resize(index + 1, None);
                }
                tables[index] = Some(Arc::new(table));
            }
        });
    }
    fn free(&self, mfn: Mfn, order: u32) {
        let mut allocator = self.0.allocator.lock();
        allocator
            .free(&self.0.frames, mfn, order, Contents::Dirty)
            .expect("free");
    }
}

impl TableMemory for FakeMemory {
    fn alloc_table(&mut self, is_aside: bool) -> Option<Mfn> {
        let mfn = self.0.alloc_table(is_aside)?;
        self.make_tables(mfn, 0);
        Some(mfn)
    }
    fn free_table(&mut self, table: Mfn, is_aside: bool) {
        self.0.free_table(table, is_aside);
    }
    fn set_aside(&mut self, pages: u32) -> bool {
        self.0.allocator.lock().set_aside(pages)
    }
    fn end_aside(&mut self, pages: u32) {
        self.0.allocator.lock().end_aside(pages);
    }
    fn alloc_root(&mut self, order: u8) -> Option<Mfn> {
        let mfn = self.alloc(u32::from(order), Owner::Xen, None)?;
        self.make_tables(mfn, order);
        Some(mfn)
    }
    fn free_root(&mut self, root: Mfn, order: u8) {
        self.free(root, u32::from(order));
    }
    fn with_table<R>(&self, table: Mfn, body: impl FnOnce(&Table) -> R) -> R {
        let index = (table.raw() - RAM) as usize;
        let found = self.0.hal.tables.lock().unwrap()[index].clone();
        let found = found.expect("a table");
        body(&found)
    }
    fn publish(&self, _entries: &[AtomicU64]) {}
    fn flush(&mut self) {
        self.0.hal.tlb_flushes.fetch_add(1, Ordering::SeqCst);
    }
}

impl P2mMemory for FakeMemory {
    type Storage = &'static [AtomicU64];
    fn frames(&self) -> &FrameTable<Self::Storage> {
        &self.0.frames
    }
    fn alloc_ram(&mut self, order: u32, owner: DomId, account: &PageAccount) -> Option<Mfn> {
        self.alloc(order, Owner::Domain(owner), Some(account))
    }
    fn free_frame(&mut self, mfn: Mfn) {
        self.free(mfn, 0);
    }
    fn free_frames(&mut self, first: Mfn, pages: u32) {
        self.0.free_frames(first, pages);
    }
    fn undo_alloc_ram(&mut self, mfn: Mfn, order: u32) {
        let mut allocator = self.0.allocator.lock();
        allocator
            .undo(&self.0.frames, mfn, order, Contents::Clean)
            .expect("undo");
    }
    fn free_other(&mut self, mfn: Mfn, owner: DomId, is_xenheap: bool) {
        self.free(mfn, 0);
        self.0.note_freed(owner, is_xenheap);
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

/// A guest's memory as its p2m shows it, virtual = physical.
struct Space<'a>(&'a Guest);

impl Space<'_> {
    fn locate(&self, at: u64, write: bool) -> Result<HostPhys, Fault> {
        let domain = &self.0.domain;
        if at > u64::from(u32::MAX) {
            return Err(Fault);
        }
        for other in self.0.hv.domains.all() {
            other.assert_unlocked();
        }
        let memory = self.0.hv.hal.p2m_memory(domain.vttbr);
        let gfn = Gfn::new((at >> 12) as u32);
        let mapping = domain.p2m.lock().lookup(&memory, gfn).ok_or(Fault)?;
        let owner = self.0.hv.frames.owner(mapping.mfn);
        if owner != Some(Owner::Domain(domain.facts.id)) || write && !mapping.ty.is_writable() {
            return Err(Fault);
        }
        Ok(HostPhys::new(mapping.mfn.address().raw() + (at & 0xfff)))
    }

    /// Cuts an access into pieces within pages.
    fn pieces(
        &self,
        at: GuestVirt,
        len: usize,
        write: bool,
        mut body: impl FnMut(HostPhys, core::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let here = at.raw().checked_add(done as u64).ok_or(Fault)?;
            let n = (4096 - (here & 0xfff) as usize).min(len - done);
            body(self.locate(here, write)?, done..done + n)?;
            done += n;
        }
        Ok(())
    }
}

impl GuestMemory for Space<'_> {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        self.pieces(from, buf.len(), false, |at, range| {
            self.0.hv.hal.read_phys(at, &mut buf[range])
        })
    }
    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
        self.pieces(to, buf.len(), true, |at, range| {
            self.0.hv.hal.write_phys(at, &buf[range])
        })
    }
}

/// The memory as one execution of a hypercall sees it: no byte may be read twice, since another vCPU may have changed it
/// in between, and what was checked would not be what is used.
struct ReadOnce<'a> {
    space: Space<'a>,
    read: RefCell<Vec<core::ops::Range<u64>>>,
    /// Of this crate's tests, which have no lists on top of each other; not the single calls of a multicall.
    is_strict: bool,
}

impl GuestMemory for ReadOnce<'_> {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        self.space.read(from, buf)?;
        if self.is_strict && !buf.is_empty() {
            let range = from.raw()..from.raw() + buf.len() as u64;
            fail_alloc::never(|| {
                let mut read = self.read.borrow_mut();
                let again = read
                    .iter()
                    .find(|old| old.start < range.end && range.start < old.end);
                assert_eq!(again, None, "{range:x?} is read again");
                read.push(range);
            });
        }
        Ok(())
    }
    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
        self.space.write(to, buf)
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

struct Regs {
    number: u32,
    args: [u64; 5],
    result: Option<i64>,
}

impl HypercallRegs for Regs {
    fn number(&self) -> u32 {
        self.number
    }
    fn argument(&self, n: usize) -> u64 {
        self.args[n]
    }
    fn set_argument(&mut self, n: usize, value: u64) {
        // As the registers of a 32-bit guest.
        self.args[n] = u64::from(value as u32);
    }
    fn set_result(&mut self, value: i64) {
        self.result = Some(value);
    }
}

/// A domain that makes hypercalls from a vCPU.
#[derive(Clone)]
pub struct Guest {
    pub hv: Arc<Hv>,
    pub domain: Arc<Domain<FakeHal>>,
    pub vcpu: VcpuId,
    /// How many allocations a call may make before memory is out.
    pub allocations: u32,
}

/// What a hypercall did.
#[derive(Debug)]
pub struct Called {
    pub result: i64,
    pub effects: Effects,
    /// How often it was preempted.
    pub preempted: u32,
}

impl Guest {
    /// Executes a hypercall to its end.
    pub fn call(&self, number: u32, args: &[u64]) -> Called {
        self.call_at_most(number, args, 1_000_000)
            .expect("a call that ends")
    }

    /// Executes a hypercall, unless it is preempted more often than that.
    pub fn call_at_most(&self, number: u32, args: &[u64], limit: u32) -> Option<Called> {
        let mut regs = Regs {
            number,
            args: [0; 5],
            result: None,
        };
        regs.args[..args.len()].copy_from_slice(args);
        let mut effects = Effects::default();
        for preempted in 0..limit {
            let space = ReadOnce {
                space: Space(self),
                read: RefCell::default(),
                is_strict: cfg!(test) && number != HYPERVISOR_MULTICALL,
            };
            let mut cx = Cx {
                hv: &self.hv,
                domain: &self.domain,
                vcpu: self.domain.vcpu(self.vcpu).unwrap(),
                memory: &space,
                effects: &mut effects,
            };
            let outcome = fail_alloc::after(self.allocations, || dispatch(&mut cx, &mut regs));
            for domain in self.hv.domains.all() {
                domain.assert_unlocked();
            }
            if outcome == Outcome::NoMemory {
                assert_eq!(regs.result, None, "not executed again");
                regs.result = Some(-12);
            }
            if outcome != Outcome::Preempted {
                let result = regs.result.expect("a result");
                assert_ne!(result, -85, "ERESTART is not for guests");
                return Some(Called {
                    result,
                    effects,
                    preempted,
                });
            }
            assert_eq!(regs.result, None, "preempted with a result");
        }
        None
    }

    /// Executes a hypercall and returns its result.
    pub fn result(&self, number: u32, args: &[u64]) -> i64 {
        self.call(number, args).result
    }

    /// Executes a hypercall on a structure at [`ARG`]; returns result and structure.
    pub fn op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        number: u32,
        command: u32,
        op: T,
    ) -> (i64, T) {
        self.put(ARG, &op);
        let result = self.result(number, &[u64::from(command), ARG, 1]);
        (result, self.get(ARG))
    }

    /// Its memory, as hypercalls see it.
    pub fn space(&self) -> impl GuestMemory + '_ {
        Space(self)
    }

    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, at: u64, value: &T) {
        Space(self)
            .write(GuestVirt::new(at), value.as_bytes())
            .expect("mapped");
    }

    pub fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        Space(self)
            .read(GuestVirt::new(at), value.as_mut_bytes())
            .expect("mapped");
        value
    }

    /// Returns the frame behind one of the guest's, and as what it is mapped.
    pub fn mapping(&self, gfn: u32) -> Option<crate::stage2::Mapping> {
        let memory = self.hv.hal.p2m_memory(self.domain.vttbr);
        self.domain.p2m.lock().lookup(&memory, Gfn::new(gfn))
    }

    /// Returns a word of `shared_info`, by byte offset.
    pub fn shared_info(&self, offset: usize) -> u32 {
        self.domain.shared_info.words()[offset / 4].load(Ordering::SeqCst)
    }

    pub fn on_vcpu(&self, vcpu: u16) -> Self {
        Self {
            vcpu: VcpuId::new(vcpu),
            ..self.clone()
        }
    }
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

impl Guest {
    /// Gives the guest RAM at a frame again, whatever is there. Returns false when there is none left.
    pub fn restore(&self, gfn: u32) -> bool {
        let mut memory = self.hv.hal.p2m_memory(self.domain.vttbr);
        let mut p2m = self.domain.p2m.lock();
        p2m.populate(&mut memory, Gfn::new(gfn), 0).is_ok() || {
            // At its limit: RAM that lost its address still counts.
            let limit = self.domain.account.limit();
            self.domain.account.set_limit(limit + 1);
            p2m.populate(&mut memory, Gfn::new(gfn), 0).is_ok()
        }
    }
}
