// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Public keys and the signatures that they verify: ECDSA on P-256 and P-384, ML-DSA-65 and -87.

use ml_dsa::{MlDsa65, MlDsa87, MlDsaParams};
use p384::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest as _, Sha256, Sha384};

use crate::agreed::Hash;
use crate::der::{Malformed, Reader, tag};

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ML_DSA_65: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12];
const ML_DSA_87: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13];

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    MlDsa65,
    MlDsa87,
}

/// How a certificate is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Ecdsa(Hash),
    MlDsa65,
    MlDsa87,
}

impl Algorithm {
    /// Reads the content of an algorithm identifier. None of ours has parameters.
    pub(crate) fn read(mut fields: Reader<'_>) -> Result<Self, Malformed> {
        let algorithm = match fields.expect(tag::OBJECT_ID)?.content {
            ECDSA_WITH_SHA256 => Self::Ecdsa(Hash::Sha256),
            ECDSA_WITH_SHA384 => Self::Ecdsa(Hash::Sha384),
            ML_DSA_65 => Self::MlDsa65,
            ML_DSA_87 => Self::MlDsa87,
            _ => return Err(Malformed),
        };
        fields.end()?;
        Ok(algorithm)
    }
}

/// A device's public key.
#[derive(Clone, Copy, Debug)]
pub struct DeviceKey<'a> {
    kind: Kind,
    bytes: &'a [u8],
}

impl<'a> DeviceKey<'a> {
    /// Reads the content of a certificate's key: algorithm and bits.
    pub(crate) fn read(mut fields: Reader<'a>) -> Result<Self, Malformed> {
        let mut algorithm = fields.sequence()?;
        let kind = match algorithm.expect(tag::OBJECT_ID)?.content {
            EC_PUBLIC_KEY => match algorithm.expect(tag::OBJECT_ID)?.content {
                SECP256R1 => Kind::P256,
                SECP384R1 => Kind::P384,
                _ => return Err(Malformed),
            },
            ML_DSA_65 => Kind::MlDsa65,
            ML_DSA_87 => Kind::MlDsa87,
            _ => return Err(Malformed),
        };
        algorithm.end()?;
        let bytes = fields.expect(tag::BIT_STRING)?.bits()?;
        fields.end()?;
        let fits = match (kind, bytes) {
            (Kind::P256, [4, point @ ..]) => {
                point.len() == 64 && p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).is_ok()
            }
            (Kind::P384, [4, point @ ..]) => {
                point.len() == 96 && p384::ecdsa::VerifyingKey::from_sec1_bytes(bytes).is_ok()
            }
            (Kind::MlDsa65, key) => key.len() == 1952,
            (Kind::MlDsa87, key) => key.len() == 2592,
            _ => false,
        };
        if fits {
            Ok(Self { kind, bytes })
        } else {
            Err(Malformed)
        }
    }

    /// Returns the uncompressed point (4, then both coordinates), or the encoded ML-DSA key.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the bytes of a signature in a message.
    #[must_use]
    pub const fn signature_size(&self) -> usize {
        match self.kind {
            Kind::P256 => 64,
            Kind::P384 => 96,
            Kind::MlDsa65 => 3309,
            Kind::MlDsa87 => 4627,
        }
    }

    /// Returns whether `signature` is this key's over `message`. ECDSA signs the `hash` of it, r
    /// then s; ML-DSA binds it to `context`.
    #[must_use]
    pub fn verifies(&self, hash: Hash, context: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match self.kind {
            Kind::P256 | Kind::P384 => match hash {
                Hash::Sha256 => self.verifies_digest(&Sha256::digest(message), signature),
                Hash::Sha384 => self.verifies_digest(&Sha384::digest(message), signature),
            },
            Kind::MlDsa65 => lattice::<MlDsa65>(self.bytes, context, message, signature),
            Kind::MlDsa87 => lattice::<MlDsa87>(self.bytes, context, message, signature),
        }
    }

    fn verifies_digest(&self, digest: &[u8], signature: &[u8]) -> bool {
        if self.kind == Kind::P256 {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(self.bytes);
            let signature = p256::ecdsa::Signature::from_slice(signature);
            matches!((key, signature), (Ok(key), Ok(signature))
                if key.verify_prehash(digest, &signature).is_ok())
        } else {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(self.bytes);
            let signature = p384::ecdsa::Signature::from_slice(signature);
            matches!((key, signature), (Ok(key), Ok(signature))
                if key.verify_prehash(digest, &signature).is_ok())
        }
    }

    /// Returns whether `signature`, in the form of a certificate, is this key's over `content`.
    pub(crate) fn signed(&self, algorithm: Algorithm, content: &[u8], signature: &[u8]) -> bool {
        match (algorithm, self.kind) {
            (Algorithm::Ecdsa(hash), Kind::P256) => pair::<64>(signature)
                .is_ok_and(|signature| self.verifies(hash, &[], content, &signature)),
            (Algorithm::Ecdsa(hash), Kind::P384) => pair::<96>(signature)
                .is_ok_and(|signature| self.verifies(hash, &[], content, &signature)),
            // RFC 9881: the context is empty.
            (Algorithm::MlDsa65, Kind::MlDsa65) | (Algorithm::MlDsa87, Kind::MlDsa87) => {
                self.verifies(Hash::Sha384, &[], content, signature)
            }
            _ => false,
        }
    }
}

/// Takes the two integers of an ECDSA signature.
fn pair<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    let mut outer = Reader::new(bytes);
    let mut parts = outer.sequence()?;
    outer.end()?;
    let mut signature = [0; N];
    let (r, s) = signature.split_at_mut(N / 2);
    parts.expect(tag::INTEGER)?.unsigned(r)?;
    parts.expect(tag::INTEGER)?.unsigned(s)?;
    parts.end()?;
    Ok(signature)
}

/// Its frame is of the size of an expanded key: callers that need another algorithm do not pay it.
#[inline(never)]
fn lattice<P: MlDsaParams>(key: &[u8], context: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (key.try_into(), ml_dsa::Signature::<P>::try_from(signature))
    else {
        return false;
    };
    ml_dsa::VerifyingKey::<P>::decode(key).verify_with_context(message, context, &signature)
}
