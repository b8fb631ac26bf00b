// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Mapping private and shared memory.

use tsm_abi::rmi::{MEASURE_CONTENT, MapFlags};
use tsm_iommu::stage2::{SharedAttributes, SharedMemory, Stage2Format};
use tsm_platform::{GranuleRange, HostPa};

use super::list::{Block, Blocks, Output};
use super::{
    Context, Entry, Error, GRANULE_SIZE, GRANULES_PER_CALL, Granule, LEAF_LEVEL, Machine, Pa,
    Realm, Result, Ripas, Slot, State, TABLE_ENTRIES, entry_bytes, granules, range_of, read, walk,
    write,
};
use crate::error::Reply;
use crate::granule::{GRANULE_BYTES, Kind};
use crate::realm::Life;

/// What a map call maps, and what it checks of each block before it does.
pub(super) trait Mapping<P: Machine> {
    /// Whether the addresses are in the protected half and the memory is delegated.
    const PRIVATE: bool;
    /// Maps one block at an entry that holds `old`. `Ok` if it is there already.
    fn map(
        &self,
        context: &Context<'_, P>,
        realm: &Realm,
        slot: Slot,
        old: &Entry,
        block: Block,
    ) -> Result<()>;
}

/// Maps the blocks that `output` names from `base` on and returns the next address. An error after
/// the first block ends the call with what is done.
pub(super) fn map_range<P: Machine, M: Mapping<P>>(
    context: &Context<'_, P>,
    realm: &Realm,
    (base, top): (u64, u64),
    output: Output,
    mapping: &M,
) -> Result<u64> {
    if !matches!(realm.life, Life::New | Life::Active) {
        return Err(Error::Realm);
    }
    realm.check_range(base, top, M::PRIVATE)?;
    let mut blocks = Blocks::read(context, output)?;
    let first = blocks.peek().ok_or(Error::Input)?;
    let level = first.level;
    let bytes = entry_bytes::<P>(level)?;
    // A block above level 2 could not be taken in by one bounded call.
    if level < LEAF_LEVEL.saturating_sub(1)
        || first.undelegated == M::PRIVATE
        || !base.is_multiple_of(bytes)
    {
        return Err(Error::Input);
    }
    let (slot, _) = walk(context, realm, base, level)?;
    if slot.level != level {
        return Err(Error::Rtt(slot.level));
    }
    let mut next = base;
    let mut budget = GRANULES_PER_CALL;
    for index in slot.index..TABLE_ENTRIES {
        let end = next.checked_add(bytes).ok_or(Error::Input)?;
        let block = blocks.next().ok_or(Error::Input).and_then(|block| {
            if block.level != level || end > top {
                Err(Error::Rtt(level))
            } else if block.undelegated == M::PRIVATE {
                Err(Error::Input)
            } else {
                Ok(block)
            }
        });
        let slot = slot.at(index);
        let mapped =
            block.and_then(|block| mapping.map(context, realm, slot, &read(context, slot)?, block));
        match mapped {
            Ok(()) => next = end,
            Err(error) if next == base => return Err(error),
            Err(_) => break,
        }
        budget = budget.saturating_sub(bytes.checked_div(GRANULE_SIZE).unwrap_or(budget));
        if budget == 0 || next == top {
            break;
        }
    }
    Ok(next)
}

/// Takes every granule of a block from delegated to `state` and runs `work`; all or nothing.
pub(super) fn claim<P: Machine>(
    context: &Context<'_, P>,
    kind: Kind,
    state: State,
    (pa, bytes): (u64, u64),
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let table = &context.tsm.granules;
    let range = range_of(pa, bytes)?;
    let region = table.region(pa).filter(|region| region.kind() == kind);
    region.ok_or(Error::Input)?;
    table.claim_range(range, State::Delegated, state)?;
    let outcome = work();
    if outcome.is_err() {
        table.change_range(range, state, State::Delegated)?;
    }
    outcome
}

struct DataMapping;

impl<P: Machine> Mapping<P> for DataMapping {
    const PRIVATE: bool = true;

    fn map(
        &self,
        context: &Context<'_, P>,
        _: &Realm,
        slot: Slot,
        old: &Entry,
        block: Block,
    ) -> Result<()> {
        let ripas = match *old {
            Entry::Unassigned { ripas } => ripas,
            Entry::Assigned { pa, .. } if pa.0 == block.address => return Ok(()),
            _ => return Err(Error::Rtt(slot.level)),
        };
        let block = (block.address, entry_bytes::<P>(slot.level)?);
        claim(context, Kind::Memory, State::Data, block, || {
            context.platform.zero_range(range_of(block.0, block.1)?)?;
            let pa = Pa(block.0);
            write(context, slot, &Entry::Assigned { pa, ripas })
        })?;
        context.tsm.granules.refer(slot.table.address(), 1)
    }
}

/// Maps zeroed private memory; RIPAS is kept. Returns the next address.
pub(crate) fn data_map<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
) -> Result {
    map_range(context, realm, range, output, &DataMapping).map(Reply::one)
}

struct SharedMapping(SharedAttributes);

impl<P: Machine> Mapping<P> for SharedMapping {
    const PRIVATE: bool = false;

    fn map(
        &self,
        context: &Context<'_, P>,
        realm: &Realm,
        slot: Slot,
        old: &Entry,
        block: Block,
    ) -> Result<()> {
        let entry = Entry::Shared {
            pa: Pa(block.address),
            attributes: self.0,
        };
        match old {
            Entry::Unassigned { .. } => {}
            old if *old == entry => return Ok(()),
            _ => return Err(Error::Rtt(slot.level)),
        }
        let bytes = entry_bytes::<P>(slot.level)?;
        if holds_shared(context, realm) {
            hold_shared(context, block.address, bytes)?;
        }
        write(context, slot, &entry)
    }
}

/// Returns whether the host must keep what is mapped as shared memory of `realm`.
///
/// Where hardware checks the owner of a granule on each access of a CPU it need not. An IOMMU does
/// not check that, so a device of a realm could follow a stale shared entry into memory that is
/// private to another.
pub(super) fn holds_shared<P: Machine>(context: &Context<'_, P>, realm: &Realm) -> bool {
    realm.devices_allowed || !context.platform.is_checked_on_access()
}

/// Keeps the host from delegating granules that a realm can reach as shared memory, and the realm
/// away from MMIO that the platform keeps and from all that is not the host's to share.
fn hold_shared<P: Machine>(context: &Context<'_, P>, pa: u64, bytes: u64) -> Result<()> {
    let top = pa.checked_add(bytes).ok_or(Error::Input)?;
    let range = GranuleRange::new(pa, top).ok_or(Error::Input)?;
    let kept = context.platform.reserved_mmio();
    if kept.iter().any(|kept| kept.overlaps(range)) {
        return Err(Error::Input);
    }
    let table = &context.tsm.granules;
    for address in granules(pa, bytes) {
        if let Err(error) = table.refer_undelegated(address) {
            for address in granules(pa, address.saturating_sub(pa)) {
                table.release(address, 1)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Maps the host's own memory at unprotected addresses. Returns the next address.
///
/// Bits 18:16 of the flags are the memory type, bits 22:19 the access rights (write, read).
pub(crate) fn unprot_map<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    range: (u64, u64),
    output: Output,
) -> Result {
    let flags = MapFlags(output.flags);
    let memory = SharedMemory::from_memattr(flags.memory_attribute()).ok_or(Error::Input)?;
    let rights = flags.permissions();
    let attributes = SharedAttributes {
        memory,
        write: rights & MapFlags::WRITE != 0,
        read: rights & MapFlags::READ != 0,
    };
    if rights & !(MapFlags::READ | MapFlags::WRITE) != 0 {
        return Err(Error::Input);
    }
    // Not every format has mappings that cannot be read.
    let any = Entry::Shared {
        pa: Pa(0),
        attributes,
    };
    P::Stage2::encode(LEAF_LEVEL, &any).ok_or(Error::Input)?;
    map_range(context, realm, range, output, &SharedMapping(attributes)).map(Reply::one)
}

/// Arguments of RTT_DATA_MAP_INIT after the realm.
#[derive(Clone, Copy)]
pub(crate) struct Initial {
    pub data: u64,
    pub ipa: u64,
    pub source: u64,
    pub flags: u64,
}

/// Maps one page that starts with the content of a host page, and measures it.
pub(crate) fn data_map_init<P: Machine>(
    context: &Context<'_, P>,
    realm: &mut Realm,
    initial: Initial,
) -> Result {
    let top = initial.ipa.checked_add(GRANULE_SIZE).ok_or(Error::Input)?;
    if initial.flags & !MEASURE_CONTENT != 0 {
        return Err(Error::Input);
    }
    let source = context.host_granule(initial.source)?;
    realm.check_range(initial.ipa, top, true)?;
    if realm.life != Life::New {
        return Err(Error::Realm);
    }
    let (slot, entry) = walk(context, realm, initial.ipa, LEAF_LEVEL)?;
    if slot.level != LEAF_LEVEL || !matches!(entry, Entry::Unassigned { .. }) {
        return Err(Error::Rtt(slot.level));
    }
    let mut content = [0_u8; GRANULE_BYTES];
    context.host_read(HostPa(source.address()), &mut content)?;
    let page = (initial.data, GRANULE_SIZE);
    claim(context, Kind::Memory, State::Data, page, || {
        let data = Granule::new(initial.data).ok_or(Error::Input)?;
        context.platform.write(data, 0, &content)?;
        let (pa, ripas) = (Pa(initial.data), Ripas::Ram);
        write(context, slot, &Entry::Assigned { pa, ripas })
    })?;
    context.tsm.granules.refer(slot.table.address(), 1)?;
    let measured = (initial.flags == MEASURE_CONTENT).then_some(&content[..]);
    realm
        .measurement
        .extend_data(context.platform, initial.ipa, initial.flags, measured);
    Ok(Reply::NONE)
}
