// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a connection agrees on, and the algorithms behind it.

use aes_gcm::aead::{AeadInOut, KeyInit, consts};
use aes_gcm::{Aes128Gcm, Aes256Gcm, Nonce, Tag};
use chacha20poly1305::ChaCha20Poly1305;
use ecdsa::signature::hazmat::PrehashVerifier;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use ml_dsa::{MlDsa65, MlDsa87};
use ml_kem::kem::Decapsulate;
use ml_kem::{DecapsulationKey, KeyExport, MlKem768, MlKem1024};
use p384::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest, Sha256, Sha384};
use tsm_devices::{Cipher, Exchange, Hash, Signing, Version};

/// Version and algorithms.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub version: Version,
    pub signing: Signing,
    pub hash: Hash,
    pub exchange: Exchange,
    pub cipher: Cipher,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            version: Version::V1_2,
            signing: Signing::EcdsaP384,
            hash: Hash::Sha384,
            exchange: Exchange::Secp384r1,
            cipher: Cipher::Aes256Gcm,
        }
    }
}

impl Terms {
    pub fn digest(&self, bytes: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
            Hash::Sha384 => Sha384::digest(bytes).to_vec(),
        }
    }

    pub fn hash_size(&self) -> usize {
        self.digest(&[]).len()
    }

    pub fn hmac(&self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha256 => {
                let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).unwrap();
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
            Hash::Sha384 => {
                let mut mac = <Hmac<Sha384> as hmac::KeyInit>::new_from_slice(key).unwrap();
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    fn label(&self) -> u8 {
        b'0' + (self.version.byte() & 0x0f)
    }

    pub fn expand(&self, secret: &[u8], label: &str, context: &[u8], size: usize) -> Vec<u8> {
        let info = [
            &(size as u16).to_le_bytes()[..],
            b"spdm1.",
            &[self.label()],
            b" ",
            label.as_bytes(),
            context,
        ]
        .concat();
        let mut out = vec![0; size];
        match self.hash {
            Hash::Sha256 => Hkdf::<Sha256>::from_prk(secret)
                .unwrap()
                .expand(&info, &mut out),
            Hash::Sha384 => Hkdf::<Sha384>::from_prk(secret)
                .unwrap()
                .expand(&info, &mut out),
        }
        .unwrap();
        out
    }

    pub fn key_size(&self) -> usize {
        match self.cipher {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 32,
        }
    }

    pub fn encrypt(&self, key: &[u8], nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; 16] {
        match self.cipher {
            Cipher::Aes128Gcm => encrypt::<Aes128Gcm>(key, nonce, aad, text),
            Cipher::Aes256Gcm => encrypt::<Aes256Gcm>(key, nonce, aad, text),
            Cipher::ChaCha20Poly1305 => encrypt::<ChaCha20Poly1305>(key, nonce, aad, text),
        }
    }

    pub fn decrypt(
        &self,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; 16],
    ) -> bool {
        match self.cipher {
            Cipher::Aes128Gcm => decrypt::<Aes128Gcm>(key, nonce, aad, text, tag),
            Cipher::Aes256Gcm => decrypt::<Aes256Gcm>(key, nonce, aad, text, tag),
            Cipher::ChaCha20Poly1305 => decrypt::<ChaCha20Poly1305>(key, nonce, aad, text, tag),
        }
    }

    /// Masks of signature algorithms (classic, post-quantum) and hash in NEGOTIATE_ALGORITHMS.
    pub fn masks(&self) -> (u32, u32, u32) {
        let (classic, post_quantum) = match self.signing {
            Signing::EcdsaP256 => (0x10, 0),
            Signing::EcdsaP384 => (0x80, 0),
            Signing::MlDsa65 => (0, 2),
            Signing::MlDsa87 => (0, 4),
        };
        let hash = match self.hash {
            Hash::Sha256 => 1,
            Hash::Sha384 => 2,
        };
        (classic, post_quantum, hash)
    }

    /// Type and mask of the structures in NEGOTIATE_ALGORITHMS.
    pub fn structures(&self) -> Vec<[u8; 4]> {
        let cipher = match self.cipher {
            Cipher::Aes128Gcm => 1,
            Cipher::Aes256Gcm => 2,
            Cipher::ChaCha20Poly1305 => 4,
        };
        let mut list = vec![[3, 0x20, cipher, 0], [5, 0x20, 1, 0]];
        match self.exchange {
            Exchange::Secp256r1 => list.insert(0, [2, 0x20, 0x08, 0]),
            Exchange::Secp384r1 => list.insert(0, [2, 0x20, 0x10, 0]),
            Exchange::MlKem768 => list.push([7, 0x20, 2, 0]),
            Exchange::MlKem1024 => list.push([7, 0x20, 4, 0]),
        }
        list
    }

    pub fn signature_size(&self) -> usize {
        match self.signing {
            Signing::EcdsaP256 => 64,
            Signing::EcdsaP384 => 96,
            Signing::MlDsa65 => 3309,
            Signing::MlDsa87 => 4627,
        }
    }

    /// Finds the public key in a certificate.
    pub fn key_of<'a>(&self, certificate: &'a [u8]) -> &'a [u8] {
        let (head, size): (&[u8], usize) = match self.signing {
            Signing::EcdsaP256 => (&[0x03, 0x42, 0x00], 65),
            Signing::EcdsaP384 => (&[0x03, 0x62, 0x00], 97),
            Signing::MlDsa65 => (&[0x03, 0x82, 0x07, 0xa1, 0x00], 1952),
            Signing::MlDsa87 => (&[0x03, 0x82, 0x0a, 0x21, 0x00], 2592),
        };
        let at = certificate
            .windows(head.len())
            .position(|bytes| bytes == head)
            .unwrap()
            + head.len();
        &certificate[at..at + size]
    }

    /// Checks a signature of a message.
    pub fn verifies(&self, key: &[u8], context: &str, message: &[u8], signature: &[u8]) -> bool {
        let digest = self.digest(message);
        match self.signing {
            Signing::EcdsaP256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).unwrap();
                let signature = p256::ecdsa::Signature::from_slice(signature).unwrap();
                key.verify_prehash(&digest, &signature).is_ok()
            }
            Signing::EcdsaP384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).unwrap();
                let signature = p384::ecdsa::Signature::from_slice(signature).unwrap();
                key.verify_prehash(&digest, &signature).is_ok()
            }
            Signing::MlDsa65 => lattice::<MlDsa65>(key, context, message, signature),
            Signing::MlDsa87 => lattice::<MlDsa87>(key, context, message, signature),
        }
    }

    /// The message that is signed for a transcript.
    pub fn signed_message(&self, context: &str, transcript: &[u8]) -> Vec<u8> {
        let version = [b"dmtf-spdm-v1.", &[self.label()][..], b".*"].concat();
        let mut message = version.repeat(4);
        message.resize(100 - context.len(), 0);
        message.extend(context.as_bytes());
        message.extend(self.digest(transcript));
        message
    }

    /// What KEY_EXCHANGE carries. The requester of these tests has one key for ever.
    pub fn share(&self) -> Vec<u8> {
        let point = match self.exchange {
            Exchange::Secp256r1 => p256_secret()
                .public_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
            Exchange::Secp384r1 => p384_secret()
                .public_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
            Exchange::MlKem768 => {
                let key = DecapsulationKey::<MlKem768>::from_seed([9; 64].into());
                return key.encapsulation_key().to_bytes().to_vec();
            }
            Exchange::MlKem1024 => {
                let key = DecapsulationKey::<MlKem1024>::from_seed([9; 64].into());
                return key.encapsulation_key().to_bytes().to_vec();
            }
        };
        point[1..].to_vec()
    }

    /// Bytes of what KEY_EXCHANGE_RSP carries.
    pub fn answer_size(&self) -> usize {
        match self.exchange {
            Exchange::Secp256r1 => 64,
            Exchange::Secp384r1 => 96,
            Exchange::MlKem768 => 1088,
            Exchange::MlKem1024 => 1568,
        }
    }

    /// The secret shared with who answered [`Self::share`].
    pub fn shared(&self, answer: &[u8]) -> Vec<u8> {
        let point = [&[4], answer].concat();
        match self.exchange {
            Exchange::Secp256r1 => {
                let theirs = p256::PublicKey::from_sec1_bytes(&point).unwrap();
                let ours = p256_secret().to_nonzero_scalar();
                let shared = p256::ecdh::diffie_hellman(ours, theirs.as_affine());
                shared.raw_secret_bytes().to_vec()
            }
            Exchange::Secp384r1 => {
                let theirs = p384::PublicKey::from_sec1_bytes(&point).unwrap();
                let ours = p384_secret().to_nonzero_scalar();
                let shared = p384::ecdh::diffie_hellman(ours, theirs.as_affine());
                shared.raw_secret_bytes().to_vec()
            }
            Exchange::MlKem768 => DecapsulationKey::<MlKem768>::from_seed([9; 64].into())
                .decapsulate_slice(answer)
                .unwrap()
                .to_vec(),
            Exchange::MlKem1024 => DecapsulationKey::<MlKem1024>::from_seed([9; 64].into())
                .decapsulate_slice(answer)
                .unwrap()
                .to_vec(),
        }
    }
}

fn p256_secret() -> p256::SecretKey {
    p256::SecretKey::from_slice(&[0x11; 32]).unwrap()
}

fn p384_secret() -> p384::SecretKey {
    p384::SecretKey::from_slice(&[0x11; 48]).unwrap()
}

fn lattice<P: ml_dsa::MlDsaParams>(
    key: &[u8],
    context: &str,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = ml_dsa::VerifyingKey::<P>::decode(key.try_into().unwrap());
    let signature = ml_dsa::Signature::<P>::try_from(signature).unwrap();
    key.verify_with_context(message, context.as_bytes(), &signature)
}

fn encrypt<C>(key: &[u8], nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; 16]
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12, TagSize = consts::U16>,
{
    C::new_from_slice(key)
        .unwrap()
        .encrypt_inout_detached(&Nonce::from(*nonce), aad, text.into())
        .unwrap()
        .into()
}

fn decrypt<C>(key: &[u8], nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; 16]) -> bool
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12, TagSize = consts::U16>,
{
    C::new_from_slice(key)
        .unwrap()
        .decrypt_inout_detached(&Nonce::from(*nonce), aad, text.into(), &Tag::from(*tag))
        .is_ok()
}
