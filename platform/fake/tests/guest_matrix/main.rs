// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every call of the guest, in every state of the caller, with every argument right and wrong.
//!
//! The calls come from the call table, so one that gets there without a row here fails the test. A
//! cell is one call in one state with one set of arguments: what it comes to is what the row says,
//! and unless it succeeds nothing changes but the caller's registers.

#[path = "../rig/mod.rs"]
mod rig;
mod states;
mod table;
mod worlds;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rig::{PAGE, Rig, VDEV_ID};
use states::{MISSING_IPA, STATES};
use table::{Cells, Right, TABLE, Wrong};
use tsm_abi::Row;
use tsm_abi::rmi::{Call, ExitReason};
use tsm_abi::rsi::ROWS;
use tsm_platform_fake::{Snapshot, Vcpu};

/// What guests have in registers that no call may change.
const MARK: u64 = 0x5a5a_0000_1111_0000;

fn answered() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| row.implemented)
}

/// What a call came to: its letter, and the caller's registers if it went on.
pub struct Outcome {
    /// See [`table`].
    pub letter: char,
    /// The caller as it went on.
    pub vcpu: Option<Vcpu>,
}

/// Returns the letter of a status.
fn letter(status: u64) -> char {
    match status {
        0 => '.',
        1 => 'I',
        2 => 'S',
        5 => 'D',
        u64::MAX => 'N',
        other => panic!("{other:#x} is not answered here"),
    }
}

/// Has the guest look at its registers, whatever it waited for before.
fn registers(rig: &Rig) -> Option<Vcpu> {
    let seen = Arc::new(Mutex::new(None));
    let into = seen.clone();
    let look = move |_: &_, vcpu: &mut Vcpu| *into.lock().unwrap() = Some(vcpu.clone());
    rig.host.fake.script().look(look);
    rig.host.enter(&rig.realm);
    rig.host.fake.script().clear();
    seen.lock().unwrap().take()
}

/// Makes a call of the guest. If it is about a device, the host says that `object` is that.
pub fn make_call(rig: &Rig, function: u64, arguments: &[u64], object: u64) -> Outcome {
    let script = rig.host.fake.script();
    script.clear();
    let arguments = arguments.to_vec();
    script.then(move |_, vcpu| {
        for (number, gpr) in (0..).zip(&mut vcpu.gprs) {
            *gpr = MARK + number;
        }
        vcpu.gprs[0] = function;
        vcpu.gprs[1..][..arguments.len()].copy_from_slice(&arguments);
        tsm_platform::GuestExit::Call
    });
    let seen = Arc::new(Mutex::new(None));
    let into = seen.clone();
    script.look(move |_, vcpu| *into.lock().unwrap() = Some(vcpu.clone()));
    let mut exit = rig.host.enter(&rig.realm);
    if exit.exit_reason.get() == ExitReason::VdevRequest.word() {
        let rec = rig.realm.rec;
        let _ = rig.host.call(Call::VdevComplete { rec, vdev: object });
        exit = rig.host.enter(&rig.realm);
    }
    let vcpu = seen.lock().unwrap().take();
    let letter = match &vcpu {
        Some(vcpu) => letter(vcpu.gprs[0]),
        None => match exit.exit_reason.get() {
            reason if reason == ExitReason::RipasChange.word() => 'r',
            reason if reason == ExitReason::HostCall.word() => 'h',
            reason if reason == ExitReason::DevMemMap.word() => 'm',
            reason if reason == ExitReason::Sync.word() => 'P',
            reason => panic!("left for reason {reason}"),
        },
    };
    script.clear();
    Outcome { letter, vcpu }
}

/// Returns what a test can see, but for the caller's registers and the page of its exits.
pub fn look_around(rig: &Rig) -> Snapshot {
    let mut seen = rig.host.snapshot();
    let own = [rig.realm.rec, rig.realm.run];
    seen.contents.retain(|page, _| !own.contains(page));
    seen
}

/// Makes a call that must change nothing.
fn refuse(rig: &Rig, row: &Row, arguments: &[u64], object: u64, what: &str) -> char {
    let before = look_around(rig);
    let start = registers(rig).expect("the guest runs").pc;
    let outcome = make_call(rig, row.function, arguments, object);
    let name = row.name;
    assert!(look_around(rig) == before, "{name}: {what}: changed");
    match outcome.vcpu {
        Some(vcpu) => {
            assert_eq!(vcpu.pc, start + 4, "{name}: {what}");
            check_registers(row, arguments, outcome.letter, &vcpu, what);
        }
        // What the host is asked for is not given.
        None if outcome.letter == 'h' => {}
        None => {
            let resumed = registers(rig).expect("the guest goes on");
            let skipped = if outcome.letter == 'P' { 0 } else { 4 };
            assert_eq!(resumed.pc, start + skipped, "{name}: {what}");
            assert!(look_around(rig) == before, "{name}: {what}: changed later");
        }
    }
    outcome.letter
}

/// Checks that an answer is in its registers and nowhere else.
fn check_registers(row: &Row, arguments: &[u64], letter: char, vcpu: &Vcpu, what: &str) {
    let results = row.results.len().max(3);
    for (number, gpr) in (0..).zip(vcpu.gprs).skip(results + 1) {
        let was = arguments.get(number - 1).copied();
        let was = was.unwrap_or(MARK + u64::try_from(number).unwrap());
        assert_eq!(gpr, was, "{}: {what}: x{number}", row.name);
    }
    // A refused version still says which there are.
    if !".N".contains(letter) && row.name != "RSI_VERSION" {
        assert_eq!(vcpu.gprs[1..4], [0; 3], "{}: {what}", row.name);
    }
}

/// Returns the nonces of the interface as the guest was told them, or none.
fn nonces(rig: &Rig, name: &str) -> [u64; 3] {
    let is_told = table::row("RSI_VDEV_GET_INFO").states;
    let at = STATES.iter().position(|(state, _)| *state == name);
    let told = is_told.as_bytes()[at.expect("a state")];
    if told == b'.' {
        rig.nonces()
    } else {
        [1, 2, 3]
    }
}

/// Runs the cells of one state in which an argument is wrong. Returns how many.
fn spoiled(rig: &Rig, row: &Row, own: &Cells, right: &[u64], expected: char, state: &str) -> u64 {
    let mut cells = 0;
    for (at, argument) in own.arguments.iter().enumerate() {
        for wrong in argument.wrong {
            let (value, letter, late) = match *wrong {
                Wrong::Early(value, letter) => (value, letter, false),
                Wrong::Late(value, letter) => (value, letter, true),
                Wrong::Changed(bits, letter) => (right[at] ^ bits, letter, true),
            };
            let mut arguments = right.to_vec();
            arguments[at] = value;
            let what = format!("{} is {value:#x}, {state}", argument.name);
            let answer = refuse(rig, row, &arguments, rig.vdev, &what);
            let works = !"SID".contains(expected);
            let is_right = match expected {
                'S' => answer == 'S',
                _ if late && !works => [letter, expected].contains(&answer),
                _ => answer == letter,
            };
            assert!(is_right, "{}: {what}: {answer}", row.name);
            cells += 1;
        }
    }
    cells
}

/// Runs the cells in which the host says that another object is meant. Returns how many.
fn misnamed(rig: &Rig, row: &Row, right: &[u64], state: &str) -> usize {
    let objects = [
        (0, "nothing"),
        (rig.realm.rd, "the realm"),
        (rig.realm.rec, "the caller"),
        (rig.realm.root, "a table"),
        (rig.realm.run, "the host's page"),
        (rig.device, "the device"),
        (rig.port, "a root port"),
        (rig.vdev | 1, "misaligned"),
        (u64::MAX, "all ones"),
    ];
    for (object, name) in objects {
        let what = format!("the host names {name}, {state}");
        let answer = refuse(rig, row, right, object, &what);
        assert!("IS".contains(answer), "{}: {what}: {answer}", row.name);
    }
    objects.len()
}

/// A call about a device whose answer has no page waits until the host gives one.
fn waits_for_memory(rig: &Rig) {
    let info = answered().find(|row| row.name == "RSI_VDEV_GET_INFO");
    let function = info.expect("a row").function;
    let before = look_around(rig);
    for _ in 0..2 {
        let outcome = make_call(rig, function, &[VDEV_ID, MISSING_IPA], rig.vdev);
        assert_eq!(outcome.letter, 'P');
        assert!(look_around(rig) == before, "changed without memory");
    }
    rig.host.map_private(&rig.realm, MISSING_IPA);
    let vcpu = registers(rig).expect("the guest goes on");
    assert_eq!(vcpu.gprs[0], 0);
    rig.host.unmap_private(&rig.realm, MISSING_IPA);
    let outcome = make_call(rig, function, &[VDEV_ID, MISSING_IPA], rig.vdev);
    assert_eq!(outcome.letter, 'P', "the host took the page away");
}

/// A01, A02, D01.
#[test]
fn every_call_of_the_guest_in_every_state_comes_to_what_its_row_says() {
    let (mut right_cells, mut wrong_cells, mut named_cells) = (0, 0, 0);
    let mut failures = Vec::new();
    for (at, (state, make)) in STATES.iter().enumerate() {
        let rig = make();
        let nonces = nonces(&rig, state);
        for row in answered() {
            let own = table::row(row.name);
            let expected = own.states.chars().nth(at).expect("a cell");
            let values = own.arguments.iter().map(|argument| match argument.right {
                Right::Value(value) => value,
                Right::Nonce(number) => nonces[number],
            });
            let right: Vec<u64> = values.collect();
            wrong_cells += spoiled(&rig, row, own, &right, expected, state);
            if own.is_of_device() {
                named_cells += misnamed(&rig, row, &right, state);
            }
            let answer = if "SID".contains(expected) {
                refuse(&rig, row, &right, rig.vdev, state)
            } else {
                make_call(&rig, row.function, &right, rig.vdev).letter
            };
            if answer != expected {
                failures.push(format!("{} where {state}: {answer}", row.name));
            }
            // What it waits for comes to nothing.
            registers(&rig).expect("the guest goes on");
            right_cells += 1;
        }
        if table::row("RSI_VDEV_GET_INFO").states.as_bytes()[at] == b'.' {
            waits_for_memory(&rig);
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let number = STATES.len();
    println!(
        "{number} states, {right_cells} cells right, {wrong_cells} wrong, {named_cells} named"
    );
    assert!(right_cells >= 180 && wrong_cells > 2000 && named_cells > 500);
}

#[test]
fn every_row_is_of_a_call_and_has_a_cell_for_every_state_and_argument() {
    let names: BTreeSet<&str> = answered().map(|row| row.name).collect();
    let rows: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names, rows);
    assert_eq!(TABLE.len(), rows.len(), "no row twice");
    for row in answered() {
        let own = table::row(row.name);
        assert_eq!(own.states.len(), STATES.len(), "{}", row.name);
        let arguments: Vec<&str> = own.arguments.iter().map(|one| one.name).collect();
        assert_eq!(arguments, row.arguments, "{}", row.name);
    }
}

/// A guest of which nothing may run makes no call.
#[test]
fn a_guest_that_is_off_makes_no_call() {
    let rig = Rig::new();
    rig.host.fake.script().call(&[0x8400_0008]);
    rig.host.enter(&rig.realm);
    for row in answered() {
        let before = look_around(&rig);
        rig.host.fake.script().call(&[row.function, PAGE]);
        let entry = zerocopy::FromZeros::new_zeroed();
        assert!(rig.host.enter_with(&rig.realm, &entry).is_err());
        assert_eq!(rig.host.fake.script().clear(), 1, "{}", row.name);
        assert!(look_around(&rig) == before, "{}", row.name);
    }
}
