//! GICv2: the physical distributor (GICD), CPU interface (GICC) and hypervisor interface (GICH) (ARM IHI 0048B).
//!
//! The register layouts are `tock-registers` ones of ours. `arm-gic` 0.10 was checked and cannot serve here: its layouts
//! have no GICH, no SPENDSGIR, a read-only `u32` for ITARGETSR and DIR, its `setup` enables the wrong group where the
//! Security Extensions exist (NS enable is bit 0), it has no EOImode and loses SGIs of other CPUs (design.md 9.2).

use core::ptr::NonNull;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use xenith_core::addr::IntId;
use xenith_core::machine::{PhysIrq, Trigger};

register_structs! {
    /// The distributor.
    pub GicdRegs {
        (0x000 => ctlr: ReadWrite<u32>),
        (0x004 => typer: ReadOnly<u32>),
        (0x008 => iidr: ReadOnly<u32>),
        (0x00c => _reserved0),
        (0x080 => igroupr: [ReadWrite<u32>; 32]),
        (0x100 => isenabler: [ReadWrite<u32>; 32]),
        (0x180 => icenabler: [ReadWrite<u32>; 32]),
        (0x200 => ispendr: [ReadWrite<u32>; 32]),
        (0x280 => icpendr: [ReadWrite<u32>; 32]),
        (0x300 => isactiver: [ReadWrite<u32>; 32]),
        (0x380 => icactiver: [ReadWrite<u32>; 32]),
        (0x400 => ipriorityr: [ReadWrite<u8>; 1024]),
        (0x800 => itargetsr: [ReadWrite<u8>; 1024]),
        (0xc00 => icfgr: [ReadWrite<u32>; 64]),
        (0xd00 => _reserved1),
        (0xf00 => sgir: WriteOnly<u32>),
        (0xf04 => _reserved2),
        (0x1000 => @END),
    },
    /// The CPU interface.
    pub GiccRegs {
        (0x0000 => ctlr: ReadWrite<u32>),
        (0x0004 => pmr: ReadWrite<u32>),
        (0x0008 => bpr: ReadWrite<u32>),
        (0x000c => iar: ReadOnly<u32>),
        (0x0010 => eoir: WriteOnly<u32>),
        (0x0014 => _reserved0),
        (0x1000 => dir: WriteOnly<u32>),
        (0x1004 => _reserved1),
        (0x2000 => @END),
    },
    /// The virtual interface control registers.
    pub GichRegs {
        (0x000 => hcr: ReadWrite<u32>),
        (0x004 => vtr: ReadOnly<u32>),
        (0x008 => vmcr: ReadWrite<u32>),
        (0x00c => _reserved0),
        (0x010 => misr: ReadOnly<u32>),
        (0x014 => _reserved1),
        (0x020 => eisr: [ReadOnly<u32>; 2]),
        (0x028 => _reserved2),
        (0x030 => elrsr: [ReadOnly<u32>; 2]),
        (0x038 => _reserved3),
        (0x0f0 => apr: ReadWrite<u32>),
        (0x0f4 => _reserved4),
        (0x100 => lr: [ReadWrite<u32>; 64]),
        (0x200 => @END),
    }
}

/// Priority of the interrupts that go to guests or to us: lower half, since the upper belongs to the Secure world.
const PRIORITY_IRQ: u8 = 0xa0;
/// Priority of our own IPIs and timers.
const PRIORITY_IPI: u8 = 0x90;
/// GICC_CTLR: enable (Non-secure view, group 1 or the only group) and EOImodeNS: EOIR drops priority, DIR deactivates.
const GICC_CTLR_ENABLE_EOIMODE: u32 = 1 | (1 << 9);

/// Base addresses, in hypervisor virtual memory, of what each CPU has of its own.
#[derive(Clone, Copy)]
pub struct LocalFrames {
    /// The CPU interface, 8 KiB.
    pub gicc: usize,
    /// The virtual interface control block, 4 KiB.
    pub gich: usize,
}

/// A CPU as its GIC names it: its bit in the target registers, or (GICv3) its affinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Target(u32);

impl Target {
    /// The CPU that the number stands for which [`Self::raw`] gave.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// Returns the number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// The distributor. One exists; shared state, so it lives behind a lock.
pub struct Distributor {
    regs: NonNull<GicdRegs>,
    lines: u16,
}

// SAFETY: The pointer names device registers, which any CPU may access; exclusion is the caller's lock.
unsafe impl Send for Distributor {}

impl Distributor {
    /// Takes the distributor at `base` and brings it to a known state: all SPIs off, level, lowest group of ours,
    /// targeted at this CPU.
    ///
    /// # Safety
    /// `base` is the mapped distributor, device memory, and nothing else accesses it.
    pub unsafe fn new(base: usize) -> Self {
        let regs = NonNull::new(base as *mut GicdRegs)
            .expect("the distributor is mapped at a fixed address");
        let mut this = Self { regs, lines: 0 };
        let r = this.regs();
        this.lines = (((r.typer.get() & 0x1f) + 1) * 32).min(1020) as u16;
        let r = this.regs();
        r.ctlr.set(0);
        let me = this.own_target();
        let r = this.regs();
        for i in 32..usize::from(this.lines) {
            r.itargetsr[i].set(me.0 as u8);
            r.ipriorityr[i].set(PRIORITY_IRQ);
        }
        for word in 1..usize::from(this.lines).div_ceil(32) {
            r.icenabler[word].set(u32::MAX);
            r.icpendr[word].set(u32::MAX);
            r.icactiver[word].set(u32::MAX);
        }
        for word in 2..usize::from(this.lines).div_ceil(16) {
            r.icfgr[word].set(0);
        }
        r.ctlr.set(1);
        this
    }

    fn regs(&self) -> &GicdRegs {
        // SAFETY: `new`'s contract: mapped device registers for as long as the hypervisor runs; only volatile accesses.
        unsafe { self.regs.as_ref() }
    }

    /// Returns this CPU's bit in the target registers.
    pub fn own_target(&self) -> Target {
        // Any banked ITARGETSR byte of an SGI or PPI reads as the own mask; on a uniprocessor GIC all read 0.
        let own = (0..32)
            .map(|i| self.regs().itargetsr[i].get())
            .find(|&t| t != 0)
            .unwrap_or(1);
        Target(own.into())
    }

    /// Returns what sends SGIs.
    pub fn sgi_sender(&self) -> SgiSender {
        SgiSender { regs: self.regs }
    }

    /// Sends a SPI to this CPU interface from now on; also one that is pending. None at all would lose it: ignored.
    pub fn set_target(&mut self, irq: IntId, target: Target) {
        if self.is_valid(irq) && irq.is_spi() && target.0 != 0 {
            self.regs().itargetsr[irq.index()].set(target.0 as u8);
        }
    }

    /// Sets up this CPU's banked part: SGIs and PPIs off and given a priority, SGIs on. Returns whether this CPU has one: a
    /// GICv3 may lack it.
    pub fn init_cpu(&mut self) -> bool {
        let r = self.regs();
        for i in 0..32 {
            r.ipriorityr[i].set(if i < 16 { PRIORITY_IPI } else { PRIORITY_IRQ });
        }
        r.icactiver[0].set(u32::MAX);
        r.icenabler[0].set(0xffff_0000);
        r.isenabler[0].set(0x0000_ffff);
        true
    }

    /// Returns the number of interrupt lines, SGIs and PPIs included (32..=1020).
    pub fn lines(&self) -> u16 {
        self.lines
    }

    /// Returns whether QEMU's model may forget to signal: GICD_IIDR is the one of its GICv2 (and of the GIC inside a
    /// Cortex-A15, where the precaution costs little).
    pub fn may_forget(&self) -> bool {
        self.iidr() == 0x0000_043b
    }

    /// Returns GICD_IIDR.
    pub fn iidr(&self) -> u32 {
        self.regs().iidr.get()
    }

    /// Returns the number of CPU interfaces.
    pub fn cpu_count(&self) -> u32 {
        ((self.regs().typer.get() >> 5) & 7) + 1
    }

    fn is_valid(&self, irq: IntId) -> bool {
        irq.raw() < self.lines
    }

    /// Ends the active state.
    pub fn clear_active(&mut self, irq: IntId) {
        if self.is_valid(irq) {
            self.regs().icactiver[irq.index() / 32].set(1 << (irq.index() % 32));
        }
    }
}

impl PhysIrq for Distributor {
    fn enable(&mut self, irq: IntId) {
        if self.is_valid(irq) {
            self.regs().isenabler[irq.index() / 32].set(1 << (irq.index() % 32));
        }
    }

    fn disable(&mut self, irq: IntId) {
        if self.is_valid(irq) {
            self.regs().icenabler[irq.index() / 32].set(1 << (irq.index() % 32));
        }
    }

    fn set_trigger(&mut self, irq: IntId, trigger: Trigger) {
        if self.is_valid(irq) && irq.raw() >= 32 {
            let shift = (irq.index() % 16) * 2 + 1;
            let word = &self.regs().icfgr[irq.index() / 16];
            let edge = u32::from(trigger == Trigger::Edge);
            word.set((word.get() & !(1 << shift)) | (edge << shift));
        }
    }

    fn set_pending(&mut self, irq: IntId, pending: bool) {
        if self.is_valid(irq) && irq.raw() >= 16 {
            let bank = if pending {
                &self.regs().ispendr
            } else {
                &self.regs().icpendr
            };
            bank[irq.index() / 32].set(1 << (irq.index() % 32));
        }
    }

    fn is_pending(&self, irq: IntId) -> bool {
        self.is_valid(irq)
            && self.regs().ispendr[irq.index() / 32].get() & (1 << (irq.index() % 32)) != 0
    }

    fn deactivate(&mut self, irq: IntId) {
        self.clear_active(irq);
    }
}

/// Sends software generated interrupts; any CPU may at any time.
#[derive(Clone, Copy)]
pub struct SgiSender {
    regs: NonNull<GicdRegs>,
}

// SAFETY: One write of one register sends an SGI; there is nothing to exclude.
unsafe impl Send for SgiSender {}
// SAFETY: As above.
unsafe impl Sync for SgiSender {}

impl SgiSender {
    /// Sends SGI `id` (0–15) to these CPUs, after everything that this CPU wrote before.
    #[inline]
    pub fn send(&self, id: u8, targets: impl Iterator<Item = Target>) {
        let targets = targets.fold(0, |all, target| all | target.0);
        if targets != 0 {
            self.write(targets << 16 | u32::from(id & 15));
        }
    }

    /// Sends SGI `id` to all CPUs but this one.
    pub fn send_others(&self, id: u8) {
        self.write(1 << 24 | u32::from(id & 15));
    }

    #[inline]
    fn write(&self, value: u32) {
        crate::imp::sysreg::dsb();
        // SAFETY: The distributor's registers, mapped for good (`Distributor::new`).
        let regs = unsafe { self.regs.as_ref() };
        regs.sgir.set(value);
    }
}

/// What GICC_IAR said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged(u32);

impl Acknowledged {
    /// Returns the interrupt, or `None` when it was spurious.
    #[inline(always)]
    pub fn irq(self) -> Option<IntId> {
        let id = (self.0 & 0x3ff) as u16;
        (id < 1020).then_some(IntId::new(id))
    }
}

/// This CPU's interface. Each CPU has its own behind the same address.
pub struct CpuInterface {
    regs: NonNull<GiccRegs>,
}

impl CpuInterface {
    /// Takes this CPU's interface and opens it: all priorities, split EOI. There always is one; a GICv3's may be kept by
    /// firmware.
    ///
    /// # Safety
    /// `frames` are mapped as device memory, and this CPU has no other owner of the CPU interface.
    pub unsafe fn new(frames: LocalFrames) -> Option<Self> {
        let regs = NonNull::new(frames.gicc as *mut GiccRegs)
            .expect("the CPU interface is mapped at a fixed address");
        let this = Self { regs };
        this.regs().pmr.set(0xff);
        this.regs().bpr.set(0);
        this.regs().ctlr.set(GICC_CTLR_ENABLE_EOIMODE);
        Some(this)
    }

    #[inline(always)]
    fn regs(&self) -> &GiccRegs {
        // SAFETY: `new`'s contract; only volatile accesses.
        unsafe { self.regs.as_ref() }
    }

    /// Acknowledges the highest priority pending interrupt.
    #[inline(always)]
    pub fn acknowledge(&mut self) -> Acknowledged {
        Acknowledged(self.regs().iar.get())
    }

    /// Drops the running priority: the interrupt stays active until it is deactivated, by us or through a list register.
    #[inline(always)]
    pub fn drop_priority(&mut self, ack: Acknowledged) {
        self.regs().eoir.set(ack.0);
    }

    /// Ends the active state of an interrupt that is the hypervisor's own.
    #[inline(always)]
    pub fn deactivate(&mut self, ack: Acknowledged) {
        self.regs().dir.set(ack.0);
    }

    /// Has the GIC look again at what is pending, by writing the priority mask that holds already.
    pub fn signal_again(&mut self) {
        self.regs().pmr.set(0xff);
    }
}

/// This CPU's virtual interface control block: the list registers of the vCPU that runs here.
pub struct HypInterface {
    regs: NonNull<GichRegs>,
    lr_count: u8,
}

impl HypInterface {
    /// Takes this CPU's block, empties the list registers and enables the virtual interface.
    ///
    /// # Safety
    /// `frames` are mapped as device memory, and this CPU has no other owner of the virtual interface control block.
    pub unsafe fn new(frames: LocalFrames) -> Self {
        let regs = NonNull::new(frames.gich as *mut GichRegs)
            .expect("the hypervisor interface is mapped at a fixed address");
        let mut this = Self { regs, lr_count: 0 };
        this.lr_count = ((this.regs().vtr.get() & 0x3f) + 1) as u8;
        for n in 0..this.lr_count {
            this.write_lr(n, 0);
        }
        this.regs().apr.set(0);
        this.regs().hcr.set(1);
        this
    }

    #[inline(always)]
    fn regs(&self) -> &GichRegs {
        // SAFETY: `new`'s contract; only volatile accesses.
        unsafe { self.regs.as_ref() }
    }

    /// Returns the number of list registers.
    #[inline(always)]
    pub fn lr_count(&self) -> u8 {
        self.lr_count
    }

    /// Returns list register `n`; 0 beyond the last.
    #[inline(always)]
    pub fn read_lr(&self, n: u8) -> u32 {
        self.regs().lr.get(usize::from(n)).map_or(0, Readable::get)
    }

    /// Writes list register `n`.
    #[inline(always)]
    pub fn write_lr(&mut self, n: u8, value: u32) {
        if let Some(lr) = self.regs().lr.get(usize::from(n)) {
            lr.set(value);
        }
    }

    /// Returns the list registers that hold nothing (GICH_ELRSR), a bit each.
    #[inline(always)]
    pub fn empty_mask(&self) -> u64 {
        let low = u64::from(self.regs().elrsr[0].get());
        if self.lr_count <= 32 {
            low
        } else {
            low | (u64::from(self.regs().elrsr[1].get()) << 32)
        }
    }

    /// Returns the list registers that ended with an EOI maintenance request (GICH_EISR).
    #[inline(always)]
    pub fn eoi_mask(&self) -> u64 {
        let low = u64::from(self.regs().eisr[0].get());
        if self.lr_count <= 32 {
            low
        } else {
            low | (u64::from(self.regs().eisr[1].get()) << 32)
        }
    }

    /// Switches the underflow maintenance interrupt.
    #[inline(always)]
    pub fn set_underflow(&mut self, on: bool) {
        self.regs().hcr.set(1 | (u32::from(on) << 1));
    }

    /// Reads the guest's view of its CPU interface (GICH_VMCR).
    #[inline]
    pub fn vmcr(&self) -> u32 {
        self.regs().vmcr.get()
    }

    /// Writes GICH_VMCR.
    pub fn set_vmcr(&mut self, value: u32) {
        self.regs().vmcr.set(value);
    }

    /// Reads the active priorities (GICH_APR).
    pub fn apr(&self) -> u32 {
        self.regs().apr.get()
    }

    /// Writes GICH_APR.
    pub fn set_apr(&mut self, value: u32) {
        self.regs().apr.set(value);
    }
}
