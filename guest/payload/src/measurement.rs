// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's measurements: SPDM 1.2 `GET_MEASUREMENTS` and `MEASUREMENTS` messages, as many as
//! the TSM exchanged, in order.

use sha2::{Digest as _, Sha384};

use crate::certificate::DeviceKey;

/// Most messages in one object.
const MAX_MESSAGES: usize = 32;

const SPDM_1_2: u8 = 0x12;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
const SIGNATURE_SIZE: usize = 96;

/// Why measurements are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not such messages.
    Malformed,
    /// The exchange was made with another nonce than the guest's.
    Nonce,
    /// The signature is missing or wrong.
    Signature,
    /// The block is not there, or has another value.
    Value,
}

/// One measurement block in DMTF format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Index of the block, from 1.
    pub index: u8,
    /// Type of the value; bit 7 says that it is not a digest.
    pub kind: u8,
    /// The value.
    pub value: &'a [u8],
}

/// A parsed object.
#[derive(Clone, Copy, Debug)]
pub struct Measurements<'a> {
    object: &'a [u8],
    /// Everything before the signature.
    signed: &'a [u8],
    signature: &'a [u8],
    nonce: Option<&'a [u8]>,
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(first)
}

/// Takes a response without its signature from `rest`; returns its measurement record.
fn response<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let head = split(rest, 8)?;
    let [SPDM_1_2, MEASUREMENTS, _, _, _, a, b, c] = *head else {
        return None;
    };
    let length = usize::try_from(u32::from_le_bytes([a, b, c, 0])).ok()?;
    let record = split(rest, length)?;
    let nonce_and_length = split(rest, 34)?;
    let opaque = nonce_and_length.last_chunk::<2>()?;
    split(rest, usize::from(u16::from_le_bytes(*opaque)))?;
    Some(record)
}

impl<'a> Measurements<'a> {
    /// Takes an object apart.
    ///
    /// # Errors
    /// [`Error::Malformed`], also when the last exchange is not a signed one.
    pub fn parse(object: &'a [u8]) -> Result<Self, Error> {
        Self::walk(object, |_| {}).ok_or(Error::Malformed)
    }

    /// Walks over the messages, and over the blocks of each response.
    fn walk(object: &'a [u8], mut visit: impl FnMut(Block<'a>)) -> Option<Self> {
        let mut rest = object;
        let mut signature_wanted = None;
        let mut nonce = None;
        for _ in 0..MAX_MESSAGES {
            if let [SPDM_1_2, GET_MEASUREMENTS, attributes, ..] = rest {
                let signs = attributes & 1 != 0;
                let request = split(&mut rest, if signs { 37 } else { 4 })?;
                nonce = request.get(4..36);
                signature_wanted = Some(signs);
                continue;
            }
            let mut record = response(&mut rest)?;
            while !record.is_empty() {
                visit(block(&mut record)?);
            }
            // Without its request, a response shows only by its size that it is signed.
            if signature_wanted.unwrap_or(rest.len() == SIGNATURE_SIZE) {
                let signed = object.get(..object.len().checked_sub(rest.len())?)?;
                let signature = split(&mut rest, SIGNATURE_SIZE)?;
                // A signature ends what it covers.
                return rest.is_empty().then_some(Self {
                    object,
                    signed,
                    signature,
                    nonce,
                });
            }
        }
        None
    }

    /// Checks that the exchange was made for `nonce`. Whether the object has it depends on the TSM;
    /// if it has none, the TSM's own nonces must prove freshness.
    ///
    /// # Errors
    /// [`Error::Nonce`].
    pub fn verify_nonce(&self, nonce: &[u8; 32]) -> Result<(), Error> {
        match self.nonce {
            Some(seen) if seen != nonce => Err(Error::Nonce),
            _ => Ok(()),
        }
    }

    /// Checks the device's signature; `vca` is what came before in the transcript.
    ///
    /// # Errors
    /// [`Error::Signature`].
    pub fn verify_signature(&self, vca: &[u8], key: &DeviceKey) -> Result<(), Error> {
        let transcript = Sha384::new()
            .chain_update(vca)
            .chain_update(self.signed)
            .finalize();
        let mut message = [0; 148];
        let parts = [
            b"dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*".as_slice(),
            // DSP0274, 15: the context ends at byte 100.
            &[0; 6],
            b"responder-measurements signing",
            &transcript,
        ];
        for (slot, byte) in message.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *byte;
        }
        if key.verifies(&message, self.signature) {
            Ok(())
        } else {
            Err(Error::Signature)
        }
    }

    /// Checks that block `index` is there once and is the digest `expected`.
    ///
    /// # Errors
    /// [`Error::Value`].
    pub fn verify_digest(&self, index: u8, expected: &[u8; 48]) -> Result<(), Error> {
        let mut seen = 0_usize;
        let mut equal = true;
        Self::walk(self.object, |block| {
            if block.index == index {
                seen = seen.saturating_add(1);
                equal &= block.kind & 0x80 == 0 && block.value == expected;
            }
        });
        if seen == 1 && equal {
            Ok(())
        } else {
            Err(Error::Value)
        }
    }
}

fn block<'a>(record: &mut &'a [u8]) -> Option<Block<'a>> {
    let [index, 1, size_low, size_high] = *split(record, 4)? else {
        return None;
    };
    let size = usize::from(u16::from_le_bytes([size_low, size_high]));
    let [kind, low, high, value @ ..] = split(record, size)? else {
        return None;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    (value.len() == length).then_some(Block {
        index,
        kind: *kind,
        value,
    })
}

#[cfg(test)]
mod tests {
    use p384::ecdsa::Signature;
    use p384::ecdsa::signature::Signer;
    use sha2::{Digest as _, Sha384};

    use super::{Error, Measurements};
    use crate::certificate::tests::{good_chain, key};
    use crate::certificate::{DeviceKey, verify_chain};

    const VCA: &[u8] = b"version, capabilities, algorithms";
    const NONCE: [u8; 32] = [0x5a; 32];

    fn request(signed: bool) -> Vec<u8> {
        if signed {
            [&[0x12, 0xe0, 1, 0xff], &NONCE[..], &[0]].concat()
        } else {
            vec![0x12, 0xe0, 0, 0]
        }
    }

    fn response(blocks: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, kind, value) in blocks {
            record.extend([
                *index,
                1,
                value.len() as u8 + 3,
                0,
                *kind,
                value.len() as u8,
                0,
            ]);
            record.extend_from_slice(value);
        }
        let mut message = vec![
            0x12,
            0x60,
            0,
            0,
            blocks.len() as u8,
            record.len() as u8,
            0,
            0,
        ];
        message.extend(record);
        message.extend([0x77; 32]);
        message.extend([2, 0, 0xaa, 0xbb]);
        message
    }

    fn sign(messages: &[u8]) -> Vec<u8> {
        let transcript = Sha384::new().chain_update(VCA).chain_update(messages);
        let mut input = b"dmtf-spdm-v1.2.*".repeat(4);
        input.extend([0; 6]);
        input.extend(b"responder-measurements signing");
        input.extend(transcript.finalize());
        let signature: Signature = key(3).sign(&input);
        [messages, &signature.to_bytes()].concat()
    }

    fn device_key() -> DeviceKey {
        let (chain, root) = good_chain();
        verify_chain(&chain, &root).unwrap()
    }

    fn good() -> Vec<u8> {
        let firmware = [0xf1; 48];
        let blocks: [(u8, u8, &[u8]); 2] = [(1, 1, &firmware), (2, 0x83, b"raw")];
        sign(&[request(true), response(&blocks)].concat())
    }

    #[test]
    fn signed_measurements_with_our_nonce_are_accepted() {
        let object = good();
        let measurements = Measurements::parse(&object).unwrap();
        assert_eq!(measurements.verify_nonce(&NONCE), Ok(()));
        assert_eq!(measurements.verify_signature(VCA, &device_key()), Ok(()));
        assert_eq!(measurements.verify_digest(1, &[0xf1; 48]), Ok(()));
    }

    #[test]
    fn several_exchanges_under_one_signature_are_walked() {
        let first = [request(false), response(&[])].concat();
        let second = [request(true), response(&[(1, 1, &[0xf1; 48])])].concat();
        let object = sign(&[first, second].concat());
        let measurements = Measurements::parse(&object).unwrap();
        assert_eq!(measurements.verify_signature(VCA, &device_key()), Ok(()));
        assert_eq!(measurements.verify_digest(1, &[0xf1; 48]), Ok(()));
    }

    #[test]
    fn a_response_without_its_request_is_told_by_its_size() {
        let object = sign(&response(&[(1, 1, &[0xf1; 48])]));
        let measurements = Measurements::parse(&object).unwrap();
        assert_eq!(measurements.verify_nonce(&[0; 32]), Ok(()));
        assert_eq!(measurements.verify_signature(VCA, &device_key()), Ok(()));
    }

    #[test]
    fn another_nonce_is_refused() {
        let object = good();
        let measurements = Measurements::parse(&object).unwrap();
        assert_eq!(measurements.verify_nonce(&[0; 32]), Err(Error::Nonce));
    }

    #[test]
    fn a_wrong_measurement_is_refused() {
        let object = good();
        let measurements = Measurements::parse(&object).unwrap();
        assert_eq!(
            measurements.verify_digest(1, &[0xf2; 48]),
            Err(Error::Value)
        );
        assert_eq!(
            measurements.verify_digest(3, &[0xf1; 48]),
            Err(Error::Value)
        );
        let raw = [0xf1; 48];
        let twice = sign(&response(&[(1, 1, &raw), (1, 1, &raw)]));
        let measurements = Measurements::parse(&twice).unwrap();
        assert_eq!(measurements.verify_digest(1, &raw), Err(Error::Value));
        let not_a_digest = sign(&response(&[(1, 0x81, &raw)]));
        let measurements = Measurements::parse(&not_a_digest).unwrap();
        assert_eq!(measurements.verify_digest(1, &raw), Err(Error::Value));
    }

    #[test]
    fn a_changed_byte_breaks_the_signature_or_the_form() {
        let object = good();
        let key = device_key();
        for index in 0..object.len() {
            let mut changed = object.clone();
            changed[index] ^= 1;
            let verdict = Measurements::parse(&changed)
                .and_then(|measurements| measurements.verify_signature(VCA, &key));
            assert!(verdict.is_err(), "byte {index}");
        }
        for end in 0..object.len() {
            assert!(Measurements::parse(&object[..end]).is_err());
        }
        let measurements = Measurements::parse(&object).unwrap();
        assert_eq!(
            measurements.verify_signature(b"another", &key),
            Err(Error::Signature)
        );
    }

    #[test]
    fn unsigned_measurements_are_refused() {
        let object = [request(false), response(&[(1, 1, &[0xf1; 48])])].concat();
        assert_eq!(Measurements::parse(&object).err(), Some(Error::Malformed));
    }
}
