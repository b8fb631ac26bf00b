// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device may answer, step by step, and what each answer comes to.

use heapless::Vec as Fixed;
use tsm_platform::{Entropy, Granule, PlatformError, Rid};
use tsm_spdm::wire::pci_sig::tdisp::{
    Body, DeviceCapabilities, InterfaceId, InterfaceState, LockFlags, Message, TdispError,
};
use zeroize::Zeroizing;

use super::super::comm::Comm;
use super::super::pci::Function;
use super::super::policy::REPORTING_OFFSET;
use super::super::report::{Assembly, Report};
use super::super::sizes::BarSizes;
use super::super::tdisp::{
    MOST_RETRIES, Request, State, Step, TRANSITIONS, Transition, Verdict, judge_refusal,
};
use super::exchange::{Misbehaved, Now};
use super::{Measure, Nonces, Vdev};

const OWN: u16 = 0x0100;
const NONCE: [u8; 32] = [0xa5; 32];
const STATES: [InterfaceState; 4] = [
    InterfaceState::ConfigUnlocked,
    InterfaceState::ConfigLocked,
    InterfaceState::Run,
    InterfaceState::Error,
];

struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, out: &mut [u8]) -> Result<(), PlatformError> {
        out.fill(7);
        Ok(())
    }
}

/// Configuration space without a function.
struct Nowhere;

impl tsm_platform::ConfigSpace for Nowhere {
    fn config_read(&self, _: Rid, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn config_write(&self, _: Rid, _: u16, _: u8, _: u32) {}
    fn buses(&self) -> u16 {
        1
    }
    fn reserved_mmio(&self) -> &[tsm_platform::GranuleRange] {
        &[]
    }
    fn is_hidden(&self, _: Rid) -> bool {
        false
    }
    fn is_mediated(&self) -> bool {
        true
    }
}

fn vdev(state: State) -> Vdev {
    let granule = Granule::new(0x8000_0000).unwrap();
    Vdev {
        realm: granule,
        device: granule,
        id: 1,
        rid: Rid(OWN),
        ranges: Fixed::new(),
        sizes: BarSizes::default(),
        placement: Function::new(&Nowhere, Rid(OWN)).placement(),
        state,
        comm: Comm::Idle,
        request: None,
        step: 0,
        measure: Measure {
            nonce: [0; 32],
            raw: false,
        },
        first: true,
        dma: false,
        condemned: false,
        masking: None,
        stream_id: 5,
        lock_flags: LockFlags::default(),
        cache_line: 64,
        retries: 0,
        declined: false,
        start_nonce: Zeroizing::new([0; 32]),
        nonces: Nonces::default(),
        measurements: [0; 48],
        report: Report::new(REPORTING_OFFSET),
        assembly: Assembly::new(),
    }
}

fn message(rid: u16, body: Body<'_>) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let length = Message::new(InterfaceId::new(rid), body).emit(&mut out);
    out.truncate(length.unwrap());
    out
}

fn capabilities() -> DeviceCapabilities {
    let mut requests = [0; 16];
    requests[0] = 0xfe;
    DeviceCapabilities::new(requests, LockFlags(7), 52)
}

/// A report of one page, which says that the firmware stays.
const REPORT: [u8; 36] = {
    let mut report = [0; 36];
    report[0] = 3;
    report[12] = 1;
    report[18] = 1;
    report[24] = 1;
    report
};

/// What a good device answers to `step`.
fn good(step: Step) -> Vec<u8> {
    let body = match step {
        Step::Version => Body::Version(&[0x10]),
        Step::Capabilities => Body::Capabilities(capabilities()),
        Step::Expect(state) | Step::ExpectUnlessFailed(state) => Body::State(state),
        Step::UnlessUnlocked => Body::State(InterfaceState::Error),
        Step::Lock => Body::Locked(NONCE),
        Step::Start => Body::Started,
        Step::Stop => Body::Stopped,
        Step::Report => Body::Report {
            portion: &REPORT,
            remainder: 0,
        },
        Step::Measure => panic!("not TDISP"),
    };
    message(OWN, body)
}

fn kind_sent(vdev: &Vdev) -> u8 {
    let mut out = [0; 64];
    vdev.compose(&mut out).unwrap();
    out[2]
}

/// Brings `vdev` through the first `steps` steps of `row`.
fn go(vdev: &mut Vdev, row: &Transition, steps: usize) {
    vdev.begin(row.request);
    for step in &row.steps[..steps] {
        assert_eq!(vdev.now(), Now::Send);
        vdev.take_answer(&good(*step)).unwrap();
    }
}

fn finish(vdev: &mut Vdev, row: &Transition) {
    go(vdev, row, row.steps.len());
    assert_eq!(vdev.now(), Now::Complete);
    vdev.complete(&Sevens).unwrap();
    assert_eq!(vdev.state, row.to);
}

fn row(from: State, request: Request) -> &'static Transition {
    super::super::tdisp::find(from, request).unwrap()
}

/// Calls `visit` for each TDISP step of each exchange, with the interface that has come there.
fn each_step(mut visit: impl FnMut(&dyn Fn() -> Vdev, &Transition, Step)) {
    let mut visited = 0;
    for row in TRANSITIONS {
        for (at, step) in row.steps.iter().enumerate() {
            if *step == Step::Measure {
                continue;
            }
            let make = || {
                let mut vdev = vdev(row.from);
                go(&mut vdev, row, at);
                vdev
            };
            visit(&make, row, *step);
            visited += 1;
        }
    }
    assert!(visited > 15);
}

/// D04.
#[test]
fn another_state_than_the_one_believed_is_never_adopted() {
    each_step(|make, row, step| {
        for reported in STATES {
            let mut vdev = make();
            let judged = vdev.take_answer(&message(OWN, Body::State(reported)));
            let is_good = match step {
                Step::Expect(believed) => reported == believed,
                Step::ExpectUnlessFailed(believed) => {
                    reported == believed || reported == InterfaceState::Error
                }
                Step::UnlessUnlocked => true,
                _ => false,
            };
            assert_eq!(judged.is_ok(), is_good, "{step:?} of {row:?}, {reported:?}");
            assert_eq!(vdev.state, row.from);
            assert!(!vdev.take_declined(), "a contradiction is held against it");
        }
        let nonsense = [&good(Step::UnlessUnlocked)[..17], &[4]].concat();
        assert_eq!(make().take_answer(&nonsense), Err(Misbehaved));
    });
}

#[test]
fn an_answer_to_another_request_is_refused() {
    let bodies = [
        Body::GetVersion,
        Body::GetState,
        Body::Stop,
        Body::Version(&[0x10]),
        Body::Capabilities(capabilities()),
        Body::Locked(NONCE),
        Body::Report {
            portion: &REPORT,
            remainder: 0,
        },
        Body::Started,
        Body::Stopped,
        Body::Unknown(0x08),
        Body::Unknown(0x09),
        Body::Unknown(0x0a),
        Body::Unknown(0x0b),
    ];
    each_step(|make, row, step| {
        let expected = good(step)[2];
        for body in bodies {
            let answer = message(OWN, body);
            let judged = make().take_answer(&answer);
            assert_eq!(
                judged.is_ok(),
                answer[2] == expected,
                "{step:?} of {row:?}, {body:?}"
            );
        }
        let answer = good(step);
        for at in [0, 1, 5, 12] {
            let mut wrong = answer.clone();
            wrong[at] ^= 0x20;
            let judged = make().take_answer(&wrong);
            assert_eq!(
                judged,
                Err(Misbehaved),
                "protocol, version, interface: {at}"
            );
        }
        assert_eq!(
            make().take_answer(&answer[..answer.len() - 1]),
            Err(Misbehaved)
        );
        let long = [&answer[..], &[0]].concat();
        assert_eq!(make().take_answer(&long), Err(Misbehaved));
        assert_eq!(make().take_answer(&[]), Err(Misbehaved));
    });
}

#[test]
fn each_error_at_each_step_has_the_outcome_of_the_table() {
    let codes = [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        0x41,
        0x101,
        0x102,
        0x103,
        0x104,
        0xff,
        u32::MAX,
    ];
    each_step(|make, row, step| {
        for code in codes.map(TdispError) {
            let mut vdev = make();
            let sent = kind_sent(&vdev);
            let judged = vdev.take_answer(&message(OWN, Body::Error { code, data: 0 }));
            let verdict = judge_refusal(step, code, 0);
            assert_eq!(
                judged.is_ok(),
                matches!(verdict, Verdict::Retry | Verdict::GoOn)
            );
            if verdict == Verdict::Retry {
                assert_eq!(kind_sent(&vdev), sent);
            }
            let declined = vdev.take_declined();
            assert_eq!(
                declined,
                verdict == Verdict::Decline,
                "{code:?} at {step:?}"
            );
            // Nothing is granted where an interface stays as it is.
            assert!(!declined || row.from == State::Unlocked);
            assert_eq!(vdev.state, row.from);
        }
    });
}

#[test]
fn a_busy_device_is_asked_again_later_and_not_forever() {
    let busy = message(
        OWN,
        Body::Error {
            code: TdispError::BUSY,
            data: 0,
        },
    );
    each_step(|make, _, step| {
        let mut vdev = make();
        assert_eq!(vdev.delay_us(), 0);
        let sent = kind_sent(&vdev);
        let mut waited = 0;
        for time in 0..MOST_RETRIES {
            assert_eq!(vdev.take_answer(&busy), Ok(None));
            assert_eq!(kind_sent(&vdev), sent);
            assert_eq!(vdev.delay_us(), 1000 << time);
            waited += vdev.delay_us();
        }
        assert_eq!(waited, 255_000);
        let mut tired = make();
        tired.retries = MOST_RETRIES;
        assert_eq!(tired.take_answer(&busy), Err(Misbehaved), "{step:?}");
        vdev.take_answer(&good(step)).unwrap();
        assert_eq!(vdev.delay_us(), 0, "it counts anew");
    });
}

/// D03.
#[test]
fn the_nonce_of_a_lock_starts_once_and_is_gone_with_the_lock() {
    let lock = row(State::Unlocked, Request::Lock);
    let start = row(State::Locked, Request::Start);
    let locked = || {
        let mut vdev = vdev(State::Unlocked);
        finish(&mut vdev, lock);
        assert_eq!(*vdev.start_nonce, NONCE);
        vdev
    };
    let mut started = locked();
    go(&mut started, start, 1);
    let mut sent = [0; 64];
    let length = started.compose(&mut sent).unwrap();
    assert_eq!(sent[17..length], NONCE);
    let mut started = locked();
    finish(&mut started, start);
    assert_eq!(*started.start_nonce, [0; 32]);
    // While the device is still being told to stop.
    let mut stopping = locked();
    stopping.begin(Request::Unlock);
    assert_eq!(*stopping.start_nonce, [0; 32]);
    let mut stopped = locked();
    finish(&mut stopped, row(State::Locked, Request::Unlock));
    assert_eq!(*stopped.start_nonce, [0; 32]);
    assert_eq!(stopped.nonces, Nonces::default());
    stopped.begin(Request::Lock);
    assert_eq!(
        *stopped.start_nonce, [0; 32],
        "not before the device gives one"
    );
}

#[test]
fn a_lock_demands_what_policy_says_on_the_stream_of_the_device() {
    let lock = row(State::Unlocked, Request::Lock);
    for (supported, demanded) in [(0, 0), (7, 5), (0x1f, 0x15), (4, 4)] {
        let mut vdev = vdev(State::Unlocked);
        vdev.begin(Request::Lock);
        vdev.take_answer(&good(Step::Version)).unwrap();
        let able = DeviceCapabilities::new(capabilities().requests, LockFlags(supported), 52);
        vdev.take_answer(&message(OWN, Body::Capabilities(able)))
            .unwrap();
        vdev.take_answer(&good(lock.steps[2])).unwrap();
        let mut sent = [0; 64];
        let length = vdev.compose(&mut sent).unwrap();
        let mut body = vec![demanded, 0, 5, 0];
        body.extend([0; 16]);
        assert_eq!(sent[17..length], body);
    }
}

#[test]
fn a_device_that_cannot_do_its_part_is_declined_before_it_is_locked() {
    let mut old = vdev(State::Unlocked);
    old.begin(Request::Lock);
    let versions = message(OWN, Body::Version(&[0x11, 0x20]));
    assert_eq!(old.take_answer(&versions), Err(Misbehaved));
    assert!(old.take_declined());
    let mut poor = vdev(State::Unlocked);
    poor.begin(Request::Lock);
    poor.take_answer(&message(OWN, Body::Version(&[0x11, 0x10])))
        .unwrap();
    let unable = DeviceCapabilities::new([0x7e; 16], LockFlags(7), 52);
    let judged = poor.take_answer(&message(OWN, Body::Capabilities(unable)));
    assert_eq!(judged, Err(Misbehaved));
    assert!(poor.take_declined() && !poor.take_declined());
}

#[test]
fn a_portion_is_no_longer_than_was_asked_for() {
    for (length, is_good) in [(2048, true), (2049, false)] {
        let mut vdev = vdev(State::Locked);
        vdev.begin(Request::Report);
        let mut portion = REPORT.to_vec();
        portion.resize(length, 0);
        let own = u32::try_from(length - 36).unwrap();
        portion[32..36].copy_from_slice(&own.to_le_bytes());
        let body = Body::Report {
            portion: &portion,
            remainder: 0,
        };
        let judged = vdev.take_answer(&message(OWN, body));
        assert_eq!(judged.is_ok(), is_good);
    }
}

/// Repeated locks and reports must not shift addresses, as one firmware's did.
#[test]
fn reports_under_each_lock_name_the_same_addresses() {
    let mut vdev = vdev(State::Unlocked);
    for _ in 0..3 {
        finish(&mut vdev, row(State::Unlocked, Request::Lock));
        assert_eq!(vdev.report.ranges().count(), 0, "of the lock before");
        for _ in 0..2 {
            finish(&mut vdev, row(State::Locked, Request::Report));
            assert!(vdev.report.ranges().eq([(0x1000_0000, 0x1000)]));
        }
        finish(&mut vdev, row(State::Locked, Request::Unlock));
    }
}
