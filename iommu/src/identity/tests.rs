// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The map against a walker that reads tables as a processor does, and against a list of pages.

use std::sync::atomic::{AtomicU64, Ordering};

use tsm_platform::{Granule, GranuleRange};

use super::{Access, Areas, GIB, IdentityMap, MIB_2, OutsideAreas, table_count};

const TABLES: u64 = 0x1200_0000;
const PAGE: u64 = 4096;

fn range(base: u64, top: u64) -> GranuleRange {
    GranuleRange::new(base, top).unwrap()
}

fn areas(ranges: &[GranuleRange]) -> Areas<8> {
    let mut areas = Areas::new();
    for range in ranges {
        areas.add(*range).unwrap();
    }
    areas
}

fn words(areas: &[GranuleRange]) -> Vec<AtomicU64> {
    let count = table_count(areas).unwrap() * 512;
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Walks as a processor does (AMD APM volume 2, 5.3): returns level, address and rights.
fn walk(words: &[AtomicU64], address: u64) -> Option<(u8, u64, Access)> {
    let mut table = TABLES;
    let mut writable = true;
    for (level, shift) in [(0, 39), (1, 30), (2, 21), (3, 12)] {
        let first = ((table - TABLES) / 8) as usize;
        let entry = words[first + (address >> shift & 511) as usize].load(Ordering::Relaxed);
        // A walk is an access of a user, and must find present, user and accessed set.
        if entry & 1 == 0 {
            return None;
        }
        assert_eq!(entry & 0x24, 0x24, "{entry:#x}");
        writable &= entry & 2 != 0;
        let next = entry & 0x000f_ffff_ffff_f000;
        if level == 3 || entry & 0x80 != 0 {
            let offset = address & ((1_u64 << shift) - 1);
            let access = if writable {
                Access::Full
            } else {
                Access::ReadOnly
            };
            assert_eq!(next & ((1_u64 << shift) - 1), 0, "{entry:#x}");
            return Some((level, next + offset, access));
        }
        table = next;
    }
    None
}

fn assert_identity(words: &[AtomicU64], address: u64, access: Access) {
    let found = walk(words, address);
    if access == Access::None {
        assert_eq!(found, None, "{address:#x}");
    } else {
        let (_, to, rights) = found.unwrap_or_else(|| panic!("{address:#x}"));
        assert_eq!((to, rights), (address, access), "{address:#x}");
    }
}

fn level(words: &[AtomicU64], address: u64) -> u8 {
    walk(words, address).unwrap().0
}

#[test]
fn every_address_is_itself_and_above_is_nothing() {
    let areas = areas(&[]);
    let words = words(areas.as_slice());
    IdentityMap::new(&words, Granule::new(TABLES).unwrap(), areas.as_slice()).unwrap();
    for address in [0, 0xfff, 0xb000_0000, 0xc0_0000_0000, (1 << 40) - 1] {
        assert_identity(&words, address, Access::Full);
        assert_eq!(level(&words, address), 1);
    }
    assert_identity(&words, 1 << 40, Access::None);
}

#[test]
fn holes_and_read_only_ranges_end_where_they_end() {
    let hole = range(0x1000_0000, 0x1400_0000);
    let page = range(0xfed9_0000, 0xfed9_1000);
    let ecam = range(0xb000_0000, 0xc000_0000);
    let areas = areas(&[ecam, hole, page]);
    let words = words(areas.as_slice());
    let map = IdentityMap::new(&words, Granule::new(TABLES).unwrap(), areas.as_slice()).unwrap();
    map.set(hole, Access::None).unwrap();
    map.set(page, Access::None).unwrap();
    map.set(ecam, Access::ReadOnly).unwrap();
    for (range, access) in [
        (hole, Access::None),
        (page, Access::None),
        (ecam, Access::ReadOnly),
    ] {
        for address in [range.base(), range.top() - 1] {
            assert_identity(&words, address, access);
        }
        for address in [range.base() - 1, range.top()] {
            assert_identity(&words, address, Access::Full);
        }
    }
    assert_eq!(level(&words, 0xb000_0000), 2, "aligned ranges stay blocks");
}

#[test]
fn an_aligned_block_is_one_store() {
    let dram = range(0, 2 * GIB);
    let areas = areas(&[dram]);
    let words = words(areas.as_slice());
    let map = IdentityMap::new(&words, Granule::new(TABLES).unwrap(), areas.as_slice()).unwrap();
    let content = || -> Vec<u64> {
        words
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect()
    };
    let changes = |range, access| {
        let before = content();
        let stale = map.set(range, access).unwrap();
        let after = content();
        (
            before.iter().zip(&after).filter(|(a, b)| a != b).count(),
            stale,
        )
    };
    assert_eq!(changes(range(GIB, 2 * GIB), Access::None), (1, true));
    assert_eq!(changes(range(GIB, 2 * GIB), Access::Full), (1, false));
    map.set(range(0, PAGE), Access::None).unwrap();
    let block = range(4 * MIB_2, 5 * MIB_2);
    assert_eq!(changes(block, Access::None), (1, true));
    assert_eq!(changes(block, Access::Full), (1, false));
}

#[test]
fn a_split_is_merged_when_the_last_page_comes_back() {
    let dram = range(0, GIB);
    let areas = areas(&[dram]);
    let words = words(areas.as_slice());
    let map = IdentityMap::new(&words, Granule::new(TABLES).unwrap(), areas.as_slice()).unwrap();
    let (first, second) = (range(0x40_3000, 0x40_4000), range(0x40_8000, 0x40_9000));
    assert_eq!(map.set(first, Access::None), Ok(true));
    assert_eq!(map.set(second, Access::None), Ok(true));
    assert_eq!(level(&words, 0x40_0000), 3);
    assert_eq!(level(&words, 0x60_0000), 2);
    assert_eq!(map.set(first, Access::Full), Ok(false));
    assert_eq!(level(&words, 0x40_0000), 3);
    // The tables that go away may be remembered.
    assert_eq!(map.set(second, Access::Full), Ok(true));
    assert_eq!(level(&words, 0x40_0000), 1);
    // Page by page until nothing is left.
    for page in range(0x40_0000, 0x60_0000).granules() {
        let page = GranuleRange::single(page).unwrap();
        assert_eq!(map.set(page, Access::None), Ok(true));
    }
    let before: Vec<u64> = words
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect();
    let level_2 = TABLES + 3 * PAGE;
    assert_eq!(
        before[((level_2 - TABLES) / 8) as usize + 2],
        0,
        "no table is left"
    );
}

#[test]
fn what_is_in_no_area_cannot_be_changed() {
    let area = range(0x40_0000, 0x80_0000);
    let areas = areas(&[area]);
    let words = words(areas.as_slice());
    let map = IdentityMap::new(&words, Granule::new(TABLES).unwrap(), areas.as_slice()).unwrap();
    let before: Vec<u64> = words
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect();
    for (base, top) in [
        (0x3f_f000, 0x40_0000),
        (0x7f_f000, 0x80_1000),
        (0, GIB),
        (1 << 40, (1 << 40) + PAGE),
    ] {
        assert_eq!(map.set(range(base, top), Access::None), Err(OutsideAreas));
    }
    let after: Vec<u64> = words
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect();
    assert_eq!(before, after);
    let few = IdentityMap::new(&words[1..], Granule::new(TABLES).unwrap(), areas.as_slice());
    assert!(few.is_err());
}

#[test]
fn areas_are_joined_and_have_one_table_for_each_gibibyte() {
    let list = areas(&[
        range(0x7f_f000, 0x80_1000),
        range(0x10_0000_0000, 0x10_0000_1000),
        range(0x60_0000, 0x60_1000),
        range(0x3000_0000, 0x3000_1000),
    ]);
    let expected = [
        range(0x60_0000, 0xa0_0000),
        range(0x3000_0000, 0x3020_0000),
        range(0x10_0000_0000, 0x10_0020_0000),
    ];
    assert_eq!(list.as_slice(), expected);
    assert_eq!(table_count(list.as_slice()), Some(1 + 2 + 2 + 2 + 1 + 1));
    let mut full = Areas::<1>::new();
    full.add(range(0, PAGE)).unwrap();
    assert_eq!(full.add(range(GIB, GIB + PAGE)), Err(OutsideAreas));
    assert_eq!(
        full.add(range(1 << 40, (1 << 40) + PAGE)),
        Err(OutsideAreas)
    );
}

/// A generator of numbers that look random (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn any_order_of_changes_gives_what_a_list_of_pages_gives() {
    // Two areas in one GiB, one across a boundary of GiBs.
    let spans = [
        range(0x20_0000, 0xe0_0000),
        range(GIB - 2 * MIB_2, GIB + 2 * MIB_2),
    ];
    let areas = areas(&spans);
    let words = words(areas.as_slice());
    let map = IdentityMap::new(&words, Granule::new(TABLES).unwrap(), areas.as_slice()).unwrap();
    let mut oracle = std::collections::BTreeMap::new();
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    for round in 0..600 {
        let span = spans[numbers.below(2) as usize];
        let pages = span.bytes() / PAGE;
        let (mut from, mut count) = (numbers.below(pages), 1 + numbers.below(8));
        if numbers.below(3) == 0 {
            from &= !511;
            count = 512 * (1 + numbers.below(3));
        }
        let base = span.base() + from * PAGE;
        let changed = range(base, (base + count * PAGE).min(span.top()));
        let access = [Access::Full, Access::ReadOnly, Access::None][numbers.below(3) as usize];
        let rights = |address| walk(&words, address).map(|(_, _, access)| access);
        let before: Vec<_> = changed
            .granules()
            .map(|page| rights(page.address()))
            .collect();
        let stale = map.set(changed, access).unwrap();
        for (page, before) in changed.granules().zip(before) {
            oracle.insert(page.address(), access);
            // Whoever loses a right must be made to forget.
            let lost = before.is_some() && access == Access::None
                || before == Some(Access::Full) && access == Access::ReadOnly;
            assert!(stale || !lost);
        }
        if round % 20 == 0 {
            for span in spans {
                for page in span.granules().map(Granule::address) {
                    let access = oracle.get(&page).copied().unwrap_or(Access::Full);
                    assert_identity(&words, page, access);
                }
            }
        }
    }
    for span in spans {
        map.set(span, Access::Full).unwrap();
    }
    for address in [0x20_0000, GIB - PAGE, GIB] {
        assert_eq!(level(&words, address), 1, "merged to the largest blocks");
    }
}
