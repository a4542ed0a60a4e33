//! A page that a guest and the hypervisor both access, mapped for as long as it is shared.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use alloc::sync::Arc;

use xenith_core::addr::Mfn;
use xenith_core::machine::SharedPage;

/// Undoes a mapping when the last handle to a page is dropped.
pub trait Unmap: Send + Sync {
    /// Called once with the page's address and frame, when nothing refers to the mapping any more.
    fn unmap(&self, va: usize, mfn: Mfn);
}

struct Mapping {
    words: NonNull<[AtomicU32; 1024]>,
    mfn: Mfn,
    owner: &'static dyn Unmap,
}

// SAFETY: The words are atomics; the mapping is valid on every CPU.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.owner.unmap(self.words.as_ptr() as usize, self.mfn);
    }
}

/// A counted handle to a mapped page.
#[derive(Clone)]
pub struct MappedPage(Arc<Mapping>);

impl MappedPage {
    /// Wraps the page mapped at `va`.
    ///
    /// # Safety
    /// `va` is page aligned and maps frame `mfn` read-write until `owner.unmap` is called; the frame stays allocated as
    /// long, and the hypervisor accesses it through atomics only.
    pub unsafe fn new(va: NonNull<u8>, mfn: Mfn, owner: &'static dyn Unmap) -> Self {
        Self(Arc::new(Mapping {
            words: va.cast(),
            mfn,
            owner,
        }))
    }
}

impl SharedPage for MappedPage {
    #[inline(always)]
    fn words(&self) -> &[AtomicU32; 1024] {
        // SAFETY: `new`'s contract: a whole mapped page for as long as the Arc lives; guests change it only as atomics
        // may be changed.
        unsafe { self.0.words.as_ref() }
    }

    fn mfn(&self) -> Mfn {
        self.0.mfn
    }
}
