// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! TDISP with a device that misbehaves on order: what each answer costs whom.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_devices::{At, Fault, FaultPlan, Message, Occurrence, TdiState, View, What};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR};

const READY: u64 = 3;
const UNLOCKED: u64 = 1;
const LOCKED: u64 = 2;
const STARTED: u64 = 3;
const ERROR: u64 = 4;
/// Guest status.
const INPUT: u64 = 1;
/// TDISP error codes.
const BUSY: u32 = 3;
const INVALID_INTERFACE_STATE: u32 = 4;

fn load(rig: &mut Rig, faults: Vec<Fault>) {
    rig.dsm.load_faults(FaultPlan { faults });
}

fn behave(rig: &mut Rig) {
    load(rig, Vec::new());
}

fn fired(rig: &Rig) -> u32 {
    rig.dsm.state().faults.iter().map(|fault| fault.fired).sum()
}

/// Asserts that the interface alone was cut off, and gives it back to the host.
#[track_caller]
fn recover(rig: &mut Rig, what: &str) {
    assert_eq!(rig.state(), ERROR, "{what}");
    assert_eq!(rig.dma(DATA_IPA), None, "{what}");
    assert_eq!(rig.reach(DEVICE_IPA), None, "{what}");
    assert_eq!(rig.nonces(), [0; 3], "{what}");
    assert_eq!(
        rig.device_state(rig.device),
        READY,
        "the session holds: {what}"
    );
    behave(rig);
    rig.unlock();
    assert_eq!(rig.tdi(), TdiState::ConfigUnlocked, "{what}");
}

/// Brings the interface from UNLOCKED to `state`.
fn bring(rig: &mut Rig, state: u64) {
    if state >= LOCKED {
        rig.lock();
    }
    if state == STARTED {
        rig.start();
    }
    assert_eq!(rig.state(), state);
}

/// A request of the host, the state in which it is made, and the state that each of its polls must
/// find.
type Polling = (
    &'static str,
    fn(&Rig) -> RmiStatus,
    u64,
    &'static [&'static [u8]],
);

const POLLING: [Polling; 6] = [
    ("lock", Rig::ask_lock, UNLOCKED, &[&[0], &[1]]),
    ("report", Rig::ask_report, LOCKED, &[&[1]]),
    ("start", Rig::ask_start, LOCKED, &[&[1], &[2]]),
    ("report", Rig::ask_report, STARTED, &[&[2]]),
    // A device that has fallen to ERROR is unlocked like any other.
    ("unlock", Rig::ask_unlock, LOCKED, &[&[1, 3], &[0]]),
    ("unlock", Rig::ask_unlock, STARTED, &[&[2, 3], &[0]]),
];

/// D04.
#[test]
fn a_device_that_reports_another_state_at_any_poll_is_cut_off() {
    let mut rig = Rig::assigned();
    for (name, ask, state, polls) in POLLING {
        for (poll, good) in polls.iter().enumerate() {
            for reported in (0..=4).filter(|reported| !good.contains(reported)) {
                let what = format!("{name} in {state}, poll {poll}, reported {reported}");
                bring(&mut rig, state);
                let mut fault = Fault::new(
                    At::Message(Message::DEVICE_INTERFACE_STATE),
                    What::WrongState(reported),
                );
                fault.occurrence = Occurrence::Nth(u32::try_from(poll).unwrap() + 1);
                load(&mut rig, vec![fault]);
                assert_eq!(ask(&rig), RmiStatus::SUCCESS, "{what}");
                assert_eq!(rig.pump_interface(), Pumped::Done, "{what}");
                assert_eq!(fired(&rig), 1, "{what}");
                recover(&mut rig, &what);
            }
        }
    }
    rig.take_back();
}

/// A TDISP request, what has it sent, and in which state.
type Asking = (Message, fn(&Rig) -> RmiStatus, u64);

const ASKING: [Asking; 7] = [
    (Message::GET_TDISP_VERSION, Rig::ask_lock, UNLOCKED),
    (Message::GET_TDISP_CAPABILITIES, Rig::ask_lock, UNLOCKED),
    (Message::LOCK_INTERFACE_REQUEST, Rig::ask_lock, UNLOCKED),
    (
        Message::GET_DEVICE_INTERFACE_REPORT,
        Rig::ask_report,
        LOCKED,
    ),
    (Message::GET_DEVICE_INTERFACE_STATE, Rig::ask_start, LOCKED),
    (Message::START_INTERFACE_REQUEST, Rig::ask_start, LOCKED),
    (Message::STOP_INTERFACE_REQUEST, Rig::ask_unlock, STARTED),
];

#[test]
fn a_busy_device_is_waited_for_and_not_forever() {
    let mut rig = Rig::assigned();
    for (request, ask, state) in ASKING {
        let busy = |occurrence| {
            let what = What::TdispError {
                code: BUSY,
                data: 0,
            };
            let mut fault = Fault::new(At::Message(request), what);
            fault.occurrence = occurrence;
            fault
        };
        bring(&mut rig, state);
        load(
            &mut rig,
            (1..=8).map(|nth| busy(Occurrence::Nth(nth))).collect(),
        );
        assert_eq!(ask(&rig), RmiStatus::SUCCESS);
        rig.delays.clear();
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(fired(&rig), 8, "{request}");
        assert_ne!(rig.state(), ERROR, "{request}");
        let waits = [1, 2, 4, 8, 16, 32, 64, 128].map(|factor| factor * 1000);
        let waited = rig.delays.iter().filter(|delay| **delay != 0);
        assert!(waited.eq(&waits), "{request}: {:?}", rig.delays);

        if rig.state() != UNLOCKED {
            rig.unlock();
        }
        bring(&mut rig, state);
        load(&mut rig, vec![busy(Occurrence::After(0))]);
        assert_eq!(ask(&rig), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(fired(&rig), 9, "{request}");
        if state == UNLOCKED {
            assert_eq!(rig.state(), UNLOCKED, "{request}");
            behave(&mut rig);
        } else {
            recover(&mut rig, &request.to_string());
        }
    }
    rig.take_back();
}

#[test]
fn each_refusal_of_the_device_has_its_outcome() {
    let mut rig = Rig::assigned();
    let codes = [
        1,
        INVALID_INTERFACE_STATE,
        5,
        7,
        0x41,
        0x101,
        0x102,
        0x103,
        0x104,
        0xff,
    ];
    for (request, ask, state) in ASKING {
        for code in codes {
            let what = format!("{code:#x} to {request}");
            bring(&mut rig, state);
            let error = What::TdispError { code, data: 0 };
            load(&mut rig, vec![Fault::new(At::Message(request), error)]);
            assert_eq!(ask(&rig), RmiStatus::SUCCESS);
            assert_eq!(rig.pump_interface(), Pumped::Done);
            assert_eq!(fired(&rig), 1, "{what}");
            let contradicts = code == INVALID_INTERFACE_STATE;
            let declines = match request {
                Message::LOCK_INTERFACE_REQUEST => !contradicts,
                _ => state == UNLOCKED,
            };
            if declines {
                assert_eq!(rig.state(), UNLOCKED, "nothing came of it: {what}");
                assert_eq!(rig.tdi(), TdiState::ConfigUnlocked);
                behave(&mut rig);
            } else {
                // A refused STOP is judged by the poll after it, which says RUN here.
                recover(&mut rig, &what);
            }
        }
    }
    rig.take_back();
}

#[test]
fn a_device_that_refuses_to_stop_what_is_stopped_is_unlocked() {
    let mut rig = Rig::assigned();
    bring(&mut rig, STARTED);
    // The device stops, and its answer is as if it had been stopped already.
    let error = What::TdispError {
        code: INVALID_INTERFACE_STATE,
        data: 0,
    };
    let at = At::Message(Message::STOP_INTERFACE_RESPONSE);
    load(&mut rig, vec![Fault::new(at, error)]);
    rig.unlock();
    assert_eq!(fired(&rig), 1);
    rig.take_back();
}

fn set(at: Message, offset: i32, bytes: &[u8]) -> Fault {
    let (view, bytes) = (View::Plain, bytes.to_vec());
    Fault::new(
        At::Message(at),
        What::Set {
            view,
            offset,
            bytes,
        },
    )
}

#[test]
fn a_device_that_cannot_do_its_part_is_not_locked() {
    let mut rig = Rig::assigned();
    let rows = [
        ("another version", Message::TDISP_VERSION, 17, 0x11_u8),
        ("no version", Message::TDISP_VERSION, 17, 0),
        ("no report", Message::TDISP_CAPABILITIES, 20, 0xee),
        ("no stop", Message::TDISP_CAPABILITIES, 20, 0x7e),
        ("no request at all", Message::TDISP_CAPABILITIES, 20, 0),
    ];
    for (what, at, offset, value) in rows {
        load(&mut rig, vec![set(at, offset, &[value])]);
        assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(fired(&rig), 1, "{what}");
        assert_eq!(
            (rig.state(), rig.tdi()),
            (UNLOCKED, TdiState::ConfigUnlocked),
            "{what}"
        );
    }
    behave(&mut rig);
    rig.lock();
    rig.take_back();
}

/// D03.
#[test]
fn a_wrong_nonce_starts_nothing_and_each_lock_has_its_own() {
    let mut rig = Rig::assigned();
    bring(&mut rig, LOCKED);
    let at = At::Message(Message::START_INTERFACE_REQUEST);
    load(&mut rig, vec![Fault::new(at, What::WrongNonce)]);
    assert_eq!(rig.ask_start(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.tdi(), TdiState::ConfigLocked, "the device refuses it");
    recover(&mut rig, "a wrong nonce");
    // The device's nonce, changed on its way, is not the device's.
    let at = At::Message(Message::LOCK_INTERFACE_RESPONSE);
    load(&mut rig, vec![Fault::new(at, What::WrongNonce)]);
    rig.lock();
    assert_eq!(rig.ask_start(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    recover(&mut rig, "a nonce that was changed");
    for state in [LOCKED, STARTED] {
        bring(&mut rig, state);
        rig.unlock();
        assert_eq!(rig.ask_start(), RmiStatus::DEVICE, "there is no lock");
    }
    bring(&mut rig, STARTED);
    rig.take_back();
}

/// What of a report is changed: bytes at an offset into the message. The portion begins at 20, the
/// first range at 36, the second at 52, the length of the device's own part at 84.
const FALSE_REPORTS: [(&str, i32, &[u8]); 18] = [
    ("shorter than it says", 16, &[105, 0]),
    ("longer than it says", 16, &[103, 0]),
    ("empty", 16, &[0, 0]),
    ("more to come", 18, &[1, 0]),
    ("much more to come", 18, &[0xff, 0xff]),
    ("firmware may change", 20, &[2]),
    ("one range more", 32, &[4]),
    ("one range less", 32, &[2]),
    ("no range", 32, &[0]),
    ("65 ranges", 32, &[65]),
    ("ranges without end", 32, &[0xff; 4]),
    ("no pages", 44, &[0]),
    ("over the next range", 44, &[3]),
    ("pages without end", 44, &[0xff; 4]),
    ("outside of the BAR", 36, &[4]),
    ("address that wraps", 36, &[0xff; 8]),
    ("address of 65 bits", 42, &[0x10]),
    ("the device's own part", 84, &[17]),
];

/// D05.
#[test]
fn a_report_that_is_false_anywhere_is_refused() {
    let mut rig = Rig::assigned();
    for (what, offset, bytes) in FALSE_REPORTS {
        bring(&mut rig, LOCKED);
        load(
            &mut rig,
            vec![set(Message::DEVICE_INTERFACE_REPORT, offset, bytes)],
        );
        assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(fired(&rig), 1, "{what}");
        recover(&mut rig, what);
    }
    rig.take_back();
}

/// D05.
#[test]
fn a_report_is_the_same_in_portions_and_may_not_change_between_them() {
    let mut rig = Rig::assigned();
    bring(&mut rig, LOCKED);
    rig.report();
    let whole = rig.objects[&3].clone();
    let cut = |pieces: u8| {
        let mut fault = set(Message::GET_DEVICE_INTERFACE_REPORT, 18, &[pieces, 0]);
        fault.occurrence = Occurrence::After(0);
        fault
    };
    for pieces in [5, 16, 36, 100] {
        load(&mut rig, vec![cut(pieces)]);
        rig.report();
        let portions = whole.len().div_ceil(usize::from(pieces));
        assert_eq!(fired(&rig), u32::try_from(portions).unwrap());
        assert_eq!(rig.objects[&3], whole, "{pieces}");
    }
    load(&mut rig, vec![cut(1)]);
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    recover(&mut rig, "a device that trickles");
    for (what, offset, bytes) in [
        ("the rest grew", 18, &[65_u8][..]),
        ("the rest shrank", 18, &[63]),
        ("no progress", 16, &[0, 0]),
        ("more than was asked for", 16, &[41, 0]),
    ] {
        bring(&mut rig, LOCKED);
        let mut change = set(Message::DEVICE_INTERFACE_REPORT, offset, bytes);
        change.occurrence = Occurrence::Nth(2);
        load(&mut rig, vec![cut(20), change]);
        assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        recover(&mut rig, what);
    }
    rig.take_back();
}

/// D05.
#[test]
fn a_report_that_is_fetched_again_under_one_lock_does_not_change() {
    for (what, offset, bytes) in [
        ("another attribute", 48, &[4_u8][..]),
        ("another number", 50, &[1]),
        ("another information", 20, &[1]),
        ("fewer pages", 44, &[1]),
    ] {
        let mut rig = Rig::locked();
        rig.report();
        load(
            &mut rig,
            vec![set(Message::DEVICE_INTERFACE_REPORT, offset, bytes)],
        );
        assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        recover(&mut rig, what);
    }
}

/// D05: what the device marks as MSI-X or as memory for anybody never becomes private.
#[test]
fn only_ranges_for_trusted_access_become_private() {
    let mut rig = Rig::assigned();
    for (attributes, is_private) in [
        (0, true),
        (8, true),
        (1, false),
        (2, false),
        (4, false),
        (0xc, false),
    ] {
        bring(&mut rig, LOCKED);
        rig.measure();
        load(
            &mut rig,
            vec![set(Message::DEVICE_INTERFACE_REPORT, 48, &[attributes])],
        );
        rig.report();
        rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
        let nonces = rig.nonces();
        let (exit, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
        if is_private {
            assert_eq!(exit.exit_reason.get(), 9, "{attributes}");
            rig.reject();
        } else {
            assert_eq!(registers.get()[0], INPUT, "{attributes}");
            assert_eq!(rig.map(DEVICE_IPA, ENDPOINT_BAR, 1), RmiStatus::SUCCESS);
            assert_eq!(rig.validate(DEVICE_IPA, 1), RmiStatus::INPUT);
            assert_eq!(rig.reach(DEVICE_IPA), None);
            assert_eq!(rig.unmap(DEVICE_IPA, 1), RmiStatus::SUCCESS);
        }
        rig.host.undelegate(ENDPOINT_BAR, PRIVATE_PAGES);
        if rig.state() == ERROR {
            recover(&mut rig, "the host took its memory back");
        } else {
            rig.unlock();
        }
    }
    rig.take_back();
}

/// A report of `count` ranges of one page each, and what it takes to have the device send it.
fn long_report(count: u8) -> Vec<Fault> {
    let mut message = vec![];
    let length = 16 + 16 * u16::from(count) + 4;
    message.extend(length.to_le_bytes());
    message.extend([0, 0]);
    message.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count, 0, 0, 0]);
    for index in 0..count {
        let page = ENDPOINT_BAR / PAGE + u64::from(index);
        message.extend(page.to_le_bytes());
        message.extend([1, 0, 0, 0, index % 2 * 4, 0, index, 0]);
    }
    message.extend([0; 4]);
    // The device's own has three ranges and sixteen bytes of its own.
    let more = usize::from(length) - (16 + 3 * 16 + 4 + 16);
    let at = Message::DEVICE_INTERFACE_REPORT;
    let (view, by) = (View::Plain, more);
    vec![
        Fault::new(At::Message(at), What::Extend { view, by }),
        set(at, 16, &message),
        Fault::new(
            At::Message(Message::VENDOR_DEFINED_RESPONSE),
            What::LyingLength(i32::try_from(more).unwrap()),
        ),
    ]
}

/// D05.
#[test]
fn sixty_four_ranges_are_understood_and_one_more_is_refused() {
    let mut rig = Rig::connected();
    let endpoint = rig.host.fake.function(ENDPOINT).unwrap();
    // A BAR of 1 MiB.
    rig.host.fake.set_function(
        ENDPOINT,
        endpoint.with(0x10, u32::try_from(ENDPOINT_BAR).unwrap() | 4, 0xfff0_0000),
    );
    let mut params = rig.vdev_params();
    params.addr_range[0].top = (ENDPOINT_BAR + 64 * PAGE).into();
    rig.vdev = rig.create_interface(&params).unwrap();
    assert_eq!(rig.pump_interface(), Pumped::Done);
    bring(&mut rig, LOCKED);
    rig.measure();
    load(&mut rig, long_report(64));
    rig.report();
    assert_eq!(fired(&rig), 3);
    let nonces = rig.nonces();
    for index in 0..64 {
        let (exit, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR + index * PAGE, 1, nonces);
        if index % 2 == 0 {
            assert_eq!(exit.exit_reason.get(), 9, "{index}");
            rig.reject();
        } else {
            assert_eq!(registers.get()[0], INPUT, "{index}");
        }
    }
    rig.unlock();
    bring(&mut rig, LOCKED);
    load(&mut rig, long_report(65));
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    recover(&mut rig, "65 ranges");
}

/// What was never asked for, in place of an answer: peer-to-peer, attributes, vendor messages.
#[test]
fn messages_that_nobody_asked_for_are_refused() {
    for kind in [0x08, 0x09, 0x0a, 0x0b, 0x88, 0x8a, 0x8b, 0x06, 0x86] {
        let mut rig = Rig::locked();
        load(
            &mut rig,
            vec![set(Message::DEVICE_INTERFACE_STATE, 1, &[kind])],
        );
        assert_eq!(rig.ask_start(), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(fired(&rig), 1);
        recover(&mut rig, &format!("{kind:#x}"));
    }
}
