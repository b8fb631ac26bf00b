// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TDISP state machine and what breaks a lock.

mod requester;

use requester::{Bench, RID, STREAM, Session, function, hex};
use tsm_devices::{Event, KeySlot, TdiState};

const INVALID_REQUEST: u32 = 0x01;
const INVALID_STATE: u32 = 0x04;
const UNSUPPORTED_REQUEST: u32 = 0x07;
const VERSION_MISMATCH: u32 = 0x41;
const INVALID_INTERFACE: u32 = 0x101;
const INVALID_NONCE: u32 = 0x102;
const INVALID_CONFIGURATION: u32 = 0x104;

const LOCK: u8 = 0x83;
const REPORT: u8 = 0x84;
const STATE: u8 = 0x85;
const START: u8 = 0x86;
const STOP: u8 = 0x87;

/// A device whose stream is secure and whose interface is in `state`; the nonce, if there is one.
fn in_state(state: TdiState) -> (Bench, Session, Vec<u8>) {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    bench.secure(&mut session, STREAM);
    let mut nonce = vec![0; 32];
    if state != TdiState::ConfigUnlocked {
        nonce = bench.lock(&mut session);
    }
    if state == TdiState::Run {
        bench.tdisp(&mut session, START, &nonce);
    }
    if state == TdiState::Error {
        move_bar(&bench, 0x1100_0000);
        bench.dsm.tick(std::time::Instant::now());
        move_bar(&bench, function().bars[0].address);
    }
    assert_eq!(bench.interface(), state);
    (bench, session, nonce)
}

fn move_bar(bench: &Bench, address: u64) {
    bench.host.0.lock().unwrap().as_mut().unwrap().bars[0].address = address;
}

/// A request, its body, and for each state where it leads to, or `None` where it is not legal.
type Row<'a> = (u8, &'a [u8], [Option<TdiState>; 4]);

#[test]
fn every_request_in_every_state_does_what_the_table_says() {
    use TdiState::{ConfigLocked, ConfigUnlocked, Error, Run};
    let states = [ConfigUnlocked, ConfigLocked, Run, Error];
    let lock = Bench::lock_body(5, STREAM, 0);
    let table: [Row<'_>; 7] = [
        (
            0x81,
            &[],
            [
                Some(ConfigUnlocked),
                Some(ConfigLocked),
                Some(Run),
                Some(Error),
            ],
        ),
        (
            0x82,
            &[0; 4],
            [
                Some(ConfigUnlocked),
                Some(ConfigLocked),
                Some(Run),
                Some(Error),
            ],
        ),
        (LOCK, &lock, [Some(ConfigLocked), None, None, None]),
        (
            REPORT,
            &[0, 0, 0, 4],
            [None, Some(ConfigLocked), Some(Run), None],
        ),
        (
            STATE,
            &[],
            [
                Some(ConfigUnlocked),
                Some(ConfigLocked),
                Some(Run),
                Some(Error),
            ],
        ),
        (START, &[], [None, Some(Run), None, None]),
        (STOP, &[], [Some(ConfigUnlocked); 4]),
    ];
    for (request, body, outcomes) in table {
        for (state, outcome) in states.into_iter().zip(outcomes) {
            let (mut bench, mut session, nonce) = in_state(state);
            let body = if request == START { &nonce[..] } else { body };
            match outcome {
                Some(next) => {
                    bench.tdisp(&mut session, request, body);
                    assert_eq!(bench.interface(), next, "{request:#x} in {state}");
                }
                None => {
                    let error = bench.tdisp_refused(&mut session, request, body);
                    assert_eq!(error, INVALID_STATE, "{request:#x} in {state}");
                    assert_eq!(bench.interface(), state);
                }
            }
        }
    }
}

#[test]
fn the_state_is_reported_as_it_is() {
    for (number, state) in [
        TdiState::ConfigUnlocked,
        TdiState::ConfigLocked,
        TdiState::Run,
        TdiState::Error,
    ]
    .into_iter()
    .enumerate()
    {
        let (mut bench, mut session, _) = in_state(state);
        assert_eq!(bench.tdisp(&mut session, STATE, &[]), [number as u8]);
    }
}

#[test]
fn capabilities_name_the_requests_and_flags() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    let mut expected = hex("00000000 fe");
    expected.extend([0; 15]);
    expected.extend(hex("0700 000000 40 01 01"));
    assert_eq!(bench.tdisp(&mut session, 0x82, &[0; 4]), expected);
}

#[test]
fn a_wrong_or_stale_nonce_does_not_start() {
    let (mut bench, mut session, stale) = in_state(TdiState::ConfigLocked);
    bench.tdisp(&mut session, STOP, &[]);
    let nonce = bench.lock(&mut session);
    assert_ne!(nonce, stale);
    let mut wrong = nonce.clone();
    wrong[31] ^= 1;
    for other in [&stale, &wrong, &vec![0; 32]] {
        assert_eq!(
            bench.tdisp_refused(&mut session, START, other),
            INVALID_NONCE
        );
        assert_eq!(bench.interface(), TdiState::ConfigLocked);
    }
    assert_eq!(
        bench.tdisp_refused(&mut session, START, &nonce[..31]),
        INVALID_REQUEST
    );
    bench.tdisp(&mut session, START, &nonce);
    bench.tdisp(&mut session, STOP, &[]);
    bench.lock(&mut session);
    assert_eq!(
        bench.tdisp_refused(&mut session, START, &nonce),
        INVALID_NONCE
    );
}

#[test]
fn a_lock_needs_its_stream_secure_and_all_its_flags_known() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    for body in [
        Bench::lock_body(5, STREAM + 1, 0),
        Bench::lock_body(0x08, STREAM, 0),
        Bench::lock_body(0x10, STREAM, 0),
        Bench::lock_body(0x8000, STREAM, 0),
        Bench::lock_body(5, STREAM, 0x1800),
    ] {
        assert_eq!(
            bench.tdisp_refused(&mut session, LOCK, &body),
            INVALID_REQUEST
        );
        assert_eq!(bench.interface(), TdiState::ConfigUnlocked);
    }
    for slot in KeySlot::of_set(0) {
        bench.stop_key(&mut session, STREAM, slot);
        let body = Bench::lock_body(5, STREAM, 0);
        assert_eq!(
            bench.tdisp_refused(&mut session, LOCK, &body),
            INVALID_REQUEST
        );
        bench.program(&mut session, STREAM, slot);
    }
    bench.lock(&mut session);
}

#[test]
fn a_second_stream_is_not_the_default_one() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    bench.secure(&mut session, STREAM + 1);
    let other = Bench::lock_body(5, STREAM + 1, 0);
    assert_eq!(
        bench.tdisp_refused(&mut session, LOCK, &other),
        INVALID_REQUEST
    );
    bench.lock(&mut session);
}

#[test]
fn a_lock_needs_a_bar_that_decodes() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    let body = Bench::lock_body(5, STREAM, 0);
    bench.host.0.lock().unwrap().as_mut().unwrap().bars.clear();
    assert_eq!(
        bench.tdisp_refused(&mut session, LOCK, &body),
        INVALID_CONFIGURATION
    );
    *bench.host.0.lock().unwrap() = None;
    assert_eq!(
        bench.tdisp_refused(&mut session, LOCK, &body),
        INVALID_CONFIGURATION
    );
}

/// As the host leaves a BAR that it sizes, or as a function reads that was pulled.
#[test]
fn a_lock_needs_a_bar_that_ends_inside_memory() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    let body = Bench::lock_body(5, STREAM, 0);
    move_bar(&bench, !0xf);
    assert_eq!(
        bench.tdisp_refused(&mut session, LOCK, &body),
        INVALID_CONFIGURATION
    );
    move_bar(&bench, function().bars[0].address);
    bench.lock(&mut session);
}

#[test]
fn the_session_that_programmed_the_keys_alone_locks_starts_and_stops() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    let mut other = bench.establish();
    let body = Bench::lock_body(5, STREAM, 0);
    assert_eq!(
        bench.tdisp_refused(&mut other, LOCK, &body),
        INVALID_REQUEST
    );
    let nonce = bench.lock(&mut session);
    assert_eq!(
        bench.tdisp_refused(&mut other, START, &nonce),
        INVALID_REQUEST
    );
    assert_eq!(bench.tdisp_refused(&mut other, STOP, &[]), INVALID_REQUEST);
    bench.tdisp(&mut session, START, &nonce);
    assert_eq!(bench.tdisp_refused(&mut other, STOP, &[]), INVALID_REQUEST);
    // The end of a session that locked nothing breaks nothing.
    bench.send(&mut other, &hex("12ec0000"));
    assert_eq!(bench.interface(), TdiState::Run);
}

#[test]
fn the_end_of_the_session_breaks_the_lock_and_another_session_recovers() {
    for state in [TdiState::ConfigLocked, TdiState::Run] {
        let (mut bench, mut session, _) = in_state(state);
        bench.send(&mut session, &hex("12ec0000"));
        assert_eq!(bench.interface(), TdiState::Error);
        assert!(bench.state().streams.is_empty());
        assert!(!bench.port.status().secure);

        let mut next = bench.establish();
        bench.secure(&mut next, STREAM);
        let body = Bench::lock_body(5, STREAM, 0);
        assert_eq!(bench.tdisp_refused(&mut next, LOCK, &body), INVALID_STATE);
        bench.tdisp(&mut next, STOP, &[]);
        bench.lock(&mut next);
    }
}

#[test]
fn a_change_by_the_host_breaks_the_lock() {
    let changes: [fn(&mut tsm_devices::FunctionView); 4] = [
        |view| view.bars[0].address += 0x4000,
        |view| view.bars[0].size /= 2,
        |view| view.bars.clear(),
        |view| view.rid = Some(0x0200),
    ];
    for state in [TdiState::ConfigLocked, TdiState::Run] {
        for change in changes {
            let (mut bench, _, _) = in_state(state);
            change(bench.host.0.lock().unwrap().as_mut().unwrap());
            bench.dsm.tick(std::time::Instant::now());
            assert_eq!(bench.interface(), TdiState::Error);
        }
    }
}

#[test]
fn silence_of_the_machine_breaks_nothing() {
    let (mut bench, mut session, nonce) = in_state(TdiState::ConfigLocked);
    *bench.host.0.lock().unwrap() = None;
    bench.tdisp(&mut session, START, &nonce);
    assert_eq!(bench.interface(), TdiState::Run);
}

#[test]
fn a_key_that_stops_at_either_end_breaks_the_lock() {
    for (state, at_device) in [(TdiState::ConfigLocked, true), (TdiState::Run, false)] {
        let (mut bench, mut session, _) = in_state(state);
        let slot = KeySlot {
            key_set: 0,
            sub_stream: 2,
            transmit: true,
        };
        if at_device {
            bench.stop_key(&mut session, STREAM, slot);
        } else {
            bench.port.stop(STREAM, slot.opposite());
            bench.dsm.tick(std::time::Instant::now());
        }
        assert_eq!(bench.interface(), TdiState::Error);
        assert!(bench.heard(Event::StreamInsecure(STREAM)));
    }
}

#[test]
fn a_refresh_to_the_other_key_set_keeps_the_lock() {
    let (mut bench, mut session, nonce) = in_state(TdiState::ConfigLocked);
    for (old, new) in [(0, 1), (1, 0)] {
        for slot in KeySlot::of_set(new) {
            bench.program(&mut session, STREAM, slot);
        }
        for slot in KeySlot::of_set(old) {
            bench.stop_key(&mut session, STREAM, slot);
        }
        assert_eq!(bench.interface(), TdiState::ConfigLocked);
    }
    bench.tdisp(&mut session, START, &nonce);
}

#[test]
fn a_refresh_with_a_key_that_differs_breaks_the_lock() {
    let (mut bench, mut session, _) = in_state(TdiState::Run);
    let slot = KeySlot {
        key_set: 1,
        sub_stream: 0,
        transmit: false,
    };
    bench.program(&mut session, STREAM, slot);
    bench.port.set(STREAM, slot.opposite(), [0xee; 32]);
    bench.dsm.tick(std::time::Instant::now());
    assert_eq!(bench.interface(), TdiState::Error);
    assert_ne!(bench.port.status().failed, 0);
}

#[test]
fn the_report_comes_in_portions_and_does_not_change() {
    let (mut bench, mut session, nonce) = in_state(TdiState::ConfigUnlocked);
    drop(nonce);
    let offset = 0xd000_0000_u64;
    bench.tdisp(&mut session, LOCK, &Bench::lock_body(5, STREAM, offset));
    let whole = bench.tdisp(&mut session, REPORT, &[0, 0, 0xff, 0xff])[4..].to_vec();
    let first = u64::from_le_bytes(whole[16..24].try_into().unwrap());
    assert_eq!(first << 12, function().bars[0].address + offset);
    for length in [1, 16, 50] {
        let mut read: Vec<u8> = Vec::new();
        while read.len() < whole.len() {
            let [low, high] = (read.len() as u16).to_le_bytes();
            let answer = bench.tdisp(&mut session, REPORT, &[low, high, length, 0]);
            let portion = usize::from(u16::from_le_bytes([answer[0], answer[1]]));
            let remainder = usize::from(u16::from_le_bytes([answer[2], answer[3]]));
            assert_eq!(answer.len(), 4 + portion);
            assert_eq!(read.len() + portion + remainder, whole.len());
            read.extend(&answer[4..]);
        }
        assert_eq!(read, whole);
    }
    let end = whole.len() as u8;
    for body in [[end, 0, 1, 0], [0xff, 0xff, 1, 0], [0, 0, 0, 0]] {
        assert_eq!(
            bench.tdisp_refused(&mut session, REPORT, &body),
            INVALID_REQUEST
        );
    }
}

#[test]
fn malformed_requests_get_the_error_that_fits() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    for (request, body) in [
        (STATE, 1),
        (0x81, 4),
        (0x82, 3),
        (LOCK, 19),
        (REPORT, 5),
        (STOP, 32),
    ] {
        let body = vec![0; body];
        assert_eq!(
            bench.tdisp_refused(&mut session, request, &body),
            INVALID_REQUEST
        );
    }
    for request in [0x80, 0x88, 0x8b, 0x01, 0xff] {
        assert_eq!(
            bench.tdisp_refused(&mut session, request, &[]),
            UNSUPPORTED_REQUEST
        );
    }
    let (kind, body) = bench.tdisp_for(&mut session, RID + 1, STATE, &[]);
    assert_eq!(
        (kind, &body[..4]),
        (0x7f, &INVALID_INTERFACE.to_le_bytes()[..])
    );

    let mut other_version = hex("01 11 85 0000 00010000 0000000000000000");
    let answer = bench.vendor(&mut session, &other_version);
    assert_eq!(answer[1..3], [0x10, 0x7f]);
    assert_eq!(answer[17..21], VERSION_MISMATCH.to_le_bytes());
    other_version[1] = 0x10;
    assert_eq!(bench.vendor(&mut session, &other_version)[2], 0x05);
    // Another segment is another function.
    other_version[7..9].copy_from_slice(&[1, 1]);
    assert_eq!(bench.vendor(&mut session, &other_version)[2], 0x7f);
}

#[test]
fn where_the_bus_number_is_not_known_the_first_lock_tells_it() {
    let (mut bench, mut session, _) = in_state(TdiState::ConfigUnlocked);
    bench.host.0.lock().unwrap().as_mut().unwrap().rid = None;
    let lock = Bench::lock_body(5, STREAM, 0);
    assert_eq!(bench.tdisp_for(&mut session, 0xbeef, STATE, &[]).0, 0x05);
    assert_eq!(bench.tdisp_for(&mut session, 0xbeef, LOCK, &lock).0, 0x03);
    assert_eq!(bench.tdisp_for(&mut session, 0xbeee, STATE, &[]).0, 0x7f);
    assert_eq!(bench.tdisp_for(&mut session, 0xbeef, STOP, &[]).0, 0x07);
    assert_eq!(bench.tdisp_for(&mut session, 0xbeee, LOCK, &lock).0, 0x7f);
}
