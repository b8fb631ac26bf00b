// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Lies told with a straight face: signed, sealed, and framed as they should be.

use tsm_spdm::crypto::RecordError;
use tsm_spdm::wire::certificate::Certificate;
use tsm_spdm::wire::{Code, Malformed};
use tsm_spdm::{Error, Operation, Outcome, PeerMisbehaved, Phase};

use crate::identity::{self, Key, P384, SUITE, certificate, certificate_with, point_info};
use crate::responder::{CAPABILITIES, Pair};

type Change = fn(&mut Vec<u8>);

fn chain(certificates: &[Vec<u8>]) -> Vec<u8> {
    identity::chain(&SUITE, certificates)
}

/// Runs everything while each answer with `code` is changed before it is signed or, having no
/// signature, sent, and returns the fault that is found.
fn fault(code: Code, change: Change) -> PeerMisbehaved {
    let mut pair = Pair::new(true);
    let lie = move |this, bytes: &mut Vec<u8>| {
        if this == code {
            change(bytes);
        }
    };
    match code {
        Code::CHALLENGE_AUTH | Code::KEY_EXCHANGE_RSP | Code::MEASUREMENTS => {
            pair.responder.before_signing = Box::new(lie);
        }
        _ => pair.responder.before_sealing = Box::new(lie),
    }
    let outcome = everything(&mut pair);
    assert_eq!(pair.requester.phase(), Phase::Dead);
    match outcome {
        Err(Error::Peer(fault)) => fault,
        other => panic!("{code:?}: {other:?}"),
    }
}

fn everything(pair: &mut Pair) -> Result<(), Error> {
    pair.establish()?;
    pair.operate(Operation::Measure {
        nonce: [3; 32],
        raw: true,
    })?;
    pair.vendor(&[0, 1, 2, 3])?;
    pair.operate(Operation::Heartbeat)?;
    pair.operate(Operation::UpdateKeys)?;
    pair.operate(Operation::Heartbeat)?;
    assert_eq!(pair.operate(Operation::End)?, Outcome::Ended);
    Ok(())
}

#[test]
fn the_truth_is_believed() {
    let mut pair = Pair::new(true);
    assert_eq!(everything(&mut pair), Ok(()));
    assert_eq!(pair.requester.phase(), Phase::Ended);
}

#[test]
fn every_lie_is_found_and_named() {
    use PeerMisbehaved as Fault;
    let lies: &[(Code, Change, Fault)] = &[
        // B05: versions and capabilities.
        (
            Code::VERSION,
            |m| *m = vec![0x10, 4, 0, 0, 0, 0],
            Fault::NoCommonVersion,
        ),
        (
            Code::VERSION,
            |m| *m = vec![0x10, 4, 0, 0, 0, 1, 0, 0x11],
            Fault::NoCommonVersion,
        ),
        (
            Code::VERSION,
            |m| *m = vec![0x10, 4, 0, 0, 0, 1, 1, 0x12],
            Fault::NoCommonVersion,
        ),
        (
            Code::VERSION,
            |m| m[0] = 0x12,
            Fault::Malformed(Malformed::Version),
        ),
        (
            Code::VERSION,
            |m| m[5] = 4,
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            Code::CAPABILITIES,
            |m| m[0] = 0x11,
            Fault::Malformed(Malformed::Version),
        ),
        (Code::CAPABILITIES, |m| m[5] = 25, Fault::CryptoTime),
        (Code::CAPABILITIES, |m| m[5] = 255, Fault::CryptoTime),
        (
            Code::CAPABILITIES,
            |m| m[8] |= 0x08,
            Fault::MissingCapability,
        ),
        (
            Code::CAPABILITIES,
            |m| m[12..16].copy_from_slice(&[41, 0, 0, 0]),
            Fault::TransferSize,
        ),
        (
            Code::CAPABILITIES,
            |m| m[16..20].copy_from_slice(&[0, 1, 0, 0]),
            Fault::TransferSize,
        ),
        // Enough to talk, not enough for KEY_EXCHANGE.
        (
            Code::CAPABILITIES,
            |m| m[12..14].copy_from_slice(&[100, 0]),
            Fault::TransferSize,
        ),
        // B06: algorithms.
        (Code::ALGORITHMS, |m| m[6] = 0, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[7] = 0, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[8] = 2, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[8] = 6, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[8] = 1, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[8] = 8, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[12] = 0x90, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[12] = 0, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[16] = 1, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[16] = 3, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[38] = 0x08, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[38] = 0x18, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[42] = 0, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[40] = 2, Fault::WrongAlgorithm),
        (Code::ALGORITHMS, |m| m[44] = 7, Fault::WrongAlgorithm),
        (
            Code::ALGORITHMS,
            |m| m.copy_within(36..40, 40),
            Fault::WrongAlgorithm,
        ),
        (
            Code::ALGORITHMS,
            |m| m[32] = 1,
            Fault::Malformed(Malformed::Value),
        ),
        (
            Code::ALGORITHMS,
            |m| m[37] = 0x21,
            Fault::Malformed(Malformed::Value),
        ),
        (
            Code::ALGORITHMS,
            |m| m[4] = 52,
            Fault::Malformed(Malformed::Length),
        ),
        (
            Code::ALGORITHMS,
            |m| m[2] = 4,
            Fault::Malformed(Malformed::Truncated),
        ),
        // B07: digests and certificates.
        (Code::DIGESTS, |m| m[3] = 2, Fault::NoChain),
        (Code::DIGESTS, |m| *m = vec![0x12, 1, 0, 0], Fault::NoChain),
        (Code::DIGESTS, |m| m[4] ^= 1, Fault::ChainDigest),
        (
            Code::DIGESTS,
            |m| m[3] = 3,
            Fault::Malformed(Malformed::Truncated),
        ),
        (Code::CERTIFICATE, |m| m[2] = 1, Fault::WrongPortion),
        (
            Code::CERTIFICATE,
            |m| m.splice(4.., [0, 0, 9, 0]).for_each(drop),
            Fault::WrongPortion,
        ),
        (
            Code::CERTIFICATE,
            |m| m[6..8].copy_from_slice(&[0xff, 0xff]),
            Fault::ChainLength,
        ),
        (Code::CERTIFICATE, |m| m[6] ^= 1, Fault::ChainLength),
        (
            Code::CERTIFICATE,
            |m| m[5] = 2,
            Fault::Malformed(Malformed::Truncated),
        ),
        (Code::CERTIFICATE, |m| m[5] = 0, Fault::TrailingBytes),
        // B09: challenge and key exchange.
        (Code::CHALLENGE_AUTH, |m| m[2] = 1, Fault::WrongEcho),
        (
            Code::CHALLENGE_AUTH,
            |m| m[2] = 0x80,
            Fault::MutualAuthentication,
        ),
        (Code::CHALLENGE_AUTH, |m| m[3] = 2, Fault::WrongEcho),
        (Code::CHALLENGE_AUTH, |m| m[4] ^= 1, Fault::ChainDigest),
        (
            Code::CHALLENGE_AUTH,
            |m| m[132] = 1,
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| m[6] = 1,
            Fault::MutualAuthentication,
        ),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| m[6] = 4,
            Fault::MutualAuthentication,
        ),
        (Code::KEY_EXCHANGE_RSP, |m| m[40] ^= 1, Fault::ExchangeValue),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| m[40..136].fill(0),
            Fault::ExchangeValue,
        ),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| m[40..136].fill(0xff),
            Fault::ExchangeValue,
        ),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| *m.last_mut().unwrap() = 0x13,
            Fault::SecuredVersion,
        ),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| m[186] = 0,
            Fault::Malformed(Malformed::Value),
        ),
        (
            Code::KEY_EXCHANGE_RSP,
            |m| m[186] = 9,
            Fault::Malformed(Malformed::Length),
        ),
        // B10: the finish of another handshake.
        (
            Code::FINISH_RSP,
            |m| m[1] = 0x67,
            Fault::Malformed(Malformed::Code),
        ),
        (
            Code::FINISH_RSP,
            |m| m[0] = 0x11,
            Fault::Malformed(Malformed::Version),
        ),
        (Code::FINISH_RSP, |m| m.push(0), Fault::TrailingBytes),
        (
            Code::FINISH_RSP,
            |m| m.truncate(3),
            Fault::Malformed(Malformed::Truncated),
        ),
        // Inside the session.
        (Code::MEASUREMENTS, |m| m[3] = 1, Fault::WrongEcho),
        (Code::MEASUREMENTS, |m| m[4] = 0, Fault::MeasurementRecord),
        (Code::MEASUREMENTS, |m| m[4] = 1, Fault::MeasurementRecord),
        (Code::MEASUREMENTS, |m| m[4] = 3, Fault::MeasurementRecord),
        (Code::MEASUREMENTS, |m| m[9] = 2, Fault::MeasurementRecord),
        (Code::MEASUREMENTS, |m| m[10] ^= 1, Fault::MeasurementRecord),
        (
            Code::MEASUREMENTS,
            |m| m[7] = 1,
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            Code::VENDOR_DEFINED_RESPONSE,
            |m| m[4] = 4,
            Fault::Malformed(Malformed::Value),
        ),
        (
            Code::VENDOR_DEFINED_RESPONSE,
            |m| m[7] = 2,
            Fault::Malformed(Malformed::Value),
        ),
        (
            Code::VENDOR_DEFINED_RESPONSE,
            |m| m[11] = 1,
            Fault::WrongEcho,
        ),
        (
            Code::VENDOR_DEFINED_RESPONSE,
            |m| m[9] = 5,
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            Code::VENDOR_DEFINED_RESPONSE,
            |m| m[9] = 3,
            Fault::TrailingBytes,
        ),
        (
            Code::HEARTBEAT_ACK,
            |m| m[1] = 0x6c,
            Fault::Malformed(Malformed::Code),
        ),
        (Code::KEY_UPDATE_ACK, |m| m[2] ^= 1, Fault::WrongEcho),
        (Code::KEY_UPDATE_ACK, |m| m[3] ^= 1, Fault::WrongEcho),
        (
            Code::END_SESSION_ACK,
            |m| m[1] = 0x68,
            Fault::Malformed(Malformed::Code),
        ),
    ];
    for (row, (code, change, expected)) in lies.iter().enumerate() {
        assert_eq!(fault(*code, *change), *expected, "row {row}, {code:?}");
    }
}

#[test]
fn every_capability_of_the_list_is_needed() {
    for bit in 0..32 {
        let flag = 1_u32 << bit;
        // Heartbeat and key update are conveniences.
        if CAPABILITIES.0 & flag == 0 || [0x2000, 0x4000].contains(&flag) {
            continue;
        }
        let mut pair = Pair::new(true);
        pair.responder.before_sealing = Box::new(move |code, message| {
            if code == Code::CAPABILITIES {
                let flags = (CAPABILITIES.0 & !flag).to_le_bytes();
                message[8..12].copy_from_slice(&flags);
            }
        });
        let missing = Err(Error::Peer(PeerMisbehaved::MissingCapability));
        assert_eq!(pair.establish(), missing, "bit {bit}");
    }
}

#[test]
fn reserved_fields_are_nobodys_business() {
    let reserved: [(Code, Change); 5] = [
        (Code::VERSION, |m| m[4] = 0xff),
        (Code::CAPABILITIES, |m| m[4] = 0xff),
        (Code::CAPABILITIES, |m| m[11] |= 0x80),
        (Code::ALGORITHMS, |m| m[20..32].fill(0xff)),
        (Code::DIGESTS, |m| m[2] = 0xff),
    ];
    for (code, change) in reserved {
        let mut pair = Pair::new(true);
        pair.responder.before_sealing = Box::new(move |this, message| {
            if this == code {
                change(message);
            }
        });
        assert!(pair.establish().is_ok(), "{code:?}");
    }
}

/// Reads a chain that the device has, and returns what comes of it.
fn discover(chain: Vec<u8>) -> (Pair, Result<Outcome, Error>) {
    let mut pair = Pair::new(true);
    pair.responder.chain = chain;
    let outcome = pair.operate(Operation::Discover);
    (pair, outcome)
}

#[test]
fn a_chain_must_be_made_of_certificates_with_nothing_between_or_behind() {
    let pair = Pair::new(true);
    let leaf = certificate(&pair.responder.key, 40);
    let format = Err(Error::Peer(PeerMisbehaved::ChainFormat));
    let chains = [
        chain(&[vec![]]),
        chain(&[leaf.clone(), vec![0]]),
        chain(&[leaf.clone(), vec![0x30]]),
        chain(&[leaf.clone(), vec![0x30, 0x82, 0x01]]),
        chain(&[leaf[..leaf.len() - 1].to_vec()]),
        chain(&[vec![0x31, 0x00], leaf.clone()]),
        chain(&[vec![0x30, 0x00], leaf.clone()]),
        chain(&[vec![0x30, 0x80], leaf.clone()]),
        chain(&[vec![0x30, 0x83, 0, 1, 0], leaf.clone()]),
        // The last certificate has a key of another curve.
        chain(&[
            leaf.clone(),
            certificate_with(point_info(&P384, &pair.responder.key.raw()[..65]), 40),
        ]),
    ];
    for (row, bytes) in chains.into_iter().enumerate() {
        let (pair, outcome) = discover(bytes);
        assert_eq!(outcome, format, "row {row}");
        assert_eq!(pair.requester.phase(), Phase::Dead);
    }
    assert_eq!(discover(chain(&[leaf])).1, Ok(Outcome::Discovered));
}

#[test]
fn no_byte_that_frames_a_certificate_can_be_bent_without_notice_or_harm() {
    let pair = Pair::new(true);
    let leaf = certificate(&pair.responder.key, 3);
    for index in 0..leaf.len() {
        for value in [0, 1, 0x7f, 0x80, 0x82, 0xff] {
            let mut bent = leaf.clone();
            bent[index] = value;
            // Never a panic; and the key is found where it is, or not at all.
            let (mut pair, outcome) = discover(chain(&[bent.clone()]));
            let key = pair.responder.public_key();
            if outcome.is_ok() && pair.requester.start(Operation::Establish { key }).is_ok() {
                assert!(
                    bent.windows(97)
                        .any(|window| window == pair.responder.key.raw())
                );
            }
        }
    }
}

#[test]
fn a_key_in_a_name_or_in_another_certificate_is_not_the_leafs() {
    let pair = Pair::new(true);
    let ours = certificate(&pair.responder.key, 10);
    let other = certificate(&Key::new(SUITE.signature, 0x55), 10);
    // Our key is in the chain, but the leaf is another's.
    let (mut pair, outcome) = discover(chain(&[ours.clone(), other.clone()]));
    assert_eq!(outcome, Ok(Outcome::Discovered));
    let key = pair.responder.public_key();
    assert_eq!(
        pair.requester.start(Operation::Establish { key }),
        Err(Error::KeyMismatch)
    );
    assert_eq!(pair.requester.phase(), Phase::Discovered);
    let (mut pair, _) = discover(chain(&[other, ours]));
    assert_eq!(pair.requester.start(Operation::Establish { key }), Ok(()));
}

#[test]
fn a_chain_may_come_in_any_portions_but_not_in_crumbs() {
    for portion in [40, 100, 4096] {
        let mut pair = Pair::new(true);
        pair.responder.portion = portion;
        assert_eq!(
            pair.operate(Operation::Discover),
            Ok(Outcome::Discovered),
            "{portion}"
        );
    }
    let mut pair = Pair::new(true);
    pair.responder.portion = 1;
    let crumbs = Err(Error::Peer(PeerMisbehaved::TooManyPortions));
    assert_eq!(pair.operate(Operation::Discover), crumbs);
    assert!(pair.sent.len() < 300);
}

#[test]
fn a_portion_longer_than_asked_for_is_refused() {
    let mut pair = Pair::new(true);
    pair.responder.before_sealing = Box::new(|code, message| {
        if code == Code::CERTIFICATE {
            // The requester takes 4064 bytes of a chain in one message.
            let portion = [0; 4065];
            let lie = Certificate {
                slot: 0,
                model: 0,
                portion: &portion,
                remainder: 0,
            };
            message.resize(5000, 0);
            let length = lie.emit(SUITE.version, message).unwrap();
            message.truncate(length);
        }
    });
    let wrong = Err(Error::Peer(PeerMisbehaved::WrongPortion));
    assert_eq!(pair.operate(Operation::Discover), wrong);
}

#[test]
fn a_chain_header_that_contradicts_the_portions_is_refused() {
    let pair = Pair::new(true);
    let mut bytes = chain(&[certificate(&pair.responder.key, 40)]);
    bytes[0] ^= 1;
    assert_eq!(
        discover(bytes).1,
        Err(Error::Peer(PeerMisbehaved::ChainLength))
    );
}

#[test]
fn another_devices_signature_is_refused_wherever_one_is_needed() {
    for (code, challenge) in [
        (Code::CHALLENGE_AUTH, true),
        (Code::KEY_EXCHANGE_RSP, false),
    ] {
        let mut pair = Pair::new(challenge);
        pair.operate(Operation::Discover).unwrap();
        let key = pair.responder.public_key();
        pair.responder.key = Key::new(SUITE.signature, 0x66);
        let refused = Err(Error::Peer(PeerMisbehaved::Signature));
        assert_eq!(
            pair.operate(Operation::Establish { key }),
            refused,
            "{code:?}"
        );
    }
    let mut pair = Pair::new(false);
    pair.establish().unwrap();
    pair.responder.key = Key::new(SUITE.signature, 0x66);
    let refused = Err(Error::Peer(PeerMisbehaved::Signature));
    let measure = Operation::Measure {
        nonce: [1; 32],
        raw: false,
    };
    assert_eq!(pair.operate(measure), refused);
    assert!(pair.requester.digests().measurements().is_none());
}

#[test]
fn measurements_signed_for_another_nonce_are_refused() {
    let mut pair = Pair::new(false);
    pair.establish().unwrap();
    let mut old = None;
    pair.responder.before_sealing = Box::new(move |code, message| {
        if code == Code::MEASUREMENTS {
            let recorded = old.get_or_insert_with(|| message.clone());
            message.clone_from(recorded);
        }
    });
    pair.operate(Operation::Measure {
        nonce: [1; 32],
        raw: false,
    })
    .unwrap();
    let refused = Err(Error::Peer(PeerMisbehaved::Signature));
    assert_eq!(
        pair.operate(Operation::Measure {
            nonce: [2; 32],
            raw: false
        }),
        refused
    );
}

#[test]
fn a_wrong_hmac_ends_the_key_exchange() {
    let mut pair = Pair::new(false);
    pair.responder.before_sealing = Box::new(|code, message| {
        if code == Code::KEY_EXCHANGE_RSP {
            *message.last_mut().unwrap() ^= 1;
        }
    });
    assert_eq!(
        pair.establish(),
        Err(Error::Peer(PeerMisbehaved::VerifyData))
    );
}

#[test]
fn plaintext_replays_and_other_sessions_records_are_refused() {
    // B11. Each row changes the second heartbeat's answer, given the first one's.
    type Swap = fn(&mut Vec<u8>, &[u8]);
    let rows: [(Swap, RecordError); 3] = [
        (|answer, first| *answer = first.to_vec(), RecordError::Tag),
        (|answer, _| answer[0] ^= 1, RecordError::Session),
        (
            |answer, _| *answer = vec![0x12, 0x68, 0, 0],
            RecordError::Malformed(Malformed::Truncated),
        ),
    ];
    for (swap, expected) in rows {
        let mut pair = Pair::new(false);
        pair.establish().unwrap();
        let mut first = None;
        pair.responder.on_wire = Box::new(move |_, answer| match &first {
            None => first = Some(answer.clone()),
            Some(first) => swap(answer, first),
        });
        pair.operate(Operation::Heartbeat).unwrap();
        let refused = Err(Error::Peer(PeerMisbehaved::Record(expected)));
        assert_eq!(pair.operate(Operation::Heartbeat), refused);
    }
}
