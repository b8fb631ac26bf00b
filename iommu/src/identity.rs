// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Nested page tables through which a host that runs as a guest sees the machine: every address is
//! itself, except where the TSM keeps something.
//!
//! What never changes is mapped in blocks of 1 GiB. Where pages change hands, in the *areas*, each
//! 2 MiB has a place for a table of its own from the start, so that splitting a block never needs
//! memory that is not there. A table whose pages are all alike is replaced by a block again.

use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, Ipa, Pa};

use crate::stage2::{
    Entry, LEAF_LEVEL, Ripas, SharedAttributes, SharedMemory, Stage2Format, TABLE_ENTRIES,
};
use crate::x86::X86Stage2;

/// Width of the addresses that are mapped, in bits. Boards place 64-bit BARs near the top.
pub const ADDRESS_BITS: u32 = 40;

const GIB: u64 = 1 << 30;
const MIB_2: u64 = 1 << 21;
/// Tables of level 1, each of which covers 512 GiB.
const LEVEL_1: usize = 2;
const _: () = assert!((LEVEL_1 as u64) << 39 == 1 << ADDRESS_BITS);
const PRESENT: u64 = 1;

/// What the host may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Full,
    /// Loads only; not for code.
    ReadOnly,
    /// Nothing: each access is a nested page fault.
    None,
}

/// Reports a range that is not inside one area, or areas that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideAreas;

/// Runs of addresses whose pages can be told apart, aligned to 2 MiB, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Areas<const N: usize>(Vec<GranuleRange, N>);

impl<const N: usize> Areas<N> {
    /// Starts without any.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds `range`, together with what is left of its first and last 2 MiB.
    ///
    /// # Errors
    ///
    /// [`OutsideAreas`] above [`ADDRESS_BITS`], and if there is no room for one more.
    pub fn add(&mut self, range: GranuleRange) -> Result<(), OutsideAreas> {
        let mut base = range.base() & !(MIB_2.wrapping_sub(1));
        let top = range.top().checked_next_multiple_of(MIB_2);
        let mut top = top
            .filter(|top| *top <= 1 << ADDRESS_BITS)
            .ok_or(OutsideAreas)?;
        // Areas that touch become one.
        self.0.retain(|area| {
            let apart = area.top() < base || top < area.base();
            if !apart {
                base = base.min(area.base());
                top = top.max(area.top());
            }
            apart
        });
        let area = GranuleRange::new(base, top).ok_or(OutsideAreas)?;
        let mut at = self.0.len();
        self.0.push(area).map_err(|_| OutsideAreas)?;
        // The others are in order already.
        while let Some(before) = at.checked_sub(1)
            && let Some([low, high]) = self.0.get_mut(before..=at)
            && high.base() < low.base()
        {
            core::mem::swap(low, high);
            at = before;
        }
        Ok(())
    }

    /// Returns the areas as they are kept.
    #[must_use]
    pub fn into_inner(self) -> Vec<GranuleRange, N> {
        self.0
    }

    /// Returns the areas.
    #[must_use]
    pub fn as_slice(&self) -> &[GranuleRange] {
        &self.0
    }
}

/// Yields each GiB that areas touch, once, by its number.
fn gibibytes(areas: &[GranuleRange]) -> impl Iterator<Item = u64> {
    let mut next = 0;
    areas.iter().flat_map(move |area| {
        let first = (area.base() >> 30).max(next);
        next = area.top().div_ceil(GIB);
        first..next
    })
}

fn gibibyte_count(areas: &[GranuleRange]) -> usize {
    gibibytes(areas).fold(0, |count: usize, _| count.saturating_add(1))
}

/// Returns how many tables, of one granule each, a map with these areas needs.
#[must_use]
pub fn table_count(areas: &[GranuleRange]) -> Option<usize> {
    let mut chunks = areas.iter().map(|area| area.bytes() >> 21);
    let chunks = chunks.try_fold(0_u64, |sum, chunks| sum.checked_add(chunks))?;
    usize::try_from(chunks)
        .ok()?
        .checked_add(gibibyte_count(areas))?
        .checked_add(LEVEL_1)?
        .checked_add(1)
}

/// The map. Tables follow each other in memory: the root, level 1, level 2 in address order, level
/// 3 in address order.
pub struct IdentityMap<'a> {
    words: &'a [AtomicU64],
    physical: Granule,
    areas: &'a [GranuleRange],
    level_2: usize,
}

/// A place for an entry.
#[derive(Clone, Copy)]
struct Slot {
    level: u8,
    table: usize,
    /// First address that the entry covers.
    base: u64,
}

impl<'a> IdentityMap<'a> {
    /// Maps every address to itself. `words` are the [`table_count`] tables, which the processor
    /// finds at `physical`, and `areas` come from [`Areas`].
    ///
    /// # Errors
    ///
    /// [`OutsideAreas`] if `words` are too few.
    pub fn new(
        words: &'a [AtomicU64],
        physical: Granule,
        areas: &'a [GranuleRange],
    ) -> Result<Self, OutsideAreas> {
        let needed = table_count(areas).and_then(|count| count.checked_mul(TABLE_ENTRIES));
        if needed.is_none_or(|needed| words.len() < needed) {
            return Err(OutsideAreas);
        }
        let level_2 = gibibyte_count(areas);
        let map = Self {
            words,
            physical,
            areas,
            level_2,
        };
        for (number, base) in (0..LEVEL_1).zip((0_u64..).step_by(512)) {
            let table = number.saturating_add(1);
            let (first, step) = leaf_row(1, base.wrapping_mul(GIB), Access::Full)?;
            map.fill(table, first, step);
            let link = map.link(0, table).ok_or(OutsideAreas)?;
            if let Some(word) = map.words.get(number) {
                word.store(link, Ordering::Relaxed);
            }
        }
        Ok(map)
    }

    /// Returns the physical address of the root table.
    #[must_use]
    pub const fn root(&self) -> Pa {
        Pa(self.physical.address())
    }

    /// Lets the host use the pages of `range` as `access` says. Returns whether a processor may
    /// still know an old translation or table, so that it must be made to forget.
    ///
    /// # Errors
    ///
    /// [`OutsideAreas`] if `range` is not inside one area; nothing has changed then.
    pub fn set(&self, range: GranuleRange, access: Access) -> Result<bool, OutsideAreas> {
        let inside = |area: &GranuleRange| area.base() <= range.base() && range.top() <= area.top();
        if !self.areas.iter().any(inside) {
            return Err(OutsideAreas);
        }
        let mut stale = false;
        let mut base = range.base();
        while base < range.top() {
            let slot = Slot {
                level: 1,
                table: usize::try_from(base >> 39)
                    .map_err(|_| OutsideAreas)?
                    .saturating_add(1),
                base: base & !(GIB.wrapping_sub(1)),
            };
            let end = slot.base.saturating_add(GIB).min(range.top());
            stale |= self.set_in(slot, (base, end), access)?;
            base = end;
        }
        Ok(stale)
    }

    /// Sets `[base, top)`, all inside what the 1 GiB entry at `slot` covers.
    fn set_in(
        &self,
        slot: Slot,
        (mut base, top): (u64, u64),
        access: Access,
    ) -> Result<bool, OutsideAreas> {
        if top.saturating_sub(base) == GIB {
            return self.write(slot, leaf(1, slot.base, access)?);
        }
        let table = self.open(slot)?;
        let mut stale = false;
        while base < top {
            let inner = Slot {
                level: 2,
                table,
                base: base & !(MIB_2.wrapping_sub(1)),
            };
            let end = inner.base.saturating_add(MIB_2).min(top);
            stale |= self.set_pages(inner, (base, end), access)?;
            base = end;
        }
        Ok(stale | self.close(slot, table)?)
    }

    /// Sets `[base, top)`, all inside what the 2 MiB entry at `slot` covers.
    fn set_pages(
        &self,
        slot: Slot,
        (base, top): (u64, u64),
        access: Access,
    ) -> Result<bool, OutsideAreas> {
        if top.saturating_sub(base) == MIB_2 {
            return self.write(slot, leaf(2, slot.base, access)?);
        }
        let table = self.open(slot)?;
        let mut stale = false;
        let count = top.saturating_sub(base) >> 12;
        for page in 0..count {
            let base = base.saturating_add(page << 12);
            let slot = Slot {
                level: LEAF_LEVEL,
                table,
                base,
            };
            stale |= self.write(slot, leaf(LEAF_LEVEL, base, access)?)?;
        }
        Ok(stale | self.close(slot, table)?)
    }

    /// Makes the entry at `slot` lead to its table, which stands for what the entry stood for.
    /// Returns the table.
    fn open(&self, slot: Slot) -> Result<usize, OutsideAreas> {
        let table = self.child(slot).ok_or(OutsideAreas)?;
        let link = self.link(slot.level, table).ok_or(OutsideAreas)?;
        let old = self.read(slot)?;
        if old == link {
            return Ok(table);
        }
        let access = access_of(slot, old).ok_or(OutsideAreas)?;
        let (first, step) = leaf_row(slot.level.saturating_add(1), slot.base, access)?;
        self.fill(table, first, step);
        self.write(slot, link)?;
        Ok(table)
    }

    /// Replaces `table`, to which the entry at `slot` leads, by a block if all its entries are
    /// alike.
    fn close(&self, slot: Slot, table: usize) -> Result<bool, OutsideAreas> {
        let words = self.table(table).ok_or(OutsideAreas)?;
        let [first, .., last] = words else {
            return Err(OutsideAreas);
        };
        let level = slot.level.saturating_add(1);
        let inner = Slot {
            level,
            table,
            base: slot.base,
        };
        let first = first.load(Ordering::Relaxed);
        let Some(access) = access_of(inner, first) else {
            return Ok(false);
        };
        let (first, step) = leaf_row(level, slot.base, access)?;
        let end = first.wrapping_add(step.wrapping_mul(TABLE_ENTRIES as u64).wrapping_sub(step));
        // Most tables differ in the first and the last word.
        if last.load(Ordering::Relaxed) != end {
            return Ok(false);
        }
        let mut expected = first;
        for word in words {
            if word.load(Ordering::Relaxed) != expected {
                return Ok(false);
            }
            expected = expected.wrapping_add(step);
        }
        self.write(slot, leaf(slot.level, slot.base, access)?)
    }

    /// Returns the table that is kept for the entry at `slot`.
    fn child(&self, slot: Slot) -> Option<usize> {
        let first = LEVEL_1.checked_add(1)?;
        if slot.level == 1 {
            let number = slot.base >> 30;
            let mut places = (0..usize::MAX).zip(gibibytes(self.areas));
            let (place, _) = places.find(|(_, gibibyte)| *gibibyte == number)?;
            return first.checked_add(place);
        }
        let mut before = 0_u64;
        for area in self.areas {
            if area.contains(slot.base) {
                let chunk = slot.base.checked_sub(area.base())? >> 21;
                let place = usize::try_from(before.checked_add(chunk)?).ok()?;
                return first.checked_add(self.level_2)?.checked_add(place);
            }
            before = before.checked_add(area.bytes() >> 21)?;
        }
        None
    }

    fn link(&self, level: u8, table: usize) -> Option<u64> {
        let offset = u64::try_from(table).ok()?.checked_mul(GRANULE_SIZE)?;
        let pa = Pa(self.physical.address().checked_add(offset)?);
        X86Stage2::encode(level, &Entry::Table { pa })
    }

    fn table(&self, table: usize) -> Option<&[AtomicU64]> {
        let first = table.checked_mul(TABLE_ENTRIES)?;
        self.words.get(first..first.checked_add(TABLE_ENTRIES)?)
    }

    fn fill(&self, table: usize, first: u64, step: u64) {
        let mut value = first;
        // Not by `flatten`, which costs more than the stores.
        for word in self.table(table).unwrap_or(&[]) {
            word.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
    }

    fn word(&self, slot: Slot) -> Result<&AtomicU64, OutsideAreas> {
        let index = X86Stage2::index(Ipa(slot.base), slot.level).ok_or(OutsideAreas)?;
        let table = self.table(slot.table).ok_or(OutsideAreas)?;
        table.get(index).ok_or(OutsideAreas)
    }

    fn read(&self, slot: Slot) -> Result<u64, OutsideAreas> {
        Ok(self.word(slot)?.load(Ordering::Relaxed))
    }

    /// Writes an entry and returns whether the old one may be remembered: what was not present is
    /// not (AMD APM volume 2, 5.5).
    fn write(&self, slot: Slot, value: u64) -> Result<bool, OutsideAreas> {
        // A walker that is led to a table must see what was written into it before.
        let old = self.word(slot)?.swap(value, Ordering::Release);
        Ok(old & PRESENT != 0 && old != value)
    }
}

/// Returns the word of a leaf of `level` for `base`.
fn leaf(level: u8, base: u64, access: Access) -> Result<u64, OutsideAreas> {
    let pa = Pa(base);
    let entry = match access {
        Access::Full => Entry::Assigned {
            pa,
            ripas: Ripas::Ram,
        },
        Access::ReadOnly => Entry::Shared {
            pa,
            attributes: SharedAttributes {
                memory: SharedMemory::WriteBack,
                read: true,
                write: false,
            },
        },
        Access::None => return Ok(0),
    };
    X86Stage2::encode(level, &entry).ok_or(OutsideAreas)
}

/// Returns the first word of a table of `level` whose leaves are all alike, and what each has more
/// than the one before.
fn leaf_row(level: u8, base: u64, access: Access) -> Result<(u64, u64), OutsideAreas> {
    let bytes = X86Stage2::entry_bytes(level).ok_or(OutsideAreas)?;
    let step = if access == Access::None { 0 } else { bytes };
    Ok((leaf(level, base, access)?, step))
}

/// Returns what the leaf `raw` at `slot` allows; `None` if it is no leaf of this map.
fn access_of(slot: Slot, raw: u64) -> Option<Access> {
    [Access::Full, Access::ReadOnly, Access::None]
        .into_iter()
        .find(|access| leaf(slot.level, slot.base, *access) == Ok(raw))
}

#[cfg(test)]
mod tests;
