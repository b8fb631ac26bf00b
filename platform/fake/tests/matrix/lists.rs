// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Lists of addresses in the host's memory that change while a call works through them.

use tsm_abi::rmi::{BlockSize, MapFlags, RangeDescriptor};
use tsm_abi::{RmiStatus, Row};
use tsm_platform_fake::{ENDPOINT_BAR, Fake};

use crate::answered;
use crate::meddling::{Outcome, outcome};
use crate::rig::PAGE;
use crate::stages::{DEVICES, Stage};

/// Entries of each list.
const ENTRIES: u64 = 4;
/// A descriptor: memory of the host.
const UNDELEGATED: u64 = 1 << 63;
/// Where a list is in its page: at the start, and so that it ends with the page.
const PLACES: [u64; 2] = [0, PAGE - ENTRIES * 8];

/// A call that takes a list: where it works, and what may be in the list instead of each other.
struct Case {
    name: &'static str,
    make: fn() -> Stage,
    /// Returns the state of the memory that is named, and where the memory is.
    memory: fn(&Stage) -> (u64, u64),
}

fn delegated(stage: &Stage) -> (u64, u64) {
    let memory = stage.rig.host.pages(2 * ENTRIES);
    stage.rig.host.delegate(memory, 2 * ENTRIES);
    (0, memory)
}

fn of_host(stage: &Stage) -> (u64, u64) {
    (UNDELEGATED, stage.rig.host.pages(2 * ENTRIES))
}

fn device(name: &str) -> Stage {
    let way = DEVICES.iter().find(|(state, _)| *state == name);
    Stage::with_device(way.expect("a state").1())
}

const CASES: [Case; 4] = [
    Case {
        name: "RMI_RTT_DATA_MAP",
        make: Stage::active_realm,
        memory: delegated,
    },
    Case {
        name: "RMI_RTT_UNPROT_MAP",
        make: Stage::active_realm,
        memory: of_host,
    },
    Case {
        name: "RMI_RTT_DEV_MAP",
        make: || device("interface UNLOCKED"),
        memory: |_| (0, ENDPOINT_BAR),
    },
    Case {
        name: "RMI_OP_MEM_DONATE",
        make: || device("device waits for memory"),
        memory: delegated,
    },
];

/// Lists of the same length: the first one is right.
fn versions(state: u64, memory: u64) -> [Vec<u64>; 4] {
    let one = |number| RangeDescriptor::new(memory + number * PAGE, BlockSize::Page, 1).0 | state;
    let every_second = |first: u64| (0..ENTRIES).map(move |number| one(2 * number + first));
    let right = if memory == ENDPOINT_BAR {
        (0..ENTRIES).map(one).collect()
    } else {
        every_second(0).collect::<Vec<u64>>()
    };
    let mut malformed = right.clone();
    malformed[1] = u64::MAX;
    let mut repeated = right.clone();
    repeated[1] = repeated[0];
    [right, every_second(1).collect(), malformed, repeated]
}

fn bytes(list: &[u64]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Puts a list of the host into the right arguments of a call.
fn arguments(stage: &Stage, row: &Row, list: u64) -> Vec<u64> {
    let mut arguments = stage.arguments(row.name).expect("the call is known");
    let base = row.arguments.iter().position(|name| *name == "base");
    let base = base.map_or(0, |at| arguments[at]);
    let is_shared = row.name == "RMI_RTT_UNPROT_MAP";
    for (name, argument) in row.arguments.iter().zip(&mut arguments) {
        match *name {
            "list" | "oaddr" => *argument = list,
            "count" => *argument = ENTRIES,
            "flags" if is_shared => {
                let access = MapFlags::READ | MapFlags::WRITE;
                *argument = MapFlags::list(ENTRIES).with_access(0b110, access).0;
            }
            "flags" => *argument = MapFlags::list(ENTRIES).0,
            // The device's private memory is shorter than its list.
            "top" if row.name != "RMI_RTT_DEV_MAP" => *argument = base + ENTRIES * PAGE,
            _ => {}
        }
    }
    arguments
}

/// Makes the call with the list in version `first`; with `other`, the list becomes that after each
/// copy of it, and is what it was after the next.
fn run(case: &Case, place: u64, first: usize, other: Option<usize>) -> Outcome {
    let row = answered().find(|row| row.name == case.name);
    let row = row.expect("a call");
    let stage = (case.make)();
    let (state, memory) = (case.memory)(&stage);
    let lists = versions(state, memory);
    let list = stage.rig.host.pages(1) + place;
    let fake = &stage.rig.host.fake;
    fake.host_store(list, &bytes(&lists[first]));
    let arguments = arguments(&stage, row, list);
    fake.take_copies_in();
    if let Some(other) = other {
        let mut next = [other, first].into_iter().cycle();
        let meddler = move |fake: &Fake, from: u64, _: usize| {
            if from / PAGE == list / PAGE {
                let version = next.next().expect("it goes on");
                fake.host_store(list, &bytes(&lists[version]));
            }
        };
        fake.set_meddler(Some(Box::new(meddler)));
    }
    let outcome = outcome(&stage, row, &arguments);
    let copies = stage.rig.host.fake.take_copies_in();
    let of_list = copies.iter().filter(|copy| copy.0 / PAGE == list / PAGE);
    let of_list: Vec<_> = of_list.collect();
    let length = usize::try_from(ENTRIES * 8).expect("it is short");
    assert_eq!(of_list, [&(list, length)], "{}: copied once", case.name);
    outcome
}

/// A04: a list changes into another one, right or wrong, after it was copied. The call does what the
/// list said then, and nothing of what it says later.
#[test]
fn a_list_that_changes_under_a_call_counts_as_it_was_copied() {
    let mut cells = 0;
    for case in &CASES {
        for place in PLACES {
            let plain = [0, 1, 2, 3].map(|version| run(case, place, version, None));
            assert!(".+".contains(plain[0].0), "{}: {}", case.name, plain[0].0);
            for (first, expected) in plain.iter().enumerate() {
                for other in (0..plain.len()).filter(|other| *other != first) {
                    let is_told_apart = *expected != plain[other];
                    let flipped = run(case, place, first, Some(other));
                    let name = case.name;
                    assert!(flipped == *expected, "{name}: {first} became {other}");
                    cells += u64::from(is_told_apart);
                }
            }
        }
    }
    println!("{cells} cells");
    assert!(cells >= 64);
}

/// A list that would leave its page is read to the end of the page.
#[test]
fn a_list_does_not_leave_its_page() {
    let stage = Stage::active_realm();
    let row = answered().find(|row| row.name == "RMI_RTT_DATA_MAP");
    let row = row.expect("a call");
    let (state, memory) = delegated(&stage);
    let pages = stage.rig.host.pages(2);
    let list = pages + PAGE - 8;
    let fake = &stage.rig.host.fake;
    fake.host_store(list, &bytes(&versions(state, memory)[0][..1]));
    fake.host_store(pages + PAGE, &bytes(&versions(state, memory)[0][1..]));
    let mut registers = [0; 7];
    let arguments = arguments(&stage, row, list);
    registers[..arguments.len()].copy_from_slice(&arguments);
    fake.take_copies_in();
    let [status, reached, ..] = stage.rig.host.raw(row.function, &registers);
    assert_eq!(RmiStatus::from_word(status), Some(RmiStatus::SUCCESS));
    assert_eq!(reached, arguments[1] + PAGE, "one page");
    assert_eq!(stage.rig.host.fake.take_copies_in(), [(list, 8)]);
}
