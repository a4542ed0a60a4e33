//! A domain's virtual UART: the device ([`Vpl011`]), where it lies, which interrupt it has, and who is at its far end: the
//! hypervisor's console for a domain made at boot, a console daemon in another domain for one that a toolstack made.
//!
//! # Locks
//! [`Vuart`]'s own lock is taken while no other of the domain's is held; the vGIC's and the console's are taken inside it:
//! the interrupt line follows the device in the order in which the device changes. The daemon is told after it.

mod ring;

use self::ring::Ring;
use crate::addr::{GuestPhys, IntId, VcpuId};
use crate::console::GuestLine;
use crate::domain::Domain;
use crate::evtchn::Port;
use crate::hal::Hal;
use crate::hypercall::notify_from_xen;
use crate::hypervisor::Hypervisor;
use crate::machine::SharedPage;
use crate::sync::SpinLock;
use crate::vgic::{KickSet, Width};
use crate::vpl011::{SIZE, Vpl011};

/// Where the UART of a domain that is not directly mapped lies (public/arch-arm.h GUEST_PL011_BASE).
pub const BASE: GuestPhys = GuestPhys::new(0x2200_0000);
/// Its interrupt, the first SPI (GUEST_VPL011_SPI).
pub const IRQ: IntId = IntId::new(32);

/// Who is at the far end.
#[derive(Debug)]
enum FarEnd<P> {
    /// The hypervisor's console.
    Console,
    /// A daemon, over a page and the hypervisor's port in the domain.
    Daemon(Ring<P>, Port),
    /// Nobody any more: the domain dies.
    Nobody,
}

/// What changes.
#[derive(Debug)]
struct State<P> {
    device: Vpl011,
    far_end: FarEnd<P>,
    line: GuestLine,
    /// What it has begun to say by hypercall.
    called_line: GuestLine,
    is_asserted: bool,
}

/// A domain's UART.
#[derive(Debug)]
pub struct Vuart<P> {
    base: GuestPhys,
    irq: IntId,
    is_on_console: bool,
    state: SpinLock<State<P>>,
}

impl<P: SharedPage> Vuart<P> {
    /// Makes a UART at `base`, a page's start, with the interrupt `irq`, on the hypervisor's console.
    pub fn new(base: GuestPhys, irq: IntId) -> Self {
        Self::with(base, irq, FarEnd::Console)
    }

    /// Makes a UART whose far end is a daemon: over `page`, and told through the hypervisor's `port` of the domain.
    pub fn with_daemon(page: P, port: Port) -> Self {
        Self::with(BASE, IRQ, FarEnd::Daemon(Ring::new(page), port))
    }

    fn with(base: GuestPhys, irq: IntId, far_end: FarEnd<P>) -> Self {
        Self {
            base,
            irq,
            is_on_console: matches!(far_end, FarEnd::Console),
            state: SpinLock::new(State {
                device: Vpl011::default(),
                far_end,
                line: GuestLine::default(),
                called_line: GuestLine::default(),
                is_asserted: false,
            }),
        }
    }

    /// Returns the offset into the registers that an address has.
    pub fn offset(&self, at: GuestPhys) -> Option<u32> {
        let offset = at.raw().checked_sub(self.base.raw())?;
        u32::try_from(offset).ok().filter(|&offset| offset < SIZE)
    }

    /// Returns its interrupt.
    pub fn irq(&self) -> IntId {
        self.irq
    }

    /// Returns whether what it says goes to the hypervisor's console.
    pub fn is_on_console(&self) -> bool {
        self.is_on_console
    }

    /// The domain dies: lets go of the page.
    pub fn detach(&self) {
        let mut state = self.state.lock();
        let far_end = core::mem::replace(&mut state.far_end, FarEnd::Nobody);
        drop(state);
        drop(far_end);
    }
}

impl<P: SharedPage> State<P> {
    /// Takes what the daemon sent, as far as there is room, and looks whether it has room. Returns whether anything was
    /// taken.
    fn exchange(&mut self) -> bool {
        let FarEnd::Daemon(ring, _) = &mut self.far_end else {
            return false;
        };
        let device = &mut self.device;
        // Lost while the receiver is off, as on a wire.
        let count = ring.drain(device.room(), &mut |byte| _ = device.receive(byte));
        device.set_transmitter_full(ring.room() == 0);
        count > 0
    }
}

impl<H: Hal> Domain<H> {
    /// Returns the UART's register that is at a guest's address.
    pub fn vuart_at(&self, at: GuestPhys) -> Option<(&Vuart<H::Page>, u32)> {
        let vuart = self.vuart.get()?;
        Some((vuart, vuart.offset(at)?))
    }

    /// Performs an access to the UART: a write of a value, or a read, whose value is returned. What the guest sends to the
    /// console is given to `emit`, with the line it belongs to.
    pub fn access_vuart(
        &self,
        hv: &Hypervisor<H>,
        (vuart, offset): (&Vuart<H::Page>, u32),
        width: Width,
        write: Option<u32>,
        emit: &mut dyn FnMut(&mut GuestLine, u8),
    ) -> u32 {
        let mut guard = vuart.state.lock();
        let state = &mut *guard;
        let mut is_news = false;
        let value = match write {
            Some(value) => {
                if let Some(byte) = state.device.write(offset, width, value) {
                    match &mut state.far_end {
                        FarEnd::Console => emit(&mut state.line, byte),
                        // What does not fit is lost: the guest was told that there is no room.
                        FarEnd::Daemon(ring, _) => is_news = ring.push(byte),
                        FarEnd::Nobody => {}
                    }
                }
                0
            }
            None => state.device.read(offset, width),
        };
        is_news |= state.exchange();
        let port = match state.far_end {
            FarEnd::Daemon(_, port) if is_news => Some(port),
            _ => None,
        };
        let kicked = self.follow_line(vuart, state);
        drop(guard);
        self.kick(kicked);
        if let Some(port) = port {
            notify_from_xen(hv, self, port);
        }
        value
    }

    /// The daemon at the UART's far end has sent something, or has taken something.
    #[cold]
    #[inline(never)]
    pub fn look_at_vuart(&self) {
        let Some(vuart) = self.vuart.get() else {
            return;
        };
        let mut state = vuart.state.lock();
        // That it was taken is said when the guest reads it: the daemon waits only when the ring is full.
        let _has_taken = state.exchange();
        let kicked = self.follow_line(vuart, &mut state);
        drop(state);
        self.kick(kicked);
    }

    /// Gives the UART what was typed. Without a UART on the console, or without room in it, it is lost.
    pub fn type_to_vuart(&self, bytes: &[u8]) {
        let Some(vuart) = self.vuart.get().filter(|vuart| vuart.is_on_console) else {
            return;
        };
        let mut state = vuart.state.lock();
        for &byte in bytes {
            state.device.receive(byte);
        }
        let kicked = self.follow_line(vuart, &mut state);
        drop(state);
        self.kick(kicked);
    }

    /// Writes what a domain with a UART says by hypercall (an early console), beside what it says there. Returns false
    /// without a UART on the console.
    pub fn write_beside_vuart(&self, hal: &H, bytes: &[u8]) -> bool {
        let Some(vuart) = self.vuart.get().filter(|vuart| vuart.is_on_console) else {
            return false;
        };
        let mut state = vuart.state.lock();
        hal.domain_write(self.facts.id, &mut state.called_line, bytes);
        true
    }

    /// Gives `print` what the guest has begun to say: it has the input now.
    pub fn take_vuart_line(&self, print: &mut dyn FnMut(&str)) {
        if let Some(vuart) = self.vuart.get() {
            let mut state = vuart.state.lock();
            state.line.take(print);
            state.called_line.take(print);
        }
    }

    /// Sets the interrupt line to what the device says. The vCPUs are to be kicked when the UART is not locked any more:
    /// ending a wait may take the event channels.
    fn follow_line(&self, vuart: &Vuart<H::Page>, state: &mut State<H::Page>) -> KickSet {
        let level = state.device.is_asserted();
        if level == state.is_asserted {
            return KickSet::NONE;
        }
        state.is_asserted = level;
        // An SPI: the vCPU is ignored.
        let any = VcpuId::new(0);
        let mut vgic = self.vgic.lock();
        if level {
            vgic.raise_level(any, vuart.irq)
        } else {
            vgic.lower_level(any, vuart.irq)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{NoDevices, World};
    use crate::vpl011::reg;

    #[test]
    fn the_interrupt_follows_the_device() {
        let world = World::new();
        let domain = &world.dom1.domain;
        domain.type_to_vuart(b"to nobody");
        assert!(domain.vuart_at(BASE).is_none());
        domain.vuart.call_once(|| Vuart::new(BASE, IRQ));
        let at = |offset: u64| domain.vuart_at(GuestPhys::new(BASE.raw() + offset));
        assert!(at(0x1000).is_none());
        assert!(domain.vuart_at(GuestPhys::new(BASE.raw() - 1)).is_none());
        let (vuart, offset) = at(0xffc).expect("the last register");
        assert_eq!(offset, 0xffc);

        let mut sent = Vec::new();
        let mut write = |register, value| {
            let _ = domain.access_vuart(
                &world.dom1.hv,
                (vuart, register),
                Width::Word,
                Some(value),
                &mut |line, byte| {
                    line.push(byte, &mut |_| ());
                    sent.push(byte);
                },
            );
        };
        let read = |register| {
            let hv = &world.dom1.hv;
            domain.access_vuart(hv, (vuart, register), Width::Word, None, &mut |_, _| {
                panic!("sends nothing")
            })
        };
        // GICD_ISPENDR1: the first SPIs.
        let is_pending = || {
            let read = domain
                .vgic
                .lock()
                .mmio_read(VcpuId::new(0), 0x204, Width::Word, &NoDevices);
            read.unwrap().0 & 1 != 0
        };
        domain.type_to_vuart(b"ab");
        assert!(!is_pending(), "masked");
        write(reg::IMSC, 1 << 6);
        assert!(is_pending());
        assert_eq!(read(reg::DR), u32::from(b'a'));
        assert!(is_pending());
        assert_eq!(read(reg::DR), u32::from(b'b'));
        assert!(!is_pending());
        write(reg::DR, u32::from(b'x'));
        write(reg::DR, u32::from(b'y'));
        assert_eq!(sent, b"xy");
        let mut line = String::new();
        domain.take_vuart_line(&mut |text| line.push_str(text));
        assert_eq!(line, "xy");
    }
}
