// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What two sides agree on: a version, and one algorithm for each purpose.

use crate::wire::{Layout, Version};

/// Hash of transcripts, of signatures and of the key schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl HashAlgorithm {
    /// Returns the bytes of a digest, and of an HMAC.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

/// Signature of the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ECDSA over NIST P-256.
    EcdsaP256,
    /// ECDSA over NIST P-384.
    EcdsaP384,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
}

impl SignatureAlgorithm {
    /// Returns the bytes of a signature.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::EcdsaP256 => 64,
            Self::EcdsaP384 => 96,
            Self::MlDsa65 => 3309,
            Self::MlDsa87 => 4627,
        }
    }

    /// Returns the bytes of a public key: an uncompressed point, or the encoding of FIPS 204.
    #[must_use]
    pub const fn key_length(self) -> usize {
        match self {
            Self::EcdsaP256 => 65,
            Self::EcdsaP384 => 97,
            Self::MlDsa65 => 1952,
            Self::MlDsa87 => 2592,
        }
    }

    /// Returns whether keys are so long that a [`PublicKey`](super::PublicKey) is their digest.
    #[must_use]
    pub const fn has_long_keys(self) -> bool {
        matches!(self, Self::MlDsa65 | Self::MlDsa87)
    }
}

/// How a secret is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeAlgorithm {
    /// Ephemeral Diffie-Hellman on secp256r1.
    Secp256r1,
    /// Ephemeral Diffie-Hellman on secp384r1.
    Secp384r1,
    /// ML-KEM-768.
    MlKem768,
    /// ML-KEM-1024.
    MlKem1024,
}

impl ExchangeAlgorithm {
    /// Returns the bytes of the requester's exchange value: coordinates, or an encapsulation key.
    #[must_use]
    pub const fn request_length(self) -> usize {
        match self {
            Self::Secp256r1 => 64,
            Self::Secp384r1 => 96,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Returns the bytes of the responder's exchange value: coordinates, or a ciphertext.
    #[must_use]
    pub const fn response_length(self) -> usize {
        match self {
            Self::Secp256r1 => 64,
            Self::Secp384r1 => 96,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
        }
    }
}

/// Encryption of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AeadAlgorithm {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl AeadAlgorithm {
    /// Returns the bytes of a key. Initialization vectors have 12 and tags 16 with each.
    #[must_use]
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// What a conversation agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// SPDM version of every message after VERSION.
    pub version: Version,
    /// Hash.
    pub hash: HashAlgorithm,
    /// Signature.
    pub signature: SignatureAlgorithm,
    /// Exchange of keys.
    pub exchange: ExchangeAlgorithm,
    /// Encryption of records.
    pub aead: AeadAlgorithm,
}

impl Suite {
    /// The strongest of the classical algorithms, in the latest version.
    pub const STRONGEST: Self = Self {
        version: Version::V1_4,
        hash: HashAlgorithm::Sha384,
        signature: SignatureAlgorithm::EcdsaP384,
        exchange: ExchangeAlgorithm::Secp384r1,
        aead: AeadAlgorithm::Aes256Gcm,
    };

    /// Returns what the suite makes of the messages.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        Layout {
            version: self.version,
            hash: self.hash.length(),
            signature: self.signature.length(),
            exchange_request: self.exchange.request_length(),
            exchange_response: self.exchange.response_length(),
        }
    }

    /// Returns what the key schedule needs to know.
    #[must_use]
    pub const fn schedule(&self) -> Schedule {
        Schedule {
            version: self.version,
            hash: self.hash,
        }
    }
}

/// What the derivation of secrets depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// SPDM version, which is part of every label.
    pub version: Version,
    /// Hash of HMAC and HKDF.
    pub hash: HashAlgorithm,
}
