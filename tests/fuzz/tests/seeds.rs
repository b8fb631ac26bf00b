// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! F05: the seeds of every target, and what small changes make of them.

use tsm_fuzz::{TARGETS, find};

/// Changed inputs of each seed; the engine tries many more.
const CHANGES: u64 = 60;

/// A sequence that is the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or(0)
    }
}

fn change(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len());
        match random.below(5) {
            0 => data.truncate(at),
            1 => data.insert(at.min(data.len()), random.next() as u8),
            2 if !data.is_empty() => drop(data.drain(at..(at + 4).min(data.len()))),
            3 if !data.is_empty() => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            _ if !data.is_empty() => data[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    data
}

fn try_target(name: &str) {
    let target = find(name).expect("it exists");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    let mut random = Random(0x9e37_79b9);
    for seed in &seeds {
        (target.run)(seed);
        for _ in 0..CHANGES {
            (target.run)(&change(seed, &mut random));
        }
    }
    (target.run)(&[]);
}

#[test]
fn no_call_that_is_decoded_breaks_the_decoder() {
    try_target("decode");
}

#[test]
fn no_sequence_of_calls_breaks_the_firmware() {
    try_target("sequence");
}

#[test]
fn no_configuration_space_breaks_the_walk() {
    try_target("config");
}

#[test]
fn no_message_breaks_a_parser() {
    try_target("wire");
}

#[test]
fn no_device_breaks_the_requester() {
    try_target("requester");
}

#[test]
fn no_evidence_breaks_its_judge() {
    try_target("evidence");
}

#[test]
fn every_target_is_tried() {
    assert_eq!(TARGETS.len(), 6);
}
