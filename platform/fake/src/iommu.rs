// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The IOMMU, and translations as hardware keeps them.

use std::collections::{BTreeMap, BTreeSet};

use tsm_iommu::stage2::LEAF_LEVEL;
use tsm_iommu::{Entry, FaultLog, Stage2Format};
use tsm_platform::{
    Granule, GranuleRange, Iommu, IommuFault, Ipa, Pa, PlatformError, Stage2, StreamId, Vmid,
};

use crate::{Fake, FaultPoint, Format, Guard, lock};

/// Streams of the machine: the requester ids of its functions.
const STREAMS: u32 = 0x1_0000;

/// What the IOMMU does with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Translates through the host's identity tables.
    Host,
    /// Lets nothing through.
    Blocked,
    /// Translates through a guest's stage 2.
    Guest(Stage2),
}

/// An invalidation that the IOMMU completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// Tag.
    pub vmid: Vmid,
    /// First address and size in bytes, or everything.
    pub range: Option<(Ipa, u64)>,
}

#[derive(Default)]
pub(crate) struct State {
    streams: BTreeMap<StreamId, Stream>,
    unmapped: BTreeSet<Granule>,
    translations: Translations,
    log: Vec<Invalidation>,
    faults: FaultLog,
}

/// What a walk found: the granule, and whether it is shared with the host.
type Found = (Granule, bool);

/// Translations that hardware has used and not forgotten, with the tables that it used.
#[derive(Default)]
pub(crate) struct Translations(BTreeMap<(Vmid, Granule), (Found, Stage2)>);

impl Translations {
    pub(crate) fn forget(&mut self, vmid: Vmid, base: Ipa, bytes: u64) {
        let inside = |page: &Granule| {
            base.0 <= page.address() && page.address() < base.0.saturating_add(bytes)
        };
        self.0
            .retain(|(tag, page), _| *tag != vmid || !inside(page));
    }

    pub(crate) fn forget_all(&mut self, vmid: Vmid) {
        self.0.retain(|(tag, _), _| *tag != vmid);
    }

    /// Translates `ipa`; `walk` is asked if nothing is cached. Returns the address and whether it is
    /// in the host's memory.
    pub(crate) fn translate(
        &mut self,
        stage2: &Stage2,
        ipa: u64,
        walk: impl FnOnce() -> Option<Found>,
    ) -> Option<(u64, bool)> {
        let page = Granule::containing(ipa);
        let (granule, shared) = match self.0.get(&(stage2.vmid, page)) {
            Some((hit, _)) => *hit,
            None => {
                let found = walk()?;
                self.0.insert((stage2.vmid, page), (found, *stage2));
                found
            }
        };
        Some((granule.address() + (ipa - page.address()), shared))
    }
}

impl Fake {
    /// Walks a guest's tables as hardware does. Returns the granule and whether it is shared.
    pub(crate) fn walk(&self, stage2: &Stage2, ipa: u64) -> Option<(Granule, bool)> {
        let page = Ipa(Granule::containing(ipa).address());
        let (root, mut index) = Format::root_index(page, stage2.ipa_bits, stage2.start_level)?;
        let mut table = stage2.root.0 + root as u64 * 4096;
        for level in stage2.start_level..=LEAF_LEVEL {
            let entry = Format::decode(level, self.walker_read(table, index)?)?;
            if !entry.is_walkable() {
                return None;
            }
            let (pa, shared) = match entry {
                Entry::Table { pa } => {
                    table = pa.0;
                    index = Format::index(page, level + 1)?;
                    continue;
                }
                Entry::Assigned { pa, .. } | Entry::Device { pa, .. } => (pa, false),
                Entry::Shared { pa, .. } => (pa, true),
                Entry::Unassigned { .. } => return None,
            };
            let offset = page.0 % Format::entry_bytes(level)?;
            return Some((Granule::new(pa.0 + offset)?, shared));
        }
        None
    }

    /// Returns the physical address that DMA of `stream` to `address` reaches, or `None` if the
    /// IOMMU stops it. Cached translations count.
    #[must_use]
    pub fn dma(&self, stream: StreamId, address: u64) -> Option<u64> {
        let mapped = |iommu: &State| {
            let hidden = iommu.unmapped.contains(&Granule::containing(address));
            !hidden || !self.has(Guard::HostTranslation)
        };
        let mut iommu = lock(&self.iommu);
        let state = iommu.streams.get(&stream).copied().unwrap_or(Stream::Host);
        let reached = match state {
            Stream::Blocked => return None,
            Stream::Host => mapped(&iommu).then_some(address),
            Stream::Guest(stage2) => iommu
                .translations
                .translate(&stage2, address, || self.walk(&stage2, address))
                .map(|(address, _)| address),
        };
        if reached.is_none() {
            iommu.faults.add(stream, false, address);
        }
        reached
    }

    /// Returns what the IOMMU does with `stream`.
    #[must_use]
    pub fn stream(&self, stream: StreamId) -> Stream {
        lock(&self.iommu)
            .streams
            .get(&stream)
            .copied()
            .unwrap_or(Stream::Host)
    }

    /// Returns the invalidations that completed, in order.
    #[must_use]
    pub fn invalidations(&self) -> Vec<Invalidation> {
        lock(&self.iommu).log.clone()
    }

    pub(crate) fn forget_invalidations(&self) {
        lock(&self.iommu).log.clear();
    }

    /// Returns the granules that host streams cannot reach.
    #[must_use]
    pub fn hidden_from_dma(&self) -> BTreeSet<u64> {
        let iommu = lock(&self.iommu);
        let hidden = iommu.unmapped.iter();
        hidden.map(|granule| granule.address()).collect()
    }

    /// Returns the guest addresses of translations that CPUs or the IOMMU have not forgotten and
    /// that the tables do not give any more.
    #[must_use]
    pub fn stale_translations(&self) -> Vec<u64> {
        let cpu = lock(&self.cpu_translations);
        let iommu = lock(&self.iommu);
        let kept = cpu.0.iter().chain(&iommu.translations.0);
        let stale = kept.filter(|((_, page), (found, stage2))| {
            self.walk(stage2, page.address()) != Some(*found)
        });
        stale.map(|((_, page), _)| page.address()).collect()
    }

    /// Returns how many granules host streams cannot reach.
    #[must_use]
    pub fn granules_hidden_from_dma(&self) -> usize {
        lock(&self.iommu).unmapped.len()
    }

    /// Returns the streams that were ever changed.
    #[must_use]
    pub fn changed_streams(&self) -> BTreeMap<u32, Stream> {
        lock(&self.iommu)
            .streams
            .iter()
            .map(|(stream, state)| (stream.0, *state))
            .collect()
    }

    fn set_stream(&self, stream: StreamId, state: Stream) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Iommu)
            .map_err(|()| PlatformError::Timeout)?;
        if !self.covers(stream) {
            return Err(PlatformError::Refused);
        }
        if state == Stream::Blocked && !self.has(Guard::StreamBlock) {
            return Ok(());
        }
        let mut iommu = lock(&self.iommu);
        match state {
            Stream::Host => iommu.faults.set_of_guest(stream, false),
            Stream::Guest(_) => iommu.faults.set_of_guest(stream, true),
            Stream::Blocked => {}
        }
        iommu.streams.insert(stream, state);
        Ok(())
    }
}

/// The base of the IOMMU's registers.
const UNIT: Pa = Pa(0x0905_0000);

impl Fake {
    /// Shows the IOMMU to the host: it has to be activated before interfaces are created.
    pub fn show_unit(&self) {
        // A second time changes nothing.
        let _ = self.units.set([UNIT]);
    }
}

impl Iommu for Fake {
    fn units(&self) -> &[Pa] {
        self.units.get().map_or(&[], |units| units)
    }

    fn covers(&self, stream: StreamId) -> bool {
        stream.0 < STREAMS
    }

    fn next_fault(&self) -> Option<IommuFault> {
        lock(&self.iommu).faults.take()
    }

    fn host_map(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Iommu)
            .map_err(|()| PlatformError::Timeout)?;
        let mut iommu = lock(&self.iommu);
        for granule in range.granules() {
            iommu.unmapped.remove(&granule);
        }
        Ok(())
    }

    fn host_unmap(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Iommu)
            .map_err(|()| PlatformError::Timeout)?;
        lock(&self.iommu).unmapped.extend(range.granules());
        Ok(())
    }

    fn block(&self, stream: StreamId) -> Result<(), PlatformError> {
        self.set_stream(stream, Stream::Blocked)
    }

    fn attach(&self, stream: StreamId, stage2: &Stage2) -> Result<(), PlatformError> {
        self.set_stream(stream, Stream::Guest(*stage2))
    }

    fn release(&self, stream: StreamId) -> Result<(), PlatformError> {
        self.set_stream(stream, Stream::Host)
    }

    fn invalidate(&self, vmid: Vmid, base: Ipa, bytes: u64) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Iommu)
            .map_err(|()| PlatformError::Timeout)?;
        let mut iommu = lock(&self.iommu);
        if self.has(Guard::IommuInvalidation) {
            iommu.translations.forget(vmid, base, bytes);
        }
        iommu.log.push(Invalidation {
            vmid,
            range: Some((base, bytes)),
        });
        Ok(())
    }

    fn invalidate_all(&self, vmid: Vmid) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Iommu)
            .map_err(|()| PlatformError::Timeout)?;
        let mut iommu = lock(&self.iommu);
        if self.has(Guard::IommuInvalidation) {
            iommu.translations.forget_all(vmid);
        }
        iommu.log.push(Invalidation { vmid, range: None });
        Ok(())
    }
}
