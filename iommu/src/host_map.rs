// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The identity map that host streams translate through: all DRAM that the host owns, nothing else.
//!
//! Every 2 MiB of DRAM has its leaf table from the start, so taking a granule is one store and one
//! invalidation and never needs memory. Device registers are not mapped: a host stream that could
//! reach them could write to a device that a guest owns, behind the guest's back.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};

use tsm_platform::{Granule, GranuleRange, Ipa, Pa, Stage2, Vmid};

use crate::stage2::{Entry, Ripas, Stage2Format, TABLE_ENTRIES};

/// The tag of host translations. No guest may have it.
pub const HOST_VMID: Vmid = Vmid(0);

/// Width of the addresses that the map covers, in bits; a walk starts at level 1 in one table.
pub const HOST_IPA_BITS: u8 = 39;

const TABLE_BYTES: u64 = 4096;
const LEVEL_1_BYTES: u64 = 1 << 30;
const LEVEL_2_BYTES: u64 = 1 << 21;

/// Stores into one of the map's tables, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableWrite {
    /// Which table, counted from the first one of the map.
    pub table: usize,
    /// The first entry of the table.
    pub entry: usize,
    /// How many entries.
    pub count: usize,
    /// The new value of the first one.
    pub value: u64,
    /// What each has more than the one before.
    pub step: u64,
}

impl TableWrite {
    /// Carries it out, each entry in one store. `words` are all tables of the map; `None` if the
    /// entries are in none of them.
    #[must_use]
    pub fn store(&self, words: &[AtomicU64]) -> Option<()> {
        let table = words.get(self.table.checked_mul(TABLE_ENTRIES)?..)?;
        let table = table.get(..TABLE_ENTRIES)?;
        let entries = table.get(self.entry..self.entry.checked_add(self.count)?)?;
        let mut value = self.value;
        for entry in entries {
            entry.store(value, Ordering::Relaxed);
            value = value.wrapping_add(self.step);
        }
        Some(())
    }
}

/// Where the tables of the identity map are, and what they cover.
///
/// The tables follow each other in memory: the root, the level 2 tables in address order, the level
/// 3 tables in address order. `F` is the format of their entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMap<F> {
    dram: GranuleRange,
    tables: Granule,
    level_2: usize,
    level_3: usize,
    format: PhantomData<F>,
}

/// Returns the number of `unit`-sized, `unit`-aligned pieces that `range` touches.
fn pieces(range: GranuleRange, unit: u64) -> Option<usize> {
    let first = range.base().checked_div(unit)?;
    let after = range.top().div_ceil(unit);
    usize::try_from(after.checked_sub(first)?).ok()
}

/// Returns how many tables, of one granule each, the identity map of `dram` needs.
#[must_use]
pub fn table_count(dram: GranuleRange) -> Option<usize> {
    pieces(dram, LEVEL_1_BYTES)?
        .checked_add(pieces(dram, LEVEL_2_BYTES)?)?
        .checked_add(1)
}

impl<F: Stage2Format + Copy> HostMap<F> {
    /// Describes an identity map of `dram` whose [`table_count`] tables start at `tables`.
    ///
    /// `None` when DRAM lies above the map or the tables would pass the end of the address space.
    #[must_use]
    pub fn new(dram: GranuleRange, tables: Granule) -> Option<Self> {
        if dram.top().checked_shr(u32::from(HOST_IPA_BITS))? != 0 {
            return None;
        }
        let bytes = u64::try_from(table_count(dram)?)
            .ok()?
            .checked_mul(TABLE_BYTES)?;
        tables.address().checked_add(bytes)?;
        Some(Self {
            dram,
            tables,
            level_2: pieces(dram, LEVEL_1_BYTES)?,
            level_3: pieces(dram, LEVEL_2_BYTES)?,
            format: PhantomData,
        })
    }

    /// Returns the memory that the map covers.
    #[must_use]
    pub const fn dram(&self) -> GranuleRange {
        self.dram
    }

    /// Returns the number of tables.
    #[must_use]
    pub const fn tables(&self) -> usize {
        self.level_2.saturating_add(self.level_3).saturating_add(1)
    }

    /// Returns the translation that host streams get.
    #[must_use]
    pub const fn stage2(&self) -> Stage2 {
        Stage2 {
            root: Pa(self.tables.address()),
            start_level: 1,
            ipa_bits: HOST_IPA_BITS,
            vmid: HOST_VMID,
        }
    }

    /// Returns what entry `entry` of table `table` holds when all of DRAM is mapped; zero for what
    /// is not in the map.
    #[must_use]
    pub fn initial(&self, table: usize, entry: usize) -> u64 {
        self.initial_entry(table, entry).unwrap_or(0)
    }

    /// Writes all tables, before the unit reads them: all of DRAM is mapped but `holes`. `None` if
    /// `words` are too few.
    #[must_use]
    pub fn fill(&self, words: &[AtomicU64], holes: &[GranuleRange]) -> Option<()> {
        let words = words.get(..self.tables().checked_mul(TABLE_ENTRIES)?)?;
        for (number, table) in (0..usize::MAX).zip(words.chunks(TABLE_ENTRIES)) {
            let [first, last] =
                [0, TABLE_ENTRIES.saturating_sub(1)].map(|entry| self.initial(number, entry));
            // Almost every table maps 512 pages in a row.
            let row = first != 0 && last.checked_sub(first) == Some(TABLE_BYTES.wrapping_mul(511));
            let mut next = first;
            for (entry, word) in table.iter().enumerate() {
                let value = if row {
                    next
                } else {
                    self.initial(number, entry)
                };
                word.store(value, Ordering::Relaxed);
                next = next.wrapping_add(TABLE_BYTES);
            }
        }
        for hole in holes {
            self.unmap(*hole).try_for_each(|write| write.store(words))?;
        }
        Some(())
    }

    fn initial_entry(&self, table: usize, entry: usize) -> Option<u64> {
        if entry >= TABLE_ENTRIES {
            return None;
        }
        let Some(below_root) = table.checked_sub(1) else {
            return self.link(1, 1, self.level_2, self.dram.base() / LEVEL_1_BYTES, entry);
        };
        let first_1 = self.dram.base().checked_div(LEVEL_1_BYTES)?;
        let first_2 = self.dram.base().checked_div(LEVEL_2_BYTES)?;
        let Some(leaf) = below_root.checked_sub(self.level_2) else {
            // Entry of level 2, counted from address 0.
            let number = first_1
                .checked_add(u64::try_from(below_root).ok()?)?
                .checked_mul(512)?
                .checked_add(u64::try_from(entry).ok()?)?;
            let number = usize::try_from(number).ok()?;
            return self.link(
                2,
                self.level_2.checked_add(1)?,
                self.level_3,
                first_2,
                number,
            );
        };
        if leaf >= self.level_3 {
            return None;
        }
        let page = first_2
            .checked_add(u64::try_from(leaf).ok()?)?
            .checked_mul(512)?
            .checked_add(u64::try_from(entry).ok()?)?;
        self.leaf(page.checked_mul(TABLE_BYTES)?)
    }

    /// Returns the entry of `level` number `number` from address 0, which links to one of `count`
    /// tables; the first of them is table `first_table` and belongs to entry `first_number`.
    fn link(
        &self,
        level: u8,
        first_table: usize,
        count: usize,
        first_number: u64,
        number: usize,
    ) -> Option<u64> {
        let place = number.checked_sub(usize::try_from(first_number).ok()?)?;
        if place >= count {
            return None;
        }
        let table = u64::try_from(first_table.checked_add(place)?).ok()?;
        let address = table
            .checked_mul(TABLE_BYTES)?
            .checked_add(self.tables.address())?;
        F::encode(level, &Entry::Table { pa: Pa(address) })
    }

    fn leaf(&self, address: u64) -> Option<u64> {
        let entry = Entry::Assigned {
            pa: Pa(address),
            ripas: Ripas::Ram,
        };
        self.dram.contains(address).then(|| F::encode(3, &entry))?
    }

    /// Yields the stores that make `range` reachable. What is not DRAM stays unreachable.
    pub fn map(&self, range: GranuleRange) -> impl Iterator<Item = TableWrite> + use<F> {
        self.writes(range, true)
    }

    /// Yields the stores that make `range` unreachable, once the host's translations of it have
    /// been forgotten.
    pub fn unmap(&self, range: GranuleRange) -> impl Iterator<Item = TableWrite> + use<F> {
        self.writes(range, false)
    }

    fn writes(
        &self,
        range: GranuleRange,
        present: bool,
    ) -> impl Iterator<Item = TableWrite> + use<F> {
        let map = *self;
        let base = range.base().max(map.dram.base());
        let top = range.top().min(map.dram.top());
        let chunks = base >> 21..top.div_ceil(LEVEL_2_BYTES);
        chunks.filter_map(move |chunk| {
            let first = chunk.checked_mul(LEVEL_2_BYTES)?;
            let end = first.checked_add(LEVEL_2_BYTES)?.min(top);
            let first = first.max(base);
            let leaf = chunk.checked_sub(map.dram.base() >> 21)?;
            Some(TableWrite {
                table: map
                    .level_2
                    .checked_add(1)?
                    .checked_add(usize::try_from(leaf).ok()?)?,
                entry: F::index(Ipa(first), 3)?,
                count: usize::try_from(end.checked_sub(first)? >> 12).ok()?,
                value: if present { map.leaf(first)? } else { 0 },
                step: if present { TABLE_BYTES } else { 0 },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tsm_platform::{Granule, GranuleRange, Ipa, Pa};

    use super::{HostMap, TableWrite, table_count};
    use crate::arm::ArmStage2;
    use crate::stage2::{Entry, Stage2Format};

    const TABLES: u64 = 0x7f80_0000;

    type Map = HostMap<ArmStage2>;

    struct Memory(Vec<[u64; 512]>);

    impl Memory {
        fn new(map: &Map) -> Self {
            let table = |index| core::array::from_fn(|entry| map.initial(index, entry));
            Self((0..map.tables()).map(table).collect())
        }

        fn write(&mut self, writes: impl Iterator<Item = TableWrite>) -> usize {
            let mut count = 0;
            for write in writes {
                let mut value = write.value;
                for entry in &mut self.0[write.table][write.entry..][..write.count] {
                    *entry = value;
                    value += write.step;
                }
                count += write.count;
            }
            count
        }

        /// Walks as hardware would.
        fn walk(&self, address: u64) -> Option<u64> {
            let mut table = 0;
            for level in 1..=3 {
                let raw = self.0[table][ArmStage2::index(Ipa(address), level).unwrap()];
                match ArmStage2::decode(level, raw).unwrap() {
                    Entry::Table { pa } => {
                        table = usize::try_from((pa.0 - TABLES) / 4096).unwrap();
                    }
                    Entry::Assigned { pa: Pa(pa), .. } => return Some(pa),
                    _ => return None,
                }
            }
            None
        }
    }

    fn map_of(base: u64, top: u64) -> Map {
        let tables = Granule::new(TABLES).unwrap();
        Map::new(GranuleRange::new(base, top).unwrap(), tables).unwrap()
    }

    #[test]
    fn all_dram_and_nothing_else_translates_to_itself() {
        let map = map_of(0x4000_0000, 0x8000_0000);
        assert_eq!(map.tables(), 1 + 1 + 512);
        assert_eq!(table_count(map.dram()), Some(map.tables()));
        let memory = Memory::new(&map);
        for address in (0x4000_0000_u64..0x8000_0000).step_by(4096) {
            assert_eq!(memory.walk(address), Some(address));
        }
        for address in [0, 0x3fff_f000, 0x8000_0000, 0x40_1000_0000] {
            assert_eq!(memory.walk(address), None, "{address:#x}");
        }
    }

    #[test]
    fn odd_edges_and_several_gibibytes_are_exact() {
        let map = map_of(0x7ff0_3000, 0x1_0020_1000);
        let memory = Memory::new(&map);
        assert_eq!(map.tables(), 1 + 4 + (0x802 - 0x3ff));
        for (address, reachable) in [
            (0x7ff0_2000, false),
            (0x7ff0_3000, true),
            (0x8000_0000, true),
            (0x1_0020_0000, true),
            (0x1_0020_1000, false),
        ] {
            assert_eq!(memory.walk(address), reachable.then_some(address));
        }
    }

    #[test]
    fn filling_writes_the_same_without_the_holes() {
        let map = map_of(0x7ff0_3000, 0x1_0020_1000);
        let words: Vec<AtomicU64> = (0..map.tables() * 512).map(|_| AtomicU64::new(1)).collect();
        let hole = GranuleRange::new(0x8000_1000, 0x8000_3000).unwrap();
        assert_eq!(map.fill(&words[1..], &[]), None);
        map.fill(&words, &[hole]).unwrap();
        let mut expected = Memory::new(&map);
        expected.write(map.unmap(hole));
        let filled = words.into_iter().map(AtomicU64::into_inner);
        assert!(filled.eq(expected.0.into_iter().flatten()));
        assert!(map.unmap(hole).all(|write| write.store(&[]).is_none()));
    }

    #[test]
    fn a_range_can_be_taken_and_given_back() {
        let map = map_of(0x4000_0000, 0x8000_0000);
        let mut memory = Memory::new(&map);
        let range = GranuleRange::new(0x401f_f000, 0x4020_2000).unwrap();
        assert_eq!(memory.write(map.unmap(range)), 3);
        for granule in range.granules() {
            assert_eq!(memory.walk(granule.address()), None);
        }
        assert!(memory.walk(0x401f_e000).is_some());
        assert!(memory.walk(0x4020_2000).is_some());
        assert_eq!(memory.write(map.map(range)), 3);
        assert_eq!(memory.0, Memory::new(&map).0);
        // One step for each table, or an aligned block would be 512.
        assert_eq!(map.unmap(range).count(), 2);
    }

    #[test]
    fn device_registers_never_become_reachable() {
        let map = map_of(0x4000_0000, 0x8000_0000);
        let bar = GranuleRange::new(0x1000_0000, 0x1000_4000).unwrap();
        assert_eq!(map.map(bar).count(), 0);
        assert_eq!(map.unmap(bar).count(), 0);
        let edge = GranuleRange::new(0x3fff_f000, 0x4000_1000).unwrap();
        assert_eq!(map.map(edge).count(), 1);
    }

    #[test]
    fn dram_beyond_the_map_is_refused() {
        let tables = Granule::new(TABLES).unwrap();
        let dram = GranuleRange::new(0x1000, 1 << 39).unwrap();
        assert_eq!(Map::new(dram, tables), None);
    }
}
