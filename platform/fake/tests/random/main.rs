// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Random calls, alone and from several processors: what the tables say stays true.

mod courier;
mod interface;
mod oracle;
mod playground;
#[path = "../rig/mod.rs"]
mod rig;
mod wander;

use std::time::Instant;

use courier::Courier;
use playground::{Playground, Random, Tally, rows};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use tsm_abi::rmi::{Call, ROWS};
use tsm_abi::rsi;
use tsm_abi::{RmiStatus, Row};
use tsm_platform_fake::Host;

/// Most operations on granules that one call may need: one for each entry of two tables, or each
/// granule of one block, and a few.
const MOST_STEPS: u64 = 1100;
/// Calls of each of the long runs.
const CALLS: u64 = 250_000;
/// Seeds of the long runs.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// A machine on which realms live and one device comes and goes.
struct World {
    ground: Playground,
    courier: Courier,
    random: Random,
    rows: Vec<&'static Row>,
    succeeded: Tally,
    calls: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let courier = Courier::new();
        let host = &courier.rig.host;
        let ground = Playground::new(host);
        ground.wake_guests(host, seed, courier.rig.realm.root);
        Self {
            ground,
            courier,
            random: Random::seeded(seed),
            rows: rows(),
            succeeded: Tally::new(),
            calls: 0,
        }
    }

    /// Does something; hardware fails now and then while it does.
    fn step(&mut self) {
        let host = &self.courier.rig.host;
        let random = &mut self.random;
        if random.once_in(800) {
            self.ground.tend(host, random, &mut self.succeeded);
        }
        if random.once_in(300) {
            host.fake.fail_after(random.below(12));
        }
        match random.below(16) {
            0 => self.courier.step(random),
            1 => self.ground.attack(host, random),
            _ => {
                host.fake.take_steps();
                let name = self.ground.step(host, random, &self.rows);
                let steps = host.fake.take_steps();
                assert!(steps <= MOST_STEPS, "{name:?} took {steps} steps");
                self.calls += 1;
                if let Some(name) = name {
                    *self.succeeded.entry(name).or_default() += 1;
                }
            }
        }
        self.courier.rig.host.fake.disarm();
    }

    fn check(&self) {
        let tables = oracle::check(&self.courier.rig.host);
        self.courier.judge_memory(&tables);
        self.courier.rig.host.fake.forget_history();
    }

    fn made(&self) -> u64 {
        self.calls + self.courier.calls
    }

    /// Gives everything back; returns how often each call has succeeded.
    fn end(mut self) -> Tally {
        self.check();
        let mut all = self.succeeded;
        all.append(&mut self.ground.guest_calls());
        for (name, count) in &self.courier.succeeded {
            *all.entry(name).or_default() += count;
        }
        let host = &self.courier.rig.host;
        host.fake.script().otherwise(None);
        self.ground.take_back(host);
        self.courier.take_back();
        all
    }
}

/// E04, P1, P2, P4, A09: a million calls; prints the seed, and how often what succeeded.
#[test]
fn any_sequence_of_calls_keeps_the_tables_true() {
    let began = Instant::now();
    let mut made = 0;
    let mut all = Tally::new();
    let runs: Vec<(u64, Tally)> = std::thread::scope(|scope| {
        let halves = SEEDS
            .chunks(2)
            .map(|seeds| scope.spawn(|| seeds.iter().map(|seed| run(*seed)).collect::<Vec<_>>()));
        let halves: Vec<_> = halves.collect();
        let ends = halves.into_iter().flat_map(|half| match half.join() {
            Ok(runs) => runs,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ends.collect()
    });
    for (calls, tally) in runs {
        made += calls;
        for (name, count) in tally {
            *all.entry(name).or_default() += count;
        }
    }
    println!(
        "{made} calls in {:.0} s; successes:",
        began.elapsed().as_secs_f32()
    );
    for (name, count) in &all {
        println!("  {count:8} {name}");
    }
    assert!(made >= SEEDS.len() as u64 * CALLS);
    // A random walk that gets nowhere shows nothing.
    // Two belong before the first call of the walk, and nothing is ever reclaimed.
    let never = [
        "RMI_RMM_ACTIVATE",
        "RMI_RMM_CONFIG_SET",
        "RMI_OP_MEM_RECLAIM",
    ];
    let host_calls = ROWS.iter().filter(|row| !never.contains(&row.name));
    for row in host_calls.chain(rsi::ROWS).filter(|row| row.implemented) {
        assert!(all.contains_key(row.name), "{} never succeeded", row.name);
    }
}

fn run(seed: u64) -> (u64, Tally) {
    println!("seed {seed}");
    let mut world = World::new(seed);
    let mut next = 0;
    while world.made() < CALLS {
        world.step();
        if world.made() >= next {
            next = world.made() + 500;
            world.check();
        }
    }
    (world.made(), world.end())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// E04: short sequences, which shrink to what fails.
    #[test]
    fn a_short_sequence_of_calls_keeps_the_tables_true(
        steps in prop::collection::vec(any::<u64>(), 1..300),
    ) {
        let mut world = World::new(1);
        for step in steps {
            world.random = Random::seeded(step);
            world.step();
        }
        world.end();
    }
}

#[test]
fn calls_from_several_processors_leave_no_lock_and_no_contradiction() {
    let rows = rows();
    let host = Host::activated();
    let playground = Playground::new(&host);
    playground.wake_guests(&host, 1, 0);
    for round in 1..=3_u64 {
        std::thread::scope(|scope| {
            for thread in 1..=3_u64 {
                let (playground, host, rows) = (&playground, &host, &rows);
                scope.spawn(move || {
                    let mut random = Random::seeded(round * 1000 + thread);
                    for _ in 0..2500 {
                        playground.step(host, &mut random, rows);
                    }
                });
            }
        });
        oracle::check(&host);
    }
}

#[test]
fn of_several_activations_at_once_exactly_one_succeeds() {
    for _ in 0..20 {
        let host = Host::new();
        let activated = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    if host.status(Call::RmmActivate {}) == RmiStatus::SUCCESS {
                        activated.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(activated.into_inner(), 1);
    }
}
