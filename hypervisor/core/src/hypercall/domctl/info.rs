//! getdomaininfo.

use alloc::sync::Arc;

use xen_abi::control as abi;
use xen_abi::hypercall::DOMID_FIRST_RESERVED;

use super::{Done, Reply, layout, set_part};
use crate::addr::DomId;
use crate::domain::Domain;
use crate::errno::Errno;
use crate::hal::Hal;
use crate::hypercall::Cx;
use crate::machine::GuestMemory;

pub(super) fn get<H: Hal, M: GuestMemory>(
    cx: &Cx<'_, H, M>,
    op: &mut abi::Domctl,
    target: &Domain<H>,
) -> Done {
    let info = layout::domain_info(&target.info(cx.hv));
    op.domain = info.domain;
    set_part(op, &info);
    Ok(Reply::Whole)
}

/// The next higher domain, for tools that go through them all.
pub(super) fn get_next<H: Hal, M: GuestMemory>(cx: &Cx<'_, H, M>, op: &mut abi::Domctl) -> Done {
    if op.domain >= DOMID_FIRST_RESERVED {
        return Err(Errno::Inval);
    }
    let next: Arc<Domain<H>> = cx
        .hv
        .domains
        .from(DomId::new(op.domain))
        .next()
        .ok_or(Errno::Srch)?;
    get(cx, op, &next)
}
