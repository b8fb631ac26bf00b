// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's identity: X.509 chains of three certificates, one for each slot and algorithm.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::crypto::{Hash, NoEntropy, Signing, SigningKey, random};
use crate::der::{self, tag};
use crate::secrets::Confidant;

const ECDSA_WITH_SHA256: &[u32] = &[1, 2, 840, 10045, 4, 3, 2];
const ECDSA_WITH_SHA384: &[u32] = &[1, 2, 840, 10045, 4, 3, 3];
const EC_PUBLIC_KEY: &[u32] = &[1, 2, 840, 10045, 2, 1];
const SECP256R1: &[u32] = &[1, 2, 840, 10045, 3, 1, 7];
const SECP384R1: &[u32] = &[1, 3, 132, 0, 34];
const ML_DSA_65: &[u32] = &[2, 16, 840, 1, 101, 3, 4, 3, 18];
const ML_DSA_87: &[u32] = &[2, 16, 840, 1, 101, 3, 4, 3, 19];
const COMMON_NAME: &[u32] = &[2, 5, 4, 3];
const SUBJECT_KEY_ID: &[u32] = &[2, 5, 29, 14];
const KEY_USAGE: &[u32] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u32] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u32] = &[2, 5, 29, 19];
const AUTHORITY_KEY_ID: &[u32] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u32] = &[2, 5, 29, 37];
/// A comment that means nothing, of any length.
const NETSCAPE_COMMENT: &[u32] = &[2, 16, 840, 1, 113_730, 1, 13];
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

/// Largest chain, in bytes: its length has to fit into the 16 bits of GET_CERTIFICATE.
const CHAIN_LIMIT: usize = 0xffff;

/// What an [`Identity`] is made of.
#[derive(Clone, Debug)]
pub struct IdentityPlan {
    /// What all keys are derived from: the same seed gives the same keys.
    pub seed: [u8; 32],
    /// Algorithms to have chains for; not empty.
    pub signings: Vec<Signing>,
    /// Certificate slots, 0 to 7, ascending; not empty. Each has a leaf key of its own.
    pub slots: Vec<u8>,
    /// Makes each chain about this long, in bytes: at most so long, and at most 40 bytes shorter.
    pub chain_size: Option<usize>,
}

impl IdentityPlan {
    /// Plans chains for `signing` in slot 0 with keys that nobody else has.
    ///
    /// # Errors
    /// The operating system gave no entropy.
    pub fn new(signing: Signing) -> Result<Self, NoEntropy> {
        Ok(Self {
            seed: random()?,
            signings: vec![signing],
            slots: vec![0],
            chain_size: None,
        })
    }

    /// Returns the seed that a text stands for.
    #[must_use]
    pub fn seed_of(text: &str) -> [u8; 32] {
        let mut seed = [0; 32];
        seed.copy_from_slice(&Hash::Sha256.digest(&[text.as_bytes()]));
        seed
    }
}

/// A leaf key and the certificates that vouch for it.
pub(crate) struct Holder {
    slot: u8,
    key: SigningKey,
    root: Vec<u8>,
    certificates: Vec<u8>,
}

impl Holder {
    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Returns the chain as SPDM carries it: length, digest of the root, certificates.
    ///
    /// Before 1.4 the length has 16 bits, followed by 16 reserved ones: the same bytes.
    pub(crate) fn chain(&self, hash: Hash) -> Vec<u8> {
        let length = (4 + hash.size() + self.certificates.len()) as u32;
        let root = hash.digest(&[&self.root]);
        [&length.to_le_bytes()[..], &root, &self.certificates].concat()
    }
}

/// Certificate chains and the private keys of their leaves.
pub struct Identity {
    holders: Vec<Holder>,
    /// The first chain with SHA-384, and its digest.
    chain: Vec<u8>,
    chain_digest: [u8; 48],
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
    /// Bytes of a comment that makes the certificate long.
    padding: usize,
}

const ROOT_NAME: &str = "Portcullis device root";
const INTERMEDIATE_NAME: &str = "Portcullis device intermediate";
const LEAF_NAME: &str = "Portcullis NVMe controller";

impl Identity {
    /// Generates new keys and a chain for ECDSA P-384 in slot 0.
    ///
    /// # Errors
    /// The operating system gave no entropy.
    pub fn generate() -> Result<Self, NoEntropy> {
        IdentityPlan::new(Signing::EcdsaP384).map(|plan| Self::new(&plan))
    }

    /// Makes the chains root, intermediate, leaf of `plan`, valid from yesterday.
    ///
    /// # Panics
    /// If `plan` names no algorithm or no slot.
    #[must_use]
    pub fn new(plan: &IdentityPlan) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let holders: Vec<Holder> = plan
            .signings
            .iter()
            .flat_map(|signing| plan.slots.iter().map(|slot| (*signing, *slot)))
            .map(|(signing, slot)| {
                let padding = plan.chain_size.map_or(0, |size| {
                    let least = holder(plan, signing, slot, now, 0)
                        .chain(Hash::Sha384)
                        .len();
                    // The comment has a frame of 23 bytes, the frames around it grow, and ECDSA signatures
                    // vary.
                    size.min(CHAIN_LIMIT).saturating_sub(least + 36)
                });
                holder(plan, signing, slot, now, padding)
            })
            .collect();
        let chain = holders[0].chain(Hash::Sha384);
        let mut chain_digest = [0; 48];
        chain_digest.copy_from_slice(&Hash::Sha384.digest(&[&chain]));
        Self {
            holders,
            chain,
            chain_digest,
        }
    }

    /// Returns the root certificate of the first algorithm, DER.
    #[must_use]
    pub fn root_certificate(&self) -> &[u8] {
        &self.holders[0].root
    }

    /// Returns the first chain as SPDM carries it under SHA-384.
    #[must_use]
    pub fn chain(&self) -> &[u8] {
        &self.chain
    }

    /// Returns the SHA-384 digest of [`Self::chain`].
    #[must_use]
    pub fn chain_digest(&self) -> &[u8; 48] {
        &self.chain_digest
    }

    /// Returns the chain in `slot` for `signing` as SPDM carries it under `hash`.
    #[must_use]
    pub fn chain_of(&self, slot: u8, signing: Signing, hash: Hash) -> Option<Vec<u8>> {
        self.holders(signing)
            .find(|holder| holder.slot == slot)
            .map(|holder| holder.chain(hash))
    }

    /// Tells the private keys of the leaves.
    pub(crate) fn tell_keys(&self, confidant: &Confidant) {
        for holder in &self.holders {
            confidant.tell("identity-key", &holder.key.private());
        }
    }

    /// Lists who can sign with `signing`, in the order of their slots.
    pub(crate) fn holders(&self, signing: Signing) -> impl Iterator<Item = &Holder> {
        self.holders
            .iter()
            .filter(move |holder| holder.key.algorithm() == signing)
    }
}

fn holder(plan: &IdentityPlan, signing: Signing, slot: u8, now: u64, padding: usize) -> Holder {
    let derive = |name: &[u8]| SigningKey::derive(signing, &plan.seed, name);
    let root_key = derive(b"root");
    let intermediate_key = derive(b"intermediate");
    let key = derive(&[b"leaf", &[slot][..]].concat());
    let issuer = Issuer {
        name: ROOT_NAME,
        key: &root_key,
    };
    let root = certificate(
        &issuer,
        now,
        &Subject {
            name: ROOT_NAME,
            key: &root_key,
            years: 30,
            authority: Some(None),
            padding: 0,
        },
    );
    let intermediate = certificate(
        &issuer,
        now,
        &Subject {
            name: INTERMEDIATE_NAME,
            key: &intermediate_key,
            years: 20,
            authority: Some(Some(0)),
            padding,
        },
    );
    let issuer = Issuer {
        name: INTERMEDIATE_NAME,
        key: &intermediate_key,
    };
    let leaf = certificate(
        &issuer,
        now,
        &Subject {
            name: LEAF_NAME,
            key: &key,
            years: 10,
            authority: None,
            padding: 0,
        },
    );
    Holder {
        slot,
        key,
        certificates: [&root[..], &intermediate, &leaf].concat(),
        root,
    }
}

/// Returns the algorithm identifier of a signature by `signing`.
fn signature_algorithm(signing: Signing) -> Vec<u8> {
    der::sequence(&[der::oid(match signing {
        Signing::EcdsaP256 => ECDSA_WITH_SHA256,
        Signing::EcdsaP384 => ECDSA_WITH_SHA384,
        Signing::MlDsa65 => ML_DSA_65,
        Signing::MlDsa87 => ML_DSA_87,
    })])
}

/// Returns the algorithm identifier of a key for `signing`. RFC 9881: ML-DSA has no parameters.
fn key_algorithm(signing: Signing) -> Vec<u8> {
    let curve = match signing {
        Signing::EcdsaP256 => SECP256R1,
        Signing::EcdsaP384 => SECP384R1,
        Signing::MlDsa65 | Signing::MlDsa87 => return signature_algorithm(signing),
    };
    der::sequence(&[der::oid(EC_PUBLIC_KEY), der::oid(curve)])
}

fn certificate(issuer: &Issuer<'_>, now: u64, subject: &Subject<'_>) -> Vec<u8> {
    let algorithm = signature_algorithm(issuer.key.algorithm());
    // One certificate for each key: a number that the key gives is as unique as the key.
    let mut serial = [0; 16];
    serial.copy_from_slice(&Hash::Sha384.digest(&[b"serial", &subject.key.public()])[..16]);
    serial[0] = serial[0] & 0x7f | 0x40;
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
    let signature = der::bit_string(&issuer.key.sign_certificate(&to_be_signed));
    der::sequence(&[to_be_signed, algorithm, signature])
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
        key_algorithm(key.algorithm()),
        der::bit_string(&key.public()),
    ])
}

/// Names a key by the first 20 bytes of its digest (RFC 7093, method 3).
fn key_id(key: &SigningKey) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(&Hash::Sha384.digest(&[&key.public()])[..20]);
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
    if subject.padding > 0 {
        let comment = der::value(tag::IA5_STRING, &b" ".repeat(subject.padding));
        list.push(extension(NETSCAPE_COMMENT, false, &comment));
    }
    der::value(tag::CONTEXT_3_CONSTRUCTED, &der::sequence(&list))
}

#[cfg(test)]
mod tests {
    use super::{Identity, IdentityPlan};
    use crate::crypto::{Hash, Signing};

    #[test]
    fn the_chain_states_its_length_and_the_digest_of_its_root() {
        let identity = Identity::generate().unwrap();
        let chain = identity.chain();
        assert_eq!(
            usize::from(u16::from_le_bytes([chain[0], chain[1]])),
            chain.len()
        );
        let digest = Hash::Sha384.digest(&[identity.root_certificate()]);
        assert_eq!(chain[4..52], digest);
        assert!(chain[52..].starts_with(identity.root_certificate()));
    }

    #[test]
    fn a_seed_gives_the_same_keys_and_each_slot_has_its_own() {
        let plan = IdentityPlan {
            seed: [7; 32],
            signings: vec![Signing::EcdsaP256, Signing::MlDsa65],
            slots: vec![0, 3],
            chain_size: None,
        };
        for signing in plan.signings.clone() {
            let keys = |identity: &Identity| -> Vec<_> {
                identity
                    .holders(signing)
                    .map(|holder| (holder.slot(), holder.key().public()))
                    .collect()
            };
            let first = keys(&Identity::new(&plan));
            assert_eq!(first, keys(&Identity::new(&plan)));
            assert_eq!((first[0].0, first[1].0), (0, 3));
            assert_ne!(first[0].1, first[1].1);
        }
    }

    #[test]
    fn a_chain_grows_to_the_size_that_is_asked_for() {
        for signing in [Signing::EcdsaP384, Signing::MlDsa87] {
            for size in [0x6000, 0xffff] {
                let mut plan = IdentityPlan::new(signing).unwrap();
                plan.chain_size = Some(size);
                let length = Identity::new(&plan).chain().len();
                assert!((size - 40..=size).contains(&length), "{length}");
            }
        }
    }
}
