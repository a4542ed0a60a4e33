//! The spin lock, and the order in which locks are taken.
//!
//! Interrupts stay masked while the hypervisor runs, so a lock is never taken again by an interrupt on the same CPU.
//!
//! Order, outer to inner: a domain's end, maptrack, grant table, p2m, event channels, virtual UART, vGIC, distributor,
//! scheduler, hypervisor page tables, frame table (the allocator), domain numbers, domain table, table of units, owners of
//! interrupts, heap, console. Code takes a lock only while it holds none further right. The two tables and the owners are
//! leaves: nothing but the heap is locked inside.
//!
//! In this crate's own tests the lock can be explored: `interleave` runs threads in every order in which they can take
//! locks.

#[cfg(test)]
pub(crate) mod interleave;

#[cfg(test)]
pub use self::interleave::{SpinLock, SpinLockGuard};
/// Mutual exclusion by spinning; sections are short and CPUs few.
#[cfg(not(test))]
pub type SpinLock<T> = spin::mutex::SpinMutex<T>;
/// The guard of a [`SpinLock`].
#[cfg(not(test))]
pub type SpinLockGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;
pub use spin::Once;
