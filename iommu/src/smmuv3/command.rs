// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands (IHI 0070, chapter 4). Each is two 64-bit words.

use tsm_platform::{Ipa, StreamId, Vmid};

use crate::stage2::LEAF_LEVEL;

/// Most granules that one [`Command::TlbiStage2Range`] covers: 32 units of 2^31 granules.
pub const MAX_RANGE_SCALE: u8 = 31;

/// A command that the TSM uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Forget the cached entry of one stream.
    ForgetStream(StreamId),
    /// Forget all cached stream entries.
    ForgetAllStreams,
    /// Forget the translation of one address, of any size, with its cached walk.
    TlbiStage2 {
        /// Tag.
        vmid: Vmid,
        /// Any address that the translation covers.
        ipa: Ipa,
    },
    /// Forget translations of `(units + 1) << scale` granules from `ipa` up.
    TlbiStage2Range {
        /// Tag.
        vmid: Vmid,
        /// First address.
        ipa: Ipa,
        /// Number of units less one: 0 to 31.
        units: u8,
        /// Granules of a unit, as a power of two: 0 to 31.
        scale: u8,
    },
    /// Forget all translations with a tag.
    TlbiGuest(Vmid),
    /// Forget all translations of the host and its guests.
    TlbiAll,
    /// Complete everything before.
    Sync,
}

const TLBI_NSNH_ALL: u64 = 0x30;
const TLBI_S12_VMALL: u64 = 0x28;
const TLBI_S2_IPA: u64 = 0x2a;
const CFGI_STE: u64 = 0x03;
const CFGI_ALL: u64 = 0x04;
const SYNC: u64 = 0x46;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The range counts 4 KiB granules.
const RANGE_4K: u64 = 1 << 10;

const fn tag(vmid: Vmid) -> u64 {
    (vmid.0 as u64) << 32
}

impl Command {
    /// Returns the two 64-bit words, lower first. Fields that do not fit are cut to their width.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        match self {
            // Not only the leaf: whatever the unit cached for the stream.
            Self::ForgetStream(stream) => [CFGI_STE | (stream.0 as u64) << 32, 0],
            Self::ForgetAllStreams => [CFGI_ALL, 31],
            Self::TlbiStage2 { vmid, ipa } => [TLBI_S2_IPA | tag(vmid), ipa.0 & ADDRESS],
            Self::TlbiStage2Range {
                vmid,
                ipa,
                units,
                scale,
            } => [
                TLBI_S2_IPA | (units as u64 & 31) << 12 | (scale as u64 & 31) << 20 | tag(vmid),
                ipa.0 & ADDRESS | RANGE_4K,
            ],
            Self::TlbiGuest(vmid) => [TLBI_S12_VMALL | tag(vmid), 0],
            Self::TlbiAll => [TLBI_NSNH_ALL, 0],
            Self::Sync => [SYNC, 0],
        }
    }

    /// Returns the shortest range command that covers `bytes` bytes from `base` up; it may cover
    /// more, which costs speed only. Falls back to the whole tag for what no range can express.
    #[must_use]
    pub fn range(vmid: Vmid, base: Ipa, bytes: u64) -> Self {
        const { assert!(LEAF_LEVEL == 3) };
        let first = base.0 >> 12;
        let Some(top) = base.0.checked_add(bytes) else {
            return Self::TlbiGuest(vmid);
        };
        let granules = top.div_ceil(4096).saturating_sub(first).max(1);
        (0..=MAX_RANGE_SCALE)
            .find_map(|scale| {
                let units = granules.div_ceil(1_u64.checked_shl(u32::from(scale))?);
                let units = u8::try_from(units.checked_sub(1)?).ok()?;
                (units < 32).then_some(Self::TlbiStage2Range {
                    vmid,
                    ipa: base,
                    units,
                    scale,
                })
            })
            .unwrap_or(Self::TlbiGuest(vmid))
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Ipa, StreamId, Vmid};

    use super::Command;

    #[test]
    fn the_words_are_the_ones_that_worked() {
        let vmid = Vmid(5);
        let ipa = Ipa(0x8000_1234);
        assert_eq!(Command::ForgetAllStreams.words(), [4, 31]);
        assert_eq!(Command::TlbiAll.words(), [0x30, 0]);
        assert_eq!(Command::Sync.words(), [0x46, 0]);
        assert_eq!(
            Command::ForgetStream(StreamId(0x100)).words(),
            [0x100 << 32 | 3, 0]
        );
        assert_eq!(
            Command::TlbiStage2 { vmid, ipa }.words(),
            [5 << 32 | 0x2a, 0x8000_1000]
        );
        assert_eq!(Command::TlbiGuest(vmid).words(), [5 << 32 | 0x28, 0]);
    }

    #[test]
    fn a_range_covers_at_least_what_was_asked() {
        for (base, bytes) in [
            (0x1000, 0x1000),
            (0x1000, 0),
            (0x1fff, 2),
            (0x4000_0000, 0x2_0000),
            (0x4000_0000, 0x2_1000),
            (0x4000_0000, 0x4000_0000),
            (0, 1 << 47),
        ] {
            let command = Command::range(Vmid(1), Ipa(base), bytes);
            let Command::TlbiStage2Range {
                ipa, units, scale, ..
            } = command
            else {
                panic!("{command:?}");
            };
            let covered = (u64::from(units) + 1) << scale << 12;
            assert!((ipa.0 & !0xfff) + covered >= base + bytes);
            assert!(
                covered <= (bytes + 0x2000) * 2,
                "{covered:#x} for {bytes:#x}"
            );
            assert_eq!(command.words()[1] >> 10 & 3, 1);
        }
    }

    #[test]
    fn what_no_range_expresses_forgets_the_tag() {
        let command = Command::range(Vmid(1), Ipa(u64::MAX), 2);
        assert_eq!(command, Command::TlbiGuest(Vmid(1)));
    }
}
