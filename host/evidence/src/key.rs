// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Public keys and what they verify.

use ml_dsa::{EncodedSignature, EncodedVerifyingKey, MlDsa65, MlDsa87, MlDsaParams};
use p256::ecdsa::signature::Verifier as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ML_DSA_65: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.18");
const ML_DSA_87: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.19");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// A public key.
pub(crate) enum Key {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    MlDsa65(Vec<u8>),
    MlDsa87(Vec<u8>),
}

impl Key {
    pub(crate) fn new(info: &SubjectPublicKeyInfoOwned) -> Result<Self, String> {
        let bytes = info.subject_public_key.raw_bytes();
        let curve = info.algorithm.parameters.as_ref();
        let curve = curve.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let bad = |_| "the public key is not a point of its curve".to_owned();
        match (info.algorithm.oid, curve) {
            (EC_PUBLIC_KEY, Some(SECP256R1)) => p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes)
                .map(Self::P256)
                .map_err(bad),
            (EC_PUBLIC_KEY, Some(SECP384R1)) => p384::ecdsa::VerifyingKey::from_sec1_bytes(bytes)
                .map(Self::P384)
                .map_err(bad),
            (ML_DSA_65, None) if bytes.len() == 1952 => Ok(Self::MlDsa65(bytes.to_vec())),
            (ML_DSA_87, None) if bytes.len() == 2592 => Ok(Self::MlDsa87(bytes.to_vec())),
            (other, _) => Err(format!("a public key of kind {other} is not understood")),
        }
    }

    /// Returns the kind of key.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::P256(_) => "ECDSA P-256",
            Self::P384(_) => "ECDSA P-384",
            Self::MlDsa65(_) => "ML-DSA-65",
            Self::MlDsa87(_) => "ML-DSA-87",
        }
    }

    /// Checks a signature as certificates have it, under the algorithm `oid`.
    pub(crate) fn verifies_certificate(
        &self,
        oid: ObjectIdentifier,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        match (self, oid) {
            (Self::P256(key), ECDSA_SHA256) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Self::P384(key), ECDSA_SHA384) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Self::MlDsa65(_), ML_DSA_65) | (Self::MlDsa87(_), ML_DSA_87) => {
                self.verifies(message, b"", signature)
            }
            _ => false,
        }
    }

    /// Checks a signature as SPDM has it; `context` is a parameter of ML-DSA only.
    pub(crate) fn verifies(&self, message: &[u8], context: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::MlDsa65(key) => ml_dsa::<MlDsa65>(key, message, context, signature),
            Self::MlDsa87(key) => ml_dsa::<MlDsa87>(key, message, context, signature),
        }
    }
}

fn ml_dsa<P: MlDsaParams>(key: &[u8], message: &[u8], context: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = EncodedVerifyingKey::<P>::try_from(key) else {
        return false;
    };
    let signature = EncodedSignature::<P>::try_from(signature).ok();
    signature
        .and_then(|signature| ml_dsa::Signature::<P>::decode(&signature))
        .is_some_and(|signature| {
            ml_dsa::VerifyingKey::<P>::decode(&key)
                .verify_with_context(message, context, &signature)
        })
}
