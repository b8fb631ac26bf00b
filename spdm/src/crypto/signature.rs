// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The responder's key, and its signatures.

use ml_dsa::{KeyInit, MlDsa65, MlDsa87, MlDsaParams};
use p384::ecdsa::signature::hazmat::PrehashVerifier;
use p384::elliptic_curve::sec1::ToSec1Point;

use super::{
    Digest, Fingerprint, HashAlgorithm, MAX_HASH_LENGTH, SignatureAlgorithm, Transcript, sha384,
};
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
    /// Returns what ML-DSA signs, and its length. The context is ML-DSA's as well.
    #[must_use]
    pub fn message(&self) -> ([u8; SIGNING_PREFIX_LENGTH + MAX_HASH_LENGTH], usize) {
        let mut message = [0; SIGNING_PREFIX_LENGTH + MAX_HASH_LENGTH];
        let prefix = signing_prefix(self.version, self.context);
        let digest = self.digest.as_bytes();
        for (byte, value) in message.iter_mut().zip(prefix.iter().chain(digest)) {
            *byte = *value;
        }
        (message, prefix.len().saturating_add(digest.len()))
    }

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

/// A device's public key: a point that is on its curve and not at infinity, or the SHA-384 digest
/// of an ML-DSA key, which itself has to be brought when a signature is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    MlDsa65(Fingerprint),
    MlDsa87(Fingerprint),
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

    /// Takes the SHA-384 digest of an ML-DSA key as FIPS 204 encodes it.
    ///
    /// # Errors
    /// [`Malformed::Value`] if the algorithm's keys are not known by their digest.
    pub const fn from_fingerprint(
        algorithm: SignatureAlgorithm,
        fingerprint: Fingerprint,
    ) -> Result<Self, Malformed> {
        match algorithm {
            SignatureAlgorithm::MlDsa65 => Ok(Self(Kind::MlDsa65(fingerprint))),
            SignatureAlgorithm::MlDsa87 => Ok(Self(Kind::MlDsa87(fingerprint))),
            SignatureAlgorithm::EcdsaP256 | SignatureAlgorithm::EcdsaP384 => Err(Malformed::Value),
        }
    }

    /// Takes a key as a certificate has it.
    ///
    /// # Errors
    /// [`Malformed::Length`] or [`Malformed::Value`] if it is not one of the algorithm's.
    pub fn from_raw(algorithm: SignatureAlgorithm, raw: &[u8]) -> Result<Self, Malformed> {
        if raw.len() != algorithm.key_length() {
            return Err(Malformed::Length);
        }
        if algorithm.has_long_keys() {
            Self::from_fingerprint(algorithm, sha384(raw))
        } else {
            Self::new(raw)
        }
    }

    /// Returns what the key signs with.
    #[must_use]
    pub const fn algorithm(&self) -> SignatureAlgorithm {
        match self.0 {
            Kind::P256(_) => SignatureAlgorithm::EcdsaP256,
            Kind::P384(_) => SignatureAlgorithm::EcdsaP384,
            Kind::MlDsa65(_) => SignatureAlgorithm::MlDsa65,
            Kind::MlDsa87(_) => SignatureAlgorithm::MlDsa87,
        }
    }

    /// Returns the SHA-384 digest of the key as a certificate has it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        match &self.0 {
            Kind::P256(key) => sha384(key.as_affine().to_sec1_point(false).as_bytes()),
            Kind::P384(key) => sha384(key.as_affine().to_sec1_point(false).as_bytes()),
            Kind::MlDsa65(fingerprint) | Kind::MlDsa87(fingerprint) => *fingerprint,
        }
    }

    /// Returns whether `signature` is this key's over what was `signed`. `raw` begins with the key
    /// itself if that is known by its digest, and is not looked at otherwise.
    #[must_use]
    pub fn verifies(&self, raw: &[u8], signed: &Signed<'_>, signature: &[u8]) -> bool {
        match &self.0 {
            Kind::P256(key) => {
                p256::ecdsa::Signature::from_slice(signature).is_ok_and(|signature| {
                    key.verify_prehash(signed.prehash().as_bytes(), &signature)
                        .is_ok()
                })
            }
            Kind::P384(key) => {
                p384::ecdsa::Signature::from_slice(signature).is_ok_and(|signature| {
                    key.verify_prehash(signed.prehash().as_bytes(), &signature)
                        .is_ok()
                })
            }
            Kind::MlDsa65(_) => self.ml_dsa_verifies::<MlDsa65>(raw, signed, signature),
            Kind::MlDsa87(_) => self.ml_dsa_verifies::<MlDsa87>(raw, signed, signature),
        }
    }

    /// Kept apart, so that other signatures do not need the stack that this takes.
    #[inline(never)]
    fn ml_dsa_verifies<P: MlDsaParams>(
        &self,
        raw: &[u8],
        signed: &Signed<'_>,
        signature: &[u8],
    ) -> bool {
        // The memory that held the key in the meantime may have been somebody else's.
        let Some(raw) = raw
            .get(..self.algorithm().key_length())
            .filter(|raw| sha384(raw) == self.fingerprint())
        else {
            return false;
        };
        let Ok(signature) = ml_dsa::Signature::<P>::try_from(signature) else {
            return false;
        };
        let Ok(key) = ml_dsa::VerifyingKey::<P>::new_from_slice(raw) else {
            return false;
        };
        let (message, length) = signed.message();
        let message = message.get(..length).unwrap_or_default();
        key.verify_with_context(message, signed.context.words(), &signature)
    }
}
