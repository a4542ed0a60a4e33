//! For QEMU 10: the SPSR of the AArch32 mode that a guest is in.
//!
//! QEMU keeps that one apart from what SPSR_EL1, SPSR_abt and so on are to EL2, and brings the two together only where a
//! guest itself changes its mode (its `switch_mode`; neither an exception to AArch64 nor the return from one does). So what
//! we read of it is old, and what we write does not arrive: a vCPU that moves to another CPU inside an exception handler, or
//! is given an exception, returns to a state that never was. Where [`detect`] finds this, a few instructions of ours change
//! the mode at EL1, in stage-2 tables of their own. Processors need nothing of it.

use core::sync::atomic::{AtomicU64, Ordering};

use xenith_core::emulate::regs::psr;

use super::context::GuestFrame;
use super::setup::{self, SCTLR32_RESET, hcr};
use super::sysreg;
use crate::common::boot::{ExitKind, enter_guest};

/// VTTBR of the tables with our instructions, where they are needed; else 0.
static TABLES: AtomicU64 = AtomicU64::new(0);

/// All interrupts masked.
const MASKED: u32 = psr::A | psr::I | psr::F;
/// Where our way to read the current SPSR is.
const READ_AT: u64 = 0x80;
/// What `detect` writes to SPSR_abt.
const PATTERN: u64 = 0x6000_01d3;

/// Our instructions, from guest address 0 on: for the lower half of each mode's number `cps #mode; hvc #0`, then
/// `mrs r0, spsr; hvc #0`.
pub const CODE: [u32; 34] = {
    const HVC: u32 = 0xe140_0070;
    let mut code = [HVC; 34];
    let mut mode = 0;
    while mode < 16 {
        code[mode as usize * 2] = 0xf102_0010 | mode;
        mode += 1;
    }
    code[32] = 0xe14f_0000;
    code
};

/// Whether a mode has an SPSR.
const fn has_spsr(mode: u32) -> bool {
    matches!(
        mode,
        psr::MODE_FIQ | psr::MODE_IRQ | psr::MODE_SVC | psr::MODE_ABT | psr::MODE_UND
    )
}

/// Executes two of our instructions in `mode`; returns r0.
fn run(tables: u64, at: u64, mode: u32) -> u32 {
    let kept = (
        sysreg::vttbr::read(),
        sysreg::hcr::read(),
        sysreg::sctlr::read(),
    );
    let mut frame = GuestFrame {
        pc: at,
        pstate: u64::from(mode | MASKED),
        ..GuestFrame::default()
    };
    // SAFETY: 1. The tables map nothing but a page with `CODE`, for good, and their VMID is their own. 2. EL1's translation is
    // off, interrupts and aborts of any kind are masked and stay at EL1, so both instructions are executed, and the second
    // one comes back. 3. What was live is live again afterwards.
    unsafe {
        setup::set_stage2(tables);
        sysreg::hcr::write(hcr::VM);
        sysreg::sctlr::write(SCTLR32_RESET);
        sysreg::isb();
        let exit = enter_guest(&mut frame);
        debug_assert!(matches!(exit, ExitKind::Trap));
        sysreg::sctlr::write(kept.2);
        sysreg::hcr::write(kept.1);
        setup::set_stage2(kept.0);
    }
    frame.x[0] as u32
}

/// Looks whether this is QEMU 10: `tables` is VTTBR of tables that map a page with [`CODE`] at 0, and nothing else. Returns
/// whether they are needed: then they are never to change. For boot, before any guest runs; EL1 has AArch32 state.
pub fn detect(tables: u64) -> bool {
    // SAFETY: No guest runs yet.
    unsafe { sysreg::spsr_abt::write(PATTERN) };
    let needed = u64::from(run(tables, READ_AT, psr::MODE_ABT)) != PATTERN;
    if needed {
        TABLES.store(tables, Ordering::Relaxed);
    }
    needed
}

/// Makes the SPSR of the mode `state` be where EL2 reads it. The guest that was in this mode is live.
#[inline]
pub fn settle(state: u32) {
    change(state, state & psr::MODE_MASK, psr::MODE_SYS);
}

/// Makes the SPSR of the mode `state` be what EL2 wrote. The guest that will be in this mode is live.
#[inline]
pub fn load(state: u32) {
    change(state, psr::MODE_SYS, state & psr::MODE_MASK);
}

#[inline]
fn change(state: u32, from: u32, to: u32) {
    let tables = TABLES.load(Ordering::Relaxed);
    if tables != 0 && has_spsr(state & psr::MODE_MASK) {
        let _: u32 = run(tables, u64::from(to & 0xf) * 8, from);
    }
}
