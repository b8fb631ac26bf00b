// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys of records: sealing, opening, counting.

use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{AeadAlgorithm, Secret};
use crate::wire::Malformed;
use crate::wire::record::{OVERHEAD, RecordHeader, TAG_LENGTH};
use crate::wire::session::SessionId;

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
    #[zeroize(skip)]
    aead: AeadAlgorithm,
}

impl RecordKey {
    /// Derives the key from the direction's secret. Sequence numbers begin with 0.
    #[must_use]
    pub fn new(aead: AeadAlgorithm, secret: &Secret) -> Self {
        let mut this = Self {
            key: [0; 32],
            iv: [0; 12],
            sequence: 0,
            aead,
        };
        if let Some(key) = this.key.get_mut(..aead.key_length()) {
            secret.expand(b"key", &[], key);
        }
        secret.expand(b"iv", &[], &mut this.iv);
        this
    }

    /// Returns the algorithm.
    #[must_use]
    pub const fn aead(&self) -> AeadAlgorithm {
        self.aead
    }

    /// Returns the key, as long as the algorithm's is.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key.get(..self.aead.key_length()).unwrap_or_default()
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
        *tag = self.encrypt(aad, body)?;
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
        self.decrypt(aad, body, tag)?;
        // A sender may pad behind the message; only the length says where it ends.
        let (app, message) = body.split_first_chunk::<2>().ok_or(Malformed::Length)?;
        let length = usize::from(u16::from_le_bytes(*app));
        if length > message.len() {
            return Err(Malformed::Length.into());
        }
        self.sequence = self.sequence.saturating_add(1);
        Ok(length)
    }

    pub(super) fn encrypt(
        &self,
        aad: &[u8],
        body: &mut [u8],
    ) -> Result<[u8; TAG_LENGTH], RecordError> {
        let (key, nonce) = (self.key(), self.nonce());
        match self.aead {
            AeadAlgorithm::Aes128Gcm => encrypt_with::<Aes128Gcm>(key, nonce, aad, body),
            AeadAlgorithm::Aes256Gcm => encrypt_with::<Aes256Gcm>(key, nonce, aad, body),
            AeadAlgorithm::ChaCha20Poly1305 => {
                encrypt_with::<ChaCha20Poly1305>(key, nonce, aad, body)
            }
        }
    }

    fn decrypt(
        &self,
        aad: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG_LENGTH],
    ) -> Result<(), RecordError> {
        let (key, nonce) = (self.key(), self.nonce());
        match self.aead {
            AeadAlgorithm::Aes128Gcm => decrypt_with::<Aes128Gcm>(key, nonce, aad, body, tag),
            AeadAlgorithm::Aes256Gcm => decrypt_with::<Aes256Gcm>(key, nonce, aad, body, tag),
            AeadAlgorithm::ChaCha20Poly1305 => {
                decrypt_with::<ChaCha20Poly1305>(key, nonce, aad, body, tag)
            }
        }
    }
}

/// An algorithm with the sizes that all of them have: SPDM knows no others.
trait Aead: KeyInit + AeadInOut<NonceSize = U12, TagSize = U16> {}

impl<C: KeyInit + AeadInOut<NonceSize = U12, TagSize = U16>> Aead for C {}

fn encrypt_with<C: Aead>(
    key: &[u8],
    nonce: [u8; 12],
    aad: &[u8],
    body: &mut [u8],
) -> Result<[u8; TAG_LENGTH], RecordError> {
    let cipher = C::new_from_slice(key).map_err(|_| Malformed::Length)?;
    let sealed = cipher
        .encrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(body))
        .map_err(|_| Malformed::Length)?;
    Ok(sealed.into())
}

fn decrypt_with<C: Aead>(
    key: &[u8],
    nonce: [u8; 12],
    aad: &[u8],
    body: &mut [u8],
    tag: &[u8; TAG_LENGTH],
) -> Result<(), RecordError> {
    let cipher = C::new_from_slice(key).map_err(|_| Malformed::Length)?;
    cipher
        .decrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(body), &(*tag).into())
        .map_err(|_| RecordError::Tag)
}
