// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! IOMMUs as the host sees them.
//!
//! The TSM owns every IOMMU from reset and keeps tables for all streams in its own memory. What the
//! host activates and makes room for is therefore not memory that is used but a condition that is
//! checked: no interface is created on a stream that the host has not prepared.

use core::hash::{Hash, Hasher};

use heapless::Vec;
use tsm_abi::rmi::{IommuFaultFlags, PsmmuParams};
use tsm_platform::StreamId;

use super::registry::Registry;
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};

/// Streams that one second-level stream table describes.
const STREAMS_PER_TABLE: u64 = 256;
/// Words that hold one bit for each second-level table of a 16-bit stream id space.
const TABLE_WORDS: usize = 4;
/// Most IOMMUs.
const MOST_UNITS: usize = 4;

/// An IOMMU that the host has activated.
struct Unit {
    address: u64,
    /// One bit for each second-level table.
    tables: [u64; TABLE_WORDS],
}

impl Unit {
    fn word(&mut self, stream: u64) -> Option<(&mut u64, u64)> {
        let table = stream / STREAMS_PER_TABLE;
        let word = self.tables.get_mut(usize::try_from(table / 64).ok()?)?;
        Some((word, 1 << (table % 64)))
    }

    fn has_table(&self, stream: u64) -> bool {
        let table = stream / STREAMS_PER_TABLE;
        let word = usize::try_from(table / 64)
            .ok()
            .and_then(|word| self.tables.get(word));
        word.is_some_and(|bits| bits & 1 << (table % 64) != 0)
    }
}

/// What the host has prepared.
pub(crate) struct Units {
    active: Vec<Unit, MOST_UNITS>,
}

impl Units {
    /// Makes the state after reset: nothing is active.
    pub const fn new() -> Self {
        Self { active: Vec::new() }
    }

    /// Feeds what the host has prepared to `hasher`.
    pub fn observe(&self, hasher: &mut impl Hasher) {
        for unit in &self.active {
            (unit.address, unit.tables).hash(hasher);
        }
    }

    fn find(&mut self, address: u64) -> Option<&mut Unit> {
        self.active.iter_mut().find(|unit| unit.address == address)
    }

    /// Returns whether the host has prepared `stream`.
    fn has(&self, stream: StreamId) -> bool {
        self.active
            .iter()
            .any(|unit| unit.has_table(u64::from(stream.0)))
    }
}

fn is_unit<P: Machine>(context: &Context<'_, P>, address: u64) -> bool {
    context
        .platform
        .units()
        .iter()
        .any(|unit| unit.0 == address)
}

/// Returns whether interfaces may be created on `stream`: an IOMMU of the TSM covers it, and the
/// host has prepared it where it can.
pub(crate) fn is_ready<P: Machine>(
    context: &Context<'_, P>,
    registry: &Registry,
    stream: StreamId,
) -> bool {
    let is_prepared = context.platform.units().is_empty() || registry.units.has(stream);
    context.platform.covers(stream) && is_prepared
}

/// `RMI_PSMMU_ACTIVATE`.
pub(crate) fn activate<P: Machine>(context: &Context<'_, P>, unit: u64, params: u64) -> Result {
    if !is_unit(context, unit) {
        return Err(Error::Input);
    }
    let params: PsmmuParams = context.host_structure(params)?;
    // Message interrupts, address translation services and page requests are not there.
    if params.flags.get() != 0 {
        return Err(Error::NotSupported);
    }
    let mut registry = context.devices();
    if registry.units.find(unit).is_some() {
        return Err(Error::Input);
    }
    let unit = Unit {
        address: unit,
        tables: [0; TABLE_WORDS],
    };
    registry
        .units
        .active
        .push(unit)
        .map_err(|_| Error::Global)?;
    Ok(Reply::NONE)
}

/// `RMI_PSMMU_DEACTIVATE`: refused while a second-level table exists.
pub(crate) fn deactivate<P: Machine>(context: &Context<'_, P>, unit: u64) -> Result {
    let mut registry = context.devices();
    let found = registry.units.find(unit).ok_or(Error::Input)?;
    if found.tables != [0; TABLE_WORDS] {
        return Err(Error::Input);
    }
    registry.units.active.retain(|other| other.address != unit);
    Ok(Reply::NONE)
}

fn first_stream<P: Machine>(context: &Context<'_, P>, stream: u64) -> Result<StreamId> {
    let id = u32::try_from(stream)
        .map(StreamId)
        .map_err(|_| Error::Input)?;
    if stream.is_multiple_of(STREAMS_PER_TABLE) && context.platform.covers(id) {
        Ok(id)
    } else {
        Err(Error::Input)
    }
}

/// `RMI_PSMMU_ST_L2_CREATE`: makes room for the 256 streams from `stream` on.
pub(crate) fn table_create<P: Machine>(context: &Context<'_, P>, unit: u64, stream: u64) -> Result {
    first_stream(context, stream)?;
    let mut registry = context.devices();
    let found = registry.units.find(unit).ok_or(Error::Input)?;
    let (word, bit) = found.word(stream).ok_or(Error::Input)?;
    if *word & bit != 0 {
        return Err(Error::Input);
    }
    *word |= bit;
    Ok(Reply::NONE)
}

/// `RMI_PSMMU_ST_L2_DESTROY`: refused while an interface uses one of the streams.
pub(crate) fn table_destroy<P: Machine>(
    context: &Context<'_, P>,
    unit: u64,
    stream: u64,
) -> Result {
    first_stream(context, stream)?;
    let mut registry = context.devices();
    let table = stream / STREAMS_PER_TABLE;
    let in_use = |rid: u16| u64::from(rid) / STREAMS_PER_TABLE == table;
    if registry
        .interfaces()
        .iter()
        .any(|interface| in_use(interface.rid.0))
    {
        return Err(Error::Input);
    }
    let found = registry.units.find(unit).ok_or(Error::Input)?;
    let (word, bit) = found.word(stream).ok_or(Error::Input)?;
    if *word & bit == 0 {
        return Err(Error::Input);
    }
    *word &= !bit;
    Ok(Reply::NONE)
}

/// `PORTCULLIS_IOMMU_FAULT_GET`. The platform has left out what a guest's device asked for.
pub(crate) fn next_fault<P: Machine>(context: &Context<'_, P>) -> Reply {
    let Some(fault) = context.platform.next_fault() else {
        return Reply::five([0; 5]);
    };
    let mut flags = IommuFaultFlags::VALID;
    flags.set(IommuFaultFlags::WRITE, fault.write);
    flags.set(IommuFaultFlags::OF_GUEST, fault.of_guest);
    Reply::five([
        flags.bits(),
        u64::from(fault.stream.0),
        fault.page,
        u64::from(fault.count),
        u64::from(fault.lost),
    ])
}
