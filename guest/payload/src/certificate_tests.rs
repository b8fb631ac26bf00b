// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};

use super::{
    BASIC_CONSTRAINTS, EC_PUBLIC_KEY, ECDSA_WITH_SHA384, Error, KEY_USAGE, SECP384R1, verify_chain,
};
use crate::measurement::Measurements;
use crate::{Digest, sha384};

/// Returns a signing key that depends on `seed` (not zero) only.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 48]).unwrap()
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
        let algorithm = value(0x30, &value(6, ECDSA_WITH_SHA384));
        let point = VerifyingKey::from(&key(self.holder)).to_sec1_point(false);
        let public_key = [
            value(
                0x30,
                &[value(6, EC_PUBLIC_KEY), value(6, SECP384R1)].concat(),
            ),
            value(3, &[&[0], point.as_bytes()].concat()),
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
        let signature: Signature = key(self.signer).sign(&to_be_signed);
        let bytes = signature.to_bytes();
        let pair = [integer(&bytes[..48]), integer(&bytes[48..])].concat();
        let signature = value(3, &[&[0], &value(0x30, &pair)[..]].concat());
        value(0x30, &[to_be_signed, algorithm, signature].concat())
    }
}

fn plans() -> [Plan; 3] {
    let root = Plan {
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

fn refusal(plans: &[Plan]) -> Option<Error> {
    let (chain, root) = chain_of(plans);
    verify_chain(&chain, &root).err()
}

#[test]
fn a_good_chain_yields_the_devices_key() {
    let (chain, root) = good_chain();
    let found = verify_chain(&chain, &root).unwrap();
    let point = VerifyingKey::from(&key(3)).to_sec1_point(false);
    assert_eq!(found.point(), point.as_bytes());
}

#[test]
fn another_root_is_refused() {
    let (chain, mut root) = good_chain();
    root[0] ^= 1;
    assert_eq!(verify_chain(&chain, &root).err(), Some(Error::Root));
    let (mut chain, root) = good_chain();
    chain[10] ^= 1;
    assert_eq!(verify_chain(&chain, &root).err(), Some(Error::Root));
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
        assert!(verify_chain(&chain[..end], &root).is_err());
    }
    let mut long = chain.clone();
    long.extend([0x30, 0]);
    assert!(verify_chain(&long, &root).is_err());
    // Every byte is under a digest, a signature, or the chain's own length.
    for index in (0..chain.len()).step_by(7) {
        let mut damaged = chain.clone();
        damaged[index] ^= 0x40;
        assert!(verify_chain(&damaged, &root).is_err(), "byte {index}");
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
    let device = verify_chain(&chain, &root).unwrap();

    let vca = messages[..6].concat();
    let last = messages
        .iter()
        .rposition(|message| message.starts_with(&[0x12, 0x60]))
        .unwrap();
    let measurements = Measurements::parse(&messages[last]).unwrap();
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
