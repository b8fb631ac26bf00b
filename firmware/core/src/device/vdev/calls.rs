// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's calls about device interfaces.

use tsm_abi::rmi::{VdevMeasureFlags, VdevMeasureParams};
use tsm_spdm::{Digests, Operation, Outcome};

use super::super::comm::{
    self, Comm, Exchange, Exit, Kept, Need, PAYLOAD_BYTES, Progress, Trouble,
};
use super::super::pdev::{self, advance_interface};
use super::super::registry::Registry;
use super::super::tdisp::{self, Request};
use super::exchange::{Misbehaved, Now};
use super::{Measure, Vdev, create, cut_off, note_bound, settle, teardown, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule;
use crate::realm::Realm;

/// The three objects that most calls name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// The realm.
    pub realm: u64,
    /// The device.
    pub device: u64,
    /// The interface.
    pub object: u64,
}

/// Checks that the names are of the right kinds and belong together, and finishes a cut that is
/// outstanding. The interface gives calls different errors for a realm that is not the owner.
pub(super) fn check<P: Machine>(
    context: &Context<'_, P>,
    names: Names,
    not_owner: Error,
) -> Result<()> {
    let kinds = [
        (names.realm, granule::State::Rd),
        (names.device, granule::State::Pdev),
        (names.object, granule::State::Vdev),
    ];
    for (address, kind) in kinds {
        if context.tsm.granules.state(address)? != kind {
            return Err(Error::Input);
        }
    }
    let (realm, device) = with(context, names.object, |vdev| (vdev.realm, vdev.device))?;
    if realm.address() != names.realm {
        return Err(not_owner);
    }
    if device.address() != names.device {
        return Err(Error::Device);
    }
    if with(context, names.object, |vdev| vdev.masking.is_some())? {
        return Err(Error::Blocked);
    }
    settle(context, names.object)
}

impl Exchange for Vdev {
    fn next(&mut self, payload: &mut [u8; PAYLOAD_BYTES]) -> core::result::Result<Need, Trouble> {
        Ok(match self.now() {
            Now::Complete => Need::Nothing,
            Now::Measure => {
                let Measure { nonce, raw } = self.measure;
                Need::Operation(Operation::Measure { nonce, raw })
            }
            Now::Send => {
                let length = self
                    .compose(payload)
                    .map_err(|Misbehaved| Trouble::Refused)?;
                Need::Vendor(length)
            }
        })
    }

    fn done(&mut self, outcome: &Outcome, digests: &Digests) -> core::result::Result<(), Trouble> {
        match (outcome, digests.measurements()) {
            (Outcome::Measured { .. }, Some(digest)) if self.now() == Now::Measure => {
                self.measured(digest);
                Ok(())
            }
            _ => Err(Trouble::Refused),
        }
    }

    fn reply(&mut self, payload: &[u8]) -> core::result::Result<Option<Kept>, Trouble> {
        let kept = self
            .take_answer(payload)
            .map_err(|Misbehaved| Trouble::Refused)?;
        Ok(kept.map(|(offset, length, first)| Kept {
            offset,
            length,
            first,
        }))
    }

    fn is_first(&mut self) -> bool {
        core::mem::take(&mut self.first)
    }

    fn delay_us(&self) -> u32 {
        Self::delay_us(self)
    }
}

/// `RMI_VDEV_GET_STATE`.
pub(crate) fn get_state<P: Machine>(context: &Context<'_, P>, object: u64) -> Result {
    let _registry = context.devices();
    with(context, object, |vdev| Reply::one(vdev.state as u64))
}

/// `RMI_VDEV_COMMUNICATE`.
pub(crate) fn communicate<P: Machine>(context: &Context<'_, P>, names: Names, data: u64) -> Result {
    let mut registry = context.devices();
    check(context, names, Error::Input)?;
    let comm = with(context, names.object, |vdev| vdev.comm)?;
    let entry = comm::enter(context, data, comm)?;
    let mut exit = Exit::new();
    let buffers = &mut registry.buffers;
    let stepped = with(context, names.object, |vdev| {
        if vdev.now() == Now::Complete && vdev.comm == Comm::Pending {
            // Nothing to ask the device.
            return Ok(Ok(Progress::Complete));
        }
        pdev::with(context, names.device, |pdev| {
            advance_interface(
                context,
                pdev,
                names.object,
                buffers,
                &entry,
                vdev,
                &mut exit,
            )
        })?
    })??;
    let told = comm::leave(context, data, &exit);
    let outcome = match stepped.and_then(|progress| told.map(|()| progress)) {
        Ok(Progress::Sent) => with(context, names.object, |vdev| {
            vdev.comm = Comm::Active;
            Ok(())
        })?,
        Ok(Progress::Complete) => {
            note_bound(context, &mut registry);
            finish(context, names.object, &mut registry)
        }
        Err(trouble) => Err(trouble),
    };
    if let Err(trouble) = outcome {
        fail(context, &mut registry, names, trouble)?;
    }
    Ok(Reply::NONE)
}

/// Moves the interface on, its exchange being complete.
fn finish<P: Machine>(
    context: &Context<'_, P>,
    object: u64,
    registry: &mut Registry,
) -> core::result::Result<(), Trouble> {
    let request = with(context, object, |vdev| vdev.request).map_err(|_| Trouble::Refused)?;
    let known = &mut registry.sizes;
    let is_sound = with(context, object, |vdev| match request {
        // A configuration that moved while it was being locked is not the one that was checked.
        Some(Request::Lock) => create::is_still_placed(context, vdev, known),
        Some(Request::Report) => create::holds_report(context, vdev),
        _ => true,
    });
    if is_sound != Ok(true) {
        return Err(Trouble::Refused);
    }
    let completed = with(context, object, |vdev| {
        vdev.complete(context.platform).map(|()| vdev.nonces.lock)
    });
    let Ok(Ok(lock)) = completed else {
        return Err(Trouble::Refused);
    };
    if let Some(request) = request {
        registry.note(object, request, lock);
    }
    Ok(())
}

/// Takes in that the exchange failed. A lost session takes the device and all its interfaces with
/// it; a device that refused or lied loses this one.
fn fail<P: Machine>(
    context: &Context<'_, P>,
    registry: &mut Registry,
    names: Names,
    trouble: Trouble,
) -> Result<()> {
    // Access went when unlocking began; nothing is left that the device could keep.
    let unheard = trouble == Trouble::Session && is_lost(context, names.device)?;
    if unheard && with(context, names.object, Vdev::complete_unheard)? {
        registry.note(names.object, Request::Unlock, 0);
        return Ok(());
    }
    let declined = with(context, names.object, |vdev| {
        vdev.request = None;
        vdev.comm = Comm::Error;
        vdev.take_declined()
    })?;
    match trouble {
        Trouble::Session => pdev::fail(context, registry, names.device),
        Trouble::Refused if declined => {}
        // A cut that is not confirmed leaves the interface condemned.
        Trouble::Refused => _ = cut_off(context, names.object),
    }
    Ok(())
}

fn is_lost<P: Machine>(context: &Context<'_, P>, device: u64) -> Result<bool> {
    pdev::with(context, device, |pdev| {
        pdev.endpoint().is_none_or(|endpoint| endpoint.lost)
    })
}

/// Begins the exchange for `request`, if the table and the device allow it.
pub(super) fn begin<P: Machine>(
    context: &Context<'_, P>,
    names: Names,
    request: Request,
    prepare: impl FnOnce(&mut Vdev) -> Result<()>,
) -> Result {
    with(context, names.object, |vdev| {
        if tdisp::find(vdev.state, request).is_none() || !vdev.comm.is_quiet() {
            return Err(Error::Device);
        }
        prepare(vdev)?;
        vdev.begin(request);
        Ok(Reply::NONE)
    })?
}

/// Returns the stream that the interface may be bound over.
fn check_session<P: Machine>(context: &Context<'_, P>, names: Names) -> Result<u8> {
    let (rid, ranges) = with(context, names.object, |vdev| {
        (vdev.rid, vdev.ranges.clone())
    })?;
    pdev::sound_stream(context, names.device, rid, &ranges)
}

/// `RMI_VDEV_LOCK`. Where the host reaches configuration space without the TSM, it could move the
/// device away under its guest: nothing is locked there.
pub(crate) fn lock<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    if !context.platform.is_mediated() {
        return Err(Error::NotSupported);
    }
    let mut registry = context.devices();
    note_bound(context, &mut registry);
    let known = &mut registry.sizes;
    check(context, names, Error::Input)?;
    let stream = check_session(context, names)?;
    let begun = begin(context, names, Request::Lock, |vdev| {
        if vdev.stream_id != stream {
            return Err(Error::Device);
        }
        let placement = create::place(context, vdev.rid, &vdev.sizes, &vdev.ranges, known);
        vdev.placement = placement.ok_or(Error::Device)?;
        Ok(())
    })?;
    pdev::occupy(context, names.device);
    Ok(begun)
}

/// `RMI_VDEV_START`.
pub(crate) fn start<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    let mut registry = context.devices();
    note_bound(context, &mut registry);
    let known = &mut registry.sizes;
    check(context, names, Error::Input)?;
    check_session(context, names)?;
    begin(context, names, Request::Start, |vdev| {
        if !create::is_still_placed(context, vdev, known) {
            return Err(Error::Device);
        }
        Ok(())
    })
}

/// `RMI_VDEV_GET_INTERFACE_REPORT`.
pub(crate) fn get_report<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    let _registry = context.devices();
    check(context, names, Error::Device)?;
    begin(context, names, Request::Report, |_| Ok(()))
}

/// `RMI_VDEV_GET_MEASUREMENTS`.
pub(crate) fn get_measurements<P: Machine>(
    context: &Context<'_, P>,
    names: Names,
    params: u64,
) -> Result {
    let params: VdevMeasureParams = context.host_structure(params)?;
    let flags = VdevMeasureFlags::from_bits(params.flags.get()).ok_or(Error::Input)?;
    let _registry = context.devices();
    check(context, names, Error::Device)?;
    begin(context, names, Request::Measure, |vdev| {
        vdev.measure = Measure {
            nonce: params.nonce,
            raw: flags.contains(VdevMeasureFlags::RAW),
        };
        Ok(())
    })
}

/// `RMI_VDEV_ABORT`: gives up the exchange. With a request out, the session is in doubt and goes.
pub(crate) fn abort<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    let registry = context.devices();
    check(context, names, Error::Device)?;
    let comm = with(context, names.object, |vdev| vdev.comm)?;
    if comm == Comm::Idle {
        return Err(Error::Device);
    }
    with(context, names.object, |vdev| {
        vdev.request = None;
        vdev.comm = Comm::Error;
    })?;
    if comm == Comm::Active {
        pdev::fail(context, &registry, names.device);
    } else if !cut_off(context, names.object) {
        return Err(Error::Device);
    }
    with(context, names.object, |vdev| vdev.comm = Comm::Idle)?;
    Ok(Reply::NONE)
}

/// `RMI_VDEV_DESTROY`: the function is the host's again. Refused with the address while a granule of the
/// interface is mapped that the realm's order has to go before.
pub(crate) fn destroy<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    let mut registry = context.devices();
    check(context, names, Error::Device)?;
    let (is_destroyable, stream) = with(context, names.object, |vdev| {
        // With a request out, the answer would belong to nobody.
        let is_over = vdev.comm != Comm::Active;
        (is_over && vdev.state.is_destroyable(), vdev.stream())
    })?;
    if !is_destroyable {
        return Err(Error::Device);
    }
    if let Some(address) = teardown::left(context, names)? {
        return Err(Error::Granule(address));
    }
    let realm = context.lock(names.realm, granule::State::Rd)?;
    let guard = context.lock(names.object, granule::State::Vdev)?;
    context
        .platform
        .release(stream)
        .map_err(|_| Error::Device)?;
    context.discard::<Vdev>(&guard)?;
    registry.remove_interface(names.object);
    context.with(realm.granule(), |realm: &mut Realm| {
        realm.vdevs = realm.vdevs.saturating_sub(1);
        Ok(())
    })?;
    pdev::with(context, names.device, |pdev| {
        pdev.vdevs = pdev.vdevs.saturating_sub(1)
    })?;
    pdev::leave(context, names.device);
    Ok(Reply::NONE)
}
