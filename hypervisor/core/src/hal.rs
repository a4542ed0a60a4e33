//! The bundle of what the glue (domains, hypercalls, the run loop) needs from a machine. Event channels, grant tables,
//! the vGIC and the p2m do not see it: they have their own small traits.

use xen_abi::vcpu::VcpuGuestContext;

use crate::addr::{CpuId, DomId, HostPhys, Mfn, VcpuId};
use crate::console::GuestLine;
use crate::domain::Domain;
use crate::emulate::Execution;
use crate::errno::Errno;
use crate::machine::{Fault, PhysIrq, SharedPage};
use crate::p2m::P2mMemory;
use crate::sched::CpuSet;

/// A machine: the real one, or a fake of the host's.
pub trait Hal: Sized + Send + Sync + 'static {
    /// A page shared with a guest, kept mapped while the handle lives.
    type Page: SharedPage + Clone;
    /// What the p2m works with.
    type P2mMemory: P2mMemory;
    /// The architecture's part of a vCPU.
    type VcpuContext: Send;

    /// Returns the counter, in ticks.
    fn now(&self) -> u64;
    /// Returns what the p2m of the address space `vttbr` works with (0: one that was never live).
    fn p2m_memory(&self, vttbr: u64) -> Self::P2mMemory;
    /// Maps a frame that the caller holds a reference to. The handle takes the reference over: when the last clone is
    /// dropped, the page is unmapped and [`crate::hypervisor::Hypervisor::put_frame`] called.
    ///
    /// # Errors
    /// `ENOMEM` when no address or table is left; the reference stays the caller's.
    fn map_shared(&self, mfn: Mfn) -> Result<Self::Page, Errno>;
    /// Copies bytes from physical memory that the caller owns.
    ///
    /// # Errors
    /// [`Fault`] beyond the physical address space.
    fn read_phys(&self, from: HostPhys, buf: &mut [u8]) -> Result<(), Fault>;
    /// Copies bytes to physical memory that the caller owns.
    ///
    /// # Errors
    /// [`Fault`] beyond the physical address space.
    fn write_phys(&self, to: HostPhys, buf: &[u8]) -> Result<(), Fault>;
    /// Copies bytes between two places in physical memory that the caller holds. They do not overlap, and each is within
    /// a page.
    ///
    /// # Errors
    /// [`Fault`] beyond the physical address space.
    fn copy_phys(&self, from: HostPhys, to: HostPhys, length: usize) -> Result<(), Fault>;
    /// Zeroes a frame.
    fn zero_frame(&self, mfn: Mfn);
    /// Cleans and invalidates the caches of a frame.
    fn flush_frame(&self, mfn: Mfn);
    /// Makes the registers of a vCPU of this width as they are out of reset, with performance monitors or without.
    fn new_context(&self, vcpu: VcpuId, execution: Execution, has_pmu: bool) -> Self::VcpuContext;
    /// Sets a vCPU's registers as a toolstack says.
    ///
    /// # Errors
    /// `EINVAL` for a processor mode that a guest cannot have.
    fn set_registers(
        &self,
        context: &mut Self::VcpuContext,
        registers: &VcpuGuestContext,
    ) -> Result<(), Errno>;
    /// Returns a vCPU's registers.
    fn registers(&self, context: &Self::VcpuContext) -> VcpuGuestContext;
    /// Calls `action` with the interrupt distributor.
    fn with_distributor<R>(&self, action: impl FnOnce(&mut dyn PhysIrq) -> R) -> R;
    /// A domain goes: what it has begun to say is printed, and its input is another's.
    fn forget_domain(&self, domain: &Domain<Self>);
    /// Code in RAM was written: instruction fetches start over.
    fn invalidate_instruction_caches(&self);
    /// Writes a guest's bytes to the console, as they are.
    fn console_write(&self, bytes: &[u8]);
    /// Writes what a domain says that is not dom0; `line` is what it has begun to say.
    fn domain_write(&self, domain: DomId, line: &mut GuestLine, bytes: &[u8]);
    /// Takes input that was typed for dom0; returns how many bytes were stored.
    fn console_read(&self, buf: &mut [u8]) -> usize;
    /// Copies what was printed: from the oldest byte kept, or from byte `since` on. Returns how many bytes, and the number
    /// of the one after them.
    fn console_log(&self, since: Option<u32>, out: &mut [u8]) -> (usize, u32);
    /// Forgets what was printed before byte `to`.
    fn console_forget(&self, to: u32);
    /// Presses a debug key.
    fn press_key(&self, key: u8);
    /// Returns the pCPUs that are in service.
    fn cpus(&self) -> CpuSet;
    /// Returns how long a pCPU slept, in ticks.
    fn idle_ticks(&self, cpu: CpuId) -> u64;
    /// Returns true when an interrupt waits for this CPU: long work stops at its next step and is executed again.
    fn has_pending_interrupt(&self) -> bool;
}
