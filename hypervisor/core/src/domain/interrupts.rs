//! Which domain each shared interrupt (SPI) of the machine belongs to.
//!
//! An interrupt is a domain's from [`Hypervisor::give_interrupt`] until [`Hypervisor::take_interrupt`] or the domain's
//! end. Ownership is entered before the interrupt is linked in the domain's vGIC and given up after it is unlinked, so
//! that two domains are never linked to one.
//!
//! # Locks
//! Each interrupt has its own, so that CPUs which take different ones do not meet. A leaf: nothing is locked inside it, and
//! no domain is dropped with it held.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::IntId;
use crate::domain::Domain;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;
use crate::machine::Trigger;
use crate::sync::SpinLock;

type Slot<H> = SpinLock<Option<Arc<Domain<H>>>>;

/// The owners, by the number of the interrupt.
pub struct InterruptOwners<H: Hal>(Vec<Slot<H>>);

impl<H: Hal> InterruptOwners<H> {
    /// Makes the table for interrupts 0 to `lines - 1`. At boot: it aborts without memory.
    pub fn new(lines: usize) -> Self {
        let mut owners = Vec::new();
        owners.resize_with(lines, || SpinLock::new(None));
        Self(owners)
    }

    /// Returns whose an interrupt is.
    #[inline]
    pub fn owner(&self, irq: IntId) -> Option<Arc<Domain<H>>> {
        self.0.get(irq.index())?.lock().clone()
    }

    /// Enters that an interrupt is a domain's. One that is linked already; others want [`Hypervisor::give_interrupt`].
    ///
    /// # Errors
    /// `EBUSY` when it is somebody's; `EINVAL` when there is none with that number.
    pub fn set(&self, irq: IntId, domain: &Arc<Domain<H>>) -> Result<(), Errno> {
        let mut slot = self.0.get(irq.index()).ok_or(Errno::Inval)?.lock();
        if slot.is_some() {
            return Err(Errno::Busy);
        }
        *slot = Some(domain.clone());
        Ok(())
    }

    /// An interrupt is not this domain's any more, if it was.
    fn clear(&self, irq: IntId, domain: &Arc<Domain<H>>) {
        if let Some(slot) = self.0.get(irq.index()) {
            clear(slot, domain);
        }
    }

    /// No interrupt is this domain's any more.
    fn clear_all(&self, domain: &Arc<Domain<H>>) {
        for slot in &self.0 {
            clear(slot, domain);
        }
    }
}

fn clear<H: Hal>(slot: &Slot<H>, domain: &Arc<Domain<H>>) {
    let is_it = |owner: &mut Arc<Domain<H>>| Arc::ptr_eq(owner, domain);
    // The domain is dropped after the lock.
    let owner = slot.lock().take_if(is_it);
    drop(owner);
}

impl<H: Hal> Hypervisor<H> {
    /// Gives a shared interrupt of the machine to a domain, under its own number.
    ///
    /// # Errors
    /// `EBUSY` when somebody has it; `EINVAL` when the machine or the domain has no such interrupt.
    pub fn give_interrupt(
        &self,
        domain: &Arc<Domain<H>>,
        irq: IntId,
        trigger: Trigger,
    ) -> Result<(), Errno> {
        self.interrupts.set(irq, domain)?;
        let mut vgic = domain.vgic.lock();
        let linked = self.hal.with_distributor(|distributor| {
            distributor.disable(irq);
            distributor.set_trigger(irq, trigger);
            vgic.link_hw(irq, irq, trigger, distributor)
        });
        drop(vgic);
        linked.inspect_err(|_| self.interrupts.clear(irq, domain))
    }

    /// Takes a shared interrupt from a domain.
    ///
    /// # Errors
    /// `EINVAL` when it does not have it; `EBUSY` while the guest handles it.
    pub fn take_interrupt(&self, domain: &Arc<Domain<H>>, irq: IntId) -> Result<(), Errno> {
        let owner = self.interrupts.owner(irq).ok_or(Errno::Inval)?;
        if !Arc::ptr_eq(&owner, domain) {
            return Err(Errno::Inval);
        }
        let mut vgic = domain.vgic.lock();
        if vgic.is_in_progress(irq) {
            return Err(Errno::Busy);
        }
        let unlinked = self
            .hal
            .with_distributor(|distributor| vgic.unlink_hw(irq, distributor));
        drop(vgic);
        unlinked.ok_or(Errno::Inval)?;
        self.interrupts.clear(irq, domain);
        Ok(())
    }

    /// Takes all of a domain's physical interrupts from it: it does not run any more.
    pub(crate) fn release_interrupts(&self, domain: &Arc<Domain<H>>) {
        let mut vgic = domain.vgic.lock();
        self.hal
            .with_distributor(|distributor| vgic.unlink_all(distributor));
        drop(vgic);
        self.interrupts.clear_all(domain);
    }
}
