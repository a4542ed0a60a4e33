//! GICv3: the physical distributor, the redistributors, and the CPU and hypervisor interfaces in system registers
//! (Arm IHI 0069H). One security state, or the Non-secure one; all interrupts are in Group 1.
//!
//! The registers are `tock-registers` ones of ours. `arm-gic` 0.10 was checked and cannot serve here: it has no `ICH_*`, no
//! EOImode and no ICC_DIR, cannot clear pending and active states, and wants all redistributors mapped in one piece of
//! 128 KiB each, where we have 2 MiB of addresses for all devices.

use alloc::vec::Vec;
use core::ptr::NonNull;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite};
use xenith_core::addr::IntId;
use xenith_core::machine::{PhysIrq, Trigger};
use xenith_core::vgic::{from_active_priorities, from_gicv3, to_active_priorities, to_gicv3};

use super::sysreg;
use crate::common::gicv2::Target;
use crate::guest_memory::this_cpu;

register_structs! {
    /// The distributor.
    GicdRegs {
        (0x0000 => ctlr: ReadWrite<u32>),
        (0x0004 => typer: ReadOnly<u32>),
        (0x0008 => iidr: ReadOnly<u32>),
        (0x000c => _reserved0),
        (0x0080 => igroupr: [ReadWrite<u32>; 32]),
        (0x0100 => isenabler: [ReadWrite<u32>; 32]),
        (0x0180 => icenabler: [ReadWrite<u32>; 32]),
        (0x0200 => ispendr: [ReadWrite<u32>; 32]),
        (0x0280 => icpendr: [ReadWrite<u32>; 32]),
        (0x0300 => isactiver: [ReadWrite<u32>; 32]),
        (0x0380 => icactiver: [ReadWrite<u32>; 32]),
        (0x0400 => ipriorityr: [ReadWrite<u8>; 1024]),
        (0x0800 => _reserved1),
        (0x0c00 => icfgr: [ReadWrite<u32>; 64]),
        (0x0d00 => _reserved2),
        (0x6000 => irouter: [ReadWrite<u64>; 1024]),
        (0x8000 => @END),
    },
    /// A redistributor's own page.
    GicrRegs {
        (0x00 => ctlr: ReadWrite<u32>),
        (0x04 => iidr: ReadOnly<u32>),
        (0x08 => typer: ReadOnly<u64>),
        (0x10 => _reserved0),
        (0x14 => waker: ReadWrite<u32>),
        (0x18 => @END),
    },
    /// Its page of SGIs and PPIs.
    SgiRegs {
        (0x000 => _reserved0),
        (0x080 => igroupr: ReadWrite<u32>),
        (0x084 => _reserved1),
        (0x100 => isenabler: ReadWrite<u32>),
        (0x104 => _reserved2),
        (0x180 => icenabler: ReadWrite<u32>),
        (0x184 => _reserved3),
        (0x200 => ispendr: ReadWrite<u32>),
        (0x204 => _reserved4),
        (0x280 => icpendr: ReadWrite<u32>),
        (0x284 => _reserved5),
        (0x300 => isactiver: ReadWrite<u32>),
        (0x304 => _reserved6),
        (0x380 => icactiver: ReadWrite<u32>),
        (0x384 => _reserved7),
        (0x400 => ipriorityr: [ReadWrite<u8>; 32]),
        (0x420 => @END),
    }
}

/// Priority of the interrupts that go to guests or to us: lower half, since the upper belongs to the Secure world.
const PRIORITY_IRQ: u8 = 0xa0;
/// Priority of our own IPIs and timers.
const PRIORITY_IPI: u8 = 0x90;
/// GICD_CTLR: Group 1, without and with affinity routing, and affinity routing; the bits of both views.
const GICD_ON: u32 = 0x13;
/// GICD_CTLR: affinity routing.
const GICD_ARE: u32 = 0x10;
/// GICD_CTLR.RWP: a write has not reached everything yet.
const GICD_RWP: u32 = 1 << 31;
/// GICR_CTLR.RWP.
const GICR_RWP: u32 = 1 << 3;
/// GICR_CTLR.EnableLPIs.
const ENABLE_LPIS: u32 = 1;
/// GICR_WAKER: the CPU says that it sleeps; the redistributor knows.
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
/// Looks at a register that changes soon.
const LOOKS: u32 = 1_000_000;

/// Waits for a register; a GIC that never gets there is used as it is.
fn wait(mut is_done: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_done() {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Returns this CPU as the GIC names it.
fn own_target() -> Target {
    let mpidr = sysreg::mpidr::read();
    Target::new((mpidr & 0xff_ffff) as u32 | ((mpidr >> 8) as u32 & 0xff00_0000))
}

/// A redistributor that is mapped.
#[derive(Clone, Copy)]
pub struct Redistributor {
    own: NonNull<GicrRegs>,
    sgis: NonNull<SgiRegs>,
}

impl Redistributor {
    /// Takes a redistributor whose two pages are mapped at these addresses.
    ///
    /// # Safety
    /// They are: as device memory, for good, and nothing else uses them.
    pub unsafe fn new(own: usize, sgis: usize) -> Self {
        let (own, sgis) = (own as *mut GicrRegs, sgis as *mut SgiRegs);
        Self {
            own: NonNull::new(own).expect("a redistributor is mapped at a fixed address"),
            sgis: NonNull::new(sgis).expect("a redistributor is mapped at a fixed address"),
        }
    }

    /// Returns GICR_TYPER.
    pub fn kind(&self) -> u64 {
        self.own().typer.get()
    }

    fn own(&self) -> &GicrRegs {
        // SAFETY: `new`'s contract: mapped device registers; only volatile accesses.
        unsafe { self.own.as_ref() }
    }

    #[inline]
    fn sgis(&self) -> &SgiRegs {
        // SAFETY: As above.
        unsafe { self.sgis.as_ref() }
    }

    /// Wakes it up, and brings its SGIs and PPIs to a known state: SGIs on, PPIs off.
    fn init(&self) {
        let own = self.own();
        own.waker.set(own.waker.get() & !PROCESSOR_SLEEP);
        wait(|| own.waker.get() & CHILDREN_ASLEEP == 0);
        // Firmware or a kernel before us may have left them on, and nobody here ends one.
        own.ctlr.set(own.ctlr.get() & !ENABLE_LPIS);
        let r = self.sgis();
        r.igroupr.set(u32::MAX);
        for (i, priority) in r.ipriorityr.iter().enumerate() {
            priority.set(if i < 16 { PRIORITY_IPI } else { PRIORITY_IRQ });
        }
        r.icactiver.set(u32::MAX);
        r.icenabler.set(0xffff_0000);
        r.isenabler.set(0x0000_ffff);
        wait(|| own.ctlr.get() & GICR_RWP == 0);
    }
}

/// The distributor and the redistributors. Shared state, so it lives behind a lock; an SGI or PPI is always this CPU's.
pub struct Distributor {
    regs: NonNull<GicdRegs>,
    lines: u16,
    /// All that were found.
    redistributors: Vec<Redistributor>,
    /// The one of each CPU, by its number.
    of_cpu: Vec<Option<Redistributor>>,
}

// SAFETY: The pointers name device registers, which any CPU may access; exclusion is the caller's lock.
unsafe impl Send for Distributor {}

impl Distributor {
    /// Takes the distributor at `base` and brings it to a known state: all SPIs off, level, routed to this CPU.
    ///
    /// # Safety
    /// `base` is the mapped distributor, 64 KiB of device memory, and nothing else accesses it.
    pub unsafe fn new(base: usize, redistributors: Vec<Redistributor>) -> Self {
        let regs = NonNull::new(base as *mut GicdRegs)
            .expect("the distributor is mapped at a fixed address");
        let mut this = Self {
            regs,
            lines: 0,
            redistributors,
            of_cpu: Vec::new(),
        };
        let r = this.regs();
        let lines = (((r.typer.get() & 0x1f) + 1) * 32).min(1020) as u16;
        r.ctlr.set(0);
        wait(|| r.ctlr.get() & GICD_RWP == 0);
        for word in 1..usize::from(lines).div_ceil(32) {
            r.icenabler[word].set(u32::MAX);
            r.icpendr[word].set(u32::MAX);
            r.icactiver[word].set(u32::MAX);
            r.igroupr[word].set(u32::MAX);
        }
        for word in 2..usize::from(lines).div_ceil(16) {
            r.icfgr[word].set(0);
        }
        // Routes count, and can be written, with affinity routing only.
        r.ctlr.set(GICD_ARE);
        wait(|| r.ctlr.get() & GICD_RWP == 0);
        let me = route(own_target());
        for i in 32..usize::from(lines) {
            r.irouter[i].set(me);
            r.ipriorityr[i].set(PRIORITY_IRQ);
        }
        r.ctlr.set(GICD_ON);
        wait(|| r.ctlr.get() & GICD_RWP == 0);
        this.lines = lines;
        this
    }

    fn regs(&self) -> &GicdRegs {
        // SAFETY: `new`'s contract: mapped device registers for as long as the hypervisor runs; only volatile accesses.
        unsafe { self.regs.as_ref() }
    }

    /// Returns this CPU as the GIC names it.
    pub fn own_target(&self) -> Target {
        own_target()
    }

    /// Sends a SPI to this CPU from now on; also one that is pending.
    pub fn set_target(&mut self, irq: IntId, target: Target) {
        if self.is_valid(irq) && irq.is_spi() {
            self.regs().irouter[irq.index()].set(route(target));
        }
    }

    /// Finds this CPU's redistributor and sets it up. Returns false if there is none.
    pub fn init_cpu(&mut self) -> bool {
        let me = own_target().raw();
        let is_own =
            |redistributor: &&Redistributor| (redistributor.own().typer.get() >> 32) as u32 == me;
        let Some(&own) = self.redistributors.iter().find(is_own) else {
            return false;
        };
        own.init();
        let cpu = this_cpu().index();
        if self.of_cpu.len() <= cpu {
            self.of_cpu.resize(cpu + 1, None);
        }
        self.of_cpu[cpu] = Some(own);
        true
    }

    /// Returns the number of interrupt lines, SGIs and PPIs included (32..=1020).
    pub fn lines(&self) -> u16 {
        self.lines
    }

    /// Returns GICD_IIDR.
    pub fn iidr(&self) -> u32 {
        self.regs().iidr.get()
    }

    /// Returns the number of redistributors.
    pub fn cpu_count(&self) -> u32 {
        self.redistributors.len() as u32
    }

    fn is_valid(&self, irq: IntId) -> bool {
        irq.raw() < self.lines
    }

    /// Calls `spi` with the number of the register for a SPI, or `private` with this CPU's redistributor, and the
    /// interrupt's bit.
    #[inline]
    fn select<R: Default>(
        &self,
        irq: IntId,
        spi: impl FnOnce(&GicdRegs, usize, u32) -> R,
        private: impl FnOnce(&SgiRegs, u32) -> R,
    ) -> R {
        let bit = 1 << (irq.index() % 32);
        if irq.index() < 32 {
            match self.of_cpu.get(this_cpu().index()) {
                Some(Some(own)) => private(own.sgis(), bit),
                _ => R::default(),
            }
        } else if self.is_valid(irq) {
            spi(self.regs(), irq.index() / 32, bit)
        } else {
            R::default()
        }
    }
}

/// Returns GICD_IROUTER for a CPU.
fn route(target: Target) -> u64 {
    let target = u64::from(target.raw());
    (target & 0xff00_0000) << 8 | target & 0x00ff_ffff
}

impl PhysIrq for Distributor {
    fn enable(&mut self, irq: IntId) {
        self.select(
            irq,
            |r, word, bit| r.isenabler[word].set(bit),
            |r, bit| r.isenabler.set(bit),
        );
    }

    fn disable(&mut self, irq: IntId) {
        self.select(
            irq,
            |r, word, bit| {
                r.icenabler[word].set(bit);
                // Until then it may still be taken.
                wait(|| r.ctlr.get() & GICD_RWP == 0);
            },
            |r, bit| r.icenabler.set(bit),
        );
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
        if irq.raw() < 16 {
            return;
        }
        if pending {
            self.select(
                irq,
                |r, word, bit| r.ispendr[word].set(bit),
                |r, bit| r.ispendr.set(bit),
            );
        } else {
            self.select(
                irq,
                |r, word, bit| r.icpendr[word].set(bit),
                |r, bit| r.icpendr.set(bit),
            );
        }
    }

    fn is_pending(&self, irq: IntId) -> bool {
        self.select(
            irq,
            |r, word, bit| r.ispendr[word].get() & bit != 0,
            |r, bit| r.ispendr.get() & bit != 0,
        )
    }

    fn deactivate(&mut self, irq: IntId) {
        self.select(
            irq,
            |r, word, bit| r.icactiver[word].set(bit),
            |r, bit| r.icactiver.set(bit),
        );
    }
}

/// Sends SGI `id` (0–15) to these CPUs, after everything that this CPU wrote before.
#[inline]
pub fn send_sgi(id: u8, targets: impl Iterator<Item = Target>) {
    sysreg::dsb();
    for target in targets {
        let target = u64::from(target.raw());
        let (aff0, aff1) = (target & 0xff, target >> 8 & 0xff);
        let (aff2, aff3) = (target >> 16 & 0xff, target >> 24);
        let value = aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | aff1 << 16 | 1 << (aff0 & 15);
        // SAFETY: An interrupt for a CPU of ours.
        unsafe { sysreg::icc_sgi1r::write(value | u64::from(id & 15) << 24) };
    }
    sysreg::isb();
}

/// Sends SGI `id` to all CPUs but this one.
pub fn send_sgi_to_others(id: u8) {
    sysreg::dsb();
    // SAFETY: As above.
    unsafe { sysreg::icc_sgi1r::write(1 << 40 | u64::from(id & 15) << 24) };
    sysreg::isb();
}

/// This CPU's interface.
pub struct CpuInterface(());

impl CpuInterface {
    /// Switches this CPU's system registers on, for guests too, and opens the interface: all priorities, split EOI. `None`
    /// when firmware keeps them.
    ///
    /// # Safety
    /// This CPU has no other owner of the interface.
    pub unsafe fn new() -> Option<Self> {
        // SAFETY: The interface's own registers, by the contract. Guests cannot switch their system registers off: without
        // Enable in ICC_SRE_EL2 their access traps.
        unsafe {
            sysreg::icc_sre_el2::write(0xf);
            sysreg::isb();
            if sysreg::icc_sre_el2::read() & 1 == 0 {
                return None;
            }
            sysreg::icc_sre_el1::write(7);
            sysreg::isb();
            sysreg::icc_sre_el2::write(7);
            sysreg::icc_pmr::write(0xff);
            sysreg::icc_bpr1::write(0);
            // EOImode: EOIR drops the priority, DIR deactivates.
            sysreg::icc_ctlr::write(1 << 1);
            sysreg::icc_igrpen1::write(1);
        }
        sysreg::isb();
        Some(Self(()))
    }

    /// Acknowledges the highest priority pending interrupt; returns its number, 1020 or more for none.
    #[inline(always)]
    pub fn acknowledge(&mut self) -> u32 {
        let id = sysreg::icc_iar1::read() as u32;
        // What the acknowledge changed is seen before what follows.
        sysreg::dsb();
        id
    }

    /// Drops the running priority: the interrupt stays active until it is deactivated, by us or through a list register.
    #[inline(always)]
    pub fn drop_priority(&mut self, id: u32) {
        // SAFETY: What was acknowledged.
        unsafe { sysreg::icc_eoir1::write(u64::from(id)) };
        sysreg::isb();
    }

    /// Ends the active state of an interrupt that is the hypervisor's own.
    #[inline(always)]
    pub fn deactivate(&mut self, id: u32) {
        // SAFETY: What was acknowledged.
        unsafe { sysreg::icc_dir::write(u64::from(id)) };
        sysreg::isb();
    }
}

/// This CPU's virtual interface control registers: the list registers of the vCPU that runs here.
pub struct HypInterface {
    lr_count: u8,
    /// Bits of preemption.
    preemption_bits: u32,
}

macro_rules! each_lr {
    ($n:expr, $lr:ident => $do:expr, else $other:expr) => {
        match $n {
            0 => {
                use sysreg::ich_lr0 as $lr;
                $do
            }
            1 => {
                use sysreg::ich_lr1 as $lr;
                $do
            }
            2 => {
                use sysreg::ich_lr2 as $lr;
                $do
            }
            3 => {
                use sysreg::ich_lr3 as $lr;
                $do
            }
            4 => {
                use sysreg::ich_lr4 as $lr;
                $do
            }
            5 => {
                use sysreg::ich_lr5 as $lr;
                $do
            }
            6 => {
                use sysreg::ich_lr6 as $lr;
                $do
            }
            7 => {
                use sysreg::ich_lr7 as $lr;
                $do
            }
            8 => {
                use sysreg::ich_lr8 as $lr;
                $do
            }
            9 => {
                use sysreg::ich_lr9 as $lr;
                $do
            }
            10 => {
                use sysreg::ich_lr10 as $lr;
                $do
            }
            11 => {
                use sysreg::ich_lr11 as $lr;
                $do
            }
            12 => {
                use sysreg::ich_lr12 as $lr;
                $do
            }
            13 => {
                use sysreg::ich_lr13 as $lr;
                $do
            }
            14 => {
                use sysreg::ich_lr14 as $lr;
                $do
            }
            15 => {
                use sysreg::ich_lr15 as $lr;
                $do
            }
            _ => $other,
        }
    };
}

impl HypInterface {
    /// Empties the list registers and enables the virtual interface.
    ///
    /// # Safety
    /// [`CpuInterface::new`] switched the registers on, and this CPU has no other owner of them.
    pub unsafe fn new() -> Self {
        let vtr = sysreg::ich_vtr::read() as u32;
        let mut this = Self {
            lr_count: (vtr & 0x1f) as u8 + 1,
            preemption_bits: (vtr >> 26 & 7) + 1,
        };
        for n in 0..this.lr_count {
            this.write_lr(n, 0);
        }
        this.set_apr(0);
        this.set_underflow(false);
        this
    }

    /// Returns the number of list registers.
    #[inline(always)]
    pub fn lr_count(&self) -> u8 {
        self.lr_count
    }

    /// Returns list register `n` in GICv2's form; 0 beyond the last.
    #[inline]
    pub fn read_lr(&self, n: u8) -> u32 {
        from_gicv3(each_lr!(n, lr => lr::read(), else 0))
    }

    /// Writes list register `n`, given in GICv2's form.
    #[inline]
    pub fn write_lr(&mut self, n: u8, value: u32) {
        let value = to_gicv3(value);
        // SAFETY: Concerns the guest's interrupts only; who gets physical ones is the caller's rule, not memory's.
        unsafe { each_lr!(n, lr => lr::write(value), else ()) }
    }

    /// Returns the list registers that hold nothing, a bit each.
    #[inline]
    pub fn empty_mask(&self) -> u64 {
        // The writes of list registers before come first.
        sysreg::isb();
        sysreg::ich_elrsr::read()
    }

    /// Returns the list registers that ended with an EOI maintenance request.
    #[inline]
    pub fn eoi_mask(&self) -> u64 {
        sysreg::isb();
        sysreg::ich_eisr::read()
    }

    /// Switches the underflow maintenance interrupt.
    #[inline]
    pub fn set_underflow(&mut self, on: bool) {
        // SAFETY: ICH_HCR_EL2: En and UIE; guests send SGIs through a trap of HCR_EL2.IMO.
        unsafe { sysreg::ich_hcr::write(1 | u64::from(on) << 1) };
    }

    /// Reads the guest's view of its CPU interface, whose fields lie as in GICH_VMCR.
    #[inline]
    pub fn vmcr(&self) -> u32 {
        sysreg::ich_vmcr::read() as u32
    }

    /// Writes it.
    pub fn set_vmcr(&mut self, value: u32) {
        // SAFETY: Concerns the guest only.
        unsafe { sysreg::ich_vmcr::write(u64::from(value)) };
    }

    /// Reads the active priorities in the form of GICH_APR.
    pub fn apr(&self) -> u32 {
        let mut registers = [sysreg::ich_ap1r0::read() as u32, 0, 0, 0];
        if self.preemption_bits > 5 {
            registers[1] = sysreg::ich_ap1r1::read() as u32;
        }
        if self.preemption_bits > 6 {
            registers[2] = sysreg::ich_ap1r2::read() as u32;
            registers[3] = sysreg::ich_ap1r3::read() as u32;
        }
        from_active_priorities(registers, self.preemption_bits)
    }

    /// Writes them. Those of Group 0, which a guest can only have written itself, are forgotten.
    pub fn set_apr(&mut self, value: u32) {
        let registers = to_active_priorities(value, self.preemption_bits).map(u64::from);
        // SAFETY: Concern the guest only. How many there are depends on the bits of preemption.
        unsafe {
            sysreg::ich_ap0r0::write(0);
            sysreg::ich_ap1r0::write(registers[0]);
            if self.preemption_bits > 5 {
                sysreg::ich_ap0r1::write(0);
                sysreg::ich_ap1r1::write(registers[1]);
            }
            if self.preemption_bits > 6 {
                sysreg::ich_ap0r2::write(0);
                sysreg::ich_ap0r3::write(0);
                sysreg::ich_ap1r2::write(registers[2]);
                sysreg::ich_ap1r3::write(registers[3]);
            }
        }
    }
}
