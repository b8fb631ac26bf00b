// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Nested page tables of SVM that VT-d walks as second-level tables too: four levels, 4 KiB pages,
//! 48-bit output.
//!
//! Both walk the same words. A bit that one of them ignores has the value that suits the other, and
//! bits that hardware would set (accessed, dirty) are set from the start, so that no walk ever
//! changes an entry.

use tsm_platform::Pa;

use crate::stage2::{Entry, LEAF_LEVEL, Ripas, SharedAttributes, SharedMemory, Stage2Format};

/// The format of x86-64 nested and second-level tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X86Stage2;

// Fields of an entry (AMD APM volume 2, 5.3 and 15.25; VT-d, second-level paging entries).
/// Present; for VT-d: devices may read.
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
/// A walk of nested tables is an access of a user (APM 15.25.5). VT-d: execute, not checked.
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// The entry is a block, not a table. Left clear in the entries of pages, where it would be part of
/// the memory type.
const BLOCK: u64 = 1 << 7;
/// Left to software by both: the host's own memory, not the realm's.
const OF_HOST: u64 = 1 << 9;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Ignored by VT-d.
const EXECUTE_NEVER: u64 = 1 << 63;

const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED;
const RAM: u64 = TABLE | DIRTY;
/// Memory type 3 of the processor's default attribute table: uncacheable. VT-d has no type here.
const UNCACHEABLE: u64 = CACHE_DISABLE | WRITE_THROUGH;
const DEVICE: u64 = TABLE | DIRTY | UNCACHEABLE | EXECUTE_NEVER;
const SHARED: u64 = PRESENT | USER | ACCESSED | DIRTY | OF_HOST | EXECUTE_NEVER;

// Fields of an entry that neither may walk: bits 2:0 are clear, and hardware ignores all others.
// These are in bits that VT-d ignores in walkable entries too.
const HOST_STATE_SHIFT: u32 = 52;
const HOST_STATE_MASK: u64 = 3 << HOST_STATE_SHIFT;
const UNASSIGNED: u64 = 0 << HOST_STATE_SHIFT;
const ASSIGNED: u64 = 1 << HOST_STATE_SHIFT;
const ASSIGNED_DEVICE: u64 = 2 << HOST_STATE_SHIFT;
const RIPAS_SHIFT: u32 = 54;
const RIPAS_MASK: u64 = 3 << RIPAS_SHIFT;

/// Returns the address bits for `pa` at `level`, if leaves may stand there and it is aligned.
fn leaf_address(level: u8, pa: Pa) -> Option<u64> {
    let bytes = X86Stage2::entry_bytes(level).filter(|_| X86Stage2::maps_blocks(level))?;
    (pa.0 & !ADDRESS == 0 && pa.0.is_multiple_of(bytes)).then_some(pa.0)
}

const fn leaf_type(level: u8) -> u64 {
    if level == LEAF_LEVEL { 0 } else { BLOCK }
}

const fn remembered(host_state: u64, ripas: Ripas) -> u64 {
    host_state | (ripas.code() as u64) << RIPAS_SHIFT
}

/// Returns the attribute bits; `None` for mappings that cannot be read, which nested tables cannot
/// express.
const fn shared_bits(attributes: SharedAttributes) -> Option<u64> {
    if !attributes.read {
        return None;
    }
    let memory = match attributes.memory {
        SharedMemory::WriteBack => 0,
        SharedMemory::NonCacheable => CACHE_DISABLE,
        SharedMemory::Device => UNCACHEABLE,
    };
    let write = if attributes.write { WRITE } else { 0 };
    Some(SHARED | memory | write)
}

fn decode_shared(bits: u64) -> Option<SharedAttributes> {
    let memory = match bits & UNCACHEABLE {
        0 => SharedMemory::WriteBack,
        CACHE_DISABLE => SharedMemory::NonCacheable,
        UNCACHEABLE => SharedMemory::Device,
        _ => return None,
    };
    let attributes = SharedAttributes {
        memory,
        read: true,
        write: bits & WRITE != 0,
    };
    (shared_bits(attributes) == Some(bits)).then_some(attributes)
}

fn decode_invalid(level: u8, raw: u64) -> Option<Entry> {
    if raw & !(ADDRESS | HOST_STATE_MASK | RIPAS_MASK) != 0 {
        return None;
    }
    let ripas = Ripas::from_code(raw >> RIPAS_SHIFT);
    let pa = Pa(raw & ADDRESS);
    match raw & HOST_STATE_MASK {
        UNASSIGNED => (pa.0 == 0).then_some(Entry::Unassigned { ripas }),
        ASSIGNED if ripas != Ripas::Ram => {
            leaf_address(level, pa).map(|_| Entry::Assigned { pa, ripas })
        }
        ASSIGNED_DEVICE if ripas != Ripas::Dev => {
            leaf_address(level, pa).map(|_| Entry::Device { pa, ripas })
        }
        _ => None,
    }
}

impl Stage2Format for X86Stage2 {
    fn encode(level: u8, entry: &Entry) -> Option<u64> {
        if level > LEAF_LEVEL {
            return None;
        }
        match *entry {
            Entry::Unassigned { ripas } => Some(remembered(UNASSIGNED, ripas)),
            Entry::Assigned { pa, ripas } => {
                let address = leaf_address(level, pa)?;
                Some(match ripas {
                    Ripas::Ram => address | RAM | leaf_type(level),
                    _ => address | remembered(ASSIGNED, ripas),
                })
            }
            Entry::Device { pa, ripas } => {
                let address = leaf_address(level, pa)?;
                Some(match ripas {
                    Ripas::Dev => address | DEVICE | leaf_type(level),
                    _ => address | remembered(ASSIGNED_DEVICE, ripas),
                })
            }
            Entry::Shared { pa, attributes } => {
                Some(leaf_address(level, pa)? | shared_bits(attributes)? | leaf_type(level))
            }
            Entry::Table { pa } => {
                (level < LEAF_LEVEL && pa.0 & !ADDRESS == 0).then_some(pa.0 | TABLE)
            }
        }
    }

    fn decode(level: u8, raw: u64) -> Option<Entry> {
        if level > LEAF_LEVEL {
            return None;
        }
        if raw & PRESENT == 0 {
            return decode_invalid(level, raw);
        }
        let pa = Pa(raw & ADDRESS);
        let bits = raw & !ADDRESS;
        if level < LEAF_LEVEL && bits & BLOCK == 0 {
            return (bits == TABLE).then_some(Entry::Table { pa });
        }
        leaf_address(level, pa)?;
        if bits & BLOCK != leaf_type(level) {
            return None;
        }
        match bits & !BLOCK {
            RAM => Some(Entry::Assigned {
                pa,
                ripas: Ripas::Ram,
            }),
            DEVICE => Some(Entry::Device {
                pa,
                ripas: Ripas::Dev,
            }),
            bits => decode_shared(bits).map(|attributes| Entry::Shared { pa, attributes }),
        }
    }

    /// The processor starts at level 0 whatever the width of the address space, in one table.
    fn root_tables(ipa_bits: u8, start_level: u8) -> Option<usize> {
        (start_level == 0 && (32..=48).contains(&ipa_bits)).then_some(1)
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Ipa, Pa};

    use super::{
        ADDRESS, BLOCK, DEVICE, EXECUTE_NEVER, OF_HOST, PRESENT, RAM, USER, WRITE, X86Stage2,
    };
    use crate::stage2::{
        Entry, LEAF_LEVEL, Ripas, SharedAttributes, SharedMemory, Stage2Format, checks,
    };

    const PA: Pa = Pa(0x4000_0000);

    fn all() -> impl Iterator<Item = (u8, Entry, u64)> {
        (0..=LEAF_LEVEL).flat_map(|level| {
            checks::entries(PA)
                .into_iter()
                .filter_map(move |entry| Some((level, entry, X86Stage2::encode(level, &entry)?)))
        })
    }

    #[test]
    fn every_entry_comes_back_as_it_was_and_no_two_look_alike() {
        // Without a right to read there is no mapping that only forbids something.
        let fits =
            |entry: &Entry| !matches!(entry, Entry::Shared { attributes, .. } if !attributes.read);
        checks::round_trip::<X86Stage2>(PRESENT, fits);
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_word() {
        let used = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 52, 53, 54, 55, 62, 63];
        checks::canonical::<X86Stage2>(&used);
    }

    #[test]
    fn a_zeroed_table_holds_nothing() {
        checks::zero_is_unassigned::<X86Stage2>();
    }

    #[test]
    fn the_hardware_words_are_the_ones_of_the_architecture() {
        let (ripas, pa) = (Ripas::Ram, Pa(0x8000_0000));
        let ram = Entry::Assigned { pa, ripas };
        assert_eq!(X86Stage2::encode(3, &ram), Some(0x8000_0067));
        assert_eq!(X86Stage2::encode(2, &ram), Some(0x8000_00e7));
        assert_eq!(X86Stage2::encode(1, &ram), Some(0x8000_00e7));
        let table = Entry::Table { pa };
        assert_eq!(X86Stage2::encode(0, &table), Some(0x8000_0027));
        let ripas = Ripas::Dev;
        let device = X86Stage2::encode(3, &Entry::Device { pa, ripas });
        assert_eq!(device, Some(1 << 63 | 0x8000_007f));
    }

    #[test]
    fn both_walkers_agree_on_what_may_be_used() {
        for (_, entry, raw) in all() {
            // VT-d lets a read pass by bit 0 and a write by bit 1; either alone would be half an
            // entry to the processor, which wants bits 0 and 2.
            if entry.is_walkable() {
                assert_eq!(raw & (PRESENT | USER), PRESENT | USER, "{entry:?}");
            } else {
                assert_eq!(raw & (PRESENT | WRITE | USER), 0, "{entry:?}");
            }
            // Bit 11, and above 48 bits what is neither ignored by VT-d nor an address.
            assert_eq!(raw & (1 << 11 | 0xf << 48 | 1 << 62), 0, "{entry:?}");
        }
    }

    #[test]
    fn hardware_finds_nothing_to_set() {
        for (level, entry, raw) in all().filter(|(_, entry, _)| entry.is_walkable()) {
            let table = matches!(entry, Entry::Table { .. });
            let set = if table { 1 << 5 } else { 3 << 5 };
            assert_eq!(raw & set, set, "{level} {entry:?}");
        }
    }

    #[test]
    fn only_unprotected_mappings_are_the_hosts_and_none_of_them_is_executable() {
        for (_, entry, raw) in all() {
            let shared = matches!(entry, Entry::Shared { .. });
            assert_eq!(raw & OF_HOST != 0, shared, "{entry:?}");
            if shared || matches!(entry, Entry::Device { .. }) && raw & PRESENT != 0 {
                assert_ne!(raw & EXECUTE_NEVER, 0, "{entry:?}");
            }
        }
    }

    #[test]
    fn misaligned_and_too_wide_addresses_are_refused() {
        checks::addresses::<X86Stage2>();
    }

    #[test]
    fn damaged_words_are_noticed() {
        for (level, raw) in [
            (3, RAM | BLOCK),              // the memory type of a page
            (2, RAM | 0x1000),             // a misaligned block
            (0, RAM | BLOCK),              // a block where none may be
            (3, 0x8000_0000),              // unassigned, yet with an address
            (3, PA.0 | 1 << 52 | 1 << 54), // assigned RAM, yet not walkable
            (3, 3 << 52),                  // no such host state
            (3, ADDRESS | PRESENT),        // a page without attributes
            (3, WRITE),                    // only VT-d would walk it
            (3, DEVICE & !EXECUTE_NEVER),  // code from a device
            (3, RAM | EXECUTE_NEVER),      // neither RAM nor shared
            (2, PA.0 | 0x21),              // a table that hardware may only read
        ] {
            assert_eq!(X86Stage2::decode(level, raw), None, "{level} {raw:#x}");
        }
    }

    #[test]
    fn a_mapping_that_cannot_be_read_is_refused() {
        for write in [false, true] {
            let attributes = SharedAttributes {
                memory: SharedMemory::WriteBack,
                read: false,
                write,
            };
            let entry = Entry::Shared { pa: PA, attributes };
            assert_eq!(X86Stage2::encode(3, &entry), None);
        }
    }

    #[test]
    fn a_walk_starts_in_one_table_of_level_0() {
        for bits in 32..=48 {
            assert_eq!(X86Stage2::root_tables(bits, 0), Some(1));
        }
        for (bits, level) in [(31, 0), (49, 0), (39, 1), (34, 2), (48, 3)] {
            assert_eq!(X86Stage2::root_tables(bits, level), None);
        }
        let ipa = Ipa(3 << 39 | 5 << 30);
        assert_eq!(X86Stage2::root_index(ipa, 48, 0), Some((0, 3)));
        assert_eq!(X86Stage2::root_index(ipa, 40, 0), None);
    }
}
