// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's SPDM responder, seen by a requester of its own.

mod requester;

use std::time::{Duration, Instant};

use p384::elliptic_curve::sec1::ToSec1Point;
use requester::{Bench, GET_CAPABILITIES, NEGOTIATE_ALGORITHMS, hex, sha384};
use tsm_devices::{Event, SessionEnd, SessionId, TdiState};

const INVALID_REQUEST: u8 = 0x01;
const INVALID_SESSION: u8 = 0x02;
const UNEXPECTED_REQUEST: u8 = 0x04;
const DECRYPT_ERROR: u8 = 0x06;
const UNSUPPORTED_REQUEST: u8 = 0x07;
const SESSION_LIMIT: u8 = 0x0a;
const SESSION_REQUIRED: u8 = 0x0b;
const REQUEST_TOO_LARGE: u8 = 0x0e;
const VERSION_MISMATCH: u8 = 0x41;

const HEARTBEAT: [u8; 4] = [0x12, 0xe8, 0, 0];
const END_SESSION: [u8; 4] = [0x12, 0xec, 0, 0];

#[test]
fn the_whole_flow_runs_twice_on_one_connection() {
    let mut bench = Bench::default();
    for _ in 0..2 {
        bench.negotiate();
        let digests = bench.plain(&hex("12810000"));
        bench.chain = bench.read_chain(600);
        assert_eq!(digests[..4], hex("12010001"));
        assert_eq!(digests[4..52], sha384(&bench.chain));

        let mut session = bench.establish();
        bench.secure(&mut session, requester::STREAM);
        assert!(bench.state().streams[0].status.secure);
        assert!(bench.port.status().secure);
        assert_eq!(bench.tdisp(&mut session, 0x81, &[]), [1, 0x10]);
        let nonce = bench.lock(&mut session);
        assert_eq!(bench.interface(), TdiState::ConfigLocked);
        let report = bench.tdisp(&mut session, 0x84, &[0, 0, 0, 4]);
        assert_eq!(report[..4], [84, 0, 0, 0]);
        bench.tdisp(&mut session, 0x86, &nonce);
        assert_eq!(bench.interface(), TdiState::Run);
        assert_eq!(bench.send(&mut session, &HEARTBEAT), [0x12, 0x68, 0, 0]);
        bench.tdisp(&mut session, 0x87, &[]);
        assert_eq!(bench.interface(), TdiState::ConfigUnlocked);
        for slot in tsm_devices::KeySlot::of_set(0) {
            bench.stop_key(&mut session, requester::STREAM, slot);
        }
        assert!(bench.state().streams.is_empty());
        assert_eq!(bench.send(&mut session, &END_SESSION), [0x12, 0x6c, 0, 0]);
        assert!(bench.state().sessions.is_empty());
    }
}

#[test]
fn requests_out_of_order_are_unexpected() {
    let mut bench = Bench::default();
    for request in [
        GET_CAPABILITIES,
        NEGOTIATE_ALGORITHMS,
        "12810000",
        "12e50000",
    ] {
        assert_eq!(bench.refused(&hex(request)), UNEXPECTED_REQUEST);
    }
    bench.plain(&hex("10840000"));
    assert_eq!(
        bench.refused(&hex(NEGOTIATE_ALGORITHMS)),
        UNEXPECTED_REQUEST
    );
    bench.plain(&hex(GET_CAPABILITIES));
    assert_eq!(bench.refused(&hex(GET_CAPABILITIES)), UNEXPECTED_REQUEST);
    assert_eq!(bench.refused(&hex("12e00000")), UNEXPECTED_REQUEST);
    bench.plain(&hex(NEGOTIATE_ALGORITHMS));
    assert_eq!(
        bench.refused(&hex(NEGOTIATE_ALGORITHMS)),
        UNEXPECTED_REQUEST
    );
    for request in ["12e80000", "12e90100", "12ec0000", "12fe0000"] {
        assert_eq!(bench.refused(&hex(request)), SESSION_REQUIRED);
    }
    for request in ["12860000", "12e60000", "12010000"] {
        assert_eq!(bench.refused(&hex(request)), UNSUPPORTED_REQUEST);
    }
    assert_eq!(bench.refused(&hex("12ff8101")), UNEXPECTED_REQUEST);
}

#[test]
fn a_version_that_was_not_agreed_on_is_answered_with_a_mismatch() {
    let mut bench = Bench::default();
    assert_eq!(
        bench.plain(&hex("12840000"))[..4],
        [0x10, 0x7f, VERSION_MISMATCH, 0]
    );
    bench.plain(&hex("10840000"));
    for version in ["11", "13"] {
        let request = GET_CAPABILITIES.replacen("12", version, 1);
        assert_eq!(
            bench.plain(&hex(&request))[..4],
            [0x10, 0x7f, VERSION_MISMATCH, 0]
        );
    }
    let mut bench = Bench::negotiated();
    for request in ["13810000", "11e00000", "15810000"] {
        assert_eq!(
            bench.plain(&hex(request))[..4],
            [0x12, 0x7f, VERSION_MISMATCH, 0]
        );
    }
}

#[test]
fn capabilities_that_contradict_themselves_are_invalid() {
    let mut bench = Bench::default();
    bench.plain(&hex("10840000"));
    for flags_and_sizes in [
        // Key exchange without cipher, cipher without key exchange.
        "06020000 00100000 00100000",
        "c6000000 00100000 00100000",
        // Mutual authentication without encapsulation, both kinds of pre-shared key.
        "c6030000 00100000 00100000",
        "c60e0000 00100000 00100000",
        // Transfer size below the least, above the message size.
        "c6620000 29000000 00100000",
        "c6620000 01100000 00100000",
    ] {
        let mut request = hex("12e1000000000000");
        request.extend(hex(flags_and_sizes));
        assert_eq!(bench.plain(&request)[..4], [0x12, 0x7f, INVALID_REQUEST, 0]);
    }
    assert_eq!(
        bench.refused(&hex(&GET_CAPABILITIES[..32])),
        INVALID_REQUEST
    );
    assert_eq!(bench.plain(&hex(GET_CAPABILITIES))[1], 0x61);
}

#[test]
fn algorithms_that_do_not_meet_ours_are_invalid() {
    let mut bench = Bench::default();
    for (place, value) in [
        (2, 4),     // one structure more than there is
        (4, 0x2d),  // longer than the message
        (4, 0x28),  // shorter than its structures
        (8, 0x10),  // P-256 only
        (12, 0x01), // SHA-256 only
        (28, 0xff), // extended algorithms that are not there
        (32, 0x09), // unknown structure
        (33, 0x10), // structure of another shape
        (36, 0x02), // types that do not ascend
    ] {
        bench.plain(&hex("10840000"));
        bench.plain(&hex(GET_CAPABILITIES));
        let mut request = hex(NEGOTIATE_ALGORITHMS);
        request[place] = value;
        assert_eq!(bench.refused(&request), INVALID_REQUEST, "byte {place}");
    }
}

#[test]
fn without_a_common_cipher_there_are_no_sessions() {
    let mut bench = Bench::default();
    bench.plain(&hex("10840000"));
    bench.plain(&hex(GET_CAPABILITIES));
    let mut request = hex(NEGOTIATE_ALGORITHMS);
    request[38] = 1;
    let answer = bench.plain(&request);
    assert_eq!(answer[40..44], [3, 0x20, 0, 0]);
    assert_eq!(bench.plain(&hex("12810000"))[1], 0x01);
    let mut key_exchange = hex("12e40000");
    key_exchange.resize(158, 0);
    assert_eq!(bench.refused(&key_exchange), UNEXPECTED_REQUEST);
}

#[test]
fn a_key_exchange_with_a_wrong_field_is_invalid_and_makes_no_session() {
    let mut bench = Bench::negotiated();
    let share = p384::SecretKey::from_slice(&[0x11; 48])
        .unwrap()
        .public_key();
    let mut good = hex("12e4ff0055550000");
    good.extend([0x22; 32]);
    good.extend(&share.to_sec1_point(false).as_bytes()[1..]);
    good.extend(hex("1000 01000000 00000500 01010100 12000000"));
    // Slot, summary type, share off the curve, opaque length, version in the opaque data.
    let wrong = [
        (3, 1),
        (3, 0xff),
        (2, 2),
        (2, 0xfe),
        (60, 0xaa),
        (137, 0xff),
        (150, 0x13),
    ];
    for (place, value) in wrong {
        let mut request = good.clone();
        request[place] = value;
        assert_eq!(bench.refused(&request), INVALID_REQUEST, "byte {place}");
    }
    assert!(bench.state().sessions.is_empty());
}

#[test]
fn only_finish_is_welcome_in_a_handshake_and_only_once() {
    let mut bench = Bench::negotiated();
    let mut session = bench.key_exchange(1);
    for request in [
        &HEARTBEAT[..],
        &END_SESSION,
        &hex("12e90100"),
        &hex("12810000"),
    ] {
        assert_eq!(bench.refused_in(&mut session, request), UNEXPECTED_REQUEST);
    }
    // A signature, a slot or a missing value: wrong, but not forged.
    let mut signed = Bench::finish_message(&session);
    signed[2] = 1;
    assert_eq!(bench.refused_in(&mut session, &signed), INVALID_REQUEST);
    assert_eq!(
        bench.refused_in(&mut session, &hex("12e50000")),
        INVALID_REQUEST
    );
    assert_eq!(
        bench.refused_in(&mut session, &hex("13e50000")),
        VERSION_MISMATCH
    );
    bench.finish(&mut session);
    let again = Bench::finish_message(&session);
    assert_eq!(bench.refused_in(&mut session, &again), UNEXPECTED_REQUEST);
    assert_eq!(bench.send(&mut session, &HEARTBEAT)[1], 0x68);
}

#[test]
fn a_forged_finish_ends_the_handshake() {
    let mut bench = Bench::negotiated();
    let mut session = bench.key_exchange(1);
    let mut message = Bench::finish_message(&session);
    message[20] ^= 1;
    assert_eq!(bench.refused_in(&mut session, &message), DECRYPT_ERROR);
    assert!(bench.ended(&session));
}

#[test]
fn finish_of_one_session_does_not_finish_another() {
    let mut bench = Bench::negotiated();
    let first = bench.key_exchange(1);
    let mut second = bench.key_exchange(2);
    let message = Bench::finish_message(&first);
    assert_eq!(bench.refused_in(&mut second, &message), DECRYPT_ERROR);
    assert!(bench.ended(&second) && !bench.ended(&first));
}

#[test]
fn a_forged_replayed_or_misdirected_record_ends_the_session() {
    for attack in 0..3 {
        let mut bench = Bench::negotiated();
        let mut session = bench.establish();
        let good = session.seal(&HEARTBEAT);
        let record = match attack {
            0 => {
                let mut forged = good.clone();
                forged[9] ^= 1;
                forged
            }
            1 => {
                let answer = bench.object(2, &good).1;
                session.open(&answer);
                good
            }
            _ => good[..20].to_vec(),
        };
        let (kind, answer) = bench.object(2, &record);
        assert_eq!(kind, 2);
        assert_eq!(session.open(&answer), [0x12, 0x7f, DECRYPT_ERROR, 0]);
        assert!(bench.ended(&session));
        let id = SessionId(session.id);
        assert!(bench.heard(Event::SessionEnded(id, SessionEnd::Forged)));
        let (kind, answer) = bench.object(2, &record);
        assert_eq!(
            (kind, &answer[..3]),
            (1, &[0x12, 0x7f, INVALID_SESSION][..])
        );
    }
}

#[test]
fn the_handshake_is_not_for_sessions_and_sessions_not_for_the_handshake() {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    for request in [
        "12840000",
        GET_CAPABILITIES,
        NEGOTIATE_ALGORITHMS,
        "12e40000",
        "12830000",
    ] {
        assert_eq!(
            bench.refused_in(&mut session, &hex(request)),
            UNEXPECTED_REQUEST
        );
    }
    assert_eq!(
        bench.refused_in(&mut session, &hex("10840000")),
        VERSION_MISMATCH
    );
    assert_eq!(
        bench.refused_in(&mut session, &hex("12e60000")),
        UNSUPPORTED_REQUEST
    );
    assert_eq!(
        bench.send(&mut session, &hex("12810000"))[..4],
        hex("12010001")
    );
    let portion = bench.send(&mut session, &hex("1282000000000002"));
    assert_eq!(portion[8..], bench.chain[..0x200]);
}

#[test]
fn keys_are_updated_in_one_or_both_directions_and_must_be_proven() {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    assert_eq!(
        bench.refused_in(&mut session, &hex("12e90301")),
        INVALID_REQUEST
    );
    assert_eq!(
        bench.refused_in(&mut session, &hex("12e90001")),
        INVALID_REQUEST
    );
    for both in [false, true] {
        let request = if both {
            hex("12e90242")
        } else {
            hex("12e90142")
        };
        let record = session.seal(&request);
        let (_, answer) = bench.object(2, &record);
        if both {
            session.update_response();
        }
        assert_eq!(session.open(&answer)[..4], [0x12, 0x69, request[2], 0x42]);
        session.update_request();
        for too_early in [&HEARTBEAT[..], &request] {
            assert_eq!(
                bench.refused_in(&mut session, too_early),
                UNEXPECTED_REQUEST
            );
        }
        assert_eq!(
            bench.send(&mut session, &hex("12e90343")),
            [0x12, 0x69, 3, 0x43]
        );
        assert_eq!(bench.send(&mut session, &HEARTBEAT)[1], 0x68);
    }
}

#[test]
fn sessions_are_independent_and_limited() {
    let mut bench = Bench::negotiated();
    let mut sessions: Vec<_> = (0..4).map(|_| bench.establish()).collect();
    for session in &mut sessions {
        assert_eq!(bench.send(session, &HEARTBEAT)[1], 0x68);
    }
    let mut request = hex("12e4000055550000");
    request.resize(158, 0);
    assert_eq!(bench.refused(&request), SESSION_LIMIT);
    bench.send(&mut sessions[1], &END_SESSION);
    let mut another = bench.establish();
    for session in [0, 2, 3] {
        assert_eq!(bench.send(&mut sessions[session], &HEARTBEAT)[1], 0x68);
    }
    assert_eq!(bench.send(&mut another, &HEARTBEAT)[1], 0x68);
}

#[test]
fn handshakes_that_nobody_finishes_lock_nobody_out() {
    let mut bench = Bench::negotiated();
    let abandoned: Vec<_> = (0..5).map(|half| bench.key_exchange(half)).collect();
    assert!(bench.ended(&abandoned[0]) && !bench.ended(&abandoned[1]));
    for _ in 0..20 {
        let mut session = bench.establish();
        bench.send(&mut session, &END_SESSION);
    }
}

#[test]
fn a_new_connection_ends_all_sessions() {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    bench.secure(&mut session, requester::STREAM);
    bench.lock(&mut session);
    bench.negotiate();
    let state = bench.state();
    assert!(state.sessions.is_empty() && state.streams.is_empty());
    assert_eq!(state.interface, TdiState::Error);
    assert!(bench.heard(Event::SessionEnded(
        SessionId(session.id),
        SessionEnd::Reset
    )));
}

#[test]
fn a_silent_session_ends_after_two_heartbeat_periods() {
    let mut bench = Bench::new(1);
    bench.negotiate();
    bench.chain = bench.read_chain(0x1000);
    let session = bench.establish();
    bench.dsm.tick(Instant::now() + Duration::from_millis(1900));
    assert!(!bench.ended(&session));
    bench.dsm.tick(Instant::now() + Duration::from_millis(2100));
    assert!(bench.ended(&session));
    assert!(bench.heard(Event::SessionEnded(
        SessionId(session.id),
        SessionEnd::Silent
    )));
}

#[test]
fn a_machine_reset_and_a_lost_connection_leave_nothing() {
    for machine in [false, true] {
        let mut bench = Bench::negotiated();
        let mut session = bench.establish();
        bench.secure(&mut session, requester::STREAM);
        let nonce = bench.lock(&mut session);
        bench.tdisp(&mut session, 0x86, &nonce);
        if machine {
            *bench.host.1.lock().unwrap() = true;
            bench.dsm.tick(Instant::now());
            assert!(bench.heard(Event::MachineReset));
        } else {
            bench.dsm.reset();
        }
        let state = bench.state();
        assert!(state.sessions.is_empty() && state.streams.is_empty());
        assert_eq!(state.interface, TdiState::ConfigUnlocked);
        assert!(!bench.port.status().secure);
        assert_eq!(bench.refused(&hex("12810000")), UNEXPECTED_REQUEST);
        bench.negotiate();
        bench.establish();
    }
}

#[test]
fn a_request_over_the_limit_is_too_large() {
    let mut bench = Bench::negotiated();
    let mut request = hex("12810000");
    request.resize(4100, 0);
    assert_eq!(bench.refused(&request), REQUEST_TOO_LARGE);
}

#[test]
fn vendor_requests_of_others_are_not_supported() {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    for request in [
        "12fe0000 0300 02 981e 0400 00000000",
        "12fe0000 0400 02 0100 0100 00",
    ] {
        assert_eq!(
            bench.refused_in(&mut session, &hex(request)),
            UNSUPPORTED_REQUEST
        );
    }
    for request in [
        "12fe0000 0300 02 0100 0500 00000000",
        "12fe0000 0300 ff 0100",
        "12fe0000 0300 02 0100 0000",
        "12fe0000 0300 02 0100 0100 02",
        "12fe0000 0300 02 0100 0300 011081",
    ] {
        assert_eq!(
            bench.refused_in(&mut session, &hex(request)),
            INVALID_REQUEST
        );
    }
}

#[test]
fn no_message_cut_short_or_changed_in_one_byte_breaks_the_device() {
    let mut bench = Bench::negotiated();
    let key_exchange = {
        let mut request = hex("12e4ff0055550000");
        request.resize(136, 0x22);
        request.extend(hex("1400 01000000 00000900 01010300 10001100 12000000"));
        request
    };
    for request in [
        hex(GET_CAPABILITIES),
        hex(NEGOTIATE_ALGORITHMS),
        key_exchange,
        hex("12e00101"),
    ] {
        for cut in 0..request.len() {
            bench.plain(&request[..cut]);
            bench.plain(&hex("10840000"));
            bench.plain(&request[..cut]);
            let mut changed = request.clone();
            changed[cut] ^= 0xff;
            bench.plain(&changed);
        }
    }
    bench.negotiate();
    let mut session = bench.establish();
    assert_eq!(bench.send(&mut session, &HEARTBEAT)[1], 0x68);
}
