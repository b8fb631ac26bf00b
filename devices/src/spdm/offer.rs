// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the responder offers, and what a connection agreed on.

use std::str::FromStr;

use crate::crypto::{Cipher, Exchange, Hash, Signing};

/// A version of SPDM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// SPDM 1.2.
    V1_2,
    /// SPDM 1.3.
    V1_3,
    /// SPDM 1.4.
    V1_4,
}

impl Version {
    /// Returns the byte that every message of the version starts with.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::V1_2 => 0x12,
            Self::V1_3 => 0x13,
            Self::V1_4 => 0x14,
        }
    }

    /// Returns the last digit of the version, for labels.
    pub(super) fn minor(self) -> char {
        match self {
            Self::V1_2 => '2',
            Self::V1_3 => '3',
            Self::V1_4 => '4',
        }
    }
}

/// A name that is not one of those there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName(&'static str);

impl std::fmt::Display for UnknownName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "expected one of {}", self.0)
    }
}

impl std::error::Error for UnknownName {}

impl FromStr for Version {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            "1.4" => Ok(Self::V1_4),
            _ => Err(UnknownName("1.2, 1.3, 1.4")),
        }
    }
}

impl FromStr for Signing {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "ecdsa-p256" => Ok(Self::EcdsaP256),
            "ecdsa-p384" => Ok(Self::EcdsaP384),
            "ml-dsa-65" => Ok(Self::MlDsa65),
            "ml-dsa-87" => Ok(Self::MlDsa87),
            _ => Err(UnknownName("ecdsa-p256, ecdsa-p384, ml-dsa-65, ml-dsa-87")),
        }
    }
}

impl FromStr for Cipher {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "aes-128-gcm" => Ok(Self::Aes128Gcm),
            "aes-256-gcm" => Ok(Self::Aes256Gcm),
            "chacha20-poly1305" => Ok(Self::ChaCha20Poly1305),
            _ => Err(UnknownName("aes-128-gcm, aes-256-gcm, chacha20-poly1305")),
        }
    }
}

/// Least data transfer size, in bytes (DSP0274 1.2).
pub(super) const LEAST_TRANSFER_SIZE: usize = 42;
/// Largest data transfer size, in bytes: with record, data object header and padding it fits into
/// the 0x1200 bytes that QEMU's mailbox takes.
const LARGEST_TRANSFER_SIZE: usize = 0x1100;

/// What the responder offers. Lists are in order of preference.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Versions that VERSION lists.
    pub versions: Vec<Version>,
    /// Signature algorithms; those that the identity has no chain for are not used.
    pub signings: Vec<Signing>,
    /// Hashes of transcripts and key schedule.
    pub hashes: Vec<Hash>,
    /// Key agreements.
    pub exchanges: Vec<Exchange>,
    /// Ciphers of records.
    pub ciphers: Vec<Cipher>,
    /// Largest message in one piece that the responder takes, in bytes: 42 to 0x1100.
    pub transfer_size: usize,
    /// Largest message in chunks that the responder takes and gives, in bytes. One that is not
    /// above the transfer size means that the responder knows no chunks.
    pub message_size: usize,
    /// Opaque data (format 1) of CHALLENGE_AUTH and MEASUREMENTS, at most 1024 bytes, for
    /// requesters that take such.
    pub opaque: Vec<u8>,
}

impl Default for Offer {
    /// SPDM 1.2 with the suite of ECDSA P-384.
    fn default() -> Self {
        Self::suite(Signing::EcdsaP384, &[Version::V1_2])
    }
}

impl Offer {
    /// Offers one suite: a signature algorithm with hash and key agreement of the same strength,
    /// and AES-256-GCM. ML-DSA needs 1.4.
    #[must_use]
    pub fn suite(signing: Signing, versions: &[Version]) -> Self {
        let (hash, exchange) = match signing {
            Signing::EcdsaP256 => (Hash::Sha256, Exchange::Secp256r1),
            Signing::EcdsaP384 => (Hash::Sha384, Exchange::Secp384r1),
            Signing::MlDsa65 => (Hash::Sha384, Exchange::MlKem768),
            Signing::MlDsa87 => (Hash::Sha384, Exchange::MlKem1024),
        };
        Self {
            versions: versions.to_vec(),
            signings: vec![signing],
            hashes: vec![hash],
            exchanges: vec![exchange],
            ciphers: vec![Cipher::Aes256Gcm],
            transfer_size: 0x1000,
            message_size: 0x2_0000,
            opaque: Vec::new(),
        }
    }

    /// Returns the transfer size within its limits.
    pub(super) fn piece(&self) -> usize {
        self.transfer_size
            .clamp(LEAST_TRANSFER_SIZE, LARGEST_TRANSFER_SIZE)
    }

    /// Returns whether the responder knows chunks.
    pub(super) fn chunks(&self) -> bool {
        self.message_size > self.piece()
    }
}

/// What the requester told about itself, and the version that it chose.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) version: Version,
    pub(super) flags: u32,
    /// Largest message in one piece that the requester takes, in bytes.
    pub(super) transfer_size: usize,
    /// Largest message that the requester takes, in bytes.
    pub(super) message_size: usize,
    /// Whether both know chunks.
    pub(super) chunks: bool,
    /// Whether both know 32-bit lengths.
    pub(super) large: bool,
}

impl Peer {
    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

/// What a connection agreed on.
#[derive(Clone, Copy)]
pub(super) struct Agreed {
    pub(super) peer: Peer,
    pub(super) version: Version,
    pub(super) signing: Signing,
    pub(super) hash: Hash,
    /// Key agreement and cipher, if there can be sessions.
    pub(super) session: Option<(Exchange, Cipher)>,
    /// Whether opaque data may be present.
    pub(super) opaque: bool,
}
