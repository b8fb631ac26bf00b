// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What one entry of a guest's stage 2 tables means, whatever the architecture.
//!
//! An entry carries two states: what the host did (unassigned, assigned, device) and what the guest
//! asked for (RIPAS). Hardware may walk an entry only when both agree; in every other case the
//! entry is invalid to hardware and remembers both in bits that hardware ignores.

#[cfg(test)]
pub(crate) mod checks;

use tsm_platform::{GRANULE_SIZE, Ipa, Pa};

/// Number of entries of one table.
pub const TABLE_ENTRIES: usize = 512;
/// Level of the entries that map one granule. Level 0 is nearest to the root.
pub const LEAF_LEVEL: u8 = 3;
/// Most root tables that may be concatenated.
pub const MAX_ROOT_TABLES: usize = 16;

/// What the guest uses a protected address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ripas {
    /// Nothing: an access goes to the host as an emulation request, without data.
    Empty,
    /// Private memory.
    Ram,
    /// Private memory that the host took away.
    Destroyed,
    /// Private device registers that the guest validated.
    Dev,
}

impl Ripas {
    /// Every value, in the order of its encoding.
    pub const ALL: [Self; 4] = [Self::Empty, Self::Ram, Self::Destroyed, Self::Dev];

    /// Returns the number that the ABI and the tables use: 0 to 3.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Ram => 1,
            Self::Destroyed => 2,
            Self::Dev => 3,
        }
    }

    /// Returns the value whose number is in the two lowest bits of `code`.
    #[must_use]
    pub const fn from_code(code: u64) -> Self {
        match code & 3 {
            0 => Self::Empty,
            1 => Self::Ram,
            2 => Self::Destroyed,
            _ => Self::Dev,
        }
    }
}

/// Memory type of an unprotected mapping. The host chooses it: it is the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedMemory {
    /// Normal memory, write-back cacheable.
    WriteBack,
    /// Normal memory, not cacheable.
    NonCacheable,
    /// Device memory without gathering and reordering.
    Device,
}

impl SharedMemory {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::WriteBack, Self::NonCacheable, Self::Device];

    /// Returns the type that the `MemAttr` field of a host's descriptor asks for. The field has the
    /// three bits that it has under `FEAT_S2FWB`; types that leave the choice to the guest's own
    /// tables are refused.
    #[must_use]
    pub const fn from_memattr(memattr: u64) -> Option<Self> {
        match memattr {
            0b110 => Some(Self::WriteBack),
            0b101 => Some(Self::NonCacheable),
            0b000 | 0b001 => Some(Self::Device),
            _ => None,
        }
    }

    /// Returns the `MemAttr` field that [`Self::from_memattr`] accepts for this type.
    #[must_use]
    pub const fn memattr(self) -> u64 {
        match self {
            Self::WriteBack => 0b110,
            Self::NonCacheable => 0b101,
            Self::Device => 0b001,
        }
    }
}

/// What the host may decide about an unprotected mapping. None is ever executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedAttributes {
    /// Memory type.
    pub memory: SharedMemory,
    /// The guest may load.
    pub read: bool,
    /// The guest may store.
    pub write: bool,
}

/// One entry of a stage 2 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The host has mapped nothing. Also what an unused unprotected address holds, with
    /// [`Ripas::Empty`]; a zeroed table is full of these.
    Unassigned {
        /// What the guest uses the address for.
        ripas: Ripas,
    },
    /// The host has given protected memory. Hardware may use it only as [`Ripas::Ram`].
    Assigned {
        /// The memory, aligned to what the level maps.
        pa: Pa,
        /// What the guest uses the address for.
        ripas: Ripas,
    },
    /// The host has given device registers. Hardware may use them only as [`Ripas::Dev`], after the
    /// guest has compared them with the device's report.
    Device {
        /// The registers, aligned to what the level maps.
        pa: Pa,
        /// What the guest uses the address for.
        ripas: Ripas,
    },
    /// The host's own memory at an unprotected address.
    Shared {
        /// The memory, aligned to what the level maps.
        pa: Pa,
        /// What the host decided.
        attributes: SharedAttributes,
    },
    /// The table of the next level.
    Table {
        /// Its granule.
        pa: Pa,
    },
}

impl Entry {
    /// Returns whether hardware may translate through the entry.
    #[must_use]
    pub const fn is_walkable(&self) -> bool {
        match self {
            Self::Unassigned { .. } => false,
            Self::Assigned { ripas, .. } => matches!(ripas, Ripas::Ram),
            Self::Device { ripas, .. } => matches!(ripas, Ripas::Dev),
            Self::Shared { .. } | Self::Table { .. } => true,
        }
    }
}

/// The way one architecture writes an [`Entry`].
///
/// Levels are numbered 0 to [`LEAF_LEVEL`] from a 48-bit root down, in every implementation.
pub trait Stage2Format {
    /// Returns the 64-bit word for `entry` in a table of `level`.
    ///
    /// `None` when the level cannot hold it: a block above level 1, a table at the leaf level, an
    /// address that is misaligned or too wide.
    fn encode(level: u8, entry: &Entry) -> Option<u64>;

    /// Returns the entry that the 64-bit word `raw` in a table of `level` stands for.
    ///
    /// `None` when no entry is written so, which means that the table is not ours or was damaged.
    fn decode(level: u8, raw: u64) -> Option<Entry>;

    /// Returns whether leaves may stand at `level`.
    #[must_use]
    fn maps_blocks(level: u8) -> bool {
        matches!(level, 1..=LEAF_LEVEL)
    }

    /// Returns the number of bytes that one entry of `level` covers.
    #[must_use]
    fn entry_bytes(level: u8) -> Option<u64> {
        let below = u32::from(LEAF_LEVEL.checked_sub(level)?);
        GRANULE_SIZE.checked_shl(below.checked_mul(9)?)
    }

    /// Returns the index of the entry for `ipa` in the table of `level` that covers it. Not for
    /// root tables, which may be concatenated: see [`Self::root_index`].
    #[must_use]
    fn index(ipa: Ipa, level: u8) -> Option<usize> {
        let entry = ipa.0.checked_div(Self::entry_bytes(level)?)?;
        usize::try_from(entry % 512).ok()
    }

    /// Returns how many concatenated root tables an address space of `ipa_bits` bits needs when a
    /// walk starts at `start_level`; `None` when hardware cannot start there.
    #[must_use]
    fn root_tables(ipa_bits: u8, start_level: u8) -> Option<usize> {
        if start_level > 2 || !(32..=48).contains(&ipa_bits) {
            return None;
        }
        let one_table = Self::entry_bytes(start_level)?.checked_mul(512)?;
        let space = 1_u64.checked_shl(u32::from(ipa_bits))?;
        if space <= Self::entry_bytes(start_level)? {
            return None;
        }
        let tables = usize::try_from(space.div_ceil(one_table)).ok()?;
        (tables <= MAX_ROOT_TABLES).then_some(tables)
    }

    /// Returns which root table holds the entry for `ipa`, and which entry of it that is; `None`
    /// when `ipa` does not fit into `ipa_bits` or hardware cannot start at `start_level`.
    #[must_use]
    fn root_index(ipa: Ipa, ipa_bits: u8, start_level: u8) -> Option<(usize, usize)> {
        Self::root_tables(ipa_bits, start_level)?;
        if ipa.0.checked_shr(u32::from(ipa_bits))? != 0 {
            return None;
        }
        let entry = ipa.0.checked_div(Self::entry_bytes(start_level)?)?;
        let table = usize::try_from(entry.checked_div(512)?).ok()?;
        Some((table, usize::try_from(entry % 512).ok()?))
    }
}
