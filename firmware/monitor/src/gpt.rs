// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Granule protection tables: a 40-bit space, 4 KiB granules, 1 GiB a level 0 entry.
//!
//! A GiB that belongs to one world is a block in level 0; any other has a level 1 table, in which a
//! 64-bit entry holds the owners of 16 granules. The processor walks the tables while they change,
//! so every entry is written by one store.

use core::sync::atomic::{AtomicU64, Ordering};

/// Size of the unit of ownership, in bytes.
pub const GRANULE: u64 = 1 << GRANULE_SHIFT;
/// Width of the protected physical address space, in bits.
pub const ADDRESS_BITS: u32 = 40;
/// Value of `GPCCR_EL3`: 40 bits, 4 KiB granules, inner shareable write-back walks, checks on.
pub const GPCCR: u64 = 2 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 16;

const GRANULE_SHIFT: u32 = 12;
const LEVEL0_SHIFT: u32 = 30;
const LEVEL0_ENTRIES: usize = 1 << (ADDRESS_BITS - LEVEL0_SHIFT);
const LEVEL1_ENTRIES: usize = 1 << (LEVEL0_SHIFT - ENTRY_SHIFT);
/// One level 1 entry covers 64 KiB.
const ENTRY_SHIFT: u32 = GRANULE_SHIFT + 4;
const NO_TABLE: u8 = 0xff;

/// World to which a granule belongs, as the tables encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gpi {
    /// Nobody may touch it.
    None = 0,
    /// Secure world.
    Secure = 8,
    /// Non-secure world: the host.
    NonSecure = 9,
    /// Root world: the monitor.
    Root = 0xa,
    /// Realm world.
    Realm = 0xb,
    /// Every world.
    Any = 0xf,
}

impl Gpi {
    /// Returns a level 1 entry whose 16 granules all belong to this world.
    const fn entry(self) -> u64 {
        0x1111_1111_1111_1111 * (self as u64)
    }

    const fn block(self) -> u64 {
        1 | (self as u64) << 4
    }

    const fn decode(bits: u64) -> Option<Self> {
        match bits & 0xf {
            0 => Some(Self::None),
            8 => Some(Self::Secure),
            9 => Some(Self::NonSecure),
            0xa => Some(Self::Root),
            0xb => Some(Self::Realm),
            0xf => Some(Self::Any),
            _ => None,
        }
    }
}

/// Why the tables were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GptError {
    /// Not aligned, empty, or outside the space that has level 1 tables.
    Address,
    /// A granule of the range does not belong to the expected world.
    Owner,
    /// No level 1 table is left.
    NoTable,
}

/// Level 0 table. The processor wants it aligned to its size.
#[repr(C, align(8192))]
pub struct Level0([AtomicU64; LEVEL0_ENTRIES]);

/// Level 1 table of one GiB. The processor wants it aligned to its size.
#[repr(C, align(131072))]
pub struct Level1([AtomicU64; LEVEL1_ENTRIES]);

impl Level0 {
    /// Makes a table in which every access fails.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; LEVEL0_ENTRIES])
    }
}

impl Level1 {
    /// Makes a table in which no granule belongs to anybody.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; LEVEL1_ENTRIES])
    }
}

/// The tables and the level 1 tables that are still free.
///
/// The addresses of the tables are their physical addresses: the monitor maps its memory one to one.
pub struct Gpt {
    level0: &'static Level0,
    pool: &'static [Level1],
    used: u8,
    /// Which table of the pool describes a GiB.
    tables: [u8; LEVEL0_ENTRIES],
}

impl Gpt {
    /// Starts with every granule of the space in `gpi`.
    #[must_use]
    pub fn new(level0: &'static Level0, pool: &'static [Level1], gpi: Gpi) -> Self {
        for entry in &level0.0 {
            entry.store(gpi.block(), Ordering::Relaxed);
        }
        Self {
            level0,
            pool,
            used: 0,
            tables: [NO_TABLE; LEVEL0_ENTRIES],
        }
    }

    /// Returns the value of `GPTBR_EL3`.
    #[must_use]
    pub fn base_register(&self) -> u64 {
        core::ptr::from_ref(self.level0) as u64 >> GRANULE_SHIFT
    }

    /// Gives the GiB at `address` a level 1 table, so that its granules can change one by one.
    pub fn split(&mut self, address: u64) -> Result<(), GptError> {
        let gib = gib_index(address)?;
        let (Some(slot), Some(entry)) = (self.tables.get_mut(gib), self.level0.0.get(gib)) else {
            return Err(GptError::Address);
        };
        if *slot != NO_TABLE {
            return Ok(());
        }
        let index = self.used;
        let table = self.pool.get(usize::from(index)).ok_or(GptError::NoTable)?;
        if index == NO_TABLE {
            return Err(GptError::NoTable);
        }
        let owner = Gpi::decode(entry.load(Ordering::Relaxed) >> 4).ok_or(GptError::Owner)?;
        for granules in &table.0 {
            granules.store(owner.entry(), Ordering::Relaxed);
        }
        // The table must be whole before a walk can find it.
        entry.store(core::ptr::from_ref(table) as u64 | 3, Ordering::Release);
        *slot = index;
        self.used = index + 1;
        Ok(())
    }

    /// Puts `bytes` bytes at `base` into `gpi`, whoever had them: for use before the first caller.
    pub fn assign(&mut self, base: u64, bytes: u64, gpi: Gpi) -> Result<(), GptError> {
        let top = base.checked_add(bytes).ok_or(GptError::Address)?;
        let mut at = base;
        while at < top {
            let next = ((at >> LEVEL0_SHIFT) + 1) << LEVEL0_SHIFT;
            let gib = gib_index(at)?;
            let whole = at.trailing_zeros() >= LEVEL0_SHIFT && next <= top;
            if whole && self.tables.get(gib) == Some(&NO_TABLE) {
                let entry = self.level0.0.get(gib).ok_or(GptError::Address)?;
                entry.store(gpi.block(), Ordering::Relaxed);
            } else {
                self.split(at)?;
                let end = if next < top { next } else { top };
                self.for_each(
                    at,
                    end.saturating_sub(at) >> GRANULE_SHIFT,
                    |entry, mask| {
                        write(entry, mask, gpi);
                        Ok(())
                    },
                )?;
            }
            at = next;
        }
        Ok(())
    }

    /// Moves `count` granules at `base` from one world to another: all of them or none.
    ///
    /// The caller invalidates what processors remember of the tables.
    pub fn change(&self, base: u64, count: u64, from: Gpi, to: Gpi) -> Result<(), GptError> {
        self.for_each(base, count, |entry, mask| {
            if entry.load(Ordering::Relaxed) & mask == from.entry() & mask {
                Ok(())
            } else {
                Err(GptError::Owner)
            }
        })?;
        self.for_each(base, count, |entry, mask| {
            write(entry, mask, to);
            Ok(())
        })
    }

    /// Returns whether any of `count` granules at `base` belongs to `gpi`. What has no level 1 table never
    /// changes hands and does not count.
    #[must_use]
    pub fn holds(&self, base: u64, count: u64, gpi: Gpi) -> bool {
        let found = self.for_each(base, count, |entry, mask| {
            let differs = entry.load(Ordering::Relaxed) ^ gpi.entry();
            let mut fields = (0..64).step_by(4);
            if fields.any(|low| mask >> low & 0xf != 0 && differs >> low & 0xf == 0) {
                Err(GptError::Owner)
            } else {
                Ok(())
            }
        });
        found == Err(GptError::Owner)
    }

    /// Returns the owner of the granule that holds `address`; none if the tables do not say.
    #[must_use]
    pub fn owner(&self, address: u64) -> Option<Gpi> {
        let gib = gib_index(address).ok()?;
        match self.pool.get(usize::from(*self.tables.get(gib)?)) {
            Some(table) => {
                let entry = table.0.get(entry_index(address))?.load(Ordering::Relaxed);
                let nibble = (address >> GRANULE_SHIFT) & 0xf;
                Gpi::decode(entry >> (4 * nibble))
            }
            None => Gpi::decode(self.level0.0.get(gib)?.load(Ordering::Relaxed) >> 4),
        }
    }

    /// Calls `work` with each level 1 entry of a range and the bits in it that the range covers.
    fn for_each(
        &self,
        base: u64,
        count: u64,
        mut work: impl FnMut(&AtomicU64, u64) -> Result<(), GptError>,
    ) -> Result<(), GptError> {
        if base & (GRANULE - 1) != 0 || count == 0 || count > 1 << (ADDRESS_BITS - GRANULE_SHIFT) {
            return Err(GptError::Address);
        }
        let mut granule = base >> GRANULE_SHIFT;
        let top = granule.checked_add(count).ok_or(GptError::Address)?;
        while granule < top {
            let address = granule << GRANULE_SHIFT;
            let slot = self
                .tables
                .get(gib_index(address)?)
                .ok_or(GptError::Address)?;
            let table = self.pool.get(usize::from(*slot)).ok_or(GptError::Address)?;
            // Within one table: one pass over its entries.
            let end = core::cmp::min(
                top,
                ((address >> LEVEL0_SHIFT) + 1) << (LEVEL0_SHIFT - GRANULE_SHIFT),
            );
            for entry in table.0.iter().skip(entry_index(address)) {
                let first = granule & 0xf;
                // The first granule of this entry; none of the subtractions can wrap.
                let start = granule & !0xf;
                let last = core::cmp::min(end.saturating_sub(start), 16);
                work(entry, nibbles(first, last))?;
                granule = start.saturating_add(last);
                if granule >= end {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn gib_index(address: u64) -> Result<usize, GptError> {
    let index = (address >> LEVEL0_SHIFT) as usize;
    if index < LEVEL0_ENTRIES {
        Ok(index)
    } else {
        Err(GptError::Address)
    }
}

const fn entry_index(address: u64) -> usize {
    (address >> ENTRY_SHIFT) as usize % LEVEL1_ENTRIES
}

/// Returns a mask of the 4-bit fields from `first` up to, not including, `last`.
const fn nibbles(first: u64, last: u64) -> u64 {
    let count = last.saturating_sub(first) as u32;
    u64::MAX
        .wrapping_shr(64_u32.wrapping_sub(4 * count))
        .wrapping_shl(4 * first as u32)
}

fn write(entry: &AtomicU64, mask: u64, gpi: Gpi) {
    let old = entry.load(Ordering::Relaxed);
    entry.store(old & !mask | gpi.entry() & mask, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Gpi, Gpt, GptError, Level0, Level1};
    use std::{boxed::Box, vec::Vec};

    fn tables(count: usize) -> Gpt {
        let level0 = Box::leak(Box::new(Level0::new()));
        let pool: Vec<Level1> = (0..count).map(|_| Level1::new()).collect();
        Gpt::new(level0, Vec::leak(pool), Gpi::NonSecure)
    }

    #[test]
    fn a_new_table_gives_all_of_the_space_to_one_world() {
        let gpt = tables(0);
        for address in [0, 0x4000_0000, (1 << 40) - 1] {
            assert_eq!(gpt.owner(address), Some(Gpi::NonSecure));
        }
        assert_eq!(gpt.owner(1 << 40), None);
    }

    #[test]
    fn a_whole_gib_is_a_block_and_takes_no_table() {
        let mut gpt = tables(0);
        gpt.assign(0x4000_0000, 0x8000_0000, Gpi::Realm).unwrap();
        assert_eq!(gpt.owner(0x3fff_ffff), Some(Gpi::NonSecure));
        assert_eq!(gpt.owner(0x4000_0000), Some(Gpi::Realm));
        assert_eq!(gpt.owner(0xbfff_f000), Some(Gpi::Realm));
        assert_eq!(gpt.owner(0xc000_0000), Some(Gpi::NonSecure));
    }

    #[test]
    fn a_part_of_a_gib_takes_one_table_and_leaves_the_rest() {
        let mut gpt = tables(1);
        gpt.assign(0x0902_0000, 0x1000, Gpi::Root).unwrap();
        gpt.assign(0x0a00_0000, 0x4000, Gpi::Root).unwrap();
        assert_eq!(gpt.owner(0x0901_f000), Some(Gpi::NonSecure));
        assert_eq!(gpt.owner(0x0902_0fff), Some(Gpi::Root));
        assert_eq!(gpt.owner(0x0902_1000), Some(Gpi::NonSecure));
        assert_eq!(gpt.owner(0x0a00_3000), Some(Gpi::Root));
        assert_eq!(
            gpt.assign(0x4000_1000, 0x1000, Gpi::Root),
            Err(GptError::NoTable)
        );
    }

    #[test]
    fn a_range_over_two_gib_changes_in_both() {
        let mut gpt = tables(2);
        gpt.assign(0x7fff_e000, 0x4000, Gpi::Realm).unwrap();
        for address in [0x7fff_e000, 0x7fff_f000, 0x8000_0000, 0x8000_1000] {
            assert_eq!(gpt.owner(address), Some(Gpi::Realm));
        }
        assert_eq!(gpt.owner(0x7fff_d000), Some(Gpi::NonSecure));
        assert_eq!(gpt.owner(0x8000_2000), Some(Gpi::NonSecure));
    }

    #[test]
    fn granules_change_hands_all_or_none() {
        let mut gpt = tables(1);
        gpt.split(0x4000_0000).unwrap();
        let base = 0x4000_3000;
        gpt.change(base, 100, Gpi::NonSecure, Gpi::Realm).unwrap();
        assert_eq!(gpt.owner(base - 1), Some(Gpi::NonSecure));
        assert_eq!(gpt.owner(base + 99 * 0x1000), Some(Gpi::Realm));
        assert_eq!(gpt.owner(base + 100 * 0x1000), Some(Gpi::NonSecure));
        // The range ends in a granule that is the realm's already.
        let result = gpt.change(0x4000_0000, 4, Gpi::NonSecure, Gpi::Realm);
        assert_eq!(result, Err(GptError::Owner));
        assert_eq!(gpt.owner(0x4000_0000), Some(Gpi::NonSecure));
        gpt.change(base, 100, Gpi::Realm, Gpi::NonSecure).unwrap();
        assert_eq!(gpt.owner(base), Some(Gpi::NonSecure));
    }

    #[test]
    fn a_change_of_a_block_or_of_a_bad_range_is_refused() {
        let mut gpt = tables(1);
        let change = |gpt: &Gpt, base, count| gpt.change(base, count, Gpi::NonSecure, Gpi::Realm);
        assert_eq!(change(&gpt, 0x4000_0000, 1), Err(GptError::Address));
        gpt.split(0x4000_0000).unwrap();
        assert_eq!(change(&gpt, 0x4000_0800, 1), Err(GptError::Address));
        assert_eq!(change(&gpt, 0x4000_0000, 0), Err(GptError::Address));
        assert_eq!(change(&gpt, 0x7fff_f000, 2), Err(GptError::Address));
        assert_eq!(gpt.owner(0x7fff_f000), Some(Gpi::NonSecure));
        assert_eq!(
            change(&gpt, 0xffff_ffff_ffff_f000, 1),
            Err(GptError::Address)
        );
        assert_eq!(change(&gpt, 0x4000_0000, u64::MAX), Err(GptError::Address));
        assert_eq!(change(&gpt, 0x4000_0000, 1), Ok(()));
    }

    #[test]
    fn a_table_takes_over_the_owner_of_its_block() {
        let mut gpt = tables(1);
        gpt.assign(0x4000_0000, 0x4000_0000, Gpi::Root).unwrap();
        gpt.split(0x4000_0000).unwrap();
        assert_eq!(gpt.owner(0x5000_0000), Some(Gpi::Root));
    }
}
