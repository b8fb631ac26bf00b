// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! States of a stream.

/// State of a stream between a root port and a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// Both ends use one key set.
    Connected,
    /// The first key set is on its way to both ends.
    Connecting,
    /// Neither end has a key.
    Disconnected,
    /// All keys are being stopped on both ends.
    Disconnecting,
    /// The key set that is not in use is being stopped, whether or not an end has any of it.
    Purging,
    /// The other key set is on its way to both ends.
    Refreshing,
}

impl StreamState {
    /// Every state, in the order of the ABI.
    pub const ALL: [Self; 6] = [
        Self::Connected,
        Self::Connecting,
        Self::Disconnected,
        Self::Disconnecting,
        Self::Purging,
        Self::Refreshing,
    ];

    /// Returns the number that the ABI uses.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Connected => 0,
            Self::Connecting => 1,
            Self::Disconnected => 2,
            Self::Disconnecting => 3,
            Self::Purging => 4,
            Self::Refreshing => 5,
        }
    }
}

/// What moves a stream from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host wants the stream.
    Connect,
    /// The host wants new keys.
    Refresh,
    /// The host wants the key set that is not in use forgotten.
    Purge,
    /// The host wants the stream gone.
    Disconnect,
    /// Every action of the present state is done.
    Complete,
    /// An action failed and no transmitter may have taken up the new keys.
    FailBeforeUse,
    /// An action failed otherwise.
    Fail,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Refresh,
        Self::Purge,
        Self::Disconnect,
        Self::Complete,
        Self::FailBeforeUse,
        Self::Fail,
    ];
}

/// One row of [`TRANSITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: StreamState,
    /// What happens.
    pub event: Event,
    /// State after.
    pub to: StreamState,
}

const fn row(from: StreamState, event: Event, to: StreamState) -> Transition {
    Transition { from, event, to }
}

/// Every legal change of state; what is not here is refused.
///
/// A receiver may refuse the old key set once it has seen the new one (PCIe 6.0, 6.33.5), so a
/// refresh can be taken back only before the first transmitter goes.
pub const TRANSITIONS: [Transition; 14] = {
    use Event::{Complete, Connect, Disconnect, Fail, FailBeforeUse, Purge, Refresh};
    use StreamState::{Connected, Connecting, Disconnected, Disconnecting, Purging, Refreshing};
    [
        row(Disconnected, Connect, Connecting),
        row(Connecting, Complete, Connected),
        row(Connecting, FailBeforeUse, Disconnecting),
        row(Connecting, Fail, Disconnecting),
        row(Connected, Refresh, Refreshing),
        row(Refreshing, Complete, Connected),
        row(Refreshing, FailBeforeUse, Purging),
        row(Refreshing, Fail, Disconnecting),
        row(Connected, Purge, Purging),
        row(Purging, Complete, Connected),
        row(Purging, Fail, Disconnecting),
        row(Connected, Disconnect, Disconnecting),
        row(Disconnecting, Complete, Disconnected),
        row(Disconnecting, Fail, Disconnecting),
    ]
};

impl StreamState {
    /// Returns the state after `event`, or `None` when [`TRANSITIONS`] does not allow it.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        TRANSITIONS
            .iter()
            .find(|row| row.from == self && row.event == event)
            .map(|row| row.to)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, StreamState, TRANSITIONS};

    #[test]
    fn no_row_contradicts_another() {
        for (index, row) in TRANSITIONS.iter().enumerate() {
            let same =
                |other: &&super::Transition| other.from == row.from && other.event == row.event;
            assert_eq!(
                TRANSITIONS.iter().position(|other| same(&other)),
                Some(index)
            );
        }
    }

    #[test]
    fn only_the_table_moves_a_stream() {
        let legal = StreamState::ALL
            .iter()
            .flat_map(|from| Event::ALL.iter().map(move |event| from.after(*event)))
            .flatten()
            .count();
        assert_eq!(legal, TRANSITIONS.len());
        assert_eq!(StreamState::Disconnected.after(Event::Refresh), None);
        assert_eq!(StreamState::Connected.after(Event::Connect), None);
    }

    #[test]
    fn every_state_can_end_without_keys() {
        for start in StreamState::ALL {
            let mut reached = vec![start];
            let mut next = 0;
            while let Some(state) = reached.get(next).copied() {
                next += 1;
                for event in Event::ALL {
                    reached.extend(state.after(event).filter(|to| !reached.contains(to)));
                }
            }
            assert!(reached.contains(&StreamState::Disconnected), "{start:?}");
        }
    }

    #[test]
    fn the_codes_are_those_of_the_abi() {
        for (code, state) in StreamState::ALL.iter().enumerate() {
            assert_eq!(usize::from(state.code()), code);
        }
    }
}
