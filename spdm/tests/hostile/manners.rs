// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Order, refusals, retries and limits.

use std::cell::Cell;
use std::rc::Rc;

use tsm_spdm::crypto::sha384;
use tsm_spdm::wire::Code;
use tsm_spdm::wire::error::{ErrorCode, NotReady};
use tsm_spdm::{
    Error, Input, MAX_PAYLOAD, MIN_BUFFER, NoEntropy, Operation, Outcome, Output, PeerMisbehaved,
    Phase,
};

use crate::responder::{Pair, error};

const MEASURE: Operation = Operation::Measure {
    nonce: [3; 32],
    raw: false,
};

/// Answers of a whole conversation, once each.
const ANSWERS: [Code; 13] = [
    Code::VERSION,
    Code::CAPABILITIES,
    Code::ALGORITHMS,
    Code::DIGESTS,
    Code::CERTIFICATE,
    Code::CHALLENGE_AUTH,
    Code::KEY_EXCHANGE_RSP,
    Code::FINISH_RSP,
    Code::MEASUREMENTS,
    Code::VENDOR_DEFINED_RESPONSE,
    Code::HEARTBEAT_ACK,
    Code::KEY_UPDATE_ACK,
    Code::END_SESSION_ACK,
];

/// Answers whose exchange changes the device's state: it would have to be busy before that.
const ONCE: [Code; 3] = [
    Code::FINISH_RSP,
    Code::KEY_UPDATE_ACK,
    Code::END_SESSION_ACK,
];

fn everything(pair: &mut Pair) -> Result<(), Error> {
    pair.establish()?;
    inside(pair)
}

/// Whatever is done in a session, to its end.
fn inside(pair: &mut Pair) -> Result<(), Error> {
    pair.operate(MEASURE)?;
    pair.vendor(&[1; MAX_PAYLOAD])?;
    pair.operate(Operation::Heartbeat)?;
    pair.operate(Operation::UpdateKeys)?;
    pair.operate(Operation::End).map(|_| ())
}

/// Lets the device refuse the first `times` requests that lead to `code`.
fn refuse(pair: &mut Pair, code: Code, reason: ErrorCode, times: u32) -> Rc<Cell<u32>> {
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    pair.responder.before_sealing = Box::new(move |this, message| {
        if this == code {
            seen.set(seen.get() + 1);
            if seen.get() <= times {
                *message = error(reason);
            }
        }
    });
    count
}

/// Answers to requests whose refusal leaves the session as it is.
const REFUSABLE: [Code; 2] = [Code::MEASUREMENTS, Code::VENDOR_DEFINED_RESPONSE];

/// B08.
#[test]
fn every_refusal_at_every_step_ends_the_conversation_or_the_operation() {
    let reasons = [
        ErrorCode::INVALID_REQUEST,
        ErrorCode::INVALID_SESSION,
        ErrorCode::UNEXPECTED_REQUEST,
        ErrorCode::UNSPECIFIED,
        ErrorCode::DECRYPT_ERROR,
        ErrorCode::UNSUPPORTED_REQUEST,
        ErrorCode::SESSION_LIMIT_EXCEEDED,
        ErrorCode::SESSION_REQUIRED,
        ErrorCode::RESPONSE_TOO_LARGE,
        ErrorCode::LARGE_RESPONSE,
        ErrorCode::VERSION_MISMATCH,
        ErrorCode::REQUEST_RESYNCH,
        ErrorCode(0x00),
        ErrorCode(0x99),
        ErrorCode::VENDOR_DEFINED,
    ];
    for code in ANSWERS {
        for reason in reasons {
            let mut pair = Pair::new(true);
            let count = refuse(&mut pair, code, reason, 1);
            let holds = REFUSABLE.contains(&code) && reason.is_about_request();
            let refused = if holds {
                Error::Refused(reason)
            } else {
                Error::Peer(PeerMisbehaved::Refused(reason))
            };
            assert_eq!(everything(&mut pair), Err(refused), "{code:?} {reason:?}");
            assert_eq!(count.get(), 1, "asked again after {reason:?}");
            if holds {
                // The next request is answered, and signed over itself alone.
                assert_eq!(pair.requester.phase(), Phase::Established);
                assert_eq!(inside(&mut pair), Ok(()), "{code:?} {reason:?}");
            } else {
                assert_eq!(pair.requester.phase(), Phase::Dead);
            }
        }
    }
}

#[test]
fn a_device_that_is_busy_for_ever_is_given_up() {
    for code in ANSWERS.into_iter().filter(|code| !ONCE.contains(code)) {
        let mut pair = Pair::new(true);
        let count = refuse(&mut pair, code, ErrorCode::BUSY, u32::MAX);
        let busy = Err(Error::Peer(PeerMisbehaved::BusyForever));
        assert_eq!(everything(&mut pair), busy, "{code:?}");
        assert_eq!(count.get(), 9);
    }
    // Keys have changed already: the request cannot be repeated.
    let mut pair = Pair::new(true);
    refuse(&mut pair, Code::KEY_UPDATE_ACK, ErrorCode::BUSY, u32::MAX);
    let busy = Err(Error::Peer(PeerMisbehaved::Refused(ErrorCode::BUSY)));
    assert_eq!(everything(&mut pair), busy);
}

#[test]
fn a_device_that_is_busy_for_a_while_is_waited_for_longer_and_longer() {
    // Whatever is not part of a transcript of the device until it answers.
    let codes = [
        Code::MEASUREMENTS,
        Code::VENDOR_DEFINED_RESPONSE,
        Code::HEARTBEAT_ACK,
    ];
    for code in codes {
        let mut pair = Pair::new(true);
        refuse(&mut pair, code, ErrorCode::BUSY, 3);
        assert_eq!(everything(&mut pair), Ok(()), "{code:?}");
        let delays: Vec<u32> = pair
            .sent
            .iter()
            .filter_map(|output| match output {
                Output::Send { delay_us, .. } if *delay_us > 0 => Some(*delay_us),
                _ => None,
            })
            .collect();
        assert_eq!(delays, [2_000, 4_000, 8_000]);
    }
}

/// Requests whose answers may be put off, by the code of the answer.
const PUT_OFF: [(Code, Code); 7] = [
    (Code::DIGESTS, Code::GET_DIGESTS),
    (Code::CERTIFICATE, Code::GET_CERTIFICATE),
    (Code::CHALLENGE_AUTH, Code::CHALLENGE),
    (Code::KEY_EXCHANGE_RSP, Code::KEY_EXCHANGE),
    (Code::MEASUREMENTS, Code::GET_MEASUREMENTS),
    (Code::VENDOR_DEFINED_RESPONSE, Code::VENDOR_DEFINED_REQUEST),
    (Code::HEARTBEAT_ACK, Code::HEARTBEAT),
];

/// Changes what the device says of the time it needs.
type Delay = fn(&mut NotReady);

/// Runs everything while the answer `code` is put off `times` times, the way that `change` has it.
fn put_off(
    (code, request): (Code, Code),
    times: u32,
    change: Delay,
) -> (Result<(), Error>, Vec<u32>, u32) {
    let mut pair = Pair::new(true);
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    // Chunks may come after.
    pair.responder.chunker.room = Some(80);
    pair.responder.chunker.put_off = Box::new(move |this| {
        if this != code || seen.get() == times {
            return None;
        }
        seen.set(seen.get() + 1);
        let mut when = NotReady {
            exponent: 10 + seen.get() as u8,
            request,
            token: 0x80 + seen.get() as u8,
            multiplier: 1,
        };
        change(&mut when);
        Some(when)
    });
    let outcome = everything(&mut pair);
    let delays = pair.sent.iter().filter_map(|output| match output {
        Output::Send { delay_us, .. } if *delay_us > 0 => Some(*delay_us),
        _ => None,
    });
    (outcome, delays.collect(), count.get())
}

/// B08.
#[test]
fn an_answer_that_is_not_ready_is_asked_for_when_it_is() {
    for code in PUT_OFF {
        let (outcome, delays, _) = put_off(code, 3, |_| ());
        assert_eq!(
            (outcome, delays),
            (Ok(()), vec![2048, 4096, 8192]),
            "{code:?}"
        );
    }
}

/// B08.
#[test]
fn an_answer_that_is_never_ready_is_given_up() {
    for code in PUT_OFF {
        let (outcome, _, count) = put_off(code, u32::MAX, |_| ());
        let forever = Err(Error::Peer(PeerMisbehaved::BusyForever));
        assert_eq!((outcome, count), (forever, 9), "{code:?}");
    }
}

/// B08.
#[test]
fn an_answer_that_is_put_off_too_long_or_for_another_request_is_given_up_at_once() {
    let lies: &[(Delay, PeerMisbehaved)] = &[
        (|when| when.exponent = 24, PeerMisbehaved::NotReadyTime),
        (|when| when.exponent = 255, PeerMisbehaved::NotReadyTime),
        (|when| when.multiplier = 0, PeerMisbehaved::NotReadyTime),
        (|when| when.request.0 ^= 1, PeerMisbehaved::WrongEcho),
    ];
    for code in PUT_OFF {
        for (change, expected) in lies {
            let (outcome, delays, count) = put_off(code, u32::MAX, *change);
            assert_eq!(outcome, Err(Error::Peer(*expected)), "{code:?}");
            assert_eq!((delays, count), (vec![], 1));
        }
        let (outcome, delays, _) = put_off(code, 1, |when| when.exponent = 23);
        assert_eq!((outcome, delays), (Ok(()), vec![1 << 23]), "{code:?}");
    }
    // The first three messages come at once, and keys that have changed are not waited for.
    let refused = PeerMisbehaved::Refused(ErrorCode::RESPONSE_NOT_READY);
    for code in [
        (Code::VERSION, Code::GET_VERSION),
        (Code::CAPABILITIES, Code::GET_CAPABILITIES),
        (Code::ALGORITHMS, Code::NEGOTIATE_ALGORITHMS),
        (Code::KEY_UPDATE_ACK, Code::KEY_UPDATE),
    ] {
        let (outcome, delays, count) = put_off(code, 1, |_| ());
        assert_eq!(outcome, Err(Error::Peer(refused)), "{code:?}");
        assert_eq!((delays, count), (vec![], 1));
    }
}

#[test]
fn what_is_sent_again_is_kept_and_hashed_once() {
    let mut pair = Pair::new(true);
    let mut refusals = 2;
    // Refuse on the wire, then let the device begin again: GET_VERSION resets it.
    pair.responder.on_wire = Box::new(move |code, answer| {
        if code == Code::VERSION && refusals > 0 {
            refusals -= 1;
            *answer = error(ErrorCode::BUSY);
            answer[0] = 0x10;
        }
    });
    assert!(pair.establish().is_ok());
    assert_eq!(pair.requester.digests().vca(), Some(&sha384(&pair.kept[0])));
}

#[test]
fn an_operation_out_of_order_changes_nothing() {
    let mut pair = Pair::new(true);
    let mut out = [0; 4096];
    let key = pair.responder.public_key();
    let establish = Operation::Establish { key };
    let inside = [
        MEASURE,
        Operation::Heartbeat,
        Operation::UpdateKeys,
        Operation::End,
    ];

    let refused = |pair: &mut Pair, operations: &[Operation]| {
        let before = pair.requester.phase();
        for operation in operations {
            assert_eq!(pair.requester.start(*operation), Err(Error::Phase));
            assert_eq!(pair.requester.phase(), before);
        }
    };
    refused(&mut pair, &inside);
    refused(&mut pair, &[establish]);
    assert_eq!(pair.step(Input::Begin, &mut out), Err(Error::Phase));
    assert_eq!(pair.begin_vendor(&[0], &mut out), Err(Error::Phase));
    assert_eq!(
        pair.step(Input::Response(&mut [0; 8]), &mut out),
        Err(Error::Phase)
    );

    pair.requester.start(Operation::Discover).unwrap();
    // Started: only the beginning is in order, and once.
    assert_eq!(
        pair.step(Input::Response(&mut [0; 8]), &mut out),
        Err(Error::Phase)
    );
    refused(&mut pair, &[Operation::Discover, establish]);
    let small = &mut [0; MIN_BUFFER - 1];
    assert_eq!(pair.step(Input::Begin, small), Err(Error::Buffer));
    let output = pair.step(Input::Begin, &mut out).unwrap();
    assert_eq!(pair.step(Input::Begin, &mut out), Err(Error::Phase));
    assert_eq!(pair.carry(output, &mut out), Ok(Outcome::Discovered));

    refused(&mut pair, &inside);
    refused(&mut pair, &[Operation::Discover]);
    pair.operate(establish).unwrap();
    refused(&mut pair, &[Operation::Discover, establish]);
    assert_eq!(pair.begin_vendor(&[], &mut out), Err(Error::Payload));
    assert_eq!(
        pair.begin_vendor(&[0; MAX_PAYLOAD + 1], &mut out),
        Err(Error::Payload)
    );
    assert_eq!(
        pair.begin_vendor(&[0], &mut out[..MIN_BUFFER - 1]),
        Err(Error::Buffer)
    );
    assert_eq!(pair.requester.phase(), Phase::Established);
    assert_eq!(pair.operate(Operation::Heartbeat), Ok(Outcome::Alive));

    pair.operate(Operation::End).unwrap();
    refused(&mut pair, &inside);
    refused(&mut pair, &[Operation::Discover, establish]);
}

#[test]
fn a_device_without_heartbeat_or_key_update_is_not_asked_for_them() {
    let mut pair = Pair::new(false);
    pair.responder.before_sealing = Box::new(|code, message| {
        if code == Code::CAPABILITIES {
            // Bits 13 and 14.
            message[9] &= !0x60;
        }
    });
    pair.establish().unwrap();
    for operation in [Operation::Heartbeat, Operation::UpdateKeys] {
        assert_eq!(pair.requester.start(operation), Err(Error::Unsupported));
    }
    assert_eq!(pair.requester.phase(), Phase::Established);
    assert_eq!(pair.operate(Operation::End), Ok(Outcome::Ended));
}

#[test]
fn no_entropy_is_the_end_wherever_it_is_needed() {
    let mut out = [0; 4096];
    let mut pair = Pair::new(true);
    pair.operate(Operation::Discover).unwrap();
    let key = pair.responder.public_key();
    pair.requester.start(Operation::Establish { key }).unwrap();
    let dry = pair
        .requester
        .step(Input::Begin, &mut out, &mut pair.workspace, &mut |_| {
            Err(NoEntropy)
        });
    assert_eq!(dry, Err(Error::NoEntropy));
    assert_eq!(pair.requester.phase(), Phase::Dead);

    let mut pair = Pair::new(false);
    pair.establish().unwrap();
    pair.requester.start(Operation::UpdateKeys).unwrap();
    let dry = pair
        .requester
        .step(Input::Begin, &mut out, &mut pair.workspace, &mut |_| {
            Err(NoEntropy)
        });
    assert_eq!(dry, Err(Error::NoEntropy));
    assert_eq!(pair.requester.phase(), Phase::Dead);
}

#[test]
fn cryptography_is_given_the_time_that_the_device_asked_for() {
    let mut pair = Pair::new(true);
    // 2^20 microseconds.
    pair.responder.before_sealing = Box::new(|code, message| {
        if code == Code::CAPABILITIES {
            message[5] = 20;
        }
    });
    pair.establish().unwrap();
    let timeouts: Vec<u32> = pair
        .sent
        .iter()
        .map(|output| match output {
            Output::Send { timeout_ms, .. } => *timeout_ms,
            Output::Done { .. } => unreachable!(),
        })
        .collect();
    // Challenge, key exchange and finish are slow.
    let (quick, slow) = timeouts.split_at(timeouts.len() - 3);
    assert!(quick.iter().all(|timeout| *timeout == 1000));
    assert!(slow.iter().all(|timeout| *timeout == 2049));
}
