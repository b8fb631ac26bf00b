// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must hold of every [`Stage2Format`].

use tsm_platform::Pa;

use super::{Entry, LEAF_LEVEL, Ripas, SharedAttributes, SharedMemory, Stage2Format};

/// Returns every kind of entry for `pa`.
pub(crate) fn entries(pa: Pa) -> Vec<Entry> {
    let mut all = vec![Entry::Table { pa }];
    for ripas in Ripas::ALL {
        all.push(Entry::Unassigned { ripas });
        all.push(Entry::Assigned { pa, ripas });
        all.push(Entry::Device { pa, ripas });
    }
    for memory in SharedMemory::ALL {
        for (read, write) in [(false, false), (false, true), (true, false), (true, true)] {
            let attributes = SharedAttributes {
                memory,
                read,
                write,
            };
            all.push(Entry::Shared { pa, attributes });
        }
    }
    all
}

/// Every entry that the format can express comes back as it was, and no two look alike. `valid` is
/// the bit that walkable words have, and `fits` says what the format can express at all.
pub(crate) fn round_trip<F: Stage2Format>(valid: u64, fits: impl Fn(&Entry) -> bool) {
    for level in 0..=LEAF_LEVEL {
        let mut seen = std::collections::BTreeMap::new();
        let mut encoded = 0;
        for pa in [Pa(0), Pa(0x40_0000_0000), Pa(0xffff_c000_0000)] {
            for entry in entries(pa) {
                let at_level = match entry {
                    Entry::Table { .. } => level < LEAF_LEVEL,
                    Entry::Unassigned { .. } => true,
                    _ => level > 0,
                };
                let raw = F::encode(level, &entry);
                assert_eq!(raw.is_some(), at_level && fits(&entry), "{level} {entry:?}");
                let Some(raw) = raw else { continue };
                encoded += 1;
                assert_eq!(F::decode(level, raw), Some(entry), "{raw:#x}");
                assert_eq!(raw & valid != 0, entry.is_walkable(), "{entry:?}");
                assert_eq!(*seen.entry(raw).or_insert(entry), entry);
            }
        }
        assert!(encoded > 0);
    }
}

/// Whatever decodes encodes to the same word: all combinations of the bits in `used`, over one
/// address.
pub(crate) fn canonical<F: Stage2Format>(used: &[u32]) {
    let mut decoded = 0;
    for level in 0..=LEAF_LEVEL {
        for pick in 0_u64..1 << used.len() {
            let raw = used
                .iter()
                .enumerate()
                .filter(|(place, _)| pick >> place & 1 == 1)
                .fold(0x8000_0000, |word, (_, bit)| word | 1_u64 << bit);
            if let Some(entry) = F::decode(level, raw) {
                assert_eq!(F::encode(level, &entry), Some(raw), "{raw:#x}");
                decoded += 1;
            }
        }
    }
    assert!(decoded > 0);
}

/// A zeroed table holds nothing.
pub(crate) fn zero_is_unassigned<F: Stage2Format>() {
    for level in 0..=LEAF_LEVEL {
        let empty = Entry::Unassigned {
            ripas: Ripas::Empty,
        };
        assert_eq!(F::decode(level, 0), Some(empty));
    }
}

/// Misaligned and too wide addresses are refused.
pub(crate) fn addresses<F: Stage2Format>() {
    let ripas = Ripas::Ram;
    for (level, pa) in [(1, 0x20_0000), (2, 0x1000), (3, 0x800), (3, 1 << 48)] {
        let pa = Pa(pa);
        assert_eq!(F::encode(level, &Entry::Assigned { pa, ripas }), None);
        assert_eq!(F::encode(level, &Entry::Device { pa, ripas }), None);
    }
    let table = Entry::Table { pa: Pa(0x10) };
    assert_eq!(F::encode(2, &table), None, "a table is one granule");
    let entry = Entry::Unassigned { ripas };
    assert_eq!(F::encode(4, &entry), None, "there is no level 4");
}
