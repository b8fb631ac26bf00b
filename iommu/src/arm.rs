// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VMSAv8-64 stage 2 descriptors of the Realm EL1&0 regime: 4 KiB granule, 48-bit output.
//!
//! The same tables serve the processors and the SMMU, so the memory types are the ones that need no
//! `FEAT_S2FWB`.

use tsm_platform::Pa;

use crate::stage2::{Entry, LEAF_LEVEL, Ripas, SharedAttributes, SharedMemory, Stage2Format};

/// The format of Arm's AArch64 stage 2 tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmStage2;

// Fields of a descriptor (Arm ARM D8.3.2).
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEMATTR_SHIFT: u32 = 2;
const MEMATTR_MASK: u64 = 0xf << MEMATTR_SHIFT;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const OUTER_SHAREABLE: u64 = 2 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// `XN[1:0]` = 0b10: executable at neither exception level, with or without `FEAT_XNX`.
const EXECUTE_NEVER: u64 = 1 << 54;
/// The output address is Non-secure, not Realm.
const NS: u64 = 1 << 55;

const NORMAL_WRITE_BACK: u64 = 0b1111 << MEMATTR_SHIFT;
const NORMAL_NON_CACHEABLE: u64 = 0b0101 << MEMATTR_SHIFT;
const DEVICE_NGNRE: u64 = 0b0001 << MEMATTR_SHIFT;

const RAM: u64 = NORMAL_WRITE_BACK | READ | WRITE | INNER_SHAREABLE | ACCESS_FLAG;
const DEVICE: u64 = DEVICE_NGNRE | READ | WRITE | OUTER_SHAREABLE | ACCESS_FLAG | EXECUTE_NEVER;
const SHARED: u64 = ACCESS_FLAG | EXECUTE_NEVER | NS;

// Fields of an invalid descriptor: bit 0 is clear, and hardware ignores all others.
const HOST_STATE_SHIFT: u32 = 2;
const HOST_STATE_MASK: u64 = 3 << HOST_STATE_SHIFT;
const UNASSIGNED: u64 = 0 << HOST_STATE_SHIFT;
const ASSIGNED: u64 = 1 << HOST_STATE_SHIFT;
const ASSIGNED_DEVICE: u64 = 2 << HOST_STATE_SHIFT;
const RIPAS_SHIFT: u32 = 4;
const RIPAS_MASK: u64 = 3 << RIPAS_SHIFT;

/// Returns the address bits for `pa` at `level`, if leaves may stand there and it is aligned.
fn leaf_address(level: u8, pa: Pa) -> Option<u64> {
    let bytes = ArmStage2::entry_bytes(level).filter(|_| ArmStage2::maps_blocks(level))?;
    (pa.0 & !ADDRESS == 0 && pa.0.is_multiple_of(bytes)).then_some(pa.0)
}

const fn leaf_type(level: u8) -> u64 {
    if level == LEAF_LEVEL {
        VALID | TABLE_OR_PAGE
    } else {
        VALID
    }
}

const fn remembered(host_state: u64, ripas: Ripas) -> u64 {
    host_state | (ripas.code() as u64) << RIPAS_SHIFT
}

const fn shared_bits(attributes: SharedAttributes) -> u64 {
    let memory = match attributes.memory {
        SharedMemory::WriteBack => NORMAL_WRITE_BACK | INNER_SHAREABLE,
        SharedMemory::NonCacheable => NORMAL_NON_CACHEABLE | OUTER_SHAREABLE,
        SharedMemory::Device => DEVICE_NGNRE | OUTER_SHAREABLE,
    };
    let read = if attributes.read { READ } else { 0 };
    let write = if attributes.write { WRITE } else { 0 };
    SHARED | memory | read | write
}

fn decode_shared(bits: u64) -> Option<SharedAttributes> {
    let memory = match bits & MEMATTR_MASK {
        NORMAL_WRITE_BACK => SharedMemory::WriteBack,
        NORMAL_NON_CACHEABLE => SharedMemory::NonCacheable,
        DEVICE_NGNRE => SharedMemory::Device,
        _ => return None,
    };
    let attributes = SharedAttributes {
        memory,
        read: bits & READ != 0,
        write: bits & WRITE != 0,
    };
    (shared_bits(attributes) == bits).then_some(attributes)
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

impl Stage2Format for ArmStage2 {
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
                Some(leaf_address(level, pa)? | shared_bits(attributes) | leaf_type(level))
            }
            Entry::Table { pa } => {
                (level < LEAF_LEVEL && pa.0 & !ADDRESS == 0).then_some(pa.0 | VALID | TABLE_OR_PAGE)
            }
        }
    }

    fn decode(level: u8, raw: u64) -> Option<Entry> {
        if level > LEAF_LEVEL {
            return None;
        }
        if raw & VALID == 0 {
            return decode_invalid(level, raw);
        }
        let pa = Pa(raw & ADDRESS);
        let bits = raw & !ADDRESS;
        if level < LEAF_LEVEL && bits & TABLE_OR_PAGE != 0 {
            return (bits == VALID | TABLE_OR_PAGE).then_some(Entry::Table { pa });
        }
        let attributes = bits & !(VALID | TABLE_OR_PAGE);
        leaf_address(level, pa)?;
        if bits != attributes | leaf_type(level) {
            return None;
        }
        match attributes {
            RAM => Some(Entry::Assigned {
                pa,
                ripas: Ripas::Ram,
            }),
            DEVICE => Some(Entry::Device {
                pa,
                ripas: Ripas::Dev,
            }),
            _ => decode_shared(attributes).map(|attributes| Entry::Shared { pa, attributes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Ipa, Pa};

    use super::{ADDRESS, ArmStage2, EXECUTE_NEVER, NS, VALID};
    use crate::stage2::{Entry, LEAF_LEVEL, MAX_ROOT_TABLES, Ripas, Stage2Format, checks};

    #[test]
    fn every_entry_comes_back_as_it_was_and_no_two_look_alike() {
        checks::round_trip::<ArmStage2>(VALID, |_| true);
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_word() {
        let used = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 52, 53, 54, 55, 58];
        checks::canonical::<ArmStage2>(&used);
    }

    #[test]
    fn a_zeroed_table_holds_nothing() {
        checks::zero_is_unassigned::<ArmStage2>();
    }

    #[test]
    fn the_hardware_words_are_the_ones_of_the_architecture() {
        let pa = Pa(0x8000_0000);
        let page = ArmStage2::encode(
            3,
            &Entry::Assigned {
                pa,
                ripas: Ripas::Ram,
            },
        );
        // The word that the SMMU and the processors of QEMU were seen to accept.
        assert_eq!(
            page,
            Some(0x8000_0000 | 3 | 0xf << 2 | 3 << 6 | 3 << 8 | 1 << 10)
        );
        let block = ArmStage2::encode(
            2,
            &Entry::Assigned {
                pa,
                ripas: Ripas::Ram,
            },
        );
        assert_eq!(block, page.map(|word| word & !2));
        let device = ArmStage2::encode(
            3,
            &Entry::Device {
                pa,
                ripas: Ripas::Dev,
            },
        );
        assert_eq!(
            device,
            Some(0x8000_0000 | 3 | 1 << 2 | 3 << 6 | 2 << 8 | 1 << 10 | 1 << 54)
        );
    }

    #[test]
    fn only_unprotected_mappings_leave_the_realm_and_none_of_them_is_executable() {
        for level in 1..=LEAF_LEVEL {
            for entry in checks::entries(Pa(0x4000_0000)) {
                let raw = ArmStage2::encode(level, &entry).unwrap_or(0);
                let shared = matches!(entry, Entry::Shared { .. });
                assert_eq!(raw & NS != 0, shared, "{entry:?}");
                if shared || matches!(entry, Entry::Device { .. }) && raw & VALID != 0 {
                    assert_ne!(raw & EXECUTE_NEVER, 0, "{entry:?}");
                }
            }
        }
    }

    #[test]
    fn misaligned_and_too_wide_addresses_are_refused() {
        checks::addresses::<ArmStage2>();
    }

    #[test]
    fn damaged_words_are_noticed() {
        for raw in [
            1,                             // a level 3 word that says "block"
            0x8000_0000,                   // unassigned, yet with an address
            0x8000_0000 | 1 << 2 | 1 << 4, // assigned RAM, yet not walkable
            3 << 2,                        // no such host state
            ADDRESS | 3,                   // a page without attributes
        ] {
            assert_eq!(ArmStage2::decode(3, raw), None, "{raw:#x}");
        }
    }

    #[test]
    fn geometry_follows_from_the_level() {
        assert_eq!(ArmStage2::entry_bytes(3), Some(4096));
        assert_eq!(ArmStage2::entry_bytes(2), Some(2 << 20));
        assert_eq!(ArmStage2::entry_bytes(1), Some(1 << 30));
        assert_eq!(ArmStage2::entry_bytes(0), Some(512 << 30));
        assert_eq!(ArmStage2::entry_bytes(4), None);
        let ipa = Ipa(3 << 39 | 5 << 30 | 7 << 21 | 9 << 12 | 0xabc);
        for (level, index) in [(0, 3), (1, 5), (2, 7), (3, 9)] {
            assert_eq!(ArmStage2::index(ipa, level), Some(index));
        }
    }

    #[test]
    fn root_tables_are_concatenated_up_to_sixteen() {
        assert_eq!(ArmStage2::root_tables(39, 1), Some(1));
        assert_eq!(ArmStage2::root_tables(40, 1), Some(2));
        assert_eq!(ArmStage2::root_tables(43, 1), Some(MAX_ROOT_TABLES));
        assert_eq!(ArmStage2::root_tables(44, 1), None);
        assert_eq!(ArmStage2::root_tables(34, 2), Some(MAX_ROOT_TABLES));
        assert_eq!(ArmStage2::root_tables(35, 2), None);
        assert_eq!(ArmStage2::root_tables(48, 0), Some(1));
        assert_eq!(ArmStage2::root_tables(39, 0), None);
        assert_eq!(ArmStage2::root_tables(49, 0), None);
        assert_eq!(ArmStage2::root_tables(39, 3), None);
        let ipa = Ipa(1 << 39 | 5 << 30);
        assert_eq!(ArmStage2::root_index(ipa, 40, 1), Some((1, 5)));
        assert_eq!(ArmStage2::root_index(ipa, 39, 1), None);
    }
}
