// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finds a device's public key in its certificate chain, without judging the chain.
//!
//! The TSM checks that the device proves the key that it is given, and the guest checks the chain.
//! A host that picks the wrong bytes only locks itself out.

/// Bytes before the certificates in SPDM's chain format: length, reserved, the root's digest, which
/// is of SHA-384 or SHA-256.
const CHAIN_HEADERS: [usize; 2] = [4 + 48, 4 + 32];
/// Longest chain that is walked.
const MOST_CERTIFICATES: usize = 16;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const VERSION: u8 = 0xa0;

/// Splits the element with `tag` off the front of `data`: its contents and what follows.
fn element(data: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = data.split_first()?;
    if found != tag {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Returns the key in one certificate: the content of its bit string.
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let (body, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(body, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    (_, fields) = element(fields, INTEGER)?;
    // Signature algorithm, issuer, validity and subject.
    for _ in 0..4 {
        (_, fields) = element(fields, SEQUENCE)?;
    }
    let (key, _) = element(fields, SEQUENCE)?;
    let (_, bits) = element(key, SEQUENCE)?;
    let (bits, _) = element(bits, BIT_STRING)?;
    // No unused bits, then the key.
    let (&0, key) = bits.split_first()? else {
        return None;
    };
    Some(key)
}

/// Returns the key of the last of the certificates that fill `rest`.
fn last_key(mut rest: &[u8]) -> Option<&[u8]> {
    let mut last = None;
    for _ in 0..MOST_CERTIFICATES {
        if rest.is_empty() {
            break;
        }
        let certificate = rest;
        (_, rest) = element(rest, SEQUENCE)?;
        last = Some(certificate);
    }
    public_key(last?)
}

/// Returns the key of the last certificate of `chain`, which is in SPDM's chain format: an
/// uncompressed point (65 bytes on P-256, 97 on P-384) or an encoded ML-DSA key.
#[must_use]
pub fn leaf_public_key(chain: &[u8]) -> Option<&[u8]> {
    CHAIN_HEADERS
        .iter()
        .find_map(|header| last_key(chain.get(*header..)?))
}

#[cfg(test)]
mod tests {
    use super::{CHAIN_HEADERS, leaf_public_key};

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag, 0x82];
        out.extend_from_slice(&(content.len() as u16).to_be_bytes());
        out.extend_from_slice(content);
        out
    }

    fn certificate(key: u8) -> Vec<u8> {
        let mut bits = vec![0, 4];
        bits.extend_from_slice(&[key; 96]);
        let mut spki = tagged(0x30, &[]);
        spki.extend(tagged(0x03, &bits));
        let mut fields = tagged(0xa0, &[2, 1, 2]);
        fields.extend(tagged(0x02, &[1]));
        for _ in 0..4 {
            fields.extend(tagged(0x30, &[5, 0]));
        }
        fields.extend(tagged(0x30, &spki));
        tagged(0x30, &tagged(0x30, &fields))
    }

    #[test]
    fn the_key_of_the_last_certificate_is_found() {
        for header in CHAIN_HEADERS {
            let mut chain = vec![0; header];
            chain.extend(certificate(1));
            chain.extend(certificate(2));
            let key = leaf_public_key(&chain).unwrap();
            assert_eq!(key, [&[4][..], &[2; 96]].concat());
        }
    }

    #[test]
    fn no_cut_of_a_chain_is_misread() {
        for header in CHAIN_HEADERS {
            let mut chain = vec![0; header];
            chain.extend(certificate(7));
            for length in 0..chain.len() {
                assert_eq!(leaf_public_key(&chain[..length]), None);
            }
        }
    }
}
