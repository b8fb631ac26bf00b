// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Records that are not the next of the session.

use std::cell::RefCell;
use std::rc::Rc;

use tsm_spdm::crypto::RecordError;
use tsm_spdm::wire::Malformed;
use tsm_spdm::wire::record::OVERHEAD;
use tsm_spdm::{Error, Input, Operation, Output, PeerMisbehaved, Phase, Protocol};

use crate::responder::Pair;

/// What whoever carries messages has at hand.
struct Hand<'a> {
    pair: &'a mut Pair,
    /// The answer before this one.
    earlier: Vec<u8>,
    /// The request.
    request: Vec<u8>,
    /// The answer.
    answer: Vec<u8>,
}

/// Brings what `deal` makes of the answer to a heartbeat.
fn fault(deal: fn(Hand<'_>) -> Vec<u8>) -> Error {
    let mut pair = Pair::new(false);
    let earlier = Rc::new(RefCell::new(Vec::new()));
    let seen = earlier.clone();
    pair.responder.on_wire = Box::new(move |_, bytes| *seen.borrow_mut() = bytes.clone());
    pair.establish().unwrap();
    pair.operate(Operation::Heartbeat).unwrap();
    let earlier = earlier.borrow().clone();

    let mut out = vec![0; 4096];
    pair.requester.start(Operation::Heartbeat).unwrap();
    let Output::Send { len, .. } = pair.step(Input::Begin, &mut out).unwrap() else {
        panic!()
    };
    let request = out[..len].to_vec();
    let answer = pair.responder.exchange(&request, Protocol::Secured);
    let mut brought = deal(Hand {
        pair: &mut pair,
        earlier,
        request,
        answer,
    });
    let error = pair
        .step(Input::Response(&mut brought), &mut out)
        .unwrap_err();
    // Nothing is left to be done with the session.
    assert_eq!(pair.requester.phase(), Phase::Dead);
    assert_eq!(pair.requester.heartbeat_period(), 0);
    for operation in [Operation::Heartbeat, Operation::UpdateKeys, Operation::End] {
        assert_eq!(pair.requester.start(operation), Err(Error::Phase));
    }
    error
}

/// B11.
#[test]
fn a_record_that_is_not_the_next_is_the_end_of_the_session() {
    use RecordError as Fault;
    type Deal = fn(Hand<'_>) -> Vec<u8>;
    let deals: &[(&str, Deal, Fault)] = &[
        ("replayed", |hand| hand.earlier, Fault::Tag),
        ("one ahead", |hand| next(hand.pair), Fault::Tag),
        (
            "far ahead",
            |hand| {
                for _ in 0..100 {
                    next(hand.pair);
                }
                next(hand.pair)
            },
            Fault::Tag,
        ),
        ("our own", |hand| hand.request, Fault::Tag),
        (
            "a bit of the tag",
            |hand| bent(hand.answer, usize::MAX),
            Fault::Tag,
        ),
        ("a bit of the text", |hand| bent(hand.answer, 9), Fault::Tag),
        (
            "a bit of the text's length",
            |hand| bent(hand.answer, 6),
            Fault::Tag,
        ),
        (
            "of another session",
            |hand| bent(hand.answer, 0),
            Fault::Session,
        ),
        (
            "of another half",
            |hand| bent(hand.answer, 3),
            Fault::Session,
        ),
        (
            "longer than it is",
            |mut hand| {
                hand.answer[4] += 1;
                hand.answer
            },
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "shorter than it is",
            |mut hand| {
                hand.answer[4] -= 1;
                hand.answer
            },
            Fault::Tag,
        ),
        (
            "too short to hold anything",
            |mut hand| {
                hand.answer[4] = OVERHEAD as u8 - 7;
                hand.answer
            },
            Fault::Malformed(Malformed::Length),
        ),
        (
            "nothing",
            |_| Vec::new(),
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "zeros",
            |hand| vec![0; hand.answer.len()],
            Fault::Malformed(Malformed::Length),
        ),
        // Read as a record, this is longer than it is.
        (
            "in the clear",
            |_| [[0x12, 0x68, 0, 0]; 8].concat(),
            Fault::Malformed(Malformed::Truncated),
        ),
    ];
    for (name, deal, expected) in deals {
        let expected = Error::Peer(PeerMisbehaved::Record(*expected));
        assert_eq!(fault(*deal), expected, "{name}");
    }
    // A bare message has not even the length of a record.
    let clear = fault(|_| vec![0x12, 0x68, 0, 0]);
    assert!(matches!(clear, Error::Peer(PeerMisbehaved::Record(_))));
}

/// Seals a good answer that is one too many.
fn next(pair: &mut Pair) -> Vec<u8> {
    pair.responder.seal(&[0x12, 0x68, 0, 0])
}

fn bent(mut record: Vec<u8>, at: usize) -> Vec<u8> {
    let at = at.min(record.len() - 1);
    record[at] ^= 1;
    record
}
