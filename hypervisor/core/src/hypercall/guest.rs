//! Copies of structures between a guest and the hypervisor.

use xen_abi::hypercall::DOMID_SELF;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Cx;
use crate::addr::{DomId, GuestVirt};
use crate::errno::Errno;
use crate::hal::Hal;
use crate::machine::GuestMemory;

impl<H: Hal, M: GuestMemory> Cx<'_, H, M> {
    /// Copies a structure in.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn read<T: FromBytes + IntoBytes>(&self, at: GuestVirt) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.copy_in(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// As [`Cx::read`], in the caller's own code: for the calls that are hot.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(always)]
    pub(super) fn read_inline<T: FromBytes + IntoBytes>(&self, at: GuestVirt) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.memory.read(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure out.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn write<T: IntoBytes + Immutable>(
        &self,
        at: GuestVirt,
        value: &T,
    ) -> Result<(), Errno> {
        self.copy_out(at, value.as_bytes())
    }

    /// Copies bytes in. One copy of the code for all: walking a guest's tables is long.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(never)]
    pub(super) fn copy_in(&self, from: GuestVirt, bytes: &mut [u8]) -> Result<(), Errno> {
        self.memory.read(from, bytes)?;
        Ok(())
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline(never)]
    pub(super) fn copy_out(&self, to: GuestVirt, bytes: &[u8]) -> Result<(), Errno> {
        self.memory.write(to, bytes)?;
        Ok(())
    }

    /// Copies one field of a structure out: what the guest wrote beside it meanwhile stays.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn write_field<T: IntoBytes + Immutable>(
        &self,
        at: GuestVirt,
        offset: usize,
        value: &T,
    ) -> Result<(), Errno> {
        self.write(at.checked_add(offset as u64).ok_or(Errno::Fault)?, value)
    }

    /// Replaces `DOMID_SELF` by the caller's number.
    pub(super) fn resolve(&self, id: u16) -> DomId {
        if id == DOMID_SELF {
            self.domain.facts.id
        } else {
            DomId::new(id)
        }
    }
}

/// Returns the address of element `index` in a guest's array of `T`.
///
/// # Errors
/// `EFAULT` beyond the address space.
#[inline]
pub(super) fn element<T>(array: GuestVirt, index: u64) -> Result<GuestVirt, Errno> {
    index
        .checked_mul(size_of::<T>() as u64)
        .and_then(|offset| array.checked_add(offset))
        .ok_or(Errno::Fault)
}
