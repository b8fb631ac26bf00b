// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Root and context entries of legacy mode (VT-d 9.1 and 9.3). Each is two 64-bit words.

use tsm_platform::{Pa, Stage2, Vmid};

use crate::stage2::Stage2Format;
use crate::x86::X86Stage2;

/// Number of 64-bit words of a context entry.
pub const CONTEXT_WORDS: usize = 2;
/// Entries of the root table (one for each bus) and of a context table (one for each function).
pub const ENTRIES: usize = 256;

/// Tag of translations.
///
/// A unit may tag what is not present with domain 0 (VT-d 6.1), so no domain has that number: it is
/// one more than the [`Vmid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(pub u16);

impl Domain {
    /// Returns the domain of a tag; `None` for the highest one.
    #[must_use]
    pub fn of(vmid: Vmid) -> Option<Self> {
        vmid.0.checked_add(1).map(Self)
    }
}

const PRESENT: u64 = 1;
/// Faults of the entry itself are not recorded.
const SILENT: u64 = 1 << 1;
/// Requests are translated by second-level tables; requests that say they are translated already
/// are refused.
const SECOND_LEVEL: u64 = 0 << 2;
const DOMAIN_SHIFT: u32 = 8;
const TABLE: u64 = 0x000f_ffff_ffff_f000;

/// Returns the root entry for the context table at `contexts`, which is aligned to 4 KiB.
#[must_use]
pub const fn root_entry(contexts: Pa) -> [u64; 2] {
    [contexts.0 & TABLE | PRESENT, 0]
}

/// What a function is sent through. There is no entry that passes requests untranslated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextEntry {
    words: [u64; CONTEXT_WORDS],
}

impl ContextEntry {
    /// Stops every request of the function, without a record for each.
    pub const BLOCKED: Self = Self { words: [SILENT, 0] };

    /// Returns the entry that sends a function through `stage2`; `None` when a walk cannot start so.
    ///
    /// A walk may start at level 1 (39-bit addresses) or at level 0 (48-bit), whatever part of them
    /// the tables use.
    #[must_use]
    pub fn through(stage2: &Stage2) -> Option<Self> {
        let width = match stage2.start_level {
            0 if X86Stage2::root_tables(stage2.ipa_bits, 0).is_some() => 2,
            1 if stage2.ipa_bits == 39 => 1,
            _ => return None,
        };
        if stage2.root.0 & !TABLE != 0 {
            return None;
        }
        let domain = Domain::of(stage2.vmid)?;
        Some(Self {
            words: [
                stage2.root.0 | SECOND_LEVEL | PRESENT,
                u64::from(domain.0) << DOMAIN_SHIFT | width,
            ],
        })
    }

    /// Returns the two 64-bit words, lower first.
    #[must_use]
    pub const fn words(&self) -> [u64; CONTEXT_WORDS] {
        self.words
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Pa, Stage2, Vmid};

    use super::{ContextEntry, Domain, root_entry};

    const STAGE2: Stage2 = Stage2 {
        root: Pa(0x1200_0000),
        start_level: 0,
        ipa_bits: 40,
        vmid: Vmid(7),
    };

    #[test]
    fn the_words_are_the_ones_of_the_architecture() {
        assert_eq!(root_entry(Pa(0x1200_1000)), [0x1200_1001, 0]);
        let entry = ContextEntry::through(&STAGE2).unwrap();
        assert_eq!(entry.words(), [0x1200_0001, 8 << 8 | 2]);
        let stage2 = Stage2 {
            start_level: 1,
            ipa_bits: 39,
            vmid: Vmid(0),
            ..STAGE2
        };
        let entry = ContextEntry::through(&stage2).unwrap();
        assert_eq!(entry.words(), [0x1200_0001, 1 << 8 | 1]);
    }

    #[test]
    fn a_walk_that_cannot_start_is_refused() {
        for (start_level, ipa_bits, root, vmid) in [
            (2, 34, 0, 1),
            (1, 40, 0, 1),
            (0, 49, 0, 1),
            (0, 48, 0x800, 1),
            (0, 48, 1 << 52, 1),
            (0, 48, 0, u16::MAX),
        ] {
            let stage2 = Stage2 {
                root: Pa(root),
                start_level,
                ipa_bits,
                vmid: Vmid(vmid),
            };
            assert_eq!(ContextEntry::through(&stage2), None, "{stage2:?}");
        }
    }

    #[test]
    fn no_entry_passes_requests_untranslated() {
        assert_eq!(ContextEntry::BLOCKED.words()[0] & 1, 0);
        let [low, _] = ContextEntry::through(&STAGE2).unwrap().words();
        assert_eq!(low & 0xf, 1);
    }

    #[test]
    fn no_tag_is_the_domain_of_what_is_not_present() {
        assert_eq!(Domain::of(Vmid(0)), Some(Domain(1)));
        assert_eq!(Domain::of(Vmid(u16::MAX)), None);
    }
}
