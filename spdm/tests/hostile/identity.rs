// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys and certificates of the device, and the algorithms that it selects.

use ml_dsa::{MlDsa65, MlDsa87};
use ml_kem::{EncapsulationKey, MlKem768, MlKem1024};
use p384::ecdsa::signature::hazmat::PrehashSigner;
use tsm_spdm::Offer;
use tsm_spdm::crypto::{
    AeadAlgorithm, Ephemeral, ExchangeAlgorithm, HashAlgorithm, KeyAgreement, PublicKey, Random,
    SharedSecret, SignatureAlgorithm, Signed, Suite, Transcript, signing_prefix,
};
use tsm_spdm::wire::certificate::ChainHeader;
use tsm_spdm::wire::negotiation::{
    AEAD_AES_128_GCM, AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, ASYM_ECDSA_P256, ASYM_ECDSA_P384,
    Algorithm, Algorithms, DHE_SECP256R1, DHE_SECP384R1, HASH_SHA256, HASH_SHA384, KEM_ML_KEM_768,
    KEM_ML_KEM_1024, MEASUREMENT_HASH_SHA384, PQC_ASYM_ML_DSA_65, PQC_ASYM_ML_DSA_87,
};
use tsm_spdm::wire::{Malformed, Version};
use zerocopy::IntoBytes;

/// What the device selects unless it is told otherwise.
pub const SUITE: Suite = Suite {
    version: Version::V1_2,
    ..Suite::STRONGEST
};

/// The offer of exactly that, so that everything else is a lie.
pub const OFFER: Offer = Offer {
    versions: 1 << 2,
    asym: ASYM_ECDSA_P384,
    pqc_asym: 0,
    hash: HASH_SHA384,
    dhe: DHE_SECP384R1,
    kem: 0,
    aead: AEAD_AES_256_GCM,
    measurement_hash: MEASUREMENT_HASH_SHA384,
};

/// The device's private key.
pub enum Key {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    MlDsa65(Box<ml_dsa::ExpandedSigningKey<MlDsa65>>),
    MlDsa87(Box<ml_dsa::ExpandedSigningKey<MlDsa87>>),
}

impl Key {
    /// Makes the key that `seed` stands for.
    pub fn new(algorithm: SignatureAlgorithm, seed: u8) -> Self {
        match algorithm {
            SignatureAlgorithm::EcdsaP256 => {
                Self::P256(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
            }
            SignatureAlgorithm::EcdsaP384 => {
                Self::P384(p384::ecdsa::SigningKey::from_slice(&[seed; 48]).unwrap())
            }
            SignatureAlgorithm::MlDsa65 => Self::MlDsa65(Box::new(
                ml_dsa::ExpandedSigningKey::from_seed(&[seed; 32].into()),
            )),
            SignatureAlgorithm::MlDsa87 => Self::MlDsa87(Box::new(
                ml_dsa::ExpandedSigningKey::from_seed(&[seed; 32].into()),
            )),
        }
    }

    /// Returns the public key as certificates have it.
    pub fn raw(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::MlDsa65(key) => key.verifying_key().encode().to_vec(),
            Self::MlDsa87(key) => key.verifying_key().encode().to_vec(),
        }
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self {
            Self::P256(_) => SignatureAlgorithm::EcdsaP256,
            Self::P384(_) => SignatureAlgorithm::EcdsaP384,
            Self::MlDsa65(_) => SignatureAlgorithm::MlDsa65,
            Self::MlDsa87(_) => SignatureAlgorithm::MlDsa87,
        }
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::from_raw(self.algorithm(), &self.raw()).unwrap()
    }

    pub fn sign(&self, signed: &Signed<'_>) -> Vec<u8> {
        let prehash = signed.prehash();
        let prefix = signing_prefix(signed.version, signed.context);
        let message = [&prefix, signed.digest.as_bytes()].concat();
        match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    key.sign_prehash(prehash.as_bytes()).unwrap();
                signature.to_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature =
                    key.sign_prehash(prehash.as_bytes()).unwrap();
                signature.to_bytes().to_vec()
            }
            Self::MlDsa65(key) => {
                let signature = key.sign_deterministic(&message, signed.context.words());
                signature.unwrap().encode().to_vec()
            }
            Self::MlDsa87(key) => {
                let signature = key.sign_deterministic(&message, signed.context.words());
                signature.unwrap().encode().to_vec()
            }
        }
    }

    /// Returns the DER of the `SubjectPublicKeyInfo`.
    fn info(&self) -> Vec<u8> {
        match self {
            Self::P256(_) => point_info(&P256, &self.raw()),
            Self::P384(_) => point_info(&P384, &self.raw()),
            Self::MlDsa65(_) => key_info(&der(6, &ML_DSA_65), &self.raw()),
            Self::MlDsa87(_) => key_info(&der(6, &ML_DSA_87), &self.raw()),
        }
    }
}

/// The object identifiers of the two curves, in DER.
const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
pub const P384: [u8; 7] = [6, 5, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// The object identifiers of ML-DSA.
const ML_DSA_65: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 3, 0x12];
const ML_DSA_87: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 3, 0x13];

/// Returns the DER of the `SubjectPublicKeyInfo` of a point.
pub fn point_info(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let ec_public_key = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    key_info(&[&ec_public_key, curve].concat(), point)
}

fn key_info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = der(3, &[&[0], key].concat());
    der(0x30, &[der(0x30, algorithm), bits].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ ..0x80) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

/// Makes something with the outline of a certificate for a key.
pub fn certificate(key: &Key, filler: usize) -> Vec<u8> {
    certificate_with(key.info(), filler)
}

/// Makes something with the outline of a certificate around a `SubjectPublicKeyInfo`.
pub fn certificate_with(key_info: Vec<u8>, filler: usize) -> Vec<u8> {
    let name = der(0x30, &vec![0; filler]);
    let parts = [
        der(0xa0, &[2, 1, 2]),
        der(2, &[7; 20]),
        der(0x30, &[6, 1, 1]),
        name.clone(),
        der(0x30, &[0x17, 1, 1]),
        name,
        key_info,
        der(0xa3, &[0; 30]),
    ];
    let signature = [der(0x30, &[6, 1, 1]), der(3, &[0; 104])].concat();
    der(0x30, &[der(0x30, &parts.concat()), signature].concat())
}

/// Puts certificates into a chain.
pub fn chain(suite: &Suite, certificates: &[Vec<u8>]) -> Vec<u8> {
    let root = Transcript::new(suite.hash).with(&certificates[0]).digest();
    let header = ChainHeader::new(certificates.concat().len(), suite.hash.length()).unwrap();
    [header.as_bytes(), root.as_bytes(), &certificates.concat()].concat()
}

/// Writes ALGORITHMS.
pub fn select(suite: &Suite, out: &mut [u8]) -> Result<usize, Malformed> {
    let (asym, pqc_asym) = match suite.signature {
        SignatureAlgorithm::EcdsaP256 => (ASYM_ECDSA_P256, 0),
        SignatureAlgorithm::EcdsaP384 => (ASYM_ECDSA_P384, 0),
        SignatureAlgorithm::MlDsa65 => (0, PQC_ASYM_ML_DSA_65),
        SignatureAlgorithm::MlDsa87 => (0, PQC_ASYM_ML_DSA_87),
    };
    let hash = match suite.hash {
        HashAlgorithm::Sha256 => HASH_SHA256,
        HashAlgorithm::Sha384 => HASH_SHA384,
    };
    let exchange = match suite.exchange {
        ExchangeAlgorithm::Secp256r1 => Algorithm::new(Algorithm::DHE, DHE_SECP256R1),
        ExchangeAlgorithm::Secp384r1 => Algorithm::new(Algorithm::DHE, DHE_SECP384R1),
        ExchangeAlgorithm::MlKem768 => Algorithm::new(Algorithm::KEM, KEM_ML_KEM_768),
        ExchangeAlgorithm::MlKem1024 => Algorithm::new(Algorithm::KEM, KEM_ML_KEM_1024),
    };
    let aead = match suite.aead {
        AeadAlgorithm::Aes128Gcm => AEAD_AES_128_GCM,
        AeadAlgorithm::Aes256Gcm => AEAD_AES_256_GCM,
        AeadAlgorithm::ChaCha20Poly1305 => AEAD_CHACHA20_POLY1305,
    };
    let algorithms = [
        exchange,
        Algorithm::new(Algorithm::AEAD, aead),
        Algorithm::new(Algorithm::KEY_SCHEDULE, 1),
    ];
    let selected = Algorithms {
        measurement_specification: 1,
        other_parameters: 2,
        measurement_hash: MEASUREMENT_HASH_SHA384,
        asym,
        hash,
        pqc_asym,
        algorithms: &algorithms,
    };
    selected.emit(suite.version, out)
}

/// Answers the requester's exchange value: returns the device's, and what both then know.
pub fn agree(
    suite: &Suite,
    theirs: &[u8],
    random: Random<'_>,
) -> Result<(Vec<u8>, SharedSecret), Malformed> {
    let mut coins = [0; 32];
    let value = Malformed::Value;
    match suite.exchange {
        ExchangeAlgorithm::Secp256r1 | ExchangeAlgorithm::Secp384r1 => {
            let (agreement, half) = Ephemeral::generate(suite.exchange, random).unwrap();
            Ok((half.as_bytes().to_vec(), agreement.agree(theirs)?))
        }
        ExchangeAlgorithm::MlKem768 => {
            random(&mut coins).unwrap();
            let key = theirs.try_into().map_err(|_| value)?;
            let key = EncapsulationKey::<MlKem768>::new(key).map_err(|_| value)?;
            let (sealed, shared) = key.encapsulate_deterministic(&coins.into());
            Ok((sealed.to_vec(), SharedSecret::new(&shared)))
        }
        ExchangeAlgorithm::MlKem1024 => {
            random(&mut coins).unwrap();
            let key = theirs.try_into().map_err(|_| value)?;
            let key = EncapsulationKey::<MlKem1024>::new(key).map_err(|_| value)?;
            let (sealed, shared) = key.encapsulate_deterministic(&coins.into());
            Ok((sealed.to_vec(), SharedSecret::new(&shared)))
        }
    }
}
