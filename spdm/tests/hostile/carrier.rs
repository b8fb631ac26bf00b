// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bytes bent on their way, without knowing what they mean.

use std::cell::Cell;
use std::rc::Rc;

use tsm_spdm::wire::Code;
use tsm_spdm::{Operation, Phase};

use crate::responder::{Bend, Pair};

/// Codes of the answers up to a session, in order.
const HANDSHAKE: [Code; 8] = [
    Code::VERSION,
    Code::CAPABILITIES,
    Code::ALGORITHMS,
    Code::DIGESTS,
    Code::CERTIFICATE,
    Code::CHALLENGE_AUTH,
    Code::KEY_EXCHANGE_RSP,
    Code::FINISH_RSP,
];

/// Runs a handshake in which `bend` changes the first answer with `code`, and returns the length
/// that the answer had.
fn handshake(code: Code, bend: impl Fn(&mut Vec<u8>) + 'static) -> (Pair, usize) {
    // What comes before the challenge has no other signature over all of it.
    let challenge = !matches!(code, Code::KEY_EXCHANGE_RSP | Code::FINISH_RSP);
    let mut pair = Pair::new(challenge);
    let length = Rc::new(Cell::new(None));
    let seen = length.clone();
    pair.responder.on_wire = Box::new(move |this, bytes| {
        if this == code && seen.get().is_none() {
            seen.set(Some(bytes.len()));
            bend(bytes);
        }
    });
    let outcome = pair.establish();
    assert_eq!(
        outcome.is_ok(),
        pair.requester.phase() == Phase::Established
    );
    (pair, length.get().expect("the answer was never sent"))
}

#[test]
fn a_handshake_left_alone_opens_a_session() {
    for code in HANDSHAKE {
        let (pair, _) = handshake(code, |_| ());
        assert_eq!(pair.requester.phase(), Phase::Established);
    }
}

#[test]
fn no_answer_can_be_cut_short() {
    for code in HANDSHAKE {
        let (_, length) = handshake(code, |_| ());
        for end in 0..length {
            let (pair, _) = handshake(code, move |bytes| bytes.truncate(end));
            assert_eq!(pair.requester.phase(), Phase::Dead, "{code:?} cut to {end}");
        }
    }
}

#[test]
fn no_byte_of_an_answer_can_be_changed() {
    for code in HANDSHAKE {
        let (_, length) = handshake(code, |_| ());
        for index in 0..length {
            let mask = 1 << (index % 8);
            let (pair, _) = handshake(code, move |bytes| bytes[index] ^= mask);
            assert_eq!(pair.requester.phase(), Phase::Dead, "{code:?} byte {index}");
        }
    }
}

#[test]
fn no_byte_of_a_request_can_be_changed() {
    let mut pair = Pair::new(true);
    pair.establish().unwrap();
    let lengths: Vec<usize> = pair
        .sent
        .iter()
        .map(|output| match output {
            tsm_spdm::Output::Send { len, .. } => *len,
            tsm_spdm::Output::Done { .. } => unreachable!(),
        })
        .collect();
    for (position, length) in lengths.into_iter().enumerate() {
        for index in 0..length {
            let mut pair = Pair::new(true);
            let mut at = 0;
            pair.on_request = Box::new(move |bytes| {
                if at == position {
                    bytes[index] ^= 0x20;
                }
                at += 1;
            });
            assert!(pair.establish().is_err(), "request {position} byte {index}");
            assert_eq!(pair.requester.phase(), Phase::Dead);
        }
    }
}

#[test]
fn padding_of_the_mailbox_is_taken_and_more_is_not() {
    for code in HANDSHAKE
        .into_iter()
        .filter(|code| *code != Code::FINISH_RSP)
    {
        let (pair, _) = handshake(code, |bytes| bytes.extend([0; 3]));
        assert_eq!(pair.requester.phase(), Phase::Established, "{code:?}");
        let (pair, _) = handshake(code, |bytes| bytes.extend([0; 4]));
        assert_eq!(pair.requester.phase(), Phase::Dead, "{code:?}");
    }
    // Behind a record there may be anything: the record says itself where it ends.
    let (pair, _) = handshake(Code::FINISH_RSP, |bytes| bytes.extend([0; 3]));
    assert_eq!(pair.requester.phase(), Phase::Established);
}

#[test]
fn an_answer_longer_than_announced_is_refused_unread() {
    for code in HANDSHAKE {
        let (pair, _) = handshake(code, |bytes| bytes.resize(4100, 0));
        assert_eq!(pair.requester.phase(), Phase::Dead, "{code:?}");
    }
}

/// Operations inside a session, and the first answer to each.
fn inside() -> [(Code, Option<Operation>); 5] {
    [
        (
            Code::MEASUREMENTS,
            Some(Operation::Measure {
                nonce: [1; 32],
                raw: false,
            }),
        ),
        (Code::VENDOR_DEFINED_RESPONSE, None),
        (Code::HEARTBEAT_ACK, Some(Operation::Heartbeat)),
        (Code::KEY_UPDATE_ACK, Some(Operation::UpdateKeys)),
        (Code::END_SESSION_ACK, Some(Operation::End)),
    ]
}

#[test]
fn inside_a_session_a_record_cut_or_changed_is_the_end() {
    for (code, operation) in inside() {
        let run = |mut bend: Bend| {
            let mut pair = Pair::new(false);
            pair.establish().unwrap();
            let length = Rc::new(Cell::new(0));
            let seen = length.clone();
            pair.responder.on_wire = Box::new(move |this, bytes| {
                if this == code {
                    seen.set(bytes.len());
                    bend(bytes);
                }
            });
            let outcome = match operation {
                Some(operation) => pair.operate(operation),
                None => pair.vendor(&[1, 2, 3]),
            };
            if outcome.is_err() {
                assert_eq!(pair.requester.phase(), Phase::Dead);
            }
            (outcome, length.get())
        };
        let (outcome, length) = run(Box::new(|_| ()));
        assert!(outcome.is_ok(), "{code:?}: {outcome:?}");
        // The record's own tests cover each byte; here the ends, and some between.
        for index in (0..length).filter(|at| *at < 8 || at % 17 == 0 || at + 1 == length) {
            let (outcome, _) = run(Box::new(move |bytes| bytes[index] ^= 4));
            assert!(outcome.is_err(), "{code:?} byte {index}");
            let (outcome, _) = run(Box::new(move |bytes| bytes.truncate(index)));
            assert!(outcome.is_err(), "{code:?} cut to {index}");
        }
    }
}
