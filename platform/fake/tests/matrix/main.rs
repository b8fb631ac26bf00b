// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every call of the host, in every state of what it takes, with every argument right and wrong.
//!
//! The calls come from the call table, so one that gets there without a row here fails the test. A
//! cell is one call in one state with one set of arguments: its status is what the row says, and
//! after a refusal nothing has changed, objects included.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod lists;
mod meddling;
#[path = "../rig/mod.rs"]
mod rig;
mod stages;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use stages::{DEVICES, REALMS, Stage};
use table::{Role, roles};
use tsm_abi::rmi::ROWS;
use tsm_abi::{RmiCode, RmiStatus, Row};
use tsm_core::State;
use tsm_platform_fake::{DRAM_TOP, ENDPOINT_BAR, MMIO_BASE};

/// The generator of P-384, which is a point that any key could be.
pub fn a_key() -> Vec<u8> {
    let hex = "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a\
               545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1\
               ce1d7e819d7a431d7c90ea0e5f";
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn answered() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| row.implemented)
}

/// Returns the letter of a status.
fn letter(status: RmiStatus) -> char {
    match status.code {
        RmiCode::Success => '.',
        RmiCode::Incomplete => '+',
        RmiCode::Input => 'I',
        RmiCode::Realm => 'R',
        RmiCode::Rec => 'C',
        RmiCode::Rtt => 'T',
        RmiCode::NotSupported => 'N',
        RmiCode::Device => 'D',
        RmiCode::Busy => 'B',
        RmiCode::Global => 'G',
        RmiCode::Granule => 'M',
        other => panic!("{other:?} is not answered here"),
    }
}

fn ask(stage: &Stage, row: &Row, arguments: &[u64]) -> char {
    let mut registers = [0; 7];
    registers[..arguments.len()].copy_from_slice(arguments);
    let [status, ..] = stage.rig.host.raw(row.function, &registers);
    letter(RmiStatus::from_word(status).expect("a status word"))
}

/// Asks for what must be refused and checks that nothing changed.
fn refuse(stage: &Stage, row: &Row, arguments: &[u64], what: &str) -> char {
    let before = stage.rig.host.snapshot();
    let answer = ask(stage, row, arguments);
    let after = stage.rig.host.snapshot();
    assert!(before == after, "{}: {what}: something changed", row.name);
    answer
}

/// Runs the cells of `stage` in which the arguments of `row` are right. What succeeds, or begins, is
/// tried on a machine of its own, which is made by `again`.
///
/// Returns how many operations of the platform it took.
fn right(
    stage: &Stage,
    row: &Row,
    expected: char,
    name: &str,
    again: impl FnOnce() -> Stage,
) -> u64 {
    let arguments = stage.arguments(row.name).expect("the call is known");
    assert_eq!(arguments.len(), row.arguments.len(), "{}", row.name);
    let (answer, operations) = if ".+".contains(expected) {
        let own = again();
        let arguments = own.arguments(row.name).expect("the call is known");
        own.rig.host.fake.take_operations();
        let answer = ask(&own, row, &arguments);
        (answer, own.rig.host.fake.take_operations())
    } else {
        stage.rig.host.fake.take_operations();
        let answer = refuse(stage, row, &arguments, name);
        (answer, stage.rig.host.fake.take_operations())
    };
    assert_eq!(answer, expected, "{} where {name}", row.name);
    operations
}

/// What an argument of each role must not be: the value, and why.
fn wrong(stage: &Stage, role: Role, right: u64) -> Vec<(u64, &'static str)> {
    let rig = &stage.rig;
    let nowhere = [
        (right | 1, "misaligned"),
        (right | 0x800, "misaligned by half a page"),
        (0x4000_0000, "out of range"),
        (DRAM_TOP, "just past memory"),
        (DRAM_TOP - 1, "the last byte of memory"),
        (!0xfff, "the last page of all"),
        (u64::MAX, "all ones"),
    ];
    let objects = [
        (stage.plain, "the host's page"),
        (stage.free, "a granule that holds nothing"),
        (stage.stale, "stale: what it held is gone"),
        (stage.data, "a guest's memory"),
        (stage.realm.root, "a table"),
        (stage.realm.rd, "a realm"),
        (stage.realm.rec, "a virtual CPU"),
        (rig.device, "a device"),
        (rig.port, "a root port"),
        (rig.vdev, "an interface"),
        (ENDPOINT_BAR, "a device's memory"),
        (MMIO_BASE, "a device's page"),
    ];
    let of_kind: &[&str] = match role {
        Role::Realm => &["a realm"],
        Role::Rec => &["a virtual CPU"],
        Role::Pdev => &["a device", "a root port"],
        Role::Vdev => &["an interface"],
        Role::Donated => &[
            "a granule that holds nothing",
            "stale: what it held is gone",
        ],
        Role::HostPage => &["the host's page"],
        Role::Handle => &["a device"],
        Role::Address => {
            return vec![
                (right | 1, "misaligned"),
                (u64::MAX, "all ones"),
                (!0xfff, "the end"),
            ];
        }
        Role::End => {
            return vec![
                (right | 1, "misaligned"),
                (u64::MAX, "all ones"),
                (0, "first"),
            ];
        }
        Role::Flags => return vec![(u64::MAX, "every bit")],
        Role::Level => return vec![(4, "no level"), (u64::MAX, "all ones")],
        Role::Unit => return vec![(right | 1, "misaligned"), (stage.plain, "no unit")],
        Role::Any => return Vec::new(),
    };
    let granules = rig.host.tsm.granules();
    // A stage need not have all of them.
    let is_there = |value: u64, what: &str| match granules.state(value) {
        Ok(State::Undelegated) => {
            ["the host's page", "a device's memory", "a device's page"].contains(&what)
        }
        Ok(State::Delegated) => {
            value == stage.free || value == stage.stale || value == ENDPOINT_BAR
        }
        Ok(_) => true,
        Err(_) => false,
    };
    let others = objects.into_iter();
    let others = others.filter(|(value, what)| !of_kind.contains(what) && is_there(*value, what));
    nowhere
        .into_iter()
        .chain(others)
        .filter(|(value, _)| *value != right)
        .collect()
}

/// Runs the cells of `stage` in which one argument of `row` is wrong, or two are the same granule.
/// Returns how many.
fn spoiled(stage: &Stage, row: &Row, allowed: &str, name: &str) -> u64 {
    let right = stage.arguments(row.name).expect("the call is known");
    let roles = roles(row);
    let mut cells = 0;
    let mut check = |arguments: &[u64], what: &str| {
        let what = format!("{what}, {name}");
        let answer = refuse(stage, row, arguments, &what);
        assert!(allowed.contains(answer), "{}: {what}: {answer}", row.name);
        cells += 1;
    };
    for (at, role) in roles.iter().enumerate() {
        for (value, what) in wrong(stage, *role, right[at]) {
            let mut arguments = right.clone();
            arguments[at] = value;
            check(&arguments, &format!("{} is {what}", row.arguments[at]));
        }
        for (other, second) in roles.iter().enumerate() {
            if at != other && role.is_granule() && second.is_granule() {
                let mut arguments = right.clone();
                arguments[at] = right[other];
                check(&arguments, "one granule in two roles");
            }
        }
    }
    cells
}

/// A01, A02, A03, A06, A07, A09, D01.
#[test]
fn every_call_in_every_state_answers_as_its_row_says() {
    let mut right_cells = 0;
    let mut wrong_cells = 0;
    let mut stages = 0;
    let mut longest = BTreeMap::new();
    let realms = REALMS.iter().enumerate().map(|(at, (name, make))| {
        let make: Box<dyn Fn() -> Stage> = Box::new(make);
        (true, at, *name, make)
    });
    let devices = DEVICES.iter().enumerate().map(|(at, (name, way))| {
        let make: Box<dyn Fn() -> Stage> = Box::new(|| Stage::with_device(way()));
        (false, at, *name, make)
    });
    for (is_realm, at, name, make) in realms.chain(devices) {
        stages += 1;
        let stage = make();
        for row in answered() {
            let own = table::row(row.name);
            let letters = if is_realm { own.realms } else { own.devices };
            // A call that takes no device is the same whatever becomes of one.
            if letters.is_empty() {
                continue;
            }
            let expected = letters.chars().nth(at);
            let expected =
                expected.unwrap_or_else(|| panic!("{} has no cell for {name}", row.name));
            let operations = right(&stage, row, expected, name, &make);
            let most: &mut u64 = longest.entry(row.name).or_default();
            *most = operations.max(*most);
            right_cells += 1;
            // Before activation nothing but that counts; what leads to it takes any page there.
            let is_early = is_realm && at == 0;
            if !is_early {
                wrong_cells += spoiled(&stage, row, own.errors, name);
            } else if expected == 'G' {
                wrong_cells += spoiled(&stage, row, "G", name);
            }
        }
    }
    println!("{stages} states, {right_cells} cells with right arguments, {wrong_cells} with wrong");
    assert!(right_cells > 500 && wrong_cells > 5000);
    println!("operations of the platform at most: {longest:?}");
    for (name, operations) in longest {
        let most = table::most_operations(name);
        assert!(operations <= most, "{name} takes {operations}");
    }
}

#[test]
fn every_row_is_of_a_call_and_has_a_cell_for_every_state() {
    let names: BTreeSet<&str> = answered().map(|row| row.name).collect();
    let rows: BTreeSet<&str> = table::TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names, rows);
    assert_eq!(table::TABLE.len(), rows.len(), "no row twice");
    for row in table::TABLE {
        assert_eq!(row.realms.len(), REALMS.len(), "{}", row.name);
        let devices = [0, DEVICES.len()];
        assert!(devices.contains(&row.devices.len()), "{}", row.name);
        let said = row.realms.chars().chain(row.devices.chars());
        for letter in said.filter(|letter| !".+G".contains(*letter)) {
            assert!(row.errors.contains(letter), "{}: {letter}", row.name);
        }
    }
}
