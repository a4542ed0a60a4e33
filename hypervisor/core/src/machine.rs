//! The small traits through which the core reaches hardware. Each has a fake for host tests beside its users.

use core::sync::atomic::AtomicU32;

use crate::addr::{GuestVirt, IntId, Mfn};

/// A 4 KiB page that a guest can change at any moment, mapped for the hypervisor as long as the value lives.
///
/// The words are atomics, so concurrent guest writes are no data race; each word is read once for each use.
pub trait SharedPage: Send + Sync {
    /// Returns the page as its 1024 little-endian words.
    fn words(&self) -> &[AtomicU32; 1024];
    /// Returns the machine frame behind the page.
    fn mfn(&self) -> Mfn;
}

/// The memory of the calling vCPU as its own page tables and privileges show it (XSA-98).
pub trait GuestMemory {
    /// Copies `buf.len()` bytes from guest address `from`. On error nothing may be assumed about `buf`.
    ///
    /// # Errors
    /// [`Fault`] when a page is not mapped readable, or is not the domain's RAM.
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault>;
    /// Copies `buf` to guest address `to`.
    ///
    /// # Errors
    /// [`Fault`] when a page is not mapped writable, or is not the domain's RAM; earlier pages may have been written.
    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault>;
}

/// Keeps a frame from being freed while the hypervisor copies from or to it for its owner.
pub trait HoldRam {
    /// Returns whether the frame is RAM of the guest; if so, it stays that until [`Self::release`].
    fn hold(&self, mfn: Mfn) -> bool;
    /// Ends a successful [`Self::hold`].
    fn release(&self, mfn: Mfn);
}

/// A guest address could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

impl From<Fault> for crate::errno::Errno {
    fn from(_: Fault) -> Self {
        Self::Fault
    }
}

/// How a physical interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Active while the line is high.
    Level,
    /// Pended by an edge.
    Edge,
}

/// The physical distributor, as far as a guest's virtual one drives it (SPIs routed to the guest).
pub trait PhysIrq {
    /// Enables forwarding of the interrupt.
    fn enable(&mut self, irq: IntId);
    /// Disables forwarding of the interrupt.
    fn disable(&mut self, irq: IntId);
    /// Sets the trigger mode.
    fn set_trigger(&mut self, irq: IntId, trigger: Trigger);
    /// Sets or clears the pending state.
    fn set_pending(&mut self, irq: IntId, pending: bool);
    /// Returns true if the interrupt is pending, or active and pending: GICD_ISPENDR.
    fn is_pending(&self, irq: IntId) -> bool;
    /// Ends the active state of an interrupt that was acknowledged.
    fn deactivate(&mut self, irq: IntId);
}
