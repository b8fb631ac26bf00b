// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest owner's policy page. It is measured with the guest's image, so the host cannot choose
//! another device.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::Digest;

/// Value of the first field.
const MAGIC: [u8; 8] = *b"PCPOLICY";

/// Which device the owner wants, and what is known of its contents.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Policy {
    magic: [u8; 8],
    version: U32,
    _reserved: [u8; 4],
    /// Digest of the root certificate of the device's maker.
    pub root: Digest,
    /// Digest of the 4096 bytes at [`Self::known_lba`].
    pub known_block: Digest,
    /// Digest that the device's measurement block 1 must report.
    pub firmware: Digest,
    /// Where the known block starts, in 512-byte blocks.
    pub known_lba: U64,
    /// Where the guest may write 4096 bytes, in 512-byte blocks.
    pub scratch_lba: U64,
}

impl Policy {
    /// Reads the policy from the start of `page`; `None` if it is not one of this version.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        let (policy, _) = Self::read_from_prefix(page).ok()?;
        (policy.magic == MAGIC && policy.version.get() == 1).then_some(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;

    fn page() -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(b"PCPOLICY");
        page[8] = 1;
        page[0x10] = 0x11;
        page[0x40] = 0x22;
        page[0x70] = 0x33;
        page[0xa0] = 8;
        page[0xa8] = 16;
        page
    }

    #[test]
    fn the_fields_are_where_the_owner_puts_them() {
        let policy = Policy::parse(&page()).unwrap();
        assert_eq!(policy.root[0], 0x11);
        assert_eq!(policy.known_block[0], 0x22);
        assert_eq!(policy.firmware[0], 0x33);
        assert_eq!((policy.known_lba.get(), policy.scratch_lba.get()), (8, 16));
    }

    #[test]
    fn another_version_or_no_policy_is_refused() {
        let mut other = page();
        other[8] = 2;
        assert!(Policy::parse(&other).is_none());
        assert!(Policy::parse(&[0; 4096]).is_none());
        assert!(Policy::parse(&page()[..0xaf]).is_none());
    }
}
