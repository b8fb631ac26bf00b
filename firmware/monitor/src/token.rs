// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The platform token: what started on this machine, signed.
//!
//! A COSE_Sign1 (RFC 9052, ES384) over the claims of the Arm CCA platform profile. The machine is
//! emulated and has no secret, so the signing key is made from a public text and the lifecycle claim
//! says "assembly and test": the token has the right form and true measurements, and proves nothing
//! about who made it.

use minicbor::encode::write::EndOfSlice;
use minicbor::encode::{Encoder, Error, Write};
use p384::ecdsa::signature::hazmat::PrehashSigner;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha384};

/// Bytes of a measurement: SHA-384.
pub const MEASUREMENT_SIZE: usize = 48;
/// Largest token, in bytes.
pub const TOKEN_SIZE: usize = 1024;
/// Largest set of claims, in bytes.
const CLAIMS_SIZE: usize = 640;
const SIGNATURE_SIZE: usize = 96;

/// What the signing key is made from.
const KEY_TEXT: &[u8] = b"Portcullis development platform key: public, proves nothing";
const PROFILE: &str = "tag:arm.com,2023:cca_platform#1.0.0";
/// Implementation id: 32 bytes.
const IMPLEMENTATION: &[u8; 32] = b"portcullis emulated platform    ";
/// Lifecycle "assembly and test".
const LIFECYCLE: u16 = 0x1000;
/// COSE_Sign1 tag and the protected header `{1: -35}`: ES384.
const SIGN1: u64 = 18;
const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];

/// Claim keys of the profile.
mod claim {
    pub const NONCE: u16 = 10;
    pub const INSTANCE: u16 = 256;
    pub const PROFILE: u16 = 265;
    pub const LIFECYCLE: u16 = 2395;
    pub const IMPLEMENTATION: u16 = 2396;
    pub const COMPONENTS: u16 = 2399;
    pub const CONFIGURATION: u16 = 2401;
    pub const HASH: u16 = 2402;
}

/// Measurements of the images that run below the host.
#[derive(Clone, Copy)]
pub struct Measurements {
    /// This monitor.
    pub monitor: [u8; MEASUREMENT_SIZE],
    /// The image at R-EL2, as it was loaded.
    pub realm: [u8; MEASUREMENT_SIZE],
}

impl Measurements {
    /// Measures the two images.
    #[must_use]
    pub fn of(monitor: &[u8], realm: &[u8]) -> Self {
        Self {
            monitor: Sha384::digest(monitor).into(),
            realm: Sha384::digest(realm).into(),
        }
    }
}

/// Writes a token bound to `challenge` (32, 48 or 64 bytes) into `out`; returns its length, or none
/// if the challenge has another length.
#[must_use]
pub fn make(
    challenge: &[u8],
    measurements: &Measurements,
    out: &mut [u8; TOKEN_SIZE],
) -> Option<usize> {
    if !matches!(challenge.len(), 32 | 48 | 64) {
        return None;
    }
    let key = SigningKey::from_slice(&Sha384::digest(KEY_TEXT)).ok()?;
    let mut claims = [0; CLAIMS_SIZE];
    let length = encode_claims(challenge, measurements, &key, &mut claims).ok()?;
    let claims = claims.get(..length)?;
    let signature = sign(&key, claims)?;
    encode_token(claims, &signature, out).ok()
}

type Full = Error<EndOfSlice>;

fn encode_claims(
    challenge: &[u8],
    measurements: &Measurements,
    key: &SigningKey,
    out: &mut [u8],
) -> Result<usize, Full> {
    // A UEID of the random kind (RFC 9711): here the hash of the public key.
    let mut instance = [0; 33];
    instance[0] = 1;
    let point = key.verifying_key().to_sec1_point(false);
    instance[1..].copy_from_slice(&Sha384::digest(point.as_bytes())[..32]);

    let room = out.len();
    let mut encoder = Encoder::new(out);
    encoder
        .map(8)?
        .u16(claim::PROFILE)?
        .str(PROFILE)?
        .u16(claim::NONCE)?
        .bytes(challenge)?
        .u16(claim::IMPLEMENTATION)?
        .bytes(IMPLEMENTATION)?
        .u16(claim::INSTANCE)?
        .bytes(&instance)?
        .u16(claim::CONFIGURATION)?
        .bytes(&[])?
        .u16(claim::LIFECYCLE)?
        .u16(LIFECYCLE)?
        .u16(claim::HASH)?
        .str("sha-384")?
        .u16(claim::COMPONENTS)?
        .array(2)?;
    for (name, value) in [("EL3", &measurements.monitor), ("RMM", &measurements.realm)] {
        encode_component(&mut encoder, name, value, &instance[1..])?;
    }
    Ok(room.saturating_sub(encoder.writer().len()))
}

fn encode_component<W: Write>(
    encoder: &mut Encoder<W>,
    name: &str,
    value: &[u8],
    signer: &[u8],
) -> Result<(), Error<W::Error>> {
    // Keys: component type, measurement value, version, signer id.
    encoder
        .map(4)?
        .u8(1)?
        .str(name)?
        .u8(2)?
        .bytes(value)?
        .u8(4)?
        .str(env!("CARGO_PKG_VERSION"))?
        .u8(5)?
        .bytes(signer)?;
    Ok(())
}

/// Signs `["Signature1", protected, h'', claims]`.
fn sign(key: &SigningKey, claims: &[u8]) -> Option<[u8; SIGNATURE_SIZE]> {
    let mut head = [0; 24];
    let room = head.len();
    let mut encoder = Encoder::new(&mut head[..]);
    encoder
        .array(4)
        .and_then(|e| e.str("Signature1"))
        .and_then(|e| e.bytes(PROTECTED))
        .and_then(|e| e.bytes(&[]))
        .ok()?;
    let length = room.saturating_sub(encoder.writer().len());
    let mut payload = [0; 8];
    let room = payload.len();
    let mut encoder = Encoder::new(&mut payload[..]);
    encoder.bytes_len(claims.len() as u64).ok()?;
    let prefix = room.saturating_sub(encoder.writer().len());
    let digest = Sha384::new()
        .chain_update(head.get(..length)?)
        .chain_update(payload.get(..prefix)?)
        .chain_update(claims)
        .finalize();
    let signature: Signature = key.sign_prehash(&digest).ok()?;
    Some(signature.to_bytes().into())
}

fn encode_token(claims: &[u8], signature: &[u8], out: &mut [u8]) -> Result<usize, Full> {
    let room = out.len();
    let mut encoder = Encoder::new(out);
    encoder
        .tag(minicbor::data::Tag::new(SIGN1))?
        .array(4)?
        .bytes(PROTECTED)?
        .map(0)?
        .bytes(claims)?
        .bytes(signature)?;
    Ok(room.saturating_sub(encoder.writer().len()))
}

#[cfg(test)]
mod tests {
    use minicbor::Decoder;
    use p384::ecdsa::signature::Verifier;
    use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
    use sha2::{Digest, Sha384};

    use super::{KEY_TEXT, Measurements, PROTECTED, TOKEN_SIZE, claim, make};

    const MEASUREMENTS: Measurements = Measurements {
        monitor: [0x11; 48],
        realm: [0x22; 48],
    };

    fn token(challenge: &[u8]) -> Vec<u8> {
        let mut out = [0; TOKEN_SIZE];
        let length = make(challenge, &MEASUREMENTS, &mut out).unwrap();
        out[..length].to_vec()
    }

    /// Returns claims and signature.
    fn open(token: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut decoder = Decoder::new(token);
        assert_eq!(decoder.tag().unwrap().as_u64(), 18);
        assert_eq!(decoder.array().unwrap(), Some(4));
        assert_eq!(decoder.bytes().unwrap(), PROTECTED);
        assert_eq!(decoder.map().unwrap(), Some(0));
        let claims = decoder.bytes().unwrap().to_vec();
        (claims, decoder.bytes().unwrap().to_vec())
    }

    #[test]
    fn the_signature_is_over_what_cose_says() {
        let (claims, signature) = open(&token(&[7; 64]));
        // RFC 9052, 4.4, written out by hand.
        let mut signed = vec![0x84, 0x6a];
        signed.extend(b"Signature1");
        signed.push(0x44);
        signed.extend(PROTECTED);
        signed.extend([0x40, 0x59]);
        signed.extend((claims.len() as u16).to_be_bytes());
        signed.extend(&claims);
        let key = SigningKey::from_slice(&Sha384::digest(KEY_TEXT)).unwrap();
        let signature = Signature::from_slice(&signature).unwrap();
        assert!(VerifyingKey::from(&key).verify(&signed, &signature).is_ok());
        signed.push(0);
        assert!(
            VerifyingKey::from(&key)
                .verify(&signed, &signature)
                .is_err()
        );
    }

    #[test]
    fn the_claims_carry_challenge_lifecycle_and_measurements() {
        let (claims, _) = open(&token(&[9; 48]));
        let mut decoder = Decoder::new(&claims);
        let count = decoder.map().unwrap().unwrap();
        let mut seen = Vec::new();
        for _ in 0..count {
            let key = decoder.u16().unwrap();
            seen.push(key);
            match key {
                claim::NONCE => assert_eq!(decoder.bytes().unwrap(), [9; 48]),
                claim::LIFECYCLE => assert_eq!(decoder.u16().unwrap(), 0x1000),
                claim::COMPONENTS => {
                    assert_eq!(decoder.array().unwrap(), Some(2));
                    for value in [[0x11; 48], [0x22; 48]] {
                        assert_eq!(decoder.map().unwrap(), Some(4));
                        decoder.u8().unwrap();
                        decoder.str().unwrap();
                        assert_eq!(decoder.u8().unwrap(), 2);
                        assert_eq!(decoder.bytes().unwrap(), value);
                        for _ in 0..4 {
                            decoder.skip().unwrap();
                        }
                    }
                }
                _ => decoder.skip().unwrap(),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [10, 256, 265, 2395, 2396, 2399, 2401, 2402]);
    }

    #[test]
    fn a_challenge_of_another_length_gets_no_token() {
        for length in [0, 1, 31, 33, 65] {
            let mut out = [0; TOKEN_SIZE];
            let challenge = vec![1; length];
            assert!(make(&challenge, &MEASUREMENTS, &mut out).is_none());
        }
    }
}
