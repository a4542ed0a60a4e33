//! A domain that makes hypercalls: its registers, and its memory as hypercalls see it.

use std::cell::RefCell;

use super::*;

/// A guest's memory as its p2m shows it, virtual = physical.
struct Space<'a>(&'a Guest);

impl Space<'_> {
    fn locate(&self, at: u64, write: bool) -> Result<HostPhys, Fault> {
        let domain = &self.0.domain;
        if at > u64::from(u32::MAX) {
            return Err(Fault);
        }
        for other in self.0.hv.domains.all() {
            other.assert_unlocked();
        }
        let memory = self.0.hv.hal.p2m_memory(domain.vttbr);
        let gfn = Gfn::new((at >> 12) as u32);
        let mapping = domain.p2m.lock().lookup(&memory, gfn).ok_or(Fault)?;
        let owner = self.0.hv.frames.owner(mapping.mfn);
        if owner != Some(Owner::Domain(domain.facts.id)) || write && !mapping.ty.is_writable() {
            return Err(Fault);
        }
        Ok(HostPhys::new(mapping.mfn.address().raw() + (at & 0xfff)))
    }

    /// Cuts an access into pieces within pages.
    fn pieces(
        &self,
        at: GuestVirt,
        len: usize,
        write: bool,
        mut body: impl FnMut(HostPhys, core::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let here = at.raw().checked_add(done as u64).ok_or(Fault)?;
            let n = (4096 - (here & 0xfff) as usize).min(len - done);
            body(self.locate(here, write)?, done..done + n)?;
            done += n;
        }
        Ok(())
    }
}

impl GuestMemory for Space<'_> {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        self.pieces(from, buf.len(), false, |at, range| {
            self.0.hv.hal.read_phys(at, &mut buf[range])
        })
    }
    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
        self.pieces(to, buf.len(), true, |at, range| {
            self.0.hv.hal.write_phys(at, &buf[range])
        })
    }
}

/// The memory as one execution of a hypercall sees it: no byte may be read twice, since another vCPU may have changed it
/// in between, and what was checked would not be what is used.
struct ReadOnce<'a> {
    space: Space<'a>,
    read: RefCell<Vec<core::ops::Range<u64>>>,
    /// Of this crate's tests, which have no lists on top of each other; not the single calls of a multicall.
    is_strict: bool,
}

impl GuestMemory for ReadOnce<'_> {
    fn read(&self, from: GuestVirt, buf: &mut [u8]) -> Result<(), Fault> {
        self.space.read(from, buf)?;
        if self.is_strict && !buf.is_empty() {
            let range = from.raw()..from.raw() + buf.len() as u64;
            fail_alloc::never(|| {
                let mut read = self.read.borrow_mut();
                let again = read
                    .iter()
                    .find(|old| old.start < range.end && range.start < old.end);
                assert_eq!(again, None, "{range:x?} is read again");
                read.push(range);
            });
        }
        Ok(())
    }
    fn write(&self, to: GuestVirt, buf: &[u8]) -> Result<(), Fault> {
        self.space.write(to, buf)
    }
}

struct Regs {
    number: u32,
    args: [u64; 5],
    result: Option<i64>,
}

impl HypercallRegs for Regs {
    fn number(&self) -> u32 {
        self.number
    }
    fn argument(&self, n: usize) -> u64 {
        self.args[n]
    }
    fn set_argument(&mut self, n: usize, value: u64) {
        // As the registers of a 32-bit guest.
        self.args[n] = u64::from(value as u32);
    }
    fn set_result(&mut self, value: i64) {
        self.result = Some(value);
    }
}

/// A domain that makes hypercalls from a vCPU.
#[derive(Clone)]
pub struct Guest {
    pub hv: Arc<Hv>,
    pub domain: Arc<Domain<FakeHal>>,
    pub vcpu: VcpuId,
    /// How many allocations a call may make before memory is out.
    pub allocations: u32,
}

/// What a hypercall did.
#[derive(Debug)]
pub struct Called {
    pub result: i64,
    pub effects: Effects,
    /// How often it was preempted.
    pub preempted: u32,
}

impl Guest {
    /// Executes a hypercall to its end.
    pub fn call(&self, number: u32, args: &[u64]) -> Called {
        self.call_at_most(number, args, 1_000_000)
            .expect("a call that ends")
    }

    /// Executes a hypercall, unless it is preempted more often than that.
    pub fn call_at_most(&self, number: u32, args: &[u64], limit: u32) -> Option<Called> {
        let mut regs = Regs {
            number,
            args: [0; 5],
            result: None,
        };
        regs.args[..args.len()].copy_from_slice(args);
        let mut effects = Effects::default();
        for preempted in 0..limit {
            let space = ReadOnce {
                space: Space(self),
                read: RefCell::default(),
                is_strict: cfg!(test) && number != HYPERVISOR_MULTICALL,
            };
            let mut cx = Cx {
                hv: &self.hv,
                domain: &self.domain,
                vcpu: self.domain.vcpu(self.vcpu).unwrap(),
                memory: &space,
                effects: &mut effects,
            };
            let outcome = fail_alloc::after(self.allocations, || dispatch(&mut cx, &mut regs));
            for domain in self.hv.domains.all() {
                domain.assert_unlocked();
            }
            if outcome == Outcome::NoMemory {
                assert_eq!(regs.result, None, "not executed again");
                regs.result = Some(-12);
            }
            if outcome != Outcome::Preempted {
                let result = regs.result.expect("a result");
                assert_ne!(result, -85, "ERESTART is not for guests");
                return Some(Called {
                    result,
                    effects,
                    preempted,
                });
            }
            assert_eq!(regs.result, None, "preempted with a result");
        }
        None
    }

    /// Executes a hypercall and returns its result.
    pub fn result(&self, number: u32, args: &[u64]) -> i64 {
        self.call(number, args).result
    }

    /// Executes a hypercall on a structure at [`ARG`]; returns result and structure.
    pub fn op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        number: u32,
        command: u32,
        op: T,
    ) -> (i64, T) {
        self.put(ARG, &op);
        let result = self.result(number, &[u64::from(command), ARG, 1]);
        (result, self.get(ARG))
    }

    /// Its memory, as hypercalls see it.
    pub fn space(&self) -> impl GuestMemory + '_ {
        Space(self)
    }

    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, at: u64, value: &T) {
        Space(self)
            .write(GuestVirt::new(at), value.as_bytes())
            .expect("mapped");
    }

    pub fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        Space(self)
            .read(GuestVirt::new(at), value.as_mut_bytes())
            .expect("mapped");
        value
    }

    /// Returns the frame behind one of the guest's, and as what it is mapped.
    pub fn mapping(&self, gfn: u32) -> Option<crate::stage2::Mapping> {
        let memory = self.hv.hal.p2m_memory(self.domain.vttbr);
        self.domain.p2m.lock().lookup(&memory, Gfn::new(gfn))
    }

    /// Returns a word of `shared_info`, by byte offset.
    pub fn shared_info(&self, offset: usize) -> u32 {
        self.domain.shared_info.words()[offset / 4].load(Ordering::SeqCst)
    }

    pub fn on_vcpu(&self, vcpu: u16) -> Self {
        Self {
            vcpu: VcpuId::new(vcpu),
            ..self.clone()
        }
    }
}

impl Guest {
    /// Gives the guest RAM at a frame again, whatever is there. Returns false when there is none left.
    pub fn restore(&self, gfn: u32) -> bool {
        let mut memory = self.hv.hal.p2m_memory(self.domain.vttbr);
        let mut p2m = self.domain.p2m.lock();
        p2m.populate(&mut memory, Gfn::new(gfn), 0).is_ok() || {
            // At its limit: RAM that lost its address still counts.
            let limit = self.domain.account.limit();
            self.domain.account.set_limit(limit + 1);
            p2m.populate(&mut memory, Gfn::new(gfn), 0).is_ok()
        }
    }
}
