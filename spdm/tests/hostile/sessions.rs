// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions one after another, keys one after another, and what is no session of ours.

use std::collections::BTreeSet;

use tsm_spdm::crypto::{
    AeadAlgorithm, ExchangeAlgorithm, HashAlgorithm, RecordError, SignatureAlgorithm, Suite,
};
use tsm_spdm::wire::{Code, Malformed};
use tsm_spdm::{Config, Error, Input, Operation, Outcome, Output, PeerMisbehaved, Phase, Protocol};

use crate::identity::SUITE;
use crate::responder::{Pair, Responder, error};

/// A suite that costs little.
const LIGHT: Suite = Suite {
    hash: HashAlgorithm::Sha256,
    signature: SignatureAlgorithm::EcdsaP256,
    exchange: ExchangeAlgorithm::Secp256r1,
    aead: AeadAlgorithm::Aes128Gcm,
    ..SUITE
};

/// A pair without challenge whose keys are good for `update_after` records.
fn pair(responder: Responder, update_after: u64) -> Pair {
    Pair {
        responder,
        ..Pair::with(Config {
            challenge: false,
            update_after,
            ..Config::new(0x1234)
        })
    }
}

/// B13.
#[test]
fn a_thousand_sessions_follow_each_other_and_none_repeats_a_record() {
    let mut responder = Responder::new(LIGHT);
    let mut records = BTreeSet::new();
    let mut randoms = 0;
    for round in 0..1000 {
        let mut pair = pair(responder, u64::MAX);
        pair.randoms = randoms;
        pair.establish().unwrap();
        let mut out = [0; 4096];
        let output = pair.begin_vendor(&[0, 1], &mut out).unwrap();
        let Output::Send { len, .. } = output else {
            panic!()
        };
        assert!(records.insert(out[..len].to_vec()), "round {round}");
        pair.carry(output, &mut out).unwrap();
        // Every other session is left rather than ended.
        if round % 2 == 0 {
            assert_eq!(pair.operate(Operation::End), Ok(Outcome::Ended));
            assert_eq!(pair.requester.phase(), Phase::Ended);
        }
        // As many messages as in the first.
        assert_eq!(pair.sent.len(), if round % 2 == 0 { 12 } else { 11 });
        assert!(!pair.requester.uses_workspace());
        (responder, randoms) = (pair.responder, pair.randoms);
    }
}

/// B12.
#[test]
fn keys_are_updated_before_their_limit_as_often_as_it_takes() {
    // What is too small to leave room for anything is taken for 4.
    for (wanted, limit) in [(0, 4), (4, 4), (5, 5), (40, 40)] {
        let mut pair = pair(Responder::new(LIGHT), wanted);
        pair.establish().unwrap();
        let mut since = 0;
        for _ in 0..100 {
            let outcome = match pair.operate(Operation::Heartbeat) {
                Err(Error::KeyUpdateDue) => {
                    // Nothing but an update, or the end, is taken.
                    assert_eq!(pair.vendor(&[1]), Err(Error::KeyUpdateDue));
                    assert_eq!(since, limit);
                    assert_eq!(
                        pair.operate(Operation::UpdateKeys),
                        Ok(Outcome::KeysUpdated)
                    );
                    // Both acknowledgements came under the new key.
                    since = 2;
                    pair.operate(Operation::Heartbeat)
                }
                other => other,
            };
            assert_eq!(outcome, Ok(Outcome::Alive));
            since += 1;
        }
        assert_eq!(pair.operate(Operation::End), Ok(Outcome::Ended));
    }
}

/// B12. A key update that does not come to its end is the session's.
#[test]
fn a_key_update_without_the_right_acknowledgement_closes_the_session() {
    type Deal = fn(&mut Pair, Vec<u8>) -> Vec<u8>;
    let deals: &[(&str, Deal)] = &[
        // The acknowledgement is lost, and the host brings something else.
        ("nothing", |_, _| Vec::new()),
        ("zeros", |_, answer| vec![0; answer.len()]),
        ("the next record", |pair, _| {
            pair.responder.seal(&[0x12, 0x69, 2, 0])
        }),
        ("a refusal", |pair, _| pair.responder.seal(&error_bytes(3))),
    ];
    for exchange in [1, 2] {
        for (name, deal) in deals {
            let mut pair = pair(Responder::new(LIGHT), u64::MAX);
            pair.establish().unwrap();
            let mut out = vec![0; 4096];
            pair.requester.start(Operation::UpdateKeys).unwrap();
            let mut output = pair.step(Input::Begin, &mut out).unwrap();
            for step in 1..=exchange {
                let Output::Send { len, .. } = output else {
                    panic!()
                };
                // Nothing else is taken while it lasts.
                assert_eq!(
                    pair.requester.start(Operation::Heartbeat),
                    Err(Error::Phase)
                );
                let mut answer = pair.responder.exchange(&out[..len], Protocol::Secured);
                if step == exchange {
                    answer = deal(&mut pair, answer);
                    let brought = pair.step(Input::Response(&mut answer), &mut out);
                    assert!(
                        matches!(brought, Err(Error::Peer(_))),
                        "{name}, {exchange}: {brought:?}"
                    );
                    assert_eq!(pair.requester.phase(), Phase::Dead);
                } else {
                    output = pair.step(Input::Response(&mut answer), &mut out).unwrap();
                }
            }
        }
    }
    // A device that refuses does so under the keys that were.
    let mut pair = pair(Responder::new(LIGHT), u64::MAX);
    pair.establish().unwrap();
    let mut out = vec![0; 4096];
    pair.requester.start(Operation::UpdateKeys).unwrap();
    pair.step(Input::Begin, &mut out).unwrap();
    let mut refusal = pair.responder.seal(&error_bytes(3));
    let tag = Error::Peer(PeerMisbehaved::Record(RecordError::Tag));
    assert_eq!(pair.step(Input::Response(&mut refusal), &mut out), Err(tag));
    assert_eq!(pair.requester.phase(), Phase::Dead);
}

fn error_bytes(code: u8) -> Vec<u8> {
    error(tsm_spdm::wire::error::ErrorCode(code))
}

/// The period is known while there is a session, and only then.
#[test]
fn the_device_says_how_often_it_wants_a_sign_of_life() {
    let mut pair = pair(Responder::new(LIGHT), u64::MAX);
    assert_eq!(pair.requester.heartbeat_period(), 0);
    let Ok(Outcome::Established { heartbeat, .. }) = pair.establish() else {
        panic!()
    };
    assert_eq!((heartbeat, pair.requester.heartbeat_period()), (20, 20));
    pair.operate(Operation::UpdateKeys).unwrap();
    assert_eq!(pair.requester.heartbeat_period(), 20);
    pair.operate(Operation::End).unwrap();
    assert_eq!(pair.requester.heartbeat_period(), 0);
}

/// B10. CVE-2023-31127 is a handshake of one kind that ends with the message of the other.
#[test]
fn a_handshake_is_of_one_kind_and_ends_once() {
    // PSK_EXCHANGE_RSP, PSK_FINISH_RSP, ENCAPSULATED_REQUEST, ENCAPSULATED_RESPONSE_ACK.
    for other in [0x66, 0x67, 0x6a, 0x6b] {
        for code in [
            Code::CHALLENGE_AUTH,
            Code::KEY_EXCHANGE_RSP,
            Code::FINISH_RSP,
        ] {
            let mut pair = Pair::new(true);
            pair.responder.before_sealing = Box::new(move |this, message| {
                if this == code {
                    message[1] = other;
                }
            });
            let wrong = Error::Peer(PeerMisbehaved::Malformed(Malformed::Code));
            assert_eq!(pair.establish(), Err(wrong), "{code:?} as {other:#x}");
            assert_eq!(pair.requester.phase(), Phase::Dead);
        }
    }
    // FINISH_RSP twice: nothing is to be answered any more, and the session goes on.
    let mut pair = Pair::new(false);
    pair.establish().unwrap();
    let mut again = pair.responder.seal(&[0x12, 0x65, 0, 0]);
    let mut out = vec![0; 4096];
    assert_eq!(
        pair.step(Input::Response(&mut again), &mut out),
        Err(Error::Phase)
    );
    assert_eq!(pair.requester.phase(), Phase::Established);
}

/// B10. FINISH_RSP of another session of the same device.
#[test]
fn a_handshake_does_not_end_with_the_end_of_another() {
    let finish = |pair: &mut Pair, out: &mut [u8]| {
        pair.operate(Operation::Discover).unwrap();
        let key = pair.responder.public_key();
        pair.requester.start(Operation::Establish { key }).unwrap();
        let Output::Send { len, protocol, .. } = pair.step(Input::Begin, out).unwrap() else {
            panic!()
        };
        let mut answer = pair.responder.exchange(&out[..len], protocol);
        let Output::Send { len, protocol, .. } =
            pair.step(Input::Response(&mut answer), out).unwrap()
        else {
            panic!()
        };
        pair.responder.exchange(&out[..len], protocol)
    };
    let mut out = vec![0; 4096];
    let mut other = Pair::new(false);
    let mut taken = finish(&mut other, &mut out);
    let mut pair = Pair::new(false);
    pair.randoms = 7;
    let good = finish(&mut pair, &mut out);
    assert_eq!(good[..4], taken[..4], "the sessions have one number");
    let tag = Error::Peer(PeerMisbehaved::Record(RecordError::Tag));
    assert_eq!(pair.step(Input::Response(&mut taken), &mut out), Err(tag));
    assert_eq!(pair.requester.phase(), Phase::Dead);
}

/// B10. Whatever the device can do, nothing is asked of it that mixes kinds of authentication.
#[test]
fn no_pre_shared_key_and_no_encapsulation_are_announced_or_asked_for() {
    let mut pair = Pair::new(true);
    pair.responder.before_sealing = Box::new(|code, message| {
        if code == Code::CAPABILITIES {
            // Pre-shared keys, encapsulation, mutual authentication.
            let flags = u32::from_le_bytes(message[8..12].try_into().unwrap());
            message[8..12].copy_from_slice(&(flags | 0x1d00).to_le_bytes());
        }
    });
    pair.on_request = Box::new(|request| {
        // In the clear, the messages of the handshake and no others.
        let known = [0x81, 0x82, 0x83, 0x84, 0xe1, 0xe3, 0xe4];
        let is_plain = matches!(request[0], 0x10 | 0x12) && request[1] >= 0x80;
        assert!(!is_plain || known.contains(&request[1]));
        if request[..2] == [0x12, 0xe1] {
            let flags = u32::from_le_bytes(request[8..12].try_into().unwrap());
            assert_eq!(flags & 0x1d00, 0);
        }
    });
    pair.establish().unwrap();
    assert_eq!(pair.operate(Operation::End), Ok(Outcome::Ended));
}
