// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Unmapping ranges of private, shared and device memory.

use heapless::Vec;

use super::list::{Block, Output, Report};
use super::{
    Context, Entry, Error, GRANULE_SIZE, GRANULES_PER_CALL, GranuleRange, LEAF_LEVEL, Machine,
    Realm, Result, Ripas, Slot, State, TABLE_ENTRIES, decode, encode, entry_bytes, holds_shared,
    invalidate, is_live, range_of, walk,
};
use crate::error::Reply;

/// What an unmap call takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavor {
    Data,
    Device,
    Shared,
}

impl Flavor {
    /// Returns the address that an entry of this flavor maps.
    const fn address(self, entry: &Entry) -> Option<u64> {
        match (self, entry) {
            (Self::Data, Entry::Assigned { pa, .. })
            | (Self::Device, Entry::Device { pa, .. })
            | (Self::Shared, Entry::Shared { pa, .. }) => Some(pa.0),
            _ => None,
        }
    }

    /// Returns the RIPAS of the unassigned entry that is left. What the guest had accepted is
    /// destroyed, not empty: it can see that the host took it.
    const fn remainder(entry: &Entry) -> Ripas {
        match entry {
            Entry::Assigned {
                ripas: Ripas::Empty,
                ..
            }
            | Entry::Device {
                ripas: Ripas::Empty,
                ..
            }
            | Entry::Shared { .. } => Ripas::Empty,
            _ => Ripas::Destroyed,
        }
    }
}

/// Entries of a table, filled where they are: moving them would cost more than most calls do.
type Entries = Vec<u64, TABLE_ENTRIES>;

/// Entries of one table, as they were, and which of them a call takes away.
struct Sweep<'a> {
    slot: Slot,
    base: u64,
    top: u64,
    flavor: Flavor,
    raws: &'a [u64],
}

impl Sweep<'_> {
    /// Yields each entry that is taken, and what it maps.
    fn taken<P: Machine>(&self) -> impl Iterator<Item = (Entry, u64)> {
        self.raws
            .iter()
            .filter_map(|raw| taken::<P>(self.slot.level, *raw, self.flavor))
    }
}

fn taken<P: Machine>(level: u8, raw: u64, flavor: Flavor) -> Option<(Entry, u64)> {
    let entry = decode::<P>(level, raw).ok()?;
    Some((entry, flavor.address(&entry)?))
}

/// Finds what the call takes and fills `report`. Changes nothing.
fn plan<'a, P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    (base, top): (u64, u64),
    flavor: Flavor,
    stays: impl Fn(u64, u64) -> bool,
    report: &mut Report,
    raws: &'a mut Entries,
) -> Result<Sweep<'a>> {
    realm.check_range(base, top, flavor != Flavor::Shared)?;
    let (slot, _) = walk(context, realm, base, LEAF_LEVEL)?;
    let bytes = entry_bytes::<P>(slot.level)?;
    let stop = Error::Rtt(slot.level);
    if !base.is_multiple_of(bytes) {
        return Err(stop);
    }
    read_run(
        context,
        slot,
        top.saturating_sub(base).checked_div(bytes),
        raws,
    )?;
    let mut end = base;
    let mut kept = 0_usize;
    let mut budget = GRANULES_PER_CALL;
    for raw in &*raws {
        let entry = decode::<P>(slot.level, *raw)?;
        let shared = matches!(entry, Entry::Shared { .. });
        if is_live(&entry) || shared {
            let Some(address) = flavor.address(&entry) else {
                break;
            };
            if stays(address, bytes) {
                if kept == 0 {
                    return Err(Error::Device);
                }
                break;
            }
            let undelegated = flavor == Flavor::Shared;
            let cost = bytes.checked_div(GRANULE_SIZE).unwrap_or(u64::MAX);
            let block = Block {
                address,
                level: slot.level,
                undelegated,
            };
            if cost > budget || !report.add(block) {
                break;
            }
            budget = budget.saturating_sub(cost);
        }
        end = end.checked_add(bytes).ok_or(Error::Input)?;
        kept = kept.saturating_add(1);
    }
    raws.truncate(kept);
    if kept == 0 {
        return Err(stop);
    }
    Ok(Sweep {
        slot,
        base,
        top: end,
        flavor,
        raws,
    })
}

/// Reads `count` entries of a table from `slot` on, or those up to its end.
fn read_run<P: Machine>(
    context: &Context<'_, P>,
    slot: Slot,
    count: Option<u64>,
    raws: &mut Entries,
) -> Result<()> {
    let rest = TABLE_ENTRIES.saturating_sub(slot.index);
    let count = count.and_then(|count| usize::try_from(count).ok());
    raws.resize(count.unwrap_or(rest).min(rest), 0)
        .map_err(|_| Error::Global)?;
    Ok(context
        .platform
        .table_read_run(slot.table, slot.index, raws)?)
}

/// Takes the planned entries away, completes the invalidation, and lets their granules go.
fn carry_out<P: Machine>(context: &Context<'_, P>, realm: &Realm, sweep: &Sweep) -> Result<()> {
    let Slot {
        table,
        level,
        index,
    } = sweep.slot;
    let remainder = |ripas| encode::<P>(level, &Entry::Unassigned { ripas });
    let (empty, destroyed) = (remainder(Ripas::Empty)?, remainder(Ripas::Destroyed)?);
    let mut walkable = false;
    let entries = sweep.raws.iter().map(|raw| {
        let Some((entry, _)) = taken::<P>(level, *raw, sweep.flavor) else {
            return *raw;
        };
        walkable |= entry.is_walkable();
        match Flavor::remainder(&entry) {
            Ripas::Empty => empty,
            _ => destroyed,
        }
    });
    context.platform.table_write_run(table, index, entries)?;
    if walkable && let Err(error) = invalidate(context, realm, sweep.base, sweep.top) {
        let entries = sweep.raws.iter().copied();
        context.platform.table_write_run(table, index, entries)?;
        return Err(error);
    }
    let bytes = entry_bytes::<P>(level)?;
    let mut live = 0_u32;
    // What follows each other in one region goes together.
    let mut run: Option<GranuleRange> = None;
    let together = |run: GranuleRange, next: GranuleRange| {
        let region = context.tsm.granules.region(run.base());
        run.top() == next.base()
            && region.is_some_and(|region| region.range().contains(next.base()))
    };
    for (_, address) in sweep.taken::<P>() {
        let next = range_of(address, bytes)?;
        run = match run {
            Some(run) if together(run, next) => GranuleRange::new(run.base(), next.top()),
            Some(run) => {
                let_go(context, realm, run, sweep.flavor)?;
                Some(next)
            }
            None => Some(next),
        };
        live = live.saturating_add(1);
    }
    if let Some(run) = run {
        let_go(context, realm, run, sweep.flavor)?;
    }
    if sweep.flavor == Flavor::Shared {
        return Ok(());
    }
    context.tsm.granules.release(table.address(), live)
}

fn let_go<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: GranuleRange,
    flavor: Flavor,
) -> Result<()> {
    let table = &context.tsm.granules;
    match flavor {
        Flavor::Data => {
            context.platform.zero_range(range)?;
            table.change_range(range, State::Data, State::Delegated)
        }
        Flavor::Device => range.granules().try_for_each(|granule| {
            let address = granule.address();
            let masked = table.state(address)? == State::Masked;
            let from = if masked { State::Masked } else { State::Mapped };
            table.change(address, from, State::Delegated)
        }),
        Flavor::Shared if holds_shared(context, realm) => range
            .granules()
            .try_for_each(|granule| table.release(granule.address(), 1)),
        Flavor::Shared => Ok(()),
    }
}

fn unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
    flavor: Flavor,
    stays: impl Fn(u64, u64) -> bool,
) -> Result {
    let mut report = Report::new(output)?;
    let mut raws = Entries::new();
    let (list, entries) = (&mut report, &mut raws);
    let sweep = plan(context, realm, range, flavor, stays, list, entries)?;
    report.publish(context)?;
    carry_out(context, realm, &sweep)?;
    let (descriptor, count) = report.registers();
    Ok(Reply::three(sweep.top, descriptor, count))
}

/// Takes private memory away. It is zeroed before it is delegated again.
pub(crate) fn data_unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
) -> Result {
    unmap(context, realm, range, output, Flavor::Data, |_, _| false)
}

/// Takes device memory away; it stays delegated. `stays` says whether `bytes` bytes at a physical
/// address are of a device from which nothing may be taken now.
pub(crate) fn dev_unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
    stays: impl Fn(u64, u64) -> bool,
) -> Result {
    unmap(context, realm, range, output, Flavor::Device, stays)
}

/// Takes shared memory away.
pub(crate) fn unprot_unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
) -> Result {
    unmap(context, realm, range, output, Flavor::Shared, |_, _| false)
}

/// Writes an entry with another RIPAS over each of `changes`, and undoes it all if translations of
/// the old entries cannot be forgotten.
pub(super) fn rewrite<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    slot: Slot,
    (base, top): (u64, u64),
    change: impl Fn(&Entry) -> Option<Entry>,
) -> Result<u64> {
    let bytes = entry_bytes::<P>(slot.level)?;
    let (mut old, mut new) = (Entries::new(), Entries::new());
    read_run(
        context,
        slot,
        top.saturating_sub(base).checked_div(bytes),
        &mut old,
    )?;
    let mut end = base;
    let mut revoked = false;
    for raw in &old {
        let entry = decode::<P>(slot.level, *raw)?;
        let Some(changed) = change(&entry) else { break };
        revoked |= entry.is_walkable() && changed != entry;
        new.push(encode::<P>(slot.level, &changed)?)
            .map_err(|_| Error::Global)?;
        end = end.checked_add(bytes).ok_or(Error::Input)?;
    }
    let entries = new.iter().copied();
    context
        .platform
        .table_write_run(slot.table, slot.index, entries)?;
    if revoked && let Err(error) = invalidate(context, realm, base, end) {
        let entries = old.iter().copied().take(new.len());
        context
            .platform
            .table_write_run(slot.table, slot.index, entries)?;
        return Err(error);
    }
    Ok(end)
}
