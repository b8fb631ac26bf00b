// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Granules on their way between the host and the TSM.

use tsm_platform::{GRANULE_SIZE, GranuleRange};

use crate::context::{Context, Machine};
use crate::device;
use crate::error::{Error, Reply, Result};
use crate::granule::{Kind, State};

/// Most granules that one call looks at.
const GRANULES_PER_CALL: u64 = 512;

/// One direction.
struct Way {
    from: State,
    to: State,
}

/// Takes granules of `[start, end)` from the host; those that are delegated already are skipped.
/// Returns the next address. It is `end` unless the call did its bounded share of the work or met a
/// granule that it could not take.
pub(crate) fn delegate<P: Machine>(context: &Context<'_, P>, start: u64, end: u64) -> Result {
    let way = Way {
        from: State::Undelegated,
        to: State::Delegated,
    };
    go(context, start, end, &way, |range, _| {
        // Devices of the host lose the granules before the CPUs do: in between nobody else has
        // a claim on them.
        context.platform.host_unmap(range)?;
        if let Err(error) = context.platform.delegate(range) {
            context.platform.host_map(range)?;
            return Err(error.into());
        }
        Ok(())
    })
}

/// Scrubs delegated granules of `[start, end)` that hold nothing and gives them to the host. Returns
/// the next address, as [`delegate`] does.
pub(crate) fn undelegate<P: Machine>(context: &Context<'_, P>, start: u64, end: u64) -> Result {
    let way = Way {
        from: State::Delegated,
        to: State::Undelegated,
    };
    go(context, start, end, &way, |range, kind| {
        if kind == Kind::Memory {
            context.platform.zero_range(range)?;
        } else {
            device::release_memory(context, range)?;
        }
        context.platform.undelegate(range)?;
        if let Err(error) = context.platform.host_map(range) {
            context.platform.delegate(range)?;
            return Err(error.into());
        }
        Ok(())
    })
}

fn go<P: Machine>(
    context: &Context<'_, P>,
    start: u64,
    end: u64,
    way: &Way,
    work: impl Fn(GranuleRange, Kind) -> Result<()>,
) -> Result {
    let range = GranuleRange::new(start, end).ok_or(Error::Input)?;
    let limit = GRANULES_PER_CALL.saturating_mul(GRANULE_SIZE);
    let end = range.top().min(start.saturating_add(limit));
    let mut next = start;
    while next < end {
        let step = if context.tsm.granules.state(next) == Ok(way.to) {
            Ok(next.saturating_add(GRANULE_SIZE))
        } else {
            move_run(context, next, end, way, &work)
        };
        match step {
            Ok(after) => next = after,
            Err(error) if next == start => return Err(error),
            Err(_) => break,
        }
    }
    Ok(Reply::one(next))
}

/// Moves the longest run from `start` that is in one region and one state; returns its end.
fn move_run<P: Machine>(
    context: &Context<'_, P>,
    start: u64,
    end: u64,
    way: &Way,
    work: impl Fn(GranuleRange, Kind) -> Result<()>,
) -> Result<u64> {
    let table = &context.tsm.granules;
    let region = table.region(start).ok_or(Error::Input)?;
    let range = GranuleRange::new(start, end).ok_or(Error::Global)?;
    let (range, _) = table.claim_run(range, way.from, State::Moving)?;
    let outcome = work(range, region.kind());
    let state = if outcome.is_ok() { way.to } else { way.from };
    table.change_range(range, State::Moving, state)?;
    outcome.map(|()| range.top())
}

/// Returns category, tracking state and end of the longest run from `base` that is tracked alike:
/// every region is tracked by the granule, and what is in no region is not tracked.
pub(crate) fn tracking<P: Machine>(context: &Context<'_, P>, base: u64, top: u64) -> Result {
    const MEMORY: u64 = 0;
    const DEVICE: u64 = 1;
    const RESERVED: u64 = 0;
    const FINE: u64 = 2;
    let range = GranuleRange::new(base, top).ok_or(Error::Input)?;
    let next = context.tsm.granules.region_from(range.base());
    Ok(match next {
        Some(region) if region.range().contains(base) => {
            let category = if region.kind() == Kind::Memory {
                MEMORY
            } else {
                DEVICE
            };
            Reply::three(category, FINE, top.min(region.range().top()))
        }
        Some(region) => Reply::three(MEMORY, RESERVED, top.min(region.range().base())),
        None => Reply::three(MEMORY, RESERVED, top),
    })
}
