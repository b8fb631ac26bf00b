// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Device memory in a realm's tables. Whether a page belongs to an interface, and whether the guest
//! may accept it, is checked by the caller.

use super::list::{Block, Output};
use super::map::{Mapping, claim, map_range};
use super::unmap::rewrite;
use super::{
    Context, Entry, Error, LEAF_LEVEL, Machine, Pa, Realm, Result, Ripas, Slot, State, entry_bytes,
    walk, write,
};
use crate::granule::Kind;

struct DeviceMapping<F>(F);

impl<P: Machine, F: Fn(u64, u64) -> bool> Mapping<P> for DeviceMapping<F> {
    const PRIVATE: bool = true;

    fn map(
        &self,
        context: &Context<'_, P>,
        _: &Realm,
        slot: Slot,
        old: &Entry,
        block: Block,
    ) -> Result<()> {
        let bytes = entry_bytes::<P>(slot.level)?;
        if !(self.0)(block.address, bytes) {
            return Err(Error::Input);
        }
        let Entry::Unassigned {
            ripas: ripas @ (Ripas::Empty | Ripas::Destroyed),
        } = *old
        else {
            return Err(Error::Rtt(slot.level));
        };
        let block = (block.address, bytes);
        claim(context, Kind::Device, State::Mapped, block, || {
            let pa = Pa(block.0);
            write(context, slot, &Entry::Device { pa, ripas })
        })?;
        context.tsm.granules.refer(slot.table.address(), 1)
    }
}

/// Maps delegated device granules in `range`, RIPAS unchanged, and returns the next address.
/// `allowed` says whether `bytes` bytes at a physical address belong to the interface.
pub(crate) fn map_device<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
    allowed: impl Fn(u64, u64) -> bool,
) -> Result<u64> {
    map_range(context, realm, range, output, &DeviceMapping(allowed))
}

/// Gives the guest access to device granules in `range`, if the first is mapped to `physical` and
/// the others follow it, and none is masked. Returns the end of what was done.
pub(crate) fn validate_device<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    (base, top): (u64, u64),
    physical: u64,
) -> Result<u64> {
    realm.check_range(base, top, true)?;
    let (slot, _) = walk(context, realm, base, LEAF_LEVEL)?;
    let bytes = entry_bytes::<P>(slot.level)?;
    if !base.is_multiple_of(bytes) {
        return Err(Error::Rtt(slot.level));
    }
    let expected = core::cell::Cell::new(physical);
    let end = rewrite(context, realm, slot, (base, top), |entry| match *entry {
        Entry::Device {
            pa,
            ripas: Ripas::Empty | Ripas::Dev,
        } if pa.0 == expected.get() && context.tsm.granules.state(pa.0) == Ok(State::Mapped) => {
            expected.set(pa.0.checked_add(bytes)?);
            Some(Entry::Device {
                pa,
                ripas: Ripas::Dev,
            })
        }
        _ => None,
    })?;
    if end == base {
        Err(Error::Rtt(slot.level))
    } else {
        Ok(end)
    }
}

/// Takes the guest's access to device memory in `range` away, where the first page is mapped to
/// `physical` and the others follow it. The granules stay mapped until the host unmaps them.
///
/// When this returns without error, no CPU has a translation of them left.
pub(crate) fn revoke_device<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    (base, top): (u64, u64),
    physical: u64,
) -> Result<()> {
    let expected = |at: u64| {
        at.checked_sub(base)
            .and_then(|offset| physical.checked_add(offset))
    };
    let mut at = base;
    while at < top {
        let (slot, entry) = walk(context, realm, at, LEAF_LEVEL)?;
        let bytes = entry_bytes::<P>(slot.level)?;
        let is_accepted = |entry: &Entry, at: u64| matches!(*entry, Entry::Device { pa, ripas: Ripas::Dev } if Some(pa.0) == expected(at));
        if !is_accepted(&entry, at) {
            let inside = at.checked_rem(bytes).ok_or(Error::Global)?;
            at = at
                .saturating_sub(inside)
                .checked_add(bytes)
                .ok_or(Error::Global)?;
            continue;
        }
        let next = core::cell::Cell::new(at);
        let end = rewrite(context, realm, slot, (at, top), |entry| {
            let Entry::Device { pa, .. } = *entry else {
                return None;
            };
            if !is_accepted(entry, next.get()) {
                return None;
            }
            next.set(next.get().checked_add(bytes)?);
            Some(Entry::Device {
                pa,
                ripas: Ripas::Destroyed,
            })
        })?;
        if end == at {
            return Err(Error::Rtt(slot.level));
        }
        at = end;
    }
    Ok(())
}
