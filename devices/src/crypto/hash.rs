// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Digests and what is built from them: HMAC, HKDF, transcripts.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256, Sha384};
use zeroize::Zeroizing;

/// A secret that is erased when dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// A hash algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Hash {
    /// Returns the bytes of a digest.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// Hashes the concatenation of `parts`.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut transcript = Transcript::new(self);
        for part in parts {
            transcript.append(part);
        }
        transcript.digest()
    }

    /// Computes HMAC over `text`.
    pub(crate) fn hmac(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        const ANY_LENGTH: &str = "HMAC takes a key of any length";
        match self {
            Self::Sha256 => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect(ANY_LENGTH);
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Sha384 => {
                let mut mac = Hmac::<Sha384>::new_from_slice(key).expect(ANY_LENGTH);
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    /// Expands `secret`, which has the size of a digest, to at most 48 bytes with HKDF.
    pub(crate) fn expand(self, secret: &Secret, info: &[u8], out: &mut [u8]) {
        const DIGEST: &str = "a digest is a valid pseudorandom key";
        match self {
            Self::Sha256 => Hkdf::<Sha256>::from_prk(secret)
                .expect(DIGEST)
                .expand(info, out),
            Self::Sha384 => Hkdf::<Sha384>::from_prk(secret)
                .expect(DIGEST)
                .expand(info, out),
        }
        .expect("an output of two blocks is never too long");
    }
}

/// A hash that grows with the messages it covers; its value can be read at any time.
#[derive(Clone)]
pub(crate) enum Transcript {
    Sha256(Sha256),
    Sha384(Sha384),
}

impl Transcript {
    pub(crate) fn new(hash: Hash) -> Self {
        match hash {
            Hash::Sha256 => Self::Sha256(Sha256::new()),
            Hash::Sha384 => Self::Sha384(Sha384::new()),
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Sha384(state) => state.update(bytes),
        }
    }

    pub(crate) fn digest(&self) -> Vec<u8> {
        match self {
            Self::Sha256(state) => state.clone().finalize().to_vec(),
            Self::Sha384(state) => state.clone().finalize().to_vec(),
        }
    }
}
