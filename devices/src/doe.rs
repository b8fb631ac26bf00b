// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data object exchange: the envelope of everything that goes through the mailbox.

/// Bytes of a data object before its payload.
pub const HEADER_SIZE: usize = 8;

const VENDOR_PCI_SIG: u16 = 1;

/// Data object types of PCI-SIG.
pub(crate) mod kind {
    pub(crate) const DISCOVERY: u8 = 0;
    pub(crate) const SPDM: u8 = 1;
    pub(crate) const SECURED_SPDM: u8 = 2;
}

/// The types that discovery lists, in order of index.
const TYPES: [u8; 3] = [kind::DISCOVERY, kind::SPDM, kind::SECURED_SPDM];

/// Splits a data object into type and payload; the payload includes padding.
pub(crate) fn decode(object: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    let (header, payload) = object
        .split_first_chunk::<HEADER_SIZE>()
        .ok_or("data object without a header")?;
    if u16::from_le_bytes([header[0], header[1]]) != VENDOR_PCI_SIG {
        return Err("data object of another vendor");
    }
    // Bits 17:0 count words with the header; 0 stands for 2^18.
    let words = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) & 0x3_ffff;
    if (words.wrapping_sub(1) & 0x3_ffff) as usize + 1 != object.len().div_ceil(4)
        || !object.len().is_multiple_of(4)
    {
        return Err("data object whose length is not its own");
    }
    Ok((header[2], payload))
}

/// Builds a data object, padded to words.
pub(crate) fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let words = ((HEADER_SIZE + payload.len()).div_ceil(4)) as u32;
    let mut object = VENDOR_PCI_SIG.to_le_bytes().to_vec();
    object.extend([kind, 0]);
    object.extend(words.to_le_bytes());
    object.extend(payload);
    object.resize(words as usize * 4, 0);
    object
}

/// Answers a discovery request.
pub(crate) fn discover(payload: &[u8]) -> Option<Vec<u8>> {
    let index = *payload.first()?;
    let kind = *TYPES.get(usize::from(index))?;
    let next = if usize::from(index) + 1 < TYPES.len() {
        index + 1
    } else {
        0
    };
    let [low, high] = VENDOR_PCI_SIG.to_le_bytes();
    Some(encode(kind::DISCOVERY, &[low, high, kind, next]))
}

#[cfg(test)]
mod tests {
    use super::{decode, discover, encode};

    #[test]
    fn objects_are_padded_and_come_back_padded() {
        let object = encode(1, &[0x10, 0x84, 0, 0, 5]);
        assert_eq!(
            object,
            [1, 0, 1, 0, 4, 0, 0, 0, 0x10, 0x84, 0, 0, 5, 0, 0, 0]
        );
        assert_eq!(
            decode(&object),
            Ok((1, &[0x10, 0x84, 0, 0, 5, 0, 0, 0][..]))
        );
    }

    #[test]
    fn objects_that_lie_about_themselves_are_refused() {
        let object = encode(1, &[0x10, 0x84, 0, 0]);
        for cut in 0..object.len() {
            assert!(decode(&object[..cut]).is_err());
        }
        for (place, value) in [(0, 2), (4, 2), (4, 4), (4, 0)] {
            let mut wrong = object.clone();
            wrong[place] = value;
            assert!(decode(&wrong).is_err());
        }
    }

    #[test]
    fn discovery_lists_three_types_and_ends() {
        let answer = |index| discover(&[index, 0, 0, 0]).map(|object| object[8..].to_vec());
        assert_eq!(answer(0).unwrap(), [1, 0, 0, 1]);
        assert_eq!(answer(1).unwrap(), [1, 0, 1, 2]);
        assert_eq!(answer(2).unwrap(), [1, 0, 2, 0]);
        assert!(answer(3).is_none());
        assert!(discover(&[]).is_none());
    }
}
