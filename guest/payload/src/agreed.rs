// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What device and TSM agreed on, as the negotiation says that the evidence begins with.

/// A hash of SPDM transcripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

/// Version and hash of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// First byte of each message: 0x12 to 0x14.
    pub version: u8,
    /// What transcripts are hashed with.
    pub hash: Hash,
}

/// Reports a negotiation that is not one, or agreed on what is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

const CAPABILITIES_SIZE: usize = 20;
const SHA_256: u32 = 0x01;
const SHA_384: u32 = 0x02;

impl Agreed {
    /// Reads GET_VERSION to ALGORITHMS.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(vca: &[u8]) -> Result<Self, Malformed> {
        Self::take_apart(vca).ok_or(Malformed)
    }

    fn take_apart(vca: &[u8]) -> Option<Self> {
        let ([0x10, 0x84, _, _, 0x10, 0x04, _, _, _, entries], rest) =
            vca.split_first_chunk::<10>()?
        else {
            return None;
        };
        let (_, rest) = rest.split_at_checked(usize::from(*entries).checked_mul(2)?)?;
        let (_, rest) = rest.split_at_checked(2 * CAPABILITIES_SIZE)?;
        let [version @ 0x12..=0x14, 0xe3, _, _, low, high, ..] = *rest else {
            return None;
        };
        let (_, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        let [again, 0x63, _, _, low, high, ..] = *rest else {
            return None;
        };
        let hash = rest.get(16..20)?.first_chunk()?;
        let hash = match u32::from_le_bytes(*hash) {
            SHA_256 => Hash::Sha256,
            SHA_384 => Hash::Sha384,
            _ => return None,
        };
        let whole = rest.len() == usize::from(u16::from_le_bytes([low, high]));
        (whole && version == again).then_some(Self { version, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::{Agreed, Hash, Malformed};

    fn negotiation(version: u8, hash: u8) -> Vec<u8> {
        let mut vca = vec![
            0x10, 0x84, 0, 0, 0x10, 0x04, 0, 0, 0, 2, 0, 0x12, 0, version,
        ];
        vca.extend([version; 40]);
        vca.extend([version, 0xe3, 0, 0, 32, 0]);
        vca.resize(vca.len() + 26, 0);
        vca.extend([version, 0x63, 0, 0, 36, 0]);
        vca.resize(vca.len() + 10, 0);
        vca.extend([hash, 0, 0, 0]);
        vca.resize(vca.len() + 16, 0);
        vca
    }

    #[test]
    fn version_and_hash_are_found_in_the_negotiation() {
        for version in [0x12, 0x13, 0x14] {
            for (bit, hash) in [(1, Hash::Sha256), (2, Hash::Sha384)] {
                let agreed = Agreed::read(&negotiation(version, bit));
                assert_eq!(agreed, Ok(Agreed { version, hash }));
            }
        }
    }

    #[test]
    fn what_is_not_a_negotiation_is_refused() {
        let good = negotiation(0x13, 2);
        for end in 0..good.len() {
            assert_eq!(Agreed::read(&good[..end]), Err(Malformed));
        }
        assert_eq!(Agreed::read(&[&good[..], &[0]].concat()), Err(Malformed));
        for (version, hash) in [(0x11, 2), (0x15, 2), (0x13, 0), (0x13, 3), (0x13, 4)] {
            assert_eq!(Agreed::read(&negotiation(version, hash)), Err(Malformed));
        }
    }
}
