// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Descriptors of the invalidation queue (VT-d 6.5.2). Each is two 64-bit words.

use tsm_platform::{Ipa, Pa};

use super::entry::Domain;

/// A descriptor that the TSM uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Forget all cached context entries.
    ForgetContexts,
    /// Forget the translations of `1 << order` aligned pages, with their cached walks.
    ForgetPages {
        /// Tag.
        domain: Domain,
        /// First address, aligned to the whole.
        base: Ipa,
        /// Number of pages as a power of two, at most what the unit supports.
        order: u8,
    },
    /// Forget all translations with a tag.
    ForgetDomain(Domain),
    /// Forget all translations.
    ForgetAll,
    /// When everything before is complete, write `value` to the 32-bit word at `status`.
    Wait {
        /// Aligned to 4 bytes.
        status: Pa,
        /// What to write.
        value: u32,
    },
}

const CONTEXT: u64 = 1;
const IOTLB: u64 = 2;
const WAIT: u64 = 5;

const GLOBAL: u64 = 1 << 4;
const BY_DOMAIN: u64 = 2 << 4;
const BY_PAGE: u64 = 3 << 4;
/// Transactions that use what is forgotten are complete as well: reads and writes.
const DRAIN: u64 = 1 << 7 | 1 << 6;
const DOMAIN_SHIFT: u32 = 16;

const STATUS_WRITE: u64 = 1 << 5;
/// Later descriptors are not started before this one is complete.
const FENCE: u64 = 1 << 6;
const VALUE_SHIFT: u32 = 32;

const PAGE: u64 = 0x000f_ffff_ffff_f000;

impl Command {
    /// Returns the two 64-bit words, lower first. Fields that do not fit are cut to their width.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        match self {
            Self::ForgetContexts => [CONTEXT | GLOBAL, 0],
            Self::ForgetPages {
                domain,
                base,
                order,
            } => [
                IOTLB | BY_PAGE | DRAIN | (domain.0 as u64) << DOMAIN_SHIFT,
                base.0 & PAGE | (order & 0x3f) as u64,
            ],
            Self::ForgetDomain(domain) => [
                IOTLB | BY_DOMAIN | DRAIN | (domain.0 as u64) << DOMAIN_SHIFT,
                0,
            ],
            Self::ForgetAll => [IOTLB | GLOBAL | DRAIN, 0],
            Self::Wait { status, value } => [
                WAIT | STATUS_WRITE | FENCE | (value as u64) << VALUE_SHIFT,
                status.0 & !3,
            ],
        }
    }

    /// Returns the smallest command that covers `bytes` bytes from `base` up. The unit takes aligned
    /// powers of two only, up to `1 << most` pages; what does not fit forgets the whole domain.
    #[must_use]
    pub fn range(domain: Domain, base: Ipa, bytes: u64, most: u8) -> Self {
        let first = base.0 >> 12;
        let Some(last) = base.0.checked_add(bytes.saturating_sub(1)) else {
            return Self::ForgetDomain(domain);
        };
        // The lowest bits that differ between the first and the last page must be free.
        let order = 64_u32.saturating_sub((first ^ (last >> 12)).leading_zeros());
        match u8::try_from(order) {
            Ok(order) if order <= most => {
                let size = 4096_u64.checked_shl(u32::from(order)).unwrap_or(4096);
                Self::ForgetPages {
                    domain,
                    base: Ipa(base.0 & size.wrapping_neg()),
                    order,
                }
            }
            _ => Self::ForgetDomain(domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Ipa, Pa};

    use super::{Command, Domain};

    const DOMAIN: Domain = Domain(5);

    #[test]
    fn the_words_are_the_ones_of_the_architecture() {
        assert_eq!(Command::ForgetContexts.words(), [0x11, 0]);
        assert_eq!(Command::ForgetAll.words(), [0xd2, 0]);
        assert_eq!(Command::ForgetDomain(DOMAIN).words(), [0x5_00e2, 0]);
        let pages = Command::ForgetPages {
            domain: DOMAIN,
            base: Ipa(0x4020_0000),
            order: 9,
        };
        assert_eq!(pages.words(), [0x5_00f2, 0x4020_0009]);
        let wait = Command::Wait {
            status: Pa(0x1000_0040),
            value: 7,
        };
        assert_eq!(wait.words(), [7 << 32 | 0x65, 0x1000_0040]);
    }

    #[test]
    fn a_range_covers_what_was_asked_aligned_to_its_size() {
        for (base, bytes) in [
            (0x1000, 0x1000_u64),
            (0x1000, 0),
            (0x1fff, 2),
            (0x3000, 0x2000),
            (0x4000_0000, 0x20_0000),
            (0x401f_f000, 0x2000),
            (0x4000_0000, 0x4000_0000),
        ] {
            let command = Command::range(DOMAIN, Ipa(base), bytes, 18);
            let Command::ForgetPages {
                base: from, order, ..
            } = command
            else {
                assert!(
                    base >> 30 != (base + bytes - 1) >> 30,
                    "{base:#x} {bytes:#x}"
                );
                continue;
            };
            let size = 4096_u64 << order;
            assert!(from.0.is_multiple_of(size));
            assert!(from.0 <= base && base + bytes <= from.0 + size);
            // Half of it would not do.
            let half = size / 2;
            let last = base + bytes.max(1) - 1;
            assert!(order == 0 || base / half != last / half);
        }
    }

    #[test]
    fn what_the_unit_cannot_take_at_once_forgets_the_domain() {
        let domain = Command::ForgetDomain(DOMAIN);
        let range = |base, bytes, most| Command::range(DOMAIN, Ipa(base), bytes, most);
        assert_eq!(range(0, 0x20_0000, 8), domain);
        assert_ne!(range(0, 0x20_0000, 9), domain);
        assert_eq!(range(0x4000_0000 - 0x1000, 0x2000, 17), domain);
        assert_eq!(range(u64::MAX, 2, 63), domain);
        assert_eq!(range(0, u64::MAX, 18), domain);
    }
}
