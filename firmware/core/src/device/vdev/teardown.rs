// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Taking an interface from its realm, in the order that the realm's host has stated
//! (`docs/teardown.md`).

use tsm_abi::rmi::TeardownOrder;
use tsm_platform::GranuleRange;

use super::super::tdisp::{self, Request};
use super::calls::{Names, begin, check};
use super::{Vdev, lock_realm, settle, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule::State;
use crate::realm::Realm;
use crate::rtt;

/// Most granules that one call masks. A part that is aligned to as many holds whole blocks.
const GRANULES_PER_CALL: u64 = 512;
const PART_BYTES: u64 = GRANULES_PER_CALL << 12;

/// `RMI_VDEV_UNLOCK`. DMA is off when this returns; the device is told afterwards, by the exchange.
///
/// While a granule of the interface is mapped it is refused with the address, unless the realm's host
/// stops first: then the memory is masked before the device is told, and the call is incomplete while
/// more is left of that than one call does.
pub(crate) fn unlock<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    let _registry = context.devices();
    check(context, names, Error::Device)?;
    let order = order(context, names.realm)?;
    with(context, names.object, |vdev| {
        if tdisp::find(vdev.state, Request::Unlock).is_none() || !vdev.comm.is_quiet() {
            return Err(Error::Device);
        }
        if order == TeardownOrder::UnmapFirst
            && let Some(address) = first_in(context, &vdev.ranges, &[State::Mapped])
        {
            return Err(Error::Granule(address));
        }
        let blocked = context.platform.block(vdev.stream());
        blocked.map_err(|_| Error::Device)?;
        vdev.dma = false;
        if order != TeardownOrder::UnmapFirst {
            vdev.masking = Some(0);
        }
        Ok(())
    })??;
    go_on(context, names)
}

/// `RMI_OP_CONTINUE` of an interface whose unlocking is incomplete. No flag is defined.
pub(crate) fn proceed<P: Machine>(context: &Context<'_, P>, object: u64, flags: u64) -> Result {
    let _registry = context.devices();
    let (is_begun, names) = with(context, object, |vdev| {
        let names = Names {
            realm: vdev.realm.address(),
            device: vdev.device.address(),
            object,
        };
        (vdev.masking.is_some(), names)
    })?;
    if !is_begun || flags != 0 {
        return Err(Error::Input);
    }
    settle(context, object)?;
    go_on(context, names)
}

/// Masks as much as one call may, and begins to unlock when nothing is left. A mask that hardware
/// does not confirm ends the operation: the host has to unlock again.
fn go_on<P: Machine>(context: &Context<'_, P>, names: Names) -> Result {
    let masked = with(context, names.object, |vdev| {
        let masked = mask_some(context, vdev);
        if masked.is_err() {
            vdev.masking = None;
        }
        masked
    })??;
    if masked {
        begin(context, names, Request::Unlock, |_| Ok(()))
    } else {
        Ok(Reply::unfinished(names.object))
    }
}

fn order<P: Machine>(context: &Context<'_, P>, realm: u64) -> Result<TeardownOrder> {
    context.with_realm(realm, |realm| Ok(realm.order))
}

/// Returns the first granule of `ranges` that is in one of `states`.
pub(super) fn first_in<P: Machine>(
    context: &Context<'_, P>,
    ranges: &[GranuleRange],
    states: &[State],
) -> Option<u64> {
    let granules = ranges.iter().flat_map(|range| range.granules());
    granules.map(|granule| granule.address()).find(|address| {
        let state = context.tsm.granules.state(*address);
        state.is_ok_and(|state| states.contains(&state))
    })
}

/// Returns a granule of the interface because of which it must not be destroyed yet.
pub(super) fn left<P: Machine>(context: &Context<'_, P>, names: Names) -> Result<Option<u64>> {
    let states: &[State] = match order(context, names.realm)? {
        TeardownOrder::UnmapFirst => &[],
        TeardownOrder::StopFirst => &[State::Mapped, State::Masked],
        TeardownOrder::MaskAndReap => &[State::Mapped],
    };
    with(context, names.object, |vdev| {
        first_in(context, &vdev.ranges, states)
    })
}

/// Masks memory of the interface from where the call before left off, at most
/// [`GRANULES_PER_CALL`] granules. Returns whether nothing is left to mask.
fn mask_some<P: Machine>(context: &Context<'_, P>, vdev: &mut Vdev) -> Result<bool> {
    let Some(mut next) = vdev.masking else {
        return Ok(true);
    };
    let guard = lock_realm(context, vdev.realm)?;
    let mut budget = GRANULES_PER_CALL;
    context.with(guard.granule(), |realm: &mut Realm| {
        while let Some(part) = part_from(&vdev.ranges, next) {
            let Some(rest) = budget.checked_sub(part.count()) else {
                vdev.masking = Some(next);
                return Ok(false);
            };
            mask(context, realm, vdev, part)?;
            (budget, next) = (rest, part.top());
        }
        vdev.masking = None;
        Ok(true)
    })
}

/// Returns what of `ranges` is next from `next` on, up to where the next block would begin.
fn part_from(ranges: &[GranuleRange], next: u64) -> Option<GranuleRange> {
    let range = ranges.iter().find(|range| range.top() > next)?;
    let base = range.base().max(next);
    let end = base.checked_add(1)?.checked_next_multiple_of(PART_BYTES)?;
    GranuleRange::new(base, end.min(range.top()))
}

/// Makes the guest's accesses to `part` fault, on every CPU and through the IOMMU, and marks what is
/// mapped of it: it cannot be accepted again, and can only be unmapped.
fn mask<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    vdev: &Vdev,
    part: GranuleRange,
) -> Result<()> {
    for accepted in vdev.report.accepted() {
        let top = accepted.physical.saturating_add(accepted.bytes);
        let (base, top) = (accepted.physical.max(part.base()), top.min(part.top()));
        if base < top {
            let at = |physical: u64| {
                let offset = physical.checked_sub(accepted.physical)?;
                accepted.ipa.checked_add(offset)
            };
            let guest = at(base).zip(at(top)).ok_or(Error::Global)?;
            rtt::revoke_device(context, realm, guest, base)?;
        }
    }
    let table = &context.tsm.granules;
    for granule in part.granules() {
        if table.state(granule.address()) == Ok(State::Mapped) {
            table.change(granule.address(), State::Mapped, State::Masked)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{GRANULES_PER_CALL, PART_BYTES, part_from};
    use tsm_platform::GranuleRange;

    fn range(base: u64, top: u64) -> GranuleRange {
        GranuleRange::new(base, top).unwrap()
    }

    #[test]
    fn parts_cover_every_range_once_and_cut_no_block() {
        let ranges = [
            range(0x1000, 0x3000),
            range(0x1f_f000, 0x60_1000),
            range(0x60_1000, 0x60_2000),
        ];
        let mut next = 0;
        let mut seen = Vec::new();
        while let Some(part) = part_from(&ranges, next) {
            assert!(part.count() <= GRANULES_PER_CALL && part.base() >= next);
            seen.extend(part.granules().map(|granule| granule.address()));
            let cuts = (part.base() + 1..part.top()).any(|at| at.is_multiple_of(PART_BYTES));
            assert!(!cuts, "{part:?}");
            next = part.top();
        }
        let all = ranges.iter().flat_map(|range| range.granules());
        assert!(all.map(|granule| granule.address()).eq(seen));
        assert_eq!(part_from(&[], 0), None);
        assert_eq!(part_from(&ranges, u64::MAX), None);
    }
}
