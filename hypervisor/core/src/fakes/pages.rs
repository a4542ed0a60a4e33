//! Pages shared with guests, and what p2ms work with.

use super::*;

/// A shared page: gives its reference back when the last handle is dropped.
#[derive(Clone)]
pub struct FakePage(pub(super) Arc<Mapped>);

pub(super) struct Mapped {
    pub words: Arc<Words>,
    pub mfn: Mfn,
    pub hv: Weak<Hv>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // After the machine's end there is nothing to give back.
        let Some(hv) = self.hv.upgrade() else { return };
        hv.hal.mapped.fetch_sub(1, Ordering::SeqCst);
        if let Some(count) = hv.hal.mappings.lock().unwrap().get_mut(&self.mfn.raw()) {
            *count -= 1;
        }
        hv.put_frame(self.mfn);
    }
}

impl SharedPage for FakePage {
    fn words(&self) -> &Words {
        &self.0.words
    }
    fn mfn(&self) -> Mfn {
        self.0.mfn
    }
}

pub struct FakeMemory(pub(super) Arc<Hv>);

impl FakeMemory {
    fn alloc(&self, order: u32, owner: Owner, account: Option<&PageAccount>) -> Option<Mfn> {
        let got = self.0.alloc_frames(order, owner, account)?;
        for frame in got.mfn.raw()..got.mfn.raw() + (1 << order) {
            self.0.hal.zero_frame(Mfn::new(frame));
        }
        Some(got.mfn)
    }
    fn make_tables(&self, mfn: Mfn, order: u8) {
        let mut tables = self.0.hal.tables.lock().unwrap();
        fail_alloc::never(|| {
            for frame in mfn.raw()..mfn.raw() + (1 << order) {
                let table: Table = std::array::from_fn(|_| AtomicU64::new(0));
                let index = (frame - RAM) as usize;
                if tables.len() <= index {
                    tables.resize(index + 1, None);
                }
                tables[index] = Some(Arc::new(table));
            }
        });
    }
    fn free(&self, mfn: Mfn, order: u32) {
        let mut allocator = self.0.allocator.lock();
        allocator
            .free(&self.0.frames, mfn, order, Contents::Dirty)
            .expect("free");
    }
}

impl TableMemory for FakeMemory {
    fn alloc_table(&mut self, is_aside: bool) -> Option<Mfn> {
        let mfn = self.0.alloc_table(is_aside)?;
        self.make_tables(mfn, 0);
        Some(mfn)
    }
    fn free_table(&mut self, table: Mfn, is_aside: bool) {
        self.0.free_table(table, is_aside);
    }
    fn set_aside(&mut self, pages: u32) -> bool {
        self.0.allocator.lock().set_aside(pages)
    }
    fn end_aside(&mut self, pages: u32) {
        self.0.allocator.lock().end_aside(pages);
    }
    fn alloc_root(&mut self, order: u8) -> Option<Mfn> {
        let mfn = self.alloc(u32::from(order), Owner::Xen, None)?;
        self.make_tables(mfn, order);
        Some(mfn)
    }
    fn free_root(&mut self, root: Mfn, order: u8) {
        self.free(root, u32::from(order));
    }
    fn with_table<R>(&self, table: Mfn, body: impl FnOnce(&Table) -> R) -> R {
        let index = (table.raw() - RAM) as usize;
        let found = self.0.hal.tables.lock().unwrap()[index].clone();
        let found = found.expect("a table");
        body(&found)
    }
    fn publish(&self, _entries: &[AtomicU64]) {}
    fn flush(&mut self) {
        self.0.hal.tlb_flushes.fetch_add(1, Ordering::SeqCst);
    }
}

impl P2mMemory for FakeMemory {
    type Storage = &'static [AtomicU64];
    fn frames(&self) -> &FrameTable<Self::Storage> {
        &self.0.frames
    }
    fn alloc_ram(&mut self, order: u32, owner: DomId, account: &PageAccount) -> Option<Mfn> {
        self.alloc(order, Owner::Domain(owner), Some(account))
    }
    fn free_frame(&mut self, mfn: Mfn) {
        self.free(mfn, 0);
    }
    fn free_frames(&mut self, first: Mfn, pages: u32) {
        self.0.free_frames(first, pages);
    }
    fn undo_alloc_ram(&mut self, mfn: Mfn, order: u32) {
        let mut allocator = self.0.allocator.lock();
        allocator
            .undo(&self.0.frames, mfn, order, Contents::Clean)
            .expect("undo");
    }
    fn free_other(&mut self, mfn: Mfn, owner: DomId, is_xenheap: bool) {
        self.free(mfn, 0);
        self.0.note_freed(owner, is_xenheap);
    }
}
