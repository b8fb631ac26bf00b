// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Digests, and the running hashes of what was said.

use sha2::{Digest as _, Sha256, Sha384};
use subtle::ConstantTimeEq;

use super::HashAlgorithm;

/// Most bytes of a digest.
pub const MAX_HASH_LENGTH: usize = 48;

/// A digest, or an HMAC, of the hash that was agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Digest {
    bytes: [u8; MAX_HASH_LENGTH],
    hash: HashAlgorithm,
}

impl Digest {
    /// Takes the bytes of a digest; `None` if the hash makes none of that length.
    #[must_use]
    pub fn new(hash: HashAlgorithm, value: &[u8]) -> Option<Self> {
        if value.len() != hash.length() {
            return None;
        }
        let mut bytes = [0; MAX_HASH_LENGTH];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { bytes, hash })
    }

    /// Makes a digest of zeros, where one of the right length is to stand.
    #[must_use]
    pub const fn zero(hash: HashAlgorithm) -> Self {
        Self {
            bytes: [0; MAX_HASH_LENGTH],
            hash,
        }
    }

    /// Makes a digest of bytes that are as many as the hash gives, or pads them.
    pub(super) fn padded(hash: HashAlgorithm, value: &[u8]) -> Self {
        let mut bytes = [0; MAX_HASH_LENGTH];
        for (byte, value) in bytes.iter_mut().zip(value) {
            *byte = *value;
        }
        Self { bytes, hash }
    }

    /// Returns the bytes, as many as the hash gives.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.hash.length()).unwrap_or_default()
    }

    /// Returns whether these are the digest's bytes, in time that does not depend on where they
    /// differ.
    #[must_use]
    pub fn equals(&self, bytes: &[u8]) -> bool {
        self.as_bytes().ct_eq(bytes).into()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.equals(other.as_bytes())
    }
}

impl Eq for Digest {}

/// A SHA-384 digest: what evidence is known by, whichever hash a conversation agreed on.
pub type Fingerprint = [u8; 48];

/// Returns the SHA-384 digest of `bytes`.
#[must_use]
pub fn sha384(bytes: &[u8]) -> Fingerprint {
    Sha384::digest(bytes).into()
}

/// A running hash. A clone branches off: the two go on without each other.
#[derive(Clone)]
pub struct Transcript(Running);

#[derive(Clone)]
enum Running {
    Sha256(Sha256),
    Sha384(Sha384),
}

impl Transcript {
    /// Starts with nothing.
    #[must_use]
    pub fn new(hash: HashAlgorithm) -> Self {
        Self(match hash {
            HashAlgorithm::Sha256 => Running::Sha256(Sha256::new()),
            HashAlgorithm::Sha384 => Running::Sha384(Sha384::new()),
        })
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Running::Sha256(hash) => hash.update(bytes),
            Running::Sha384(hash) => hash.update(bytes),
        }
    }

    /// Appends bytes and returns the transcript.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.update(bytes);
        self
    }

    /// Returns the digest of what was appended so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match &self.0 {
            Running::Sha256(hash) => {
                Digest::padded(HashAlgorithm::Sha256, &hash.clone().finalize())
            }
            Running::Sha384(hash) => {
                Digest::padded(HashAlgorithm::Sha384, &hash.clone().finalize())
            }
        }
    }
}

/// The transcript of messages that come before a hash is agreed on.
#[derive(Clone)]
pub struct Opening {
    sha256: Sha256,
    sha384: Sha384,
}

impl Opening {
    /// Starts with nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sha256: Sha256::new(),
            sha384: Sha384::new(),
        }
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha384.update(bytes);
    }

    /// Goes on with the hash that was agreed on.
    #[must_use]
    pub fn agreed(&self, hash: HashAlgorithm) -> Transcript {
        Transcript(match hash {
            HashAlgorithm::Sha256 => Running::Sha256(self.sha256.clone()),
            HashAlgorithm::Sha384 => Running::Sha384(self.sha384.clone()),
        })
    }

    /// Returns the SHA-384 digest of what was appended so far.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.sha384.clone().finalize().into()
    }
}

impl Default for Opening {
    fn default() -> Self {
        Self::new()
    }
}
