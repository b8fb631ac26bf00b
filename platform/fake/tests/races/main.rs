// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls that meet on several CPUs, in many orders that a seed decides. What fails names its seed.

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod memory;
#[path = "../rig/mod.rs"]
mod rig;

use std::sync::Mutex;

use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_platform_fake::{Host, Work};

/// Says which seed it was when a test panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with seed {}", self.0);
        }
    }
}

/// Runs `one` with each seed; it returns how often CPUs changed. Prints how many orders there were.
pub fn explore(name: &str, seeds: u64, mut one: impl FnMut(u64) -> u64) {
    let mut switches = 0;
    for seed in 1..=seeds {
        let _seed = Seed(seed);
        switches += one(seed);
    }
    println!("{name}: {seeds} schedules, {switches} switches");
    assert!(switches > seeds, "CPUs took turns");
}

/// Calls of one CPU, one after another.
pub type Calls = Vec<Call>;

/// Makes the calls of each CPU; returns what each call answered, and how often CPUs changed.
pub fn race(host: &Host, seed: u64, cpus: &[Calls]) -> (Vec<Vec<RmiStatus>>, u64) {
    let answers: Vec<Mutex<Vec<RmiStatus>>> = cpus.iter().map(|_| Mutex::default()).collect();
    let works = cpus.iter().zip(&answers).map(|(calls, answers)| {
        Box::new(move || {
            for call in calls {
                let status = host.status(*call);
                answers.lock().unwrap().push(status);
            }
        }) as Work<'_>
    });
    let switches = host.fake.interleave(seed, works.collect());
    assert!(host.tsm.granules().is_quiet(), "a lock outlived its call");
    let answers = answers.into_iter().map(|all| all.into_inner().unwrap());
    (answers.collect(), switches)
}

/// Returns how many of the first answers of each CPU are successes.
pub fn winners(answers: &[Vec<RmiStatus>]) -> usize {
    let firsts = answers.iter().filter_map(|all| all.first());
    firsts
        .filter(|status| **status == RmiStatus::SUCCESS)
        .count()
}

/// A06.
#[test]
fn of_activations_in_any_order_exactly_one_succeeds() {
    explore("activation", 400, |seed| {
        let host = Host::new();
        let cpu = vec![Call::RmmActivate {}, Call::Features { index: 0 }];
        let (answers, switches) = race(&host, seed, &[cpu.clone(), cpu.clone(), cpu]);
        assert_eq!(winners(&answers), 1);
        for answer in &answers {
            assert!([RmiStatus::SUCCESS, RmiStatus::GLOBAL].contains(&answer[0]));
        }
        assert_eq!(host.status(Call::RmmActivate {}), RmiStatus::GLOBAL);
        switches + 1
    });
}

/// A lock that is left behind would be waited for until the end of time: the scheduler says so.
#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn a_lock_that_nobody_gives_back_is_found() {
    use tsm_platform::Processor;
    let host = Host::activated();
    let wait: Work<'_> = Box::new(|| host.fake.relax());
    host.fake.interleave(1, vec![wait]);
}
