// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CPUs as threads that run one at a time, in an order that a seed decides.
//!
//! Every operation of the platform is a point at which another CPU may go on, and so is waiting for
//! a lock. The same seed gives the same order, so what a seed has found can be looked at again.

use std::cell::Cell;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Fake, lock};

/// Most CPUs that are interleaved.
pub const MOST_CPUS: usize = 8;
/// Waits in a row, of all CPUs together, after which nobody can be holding what they wait for.
const MOST_WAITS: u32 = 20_000;

/// What one CPU does.
pub type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

thread_local! {
    static CPU: Cell<Option<usize>> = const { Cell::new(None) };
}

#[derive(Default)]
pub(crate) struct Schedule {
    is_on: AtomicBool,
    turns: Mutex<Turns>,
    moved: [Condvar; MOST_CPUS],
}

#[derive(Default)]
struct Turns {
    random: u64,
    /// One operation in so many gives way.
    odds: u64,
    running: usize,
    alive: Vec<usize>,
    switches: u64,
    waits: u32,
}

impl Turns {
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Chooses who runs next among those that are alive, `but` not this one if it can be helped.
    fn choose(&mut self, but: Option<usize>) {
        let others = self.alive.iter().filter(|cpu| Some(**cpu) != but);
        let others: Vec<usize> = others.copied().collect();
        let from = if others.is_empty() {
            self.alive.clone()
        } else {
            others
        };
        if from.is_empty() {
            return;
        }
        let next = from[(self.draw() % from.len() as u64) as usize];
        self.switches += u64::from(next != self.running);
        self.running = next;
    }
}

impl Schedule {
    fn wait(&self, mut turns: std::sync::MutexGuard<'_, Turns>, cpu: usize) {
        self.moved[turns.running].notify_one();
        while turns.running != cpu {
            turns = match self.moved[cpu].wait(turns) {
                Ok(turns) => turns,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }

    /// Returns the number of the CPU that this thread is, if CPUs are interleaved.
    pub(crate) fn cpu(&self) -> Option<usize> {
        if self.is_on.load(Ordering::Relaxed) {
            CPU.get()
        } else {
            None
        }
    }

    /// Gives way to another CPU, or not, as the seed has it.
    pub(crate) fn pause(&self) {
        let Some(cpu) = self.cpu() else { return };
        let mut turns = lock(&self.turns);
        turns.waits = 0;
        let odds = turns.odds;
        if turns.draw().is_multiple_of(odds) {
            turns.choose(None);
            self.wait(turns, cpu);
        }
    }

    /// Lets another CPU run, because this one waits for it.
    pub(crate) fn relax(&self) {
        let Some(cpu) = self.cpu() else {
            std::thread::yield_now();
            return;
        };
        let mut turns = lock(&self.turns);
        turns.waits += 1;
        let is_stuck = turns.alive.len() == 1 || turns.waits > MOST_WAITS;
        if is_stuck && !std::thread::panicking() {
            drop(turns);
            panic!("CPU {cpu} waits for a lock that nobody will give back");
        }
        turns.choose(Some(cpu));
        self.wait(turns, cpu);
    }
}

/// Takes the CPU out when its work is over, however it ends.
struct Leave<'a>(&'a Schedule, usize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.0.turns);
        turns.alive.retain(|cpu| *cpu != self.1);
        turns.waits = 0;
        turns.choose(Some(self.1));
        self.0.moved[turns.running].notify_one();
        CPU.set(None);
    }
}

impl Fake {
    /// Runs each of `cpus` as a CPU, one at a time, in the order that `seed` decides. Returns how
    /// often another one went on.
    ///
    /// # Panics
    /// If a CPU panics, waits for a lock that nobody will give back, or there are too many.
    pub fn interleave(&self, seed: u64, cpus: Vec<Work<'_>>) -> u64 {
        assert!((1..=MOST_CPUS).contains(&cpus.len()));
        let schedule = &self.schedule;
        {
            let mut turns = lock(&schedule.turns);
            *turns = Turns {
                random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
                alive: (0..cpus.len()).collect(),
                ..Turns::default()
            };
            // Xorshift needs a few turns to spread the seed's bits.
            (0..8).for_each(|_| _ = turns.draw());
            // Races need a switch at one certain point, or at many: each is likely in some runs.
            turns.odds = [2, 5, 16, 48][(turns.draw() % 4) as usize];
            turns.choose(None);
            turns.switches = 0;
        }
        schedule.is_on.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for (cpu, work) in cpus.into_iter().enumerate() {
                scope.spawn(move || {
                    CPU.set(Some(cpu));
                    let _leave = Leave(schedule, cpu);
                    schedule.wait(lock(&schedule.turns), cpu);
                    work();
                });
            }
        });
        schedule.is_on.store(false, Ordering::Relaxed);
        lock(&schedule.turns).switches
    }

    /// Passes one operation of the platform, at which another CPU may go on.
    pub(crate) fn pause(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.schedule.pause();
    }

    /// Takes the number of operations of the platform: what bounds the time of a call.
    pub fn take_operations(&self) -> u64 {
        self.operations.swap(0, Ordering::Relaxed)
    }
}
