//! Allocations that can fail where the standard library has none.
//!
//! `Arc::try_new` is not stable, so [`arc`] looks for the room first: it allocates as much, and gives that back. The
//! machine's heap keeps a block of each size that [`room`] named for the moment between (`xenith_hw::heap`): others may
//! have taken all else. So `arc` is called by one CPU at a time, for types whose size and alignment nothing else has.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicUsize;

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::sync::SpinLock;

/// One at a time.
static LOCK: SpinLock<()> = SpinLock::new(());

/// As large as what [`Arc`] allocates.
#[repr(C)]
struct Counted<T> {
    _counts: [AtomicUsize; 2],
    _value: MaybeUninit<T>,
}

/// Returns the size and alignment of what [`arc`] allocates for a `T`.
pub const fn room<T>() -> Layout {
    Layout::new::<Counted<T>>()
}

/// Moves a value into an [`Arc`].
///
/// # Errors
/// The value, when there is no memory for it.
#[allow(clippy::result_large_err, reason = "the caller gets back what it gave")]
pub fn arc<T>(value: T) -> Result<Arc<T>, T> {
    let _alone = LOCK.lock();
    let mut found: Vec<Counted<T>> = Vec::new();
    if found.try_reserve_exact(1).is_err() {
        return Err(value);
    }
    drop(core::hint::black_box(found));
    Ok(make(value))
}

#[cfg(not(any(test, feature = "fakes")))]
fn make<T>(value: T) -> Arc<T> {
    Arc::new(value)
}

/// The tests' allocator counts allocations, not room.
#[cfg(any(test, feature = "fakes"))]
fn make<T>(value: T) -> Arc<T> {
    fail_alloc::never(|| Arc::new(value))
}

#[cfg(test)]
mod tests {
    use super::{arc, room};
    use crate::p2m::PageAccount;
    use crate::vgic::WorkFlags;

    #[test]
    fn what_is_kept_fits_both_small_ones() {
        assert_eq!(room::<PageAccount>(), room::<WorkFlags>());
        assert_eq!(room::<PageAccount>().align(), 64);
    }

    #[test]
    fn fails_without_memory() {
        assert_eq!(fail_alloc::after(0, || arc(7)).unwrap_err(), 7);
        assert_eq!(*fail_alloc::after(1, || arc(7)).unwrap(), 7);
    }
}
