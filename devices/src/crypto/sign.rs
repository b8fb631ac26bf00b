// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Signatures: ECDSA and ML-DSA.

use ecdsa::signature::hazmat::PrehashSigner;
use ml_dsa::{MlDsa65, MlDsa87};
use zeroize::Zeroizing;

use super::{Hash, Secret};

/// A signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
}

impl Signing {
    /// Returns the bytes of a signature in a message.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::EcdsaP256 => 64,
            Self::EcdsaP384 => 96,
            Self::MlDsa65 => 3309,
            Self::MlDsa87 => 4627,
        }
    }

    /// Returns the hash that the algorithm's certificates are signed with.
    fn certificate_hash(self) -> Hash {
        match self {
            Self::EcdsaP256 => Hash::Sha256,
            _ => Hash::Sha384,
        }
    }
}

/// A private key, erased when dropped.
pub(crate) enum SigningKey {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    MlDsa65(Box<ml_dsa::SigningKey<MlDsa65>>),
    MlDsa87(Box<ml_dsa::SigningKey<MlDsa87>>),
}

impl SigningKey {
    /// Derives the key named `name` from `seed`: the same two give the same key.
    pub(crate) fn derive(algorithm: Signing, seed: &[u8], name: &[u8]) -> Self {
        for attempt in 0..=u8::MAX {
            let parts: [&[u8]; 4] = [seed, &[algorithm as u8], name, &[attempt]];
            let bytes = Zeroizing::new(Hash::Sha384.digest(&parts));
            let key = match algorithm {
                Signing::EcdsaP256 => p256::ecdsa::SigningKey::from_slice(&bytes[..32])
                    .ok()
                    .map(Self::P256),
                Signing::EcdsaP384 => p384::ecdsa::SigningKey::from_slice(&bytes)
                    .ok()
                    .map(Self::P384),
                Signing::MlDsa65 => Some(Self::MlDsa65(Box::new(lattice_key(&bytes)))),
                Signing::MlDsa87 => Some(Self::MlDsa87(Box::new(lattice_key(&bytes)))),
            };
            // A scalar out of range is possible, though not likely: draw again.
            if let Some(key) = key {
                return key;
            }
        }
        unreachable!("256 digests out of the scalars' range")
    }

    pub(crate) fn algorithm(&self) -> Signing {
        match self {
            Self::P256(_) => Signing::EcdsaP256,
            Self::P384(_) => Signing::EcdsaP384,
            Self::MlDsa65(_) => Signing::MlDsa65,
            Self::MlDsa87(_) => Signing::MlDsa87,
        }
    }

    /// Signs a message of SPDM. ECDSA hashes it with `hash`, ML-DSA binds it to `context`.
    pub(crate) fn sign(&self, hash: Hash, context: &str, message: &[u8]) -> Vec<u8> {
        let digest = hash.digest(&[message]);
        match self {
            Self::P256(key) => p256_signature(key, &digest).to_bytes().to_vec(),
            Self::P384(key) => p384_signature(key, &digest).to_bytes().to_vec(),
            Self::MlDsa65(key) => lattice_signature(key, message, context.as_bytes()),
            Self::MlDsa87(key) => lattice_signature(key, message, context.as_bytes()),
        }
    }

    /// Signs the content of a certificate; returns the form that the certificate carries.
    pub(crate) fn sign_certificate(&self, content: &[u8]) -> Vec<u8> {
        let digest = self.algorithm().certificate_hash().digest(&[content]);
        match self {
            Self::P256(key) => p256_signature(key, &digest).to_der().as_bytes().to_vec(),
            Self::P384(key) => p384_signature(key, &digest).to_der().as_bytes().to_vec(),
            // RFC 9881: the context is empty.
            Self::MlDsa65(key) => lattice_signature(key, content, &[]),
            Self::MlDsa87(key) => lattice_signature(key, content, &[]),
        }
    }

    /// Returns the private key: a scalar, or the seed of an ML-DSA key.
    pub(crate) fn private(&self) -> Secret {
        Secret::new(match self {
            Self::P256(key) => key.to_bytes().to_vec(),
            Self::P384(key) => key.to_bytes().to_vec(),
            Self::MlDsa65(key) => key.to_seed().to_vec(),
            Self::MlDsa87(key) => key.to_seed().to_vec(),
        })
    }

    /// Returns the public key as a certificate carries it: an uncompressed point, or ML-DSA's own
    /// encoding.
    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::MlDsa65(key) => key.expanded_key().verifying_key().encode().to_vec(),
            Self::MlDsa87(key) => key.expanded_key().verifying_key().encode().to_vec(),
        }
    }
}

const HASH_LENGTH: &str = "the digest is at least half as long as the field";

fn p256_signature(key: &p256::ecdsa::SigningKey, digest: &[u8]) -> p256::ecdsa::Signature {
    key.sign_prehash(digest).expect(HASH_LENGTH)
}

fn p384_signature(key: &p384::ecdsa::SigningKey, digest: &[u8]) -> p384::ecdsa::Signature {
    key.sign_prehash(digest).expect(HASH_LENGTH)
}

fn lattice_key<P: ml_dsa::MlDsaParams>(bytes: &[u8]) -> ml_dsa::SigningKey<P> {
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&bytes[..32]);
    ml_dsa::SigningKey::from_seed(&(*seed).into())
}

fn lattice_signature<P: ml_dsa::MlDsaParams>(
    key: &ml_dsa::SigningKey<P>,
    message: &[u8],
    context: &[u8],
) -> Vec<u8> {
    key.expanded_key()
        .sign_deterministic(message, context)
        .expect("the context is short, and a signature is found")
        .encode()
        .to_vec()
}
