// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The suite: SHA-384, ECDSA P-384, secp384r1, HKDF and AES-256-GCM as SPDM 1.2 puts them together.
//!
//! Functions of their arguments, for either side of the conversation. Secrets erase themselves when
//! dropped, and can be neither printed nor copied by accident.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
use hmac::{Hmac, Mac};
use p384::ecdsa::VerifyingKey;
use p384::ecdsa::signature::Verifier;
use p384::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest as _, Sha384};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::wire::record::{OVERHEAD, RecordHeader, TAG_LENGTH};
use crate::wire::session::SessionId;
use crate::wire::{Digest, Exchange, HASH_LENGTH, Malformed, Signature};

/// A running SHA-384 hash. A clone branches off: the two go on without each other.
#[derive(Clone)]
pub struct Transcript(Sha384);

impl Transcript {
    /// Starts with nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(Sha384::new())
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
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
        self.0.clone().finalize().into()
    }
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the SHA-384 digest of `bytes`.
#[must_use]
pub fn sha384(bytes: &[u8]) -> Digest {
    Sha384::digest(bytes).into()
}

/// Returns whether two digests are equal, in time that does not depend on where they differ.
#[must_use]
pub fn equal(left: &Digest, right: &Digest) -> bool {
    left.ct_eq(right).into()
}

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

/// Bytes that are given to ECDSA: prefix, padding, context and digest.
pub const SIGNING_INPUT_LENGTH: usize = 100 + HASH_LENGTH;

/// Returns the bytes to sign for `digest`. ECDSA hashes them once more.
#[must_use]
pub fn signing_input(context: SigningContext, digest: &Digest) -> [u8; SIGNING_INPUT_LENGTH] {
    let context: &[u8] = match context {
        SigningContext::ChallengeAuth => b"responder-challenge_auth signing",
        SigningContext::Measurements => b"responder-measurements signing",
        SigningContext::KeyExchangeRsp => b"responder-key_exchange_rsp signing",
    };
    let mut input = [0; SIGNING_INPUT_LENGTH];
    let (prefix, rest) = input.split_at_mut(64);
    let (field, hash) = rest.split_at_mut(36);
    for part in prefix.chunks_exact_mut(16) {
        part.copy_from_slice(b"dmtf-spdm-v1.2.*");
    }
    // The context stands at the end of its field of 36 bytes.
    for (byte, value) in field.iter_mut().rev().zip(context.iter().rev()) {
        *byte = *value;
    }
    hash.copy_from_slice(digest);
    input
}

/// A point of P-384 that is not the point at infinity: a device's public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Bytes of an uncompressed point: 4, `x`, `y`.
pub const PUBLIC_KEY_LENGTH: usize = 97;

impl PublicKey {
    /// Takes an uncompressed point.
    ///
    /// # Errors
    /// [`Malformed::Value`] if it is in another form or not on the curve.
    pub fn new(point: &[u8; PUBLIC_KEY_LENGTH]) -> Result<Self, Malformed> {
        if point.first() != Some(&4) {
            return Err(Malformed::Value);
        }
        VerifyingKey::from_sec1_bytes(point)
            .map(Self)
            .map_err(|_| Malformed::Value)
    }

    /// Returns the uncompressed point.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PUBLIC_KEY_LENGTH] {
        let mut bytes = [0; PUBLIC_KEY_LENGTH];
        let point = self.0.as_affine().to_sec1_point(false);
        // An uncompressed point of this curve has this length.
        for (byte, value) in bytes.iter_mut().zip(point.as_bytes()) {
            *byte = *value;
        }
        bytes
    }

    /// Returns whether `signature` is this key's over `digest` for `context`.
    #[must_use]
    pub fn verifies(
        &self,
        context: SigningContext,
        digest: &Digest,
        signature: &Signature,
    ) -> bool {
        let Ok(signature) = p384::ecdsa::Signature::from_slice(signature) else {
            return false;
        };
        self.0
            .verify(&signing_input(context, digest), &signature)
            .is_ok()
    }
}

/// A secret of the key schedule.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; HASH_LENGTH]);

impl Secret {
    /// Takes the value of a secret.
    #[must_use]
    pub const fn new(value: [u8; HASH_LENGTH]) -> Self {
        Self(value)
    }

    /// Returns the value.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_LENGTH] {
        &self.0
    }

    /// Returns the HMAC of `data` under this secret.
    #[must_use]
    pub fn hmac(&self, data: &[u8]) -> Digest {
        hmac(&self.0, data)
    }

    /// Fills `out` with HKDF-Expand over a label. `out` is at most 48 bytes long, one block.
    fn expand(&self, label: &[u8], context: &[u8], out: &mut [u8]) {
        let [low, high, ..] = out.len().to_le_bytes();
        // HKDF-Expand's first block: HMAC(secret, info || 1), where info is SPDM's BinConcat.
        let mut mac = new_hmac(&self.0);
        mac.update(&[low, high]);
        mac.update(b"spdm1.2 ");
        mac.update(label);
        mac.update(context);
        mac.update(&[1]);
        let block = Zeroizing::new(<[u8; HASH_LENGTH]>::from(mac.finalize().into_bytes()));
        for (byte, value) in out.iter_mut().zip(block.iter()) {
            *byte = *value;
        }
    }

    fn derive(&self, label: &[u8], context: &[u8]) -> Self {
        let mut secret = Self([0; HASH_LENGTH]);
        self.expand(label, context, &mut secret.0);
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

fn new_hmac(key: &[u8; HASH_LENGTH]) -> Hmac<Sha384> {
    // A key no longer than a block is padded, never refused.
    let mut block = Zeroizing::new(hmac::digest::Key::<Hmac<Sha384>>::default());
    for (byte, value) in block.iter_mut().zip(key) {
        *byte = *value;
    }
    <Hmac<Sha384> as hmac::KeyInit>::new(&block)
}

fn hmac(key: &[u8; HASH_LENGTH], data: &[u8]) -> Digest {
    let mut mac = new_hmac(key);
    mac.update(data);
    mac.finalize().into_bytes().into()
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
    /// Derives the secrets from the shared `x` coordinate and the digest TH1.
    #[must_use]
    pub fn new(shared: &Secret, th1: &Digest) -> Self {
        let root = Secret(hmac(&[0; HASH_LENGTH], &shared.0));
        Self {
            request: root.derive(b"req hs data", th1),
            response: root.derive(b"rsp hs data", th1),
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
        let salt = self.root.derive(b"derived", &[]);
        let master = Secret(salt.hmac(&[0; HASH_LENGTH]));
        DataSecrets {
            request: master.derive(b"req app data", th2),
            response: master.derive(b"rsp app data", th2),
            export: master.derive(b"exp master", th2),
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

/// Says why a record cannot be sealed or opened. Nothing has changed but, perhaps, the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The framing is wrong.
    Malformed(Malformed),
    /// The record is of another session.
    Session,
    /// The tag is wrong: another key, another sequence number, or not the bytes that were sealed.
    Tag,
    /// The key has sealed as many records as it may.
    Exhausted,
}

impl From<Malformed> for RecordError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Records that one key may seal. AES-GCM's bounds are far above; this one is near enough that a
/// key update happens in practice.
pub const RECORD_LIMIT: u64 = 1 << 24;

/// Key, initialization vector and sequence number of one direction.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RecordKey {
    key: [u8; 32],
    iv: [u8; 12],
    sequence: u64,
}

impl RecordKey {
    /// Derives the key from the direction's secret. Sequence numbers begin with 0.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let mut this = Self {
            key: [0; 32],
            iv: [0; 12],
            sequence: 0,
        };
        secret.expand(b"key", &[], &mut this.key);
        secret.expand(b"iv", &[], &mut this.iv);
        this
    }

    /// Returns the AES key.
    #[must_use]
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Returns the initialization vector, before the sequence number is put in.
    #[must_use]
    pub const fn iv(&self) -> &[u8; 12] {
        &self.iv
    }

    /// Returns how many records have been sealed or opened.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Pretends that records have been sealed or opened.
    #[cfg(test)]
    pub(crate) fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&self.key.into())
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, value) in nonce.iter_mut().zip(self.sequence.to_le_bytes()) {
            *byte ^= value;
        }
        nonce
    }

    /// Seals the `message` bytes that stand in `buffer` from [`MESSAGE_OFFSET`](crate::wire::record::MESSAGE_OFFSET) on, and returns the
    /// length of the record, which begins where `buffer` does.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn seal(
        &mut self,
        session: SessionId,
        buffer: &mut [u8],
        message: usize,
    ) -> Result<usize, RecordError> {
        if self.sequence >= RECORD_LIMIT {
            return Err(RecordError::Exhausted);
        }
        let header = RecordHeader::new(session, message)?;
        let length = message.checked_add(OVERHEAD).ok_or(Malformed::Length)?;
        let record = buffer.get_mut(..length).ok_or(Malformed::NoRoom)?;
        let (aad, body) = record
            .split_first_chunk_mut::<{ RecordHeader::LENGTH }>()
            .ok_or(Malformed::NoRoom)?;
        let (body, tag) = body
            .split_last_chunk_mut::<TAG_LENGTH>()
            .ok_or(Malformed::NoRoom)?;
        *aad = zerocopy::transmute!(header);
        let (app, _) = body.split_first_chunk_mut::<2>().ok_or(Malformed::NoRoom)?;
        *app = u16::try_from(message)
            .map_err(|_| Malformed::Length)?
            .to_le_bytes();
        let sealed = self
            .cipher()
            .encrypt_inout_detached(&self.nonce().into(), aad, InOutBuf::from(body))
            .map_err(|_| Malformed::Length)?;
        *tag = sealed.into();
        self.sequence = self.sequence.saturating_add(1);
        Ok(length)
    }

    /// Opens the record at the start of `buffer` in place and returns the length of the message,
    /// which then stands from [`MESSAGE_OFFSET`](crate::wire::record::MESSAGE_OFFSET) on. The sequence number moves on success only.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open(&mut self, session: SessionId, buffer: &mut [u8]) -> Result<usize, RecordError> {
        if self.sequence >= RECORD_LIMIT {
            return Err(RecordError::Exhausted);
        }
        let header = RecordHeader::parse(buffer)?;
        if header.session() != session {
            return Err(RecordError::Session);
        }
        let (aad, rest) = buffer
            .split_first_chunk_mut::<{ RecordHeader::LENGTH }>()
            .ok_or(Malformed::Truncated)?;
        let body = rest
            .get_mut(..header.body_length())
            .ok_or(Malformed::Truncated)?;
        let (body, tag) = body
            .split_last_chunk_mut::<TAG_LENGTH>()
            .ok_or(Malformed::Truncated)?;
        self.cipher()
            .decrypt_inout_detached(
                &self.nonce().into(),
                aad,
                InOutBuf::from(&mut *body),
                &(*tag).into(),
            )
            .map_err(|_| RecordError::Tag)?;
        // A sender may pad behind the message; only the length says where it ends.
        let (app, message) = body.split_first_chunk::<2>().ok_or(Malformed::Length)?;
        let length = usize::from(u16::from_le_bytes(*app));
        if length > message.len() {
            return Err(Malformed::Length.into());
        }
        self.sequence = self.sequence.saturating_add(1);
        Ok(length)
    }
}

/// Reports that the source of entropy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

/// The source of entropy that a caller lends: fills the slice with fresh random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<(), NoEntropy>;

/// One side of a Diffie-Hellman exchange, with the private half kept inside.
pub trait KeyAgreement: Sized {
    /// Makes a fresh private half and returns it with the public one.
    ///
    /// # Errors
    /// [`NoEntropy`].
    fn generate(random: Random<'_>) -> Result<(Self, Exchange), NoEntropy>;

    /// Combines the private half with the other side's public one.
    ///
    /// # Errors
    /// [`Malformed::Value`] if that is not a point of the curve.
    fn agree(self, other: &Exchange) -> Result<Secret, Malformed>;
}

/// Ephemeral Diffie-Hellman on secp384r1.
pub struct Ecdhe(p384::SecretKey);

impl KeyAgreement for Ecdhe {
    fn generate(random: Random<'_>) -> Result<(Self, Exchange), NoEntropy> {
        let mut bytes = Zeroizing::new([0; 48]);
        // Bytes that are no scalar have a chance of 2^-190: a second miss is a broken source.
        for _ in 0..2 {
            random(&mut *bytes)?;
            let Ok(key) = p384::SecretKey::from_slice(&*bytes) else {
                continue;
            };
            let point = PublicKey(VerifyingKey::from(key.public_key())).to_bytes();
            let (_, exchange) = point.split_last_chunk::<96>().ok_or(NoEntropy)?;
            return Ok((Self(key), *exchange));
        }
        Err(NoEntropy)
    }

    fn agree(self, other: &Exchange) -> Result<Secret, Malformed> {
        let mut point = [4; PUBLIC_KEY_LENGTH];
        if let Some((_, coordinates)) = point.split_first_mut() {
            coordinates.copy_from_slice(other);
        }
        let other = p384::PublicKey::from_sec1_bytes(&point).map_err(|_| Malformed::Value)?;
        let shared = self.0.diffie_hellman(&other);
        Ok(Secret((*shared.raw_secret_bytes()).into()))
    }
}

#[cfg(test)]
mod tests;
