//! GICv2: distributor (which hypervisors emulate) and CPU interface.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::cpu::{mmio_read, mmio_write, mmio_write8};

/// Distributor control.
pub const GICD_CTLR: usize = 0x000;
/// Interrupt lines and processors.
pub const GICD_TYPER: usize = 0x004;
/// Implementer.
pub const GICD_IIDR: usize = 0x008;
/// Set enable.
pub const GICD_ISENABLER: usize = 0x100;
/// Clear enable.
pub const GICD_ICENABLER: usize = 0x180;
/// Set pending.
pub const GICD_ISPENDR: usize = 0x200;
/// Clear pending.
pub const GICD_ICPENDR: usize = 0x280;
/// Set active.
pub const GICD_ISACTIVER: usize = 0x300;
/// Priorities, one byte each.
pub const GICD_IPRIORITYR: usize = 0x400;
/// Targets, one byte each.
pub const GICD_ITARGETSR: usize = 0x800;
/// Configuration.
pub const GICD_ICFGR: usize = 0xc00;
/// Makes an SGI.
pub const GICD_SGIR: usize = 0xf00;
/// Clear pending SGI.
pub const GICD_CPENDSGIR: usize = 0xf10;
/// Set pending SGI.
pub const GICD_SPENDSGIR: usize = 0xf20;
/// Architecture version.
pub const GICD_ICPIDR2: usize = 0xfe8;

const GICC_CTLR: usize = 0x00;
const GICC_PMR: usize = 0x04;
const GICC_IAR: usize = 0x0c;
const GICC_EOIR: usize = 0x10;

static GICD: AtomicUsize = AtomicUsize::new(0);
static GICC: AtomicUsize = AtomicUsize::new(0);

/// Notes where the GIC is and enables it; all interrupts of this processor stay disabled.
pub fn init(gicd: usize, gicc: usize) {
    GICD.store(gicd, Relaxed);
    GICC.store(gicc, Relaxed);
    write(GICD_CTLR, 1);
    init_cpu();
}

/// What each processor has of its own: SGIs and PPIs disabled, its interface on.
pub fn init_cpu() {
    write(GICD_ICENABLER, 0xffff_0000);
    for i in 0..8 {
        write(GICD_IPRIORITYR + 4 * i, 0xa0a0_a0a0);
    }
    let gicc = GICC.load(Relaxed);
    // SAFETY: the CPU interface, mapped flat; each processor sees its own.
    unsafe {
        mmio_write(gicc + GICC_PMR, 0xf0);
        mmio_write(gicc + GICC_CTLR, 1);
    }
}

/// Address of a distributor register.
#[inline(always)]
pub fn distributor(offset: usize) -> usize {
    GICD.load(Relaxed) + offset
}

/// Reads a distributor register.
#[inline(always)]
pub fn read(offset: usize) -> u32 {
    // SAFETY: the distributor, mapped flat; its reads have no side effects.
    unsafe { mmio_read(distributor(offset)) }
}

/// Writes a distributor register.
#[inline(always)]
pub fn write(offset: usize, value: u32) {
    // SAFETY: the distributor, mapped flat; interrupts cannot break memory safety.
    unsafe { mmio_write(distributor(offset), value) }
}

/// Writes a byte of a distributor register.
#[inline(always)]
pub fn write8(offset: usize, value: u8) {
    // SAFETY: as `write`.
    unsafe { mmio_write8(distributor(offset), value) }
}

/// Lets an interrupt through.
pub fn enable(intid: u32) {
    write(
        GICD_ISENABLER + 4 * (intid as usize / 32),
        1 << (intid % 32),
    );
}

/// Stops an interrupt.
pub fn disable(intid: u32) {
    write(
        GICD_ICENABLER + 4 * (intid as usize / 32),
        1 << (intid % 32),
    );
}

/// GICC_IAR: takes the interrupt.
#[inline(always)]
pub fn acknowledge() -> u32 {
    // SAFETY: the CPU interface, mapped flat.
    unsafe { mmio_read(GICC.load(Relaxed) + GICC_IAR) }
}

/// GICC_EOIR: ends it.
#[inline(always)]
pub fn end(iar: u32) {
    // SAFETY: as `acknowledge`.
    unsafe { mmio_write(GICC.load(Relaxed) + GICC_EOIR, iar) }
}

/// GICD_SGIR value: SGI `id` to this processor.
pub const fn sgi_self(id: u32) -> u32 {
    2 << 24 | id
}
