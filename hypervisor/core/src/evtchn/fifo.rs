//! The FIFO ABI: event words in an array of guest pages, 16 queues for each vCPU linked through them.
//!
//! The hypervisor appends at the tail, which it alone knows; the guest consumes from the head in the control block and
//! clears LINKED. Nothing here follows a guest's links, so no chain of links can be made that costs time.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::deliver::Raised;
use super::guest::{
    CONTROL_BLOCK_BYTES, FIFO_BUSY, FIFO_LINK, FIFO_LINKED, FIFO_MASKED, FIFO_PENDING, FIFO_PORTS,
    FIFO_PORTS_PER_PAGE, link_behind, pending_bit,
};
use super::table::{Channel, DEFAULT_PRIORITY};
use super::types::{Port, VcpuSet};
use super::{Abi, EventChannels, PRIORITIES, Placed, Vcpu};
use crate::addr::{PAGE_SIZE, VcpuId};
use crate::errno::Errno;
use crate::machine::SharedPage;

/// Pages of the event array.
const MAX_ARRAY_PAGES: usize = (FIFO_PORTS / FIFO_PORTS_PER_PAGE) as usize;

/// Returns a port's event word, or `None` while its page does not exist.
#[inline]
fn event_word<P: SharedPage>(array: &[P], port: Port) -> Option<&AtomicU32> {
    let page = array.get(port.index() / FIFO_PORTS_PER_PAGE as usize)?;
    Some(&page.words()[port.index() % FIFO_PORTS_PER_PAGE as usize])
}

fn has_bit<P: SharedPage>(array: &[P], port: Port, bit: u32) -> Option<bool> {
    Some(event_word(array, port)?.load(SeqCst) & bit != 0)
}

/// Returns true while a port is on a queue.
pub(super) fn is_linked<P: SharedPage>(array: &[P], port: Port) -> bool {
    has_bit(array, port, FIFO_LINKED).unwrap_or(false)
}

pub(super) fn is_pending<P: SharedPage>(array: &[P], port: Port) -> bool {
    has_bit(array, port, FIFO_PENDING).unwrap_or(false)
}

pub(super) fn is_masked<P: SharedPage>(array: &[P], port: Port) -> bool {
    has_bit(array, port, FIFO_MASKED).unwrap_or(true)
}

pub(super) fn clear_pending<P: SharedPage>(array: &[P], port: Port) {
    if let Some(word) = event_word(array, port) {
        word.fetch_and(!FIFO_PENDING, SeqCst);
    }
}

/// Clears MASKED and returns true when the port is pending and thus to be linked.
pub(super) fn unmask<P: SharedPage>(array: &[P], port: Port) -> bool {
    event_word(array, port)
        .is_some_and(|word| word.fetch_and(!FIFO_MASKED, SeqCst) & FIFO_PENDING != 0)
}

/// Writes the link part of the debug dump.
pub(super) fn write_link<P: SharedPage>(
    array: &[P],
    port: Port,
    out: &mut dyn core::fmt::Write,
) -> core::fmt::Result {
    let Some(word) = event_word(array, port) else {
        return write!(out, "?     ");
    };
    let word = word.load(SeqCst);
    let busy = if word & FIFO_BUSY != 0 { 'B' } else { ' ' };
    if word & FIFO_LINKED != 0 {
        write!(out, "{busy} {:<4}", word & FIFO_LINK)
    } else {
        write!(out, "{busy} -   ")
    }
}

fn tail_mut<P>(vcpus: &mut [Vcpu<P>], vcpu: VcpuId, priority: u8) -> Option<&mut Port> {
    vcpus
        .get_mut(vcpu.index())?
        .tails
        .get_mut(usize::from(priority))
}

/// Makes a port pending and appends it to the queue of its vCPU and priority, unless masked or on a queue already.
pub(super) fn raise<P: SharedPage>(
    array: &[P],
    vcpus: &mut [Vcpu<P>],
    shared_info: &P,
    channel: &mut Channel,
    port: Port,
) -> Raised {
    let Some(word) = event_word(array, port) else {
        // Raised again when the page comes.
        let is_new = !channel.latched;
        channel.latched = true;
        return Raised {
            is_new,
            kick: false,
        };
    };
    // One atomic sets PENDING and reads the rest: a guest that clears MASKED or LINKED later sees PENDING.
    let before = word.fetch_or(FIFO_PENDING, SeqCst);
    let mut raised = Raised {
        is_new: before & FIFO_PENDING == 0,
        kick: false,
    };
    if before & (FIFO_MASKED | FIFO_LINKED) != 0 {
        return raised;
    }
    let priority = channel.priority;
    let Some(vcpu) = vcpus.get(channel.notify_vcpu.index()) else {
        return raised;
    };
    if vcpu.control.is_none() {
        // A guest must not unmask a port before that vCPU's control block exists. The event stays pending and is
        // linked when it is sent or unmasked again.
        return raised;
    }
    // Only the hypervisor sets LINKED; if a hostile guest did so in between, it keeps the damage.
    if word.fetch_or(FIFO_LINKED, SeqCst) & FIFO_LINKED != 0 {
        return raised;
    }

    // Not linked, yet the tail: its queue is empty now. If it goes to another queue, an event appended to the old one
    // must not be linked behind it.
    if let Some(old_tail) = tail_mut(vcpus, channel.last_vcpu, channel.last_priority)
        && *old_tail == port
    {
        *old_tail = Port::new(0);
    }
    channel.last_vcpu = channel.notify_vcpu;
    channel.last_priority = priority;

    let Some(tail) = tail_mut(vcpus, channel.notify_vcpu, priority) else {
        return raised;
    };
    let old_tail = core::mem::replace(tail, port);
    if old_tail != Port::new(0)
        && let Some(tail_word) = event_word(array, old_tail)
        && link_behind(tail_word, port)
    {
        // The guest is told by the event before this one.
        return raised;
    }
    let Some(vcpu) = vcpus.get(channel.notify_vcpu.index()) else {
        return raised;
    };
    if let Some(control) = vcpu.control_block() {
        control.set_head(priority, port);
        raised.kick = control.set_ready(priority)
            && vcpu
                .info(shared_info)
                .is_some_and(|info| info.assert_upcall());
    }
    raised
}

impl<P: SharedPage> EventChannels<P> {
    /// Checks the arguments of `EVTCHNOP_init_control` (offset in bytes) before the caller maps the page.
    ///
    /// # Errors
    /// `ENOENT` for an unknown vCPU; `EINVAL` when the control block would not be 8-byte aligned within one page.
    pub fn check_init_control(&self, vcpu: u32, offset: u32) -> Result<VcpuId, Errno> {
        let vcpu = self.vcpu_id(vcpu)?;
        if offset > PAGE_SIZE as u32 - CONTROL_BLOCK_BYTES || !offset.is_multiple_of(8) {
            return Err(Errno::Inval);
        }
        Ok(vcpu)
    }

    /// `EVTCHNOP_init_control`: gives a vCPU its control block, and the first time switches the domain to FIFO.
    ///
    /// The answer's `link_bits` is [`Self::LINK_BITS`]. Events pending in the 2-level ABI are raised when their page of
    /// the array comes. The page must be the domain's own writable RAM.
    ///
    /// # Errors
    /// As [`Self::check_init_control`]; `EINVAL` when the vCPU has one already.
    pub fn init_control(&mut self, vcpu: u32, page: P, offset: u32) -> Result<(), Errno> {
        let vcpu = self.check_init_control(vcpu, offset)?;
        let this = self.vcpus.get_mut(vcpu.index()).ok_or(Errno::NoEnt)?;
        if this.control.is_some() {
            return Err(Errno::Inval);
        }
        this.control = Some(Placed {
            page,
            word: offset as usize / 4,
        });
        if self.abi == Abi::TwoLevel {
            let words = self.shared_info.words();
            for (port, channel) in self.table.iter_mut() {
                channel.latched = channel.state.is_usable() && pending_bit(words, port).test();
                channel.priority = DEFAULT_PRIORITY;
            }
            self.abi = Abi::Fifo;
        }
        Ok(())
    }

    /// Bits of a link, as `EVTCHNOP_init_control` returns them.
    pub const LINK_BITS: u8 = FIFO_PORTS.trailing_zeros() as u8;

    /// `EVTCHNOP_expand_array`: appends a page of 1024 event words, and raises what waited for it. Returns the vCPUs
    /// whose upcall became asserted; pollers are in [`Self::take_woken`].
    ///
    /// # Errors
    /// `EOPNOTSUPP` in the 2-level ABI, `ENOSPC` when all 128 pages are there, `ENOMEM`.
    pub fn expand_array(&mut self, page: P) -> Result<VcpuSet, Errno> {
        self.check_expand_array()?;
        self.event_array.try_reserve(1).map_err(|_| Errno::NoMem)?;
        let first = self.event_array.len() as u32 * FIFO_PORTS_PER_PAGE;
        self.event_array.push(page);
        let mut kicks = VcpuSet::EMPTY;
        for raw in first..(first + FIFO_PORTS_PER_PAGE).min(self.table.len()) {
            let port = Port::new(raw);
            if let Some(channel) = self.table.get_mut(port)
                && core::mem::take(&mut channel.latched)
                && let Some(vcpu) = self.set_pending(port).kick()
            {
                kicks.insert(vcpu);
            }
        }
        Ok(kicks)
    }

    /// Checks whether [`Self::expand_array`] can take a page, before the caller maps it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` in the 2-level ABI, `ENOSPC` when all 128 pages are there.
    pub fn check_expand_array(&self) -> Result<(), Errno> {
        match self.abi {
            Abi::TwoLevel => Err(Errno::OpNotSupp),
            Abi::Fifo if self.event_array.len() >= MAX_ARRAY_PAGES => Err(Errno::NoSpc),
            Abi::Fifo => Ok(()),
        }
    }

    /// `EVTCHNOP_set_priority`: 0 is the highest; from the next event on.
    ///
    /// # Errors
    /// `EINVAL` for a port beyond the table or a priority above 15, `ENOSYS` in the 2-level ABI, `EACCES` for a port
    /// that is not open.
    pub fn set_priority(&mut self, port: Port, priority: u32) -> Result<(), Errno> {
        let abi = self.abi;
        let channel = self.table.get_mut(port).ok_or(Errno::Inval)?;
        if abi == Abi::TwoLevel {
            return Err(Errno::NoSys);
        }
        if !channel.state.is_usable() {
            return Err(Errno::Access);
        }
        match u8::try_from(priority) {
            Ok(priority) if usize::from(priority) < PRIORITIES => {
                channel.priority = priority;
                Ok(())
            }
            _ => Err(Errno::Inval),
        }
    }

    /// Gives the FIFO pages back and returns to the 2-level ABI. All ports are closed.
    pub(super) fn leave_fifo(&mut self) {
        self.abi = Abi::TwoLevel;
        self.event_array = alloc::vec::Vec::new();
        for vcpu in &mut self.vcpus {
            vcpu.control = None;
            vcpu.tails = [Port::new(0); PRIORITIES];
        }
    }
}
