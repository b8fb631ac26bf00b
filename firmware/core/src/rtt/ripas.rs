// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the guest uses its protected addresses for.

use super::unmap::rewrite;
use super::{
    Context, Entry, Error, LEAF_LEVEL, Machine, Realm, Result, Ripas, TABLE_ENTRIES, entry_bytes,
    read, walk,
};
use crate::error::Reply;
use crate::realm::Life;

/// Marks `[base, top)` of a realm that is being built as private memory and measures it. Returns
/// the end of what was done.
pub(crate) fn init_ripas<P: Machine>(
    context: &Context<'_, P>,
    realm: &mut Realm,
    base: u64,
    top: u64,
) -> Result {
    realm.check_range(base, top, true)?;
    if realm.life != Life::New {
        return Err(Error::Realm);
    }
    let end = change(context, realm, (base, top), |entry| match *entry {
        Entry::Unassigned {
            ripas: Ripas::Empty | Ripas::Ram,
        } => Some(Entry::Unassigned { ripas: Ripas::Ram }),
        Entry::Assigned {
            pa,
            ripas: Ripas::Empty | Ripas::Ram,
        } => Some(Entry::Assigned {
            pa,
            ripas: Ripas::Ram,
        }),
        _ => None,
    })?;
    realm.measurement.extend_ripas(context.platform, base, end);
    Ok(Reply::one(end))
}

/// Changes `[base, top)` to what the guest asked for. Returns the end of what was done.
pub(crate) fn set_ripas<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    value: Ripas,
    change_destroyed: bool,
) -> Result<u64> {
    change(context, realm, range, |entry| match (value, *entry) {
        (
            _,
            Entry::Unassigned {
                ripas: Ripas::Destroyed,
            },
        )
        | (
            _,
            Entry::Assigned {
                ripas: Ripas::Destroyed,
                ..
            },
        ) if value == Ripas::Ram && !change_destroyed => None,
        (Ripas::Ram | Ripas::Empty, Entry::Unassigned { .. }) => {
            Some(Entry::Unassigned { ripas: value })
        }
        (Ripas::Ram | Ripas::Empty, Entry::Assigned { pa, .. }) => {
            Some(Entry::Assigned { pa, ripas: value })
        }
        (Ripas::Empty, Entry::Device { pa, .. }) => Some(Entry::Device { pa, ripas: value }),
        _ => None,
    })
}

/// Applies `change` to the entries of one table from `base` on; `None` ends the call.
fn change<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    (base, top): (u64, u64),
    change: impl Fn(&Entry) -> Option<Entry>,
) -> Result<u64> {
    let (slot, _) = walk(context, realm, base, LEAF_LEVEL)?;
    if !base.is_multiple_of(entry_bytes::<P>(slot.level)?) {
        return Err(Error::Rtt(slot.level));
    }
    let end = rewrite(context, realm, slot, (base, top), change)?;
    if end == base {
        Err(Error::Rtt(slot.level))
    } else {
        Ok(end)
    }
}

/// Returns the RIPAS at `base` and the end, at most `top`, of the run of entries that have it.
pub(crate) fn ripas_at<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    base: u64,
    top: u64,
) -> Result<(Ripas, u64)> {
    let (slot, entry) = walk(context, realm, base, LEAF_LEVEL)?;
    let bytes = entry_bytes::<P>(slot.level)?;
    let ripas = ripas_of(&entry);
    let offset = base.checked_rem(bytes).ok_or(Error::Global)?;
    let first = base.checked_sub(offset).ok_or(Error::Global)?;
    let mut end = first.checked_add(bytes).ok_or(Error::Global)?;
    for index in slot.index.saturating_add(1)..TABLE_ENTRIES {
        if end >= top {
            break;
        }
        let entry = read(context, slot.at(index))?;
        if matches!(entry, Entry::Table { .. }) || ripas_of(&entry) != ripas {
            break;
        }
        end = end.checked_add(bytes).ok_or(Error::Global)?;
    }
    Ok((ripas, end.min(top)))
}

const fn ripas_of(entry: &Entry) -> Ripas {
    match *entry {
        Entry::Unassigned { ripas }
        | Entry::Assigned { ripas, .. }
        | Entry::Device { ripas, .. } => ripas,
        Entry::Shared { .. } | Entry::Table { .. } => Ripas::Empty,
    }
}
