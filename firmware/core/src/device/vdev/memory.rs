// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Private memory of an interface in its realm: what the host may map, and what the guest accepts.

use tsm_abi::rmi::TeardownOrder;
use tsm_platform::GranuleRange;

use super::super::registry::Registry;
use super::super::rsi::{Mapping, Request};
use super::super::tdisp::Grant;
use super::{Vdev, cut_off, settle, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule::State;
use crate::realm::Realm;
use crate::rec::{self, Pending, Rec};
use crate::rtt::{self, Output};

/// `RMI_RTT_DEV_MAP`: maps memory of the interface. The guest cannot reach it before it accepts it.
pub(crate) fn device_map<P: Machine>(
    context: &Context<'_, P>,
    rd: u64,
    object: u64,
    range: (u64, u64),
    output: Output,
) -> Result {
    let _registry = context.devices();
    let guard = context.lock(rd, State::Rd)?;
    let next = with(context, object, |vdev| {
        if vdev.realm != guard.granule() {
            return Err(Error::Input);
        }
        if vdev.masking.is_some() {
            return Err(Error::Blocked);
        }
        context.with(guard.granule(), |realm: &mut Realm| {
            rtt::map_device(context, realm, range, output, |physical, bytes| {
                vdev.owns(physical, bytes)
            })
        })
    })??;
    Ok(Reply::one(next))
}

/// `RMI_RTT_DEV_UNMAP`. Where the host stops first, memory of an interface that is bound stays.
pub(crate) fn device_unmap<P: Machine>(
    context: &Context<'_, P>,
    rd: u64,
    range: (u64, u64),
    output: Output,
) -> Result {
    let registry = context.devices();
    context.with_realm(rd, |realm| {
        let stops_first = realm.order != TeardownOrder::UnmapFirst;
        rtt::dev_unmap(context, realm, range, output, |physical, bytes| {
            let mut interfaces = registry.interfaces().iter();
            stops_first
                && interfaces.any(|interface| {
                    let is_bound = with(context, interface.object, |vdev| {
                        vdev.realm.address() == rd
                            && vdev.state.is_bound()
                            && vdev.owns(physical, bytes)
                    });
                    is_bound != Ok(false)
                })
        })
    })
}

/// `RMI_RTT_DEV_VALIDATE`: gives the guest access to what it asked to accept and the host has
/// mapped. Everything that the guest's request rested on is checked again: the host may have
/// unlocked or locked the interface in between.
pub(crate) fn device_validate<P: Machine>(
    context: &Context<'_, P>,
    rd: u64,
    rec: u64,
    base: u64,
    top: u64,
) -> Result {
    let registry = context.devices();
    let mapping = peek(context, rd, rec)?;
    settle(context, mapping.object)?;
    let realm_guard = context.lock(rd, State::Rd)?;
    let guard = rec::lock_idle(context, rec)?;
    let next = with(context, mapping.object, |vdev| {
        let is_valid = vdev.realm == realm_guard.granule()
            && vdev.id == mapping.id
            && vdev.state.allows(Grant::Memory)
            && vdev.is_fresh(&mapping.nonces)
            && registry.allows(mapping.object, Grant::Memory, mapping.nonces.lock);
        let is_next = base == mapping.next && base < top && top <= mapping.top;
        if !is_valid || !is_next {
            return Err(Error::Input);
        }
        let bytes = top.checked_sub(base).ok_or(Error::Input)?;
        let physical = mapping.physical_of(base).ok_or(Error::Input)?;
        if !may_accept(vdev, base, physical, bytes) {
            return Err(Error::Input);
        }
        let next = context.with(realm_guard.granule(), |realm: &mut Realm| {
            rtt::validate_device(context, realm, (base, top), physical)
        })?;
        let done = next.checked_sub(base).ok_or(Error::Global)?;
        // It was allowed a moment ago, under the same lock.
        vdev.report
            .accept(base, physical, done)
            .map_err(|_| Error::Global)?;
        Ok(next)
    })??;
    context.with(guard.granule(), |rec: &mut Rec<P::Context>| {
        if let Pending::Device(Request::Map(mapping)) = &mut rec.pending {
            mapping.next = next;
        }
        Ok(Reply::one(next))
    })
}

/// Returns the mapping that the virtual CPU waits for.
fn peek<P: Machine>(context: &Context<'_, P>, rd: u64, rec: u64) -> Result<Mapping> {
    let (realm_guard, guard) = context.lock_two((rd, State::Rd), (rec, State::Rec))?;
    if guard.references() != 0 {
        return Err(Error::Rec);
    }
    context.with(guard.granule(), |rec: &mut Rec<P::Context>| {
        if rec.realm != realm_guard.granule() {
            return Err(Error::Rec);
        }
        match &rec.pending {
            Pending::Device(Request::Map(mapping)) => Ok(*mapping),
            _ => Err(Error::Input),
        }
    })
}

/// Returns whether memory may become private: the device's own report lists it as one range, it is
/// in the interface's ranges, and it is accepted nowhere else.
pub(crate) fn may_accept(vdev: &Vdev, ipa: u64, physical: u64, bytes: u64) -> bool {
    vdev.owns(physical, bytes) && vdev.report.allows(ipa, physical, bytes)
}

impl Vdev {
    /// Forgets where ranges were accepted of which nothing is mapped any more.
    pub fn forget_unmapped<P: Machine>(&mut self, context: &Context<'_, P>) {
        self.report.forget(|accepted| {
            let granules = rtt::granules(accepted.physical, accepted.bytes);
            !granules
                .into_iter()
                .any(|address| context.tsm.granules.state(address) == Ok(State::Mapped))
        });
    }

    /// Returns whether the host can reach none of the memory that only the guest may reach.
    ///
    /// A device tells trusted accesses by a bit in the packet; an emulated bus has no such bit, so
    /// DMA starts only when the host has no way to drive the device.
    pub fn is_out_of_reach<P: Machine>(&self, context: &Context<'_, P>) -> bool {
        self.report.private_ranges().all(|(base, bytes)| {
            rtt::granules(base, bytes).all(|address| {
                let state = context.tsm.granules.state(address);
                matches!(state, Ok(State::Delegated | State::Mapped | State::Masked))
            })
        })
    }
}

/// Cuts off every bound interface that has memory in `range`, which is about to become the host's.
pub(crate) fn release_memory<P: Machine>(
    context: &Context<'_, P>,
    registry: &Registry,
    range: GranuleRange,
) -> Result<()> {
    for interface in registry.interfaces() {
        let is_hit = with(context, interface.object, |vdev| {
            vdev.is_guarded() && vdev.ranges.iter().any(|own| own.overlaps(range))
        })?;
        if is_hit && !cut_off(context, interface.object) {
            return Err(Error::Device);
        }
    }
    Ok(())
}
