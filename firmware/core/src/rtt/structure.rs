// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Making, destroying, folding and reading tables.

use super::{
    Context, Entry, Error, GRANULE_SIZE, Granule, LEAF_LEVEL, Machine, Pa, Realm, Result, Ripas,
    Slot, State, TABLE_ENTRIES, advance, encode, entry_bytes, granules, holds_shared, invalidate,
    is_live, read, walk, write,
};
use crate::error::Reply;

/// Checks the place of a table of `level`: every table but a root.
fn check_table<P: Machine>(realm: &Realm, ipa: u64, level: u64) -> Result<u8> {
    let level = u8::try_from(level).map_err(|_| Error::Input)?;
    if level <= realm.stage2.start_level || level > LEAF_LEVEL {
        return Err(Error::Input);
    }
    let parent = level.checked_sub(1).ok_or(Error::Input)?;
    check_entry::<P>(realm, ipa, parent)?;
    Ok(level)
}

fn check_entry<P: Machine>(realm: &Realm, ipa: u64, level: u8) -> Result<()> {
    if ipa >= realm.ipa_top() || !ipa.is_multiple_of(entry_bytes::<P>(level)?) {
        return Err(Error::Input);
    }
    Ok(())
}

/// Returns entry `index` of a table of `level` that stands for what `parent` stood for.
fn child<P: Machine>(level: u8, parent: &Entry, index: usize) -> Result<Entry> {
    let bytes = entry_bytes::<P>(level)?;
    let at = |pa: Pa| advance(pa, index, bytes).ok_or(Error::Global);
    Ok(match *parent {
        Entry::Assigned { pa, ripas } => Entry::Assigned { pa: at(pa)?, ripas },
        Entry::Device { pa, ripas } => Entry::Device { pa: at(pa)?, ripas },
        Entry::Shared { pa, attributes } => Entry::Shared {
            pa: at(pa)?,
            attributes,
        },
        Entry::Unassigned { ripas } => Entry::Unassigned { ripas },
        Entry::Table { .. } => return Err(Error::Global),
    })
}

/// Returns the word of the first entry of a table of `level` that stands for what `parent` stood
/// for, and what each word has more than the one before.
fn children<P: Machine>(level: u8, parent: &Entry) -> Result<(u64, u64)> {
    let word = |index| encode::<P>(level, &child::<P>(level, parent, index)?);
    let (first, second, last) = (word(0)?, word(1)?, word(TABLE_ENTRIES.saturating_sub(1))?);
    let step = second.wrapping_sub(first);
    // A format in which addresses are not simply added could not be filled like this.
    let linear =
        u64::from(LIVE_BLOCK).wrapping_sub(1).wrapping_mul(step) == last.wrapping_sub(first);
    if linear {
        Ok((first, step))
    } else {
        Err(Error::Global)
    }
}

/// Makes the table of `level` for `ipa` from the delegated granule at `table`.
pub(crate) fn create<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    table: u64,
    ipa: u64,
    level: u64,
) -> Result {
    let level = check_table::<P>(realm, ipa, level)?;
    let parent_level = level.saturating_sub(1);
    let (slot, parent) = walk(context, realm, ipa, parent_level)?;
    if slot.level < parent_level || matches!(parent, Entry::Table { .. }) {
        return Err(Error::Rtt(slot.level));
    }
    let guard = context.lock(table, State::Delegated)?;
    if !context.is_memory(table) {
        return Err(Error::Input);
    }
    let (first, step) = children::<P>(level, &parent)?;
    context
        .platform
        .table_create(guard.granule(), first, step)?;
    if let Err(error) = replace(
        context,
        realm,
        slot,
        ipa,
        &parent,
        &Entry::Table { pa: Pa(table) },
    ) {
        context.platform.table_discard(guard.granule())?;
        return Err(error);
    }
    guard.set_state(State::Rtt);
    drop(guard);
    if is_live(&parent) {
        // What the parent's entry held is held by the table now; the parent's count stays.
        context.tsm.granules.refer(table, LIVE_BLOCK)?;
    } else {
        context.tsm.granules.refer(slot.table.address(), 1)?;
    }
    Ok(Reply::NONE)
}

/// Entries of a table, all of them live if it replaces a block.
const LIVE_BLOCK: u32 = 512;

/// Replaces an entry, by way of an invalid one if hardware may use the old one.
fn replace<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    slot: Slot,
    ipa: u64,
    old: &Entry,
    new: &Entry,
) -> Result<()> {
    if old.is_walkable() {
        let top = ipa
            .checked_add(entry_bytes::<P>(slot.level)?)
            .ok_or(Error::Global)?;
        write(
            context,
            slot,
            &Entry::Unassigned {
                ripas: Ripas::Empty,
            },
        )?;
        if let Err(error) = invalidate(context, realm, ipa, top) {
            write(context, slot, old)?;
            return Err(error);
        }
    }
    write(context, slot, new)
}

/// Destroys the table of `level` at `ipa`, which must have no live entries. Returns its granule and
/// the end of the region from `ipa` in which nothing is live.
pub(crate) fn destroy<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    level: u64,
) -> Result {
    let level = check_table::<P>(realm, ipa, level)?;
    let parent_level = level.saturating_sub(1);
    let (slot, entry) = walk(context, realm, ipa, parent_level)?;
    let Entry::Table { pa } = entry else {
        let top = skip_dead(context, slot, ipa)?;
        return Ok(Reply::failure(Error::Rtt(slot.level), [0, top]));
    };
    if slot.level < parent_level {
        return Err(Error::Global);
    }
    if context.tsm.granules.references(pa.0)? != 0 {
        return Ok(Reply::failure(Error::Rtt(level), [0, ipa]));
    }
    let ripas = if ipa < realm.protected_top() {
        Ripas::Destroyed
    } else {
        Ripas::Empty
    };
    replace(
        context,
        realm,
        slot,
        ipa,
        &entry,
        &Entry::Unassigned { ripas },
    )?;
    let table = Granule::new(pa.0).ok_or(Error::Global)?;
    release_shared(context, realm, table, level, ipa)?;
    retire(context, table)?;
    context.tsm.granules.release(slot.table.address(), 1)?;
    Ok(Reply::two(pa.0, skip_dead(context, slot, ipa)?))
}

/// Zeroes a table that nothing points to; its granule becomes delegated.
pub(crate) fn retire<P: Machine>(context: &Context<'_, P>, table: Granule) -> Result<()> {
    context.platform.table_discard(table)?;
    context
        .tsm
        .granules
        .change(table.address(), State::Rtt, State::Delegated)
}

/// Drops the references that shared entries of a table hold on the host's granules. `last` is an
/// address near the end of what the table covers.
pub(crate) fn release_shared<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    table: Granule,
    level: u8,
    last: u64,
) -> Result<()> {
    if !holds_shared(context, realm) || last < realm.protected_top() {
        return Ok(());
    }
    for index in 0..TABLE_ENTRIES {
        if let Entry::Shared { pa, .. } = read(
            context,
            Slot {
                table,
                level,
                index,
            },
        )? {
            for granule in granules(pa.0, entry_bytes::<P>(level)?) {
                context.tsm.granules.release(granule, 1)?;
            }
        }
    }
    Ok(())
}

/// Drops what the shared entries of root table `index` hold.
pub(crate) fn release_root<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    root: Granule,
    index: u64,
) -> Result<()> {
    let level = realm.stage2.start_level;
    let bytes = entry_bytes::<P>(level)?
        .checked_mul(LIVE_BLOCK.into())
        .ok_or(Error::Global)?;
    let last = index
        .saturating_add(1)
        .saturating_mul(bytes)
        .saturating_sub(1);
    release_shared(context, realm, root, level, last)
}

/// Returns the end of the run of entries from `slot`, which covers `ipa`, that are not live.
fn skip_dead<P: Machine>(context: &Context<'_, P>, slot: Slot, ipa: u64) -> Result<u64> {
    let bytes = entry_bytes::<P>(slot.level)?;
    if context.tsm.granules.references(slot.table.address())? == 0 {
        // No entry is live: the run ends where the table does.
        return bytes
            .checked_mul(LIVE_BLOCK.into())
            .and_then(|bytes| ipa.checked_add(1)?.checked_next_multiple_of(bytes))
            .ok_or(Error::Global);
    }
    let mut top = ipa;
    for index in slot.index..TABLE_ENTRIES {
        if is_live(&read(context, slot.at(index))?) {
            break;
        }
        let base = top.checked_sub(top.checked_rem(bytes).ok_or(Error::Global)?);
        top = base
            .and_then(|base| base.checked_add(bytes))
            .ok_or(Error::Global)?;
    }
    Ok(top)
}

/// Replaces the table of `level` at `ipa` by one entry that stands for the same, if there is one.
/// Returns the table's granule.
pub(crate) fn fold<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    level: u64,
) -> Result {
    let level = check_table::<P>(realm, ipa, level)?;
    let parent_level = level.saturating_sub(1);
    let (slot, entry) = walk(context, realm, ipa, parent_level)?;
    let Entry::Table { pa } = entry else {
        return Err(Error::Rtt(slot.level));
    };
    let table = Granule::new(pa.0).ok_or(Error::Global)?;
    let first = read(
        context,
        Slot {
            table,
            level,
            index: 0,
        },
    )?;
    let holds_memory = !matches!(first, Entry::Unassigned { .. });
    // A block above level 2 could not be unmapped by one bounded call.
    let aligned = encode::<P>(parent_level, &first).is_ok();
    if matches!(first, Entry::Table { .. }) || holds_memory && (level < LEAF_LEVEL || !aligned) {
        return Err(Error::Rtt(level));
    }
    for index in 0..TABLE_ENTRIES {
        if read(
            context,
            Slot {
                table,
                level,
                index,
            },
        )? != child::<P>(level, &first, index)?
        {
            return Err(Error::Rtt(level));
        }
    }
    replace(context, realm, slot, ipa, &entry, &first)?;
    if is_live(&first) {
        context.tsm.granules.release(table.address(), LIVE_BLOCK)?;
    } else {
        context.tsm.granules.release(slot.table.address(), 1)?;
    }
    retire(context, table)?;
    Ok(Reply::one(pa.0))
}

/// Returns level, state, descriptor and RIPAS of the entry for `ipa`, at `level` or above.
pub(crate) fn read_entry<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    level: u64,
) -> Result {
    let level = u8::try_from(level).map_err(|_| Error::Input)?;
    if level < realm.stage2.start_level || level > LEAF_LEVEL {
        return Err(Error::Input);
    }
    check_entry::<P>(realm, ipa, level)?;
    let (slot, entry) = walk(context, realm, ipa, level)?;
    let (state, descriptor, ripas) = match entry {
        Entry::Unassigned { ripas } => (0, 0, ripas),
        Entry::Assigned { pa, ripas } => (1, pa.0, ripas),
        Entry::Shared { pa, attributes } => {
            let rights = u64::from(attributes.read) | (u64::from(attributes.write) << 1);
            let bits = (attributes.memory.memattr() << 2) | (rights << 6);
            (1, pa.0 | bits, Ripas::Empty)
        }
        Entry::Table { pa } => (2, pa.0, Ripas::Empty),
        Entry::Device { pa, ripas } => (3, pa.0, ripas),
    };
    let ripas = u64::from(ripas.code());
    Ok(Reply::four(u64::from(slot.level), state, descriptor, ripas))
}

/// Claims the root tables of a realm that is being made; all or none.
pub(crate) fn create_roots<P: Machine>(
    context: &Context<'_, P>,
    base: u64,
    count: u64,
) -> Result<()> {
    let bytes = count.checked_mul(GRANULE_SIZE).ok_or(Error::Input)?;
    base.checked_add(bytes).ok_or(Error::Input)?;
    let made = granules(base, bytes).try_fold(0_u64, |made, address| {
        create_root(context, address)
            .map_err(|error| (made, error))
            .map(|()| made.saturating_add(1))
    });
    let Err((made, error)) = made else {
        return Ok(());
    };
    for address in granules(base, made.saturating_mul(GRANULE_SIZE)) {
        retire(context, Granule::new(address).ok_or(Error::Global)?)?;
    }
    Err(error)
}

fn create_root<P: Machine>(context: &Context<'_, P>, address: u64) -> Result<()> {
    if !context.is_memory(address) {
        return Err(Error::Input);
    }
    let table = Granule::new(address).ok_or(Error::Input)?;
    let empty = encode::<P>(
        LEAF_LEVEL,
        &Entry::Unassigned {
            ripas: Ripas::Empty,
        },
    )?;
    // Claimed, not locked: the descriptor's lock is held, and roots may lie on either side of it.
    context
        .tsm
        .granules
        .claim(address, State::Delegated, State::Moving)?;
    let made = context.platform.table_create(table, empty, 0);
    let state = if made.is_ok() {
        State::Rtt
    } else {
        State::Delegated
    };
    context.tsm.granules.change(address, State::Moving, state)?;
    Ok(made?)
}
