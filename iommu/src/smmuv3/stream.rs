// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Stream table entries (IHI 0070, 5.2).

use tsm_platform::Stage2;

use crate::arm::ArmStage2;
use crate::stage2::Stage2Format;

/// Size of an entry in bytes; a linear table has one per stream id.
pub const STREAM_ENTRY_BYTES: usize = 64;
/// Number of 64-bit words of an entry.
pub const STREAM_ENTRY_WORDS: usize = 8;

// Word 0.
const VALID: u64 = 1;
const CONFIG_ABORT: u64 = 0 << 1;
const CONFIG_STAGE_2: u64 = 0b110 << 1;

// Upper half of word 2.
const SL0_SHIFT: u32 = 6;
/// Walks are inner and outer write-back and inner shareable.
const WALK_CACHED: u64 = 1 << 8 | 1 << 10 | 3 << 12;
/// 4 KiB granule.
const GRANULE_4K: u64 = 0 << 14;
/// 40-bit output addresses.
const OUTPUT_40_BITS: u64 = 2 << 16;
/// AArch64 tables. Clear means a format that the unit need not have; QEMU stops if it sees that.
const AARCH64: u64 = 1 << 19;
/// Record faults.
const RECORD: u64 = 1 << 26;

const ROOT_ADDRESS: u64 = 0x000f_ffff_ffff_fff0;

/// One entry. There is none that bypasses translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    words: [u64; STREAM_ENTRY_WORDS],
}

impl StreamEntry {
    /// Stops every transaction of the stream, without an event for each.
    pub const BLOCKED: Self = Self {
        words: [VALID | CONFIG_ABORT, 0, 0, 0, 0, 0, 0, 0],
    };

    /// Returns the entry that sends a stream through `stage2`; `None` when a walk cannot start so.
    #[must_use]
    pub fn through(stage2: &Stage2) -> Option<Self> {
        ArmStage2::root_tables(stage2.ipa_bits, stage2.start_level)?;
        if stage2.root.0 & !ROOT_ADDRESS != 0 {
            return None;
        }
        let size = 64_u64.checked_sub(u64::from(stage2.ipa_bits))?;
        let start = 2_u64.checked_sub(u64::from(stage2.start_level))?;
        let fields = size
            | start << SL0_SHIFT
            | WALK_CACHED
            | GRANULE_4K
            | OUTPUT_40_BITS
            | AARCH64
            | RECORD;
        Some(Self {
            words: [
                VALID | CONFIG_STAGE_2,
                0,
                u64::from(stage2.vmid.0) | fields << 32,
                stage2.root.0,
                0,
                0,
                0,
                0,
            ],
        })
    }

    /// Returns the eight 64-bit words.
    #[must_use]
    pub const fn words(&self) -> [u64; STREAM_ENTRY_WORDS] {
        self.words
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Pa, Stage2, Vmid};

    use super::StreamEntry;

    const STAGE2: Stage2 = Stage2 {
        root: Pa(0x7f20_0000),
        start_level: 1,
        ipa_bits: 39,
        vmid: Vmid(7),
    };

    #[test]
    fn a_stage_2_entry_has_the_words_that_worked() {
        let high = 25 | 1 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 19 | 1 << 26;
        let words = [13, 0, 7 | high << 32, 0x7f20_0000, 0, 0, 0, 0];
        assert_eq!(StreamEntry::through(&STAGE2).unwrap().words(), words);
    }

    #[test]
    fn a_walk_that_cannot_start_is_refused() {
        for (start_level, ipa_bits, root) in [(3, 39, 0), (1, 44, 0), (0, 39, 0), (1, 39, 8)] {
            let stage2 = Stage2 {
                root: Pa(root),
                start_level,
                ipa_bits,
                vmid: Vmid(1),
            };
            assert_eq!(StreamEntry::through(&stage2), None);
        }
    }

    #[test]
    fn no_entry_bypasses() {
        let config = |entry: StreamEntry| entry.words()[0] >> 1 & 7;
        assert_eq!(config(StreamEntry::BLOCKED), 0);
        assert_eq!(config(StreamEntry::through(&STAGE2).unwrap()), 6);
    }
}
