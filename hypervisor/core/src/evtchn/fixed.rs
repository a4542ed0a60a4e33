//! Channels between two domains whose ports are given ("static event channels"), made before either runs.

use super::table::State;
use super::types::{Notify, Port};
use super::{EventChannels, TWO_LEVEL_PORTS};
use crate::addr::VcpuId;
use crate::errno::Errno;
use crate::machine::SharedPage;

impl<P: SharedPage> EventChannels<P> {
    /// Takes a port that is free, whatever ports are free below it.
    fn take_port(&mut self, port: Port) -> Result<(), Errno> {
        if port.raw() == 0 || port.raw() >= TWO_LEVEL_PORTS || port.raw() > self.max_port {
            return Err(Errno::Inval);
        }
        self.table.grow_to(port)?;
        match self.state(port)? {
            State::Free => Ok(()),
            _ => Err(Errno::Exist),
        }
    }

    /// Connects `port` of one domain with `other_port` of another; both are locked, and neither has run.
    /// As with Xen, which binds the other's port to the first's, the other's is pending from the beginning: returns what
    /// that asks for.
    ///
    /// # Errors
    /// `EINVAL` for a port out of range, `EEXIST` for one that is in use, `ENOMEM`. Nothing changed.
    pub fn connect(
        one: &mut Self,
        port: Port,
        other: &mut Self,
        other_port: Port,
    ) -> Result<Notify, Errno> {
        one.take_port(port)?;
        other.take_port(other_port)?;
        let state = State::Interdomain {
            domain: other.domain,
            port: other_port,
        };
        one.table.open(port, state, VcpuId::new(0));
        let state = State::Interdomain {
            domain: one.domain,
            port,
        };
        other.table.open(other_port, state, VcpuId::new(0));
        Ok(other.set_pending(other_port))
    }

    /// As [`Self::connect`], within one domain.
    ///
    /// # Errors
    /// As [`Self::connect`]; `EEXIST` also when both are the same port.
    pub fn connect_self(&mut self, port: Port, other_port: Port) -> Result<Notify, Errno> {
        if port == other_port {
            return Err(Errno::Exist);
        }
        self.take_port(port)?;
        self.take_port(other_port)?;
        let domain = self.domain;
        for (at, peer) in [(port, other_port), (other_port, port)] {
            let state = State::Interdomain { domain, port: peer };
            self.table.open(at, state, VcpuId::new(0));
        }
        Ok(self.set_pending(other_port))
    }
}
