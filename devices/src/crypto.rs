// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The one algorithm suite of the device: SHA-384, HMAC, HKDF, AES-256-GCM, ECDSA and ECDH on P-384.

use std::fs::File;
use std::io::Read;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use ecdsa::signature::Signer;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use p384::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest as _, Sha384};
use zeroize::Zeroizing;

/// Bytes of a SHA-384 digest.
pub(crate) const HASH_SIZE: usize = 48;
/// Bytes of an ECDSA P-384 signature, r then s.
pub(crate) const SIGNATURE_SIZE: usize = 96;
/// Bytes of a P-384 point without its format byte.
pub(crate) const POINT_SIZE: usize = 96;
/// Bytes of an AES-GCM tag.
pub(crate) const TAG_SIZE: usize = 16;

/// A SHA-384 digest.
pub(crate) type Digest = [u8; HASH_SIZE];
/// A digest-sized secret that is erased when dropped.
pub(crate) type Secret = Zeroizing<Digest>;

/// Reports that the operating system gave no entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

impl std::fmt::Display for NoEntropy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("no entropy")
    }
}

impl std::error::Error for NoEntropy {}

/// Returns `N` unpredictable bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|_| NoEntropy)?;
    Ok(bytes)
}

/// Hashes the concatenation of `parts`.
pub(crate) fn sha384(parts: &[&[u8]]) -> Digest {
    let mut hash = Transcript::new();
    for part in parts {
        hash.append(part);
    }
    hash.digest()
}

/// Computes HMAC-SHA-384 over the concatenation of `parts`.
pub(crate) fn hmac384(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut mac = <Hmac<Sha384> as hmac::KeyInit>::new_from_slice(key)
        .expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Expands `secret` to at most 48 bytes with HKDF-SHA-384.
pub(crate) fn hkdf_expand(secret: &Secret, info: &[u8], out: &mut [u8]) {
    Hkdf::<Sha384>::from_prk(&secret[..])
        .expect("a digest is a valid pseudorandom key")
        .expand(info, out)
        .expect("an output of one block is never too long");
}

/// A hash that grows with the messages it covers; its value can be read at any time.
#[derive(Clone)]
pub(crate) struct Transcript(Sha384);

impl Transcript {
    pub(crate) fn new() -> Self {
        Self(Sha384::new())
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.clone().finalize().into()
    }
}

/// A P-384 signing key. The scalar is erased when dropped.
pub(crate) struct SigningKey(p384::ecdsa::SigningKey);

impl SigningKey {
    /// Generates a key.
    pub(crate) fn generate() -> Result<Self, NoEntropy> {
        loop {
            let bytes = Zeroizing::new(random::<48>()?);
            // A scalar out of range is possible, though not likely: draw again.
            if let Ok(key) = p384::ecdsa::SigningKey::from_slice(&bytes[..]) {
                return Ok(Self(key));
            }
        }
    }

    /// Signs `message`; returns r and s, big endian.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_SIZE] {
        let signature: p384::ecdsa::Signature = self.0.sign(message);
        signature.to_bytes().into()
    }

    /// Signs `message`; returns the DER form that certificates carry.
    pub(crate) fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let signature: p384::ecdsa::Signature = self.0.sign(message);
        signature.to_der().as_bytes().to_vec()
    }

    /// Returns the uncompressed public point with its format byte.
    pub(crate) fn public_point(&self) -> Vec<u8> {
        self.0
            .verifying_key()
            .to_sec1_point(false)
            .as_bytes()
            .to_vec()
    }
}

/// Answers a peer's ECDH share: returns our own share and the shared X coordinate.
///
/// `None` if the peer's share is not a point of the curve.
pub(crate) fn key_agreement(
    peer: &[u8; POINT_SIZE],
) -> Result<Option<([u8; POINT_SIZE], Secret)>, NoEntropy> {
    let mut encoded = [0x04; POINT_SIZE + 1];
    encoded[1..].copy_from_slice(peer);
    let Ok(peer) = p384::PublicKey::from_sec1_bytes(&encoded) else {
        return Ok(None);
    };
    let secret = loop {
        let bytes = Zeroizing::new(random::<48>()?);
        if let Ok(secret) = p384::SecretKey::from_slice(&bytes[..]) {
            break secret;
        }
    };
    let point = secret.public_key().to_sec1_point(false);
    let mut share = [0; POINT_SIZE];
    share.copy_from_slice(&point.as_bytes()[1..]);
    let shared = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
    let mut x = Secret::new([0; HASH_SIZE]);
    x.copy_from_slice(shared.raw_secret_bytes());
    Ok(Some((share, x)))
}

/// Encrypts `text` in place and returns the tag.
pub(crate) fn seal(
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    text: &mut [u8],
) -> [u8; TAG_SIZE] {
    Aes256Gcm::new(key.into())
        .encrypt_inout_detached(&Nonce::from(*nonce), aad, text.into())
        .expect("the text is far below the limit of the mode")
        .into()
}

/// Decrypts `text` in place; `false` if the tag is wrong, and then `text` holds nothing of use.
pub(crate) fn open(
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_SIZE],
) -> bool {
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(&Nonce::from(*nonce), aad, text.into(), &Tag::from(*tag))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::{key_agreement, open, seal};

    #[test]
    fn a_share_off_the_curve_is_refused() {
        assert!(key_agreement(&[0; 96]).unwrap().is_none());
        assert!(key_agreement(&[0xff; 96]).unwrap().is_none());
    }

    #[test]
    fn a_changed_tag_text_or_header_does_not_open() {
        let (key, nonce) = ([7; 32], [9; 12]);
        let mut text = *b"measured";
        let tag = seal(&key, &nonce, b"aad", &mut text);
        let mut wrong_tag = tag;
        wrong_tag[0] ^= 1;
        assert!(!open(&key, &nonce, b"aad", &mut text.clone(), &wrong_tag));
        assert!(!open(&key, &nonce, b"abd", &mut text.clone(), &tag));
        assert!(open(&key, &nonce, b"aad", &mut text, &tag));
        assert_eq!(&text, b"measured");
    }
}
