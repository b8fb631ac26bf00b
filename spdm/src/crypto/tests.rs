// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::{
    Ecdhe, KeyAgreement, PublicKey, RECORD_LIMIT, RecordError, RecordKey, Secret, SigningContext,
    signing_input,
};
use crate::wire::record::{MESSAGE_OFFSET, OVERHEAD};
use crate::wire::session::SessionId;

const SESSION: SessionId = SessionId(0xffff_fffe);

fn sealed(key: &mut RecordKey, message: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; message.len() + OVERHEAD];
    buffer[MESSAGE_OFFSET..MESSAGE_OFFSET + message.len()].copy_from_slice(message);
    assert_eq!(
        key.seal(SESSION, &mut buffer, message.len()),
        Ok(buffer.len())
    );
    buffer
}

fn pair() -> (RecordKey, RecordKey) {
    let secret = Secret::new([7; 48]);
    (RecordKey::new(&secret), RecordKey::new(&secret))
}

#[test]
fn a_record_opens_once_and_in_its_turn() {
    let (mut sender, mut receiver) = pair();
    let mut first = sealed(&mut sender, b"one");
    let mut second = sealed(&mut sender, b"two");
    // Out of order, and the counter has not moved.
    assert_eq!(
        receiver.open(SESSION, &mut second.clone()),
        Err(RecordError::Tag)
    );
    let replay = first.clone();
    assert_eq!(receiver.open(SESSION, &mut first), Ok(3));
    assert_eq!(&first[MESSAGE_OFFSET..MESSAGE_OFFSET + 3], b"one");
    assert_eq!(
        receiver.open(SESSION, &mut replay.clone()),
        Err(RecordError::Tag)
    );
    assert_eq!(receiver.open(SESSION, &mut second), Ok(3));
}

#[test]
fn no_byte_of_a_record_can_be_changed() {
    let (mut sender, _) = pair();
    let record = sealed(&mut sender, b"message");
    for index in 0..record.len() {
        let (_, mut receiver) = pair();
        let mut changed = record.clone();
        changed[index] ^= 0x10;
        assert!(
            receiver.open(SESSION, &mut changed).is_err(),
            "byte {index}"
        );
        assert_eq!(receiver.sequence(), 0);
    }
    for end in 0..record.len() {
        let (_, mut receiver) = pair();
        assert!(receiver.open(SESSION, &mut record[..end].to_vec()).is_err());
    }
    let (_, mut receiver) = pair();
    assert_eq!(
        receiver.open(SessionId(1), &mut record.clone()),
        Err(RecordError::Session)
    );
}

#[test]
fn a_message_cannot_claim_to_be_longer_than_its_record() {
    let (mut sender, mut receiver) = pair();
    // Seal a record whose encrypted length lies, by hand.
    use aes_gcm::aead::AeadInOut;
    let mut record = sealed(&mut sender, b"message");
    let (again, _) = pair();
    let aad: [u8; 6] = record[..6].try_into().unwrap();
    let end = record.len() - 16;
    record[6..8].copy_from_slice(&8u16.to_le_bytes());
    record[8..15].copy_from_slice(b"message");
    let tag = again
        .cipher()
        .encrypt_inout_detached(&again.nonce().into(), &aad, (&mut record[6..end]).into())
        .unwrap();
    record[end..].copy_from_slice(&tag);
    assert!(matches!(
        receiver.open(SESSION, &mut record),
        Err(RecordError::Malformed(_))
    ));
    assert_eq!(receiver.sequence(), 0);
}

#[test]
fn a_key_stops_at_its_limit_in_both_directions() {
    let (mut sender, mut receiver) = pair();
    let mut record = sealed(&mut sender, b"x");
    sender.set_sequence(RECORD_LIMIT);
    receiver.set_sequence(RECORD_LIMIT);
    let mut buffer = [0; 64];
    assert_eq!(
        sender.seal(SESSION, &mut buffer, 4),
        Err(RecordError::Exhausted)
    );
    assert_eq!(
        receiver.open(SESSION, &mut record),
        Err(RecordError::Exhausted)
    );
}

#[test]
fn both_sides_of_an_exchange_agree_and_points_off_the_curve_are_refused() {
    let mut seed = 0u8;
    let mut random = |bytes: &mut [u8]| {
        seed += 1;
        bytes.fill(seed);
        Ok(())
    };
    let (ours, our_half) = Ecdhe::generate(&mut random).unwrap();
    let (theirs, their_half) = Ecdhe::generate(&mut random).unwrap();
    let left = ours.agree(&their_half).unwrap();
    let right = theirs.agree(&our_half).unwrap();
    assert_eq!(left.as_bytes(), right.as_bytes());
    for bad in [[0; 96], [0xff; 96], [1; 96]] {
        let (ours, _) = Ecdhe::generate(&mut random).unwrap();
        assert!(ours.agree(&bad).is_err());
    }
    let mut off = their_half;
    off[95] ^= 1;
    let (ours, _) = Ecdhe::generate(&mut random).unwrap();
    assert!(ours.agree(&off).is_err());
}

#[test]
fn a_source_that_repeats_zero_makes_no_key() {
    let mut calls = 0;
    let mut random = |bytes: &mut [u8]| {
        calls += 1;
        bytes.fill(0);
        Ok(())
    };
    assert!(Ecdhe::generate(&mut random).is_err());
    assert_eq!(calls, 2);
}

#[test]
fn the_context_stands_at_the_end_of_its_field() {
    let input = signing_input(SigningContext::Measurements, &[0xaa; 48]);
    assert_eq!(&input[48..64], b"dmtf-spdm-v1.2.*");
    assert_eq!(input[64..70], [0; 6]);
    assert_eq!(&input[70..100], b"responder-measurements signing");
    assert_eq!(input[100..], [0xaa; 48]);
}

#[test]
fn a_signature_serves_one_purpose_only() {
    use p384::ecdsa::signature::Signer;
    let signing = p384::ecdsa::SigningKey::from_slice(&[3; 48]).unwrap();
    let point = signing.verifying_key().to_sec1_point(false);
    let key = PublicKey::new(point.as_bytes().try_into().unwrap()).unwrap();
    assert_eq!(key.to_bytes(), *point.as_bytes());
    let digest = [5; 48];
    let input = signing_input(SigningContext::ChallengeAuth, &digest);
    let signature: p384::ecdsa::Signature = signing.sign(&input);
    let signature = signature.to_bytes().into();
    assert!(key.verifies(SigningContext::ChallengeAuth, &digest, &signature));
    assert!(!key.verifies(SigningContext::KeyExchangeRsp, &digest, &signature));
    assert!(!key.verifies(SigningContext::ChallengeAuth, &[6; 48], &signature));
    assert!(!key.verifies(SigningContext::ChallengeAuth, &digest, &[0; 96]));
    assert!(!key.verifies(SigningContext::ChallengeAuth, &digest, &[0xff; 96]));
}
