// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every interleaving of a host, two guests, two interfaces and their device, to a fixed depth, on
//! the tables that the firmware runs on. For each promise there is a broken firmware whose breach
//! the same search finds.

mod system;

use stateright::{Checker, HasDiscoveries, Model, Property};
use system::{Action, Answer, Flaw, System, TDIS, VMS};
use tsm_core::tables::interface::{Grant, Request, State, find};
use tsm_core::tables::stream;

/// Moves from each point of the good way within which everything is tried.
const DEPTH: usize = 6;
/// Most calls by which a host takes one interface back, whatever happened.
const MOST_CALLS: usize = 8;

struct World(Flaw);

/// Returns the moves from creation through use to a second lock.
fn good_way(tdi: usize, vm: usize) -> Vec<Action> {
    let pump = Action::Pump(tdi, Answer::Honest);
    let exchange = |request| {
        let steps = State::ALL.iter().find_map(|state| find(*state, request));
        let steps = steps.map_or(0, |row| row.steps.len());
        let mut way = vec![Action::Ask(tdi, request)];
        way.extend(std::iter::repeat_n(pump, steps));
        way
    };
    let mut way = vec![Action::Create(tdi, vm), pump];
    way.extend(exchange(Request::Lock));
    way.extend(exchange(Request::Measure));
    way.extend(exchange(Request::Report));
    way.extend([
        Action::Verify(tdi),
        Action::Map(tdi),
        Action::AcceptMemory(tdi),
    ]);
    way.extend(exchange(Request::Start));
    way.extend([Action::EnableDma(tdi), Action::Unmap(tdi)]);
    way.extend(exchange(Request::Unlock));
    way.extend(exchange(Request::Lock));
    way
}

impl Model for World {
    type State = System;
    type Action = Action;

    /// Every point of the way of two devices that go from creation through use to a second lock:
    /// what a host, a guest or a device may do amiss, it may do there.
    fn init_states(&self) -> Vec<System> {
        let mut system = System::new();
        let mut points = vec![system.clone()];
        for (tdi, vm) in [(0, 0), (1, 1)] {
            for action in good_way(tdi, vm) {
                let next = system.after(action, self.0);
                // A broken firmware may not come as far.
                let Some(next) = next else { break };
                system = next;
                points.push(system.clone());
            }
        }
        points
    }

    fn actions(&self, _: &System, actions: &mut Vec<Action>) {
        for tdi in 0..TDIS {
            actions.extend((0..VMS).map(|vm| Action::Create(tdi, vm)));
            actions.extend(Request::ALL.map(|request| Action::Ask(tdi, request)));
            actions.extend(
                [
                    Answer::Honest,
                    Answer::Pretends,
                    Answer::OtherState,
                    Answer::Busy,
                    Answer::BusyForEver,
                    Answer::Refuses,
                    Answer::Silent,
                ]
                .map(|answer| Action::Pump(tdi, answer)),
            );
            actions.extend([
                Action::Map(tdi),
                Action::Unmap(tdi),
                Action::Abort(tdi),
                Action::Destroy(tdi),
                Action::Disturb(tdi),
                Action::Verify(tdi),
                Action::AcceptMemory(tdi),
                Action::EnableDma(tdi),
                Action::DeviceFails(tdi),
                Action::DeviceResets(tdi),
            ]);
        }
        actions.extend((0..VMS).map(Action::DestroyVm));
        actions.extend(stream::Event::ALL.map(Action::Stream));
        actions.extend([
            Action::LoseSession,
            Action::NewSession,
            Action::Stick,
            Action::Unstick,
        ]);
    }

    fn next_state(&self, last: &System, action: Action) -> Option<System> {
        last.after(action, self.0)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("P1", |_: &Self, system: &System| {
                system.tdis.iter().all(|tdi| {
                    let Some(object) = tdi.object.as_ref().filter(|object| object.dma) else {
                        return true;
                    };
                    let is_backed = tdi.is_of_this_lock() && system.is_protecting();
                    system.alive[object.owner]
                        && object.state() == State::Started
                        && (is_backed || object.is_condemned())
                })
            }),
            Property::always("P2", |_: &Self, system: &System| {
                system.tdis.iter().all(|tdi| {
                    let Some(object) = tdi.object.as_ref().filter(|object| object.private) else {
                        return true;
                    };
                    object.state().allows(Grant::Memory)
                        && system.alive[object.owner]
                        && tdi.is_of_this_lock()
                })
            }),
            Property::always("P3", |_: &Self, system: &System| {
                let objects = system.tdis.iter().filter_map(|tdi| tdi.object.as_ref());
                objects.into_iter().all(|object| {
                    let is_left = object.state() != State::Started
                        || object.request() == Some(Request::Unlock);
                    !(is_left && object.dma) && (object.state().is_bound() || !object.private)
                })
            }),
            Property::always("P4", |_: &Self, system: &System| {
                let objects = system.tdis.iter().filter_map(|tdi| tdi.object.as_ref());
                objects.into_iter().all(|object| {
                    let is_needed = object.state() == State::Locked
                        && object.request() != Some(Request::Unlock)
                        || object.request() == Some(Request::Lock);
                    !object.start_nonce || is_needed
                })
            }),
            Property::always("P5", |world: &Self, system: &System| {
                is_reclaimed(system, world.0)
            }),
            Property::sometimes("a guest uses its device", |_: &Self, system: &System| {
                let mut objects = system.tdis.iter().filter_map(|tdi| tdi.object.as_ref());
                objects.any(|object| object.dma && object.private)
            }),
        ]
    }
}

/// Returns whether the host takes everything back with a bounded number of calls, from a device
/// that does not answer any more, once hardware confirms again.
fn is_reclaimed(system: &System, flaw: Flaw) -> bool {
    let mut system = system
        .after(Action::Unstick, flaw)
        .unwrap_or_else(|| system.clone());
    for tdi in 0..TDIS {
        let mut calls = 0;
        while system.tdis[tdi].object.is_some() {
            if calls == MOST_CALLS {
                return false;
            }
            let next = [
                Action::Destroy(tdi),
                Action::Unmap(tdi),
                Action::Pump(tdi, Answer::Silent),
                Action::Ask(tdi, Request::Unlock),
                Action::Abort(tdi),
            ]
            .into_iter()
            .find_map(|action| system.after(action, flaw));
            let Some(next) = next else {
                return false;
            };
            system = next;
            calls += 1;
        }
    }
    system.is_empty()
}

/// P1 to P5.
#[test]
fn every_interleaving_keeps_the_promises() {
    let checker = World(Flaw::None)
        .checker()
        .threads(2)
        .target_max_depth(DEPTH)
        .spawn_bfs()
        .join();
    println!(
        "{} states, {} distinct, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    for (promise, path) in checker.discoveries() {
        assert!(
            !promise.starts_with('P'),
            "{promise} is broken by {:?}",
            path.into_actions()
        );
    }
    assert!(checker.unique_state_count() > 100_000);
}

/// A search that cannot fail would show nothing.
#[test]
fn each_broken_firmware_is_found() {
    for (flaw, promise) in [
        (Flaw::UnconfirmedCut, "P3"),
        (Flaw::StaleEvidence, "P2"),
        (Flaw::UnlockKeepsDma, "P3"),
        (Flaw::KeptStartNonce, "P4"),
        (Flaw::NoCascade, "P1"),
        (Flaw::NoUnlockUnheard, "P5"),
    ] {
        let checker = World(flaw)
            .checker()
            .threads(2)
            .target_max_depth(DEPTH)
            .finish_when(HasDiscoveries::AllOf([promise].into()))
            .spawn_bfs()
            .join();
        assert!(checker.discovery(promise).is_some(), "{flaw:?}");
    }
}

/// The good way ends where it should: nothing on it is refused.
#[test]
fn the_good_way_is_legal_to_its_end() {
    let points = World(Flaw::None).init_states();
    let moves = good_way(0, 0).len() + good_way(1, 1).len();
    assert_eq!(points.len(), moves + 1);
}
