// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Unmapping ranges of private, shared and device memory.

use super::list::{Block, Output, Report};
use super::{
    Context, Entry, Error, GRANULE_SIZE, GRANULES_PER_CALL, Granule, LEAF_LEVEL, Machine, Realm,
    Result, Ripas, Slot, State, TABLE_ENTRIES, decode, encode, entry_bytes, granules, invalidate,
    is_live, read_raw, walk, write,
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

    /// Returns the entry that is left. What the guest had accepted is destroyed, not empty: it can
    /// see that the host took it.
    const fn remainder(entry: &Entry) -> Entry {
        let ripas = match entry {
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
        };
        Entry::Unassigned { ripas }
    }
}

/// The entries of one table that a call takes away: their raw words, by index; zero if kept.
struct Sweep {
    slot: Slot,
    base: u64,
    top: u64,
    /// Index after the last that was looked at.
    end: usize,
    raws: [u64; TABLE_ENTRIES],
}

impl Sweep {
    fn taken(&self) -> impl Iterator<Item = (Slot, u64)> {
        // An entry without meaning to anybody is written as zero, so zero is never taken.
        let all = self.raws.iter().copied().enumerate();
        let swept = all.take(self.end).skip(self.slot.index);
        swept
            .filter(|(_, raw)| *raw != 0)
            .map(|(index, raw)| (self.slot.at(index), raw))
    }
}

/// Finds what the call takes and fills `report`. Changes nothing.
fn plan<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    (base, top): (u64, u64),
    flavor: Flavor,
    report: &mut Report,
) -> Result<Sweep> {
    realm.check_range(base, top, flavor != Flavor::Shared)?;
    let (slot, _) = walk(context, realm, base, LEAF_LEVEL)?;
    let bytes = entry_bytes::<P>(slot.level)?;
    let stop = Error::Rtt(slot.level);
    if !base.is_multiple_of(bytes) {
        return Err(stop);
    }
    let mut sweep = Sweep {
        slot,
        base,
        top: base,
        end: slot.index,
        raws: [0; TABLE_ENTRIES],
    };
    let mut budget = GRANULES_PER_CALL;
    for index in slot.index..TABLE_ENTRIES {
        let next = sweep.top.checked_add(bytes).ok_or(Error::Input)?;
        if next > top {
            break;
        }
        let raw = read_raw(context, slot.at(index))?;
        let entry = decode::<P>(slot.level, raw)?;
        let shared = matches!(entry, Entry::Shared { .. });
        if is_live(&entry) || shared {
            let Some(address) = flavor.address(&entry) else {
                break;
            };
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
            *sweep.raws.get_mut(index).ok_or(Error::Global)? = raw;
        }
        sweep.top = next;
        sweep.end = index.saturating_add(1);
    }
    if sweep.top == base {
        Err(stop)
    } else {
        Ok(sweep)
    }
}

/// Takes the planned entries away, completes the invalidation, and lets their granules go.
fn carry_out<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    sweep: &Sweep,
    flavor: Flavor,
) -> Result<()> {
    let mut walkable = false;
    for (slot, raw) in sweep.taken() {
        let entry = decode::<P>(slot.level, raw)?;
        walkable |= entry.is_walkable();
        write(context, slot, &Flavor::remainder(&entry))?;
    }
    if walkable && let Err(error) = invalidate(context, realm, sweep.base, sweep.top) {
        for (slot, raw) in sweep.taken() {
            context.platform.table_write(slot.table, slot.index, raw)?;
        }
        return Err(error);
    }
    for (slot, raw) in sweep.taken() {
        let entry = decode::<P>(slot.level, raw)?;
        let address = flavor.address(&entry).ok_or(Error::Global)?;
        for granule in granules(address, entry_bytes::<P>(slot.level)?) {
            let_go(context, realm, granule, flavor)?;
        }
        if flavor != Flavor::Shared {
            context.tsm.granules.release(slot.table.address(), 1)?;
        }
    }
    Ok(())
}

fn let_go<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    address: u64,
    flavor: Flavor,
) -> Result<()> {
    let table = &context.tsm.granules;
    match flavor {
        Flavor::Data => {
            context
                .platform
                .zero(Granule::new(address).ok_or(Error::Global)?)?;
            table.change(address, State::Data, State::Delegated)
        }
        Flavor::Device => table.change(address, State::Mapped, State::Delegated),
        Flavor::Shared if realm.devices_allowed => table.release(address, 1),
        Flavor::Shared => Ok(()),
    }
}

fn unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
    flavor: Flavor,
) -> Result {
    let mut report = Report::new(output)?;
    let sweep = plan(context, realm, range, flavor, &mut report)?;
    report.publish(context)?;
    carry_out(context, realm, &sweep, flavor)?;
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
    unmap(context, realm, range, output, Flavor::Data)
}

/// Takes device memory away; it stays delegated.
pub(crate) fn dev_unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
) -> Result {
    unmap(context, realm, range, output, Flavor::Device)
}

/// Takes shared memory away.
pub(crate) fn unprot_unmap<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
) -> Result {
    unmap(context, realm, range, output, Flavor::Shared)
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
    let mut sweep = Sweep {
        slot,
        base,
        top: base,
        end: slot.index,
        raws: [0; TABLE_ENTRIES],
    };
    let mut revoked = false;
    for index in slot.index..TABLE_ENTRIES {
        let next = sweep.top.checked_add(bytes).ok_or(Error::Input)?;
        let slot = slot.at(index);
        if next > top {
            break;
        }
        let raw = read_raw(context, slot)?;
        let old = decode::<P>(slot.level, raw)?;
        let Some(new) = change(&old) else { break };
        revoked |= old.is_walkable() && new != old;
        let new = encode::<P>(slot.level, &new)?;
        if new != raw {
            context.platform.table_write(slot.table, slot.index, new)?;
            // Zero marks an entry that is kept, so it is written down as one that differs.
            *sweep.raws.get_mut(index).ok_or(Error::Global)? = !raw;
        }
        sweep.top = next;
        sweep.end = index.saturating_add(1);
    }
    if revoked && let Err(error) = invalidate(context, realm, base, sweep.top) {
        for (slot, raw) in sweep.taken() {
            context.platform.table_write(slot.table, slot.index, !raw)?;
        }
        return Err(error);
    }
    Ok(sweep.top)
}
