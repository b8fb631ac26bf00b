// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's identity: three X.509 certificates made when the process starts.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::crypto::{Digest, HASH_SIZE, NoEntropy, SigningKey, random, sha384};
use crate::der::{self, tag};

const ECDSA_WITH_SHA384: &[u32] = &[1, 2, 840, 10045, 4, 3, 3];
const EC_PUBLIC_KEY: &[u32] = &[1, 2, 840, 10045, 2, 1];
const SECP384R1: &[u32] = &[1, 3, 132, 0, 34];
const COMMON_NAME: &[u32] = &[2, 5, 4, 3];
const SUBJECT_KEY_ID: &[u32] = &[2, 5, 29, 14];
const KEY_USAGE: &[u32] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u32] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u32] = &[2, 5, 29, 19];
const AUTHORITY_KEY_ID: &[u32] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u32] = &[2, 5, 29, 37];
/// Name form of a PCI Express function (PCIe CMA).
const PCI_SIG_CMA: &[u32] = &[2, 23, 147];
/// `id-DMTF-eku-responder-auth`.
const EKU_RESPONDER_AUTH: &[u32] = &[1, 3, 6, 1, 4, 1, 412, 274, 3];

/// Bits of the key usage extension, most significant first.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;

/// What the leaf certificate says about the function that it stands for.
pub const FUNCTION_NAME: &str = "Vendor=1b36:Device=0010:CC=010802:REV=02:SSVID=1af4:SSID=1100";

/// A certificate chain and the private key of its leaf.
pub struct Identity {
    key: SigningKey,
    root: Vec<u8>,
    chain: Vec<u8>,
    chain_digest: Digest,
}

/// Names and key of who signs a certificate.
struct Issuer<'a> {
    name: &'a str,
    key: &'a SigningKey,
}

/// What differs between the certificates of the chain.
struct Subject<'a> {
    name: &'a str,
    key: &'a SigningKey,
    years: u64,
    /// `None` for the leaf, else how many certification authorities may follow.
    authority: Option<Option<u8>>,
}

impl Identity {
    /// Generates three keys and a chain root, intermediate, leaf, valid from yesterday.
    ///
    /// # Errors
    /// The operating system gave no entropy.
    pub fn generate() -> Result<Self, NoEntropy> {
        let root_key = SigningKey::generate()?;
        let intermediate_key = SigningKey::generate()?;
        let key = SigningKey::generate()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());

        let root_name = "Portcullis device root";
        let intermediate_name = "Portcullis device intermediate";
        let issuer = Issuer {
            name: root_name,
            key: &root_key,
        };
        let root = certificate(
            &issuer,
            now,
            &Subject {
                name: root_name,
                key: &root_key,
                years: 30,
                authority: Some(None),
            },
        )?;
        let intermediate = certificate(
            &issuer,
            now,
            &Subject {
                name: intermediate_name,
                key: &intermediate_key,
                years: 20,
                authority: Some(Some(0)),
            },
        )?;
        let issuer = Issuer {
            name: intermediate_name,
            key: &intermediate_key,
        };
        let leaf = certificate(
            &issuer,
            now,
            &Subject {
                name: "Portcullis NVMe controller",
                key: &key,
                years: 10,
                authority: None,
            },
        )?;

        let chain = spdm_chain(&root, &[&root, &intermediate, &leaf]);
        let chain_digest = sha384(&[&chain]);
        Ok(Self {
            key,
            root,
            chain,
            chain_digest,
        })
    }

    /// Returns the root certificate, DER.
    #[must_use]
    pub fn root_certificate(&self) -> &[u8] {
        &self.root
    }

    /// Returns the chain as SPDM carries it: length, digest of the root, certificates.
    #[must_use]
    pub fn chain(&self) -> &[u8] {
        &self.chain
    }

    /// Returns the SHA-384 digest of [`Self::chain`], as DIGESTS reports it.
    #[must_use]
    pub fn chain_digest(&self) -> &[u8; HASH_SIZE] {
        &self.chain_digest
    }

    /// Returns the key of the leaf.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// Joins certificates to the structure that GET_CERTIFICATE reads.
fn spdm_chain(root: &[u8], certificates: &[&[u8]]) -> Vec<u8> {
    let body = certificates.concat();
    let length = (4 + HASH_SIZE + body.len()) as u16;
    [&length.to_le_bytes()[..], &[0, 0], &sha384(&[root]), &body].concat()
}

fn certificate(issuer: &Issuer<'_>, now: u64, subject: &Subject<'_>) -> Result<Vec<u8>, NoEntropy> {
    let algorithm = der::sequence(&[der::oid(ECDSA_WITH_SHA384)]);
    let mut serial = random::<16>()?;
    serial[0] |= 0x40;
    let to_be_signed = der::sequence(&[
        der::value(tag::CONTEXT_0_CONSTRUCTED, &der::unsigned(&[2])),
        der::unsigned(&serial),
        algorithm.clone(),
        name(issuer.name),
        // A day of slack for a verifier whose clock is behind ours.
        der::sequence(&[
            der::time(now.saturating_sub(DAY)),
            der::time(now + subject.years * YEAR),
        ]),
        name(subject.name),
        public_key(subject.key),
        extensions(issuer, subject),
    ]);
    let signature = der::bit_string(&issuer.key.sign_der(&to_be_signed));
    Ok(der::sequence(&[to_be_signed, algorithm, signature]))
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = der::sequence(&[
        der::oid(COMMON_NAME),
        der::value(tag::UTF8_STRING, common_name.as_bytes()),
    ]);
    der::sequence(&[der::value(tag::SET, &attribute)])
}

fn public_key(key: &SigningKey) -> Vec<u8> {
    der::sequence(&[
        der::sequence(&[der::oid(EC_PUBLIC_KEY), der::oid(SECP384R1)]),
        der::bit_string(&key.public_point()),
    ])
}

/// Names a key by the first 20 bytes of its digest (RFC 7093, method 3).
fn key_id(key: &SigningKey) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(&sha384(&[&key.public_point()])[..20]);
    id
}

fn extension(id: &[u32], critical: bool, content: &[u8]) -> Vec<u8> {
    let mut parts = vec![der::oid(id)];
    if critical {
        parts.push(der::value(tag::BOOLEAN, &[0xff]));
    }
    parts.push(der::value(tag::OCTET_STRING, content));
    der::sequence(&parts)
}

fn key_usage(bits: u8) -> Vec<u8> {
    let unused = bits.trailing_zeros() as u8;
    extension(
        KEY_USAGE,
        true,
        &der::value(tag::BIT_STRING, &[unused, bits]),
    )
}

fn extensions(issuer: &Issuer<'_>, subject: &Subject<'_>) -> Vec<u8> {
    let mut list = vec![
        extension(
            SUBJECT_KEY_ID,
            false,
            &der::value(tag::OCTET_STRING, &key_id(subject.key)),
        ),
        extension(
            AUTHORITY_KEY_ID,
            false,
            &der::sequence(&[der::value(tag::CONTEXT_0, &key_id(issuer.key))]),
        ),
    ];
    if let Some(path_length) = subject.authority {
        let mut constraints = vec![der::value(tag::BOOLEAN, &[0xff])];
        constraints.extend(path_length.map(|length| der::unsigned(&[length])));
        list.push(extension(
            BASIC_CONSTRAINTS,
            true,
            &der::sequence(&constraints),
        ));
        list.push(key_usage(KEY_CERT_SIGN | CRL_SIGN));
    } else {
        list.push(extension(BASIC_CONSTRAINTS, true, &der::sequence(&[])));
        list.push(key_usage(DIGITAL_SIGNATURE));
        list.push(extension(
            EXTENDED_KEY_USAGE,
            false,
            &der::sequence(&[der::oid(EKU_RESPONDER_AUTH)]),
        ));
        let function = der::value(tag::UTF8_STRING, FUNCTION_NAME.as_bytes());
        let other_name = [
            der::oid(PCI_SIG_CMA),
            der::value(tag::CONTEXT_0_CONSTRUCTED, &function),
        ]
        .concat();
        list.push(extension(
            SUBJECT_ALT_NAME,
            false,
            &der::sequence(&[der::value(tag::CONTEXT_0_CONSTRUCTED, &other_name)]),
        ));
    }
    der::value(tag::CONTEXT_3_CONSTRUCTED, &der::sequence(&list))
}

#[cfg(test)]
mod tests {
    use super::Identity;
    use crate::crypto::sha384;

    #[test]
    fn the_chain_states_its_length_and_the_digest_of_its_root() {
        let identity = Identity::generate().unwrap();
        let chain = identity.chain();
        assert_eq!(
            usize::from(u16::from_le_bytes([chain[0], chain[1]])),
            chain.len()
        );
        assert_eq!(chain[4..52], sha384(&[identity.root_certificate()]));
        assert!(chain[52..].starts_with(identity.root_certificate()));
    }
}
