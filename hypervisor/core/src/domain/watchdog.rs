//! Watchdog timers (SCHEDOP_watchdog): a domain that does not set them anew in time is shut down.
//!
//! Each domain keeps its deadlines. The earliest of the machine is one word that every pCPU sets its timer by; whoever
//! finds it past looks through the domains.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use super::{Domain, Stage};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypervisor::Hypervisor;

/// Timers of a domain.
const TIMERS: usize = 2;
/// No deadline.
const NEVER: u64 = u64::MAX;

/// The timers of a domain: a deadline in ticks for each that is in use, [`NEVER`] once it has fired.
#[derive(Debug, Default)]
pub(super) struct Watchdogs([Option<u64>; TIMERS]);

impl Watchdogs {
    /// Marks what is due at `now` as fired; returns whether anything was, and the next deadline.
    fn expire(&mut self, now: u64) -> (bool, u64) {
        let (mut is_due, mut next) = (false, NEVER);
        for deadline in self.0.iter_mut().flatten() {
            if *deadline <= now {
                is_due = true;
                *deadline = NEVER;
            }
            next = next.min(*deadline);
        }
        (is_due, next)
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Sets watchdog timer `id` (1 or 2) of a domain to fire in `seconds`, or stops it with 0; timer 0 takes one that is
    /// free. Returns the number of one that was taken, else 0.
    ///
    /// # Errors
    /// `EINVAL` for a timer that is not there or not in use, `EEXIST` when all are.
    pub fn set_watchdog(&self, domain: &Domain<H>, id: u32, seconds: u32) -> Result<u32, Errno> {
        let ns = u64::from(seconds).saturating_mul(1_000_000_000);
        let deadline = self.hal.now().saturating_add(self.scale.to_ticks(ns));
        let mut watchdogs = domain.watchdogs.lock();
        let Some(index) = id.checked_sub(1) else {
            let mut timers = watchdogs.0.iter_mut().zip(1..);
            let (timer, number) = timers
                .find(|(timer, _)| timer.is_none())
                .ok_or(Errno::Exist)?;
            *timer = Some(deadline);
            drop(watchdogs);
            self.watchdog.fetch_min(deadline, Ordering::SeqCst);
            return Ok(number);
        };
        let timer = usize::try_from(index)
            .ok()
            .and_then(|index| watchdogs.0.get_mut(index))
            .filter(|timer| timer.is_some())
            .ok_or(Errno::Inval)?;
        *timer = (seconds != 0).then_some(deadline);
        drop(watchdogs);
        if seconds != 0 {
            self.watchdog.fetch_min(deadline, Ordering::SeqCst);
        }
        Ok(0)
    }

    /// Returns when [`Self::expire_watchdogs`] has something to do, in ticks.
    #[inline]
    pub fn watchdog_deadline(&self) -> u64 {
        self.watchdog.load(Ordering::Relaxed)
    }

    /// Calls `bite` for each domain that did not set a timer anew in time.
    pub fn expire_watchdogs(&self, now: u64, mut bite: impl FnMut(&Arc<Domain<H>>)) {
        if self.watchdog_deadline() > now {
            return;
        }
        // What is set from here on counts for itself.
        self.watchdog.store(NEVER, Ordering::SeqCst);
        for domain in self.domains.all() {
            let (is_due, next) = domain.watchdogs.lock().expire(now);
            self.watchdog.fetch_min(next, Ordering::SeqCst);
            if is_due && domain.shutdown().is_none() && domain.stage() == Stage::Alive {
                log::warn!("Watchdog timer fired for domain {}", domain.facts.id.raw());
                bite(&domain);
            }
        }
    }
}
