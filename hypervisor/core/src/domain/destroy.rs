//! The end of a domain, in steps: each is bounded, and the work stops between two of them when something else waits.
//!
//! The order: its vCPUs stop and leave their pCPUs, for good; then its interrupts go, its event channels, what it mapped
//! of others' grants, its memory. Now it is [`Stage::Dead`]. Others may still have pages of it mapped: the last of them
//! lets [`Hypervisor::reap`] take it out of the table. What the hypervisor's own code still holds of it at that moment,
//! a reference for the length of a call, is waited for before its tables and numbers are used again.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{Domain, Stage};
use crate::errno::Errno;
use crate::evtchn::{Reset, ResetCall};
use crate::gnttab::{Scan, release_mapping};
use crate::hal::Hal;
use crate::hypercall::{Reach, close_with};
use crate::hypervisor::Hypervisor;
use crate::machine::SharedPage;
use crate::p2m::{P2m, Relinquish};
use crate::stage2::TableMemory;

/// Ports that are closed in one step.
const PORTS: u32 = 64;
/// Pages that are given up in one step.
const PAGES: u32 = 512;

/// What was taken apart already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Teardown {
    /// Nothing.
    #[default]
    Begin,
    /// The vCPUs are leaving their pCPUs.
    Stopping,
    /// They have left.
    Stopped,
    /// Event channels are being closed.
    Events(ResetCallState),
    /// What it mapped of others is being unmapped, from this handle on.
    Grants(u32),
    /// Its memory is being given up.
    Memory,
    /// Everything.
    Done,
}

/// Whether the first ports were closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetCallState {
    /// No.
    #[default]
    Begin,
    /// Yes.
    Continue,
}

impl<H: Hal> Hypervisor<H> {
    /// Takes a domain apart, until that is done or `must_yield` says that something else waits.
    ///
    /// # Errors
    /// `Restart`: it is to be called again. Another caller may be at it at this moment.
    pub fn destroy_domain(
        &self,
        domain: &Arc<Domain<H>>,
        must_yield: &dyn Fn() -> bool,
    ) -> Result<(), Errno> {
        let Some(mut teardown) = domain.teardown.try_lock() else {
            return Err(Errno::Restart);
        };
        while *teardown != Teardown::Done {
            *teardown = self.teardown_step(domain, *teardown)?;
            if *teardown == Teardown::Done {
                domain.stage.store(Stage::Dead as u8, Ordering::SeqCst);
                self.ask_reap();
                drop(teardown);
                self.tell_domain_changed();
                return Ok(());
            }
            if must_yield() {
                return Err(Errno::Restart);
            }
        }
        Ok(())
    }

    fn teardown_step(&self, domain: &Arc<Domain<H>>, now: Teardown) -> Result<Teardown, Errno> {
        Ok(match now {
            Teardown::Begin => {
                domain.stage.store(Stage::Dying as u8, Ordering::SeqCst);
                domain.pause();
                Teardown::Stopping
            }
            // The call is executed again meanwhile.
            Teardown::Stopping if !domain.is_descheduled() => return Err(Errno::Restart),
            Teardown::Stopping => Teardown::Stopped,
            Teardown::Stopped => {
                self.units.remove_domain(&self.scheduler, domain);
                self.release_interrupts(domain);
                self.hal.forget_domain(domain);
                self.virq_handlers.forget(domain.facts.id);
                // Its claim ends.
                self.claim_pages(domain, 0)?;
                domain.events.lock().set_dying();
                domain.grants.lock().kill();
                Teardown::Events(ResetCallState::Begin)
            }
            Teardown::Events(state) => self.close_some(domain, state)?,
            Teardown::Grants(from) => self.unmap_some(domain, from),
            Teardown::Memory => {
                let mut memory = self.hal.p2m_memory(domain.vttbr);
                match domain.p2m.lock().relinquish(&mut memory, PAGES) {
                    Relinquish::More => Teardown::Memory,
                    Relinquish::Done => Teardown::Done,
                }
            }
            Teardown::Done => Teardown::Done,
        })
    }

    fn close_some(
        &self,
        domain: &Arc<Domain<H>>,
        state: ResetCallState,
    ) -> Result<Teardown, Errno> {
        let call = match state {
            ResetCallState::Begin => ResetCall::Begin,
            ResetCallState::Continue => ResetCall::Continue,
        };
        let reset = domain.events.lock().reset(call, PORTS)?;
        match reset {
            Reset::Done => {
                for vcpu in &domain.vcpus {
                    // The page is dropped after the lock.
                    let page = domain.events.lock().unregister_vcpu_info(vcpu.id);
                    drop(page);
                }
                if let Some(vuart) = domain.vuart.get() {
                    vuart.detach();
                }
                return Ok(Teardown::Grants(0));
            }
            Reset::NeedsPeer(peer, port) => match close_with(self, domain, peer, port) {
                Ok(_) | Err(Errno::Inval) => {}
                Err(error) => return Err(error),
            },
            Reset::More => {}
        }
        Ok(Teardown::Events(ResetCallState::Continue))
    }

    fn unmap_some(&self, domain: &Arc<Domain<H>>, from: u32) -> Teardown {
        let scan = domain.maptrack.lock().scan(from);
        match scan {
            Scan::Done => Teardown::Memory,
            Scan::Continue(next) => Teardown::Grants(next),
            Scan::Found { handle, granter } => {
                let mut reach = Reach {
                    hv: self,
                    own: domain,
                };
                let released = self.domains.get(granter).map(|granter| {
                    let mut maptrack = domain.maptrack.lock();
                    let mut grants = granter.grants.lock();
                    release_mapping(handle, &mut grants, &mut maptrack, &mut reach)
                });
                if !matches!(released, Some(Ok(()))) {
                    log::error!(
                        "{}: its mapping {handle} of {granter}'s cannot be undone: {released:?}",
                        domain.facts.id
                    );
                    return Teardown::Grants(handle + 1);
                }
                Teardown::Grants(handle)
            }
        }
    }

    /// Somebody looks for domains that are gone soon.
    pub fn ask_reap(&self) {
        self.wants_reap.store(true, Ordering::SeqCst);
    }

    /// Takes domains that are dead and that nobody refers to out of the table, and frees what is left of them. Called
    /// where no lock is held.
    pub fn reap(&self) {
        if !self.wants_reap.load(Ordering::Relaxed) {
            return;
        }
        self.wants_reap.store(false, Ordering::SeqCst);
        let mut is_gone = false;
        for domain in self.domains.all() {
            if domain.stage() == Stage::Dead && self.is_unreferenced(&domain) {
                self.domains.retire(domain);
                is_gone = true;
            }
        }
        while let Some(domain) = self.domains.take_retired() {
            self.bury(domain);
        }
        if self.domains.has_retired() {
            // Somebody still has it in hand.
            self.ask_reap();
        }
        if is_gone {
            self.tell_domain_changed();
        }
    }

    fn is_unreferenced(&self, domain: &Domain<H>) -> bool {
        if domain.account.pages() != 0 {
            return false;
        }
        let frames = domain.grants.lock().take_frames();
        drop(frames);
        // The shared info page is the domain's own to the end.
        domain.account.shared() <= 1 && self.frames.references(domain.shared_info.mfn()) == 1
    }

    /// Gives up a domain that is not in the table, or not yet.
    pub fn give_up(&self, domain: Arc<Domain<H>>) {
        while self.destroy_domain(&domain, &|| false) == Err(Errno::Restart) {}
        match Arc::into_inner(domain) {
            Some(domain) => self.bury(domain),
            None => log::error!("a domain that never was is still in use"),
        }
    }

    /// Frees what is left of a domain.
    fn bury(&self, domain: Domain<H>) {
        let Domain {
            facts,
            p2m,
            vttbr,
            shared_info,
            events,
            grants,
            ..
        } = domain;
        // Pages that count as the domain's: before its number is another's.
        drop((shared_info, events, grants));
        self.drop_memory(p2m.into_inner(), vttbr);
        self.vmids.give_back((vttbr >> 48) as u16);
        self.domains.free_number(facts.id);
    }

    /// Frees the memory and tables of an address space that no vCPU uses.
    pub(super) fn drop_memory(&self, mut p2m: P2m, vttbr: u64) {
        let mut memory = self.hal.p2m_memory(vttbr);
        while p2m.relinquish(&mut memory, PAGES) == Relinquish::More {}
        // Its VMID will be another's.
        memory.flush();
        if p2m.destroy(&mut memory).is_err() {
            log::error!("memory is lost: stage-2 tables are still in use");
        }
    }
}
