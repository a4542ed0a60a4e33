//! What guests cause must not end the hypervisor when the heap is empty.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use xenith_core::addr::Mfn;
use xenith_core::machine::SharedPage;
use xenith_hw::shared_page::{FreeSlot, MappedPage, SlotPool, Unmap};

fn without_memory<R>(body: impl FnOnce() -> R) -> R {
    fail_alloc::after(0, body)
}

/// Pages that the tests map: real memory, so that handles can be used.
#[repr(align(4096))]
struct Pages([AtomicU32; 1024 * PAGES]);
const PAGES: usize = 70;
static MEMORY: Pages = Pages([const { AtomicU32::new(0) }; 1024 * PAGES]);

struct Tables {
    pool: Mutex<Option<SlotPool>>,
    unmapped: AtomicUsize,
}

static TABLES: Tables = Tables {
    pool: Mutex::new(None),
    unmapped: AtomicUsize::new(0),
};

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Option<SlotPool>> {
        self.pool.lock().unwrap()
    }

    fn map(&self, mfn: u32) -> Option<MappedPage> {
        let slot = self.lock().as_mut()?.take(&TABLES)?;
        // SAFETY: The pool's addresses are those of `MEMORY`, which is nothing but atomics.
        Some(unsafe { slot.into_page(Mfn::new(mfn)) })
    }
}

impl Unmap for Tables {
    fn unmap(&self, mapping: FreeSlot) {
        self.unmapped
            .fetch_add(mapping.mfn().raw() as usize, Ordering::SeqCst);
        if let Some(pool) = self.lock().as_mut() {
            pool.put(mapping);
        }
    }
}

/// One test, as the pool is a static.
#[test]
fn shared_pages_fail_and_come_back() {
    let start = MEMORY.0.as_ptr() as usize;
    *TABLES.lock() = Some(SlotPool::new(start, start + 4096 * PAGES));

    // Without memory there is no first slot, and nothing is lost by asking.
    for _ in 0..3 {
        assert!(without_memory(|| TABLES.map(1)).is_none());
    }
    let first = TABLES.map(1).expect("memory is back");
    // What one chunk holds can be given out without memory; what comes back as well.
    let mut pages: Vec<MappedPage> = Vec::with_capacity(PAGES);
    without_memory(|| {
        while let Some(page) = TABLES.map(2) {
            pages.push(page);
        }
    });
    assert_eq!(pages.len(), 31);
    let address = pages[7].words().as_ptr() as usize;
    let clone = without_memory(|| pages[7].clone());
    drop(pages.swap_remove(7));
    assert_eq!(
        TABLES.unmapped.load(Ordering::SeqCst),
        0,
        "a handle is left"
    );
    assert_eq!(clone.mfn(), Mfn::new(2));
    clone.words()[1023].store(5, Ordering::SeqCst);
    without_memory(|| drop(clone));
    assert_eq!(TABLES.unmapped.load(Ordering::SeqCst), 2);
    let again = without_memory(|| TABLES.map(3)).expect("the slot that came back");
    assert_eq!(again.words().as_ptr() as usize, address);
    assert_eq!(again.words()[1023].load(Ordering::SeqCst), 5);
    assert_eq!(again.mfn(), Mfn::new(3));

    // All addresses, each once, and then none.
    pages.extend(std::iter::from_fn(|| TABLES.map(4)));
    pages.extend([first, again]);
    assert_eq!(pages.len(), PAGES);
    let mut addresses: Vec<usize> = pages
        .iter()
        .map(|page| page.words().as_ptr() as usize)
        .collect();
    addresses.sort_unstable();
    let all: Vec<usize> = (0..PAGES).map(|i| start + i * 4096).collect();
    assert_eq!(addresses, all);
    assert!(TABLES.map(9).is_none());
    assert!(TABLES.map(9).is_none());

    // Handles that are dropped on several CPUs at once: unmapped once.
    TABLES.unmapped.store(0, Ordering::SeqCst);
    pages.truncate(1);
    let page = pages.pop().expect("one");
    TABLES.unmapped.store(0, Ordering::SeqCst);
    let value = page.mfn().raw() as usize;
    for _ in 0..200 {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let page = page.clone();
                std::thread::spawn(move || drop((page.clone(), page)))
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
    assert_eq!(TABLES.unmapped.load(Ordering::SeqCst), 0);
    drop(page);
    assert_eq!(TABLES.unmapped.load(Ordering::SeqCst), value);
}
