// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which CPU may use translations of which age.
//!
//! Whoever takes a translation away makes a new generation. A CPU enters a guest with the translations of
//! the generation of that moment; if that is a newer one than last time, it forgets all that it remembers
//! first. A CPU that is inside a guest with an older generation has to be brought out of it. One that is
//! outside is no concern: it will see the new generation before it enters again.

use core::array;
use core::sync::atomic::{AtomicU64, Ordering};

/// What a CPU says while it is outside of guests.
const OUTSIDE: u64 = 0;

/// One CPU.
struct Slot {
    /// The generation of the guest that the CPU is inside of, or [`OUTSIDE`].
    inside: AtomicU64,
    /// The generation at which the CPU last forgot.
    forgot: AtomicU64,
}

/// The generations of `N` CPUs.
pub struct Generations<const N: usize> {
    now: AtomicU64,
    slots: [Slot; N],
}

impl<const N: usize> Generations<N> {
    /// Makes the first generation. Every CPU forgets at its first entry.
    pub const fn new() -> Self {
        Self {
            now: AtomicU64::new(OUTSIDE + 1),
            slots: [const {
                Slot {
                    inside: AtomicU64::new(OUTSIDE),
                    forgot: AtomicU64::new(OUTSIDE),
                }
            }; N],
        }
    }

    /// Marks `cpu` as inside a guest. Returns whether it must forget its translations as it enters, which
    /// a CPU without a number always must.
    pub fn enter(&self, cpu: usize) -> bool {
        let Some(slot) = self.slots.get(cpu) else {
            return true;
        };
        let mut now = self.now.load(Ordering::SeqCst);
        loop {
            // Either whoever makes a new generation sees this store, or the load after it sees the new
            // generation: all four accesses are in one order.
            slot.inside.store(now, Ordering::SeqCst);
            let latest = self.now.load(Ordering::SeqCst);
            if latest == now {
                break;
            }
            now = latest;
        }
        slot.forgot.swap(now, Ordering::Relaxed) != now
    }

    /// Marks `cpu` as outside of guests.
    pub fn leave(&self, cpu: usize) {
        if let Some(slot) = self.slots.get(cpu) {
            slot.inside.store(OUTSIDE, Ordering::SeqCst);
        }
    }

    /// Makes a new generation and returns it. Changes of tables before this are seen by whoever enters
    /// with it.
    pub fn renew(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// Returns which CPUs are inside a guest with translations older than `generation`.
    pub fn behind(&self, generation: u64) -> [bool; N] {
        array::from_fn(|cpu| {
            let inside = self
                .slots
                .get(cpu)
                .map_or(OUTSIDE, |slot| slot.inside.load(Ordering::SeqCst));
            inside != OUTSIDE && inside < generation
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Generations;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    #[test]
    fn a_cpu_forgets_once_a_generation() {
        let generations = Generations::<2>::new();
        assert!(generations.enter(0));
        generations.leave(0);
        assert!(!generations.enter(0));
        generations.leave(0);
        generations.renew();
        assert!(generations.enter(0));
        generations.leave(0);
        assert!(!generations.enter(0));
        assert!(generations.enter(1));
        assert!(generations.enter(7), "a CPU without a number");
    }

    #[test]
    fn only_those_inside_with_an_older_generation_are_behind() {
        let generations = Generations::<3>::new();
        generations.enter(0);
        generations.enter(1);
        generations.leave(1);
        let new = generations.renew();
        generations.enter(2);
        assert_eq!(generations.behind(new), [true, false, false]);
        generations.leave(0);
        assert_eq!(generations.behind(new), [false; 3]);
        // It enters with the new generation: nobody waits for it.
        generations.enter(0);
        assert_eq!(generations.behind(new), [false; 3]);
        let newer = generations.renew();
        assert_eq!(generations.behind(newer), [true, false, true]);
    }

    /// Two CPUs remember a table of one entry from one entry to a guest to the next, as a translation
    /// buffer does. A third thread changes it, and waits until no CPU is behind. From then on nobody inside
    /// a guest may use the old content.
    #[test]
    fn nobody_uses_what_was_taken_away_before_a_shootdown_ended() {
        const ROUNDS: u64 = 2_000;
        let generations = &Generations::<2>::new();
        let table = &AtomicU64::new(0);
        let gone = &AtomicU64::new(0);
        let done = &AtomicBool::new(false);
        thread::scope(|scope| {
            for cpu in 0..2 {
                scope.spawn(move || {
                    let mut remembered = 0;
                    while !done.load(Ordering::SeqCst) {
                        if generations.enter(cpu) {
                            remembered = table.load(Ordering::Relaxed);
                        }
                        let limit = gone.load(Ordering::SeqCst);
                        assert!(remembered >= limit, "{remembered} is gone since {limit}");
                        generations.leave(cpu);
                    }
                });
            }
            for round in 1..=ROUNDS {
                table.store(round, Ordering::Relaxed);
                let new = generations.renew();
                while generations.behind(new).contains(&true) {
                    thread::yield_now();
                }
                gone.store(round, Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
    }
}
