// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Error, NoEntropy, Stream};
use crate::key::{End, Key, KeySet};
use crate::state::StreamState;

type Keys = BTreeMap<u8, ([u8; 32], bool)>;

/// Two ends that keep what they are given, and a generator that never repeats itself.
#[derive(Default)]
struct Bench {
    device: Keys,
    root_port: Keys,
    /// Whether the root port's registers know the stream, and whether it is enabled.
    registers: Option<bool>,
    generated: u64,
    /// Operations driven so far.
    round: u64,
    /// Every key that was programmed: in which operation, and as which key.
    handed_out: BTreeMap<[u8; 32], (u64, u16)>,
}

impl Bench {
    fn random(&mut self) -> impl FnMut(&mut [u8; 32]) -> Result<(), NoEntropy> + '_ {
        |key| {
            self.generated += 1;
            key.fill(0xa5);
            key[..8].copy_from_slice(&self.generated.to_be_bytes());
            Ok(())
        }
    }

    fn next(&mut self, stream: &mut Stream) -> Option<Action> {
        let action = stream.next(&mut self.random()).unwrap();
        assert_eq!(stream.next(&mut self.random()).unwrap(), action);
        action
    }

    fn perform(&mut self, stream: &Stream, action: Action) {
        let every_key = self.root_port.len() >= Key::PER_SET;
        let keys = match action.end() {
            End::Device => &mut self.device,
            End::RootPort => &mut self.root_port,
        };
        let place = |key: Key| match action.end() {
            End::Device => key.device_byte(),
            // A root port's view is the device's with the direction turned.
            End::RootPort => key.device_byte() ^ 2,
        };
        match action {
            Action::Program(_, key) => {
                let bytes = *stream.material().unwrap().bytes();
                let use_of_it = (self.round, key.bit());
                let first_use = self.handed_out.entry(bytes).or_insert(use_of_it);
                assert_eq!(*first_use, use_of_it, "a key of another use");
                keys.insert(place(key), (bytes, false));
            }
            Action::Go(_, key) => keys.get_mut(&place(key)).unwrap().1 = true,
            Action::Stop(_, key) => {
                keys.remove(&place(key));
            }
            Action::Associate => {
                assert!(self.device.is_empty() && self.root_port.is_empty());
                self.registers = Some(false);
            }
            Action::Enable => {
                assert!(every_key);
                self.registers = Some(true);
            }
            Action::Clear => {
                assert!(self.root_port.is_empty());
                self.registers = None;
            }
        }
    }

    /// Does every action; `answer` says whether the nth one succeeds.
    fn drive(&mut self, stream: &mut Stream, mut succeeds: impl FnMut(usize, Action) -> bool) {
        self.round += 1;
        for step in 0..200 {
            let Some(action) = self.next(stream) else {
                assert!(no_key_is_left(stream));
                return;
            };
            if succeeds(step, action) {
                self.perform(stream, action);
                stream.acknowledge();
            } else {
                stream.fail();
                assert!(no_key_is_left(stream));
            }
        }
        panic!("a stream does not come to an end");
    }

    fn connected() -> (Self, Stream) {
        let mut bench = Self::default();
        let mut stream = Stream::new(3);
        stream.connect().unwrap();
        bench.drive(&mut stream, |_, _| true);
        stream.complete().unwrap();
        (bench, stream)
    }

    /// Returns whether both ends use the six keys of `set` and of no other set.
    fn both_use(&self, set: KeySet) -> bool {
        let names = |turn: u8| Key::of(set).map(move |key| key.device_byte() ^ turn);
        let expected: BTreeSet<u8> = names(0).collect();
        let same_key = |name: &u8| self.device.get(name) == self.root_port.get(&(name ^ 2));
        self.device.keys().copied().collect::<BTreeSet<_>>() == expected
            && self.root_port.keys().copied().collect::<BTreeSet<_>>() == expected
            && expected.iter().all(same_key)
            && self.device.values().all(|(_, going)| *going)
            && self.registers == Some(true)
    }

    fn neither_has_a_key(&self) -> bool {
        self.device.is_empty() && self.root_port.is_empty()
    }

    fn is_clear(&self) -> bool {
        self.neither_has_a_key() && self.registers.is_none()
    }
}

fn no_key_is_left(stream: &Stream) -> bool {
    stream.material.is_none() && stream.material().is_none()
}

#[test]
fn a_connected_stream_has_six_equal_keys_on_both_ends() {
    let (bench, stream) = Bench::connected();
    assert_eq!(stream.state(), StreamState::Connected);
    assert_eq!(stream.key_set(), Some(KeySet::K0));
    assert!(bench.both_use(KeySet::K0));
    assert!(no_key_is_left(&stream));
}

#[test]
fn a_refresh_changes_the_key_set_and_forgets_the_old_one() {
    let (mut bench, mut stream) = Bench::connected();
    for set in [KeySet::K1, KeySet::K0, KeySet::K1] {
        stream.refresh().unwrap();
        bench.drive(&mut stream, |_, _| true);
        stream.complete().unwrap();
        assert_eq!(stream.key_set(), Some(set));
        assert!(bench.both_use(set));
    }
}

#[test]
fn no_key_is_used_twice() {
    let (mut bench, mut stream) = Bench::connected();
    for _ in 0..4 {
        stream.refresh().unwrap();
        bench.drive(&mut stream, |_, _| true);
        stream.complete().unwrap();
    }
    assert_eq!(bench.handed_out.len(), 5 * Key::PER_SET);
    assert_eq!(bench.generated, 5 * 6);
}

#[test]
fn every_receiver_goes_before_any_transmitter() {
    let mut bench = Bench::default();
    let mut stream = Stream::new(0);
    stream.connect().unwrap();
    let mut receivers = 0;
    let mut programmed = 0;
    bench.drive(&mut stream, |_, action| {
        match action {
            Action::Program(..) => programmed += 1,
            Action::Go(end, key) if key.is_transmitted_by(end) => assert_eq!(receivers, 6),
            Action::Go(..) => {
                assert_eq!(programmed, 12);
                receivers += 1;
            }
            Action::Associate => assert_eq!(programmed, 0),
            Action::Enable => assert_eq!((programmed, receivers), (12, 6)),
            Action::Stop(..) | Action::Clear => panic!("nothing to stop"),
        }
        true
    });
}

#[test]
fn a_disconnected_stream_leaves_no_key_anywhere() {
    let (mut bench, mut stream) = Bench::connected();
    stream.disconnect().unwrap();
    assert_eq!(stream.key_set(), None);
    bench.drive(&mut stream, |_, _| true);
    stream.complete().unwrap();
    assert_eq!(stream.state(), StreamState::Disconnected);
    assert!(bench.is_clear());
    stream.connect().unwrap();
    bench.drive(&mut stream, |_, _| true);
    stream.complete().unwrap();
    assert!(bench.both_use(KeySet::K0));
}

#[test]
fn a_connect_that_fails_at_any_step_leaves_no_key_on_either_end() {
    // The registers, 12 keys, 6 receivers, 6 transmitters, and enabling.
    for failing in 0..26 {
        for done_anyway in [false, true] {
            let mut bench = Bench::default();
            let mut stream = Stream::new(9);
            stream.connect().unwrap();
            for step in 0.. {
                let action = bench.next(&mut stream).unwrap();
                if step == failing {
                    // The end may have acted although its answer was lost.
                    if done_anyway {
                        bench.perform(&stream, action);
                    }
                    stream.fail();
                    break;
                }
                bench.perform(&stream, action);
                stream.acknowledge();
            }
            assert_eq!(stream.state(), StreamState::Disconnecting);
            assert_eq!(stream.complete(), Err(Error::Unfinished));
            bench.drive(&mut stream, |_, _| true);
            assert!(bench.is_clear(), "step {failing}");
            stream.complete().unwrap();
            assert_eq!(stream.state(), StreamState::Disconnected);
        }
    }
}

#[test]
fn a_refresh_that_fails_before_a_transmitter_goes_keeps_the_old_keys() {
    // 12 keys, 6 receivers.
    for failing in 0..18 {
        let (mut bench, mut stream) = Bench::connected();
        stream.refresh().unwrap();
        bench.drive(&mut stream, |step, _| step != failing);
        assert_eq!(stream.state(), StreamState::Purging, "step {failing}");
        stream.complete().unwrap();
        assert_eq!(stream.key_set(), Some(KeySet::K0));
        assert!(bench.both_use(KeySet::K0));
        stream.refresh().unwrap();
        bench.drive(&mut stream, |_, _| true);
        stream.complete().unwrap();
        assert!(bench.both_use(KeySet::K1));
    }
}

#[test]
fn a_refresh_that_fails_later_takes_the_stream_down() {
    // 6 transmitters, 12 stops of the old set.
    for failing in 18..36 {
        let (mut bench, mut stream) = Bench::connected();
        stream.refresh().unwrap();
        let mut lost = false;
        bench.drive(&mut stream, |step, action| {
            let stops = matches!(action, Action::Stop(End::Device, _));
            lost |= step == failing && stops;
            step != failing
        });
        assert_eq!(stream.state(), StreamState::Disconnecting, "step {failing}");
        stream.complete().unwrap();
        assert_eq!(stream.state(), StreamState::Disconnected);
        assert!(bench.root_port.is_empty());
        assert!(lost || bench.device.is_empty());
    }
}

#[test]
fn a_lost_device_is_not_asked_again_and_the_root_port_forgets() {
    for reached in 0..26 {
        let mut bench = Bench::default();
        let mut stream = Stream::new(9);
        stream.connect().unwrap();
        for _ in 0..reached {
            let action = bench.next(&mut stream).unwrap();
            bench.perform(&stream, action);
            stream.acknowledge();
        }
        let _ = bench.next(&mut stream);
        stream.lose_device();
        assert!(no_key_is_left(&stream));
        assert_eq!(stream.state(), StreamState::Disconnecting);
        bench.drive(&mut stream, |_, action| {
            assert_eq!(action.end(), End::RootPort);
            true
        });
        stream.complete().unwrap();
        assert!(bench.root_port.is_empty() && bench.registers.is_none());
    }
    let (_, mut stream) = Bench::connected();
    stream.lose_device();
    assert_eq!(stream.state(), StreamState::Disconnecting);
}

#[test]
fn a_root_port_that_does_not_stop_is_asked_again() {
    let (mut bench, mut stream) = Bench::connected();
    stream.disconnect().unwrap();
    let mut refusals = 0;
    bench.drive(&mut stream, |_, action| {
        let refuse = action.end() == End::RootPort && refusals < 3;
        refusals += usize::from(refuse);
        !refuse
    });
    assert_eq!(refusals, 3);
    assert!(bench.neither_has_a_key());
}

#[test]
fn without_entropy_nothing_is_programmed() {
    for weak in [false, true] {
        let mut bench = Bench::default();
        let mut stream = Stream::new(1);
        stream.connect().unwrap();
        assert_eq!(bench.next(&mut stream), Some(Action::Associate));
        stream.acknowledge();
        let mut random = |_: &mut [u8; 32]| if weak { Ok(()) } else { Err(NoEntropy) };
        assert_eq!(stream.next(&mut random), Err(Error::Entropy));
        assert_eq!(stream.state(), StreamState::Connecting);
        assert!(no_key_is_left(&stream));
        stream.fail();
        assert_eq!(stream.next(&mut random), Ok(Some(Action::Clear)));
        stream.acknowledge();
        assert_eq!(stream.next(&mut random), Ok(None));
        stream.complete().unwrap();
        assert_eq!(stream.state(), StreamState::Disconnected);
    }
}

#[test]
fn requests_out_of_turn_change_nothing() {
    let (_, mut stream) = Bench::connected();
    assert_eq!(stream.connect(), Err(Error::State));
    assert_eq!(stream.complete(), Err(Error::State));
    assert_eq!(stream.state(), StreamState::Connected);
    stream.refresh().unwrap();
    assert_eq!(stream.complete(), Err(Error::Unfinished));
    assert_eq!(stream.disconnect(), Err(Error::State));
    assert_eq!(stream.state(), StreamState::Refreshing);
    let mut stream = Stream::new(0);
    assert_eq!(stream.refresh(), Err(Error::State));
    assert_eq!(stream.disconnect(), Err(Error::State));
}

/// C05
#[test]
fn over_many_refreshes_with_failures_no_key_is_ever_used_twice() {
    let (mut bench, mut stream) = Bench::connected();
    // A small generator of its own: which step of which refresh fails.
    let mut state = 0x1234_5678_u32;
    for _ in 0..5_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let failing = (state >> 24) as usize;
        let mut sets = [bench.device.clone(), bench.root_port.clone()];
        for (_, going) in sets.iter_mut().flat_map(|keys| keys.values_mut()) {
            *going = true;
        }
        let old = stream.key_set().unwrap();
        stream.refresh().unwrap();
        bench.drive(&mut stream, |step, _| step != failing);
        stream.complete().unwrap();
        match stream.state() {
            StreamState::Connected => {
                let new = stream.key_set().unwrap();
                assert!(bench.both_use(new), "never half and half");
                assert_eq!(new == old, failing < 18);
                assert_eq!(sets[0] == bench.device, failing < 18);
            }
            state => {
                assert_eq!(state, StreamState::Disconnected);
                assert!(bench.root_port.is_empty() && bench.registers.is_none());
                bench.device.clear();
                stream.connect().unwrap();
                bench.drive(&mut stream, |_, _| true);
                stream.complete().unwrap();
            }
        }
    }
    assert!(bench.handed_out.len() > 20_000);
}

/// CVE-2025-9614
#[test]
fn a_purge_stops_what_either_end_may_have_kept_of_the_other_set() {
    let (mut bench, mut stream) = Bench::connected();
    // Keys of an old set that an end should have forgotten.
    for key in Key::of(KeySet::K1) {
        bench.device.insert(key.device_byte(), ([7; 32], true));
        bench
            .root_port
            .insert(key.device_byte() ^ 2, ([7; 32], true));
    }
    assert!(!bench.both_use(KeySet::K0));
    stream.purge().unwrap();
    assert_eq!(stream.key_set(), Some(KeySet::K0), "packets still flow");
    let mut stopped = 0;
    bench.drive(&mut stream, |_, action| {
        stopped += usize::from(matches!(action, Action::Stop(..)));
        true
    });
    stream.complete().unwrap();
    assert_eq!(stopped, 2 * Key::PER_SET);
    assert!(bench.both_use(KeySet::K0));
}

#[test]
fn a_purge_that_a_device_refuses_takes_the_stream_down() {
    for failing in 0..12 {
        let (mut bench, mut stream) = Bench::connected();
        stream.purge().unwrap();
        bench.drive(&mut stream, |step, _| step != failing);
        stream.complete().unwrap();
        assert_eq!(stream.state(), StreamState::Disconnected, "step {failing}");
        assert!(bench.root_port.is_empty() && bench.registers.is_none());
    }
}
