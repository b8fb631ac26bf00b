// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host reaches before it starts: its processors through nested tables, its devices through
//! the IOMMU.

use core::sync::atomic::AtomicU64;

use heapless::Vec;
use tsm_iommu::identity::{self, Areas};
use tsm_iommu::{HostMap, host_map};
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, Rid};

use super::npt;
use super::vtd::{self, VtD};
use crate::ecam::ECAM_BYTES;
use crate::layout::DEVICE_WINDOW;
use crate::machine::MOST_RESERVED;
use crate::paging::Use;
use crate::setup::{self, Failure, SPANS, Setup};

/// Most areas in which pages change hands or are kept: spans, and what [`Reach`] names.
const AREAS: usize = SPANS + 8;
const TABLE_ENTRIES: usize = 512;
/// The local APIC. A host uses it by MSRs, which are filtered.
const LOCAL_APIC: u64 = 0xfee0_0000;

/// What of the address space the TSM keeps, or lends.
pub struct Reach<'a> {
    /// Memory that is the host's at first.
    pub banks: &'a [GranuleRange],
    /// Registers of devices that are the host's at first.
    pub devices: &'a [GranuleRange],
    /// The TSM's own memory.
    pub region: GranuleRange,
    /// Registers of functions that the platform keeps.
    pub reserved: &'a [GranuleRange],
    /// The function that the platform keeps.
    pub hidden: Rid,
    /// The configuration window. The host reads it; its writes are looked at.
    pub ecam: u64,
    /// Registers of IOMMUs.
    pub units: &'a [u64],
    /// Register pages of I/O APICs. The host reads them; its writes are looked at.
    pub io_apics: &'a [u64],
}

fn range(base: u64, bytes: u64) -> Result<GranuleRange, Failure> {
    let top = base.checked_add(bytes).ok_or(Failure::Layout)?;
    GranuleRange::new(base, top).ok_or(Failure::Layout)
}

/// Makes the host's nested tables.
pub fn nested(setup: &mut Setup, reach: &Reach<'_>) -> Result<(), Failure> {
    let ecam = range(reach.ecam, ECAM_BYTES)?;
    let hidden = reach.ecam + (u64::from(reach.hidden.0) << 12);
    let mut holes: Vec<GranuleRange, AREAS> = Vec::new();
    let pages = [LOCAL_APIC, hidden].into_iter();
    let pages = pages.chain(reach.units.iter().copied());
    let kept = reach.reserved.iter().copied().map(Ok);
    let kept = kept.chain(pages.map(|page| range(page, GRANULE_SIZE)));
    for hole in kept.chain([Ok(reach.region)]) {
        holes.push(hole?).map_err(|_| Failure::Layout)?;
    }
    let mut lent: Vec<_, AREAS> = Vec::new();
    let pages = reach.io_apics.iter();
    for range in pages
        .map(|page| range(*page, GRANULE_SIZE))
        .chain([Ok(ecam)])
    {
        let lent = lent.push((range?, identity::Access::ReadOnly));
        lent.map_err(|_| Failure::Layout)?;
    }
    let mut areas: Areas<AREAS> = Areas::new();
    let tracked = reach.banks.iter().chain(reach.devices).chain(&holes);
    for range in tracked.chain(lent.iter().map(|(range, _)| range)) {
        areas.add(*range).map_err(|_| Failure::Layout)?;
    }
    let areas = setup.keep(areas.into_inner())?;
    let words = identity::table_count(areas).and_then(|count| count.checked_mul(TABLE_ENTRIES));
    // SAFETY: zero is a value of an integer.
    let words =
        unsafe { setup.zeroed::<AtomicU64>(words.ok_or(Failure::NoMemory)?, GRANULE_SIZE) }?;
    // The hidden function's page lies in the window, so the window goes first.
    npt::start(words, areas, &lent, &holes).map_err(|_| Failure::Layout)
}

/// Returns where no function may be made to answer: all that the host must not reach, whichever unit
/// an address goes to that two of them claim.
pub fn kept(reach: &Reach<'_>) -> Result<Vec<GranuleRange, MOST_RESERVED>, Failure> {
    let mut kept: Vec<_, MOST_RESERVED> = Vec::new();
    let pages = [LOCAL_APIC].into_iter().chain(reach.units.iter().copied());
    let pages = pages.map(|page| range(page, GRANULE_SIZE));
    let whole = [Ok(reach.region), range(reach.ecam, ECAM_BYTES)];
    for range in pages
        .chain(whole)
        .chain(reach.reserved.iter().copied().map(Ok))
    {
        kept.push(range?).map_err(|_| Failure::Layout)?;
    }
    Ok(kept)
}

/// Takes the first IOMMU.
pub fn iommu(setup: &mut Setup, reach: &Reach<'_>) -> Result<Option<VtD>, Failure> {
    let Some(&physical) = reach.units.first() else {
        return Ok(None);
    };
    let (dram, holes) = setup::cover(reach.banks).ok_or(Failure::Layout)?;
    let entries = host_map::table_count(dram).and_then(|count| count.checked_mul(TABLE_ENTRIES));
    let entries = entries.ok_or(Failure::NoMemory)?;
    // SAFETY: zero is a value of an integer.
    let (words, tables) = unsafe {
        (
            setup.zeroed::<AtomicU64>(vtd::WORDS, GRANULE_SIZE)?,
            setup.zeroed::<AtomicU64>(entries, GRANULE_SIZE)?,
        )
    };
    let map = Granule::new(tables.as_ptr() as u64).and_then(|at| HostMap::new(dram, at));
    let map = map.ok_or(Failure::NoMemory)?;
    let base = setup.map(DEVICE_WINDOW, physical, GRANULE_SIZE, Use::Device)?;
    // SAFETY: the registers were just mapped, and no host has run that could use them; all of the
    // region is mapped at its physical address.
    let unit = unsafe { VtD::start(base, words, tables, map, &holes) };
    unit.map(Some).map_err(|_| Failure::Layout)
}
