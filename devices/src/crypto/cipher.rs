// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Authenticated encryption of records.

use aes_gcm::aead::{AeadInOut, KeyInit, consts};
use aes_gcm::{Aes128Gcm, Aes256Gcm, Nonce, Tag};
use chacha20poly1305::ChaCha20Poly1305;

/// Bytes of a tag, whatever the cipher.
pub(crate) const TAG_SIZE: usize = 16;

/// A cipher of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Returns the bytes of a key.
    #[must_use]
    pub fn key_size(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Encrypts `text` in place and returns the tag.
    pub(crate) fn seal(
        self,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
    ) -> [u8; TAG_SIZE] {
        match self {
            Self::Aes128Gcm => seal::<Aes128Gcm>(key, nonce, aad, text),
            Self::Aes256Gcm => seal::<Aes256Gcm>(key, nonce, aad, text),
            Self::ChaCha20Poly1305 => seal::<ChaCha20Poly1305>(key, nonce, aad, text),
        }
    }

    /// Decrypts `text` in place; `false` if the tag is wrong, and then `text` holds nothing of use.
    pub(crate) fn open(
        self,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_SIZE],
    ) -> bool {
        match self {
            Self::Aes128Gcm => open::<Aes128Gcm>(key, nonce, aad, text, tag),
            Self::Aes256Gcm => open::<Aes256Gcm>(key, nonce, aad, text, tag),
            Self::ChaCha20Poly1305 => open::<ChaCha20Poly1305>(key, nonce, aad, text, tag),
        }
    }
}

const KEY_FITS: &str = "the key has the cipher's length";

fn seal<C>(key: &[u8], nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_SIZE]
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12, TagSize = consts::U16>,
{
    C::new_from_slice(key)
        .expect(KEY_FITS)
        .encrypt_inout_detached(&Nonce::from(*nonce), aad, text.into())
        .expect("the text is far below the limit of the mode")
        .into()
}

fn open<C>(key: &[u8], nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_SIZE]) -> bool
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12, TagSize = consts::U16>,
{
    C::new_from_slice(key)
        .expect(KEY_FITS)
        .decrypt_inout_detached(&Nonce::from(*nonce), aad, text.into(), &Tag::from(*tag))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::Cipher;

    #[test]
    fn a_changed_tag_text_or_header_does_not_open() {
        for cipher in [
            Cipher::Aes128Gcm,
            Cipher::Aes256Gcm,
            Cipher::ChaCha20Poly1305,
        ] {
            let (key, nonce) = (vec![7; cipher.key_size()], [9; 12]);
            let mut text = *b"measured";
            let tag = cipher.seal(&key, &nonce, b"aad", &mut text);
            let mut wrong_tag = tag;
            wrong_tag[0] ^= 1;
            assert!(!cipher.open(&key, &nonce, b"aad", &mut text.clone(), &wrong_tag));
            assert!(!cipher.open(&key, &nonce, b"abd", &mut text.clone(), &tag));
            let mut changed = text;
            changed[3] ^= 1;
            assert!(!cipher.open(&key, &nonce, b"aad", &mut changed, &tag));
            assert!(cipher.open(&key, &nonce, b"aad", &mut text, &tag));
            assert_eq!(&text, b"measured");
        }
    }
}
