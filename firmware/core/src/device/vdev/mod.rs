// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Device interfaces (TDIs) that are assigned to realms.

mod calls;
mod create;
mod exchange;
#[cfg(test)]
mod exchange_tests;
mod memory;
mod teardown;

use core::hash::{Hash, Hasher};
use core::mem::discriminant;

use heapless::Vec;
use tsm_platform::{Granule, GranuleRange, Object, Rid, StreamId};
use tsm_spdm::wire::pci_sig::tdisp::LockFlags;
use zeroize::Zeroizing;

use super::comm::Comm;
use super::pci::{Function, Placement};
use super::policy::REPORTING_OFFSET;
use super::report::{Assembly, Report};
use super::sizes::BarSizes;
use super::tdisp::{Request, State};
use crate::context::{Context, Machine};
use crate::error::{Error, Result};
use crate::granule::{self, Guard};
use crate::realm::Realm;
use crate::rtt;

pub(crate) use calls::{
    Names, abort, communicate, destroy, get_measurements, get_report, get_state, lock, start,
};
pub(crate) use create::create;
pub(crate) use memory::{device_map, device_unmap, device_validate, may_accept, release_memory};
pub(crate) use teardown::{proceed, unlock};

/// Most address ranges of an interface (`RmiVdevParams`).
const MOST_RANGES: usize = 8;

/// What a guest shows to prove that it judged the present lock, measurements and report. Zero is
/// none: it never matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nonces {
    /// Of the lock.
    pub lock: u64,
    /// Of the measurements.
    pub measurements: u64,
    /// Of the interface report.
    pub report: u64,
}

impl Nonces {
    /// Returns whether `shown` are the present ones and all three exist.
    pub fn are_current(&self, shown: &Self) -> bool {
        self == shown && self.lock != 0 && self.measurements != 0 && self.report != 0
    }
}

/// Which measurements the host asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    /// The guest's nonce.
    pub nonce: [u8; 32],
    /// As raw bit streams.
    pub raw: bool,
}

/// One device interface.
pub(crate) struct Vdev {
    /// The realm that owns it.
    pub realm: Granule,
    /// Its device's object.
    pub device: Granule,
    /// Id by which the guest names it.
    pub id: u64,
    /// Its function.
    pub rid: Rid,
    /// Physical ranges of its memory: sorted, inside its BARs, nobody else's.
    pub ranges: Vec<GranuleRange, MOST_RANGES>,
    /// Sizes of its BARs, which do not change.
    sizes: BarSizes,
    /// Where the function was when the present lock began.
    placement: Placement,
    /// State.
    pub state: State,
    /// Progress of the exchange.
    pub comm: Comm,
    /// What the exchange is for.
    pub request: Option<Request>,
    /// Next step of the exchange.
    step: usize,
    measure: Measure,
    /// Whether no part of what is fetched was kept by the host yet.
    first: bool,
    /// Whether the guest has turned DMA on.
    pub dma: bool,
    /// Whether it must be cut off and the hardware has not said that it is. Nothing is granted then.
    condemned: bool,
    /// Where the masking of its memory goes on, while unlocking it is incomplete. Nothing is granted
    /// then.
    masking: Option<u64>,
    /// IDE stream that its packets take.
    pub stream_id: u8,
    /// Demands of the present lock.
    lock_flags: LockFlags,
    /// Bytes of a cache line of the machine.
    cache_line: u32,
    /// Times in a row that the device was too busy for the present step.
    retries: u8,
    /// Whether the exchange ended with the device declining, which leaves the interface as it is.
    declined: bool,
    /// Shown to the device to start the interface; zero but between lock and start.
    start_nonce: Zeroizing<[u8; 32]>,
    /// Proof of freshness.
    pub nonces: Nonces,
    /// SHA-384 of the measurements under this lock.
    pub measurements: [u8; 48],
    /// The interface report under this lock.
    pub report: Report,
    assembly: Assembly,
}

impl Object for Vdev {
    fn observe(&self, hasher: &mut impl Hasher) {
        (self.realm.address(), self.device.address(), self.id).hash(hasher);
        (self.state as u8, discriminant(&self.comm), self.step).hash(hasher);
        self.request
            .map(|request| discriminant(&request))
            .hash(hasher);
        (self.dma, self.condemned, self.stream_id).hash(hasher);
        self.masking.hash(hasher);
        (self.lock_flags.0, self.retries, self.declined).hash(hasher);
        let nonces = &self.nonces;
        (nonces.lock, nonces.measurements, nonces.report).hash(hasher);
        (&self.measurements, self.report.digest()).hash(hasher);
        for accepted in self.report.accepted() {
            (accepted.ipa, accepted.bytes, accepted.physical).hash(hasher);
        }
    }

    fn upset(&mut self, bit: u32) {
        let flipped = self.state as u32 ^ 1_u32.wrapping_shl(bit);
        let all = [
            State::New,
            State::Unlocked,
            State::Locked,
            State::Started,
            State::Error,
        ];
        let found = all.iter().find(|state| **state as u32 == flipped);
        self.state = found.copied().unwrap_or(self.state);
    }
}

// An object and the platform's bookkeeping share a granule.
const _: () = assert!(size_of::<Vdev>() <= 4096 - 64);

impl Vdev {
    /// Returns the id by which the IOMMU knows the interface.
    pub const fn stream(&self) -> StreamId {
        StreamId(self.rid.0 as u32)
    }

    /// Returns whether its configuration must not change: it is bound, or becomes so.
    pub fn is_guarded(&self) -> bool {
        self.state.is_bound() || matches!(self.request, Some(Request::Lock))
    }

    /// Returns whether `bytes` bytes at `physical` lie in one of its ranges.
    pub fn owns(&self, physical: u64, bytes: u64) -> bool {
        let Some(top) = physical.checked_add(bytes) else {
            return false;
        };
        self.ranges
            .iter()
            .any(|range| range.base() <= physical && top <= range.top())
    }

    /// Returns whether a guest that shows `nonces` may be granted anything that `state` allows.
    pub fn is_fresh(&self, nonces: &Nonces) -> bool {
        let is_settled = !self.condemned && self.masking.is_none();
        is_settled && self.request.is_none() && self.nonces.are_current(nonces)
    }

    /// Erases what could start the interface.
    fn forget_start_nonce(&mut self) {
        self.start_nonce = Zeroizing::new([0; 32]);
    }

    /// Returns whether its registers are where they were when the lock began: a function that was
    /// pulled, or reset by something that the TSM does not see, answers otherwise.
    pub fn is_in_place<P: Machine>(&self, context: &Context<'_, P>) -> bool {
        Function::new(context.platform, self.rid).placement() == self.placement
    }

    /// Forgets everything that was proved under the lock that ends.
    fn forget_lock(&mut self) {
        self.forget_start_nonce();
        self.nonces = Nonces::default();
        self.measurements = [0; 48];
        self.report = Report::new(REPORTING_OFFSET);
        self.assembly = Assembly::new();
    }
}

/// Runs `work` on the interface whose object is at `address`. The device lock is held.
pub(crate) fn with<P: Machine, R>(
    context: &Context<'_, P>,
    address: u64,
    work: impl FnOnce(&mut Vdev) -> R,
) -> Result<R> {
    if context.tsm.granules.state(address)? != granule::State::Vdev {
        return Err(Error::Input);
    }
    let granule = Granule::new(address).ok_or(Error::Input)?;
    context.with(granule, |vdev: &mut Vdev| Ok(work(vdev)))
}

/// Takes note which functions and paths are in use and must not be probed. A call that may probe
/// does this first.
pub(crate) fn note_bound<P: Machine>(
    context: &Context<'_, P>,
    registry: &mut super::registry::Registry,
) {
    for index in 0..registry.interfaces().len() {
        if let Some(interface) = registry.interfaces().get(index).copied() {
            let guarded = with(context, interface.object, |vdev| vdev.is_guarded());
            registry
                .sizes
                .set_bound(interface.rid, guarded != Ok(false));
        }
    }
}

/// Takes away every access that `vdev` has: first DMA, then the guest's private memory of it.
///
/// Returns whether the hardware has confirmed. If it has not, the interface stays condemned, keeps
/// its state, and this is tried again by the next call that names it.
pub(crate) fn cut_off<P: Machine>(context: &Context<'_, P>, address: u64) -> bool {
    let taken = with(context, address, |vdev| {
        vdev.condemned = true;
        vdev.forget_start_nonce();
        if context.platform.block(vdev.stream()).is_err() {
            return false;
        }
        vdev.dma = false;
        revoke(context, vdev).is_ok()
    });
    if taken != Ok(true) {
        return false;
    }
    let said = with(context, address, |vdev| {
        vdev.condemned = false;
        vdev.state = vdev.state.after_cut();
        vdev.forget_lock();
    });
    said.is_ok()
}

/// Locks the realm at `realm`. The device lock is held: a holder of a realm's lock does one bounded
/// call and never waits for it.
fn lock_realm<'a, P: Machine>(context: &Context<'a, P>, realm: Granule) -> Result<Guard<'a>> {
    loop {
        match context.lock(realm.address(), granule::State::Rd) {
            Err(Error::Busy) => {}
            other => return other,
        }
    }
}

/// Makes the guest's accesses to private memory of the interface fault, on every CPU.
fn revoke<P: Machine>(context: &Context<'_, P>, vdev: &mut Vdev) -> Result<()> {
    if vdev.report.accepted().next().is_none() {
        return Ok(());
    }
    let guard = lock_realm(context, vdev.realm)?;
    context.with(guard.granule(), |realm: &mut Realm| {
        for range in vdev.report.accepted() {
            let top = range.ipa.checked_add(range.bytes).ok_or(Error::Global)?;
            rtt::revoke_device(context, realm, (range.ipa, top), range.physical)?;
        }
        Ok(())
    })
}

/// Finishes a cut that the hardware has not confirmed yet, and cuts off an interface whose function
/// was pulled or reset unseen. Every call that names an interface does this first.
pub(crate) fn settle<P: Machine>(context: &Context<'_, P>, address: u64) -> Result<()> {
    let condemned = with(context, address, |vdev| {
        vdev.condemned || vdev.state.is_bound() && !vdev.is_in_place(context)
    })?;
    if condemned && !cut_off(context, address) {
        return Err(Error::Device);
    }
    Ok(())
}

/// Cuts off every interface of the device at `device` and ends its exchanges.
pub(crate) fn fail_all<P: Machine>(
    context: &Context<'_, P>,
    registry: &super::registry::Registry,
    device: u64,
) {
    let all = registry.interfaces().iter();
    for interface in all.filter(|interface| interface.device == device) {
        let _ = with(context, interface.object, |vdev| {
            if vdev.request.take().is_some() {
                vdev.comm = Comm::Error;
            }
        });
        // A cut that is not confirmed leaves the interface condemned.
        let _ = cut_off(context, interface.object);
    }
}

#[cfg(test)]
mod tests {
    use super::Nonces;

    #[test]
    fn nonces_that_do_not_exist_are_never_current() {
        let nonces = Nonces {
            lock: 1,
            measurements: 2,
            report: 3,
        };
        assert!(nonces.are_current(&nonces));
        for absent in [
            Nonces { lock: 0, ..nonces },
            Nonces {
                measurements: 0,
                ..nonces
            },
            Nonces {
                report: 0,
                ..nonces
            },
        ] {
            assert!(!absent.are_current(&absent));
            assert!(!nonces.are_current(&absent));
        }
        let other = Nonces {
            report: 4,
            ..nonces
        };
        assert!(!nonces.are_current(&other));
    }
}
