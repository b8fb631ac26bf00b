// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Stage 2 translation tables of a realm.
//!
//! The realm's lock is the lock of its whole tree: every function here takes the locked realm.
//! The reference count of a table is the number of its *live* entries: assigned, device and table
//! entries. A table without references can be destroyed.
//!
//! An entry that hardware may use is replaced in this order: write the new entry, complete the
//! invalidation on every CPU and in the IOMMU, then let go of what it mapped. If the invalidation
//! does not complete, the old entry is put back and nothing has changed.

mod device;
mod list;
mod map;
mod ripas;
mod structure;
mod unmap;

use tsm_iommu::stage2::{Entry, LEAF_LEVEL, Ripas, Stage2Format, TABLE_ENTRIES};
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, Ipa, Pa};

use crate::context::{Context, Machine};
use crate::error::{Error, Result};
use crate::granule::State;
use crate::realm::Realm;

pub(crate) use device::{map_device, revoke_device, validate_device};
pub(crate) use list::Output;
use map::holds_shared;
pub(crate) use map::{Initial, data_map, data_map_init, unprot_map};
pub(crate) use ripas::{init_ripas, ripas_at, set_ripas};
pub(crate) use structure::{create, create_roots, destroy, fold, read_entry, release_root, retire};
pub(crate) use unmap::{data_unmap, dev_unmap, unprot_unmap};

/// Most granules that one range call takes in or lets go.
const GRANULES_PER_CALL: u64 = 512;

/// The place of one entry.
#[derive(Clone, Copy, Debug)]
struct Slot {
    table: Granule,
    level: u8,
    index: usize,
}

impl Slot {
    const fn at(self, index: usize) -> Self {
        Self { index, ..self }
    }
}

/// Returns the number of bytes that an entry of `level` covers.
fn entry_bytes<P: Machine>(level: u8) -> Result<u64> {
    P::Stage2::entry_bytes(level).ok_or(Error::Input)
}

fn encode<P: Machine>(level: u8, entry: &Entry) -> Result<u64> {
    P::Stage2::encode(level, entry).ok_or(Error::Global)
}

fn decode<P: Machine>(level: u8, raw: u64) -> Result<Entry> {
    P::Stage2::decode(level, raw).ok_or(Error::Global)
}

fn read_raw<P: Machine>(context: &Context<'_, P>, slot: Slot) -> Result<u64> {
    Ok(context.platform.table_read(slot.table, slot.index)?)
}

fn read<P: Machine>(context: &Context<'_, P>, slot: Slot) -> Result<Entry> {
    decode::<P>(slot.level, read_raw(context, slot)?)
}

fn write<P: Machine>(context: &Context<'_, P>, slot: Slot, entry: &Entry) -> Result<()> {
    let raw = encode::<P>(slot.level, entry)?;
    Ok(context.platform.table_write(slot.table, slot.index, raw)?)
}

/// Walks towards `ipa` until `target` or an entry that is not a table.
fn walk<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    target: u8,
) -> Result<(Slot, Entry)> {
    let stage2 = &realm.stage2;
    let (root, index) =
        P::Stage2::root_index(Ipa(ipa), stage2.ipa_bits, stage2.start_level).ok_or(Error::Input)?;
    let offset = u64::try_from(root)
        .ok()
        .and_then(|root| root.checked_mul(GRANULE_SIZE));
    let table = offset
        .and_then(|offset| stage2.root.0.checked_add(offset))
        .and_then(Granule::new);
    let mut slot = Slot {
        table: table.ok_or(Error::Global)?,
        level: stage2.start_level,
        index,
    };
    loop {
        let entry = read(context, slot)?;
        let Entry::Table { pa } = entry else {
            return Ok((slot, entry));
        };
        if slot.level >= target.min(LEAF_LEVEL) {
            return Ok((slot, entry));
        }
        let level = slot.level.saturating_add(1);
        let index = P::Stage2::index(Ipa(ipa), level).ok_or(Error::Global)?;
        slot = Slot {
            table: Granule::new(pa.0).ok_or(Error::Global)?,
            level,
            index,
        };
    }
}

/// Forgets translations of `[base, top)` on every CPU and in the IOMMU.
fn invalidate<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    base: u64,
    top: u64,
) -> Result<()> {
    let bytes = top.checked_sub(base).ok_or(Error::Global)?;
    context
        .platform
        .invalidate_stage2(&realm.stage2, Ipa(base), bytes);
    if realm.devices_allowed {
        context
            .platform
            .invalidate(realm.stage2.vmid, Ipa(base), bytes)?;
    }
    Ok(())
}

/// Yields the granules of `bytes` bytes at `pa`.
pub(crate) fn granules(pa: u64, bytes: u64) -> impl DoubleEndedIterator<Item = u64> {
    let count = bytes.checked_div(GRANULE_SIZE).unwrap_or(0);
    (0..count).map(move |index| pa.wrapping_add(index.wrapping_mul(GRANULE_SIZE)))
}

/// Returns the granules of `bytes` bytes at `pa`, both of which the host may have chosen.
fn range_of(pa: u64, bytes: u64) -> Result<GranuleRange> {
    let range = pa
        .checked_add(bytes)
        .and_then(|top| GranuleRange::new(pa, top));
    range.ok_or(Error::Input)
}

/// Returns the address `count` granules or blocks of `bytes` bytes after `pa`.
fn advance(pa: Pa, count: usize, bytes: u64) -> Option<Pa> {
    let count = u64::try_from(count).ok()?;
    Some(Pa(pa.0.checked_add(count.checked_mul(bytes)?)?))
}

/// Returns whether the entry counts as live: it holds a granule or a table of the realm.
const fn is_live(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Assigned { .. } | Entry::Device { .. } | Entry::Table { .. }
    )
}

/// Finds the granule of private memory that the guest knows as the page at `ipa`.
///
/// `Ok(Err(..))` says why the guest itself could not touch it.
pub(crate) fn guest_page<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
) -> Result<core::result::Result<Granule, GuestFault>> {
    let page = Granule::containing(ipa).address();
    if page >= realm.protected_top() {
        return Ok(Err(GuestFault::NotPrivate));
    }
    let (slot, entry) = walk(context, realm, page, LEAF_LEVEL)?;
    match entry {
        Entry::Assigned {
            pa,
            ripas: Ripas::Ram,
        } => {
            let offset = page
                .checked_rem(entry_bytes::<P>(slot.level)?)
                .ok_or(Error::Global)?;
            let address = pa.0.checked_add(offset).ok_or(Error::Global)?;
            // The tree says so; the table of granules must agree before bytes move.
            if context.tsm.granules.state(address)? != State::Data {
                return Err(Error::Global);
            }
            Ok(Ok(Granule::new(address).ok_or(Error::Global)?))
        }
        Entry::Unassigned {
            ripas: Ripas::Ram | Ripas::Destroyed,
        }
        | Entry::Assigned {
            ripas: Ripas::Destroyed,
            ..
        } => Ok(Err(GuestFault::Missing { level: slot.level })),
        _ => Ok(Err(GuestFault::NotPrivate)),
    }
}

/// Why a page that the guest named could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestFault {
    /// It is not private memory: the guest's mistake.
    NotPrivate,
    /// It is private memory that the host has not provided; the walk ended at `level`.
    Missing {
        /// Level of the last entry.
        level: u8,
    },
}
