//! HVM operations and parameters (public/hvm/hvm_op.h, public/hvm/params.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`HvmParam`].
pub const HVMOP_SET_PARAM: u32 = 0;
/// [`HvmParam`].
pub const HVMOP_GET_PARAM: u32 = 1;
/// x86.
pub const HVMOP_FLUSH_TLBS: u32 = 5;
/// Monitor request.
pub const HVMOP_GUEST_REQUEST_VM_EVENT: u32 = 24;
/// Alternate physmaps.
pub const HVMOP_ALTP2M: u32 = 25;
/// Parameter: how events are signalled.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// Parameter: frame of the xenstore page.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// Parameter: port of xenstore.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// Parameter: frame of the console page.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// Parameter: port of the console.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Parameter: frame of the monitor ring.
pub const HVM_PARAM_MONITOR_RING_PFN: u32 = 28;
/// Parameters.
pub const HVM_NR_PARAMS: u32 = 39;
/// Type in bits 63:56 of the callback: a PPI.
pub const HVM_PARAM_CALLBACK_TYPE_PPI: u32 = 2;
/// Flag in bits 15:8 of the callback: level, active low.
pub const HVM_PARAM_CALLBACK_TYPE_PPI_FLAG_LOW_LEVEL: u32 = 2;

/// Sets or gets a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HvmParam {
    /// In: the domain, or `DOMID_SELF`.
    pub domid: u16,
    /// Padding.
    pub _pad: u16,
    /// In: `HVM_PARAM_*`.
    pub index: u32,
    /// In or out: the value.
    pub value: u64,
}
