//! The spin lock.
//!
//! Order, outer to inner: domain list, domain, p2m, grant table, event channels, vGIC, scheduler, frame table, hypervisor
//! page tables, heap, console. Code takes a lock only while it holds none further right.

/// Mutual exclusion by spinning; fair enough for few CPUs and short sections.
pub type SpinLock<T> = spin::mutex::SpinMutex<T>;
/// The guard of a [`SpinLock`].
pub type SpinLockGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;
pub use spin::Once;
