// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Faults on order: that each does to the message or the device what its word says.

mod requester;

use std::time::{Duration, Instant};

use requester::{Bench, RID, STREAM, Session, hex};
use tsm_devices::{Event, FaultPlan, SessionEnd, SessionId, TdiState};

/// A device with a session, a secure stream and this plan.
fn bench(plan: &str) -> (Bench, Session) {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    bench.secure(&mut session, STREAM);
    load(&mut bench, plan);
    (bench, session)
}

fn load(bench: &mut Bench, rows: &str) {
    let plan: FaultPlan = format!("[[fault]]\n{rows}").parse().unwrap();
    bench.dsm.load_faults(plan);
}

fn fired(bench: &Bench) -> Vec<u32> {
    let faults = bench.state().faults;
    faults.iter().map(|fault| fault.fired).collect()
}

/// Carries a record and returns what leaves, whatever it is.
fn carry(bench: &mut Bench, session: &mut Session, message: &[u8]) -> Option<Vec<u8>> {
    let record = session.seal(message);
    let mut object = vec![1, 0, 2, 0];
    object.extend((2 + record.len().div_ceil(4) as u32).to_le_bytes());
    object.extend(record);
    object.resize(object.len().next_multiple_of(4), 0);
    bench.dsm.handle_doe(&object)
}

const HEARTBEAT: [u8; 4] = [0x12, 0xe8, 0, 0];

#[test]
fn a_plan_that_waits_for_something_else_changes_nothing() {
    let (mut bench, mut session) = bench("at = 'CHALLENGE_AUTH'\nevery = 1\nwhat = 'drop'");
    let nonce = bench.lock(&mut session);
    bench.tdisp(&mut session, 0x86, &nonce);
    assert_eq!(bench.interface(), TdiState::Run);
    let count = bench.state().faults[0];
    assert_eq!((count.what, count.seen, count.fired), ("drop", 0, 0));
}

#[test]
fn a_lost_request_is_not_read_and_a_lost_answer_was_given() {
    for (at, state) in [
        ("LOCK_INTERFACE_REQUEST", TdiState::ConfigUnlocked),
        ("LOCK_INTERFACE_RESPONSE", TdiState::ConfigLocked),
        ("answer to LOCK_INTERFACE_REQUEST", TdiState::ConfigLocked),
    ] {
        let (mut bench, mut session) = bench(&format!("at = '{at}'\nwhat = 'drop'"));
        let mut message = hex("12fe0000 0300 02 0100 2500 01 10830000 00010000 00000000 00000000");
        message.extend(Bench::lock_body(5, STREAM, 0));
        assert_eq!(carry(&mut bench, &mut session, &message), None);
        assert_eq!(bench.interface(), state, "{at}");
        assert_eq!(fired(&bench), [1]);
        assert!(bench.heard(Event::Fault {
            row: 1,
            what: "drop"
        }));
    }
}

#[test]
fn occurrences_are_counted() {
    for (when, expected) in [
        ("nth = 2", [0, 1, 0, 0, 0, 0]),
        ("every = 3", [0, 0, 1, 0, 0, 1]),
        ("after = 4", [0, 0, 0, 0, 1, 1]),
    ] {
        let (mut bench, mut session) = bench(&format!("at = 'HEARTBEAT'\n{when}\nwhat = 'busy'"));
        for busy in expected {
            let answer = bench.send(&mut session, &HEARTBEAT);
            let expected = if busy == 1 {
                [0x12, 0x7f, 3, 0]
            } else {
                [0x12, 0x68, 0, 0]
            };
            assert_eq!(answer, expected, "{when}");
        }
    }
}

#[test]
fn a_bit_of_the_plain_message_is_inverted_before_it_is_sealed() {
    let (mut bench, mut session) =
        bench("at = 'DEVICE_INTERFACE_STATE'\nwhat = 'flip'\noffset = 16\nbit = 1");
    assert_eq!(bench.tdisp(&mut session, 0x85, &[]), [2]);
    assert_eq!(bench.tdisp(&mut session, 0x85, &[]), [0]);
}

#[test]
fn a_bit_of_the_record_is_inverted_after_it_is_sealed() {
    let (mut bench, mut session) =
        bench("at = 'HEARTBEAT_ACK'\nwhat = 'flip'\nview = 'wire'\noffset = 20\nbit = 0");
    let changed = carry(&mut bench, &mut session, &HEARTBEAT).unwrap();
    assert_eq!(fired(&bench), [1]);
    // The record opens once the bit is as it was.
    let mut object = changed.clone();
    object[20] ^= 1;
    assert_eq!(session.open(&object[8..]), [0x12, 0x68, 0, 0]);
}

#[test]
fn a_damaged_request_ends_nothing_but_is_not_believed() {
    let (mut bench, mut session) =
        bench("at = 'SECURED_REQUEST'\nwhat = 'flip'\nview = 'wire'\noffset = 20\nbit = 0");
    carry(&mut bench, &mut session, &HEARTBEAT).unwrap();
    assert!(bench.heard(Event::SessionEnded(
        SessionId(session.id),
        SessionEnd::Forged
    )));
}

#[test]
fn lies_about_tdisp_are_sealed_as_the_truth_would_be() {
    let cases = [
        ("what = 'wrong-state'\nstate = 3", vec![3]),
        ("what = 'set'\noffset = 16\nbytes = '2a'", vec![0x2a]),
        ("what = 'extend'\nby = 2", vec![0, 0, 0]),
    ];
    for (what, expected) in cases {
        let (mut bench, mut session) = bench(&format!("at = 'DEVICE_INTERFACE_STATE'\n{what}"));
        let mut payload = vec![1, 0x10, 0x85, 0, 0];
        payload.extend(RID.to_le_bytes());
        payload.extend([0; 10]);
        let mut message = hex("12fe0000 0300 02 0100");
        message.extend((payload.len() as u16).to_le_bytes());
        message.extend(payload);
        let answer = bench.send(&mut session, &message);
        assert_eq!(answer[28..], expected);
    }
    let (mut bench, mut session) = bench("at = 'START_INTERFACE_REQUEST'\nwhat = 'wrong-nonce'");
    let nonce = bench.lock(&mut session);
    assert_eq!(bench.tdisp_refused(&mut session, 0x86, &nonce), 0x102);
    assert_eq!(bench.interface(), TdiState::ConfigLocked);
}

#[test]
fn a_request_that_is_refused_on_order_is_not_acted_on() {
    let (mut bench, mut session) =
        bench("at = 'LOCK_INTERFACE_REQUEST'\nwhat = 'tdisp-error'\ncode = 0x101\ndata = 7");
    let body = Bench::lock_body(5, STREAM, 0);
    assert_eq!(bench.tdisp_refused(&mut session, 0x83, &body), 0x101);
    assert_eq!(bench.interface(), TdiState::ConfigUnlocked);

    load(
        &mut bench,
        "at = 'KEY_PROG'\nwhat = 'key-status'\nstatus = 4",
    );
    let mut prog = vec![0, 2, 0, 0, STREAM, 0, 1, 0];
    prog.extend([0; 40]);
    assert_eq!(
        bench.vendor(&mut session, &prog),
        [0, 3, 0, 0, STREAM, 4, 1, 0]
    );
    assert_eq!(bench.state().streams[0].programmed, 6);
}

#[test]
fn an_answer_that_was_not_ready_comes_when_it_is_asked_for() {
    let (mut bench, mut session) = bench("at = 'HEARTBEAT'\nwhat = 'not-ready'\nexponent = 9");
    let refusal = bench.send(&mut session, &HEARTBEAT);
    assert_eq!(refusal, [0x12, 0x7f, 0x42, 0, 9, 0xe8, 1, 2]);
    let wrong = bench.send(&mut session, &[0x12, 0xff, 0xe8, 7]);
    assert_eq!(wrong[1], 0x7f);
    let ready = bench.send(&mut session, &[0x12, 0xff, 0xe8, 1]);
    assert_eq!(ready, [0x12, 0x68, 0, 0]);
}

#[test]
fn answers_come_again_late_or_swapped() {
    let state = |bench: &mut Bench, session: &mut Session| bench.tdisp(session, 0x85, &[]);
    let (mut bench, mut session) =
        bench("at = 'HEARTBEAT_ACK'\nwhat = 'swap'\nwith = 'DEVICE_INTERFACE_STATE'");
    state(&mut bench, &mut session);
    let swapped = bench.send(&mut session, &HEARTBEAT);
    assert_eq!((swapped[1], swapped[13]), (0x7e, 0x05));

    load(&mut bench, "at = 'HEARTBEAT_ACK'\nnth = 2\nwhat = 'replay'");
    bench.send(&mut session, &HEARTBEAT);
    state(&mut bench, &mut session);
    assert_eq!(bench.send(&mut session, &HEARTBEAT)[1], 0x7e);

    load(&mut bench, "at = 'HEARTBEAT_ACK'\nnth = 2\nwhat = 'stale'");
    let first = carry(&mut bench, &mut session, &HEARTBEAT).unwrap();
    let second = carry(&mut bench, &mut session, &HEARTBEAT);
    assert_eq!(second.as_ref(), Some(&first));
    session.open(&first[8..]);
    let third = carry(&mut bench, &mut session, &HEARTBEAT).unwrap();
    session.open(&third[8..]);
    assert_eq!(fired(&bench), [1]);
}

#[test]
fn a_message_that_nobody_asked_for_comes_first() {
    let (mut bench, _) = bench("event = 'tick'\nwhat = 'unsolicited'\nbytes = '127f0500'");
    bench.dsm.tick(Instant::now());
    assert_eq!(bench.plain(&hex("12810000")), hex("127f0500"));
    assert_eq!(bench.plain(&hex("12810000"))[1], 0x01);
}

#[test]
fn an_answer_can_be_late() {
    let (mut bench, mut session) = bench("at = 'HEARTBEAT'\nwhat = 'delay'\nms = 250");
    bench.send(&mut session, &HEARTBEAT);
    assert_eq!(bench.dsm.take_delay(), Duration::from_millis(250));
    bench.send(&mut session, &HEARTBEAT);
    assert_eq!(bench.dsm.take_delay(), Duration::ZERO);
}

#[test]
fn a_session_that_is_lost_takes_streams_and_locks_with_it() {
    let (mut bench, mut session) = bench("at = 'START_INTERFACE_REQUEST'\nwhat = 'lose-session'");
    let nonce = bench.lock(&mut session);
    let mut message = hex("12fe0000 0300 02 0100 3100 01 10860000 00010000 00000000 00000000");
    message.extend(nonce);
    let answer = carry(&mut bench, &mut session, &message).unwrap();
    assert_eq!((answer[2], &answer[8..12]), (1, &[0x12, 0x7f, 2, 0][..]));
    assert!(bench.ended(&session));
    assert!(bench.state().streams.is_empty());
    assert_eq!(bench.interface(), TdiState::Error);
}

#[test]
fn a_session_that_is_lost_after_the_answer_gives_the_answer() {
    let (mut bench, mut session) = bench("at = 'LOCK_INTERFACE_RESPONSE'\nwhat = 'lose-session'");
    bench.lock(&mut session);
    assert!(bench.ended(&session));
    assert_eq!(bench.interface(), TdiState::Error);
}

#[test]
fn physical_faults_do_to_the_interface_what_the_standard_says() {
    for (what, interface, sessions, streams) in [
        ("flr", TdiState::Error, 1, 1),
        ("link-down", TdiState::Error, 1, 0),
        ("reset", TdiState::ConfigUnlocked, 0, 0),
        ("remove", TdiState::ConfigUnlocked, 0, 0),
        ("hang", TdiState::ConfigLocked, 1, 1),
    ] {
        let (mut bench, mut session) = bench(&format!("event = 'tick'\nwhat = '{what}'"));
        bench.lock(&mut session);
        bench.dsm.tick(Instant::now());
        assert_eq!(bench.interface(), interface, "{what}");
        assert_eq!(bench.state().sessions.len(), sessions, "{what}");
        assert_eq!(bench.state().streams.len(), streams, "{what}");
        let silent = matches!(what, "remove" | "hang");
        let object = hex("01000100 03000000 10840000");
        assert_eq!(bench.dsm.handle_doe(&object).is_none(), silent, "{what}");
        bench.dsm.reset();
        assert!(bench.dsm.handle_doe(&object).is_some());
    }
}

#[test]
fn faults_wait_for_sessions_and_streams() {
    let mut bench = Bench::negotiated();
    load(
        &mut bench,
        "event = 'session'\nnth = 2\nwhat = 'lose-session'\n[[fault]]\nevent = 'stream'\nwhat = 'link-down'",
    );
    let mut session = bench.establish();
    assert_eq!(bench.state().sessions.len(), 1);
    for slot in tsm_devices::KeySlot::of_set(0) {
        bench.program(&mut session, STREAM, slot);
    }
    assert!(bench.state().streams.is_empty());
    bench.establish();
    assert_eq!(bench.state().sessions.len(), 0);
    assert_eq!(fired(&bench), [1, 1]);
}

#[test]
fn only_the_interface_that_is_named_is_hit() {
    let (mut bench, mut session) = bench(&format!(
        "at = 'GET_DEVICE_INTERFACE_STATE'\ninterface = {}\nwhat = 'tdisp-error'\ncode = 3",
        RID + 1
    ));
    assert_eq!(bench.tdisp(&mut session, 0x85, &[]), [0]);
    let (_, error) = bench.tdisp_for(&mut session, RID + 1, 0x85, &[]);
    assert_eq!(error[..4], [3, 0, 0, 0]);
}

#[test]
fn the_example_is_a_plan() {
    let text = include_str!("../examples/faults.toml");
    assert_eq!(text.parse::<FaultPlan>().unwrap().faults.len(), 1);
    // And so is all that it leaves out.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(row) if row.starts_with("[[") || row.contains(" = ") => format!("{row}\n"),
            Some(_) => String::new(),
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(all.parse::<FaultPlan>().unwrap().faults.len(), 4);
}
