// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use ml_dsa::{MlDsa65, MlDsa87, MlDsaParams};
use p384::ecdsa::SigningKey;
use p384::ecdsa::signature::Signer;
use sha2::{Digest as _, Sha256};

use super::{BASIC_CONSTRAINTS, Error, KEY_USAGE, verify_chain};
use crate::agreed::{Agreed, Hash};
use crate::measurement::Measurements;
use crate::{Digest, sha384};

/// Returns a signing key that depends on `seed` (not zero) only.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 48]).unwrap()
}

fn p256_key(seed: u8) -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap()
}

fn lattice_key<P: MlDsaParams>(seed: u8) -> ml_dsa::SigningKey<P> {
    ml_dsa::SigningKey::from_seed(&[seed; 32].into())
}

/// An algorithm of a test's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    P256,
    P384,
    MlDsa65,
    MlDsa87,
}

impl Kind {
    /// Object identifiers of signature, key and, if there is one, curve.
    fn identifiers(self) -> (&'static [u8], &'static [u8], Option<&'static [u8]>) {
        const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
        const ML_DSA_65: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 18];
        const ML_DSA_87: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 19];
        match self {
            Self::P256 => (
                &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
                EC,
                Some(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]),
            ),
            Self::P384 => (
                &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
                EC,
                Some(&[0x2b, 0x81, 4, 0, 0x22]),
            ),
            Self::MlDsa65 => (ML_DSA_65, ML_DSA_65, None),
            Self::MlDsa87 => (ML_DSA_87, ML_DSA_87, None),
        }
    }

    fn public(self, seed: u8) -> Vec<u8> {
        match self {
            Self::P256 => p256_key(seed)
                .verifying_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
            Self::P384 => key(seed)
                .verifying_key()
                .to_sec1_point(false)
                .as_bytes()
                .to_vec(),
            Self::MlDsa65 => lattice_key::<MlDsa65>(seed)
                .expanded_key()
                .verifying_key()
                .encode()
                .to_vec(),
            Self::MlDsa87 => lattice_key::<MlDsa87>(seed)
                .expanded_key()
                .verifying_key()
                .encode()
                .to_vec(),
        }
    }

    /// Signs; ECDSA gives r and s.
    pub(crate) fn sign(self, seed: u8, context: &[u8], message: &[u8]) -> Vec<u8> {
        fn lattice<P: MlDsaParams>(seed: u8, context: &[u8], message: &[u8]) -> Vec<u8> {
            lattice_key::<P>(seed)
                .expanded_key()
                .sign_deterministic(message, context)
                .unwrap()
                .encode()
                .to_vec()
        }
        match self {
            Self::P256 => {
                let signature: p256::ecdsa::Signature = p256_key(seed).sign(message);
                signature.to_bytes().to_vec()
            }
            Self::P384 => {
                let signature: p384::ecdsa::Signature = key(seed).sign(message);
                signature.to_bytes().to_vec()
            }
            Self::MlDsa65 => lattice::<MlDsa65>(seed, context, message),
            Self::MlDsa87 => lattice::<MlDsa87>(seed, context, message),
        }
    }

    fn sign_certificate(self, seed: u8, content: &[u8]) -> Vec<u8> {
        let signature = self.sign(seed, &[], content);
        if matches!(self, Self::MlDsa65 | Self::MlDsa87) {
            return signature;
        }
        let (r, s) = signature.split_at(signature.len() / 2);
        value(0x30, &[integer(r), integer(s)].concat())
    }
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

fn integer(digits: &[u8]) -> Vec<u8> {
    let skip = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = &digits[skip..];
    if digits[0] & 0x80 == 0 {
        value(2, digits)
    } else {
        value(2, &[&[0], digits].concat())
    }
}

fn extension(id: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let flag = if critical { value(1, &[0xff]) } else { vec![] };
    value(0x30, &[value(6, id), flag, value(4, content)].concat())
}

/// What differs between the certificates of a test.
#[derive(Clone)]
struct Plan {
    kind: Kind,
    issuer: &'static str,
    subject: &'static str,
    signer: u8,
    holder: u8,
    authority: bool,
    path_length: Option<u8>,
    usage: u8,
    unknown: Option<bool>,
}

impl Plan {
    fn encode(&self) -> Vec<u8> {
        let (signature_id, key_id, curve) = self.kind.identifiers();
        let algorithm = value(0x30, &value(6, signature_id));
        let curve = curve.map_or(vec![], |curve| value(6, curve));
        let public_key = [
            value(0x30, &[value(6, key_id), curve].concat()),
            value(3, &[&[0], &self.kind.public(self.holder)[..]].concat()),
        ]
        .concat();
        let mut constraints = vec![];
        if self.authority {
            constraints = value(1, &[0xff]);
        }
        if let Some(limit) = self.path_length {
            constraints.extend(value(2, &[limit]));
        }
        let mut extensions = extension(BASIC_CONSTRAINTS, true, &value(0x30, &constraints));
        extensions.extend(extension(KEY_USAGE, true, &value(3, &[0, self.usage])));
        if let Some(critical) = self.unknown {
            extensions.extend(extension(&[0x2a, 3], critical, &[5, 0]));
        }
        let to_be_signed = [
            value(0xa0, &value(2, &[2])),
            value(2, &[1]),
            algorithm.clone(),
            value(0x30, self.issuer.as_bytes()),
            value(0x30, b"dates"),
            value(0x30, self.subject.as_bytes()),
            value(0x30, &public_key),
            value(0xa3, &value(0x30, &extensions)),
        ]
        .concat();
        let to_be_signed = value(0x30, &to_be_signed);
        let signature = self.kind.sign_certificate(self.signer, &to_be_signed);
        let signature = value(3, &[&[0], &signature[..]].concat());
        value(0x30, &[to_be_signed, algorithm, signature].concat())
    }
}

fn plans() -> [Plan; 3] {
    let root = Plan {
        kind: Kind::P384,
        issuer: "root",
        subject: "root",
        signer: 1,
        holder: 1,
        authority: true,
        path_length: None,
        usage: 0x06,
        unknown: None,
    };
    let middle = Plan {
        subject: "middle",
        holder: 2,
        path_length: Some(0),
        ..root.clone()
    };
    let leaf = Plan {
        issuer: "middle",
        subject: "device",
        signer: 2,
        holder: 3,
        authority: false,
        usage: 0x80,
        unknown: Some(false),
        ..root.clone()
    };
    [root, middle, leaf]
}

fn chain_of(plans: &[Plan]) -> (Vec<u8>, Digest) {
    let certificates: Vec<Vec<u8>> = plans.iter().map(Plan::encode).collect();
    let root = sha384(&certificates[0]);
    let body = certificates.concat();
    let length = (52 + body.len()) as u16;
    let chain = [&length.to_le_bytes()[..], &[0, 0], &root, &body].concat();
    (chain, root)
}

/// Returns a good chain whose device key is `key(3)`, and the digest of its root.
pub(crate) fn good_chain() -> (Vec<u8>, Digest) {
    chain_of(&plans())
}

/// The same with certificates and keys of another kind.
pub(crate) fn good_chain_of(kind: Kind) -> (Vec<u8>, Digest) {
    chain_of(&plans().map(|plan| Plan { kind, ..plan }))
}

fn refusal(plans: &[Plan]) -> Option<Error> {
    let (chain, root) = chain_of(plans);
    verify_chain(&chain, &root, Hash::Sha384).err()
}

#[test]
fn a_good_chain_yields_the_devices_key() {
    let (chain, root) = good_chain();
    let found = verify_chain(&chain, &root, Hash::Sha384).unwrap();
    assert_eq!(found.bytes(), Kind::P384.public(3));
}

#[test]
fn a_chain_of_any_algorithm_yields_the_devices_key() {
    for kind in [Kind::P256, Kind::MlDsa65, Kind::MlDsa87] {
        let (chain, root) = good_chain_of(kind);
        let found = verify_chain(&chain, &root, Hash::Sha384).unwrap();
        assert_eq!(found.bytes(), kind.public(3));
        for index in 0..3 {
            let mut plans = plans().map(|plan| Plan { kind, ..plan });
            plans[index].signer = 9;
            assert_eq!(refusal(&plans), Some(Error::Signature), "{kind:?} {index}");
        }
    }
}

#[test]
fn a_certificate_signed_with_another_algorithm_than_its_issuers_is_refused() {
    for kind in [Kind::P256, Kind::MlDsa87] {
        let mut plans = plans();
        plans[2].kind = kind;
        assert_eq!(refusal(&plans), Some(Error::Signature), "{kind:?}");
    }
}

#[test]
fn the_chain_states_its_root_with_the_agreed_hash() {
    let (chain, root) = good_chain();
    assert!(verify_chain(&chain, &root, Hash::Sha256).is_err());
    let body = &chain[52..];
    let length = usize::from(u16::from_be_bytes([body[2], body[3]])) + 4;
    let stated = Sha256::digest(&body[..length]);
    let size = ((36 + body.len()) as u16).to_le_bytes();
    let mut short = [&size[..], &[0, 0], &stated, body].concat();
    assert!(verify_chain(&short, &root, Hash::Sha256).is_ok());
    short[4] ^= 1;
    let refused = verify_chain(&short, &root, Hash::Sha256);
    assert_eq!(refused.err(), Some(Error::Root));
}

#[test]
fn another_root_is_refused() {
    let (chain, mut root) = good_chain();
    root[0] ^= 1;
    assert_eq!(
        verify_chain(&chain, &root, Hash::Sha384).err(),
        Some(Error::Root)
    );
    let (mut chain, root) = good_chain();
    chain[10] ^= 1;
    assert_eq!(
        verify_chain(&chain, &root, Hash::Sha384).err(),
        Some(Error::Root)
    );
}

#[test]
fn a_wrong_signature_is_refused_wherever_it_is() {
    for index in 0..3 {
        let mut plans = plans();
        plans[index].signer = 9;
        assert_eq!(refusal(&plans), Some(Error::Signature), "{index}");
    }
}

#[test]
fn a_chain_whose_names_do_not_follow_is_refused() {
    for index in 0..3 {
        let mut plans = plans();
        plans[index].issuer = "somebody else";
        assert_eq!(refusal(&plans), Some(Error::Issuer), "{index}");
    }
}

#[test]
fn only_authorities_issue_and_only_as_deep_as_they_may() {
    let mut not_authority = plans();
    not_authority[1].authority = false;
    assert_eq!(refusal(&not_authority), Some(Error::Usage));
    let mut cannot_sign = plans();
    cannot_sign[1].usage = 0x80;
    assert_eq!(refusal(&cannot_sign), Some(Error::Usage));
    let mut too_deep = plans();
    too_deep[0].path_length = Some(0);
    assert_eq!(refusal(&too_deep), Some(Error::Usage));
}

#[test]
fn a_chain_ends_with_a_device_that_may_sign() {
    assert_eq!(refusal(&plans()[..2]), Some(Error::Usage));
    assert_eq!(refusal(&plans()[..1]), Some(Error::Usage));
    let mut mute = plans();
    mute[2].usage = 0x08;
    assert_eq!(refusal(&mute), Some(Error::Usage));
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let mut plans = plans();
    plans[2].unknown = Some(true);
    assert_eq!(refusal(&plans), Some(Error::Malformed));
}

#[test]
fn damaged_chains_are_refused_without_a_crash() {
    let (chain, root) = good_chain();
    for end in 0..chain.len() {
        assert!(verify_chain(&chain[..end], &root, Hash::Sha384).is_err());
    }
    let mut long = chain.clone();
    long.extend([0x30, 0]);
    assert!(verify_chain(&long, &root, Hash::Sha384).is_err());
    // Every byte is under a digest, a signature, or the chain's own length.
    for index in (0..chain.len()).step_by(7) {
        let mut damaged = chain.clone();
        damaged[index] ^= 0x40;
        assert!(
            verify_chain(&damaged, &root, Hash::Sha384).is_err(),
            "byte {index}"
        );
    }
}

#[test]
fn captured_evidence_of_another_device_is_accepted() {
    let Some(messages) = captured_messages() else {
        println!("skipped: PORTCULLIS_VECTORS is not set");
        return;
    };
    let chain = captured_chain(&messages);
    let length = usize::from(u16::from_be_bytes([chain[54], chain[55]])) + 4;
    let root = sha384(&chain[52..52 + length]);
    let device = verify_chain(&chain, &root, Hash::Sha384).unwrap();

    let vca = messages[..6].concat();
    let last = messages
        .iter()
        .rposition(|message| message.starts_with(&[0x12, 0x60]))
        .unwrap();
    let agreed = Agreed::read(&vca).unwrap();
    let measurements = Measurements::parse(&messages[last], agreed, &device).unwrap();
    let request = &messages[last - 1];
    let nonce: [u8; 32] = request[4..36].try_into().unwrap();
    let verdict = measurements.verify_signature(&vca, &nonce, request[36], &device);
    assert_eq!(verdict, Ok(()));
}

/// Returns the SPDM messages of the recorded session.
fn captured_messages() -> Option<Vec<Vec<u8>>> {
    let vectors = std::env::var("PORTCULLIS_VECTORS").ok()?;
    let text = std::fs::read(format!("{vectors}/spdm-1.2-p384/session.json")).unwrap();
    let session: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let records = session["records"].as_array().unwrap();
    let messages = records.iter().filter_map(|record| record["spdm"].as_str());
    let bytes = |hex: &str| {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    };
    Some(messages.map(bytes).collect())
}

fn captured_chain(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut chain = Vec::new();
    for message in messages
        .iter()
        .filter(|message| message.starts_with(&[0x12, 0x02]))
    {
        let portion = usize::from(u16::from_le_bytes([message[4], message[5]]));
        chain.extend_from_slice(&message[8..8 + portion]);
        if message[6..8] == [0, 0] {
            break;
        }
    }
    chain
}
