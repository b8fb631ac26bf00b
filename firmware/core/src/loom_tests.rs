// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Two CPUs at the words of the table of granules, in every order that the memory model allows.
//!
//! What a lock protects is a counter that is read and written without ordering: a count is lost if
//! two are inside at once, and also if the release of one does not publish it to the next.

use std::sync::Mutex;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use tsm_platform::{GRANULE_SIZE, GranuleRange};

use crate::error::{Error, Result};
use crate::granule::{Kind, Locks, Region, State, Table};
use crate::sync::AtomicU32;
use crate::system::Activation;

const BASE: u64 = 0x8000_0000;
const NEXT: u64 = BASE + GRANULE_SIZE;
const HOSTS: State = State::Undelegated;
const OURS: State = State::Delegated;

struct Shared {
    table: Table,
    counter: AtomicU64,
    gate: AtomicU64,
}

impl Shared {
    fn new() -> Arc<Self> {
        let words = Box::leak(Box::new([AtomicU32::new(0), AtomicU32::new(0)]));
        let range = GranuleRange::new(BASE, NEXT + GRANULE_SIZE).unwrap();
        let region = Region::new(range, Kind::Memory, words).unwrap();
        Arc::new(Self {
            table: Table::new(Box::leak(Box::new([region]))),
            counter: AtomicU64::new(0),
            gate: AtomicU64::new(0),
        })
    }

    fn count(&self) {
        let value = self.counter.load(Ordering::Relaxed);
        self.counter.store(value + 1, Ordering::Relaxed);
    }

    /// Counts under the lock of the granule at [`BASE`].
    fn count_locked(&self) -> Result<()> {
        let locks = Locks::default();
        let guard = locks.lock(&self.table, BASE, HOSTS, thread::yield_now)?;
        self.count();
        drop(guard);
        Ok(())
    }

    /// Counts while the granule at [`BASE`] is claimed.
    fn count_claimed(&self) -> Result<()> {
        self.table.claim(BASE, HOSTS, State::Moving)?;
        self.count();
        self.table.change(BASE, State::Moving, HOSTS)
    }
}

type Work<A> = fn(&Shared) -> A;

/// Runs `one` and `other` on two CPUs in every order, and `judge` once both are done. Returns each
/// pair of answers that there was.
fn on_two_cpus<A: Copy + PartialEq + Send + 'static>(
    one: Work<A>,
    other: Work<A>,
    judge: fn(&Shared, [A; 2]),
) -> Vec<[A; 2]> {
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let sight = seen.clone();
    loom::model(move || {
        let shared = Shared::new();
        let theirs = shared.clone();
        // The checker looks at who comes first where both write: without the gate it takes one that
        // only reads a word and goes for one that has no part in the order.
        let first = thread::spawn(move || {
            theirs.gate.fetch_add(1, Ordering::Relaxed);
            one(&theirs)
        });
        shared.gate.fetch_add(1, Ordering::Relaxed);
        let second = other(&shared);
        let answers = [first.join().unwrap(), second];
        judge(&shared, answers);
        assert!(shared.table.is_quiet(), "a lock outlived its holder");
        let mut sight = sight.lock().unwrap();
        if !sight.contains(&answers) {
            sight.push(answers);
        }
    });
    seen.lock().unwrap().clone()
}

/// Asserts that the counter has one count for each success.
fn assert_none_lost(shared: &Shared, answers: [Result<()>; 2]) {
    let successes = answers.iter().filter(|answer| answer.is_ok()).count();
    let counted = shared.counter.load(Ordering::Relaxed);
    assert_eq!(counted, successes as u64, "{answers:?}");
    assert_ne!(successes, 0);
    assert_eq!(shared.table.state(BASE), Ok(HOSTS));
}

const DONE: Result<()> = Ok(());
const BUSY: Result<()> = Err(Error::Busy);
const REFUSED: Result<()> = Err(Error::Input);

#[test]
fn two_that_lock_a_granule_are_never_inside_at_once() {
    let seen = on_two_cpus(Shared::count_locked, Shared::count_locked, assert_none_lost);
    assert!(seen.contains(&[DONE, DONE]));
}

#[test]
fn of_two_that_claim_a_granule_for_themselves_exactly_one_gets_it() {
    let claim: Work<_> = |shared| shared.table.claim(BASE, HOSTS, OURS);
    let seen = on_two_cpus(claim, claim, |shared, _| {
        assert_eq!(shared.table.state(BASE), Ok(OURS));
    });
    assert_eq!(seen.len(), 2);
    assert!(seen.contains(&[DONE, REFUSED]) && seen.contains(&[REFUSED, DONE]));
}

#[test]
fn a_claim_and_a_lock_never_have_a_granule_together() {
    let seen = on_two_cpus(
        Shared::count_claimed,
        Shared::count_locked,
        assert_none_lost,
    );
    // What is claimed is in another state, and not waited for.
    assert!(
        seen.contains(&[DONE, DONE]) && seen.contains(&[DONE, REFUSED]),
        "{seen:?}"
    );
    // A lock is no other state.
    assert!(!seen.contains(&[REFUSED, DONE]) && !seen.contains(&[DONE, BUSY]));
}

#[test]
fn a_claim_is_published_to_the_next_that_locks() {
    let give: Work<_> = |shared| {
        shared.table.claim(BASE, HOSTS, State::Moving)?;
        shared.count();
        shared.table.change(BASE, State::Moving, OURS)
    };
    let take: Work<_> = |shared| {
        let locks = Locks::default();
        let _guard = locks.lock(&shared.table, BASE, OURS, thread::yield_now)?;
        shared.count();
        Ok(())
    };
    let seen = on_two_cpus(give, take, |shared, answers| {
        let both = answers == [DONE, DONE];
        let counted = shared.counter.load(Ordering::Relaxed);
        assert_eq!(counted, 1 + u64::from(both));
    });
    assert!(
        seen.contains(&[DONE, DONE]) && seen.contains(&[DONE, REFUSED]),
        "{seen:?}"
    );
}

#[test]
fn two_that_name_two_granules_in_both_orders_do_not_wait_for_each_other() {
    fn count(shared: &Shared, first: u64, second: u64) -> Result<()> {
        let locks = Locks::default();
        let (first, second) = ((first, HOSTS), (second, HOSTS));
        let _guards = locks.lock_two(&shared.table, first, second, thread::yield_now)?;
        shared.count();
        Ok(())
    }
    // Waiting is bounded: two that wait for each other are both told that the other is busy.
    let seen = on_two_cpus(
        |shared| count(shared, BASE, NEXT),
        |shared| count(shared, NEXT, BASE),
        assert_none_lost,
    );
    assert!(seen.contains(&[DONE, DONE]));
}

#[test]
fn no_reference_is_lost_to_another_or_to_a_lock_or_a_new_state() {
    let refer: Work<_> = |shared| shared.table.refer(BASE, 1);
    let change: Work<_> = |shared| {
        let locks = Locks::default();
        let guard = locks.lock(&shared.table, BASE, HOSTS, thread::yield_now)?;
        guard.set_state(OURS);
        drop(guard);
        shared.table.refer(BASE, 1)
    };
    for (one, state) in [(refer, HOSTS), (change, OURS)] {
        let judge = if state == HOSTS {
            |shared: &Shared, _| assert_eq!(shared.table.references(BASE), Ok(2))
        } else {
            |shared: &Shared, answers: [Result<()>; 2]| {
                let expected = answers.iter().filter(|answer| answer.is_ok()).count();
                assert_eq!(shared.table.references(BASE), Ok(expected as u32));
            }
        };
        let seen = on_two_cpus(one, refer, judge);
        assert!(seen.contains(&[DONE, DONE]));
    }
}

#[test]
fn a_granule_of_the_host_is_referred_to_or_taken_and_never_both() {
    let refer: Work<_> = |shared| shared.table.refer_undelegated(BASE);
    let claim: Work<_> = |shared| shared.table.claim(BASE, HOSTS, OURS);
    let seen = on_two_cpus(refer, claim, |_, _| ());
    assert_eq!(seen.len(), 2);
    assert!(seen.contains(&[DONE, REFUSED]) && seen.contains(&[REFUSED, DONE]));
}

#[test]
fn of_two_activations_exactly_one_succeeds() {
    loom::model(|| {
        let activation = Arc::new(Activation::new());
        let theirs = activation.clone();
        let other = thread::spawn(move || theirs.activate());
        let answers = [activation.activate(), other.join().unwrap()];
        assert!(answers.contains(&DONE) && answers.contains(&Err(Error::Global)));
        assert!(activation.is_active());
    });
}
