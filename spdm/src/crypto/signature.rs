// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The responder's key, and its signatures.

use p384::ecdsa::signature::hazmat::PrehashVerifier;
use p384::elliptic_curve::sec1::ToSec1Point;

use super::{Digest, Fingerprint, HashAlgorithm, SignatureAlgorithm, Transcript, sha384};
use crate::wire::{Malformed, Version};

/// What a signature is for; it is part of what is signed, so that none can serve for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningContext {
    /// CHALLENGE_AUTH.
    ChallengeAuth,
    /// MEASUREMENTS.
    Measurements,
    /// KEY_EXCHANGE_RSP.
    KeyExchangeRsp,
}

impl SigningContext {
    /// Returns the words that stand for the context.
    #[must_use]
    pub const fn words(self) -> &'static [u8] {
        match self {
            Self::ChallengeAuth => b"responder-challenge_auth signing",
            Self::Measurements => b"responder-measurements signing",
            Self::KeyExchangeRsp => b"responder-key_exchange_rsp signing",
        }
    }
}

/// Bytes before the digest in what is signed: a prefix, padding and the context.
pub const SIGNING_PREFIX_LENGTH: usize = 100;

/// Returns the bytes that stand before the digest in what is signed.
#[must_use]
pub fn signing_prefix(version: Version, context: SigningContext) -> [u8; SIGNING_PREFIX_LENGTH] {
    let words: &[u8; 16] = match version {
        Version::V1_3 => b"dmtf-spdm-v1.3.*",
        Version::V1_4 => b"dmtf-spdm-v1.4.*",
        _ => b"dmtf-spdm-v1.2.*",
    };
    let mut input = [0; SIGNING_PREFIX_LENGTH];
    for part in input.chunks_exact_mut(16).take(4) {
        part.copy_from_slice(words);
    }
    // The context stands at the end of its field of 36 bytes.
    for (byte, value) in input.iter_mut().rev().zip(context.words().iter().rev()) {
        *byte = *value;
    }
    input
}

/// What a signature is over.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// SPDM version of the conversation.
    pub version: Version,
    /// Hash that was agreed on.
    pub hash: HashAlgorithm,
    /// What the signature is for.
    pub context: SigningContext,
    /// Digest of the transcript.
    pub digest: &'a Digest,
}

impl Signed<'_> {
    /// Returns the digest that ECDSA signs.
    #[must_use]
    pub fn prehash(&self) -> Digest {
        Transcript::new(self.hash)
            .with(&signing_prefix(self.version, self.context))
            .with(self.digest.as_bytes())
            .digest()
    }
}

/// Most bytes of an uncompressed point: 4, `x`, `y`.
pub const MAX_POINT_LENGTH: usize = 97;

/// A device's public key: a point that is on its curve and not at infinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// Takes an uncompressed point: 65 bytes of P-256 or 97 of P-384.
    ///
    /// # Errors
    /// [`Malformed::Value`] if it is in another form or not on the curve.
    pub fn new(point: &[u8]) -> Result<Self, Malformed> {
        let kind = match point {
            [4, xy @ ..] if xy.len() == 64 => {
                p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map(Kind::P256)
            }
            [4, xy @ ..] if xy.len() == 96 => {
                p384::ecdsa::VerifyingKey::from_sec1_bytes(point).map(Kind::P384)
            }
            _ => return Err(Malformed::Value),
        };
        kind.map(Self).map_err(|_| Malformed::Value)
    }

    /// Returns what the key signs with.
    #[must_use]
    pub const fn algorithm(&self) -> SignatureAlgorithm {
        match self.0 {
            Kind::P256(_) => SignatureAlgorithm::EcdsaP256,
            Kind::P384(_) => SignatureAlgorithm::EcdsaP384,
        }
    }

    /// Writes the uncompressed point to the start of `out` and returns it.
    pub fn point<'a>(&self, out: &'a mut [u8; MAX_POINT_LENGTH]) -> &'a [u8] {
        match &self.0 {
            Kind::P256(key) => copied(key.as_affine().to_sec1_point(false).as_bytes(), out),
            Kind::P384(key) => copied(key.as_affine().to_sec1_point(false).as_bytes(), out),
        }
    }

    /// Returns the SHA-384 digest of the uncompressed point.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        sha384(self.point(&mut [0; MAX_POINT_LENGTH]))
    }

    /// Returns whether `signature` is this key's over what was `signed`.
    #[must_use]
    pub fn verifies(&self, signed: &Signed<'_>, signature: &[u8]) -> bool {
        let prehash = signed.prehash();
        let prehash = prehash.as_bytes();
        match &self.0 {
            Kind::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(prehash, &signature).is_ok()),
            Kind::P384(key) => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(prehash, &signature).is_ok()),
        }
    }
}

fn copied<'a>(point: &[u8], out: &'a mut [u8; MAX_POINT_LENGTH]) -> &'a [u8] {
    for (byte, value) in out.iter_mut().zip(point) {
        *byte = *value;
    }
    out.get(..point.len()).unwrap_or_default()
}
