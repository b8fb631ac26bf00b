// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::{
    AeadAlgorithm, Digest, Ephemeral, ExchangeAlgorithm, HashAlgorithm, KeyAgreement, PublicKey,
    RECORD_LIMIT, RecordError, RecordKey, Schedule, Secret, SignatureAlgorithm, Signed,
    SigningContext, Transcript, sha384, signing_prefix,
};
use crate::wire::Version;
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

const AEADS: [AeadAlgorithm; 3] = [
    AeadAlgorithm::Aes128Gcm,
    AeadAlgorithm::Aes256Gcm,
    AeadAlgorithm::ChaCha20Poly1305,
];

const SCHEDULE: Schedule = Schedule {
    version: Version::V1_2,
    hash: HashAlgorithm::Sha384,
};

fn pair_of(aead: AeadAlgorithm) -> (RecordKey, RecordKey) {
    let secret = Secret::new(SCHEDULE, &[7; 48]);
    (RecordKey::new(aead, &secret), RecordKey::new(aead, &secret))
}

fn pair() -> (RecordKey, RecordKey) {
    pair_of(AeadAlgorithm::Aes256Gcm)
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
    for aead in AEADS {
        let (mut sender, _) = pair_of(aead);
        let record = sealed(&mut sender, b"message");
        for index in 0..record.len() {
            let (_, mut receiver) = pair_of(aead);
            let mut changed = record.clone();
            changed[index] ^= 0x10;
            assert!(
                receiver.open(SESSION, &mut changed).is_err(),
                "{aead:?} byte {index}"
            );
            assert_eq!(receiver.sequence(), 0);
        }
    }
    let (mut sender, _) = pair();
    let record = sealed(&mut sender, b"message");
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
    let mut record = sealed(&mut sender, b"message");
    let (again, _) = pair();
    let aad: [u8; 6] = record[..6].try_into().unwrap();
    let end = record.len() - 16;
    record[6..8].copy_from_slice(&8u16.to_le_bytes());
    record[8..15].copy_from_slice(b"message");
    let tag = again.encrypt(&aad, &mut record[6..end]).unwrap();
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
fn no_algorithm_opens_what_another_sealed() {
    for sealing in AEADS {
        for opening in AEADS.into_iter().filter(|opening| *opening != sealing) {
            let mut record = sealed(&mut pair_of(sealing).0, b"message");
            let opened = pair_of(opening).1.open(SESSION, &mut record);
            assert_eq!(opened, Err(RecordError::Tag), "{sealing:?} {opening:?}");
        }
    }
}

#[test]
fn both_sides_of_an_exchange_agree_and_points_off_the_curve_are_refused() {
    let mut seed = 0u8;
    let mut random = |bytes: &mut [u8]| {
        seed += 1;
        bytes.fill(seed);
        Ok(())
    };
    for algorithm in [ExchangeAlgorithm::Secp256r1, ExchangeAlgorithm::Secp384r1] {
        let (ours, our_half) = Ephemeral::generate(algorithm, &mut random).unwrap();
        let (theirs, their_half) = Ephemeral::generate(algorithm, &mut random).unwrap();
        let length = algorithm.request_length();
        assert_eq!(our_half.as_bytes().len(), length);
        let left = ours.agree(their_half.as_bytes()).unwrap();
        let right = theirs.agree(our_half.as_bytes()).unwrap();
        assert_eq!(left.as_bytes(), right.as_bytes());
        assert_eq!(left.as_bytes().len(), length / 2);
        let mut off = their_half.as_bytes().to_vec();
        off[length - 1] ^= 1;
        let short = their_half.as_bytes()[1..].to_vec();
        let bad = [
            vec![0; length],
            vec![0xff; length],
            vec![1; length],
            off,
            short,
            vec![],
        ];
        for bad in bad {
            let (ours, _) = Ephemeral::generate(algorithm, &mut random).unwrap();
            assert!(ours.agree(&bad).is_err());
        }
    }
}

#[test]
fn a_source_that_repeats_zero_makes_no_key() {
    for algorithm in [ExchangeAlgorithm::Secp256r1, ExchangeAlgorithm::Secp384r1] {
        let mut calls = 0;
        let mut random = |bytes: &mut [u8]| {
            calls += 1;
            bytes.fill(0);
            Ok(())
        };
        assert!(Ephemeral::generate(algorithm, &mut random).is_err());
        assert_eq!(calls, 2);
    }
}

#[test]
fn the_context_stands_at_the_end_of_its_field() {
    let prefix = signing_prefix(Version::V1_2, SigningContext::Measurements);
    assert_eq!(&prefix[48..64], b"dmtf-spdm-v1.2.*");
    assert_eq!(prefix[64..70], [0; 6]);
    assert_eq!(&prefix[70..100], b"responder-measurements signing");
    let longest = signing_prefix(Version::V1_4, SigningContext::KeyExchangeRsp);
    assert_eq!(&longest[..16], b"dmtf-spdm-v1.4.*");
    assert_eq!(&longest[64..66], [0; 2]);
}

#[test]
fn a_signature_serves_one_purpose_in_one_version_only() {
    use p384::ecdsa::signature::Signer;
    let signing = p384::ecdsa::SigningKey::from_slice(&[3; 48]).unwrap();
    let point = signing.verifying_key().to_sec1_point(false);
    let key = PublicKey::new(point.as_bytes()).unwrap();
    assert_eq!(key.fingerprint(), sha384(point.as_bytes()));
    let digest = Digest::new(HashAlgorithm::Sha384, &[5; 48]).unwrap();
    let signed = Signed {
        version: Version::V1_2,
        hash: HashAlgorithm::Sha384,
        context: SigningContext::ChallengeAuth,
        digest: &digest,
    };
    let mut input = signing_prefix(signed.version, signed.context).to_vec();
    input.extend(digest.as_bytes());
    let signature: p384::ecdsa::Signature = signing.sign(&input);
    let signature: [u8; 96] = signature.to_bytes().into();
    assert!(key.verifies(&[], &signed, &signature));
    let other = Digest::new(HashAlgorithm::Sha384, &[6; 48]).unwrap();
    let others = [
        Signed {
            context: SigningContext::KeyExchangeRsp,
            ..signed
        },
        Signed {
            version: Version::V1_3,
            ..signed
        },
        Signed {
            hash: HashAlgorithm::Sha256,
            ..signed
        },
        Signed {
            digest: &other,
            ..signed
        },
    ];
    for other in others {
        assert!(!key.verifies(&[], &other, &signature), "{other:?}");
    }
    for bad in [&[0; 96][..], &[0xff; 96], &signature[1..], &[]] {
        assert!(!key.verifies(&[], &signed, bad));
    }
}

#[test]
fn a_key_is_an_uncompressed_point_of_a_curve_and_nothing_else() {
    let p384 = p384::ecdsa::SigningKey::from_slice(&[3; 48]).unwrap();
    let p256 = p256::ecdsa::SigningKey::from_slice(&[3; 32]).unwrap();
    let points = [
        p384.verifying_key()
            .to_sec1_point(false)
            .as_bytes()
            .to_vec(),
        p256.verifying_key()
            .to_sec1_point(false)
            .as_bytes()
            .to_vec(),
    ];
    for point in points {
        assert!(PublicKey::new(&point).is_ok());
        for end in 0..point.len() {
            assert!(PublicKey::new(&point[..end]).is_err());
        }
        for index in [0, 1, point.len() - 1] {
            let mut off = point.clone();
            off[index] ^= 1;
            assert!(PublicKey::new(&off).is_err(), "byte {index}");
        }
    }
    let compressed = p384.verifying_key().to_sec1_point(true);
    assert!(PublicKey::new(compressed.as_bytes()).is_err());
}

#[test]
fn a_digest_equals_itself_and_no_other_length() {
    for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
        let digest = Transcript::new(hash).with(b"something").digest();
        assert_eq!(digest.as_bytes().len(), hash.length());
        assert!(digest.equals(digest.as_bytes()));
        assert!(!digest.equals(&digest.as_bytes()[1..]));
        assert!(!digest.equals(&[]));
        assert!(Digest::new(hash, &[0; 47]).is_none());
        let mut other = digest.as_bytes().to_vec();
        other[hash.length() - 1] ^= 1;
        assert!(!digest.equals(&other));
    }
}

#[test]
fn an_encapsulated_secret_comes_out_of_the_seed_alone() {
    use ml_kem::{EncapsulationKey, MlKem768, MlKem1024};
    let mut random = |bytes: &mut [u8]| {
        bytes.fill(9);
        Ok(())
    };
    let (ours, key) = Ephemeral::generate(ExchangeAlgorithm::MlKem768, &mut random).unwrap();
    assert_eq!(key.as_bytes().len(), 1184);
    let key = EncapsulationKey::<MlKem768>::new(key.as_bytes().try_into().unwrap()).unwrap();
    let (ciphertext, shared) = key.encapsulate_deterministic(&[1; 32].into());
    assert_eq!(ciphertext.len(), 1088);
    assert_eq!(ours.agree(&ciphertext).unwrap().as_bytes(), &shared[..]);

    let algorithm = ExchangeAlgorithm::MlKem1024;
    let (ours, key) = Ephemeral::generate(algorithm, &mut random).unwrap();
    let key = EncapsulationKey::<MlKem1024>::new(key.as_bytes().try_into().unwrap()).unwrap();
    let (mut ciphertext, shared) = key.encapsulate_deterministic(&[1; 32].into());
    assert_eq!(ours.agree(&ciphertext).unwrap().as_bytes(), &shared[..]);
    // Another ciphertext is not refused, but yields something else.
    let (ours, _) = Ephemeral::generate(algorithm, &mut random).unwrap();
    ciphertext[7] ^= 1;
    assert_ne!(ours.agree(&ciphertext).unwrap().as_bytes(), &shared[..]);
    let (ours, _) = Ephemeral::generate(algorithm, &mut random).unwrap();
    assert!(ours.agree(&ciphertext[1..]).is_err());
}

#[test]
fn a_long_key_is_known_by_its_digest_and_only_that_key_verifies() {
    let signing = ml_dsa::ExpandedSigningKey::<ml_dsa::MlDsa65>::from_seed(&[1; 32].into());
    let raw = signing.verifying_key().encode();
    let key = PublicKey::from_raw(SignatureAlgorithm::MlDsa65, &raw).unwrap();
    assert_eq!(key.fingerprint(), sha384(&raw));
    let digest = Digest::new(HashAlgorithm::Sha384, &[5; 48]).unwrap();
    let signed = Signed {
        version: Version::V1_4,
        hash: HashAlgorithm::Sha384,
        context: SigningContext::Measurements,
        digest: &digest,
    };
    let mut message = signing_prefix(signed.version, signed.context).to_vec();
    message.extend(digest.as_bytes());
    let words = signed.context.words();
    let sign = |message: &[u8], words: &[u8]| {
        let signature = signing.sign_deterministic(message, words);
        signature.unwrap().encode().to_vec()
    };
    let signature = sign(&message, words);
    assert_eq!(signature.len(), 3309);
    assert!(key.verifies(&raw, &signed, &signature));
    // The key may stand in larger memory, but has to be the one.
    let mut larger = raw.to_vec();
    larger.resize(2592, 0xff);
    assert!(key.verifies(&larger, &signed, &signature));
    larger[1000] ^= 1;
    assert!(!key.verifies(&larger, &signed, &signature));
    assert!(!key.verifies(&raw[1..], &signed, &signature));
    assert!(!key.verifies(&raw, &signed, &signature[1..]));
    assert!(!key.verifies(&raw, &signed, &[]));
    assert!(!key.verifies(&raw, &signed, &sign(&message, b"")));
    assert!(!key.verifies(&raw, &signed, &sign(&message[1..], words)));
    // Nor is it the key of another algorithm.
    let other = SignatureAlgorithm::MlDsa87;
    assert!(PublicKey::from_raw(other, &raw).is_err());
    let other = PublicKey::from_fingerprint(other, key.fingerprint()).unwrap();
    assert!(other != key && !other.verifies(&larger, &signed, &signature));
    let classical = SignatureAlgorithm::EcdsaP384;
    assert!(PublicKey::from_fingerprint(classical, key.fingerprint()).is_err());
}
