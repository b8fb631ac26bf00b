// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host that changes pages while they are read, and calls on what another call holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tsm_platform_fake::{Fake, Snapshot};

use crate::common::World;
use crate::stages::{DEVICES, REALMS, Stage};
use crate::table::{self, Role, roles};
use crate::{answered, ask, letter};

/// Bytes of a page.
const BYTES: usize = 4096;

/// Returns a machine on which the call of `row` succeeds or begins, if there is one.
pub fn where_it_works(row: &table::Cells) -> Option<Box<dyn Fn() -> Stage>> {
    let works = |letter: char| ".+".contains(letter);
    if let Some(at) = row.devices.chars().position(works) {
        return Some(Box::new(move || Stage::with_device(DEVICES[at].1())));
    }
    let at = row.realms.chars().position(works)?;
    Some(Box::new(REALMS[at].1))
}

/// What a call came to: its letter, and everything but pages of the host, in which there are messages
/// of the device that are never the same.
pub type Outcome = (char, Snapshot);

pub fn outcome(stage: &Stage, row: &tsm_abi::Row, arguments: &[u64]) -> Outcome {
    let answer = ask(stage, row, arguments);
    stage.rig.host.fake.set_meddler(None);
    let mut after = stage.rig.host.snapshot();
    let own = stage.rig.host.fake.realm_granules();
    after.contents.retain(|granule, _| own.contains(granule));
    (answer, after)
}

fn whole_page(fake: &Fake, page: u64) -> Vec<u8> {
    fake.host_load(page, BYTES).expect("the host's page")
}

/// A04: every page that a call reads changes after every copy; the call sees one version or the
/// other, never a bit of both.
#[test]
fn a_page_that_flips_under_a_call_counts_as_one_of_its_versions() {
    let mut tried = BTreeMap::new();
    for row in answered() {
        let Some(make) = where_it_works(table::row(row.name)) else {
            continue;
        };
        let places = roles(row);
        let places = places.iter().enumerate();
        for (at, _) in places.filter(|(_, role)| **role == Role::HostPage) {
            for other in [vec![0xff; BYTES], vec![0; BYTES]] {
                let versions = |stage: &Stage, page| {
                    let right = whole_page(&stage.rig.host.fake, page);
                    [right, other.clone()]
                };
                let run = |first: usize, flips: bool| {
                    let stage = make();
                    let arguments = stage.arguments(row.name).expect("the call is known");
                    let page = arguments[at];
                    let versions = versions(&stage, page);
                    stage.rig.host.fake.host_store(page, &versions[first]);
                    if flips {
                        let mut next = 1 - first;
                        let meddler = move |fake: &Fake, from: u64, _: usize| {
                            if from / BYTES as u64 == page / BYTES as u64 {
                                fake.host_store(page, &versions[next]);
                                next = 1 - next;
                            }
                        };
                        stage.rig.host.fake.set_meddler(Some(Box::new(meddler)));
                    }
                    outcome(&stage, row, &arguments)
                };
                let plain = [run(0, false), run(1, false)];
                for first in [0, 1] {
                    let flipped = run(first, true);
                    assert!(
                        plain.contains(&flipped),
                        "{}, {}: {} is neither {} nor {}",
                        row.name,
                        row.arguments[at],
                        flipped.0,
                        plain[0].0,
                        plain[1].0
                    );
                }
                *tried.entry(row.name).or_insert(0) += 2;
            }
        }
    }
    println!("{} calls with flipping pages, {tried:?}", tried.len());
    assert!(tried.len() > 12);
}

/// A call that reads a page while it holds an object, and which object of the world that is.
type Holder = (&'static str, fn(&World) -> u64);

/// A01: "busy". While one call holds an object, every other that takes it answers BUSY, or refuses it
/// for another reason, and changes nothing.
#[test]
fn what_another_call_holds_is_busy() {
    let holders: [Holder; 2] = [
        ("RMI_RTT_DATA_MAP_INIT", |world| world.new.rd),
        ("RMI_REC_ENTER", |world| world.active.rec),
    ];
    for (name, held) in holders {
        let world = Arc::new(World::new());
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let (other, into) = (world.clone(), seen.clone());
        let meddle = move |_: &Fake, _: u64, _: usize| {
            let held = held(&other);
            for row in answered() {
                let arguments = other.arguments(row.name).expect("the call is known");
                if !arguments.contains(&held) {
                    continue;
                }
                let before = other.host.snapshot();
                let [status, ..] = other.raw(row.function, &arguments);
                let status = tsm_abi::RmiStatus::from_word(status).expect("a status");
                assert!(other.host.snapshot() == before, "{}: changed", row.name);
                into.lock().unwrap().insert(row.name, letter(status));
            }
        };
        world.host.fake.set_meddler(Some(Box::new(meddle)));
        let row = answered().find(|row| row.name == name).expect("a row");
        let arguments = world.arguments(name).expect("the call is known");
        assert_eq!(world.raw(row.function, &arguments)[0], 0, "{name}");
        world.host.fake.set_meddler(None);
        let seen = seen.lock().unwrap();
        println!("{name} holds: {seen:?}");
        assert!(seen.len() >= 3);
        for (call, answer) in &*seen {
            assert!("BI".contains(*answer), "{call}: {answer}");
        }
        assert!(seen.values().any(|answer| *answer == 'B'));
    }
}
