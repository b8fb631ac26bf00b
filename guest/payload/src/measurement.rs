// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's measurements: one signed `MEASUREMENTS` message of SPDM 1.2 to 1.4.

use sha2::{Digest as _, Sha256, Sha384};

use crate::agreed::{Agreed, Hash};
use crate::key::DeviceKey;

const SPDM_1_3: u8 = 0x13;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// Attribute of the request: sign.
const SIGN: u8 = 1;
/// Operation of the request: all blocks.
const ALL_BLOCKS: u8 = 0xff;
/// Bytes of the response between the record and the opaque data: nonce and length.
const NONCE_AND_LENGTH: usize = 34;
/// Bytes of what the requester said and the device repeats (SPDM 1.3).
const CONTEXT_SIZE: usize = 8;
/// What the signature is for.
const PURPOSE: &[u8] = b"responder-measurements signing";

/// Why measurements are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not such a message.
    Malformed,
    /// The signature is not the device's over this message and the guest's request.
    Signature,
    /// The block is not there, or has another value.
    Value,
}

/// One measurement block in DMTF format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block<'a> {
    index: u8,
    /// Type of the value; bit 7 says that it is not a digest.
    kind: u8,
    value: &'a [u8],
}

/// A message whose form is right.
#[derive(Clone, Copy, Debug)]
pub struct Measurements<'a> {
    /// Everything before the signature.
    signed: &'a [u8],
    record: &'a [u8],
    /// What the TSM said in the request, which it compared.
    context: &'a [u8],
    signature: &'a [u8],
    agreed: Agreed,
}

/// Puts `digest` behind the 100 bytes that every signature begins with; returns the length of both.
fn put(out: &mut [u8; 48], digest: &[u8]) -> usize {
    for (slot, byte) in out.iter_mut().zip(digest) {
        *slot = *byte;
    }
    digest.len().saturating_add(100)
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(first)
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

impl<'a> Measurements<'a> {
    /// Takes a message apart that ends with a signature by `key`.
    ///
    /// # Errors
    /// [`Error::Malformed`], also when the message is not signed.
    pub fn parse(message: &'a [u8], agreed: Agreed, key: &DeviceKey<'_>) -> Result<Self, Error> {
        Self::take_apart(message, agreed, key.signature_size()).ok_or(Error::Malformed)
    }

    fn take_apart(message: &'a [u8], agreed: Agreed, signature_size: usize) -> Option<Self> {
        let end = message.len().checked_sub(signature_size)?;
        let (signed, signature) = message.split_at_checked(end)?;
        let mut rest = signed;
        let [version, MEASUREMENTS, _, _, count, a, b, c] = *split(&mut rest, 8)? else {
            return None;
        };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, 0])).ok()?;
        let record = split(&mut rest, length)?;
        let opaque = split(&mut rest, NONCE_AND_LENGTH)?.last_chunk::<2>()?;
        split(&mut rest, usize::from(u16::from_le_bytes(*opaque)))?;
        let has_context = agreed.version >= SPDM_1_3;
        let context = split(&mut rest, if has_context { CONTEXT_SIZE } else { 0 })?;
        let this = Self {
            signed,
            record,
            context,
            signature,
            agreed,
        };
        let is_whole =
            version == agreed.version && rest.is_empty() && this.count()? == usize::from(count);
        is_whole.then_some(this)
    }

    /// Returns the number of blocks, or none if one is malformed.
    fn count(&self) -> Option<usize> {
        let mut rest = self.record;
        let mut count = 0_usize;
        while !rest.is_empty() {
            block(&mut rest)?;
            count = count.checked_add(1)?;
        }
        Some(count)
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let mut rest = self.record;
        core::iter::from_fn(move || block(&mut rest))
    }

    /// Checks the device's signature over the exchange: `vca` is what came before in the
    /// transcript, and the request is the one for all blocks with the guest's `nonce` and the
    /// certificate `slot`. So the message was made for this guest, after it chose the nonce.
    ///
    /// # Errors
    /// [`Error::Signature`].
    pub fn verify_signature(
        &self,
        vca: &[u8],
        nonce: &[u8; 32],
        slot: u8,
        key: &DeviceKey<'_>,
    ) -> Result<(), Error> {
        let Agreed { version, hash } = self.agreed;
        let parts = [
            vca,
            &[version, GET_MEASUREMENTS, SIGN, ALL_BLOCKS],
            nonce,
            &[slot],
            self.context,
            self.signed,
        ];
        // DSP0274, 15: version four times, zeros, the purpose up to byte 100, the digest.
        let mut message = [0; 148];
        let minor = b'0' | version & 0x0f;
        let label = *b"dmtf-spdm-v1.x.*";
        let label = label.map(|byte| if byte == b'x' { minor } else { byte });
        let head = [label; 4];
        let head = head.iter().flatten();
        let purpose = [&[0; 6], PURPOSE].into_iter().flatten();
        for (slot, byte) in message.iter_mut().zip(head.chain(purpose)) {
            *slot = *byte;
        }
        let (_, digest) = message
            .split_last_chunk_mut::<48>()
            .ok_or(Error::Malformed)?;
        let size = match hash {
            Hash::Sha256 => {
                let hasher = parts.into_iter().fold(Sha256::new(), Sha256::chain_update);
                put(digest, &hasher.finalize())
            }
            Hash::Sha384 => {
                let hasher = parts.into_iter().fold(Sha384::new(), Sha384::chain_update);
                put(digest, &hasher.finalize())
            }
        };
        let message = message.get(..size).ok_or(Error::Malformed)?;
        if key.verifies(hash, PURPOSE, message, self.signature) {
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
        let mut found = self.blocks().filter(|block| block.index == index);
        let block = found.next().ok_or(Error::Value)?;
        let is_digest = block.kind & 0x80 == 0;
        if found.next().is_none() && is_digest && block.value == expected {
            Ok(())
        } else {
            Err(Error::Value)
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256, Sha384};

    use super::{Error, Measurements};
    use crate::agreed::{Agreed, Hash};
    use crate::certificate::tests::{Kind, good_chain, good_chain_of};
    use crate::certificate::verify_chain;
    use crate::key::DeviceKey;

    const AGREED: Agreed = Agreed {
        version: 0x12,
        hash: Hash::Sha384,
    };
    const VCA: &[u8] = b"version, capabilities, algorithms";
    const NONCE: [u8; 32] = [0x5a; 32];
    const FIRMWARE: [u8; 48] = [0xf1; 48];

    fn response(blocks: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, kind, value) in blocks {
            let length = value.len() as u8;
            record.extend([*index, 1, length + 3, 0, *kind, length, 0]);
            record.extend_from_slice(value);
        }
        let (count, length) = (blocks.len() as u8, record.len() as u8);
        let mut message = vec![0x12, 0x60, 0, 0, count, length, 0, 0];
        message.extend(record);
        message.extend([0x77; 32]);
        message.extend([2, 0, 0xaa, 0xbb]);
        message
    }

    fn sign(message: &[u8]) -> Vec<u8> {
        let transcript = Sha384::new()
            .chain_update(VCA)
            .chain_update([0x12, 0xe0, 1, 0xff])
            .chain_update(NONCE)
            .chain_update([0])
            .chain_update(message);
        let mut input = b"dmtf-spdm-v1.2.*".repeat(4);
        input.extend([0; 6]);
        input.extend(b"responder-measurements signing");
        input.extend(transcript.finalize());
        let signature = Kind::P384.sign(3, &[], &input);
        [message, &signature].concat()
    }

    fn device_key() -> DeviceKey<'static> {
        let (chain, root) = good_chain();
        verify_chain(chain.leak(), &root, Hash::Sha384).unwrap()
    }

    fn parse(message: &[u8]) -> Result<Measurements<'_>, Error> {
        Measurements::parse(message, AGREED, &device_key())
    }

    fn good() -> Vec<u8> {
        sign(&response(&[(1, 1, &FIRMWARE), (2, 0x83, b"raw")]))
    }

    #[test]
    fn measurements_signed_for_our_nonce_are_accepted() {
        let message = good();
        let measurements = parse(&message).unwrap();
        assert_eq!(
            measurements.verify_signature(VCA, &NONCE, 0, &device_key()),
            Ok(())
        );
        assert_eq!(measurements.verify_digest(1, &FIRMWARE), Ok(()));
    }

    #[test]
    fn measurements_made_for_another_exchange_are_refused() {
        let message = good();
        let key = device_key();
        let measurements = parse(&message).unwrap();
        let refused = Err(Error::Signature);
        assert_eq!(
            measurements.verify_signature(VCA, &[0; 32], 0, &key),
            refused
        );
        assert_eq!(measurements.verify_signature(VCA, &NONCE, 1, &key), refused);
        assert_eq!(
            measurements.verify_signature(b"other", &NONCE, 0, &key),
            refused
        );
    }

    #[test]
    fn a_wrong_measurement_is_refused() {
        let refused = |blocks: &[(u8, u8, &[u8])]| {
            let message = sign(&response(blocks));
            let measurements = parse(&message).unwrap();
            measurements.verify_digest(1, &FIRMWARE)
        };
        assert_eq!(refused(&[(1, 1, &[0xf2; 48])]), Err(Error::Value));
        assert_eq!(refused(&[(2, 1, &FIRMWARE)]), Err(Error::Value));
        let twice: [(u8, u8, &[u8]); 2] = [(1, 1, &FIRMWARE), (1, 1, &FIRMWARE)];
        assert_eq!(refused(&twice), Err(Error::Value));
        assert_eq!(refused(&[(1, 0x81, &FIRMWARE)]), Err(Error::Value));
        assert_eq!(refused(&[]), Err(Error::Value));
    }

    #[test]
    fn a_changed_byte_breaks_the_signature_or_the_form() {
        let message = good();
        let key = device_key();
        for index in 0..message.len() {
            let mut changed = message.clone();
            changed[index] ^= 1;
            let verdict = Measurements::parse(&changed, AGREED, &key)
                .and_then(|measurements| measurements.verify_signature(VCA, &NONCE, 0, &key));
            assert!(verdict.is_err(), "byte {index}");
        }
        for end in 0..message.len() {
            assert!(Measurements::parse(&message[..end], AGREED, &key).is_err());
        }
    }

    #[test]
    fn unsigned_measurements_are_refused() {
        let message = response(&[(1, 1, &FIRMWARE)]);
        assert_eq!(parse(&message).err(), Some(Error::Malformed));
    }

    #[test]
    fn every_version_and_algorithm_signs_its_own_form() {
        for (version, kind, hash) in [
            (0x12, Kind::P256, Hash::Sha256),
            (0x13, Kind::P256, Hash::Sha256),
            (0x13, Kind::P384, Hash::Sha384),
            (0x14, Kind::MlDsa65, Hash::Sha256),
            (0x14, Kind::MlDsa87, Hash::Sha384),
        ] {
            let mut message = response(&[(1, 1, &FIRMWARE)]);
            message[0] = version;
            let context: &[u8] = if version == 0x12 { b"" } else { b"requests" };
            message.extend(context);
            let head = [version, 0xe0, 1, 0xff];
            let covered = [VCA, &head, &NONCE, &[0], context, &message].concat();
            let mut input = format!("dmtf-spdm-v1.{}.*", version & 0xf).repeat(4);
            input += "\0\0\0\0\0\0responder-measurements signing";
            let mut input = input.into_bytes();
            match hash {
                Hash::Sha256 => input.extend(Sha256::digest(&covered)),
                Hash::Sha384 => input.extend(Sha384::digest(&covered)),
            }
            message.extend(kind.sign(3, b"responder-measurements signing", &input));

            let (chain, root) = good_chain_of(kind);
            let key = verify_chain(&chain, &root, Hash::Sha384).unwrap();
            let agreed = Agreed { version, hash };
            let measurements = Measurements::parse(&message, agreed, &key).unwrap();
            assert_eq!(measurements.verify_digest(1, &FIRMWARE), Ok(()));
            let verdict = |nonce| measurements.verify_signature(VCA, nonce, 0, &key);
            assert_eq!(verdict(&NONCE), Ok(()), "{kind:?}");
            assert_eq!(verdict(&[1; 32]), Err(Error::Signature), "{kind:?}");
            let other = Agreed {
                version: version ^ 1,
                hash,
            };
            assert!(Measurements::parse(&message, other, &key).is_err());
        }
    }
}
