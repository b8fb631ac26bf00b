// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::{Event, Phase, Requester, TRANSITIONS};
use crate::crypto::Ephemeral;

#[test]
fn a_requester_is_small_enough_to_stand_in_a_granule_with_its_object() {
    let size = size_of::<Requester>();
    println!("size_of::<Requester>() = {size}");
    assert!(size < 3 * 1024);
    fn movable<T: Send + 'static>() {}
    movable::<Requester<Ephemeral>>();
}

#[test]
fn no_phase_has_two_ways_for_one_event() {
    for (index, (from, event, _)) in TRANSITIONS.iter().enumerate() {
        let same = |(other, on, _): &&(Phase, Event, Phase)| (other, on) == (from, event);
        assert_eq!(TRANSITIONS.iter().skip(index).filter(same).count(), 1);
    }
}

#[test]
fn nothing_follows_an_end() {
    for end in [Phase::Ended, Phase::Dead] {
        assert!(TRANSITIONS.iter().all(|(from, _, _)| *from != end));
    }
}
