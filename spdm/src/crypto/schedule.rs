// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key schedule: from a shared secret and two digests to the secrets of a session.

use hmac::{EagerHash, Hmac, Mac};
use sha2::{Sha256, Sha384};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Digest, HashAlgorithm, MAX_HASH_LENGTH, Schedule};
use crate::wire::Version;

/// What a key exchange yields: an `x` coordinate, or the secret that was encapsulated.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl SharedSecret {
    const CAPACITY: usize = 48;

    /// Takes the value, of which up to 48 bytes count.
    #[must_use]
    pub fn new(value: &[u8]) -> Self {
        let mut bytes = [0; Self::CAPACITY];
        for (byte, value) in bytes.iter_mut().zip(value) {
            *byte = *value;
        }
        Self {
            bytes,
            length: value.len().min(Self::CAPACITY),
        }
    }

    /// Returns the value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A secret of the key schedule, as long as a digest.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    bytes: [u8; MAX_HASH_LENGTH],
    #[zeroize(skip)]
    schedule: Schedule,
}

impl Secret {
    /// Takes the value of a secret, of which as many bytes count as a digest has.
    #[must_use]
    pub fn new(schedule: Schedule, value: &[u8]) -> Self {
        let mut this = Self {
            bytes: [0; MAX_HASH_LENGTH],
            schedule,
        };
        let length = schedule.hash.length();
        for (byte, value) in this.bytes.iter_mut().zip(value).take(length) {
            *byte = *value;
        }
        this
    }

    /// Returns the value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let length = self.schedule.hash.length();
        self.bytes.get(..length).unwrap_or_default()
    }

    /// Returns the HMAC of `data` under this secret.
    #[must_use]
    pub fn hmac(&self, data: &[u8]) -> Digest {
        let mut out = Zeroizing::new([0; MAX_HASH_LENGTH]);
        hmac(self.schedule.hash, self.as_bytes(), &[data], &mut out);
        Digest::padded(self.schedule.hash, &*out)
    }

    /// Fills `out` with HKDF-Expand over a label. `out` is no longer than a digest, one block.
    pub(super) fn expand(&self, label: &[u8], context: &[u8], out: &mut [u8]) {
        let [low, high, ..] = out.len().to_le_bytes();
        // HKDF-Expand's first block: HMAC(secret, info || 1), where info is SPDM's BinConcat.
        let version = version_label(self.schedule.version);
        let info: [&[u8]; 5] = [&[low, high], &version, label, context, &[1]];
        let mut block = Zeroizing::new([0; MAX_HASH_LENGTH]);
        hmac(self.schedule.hash, self.as_bytes(), &info, &mut block);
        for (byte, value) in out.iter_mut().zip(block.iter()) {
            *byte = *value;
        }
    }

    fn derive(&self, label: &[u8], context: &[u8]) -> Self {
        let mut secret = Self::new(self.schedule, &[]);
        let length = self.schedule.hash.length();
        if let Some(bytes) = secret.bytes.get_mut(..length) {
            self.expand(label, context, bytes);
        }
        secret
    }

    /// HKDF-Extract: the HMAC of `material` under `salt`.
    fn extract(schedule: Schedule, salt: &[u8], material: &[u8]) -> Self {
        let mut secret = Self::new(schedule, &[]);
        hmac(schedule.hash, salt, &[material], &mut secret.bytes);
        secret
    }

    /// Derives the key of the HMAC that ends a handshake.
    #[must_use]
    pub fn finished_key(&self) -> Self {
        self.derive(b"finished", &[])
    }

    /// Derives the secret that follows this one at a key update.
    #[must_use]
    pub fn updated(&self) -> Self {
        self.derive(b"traffic upd", &[])
    }
}

/// Returns what every label begins with.
const fn version_label(version: Version) -> [u8; 8] {
    *match version {
        Version::V1_3 => b"spdm1.3 ",
        Version::V1_4 => b"spdm1.4 ",
        _ => b"spdm1.2 ",
    }
}

/// Writes the HMAC over `parts`. A key is never longer than a block.
fn hmac(hash: HashAlgorithm, key: &[u8], parts: &[&[u8]], out: &mut [u8; MAX_HASH_LENGTH]) {
    match hash {
        HashAlgorithm::Sha256 => hmac_with::<Sha256>(key, parts, out),
        HashAlgorithm::Sha384 => hmac_with::<Sha384>(key, parts, out),
    }
}

fn hmac_with<H: EagerHash>(key: &[u8], parts: &[&[u8]], out: &mut [u8; MAX_HASH_LENGTH])
where
    Hmac<H>: hmac::KeyInit + Mac,
{
    // A key no longer than a block is padded, never refused.
    let mut block = Zeroizing::new(hmac::digest::Key::<Hmac<H>>::default());
    for (byte, value) in block.iter_mut().zip(key) {
        *byte = *value;
    }
    let mut mac = <Hmac<H> as hmac::KeyInit>::new(&block);
    for part in parts {
        mac.update(part);
    }
    let value = Zeroizing::new(mac.finalize().into_bytes());
    for (byte, value) in out.iter_mut().zip(value.iter()) {
        *byte = *value;
    }
}

/// The secrets of a handshake.
pub struct HandshakeSecrets {
    root: Secret,
    /// Of what the requester sends.
    pub request: Secret,
    /// Of what the responder sends.
    pub response: Secret,
}

impl HandshakeSecrets {
    /// Derives the secrets from what was agreed on and the digest TH1.
    #[must_use]
    pub fn new(schedule: Schedule, shared: &SharedSecret, th1: &Digest) -> Self {
        let zeros = Secret::new(schedule, &[]);
        let root = Secret::extract(schedule, zeros.as_bytes(), shared.as_bytes());
        Self {
            request: root.derive(b"req hs data", th1.as_bytes()),
            response: root.derive(b"rsp hs data", th1.as_bytes()),
            root,
        }
    }

    /// Returns the secret that the others are derived from.
    #[must_use]
    pub const fn root(&self) -> &Secret {
        &self.root
    }

    /// Derives the secrets of the session proper from the digest TH2.
    #[must_use]
    pub fn data_secrets(&self, th2: &Digest) -> DataSecrets {
        let schedule = self.root.schedule;
        let salt = self.root.derive(b"derived", &[]);
        let zeros = Secret::new(schedule, &[]);
        let master = Secret::extract(schedule, salt.as_bytes(), zeros.as_bytes());
        DataSecrets {
            request: master.derive(b"req app data", th2.as_bytes()),
            response: master.derive(b"rsp app data", th2.as_bytes()),
            export: master.derive(b"exp master", th2.as_bytes()),
            master,
        }
    }
}

/// The secrets of a session.
pub struct DataSecrets {
    /// What the others are derived from.
    pub master: Secret,
    /// Of what the requester sends.
    pub request: Secret,
    /// Of what the responder sends.
    pub response: Secret,
    /// For protocols above.
    pub export: Secret,
}
